/* SPDX-License-Identifier: GPL-2.0-only */
#include "lvs/ipvs.h"

#include <arpa/inet.h>
#include <linux/ip_vs.h>
#include <netlink/attr.h>
#include <netlink/genl/genl.h>
#include <stdio.h>
#include <string.h>

#include "engine/nl.h"

struct ipvs {
	struct nlc *nl;
	int family; /* generic netlink id */
	char *node;
};

/* ── values and text ──────────────────────────────────────────────────────────────────────── */

static const char *const forward_names[] = {
	[IPVS_NAT] = "nat",
	[IPVS_LOCAL] = "local",
	[IPVS_TUN] = "tun",
	[IPVS_DR] = "dr",
	[IPVS_BYPASS] = "bypass",
};

const char *ipvs_forward_name(uint32_t forward)
{
	return forward < ARRAY_SIZE(forward_names) ? forward_names[forward] : "?";
}

int ipvs_forward_parse(const char *name, uint32_t *ret)
{
	static const uint32_t usable[] = {IPVS_NAT, IPVS_TUN, IPVS_DR};

	for (size_t i = 0; i < ARRAY_SIZE(usable); i++) {
		if (streq(name, forward_names[usable[i]])) {
			*ret = usable[i];
			return 0;
		}
	}
	return -EINVAL;
}

const char *ipvs_protocol_name(uint16_t protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return "tcp";
	case IPPROTO_UDP:
		return "udp";
	case IPPROTO_SCTP:
		return "sctp";
	default:
		return "?";
	}
}

int ipvs_addr_parse(const char *text, int *ret_family, uint8_t ret_addr[16])
{
	uint8_t addr[16] = {0};
	int family;

	if (inet_pton(AF_INET, text, addr) == 1)
		family = AF_INET;
	else if (inet_pton(AF_INET6, text, addr) == 1)
		family = AF_INET6;
	else
		return -EINVAL;
	*ret_family = family;
	memcpy(ret_addr, addr, sizeof(addr));
	return 0;
}

const char *ipvs_fmt_addr(char buf[IPVS_TEXT_MAX], int family, const uint8_t addr[16])
{
	if (!inet_ntop(family, addr, buf, IPVS_TEXT_MAX))
		snprintf(buf, IPVS_TEXT_MAX, "?");
	return buf;
}

static const char *fmt_addr_port(
	char buf[IPVS_TEXT_MAX], int family, const uint8_t addr[16], uint16_t port)
{
	char a[IPVS_TEXT_MAX];

	ipvs_fmt_addr(a, family, addr);
	snprintf(buf, IPVS_TEXT_MAX, family == AF_INET6 ? "[%.45s]:%u" : "%.45s:%u", a, port);
	return buf;
}

const char *ipvs_fmt_service(char buf[IPVS_TEXT_MAX], const struct ipvs_service *s)
{
	if (!s->fwmark)
		return fmt_addr_port(buf, s->family, s->addr, s->port);
	snprintf(buf, IPVS_TEXT_MAX, "fwmark %u%s", s->fwmark,
		s->family == AF_INET6 ? " inet6" : "");
	return buf;
}

const char *ipvs_fmt_dest(char buf[IPVS_TEXT_MAX], const struct ipvs_dest *d)
{
	return fmt_addr_port(buf, d->family, d->addr, d->port);
}

static bool same_addr(int family, const uint8_t a[16], const uint8_t b[16])
{
	return memcmp(a, b, family == AF_INET6 ? 16 : 4) == 0;
}

bool ipvs_service_same_key(const struct ipvs_service *a, const struct ipvs_service *b)
{
	if (a->family != b->family || a->fwmark != b->fwmark)
		return false;
	return a->fwmark || (a->protocol == b->protocol && a->port == b->port &&
				    same_addr(a->family, a->addr, b->addr));
}

bool ipvs_dest_same_key(const struct ipvs_dest *a, const struct ipvs_dest *b)
{
	return a->family == b->family && a->port == b->port &&
	       same_addr(a->family, a->addr, b->addr);
}

bool ipvs_service_equal(const struct ipvs_service *a, const struct ipvs_service *b)
{
	return ipvs_service_same_key(a, b) && streq(a->scheduler, b->scheduler) &&
	       streq(a->pe, b->pe) && a->flags == b->flags && a->timeout == b->timeout &&
	       a->netmask == b->netmask;
}

bool ipvs_dest_equal(const struct ipvs_dest *a, const struct ipvs_dest *b)
{
	return ipvs_dest_same_key(a, b) && a->forward == b->forward && a->weight == b->weight &&
	       a->upper_threshold == b->upper_threshold &&
	       a->lower_threshold == b->lower_threshold && a->tun_type == b->tun_type &&
	       a->tun_port == b->tun_port && a->tun_flags == b->tun_flags;
}

