/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fault.netem: delays, loses, duplicates, corrupts or reorders what a node sends, to everybody or (`to`) to some, by the kernel's
 * own emulator (sch_netem).
 *
 * No other flow loses a packet by it: the packets that are meant are sent round the device's own qdisc (detour.h), which is not
 * touched. Where the kernel cannot do that, a fault for everybody takes the place of the device's root qdisc (netem_way.h), and
 * one that is confined is refused. `to` is the destination in the IP header: through a director that forwards directly (DR), what
 * is balanced is sent to the service's address and not to the server's, so it is the former that is to be named; and ARP and
 * neighbour discovery are not addressed to anybody in that sense.
 *
 * Did it bite? measure() answers from what the qdisc counted and from echoes of its own:
 *   - no packet passed before the echoes: false; fewer than ten, which an idle interface sends by itself: no data;
 *   - delay: the median round trip of the echoes, less the median before the fault, must lie between asked less tolerance and
 *     twice asked plus tolerance: more than asked is queueing on top, less is a fault that is not there. Tolerance: 10 % of the
 *     delay, half the jitter, 2 ms, and the spread (p90 - median) of the round trips before. Where that is too
 *     little and there is no jitter, the fastest of each may say that it is enough, within 10 % and 2 ms: a delay that is always the same
 *     slows each echo, and what a busy machine did to some of them before does not. No neighbour that answers: no data;
 *   - confined: a neighbour that was not meant must not have become slower by more than that tolerance. No such neighbour that answers,
 *     or another fault of muster's on the way to it: that is said, and decides nothing;
 *   - loss: the 99 % Wilson interval of dropped / (passed + dropped), widened by a tenth of what was asked, must hold what was
 *     asked. When nothing was dropped and that had a chance of 1 % or more: no data. Correlated loss is no
 *     fixed share in this kernel, so any drop will do;
 *   - the rest (duplicates, corruption, reordering, rate) is not measured: alone, they are no data.
 * All that was asked must be true for true; one false makes it false.
 */
#include <arpa/inet.h>
#include <linux/if_arp.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <math.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>

#include "engine/site.h"
#include "engine/stats.h"
#include "engine/units.h"
#include "inject/echo.h"
#include "inject/netem_way.h"

#define ECHO_COUNT   30
#define ECHO_EVERY   (30 * NSEC_PER_MSEC)
#define ECHO_WAIT    (500 * NSEC_PER_MSEC) /* beyond the delay that was asked for */
#define ECHO_LONGEST (10 * NSEC_PER_SEC)   /* a longer delay is not waited for */
#define FEW	     10
#define ECHO_KNOWN   8 /* neighbours that are asked */
#define Z_99	     2.575829303548901	   /* two-sided 99 % */

static const struct param params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "the node whose sending is disturbed"},
	{.name = "dev", .type = PARAM_STRING, .help = "its device; by default its first link"},
	{.name = "to",
		.type = PARAM_LIST,
		.of = PARAM_STRING,
		.help = "only what is sent to these: nodes, addresses, nets; by default everything"},
	{.name = "delay", .type = PARAM_DURATION, .max = 3600e9, .help = "added to each packet"},
	{.name = "jitter", .type = PARAM_DURATION, .max = 3600e9, .help = "the delay varies by this much, evenly; reorders"},
	{.name = "correlation", .type = PARAM_RATIO, .help = "how much each delay follows the one before"},
	{.name = "loss", .type = PARAM_RATIO, .help = "share of packets dropped, at random"},
	{.name = "loss_correlation", .type = PARAM_RATIO, .help = "how much each loss follows the one before"},
	{.name = "duplicate", .type = PARAM_RATIO, .help = "share of packets sent twice"},
	{.name = "corrupt", .type = PARAM_RATIO, .help = "share of packets with one bit flipped"},
	{.name = "reorder", .type = PARAM_RATIO, .help = "share of packets sent at once, ahead of those delayed"},
	{.name = "rate", .type = PARAM_BYTES, .help = "bytes per second that leave at most"},
	{.name = "limit",
		.type = PARAM_INT,
		.min = 1,
		.max = 10000000,
		.help = "packets held at most; by default what 250,000 packets/s need"},
	{.name = "peer", .type = PARAM_ADDR, .help = "a neighbour to measure against; by default one that answers"},
	{.name = "how",
		.type = PARAM_STRING,
		.values = "detour|root",
		.help = "round the device's own qdisc, or in its place; by default round it where the kernel can"},
	PARAM_END,
};

static nsec_t arg_ns(const json_t *args, const char *key)
{
	return json_integer_value(json_object_get(args, key));
}

