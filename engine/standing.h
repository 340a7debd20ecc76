/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * standing.h: runs that are meant to stay: a lab that is up, a baseline in force. Their journals are there without a live owner,
 * as those of a drill that was cut off are; but nobody restores them unasked, and they stand in no drill's way. They are known by
 * their run id, whose beginning no scenario's name may have.
 */
#pragma once

#include "engine/base.h"

#define STANDING_LAB	  "lab-"
#define STANDING_BASELINE "baseline-"

/* "lab" or "baseline"; NULL: a drill's */
const char *standing_run(const char *run_id);

/* Why a scenario cannot be called like that */
extern const char standing_names[];
