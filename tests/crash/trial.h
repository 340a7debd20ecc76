/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * trial.h: a guard over an engine of the test's own, without scenario and script: for what a whole drill cannot show,
 * and for measuring. The engine is a function; what it needs to make a change is here. The journal is in a folder of
 * the caller's own.
 */
#pragma once

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/guard.h"
#include "engine/run_internal.h"

struct trial {
	char root[64], dir[96], durable[96];
	struct guard_opts o;
	struct plan plan;
	pid_t guard;
	int guard_fd;
};

static inline int trial_script(const struct script_args *a _unused_, pid_t *ret_pid, int *ret_pidfd, int *ret_fd,
	struct err *err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 || (*ret_pid = fork()) < 0)
		return err_set(err, -errno, "script: %s", strerror(errno));
	if (*ret_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	close(fds[1]);
	*ret_fd = fds[0];
	*ret_pidfd = (int)syscall(SYS_pidfd_open, *ret_pid, 0);
	return 0;
}

/* 0 or -errno: a folder for the journal, the run and the timeline */
static inline int trial_make(struct trial *t)
{
	*t = (struct trial){.guard_fd = -1};
	strcpy(t->root, "/tmp/muster-trial-XXXXXX");
	if (!mkdtemp(t->root))
		return -errno;
	snprintf(t->dir, sizeof(t->dir), "%s/folder", t->root);
	snprintf(t->durable, sizeof(t->durable), "%s/durable", t->root);
	journal_volatile_root = t->root;
	journal_durable_root = t->durable;
	return mkdir(t->dir, 0755) < 0 ? -errno : 0;
}

static inline void trial_drop(struct trial *t)
{
	char cmd[128];

	json_decref(t->plan.scenario);
	snprintf(cmd, sizeof(cmd), "rm -rf -- '%s'", t->root);
	(void)!system(cmd);
}

/* 0 or -errno. Without the deadline in the way, and without a command that waits. */
static inline int trial_begin(struct trial *t, int (*engine)(const struct run_opts *o))
{
	t->plan = (struct plan){.file = (char *)"trial.lua", .text = (char *)"",
		.scenario = json_pack("{s:I}", "deadline_ns", (json_int_t)(3600 * NSEC_PER_SEC))};
	t->o = (struct guard_opts){.plan = &t->plan, .id = "trial-1", .dir = t->dir, .lab = "none", .spawn = trial_script,
		.engine = engine, .event_fd = -1, .parent_fd = -1};
	fflush(NULL);
	t->guard = fork();
	if (t->guard < 0)
		return -errno;
	if (t->guard == 0) {
		struct err err = {0};
		int code = guard_run(&t->o, &err);

		if (err.text[0])
			fprintf(stderr, "guard: %s\n", err.text);
		_exit(code);
	}
	t->guard_fd = (int)syscall(SYS_pidfd_open, t->guard, 0);
	return t->guard_fd < 0 ? -errno : 0;
}

/* The guard's exit status, or -ETIMEDOUT */
static inline int trial_end(struct trial *t)
{
	struct pollfd p = {.fd = t->guard_fd, .events = POLLIN};
	int status = 0;
	bool ended = poll(&p, 1, 60000) == 1;

	if (!ended)
		kill(t->guard, SIGKILL);
	waitpid(t->guard, &status, 0);
	close(TAKE_FD(t->guard_fd));
	return !ended ? -ETIMEDOUT : WIFEXITED(status) ? WEXITSTATUS(status) : -ECHILD;
}

/* In the engine: makes a change as a drill does, the guard being told of it first. 0 or -errno. @args is stolen. */
static inline int trial_apply(const struct run_opts *o, const char *name, struct node *n, json_t *args, struct err *err)
{
	struct run r = {.o = o};
	struct change c = {.ops = change_find(name), .node = n, .announce = run_announce, .announce_arg = &r};
	int e = c.ops ? param_check(c.ops->params, name, args, NULL, &c.args, err) : -ENOENT;

	json_decref(args);
	if (e == 0 && c.ops->resolve)
		e = c.ops->resolve(NULL, c.args, err);
	return e < 0 ? e : change_apply(o->journal, &c, err);
}

/* Beats until it is killed. */
static inline void trial_beat(const struct run_opts *o)
{
	char buf[64];

	for (;;) {
		(void)send(o->ctl_fd, "h", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		while (recv(o->ctl_fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
			;
		(void)poll(NULL, 0, 100);
	}
}
