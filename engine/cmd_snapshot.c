/* SPDX-License-Identifier: GPL-2.0-only */
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/cmd.h"
#include "engine/site.h"
#include "engine/snapshot.h"
#include "lab/lab.h"

#define NODES_MAX 256
#define FILE_MAX  (256u << 20)

struct nodes {
	size_t n;
	struct node *v[NODES_MAX];
};

static void nodes_drop(struct nodes *l)
{
	for (size_t i = 0; i < l->n; i++)
		node_free(l->v[i]);
}

static int nodes_add(struct nodes *l, const char *name, const char *netns, struct err *err)
{
	_cleanup_node_ struct node *n = node_new(name, netns);
	int r;

	for (size_t i = 0; i < l->n; i++)
		if (streq(l->v[i]->name, name))
			return err_set(err, -EINVAL, "%s is named twice", name);
	if (l->n == NODES_MAX)
		return err_set(err, -E2BIG, "more than %d nodes", NODES_MAX);
	if (!n)
		return -ENOMEM;
	r = node_open(n, err);
	if (r == 0)
		l->v[l->n++] = TAKE_PTR(n);
	return r;
}

/* A lab that is up: all its nodes, or the one called @only. 1: there is no such lab. */
static int add_lab(struct nodes *l, const char *name, const char *only, bool alone, struct err *err)
{
	_cleanup_json_ json_t *labs = NULL;
	_cleanup_site_ struct site *site = NULL;
	const json_t *lab, *found = NULL;
	size_t i;
	int r = lab_list(&labs, err);

	if (r < 0)
		return r;
	json_array_foreach(labs, i, lab)
		if (streq(json_string_value(json_object_get(lab, "name")), name))
			found = lab;
	if (!found)
		return 1;
	r = site_from_json(json_object_get(found, "site"), &site, err);
	if (r == 0)
		r = lab_bind(site, err);
	if (r == 0 && only && !site_node(site, only))
		return err_set(err, -EINVAL, "site %s has no node %s", name, only);
	for (i = 0; r == 0 && i < site->n_nodes; i++) {
		const struct node *n = site->nodes[i];
		/* two sites may both have an rs1 */
		_cleanup_free_ char *full = alone ? strdup(n->name) : strf("%s/%s", name, n->name);

		if (only && !streq(n->name, only))
			continue;
		r = full ? nodes_add(l, full, n->netns, err) : -ENOMEM;
	}
	return r;
}

static int add_named(struct nodes *l, const char *arg, bool alone, struct err *err)
{
	_cleanup_free_ char *name = strdup(arg), *path = strf("/run/netns/%s", arg);
	char *slash = name ? strchr(name, '/') : NULL;
	int r;

	if (!name || !path)
		return -ENOMEM;
	if (streq(arg, "host"))
		return nodes_add(l, "host", NULL, err);
	if (slash)
		*slash++ = '\0';
	r = add_lab(l, name, slash, alone && !slash, err);
	if (r <= 0)
		return r;
	if (!slash && !strchr(arg, '/') && access(path, F_OK) == 0)
		return nodes_add(l, arg, path, err);
	err_set(err, -EINVAL, "%s: neither a lab that is up nor a network namespace", arg);
	return err_hint(err, "muster lab list shows the labs, ip netns list the namespaces; \"host\" is this machine");
}

