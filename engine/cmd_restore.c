/* SPDX-License-Identifier: GPL-2.0-only */
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/cmd.h"
#include "engine/guard.h"
#include "engine/journal.h"
#include "engine/run_folder.h"
#include "engine/standing.h"
#include "engine/story.h"
#include "engine/str.h"

/* One run; returns the exit code. */
static int restore_one(const struct cmd_args *a, const char *id, json_t *report)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct restore_result res = {0};
	struct err err = {0};
	const json_t *line;
	size_t i;
	int r = journal_open(id, &j, &err), code;

	if (r == 0)
		r = journal_play(j, &res, &err);
	if (r < 0)
		return cmd_fail(NULL, r == -ENOENT ? EXIT_USAGE : r == -EBUSY ? EXIT_REFUSED : EXIT_RESIDUE, &err);
	code = res.failed ? EXIT_RESIDUE : EXIT_PASS;
	if (!a->json) {
		printf("%s: %u undone, %u had been undone, %u of a namespace that is gone, %u left alone, %u failed\n", id,
			res.undone, res.already, res.stale, res.conflicts, res.failed);
		json_array_foreach(res.lines, i, line)
			printf("  %s\n", json_string_value(line));
	}
	json_array_append_new(report, json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:O}", "run", id, "undone", (int)res.undone,
					      "already", (int)res.already, "stale", (int)res.stale, "conflicts",
					      (int)res.conflicts, "failed", (int)res.failed, "lines", res.lines));
	if (res.conflicts) /* the host is not as it was before, whoever it was */
		code = EXIT_RESIDUE;
	restore_result_clear(&res);
	if (journal_remove(j, &err) < 0)
		code = cmd_fail(NULL, EXIT_RESIDUE, &err);
	return code;
}

/* A run that was killed between the end of its journal and that of the folder it was in has left an empty folder. */
static void sweep(const char *root)
{
	_cleanup_close_ int lock = -1;
	struct dirent *e;
	DIR *d;

	/* not while a drill starts: it has made its folder, and is about to put its journal there */
	if (guard_lock_host("restore", "", &lock, NULL) < 0)
		return;
	d = opendir(root);
	while (d && (e = readdir(d))) {
		_cleanup_free_ char *path = strf("%s/%s", root, e->d_name);

		/* a run's name has a time in it; what is not empty stays */
		if (path && e->d_name[0] != '.' && !standing_run(e->d_name) && strchr(e->d_name, '-'))
			(void)rmdir(path);
	}
	if (d)
		closedir(d);
}

/* ── telling ───────────────────────────────────────────────────────────────────────────────── */

static int show_one(const struct cmd_args *a, const char *id, json_t *report)
{
	_cleanup_json_ json_t *story = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	struct err err = {0};
	int r = story_read(id, &story, &err);

	if (r < 0) {
		if (r == -EACCES)
			err_hint(&err, "sudo muster restore --show %s", id);
		return cmd_fail(a, r == -ENOENT ? EXIT_USAGE : EXIT_ERROR, &err);
	}
	if (!a->json) {
		story_text(story, &b);
		fputs(strbuf_cstr(&b), stdout);
	}
	json_array_append(report, story);
	return EXIT_PASS;
}

static int list_all(const struct cmd_args *a, json_t *report)
{
	struct journal_found *found;
	struct err err = {0};
	int code = EXIT_PASS;
	size_t n;

	if (journal_list(&found, &n, &err) < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	for (size_t i = 0; i < n; i++) {
		_cleanup_json_ json_t *story = NULL;
		_cleanup_strbuf_ struct strbuf b = {0};

		if (story_read(found[i].run_id, &story, &err) < 0) {
			code = cmd_fail(a, EXIT_ERROR, &err);
			continue;
		}
		story_line(story, &b);
		if (!a->json)
			printf("%s: %s: %s\n", found[i].run_id, json_string_value(json_object_get(story, "state")), strbuf_cstr(&b));
		json_array_append(report, story);
	}
	journal_list_free(found, n);
	if (n == 0 && !a->json && !a->quiet)
		printf("no run is live, and none is hot: there is nothing to show\n");
	return code;
}

/* ── which run ─────────────────────────────────────────────────────────────────────────────── */

/*
 * The run that @given means: one with a journal. *ret_id NULL: it has ended, or is live where its journal cannot be reached from here
 * (in the microVM), and the answer has been given; the return value is the exit code.
 */
static int find_run(const struct cmd_args *a, const char *given, char **ret_id)
{
	_cleanup_free_ char *folder = NULL, *id = NULL;
	struct err err = {0};
	int r = run_id_find(given, RUN_JOURNAL, ret_id, &err);

	if (r == 0)
		return EXIT_PASS;
	*ret_id = NULL;
	if (r != -ENOENT)
		return cmd_fail(a, EXIT_USAGE, &err);
	if (run_id_find(given, RUN_LIVE, &id, NULL) == 0) {
		err_set(&err, -EBUSY, "run %s is live, in a microVM: nothing of this host is changed", id);
		err_hint(&err, "muster halt %s --reason TEXT ends it", id);
		return cmd_fail(a, EXIT_REFUSED, &err);
	}
	r = run_folder_find(given, &folder, &err);
	if (r < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	if (!a->json && !a->quiet)
		printf("run %s has ended, and nothing of it is left to undo; its report is in %s\n", given, folder);
	return EXIT_PASS;
}

/* ── waiting ───────────────────────────────────────────────────────────────────────────────── */

#define WAIT_MS (5 * 60 * 1000)

/*
 * A live run whose command is gone is ending: its guard undoes it just now. Its guard is a child of that command, so it
 * has come to another parent. (A drill that is in full swing is somebody else's, and is not waited for.)
 */
static bool is_ending(pid_t guard)
{
	char path[64], exe[4096], own[4096];
	_cleanup_free_ char *stat = NULL;
	const char *p;
	ssize_t n, m;
	int parent = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)guard);
	if (file_read(path, 4096, &stat, NULL) < 0)
		return true;
	p = strrchr(stat, ')');
	if (!p || sscanf(p + 1, " %*c %d", &parent) != 1)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/exe", parent);
	n = readlink(path, exe, sizeof(exe));
	m = readlink("/proc/self/exe", own, sizeof(own));
	return n <= 0 || n != m || memcmp(exe, own, (size_t)n) != 0;
}

