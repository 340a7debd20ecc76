/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The baseline by itself: what a profile's settings are before and after, put in force outside a drill, looked at, and undone. A
 * journal of its own, run id "baseline-PROFILE" (or "baseline-PROFILE-SITE"), keeps what there was until `restore` plays it.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "engine/cli_scenario.h"
#include "engine/cmd.h"
#include "engine/guard.h"
#include "engine/journal.h"
#include "engine/plan.h"
#include "engine/standing.h"
#include "lab/lab.h"

struct baseline {
	const struct cmd_args *a;
	const char *profile, *site;
	char *run_id;
	struct plan *plan;
	const json_t *changes;
};

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

static int usage(const struct cmd_args *a, struct err *err)
{
	return cmd_fail(a, EXIT_USAGE, err);
}

static void baseline_clear(struct baseline *b)
{
	plan_free(b->plan);
	free(b->run_id);
}

/* Reads the profile, and opens the places it speaks of. EXIT_PASS, or another exit code, said. */
static int load(struct baseline *b)
{
	_cleanup_json_ json_t *set = NULL;
	struct err err = {0};
	int r = cli_scenario_set(b->a, &set, &err);

	if (r == 0)
		r = plan_profile(b->profile, b->site, set, cli_script_spawn, &b->plan, &err);
	if (r < 0)
		return usage(b->a, &err);
	b->changes = json_object_get(json_object_get(b->plan->scenario, "baseline"), "changes");
	if (b->site && lab_bind(b->plan->site, &err) < 0)
		return usage(b->a, &err);
	r = node_open(b->plan->site->host, &err);
	for (size_t i = 0; r == 0 && i < b->plan->site->n_nodes; i++) {
		r = node_open(b->plan->site->nodes[i], &err);
		if (r < 0 && b->site)
			err_hint(&err, "muster lab up %s builds the site", b->site);
	}
	return r < 0 ? cmd_fail(b->a, EXIT_REFUSED, &err) : EXIT_PASS;
}

static struct node *node_of(const struct baseline *b, const json_t *change)
{
	return site_node(b->plan->site, text(json_object_get(change, "args"), "node"));
}

static bool optional(const json_t *change)
{
	return json_is_true(json_object_get(change, "optional"));
}

/* ── what is said of one setting ──────────────────────────────────────────────────────────── */

/* {"change", "node", "class", "state", "text"?, "hint"?, "items": [...]} */
static json_t *entry(const char *change, const char *node, const char *class, const char *state, const struct err *err,
	json_t *items)
{
	json_t *e = json_pack("{s:s, s:s, s:s, s:s, s:o}", "change", change, "node", node, "class", class, "state", state, "items",
		items ? items : json_array());

	if (e && err && err->text[0])
		json_object_set_new(e, "text", json_string(err->text));
	if (e && err && err->hint[0])
		json_object_set_new(e, "hint", json_string(err->hint));
	return e;
}

/* The kernel separates numbers by tabs. */
static void put(const char *s)
{
	for (; *s; s++)
		putchar(*s == '\t' ? ' ' : *s);
}

static void print_item(const json_t *item, bool verify)
{
	const json_t *holds = json_object_get(item, "holds");
	const char *before = text(item, "before"), *want = text(item, "want"), *now = text(item, "now"), *more = text(item, "text");

	if (verify) {
		printf("    %-9s %s: ", json_is_true(holds) ? "holds" : json_is_false(holds) ? "DRIFTED" : *now ? "" : "unknown",
			text(item, "key"));
		put(*now ? now : "no data");
	} else {
		printf("    %s: ", text(item, "key"));
		put(before);
		fputs(streq(before, want) ? " already" : " -> ", stdout);
		put(streq(before, want) ? "" : want);
	}
	if (verify && json_is_false(holds)) {
		fputs(", ours was ", stdout);
		put(want);
		fputs(", before ", stdout);
		put(before);
		fputs("; by whom is not known", stdout);
	}
	printf("%s%s\n", *more ? ": " : "", more);
}

static void print_entry(const json_t *e, bool verify)
{
	const json_t *item;
	size_t i;

	printf("%s on %s  [%s]  %s%s%s\n", text(e, "change"), text(e, "node"), text(e, "class"), text(e, "state"), *text(e, "text") ? ": " : "",
		text(e, "text"));
	if (*text(e, "hint"))
		printf("    (%s)\n", text(e, "hint"));
	json_array_foreach(json_object_get(e, "items"), i, item)
		print_item(item, verify);
}

