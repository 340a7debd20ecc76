/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * script.h: the script process: the scenario's Lua, with no capability, no file, no network; one
 * socketpair to the engine.
 */
#pragma once

#include "engine/plan.h"

/*
 * A script_spawn_fn. It returns when the process is confined and about to read the scenario; every
 * failure up to there is this function's (-E2BIG: text over PLAN_SCENARIO_MAX). What the scenario
 * does wrong arrives as "error" (wire.h); after that, or "done", the process exits by itself. One
 * that loops is the caller's to kill: no limit of Lua's own would hold.
 *
 * To be called from the process's main thread: the kernel sends the parent-death signal when the
 * *thread* that forked ends.
 */
int script_spawn(
	const struct script_args *a, pid_t *ret_pid, int *ret_pidfd, int *ret_fd, struct err *err);

/*
 * Evaluates a site file in a script process of its own and returns its JSON. @options: what
 * muster.site(name, {...}) would be given, an object or NULL. -EINVAL with FILE:LINE in the text
 * when the file is wrong, -ETIMEDOUT after PLAN_RECORD_SECONDS.
 */
int script_site(const char *name, const json_t *options, json_t **ret, struct err *err);
