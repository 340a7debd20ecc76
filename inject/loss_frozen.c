/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Frozen: every process of the node, or those of them that listen on a port, stops where it is (freeze.h). The node's kernel goes on: it answers pings and ARP, completes
 * handshakes until the accept queues are full, and acknowledges what nobody will read. Whoever only looks whether a port
 * answers sees nothing wrong: the grey failure.
 */
#include <stdio.h>
#include <string.h>

#include "inject/freeze.h"
#include "inject/node_loss.h"

/* "port" in the arguments: only those who listen there */
static uint16_t port_of(const json_t *args)
{
	return (uint16_t)json_integer_value(json_object_get(args, "port"));
}

static int supported(const struct node *n, const json_t *args _unused_, struct err *reterr)
{
	if (!n->netns)
		return err_set(reterr, -EOPNOTSUPP, "%s: the host's own processes are not frozen: who would thaw them?",
			n->name);
	return 0;
}

static int capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	return freeze_capture(n, port_of(args), ret_prior, err);
}

static int apply(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return freeze_apply(n, prior, err);
}

static int undo(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return freeze_undo(n, prior, err);
}

static int verify(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return freeze_verify(n, prior, err);
}

static int measure(const struct node *n, const json_t *args _unused_, const json_t *prior, json_t **ret_evidence,
	struct err *err)
{
	_cleanup_strbuf_ struct strbuf names = {0};
	_cleanup_free_ char *text = NULL;
	size_t all, stopped;
	int r = freeze_count(n, prior, &all, &stopped, err);

	if (r < 0)
		return r;
	freeze_names(prior, &names);
	text = strf("%zu of %zu processes stopped: %s", stopped, all, strbuf_cstr(&names));
	*ret_evidence = json_pack("{s:{s:s}, s:{s:I, s:I}, s:o, s:s}", "asked", "how", "frozen", "measured", "processes",
		(json_int_t)all, "stopped", (json_int_t)stopped, "proved",
		all ? json_boolean(stopped == all) : json_null(), "text", text ? text : "");
	return *ret_evidence ? 0 : -ENOMEM;
}

static int command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	_cleanup_json_ json_t *planned = json_pack("{s:i}", "port", (int)port_of(args));

	if (!planned)
		return -ENOMEM;
	freeze_command(n, prior ? prior : planned, ret_apply, ret_undo);
	return 0;
}

const struct loss_ops loss_frozen = {
	.how = "frozen",
	.supported = supported,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.measure = measure,
	.command = command,
};
