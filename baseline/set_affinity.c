/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.affinity: the processors that the threads of a service may run on. prior and the ways of threads: tasks.h
 *
 * The kernel takes the intersection with the cpuset of the thread's cgroup and says nothing; so it is read back, and less than was
 * asked for is a failure that names the cpuset, and is put back.
 */
#include <string.h>

#include "baseline/cpus.h"
#include "baseline/tasks.h"

static const char *cpus_of(const json_t *args)
{
	return json_string_value(json_object_get(args, "cpus"));
}

static int affinity_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	int r = tasks_check("set.affinity", args, err);

	return r < 0 ? r : cpus_check_text("set.affinity", cpus_of(args), err);
}

static int affinity_supported(const struct node *n, const json_t *args, struct err *err)
{
	_cleanup_free_ struct task *t = NULL;
	cpu_set_t set;
	size_t count;
	int r = cpus_online("set.affinity", cpus_of(args), &set, err);

	return r < 0 ? r : tasks_find(n, "set.affinity", args, true, &t, &count, err);
}

static int affinity_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *list = json_array();
	_cleanup_free_ struct task *t = NULL;
	_cleanup_free_ char *want = NULL;
	cpu_set_t set;
	size_t count;
	int r = cpus_online("set.affinity", cpus_of(args), &set, err);

	if (r == 0)
		r = tasks_find(n, "set.affinity", args, true, &t, &count, err);
	if (r < 0)
		return r;
	want = cpus_list(&set);
	if (!want)
		return -ENOMEM;
	r = tasks_add(&tasks_cpus, n, t, count, "", want, list, err);
	if (r < 0)
		return r;
	*ret_prior = json_pack("{s:O}", "tasks", list);
	return *ret_prior ? 0 : -ENOMEM;
}

static int affinity_apply(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return tasks_apply(&tasks_cpus, n, prior, err);
}

static int affinity_undo(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return tasks_undo(&tasks_cpus, n, prior, err);
}

static int affinity_verify(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return tasks_verify(&tasks_cpus, n, prior, err);
}

static int affinity_look(
	const struct node *n, const json_t *args _unused_, const json_t *prior, json_t **ret_items, struct err *err)
{
	return tasks_look(&tasks_cpus, n, prior, ret_items, err);
}

static int affinity_command(const struct node *n _unused_, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	tasks_command(&tasks_cpus, args, prior, "", cpus_of(args), ret_apply, ret_undo);
	if (prior && !ret_apply->len) {
		strbuf_puts(ret_apply, "# nothing to do: it is so already\n");
		strbuf_puts(ret_undo, "# nothing was changed\n");
	}
	return 0;
}

static const struct param affinity_params[] = {
	TASKS_PARAMS,
	{.name = "cpus", .type = PARAM_STRING, .required = true, .help = "\"1\", \"0-3,8\", or \"all\""},
	PARAM_END,
};

const struct change_ops change_set_affinity = {
	.name = "set.affinity",
	.summary = "Processors that the threads of a service run on, and those it makes from then on",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = affinity_params,
	.example = "{\"node\": \"node\", \"process\": \"daemon\", \"cpus\": \"0\"}",
	.resolve = affinity_resolve,
	.supported = affinity_supported,
	.capture = affinity_capture,
	.apply = affinity_apply,
	.undo = affinity_undo,
	.verify = affinity_verify,
	.look = affinity_look,
	.command = affinity_command,
};
