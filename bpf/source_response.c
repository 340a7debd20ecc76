/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How long the real servers take to answer, as their kernels see it (response.bpf.c): the kernel keeps the histograms, and what came to them
 * is read once a second and told as an event. It costs each segment of a watched server's connections a look-up, and each other one of
 * the machine nearly that, so it runs when a check asks for it.
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

#include "bpf/aggregates.h"
#include "bpf/libbpf_log.h"
#include "bpf/response.h"
#include "gen/response.skel.h"
#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"

#define READ_MS 1000

/* A real server of a service */
struct place {
	const struct service *service;
	const char *server;
	struct hist told;
};

struct source {
	struct timeline *tl;
	char *name;
	struct response *skel;
	const char *probe;
	int cpus;
	struct conn_hist *cpu; /* one for each */
	struct hist now;       /* of all */
	size_t n;
	struct place *v;
	nsec_t read; /* when */
	int stop_fd;
	pthread_t thread;
	uint64_t answers, failures;
};

static void source_free(struct source *s)
{
	if (!s)
		return;
	response__destroy(s->skel);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	free(s->cpu);
	free(s->v);
	free(s->name);
	free(s);
}

static void source_freep(struct source **s)
{
	source_free(*s);
}

/* ── reading ───────────────────────────────────────────────────────────────────────────────── */

static int tell(struct source *s, uint32_t index, nsec_t now)
{
	struct place *p = &s->v[index];
	json_t *news;

	if (bpf_map_lookup_elem(bpf_map__fd(s->skel->maps.hists), &index, s->cpu) < 0)
		return -errno;
	conn_hist_sum(s->cpu, s->cpus, &s->now);
	news = hist_news_to_json(&s->now, &p->told);
	s->answers += s->now.n - p->told.n;
	p->told = s->now;
	if (news)
		timeline_event(s->tl, now, EV_LATENCY,
			json_pack("{s:s, s:s, s:I, s:o}", "service", p->service->name, "server", p->server, "since", (json_int_t)s->read,
				"response", news));
	return 0;
}

static void read_all(struct source *s)
{
	nsec_t now = now_ns();

	for (size_t i = 0; i < s->n; i++)
		if (tell(s, (uint32_t)i, now) < 0)
			s->failures++;
	s->read = now;
	timeline_watermark(s->tl, s->name, now);
}

static void *run(void *arg)
{
	struct source *s = arg;
	struct pollfd p = {.fd = s->stop_fd, .events = POLLIN};

	pthread_setname_np(pthread_self(), "muster-response");
	while (poll(&p, 1, READ_MS) <= 0)
		read_all(s);
	return NULL;
}

/* ── setting up ────────────────────────────────────────────────────────────────────────────── */

static int applies(const struct source_ctx *ctx, struct err *err _unused_)
{
	for (size_t i = 0; ctx->asked && i < ctx->site->n_services; i++)
		if (ctx->site->services[i].protocol == IPPROTO_TCP)
			return 1;
	return 0;
}

/* The best first. Where there is no tcp_sendpage, sendfile() comes by tcp_sendmsg. */
static const struct way {
	const char *probe;
	bool send, page, sent;
} ways[] = {
	{"tp_btf/tcp_probe, fentry/tcp_sendmsg, tcp_sendpage", true, true, false},
	{"tp_btf/tcp_probe, fentry/tcp_sendmsg", true, false, false},
	{"tp_btf/tcp_probe, sock_send_length", false, false, true},
};

static int try_way(struct source *s, const struct way *way, uint32_t n)
{
	int r;

	s->skel = response__open();
	r = s->skel ? bpf_map__set_max_entries(s->skel->maps.hists, n) : -errno;
	if (r == 0) {
		bpf_program__set_autoload(s->skel->progs.on_send, way->send);
		bpf_program__set_autoload(s->skel->progs.on_sendpage, way->page);
		bpf_program__set_autoload(s->skel->progs.on_sent, way->sent);
		r = response__load(s->skel);
	}
	if (r == 0)
		r = response__attach(s->skel);
	if (r < 0) {
		response__destroy(s->skel);
		s->skel = NULL;
	}
	return r;
}

