/* SPDX-License-Identifier: GPL-2.0-only */
/* The histogram keeps what its header promises: exact below 256, under 0.4 % above, merging is addition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "engine/hist.h"

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void check_value(uint64_t v)
{
	unsigned int i = hist_index(v);
	uint64_t mid = hist_middle(i), width = hist_lower(i + 1) - hist_lower(i);
	double diff = fabs((double)mid - (double)v);

	assert_true(i < HIST_BUCKETS);
	if (v < 256)
		assert_int_equal(mid, v);
	if (v >> 42) {
		assert_int_equal(i, HIST_BUCKETS - 1);
		return;
	}
	if (v < hist_lower(i) || v >= hist_lower(i + 1))
		fail_msg("%llu is not inside its bucket %u", (unsigned long long)v, i);
	if (v >= 256 && (width * 128 > hist_lower(i) || diff > 0.004 * (double)v))
		fail_msg("%llu: bucket %u, width %llu, off by %g", (unsigned long long)v, i,
			(unsigned long long)width, diff / (double)v);
}

static void buckets_tile_the_range(void **state)
{
	(void)state;
	assert_int_equal(hist_lower(0), 0);
	assert_true(hist_lower(HIST_BUCKETS) == 1ull << 42);
	for (unsigned int i = 0; i < HIST_BUCKETS; i++) {
		assert_true(hist_lower(i) < hist_lower(i + 1));
		assert_int_equal(hist_index(hist_lower(i)), i);
		assert_int_equal(hist_index(hist_lower(i + 1) - 1), i);
		assert_int_equal(hist_index(hist_middle(i)), i);
	}
}

static void error_bound(void **state)
{
	(void)state;
	for (uint64_t v = 0; v < 100000; v++)
		check_value(v);
	for (int power = 8; power < 64; power++)
		for (int d = -300; d <= 300; d++)
			check_value((1ull << power) + (uint64_t)(int64_t)d);
	for (int i = 0; i < 300000; i++)
		check_value(rnd() >> (rnd() % 64));
	check_value(UINT64_MAX);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void quantiles(void **state)
{
	static const double qs[] = {0, 0.001, 0.07, 0.25, 0.5, 0.9, 0.99, 0.999, 1};
	static struct hist h;
	static uint64_t v[5000];
	uint64_t got;

	(void)state;
	hist_reset(&h);
	got = 7;
	assert_int_equal(hist_quantile(&h, 0.5, &got), -ENODATA);
	assert_int_equal(got, 7);
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		v[i] = 20000 + rnd() % (1ull << (14 + i % 18));
		hist_add(&h, v[i]);
	}
	qsort(v, ARRAY_SIZE(v), sizeof(v[0]), by_value);
	for (size_t i = 0; i < ARRAY_SIZE(qs); i++) {
		double rank = ceil(qs[i] * ARRAY_SIZE(v) - 1e-9);
		uint64_t want = v[rank < 1 ? 0 : (size_t)rank - 1];

		assert_int_equal(hist_quantile(&h, qs[i], &got), 0);
		if (fabs((double)got - (double)want) > 0.004 * (double)want)
			fail_msg("q %g: %llu, want %llu", qs[i], (unsigned long long)got, (unsigned long long)want);
	}
	assert_int_equal(h.min, v[0]);
	assert_int_equal(h.max, v[ARRAY_SIZE(v) - 1]);
	assert_int_equal(hist_quantile(&h, -0.1, &got), -EINVAL);
	assert_int_equal(hist_quantile(&h, 1.1, &got), -EINVAL);
	assert_int_equal(hist_quantile(&h, NAN, &got), -EINVAL);

	/* exact values: nearest rank, without help from interpolation */
	hist_reset(&h);
	for (uint64_t i = 1; i <= 100; i++)
		hist_add(&h, i);
	assert_int_equal(hist_quantile(&h, 0.07, &got), 0);
	assert_int_equal(got, 7);
	assert_int_equal(hist_quantile(&h, 0.5, &got), 0);
	assert_int_equal(got, 50);
	assert_int_equal(hist_quantile(&h, 0.991, &got), 0);
	assert_int_equal(got, 100);

	/* one observation: that one, not the middle of its bucket */
	hist_reset(&h);
	hist_add(&h, 123456789);
	assert_int_equal(hist_quantile(&h, 0.5, &got), 0);
	assert_int_equal(got, 123456789);
}

static void out_of_range_is_counted(void **state)
{
	static struct hist h;
	uint64_t got;

	(void)state;
	hist_reset(&h);
	hist_add(&h, (1ull << 42) - 1);
	assert_int_equal(h.over, 0);
	hist_add(&h, 1ull << 42);
	hist_add(&h, UINT64_MAX);
	assert_int_equal(h.over, 2);
	assert_int_equal(h.n, 3);
	assert_int_equal(h.count[HIST_BUCKETS - 1], 3);
	assert_int_equal(hist_quantile(&h, 1, &got), 0);
	assert_int_equal(hist_index(got), HIST_BUCKETS - 1);
}

