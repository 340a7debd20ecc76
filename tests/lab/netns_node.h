/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * netns_node.h: a node in a network namespace of the test's own, held open by a child process and gone
 * with it; and a change's life on it, by way of a journal in a folder of the test's own.
 *
 * Include after cmocka.h.
 */
#pragma once

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "engine/journal.h"
#include "engine/str.h"

struct netns_node {
	pid_t holder;
	struct node *node;
};

/* A skip must say why: cmocka's own does not. */
#define SKIP(...)                                                                                  \
	do {                                                                                       \
		printf("SKIP: %s: ", __func__);                                                    \
		printf(__VA_ARGS__);                                                               \
		printf("\n");                                                                      \
		skip();                                                                            \
	} while (0)

static inline void netns_node_drop(struct netns_node *n)
{
	node_free(n->node);
	if (n->holder > 0) {
		kill(n->holder, SIGKILL);
		waitpid(n->holder, NULL, 0);
	}
	*n = (struct netns_node){0};
}

/* False: no namespace to be had here (not root) */
static inline bool netns_node_make(struct netns_node *ret, const char *name)
{
	_cleanup_free_ char *path = NULL;
	int ready[2];
	char c = 0;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		if (unshare(CLONE_NEWNET) == 0 && write(ready[1], "y", 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
	close(ready[1]);
	*ret = (struct netns_node){.holder = pid};
	if (read(ready[0], &c, 1) != 1 || c != 'y') {
		close(ready[0]);
		netns_node_drop(ret);
		return false;
	}
	close(ready[0]);
	path = strf("/proc/%d/ns/net", (int)pid);
	ret->node = node_new(name, path);
	assert_non_null(ret->node);
	assert_int_equal(node_open(ret->node, NULL), 0);
	return true;
}

/* A journal in a folder of its own */
struct lab_journal {
	char dir[64];
	struct journal *j;
};

static inline void lab_journal_make(struct lab_journal *ret)
{
	static char durable[96];
	struct err err = {0};

	strcpy(ret->dir, "/tmp/muster-test-XXXXXX");
	assert_non_null(mkdtemp(ret->dir));
	snprintf(durable, sizeof(durable), "%s/durable", ret->dir);
	journal_volatile_root = ret->dir;
	journal_durable_root = durable;
	if (journal_create("test", &ret->j, &err) < 0)
		fail_msg("%s", err.text);
}

static inline void lab_journal_drop(struct lab_journal *l)
{
	char command[128];

	journal_close(l->j);
	snprintf(command, sizeof(command), "rm -rf -- '%s'", l->dir);
	assert_int_equal(system(command), 0);
}

/* @args as a scenario would give them: checked, resolved, applied. 0 or -errno */
static inline int lab_apply(struct lab_journal *l, const char *name, struct node *node,
	const struct site *site, json_t *args, struct change *ret, struct err *err)
{
	const struct change_ops *ops = change_find(name);
	json_t *checked = NULL;
	int r;

	assert_non_null(ops);
	*ret = (struct change){.ops = ops, .node = node};
	*err = (struct err){0};
	r = param_check(ops->params, name, args, NULL, &checked, err);
	json_decref(args);
	if (r == 0 && ops->resolve)
		r = ops->resolve(site, checked, err);
	ret->args = checked;
	return r < 0 ? r : change_apply(l->j, ret, err);
}

static inline void change_drop(struct change *c)
{
	json_decref(c->args);
	json_decref(c->prior);
	*c = (struct change){0};
}

/* What a command prints, in the node's namespace; the test's own, short output only */
static inline char *run_in(const struct node *n, const char *command)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	char *text = NULL;
	size_t len;
	FILE *p;

	assert_int_equal(node_enter(n, &v, NULL), 0);
	p = popen(command, "r"); /* forked from this thread: in this namespace */
	assert_non_null(p);
	assert_int_equal(fd_read_all(fileno(p), 4 << 20, &text, &len), 0);
	if (pclose(p) != 0)
		fail_msg("%s: failed: %s", command, text);
	return text;
}
