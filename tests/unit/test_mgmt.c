/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * mgmt.c against a /proc of the test's own and netlink answers of its own.
 *
 * wrap: nlc_open_netns nlc_close nlc_dump nlc_get nlc_ifindex
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <netlink/attr.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "engine/mgmt.h"
#include "engine/nl.h"
#include "engine/str.h"

/* ── the kernel's side ─────────────────────────────────────────────────────────────────────── */

#define ANSWERS_MAX 32

struct answer {
	int type, family;
	const char *netns; /* NULL: our own; else the path must hold it */
	struct nl_msg *msg;
};

struct nlc {
	char netns[256];
	int protocol;
};

static struct answer dumps[ANSWERS_MAX], ways[ANSWERS_MAX];
static size_t n_dumps, n_ways;
static int dump_error; /* of RTM_GETLINK outside of our own namespace */
static unsigned int open_sockets;

int __wrap_nlc_open_netns(const char *path, int protocol, struct nlc **ret, struct err *err);
int __wrap_nlc_open_netns(const char *path, int protocol, struct nlc **ret, struct err *err)
{
	struct nlc *nl = calloc(1, sizeof(*nl));

	(void)err;
	assert_non_null(nl);
	snprintf(nl->netns, sizeof(nl->netns), "%s", path ? path : "");
	nl->protocol = protocol;
	open_sockets++;
	*ret = nl;
	return 0;
}

void __wrap_nlc_close(struct nlc *nl);
void __wrap_nlc_close(struct nlc *nl)
{
	if (nl)
		open_sockets--;
	free(nl);
}

static bool answers(const struct answer *a, const struct nlc *nl, int type, int family)
{
	return a->type == type && (a->family == AF_UNSPEC || a->family == family) &&
	       (a->netns ? strstr(nl->netns, a->netns) != NULL : nl->netns[0] == '\0');
}

int __wrap_nlc_dump(struct nlc *nl, struct nl_msg *msg, nlc_cb cb, void *arg, struct err *err);
int __wrap_nlc_dump(struct nlc *nl, struct nl_msg *msg, nlc_cb cb, void *arg, struct err *err)
{
	const struct nlmsghdr *q = nlmsg_hdr(msg);
	int type = q->nlmsg_type, family = *(unsigned char *)NLMSG_DATA(q), reply = type, r = 0;

	if (type == RTM_GETLINK)
		reply = RTM_NEWLINK;
	else if (type == RTM_GETROUTE)
		reply = RTM_NEWROUTE;
	nlmsg_free(msg);
	if (type == RTM_GETLINK && nl->netns[0] && dump_error)
		return err_set(err, dump_error, "no leave");
	/* interrupted once: everything comes twice, after a NULL */
	for (int round = 0; round < 2 && r == 0; round++) {
		r = cb(NULL, arg);
		for (size_t i = 0; i < n_dumps && r == 0; i++)
			if (answers(&dumps[i], nl, reply, family))
				r = cb(nlmsg_hdr(dumps[i].msg), arg);
	}
	return r;
}

static int asked_oif; /* the last question's */

/* A way is an answer to any question of its family. */
int __wrap_nlc_get(struct nlc *nl, struct nl_msg *msg, nlc_cb cb, void *arg, struct err *err);
int __wrap_nlc_get(struct nlc *nl, struct nl_msg *msg, nlc_cb cb, void *arg, struct err *err)
{
	int family = *(unsigned char *)NLMSG_DATA(nlmsg_hdr(msg));
	const struct nlattr *oif = nlmsg_find_attr(nlmsg_hdr(msg), sizeof(struct rtmsg), RTA_OIF);

	asked_oif = oif ? (int)nla_get_u32(oif) : 0;
	nlmsg_free(msg);
	for (size_t i = 0; i < n_ways; i++)
		if (answers(&ways[i], nl, RTM_NEWROUTE, family))
			return cb(nlmsg_hdr(ways[i].msg), arg);
	return err_set(err, -ENETUNREACH, "Network is unreachable");
}

