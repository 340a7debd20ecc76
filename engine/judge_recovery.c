/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * judge_recovery.c: onset, detection, failover and recovery, from the series and the role events; for each phase that has a fault,
 * on one clock.
 *
 * A phase's time is counted from its onset, when the first of its faults was applied, to the start of the first window in which the
 * whole steady state held and after which none was bad until that fault began to be lifted, or until IN_FLIGHT before: what is under
 * way at that moment may be cut by the lifting itself, as by a director that comes back. A service that is steady only after that has
 * recovered by being let go, and its time is counted up to there. What is looked at ends where the next phase's first
 * fault is applied.
 *
 *	detection	somebody acts: a director lowers a server's weight, or a role (a virtual address, the writes of a database) is taken
 *	affected	the first packet that was in trouble: a connect that failed or had to be sent again counts from when it was begun
 *	failover	somebody else is served by it: the first new connection at another server after a withdrawal, through the new
 *			director after a take-over, or the first write that a new primary has acknowledged
 *
 * Beside the phases stands the outage: the longest stretch in which a service accepted no connection at all although there were some that
 * tried. It is taken from stamps of single connections, not from buckets, so it is as fine as the connections came: it begins with the
 * first that tried in vain and ends with the first that was accepted again, and it may have begun as early as the last accepted
 * before, and have ended as early as the last that tried in vain. The two doubts together are its resolution; a stretch no longer than
 * that is none. A recovery that a steady
 * window says was attained within the bucket of the outage's end was attained at that end.
 */
#include "engine/judge_internal.h"

#include <stdio.h>
#include <string.h>

#include "engine/units.h"

/* What is due so shortly before a fault is lifted is not held against a service that had recovered from it */
#define IN_FLIGHT (1 * NSEC_PER_SEC)

/* One phase with a fault in it */
struct span {
	const char *phase; /* "": the faults came before any phase was named */
	nsec_t onset, lifting, first_lift, end; /* lifting: the first fault's undo begins; first_lift: it has ended */
	nsec_t objective;  /* -1: none */

	/* what was detected, and by whom */
	nsec_t detect;
	const char *service, *server; /* a server that was withdrawn; */
	const char *role, *node;      /* or who has taken which role */

	nsec_t over, rto; /* -1: not seen, not recovered or not known */
	nsec_t affected;
	struct outage {
		const char *service; /* NULL: there was none */
		nsec_t from, to, resolution; /* to, resolution -1: it had not ended */
	} outage;
	enum tri status;
	char evidence[256];
};

/* The first time within the span that a director lowers a weight */
static void detect_withdrawal(const struct judgement *j, struct span *s)
{
	const struct tl_weight *w;
	size_t n = timeline_weights(j->tl, &w);

	/* a table that could not be read is no news of a weight */
	for (size_t i = timeline_seek(w, n, sizeof(*w), s->onset); i < n && w[i].t < s->end; i++)
		for (size_t k = i; w[i].weight != TL_WEIGHT_UNKNOWN && k-- > 0;)
			if (w[k].weight != TL_WEIGHT_UNKNOWN && streq(w[k].service, w[i].service) &&
				streq(w[k].server, w[i].server)) {
				if (w[i].weight < w[k].weight) {
					s->detect = w[i].t;
					s->service = w[i].service;
					s->server = w[i].server;
					return;
				}
				break;
			}
}

/* ... or that a role is taken, if that was earlier */
static void detect_takeover(const struct judgement *j, struct span *s)
{
	const struct tl_event *e;
	size_t n = timeline_events(j->tl, &e);

	for (size_t i = timeline_seek(e, n, sizeof(*e), s->onset); i < n && e[i].t < s->end; i++) {
		if (s->detect >= 0 && e[i].t >= s->detect)
			return;
		if (!streq(e[i].kind, EV_ROLE) || !streq(text(e[i].data, "state"), "taken") ||
			json_is_true(json_object_get(e[i].data, "initial")))
			continue;
		s->detect = e[i].t;
		s->service = text(e[i].data, "service");
		s->server = NULL;
		s->role = text(e[i].data, "role");
		s->node = text(e[i].data, "node");
		return;
	}
}

