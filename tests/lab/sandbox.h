/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * sandbox.h: a world for one test program: processes, mounts (with a /run of its own) and a network of its own. Whatever is made in it is
 * gone with it, even when everything in it is killed at once.
 */
#pragma once

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * Returns in a process that has the world to itself; false (in the caller's own) when that cannot be had. The caller's
 * process waits for the other and ends as that does.
 */
static inline bool sandbox_enter(void)
{
	int status;
	pid_t pid;

	fflush(NULL);
	if (geteuid() != 0 || unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET) < 0)
		return false;
	pid = fork();
	if (pid < 0)
		return false;
	if (pid > 0) {
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		/* at once: what a sanitizer does on exit needs threads, and this process can make none any more */
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("proc", "/proc", "proc", 0, NULL) < 0 ||
		mount("sysfs", "/sys", "sysfs", 0, NULL) < 0 || mount("run", "/run", "tmpfs", 0, "mode=755") < 0) {
		perror("sandbox");
		exit(1);
	}
	return true;
}
