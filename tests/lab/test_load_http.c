/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The HTTP load against servers that refuse, reset, hang, stall, lie and answer, over the loopback of a network namespace
 * of this test's own.
 *
 * wrap: epoll_pwait2
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "engine/clock.h"
#include "engine/source.h"
#include "engine/str.h"
#include "load/realtime.h"

#define MS NSEC_PER_MSEC

static const char *no_lab; /* why these tests cannot run; NULL: they can */

static bool need_lab(void)
{
	if (no_lab)
		print_message("skipped: %s\n", no_lab);
	return no_lab == NULL;
}

static bool old_kernel;
int __wrap_epoll_pwait2(int fd, struct epoll_event *e, int n, const struct timespec *ts, const sigset_t *mask);
int __real_epoll_pwait2(int fd, struct epoll_event *e, int n, const struct timespec *ts, const sigset_t *mask);

int __wrap_epoll_pwait2(int fd, struct epoll_event *e, int n, const struct timespec *ts, const sigset_t *mask)
{
	if (old_kernel) {
		errno = ENOSYS;
		return -1;
	}
	return __real_epoll_pwait2(fd, e, n, ts, mask);
}

/* ── a server with manners to choose ───────────────────────────────────────────────────── */

enum manner {
	ANSWER,	       /* and close, if that was asked for */
	ANSWER_CLOSE,  /* keeps silent about closing, and closes */
	ANSWER_500,
	ANSWER_SLOWLY, /* after `delay` */
	ANSWER_HALF,   /* the head and some of the body, then close */
	ANSWER_JUNK,
	ANSWER_TWICE,
	CLOSE,	       /* without a word */
	RESET,
	HANG,
};

#define CLIENTS_MAX 512

struct client {
	int fd;
	nsec_t reply_at; /* 0: no request yet */
	char in[1024];
	size_t len;
};

struct server {
	int fd, family;
	uint16_t port;
	atomic_int manner; /* enum manner */
	_Atomic nsec_t delay, stall_until;
	atomic_bool quit;
	atomic_uint accepted, requests;
	pthread_t thread;
	struct client clients[CLIENTS_MAX];
	size_t n_clients;
	uint16_t ports[65536]; /* of the clients, in order of acceptance */
	char last[1024]; /* the last request, read after server_stop() */
};

static void put(int fd, const char *s)
{
	assert_int_equal(fd_write_all(fd, s, strlen(s)), 0);
}

