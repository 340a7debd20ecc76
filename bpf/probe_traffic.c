/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What can be asked about a service's connections, as the kernel saw them: how many were accepted, by whom, how many failed or were
 * reset, how long a handshake took and how long the round trip was.
 *
 * Counts come from the series, to the bucket. Latencies come from histograms that are read once a second (EV_LATENCY), so a window's
 * quantile is over those readings that lie in it as a whole: ask for windows of two seconds and more. A quantile is the middle of a
 * bucket of hist.h, within 0.4 %.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"
#include "engine/units.h"

static const char *arg(const json_t *args, const char *name)
{
	return json_string_value(json_object_get(args, name));
}

/* Of that service; @server NULL: of all its servers and clients. False: nobody was watching then, or nothing happened */
static bool collect(const struct timeline *tl, const json_t *args, const char *server, nsec_t t0, nsec_t t1, struct tl_conn *ret)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(tl, &c);
	bool any = false;

	*ret = (struct tl_conn){0};
	for (size_t i = timeline_seek(c, n, sizeof(*c), t0); i < n && c[i].t + TIMELINE_BUCKET <= t1; i++) {
		if (!streq(c[i].service, arg(args, "service")) || (server && !streq(c[i].server, server)))
			continue;
		any = true;
		ret->established += c[i].established;
		ret->closed += c[i].closed;
		ret->failed += c[i].failed;
		ret->resets += c[i].resets;
		ret->retransmits += c[i].retransmits;
	}
	return any;
}

/* Was telemetry running, and was this service among what it watches? Only then is nothing a number. */
static bool watched(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t1, struct sample *ret)
{
	const char *service = arg(args, "service");
	const struct service *s = site && service ? site_service(site, service) : NULL;
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);

	for (size_t i = 0; i < n && e[i].t < t1; i++)
		if (streq(e[i].kind, EV_SOURCE) && streq(json_string_value(json_object_get(e[i].data, "source_kind")), "telemetry") &&
			streq(json_string_value(json_object_get(e[i].data, "state")), "started")) {
			if (!s || !streq(s->forward, "nat"))
				return true;
			snprintf(ret->text, sizeof(ret->text), "%.60s is forwarded by NAT: its connections cannot be told from checks",
				service);
			return false;
		}
	snprintf(ret->text, sizeof(ret->text), "no telemetry was running");
	return false;
}

static void exactly(struct sample *s, double v, uint64_t n)
{
	s->have = true;
	s->value = s->lo = s->hi = v;
	s->n = n;
}

/* As long as the buckets that lie inside */
static double seconds(nsec_t t0, nsec_t t1)
{
	nsec_t from = (t0 + TIMELINE_BUCKET - 1) / TIMELINE_BUCKET * TIMELINE_BUCKET, to = t1 / TIMELINE_BUCKET * TIMELINE_BUCKET;

	return (double)(to - from) / NSEC_PER_SEC;
}

static int eval_accepted(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	const char *server = arg(args, "server");
	struct tl_conn sum;
	struct sample s = {0};

	if (watched(tl, site, args, t1, &s) && seconds(t0, t1) > 0) {
		(void)collect(tl, args, server, t0, t1, &sum);
		exactly(&s, (double)sum.established / seconds(t0, t1), sum.established);
		snprintf(s.text, sizeof(s.text), "%llu new connections%s%.60s", (unsigned long long)sum.established, server ? " at " : "",
			server ? server : "");
	}
	*ret = s;
	return 0;
}

static int eval_connect_failed(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	struct tl_conn sum;
	struct sample s = {0};

	if (watched(tl, site, args, t1, &s)) {
		(void)collect(tl, args, NULL, t0, t1, &sum);
		if (sum.failed + sum.established)
			exactly(&s, (double)sum.failed / (double)(sum.failed + sum.established), sum.failed + sum.established);
		snprintf(s.text, sizeof(s.text), s.have ? "%llu of %llu connects failed" : "nobody tried to connect",
			(unsigned long long)sum.failed, (unsigned long long)(sum.failed + sum.established));
	}
	*ret = s;
	return 0;
}

static int eval_broken(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	const char *server = arg(args, "server");
	struct tl_conn sum;
	struct sample s = {0};

	if (watched(tl, site, args, t1, &s)) {
		(void)collect(tl, args, server ? server : "", t0, t1, &sum);
		if (!server) {
			/* the clients' resets, of all that their servers have closed */
			uint64_t resets = sum.resets;

			(void)collect(tl, args, NULL, t0, t1, &sum);
			sum.resets = resets;
		}
		if (sum.closed)
			exactly(&s, fmin((double)sum.resets / (double)sum.closed, 1), sum.closed);
		snprintf(s.text, sizeof(s.text), s.have ? "%llu of %llu connections ended by a reset or in silence" : "no connection ended",
			(unsigned long long)sum.resets, (unsigned long long)sum.closed);
	}
	*ret = s;
	return 0;
}