static uint32_t arg_probability(const json_t *args, const char *key)
{
	return netem_probability(json_number_value(json_object_get(args, key)));
}

static int spec_from_args(const json_t *args, struct netem_spec *ret, struct err *err)
{
	const json_t *limit = json_object_get(args, "limit");
	struct netem_spec s = {.delay = arg_ns(args, "delay"),
		.jitter = arg_ns(args, "jitter"),
		.delay_corr = arg_probability(args, "correlation"),
		.loss = arg_probability(args, "loss"),
		.loss_corr = arg_probability(args, "loss_correlation"),
		.duplicate = arg_probability(args, "duplicate"),
		.reorder = arg_probability(args, "reorder"),
		.corrupt = arg_probability(args, "corrupt"),
		.rate = (uint64_t)json_integer_value(json_object_get(args, "rate"))};

	if (!s.delay && !s.jitter && !s.loss && !s.duplicate && !s.corrupt && !s.reorder && !s.rate)
		return err_set(err, -EINVAL,
			"fault.netem: nothing is asked for: give delay, loss, duplicate, corrupt, reorder or rate");
	if (s.jitter && !s.delay)
		return err_set(err, -EINVAL, "fault.netem: jitter varies a delay, and no delay is given");
	if (s.delay_corr && !s.jitter)
		return err_set(err, -EINVAL, "fault.netem: correlation is the jitter's, and no jitter is given");
	if (s.loss_corr && !s.loss)
		return err_set(err, -EINVAL, "fault.netem: loss_correlation without loss");
	if (s.reorder && !s.delay)
		return err_set(err, -EINVAL,
			"fault.netem: reorder lets packets overtake delayed ones, and no delay is given");
	s.limit = limit ? (uint32_t)json_integer_value(limit) : netem_limit(s.delay, s.jitter);
	*ret = s;
	return 0;
}

static int add_net(json_t *nets, const char *text, struct err *err)
{
	struct detour_net n;
	char buf[DETOUR_NET_MAX];

	if (json_array_size(nets) == DETOUR_NETS_MAX)
		return err_set(err, -EINVAL, "fault.netem: to names more than %d addresses and nets", DETOUR_NETS_MAX);
	if (detour_net_parse(text, &n) < 0)
		return -EINVAL;
	return json_array_append_new(nets, json_string(detour_net_fmt(buf, &n))) < 0 ? -ENOMEM : 0;
}

/* A node's own addresses, of all its links; the nets they are in are not meant */
static int add_node(json_t *nets, const struct node *n, struct err *err)
{
	size_t before = json_array_size(nets);

	for (size_t i = 0; i < n->n_links; i++) {
		for (size_t k = 0; k < n->links[i].n_addrs; k++) {
			char addr[DETOUR_NET_MAX];
			int r;

			snprintf(addr, sizeof(addr), "%.*s", (int)strcspn(n->links[i].addrs[k], "/"), n->links[i].addrs[k]);
			r = add_net(nets, addr, err);
			if (r < 0)
				return r;
		}
	}
	if (json_array_size(nets) == before)
		return err_set(err, -EINVAL, "fault.netem: node %s has no address, so nothing is sent to it", n->name);
	return 0;
}

/* What `to` comes to, in plain addresses and nets: "nets" */
static int resolve_to(const struct site *site, json_t *args, struct err *err)
{
	const json_t *to = json_object_get(args, "to"), *j;
	const char *self = json_string_value(json_object_get(args, "node"));
	_cleanup_json_ json_t *nets = NULL;
	size_t i;

	if (!to)
		return 0;
	nets = json_array();
	if (!nets)
		return -ENOMEM;
	if (!json_array_size(to)) {
		err_set(err, -EINVAL, "fault.netem: to names nobody");
		err_hint(err, "leave it out to disturb what is sent to everybody");
		return -EINVAL;
	}
	json_array_foreach(to, i, j) {
		const char *name = json_string_value(j);
		const struct node *n = site ? site_node(site, name) : NULL;
		int r;

		if (n && streq(name, self))
			return err_set(err, -EINVAL, "fault.netem: what %s sends to itself passes none of its devices", name);
		r = n ? add_node(nets, n, err) : add_net(nets, name, err);
		if (r == -EINVAL && !n && !err->text[0]) {
			const char *near = site ? str_nearest(name, site->node_names) : NULL;

			err_set(err, r, "fault.netem: to = \"%s\" is no node of the site, no address and no net", name);
			if (near)
				err_hint(err, "did you mean \"%s\"?", near);
		}
		if (r < 0)
			return r;
	}
	return json_object_set(args, "nets", nets) < 0 ? -ENOMEM : 0;
}

