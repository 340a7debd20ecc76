/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/plan.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/clock.h"
#include "engine/embedded.h"
#include "engine/mgmt.h"
#include "engine/session.h"
#include "engine/source.h"
#include "engine/units.h"

static const char *text(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

void plan_free(struct plan *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n_steps; i++)
		json_decref(p->steps[i].request);
	free(p->steps);
	site_free(p->site);
	json_decref(p->declared);
	json_decref(p->scenario);
	json_decref(p->set);
	json_decref(p->mgmt);
	free(p->text);
	free(p->file);
	free(p);
}

/* ── sites and profiles by name ────────────────────────────────────────────────────────────── */

/* An address of documentation (RFC 5737): a service has to have one, and nobody here answers for it. */
static const char local_site[] = "return { name = '" PLAN_LOCAL "', summary = 'this machine', switches = {},\n"
				 "nodes = { { name = '" PLAN_LOCAL "', links = {} } },\n"
				 "services = { { name = 'local', port = 8080, vips = { '192.0.2.1' }, director = '" PLAN_LOCAL "',\n"
				 "servers = { { node = '" PLAN_LOCAL "', weight = 1 } } } } }\n";

int plan_find_source(const char *kind, const char *name, const char *scenario_path, char **ret_file, char **ret_text,
	struct err *err)
{
	const char *room = streq(kind, "site") ? "lab/sites" : streq(kind, "part") ? "lab/parts" : "baseline/profiles", *slash;
	_cleanup_free_ char *beside = NULL, *etc = NULL, *own = NULL;
	const char *names[64] = {NULL}, *near;
	static char found[63][64];
	const struct embedded *e;
	size_t n = 0;

	/* The script names it, so it must not be able to name anything else. */
	if (!*name || strlen(name) > 63 ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != strlen(name))
		return err_set(err, -EINVAL, "\"%.63s\" is no name of a %s", name, kind);
	slash = scenario_path ? strrchr(scenario_path, '/') : NULL;
	beside = scenario_path ? strf("%.*ssites/%s.lua", slash ? (int)(slash - scenario_path + 1) : 0, scenario_path, name) :
				 NULL;
	etc = strf("/etc/muster/%ss/%s.lua", kind, name);
	own = strf("%s/%s.lua", room, name);
	if (!etc || !own)
		return -ENOMEM;
	if (streq(kind, "site") && streq(name, PLAN_LOCAL)) {
		*ret_text = strdup(local_site);
		*ret_file = TAKE_PTR(own);
		return *ret_text ? 0 : -ENOMEM;
	}
	if (streq(kind, "site") && beside && file_read(beside, PLAN_SCENARIO_MAX, ret_text, NULL) == 0)
		return (*ret_file = TAKE_PTR(beside)) ? 0 : -ENOMEM;
	if (file_read(etc, PLAN_SCENARIO_MAX, ret_text, NULL) == 0)
		return (*ret_file = TAKE_PTR(etc)) ? 0 : -ENOMEM;
	e = embedded_find(own);
	if (e) {
		*ret_text = strdup(e->data);
		*ret_file = TAKE_PTR(own);
		return *ret_text ? 0 : -ENOMEM;
	}
	for (e = embedded_files; e->name && n < ARRAY_SIZE(found); e++) {
		if (strncmp(e->name, room, strlen(room)) != 0)
			continue;
		snprintf(found[n], sizeof(found[n]), "%.*s", (int)(strlen(e->name) - strlen(room) - 5),
			e->name + strlen(room) + 1);
		names[n] = found[n];
		n++;
	}
	near = str_nearest(name, names);
	err_set(err, -ENOENT, "there is no %s \"%s\"", kind, name);
	if (near)
		err_hint(err, "did you mean \"%s\"? muster list %ss shows them", near, kind);
	else
		err_hint(err, "muster list %ss shows them; one of your own goes to %s", kind, etc);
	return -ENOENT;
}

/* ── changes ───────────────────────────────────────────────────────────────────────────────── */

