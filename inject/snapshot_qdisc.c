/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Traffic control in a snapshot: qdiscs, classes and filters of every device, with their options as the kernel tells them,
 * counters and ids left out:
 *
 *	qdisc eth0 root htb 1: 1c00...
 *	qdisc eth0 class 1:10 parent 1: htb ...
 *	qdisc eth0 filter ingress bpf pref 1 protocol 0003 chain 0 handle 0x6d757374 ...
 *	qdisc eth0 filter ingress u32 ... action gact 2={ ... }
 *
 * Of an action its kind, its settings as the kernel tells them and its cookie: not its number, which is another each time, nor
 * who refers to it, when it was last used, and what it counted.
 */
#include <arpa/inet.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>

#include "engine/snapshot.h"
#include "inject/qdisc.h"

struct devices {
	size_t n, size;
	struct device {
		int ifindex;
		char name[16];
	} *v;
	int r;
};

static int device_cb(struct nlmsghdr *hdr, void *arg)
{
	struct devices *d = arg;
	struct nlattr *name;

	if (!hdr) {
		d->n = 0;
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWLINK)
		return 0;
	name = nlmsg_find_attr(hdr, sizeof(struct ifinfomsg), IFLA_IFNAME);
	if (!name)
		return 0;
	if (d->n == d->size) {
		struct device *more = realloc(d->v, (d->size = d->size ? d->size * 2 : 8) * sizeof(*more));

		if (!more)
			return -ENOMEM;
		d->v = more;
	}
	d->v[d->n].ifindex = ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_index;
	nla_strlcpy(d->v[d->n].name, name, sizeof(d->v[d->n].name));
	d->n++;
	return 0;
}

/* Lines of one kind of object of one device; parents[] collects where filters may sit. */
struct lines {
	const char *dev;
	struct strbuf *b;
	size_t start; /* length of @b before this dump */
	uint32_t *parents;
	size_t n_parents, size_parents, start_parents;
};

static int parent_add(struct lines *l, uint32_t parent)
{
	if (l->n_parents == l->size_parents) {
		uint32_t *more = realloc(l->parents, (l->size_parents = l->size_parents ? l->size_parents * 2 : 8) * sizeof(*more));

		if (!more)
			return -ENOMEM;
		l->parents = more;
	}
	l->parents[l->n_parents++] = parent;
	return 0;
}

/* Where the actions of a kind of filter stand in its options; 0: it has no such attribute */
static const struct {
	const char *kind;
	int actions, police;
} filters[] = {
	{"u32", TCA_U32_ACT, TCA_U32_POLICE},
	{"fw", TCA_FW_ACT, TCA_FW_POLICE},
	{"flower", TCA_FLOWER_ACT, 0},
	{"matchall", TCA_MATCHALL_ACT, 0},
	{"basic", TCA_BASIC_ACT, TCA_BASIC_POLICE},
	{"bpf", TCA_BPF_ACT, TCA_BPF_POLICE},
	{"route", TCA_ROUTE4_ACT, TCA_ROUTE4_POLICE},
	{"flow", TCA_FLOW_ACT, TCA_FLOW_POLICE},
	{"cgroup", TCA_CGROUP_ACT, TCA_CGROUP_POLICE},
};

/* Attributes of an action's options. Most kinds have TM = 1 and PARMS = 2, which begins with tc_gen. */
static const struct action {
	const char *kind;
	int params;
	size_t index, refs; /* places in params: 4 bytes, and 8 for the two counts of references */
	int without[5];	    /* times, padding, ids */
} actions_known[] = {
	{"police", TCA_POLICE_TBF, 0, 0, {TCA_POLICE_TM, TCA_POLICE_PAD, 0}},
	{"bpf", 2, 0, 12, {1, 9, 0}}, /* TCA_ACT_BPF_TM, TCA_ACT_BPF_ID */
	{NULL, 2, 0, 12, {1, 0}},
};

static void add_action(struct strbuf *b, const struct nlattr *a)
{
	/* the action's own attributes beside kind, options and statistics: cookie, flags, who may count it */
	static const int said[] = {TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_ACT_INDEX, TCA_ACT_STATS, TCA_ACT_PAD, 9, 10, 0};
	const struct nlattr *kind = nla_find(nla_data(a), nla_len(a), TCA_ACT_KIND),
			    *options = nla_find(nla_data(a), nla_len(a), TCA_ACT_OPTIONS), *p;
	const struct action *k = actions_known;
	int without[8] = {0};
	size_t n = 0;

	if (!kind)
		return;
	while (k->kind && strcmp(k->kind, nla_get_string((struct nlattr *)kind)) != 0)
		k++;
	strbuf_puts(b, " action ");
	snapshot_word(b, nla_get_string((struct nlattr *)kind));
	strbuf_puts(b, " {");
	p = options ? nla_find(nla_data(options), nla_len(options), k->params) : NULL;
	if (p) {
		const uint8_t *v = nla_data(p);

		strbuf_addf(b, " %d=", k->params);
		for (size_t i = 0; i < (size_t)nla_len(p); i++) {
			bool moving = (i >= k->index && i < k->index + 4) ||
				      (k->refs && i >= k->refs && i < k->refs + 8);

			/* tc_police has its counts of references behind the two rates */
			if (!k->refs && i >= offsetof(struct tc_police, refcnt) && i < offsetof(struct tc_police, capab))
				moving = true;
			strbuf_addf(b, "%02x", moving ? 0 : v[i]);
		}
	}
	while (n < ARRAY_SIZE(k->without) && k->without[n]) {
		without[n] = k->without[n];
		n++;
	}
	without[n] = k->params;
	if (options)
		snapshot_attrs(b, nla_data(options), (size_t)nla_len(options), without);
	snapshot_attrs(b, nla_data(a), (size_t)nla_len(a), said);
	strbuf_puts(b, " }");
}