/*
 * The first connection after the detection: after a withdrawal, at another server of that service. A bucket that begins before and
 * ends after tells only its last one, which is then late by less than a bucket.
 */
static nsec_t first_connection(const struct judgement *j, const struct span *s)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(j->tl, &c);
	nsec_t best = -1;

	for (size_t i = timeline_seek(c, n, sizeof(*c), s->detect - TIMELINE_BUCKET); i < n; i++) {
		nsec_t t = c[i].first >= s->detect ? c[i].first : c[i].last >= s->detect ? c[i].last : -1;

		if (best >= 0 && c[i].t > best)
			break;
		if (!c[i].established || t < 0 || !c[i].server[0] || !streq(c[i].service, s->service) ||
			streq(c[i].server, s->server))
			continue;
		best = best < 0 ? t : MIN(best, t);
	}
	return best;
}

/* The first write that was acknowledged after the detection, by the ledgers of that database */
static nsec_t first_write(const struct judgement *j, const struct span *s)
{
	const struct tl_load *l;
	size_t n = timeline_loads(j->tl, &l), i;
	nsec_t best = -1;
	const json_t *load;

	json_array_foreach (json_object_get(j->scenario, "loads"), i, load) {
		if (!streq(text(json_object_get(load, "args"), "database"), s->service))
			continue;
		for (size_t k = 0; k < n; k++) {
			nsec_t t = l[k].first_ok >= s->detect ? l[k].first_ok : l[k].last_ok >= s->detect ? l[k].last_ok : -1;

			if (t >= 0 && streq(l[k].load, text(load, "name")))
				best = best < 0 ? t : MIN(best, t);
		}
	}
	return best;
}

static nsec_t failover(const struct judgement *j, const struct span *s)
{
	uint64_t lost, of;

	if (s->role && streq(s->role, "primary"))
		return first_write(j, s);
	return judge_lossy(j, s->onset, s->end, &lost, &of) ? -1 : first_connection(j, s);
}

/* ── the outage ────────────────────────────────────────────────────────────────────────────── */

/* What one service did in one bucket; its servers and clients together. 0: none */
struct beat {
	nsec_t t, first_ok, last_ok;
};

struct beats {
	size_t n, n_bad;
	struct beat *v;
	nsec_t *bad; /* stamps of what was in trouble after the onset, in order */
};

static void beats_clear(struct beats *b)
{
	free(b->v);
	free(b->bad);
}

static int by_stamp(const void *a, const void *b)
{
	nsec_t x = *(const nsec_t *)a, y = *(const nsec_t *)b;

	return (x > y) - (x < y);
}

/* Those of @service up to the end of the span */
static int beats_of(const struct judgement *j, const struct span *s, const char *service, struct beats *ret)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(j->tl, &c);
	struct beats b = {.v = calloc(n + 1, sizeof(*b.v)), .bad = calloc(2 * n + 1, sizeof(*b.bad))};

	if (!b.v || !b.bad) {
		beats_clear(&b);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n && c[i].t < s->end; i++) {
		const nsec_t bad[] = {c[i].first_bad, c[i].last_bad};
		struct beat *beat;

		if (!streq(c[i].service, service))
			continue;
		for (size_t k = 0; k < ARRAY_SIZE(bad); k++)
			if (bad[k] >= s->onset && bad[k] < s->end)
				b.bad[b.n_bad++] = bad[k];
		if (b.n == 0 || b.v[b.n - 1].t != c[i].t)
			b.v[b.n++].t = c[i].t;
		beat = &b.v[b.n - 1];
		if (c[i].first && (!beat->first_ok || c[i].first < beat->first_ok))
			beat->first_ok = c[i].first;
		beat->last_ok = MAX(beat->last_ok, c[i].last);
	}
	qsort(b.bad, b.n_bad, sizeof(*b.bad), by_stamp);
	*ret = b;
	return 0;
}

