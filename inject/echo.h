/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * echo.h: a few ICMP echoes from a node to a neighbour on the same link, to see with one's own eyes what a fault does.
 *
 * Bounded in number and time, small (64 bytes), and bound to one device, so that they pass the very qdisc in question.
 * Needs no daemon at the other end; a neighbour that ignores echoes is "no data", not loss.
 */
#pragma once

#include "engine/node.h"

#define ECHO_MAX	64
#define ECHO_FIND_WAIT	(1 * NSEC_PER_SEC) /* for the first answer: a busy machine may stand still for a few hundred ms */
#define ECHO_ADDR_MAX	64 /* "fe80::1%4294967295" */

struct echo_result {
	char peer[ECHO_ADDR_MAX];
	unsigned int sent, received, duplicates; /* received: different echoes that came back */
	nsec_t rtt_min, rtt_median, rtt_p90, rtt_max; /* meaningless when received is 0 */
};

/*
 * Sends @count (at most ECHO_MAX) echoes, @interval apart, from @dev of @n to @peer (IPv4 or IPv6), and waits for each until
 * @wait after the last was sent; returns as soon as all have come back. -errno when they could not be sent at all.
 */
int echo_run(const struct node *n, const char *dev, const char *peer, unsigned int count, nsec_t interval, nsec_t wait,
	struct echo_result *ret, struct err *err);

/*
 * Finds somebody on @dev's link who answers: @wanted if given; else those the neighbour table knows; else, where
 * @ask_all (a lab's own link, never a real network), whoever answers IPv6's all-nodes address.
 * -ENODATA: nobody does.
 */
int echo_find_peer(const struct node *n, const char *dev, const char *wanted, bool ask_all, char ret[ECHO_ADDR_MAX],
	struct err *err);

/* The addresses of those that the neighbour table knows on @dev's link, heard of lately first; perhaps none */
int echo_neighbours(const struct node *n, const char *dev, char (*ret)[ECHO_ADDR_MAX], size_t max, size_t *ret_n,
	struct err *err);

/* Asks the first eight of @addrs at once: who answers first? -ENODATA: nobody. A group's address ("ff02::1") finds a member. */
int echo_first(const struct node *n, const char *dev, char (*addrs)[ECHO_ADDR_MAX], size_t n_addrs, char ret[ECHO_ADDR_MAX],
	struct err *err);
