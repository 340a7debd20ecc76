/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The whole nftables ruleset, which is also what iptables-nft writes:
 *
 *	nft inet filter table flags 0
 *	nft inet filter chain input type filter hook { 1=00000001 2=00000000 } policy 1 flags 1
 *	nft inet filter rule input 1: meta{ ... } cmp{ ... } counter{} immediate{ ... }
 *	nft inet filter set blocked flags 0 ...
 *	nft inet filter set blocked element { 1=c6120001 }
 *
 * What is kept of each kind of object stands in the tables below; handles, use counts and generation numbers are not in them.
 * Expressions are shown as the kernel tells them, without what packets and time move: the values of counters, what is used up of a
 * quota, when a rule last matched. Members of a set that packets fill, and members that expire, come and go by themselves and are
 * left out. A set of more than MEMBERS_SHOWN members is one line with their number and a digest.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "engine/nl.h"
#include "engine/snapshot.h"

#define MEMBERS_SHOWN 256

enum form {
	TEXT,
	NUM32, /* network order */
	NUM64,
	BYTES,
	ATTRS,
	EXPR,
	EXPRS, /* a list of them */
};

struct keep {
	int attr;
	const char *word;
	enum form form;
};

static const struct keep of_table[] = {
	{NFTA_TABLE_FLAGS, "flags", NUM32},
	{NFTA_TABLE_USERDATA, "userdata", BYTES},
	{0},
};

static const struct keep of_chain[] = {
	{NFTA_CHAIN_TYPE, "type", TEXT},
	{NFTA_CHAIN_HOOK, "hook", ATTRS},
	{NFTA_CHAIN_POLICY, "policy", NUM32},
	{NFTA_CHAIN_FLAGS, "flags", NUM32},
	{NFTA_CHAIN_USERDATA, "userdata", BYTES},
	{0},
};

static const struct keep of_rule[] = {
	{NFTA_RULE_EXPRESSIONS, NULL, EXPRS},
	{NFTA_RULE_COMPAT, "compat", ATTRS},
	{NFTA_RULE_USERDATA, "userdata", BYTES},
	{0},
};

static const struct keep of_set[] = {
	{NFTA_SET_FLAGS, "flags", NUM32},
	{NFTA_SET_KEY_TYPE, "key", NUM32},
	{NFTA_SET_KEY_LEN, "length", NUM32},
	{NFTA_SET_DATA_TYPE, "data", NUM32},
	{NFTA_SET_DATA_LEN, "length", NUM32},
	{NFTA_SET_OBJ_TYPE, "object", NUM32},
	{NFTA_SET_POLICY, "policy", NUM32},
	{NFTA_SET_DESC, "description", ATTRS},
	{NFTA_SET_TIMEOUT, "timeout", NUM64},
	{NFTA_SET_GC_INTERVAL, "gc", NUM32},
	{NFTA_SET_EXPR, "each", EXPR},
	{NFTA_SET_EXPRESSIONS, "each", EXPRS},
	{NFTA_SET_USERDATA, "userdata", BYTES},
	{0},
};

static const struct keep of_element[] = {
	{NFTA_SET_ELEM_KEY, NULL, ATTRS},
	{NFTA_SET_ELEM_KEY_END, "to", ATTRS},
	{NFTA_SET_ELEM_DATA, "data", ATTRS},
	{NFTA_SET_ELEM_FLAGS, "flags", NUM32},
	{NFTA_SET_ELEM_OBJREF, "object", TEXT},
	{NFTA_SET_ELEM_EXPR, "with", EXPR},
	{NFTA_SET_ELEM_EXPRESSIONS, "with", EXPRS},
	{NFTA_SET_ELEM_USERDATA, "userdata", BYTES},
	{0},
};

static const struct keep of_object[] = {
	{NFTA_OBJ_TYPE, "type", NUM32},
	{NFTA_OBJ_USERDATA, "userdata", BYTES},
	{0},
};

static const struct keep of_flowtable[] = {
	{NFTA_FLOWTABLE_HOOK, "hook", ATTRS},
	{NFTA_FLOWTABLE_FLAGS, "flags", NUM32},
	{0},
};

/* What packets and time move inside an expression or a stateful object */
static const struct moving {
	const char *name;
	uint32_t object; /* NFT_OBJECT_...; 0: no object */
	int attrs[5];
} moving[] = {
	{"counter", NFT_OBJECT_COUNTER, {NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, NFTA_COUNTER_PAD, 0}},
	{"quota", NFT_OBJECT_QUOTA, {NFTA_QUOTA_FLAGS, NFTA_QUOTA_CONSUMED, NFTA_QUOTA_PAD, 0}},
	{"last", 0, {NFTA_LAST_SET, NFTA_LAST_MSECS, NFTA_LAST_PAD, 0}},
	{"limit", NFT_OBJECT_LIMIT, {NFTA_LIMIT_PAD, 0}},
	{"dynset", 0, {NFTA_DYNSET_SET_ID, NFTA_DYNSET_EXPR, NFTA_DYNSET_EXPRESSIONS, NFTA_DYNSET_PAD, 0}},
};

