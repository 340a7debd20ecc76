/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * command.h: the program as a person starts it, for tests in a mount namespace of their own (its output goes through /run): start, wait for
 * the end, look at what it said. Include after cmocka.h.
 */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/clock.h"
#include "engine/str.h"

#define COMMAND_PATIENCE (60 * NSEC_PER_SEC)

#define COMMAND_OUT	 "/run/out"
#define COMMAND_OUT_MAX	 (1 << 20)

static const char *command_errors; /* a file for what it says on stderr; NULL: that is output, too */
static char out[COMMAND_OUT_MAX];  /* what the last one printed */

/* Starts the program with the words of @args, as @uid unless that is 0. */
static pid_t start(const char *args, uid_t uid)
{
	_cleanup_free_ char *copy = strdup(args);
	static char binary[] = MUSTER_BINARY;
	char *argv[24] = {binary}, *save = NULL;
	size_t n = 1;
	pid_t pid;

	for (char *w = strtok_r(copy, " ", &save); w && n < ARRAY_SIZE(argv) - 1; w = strtok_r(NULL, " ", &save))
		argv[n++] = w;
	/* what the last one said is not taken for this one's */
	assert_int_equal(file_write(COMMAND_OUT, "", 0), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = open(COMMAND_OUT, O_WRONLY | O_TRUNC);

		dup2(fd, 1);
		dup2(command_errors ? open(command_errors, O_WRONLY | O_CREAT | O_TRUNC, 0666) : fd, 2);
		if (uid && setuid(uid) < 0)
			_exit(120);
		execv(argv[0], argv);
		_exit(127);
	}
	return pid;
}

/* Its exit code, or -SIGNAL */
static int finish(pid_t pid)
{
	_cleanup_close_ int pidfd = pidfd_open(pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	_cleanup_free_ char *text = NULL;
	int status;

	assert_true(pidfd >= 0);
	if (poll(&p, 1, (int)(COMMAND_PATIENCE / NSEC_PER_MSEC)) != 1) {
		kill(pid, SIGKILL);
		fail_msg("it did not end");
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(file_read(COMMAND_OUT, sizeof(out) - 1, &text, NULL), 0);
	snprintf(out, sizeof(out), "%s", text);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void expect(int code, const char *args, const char *want)
{
	_cleanup_free_ char *errors = NULL;
	int got = finish(start(args, 0));

	if (got == code && (!want || strstr(out, want)))
		return;
	if (command_errors)
		(void)file_read(command_errors, 1 << 16, &errors, NULL);
	fail_msg("muster %s: exit %d, wanted %d with \"%s\":\n%s%s", args, got, code, want ? want : "", out, errors ? errors : "");
}

/* What the test writes to /etc goes with it. */
static int overlay_etc(void)
{
	if (mkdir("/run/up", 0755) == 0 && mkdir("/run/work", 0755) == 0 &&
		mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/run/up,workdir=/run/work") == 0)
		return 0;
	print_message("overlay over /etc: %s\n", strerror(errno));
	return -1;
}
