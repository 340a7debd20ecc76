/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * nl.h: all netlink goes through here. Thin over libnl-3: libnl makes messages, this sends them.
 *
 * Usage:
 *	_cleanup_nlc_ struct nlc *nl = NULL;
 *	r = nlc_open(node, NETLINK_ROUTE, &nl, err);         a socket in the node's namespace
 *	struct nl_msg *m = nlmsg_alloc_simple(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
 *	... nla_put() ...
 *	r = nlc_request(nl, m, err);                          sends, frees @m, waits for the ack
 *	r = nlc_dump(nl, m, callback, arg, err);              calls back for each valid message
 *
 * Why not nl_send_sync(): libnl maps several errnos to one (ENOENT and ESRCH both become NLE_OBJ_NOTFOUND) and
 * drops the kernel's extended-ack text, which often is the only useful explanation. Here errors are the
 * kernel's own -errno, and the text goes into @err. A dump that was interrupted by a change (NLM_F_DUMP_INTR) is
 * run again, so a callback must be ready to start over: it is told by a call with a NULL header.
 * Requests are idempotent from the caller's point of view only if the kernel's are: a lost reply is -ETIMEDOUT
 * after 5 s, and the state is then to be read, not assumed.
 */
#pragma once

#include <netlink/msg.h>

#include "engine/node.h"

struct nlc;

int nlc_open(const struct node *n, int protocol, struct nlc **ret, struct err *err);
/* In the namespace at @path (NULL: the caller's own) */
int nlc_open_netns(const char *path, int protocol, struct nlc **ret, struct err *err);
void nlc_close(struct nlc *nl);
static inline void nlc_closep(struct nlc **nl)
{
	nlc_close(*nl);
}
#define _cleanup_nlc_ _cleanup_(nlc_closep)

/* Sends @msg with NLM_F_ACK, frees it, waits for the ack. */
int nlc_request(struct nlc *nl, struct nl_msg *msg, struct err *err);

/* Sends @msg (no dump), frees it, hands each reply to @cb, then waits for the ack. */
typedef int (*nlc_cb)(struct nlmsghdr *hdr, void *arg); /* NULL header: start over; negative: abort */
int nlc_get(struct nlc *nl, struct nl_msg *msg, nlc_cb cb, void *arg, struct err *err);

/* Sends @msg with NLM_F_DUMP. */
int nlc_dump(struct nlc *nl, struct nl_msg *msg, nlc_cb cb, void *arg, struct err *err);

/* The id of a generic netlink family, loading its module if the kernel can; -ENOENT: not in this kernel. */
int nlc_genl_family(struct nlc *nl, const char *name, struct err *err);

/*
 * nf_tables: sends the @n messages in one datagram as one transaction (NFNL_MSG_BATCH_BEGIN ... END): all of them take effect or none.
 * Frees them, also on failure; a NULL among them is -ENOMEM. The first error, or 0.
 */
int nlc_nft(struct nlc *nl, struct nl_msg **msgs, size_t n, struct err *err);

/*
 * Events: joins a multicast group (RTNLGRP_LINK...), then waits until something arrives: 0, or -ETIMEDOUT at @deadline
 * (CLOCK_MONOTONIC). What arrives is dropped: it only says when to look again. Use a socket of its own, joined before the
 * first look, or an event may pass in between.
 */
int nlc_join(struct nlc *nl, int group, struct err *err);
int nlc_wait(struct nlc *nl, nsec_t deadline, struct err *err);
/* For a poll() beside other descriptors; readable when nlc_wait() would not wait */
int nlc_fd(const struct nlc *nl);

/* ifindex of @dev as this socket's namespace knows it; -ENODEV */
int nlc_ifindex(struct nlc *nl, const char *dev, struct err *err);