int __wrap_nlc_ifindex(struct nlc *nl, const char *dev, struct err *err);
int __wrap_nlc_ifindex(struct nlc *nl, const char *dev, struct err *err)
{
	(void)nl;
	(void)err;
	return streq(dev, "altname-of-2") ? 2 : -ENODEV;
}

static struct nl_msg *add(struct answer *list, size_t *n, int type, int family, const char *netns, const void *head, size_t len)
{
	struct nl_msg *m = nlmsg_alloc_simple(type, 0);

	assert_non_null(m);
	assert_true(*n < ANSWERS_MAX);
	assert_int_equal(nlmsg_append(m, (void *)head, len, NLMSG_ALIGNTO), 0);
	list[(*n)++] = (struct answer){.type = type, .family = family, .netns = netns, .msg = m};
	return m;
}

static void add_link(const char *netns, int index, const char *name, int master, int lower)
{
	struct ifinfomsg ifi = {.ifi_index = index};
	struct nl_msg *m = add(dumps, &n_dumps, RTM_NEWLINK, AF_UNSPEC, netns, &ifi, sizeof(ifi));

	nla_put_string(m, IFLA_IFNAME, name);
	if (master)
		nla_put_u32(m, IFLA_MASTER, (uint32_t)master);
	if (lower)
		nla_put_u32(m, IFLA_LINK, (uint32_t)lower);
}

static void put_addr(struct nl_msg *m, int attr, int family, const char *s)
{
	unsigned char a[16];

	assert_int_equal(inet_pton(family, s, a), 1);
	nla_put(m, attr, family == AF_INET ? 4 : 16, a);
}

static struct nl_msg *add_route(bool way, const char *netns, int family, unsigned int dst_len, int oif, const char *via)
{
	struct rtmsg rt = {.rtm_family = (unsigned char)family, .rtm_dst_len = (unsigned char)dst_len, .rtm_type = RTN_UNICAST};
	struct nl_msg *m = way ? add(ways, &n_ways, RTM_NEWROUTE, family, netns, &rt, sizeof(rt)) :
				 add(dumps, &n_dumps, RTM_NEWROUTE, family, netns, &rt, sizeof(rt));

	if (oif)
		nla_put_u32(m, RTA_OIF, (uint32_t)oif);
	if (via)
		put_addr(m, RTA_GATEWAY, family, via);
	return m;
}

static void add_connection(const char *netns, int family, uint32_t inode, const char *peer)
{
	struct inet_diag_msg d = {.idiag_family = (unsigned char)family, .idiag_inode = inode};

	assert_int_equal(inet_pton(family, peer, d.id.idiag_dst), 1);
	add(dumps, &n_dumps, SOCK_DIAG_BY_FAMILY, family, netns, &d, sizeof(d));
}

/* ── /proc ─────────────────────────────────────────────────────────────────────────────────── */

static char root[64];

static char *at(int pid, const char *what)
{
	static char path[8][256];
	static unsigned int next;
	char *p = path[next++ % 8];

	snprintf(p, 256, "%s/%d/%s", root, pid, what);
	return p;
}

static void process(int pid, int parent, const char *comm, const char *ns, const char *env, size_t env_len)
{
	char stat_line[256], target[128];

	assert_int_equal(mkdir_p(at(pid, "ns")), 0);
	assert_int_equal(mkdir_p(at(pid, "fd")), 0);
	snprintf(stat_line, sizeof(stat_line), "%d (%s) S %d 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 %d 1000 100", pid, comm, parent,
		1000 + pid);
	assert_int_equal(file_write(at(pid, "stat"), stat_line, strlen(stat_line)), 0);
	assert_int_equal(file_write(at(pid, "environ"), env ? env : "", env_len), 0);
	snprintf(target, sizeof(target), "%s/%s", root, ns);
	assert_int_equal(link(target, at(pid, "ns/net")), 0);
}

static void holds(int pid, int fd, unsigned int inode)
{
	char name[32], target[64];

	snprintf(name, sizeof(name), "fd/%d", fd);
	snprintf(target, sizeof(target), "socket:[%u]", inode);
	assert_int_equal(symlink(target, at(pid, name)), 0);
}

