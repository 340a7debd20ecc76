/* SPDX-License-Identifier: GPL-2.0-only */
/* drill.h: whole drills, played by the real program, for the tests that include it: start, wait for the end, look at the report. */
#pragma once

#include <stdarg.h>
#include <setjmp.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "engine/clock.h"
#include "engine/str.h"
#include "engine/units.h"
#include "tests/lab/sandbox.h"

#define PATIENCE (180 * NSEC_PER_SEC)

static nsec_t patience = PATIENCE; /* with a whole drill */
static char scratch[64];
static unsigned int drills;
static void (*prelude)(void); /* in the command's process, before it becomes muster */

struct drill {
	char out[128];
	pid_t pid;
	int pidfd;
	json_t *report;
};

static int setup(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/muster-drills-XXXXXX");
	return mkdtemp(scratch) ? 0 : -1;
}

static int teardown(void **state)
{
	char cmd[128];

	(void)state;
	snprintf(cmd, sizeof(cmd), "rm -rf %s", scratch);
	return system(cmd);
}

/* Starts `muster run FILE --lab netns --out DIR ARGS...`; args end with NULL. */
static void start(struct drill *d, const char *file, ...)
{
	const char *argv[24] = {MUSTER_BINARY, "run", NULL, "--lab=netns", "--json", "--out", d->out};
	char path[512], log[160];
	size_t n = 7;
	va_list ap;

	snprintf(path, sizeof(path), "%s/%s", TEST_DATA, file);
	snprintf(d->out, sizeof(d->out), "%s/run-%u", scratch, drills++);
	snprintf(log, sizeof(log), "%s.log", d->out);
	argv[2] = path;
	va_start(ap, file);
	while (n < ARRAY_SIZE(argv) - 1 && (argv[n] = va_arg(ap, const char *)))
		n++;
	va_end(ap);
	d->report = NULL;
	d->pid = fork();
	assert_true(d->pid >= 0);
	if (d->pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0644);

		dup2(fd, 1);
		dup2(fd, 2);
		if (prelude)
			prelude();
		execv(MUSTER_BINARY, (char **)argv);
		_exit(127);
	}
	d->pidfd = (int)syscall(SYS_pidfd_open, d->pid, 0);
	assert_true(d->pidfd >= 0);
}

static void show_log(const struct drill *d)
{
	char log[160], *text = NULL;

	snprintf(log, sizeof(log), "%s.log", d->out);
	/* not print_message(), which prints no long text */
	if (file_read(log, 1 << 20, &text, NULL) == 0)
		printf("%s\n", text);
	fflush(stdout);
	free(text);
}