/* Returns whether the connection goes on. */
static bool reply(struct server *s, struct client *c)
{
	static const struct linger hard = {.l_onoff = 1};
	bool close_asked = strstr(c->in, "Connection: close") != NULL;

	switch (atomic_load(&s->manner)) {
	case ANSWER_TWICE:
		put(c->fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
		return true;
	case ANSWER:
	case ANSWER_SLOWLY:
		if (strncmp(c->in, "HEAD", 4) == 0)
			put(c->fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
		else
			put(c->fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
		return !close_asked;
	case ANSWER_CLOSE:
		/* in one segment, so that the client cannot be faster than the news */
		assert_int_equal(send(c->fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 43, MSG_MORE), 43);
		assert_int_equal(shutdown(c->fd, SHUT_WR), 0);
		return false;
	case ANSWER_500:
		put(c->fd, "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno");
		return !close_asked;
	case ANSWER_HALF:
		put(c->fd, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello");
		return false;
	case ANSWER_JUNK:
		put(c->fd, "+OK ready\r\n");
		return false;
	case RESET:
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		return false;
	case CLOSE:
	case HANG:
	default:
		return false;
	}
}

static void drop_client(struct server *s, size_t i)
{
	close(s->clients[i].fd);
	s->clients[i] = s->clients[--s->n_clients];
}

static void accept_all(struct server *s)
{
	while (s->n_clients < CLIENTS_MAX) {
		struct sockaddr_in6 a = {0};
		socklen_t len = sizeof(a);
		int fd = accept4(s->fd, (struct sockaddr *)&a, &len, SOCK_CLOEXEC);

		if (fd < 0)
			return;
		/* the port stands in the same place in both families */
		s->ports[s->accepted++ % ARRAY_SIZE(s->ports)] = ntohs(a.sin6_port);
		s->clients[s->n_clients++] = (struct client){.fd = fd};
	}
}

/* Returns false when the client is gone. */
static bool read_client(struct server *s, struct client *c)
{
	ssize_t n = recv(c->fd, c->in + c->len, sizeof(c->in) - 1 - c->len, MSG_DONTWAIT);

	if (n <= 0)
		return n < 0 && errno == EAGAIN;
	c->len += (size_t)n;
	c->in[c->len] = '\0';
	if (!strstr(c->in, "\r\n\r\n"))
		return true;
	s->requests++;
	memcpy(s->last, c->in, sizeof(s->last));
	c->reply_at = now_ns() + (s->manner == ANSWER_SLOWLY ? s->delay : 0);
	return true;
}

static void *serve(void *arg)
{
	struct server *s = arg;
	struct pollfd p[CLIENTS_MAX + 1];

	while (!s->quit) {
		nsec_t now = now_ns(), stall = s->stall_until;
		size_t n = s->n_clients;

		if (now < stall) {
			/* stalled: the process is there, and does nothing */
			struct timespec ts = {.tv_sec = stall / NSEC_PER_SEC, .tv_nsec = stall % NSEC_PER_SEC};

			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
			continue;
		}
		p[0] = (struct pollfd){.fd = s->fd, .events = POLLIN};
		for (size_t i = 0; i < n; i++)
			p[i + 1] = (struct pollfd){.fd = s->clients[i].fd, .events = POLLIN};
		poll(p, n + 1, s->manner == ANSWER_SLOWLY ? 1 : 20);
		now = now_ns();
		/* from the end, because dropping moves the last one here */
		for (size_t i = n; i-- > 0;) {
			struct client *c = &s->clients[i];

			if (p[i + 1].revents && !read_client(s, c)) {
				drop_client(s, i);
				continue;
			}
			if (!c->reply_at || now < c->reply_at || s->manner == HANG)
				continue;
			c->reply_at = 0;
			c->len = 0;
			if (!reply(s, c))
				drop_client(s, i);
		}
		if (p[0].revents)
			accept_all(s);
	}
	while (s->n_clients)
		drop_client(s, 0);
	return NULL;
}

static struct server *server_start(int family, enum manner manner)
{
	struct server *s = calloc(1, sizeof(*s));
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr *a = family == AF_INET ? (struct sockaddr *)&a4 : (struct sockaddr *)&a6;
	socklen_t len = family == AF_INET ? sizeof(a4) : sizeof(a6);

	assert_non_null(s);
	s->family = family;
	s->manner = manner;
	s->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(s->fd >= 0);
	assert_int_equal(bind(s->fd, a, len), 0);
	assert_int_equal(listen(s->fd, 1024), 0);
	assert_int_equal(getsockname(s->fd, a, &len), 0);
	s->port = ntohs(family == AF_INET ? a4.sin_port : a6.sin6_port);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	return s;
}

static void server_end(struct server *s)
{
	s->quit = true;
	pthread_join(s->thread, NULL);
	close(s->fd);
}

static void server_freep(struct server **s)
{
	if (*s && !(*s)->quit)
		server_end(*s);
	free(*s);
}
#define _cleanup_server_ _cleanup_(server_freep)

/* ── a load, and what it wrote ─────────────────────────────────────────────────────────── */

struct drill {
	struct timeline *tl;
	struct site *site;
	json_t *args;
	void *handle;
	nsec_t started, stopping, stopped;
	json_t *summary;
	struct tl_load sum;
	uint64_t total;
};

static void drill_freep(struct drill *d)
{
	timeline_free(d->tl);
	site_free(d->site);
	json_decref(d->args);
	json_decref(d->summary);
}
#define _cleanup_drill_ _cleanup_(drill_freep)

static struct site *a_site(void)
{
	_cleanup_json_ json_t *j = json_pack("{s:s, s:[], s:[{s:s, s:[]}]}", "name", "test", "switches", "nodes", "name",
		"client", "links");
	struct site *site = NULL;
	struct err err = {0};

	if (site_from_json(j, &site, &err) < 0)
		fail_msg("%s", err.text);
	return site;
}

static int drill_try(struct drill *d, const char *netns, json_t *args, struct err *err)
{
	struct source_ctx ctx = {.name = "client", .seed = 1};
	struct param_names names;

	d->site = a_site();
	if (netns)
		d->site->nodes[0]->netns = strdup(netns);
	names = site_names(d->site);
	if (!json_object_get(args, "from"))
		json_object_set_new(args, "from", json_string("client"));
	if (param_check(source_find(SOURCE_LOAD, "http")->params, "load.http", args, &names, &d->args, err) < 0)
		fail_msg("%s", err->text);
	json_decref(args);
	assert_int_equal(timeline_new(NULL, &d->tl, NULL), 0);
	ctx.tl = d->tl;
	ctx.site = d->site;
	ctx.args = d->args;
	d->started = now_ns();
	return source_find(SOURCE_LOAD, "http")->start(&ctx, &d->handle, err);
}

static void drill_start(struct drill *d, json_t *args)
{
	struct err err = {0};

	if (drill_try(d, NULL, args, &err) < 0)
		fail_msg("%s", err.text);
}

static uint64_t requests_in(const struct tl_load *b)
{
	uint64_t n = 0;

	for (int i = 0; i < OUTCOME_COUNT; i++)
		n += b->count[i];
	return n;
}

static void drill_stop(struct drill *d)
{
	const struct tl_load *b;
	size_t n;

	d->stopping = now_ns();
	source_find(SOURCE_LOAD, "http")->stop(d->handle, &d->summary);
	d->stopped = now_ns();
	assert_true(json_is_object(d->summary));
	n = timeline_loads(d->tl, &b);
	for (size_t i = 0; i < n; i++) {
		uint64_t ok = 0;

		assert_string_equal(b[i].load, "client");
		assert_int_equal(b[i].t % TIMELINE_BUCKET, 0);
		assert_true(!i || b[i].t > b[i - 1].t);
		for (uint32_t k = 0; k < b[i].latency.n_pairs; k++)
			ok += b[i].latency.count[k];
		assert_int_equal(ok, b[i].count[OUTCOME_OK]);
		assert_int_equal(b[i].first_ok != 0, b[i].count[OUTCOME_OK] != 0);
		assert_true(b[i].first_ok <= b[i].last_ok && b[i].last_ok <= d->stopped);
		assert_true(!b[i].first_ok || b[i].first_ok > b[i].t);
		for (int k = 0; k < OUTCOME_COUNT; k++)
			d->sum.count[k] += b[i].count[k];
		d->sum.bytes += b[i].bytes;
	}
	d->total = requests_in(&d->sum);
	assert_int_equal(json_integer_value(json_object_get(d->summary, "requests")), d->total);
	/* the load has ended: it holds nobody up any more */
	timeline_lock(d->tl);
	assert_true(timeline_complete(d->tl) >= d->stopped);
	timeline_unlock(d->tl);
}

/* Waits until the load's data are complete up to @t; a load that never gets there fails the test. */
static void wait_until(struct drill *d, nsec_t t)
{
	nsec_t deadline = t + 20 * NSEC_PER_SEC;

	while (!timeline_wait(d->tl, t, deadline))
		if (now_ns() >= deadline)
			fail_msg("the watermark did not move");
}

/* Lets it run for @ns, and stops it. */
static void drill_run(struct drill *d, json_t *args, nsec_t ns)
{
	drill_start(d, args);
	wait_until(d, d->started + ns);
	drill_stop(d);
}

static uint64_t counted(const struct drill *d, const char *what, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(json_object_get(d->summary, what), name));
}

static json_t *to(const struct server *s, const char *rate)
{
	_cleanup_free_ char *url =
		strf("http://%s:%u/x", s->family == AF_INET ? "127.0.0.1" : "[::1]", (unsigned int)s->port);

	return json_pack("{s:s, s:s}", "url", url, "rate", rate);
}

static json_t *with(json_t *args, const char *key, json_t *value)
{
	json_object_set_new(args, key, value);
	return args;
}

static bool noted(const struct drill *d, const char *words)
{
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(d->summary, "notes"), i, v)
		if (strstr(json_string_value(v), words))
			return true;
	return false;
}

/* ── the tests ─────────────────────────────────────────────────────────────────────────── */

/* Every request is counted, in its bucket, and has a connection and a port of its own. */
static void steady(struct server *s, struct drill *d)
{
	const struct tl_load *b;
	static bool seen[65536];
	size_t n;

	drill_run(d, to(s, "300/s"), 1200 * MS);
	server_end(s);
	assert_int_equal(d->sum.count[OUTCOME_OK], d->total);
	/* the schedule itself: 30 in each bucket but the last, however late we were */
	n = timeline_loads(d->tl, &b);
	assert_true(n >= 11);
	for (size_t i = 0; i + 1 < n; i++) {
		assert_int_equal(requests_in(&b[i]), 30);
		assert_true(!i || b[i].t == b[i - 1].t + TIMELINE_BUCKET);
	}
	assert_true(b[0].t > d->started && b[0].t <= d->started + 2 * TIMELINE_BUCKET);
	assert_true(b[n - 1].t <= d->stopping);
	assert_int_equal(s->accepted, d->total);
	assert_int_equal(s->requests, d->total);
	assert_int_equal(json_integer_value(json_object_get(d->summary, "connects")), d->total);
	assert_int_equal(d->sum.bytes, d->total * strlen("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
	memset(seen, 0, sizeof(seen));
	for (unsigned int i = 0; i < s->accepted; i++) {
		assert_false(seen[s->ports[i]]);
		seen[s->ports[i]] = true;
	}
	assert_true(json_integer_value(json_object_get(json_object_get(d->summary, "lag"), "max_ns")) > 0);
	assert_true(json_real_value(json_object_get(d->summary, "rate")) > 250);
}

static void steady_v4(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER);
	steady(s, &d);
	assert_non_null(strstr(s->last, "GET /x HTTP/1.1\r\n"));
	assert_non_null(strstr(s->last, "\r\nHost: 127.0.0.1:"));
	assert_non_null(strstr(s->last, "\r\nConnection: close\r\n"));
}

static void steady_v6(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET6, ANSWER);
	steady(s, &d);
	assert_non_null(strstr(s->last, "\r\nHost: [::1]:"));
}

/* The wait without epoll_pwait2, as before Linux 5.11 */
static void steady_old_kernel(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER);
	old_kernel = true;
	steady(s, &d);
	old_kernel = false;
}

static void keep_alive(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};
	json_t *args;

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER);
	args = with(with(to(s, "500/s"), "keep_alive", json_true()), "connections", json_integer(7));
	drill_run(&d, args, 600 * MS);
	server_end(s);
	assert_int_equal(d.sum.count[OUTCOME_OK], d.total);
	assert_true(d.total >= 200);
	assert_int_equal(s->requests, d.total);
	/* all of them are opened, and stay */
	assert_int_equal(s->accepted, 7);
	assert_null(strstr(s->last, "Connection:"));
}

