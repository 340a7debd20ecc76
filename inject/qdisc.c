/* SPDX-License-Identifier: GPL-2.0-only */
#include "inject/qdisc.h"

#include <arpa/inet.h>
#include <linux/gen_stats.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_gact.h>
#include <linux/tc_act/tc_mirred.h>
#include <linux/tc_act/tc_skbedit.h>
#include <netlink/attr.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define FILLERS_CHAIN 0x0ffffffeu /* where no packet is ever sent: see put_filters() */
#define FILLERS_MAX   64u
#define MSG_MAX 65536 /* an object's options may be larger than libnl's default page */

/* ── hex ───────────────────────────────────────────────────────────────────────────────────── */

char *hex_encode(const void *data, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *p = data;
	char *s = malloc(len * 2 + 1);

	if (!s)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		s[2 * i] = digits[p[i] >> 4];
		s[2 * i + 1] = digits[p[i] & 15];
	}
	s[2 * len] = '\0';
	return s;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int hex_decode(const char *text, void **ret, size_t *ret_len)
{
	size_t len = strlen(text) / 2;
	_cleanup_free_ uint8_t *p = NULL;

	if (strlen(text) % 2)
		return -EINVAL;
	p = malloc(len + 1);
	if (!p)
		return -ENOMEM;
	for (size_t i = 0; i < len; i++) {
		int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		p[i] = (uint8_t)(hi << 4 | lo);
	}
	*ret = TAKE_PTR(p);
	*ret_len = len;
	return 0;
}

/* ── messages ──────────────────────────────────────────────────────────────────────────────── */

const char *tc_handle_fmt(char buf[TC_HANDLE_MAX], uint32_t handle)
{
	if (handle == TC_H_ROOT)
		snprintf(buf, TC_HANDLE_MAX, "root");
	else if (TC_H_MIN(handle))
		snprintf(buf, TC_HANDLE_MAX, "%x:%x", TC_H_MAJ(handle) >> 16, TC_H_MIN(handle));
	else
		snprintf(buf, TC_HANDLE_MAX, "%x:", TC_H_MAJ(handle) >> 16);
	return buf;
}

struct nl_msg *tc_msg(int type, int flags, int ifindex, uint32_t parent, uint32_t handle, uint32_t info,
	const char *kind)
{
	struct tcmsg t = {.tcm_family = AF_UNSPEC,
		.tcm_ifindex = ifindex,
		.tcm_parent = parent,
		.tcm_handle = handle,
		.tcm_info = info};
	struct nl_msg *m = nlmsg_alloc_size(MSG_MAX);

	if (m && nlmsg_put(m, 0, 0, type, 0, flags) && nlmsg_append(m, &t, sizeof(t), NLMSG_ALIGNTO) == 0 &&
		(!kind || nla_put_string(m, TCA_KIND, kind) == 0))
		return m;
	nlmsg_free(m);
	return NULL;
}

int tc_put_match_all(struct nl_msg *m)
{
	const struct tc_u32_sel sel = {.flags = TC_U32_TERMINAL, .nkeys = 1};
	/* the selector's keys follow it */
	_Alignas(struct tc_u32_sel) char bytes[sizeof(struct tc_u32_sel) + sizeof(struct tc_u32_key)] = {0};

	memcpy(bytes, &sel, sizeof(sel));
	return nla_put(m, TCA_U32_SEL, sizeof(bytes), bytes) < 0 ? -ENOMEM : 0;
}

static void stats_read(struct nlattr *nest, struct tc_obj *o)
{
	struct nlattr *tb[TCA_STATS_MAX + 1];

	if (nla_parse_nested(tb, TCA_STATS_MAX, nest, NULL) < 0)
		return;
	if (tb[TCA_STATS_BASIC]) {
		struct gnet_stats_basic b = {0};

		nla_memcpy(&b, tb[TCA_STATS_BASIC], sizeof(b));
		o->bytes = b.bytes;
		o->packets = b.packets;
	}
	/* the full count, where 32 bits were not enough (Linux 5.5) */
	if (tb[TCA_STATS_PKT64] && nla_len(tb[TCA_STATS_PKT64]) >= 8)
		o->packets = nla_get_u64(tb[TCA_STATS_PKT64]);
	if (tb[TCA_STATS_QUEUE]) {
		struct gnet_stats_queue q = {0};

		nla_memcpy(&q, tb[TCA_STATS_QUEUE], sizeof(q));
		o->drops = q.drops;
		o->overlimits = q.overlimits;
		o->qlen = q.qlen;
		o->backlog = q.backlog;
	}
}

struct dump {
	int ifindex;
	tc_cb cb;
	void *arg;
};

static int dump_cb(struct nlmsghdr *hdr, void *arg)
{
	struct nlattr *tb[TCA_MAX + 1];
	struct dump *d = arg;
	struct tc_obj o = {0};
	struct tcmsg *t;

	if (!hdr)
		return d->cb(NULL, d->arg);
	if (hdr->nlmsg_type != RTM_NEWQDISC && hdr->nlmsg_type != RTM_NEWTCLASS &&
		hdr->nlmsg_type != RTM_NEWTFILTER)
		return 0;
	if (nlmsg_parse(hdr, sizeof(*t), tb, TCA_MAX, NULL) < 0 || !tb[TCA_KIND])
		return -EPROTO;
	t = NLMSG_DATA(hdr);
	/* older kernels dump the qdiscs of all devices, whatever was asked for */
	if (d->ifindex && t->tcm_ifindex != d->ifindex)
		return 0;
	o.type = hdr->nlmsg_type;
	o.ifindex = t->tcm_ifindex;
	o.handle = t->tcm_handle;
	o.parent = t->tcm_parent;
	o.info = t->tcm_info;
	o.kind = nla_get_string(tb[TCA_KIND]);
	if (memchr(o.kind, '\0', (size_t)nla_len(tb[TCA_KIND])) == NULL)
		return -EPROTO;
	if (tb[TCA_CHAIN])
		o.chain = nla_get_u32(tb[TCA_CHAIN]);
	if (tb[TCA_OPTIONS]) {
		o.options = nla_data(tb[TCA_OPTIONS]);
		o.options_len = (size_t)nla_len(tb[TCA_OPTIONS]);
	}
	if (tb[TCA_STAB]) {
		const struct nlattr *base = nla_find(nla_data(tb[TCA_STAB]), nla_len(tb[TCA_STAB]), TCA_STAB_BASE);

		o.stab = base ? nla_data(base) : "";
		o.stab_len = base ? (size_t)nla_len(base) : 0;
	}
	o.block = (tb[TCA_INGRESS_BLOCK] && nla_get_u32(tb[TCA_INGRESS_BLOCK])) ||
		  (tb[TCA_EGRESS_BLOCK] && nla_get_u32(tb[TCA_EGRESS_BLOCK]));
	if (tb[TCA_STATS2])
		stats_read(tb[TCA_STATS2], &o);
	return d->cb(&o, d->arg);
}

