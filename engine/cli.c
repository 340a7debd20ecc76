/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/cli.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "engine/str.h"

#define GIVEN_MAX 64

static const struct cmd_opt common[] = {
	{"json", NULL, "machine-readable output on stdout"},
	{"quiet", NULL, "no progress on stderr"},
	{"color", "WHEN", "auto, always or never (NO_COLOR is honoured)"},
	{"help", NULL, "this text"},
	{0},
};

static int by_order(const void *a, const void *b)
{
	const struct cmd *const *x = a, *const *y = b;

	return (*x)->order - (*y)->order;
}

static size_t sorted(const struct cmd **ret, size_t max)
{
	size_t n = 0;

	for (const struct cmd *const *c = cmd_table; *c && n < max; c++)
		ret[n++] = *c;
	qsort(ret, n, sizeof(*ret), by_order);
	return n;
}

static void usage(FILE *f)
{
	const struct cmd *cmds[64];
	size_t n = sorted(cmds, ARRAY_SIZE(cmds));

	fputs("muster: chaos and disaster-recovery drills for Linux services behind LVS\n\n"
	      "Usage: muster COMMAND [OPTION...] [ARGUMENT...]\n\n",
		f);
	for (size_t i = 0; i < n; i++)
		fprintf(f, "  %-9s %-28s %s\n", cmds[i]->name, cmds[i]->args, cmds[i]->summary);
	fputs("\nmuster COMMAND --help tells more. muster --version prints the version.\n"
	      "Exit codes: 0 pass, 1 an objective was missed, 2 usage or a bad scenario, 3 halted by a stop condition\n"
	      "or the deadline, 4 halted by the operator, 5 the host is not proved restored, 6 refused before the\n"
	      "start, 7 inconclusive, 8 internal error.\n",
		f);
}

static void print_opts(FILE *f, const struct cmd_opt *opts)
{
	for (; opts && opts->name; opts++) {
		char left[48];

		snprintf(left, sizeof(left), "--%s%s%s", opts->name, opts->arg ? " " : "", opts->arg ? opts->arg : "");
		fprintf(f, "  %-24s %s\n", left, opts->help);
	}
}

static void cmd_usage(FILE *f, const struct cmd *c)
{
	fprintf(f, "Usage: muster %s [OPTION...] %s\n\n%s.\n", c->name, c->args, c->summary);
	if (c->help)
		fprintf(f, "\n%s\n", c->help);
	fputs("\nOptions:\n", f);
	print_opts(f, c->opts);
	print_opts(f, common);
}

const char *cmd_value(const struct cmd_args *a, const char *opt)
{
	const char *v = NULL;

	for (size_t i = 0; i < a->n_given; i++)
		if (streq(a->given[i].opt->name, opt))
			v = a->given[i].value;
	return v;
}

bool cmd_has(const struct cmd_args *a, const char *opt)
{
	return cmd_value(a, opt) != NULL;
}

int cmd_fail(const struct cmd_args *a, enum exit_code code, const struct err *err)
{
	fflush(stdout);
	if (a && a->json) {
		_cleanup_json_ json_t *j = json_pack("{s:{s:s, s:s?, s:i}}", "error", "text", err->text, "hint",
			err->hint[0] ? err->hint : NULL, "exit_code", (int)code);

		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
	}
	fprintf(stderr, "muster: %s\n", err->text);
	if (err->hint[0])
		fprintf(stderr, "        %s\n", err->hint);
	return code;
}

static int bad_usage(const char *fmt, const char *what, const char *near, const char *cmd)
{
	fputs("muster: ", stderr);
	fprintf(stderr, fmt, what);
	if (near)
		fprintf(stderr, " (did you mean %s?)", near);
	fprintf(stderr, "\n        try: muster %s%s--help\n", cmd ? cmd : "", cmd ? " " : "");
	return EXIT_USAGE;
}

static const char *nearest_cmd(const char *name)
{
	const char *names[64] = {NULL};
	const struct cmd *cmds[63];
	size_t n = sorted(cmds, ARRAY_SIZE(cmds));

	for (size_t i = 0; i < n; i++)
		names[i] = cmds[i]->name;
	return str_nearest(name, names);
}

