/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * freeze.h: processes of a node stopped and let go on, by SIGSTOP and SIGCONT. To the rest of the world a frozen process
 * lives: its kernel answers for it, completes handshakes and acknowledges data, until the queues are full. A check that only
 * connects stays green.
 *
 * SIGSTOP and not the cgroup freezer, which would have to move the processes into a group of ours first, out of the one that
 * accounts and limits them.
 *
 * Who is frozen is said by a rule and not by a list of pids, so that a process that was forked between the capture and the
 * stop is frozen and thawed like the others: all processes of the node, or those of them that hold a TCP socket
 * listening on a port. The record names those that were stopped before, which stay stopped:
 *
 *	{ "port": 8080 or null, "stopped": [ { "pid": 12, "start": 345 } ], "running": [ { "pid", "start", "name" } ] }
 */
#pragma once

#include "engine/node.h"
#include "engine/str.h"
#include "engine/tcp_stat.h"

/* Does the process hold one of these sockets (listeners_read())? */
bool proc_listens(pid_t pid, const struct listener *l, size_t n);

/* @port 0: all of the node. -ESRCH: nobody is there to be frozen */
int freeze_capture(const struct node *n, uint16_t port, json_t **ret_prior, struct err *err);
/* Returns when each of them has stopped; -ETIMEDOUT after 5 s: one is in the kernel and does not come out. */
int freeze_apply(const struct node *n, const json_t *prior, struct err *err);
int freeze_undo(const struct node *n, const json_t *prior, struct err *err);
/* 0: nobody is frozen who was not before; 1: somebody is, text in @err */
int freeze_verify(const struct node *n, const json_t *prior, struct err *err);
/* How many there are by the rule, and how many of them are stopped now */
int freeze_count(const struct node *n, const json_t *prior, size_t *ret_all, size_t *ret_stopped, struct err *err);
/* The names of the recorded ones, "nginx (2), redis-server" */
void freeze_names(const json_t *prior, struct strbuf *b);
/* "Signal @sig (\"STOP\") to those who listen on @port", in shell words; 0: to all of the node */
void freeze_signal_words(const struct node *n, const char *sig, uint16_t port, struct strbuf *b);
/* In shell words, for plan and restore.sh */
void freeze_command(const struct node *n, const json_t *prior, struct strbuf *apply, struct strbuf *undo);
