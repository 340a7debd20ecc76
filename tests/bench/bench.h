/* SPDX-License-Identifier: GPL-2.0-only */
/* bench.h: what the benchmarks share */
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/err.h"

/* Says what went wrong (errno, where @err says nothing); 1: the exit code */
static inline int bench_failed(const char *what, const struct err *err)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, err && err->text[0] ? err->text : strerror(errno));
	return 1;
}

static inline int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts them, too */
static inline double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), ascending);
	return v[n / 2];
}
