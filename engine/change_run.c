/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * change_run.c: the life of a change, journalled: what journal.h declares below the line. It is the same for every change and
 * in every process that undoes: the engine, the guard, a later `muster restore`.
 */
#include "engine/journal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"

/* undo, then verify. 0, CHANGE_CONFLICT, or -errno */
static int undo_verify(const struct change_ops *ops, const struct node *n, const json_t *args, const json_t *prior,
	struct err *err)
{
	struct err why = {0};
	int r = ops->undo(n, args, prior, &why);

	if (r == 0 && ops->verify) {
		r = ops->verify(n, args, prior, &why);
		if (r > 0) /* undone, it said, and it is not */
			r = -EUCLEAN;
	}
	if (r != 0)
		err_set(err, r, "%s on %s: undo: %s", ops->name, n->name, why.text[0] ? why.text : strerror(r < 0 ? -r : 0));
	return r;
}

/* Says what state the host is in now. */
static void add_text(struct err *err, const char *fmt, ...) _printf_(2, 3);
static void add_text(struct err *err, const char *fmt, ...)
{
	size_t len = err ? strlen(err->text) : 0;
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	vsnprintf(err->text + len, sizeof(err->text) - len, fmt, ap);
	va_end(ap);
}

int change_apply(struct journal *j, struct change *c, struct err *err)
{
	struct err undo_err = {0}, mark_err = {0};
	bool applied = false;
	int r, undone, marked;

	if (c->ops->supported) {
		r = c->ops->supported(c->node, c->args, err);
		if (r < 0)
			return r;
	}
	r = c->ops->capture(c->node, c->args, &c->prior, err);
	if (r < 0)
		return r;
	r = c->before_intent ? c->before_intent(c, c->arg, err) : 0;
	if (r == 0)
		r = journal_intent(j, c->ops, c->node, c->args, c->prior, &c->seq, err);
	if (r < 0) {
		json_decref(TAKE_PTR(c->prior));
		add_text(err, "; %s on %s was not begun: nothing has changed", c->ops->name, c->node->name);
		return r;
	}
	r = c->announce ? c->announce(c->announce_arg, err) : 0;
	if (r == 0)
		r = c->ops->apply(c->node, c->args, c->prior, err);
	if (r == 0) {
		applied = true;
		c->applied = now_ns();
		r = journal_mark(j, c->seq, JOURNAL_APPLIED, NULL, err);
		if (r == 0)
			return 0;
	}
	/* law 3: it is undone now, and if it cannot be, the journal keeps it and the text says so */
	undone = undo_verify(c->ops, c->node, c->args, c->prior, &undo_err);
	c->lifted = now_ns();
	marked = journal_mark(j, c->seq,
		undone == 0		  ? JOURNAL_DONE :
		undone == CHANGE_CONFLICT ? JOURNAL_CONFLICT :
					    JOURNAL_FAILED,
		undone == 0 ? NULL : undo_err.text, &mark_err);
	if (undone != 0)
		add_text(err, "; and it could not be undone: %.400s", undo_err.text);
	else if (applied)
		add_text(err, "; %s on %s was undone again", c->ops->name, c->node->name);
	if (undone == 0 && marked < 0)
		add_text(err, "; that it is undone could not be noted, so a restore will look at it once more");
	return r;
}

int change_undo(struct journal *j, struct change *c, struct err *err)
{
	struct err mark_err = {0};
	int r = undo_verify(c->ops, c->node, c->args, c->prior, err), m;

	c->lifted = now_ns();
	m = journal_mark(j, c->seq,
		r == 0			 ? JOURNAL_DONE :
		r == CHANGE_CONFLICT ? JOURNAL_CONFLICT :
					   JOURNAL_FAILED,
		r == 0 || !err ? NULL : err->text, &mark_err);
	/* Undone but not noted: the next restore finds nothing to do. */
	if (r == 0 && m < 0)
		return err_set(err, m, "%s", mark_err.text);
	return r;
}

