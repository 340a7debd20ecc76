/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Watches the directors of the site: which of them serves, which weight each server has there, and how many connections
 * that director counts for it. The kernel tells nobody when a weight changes, so the tables are polled, every
 * POLL_INTERVAL, in a thread of its own.
 *
 * Times. An entry bears the time *after* the answer that showed the change, so that it is never earlier
 * than the change, and at most POLL_INTERVAL and one dump later. The watermark is the time *before* the
 * poll's first question: every change before that has been seen, and the next entry cannot be earlier.
 *
 * A service may have several virtual addresses (IPv4 and IPv6), each with a weight of its own for the
 * same server. The timeline has one: the largest. A server is drained when none of its addresses is
 * scheduled any more. Connections are added up.
 *
 * Of several directors, the one counts that took a virtual address last (vip_watch.h). Who takes and who releases one is an
 * event, EV_ROLE, written when the kernel tells it. Two can hold an address at once: a director that is cut off does not know that
 * another has taken its place. When that has lasted for SPLIT it is called split brain in the log, and again when it is over.
 *
 * A director that cannot be read yields TL_WEIGHT_UNKNOWN from there on, never the last value that was
 * true once.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"
#include "lvs/ipvs.h"
#include "lvs/vip_watch.h"

#define POLL_INTERVAL (50 * NSEC_PER_MSEC)
#define SPLIT	      (1 * NSEC_PER_SEC) /* a shorter one is that of a change of hands */

struct reading {
	int weight, active, inactive;
};

struct watched_server {
	const char *name;
	struct {
		bool have;
		struct ipvs_dest key; /* the port is not looked at */
	} addr[SERVICE_VIPS_MAX];
	struct reading now, written;
	nsec_t written_at; /* 0: never */
};

struct watched_service {
	const struct service *service;
	size_t n_directors, active;
	nsec_t two_since; /* that more than one director holds addresses; 0: there is one, or none */
	bool split;	  /* and it has been said */
	struct {
		struct ipvs *ip;	 /* borrowed from the sampler */
		struct vip_watch *watch; /* NULL: the only one there is */
		uint32_t held;
	} directors[SERVICE_DIRECTORS_MAX];
	size_t n_vips;
	struct ipvs_service vips[SERVICE_VIPS_MAX];
	struct watched_server *servers;
	bool failing;
};

struct sampler {
	struct timeline *tl;
	char *name;
	size_t n;
	struct watched_service *services;
	size_t n_sockets;
	struct {
		const struct node *director;
		struct ipvs *ip;
	} * sockets;
	int timer, end; /* descriptors */
	struct pollfd *poll;
	pthread_t thread;
	/* totals, the thread's own until it has been joined */
	uint64_t polls, failures, changes;
	nsec_t longest_poll;
};

static void sampler_free(struct sampler *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++) {
		for (size_t d = 0; d < s->services[i].n_directors; d++)
			vip_watch_close(s->services[i].directors[d].watch);
		free(s->services[i].servers);
	}
	for (size_t i = 0; i < s->n_sockets; i++)
		ipvs_close(s->sockets[i].ip);
	if (s->timer >= 0)
		close(s->timer);
	if (s->end >= 0)
		close(s->end);
	free(s->services);
	free(s->sockets);
	free(s->poll);
	free(s->name);
	free(s);
}

static void sampler_freep(struct sampler **s)
{
	sampler_free(*s);
}

/* ── reading ──────────────────────────────────────────────────────────────────────────────── */

static bool same_host(const struct ipvs_dest *a, const struct ipvs_dest *b)
{
	struct ipvs_dest key = *a;

	key.port = b->port;
	return ipvs_dest_same_key(&key, b);
}

/*
 * One virtual address: adds what it says about each server. -ESRCH is an answer: none of them is in the
 * table.
 */
static int read_vip(struct watched_service *w, size_t vip, struct err *err)
{
	_cleanup_free_ struct ipvs_dest *dests = NULL;
	size_t n = 0;
	int r = ipvs_dests(w->directors[w->active].ip, &w->vips[vip], &dests, &n, err);

	if (r < 0)
		return r == -ESRCH ? 0 : r;
	for (size_t i = 0; i < w->service->n_servers; i++) {
		struct watched_server *s = &w->servers[i];

		for (size_t d = 0; s->addr[vip].have && d < n; d++) {
			if (!same_host(&s->addr[vip].key, &dests[d]))
				continue;
			s->now.weight = MAX(
				s->now.weight, (int)MIN(dests[d].weight, (uint32_t)INT32_MAX));
			s->now.active += (int)dests[d].active;
			s->now.inactive += (int)dests[d].inactive;
		}
	}
	return 0;
}

