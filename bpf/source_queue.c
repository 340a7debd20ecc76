/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The accept queues of the real servers: how full they are, every POLL, and how often each has overflowed: by eBPF for the port
 * (queue.bpf.c), and by the kernel's own count for the whole namespace. The two are two witnesses of one thing, and an event
 * has both. Beside it the SYN queue, as the SYNs since the last POLL have found it, which is known to eBPF alone. Where the programs do
 * not load or attach (fentry is refused by some kernels), the kernel's count stands alone, and the report says so.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/libbpf_log.h"
#include "bpf/queue.h"
#include "gen/queue.skel.h"
#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"
#include "engine/tcp_stat.h"

#define POLL_MS 100

struct reading {
	uint64_t ebpf, kernel;
	uint32_t queued, limit, handshakes;
	struct queue_count last; /* overflow of those that eBPF counts, of both families */
};

struct watched {
	const struct node *node;
	uint16_t port;
	struct nlc *diag;
	struct reading base, now, told;
	nsec_t seen; /* the buckets of depths that ended before this were read after their end */
	bool said;
};

struct source {
	struct timeline *tl;
	char *name;
	struct queue *skel; /* NULL: not in this kernel */
	const char *probe;
	char why[192];
	size_t n;
	struct watched *v;
	int stop_fd;
	pthread_t thread;
	uint64_t polls, failures;
};

/* ── reading ───────────────────────────────────────────────────────────────────────────────── */

static int read_depth(struct watched *w)
{
	_cleanup_free_ struct listener *l = NULL;
	size_t n = 0;
	int r = listeners_read_on(w->diag, w->port, &l, &n, NULL);

	w->now.queued = w->now.limit = 0;
	for (size_t i = 0; i < n; i++)
		if (l[i].queued >= w->now.queued) {
			w->now.queued = l[i].queued;
			w->now.limit = l[i].limit;
		}
	return r;
}

static int read_ebpf(const struct source *s, struct watched *w, uint64_t *ret)
{
	static const uint16_t families[] = {AF_INET, AF_INET6};
	nsec_t begun = now_ns();
	uint64_t sum = 0;

	w->now.handshakes = 0;
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		struct queue_key key = {.netns = (uint32_t)w->node->netns_ino, .port = w->port, .family = families[i]};
		struct queue_port p;

		if (bpf_map_lookup_elem(bpf_map__fd(s->skel->maps.ports), &key, &p) < 0)
			return -errno;
		sum += p.count.overflows;
		if (p.count.last > w->now.last.last)
			w->now.last = p.count;
		for (size_t k = 0; k < QUEUE_DEPTHS; k++)
			if (p.depth[k] >> 32 >= (uint64_t)w->seen / QUEUE_BUCKET_NS)
				w->now.handshakes = MAX(w->now.handshakes, (uint32_t)p.depth[k]);
	}
	w->seen = begun;
	*ret = sum;
	return 0;
}

static int read_one(struct source *s, struct watched *w)
{
	int r = read_depth(w);

	if (r == 0)
		r = tcp_ext_counter(w->node, "ListenOverflows", &w->now.kernel, NULL);
	if (r == 0 && s->skel)
		r = read_ebpf(s, w, &w->now.ebpf);
	return r;
}

/* The last overflow: what it found, and whom it befell; null when there was none, or nobody saw it */
static json_t *last_overflow(const struct source *s, const struct queue_count *c)
{
	char addr[INET6_ADDRSTRLEN] = "";

	if (!s->skel || !c->last)
		return json_null();
	if (c->peer_family)
		inet_ntop(c->peer_family == 4 ? AF_INET : AF_INET6, c->peer, addr, sizeof(addr));
	return json_pack("{s:I, s:I, s:I, s:I, s:s, s:i}", "at", (json_int_t)c->last, "queued", (json_int_t)c->queued, "limit",
		(json_int_t)c->limit, "handshakes", (json_int_t)c->handshakes, "peer", addr, "peer_port", (int)c->peer_port);
}

/* Of two readings of one port, the second perhaps later */
static bool same(const struct reading *a, const struct reading *b)
{
	return a->ebpf == b->ebpf && a->kernel == b->kernel && a->queued == b->queued && a->limit == b->limit &&
	       a->handshakes == b->handshakes && a->last.last == b->last.last;
}

static void poll_all(struct source *s)
{
	nsec_t begun = now_ns();

	for (size_t i = 0; i < s->n; i++) {
		struct watched *w = &s->v[i];

		if (read_one(s, w) < 0) {
			s->failures++;
			continue;
		}
		if (w->said && same(&w->now, &w->told))
			continue;
		timeline_event(s->tl, now_ns(), EV_QUEUE,
			json_pack("{s:s, s:i, s:o, s:I, s:I, s:I, s:o, s:o}", "node", w->node->name, "port", (int)w->port, "overflows",
				s->skel ? json_integer((json_int_t)(w->now.ebpf - w->base.ebpf)) : json_null(), "kernel",
				(json_int_t)(w->now.kernel - w->base.kernel), "queued", (json_int_t)w->now.queued, "limit",
				(json_int_t)w->now.limit, "handshakes", s->skel ? json_integer(w->now.handshakes) : json_null(), "last",
				last_overflow(s, &w->now.last)));
		w->told = w->now;
		w->said = true;
	}
	s->polls++;
	timeline_watermark(s->tl, s->name, begun);
}

static void *run(void *arg)
{
	struct source *s = arg;
	struct pollfd p = {.fd = s->stop_fd, .events = POLLIN};

	pthread_setname_np(pthread_self(), "muster-queue");
	while (poll(&p, 1, POLL_MS) <= 0)
		poll_all(s);
	poll_all(s);
	return NULL;
}

