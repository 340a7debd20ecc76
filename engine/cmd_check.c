/* SPDX-License-Identifier: GPL-2.0-only */
#include <stdio.h>
#include <string.h>

#include "engine/cmd.h"
#include "engine/cli_scenario.h"
#include "engine/plan.h"

static int check(const struct cmd_args *a)
{
	_cleanup_json_ json_t *list = json_array(), *set = NULL;
	struct err err = {0};
	int code = EXIT_PASS;

	if (cli_scenario_set(a, &set, &err) < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	for (int i = 0; i < a->argc; i++) {
		_cleanup_plan_ struct plan *p = NULL;

		if (plan_record(a->argv[i], set, cli_scenario_seed(a), cli_script_spawn, &p, &err) < 0) {
			code = EXIT_USAGE;
			if (!a->json)
				cmd_fail(a, EXIT_USAGE, &err);
			json_array_append_new(list, json_pack("{s:s, s:b, s:s, s:s?}", "file", a->argv[i], "ok", 0, "error",
							    err.text, "hint", err.hint[0] ? err.hint : NULL));
			continue;
		}
		json_array_append_new(
			list, json_pack("{s:s, s:b, s:O, s:i}", "file", a->argv[i], "ok", 1, "name",
				      json_object_get(p->scenario, "name"), "steps", (int)p->n_steps));
		if (!a->json && !a->quiet)
			printf("%s: ok (%s, %zu steps)\n", a->argv[i],
				json_string_value(json_object_get(p->scenario, "name")), p->n_steps);
	}
	if (a->json) {
		json_dumpf(list, stdout, JSON_COMPACT);
		putchar('\n');
	}
	return code;
}

static const struct cmd_opt opts[] = {
	{"set", "K=V", "a value for muster.param(K); may be repeated"},
	{"seed", "N", "of the script's math.random"},
	{0},
};

const struct cmd cmd_check = {
	.name = "check",
	.order = 20,
	.args = "FILE...",
	.summary = "Reads scenarios and says what is wrong with them; changes nothing, needs no root",
	.opts = opts,
	.min_args = 1,
	.max_args = -1,
	.run = check,
};