static int unknown_change(const char *name, struct err *err)
{
	const char *names[128] = {NULL}, *near;
	size_t n = 0;

	for (const struct change_ops *const *c = change_table; *c && n < ARRAY_SIZE(names) - 1; c++)
		if ((*c)->kind != CHANGE_LAB)
			names[n++] = (*c)->name;
	near = str_nearest(name, names);
	err_set(err, -EINVAL, "there is no change \"%.64s\"", name);
	if (near)
		err_hint(err, "did you mean %s?", near);
	return -EINVAL;
}

int plan_check_change(const struct site *site, json_t *request, const struct change_ops **ret_ops,
	struct node **ret_node, struct err *err)
{
	const char *name = text(request, "change");
	const struct change_ops *ops = name ? change_find(name) : NULL;
	const struct param_names names =
		ops && ops->kind == CHANGE_SETTING ? site_setting_names(site) : site_names(site);
	const json_t *given = json_object_get(request, "args");
	_cleanup_json_ json_t *args = NULL, *none = NULL;
	struct node *node;
	int r;

	if (!ops || ops->kind == CHANGE_LAB)
		return unknown_change(name ? name : "", err);
	if (!given)
		given = none = json_object();
	r = param_check(ops->params, ops->name, given, &names, &args, err);
	if (r == 0 && ops->resolve)
		r = ops->resolve(site, args, err);
	if (r < 0)
		return r;
	node = text(args, "node") ? site_node(site, text(args, "node")) : NULL;
	if (!node)
		return err_set(err, -EINVAL, "%s: node is missing", ops->name);
	if (json_object_set(request, "args", args) < 0)
		return -ENOMEM;
	*ret_ops = ops;
	*ret_node = node;
	return 0;
}

/* ── the record pass ───────────────────────────────────────────────────────────────────────── */