int tc_dump(struct nlc *nl, int type, int ifindex, uint32_t parent, tc_cb cb, void *arg, struct err *err)
{
	struct dump d = {.ifindex = ifindex, .cb = cb, .arg = arg};

	return nlc_dump(nl, tc_msg(type, 0, ifindex, parent, 0, 0, NULL), dump_cb, &d, err);
}

struct link_reply {
	unsigned int n_tx;
	bool seen;
};

static int link_cb(struct nlmsghdr *hdr, void *arg)
{
	struct link_reply *l = arg;
	struct nlattr *a;

	if (!hdr || hdr->nlmsg_type != RTM_NEWLINK)
		return 0;
	l->seen = true;
	a = nlmsg_find_attr(hdr, sizeof(struct ifinfomsg), IFLA_NUM_TX_QUEUES);
	if (a && nla_len(a) >= 4)
		l->n_tx = nla_get_u32(a);
	return 0;
}

int qdisc_tx_queues(struct nlc *nl, int ifindex, unsigned int *ret, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC, .ifi_index = ifindex};
	struct nl_msg *m = nlmsg_alloc_simple(RTM_GETLINK, 0);
	struct link_reply l = {.n_tx = 1};
	int r;

	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_get(nl, m, link_cb, &l, err);
	if (r < 0)
		return r;
	if (!l.seen)
		return err_set(err, -ENODEV, "no device with index %d", ifindex);
	*ret = l.n_tx;
	return 0;
}

/* ── options: what a dump holds beyond what was configured ─────────────────────────────────── */

/* Attributes of a filter's options that a dump has beyond the configuration, and those that hold actions; by kind */
static const struct filter_kind {
	const char *kind;
	bool replayable;
	enum { BY_HANDLE, NEWEST_FIRST, UNTOLD } order; /* in which filters of one priority are tried */
	int act, police, flags, count, volatile_;
} filter_kinds[] = {
	{"u32", true, BY_HANDLE, TCA_U32_ACT, TCA_U32_POLICE, TCA_U32_FLAGS, TCA_U32_PCNT, -1},
	{"fw", true, BY_HANDLE, TCA_FW_ACT, TCA_FW_POLICE, -1, -1, -1},
	{"flower", true, UNTOLD, TCA_FLOWER_ACT, -1, TCA_FLOWER_FLAGS, -1, TCA_FLOWER_IN_HW_COUNT},
	{"matchall", true, BY_HANDLE, TCA_MATCHALL_ACT, -1, TCA_MATCHALL_FLAGS, TCA_MATCHALL_PCNT, -1},
	{"basic", true, NEWEST_FIRST, TCA_BASIC_ACT, TCA_BASIC_POLICE, -1, TCA_BASIC_PCNT, -1},
	/* a program is dumped by name, tag and id, and may be gone by the time it would be put back */
	{"bpf", false, NEWEST_FIRST, TCA_BPF_ACT, TCA_BPF_POLICE, TCA_BPF_FLAGS_GEN, -1, TCA_BPF_ID},
};

static const struct filter_kind *filter_kind(const char *kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(filter_kinds); i++)
		if (streq(filter_kinds[i].kind, kind))
			return &filter_kinds[i];
	return NULL;
}

/* Walks attributes in @data, keeping those for which @keep says so; edits in place, returns the new length. */
static size_t options_filter(uint8_t *data, size_t len, bool (*keep)(struct nlattr *a, const void *arg),
	const void *arg)
{
	size_t from = 0, to = 0;

	while (len - from >= NLA_HDRLEN) {
		struct nlattr *a = (struct nlattr *)(data + from);
		size_t total = NLA_ALIGN(a->nla_len), step = MIN(total, len - from);

		if (a->nla_len < NLA_HDRLEN || a->nla_len > len - from)
			break;
		if (keep(a, arg)) {
			size_t kept = MIN(NLA_ALIGN(a->nla_len), step); /* it may have become shorter */

			memmove(data + to, data + from, kept);
			to += kept;
		}
		from += step;
	}
	return to;
}

/* Actions whose dump is what they are made from, once counters, times and references are out of it */
static const struct action_kind {
	const char *kind;
	int parms, time, pad;
	size_t size;
} action_kinds[] = {
	{"gact", TCA_GACT_PARMS, TCA_GACT_TM, TCA_GACT_PAD, sizeof(struct tc_gact)},
	{"mirred", TCA_MIRRED_PARMS, TCA_MIRRED_TM, TCA_MIRRED_PAD, sizeof(struct tc_mirred)},
	{"skbedit", TCA_SKBEDIT_PARMS, TCA_SKBEDIT_TM, TCA_SKBEDIT_PAD, sizeof(struct tc_skbedit)},
};

/* What all of their parameters begin with (pkt_cls.h: tc_gen) */
struct action_gen {
	uint32_t index, capab;
	int32_t action, refcnt, bindcnt;
};

static const struct action_kind *action_kind(const struct nlattr *act)
{
	const struct nlattr *kind = nla_find(nla_data(act), nla_len(act), TCA_ACT_KIND);

	for (size_t i = 0; kind && i < ARRAY_SIZE(action_kinds); i++)
		if (nla_strcmp(kind, action_kinds[i].kind) == 0)
			return &action_kinds[i];
	return NULL;
}

static const struct nlattr *action_parms(const struct nlattr *act, const struct action_kind *k)
{
	const struct nlattr *o = nla_find(nla_data(act), nla_len(act), TCA_ACT_OPTIONS);
	const struct nlattr *p = o ? nla_find(nla_data(o), nla_len(o), k->parms) : NULL;

	return p && (size_t)nla_len(p) >= k->size ? p : NULL;
}

