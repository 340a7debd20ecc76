/* SPDX-License-Identifier: GPL-2.0-only */
#include "inject/detour.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/membarrier.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <netlink/attr.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>

#include "engine/change.h"
#include "engine/clock.h"
#include "engine/units.h"

#define LAST	  INT32_MAX /* the priority of our hook: whatever others do at the device's egress comes first */
#define MTU	  1000u	    /* below IPv6's 1280 */
#define HOOK	  TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)
#define PRIORITY  1u
#define INFO	  TC_H_MAKE(PRIORITY << 16, htons(ETH_P_ALL))
#define TABLES	  "muster-"
#define V4_DST	  16u /* where the destination stands in the header */
#define V6_DST	  24u

/* ── nets ──────────────────────────────────────────────────────────────────────────────────── */

static void mask_addr(uint8_t addr[16], unsigned int prefix)
{
	for (unsigned int i = 0; i < 16; i++) {
		if (i * 8 >= prefix)
			addr[i] = 0;
		else if (prefix - i * 8 < 8)
			addr[i] &= (uint8_t)(0xff << (8 - (prefix - i * 8)));
	}
}

int detour_net_parse(const char *text, struct detour_net *ret)
{
	struct detour_net n = {0};
	char host[DETOUR_NET_MAX];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	int64_t prefix;

	if (len >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = '\0';
	n.family = strchr(host, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(n.family, host, n.addr) != 1)
		return -EINVAL;
	prefix = n.family == AF_INET6 ? 128 : 32;
	if (slash && units_int(slash + 1, 0, prefix, &prefix) < 0)
		return -EINVAL;
	n.prefix = (uint8_t)prefix;
	mask_addr(n.addr, n.prefix);
	*ret = n;
	return 0;
}

static unsigned int whole(int family)
{
	return family == AF_INET6 ? 128 : 32;
}

const char *detour_net_fmt(char buf[DETOUR_NET_MAX], const struct detour_net *n)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (n->family == AF_UNSPEC) {
		snprintf(buf, DETOUR_NET_MAX, "everybody");
		return buf;
	}
	inet_ntop(n->family, n->addr, host, sizeof(host));
	if (n->prefix == whole(n->family))
		snprintf(buf, DETOUR_NET_MAX, "%s", host);
	else
		snprintf(buf, DETOUR_NET_MAX, "%s/%u", host, n->prefix);
	return buf;
}

bool detour_net_overlap(const struct detour_net *a, const struct detour_net *b)
{
	uint8_t x[16], y[16];
	unsigned int prefix = MIN(a->prefix, b->prefix);

	if (a->family == AF_UNSPEC || b->family == AF_UNSPEC)
		return true;
	if (a->family != b->family)
		return false;
	memcpy(x, a->addr, sizeof(x));
	memcpy(y, b->addr, sizeof(y));
	mask_addr(x, prefix);
	mask_addr(y, prefix);
	return memcmp(x, y, sizeof(x)) == 0;
}

bool detour_net_has(const struct detour_net *n, const char *addr)
{
	char plain[DETOUR_NET_MAX];
	struct detour_net one;

	/* "fe80::1%2": which link is meant is not a matter of nets */
	snprintf(plain, sizeof(plain), "%.*s", (int)strcspn(addr, "%"), addr);
	return detour_net_parse(plain, &one) == 0 && detour_net_overlap(n, &one);
}

/* ── names ─────────────────────────────────────────────────────────────────────────────────── */

const char *detour_in(const struct detour *d, char buf[DETOUR_NAME_MAX])
{
	snprintf(buf, DETOUR_NAME_MAX, "mu%s-in", d->token);
	return buf;
}

const char *detour_out(const struct detour *d, char buf[DETOUR_NAME_MAX])
{
	snprintf(buf, DETOUR_NAME_MAX, "mu%s-out", d->token);
	return buf;
}

const char *detour_table(const struct detour *d, char buf[DETOUR_NAME_MAX])
{
	snprintf(buf, DETOUR_NAME_MAX, TABLES "%s", d->token);
	return buf;
}

/* A name of nftables' must begin with a letter; a device's need not, and another device may have the name by now. */
static const char *chain_name(int ifindex, char buf[DETOUR_NAME_MAX])
{
	snprintf(buf, DETOUR_NAME_MAX, "if%d", ifindex);
	return buf;
}

