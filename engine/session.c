/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/session.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/source.h"
#include "engine/standing.h"
#include "engine/wire.h"

#define DURATION_MAX (24 * 3600 * NSEC_PER_SEC)

static const char *text(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

/* How the script process ended, for a person. */
static int script_gone(const struct session *s, struct err *err)
{
	siginfo_t si = {0};

	/* WNOWAIT: session_end() reaps */
	if (waitid(P_PID, (id_t)s->pid, &si, WEXITED | WNOWAIT) == 0 && si.si_code != CLD_EXITED) {
		err_set(err, -EPIPE, "%s: the script was killed by signal %d (%s)", s->path, si.si_status,
			strsignal(si.si_status));
		if (si.si_status == SIGSYS)
			return err_hint(err, "it tried something that a scenario may not do");
		if (si.si_status == SIGXCPU || si.si_status == SIGKILL)
			return err_hint(err, "it used up its processor time or its memory: is there an endless loop?");
		return -EPIPE;
	}
	return err_set(err, -EPIPE, "%s: the script ended without a word", s->path);
}

static int answer_source(struct session *s, const json_t *request, const char *kind, struct err *err)
{
	_cleanup_free_ char *file = NULL, *source = NULL;
	const char *name = text(request, "name");
	struct err why = {0};
	int r;

	if (!name)
		return err_set(err, -EPROTO, "%s: a request for a %s without a name", s->path, kind);
	r = plan_find_source(kind, name, s->path, &file, &source, &why);
	if (r < 0)
		return session_refuse(s, &why);
	return session_reply(s, json_pack("{s:s, s:s}", "file", file, "text", source));
}

int session_next(struct session *s, nsec_t deadline, json_t **ret_request, const char **ret_op, struct err *err)
{
	for (;;) {
		_cleanup_json_ json_t *request = NULL;
		const char *op;
		int r = wire_recv_until(s->fd, deadline, &request, err);

		if (r == -EPIPE || r == -ECONNRESET)
			return script_gone(s, err);
		if (r < 0)
			return r;
		op = text(request, "op");
		if (!op || !json_is_integer(json_object_get(request, "id")))
			return err_set(err, -EPROTO, "%s: a message without \"op\" or \"id\"", s->path);
		s->id = json_integer_value(json_object_get(request, "id"));
		if (streq(op, "site") || streq(op, "part") || streq(op, "profile")) {
			r = answer_source(s, request, op, err);
			if (r < 0)
				return r;
			continue;
		}
		*ret_op = op;
		*ret_request = TAKE_PTR(request);
		return 0;
	}
}

int session_reply(struct session *s, json_t *value)
{
	_cleanup_json_ json_t *m = json_pack("{s:i, s:I, s:o}", "v", WIRE_VERSION, "id", s->id, "value",
		value ? value : json_null());

	return m ? wire_send(s->fd, m) : -ENOMEM;
}

int session_refuse(struct session *s, const struct err *why)
{
	_cleanup_json_ json_t *m = json_pack("{s:i, s:I, s:s, s:s?, s:b}", "v", WIRE_VERSION, "id", s->id, "error",
		why->text, "hint", why->hint[0] ? why->hint : NULL, "halted", why->code == -ECANCELED);

	return m ? wire_send(s->fd, m) : -EPROTO;
}

int session_script_error(const json_t *request, struct err *err)
{
	const char *where = text(request, "where"), *what = text(request, "text"), *hint = text(request, "hint");

	err_set(err, -EINVAL, "%s%s%s", where ? where : "", where && *where ? ": " : "", what ? what : "the script failed");
	if (hint)
		err_hint(err, "%s", hint);
	return -EINVAL;
}

void session_end(struct session *s)
{
	if (s->pidfd >= 0) {
		(void)syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0);
		close(TAKE_FD(s->pidfd));
	}
	if (s->fd >= 0)
		close(TAKE_FD(s->fd));
	if (s->pid > 0) {
		while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
			;
		s->pid = 0;
	}
	json_decref(TAKE_PTR(s->declared));
}

