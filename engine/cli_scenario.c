/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/cli_scenario.h"

#include <string.h>

#include "engine/units.h"
#include "lua/script.h"

const script_spawn_fn cli_script_spawn = script_spawn;

int cli_scenario_set(const struct cmd_args *a, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *set = json_object();

	for (size_t i = 0; i < a->n_given; i++) {
		const char *eq;
		_cleanup_free_ char *key = NULL;

		if (!streq(a->given[i].opt->name, "set"))
			continue;
		eq = strchr(a->given[i].value, '=');
		if (!eq || eq == a->given[i].value) {
			err_set(err, -EINVAL, "--set %s: wants KEY=VALUE", a->given[i].value);
			return -EINVAL;
		}
		key = strndup(a->given[i].value, (size_t)(eq - a->given[i].value));
		if (!key || json_object_set_new(set, key, json_string(eq + 1)) < 0)
			return err_set(err, -EINVAL, "--set %s: it is not UTF-8", a->given[i].value);
	}
	*ret = TAKE_PTR(set);
	return 0;
}

uint64_t cli_scenario_seed(const struct cmd_args *a)
{
	const char *text = cmd_value(a, "seed");
	int64_t seed = 1;

	if (text && units_int(text, 0, INT64_MAX, &seed) < 0)
		seed = 1;
	return (uint64_t)seed;
}