int detour_token(char ret[DETOUR_TOKEN_LEN + 1], struct err *err)
{
	uint32_t random;

	if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return err_set(err, -EIO, "random numbers: %s", strerror(errno));
	snprintf(ret, DETOUR_TOKEN_LEN + 1, "%08x", random);
	return 0;
}

/* ── nftables ──────────────────────────────────────────────────────────────────────────────── */

static struct nl_msg *nft(int command, int flags)
{
	struct nfgenmsg g = {.nfgen_family = NFPROTO_NETDEV, .version = NFNETLINK_V0};
	struct nl_msg *m = nlmsg_alloc_size(8192);

	if (m && nlmsg_put(m, 0, 0, NFNL_SUBSYS_NFTABLES << 8 | command, 0, flags) && nlmsg_append(m, &g, sizeof(g), NLMSG_ALIGNTO) == 0)
		return m;
	nlmsg_free(m);
	return NULL;
}

static int put_be32(struct nl_msg *m, int type, uint32_t v)
{
	return nla_put_u32(m, type, htonl(v));
}

static int put_value(struct nl_msg *m, int type, const void *data, size_t len)
{
	struct nlattr *nest = nla_nest_start(m, type);

	if (!nest || nla_put(m, NFTA_DATA_VALUE, (int)len, data) < 0)
		return -ENOMEM;
	nla_nest_end(m, nest);
	return 0;
}

struct expr {
	struct nlattr *elem, *data;
};

static int expr_begin(struct nl_msg *m, const char *name, struct expr *ret)
{
	struct nlattr *elem = nla_nest_start(m, NFTA_LIST_ELEM), *data;

	if (!elem || nla_put_string(m, NFTA_EXPR_NAME, name) < 0 || !(data = nla_nest_start(m, NFTA_EXPR_DATA)))
		return -ENOMEM;
	*ret = (struct expr){elem, data};
	return 0;
}

static void expr_end(struct nl_msg *m, const struct expr *e)
{
	/* counter has no attributes of need, and libnl takes an empty nest away again unless it is kept */
	nla_nest_end_keep_empty(m, e->data);
	nla_nest_end(m, e->elem);
}

static int put_compare(struct nl_msg *m, const void *data, size_t len)
{
	struct expr e;

	if (expr_begin(m, "cmp", &e) < 0 || put_be32(m, NFTA_CMP_SREG, NFT_REG_1) < 0 ||
		put_be32(m, NFTA_CMP_OP, NFT_CMP_EQ) < 0 || put_value(m, NFTA_CMP_DATA, data, len) < 0)
		return -ENOMEM;
	expr_end(m, &e);
	return 0;
}

static int put_match(struct nl_msg *m, const struct detour_net *n)
{
	uint16_t proto = htons(n->family == AF_INET6 ? ETH_P_IPV6 : ETH_P_IP);
	uint32_t len = whole(n->family) / 8;
	uint8_t mask[16], zero[16] = {0};
	struct expr e;

	if (expr_begin(m, "meta", &e) < 0 || put_be32(m, NFTA_META_KEY, NFT_META_PROTOCOL) < 0 ||
		put_be32(m, NFTA_META_DREG, NFT_REG_1) < 0)
		return -ENOMEM;
	expr_end(m, &e);
	if (put_compare(m, &proto, sizeof(proto)) < 0)
		return -ENOMEM;
	if (!n->prefix)
		return 0;
	if (expr_begin(m, "payload", &e) < 0 || put_be32(m, NFTA_PAYLOAD_DREG, NFT_REG_1) < 0 ||
		put_be32(m, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER) < 0 ||
		put_be32(m, NFTA_PAYLOAD_OFFSET, n->family == AF_INET6 ? V6_DST : V4_DST) < 0 ||
		put_be32(m, NFTA_PAYLOAD_LEN, len) < 0)
		return -ENOMEM;
	expr_end(m, &e);
	if (n->prefix < whole(n->family)) {
		memset(mask, 0xff, sizeof(mask));
		mask_addr(mask, n->prefix);
		if (expr_begin(m, "bitwise", &e) < 0 || put_be32(m, NFTA_BITWISE_SREG, NFT_REG_1) < 0 ||
			put_be32(m, NFTA_BITWISE_DREG, NFT_REG_1) < 0 || put_be32(m, NFTA_BITWISE_LEN, len) < 0 ||
			put_value(m, NFTA_BITWISE_MASK, mask, len) < 0 || put_value(m, NFTA_BITWISE_XOR, zero, len) < 0)
			return -ENOMEM;
		expr_end(m, &e);
	}
	return put_compare(m, n->addr, len);
}