static const char *family_name(uint8_t family, char buf[16])
{
	static const struct {
		uint8_t family;
		const char *name;
	} names[] = {{NFPROTO_INET, "inet"}, {NFPROTO_IPV4, "ip"}, {NFPROTO_ARP, "arp"}, {NFPROTO_NETDEV, "netdev"},
		{NFPROTO_BRIDGE, "bridge"}, {NFPROTO_IPV6, "ip6"}};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].family == family)
			return names[i].name;
	snprintf(buf, 16, "family%u", family);
	return buf;
}

static uint32_t num32(const struct nlattr *a)
{
	return a && nla_len(a) >= 4 ? ntohl(nla_get_u32(a)) : 0;
}

static void add_body(struct strbuf *b, const struct moving *m, bool quota, const struct nlattr *data)
{
	strbuf_puts(b, "{");
	if (data) {
		snapshot_attrs(b, nla_data(data), (size_t)nla_len(data), m ? m->attrs : NULL);
		if (quota) { /* "depleted" is a state, "over" is a setting */
			uint32_t flags = num32(nla_find(nla_data(data), nla_len(data), NFTA_QUOTA_FLAGS));

			strbuf_addf(b, " flags %u", flags & ~(uint32_t)NFT_QUOTA_F_DEPLETED);
		}
	}
	strbuf_puts(b, " }");
}

static void add_expr(struct strbuf *b, const struct nlattr *expr)
{
	const struct nlattr *name = nla_find(nla_data(expr), nla_len(expr), NFTA_EXPR_NAME),
			    *data = nla_find(nla_data(expr), nla_len(expr), NFTA_EXPR_DATA);
	const struct moving *m = NULL;

	if (!name)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(moving); i++)
		if (streq(moving[i].name, nla_get_string((struct nlattr *)name)))
			m = &moving[i];
	strbuf_puts(b, " ");
	snapshot_word(b, nla_get_string((struct nlattr *)name));
	add_body(b, m, m && streq(m->name, "quota"), data);
}

static void add_kept(struct strbuf *b, const struct keep *k, const void *attrs, int len)
{
	for (; k->attr; k++) {
		const struct nlattr *a = nla_find(attrs, len, k->attr), *x;
		int left;

		if (!a)
			continue;
		if (k->word)
			strbuf_addf(b, " %s", k->word);
		switch (k->form) {
		case TEXT:
			strbuf_puts(b, " ");
			snapshot_word(b, nla_get_string((struct nlattr *)a));
			break;
		case NUM32:
			strbuf_addf(b, " %u", num32(a));
			break;
		case NUM64: {
			uint64_t v = 0;

			nla_memcpy(&v, a, sizeof(v));
			strbuf_addf(b, " %llu", (unsigned long long)be64toh(v));
			break;
		}
		case BYTES:
			strbuf_puts(b, " ");
			for (int i = 0; i < nla_len(a); i++)
				strbuf_addf(b, "%02x", ((const uint8_t *)nla_data(a))[i]);
			break;
		case ATTRS:
			strbuf_puts(b, " ");
			add_body(b, NULL, false, a);
			break;
		case EXPR:
			add_expr(b, a);
			break;
		case EXPRS:
			for (x = nla_data(a), left = nla_len(a); nla_ok(x, left); x = nla_next(x, &left))
				add_expr(b, x);
		}
	}
}

struct set {
	uint8_t family;
	uint32_t flags;
	char *table, *name;
};

struct take {
	struct strbuf *b;
	size_t start;
	char chain[512]; /* of the rule before */
	unsigned int index;
	struct set *sets;
	size_t n_sets;
	const struct set *set; /* whose members are being read */
	struct strbuf members;
	size_t n_members;
	uint64_t digest;
};

static void forget_sets(struct take *t)
{
	for (size_t i = 0; i < t->n_sets; i++) {
		free(t->sets[i].table);
		free(t->sets[i].name);
	}
	free(t->sets);
	t->sets = NULL;
	t->n_sets = 0;
}

