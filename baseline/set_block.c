/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.block: the one rule that asks a set: what is in it is dropped before anything else is done with it.
 *
 *	table ip muster_block_NAME { chain block { type filter hook prerouting priority raw; (match set NAME src) counter drop } }
 *
 * nf_tables has sets of its own and cannot ask an ipset by itself; but it can call the match that iptables has for it (nft_compat and
 * xt_set), as iptables-nft does. The rule stands in a table of its own, so that nobody else's rules are touched, and goes with it.
 * The table is made and removed in one transaction: it is there as a whole or not at all.
 *
 * The rule holds the set by its index: a set that is swapped (set.ipset) is asked under the same name from then on, and one that a rule
 * refers to cannot be destroyed; so this comes after set.ipset, and is undone before it.
 *
 * prior = { "present": the same table was there already: nothing is done, and nothing undone }
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <linux/netfilter.h>
#include <linux/netfilter/ipset/ip_set.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/xt_set.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "baseline/sets.h"
#include "engine/change.h"
#include "engine/nl.h"

#define CHAIN	     "block"
#define PRIORITY_RAW (-300)
#define MATCH	     "set"
#define MATCH_REV    1 /* struct xt_set_info_match_v1 */
#define TABLE_PREFIX "muster_block_"
#define TABLE_MAX    (sizeof(TABLE_PREFIX) + SETS_NAME_MAX)
#define COMMENT	     "made by muster"

static const char *set_of(const json_t *args)
{
	return json_string_value(json_object_get(args, "name"));
}

static uint8_t family_of(const json_t *args)
{
	return streq(json_string_value(json_object_get(args, "family")), "inet6") ? NFPROTO_IPV6 : NFPROTO_IPV4;
}

static const char *family_name(const json_t *args)
{
	return family_of(args) == NFPROTO_IPV6 ? "ip6" : "ip";
}

/* What nft's own grammar takes for a name */
static void table_of(const json_t *args, char ret[TABLE_MAX])
{
	snprintf(ret, TABLE_MAX, TABLE_PREFIX "%s", set_of(args));
	for (char *p = ret; *p; p++)
		if (!isalnum((unsigned char)*p))
			*p = '_';
}

/* ── messages ─────────────────────────────────────────────────────────────────────────────── */

static struct nl_msg *message(int subsystem, int type, uint8_t family, int flags)
{
	struct nfgenmsg g = {.nfgen_family = family, .version = NFNETLINK_V0};
	struct nl_msg *m = nlmsg_alloc_simple(subsystem << 8 | type, flags);

	if (m && nlmsg_append(m, &g, sizeof(g), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return NULL;
	}
	return m;
}

static struct nl_msg *nft_message(int type, uint8_t family, int flags)
{
	return message(NFNL_SUBSYS_NFTABLES, type, family, flags);
}

static void put_be32(struct nl_msg *m, int attr, uint32_t v)
{
	(void)nla_put_u32(m, attr, htonl(v)); /* 2 KiB and more are free in a fresh message */
}

static struct nl_msg *new_table(uint8_t family, const char *table)
{
	struct nl_msg *m = nft_message(NFT_MSG_NEWTABLE, family, NLM_F_CREATE | NLM_F_EXCL);

	if (m)
		(void)nla_put_string(m, NFTA_TABLE_NAME, table);
	return m;
}

static struct nl_msg *new_chain(uint8_t family, const char *table)
{
	struct nl_msg *m = nft_message(NFT_MSG_NEWCHAIN, family, NLM_F_CREATE | NLM_F_EXCL);
	struct nlattr *hook;

