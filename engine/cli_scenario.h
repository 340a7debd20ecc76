/* SPDX-License-Identifier: GPL-2.0-only */
/* cli_scenario.h: what run, check and plan have in common: --set, --seed, and which function starts a script. */
#pragma once

#include "engine/cmd.h"
#include "engine/plan.h"

/* --set K=V ... as an object of strings */
int cli_scenario_set(const struct cmd_args *a, json_t **ret, struct err *err);
/* --seed, or 1: a drill is repeatable unless asked otherwise */
uint64_t cli_scenario_seed(const struct cmd_args *a);
/* script_spawn() of the lua room */
extern const script_spawn_fn cli_script_spawn;
