/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.numa: processors and memory of a service that runs, on one NUMA node.
 *
 * What can be done to a process from outside, and undone exactly:
 *	processors	the affinity of all its threads (tasks.h). From then on the kernel takes new memory from the node that the
 *			thread runs on: that is its default policy
 *	memory	what it has on other nodes is moved, page by page, and was recorded page by page before, so that undo moves back
 *			what is still there. Pages that others share, or that a device holds, stay where they are
 * What cannot: the memory policy is each thread's own (set_mempolicy), so a process that was started under another one is refused, and
 * that new memory must never come from elsewhere, not even when the node is full, only its start can say:
 * numactl --cpunodebind=N --membind=N. One too large to be recorded page by page is refused too; with memory = "new" what it has
 * stays, and the rest holds.
 *
 * prior = { "tasks": [...] as in tasks.h, "memory": [ {"pid", "start", "name", "runs": text of pages.h} ] }
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "baseline/cpus.h"
#include "baseline/pages.h"
#include "baseline/tasks.h"

#define FEW 16 /* pages */

static int node_of(const json_t *args)
{
	return (int)json_integer_value(json_object_get(args, "numa_node"));
}

static bool moves(const json_t *args)
{
	return !streq(json_string_value(json_object_get(args, "memory")), "new");
}

static int numa_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	return tasks_check("set.numa", args, err);
}

static int numa_supported(const struct node *n, const json_t *args, struct err *err)
{
	_cleanup_free_ struct task *t = NULL;
	cpu_set_t set;
	size_t count;
	int r = cpus_of_numa_node("set.numa", node_of(args), &set, err);

	return r < 0 ? r : tasks_find(n, "set.numa", args, true, &t, &count, err);
}

static int capture_memory(const struct node *n, const json_t *args, const struct task *t, json_t *list, struct err *err)
{
	_cleanup_free_ char *runs = NULL;
	char policy[32];
	int r = pages_elsewhere(t->pid, node_of(args), &runs, policy);

	if (r == -ESRCH)
		return 0;
	if (r == -EBUSY) {
		err_set(err, -EOPNOTSUPP, "set.numa on %s: %s[%d] was started with the memory policy %s, which cannot be changed from outside",
			n->name, t->name, (int)t->pid, policy);
		return err_hint(err, "start it with numactl --cpunodebind=%d --membind=%d", node_of(args), node_of(args));
	}
	if (r == -E2BIG) {
		err_set(err, -EOPNOTSUPP, "set.numa on %s: %s[%d] is too large to be moved and put back page by page", n->name, t->name,
			(int)t->pid);
		return err_hint(err, "memory = \"new\" leaves what it has where it is; numactl at its start binds all of it");
	}
	if (r < 0)
		return err_set(err, r, "set.numa on %s: where the memory of %s[%d] is: %s", n->name, t->name, (int)t->pid, strerror(-r));
	if (*runs)
		json_array_append_new(list, json_pack("{s:i, s:I, s:s, s:s}", "pid", (int)t->pid, "start", (json_int_t)t->start, "name",
						    t->name, "runs", runs));
	return 0;
}

static int numa_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *list = json_array(), *memory = json_array();
	_cleanup_free_ struct task *t = NULL, *processes = NULL;
	_cleanup_free_ char *want = NULL;
	size_t count, n_processes;
	cpu_set_t set;
	int r = cpus_of_numa_node("set.numa", node_of(args), &set, err);

	if (r == 0)
		r = tasks_find(n, "set.numa", args, true, &t, &count, err);
	if (r < 0)
		return r;
	want = cpus_list(&set);
	if (!want)
		return -ENOMEM;
	r = tasks_add(&tasks_cpus, n, t, count, "", want, list, err);
	/* a machine with one node has no memory elsewhere, and may not even be able to say so */
	if (r == 0 && moves(args) && access("/sys/devices/system/node/node1", F_OK) == 0) {
		r = tasks_find(n, "set.numa", args, false, &processes, &n_processes, err);
		for (size_t i = 0; r == 0 && i < n_processes; i++)
			r = capture_memory(n, args, &processes[i], memory, err);
	}
	if (r < 0)
		return r;
	*ret_prior = json_pack("{s:O, s:O}", "tasks", list, "memory", memory);
	return *ret_prior ? 0 : -ENOMEM;
}

