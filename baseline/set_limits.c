/* SPDX-License-Identifier: GPL-2.0-only */
/* set.limits: resource limits of a service that runs, by prlimit(2). prior and the ways of processes: tasks.h */
#include <string.h>
#include <sys/capability.h>

#include "baseline/rlimits.h"
#include "baseline/tasks.h"
#include "engine/units.h"

static int limit_read(pid_t pid, const char *what, char **ret)
{
	char text[RLIMITS_TEXT_MAX];
	struct rlimit l;
	int resource, r = rlimits_find("set.limits", what, &resource, NULL);

	if (r < 0)
		return r;
	if (prlimit(pid, (__rlimit_resource_t)resource, NULL, &l) < 0)
		return -errno;
	rlimits_format(&l, text);
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

static int limit_write(pid_t pid, const char *what, const char *text)
{
	struct rlimit l;
	bool raise;
	int resource, r = rlimits_find("set.limits", what, &resource, NULL);

	if (r == 0)
		r = rlimits_parse(text, &l, &raise);
	if (r < 0)
		return r;
	return prlimit(pid, (__rlimit_resource_t)resource, &l, NULL) < 0 ? -errno : 0;
}

static void limit_command(struct strbuf *b, const char *pid, const char *what, const char *text)
{
	/* "N:" is the soft one alone */
	strbuf_addf(b, "prlimit --pid %s --%s=%s%s\n", pid, what, text, strchr(text, ':') ? "" : ":");
}

static const struct task_ops ops = {
	.threads = false, .read = limit_read, .write = limit_write, .command = limit_command, .unit = ""};

static int limits_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	json_t *limits = json_object_get(args, "limits"), *value;
	const char *name;
	int r = tasks_check("set.limits", args, err);

	if (r == 0 && json_object_size(limits) == 0)
		r = err_set(err, -EINVAL, "set.limits: limits is empty");
	if (r < 0)
		return r;
	json_object_foreach(limits, name, value) {
		struct rlimit l;
		bool raise;
		int resource;

		r = rlimits_find("set.limits", name, &resource, err);
		if (r < 0)
			return r;
		r = rlimits_parse(json_string_value(value), &l, &raise);
		if (r < 0) {
			err_set(err, -EINVAL, "set.limits: %s = \"%.40s\": %s", name, json_string_value(value),
				r == -ERANGE ? "the soft limit is above the hard one, or too large" : "no limit");
			return err_hint(err, "as in 65536, \"1024:65536\" (soft:hard) or \"unlimited\"");
		}
	}
	return 0;
}

/* More than that no process may have open, whatever its limit: the kernel refuses the limit. */
static int check_nofile(const json_t *limits, struct err *err)
{
	const char *want = json_string_value(json_object_get(limits, "nofile"));
	_cleanup_free_ char *text = NULL;
	struct rlimit l;
	int64_t most;
	bool raise;

	if (!want || rlimits_parse(want, &l, &raise) < 0 || file_read("/proc/sys/fs/nr_open", 64, &text, NULL) < 0)
		return 0;
	text[strcspn(text, "\n")] = '\0';
	if (units_int(text, 0, INT64_MAX, &most) < 0 || l.rlim_max <= (rlim_t)most)
		return 0;
	err_set(err, -EOPNOTSUPP, "set.limits: nofile = %s: this machine allows no more than %s (fs.nr_open)", want, text);
	return err_hint(err, "set.sysctl { node = \"host\", values = { [\"fs.nr_open\"] = ... } } before it");
}

/* Without it a hard limit can be lowered, but not raised again. */
static bool may_raise(void)
{
	cap_t mine = cap_get_proc();
	cap_flag_value_t on = CAP_CLEAR;

	if (mine) {
		(void)cap_get_flag(mine, CAP_SYS_RESOURCE, CAP_EFFECTIVE, &on);
		cap_free(mine);
	}
	return on == CAP_SET;
}