static void show(const struct baseline *b, const char *state, const json_t *entries, bool verify)
{
	const json_t *e;
	size_t i;

	if (b->a->json) {
		_cleanup_json_ json_t *out = json_pack("{s:s, s:s, s:s?, s:s, s:O}", "baseline", b->profile, "run", b->run_id, "site",
			b->site, "state", state, "settings", entries);

		json_dumpf(out, stdout, JSON_COMPACT);
		putchar('\n');
		return;
	}
	json_array_foreach((json_t *)entries, i, e)
		print_entry(e, verify);
}

static json_t *items_of(const struct change_ops *ops, const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	json_t *items = NULL;

	if (!ops->look) {
		err_set(err, -EOPNOTSUPP, "it cannot be looked at");
		return NULL;
	}
	if (ops->look(n, args, prior, &items, err) < 0)
		return NULL;
	if (err) /* what was said on the way is not what it comes to */
		*err = (struct err){0};
	return items;
}

/* ── plan ─────────────────────────────────────────────────────────────────────────────────── */

/*
 * One setting as it would be. What it refers to may be made by one that comes before it; so what cannot be read now is said, and
 * stops nothing.
 */
static json_t *plan_one(const struct baseline *b, const json_t *change, int *code)
{
	const struct change_ops *ops = change_find(text(change, "change"));
	const json_t *args = json_object_get(change, "args");
	struct node *n = node_of(b, change);
	const char *class = change_class_name(ops->class);
	_cleanup_json_ json_t *prior = NULL;
	struct err err = {0};
	json_t *items;
	int r = ops->supported ? ops->supported(n, args, &err) : 0;

	if (r == 0)
		r = ops->capture(n, args, &prior, &err);
	if (r == -EOPNOTSUPP) {
		if (!optional(change))
			*code = EXIT_REFUSED;
		return entry(ops->name, n->name, class, optional(change) ? "not on this host, and is left out" : "not on this host", &err, NULL);
	}
	if (r < 0) {
		*code = EXIT_REFUSED;
		return entry(ops->name, n->name, class, "refused", &err, NULL);
	}
	items = items_of(ops, n, args, prior, &err);
	return entry(ops->name, n->name, class, "would be set", &err, items);
}

static void print_commands(const struct baseline *b, const json_t *change)
{
	const struct change_ops *ops = change_find(text(change, "change"));
	_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0};

	if (!ops->command || ops->command(node_of(b, change), json_object_get(change, "args"), NULL, &apply, &undo) < 0)
		return;
	for (const char *line = strbuf_cstr(&apply); *line;) {
		size_t n = strcspn(line, "\n");

		printf("    $ %.*s\n", (int)n, line);
		line += n + (line[n] == '\n');
	}
}

static int plan(struct baseline *b)
{
	_cleanup_json_ json_t *entries = json_array();
	int code = load(b);
	const json_t *j;
	size_t i;

	if (code != EXIT_PASS)
		return code;
	json_array_foreach((json_t *)b->changes, i, j) {
		json_t *e = plan_one(b, j, &code);

		json_array_append_new(entries, e);
		if (!b->a->json) {
			print_entry(e, false);
			print_commands(b, j);
		}
	}
	if (b->a->json)
		show(b, "planned", entries, false);
	else if (!b->a->quiet)
		fprintf(stderr, "nothing was changed; muster baseline apply %s does it\n", b->profile);
	return code;
}

/* ── apply ────────────────────────────────────────────────────────────────────────────────── */

/* All that is refused is refused before anything is changed. */
static int check(const struct baseline *b, struct err *err)
{
	const json_t *j;
	size_t i;

	json_array_foreach((json_t *)b->changes, i, j) {
		const struct change_ops *ops = change_find(text(j, "change"));
		int r = ops->supported ? ops->supported(node_of(b, j), json_object_get(j, "args"), err) : 0;

		if (r < 0 && !(r == -EOPNOTSUPP && optional(j)))
			return r;
		err->text[0] = err->hint[0] = '\0';
	}
	return 0;
}

static bool interrupted(const sigset_t *set)
{
	struct timespec now = {0};

	return sigtimedwait(set, NULL, &now) > 0;
}

