/* SPDX-License-Identifier: GPL-2.0-only */
#include "bpf/aggregates.h"

#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "engine/timeline.h"

_Static_assert(CONN_BUCKET_NS == TIMELINE_BUCKET, "the kernel's buckets are the timeline's");
_Static_assert(CONN_HIST_BUCKETS == HIST_BUCKETS, "the kernel's histograms are hist.h's");

#define BATCH 256

struct aggregates {
	int series_fd, hists_fd, counts_fd;
	int cpus;
	struct aggregates_layout layout;
	struct conn_series *now;  /* [cpus], as just read */
	struct conn_series *read; /* [party][way][cpu], as last handed on; `total`: of what was */
	uint64_t missed;
	struct conn_hist *hist; /* [cpus] */
	struct conn_count *counts; /* [BATCH][cpus] */
};

void aggregates_free(struct aggregates *a)
{
	if (!a)
		return;
	free(a->now);
	free(a->read);
	free(a->hist);
	free(a->counts);
	free(a->layout.rows);
	free(a);
}

int aggregates_new(int series_fd, int hists_fd, int counts_fd, struct aggregates_layout *layout, struct aggregates **ret)
{
	struct aggregates *a = calloc(1, sizeof(*a));
	int cpus = libbpf_num_possible_cpus();

	if (!a)
		return -ENOMEM;
	if (cpus < 0) {
		free(a);
		return cpus;
	}
	*a = (struct aggregates){.series_fd = series_fd,
		.hists_fd = hists_fd,
		.counts_fd = counts_fd,
		.cpus = cpus,
		.now = calloc((size_t)cpus, sizeof(*a->now)),
		.read = calloc((size_t)cpus * (layout->n_parties * CONN_WAY_COUNT + 1), sizeof(*a->read)),
		.hist = calloc((size_t)cpus, sizeof(*a->hist)),
		.counts = calloc((size_t)cpus * BATCH, sizeof(*a->counts))};
	if (!a->now || !a->read || !a->hist || !a->counts) {
		aggregates_free(a);
		return -ENOMEM;
	}
	a->layout = *layout;
	layout->rows = NULL;
	*ret = a;
	return 0;
}

/* ── series ────────────────────────────────────────────────────────────────────────────────── */

static uint64_t slot_total(const struct conn_slot *s)
{
	return (uint64_t)s->established + s->closed + s->failed + s->resets + s->retransmits;
}

/* What is in @now and was not in @was, the same bucket earlier. A time that was told already is not told again. */
static struct conn_slot slot_delta(const struct conn_slot *now, const struct conn_slot *was)
{
	struct conn_slot d = *now;

	if (was->bucket != now->bucket)
		return d;
	d.established -= was->established;
	d.closed -= was->closed;
	d.failed -= was->failed;
	d.resets -= was->resets;
	d.retransmits -= was->retransmits;
	if (was->first)
		d.first = d.established ? now->last : 0;
	if (!d.established)
		d.last = 0;
	if (was->first_bad && now->first_bad >= was->first_bad)
		d.first_bad = 0;
	if (now->last_bad == was->last_bad)
		d.last_bad = 0;
	return d;
}

static void read_series(unsigned int party, const struct conn_series *now, struct conn_series *read,
	nsec_t complete, telemetry_series_fn fn, void *arg, uint64_t *missed)
{
	uint64_t waiting = 0;

	for (unsigned int i = 0; i < CONN_SLOTS; i++) {
		const struct conn_slot *s = &now->slot[i];
		struct conn_slot d;

		if (!s->bucket)
			continue;
		d = slot_delta(s, &read->slot[i]);
		if ((nsec_t)((s->bucket + 1) * CONN_BUCKET_NS) > complete) {
			waiting += slot_total(&d);
			continue;
		}
		/* one that is being cleared just now reads as less than before: it is `missed`, if it held anything new */
		if (s->bucket == read->slot[i].bucket && slot_total(s) < slot_total(&read->slot[i]))
			continue;
		if (slot_total(&d) == 0)
			continue;
		read->slot[i] = *s;
		read->total += slot_total(&d);
		fn(party, &d, arg);
	}
	/* the slots are read after their total: they may hold more than it says, never less unless something was cleared */
	if (now->total > read->total + waiting)
		*missed += now->total - read->total - waiting;
}

