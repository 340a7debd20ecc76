/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * probe.h: a probe answers one question about a stretch of the timeline: a sample, or "no data".
 *
 * Probes are pure functions over the timeline, so a stored run can be judged again. What has to be
 * read from the world while the drill runs is read by a source (source.h), which writes it to the timeline.
 *
 * A file called probe_NAME.c in any room ends in a table, and the build collects them:
 *
 *	const struct probe_ops probe_NAME[] = { { .subject = "load", .name = "error_ratio", ... }, { 0 } };
 *
 * From the tables come the Lua methods: subject "load" gives client:error_ratio(), "service" web:balance(),
 * web:weight "rs2" (the first parameter is positional), and "" gives muster.probe.NAME.
 */
#pragma once

#include "engine/param.h"
#include "engine/site.h"
#include "engine/timeline.h"

struct sample {
	bool have;	/* false: no data, and nothing below means anything */
	double value;	/* in the probe's unit; ratios 0..1, times in ns */
	double lo, hi;	/* what the value may be, given the data; lo == hi == value when exact */
	uint64_t n;	/* observations behind it */
	json_t *detail; /* borrowed by nobody: the caller decrefs; may be NULL */
	char text[192]; /* evidence for a person: "rs1 23.2 % (want 23.1 %), ..."; may be empty */
};

enum probe_unit { UNIT_NONE, UNIT_RATIO, UNIT_TIME, UNIT_RATE };

struct probe_ops {
	const char *subject;	     /* "load", "service", "node" or "" */
	const char *name;	     /* "error_ratio" */
	const char *summary;
	enum probe_unit unit;
	nsec_t window;		     /* the default length of what is looked at; 0: the instant at the end */
	const struct param *params;  /* beside the subject's own name, which is args[subject] */
	const char *source;	     /* the source that has to be asked for it (source_ctx.asked); NULL: those that run anyway do */
	/*
	 * Evaluates over [t0, t1). Timeline is locked by the caller. A value that is not known to one side of a bound comes
	 * out as lo < bound < hi, which makes a predicate unknown. 0, or -errno for "cannot be asked" (with @err).
	 */
	int (*eval)(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1,
		struct sample *ret, struct err *err);
};

extern const struct probe_ops *const probe_table[]; /* each entry one table that ends in an entry without a name */
const struct probe_ops *probe_find(const char *subject, const char *name);

/* The service that args["service"] names. NULL: the site has none called so (@err: -EINVAL) */
const struct service *probe_service_of(const struct site *site, const json_t *args, struct err *err);
/* Index of args["server"] in it, or -EINVAL: a node of the site need not be a server of this service. */
int probe_server_of(const struct service *s, const json_t *args, struct err *err);
