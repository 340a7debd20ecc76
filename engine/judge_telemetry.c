/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * judge_telemetry.c: how good the telemetry was: what it missed and when, by which probes it saw, and how finely; and who talked to
 * whom before, during and after the faults.
 *
 * A loss is told in events that say how many were missing since the start, at most one in each reading (source_conn.c), so a stretch of
 * time is charged with what was told from its beginning to a reading after its end.
 */
#include "engine/judge_internal.h"

#include <string.h>

#define READING (2 * TIMELINE_BUCKET) /* a reading, and the lag it leaves */

/* ── losses ────────────────────────────────────────────────────────────────────────────────── */

/* Events that were missed by @t, of all sources together: of each the last that it has told */
static uint64_t lost_by(const struct judgement *j, nsec_t t)
{
	const struct tl_event *e;
	size_t n = timeline_events(j->tl, &e);
	uint64_t sum = 0;

	for (size_t i = timeline_seek(e, n, sizeof(*e), t + 1); i-- > 0;) {
		bool told = false;

		if (!streq(e[i].kind, EV_SOURCE) || !streq(text(e[i].data, "state"), "lost"))
			continue;
		for (size_t k = i + 1; k < n && e[k].t <= t && !told; k++)
			told = streq(e[k].kind, EV_SOURCE) && streq(text(e[k].data, "state"), "lost") &&
				streq(text(e[k].data, "name"), text(e[i].data, "name"));
		if (!told)
			sum += (uint64_t)MAX(json_integer_value(json_object_get(json_object_get(e[i].data, "summary"), "dropped")),
				(json_int_t)0);
	}
	return sum;
}

static uint64_t lost_between(const struct judgement *j, nsec_t t0, nsec_t t1)
{
	uint64_t before = lost_by(j, t0), after = lost_by(j, MIN(t1, NSEC_INFINITY - READING - 1) + READING);

	return after > before ? after - before : 0;
}

/* What was seen of connections there. That it was asked is not to count as resting on them: the caller compares before. */
static uint64_t seen_between(const struct judgement *j, nsec_t t0, nsec_t t1)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(j->tl, &c);
	uint64_t sum = 0;

	for (size_t i = timeline_seek(c, n, sizeof(*c), t0); i < n && c[i].t < t1; i++)
		sum += c[i].established + c[i].closed + c[i].failed;
	return sum;
}

bool judge_lossy(const struct judgement *j, nsec_t t0, nsec_t t1, uint64_t *ret_lost, uint64_t *ret_of)
{
	uint64_t lost;

	if (j->lossy) {
		*ret_lost = (uint64_t)json_integer_value(j->events_dropped);
		*ret_of = *ret_lost + (uint64_t)json_integer_value(j->events_seen);
		return true;
	}
	lost = lost_between(j, t0, t1);
	if (!lost)
		return false;
	*ret_lost = lost;
	*ret_of = lost + seen_between(j, t0, t1);
	return (double)lost > TELEMETRY_LOSS_MAX * (double)*ret_of;
}

void judge_collect_telemetry(struct judgement *j, const char *source, const json_t *summary)
{
	static const char *const of_itself[] = {
		"resolution", "records", "lost", "rescued", "open_at_end", "late", "unknown_birth", "fallback"};
	const json_t *probe;
	size_t i;

	if (json_is_array(json_object_get(summary, "counted"))) {
		if (!j->told)
			j->told = json_object();
		if (!json_object_get(j->told, "counted"))
			json_object_set_new(j->told, "counted", json_object());
		json_object_set_new(json_object_get(j->told, "counted"), source, copy_of(summary, "counted"));
	}
	json_array_foreach (json_object_get(summary, "probes"), i, probe)
		if (json_is_object(probe))
			json_array_append_new(j->probes, json_pack("{s:s, s:o, s:o, s:o}", "source", source, "probe",
								 copy_of(probe, "probe"), "active", copy_of(probe, "active"), "why",
								 copy_of(probe, "why")));
	if (!json_is_object(json_object_get(summary, "resolution")))
		return;
	if (!j->told)
		j->told = json_object();
	for (i = 0; j->told && i < ARRAY_SIZE(of_itself); i++)
		json_object_set_new(j->told, of_itself[i], copy_of(summary, of_itself[i]));
}

/* ── the section ───────────────────────────────────────────────────────────────────────────── */

