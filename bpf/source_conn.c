/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * source_conn.c: every TCP connection of the site, from the kernel to the timeline.
 *
 * What is counted comes from the kernel's aggregates, whatever the rate: the series every TICK, the counts and histograms every
 * REST. Records of single connections are examples: those of the site's services, and above RECORDS_RATE a sample.
 *
 * The watermark: a connection is stamped before it is counted, so at the moment a reading begins a stamped one may still be on
 * its way, held up by an interrupt or, in a virtual machine, by the host. So what a reading that began at T has fetched is called
 * complete up to T - LAG only, rounded down to a whole bucket. One held up for longer is not lost: its bucket gets a second
 * entry, and the summary says "late".
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <netinet/in.h>
#include <time.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"
#include "bpf/tally.h"
#include "bpf/telemetry.h"

#define POLL	     (20 * NSEC_PER_MSEC)
#define TICK	     TIMELINE_BUCKET
#define REST	     NSEC_PER_SEC
#define LAG	     (50 * NSEC_PER_MSEC)
#define RECORDS_RATE 5000

struct source {
	struct timeline *tl;
	const struct site *site;
	char *name;
	struct telemetry *telemetry;
	struct tally *tally;
	int epoll_fd, stop_fd;
	pthread_t thread;
	nsec_t complete;  /* the watermark */
	nsec_t rest;	  /* when the counts were read last */
	uint64_t events, dropped; /* as last read, as last told */
	int error;	  /* the first that a reading has met; the watermark stands still from then on */
};

static void on_record(const struct conn_record *r, void *arg)
{
	struct source *s = arg;

	tally_record(s->tally, r);
}

static void on_slot(unsigned int party, const struct conn_slot *delta, void *arg)
{
	struct source *s = arg;

	tally_slot(s->tally, party, delta);
}

/* The judge must know of a loss while the drill runs, not only from the summary. */
static void tell_loss(struct source *s, nsec_t now)
{
	struct telemetry_stats st;
	uint64_t dropped;
	char text[128];

	if (telemetry_stats(s->telemetry, &st) < 0)
		return;
	dropped = telemetry_inexact(&st);
	if (dropped <= s->dropped)
		return;
	s->dropped = dropped;
	snprintf(text, sizeof(text), "%llu of %llu events missed so far",
		(unsigned long long)dropped, (unsigned long long)(dropped + s->events));
	timeline_event(s->tl, now, EV_SOURCE,
		json_pack("{s:s, s:s, s:s, s:s, s:{s:I, s:I}}", "name", s->name, "source_kind",
			"telemetry", "state", "lost", "text", text, "summary", "events",
			(json_int_t)s->events, "dropped", (json_int_t)dropped));
}

static void read_rest(struct source *s, nsec_t now)
{
	_cleanup_free_ struct telemetry_count *counts = NULL;
	size_t n = 0;
	int r = telemetry_counts(s->telemetry, &counts, &n);

	s->rest = now;
	if (r == 0) {
		s->events = tally_events(counts, n);
		tally_traffic(s->tally, now, counts, n, s->tl);
		r = tally_latency(s->tally, now, s->telemetry, s->tl);
	}
	if (r < 0 && r != -ENODATA) /* without room for histograms there are none, and the rest is there */
		s->error = s->error ?: r;
}

static void look(struct source *s)
{
	nsec_t began = now_ns(), complete = began - LAG;
	bool more;
	int r;

	(void)telemetry_drain(s->telemetry, &more); /* what is left there is no more than examples */
	complete -= complete % TIMELINE_BUCKET;
	if (complete <= s->complete)
		return;
	r = telemetry_series(s->telemetry, complete, on_slot, s);
	if (r < 0)
		s->error = s->error ?: r;
	if (began - s->rest >= REST)
		read_rest(s, began);
	if (s->error)
		return;
	/* all that there is to know about a bucket comes before the mark that ends it */
	tell_loss(s, began);
	tally_flush(s->tally, complete, s->tl);
	timeline_watermark(s->tl, s->name, complete);
	s->complete = complete;
}

