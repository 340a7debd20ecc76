/* SPDX-License-Identifier: GPL-2.0-only */
#include <stdio.h>
#include <string.h>

#include "engine/cli_stray.h"
#include "engine/cmd.h"
#include "engine/guard.h"
#include "engine/journal.h"
#include "engine/run_folder.h"
#include "engine/standing.h"
#include "engine/story.h"

/* What is hot tells what is left of it: the short form of `muster restore --show`. */
static void say(const struct cmd_args *a, json_t *list, const char *run, const char *state, pid_t pid)
{
	_cleanup_json_ json_t *story = NULL;
	_cleanup_strbuf_ struct strbuf left = {0};
	bool hot = streq(state, "hot") && story_read(run, &story, NULL) == 0;

	if (hot)
		story_line(story, &left);
	json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:s?}", "run", run, "state", state, "pid",
					    pid ? json_integer(pid) : json_null(), "left", hot ? strbuf_cstr(&left) : NULL));
	if (a->json)
		return;
	if (streq(state, "live"))
		printf("%s: live, process %d; muster halt %s --reason TEXT ends it\n", run, (int)pid, run);
	else if (streq(state, "lab"))
		printf("%s: a lab is up; muster lab down %s takes it down\n", run, run + 4);
	else if (streq(state, "baseline"))
		printf("%s: a baseline is in force; muster baseline restore undoes it\n", run);
	else
		printf("%s: hot: it was cut off%s%s; muster restore %s undoes it, with --show it tells the whole story\n", run,
			hot ? ", and " : "", strbuf_cstr(&left), run);
}

/* What a run that nobody remembers has left in the kernel; without root there is less to see, and that is no error here. */
static void say_strays(const struct cmd_args *a, json_t *list)
{
	_cleanup_json_ json_t *strays = NULL;
	json_t *s;
	size_t i;

	if (geteuid() != 0 || cli_stray_find(&strays, NULL) < 0)
		return;
	json_array_foreach(strays, i, s) {
		const char *run = json_string_value(json_object_get(s, "run"));

		json_array_append_new(list, json_pack("{s:O, s:s, s:n, s:O, s:O, s:O}", "run", json_object_get(s, "run"), "state",
						    "stray", "pid", "what", json_object_get(s, "what"), "where",
						    json_object_get(s, "where"), "fix", json_object_get(s, "fix")));
		if (!a->json)
			printf("stray: %s (%s) of run %s, which is neither live nor hot: %s removes it\n",
				json_string_value(json_object_get(s, "what")), json_string_value(json_object_get(s, "where")),
				run ? run : "(unknown)", json_string_value(json_object_get(s, "fix")));
	}
}

static int status(const struct cmd_args *a)
{
	_cleanup_json_ json_t *list = json_array();
	struct lock_holder live;
	struct journal_found *found;
	_cleanup_free_ char *only = NULL;
	struct err err = {0};
	bool busy;
	size_t n;

	if (a->argc && run_id_find(a->argv[0], RUN_LIVE | RUN_JOURNAL, &only, &err) < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	if (journal_list(&found, &n, &err) < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	/* the lock knows the drill in a microVM too, whose journal is in there */
	busy = guard_lock_holder(&live) > 0;
	if (busy && (!only || streq(only, live.run_id)))
		say(a, list, live.run_id, "live", live.pid);
	for (size_t i = 0; i < n; i++) {
		if ((busy && streq(found[i].run_id, live.run_id)) || (only && !streq(found[i].run_id, only)))
			continue;
		say(a, list, found[i].run_id,
			found[i].live			? "live" :
			standing_run(found[i].run_id) ? standing_run(found[i].run_id) :
							"hot",
			found[i].pid);
	}
	journal_list_free(found, n);
	say_strays(a, list);
	if (a->json) {
		json_dumpf(list, stdout, JSON_COMPACT);
		putchar('\n');
	} else if (json_array_size(list) == 0) {
		printf("no drill is going on, and nothing is hot\n");
	}
	return EXIT_PASS;
}

const struct cmd cmd_status = {
	.name = "status",
	.order = 50,
	.args = "[RUN]",
	.summary = "What runs here, and what has been left to restore",
	.max_args = 1,
	.run = status,
};