static const struct cmd_opt *find_opt(const struct cmd *c, const char *name, size_t len)
{
	const struct cmd_opt *const lists[] = {c->opts, common};

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		for (const struct cmd_opt *o = lists[i]; o && o->name; o++)
			if (strlen(o->name) == len && strncmp(o->name, name, len) == 0)
				return o;
	return NULL;
}

static const char *nearest_opt(const struct cmd *c, const char *name)
{
	const char *names[GIVEN_MAX] = {NULL};
	size_t n = 0;

	for (const struct cmd_opt *o = c->opts; o && o->name && n < GIVEN_MAX - 8; o++)
		names[n++] = o->name;
	for (const struct cmd_opt *o = common; o->name; o++)
		names[n++] = o->name;
	return str_nearest(name, names);
}

/* Options and arguments may be mixed; everything after "--" is an argument. */
static int parse(const struct cmd *c, int argc, char **argv, struct cmd_args *a)
{
	static struct cmd_given given[GIVEN_MAX];
	static char near[64];
	bool rest = false;

	a->given = given;
	a->argv = argv; /* compacted in place */
	a->color = COLOR_AUTO;
	for (int i = 0; i < argc; i++) {
		const char *name = argv[i] + 2, *eq, *value = "";
		const struct cmd_opt *o;
		size_t len;

		if (rest || strncmp(argv[i], "--", 2) != 0) {
			if (!rest && argv[i][0] == '-' && argv[i][1])
				return bad_usage("%s: options have two dashes", argv[i], NULL, c->name);
			a->argv[a->argc++] = argv[i];
			continue;
		}
		if (!*name) {
			rest = true;
			continue;
		}
		eq = strchr(name, '=');
		len = eq ? (size_t)(eq - name) : strlen(name);
		o = find_opt(c, name, len);
		if (!o) {
			_cleanup_free_ char *bare = strndup(name, len);
			const char *n = bare ? nearest_opt(c, bare) : NULL;

			if (n)
				snprintf(near, sizeof(near), "--%s", n);
			return bad_usage("%s: no such option", argv[i], n ? near : NULL, c->name);
		}
		if (o->arg && eq)
			value = eq + 1;
		else if (o->arg && i + 1 < argc)
			value = argv[++i];
		else if (o->arg)
			return bad_usage("--%s wants a value", o->name, NULL, c->name);
		else if (eq)
			return bad_usage("--%s takes no value", o->name, NULL, c->name);
		if (streq(o->name, "help")) {
			cmd_usage(stdout, c);
			return -1;
		}
		if (streq(o->name, "json"))
			a->json = true;
		else if (streq(o->name, "quiet"))
			a->quiet = true;
		else if (streq(o->name, "color")) {
			if (streq(value, "always"))
				a->color = COLOR_ALWAYS;
			else if (streq(value, "never"))
				a->color = COLOR_NEVER;
			else if (!streq(value, "auto"))
				return bad_usage("--color=%s: wants auto, always or never", value, NULL, c->name);
		} else if (a->n_given == GIVEN_MAX) {
			return bad_usage("more than %s options", "64", NULL, c->name);
		} else {
			given[a->n_given++] = (struct cmd_given){o, value};
		}
	}
	if (a->argc < c->min_args)
		return bad_usage("%s: an argument is missing", c->name, NULL, c->name);
	if (c->max_args >= 0 && a->argc > c->max_args)
		return bad_usage("%s: one argument too many", a->argv[c->max_args], NULL, c->name);
	return 0;
}

int cli_main(int argc, char **argv)
{
	struct cmd_args a = {.self = "/proc/self/exe"};
	const struct cmd *c = NULL;
	int r;

	if (argc < 2) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if (streq(argv[1], "--help") || streq(argv[1], "-h") || streq(argv[1], "help")) {
		usage(stdout);
		return EXIT_PASS;
	}
	if (streq(argv[1], "--version")) {
		printf("muster %s\n", MUSTER_VERSION);
		return EXIT_PASS;
	}
	for (const struct cmd *const *p = cmd_table; *p; p++)
		if (streq((*p)->name, argv[1]))
			c = *p;
	if (!c)
		return bad_usage("%s: no such command", argv[1], nearest_cmd(argv[1]), NULL);
	r = parse(c, argc - 2, argv + 2, &a);
	if (r)
		return r < 0 ? EXIT_PASS : r;
	return c->run(&a);
}
