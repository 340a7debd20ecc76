/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * redis.h: Redis and its sentinels, asked one question at a time, by who is about to break them and wants to know first what
 * would become of it. Each question has a connection of its own, made inside a node, and a deadline. For the loop of a load or a
 * sampler there is load/redis_primary.h: this one blocks.
 */
#pragma once

#include <hiredis/hiredis.h>

#include "engine/clock.h"
#include "engine/node.h"

/* Where somebody listens; the text is borrowed */
struct redis_at {
	const char *addr; /* without a prefix */
	uint16_t port;
};

/*
 * Sends @command (blanks between words, none within them) from inside @from, and returns the reply: an error of Redis's own is a
 * reply as well. To be freed with freeReplyObject(). -ECONNREFUSED, -ETIMEDOUT: nobody answered until @deadline
 */
int redis_ask(const struct node *from, struct redis_at at, const char *command, nsec_t deadline, redisReply **ret,
	struct err *err);

#define REDIS_REPLICAS_MAX 8
struct redis_replication {
	bool primary;
	char upstream[64]; /* of a replica: its primary's address and port */
	uint16_t upstream_port;
	size_t n_replicas; /* that are connected, in whichever state */
	struct {
		char addr[64], state[24]; /* "online": it has all that came before, and gets what comes */
		int lag;		  /* seconds since it was last heard; -1: not yet */
	} replicas[REDIS_REPLICAS_MAX];
};

/* What INFO replication says. -EPROTO: no such answer, with what came instead in @err */
int redis_replication_parse(const char *info, struct redis_replication *ret, struct err *err);
int redis_replication(const struct node *from, struct redis_at at, nsec_t deadline, struct redis_replication *ret,
	struct err *err);

static inline void redis_reply_freep(redisReply **r)
{
	if (*r)
		freeReplyObject(*r);
}
#define _cleanup_reply_ _cleanup_(redis_reply_freep)
