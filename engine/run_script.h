/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * run_script.h: restore.sh: what undoes a run when nothing of ours runs any more: a shell script of the plain commands that
 * change_ops.command gives, last change first. It is in the run's folder before each change is made, as its INTENT is in the
 * journal, and it is meant for the same state of affairs: a change may have been made, in part or not at all.
 *
 * What it promises, and tests/lab/test_restore_script.c holds it to:
 *
 *	- it needs root, /bin/sh, and the tools that the commands name;
 *	- it looks before it touches, where that is cheap: the journal is there (else the run has been undone already) and unlocked
 *	  (else its guard lives), the boot is the same, the namespace is the same, and what a command takes away is there;
 *	- it does all that it can, and then says what failed and what plain words cannot express: 0 all is undone, 1 not all, 2 it
 *	  did not begin;
 *	- it may be run again, and `muster restore` after it finds nothing left to do.
 */
#pragma once

#include "engine/change.h"

void script_begin(struct strbuf *b, const char *run_id, const char *file);
/* One change, the last one first. @prior as captured. */
void script_change(struct strbuf *b, const struct change_ops *ops, const struct node *n, const json_t *args, const json_t *prior);
void script_end(struct strbuf *b, const char *run_id);

/* Puts it in place by a rename: whoever reads it finds a whole one. @sync: on disk, too, when this returns. */
int script_write(const char *dir, const struct strbuf *b, bool sync, struct err *err);

/*
 * The next command of what change_ops.command wrote: *p goes on behind it. The length, without the line end; 0 at the end. A line end
 * within quotes does not end it.
 */
size_t script_next(const char **p, const char **ret);

/* "# left: TEXT": TEXT of a command that script_next() gave, to *ret_len; NULL: it is something else */
const char *script_left(const char *command, size_t len, size_t *ret_len);