static int nets_from_args(const json_t *args, struct netem_fault *f, struct err *err)
{
	const json_t *nets = json_object_get(args, "nets"), *j;
	size_t i;

	json_array_foreach(nets, i, j) {
		const char *text = json_string_value(j);

		if (i == DETOUR_NETS_MAX || !text || detour_net_parse(text, &f->to[f->n++]) < 0)
			return err_set(err, -EINVAL, "fault.netem: its record is damaged");
	}
	return 0;
}

static bool meant(const struct netem_fault *f, const char *addr)
{
	bool in = f->n == 0;

	for (size_t i = 0; i < f->n && !in; i++)
		in = detour_net_has(&f->to[i], addr);
	return in;
}

static const char *arg_how(const json_t *args)
{
	return json_string_value(json_object_get(args, "how"));
}

/* Refused while the scenario is still being checked, rather than when the fault's turn has come */
static int resolve(const struct site *site, json_t *args, struct err *err)
{
	const char *peer = json_string_value(json_object_get(args, "peer"));
	struct netem_fault f = {0};
	struct netem_spec s;
	int r = spec_from_args(args, &s, err);

	if (r == 0)
		r = resolve_to(site, args, err);
	if (r == 0)
		r = nets_from_args(args, &f, err);
	if (r < 0)
		return r;
	if (f.n && streq(arg_how(args), "root"))
		return err_set(err, -EINVAL, "fault.netem: how = \"root\" disturbs what is sent to everybody, and to names some");
	if (peer && !meant(&f, peer))
		return err_set(err, -EINVAL, "fault.netem: peer = \"%s\" is not among those that to names", peer);
	return 0;
}

static const char *arg_dev(const struct node *n, const json_t *args, struct err *err)
{
	const char *dev = json_string_value(json_object_get(args, "dev"));
	const struct node_link *l = node_link(n, NULL);

	if (dev)
		return dev;
	if (l)
		return l->dev;
	err_set(err, -EINVAL, "netem on %s: it has no links to choose from", n->name);
	err_hint(err, "say which device: dev = \"eth0\"");
	return NULL;
}

/* The device by its name, if it is still the one that was captured. -ENODEV gone; -ESTALE another one */
static int open_dev(const struct node *n, const char *dev, int ifindex, struct nlc **ret, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	int r = nlc_open(n, NETLINK_ROUTE, &nl, err);

	if (r < 0)
		return r;
	r = nlc_ifindex(nl, dev, err);
	if (r < 0)
		return err_prefix(err, "netem on %s/%s", n->name, dev), r;
	if (ifindex && r != ifindex)
		return err_set(err, -ESTALE, "netem on %s/%s: the device was replaced meanwhile (index %d, was %d)",
			n->name, dev, r, ifindex);
	*ret = TAKE_PTR(nl);
	return r;
}

/* Can the device's packets take another way? They must have the Ethernet header that the detour's devices have. */
static int type_cb(struct nlmsghdr *hdr, void *arg)
{
	if (hdr && hdr->nlmsg_type == RTM_NEWLINK)
		*(int *)arg = ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_type;
	return 0;
}

static int dev_type(struct nlc *rt, int ifindex, int *ret, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC, .ifi_index = ifindex};
	struct nl_msg *m = nlmsg_alloc_simple(RTM_GETLINK, 0);

	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	return nlc_get(rt, m, type_cb, ret, err);
}

static int way_choose(const struct netem_fault *f, const json_t *args, struct nlc *rt, const struct netem_way **ret,
	struct err *err)
{
	const char *how = arg_how(args);
	bool must = f->n || streq(how, "detour");
	struct err why = {0};
	int type = 0, r;

	if (streq(how, "root")) {
		*ret = &netem_root;
		return 0;
	}
	r = dev_type(rt, f->ifindex, &type, err);
	if (r < 0)
		return r;
	r = netem_detour_supported(&why);
	if (r == 0 && type != ARPHRD_ETHER && type != ARPHRD_LOOPBACK)
		r = err_set(&why, -EOPNOTSUPP, "it has no Ethernet headers");
	if (r < 0 && must) {
		err_set(err, r, "netem on %s/%s, %s: %s", f->node->name, f->dev,
			f->n ? "confined to some" : "round its own qdisc", why.text);
		if (why.hint[0])
			err_hint(err, "%s", why.hint);
		return r;
	}
	*ret = r == 0 ? &netem_detour : &netem_root;
	return 0;
}