static int load(struct source *s, uint32_t n, struct err *err)
{
	int r = -EOPNOTSUPP;

	libbpf_log_start();
	for (size_t i = 0; i < ARRAY_SIZE(ways) && !s->skel; i++) {
		s->probe = ways[i].probe;
		r = try_way(s, &ways[i], n);
	}
	if (r == 0)
		return 0;
	err_set(err, -EOPNOTSUPP, "the servers' answers cannot be timed: %s%s%.120s", strerror(-r), *libbpf_log_first() ? ": " : "",
		libbpf_log_first());
	err_hint(err, "it needs BTF, tp_btf and fentry or Linux 6.3, and root; run with --lab vm");
	return -EOPNOTSUPP;
}

/* -EEXIST is none: two services at one endpoint of a server; the first has it */
static int place(const struct source *s, const struct node *n, const char *addr, uint16_t port, uint32_t index, struct err *err)
{
	struct response_key key = {.netns = (uint32_t)n->netns_ino, .port = port};

	if (strchr(addr, ':')) {
		if (inet_pton(AF_INET6, addr, key.addr) != 1)
			return 0;
	} else {
		if (inet_pton(AF_INET, addr, key.addr + 12) != 1)
			return 0;
		key.addr[10] = key.addr[11] = 0xff;
	}
	if (bpf_map_update_elem(bpf_map__fd(s->skel->maps.places), &key, &index, BPF_NOEXIST) < 0 && errno != EEXIST)
		return err_set(err, -errno, "answers of %s: %s", n->name, strerror(errno));
	return 0;
}

/* At the virtual addresses. What comes to its own is health checks, or, by NAT, cannot be told from them. */
static int watch(struct source *s, const struct service *v, const struct service_server *server, struct err *err)
{
	uint32_t index = (uint32_t)s->n;
	int r = node_open(server->node, err);

	for (size_t i = 0; r >= 0 && i < v->n_vips; i++)
		r = place(s, server->node, v->vips[i], v->port, index, err);
	if (r < 0)
		return r;
	s->v[s->n].service = v;
	s->v[s->n++].server = server->node->name;
	return 0;
}

static int start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	_cleanup_(source_freep) struct source *s = calloc(1, sizeof(*s));
	size_t room = 0;
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->tl = ctx->tl;
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->name = strdup(ctx->name);
	s->cpus = libbpf_num_possible_cpus();
	for (size_t i = 0; i < ctx->site->n_services; i++)
		if (ctx->site->services[i].protocol == IPPROTO_TCP)
			room += ctx->site->services[i].n_servers;
	s->v = calloc(room + 1, sizeof(*s->v));
	s->cpu = calloc((size_t)MAX(s->cpus, 1), sizeof(*s->cpu));
	if (s->stop_fd < 0 || !s->name || !s->v || !s->cpu)
		return err_set(err, -ENOMEM, "out of memory");
	r = load(s, (uint32_t)MAX(room, (size_t)1), err);
	for (size_t i = 0; r == 0 && i < ctx->site->n_services; i++) {
		const struct service *v = &ctx->site->services[i];

		for (size_t k = 0; r == 0 && v->protocol == IPPROTO_TCP && k < v->n_servers; k++)
			r = watch(s, v, &v->servers[k], err);
	}
	if (r < 0)
		return r;
	s->read = now_ns();
	timeline_watermark(s->tl, s->name, s->read);
	r = source_thread(&s->thread, run, s, err);
	if (r < 0) {
		timeline_watermark(s->tl, s->name, NSEC_INFINITY);
		return err_prefix(err, "answers");
	}
	*ret_handle = TAKE_PTR(s);
	return 0;
}

static void stop(void *handle, json_t **ret_summary)
{
	_cleanup_(source_freep) struct source *s = handle;

	(void)eventfd_write(s->stop_fd, 1);
	pthread_join(s->thread, NULL);
	response__detach(s->skel);
	read_all(s);
	timeline_watermark(s->tl, s->name, NSEC_INFINITY);
	if (ret_summary)
		*ret_summary = json_pack("{s:[{s:s, s:b, s:n}], s:I, s:I}", "probes", "probe", s->probe, "active", 1, "why", "answers",
			(json_int_t)s->answers, "failures", (json_int_t)s->failures);
}

const struct source_ops source_response = {
	.name = "response",
	.summary = "How long the real servers take to answer: from a request's first bytes to its answer's, in their kernels",
	.kind = SOURCE_SAMPLER,
	.applies = applies,
	.start = start,
	.stop = stop,
};