	if (!m)
		return NULL;
	(void)nla_put_string(m, NFTA_CHAIN_TABLE, table);
	(void)nla_put_string(m, NFTA_CHAIN_NAME, CHAIN);
	hook = nla_nest_start(m, NFTA_CHAIN_HOOK | NLA_F_NESTED);
	put_be32(m, NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING);
	put_be32(m, NFTA_HOOK_PRIORITY, (uint32_t)PRIORITY_RAW);
	(void)nla_nest_end(m, hook);
	put_be32(m, NFTA_CHAIN_POLICY, NF_ACCEPT);
	(void)nla_put_string(m, NFTA_CHAIN_TYPE, "filter");
	return m;
}

static struct nlattr *expression(struct nl_msg *m, const char *name, struct nlattr **ret_data)
{
	struct nlattr *e = nla_nest_start(m, NFTA_LIST_ELEM | NLA_F_NESTED);

	(void)nla_put_string(m, NFTA_EXPR_NAME, name);
	*ret_data = nla_nest_start(m, NFTA_EXPR_DATA | NLA_F_NESTED);
	return e;
}

/* "src,dst" as the match has it: a bit for each part that is the source */
static struct xt_set_info_match_v1 match_info(uint16_t index, const char *match)
{
	struct xt_set_info_match_v1 info = {.match_set = {.index = index}};

	for (;;) {
		info.match_set.dim++;
		if (strncmp(match, "src", 3) == 0)
			info.match_set.flags |= (uint8_t)(1u << info.match_set.dim);
		match += 3;
		if (*match++ != ',')
			return info;
	}
}

static struct nl_msg *new_rule(uint8_t family, const char *table, uint16_t index, const char *match)
{
	struct nl_msg *m = nft_message(NFT_MSG_NEWRULE, family, NLM_F_CREATE | NLM_F_APPEND);
	union {
		struct xt_set_info_match_v1 info;
		char padded[8]; /* as the kernel aligns it */
	} payload = {.padded = {0}};
	struct nlattr *list, *e, *data, *value, *verdict;
	char comment[2 + sizeof(COMMENT)] = {0 /* NFTNL_UDATA_RULE_COMMENT */, sizeof(COMMENT)};

	if (!m)
		return NULL;
	payload.info = match_info(index, match);
	memcpy(comment + 2, COMMENT, sizeof(COMMENT));
	(void)nla_put_string(m, NFTA_RULE_TABLE, table);
	(void)nla_put_string(m, NFTA_RULE_CHAIN, CHAIN);
	list = nla_nest_start(m, NFTA_RULE_EXPRESSIONS | NLA_F_NESTED);
	e = expression(m, "match", &data);
	(void)nla_put_string(m, NFTA_MATCH_NAME, MATCH);
	put_be32(m, NFTA_MATCH_REV, MATCH_REV);
	(void)nla_put(m, NFTA_MATCH_INFO, sizeof(payload), &payload);
	(void)nla_nest_end(m, data);
	(void)nla_nest_end(m, e);
	e = expression(m, "counter", &data);
	(void)nla_nest_end(m, data);
	(void)nla_nest_end(m, e);
	e = expression(m, "immediate", &data);
	put_be32(m, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	value = nla_nest_start(m, NFTA_IMMEDIATE_DATA | NLA_F_NESTED);
	verdict = nla_nest_start(m, NFTA_DATA_VERDICT | NLA_F_NESTED);
	put_be32(m, NFTA_VERDICT_CODE, NF_DROP);
	(void)nla_nest_end(m, verdict);
	(void)nla_nest_end(m, value);
	(void)nla_nest_end(m, data);
	(void)nla_nest_end(m, e);
	(void)nla_nest_end(m, list);
	(void)nla_put(m, NFTA_RULE_USERDATA, sizeof(comment), comment);
	return m;
}

/* ── what is there ────────────────────────────────────────────────────────────────────────── */

struct found {
	const char *table;
	unsigned int tables, chains, other_chains, rules, ours;
};

static bool names(const struct nlmsghdr *h, int attr, const char *what)
{
	const struct nlattr *a = nlmsg_find_attr((struct nlmsghdr *)h, sizeof(struct nfgenmsg), attr);

	return a && nla_len(a) > 0 && ((const char *)nla_data(a))[nla_len(a) - 1] == '\0' && streq(nla_data(a), what);
}

static int on_table(struct nlmsghdr *h, void *arg)
{
	struct found *f = arg;

	if (!h)
		f->tables = 0;
	else if (h->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE) && names(h, NFTA_TABLE_NAME, f->table))
		f->tables++;
	return 0;
}

static int on_chain(struct nlmsghdr *h, void *arg)
{
	struct found *f = arg;

	if (!h)
		f->chains = f->other_chains = 0;
	else if (h->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN) && names(h, NFTA_CHAIN_TABLE, f->table)) {
		f->chains++;
		f->other_chains += !names(h, NFTA_CHAIN_NAME, CHAIN);
	}
	return 0;
}

