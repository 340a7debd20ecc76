/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * snapshot.h: the canonical state of a node as sorted text, one fact a line. Taken before, at the peak and after; the
 * difference between before and after is the report's residue.
 *
 *	host: sysctl vm.swappiness = 60
 *	rs1: link eth0 addr 198.18.0.21/24 scope 0 flags 80
 *	host: task ~4711@81923:nginx affinity 0-1
 *	NODE: SUBJECT OBJECT WHAT IT IS
 *
 * Two pictures of a host on which nothing was changed are equal, however long it was in use between them. That is had in
 * two ways, and neither is a filter over finished text:
 *
 * By schema. A subject says what it keeps, in tables; what the kernel changes by itself (counters, ages, lifetimes, learned
 * neighbours, self-tuned values) is in none of them, so a new counter of a new kernel does not turn up as residue.
 *
 * By identity. Some objects come and go by themselves while time passes: processes, the control groups of services and
 * sessions, mounts, modules. Their OBJECT begins with "~" and holds an identity that is never used twice (pid and start time,
 * inode of the control group). Such an object is compared only if it is in both pictures: that a process ended is
 * no residue, that a process which is still there is now pinned to processor 0 is. An object that a drill itself
 * could leave behind (a control group called muster..., a network namespace) has no "~".
 *
 * What cannot be read is said, "NODE: SUBJECT ... ! could not be read: REASON", and is never equal to anything: not even to itself.
 *
 * A file called snapshot_NAME.c in any room ends in `const struct snapshot_ops snapshot_NAME`; the build collects them.
 */
#pragma once

#include <stdatomic.h>

#include "engine/node.h"
#include "engine/str.h"

/*
 * Both calls add lines "NAME object what it is ...\n" to @b, in any order. A kernel without the feature adds nothing
 * and returns 0, and is not made to load a module; what could not be read is -errno, and becomes a line "NAME ! could not be
 * read: ...".
 */
struct snapshot_ops {
	const char *name; /* "link", "qdisc", "ipvs": the first word of each of its lines */
	/* What every network namespace has for itself. NULL: nothing. */
	int (*take)(const struct node *n, struct strbuf *b, struct err *err);
	/* What the machine has once: asked of the host alone, whatever the number of nodes. NULL: nothing. */
	int (*take_host)(struct strbuf *b, struct err *err);
};

extern const struct snapshot_ops *const snapshot_table[];

/* All of @nodes; lines are prefixed with "NODE: " and sorted. -ENOMEM is the only failure. */
int snapshot_take(const struct node *const *nodes, size_t n, char **ret, struct err *err);

/* The same, giving up with -ECANCELED between two subjects once *@stop is set (NULL: never). */
int snapshot_take_until(const struct node *const *nodes, size_t n, const atomic_bool *stop, char **ret, struct err *err);

/*
 * Lines only in one of the two, "- LINE" and "+ LINE", as a JSON array; empty when equal. What could not be read either time is
 * listed too, as "? LINE": it is not proved to be as it was. NULL without memory.
 */
json_t *snapshot_diff(const char *before, const char *after);

/* How many facts there are: {"link": 12, "sysctl": 801, ...}; NULL without memory */
json_t *snapshot_count(const char *text);

/* ── for the subjects ──────────────────────────────────────────────────────────────────────── */

#define SNAPSHOT_VALUE_MAX 4096

/*
 * Reads a control file below the folder @dir_fd (AT_FDCWD: as a path), white space folded into single blanks. 0; -errno;
 * -EFBIG: longer than SNAPSHOT_VALUE_MAX.
 */
int snapshot_read(int dir_fd, const char *path, char ret[SNAPSHOT_VALUE_MAX]);

/*
 * One fact out of a control file: "HEAD = VALUE". A file that is not there (or whose feature is not: ENOENT, EOPNOTSUPP,
 * ENODEV, ESRCH) adds nothing; one that cannot be read adds that it could not be.
 */
void snapshot_fact(struct strbuf *b, int dir_fd, const char *path, const char *head, ...) _printf_(4, 5);

/* A name as one word: blanks, backslashes and what is not printable ASCII become \xNN. */
void snapshot_word(struct strbuf *b, const char *name);

/*
 * Netlink attributes as text, whatever they are: " 1=00000002 2=\"lo\" 3={ 1=... }". Attributes whose number is in the
 * 0-terminated list @without are left out (NULL: none).
 */
void snapshot_attrs(struct strbuf *b, const void *data, size_t len, const int *without);
