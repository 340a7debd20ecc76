/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/units.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Digits with at most one dot: no sign, exponent, hex, "inf" or "nan", which strtod() would take. */
static int number(const char *s, double *ret, const char **ret_end)
{
	const char *p = s;
	bool digits = false;
	char *end;
	double v;

	for (; isdigit((unsigned char)*p); p++)
		digits = true;
	if (*p == '.')
		for (p++; isdigit((unsigned char)*p); p++)
			digits = true;
	if (!digits || p - s > 32)
		return -EINVAL;
	{
		char buf[40];

		memcpy(buf, s, (size_t)(p - s));
		buf[p - s] = '\0';
		v = strtod(buf, &end);
		if (*end)
			return -EINVAL;
	}
	*ret = v;
	*ret_end = p;
	return 0;
}

struct unit {
	const char *name;
	double factor;
};

static int with_unit(const char *s, const struct unit *units, double *ret)
{
	const char *end;
	double v;
	int r = number(s, &v, &end);

	if (r < 0)
		return r;
	for (; units->name; units++) {
		if (strcmp(end, units->name) == 0) {
			*ret = v * units->factor;
			return 0;
		}
	}
	return -EINVAL;
}

int units_duration(const char *s, nsec_t *ret)
{
	static const struct unit units[] = {{"ns", 1},
		{"us", 1e3},
		{"\xc2\xb5s", 1e3},
		{"ms", 1e6},
		{"s", 1e9},
		{"m", 60e9},
		{"min", 60e9},
		{"h", 3600e9},
		{NULL, 0}};
	double v;
	int r;

	if (strcmp(s, "0") == 0) {
		*ret = 0;
		return 0;
	}
	r = with_unit(s, units, &v);
	if (r < 0)
		return r;
	if (v > 24 * 3600e9)
		return -ERANGE;
	*ret = (nsec_t)llround(v);
	return 0;
}

int units_ratio(const char *s, double *ret)
{
	static const struct unit units[] = {{"%", 0.01}, {"", 1}, {NULL, 0}};
	double v;
	int r = with_unit(s, units, &v);

	if (r < 0)
		return r;
	if (v > 1)
		return -ERANGE;
	*ret = v;
	return 0;
}

int units_rate(const char *s, double *ret)
{
	static const struct unit units[] = {
		{"/s", 1}, {"/min", 1 / 60.0}, {"/m", 1 / 60.0}, {"/h", 1 / 3600.0}, {NULL, 0}};
	double v;
	int r = with_unit(s, units, &v);

	if (r < 0)
		return r;
	if (v > 1e7)
		return -ERANGE;
	*ret = v;
	return 0;
}

int units_bytes(const char *s, uint64_t *ret)
{
	static const struct unit units[] = {{"", 1},
		{"B", 1},
		{"KiB", 1024.0},
		{"MiB", 1048576.0},
		{"GiB", 1073741824.0},
		{"kB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{NULL, 0}};
	double v;
	int r = with_unit(s, units, &v);

	if (r < 0)
		return r;
	if (v > 9e15)
		return -ERANGE;
	*ret = (uint64_t)llround(v);
	return 0;
}

int units_int(const char *s, int64_t min, int64_t max, int64_t *ret)
{
	char *end;
	long long v;

	if (!isdigit((unsigned char)*s) && !(*s == '-' && isdigit((unsigned char)s[1])))
		return -EINVAL;
	errno = 0;
	v = strtoll(s, &end, 10);
	if (*end)
		return -EINVAL;
	if (errno == ERANGE || v < min || v > max)
		return -ERANGE;
	*ret = v;
	return 0;
}

const char *units_fmt_duration(char *buf, size_t size, nsec_t ns)
{
	static const struct unit units[] = {
		{"h", 3600e9}, {"m", 60e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}};
	double v = fabs((double)ns);
	size_t i = 0;

	if (ns == 0) {
		snprintf(buf, size, "0s");
		return buf;
	}
	while (i < ARRAY_SIZE(units) - 1 && v < units[i].factor)
		i++;
	/* whole minutes and hours only: 90 s reads better than 1.5m */
	while (i < 2 && fmod(v, units[i].factor) != 0)
		i++;
	snprintf(buf, size, "%s%.*g%s", ns < 0 ? "-" : "", v / units[i].factor >= 1000 ? 6 : 3,
		v / units[i].factor, units[i].name);
	return buf;
}

const char *units_fmt_ratio(char *buf, size_t size, double ratio)
{
	snprintf(buf, size, "%.3g%%", ratio * 100);
	return buf;
}
