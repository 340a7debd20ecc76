/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/standing.h"

#include <string.h>

const char standing_names[] = "names that begin with " STANDING_LAB " or " STANDING_BASELINE
			      " are those of labs and baselines, which stay until they are told to go";

const char *standing_run(const char *run_id)
{
	if (strncmp(run_id, STANDING_LAB, sizeof(STANDING_LAB) - 1) == 0)
		return "lab";
	if (strncmp(run_id, STANDING_BASELINE, sizeof(STANDING_BASELINE) - 1) == 0)
		return "baseline";
	return NULL;
}
