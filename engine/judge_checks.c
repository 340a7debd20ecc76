/* SPDX-License-Identifier: GPL-2.0-only */
/* judge_checks.c: every expectation and objective, evaluated again; and the words for what was found. */
#include "engine/judge_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/units.h"

static const char *unit_name(enum probe_unit u)
{
	static const char *const names[] = {
		[UNIT_NONE] = "", [UNIT_RATIO] = "ratio", [UNIT_TIME] = "ms", [UNIT_RATE] = "1/s"};

	return names[u];
}

/* A value in the unit of the report: times in milliseconds */
static double in_unit(enum probe_unit u, double v)
{
	return u == UNIT_TIME ? v / NSEC_PER_MSEC : v;
}

static const char *fmt_value(char *buf, size_t size, enum probe_unit u, double v)
{
	switch (u) {
	case UNIT_RATIO:
		return units_fmt_ratio(buf, size, v);
	case UNIT_TIME:
		if (fabs(v) < 1e18)
			return units_fmt_duration(buf, size, (nsec_t)v);
		snprintf(buf, size, "endless"); /* the quantile is among those that failed */
		return buf;
	case UNIT_RATE:
		snprintf(buf, size, "%.4g/s", v);
		return buf;
	case UNIT_NONE:
		break;
	}
	snprintf(buf, size, "%.4g", v);
	return buf;
}

static const char *fmt_duration(char buf[UNITS_FMT_MAX], nsec_t t)
{
	return units_fmt_duration(buf, UNITS_FMT_MAX, t);
}

/* Seconds since the run began, as a person reads them: "+12.3 s" */
static double since(const struct judgement *j, nsec_t t)
{
	return (double)(t - j->run_t) / NSEC_PER_SEC;
}

/* How long a check was asked for; -1: not said, or longer than anything is */
static nsec_t length_of(const json_t *event, const char *key)
{
	nsec_t t = time_of(event, key);

	return t <= JUDGE_SPAN_MAX ? t : -1;
}

/* ── one check ─────────────────────────────────────────────────────────────────────────── */

static const char *status_name(enum tri s)
{
	return s == TRI_TRUE ? "pass" : s == TRI_FALSE ? "fail" : "unknown";
}

/* @objective, @measured and @margin are stolen. */
static void add_check(struct judgement *j, const char *name, const char *use, enum tri status,
	json_t *objective, json_t *measured, const char *unit, json_t *margin, const char *evidence,
	const char *where)
{
	json_t *c = json_pack("{s:o, s:s, s:o, s:o, s:s, s:o, s:o, s:s, s:s}", "name",
		safe_string(name), "status", status_name(status), "objective", objective,
		"measured", measured, "unit", unit, "margin", margin, "evidence",
		safe_string(evidence), "use", use, "where", where);

	json_array_append_new(j->checks, c);
}

/* How far on the good side of the bound; negative: missed by so much */
static double margin_of(const struct predicate *p, const struct sample *s)
{
	switch (p->op) {
	case OP_BELOW:
	case OP_AT_MOST:
	case OP_WITHIN:
		return p->bound - s->value;
	case OP_ABOVE:
	case OP_AT_LEAST:
		return s->value - p->bound;
	case OP_EQUALS:
	case OP_COUNT:
		break;
	}
	return -fabs(s->value - p->bound);
}

/* "0.42 % (0.31 % .. 0.6 %, n = 1500): TEXT OF THE PROBE" */
static void say_sample(struct strbuf *b, const struct predicate *p, const struct sample *s)
{
	char v[UNITS_FMT_MAX], lo[UNITS_FMT_MAX], hi[UNITS_FMT_MAX];

	if (!s->have) {
		strbuf_addf(b, "no data%s%s", s->text[0] ? ": " : "", s->text);
		return;
	}
	if (p->probe->unit == UNIT_NONE && s->text[0]) {
		strbuf_puts(b, s->text); /* a bare number says nothing that its words do not */
		return;
	}
	strbuf_puts(b, fmt_value(v, sizeof(v), p->probe->unit, s->value));
	if (s->lo < s->hi)
		strbuf_addf(b, " (between %s and %s)",
			fmt_value(lo, sizeof(lo), p->probe->unit, s->lo),
			fmt_value(hi, sizeof(hi), p->probe->unit, s->hi));
	if (s->text[0])
		strbuf_addf(b, ": %s", s->text);
	else if (s->n)
		strbuf_addf(b, ", n = %llu", (unsigned long long)s->n);
}

