/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * sandbox.h: the walls around the script process. Lua's own limits (no io, no os) are comfort; these
 * are the boundary, and they assume that the interpreter itself has been taken over.
 *
 *	sandbox_enter	right after fork(): descriptors, session, namespaces, uid, capabilities,
 *			limits, Landlock
 *	(then the interpreter is set up; nothing of the scenario's text has been looked at)
 *	sandbox_seal	seccomp: from here on, memory, the clock and one socket
 *
 * Must hold or the script does not run: descriptors closed, no capability, no_new_privs, seccomp,
 * and for root the change to nobody. Best effort, because kernels and containers differ:
 * namespaces, Landlock.
 */
#pragma once

#include <sys/types.h>

#include "engine/err.h"

#define SANDBOX_FD     3	   /* where the socket is afterwards */
#define SANDBOX_MEMORY (64u << 20) /* what Lua may hold */
#define SANDBOX_USER   65534	   /* nobody, nogroup */

#define SANDBOX_CPU_RECORD 10 /* seconds of CPU time; the wall time is the caller's to watch */
#define SANDBOX_CPU_RUN	   60

/*
 * @fd: the socket; it becomes SANDBOX_FD and every other descriptor is closed. @parent: who must be
 * alive. Only to be called in a freshly forked child.
 */
int sandbox_enter(int fd, pid_t parent, unsigned int cpu_seconds, struct err *err);
int sandbox_seal(struct err *err);

/* Tests: called in the sealed child just before the scenario is run. NULL otherwise. */
extern void (*sandbox_probe)(void);
