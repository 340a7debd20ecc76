/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whole drills of a Redis primary that nobody could take over from, or that would lose writes, on this kernel: refused before anything is
 * changed, or failed for the right reason.
 */
#include "tests/lab/drill_redis.h"

/* Two must agree that it is down, and there is one: nobody takes over, and the drill says so. */
static void one_sentinel_elects_nobody(void **state)
{
	struct drill d;

	(void)state;
	if (!have_redis())
		skip();
	start(&d, "drills/redis-loss.lua", "--set", "sentinels=1", "--set", "how=frozen", NULL);
	expect(&d, 1, "fail");
	assert_string_equal(word(check_of(&d, "primary(\"db2\")"), "status"), "fail");
	assert_true(json_is_null(part(&d, "recovery", "detect_ms")));
	done(&d);
	assert_nothing_left();
}

/* ── where nobody could take over the primary is not taken away ────────────────────────────── */

static void refused(const char *set, const char *want)
{
	_cleanup_free_ char *text = NULL, *path = NULL;
	struct drill d;

	if (!have_redis())
		skip();
	start(&d, "drills/redis-loss.lua", "--set", set, NULL);
	expect(&d, 6, "refused");
	if (!strstr(word(d.report, "reason"), want))
		fail_msg("wanted \"%s\": %s", want, word(d.report, "reason"));
	assert_int_equal(json_array_size(json_object_get(d.report, "faults")), 0);
	/* no load was put on it, no fault made: the lab is all there was */
	path = strf("%s/timeline.jsonl", d.out);
	assert_int_equal(file_read(path, 64 << 20, &text, NULL), 0);
	assert_null(strstr(text, "\"kind\":\"fault\""));
	assert_null(strstr(text, "\"stage\":\"baseline\""));
	done(&d);
	assert_nothing_left();
}

static void one_sentinel_is_no_quorum(void **state)
{
	(void)state;
	refused("sentinels=1", "0 of 1 sentinels can reach their quorum");
}

static void no_replica(void **state)
{
	(void)state;
	refused("replica=false", "db1 has no replica (connected_slaves:0)");
}

static void no_replica_in_sync(void **state)
{
	(void)state;
	refused("sync_delay=60", "db1 has no replica in sync: 198.18.0.32 is in state wait_bgsave");
}

/* ── a primary that is cut off and does not know it ────────────────────────────────────────── */

/* It goes on to acknowledge what the others will never see: each lost write is named. */
static void acknowledged_writes_are_lost(void **state)
{
	const json_t *c;
	struct drill d;
	json_int_t first, last;

	(void)state;
	if (!have_redis())
		skip();
	start(&d, "drills/redis-partition.lua", NULL);
	expect(&d, 1, "fail");
	c = check_of(&d, "acknowledged writes lost");
	assert_string_equal(word(c, "status"), "fail");
	assert_non_null(strstr(word(c, "evidence"), "acknowledged writes are lost"));
	assert_true(number(&d, "ledger", "lost") > 300); /* 50 a second, for as long as it was cut off */
	assert_true(number(&d, "ledger", "rpo_ms") > 6000);
	assert_int_equal(number(&d, "ledger", "duplicated"), 0);
	/* one stretch, as many as are lost */
	assert_int_equal(sscanf(json_string_value(part(&d, "ledger", "missing")), "%" JSON_INTEGER_FORMAT "-%" JSON_INTEGER_FORMAT,
				 &first, &last),
		2);
	assert_int_equal(last - first + 1, number(&d, "ledger", "lost"));
	/* two at a time, by its name */
	c = check_of(&d, "always cache:primaries() equals 1");
	assert_string_equal(word(c, "status"), "fail");
	if (!strstr(word(c, "evidence"), "split brain") || !strstr(word(c, "evidence"), "db1 primary"))
		fail_msg("%s", word(c, "evidence"));
	await_line(&d, "\"kind\":\"log\"", "split brain: db1 and db2 have both been the primary of cache");
	await_line(&d, "\"kind\":\"log\"", "the split brain of cache is over");
	done(&d);
	assert_nothing_left();
}

/* One that writes to nobody without a replica: what it acknowledges until it notices is all that can be lost. */
static void a_primary_that_wants_a_replica(void **state)
{
	struct drill d;

	(void)state;
	if (!have_redis())
		skip();
	start(&d, "drills/redis-partition.lua", "--set", "min_replicas=1", "--set", "alone=false", NULL);
	expect(&d, 0, "pass");
	assert_string_equal(word(check_of(&d, "acknowledged writes lost"), "status"), "pass");
	assert_true(number(&d, "ledger", "lost") > 0);
	assert_true(number(&d, "ledger", "rpo_ms") <= 6000);
	done(&d);
	assert_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_sentinel_elects_nobody),
		cmocka_unit_test(one_sentinel_is_no_quorum),
		cmocka_unit_test(no_replica),
		cmocka_unit_test(no_replica_in_sync),
		cmocka_unit_test(acknowledged_writes_are_lost),
		cmocka_unit_test(a_primary_that_wants_a_replica),
	};

	if (!sandbox_enter()) {
		printf("SKIP: a drill needs root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
