/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fault.node_loss: a node goes away: silently, by a cut cable, loudly, or frozen. The four are different faults to
 * everybody around it (node_loss.h), and share one name because the question is one: what happens when the node is lost?
 */
#include <string.h>

#include "inject/node_loss.h"
#include "engine/site.h"

static const struct param params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "the node that is lost"},
	{.name = "how",
		.type = PARAM_STRING,
		.deflt = "silent",
		.values = "silent|cut|loud|frozen",
		.help = "packets dropped; link down on the switch's side; processes killed; processes stopped"},
	{.name = "ttl",
		.type = PARAM_DURATION,
		.min = 1e6,
		.max = 3600e9,
		.help = "silent: the kernel itself lets packets pass again after this"},
	{.name = "restart",
		.type = PARAM_LIST,
		.of = PARAM_STRING,
		.help = "loud: the command line, word by word, of a process that hides its own"},
	PARAM_END,
};

static int resolve(const struct site *site, json_t *args, struct err *err)
{
	const char *node = json_string_value(json_object_get(args, "node"));
	const char *how = json_string_value(json_object_get(args, "how"));

	if (json_object_get(args, "ttl") && !streq(how, "silent"))
		return err_set(err, -EINVAL, "fault.node_loss: ttl goes with how = \"silent\", not with \"%s\"", how);
	if (json_object_get(args, "restart") && !streq(how, "loud"))
		return err_set(err, -EINVAL, "fault.node_loss: restart goes with how = \"loud\", not with \"%s\"", how);
	if (!streq(how, "loud") || !site)
		return 0;
	return loss_daemons(site, node, args);
}

const struct change_ops change_fault_node_loss = {
	.name = "fault.node_loss",
	.summary = "A node goes away: its packets are dropped, its link is cut, its processes are killed or frozen",
	.kind = CHANGE_FAULT,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "[{\"node\": \"node\", \"how\": \"silent\", \"ttl\": \"1m\"}, {\"node\": \"node\", \"how\": \"cut\"},"
		   " {\"node\": \"node\", \"how\": \"loud\"}, {\"node\": \"node\", \"how\": \"frozen\"}]",
	.resolve = resolve,
	.supported = loss_supported,
	.reach = loss_reach,
	.capture = loss_capture,
	.apply = loss_apply,
	.undo = loss_undo,
	.verify = loss_verify,
	.measure = loss_measure,
	.command = loss_command,
};
