/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * nl_batch.h: many netlink requests in few system calls, for tables with thousands of rows.
 *
 *	_cleanup_nl_batch_ struct nl_batch *b = NULL;
 *	r = nl_batch_open(node, NETLINK_GENERIC, &b, err);
 *	for (...)
 *		r = nl_batch_add(b, msg, err);       frees @msg; sends by itself whenever the buffer is full
 *	r = nl_batch_flush(b, err);        sends the rest; 0: all messages since the open were accepted
 *
 * A send carries up to NL_BATCH_BYTES, and only its last message asks for an acknowledgement: the kernel
 * works through a send in order, goes on after a message that failed, and reports every failure by
 * itself. One acknowledgement a message would overflow the receive buffer (ENOBUFS) and leave stale
 * answers for the next request to trip over. For the same reason a batch owns its socket, and does not
 * share one with nl.h: there, answers are matched to one outstanding request.
 *
 * A batch is not a transaction: what was accepted stays, whatever happens to its neighbours.
 */
#pragma once

#include <netlink/msg.h>

#include "engine/node.h"

#define NL_BATCH_BYTES 61440 /* of messages in one send; a message must fit */
#define NL_BATCH_MESSAGES                                                                          \
	512 /* in one send: if all fail, their reports must fit into the receive buffer */

struct nl_batch;

struct nl_batch_failure {
	uint64_t index; /* of the message, counted from 0 over the batch's life */
	int error;	/* the kernel's -errno (families may use private ones past 4095) */
};

int nl_batch_open(const struct node *n, int protocol, struct nl_batch **ret, struct err *err);
void nl_batch_close(struct nl_batch *b);
static inline void nl_batch_closep(struct nl_batch **b)
{
	nl_batch_close(*b);
}
#define _cleanup_nl_batch_ _cleanup_(nl_batch_closep)

/*
 * Queues @msg and frees it, also on failure. Flags and type are the caller's; sequence number,
 * NLM_F_REQUEST and NLM_F_ACK are set here. 0; -EMSGSIZE; -ENOMEM; when it had to send and the socket
 * failed, that -errno. Messages that the kernel refuses do not make this fail: see nl_batch_flush().
 */
int nl_batch_add(struct nl_batch *b, struct nl_msg *msg, struct err *err);

/*
 * Sends what is queued and collects the answers. 0 when no message failed since the batch was opened,
 * else the -errno of the first one, with the kernel's text. -ENOBUFS: answers were lost; -ETIMEDOUT: none
 * came within 5 s: then the state is to be read, not assumed.
 */
int nl_batch_flush(struct nl_batch *b, struct err *err);

/*
 * Every failure since the batch was opened, in order; at most the first 4096 are kept. Borrowed until the
 * next call.
 */
size_t nl_batch_failures(const struct nl_batch *b, const struct nl_batch_failure **ret);

/*
 * Called for each failure with the whole error message (families may put more into it than an errno). May
 * be NULL.
 */
typedef void (*nl_batch_on_failure)(const struct nlmsghdr *reply, uint64_t index, void *arg);
void nl_batch_set_on_failure(struct nl_batch *b, nl_batch_on_failure fn, void *arg);