/* A server that closes behind its answer without having said so: the connection is replaced, nobody notices. */
static void keep_alive_idle_close(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};
	json_t *args;

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER_CLOSE);
	args = with(with(to(s, "50/s"), "keep_alive", json_true()), "connections", json_integer(3));
	drill_run(&d, args, 600 * MS);
	server_end(s);
	assert_true(d.total >= 20);
	assert_int_equal(d.sum.count[OUTCOME_OK], d.total);
	assert_int_equal(s->accepted, d.total);
}

/* Bytes behind the response poison a persistent connection: it is given up, not misread. */
static void keep_alive_trailing_bytes(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER_TWICE);
	drill_run(&d, with(to(s, "50/s"), "keep_alive", json_true()), 400 * MS);
	server_end(s);
	assert_int_equal(d.sum.count[OUTCOME_OK], d.total);
	assert_int_equal(s->accepted, d.total);
}

static void head_and_headers(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};
	json_t *args;

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER);
	args = with(with(to(s, "50/s"), "method", json_string("HEAD")), "headers",
		json_pack("{s:s, s:s}", "X-Drill", "a b", "host", "www.example.org"));
	drill_run(&d, args, 300 * MS);
	server_end(s);
	assert_int_equal(d.sum.count[OUTCOME_OK], d.total);
	assert_non_null(strstr(s->last, "HEAD /x HTTP/1.1\r\n"));
	assert_non_null(strstr(s->last, "\r\nX-Drill: a b\r\n"));
	assert_non_null(strstr(s->last, "\r\nhost: www.example.org\r\n"));
	assert_null(strstr(s->last, "127.0.0.1"));
}

