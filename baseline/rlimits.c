/* SPDX-License-Identifier: GPL-2.0-only */
#include "baseline/rlimits.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/str.h"
#include "engine/units.h"

/* as prlimit(1) calls them */
static const struct {
	const char *name;
	int resource;
} known[] = {
	{"as", RLIMIT_AS},
	{"core", RLIMIT_CORE},
	{"cpu", RLIMIT_CPU},
	{"data", RLIMIT_DATA},
	{"fsize", RLIMIT_FSIZE},
	{"locks", RLIMIT_LOCKS},
	{"memlock", RLIMIT_MEMLOCK},
	{"msgqueue", RLIMIT_MSGQUEUE},
	{"nice", RLIMIT_NICE},
	{"nofile", RLIMIT_NOFILE},
	{"nproc", RLIMIT_NPROC},
	{"rss", RLIMIT_RSS},
	{"rtprio", RLIMIT_RTPRIO},
	{"rttime", RLIMIT_RTTIME},
	{"sigpending", RLIMIT_SIGPENDING},
	{"stack", RLIMIT_STACK},
};

int rlimits_find(const char *who, const char *name, int *ret_resource, struct err *err)
{
	const char *names[ARRAY_SIZE(known) + 1] = {NULL}, *near;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		names[i] = known[i].name;
		if (streq(name, known[i].name)) {
			*ret_resource = known[i].resource;
			return 0;
		}
	}
	near = str_nearest(name, names);
	err_set(err, -EINVAL, "%s: there is no limit \"%.40s\"", who, name);
	if (near)
		err_hint(err, "did you mean %s?", near);
	return -EINVAL;
}

static int parse_one(const char *text, size_t len, rlim_t *ret)
{
	char buf[24];
	int64_t v;
	int r;

	if (len == 9 && strncmp(text, "unlimited", 9) == 0) {
		*ret = RLIM_INFINITY;
		return 0;
	}
	if (len == 0 || len >= sizeof(buf))
		return -EINVAL;
	memcpy(buf, text, len);
	buf[len] = '\0';
	r = units_int(buf, 0, INT64_MAX, &v);
	if (r < 0)
		return r;
	*ret = (rlim_t)v;
	return 0;
}

int rlimits_parse(const char *text, struct rlimit *ret, bool *ret_raise)
{
	size_t n = strcspn(text, ":");
	struct rlimit l;
	int r = parse_one(text, n, &l.rlim_cur);

	l.rlim_max = l.rlim_cur;
	if (r == 0 && text[n] == ':')
		r = parse_one(text + n + 1, strlen(text + n + 1), &l.rlim_max);
	if (r < 0)
		return r;
	if (l.rlim_cur > l.rlim_max)
		return -ERANGE;
	*ret = l;
	*ret_raise = text[n] == '\0';
	return 0;
}

static size_t add_one(char *to, size_t size, rlim_t v)
{
	int n = v == RLIM_INFINITY ? snprintf(to, size, "unlimited") : snprintf(to, size, "%" PRIu64, (uint64_t)v);

	return (size_t)n;
}

void rlimits_format(const struct rlimit *l, char ret[RLIMITS_TEXT_MAX])
{
	size_t n = add_one(ret, RLIMITS_TEXT_MAX, l->rlim_cur);

	ret[n++] = ':';
	add_one(ret + n, RLIMITS_TEXT_MAX - n, l->rlim_max);
}
