/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a timeline to what can be drawn:
 *
 *	{ "t0_ns": T, "step_s": 0.2,                                     all times below are seconds since t0_ns
 *	  "load": [[t_s, rate, error_ratio, p99_ms], ...],               of all loads together; null: nothing was due, none was answered
 *	  "conns": [{"service": S, "server": N, "points": [[t_s, new connections a second], ...]}, ...],
 *	  "weights": [{"service": S, "server": N, "points": [[t_s, weight], ...]}, ...],
 *	  "events": [{"t_s": t, "kind": K, ...}, ...] }                  stages, phases, faults, checks, halts, errors, logs
 *
 * p99 is that of the requests that were answered; the others are in the error ratio.
 */
#include "lua/render.h"

#include <string.h>

#include "engine/events.h"
#include "engine/str.h"

#define POINTS_MAX 300
#define STEP_MIN   (2 * TIMELINE_BUCKET)

struct range {
	nsec_t t0;	 /* of the run */
	nsec_t from, to; /* of the series, on multiples of a bucket */
	nsec_t step;
};

static double seconds(const struct range *r, nsec_t t)
{
	return (double)(t - r->t0) / NSEC_PER_SEC;
}

static void widen(struct range *r, nsec_t t)
{
	r->from = r->from < 0 ? t : MIN(r->from, t);
	r->to = MAX(r->to, t + TIMELINE_BUCKET);
}

static struct range find_range(const struct timeline *tl)
{
	struct range r = {.t0 = -1, .from = -1};
	const struct tl_event *e;
	const struct tl_load *l;
	const struct tl_conn *c;
	size_t n = timeline_events(tl, &e);
	nsec_t length;

	for (size_t i = 0; i < n && r.t0 < 0; i++)
		if (streq(e[i].kind, EV_RUN))
			r.t0 = e[i].t;
	if (r.t0 < 0)
		r.t0 = n ? e[0].t : 0;
	n = timeline_loads(tl, &l);
	if (n) {
		widen(&r, l[0].t);
		widen(&r, l[n - 1].t);
	}
	n = timeline_conns(tl, &c);
	if (n) {
		widen(&r, c[0].t);
		widen(&r, c[n - 1].t);
	}
	/* The first and the last bucket are rarely whole: a load begins and ends where it will. */
	if (r.to - r.from > 10 * TIMELINE_BUCKET) {
		r.from += TIMELINE_BUCKET;
		r.to -= TIMELINE_BUCKET;
	}
	length = r.from < 0 ? 0 : r.to - r.from;
	r.step = (length / POINTS_MAX + TIMELINE_BUCKET - 1) / TIMELINE_BUCKET * TIMELINE_BUCKET;
	r.step = MAX(r.step, STEP_MIN);
	return r;
}

static json_t *load_points(const struct timeline *tl, const struct range *r)
{
	_cleanup_free_ struct hist *latency = malloc(sizeof(*latency));
	json_t *points = json_array();
	const struct tl_load *l;
	size_t n = timeline_loads(tl, &l), i = timeline_seek(l, n, sizeof(*l), MAX(r->from, 0));

	for (nsec_t t = r->from; n && latency && t >= 0 && t < r->to; t += r->step) {
		uint64_t due = 0, ok = 0, p99;
		nsec_t end = MIN(t + r->step, r->to);

		hist_reset(latency);
		for (; i < n && l[i].t < end; i++) {
			for (int k = 0; k < OUTCOME_COUNT; k++)
				due += l[i].count[k];
			ok += l[i].count[OUTCOME_OK];
			hist_add_sparse(latency, &l[i].latency);
		}
		json_array_append_new(points,
			json_pack("[f, f, o, o]", seconds(r, t),
				(double)due * NSEC_PER_SEC / (double)(end - t),
				due ? json_real((double)(due - ok) / (double)due) : json_null(),
				hist_quantile(latency, 0.99, &p99) < 0
					? json_null()
					: json_real((double)p99 / NSEC_PER_MSEC)));
	}
	return points;
}

