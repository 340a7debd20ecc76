/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A lab to look around in: the same change that a drill makes, kept by a journal of its own, run id
 * "lab-SITE", until `down` plays it. /run/muster/labs/SITE.json says that the lab is meant to be
 * there.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "engine/clock.h"
#include "engine/cli_scenario.h"
#include "engine/cmd.h"
#include "engine/journal.h"
#include "engine/standing.h"
#include "lab/daemon.h"
#include "lab/file.h"
#include "lab/lab.h"
#include "lua/script.h"

#define EXIT_EXEC 126 /* as env(1) has it: found, and could not be run */

static int needs_root(const struct cmd_args *a)
{
	struct err err = {0};

	err_set(&err, -EPERM, "a lab needs root: it is made of network namespaces");
	err_hint(&err, "sudo muster lab %s%s%s", a->argv[0], a->argc > 1 ? " " : "",
		a->argc > 1 ? a->argv[1] : "");
	return cmd_fail(a, EXIT_REFUSED, &err);
}

static void add_names(struct strbuf *b, const char *const *names)
{
	for (; names && *names; names++)
		strbuf_addf(b, "%s%s", b->len ? " " : "", *names);
}

/* ── up ─────────────────────────────────────────────────────────────────────────────────── */

static int note_up(const char *name, struct err *err)
{
	_cleanup_free_ char *path = lab_file_up(name), *text = NULL;
	char wall[CLOCK_WALL_MAX];
	char *slash;
	int r;

	text = strf(
		"{\"site\": \"%s\", \"since\": \"%s\"}\n", name, clock_fmt_wall(wall, wall_ns()));
	if (!path || !text)
		return -ENOMEM;
	slash = strrchr(path, '/');
	*slash = '\0';
	r = mkdir_p(path);
	*slash = '/';
	if (r == 0)
		r = file_write(path, text, strlen(text));
	return r < 0 ? err_set(err, r, "write %s: %s", path, strerror(-r)) : 0;
}

static void forget_up(const char *name)
{
	_cleanup_free_ char *path = lab_file_up(name);

	if (!path)
		return;
	(void)unlink(path);
	*strrchr(path, '/') = '\0';
	(void)rmdir(path); /* unless it holds another */
}

/* Ctrl-C while the lab is being built waits until it stands, and takes it down then. */
static bool interrupted(const sigset_t *set)
{
	struct timespec now = {0};

	return sigtimedwait(set, NULL, &now) > 0;
}

static int build(const struct cmd_args *a, const char *name, const json_t *site, struct journal *j)
{
	_cleanup_json_ json_t *args = json_pack("{s:O}", "site", site);
	_cleanup_node_ struct node *host = node_new("host", NULL);
	struct change c = {.ops = change_find("lab.site"), .node = host, .args = args};
	struct err err = {0}, undo_err = {0};
	bool stop = false, clean;
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	r = host && args ? node_open(host, &err) : -ENOMEM;
	if (r == 0)
		r = change_apply(j, &c, &err);
	if (r == 0 && !a->quiet && json_is_object(json_object_get(c.prior, "leftover")))
		fprintf(stderr,
			"muster: a killed run had left a lab %s behind; it was taken down first\n",
			name);
	if (r == 0) {
		stop = interrupted(&set);
		if (!stop)
			r = note_up(name, &err);
		if ((stop || r < 0) && change_undo(j, &c, &undo_err) != 0)
			fprintf(stderr, "muster: %s\n", undo_err.text);
	}
	json_decref(c.prior);
	if (r == 0 && !stop)
		return EXIT_PASS;
	clean = journal_remove(j, &undo_err) == 0;
	if (stop) {
		err_set(&err, -EINTR, "lab %s: interrupted%s", name,
			clean ? "; it was taken down again" : "");
		return cmd_fail(a, clean ? EXIT_HALTED_OPERATOR : EXIT_RESIDUE, &err);
	}
	if (r == -EOPNOTSUPP)
		err_hint(&err, "muster doctor says what this kernel lacks; muster run --lab vm "
			       "drills in a microVM");
	return cmd_fail(a,
		!clean			       ? EXIT_RESIDUE
		: r == -EINVAL || r == -ERANGE ? EXIT_USAGE
					       : EXIT_REFUSED,
		&err);
}

