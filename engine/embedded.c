/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/embedded.h"

#include "engine/str.h"

const struct embedded *embedded_find(const char *name)
{
	for (const struct embedded *e = embedded_files; e->name; e++)
		if (streq(e->name, name))
			return e;
	return NULL;
}