static const struct netem_way *way_recorded(const json_t *prior)
{
	const char *how = json_string_value(json_object_get(prior, "how"));

	return streq(how, netem_detour.how) ? &netem_detour : streq(how, netem_root.how) ? &netem_root : NULL;
}

/* What args and prior say */
static int fault_read(const struct node *n, const json_t *args, const json_t *prior, struct netem_fault *ret,
	const struct netem_way **ret_way, struct err *err)
{
	struct netem_fault f = {.node = n, .args = args, .prior = prior};
	const struct netem_way *way = way_recorded(prior);
	int r = spec_from_args(args, &f.spec, err);

	if (r == 0)
		r = nets_from_args(args, &f, err);
	if (r < 0)
		return r;
	if (!way || json_unpack((json_t *)prior, "{s:s, s:i}", "dev", &f.dev, "ifindex", &f.ifindex) < 0)
		return err_set(err, -EINVAL, "netem: its record is damaged");
	*ret = f;
	*ret_way = way;
	return 0;
}

/* A socket where the device is. *ret_gone: it is not the one that was captured, or none. */
static int open_recorded(const struct netem_fault *f, struct nlc **ret, bool *ret_gone, struct err *err)
{
	_cleanup_nlc_ struct nlc *rt = NULL;
	int r = open_dev(f->node, f->dev, f->ifindex, &rt, err);

	*ret_gone = r == -ENODEV || r == -ESTALE;
	if (*ret_gone)
		r = nlc_open(f->node, NETLINK_ROUTE, &rt, NULL);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(rt);
	return 0;
}

static int netem_supported(struct err *err)
{
	static _Atomic bool works;
	const struct netem_spec s = {.limit = 1000};
	_cleanup_nlc_ struct nlc *nl = NULL;
	int ifindex, r;

	if (works)
		return 0;
	r = qdisc_scratch(1, &nl, &ifindex, err);
	if (r == 0)
		r = nlc_request(nl, netem_msg(&s, NLM_F_CREATE | NLM_F_REPLACE, ifindex, TC_H_ROOT, NETEM_HANDLE), err);
	works = r == 0;
	return r;
}

static int supported(const struct node *n, const json_t *args, struct err *reterr)
{
	const char *dev = arg_dev(n, args, NULL);
	struct err why = {0};
	int r = netem_supported(&why);

	if (r == -ENOENT || r == -EOPNOTSUPP) {
		err_set(reterr, -EOPNOTSUPP, "netem on %s/%s: not in this kernel (CONFIG_NET_SCH_NETEM)", n->name,
			dev ? dev : "?");
		err_hint(reterr, "run with --lab vm");
		return -EOPNOTSUPP;
	}
	if (r < 0)
		return err_set(reterr, r, "netem on %s/%s: tried on a device of its own: %s", n->name, dev ? dev : "?",
			why.text);
	if ((json_object_get(args, "nets") || streq(arg_how(args), "detour")) && netem_detour_supported(&why) < 0) {
		err_set(reterr, -EOPNOTSUPP, "netem on %s/%s, confined to some: %s", n->name, dev ? dev : "?", why.text);
		err_hint(reterr, "%s", why.hint);
		return -EOPNOTSUPP;
	}
	return 0;
}

static json_t *echo_json(const struct echo_result *e)
{
	json_t *j = json_pack("{s:s, s:i, s:i}", "peer", e->peer, "sent", (int)e->sent, "received", (int)e->received);

	if (j && e->received) {
		json_object_set_new(j, "rtt_min_ns", json_integer(e->rtt_min));
		json_object_set_new(j, "rtt_median_ns", json_integer(e->rtt_median));
		json_object_set_new(j, "rtt_p90_ns", json_integer(e->rtt_p90));
		json_object_set_new(j, "rtt_max_ns", json_integer(e->rtt_max));
	}
	return j;
}

/* A lab's own link may be asked as a whole; a real network may not. */
static bool lab_link(const struct node *n, const char *dev)
{
	const struct node_link *l = node_link(n, dev);

	return l && l->peer_netns;
}