static void say_window(struct strbuf *b, const struct judgement *j, nsec_t from, nsec_t to)
{
	if (from == to)
		strbuf_addf(b, " at +%.1f s", since(j, from));
	else
		strbuf_addf(b, " in +%.1f .. +%.1f s", since(j, from), since(j, to));
}

/* What rests on connections that were lost counts for nothing, whichever way it came out. */
static enum tri if_not_lossy(const struct judgement *j, uint64_t reads_before, nsec_t from, nsec_t to, enum tri status,
	struct strbuf *evidence)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	uint64_t lost, of;

	if (timeline_conn_reads(j->tl) == reads_before || !judge_lossy(j, from, to, &lost, &of))
		return status;
	strbuf_addf(&b, "the telemetry lost %llu of %llu events%s; what was left would say: %s", (unsigned long long)lost,
		(unsigned long long)of, j->lossy ? "" : " just there", strbuf_cstr(evidence));
	strbuf_free(evidence);
	*evidence = b;
	b = (struct strbuf){0};
	return TRI_UNKNOWN;
}

/* The engine judged the same series as they came in. If it said otherwise, the reader should know. */
static void say_if_otherwise(struct strbuf *evidence, const json_t *event, enum tri now)
{
	const char *then = text(event, "status");

	if (then[0] && !streq(then, tri_names[now]))
		strbuf_addf(evidence, "; during the run it was found %s", then);
}

static void check_eventually(
	struct judgement *j, const json_t *event, const struct predicate *p, nsec_t from)
{
	nsec_t within = length_of(event, "within_ns");
	_cleanup_strbuf_ struct strbuf evidence = {0};
	_cleanup_free_ char *name = NULL;
	_cleanup_(finding_clear) struct finding f = {0};
	uint64_t reads = timeline_conn_reads(j->tl);
	char d[UNITS_FMT_MAX];
	json_t *measured = NULL, *margin = NULL;
	enum tri status;

	predicate_eventually(p, j->tl, j->site, from, within, j->complete, &f);
	name = strf("eventually %s, within %s", p->text, fmt_duration(d, within));
	if (f.status == TRI_TRUE) {
		strbuf_addf(&evidence, "after %s: ", fmt_duration(d, f.at - from));
		measured = ms_or_null(from, f.at);
		margin = ms_or_null(f.at, from + within);
	} else {
		strbuf_puts(&evidence, !f.done ? "the data end too early; last " : "at last ");
	}
	say_sample(&evidence, p, &f.sample);
	if (f.sample.have)
		say_window(&evidence, j, f.from, f.to);
	status = if_not_lossy(j, reads, from, from + within, f.status, &evidence);
	say_if_otherwise(&evidence, event, status);
	add_check(j, name ? name : "", "eventually", status, ms_or_null(0, within),
		measured ? measured : json_null(), "ms", margin ? margin : json_null(),
		strbuf_cstr(&evidence), text(event, "where"));
}

static json_t *value_or_null(const struct predicate *p, const struct sample *s, double v)
{
	return s->have && isfinite(v) ? json_real(in_unit(p->probe->unit, v)) : json_null();
}

static void check_always(
	struct judgement *j, const json_t *event, const struct predicate *p, nsec_t from)
{
	nsec_t during = length_of(event, "during_ns");
	_cleanup_strbuf_ struct strbuf evidence = {0};
	_cleanup_free_ char *name = NULL;
	_cleanup_(finding_clear) struct finding f = {0};
	uint64_t reads = timeline_conn_reads(j->tl);
	char d[UNITS_FMT_MAX];
	enum tri status;

	predicate_always(p, j->tl, j->site, from, during, j->complete, &f);
	name = strf("always %s, for %s", p->text, fmt_duration(d, during));
	if (!f.done)
		strbuf_puts(&evidence, "the data end too early; so far at worst ");
	else if (f.status == TRI_FALSE && f.at - from < TIMELINE_BUCKET)
		strbuf_puts(&evidence, "broken at once: ");
	else if (f.status == TRI_FALSE)
		strbuf_addf(&evidence, "broken after %s: ", fmt_duration(d, f.at - from));
	else if (f.status == TRI_TRUE)
		strbuf_puts(&evidence, "at worst ");
	say_sample(&evidence, p, &f.sample);
	if (f.sample.have)
		say_window(&evidence, j, f.from, f.to);
	status = if_not_lossy(j, reads, from, from + during, f.done ? f.status : TRI_UNKNOWN, &evidence);
	say_if_otherwise(&evidence, event, status);
	add_check(j, name ? name : "", "always", status,
		json_real(in_unit(p->probe->unit, p->bound)),
		value_or_null(p, &f.sample, f.sample.value), unit_name(p->probe->unit),
		value_or_null(p, &f.sample, margin_of(p, &f.sample)), strbuf_cstr(&evidence),
		text(event, "where"));
}

