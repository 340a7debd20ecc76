/* SPDX-License-Identifier: GPL-2.0-only */
/* drill_redis.h: what the tests of drills with a database ask of a report */
#pragma once

#include "tests/lab/drill.h"

static inline json_t *part(const struct drill *d, const char *section, const char *key)
{
	return json_object_get(json_object_get(d->report, section), key);
}

static inline json_int_t number(const struct drill *d, const char *section, const char *key)
{
	json_t *v = part(d, section, key);

	if (!json_is_number(v))
		fail_msg("the report has no %s.%s", section, key);
	return (json_int_t)json_number_value(v);
}

static inline bool have_redis(void)
{
	if (access("/usr/bin/redis-server", X_OK) == 0 && access("/usr/bin/redis-sentinel", X_OK) == 0)
		return true;
	print_message("SKIP reason: redis-server or redis-sentinel is not installed\n");
	return false;
}

static inline const json_t *check_of(const struct drill *d, const char *name)
{
	const json_t *c;
	size_t i;

	json_array_foreach(json_object_get(d->report, "checks"), i, c)
		if (strstr(json_string_value(json_object_get(c, "name")), name))
			return c;
	show_log(d);
	fail_msg("no check speaks of %s", name);
	return NULL;
}

static inline const char *word(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}