static void add_actions(struct strbuf *b, const struct tc_obj *o)
{
	for (size_t i = 0; o->options && i < ARRAY_SIZE(filters); i++) {
		const struct nlattr *list = NULL, *a;
		int left;

		if (!streq(filters[i].kind, o->kind))
			continue;
		if (filters[i].actions)
			list = nla_find(o->options, (int)o->options_len, filters[i].actions);
		if (list)
			for (a = nla_data(list), left = nla_len(list); nla_ok(a, left); a = nla_next(a, &left))
				add_action(b, a);
		/* the old way of policing: one action without a list */
		a = filters[i].police ? nla_find(o->options, (int)o->options_len, filters[i].police) : NULL;
		if (a)
			strbuf_puts(b, " police");
	}
}

static int object_cb(const struct tc_obj *o, void *arg)
{
	char h1[TC_HANDLE_MAX], h2[TC_HANDLE_MAX];
	_cleanup_free_ char *options = NULL;
	struct lines *l = arg;
	bool actions = false;
	int r = 0;

	if (!o) {
		if (l->b->s)
			l->b->s[l->b->len = l->start] = '\0';
		l->n_parents = l->start_parents;
		return 0;
	}
	/* flows of the moment and bands that come with their qdisc; a filter's priority without a filter */
	if (!o->options && o->type != RTM_NEWQDISC)
		return 0;
	r = tc_options(o, &options, &actions);
	if (r < 0)
		return r;
	strbuf_addf(l->b, "qdisc %s ", l->dev);
	switch (o->type) {
	case RTM_NEWQDISC:
		if (o->parent == TC_H_ROOT)
			strbuf_puts(l->b, "root");
		else if (o->parent == TC_H_CLSACT)
			strbuf_puts(l->b, "hook");
		else
			strbuf_addf(l->b, "parent %s", tc_handle_fmt(h1, o->parent));
		strbuf_addf(l->b, " %s %s", o->kind, tc_handle_fmt(h2, o->handle));
		if (o->parent == TC_H_CLSACT) {
			r = parent_add(l, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS));
			if (r == 0 && streq(o->kind, "clsact"))
				r = parent_add(l, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS));
		} else if (o->handle) {
			r = parent_add(l, o->handle);
		}
		break;
	case RTM_NEWTCLASS:
		strbuf_addf(l->b, "class %s parent %s %s", tc_handle_fmt(h1, o->handle), tc_handle_fmt(h2, o->parent), o->kind);
		r = parent_add(l, o->handle);
		break;
	default:
		strbuf_addf(l->b, "filter %s %s pref %u protocol %04x chain %u handle 0x%x",
			o->parent == TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) ? "ingress" :
			o->parent == TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)  ? "egress" :
										  tc_handle_fmt(h1, o->parent),
			o->kind, o->info >> 16, ntohs((uint16_t)o->info), o->chain, o->handle);
	}
	strbuf_addf(l->b, "%s%s%s", options ? " " : "", options ? options : "", o->stab ? " with a size table" : "");
	if (actions)
		add_actions(l->b, o);
	strbuf_puts(l->b, "\n");
	return r;
}

static int dump(struct nlc *nl, int type, int ifindex, uint32_t parent, struct lines *l, struct err *err)
{
	int r;

	l->start = l->b->len;
	l->start_parents = l->n_parents;
	r = tc_dump(nl, type, ifindex, parent, object_cb, l, err);
	/* the device, or what the filter sat on, has gone between two dumps */
	if (r == -ENODEV || (type == RTM_GETTFILTER && (r == -EINVAL || r == -ENOENT)))
		return 0;
	return r;
}

static int take(const struct node *n, struct strbuf *b, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC};
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct devices d = {0};
	struct nl_msg *m;
	int r = nlc_open(n, NETLINK_ROUTE, &nl, err);

	if (r < 0)
		return r;
	m = nlmsg_alloc_simple(RTM_GETLINK, 0);
	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_dump(nl, m, device_cb, &d, err);
	for (size_t i = 0; r == 0 && i < d.n; i++) {
		struct lines l = {.dev = d.v[i].name, .b = b};
		bool classes = false;

		r = dump(nl, RTM_GETQDISC, d.v[i].ifindex, 0, &l, err);
		for (size_t k = 0; k < l.n_parents; k++)
			classes |= TC_H_MAJ(l.parents[k]) != TC_H_MAJ(TC_H_CLSACT);
		if (r == 0 && classes)
			r = dump(nl, RTM_GETTCLASS, d.v[i].ifindex, 0, &l, err);
		for (size_t k = 0; r == 0 && k < l.n_parents; k++)
			r = dump(nl, RTM_GETTFILTER, d.v[i].ifindex, l.parents[k], &l, err);
		free(l.parents);
	}
	free(d.v);
	return r;
}

const struct snapshot_ops snapshot_qdisc = {.name = "qdisc", .take = take};
