/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/stats.h"

#include <math.h>

/* (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), the roots of (p - x)^2 = z^2 x(1-x)/n */
void stats_wilson(uint64_t k, uint64_t n, double z, double *ret_lo, double *ret_hi)
{
	double lo, hi, p, nn = (double)n, z2 = z * z, centre, half;

	if (!n) {
		*ret_lo = 0;
		*ret_hi = 1;
		return;
	}
	k = MIN(k, n);
	p = (double)k / nn;
	centre = (p + z2 / (2 * nn)) / (1 + z2 / nn);
	half = fabs(z) * sqrt(p * (1 - p) / nn + z2 / (4 * nn * nn)) / (1 + z2 / nn);
	/* at the ends the roots are 0 and 1 exactly, which the rounding of the formula would miss */
	lo = k == 0 ? 0 : centre - half;
	hi = k == n ? 1 : centre + half;
	*ret_lo = MAX(lo, 0.0);
	*ret_hi = MIN(hi, 1.0);
}

double stats_z_simultaneous(double alpha, unsigned int k)
{
	/* by symmetry; 1 - alpha/2k would lose the digits that matter when it is close to 1 */
	return -stats_normal_quantile(alpha / (2.0 * MAX(k, 1u)));
}

/* Rational approximation of the lower half, relative error < 1.15e-9 (P. J. Acklam, 2003) */
static double acklam(double p)
{
	static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02, -2.759285104469687e+02,
		1.383577518672690e+02, -3.066479806614716e+01, 2.506628277459239e+00};
	static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
		6.680131188771972e+01, -1.328068155288572e+01};
	static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
		-2.549732539343734e+00, 4.374664141464968e+00, 2.938163982698783e+00};
	static const double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
		3.754408661907416e+00};
	double q, r;

	if (p < 0.02425) {
		q = sqrt(-2 * log(p));
		return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
		       ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
	}
	q = p - 0.5;
	r = q * q;
	return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
	       (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

double stats_normal_quantile(double p)
{
	double x, e, u;

	if (isnan(p) || p < 0 || p > 1)
		return NAN;
	if (p == 0)
		return -INFINITY;
	if (p == 1)
		return INFINITY;
	if (p > 0.5)
		return -stats_normal_quantile(1 - p);
	x = acklam(p);
	/* one step of Halley's method on Phi(x) - p makes the error absolute as well as relative; far out exp() overflows */
	e = 0.5 * erfc(-x * M_SQRT1_2) - p;
	u = e * sqrt(2 * M_PI) * exp(x * x / 2);
	if (isfinite(u))
		x -= u / (1 + x * u / 2);
	return x;
}
