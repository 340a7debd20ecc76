/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * mgmt.h: the management path: what has to survive a drill, or nobody can end it.
 *
 * On the machine where muster runs, and in every namespace that one of its ancestors is in, these are looked for:
 *
 *	session		how the operator came in: SSH_CONNECTION or SSH_CLIENT in the environment of the command or of an ancestor (sudo
 *			takes them from the command, not from the shell it was typed in), and each established TCP connection that an
 *			ancestor holds: its sshd's, an agent's. By the device and next hop that the kernel would take to the peer now.
 *	default-route	device and next hop of each default route, IPv4 and IPv6, of any table
 *	loopback	lo, by which half of every machine talks to the other half
 *	processes	init, the ancestors of the command, and muster itself
 *
 * A device stands for those below it, too: a VLAN's or a MACVLAN's lower device in the same namespace, the ports of a bridge or of a
 * bond. Of a bridge all ports count, since which of them leads to the peer changes with every frame it learns from.
 *
 * A change says what it would disturb (change.h: reach). If that is a path, in the path's own network namespace, and not confined
 * ("to") to addresses that are none of the path's, then it is refused, unless the scenario waives it:
 * unsafe = { "management-path" }. A namespace that muster has made has none of these, whatever its devices are called; a node of the
 * site that *is* the host's namespace, under another name, has them all: it is inodes that are compared.
 *
 * The command looks, while its ancestors are still its ancestors, and hands the result on as plain data:
 *
 *	{ "paths": [ { "kind": "session", "netns": INODE, "family": 4, "devices": [ {"dev": "eth0", "ifindex": 2} ], "peers": [ "203.0.113.7" ],
 *	               "text": "the SSH session from 203.0.113.7" } ],
 *	  "processes": [ { "pid": 812, "start": 4711, "netns": INODE, "text": "sshd (process 812)" } ],
 *	  "gaps": [ "what could not be looked at" ],
 *	  "failed": [ INODE ] }
 *
 * What is not found: resolvers, and what the kernel would choose by mark, by user or by a rule that names a port; a session whose
 * every process has ended (a detached tmux) except by the environment that it left behind.
 */
#pragma once

#include "engine/change.h"

#define MGMT_WAIVER "management-path"

/*
 * Looks; changes nothing. Without root it sees less, and says so in "gaps". A namespace that could not be looked at is in "failed",
 * and no change in there is let pass.
 */
int mgmt_find(json_t **ret, struct err *err);

/*
 * Would the change hit one of the paths in @found? 0: no. 1: *ret_hit says what, as in "eth0 carries the SSH session from
 * 203.0.113.7". -errno: it could not be told, which is no leave to go ahead. A node that is not there yet has no path.
 */
int mgmt_check(const json_t *found, const struct change_ops *ops, const struct node *n, const json_t *args, char **ret_hit,
	struct err *err);

/*
 * Is any of it in a namespace that @found knows of? What is not cannot hit a path, now or later, and need not be looked at again.
 * 1, 0, -errno
 */
int mgmt_near(const json_t *found, const struct change_ops *ops, const struct node *n, const json_t *args, struct err *err);

/* The refusal that follows, with the way out. Returns -EPERM. */
int mgmt_refuse(const struct change_ops *ops, const struct node *n, const char *hit, struct err *err);

/* Does the scenario (plan.h) waive it? */
bool mgmt_waived(const json_t *scenario);

/*
 * Must this process not be killed by anybody's order? init, this process, its ancestors, what they have started of this very program,
 * and any sshd. True with *ret_why = "sshd (process 812)", to be freed; @ret_why may be NULL.
 */
bool mgmt_protected(pid_t pid, char **ret_why);

/* "/proc"; tests point it elsewhere. */
extern const char *mgmt_proc;
