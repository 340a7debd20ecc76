/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Overflows of a node's accept queues, and how full they and the SYN queues are, from the events of source_queue.c. Overflows have two
 * witnesses: eBPF, for the service's port, and the kernel's own count, for the whole namespace. When they differ the truth lies between
 * them, and the text says both.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"

struct counts {
	bool told, ebpf;
	double overflows, kernel;
	json_int_t queued, limit;
};

static struct counts at(const struct timeline *tl, const char *node, nsec_t t)
{
	struct counts c = {0};
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);

	for (size_t i = timeline_seek(e, n, sizeof(*e), t + 1); i-- > 0;) {
		const json_t *ebpf = json_object_get(e[i].data, "overflows");

		if (!streq(e[i].kind, EV_QUEUE) || !streq(json_string_value(json_object_get(e[i].data, "node")), node))
			continue;
		c.told = true;
		c.ebpf = json_is_integer(ebpf);
		c.overflows = (double)json_integer_value(ebpf);
		c.kernel = (double)json_integer_value(json_object_get(e[i].data, "kernel"));
		c.queued = json_integer_value(json_object_get(e[i].data, "queued"));
		c.limit = json_integer_value(json_object_get(e[i].data, "limit"));
		break;
	}
	return c;
}

static int eval_overflows(const struct timeline *tl, const struct site *site _unused_, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	const char *node = json_string_value(json_object_get(args, "node"));
	struct counts a = at(tl, node, t0), b = at(tl, node, t1);
	double ebpf = b.overflows - a.overflows, kernel = b.kernel - a.kernel;

	*ret = (struct sample){0};
	if (!b.told) {
		snprintf(ret->text, sizeof(ret->text), "nobody watches the accept queues of %s", node);
		return 0;
	}
	ret->have = true;
	ret->n = 1;
	if (!b.ebpf) {
		ret->value = ret->lo = ret->hi = kernel;
		snprintf(ret->text, sizeof(ret->text), "%s: %.0f overflows by the kernel's count; eBPF does not count them here", node,
			kernel);
		return 0;
	}
	ret->value = ebpf;
	ret->lo = fmin(ebpf, kernel);
	ret->hi = fmax(ebpf, kernel);
	snprintf(ret->text, sizeof(ret->text), "%s: %.0f overflows by eBPF, %.0f by the kernel's count", node, ebpf, kernel);
	return 0;
}

static int eval_queued(const struct timeline *tl, const struct site *site _unused_, const json_t *args, nsec_t t0 _unused_,
	nsec_t t1, struct sample *ret, struct err *err _unused_)
{
	const char *node = json_string_value(json_object_get(args, "node"));
	struct counts c = at(tl, node, t1);

	*ret = (struct sample){.have = c.told, .n = 1};
	ret->value = ret->lo = ret->hi = (double)c.queued;
	if (c.told)
		snprintf(ret->text, sizeof(ret->text), "%s: %lld of %lld in the accept queue", node, (long long)c.queued,
			(long long)c.limit);
	else
		snprintf(ret->text, sizeof(ret->text), "nobody watches the accept queues of %s", node);
	return 0;
}

/* A look tells of the time since the one before, and is told only when it differs: the last one before the window still holds in it. */
static int eval_handshakes(const struct timeline *tl, const struct site *site _unused_, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err _unused_)
{
	const char *node = json_string_value(json_object_get(args, "node"));
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);
	bool told = false, seen = true;
	json_int_t most = 0;

	for (size_t i = timeline_seek(e, n, sizeof(*e), t1); i-- > 0;) {
		const json_t *h = json_object_get(e[i].data, "handshakes");

		if (!streq(e[i].kind, EV_QUEUE) || !streq(json_string_value(json_object_get(e[i].data, "node")), node))
			continue;
		told = true;
		seen = seen && json_is_integer(h);
		most = MAX(most, json_integer_value(h));
		if (e[i].t <= t0)
			break;
	}
	*ret = (struct sample){.have = told && seen, .n = 1};
	ret->value = ret->lo = ret->hi = (double)most;
	if (!told)
		snprintf(ret->text, sizeof(ret->text), "nobody watches the SYN queues of %s", node);
	else if (!seen)
		snprintf(ret->text, sizeof(ret->text), "%s: SYN queues are seen by eBPF alone, which does not see them here", node);
	else
		snprintf(ret->text, sizeof(ret->text), "%s: a SYN found at most %lld handshakes under way", node, (long long)most);
	return 0;
}

static const struct param no_params[] = {PARAM_END};

const struct probe_ops probe_queue[] = {
	{
		.subject = "node",
		.name = "overflows",
		.summary = "Connections that found a service's accept queue full",
		.window = 2 * NSEC_PER_SEC,
		.params = no_params,
		.eval = eval_overflows,
	},
	{
		.subject = "node",
		.name = "accept_queue",
		.summary = "Connections that wait in a service's accept queue now",
		.params = no_params,
		.eval = eval_queued,
	},
	{
		.subject = "node",
		.name = "syn_queue",
		.summary = "The most handshakes under way that a SYN to a service has found; by eBPF, good to 100 ms at the window's begin",
		.window = NSEC_PER_SEC,
		.params = no_params,
		.eval = eval_handshakes,
	},
	{.name = NULL},
};
