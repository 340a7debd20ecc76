/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * tasks.h: settings of running processes: a service's processes or all of their threads, what each had and what each is to have,
 * and the whole life of the change from that alone. A setting's capture makes the list; the rest is here.
 *
 *	prior = { "tasks": [ {"pid": P, "tid": T, "start": S, "name": "nginx", "what": W, "before": TEXT, "want": TEXT}, ... ] }
 *
 * A task is who it was by its start time (field 22 of its stat): a number that has been given away again is left alone. One that has
 * ended took its settings along.
 *
 * New threads and children inherit. So apply looks again until it finds no thread or child of the recorded processes that is not
 * as wanted, and undo puts those that came later back to what their process had before. A process that was started anew by somebody
 * else (by a restart of the service) has nothing of ours, and is left alone.
 */
#pragma once

#include "engine/change.h"

/* How one kind of setting is read and written. Text is canonical: equal values are equal texts. */
struct task_ops {
	bool threads; /* each thread has its own; else a process has one */
	int (*read)(pid_t tid, const char *what, char **ret);
	int (*write)(pid_t tid, const char *what, const char *text);
	/* "taskset -cp 0-1 123"; for plans and restore.sh */
	void (*command)(struct strbuf *b, const char *tid, const char *what, const char *text);
	const char *unit; /* "CPUs" or "": said after the process's name */
};

/* The parameters that name the service's processes; each table that uses this file begins with them. */
#define TASKS_PARAMS                                                                                                       \
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "where it runs"},                                     \
		{.name = "process", .type = PARAM_STRING, .help = "the processes by their name, as in \"nginx\""},         \
	{                                                                                                                  \
		.name = "pid", .type = PARAM_INT, .min = 1, .max = 4194304, .help = "one process by its number"             \
	}

/* For resolve: exactly one of process and pid */
int tasks_check(const char *who, const json_t *args, struct err *err);

struct task {
	pid_t pid, tid;
	uint64_t start; /* of the thread */
	char name[16];
};

/*
 * The service's processes, or all their threads, now. On a node that is a namespace: those in it; on the host: those in this
 * process's own network namespace, so that a lab's daemons are not taken for the host's. -EOPNOTSUPP: none runs.
 */
int tasks_find(const struct node *n, const char *who, const json_t *args, bool threads, struct task **ret, size_t *ret_n,
	struct err *err);

/* For capture: adds what @what of each of them is; @want in canonical text. */
int tasks_add(const struct task_ops *ops, const struct node *n, const struct task *t, size_t count, const char *what,
	const char *want, json_t *list, struct err *err);

int tasks_apply(const struct task_ops *ops, const struct node *n, const json_t *prior, struct err *err);
int tasks_undo(const struct task_ops *ops, const struct node *n, const json_t *prior, struct err *err);
int tasks_verify(const struct task_ops *ops, const struct node *n, const json_t *prior, struct err *err);
int tasks_look(const struct task_ops *ops, const struct node *n, const json_t *prior, json_t **ret_items, struct err *err);
/* @want: what a plan without a host shows, by `what` */
void tasks_command(const struct task_ops *ops, const json_t *args, const json_t *prior, const char *what, const char *want,
	struct strbuf *ret_apply, struct strbuf *ret_undo);

/* The affinity of threads, in lists of processors: set.affinity and set.numa */
extern const struct task_ops tasks_cpus;