/* Somebody who answers, among those that are meant; -ENODATA */
static int find_peer(const struct netem_fault *f, const json_t *args, char ret[ECHO_ADDR_MAX])
{
	const char *wanted = json_string_value(json_object_get(args, "peer"));
	char known[ECHO_KNOWN][ECHO_ADDR_MAX], list[ECHO_KNOWN][ECHO_ADDR_MAX];
	size_t n_known = 0, n = 0;

	if (wanted || !f->n)
		return echo_find_peer(f->node, f->dev, wanted, lab_link(f->node, f->dev), ret, NULL);
	for (size_t i = 0; i < f->n && n < ECHO_KNOWN; i++)
		if (f->to[i].prefix == (f->to[i].family == AF_INET6 ? 128 : 32))
			(void)detour_net_fmt(list[n++], &f->to[i]);
	(void)echo_neighbours(f->node, f->dev, known, ECHO_KNOWN, &n_known, NULL);
	for (size_t i = 0; i < n_known && n < ECHO_KNOWN; i++)
		if (meant(f, known[i]))
			memcpy(list[n++], known[i], sizeof(list[0]));
	return n ? echo_first(f->node, f->dev, list, n, ret, NULL) : -ENODATA;
}

/* Somebody who answers, and is not meant; -ENODATA */
static int find_bystander(const struct netem_fault *f, char ret[ECHO_ADDR_MAX])
{
	char known[ECHO_KNOWN][ECHO_ADDR_MAX], list[ECHO_KNOWN][ECHO_ADDR_MAX], found[ECHO_ADDR_MAX];
	size_t n_known = 0, n = 0;
	int r = -ENODATA;

	(void)echo_neighbours(f->node, f->dev, known, ECHO_KNOWN, &n_known, NULL);
	for (size_t i = 0; i < n_known; i++)
		if (!meant(f, known[i]))
			memcpy(list[n++], known[i], sizeof(list[0]));
	if (n)
		r = echo_first(f->node, f->dev, list, n, found, NULL);
	if (r < 0 && lab_link(f->node, f->dev)) {
		strcpy(list[0], "ff02::1");
		r = echo_first(f->node, f->dev, list, 1, found, NULL);
	}
	if (r < 0 || meant(f, found))
		return -ENODATA;
	strcpy(ret, found);
	return 0;
}

/* The round trip before the fault; NULL when nobody answers, which is not a reason to refuse. */
static json_t *baseline(const struct netem_fault *f, const char *peer)
{
	struct echo_result e;

	if (echo_run(f->node, f->dev, peer, 15, 10 * NSEC_PER_MSEC, ECHO_FIND_WAIT, &e, NULL) < 0 || e.received < 3)
		return NULL;
	return echo_json(&e);
}

static int capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *prior = NULL, *echo = NULL, *bystander = NULL;
	struct netem_fault f = {.node = n, .dev = arg_dev(n, args, err)};
	const struct netem_way *way = NULL;
	_cleanup_nlc_ struct nlc *rt = NULL;
	char peer[ECHO_ADDR_MAX];
	int r;

	if (!f.dev)
		return -EINVAL;
	r = spec_from_args(args, &f.spec, err);
	if (r == 0)
		r = nets_from_args(args, &f, err);
	if (r == 0)
		r = open_dev(n, f.dev, 0, &rt, err);
	if (r < 0)
		return r;
	f.ifindex = r;
	r = way_choose(&f, args, rt, &way, err);
	if (r < 0)
		return r;
	prior = json_pack("{s:s, s:s, s:i}", "how", way->how, "dev", f.dev, "ifindex", f.ifindex);
	if (!prior)
		return -ENOMEM;
	r = way->capture(&f, rt, prior, err);
	if (r < 0)
		return r;
	if (find_peer(&f, args, peer) == 0)
		echo = baseline(&f, peer);
	if (f.n && find_bystander(&f, peer) == 0)
		bystander = baseline(&f, peer);
	if ((echo && json_object_set(prior, "echo", echo) < 0) ||
		(bystander && json_object_set(prior, "bystander", bystander) < 0))
		return -ENOMEM;
	*ret_prior = TAKE_PTR(prior);
	return 0;
}

static int apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_nlc_ struct nlc *rt = NULL;
	const struct netem_way *way;
	struct netem_fault f;
	int r = fault_read(n, args, prior, &f, &way, err);

	if (r == 0)
		r = open_dev(n, f.dev, f.ifindex, &rt, err);
	if (r < 0)
		return r;
	r = way->apply(&f, rt, err);
	return r < 0 && f.n ? (err_prefix(err, "netem on %s/%s", n->name, f.dev), r) : r;
}

static int undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_nlc_ struct nlc *rt = NULL;
	const struct netem_way *way;
	struct netem_fault f;
	bool gone;
	int r = fault_read(n, args, prior, &f, &way, err);

	if (r == 0)
		r = open_recorded(&f, &rt, &gone, err);
	return r < 0 ? r : way->undo(&f, rt, gone, err);
}

