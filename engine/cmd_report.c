/* SPDX-License-Identifier: GPL-2.0-only */
#include <stdio.h>
#include <string.h>

#include "engine/cmd.h"
#include "engine/run_folder.h"
#include "engine/str.h"
#include "lua/render.h"
#include "lua/report_files.h"

static bool is_format(const char *name)
{
	if (streq(name, "json"))
		return true;
	for (const char *const *f = render_formats; *f; f++)
		if (streq(*f, name))
			return true;
	return false;
}

static int report(const struct cmd_args *a)
{
	const char *format = cmd_value(a, "format");
	_cleanup_json_ json_t *j = NULL, *timeline = NULL;
	_cleanup_free_ char *dir = NULL, *text = NULL;
	struct err err = {0};
	size_t len = 0;
	int r;

	if (!format)
		format = a->json ? "json" : "text";
	if (!is_format(format)) {
		const char *const names[] = {"text", "html", "json", "junit", "md", NULL};
		const char *near = str_nearest(format, names);

		err_set(&err, -EINVAL, "--format %s: there are text, html, json, junit and md",
			format);
		if (near)
			err_hint(&err, "did you mean %s?", near);
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	r = run_folder_find(a->argv[0], &dir, &err);
	if (r == 0)
		r = report_judge(dir, &j, &timeline, &err);
	if (r < 0)
		return cmd_fail(a, r == -ENOMEM ? EXIT_ERROR : EXIT_USAGE, &err);
	if (streq(format, "json")) {
		text = json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
		len = text ? strlen(text) : 0;
		r = text ? 0 : err_set(&err, -ENOMEM, "report: out of memory");
	} else {
		r = render_report(j, timeline, format, &text, &len, &err);
	}
	if (r < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	if (fwrite(text, 1, len, stdout) != len ||
		(streq(format, "json") && putchar('\n') == EOF) || fflush(stdout) == EOF) {
		err_set(&err, -errno, "standard output: %s", strerror(errno));
		return cmd_fail(a, EXIT_ERROR, &err);
	}
	/* It has shown what it was asked for; the drill's own exit code is in there, and --exit-code gives it. */
	return cmd_has(a, "exit-code") ? (int)json_integer_value(json_object_get(j, "exit_code"))
				       : EXIT_PASS;
}

static const struct cmd_opt opts[] = {
	{"format", "FORMAT", "text (default), html, json, junit or md"},
	{"exit-code", NULL, "exit as the drill did, instead of 0"},
	{0},
};

const struct cmd cmd_report = {
	.name = "report",
	.order = 60,
	.args = "RUN|DIR",
	.summary = "Judges a stored run again, from its plan and timeline, and renders it",
	.help = "RUN is an id under " RUN_FOLDER_ROOT
		", or enough of its beginning, DIR a run's folder. The report is on standard output; nothing is written\n"
		"into the folder.\n",
	.opts = opts,
	.min_args = 1,
	.max_args = 1,
	.run = report,
};
