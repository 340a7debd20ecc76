/* SPDX-License-Identifier: GPL-2.0-only */
/* What became of a ledger's writes, from histories written by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/ledger.h"
#include "engine/str.h"

#define MS NSEC_PER_MSEC

static struct timeline *tl;

static int set_up(void **state _unused_)
{
	return timeline_new(NULL, &tl, NULL);
}

static int tear_down(void **state _unused_)
{
	timeline_free(tl);
	return 0;
}

/* "1+ 2+ 3- 4?": acknowledged, timed out after it was sent, never sent; each 10 ms after the one before */
static void writes(const char *words)
{
	_cleanup_free_ char *copy = strdup(words);
	json_t *list = json_array();

	for (char *save = NULL, *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		char *mark;
		json_int_t n = strtoll(w, &mark, 10);

		json_array_append_new(list,
			json_pack("[I, I, I, I, s, s]", n, n * 10 * MS, *mark == '?' ? (json_int_t)0 : n * 10 * MS, n * 10 * MS + 5 * MS,
				*mark == '+' ? "ok" : *mark == '-' ? "timeout" : "other", "db1"));
	}
	timeline_event(tl, 0, EV_LEDGER,
		json_pack("{s:s, s:s, s:o, s:i, s:[]}", "load", "l", "database", "cache", "writes", list, "reads", 3, "stale"));
}

static void read_back(const char *runs)
{
	timeline_event(tl, 0, EV_LEDGER_READ,
		json_pack("{s:s, s:s, s:s, s:o}", "load", "l", "database", "cache", "node", "db2", "runs", json_loads(runs, 0, NULL)));
}

static struct ledger_result check(void)
{
	struct ledger_result r;

	assert_int_equal(ledger_check(tl, "l", &r), 1);
	return r;
}

static void nothing_is_lost(void **state _unused_)
{
	struct ledger_result r;

	writes("1+ 2+ 3+");
	writes("4+ 5+");
	read_back("[[1, 5]]");
	r = check();
	assert_true(r.read_back);
	assert_int_equal(r.attempted, 5);
	assert_int_equal(r.acknowledged, 5);
	assert_int_equal(r.lost, 0);
	assert_int_equal(r.duplicated, 0);
	assert_int_equal(r.unsure, 0);
	assert_int_equal(r.reads, 6);
	assert_int_equal(r.rpo, 0);
	assert_string_equal(r.missing, "");
	assert_string_equal(r.read_from, "db2");
}

static void a_tail_is_lost(void **state _unused_)
{
	struct ledger_result r;

	writes("1+ 2+ 3+ 4+ 5- 6? 7+ 8+");
	read_back("[[1, 2], [8, 8]]");
	r = check();
	assert_int_equal(r.acknowledged, 6);
	assert_int_equal(r.lost, 3);
	/* 5 and 6 were never acknowledged, so they are not lost */
	assert_string_equal(r.missing, "3-4, 7");
	/* from the acknowledgement of 2 to that of 7 */
	assert_int_equal(r.rpo, 50 * MS);
}

static void an_unacknowledged_one_may_be_there(void **state _unused_)
{
	struct ledger_result r;

	writes("1+ 2- 3+ 4-");
	read_back("[[1, 3]]");
	r = check();
	assert_int_equal(r.lost, 0);
	assert_int_equal(r.unsure, 1);
	assert_int_equal(r.duplicated, 0);
}

static void twice_is_once_too_often(void **state _unused_)
{
	struct ledger_result r;

	writes("1+ 2+ 3+");
	read_back("[[1, 3], [2, 2], [2, 2]]");
	r = check();
	assert_int_equal(r.duplicated, 1);
	assert_int_equal(r.lost, 0);
}

static void everything_is_lost(void **state _unused_)
{
	struct ledger_result r;

	writes("1+ 2+ 3+");
	read_back("[]");
	r = check();
	assert_int_equal(r.lost, 3);
	assert_string_equal(r.missing, "1-3");
	assert_int_equal(r.rpo, 20 * MS); /* nothing survived before: counted from the first one's own acknowledgement */
}

static void stale_answers_are_counted(void **state _unused_)
{
	writes("1+");
	timeline_event(tl, 0, EV_LEDGER,
		json_pack("{s:s, s:s, s:[], s:i, s:[[i,i,i],[i,i,i]]}", "load", "l", "database", "cache", "writes", "reads", 2, "stale", 1, 0,
			1, 2, 0, 1));
	read_back("[[1, 1]]");
	assert_int_equal(check().stale, 2);
}

static void not_read_back(void **state _unused_)
{
	struct ledger_result r;

	writes("1+ 2+");
	r = check();
	assert_false(r.read_back);
	assert_string_equal(r.error, "the drill ended before that");
	timeline_event(tl, 0, EV_LEDGER_READ,
		json_pack("{s:s, s:s, s:n, s:n, s:s}", "load", "l", "database", "cache", "node", "runs", "error", "nobody answered"));
	r = check();
	assert_false(r.read_back);
	assert_string_equal(r.error, "nobody answered");
	assert_int_equal(r.lost, 0);
}

static void there_is_none(void **state _unused_)
{
	struct ledger_result r;

	assert_int_equal(ledger_check(tl, "l", &r), 0);
	writes("1+");
	assert_int_equal(ledger_check(tl, "another", &r), 0);
}

static void a_history_that_makes_no_sense(void **state _unused_)
{
	static const char *const runs[] = {"[[0, 1]]", "[[3, 1]]", "[[1, 99999999]]", "[[\"a\", 2]]", "[7]", "[[-1, 2]]"};
	struct ledger_result r;

	for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
		writes("1+ 2+");
		read_back(runs[i]);
		assert_int_equal(ledger_check(tl, "l", &r), -EBADMSG);
		tear_down(NULL);
		set_up(NULL);
	}
	writes("1+ 2+ 2+"); /* each number once */
	assert_int_equal(ledger_check(tl, "l", &r), -EBADMSG);
	tear_down(NULL);
	set_up(NULL);
	writes("99999999+");
	assert_int_equal(ledger_check(tl, "l", &r), -EBADMSG);
}

static void many_holes_fit(void **state _unused_)
{
	struct ledger_result r;
	_cleanup_strbuf_ struct strbuf w = {0}, runs = {0};

	strbuf_puts(&runs, "[");
	for (int i = 1; i <= 400; i++) {
		strbuf_addf(&w, "%d+ ", i);
		if (i % 2)
			strbuf_addf(&runs, "%s[%d,%d]", i > 1 ? "," : "", i, i);
	}
	strbuf_puts(&runs, "]");
	writes(strbuf_cstr(&w));
	read_back(strbuf_cstr(&runs));
	r = check();
	assert_int_equal(r.lost, 200);
	assert_true(strlen(r.missing) < sizeof(r.missing));
	assert_string_equal(r.missing + strlen(r.missing) - 5, ", ...");
	assert_memory_equal(r.missing, "2, 4, 6, ", 9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_is_lost, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_tail_is_lost, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_unacknowledged_one_may_be_there, set_up, tear_down),
		cmocka_unit_test_setup_teardown(twice_is_once_too_often, set_up, tear_down),
		cmocka_unit_test_setup_teardown(everything_is_lost, set_up, tear_down),
		cmocka_unit_test_setup_teardown(stale_answers_are_counted, set_up, tear_down),
		cmocka_unit_test_setup_teardown(not_read_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(there_is_none, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_history_that_makes_no_sense, set_up, tear_down),
		cmocka_unit_test_setup_teardown(many_holes_fit, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
