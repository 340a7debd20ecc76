/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whole drills on site "pair", which needs namespaces and tc-BPF alone: verdict, exit code, report, and what is left behind. What
 * ends them before their time is in tests/crash/test_ways_out.c.
 */
#include "tests/lab/drill.h"

#include "engine/node.h"
#include "tests/lab/bridge_site.h"

#define UNCOUNTED "packets of server/eth0 are not counted: fault."

/* ── verdicts ──────────────────────────────────────────────────────────────────────────────── */

static void loss_and_return_passes(void **state)
{
	static const char *const hows[] = {"how=silent", "how=cut", "how=loud"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		struct drill d;
		const json_t *fault;

		start(&d, "drills/pair-loss.lua", "--set", hows[i], NULL);
		expect(&d, 0, "pass");
		fault = json_array_get(json_object_get(d.report, "faults"), 0);
		assert_true(json_is_true(json_object_get(fault, "proved")));
		assert_true(json_number_value(json_object_get(json_object_get(d.report, "recovery"), "rto_ms")) > 0);
		done(&d);
		assert_nothing_left();
	}
}

static void missed_expectation_fails(void **state)
{
	struct drill d;

	(void)state;
	start(&d, "drills/pair-misses.lua", NULL);
	expect(&d, 1, "fail");
	done(&d);
	assert_nothing_left();
}

/* Who has no director goes on calling a lost node: it is seen from the caller's side, and a check that wants peace fails. */
static void a_lost_node_is_called_still(void **state)
{
	struct drill d;

	(void)state;
	start(&d, "drills/pair-attempts.lua", NULL);
	expect(&d, 1, "fail");
	assert_check(&d, "server:attempts(from = \"client\") above", "pass");
	assert_check(&d, "server:attempts() equals", "fail");
	assert_judged_again(&d);
	done(&d);
	assert_nothing_left();
}

static bool is_told(const struct drill *d, const char *file, const char *text)
{
	_cleanup_free_ char *path = strf("%s/%s", d->out, file), *all = NULL;

	assert_int_equal(file_read(path, 64 << 20, &all, NULL), 0);
	return strstr(all, text);
}

/* One XDP program a device: the fault has the place that it needs, and what is not counted for that is unknown, and said. */
static void packets_are_counted_beside_xdp_drop(void **state)
{
	struct drill d;

	(void)state;
	start(&d, "drills/pair-packets.lua", NULL);
	expect(&d, 7, "inconclusive");
	assert_check(&d, "client:packets() below", "pass");
	assert_check(&d, "server:packets() below", "unknown");
	assert_true(json_is_true(json_object_get(json_array_get(json_object_get(d.report, "faults"), 0), "proved")));
	assert_true(is_told(&d, "timeline.jsonl", UNCOUNTED)); /* at once */
	assert_true(is_told(&d, "report.md", UNCOUNTED));
	assert_true(is_told(&d, "report.md", "came to client/eth0"));
	assert_false(is_told(&d, "report.md", "came to server/eth0"));
	assert_judged_again(&d);
	done(&d);
	assert_nothing_left();

	start(&d, "drills/pair-packets.lua", "--set", "how=silent", NULL);
	expect(&d, 0, "pass");
	assert_false(is_told(&d, "report.md", "are not counted"));
	assert_true(is_told(&d, "report.md", "came to server/eth0"));
	assert_judged_again(&d);
	done(&d);
	assert_nothing_left();
}

static void fault_without_bite_is_inconclusive(void **state)
{
	struct drill d;

	(void)state;
	start(&d, "drills/pair-toothless.lua", NULL);
	expect(&d, 7, "inconclusive");
	assert_true(json_is_false(
		json_object_get(json_array_get(json_object_get(d.report, "faults"), 0), "proved")));
	done(&d);
	assert_nothing_left();
}

/* Kills the web server as soon as the load runs: the steady state is not attained, and nothing is broken on top. */
static void dead_service_is_inconclusive(void **state)
{
	_cleanup_node_ struct node *server = node_new("server", "/run/netns/muster-pair-server");
	_cleanup_free_ pid_t *pids = NULL;
	struct err err = {0};
	struct drill d;
	size_t n;

	(void)state;
	start(&d, "drills/pair-loss.lua", NULL);
	await_line(&d, "\"stage\"", "\"baseline\"");
	assert_int_equal(node_open(server, &err), 0);
	assert_int_equal(node_pids(server, &pids, &n, &err), 0);
	assert_true(n > 0);
	for (size_t i = 0; i < n; i++)
		kill(pids[i], SIGKILL);
	expect(&d, 7, "inconclusive");
	assert_int_equal(json_array_size(json_object_get(d.report, "faults")), 0);
	done(&d);
	assert_nothing_left();
}

static void second_drill_is_refused(void **state)
{
	struct drill d, second;
	_cleanup_free_ char *text = NULL, *log = NULL;

	(void)state;
	start(&d, "drills/pair-overdue.lua", "--set", "deadline=1m", NULL);
	await_line(&d, "\"fault\"", "\"applied\"");
	start(&second, "drills/pair-overdue.lua", NULL);
	assert_int_equal(finish(&second), 6);
	log = strf("%s.log", second.out);
	assert_int_equal(file_read(log, 1 << 16, &text, NULL), 0);
	assert_non_null(strstr(text, "pair-overdue-2")); /* the first one's id: NAME-20... */
	done(&second);
	kill(d.pid, SIGINT);
	expect(&d, 4, "halted");
	done(&d);
	assert_nothing_left();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loss_and_return_passes),
		cmocka_unit_test(missed_expectation_fails),
		cmocka_unit_test(a_lost_node_is_called_still),
		cmocka_unit_test(packets_are_counted_beside_xdp_drop),
		cmocka_unit_test(fault_without_bite_is_inconclusive),
		cmocka_unit_test(dead_service_is_inconclusive),
		cmocka_unit_test(second_drill_is_refused),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	/* a world of its own: the host has room for one drill at a time */
	if (!sandbox_enter()) {
		fprintf(stderr, "not root: no namespaces to be had\n");
		return 1;
	}
	return cmocka_run_group_tests_name("drills", tests, setup, teardown);
}