static void make_ns(const char *name)
{
	_cleanup_free_ char *path = strf("%s/%s", root, name);

	assert_int_equal(file_write(path, "", 0), 0);
}

/* init ── sshd ── sshd (the session's) ── bash ── sudo ── us; the environment ends at sudo */
static int set_up(void **state)
{
	static const char env[] = "HOME=/root\0SSH_CONNECTION=203.0.113.7 40404 198.51.100.2 22\0A=b";
	_cleanup_free_ char *self = NULL;
	char own[16];

	(void)state;
	strcpy(root, "/tmp/muster-proc-XXXXXX");
	assert_non_null(mkdtemp(root));
	mgmt_proc = root;
	make_ns("own");
	make_ns("other");
	process(1, 0, "systemd", "own", NULL, 0);
	process(20, 1, "sshd", "own", NULL, 0);
	process(21, 20, "sshd", "own", NULL, 0);
	process(22, 21, "bash", "own", env, sizeof(env));
	process(23, 22, "su do) 7 (", "own", env, sizeof(env));
	process((int)getpid(), 23, "muster", "own", "A=b", 4);
	self = strf("%s/self", root);
	snprintf(own, sizeof(own), "%d", (int)getpid());
	assert_int_equal(symlink(own, self), 0);
	add_link(NULL, 1, "lo", 0, 0);
	add_link(NULL, 2, "eth0", 0, 0);
	add_link(NULL, 3, "eth1", 0, 0);
	return 0;
}

static int tear_down(void **state)
{
	char command[96];

	(void)state;
	for (size_t i = 0; i < n_dumps; i++)
		nlmsg_free(dumps[i].msg);
	for (size_t i = 0; i < n_ways; i++)
		nlmsg_free(ways[i].msg);
	n_dumps = n_ways = 0;
	dump_error = 0;
	assert_int_equal(open_sockets, 0);
	snprintf(command, sizeof(command), "rm -rf %s", root);
	return system(command);
}

/* ── helpers ───────────────────────────────────────────────────────────────────────────────── */

static json_t *find(void)
{
	struct err err = {0};
	json_t *found = NULL;

	if (mgmt_find(&found, &err) < 0)
		fail_msg("%s", err.text);
	return found;
}

/* "eth0+eth1 peer,peer" of the path called @text; NULL: there is none */
static char *path_of(const json_t *found, const char *text)
{
	const json_t *p, *x;
	size_t i, k;

	json_array_foreach(json_object_get(found, "paths"), i, p) {
		struct strbuf b = {0};

		if (!streq(json_string_value(json_object_get(p, "text")), text))
			continue;
		json_array_foreach(json_object_get(p, "devices"), k, x)
			strbuf_addf(&b, "%s%s", k ? "+" : "", json_string_value(json_object_get(x, "dev")));
		json_array_foreach(json_object_get(p, "peers"), k, x)
			strbuf_addf(&b, "%c%s", k ? ',' : ' ', json_string_value(x));
		return b.s;
	}
	return NULL;
}

static void assert_path(const json_t *found, const char *text, const char *want)
{
	_cleanup_free_ char *have = path_of(found, text);
	_cleanup_free_ char *all = json_dumps(found, JSON_INDENT(1));

	if (want ? !streq(have, want) : have != NULL)
		fail_msg("%s: %s, wanted %s; all: %s", text, have ? have : "none", want ? want : "none", all);
}

static const char *reach_text; /* what the change at hand says */
static int reach(const struct node *n, const json_t *args, json_t **ret, struct err *err)
{
	(void)n;
	(void)args;
	if (streq(reach_text, "fails"))
		return err_set(err, -EIO, "who knows");
	*ret = reach_text ? json_loads(reach_text, 0, NULL) : NULL;
	assert_true(!reach_text || *ret);
	return 0;
}

