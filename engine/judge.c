/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a run is judged, in the order in which it happens here:
 *
 *	collect()	goes once through the events: what was changed, broken, asked, and how it ended
 *	observe()	from when to when the method was observed, and to when the data are complete
 *	judge_recover()	onset, detection, failover, recovery: from the series			judge_recovery.c
 *	judge_checks()	evaluates every expectation and objective again, from the series	judge_checks.c
 *	decide()	the verdict, from the above alone
 *
 * A check is looked at again in the time that its event names; what the engine said at the time is only compared.
 */
#include "engine/judge_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/units.h"

json_t *judge_wall(const struct judgement *j, nsec_t t)
{
	char buf[CLOCK_WALL_MAX];

	return t >= 0 && j->run_wall > 0
		       ? json_string(clock_fmt_wall(buf, j->run_wall + (t - j->run_t)))
		       : json_null();
}

/* ── collect ───────────────────────────────────────────────────────────────────────────── */

static struct fault *fault_of(struct judgement *j, const json_t *data)
{
	struct fault *faults;

	for (size_t i = 0; i < j->n_faults; i++) {
		const struct fault *f = &j->faults[i];
		const json_t *first = f->applied_event	? f->applied_event
				      : f->lifted_event ? f->lifted_event
							: f->failed_event;

		if (json_equal(json_object_get(first, "id"), json_object_get(data, "id")))
			return &j->faults[i];
	}
	faults = reallocarray(j->faults, j->n_faults + 1, sizeof(*faults));
	if (!faults)
		return NULL;
	j->faults = faults;
	faults[j->n_faults] = (struct fault){.applied = -1, .lifted = -1, .lifting = -1};
	return &faults[j->n_faults++];
}

static int collect_fault(struct judgement *j, const struct tl_event *e)
{
	const char *state = text(e->data, "state");
	struct fault *f = fault_of(j, e->data);

	if (!f)
		return -ENOMEM;
	if (streq(state, "applied")) {
		f->applied_event = e->data;
		f->applied = e->t;
		j->applied = true;
	} else if (streq(state, "lifted")) {
		f->lifted_event = e->data;
		f->lifted = f->lifting = e->t;
		if (json_is_integer(json_object_get(e->data, "since")))
			f->lifting = json_integer_value(json_object_get(e->data, "since"));
		j->applied = true;
	} else {
		f->failed_event = e->data;
	}
	return 0;
}

/* The last state of each change, in the order in which they were first heard of */
static void collect_change(struct judgement *j, const struct tl_event *e)
{
	const json_t *id = json_object_get(e->data, "id");
	const char *state = text(e->data, "state");
	json_t *c = NULL, *known;
	size_t i;

	if (!streq(state, "failed") && !streq(state, "unsupported"))
		j->applied = true;
	json_array_foreach (j->changes, i, known)
		if (id && json_equal(json_object_get(known, "id"), id))
			c = known;
	if (!c) {
		c = json_pack("{s:o, s:o, s:o, s:o, s:o, s:n, s:n, s:o, s:o}", "id",
			copy_of(e->data, "id"), "change", copy_of(e->data, "change"), "node",
			copy_of(e->data, "node"), "args", copy_of(e->data, "args"), "where",
			copy_of(e->data, "where"), "applied_ns", "undone_ns", "state",
			copy_of(e->data, "state"), "text", copy_of(e->data, "text"));
		json_array_append_new(j->changes, c);
	}
	set(c, "state", copy_of(e->data, "state"));
	if (text(e->data, "text")[0])
		set(c, "text", copy_of(e->data, "text"));
	if (streq(state, "applied"))
		set(c, "applied_ns", json_integer(e->t));
	else if (streq(state, "undone"))
		set(c, "undone_ns", json_integer(e->t));
}

static int collect_check(struct judgement *j, const struct tl_event *e)
{
	const json_t *id = json_object_get(e->data, "id");
	const struct tl_event **all;

	for (size_t i = 0; id && i < j->n_checks; i++)
		if (json_equal(json_object_get(j->check_events[i]->data, "id"), id)) {
			j->check_events[i] = e;
			return 0;
		}
	all = reallocarray(j->check_events, j->n_checks + 1, sizeof(*all));
	if (!all)
		return -ENOMEM;
	j->check_events = all;
	all[j->n_checks++] = e;
	return 0;
}

