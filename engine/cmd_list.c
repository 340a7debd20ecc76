/* SPDX-License-Identifier: GPL-2.0-only */
/* cmd_list.c: what there is, from the tables: the same tables that check the arguments. */
#include <stdio.h>
#include <string.h>

#include "engine/change.h"
#include "engine/cmd.h"
#include "engine/embedded.h"
#include "engine/probe.h"
#include "engine/source.h"

static json_t *params_json(const struct param *p)
{
	json_t *list = json_array();

	for (; p && p->name; p++)
		json_array_append_new(list,
			json_pack("{s:s, s:s, s:b, s:s*, s:s*}", "name", p->name, "type", param_type_name(p), "required",
				p->required, "default", p->deflt, "help", p->help));
	return list;
}

static json_t *list_changes(enum change_kind kind)
{
	json_t *list = json_array();

	for (const struct change_ops *const *c = change_table; *c; c++)
		if ((*c)->kind == kind)
			json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "name", (*c)->name, "summary",
							    (*c)->summary, "class", change_class_name((*c)->class),
							    "params", params_json((*c)->params)));
	return list;
}

static json_t *list_faults(void)
{
	return list_changes(CHANGE_FAULT);
}

static json_t *list_settings(void)
{
	return list_changes(CHANGE_SETTING);
}

static json_t *list_probes(void)
{
	static const char *const units[] = {"number", "ratio", "duration", "rate"};
	json_t *list = json_array();

	for (const struct probe_ops *const *t = probe_table; *t; t++) {
		for (const struct probe_ops *p = *t; p->name; p++) {
			_cleanup_free_ char *name = strf("%s%s%s", p->subject, *p->subject ? ":" : "", p->name);

			json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "name", name, "summary", p->summary,
							    "unit", units[p->unit], "params", params_json(p->params)));
		}
	}
	return list;
}

static json_t *list_loads(void)
{
	json_t *list = json_array();

	for (const struct source_ops *const *s = source_table; *s; s++)
		if ((*s)->kind == SOURCE_LOAD)
			json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", (*s)->name, "summary",
							    (*s)->summary, "params", params_json((*s)->params)));
	return list;
}

/* The first comment line, or the summary = "..." of a data file: what the file says of itself. */
static char *first_words(const struct embedded *e)
{
	const char *p = strstr(e->data, "summary = \"");

	if (p) {
		p += strlen("summary = \"");
		return strndup(p, strcspn(p, "\""));
	}
	for (p = e->data; strncmp(p, "-- ", 3) == 0 || strncmp(p, "--\n", 3) == 0; p += strcspn(p, "\n") + 1)
		if (p[2] == ' ' && !strstr(p, "SPDX") )
			return strndup(p + 3, strcspn(p + 3, "\n"));
	return strdup("");
}

static json_t *list_embedded(const char *folder)
{
	json_t *list = json_array();
	size_t len = strlen(folder);

	for (const struct embedded *e = embedded_files; e->name; e++) {
		_cleanup_free_ char *name = NULL, *summary = NULL;

		if (strncmp(e->name, folder, len) != 0)
			continue;
		name = strndup(e->name + len, strlen(e->name) - len - 4);
		summary = first_words(e);
		json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", name, "summary", summary ? summary : "",
						    "file", e->name));
	}
	return list;
}

static json_t *list_sites(void)
{
	return list_embedded("lab/sites/");
}

static json_t *list_profiles(void)
{
	return list_embedded("baseline/profiles/");
}

static json_t *list_scenarios(void)
{
	return list_embedded("scenarios/");
}

static const struct {
	const char *what;
	json_t *(*list)(void);
} kinds[] = {
	{"faults", list_faults},
	{"settings", list_settings},
	{"probes", list_probes},
	{"loads", list_loads},
	{"sites", list_sites},
	{"profiles", list_profiles},
	{"scenarios", list_scenarios},
};

static void print(const json_t *list)
{
	const json_t *e, *p;
	size_t i, k;

	json_array_foreach((json_t *)list, i, e) {
		const char *class = json_string_value(json_object_get(e, "class")),
			   *unit = json_string_value(json_object_get(e, "unit"));

		printf("%-24s %s%s%s%s\n", json_string_value(json_object_get(e, "name")),
			json_string_value(json_object_get(e, "summary")), class || unit ? "  [" : "",
			class ? class : unit ? unit : "", class || unit ? "]" : "");
		json_array_foreach(json_object_get(e, "params"), k, p) {
			const char *deflt = json_string_value(json_object_get(p, "default")),
				   *help = json_string_value(json_object_get(p, "help"));
			_cleanup_free_ char *note = json_is_true(json_object_get(p, "required")) ?
							    strdup(" (required)") :
						    deflt ? strf(" (default %s)", deflt) :
							    strdup("");

			printf("  %-22s %-18s %s%s\n", json_string_value(json_object_get(p, "name")),
				json_string_value(json_object_get(p, "type")), help ? help : "", note ? note : "");
		}
	}
}

/* ── the scenario reference ────────────────────────────────────────────────────────────────── */