static const struct param with_to[] = {{.name = "to", .type = PARAM_STRING}, PARAM_END};
static const struct param without[] = {PARAM_END};
static const struct change_ops ops = {.name = "fault.test", .params = with_to, .reach = reach};
static const struct change_ops ops_without = {.name = "fault.test", .params = without, .reach = reach};
static const struct change_ops ops_blind = {.name = "fault.test", .params = without};

/* The hit, "" for none; by a node in the namespace called @ns */
static char *check(const json_t *found, const char *ns, const char *what)
{
	_cleanup_free_ char *path = ns ? strf("%s/%s", root, ns) : NULL;
	_cleanup_node_ struct node *n = node_new("n", path);
	struct err err = {0};
	char *hit = NULL;
	int r;

	reach_text = what;
	r = mgmt_check(found, &ops, n, NULL, &hit, &err);
	if (r < 0)
		return strf("error: %s", err.text);
	assert_int_equal(r, hit != NULL);
	return hit ? hit : strdup("");
}

static int near(const json_t *found, const char *ns, const char *what)
{
	_cleanup_free_ char *path = ns ? strf("%s/%s", root, ns) : NULL;
	_cleanup_node_ struct node *n = node_new("n", path);
	struct err err = {0};

	reach_text = what;
	return mgmt_near(found, &ops, n, NULL, &err);
}

static void assert_check(const json_t *found, const char *ns, const char *what, const char *want)
{
	_cleanup_free_ char *hit = check(found, ns, what);

	if (!streq(hit, want))
		fail_msg("%s: \"%s\", wanted \"%s\"", what ? what : "nothing", hit, want);
}

/* ── tests ─────────────────────────────────────────────────────────────────────────────────── */

static void session_by_the_environment_of_an_ancestor(void **state)
{
	_cleanup_json_ json_t *found = NULL;

	(void)state;
	add_route(true, NULL, AF_INET, 32, 2, "198.51.100.1");
	found = find();
	assert_path(found, "the SSH session from 203.0.113.7", "eth0 203.0.113.7,198.51.100.1");
	assert_path(found, "loopback", "lo 127.0.0.0/8,::1");
	assert_int_equal(json_array_size(json_object_get(found, "paths")), 2);
	assert_int_equal(json_array_size(json_object_get(found, "processes")), 6);
	assert_int_equal(json_array_size(json_object_get(found, "gaps")), 0);
}

static void environments_that_say_little(void **state)
{
	static const char broken[] = "SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535", client[] = "SSH_CLIENT=fe80::7%eth1 1 22";
	_cleanup_json_ json_t *found = NULL;

	(void)state;
	assert_int_equal(file_write(at(22, "environ"), broken, sizeof(broken)), 0);
	assert_int_equal(file_write(at(23, "environ"), client, sizeof(client)), 0);
	add_route(true, NULL, AF_INET6, 128, 3, NULL);
	found = find();
	assert_path(found, "the SSH session from fe80::7", "eth1 fe80::7");
	assert_int_equal(asked_oif, 3); /* eth1: without it the kernel has no answer */
	assert_int_equal(json_array_size(json_object_get(found, "gaps")), 1);
}

static void no_way_to_the_client(void **state)
{
	_cleanup_json_ json_t *found = find();

	(void)state;
	assert_path(found, "the SSH session from 203.0.113.7", NULL);
	assert_non_null(strstr(json_string_value(json_array_get(json_object_get(found, "gaps"), 0)), "no way to 203.0.113.7"));
}

static void sessions_by_the_sockets_of_ancestors(void **state)
{
	_cleanup_json_ json_t *found = NULL;

	(void)state;
	assert_int_equal(file_write(at(22, "environ"), "", 0), 0);
	assert_int_equal(file_write(at(23, "environ"), "", 0), 0);
	holds(21, 3, 700);
	holds(20, 3, 700); /* handed down */
	holds(22, 9, 701);
	holds(22, 8, 702);
	add_connection(NULL, AF_INET6, 700, "::ffff:203.0.113.9");
	add_connection(NULL, AF_INET, 701, "198.51.100.99");
	add_connection(NULL, AF_INET, 702, "127.0.0.1");
	add_connection(NULL, AF_INET, 703, "198.51.100.66"); /* nobody's of ours */
	add_route(true, NULL, AF_INET, 32, 3, NULL);
	found = find();
	assert_path(found, "the SSH session from 203.0.113.9", "eth1 203.0.113.9");
	assert_path(found, "the connection with 198.51.100.99 by which bash (process 22) started this drill", "eth1 198.51.100.99");
	assert_int_equal(json_array_size(json_object_get(found, "paths")), 3);
}