static int verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_nlc_ struct nlc *rt = NULL;
	const struct netem_way *way;
	struct netem_fault f;
	bool gone;
	int r = fault_read(n, args, prior, &f, &way, err);

	if (r == 0)
		r = open_recorded(&f, &rt, &gone, err);
	return r < 0 ? r : way->verify(&f, rt, gone, err);
}

/* ── did it bite? ──────────────────────────────────────────────────────────────────────────── */

enum bite { BITE_NO, BITE_YES, BITE_UNKNOWN };

static enum bite bite_and(enum bite a, enum bite b)
{
	if (a == BITE_NO || b == BITE_NO)
		return BITE_NO;
	return a == BITE_YES && b == BITE_YES ? BITE_YES : BITE_UNKNOWN;
}

static json_t *asked_json(const struct netem_spec *s, const json_t *args)
{
	json_t *j = json_object();

	if (json_object_get(args, "nets"))
		json_object_set(j, "to", json_object_get(args, "nets"));

	if (s->delay)
		json_object_set_new(j, "delay_ns", json_integer(s->delay));
	if (s->jitter)
		json_object_set_new(j, "jitter_ns", json_integer(s->jitter));
	if (s->loss)
		json_object_set_new(j, "loss", json_real(netem_ratio(s->loss)));
	if (s->duplicate)
		json_object_set_new(j, "duplicate", json_real(netem_ratio(s->duplicate)));
	if (s->corrupt)
		json_object_set_new(j, "corrupt", json_real(netem_ratio(s->corrupt)));
	if (s->reorder)
		json_object_set_new(j, "reorder", json_real(netem_ratio(s->reorder)));
	if (s->rate)
		json_object_set_new(j, "rate_bytes", json_integer((json_int_t)s->rate));
	json_object_set_new(j, "limit", json_integer(s->limit));
	return j;
}

static nsec_t tolerance_itself(const struct netem_spec *s)
{
	return s->delay / 10 + s->jitter / 2 + 2 * NSEC_PER_MSEC;
}

static nsec_t tolerance_of(const struct netem_spec *s, const json_t *before)
{
	nsec_t spread = json_integer_value(json_object_get(before, "rtt_p90_ns")) -
			json_integer_value(json_object_get(before, "rtt_median_ns"));

	return tolerance_itself(s) + spread;
}

static enum bite judge_delay(const struct netem_spec *s, const json_t *before, const struct echo_result *e, json_t *measured,
	struct strbuf *text)
{
	nsec_t median0 = json_integer_value(json_object_get(before, "rtt_median_ns"));
	char b0[UNITS_FMT_MAX], b1[UNITS_FMT_MAX], b2[UNITS_FMT_MAX];
	nsec_t added, tolerance = tolerance_of(s, before);

	if (!e || !e->received) {
		strbuf_puts(text, e ? "; no echo came back: the delay was not measured" :
				      "; no neighbour answers echoes: the delay was not measured");
		return BITE_UNKNOWN;
	}
	added = e->rtt_median - median0;
	json_object_set_new(measured, "delay_ns", json_integer(added));
	strbuf_addf(text, "; round trip to %s %s -> %s (%s added, %s asked)", e->peer,
		before ? units_fmt_duration(b0, sizeof(b0), median0) : "unknown",
		units_fmt_duration(b1, sizeof(b1), e->rtt_median), units_fmt_duration(b2, sizeof(b2), added),
		units_fmt_duration((char[UNITS_FMT_MAX]){0}, UNITS_FMT_MAX, s->delay));
	if (added < s->delay - tolerance && before && !s->jitter) {
		nsec_t fastest0 = json_integer_value(json_object_get(before, "rtt_min_ns"));

		added = e->rtt_min - fastest0;
		tolerance = tolerance_itself(s);
		json_object_set_new(measured, "fastest_delay_ns", json_integer(added));
		strbuf_addf(text, ", the fastest %s -> %s", units_fmt_duration(b0, sizeof(b0), fastest0),
			units_fmt_duration(b1, sizeof(b1), e->rtt_min));
	}
	if (added < s->delay - tolerance || added > 2 * s->delay + tolerance)
		return BITE_NO;
	/* a delay that the tolerance swallows cannot be told from none */
	return s->delay > tolerance ? BITE_YES : BITE_UNKNOWN;
}

