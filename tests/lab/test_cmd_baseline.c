/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `muster baseline` as a person uses it: planned, put in force, looked at, changed by somebody else, undone; cut off in the middle; and
 * asked for what cannot be. In namespaces of its own, so that "this machine" is the test's, and /run and /etc stay as they are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bridge_site.h"
#include "command.h"

#include <sys/pidfd.h>
#include <sys/stat.h>

#include "engine/guard.h"

#define KILLS	 24
#define PATIENCE (60 * NSEC_PER_SEC)
#define SOMAXCONN "/proc/sys/net/core/somaxconn"
#define FIN	  "/proc/sys/net/ipv4/tcp_fin_timeout"

static bool ready;

/* What each profile here begins with: were anything changed, this would be. */
#define FIRST "{ on = 'servers', 'set.sysctl', { values = { ['net.core.somaxconn'] = 1234, ['net.ipv4.tcp_fin_timeout'] = 33 } } },\n"

static void profile(const char *name, const char *more)
{
	_cleanup_free_ char *path = strf("/etc/muster/profiles/%s.lua", name), *text = strf("return { summary = 'x',\n" FIRST "%s }\n", more);

	assert_int_equal(mkdir_p("/etc/muster/profiles"), 0);
	assert_int_equal(file_write(path, text, strlen(text)), 0);
}

static void assert_value(const char *path, const char *want)
{
	_cleanup_free_ char *text = NULL;

	assert_int_equal(file_read(path, 4096, &text, NULL), 0);
	text[strcspn(text, "\n")] = '\0';
	assert_string_equal(text, want);
}

static char *value(const char *path)
{
	char *text = NULL;

	assert_int_equal(file_read(path, 4096, &text, NULL), 0);
	text[strcspn(text, "\n")] = '\0';
	return text;
}

static int group_setup(void **state _unused_)
{
	if (!ready)
		return 0;
	if (overlay_etc() < 0)
		return -1;
	profile("mini",
		"{ on = 'directors', optional = true, 'set.ipset', { name = 'drill', members = { '192.0.2.7' } } },\n"
		"{ on = 'directors', optional = true, 'set.block', { name = 'drill' } },\n"
		"{ on = 'servers', optional = true, 'set.limits', { process = 'nosuchservice', limits = { nofile = 100 } } },\n"
		"{ on = 'servers', optional = true, 'set.rps', { device = 'lo', cpus = '0' } },\n");
	return 0;
}

#define NEED_ROOT()                                                                                                       \
	do {                                                                                                               \
		if (!ready)                                                                                                \
			SKIP("namespaces need root");                                                                      \
	} while (0)

/* ── a whole life ─────────────────────────────────────────────────────────────────────────── */

static void plan_changes_nothing(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *want = NULL;

	NEED_ROOT();
	before = value(SOMAXCONN);
	want = strf("net.core.somaxconn: %s -> 1234", before);
	expect(0, "baseline plan mini", want);
	assert_non_null(strstr(out, "$ sysctl -w net.core.somaxconn=1234"));
	assert_non_null(strstr(out, "[volatile]"));
	/* what is not to be had is said, and why */
	assert_non_null(strstr(out, "not on this host, and is left out: set.limits on localhost: no process called nosuchservice runs there"));
	assert_value(SOMAXCONN, before);
	expect(2, "baseline verify mini", "not in force");
	expect(2, "baseline restore mini", "not in force");
	expect(0, "status", "nothing is hot");
}

