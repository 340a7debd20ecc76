/* SPDX-License-Identifier: GPL-2.0-only */
/* choose.h: where a drill is played: what --lab auto decides, and what doctor says of it. */
#pragma once

#include "engine/err.h"

/*
 * @wanted: "auto", "netns", "vm", "none" or NULL (auto). *ret_lab: "netns", "vm" or "none" (static); *ret_why: one line for a person
 * ("this kernel lacks IPVS and sch_netem, so the drill runs in a microVM"), owned by the caller. -EOPNOTSUPP when neither can be
 * had, with the fix in @err; -EINVAL for an unknown word.
 */
int lab_choose(const char *wanted, const char **ret_lab, char **ret_why, struct err *err);
