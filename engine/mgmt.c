/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/mgmt.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/nl.h"
#include "engine/str.h"
#include "engine/units.h"

#define ANCESTORS_MAX	 64
#define NAMESPACES_MAX	 8
#define SOCKETS_MAX	 4096 /* of all ancestors together */
#define ENVIRONMENT_MAX (1u << 20)

const char *mgmt_proc = "/proc";

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

/* ── addresses ─────────────────────────────────────────────────────────────────────────────── */

struct prefix {
	int family; /* AF_UNSPEC: none */
	unsigned char addr[16];
	unsigned int len;
};

static void prefix_from(int family, const void *addr, struct prefix *ret)
{
	static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
	const unsigned char *a = addr;

	/* a server that listens on :: sees its IPv4 clients like this */
	if (family == AF_INET6 && memcmp(a, mapped, sizeof(mapped)) == 0) {
		family = AF_INET;
		a += sizeof(mapped);
	}
	*ret = (struct prefix){.family = family, .len = family == AF_INET ? 32 : 128};
	memcpy(ret->addr, a, ret->len / 8);
}

/* "198.18.0.1", "2001:db8::/32", "fe80::1%eth0" */
static int prefix_parse(const char *s, struct prefix *ret)
{
	char buf[INET6_ADDRSTRLEN + 32];
	unsigned char addr[16];
	struct prefix p;
	char *slash, *zone;
	int64_t len;

	if (!s || strlen(s) >= sizeof(buf))
		return -EINVAL;
	strcpy(buf, s);
	slash = strchr(buf, '/');
	if (slash)
		*slash++ = '\0';
	zone = strchr(buf, '%');
	if (zone)
		*zone = '\0';
	if (inet_pton(AF_INET, buf, addr) == 1)
		prefix_from(AF_INET, addr, &p);
	else if (inet_pton(AF_INET6, buf, addr) == 1)
		prefix_from(AF_INET6, addr, &p);
	else
		return -EINVAL;
	if (slash) {
		if (units_int(slash, 0, p.len, &len) < 0)
			return -EINVAL;
		p.len = (unsigned int)len;
	}
	*ret = p;
	return 0;
}

static bool prefix_overlap(const struct prefix *a, const struct prefix *b)
{
	unsigned int len = MIN(a->len, b->len), whole = len / 8, rest = len % 8;

	if (a->family != b->family || memcmp(a->addr, b->addr, whole) != 0)
		return false;
	return rest == 0 || (a->addr[whole] ^ b->addr[whole]) >> (8 - rest) == 0;
}

static bool is_loopback(const struct prefix *p)
{
	static const unsigned char one[16] = {[15] = 1};

	return p->family == AF_INET ? p->addr[0] == 127 : memcmp(p->addr, one, sizeof(one)) == 0;
}

static const char *prefix_text(const struct prefix *p, char buf[INET6_ADDRSTRLEN])
{
	return inet_ntop(p->family, p->addr, buf, INET6_ADDRSTRLEN);
}

/* ── processes ─────────────────────────────────────────────────────────────────────────────── */

struct process {
	pid_t pid, parent;
	uint64_t start, netns; /* netns 0: it may not be known to us */
	char comm[32];
};

static int proc_path(char buf[256], pid_t pid, const char *what)
{
	return snprintf(buf, 256, "%s/%d/%s", mgmt_proc, (int)pid, what) < 256 ? 0 : -ENAMETOOLONG;
}

