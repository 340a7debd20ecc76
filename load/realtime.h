/* SPDX-License-Identifier: GPL-2.0-only */
/* realtime.h: the thread that keeps a load's schedule. */
#pragma once

/*
 * For the calling thread: it runs when it is due, before whatever else wants this processor. An open load whose own sender is kept
 * waiting by what it measures tells of its own lateness; in an emulated machine that was most of the latency there was.
 *
 * Real-time, the lowest priority but below the guard's (sched(7), SCHED_RR), so that nothing it does keeps the undo from running; the
 * kernel leaves others 5 % of each processor whatever happens (sched_rt_runtime_us). Timers are good to a nanosecond instead of 50 us
 * (PR_SET_TIMERSLACK). Without the privilege for the first (CAP_SYS_NICE, RLIMIT_RTPRIO) it is as any other thread, and the load's
 * summary says how late it was.
 */
void load_realtime(void);