/* Index of the first stamp that is later than @t */
static size_t bad_after(const struct beats *b, nsec_t t)
{
	size_t low = 0, high = b->n_bad;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (b->bad[middle] > t)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Between @last_ok and @next_ok (NSEC_INFINITY: there was none) nobody was accepted. Was anybody there? */
static struct outage outage_between(const struct beats *b, nsec_t onset, nsec_t last_ok, nsec_t next_ok)
{
	struct outage o = {.from = -1, .to = -1, .resolution = -1};
	size_t first = bad_after(b, last_ok), end = bad_after(b, next_ok - 1);

	if (first >= end)
		return o;
	o.from = b->bad[first];
	if (next_ok == NSEC_INFINITY)
		return o;
	o.to = next_ok;
	o.resolution = o.from - MAX(last_ok, onset) + (next_ok - b->bad[end - 1]);
	/* as long as the doubt about it: connections came no closer together, and one of them failed */
	if (o.to - o.from <= o.resolution)
		o = (struct outage){.from = -1, .to = -1, .resolution = -1};
	return o;
}

static nsec_t length_of(const struct outage *o, nsec_t end)
{
	return o->from < 0 ? -1 : (o->to < 0 ? end : o->to) - o->from;
}

static int find_outage(const struct judgement *j, struct span *s)
{
	for (size_t i = 0; j->site && i < j->site->n_services; i++) {
		const char *service = j->site->services[i].name;
		_cleanup_(beats_clear) struct beats b = {0};
		nsec_t last_ok = -1;
		int r = beats_of(j, s, service, &b);

		if (r < 0)
			return r;
		if (b.n_bad && (s->affected < 0 || b.bad[0] < s->affected))
			s->affected = b.bad[0];
		for (size_t k = 0; b.n_bad && k <= b.n; k++) {
			nsec_t next_ok = k < b.n ? b.v[k].first_ok : NSEC_INFINITY;
			struct outage o;

			if (!next_ok)
				continue;
			if (next_ok > s->onset) {
				o = outage_between(&b, s->onset, last_ok, next_ok);
				o.service = service;
				if (o.from >= 0 && length_of(&o, s->end) > (s->outage.service ? length_of(&s->outage, s->end) : -1))
					s->outage = o;
			}
			last_ok = k < b.n ? b.v[k].last_ok : last_ok;
		}
	}
	return 0;
}

/* The steady windows from the onset on, one a bucket */
struct windows {
	nsec_t first;
	size_t n;
	unsigned char *status; /* enum tri */
};

static int steady_windows(const struct judgement *j, nsec_t from, nsec_t to, struct windows *ret)
{
	nsec_t length = MAX(bucket_ceil(j->settle), TIMELINE_BUCKET);
	struct windows w = {.first = bucket_ceil(from)};

	if (w.first + length <= to)
		w.n = (size_t)((to - length - w.first) / TIMELINE_BUCKET + 1);
	w.status = malloc(w.n + 1);
	if (!w.status)
		return -ENOMEM;
	for (size_t i = 0; i < w.n; i++) {
		nsec_t t0 = w.first + (nsec_t)i * TIMELINE_BUCKET;
		struct sample sample;
		size_t by;

		w.status[i] = predicate_steady_at(
			j->steady, j->n_steady, j->tl, j->site, t0, t0 + length, &by, &sample);
		json_decref(sample.detail);
	}
	*ret = w;
	return 0;
}

/* How many windows of @length end at @t or before */
static size_t windows_before(const struct windows *w, nsec_t t, nsec_t length)
{
	nsec_t room = t - length - w->first;

	return room < 0 ? 0 : MIN(w->n, (size_t)(room / TIMELINE_BUCKET) + 1);
}

/* The first good window of the first @n that no bad one follows; -1: none */
static ssize_t held_from(const struct windows *w, size_t n)
{
	ssize_t found = -1;

	for (size_t i = n; i-- > 0 && w->status[i] != TRI_FALSE;)
		if (w->status[i] == TRI_TRUE)
			found = (ssize_t)i;
	return found;
}

/*
 * Was the objective met? @held: the window of recovery, or -1. @let_go: no window within the fault was it.
 *
 * A steady state tolerates something, so its first window may begin while the last of the harm is still being done, within what
 * is tolerated. Before the failover the service cannot have recovered: it is the earliest that counts, when it is known.
 */
static void judge_rto(struct span *s, const struct windows *w, ssize_t held, bool let_go)
{
	nsec_t objective = s->objective >= 0 ? s->objective : NSEC_INFINITY / 2;
	size_t after_bad = w->n, needed;
	char a[UNITS_FMT_MAX], b[UNITS_FMT_MAX];

	if (held >= 0) {
		nsec_t rto = w->first + held * TIMELINE_BUCKET - s->onset;
		nsec_t restored = s->outage.service && s->outage.to >= 0 ? s->outage.to - s->onset : -1;

		/* to the connection, where the window and the outage speak of the same moment */
		if (restored >= 0 && s->outage.resolution < TIMELINE_BUCKET && restored > rto - TIMELINE_BUCKET &&
			(restored <= rto || s->outage.from - s->onset <= rto))
			rto = restored;
		s->rto = MAX(MAX(rto, s->over - s->onset), 0);
		s->status = s->rto <= objective ? TRI_TRUE : TRI_FALSE;
		/* A window that could not be told may have been the good one, earlier. */
		for (size_t i = (size_t)held; s->status == TRI_FALSE && i-- > 0 && w->status[i] != TRI_FALSE;)
			if (w->first + (nsec_t)i * TIMELINE_BUCKET - s->onset <= objective)
				s->status = TRI_UNKNOWN;
		snprintf(s->evidence, sizeof(s->evidence), "steady again %s after the fault%s%s",
			units_fmt_duration(a, sizeof(a), s->rto), let_go ? "; not while the fault was in force" : "",
			s->status == TRI_UNKNOWN ? "; whether it was so earlier could not be told" : "");
		return;
	}
	/* Missed for certain only if every window that could have met the objective was seen, and was bad or did not last. */
	needed = objective >= w->first - s->onset ?
			 (size_t)((objective - (w->first - s->onset)) / TIMELINE_BUCKET) + 1 :
			 0;
	while (after_bad > 0 && w->status[after_bad - 1] != TRI_FALSE)
		after_bad--;
	s->rto = -1;
	s->status = needed <= after_bad ? TRI_FALSE : TRI_UNKNOWN;
	snprintf(s->evidence, sizeof(s->evidence), "not steady again in the %s that were observed%s%s",
		units_fmt_duration(a, sizeof(a), MAX(s->end - s->onset, 0)),
		s->status == TRI_UNKNOWN ? ": too short, or not enough data, for an objective of " : "",
		s->status == TRI_UNKNOWN ? units_fmt_duration(b, sizeof(b), objective) : "");
}

static int judge_span(const struct judgement *j, struct span *s)
{
	nsec_t length = MAX(bucket_ceil(j->settle), TIMELINE_BUCKET);
	_cleanup_free_ unsigned char *status = NULL;
	bool let_go = false;
	struct windows w;
	uint64_t reads, lost, of;
	ssize_t held;
	size_t n;
	int r;

	detect_withdrawal(j, s);
	detect_takeover(j, s);
	if (s->detect >= 0)
		s->over = failover(j, s);
	if (!judge_lossy(j, s->onset, s->end, &lost, &of)) {
		r = find_outage(j, s);
		if (r < 0)
			return r;
	}
	if (!j->n_steady)
		return 0;
	reads = timeline_conn_reads(j->tl);
	r = steady_windows(j, s->onset, s->end, &w);
	if (r < 0)
		return r;
	status = w.status;
	n = w.n;
	if (s->lifting >= 0)
		n = windows_before(&w, s->lifting, length);
	held = held_from(&w, n);
	if (held < 0 && s->lifting >= 0)
		held = held_from(&w, windows_before(&w, s->lifting - IN_FLIGHT, length));
	if (held < 0 && n < w.n) {
		let_go = true;
		held = held_from(&w, w.n);
	}
	judge_rto(s, &w, held, let_go);
	if (timeline_conn_reads(j->tl) != reads && judge_lossy(j, s->onset, s->end, &lost, &of)) {
		s->rto = -1;
		s->status = TRI_UNKNOWN;
		snprintf(s->evidence, sizeof(s->evidence), "not known: the telemetry lost events");
	}
	return 0;
}

/* ── the phases ────────────────────────────────────────────────────────────────────────────── */

/* The phase that @t falls in; its own objective, when it has one, else the scenario's */
static const char *phase_at(const struct judgement *j, nsec_t t, nsec_t *objective)
{
	const struct tl_event *e;
	size_t n = timeline_events(j->tl, &e);
	const char *phase = "";

	for (size_t i = 0; i < n && e[i].t <= t; i++) {
		const json_t *own;

		if (!streq(e[i].kind, EV_PHASE))
			continue;
		phase = text(e[i].data, "phase");
		own = json_object_get(e[i].data, "rto_ns");
		if (json_is_integer(own))
			*objective = json_integer_value(own);
	}
	return phase;
}

static int by_onset(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return (x->onset > y->onset) - (x->onset < y->onset);
}

/* One for each phase with a fault that was applied, in the order of their onsets */
static int find_spans(const struct judgement *j, struct span **ret, size_t *ret_n)
{
	const json_t *jobjective = json_object_get(json_object_get(j->scenario, "objective"), "rto_ns");
	struct span *spans = calloc(j->n_faults + 1, sizeof(*spans));
	size_t n = 0;

	if (!spans)
		return -ENOMEM;
	for (size_t i = 0; i < j->n_faults; i++) {
		const struct fault *f = &j->faults[i];
		nsec_t objective = json_is_integer(jobjective) ? json_integer_value(jobjective) : -1;
		const char *phase;
		size_t k = 0;

		if (f->applied < 0)
			continue;
		phase = phase_at(j, f->applied, &objective);
		while (k < n && !streq(spans[k].phase, phase))
			k++;
		if (k < n && spans[k].onset <= f->applied)
			continue;
		spans[k] = (struct span){.phase = phase,
			.onset = f->applied,
			.lifting = f->lifting,
			.first_lift = f->lifted,
			.objective = objective,
			.detect = -1,
			.over = -1,
			.rto = -1,
			.affected = -1,
			.status = TRI_UNKNOWN};
		snprintf(spans[k].evidence, sizeof(spans[k].evidence),
			"no steady state is declared, so there is none to return to");
		n += k == n;
	}
	qsort(spans, n, sizeof(*spans), by_onset);
	for (size_t i = 0; i < n; i++)
		spans[i].end = i + 1 < n ? MIN(bucket_floor(spans[i + 1].onset), j->stop_t) : j->stop_t;
	*ret = spans;
	*ret_n = n;
	return 0;
}

/*
 * Of the persistent connections that were there at the onset, how many were there still when the span ended; null when no load holds
 * any. A connection that its server closed while it was idle is no loss of the failover's, and counts as neither.
 */
static json_t *held_json(const struct judgement *j, const struct span *s)
{
	const struct tl_event *e;
	size_t n = timeline_events(j->tl, &e);
	unsigned int held = 0, broken = 0, closed = 0;

	for (size_t i = 0; s->onset >= 0 && i < n && e[i].t <= s->onset; i++)
		if (streq(e[i].kind, EV_HELD))
			held += streq(text(e[i].data, "state"), "open") ? 1 : -1u;
	if (!held)
		return json_null();
	for (size_t i = timeline_seek(e, n, sizeof(*e), s->onset + 1); i < n && e[i].t < s->end; i++) {
		bool before = false;

		if (!streq(e[i].kind, EV_HELD) || streq(text(e[i].data, "state"), "open"))
			continue;
		/* one that was opened since is not asked about */
		for (size_t k = i; k-- > 0;)
			if (streq(e[k].kind, EV_HELD) && streq(text(e[k].data, "state"), "open") &&
				streq(text(e[k].data, "load"), text(e[i].data, "load")) &&
				json_equal(json_object_get(e[k].data, "connection"), json_object_get(e[i].data, "connection"))) {
				before = e[k].t <= s->onset;
				break;
			}
		broken += before && streq(text(e[i].data, "state"), "broken");
		closed += before && streq(text(e[i].data, "state"), "closed");
	}
	return json_pack("{s:i, s:i, s:i}", "held", (int)(held - closed), "survived", (int)(held - closed - broken), "broken",
		(int)broken);
}

static json_t *outage_json(const struct outage *o)
{
	if (!o->service)
		return json_null();
	return json_pack("{s:s, s:o, s:o, s:o, s:o}", "service", o->service, "from_ns", time_or_null(o->from), "to_ns",
		time_or_null(o->to), "length_ms", ms_or_null(o->from, o->to), "resolution_ms", ms_or_null(0, o->resolution));
}

static json_t *span_json(const struct judgement *j, const struct span *s)
{
	nsec_t recovered = s->rto < 0 ? -1 : s->onset + s->rto;

	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:s?, s:o, s:o, s:s, s:o, s:o, s:o}", "phase", s->phase, "onset",
		judge_wall(j, s->onset), "detect_ms", ms_or_null(s->onset, s->detect), "failover_ms",
		ms_or_null(s->onset, s->over), "recover_ms", ms_or_null(s->onset, recovered), "rto_ms",
		ms_or_null(s->onset, recovered), "objective_ms", s->objective >= 0 ? ms_or_null(0, s->objective) : json_null(),
		"onset_ns", time_or_null(s->onset), "resolution_ms", (double)TIMELINE_BUCKET / NSEC_PER_MSEC, "withdrawn",
		s->server, "taken_over", s->role ? json_pack("{s:s, s:s, s:s}", "service", s->service, "role", s->role, "node", s->node) :
						   json_null(),
		"lifted_ns", time_or_null(s->first_lift), "status",
		s->status == TRI_TRUE ? "true" : s->status == TRI_FALSE ? "false" : "unknown", "connections", held_json(j, s), "affected_ms",
		ms_or_null(s->onset, s->affected), "outage", outage_json(&s->outage));
}