static uint64_t inode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static int process_read(pid_t pid, struct process *ret)
{
	struct process p = {.pid = pid};
	_cleanup_free_ char *s = NULL;
	char path[256], *open, *close;
	unsigned long long start;
	int parent, r = proc_path(path, pid, "stat");

	if (r == 0)
		r = file_read(path, 4096, &s, NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	/* the name may hold anything, brackets and blanks too */
	open = strchr(s, '(');
	close = strrchr(s, ')');
	if (!open || !close || close < open ||
		sscanf(close + 1,
			" %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &parent,
			&start) != 2)
		return -EPROTO;
	p.parent = parent;
	p.start = start;
	*close = '\0';
	snprintf(p.comm, sizeof(p.comm), "%s", open + 1);
	(void)proc_path(path, pid, "ns/net");
	p.netns = inode_of(path);
	*ret = p;
	return 0;
}

/* @pid and its ancestors, the nearest first, and init. Returns how many. */
static size_t ancestors(pid_t pid, struct process list[ANCESTORS_MAX])
{
	size_t n = 0;
	bool init = false;

	while (pid > 0 && n < ANCESTORS_MAX - 1 && process_read(pid, &list[n]) == 0) {
		init = init || pid == 1;
		pid = list[n++].parent;
	}
	if (!init && process_read(1, &list[n]) == 0)
		n++;
	return n;
}

static bool is_ssh_server(const char *comm)
{
	/* OpenSSH 9.8 split the daemon: sshd, sshd-session, sshd-auth */
	return strncmp(comm, "sshd", 4) == 0 || strncmp(comm, "dropbear", 8) == 0;
}

static char *process_text(const struct process *p)
{
	return p->pid == 1 ? strf("init (process 1, %s)", p->comm) : strf("%s (process %d)", p->comm, (int)p->pid);
}

static bool same_program(pid_t a, pid_t b)
{
	char path[256];
	struct stat sa, sb;

	(void)proc_path(path, a, "exe");
	if (stat(path, &sa) < 0)
		return false;
	(void)proc_path(path, b, "exe");
	return stat(path, &sb) == 0 && sa.st_ino == sb.st_ino && sa.st_dev == sb.st_dev;
}

bool mgmt_protected(pid_t pid, char **ret_why)
{
	struct process mine[ANCESTORS_MAX], p;
	size_t n = ancestors(getpid(), mine);
	bool found = false;

	if (process_read(pid, &p) < 0)
		return false;
	found = pid == 1 || is_ssh_server(p.comm);
	for (size_t i = 0; i < n && !found; i++) {
		found = mine[i].pid == pid;
		/* guard, engine and script: each is an ancestor's child and runs what we run; our own children are not meant */
		if (i > 0 && mine[i].pid == p.parent && p.pid != 1 && same_program(pid, getpid()))
			found = true;
	}
	if (found && ret_why)
		*ret_why = process_text(&p);
	return found;
}

/* ── one namespace: its devices, its default routes, the way to a peer ─────────────────────── */

struct link {
	int ifindex, master, lower;
	char dev[16];
};

struct space {
	uint64_t ino;
	char path[256]; /* of the namespace, for nl.h; empty: our own */
	struct nlc *nl;
	struct link *links;
	size_t n_links;
	json_t *paths, *gaps; /* borrowed */
	bool oom;
};

static void space_close(struct space *s)
{
	nlc_close(s->nl);
	free(s->links);
	s->nl = NULL;
	s->links = NULL;
	s->n_links = 0;
}

static void gap(json_t *gaps, const char *fmt, ...) _printf_(2, 3);
static void gap(json_t *gaps, const char *fmt, ...)
{
	char buf[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	json_array_append_new(gaps, json_string(buf));
}

static int link_cb(struct nlmsghdr *hdr, void *arg)
{
	struct space *s = arg;
	struct nlattr *tb[IFLA_MAX + 1];
	struct link l = {0}, *more;

	if (!hdr) {
		s->n_links = 0;
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWLINK)
		return 0;
	if (nlmsg_parse(hdr, sizeof(struct ifinfomsg), tb, IFLA_MAX, NULL) < 0)
		return -EPROTO;
	l.ifindex = ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_index;
	if (tb[IFLA_IFNAME])
		nla_strlcpy(l.dev, tb[IFLA_IFNAME], sizeof(l.dev));
	if (tb[IFLA_MASTER] && nla_len(tb[IFLA_MASTER]) >= 4)
		l.master = (int)nla_get_u32(tb[IFLA_MASTER]);
	/* of a VLAN its lower device, of a veth its other end; both may be in another namespace, with an index of that one */
	if (tb[IFLA_LINK] && !tb[IFLA_LINK_NETNSID] && nla_len(tb[IFLA_LINK]) >= 4)
		l.lower = (int)nla_get_u32(tb[IFLA_LINK]);
	more = reallocarray(s->links, s->n_links + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->links = more;
	more[s->n_links++] = l;
	return 0;
}

static const struct link *link_of(const struct space *s, int ifindex)
{
	for (size_t i = 0; i < s->n_links; i++)
		if (s->links[i].ifindex == ifindex)
			return &s->links[i];
	return NULL;
}

static bool has_device(const json_t *devices, int ifindex)
{
	const json_t *d;
	size_t i;

	json_array_foreach(devices, i, d) {
		if (json_integer_value(json_object_get(d, "ifindex")) == ifindex)
			return true;
	}
	return false;
}

/* The device, and all that its packets pass on their way out of the machine */
static void add_devices(const struct space *s, int ifindex, json_t *devices)
{
	const struct link *l = link_of(s, ifindex);

	if (!l || has_device(devices, ifindex))
		return;
	json_array_append_new(devices, json_pack("{s:s, s:i}", "dev", l->dev, "ifindex", ifindex));
	if (l->lower && l->lower != ifindex)
		add_devices(s, l->lower, devices);
	for (size_t i = 0; i < s->n_links; i++)
		if (s->links[i].master == ifindex)
			add_devices(s, s->links[i].ifindex, devices);
}

static json_t *peers_json(const struct prefix *a, const struct prefix *b)
{
	json_t *peers = json_array();
	char buf[INET6_ADDRSTRLEN];

	if (a && a->family)
		json_array_append_new(peers, json_string(prefix_text(a, buf)));
	if (b && b->family)
		json_array_append_new(peers, json_string(prefix_text(b, buf)));
	return peers;
}

/* @family 4, 6 or 0: both; @peers is taken */
static void add_path(struct space *s, const char *kind, int family, int ifindex, json_t *peers, const char *what)
{
	json_t *devices = json_array(), *p, *known;
	size_t i;

	add_devices(s, ifindex, devices);
	p = json_pack("{s:s, s:I, s:i, s:o, s:o, s:s}", "kind", kind, "netns", (json_int_t)s->ino, "family", family, "devices",
		devices, "peers", peers, "text", what);
	json_array_foreach(s->paths, i, known) {
		if (p && json_equal(known, p)) {
			json_decref(p);
			return;
		}
	}
	if (!p || json_array_append_new(s->paths, p) < 0)
		s->oom = true;
}

static int number_of(int family)
{
	return family == AF_INET ? 4 : 6;
}

struct route {
	int oif;
	struct prefix via;
};

static void route_via(struct nlattr *gateway, struct nlattr *via, int family, struct prefix *ret)
{
	size_t want = family == AF_INET ? 4 : 16;

	if (gateway && (size_t)nla_len(gateway) == want)
		prefix_from(family, nla_data(gateway), ret);
	else if (via && nla_len(via) >= (int)sizeof(struct rtvia)) { /* an IPv4 route by an IPv6 neighbour */
		const struct rtvia *v = nla_data(via);

		want = (size_t)nla_len(via) - sizeof(*v);
		if ((v->rtvia_family == AF_INET && want == 4) || (v->rtvia_family == AF_INET6 && want == 16))
			prefix_from(v->rtvia_family, v->rtvia_addr, ret);
	}
}

/* Calls @fn for each next hop of a unicast route. */
static int route_hops(struct nlmsghdr *hdr, int (*fn)(const struct route *r, int family, void *arg), void *arg)
{
	struct nlattr *tb[RTA_MAX + 1];
	const struct rtmsg *rt;
	struct route r = {0};

	if (nlmsg_parse(hdr, sizeof(*rt), tb, RTA_MAX, NULL) < 0)
		return -EPROTO;
	rt = NLMSG_DATA(hdr);
	if (tb[RTA_MULTIPATH]) {
		const struct rtnexthop *nh = nla_data(tb[RTA_MULTIPATH]);
		int left = nla_len(tb[RTA_MULTIPATH]);

		while (left >= (int)sizeof(*nh) && nh->rtnh_len >= sizeof(*nh) && nh->rtnh_len <= left) {
			struct nlattr *head = (struct nlattr *)RTNH_DATA(nh);
			int len = nh->rtnh_len - (int)sizeof(*nh), e;

			r = (struct route){.oif = nh->rtnh_ifindex};
			route_via(nla_find(head, len, RTA_GATEWAY), nla_find(head, len, RTA_VIA), rt->rtm_family, &r.via);
			e = fn(&r, rt->rtm_family, arg);
			if (e < 0)
				return e;
			left -= (int)NLMSG_ALIGN(nh->rtnh_len);
			nh = RTNH_NEXT(nh);
		}
		return 0;
	}
	if (!tb[RTA_OIF] || nla_len(tb[RTA_OIF]) < 4)
		return 0;
	r.oif = (int)nla_get_u32(tb[RTA_OIF]);
	route_via(tb[RTA_GATEWAY], tb[RTA_VIA], rt->rtm_family, &r.via);
	return fn(&r, rt->rtm_family, arg);
}

struct hop {
	struct route r;
	int family;
};

struct hops {
	size_t n;
	struct hop *list;
};

static int hop_add(const struct route *r, int family, void *arg)
{
	struct hops *h = arg;
	struct hop *more = reallocarray(h->list, h->n + 1, sizeof(*more));

	if (!more)
		return -ENOMEM;
	h->list = more;
	more[h->n++] = (struct hop){.r = *r, .family = family};
	return 0;
}

static int default_cb(struct nlmsghdr *hdr, void *arg)
{
	struct hops *h = arg;
	const struct rtmsg *rt;

	if (!hdr) {
		h->n = 0;
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWROUTE || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(*rt)))
		return 0;
	rt = NLMSG_DATA(hdr);
	if (rt->rtm_dst_len != 0 || rt->rtm_type != RTN_UNICAST || (rt->rtm_flags & RTM_F_CLONED))
		return 0;
	return route_hops(hdr, hop_add, h);
}

static int lookup_cb(struct nlmsghdr *hdr, void *arg)
{
	struct hops *h = arg;

	if (!hdr) {
		h->n = 0;
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWROUTE || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(struct rtmsg)))
		return 0;
	return route_hops(hdr, hop_add, h);
}

static int find_default_routes(struct space *s, int family, struct err *err)
{
	struct nl_msg *m = nlmsg_alloc_simple(RTM_GETROUTE, 0);
	struct rtmsg rt = {.rtm_family = (unsigned char)family};
	struct hops h = {0};
	int r;

	if (!m || nlmsg_append(m, &rt, sizeof(rt), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_dump(s->nl, m, default_cb, &h, err);
	for (size_t i = 0; r == 0 && i < h.n; i++) {
		const struct route *hop = &h.list[i].r;
		const struct link *l = link_of(s, hop->oif);
		char via[INET6_ADDRSTRLEN], what[128];

		snprintf(what, sizeof(what), "the default route%s%s (%s)", hop->via.family ? " by " : "",
			hop->via.family ? prefix_text(&hop->via, via) : "", family == AF_INET ? "IPv4" : "IPv6");
		if (l)
			add_path(s, "default-route", number_of(family), hop->oif, peers_json(&hop->via, NULL), what);
	}
	free(h.list);
	return r;
}

/*
 * By which device, and by which neighbour, the kernel would send to @peer now. @oif: by this device, which a link-local address needs
 * and a socket may be bound to; 0: by any
 */
static void find_way(struct space *s, const struct prefix *peer, int oif, const char *what)
{
	struct nl_msg *m = nlmsg_alloc_simple(RTM_GETROUTE, 0);
	struct rtmsg rt = {.rtm_family = (unsigned char)peer->family, .rtm_dst_len = (unsigned char)peer->len};
	char buf[INET6_ADDRSTRLEN];
	struct hops h = {0};
	struct err why = {0};
	int r;

	if (!m || nlmsg_append(m, &rt, sizeof(rt), NLMSG_ALIGNTO) < 0 ||
		nla_put(m, RTA_DST, (int)peer->len / 8, peer->addr) < 0 || (oif && nla_put_u32(m, RTA_OIF, (uint32_t)oif) < 0)) {
		nlmsg_free(m);
		s->oom = true;
		return;
	}
	r = nlc_get(s->nl, m, lookup_cb, &h, &why);
	if (r < 0)
		gap(s->gaps, "%s: the kernel knows no way to %s now: %s", what, prefix_text(peer, buf), why.text);
	for (size_t i = 0; r == 0 && i < h.n; i++)
		add_path(s, "session", number_of(peer->family), h.list[i].r.oif, peers_json(peer, &h.list[i].r.via), what);
	free(h.list);
}

/* ── connections of the ancestors ──────────────────────────────────────────────────────────── */

struct held {
	uint64_t inode;
	const struct process *by;
};

struct connections {
	const struct held *held;
	size_t n_held;
	struct found_peer {
		struct prefix addr;
		int oif;
		const struct process *by;
	} *peers;
	size_t n;
};

static int connection_cb(struct nlmsghdr *hdr, void *arg)
{
	const struct inet_diag_msg *d;
	struct connections *c = arg;

	if (!hdr || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(*d)))
		return 0; /* started over: what was found is found again, and counts once */
	d = NLMSG_DATA(hdr);
	for (size_t i = 0; i < c->n_held; i++) {
		struct found_peer *more;

		if (c->held[i].inode != d->idiag_inode || (d->idiag_family != AF_INET && d->idiag_family != AF_INET6))
			continue;
		more = reallocarray(c->peers, c->n + 1, sizeof(*more));
		if (!more)
			return -ENOMEM;
		c->peers = more;
		more[c->n] = (struct found_peer){.oif = (int)d->id.idiag_if, .by = c->held[i].by};
		prefix_from(d->idiag_family, d->id.idiag_dst, &more[c->n++].addr);
		return 0; /* the nearest ancestor of those who hold it */
	}
	return 0;
}

static int find_connections(struct space *s, const struct held *held, size_t n_held, struct err *err)
{
	struct connections c = {.held = held, .n_held = n_held};
	_cleanup_nlc_ struct nlc *nl = NULL;
	int r = nlc_open_netns(s->path[0] ? s->path : NULL, NETLINK_SOCK_DIAG, &nl, err);

	for (int i = 0; r == 0 && i < 2; i++) {
		struct inet_diag_req_v2 q = {.sdiag_family = i ? AF_INET6 : AF_INET,
			.sdiag_protocol = IPPROTO_TCP,
			.idiag_states = 1u << TCP_ESTABLISHED};
		struct nl_msg *m = nlmsg_alloc_simple(SOCK_DIAG_BY_FAMILY, 0);

		if (!m || nlmsg_append(m, &q, sizeof(q), NLMSG_ALIGNTO) < 0) {
			nlmsg_free(m);
			r = -ENOMEM;
			break;
		}
		r = nlc_dump(nl, m, connection_cb, &c, err);
	}
	for (size_t i = 0; r == 0 && i < c.n; i++) {
		const struct found_peer *p = &c.peers[i];
		char buf[INET6_ADDRSTRLEN], what[160];

		if (is_loopback(&p->addr))
			continue; /* lo is protected anyhow */
		if (is_ssh_server(p->by->comm))
			snprintf(what, sizeof(what), "the SSH session from %s", prefix_text(&p->addr, buf));
		else
			snprintf(what, sizeof(what), "the connection with %s by which %s (process %d) started this drill",
				prefix_text(&p->addr, buf), p->by->comm, (int)p->by->pid);
		find_way(s, &p->addr, p->oif, what);
	}
	free(c.peers);
	return r;
}

static size_t sockets_of(const struct process *p, struct held *held, size_t n, json_t *gaps)
{
	char path[256], link[64];
	struct dirent *e;
	DIR *d;

	(void)proc_path(path, p->pid, "fd");
	d = opendir(path);
	if (!d) {
		if (errno != ENOENT)
			gap(gaps, "the connections of %s (process %d): %s", p->comm, (int)p->pid, strerror(errno));
		return n;
	}
	while ((e = readdir(d))) {
		unsigned long long inode;
		ssize_t len = readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);

		if (len <= 0)
			continue;
		link[len] = '\0';
		if (sscanf(link, "socket:[%llu]", &inode) != 1)
			continue;
		if (n == SOCKETS_MAX) {
			gap(gaps, "the ancestors hold more than %d sockets: the rest was not looked at", SOCKETS_MAX);
			break;
		}
		held[n++] = (struct held){.inode = inode, .by = p};
	}
	closedir(d);
	return n;
}

/* The client's address in SSH_CONNECTION ("ADDR PORT ADDR PORT") or SSH_CLIENT ("ADDR PORT PORT") of a process's environment */
static int ssh_peer(const struct process *p, struct prefix *ret, char ret_zone[16], json_t *gaps)
{
	static const char *const names[] = {"SSH_CONNECTION=", "SSH_CLIENT="};
	_cleanup_free_ char *env = NULL;
	char path[256];
	size_t len;
	int r;

	(void)proc_path(path, p->pid, "environ");
	r = file_read(path, ENVIRONMENT_MAX, &env, &len);
	if (r < 0) {
		if (r != -ENOENT && r != -ESRCH)
			gap(gaps, "the environment of %s (process %d): %s", p->comm, (int)p->pid, strerror(-r));
		return 0;
	}
	for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
		for (size_t i = 0; i < len; i += strlen(env + i) + 1) {
			char addr[INET6_ADDRSTRLEN + 32];
			const char *v = env + i + strlen(names[k]);
			size_t n;

			if (strncmp(env + i, names[k], strlen(names[k])) != 0)
				continue;
			n = strcspn(v, " ");
			snprintf(addr, sizeof(addr), "%.*s", (int)MIN(n, sizeof(addr) - 1), v);
			if (prefix_parse(addr, ret) == 0) {
				const char *zone = strchr(addr, '%');

				snprintf(ret_zone, 16, "%.15s", zone ? zone + 1 : "");
				return 1;
			}
			gap(gaps, "%s%.40s in the environment of process %d is no address", names[k], addr, (int)p->pid);
		}
	}
	return 0;
}

