/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * param.h: the one place where arguments are described, checked and explained.
 *
 * A change, a probe and a load each end in a const table of `struct param`. From that table come the
 * Lua constructor's checks, the engine's own checks of what the script sends, `muster list`, the
 * reference page and the plan text.
 *
 * param_check() takes arguments as the scenario wrote them and returns them *normalised*: durations are
 * integer nanoseconds, ratios reals 0..1, rates reals per second, sizes integer bytes; defaults are
 * filled in; optional arguments without a default that were not given are absent. It accepts its own output
 * (numbers where the scenario writes text), so the engine checks again what the script process sent.
 */
#pragma once

#include "engine/err.h"

enum param_type {
	PARAM_STRING,	/* text; `values` limits it to a choice: "silent|cut|loud" */
	PARAM_BOOL,
	PARAM_INT,	/* integer in [min, max] */
	PARAM_REAL,	/* number in [min, max] */
	PARAM_DURATION, /* "50ms"; ns; min and max are in ns */
	PARAM_RATIO,	/* "0.1%"; 0..1 */
	PARAM_RATE,	/* "300/s"; per second */
	PARAM_BYTES,	/* "64KiB" */
	PARAM_NODE,	/* a node of the site, by name */
	PARAM_SERVICE,	/* a service of the site, by name */
	PARAM_DATABASE, /* a database of the site, by name */
	PARAM_ADDR,	/* IPv4 or IPv6 address, no prefix */
	PARAM_NET,	/* address with optional /prefix */
	PARAM_URL,	/* http://HOST:PORT/PATH, HOST an address; [v6] in brackets */
	PARAM_MAP,	/* table of text keys; values of type `of` */
	PARAM_LIST,	/* array; values of type `of` */
	PARAM_TEXT,	/* text, or an integer that becomes its decimal text: values of control files */
};

struct param {
	const char *name;
	enum param_type type;
	enum param_type of; /* MAP, LIST: the type of the values */
	bool required;
	const char *deflt;  /* as a scenario would write it; NULL: none */
	const char *values; /* STRING: "a|b|c"; NULL: any */
	double min, max;    /* both 0: the type's own range */
	const char *help;   /* one line, no trailing dot */
};
#define PARAM_END                                                                                  \
	{                                                                                          \
		.name = NULL                                                                       \
	}

/* Names that exist, for NODE, SERVICE and DATABASE arguments; NULL-terminated. A null list skips the check. */
struct param_names {
	const char *const *nodes;
	const char *const *services;
	const char *const *databases;
};

/*
 * Checks @args (an object) against @table and returns a new, normalised object.
 * @who is what the error speaks of: "fault.netem".
 * -EINVAL: unknown key (the nearest right name is given), wrong type, out of range, missing.
 */
int param_check(const struct param *table, const char *who, const json_t *args,
	const struct param_names *names, json_t **ret, struct err *err);

/* "duration", "ratio", ... and for a choice its values: what `muster list` and the reference print. */
const char *param_type_name(const struct param *p);

/* A normalised value as a person would write it ("50ms", "0.1%"), for plan text; NULL without memory. */
char *param_format(const struct param *p, const json_t *value);