/* Each predicate on its own in that window; when it was good, its value is enough. */
static void say_steady(struct judgement *j, struct strbuf *b, nsec_t from, nsec_t to)
{
	for (size_t i = 0; i < j->n_steady; i++) {
		const struct predicate *p = j->steady[i];
		char v[UNITS_FMT_MAX];
		struct sample s;
		size_t by;
		enum tri t =
			predicate_steady_at(&j->steady[i], 1, j->tl, j->site, from, to, &by, &s);

		strbuf_addf(b, "%s%s: ", i ? "; " : "", p->text);
		if (t == TRI_TRUE) {
			strbuf_puts(b, fmt_value(v, sizeof(v), p->probe->unit, s.value));
		} else {
			strbuf_puts(b, t == TRI_FALSE ? "no, " : "cannot tell, ");
			say_sample(b, p, &s);
		}
		json_decref(s.detail);
	}
}

/* Returns what was found; *ret_at is the start of the good window, -1: none. */
static enum tri check_steady(struct judgement *j, const char *name, const char *use,
	const json_t *event, nsec_t from, nsec_t until, nsec_t *ret_at)
{
	_cleanup_strbuf_ struct strbuf evidence = {0};
	_cleanup_(finding_clear) struct finding f = {0};
	uint64_t reads = timeline_conn_reads(j->tl);
	enum tri status;
	char d[UNITS_FMT_MAX];

	*ret_at = -1;
	if (from < 0 || until < 0) {
		add_check(j, name, use, TRI_UNKNOWN, json_null(), json_null(), "ms", json_null(),
			"not reached", "");
		return TRI_UNKNOWN;
	}
	predicate_steady(
		j->steady, j->n_steady, j->tl, j->site, from, until, j->settle, j->complete, &f);
	if (f.status == TRI_TRUE) {
		char after[UNITS_FMT_MAX];

		/* a bucket is as near as it can be told */
		if (f.at - from < TIMELINE_BUCKET)
			strbuf_puts(&evidence, "attained at once");
		else
			strbuf_addf(
				&evidence, "attained after %s", fmt_duration(after, f.at - from));
		strbuf_addf(&evidence, ", for %s; ", fmt_duration(d, f.to - f.from));
	} else if (f.to == 0) {
		strbuf_addf(&evidence, "there was no room for a window of %s",
			fmt_duration(d, j->settle));
	} else {
		strbuf_puts(&evidence,
			f.done ? "not attained; at last: " : "the data end too early; at last: ");
	}
	if (f.to > 0)
		say_steady(j, &evidence, f.from, f.to);
	status = if_not_lossy(j, reads, from, until, f.done ? f.status : TRI_UNKNOWN, &evidence);
	say_if_otherwise(&evidence, event, status);
	if (f.status == TRI_TRUE)
		*ret_at = f.at;
	add_check(j, name, use, status, json_null(),
		f.status == TRI_TRUE ? ms_or_null(from, MAX(f.at, from)) : json_null(), "ms",
		json_null(), strbuf_cstr(&evidence), text(event, "where"));
	return status;
}

/* Until when a steady state was waited for; -1: the event does not say */
static nsec_t until_of(const json_t *event)
{
	nsec_t from = time_of(event, "from"), within = length_of(event, "within_ns");

	return time_of(event, "until") >= 0 ? time_of(event, "until")
	       : from >= 0 && within >= 0   ? from + within
					    : -1;
}

static const json_t *check_event(const struct judgement *j, const char *use)
{
	for (size_t i = 0; i < j->n_checks; i++)
		if (streq(text(j->check_events[i]->data, "use"), use))
			return j->check_events[i]->data;
	return NULL;
}