/* ── all of it ─────────────────────────────────────────────────────────────────────────────── */

/* How the operator came in, by the environment that his sshd made; the namespace is that of the process next to the sshd. */
struct login {
	struct prefix peer;
	char zone[16]; /* the device of a link-local address */
	uint64_t netns;
};

/* The variables are inherited: the outermost process that has them is the one that sshd started. */
static size_t find_logins(const struct process *list, size_t n, struct login logins[ANCESTORS_MAX], json_t *gaps)
{
	size_t found = 0;

	for (size_t i = n; i-- > 0;) {
		struct login l = {.netns = list[i].netns};
		bool known = false;

		if (ssh_peer(&list[i], &l.peer, l.zone, gaps) == 0 || is_loopback(&l.peer))
			continue;
		for (size_t k = 0; k < found; k++)
			known = known || prefix_overlap(&logins[k].peer, &l.peer);
		if (!known)
			logins[found++] = l;
	}
	return found;
}

static int find_in_space(struct space *s, const struct login *logins, size_t n, const struct held *held, size_t n_held,
	struct err *err)
{
	struct nl_msg *m = nlmsg_alloc_simple(RTM_GETLINK, 0);
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC};
	int r;

	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_open_netns(s->path[0] ? s->path : NULL, NETLINK_ROUTE, &s->nl, err);
	if (r < 0) {
		nlmsg_free(m);
		return r;
	}
	r = nlc_dump(s->nl, m, link_cb, s, err);
	/* how the operator came in is named before what happens to share a device with it */
	for (size_t i = 0; r == 0 && i < n; i++) {
		char buf[INET6_ADDRSTRLEN], what[96];
		int oif = 0;

		if (logins[i].netns != s->ino)
			continue;
		for (size_t k = 0; k < s->n_links; k++)
			if (streq(s->links[k].dev, logins[i].zone))
				oif = s->links[k].ifindex;
		snprintf(what, sizeof(what), "the SSH session from %s", prefix_text(&logins[i].peer, buf));
		find_way(s, &logins[i].peer, oif, what);
	}
	if (r == 0 && n_held)
		r = find_connections(s, held, n_held, err);
	for (int i = 0; r == 0 && i < 2; i++)
		r = find_default_routes(s, i ? AF_INET6 : AF_INET, err);
	for (size_t i = 0; r == 0 && i < s->n_links; i++)
		if (streq(s->links[i].dev, "lo"))
			add_path(s, "loopback", 0, s->links[i].ifindex, json_pack("[s, s]", "127.0.0.0/8", "::1"), "loopback");
	return r < 0 ? r : s->oom ? -ENOMEM : 0;
}

