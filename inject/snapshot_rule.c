/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Policy routing rules: "rule inet pref 32766 to table 254 ...". A rule without a preference is preference 0. Attributes that are not
 * known here are shown as the kernel tells them, none of which changes by itself.
 */
#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <string.h>

#include "engine/nl.h"
#include "engine/snapshot.h"

struct take {
	struct strbuf *b;
	size_t start;
};

static void add_net(struct strbuf *b, const char *word, int family, const struct nlattr *a, unsigned int len)
{
	char text[INET6_ADDRSTRLEN];

	if (a && nla_len(a) == (family == AF_INET ? 4 : 16) && inet_ntop(family, nla_data(a), text, sizeof(text)))
		strbuf_addf(b, " %s %s/%u", word, text, len);
}

static void add_name(struct strbuf *b, const char *word, const struct nlattr *a)
{
	if (!a)
		return;
	strbuf_addf(b, " %s ", word);
	snapshot_word(b, nla_get_string((struct nlattr *)a));
}

static int rule_cb(struct nlmsghdr *hdr, void *arg)
{
	/* said in words, or padding; the rest follows as it came */
	static const int known[] = {FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_OIFNAME, FRA_PRIORITY, FRA_TABLE, FRA_PAD, 0};
	struct nlattr *tb[FRA_MAX + 1];
	struct take *t = arg;
	const struct fib_rule_hdr *r;
	uint32_t table;

	if (!hdr) {
		if (t->b->s)
			t->b->s[t->b->len = t->start] = '\0';
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWRULE)
		return 0;
	if (nlmsg_parse(hdr, sizeof(*r), tb, FRA_MAX, NULL) < 0)
		return -EPROTO;
	r = NLMSG_DATA(hdr);
	if (r->family != AF_INET && r->family != AF_INET6)
		return 0;
	table = tb[FRA_TABLE] && nla_len(tb[FRA_TABLE]) >= 4 ? nla_get_u32(tb[FRA_TABLE]) : r->table;
	strbuf_addf(t->b, "rule %s pref %u", r->family == AF_INET ? "inet" : "inet6",
		tb[FRA_PRIORITY] && nla_len(tb[FRA_PRIORITY]) >= 4 ? nla_get_u32(tb[FRA_PRIORITY]) : 0);
	add_net(t->b, "from", r->family, tb[FRA_SRC], r->src_len);
	add_net(t->b, "to", r->family, tb[FRA_DST], r->dst_len);
	add_name(t->b, "iif", tb[FRA_IIFNAME]);
	add_name(t->b, "oif", tb[FRA_OIFNAME]);
	/* "detached" says whether its device is there just now */
	strbuf_addf(t->b, " tos %u action %u table %u flags %x", r->tos, r->action, table,
		r->flags & ~(uint32_t)(FIB_RULE_IIF_DETACHED | FIB_RULE_OIF_DETACHED | FIB_RULE_UNRESOLVED));
	snapshot_attrs(t->b, nlmsg_attrdata(hdr, sizeof(*r)), (size_t)nlmsg_attrlen(hdr, sizeof(*r)), known);
	strbuf_puts(t->b, "\n");
	return 0;
}

static int take(const struct node *n, struct strbuf *b, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	int r = nlc_open(n, NETLINK_ROUTE, &nl, err);

	for (int i = 0; r == 0 && i < 2; i++) {
		struct fib_rule_hdr h = {.family = i ? AF_INET6 : AF_INET};
		struct nl_msg *m = nlmsg_alloc_simple(RTM_GETRULE, 0);
		struct take t = {.b = b, .start = b->len};

		if (!m || nlmsg_append(m, &h, sizeof(h), NLMSG_ALIGNTO) < 0) {
			nlmsg_free(m);
			return -ENOMEM;
		}
		r = nlc_dump(nl, m, rule_cb, &t, err);
		if (r == -EOPNOTSUPP || r == -EAFNOSUPPORT)
			r = 0; /* a kernel without policy routing, or without IPv6 */
	}
	return r;
}

const struct snapshot_ops snapshot_rule = {.name = "rule", .take = take};