static int put_exprs(struct nl_msg *m, const struct detour_net *n, int oif)
{
	struct nlattr *list = nla_nest_start(m, NFTA_RULE_EXPRESSIONS);
	uint32_t index = (uint32_t)oif; /* host order, in a register */
	struct expr e;

	if (!list || (n->family != AF_UNSPEC && put_match(m, n) < 0) || expr_begin(m, "counter", &e) < 0)
		return -ENOMEM;
	expr_end(m, &e);
	if (expr_begin(m, "immediate", &e) < 0 || put_be32(m, NFTA_IMMEDIATE_DREG, NFT_REG_1) < 0 ||
		put_value(m, NFTA_IMMEDIATE_DATA, &index, sizeof(index)) < 0)
		return -ENOMEM;
	expr_end(m, &e);
	if (expr_begin(m, "fwd", &e) < 0 || put_be32(m, NFTA_FWD_SREG_DEV, NFT_REG_1) < 0)
		return -ENOMEM;
	expr_end(m, &e);
	nla_nest_end(m, list);
	return 0;
}

static struct nl_msg *rule_msg(const struct detour *d, const struct detour_net *n, int oif)
{
	struct nl_msg *m = nft(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
	char name[DETOUR_NAME_MAX], chain[DETOUR_NAME_MAX];

	if (m && nla_put_string(m, NFTA_RULE_TABLE, detour_table(d, name)) == 0 &&
		nla_put_string(m, NFTA_RULE_CHAIN, chain_name(d->ifindex, chain)) == 0 && put_exprs(m, n, oif) == 0)
		return m;
	nlmsg_free(m);
	return NULL;
}

static struct nl_msg *table_msg(const struct detour *d, const char *comment)
{
	struct nl_msg *m = nft(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
	uint8_t user[2 + 200] = {0}; /* nft's own form of a comment: type 0, length, text with its end */
	size_t len = MIN(strlen(comment), sizeof(user) - 3);
	char name[DETOUR_NAME_MAX];

	user[1] = (uint8_t)(len + 1);
	memcpy(user + 2, comment, len);
	if (m && nla_put_string(m, NFTA_TABLE_NAME, detour_table(d, name)) == 0 &&
		nla_put(m, NFTA_TABLE_USERDATA, (int)len + 3, user) == 0)
		return m;
	nlmsg_free(m);
	return NULL;
}

static struct nl_msg *chain_msg(const struct detour *d)
{
	struct nl_msg *m = nft(NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
	char name[DETOUR_NAME_MAX], chain[DETOUR_NAME_MAX];
	struct nlattr *hook;

	if (m && nla_put_string(m, NFTA_CHAIN_TABLE, detour_table(d, name)) == 0 &&
		nla_put_string(m, NFTA_CHAIN_NAME, chain_name(d->ifindex, chain)) == 0 &&
		(hook = nla_nest_start(m, NFTA_CHAIN_HOOK)) && put_be32(m, NFTA_HOOK_HOOKNUM, NF_NETDEV_EGRESS) == 0 &&
		put_be32(m, NFTA_HOOK_PRIORITY, (uint32_t)LAST) == 0 && nla_put_string(m, NFTA_HOOK_DEV, d->dev) == 0) {
		nla_nest_end(m, hook);
		if (put_be32(m, NFTA_CHAIN_POLICY, NF_ACCEPT) == 0 && nla_put_string(m, NFTA_CHAIN_TYPE, "filter") == 0)
			return m;
	}
	nlmsg_free(m);
	return NULL;
}

static int rules_add(struct nlc *nf, const struct detour *d, const char *comment, int oif, struct err *err)
{
	static const struct detour_net all = {.family = AF_UNSPEC};
	struct nl_msg *m[2 + DETOUR_NETS_MAX];
	size_t n = 0;
	int r;

	m[n++] = table_msg(d, comment);
	m[n++] = chain_msg(d);
	for (size_t i = 0; i < d->n; i++)
		m[n++] = rule_msg(d, &d->to[i], oif);
	if (!d->n)
		m[n++] = rule_msg(d, &all, oif);
	r = nlc_nft(nf, m, n, err);
	return r < 0 ? (err_prefix(err, "add a rule to %s's egress hook", d->dev), r) : 0;
}

static int rules_del(struct nlc *nf, const struct detour *d, struct err *err)
{
	struct nl_msg *m = nft(NFT_MSG_DELTABLE, 0);
	char name[DETOUR_NAME_MAX];
	int r;

	if (!m || nla_put_string(m, NFTA_TABLE_NAME, detour_table(d, name)) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_nft(nf, &m, 1, err);
	return r == -ENOENT ? 0 : r < 0 ? (err_prefix(err, "delete the rules of %s's egress hook", d->dev), r) : 0;
}

/* ── reading rules back ────────────────────────────────────────────────────────────────────── */

static uint32_t be32(const struct nlattr *nest, int type)
{
	const struct nlattr *a = nest ? nla_find(nla_data(nest), nla_len(nest), type) : NULL;

	return a && nla_len(a) >= 4 ? ntohl(nla_get_u32(a)) : UINT32_MAX;
}

static uint64_t be64(const struct nlattr *nest, int type)
{
	const struct nlattr *a = nest ? nla_find(nla_data(nest), nla_len(nest), type) : NULL;

	return a && nla_len(a) >= 8 ? be64toh(nla_get_u64(a)) : 0;
}

/* The bytes of a value, if there are @len of them */
static const uint8_t *value(const struct nlattr *nest, int type, size_t len)
{
	const struct nlattr *v = nest ? nla_find(nla_data(nest), nla_len(nest), type) : NULL;

	v = v ? nla_find(nla_data(v), nla_len(v), NFTA_DATA_VALUE) : NULL;
	return v && (size_t)nla_len(v) == len ? nla_data(v) : NULL;
}

struct rule {
	struct detour_net net;
	int oif;
	uint64_t packets, bytes;
};

/* The expressions in the order in which put_exprs() writes them; -EINVAL: another rule than one of ours */
static int rule_parse(struct nlattr *list, struct rule *ret)
{
	enum { START, PROTO, NET, LOADED, MASKED, MATCHED, COUNTED, AIMED, DONE } at = START;
	struct rule r = {.net.family = AF_UNSPEC};
	struct nlattr *elem;
	int rem;

	nla_for_each_nested(elem, list, rem) {
		const struct nlattr *name = nla_find(nla_data(elem), nla_len(elem), NFTA_EXPR_NAME);
		const struct nlattr *data = nla_find(nla_data(elem), nla_len(elem), NFTA_EXPR_DATA);
		size_t len = whole(r.net.family) / 8;
		const uint8_t *v;

		if (!name || nla_len(name) < 1 || nla_get_string(name)[nla_len(name) - 1] != '\0')
			return -EINVAL;
		if (at == START && streq(nla_get_string(name), "meta")) {
			if (be32(data, NFTA_META_KEY) != NFT_META_PROTOCOL)
				return -EINVAL;
			at = PROTO;
		} else if (at == PROTO && streq(nla_get_string(name), "cmp")) {
			v = value(data, NFTA_CMP_DATA, 2);
			if (!v || be32(data, NFTA_CMP_OP) != NFT_CMP_EQ)
				return -EINVAL;
			r.net.family = v[0] == 0x08 ? AF_INET : AF_INET6;
			if ((v[0] << 8 | v[1]) != (r.net.family == AF_INET ? ETH_P_IP : ETH_P_IPV6))
				return -EINVAL;
			at = NET;
		} else if (at == NET && streq(nla_get_string(name), "payload")) {
			if (be32(data, NFTA_PAYLOAD_BASE) != NFT_PAYLOAD_NETWORK_HEADER || be32(data, NFTA_PAYLOAD_LEN) != len ||
				be32(data, NFTA_PAYLOAD_OFFSET) != (r.net.family == AF_INET6 ? V6_DST : V4_DST))
				return -EINVAL;
			r.net.prefix = (uint8_t)whole(r.net.family);
			at = LOADED;
		} else if (at == LOADED && streq(nla_get_string(name), "bitwise")) {
			v = value(data, NFTA_BITWISE_MASK, len);
			if (!v)
				return -EINVAL;
			r.net.prefix = 0;
			for (size_t i = 0; i < len * 8 && v[i / 8] & 0x80 >> i % 8; i++)
				r.net.prefix++;
			at = MASKED;
		} else if ((at == LOADED || at == MASKED) && streq(nla_get_string(name), "cmp")) {
			v = value(data, NFTA_CMP_DATA, len);
			if (!v || be32(data, NFTA_CMP_OP) != NFT_CMP_EQ)
				return -EINVAL;
			memcpy(r.net.addr, v, len);
			at = MATCHED;
		} else if ((at == START || at == NET || at == MATCHED) && streq(nla_get_string(name), "counter")) {
			r.packets = be64(data, NFTA_COUNTER_PACKETS);
			r.bytes = be64(data, NFTA_COUNTER_BYTES);
			at = COUNTED;
		} else if (at == COUNTED && streq(nla_get_string(name), "immediate")) {
			v = value(data, NFTA_IMMEDIATE_DATA, sizeof(r.oif));
			if (!v)
				return -EINVAL;
			memcpy(&r.oif, v, sizeof(r.oif));
			at = AIMED;
		} else if (at == AIMED && streq(nla_get_string(name), "fwd")) {
			at = DONE;
		} else {
			return -EINVAL;
		}
	}
	if (at != DONE)
		return -EINVAL;
	*ret = r;
	return 0;
}

typedef int (*rule_cb)(const char *table, const char *chain, const struct rule *r, void *arg); /* @r NULL: none of ours */

struct rules_dump {
	rule_cb cb;
	void *arg;
};

static int rules_cb(struct nlmsghdr *hdr, void *arg)
{
	struct nlattr *tb[NFTA_RULE_MAX + 1];
	struct rules_dump *d = arg;
	struct rule r;
	int k;

	if (!hdr)
		return d->cb(NULL, NULL, NULL, d->arg);
	if (hdr->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE))
		return 0;
	if (nlmsg_parse(hdr, sizeof(struct nfgenmsg), tb, NFTA_RULE_MAX, NULL) < 0 || !tb[NFTA_RULE_TABLE] ||
		!tb[NFTA_RULE_CHAIN])
		return -EPROTO;
	if (strncmp(nla_get_string(tb[NFTA_RULE_TABLE]), TABLES, strlen(TABLES)) != 0)
		return 0;
	k = tb[NFTA_RULE_EXPRESSIONS] ? rule_parse(tb[NFTA_RULE_EXPRESSIONS], &r) : -EINVAL;
	return d->cb(nla_get_string(tb[NFTA_RULE_TABLE]), nla_get_string(tb[NFTA_RULE_CHAIN]), k == 0 ? &r : NULL, d->arg);
}

/* All rules in tables that have our kind of name */
static int rules_read(struct nlc *nf, rule_cb cb, void *arg, struct err *err)
{
	struct rules_dump d = {cb, arg};
	int r = nlc_dump(nf, nft(NFT_MSG_GETRULE, 0), rules_cb, &d, err);

	return r < 0 ? (err_prefix(err, "read the rules of nftables"), r) : 0;
}

struct taken {
	char chain[DETOUR_NAME_MAX];
	const struct detour_net *nets;
	size_t n;
	char what[DETOUR_NET_MAX], table[64];
	bool found;
};

static int taken_cb(const char *table, const char *chain, const struct rule *r, void *arg)
{
	static const struct detour_net all = {.family = AF_UNSPEC};
	struct taken *t = arg;

	if (!table) {
		t->found = false;
		return 0;
	}
	if (!r || t->found || !streq(chain, t->chain))
		return 0;
	for (size_t i = 0; i < MAX(t->n, (size_t)1) && !t->found; i++)
		t->found = detour_net_overlap(t->n ? &t->nets[i] : &all, &r->net);
	if (t->found) {
		(void)detour_net_fmt(t->what, &r->net);
		snprintf(t->table, sizeof(t->table), "%s", table);
	}
	return 0;
}

int detour_taken(struct nlc *nf, int ifindex, const struct detour_net *nets, size_t n, struct err *err)
{
	struct taken t = {.nets = nets, .n = n};
	int r;

	(void)chain_name(ifindex, t.chain);
	r = rules_read(nf, taken_cb, &t, err);
	if (r < 0)
		return r;
	if (t.found)
		return err_set(err, -EEXIST, "what is sent to %s takes another way already (nftables: table netdev %s)", t.what,
			t.table);
	return 0;
}

/* ── devices ───────────────────────────────────────────────────────────────────────────────── */

static struct nl_msg *link_msg(int type, int flags, const struct ifinfomsg *ifi)
{
	struct nl_msg *m = nlmsg_alloc_simple(type, flags);