static void add_integer(json_t **sum, const json_t *v)
{
	json_int_t before = *sum ? json_integer_value(*sum) : 0;

	if (!json_is_integer(v))
		return;
	json_decref(*sum);
	*sum = json_integer(before + json_integer_value(v));
}

/* What became of each source, and what it says about its own data */
static void collect_source(struct judgement *j, const struct tl_event *e)
{
	const json_t *summary = json_object_get(e->data, "summary"),
		     *notes = json_object_get(summary, "notes");
	const char *state = text(e->data, "state"), *kind = text(e->data, "source_kind");
	json_t *source = NULL, *known;
	size_t i;

	json_array_foreach (j->sources, i, known)
		if (json_equal(json_object_get(known, "name"), json_object_get(e->data, "name")) &&
			streq(text(known, "kind"), kind))
			source = known;
	if (!source) {
		source = json_pack("{s:o, s:s, s:n, s:n, s:[]}", "name", copy_of(e->data, "name"),
			"kind", kind, "state", "text", "notes");
		json_array_append_new(j->sources, source);
	}
	if (!streq(state, "lost")) /* it went on */
		set(source, "state", copy_of(e->data, "state"));
	if (text(e->data, "text")[0])
		set(source, "text", copy_of(e->data, "text"));
	if (json_is_array(notes))
		json_array_extend(json_object_get(source, "notes"), (json_t *)notes);
	if (!streq(state, "stopped"))
		return;
	judge_collect_telemetry(j, text(e->data, "name"), summary);
	if (streq(kind, "telemetry")) {
		add_integer(&j->events_seen, json_object_get(summary, "events"));
		add_integer(&j->events_dropped, json_object_get(summary, "dropped"));
	} else if (streq(kind, "load") && json_is_object(summary)) {
		json_object_set(j->load_summaries, text(e->data, "name"), (json_t *)summary);
	}
}

/* A setting that somebody changed under the drill, and whether it came back */
static void collect_drift(struct judgement *j, const struct tl_event *e)
{
	static const char *const keys[] = {"change", "node", "key", "before", "want", "now", "holds"};
	json_t *d = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		json_object_set_new(d, keys[i], copy_of(e->data, keys[i]));
	json_object_set_new(d, "at_ns", json_integer(e->t));
	json_array_append_new(j->drift, d);
}

static void collect_guard(struct judgement *j, const struct tl_event *e)
{
	const char *what = text(e->data, "what");

	if (streq(what, "deadline"))
		j->guard_deadline = e->data;
	else if (streq(what, "cli-gone"))
		j->guard_gone = e->data;
	else
		j->guard_died = e->data;
	if (json_integer_value(json_object_get(e->data, "undone")) > 0)
		j->applied = true;
}

static void collect_waived(struct judgement *j, const struct tl_event *e)
{
	if (json_is_string(json_object_get(e->data, "waived")))
		json_array_append(j->waived, json_object_get(e->data, "waived"));
}

