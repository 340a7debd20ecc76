/* SPDX-License-Identifier: GPL-2.0-only */
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "inject/netem_way.h"

/* How long a lift waits at most for the packets that the fault has held back; what is left then is dropped */
#define PATIENCE NSEC_PER_SEC

/* Whose it is, for whoever finds it. The record tells ours by the token in the names, not by this. */
static const char *tag(void)
{
	return change_run_tag();
}

/* For a plan that is made without a host: as good a name as any, and another one for each fault */
static void token_of_args(const json_t *args, char ret[DETOUR_TOKEN_LEN + 1])
{
	_cleanup_free_ char *text = json_dumps(args, JSON_COMPACT | JSON_SORT_KEYS);
	uint32_t h = 2166136261u; /* FNV-1a */

	for (const char *p = text; p && *p; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	snprintf(ret, DETOUR_TOKEN_LEN + 1, "%08x", h);
}

static int detour_of(const struct netem_fault *f, struct detour *ret, struct err *err)
{
	const char *token = json_string_value(json_object_get(f->prior, "token"));

	if (f->prior && (!token || strlen(token) != DETOUR_TOKEN_LEN))
		return err_set(err, -EINVAL, "netem: its record is damaged");
	*ret = (struct detour){.dev = f->dev, .ifindex = f->ifindex, .n = f->n};
	if (token)
		memcpy(ret->token, token, sizeof(ret->token));
	else
		token_of_args(f->args, ret->token);
	memcpy(ret->to, f->to, sizeof(ret->to));
	return 0;
}

static int build(struct nlc *rt, struct nlc *nf, const struct detour *d, const struct netem_spec *spec, struct err *err)
{
	char name[DETOUR_NAME_MAX];
	int in, r = detour_make(rt, d, tag(), &in, err);

	if (r < 0)
		return r;
	r = nlc_request(rt, netem_msg(spec, NLM_F_CREATE | NLM_F_EXCL, in, TC_H_ROOT, NETEM_HANDLE), err);
	if (r < 0)
		return err_prefix(err, "netem on %s", detour_in(d, name)), r;
	return detour_open(rt, nf, d, tag(), err);
}

int netem_detour_supported(struct err *err)
{
	static _Atomic bool works; /* a kernel does not unlearn it */
	_cleanup_nlc_ struct nlc *rt = NULL, *nf = NULL;
	struct detour d = {.token = "00000000", .dev = "scratch", .n = 1};
	const struct netem_spec spec = {.limit = 1000};
	struct err why = {0};
	int r;

	if (atomic_load(&works))
		return 0;
	(void)detour_net_parse("192.0.2.0/25", &d.to[0]);
	r = qdisc_scratch_nf(1, &rt, &nf, &d.ifindex, &why);
	if (r == 0)
		r = build(rt, nf, &d, &spec, &why);
	if (r < 0) {
		err_set(err, -EOPNOTSUPP, "this kernel does not send packets round a device's own queue: %s", why.text);
		err_hint(err, "it needs CONFIG_NETFILTER_EGRESS, NFT_FWD_NETDEV, MACVLAN, BRIDGE, NET_SCH_INGRESS, NET_CLS_U32 and "
			      "NET_ACT_MIRRED; run with --lab vm");
		return -EOPNOTSUPP;
	}
	atomic_store(&works, true);
	return 0;
}

static int capture(const struct netem_fault *f, struct nlc *rt _unused_, json_t *prior, struct err *err)
{
	_cleanup_nlc_ struct nlc *nf = NULL;
	char token[DETOUR_TOKEN_LEN + 1];
	int r = nlc_open(f->node, NETLINK_NETFILTER, &nf, err);

	if (r == 0)
		r = detour_taken(nf, f->ifindex, f->to, f->n, err);
	if (r == -EEXIST) {
		err_prefix(err, "netem on %s/%s", f->node->name, f->dev);
		err_hint(err, "lift the other fault first, or put back what an earlier run left: muster restore --all");
		return -EBUSY;
	}
	if (r == 0)
		r = detour_token(token, err);
	if (r < 0)
		return r;
	return json_object_set_new(prior, "token", json_string(token)) < 0 ? -ENOMEM : 0;
}

static int apply(const struct netem_fault *f, struct nlc *rt, struct err *err)
{
	_cleanup_nlc_ struct nlc *nf = NULL;
	struct detour d;
	int r = detour_of(f, &d, err);

	if (r == 0)
		r = nlc_open(f->node, NETLINK_NETFILTER, &nf, err);
	return r < 0 ? r : build(rt, nf, &d, &f->spec, err);
}

static int look(const struct netem_fault *f, struct nlc *rt, struct nlc **ret_nf, struct detour *ret_d,
	struct detour_seen *ret, struct netem_root_seen *ret_root, struct err *err)
{
	_cleanup_nlc_ struct nlc *nf = NULL;
	int r = detour_of(f, ret_d, err);

	if (r == 0)
		r = nlc_open(f->node, NETLINK_NETFILTER, &nf, err);
	if (r == 0)
		r = detour_read(rt, nf, ret_d, ret, err);
	*ret_root = (struct netem_root_seen){0};
	if (r == 0 && ret->in)
		r = netem_root_read(rt, ret->in_ifindex, ret_root, err);
	if (r == 0 && ret_nf)
		*ret_nf = TAKE_PTR(nf);
	return r;
}

/* It goes with the device's chain, or without it: what was made for the fault is not the device's. */
static int undo(const struct netem_fault *f, struct nlc *rt, bool gone _unused_, struct err *err)
{
	nsec_t hold = f->spec.delay + 4 * f->spec.jitter + 20 * NSEC_PER_MSEC;
	_cleanup_nlc_ struct nlc *nf = NULL;
	struct netem_root_seen root;
	struct detour_seen seen;
	char name[DETOUR_NAME_MAX];
	struct detour d;
	int r = look(f, rt, &nf, &d, &seen, &root, err);

	if (r < 0)
		return r;
	/* an apply that was interrupted has left no qdisc, or the kernel's own, on IN */
	if (seen.in && root.found && root.o.handle && (!netem_root_ours(&root, &f->spec) || root.n > 1)) {
		err_set(err, -EEXIST, "netem on %s/%s: somebody else changed the qdisc of %s; it was left alone", f->node->name,
			f->dev, detour_in(&d, name));
		return CHANGE_CONFLICT;
	}
	if (seen.foreign) {
		err_set(err, -EEXIST, "netem on %s/%s: somebody else changed the rules of table netdev %s; they were left alone",
			f->node->name, f->dev, detour_table(&d, name));
		return CHANGE_CONFLICT;
	}
	/* a queue that a rate holds back is as long as it is */
	return detour_close(rt, nf, &d, &seen, f->spec.rate ? PATIENCE : MIN(hold, PATIENCE), err);
}

static int verify(const struct netem_fault *f, struct nlc *rt, bool gone _unused_, struct err *err)
{
	struct netem_root_seen root;
	struct detour_seen seen;
	char name[DETOUR_NAME_MAX];
	struct detour d;
	int r = look(f, rt, NULL, &d, &seen, &root, err);

	if (r < 0)
		return r;
	if (!seen.table && !seen.in && !seen.out)
		return 0;
	err_set(err, -EUCLEAN, "%s/%s: the fault's %s %s is still there", f->node->name, f->dev,
		seen.table ? "table netdev" : "device",
		seen.table ? detour_table(&d, name) : seen.in ? detour_in(&d, name) : detour_out(&d, name));
	return 1;
}

static int read_(const struct netem_fault *f, struct nlc *rt, struct netem_seen *ret, struct err *err)
{
	struct netem_root_seen root;
	struct detour_seen seen;
	struct detour d;
	int r = look(f, rt, NULL, &d, &seen, &root, err);

	if (r < 0)
		return r;
	*ret = (struct netem_seen){
		.there = seen.table && !seen.foreign && seen.rules && seen.out && netem_root_ours(&root, &f->spec),
		.entered = seen.packets,
		.packets = root.o.packets,
		.drops = root.o.drops,
		.qlen = root.o.qlen,
	};
	return 0;
}

static int command(const struct netem_fault *f, struct strbuf *ret_apply, struct strbuf *ret_undo)
{
	_cleanup_strbuf_ struct strbuf root = {0};
	struct detour d;
	int r = detour_of(f, &d, NULL);

	if (r < 0)
		return r;
	strbuf_addf(&root, "root handle %x: netem ", NETEM_HANDLE >> 16);
	netem_words(&f->spec, &root);
	detour_command(f->node, &d, tag(), strbuf_cstr(&root), ret_apply, ret_undo);
	return root.oom ? -ENOMEM : 0;
}

const struct netem_way netem_detour = {
	.how = "detour",
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.read = read_,
	.command = command,
};