static void it_stays_until_restore(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *fin = NULL;
	_cleanup_json_ json_t *j = NULL;

	NEED_ROOT();
	before = value(SOMAXCONN);
	fin = value(FIN);
	expect(0, "baseline apply mini --lab none", "in force until muster baseline restore mini");
	assert_value(SOMAXCONN, "1234");
	assert_value(FIN, "33");
	expect(6, "baseline apply mini", "baseline mini is in force here");
	expect(0, "baseline verify mini", "baseline mini: holds");
	assert_non_null(strstr(out, "set.limits on localhost  [volatile]  not supported here"));
	expect(0, "status", "a baseline is in force");
	/* it is meant to be there: nobody restores it unasked, and it is no unfinished business */
	expect(0, "restore --all", "nothing is hot");
	assert_value(SOMAXCONN, "1234");

	/* somebody else changes one */
	assert_int_equal(file_write(SOMAXCONN, "77", 2), 0);
	expect(1, "baseline verify mini", "DRIFTED   net.core.somaxconn: 77, ours was 1234, before ");
	assert_non_null(strstr(out, "by whom is not known"));
	assert_non_null(strstr(out, "holds     net.ipv4.tcp_fin_timeout: 33"));
	expect(1, "baseline verify mini --json", "\"state\":\"drifted\"");
	j = json_loads(out, 0, NULL);
	assert_non_null(j);
	assert_string_equal(json_string_value(json_object_get(j, "baseline")), "mini");

	assert_int_equal(file_write(SOMAXCONN, "1234", 4), 0);
	expect(0, "baseline verify mini", "holds");
	expect(0, "baseline restore mini", "undone");
	assert_value(SOMAXCONN, before);
	assert_value(FIN, fin);
	expect(2, "baseline restore mini", "not in force");
	expect(0, "status", "nothing is hot");
}

static void a_third_partys_change_is_kept(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *fin = NULL;

	NEED_ROOT();
	before = value(SOMAXCONN);
	fin = value(FIN);
	expect(0, "baseline apply mini --quiet", NULL);
	assert_int_equal(file_write(SOMAXCONN, "77", 2), 0);
	expect(5, "baseline restore mini", "left alone");
	assert_value(SOMAXCONN, "77");
	assert_value(FIN, fin); /* what was not touched by anybody else is as it was */
	assert_int_equal(file_write(SOMAXCONN, before, strlen(before)), 0);
	/* decided by a person, it is settled */
	(void)system("rm -rf /run/muster/baseline-mini");
}

/* Killed anywhere on the way: what the journal says is undone, and nothing else was changed. */
static void cut_off_it_comes_back(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *fin = NULL;
	unsigned int hot = 0, early = 0, whole = 0;

	NEED_ROOT();
	before = value(SOMAXCONN);
	fin = value(FIN);
	for (int ms = 0; ms < KILLS; ms++) {
		pid_t pid = start("baseline apply mini", 0);
		nsec_t until = now_ns() + 5 * NSEC_PER_SEC;
		int status;

		/* some while it still reads the profile, most from the first record on */
		while (ms > 3 && access("/run/muster/baseline-mini/undo.journal", F_OK) < 0 && now_ns() < until)
			(void)poll(NULL, 0, 0);
		(void)poll(NULL, 0, ms > 3 ? (ms - 4) / 2 : ms);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (WIFEXITED(status)) {
			assert_int_equal(WEXITSTATUS(status), 0);
			whole++;
		}
		status = finish(start("baseline restore mini", 0));
		if (status != 0 && status != 2)
			fail_msg("killed after %d ms, and restore says %d: %s", ms, status, out);
		hot += status == 0;
		early += status == 2;
		assert_value(SOMAXCONN, before);
		assert_value(FIN, fin);
		assert_int_not_equal(system("nft list tables 2>/dev/null | grep -q muster_block"), 0);
	}
	printf("    killed %d times: %u with a journal, of which %u had just ended; %u before there was one\n", KILLS, hot, whole, early);
	assert_true(hot > whole);
}

static void not_during_a_drill(void **state _unused_)
{
	_cleanup_close_ int lock = -1;
	struct err err = {0};

	NEED_ROOT();
	assert_int_equal(guard_lock_host("some-drill", "/nowhere", &lock, &err), 0);
	expect(6, "baseline apply mini", "another drill is going on here: some-drill");
	expect(6, "baseline restore mini", "some-drill");
	close(TAKE_FD(lock));
	expect(2, "baseline restore mini", "not in force");
}

/* ── bad input ────────────────────────────────────────────────────────────────────────────── */

