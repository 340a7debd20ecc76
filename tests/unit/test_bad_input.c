/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a user gets for a mistake, from the program itself: the exit code, the file and the line, the nearest right name. `run`
 * is used, not `check`: the mistake has to be found before anything is changed.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "engine/str.h"

static char scratch[64];

static int setup(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/muster-bad-XXXXXX");
	if (!mkdtemp(scratch))
		return -1;
	return chmod(scratch, 0755);
}

static int teardown(void **state)
{
	char cmd[96];

	(void)state;
	snprintf(cmd, sizeof(cmd), "rm -rf %s", scratch);
	return system(cmd);
}

/* Runs muster; everything it says goes to *ret_text. @uid: 0 stays as it is. */
static int muster(uid_t uid, char **ret_text, const char *const *args)
{
	const char *argv[16] = {MUSTER_BINARY};
	int pipe_fd[2], status;
	size_t n = 1;
	pid_t pid;

	while (*args && n < ARRAY_SIZE(argv) - 1)
		argv[n++] = *args++;
	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(pipe_fd[1], 1);
		dup2(pipe_fd[1], 2);
		if (uid && (setgid(uid) < 0 || setuid(uid) < 0))
			_exit(99);
		execv(MUSTER_BINARY, (char **)argv);
		_exit(127);
	}
	close(pipe_fd[1]);
	assert_int_equal(fd_read_all(pipe_fd[0], 1 << 20, ret_text, NULL), 0);
	close(pipe_fd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void refused(const char *script, size_t len, int code, const char *text, const char *hint)
{
	_cleanup_free_ char *said = NULL, *path = strf("%s/bad.lua", scratch), *out = strf("%s/out", scratch);
	const char *const args[] = {"run", path, "--lab=netns", "--out", out, NULL};
	int got;

	assert_int_equal(file_write(path, script, len), 0);
	got = muster(0, &said, args);
	if (got != code || !strstr(said, text) || (hint && !strstr(said, hint)))
		fail_msg("exit %d, wanted %d, \"%s\" and \"%s\":\n%.60s...\n%s", got, code, text, hint ? hint : "", script, said);
	assert_int_equal(access(out, F_OK), -1); /* not even a run's folder */
}

#define HEAD                                                                                       \
	"local muster = require \"muster\"\n"                                                      \
	"local site = muster.site \"lvs-dr\"\n"                                                    \
	"local web = site:service \"web\"\n"
#define TAIL(method)                                                                               \
	"return muster.scenario {\n"                                                               \
	"  name = \"bad\", site = site, deadline = \"1m\",\n"                                      \
	"  method = function(run)\n" method "\n  end,\n}\n"

static void mistakes_have_a_line(void **state)
{
	static const struct {
		const char *script, *text, *hint;
	} bad[] = {
		{"local x = = 1\n", "bad.lua:1:", NULL},
		{"return 42\n", "bad.lua", NULL},
		{"\n\nlocal m = require \"socket\"\n", "bad.lua:3:", NULL},
		{HEAD TAIL("    run:inject(muster.fault.node_los { node = \"rs2\" })"), "bad.lua:7:", "node_loss"},
		{HEAD TAIL("    run:inject(muster.fault.node_loss { node = \"rs9\" })"), "bad.lua:7:", "rs1"},
		{HEAD TAIL("    run:inject(muster.fault.node_loss { nod = \"rs2\" })"), "bad.lua:7:", "node"},
		{HEAD TAIL("    run:inject(muster.fault.node_loss { node = \"rs2\", how = \"silnt\" })"), "bad.lua:7:", "silent"},
		{HEAD TAIL("    run:inject(muster.fault.netem { node = \"rs2\", delay = \"-5ms\" })"), "bad.lua:7:", "negative"},
		{HEAD TAIL("    run:inject(muster.fault.netem { node = \"rs2\", loss = \"120%\" })"), "bad.lua:7:", "100%"},
		{HEAD TAIL("    run:wait \"-1s\""), "bad.lua:7:", NULL},
		{HEAD TAIL("    run:eventualy(web:weight \"rs2\":equals(0), { within = \"3s\" })"), "bad.lua:7:", "eventually"},
		{HEAD TAIL("    run:inject(muster.set.sysctl { node = \"rs2\", values = {} })"), "bad.lua:7:", NULL},
		{HEAD TAIL("    undeclared = 1"), "bad.lua:7:", "undeclared"},
		{HEAD TAIL("    os.execute \"true\""), "bad.lua:7:", "os"},
		{HEAD "local w = site:service \"wbe\"\n", "bad.lua:4:", "web"},
		{HEAD "return muster.scenario { nmae = \"x\" }\n", "bad.lua:4:", "name"},
		{"local muster = require \"muster\"\nlocal s = muster.site \"lvs-rd\"\n", "bad.lua:2:", "lvs-dr"},
		/* the beginnings of the run ids of what stays: a drill that was cut off would be taken for one of them */
		{"return require(\"muster\").scenario { name = \"lab-x\", site = require(\"muster\").site \"lvs-dr\", "
		 "deadline = \"1m\", method = print }\n",
			"names that begin with lab- or baseline-", NULL},
		{"return require(\"muster\").scenario { name = \"baseline-x\", site = require(\"muster\").site \"lvs-dr\", "
		 "deadline = \"1m\", method = print }\n",
			"names that begin with lab- or baseline-", NULL},
		/* the machine itself is for settings alone */
		{HEAD TAIL("    run:inject(muster.fault.node_loss { node = \"host\" })"), "bad.lua:7:", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refused(bad[i].script, strlen(bad[i].script), 2, bad[i].text, bad[i].hint);
}

/* What of a loss makes no sense whatever the host is: at its line, before a host is looked at */
static void losses_that_make_no_sense(void **state)
{
#define LLM                                                                                        \
	"local muster = require \"muster\"\n"                                                      \
	"local site = muster.site \"llm-service\"\n\n"
#define DIRECTOR(args) LLM TAIL("    run:inject(muster.fault.director_loss " args ")")
#define PRIMARY(args)  LLM TAIL("    run:inject(muster.fault.primary_loss " args ")")
	static const struct {
		const char *script, *text;
	} bad[] = {
		{HEAD TAIL("    run:inject(muster.fault.director_loss { service = \"web\" })"),
			"director is the only director of service web: nobody could take over"},
		{DIRECTOR("{}"), "service"},
		{DIRECTOR("{ service = \"wbe\" }"), "web"},
		{DIRECTOR("{ service = \"web\", node = \"rs1\" }"), "rs1 is no director of service web (lvs1, lvs2)"},
		{DIRECTOR("{ service = \"web\", node = \"lvs9\" }"), "lvs1"},
		{DIRECTOR("{ service = \"web\", how = \"kill\" }"), "silent"},
		{PRIMARY("{}"), "database"},
		{PRIMARY("{ database = \"cash\" }"), "cache"},
		{PRIMARY("{ database = \"cache\", node = \"s1\" }"), "s1 is no node of database cache (db1, db2)"},
		{PRIMARY("{ database = \"cache\", how = \"silent\" }"), "freeze"},
		{PRIMARY("{ database = \"cache\", how = \"kill\", keep = { \"client\" } }"), "keep goes with how = \"cut\""},
		{PRIMARY("{ database = \"cache\", how = \"cut\", keep = { \"db1\" } }"), "db1 is the node that is cut off"},
		{PRIMARY("{ database = \"cache\", how = \"cut\", keep = { \"nobody\" } }"), "nobody"},
		{PRIMARY("{ database = \"cache\", how = \"freeze\", restart = { \"redis-server\" } }"), "restart goes with"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refused(bad[i].script, strlen(bad[i].script), 2, bad[i].text, "bad.lua:7:");
}

/* The same of sites: beside the scenario, each with a part missing */
static void databases_that_nobody_could_take_over(void **state)
{
	static const char site[] =
		"return { name = \"small\", switches = { \"lan\" }, nodes = {\n"
		"  { name = \"a\", links = { { switch = \"lan\", addrs = { \"198.18.0.1/24\" } } } },\n"
		"  { name = \"b\", links = { { switch = \"lan\", addrs = { \"198.18.0.2/24\" } } } } },\n"
		"  databases = {\n"
		"    { name = \"alone\", kind = \"redis\", port = 1, nodes = { \"a\" }, sentinels = { \"b\" } },\n"
		"    { name = \"unwatched\", kind = \"redis\", port = 1, nodes = { \"a\", \"b\" } } } }\n";
	static const char *const bad[][2] = {
		{"alone", "database alone has no replica: nobody could take over"},
		{"unwatched", "database unwatched has no sentinels: nobody would elect another primary"},
	};
	_cleanup_free_ char *dir = strf("%s/sites", scratch), *file = strf("%s/sites/small.lua", scratch);

	(void)state;
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(file_write(file, site, strlen(site)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_free_ char *script = strf("local muster = require \"muster\"\n"
						   "local site = muster.site \"small\"\n\n"
						   TAIL("    run:inject(muster.fault.primary_loss { database = \"%s\" })"),
			bad[i][0]);

		refused(script, strlen(script), 2, bad[i][1], "bad.lua:7:");
	}
}

static void too_much_is_refused(void **state)
{
	static const char *const hungry[] = {
		HEAD TAIL("    while true do end"),
		HEAD TAIL("    while true do pcall(function() while true do end end) end"),
		HEAD TAIL("    local s = (\"x\"):rep(1e9)"),
		HEAD TAIL("    local t = {} while true do t[#t + 1] = { 1, 2, 3 } end"),
		HEAD TAIL("    string.find((\"a\"):rep(1e5), \".-.-.-.-.-b$\")"),
		HEAD TAIL("    local function f() return 1 + f() end f()"),
	};
	_cleanup_free_ char *large = malloc(2 << 20);

	(void)state;
	memset(large, '-', 2 << 20);
	refused(large, 2 << 20, 2, "bad.lua:1: the scenario is larger than 1 MiB", NULL);
	refused("\x1bLua\x54\x00\x19\x93", 8, 2, "bad.lua", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(hungry); i++)
		refused(hungry[i], strlen(hungry[i]), 2, "bad.lua", NULL);
}

static void usage_is_explained(void **state)
{
	static const struct {
		const char *args[6], *text;
	} bad[] = {
		{{"rnu", NULL}, "run"},
		{{"run", NULL}, "argument is missing"},
		{{"run", "a", "b", NULL}, "too many"},
		{{"run", "--lba=vm", "a", NULL}, "--lab"},
		{{"run", "--lab", NULL}, "wants a value"},
		{{"run", "/nonexistent/x.lua", NULL}, "no such file"},
		{{"run", "/tmp", NULL}, "not a file"},
		{{"list", "fautls", NULL}, "faults"},
		{{"halt", NULL}, "--reason"},
		{{"report", "no-such-run", NULL}, "no-such-run"},
		{{"check", "--set", "x", "y.lua", NULL}, "KEY=VALUE"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_free_ char *said = NULL;
		int got = muster(0, &said, bad[i].args);

		if (got != 2 || !strstr(said, bad[i].text))
			fail_msg("muster %s ...: exit %d, \"%s\" is not in: %s", bad[i].args[0], got, bad[i].text, said);
	}
}

static void unknown_set_key_is_refused(void **state)
{
	static const char script[] = "local muster = require \"muster\"\n"
				     "local r = muster.param(\"rate\", \"5/s\")\n"
				     "return muster.scenario { name = \"p\", site = muster.site \"lvs-dr\", deadline = \"1m\", "
				     "method = function() end }\n";
	_cleanup_free_ char *said = NULL, *path = strf("%s/p.lua", scratch);
	const char *const args[] = {"check", path, "--set", "rat=1/s", NULL};

	(void)state;
	assert_int_equal(file_write(path, script, strlen(script)), 0);
	assert_int_equal(muster(0, &said, args), 2);
	assert_non_null(strstr(said, "rate"));
}

static void without_root_it_says_so(void **state)
{
	static const char script[] = HEAD TAIL("    run:wait \"1s\"");
	_cleanup_free_ char *said = NULL, *checked = NULL, *path = strf("%s/good.lua", scratch);
	const char *const run[] = {"run", path, NULL}, *const check[] = {"check", path, NULL};

	(void)state;
	if (geteuid() != 0) {
		print_message("SKIP reason: only root can become somebody else\n");
		skip();
	}
	assert_int_equal(file_write(path, script, strlen(script)), 0);
	assert_int_equal(muster(65534, &said, run), 6);
	assert_non_null(strstr(said, "needs root"));
	assert_int_equal(muster(65534, &checked, check), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mistakes_have_a_line),
		cmocka_unit_test(losses_that_make_no_sense),
		cmocka_unit_test(databases_that_nobody_could_take_over),
		cmocka_unit_test(too_much_is_refused),
		cmocka_unit_test(usage_is_explained),
		cmocka_unit_test(unknown_set_key_is_refused),
		cmocka_unit_test(without_root_it_says_so),
	};

	return cmocka_run_group_tests_name("bad input", tests, setup, teardown);
}