static int on_rule(struct nlmsghdr *h, void *arg)
{
	struct found *f = arg;
	const struct nlattr *u;

	if (!h) {
		f->rules = f->ours = 0;
		return 0;
	}
	if (h->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE) || !names(h, NFTA_RULE_TABLE, f->table))
		return 0;
	f->rules++;
	u = nlmsg_find_attr(h, sizeof(struct nfgenmsg), NFTA_RULE_USERDATA);
	f->ours += u && nla_len(u) == 2 + (int)sizeof(COMMENT) && memcmp((const char *)nla_data(u) + 2, COMMENT, sizeof(COMMENT)) == 0;
	return 0;
}

enum state { NONE, OURS, FOREIGN };

static int look_at(const struct node *n, const json_t *args, enum state *ret, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	uint8_t family = family_of(args);
	char table[TABLE_MAX];
	struct found f = {.table = table};
	int r = nlc_open(n, NETLINK_NETFILTER, &nl, err);

	table_of(args, table);
	if (r == 0)
		r = nlc_dump(nl, nft_message(NFT_MSG_GETTABLE, family, 0), on_table, &f, err);
	if (r == 0 && f.tables == 0) {
		*ret = NONE;
		return 0;
	}
	if (r == 0)
		r = nlc_dump(nl, nft_message(NFT_MSG_GETCHAIN, family, 0), on_chain, &f, err);
	if (r == 0)
		r = nlc_dump(nl, nft_message(NFT_MSG_GETRULE, family, 0), on_rule, &f, err);
	if (r < 0)
		return r;
	*ret = f.chains == 1 && f.other_chains == 0 && f.rules == 1 && f.ours == 1 ? OURS : FOREIGN;
	return 0;
}

/* Its index, and whether it is of the family. -ENOENT: there is none */
static int find_set(const struct node *n, const json_t *args, uint16_t *ret, struct err *err)
{
	_cleanup_close_ int fd = node_socket(n, AF_INET, SOCK_RAW, IPPROTO_RAW);
	struct ip_set_req_get_set_family q = {.op = IP_SET_OP_GET_FNAME, .version = 6 /* IPSET_PROTOCOL_MIN */};
	socklen_t len = sizeof(q);

	if (fd < 0)
		return err_set(err, fd, "ipset %s on %s: %s", set_of(args), n->name, strerror(-fd));
	snprintf(q.set.name, sizeof(q.set.name), "%s", set_of(args));
	if (getsockopt(fd, SOL_IP, SO_IP_SET, &q, &len) < 0)
		return err_set(err, -errno, "ipset %s on %s: ask for it: %s", set_of(args), n->name, strerror(errno));
	if (q.set.index == IPSET_INVALID_ID) {
		err_set(err, -ENOENT, "set.block on %s: there is no ipset %s", n->name, set_of(args));
		return err_hint(err, "set.ipset makes it; it has to come before this");
	}
	if (q.family != NFPROTO_UNSPEC && q.family != family_of(args))
		return err_set(err, -EINVAL, "set.block on %s: ipset %s is of another family than %s", n->name, set_of(args),
			json_string_value(json_object_get(args, "family")));
	*ret = q.set.index;
	return 0;
}

/* ── the life of the change ───────────────────────────────────────────────────────────────── */

static int block_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	if (!sets_valid_name(set_of(args)))
		return err_set(err, -EINVAL, "set.block: name = \"%.40s\" is no name of an ipset", set_of(args));
	return 0;
}