/* Can all the actions in @list be made again? One that other filters share, or that stands by itself, is not ours to make. */
static bool actions_replayable(const struct nlattr *list)
{
	struct nlattr *act;
	int rem;

	nla_for_each_nested(act, list, rem) {
		const struct action_kind *k = action_kind(act);
		const struct nlattr *p = k ? action_parms(act, k) : NULL;
		struct action_gen gen;

		if (!p)
			return false;
		memcpy(&gen, nla_data(p), sizeof(gen));
		if (gen.refcnt != 1 || gen.bindcnt != 1)
			return false;
	}
	return true;
}

static size_t options_filter(uint8_t *data, size_t len, bool (*keep)(struct nlattr *a, const void *arg),
	const void *arg);

static bool action_option_keep(struct nlattr *a, const void *arg)
{
	const struct action_kind *k = arg;
	struct action_gen gen;

	if (nla_type(a) == k->parms && (size_t)nla_len(a) >= sizeof(gen)) {
		memcpy(&gen, nla_data(a), sizeof(gen));
		gen.refcnt = gen.bindcnt = 0;
		memcpy(nla_data(a), &gen, sizeof(gen));
	}
	return nla_type(a) != k->time && nla_type(a) != k->pad;
}

static bool action_attr_keep(struct nlattr *a, const void *arg)
{
	switch (nla_type(a)) {
	case TCA_ACT_STATS:
	case TCA_ACT_PAD:
	case TCA_ACT_USED_HW_STATS:
	case TCA_ACT_IN_HW_COUNT:
		return false;
	case TCA_ACT_OPTIONS:
		a->nla_len = (uint16_t)(NLA_HDRLEN + options_filter(nla_data(a), (size_t)nla_len(a), action_option_keep, arg));
	}
	return true;
}

static bool action_keep(struct nlattr *a, const void *arg _unused_)
{
	const struct action_kind *k = action_kind(a);

	if (!k)
		return false;
	a->nla_len = (uint16_t)(NLA_HDRLEN + options_filter(nla_data(a), (size_t)nla_len(a), action_attr_keep, k));
	return true;
}

static bool filter_keep(struct nlattr *a, const void *arg)
{
	const struct filter_kind *k = arg;
	int type = nla_type(a);

	if (type == k->act && actions_replayable(a)) {
		a->nla_len = (uint16_t)(NLA_HDRLEN + options_filter(nla_data(a), (size_t)nla_len(a), action_keep, NULL));
		return true;
	}
	if (type == k->count || type == k->volatile_ || type == k->act || type == k->police)
		return false;
	if (type == k->flags && nla_len(a) >= 4) {
		uint32_t f = nla_get_u32(a) & (TCA_CLS_FLAGS_SKIP_HW | TCA_CLS_FLAGS_SKIP_SW | TCA_CLS_FLAGS_VERBOSE);

		memcpy(nla_data(a), &f, sizeof(f));
		return f != 0;
	}
	return true;
}

static bool htb_keep(struct nlattr *a, const void *arg _unused_)
{
	if (nla_type(a) == TCA_HTB_INIT && nla_len(a) >= (int)sizeof(struct tc_htb_glob)) {
		struct tc_htb_glob g;

		memcpy(&g, nla_data(a), sizeof(g));
		/* The dump says major << 16 | minor; what is accepted is the major alone (sch_htb.c: HTB_VER). */
		if (g.version >> 16)
			g.version >>= 16;
		g.direct_pkts = 0;
		memcpy(nla_data(a), &g, sizeof(g));
	}
	return true;
}

int tc_options(const struct tc_obj *o, char **ret, bool *ret_actions)
{
	const struct filter_kind *k = o->type == RTM_NEWTFILTER ? filter_kind(o->kind) : NULL;
	_cleanup_free_ uint8_t *data = NULL;
	size_t len = o->options_len;
	char *hex;

	if (ret_actions) {
		const struct nlattr *act = k && o->options ? nla_find(o->options, (int)len, k->act) : NULL;

		*ret_actions = (act && !actions_replayable(act)) ||
			       (k && o->options && k->police >= 0 && nla_find(o->options, (int)len, k->police));
	}
	if (!o->options) {
		*ret = NULL;
		return 0;
	}
	data = malloc(len + 1);
	if (!data)
		return -ENOMEM;
	memcpy(data, o->options, len);
	if (k)
		len = options_filter(data, len, filter_keep, k);
	else if (o->type == RTM_NEWQDISC && streq(o->kind, "htb"))
		len = options_filter(data, len, htb_keep, NULL);
	hex = hex_encode(data, len);
	if (!hex)
		return -ENOMEM;
	*ret = hex;
	return 0;
}

static int obj_json(const struct tc_obj *o, json_t **ret, struct err *err)
{
	_cleanup_free_ char *hex = NULL;
	bool actions = false;
	char h[TC_HANDLE_MAX];
	json_t *j;
	int r;

	if (o->type == RTM_NEWTFILTER) {
		const struct filter_kind *k = filter_kind(o->kind);

		if (!k || !k->replayable)
			return err_set(err, -EOPNOTSUPP, "filter %s at %s cannot be put back from its dump", o->kind,
				tc_handle_fmt(h, o->parent));
	}
	r = tc_options(o, &hex, &actions);
	if (r < 0)
		return r;
	if (actions)
		return err_set(err, -EOPNOTSUPP, "filter %s at %s has actions, which cannot be put back from their dump",
			o->kind, tc_handle_fmt(h, o->parent));
	j = json_pack("{s:s, s:I, s:I, s:s?}", "kind", o->kind, "handle", (json_int_t)o->handle, "parent",
		(json_int_t)o->parent, "options", hex);
	if (!j)
		return -ENOMEM;
	if (o->type == RTM_NEWTFILTER) {
		json_object_set_new(j, "info", json_integer(o->info));
		json_object_set_new(j, "chain", json_integer(o->chain));
	}
	if (o->stab) {
		_cleanup_free_ char *stab = hex_encode(o->stab, o->stab_len);

		json_object_set_new(j, "stab", json_string(stab ? stab : ""));
	}
	*ret = j;
	return 0;
}

/* ── capture ───────────────────────────────────────────────────────────────────────────────── */

