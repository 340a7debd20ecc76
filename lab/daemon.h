/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * daemon.h: the real servers and health checkers of a lab: real programs, started in a node's
 * namespace, in a session and a folder of their own, and waited for until they serve.
 *
 *	r = daemon_start(d, &run, err);           once for each
 *	r = daemon_await(runs, n, err);           for all of them together
 *	daemon_release(&run);
 *
 * A daemon is not held by anything: it outlives the process that started it, and netns_kill() ends it.
 */
#pragma once

#include "engine/str.h"
#include "lab/spec.h"

#define DAEMON_PID_FILE "muster.pid" /* "PID START\n": pid and start time, in the daemon's folder */
#define DAEMON_LOG_FILE "muster.log" /* what it wrote to stdout and stderr */

struct daemon_run {
	const struct lab_daemon *daemon;
	pid_t pid;
	int pidfd;
	bool ready;
};

/*
 * Where argv[0] is: as it stands when it holds a slash, else in PATH and the sbin folders, which a
 * user's PATH often lacks. -ENOENT with the apt line that mends it.
 */
int daemon_program(const struct lab_daemon *d, char **ret, struct err *err);

/* Makes the folder and its files, and starts the program. The namespace has to be there. */
int daemon_start(const struct lab_daemon *d, struct daemon_run *ret, struct err *err);

/*
 * Waits until each is ready, each within its own time from now on. -ECHILD: one has ended before it
 * was ready; -ETIMEDOUT; both with the end of its log.
 */
int daemon_await(struct daemon_run *runs, size_t n, struct err *err);

void daemon_release(struct daemon_run *run);

/* The pid in the folder's pid file if that process is still alive, else 0 */
pid_t daemon_pid(const struct lab_daemon *d);

/*
 * Destinations with a weight above 0 in the text of /proc/net/ip_vs. Pure.
 *	TCP  C6120064:1F90 wrr
 *	  -> C6120015:1F90      Route   3      0          0
 */
unsigned int daemon_ipvs_destinations(const char *text);
