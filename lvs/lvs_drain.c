/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * lvs.drain: a real server taken out of service the gentle way: weight 0, so that no new connection comes to it, and a wait for those
 * that are there to end, `within` at most. How many were left is the measure: nothing is cut off.
 *
 * ActiveConn in direct routing counts what the director believes from the client's packets alone: a connection that its client has
 * closed is inactive at once, one whose client has vanished stays for 15 minutes.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/units.h"
#include "lvs/weights.h"

#define LOOK_MS 100

static const struct param params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "the real server"},
	{.name = "within", .type = PARAM_DURATION, .deflt = "10s", .max = 600e9, .help = "how long its connections may take to end"},
	{.name = "service", .type = PARAM_SERVICE, .help = "when it serves several"},
	{.name = "director", .type = PARAM_NODE, .help = "in whose table; default: the service's first"},
	PARAM_END,
};

static int resolve(const struct site *site, json_t *args, struct err *err)
{
	return weights_resolve(site, args, "lvs.drain", 0, err);
}

/* The kernel announces no connection's end: it is asked. */
static int apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	nsec_t deadline = now_ns() + json_integer_value(json_object_get(args, "within"));
	unsigned int active;
	int r = weights_apply(n, args, prior, err);

	while (r == 0) {
		r = weights_active(n, args, &active, err);
		if (r < 0 || active == 0 || now_ns() >= deadline)
			break;
		(void)poll(NULL, 0, LOOK_MS);
	}
	return r;
}

static int measure(const struct node *n, const json_t *args, const json_t *prior _unused_, json_t **ret_evidence, struct err *err)
{
	const char *server = json_string_value(json_object_get(args, "server"));
	_cleanup_free_ char *line = NULL;
	unsigned int active;
	int r = weights_active(n, args, &active, err);

	if (r < 0)
		return r;
	line = strf("%s: %u connections left", server ? server : "?", active);
	*ret_evidence = json_pack("{s:{s:O}, s:{s:I}, s:b, s:s}", "asked", "within_ns", json_object_get(args, "within"), "measured",
		"active", (json_int_t)active, "proved", active == 0, "text", line ? line : "");
	return *ret_evidence ? 0 : -ENOMEM;
}

const struct change_ops change_lvs_drain = {
	.name = "lvs.drain",
	.summary = "A real server gets no new connection, and those it has are waited for",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "{\"node\": \"peer\", \"service\": \"web\", \"within\": \"1s\"}",
	.resolve = resolve,
	.supported = weights_supported,
	.capture = weights_capture,
	.apply = apply,
	.undo = weights_undo,
	.verify = weights_verify,
	.measure = measure,
	.command = weights_command,
};