static nsec_t margin(const struct span *s)
{
	return s->objective < 0 ? NSEC_INFINITY : s->objective - s->rto;
}

/*
 * The span that decides: one that missed its objective, one that cannot be told, else the one that came closest to missing. One
 * without an objective decides nothing while there is another that has one.
 */
static const struct span *deciding(const struct span *spans, size_t n)
{
	static const int rank[] = {[TRI_FALSE] = 0, [TRI_UNKNOWN] = 1, [TRI_TRUE] = 2};
	const struct span *worst = n ? &spans[0] : NULL;

	for (size_t i = 1; i < n; i++) {
		const struct span *s = &spans[i];

		if ((s->objective < 0) != (worst->objective < 0)) {
			worst = s->objective < 0 ? worst : s;
			continue;
		}
		if (rank[s->status] < rank[worst->status] || (s->status == worst->status && margin(s) < margin(worst)))
			worst = s;
	}
	return worst;
}

int judge_recover(struct judgement *j)
{
	const json_t *objective = json_object_get(json_object_get(j->scenario, "objective"), "rto_ns");
	const struct span none = {.phase = "", .onset = -1, .lifting = -1, .first_lift = -1, .detect = -1, .over = -1, .rto = -1, .affected = -1,
		.objective = json_is_integer(objective) ? json_integer_value(objective) : -1, .status = TRI_UNKNOWN};
	_cleanup_free_ struct span *spans = NULL;
	const struct span *worst;
	json_t *phases = json_array();
	size_t n;
	int r = find_spans(j, &spans, &n);

	for (size_t i = 0; r == 0 && i < n; i++) {
		r = judge_span(j, &spans[i]);
		if (r == 0)
			json_array_append_new(phases, span_json(j, &spans[i]));
	}
	if (r < 0) {
		json_decref(phases);
		return r;
	}
	worst = deciding(spans, n);
	j->rto = worst ? worst->rto : -1;
	j->rto_objective = worst ? worst->objective : -1;
	j->rto_status = worst ? worst->status : TRI_UNKNOWN;
	snprintf(j->rto_evidence, sizeof(j->rto_evidence), "%s%.60s%s%.180s", n > 1 ? "phase \"" : "", n > 1 ? worst->phase : "",
		n > 1 ? "\": " : "", worst ? worst->evidence : "no fault was applied");
	j->recovery = span_json(j, worst ? worst : &none);
	set(j->recovery, "phases", phases);
	return 0;
}
