/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What comes to a node's devices, before its network stack sees it: of a service, or all of it. From the counters of source_packets.c, which
 * says of each device whether it is counted; a node with one that is not has no data.
 */
#include <stdio.h>
#include <string.h>

#include "bpf/meter.h"
#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"

#define SOURCE "packets"

/* At @node, or at the servers of @at; of @service alone, NULL: all of it */
struct wanted {
	const char *service, *node;
	const struct service *at;
};

static const char *text_of(const json_t *j, const char *name)
{
	return json_string_value(json_object_get(j, name));
}

static bool is_there(const json_t *event, const struct wanted *w)
{
	const char *node = text_of(event, "node");

	if (w->node)
		return streq(node, w->node);
	for (size_t i = 0; w->at && i < w->at->n_servers; i++)
		if (streq(node, w->at->servers[i].node->name))
			return true;
	return false;
}

static bool is_wanted(const json_t *event, const void *arg)
{
	const struct wanted *w = arg;

	return is_there(event, w) && (!w->service || streq(text_of(event, "service"), w->service));
}

/* A device whose packets are not counted; NULL: there is none. *ret_n: those that are */
static const json_t *uncounted(const struct timeline *tl, const struct wanted *w, nsec_t t1, size_t *ret_n)
{
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);

	*ret_n = 0;
	for (size_t i = 0; i < n && e[i].t <= t1; i++) {
		if (!streq(e[i].kind, EV_PACKETS) || !is_there(e[i].data, w))
			continue;
		if (json_is_false(json_object_get(e[i].data, "counted")))
			return e[i].data;
		*ret_n += json_is_true(json_object_get(e[i].data, "counted"));
	}
	return NULL;
}

static void eval(const struct timeline *tl, const struct wanted *w, const char *field, nsec_t t0, nsec_t t1, struct sample *ret)
{
	const char *where = w->node ? w->node : "its servers", *why;
	struct sample s = {0};
	uint64_t lo, hi;
	size_t devices;
	const json_t *not_there = uncounted(tl, w, t1, &devices);

	if (not_there)
		snprintf(s.text, sizeof(s.text), "%.40s/%.16s is not counted: %.100s", text_of(not_there, "node"), text_of(not_there, "dev"),
			text_of(not_there, "why") ?: "");
	else if (!meters_count(tl, SOURCE, EV_PACKETS, field, is_wanted, w, t0, t1, &lo, &hi, &why))
		snprintf(s.text, sizeof(s.text), "%s", why);
	else if (!devices)
		snprintf(s.text, sizeof(s.text), "no device of %.60s is counted", where);
	else if (meters_rate(lo, hi, t0, t1, &s))
		snprintf(s.text, sizeof(s.text), "%llu %s%s%.60s came to %.60s in %.3g s", (unsigned long long)hi, field,
			w->service ? " for " : "", w->service ? w->service : "", where, (double)(t1 - t0) / NSEC_PER_SEC);
	*ret = s;
}

static int eval_service(const struct timeline *tl, const struct site *site, const json_t *args, const char *field, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err)
{
	const struct wanted w = {
		.service = text_of(args, "service"), .node = text_of(args, "node"), .at = probe_service_of(site, args, err)};

	if (!w.at)
		return -EINVAL;
	eval(tl, &w, field, t0, t1, ret);
	return 0;
}

static int eval_packets(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1, struct sample *ret,
	struct err *err)
{
	return eval_service(tl, site, args, "packets", t0, t1, ret, err);
}

static int eval_bytes(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1, struct sample *ret,
	struct err *err)
{
	return eval_service(tl, site, args, "bytes", t0, t1, ret, err);
}

static int eval_node_packets(const struct timeline *tl, const struct site *site _unused_, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	eval(tl, &(struct wanted){.node = text_of(args, "node")}, "packets", t0, t1, ret);
	return 0;
}

static int eval_node_bytes(const struct timeline *tl, const struct site *site _unused_, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	eval(tl, &(struct wanted){.node = text_of(args, "node")}, "bytes", t0, t1, ret);
	return 0;
}

static const struct param no_params[] = {PARAM_END};
static const struct param node_param[] = {
	{.name = "node", .type = PARAM_NODE, .help = "that came to this node; default: to its real servers together"},
	PARAM_END,
};

const struct probe_ops probe_packets[] = {
	{.subject = "service", .name = "packets",
		.summary = "Packets a second for the service that came to a node's devices, dropped there or not; counted by XDP", .unit = UNIT_RATE,
		.window = NSEC_PER_SEC, .params = node_param, .source = SOURCE, .eval = eval_packets},
	{.subject = "service", .name = "packet_bytes",
		.summary = "Bytes a second of these packets, their Ethernet headers included; counted by XDP", .unit = UNIT_RATE,
		.window = NSEC_PER_SEC, .params = node_param, .source = SOURCE, .eval = eval_bytes},
	{.subject = "node", .name = "packets",
		.summary = "Packets a second of whatever sort that came to the node's devices, dropped there or not; counted by XDP",
		.unit = UNIT_RATE, .window = NSEC_PER_SEC, .params = no_params, .source = SOURCE, .eval = eval_node_packets},
	{.subject = "node", .name = "packet_bytes",
		.summary = "Bytes a second of these packets, their Ethernet headers included; counted by XDP", .unit = UNIT_RATE,
		.window = NSEC_PER_SEC, .params = no_params, .source = SOURCE, .eval = eval_node_bytes},
	{.name = NULL},
};