static json_int_t num(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

struct placed {
	json_t *o;
	size_t at; /* in the dump */
};

/* Filters by place and priority; within one, by handle where that is the order in which they are tried, else as they were dumped */
static int filter_order(const void *x, const void *y)
{
	static const char *const keys[] = {"parent", "chain", "info"};
	const struct placed *a = x, *b = y;
	const struct filter_kind *k = filter_kind(text(a->o, "kind"));

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (num(a->o, keys[i]) != num(b->o, keys[i]))
			return num(a->o, keys[i]) < num(b->o, keys[i]) ? -1 : 1;
	if ((!k || k->order != NEWEST_FIRST) && num(a->o, "handle") != num(b->o, "handle"))
		return num(a->o, "handle") < num(b->o, "handle") ? -1 : 1;
	return a->at < b->at ? -1 : a->at > b->at;
}

static json_t *filters_sorted(const json_t *array)
{
	size_t n = json_array_size(array);
	_cleanup_free_ struct placed *v = calloc(n + 1, sizeof(*v));
	json_t *ret = json_array();

	if (!v || !ret) {
		json_decref(ret);
		return NULL;
	}
	for (size_t i = 0; i < n; i++)
		v[i] = (struct placed){json_array_get(array, i), i};
	qsort(v, n, sizeof(*v), filter_order);
	for (size_t i = 0; i < n; i++)
		json_array_append(ret, v[i].o);
	return ret;
}

/* Of the same place and priority? */
static bool filters_together(const json_t *a, const json_t *b)
{
	return a && b && num(a, "parent") == num(b, "parent") && num(a, "chain") == num(b, "chain") && num(a, "info") == num(b, "info");
}

/* flower tries its masks in the order in which they came, which it does not tell; with one filter there is no question. */
static int filters_told(const json_t *sorted, struct err *err)
{
	const json_t *j, *last = NULL;
	size_t i;

	json_array_foreach(sorted, i, j) {
		const struct filter_kind *k = filter_kind(text(j, "kind"));
		char h[TC_HANDLE_MAX];

		if (k && k->order == UNTOLD && filters_together(last, j))
			return err_set(err, -EOPNOTSUPP,
				"filters %s at %s share the priority %u, and the order in which they are tried is not dumped", k->kind,
				tc_handle_fmt(h, (uint32_t)num(j, "parent")), (uint32_t)num(j, "info") >> 16);
		last = j;
	}
	return 0;
}

struct gather {
	json_t *list;
	struct err *err;
};

/* A dumped netem does not say whether a delay distribution or slots were loaded into it: neither is ever dumped. */
static bool netem_opaque(const struct tc_obj *o)
{
	struct tc_netem_qopt q;

	if (!o->options || o->options_len < sizeof(q))
		return true;
	memcpy(&q, o->options, sizeof(q));
	return q.jitter != 0 || nla_find((struct nlattr *)((char *)o->options + sizeof(q)),
					(int)(o->options_len - sizeof(q)), TCA_NETEM_SLOT);
}

static int gather_cb(const struct tc_obj *o, void *arg)
{
	struct gather *g = arg;
	char h[TC_HANDLE_MAX];
	json_t *j;
	int r;

	if (!o) {
		json_array_clear(g->list);
		return 0;
	}
	if (o->parent == TC_H_INGRESS)
		return 0; /* clsact, ingress: not of the root's tree */
	/* Classes without options come with their qdisc (bands, queues), or are flows of the moment. */
	if (o->type == RTM_NEWTCLASS && !o->options)
		return 0;
	/* a filter's dump opens with the chain's and the hash table's own entry, without options */
	if (o->type == RTM_NEWTFILTER && (!o->options || !o->handle))
		return 0;
	/* overhead alone needs no table; what a table holds is not dumped */
	if (o->stab && (o->stab_len != sizeof(struct tc_sizespec) || ((struct tc_sizespec *)o->stab)->tsize))
		return err_set(g->err, -EOPNOTSUPP, "qdisc %s %s has a size table, which the kernel does not dump", o->kind,
			tc_handle_fmt(h, o->handle));
	if (o->block)
		return err_set(g->err, -EOPNOTSUPP, "qdisc %s %s shares its filters with other devices", o->kind,
			tc_handle_fmt(h, o->handle));
	if (o->type == RTM_NEWQDISC && o->handle && streq(o->kind, "netem") && netem_opaque(o))
		return err_set(g->err, -EOPNOTSUPP,
			"qdisc netem %s may have a delay distribution, which the kernel does not dump",
			tc_handle_fmt(h, o->handle));
	r = obj_json(o, &j, g->err);
	if (r < 0)
		return r;
	return json_array_append_new(g->list, j) < 0 ? -ENOMEM : 0;
}

static int gather(struct nlc *nl, int type, int ifindex, uint32_t parent, json_t *list, struct err *err)
{
	struct err why = {0};
	_cleanup_json_ json_t *found = json_array();
	struct gather g = {.list = found, .err = &why};
	int r;

	if (!found)
		return -ENOMEM;
	r = tc_dump(nl, type, ifindex, parent, gather_cb, &g, &why);
	if (r < 0)
		return err_set(err, r, "%s", why.text[0] ? why.text : strerror(-r));
	return json_array_extend(list, found) < 0 ? -ENOMEM : 0;
}

static int chain_cb(struct nlmsghdr *hdr, void *arg)
{
	struct gather *g = arg;
	struct tcmsg *t;
	char h[TC_HANDLE_MAX];

	if (!hdr || hdr->nlmsg_type != RTM_NEWCHAIN || !nlmsg_find_attr(hdr, sizeof(*t), TCA_KIND))
		return 0;
	t = NLMSG_DATA(hdr);
	return err_set(g->err, -EOPNOTSUPP, "a chain at %s has a template, which is not put back", tc_handle_fmt(h, t->tcm_parent));
}

/* The filters of one qdisc or class; a chain with a template says what its filters may look like, and is refused */
static int gather_filters(struct nlc *nl, int ifindex, uint32_t parent, json_t *filters, struct err *err)
{
	struct err why = {0};
	struct gather g = {.err = &why};
	int r = gather(nl, RTM_GETTFILTER, ifindex, parent, filters, err);

	if (r < 0)
		return r;
	r = nlc_dump(nl, tc_msg(RTM_GETCHAIN, 0, ifindex, parent, 0, 0, NULL), chain_cb, &g, &why);
	if (r == -EOPNOTSUPP && !why.text[0])
		return 0; /* a kernel without chains (before Linux 4.13) */
	/* a kind without filters */
	if (r == -EINVAL || r == -ENOENT)
		return 0;
	return r < 0 ? err_set(err, r, "%s", why.text[0] ? why.text : strerror(-r)) : 0;
}

int qdisc_capture(struct nlc *nl, int ifindex, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *qdiscs = json_array(), *classes = json_array(), *filters = json_array(), *tree = NULL;
	const json_t *j;
	size_t i;
	int r;

	if (!qdiscs || !classes || !filters)
		return -ENOMEM;
	r = gather(nl, RTM_GETQDISC, ifindex, 0, qdiscs, err);
	if (r == 0)
		r = gather(nl, RTM_GETTCLASS, ifindex, 0, classes, err);
	json_array_foreach(qdiscs, i, j) {
		if (r == 0 && num(j, "handle"))
			r = gather_filters(nl, ifindex, (uint32_t)num(j, "handle"), filters, err);
	}
	json_array_foreach(classes, i, j) {
		if (r == 0)
			r = gather_filters(nl, ifindex, (uint32_t)num(j, "handle"), filters, err);
	}
	if (r < 0)
		return r;
	tree = json_pack("{s:O, s:O, s:o}", "qdiscs", qdiscs, "classes", classes, "filters", filters_sorted(filters));
	if (!tree)
		return -ENOMEM;
	r = filters_told(json_object_get(tree, "filters"), err);
	if (r < 0)
		return r;
	if (!qdisc_root(tree)) {
		json_array_foreach(qdiscs, i, j) {
			char h[TC_HANDLE_MAX];

			if (num(j, "handle"))
				return err_set(err, -EOPNOTSUPP,
					"qdisc %s %s stands below the kernel's default root, which cannot be rebuilt",
					text(j, "kind"), tc_handle_fmt(h, (uint32_t)num(j, "handle")));
		}
	}
	*ret = TAKE_PTR(tree);
	return 0;
}

/* ── comparing and describing ──────────────────────────────────────────────────────────────── */

const json_t *qdisc_root(const json_t *tree)
{
	const json_t *list = json_object_get(tree, "qdiscs"), *j;
	size_t i;

	json_array_foreach(list, i, j) {
		if ((uint32_t)num(j, "parent") == TC_H_ROOT && num(j, "handle"))
			return j;
	}
	return NULL;
}

static bool has(const json_t *list, const json_t *item)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j) {
		if (json_equal(j, item))
			return true;
	}
	return false;
}

