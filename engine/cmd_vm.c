/* SPDX-License-Identifier: GPL-2.0-only */
/* The microVM by itself: for tests that want another kernel, and to fill its cache ahead of time. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/cmd.h"
#include "engine/str.h"
#include "engine/units.h"
#include "lab/host.h"
#include "lab/vm.h"

#define EXIT_VM 125 /* the machine's fault, as env(1) and timeout(1) have it: the job's own statuses are below */

/* The job is not looked up by the microVM, so here: as a shell would. */
static int find_command(const char *name, char **ret, struct err *err)
{
	_cleanup_free_ char *path = NULL;

	if (strchr(name, '/')) {
		path = realpath(name, NULL);
		if (!path)
			return err_set(err, -errno, "%s: %s", name, strerror(errno));
	} else if (host_program(name, &path) < 0) {
		return err_set(err, -ENOENT, "%s: no such command", name);
	}
	*ret = TAKE_PTR(path);
	return 0;
}

static int fetch(const struct cmd_args *a, struct live *live)
{
	_cleanup_free_ char *what = NULL;
	struct err err = {0};

	if (vm_fetch(live, &what, &err) < 0)
		return cmd_fail(a, EXIT_REFUSED, &err);
	if (a->json) {
		_cleanup_json_ json_t *j = json_pack("{s:s}", "text", what);

		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
	} else {
		printf("%s\n", what);
	}
	return EXIT_PASS;
}

static int exec(const struct cmd_args *a, struct live *live)
{
	struct vm_job job = {.argv = a->argv + 1,
		.out_dir = cmd_value(a, "out"),
		.live = live,
		.stdout_fd = STDOUT_FILENO,
		.stderr_fd = STDERR_FILENO};
	const char *timeout = cmd_value(a, "timeout");
	_cleanup_free_ char *command = NULL;
	struct err err = {0};
	int status, r;

	if (a->argc < 2) {
		err_set(&err, -EINVAL, "vm exec: no command");
		err_hint(&err, "muster vm exec [--out DIR] -- COMMAND [ARGUMENT...]");
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	if (timeout) {
		nsec_t ns;

		if (units_duration(timeout, &ns) < 0 || ns < NSEC_PER_SEC) {
			err_set(&err, -EINVAL, "--timeout %s: wants a duration from 1s", timeout);
			return cmd_fail(a, EXIT_USAGE, &err);
		}
		job.timeout_s = (unsigned int)(ns / NSEC_PER_SEC);
	}
	if (find_command(a->argv[1], &command, &err) < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	a->argv[1] = command;
	a->argv[a->argc] = NULL; /* options that were taken out leave their places behind */
	if (job.out_dir && (r = mkdir_p(job.out_dir)) < 0) {
		err_set(&err, r, "--out %s: %s", job.out_dir, strerror(-r));
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	fflush(stdout);
	r = vm_run(&job, &status, &err);
	return r < 0 ? cmd_fail(a, EXIT_VM, &err) : status;
}

static int vm(const struct cmd_args *a)
{
	struct live *live = NULL;
	struct err err = {0};
	int r;

	r = live_new(STDERR_FILENO, a->quiet ? LIVE_QUIET : LIVE_LINES, a->color, &live);
	if (r < 0) {
		err_set(&err, r, "the live view: %s", strerror(-r));
		return cmd_fail(a, EXIT_ERROR, &err);
	}
	if (streq(a->argv[0], "exec"))
		r = exec(a, live);
	else if (streq(a->argv[0], "fetch") && a->argc == 1)
		r = fetch(a, live);
	else {
		err_set(&err, -EINVAL, "vm %s: exec or fetch is what there is", a->argv[0]);
		err_hint(&err, "muster vm --help");
		r = cmd_fail(a, EXIT_USAGE, &err);
	}
	live_free(live);
	return r;
}

const struct cmd cmd_vm = {
	.name = "vm",
	.order = 95,
	.args = "exec|fetch",
	.summary = "Run a command under the microVM's kernel, or fetch that kernel",
	.help = "muster vm fetch\n"
		"  Fetches the newest Debian kernel that apt knows into the cache, and tries whether KVM boots it.\n"
		"  Nothing is installed. Exit code 6 when that is not possible.\n\n"
		"muster vm exec [--out DIR] [--timeout T] -- COMMAND [ARGUMENT...]\n"
		"  Boots, runs the command as root, powers off. The command sees this host's files; what it writes is\n"
		"  forgotten, but for what it writes below DIR. Lines of JSON on its descriptor 3 are shown as events.\n"
		"  The exit code is the command's own; 125 when the microVM failed.",
	.opts = (const struct cmd_opt[]){
		{"out", "DIR", "a folder that the command may write to; made if it is not there"},
		{"timeout", "T", "give up after that time (\"10m\"), start included"},
		{0}},
	.min_args = 1,
	.max_args = -1,
	.run = vm,
};
