/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * cmd.h: a subcommand is a file cmd_NAME.c that ends in `const struct cmd cmd_NAME`; the build collects them, and usage,
 * option parsing and the man page's synopsis come from the table. These files are the only ones that print or choose an exit code.
 */
#pragma once

#include "engine/err.h"
#include "engine/judge.h"
#include "engine/live.h"

struct cmd_opt {
	const char *name; /* "out" for --out */
	const char *arg;  /* "DIR"; NULL: a flag */
	const char *help;
};

/* What was given: --name, with its value ("" for a flag), in order; repeated options repeat. */
struct cmd_given {
	const struct cmd_opt *opt;
	const char *value;
};

struct cmd_args {
	int argc; /* positional */
	char **argv;
	size_t n_given;
	struct cmd_given *given;
	/* the common ones, taken out */
	bool json, quiet;
	enum live_color color;
	const char *self; /* path of this binary */
};

struct cmd {
	const char *name;
	int order;		/* place in the usage */
	const char *args;	/* "FILE", "[RUN|--all]" */
	const char *summary;	/* one line */
	const char *help;	/* more, for `muster NAME --help`; may be NULL */
	const struct cmd_opt *opts; /* ends in an entry without a name */
	int min_args, max_args; /* positional; -1: any */
	int (*run)(const struct cmd_args *a);
};

extern const struct cmd *const cmd_table[];

const char *cmd_value(const struct cmd_args *a, const char *opt); /* the last one given, or NULL */
bool cmd_has(const struct cmd_args *a, const char *opt);

/* "muster: TEXT" and the hint on stderr; or {"error":...} with --json. Returns @code. */
int cmd_fail(const struct cmd_args *a, enum exit_code code, const struct err *err);
