/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * predicate.h: probe + bound + duration. Three-valued, because "no" and "I could not tell" are different news.
 *
 * As data, which is how it crosses from the script:
 *
 *	{ "probe": "load.error_ratio", "args": {"load": "client"}, "op": "below", "bound": 0.001,
 *	  "over_ns": 1000000000, "lasting_ns": 0, "text": "client:error_ratio() below 0.1%" }
 *
 * op: below, above (strict), at_most, at_least, equals, within (balance: every share within `bound` of what is expected:
 * the probe's value is the largest deviation, so `within` reads as at_most). "over_ns" absent: the probe's own window.
 */
#pragma once

#include "engine/probe.h"

enum tri { TRI_FALSE, TRI_TRUE, TRI_UNKNOWN };
extern const char *const tri_names[]; /* "false" "true" "unknown" */
enum tri tri_and(enum tri a, enum tri b); /* false > unknown > true */

enum predicate_op { OP_BELOW, OP_ABOVE, OP_AT_MOST, OP_AT_LEAST, OP_EQUALS, OP_WITHIN, OP_COUNT };
extern const char *const predicate_op_names[OP_COUNT + 1];

struct predicate {
	const struct probe_ops *probe;
	json_t *args;
	enum predicate_op op;
	double bound;
	nsec_t over;	/* -1: the probe's own window */
	nsec_t lasting; /* stop conditions: must hold this long; else 0 */
	char *text;
};

/* By its name in a predicate: "load.p99" is probe "p99" of subject "load"; without a dot the subject is "". NULL: not known */
const struct probe_ops *predicate_probe(const char *name);

/* Checks the probe's name, its arguments and the names in them against @site. */
int predicate_from_json(const json_t *j, const struct site *site, struct predicate **ret, struct err *err);
void predicate_free(struct predicate *p);

/* What one sample says about the bound: an interval that lies on both sides of it, or no data, is unknown. */
enum tri predicate_test(const struct predicate *p, const struct sample *s);

/*
 * Evaluates over [t0, t1) as given, whatever the predicate's own window. A probe that cannot be asked is unknown, with the
 * reason in @err (may be NULL) and in the sample's text. The caller decrefs ret_sample->detail. Takes the timeline's lock.
 */
enum tri predicate_eval(const struct predicate *p, const struct timeline *tl, const struct site *site, nsec_t t0,
	nsec_t t1, struct sample *ret_sample, struct err *err);

/*
 * The ways a predicate is used. All look at complete data only (up to @complete, timeline_complete()), and may be called
 * again as data arrive: they answer UNKNOWN with `done` false while it is not decided. Called again with the same finding
 * they go on where they stopped; a fresh one ({0}, or after finding_clear) starts over. All take the timeline's lock.
 *
 * Windows start at multiples of TIMELINE_BUCKET, because that is what the series are made of, and slide by one; what does
 * not fit between two multiples is looked at in the whole buckets that do. An instantaneous probe is looked at at the
 * start, at each multiple, and at the end.
 */
struct finding {
	enum tri status;
	bool done;	/* decided, or out of time */
	nsec_t at;	/* eventually: when it came true; always: when it first broke; steady: start of the first good window;
			   stop: when it had lasted long enough */
	nsec_t from, to; /* the window that decided */
	struct sample sample; /* of that window; always, when it held: of the worst; steady: of the predicate that decided */
	size_t decided_by;    /* steady: index of that predicate */
	struct {
		uint64_t key; /* what was asked; anything else starts over */
		nsec_t at, run;
		enum tri seen;
	} resume;
};
void finding_clear(struct finding *f);

/*
 * Comes true at some time in [from, from + within]? Instantaneous probes: the value at each step; others: their window ending
 * there, begun no earlier than @from. FALSE only if it was false throughout.
 */
void predicate_eventually(const struct predicate *p, const struct timeline *tl, const struct site *site, nsec_t from,
	nsec_t within, nsec_t complete, struct finding *ret);

/* Holds for every window inside [from, from + during]? */
void predicate_always(const struct predicate *p, const struct timeline *tl, const struct site *site, nsec_t from,
	nsec_t during, nsec_t complete, struct finding *ret);

/*
 * The first @settle-long window at or after @from and ending by @until in which all hold: windowed probes over the whole of
 * it, instantaneous ones at its start and end. Out of time it is what the last window said: FALSE or UNKNOWN.
 */
void predicate_steady(struct predicate *const *ps, size_t n, const struct timeline *tl, const struct site *site,
	nsec_t from, nsec_t until, nsec_t settle, nsec_t complete, struct finding *ret);

/* All of @ps in the one window [t0, t1), as predicate_steady() looks at it. */
enum tri predicate_steady_at(struct predicate *const *ps, size_t n, const struct timeline *tl, const struct site *site,
	nsec_t t0, nsec_t t1, size_t *ret_decided_by, struct sample *ret_sample);

/*
 * A stop condition: TRUE and done once every window of a stretch of p->lasting (of one window when that is 0) at or after
 * @from was true. Never done otherwise. Not knowing does not stop a drill.
 */
void predicate_stop(const struct predicate *p, const struct timeline *tl, const struct site *site, nsec_t from,
	nsec_t complete, struct finding *ret);