static void check_expectation(struct judgement *j, const struct tl_event *e)
{
	const char *use = text(e->data, "use");
	bool always = streq(use, "always");
	nsec_t from = start_of(j, e->data);
	struct predicate *p = NULL;
	struct err err = {0};

	if (!always && !streq(use, "eventually"))
		return;
	if (from < 0 || length_of(e->data, always ? "during_ns" : "within_ns") < 0) {
		add_check(j, text(e->data, "name"), use, TRI_UNKNOWN, json_null(), json_null(), "",
			json_null(), "its record does not say from when and for how long",
			text(e->data, "where"));
		return;
	}
	if (predicate_from_json(json_array_get(json_object_get(e->data, "predicates"), 0), j->site,
		    &p, &err) < 0) {
		add_check(j, text(e->data, "name"), use, TRI_UNKNOWN, json_null(), json_null(), "",
			json_null(), err.text, text(e->data, "where"));
		return;
	}
	if (always)
		check_always(j, e->data, p, from);
	else
		check_eventually(j, e->data, p, from);
	predicate_free(p);
}

static void check_rto(struct judgement *j)
{
	const json_t *objective =
		json_object_get(json_object_get(j->scenario, "objective"), "rto_ns");
	nsec_t bound = j->rto_objective >= 0 ? j->rto_objective : json_integer_value(objective);

	if (j->rto_objective < 0 && !json_is_integer(objective))
		return;
	add_check(j, "objective: recovery time", "objective", j->rto_status, ms_or_null(0, bound),
		ms_or_null(0, j->rto), "ms",
		j->rto >= 0 ? json_real((double)(bound - j->rto) / NSEC_PER_MSEC) : json_null(),
		j->rto_evidence, "");
}

/* Of all ledgers: what was acknowledged and is lost, in time, against what may be */
static void check_rpo(struct judgement *j)
{
	const json_t *objective = json_object_get(json_object_get(j->scenario, "objective"), "rpo_ns"), *load;
	nsec_t bound = json_integer_value(objective);
	size_t i;

	if (!json_is_integer(objective))
		return;
	json_array_foreach (json_object_get(j->scenario, "loads"), i, load) {
		struct ledger_result l;
		char evidence[512], a[UNITS_FMT_MAX];
		int r = ledger_check(j->tl, text(load, "name"), &l);

		if (!streq(text(load, "kind"), "ledger"))
			continue;
		if (r <= 0 || !l.read_back) {
			snprintf(evidence, sizeof(evidence), "%s: %s", text(load, "name"),
				r < 0 ? "its history makes no sense" : r == 0 ? "it wrote nothing" : l.error);
			add_check(j, "objective: acknowledged writes lost", "objective", TRI_UNKNOWN, ms_or_null(0, bound), json_null(),
				"ms", json_null(), evidence, "");
			continue;
		}
		if (l.lost)
			snprintf(evidence, sizeof(evidence), "%llu of %llu acknowledged writes are lost, %s of them: %s",
				(unsigned long long)l.lost, (unsigned long long)l.acknowledged,
				units_fmt_duration(a, sizeof(a), l.rpo), l.missing);
		else
			snprintf(evidence, sizeof(evidence), "none of %llu acknowledged writes is lost (read back from %s)",
				(unsigned long long)l.acknowledged, l.read_from ? l.read_from : "?");
		add_check(j, "objective: acknowledged writes lost", "objective",
			l.lost == 0 || (bound > 0 && l.rpo <= bound) ? TRI_TRUE : TRI_FALSE, ms_or_null(0, bound), ms_or_null(0, l.rpo),
			"ms", json_real((double)(bound - l.rpo) / NSEC_PER_MSEC), evidence, "");
	}
}

