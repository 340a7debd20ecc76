/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * telemetry.h: the reader of conn.bpf.c: loads, attaches, drains, counts what was lost. It knows no site and no timeline.
 *
 *	struct telemetry_opts o = {.netns = inodes, .n_netns = 2};
 *	r = telemetry_open(&o, on_record, arg, &t, err);     from here on every connection is recorded
 *	... every 10 to 50 ms, or when telemetry_fd() says so: telemetry_drain(t, &more);
 *	... with aggregates: every 100 ms telemetry_series(), every second telemetry_counts(), telemetry_hist()
 *	telemetry_detach(t); telemetry_drain(t, &more);      and nothing is under way any more
 *	telemetry_close(t);
 *
 * One thread at a time. Nothing is pinned: when the process dies, however it dies, the kernel takes everything back.
 * Needs CAP_BPF and CAP_PERFMON, the kernel's BTF (/sys/kernel/btf/vmlinux), and ring buffers (Linux 5.8).
 */
#pragma once

#include "engine/err.h"
#include "engine/hist.h"
#include "bpf/conn_record.h"

/*
 * A record takes 152 bytes of the ring (144 and a header of 8), so the default holds 27,500 records: at 20 ms between drains
 * that is 1.3 million a second. The table of live connections takes 128 bytes for each of the
 * number it is asked to hold, allocated at once; it has room for twice as many, but not wherever it is wanted (telemetry.c).
 */
#define TELEMETRY_RING_BYTES (4u << 20)
#define TELEMETRY_LIVE_MAX   (1u << 16)
extern uint32_t telemetry_live_default; /* TELEMETRY_LIVE_MAX; a test makes it small */
#define TELEMETRY_NETNS_MAX  1024
/*
 * After so many state changes (ten of them make a connection seen from both its ends) of which the kernel skipped none, the program
 * that waits for those that it skips goes, as it costs more than all the rest. It comes back with the first that is lost, until as many
 * have passed again. So for want of it is lost what is skipped within 100 ms, once in so many at most, and it is counted (lost_nested).
 */
#define TELEMETRY_CALM_MOVES 200000
extern uint64_t telemetry_calm_default; /* TELEMETRY_CALM_MOVES; a test makes it small */
/* Records in one drain at most, so that a flood cannot keep the reader for ever */
#define TELEMETRY_DRAIN_MAX 65536

enum telemetry_hook {
	TELEMETRY_AUTO,	  /* the first of the two that loads and attaches */
	TELEMETRY_TP_BTF, /* ids are socket cookies */
	TELEMETRY_RAW_TP,
};

/* Where a service is met, seen from one namespace (conn.h). @service from 1; @party below n_parties, or CONN_NONE */
struct telemetry_endpoint {
	uint64_t netns;
	enum conn_role role;
	int family;
	uint8_t addr[16]; /* network order; IPv4: the first four bytes */
	uint16_t port, service, party;
};

/* Whose address it is; @node from 1 */
struct telemetry_peer {
	int family;
	uint8_t addr[16];
	uint16_t node;
};

/*
 * Counts that are kept, one for each (namespace, role, service, peer); an entry takes 112 bytes for each CPU. If they would be more
 * than so many, peers are not told apart.
 */
#define TELEMETRY_COUNTS_MAX 16384
/* What the histograms may take: 55 KiB a party and CPU. Parties that would be beyond have none. */
#define TELEMETRY_HISTS_BYTES (64u << 20)

struct telemetry_opts {
	const uint64_t *netns; /* inodes of the namespaces to watch */
	size_t n_netns;	       /* at most TELEMETRY_NETNS_MAX */
	bool all_netns;	       /* watch them all instead */
	uint32_t ring_bytes;   /* a power of two, at least a page; 0: TELEMETRY_RING_BYTES */
	uint32_t
		live_max; /* connections open at once that can be followed; 0: telemetry_live_default */
	enum telemetry_hook hook;

	/* the stream of single records */
	bool no_records;
	bool records_of_services; /* of the endpoints below, and no others */
	bool records_of_failures; /* ends that were not clean, and nothing else */
	uint32_t records_rate;	  /* connections a second, above which only a sample is recorded; 0: all */

	/* the aggregates */
	bool aggregates;
	const struct telemetry_endpoint *endpoints;
	size_t n_endpoints;
	const struct telemetry_peer *peers;
	size_t n_peers;
	size_t n_parties;
};