/* Calls @fn for each recorded process that still lives, with its runs. */
typedef int (*memory_fn)(const struct node *n, pid_t pid, const struct page_run *runs, size_t count, int node, struct err *err);

static int each_memory(const struct node *n, const json_t *args, const json_t *prior, memory_fn fn, struct err *err)
{
	const json_t *m;
	int result = 0;
	size_t i;

	json_array_foreach(json_object_get(prior, "memory"), i, m) {
		_cleanup_free_ struct page_run *runs = NULL;
		pid_t pid = (pid_t)json_integer_value(json_object_get(m, "pid"));
		const char *text = json_string_value(json_object_get(m, "runs"));
		struct err e = {0};
		uint64_t start;
		size_t count;
		int r;

		if (pid_start_time(pid, &start) < 0 || start != (uint64_t)json_integer_value(json_object_get(m, "start")))
			continue;
		r = text ? pages_parse(text, &runs, &count) : -EINVAL;
		if (r == 0)
			r = fn(n, pid, runs, count, node_of(args), &e);
		if (r == -ESRCH)
			continue;
		if (r != 0 && result == 0)
			result = e.text[0] ? err_set(err, r, "%s", e.text) :
					     err_set(err, r, "memory of %s[%d] on %s: %s",
						     json_string_value(json_object_get(m, "name")), (int)pid, n->name, strerror(-r));
	}
	return result;
}

static int move_there(const struct node *n _unused_, pid_t pid, const struct page_run *runs, size_t count, int node, struct err *err _unused_)
{
	struct pages_moved m;

	return pages_move(pid, runs, count, node, -1, &m);
}

static int move_back(const struct node *n _unused_, pid_t pid, const struct page_run *runs, size_t count, int node, struct err *err _unused_)
{
	struct pages_moved m;

	return pages_move(pid, runs, count, -1, node, &m);
}

/*
 * Pages come and go while a process runs: one that was given back and taken anew since is where the process runs now, and no one's to
 * report. More than a quarter of them says that they were not moved back.
 */
static int moved_back(const struct node *n, pid_t pid, const struct page_run *runs, size_t count, int node, struct err *err)
{
	uint64_t on = 0, all = 0;
	int r = pages_count(pid, runs, count, node, &on);

	for (size_t i = 0; i < count; i++)
		all += runs[i].pages;
	if (r < 0 || on <= all / 4 + FEW)
		return r;
	return err_set(err, 1, "memory of process %d on %s: %" PRIu64 " pages are on NUMA node %d that were on another one before", (int)pid,
		n->name, on, node);
}

static int numa_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	int r = tasks_apply(&tasks_cpus, n, prior, err);

	return r < 0 ? r : each_memory(n, args, prior, move_there, err);
}

static int numa_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	struct err e = {0};
	int r = tasks_undo(&tasks_cpus, n, prior, err), m = each_memory(n, args, prior, move_back, &e);

	if (m == 0 || r < 0)
		return r;
	return err_set(err, m, "%s", e.text);
}

static int numa_verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	int r = tasks_verify(&tasks_cpus, n, prior, err);

	return r != 0 ? r : each_memory(n, args, prior, moved_back, err);
}

