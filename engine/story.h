/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * story.h: what a run's journal says, for people in an incident: `muster restore --show` and `muster status`. Only looks: at a live run
 * too, with nothing more than the permission to read its journal.
 *
 *	{ "run", "state": "live"|"hot"|"lab", "created", "pid", "version", "boot_id", "this_boot", "modified", "torn_bytes", "folder",
 *	  "changes": [ {"seq", "change", "node", "netns", "class", "state": "intended"|"applied"|"undone"|"conflict"|"failed", "void", "gone",
 *	                "intended", "marked", "text", "args", "prior", "would", "undo": [command, ...], "left": [text, ...]} ] }
 *
 * Changes stand in the order of the undo: the last one first. Times are RFC 3339 or null, where they are not known.
 */
#pragma once

#include "engine/err.h"
#include "engine/str.h"

/* -ENOENT: there is no journal of that run */
int story_read(const char *run_id, json_t **ret, struct err *err);

void story_text(const json_t *story, struct strbuf *b);

/* How many changes are not settled, and which: "2 changes are not undone: fault.netem on rs1, set.sysctl on host" */
void story_line(const json_t *story, struct strbuf *b);

/* Is there nothing in it for this boot? */
bool story_is_void(const json_t *story);
