/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Index arithmetic. Values below 256 have a bucket each. From there on, a value in [2^k, 2^(k+1)), k = 8..41, lies in
 * one of 128 buckets of width 2^(k-7): shifted right by k-7 it becomes a number in 128..255 whose distance from 128 is the place
 * inside the power of two. So the width over the lower edge is at most 2^(k-7) / 2^k = 1/128, and the middle is never further
 * than half of that (0.39 %) from any value in the bucket.
 */
#include "engine/hist.h"

#include <math.h>
#include <string.h>

#define EXACT	  256u /* values below have a bucket each */
#define STEPS	  128u /* buckets in each power of two */
#define MAX_POWER 42   /* the first power of two that is out of range */

_Static_assert(HIST_BUCKETS == EXACT + (MAX_POWER - 8) * STEPS, "hist.h and the arithmetic here differ");

unsigned int hist_index(uint64_t value)
{
	unsigned int power;

	if (value < EXACT)
		return (unsigned int)value;
	if (value >> MAX_POWER)
		return HIST_BUCKETS - 1;
	power = 63u - (unsigned int)__builtin_clzll(value);
	return EXACT + (power - 8) * STEPS + (unsigned int)(value >> (power - 7)) - STEPS;
}

uint64_t hist_lower(unsigned int index)
{
	unsigned int above;

	if (index < EXACT)
		return index;
	index = MIN(index, (unsigned int)HIST_BUCKETS); /* one past the last: the end of the range */
	above = index - EXACT;
	return (uint64_t)(STEPS + above % STEPS) << (above / STEPS + 1);
}

uint64_t hist_middle(unsigned int index)
{
	uint64_t lower;

	index = MIN(index, (unsigned int)HIST_BUCKETS - 1);
	lower = hist_lower(index);
	return lower + (hist_lower(index + 1) - lower) / 2;
}

void hist_reset(struct hist *h)
{
	memset(h, 0, sizeof(*h));
}

/* A bucket's counter stays at its limit rather than starting again from 0. */
static void count_add(uint32_t *count, uint32_t more)
{
	if (__builtin_add_overflow(*count, more, count))
		*count = UINT32_MAX;
}

static void range_add(struct hist *h, uint64_t min, uint64_t max)
{
	h->min = h->n ? MIN(h->min, min) : min;
	h->max = h->n ? MAX(h->max, max) : max;
}

void hist_add(struct hist *h, uint64_t value)
{
	range_add(h, value, value);
	h->n++;
	h->over += value >> MAX_POWER != 0;
	h->sum += (double)value;
	count_add(&h->count[hist_index(value)], 1);
}

void hist_merge(struct hist *to, const struct hist *from)
{
	if (!from->n)
		return;
	range_add(to, from->min, from->max);
	to->n += from->n;
	to->over += from->over;
	to->sum += from->sum;
	for (size_t i = 0; i < HIST_BUCKETS; i++)
		count_add(&to->count[i], from->count[i]);
}

int hist_quantile(const struct hist *h, double q, uint64_t *ret)
{
	uint64_t rank, seen = 0;
	double exact;

	if (!(q >= 0 && q <= 1))
		return -EINVAL;
	if (!h->n)
		return -ENODATA;
	/* nearest rank; 0.07 * 100 is a little more than 7 in binary, and must not become the 8th */
	exact = q * (double)h->n;
	rank = (uint64_t)ceil(exact - exact * 1e-12);
	rank = MAX(rank, (uint64_t)1);
	for (unsigned int i = 0; i < HIST_BUCKETS; i++) {
		seen += h->count[i];
		if (seen < rank)
			continue;
		/* all observations lie in [min, max]: never report what lies outside */
		*ret = MAX(h->min, MIN(h->max, hist_middle(i)));
		return 0;
	}
	*ret = h->max; /* only when a bucket's counter stood at its limit */
	return 0;
}

int hist_to_sparse(const struct hist *h, struct hist_sparse *ret)
{
	struct hist_sparse s = {0};
	uint32_t n = 0;

	for (size_t i = 0; i < HIST_BUCKETS; i++)
		n += h->count[i] != 0;
	if (n) {
		s.index = malloc(n * sizeof(*s.index));
		s.count = malloc(n * sizeof(*s.count));
		if (!s.index || !s.count) {
			hist_sparse_free(&s);
			return -ENOMEM;
		}
	}
	for (size_t i = 0; i < HIST_BUCKETS; i++) {
		if (!h->count[i])
			continue;
		s.index[s.n_pairs] = (uint16_t)i;
		s.count[s.n_pairs++] = h->count[i];
	}
	*ret = s;
	return 0;
}

void hist_add_sparse(struct hist *h, const struct hist_sparse *s)
{
	for (uint32_t i = 0; i < s->n_pairs; i++) {
		unsigned int index = s->index[i];

		if (index >= HIST_BUCKETS || !s->count[i])
			continue;
		range_add(h, hist_lower(index), hist_lower(index + 1) - 1);
		h->n += s->count[i];
		h->sum += (double)s->count[i] * (double)hist_middle(index);
		count_add(&h->count[index], s->count[i]);
	}
}

void hist_sparse_free(struct hist_sparse *s)
{
	free(s->index);
	free(s->count);
	*s = (struct hist_sparse){0};
}

json_t *hist_sparse_to_json(const struct hist_sparse *s)
{
	_cleanup_json_ json_t *all = json_array();

	if (!all)
		return NULL;
	for (uint32_t i = 0; i < s->n_pairs; i++) {
		json_t *pair = json_pack("[i,I]", (int)s->index[i], (json_int_t)s->count[i]);

		if (!pair || json_array_append_new(all, pair) < 0)
			return NULL;
	}
	return TAKE_PTR(all);
}

int hist_sparse_from_json(const json_t *j, struct hist_sparse *ret)
{
	struct hist_sparse s = {0};
	json_int_t last = -1;
	size_t n = json_array_size(j);

	if (!json_is_array(j) || n > HIST_BUCKETS)
		return -EINVAL;
	if (n) {
		s.index = malloc(n * sizeof(*s.index));
		s.count = malloc(n * sizeof(*s.count));
		if (!s.index || !s.count) {
			hist_sparse_free(&s);
			return -ENOMEM;
		}
	}
	for (size_t i = 0; i < n; i++) {
		const json_t *pair = json_array_get(j, i);
		const json_t *ji = json_array_get(pair, 0), *jc = json_array_get(pair, 1);
		json_int_t index = json_integer_value(ji), count = json_integer_value(jc);

		if (json_array_size(pair) != 2 || !json_is_integer(ji) || !json_is_integer(jc) || index <= last ||
			index >= HIST_BUCKETS || count < 1 || count > (json_int_t)UINT32_MAX) {
			hist_sparse_free(&s);
			return -EINVAL;
		}
		s.index[i] = (uint16_t)index;
		s.count[i] = (uint32_t)count;
		s.n_pairs++;
		last = index;
	}
	*ret = s;
	return 0;
}

json_t *hist_news_to_json(const struct hist *now, const struct hist *was)
{
	json_t *all = NULL;

	for (unsigned int i = 0; i < HIST_BUCKETS; i++) {
		if (now->count[i] <= was->count[i])
			continue;
		if (!all)
			all = json_array();
		json_array_append_new(all, json_pack("[i, I]", (int)i, (json_int_t)(now->count[i] - was->count[i])));
	}
	return all;
}