static void check_budget(struct judgement *j)
{
	const json_t *objective =
		json_object_get(json_object_get(j->scenario, "objective"), "error_budget");
	uint64_t sum[OUTCOME_COUNT] = {0}, due = 0, failed;
	_cleanup_strbuf_ struct strbuf evidence = {0};
	double bound = json_number_value(objective), ratio;
	const struct tl_load *l;
	size_t n;

	if (!json_is_number(objective))
		return;
	n = timeline_loads(j->tl, &l);
	for (size_t i = j->begin >= 0 ? timeline_seek(l, n, sizeof(*l), bucket_floor(j->begin)) : n;
		i < n; i++)
		for (int k = 0; l[i].t < j->stop_t && k < OUTCOME_COUNT; k++) {
			sum[k] += l[i].count[k];
			due += l[i].count[k];
		}
	if (!due) {
		add_check(j, "objective: error budget", "objective", TRI_UNKNOWN, json_real(bound),
			json_null(), "ratio", json_null(),
			"no request was due while the method ran", "");
		return;
	}
	if (j->onset >= 0 && j->settled < 0) {
		add_check(j, "objective: error budget", "objective", TRI_UNKNOWN, json_real(bound),
			json_null(), "ratio", json_null(),
			"the record ends before the last fault was lifted", "");
		return;
	}
	if (j->stop_t < j->last_lift) {
		add_check(j, "objective: error budget", "objective", TRI_UNKNOWN, json_real(bound),
			json_null(), "ratio", json_null(),
			"the load ended before the last fault was lifted", "");
		return;
	}
	failed = due - sum[OUTCOME_OK];
	ratio = (double)failed / (double)due;
	strbuf_addf(&evidence, "%llu of %llu requests failed", (unsigned long long)failed,
		(unsigned long long)due);
	for (int k = OUTCOME_OK + 1, shown = 0; k < OUTCOME_COUNT; k++)
		if (sum[k])
			strbuf_addf(&evidence, "%s%s %llu", shown++ ? ", " : ": ", outcome_names[k],
				(unsigned long long)sum[k]);
	add_check(j, "objective: error budget", "objective", ratio <= bound ? TRI_TRUE : TRI_FALSE,
		json_real(bound), json_real(ratio), "ratio", json_real(bound - ratio),
		strbuf_cstr(&evidence), "");
}

/* In the last settle-long window; if the data do not suffice, in one that reaches back further, at most to `settled`. */
static void check_objective(struct judgement *j, const json_t *data)
{
	_cleanup_strbuf_ struct strbuf evidence = {0};
	_cleanup_free_ char *name = NULL;
	uint64_t reads = timeline_conn_reads(j->tl);
	nsec_t lowest = j->settled >= 0 ? bucket_ceil(j->settled) : -1,
	       length = MAX(j->settle, TIMELINE_BUCKET), t0;
	struct predicate *p = NULL;
	struct sample s = {0};
	struct err err = {0};
	enum tri status = TRI_UNKNOWN;
	size_t by;

	if (predicate_from_json(data, j->site, &p, &err) < 0) {
		add_check(j, text(data, "text"), "objective", TRI_UNKNOWN, json_null(), json_null(),
			"", json_null(), err.text, "");
		return;
	}
	name = strf("objective: %s", p->text);
	t0 = MAX(lowest, bucket_floor(j->stop_t - length));
	if (lowest < 0 || t0 >= j->stop_t) {
		strbuf_puts(&evidence,
			j->onset >= 0 ? "nothing was observed after the last fault was lifted"
				      : "not reached");
	} else {
		for (;;) {
			status = predicate_steady_at(&p, 1, j->tl, j->site, t0, j->stop_t, &by, &s);
			if (status != TRI_UNKNOWN || t0 <= lowest)
				break;
			json_decref(s.detail);
			t0 = MAX(lowest, j->stop_t - 2 * (j->stop_t - t0));
		}
		say_sample(&evidence, p, &s);
		say_window(&evidence, j, t0, j->stop_t);
	}
	status = if_not_lossy(j, reads, t0, j->stop_t, status, &evidence);
	add_check(j, name ? name : "", "objective", status,
		json_real(in_unit(p->probe->unit, p->bound)), value_or_null(p, &s, s.value),
		unit_name(p->probe->unit), value_or_null(p, &s, margin_of(p, &s)),
		strbuf_cstr(&evidence), "");
	json_decref(s.detail);
	predicate_free(p);
}

void judge_checks(struct judgement *j)
{
	const json_t *p, *before = check_event(j, "steady-before"),
			 *after = check_event(j, "steady-after");
	nsec_t at;
	size_t i;

	j->steady_asked = j->n_steady > 0;
	j->steady_before = TRI_TRUE;
	if (j->steady_asked)
		j->steady_before = check_steady(j, "steady state before", "steady-before", before,
			start_of(j, before), until_of(before), &at);
	for (i = 0; i < j->n_checks; i++)
		check_expectation(j, j->check_events[i]);
	if (j->steady_asked) {
		nsec_t from = after ? start_of(j, after) : j->settled;
		nsec_t until = after && until_of(after) >= 0 ? until_of(after) : j->stop_t;

		/* What the engine waited for may have ended early, when it was attained. */
		check_steady(j, "steady state after", "steady-after", after, from, until, &at);
		if (at > j->settled)
			j->settled = at;
	}
	check_rto(j);
	check_rpo(j);
	check_budget(j);
	json_array_foreach (
		json_object_get(json_object_get(j->scenario, "objective"), "predicates"), i, p)
		check_objective(j, p);
}