struct telemetry_stats {
	uint64_t submitted;   /* records the kernel put into the ring */
	uint64_t received;    /* records handed on */
	uint64_t malformed;   /* records that conn_decode() refused */
	uint64_t lost_ring;   /* records for which the ring had no room */
	uint64_t lost_nested; /* state changes unseen: they interrupted the recording of another */
	uint64_t rescued;     /* state changes that did so and were seen all the same: nothing is missing */
	uint64_t moves;	      /* state changes seen at once (conn.h) */
	bool second;	      /* the program that does this is attached (TELEMETRY_CALM_MOVES) */
	uint64_t untracked;   /* births without room in the table: their ends have no times and no role */
	uint64_t births;      /* connections that might have been recorded one by one */
	uint64_t sampled_out; /* ... and were left out, by lot, because there were too many: nothing is lost by that */
	uint64_t sample_most; /* one of so many was recorded when it was at its worst; 1: all */
	uint64_t series_missed; /* what a slot held when it was used again before it was read */
};
/* All that is missing: what makes a count less than exact. Records that found the ring full, of the records alone. */
uint64_t telemetry_dropped(const struct telemetry_stats *s);
/* What is missing in the series and counts: they do not pass through the ring */
uint64_t telemetry_inexact(const struct telemetry_stats *s);

/* What can be said without loading anything: -EOPNOTSUPP and the way out when this kernel has no BTF. */
int telemetry_supported(struct err *err);

struct telemetry;
typedef void (*telemetry_fn)(const struct conn_record *r, void *arg);

/*
 * -EOPNOTSUPP: this kernel cannot; -EPERM: this process may not; -EINVAL: the options. @fn is called from telemetry_drain().
 */
int telemetry_open(const struct telemetry_opts *o, telemetry_fn fn, void *arg,
	struct telemetry **ret, struct err *err);

/* "tp_btf/inet_sock_set_state" or "raw_tp/inet_sock_set_state" */
const char *telemetry_probe(const struct telemetry *t);
/* Of all probes: its name, and in *ret_why why it is not active, NULL when it is. NULL from the last on. */
const char *telemetry_probe_at(const struct telemetry *t, size_t i, const char **ret_why);
/* Why the better one is not in use; "" when it is. */
const char *telemetry_fallback_reason(const struct telemetry *t);

/*
 * Readable when a quarter of the ring is full; otherwise records wait for the next drain. Add it to an epoll with EPOLLET: it
 * stays readable while anything at all waits, and the point is to let records gather.
 */
int telemetry_fd(const struct telemetry *t);

/* Returns how many records were handed on. *ret_more: stopped at TELEMETRY_DRAIN_MAX. */
int telemetry_drain(struct telemetry *t, bool *ret_more);

int telemetry_stats(const struct telemetry *t, struct telemetry_stats *ret);

/*
 * What came to the buckets that ended at or before @complete since the last call, of all CPUs. @delta says in `bucket` which one it
 * is; one that was handed on before comes again when something was late. Must be called at least every CONN_SLOTS / 2 buckets.
 */
typedef void (*telemetry_series_fn)(unsigned int party, const struct conn_slot *delta, void *arg);
int telemetry_series(struct telemetry *t, nsec_t complete, telemetry_series_fn fn, void *arg);

/* Since the start, of all CPUs, those that are not zero. The caller frees. */
struct telemetry_count {
	uint32_t index;	    /* what is asked for again has the same; ascending */
	uint64_t netns;	    /* 0: all of them together, when they are all watched */
	enum conn_role role;
	uint16_t service;   /* 0: none */
	uint16_t peer;	    /* 0: nobody known, or all of them together (TELEMETRY_COUNTS_MAX) */
	struct conn_count count;
};
int telemetry_counts(struct telemetry *t, struct telemetry_count **ret, size_t *ret_n);

/* Since the start, of all CPUs: @ret is overwritten. -ENODATA: this party has none (TELEMETRY_HISTS_BYTES) */
int telemetry_hist(struct telemetry *t, unsigned int party, enum conn_hist_kind kind, struct hist *ret);

/* -ENODATA: nothing was seen, or the programs that see it are not active */
int telemetry_packets(const struct telemetry *t, uint64_t netns, struct conn_packets *ret);

/* Mean time of one run of the program, in ns, over the time that bpf_enable_stats() was on. -ENODATA: it never ran then. */
int telemetry_run_time(const struct telemetry *t, double *ret_ns);

/* Connections that have not ended: still in the handshake, and past it. */
int telemetry_live(const struct telemetry *t, uint64_t *ret_connecting, uint64_t *ret_established);

/* Records no more. When it returns, no program of ours is running on any CPU. Idempotent. */
void telemetry_detach(struct telemetry *t);
void telemetry_close(struct telemetry *t);
static inline void telemetry_closep(struct telemetry **t)
{
	telemetry_close(*t);
}
#define _cleanup_telemetry_ _cleanup_(telemetry_closep)