static int eval_retransmits(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	struct tl_conn sum;
	struct sample s = {0};

	if (watched(tl, site, args, t1, &s) && seconds(t0, t1) > 0) {
		(void)collect(tl, args, arg(args, "server"), t0, t1, &sum);
		exactly(&s, (double)sum.retransmits / seconds(t0, t1), sum.retransmits);
		snprintf(s.text, sizeof(s.text), "%llu segments sent again", (unsigned long long)sum.retransmits);
	}
	*ret = s;
	return 0;
}

/* ── latencies ─────────────────────────────────────────────────────────────────────────────── */

static int quantile(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1, const char *server,
	const char *what, double q, struct sample *ret)
{
	_cleanup_free_ struct hist *h = calloc(1, sizeof(*h));
	const struct tl_event *e;
	struct sample s = {0};
	const char *thing = streq(what, "response") ? "answer" : "connection";
	size_t n = timeline_events(tl, &e);
	uint64_t v;

	if (!h)
		return -ENOMEM;
	for (size_t i = timeline_seek(e, n, sizeof(*e), t0); i < n && e[i].t <= t1; i++) {
		struct hist_sparse part;

		if (!streq(e[i].kind, EV_LATENCY) || json_integer_value(json_object_get(e[i].data, "since")) < t0 ||
			!streq(json_string_value(json_object_get(e[i].data, "service")), arg(args, "service")) ||
			(server && !streq(json_string_value(json_object_get(e[i].data, "server")), server)) ||
			hist_sparse_from_json(json_object_get(e[i].data, what), &part) < 0)
			continue;
		hist_add_sparse(h, &part);
		hist_sparse_free(&part);
	}
	if (watched(tl, site, args, t1, &s)) {
		char buf[UNITS_FMT_MAX];

		if (hist_quantile(h, q, &v) == 0) {
			exactly(&s, (double)v, h->n);
			snprintf(s.text, sizeof(s.text), "%s, of %llu %ss", units_fmt_duration(buf, sizeof(buf), (nsec_t)v),
				(unsigned long long)h->n, thing);
		} else {
			snprintf(s.text, sizeof(s.text), "no %s in a whole reading (one a second)", thing);
		}
	}
	*ret = s;
	return 0;
}

#define QUANTILE(name, server, what, q)                                                                                \
	static int eval_##name(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0,      \
		nsec_t t1, struct sample *ret, struct err *err)                                                        \
	{                                                                                                              \
		(void)err;                                                                                             \
		return quantile(tl, site, args, t0, t1, server, what, q, ret);                                         \
	}
QUANTILE(connect_p50, "", "connect", 0.5)
QUANTILE(connect_p99, "", "connect", 0.99)
QUANTILE(round_trip_p50, arg(args, "server"), "srtt", 0.5)
QUANTILE(round_trip_p99, arg(args, "server"), "srtt", 0.99)
QUANTILE(lifetime_p50, arg(args, "server"), "lifetime", 0.5)
QUANTILE(response_p50, arg(args, "server"), "response", 0.5)
QUANTILE(response_p99, arg(args, "server"), "response", 0.99)

/* ── the map ───────────────────────────────────────────────────────────────────────────────── */

/* Bytes a second that one node has had from, or sent to, others of the site; told when their connections end */
static int eval_bytes(const struct timeline *tl, const json_t *args, nsec_t t0, nsec_t t1, const char *what, struct sample *ret)
{
	const char *node = arg(args, "node"), *peer = arg(args, "peer");
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);
	double sum = 0;
	nsec_t from = -1, to = -1;
	struct sample s = {0};
	uint64_t ends = 0;

	for (size_t i = timeline_seek(e, n, sizeof(*e), t0); i < n && e[i].t <= t1; i++) {
		nsec_t since = json_integer_value(json_object_get(e[i].data, "since"));

		if (!streq(e[i].kind, EV_TRAFFIC) || since < t0)
			continue;
		from = from < 0 ? since : MIN(from, since);
		to = MAX(to, e[i].t);
		if (!streq(json_string_value(json_object_get(e[i].data, "node")), node) ||
			(peer && !streq(json_string_value(json_object_get(e[i].data, "peer")), peer)))
			continue;
		sum += (double)json_integer_value(json_object_get(e[i].data, what));
		ends++;
	}
	if (from >= 0 && to > from) {
		exactly(&s, sum * NSEC_PER_SEC / (double)(to - from), ends);
		snprintf(s.text, sizeof(s.text), "%.0f bytes in %.1f s", sum, (double)(to - from) / NSEC_PER_SEC);
	} else {
		snprintf(s.text, sizeof(s.text), "no whole reading (one a second) of any traffic");
	}
	*ret = s;
	return 0;
}