static const char *const parts[] = {"qdiscs", "classes", "filters"};

static bool subset(const json_t *a, const json_t *b)
{
	for (size_t p = 0; p < ARRAY_SIZE(parts); p++) {
		const json_t *j;
		size_t i;

		json_array_foreach(json_object_get(a, parts[p]), i, j) {
			if (!has(json_object_get(b, parts[p]), j))
				return false;
		}
	}
	return true;
}

bool qdisc_equal(const json_t *a, const json_t *b)
{
	/* filters stand in their order, which counts */
	return subset(a, b) && subset(b, a) && json_equal(json_object_get(a, "filters"), json_object_get(b, "filters"));
}

/* The same place in the tree and the same kind, whatever the options */
static bool has_alike(const json_t *list, const json_t *item)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j) {
		if (num(j, "handle") == num(item, "handle") && num(j, "parent") == num(item, "parent") &&
			streq(text(j, "kind"), text(item, "kind")))
			return true;
	}
	return false;
}

bool qdisc_partial(const json_t *now, const json_t *tree)
{
	size_t have = 0, want = 0;

	if (!qdisc_root(now) || !qdisc_root(tree) || !json_equal(qdisc_root(now), qdisc_root(tree)))
		return false;
	for (size_t p = 0; p < ARRAY_SIZE(parts); p++) {
		const json_t *j;
		size_t i;

		json_array_foreach(json_object_get(now, parts[p]), i, j) {
			if (num(j, "chain") == FILLERS_CHAIN)
				return true; /* nobody else makes these */
			if (!has_alike(json_object_get(tree, parts[p]), j))
				return false;
		}
		have += json_array_size(json_object_get(now, parts[p]));
		want += json_array_size(json_object_get(tree, parts[p]));
	}
	return have < want;
}

char *qdisc_describe(const json_t *tree)
{
	const json_t *root = qdisc_root(tree), *list = json_object_get(tree, "qdiscs"), *j;
	size_t n_classes = json_array_size(json_object_get(tree, "classes"));
	size_t n_filters = json_array_size(json_object_get(tree, "filters")), n_qdiscs = 0, i;
	_cleanup_strbuf_ struct strbuf b = {0};
	char h[TC_HANDLE_MAX];

	if (!root) {
		const char *kind = NULL;

		json_array_foreach(list, i, j) {
			if ((uint32_t)num(j, "parent") == TC_H_ROOT)
				kind = text(j, "kind");
		}
		return strf("the kernel's default (%s)", kind ? kind : "none while the device is down");
	}
	json_array_foreach(list, i, j) {
		if (j != root && num(j, "handle"))
			n_qdiscs++;
	}
	strbuf_addf(&b, "%s %s", text(root, "kind"), tc_handle_fmt(h, (uint32_t)num(root, "handle")));
	if (n_classes || n_qdiscs || n_filters)
		strbuf_addf(&b, " with %zu classes, %zu qdiscs and %zu filters below", n_classes, n_qdiscs, n_filters);
	return b.oom ? NULL : TAKE_PTR(b.s);
}

/* ── putting it back ───────────────────────────────────────────────────────────────────────── */

/*
 * codel keeps its times in units of 1024 ns, rounds down both when they are set and when they are dumped, and so gives 4999 us
 * for 5 ms, and 4998 for 4999 (include/net/codel.h: codel_time_to_us). Finds what has to be set to be told @us again.
 */
static uint32_t codel_us(uint32_t us)
{
	for (uint64_t set = us; set < (uint64_t)us + 4 && set <= UINT32_MAX; set++)
		if (((set * 1000 >> 10) << 10) / 1000 == us)
			return (uint32_t)set;
	return us;
}