static int collect(struct judgement *j)
{
	const struct tl_event *events;
	size_t n = timeline_events(j->tl, &events);
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		const struct tl_event *e = &events[i];

		j->last_t = MAX(j->last_t, e->t);
		if (streq(e->kind, EV_RUN)) {
			if (!j->run) {
				j->run = e->data;
				j->run_t = e->t;
				j->run_wall = MAX(time_of(e->data, "wall_ns"), 0);
			}
		} else if (streq(e->kind, EV_STAGE)) {
			const char *stage = text(e->data, "stage");

			if (streq(stage, "method") && j->method_t < 0)
				j->method_t = e->t;
			else if (streq(stage, "undo") && j->undo_t < 0)
				j->undo_t = e->t;
			else if (streq(stage, "end"))
				j->finished = true;
		} else if (streq(e->kind, EV_CHANGE)) {
			collect_change(j, e);
			collect_waived(j, e);
		} else if (streq(e->kind, EV_FAULT)) {
			r = collect_fault(j, e);
			collect_waived(j, e);
		} else if (streq(e->kind, EV_CHECK)) {
			r = collect_check(j, e);
		} else if (streq(e->kind, EV_STOP)) {
			j->stop = j->stop ? j->stop : e->data;
		} else if (streq(e->kind, EV_HALT)) {
			j->halt = j->halt ? j->halt : e->data;
		} else if (streq(e->kind, EV_ERROR)) {
			j->error = j->error ? j->error : e->data;
			json_array_append(j->errors, e->data);
		} else if (streq(e->kind, EV_REFUSED)) {
			j->refused = j->refused ? j->refused : e->data;
		} else if (streq(e->kind, EV_SOURCE)) {
			collect_source(j, e);
		} else if (streq(e->kind, EV_DRIFT)) {
			collect_drift(j, e);
		} else if (streq(e->kind, EV_RESIDUE)) {
			j->residue = e->data;
			j->finished = true;
		} else if (streq(e->kind, EV_GUARD)) {
			collect_guard(j, e);
		} else if (streq(e->kind, EV_END)) {
			j->end = e->data;
			j->finished = true;
		}
	}
	return r;
}

/* ── observe ───────────────────────────────────────────────────────────────────────────── */

/* The first time that anything was said about */
static nsec_t first_time(const struct timeline *tl)
{
	const struct tl_event *e;
	const struct tl_load *l;
	const struct tl_conn *c;
	const struct tl_weight *w;
	nsec_t t = timeline_end(tl);

	if (timeline_events(tl, &e))
		t = MIN(t, e->t);
	if (timeline_loads(tl, &l))
		t = MIN(t, l->t);
	if (timeline_conns(tl, &c))
		t = MIN(t, c->t);
	if (timeline_weights(tl, &w))
		t = MIN(t, w->t);
	return t;
}

/* Where the load's data end: of several loads, the first to end. -1: there are none. */
static nsec_t loads_end(const struct judgement *j)
{
	const struct tl_load *loads;
	size_t n = timeline_loads(j->tl, &loads), i;
	nsec_t end = -1;
	const json_t *l;

	json_array_foreach (json_object_get(j->scenario, "loads"), i, l)
		for (size_t k = n; k-- > 0;)
			if (streq(loads[k].load, text(l, "name"))) {
				nsec_t t = loads[k].t + TIMELINE_BUCKET;

				end = end < 0 ? t : MIN(end, t);
				break;
			}
	return end;
}

static void observe(struct judgement *j)
{
	nsec_t end = timeline_end(j->tl), loads = loads_end(j);
	bool in_force = false;

	j->first_t = first_time(j->tl);
	j->complete = MIN(timeline_complete(j->tl), end);
	j->stop_t = j->complete;
	if (j->undo_t >= 0)
		j->stop_t = MIN(j->stop_t, j->undo_t);
	if (loads >= 0)
		j->stop_t = MIN(j->stop_t, loads);
	j->stop_t = bucket_floor(j->stop_t);

	j->onset = j->first_lift = j->last_lift = -1;
	for (size_t i = 0; i < j->n_faults; i++) {
		const struct fault *f = &j->faults[i];

		if (f->applied < 0)
			continue;
		if (j->onset < 0 || f->applied < j->onset) {
			j->onset = f->applied;
			j->first_lift = f->lifted;
		}
		in_force = in_force || f->lifted < 0;
		j->last_lift = MAX(j->last_lift, f->lifted);
	}
	j->begin = j->method_t >= 0 ? j->method_t : j->onset;
	/* A fault that was never seen lifted: there is no afterwards. */
	j->settled = in_force ? -1 : j->last_lift >= 0 ? j->last_lift : j->begin;
	if (j->events_dropped && json_integer_value(j->events_dropped) > 0) {
		double seen = (double)json_integer_value(j->events_seen);
		double lost = (double)json_integer_value(j->events_dropped);

		j->lossy = lost > TELEMETRY_LOSS_MAX * (seen + lost);
	}
}