/* A confined fault: is whoever was not meant left alone? True where nothing speaks against it. */
static bool judge_bystander(const struct netem_fault *f, json_t *measured, struct strbuf *text)
{
	const json_t *before = json_object_get(f->prior, "bystander");
	const char *addr = json_string_value(json_object_get(before, "peer"));
	nsec_t median0 = json_integer_value(json_object_get(before, "rtt_median_ns")), added;
	_cleanup_nlc_ struct nlc *nf = NULL;
	char b0[UNITS_FMT_MAX], b1[UNITS_FMT_MAX];
	struct detour_net net;
	struct echo_result e;

	if (!addr) {
		strbuf_puts(text, "; no other neighbour answers echoes: that it is spared was not measured");
		return true;
	}
	/* perhaps it is meant by another fault by now */
	if (strchr(addr, '%') == NULL && detour_net_parse(addr, &net) == 0 &&
		nlc_open(f->node, NETLINK_NETFILTER, &nf, NULL) == 0 && detour_taken(nf, f->ifindex, &net, 1, NULL) == -EEXIST) {
		strbuf_addf(text, "; another fault is on the way to %s: that it is spared was not measured", addr);
		return true;
	}
	if (echo_run(f->node, f->dev, addr, 15, 10 * NSEC_PER_MSEC, ECHO_WAIT + f->spec.delay, &e, NULL) < 0 || !e.received) {
		strbuf_addf(text, "; %s, which is not meant, does not answer any more", addr);
		return !f->spec.loss;
	}
	added = e.rtt_median - median0;
	json_object_set_new(measured, "bystander", echo_json(&e));
	json_object_set_new(measured, "bystander_delay_ns", json_integer(added));
	strbuf_addf(text, "; to %s, which is not meant, %s -> %s", addr, units_fmt_duration(b0, sizeof(b0), median0),
		units_fmt_duration(b1, sizeof(b1), e.rtt_median));
	/* the fastest as well: a delay that is always the same slows each, and what the machine does beside it does not */
	return !f->spec.delay || added <= tolerance_of(&f->spec, before) ||
	       (!f->spec.jitter &&
		       e.rtt_min - json_integer_value(json_object_get(before, "rtt_min_ns")) <= tolerance_of(&f->spec, before));
}

static enum bite judge_loss(const struct netem_spec *s, uint64_t passed, uint64_t dropped, json_t *measured,
	struct strbuf *text)
{
	double asked = netem_ratio(s->loss), share = (double)dropped / (double)(passed + dropped), lo, hi;

	stats_wilson(dropped, passed + dropped, Z_99, &lo, &hi);
	json_object_set_new(measured, "loss", json_real(share));
	json_object_set_new(measured, "loss_interval", json_pack("[f, f]", lo, hi));
	strbuf_addf(text, "; loss %.3g%% (%.3g to %.3g%%, %.3g%% asked)", share * 100, lo * 100, hi * 100, asked * 100);
	if (dropped == 0 && pow(1 - asked, (double)passed) >= 0.01) {
		strbuf_puts(text, ": too few packets to tell");
		return BITE_UNKNOWN;
	}
	if (s->loss_corr)
		return dropped ? BITE_YES : BITE_NO;
	return dropped && lo <= asked * 1.1 && hi >= asked * 0.9 ? BITE_YES : BITE_NO;
}