/* JSON wants UTF-8, and a name in the kernel's tables need not be that. */
static json_t *line_to_json(const char *line, size_t n)
{
	json_t *j = json_stringn(line, n);
	_cleanup_free_ char *s = j ? NULL : strndup(line, n);

	for (char *c = s; c && *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	return j ? j : s ? json_string(s) : NULL;
}

static json_t *lines_to_json(const char *text)
{
	json_t *all = json_array();

	while (*text) {
		size_t n = strcspn(text, "\n");

		json_array_append_new(all, line_to_json(text, n));
		text += n + (text[n] == '\n');
	}
	return all;
}

/* Of a stored snapshot what is about @l; *ret_n: how many lines */
static int stored(const char *path, const struct nodes *l, struct strbuf *ret, size_t *ret_n, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r = file_read(path, FILE_MAX, &text, NULL);

	if (r < 0)
		return err_set(err, r, "%s: %s", path, strerror(-r));
	*ret_n = 0;
	for (const char *p = text; *p;) {
		size_t n = strcspn(p, "\n");

		for (size_t i = 0; i < l->n; i++) {
			size_t len = strlen(l->v[i]->name);

			if (n > len + 2 && strncmp(p, l->v[i]->name, len) == 0 && strncmp(p + len, ": ", 2) == 0) {
				strbuf_add(ret, p, n);
				strbuf_puts(ret, "\n");
				(*ret_n)++;
				break;
			}
		}
		p += n + (p[n] == '\n');
	}
	return ret->oom ? -ENOMEM : 0;
}

static int compare(const struct cmd_args *a, const char *path, const char *before, const char *now)
{
	_cleanup_json_ json_t *diff = snapshot_diff(before, now), *counts = snapshot_count(now);
	const json_t *line;
	size_t i, n = json_array_size(diff);
	struct err err = {0};

	if (!diff || !counts) {
		err_set(&err, -ENOMEM, "out of memory");
		return cmd_fail(a, EXIT_ERROR, &err);
	}
	if (a->json) {
		_cleanup_json_ json_t *j = json_pack("{s:s, s:b, s:O, s:O}", "schema", "muster.snapshot-diff/1", "equal", n == 0,
			"diff", diff, "facts", counts);

		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
		return n ? EXIT_RESIDUE : EXIT_PASS;
	}
	json_array_foreach(diff, i, line)
		printf("%s\n", json_string_value(line));
	if (!a->quiet)
		fprintf(stderr, n ? "muster: %s: %zu lines differ\n" : "muster: %s: equal\n", path, n);
	return n ? EXIT_RESIDUE : EXIT_PASS;
}

static int run(const struct cmd_args *a, struct nodes *l)
{
	_cleanup_strbuf_ struct strbuf before = {0};
	_cleanup_free_ char *text = NULL;
	const char *file = cmd_value(a, "diff");
	struct err err = {0};
	size_t n_before = 0;
	nsec_t begun;
	int r = 0;

	if (a->argc == 0)
		r = add_named(l, "host", true, &err);
	for (int i = 0; r == 0 && i < a->argc; i++)
		r = add_named(l, a->argv[i], a->argc == 1, &err);
	/* first: a file that is not there need not wait for the picture */
	if (r == 0 && file)
		r = stored(file, l, &before, &n_before, &err);
	if (r == 0 && file && n_before == 0)
		r = err_set(&err, -EINVAL, "%s: nothing in it is about %s", file, l->n == 1 ? l->v[0]->name : "these nodes");
	if (r < 0)
		return cmd_fail(a, r == -ENOMEM ? EXIT_ERROR : EXIT_USAGE, &err);
	begun = now_ns();
	r = snapshot_take((const struct node *const *)l->v, l->n, &text, &err);
	if (r < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	if (file)
		return compare(a, file, strbuf_cstr(&before), text);
	if (a->json) {
		_cleanup_json_ json_t *j = json_pack("{s:s, s:o, s:o, s:f}", "schema", "muster.snapshot/1", "lines",
			lines_to_json(text), "facts", snapshot_count(text), "ms", (double)(now_ns() - begun) / NSEC_PER_MSEC);

		if (!j) {
			err_set(&err, -ENOMEM, "out of memory");
			return cmd_fail(a, EXIT_ERROR, &err);
		}
		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
		return EXIT_PASS;
	}
	fputs(text, stdout);
	return EXIT_PASS;
}

static int snapshot(const struct cmd_args *a)
{
	struct nodes l = {0};
	struct err err = {0};
	int code;

	if (geteuid() != 0) {
		err_set(&err, -EPERM, "a snapshot needs root: much of what a drill changes can only be read by root");
		err_hint(&err, "sudo muster snapshot%s%s", a->argc ? " " : "", a->argc ? a->argv[0] : "");
		return cmd_fail(a, EXIT_REFUSED, &err);
	}
	code = run(a, &l);
	nodes_drop(&l);
	return code;
}

static const struct cmd_opt opts[] = {
	{"diff", "FILE", "compare with a stored snapshot; exit code 0: equal, 5: not"},
	{0},
};

const struct cmd cmd_snapshot = {
	.name = "snapshot",
	.order = 55,
	.args = "[SITE|NODE...]",
	.summary = "The state that drills may change, one fact a line; or what differs from a stored one",
	.help = "Prints the canonical state of this host, or of what is named: a lab that is up (all its nodes), one node of it as\n"
		"SITE/NODE, a network namespace, or \"host\". Sorted, and without what changes by itself, so that two of an\n"
		"unchanged host compare equal. With --diff FILE it prints the lines that differ (+ now, - in FILE, ? could not be\n"
		"read), of the nodes named; processes, services' control groups and mounts count only if they are in both.",
	.opts = opts,
	.max_args = -1,
	.run = snapshot,
};
