/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * journal.h: the write-ahead undo log. The laws stand at the top of journal.c.
 *
 *	/run/muster/RUN/undo.journal        volatile and ttl changes; void after a reboot
 *	/var/lib/muster/RUN/undo.journal    durable and one-way changes; synced, and so are the folders that lead to it
 *
 * Two processes write to one journal: the guard creates it and the engine, its child, inherits it, with the lock. Each appends, and
 * each reads what the other has appended; neither ever waits for the other longer than one record takes. Within a process
 * only one thread may use it.
 */
#pragma once

#include "engine/change.h"

struct journal;

enum journal_state { JOURNAL_INTENT, JOURNAL_APPLIED, JOURNAL_DONE, JOURNAL_CONFLICT, JOURNAL_FAILED };

/*
 * One change of a run, as the journal knows it. What it is bound to report and cannot read (a damaged record, one of another
 * run's) is an entry too: it has no ops, its state is FAILED, and node, args and prior may be NULL.
 */
struct journal_entry {
	uint32_t seq; /* 0: not readable */
	enum journal_state state;
	bool durable;		      /* it stands in the durable file, and so do its marks */
	const struct change_ops *ops; /* NULL: written by a newer muster, or damaged; cannot be undone here */
	const char *change;	      /* the table's name */
	const json_t *node, *args, *prior;
	json_t *record; /* the journal's: holds all of the above */
	/* for people: */
	nsec_t intended, marked; /* wall time of the INTENT and of the last mark; 0: not known */
	const char *text;	 /* of the last mark; may be NULL */
	bool is_void;		 /* journal_peek() alone: written before the last reboot, and dead with it */
	json_t *mark;		 /* the journal's: holds the text */
};

#define JOURNAL_DAMAGED "(damaged record)" /* the `change` of what cannot be read */

/* Where journals live; two different folders. Tests point them elsewhere. */
extern const char *journal_volatile_root; /* "/run/muster" */
extern const char *journal_durable_root;  /* "/var/lib/muster" */

/* What a journal holds; beyond it a change is refused, and marks still find room. */
#define JOURNAL_ENTRIES_MAX 4096
#define JOURNAL_RECORD_MAX  (16u << 20)
extern size_t journal_file_max; /* 256 MiB; a file of twice that is not read */

/* Creates the run's files, locked. -EEXIST. On failure nothing is left behind. */
int journal_create(const char *run_id, struct journal **ret, struct err *err);
/*
 * Opens an existing run's journal to play it. -EBUSY: its lock is held: a drill is live. -ENOENT. -EPERM, -ELOOP: it stands
 * where others than root could have written it (trusted.h). -EPROTONOSUPPORT: a newer muster's format.
 */
int journal_open(const char *run_id, struct journal **ret, struct err *err);
/* Closes the files; leaves them on disk. */
void journal_close(struct journal *j);
static inline void journal_closep(struct journal **j)
{
	journal_close(*j);
}
#define _cleanup_journal_ _cleanup_(journal_closep)

const char *journal_run_id(const struct journal *j);

/*
 * Law 1: INTENT before apply. Returns the entry's sequence number. On failure the record is not there, or, when the text says that it
 * could not be cut off again, whole: then it will be undone, and there is nothing to undo.
 */
int journal_intent(struct journal *j, const struct change_ops *ops, const struct node *n, const json_t *args,
	const json_t *prior, uint32_t *ret_seq, struct err *err);
/* What has become of it. A mark that cannot be written costs nothing but a second undo. */
int journal_mark(struct journal *j, uint32_t seq, enum journal_state state, const char *text, struct err *err);

/*
 * What has been written so far, by anybody: reads what was appended since. In the order of their sequence numbers, what is not
 * readable first. Entries are borrowed until the next call or close.
 */
int journal_load(struct journal *j, const struct journal_entry **ret, size_t *ret_n, struct err *err);

/*
 * All entries are settled (DONE, or CONFLICT: somebody else's now): removes the files (and syncs the folders of the durable one).
 * -ENOTEMPTY otherwise.
 */
int journal_remove(struct journal *j, struct err *err);

/* Runs whose journal is present. `live`: its lock is held. -EACCES: not for this user to know. */
struct journal_found {
	char *run_id;
	bool live;
	pid_t pid; /* that created it, when live; 0 unknown */
};
int journal_list(struct journal_found **ret, size_t *ret_n, struct err *err);
void journal_list_free(struct journal_found *f, size_t n);

/*
 * A look at a run's journal, live or hot, that changes nothing: no lock, no cut of a torn tail; needs no more than the permission to
 * read. Volatile records of another boot are there, and marked.
 */
struct journal_peek {
	struct journal *journal; /* what the entries live in */
	const struct journal_entry *entries;
	size_t n;
	json_t *header; /* {"run", "boot_id", "pid", "version", "created"} */
	bool live;
	bool is_void;	 /* the volatile file is of another boot */
	size_t torn;	 /* bytes behind the last whole record: one that may or may not have been acted upon */
	nsec_t modified; /* wall time of the last record of all */
};
int journal_peek(const char *run_id, struct journal_peek *ret, struct err *err);
void journal_peek_clear(struct journal_peek *p);
#define _cleanup_journal_peek_ _cleanup_(journal_peek_clear)

/* ── the life of a change, journalled (change_run.c) ───────────────────────────────────────── */

struct change {
	const struct change_ops *ops;
	struct node *node; /* borrowed */
	json_t *args, *prior;
	uint32_t seq;
	nsec_t applied, lifted;
	/* Called with @prior known, before the INTENT is written: whoever has something of his own to write down first. May be NULL. */
	int (*before_intent)(struct change *c, void *arg, struct err *err);
	void *arg;
	/* Called when INTENT is written, before apply; a negative answer is apply's failure. NULL: nobody is to be told. */
	int (*announce)(void *arg, struct err *err);
	void *announce_arg;
};
/* supported, capture, INTENT, announce, apply, APPLIED. On failure it has been undone again (the text says if not). */
int change_apply(struct journal *j, struct change *c, struct err *err);
/* undo, verify, DONE. CHANGE_CONFLICT: marked and left alone. */
int change_undo(struct journal *j, struct change *c, struct err *err);

/* Plays the whole journal, LIFO; what cannot be undone does not stop the rest. */
struct restore_result {
	unsigned int undone, already, conflicts, failed, stale;
	json_t *lines; /* array of strings, one a change */
};
int journal_play(struct journal *j, struct restore_result *ret, struct err *err);
void restore_result_clear(struct restore_result *r);
