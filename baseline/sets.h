/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * sets.h: the kernel's IP sets. libipset makes, saves and restores sets (it knows every type's options
 * and the kernel's revisions of them); what it is bad at goes straight to the kernel: whether a set
 * exists, swapping, destroying, and adding members by the thousand.
 *
 * libipset's ways, and what is done about them here:
 *   - by default it prints errors and calls exit(): it gets functions of ours to call instead;
 *   - its return codes cannot be trusted (0 for a missing set or a bad address): what it says to those
 *     functions counts;
 *   - it remembers sets by name only, whatever the network namespace: a session lives for one operation
 *     (its end empties that memory), and one operation at a time, under a lock, runs in the process;
 *   - its socket is opened by the first command in the namespace the thread is in, which it is for the
 *     whole operation;
 *   - what is no address it gives to the resolver: members are checked to be addresses first
 *     (sets_member()), and all other text it gets was written by the kernel.
 *
 * A set's text is what the kernel saves: "create NAME TYPE OPTION...\n" and lines "add NAME MEMBER
 * OPTION...\n".
 */
#pragma once

#include "engine/node.h"
#include "engine/str.h"

#define SETS_NAME_MAX	32 /* with the terminator */
#define SETS_MEMBER_MAX 80
#define SETS_TEXT_MAX	(4u << 20) /* of one set: it must fit a journal record */

enum sets_type { SETS_HASH_IP, SETS_HASH_NET, SETS_HASH_IP_PORT, SETS_TYPE_COUNT };
extern const char *const sets_type_names[SETS_TYPE_COUNT + 1]; /* "hash:ip" ..., NULL */

/* Letters, digits, and _ - . : at most 31, and nothing that a shell or libipset's parser would take apart */
bool sets_valid_name(const char *name);

/*
 * The member as the kernel will say it ("198.18.0.7/24" in a hash:net is 198.18.0.0/24; ports:
 * "198.18.0.7,tcp:80"). -EINVAL: no such member in such a set.
 */
int sets_member(enum sets_type type, int family, const char *text, char ret[SETS_MEMBER_MAX]);

/* 0, or -EOPNOTSUPP with the way out: this kernel has no IP sets */
int sets_supported(const struct node *n, struct err *err);

/* 1: there is a set of that name; 0: there is none; -errno */
int sets_exists(const struct node *n, const char *name, struct err *err);

/* The sets of a namespace, as {"NAME": how many rules and sets refer to it}: names and headers alone, however large they are */
int sets_list(const struct node *n, json_t **ret, struct err *err);

/* The text of @name, or of all sets when it is NULL. -ENOENT; -EFBIG beyond @max bytes */
int sets_save(const struct node *n, const char *name, size_t max, char **ret, struct err *err);

/* Runs such a text. What it made before it failed stays. */
int sets_restore(const struct node *n, const char *text, struct err *err);

/*
 * An empty set. @timeout: default life of its members in seconds; negative: they stay. @expected: how many members are to come: the
 * kernel would make its table larger again and again; it is a start, no limit, and no part of what a set is
 */
int sets_create(const struct node *n, const char *name, enum sets_type type, int family,
	unsigned int maxelem, long timeout, size_t expected, struct err *err);

/*
 * Members in the form of sets_member(), in bulk. Those that are there already are no error. -ENOSPC: more
 * than maxelem
 */
int sets_add(const struct node *n, const char *name, enum sets_type type, int family,
	const char *const *members, size_t count, struct err *err);

/*
 * Both must exist and be of one type and family. Rules that name one of them see the other's members at
 * once.
 */
int sets_swap(const struct node *n, const char *a, const char *b, struct err *err);

/* -ENOENT; -EBUSY: a rule or another set refers to it */
int sets_destroy(const struct node *n, const char *name, struct err *err);

/* ── texts ────────────────────────────────────────────────────────────────────────────────── */

struct sets_elem {
	char *text;   /* the member, and its options but for time-out and counters */
	long timeout; /* seconds left when it was saved; -1: none */
};

/* A set's text, taken apart; members sorted */
struct sets_set {
	char *header; /* what follows the name in the "create" line */
	size_t n;
	struct sets_elem *elems;
};

/* -ENOENT: @name is not in @text; -EINVAL: not such a text */
int sets_parse(const char *text, const char *name, struct sets_set *ret);
void sets_clear(struct sets_set *s);
/* Type, family, maxelem and time-out of a header; those not said are as the kernel has them by default */
void sets_header(const char *header, char ret_type[SETS_NAME_MAX], int *ret_family,
	unsigned int *ret_maxelem, long *ret_timeout);
/* @a's members are among @b's; those of @b that are missing in @a all had a time-out, or @any: may be any. */
bool sets_within(const struct sets_set *a, const struct sets_set *b, bool any);

/*
 * The text with another name, and with time-outs lowered by @elapsed seconds (members whose time is over
 * are left out).
 */
char *sets_renamed(const char *text, const char *name, const char *new_name, long elapsed);
