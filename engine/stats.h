/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * stats.h: the few formulas a verdict stands on, each with its source.
 */
#pragma once

#include "engine/base.h"

/* Wilson score interval for @k successes of @n at normal quantile @z (E. B. Wilson 1927). n == 0: 0..1. */
void stats_wilson(uint64_t k, uint64_t n, double z, double *ret_lo, double *ret_hi);

/* Simultaneous quantile for @k shares at confidence 1 - @alpha: z of 1 - alpha/(2k) (Bonferroni; Goodman 1965). */
double stats_z_simultaneous(double alpha, unsigned int k);

/* Inverse of the standard normal distribution function, |error| < 1.2e-9 (P. J. Acklam). 0 < p < 1 */
double stats_normal_quantile(double p);