static int take_back(struct baseline *b, struct journal *j, int code, struct err *why)
{
	struct restore_result res = {0};
	struct err err = {0};
	const json_t *line;
	bool clean;
	size_t i;

	clean = journal_play(j, &res, &err) == 0 && !res.failed && !res.conflicts;
	json_array_foreach(res.lines, i, line)
		if (!clean)
			fprintf(stderr, "muster: %s\n", json_string_value(line));
	restore_result_clear(&res);
	clean = journal_remove(j, &err) == 0 && clean;
	if (clean)
		err_prefix(why, "baseline %s: all of it was taken back", b->profile);
	else
		err_prefix(why, "baseline %s: NOT all of it could be taken back", b->profile);
	return cmd_fail(b->a, clean ? code : EXIT_RESIDUE, why);
}

static int apply_all(struct baseline *b, struct journal *j, json_t *entries)
{
	const json_t *change;
	struct err err = {0};
	sigset_t set;
	size_t i;

	/* Ctrl-C waits for the end of the setting that is being made, and takes back all of them. */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	json_array_foreach((json_t *)b->changes, i, change) {
		const struct change_ops *ops = change_find(text(change, "change"));
		struct change c = {.ops = ops, .node = node_of(b, change), .args = json_object_get(change, "args")};
		json_t *items = NULL;
		int r;

		err = (struct err){0};
		r = change_apply(j, &c, &err);
		if (r == 0)
			items = items_of(ops, c.node, c.args, c.prior, &err);
		json_decref(c.prior);
		if (r == 0 || (r == -EOPNOTSUPP && optional(change)))
			json_array_append_new(entries,
				entry(ops->name, c.node->name, change_class_name(ops->class), r == 0 ? "set" : "not on this host, and was left out",
					&err, items));
		if (r < 0 && !(r == -EOPNOTSUPP && optional(change)))
			return take_back(b, j, r == -EINVAL || r == -ERANGE ? EXIT_USAGE : EXIT_REFUSED, &err);
		if (interrupted(&set)) {
			err_set(&err, -EINTR, "interrupted");
			return take_back(b, j, EXIT_HALTED_OPERATOR, &err);
		}
	}
	return EXIT_PASS;
}

/*
 * A drill's baseline and this one would find each other's doing, and what it takes for the host before would be half of ours: while
 * one of them works, the other does not begin.
 */
static int lock_out_drills(const struct baseline *b, int *ret_fd)
{
	struct err err = {0};
	int r = guard_lock_host(b->run_id, "-", ret_fd, &err);

	return r < 0 ? cmd_fail(b->a, r == -EBUSY ? EXIT_REFUSED : EXIT_ERROR, &err) : EXIT_PASS;
}

static int apply(struct baseline *b)
{
	_cleanup_json_ json_t *entries = json_array();
	_cleanup_journal_ struct journal *j = NULL;
	_cleanup_close_ int lock = -1;
	struct err err = {0};
	int code = load(b), r;

	if (code == EXIT_PASS)
		code = lock_out_drills(b, &lock);
	if (code != EXIT_PASS)
		return code;
	r = check(b, &err);
	if (r < 0)
		return cmd_fail(b->a, r == -EINVAL ? EXIT_USAGE : EXIT_REFUSED, &err);
	r = journal_create(b->run_id, &j, &err);
	if (r == -EEXIST) {
		err_set(&err, r, "baseline %s is in force here, or was left half made", b->profile);
		err_hint(&err, "muster baseline verify %s looks at it, muster baseline restore %s undoes it", b->profile, b->profile);
	}
	if (r < 0)
		return cmd_fail(b->a, r == -EEXIST ? EXIT_REFUSED : EXIT_ERROR, &err);
	code = apply_all(b, j, entries);
	if (code != EXIT_PASS)
		return code;
	show(b, "in force", entries, false);
	if (!b->a->json && !b->a->quiet)
		fprintf(stderr, "baseline %s is in force until muster baseline restore %s%s%s\n", b->profile, b->profile,
			b->site ? " --site " : "", b->site ? b->site : "");
	return EXIT_PASS;
}

/* ── verify ───────────────────────────────────────────────────────────────────────────────── */