int mgmt_find(json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *paths = json_array(), *processes = json_array(), *gaps = json_array(), *failed = json_array();
	_cleanup_free_ struct held *held = calloc(SOCKETS_MAX, sizeof(*held));
	struct process list[ANCESTORS_MAX];
	struct login logins[ANCESTORS_MAX];
	uint64_t seen[NAMESPACES_MAX];
	size_t n = ancestors(getpid(), list), n_held = 0, n_seen = 0, n_logins;
	int r;

	if (!held || !paths || !processes || !gaps || !failed)
		return -ENOMEM;
	if (n == 0)
		return err_set(err, -EIO, "the management path: %s cannot be read", mgmt_proc);
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *what = process_text(&list[i]);

		json_array_append_new(processes, json_pack("{s:i, s:I, s:I, s:s}", "pid", (int)list[i].pid, "start",
							 (json_int_t)list[i].start, "netns", (json_int_t)list[i].netns, "text",
							 what ? what : "?"));
		n_held = sockets_of(&list[i], held, n_held, gaps);
	}
	n_logins = find_logins(list, n, logins, gaps);
	/* our own first: it is the nearest ancestor's */
	for (size_t i = 0; i < n; i++) {
		_cleanup_(space_close) struct space s = {.ino = list[i].netns, .paths = paths, .gaps = gaps};
		struct err why = {0};
		bool known = false;

		for (size_t k = 0; k < n_seen; k++)
			known = known || seen[k] == list[i].netns;
		if (known)
			continue;
		if (!list[i].netns || n_seen == NAMESPACES_MAX) {
			gap(gaps, "the network namespace of %s (process %d) was not looked at", list[i].comm, (int)list[i].pid);
			continue;
		}
		seen[n_seen++] = list[i].netns;
		if (i > 0)
			(void)proc_path(s.path, list[i].pid, "ns/net");
		r = find_in_space(&s, logins, n_logins, held, n_held, &why);
		if (r == -ENOMEM)
			return r;
		if (r < 0) {
			gap(gaps, "the network namespace of %s (process %d): %s", list[i].comm, (int)list[i].pid, why.text);
			json_array_append_new(failed, json_integer((json_int_t)list[i].netns));
		}
	}
	*ret = json_pack("{s:O, s:O, s:O, s:O}", "paths", paths, "processes", processes, "gaps", gaps, "failed", failed);
	return *ret ? 0 : -ENOMEM;
}

