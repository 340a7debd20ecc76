/* SPDX-License-Identifier: GPL-2.0-only */
#include "load/buckets.h"

#include <string.h>

/* Not yet complete. Latencies are kept as histogram indices. */
struct bucket {
	uint64_t count[OUTCOME_COUNT], bytes, total;
	nsec_t first_ok, last_ok;
	size_t n_latencies, room;
	uint16_t *latencies;
};

int buckets_init(struct buckets *b, struct timeline *tl, const char *load, nsec_t longest)
{
	*b = (struct buckets){.tl = tl, .load = load};
	/* from the oldest that can be under way to now, a partial one at either end, and one to spare */
	b->n = (size_t)(longest / TIMELINE_BUCKET) + 4;
	b->ring = calloc(b->n, sizeof(*b->ring));
	return b->ring ? 0 : -ENOMEM;
}

void buckets_free(struct buckets *b)
{
	for (size_t i = 0; b->ring && i < b->n; i++)
		free(b->ring[i].latencies);
	free(b->ring);
	b->ring = NULL;
}

void buckets_start(struct buckets *b, nsec_t start)
{
	b->emitted = start / TIMELINE_BUCKET;
	timeline_watermark(b->tl, b->load, start);
}

bool buckets_room(const struct buckets *b, nsec_t due)
{
	return due / TIMELINE_BUCKET < b->emitted + (int64_t)b->n;
}

static int by_index(const void *a, const void *b)
{
	return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

static void write_bucket(struct buckets *bs, int64_t number)
{
	struct bucket *b = &bs->ring[(uint64_t)number % bs->n];
	struct tl_load out = {.t = number * TIMELINE_BUCKET,
		.load = bs->load,
		.bytes = b->bytes,
		.first_ok = b->first_ok,
		.last_ok = b->last_ok};
	uint32_t n = 0;

	if (!b->total)
		return;
	memcpy(out.count, b->count, sizeof(out.count));
	if (b->n_latencies) {
		qsort(b->latencies, b->n_latencies, sizeof(*b->latencies), by_index);
		out.latency.index = malloc(b->n_latencies * sizeof(*out.latency.index));
		out.latency.count = malloc(b->n_latencies * sizeof(*out.latency.count));
		if (!out.latency.index || !out.latency.count)
			bs->out_of_memory = true;
		else
			for (size_t i = 0; i < b->n_latencies; i++) {
				if (!n || out.latency.index[n - 1] != b->latencies[i]) {
					out.latency.index[n] = b->latencies[i];
					out.latency.count[n++] = 0;
				}
				out.latency.count[n - 1]++;
			}
		out.latency.n_pairs = n;
	}
	timeline_add_load(bs->tl, &out);
	hist_sparse_free(&out.latency);

	/* the array of latencies stays, for the next bucket in this place */
	memset(b->count, 0, sizeof(b->count));
	b->bytes = b->total = 0;
	b->first_ok = b->last_ok = 0;
	b->n_latencies = 0;
}

void buckets_write_until(struct buckets *b, nsec_t complete)
{
	int64_t until = complete / TIMELINE_BUCKET;

	if (until <= b->emitted)
		return;
	while (b->emitted < until)
		write_bucket(b, b->emitted++);
	timeline_watermark(b->tl, b->load, until * TIMELINE_BUCKET);
}

void buckets_count(struct buckets *bs, nsec_t due, nsec_t now, enum outcome outcome, uint64_t bytes)
{
	struct bucket *b = &bs->ring[(uint64_t)(due / TIMELINE_BUCKET) % bs->n];

	b->count[outcome]++;
	b->total++;
	b->bytes += bytes;
	if (outcome != OUTCOME_OK)
		return;
	b->first_ok = b->first_ok ? MIN(b->first_ok, now) : now;
	b->last_ok = MAX(b->last_ok, now);
	if (b->n_latencies == b->room) {
		size_t room = b->room ? 2 * b->room : 64;
		uint16_t *v = reallocarray(b->latencies, room, sizeof(*v));

		if (!v) {
			bs->out_of_memory = true;
			return;
		}
		b->latencies = v;
		b->room = room;
	}
	b->latencies[b->n_latencies++] = (uint16_t)hist_index((uint64_t)(now - due));
}

void buckets_end(struct buckets *b)
{
	/* also of an incomplete one: nothing will be added to it */
	for (size_t i = 0; i < b->n; i++)
		write_bucket(b, b->emitted++);
	timeline_watermark(b->tl, b->load, NSEC_INFINITY);
}
