/* SPDX-License-Identifier: GPL-2.0-only */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/cmd.h"
#include "engine/guard.h"

#define HALT_WAIT_MS 120000

/* There is one live run at most, so a beginning of its id is always enough. */
static bool is_meant(const char *id, const char *given)
{
	return *given && strncmp(id, given, strlen(given)) == 0;
}

static int halt(const struct cmd_args *a)
{
	const char *reason = cmd_value(a, "reason");
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int pidfd = -1;
	struct lock_holder live;
	struct pollfd p;
	struct err err = {0};
	int r;

	if (!reason || !*reason) {
		err_set(&err, -EINVAL, "halt: --reason is missing: the report has to say why");
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	r = guard_lock_holder(&live);
	if (r <= 0 || live.pid <= 0 || (a->argc && !is_meant(live.run_id, a->argv[0]))) {
		err_set(&err, r < 0 ? r : -ESRCH, a->argc ? "run %s is not live" : "no drill is going on here%s",
			a->argc ? a->argv[0] : "");
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	pidfd = (int)syscall(SYS_pidfd_open, live.pid, 0);
	path = strf("%s/%s", live.dir, HALT_REASON);
	r = pidfd < 0 ? -errno : path ? file_write(path, reason, strlen(reason)) : -ENOMEM;
	if (r == 0 && syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0) < 0)
		r = -errno;
	if (r < 0) {
		err_set(&err, r, "halt run %s: %s", live.run_id, strerror(-r));
		return cmd_fail(a, EXIT_ERROR, &err);
	}
	if (!a->quiet)
		fprintf(stderr, "muster: run %s is told to halt; it restores the host now\n", live.run_id);
	p = (struct pollfd){.fd = pidfd, .events = POLLIN};
	if (poll(&p, 1, HALT_WAIT_MS) <= 0) {
		err_set(&err, -ETIMEDOUT, "run %s has not ended within 2 minutes; ask process %d", live.run_id,
			(int)live.pid);
		return cmd_fail(a, EXIT_ERROR, &err);
	}
	if (a->json)
		printf("{\"run\":\"%s\",\"halted\":true}\n", live.run_id);
	return EXIT_PASS;
}

static const struct cmd_opt opts[] = {
	{"reason", "TEXT", "why: it goes into the report"},
	{0},
};

const struct cmd cmd_halt = {
	.name = "halt",
	.order = 45,
	.args = "[RUN] --reason TEXT",
	.summary = "Ends a running drill and restores the host; waits until that is done",
	.opts = opts,
	.max_args = 1,
	.run = halt,
};