static void write_server(
	struct sampler *sm, struct watched_service *w, struct watched_server *s, nsec_t t)
{
	bool weight_changed = !s->written_at || s->now.weight != s->written.weight;
	bool count_changed = s->now.active != s->written.active ||
			     s->now.inactive != s->written.inactive;

	/* A weight at once; mere counts, which change all the time under load, once a bucket */
	if (!weight_changed && !(count_changed && t - s->written_at >= TIMELINE_BUCKET))
		return;
	timeline_add_weight(sm->tl, &(struct tl_weight){.t = t,
					    .service = w->service->name,
					    .server = s->name,
					    .weight = s->now.weight,
					    .active = s->now.active,
					    .inactive = s->now.inactive});
	sm->changes += weight_changed && s->written_at;
	s->written = s->now;
	s->written_at = t;
}

static void say(struct sampler *sm, nsec_t t, char *text)
{
	if (text)
		timeline_event(
			sm->tl, t, EV_LOG, json_pack("{s:s, s:s}", "text", text, "where", ""));
	free(text);
}

static int read_service(struct sampler *sm, struct watched_service *w, struct err *err)
{
	int r = 0;
	nsec_t t;

	for (size_t i = 0; i < w->service->n_servers; i++)
		w->servers[i].now = (struct reading){.weight = TL_WEIGHT_ABSENT};
	for (size_t vip = 0; r == 0 && vip < w->n_vips; vip++)
		r = read_vip(w, vip, err);
	t = now_ns();
	for (size_t i = 0; i < w->service->n_servers; i++) {
		if (r < 0)
			w->servers[i].now = (struct reading){.weight = TL_WEIGHT_UNKNOWN};
		write_server(sm, w, &w->servers[i], t);
	}
	sm->failures += r < 0;
	if (r < 0 && !w->failing)
		say(sm, t,
			strf("service %s: its director cannot be read: %s", w->service->name,
				err->text));
	else if (r == 0 && w->failing)
		say(sm, t, strf("service %s: its director can be read again", w->service->name));
	w->failing = r < 0;
	return r;
}

/* Who holds which address now; @initial: nothing is a change yet */
static int read_holder(struct sampler *sm, struct watched_service *w, size_t director, bool initial, struct err *err)
{
	const char *node = w->service->directors[director]->name;
	uint32_t held, before = w->directors[director].held;
	int r = vip_watch_read(w->directors[director].watch, &held, err);
	nsec_t t = now_ns();

	if (r < 0) {
		sm->failures++;
		return r;
	}
	for (size_t v = 0; v < w->n_vips; v++) {
		uint32_t bit = 1u << v;

		if ((held & bit) == (before & bit))
			continue;
		timeline_event(sm->tl, t, EV_ROLE,
			json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "service", w->service->name, "role", "director", "node",
				node, "state", held & bit ? "taken" : "released", "what", w->service->vips[v], "initial", initial));
	}
	if (held & ~before)
		w->active = director;
	w->directors[director].held = held;
	return 0;
}

/* All of it that has been notified by now */
static int read_holders(struct sampler *sm, bool initial, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < sm->n; i++) {
		struct watched_service *w = &sm->services[i];

		/* the first of them last: when two hold the addresses at the start, it is the one */
		for (size_t d = w->n_directors; d-- > 0;) {
			struct vip_watch *watch = w->directors[d].watch;
			struct pollfd p = {.fd = watch ? vip_watch_fd(watch) : -1, .events = POLLIN};
			int one = 0;

			if (watch && (initial || poll(&p, 1, 0) > 0))
				one = read_holder(sm, w, d, initial, err);
			r = r < 0 ? r : one;
		}
	}
	return r;
}