static int eval_bytes_in(const struct timeline *tl, const struct site *site _unused_, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	return eval_bytes(tl, args, t0, t1, "bytes_in", ret);
}

static int eval_bytes_out(const struct timeline *tl, const struct site *site _unused_, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	return eval_bytes(tl, args, t0, t1, "bytes_out", ret);
}

static const struct param no_params[] = {PARAM_END};
static const struct param server_param[] = {
	{.name = "server", .type = PARAM_NODE, .help = "of this real server alone"},
	PARAM_END,
};
static const struct param peer_param[] = {
	{.name = "peer", .type = PARAM_NODE, .help = "with this node alone"},
	PARAM_END,
};

const struct probe_ops probe_traffic[] = {
	{.subject = "service", .name = "accepted", .summary = "new connections a second, as the real servers' kernels accepted them",
		.unit = UNIT_RATE, .window = NSEC_PER_SEC, .params = server_param, .eval = eval_accepted},
	{.subject = "service", .name = "connect_failed", .summary = "share of the connects that were refused, timed out or given up",
		.unit = UNIT_RATIO, .window = NSEC_PER_SEC, .params = no_params, .eval = eval_connect_failed},
	{.subject = "service", .name = "broken", .summary = "share of the connections that ended by the peer's reset or in silence",
		.unit = UNIT_RATIO, .window = NSEC_PER_SEC, .params = server_param, .eval = eval_broken},
	{.subject = "service", .name = "retransmits", .summary = "segments sent again, per second", .unit = UNIT_RATE,
		.window = NSEC_PER_SEC, .params = server_param, .eval = eval_retransmits},
	{.subject = "service", .name = "connect_p50", .summary = "half of the handshakes took no longer, as the clients' kernels saw them",
		.unit = UNIT_TIME, .window = 3 * NSEC_PER_SEC, .params = no_params, .eval = eval_connect_p50},
	{.subject = "service", .name = "connect_p99", .summary = "99 % of the handshakes took no longer, as the clients' kernels saw them",
		.unit = UNIT_TIME, .window = 3 * NSEC_PER_SEC, .params = no_params, .eval = eval_connect_p99},
	{.subject = "service", .name = "round_trip_p50", .summary = "the smoothed round trip that half of the connections ended with, or less",
		.unit = UNIT_TIME, .window = 3 * NSEC_PER_SEC, .params = server_param, .eval = eval_round_trip_p50},
	{.subject = "service", .name = "round_trip_p99", .summary = "the smoothed round trip that 99 % of the connections ended with, or less",
		.unit = UNIT_TIME, .window = 3 * NSEC_PER_SEC, .params = server_param, .eval = eval_round_trip_p99},
	{.subject = "service", .name = "lifetime_p50", .summary = "half of the connections that ended had lasted no longer",
		.unit = UNIT_TIME, .window = 3 * NSEC_PER_SEC, .params = server_param, .eval = eval_lifetime_p50},
	{.subject = "service", .name = "response_p50",
		.summary = "half of the answers began no later after the request's first bytes had come, as the servers' kernels saw them",
		.unit = UNIT_TIME, .window = 3 * NSEC_PER_SEC, .params = server_param, .source = "response", .eval = eval_response_p50},
	{.subject = "service", .name = "response_p99",
		.summary = "99 % of the answers began no later after the request's first bytes had come, as the servers' kernels saw them",
		.unit = UNIT_TIME, .window = 3 * NSEC_PER_SEC, .params = server_param, .source = "response", .eval = eval_response_p99},
	{.subject = "node", .name = "bytes_in", .summary = "bytes a second that came to the node, of connections that ended",
		.unit = UNIT_RATE, .window = 3 * NSEC_PER_SEC, .params = peer_param, .eval = eval_bytes_in},
	{.subject = "node", .name = "bytes_out", .summary = "bytes a second that the node sent, of connections that ended",
		.unit = UNIT_RATE, .window = 3 * NSEC_PER_SEC, .params = peer_param, .eval = eval_bytes_out},
	{.name = NULL},
};