/* The line of this service and server in @lines, made when it is not there */
static json_t *line_of(json_t *lines, const char *service, const char *server)
{
	json_t *line;
	size_t i;

	json_array_foreach (lines, i, line)
		if (streq(json_string_value(json_object_get(line, "service")), service) &&
			streq(json_string_value(json_object_get(line, "server")), server))
			return json_object_get(line, "points");
	line = json_pack("{s:s, s:s, s:[]}", "service", service, "server", server, "points");
	json_array_append_new(lines, line);
	return json_object_get(line, "points");
}

static json_t *conn_lines(const struct timeline *tl, const struct range *r)
{
	json_t *lines = json_array(), *line;
	const struct tl_conn *c;
	size_t n = timeline_conns(tl, &c), k;

	for (size_t i = 0; i < n; i++)
		if (c[i].server[0])
			(void)line_of(lines, c[i].service, c[i].server);
	json_array_foreach (lines, k, line) {
		const char *service = json_string_value(json_object_get(line, "service"));
		const char *server = json_string_value(json_object_get(line, "server"));
		json_t *points = json_object_get(line, "points");
		size_t i = timeline_seek(c, n, sizeof(*c), MAX(r->from, 0));

		for (nsec_t t = r->from; t < r->to; t += r->step) {
			nsec_t end = MIN(t + r->step, r->to);
			uint64_t sum = 0;

			for (; i < n && c[i].t < end; i++)
				if (streq(c[i].service, service) && streq(c[i].server, server))
					sum += c[i].established;
			json_array_append_new(
				points, json_pack("[f, f]", seconds(r, t),
						(double)sum * NSEC_PER_SEC / (double)(end - t)));
		}
	}
	return lines;
}

static json_t *weight_lines(const struct timeline *tl, const struct range *r)
{
	json_t *lines = json_array();
	const struct tl_weight *w;
	size_t n = timeline_weights(tl, &w);

	for (size_t i = 0; i < n; i++)
		json_array_append_new(line_of(lines, w[i].service, w[i].server),
			json_pack("[f, o]", seconds(r, w[i].t),
				w[i].weight == TL_WEIGHT_UNKNOWN
					? json_null()
					: json_integer(MAX(w[i].weight, 0))));
	return lines;
}

static json_t *event_list(const struct timeline *tl, const struct range *r)
{
	static const char *const kinds[] = {EV_STAGE, EV_PHASE, EV_FAULT, EV_CHECK, EV_STOP,
		EV_HALT, EV_ERROR, EV_LOG, EV_GUARD};
	static const char *const members[] = {"stage", "phase", "name", "use", "change", "node",
		"state", "status", "text", "by", "reason", "what", "id"};
	json_t *list = json_array();
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);

	for (size_t i = 0; i < n; i++) {
		bool wanted = false;
		json_t *j;

		for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
			wanted = wanted || streq(e[i].kind, kinds[k]);
		if (!wanted)
			continue;
		j = json_pack("{s:f, s:s}", "t_s", seconds(r, e[i].t), "kind", e[i].kind);
		for (size_t k = 0; k < ARRAY_SIZE(members); k++)
			if (json_object_get(e[i].data, members[k]))
				json_object_set(
					j, members[k], json_object_get(e[i].data, members[k]));
		json_array_append_new(list, j);
	}
	return list;
}

json_t *render_chart_data(const struct timeline *tl)
{
	struct range r;
	json_t *j;

	timeline_lock(tl);
	r = find_range(tl);
	j = json_pack("{s:I, s:f, s:o, s:o, s:o, s:o}", "t0_ns", (json_int_t)r.t0, "step_s",
		(double)r.step / NSEC_PER_SEC, "load", load_points(tl, &r), "conns",
		conn_lines(tl, &r), "weights", weight_lines(tl, &r), "events", event_list(tl, &r));
	timeline_unlock(tl);
	return j;
}
