/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * judge.h: the verdict, a pure function over the plan and the timeline. It reads no clock, no host and no file, so a stored
 * run can be judged again, and the judge itself can be tested with timelines that were written by hand.
 *
 * The report is DESIGN.md's `report.json`, schema "muster.report/1"; a field that was not measured is null, never 0.
 *
 * Verdict, first that applies (and residue apart from it: a host that is not proved restored exits 5 whatever the verdict):
 *	refused		the run refused before anything was changed	6
 *	error		an internal error, or the script failed		8 (2 when the scenario is to blame)
 *	halted		a stop condition or the deadline (3), the operator (4)
 *	inconclusive	steady state not attained before the method; a fault not proved; a check unknown, and none false	7
 *	fail		an objective or an expectation was missed	1
 *	pass							0
 * A fault that did not bite makes even a missed objective inconclusive: what was measured is not the answer to the question.
 */
#pragma once

#include "engine/site.h"
#include "engine/timeline.h"

enum exit_code {
	EXIT_PASS = 0,
	EXIT_FAIL = 1,
	EXIT_USAGE = 2,
	EXIT_HALTED = 3,
	EXIT_HALTED_OPERATOR = 4,
	EXIT_RESIDUE = 5,
	EXIT_REFUSED = 6,
	EXIT_INCONCLUSIVE = 7,
	EXIT_ERROR = 8,
};

/* @plan: plan.json. -EINVAL: not a plan; -ERANGE: the timeline spans more than a day; -ENOMEM. */
int judge(const json_t *plan, const struct timeline *tl, json_t **ret_report, struct err *err);