static int block_supported(const struct node *n, const json_t *args, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct nl_msg *m;
	enum state state;
	struct err e = {0};
	int r = sets_supported(n, err);

	if (r == 0)
		r = nlc_open(n, NETLINK_NETFILTER, &nl, err);
	if (r < 0)
		return r;
	if (look_at(n, args, &state, &e) < 0)
		return err_set(err, -EOPNOTSUPP, "set.block on %s: nf_tables: not in this kernel (CONFIG_NF_TABLES): %s", n->name, e.text);
	m = message(NFNL_SUBSYS_NFT_COMPAT, NFNL_MSG_COMPAT_GET, family_of(args), 0);
	if (!m)
		return -ENOMEM;
	(void)nla_put_string(m, NFTA_COMPAT_NAME, MATCH);
	put_be32(m, NFTA_COMPAT_REV, MATCH_REV);
	put_be32(m, NFTA_COMPAT_TYPE, 0);
	if (nlc_get(nl, m, NULL, NULL, &e) < 0)
		return err_set(err, -EOPNOTSUPP,
			"set.block on %s: rules of nf_tables cannot ask an ipset in this kernel (CONFIG_NFT_COMPAT, CONFIG_NETFILTER_XT_SET): %s",
			n->name, e.text);
	return 0;
}

/* Who is in the set now may be cut off, on any device. A node or a set that is not there yet stops nobody. */
static int block_reach(const struct node *n, const json_t *args, json_t **ret_reach, struct err *err)
{
	_cleanup_(sets_clear) struct sets_set now = {0};
	_cleanup_json_ json_t *to = json_array();
	_cleanup_free_ char *save = NULL;
	int r;

	if (n->netns_fd < 0 || sets_supported(n, NULL) < 0)
		return 0;
	r = sets_save(n, set_of(args), SIZE_MAX, &save, err);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = sets_parse(save, set_of(args), &now);
	if (r < 0)
		return r;
	for (size_t i = 0; i < now.n; i++) /* "198.18.0.7,tcp:80" */
		json_array_append_new(to, json_stringn(now.elems[i].text, strcspn(now.elems[i].text, ", ")));
	if (now.n == 0)
		return 0;
	*ret_reach = json_pack("{s:[{s:s}], s:O}", "devices", "dev", "*", "to", to);
	return *ret_reach ? 0 : -ENOMEM;
}

static int block_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	char table[TABLE_MAX];
	enum state state;
	int r = look_at(n, args, &state, err);

	if (r < 0)
		return r;
	table_of(args, table);
	if (state == FOREIGN)
		return err_set(err, -EEXIST, "set.block on %s: there is a table %s %s already, and it is not what this would make", n->name,
			family_name(args), table);
	*ret_prior = json_pack("{s:b}", "present", state == OURS);
	return *ret_prior ? 0 : -ENOMEM;
}

static bool was_present(const json_t *prior)
{
	return json_is_true(json_object_get(prior, "present"));
}

static int block_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	uint8_t family = family_of(args);
	char table[TABLE_MAX];
	struct nl_msg *m[3];
	uint16_t index = 0;
	int r;

	if (was_present(prior))
		return 0;
	r = find_set(n, args, &index, err);
	if (r == 0)
		r = nlc_open(n, NETLINK_NETFILTER, &nl, err);
	if (r < 0)
		return r;
	table_of(args, table);
	m[0] = new_table(family, table);
	m[1] = new_chain(family, table);
	m[2] = new_rule(family, table, index, json_string_value(json_object_get(args, "match")));
	r = nlc_nft(nl, m, ARRAY_SIZE(m), err);
	if (r < 0)
		err_prefix(err, "set.block on %s: make table %s %s", n->name, family_name(args), table);
	return r;
}

