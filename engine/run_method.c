/* SPDX-License-Identifier: GPL-2.0-only */
/* run_method.c: the method: the script asks, the conductor does. */
#include "engine/run_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"

/* Data lag behind by what is still under way, a load's timeout at most; past this they are not coming. */
#define DATA_GRACE (30 * NSEC_PER_SEC)
/* How often an expectation looks again when nothing new has arrived */
#define LOOK_AGAIN (500 * NSEC_PER_MSEC)

static const char *text(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

static const char *where_of(const json_t *request)
{
	const char *w = text(request, "where");

	return w ? w : "";
}

/* ── changes ───────────────────────────────────────────────────────────────────────────────── */

static void change_event(struct run *r, const struct run_change *rc, const char *state, const char *why,
	const json_t *evidence)
{
	const struct change *c = &rc->c;
	const char *kind = c->ops->kind == CHANGE_FAULT ? EV_FAULT : EV_CHANGE;
	nsec_t t = streq(state, "applied") && c->applied ? c->applied : now_ns();
	json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s?}", "id", (int)rc->id, "change", c->ops->name, "node",
		c->node->name, "where", rc->where, "state", state, "text", why);

	/* the lab's argument is the whole site, which is in the plan already */
	if (c->ops->kind != CHANGE_LAB)
		json_object_set(j, "args", c->args);
	json_object_set_new(j, "class", json_string(change_class_name(c->ops->class)));
	if (rc->waived && streq(state, "applied"))
		json_object_set_new(j, "waived", json_string(rc->waived));
	if (evidence)
		json_object_update(j, (json_t *)evidence);
	timeline_event(r->tl, t, kind, j);
}

int run_change_apply(struct run *r, const struct change_ops *ops, struct node *n, const json_t *args, const char *where,
	bool optional, struct run_change **ret, struct err *err)
{
	struct run_change *rc = calloc(1, sizeof(*rc)), **more;
	int e;

	more = realloc(r->changes, (r->n_changes + 1) * sizeof(struct run_change *));
	if (more)
		r->changes = more;
	if (!rc || !more || !(rc->where = strdup(where))) {
		free(rc);
		return -ENOMEM;
	}
	rc->c = (struct change){.ops = ops,
		.node = n,
		.args = json_incref((json_t *)args),
		.before_intent = run_script_intend,
		.arg = r,
		.announce = run_announce,
		.announce_arg = r};
	rc->id = (unsigned int)r->n_changes + 1;
	e = run_check_paths(r, ops, n, args, &rc->waived, err);
	if (e < 0) {
		/* no part of it was made: the drill asked for what it may not have, and that is its verdict */
		timeline_event(r->tl, now_ns(), EV_REFUSED, json_pack("{s:s}", "text", err->text));
		json_decref(rc->c.args);
		free(rc->where);
		free(rc);
		return e;
	}
	e = change_apply(r->o->journal, &rc->c, err);
	r->changes[r->n_changes++] = rc;
	if (e < 0) {
		/* taken back by change_apply(), or kept by the journal as not undone */
		rc->lifted = true;
		err_prefix(err, "%s on %s", ops->name, n->name);
		change_event(r, rc, e == -EOPNOTSUPP && optional ? "unsupported" : "failed", err->text, NULL);
		return e;
	}
	change_event(r, rc, "applied", NULL, NULL);
	run_peak_applied(r, rc);
	if (ret)
		*ret = rc;
	return 0;
}

int run_change_lift(struct run *r, struct run_change *rc, struct err *err)
{
	_cleanup_json_ json_t *evidence = NULL;
	const struct change *c = &rc->c;
	struct err why = {0};
	const char *state;
	nsec_t since;
	int e;

	if (rc->lifted)
		return 0;
	rc->lifted = true;
	run_peak_lifting(r, rc);
	/* A halted drill has no answer to prove, and its undo does not wait for measurements. */
	if (c->ops->kind == CHANGE_FAULT && c->ops->measure && !run_halted(r)) {
		e = c->ops->measure(c->node, c->args, c->prior, &evidence, &why);
		if (e < 0)
			evidence = json_pack("{s:n, s:s}", "proved", "text", why.text[0] ? why.text : strerror(-e));
	}
	why.text[0] = '\0';
	since = now_ns();
	e = change_undo(r->o->journal, &rc->c, &why);
	/* the damage of a halted drill ends first; and run_undo() brings the script up to date once, at its end */
	if (!run_halted(r) && !r->undoing)
		run_script_update(r);
	state = e == 0		     ? (c->ops->kind == CHANGE_FAULT ? "lifted" : "undone") :
		e == CHANGE_CONFLICT ? "conflict" :
					     "failed";
	if (c->ops->kind == CHANGE_FAULT) {
		if (!evidence)
			evidence = json_object();
		json_object_set_new(evidence, "since", json_integer(since));
	}
	change_event(r, rc, state, why.text[0] ? why.text : NULL, evidence);
	if (e < 0 && err)
		*err = why;
	return e < 0 ? e : 0;
}