/* ── may this change be made? ──────────────────────────────────────────────────────────────── */

/* Does what the change is confined to include the far end of @path? */
static bool confined_hits(const json_t *path, const json_t *to)
{
	json_int_t family = json_integer_value(json_object_get(path, "family"));
	const json_t *t, *peer;
	size_t i, k;

	json_array_foreach(to, i, t) {
		struct prefix a, b;

		if (prefix_parse(json_string_value(t), &a) < 0)
			return true; /* who knows what that is */
		/* the whole of a family is all that a default route is there for */
		if (a.len == 0 && (!family || family == (a.family == AF_INET ? 4 : 6)))
			return true;
		json_array_foreach(json_object_get(path, "peers"), k, peer) {
			if (prefix_parse(json_string_value(peer), &b) == 0 && prefix_overlap(&a, &b))
				return true;
		}
	}
	return false;
}

/* A device goes by more than one name (altname), and the record by its index */
static int reach_index(const char *netns, const char *dev)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	int r = nlc_open_netns(netns, NETLINK_ROUTE, &nl, NULL);

	return r < 0 ? r : nlc_ifindex(nl, dev, NULL);
}

static bool device_hits(const json_t *path, const char *dev, int ifindex, const char **ret_dev)
{
	const json_t *d;
	size_t i;

	json_array_foreach(json_object_get(path, "devices"), i, d) {
		if (streq(dev, "*") || streq(text(d, "dev"), dev) ||
			(ifindex > 0 && json_integer_value(json_object_get(d, "ifindex")) == ifindex)) {
			*ret_dev = text(d, "dev");
			return true;
		}
	}
	return false;
}