void ipvs_service_default_netmask(struct ipvs_service *s)
{
	s->netmask = s->family == AF_INET6 ? 128 : UINT32_MAX;
}

struct ipvs_dest *ipvs_dest_find(struct ipvs_dest *dests, size_t n, const struct ipvs_dest *key)
{
	for (size_t i = 0; i < n; i++)
		if (ipvs_dest_same_key(&dests[i], key))
			return &dests[i];
	return NULL;
}

/* ── messages ─────────────────────────────────────────────────────────────────────────────── */

/* libnl's put functions fail for one reason only here: no room in the message */
#define PUT(expr)                                                                                  \
	do {                                                                                       \
		if ((expr) < 0)                                                                    \
			return -EMSGSIZE;                                                          \
	} while (0)

int ipvs_put_service(struct nl_msg *m, const struct ipvs_service *s, bool full)
{
	struct nlattr *nest = nla_nest_start(m, IPVS_CMD_ATTR_SERVICE);

	if (!nest)
		return -EMSGSIZE;
	PUT(nla_put_u16(m, IPVS_SVC_ATTR_AF, (uint16_t)s->family));
	if (s->fwmark) {
		PUT(nla_put_u32(m, IPVS_SVC_ATTR_FWMARK, s->fwmark));
	} else {
		PUT(nla_put_u16(m, IPVS_SVC_ATTR_PROTOCOL, s->protocol));
		PUT(nla_put(m, IPVS_SVC_ATTR_ADDR, sizeof(s->addr), s->addr));
		PUT(nla_put_u16(m, IPVS_SVC_ATTR_PORT, htons(s->port)));
	}
	if (full) {
		/*
		 * A service that says "hashed" when it is added is not put into the kernel's table and
		 * can never be found
		 */
		struct ip_vs_flags flags = {
			s->flags & ~(uint32_t)IP_VS_SVC_F_HASHED, ~(uint32_t)IP_VS_SVC_F_HASHED};

		PUT(nla_put_string(m, IPVS_SVC_ATTR_SCHED_NAME, s->scheduler));
		if (s->pe[0])
			PUT(nla_put_string(m, IPVS_SVC_ATTR_PE_NAME, s->pe));
		PUT(nla_put(m, IPVS_SVC_ATTR_FLAGS, sizeof(flags), &flags));
		PUT(nla_put_u32(m, IPVS_SVC_ATTR_TIMEOUT, s->timeout));
		PUT(nla_put_u32(m, IPVS_SVC_ATTR_NETMASK, s->netmask));
	}
	nla_nest_end(m, nest);
	return 0;
}

int ipvs_put_dest(struct nl_msg *m, const struct ipvs_dest *d, bool full)
{
	struct nlattr *nest = nla_nest_start(m, IPVS_CMD_ATTR_DEST);

	if (!nest)
		return -EMSGSIZE;
	PUT(nla_put_u16(m, IPVS_DEST_ATTR_ADDR_FAMILY, (uint16_t)d->family));
	PUT(nla_put(m, IPVS_DEST_ATTR_ADDR, sizeof(d->addr), d->addr));
	PUT(nla_put_u16(m, IPVS_DEST_ATTR_PORT, htons(d->port)));
	if (full) {
		PUT(nla_put_u32(m, IPVS_DEST_ATTR_FWD_METHOD, d->forward & IP_VS_CONN_F_FWD_MASK));
		PUT(nla_put_u32(m, IPVS_DEST_ATTR_WEIGHT, d->weight));
		PUT(nla_put_u32(m, IPVS_DEST_ATTR_U_THRESH, d->upper_threshold));
		PUT(nla_put_u32(m, IPVS_DEST_ATTR_L_THRESH, d->lower_threshold));
		PUT(nla_put_u8(m, IPVS_DEST_ATTR_TUN_TYPE, d->tun_type));
		PUT(nla_put_u16(m, IPVS_DEST_ATTR_TUN_PORT, htons(d->tun_port)));
		PUT(nla_put_u16(m, IPVS_DEST_ATTR_TUN_FLAGS, d->tun_flags));
	}
	nla_nest_end(m, nest);
	return 0;
}

int ipvs_put_daemon(struct nl_msg *m, const struct ipvs_daemon *d)
{
	struct nlattr *nest = nla_nest_start(m, IPVS_CMD_ATTR_DAEMON);

	if (!nest)
		return -EMSGSIZE;
	PUT(nla_put_u32(m, IPVS_DAEMON_ATTR_STATE, d->state));
	PUT(nla_put_string(m, IPVS_DAEMON_ATTR_MCAST_IFN, d->ifname));
	PUT(nla_put_u32(m, IPVS_DAEMON_ATTR_SYNC_ID, d->sync_id));
	if (d->sync_maxlen)
		PUT(nla_put_u16(m, IPVS_DAEMON_ATTR_SYNC_MAXLEN, d->sync_maxlen));
	if (d->mcast_family == AF_INET)
		PUT(nla_put(m, IPVS_DAEMON_ATTR_MCAST_GROUP, 4, d->mcast_group));
	else if (d->mcast_family == AF_INET6)
		PUT(nla_put(m, IPVS_DAEMON_ATTR_MCAST_GROUP6, 16, d->mcast_group));
	if (d->mcast_port)
		PUT(nla_put_u16(m, IPVS_DAEMON_ATTR_MCAST_PORT, d->mcast_port));
	if (d->mcast_ttl)
		PUT(nla_put_u8(m, IPVS_DAEMON_ATTR_MCAST_TTL, d->mcast_ttl));
	nla_nest_end(m, nest);
	return 0;
}

