/* SPDX-License-Identifier: GPL-2.0-only */
/* muster report, as it is typed: a run's folder in, the report on standard output, and nothing written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "engine/str.h"

static char dir[] = "/tmp/muster-report-XXXXXX";

static const char timeline[] =
	"{\"t\":1000000000,\"kind\":\"run\",\"id\":\"r1\",\"wall_ns\":1700000000000000000}\n"
	"{\"t\":1100000000,\"kind\":\"change\",\"id\":1,\"change\":\"set.sysctl\",\"node\":\"rs1\","
	"\"state\":\"applied\"}\n"
	"{\"t\":1200000000,\"kind\":\"halt\",\"by\":\"operator\",\"reason\":\"enough\"}\n"
	"{\"t\":1300000000,\"kind\":\"residue\",\"clean\":true,\"diff\":[]}\n"
	"{\"t\":1300000000,\"kind\":\"end\",\"exit\":0}\n";

static int setup(void **state _unused_)
{
	_cleanup_free_ char *plan = NULL, *path = NULL, *other = NULL;
	size_t len;

	if (!mkdtemp(dir) || file_read(TEST_DATA "/golden/plan.json", 1 << 20, &plan, &len) < 0)
		return -1;
	path = strf("%s/plan.json", dir);
	other = strf("%s/timeline.jsonl", dir);
	return file_write(path, plan, len) < 0 || file_write(other, timeline, strlen(timeline)) < 0
		       ? -1
		       : 0;
}

static int teardown(void **state _unused_)
{
	static const char *const names[] = {"plan.json", "timeline.jsonl", "out", "err"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = strf("%s/%s", dir, names[i]);

		unlink(path);
	}
	return rmdir(dir); /* fails when the command left anything else */
}

/* Runs `muster report ARGS`; returns its exit status. */
static int report(const char *args, char **ret_out, char **ret_err)
{
	_cleanup_free_ char *line =
		strf("'%s' report %s >%s/out 2>%s/err </dev/null", MUSTER_BINARY, args, dir, dir);
	_cleanup_free_ char *out = strf("%s/out", dir), *err = strf("%s/err", dir);
	int status = system(line);

	assert_true(WIFEXITED(status));
	assert_int_equal(file_read(out, 1 << 20, ret_out, NULL), 0);
	assert_int_equal(file_read(err, 1 << 20, ret_err, NULL), 0);
	return WEXITSTATUS(status);
}

static void test_formats(void **state _unused_)
{
	static const struct {
		const char *options, *begins;
	} rows[] = {
		{"", "HALTED  real-server-loss  (exit 4)\n"},
		{"--format text", "HALTED  real-server-loss  (exit 4)\n"},
		{"--format html", "<!doctype html>\n"},
		{"--format md", "## "},
		{"--format junit", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites "},
		{"--format json", "{\n \"schema\": \"muster.report/1\""},
		{"--json", "{\n \"schema\": \"muster.report/1\""},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_free_ char *args = strf("%s %s", dir, rows[i].options), *out = NULL,
				    *err = NULL;

		assert_int_equal(report(args, &out, &err), 0);
		if (strncmp(out, rows[i].begins, strlen(rows[i].begins)) != 0)
			fail_msg("%s: %.60s", rows[i].options, out);
		assert_string_equal(err, "");
	}
}

static void test_exit_code(void **state _unused_)
{
	_cleanup_free_ char *args = strf("%s --exit-code", dir), *out = NULL, *err = NULL;

	assert_int_equal(report(args, &out, &err), 4);
}

static void test_mistakes(void **state _unused_)
{
	static const struct {
		const char *args, *says;
	} rows[] = {
		{"no-such-run", "no-such-run"},
		{"/nonexistent/folder", "/nonexistent/folder"},
		{"%s --format htm", "html"},
		{"", "argument"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_free_ char *args = strncmp(rows[i].args, "%s", 2) == 0
						    ? strf("%s%s", dir, rows[i].args + 2)
						    : strdup(rows[i].args);
		_cleanup_free_ char *out = NULL, *err = NULL;

		assert_int_equal(report(args, &out, &err), 2);
		assert_string_equal(out, "");
		if (!strstr(err, rows[i].says))
			fail_msg("report %s: %s", args, err);
	}
}

/* A timeline that is damaged in the middle is not judged as if it were whole. */
static void test_damage(void **state _unused_)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", dir), *out = NULL, *err = NULL;
	static const char damaged[] = "{\"t\":1000000000,\"kind\":\"run\"}\n{\"t\":11\n{\"t\":"
				      "1200000000,\"kind\":\"end\"}\n";

	assert_int_equal(file_write(path, damaged, strlen(damaged)), 0);
	assert_int_equal(report(dir, &out, &err), 2);
	assert_non_null(strstr(err, "timeline.jsonl:2: "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formats),
		cmocka_unit_test(test_exit_code),
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