static void default_routes_of_every_shape(void **state)
{
	_cleanup_json_ json_t *found = NULL;
	struct nl_msg *m;
	struct nlattr *mp;

	(void)state;
	add_route(false, NULL, AF_INET, 0, 2, "198.51.100.1");
	add_route(false, NULL, AF_INET, 24, 3, "198.51.100.2"); /* not all of it */
	m = add_route(false, NULL, AF_INET, 0, 3, "198.51.100.3");
	((struct rtmsg *)NLMSG_DATA(nlmsg_hdr(m)))->rtm_type = RTN_UNREACHABLE;
	m = add_route(false, NULL, AF_INET6, 0, 3, "fe80::1");
	((struct rtmsg *)NLMSG_DATA(nlmsg_hdr(m)))->rtm_flags = RTM_F_CLONED;
	add_route(false, NULL, AF_INET6, 0, 3, NULL); /* by the device alone */
	m = add_route(false, NULL, AF_INET6, 0, 0, NULL);
	mp = nla_nest_start(m, RTA_MULTIPATH);
	for (int i = 2; i <= 3; i++) {
		struct rtnexthop *nh = nlmsg_reserve(m, sizeof(*nh), NLMSG_ALIGNTO);

		memset(nh, 0, sizeof(*nh));
		nh->rtnh_ifindex = i;
		put_addr(m, RTA_GATEWAY, AF_INET6, i == 2 ? "fe80::2" : "fe80::3");
		nh->rtnh_len = (unsigned short)((char *)nlmsg_tail(nlmsg_hdr(m)) - (char *)nh);
	}
	nla_nest_end(m, mp);
	{ /* IPv4 by an IPv6 neighbour */
		unsigned char v[sizeof(struct rtvia) + 16] = {0};
		unsigned short via_family = AF_INET6;

		m = add_route(false, NULL, AF_INET, 0, 2, NULL);
		memcpy(v, &via_family, sizeof(via_family));
		inet_pton(AF_INET6, "fe80::9", v + sizeof(struct rtvia));
		nla_put(m, RTA_VIA, sizeof(v), v);
	}
	found = find();
	assert_path(found, "the default route by 198.51.100.1 (IPv4)", "eth0 198.51.100.1");
	assert_path(found, "the default route by 198.51.100.3 (IPv4)", NULL);
	assert_path(found, "the default route by fe80::1 (IPv6)", NULL);
	assert_path(found, "the default route (IPv6)", "eth1");
	assert_path(found, "the default route by fe80::2 (IPv6)", "eth0 fe80::2");
	assert_path(found, "the default route by fe80::3 (IPv6)", "eth1 fe80::3");
	assert_path(found, "the default route by fe80::9 (IPv4)", "eth0 fe80::9");
	/* a whole family is what a default route is for; the other one does not concern it */
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth1\"}], \"to\": [\"::/0\"]}",
		"eth1 carries the default route (IPv6) (and 1 more)");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth1\"}], \"to\": [\"0.0.0.0/0\"]}", "");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth1\"}], \"family\": 4}", "");
}

/* A VLAN on a bond of two; a bond that is said to be its own member does not turn in circles. */
static void devices_below(void **state)
{
	_cleanup_json_ json_t *found = NULL;

	(void)state;
	add_link(NULL, 10, "bond0", 0, 0);
	add_link(NULL, 11, "eth2", 10, 0);
	add_link(NULL, 12, "eth3", 10, 10);
	add_link(NULL, 13, "bond0.7", 0, 10);
	add_route(false, NULL, AF_INET, 0, 13, "198.51.100.1");
	found = find();
	assert_path(found, "the default route by 198.51.100.1 (IPv4)", "bond0.7+bond0+eth2+eth3 198.51.100.1");
}

