/* SPDX-License-Identifier: GPL-2.0-only */
/* Whole drills behind a director: the one that ships, and three that must not pass. They need IPVS and netem. */
#include "tests/lab/drill.h"

#include "engine/change.h"

static bool have_ipvs(void)
{
	const struct change_ops *ipvs = change_find("set.ipvs"), *netem = change_find("fault.netem");
	struct node *host = node_new("host", NULL);
	struct err err = {0};
	bool have = ipvs && netem && node_open(host, &err) == 0 && ipvs->supported(host, NULL, &err) == 0 &&
		    netem->supported(host, NULL, &err) == 0;

	if (!have)
		print_message("SKIP reason: %s\n", err.text[0] ? err.text : "this build has no IPVS or netem");
	node_free(host);
	return have;
}

static void lvs_drill(const char *file, int code, const char *want, const char *check, const char *status)
{
	struct drill d;

	if (!have_ipvs())
		skip();
	start(&d, file, NULL);
	expect(&d, code, want);
	if (check)
		assert_check(&d, check, status);
	done(&d);
	assert_nothing_left();
}

static void real_server_loss_passes(void **state)
{
	(void)state;
	lvs_drill("../scenarios/real-server-loss.lua", 0, "pass", "recovery time", "pass");
}

static void contradicting_weights_fail(void **state)
{
	(void)state;
	lvs_drill("drills/lvs-weights.lua", 1, "fail", "balance", "fail");
}

static void unchecked_server_fails(void **state)
{
	(void)state;
	lvs_drill("drills/lvs-unchecked.lua", 1, "fail", "weight", "fail");
}

static void latency_on_an_idle_device_is_inconclusive(void **state)
{
	(void)state;
	lvs_drill("drills/lvs-toothless.lua", 7, "inconclusive", NULL, NULL);
}

static void latency_is_measured(void **state)
{
	(void)state;
	lvs_drill("drills/lvs-latency.lua", 0, "pass", "p99", "pass");
}

/* New connections end when it is withdrawn, packets when its old ones have been given up */
static void a_lost_server_is_left_in_peace(void **state)
{
	struct drill d;

	(void)state;
	if (!have_ipvs())
		skip();
	start(&d, "drills/lvs-sent.lua", NULL);
	expect(&d, 0, "pass");
	assert_check(&d, "eventually web:scheduled(\"rs2\") above", "pass");
	assert_check(&d, "eventually web:scheduled(\"rs2\") equals", "pass");
	assert_check(&d, "always web:scheduled(\"rs2\") equals", "pass");
	assert_check(&d, "eventually web:forwarded(\"rs2\") equals", "pass");
	assert_check(&d, "always web:response_p50(\"rs1\") below", "pass");
	assert_check(&d, "always rs1:syn_queue() below", "pass");
	assert_judged_again(&d);
	done(&d);
	assert_nothing_left();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_server_loss_passes),
		cmocka_unit_test(contradicting_weights_fail),
		cmocka_unit_test(unchecked_server_fails),
		cmocka_unit_test(latency_on_an_idle_device_is_inconclusive),
		cmocka_unit_test(latency_is_measured),
		cmocka_unit_test(a_lost_server_is_left_in_peace),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);

	if (!sandbox_enter()) {
		printf("SKIP: a drill needs root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("drills behind a director", tests, setup, teardown);
}
