/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * hist.h: a log-linear histogram of non-negative integers (nanoseconds, as a rule): 128 linear steps in each power of
 * two, so a bucket's width is at most 1/128 of its lower edge, and reporting the middle errs by less than 0.4 %.
 * Values below 256 are exact. Range 0 .. 2^42 ns (73 minutes); larger ones are counted in the last bucket and in `over`.
 * Merging is addition.
 */
#pragma once

#include "engine/base.h"

#define HIST_BUCKETS (256 + 34 * 128)

struct hist {
	uint64_t n, over;
	uint64_t min, max; /* exact; after hist_add_sparse() edges of buckets; meaningless when n is 0 */
	double sum;
	uint32_t count[HIST_BUCKETS];
};

/* The buckets that are not empty, in order: what a timeline keeps. */
struct hist_sparse {
	uint32_t n_pairs;
	uint16_t *index;
	uint32_t *count;
};

void hist_reset(struct hist *h);
void hist_add(struct hist *h, uint64_t value);
void hist_merge(struct hist *to, const struct hist *from);
/* The value below which @q (0..1) of the observations lie: nearest rank, middle of the bucket. -ENODATA when empty. */
int hist_quantile(const struct hist *h, double q, uint64_t *ret);
unsigned int hist_index(uint64_t value);
uint64_t hist_lower(unsigned int index);
uint64_t hist_middle(unsigned int index);

int hist_to_sparse(const struct hist *h, struct hist_sparse *ret);
void hist_add_sparse(struct hist *h, const struct hist_sparse *s);
void hist_sparse_free(struct hist_sparse *s);
json_t *hist_sparse_to_json(const struct hist_sparse *s); /* [[index, count], ...] */
json_t *hist_news_to_json(const struct hist *now, const struct hist *was); /* the same, of what @now has more than @was; NULL: nothing */
int hist_sparse_from_json(const json_t *j, struct hist_sparse *ret); /* -EINVAL on anything odd */