static void checks(void **state)
{
	static const char session[] = "eth0 carries the SSH session from 203.0.113.7";
	_cleanup_json_ json_t *found = NULL;
	_cleanup_node_ struct node *n = node_new("n", NULL);
	struct err err = {0};
	char *hit = NULL;

	(void)state;
	add_route(true, NULL, AF_INET, 32, 2, "198.51.100.1");
	found = find();
	assert_check(found, NULL, NULL, "");
	assert_check(found, NULL, "{}", "");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth0\"}]}", session);
	assert_check(found, "own", "{\"devices\": [{\"dev\": \"eth0\"}]}", session); /* the host by another name */
	assert_check(found, "other", "{\"devices\": [{\"dev\": \"eth0\"}]}", "");
	assert_check(found, "not-there", "{\"devices\": [{\"dev\": \"eth0\"}]}", "");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"altname-of-2\"}]}", session);
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth1\"}]}", "");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"*\"}]}", "eth0 carries the SSH session from 203.0.113.7 (and 1 more)");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth0\"}], \"to\": [\"192.0.2.1\"]}", "");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth0\"}], \"to\": []}", "");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth0\"}], \"to\": [\"192.0.2.1\", \"203.0.112.0/23\"]}", session);
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth0\"}], \"to\": [\"198.51.100.1\"]}", session); /* the next hop */
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth0\"}], \"to\": [\"rs1\"]}", session); /* whoever that is */
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth0\"}], \"family\": 6}", "");
	assert_check(found, NULL, "fails", "error: who knows");
	assert_int_equal(mgmt_check(found, &ops_blind, n, NULL, &hit, &err), 0);
	assert_int_equal(near(found, NULL, "{\"devices\": [{\"dev\": \"eth1\"}]}"), 1);
	assert_int_equal(near(found, "own", "{\"devices\": [{\"dev\": \"eth1\"}]}"), 1);
	assert_int_equal(near(found, "other", "{\"devices\": [{\"dev\": \"eth0\"}]}"), 0);
	assert_int_equal(near(found, "not-there", "{\"devices\": [{\"dev\": \"eth0\"}]}"), 0);
	assert_int_equal(near(found, "other", "{\"processes\": \"node\"}"), 0);
	assert_int_equal(near(found, "own", "{\"processes\": \"node\"}"), 1);
	assert_int_equal(near(found, "other", "{\"processes\": [50]}"), 1);
	assert_int_equal(near(found, NULL, NULL), 0);
	assert_int_equal(near(found, NULL, "fails"), -EIO);
}

static void some_processes(void **state)
{
	_cleanup_json_ json_t *found = find();
	_cleanup_free_ char *why = NULL, *hit = NULL;

	(void)state;
	process(50, 1, "nginx", "own", NULL, 0);
	process(51, 1, "sshd", "other", NULL, 0);
	hit = check(found, NULL, "{\"processes\": \"node\"}");
	assert_non_null(strstr(hit, "is on the management path and would be killed (and 5 more)"));
	assert_check(found, "other", "{\"processes\": \"node\"}", "");
	assert_check(found, NULL, "{\"processes\": [50]}", "");
	assert_check(found, NULL, "{\"processes\": [50, 22]}", "bash (process 22) is on the management path and would be killed (and 1 more)");
	assert_check(found, NULL, "{\"processes\": [51]}", "sshd (process 51) is on the management path and would be killed");
	assert_true(mgmt_protected(1, &why));
	assert_string_equal(why, "init (process 1, systemd)");
	assert_true(mgmt_protected(23, NULL));
	assert_true(mgmt_protected(51, NULL));
	assert_false(mgmt_protected(50, NULL));
	assert_false(mgmt_protected(4711, NULL)); /* there is none */
	/* the pid of an ancestor that is gone, given to somebody else */
	{
		static const char line[] = "22 (cron) S 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 9999 1000 100";

		assert_int_equal(file_write(at(22, "stat"), line, strlen(line)), 0);
		assert_int_equal(file_write(at(23, "stat"), "23 (x) S 1", 10), 0);
	}
	assert_check(found, NULL, "{\"processes\": [22]}", "");
}