static json_t *stretch(const struct judgement *j, const char *name, nsec_t from, nsec_t to)
{
	uint64_t lost = 0, of = 0;
	bool bad = from < to && judge_lossy(j, from, to, &lost, &of);

	return json_pack("{s:o, s:I, s:I, s:I, s:I, s:b}", "phase", safe_string(name), "from_ns", (json_int_t)from, "to_ns",
		(json_int_t)MAX(from, to), "events", (json_int_t)seen_between(j, from, to), "lost",
		(json_int_t)lost_between(j, from, MAX(from, to)), "too_many", bad);
}

/* What was seen and missed in each phase; before the first and after the last as well */
static json_t *phases(const struct judgement *j)
{
	const struct tl_event *e;
	size_t n = timeline_events(j->tl, &e);
	const char *name = "before the method";
	nsec_t from = MAX(j->first_t, j->run_t);
	json_t *all = json_array();

	for (size_t i = 0; i < n; i++) {
		const char *next = NULL;

		if (streq(e[i].kind, EV_PHASE))
			next = text(e[i].data, "phase");
		else if (streq(e[i].kind, EV_STAGE) && streq(text(e[i].data, "stage"), "method"))
			next = "";
		else if (streq(e[i].kind, EV_STAGE) && streq(text(e[i].data, "stage"), "recovery"))
			next = "recovery";
		else if (streq(e[i].kind, EV_STAGE) && streq(text(e[i].data, "stage"), "undo"))
			next = "undo";
		if (!next)
			continue;
		if (e[i].t > from)
			json_array_append_new(all, stretch(j, name, from, e[i].t));
		name = *next ? next : "method";
		from = e[i].t;
	}
	if (j->complete > from)
		json_array_append_new(all, stretch(j, name, from, j->complete));
	return all;
}

json_t *judge_telemetry(const struct judgement *j)
{
	json_t *o = json_pack("{s:o, s:o, s:O, s:o}", "events", j->events_seen ? json_incref(j->events_seen) : json_null(), "dropped",
		j->events_dropped ? json_incref(j->events_dropped) : json_null(), "probes", j->probes, "phases",
		j->events_seen ? phases(j) : json_null());

	if (j->told)
		json_object_update(o, j->told);
	return o;
}

/* ── who talked to whom ────────────────────────────────────────────────────────────────────── */

static const char *const numbers[] = {
	"opened", "established", "bytes_in", "bytes_out", "retransmits", "unknown_birth"};

static void add_numbers(json_t *to, const json_t *from)
{
	const char *outcome;
	json_t *v, *outcomes = json_object_get(to, "outcomes");

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		json_object_set_new(to, numbers[i],
			json_integer(json_integer_value(json_object_get(to, numbers[i])) +
				json_integer_value(json_object_get(from, numbers[i]))));
	json_object_foreach (json_object_get(from, "outcomes"), outcome, v)
		json_object_set_new(outcomes, outcome,
			json_integer(json_integer_value(json_object_get(outcomes, outcome)) + json_integer_value(v)));
}

/*
 * An entry for each end of each conversation, with what was counted before the first fault, while there was one, and after the last was
 * lifted. What was counted across such a moment counts as during. null: nobody watched.
 */
json_t *judge_traffic(const struct judgement *j)
{
	static const char *const keys[] = {"node", "role", "service", "peer"};
	const struct tl_event *e;
	size_t n = timeline_events(j->tl, &e);
	json_t *all = NULL;

	for (size_t i = 0; i < n; i++) {
		json_t *entry = NULL, *known, *part;
		const char *when;
		size_t k;

		if (!streq(e[i].kind, EV_TRAFFIC))
			continue;
		if (!all)
			all = json_array();
		json_array_foreach (all, k, known) {
			bool same = true;

			for (size_t f = 0; f < ARRAY_SIZE(keys); f++)
				same = same && json_equal(json_object_get(known, keys[f]), json_object_get(e[i].data, keys[f]));
			if (same)
				entry = known;
		}
		if (!entry) {
			entry = json_object();
			for (size_t f = 0; f < ARRAY_SIZE(keys); f++)
				json_object_set_new(entry, keys[f], copy_of(e[i].data, keys[f]));
			json_array_append_new(all, entry);
		}
		when = j->onset < 0 || e[i].t <= j->onset		       ? "before" :
			j->settled >= 0 && time_of(e[i].data, "since") >= j->last_lift ? "after" :
										 "during";
		part = json_object_get(entry, when);
		if (!part) {
			part = json_pack("{s:{}}", "outcomes");
			json_object_set_new(entry, when, part);
		}
		add_numbers(part, e[i].data);
	}
	return all ? all : json_null();
}