static void *run(void *arg)
{
	struct source *s = arg;
	struct epoll_event ev;
	int n;

	do {
		n = epoll_wait(s->epoll_fd, &ev, 1, POLL / NSEC_PER_MSEC);
		if (n == 1 && ev.data.fd == s->stop_fd)
			break;
		look(s);
	} while (true);
	return NULL;
}

static void source_free(struct source *s)
{
	if (!s)
		return;
	telemetry_close(s->telemetry);
	tally_free(s->tally);
	if (s->epoll_fd >= 0)
		close(s->epoll_fd);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	free(s->name);
	free(s);
}

static void source_freep(struct source **s)
{
	source_free(*s);
}

static int applies(const struct source_ctx *ctx, struct err *err)
{
	size_t i;

	for (i = 0; i < ctx->site->n_services; i++) {
		if (ctx->site->services[i].protocol == IPPROTO_TCP)
			break;
	}
	if (i == ctx->site->n_services && !ctx->asked)
		return 0;
	return telemetry_supported(err) < 0 ? -EOPNOTSUPP : 1;
}

static int watch(struct source *s, int fd, uint32_t events, struct err *err)
{
	struct epoll_event ev = {.events = events, .data.fd = fd};

	if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return err_set(err, -errno, "telemetry: epoll: %s", strerror(errno));
	return 0;
}

static int start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	_cleanup_(source_freep) struct source *s = calloc(1, sizeof(*s));
	_cleanup_free_ uint64_t *netns = NULL;
	struct telemetry_opts o = {0};
	size_t i;
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "telemetry: %s", strerror(ENOMEM));
	s->epoll_fd = s->stop_fd = -1;
	s->tl = ctx->tl;
	s->site = ctx->site;
	s->name = strdup(ctx->name);
	netns = calloc(ctx->site->n_nodes + 1, sizeof(*netns));
	if (!s->name || !netns)
		return err_set(err, -ENOMEM, "telemetry: %s", strerror(ENOMEM));
	for (i = 0; i < ctx->site->n_nodes; i++) {
		r = node_open(ctx->site->nodes[i], err);
		if (r < 0)
			return r;
		netns[i] = ctx->site->nodes[i]->netns_ino;
	}
	r = tally_new(ctx->site, &s->tally, err);
	if (r < 0)
		return r;
	tally_places(s->tally, &o);
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (s->stop_fd < 0 || s->epoll_fd < 0)
		return err_set(err, -errno, "telemetry: eventfd, epoll: %s", strerror(errno));

	o.netns = netns;
	o.n_netns = ctx->site->n_nodes;
	o.aggregates = true;
	o.records_of_services = true;
	o.records_rate = RECORDS_RATE;
	r = telemetry_open(&o, on_record, s, &s->telemetry, err);
	if (r < 0)
		return r;
	r = watch(s, telemetry_fd(s->telemetry), EPOLLIN | EPOLLET, err);
	if (r == 0)
		r = watch(s, s->stop_fd, EPOLLIN, err);
	if (r < 0)
		return r;
	/* nothing before this bucket was seen */
	s->complete = now_ns();
	s->complete -= s->complete % TIMELINE_BUCKET;
	s->rest = s->complete;
	timeline_watermark(s->tl, s->name, s->complete);
	r = source_thread(&s->thread, run, s, err);
	if (r < 0) {
		timeline_watermark(s->tl, s->name, NSEC_INFINITY);
		return err_prefix(err, "telemetry");
	}
	*ret_handle = TAKE_PTR(s);
	return 0;
}

/* All of them, and why one is not active */
static json_t *probes(const struct source *s)
{
	json_t *all = json_array();
	const char *name, *why;

	for (size_t i = 0; (name = telemetry_probe_at(s->telemetry, i, &why)); i++)
		json_array_append_new(all, json_pack("{s:s, s:b, s:s?}", "probe", name, "active", !why, "why", why));
	return all;
}