static struct run_change *by_handle(struct run *r, const json_t *request)
{
	json_int_t handle = json_integer_value(json_object_get(request, "handle"));

	for (size_t i = 0; i < r->n_changes; i++)
		if (r->changes[i]->id == handle && r->changes[i]->c.ops->kind != CHANGE_LAB)
			return r->changes[i];
	return NULL;
}

static int do_change(struct run *r, json_t *request, const char *op, json_t **ret_value, struct err *why)
{
	const struct change_ops *ops;
	struct run_change *rc = NULL;
	struct node *node;
	int e = plan_check_change(r->site, request, &ops, &node, why);

	if (e == 0 && (ops->kind == CHANGE_FAULT) != streq(op, "inject"))
		e = err_set(why, -EINVAL, "%s: inject takes faults, apply takes settings", ops->name);
	if (e == 0)
		e = run_change_apply(r, ops, node, json_object_get(request, "args"), where_of(request), false, &rc, why);
	if (e == 0)
		*ret_value = json_pack("{s:i}", "handle", (int)rc->id);
	return e;
}

/* ── expectations ──────────────────────────────────────────────────────────────────────────── */

static json_t *number_or_null(bool have, double v)
{
	return have && isfinite(v) ? json_real(v) : json_null();
}

/* @time: how long it was looked at, or for; its end goes along as "until" */
static void check_event(struct run *r, const char *name, const char *use, json_t *predicates, nsec_t from,
	const char *time_key, nsec_t time, const struct finding *f, const char *why, const char *where)
{
	json_t *j = json_pack("{s:s, s:s, s:o, s:I, s:I, s:I, s:s, s:o, s:o, s:s, s:s}", "name", name, "use", use,
		"predicates", predicates, "from", (json_int_t)from, time_key, (json_int_t)time, "until",
		(json_int_t)(from + time), "status",
		tri_names[f->status], "at", f->at ? json_integer(f->at) : json_null(), "value",
		number_or_null(f->sample.have, f->sample.value), "text", why && *why ? why : f->sample.text, "where",
		where);

	timeline_event(r->tl, now_ns(), EV_CHECK, j);
}

static json_t *tri_to_json(enum tri t)
{
	return t == TRI_UNKNOWN ? json_null() : json_boolean(t == TRI_TRUE);
}

static nsec_t complete_now(struct run *r)
{
	nsec_t t;

	timeline_lock(r->tl);
	t = timeline_complete(r->tl);
	timeline_unlock(r->tl);
	return t;
}

static int expect(struct run *r, const json_t *request, bool always, json_t **ret_value, struct err *why)
{
	const char *time_key = always ? "during_ns" : "within_ns";
	struct predicate *p = NULL;
	struct finding f = {.status = TRI_UNKNOWN};
	nsec_t from = now_ns(), time, complete, last;
	json_t *list;
	int e = session_check_expectation(r->site, request, time_key, &p, &time, why);

	if (e < 0)
		return e;
	last = from + time + DATA_GRACE;
	for (;;) {
		complete = complete_now(r);
		if (always)
			predicate_always(p, r->tl, r->site, from, time, complete, &f);
		else
			predicate_eventually(p, r->tl, r->site, from, time, complete, &f);
		if (f.done || run_cut(r) || now_ns() >= last)
			break;
		(void)timeline_wait(r->tl, complete + TIMELINE_BUCKET, MIN(last, now_ns() + LOOK_AGAIN));
	}
	if (run_cut(r)) {
		e = err_set(why, -ECANCELED, "the drill was halted");
	} else {
		list = json_pack("[O]", json_object_get(request, "predicate"));
		check_event(r, p->text, always ? "always" : "eventually", list, from, time_key, time, &f,
			f.done ? NULL : "the data did not arrive in time", where_of(request));
		*ret_value = tri_to_json(f.status);
	}
	finding_clear(&f);
	predicate_free(p);
	return e;
}

int run_steady(struct run *r, const char *use, nsec_t from)
{
	nsec_t until = from + r->within, complete, last = until + DATA_GRACE;
	struct finding f = {.status = TRI_UNKNOWN};
	const char *name = streq(use, "steady-before") ? "steady state before" : "steady state after";
	json_t *list;
	int e;

	if (r->n_steady == 0)
		return 0;
	for (;;) {
		complete = complete_now(r);
		predicate_steady(r->steady, r->n_steady, r->tl, r->site, from, until, r->settle, complete, &f);
		if (f.done || run_halted(r) || now_ns() >= last)
			break;
		(void)timeline_wait(r->tl, complete + TIMELINE_BUCKET, MIN(last, now_ns() + LOOK_AGAIN));
	}
	if (run_halted(r)) {
		finding_clear(&f);
		return -ECANCELED;
	}
	list = json_deep_copy(json_object_get(json_object_get(r->scenario, "steady_state"), "predicates"));
	check_event(r, name, use, list, from, "within_ns", r->within, &f, NULL, "");
	e = f.status == TRI_TRUE ? 0 : 1;
	finding_clear(&f);
	return e;
}