/* In a cell of a table */
static void put_cell(const char *s)
{
	for (; *s; s++)
		if (*s == '|')
			fputs("\\|", stdout);
		else
			putchar(*s);
}

static void put_params(const json_t *params)
{
	const json_t *p;
	size_t i;

	if (!json_array_size(params))
		return;
	printf("\n| argument | type | default | |\n| --- | --- | --- | --- |\n");
	json_array_foreach((json_t *)params, i, p) {
		const char *deflt = json_string_value(json_object_get(p, "default")),
			   *help = json_string_value(json_object_get(p, "help"));

		printf("| `%s` | ", json_string_value(json_object_get(p, "name")));
		put_cell(json_string_value(json_object_get(p, "type")));
		printf(" | %s%s%s | ", deflt ? "`" : "", json_is_true(json_object_get(p, "required")) ? "required" : deflt ? deflt : "",
			deflt ? "`" : "");
		put_cell(help ? help : "");
		printf(" |\n");
	}
}

/* How a scenario writes it */
static void put_heading(const char *what, const json_t *e)
{
	const char *name = json_string_value(json_object_get(e, "name")), *colon = strchr(name, ':');

	if (streq(what, "probes"))
		printf("\n### %s%s(...)\n\n", colon ? "" : "muster.probe.", name);
	else if (streq(what, "loads"))
		printf("\n### load.%s { ... }\n\n", name);
	else
		printf("\n### %s%s\n\n", name, streq(what, "faults") || streq(what, "settings") ? " { ... }" : "");
	printf("%s.", json_string_value(json_object_get(e, "summary")));
}

static void print_reference(void)
{
	static const char *const intros[] = {
		"## Faults: `muster.fault`\n\nInjected by the method: `local f <close> = run:inject(fault.NAME { ... })`; lifted at the "
		"end of the block, and in any case. Each is measured before it is lifted: one that did not bite makes the drill "
		"inconclusive.\n",
		"## Settings: `muster.set`, `muster.lvs`\n\nOf a baseline (a profile lists them), or made by the method as a fault is.\n",
		"## Probes\n\nOf a load (`client:p99()`), a service (`web:weight \"rs2\"`), a node, a database. A probe with a bound "
		"is a predicate: `:below`, `:above`, `:at_most`, `:at_least`, `:equals`, `:within`; then `:over \"2s\"` and "
		"`:lasting \"5s\"`.\n",
		"## Loads: `muster.load`\n\nTraffic that runs from before the steady state to the end.\n",
		"## Sites: `muster.site \"NAME\"`\n\nWhat a drill is played on; `site:service`, `site:node`, `site:database`.\n",
		"## Profiles: `baseline = \"NAME\"`\n\nTuned states; `muster baseline` works with them outside a drill too.\n",
		"## Scenarios that ship\n",
	};

	_Static_assert(ARRAY_SIZE(intros) == ARRAY_SIZE(kinds), "an introduction for each");
	printf("# Scenario reference\n\n"
	       "Generated from the tables that check a scenario's arguments, by `muster list reference`. How a scenario is put together is in "
	       "first-drill.md.\n\n"
	       "Durations are texts like `\"250ms\"`, `\"1.5s\"`, `\"2m\"`; ratios `\"0.1%%\"`; rates `\"300/s\"`; sizes `\"64KiB\"`. "
	       "A node, a service or a database is named, or given as the value that `site:node` and the like return.\n");
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		_cleanup_json_ json_t *l = kinds[i].list();
		const json_t *e;
		size_t k;

		printf("\n%s", intros[i]);
		json_array_foreach(l, k, e) {
			put_heading(kinds[i].what, e);
			printf("\n");
			put_params(json_object_get(e, "params"));
		}
	}
}

static int list(const struct cmd_args *a)
{
	const char *names[ARRAY_SIZE(kinds) + 2] = {NULL}, *near;
	struct err err = {0};

	names[ARRAY_SIZE(kinds)] = "reference";
	if (streq(a->argv[0], "reference")) {
		print_reference();
		return EXIT_PASS;
	}

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		_cleanup_json_ json_t *j = NULL;

		names[i] = kinds[i].what;
		if (!streq(kinds[i].what, a->argv[0]))
			continue;
		j = kinds[i].list();
		if (a->json) {
			json_dumpf(j, stdout, JSON_COMPACT);
			putchar('\n');
		} else {
			print(j);
		}
		return EXIT_PASS;
	}
	near = str_nearest(a->argv[0], names);
	err_set(&err, -EINVAL, "list: there is no list of \"%s\"", a->argv[0]);
	if (near)
		err_hint(&err, "did you mean %s?", near);
	else
		err_hint(&err, "there are faults, settings, probes, loads, sites, profiles and scenarios; reference: all of it, in Markdown");
	return cmd_fail(a, EXIT_USAGE, &err);
}

const struct cmd cmd_list = {
	.name = "list",
	.order = 70,
	.args = "WHAT",
	.summary = "What there is: faults, settings, probes, loads, sites, profiles or scenarios",
	.help = "`muster list reference` prints all of it with every argument as one Markdown text: the scenario reference.",
	.min_args = 1,
	.max_args = 1,
	.run = list,
};