	if (m && nlmsg_append(m, (void *)ifi, sizeof(*ifi), NLMSG_ALIGNTO) == 0)
		return m;
	nlmsg_free(m);
	return NULL;
}

static int link_add(struct nlc *rt, const char *name, const char *kind, int below, int *ret, struct err *err)
{
	struct nl_msg *m = link_msg(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &(struct ifinfomsg){.ifi_family = AF_UNSPEC});
	struct nlattr *info, *data;
	int r = -ENOMEM;

	if (m && nla_put_string(m, IFLA_IFNAME, name) == 0 && nla_put_u32(m, IFLA_MTU, MTU) == 0 &&
		(!below || nla_put_u32(m, IFLA_LINK, (uint32_t)below) == 0) && (info = nla_nest_start(m, IFLA_LINKINFO)) &&
		nla_put_string(m, IFLA_INFO_KIND, kind) == 0) {
		r = 0;
		if (below) {
			data = nla_nest_start(m, IFLA_INFO_DATA);
			r = data ? nla_put_u32(m, IFLA_MACVLAN_MODE, MACVLAN_MODE_PRIVATE) : -ENOMEM;
			if (r == 0)
				nla_nest_end(m, data);
		}
		nla_nest_end(m, info);
	}
	if (r < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_request(rt, m, err);
	if (r == 0)
		r = nlc_ifindex(rt, name, err);
	if (r < 0)
		return err_prefix(err, "make the %s %s", kind, name), r;
	*ret = r;
	return 0;
}

static int link_set(struct nlc *rt, int ifindex, const char *alias, bool up, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC, .ifi_index = ifindex, .ifi_flags = up ? IFF_UP : 0, .ifi_change = up ? IFF_UP : 0};
	struct nl_msg *m = link_msg(RTM_NEWLINK, 0, &ifi);

	if (!m || (alias && nla_put_string(m, IFLA_IFALIAS, alias) < 0)) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	return nlc_request(rt, m, err);
}

static int link_del(struct nlc *rt, int ifindex, struct err *err)
{
	int r = nlc_request(rt, link_msg(RTM_DELLINK, 0, &(struct ifinfomsg){.ifi_family = AF_UNSPEC, .ifi_index = ifindex}), err);

	return r == -ENODEV ? 0 : r;
}

struct link_seen {
	const char *kind;
	int ifindex;
	bool right;
};

static int link_cb(struct nlmsghdr *hdr, void *arg)
{
	struct link_seen *l = arg;
	const struct nlattr *info, *kind;

	if (!hdr || hdr->nlmsg_type != RTM_NEWLINK)
		return 0;
	l->ifindex = ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_index;
	info = nlmsg_find_attr(hdr, sizeof(struct ifinfomsg), IFLA_LINKINFO);
	kind = info ? nla_find(nla_data(info), nla_len(info), IFLA_INFO_KIND) : NULL;
	l->right = kind && nla_strcmp(kind, l->kind) == 0;
	return 0;
}

/* By name and kind; a device of another kind that has our name is not ours */
static int link_find(struct nlc *rt, const char *name, const char *kind, bool *ret, int *ret_ifindex, struct err *err)
{
	struct nl_msg *m = link_msg(RTM_GETLINK, 0, &(struct ifinfomsg){.ifi_family = AF_UNSPEC});
	struct link_seen l = {.kind = kind};
	int r;

	if (!m || nla_put_string(m, IFLA_IFNAME, name) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_get(rt, m, link_cb, &l, err);
	if (r < 0 && r != -ENODEV)
		return r;
	*ret = r == 0 && l.ifindex && l.right;
	*ret_ifindex = *ret ? l.ifindex : 0;
	return 0;
}

static int filter_add(struct nlc *rt, int out, const struct detour *d, struct err *err)
{
	struct tc_mirred redirect = {.action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR, .ifindex = (uint32_t)d->ifindex};
	struct nl_msg *m = tc_msg(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, out, HOOK, 0, INFO, "u32");
	struct nlattr *options, *acts, *act, *act_options;
	int r;

	if (m && (options = nla_nest_start(m, TCA_OPTIONS)) && tc_put_match_all(m) == 0 &&
		nla_put_string(m, TCA_U32_INDEV, d->dev) == 0 && (acts = nla_nest_start(m, TCA_U32_ACT)) &&
		(act = nla_nest_start(m, 1)) && nla_put_string(m, TCA_ACT_KIND, "mirred") == 0 &&
		(act_options = nla_nest_start(m, TCA_ACT_OPTIONS)) &&
		nla_put(m, TCA_MIRRED_PARMS, sizeof(redirect), &redirect) == 0) {
		nla_nest_end(m, act_options);
		nla_nest_end(m, act);
		nla_nest_end(m, acts);
		nla_nest_end(m, options);
		r = nlc_request(rt, m, err);
	} else {
		nlmsg_free(m);
		r = -ENOMEM;
	}
	return r < 0 ? (err_prefix(err, "redirect to %s", d->dev), r) : 0;
}

/* ── the whole ─────────────────────────────────────────────────────────────────────────────── */

int detour_make(struct nlc *rt, const struct detour *d, const char *alias, int *ret_in, struct err *err)
{
	char name[DETOUR_NAME_MAX];
	int out, in, r = link_add(rt, detour_out(d, name), "bridge", 0, &out, err);

	if (r == 0)
		r = link_add(rt, detour_in(d, name), "macvlan", out, &in, err);
	if (r == 0)
		r = link_set(rt, in, alias, false, err);
	if (r == 0)
		r = link_set(rt, out, alias, true, err);
	if (r == 0) {
		r = nlc_request(rt,
			tc_msg(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, out, TC_H_CLSACT, TC_H_MAKE(TC_H_CLSACT, 0), 0, "clsact"),
			err);
		if (r < 0)
			err_prefix(err, "add clsact to %s", detour_out(d, name));
	}
	if (r == 0)
		r = filter_add(rt, out, d, err);
	if (r == 0)
		*ret_in = in;
	return r;
}

int detour_open(struct nlc *rt, struct nlc *nf, const struct detour *d, const char *comment, struct err *err)
{
	char name[DETOUR_NAME_MAX];
	int in, r = nlc_ifindex(rt, detour_in(d, name), err);

	if (r < 0)
		return r;
	in = r;
	r = link_set(rt, in, NULL, true, err);
	return r < 0 ? r : rules_add(nf, d, comment, in, err);
}

struct mine {
	const struct detour *d;
	struct detour_seen *seen;
	char table[DETOUR_NAME_MAX], chain[DETOUR_NAME_MAX];
	size_t n; /* rules that are ours, in our order */
};

static int mine_cb(const char *table, const char *chain, const struct rule *r, void *arg)
{
	static const struct detour_net all = {.family = AF_UNSPEC};
	struct mine *m = arg;
	const struct detour_net *want;

	if (!table) {
		m->n = 0;
		m->seen->foreign = false;
		m->seen->packets = m->seen->bytes = 0;
		return 0;
	}
	if (!streq(table, m->table))
		return 0;
	want = m->d->n == 0 ? (m->n == 0 ? &all : NULL) : m->n < m->d->n ? &m->d->to[m->n] : NULL;
	if (!r || !want || !streq(chain, m->chain) || r->net.family != want->family || r->net.prefix != want->prefix ||
		memcmp(r->net.addr, want->addr, sizeof(want->addr)) != 0 ||
		(m->seen->in && r->oif != m->seen->in_ifindex)) {
		m->seen->foreign = true;
		return 0;
	}
	m->n++;
	m->seen->packets += r->packets;
	m->seen->bytes += r->bytes;
	return 0;
}

static int table_find(struct nlc *nf, const struct detour *d, bool *ret, struct err *err)
{
	struct nl_msg *m = nft(NFT_MSG_GETTABLE, 0);
	char name[DETOUR_NAME_MAX];
	int r;

	if (!m || nla_put_string(m, NFTA_TABLE_NAME, detour_table(d, name)) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_get(nf, m, NULL, NULL, err);
	if (r < 0 && r != -ENOENT)
		return r;
	*ret = r == 0;
	return 0;
}

int detour_read(struct nlc *rt, struct nlc *nf, const struct detour *d, struct detour_seen *ret, struct err *err)
{
	struct detour_seen s = {0};
	struct mine m = {.d = d, .seen = &s};
	char name[DETOUR_NAME_MAX];
	int r = link_find(rt, detour_in(d, name), "macvlan", &s.in, &s.in_ifindex, err);

	if (r == 0)
		r = link_find(rt, detour_out(d, name), "bridge", &s.out, &s.out_ifindex, err);
	if (r == 0)
		r = table_find(nf, d, &s.table, err);
	if (r == 0 && s.table) {
		(void)detour_table(d, m.table);
		(void)chain_name(d->ifindex, m.chain);
		r = rules_read(nf, mine_cb, &m, err);
		/* none at all: the device is gone, and its chain with it */
		if (m.n && m.n != MAX(d->n, (size_t)1))
			s.foreign = true;
		s.rules = m.n > 0 && !s.foreign;
	}
	if (r < 0)
		return r;
	*ret = s;
	return 0;
}

static int queued_cb(const struct tc_obj *o, void *arg)
{
	if (!o)
		*(uint32_t *)arg = 0;
	else if (o->parent == TC_H_ROOT)
		*(uint32_t *)arg = o->qlen;
	return 0;
}

int detour_close(struct nlc *rt, struct nlc *nf, const struct detour *d, const struct detour_seen *seen, nsec_t patience,
	struct err *err)
{
	int r = seen->table ? rules_del(nf, d, err) : 0, pause = 1;
	nsec_t until = now_ns() + patience;

	if (r < 0)
		return r;
	if (seen->in && seen->table) {
		uint32_t queued = 1;

		/* The hook is unlinked, but a CPU may still be under way in it: one RCU grace period, which is what this is. */
		(void)syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
		for (;;) {
			r = tc_dump(rt, RTM_GETQDISC, seen->in_ifindex, 0, queued_cb, &queued, err);
			if (r < 0 || !queued || now_ns() >= until)
				break;
			/* the kernel tells nobody that a queue has run empty */
			(void)poll(NULL, 0, pause);
			pause = MIN(pause * 2, 16);
		}
	}
	/* IN goes with what it stands on */
	if (seen->out)
		r = link_del(rt, seen->out_ifindex, err);
	else if (seen->in)
		r = link_del(rt, seen->in_ifindex, err);
	return r < 0 ? (err_prefix(err, "remove the detour's devices"), r) : 0;
}

/* ── plain words ───────────────────────────────────────────────────────────────────────────── */

static void line(const struct node *n, struct strbuf *b, const char *fmt, ...) _printf_(3, 4);
static void line(const struct node *n, struct strbuf *b, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	change_command_prefix(n, b);
	strbuf_puts(b, text);
	strbuf_puts(b, "\n");
}

static void if_there(const struct node *n, struct strbuf *b, const char *show, const char *del, const char *name)
{
	strbuf_puts(b, "! ");
	change_command_prefix(n, b);
	strbuf_addf(b, "%s %s >/dev/null 2>&1 || ", show, name);
	line(n, b, "%s %s", del, name);
}

void detour_command(const struct node *n, const struct detour *d, const char *alias, const char *root, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	char in[DETOUR_NAME_MAX], out[DETOUR_NAME_MAX], table[DETOUR_NAME_MAX], chain[DETOUR_NAME_MAX], net[DETOUR_NET_MAX];
	_cleanup_strbuf_ struct strbuf dev = {0}, rules = {0};

	strbuf_add_shell(&dev, d->dev);
	(void)detour_in(d, in);
	(void)detour_out(d, out);
	(void)detour_table(d, table);
	(void)chain_name(d->ifindex, chain);
	line(n, ret_apply, "ip link add name %s mtu %u type bridge", out, MTU);
	line(n, ret_apply, "ip link add link %s name %s mtu %u type macvlan mode private", out, in, MTU);
	line(n, ret_apply, "ip link set dev %s alias '%s'", in, alias);
	line(n, ret_apply, "ip link set dev %s alias '%s' up", out, alias);
	line(n, ret_apply, "tc qdisc add dev %s clsact", out);
	line(n, ret_apply,
		"tc filter add dev %s egress pref %u protocol all u32 match u32 0 0 indev %s action mirred egress redirect dev %s", out,
		PRIORITY, strbuf_cstr(&dev), strbuf_cstr(&dev));
	line(n, ret_apply, "tc qdisc add dev %s %s", in, root);
	line(n, ret_apply, "ip link set dev %s up", in);
	strbuf_addf(&rules,
		"add table netdev %s { comment \"%s\"; }; "
		"add chain netdev %s %s { type filter hook egress device \"%s\" priority %d; policy accept; }",
		table, alias, table, chain, d->dev, LAST);
	for (size_t i = 0; i < d->n; i++)
		strbuf_addf(&rules, "; add rule netdev %s %s %s daddr %s counter fwd to %s", table, chain,
			d->to[i].family == AF_INET6 ? "ip6" : "ip", detour_net_fmt(net, &d->to[i]), in);
	if (!d->n)
		strbuf_addf(&rules, "; add rule netdev %s %s counter fwd to %s", table, chain, in);
	change_command_prefix(n, ret_apply);
	strbuf_puts(ret_apply, "nft ");
	strbuf_add_shell(ret_apply, strbuf_cstr(&rules));
	strbuf_puts(ret_apply, "\n");
	if_there(n, ret_undo, "nft list table netdev", "nft delete table netdev", table);
	if_there(n, ret_undo, "ip link show dev", "ip link del dev", out); /* IN goes with what it stands on */
}
