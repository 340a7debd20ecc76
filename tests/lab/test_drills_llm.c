/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The drills that ship for site llm-service: each passes on the site as it should be, and fails, with the right reason, on one that is
 * crippled in what the drill looks for. They need IPVS and netem; those that need neither are in test_drills_redis.c, and game-day is
 * played by script/test and script/demo.
 */
#include "tests/lab/drill.h"

#include "engine/change.h"

static void need_ipvs(void)
{
	const struct change_ops *ipvs = change_find("set.ipvs"), *netem = change_find("fault.netem");
	struct node *host = node_new("host", NULL);
	struct err err = {0};
	bool have = ipvs && netem && node_open(host, &err) == 0 && ipvs->supported(host, NULL, &err) == 0 &&
		    netem->supported(host, NULL, &err) == 0;

	node_free(host);
	if (have)
		return;
	print_message("SKIP reason: %s\n", err.text[0] ? err.text : "this build has no IPVS or netem");
	skip();
}

static const json_t *phases(const struct drill *d)
{
	return json_object_get(json_object_get(d->report, "recovery"), "phases");
}

/* Of each phase with an objective: when it began, was noticed, was worked round, was over. */
static void assert_phases(const struct drill *d, size_t n)
{
	const json_t *p;
	size_t i, judged = 0;

	json_array_foreach((json_t *)phases(d), i, p)
		judged += json_is_integer(json_object_get(p, "rto_ms")) || json_is_real(json_object_get(p, "rto_ms"));
	if (judged < n) {
		_cleanup_free_ char *all = json_dumps(json_object_get(d->report, "recovery"), JSON_INDENT(1));

		fail_msg("%zu phases with a recovery time, not %zu: %s", judged, n, all);
	}
}

/* @set: "NAME=VALUE" or NULL. @check: a part of the name of a check that has to be @status. */
static void drill(const char *file, const char *set, int code, const char *want, const char *check, const char *status)
{
	struct drill d;

	need_ipvs();
	if (set)
		start(&d, file, "--set", set, NULL);
	else
		start(&d, file, NULL);
	expect(&d, code, want);
	if (check)
		assert_check(&d, check, status);
	if (code == 0)
		assert_phases(&d, 1);
	done(&d);
	assert_nothing_left();
}

#define CASE(name, ...)                                                                                                            \
	static void name(void **state _unused_)                                                                                    \
	{                                                                                                                          \
		drill(__VA_ARGS__);                                                                                                \
	}

CASE(director_failover_passes, "../scenarios/director-failover.lua", NULL, 0, "pass", "held:reset", "pass")
CASE(no_sync_daemon_fails, "../scenarios/director-failover.lua", "sync_daemon=false", 1, "fail", "held:reset", "fail")
CASE(queue_overflow_passes, "../scenarios/queue-overflow.lua", NULL, 0, "pass", "overflows", "pass")
CASE(a_queue_that_cannot_overflow_is_inconclusive, "../scenarios/queue-overflow.lua", "backlog=65535", 7, "inconclusive", NULL, NULL)
CASE(network_latency_passes, "../scenarios/network-latency.lua", NULL, 0, "pass", "p90", "pass")
CASE(reversed_weights_fail, "../scenarios/network-latency.lua", "weights=reversed", 1, "fail", "balance", "fail")
CASE(server_removal_passes, "../scenarios/server-removal.lua", NULL, 0, "pass", "held:timed_out", "pass")
CASE(connections_left_hanging_fail, "../scenarios/server-removal.lua", "expire_nodest=false", 1, "fail", "held:timed_out", "fail")

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(director_failover_passes),
		cmocka_unit_test(no_sync_daemon_fails),
		cmocka_unit_test(queue_overflow_passes),
		cmocka_unit_test(a_queue_that_cannot_overflow_is_inconclusive),
		cmocka_unit_test(network_latency_passes),
		cmocka_unit_test(reversed_weights_fail),
		cmocka_unit_test(server_removal_passes),
		cmocka_unit_test(connections_left_hanging_fail),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (!sandbox_enter()) {
		printf("SKIP: a drill needs root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("drills on llm-service", tests, setup, teardown);
}