void restore_result_clear(struct restore_result *r)
{
	json_decref(r->lines);
	*r = (struct restore_result){0};
}

/* An entry of its own: marking loads the journal again, and what was borrowed from it is gone. */
struct play {
	struct journal_entry e;
	char who[160];
};

static void play_clear(struct play *p)
{
	json_decref((json_t *)p->e.node);
	json_decref((json_t *)p->e.args);
	json_decref((json_t *)p->e.prior);
}

static void play_copy(const struct journal_entry *e, struct play *ret)
{
	const char *node = json_string_value(json_object_get(e->node, "name"));

	ret->e = *e;
	ret->e.change = NULL;
	json_incref((json_t *)e->node);
	json_incref((json_t *)e->args);
	json_incref((json_t *)e->prior);
	snprintf(ret->who, sizeof(ret->who), "%s on %s", e->change, node ? node : "?");
}

static void add_line(struct restore_result *res, const struct play *p, const char *what, const char *why)
{
	_cleanup_free_ char *line = strf("%s: %s%s%s", p->who, what, why ? ": " : "", why ? why : "");

	json_array_append_new(res->lines, json_string(line ? line : p->who));
}

/*
 * An undo that could not be noted (a full disk) is an undo all the same. The journal stays hot, and the next restore finds
 * nothing to do.
 */
static void settle(struct journal *j, const struct play *p, enum journal_state state, const char *what, const char *why,
	struct restore_result *res)
{
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	int r = journal_mark(j, p->e.seq, state, why, &err);

	if (r < 0)
		text = strf("%s%sand that could not be noted: %s", why ? why : "", why ? "; " : "",
			err.text[0] ? err.text : strerror(-r));
	add_line(res, p, what, text ? text : why);
}

static void play_entry(struct journal *j, const struct play *p, struct restore_result *res)
{
	_cleanup_node_ struct node *n = NULL;
	const struct journal_entry *e = &p->e;
	struct err err = {0};
	int r;

	if (e->state == JOURNAL_DONE) {
		res->already++;
		return;
	}
	if (e->state == JOURNAL_CONFLICT) {
		res->conflicts++;
		add_line(res, p, "left alone", "somebody else had changed it");
		return;
	}
	if (!e->ops) {
		res->failed++;
		add_line(res, p, "failed", "this muster does not know it; use the restore.sh in the run's folder");
		return;
	}
	r = node_from_json(e->node, &n, &err);
	if (r == -ESTALE) {
		res->stale++;
		settle(j, p, JOURNAL_DONE, "nothing to undo", err.text, res);
		return;
	}
	if (r == 0)
		r = undo_verify(e->ops, n, e->args, e->prior, &err);
	if (r == 0) {
		res->undone++;
		settle(j, p, JOURNAL_DONE, "undone", NULL, res);
	} else if (r == CHANGE_CONFLICT) {
		res->conflicts++;
		settle(j, p, JOURNAL_CONFLICT, "left alone", err.text, res);
	} else {
		res->failed++;
		settle(j, p, JOURNAL_FAILED, "failed", err.text[0] ? err.text : strerror(-r), res);
	}
}

int journal_play(struct journal *j, struct restore_result *ret, struct err *err)
{
	struct restore_result res = {.lines = json_array()};
	_cleanup_free_ struct play *plays = NULL;
	const struct journal_entry *e;
	size_t n = 0;
	int r = journal_load(j, &e, &n, err);

	if (r == 0)
		plays = calloc(n + 1, sizeof(*plays));
	if (r < 0 || !res.lines || !plays) {
		json_decref(res.lines);
		return r < 0 ? r : -ENOMEM;
	}
	for (size_t i = 0; i < n; i++)
		play_copy(&e[i], &plays[i]);
	for (size_t i = n; i-- > 0;) {
		play_entry(j, &plays[i], &res);
		play_clear(&plays[i]);
	}
	*ret = res;
	return 0;
}
