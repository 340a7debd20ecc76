/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * lvs.set_weight: the weight that a director gives a real server, at all virtual addresses of its service. A health checker that owns
 * the table writes its own weight at its next event; that is kept, and is a conflict when this is undone.
 */
#include <string.h>

#include "lvs/weights.h"

static const struct param params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "the real server"},
	{.name = "weight", .type = PARAM_INT, .min = 0, .max = 65535, .required = true, .help = "0: no new connections"},
	{.name = "service", .type = PARAM_SERVICE, .help = "when it serves several"},
	{.name = "director", .type = PARAM_NODE, .help = "in whose table; default: the service's first"},
	PARAM_END,
};

static int resolve(const struct site *site, json_t *args, struct err *err)
{
	return weights_resolve(site, args, "lvs.set_weight", json_integer_value(json_object_get(args, "weight")), err);
}

const struct change_ops change_lvs_set_weight = {
	.name = "lvs.set_weight",
	.summary = "The weight that a director gives a real server",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "{\"node\": \"peer\", \"service\": \"web\", \"weight\": 7}",
	.resolve = resolve,
	.supported = weights_supported,
	.capture = weights_capture,
	.apply = weights_apply,
	.undo = weights_undo,
	.verify = weights_verify,
	.command = weights_command,
};