/* ── the verdict ───────────────────────────────────────────────────────────────────────── */

struct verdict {
	const char *name;
	enum exit_code code;
	struct strbuf reason;
};

static bool is_proved(const struct fault *f)
{
	return json_is_true(json_object_get(f->lifted_event, "proved"));
}

static size_t count_status(const struct judgement *j, const char *status, const json_t **ret_first)
{
	const json_t *c;
	size_t i, n = 0;

	json_array_foreach (j->checks, i, c)
		if (streq(text(c, "status"), status) && n++ == 0 && ret_first)
			*ret_first = c;
	return n;
}

static void say(struct verdict *v, const char *name, enum exit_code code, const char *fmt, ...)
	_printf_(4, 5);
static void say(struct verdict *v, const char *name, enum exit_code code, const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;

	v->name = name;
	v->code = code;
	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) >= 0)
		strbuf_puts(&v->reason, s);
	va_end(ap);
	free(s);
}

/* An engine that failed, or that did not live to say how it ended. */
static bool decide_error(const struct judgement *j, struct verdict *v)
{
	if (j->error) {
		bool scenario = streq(text(j->error, "blame"), "scenario");

		say(v, "error", scenario ? EXIT_USAGE : EXIT_ERROR, "%s%s%s",
			text(j->error, "text"), text(j->error, "where")[0] ? ", at " : "",
			text(j->error, "where"));
		return true;
	}
	if (j->guard_died) {
		say(v, "error", EXIT_ERROR, "%s%s%s",
			streq(text(j->guard_died, "what"), "engine-hung") ? "the engine hung"
									  : "the engine died",
			text(j->guard_died, "text")[0] ? ": " : "", text(j->guard_died, "text"));
		return true;
	}
	if (!j->finished) {
		say(v, "error", EXIT_ERROR, "%s",
			j->run ? "the run's record breaks off before its end"
			       : "the run's record is empty");
		return true;
	}
	if (j->end && json_integer_value(json_object_get(j->end, "exit")) != 0) {
		say(v, "error", EXIT_ERROR, "the engine ended with status %lld",
			(long long)json_integer_value(json_object_get(j->end, "exit")));
		return true;
	}
	return false;
}

static bool decide_halted(const struct judgement *j, struct verdict *v)
{
	const char *by = text(j->halt, "by"), *reason = text(j->halt, "reason");

	if (streq(by, "operator")) {
		say(v, "halted", EXIT_HALTED_OPERATOR, "halted by the operator%s%s",
			reason[0] ? ": " : "", reason);
	} else if (j->stop) {
		const json_t *p = json_object_get(j->stop, "predicate");
		const char *what = json_is_string(p) ? json_string_value(p) : text(p, "text");

		say(v, "halted", EXIT_HALTED, "a stop condition came true: %s%s%s", what,
			what[0] && text(j->stop, "text")[0] ? ": " : "", text(j->stop, "text"));
	} else if (j->halt) {
		say(v, "halted", EXIT_HALTED, "halted by the %s%s%s", by[0] ? by : "guard",
			reason[0] ? ": " : "", reason);
	} else if (j->guard_deadline) {
		say(v, "halted", EXIT_HALTED, "halted by the deadline%s%s",
			text(j->guard_deadline, "text")[0] ? ": " : "",
			text(j->guard_deadline, "text"));
	} else if (j->guard_gone) {
		/* Whoever watched it went away: that is an operator's act, and nobody else's fault. */
		say(v, "halted", EXIT_HALTED_OPERATOR, "halted: nobody was watching any more%s%s",
			text(j->guard_gone, "text")[0] ? ": " : "", text(j->guard_gone, "text"));
	} else {
		return false;
	}
	return true;
}

