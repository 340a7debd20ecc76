/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * timeline.h: all that happened, from every source, on one clock (CLOCK_MONOTONIC ns).
 *
 * There are two sorts of entries. *Series* are the dense ones, typed: load buckets, connection buckets, weights. *Events*
 * are the rest: JSON objects with a kind. Both go to timeline.jsonl, one object a line, and come back from there, so a run
 * is judged from its file alone.
 *
 * Buckets are TIMELINE_BUCKET long and aligned to multiples of it; a bucket is written once, when it is complete. A
 * load's request belongs to the bucket of its *intended send time*, whenever it ended. A source's watermark is the time up to
 * which its series are complete; nothing is judged past the lowest watermark.
 *
 * Thread-safe: writers from any thread; readers of the arrays hold timeline_lock(), which nests.
 */
#pragma once

#include "engine/err.h"
#include "engine/hist.h"

#define TIMELINE_BUCKET (100 * NSEC_PER_MSEC)

/* Outcomes of a request. OK is a complete response with the wanted status. */
enum outcome {
	OUTCOME_OK,
	OUTCOME_REFUSED, /* connect: ECONNREFUSED */
	OUTCOME_RESET,	 /* ECONNRESET, EPIPE, or closed in the middle of a response */
	OUTCOME_TIMEOUT, /* no complete response within the load's timeout */
	OUTCOME_STATUS,	 /* a complete response with an unwanted status */
	OUTCOME_OTHER,	 /* unreachable, malformed response, out of local ports, no free connection */
	OUTCOME_COUNT,
};
extern const char *const outcome_names[OUTCOME_COUNT];

struct tl_load {
	nsec_t t;		       /* start of the bucket */
	const char *load;	       /* interned */
	uint64_t count[OUTCOME_COUNT]; /* requests due in this bucket, by outcome */
	uint64_t bytes;
	struct hist_sparse latency;    /* of the OK ones, ns from the intended send time */
	nsec_t first_ok, last_ok;      /* completion time of the first and last OK one; 0: none */
};

struct tl_conn {
	nsec_t t;
	const char *service, *server; /* interned; server "" when it is not known which */
	uint64_t established;	      /* new connections accepted by this server */
	uint64_t closed;
	uint64_t failed;	      /* the client side: connects that never established */
	uint64_t resets;	      /* of those closed: by the peer's reset, or because it did not answer any more */
	uint64_t retransmits;	      /* segments sent again in this bucket */
	nsec_t first, last;	      /* exact times of the first and last of `established`; 0: none */
	/*
	 * The first and last that were in trouble: of a connect that failed or is being sent again the time it was begun, which may be
	 * before this bucket; else of the reset or the retransmission. 0: none
	 */
	nsec_t first_bad, last_bad;
};

struct tl_weight {
	nsec_t t;
	const char *service, *server;
	int weight; /* or one of the two below; written when it changes, and once at the start */
	int active, inactive; /* connections, as the director counts them */
};

#define TL_WEIGHT_ABSENT  (-1) /* the server, or its service, is not in the table */
#define TL_WEIGHT_UNKNOWN (-2) /* from here on the table could not be read */

struct tl_event {
	nsec_t t;
	const char *kind; /* interned */
	json_t *data;	  /* object */
};

struct timeline;

/*
 * A new one; @path is timeline.jsonl, appended to (NULL: memory only). A line is written whole by a thread of the
 * timeline's own, so that no source ever waits for a disk; the thread begins with the first line, and a timeline is
 * of no use in a child that was forked after that.
 */
int timeline_new(const char *path, struct timeline **ret, struct err *err);
/*
 * Reads a stored one. A torn line is legal where a writer was killed: at the end, and where another writer went on.
 * -ENOENT, -EBADMSG (with FILE:LINE), -EFBIG.
 */
int timeline_read(const char *path, struct timeline **ret, struct err *err);
void timeline_free(struct timeline *tl);
static inline void timeline_freep(struct timeline **tl)
{
	timeline_free(*tl);
}
#define _cleanup_timeline_ _cleanup_(timeline_freep)

/*
 * Writers. @data is stolen. Strings are interned, and `latency` is copied: the caller keeps its own. A gauge
 * (events.h) goes to the listener only.
 */
void timeline_event(struct timeline *tl, nsec_t t, const char *kind, json_t *data);
void timeline_add_load(struct timeline *tl, const struct tl_load *bucket);
void timeline_add_conn(struct timeline *tl, const struct tl_conn *bucket);
void timeline_add_weight(struct timeline *tl, const struct tl_weight *w);
/* A source says that it exists (before its first data), and how far it is. NSEC_INFINITY: it has ended. */
void timeline_watermark(struct timeline *tl, const char *source, nsec_t t);

/* A listener is called for each event, with the timeline unlocked, on the writer's thread. One at most. */
void timeline_listen(struct timeline *tl, void (*fn)(const struct tl_event *e, void *arg), void *arg);

/* Readers */
void timeline_lock(const struct timeline *tl);
void timeline_unlock(const struct timeline *tl);
/* Lowest watermark, but at most now (of a stored one: timeline_end()), which is also the answer when there is no source. Locked. */
nsec_t timeline_complete(const struct timeline *tl);
/* The latest time that anything was said about; 0 when it is empty. Locked. */
nsec_t timeline_end(const struct timeline *tl);
size_t timeline_loads(const struct timeline *tl, const struct tl_load **ret);	  /* by t; locked */
size_t timeline_conns(const struct timeline *tl, const struct tl_conn **ret);
size_t timeline_weights(const struct timeline *tl, const struct tl_weight **ret);
size_t timeline_events(const struct timeline *tl, const struct tl_event **ret);
/* Index of the first entry with t >= @t in one of the four arrays, by bisection; @size is that of an entry. */
size_t timeline_seek(const void *entries, size_t n, size_t size, nsec_t t);
/* How often timeline_conns() was called: whoever asks before and after knows whether an answer rests on connection data. */
uint64_t timeline_conn_reads(const struct timeline *tl);
/* 0, or -errno: an entry was lost to memory or to the disk, and the file is not the whole story. Locked. */
int timeline_error(const struct timeline *tl);

/*
 * Waits until the lowest watermark reaches @t, timeline_kick() is called, or now >= @deadline. Returns 1 when reached, else 0.
 * A kick that came since this thread's last wait counts: it is never lost between a test and the wait. So a wait may
 * also end early for nothing, and belongs in a loop.
 */
int timeline_wait(struct timeline *tl, nsec_t t, nsec_t deadline);
void timeline_kick(struct timeline *tl);