/* @ino is the path's namespace, and it could not be looked at */
static bool is_blind(const json_t *found, uint64_t ino)
{
	const json_t *j;
	size_t i;

	json_array_foreach(json_object_get(found, "failed"), i, j) {
		if ((uint64_t)json_integer_value(j) == ino)
			return true;
	}
	return false;
}

/* By its path, NULL: our own; 0: it is not there */
static uint64_t namespace_of(const char *netns)
{
	char self[256];

	snprintf(self, sizeof(self), "%s/self/ns/net", mgmt_proc);
	return inode_of(netns ? netns : self);
}

static int check_device(const json_t *found, const json_t *reach, const char *netns, const char *dev, struct strbuf *hits,
	unsigned int *n_hits, struct err *err)
{
	uint64_t ino = namespace_of(netns);
	json_int_t family = json_integer_value(json_object_get(reach, "family"));
	const json_t *to = json_object_get(reach, "to"), *path;
	int ifindex = -1;
	size_t i;

	if (!ino)
		return 0; /* not there yet, so not ours */
	if (is_blind(found, ino))
		return err_set(err, -EIO, "what has to survive in the network namespace of %s could not be looked at", dev);
	json_array_foreach(json_object_get(found, "paths"), i, path) {
		json_int_t of = json_integer_value(json_object_get(path, "family"));
		const char *hit;

		if ((uint64_t)json_integer_value(json_object_get(path, "netns")) != ino || (family && of && family != of))
			continue;
		if (ifindex == -1 && !streq(dev, "*"))
			ifindex = reach_index(netns, dev);
		if (!device_hits(path, dev, ifindex, &hit) || (to && !confined_hits(path, to)))
			continue;
		if ((*n_hits)++ == 0)
			strbuf_addf(hits, "%s carries %s", hit, text(path, "text"));
	}
	return 0;
}