/* ── setting up ────────────────────────────────────────────────────────────────────────────── */

static void source_free(struct source *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		nlc_close(s->v[i].diag);
	queue__destroy(s->skel);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	free(s->v);
	free(s->name);
	free(s);
}

static void source_freep(struct source **s)
{
	source_free(*s);
}

static int applies(const struct source_ctx *ctx, struct err *err _unused_)
{
	for (size_t i = 0; i < ctx->site->n_services; i++)
		if (ctx->site->services[i].protocol == IPPROTO_TCP)
			return 1;
	return 0;
}

/* The best first. The last one misses what happens at the last ACK, and the two witnesses then differ by that. */
static const struct way {
	const char *probe;
	bool acks, check;
} ways[] = {
	{"fentry/tcp_conn_request, tcp_v4_syn_recv_sock, tcp_v6_syn_recv_sock", true, false},
	{"fentry/tcp_conn_request, fexit/tcp_check_req", false, true},
	{"fentry/tcp_conn_request", false, false},
};

static int try_way(struct source *s, const struct way *way, struct queue **ret)
{
	static const uint16_t families[] = {AF_INET, AF_INET6};
	const struct queue_port none = {0};
	struct queue *skel;
	int r;

	libbpf_log_start();
	skel = queue__open();
	if (skel) {
		bpf_program__set_autoload(skel->progs.on_ack_v4, way->acks);
		bpf_program__set_autoload(skel->progs.on_ack_v6, way->acks);
		bpf_program__set_autoload(skel->progs.on_check, way->check);
	}
	r = skel ? queue__load(skel) : -errno;
	if (r == 0)
		r = queue__attach(skel);
	for (size_t i = 0; r == 0 && i < s->n; i++)
		for (size_t f = 0; r == 0 && f < ARRAY_SIZE(families); f++) {
			struct queue_key key = {
				.netns = (uint32_t)s->v[i].node->netns_ino, .port = s->v[i].port, .family = families[f]};

			if (bpf_map_update_elem(bpf_map__fd(skel->maps.ports), &key, &none, BPF_ANY) < 0)
				r = -errno;
		}
	if (r < 0)
		queue__destroy(skel);
	else
		*ret = skel;
	return r;
}

/* Without any the kernel's own count remains; why the best one is not in use, is kept. */
static void load_programs(struct source *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(ways) && !s->skel; i++) {
		int r = try_way(s, &ways[i], &s->skel);

		s->probe = ways[i].probe;
		if (r < 0 && !s->why[0])
			snprintf(s->why, sizeof(s->why), "%s%s%.120s", strerror(-r), *libbpf_log_first() ? ": " : "", libbpf_log_first());
		if (r == -EPERM)
			break; /* the others are of the same sort */
	}
}

static int watch(struct source *s, struct node *n, uint16_t port, struct err *err)
{
	struct watched *w = &s->v[s->n];
	int r;

	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].node == n && s->v[i].port == port)
			return 0;
	r = node_open(n, err);
	if (r < 0)
		return r;
	*w = (struct watched){.node = n, .port = port, .seen = now_ns()};
	r = nlc_open(n, NETLINK_SOCK_DIAG, &w->diag, err);
	if (r == 0)
		s->n++;
	return r;
}

static int start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	_cleanup_(source_freep) struct source *s = calloc(1, sizeof(*s));
	size_t room = 0;
	int r = 0;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->tl = ctx->tl;
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->name = strdup(ctx->name);
	for (size_t i = 0; i < ctx->site->n_services; i++)
		room += ctx->site->services[i].n_servers;
	s->v = calloc(room + 1, sizeof(*s->v));
	if (s->stop_fd < 0 || !s->name || !s->v)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < ctx->site->n_services; i++) {
		const struct service *v = &ctx->site->services[i];

		for (size_t k = 0; v->protocol == IPPROTO_TCP && k < v->n_servers; k++) {
			r = watch(s, v->servers[k].node, v->port, err);
			if (r < 0)
				return r;
		}
	}
	load_programs(s);
	for (size_t i = 0; i < s->n; i++) {
		r = read_one(s, &s->v[i]);
		if (r < 0)
			return err_set(err, r, "accept queue of %s: %s", s->v[i].node->name, strerror(-r));
		s->v[i].base = s->v[i].now;
	}
	timeline_watermark(s->tl, s->name, now_ns());
	r = source_thread(&s->thread, run, s, err);
	if (r < 0) {
		timeline_watermark(s->tl, s->name, NSEC_INFINITY);
		return err_prefix(err, "accept queues");
	}
	*ret_handle = TAKE_PTR(s);
	return 0;
}

static void stop(void *handle, json_t **ret_summary)
{
	_cleanup_(source_freep) struct source *s = handle;

	(void)eventfd_write(s->stop_fd, 1);
	pthread_join(s->thread, NULL);
	timeline_watermark(s->tl, s->name, NSEC_INFINITY);
	if (ret_summary)
		*ret_summary = json_pack("{s:[{s:s, s:b, s:s?}, {s:s, s:b, s:n}], s:I, s:I}", "probes", "probe", s->skel ? s->probe : ways[0].probe, "active",
			s->skel != NULL, "why", s->why[0] ? s->why : NULL, "probe", "counter/ListenOverflows", "active", 1, "why", "polls",
			(json_int_t)s->polls, "failures", (json_int_t)s->failures);
}

const struct source_ops source_queue = {
	.name = "queue",
	.summary = "The accept queues of the real servers: depth every 100 ms, overflows by eBPF and by the kernel's own count; their SYN queues",
	.kind = SOURCE_SAMPLER,
	.applies = applies,
	.start = start,
	.stop = stop,
};
