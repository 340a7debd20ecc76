/* SPDX-License-Identifier: GPL-2.0-only */
/* Whole drills of a Redis primary with its sentinels, on this kernel: the primary is lost in each of the ways there are. */
#include "tests/lab/drill_redis.h"

static void primary_lost(const char *how)
{
	_cleanup_free_ char *set = strf("how=%s", how);
	struct drill d;

	if (!have_redis())
		skip();
	start(&d, "drills/redis-loss.lua", "--set", set, NULL);
	expect(&d, 0, "pass");
	/* seen, in this order, and written to the new one */
	assert_true(number(&d, "recovery", "detect_ms") > 0);
	assert_true(number(&d, "recovery", "failover_ms") >= number(&d, "recovery", "detect_ms"));
	assert_string_equal(json_string_value(json_object_get(part(&d, "recovery", "taken_over"), "node")), "db2");
	assert_true(number(&d, "ledger", "acknowledged") > 100);
	assert_true(number(&d, "ledger", "attempted") > number(&d, "ledger", "acknowledged")); /* it hurt */
	assert_int_equal(number(&d, "ledger", "lost"), 0);
	assert_int_equal(number(&d, "ledger", "duplicated"), 0);
	assert_true(json_is_true(json_object_get(json_array_get(json_object_get(d.report, "faults"), 0), "proved")));
	done(&d);
	assert_nothing_left();
}

static void frozen(void **state)
{
	(void)state;
	primary_lost("frozen"); /* the node, all of it */
}

static void stop(void **state)
{
	(void)state;
	primary_lost("stop");
}

static void killed(void **state)
{
	(void)state;
	primary_lost("kill");
}

static void freeze(void **state)
{
	(void)state;
	primary_lost("freeze");
}

static void cut(void **state)
{
	(void)state;
	primary_lost("cut");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frozen),
		cmocka_unit_test(stop),
		cmocka_unit_test(killed),
		cmocka_unit_test(freeze),
		cmocka_unit_test(cut),
	};

	if (!sandbox_enter()) {
		printf("SKIP: a drill needs root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
