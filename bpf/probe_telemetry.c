/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What can be asked about the telemetry itself. Its source writes an event when the number of lost records has grown, at most
 * one a bucket of time; no event means that nothing was lost, provided that telemetry ran at all.
 */
#include <inttypes.h>
#include <stdio.h>

#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"

static const char *text_of(const struct tl_event *e, const char *key)
{
	return json_string_value(json_object_get(e->data, key));
}

static int eval_lost(const struct timeline *tl, const struct site *site _unused_,
	const json_t *args _unused_, nsec_t t0, nsec_t t1, struct sample *ret,
	struct err *err _unused_)
{
	uint64_t before = 0, by_end = 0;
	const struct tl_event *e;
	bool started = false;
	size_t i, n = timeline_events(tl, &e);

	*ret = (struct sample){0};
	for (i = 0; i < n && e[i].t < t1; i++) {
		if (!streq(e[i].kind, EV_SOURCE) ||
			!streq(text_of(&e[i], "source_kind"), "telemetry"))
			continue;
		if (streq(text_of(&e[i], "state"), "started")) {
			started = true;
		} else if (streq(text_of(&e[i], "state"), "lost")) {
			const json_t *summary = json_object_get(e[i].data, "summary");

			by_end = json_integer_value(json_object_get(summary, "dropped"));
			if (e[i].t < t0)
				before = by_end;
		}
	}
	if (!started) {
		snprintf(ret->text, sizeof(ret->text), "no telemetry was running");
		return 0;
	}
	ret->have = true;
	ret->n = 1;
	ret->value = ret->lo = ret->hi = (double)(by_end - before);
	snprintf(ret->text, sizeof(ret->text), "%" PRIu64 " records lost", by_end - before);
	return 0;
}

static const struct param no_params[] = {PARAM_END};

const struct probe_ops probe_telemetry[] = {
	{
		.subject = "",
		.name = "telemetry_lost",
		.summary = "records of connections that did not reach the timeline",
		.unit = UNIT_NONE,
		.window = NSEC_PER_SEC,
		.params = no_params,
		.eval = eval_lost,
	},
	{0},
};
