/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * redis_primary.h: a connection to whoever is the primary of a database, found as an application would find it: the sentinels
 * are asked, the node they name is connected to, and it must say itself that it is the primary. When the connection is
 * lost, or given up, all of that begins anew, and goes on until it succeeds. Without sentinels the nodes are tried in turn.
 *
 * Everything happens on the libuv loop and in the thread that runs it, which has to be in the network namespace that the connections
 * are to be made from.
 */
#pragma once

#include <hiredis/async.h>
#include <uv.h>

#include "engine/site.h"

struct redis_primary;

struct redis_primary_ops {
	/* Found: commands may be sent to redis_primary_context(). */
	void (*found)(void *arg);
	/* Lost; commands under way have been answered with NULL by then. @why is static. */
	void (*lost)(void *arg, const char *why);
};

int redis_primary_new(uv_loop_t *loop, const struct database *db, const struct redis_primary_ops *ops, void *arg,
	struct redis_primary **ret);
/* Ends all; the handles are closed when the loop runs on. */
void redis_primary_free(struct redis_primary *p);

/* NULL: there is none at the moment */
redisAsyncContext *redis_primary_context(const struct redis_primary *p);
const struct node *redis_primary_node(const struct redis_primary *p);
/* How often one was found */
unsigned int redis_primary_finds(const struct redis_primary *p);

/* Gives the connection up: it does not answer, or says that it is no primary any more. @why is static. */
void redis_primary_drop(struct redis_primary *p, const char *why);