static bool decide_inconclusive(const struct judgement *j, struct verdict *v)
{
	const json_t *first = NULL;
	size_t n;

	if (j->steady_asked && j->steady_before != TRI_TRUE) {
		const json_t *c = json_array_get(j->checks, 0);

		say(v, "inconclusive", EXIT_INCONCLUSIVE, "%s before the method: %s",
			j->steady_before == TRI_FALSE
				? "the steady state was not attained"
				: "it is not known whether the steady state was attained",
			text(c, "evidence"));
		return true;
	}
	for (size_t i = 0; i < j->n_faults; i++) {
		const struct fault *f = &j->faults[i];
		const json_t *e = f->lifted_event    ? f->lifted_event
				  : f->applied_event ? f->applied_event
						     : f->failed_event;

		if (is_proved(f))
			continue;
		say(v, "inconclusive", EXIT_INCONCLUSIVE, "%s on %s %s%s%s", text(e, "change"),
			text(e, "node"),
			f->applied < 0				      ? "could not be applied"
			: json_is_false(json_object_get(e, "proved")) ? "did not bite"
								      : "was not proved to bite",
			text(e, "text")[0] ? ": " : "", text(e, "text"));
		return true;
	}
	if (timeline_error(j->tl) < 0) {
		say(v, "inconclusive", EXIT_INCONCLUSIVE, "part of the timeline was lost: %s",
			strerror(-timeline_error(j->tl)));
		return true;
	}
	if (json_array_size(j->checks) == 0) {
		say(v, "inconclusive", EXIT_INCONCLUSIVE,
			"nothing was checked: there is no steady state, expectation or objective");
		return true;
	}
	n = count_status(j, "unknown", &first);
	if (n && !count_status(j, "fail", NULL)) {
		say(v, "inconclusive", EXIT_INCONCLUSIVE, "%s: %s", text(first, "name"),
			text(first, "evidence"));
		if (n > 1)
			strbuf_addf(&v->reason, " (and %zu more could not be told)", n - 1);
		return true;
	}
	return false;
}

static void decide(const struct judgement *j, struct verdict *v)
{
	const json_t *first = NULL;
	char a[UNITS_FMT_MAX];
	size_t n;

	if (j->refused) {
		say(v, "refused", EXIT_REFUSED, "%s", text(j->refused, "text"));
		if (*text(j->refused, "hint"))
			strbuf_addf(&v->reason, "; %s", text(j->refused, "hint"));
	} else if (decide_error(j, v) || decide_halted(j, v) || decide_inconclusive(j, v)) {
		/* said */
	} else if ((n = count_status(j, "fail", &first)) > 0) {
		say(v, "fail", EXIT_FAIL, "%s: %s", text(first, "name"), text(first, "evidence"));
		if (n > 1)
			strbuf_addf(&v->reason, " (and %zu more)", n - 1);
	} else {
		n = json_array_size(j->checks);
		say(v, "pass", EXIT_PASS, "all %zu checks hold", n);
		if (j->rto >= 0)
			strbuf_addf(&v->reason, "; steady again %s after the fault",
				units_fmt_duration(a, sizeof(a), j->rto));
	}
	if (j->applied && !json_is_true(json_object_get(j->residue, "clean"))) {
		v->code = EXIT_RESIDUE;
		strbuf_puts(&v->reason, json_is_false(json_object_get(j->residue, "clean"))
						? "; and the host is not as it was"
						: "; and the host is not proved to be as it was");
	}
}

/* ── all of it ─────────────────────────────────────────────────────────────────────────── */

static void judgement_clear(struct judgement *j)
{
	for (size_t i = 0; i < j->n_steady; i++)
		predicate_free(j->steady[i]);
	free(j->steady);
	free(j->faults);
	free(j->check_events);
	json_decref(j->changes);
	json_decref(j->drift);
	json_decref(j->errors);
	json_decref(j->sources);
	json_decref(j->waived);
	json_decref(j->checks);
	json_decref(j->recovery);
	json_decref(j->load_summaries);
	json_decref(j->events_seen);
	json_decref(j->events_dropped);
	json_decref(j->probes);
	json_decref(j->told);
	site_free(j->site);
}

