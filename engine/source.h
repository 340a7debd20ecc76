/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * source.h: what runs during a drill and writes to the timeline: loads, samplers, telemetry.
 *
 * A file called load_NAME.c ends in `const struct source_ops load_NAME`, a file called source_NAME.c in
 * `const struct source_ops source_NAME`; the build collects them. Loads are started because the scenario declares them,
 * the others because they say they apply to the site.
 *
 * A source runs in threads of its own (started in start, joined in stop), or not at all; it never blocks the
 * caller, and it talks to the rest through the timeline alone. Its watermark (timeline.h) says up to when its data are
 * complete; a predicate is never judged past the lowest watermark.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "engine/param.h"
#include "engine/site.h"
#include "engine/timeline.h"

struct change; /* journal.h */

enum source_kind { SOURCE_LOAD, SOURCE_SAMPLER, SOURCE_TELEMETRY };

struct source_ctx {
	struct timeline *tl;
	const struct site *site;
	const char *name;   /* loads: the load's name in the scenario; else the table's name */
	const json_t *args; /* normalised */
	/* The baseline in force, for who watches it: borrowed, as they are until the source is stopped. */
	size_t n_settings;
	const struct change *const *settings;
	const atomic_bool *undoing; /* the way back has begun: what is seen from here on is ours */
	uint64_t seed;
	bool asked; /* samplers and telemetry: a check that is planned has a probe that names it; what costs something applies only then */
	const json_t *xdp_taken; /* who is asked: [{node, dev, by}], where a fault of the plan is going to put an XDP program; NULL: nowhere */
};

struct source_ops {
	const char *name; /* "http" for loads: muster.load.http; "conn", "ipvs" */
	const char *summary;
	enum source_kind kind;
	const struct param *params; /* loads only */
	/* Samplers and telemetry: 1 applies, 0 does not (nothing to look at here), -errno should but cannot, with the reason. */
	int (*applies)(const struct source_ctx *ctx, struct err *err);
	/* Starts. *ret_handle is the source's own. On failure nothing is left running. */
	int (*start)(const struct source_ctx *ctx, void **ret_handle, struct err *err);
	/*
	 * Ends it: loads send no new request, wait for those under way (at most their timeout), write the last buckets; frees
	 * the handle. *ret_summary gets totals for the report (may be left NULL).
	 */
	void (*stop)(void *handle, json_t **ret_summary);
	/* Loads: gives up what is under way at once; called before stop when the drill is halted. May be NULL. */
	void (*abort)(void *handle);
};

extern const struct source_ops *const source_table[];
const struct source_ops *source_find(enum source_kind kind, const char *name);

/* Starts a source's thread. It hears no signals: those are for the engine's main thread. */
int source_thread(pthread_t *ret, void *(*fn)(void *), void *arg, struct err *err);
