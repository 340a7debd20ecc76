/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * kill_at.h: what the test and the processes it kills have in common: one page of memory, a file mapped by all of them.
 *
 * kill_at.c is preloaded into the program under test, which knows nothing of it. In the command, the guard, the engine and the script alike
 * it counts the *steps*: each call that changes a file of the undo journal, whichever process makes it. A step is a record written, a
 * record synced, a tail cut off, the file removed. At the steps that the test asked for it *shoots*: before the step, in the middle of a
 * record, or after it; at the process that makes the step, at the others, or at several at once; with any signal; or the
 * write fails, once or from then on. Every step is noted with who made it and who was alive, so that one run that nobody is killed in
 * tells all the points there are.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define KILL_AT_ENV   "MUSTER_KILL_AT" /* path of the control file */
#define KILL_AT_MAGIC 0x6b696c6cu
#define STEPS_MAX     512
#define SHOTS_MAX     8
#define LABEL_MAX     120
#define LAPSE_FASTER  50
#define LAPSE_MAX     17000000000LL /* ns: more than GUARD_HANG */

enum role { ROLE_NONE, ROLE_COMMAND, ROLE_GUARD, ROLE_ENGINE, ROLE_SCRIPT, ROLES };
#define BIT(role) (1u << (role))

enum step_op { STEP_WRITE, STEP_SYNC, STEP_TRUNCATE, STEP_REMOVE };
enum place { PLACE_BEFORE, PLACE_TORN, PLACE_AFTER };

struct step {
	uint8_t op, role, alive; /* alive: BIT()s */
	uint32_t size;
	char label[LABEL_MAX]; /* of a record: what can be read of it */
};

struct shot {
	int32_t step; /* counted from 0, over all processes */
	int32_t place;
	uint32_t targets; /* BIT()s */
	int32_t signal;	  /* 0: none; the write fails with: */
	int32_t error;
	bool lasting; /* ... and so does every later one */
};

struct control {
	uint32_t magic;
	uint32_t n_shots;
	struct shot shots[SHOTS_MAX];
	_Atomic uint32_t fired;	 /* how many shots were; a futex */
	_Atomic int32_t failing; /* the error of every write from now on */
	/*
	 * From the shot on the clock of these processes runs LAPSE_FASTER times faster, until it is LAPSE_MAX ahead: so that nobody waits
	 * for their patience with one that is stopped.
	 */
	uint32_t hurry;		    /* BIT()s */
	_Atomic int64_t hurry_from; /* ns of the real clock; 0: not yet */
	_Atomic int32_t pid[ROLES];
	_Atomic uint32_t n_steps;
	struct step steps[STEPS_MAX];
};