static int not_in_force(const struct baseline *b)
{
	struct err err = {0};

	err_set(&err, -ENOENT, "baseline %s is not in force here", b->run_id + strlen(STANDING_BASELINE));
	err_hint(&err, "muster baseline apply %s; muster status shows what is", b->profile);
	return cmd_fail(b->a, EXIT_USAGE, &err);
}

static json_t *verify_one(const struct journal_entry *je, bool *all)
{
	const char *node_name = text(je->node, "name");
	_cleanup_node_ struct node *n = NULL;
	struct err err = {0};
	json_t *items = NULL, *item;
	const char *state = "holds";
	size_t i;
	int r;

	if (!je->ops) {
		*all = false;
		err_set(&err, -EPROTO, "this muster does not know it");
		return entry(je->change, node_name, "?", "unknown", &err, NULL);
	}
	r = node_from_json(je->node, &n, &err);
	if (r == 0)
		items = items_of(je->ops, n, je->args, je->prior, &err);
	if (r < 0 || !items)
		state = r == -ESTALE ? "gone with its namespace" : "unknown";
	if (je->state == JOURNAL_CONFLICT)
		state = "left alone: somebody else had changed it";
	json_array_foreach(items, i, item) {
		const json_t *holds = json_object_get(item, "holds");

		if (json_is_false(holds))
			state = "DRIFTED";
	}
	*all = *all && streq(state, "holds");
	return entry(je->change, node_name, change_class_name(je->ops->class), state, &err, items);
}

/* What the profile asks for and the journal does not have: it was left out, because this host cannot give it. */
static void add_left_out(struct baseline *b, json_t *entries)
{
	const json_t *j;
	size_t i;

	json_array_foreach((json_t *)b->changes, i, j) {
		const struct change_ops *ops = change_find(text(j, "change"));
		struct err err = {0};

		if (optional(j) && ops->supported && ops->supported(node_of(b, j), json_object_get(j, "args"), &err) == -EOPNOTSUPP)
			json_array_append_new(entries,
				entry(ops->name, node_of(b, j)->name, change_class_name(ops->class), "not supported here", &err, NULL));
	}
}

static int verify(struct baseline *b)
{
	_cleanup_json_ json_t *entries = json_array();
	_cleanup_journal_ struct journal *j = NULL;
	const struct journal_entry *e;
	struct err err = {0};
	bool all = true;
	size_t n;
	int r = journal_open(b->run_id, &j, &err);

	if (r == -ENOENT)
		return not_in_force(b);
	if (r == 0)
		r = journal_load(j, &e, &n, &err);
	if (r < 0)
		return cmd_fail(b->a, r == -EINVAL ? EXIT_USAGE : r == -EBUSY ? EXIT_REFUSED : EXIT_ERROR, &err);
	for (size_t i = 0; i < n; i++)
		if (e[i].state != JOURNAL_DONE)
			json_array_append_new(entries, verify_one(&e[i], &all));
	/* the profile may have gone or changed since; what is in force stands in the journal */
	r = plan_profile(b->profile, b->site, NULL, cli_script_spawn, &b->plan, &err);
	if (r == 0) {
		b->changes = json_object_get(json_object_get(b->plan->scenario, "baseline"), "changes");
		r = b->site ? lab_bind(b->plan->site, &err) : 0;
		for (size_t i = 0; r == 0 && i < b->plan->site->n_nodes; i++)
			r = node_open(b->plan->site->nodes[i], &err);
		if (r == 0 && node_open(b->plan->site->host, &err) == 0)
			add_left_out(b, entries);
	}
	show(b, all ? "holds" : "drifted", entries, true);
	if (!b->a->json)
		printf("baseline %s: %s\n", b->profile, all ? "holds" : "does NOT hold");
	return all ? EXIT_PASS : EXIT_FAIL;
}

/* ── restore ──────────────────────────────────────────────────────────────────────────────── */