static int up(const struct cmd_args *a)
{
	const char *name = a->argv[1];
	_cleanup_json_ json_t *set = NULL, *json = NULL;
	_cleanup_strbuf_ struct strbuf nodes = {0};
	_cleanup_free_ char *run_id = strf(STANDING_LAB "%s", name);
	_cleanup_journal_ struct journal *j = NULL;
	_cleanup_site_ struct site *site = NULL;
	struct err err = {0};
	nsec_t begun = now_ns();
	int r = cli_scenario_set(a, &set, &err), code;

	if (r == 0)
		r = script_site(name, set, &json, &err);
	if (r == 0)
		r = site_from_json(json, &site, &err);
	if (r < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	/* the journal, the folder and the namespaces go by the site's own name */
	if (!streq(site->name, name)) {
		err_set(&err, -EINVAL, "site %s calls itself %s", name, site->name);
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	r = run_id ? journal_create(run_id, &j, &err) : -ENOMEM;
	if (r == -EEXIST) {
		err_set(&err, r, "lab %s is up, or was left half built", name);
		err_hint(&err, "muster lab down %s", name);
	}
	if (r < 0)
		return cmd_fail(a, r == -EEXIST ? EXIT_REFUSED : EXIT_ERROR, &err);
	change_run_begin(run_id);
	code = build(a, name, json, j);
	if (code != EXIT_PASS)
		return code;
	add_names(&nodes, site->node_names);
	if (a->json)
		printf("{\"lab\":\"%s\",\"state\":\"up\",\"ms\":%.1f}\n", name,
			(double)(now_ns() - begun) / 1e6);
	else
		printf("lab %s is up after %.0f ms: %s\n", name, (double)(now_ns() - begun) / 1e6,
			strbuf_cstr(&nodes));
	if (!a->quiet && !a->json)
		fprintf(stderr, "muster lab exec %s %s COMMAND..., muster lab down %s\n", name,
			site->node_names[0], name);
	return EXIT_PASS;
}

/* ── down ───────────────────────────────────────────────────────────────────────────────── */

/* Without a journal, by what the lab says of itself, and by the names that the site would have. */
static int sweep(const struct cmd_args *a, const char *name)
{
	const struct change_ops *ops = change_find("lab.site");
	_cleanup_json_ json_t *site = NULL, *args = NULL, *prior = NULL;
	_cleanup_node_ struct node *host = node_new("host", NULL);
	struct err err = {0};
	int r;

	/* a site that cannot be read any more may still have left a lab */
	if (script_site(name, NULL, &site, NULL) < 0)
		site = NULL;
	r = host ? lab_record(name, site, &args, &prior, &err) : -ENOMEM;
	if (r == -ENOENT) {
		forget_up(name);
		err_hint(&err, "muster lab list shows the labs that are");
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	if (r < 0)
		return cmd_fail(a, r == -EBUSY ? EXIT_REFUSED : EXIT_ERROR, &err);
	r = ops->undo(host, args, prior, &err);
	if (r == 0)
		r = ops->verify(host, args, prior, &err);
	if (r != 0)
		return cmd_fail(a, EXIT_RESIDUE, &err);
	if (!a->quiet)
		fprintf(stderr,
			"muster: lab %s had no journal; what goes by its name was taken down\n",
			name);
	return EXIT_PASS;
}

static int play(const struct cmd_args *a, struct journal *j)
{
	struct restore_result res = {0};
	struct err err = {0};
	const json_t *line;
	int code;
	size_t i;

	if (journal_play(j, &res, &err) < 0)
		return cmd_fail(a, EXIT_RESIDUE, &err);
	code = res.failed || res.conflicts ? EXIT_RESIDUE : EXIT_PASS;
	if (code != EXIT_PASS)
		json_array_foreach(res.lines, i, line)
			fprintf(stderr, "muster: %s\n", json_string_value(line));
	restore_result_clear(&res);
	if (journal_remove(j, &err) < 0)
		return cmd_fail(a, EXIT_RESIDUE, &err);
	return code;
}

static int down(const struct cmd_args *a)
{
	const char *name = a->argv[1];
	_cleanup_free_ char *run_id = strf(STANDING_LAB "%s", name);
	_cleanup_journal_ struct journal *j = NULL;
	struct err err = {0};
	int r = run_id ? journal_open(run_id, &j, &err) : -ENOMEM, code;

	if (r < 0 && r != -ENOENT)
		return cmd_fail(a, r == -EINVAL ? EXIT_USAGE : EXIT_REFUSED, &err);
	code = j ? play(a, j) : sweep(a, name);
	if (code != EXIT_PASS)
		return code;
	forget_up(name);
	if (a->json)
		printf("{\"lab\":\"%s\",\"state\":\"down\"}\n", name);
	else
		printf("lab %s is down\n", name);
	return EXIT_PASS;
}

/* ── list ───────────────────────────────────────────────────────────────────────────────── */

static json_t *describe(const json_t *lab)
{
	const char *name = json_string_value(json_object_get(lab, "name"));
	const char *state = json_string_value(json_object_get(lab, "state"));
	_cleanup_lab_spec_ struct lab_spec *s = NULL;
	json_t *nodes = json_array();

	if (lab_spec_new(json_object_get(lab, "site"), &s, NULL) == 0)
		for (size_t i = 0; i < s->n_ns; i++) {
			const struct lab_ns *ns = &s->ns[i];
			json_t *addrs = json_array(), *daemons = json_array();

			for (size_t l = 0; ns->node && l < ns->node->n_links; l++)
				for (size_t k = 0; k < ns->node->links[l].n_addrs; k++)
					json_array_append_new(
						addrs, json_string(ns->node->links[l].addrs[k]));
			for (size_t k = 0; k < s->n_daemons; k++) {
				pid_t pid =
					s->daemons[k].ns == ns ? daemon_pid(&s->daemons[k]) : -1;

				if (pid >= 0)
					json_array_append_new(daemons,
						json_pack("{s:s, s:o, s:s, s:s}", "name",
							s->daemons[k].name, "pid",
							pid ? json_integer(pid) : json_null(),
							"state", pid ? "running" : "ended",
							"folder", s->daemons[k].dir));
			}
			if (ns->node)
				json_array_append_new(
					nodes, json_pack("{s:s, s:s, s:o, s:o}", "name", ns->label,
						       "netns", ns->path, "addrs", addrs, "daemons",
						       daemons));
			else {
				json_decref(addrs);
				json_decref(daemons);
			}
		}
	return json_pack("{s:s, s:s, s:o}", "lab", name, "state", state, "nodes", nodes);
}

static void print_lab(const json_t *lab)
{
	const json_t *node, *addr, *d;
	size_t i, k;

	printf("%s: %s\n", json_string_value(json_object_get(lab, "lab")),
		json_string_value(json_object_get(lab, "state")));
	json_array_foreach(json_object_get(lab, "nodes"), i, node) {
		printf("  %-16s", json_string_value(json_object_get(node, "name")));
		json_array_foreach(json_object_get(node, "addrs"), k, addr)
			printf(" %s", json_string_value(addr));
		json_array_foreach(json_object_get(node, "daemons"), k, d) {
			json_int_t pid = json_integer_value(json_object_get(d, "pid"));

			printf("  %s", json_string_value(json_object_get(d, "name")));
			if (pid)
				printf("[%lld]", (long long)pid);
			else
				printf("[ended, see %s]",
					json_string_value(json_object_get(d, "folder")));
		}
		putchar('\n');
	}
}

static int list(const struct cmd_args *a)
{
	_cleanup_json_ json_t *labs = NULL, *out = json_array();
	const char *only = a->argc > 1 ? a->argv[1] : NULL;
	const json_t *lab = NULL;
	struct err err = {0};
	size_t i;

	if (lab_list(&labs, &err) < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	json_array_foreach(labs, i, lab)
		if (!only || streq(only, json_string_value(json_object_get(lab, "name"))))
			json_array_append_new(out, describe(lab));
	if (a->json) {
		json_dumpf(out, stdout, JSON_COMPACT);
		putchar('\n');
		return EXIT_PASS;
	}
	json_array_foreach(out, i, lab)
		print_lab(lab);
	if (json_array_size(out) == 0 && !a->quiet)
		fprintf(stderr,
			"no lab %s%sis there; muster lab up SITE builds one, muster list sites "
			"shows what there is\n",
			only ? only : "", only ? " " : "");
	return EXIT_PASS;
}

/* ── exec ───────────────────────────────────────────────────────────────────────────────── */

static int find_node(const char *lab_name, const char *node_name, char **ret_path, struct err *err)
{
	_cleanup_json_ json_t *labs = NULL;
	_cleanup_lab_spec_ struct lab_spec *s = NULL;
	_cleanup_strbuf_ struct strbuf all = {0};
	const char *names[128] = {NULL};
	const json_t *lab = NULL;
	size_t i, n = 0;
	int r = lab_list(&labs, err);

	if (r < 0)
		return r;
	json_array_foreach(labs, i, lab)
		if (streq(lab_name, json_string_value(json_object_get(lab, "name"))))
			break;
	if (i == json_array_size(labs)) {
		err_set(err, -ENOENT, "there is no lab %s", lab_name);
		return err_hint(err, "muster lab up %s", lab_name);
	}
	r = lab_spec_new(json_object_get(lab, "site"), &s, err);
	if (r < 0)
		return r;
	for (i = 0; i < s->n_ns && n < ARRAY_SIZE(names) - 1; i++) {
		if (streq(s->ns[i].label,
			    node_name)) { /* a switch, too: one may want to look at its ports */
			*ret_path = strdup(s->ns[i].path);
			return *ret_path ? 0 : -ENOMEM;
		}
		names[n++] = s->ns[i].label;
	}
	add_names(&all, names);
	err_set(err, -ENOENT, "lab %s has no node %s", lab_name, node_name);
	return err_hint(err, "there are: %s", strbuf_cstr(&all));
}

/*
 * sysfs shows the devices of the namespace that it was mounted in, so the command gets a mount
 * namespace of its own with another one; it is a slave of this one's, so that names removed here
 * are gone there too.
 */
static int own_sysfs(struct err *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return err_set(err, -errno, "make a mount namespace: %s", strerror(errno));
	if (mount("", "/", "none", MS_SLAVE | MS_REC, NULL) < 0)
		return err_set(err, -errno, "make mounts private: %s", strerror(errno));
	(void)umount2("/sys", MNT_DETACH);
	if (mount("sysfs", "/sys", "sysfs", 0, NULL) < 0)
		return err_set(err, -errno, "mount sysfs: %s", strerror(errno));
	return 0;
}

static int exec(const struct cmd_args *a)
{
	_cleanup_free_ char *path = NULL;
	struct node_visit v = {.fd = -1}; /* for good */
	struct err err = {0};
	char **argv;
	int r;

	if (a->argc < 4) {
		err_set(&err, -EINVAL, "lab exec: a command is missing");
		err_hint(&err, "muster lab exec SITE NODE -- COMMAND...");
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	r = find_node(a->argv[1], a->argv[2], &path, &err);
	if (r < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	r = netns_enter(path, &v, &err);
	if (r == 0)
		r = own_sysfs(&err);
	if (r < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	close(v.fd);
	/*
	 * the option parser packs the arguments to the front: the NULL at their end is not where
	 * they end now
	 */
	argv = calloc((size_t)a->argc - 2, sizeof(*argv));
	for (int i = 3; argv && i < a->argc; i++)
		argv[i - 3] = a->argv[i];
	if (argv)
		execvp(argv[0], argv);
	r = argv ? -errno : -ENOMEM;
	free(argv);
	err_set(&err, r, "%s: %s", a->argv[3], strerror(-r));
	cmd_fail(a, EXIT_ERROR, &err);
	return r == -ENOENT ? EXIT_EXEC + 1 : EXIT_EXEC;
}

static const struct verb {
	const char *name;
	bool root;
	int min_args;
	int (*run)(const struct cmd_args *a);
} verbs[] = {
	{"up", true, 2, up},
	{"down", true, 2, down},
	{"exec", true, 3, exec},
	{"list", false, 1, list},
	{0},
};

static int lab(const struct cmd_args *a)
{
	const char *names[ARRAY_SIZE(verbs)] = {NULL}, *near;
	struct err err = {0};

	for (size_t i = 0; verbs[i].name; i++) {
		names[i] = verbs[i].name;
		if (!streq(verbs[i].name, a->argv[0]))
			continue;
		if (a->argc < verbs[i].min_args) {
			err_set(&err, -EINVAL, "lab %s: which site?", verbs[i].name);
			err_hint(&err, "muster list sites shows them");
			return cmd_fail(a, EXIT_USAGE, &err);
		}
		if (verbs[i].root && geteuid() != 0)
			return needs_root(a);
		return verbs[i].run(a);
	}
	near = str_nearest(a->argv[0], names);
	err_set(&err, -EINVAL, "lab %s: there are up, down, exec and list", a->argv[0]);
	if (near)
		err_hint(&err, "did you mean %s?", near);
	return cmd_fail(a, EXIT_USAGE, &err);
}

static const struct cmd_opt opts[] = {
	{"set", "K=V", "up: an option of the site; may be repeated"},
	{0},
};

const struct cmd cmd_lab = {
	.name = "lab",
	.order = 60,
	.args = "up|down|exec|list SITE",
	.summary = "A lab to look around in",
	.help = "lab up SITE              builds it; it stays until it is taken down\n"
		"lab exec SITE NODE -- COMMAND...   runs a command on a node (or a switch)\n"
		"lab list [SITE]          nodes, addresses, daemons\n"
		"lab down SITE            takes it down, and what a killed run has left of it",
	.opts = opts,
	.min_args = 1,
	.max_args = -1,
	.run = lab,
};
