/* SPDX-License-Identifier: GPL-2.0-only */
/* rlimits.h: resource limits by name and as text: "nofile", "1024:524288", "unlimited:unlimited". */
#pragma once

#include <sys/resource.h>

#include "engine/err.h"

#define RLIMITS_TEXT_MAX 48

/* -EINVAL with the nearest right name */
int rlimits_find(const char *who, const char *name, int *ret_resource, struct err *err);
/*
 * "1024:65536" (soft, hard), or "65536": the soft one, and the hard one as it is, or raised to it: *ret_raise. -EINVAL; -ERANGE: soft
 * above hard, or too large
 */
int rlimits_parse(const char *text, struct rlimit *ret, bool *ret_raise);
void rlimits_format(const struct rlimit *l, char ret[RLIMITS_TEXT_MAX]);
