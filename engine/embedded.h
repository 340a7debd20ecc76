/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * embedded.h: the Lua files that the program carries: the library, sites, profiles, scenarios. Names are paths in the
 * source tree: "lab/sites/lvs-dr.lua".
 */
#pragma once

#include <stddef.h>

struct embedded {
	const char *name;
	const char *data; /* terminated by a '\0' beyond len */
	size_t len;
};

extern const struct embedded embedded_files[]; /* ends in an entry without a name */
const struct embedded *embedded_find(const char *name);
