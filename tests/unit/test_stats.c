/* SPDX-License-Identifier: GPL-2.0-only */
/* The formulas against values that others published. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "engine/stats.h"

static void check_wilson(uint64_t k, uint64_t n, double z, double lo, double hi, double tolerance)
{
	double got_lo, got_hi;

	stats_wilson(k, n, z, &got_lo, &got_hi);
	if (fabs(got_lo - lo) > tolerance || fabs(got_hi - hi) > tolerance)
		fail_msg("%llu of %llu: %.6f..%.6f, want %.6f..%.6f", (unsigned long long)k, (unsigned long long)n,
			got_lo, got_hi, lo, hi);
}

/* R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3, 95 %; printed with four decimals */
static void wilson_published(void **state)
{
	double z = 1.959963984540054;

	(void)state;
	check_wilson(81, 263, z, 0.2553, 0.3662, 0.00005);
	check_wilson(15, 148, z, 0.0624, 0.1605, 0.00005);
	check_wilson(0, 20, z, 0.0000, 0.1611, 0.00005);
	check_wilson(1, 29, z, 0.0061, 0.1718, 0.00005);
}

static void wilson_properties(void **state)
{
	(void)state;
	check_wilson(0, 0, 2, 0, 1, 0);
	for (uint64_t n = 1; n < 300; n += 7) {
		for (uint64_t k = 0; k <= n; k++) {
			double lo, hi, mlo, mhi, p = (double)k / (double)n, z = 2.5;

			stats_wilson(k, n, z, &lo, &hi);
			assert_true(lo >= 0 && lo <= p && p <= hi && hi <= 1);
			assert_true((lo == 0) == (k == 0) && (hi == 1) == (k == n));
			/* both ends solve (p - x)^2 = z^2 x (1-x) / n */
			if (k)
				assert_true(fabs((p - lo) * (p - lo) - z * z * lo * (1 - lo) / (double)n) < 1e-12);
			/* mirrored */
			stats_wilson(n - k, n, z, &mlo, &mhi);
			assert_true(fabs(mlo - (1 - hi)) < 1e-12 && fabs(mhi - (1 - lo)) < 1e-12);
		}
	}
}

static void normal_quantile_known(void **state)
{
	static const struct {
		double p, z;
	} known[] = {{0.5, 0}, {0.75, 0.6744897501960817}, {0.9, 1.2815515655446004}, {0.95, 1.6448536269514722},
		{0.975, 1.959963984540054}, {0.99, 2.3263478740408408}, {0.995, 2.5758293035489004},
		{0.999, 3.090232306167813}, {0.9995, 3.2905267314919255}, {1e-6, -4.753424308822899},
		{1e-10, -6.361340902404056}, {0.02, -2.053748910631823}, {0.0243, -1.9720841590292884}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		double z = stats_normal_quantile(known[i].p);

		if (!(fabs(z - known[i].z) < 1.2e-9))
			fail_msg("p %g: %.12f, want %.12f", known[i].p, z, known[i].z);
	}
	/* against the C library's own error function, over the whole range, and increasing */
	for (double lp = -300; lp < -0.31; lp += 0.37) {
		double p = pow(10, lp), z = stats_normal_quantile(p);

		assert_true(fabs(0.5 * erfc(-z / sqrt(2)) / p - 1) < 1e-6);
		assert_true(z < stats_normal_quantile(p * 1.01));
	}
	assert_true(isinf(stats_normal_quantile(0)) && stats_normal_quantile(0) < 0);
	assert_true(isinf(stats_normal_quantile(1)) && stats_normal_quantile(1) > 0);
	assert_true(isnan(stats_normal_quantile(-0.1)));
	assert_true(isnan(stats_normal_quantile(1.1)));
	assert_true(isnan(stats_normal_quantile(NAN)));
}

static void simultaneous(void **state)
{
	(void)state;
	assert_true(fabs(stats_z_simultaneous(0.05, 1) - 1.959963984540054) < 1e-9);
	/* three shares at 95 %: 1 - 0.05/6 */
	assert_true(fabs(stats_z_simultaneous(0.05, 3) - 2.3939797998185104) < 1e-9);
	assert_true(stats_z_simultaneous(0.05, 10) > stats_z_simultaneous(0.05, 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wilson_published),
		cmocka_unit_test(wilson_properties),
		cmocka_unit_test(normal_quantile_known),
		cmocka_unit_test(simultaneous),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