static int read_plan(struct judgement *j, const json_t *plan, struct err *err)
{
	const json_t *steady, *predicates, *p;
	size_t i;
	int r;

	if (!streq(text(plan, "schema"), "muster.plan/1"))
		return err_set(err, -EINVAL, "plan: its schema is \"%s\", not muster.plan/1",
			text(plan, "schema"));
	j->scenario = json_object_get(plan, "scenario");
	if (!json_is_object(j->scenario))
		return err_set(err, -EINVAL, "plan: declares no scenario");
	r = site_from_json(json_object_get(j->scenario, "site"), &j->site, err);
	if (r < 0)
		return err_prefix(err, "plan");
	steady = json_object_get(j->scenario, "steady_state");
	predicates = json_object_get(steady, "predicates");
	j->settle = MAX(time_of(steady, "settle_ns"), TIMELINE_BUCKET);
	j->steady = calloc(json_array_size(predicates) + 1, sizeof(*j->steady));
	if (!j->steady)
		return err_set(err, -ENOMEM, "judge: out of memory");
	json_array_foreach (predicates, i, p) {
		r = predicate_from_json(p, j->site, &j->steady[i], err);
		if (r < 0)
			return err_prefix(err, "plan: steady state");
		j->n_steady++;
	}
	return 0;
}

static json_t *text_or_null(const json_t *event, const char *key)
{
	return text(event, key)[0] ? json_string(text(event, key)) : json_null();
}

int judge(const json_t *plan, const struct timeline *tl, json_t **ret_report, struct err *err)
{
	_cleanup_(judgement_clear) struct judgement j = {
		.tl = tl, .method_t = -1, .undo_t = -1, .rto = -1};
	struct verdict v = {0};
	json_t *report, *load = NULL, *waived;
	int r;

	r = read_plan(&j, plan, err);
	if (r < 0)
		return r;
	j.changes = json_array();
	j.drift = json_array();
	j.errors = json_array();
	j.sources = json_array();
	j.waived = json_array();
	j.checks = json_array();
	j.load_summaries = json_object();
	j.probes = json_array();

	timeline_lock(tl);
	r = collect(&j);
	if (r == 0) {
		observe(&j);
		r = timeline_end(tl) - j.first_t > JUDGE_SPAN_MAX ? -ERANGE : judge_recover(&j);
	}
	if (r == 0) {
		judge_checks(&j);
		decide(&j, &v);
		r = judge_load(&j, &load);
	}
	if (r < 0) {
		timeline_unlock(tl);
		strbuf_free(&v.reason);
		if (r == -ERANGE)
			return err_set(err, r, "the timeline spans more than a day: no drill does");
		return err_set(err, r, "judge: %s", strerror(-r));
	}
	report = json_pack("{s:s, s:o, s:s, s:i, s:o, s:o, s:O, s:O, s:o, s:o, "
			   "s:O, s:o, s:o, s:o, s:o, "
			   "s:o, s:O, s:O}",
		"schema", "muster.report/1", "run", judge_run(&j, plan), "verdict", v.name,
		"exit_code", (int)v.code, "reason", safe_string(strbuf_cstr(&v.reason)), "residue",
		judge_residue(&j), "checks", j.checks, "recovery", j.recovery, "ledger",
		judge_ledger(&j), "faults", judge_faults(&j),
		"changes", j.changes, "load", load, "telemetry", judge_telemetry(&j), "traffic", judge_traffic(&j),
		"services", judge_services(&j), "halt",
		j.halt ? json_pack("{s:o, s:o}", "by", text_or_null(j.halt, "by"), "reason",
				 text_or_null(j.halt, "reason"))
		       : json_null(),
		"errors", j.errors, "sources", j.sources);
	waived = judge_waived(&j);
	if (report && waived)
		json_object_set(report, "waived", waived);
	json_decref(waived);
	timeline_unlock(tl);
	strbuf_free(&v.reason);
	if (!report)
		return err_set(err, -ENOMEM, "judge: the report cannot be put together");
	/* a report of a drill in which nothing drifted does not speak of it */
	if (json_array_size(j.drift) > 0)
		json_object_set(report, "drift", j.drift);
	*ret_report = report;
	return 0;
}