static int block_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	char table[TABLE_MAX];
	enum state state;
	struct nl_msg *m;
	int r;

	if (was_present(prior))
		return 0;
	r = look_at(n, args, &state, err);
	if (r < 0 || state == NONE)
		return r;
	table_of(args, table);
	if (state == FOREIGN)
		return err_set(err, CHANGE_CONFLICT, "table %s %s on %s: somebody else has changed it: it is not what was made", family_name(args),
			table, n->name);
	r = nlc_open(n, NETLINK_NETFILTER, &nl, err);
	if (r < 0)
		return r;
	m = nft_message(NFT_MSG_DELTABLE, family_of(args), 0);
	if (m)
		(void)nla_put_string(m, NFTA_TABLE_NAME, table);
	r = nlc_nft(nl, &m, 1, err);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		err_prefix(err, "set.block on %s: remove table %s %s", n->name, family_name(args), table);
	return r;
}

static const char *const words[] = {[NONE] = "none", [OURS] = "drops", [FOREIGN] = "changed by somebody else"};

static int block_verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	enum state state, want = was_present(prior) ? OURS : NONE;
	int r = look_at(n, args, &state, err);

	if (r < 0 || state == want)
		return r;
	return err_set(err, 1, "rule for ipset %s on %s: %s, before: %s", set_of(args), n->name, words[state], words[want]);
}

static int block_look(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_items, struct err *err)
{
	enum state state;
	int r = look_at(n, args, &state, err);

	if (r < 0)
		return r;
	*ret_items = json_pack("[{s:o, s:s, s:s, s:s, s:b}]", "key", json_sprintf("rule for ipset %s", set_of(args)), "before",
		was_present(prior) ? words[OURS] : words[NONE], "want", words[OURS], "now", words[state], "holds", state == OURS);
	return *ret_items ? 0 : -ENOMEM;
}

static int block_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	char table[TABLE_MAX];

	if (prior && was_present(prior)) {
		strbuf_puts(ret_apply, "# nothing to do: it is so already\n");
		strbuf_puts(ret_undo, "# nothing was changed\n");
		return 0;
	}
	table_of(args, table);
	strbuf_addf(ret_apply, "# nft cannot say it; the same in iptables' words, in a table %s %s of its own:\n", family_name(args), table);
	change_command_prefix(n, ret_apply);
	strbuf_addf(ret_apply, "%s -t raw -A PREROUTING -m set --match-set %s %s -j DROP\n",
		family_of(args) == NFPROTO_IPV6 ? "ip6tables" : "iptables", set_of(args),
		json_string_value(json_object_get(args, "match")));
	/* asked first: a table that is not there is nothing to put back */
	strbuf_puts(ret_undo, "! ");
	change_command_prefix(n, ret_undo);
	strbuf_addf(ret_undo, "nft list table %s %s >/dev/null 2>&1 || ", family_name(args), table);
	change_command_prefix(n, ret_undo);
	strbuf_addf(ret_undo, "nft delete table %s %s\n", family_name(args), table);
	return 0;
}

static const struct param block_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "where"},
	{.name = "name", .type = PARAM_STRING, .required = true, .help = "of the ipset; set.ipset makes it"},
	{.name = "family", .type = PARAM_STRING, .values = "inet|inet6", .deflt = "inet", .help = "of its members"},
	{.name = "match",
		.type = PARAM_STRING,
		.values = "src|dst|src,src|src,dst|dst,src|dst,dst",
		.deflt = "src",
		.help = "which of the packet's addresses is looked for; two words for a set of addresses and ports"},
	PARAM_END,
};

const struct change_ops change_set_block = {
	.name = "set.block",
	.summary = "One packet filter rule that drops what is in an ipset",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = block_params,
	.example = "[{\"node\": \"node\", \"name\": \"blocked4\"},"
		   " {\"node\": \"node\", \"name\": \"blocked6\", \"family\": \"inet6\", \"match\": \"dst\"}]",
	.resolve = block_resolve,
	.supported = block_supported,
	.reach = block_reach,
	.capture = block_capture,
	.apply = block_apply,
	.undo = block_undo,
	.verify = block_verify,
	.look = block_look,
	.command = block_command,
};
