/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * run.h: the engine process: it makes the changes, drives load and probes, serves the script, keeps the timeline, and
 * undoes.
 *
 * Two threads of its own, beside those of the sources. The *loop* (libuv, the main thread) beats for the guard,
 * listens to it, judges the stop conditions and feeds the live view; nothing on it blocks. The *conductor* walks
 * through the stages, straight down, and may wait; a halt wakes it wherever it waits, and it goes on to undo:
 *
 *	lab ── baseline ── telemetry ── load ── steady ── method ── recovery ── undo ── end
 *	  └────────┴───────────┴──────────┴────────┴─────────┴──────────┴────────↑   any failure, or a halt
 *
 * With the guard it shares two socketpairs. The loop's: "h" is a heartbeat, "d" starts the deadline's clock; from the
 * guard come lines of JSON {"halt": BY, "reason": TEXT}, an empty one for each heartbeat that it has heard. Its end of
 * file means that the guard is dead, its silence that it is stopped: then the engine halts and undoes by itself. The
 * conductor's: for each INTENT a packet, the time; the change is made when the guard has answered with an empty text,
 * because it is ready to undo it.
 */
#pragma once

#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/session.h"

#define RUN_SILENCE	    (15 * NSEC_PER_SEC) /* longer than a stop-the-world pause of an emulated machine */
#define RUN_INTENT_PATIENCE RUN_SILENCE

struct run_opts {
	const struct plan *plan;
	const char *id;
	const char *dir; /* the run's folder, which exists */
	const char *lab; /* "netns": built here; "vm": the same, and this is the microVM; "none": the namespaces are there */
	int (*bind)(struct site *s, struct err *err); /* lab_bind() */
	int event_fd;	 /* each event as a line of JSON, for the live view; -1: none */
	int ctl_fd;	 /* to the guard: the loop's */
	int intent_fd;	 /* the conductor's; -1: nobody else undoes */
	pid_t guard;
	struct session *script;
	struct journal *journal;
	const json_t *mgmt; /* mgmt_find(), by the command; NULL: the engine looks for itself */
};

/* Returns the process's exit status: 0 when the drill was played to its end, whatever its verdict, else EXIT_ERROR. */
int run_engine(const struct run_opts *o);

/*
 * Lines of @dir/snapshot-before.txt that speak of the host, against the host as it is now. Without that file nothing had been changed
 * yet, and nothing differs. -errno, with a text: it could not be compared, and is not known to be as it was.
 */
int residue_host(const char *dir, json_t **ret_diff, struct err *err);