/* ── the declaration ───────────────────────────────────────────────────────────────────────── */

static int prefix_where(const json_t *j, struct err *err)
{
	const char *where = text(j, "where");

	return where && *where ? err_prefix(err, "%s", where) : err->code;
}

static int get_duration(const json_t *j, const char *key, bool required, json_t *out, struct err *err)
{
	const json_t *v = json_object_get(j, key);

	if (!v || json_is_null(v)) {
		if (required)
			return err_set(err, -EINVAL, "scenario: %s is missing", key);
		return json_object_set_new(out, key, json_null());
	}
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > DURATION_MAX)
		return err_set(err, -ERANGE, "scenario: %s is not a duration from 0 to 24h", key);
	return json_object_set(out, key, (json_t *)v);
}

static int check_predicates(const struct site *site, const json_t *list, const char *what, struct err *err)
{
	const json_t *j;
	size_t i;

	if (list && !json_is_array(list))
		return err_set(err, -EINVAL, "scenario: %s: its predicates are not a list", what);
	json_array_foreach((json_t *)list, i, j) {
		struct predicate *p = NULL;
		int r = predicate_from_json(j, site, &p, err);

		predicate_free(p);
		if (r < 0) {
			err_prefix(err, "%s", what);
			return prefix_where(j, err);
		}
	}
	return 0;
}

static int check_loads(const struct site *site, const json_t *loads, json_t *out, struct err *err)
{
	const struct param_names names = site_names(site);
	json_t *list = json_array();
	const json_t *j, *other;
	size_t i, k;

	if (json_object_set_new(out, "loads", list) < 0)
		return -ENOMEM;
	json_array_foreach((json_t *)loads, i, j) {
		const struct source_ops *ops =
			text(j, "kind") ? source_find(SOURCE_LOAD, text(j, "kind")) : NULL;
		const char *name = text(j, "name");
		char who[64];
		json_t *args;
		int r;

		if (!ops || !name || !*name)
			return err_set(err, -EINVAL, "scenario: load %zu has no known kind or no name", i + 1);
		json_array_foreach(list, k, other)
			if (streq(text(other, "name"), name))
				return err_set(err, -EINVAL, "scenario: two loads are called \"%s\"", name);
		snprintf(who, sizeof(who), "load.%s", ops->name);
		r = param_check(ops->params, who, json_object_get(j, "args"), &names, &args, err);
		if (r < 0)
			return prefix_where(j, err);
		json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:s?}", "kind", ops->name, "name", name,
						    "args", args, "where", text(j, "where")));
	}
	return 0;
}

static int check_baseline(const struct site *site, const json_t *baseline, json_t *out, struct err *err)
{
	json_t *list = json_array(), *copy;
	const json_t *j;
	size_t i;

	if (json_object_set_new(out, "baseline", json_pack("{s:s?, s:o}", "profile", text(baseline, "profile"), "changes",
						       list)) < 0)
		return -ENOMEM;
	json_array_foreach(json_object_get(baseline, "changes"), i, j) {
		const struct change_ops *ops;
		struct node *node;
		int r;

		if (json_object_get(j, "optional") && !json_is_boolean(json_object_get(j, "optional")))
			return err_set(err, -EINVAL, "baseline: optional is neither true nor false");
		copy = json_deep_copy(j);
		if (!copy)
			return -ENOMEM;
		r = plan_check_change(site, copy, &ops, &node, err);
		if (r == 0 && ops->kind != CHANGE_SETTING)
			r = err_set(err, -EINVAL, "%s is no setting: a baseline has none but settings", ops->name);
		if (r < 0) {
			json_decref(copy);
			err_prefix(err, "baseline");
			return prefix_where(j, err);
		}
		json_array_append_new(list, copy);
	}
	return 0;
}

