/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * cli_stray.h: what carries a run's tag (change.h) in the kernel, and whose run is neither live nor hot: nobody will take it away any
 * more. Links, tc filters and IP sets, on the host and in every named network namespace. Looks; changes nothing.
 */
#pragma once

#include "engine/base.h"

struct err;

/*
 * An array of { "what": "link eth0", "where": "host" or the namespace's name, "run": ID (null: only its hash is known), "fix": the
 * command that removes it }
 */
int cli_stray_find(json_t **ret, struct err *err);
