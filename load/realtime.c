/* SPDX-License-Identifier: GPL-2.0-only */
#include "load/realtime.h"

#include <sched.h>
#include <sys/prctl.h>

void load_realtime(void)
{
	const struct sched_param low = {.sched_priority = 1};

	(void)prctl(PR_SET_TIMERSLACK, 1);
	/* of a thread, not of the process: 0 is the caller alone */
	(void)sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &low);
}
