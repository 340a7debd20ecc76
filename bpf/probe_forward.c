/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is still sent to a node, looked at from outside it: is a lost one left in peace?
 *
 * Behind a director it is the director who sends: packets and new connections, in buckets of time (source_forward.c). To a node's own
 * addresses it is the site's other nodes: the connects they begin, from the telemetry's counts, which are read once a second (EV_TRAFFIC),
 * so over those readings that lie in the window as a whole: ask for windows of two seconds and more.
 */
#include <stdio.h>
#include <string.h>

#include "bpf/meter.h"
#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"

#define SOURCE "forward"

static const char *text_of(const json_t *j, const char *name)
{
	return json_string_value(json_object_get(j, name));
}

/* ── by way of a director ──────────────────────────────────────────────────────────────────── */

static bool is_asked_for(const json_t *event, const void *arg)
{
	const json_t *args = arg;
	const char *server = text_of(args, "server");

	return streq(text_of(event, "service"), text_of(args, "service")) && (!server || streq(text_of(event, "server"), server));
}

static int eval_sent(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1, const char *field,
	const char *what, struct sample *ret, struct err *err)
{
	const char *server = text_of(args, "server"), *why;
	struct sample s = {0};
	uint64_t lo, hi;
	const struct service *service = probe_service_of(site, args, err);

	if (!service || (server && probe_server_of(service, args, err) < 0))
		return -EINVAL;
	if (!meters_count(tl, SOURCE, EV_FORWARDED, field, is_asked_for, args, t0, t1, &lo, &hi, &why))
		snprintf(s.text, sizeof(s.text), "%s", why);
	else if (meters_rate(lo, hi, t0, t1, &s))
		snprintf(s.text, sizeof(s.text), "%llu %s sent to %.60s in %.3g s", (unsigned long long)hi, what, server ? server : "its servers",
			(double)(t1 - t0) / NSEC_PER_SEC);
	*ret = s;
	return 0;
}

static int eval_forwarded(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1, struct sample *ret,
	struct err *err)
{
	return eval_sent(tl, site, args, t0, t1, "packets", "packets", ret, err);
}

static int eval_scheduled(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1, struct sample *ret,
	struct err *err)
{
	return eval_sent(tl, site, args, t0, t1, "connections", "new connections", ret, err);
}

/* ── to its own addresses ──────────────────────────────────────────────────────────────────── */

/*
 * Over the readings that lie in the window as a whole. That one was made is known from what it told, of anybody; where nobody talks to
 * anybody there is no data.
 */
static int eval_attempts(const struct timeline *tl, const struct site *site _unused_, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	const char *node = text_of(args, "node"), *from = text_of(args, "from");
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);
	nsec_t first = -1, last = -1;
	uint64_t opened = 0;
	struct sample s = {0};

	for (size_t i = timeline_seek(e, n, sizeof(*e), t0); i < n && e[i].t <= t1; i++) {
		const json_t *d = e[i].data;
		nsec_t since = json_integer_value(json_object_get(d, "since"));

		if (!streq(e[i].kind, EV_TRAFFIC) || since < t0)
			continue;
		first = first < 0 ? since : MIN(first, since);
		last = MAX(last, e[i].t);
		if (streq(text_of(d, "role"), "active") && streq(text_of(d, "peer"), node) && !streq(text_of(d, "node"), node) &&
			(!from || streq(text_of(d, "node"), from)))
			opened += (uint64_t)MAX(json_integer_value(json_object_get(d, "opened")), (json_int_t)0);
	}
	if (first >= 0 && last > first) {
		double seconds = (double)(last - first) / NSEC_PER_SEC;

		s = (struct sample){.have = true, .n = opened};
		s.value = s.lo = s.hi = (double)opened / seconds;
		snprintf(s.text, sizeof(s.text), "%llu connects to %.60s in %.1f s", (unsigned long long)opened, node, seconds);
	} else {
		snprintf(s.text, sizeof(s.text), "no whole reading (one a second) of any traffic");
	}
	*ret = s;
	return 0;
}

static const struct param server_param[] = {
	{.name = "server", .type = PARAM_NODE, .help = "to this real server alone; default: to all"},
	PARAM_END,
};
static const struct param from_param[] = {
	{.name = "from", .type = PARAM_NODE, .help = "by this node alone; default: by all others"},
	PARAM_END,
};

const struct probe_ops probe_forward[] = {
	{.subject = "service", .name = "forwarded",
		.summary = "Packets a second that the directors still send to a server, whether it is there or not; counted by eBPF as IPVS sends them",
		.unit = UNIT_RATE, .window = NSEC_PER_SEC, .params = server_param, .source = SOURCE, .eval = eval_forwarded},
	{.subject = "service", .name = "scheduled",
		.summary = "New connections a second that the directors still send to a server, whether it is there or not; counted by eBPF as IPVS "
			   "sends their first packet",
		.unit = UNIT_RATE, .window = NSEC_PER_SEC, .params = server_param, .source = SOURCE, .eval = eval_scheduled},
	{.subject = "node", .name = "attempts",
		.summary = "Connects a second that the site's other nodes begin to the node's own addresses, answered or not; from their kernels, "
			   "read once a second",
		.unit = UNIT_RATE, .window = 3 * NSEC_PER_SEC, .params = from_param, .source = "conn", .eval = eval_attempts},
	{.name = NULL},
};