/* The attributes inside the top-level attribute @which of a reply */
static int parse_nested(struct nlmsghdr *h, int which, struct nlattr **tb, int max)
{
	struct nlattr *top[IPVS_CMD_ATTR_MAX + 1];

	if (genlmsg_parse(h, 0, top, IPVS_CMD_ATTR_MAX, NULL) < 0 || !top[which])
		return -EBADMSG;
	if (nla_parse_nested(tb, max, top[which], NULL) < 0)
		return -EBADMSG;
	return 0;
}

/* A value of exactly @len bytes; false when the attribute is absent or shorter */
static bool get(const struct nlattr *a, void *ret, size_t len)
{
	if (!a || (size_t)nla_len(a) < len)
		return false;
	memcpy(ret, nla_data(a), len);
	return true;
}

static bool get_be16(const struct nlattr *a, uint16_t *ret)
{
	uint16_t v;

	if (!get(a, &v, sizeof(v)))
		return false;
	*ret = ntohs(v);
	return true;
}

/* Text that may come without a terminator, and must fit */
static bool get_text(const struct nlattr *a, char ret[IPVS_NAME_MAX])
{
	size_t len;

	if (!a)
		return false;
	len = strnlen(nla_data(a), (size_t)nla_len(a));
	if (len >= IPVS_NAME_MAX)
		return false;
	memset(ret, 0, IPVS_NAME_MAX);
	memcpy(ret, nla_data(a), len);
	return true;
}

/*
 * Addresses come as 16 bytes whatever the family, and what follows an IPv4 address in them is left over
 * from whoever configured it: cleared, so that equal addresses are equal bytes.
 */
static bool get_addr(const struct nlattr *a, int family, uint8_t ret[16])
{
	size_t len = family == AF_INET6 ? 16 : 4;
	uint8_t addr[16] = {0};

	if (!get(a, addr, len))
		return false;
	memcpy(ret, addr, sizeof(addr));
	return true;
}

/*
 * Counters: all 64 bits wide in the newer attribute; in the older one packets, connections and rates are
 * 32 bits and wrap.
 */
static void parse_stats(struct nlattr *wide, struct nlattr *narrow, struct ipvs_stats *ret)
{
	static const struct {
		int attr;
		size_t at;
		bool narrow; /* 32 bits in the older attribute */
	} fields[] = {
		{IPVS_STATS_ATTR_CONNS, offsetof(struct ipvs_stats, conns), true},
		{IPVS_STATS_ATTR_INPKTS, offsetof(struct ipvs_stats, in_packets), true},
		{IPVS_STATS_ATTR_OUTPKTS, offsetof(struct ipvs_stats, out_packets), true},
		{IPVS_STATS_ATTR_INBYTES, offsetof(struct ipvs_stats, in_bytes), false},
		{IPVS_STATS_ATTR_OUTBYTES, offsetof(struct ipvs_stats, out_bytes), false},
		{IPVS_STATS_ATTR_CPS, offsetof(struct ipvs_stats, cps), true},
		{IPVS_STATS_ATTR_INPPS, offsetof(struct ipvs_stats, in_pps), true},
		{IPVS_STATS_ATTR_OUTPPS, offsetof(struct ipvs_stats, out_pps), true},
		{IPVS_STATS_ATTR_INBPS, offsetof(struct ipvs_stats, in_bps), true},
		{IPVS_STATS_ATTR_OUTBPS, offsetof(struct ipvs_stats, out_bps), true},
	};
	struct nlattr *tb[IPVS_STATS_ATTR_MAX + 1];
	struct nlattr *nest = wide ? wide : narrow;

	if (!nest || nla_parse_nested(tb, IPVS_STATS_ATTR_MAX, nest, NULL) < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		uint64_t *to = (uint64_t *)((char *)ret + fields[i].at);
		uint32_t v;

		if (wide || !fields[i].narrow)
			get(tb[fields[i].attr], to, sizeof(*to));
		else if (get(tb[fields[i].attr], &v, sizeof(v)))
			*to = v;
	}
}

