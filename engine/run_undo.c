/* SPDX-License-Identifier: GPL-2.0-only */
/* run_undo.c: the way back: sources stopped, changes undone last in first out, and the proof. */
#include "engine/run_internal.h"

#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/snapshot.h"

/*
 * A site's own controllers (a health checker, say) need a moment to put back what the fault made them change, and they send no
 * event when they have: so the site is compared again until it is equal or this long has passed.
 */
#define SITE_SETTLES	 (20 * NSEC_PER_SEC)
#define SITE_LOOK_AGAIN (500 * NSEC_PER_MSEC)

static int write_snapshot(struct run *r, const char *name, const char *host, const char *site)
{
	_cleanup_free_ char *path = strf("%s/%s", r->o->dir, name), *all = strf("%s%s", host ? host : "", site ? site : "");

	return path && all ? file_write(path, all, strlen(all)) : -ENOMEM;
}

int residue_host(const char *dir, json_t **ret_diff, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/snapshot-before.txt", dir), *all = NULL, *now = NULL;
	_cleanup_strbuf_ struct strbuf before = {0};
	_cleanup_node_ struct node *host = node_new("host", NULL);
	const struct node *nodes[] = {host};
	int r;

	if (!path || !host)
		return err_set(err, -ENOMEM, "out of memory");
	r = file_read(path, 64 << 20, &all, NULL);
	if (r == -ENOENT) {
		*ret_diff = json_array();
		return *ret_diff ? 0 : err_set(err, -ENOMEM, "out of memory");
	}
	if (r < 0)
		return err_set(err, r, "%s: %s", path, strerror(-r));
	for (const char *line = all; *line;) {
		size_t n = strcspn(line, "\n");

		n += line[n] == '\n';
		if (strncmp(line, "host: ", 6) == 0)
			strbuf_add(&before, line, n);
		line += n;
	}
	r = node_open(host, err);
	if (r == 0)
		r = snapshot_take(nodes, 1, &now, err);
	if (r < 0)
		return r;
	*ret_diff = snapshot_diff(strbuf_cstr(&before), now);
	return 0;
}

static void stop_sources(struct run *r, enum source_kind kind, bool other)
{
	for (size_t i = 0; i < r->n_sources; i++) {
		struct run_source *s = &r->sources[i];
		json_t *summary = NULL;

		if (!s->handle || (s->ops->kind == kind) == other)
			continue;
		if (run_halted(r) && s->ops->abort)
			s->ops->abort(s->handle);
		s->ops->stop(TAKE_PTR(s->handle), &summary);
		timeline_event(r->tl, now_ns(), EV_SOURCE,
			json_pack("{s:s, s:s, s:s, s:o}", "name", s->name, "source_kind",
				s->ops->kind == SOURCE_LOAD	       ? "load" :
				s->ops->kind == SOURCE_SAMPLER ? "sampler" :
								       "telemetry",
				"state", "stopped", "summary", summary ? summary : json_null()));
	}
}

static bool is_lab(const struct run_change *rc)
{
	return rc->c.ops->kind == CHANGE_LAB;
}

static void undo_changes(struct run *r, bool lab)
{
	for (size_t i = r->n_changes; i-- > 0;)
		if (is_lab(r->changes[i]) == lab)
			(void)run_change_lift(r, r->changes[i], NULL);
}

/*
 * Once more over what could not be undone before: a change inside the lab is settled when its namespace is gone. Nothing here
 * is done twice: what is done is skipped.
 */
static void play_the_rest(struct run *r)
{
	struct restore_result res = {0};

	if (journal_play(r->o->journal, &res, NULL) == 0)
		restore_result_clear(&res);
}

/* What the journal says about everything: also what change_apply() had to leave. */
static void journal_lists(struct run *r, json_t *conflicts, json_t *failed)
{
	const struct journal_entry *e;
	size_t n;

	if (journal_load(r->o->journal, &e, &n, NULL) < 0) {
		json_array_append_new(failed, json_string("the journal could not be read"));
		return;
	}
	for (size_t i = 0; i < n; i++) {
		const char *node = json_string_value(json_object_get(e[i].node, "name"));
		_cleanup_free_ char *line = strf("%s on %s", e[i].change, node ? node : "?");

		if (e[i].state == JOURNAL_CONFLICT)
			json_array_append_new(conflicts, json_string(line));
		else if (e[i].state != JOURNAL_DONE)
			json_array_append_new(failed, json_string(line));
	}
}

/* The site against what it was before the baseline, given time to settle. */
static json_t *site_diff(struct run *r, char **ret_after)
{
	nsec_t deadline = now_ns() + SITE_SETTLES;
	struct err err = {0};

	for (;;) {
		_cleanup_free_ char *after = NULL;
		_cleanup_json_ json_t *diff = NULL;
		int e = run_snapshot_site(r, &after, &err);

		if (e < 0)
			return json_pack("[s]", err.text);
		diff = snapshot_diff(r->site_before, after);
		if (json_array_size(diff) == 0 || now_ns() >= deadline) {
			*ret_after = TAKE_PTR(after);
			return TAKE_PTR(diff);
		}
		(void)timeline_wait(r->tl, NSEC_INFINITY, MIN(deadline, now_ns() + SITE_LOOK_AGAIN));
	}
}

/* How many facts of each subject the picture before holds, and so the comparison */
static json_t *compared(const struct run *r)
{
	_cleanup_free_ char *all = strf("%s%s", r->host_before ? r->host_before : "", r->site_before ? r->site_before : "");
	json_t *counts = all ? snapshot_count(all) : NULL;

	return counts ? counts : json_null();
}

void run_undo(struct run *r)
{
	_cleanup_free_ char *site_after = NULL, *host_after = NULL;
	json_t *diff = json_array(), *conflicts = json_array(), *failed = json_array();
	struct err err = {0};
	bool clean;

	atomic_store(&r->way_back, true);
	run_stage(r, "undo");
	r->undoing = true;
	/* Halted: the damage ends first. Otherwise the load goes first, so that its last requests meet the site they were sent to. */
	if (run_halted(r))
		undo_changes(r, false);
	stop_sources(r, SOURCE_LOAD, false);
	stop_sources(r, SOURCE_LOAD, true);
	undo_changes(r, false);
	if (r->site_before) {
		json_t *d = site_diff(r, &site_after);

		json_array_extend(diff, d);
		json_decref(d);
	}
	undo_changes(r, true);
	play_the_rest(r);
	run_script_update(r);
	if (r->host_before && run_snapshot_host(r, &host_after, &err) == 0) {
		json_t *d = snapshot_diff(r->host_before, host_after);

		json_array_extend(diff, d);
		json_decref(d);
	} else if (r->host_before) {
		json_array_append_new(failed, json_string(err.text));
	}
	(void)write_snapshot(r, "snapshot-after.txt", host_after, site_after);
	journal_lists(r, conflicts, failed);
	clean = json_array_size(diff) == 0 && json_array_size(conflicts) == 0 && json_array_size(failed) == 0;
	timeline_event(r->tl, now_ns(), EV_RESIDUE,
		json_pack("{s:b, s:o, s:o, s:o, s:o, s:o}", "clean", clean, "diff", diff, "conflicts", conflicts, "failed", failed,
			"compared", compared(r), "peak", run_peak_end(r)));
}
