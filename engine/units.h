/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * units.h: text becomes values here, and values become text.
 *
 * Every parser takes the whole string, rejects trailing junk, negative values, NaN and overflow with
 * -EINVAL or -ERANGE, and leaves its output untouched then.
 */
#pragma once

#include "engine/base.h"

/* "250us" "50ms" "1.5s" "2m" "1h", "0": a unit is required unless the value is 0; at most 24 h */
int units_duration(const char *s, nsec_t *ret);
/* "0.1%" or "0.001": a ratio, 0..1 */
int units_ratio(const char *s, double *ret);
/* "300/s" "18000/min" "5/h": events per second; at most 1e7 */
int units_rate(const char *s, double *ret);
/* "65536" "64KiB" "1MiB" "2GiB" "1500B": bytes */
int units_bytes(const char *s, uint64_t *ret);
/* a decimal integer inside [min, max] */
int units_int(const char *s, int64_t min, int64_t max, int64_t *ret);

/* "1.5s", "50ms", "2m": the shortest exact-enough form, three significant digits; returns @buf */
const char *units_fmt_duration(char *buf, size_t size, nsec_t ns);
/* "0.1%" */
const char *units_fmt_ratio(char *buf, size_t size, double ratio);
#define UNITS_FMT_MAX 32
