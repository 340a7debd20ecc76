/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * meter.h: what programs count for the telemetry, in buckets of time, and its reader.
 *
 * A meter has up to METER_COUNTS counts. The program keeps one for each CPU (a BPF_MAP_TYPE_PERCPU_ARRAY of struct meter), and stamps what it
 * counts itself; so each count belongs to exactly one bucket, whenever it is read. The last METER_SLOTS buckets are kept. A reader that
 * comes later than that cannot tell those apart any more, but from the totals how much it was: then one event covers the whole stretch.
 *
 *	r = meters_new(&(struct meters_opts){...}, &m, err);
 *	meters_add(m, map, 0, json_pack(...));                the meter at index 0 of that map, and the fields that tell whose it is
 *	meters_start(m, err);  ...  meters_stop(m);           a thread that writes to the timeline what is complete
 *
 * An event has the fields of its meter, "since", and the counts: what came in [since, t). Nothing came where there is none, provided that
 * the source ran: meters_count() asks both.
 */
#pragma once

#ifdef __bpf__
#define METER_BUCKET_NS 100000000ULL
#else
#include "engine/probe.h"
#include "engine/source.h"
#endif

#define METER_COUNTS 3
#define METER_SLOTS  32

struct meter_slot {
	unsigned long long bucket, n[METER_COUNTS];
};

struct meter {
	unsigned long long total[METER_COUNTS];
	struct meter_slot slots[METER_SLOTS];
};

#ifdef __bpf__

/* As many as the reader makes of it before it is loaded */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meter);
} meters SEC(".maps");

/* Atomic, for the sake of a softirq that comes in between */
static __always_inline void meter_add(__u32 index, __u64 a, __u64 b, __u64 c)
{
	__u64 bucket = bpf_ktime_get_ns() / METER_BUCKET_NS, n[METER_COUNTS] = {a, b, c};
	struct meter *m = bpf_map_lookup_elem(&meters, &index);
	struct meter_slot *s;

	if (!m)
		return;
	s = &m->slots[bucket % METER_SLOTS];
	if (s->bucket != bucket) {
		s->bucket = bucket;
		s->n[0] = s->n[1] = s->n[2] = 0;
	}
	for (int i = 0; i < METER_COUNTS; i++) {
		__sync_fetch_and_add(&s->n[i], n[i]);
		__sync_fetch_and_add(&m->total[i], n[i]);
	}
}

#else

/* What has been told of a meter, and up to when */
struct meter_told {
	nsec_t until;
	uint64_t n[METER_COUNTS];
};

/* What came in [since, until); never nothing */
typedef void (*meter_fn)(nsec_t since, nsec_t until, const uint64_t n[METER_COUNTS], void *arg);

/*
 * Tells what is new in the whole buckets that end at or before @complete. @cpus: the meter as each CPU has kept it. Returns how
 * much of the first count is not in any bucket that was told: it came late, or its bucket is not over.
 */
uint64_t meter_tell(struct meter_told *told, const struct meter *cpus, size_t n_cpus, nsec_t complete, meter_fn fn, void *arg);

struct meters_opts {
	struct timeline *tl;
	const char *source, *kind;	  /* whose watermark it is, and the kind of the events */
	const char *counts[METER_COUNTS]; /* the fields; NULL: not counted */
};

struct meters;
/* What is counted from here on is told: so call it before anything can be counted. */
int meters_new(const struct meters_opts *o, struct meters **ret, struct err *err);
void meters_free(struct meters *m);
static inline void meters_freep(struct meters **m)
{
	meters_free(*m);
}

/* @labels is stolen. @map has to stay until meters_stop(). */
int meters_add(struct meters *m, int map, uint32_t index, json_t *labels, struct err *err);
/* Every meter has been added, and what was counted since meters_new() is told with the rest. */
int meters_start(struct meters *m, struct err *err);
/* Reads the rest, to the end of what was counted: so detach before. */
void meters_stop(struct meters *m);
/* {"counted": [{labels, counts since the start}], "late", "failures"}; after meters_stop() */
json_t *meters_summary(const struct meters *m);

/*
 * Of a timeline: count @field of all events of @kind that @match says yes to, in [t0, t1). What an event covers only in part may lie
 * within or not: hence *ret_lo and *ret_hi. False: @source did not run all that time, and *ret_why says so.
 */
bool meters_count(const struct timeline *tl, const char *source, const char *kind, const char *field,
	bool (*match)(const json_t *event, const void *arg), const void *arg, nsec_t t0, nsec_t t1, uint64_t *ret_lo, uint64_t *ret_hi,
	const char **ret_why);
/* By the second, as a sample without a text; false: no time at all */
bool meters_rate(uint64_t lo, uint64_t hi, nsec_t t0, nsec_t t1, struct sample *ret);

#endif
