/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * buckets.h: what a load writes to the timeline: its requests by the bucket of the time they were *due*, whenever they ended.
 *
 * A bucket is written once, when nothing can be added to it any more; who counts knows up to when that is so. They stand in a
 * ring, long enough for the oldest request that may still be under way.
 *
 * A load has one thread that counts; none of this is locked.
 */
#pragma once

#include "engine/timeline.h"

struct bucket;

struct buckets {
	struct timeline *tl;
	const char *load; /* borrowed */
	int64_t emitted;  /* number of the first bucket that was not written */
	size_t n;
	struct bucket *ring; /* by number modulo n */
	bool out_of_memory;  /* a latency was not recorded */
};

/* @longest: from the time a request is due until it is counted, at most. -ENOMEM */
int buckets_init(struct buckets *b, struct timeline *tl, const char *load, nsec_t longest);
void buckets_free(struct buckets *b);

/* The first request is due at @start, which is a bucket's begin. */
void buckets_start(struct buckets *b, nsec_t start);
/* Is there a place for a request that was due then? If not, what is complete has to be written first. */
bool buckets_room(const struct buckets *b, nsec_t due);
/* A request has ended at @now. */
void buckets_count(struct buckets *b, nsec_t due, nsec_t now, enum outcome outcome, uint64_t bytes);
/* Writes all that end at or before @complete, and moves the watermark. */
void buckets_write_until(struct buckets *b, nsec_t complete);
/* Writes the rest, and ends the watermark. */
void buckets_end(struct buckets *b);
