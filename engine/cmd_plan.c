/* SPDX-License-Identifier: GPL-2.0-only */
#include <stdio.h>
#include <string.h>

#include "engine/cmd.h"
#include "engine/cli_scenario.h"
#include "engine/mgmt.h"
#include "engine/plan.h"
#include "lab/lab.h"

static int plan(const struct cmd_args *a)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_json_ json_t *set = NULL;
	_cleanup_plan_ struct plan *p = NULL;
	struct err err = {0};

	if (cli_scenario_set(a, &set, &err) < 0 ||
		plan_record(a->argv[0], set, cli_scenario_seed(a), cli_script_spawn, &p, &err) < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	if (lab_bind(p->site, &err) < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	/* a plan without it is a plan still */
	if (mgmt_find(&p->mgmt, &err) < 0)
		fprintf(stderr, "muster: what would cut the management path is not known: %s\n", err.text);
	if (a->json) {
		_cleanup_json_ json_t *j = plan_to_json(p);

		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
		return EXIT_PASS;
	}
	if (plan_print(p, &out, &err) < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	fputs(strbuf_cstr(&out), stdout);
	return EXIT_PASS;
}

static const struct cmd_opt opts[] = {
	{"set", "K=V", "a value for muster.param(K); may be repeated"},
	{"seed", "N", "of the script's math.random"},
	{0},
};

const struct cmd cmd_plan = {
	.name = "plan",
	.order = 30,
	.args = "FILE",
	.summary = "Shows every change that a scenario would make, in order, with its undo; changes nothing",
	.opts = opts,
	.min_args = 1,
	.max_args = 1,
	.run = plan,
};