static void counters_stop_at_their_limit(void **state)
{
	static struct hist a, b;
	uint64_t got;

	(void)state;
	hist_reset(&a);
	hist_reset(&b);
	a.count[10] = UINT32_MAX;
	a.n = UINT32_MAX;
	a.min = a.max = 10;
	b = a;
	hist_merge(&a, &b);
	assert_int_equal(a.count[10], UINT32_MAX);
	assert_true(a.n == 2ull * UINT32_MAX);
	assert_int_equal(hist_quantile(&a, 0.99, &got), 0);
	assert_int_equal(got, 10);
}

static void merging_is_addition(void **state)
{
	static struct hist a, b, all;

	(void)state;
	hist_reset(&a);
	hist_reset(&b);
	hist_reset(&all);
	hist_merge(&a, &b);
	assert_int_equal(a.n, 0);
	for (int i = 0; i < 10000; i++) {
		uint64_t v = rnd() >> (rnd() % 64);

		hist_add(i % 3 ? &a : &b, v);
		hist_add(&all, v);
	}
	hist_merge(&a, &b);
	assert_int_equal(a.n, all.n);
	assert_int_equal(a.over, all.over);
	assert_int_equal(a.min, all.min);
	assert_int_equal(a.max, all.max);
	assert_true(fabs(a.sum / all.sum - 1) < 1e-9);
	assert_memory_equal(a.count, all.count, sizeof(a.count));
}

static void sparse_round_trip(void **state)
{
	static struct hist h, back;
	struct hist_sparse s = {0}, t = {0};
	_cleanup_json_ json_t *j = NULL, *parsed = NULL;
	_cleanup_free_ char *text = NULL;

	(void)state;
	hist_reset(&h);
	hist_reset(&back);
	assert_int_equal(hist_to_sparse(&h, &s), 0);
	assert_int_equal(s.n_pairs, 0);
	for (int i = 0; i < 5000; i++)
		hist_add(&h, rnd() >> (rnd() % 64));
	hist_add(&h, 0);
	hist_add(&h, UINT64_MAX);
	assert_int_equal(hist_to_sparse(&h, &s), 0);
	j = hist_sparse_to_json(&s);
	assert_non_null(j);
	text = json_dumps(j, JSON_COMPACT);
	assert_non_null(text);
	parsed = json_loads(text, 0, NULL);
	assert_int_equal(hist_sparse_from_json(parsed, &t), 0);
	assert_int_equal(t.n_pairs, s.n_pairs);
	assert_memory_equal(t.index, s.index, s.n_pairs * sizeof(*s.index));
	assert_memory_equal(t.count, s.count, s.n_pairs * sizeof(*s.count));
	hist_add_sparse(&back, &t);
	assert_int_equal(back.n, h.n);
	assert_memory_equal(back.count, h.count, sizeof(h.count));
	hist_sparse_free(&s);
	hist_sparse_free(&t);
	hist_sparse_free(&t); /* twice is harmless */
}

static void odd_json_is_refused(void **state)
{
	static const char *const odd[] = {"{}", "null", "[1,2]", "[[1]]", "[[1,2,3]]", "[[1,0]]", "[[1,-1]]", "[[-1,1]]",
		"[[4608,1]]", "[[65536,1]]", "[[2,1],[1,1]]", "[[2,1],[2,1]]", "[[1,4294967296]]", "[[1.0,1]]",
		"[[1,1.5]]", "[[\"1\",1]]", "[[1,null]]", "[{\"0\":1}]", "[[4294967297,1]]"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		_cleanup_json_ json_t *j = json_loads(odd[i], JSON_DECODE_ANY, NULL);
		struct hist_sparse s = {.n_pairs = 77};

		assert_non_null(j);
		if (hist_sparse_from_json(j, &s) != -EINVAL)
			fail_msg("%s was taken", odd[i]);
		assert_int_equal(s.n_pairs, 77);
	}
	{
		_cleanup_json_ json_t *j = json_loads("[[0,1],[4607,4294967295]]", 0, NULL);
		struct hist_sparse s = {0};

		assert_int_equal(hist_sparse_from_json(j, &s), 0);
		assert_int_equal(s.n_pairs, 2);
		hist_sparse_free(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buckets_tile_the_range),
		cmocka_unit_test(error_bound),
		cmocka_unit_test(quantiles),
		cmocka_unit_test(out_of_range_is_counted),
		cmocka_unit_test(counters_stop_at_their_limit),
		cmocka_unit_test(merging_is_addition),
		cmocka_unit_test(sparse_round_trip),
		cmocka_unit_test(odd_json_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
