/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * guard.h: the supervisor: parent of the engine and the script, owner of the journal's lock. No Lua, no BPF, no load.
 *
 * It waits for four things: the engine's death (pidfd), its silence (no heartbeat for GUARD_HANG), the deadline, and
 * somebody who wants an end (SIGTERM with a reason in the file HALT_REASON, or the death of the command that started
 * it). Then the host is restored: by the engine, which is asked first and has GUARD_GRACE for it; by the guard itself,
 * from the journal, when the engine is dead or does not answer. Who covers whom:
 *
 *	engine dead, hung, stopped, spinning	the guard kills what is left of it and undoes
 *	engine out of memory			the kernel takes it before the guard (oom_score_adj), and then the same
 *	engine not to be killed			the guard says so, undoes, and calls it residue; the locks stay the engine's
 *	guard dead				the engine halts and undoes by itself
 *	guard stopped				the engine makes no change (RUN_INTENT_PATIENCE), halts after GUARD_HANG, undoes by itself
 *						and continues the guard, which has the locks to let go. A guard that is traced
 *						stays where it is, and the command with it
 *	both dead				the journal is hot: the next `muster run` refuses, `muster restore` and the boot undo
 *	both stopped				nobody undoes until one of them is continued, or both are killed
 */
#pragma once

#include "engine/run.h"

#define GUARD_HANG  RUN_SILENCE
#define GUARD_DIES  (10 * NSEC_PER_SEC) /* from SIGKILL to the death of the engine's last thread */
#define GUARD_GRACE (60 * NSEC_PER_SEC) /* for the engine to undo after a halt */
#define GUARD_LAB   (180 * NSEC_PER_SEC) /* to build the lab; the scenario's deadline runs from then on */

/* 0: the default above */
struct guard_times {
	nsec_t hang, grace, dies;
};

struct guard_opts {
	const struct plan *plan;
	const char *id, *dir, *lab;
	int (*bind)(struct site *s, struct err *err);
	script_spawn_fn spawn;
	int event_fd;  /* the live view's; the guard and the engine hold it, and its end of file means that both are gone */
	const json_t *mgmt; /* run.h */
	int parent_fd; /* pidfd of the command that waits for the guard; -1: nobody does */
	struct guard_times times;
	int (*engine)(const struct run_opts *o); /* in a process of its own; NULL: run_engine() */
};

/*
 * Runs the drill from beginning to end; returns 0 when the host is restored and the journal is gone, EXIT_RESIDUE when
 * not, EXIT_REFUSED (text in @err) when it did not begin. Called in a process of its own, made for it.
 */
int guard_run(const struct guard_opts *o, struct err *err);

/*
 * The one drill of this host: takes /run/muster/lock, which then says who holds it. -EBUSY names the run that does. Who
 * only looks at it is waited for, a second at most. Closed: released. A drill in the microVM changes nothing here, but
 * two at a time would measure each other.
 */
int guard_lock_host(const char *run_id, const char *dir, int *ret_fd, struct err *err);

/* Who holds the lock: the run, the process to send SIGTERM to, the run's folder. Returns 1, 0 when nobody does, or -errno. */
struct lock_holder {
	char run_id[160];
	pid_t pid;
	char dir[4096];
};
int guard_lock_holder(struct lock_holder *ret);

/* What `muster halt` leaves for the guard, before its SIGTERM: in the run's folder, which the microVM sees too. */
#define HALT_REASON "halt"