static void wait_for_ending(const struct cmd_args *a)
{
	struct journal_found *found;
	size_t n;

	if (journal_list(&found, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		_cleanup_close_ int fd = -1;

		if (!found[i].live || standing_run(found[i].run_id) || found[i].pid <= 0)
			continue;
		fd = (int)syscall(SYS_pidfd_open, found[i].pid, 0);
		if (fd < 0 || !is_ending(found[i].pid))
			continue;
		if (!a->quiet)
			fprintf(stderr, "muster: run %s is ending; waiting for its guard, process %d\n", found[i].run_id,
				(int)found[i].pid);
		if (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, WAIT_MS) <= 0)
			fprintf(stderr, "muster: run %s has not ended within 5 minutes\n", found[i].run_id);
	}
	journal_list_free(found, n);
}

/* ── the command ───────────────────────────────────────────────────────────────────────────── */

/* A lab that is up is meant to be, unless its journal is of another boot. */
static bool lab_is_void(const char *id)
{
	_cleanup_json_ json_t *story = NULL;

	return story_read(id, &story, NULL) == 0 && story_is_void(story);
}

static int restore_all(const struct cmd_args *a, json_t *report)
{
	struct journal_found *found;
	struct err err = {0};
	int code = EXIT_PASS;
	size_t n, hot = 0;

	if (cmd_has(a, "wait"))
		wait_for_ending(a);
	if (journal_list(&found, &n, &err) < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	for (size_t i = 0; i < n; i++) {
		int c;

		/* a live one has its guard */
		if (found[i].live || (standing_run(found[i].run_id) && !lab_is_void(found[i].run_id)))
			continue;
		hot++;
		c = restore_one(a, found[i].run_id, report);
		if (c != EXIT_PASS)
			code = c;
	}
	journal_list_free(found, n);
	sweep(journal_volatile_root);
	sweep(journal_durable_root);
	if (hot == 0 && !a->json && !a->quiet)
		printf("nothing is hot: every drill here has been undone\n");
	return code;
}

static int restore(const struct cmd_args *a)
{
	_cleanup_json_ json_t *report = json_array();
	bool show = cmd_has(a, "show");
	_cleanup_free_ char *id = NULL;
	struct err err = {0};
	int code = EXIT_PASS;

	if (a->argc > 0 && cmd_has(a, "all")) {
		err_set(&err, -EINVAL, "restore: either a run or --all");
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	if (!show && geteuid() != 0) {
		err_set(&err, -EPERM, "restoring needs root");
		err_hint(&err, "sudo muster restore%s%s", a->argc ? " " : "", a->argc ? a->argv[0] : "");
		return cmd_fail(a, EXIT_REFUSED, &err);
	}
	if (a->argc > 0) {
		code = find_run(a, a->argv[0], &id);
		if (id)
			code = show ? show_one(a, id, report) : restore_one(a, id, report);
		else if (code != EXIT_PASS)
			return code; /* the error has been said, as JSON too */
	} else {
		code = show ? list_all(a, report) : restore_all(a, report);
	}
	if (a->json) {
		json_dumpf(report, stdout, JSON_COMPACT);
		putchar('\n');
	}
	return code;
}

static const struct cmd_opt opts[] = {
	{"all", NULL, "every hot run (the default when no RUN is given)"},
	{"show", NULL, "says what RUN has changed, how to undo it by hand, and what would be done; does nothing"},
	{"wait", NULL, "first waits for a run that is ending (its command is gone, its guard undoes it)"},
	{0},
};

const struct cmd cmd_restore = {
	.name = "restore",
	.order = 40,
	.args = "[RUN|--all] [--show]",
	.summary = "Undoes what a drill that was cut off has left behind; may be run again",
	.help = "RUN is a run's id, or enough of its beginning. Without RUN, --show lists all that is live or hot.",
	.opts = opts,
	.min_args = 0,
	.max_args = 1,
	.run = restore,
};
