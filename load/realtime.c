/* SPDX-License-Identifier: GPL-2.0-only */
#include "load/realtime.h"

#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

#define BUSY 0.8
#define CALM 0.5

static nsec_t cpu_time(void)
{
	struct timespec ts = {0};

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (nsec_t)ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* Of a thread, not of the process: 0 is the caller alone. The flag stays: to take it back is a privilege of its own. */
static bool set(const struct realtime *r, bool on)
{
	const struct sched_param param = {.sched_priority = on ? 1 : 0};

	return sched_setscheduler(0, (on ? SCHED_RR : r->before) | SCHED_RESET_ON_FORK, &param) == 0;
}

void realtime_begin(struct realtime *r)
{
	(void)prctl(PR_SET_TIMERSLACK, 1);
	r->before = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;
	r->may = r->on = (r->before == SCHED_OTHER || r->before == SCHED_BATCH || r->before == SCHED_IDLE) && set(r, true);
	r->looked = now_ns();
	r->cpu = cpu_time();
}

void realtime_look(struct realtime *r, nsec_t now)
{
	nsec_t cpu, past = now - r->looked;
	double share;

	if (!r->may || past < REALTIME_LOOK)
		return;
	cpu = cpu_time();
	share = (double)(cpu - r->cpu) / (double)past;
	r->looked = now;
	r->cpu = cpu;
	if (share > (r->on ? BUSY : CALM)) {
		if (r->on)
			r->on = !set(r, false);
		r->busy_at = now;
	} else if (!r->on && now - r->busy_at >= REALTIME_BACK) {
		r->on = set(r, true);
	}
}
