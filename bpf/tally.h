/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * tally.h: the site in the words of the telemetry, and back: which endpoints make a service, whose address is whose; and, from the
 * kernel's aggregates, which real server got how many connections in each bucket of time, and who talked to whom.
 *
 *	accepted by a server	passive, in the namespace of one of the service's servers, its local end VIP:port
 *	failed			active, in the namespace of a node that is neither server nor director of the
 *				service, its remote end VIP:port, never established
 *
 * These are the parties: each server, and all of a service's clients together. A health checker connects to the server's own address,
 * so it is no part of this. Nor is a service with forward = "nat": its servers never see the VIP, and their own address would
 * count the checks too; it is listed as unmapped. In the counts it is told by its servers' own addresses, and so is a
 * database by its nodes': there the peer says who was checking and who was not.
 *
 * A connection counts as established in the bucket of the time it was, and as closed in the bucket of its end. Ends of connections
 * older than the capture are counted apart, or more would close than had opened.
 */
#pragma once

#include "engine/site.h"
#include "engine/timeline.h"
#include "bpf/telemetry.h"

struct tally;

/* The nodes must be open. -EINVAL: an address that is none; -ENOMEM */
int tally_new(const struct site *site, struct tally **ret, struct err *err);
void tally_free(struct tally *t);
static inline void tally_freep(struct tally **t)
{
	tally_free(*t);
}
#define _cleanup_tally_ _cleanup_(tally_freep)

/* Fills in endpoints, peers and parties; what it points at is the tally's. */
void tally_places(const struct tally *t, struct telemetry_opts *o);

/* A party's new connections (telemetry_series). Never fails; what finds no memory is counted in the summary's "late". */
void tally_slot(struct tally *t, unsigned int party, const struct conn_slot *delta);

/* Keeps the first records of ends that were not clean, as examples. */
void tally_record(struct tally *t, const struct conn_record *r);

/*
 * Writes all buckets that end at or before @complete, in order of time, and forgets them. What comes for a bucket
 * already written makes another entry for it at the next flush, and is counted as late.
 */
void tally_flush(struct tally *t, nsec_t complete, struct timeline *tl);

/* Writes what has been added to the counts since the last time, as events (EV_TRAFFIC) that cover (since, @now]. */
void tally_traffic(struct tally *t, nsec_t now, const struct telemetry_count *counts, size_t n, struct timeline *tl);

/* The same for the histograms, of all parties (EV_LATENCY). 0; -errno: what could not be read is not there */
int tally_latency(struct tally *t, nsec_t now, struct telemetry *from, struct timeline *tl);

/* All that was seen: handshakes and ends, at both of their ends */
uint64_t tally_events(const struct telemetry_count *counts, size_t n);

/*
 * Since the start: {"services": {NAME: {"servers": {NODE: {"established", "closed", "outcomes": {...}, "bytes_in", "bytes_out",
 * "retransmits"}}, "clients": {...the same...}}}, "unmapped": [NAME], "late", "unknown_birth", "examples": [the first ends that were
 * not clean], "map": [who talked to whom: as EV_TRAFFIC]}
 */
#define TALLY_EXAMPLES 16
json_t *tally_summary(const struct tally *t, const struct telemetry_count *counts, size_t n);
