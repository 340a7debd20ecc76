/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * node_loss.h: the ways in which a node, or one service on it, is taken away: for fault.node_loss, fault.director_loss and
 * fault.primary_loss. Each is a set of the functions that change.h describes, with the same contracts; the fault picks one
 * (loss_way).
 *
 *	silent	its packets are dropped in both directions, the carrier stays: nobody is told
 *	cut	the switch's side of its links goes down: it sees the carrier vanish
 *	loud	its processes are killed: the kernel answers for them, with FIN and RST
 *	frozen	its processes are stopped: the kernel answers for them as if they lived
 *
 * What they take from the arguments, beside "node":
 *
 *	"ttl"		silent: ns, after which the kernel lets packets pass again
 *	"keep_addrs"	silent: addresses with which the node may go on to talk; LOSS_KEEP_MAX at most
 *	"port"		loud, frozen: only the processes that listen on this TCP port, and what these have started
 *	"orderly"	loud: true: they are told to end (SIGTERM), and waited for
 *	"goes_on"	loud, with "orderly", for its command: words for a shell that succeed when who listens is not about to end
 *	"restart", "daemons"	loud: see there
 *
 * silent and cut work on the node's ports: the switch's ends of its links, outside the node, where the node's own
 * configuration is not touched. A port goes into the record as
 *
 *	{ "link": "eth0", "switch": {node.h}, "dev": "rs2", "ifindex": 5, "own": false, ... }
 *
 * with "switch" the namespace the port is in; "own": the other end is not known, and the port is the node's own device.
 */
#pragma once

#include "engine/change.h"
#include "engine/nl.h"

struct loss_ops {
	const char *how;
	int (*supported)(const struct node *n, const json_t *args, struct err *reterr);
	int (*capture)(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err);
	int (*apply)(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
	int (*undo)(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
	int (*verify)(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
	int (*measure)(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence,
		struct err *err);
	int (*command)(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
		struct strbuf *ret_undo);
};

extern const struct loss_ops loss_silent, loss_cut, loss_loud, loss_frozen;

#define LOSS_KEEP_MAX 64

/*
 * The way that @args means: its "way", which a fault's resolve may have put there, or else its "how". And the functions of that way, as
 * a fault's own; a @prior with more in it has the way's record under "loss".
 */
const struct loss_ops *loss_way(const json_t *args, struct err *err);
int loss_supported(const struct node *n, const json_t *args, struct err *reterr);
/* All of the node's links, by the switch's ends where these are known; or whoever runs there */
int loss_reach(const struct node *n, const json_t *args, json_t **ret_reach, struct err *err);
int loss_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err);
int loss_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int loss_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int loss_verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int loss_measure(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence, struct err *err);
int loss_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo);

/*
 * For a resolve: the site knows how its daemons are started, which a process that has overwritten its arguments does not tell:
 * "daemons" in @args becomes an array of the argument vectors of @node's.
 */
int loss_daemons(const struct site *site, const char *node, json_t *args);

/* A port, opened: its namespace, a socket there, and the device, which is the one that was recorded. */
struct port {
	struct node *where;
	struct nlc *nl;
	const char *link, *dev; /* borrowed from the record; dev is the name that it has now */
	int ifindex;
	bool own, renamed;
	char now[16]; /* of a renamed one */
};
void port_close(struct port *p);
#define _cleanup_port_ _cleanup_(port_close)

/*
 * The ports of @n, as an array to be completed and recorded. @allow_own: a link whose other end is unknown counts by its own end;
 * else it is refused with -EOPNOTSUPP.
 */
int ports_find(const struct node *n, bool allow_own, json_t **ret, struct err *err);

/*
 * The device that was recorded, in the namespace that was recorded, under whichever name; never another that has its name now.
 * -ESTALE: namespace or device is gone: whatever was done to it went with it. *ret is not to be copied.
 */
int port_open(const json_t *record, struct port *ret, struct err *err);

/* "tc qdisc ... dev DEV" is to be run where the port is: the prefix for the shell */
void port_command_prefix(const struct node *n, const struct node_link *l, struct strbuf *b);