static bool alive(const json_t *p)
{
	struct process now;

	return process_read((pid_t)json_integer_value(json_object_get(p, "pid")), &now) == 0 &&
	       now.start == (uint64_t)json_integer_value(json_object_get(p, "start"));
}

static void check_processes(const json_t *found, const json_t *reach, const struct node *n, struct strbuf *hits,
	unsigned int *n_hits)
{
	const json_t *wanted = json_object_get(reach, "processes"), *p, *pid;
	bool all = streq(json_string_value(wanted), "node");
	uint64_t ino = namespace_of(n->netns);
	size_t i, k;

	json_array_foreach(json_object_get(found, "processes"), i, p) {
		bool hit = all && ino && (uint64_t)json_integer_value(json_object_get(p, "netns")) == ino;

		if (!all)
			json_array_foreach(wanted, k, pid) {
				hit = hit || json_integer_value(pid) == json_integer_value(json_object_get(p, "pid"));
			}
		if (!hit || !alive(p))
			continue;
		if ((*n_hits)++ == 0)
			strbuf_addf(hits, "%s is on the management path and would be killed", text(p, "text"));
	}
	if (!all)
		json_array_foreach(wanted, k, pid) {
			_cleanup_free_ char *why = NULL;

			if (mgmt_protected((pid_t)json_integer_value(pid), &why) && (*n_hits)++ == 0)
				strbuf_addf(hits, "%s is on the management path and would be killed", why ? why : "it");
		}
}