static int do_sample(struct run *r, const json_t *request, json_t **ret_value, struct err *why)
{
	/* a sample is a predicate's left side */
	_cleanup_json_ json_t *j = json_pack("{s:O, s:O?, s:s, s:f, s:s}", "probe", json_object_get(request, "probe"),
		"args", json_object_get(request, "args"), "op", "at_least", "bound", 0.0, "text", "sample");
	struct sample s = {0};
	struct predicate *p = NULL;
	nsec_t over, complete;
	int e = j ? predicate_from_json(j, r->site, &p, why) : -EINVAL;

	if (e < 0)
		return e;
	over = json_integer_value(json_object_get(request, "over_ns"));
	if (over <= 0)
		over = p->probe->window;
	timeline_lock(r->tl);
	complete = timeline_complete(r->tl);
	(void)predicate_eval(p, r->tl, r->site, complete - over, complete, &s, why);
	timeline_unlock(r->tl);
	*ret_value = number_or_null(s.have, s.value);
	json_decref(s.detail);
	predicate_free(p);
	return 0;
}

static int do_wait(struct run *r, const json_t *request, struct err *why)
{
	nsec_t until = now_ns() + json_integer_value(json_object_get(request, "ns"));

	/* a drill that waits watches: the timeline wakes it when the time has come or somebody halts */
	while (!run_cut(r) && now_ns() < until)
		(void)timeline_wait(r->tl, NSEC_INFINITY, until);
	return run_cut(r) ? err_set(why, -ECANCELED, "the drill was halted") : 0;
}

/* ── the conversation ──────────────────────────────────────────────────────────────────────── */

/* 1: the script is done */
static int serve(struct run *r, json_t *request, const char *op, struct err *err)
{
	_cleanup_json_ json_t *value = NULL;
	struct err why = {0};
	int e = 0;

	if (streq(op, "done"))
		return 1;
	if (streq(op, "error"))
		return session_script_error(request, err);
	if (streq(op, "phase") && text(request, "name")) {
		const json_t *rto = json_object_get(request, "rto_ns");

		timeline_event(r->tl, now_ns(), EV_PHASE,
			json_pack("{s:s, s:s, s:o}", "phase", text(request, "name"), "where", where_of(request), "rto_ns",
				json_is_integer(rto) ? json_integer(json_integer_value(rto)) : json_null()));
	} else if (streq(op, "log") && text(request, "text")) {
		timeline_event(r->tl, now_ns(), EV_LOG,
			json_pack("{s:s, s:s}", "text", text(request, "text"), "where", where_of(request)));
	} else if (streq(op, "inject") || streq(op, "apply")) {
		e = do_change(r, request, op, &value, &why);
	} else if (streq(op, "lift")) {
		struct run_change *rc = by_handle(r, request);

		e = rc ? run_change_lift(r, rc, &why) : err_set(&why, -EINVAL, "there is no such handle");
	} else if (streq(op, "eventually") || streq(op, "always")) {
		e = expect(r, request, streq(op, "always"), &value, &why);
	} else if (streq(op, "sample")) {
		e = do_sample(r, request, &value, &why);
	} else if (streq(op, "wait")) {
		e = do_wait(r, request, &why);
	} else {
		e = err_set(&why, -EPROTO, "\"%.32s\" cannot be asked here", op);
	}
	if (e < 0) {
		if (!why.text[0])
			err_set(&why, e, "%s: %s", op, strerror(-e));
		/* what the scenario asked for wrongly is its own mistake; everything else happened to it */
		if (e != -EINVAL && e != -ERANGE && e != -EPROTO && e != -ECANCELED)
			r->trouble = true;
		return session_refuse(r->o->script, &why);
	}
	return session_reply(r->o->script, TAKE_PTR(value));
}

int run_await_scenario(struct run *r, struct err *err)
{
	_cleanup_json_ json_t *request = NULL;
	const char *op;
	int e = session_next(r->o->script, now_ns() + PLAN_RECORD_SECONDS * NSEC_PER_SEC * 4, &request, &op, err);

	if (e < 0)
		return e;
	if (streq(op, "error"))
		return session_script_error(request, err);
	if (!streq(op, "scenario"))
		return err_set(err, -EPROTO, "%s: \"%.32s\" before the scenario is declared", r->plan->file, op);
	if (!json_equal(json_object_get(request, "scenario"), r->plan->declared)) {
		err_set(err, -EINVAL, "%s: it declares something else each time it is read", r->plan->file);
		return err_hint(err, "what a scenario declares may not depend on chance or on the clock");
	}
	return 0;
}

int run_method(struct run *r, struct err *err)
{
	int e = session_reply(r->o->script, NULL); /* to "scenario": the method may begin */

	while (e == 0) {
		_cleanup_json_ json_t *request = NULL;
		const char *op;

		e = session_next(r->o->script, NSEC_INFINITY, &request, &op, err);
		if (e == 0)
			e = serve(r, request, op, err);
		if (e == -EPIPE && !err->text[0]) /* no one to answer to: how it went is what to say */
			e = session_next(r->o->script, now_ns(), &request, &op, err);
	}
	return e < 0 ? e : 0;
}