static bool codel_times(struct nlattr *a, const void *types)
{
	for (const int *t = types; *t; t++) {
		uint32_t us;

		if (nla_type(a) != *t || nla_len(a) < 4)
			continue;
		us = codel_us(nla_get_u32(a));
		memcpy(nla_data(a), &us, sizeof(us));
	}
	return true;
}

static int put_options(struct nl_msg *m, const char *hex, const char *kind)
{
	_cleanup_free_ void *data = NULL;
	size_t len;
	int r;

	if (!hex)
		return 0;
	r = hex_decode(hex, &data, &len);
	if (r < 0)
		return r;
	/*
	 * sfq dumps limit 127 beside 128 flows when neither was given; sent back, the limit would cut the flows to 127
	 * (sch_sfq.c: sfq_change). A limit of 0 leaves the default, which is the same 127.
	 */
	if (streq(kind, "sfq") && len >= sizeof(struct tc_sfq_qopt)) {
		struct tc_sfq_qopt q;

		memcpy(&q, data, sizeof(q));
		if (q.limit == 127 && q.flows > q.limit) {
			q.limit = 0;
			memcpy(data, &q, sizeof(q));
		}
	}
	if (streq(kind, "fq_codel")) {
		static const int times[] = {TCA_FQ_CODEL_TARGET, TCA_FQ_CODEL_INTERVAL, TCA_FQ_CODEL_CE_THRESHOLD, 0};

		(void)options_filter(data, len, codel_times, times);
	} else if (streq(kind, "codel")) {
		static const int times[] = {TCA_CODEL_TARGET, TCA_CODEL_INTERVAL, TCA_CODEL_CE_THRESHOLD, 0};

		(void)options_filter(data, len, codel_times, times);
	}
	/* ets insists on the flag, which its own dump lacks */
	return nla_put(m, TCA_OPTIONS | (streq(kind, "ets") ? NLA_F_NESTED : 0), (int)len, data) < 0 ? -ENOMEM : 0;
}

static int put_stab(struct nl_msg *m, const char *hex)
{
	_cleanup_free_ void *data = NULL;
	struct nlattr *nest;
	size_t len;
	int r = hex_decode(hex, &data, &len);

	if (r < 0)
		return r;
	nest = nla_nest_start(m, TCA_STAB);
	if (!nest || nla_put(m, TCA_STAB_BASE, (int)len, data) < 0)
		return -ENOMEM;
	nla_nest_end(m, nest);
	return 0;
}

static int put_object(struct nlc *nl, int type, int flags, int ifindex, const json_t *o, struct err *err)
{
	struct nl_msg *m = tc_msg(type, flags, ifindex, (uint32_t)num(o, "parent"), (uint32_t)num(o, "handle"),
		(uint32_t)num(o, "info"), text(o, "kind"));
	char h[TC_HANDLE_MAX];
	int r;

	if (!m)
		return -ENOMEM;
	r = put_options(m, text(o, "options"), text(o, "kind"));
	if (r == 0 && text(o, "stab"))
		r = put_stab(m, text(o, "stab"));
	if (r == 0 && num(o, "chain") && nla_put_u32(m, TCA_CHAIN, (uint32_t)num(o, "chain")) < 0)
		r = -ENOMEM;
	if (r < 0) {
		nlmsg_free(m);
		return err_set(err, r, "the recorded %s is damaged", text(o, "kind"));
	}
	r = nlc_request(nl, m, err);
	if (r < 0)
		err_prefix(err, "put back %s %s %s",
			type == RTM_NEWQDISC	? "qdisc" :
			type == RTM_NEWTCLASS ? "class" :
						  "filter",
			text(o, "kind"), tc_handle_fmt(h, (uint32_t)num(o, "handle")));
	return r;
}

static bool handle_in(const json_t *list, uint32_t handle)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j) {
		if ((uint32_t)num(j, "handle") == handle)
			return true;
	}
	return false;
}

/* u32 makes one hash table (800:, 801: ...) with each priority; it is dumped, and cannot be made again by hand. */
static bool filter_implied(const json_t *f)
{
	uint32_t h = (uint32_t)num(f, "handle");

	return streq(text(f, "kind"), "u32") && (h & 0xfffff) == 0 && h >> 20 >= 0x800;
}

/*
 * Classes and the qdiscs below the root depend on each other in both directions (a qdisc sits on a class, a class belongs to
 * a qdisc), so rounds are made: in each, whatever has all it needs.
 */
static int put_below(struct nlc *nl, int ifindex, const json_t *tree, json_t *have_qdiscs, json_t *have_classes,
	struct err *err)
{
	const json_t *qdiscs = json_object_get(tree, "qdiscs"), *classes = json_object_get(tree, "classes"), *j;
	bool moved = true, left = true;
	size_t i;
	int r;

	while (moved && left) {
		moved = left = false;
		json_array_foreach(classes, i, j) {
			uint32_t h = (uint32_t)num(j, "handle"), p = (uint32_t)num(j, "parent");

			if (handle_in(have_classes, h))
				continue;
			left = true;
			if (!handle_in(have_qdiscs, TC_H_MAJ(h)) ||
				(p != TC_H_ROOT && TC_H_MIN(p) && !handle_in(have_classes, p)))
				continue;
			r = put_object(nl, RTM_NEWTCLASS, NLM_F_CREATE | NLM_F_EXCL, ifindex, j, err);
			/* hfsc's root and ets's bands come with their qdisc */
			if (r < 0 && r != -EEXIST)
				return r;
			json_array_append(have_classes, (json_t *)j);
			moved = true;
		}
		json_array_foreach(qdiscs, i, j) {
			uint32_t h = (uint32_t)num(j, "handle"), p = (uint32_t)num(j, "parent");

			if (!h || handle_in(have_qdiscs, h))
				continue;
			left = true;
			if (!handle_in(have_qdiscs, TC_H_MAJ(p)) || (handle_in(classes, p) && !handle_in(have_classes, p)))
				continue;
			r = put_object(nl, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, ifindex, j, err);
			if (r < 0)
				return r;
			json_array_append(have_qdiscs, (json_t *)j);
			moved = true;
		}
	}
	if (left)
		return err_set(err, -EOPNOTSUPP, "the recorded classes and qdiscs do not form a tree");
	return 0;
}