/* Waits for the end; returns the exit code, or -SIGNAL. */
static int finish(struct drill *d)
{
	struct pollfd p = {.fd = d->pidfd, .events = POLLIN};
	char path[160];
	int status;

	if (poll(&p, 1, (int)(patience / NSEC_PER_MSEC)) <= 0) {
		kill(d->pid, SIGKILL);
		show_log(d);
		fail_msg("the drill did not end within %d s", (int)(patience / NSEC_PER_SEC));
	}
	assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
	close(d->pidfd);
	snprintf(path, sizeof(path), "%s/report.json", d->out);
	d->report = json_load_file(path, 0, NULL);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static const char *verdict(const struct drill *d)
{
	const char *v = json_string_value(json_object_get(d->report, "verdict"));

	return v ? v : "(no report)";
}

static void _unused_ expect(struct drill *d, int code, const char *want)
{
	int got = finish(d);

	if (got != code || !streq(verdict(d), want)) {
		show_log(d);
		fail_msg("exit %d, verdict %s; wanted %d, %s", got, verdict(d), code, want);
	}
	if (code != 5)
		assert_true(json_is_true(json_object_get(json_object_get(d->report, "residue"), "clean")));
}

static const json_t *check_named(const struct drill *d, const char *part)
{
	const json_t *c;
	size_t i;

	json_array_foreach(json_object_get(d->report, "checks"), i, c)
		if (strstr(json_string_value(json_object_get(c, "name")), part))
			return c;
	return NULL;
}

/* The first check with @part in its name is @status. */
static void _unused_ assert_check(const struct drill *d, const char *part, const char *status)
{
	const json_t *c = check_named(d, part);

	if (!c || !streq(json_string_value(json_object_get(c, "status")), status)) {
		_cleanup_free_ char *all = json_dumps(json_object_get(d->report, "checks"), JSON_INDENT(1));

		printf("%s\n", all);
		fflush(stdout);
		fail_msg("no check \"%s\" that is %s", part, status);
	}
}

/* Judged again, from the stored timeline alone, the checks are the same. */
static void _unused_ assert_judged_again(const struct drill *d)
{
	_cleanup_free_ char *command = strf("%s report %s --format json", MUSTER_BINARY, d->out);
	_cleanup_json_ json_t *again = NULL;
	FILE *f = popen(command, "re");

	assert_non_null(f);
	again = json_loadf(f, 0, NULL);
	(void)pclose(f); /* it exits as the drill did */
	assert_non_null(again);
	assert_true(json_array_size(json_object_get(again, "checks")) > 0);
	if (!json_equal(json_object_get(d->report, "checks"), json_object_get(again, "checks")))
		fail_msg("judged again, the checks are others");
}

static void done(struct drill *d)
{
	json_decref(d->report);
}

/* Waits until the drill's timeline has a line with both texts in it. */
static inline void await_line(const struct drill *d, const char *a, const char *b)
{
	nsec_t deadline = now_ns() + PATIENCE / 2;
	struct pollfd p = {.fd = d->pidfd, .events = POLLIN};
	char path[160];

	snprintf(path, sizeof(path), "%s/timeline.jsonl", d->out);
	for (;;) {
		_cleanup_free_ char *text = NULL;
		char *save = NULL;

		if (file_read(path, 64 << 20, &text, NULL) == 0)
			for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
				if (strstr(line, a) && strstr(line, b))
					return;
		if (now_ns() >= deadline || poll(&p, 1, 20) > 0) {
			show_log(d);
			fail_msg("the drill ended, or took too long, before %s %s", a, b);
		}
	}
}

/* The pid of a process of this drill: the guard is the command's child, engine and script are the guard's. */
static inline pid_t process_of(const struct drill *d, const char *what)
{
	_cleanup_free_ char *want = strf("muster-%s", what);
	DIR *proc = opendir("/proc");
	struct dirent *e;
	pid_t found = 0;

	while ((e = readdir(proc))) {
		_cleanup_free_ char *comm = NULL, *stat = NULL, *path = NULL, *stat_path = NULL;
		int64_t pid;
		int ppid = 0, pppid = 0;

		if (units_int(e->d_name, 1, INT32_MAX, &pid) < 0)
			continue;
		path = strf("/proc/%d/comm", (int)pid);
		if (file_read(path, 64, &comm, NULL) < 0 || strncmp(comm, want, strlen(want)) != 0)
			continue;
		stat_path = strf("/proc/%d/stat", (int)pid);
		if (file_read(stat_path, 4096, &stat, NULL) < 0)
			continue;
		sscanf(strrchr(stat, ')') + 2, "%*c %d", &ppid);
		free(TAKE_PTR(stat));
		free(TAKE_PTR(stat_path));
		stat_path = strf("/proc/%d/stat", ppid);
		if (file_read(stat_path, 4096, &stat, NULL) == 0)
			sscanf(strrchr(stat, ')') + 2, "%*c %d", &pppid);
		if ((streq(what, "guard") ? ppid : pppid) == d->pid)
			found = (pid_t)pid;
	}
	closedir(proc);
	if (!found)
		fail_msg("there is no %s", want);
	return found;
}

/* Nothing of a drill is on the host: no namespace, no journal, no process of ours. */
static void _unused_ assert_nothing_left(void)
{
	static const struct {
		const char *dir, *prefix;
	} places[] = {{"/run/netns", "muster-pair-"}, {"/run/netns", "muster-lvs-dr-"}, {"/run/muster", "pair-"}, {"/run/muster", "lvs-"}, {"/run/muster/lab", ""}};

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		DIR *d = opendir(places[i].dir);
		struct dirent *e;

		while (d && (e = readdir(d)))
			if (e->d_name[0] != '.' && strncmp(e->d_name, places[i].prefix, strlen(places[i].prefix)) == 0)
				fail_msg("%s/%s is still there", places[i].dir, e->d_name);
		if (d)
			closedir(d);
	}
}
