/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Predicates over made-up probes, whose every bucket is given: '.' no data, a digit a value, '?' something between 0 and
 * 9. A window's value is its largest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/predicate.h"
#include "engine/str.h"

#define B TIMELINE_BUCKET

static const char *series;
static unsigned int evals;

static int eval_series(const struct timeline *tl _unused_, const struct site *site _unused_,
	const json_t *args _unused_, nsec_t t0, nsec_t t1, struct sample *ret,
	struct err *err _unused_)
{
	size_t from = (size_t)(t0 / B), to = (size_t)(t1 / B), len = strlen(series);
	struct sample s = {.have = true};

	evals++;
	if (t0 == t1)
		to = from + 1; /* an instant is in the bucket that begins there */
	for (size_t i = from; i < to; i++) {
		char c = i < len ? series[i] : '.';

		if (c == '.')
			return 0;
		s.lo = fmax(s.lo, c == '?' ? 0 : c - '0');
		s.hi = fmax(s.hi, c == '?' ? 9 : c - '0');
	}
	s.value = s.hi;
	s.n = to - from;
	s.detail = json_pack(
		"{s:I}", "from", (json_int_t)from); /* a leak of it fails under the sanitizer */
	*ret = s;
	return 0;
}

static int eval_never(const struct timeline *tl _unused_, const struct site *site _unused_,
	const json_t *args _unused_, nsec_t t0 _unused_, nsec_t t1 _unused_,
	struct sample *ret _unused_, struct err *err)
{
	return err_set(err, -ENOENT, "no such thing");
}

static const struct probe_ops windowed = {
	.subject = "", .name = "w", .window = 5 * B, .eval = eval_series};
static const struct probe_ops instant = {
	.subject = "", .name = "i", .window = 0, .eval = eval_series};
static const struct probe_ops broken = {
	.subject = "", .name = "b", .window = 5 * B, .eval = eval_never};

static struct timeline *tl;

static int setup(void **state _unused_)
{
	return timeline_new(NULL, &tl, NULL);
}

static int teardown(void **state _unused_)
{
	timeline_free(tl);
	return 0;
}

static struct predicate make(const struct probe_ops *probe, enum predicate_op op, double bound)
{
	return (struct predicate){
		.probe = probe, .op = op, .bound = bound, .over = -1, .text = (char *)"test"};
}

