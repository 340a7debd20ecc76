/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * netem in the place of the root qdisc. A root qdisc has one owner. Ours is known by its handle, its kind, its options and by having
 * nothing below it; the undo touches no other. What stood there before is captured from the kernel's dump and rehearsed before
 * anything is changed (qdisc.h).
 */
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "inject/netem_way.h"

/* Is it the qdisc that apply() made, and nothing else? */
static bool is_ours(const json_t *tree, const struct netem_spec *want)
{
	const json_t *root = qdisc_root(tree);
	const char *hex = json_string_value(json_object_get(root, "options"));
	_cleanup_free_ void *options = NULL;
	struct netem_spec s;
	size_t len;

	return root && streq(json_string_value(json_object_get(root, "kind")), "netem") &&
	       json_integer_value(json_object_get(root, "handle")) == NETEM_HANDLE &&
	       json_array_size(json_object_get(tree, "qdiscs")) == 1 &&
	       json_array_size(json_object_get(tree, "filters")) == 0 && hex &&
	       hex_decode(hex, &options, &len) == 0 && netem_parse(options, len, &s) == 0 && netem_equal(&s, want);
}

static int root_cb(const struct tc_obj *o, void *arg)
{
	struct netem_root_seen *s = arg;

	if (!o) {
		*s = (struct netem_root_seen){0};
		return 0;
	}
	s->n += o->handle && o->parent != TC_H_INGRESS;
	if (o->parent != TC_H_ROOT)
		return 0;
	s->found = true;
	s->o = *o;
	s->parsed = streq(o->kind, "netem") ? netem_parse(o->options, o->options_len, &s->spec) : -EINVAL;
	s->o.kind = NULL; /* the message does not outlive this call */
	s->o.options = NULL;
	return 0;
}

/* qdisc_capture() refuses a netem with jitter, whose distribution it could not restore: ours has none, and is looked at here. */
int netem_root_read(struct nlc *rt, int ifindex, struct netem_root_seen *ret, struct err *err)
{
	struct netem_root_seen s = {0};
	int r = tc_dump(rt, RTM_GETQDISC, ifindex, 0, root_cb, &s, err);

	if (r == 0)
		*ret = s;
	return r;
}

static int tree_of(const struct netem_fault *f, const json_t **ret, struct err *err)
{
	const json_t *tree = json_object_get(f->prior, "tree");

	if (!json_is_object(tree))
		return err_set(err, -EINVAL, "netem: its record is damaged");
	*ret = tree;
	return 0;
}

static int capture(const struct netem_fault *f, struct nlc *rt, json_t *prior, struct err *err)
{
	struct netem_root_seen root;
	json_t *tree = NULL;
	unsigned int n_tx;
	int r = netem_root_read(rt, f->ifindex, &root, err);

	if (r < 0)
		return r;
	if (root.found && root.o.handle == NETEM_HANDLE) {
		err_set(err, -EBUSY, "netem on %s/%s: a netem of muster's stands there already", f->node->name, f->dev);
		err_hint(err, "lift the other fault first, or put back what an earlier run left: muster restore --all");
		return -EBUSY;
	}
	r = qdisc_capture(rt, f->ifindex, &tree, err);
	if (r == 0)
		r = json_object_set_new(prior, "tree", tree) < 0 ? -ENOMEM : 0;
	if (r == 0)
		r = qdisc_tx_queues(rt, f->ifindex, &n_tx, err);
	if (r == 0)
		r = qdisc_rehearse(tree, n_tx, err);
	return r < 0 ? (err_prefix(err, "netem on %s/%s", f->node->name, f->dev), r) : 0;
}

static int apply(const struct netem_fault *f, struct nlc *rt, struct err *err)
{
	int r = nlc_request(rt, netem_msg(&f->spec, NLM_F_CREATE | NLM_F_REPLACE, f->ifindex, TC_H_ROOT, NETEM_HANDLE), err);

	return r < 0 ? (err_prefix(err, "netem on %s/%s", f->node->name, f->dev), r) : 0;
}

/* 0 ours stands there; 1 the prior does, whole; 2 it does in part: a restore was interrupted; -EEXIST something else; -errno */
static int compare(const struct netem_fault *f, struct nlc *rt, const json_t *tree, char **ret_now, struct err *err)
{
	_cleanup_json_ json_t *now = NULL;
	struct err why = {0};
	struct netem_root_seen root;
	int r = netem_root_read(rt, f->ifindex, &root, err);

	if (r < 0)
		return r;
	if (netem_root_ours(&root, &f->spec)) {
		/* jitter makes the capture of our own qdisc refuse, and then nothing more can be learnt that way */
		if (f->spec.jitter) {
			*ret_now = strdup("something below it");
			return root.n > 1 ? -EEXIST : 0;
		}
		r = qdisc_capture(rt, f->ifindex, &now, err);
		if (r < 0)
			return r;
		if (is_ours(now, &f->spec))
			return 0;
		*ret_now = qdisc_describe(now);
		return -EEXIST;
	}
	r = qdisc_capture(rt, f->ifindex, &now, &why);
	if (r == -EOPNOTSUPP) { /* it is not the prior: that could be captured */
		*ret_now = strdup(why.text);
		return -EEXIST;
	}
	if (r < 0)
		return err_set(err, r, "%s", why.text);
	if (qdisc_equal(now, tree))
		return 1;
	if (qdisc_partial(now, tree))
		return 2;
	*ret_now = qdisc_describe(now);
	return -EEXIST;
}

