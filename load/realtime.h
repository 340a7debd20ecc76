/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * realtime.h: the thread that keeps a load's schedule runs when it is due, before whatever else wants the processor.
 *
 * An open load whose own sender is kept waiting by what it measures tells of its own lateness; in an emulated machine that was most of
 * the latency there was.
 *
 *	as it was ──realtime_begin──> SCHED_RR ──more than BUSY of REALTIME_LOOK on the processor──> as it was
 *	                                 ^                                                               │
 *	                                 └────── no more than CALM in any of them for REALTIME_BACK ─────┘
 *
 * It is for a thread that waits most of the time. One that does not is late by its own doing, and would only keep from their work
 * those whose answers it waits for: before Linux 6.4 that includes all of the network, once ksoftirqd has been asked for
 * (invoke_softirq() leaves it all to that thread).
 *
 * The priority is the lowest (sched(7)), below the guard's, so that nothing here keeps the undo from running.
 */
#pragma once

#include <stdbool.h>

#include "engine/clock.h"

#define REALTIME_LOOK (100 * NSEC_PER_MSEC)
#define REALTIME_BACK NSEC_PER_SEC

struct realtime {
	bool may, on;
	int before; /* the policy that it steps back to */
	nsec_t looked, cpu; /* when, and how much of a processor the thread had had then */
	nsec_t busy_at;
};

/*
 * For the calling thread. Also makes its timers good to a nanosecond instead of 50 us (PR_SET_TIMERSLACK). Without the privilege for
 * real time (CAP_SYS_NICE, RLIMIT_RTPRIO) it is as any other thread, and one that is in real time already is left there.
 */
void realtime_begin(struct realtime *r);

/* Now and then, by the same thread; does nothing until REALTIME_LOOK has gone by. @now: now_ns() */
void realtime_look(struct realtime *r, nsec_t now);