/* Filters of one place and priority */
struct group {
	size_t begin, end;
	uint32_t qdisc; /* that it is in */
	uint32_t table; /* u32: the hash table that comes with the priority; others: 0 */
};



static int group_order(const void *x, const void *y)
{
	const struct group *a = x, *b = y;

	if (a->qdisc != b->qdisc)
		return a->qdisc < b->qdisc ? -1 : 1;
	if (a->table != b->table)
		return a->table < b->table ? -1 : 1;
	return a->begin < b->begin ? -1 : a->begin > b->begin;
}

static int put_group(struct nlc *nl, int ifindex, const json_t *filters, const struct group *g, struct err *err)
{
	const struct filter_kind *k = filter_kind(text(json_array_get(filters, g->begin), "kind"));
	int r = 0;

	for (size_t at = g->begin; at < g->end && r == 0; at++) {
		/* what is tried newest first is made from the last to the first */
		const json_t *j = json_array_get(filters,
			k && k->order == NEWEST_FIRST ? g->end - 1 - (at - g->begin) : at);

		if (!filter_implied(j))
			r = put_object(nl, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, ifindex, j, err);
	}
	return r;
}

/* A u32 priority of no effect, which takes the next number; or away with it */
static int filler(struct nlc *nl, int ifindex, uint32_t qdisc, uint32_t number, bool add, struct err *err)
{
	struct nl_msg *m = tc_msg(add ? RTM_NEWTFILTER : RTM_DELTFILTER, add ? NLM_F_CREATE | NLM_F_EXCL : 0, ifindex, qdisc, 0,
		TC_H_MAKE((number + 1) << 16, htons(ETH_P_ALL)), add ? "u32" : NULL);
	struct nlattr *o;

	if (!m || nla_put_u32(m, TCA_CHAIN, FILLERS_CHAIN) < 0)
		goto fail;
	if (add) {
		o = nla_nest_start(m, TCA_OPTIONS);
		if (!o || tc_put_match_all(m) < 0)
			goto fail;
		nla_nest_end(m, o);
	}
	return nlc_request(nl, m, err);
fail:
	nlmsg_free(m);
	return -ENOMEM;
}

/*
 * Each priority of u32 gets a hash table with the next free number of its qdisc (800:, 801: ...) as it is made, and its filters are
 * known by that; so the priorities are made in the order of those, whatever order they are tried in, and a number that was left
 * out, because what had it was deleted, is taken by something of no effect meanwhile.
 */
static int put_filters(struct nlc *nl, int ifindex, const json_t *filters, struct err *err)
{
	size_t n = json_array_size(filters), n_groups = 0;
	_cleanup_free_ struct group *g = calloc(n + 1, sizeof(*g));
	uint32_t next = 0x800, n_fillers = 0, taken[FILLERS_MAX] = {0};
	struct group *last = g;
	int r = 0;

	if (!g)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const json_t *j = json_array_get(filters, i);

		if (i == 0 || !filters_together(json_array_get(filters, i - 1), j)) {
			last = &g[n_groups++];
			*last = (struct group){.begin = i, .qdisc = TC_H_MAJ((uint32_t)num(j, "parent"))};
		}
		last->end = i + 1;
		if (filter_implied(j) && (!last->table || (uint32_t)num(j, "handle") < last->table))
			last->table = (uint32_t)num(j, "handle");
	}
	qsort(g, n_groups, sizeof(*g), group_order);
	for (size_t i = 0; i < n_groups && r == 0; i++) {
		if (i > 0 && g[i].qdisc != g[i - 1].qdisc)
			next = 0x800;
		for (; r == 0 && g[i].table && next < g[i].table >> 20 && n_fillers < FILLERS_MAX; next++) {
			r = filler(nl, ifindex, g[i].qdisc, n_fillers, true, err);
			taken[n_fillers++] = g[i].qdisc;
		}
		next += g[i].table != 0;
		if (r == 0)
			r = put_group(nl, ifindex, filters, &g[i], err);
	}
	/* also after a failure: a tree that is there in part is taken down as a whole, but this it would not be known by */
	for (uint32_t i = 0; i < n_fillers; i++) {
		int k = filler(nl, ifindex, taken[i], i, false, r == 0 ? err : NULL);

		if (k < 0 && r == 0)
			r = k;
	}
	return r;
}

int qdisc_restore(struct nlc *nl, int ifindex, const json_t *tree, uint32_t ours, struct err *err)
{
	_cleanup_json_ json_t *now = NULL, *have_qdiscs = json_array(), *have_classes = json_array();
	const json_t *root = qdisc_root(tree);
	int r;

	if (!have_qdiscs || !have_classes)
		return -ENOMEM;
	if (!root) {
		r = nlc_request(nl, tc_msg(RTM_DELQDISC, 0, ifindex, TC_H_ROOT, ours, 0, NULL), err);
		return r < 0 ? (err_prefix(err, "delete the root qdisc"), r) : 0;
	}
	/* A tree that cannot be captured is not this one: this one could be. */
	r = qdisc_capture(nl, ifindex, &now, NULL);
	if (r == 0 && qdisc_equal(now, tree))
		return 0;
	if (r == 0 && qdisc_partial(now, tree)) {
		/* a qdisc cannot be replaced by one of its own handle */
		r = nlc_request(nl, tc_msg(RTM_DELQDISC, 0, ifindex, TC_H_ROOT, (uint32_t)num(root, "handle"), 0, NULL), err);
		if (r < 0)
			return err_prefix(err, "take down what an interrupted restore has left"), r;
	}
	r = put_object(nl, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, ifindex, root, err);
	if (r < 0)
		return r;
	json_array_append(have_qdiscs, (json_t *)root);
	r = put_below(nl, ifindex, tree, have_qdiscs, have_classes, err);
	if (r < 0)
		return r;
	return put_filters(nl, ifindex, json_object_get(tree, "filters"), err);
}

/* ── rehearsal ─────────────────────────────────────────────────────────────────────────────── */

struct scratch {
	unsigned int n_tx;
	bool want_nf;
	struct nlc *nl, *nf;
	int ifindex, r;
	struct err err;
};