static int restore(struct baseline *b)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct restore_result res = {0};
	_cleanup_close_ int lock = -1;
	struct err err = {0};
	const json_t *line;
	int code = lock_out_drills(b, &lock), r;
	size_t i;

	if (code != EXIT_PASS)
		return code;
	r = journal_open(b->run_id, &j, &err);
	if (r == -ENOENT)
		return not_in_force(b);
	if (r == 0)
		r = journal_play(j, &res, &err);
	if (r < 0)
		return cmd_fail(b->a, r == -EINVAL ? EXIT_USAGE : r == -EBUSY ? EXIT_REFUSED : EXIT_RESIDUE, &err);
	code = res.failed || res.conflicts ? EXIT_RESIDUE : EXIT_PASS;
	if (b->a->json) {
		_cleanup_json_ json_t *out = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:O}", "baseline", b->profile, "run",
			b->run_id, "state", code == EXIT_PASS ? "restored" : "residue", "undone", (int)res.undone, "already", (int)res.already,
			"stale", (int)res.stale, "conflicts", (int)res.conflicts, "failed", (int)res.failed, "lines", res.lines);

		json_dumpf(out, stdout, JSON_COMPACT);
		putchar('\n');
	} else {
		printf("baseline %s: %u undone, %u had been undone, %u of a namespace that is gone, %u left alone, %u failed\n", b->profile,
			res.undone, res.already, res.stale, res.conflicts, res.failed);
		json_array_foreach(res.lines, i, line)
			if (code != EXIT_PASS)
				printf("  %s\n", json_string_value(line));
	}
	restore_result_clear(&res);
	if (journal_remove(j, &err) < 0)
		code = cmd_fail(b->a, EXIT_RESIDUE, &err);
	return code;
}

/* ── the command ──────────────────────────────────────────────────────────────────────────── */

static const struct verb {
	const char *name;
	int (*run)(struct baseline *b);
} verbs[] = {
	{"plan", plan},
	{"apply", apply},
	{"verify", verify},
	{"restore", restore},
	{0},
};

static int baseline(const struct cmd_args *a)
{
	_cleanup_(baseline_clear) struct baseline b = {.a = a, .profile = a->argv[1], .site = cmd_value(a, "site")};
	const char *names[ARRAY_SIZE(verbs)] = {NULL}, *near, *lab = cmd_value(a, "lab");
	struct err err = {0};

	for (size_t i = 0; verbs[i].name; i++) {
		names[i] = verbs[i].name;
		if (!streq(verbs[i].name, a->argv[0]))
			continue;
		if (a->argc < 2) {
			err_set(&err, -EINVAL, "baseline %s: which profile?", verbs[i].name);
			err_hint(&err, "muster list profiles shows them");
			return usage(a, &err);
		}
		if (lab && !streq(lab, "none")) {
			err_set(&err, -EINVAL, "baseline: --lab %s: only none is possible: a baseline by itself builds no lab", lab);
			err_hint(&err, "--site SITE speaks of a lab that muster lab up SITE has built");
			return usage(a, &err);
		}
		if (lab && b.site) {
			err_set(&err, -EINVAL, "baseline: --site and --lab none exclude each other");
			return usage(a, &err);
		}
		if (geteuid() != 0) {
			err_set(&err, -EPERM, "baseline %s needs root: it reads and writes the kernel's settings; nothing was changed", a->argv[0]);
			err_hint(&err, "sudo muster baseline %s %s", a->argv[0], a->argv[1]);
			return cmd_fail(a, EXIT_REFUSED, &err);
		}
		b.run_id = strf(STANDING_BASELINE "%s%s%s", b.profile, b.site ? "-" : "", b.site ? b.site : "");
		return b.run_id ? verbs[i].run(&b) : EXIT_ERROR;
	}
	near = str_nearest(a->argv[0], names);
	err_set(&err, -EINVAL, "baseline %s: there are plan, apply, verify and restore", a->argv[0]);
	if (near)
		err_hint(&err, "did you mean %s?", near);
	return usage(a, &err);
}

static const struct cmd_opt opts[] = {
	{"site", "SITE", "the nodes of a lab that is up (muster lab up SITE); default: this machine"},
	{"lab", "none", "this machine, said aloud"},
	{"set", "K=V", "a value for muster.param(K); may be repeated"},
	{0},
};

const struct cmd cmd_baseline = {
	.name = "baseline",
	.order = 35,
	.args = "plan|apply|verify|restore PROFILE",
	.summary = "Puts a profile's settings in force outside a drill, looks whether they hold, undoes them",
	.help = "Without --site it is about this machine, which is then director and real server at once. What is in force stays "
		"until restore; muster restore --all leaves it alone.",
	.opts = opts,
	.min_args = 1,
	.max_args = 2,
	.run = baseline,
};