static void refused_before_anything_is_changed(void **state _unused_)
{
	static const struct {
		const char *more, *text, *hint;
		int code;
	} cases[] = {
		{"{ on = 'servers', 'set.sysctl', { valeus = {} } }", "unknown", "did you mean \"values\"?", 2},
		{"{ on = 'servers', 'set.sysctrl', {} }", "there is no setting", "set.sysctl", 2},
		{"{ on = 'serves', 'set.sysctl', {} }", "on = ", "servers", 2},
		{"{ on = 'servers', optoinal = true, 'set.sysctl', {} }", "optoinal", "optional", 2},
		{"{ on = 'servers', 'set.sysctl', { values = { ['net.core.somaxcon'] = 5 } } }", "no such parameter", NULL, 6},
		{"{ on = 'host', 'set.irq', { cpus = '900' } }", "CPU 900 is not there", NULL, 6},
		{"{ on = 'servers', 'set.affinity', { pid = 1, cpus = '900' } }", "CPU 900 is not there", NULL, 6},
		{"{ on = 'host', 'set.hugepages', { pages = 1000000000 } }", "pages", NULL, 2},
		{"{ on = 'host', 'set.hugepages', { pages = 16777216 } }", "are to be had", "fewer", 6},
		{"{ on = 'host', 'set.hugepages', { pages = 1, numa_node = 77 } }", "NUMA node 77 is not there", NULL, 6},
		{"{ on = 'directors', 'set.ipset', { name = 'x', members = { '2001:db8::1' } } }", "no member of a hash:ip", NULL, 2},
		{"{ on = 'host', 'set.irq', { device = 'lo' } }", "has no queue with an interrupt of its own", NULL, 6},
		{"{ on = 'host', 'set.irq', { device = 'nosuch0' } }", "there is no device nosuch0", NULL, 6},
		{"{ on = 'servers', 'set.limits', { process = 'nosuchservice', limits = { nofile = 5 } } }", "no process called nosuchservice", NULL, 6},
		{"{ on = 'servers', 'set.limits', { process = 'x', limits = { nofiel = 5 } } }", "there is no limit", "nofile", 2},
		{"{ on = 'servers', 'set.numa', { pid = 1, numa_node = 77 } }", "NUMA", NULL, 6},
		{"{ on = 'servers', 'set.rps', { device = 'nosuch0' } }", "there is no device nosuch0", NULL, 6},
	};
	_cleanup_free_ char *before = NULL;

	NEED_ROOT();
	before = value(SOMAXCONN);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int got;

		profile("bad", cases[i].more);
		got = finish(start("baseline apply bad", 0));
		if (got != cases[i].code || !strstr(out, cases[i].text) || (cases[i].hint && !strstr(out, cases[i].hint)))
			fail_msg("%s: exit %d, wanted %d with \"%s\": %s", cases[i].more, got, cases[i].code, cases[i].text, out);
		assert_value(SOMAXCONN, before);
		assert_int_equal(access("/run/muster/baseline-bad", F_OK), -1);
	}
}

static void usage(void **state _unused_)
{
	NEED_ROOT();
	expect(2, "baseline plan open-autogml", "did you mean \"open-autoglm\"?");
	expect(2, "baseline plan ../../etc/passwd", "no name of a profile");
	expect(2, "baseline aply mini", "did you mean apply?");
	expect(2, "baseline plan", "which profile?");
	expect(2, "baseline plan mini --lab vm", "only none is possible");
	expect(2, "baseline plan mini --lab none --site lvs-dr", "exclude each other");
	expect(6, "baseline plan mini --site lvs-dr", "muster lab up lvs-dr builds the site");
	expect(2, "baseline plan mini --site nosuchsite", "there is no site");
	assert_int_equal(finish(start("baseline apply mini", 65534)), 6);
	assert_non_null(strstr(out, "needs root"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plan_changes_nothing),
		cmocka_unit_test(it_stays_until_restore),
		cmocka_unit_test(a_third_partys_change_is_kept),
		cmocka_unit_test(cut_off_it_comes_back),
		cmocka_unit_test(not_during_a_drill),
		cmocka_unit_test(refused_before_anything_is_changed),
		cmocka_unit_test(usage),
	};

	ready = sandbox_enter();
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
