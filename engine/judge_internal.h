/* SPDX-License-Identifier: GPL-2.0-only */
/* judge_internal.h: what the judge's files share; nobody else includes it. */
#pragma once

#include <string.h>

#include "engine/events.h"
#include "engine/judge.h"
#include "engine/ledger.h"
#include "engine/predicate.h"
#include "engine/str.h"

struct fault {
	const json_t *applied_event, *lifted_event, *failed_event;
	nsec_t applied, lifted; /* -1: never */
	nsec_t lifting;		/* when the undo began that had ended at `lifted` */
};

struct judgement {
	const json_t *scenario;
	const struct timeline *tl;
	struct site *site;

	/* from the events; borrowed */
	const json_t *run, *refused, *error, *halt, *stop, *residue, *end;
	const json_t *guard_died, *guard_deadline, *guard_gone;
	nsec_t run_t, run_wall;	 /* wall 0: not known */
	nsec_t method_t, undo_t; /* -1: never */
	nsec_t first_t, last_t;	 /* of anything; of an event */
	bool finished, applied;
	struct fault *faults;
	size_t n_faults;
	json_t *changes, *errors, *sources, *waived, *drift; /* arrays */
	const struct tl_event **check_events; /* the last of each id, in the order of the first */
	size_t n_checks;
	json_t *load_summaries;		      /* by name */
	json_t *events_seen, *events_dropped; /* integers, or NULL: not known */
	json_t *probes;	    /* array: [{source, probe, active, why}] */
	json_t *told;	    /* object: what the telemetry's summary says of itself: resolution, records, lost; NULL: nothing */

	/* observed */
	nsec_t complete, begin, stop_t;	     /* observation: [begin, stop_t) */
	nsec_t onset, first_lift, last_lift; /* -1: none */
	nsec_t settled; /* where the state afterwards begins to count: steady again, or the last fault lifted, or, when there
			   was none, the method begun. -1: it never came so far */
	bool lossy; /* the telemetry, over the whole run */

	struct predicate **steady;
	size_t n_steady;
	nsec_t settle;

	json_t *checks;
	json_t *recovery;
	nsec_t rto; /* of the phase that decides; -1: not recovered, or not known */
	nsec_t rto_objective; /* that phase's; -1: none */
	enum tri rto_status;
	enum tri steady_before;
	bool steady_asked;
	char rto_evidence[256];
};

/* Nothing is judged that took longer: no deadline is. */
#define JUDGE_SPAN_MAX (25 * 3600 * NSEC_PER_SEC)

/* ── small things ──────────────────────────────────────────────────────────────────────── */

static inline const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

/* A time of an event: -1 when it is not there or makes no sense. */
static inline nsec_t time_of(const json_t *j, const char *key)
{
	const json_t *v = json_object_get(j, key);

	return json_is_integer(v) && json_integer_value(v) >= 0 ? json_integer_value(v) : -1;
}

/* From when a check was asked for: -1 when the event does not say, or names a time that is none of the run's. */
static inline nsec_t start_of(const struct judgement *j, const json_t *event)
{
	nsec_t from = time_of(event, "from");

	return from >= j->first_t && from - j->first_t <= JUDGE_SPAN_MAX ? from : -1;
}

/* A member of an event, or null; a new reference either way */
static inline json_t *copy_of(const json_t *j, const char *key)
{
	json_t *v = json_object_get(j, key);

	return v ? json_incref(v) : json_null();
}

static inline json_t *time_or_null(nsec_t t)
{
	return t >= 0 ? json_integer(t) : json_null();
}

static inline json_t *ms_or_null(nsec_t from, nsec_t to)
{
	return from >= 0 && to >= 0 ? json_real((double)(to - from) / NSEC_PER_MSEC) : json_null();
}

static inline void set(json_t *j, const char *key, json_t *v)
{
	json_object_set_new(j, key, v ? v : json_null());
}

static inline nsec_t bucket_floor(nsec_t t)
{
	return t - t % TIMELINE_BUCKET;
}

static inline nsec_t bucket_ceil(nsec_t t)
{
	return bucket_floor(t + TIMELINE_BUCKET - 1);
}

/* Text that may have been cut in the middle of a character must not cost the whole report. */
static inline json_t *safe_string(const char *s)
{
	json_t *j = json_string(s);
	_cleanup_free_ char *ascii = j ? NULL : strdup(s);

	for (char *c = ascii; c && *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	return j ? j : json_string(ascii ? ascii : "");
}

/* A time of the run as wall time, or null */
json_t *judge_wall(const struct judgement *j, nsec_t t);

/* Above this share of lost telemetry, what rests on connections is not known. */
#define TELEMETRY_LOSS_MAX 0.001

/* ── the parts, in the order in which judge() calls them ───────────────────────────────────── */

/*
 * judge_telemetry.c. Is what the telemetry says of [@t0, @t1) too incomplete to rest on? Over the whole run, or just there. *ret_lost: how
 * many events are missing there, *ret_of: of how many.
 */
bool judge_lossy(const struct judgement *j, nsec_t t0, nsec_t t1, uint64_t *ret_lost, uint64_t *ret_of);
/* From a source's last word */
void judge_collect_telemetry(struct judgement *j, const char *source, const json_t *summary);
json_t *judge_telemetry(const struct judgement *j);
json_t *judge_traffic(const struct judgement *j);

int judge_recover(struct judgement *j); /* judge_recovery.c: j->recovery, rto */
void judge_checks(struct judgement *j); /* judge_checks.c: j->checks, steady_before, settled */

/* judge_sections.c */
json_t *judge_run(const struct judgement *j, const json_t *plan);
json_t *judge_residue(const struct judgement *j);
json_t *judge_waived(const struct judgement *j);
json_t *judge_faults(const struct judgement *j);
json_t *judge_services(const struct judgement *j);
json_t *judge_ledger(const struct judgement *j); /* of all ledgers together */
int judge_load(const struct judgement *j, json_t **ret);