struct kind {
	enum manner manner;
	enum outcome outcome;
	const char *reason;
};

/* Each way to fail is counted as what it is. */
static void failures_by_kind(void **state)
{
	static const struct kind kinds[] = {
		{ANSWER_500, OUTCOME_STATUS, "unwanted status"},
		{ANSWER_HALF, OUTCOME_RESET, "closed in the middle of the response"},
		{ANSWER_JUNK, OUTCOME_OTHER, "not an HTTP/1 status line"},
		{CLOSE, OUTCOME_RESET, "closed before the response"},
		{RESET, OUTCOME_RESET, "Connection reset by peer"},
		{HANG, OUTCOME_TIMEOUT, "no complete response in time"},
	};

	(void)state;
	if (!need_lab())
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		_cleanup_server_ struct server *s = server_start(AF_INET, kinds[i].manner);
		_cleanup_drill_ struct drill d = {0};

		drill_run(&d, with(to(s, "100/s"), "timeout", json_string("400ms")), 300 * MS);
		assert_true(d.total >= 10);
		if (d.sum.count[kinds[i].outcome] != d.total || counted(&d, "reasons", kinds[i].reason) != d.total) {
			_cleanup_free_ char *text = json_dumps(d.summary, 0);

			fail_msg("manner %d, want %s \"%s\": %s", (int)kinds[i].manner,
				outcome_names[kinds[i].outcome], kinds[i].reason, text);
		}
		if (kinds[i].outcome == OUTCOME_STATUS)
			assert_int_equal(counted(&d, "statuses", "500"), d.total);
	}
}

static void wanted_status(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER_500);
	drill_run(&d, with(to(s, "100/s"), "status", json_integer(500)), 200 * MS);
	assert_int_equal(d.sum.count[OUTCOME_OK], d.total);
}

static void refused_and_unreachable(void **state)
{
	_cleanup_drill_ struct drill refused = {0}, unreachable = {0};

	(void)state;
	if (!need_lab())
		skip();
	drill_run(&refused, json_pack("{s:s, s:s}", "url", "http://127.0.0.1:9/", "rate", "200/s"), 300 * MS);
	assert_true(refused.total >= 20);
	assert_int_equal(refused.sum.count[OUTCOME_REFUSED], refused.total);
	drill_run(&unreachable, json_pack("{s:s, s:s}", "url", "http://198.18.0.1/", "rate", "200/s"), 300 * MS);
	assert_int_equal(unreachable.sum.count[OUTCOME_OTHER], unreachable.total);
	assert_int_equal(counted(&unreachable, "reasons", "Network is unreachable"), unreachable.total);
}

