/* SPDX-License-Identifier: GPL-2.0-only */
/* The documents hold what they promise: the drill that a reader is led to is a right one, and the reference leaves nothing out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/change.h"
#include "engine/probe.h"
#include "engine/source.h"

static char *read_output(const char *command, int *ret_code)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char buf[4096];
	FILE *f = popen(command, "re");
	int status;
	size_t n;

	assert_non_null(f);
	while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
		strbuf_add(&b, buf, n);
	status = pclose(f);
	*ret_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	return strdup(strbuf_cstr(&b));
}

static void the_first_drill_is_right(void **state _unused_)
{
	_cleanup_free_ char *doc = NULL, *out = NULL, *out2 = NULL, *command = NULL, *command2 = NULL;
	char path[] = "/tmp/muster-first-XXXXXX.lua";
	int fd = mkstemps(path, 4), code, code2;
	char *from, *to;

	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(file_read(TEST_DATA "/../docs/first-drill.md", 1 << 20, &doc, NULL), 0);
	from = strstr(doc, "```lua\n");
	assert_non_null(from);
	from += strlen("```lua\n");
	to = strstr(from, "```");
	assert_non_null(to);
	assert_null(strstr(to, "```lua\n")); /* the only one */
	assert_int_equal(file_write(path, from, (size_t)(to - from)), 0);
	command = strf(MUSTER_BINARY " check %s 2>&1", path);
	out = read_output(command, &code);
	command2 = strf(MUSTER_BINARY " plan %s 2>&1", path);
	out2 = read_output(command2, &code2);
	unlink(path);
	if (code != 0 || code2 != 0)
		fail_msg("%s\n%s", out, out2);
	assert_non_null(strstr(out2, "fault.node_loss"));
}

static void mentioned(const char *text, const char *what, const struct param *params)
{
	_cleanup_free_ char *heading = strf("### %s", what);
	char *at = strstr(text, heading), *next;

	if (!at)
		fail_msg("the reference does not speak of %s", what);
	next = strstr(at + 4, "\n### ");
	for (const struct param *p = params; p && p->name; p++) {
		_cleanup_free_ char *row = strf("| `%s` |", p->name);
		char *found = strstr(at, row);

		if (!found || (next && found > next))
			fail_msg("the reference does not speak of %s's %s", what, p->name);
	}
}

static void the_reference_is_whole(void **state _unused_)
{
	int code;
	_cleanup_free_ char *text = read_output(MUSTER_BINARY " list reference", &code);

	assert_int_equal(code, 0);
	for (const struct change_ops *const *c = change_table; *c; c++)
		if ((*c)->kind != CHANGE_LAB)
			mentioned(text, (*c)->name, (*c)->params);
	for (const struct source_ops *const *s = source_table; *s; s++)
		if ((*s)->kind == SOURCE_LOAD) {
			_cleanup_free_ char *name = strf("load.%s ", (*s)->name);

			mentioned(text, name, (*s)->params);
		}
	for (const struct probe_ops *const *t = probe_table; *t; t++)
		for (const struct probe_ops *p = *t; p->name; p++) {
			_cleanup_free_ char *name = strf("%s:%s(", *p->subject ? p->subject : "muster.probe", p->name);

			if (*p->subject)
				mentioned(text, name, p->params);
			else
				assert_non_null(strstr(text, p->name));
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_drill_is_right),
		cmocka_unit_test(the_reference_is_whole),
	};

	return cmocka_run_group_tests_name("documents", tests, NULL, NULL);
}