static int numa_look(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_items, struct err *err)
{
	_cleanup_json_ json_t *items = NULL;
	json_t *item;
	size_t i;
	int r = tasks_look(&tasks_cpus, n, prior, &items, err);

	if (r < 0)
		return r;
	/* a thread that is bound to fewer of the node's processors (set.affinity) is on the node all the same */
	json_array_foreach(items, i, item) {
		const char *now = json_string_value(json_object_get(item, "now"));
		cpu_set_t have, want;

		if (json_is_false(json_object_get(item, "holds")) && now && cpus_parse_list(now, &have) == 0 &&
			cpus_parse_list(json_string_value(json_object_get(item, "want")), &want) == 0 && cpus_within(&have, &want))
			json_object_set_new(item, "holds", json_true());
	}
	json_array_foreach(json_object_get(prior, "memory"), i, item) {
		_cleanup_free_ struct page_run *runs = NULL;
		pid_t pid = (pid_t)json_integer_value(json_object_get(item, "pid"));
		uint64_t on = 0, all = 0, start;
		size_t count;

		if (pid_start_time(pid, &start) < 0 || start != (uint64_t)json_integer_value(json_object_get(item, "start")) ||
			pages_parse(json_string_value(json_object_get(item, "runs")), &runs, &count) < 0 ||
			pages_count(pid, runs, count, node_of(args), &on) < 0)
			continue;
		for (size_t k = 0; k < count; k++)
			all += runs[k].pages;
		/* how many go depends on who shares them: told, and never a drift */
		json_array_append_new(items,
			json_pack("{s:o, s:o, s:o, s:o, s:n, s:s}", "key",
				json_sprintf("%s[%d] pages elsewhere", json_string_value(json_object_get(item, "name")), (int)pid), "before",
				json_sprintf("%" PRIu64, all), "want", json_string("0"), "now", json_sprintf("%" PRIu64, all - on), "holds", "text",
				"pages that others share stay where they are"));
	}
	*ret_items = TAKE_PTR(items);
	return 0;
}

static int numa_command(const struct node *n _unused_, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const json_t *m;
	size_t i;

	if (!prior) {
		char list[64];

		snprintf(list, sizeof(list), "\"$(cat /sys/devices/system/node/node%d/cpulist)\"", node_of(args));
		tasks_command(&tasks_cpus, args, prior, "", list, ret_apply, ret_undo);
		if (moves(args))
			strbuf_addf(ret_apply, "migratepages PID all %d\n", node_of(args));
		return 0;
	}
	tasks_command(&tasks_cpus, args, prior, "", "", ret_apply, ret_undo);
	json_array_foreach(json_object_get(prior, "memory"), i, m) {
		json_int_t pid = json_integer_value(json_object_get(m, "pid"));

		strbuf_addf(ret_apply, "migratepages %" JSON_INTEGER_FORMAT " all %d\n", pid, node_of(args));
		strbuf_addf(ret_undo,
			"# left: pages of process %" JSON_INTEGER_FORMAT " that were on another NUMA node; muster restore moves them back\n", pid);
	}
	if (!ret_apply->len)
		strbuf_puts(ret_apply, "# nothing to do: it is so already\n");
	if (!ret_undo->len)
		strbuf_puts(ret_undo, "# nothing was changed\n");
	return 0;
}

static const struct param numa_params[] = {
	TASKS_PARAMS,
	{.name = "numa_node", .type = PARAM_INT, .required = true, .min = 0, .max = 1023, .help = "the NUMA node"},
	{.name = "memory",
		.type = PARAM_STRING,
		.values = "move|new",
		.deflt = "move",
		.help = "move: what it has on other nodes is moved; new: only what it takes from now on is of the node"},
	PARAM_END,
};

const struct change_ops change_set_numa = {
	.name = "set.numa",
	.summary = "Processors and memory of a service on one NUMA node",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = numa_params,
	.example = "{\"node\": \"node\", \"process\": \"daemon\", \"numa_node\": 1}",
	.resolve = numa_resolve,
	.supported = numa_supported,
	.capture = numa_capture,
	.apply = numa_apply,
	.undo = numa_undo,
	.verify = numa_verify,
	.look = numa_look,
	.command = numa_command,
};