static int scratch_link(struct scratch *s, const char *kind)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC};
	struct nl_msg *m = nlmsg_alloc_simple(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
	struct nlattr *info;

	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0 ||
		nla_put_string(m, IFLA_IFNAME, "scratch") < 0 || nla_put_u32(m, IFLA_NUM_TX_QUEUES, s->n_tx) < 0 ||
		!(info = nla_nest_start(m, IFLA_LINKINFO)) || nla_put_string(m, IFLA_INFO_KIND, kind) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	nla_nest_end(m, info);
	return nlc_request(s->nl, m, &s->err);
}

/*
 * A thread of its own, so that the caller never is in the new namespace. The socket made here keeps the namespace, and
 * all that is in it, until it is closed.
 */
static void *scratch_main(void *arg)
{
	/* Any device with queues will do; not every kernel has each of them. The modules of the last two make devices as they are loaded. */
	static const char *const kinds[] = {"veth", "dummy", "ifb"};
	struct scratch *s = arg;

	if (unshare(CLONE_NEWNET) < 0) {
		s->r = err_set(&s->err, -errno, "make a network namespace to rehearse in: %s", strerror(errno));
		return NULL;
	}
	s->r = nlc_open_netns(NULL, NETLINK_ROUTE, &s->nl, &s->err);
	if (s->r == 0 && s->want_nf)
		s->r = nlc_open_netns(NULL, NETLINK_NETFILTER, &s->nf, &s->err);
	if (s->r < 0)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		s->r = scratch_link(s, kinds[i]);
		if (s->r == 0)
			break;
	}
	if (s->r == 0) {
		s->ifindex = nlc_ifindex(s->nl, "scratch", &s->err);
		s->r = MIN(s->ifindex, 0);
	}
	if (s->r < 0)
		err_prefix(&s->err, "make a device to rehearse on");
	return NULL;
}

int qdisc_scratch_nf(unsigned int n_tx, struct nlc **ret, struct nlc **ret_nf, int *ret_ifindex, struct err *err)
{
	struct scratch s = {.n_tx = n_tx ? n_tx : 1, .want_nf = ret_nf != NULL};
	pthread_t t;
	int r = -pthread_create(&t, NULL, scratch_main, &s);

	if (r < 0)
		return err_set(err, r, "start a thread: %s", strerror(-r));
	pthread_join(t, NULL);
	if (s.r < 0) {
		nlc_close(s.nl);
		nlc_close(s.nf);
		if (err)
			*err = s.err;
		return s.r;
	}
	*ret = s.nl;
	if (ret_nf)
		*ret_nf = s.nf;
	*ret_ifindex = s.ifindex;
	return 0;
}

int qdisc_scratch(unsigned int n_tx, struct nlc **ret, int *ret_ifindex, struct err *err)
{
	return qdisc_scratch_nf(n_tx, ret, NULL, ret_ifindex, err);
}

/* A device with this index, whatever it is */
static int stand_in(struct nlc *nl, int ifindex, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC, .ifi_index = ifindex};
	struct nl_msg *m = nlmsg_alloc_simple(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
	struct nlattr *info;
	int r;

	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0 || !(info = nla_nest_start(m, IFLA_LINKINFO)) ||
		nla_put_string(m, IFLA_INFO_KIND, "bridge") < 0) { /* a veth would need two */
		nlmsg_free(m);
		return -ENOMEM;
	}
	nla_nest_end(m, info);
	r = nlc_request(nl, m, err);
	return r == -EEXIST || r == -EBUSY ? 0 : r;
}

/* mirred names the device that it sends to by its index, which has to be there for the rehearsal too */
static int stand_ins(struct nlc *nl, const json_t *tree, struct err *err)
{
	const json_t *j;
	size_t i;

	json_array_foreach(json_object_get(tree, "filters"), i, j) {
		const struct filter_kind *k = filter_kind(text(j, "kind"));
		_cleanup_free_ void *data = NULL;
		struct nlattr *list, *act;
		size_t len;
		int rem, r = 0;

		if (!k || !text(j, "options") || hex_decode(text(j, "options"), &data, &len) < 0)
			continue;
		list = nla_find(data, (int)len, k->act);
		if (!list)
			continue;
		nla_for_each_nested(act, list, rem) {
			const struct action_kind *a = action_kind(act);
			const struct nlattr *p = a && streq(a->kind, "mirred") ? action_parms(act, a) : NULL;
			struct tc_mirred to;

			if (!p || r < 0)
				continue;
			memcpy(&to, nla_data(p), sizeof(to));
			r = stand_in(nl, (int)to.ifindex, err);
		}
		if (r < 0)
			return err_prefix(err, "make a device to redirect to"), r;
	}
	return 0;
}

int qdisc_rehearse(const json_t *tree, unsigned int n_tx, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	_cleanup_json_ json_t *back = NULL;
	_cleanup_free_ char *what = NULL;
	struct err why = {0};
	int ifindex, r;

	if (!qdisc_root(tree))
		return 0;
	r = qdisc_scratch(n_tx, &nl, &ifindex, err);
	if (r < 0)
		return r;
	what = qdisc_describe(tree);
	r = stand_ins(nl, tree, &why);
	if (r == 0)
		r = qdisc_restore(nl, ifindex, tree, 0, &why);
	if (r == 0)
		r = qdisc_capture(nl, ifindex, &back, &why);
	if (r < 0)
		return err_set(err, -EOPNOTSUPP, "%s could not be put back afterwards: %s", what ? what : "the qdisc",
			why.text);
	for (size_t p = 0; p < ARRAY_SIZE(parts); p++) {
		const json_t *j;
		size_t i;

		json_array_foreach(json_object_get(tree, parts[p]), i, j) {
			char h[TC_HANDLE_MAX];

			/* children that the kernel chose by itself depend on the device */
			if ((streq(parts[p], "qdiscs") && !num(j, "handle")) || has(json_object_get(back, parts[p]), j))
				continue;
			return err_set(err, -EOPNOTSUPP, "%s would not come back the same: %s %s differs",
				what ? what : "the qdisc", text(j, "kind"), tc_handle_fmt(h, (uint32_t)num(j, "handle")));
		}
	}
	if (!json_equal(json_object_get(tree, "filters"), json_object_get(back, "filters")))
		return err_set(err, -EOPNOTSUPP, "%s would not come back the same: its filters would be tried in another order",
			what ? what : "the qdisc");
	return 0;
}