/* A listener whose queue is full, and which never accepts: the handshake goes unanswered. */
static void not_even_connected(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	_cleanup_close_ int fd = -1, full1 = -1, full2 = -1;
	_cleanup_drill_ struct drill d = {0};
	_cleanup_free_ char *url = NULL;
	json_t *args;

	(void)state;
	if (!need_lab())
		skip();
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(fd, 0), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	full1 = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	full2 = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(connect(full1, (struct sockaddr *)&a, len) < 0 && errno != EINPROGRESS, 0);
	assert_int_equal(connect(full2, (struct sockaddr *)&a, len) < 0 && errno != EINPROGRESS, 0);
	url = strf("http://127.0.0.1:%u/", (unsigned int)ntohs(a.sin_port));
	args = json_pack("{s:s, s:s, s:s}", "url", url, "rate", "100/s", "timeout", "300ms");
	drill_run(&d, args, 300 * MS);
	assert_int_equal(d.sum.count[OUTCOME_TIMEOUT], d.total);
	assert_int_equal(counted(&d, "reasons", "not connected in time"), d.total);
}

/* One connection, and it is stuck: the rest of the schedule is still there, and it is said what was missing. */
static void no_free_connection(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};
	json_t *args;

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, HANG);
	/* a request that waited has only the rest of its time on a connection: so far apart that some have none left */
	args = with(with(to(s, "20000/s"), "timeout", json_string("100ms")), "connections", json_integer(1));
	drill_run(&d, args, 400 * MS);
	server_end(s);
	assert_int_equal(d.sum.count[OUTCOME_TIMEOUT] + d.sum.count[OUTCOME_OTHER], d.total);
	assert_true(d.sum.count[OUTCOME_OTHER] > 0);
	assert_int_equal(counted(&d, "reasons", "no free connection"), d.sum.count[OUTCOME_OTHER]);
	/* 300 to 400 ms of schedule at the least, whatever happened to it */
	assert_true(d.total >= 5000);
	assert_int_equal(json_integer_value(json_object_get(d.summary, "sent")), d.sum.count[OUTCOME_TIMEOUT]);
	/* they were due before the load was stopped: each had its timeout, no more */
	assert_true(d.stopped - d.stopping < 5 * NSEC_PER_SEC);
}

/*
 * A server that stalls for 600 ms. A closed loop would see one slow request per connection; the schedule sees every one
 * that was due meanwhile, each as late as it was.
 */
static void no_coordinated_omission(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};
	const struct tl_load *b;
	const nsec_t stall = 600 * MS;
	nsec_t from, until;
	uint64_t slow = 0, seen = 0;
	size_t n;

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER);
	drill_start(&d, with(with(to(s, "200/s"), "connections", json_integer(4)), "timeout", json_string("10s")));
	wait_until(&d, d.started + 300 * MS);
	from = now_ns();
	until = from + stall;
	s->stall_until = until;
	wait_until(&d, until + 300 * MS);
	drill_stop(&d);
	assert_int_equal(d.sum.count[OUTCOME_OK], d.total);
	n = timeline_loads(d.tl, &b);
	for (size_t i = 0; i < n; i++) {
		uint64_t least = UINT64_MAX;

		if (i + 1 < n)
			assert_int_equal(requests_in(&b[i]), 20);
		/* due wholly inside the stall (the server may still have been busy with its last poll for a moment) */
		if (b[i].t < from + 50 * MS || b[i].t + TIMELINE_BUCKET > until)
			continue;
		if (b[i].latency.n_pairs)
			least = hist_lower(b[i].latency.index[0]);
		/* each waited at least until the stall's end */
		assert_true((double)least >= (double)(until - b[i].t - TIMELINE_BUCKET) * 0.99);
		slow += b[i].count[OUTCOME_OK];
		seen++;
	}
	assert_true(seen >= 4);
	assert_int_equal(slow, seen * 20);
	assert_true(json_integer_value(json_object_get(d.summary, "waited")) >= (json_int_t)(slow - 4));
	assert_true(noted(&d, "waited for one of the 4 connections"));
}

/* 25 s of timeout, nothing comes: abort does not wait for it. What it dropped is no failure, and is not counted as one. */
static void abort_at_once(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, HANG);
	drill_start(&d, with(to(s, "100/s"), "timeout", json_string("25s")));
	while (s->requests < 20 && now_ns() < d.started + 20 * NSEC_PER_SEC)
		sched_yield();
	source_find(SOURCE_LOAD, "http")->abort(d.handle);
	drill_stop(&d);
	assert_true(d.stopped - d.stopping < 5 * NSEC_PER_SEC);
	assert_int_equal(d.total, 0);
	assert_true(json_integer_value(json_object_get(d.summary, "abandoned")) >= 20);
}