static int keep_set(struct take *t, uint8_t family, uint32_t flags, const char *table, const char *name)
{
	struct set *more = realloc(t->sets, (t->n_sets + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	t->sets = more;
	more[t->n_sets] = (struct set){.family = family, .flags = flags, .table = strdup(table), .name = strdup(name)};
	t->n_sets++;
	return more[t->n_sets - 1].table && more[t->n_sets - 1].name ? 0 : -ENOMEM;
}

/* FNV-1a, 64 bits, of one member; the sum over all does not depend on their order */
static uint64_t digest(const char *text)
{
	uint64_t h = 14695981039346656037ull;

	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * 1099511628211ull;
	return h;
}

static int elements_cb(const struct nlmsghdr *hdr, struct take *t)
{
	const struct nlattr *list = nla_find(nlmsg_attrdata(hdr, sizeof(struct nfgenmsg)),
		nlmsg_attrlen(hdr, sizeof(struct nfgenmsg)), NFTA_SET_ELEM_LIST_ELEMENTS);
	const struct nlattr *e;
	int left;

	if (!list)
		return 0;
	for (e = nla_data(list), left = nla_len(list); nla_ok(e, left); e = nla_next(e, &left)) {
		_cleanup_strbuf_ struct strbuf one = {0};

		if (nla_find(nla_data(e), nla_len(e), NFTA_SET_ELEM_EXPIRATION))
			continue; /* it goes by itself */
		add_kept(&one, of_element, nla_data(e), nla_len(e));
		if (one.oom)
			return -ENOMEM;
		t->n_members++;
		t->digest += digest(strbuf_cstr(&one));
		if (t->n_members <= MEMBERS_SHOWN) {
			strbuf_puts(&t->members, strbuf_cstr(&one));
			strbuf_puts(&t->members, "\n");
		}
	}
	return 0;
}

static int object_cb(struct nlmsghdr *hdr, void *arg)
{
	/* TABLE is attribute 1 of all but the table itself, and NAME what stands here */
	static const struct {
		int type;
		const char *word;
		int table, name;
		const struct keep *keep;
	} kinds[] = {
		{NFT_MSG_NEWTABLE, "table", NFTA_TABLE_NAME, 0, of_table},
		{NFT_MSG_NEWCHAIN, "chain", NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, of_chain},
		{NFT_MSG_NEWRULE, "rule", NFTA_RULE_TABLE, NFTA_RULE_CHAIN, of_rule},
		{NFT_MSG_NEWSET, "set", NFTA_SET_TABLE, NFTA_SET_NAME, of_set},
		{NFT_MSG_NEWOBJ, "object", NFTA_OBJ_TABLE, NFTA_OBJ_NAME, of_object},
		{NFT_MSG_NEWFLOWTABLE, "flowtable", NFTA_FLOWTABLE_TABLE, NFTA_FLOWTABLE_NAME, of_flowtable},
	};
	const struct nlattr *table, *name;
	struct take *t = arg;
	const void *attrs;
	char family[16];
	uint8_t af;
	int len, r = 0;

	if (!hdr) {
		if (t->b->s)
			t->b->s[t->b->len = t->start] = '\0';
		t->chain[0] = '\0';
		if (!t->set) /* the list itself is read again */
			forget_sets(t);
		strbuf_free(&t->members);
		t->members = (struct strbuf){0};
		t->n_members = 0;
		t->digest = 0;
		return 0;
	}
	if (hdr->nlmsg_len < NLMSG_HDRLEN + sizeof(struct nfgenmsg) || hdr->nlmsg_type >> 8 != NFNL_SUBSYS_NFTABLES)
		return 0;
	attrs = nlmsg_attrdata(hdr, sizeof(struct nfgenmsg));
	len = nlmsg_attrlen(hdr, sizeof(struct nfgenmsg));
	af = ((const struct nfgenmsg *)NLMSG_DATA(hdr))->nfgen_family;
	if ((hdr->nlmsg_type & 0xff) == NFT_MSG_NEWSETELEM)
		return elements_cb(hdr, t);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if ((hdr->nlmsg_type & 0xff) != kinds[i].type)
			continue;
		table = nla_find(attrs, len, kinds[i].table);
		name = kinds[i].name ? nla_find(attrs, len, kinds[i].name) : NULL;
		if (!table || (kinds[i].name && !name))
			return -EPROTO;
		strbuf_addf(t->b, "nft %s ", family_name(af, family));
		snapshot_word(t->b, nla_get_string((struct nlattr *)table));
		strbuf_addf(t->b, " %s", kinds[i].word);
		if (name) {
			strbuf_puts(t->b, " ");
			snapshot_word(t->b, nla_get_string((struct nlattr *)name));
		}
		if (kinds[i].type == NFT_MSG_NEWRULE) {
			char chain[512];

			/* a chain's rules come one after the other, in order: their order is what they mean */
			snprintf(chain, sizeof(chain), "%u %s %s", af, nla_get_string((struct nlattr *)table),
				nla_get_string((struct nlattr *)name));
			t->index = streq(chain, t->chain) ? t->index + 1 : 1;
			strcpy(t->chain, chain);
			strbuf_addf(t->b, " %u:", t->index);
		}
		add_kept(t->b, kinds[i].keep, attrs, len);
		if (kinds[i].type == NFT_MSG_NEWOBJ) {
			uint32_t type = num32(nla_find(attrs, len, NFTA_OBJ_TYPE));
			const struct moving *m = NULL;

			for (size_t k = 0; k < ARRAY_SIZE(moving); k++)
				if (moving[k].object && moving[k].object == type)
					m = &moving[k];
			strbuf_puts(t->b, " ");
			add_body(t->b, m, type == NFT_OBJECT_QUOTA, nla_find(attrs, len, NFTA_OBJ_DATA));
		}
		strbuf_puts(t->b, "\n");
		if (kinds[i].type == NFT_MSG_NEWSET)
			r = keep_set(t, af, num32(nla_find(attrs, len, NFTA_SET_FLAGS)), nla_get_string((struct nlattr *)table),
				nla_get_string((struct nlattr *)name));
	}
	return r;
}

static int dump(struct nlc *nl, struct take *t, int type, const struct set *set, struct err *err)
{
	struct nfgenmsg g = {.nfgen_family = set ? set->family : AF_UNSPEC, .version = NFNETLINK_V0};
	struct nl_msg *m = nlmsg_alloc_simple(NFNL_SUBSYS_NFTABLES << 8 | type, 0);

	if (!m || nlmsg_append(m, &g, sizeof(g), NLMSG_ALIGNTO) < 0 ||
		(set && (nla_put_string(m, NFTA_SET_ELEM_LIST_TABLE, set->table) < 0 ||
				nla_put_string(m, NFTA_SET_ELEM_LIST_SET, set->name) < 0))) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	t->start = t->b->len;
	return nlc_dump(nl, m, object_cb, t, err);
}

static int dump_members(struct nlc *nl, struct take *t, const struct set *set, struct err *err)
{
	char family[16];
	int r;

	if (set->flags & NFT_SET_EVAL)
		return 0; /* packets fill it */
	t->set = set;
	(void)object_cb(NULL, t);
	r = dump(nl, t, NFT_MSG_GETSETELEM, set, err);
	t->set = NULL;
	if (r == -ENOENT)
		return 0; /* gone since it was listed */
	if (r < 0)
		return r;
	if (t->n_members > MEMBERS_SHOWN) {
		strbuf_addf(t->b, "nft %s ", family_name(set->family, family));
		snapshot_word(t->b, set->table);
		strbuf_puts(t->b, " set ");
		snapshot_word(t->b, set->name);
		strbuf_addf(t->b, " members %zu digest %016llx\n", t->n_members, (unsigned long long)t->digest);
		return 0;
	}
	for (const char *p = strbuf_cstr(&t->members); *p;) {
		size_t n = strcspn(p, "\n");

		strbuf_addf(t->b, "nft %s ", family_name(set->family, family));
		snapshot_word(t->b, set->table);
		strbuf_puts(t->b, " set ");
		snapshot_word(t->b, set->name);
		strbuf_puts(t->b, " element");
		strbuf_add(t->b, p, n);
		strbuf_puts(t->b, "\n");
		p += n + (p[n] == '\n');
	}
	return 0;
}

/* Asking the kernel could load the module, and a snapshot changes nothing. */
static bool has_nftables(void)
{
	_cleanup_free_ char *path = NULL, *list = NULL;
	struct utsname u;

	if (access("/sys/module/nf_tables", F_OK) == 0)
		return true;
	if (access("/proc/modules", F_OK) < 0)
		return true; /* a kernel that loads none: it may have it, and may be asked */
	if (uname(&u) < 0)
		return false;
	path = strf("/lib/modules/%s/modules.builtin", u.release);
	return path && file_read(path, 4 << 20, &list, NULL) == 0 && strstr(list, "/nf_tables.ko");
}

static int take(const struct node *n, struct strbuf *b, struct err *err)
{
	static const int kinds[] = {NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETOBJ,
		NFT_MSG_GETFLOWTABLE};
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct take t = {.b = b};
	int r;

	if (!has_nftables())
		return 0;
	r = nlc_open(n, NETLINK_NETFILTER, &nl, err);
	if (r == -EPROTONOSUPPORT)
		return 0;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(kinds); i++) {
		r = dump(nl, &t, kinds[i], NULL, err);
		if (r == -EINVAL && i == 0)
			return 0; /* no such subsystem */
	}
	for (size_t i = 0; r == 0 && i < t.n_sets; i++)
		r = dump_members(nl, &t, &t.sets[i], err);
	forget_sets(&t);
	strbuf_free(&t.members);
	return r;
}

const struct snapshot_ops snapshot_nft = {.name = "nft", .take = take};