static int measure(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence, struct err *err)
{
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_json_ json_t *measured = json_object(), *asked = NULL;
	_cleanup_nlc_ struct nlc *rt = NULL;
	struct netem_seen before = {0}, after = {0};
	const struct netem_way *way;
	struct echo_result echo;
	bool have_echo = false, gone;
	enum bite bite = BITE_UNKNOWN;
	const json_t *echo0 = json_object_get(prior, "echo");
	struct netem_fault f;
	json_t *evidence;
	int r = fault_read(n, args, prior, &f, &way, err);

	if (r < 0)
		return r;
	asked = asked_json(&f.spec, args);
	r = open_recorded(&f, &rt, &gone, err);
	if (r == 0 && !gone)
		r = way->read(&f, rt, &before, err);
	if (r < 0)
		return r;
	json_object_set_new(measured, "how", json_string(way->how));
	if (gone || !before.there) {
		strbuf_addf(&text, "netem is not on %s/%s any more, or not as it was put there", n->name, f.dev);
		bite = BITE_NO;
		goto done;
	}
	/* what was there before my own echoes is the drill's traffic */
	after = before;
	if (before.entered) {
		nsec_t wait = f.spec.delay + 4 * f.spec.jitter + ECHO_WAIT;
		char peer[ECHO_ADDR_MAX];
		const char *to = json_string_value(json_object_get(echo0, "peer"));

		/* nobody answered before; perhaps somebody does by now */
		if (!to && f.spec.delay < ECHO_FIND_WAIT / 2 && find_peer(&f, args, peer) == 0)
			to = peer;
		if (to && wait <= ECHO_LONGEST)
			have_echo = echo_run(n, f.dev, to, ECHO_COUNT, ECHO_EVERY, wait, &echo, NULL) == 0;
		if (have_echo)
			json_object_set_new(measured, "echo", echo_json(&echo));
		r = way->read(&f, rt, &after, err);
		if (r < 0)
			return r;
	}
	json_object_set_new(measured, "packets", json_integer((json_int_t)after.packets));
	json_object_set_new(measured, "dropped", json_integer(after.drops));
	json_object_set_new(measured, "queued", json_integer(after.qlen));
	if (!before.entered) {
		strbuf_addf(&text, "no packet%s passed %s/%s: it did not bite", f.n ? " to those that are meant" : "", n->name, f.dev);
		bite = BITE_NO;
		goto done;
	}
	strbuf_addf(&text, "%llu packets passed, %u dropped", (unsigned long long)after.packets, after.drops);
	if (before.entered < FEW)
		strbuf_puts(&text, ", too few to call it a bite");
	else if (f.spec.delay || f.spec.loss)
		bite = BITE_YES;
	else
		strbuf_puts(&text, "; duplicates, corruption and rate are not measured");
	if (f.spec.delay)
		bite = bite_and(bite, judge_delay(&f.spec, echo0, have_echo ? &echo : NULL, measured, &text));
	if (f.spec.loss)
		bite = bite_and(bite, judge_loss(&f.spec, after.packets, after.drops, measured, &text));
	else if (after.drops)
		strbuf_addf(&text, "; the limit of %u packets made a loss that nobody asked for", f.spec.limit);
	if (f.n && !judge_bystander(&f, measured, &text))
		bite = BITE_NO;
	if (way == &netem_root)
		strbuf_puts(&text, "; what was sent or queued as the root qdisc was replaced is lost, and not counted here");
done:
	evidence = json_pack("{s:O, s:O, s:o, s:s}", "asked", asked, "measured", measured, "proved",
		bite == BITE_UNKNOWN ? json_null() : json_boolean(bite == BITE_YES), "text", strbuf_cstr(&text));
	if (!evidence || text.oom) {
		json_decref(evidence);
		return -ENOMEM;
	}
	*ret_evidence = evidence;
	return 0;
}

static int command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const struct netem_way *way = prior ? NULL : streq(arg_how(args), "root") ? &netem_root : &netem_detour;
	struct netem_fault f = {.node = n, .dev = arg_dev(n, args, NULL), .args = args};
	int r;

	if (prior) {
		r = fault_read(n, args, prior, &f, &way, NULL);
	} else {
		r = spec_from_args(args, &f.spec, NULL);
		if (r == 0)
			r = nets_from_args(args, &f, NULL);
	}
	if (r == 0)
		r = f.dev ? way->command(&f, ret_apply, ret_undo) : -EINVAL;
	if (r < 0)
		return r;
	return ret_apply->oom || ret_undo->oom ? -ENOMEM : 0;
}

/* The device's sending, or of that what goes to the addresses of "to". A node without links has no device to name yet. */
static int reach(const struct node *n, const json_t *args, json_t **ret_reach, struct err *err _unused_)
{
	const char *dev = arg_dev(n, args, NULL);
	const json_t *to = json_object_get(args, "to");
	json_t *j = json_pack("{s:[{s:s}]}", "devices", "dev", dev ? dev : "*");

	if (j && to)
		json_object_set_new(j, "to", json_is_array(to) ? json_copy((json_t *)to) : json_pack("[O]", to));
	*ret_reach = j;
	return j ? 0 : -ENOMEM;
}

const struct change_ops change_fault_netem = {
	.name = "fault.netem",
	.summary = "What a node sends is delayed, lost, duplicated, corrupted or reordered",
	.kind = CHANGE_FAULT,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "[{\"node\": \"node\", \"delay\": \"40ms\"},"
		   " {\"node\": \"node\", \"delay\": \"20ms\", \"to\": [\"peer\", \"198.18.7.0/24\", \"2001:db8:7::/48\"]},"
		   " {\"node\": \"node\", \"delay\": \"20ms\", \"how\": \"root\"},"
		   " {\"node\": \"node\", \"delay\": \"20ms\", \"jitter\": \"5ms\", \"loss\": \"5%\", \"duplicate\": \"1%\"}]",
	.resolve = resolve,
	.supported = supported,
	.reach = reach,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.measure = measure,
	.command = command,
};