/* stop() waits for what is under way, and starts nothing more. */
static void stop_waits(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER_SLOWLY);
	s->delay = 500 * MS;
	drill_start(&d, with(to(s, "100/s"), "timeout", json_string("20s")));
	while (s->requests < 20 && now_ns() < d.started + 20 * NSEC_PER_SEC)
		sched_yield();
	drill_stop(&d);
	server_end(s);
	assert_int_equal(d.sum.count[OUTCOME_OK], d.total);
	assert_true(d.stopped - d.stopping > 300 * MS);
	assert_int_equal(s->requests, d.total);
	assert_int_equal(json_integer_value(json_object_get(d.summary, "abandoned")), 0);
}

static void write_file(const char *path, const char *text)
{
	assert_int_equal(file_write(path, text, strlen(text)), 0);
}

/* A range of 200 ports, some of them not to be touched: each is used in turn, and TIME_WAIT is no obstacle. */
static void ports_in_turn(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER);
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "20000 20199");
	write_file("/proc/sys/net/ipv4/ip_local_reserved_ports", "20003,20010-20012");
	drill_run(&d, to(s, "400/s"), 1000 * MS);
	write_file("/proc/sys/net/ipv4/ip_local_reserved_ports", "");
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999");
	server_end(s);
	if (d.sum.count[OUTCOME_OK] != d.total) {
		_cleanup_free_ char *text = json_dumps(d.summary, 0);

		fail_msg("%s", text);
	}
	assert_true(s->accepted >= 300);
	for (unsigned int i = 0; i < s->accepted; i++) {
		uint16_t p = s->ports[i];

		assert_true(p >= 20000 && p <= 20199 && p != 20003 && (p < 20010 || p > 20012));
		if (i >= 196)
			assert_int_equal(p, s->ports[i - 196]);
	}
	assert_true(noted(&d, "source port was used again"));
}

static void ports_run_out(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, HANG);
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "20000 20009");
	drill_run(&d, with(to(s, "100/s"), "timeout", json_string("400ms")), 300 * MS);
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999");
	assert_true(d.sum.count[OUTCOME_TIMEOUT] >= 10);
	assert_true(counted(&d, "reasons", "no local port left") >= 5);
	assert_int_equal(d.sum.count[OUTCOME_TIMEOUT] + d.sum.count[OUTCOME_OTHER], d.total);
}

/* On a loopback, a socket that takes the port it connects to is connected to itself. */
static void never_to_itself(void **state)
{
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	if (!need_lab())
		skip();
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "20000 20003");
	drill_run(&d, json_pack("{s:s, s:s}", "url", "http://127.0.0.1:20001/", "rate", "200/s"), 300 * MS);
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999");
	assert_int_equal(d.sum.count[OUTCOME_REFUSED], d.total);
}

/* A slow schedule still moves the watermark on, and writes no empty buckets. */
static void slow_schedule(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};
	const struct tl_load *b;
	size_t n;

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER);
	drill_run(&d, to(s, "2/s"), 1300 * MS);
	n = timeline_loads(d.tl, &b);
	assert_true(n >= 2 && n <= 4);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(requests_in(&b[i]), 1);
	assert_int_equal(b[1].t - b[0].t, 500 * MS);
}

