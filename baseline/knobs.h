/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * knobs.h: settings that are control files of the kernel (/sys, /proc/irq): what a file held, what it is to hold, and the whole life
 * of the change from that alone. A setting's capture makes the list; the rest is here.
 *
 *	prior = { "files": [ {"key": K, "path": P, "kind": KIND, "before": TEXT, "want": TEXT}, ... ] }
 *
 * in the order of writing; undo goes the other way. "before" is the kernel's own text (of a choice, the word in brackets). A file
 * whose value the kernel makes into something else than what was written makes apply fail, after it has been put back: "ours" must
 * be what the record says, or undo could not tell it from somebody else's change.
 *
 * Kinds, which say when two texts are the same value:
 *	text	as it stands
 *	mask	processors ("00000000,00000003" and "3" are the same)
 *	choice	"always [madvise] never": the word in brackets
 *	pages	a number that the kernel approaches page by page: one between before and want is ours, cut off on the way
 *
 * Files below /sys/class/net are those of the node's network namespace: a sysfs of its own is opened for them, because /sys
 * shows the namespace it was mounted in.
 */
#pragma once

#include "engine/change.h"

/* Refuses a node that is a namespace: @what is of the whole machine. */
int knobs_host_only(const struct node *n, const char *what, struct err *err);

/* The text of a control file without its line end, of at most 64 KiB; and one write(2) to it. */
int knob_read(const struct node *n, const char *path, char **ret);
int knob_write(const struct node *n, const char *path, const char *text);
/* Names in a folder below the node's /sys/class/net, in order; -ENOENT */
int knob_list(const struct node *n, const char *path, json_t **ret);

/* Reads the file, and adds it to @files if @want differs from what it holds. @kind: a string that lives on */
int knobs_add(const struct node *n, json_t *files, const char *key, const char *path, const char *kind, const char *want,
	struct err *err);
json_t *knobs_prior(json_t *files); /* takes @files */

int knobs_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int knobs_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int knobs_verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int knobs_look(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_items, struct err *err);
int knobs_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo);

/* The same value, for files of that kind? For tests */
bool knobs_same(const char *kind, const char *a, const char *b);