/* sshd is in one namespace, and muster was started in another by way of nsenter. */
static void ancestors_elsewhere(void **state)
{
	_cleanup_json_ json_t *found = NULL;

	(void)state;
	assert_int_equal(unlink(at((int)getpid(), "ns/net")), 0);
	{
		_cleanup_free_ char *other = strf("%s/other", root);

		assert_int_equal(link(other, at((int)getpid(), "ns/net")), 0);
	}
	add_link("ns/net", 1, "lo", 0, 0);
	add_link("ns/net", 5, "bond0", 0, 0);
	add_route(true, "ns/net", AF_INET, 32, 5, "198.51.100.1");
	add_route(false, NULL, AF_INET, 0, 2, "192.0.2.1");
	found = find();
	assert_path(found, "the SSH session from 203.0.113.7", "bond0 203.0.113.7,198.51.100.1");
	assert_check(found, "own", "{\"devices\": [{\"dev\": \"bond0\"}]}", "bond0 carries the SSH session from 203.0.113.7");
	assert_check(found, "own", "{\"devices\": [{\"dev\": \"eth0\"}]}", "");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth0\"}]}", "eth0 carries the default route by 192.0.2.1 (IPv4)");
}

/* What could not be looked at is not taken for free. */
static void blind(void **state)
{
	_cleanup_json_ json_t *found = NULL;

	(void)state;
	assert_int_equal(unlink(at((int)getpid(), "ns/net")), 0);
	{
		_cleanup_free_ char *other = strf("%s/other", root);

		assert_int_equal(link(other, at((int)getpid(), "ns/net")), 0);
	}
	dump_error = -EPERM;
	found = find();
	assert_check(found, "own", "{\"devices\": [{\"dev\": \"eth7\"}]}",
		"error: what has to survive in the network namespace of eth7 could not be looked at");
	assert_check(found, NULL, "{\"devices\": [{\"dev\": \"eth7\"}]}", "");
	assert_true(json_array_size(json_object_get(found, "gaps")) > 0);
}

static void words(void **state)
{
	_cleanup_json_ json_t *waives = json_pack("{s:[s]}", "unsafe", "management-path"), *not = json_pack("{s:[s]}", "unsafe", "x"),
			      *none = json_object();
	_cleanup_node_ struct node *n = node_new("gw", NULL);
	struct err err = {0};

	(void)state;
	assert_int_equal(mgmt_refuse(&ops, n, "eth0 carries it", &err), -EPERM);
	assert_string_equal(err.text, "fault.test on gw is refused: eth0 carries it; confine it with `to`, or waive it in the scenario: "
				      "unsafe = { \"management-path\" }");
	assert_int_equal(mgmt_refuse(&ops_without, n, "eth0 carries it", &err), -EPERM);
	assert_non_null(strstr(err.text, "; name another node, or waive it"));
	assert_true(mgmt_waived(waives));
	assert_false(mgmt_waived(not));
	assert_false(mgmt_waived(none));
}

static void no_proc(void **state)
{
	struct err err = {0};
	json_t *found = NULL;

	(void)state;
	mgmt_proc = "/nonexistent";
	assert_int_equal(mgmt_find(&found, &err), -EIO);
	assert_null(found);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(session_by_the_environment_of_an_ancestor),
		T(environments_that_say_little),
		T(no_way_to_the_client),
		T(sessions_by_the_sockets_of_ancestors),
		T(default_routes_of_every_shape),
		T(devices_below),
		T(checks),
		T(some_processes),
		T(ancestors_elsewhere),
		T(blind),
		T(words),
		T(no_proc),
	};

	return cmocka_run_group_tests_name("mgmt", tests, NULL, NULL);
}