/* The node's namespace, not ours: in there nobody listens. And ours is where we still are. */
static void in_its_namespace(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0}, here = {0};
	_cleanup_free_ char *path = NULL;
	struct err err = {0};
	int ready[2], hold[2];
	pid_t pid;
	char c;

	(void)state;
	if (!need_lab())
		skip();
	s = server_start(AF_INET, ANSWER);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(pipe2(hold, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
		int fd;

		close(hold[1]);
		if (unshare(CLONE_NEWNET) < 0 || (fd = socket(AF_INET, SOCK_DGRAM, 0)) < 0 ||
			ioctl(fd, SIOCSIFFLAGS, &lo) < 0 || write(ready[1], "r", 1) != 1)
			_exit(1);
		/* until the parent is done, or gone */
		_exit(read(hold[0], &c, 1) == 0 ? 0 : 1);
	}
	close(ready[1]);
	close(hold[0]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	path = strf("/proc/%d/ns/net", (int)pid);
	if (drill_try(&d, path, to(s, "100/s"), &err) < 0)
		fail_msg("%s", err.text);
	wait_until(&d, d.started + 300 * MS);
	drill_stop(&d);
	drill_run(&here, to(s, "100/s"), 300 * MS);
	close(hold[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(d.total > 0 && here.total > 0);
	assert_int_equal(d.sum.count[OUTCOME_REFUSED], d.total);
	assert_int_equal(here.sum.count[OUTCOME_OK], here.total);
}

/* The scheduling policy of the thread of ours with that name; -ENOENT */
static int policy_of(const char *name)
{
	DIR *d = opendir("/proc/self/task");
	int policy = -ENOENT;
	struct dirent *e;

	while (d && (e = readdir(d))) {
		_cleanup_free_ char *path = strf("/proc/self/task/%s/comm", e->d_name), *comm = NULL;

		if (file_read(path, 64, &comm, NULL) == 0 && strncmp(comm, name, strlen(name)) == 0)
			policy = sched_getscheduler(atoi(e->d_name));
	}
	if (d)
		closedir(d);
	return policy;
}

static void need_real_time(void)
{
	const struct sched_param low = {.sched_priority = 1}, none = {0};

	if (sched_setscheduler(0, SCHED_RR, &low) < 0) {
		print_message("skipped: no real-time priority is to be had here: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(sched_setscheduler(0, SCHED_OTHER, &none), 0);
}

/* Its clock goes before what it measures, and leaves those alone that it starts from. */
static void in_real_time(void **state)
{
	_cleanup_server_ struct server *s = NULL;
	_cleanup_drill_ struct drill d = {0};

	(void)state;
	need_real_time();
	s = server_start(AF_INET, ANSWER);
	drill_start(&d, to(s, "100/s"));
	assert_int_equal(policy_of("load-http"), SCHED_RR | SCHED_RESET_ON_FORK);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	drill_stop(&d);
}

struct career {
	int from, begun, busy, calm; /* policies */
};

/* Of a thread that never waits, and then does */
static void *works_without_a_pause(void *arg)
{
	struct career *c = arg;
	const struct sched_param param = {.sched_priority = c->from == SCHED_FIFO};
	struct realtime r = {0};
	nsec_t until;

	if (sched_setscheduler(0, c->from, &param) < 0)
		return NULL;
	realtime_begin(&r);
	c->begun = sched_getscheduler(0);
	for (until = now_ns() + 30 * REALTIME_LOOK; now_ns() < until && r.on;)
		realtime_look(&r, now_ns());
	c->busy = sched_getscheduler(0);
	for (until = now_ns() + 5 * REALTIME_BACK; now_ns() < until && r.may && !r.on; poll(NULL, 0, 10))
		realtime_look(&r, now_ns());
	c->calm = sched_getscheduler(0);
	return NULL;
}

static void plays(struct career *c)
{
	pthread_t thread;

	c->begun = c->busy = c->calm = -1;
	assert_int_equal(pthread_create(&thread, NULL, works_without_a_pause, c), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static void steps_back_when_it_is_busy(void **state)
{
	static const int from[] = {SCHED_OTHER, SCHED_BATCH};

	(void)state;
	need_real_time();
	for (size_t i = 0; i < ARRAY_SIZE(from); i++) {
		struct career c = {.from = from[i]};

		plays(&c);
		assert_int_equal(c.begun, SCHED_RR | SCHED_RESET_ON_FORK);
		assert_int_equal(c.busy, from[i] | SCHED_RESET_ON_FORK);
		assert_int_equal(c.calm, SCHED_RR | SCHED_RESET_ON_FORK);
	}
}

/* Whoever started it so has his reasons */
static void leaves_real_time_alone(void **state)
{
	struct career c = {.from = SCHED_FIFO};

	(void)state;
	need_real_time();
	plays(&c);
	assert_int_equal(c.begun, SCHED_FIFO);
	assert_int_equal(c.busy, SCHED_FIFO);
	assert_int_equal(c.calm, SCHED_FIFO);
}

static void refuses_to_start(void **state)
{
	static const struct {
		const char *key, *value, *words;
		int error;
	} cases[] = {
		{"headers", "{\"Connection\":\"close\"}", "header Connection", -EINVAL},
		{"headers", "{\"X\":\"a\\r\\nY: b\"}", "is not a header", -EINVAL},
		{"headers", "{\"X Y\":\"a\"}", "is not a header", -EINVAL},
		{"headers", "{\"\":\"a\"}", "is not a header", -EINVAL},
		{"url", "\"http://127.0.0.1/#x\"", "#", -EINVAL},
	};
	struct err err = {0};

	(void)state;
	if (!need_lab())
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_drill_ struct drill d = {0};
		json_t *args = json_pack("{s:s, s:s}", "url", "http://127.0.0.1/", "rate", "10/s");

		json_object_set_new(args, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
		err = (struct err){0};
		assert_int_equal(drill_try(&d, NULL, args, &err), cases[i].error);
		assert_null(d.handle);
		if (!strstr(err.text, cases[i].words) || !strstr(err.text, "load client"))
			fail_msg("\"%s\" does not speak of \"%s\"", err.text, cases[i].words);
	}
	{
		_cleanup_drill_ struct drill d = {0};

		err = (struct err){0};
		assert_int_equal(drill_try(&d, "/run/netns/there-is-none",
					 json_pack("{s:s, s:s}", "url", "http://127.0.0.1/", "rate", "10/s"), &err),
			-ENOENT);
		assert_non_null(strstr(err.text, "/run/netns/there-is-none"));
	}
}

/* The real thing, if it is here. */
static void nginx(void **state)
{
	static const char conf[] = "daemon off; master_process off; worker_processes 1; pid %s/pid; error_log %s/error;\n"
				   "events { worker_connections 512; }\n"
				   "http { access_log off; client_body_temp_path %s/t1; proxy_temp_path %s/t2;\n"
				   "fastcgi_temp_path %s/t3; uwsgi_temp_path %s/t4; scgi_temp_path %s/t5;\n"
				   "server { listen 127.0.0.1:8080; listen [::1]:8080; location = / { return 200 'hello'; }\n"
				   "location = /big { return 200 '%s'; } } }\n";
	char dir[] = "/tmp/muster-test-XXXXXX", big[4001];
	_cleanup_free_ char *path = NULL, *text = NULL;
	_cleanup_drill_ struct drill one = {0}, keep = {0}, missing = {0}, down = {0};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(8080), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	nsec_t deadline;
	bool up = false;
	pid_t pid;

	(void)state;
	if (!need_lab())
		skip();
	if (access("/usr/sbin/nginx", X_OK) < 0) {
		print_message("skipped: nginx is not installed\n");
		skip();
	}
	assert_non_null(mkdtemp(dir));
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	path = strf("%s/conf", dir);
	text = strf(conf, dir, dir, dir, dir, dir, dir, dir, big);
	write_file(path, text);
	pid = fork();
	if (pid == 0) {
		execl("/usr/sbin/nginx", "nginx", "-c", path, "-p", dir, (char *)NULL);
		_exit(127);
	}
	for (deadline = now_ns() + 20 * NSEC_PER_SEC; !up && now_ns() < deadline; sched_yield()) {
		_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		up = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
	}
	if (up) {
		drill_run(&one, json_pack("{s:s, s:s}", "url", "http://[::1]:8080/", "rate", "300/s"), 700 * MS);
		drill_run(&keep, json_pack("{s:s, s:s, s:b, s:i}", "url", "http://127.0.0.1:8080/big", "rate", "2000/s",
					 "keep_alive", 1, "connections", 8), 700 * MS);
		drill_run(&missing, json_pack("{s:s, s:s}", "url", "http://127.0.0.1:8080/none", "rate", "100/s"), 300 * MS);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	drill_run(&down, json_pack("{s:s, s:s}", "url", "http://127.0.0.1:8080/", "rate", "100/s"), 300 * MS);
	{
		_cleanup_free_ char *command = strf("rm -r %s", dir);

		assert_int_equal(system(command), 0);
	}
	assert_true(up);
	assert_int_equal(one.sum.count[OUTCOME_OK], one.total);
	assert_true(one.total >= 150);
	/* nginx ends a connection after 1000 requests and says so: that is no error */
	assert_int_equal(keep.sum.count[OUTCOME_OK], keep.total);
	assert_true(keep.sum.bytes > keep.total * 4000);
	assert_int_equal(missing.sum.count[OUTCOME_STATUS], missing.total);
	assert_int_equal(counted(&missing, "statuses", "404"), missing.total);
	assert_int_equal(down.sum.count[OUTCOME_REFUSED], down.total);
}

int main(int argc, char **argv)
{
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	_cleanup_close_ int fd = -1;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steady_v4),
		cmocka_unit_test(steady_v6),
		cmocka_unit_test(steady_old_kernel),
		cmocka_unit_test(keep_alive),
		cmocka_unit_test(keep_alive_idle_close),
		cmocka_unit_test(keep_alive_trailing_bytes),
		cmocka_unit_test(head_and_headers),
		cmocka_unit_test(failures_by_kind),
		cmocka_unit_test(wanted_status),
		cmocka_unit_test(refused_and_unreachable),
		cmocka_unit_test(not_even_connected),
		cmocka_unit_test(no_free_connection),
		cmocka_unit_test(no_coordinated_omission),
		cmocka_unit_test(abort_at_once),
		cmocka_unit_test(stop_waits),
		cmocka_unit_test(ports_in_turn),
		cmocka_unit_test(ports_run_out),
		cmocka_unit_test(never_to_itself),
		cmocka_unit_test(slow_schedule),
		cmocka_unit_test(in_its_namespace),
		cmocka_unit_test(in_real_time),
		cmocka_unit_test(steps_back_when_it_is_busy),
		cmocka_unit_test(leaves_real_time_alone),
		cmocka_unit_test(refuses_to_start),
		cmocka_unit_test(nginx),
	};

	if (unshare(CLONE_NEWNET) < 0)
		no_lab = "a network namespace of its own needs root";
	else if ((fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
		no_lab = "the loopback of a new network namespace cannot be brought up";
	/* one of them: give its name */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