int ipvs_parse_service(struct nlmsghdr *h, struct ipvs_service *ret)
{
	struct nlattr *tb[IPVS_SVC_ATTR_MAX + 1];
	struct ipvs_service s = {0};
	struct ip_vs_flags flags;
	uint16_t family;

	if (parse_nested(h, IPVS_CMD_ATTR_SERVICE, tb, IPVS_SVC_ATTR_MAX) < 0)
		return -EBADMSG;
	if (!get(tb[IPVS_SVC_ATTR_AF], &family, sizeof(family)))
		return -EBADMSG;
	s.family = family;
	if (s.family != AF_INET && s.family != AF_INET6)
		return -EBADMSG;
	if (!get(tb[IPVS_SVC_ATTR_FWMARK], &s.fwmark, sizeof(s.fwmark)) &&
		(!get(tb[IPVS_SVC_ATTR_PROTOCOL], &s.protocol, sizeof(s.protocol)) ||
			!get_addr(tb[IPVS_SVC_ATTR_ADDR], s.family, s.addr) ||
			!get_be16(tb[IPVS_SVC_ATTR_PORT], &s.port)))
		return -EBADMSG;
	if (!get_text(tb[IPVS_SVC_ATTR_SCHED_NAME], s.scheduler) ||
		!get(tb[IPVS_SVC_ATTR_FLAGS], &flags, sizeof(flags)) ||
		!get(tb[IPVS_SVC_ATTR_TIMEOUT], &s.timeout, sizeof(s.timeout)) ||
		!get(tb[IPVS_SVC_ATTR_NETMASK], &s.netmask, sizeof(s.netmask)))
		return -EBADMSG;
	if (tb[IPVS_SVC_ATTR_PE_NAME] && !get_text(tb[IPVS_SVC_ATTR_PE_NAME], s.pe))
		return -EBADMSG;
	s.flags = flags.flags & ~(uint32_t)IP_VS_SVC_F_HASHED;
	parse_stats(tb[IPVS_SVC_ATTR_STATS64], tb[IPVS_SVC_ATTR_STATS], &s.stats);
	*ret = s;
	return 0;
}

int ipvs_parse_dest(struct nlmsghdr *h, int service_family, struct ipvs_dest *ret)
{
	struct nlattr *tb[IPVS_DEST_ATTR_MAX + 1];
	struct ipvs_dest d = {0};
	uint16_t family = (uint16_t)service_family;

	if (parse_nested(h, IPVS_CMD_ATTR_DEST, tb, IPVS_DEST_ATTR_MAX) < 0)
		return -EBADMSG;
	/* Kernels before 3.18 do not say: destinations were of their service's family then */
	get(tb[IPVS_DEST_ATTR_ADDR_FAMILY], &family, sizeof(family));
	d.family = family;
	if (d.family != AF_INET && d.family != AF_INET6)
		return -EBADMSG;
	if (!get_addr(tb[IPVS_DEST_ATTR_ADDR], d.family, d.addr) ||
		!get_be16(tb[IPVS_DEST_ATTR_PORT], &d.port) ||
		!get(tb[IPVS_DEST_ATTR_FWD_METHOD], &d.forward, sizeof(d.forward)) ||
		!get(tb[IPVS_DEST_ATTR_WEIGHT], &d.weight, sizeof(d.weight)) ||
		!get(tb[IPVS_DEST_ATTR_U_THRESH], &d.upper_threshold, sizeof(d.upper_threshold)) ||
		!get(tb[IPVS_DEST_ATTR_L_THRESH], &d.lower_threshold, sizeof(d.lower_threshold)) ||
		!get(tb[IPVS_DEST_ATTR_ACTIVE_CONNS], &d.active, sizeof(d.active)) ||
		!get(tb[IPVS_DEST_ATTR_INACT_CONNS], &d.inactive, sizeof(d.inactive)) ||
		!get(tb[IPVS_DEST_ATTR_PERSIST_CONNS], &d.persistent, sizeof(d.persistent)))
		return -EBADMSG;
	d.forward &= IP_VS_CONN_F_FWD_MASK;
	/* Tunnel attributes came in 5.3 */
	get(tb[IPVS_DEST_ATTR_TUN_TYPE], &d.tun_type, sizeof(d.tun_type));
	get_be16(tb[IPVS_DEST_ATTR_TUN_PORT], &d.tun_port);
	get(tb[IPVS_DEST_ATTR_TUN_FLAGS], &d.tun_flags, sizeof(d.tun_flags));
	parse_stats(tb[IPVS_DEST_ATTR_STATS64], tb[IPVS_DEST_ATTR_STATS], &d.stats);
	*ret = d;
	return 0;
}