int aggregates_series(struct aggregates *a, nsec_t complete, telemetry_series_fn fn, void *arg)
{
	uint64_t missed = 0;

	for (unsigned int p = 0; p < a->layout.n_parties; p++)
		for (unsigned int way = 0; way < CONN_WAY_COUNT; way++) {
			uint32_t key = p * CONN_WAY_COUNT + way;

			if (bpf_map_lookup_elem(a->series_fd, &key, a->now) < 0)
				return -errno;
			for (int cpu = 0; cpu < a->cpus; cpu++)
				if (a->now[cpu].total)
					read_series(p, &a->now[cpu], &a->read[key * (unsigned int)a->cpus + (unsigned int)cpu],
						complete, fn, arg, &missed);
		}
	a->missed = MAX(a->missed, missed);
	return 0;
}

uint64_t aggregates_missed(const struct aggregates *a)
{
	return a->missed;
}

/* ── counts ────────────────────────────────────────────────────────────────────────────────── */

static void add_count(struct conn_count *to, const struct conn_count *from)
{
	to->opened += from->opened;
	to->established += from->established;
	for (int i = 0; i < CONN_OUTCOME_COUNT; i++)
		to->ended[i] += from->ended[i];
	to->bytes_in += from->bytes_in;
	to->bytes_out += from->bytes_out;
	to->retransmits += from->retransmits;
	to->unknown_birth += from->unknown_birth;
}

static bool is_zero(const struct conn_count *c)
{
	static const struct conn_count none;

	return memcmp(c, &none, sizeof(none)) == 0;
}

int aggregates_counts(struct aggregates *a, struct telemetry_count **ret, size_t *ret_n)
{
	const struct aggregates_layout *l = &a->layout;
	uint32_t keys[BATCH], in = 0, out = 0, n;
	_cleanup_free_ struct telemetry_count *all = NULL;
	bool started = false;
	size_t total = 0, size = 0;
	int r;

	do {
		n = BATCH;
		r = bpf_map_lookup_batch(a->counts_fd, started ? &in : NULL, &out, keys, a->counts, &n, NULL);
		if (r < 0 && errno != ENOENT)
			return -errno;
		for (uint32_t i = 0; i < n; i++) {
			const struct aggregates_row *row = &l->rows[MIN(keys[i] / l->width, l->n_rows - 1)];
			struct telemetry_count one = {.index = keys[i], .netns = row->netns, .role = row->role, .service = row->service,
				.peer = (uint16_t)(keys[i] % l->width)};

			for (int cpu = 0; cpu < a->cpus; cpu++)
				add_count(&one.count, &a->counts[(size_t)i * (size_t)a->cpus + (size_t)cpu]);
			if (is_zero(&one.count))
				continue;
			if (total == size) {
				struct telemetry_count *more = reallocarray(all, 2 * size + 64, sizeof(*all));

				if (!more)
					return -ENOMEM;
				all = more;
				size = 2 * size + 64;
			}
			all[total++] = one;
		}
		in = out;
		started = true;
	} while (r == 0);
	*ret = TAKE_PTR(all);
	*ret_n = total;
	return 0;
}

/* ── histograms ────────────────────────────────────────────────────────────────────────────── */

void conn_hist_sum(const struct conn_hist *cpus, int n_cpus, struct hist *ret)
{
	hist_reset(ret);
	for (unsigned int i = 0; i < CONN_HIST_BUCKETS; i++) {
		uint64_t n = 0;

		for (int cpu = 0; cpu < n_cpus; cpu++)
			n += cpus[cpu].count[i];
		if (n) {
			uint16_t index = (uint16_t)i;
			uint32_t count = (uint32_t)MIN(n, (uint64_t)UINT32_MAX);

			hist_add_sparse(ret, &(struct hist_sparse){.n_pairs = 1, .index = &index, .count = &count});
		}
	}
}

int aggregates_hist(struct aggregates *a, unsigned int party, enum conn_hist_kind kind, struct hist *ret)
{
	uint32_t key = party * CONN_HIST_COUNT + kind;

	if (party >= a->layout.n_hist_parties)
		return -ENODATA;
	if (bpf_map_lookup_elem(a->hists_fd, &key, a->hist) < 0)
		return -errno;
	conn_hist_sum(a->hist, a->cpus, ret);
	return 0;
}