/* "65536" becomes what it means for each of them, given the hard limit that it has. */
static int complete(const struct node *n, json_t *list, struct err *err)
{
	bool allowed = may_raise();
	json_t *rec;
	size_t i;

	json_array_foreach(list, i, rec) {
		const char *what = json_string_value(json_object_get(rec, "what")), *name = json_string_value(json_object_get(rec, "name"));
		char text[RLIMITS_TEXT_MAX];
		struct rlimit want, before;
		bool raise, ignored;

		if (rlimits_parse(json_string_value(json_object_get(rec, "want")), &want, &raise) < 0 ||
			rlimits_parse(json_string_value(json_object_get(rec, "before")), &before, &ignored) < 0)
			return err_set(err, -EINVAL, "set.limits: %s on %s: no limit", what, n->name);
		if (raise)
			want.rlim_max = MAX(want.rlim_cur, before.rlim_max);
		if (want.rlim_max != before.rlim_max && !allowed) {
			err_set(err, -EOPNOTSUPP, "set.limits: %s of %s on %s: its hard limit can%s without CAP_SYS_RESOURCE, which muster has not here",
				what, name, n->name, want.rlim_max > before.rlim_max ? "not be raised" : " be lowered, and not be put back");
			return err_hint(err, "leave the hard limit as it is: %s = the soft limit alone, at most the hard one", what);
		}
		rlimits_format(&want, text);
		json_object_set_new(rec, "want", json_string(text));
	}
	return 0;
}

static int limits_supported(const struct node *n, const json_t *args, struct err *err)
{
	_cleanup_free_ struct task *t = NULL;
	size_t count;
	int r = tasks_find(n, "set.limits", args, false, &t, &count, err);

	return r < 0 ? r : check_nofile(json_object_get(args, "limits"), err);
}

static int limits_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *list = json_array();
	_cleanup_free_ struct task *t = NULL;
	const json_t *want;
	const char *what;
	size_t count;
	int r = tasks_find(n, "set.limits", args, false, &t, &count, err);

	if (r < 0)
		return r;
	json_object_foreach(json_object_get(args, "limits"), what, want) {
		r = tasks_add(&ops, n, t, count, what, json_string_value(want), list, err);
		if (r < 0)
			return r;
	}
	r = complete(n, list, err);
	if (r < 0)
		return r;
	*ret_prior = json_pack("{s:O}", "tasks", list);
	return *ret_prior ? 0 : -ENOMEM;
}

static int limits_apply(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return tasks_apply(&ops, n, prior, err);
}

static int limits_undo(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return tasks_undo(&ops, n, prior, err);
}

static int limits_verify(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	return tasks_verify(&ops, n, prior, err);
}

static int limits_look(
	const struct node *n, const json_t *args _unused_, const json_t *prior, json_t **ret_items, struct err *err)
{
	return tasks_look(&ops, n, prior, ret_items, err);
}

static int limits_command(const struct node *n _unused_, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const json_t *want;
	const char *what;

	json_object_foreach(json_object_get(args, "limits"), what, want)
		tasks_command(&ops, args, prior, what, json_string_value(want), ret_apply, ret_undo);
	if (prior && !ret_apply->len) {
		strbuf_puts(ret_apply, "# nothing to do: it is so already\n");
		strbuf_puts(ret_undo, "# nothing was changed\n");
	}
	return 0;
}

static const struct param limits_params[] = {
	TASKS_PARAMS,
	{.name = "limits",
		.type = PARAM_MAP,
		.of = PARAM_TEXT,
		.required = true,
		.help = "as in { nofile = 65536, core = \"0:unlimited\", memlock = \"unlimited\" }: the soft limit (and the hard one, if it is lower), or soft:hard"},
	PARAM_END,
};

const struct change_ops change_set_limits = {
	.name = "set.limits",
	.summary = "Resource limits of a service that runs, and of what it starts from then on",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = limits_params,
	.example = "{\"node\": \"node\", \"process\": \"daemon\", \"limits\": {\"nofile\": \"777\", \"core\": \"0\"}}",
	.resolve = limits_resolve,
	.supported = limits_supported,
	.capture = limits_capture,
	.apply = limits_apply,
	.undo = limits_undo,
	.verify = limits_verify,
	.look = limits_look,
	.command = limits_command,
};