int ipvs_parse_daemon(struct nlmsghdr *h, struct ipvs_daemon *ret)
{
	struct nlattr *tb[IPVS_DAEMON_ATTR_MAX + 1];
	struct ipvs_daemon d = {0};

	if (parse_nested(h, IPVS_CMD_ATTR_DAEMON, tb, IPVS_DAEMON_ATTR_MAX) < 0)
		return -EBADMSG;
	if (!get(tb[IPVS_DAEMON_ATTR_STATE], &d.state, sizeof(d.state)) ||
		!get_text(tb[IPVS_DAEMON_ATTR_MCAST_IFN], d.ifname) ||
		!get(tb[IPVS_DAEMON_ATTR_SYNC_ID], &d.sync_id, sizeof(d.sync_id)))
		return -EBADMSG;
	/* The rest came in 4.3 */
	get(tb[IPVS_DAEMON_ATTR_SYNC_MAXLEN], &d.sync_maxlen, sizeof(d.sync_maxlen));
	if (get_addr(tb[IPVS_DAEMON_ATTR_MCAST_GROUP], AF_INET, d.mcast_group))
		d.mcast_family = AF_INET;
	else if (get_addr(tb[IPVS_DAEMON_ATTR_MCAST_GROUP6], AF_INET6, d.mcast_group))
		d.mcast_family = AF_INET6;
	get(tb[IPVS_DAEMON_ATTR_MCAST_PORT], &d.mcast_port, sizeof(d.mcast_port));
	get(tb[IPVS_DAEMON_ATTR_MCAST_TTL], &d.mcast_ttl, sizeof(d.mcast_ttl));
	*ret = d;
	return 0;
}

static struct nl_msg *new_msg(int family, uint8_t cmd)
{
	/* The largest request, a destination with its service, is about 230 bytes */
	struct nl_msg *m = nlmsg_alloc_size(512);

	if (m && !genlmsg_put(m, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, cmd, IPVS_GENL_VERSION)) {
		nlmsg_free(m);
		m = NULL;
	}
	return m;
}