int session_check_scenario(const json_t *declared, struct site **ret_site, json_t **ret_scenario, struct err *err)
{
	_cleanup_site_ struct site *site = NULL;
	_cleanup_json_ json_t *out = json_object();
	const json_t *steady = json_object_get(declared, "steady_state"), *stop = json_object_get(declared, "stop_when"),
		     *objective = json_object_get(declared, "objective"), *unsafe = json_object_get(declared, "unsafe"),
		     *budget = json_object_get(objective, "error_budget");
	json_t *steady_out = json_object(), *objective_out = json_object();
	const char *name = text(declared, "name");
	int r;

	json_object_set_new(out, "steady_state", steady_out);
	json_object_set_new(out, "objective", objective_out);
	if (!name || !*name || strlen(name) > 64 ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != strlen(name))
		return err_set(err, -EINVAL, "scenario: name is missing or not 1 to 64 letters, digits, - and _");
	if (standing_run(name))
		return err_set(err, -EINVAL, "scenario: name = \"%s\": %s", name, standing_names);
	json_object_set_new(out, "name", json_string(name));
	json_object_set_new(out, "summary", json_string(text(declared, "summary") ? text(declared, "summary") : ""));
	r = site_from_json(json_object_get(declared, "site"), &site, err);
	if (r < 0)
		return r;
	json_object_set(out, "site", json_object_get(declared, "site"));
	r = get_duration(declared, "deadline_ns", true, out, err);
	if (r == 0)
		r = check_baseline(site, json_object_get(declared, "baseline"), out, err);
	if (r == 0)
		r = check_loads(site, json_object_get(declared, "loads"), out, err);
	if (r == 0)
		r = get_duration(steady, "settle_ns", json_is_object(steady), steady_out, err);
	if (r == 0)
		r = get_duration(steady, "within_ns", json_is_object(steady), steady_out, err);
	if (r == 0)
		r = check_predicates(site, json_object_get(steady, "predicates"), "steady_state", err);
	if (r == 0)
		r = check_predicates(site, stop, "stop_when", err);
	if (r == 0)
		r = get_duration(objective, "rto_ns", false, objective_out, err);
	if (r == 0)
		r = get_duration(objective, "rpo_ns", false, objective_out, err);
	if (r == 0)
		r = check_predicates(site, json_object_get(objective, "predicates"), "objective", err);
	if (r < 0)
		return r;
	if (budget && !json_is_null(budget) &&
		!(json_is_number(budget) && json_number_value(budget) >= 0 && json_number_value(budget) <= 1))
		return err_set(err, -ERANGE, "scenario: objective: error_budget is not a ratio from 0%% to 100%%");
	json_object_set(objective_out, "error_budget", budget ? (json_t *)budget : json_null());
	json_object_set_new(steady_out, "predicates", json_deep_copy(json_object_get(steady, "predicates")) ?: json_array());
	json_object_set_new(objective_out, "predicates",
		json_deep_copy(json_object_get(objective, "predicates")) ?: json_array());
	json_object_set_new(out, "stop_when", json_deep_copy(stop) ?: json_array());
	json_object_set_new(out, "unsafe", json_is_array(unsafe) ? json_deep_copy(unsafe) : json_array());
	*ret_site = TAKE_PTR(site);
	*ret_scenario = TAKE_PTR(out);
	return 0;
}

int session_check_expectation(const struct site *site, const json_t *request, const char *time_key,
	struct predicate **ret, nsec_t *ret_ns, struct err *err)
{
	const json_t *ns = json_object_get(request, time_key);

	if (!json_is_integer(ns) || json_integer_value(ns) < 0 || json_integer_value(ns) > DURATION_MAX)
		return err_set(err, -ERANGE, "%s is not a duration from 0 to 24h", time_key);
	*ret_ns = json_integer_value(ns);
	return predicate_from_json(json_object_get(request, "predicate"), site, ret, err);
}