static void look_for_split(struct sampler *sm, struct watched_service *w, nsec_t now)
{
	_cleanup_strbuf_ struct strbuf names = {0};
	unsigned int n = 0;

	for (size_t d = 0; d < w->n_directors; d++)
		if (w->directors[d].held)
			strbuf_addf(&names, "%s%s", n++ ? " and " : "", w->service->directors[d]->name);
	if (n < 2) {
		if (w->split)
			say(sm, now,
				strf("the split brain of %s is over, after %.1f s", w->service->name,
					(double)(now - w->two_since) / NSEC_PER_SEC));
		w->two_since = 0;
		w->split = false;
		return;
	}
	w->two_since = w->two_since ? w->two_since : now;
	if (w->split || now - w->two_since < SPLIT)
		return;
	w->split = true;
	say(sm, now,
		strf("split brain: %s have both held addresses of %s for %.1f s", strbuf_cstr(&names), w->service->name,
			(double)(now - w->two_since) / NSEC_PER_SEC));
}

static int poll_all(struct sampler *sm, struct err *err)
{
	nsec_t begun = now_ns();
	int r = 0;

	(void)read_holders(sm, false, NULL);
	for (size_t i = 0; i < sm->n; i++)
		look_for_split(sm, &sm->services[i], now_ns());
	for (size_t i = 0; i < sm->n; i++) {
		struct err e = {0};
		int one = read_service(sm, &sm->services[i], &e);

		if (one < 0 && r == 0) {
			r = one;
			if (err)
				*err = e;
		}
	}
	sm->polls++;
	sm->longest_poll = MAX(sm->longest_poll, now_ns() - begun);
	timeline_watermark(sm->tl, sm->name, begun);
	return r;
}

static void *sampler_main(void *arg)
{
	struct sampler *sm = arg;
	nfds_t n = 0;

	sm->poll[n++] = (struct pollfd){.fd = sm->timer, .events = POLLIN};
	sm->poll[n++] = (struct pollfd){.fd = sm->end, .events = POLLIN};
	for (size_t i = 0; i < sm->n; i++)
		for (size_t d = 0; d < sm->services[i].n_directors; d++)
			if (sm->services[i].directors[d].watch)
				sm->poll[n++] = (struct pollfd){.fd = vip_watch_fd(sm->services[i].directors[d].watch),
					.events = POLLIN};
	pthread_setname_np(pthread_self(), "muster-ipvs");
	for (;;) {
		uint64_t ticks;

		if (poll(sm->poll, n, -1) < 0) {
			if (errno == EINTR)
				continue;
			break;
		}
		if (sm->poll[1].revents)
			break;
		if (!sm->poll[0].revents) { /* an address has moved: at once */
			(void)read_holders(sm, false, NULL);
			continue;
		}
		/*
		 * How many ticks have passed does not matter: a poll that took longer than one is
		 * followed by the next at once.
		 */
		if (read(sm->timer, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN && errno != EINTR)
			break;
		(void)poll_all(sm, NULL);
	}
	(void)poll_all(sm, NULL); /* the state things are left in */
	return NULL;
}

/* ── setting up ───────────────────────────────────────────────────────────────────────────── */

static int socket_for(struct sampler *sm, struct node *director, struct ipvs **ret, struct err *err)
{
	int r;

	for (size_t i = 0; i < sm->n_sockets; i++) {
		if (sm->sockets[i].director == director) {
			*ret = sm->sockets[i].ip;
			return 0;
		}
	}
	r = node_open(director, err);
	if (r < 0)
		return r;
	r = ipvs_open(director, &sm->sockets[sm->n_sockets].ip, err);
	if (r < 0)
		return r;
	sm->sockets[sm->n_sockets].director = director;
	*ret = sm->sockets[sm->n_sockets++].ip;
	return 0;
}

static int watch(struct sampler *sm, const struct service *s, struct err *err)
{
	struct watched_service *w = &sm->services[sm->n];
	int r;

	*w = (struct watched_service){.service = s, .n_vips = s->n_vips};
	sm->n++;
	w->servers = calloc(MAX(s->n_servers, (size_t)1), sizeof(*w->servers));
	if (!w->servers)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t d = 0; d < s->n_directors; d++) {
		r = socket_for(sm, s->directors[d], &w->directors[d].ip, err);
		if (r == 0 && s->n_directors > 1)
			r = vip_watch_open(s->directors[d], s->vips, s->n_vips, &w->directors[d].watch, err);
		if (r < 0)
			return r;
		w->n_directors++;
	}
	for (size_t v = 0; v < s->n_vips; v++) {
		w->vips[v] = (struct ipvs_service){
			.protocol = (uint16_t)s->protocol, .port = s->port};
		if (ipvs_addr_parse(s->vips[v], &w->vips[v].family, w->vips[v].addr) < 0)
			return err_set(err, -EINVAL, "service %s: \"%s\" is no address", s->name,
				s->vips[v]);
	}
	for (size_t i = 0; i < s->n_servers; i++) {
		struct watched_server *srv = &w->servers[i];

		srv->name = s->servers[i].node->name;
		for (size_t v = 0; v < s->n_vips; v++) {
			char buf[64];
			const char *a = site_server_addr(&s->servers[i], w->vips[v].family, buf);

			srv->addr[v].have = a && ipvs_addr_parse(a, &srv->addr[v].key.family,
							 srv->addr[v].key.addr) == 0;
		}
	}
	return 0;
}