static void test_truth_of_an_interval(void **state _unused_)
{
	/* bound 5; below, above, at most, at least, equals, within */
	static const struct {
		double lo, hi;
		enum tri want[OP_COUNT];
	} rows[] = {
		{1, 4, {TRI_TRUE, TRI_FALSE, TRI_TRUE, TRI_FALSE, TRI_FALSE, TRI_TRUE}},
		{1, 5, {TRI_UNKNOWN, TRI_FALSE, TRI_TRUE, TRI_UNKNOWN, TRI_UNKNOWN, TRI_TRUE}},
		{5, 5, {TRI_FALSE, TRI_FALSE, TRI_TRUE, TRI_TRUE, TRI_TRUE, TRI_TRUE}},
		{4, 6,
			{TRI_UNKNOWN, TRI_UNKNOWN, TRI_UNKNOWN, TRI_UNKNOWN, TRI_UNKNOWN,
				TRI_UNKNOWN}},
		{5, 6, {TRI_FALSE, TRI_UNKNOWN, TRI_UNKNOWN, TRI_TRUE, TRI_UNKNOWN, TRI_UNKNOWN}},
		{6, 9, {TRI_FALSE, TRI_TRUE, TRI_FALSE, TRI_TRUE, TRI_FALSE, TRI_FALSE}},
		{NAN, NAN,
			{TRI_UNKNOWN, TRI_UNKNOWN, TRI_UNKNOWN, TRI_UNKNOWN, TRI_UNKNOWN,
				TRI_UNKNOWN}},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		for (enum predicate_op op = 0; op < OP_COUNT; op++) {
			struct predicate p = make(&windowed, op, 5);
			struct sample s = {.have = true, .lo = rows[i].lo, .hi = rows[i].hi};

			if (predicate_test(&p, &s) != rows[i].want[op])
				fail_msg("[%g, %g] %s 5", s.lo, s.hi, predicate_op_names[op]);
			s.have = false;
			assert_int_equal(predicate_test(&p, &s), TRI_UNKNOWN);
		}
}

static void test_and(void **state _unused_)
{
	assert_int_equal(tri_and(TRI_TRUE, TRI_TRUE), TRI_TRUE);
	assert_int_equal(tri_and(TRI_TRUE, TRI_UNKNOWN), TRI_UNKNOWN);
	assert_int_equal(tri_and(TRI_UNKNOWN, TRI_FALSE), TRI_FALSE);
	assert_int_equal(tri_and(TRI_FALSE, TRI_TRUE), TRI_FALSE);
}

static void test_a_probe_that_cannot_be_asked_is_unknown(void **state _unused_)
{
	struct predicate p = make(&broken, OP_BELOW, 5);
	struct sample s;
	struct err err = {0};

	assert_int_equal(predicate_eval(&p, tl, NULL, 0, B, &s, &err), TRI_UNKNOWN);
	assert_false(s.have);
	assert_string_equal(s.text, "no such thing");
	assert_int_equal(err.code, -ENOENT);
}

/* ── eventually ────────────────────────────────────────────────────────────────────────── */

struct row {
	const char *series;
	const struct probe_ops *probe;
	nsec_t from, length, complete;
	enum tri status;
	bool done;
	nsec_t at;
};

static void check(const struct row *r, const struct finding *f)
{
	if (f->status != r->status || f->done != r->done || (r->done && f->at != r->at))
		fail_msg("\"%s\": %s, %s, at %g; wanted %s, %s, at %g", r->series,
			tri_names[f->status], f->done ? "done" : "not done", (double)f->at / B,
			tri_names[r->status], r->done ? "done" : "not done", (double)r->at / B);
}

static const struct row eventually[] = {
	/* a window of five good buckets, begun no earlier than `from` */
	{"9999900000", &windowed, 0, 10 * B, 10 * B, TRI_TRUE, true, 10 * B},
	{"0000000000", &windowed, 0, 10 * B, 10 * B, TRI_TRUE, true, 5 * B},
	{"0000000000", &windowed, 3 * B, 7 * B, 10 * B, TRI_TRUE, true, 8 * B},
	{"0000000000", &windowed, 3 * B - 1, 7 * B + 1, 10 * B, TRI_TRUE, true, 8 * B},
	{"0000000000", &windowed, 3 * B + 1, 7 * B, 10 * B, TRI_TRUE, true, 9 * B},
	/* not yet: nothing is said past `complete` */
	{"9999900000", &windowed, 0, 10 * B, 10 * B - 1, TRI_UNKNOWN, false, 0},
	/* out of time */
	{"9999990000", &windowed, 0, 10 * B, 10 * B, TRI_FALSE, true, 10 * B},
	/* it may have been good at one time: not a plain "no" */
	{"9....99999", &windowed, 0, 10 * B, 10 * B, TRI_UNKNOWN, true, 10 * B},
	{"9???9?9999", &windowed, 0, 10 * B, 10 * B, TRI_FALSE, true, 10 * B},
	{"9?????9999", &windowed, 0, 10 * B, 10 * B, TRI_UNKNOWN, true, 10 * B},
	{"?????00000", &windowed, 0, 10 * B, 10 * B, TRI_TRUE, true, 10 * B},
	/* less time than the window is long: what fits is looked at */
	{"000", &windowed, 0, 3 * B, 3 * B, TRI_TRUE, true, 3 * B},
	{"000", &windowed, 1, B, 3 * B, TRI_UNKNOWN, true, B + 1},
	/* instants */
	{"9990", &instant, 0, 5 * B, 4 * B, TRI_TRUE, true, 3 * B},
	{"0999", &instant, 0, 3 * B, 3 * B, TRI_TRUE, true, 0},
	{"9999", &instant, B / 2, 2 * B, 3 * B, TRI_FALSE, true, 2 * B + B / 2},
	{"9990", &instant, B / 2, 2 * B + B / 2, 3 * B, TRI_TRUE, true, 3 * B},
	{"99..", &instant, 0, 3 * B, 3 * B, TRI_UNKNOWN, true, 3 * B},
};

static void test_eventually(void **state _unused_)
{
	for (size_t i = 0; i < ARRAY_SIZE(eventually); i++) {
		const struct row *r = &eventually[i];
		struct predicate p = make(r->probe, OP_BELOW, 5);
		struct finding f = {0};

		series = r->series;
		predicate_eventually(&p, tl, NULL, r->from, r->length, r->complete, &f);
		check(r, &f);
		finding_clear(&f);
	}
}

/* ── always ────────────────────────────────────────────────────────────────────────────── */

static const struct row always[] = {
	{"0000000000", &windowed, 0, 10 * B, 10 * B, TRI_TRUE, true, 10 * B},
	{"0000000000", &windowed, 0, 10 * B, 9 * B, TRI_UNKNOWN, false, 0},
	/* one bad bucket, and the bucket that broke it */
	{"0000000900", &windowed, 0, 10 * B, 10 * B, TRI_FALSE, true, 7 * B},
	{"0000000900", &windowed, 0, 10 * B, 8 * B, TRI_FALSE, true, 7 * B},
	{"0009000000", &windowed, 0, 10 * B, 10 * B, TRI_FALSE, true, 0},
	{"9000000000", &windowed, 1, 9 * B, 10 * B, TRI_TRUE, true, 9 * B},
	/* "no" outweighs "cannot tell", which outweighs "yes" */
	{"00.0000000", &windowed, 0, 10 * B, 10 * B, TRI_UNKNOWN, true, 10 * B},
	{"00.0000009", &windowed, 0, 10 * B, 10 * B, TRI_FALSE, true, 9 * B},
	{"00?0000000", &windowed, 0, 10 * B, 10 * B, TRI_UNKNOWN, true, 10 * B},
	/* shorter than the window */
	{"000999", &windowed, 0, 3 * B, 3 * B, TRI_TRUE, true, 3 * B},
	{"000999", &windowed, B / 2, B, 3 * B, TRI_UNKNOWN, true, B + B / 2},
	{"0009", &instant, 0, 3 * B - 1, 3 * B, TRI_TRUE, true, 3 * B - 1},
	{"0009", &instant, 0, 3 * B, 3 * B, TRI_FALSE, true, 3 * B},
};

static void test_always(void **state _unused_)
{
	for (size_t i = 0; i < ARRAY_SIZE(always); i++) {
		const struct row *r = &always[i];
		struct predicate p = make(r->probe, OP_BELOW, 5);
		struct finding f = {0};

		series = r->series;
		predicate_always(&p, tl, NULL, r->from, r->length, r->complete, &f);
		check(r, &f);
		finding_clear(&f);
	}
}

static void test_always_keeps_the_worst(void **state _unused_)
{
	struct predicate p = make(&windowed, OP_BELOW, 5);
	struct finding f = {0};

	series = "0000000400000000000003";
	predicate_always(&p, tl, NULL, 0, 22 * B, 22 * B, &f);
	assert_int_equal(f.status, TRI_TRUE);
	assert_true(f.sample.value == 4);
	assert_int_equal(f.from, 3 * B);
	assert_int_equal(f.to, 8 * B);
	finding_clear(&f);

	/* ... but the one that could not be told, when that is why it is unknown */
	series = "00000004000000?000000";
	predicate_always(&p, tl, NULL, 0, 20 * B, 20 * B, &f);
	assert_int_equal(f.status, TRI_UNKNOWN);
	assert_true(f.sample.lo == 0 && f.sample.hi == 9);
	finding_clear(&f);

	series = "...................";
	predicate_always(&p, tl, NULL, 0, 10 * B, 20 * B, &f);
	assert_int_equal(f.status, TRI_UNKNOWN);
	assert_false(f.sample.have);
	finding_clear(&f);
}

/* ── steady ────────────────────────────────────────────────────────────────────────────── */

static const struct {
	const char *series;
	nsec_t from, until, complete;
	enum tri status;
	bool done;
	nsec_t at;
	bool with_instant;
} steady[] = {
	/* settle is 4 buckets, whatever the probe's own window; `at` is the start of the good window */
	{"9900000000", 0, 10 * B, 10 * B, TRI_TRUE, true, 2 * B, false},
	{"0000000000", 0, 10 * B, 10 * B, TRI_TRUE, true, 0, false},
	{"0000000000", B + 1, 10 * B, 10 * B, TRI_TRUE, true, 2 * B, false},
	{"9900000000", 0, 10 * B, 6 * B, TRI_TRUE, true, 2 * B, false},
	{"9900000000", 0, 10 * B, 6 * B - 1, TRI_UNKNOWN, false, 0, false},
	{"9009009009", 0, 10 * B, 10 * B, TRI_FALSE, true, 10 * B, false},
	/* out of time, and unable to tell at the end */
	{"900900900.", 0, 10 * B, 10 * B, TRI_UNKNOWN, true, 10 * B, false},
	/* unable to tell once is no matter when it is plainly bad at the end */
	{"....900900", 0, 10 * B, 10 * B, TRI_FALSE, true, 10 * B, false},
	/* no window fits */
	{"0000000000", 0, 3 * B, 10 * B, TRI_UNKNOWN, true, 3 * B, false},
	{"0000000000", 0, 3 * B + 1, 10 * B, TRI_TRUE, true, 0, false},
	/* the instantaneous one is asked at both ends, so a window from bucket 1 is good only when bucket 5 is */
	{"0000600000", 0, 10 * B, 10 * B, TRI_TRUE, true, 5 * B, true},
	{"60000600000", 0, 10 * B, 10 * B, TRI_TRUE, true, 6 * B, true},
};

static void test_steady(void **state _unused_)
{
	struct predicate a = make(&windowed, OP_BELOW, 5), b = make(&instant, OP_BELOW, 5);
	struct predicate *both[] = {&a, &b};

	for (size_t i = 0; i < ARRAY_SIZE(steady); i++) {
		struct row r = {.series = steady[i].series,
			.status = steady[i].status,
			.done = steady[i].done,
			.at = steady[i].at};
		struct finding f = {0};

		series = r.series;
		predicate_steady(both, steady[i].with_instant ? 2 : 1, tl, NULL, steady[i].from,
			steady[i].until, 4 * B, steady[i].complete, &f);
		check(&r, &f);
		if (f.status == TRI_TRUE) {
			assert_int_equal(f.from, f.at);
			assert_int_equal(f.to, f.at + 4 * B);
		}
		finding_clear(&f);
	}
}

static void test_steady_names_the_one_that_decided(void **state _unused_)
{
	struct predicate a = make(&windowed, OP_BELOW, 5), b = make(&windowed, OP_BELOW, 3);
	struct predicate *both[] = {&a, &b};
	struct finding f = {0};

	series = "4444444444";
	predicate_steady(both, 2, tl, NULL, 0, 10 * B, 4 * B, 10 * B, &f);
	assert_int_equal(f.status, TRI_FALSE);
	assert_int_equal(f.decided_by, 1);
	assert_true(f.sample.value == 4);
	finding_clear(&f);
	/* nothing was asked: nothing to attain */
	predicate_steady(NULL, 0, tl, NULL, 0, 10 * B, 4 * B, 10 * B, &f);
	assert_int_equal(f.status, TRI_TRUE);
	finding_clear(&f);
}

/* ── stop conditions ───────────────────────────────────────────────────────────────────── */

static void test_stop(void **state _unused_)
{
	static const struct {
		const char *series;
		nsec_t lasting;
		enum tri status;
		nsec_t from, at;
	} rows[] = {
		/* the fake takes the largest of a window of 5, so above 5 is true as soon as one bucket is */
		{"0000000900000", 0, TRI_TRUE, 3 * B, 8 * B},
		{"0000000000000", 0, TRI_UNKNOWN, 0, 0},
		{"0000000900000", 8 * B, TRI_TRUE, 3 * B, 11 * B},
		{"0000000900000", 9 * B, TRI_TRUE, 3 * B, 12 * B},
		{"00000009000000000", 10 * B, TRI_UNKNOWN, 0, 0},
		/* not knowing breaks the stretch, it does not make it */
		{"9999.99999999999", 8 * B, TRI_TRUE, 5 * B, 13 * B},
		/* shorter than the window: the window shrinks */
		{"0099000000", 2 * B, TRI_TRUE, B, 3 * B},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct predicate p = make(&windowed, OP_ABOVE, 5);
		struct finding f = {0};
		nsec_t end = (nsec_t)strlen(rows[i].series) * B;

		series = rows[i].series;
		p.lasting = rows[i].lasting;
		predicate_stop(&p, tl, NULL, 0, end, &f);
		if (f.status != rows[i].status || f.done != (f.status == TRI_TRUE) ||
			(f.done && (f.at != rows[i].at || f.from != rows[i].from)))
			fail_msg("row %zu: %s from %g at %g", i, tri_names[f.status],
				(double)f.from / B, (double)f.at / B);
		finding_clear(&f);
	}
}

/* ── as the data arrive ────────────────────────────────────────────────────────────────── */

/* Called bucket by bucket, every use answers as it does when all is there, and does not look at a window twice. */
static void test_going_on_where_it_stopped(void **state _unused_)
{
	static const char *const all[] = {"9999900000999990", "0000000900000000",
		"?00?.90000000900", "................", "0000000000000000"};
	struct predicate w = make(&windowed, OP_BELOW, 5), i = make(&instant, OP_BELOW, 5),
			 *both[] = {&w, &i};
	struct predicate stop = make(&windowed, OP_ABOVE, 5);

	stop.lasting = 7 * B;
	for (size_t k = 0; k < ARRAY_SIZE(all); k++)
		for (nsec_t from = 0; from < 5 * B; from += B / 2)
			for (int use = 0; use < 6; use++) {
				struct finding slow = {0}, fast = {0};
				unsigned int once, many;

				series = all[k];
#define ASK(f, complete)                                                                           \
	switch (use) {                                                                             \
	case 0:                                                                                    \
		predicate_eventually(&w, tl, NULL, from, 11 * B, complete, f);                     \
		break;                                                                             \
	case 1:                                                                                    \
		predicate_eventually(&i, tl, NULL, from, 11 * B, complete, f);                     \
		break;                                                                             \
	case 2:                                                                                    \
		predicate_always(&w, tl, NULL, from, 11 * B, complete, f);                         \
		break;                                                                             \
	case 3:                                                                                    \
		predicate_always(&i, tl, NULL, from, 11 * B, complete, f);                         \
		break;                                                                             \
	case 4:                                                                                    \
		predicate_steady(both, 2, tl, NULL, from, from + 11 * B, 4 * B, complete, f);      \
		break;                                                                             \
	default:                                                                                   \
		predicate_stop(&stop, tl, NULL, from, complete, f);                                \
	}
				evals = 0;
				ASK(&fast, 16 * B)
				once = evals;
				evals = 0;
				for (nsec_t t = 0; t <= 16 * B; t += B / 2)
					ASK(&slow, t)
				many = evals;
				assert_int_equal(slow.status, fast.status);
				assert_int_equal(slow.done, fast.done);
				assert_int_equal(slow.at, fast.at);
				assert_int_equal(slow.from, fast.from);
				assert_int_equal(slow.to, fast.to);
				assert_true(slow.sample.have == fast.sample.have &&
					    slow.sample.value == fast.sample.value);
				assert_int_equal(many, once);
				finding_clear(&slow);
				finding_clear(&fast);
			}
}

static void test_garbage_is_not_gone_on_from(void **state _unused_)
{
	struct predicate p = make(&windowed, OP_BELOW, 5);
	struct finding f;

	memset(&f, 0xa5, sizeof(f));
	series = "0000000000";
	predicate_always(&p, tl, NULL, 0, 10 * B, 10 * B, &f);
	assert_int_equal(f.status, TRI_TRUE);
	finding_clear(&f);
}

/* ── as data ───────────────────────────────────────────────────────────────────────────── */

static void test_what_is_no_predicate_is_refused(void **state _unused_)
{
	static const struct {
		const char *json, *says;
	} bad[] = {
		{"{}", "names no probe"},
		{"[]", "names no probe"},
		{"{\"probe\": \"load.eror_ratio_\", \"op\": \"below\", \"bound\": 1}", "not known"},
		{"{\"probe\": \"\", \"op\": \"below\", \"bound\": 1}", "not known"},
		{"{\"probe\": \".\", \"op\": \"below\", \"bound\": 1}", "not known"},
		{"{\"probe\": "
		 "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.x\"}",
			"not known"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_json_ json_t *j = json_loads(bad[i].json, 0, NULL);
		struct predicate *p = NULL;
		struct err err = {0};

		assert_int_equal(predicate_from_json(j, NULL, &p, &err), -EINVAL);
		assert_null(p);
		if (!strstr(err.text, bad[i].says))
			fail_msg("%s: %s", bad[i].json, err.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_truth_of_an_interval),
		cmocka_unit_test(test_and),
		cmocka_unit_test(test_a_probe_that_cannot_be_asked_is_unknown),
		cmocka_unit_test(test_eventually),
		cmocka_unit_test(test_always),
		cmocka_unit_test(test_always_keeps_the_worst),
		cmocka_unit_test(test_steady),
		cmocka_unit_test(test_steady_names_the_one_that_decided),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_going_on_where_it_stopped),
		cmocka_unit_test(test_garbage_is_not_gone_on_from),
		cmocka_unit_test(test_what_is_no_predicate_is_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