static int undo(const struct netem_fault *f, struct nlc *rt, bool gone, struct err *err)
{
	_cleanup_free_ char *now = NULL;
	const json_t *tree;
	int r = tree_of(f, &tree, err);

	if (r < 0)
		return r;
	if (gone) /* our qdisc died with its device; the device is not ours to bring back */
		return CHANGE_CONFLICT;
	r = compare(f, rt, tree, &now, err);
	if (r == 1)
		return 0;
	if (r == -EEXIST) {
		err_set(err, r, "netem on %s/%s: somebody else put another qdisc there: %s; it was left alone", f->node->name, f->dev,
			now ? now : "?");
		return CHANGE_CONFLICT;
	}
	if (r < 0)
		return r;
	r = qdisc_restore(rt, f->ifindex, tree, NETEM_HANDLE, err);
	return r < 0 ? (err_prefix(err, "netem on %s/%s", f->node->name, f->dev), r) : 0;
}

static int verify(const struct netem_fault *f, struct nlc *rt, bool gone, struct err *err)
{
	_cleanup_free_ char *have = NULL, *want = NULL;
	_cleanup_json_ json_t *now = NULL;
	struct err why = {0};
	const json_t *tree;
	int r = tree_of(f, &tree, err);

	if (r < 0)
		return r;
	if (gone)
		return 1;
	r = qdisc_capture(rt, f->ifindex, &now, &why);
	if (r < 0 && r != -EOPNOTSUPP)
		return err_set(err, r, "%s", why.text);
	if (r == 0 && qdisc_equal(now, tree))
		return 0;
	have = r == 0 ? qdisc_describe(now) : strdup(why.text);
	want = qdisc_describe(tree);
	err_set(err, -EUCLEAN, "%s/%s: the root qdisc is %s, and was %s", f->node->name, f->dev, have ? have : "?",
		want ? want : "?");
	if (!qdisc_root(tree))
		err_hint(err, "the kernel's default follows net.core.default_qdisc");
	return 1;
}

static int read_(const struct netem_fault *f, struct nlc *rt, struct netem_seen *ret, struct err *err)
{
	struct netem_root_seen root;
	int r = netem_root_read(rt, f->ifindex, &root, err);

	if (r < 0)
		return r;
	*ret = (struct netem_seen){
		.there = netem_root_ours(&root, &f->spec),
		.entered = root.o.packets + root.o.drops + root.o.qlen,
		.packets = root.o.packets,
		.drops = root.o.drops,
		.qlen = root.o.qlen,
	};
	return 0;
}

static int command(const struct netem_fault *f, struct strbuf *ret_apply, struct strbuf *ret_undo)
{
	const json_t *tree = json_object_get(f->prior, "tree");

	change_command_prefix(f->node, ret_apply);
	strbuf_puts(ret_apply, "tc qdisc replace dev ");
	strbuf_add_shell(ret_apply, f->dev);
	strbuf_addf(ret_apply, " root handle %x: netem ", NETEM_HANDLE >> 16);
	netem_words(&f->spec, ret_apply);
	strbuf_puts(ret_apply, "\n");
	strbuf_puts(ret_undo, "! ");
	change_command_prefix(f->node, ret_undo);
	strbuf_puts(ret_undo, "tc qdisc show dev ");
	strbuf_add_shell(ret_undo, f->dev);
	strbuf_addf(ret_undo, " 2>/dev/null | grep -q '^qdisc netem %x: root ' || ", NETEM_HANDLE >> 16);
	change_command_prefix(f->node, ret_undo);
	strbuf_puts(ret_undo, "tc qdisc del dev ");
	strbuf_add_shell(ret_undo, f->dev);
	strbuf_addf(ret_undo, " root handle %x:\n", NETEM_HANDLE >> 16);
	if (tree && qdisc_root(tree)) {
		_cleanup_free_ char *was = qdisc_describe(tree);

		strbuf_addf(ret_undo, "# left: the root qdisc of %s was %s: the journal holds it byte by byte\n", f->dev, was ? was : "?");
	}
	return 0;
}

const struct netem_way netem_root = {
	.how = "root",
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.read = read_,
	.command = command,
};