/* A request about a service, a destination of it, or neither */
static int make(int family, uint8_t cmd, const struct ipvs_service *s, bool full_s,
	const struct ipvs_dest *d, bool full_d, struct nl_msg **ret)
{
	struct nl_msg *m = new_msg(family, cmd);
	int r = m ? 0 : -ENOMEM;

	if (r == 0 && s)
		r = ipvs_put_service(m, s, full_s);
	if (r == 0 && d)
		r = ipvs_put_dest(m, d, full_d);
	if (r < 0) {
		nlmsg_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

/* ── the kernel ───────────────────────────────────────────────────────────────────────────── */

int ipvs_open(const struct node *n, struct ipvs **ret, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	_cleanup_free_ struct ipvs *ip = NULL;
	int r;

	r = nlc_open(n, NETLINK_GENERIC, &nl, err);
	if (r < 0)
		return err_prefix(err, "ipvs on %s", n->name), r;
	ip = calloc(1, sizeof(*ip));
	if (!ip)
		return err_set(err, -ENOMEM, "out of memory");
	ip->family = nlc_genl_family(nl, IPVS_GENL_NAME, err);
	if (ip->family == -ENOENT) {
		err_set(err, -EOPNOTSUPP,
			"ipvs on %s: not in this kernel, or its module ip_vs is not loaded",
			n->name);
		err_hint(err, "modprobe ip_vs; where that fails (CONFIG_IP_VS), run with --lab vm");
		return -EOPNOTSUPP;
	}
	if (ip->family < 0)
		return err_prefix(err, "ipvs on %s", n->name), ip->family;
	ip->node = strdup(n->name);
	if (!ip->node)
		return err_set(err, -ENOMEM, "out of memory");
	ip->nl = TAKE_PTR(nl);
	*ret = TAKE_PTR(ip);
	return 0;
}

void ipvs_close(struct ipvs *ip)
{
	if (!ip)
		return;
	nlc_close(ip->nl);
	free(ip->node);
	free(ip);
}

/* "ipvs on director: adding 198.18.0.21:8080 to 198.18.0.100:8080: REASON" */
static int failed(struct ipvs *ip, int r, const char *doing, const struct ipvs_service *s,
	const struct ipvs_dest *d, struct err *err)
{
	char st[IPVS_TEXT_MAX], dt[IPVS_TEXT_MAX];
	const char *why = NULL;

	/* The kernel's words for these are "No such process" and the like */
	if (r == -ESRCH)
		why = "no such virtual service";
	else if (r == -ENOENT && d)
		why = "no such real server in this service";
	else if (r == -ENOENT && s)
		why = "no such scheduler or persistence engine in this kernel";
	else if (r == -EEXIST)
		why = "exists already";
	if (why)
		err_set(err, r, "%s", why);
	if (r == -EINVAL && d)
		err_hint(err,
			"is the address one of a host, and of the service's family? IPv4 needs a first route (lo up) for that");
	if (r == -EPERM)
		err_hint(
			err, "IPVS wants CAP_NET_ADMIN in the initial user namespace: run as root");
	if (d)
		err_prefix(err, "ipvs on %s: %s %s of %s", ip->node, doing, ipvs_fmt_dest(dt, d),
			ipvs_fmt_service(st, s));
	else if (s)
		err_prefix(err, "ipvs on %s: %s %s", ip->node, doing, ipvs_fmt_service(st, s));
	else
		err_prefix(err, "ipvs on %s: %s", ip->node, doing);
	return r;
}

static int request(struct ipvs *ip, uint8_t cmd, const struct ipvs_service *s, bool full_s,
	const struct ipvs_dest *d, bool full_d, const char *doing, struct err *err)
{
	struct nl_msg *m;
	int r = make(ip->family, cmd, s, full_s, d, full_d, &m);

	if (r < 0)
		err_set(err, r, "%s", strerror(-r));
	else
		r = nlc_request(ip->nl, m, err);
	return r < 0 ? failed(ip, r, doing, s, d, err) : 0;
}

/* What a dump fills: an array of entries of one size, by one parser */
struct rows {
	void *v;
	size_t n, room, size;
	int (*parse)(struct nlmsghdr *h, void *to, const struct rows *rows);
	int family; /* of the service whose destinations these are */
};

static int add_row(struct nlmsghdr *h, void *arg)
{
	struct rows *rows = arg;
	int r;

	if (!h) { /* the dump was interrupted and begins again */
		rows->n = 0;
		return 0;
	}
	if (rows->n == rows->room) {
		size_t room = rows->room ? rows->room * 2 : 16;
		void *v = reallocarray(rows->v, room, rows->size);

		if (!v)
			return -ENOMEM;
		rows->v = v;
		rows->room = room;
	}
	r = rows->parse(h, (char *)rows->v + rows->n * rows->size, rows);
	if (r == 0)
		rows->n++;
	return r;
}

static int parse_service_row(struct nlmsghdr *h, void *to, const struct rows *rows _unused_)
{
	return ipvs_parse_service(h, to);
}

static int parse_dest_row(struct nlmsghdr *h, void *to, const struct rows *rows)
{
	return ipvs_parse_dest(h, rows->family, to);
}

static int parse_daemon_row(struct nlmsghdr *h, void *to, const struct rows *rows _unused_)
{
	return ipvs_parse_daemon(h, to);
}

static int dump(struct ipvs *ip, uint8_t cmd, const struct ipvs_service *s, struct rows *rows,
	const char *doing, struct err *err)
{
	struct nl_msg *m;
	int r = make(ip->family, cmd, s, false, NULL, false, &m);

	if (r < 0)
		err_set(err, r, "%s", strerror(-r));
	else
		r = nlc_dump(ip->nl, m, add_row, rows, err);
	if (r < 0) {
		free(rows->v);
		if (r == -EBADMSG)
			err_set(err, r, "the kernel's answer lacks an attribute");
		return failed(ip, r, doing, s, NULL, err);
	}
	return 0;
}

int ipvs_services(struct ipvs *ip, struct ipvs_service **ret, size_t *ret_n, struct err *err)
{
	struct rows rows = {.size = sizeof(**ret), .parse = parse_service_row};
	int r = dump(ip, IPVS_CMD_GET_SERVICE, NULL, &rows, "reading the services", err);

	if (r < 0)
		return r;
	*ret = rows.v;
	*ret_n = rows.n;
	return 0;
}

static int take_one_service(struct nlmsghdr *h, void *arg)
{
	return h ? ipvs_parse_service(h, arg) : 0;
}

int ipvs_get_service(struct ipvs *ip, struct ipvs_service *s, struct err *err)
{
	struct ipvs_service got = {0};
	struct nl_msg *m;
	int r = make(ip->family, IPVS_CMD_GET_SERVICE, s, false, NULL, false, &m);

	if (r < 0)
		err_set(err, r, "%s", strerror(-r));
	else
		r = nlc_get(ip->nl, m, take_one_service, &got, err);
	if (r == 0 && got.family == 0)
		r = err_set(err, -EBADMSG, "the kernel acknowledged and answered nothing");
	if (r < 0)
		return failed(ip, r, "reading", s, NULL, err);
	*s = got;
	return 0;
}

int ipvs_add_service(struct ipvs *ip, const struct ipvs_service *s, struct err *err)
{
	return request(ip, IPVS_CMD_NEW_SERVICE, s, true, NULL, false, "adding", err);
}

int ipvs_set_service(struct ipvs *ip, const struct ipvs_service *s, struct err *err)
{
	return request(ip, IPVS_CMD_SET_SERVICE, s, true, NULL, false, "changing", err);
}

int ipvs_del_service(struct ipvs *ip, const struct ipvs_service *s, struct err *err)
{
	return request(ip, IPVS_CMD_DEL_SERVICE, s, false, NULL, false, "removing", err);
}

int ipvs_dests(struct ipvs *ip, const struct ipvs_service *s, struct ipvs_dest **ret, size_t *ret_n,
	struct err *err)
{
	struct rows rows = {.size = sizeof(**ret), .parse = parse_dest_row, .family = s->family};
	int r = dump(ip, IPVS_CMD_GET_DEST, s, &rows, "reading the servers of", err);

	if (r < 0)
		return r;
	if (rows.n == 0) {
		/* None, or no such service? Asked afterwards, so that the usual case costs one request. */
		struct ipvs_service there = *s;

		r = ipvs_get_service(ip, &there, err);
		if (r < 0) {
			free(rows.v);
			return r;
		}
	}
	*ret = rows.v;
	*ret_n = rows.n;
	return 0;
}

int ipvs_add_dest(
	struct ipvs *ip, const struct ipvs_service *s, const struct ipvs_dest *d, struct err *err)
{
	return request(ip, IPVS_CMD_NEW_DEST, s, false, d, true, "adding", err);
}

int ipvs_set_dest(
	struct ipvs *ip, const struct ipvs_service *s, const struct ipvs_dest *d, struct err *err)
{
	return request(ip, IPVS_CMD_SET_DEST, s, false, d, true, "changing", err);
}

int ipvs_del_dest(
	struct ipvs *ip, const struct ipvs_service *s, const struct ipvs_dest *d, struct err *err)
{
	return request(ip, IPVS_CMD_DEL_DEST, s, false, d, false, "removing", err);
}

int ipvs_daemons(struct ipvs *ip, struct ipvs_daemon **ret, size_t *ret_n, struct err *err)
{
	struct rows rows = {.size = sizeof(**ret), .parse = parse_daemon_row};
	int r = dump(ip, IPVS_CMD_GET_DAEMON, NULL, &rows, "reading the sync daemons", err);

	if (r < 0)
		return r;
	*ret = rows.v;
	*ret_n = rows.n;
	return 0;
}

static int daemon_request(struct ipvs *ip, uint8_t cmd, const struct ipvs_daemon *d,
	const char *doing, struct err *err)
{
	struct nl_msg *m = new_msg(ip->family, cmd);
	int r = m ? ipvs_put_daemon(m, d) : -ENOMEM;

	if (r < 0) {
		nlmsg_free(m);
		err_set(err, r, "%s", strerror(-r));
	} else {
		r = nlc_request(ip->nl, m, err);
	}
	if (r < 0)
		err_prefix(err, "ipvs on %s: %s the %s sync daemon on %s", ip->node, doing,
			d->state == IP_VS_STATE_MASTER ? "master" : "backup", d->ifname);
	return r;
}

int ipvs_start_daemon(struct ipvs *ip, const struct ipvs_daemon *d, struct err *err)
{
	return daemon_request(ip, IPVS_CMD_NEW_DAEMON, d, "starting", err);
}

int ipvs_stop_daemon(struct ipvs *ip, const struct ipvs_daemon *d, struct err *err)
{
	return daemon_request(ip, IPVS_CMD_DEL_DAEMON, d, "stopping", err);
}

/* One reply whose top-level attributes are plain numbers */
struct numbers {
	struct nlattr *tb[IPVS_CMD_ATTR_MAX + IPVS_INFO_ATTR_MAX + 1];
	int max;
	const int *attrs;
	uint32_t *const *to;
	size_t n;
	bool got;
};

static int take_numbers(struct nlmsghdr *h, void *arg)
{
	struct numbers *want = arg;

	if (!h)
		return 0;
	if (genlmsg_parse(h, 0, want->tb, want->max, NULL) < 0)
		return -EBADMSG;
	for (size_t i = 0; i < want->n; i++)
		if (!get(want->tb[want->attrs[i]], want->to[i], sizeof(uint32_t)))
			return -EBADMSG;
	want->got = true;
	return 0;
}

static int get_numbers(
	struct ipvs *ip, uint8_t cmd, struct numbers *want, const char *doing, struct err *err)
{
	struct nl_msg *m = new_msg(ip->family, cmd);
	int r;

	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	r = nlc_get(ip->nl, m, take_numbers, want, err);
	if (r == 0 && !want->got)
		r = err_set(err, -EBADMSG, "the kernel acknowledged and answered nothing");
	return r < 0 ? failed(ip, r, doing, NULL, NULL, err) : 0;
}

int ipvs_get_config(struct ipvs *ip, struct ipvs_config *ret, struct err *err)
{
	static const int attrs[] = {IPVS_CMD_ATTR_TIMEOUT_TCP, IPVS_CMD_ATTR_TIMEOUT_TCP_FIN,
		IPVS_CMD_ATTR_TIMEOUT_UDP};
	struct ipvs_config c = {0};
	uint32_t *const to[] = {&c.tcp_timeout, &c.tcp_fin_timeout, &c.udp_timeout};
	struct numbers want = {
		.max = IPVS_CMD_ATTR_MAX, .attrs = attrs, .to = to, .n = ARRAY_SIZE(to)};
	int r = get_numbers(ip, IPVS_CMD_GET_CONFIG, &want, "reading the time-outs", err);

	if (r == 0)
		*ret = c;
	return r;
}

int ipvs_get_info(struct ipvs *ip, struct ipvs_info *ret, struct err *err)
{
	static const int attrs[] = {IPVS_INFO_ATTR_VERSION, IPVS_INFO_ATTR_CONN_TAB_SIZE};
	struct ipvs_info info = {0};
	uint32_t *const to[] = {&info.version, &info.conn_tab_size};
	struct numbers want = {
		.max = IPVS_INFO_ATTR_MAX, .attrs = attrs, .to = to, .n = ARRAY_SIZE(to)};
	int r = get_numbers(ip, IPVS_CMD_GET_INFO, &want, "reading the version", err);

	if (r == 0)
		*ret = info;
	return r;
}

int ipvs_set_config(struct ipvs *ip, const struct ipvs_config *c, struct err *err)
{
	struct nl_msg *m = new_msg(ip->family, IPVS_CMD_SET_CONFIG);
	int r = m ? 0 : -ENOMEM;

	if (r == 0 &&
		(nla_put_u32(m, IPVS_CMD_ATTR_TIMEOUT_TCP, c->tcp_timeout) < 0 ||
			nla_put_u32(m, IPVS_CMD_ATTR_TIMEOUT_TCP_FIN, c->tcp_fin_timeout) < 0 ||
			nla_put_u32(m, IPVS_CMD_ATTR_TIMEOUT_UDP, c->udp_timeout) < 0))
		r = -EMSGSIZE;
	if (r < 0) {
		nlmsg_free(m);
		err_set(err, r, "%s", strerror(-r));
	} else {
		r = nlc_request(ip->nl, m, err);
	}
	return r < 0 ? failed(ip, r, "setting the time-outs", NULL, NULL, err) : 0;
}

int ipvs_flush(struct ipvs *ip, struct err *err)
{
	return request(ip, IPVS_CMD_FLUSH, NULL, false, NULL, false, "removing all services", err);
}

int ipvs_zero(struct ipvs *ip, const struct ipvs_service *s, struct err *err)
{
	return request(ip, IPVS_CMD_ZERO, s, false, NULL, false, "zeroing the counters", err);
}

/* ── many rows at once ────────────────────────────────────────────────────────────────────── */

struct ipvs_batch {
	struct nl_batch *nl;
	int family;
	char *node;
};

int ipvs_batch_open(const struct node *n, struct ipvs *ip, struct ipvs_batch **ret, struct err *err)
{
	_cleanup_nl_batch_ struct nl_batch *nl = NULL;
	struct ipvs_batch *b;
	int r;

	r = nl_batch_open(n, NETLINK_GENERIC, &nl, err);
	if (r < 0)
		return r;
	b = calloc(1, sizeof(*b));
	if (!b)
		return err_set(err, -ENOMEM, "out of memory");
	b->node = strdup(n->name);
	if (!b->node) {
		free(b);
		return err_set(err, -ENOMEM, "out of memory");
	}
	b->family = ip->family;
	b->nl = TAKE_PTR(nl);
	*ret = b;
	return 0;
}

void ipvs_batch_close(struct ipvs_batch *b)
{
	if (!b)
		return;
	nl_batch_close(b->nl);
	free(b->node);
	free(b);
}

static int batch_add(struct ipvs_batch *b, uint8_t cmd, const struct ipvs_service *s, bool full_s,
	const struct ipvs_dest *d, bool full_d, struct err *err)
{
	struct nl_msg *m;
	int r = make(b->family, cmd, s, full_s, d, full_d, &m);

	if (r < 0)
		return err_set(err, r, "ipvs on %s: %s", b->node, strerror(-r));
	r = nl_batch_add(b->nl, m, err);
	return r < 0 ? (err_prefix(err, "ipvs on %s", b->node), r) : 0;
}

int ipvs_batch_service(
	struct ipvs_batch *b, enum ipvs_verb v, const struct ipvs_service *s, struct err *err)
{
	static const uint8_t cmds[] = {
		IPVS_CMD_NEW_SERVICE, IPVS_CMD_SET_SERVICE, IPVS_CMD_DEL_SERVICE};

	return batch_add(b, cmds[v], s, v != IPVS_DEL, NULL, false, err);
}

int ipvs_batch_dest(struct ipvs_batch *b, enum ipvs_verb v, const struct ipvs_service *s,
	const struct ipvs_dest *d, struct err *err)
{
	static const uint8_t cmds[] = {IPVS_CMD_NEW_DEST, IPVS_CMD_SET_DEST, IPVS_CMD_DEL_DEST};

	return batch_add(b, cmds[v], s, false, d, v != IPVS_DEL, err);
}

int ipvs_batch_flush(struct ipvs_batch *b, struct err *err)
{
	int r = nl_batch_flush(b->nl, err);

	return r < 0 ? (err_prefix(err, "ipvs on %s", b->node), r) : 0;
}