static json_t *packets(struct source *s, const struct site *site)
{
	json_t *all = json_object();

	for (size_t i = 0; i < site->n_nodes; i++) {
		struct conn_packets p;

		if (telemetry_packets(s->telemetry, site->nodes[i]->netns_ino, &p) == 0)
			json_object_set_new(all, site->nodes[i]->name,
				json_pack("{s:I, s:I, s:I, s:I}", "resets_sent", (json_int_t)p.resets_sent, "resets_received",
					(json_int_t)p.resets_received, "retransmits", (json_int_t)p.retransmits,
					"synack_retransmits", (json_int_t)p.synack_retransmits));
	}
	return all;
}

static json_t *summary(struct source *s)
{
	_cleanup_free_ struct telemetry_count *counts = NULL;
	uint64_t connecting = 0, established = 0;
	struct telemetry_stats st = {0};
	struct timespec res = {0};
	json_t *j, *more;
	bool counted;
	size_t n = 0;

	counted = telemetry_stats(s->telemetry, &st) == 0 && telemetry_counts(s->telemetry, &counts, &n) == 0 && !s->error;
	clock_getres(CLOCK_MONOTONIC, &res);
	j = tally_summary(s->tally, counts, n);
	more = json_pack("{s:o, s:o, s:o, s:s?, s:{s:I, s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:I, "
			 "s:{s:I, s:I, s:I, s:I, s:I, s:I}, s:o}",
		"events", counted ? json_integer((json_int_t)tally_events(counts, n)) : json_null(), "dropped",
		counted ? json_integer((json_int_t)telemetry_inexact(&st)) : json_null(), "probes", probes(s), "fallback",
		*telemetry_fallback_reason(s->telemetry) ? telemetry_fallback_reason(s->telemetry) : NULL,
		"resolution", "stamp_ns", (json_int_t)(res.tv_sec * NSEC_PER_SEC + res.tv_nsec), "series_ns", (json_int_t)TICK,
		"counts_ns", (json_int_t)REST, "poll_ns", (json_int_t)POLL, "lag_ns", (json_int_t)LAG,
		"lost", "nested", (json_int_t)st.lost_nested, "untracked", (json_int_t)st.untracked, "series",
		(json_int_t)st.series_missed, "rescued", (json_int_t)st.rescued,
		"records", "taken", (json_int_t)st.received, "lost", (json_int_t)st.lost_ring, "malformed", (json_int_t)st.malformed,
		"left_out", (json_int_t)st.sampled_out, "one_in_at_most", (json_int_t)MAX(st.sample_most, 1u), "rate_limit",
		(json_int_t)RECORDS_RATE, "packets", packets(s, s->site));
	if (telemetry_live(s->telemetry, &connecting, &established) == 0)
		json_object_set_new(more, "open_at_end",
			json_pack("{s:I, s:I}", "connecting", (json_int_t)connecting, "established",
				(json_int_t)established));
	else
		json_object_set_new(more, "open_at_end", json_null());
	json_object_update(j, more);
	json_decref(more);
	return j;
}

static void stop(void *handle, json_t **ret_summary)
{
	struct source *s = handle;
	bool more = true;

	eventfd_write(s->stop_fd, 1);
	pthread_join(s->thread, NULL);
	telemetry_detach(s->telemetry);
	while (more && telemetry_drain(s->telemetry, &more) >= 0)
		;
	if (telemetry_series(s->telemetry, NSEC_INFINITY, on_slot, s) < 0)
		s->error = s->error ?: -EIO;
	read_rest(s, now_ns());
	tell_loss(s, now_ns());
	tally_flush(s->tally, NSEC_INFINITY, s->tl);
	/* what could not be read is not known to be complete */
	if (!s->error)
		timeline_watermark(s->tl, s->name, NSEC_INFINITY);
	if (ret_summary)
		*ret_summary = summary(s);
	source_free(s);
}

const struct source_ops source_conn = {
	.name = "conn",
	.summary = "follows every TCP connection of the site's nodes, inside the kernel",
	.kind = SOURCE_TELEMETRY,
	.applies = applies,
	.start = start,
	.stop = stop,
};