static bool is_known_namespace(const json_t *found, uint64_t ino)
{
	const json_t *p;
	size_t i;

	json_array_foreach(json_object_get(found, "processes"), i, p) {
		json_int_t of = json_integer_value(json_object_get(p, "netns"));

		/* one that we may not know counts as any */
		if (ino && (of == 0 || (uint64_t)of == ino))
			return true;
	}
	return false;
}

int mgmt_near(const json_t *found, const struct change_ops *ops, const struct node *n, const json_t *args, struct err *err)
{
	_cleanup_json_ json_t *reach = NULL;
	const json_t *d;
	size_t i;
	int r = ops->reach ? ops->reach(n, args, &reach, err) : 0;

	if (r < 0 || !reach)
		return r;
	if (json_is_array(json_object_get(reach, "processes")))
		return 1;
	if (json_object_get(reach, "processes") && is_known_namespace(found, namespace_of(n->netns)))
		return 1;
	json_array_foreach(json_object_get(reach, "devices"), i, d) {
		const char *netns = json_string_value(json_object_get(d, "netns"));

		if (is_known_namespace(found, namespace_of(netns ? netns : n->netns)))
			return 1;
	}
	return 0;
}

int mgmt_check(const json_t *found, const struct change_ops *ops, const struct node *n, const json_t *args, char **ret_hit,
	struct err *err)
{
	_cleanup_json_ json_t *reach = NULL;
	_cleanup_strbuf_ struct strbuf hits = {0};
	unsigned int n_hits = 0;
	const json_t *d;
	size_t i;
	int r;

	if (!ops->reach)
		return 0;
	r = ops->reach(n, args, &reach, err);
	if (r < 0)
		return r;
	if (json_object_get(reach, "processes"))
		check_processes(found, reach, n, &hits, &n_hits);
	json_array_foreach(json_object_get(reach, "devices"), i, d) {
		const char *netns = json_string_value(json_object_get(d, "netns"));

		r = check_device(found, reach, netns ? netns : n->netns, text(d, "dev"), &hits, &n_hits, err);
		if (r < 0)
			return r;
	}
	if (n_hits == 0)
		return 0;
	if (n_hits > 1)
		strbuf_addf(&hits, " (and %u more)", n_hits - 1);
	if (hits.oom || !(*ret_hit = strdup(strbuf_cstr(&hits))))
		return -ENOMEM;
	return 1;
}

static bool has_param(const struct change_ops *ops, const char *name)
{
	for (const struct param *p = ops->params; p && p->name; p++)
		if (streq(p->name, name))
			return true;
	return false;
}

int mgmt_refuse(const struct change_ops *ops, const struct node *n, const char *hit, struct err *err)
{
	return err_set(err, -EPERM,
		"%s on %s is refused: %s; %s, or waive it in the scenario: unsafe = { \"" MGMT_WAIVER "\" }", ops->name, n->name,
		hit, has_param(ops, "to") ? "confine it with `to`" : "name another node");
}

bool mgmt_waived(const json_t *scenario)
{
	const json_t *j;
	size_t i;

	json_array_foreach(json_object_get(scenario, "unsafe"), i, j) {
		if (streq(json_string_value(j), MGMT_WAIVER))
			return true;
	}
	return false;
}