static int read_scenario(const char *path, struct plan *p, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int r;

	if (fd < 0 && errno == ENOENT) {
		/* one that ships with muster, by name or by its path in the source tree */
		_cleanup_free_ char *own = strchr(path, '/') ? strdup(path) : strf("scenarios/%s.lua", path);
		const struct embedded *e = own ? embedded_find(own) : NULL;

		if (e && strncmp(e->name, "scenarios/", 10) == 0) {
			p->text = strdup(e->data);
			p->text_len = e->len;
			return p->text ? 0 : -ENOMEM;
		}
		err_set(err, -ENOENT, "%s: there is no such file", path);
		return err_hint(err, "muster list scenarios shows the ones that ship with muster");
	}
	if (fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: it is not a file", path);
	r = fd_read_all(fd, PLAN_SCENARIO_MAX, &p->text, &p->text_len);
	if (r == -EFBIG)
		return err_set(err, r, "%s:1: the scenario is larger than 1 MiB", path);
	if (r < 0)
		return err_set(err, r, "%s: %s", path, strerror(-r));
	return 0;
}

static int add_step(struct plan *p, const json_t *request, const struct change_ops *ops, struct node *node, struct err *err)
{
	struct plan_step *more;
	json_t *copy;

	if (p->n_steps == PLAN_STEPS_MAX)
		return err_set(err, -E2BIG, "%s: the method has more than %d steps", p->file, PLAN_STEPS_MAX);
	more = realloc(p->steps, (p->n_steps + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	p->steps = more;
	copy = json_copy((json_t *)request);
	json_object_del(copy, "v");
	json_object_del(copy, "id");
	more[p->n_steps++] = (struct plan_step){.request = copy, .ops = ops, .node = node};
	return 0;
}

static bool asks(const json_t *predicate, const char *source)
{
	const char *name = json_string_value(json_object_get(predicate, "probe"));
	const struct probe_ops *probe = name ? predicate_probe(name) : NULL;

	return probe && probe->source && streq(probe->source, source);
}

static bool any_asks(const json_t *predicates, const char *source)
{
	const json_t *j;
	size_t i;

	json_array_foreach (predicates, i, j)
		if (asks(j, source))
			return true;
	return false;
}

bool plan_asks(const struct plan *p, const char *source)
{
	if (any_asks(json_object_get(json_object_get(p->scenario, "steady_state"), "predicates"), source) ||
		any_asks(json_object_get(p->scenario, "stop_when"), source) ||
		any_asks(json_object_get(json_object_get(p->scenario, "objective"), "predicates"), source))
		return true;
	for (size_t i = 0; i < p->n_steps; i++)
		if (asks(json_object_get(p->steps[i].request, "predicate"), source) || asks(p->steps[i].request, source))
			return true; /* run:sample() names its probe itself */
	return false;
}

json_t *plan_takes_xdp(const struct plan *p)
{
	json_t *all = NULL;

	for (size_t i = 0; i < p->n_steps; i++) {
		const struct plan_step *s = &p->steps[i];
		_cleanup_json_ json_t *reach = NULL;
		const json_t *d;
		size_t k;

		if (!s->ops || !s->ops->takes_xdp || !s->ops->reach ||
			s->ops->reach(s->node, json_object_get(s->request, "args"), &reach, NULL) < 0)
			continue;
		json_array_foreach (json_object_get(reach, "devices"), k, d) {
			if (!all)
				all = json_array();
			json_array_append_new(all,
				json_pack("{s:s, s:O, s:s}", "node", s->node->name, "dev", json_object_get(d, "dev"), "by", s->ops->name));
		}
	}
	return all;
}

/* Answers one request as if all went well. Returns 1 when the script has ended well. */
static int record_request(struct plan *p, struct session *s, json_t *request, const char *op, struct err *err)
{
	const struct change_ops *ops = NULL;
	struct predicate *predicate = NULL;
	struct node *node = NULL;
	struct err why = {0};
	nsec_t ns;
	int r = 0;

	if (streq(op, "done"))
		return p->scenario ? 1 : err_set(err, -EINVAL, "%s: it returns no scenario", p->file);
	if (streq(op, "error"))
		return session_script_error(request, err);
	if (streq(op, "scenario")) {
		if (p->scenario)
			return err_set(err, -EINVAL, "%s: it declares two scenarios", p->file);
		s->declared = json_incref(json_object_get(request, "scenario"));
		r = session_check_scenario(s->declared, &p->site, &p->scenario, err);
		return r < 0 ? r : session_reply(s, NULL);
	}
	if (!p->scenario)
		return err_set(err, -EPROTO, "%s: \"%s\" before the scenario is declared", p->file, op);
	if (streq(op, "inject") || streq(op, "apply")) {
		r = plan_check_change(p->site, request, &ops, &node, &why);
		if (r == 0 && (ops->kind == CHANGE_FAULT) != streq(op, "inject"))
			r = err_set(&why, -EINVAL, "%s is a %s: use run:%s", ops->name,
				ops->kind == CHANGE_FAULT ? "fault" : "setting",
				ops->kind == CHANGE_FAULT ? "inject" : "apply");
	} else if (streq(op, "eventually") || streq(op, "always")) {
		r = session_check_expectation(p->site, request, streq(op, "always") ? "during_ns" : "within_ns", &predicate,
			&ns, &why);
		predicate_free(predicate);
	}
	if (r < 0) {
		/* the script raises it, and sends it back with its own line */
		return session_refuse(s, &why);
	}
	r = add_step(p, request, ops, node, err);
	if (r < 0)
		return r;
	if (ops)
		return session_reply(s, json_pack("{s:I}", "handle", (json_int_t)p->n_steps));
	if (streq(op, "eventually") || streq(op, "always"))
		return session_reply(s, json_true());
	if (streq(op, "sample"))
		return session_reply(s, json_real(0));
	return session_reply(s, NULL);
}

static struct plan *plan_new(const char *path, const json_t *set, uint64_t seed)
{
	struct plan *p = calloc(1, sizeof(*p));

	if (!p || !(p->file = strdup(path))) {
		free(p);
		return NULL;
	}
	p->seed = seed;
	p->set = set ? json_deep_copy(set) : json_object();
	return p;
}

/* The text is there: runs it. */
static int record(struct plan *p, script_spawn_fn spawn, struct err *err)
{
	struct session s = {.fd = -1, .pidfd = -1, .path = p->file};
	nsec_t deadline = now_ns() + PLAN_RECORD_SECONDS * NSEC_PER_SEC;
	const struct script_args args = {
		.path = p->file, .text = p->text, .len = p->text_len, .set = p->set, .seed = p->seed};
	int r;

	r = spawn(&args, &s.pid, &s.pidfd, &s.fd, err);
	while (r == 0) {
		_cleanup_json_ json_t *request = NULL;
		const char *op;

		r = session_next(&s, deadline, &request, &op, err);
		if (r == 0)
			r = record_request(p, &s, request, op, err);
	}
	p->declared = TAKE_PTR(s.declared);
	session_end(&s);
	if (r == -ETIMEDOUT) {
		err_set(err, r, "%s: it did not finish within %d s of being read", p->file, PLAN_RECORD_SECONDS);
		return err_hint(err, "is there an endless loop? Nothing was changed");
	}
	return r < 0 ? r : 0;
}

int plan_record(const char *path, const json_t *set, uint64_t seed, script_spawn_fn spawn, struct plan **ret,
	struct err *err)
{
	_cleanup_plan_ struct plan *p = plan_new(path, set, seed);
	int r = p ? read_scenario(path, p, err) : -ENOMEM;

	if (r == 0)
		r = record(p, spawn, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(p);
	return 0;
}

int plan_profile(const char *profile, const char *site, const json_t *set, script_spawn_fn spawn, struct plan **ret,
	struct err *err)
{
	_cleanup_plan_ struct plan *p = plan_new("baseline", set, 1);
	int r;

	/* what becomes part of the script's text must not end its string */
	for (int i = 0; i < 2; i++) {
		const char *name = i ? site : profile;

		if (name && (strlen(name) > 63 || strpbrk(name, "\"\\\n\r")))
			return err_set(err, -EINVAL, "\"%.63s\" is no name of a %s", name, i ? "site" : "profile");
	}
	if (!p)
		return -ENOMEM;
	p->text = strf("local muster = require \"muster\"\n"
		       "return muster.scenario { name = \"baseline\", site = muster.site \"%s\", baseline = \"%s\",\n"
		       "deadline = \"1h\", method = function() end }\n",
		site ? site : PLAN_LOCAL, profile);
	if (!p->text)
		return -ENOMEM;
	p->text_len = strlen(p->text);
	r = record(p, spawn, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(p);
	return 0;
}

/* ── plan.json and the text ────────────────────────────────────────────────────────────────── */

/*
 * "refused: ..." or "waived: management-path: ..." for a change that would hit the management path (mgmt.h); NULL: it would not, or
 * that was not looked at.
 */
static char *path_verdict(const struct plan *p, const json_t *request)
{
	const struct change_ops *ops = change_find(text(request, "change"));
	const json_t *args = json_object_get(request, "args");
	const struct node *n = site_node(p->site, text(args, "node"));
	_cleanup_free_ char *hit = NULL;
	struct err err = {0};
	int r = p->mgmt ? mgmt_check(p->mgmt, ops, n, args, &hit, &err) : 0;

	if (r == 0)
		return NULL;
	if (r < 0)
		return strf("refused: %s on %s: %s", ops->name, n->name, err.text);
	if (mgmt_waived(p->scenario))
		return strf("waived: " MGMT_WAIVER ": %s", hit);
	(void)mgmt_refuse(ops, n, hit, &err);
	return strf("refused: %s", err.text);
}

static void add_verdict(const struct plan *p, const json_t *request, json_t *list)
{
	_cleanup_free_ char *verdict = path_verdict(p, request);

	if (verdict)
		json_array_append_new(list, json_pack("{s:s*, s:O, s:s}", "where", text(request, "where"), "change",
						    json_object_get(request, "change"), "text", verdict));
}

json_t *plan_to_json(const struct plan *p)
{
	_cleanup_json_ json_t *paths = json_array();
	json_t *steps = json_array(), *j, *baseline = json_object_get(p->scenario, "baseline"), *ret;
	size_t i;

	for (i = 0; i < p->n_steps; i++)
		json_array_append(steps, p->steps[i].request);
	ret = json_pack("{s:s, s:s, s:I, s:O, s:O, s:o}", "schema", "muster.plan/1", "file", p->file, "seed",
		(json_int_t)p->seed, "set", p->set, "scenario", p->scenario, "steps", steps);
	json_array_foreach(json_object_get(baseline, "changes"), i, j)
		add_verdict(p, j, paths);
	for (i = 0; i < p->n_steps; i++)
		if (p->steps[i].ops)
			add_verdict(p, p->steps[i].request, paths);
	if (ret && json_array_size(paths))
		json_object_set(ret, "management_path", paths);
	return ret;
}

static void print_lines(struct strbuf *out, const char *label, const char *lines)
{
	while (*lines) {
		size_t n = strcspn(lines, "\n");

		strbuf_addf(out, "      %-6s %.*s\n", label, (int)n, lines);
		label = "";
		lines += n + (lines[n] == '\n');
	}
}

/* "  delay=50ms  loss=5%": what was given and what has a default, but not @skip, which stands elsewhere in the line */
static void print_args(struct strbuf *out, const struct param *params, const json_t *args, const char *skip)
{
	for (const struct param *p = params; p && p->name; p++) {
		const json_t *v = json_object_get(args, p->name);
		_cleanup_free_ char *value = NULL;

		if (!v || streq(p->name, skip))
			continue;
		value = param_format(p, v);
		strbuf_addf(out, "  %s=%s", p->name, value ? value : "?");
	}
}

static int print_change(struct strbuf *out, unsigned int number, const struct plan *p, const json_t *request, struct err *err)
{
	_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0};
	_cleanup_free_ char *verdict = path_verdict(p, request);
	const struct change_ops *ops = change_find(text(request, "change"));
	const json_t *args = json_object_get(request, "args");
	const struct node *node = site_node(p->site, text(args, "node"));
	struct err here = {0};
	int r;

	strbuf_addf(out, "  %2u  %s on %s  [%s]", number, ops->name, node->name, change_class_name(ops->class));
	print_args(out, ops->params, args, "node");
	strbuf_addf(out, "\n      from   %s\n", text(request, "where") ? text(request, "where") : "?");
	if (verdict)
		print_lines(out, "path", verdict);
	if (!ops->command)
		return 0;
	r = ops->command(node, args, NULL, &apply, &undo);
	if (r < 0)
		return err_set(err, r, "%s on %s: say it in plain commands: %s", ops->name, node->name, strerror(-r));
	if (json_is_true(json_object_get(request, "optional")))
		print_lines(out, "where", "the host has it; what it cannot give is said, and the drill goes on without");
	/* of the host itself it can be said before anything is there */
	if (ops->supported && node == p->site->host && ops->supported(node, args, &here) == -EOPNOTSUPP)
		print_lines(out, "here", here.text);
	print_lines(out, "do", strbuf_cstr(&apply));
	print_lines(out, "undo", strbuf_cstr(&undo));
	return 0;
}

static void print_expectation(struct strbuf *out, unsigned int number, const json_t *request, const char *op)
{
	bool always = streq(op, "always");
	char buf[UNITS_FMT_MAX];

	strbuf_addf(out, "  %2u  expect %s, %s %s\n", number, text(json_object_get(request, "predicate"), "text"),
		always ? "for" : "within",
		units_fmt_duration(buf, sizeof(buf),
			json_integer_value(json_object_get(request, always ? "during_ns" : "within_ns"))));
}

static void print_predicates(struct strbuf *out, const char *label, const json_t *list)
{
	const json_t *j;
	size_t i;

	json_array_foreach((json_t *)list, i, j)
		strbuf_addf(out, "%-14s %s\n", i ? "" : label, text(j, "text"));
}

/* Of nodes that are there already: what could not be looked at, without root say, may hold a path that nobody spoke of above. */
static void print_gaps(struct strbuf *out, const struct plan *p)
{
	const json_t *gaps = json_object_get(p->mgmt, "gaps");
	bool there = false;

	for (size_t i = 0; i < p->site->n_nodes; i++)
		there = there || !p->site->nodes[i]->netns || access(p->site->nodes[i]->netns, F_OK) == 0;
	if (there && json_array_size(gaps))
		strbuf_addf(out, "\nNot all of the management path could be looked at (%zu gaps): %s\n", json_array_size(gaps),
			json_string_value(json_array_get(gaps, 0)));
}

int plan_print(const struct plan *p, struct strbuf *out, struct err *err)
{
	const json_t *sc = p->scenario, *j, *changes = json_object_get(json_object_get(sc, "baseline"), "changes"),
		     *objective = json_object_get(sc, "objective"), *steady = json_object_get(sc, "steady_state");
	char buf[UNITS_FMT_MAX];
	unsigned int number = 0;
	size_t i;
	int r;

	strbuf_addf(out, "%s: %s\n", text(sc, "name"), text(sc, "summary"));
	strbuf_addf(out, "%-14s %s (%zu nodes: ", "site", p->site->name, p->site->n_nodes);
	for (i = 0; i < p->site->n_nodes; i++)
		strbuf_addf(out, "%s%s", i ? " " : "", p->site->nodes[i]->name);
	strbuf_puts(out, ")\n");
	strbuf_addf(out, "%-14s %s: whatever happens, the guard restores everything after this\n", "deadline",
		units_fmt_duration(buf, sizeof(buf), json_integer_value(json_object_get(sc, "deadline_ns"))));
	json_array_foreach(json_object_get(sc, "loads"), i, j) {
		strbuf_addf(out, "%-14s %s (%s)", i ? "" : "load", text(j, "name"), text(j, "kind"));
		print_args(out, source_find(SOURCE_LOAD, text(j, "kind"))->params, json_object_get(j, "args"), NULL);
		strbuf_puts(out, "\n");
	}
	print_predicates(out, "steady state", json_object_get(steady, "predicates"));
	print_predicates(out, "stop when", json_object_get(sc, "stop_when"));
	if (json_is_integer(json_object_get(objective, "rto_ns")))
		strbuf_addf(out, "%-14s RTO %s\n", "objective",
			units_fmt_duration(buf, sizeof(buf), json_integer_value(json_object_get(objective, "rto_ns"))));
	if (json_is_integer(json_object_get(objective, "rpo_ns")))
		strbuf_addf(out, "%-14s RPO %s\n", "",
			units_fmt_duration(buf, sizeof(buf), json_integer_value(json_object_get(objective, "rpo_ns"))));
	if (json_is_number(json_object_get(objective, "error_budget")))
		strbuf_addf(out, "%-14s error budget %s\n", "",
			units_fmt_ratio(buf, sizeof(buf), json_number_value(json_object_get(objective, "error_budget"))));
	print_predicates(out, "", json_object_get(objective, "predicates"));

	json_array_foreach(json_object_get(sc, "unsafe"), i, j)
		strbuf_addf(out, "%-14s %s: what would cut it is not refused\n", i ? "" : "waived", json_string_value(j));

	strbuf_addf(out, "\nBaseline%s%s\n", text(json_object_get(sc, "baseline"), "profile") ? ": profile " : "",
		text(json_object_get(sc, "baseline"), "profile") ? text(json_object_get(sc, "baseline"), "profile") : "");
	if (json_array_size(changes) == 0)
		strbuf_puts(out, "      (nothing is changed)\n");
	json_array_foreach(changes, i, j) {
		r = print_change(out, ++number, p, j, err);
		if (r < 0)
			return r;
	}
	strbuf_puts(out, "\nMethod\n");
	for (i = 0; i < p->n_steps; i++) {
		const json_t *request = p->steps[i].request;
		const char *op = text(request, "op");

		if (p->steps[i].ops) {
			r = print_change(out, ++number, p, request, err);
			if (r < 0)
				return r;
		} else if (streq(op, "phase")) {
			strbuf_addf(out, "  phase \"%s\"\n", text(request, "name"));
		} else if (streq(op, "eventually") || streq(op, "always")) {
			print_expectation(out, ++number, request, op);
		} else if (streq(op, "wait")) {
			strbuf_addf(out, "  %2u  wait %s\n", ++number,
				units_fmt_duration(buf, sizeof(buf), json_integer_value(json_object_get(request, "ns"))));
		} else if (streq(op, "lift")) {
			json_int_t handle = json_integer_value(json_object_get(request, "handle"));

			if (handle >= 1 && (size_t)handle <= p->n_steps && p->steps[handle - 1].ops)
				strbuf_addf(out, "  %2u  lift %s on %s\n", ++number, p->steps[handle - 1].ops->name,
					p->steps[handle - 1].node->name);
		}
	}
	print_gaps(out, p);
	strbuf_puts(out, "\nAt the end, on every way out, all of it is undone in reverse order.\n");
	return out->oom ? -ENOMEM : 0;
}