static int ipvs_source_applies(const struct source_ctx *ctx, struct err *err)
{
	_cleanup_ipvs_ struct ipvs *ip = NULL;
	int r;

	if (ctx->site->n_services == 0)
		return 0;
	r = node_open(ctx->site->services[0].directors[0], err);
	if (r == 0)
		r = ipvs_open(ctx->site->services[0].directors[0], &ip, err);
	return r < 0 ? r : 1;
}

static int ipvs_source_start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	const struct itimerspec every = {
		.it_interval = {.tv_nsec = POLL_INTERVAL}, .it_value = {.tv_nsec = POLL_INTERVAL}};
	_cleanup_(sampler_freep) struct sampler *sm = calloc(1, sizeof(*sm));
	size_t n = ctx->site->n_services;
	int r;

	if (!sm)
		return err_set(err, -ENOMEM, "out of memory");
	sm->timer = sm->end = -1;
	sm->tl = ctx->tl;
	sm->name = strdup(ctx->name);
	sm->services = calloc(MAX(n, (size_t)1), sizeof(*sm->services));
	sm->sockets = calloc(MAX(n, (size_t)1) * SERVICE_DIRECTORS_MAX, sizeof(*sm->sockets));
	sm->poll = calloc(n * SERVICE_DIRECTORS_MAX + 2, sizeof(*sm->poll));
	if (!sm->name || !sm->services || !sm->sockets || !sm->poll)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		r = watch(sm, &ctx->site->services[i], err);
		if (r < 0)
			return r;
	}
	sm->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	sm->end = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sm->timer < 0 || sm->end < 0 || timerfd_settime(sm->timer, 0, &every, NULL) < 0)
		return err_set(err, -errno, "ipvs: timer: %s", strerror(errno));
	timeline_watermark(sm->tl, sm->name, now_ns());
	r = read_holders(sm, true, err);
	if (r == 0)
		r = poll_all(sm, err);
	if (r == 0) {
		r = source_thread(&sm->thread, sampler_main, sm, err);
		if (r < 0)
			err_prefix(err, "ipvs");
	}
	if (r < 0) {
		timeline_watermark(sm->tl, sm->name, NSEC_INFINITY);
		return r;
	}
	*ret_handle = TAKE_PTR(sm);
	return 0;
}

static void ipvs_source_stop(void *handle, json_t **ret_summary)
{
	_cleanup_(sampler_freep) struct sampler *sm = handle;

	(void)eventfd_write(sm->end, 1); /* a fresh eventfd always takes it */
	pthread_join(sm->thread, NULL);
	timeline_watermark(sm->tl, sm->name, NSEC_INFINITY);
	if (ret_summary)
		*ret_summary = json_pack("{s:I, s:I, s:I, s:I, s:I}", "polls",
			(json_int_t)sm->polls, "failures", (json_int_t)sm->failures,
			"weight_changes", (json_int_t)sm->changes, "interval_ns",
			(json_int_t)POLL_INTERVAL, "longest_poll_ns", (json_int_t)sm->longest_poll);
}

const struct source_ops source_ipvs = {
	.name = "ipvs",
	.summary = "Who schedules; the weights and connection counts there, every 50 ms",
	.kind = SOURCE_SAMPLER,
	.applies = ipvs_source_applies,
	.start = ipvs_source_start,
	.stop = ipvs_source_stop,
};
