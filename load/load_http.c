/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * load_http.c: an open-loop HTTP/1.1 load.
 *
 * The schedule. Request i is due at start + i / rate, and nothing that the service does can move that: the schedule never waits
 * for a response. Latency counts from the due time. When all connections are busy, a request waits for one and its clock
 * runs, so a service that stops for a second shows a second of slow requests, not one slow request and a pause.
 *
 *	           due                    a connection is free                complete, failed, or timeout after due
 *	schedule ───────> waiting (no memory: only an index) ───────> under way ───────> ended: counted in the bucket of its due time
 *	                     └─ timeout after due, never sent: OTHER, "no free connection"
 *
 * A request that found no connection within the timeout is OTHER and not TIMEOUT: the service was never asked, and the report
 * should say that `connections` is what ran out. In the error ratio both count alike. Requests that were due before the load was
 * told to stop are still served or timed out; abort() drops them, and they are counted as abandoned only.
 *
 * A connection of its own for each request (keep_alive = false) is the default, because that is what a director schedules.
 * With keep_alive = true there are `connections` persistent ones, each request taking the one that has been idle longest, so that
 * they all stay in use. A persistent connection that the server closes while it is idle is replaced in silence; one that breaks
 * under a request is an error (RESET), and is not tried again.
 *
 * Source ports. The kernel's choice of a port for connect() may return to the same one within seconds. A director keeps a
 * closed connection for a while (IPVS in DR mode: two minutes in FIN_WAIT, because it sees only one side), and sends a SYN
 * with the same addresses and ports to the real server that had it before, dead or not, without scheduling or counting
 * it (tried on Linux 6.1: six connections from one port reach one server, and IPVS counts one). So ports are bound here, in turn, through the whole of ip_local_port_range (less ip_local_reserved_ports) before any
 * is used again; SO_REUSEADDR makes a port in TIME_WAIT no obstacle. How long one turn takes is in the summary. The port we
 * connect to is left out: on the same address that would connect a socket to itself.
 *
 * One thread does it all, in the client node's network namespace. Under emulation each system call is dear, so there are few:
 * socket, setsockopt, bind, connect, send, epoll_ctl, recv, close for a request with its own connection, send and recv on a
 * persistent one; and one wait that serves both as timer and as event queue. The request is sent right behind
 * connect(), without waiting for writability: across local links the handshake is over by then, elsewhere it fails with EAGAIN
 * and is tried again when the socket is writable. Without TCP_QUICKACK the handshake's last ACK travels with the request, which is
 * one packet less through the director for each connection. TCP_NODELAY matters on persistent connections only: the first segment
 * of a connection is never held back. The client closes first, without lingering: the response is complete and read, so
 * no RST is sent, and the socket passes into TIME_WAIT here.
 *
 * Honesty about ourselves. For each request that found a free connection, the time from due to sending is the schedule lag:
 * it is our own lateness, it is part of the latency, and it is in the summary. LAG_TOLERABLE is where the summary says so in words.
 * There is little of it, because the thread runs in real time (load/realtime.h).
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"
#include "load/buckets.h"
#include "load/http.h"
#include "load/realtime.h"

#define EVENTS_MAX	256
#define BUFFER_SIZE	(64u << 10)
#define READS_MAX	8   /* of one connection in a row: a long body shall not delay the schedule */
#define STARTS_MAX	256 /* requests started in a row, before responses are looked at */
#define PORT_TRIES	256
#define CONNECT_TRIES	16
#define REASONS_MAX	32
#define STATUSES_MAX	16
#define REQUEST_MAX	(16u << 10)
#define LAG_TOLERABLE	(10 * NSEC_PER_MSEC)
#define FIN_WAIT_IPVS	120 /* s: how long IPVS remembers a connection that the client closed */
#define DESCRIPTORS_OWN 256 /* what the rest of the process may need */

enum conn_state { CONN_FREE, CONN_SENDING, CONN_READING, CONN_IDLE };

struct conn {
	struct conn *prev, *next; /* in `under_way` (by due time), `idle` (longest first) or, by next alone, `free` */
	int fd;
	enum conn_state state;
	bool watch_out; /* EPOLLOUT is in the interest set */
	nsec_t due;
	size_t sent;
	uint32_t held; /* keep_alive: its number, once it has carried a response and is kept; 0: not yet */
	struct http_response rsp;
};

struct reason {
	const char *text; /* static */
	uint64_t n;
};

struct load {
	/* fixed before the thread starts */
	struct timeline *tl;
	struct node *node; /* borrowed from the site */
	char *name, *url_text, *request;
	size_t request_len;
	struct http_url url;
	double rate;
	nsec_t timeout;
	size_t connections;
	bool keep_alive, head;
	int status;

	/* between the threads */
	pthread_t thread;
	atomic_int wanted; /* enum wanted */
	int wake_fd;
	pthread_mutex_t lock;
	pthread_cond_t started;
	int start_result; /* 1: not yet */
	struct err start_err;

	/* the thread's own */
	int epoll_fd;
	bool no_pwait2;
	nsec_t start, stop_at, ended_at;
	uint64_t next, last; /* index of the next request to be started, and of the first that is not wanted any more */
	struct conn *conns, *free;
	struct conn under_way, idle; /* list heads */
	size_t n_under_way;
	nsec_t last_full; /* when there was last no connection to be had */
	uint32_t n_held;

	struct buckets buckets;
	struct realtime realtime;

	uint32_t port_lo, port_hi, port_next;
	uint8_t reserved[65536 / 8];

	uint64_t sent, queued, abandoned, connects, bytes, count[OUTCOME_COUNT];
	nsec_t first_due;
	struct hist lag, latency;
	struct reason reasons[REASONS_MAX];
	struct {
		int status;
		uint64_t n;
	} statuses[STATUSES_MAX];
	char buffer[BUFFER_SIZE];
};

enum wanted { RUN, STOP, ABORT };

/* ── lists ─────────────────────────────────────────────────────────────────────────────── */

static void list_init(struct conn *head)
{
	head->prev = head->next = head;
}

static bool list_empty(const struct conn *head)
{
	return head->next == head;
}

static void list_append(struct conn *head, struct conn *c)
{
	c->prev = head->prev;
	c->next = head;
	head->prev->next = c;
	head->prev = c;
}

static void list_remove(struct conn *c)
{
	c->prev->next = c->next;
	c->next->prev = c->prev;
}

/* ── counting ──────────────────────────────────────────────────────────────────────────── */

static nsec_t due_at(const struct load *l, uint64_t i)
{
	return l->start + (nsec_t)((double)i * (double)NSEC_PER_SEC / l->rate);
}

/* No request due before this is still to end, and none will be added: before it all is complete. */
static nsec_t complete_until(const struct load *l, nsec_t now)
{
	nsec_t t = now;

	if (!list_empty(&l->under_way))
		t = MIN(t, l->under_way.next->due);
	if (l->next < l->last)
		t = MIN(t, due_at(l, l->next));
	return t;
}

static void add_reason(struct load *l, const char *text)
{
	for (size_t i = 0; i < REASONS_MAX; i++) {
		struct reason *r = &l->reasons[i];

		/* the last place is for all that found none */
		if (!r->text)
			r->text = i < REASONS_MAX - 1 ? text : "others";
		if (r->text == text || i == REASONS_MAX - 1) {
			r->n++;
			return;
		}
	}
}

static void add_status(struct load *l, int status)
{
	for (size_t i = 0; i < STATUSES_MAX; i++) {
		if (!l->statuses[i].n)
			l->statuses[i].status = i < STATUSES_MAX - 1 ? status : 0;
		if (l->statuses[i].status == status || i == STATUSES_MAX - 1) {
			l->statuses[i].n++;
			return;
		}
	}
}

/* A request has ended. @why: for failures, static. */
static void count_request(struct load *l, nsec_t due, nsec_t now, enum outcome outcome, uint64_t bytes, const char *why)
{
	/*
	 * Only after a long stall of this thread, while it counts what ran out of time meanwhile: what lies a ring's length behind is
	 * complete, and has to be written to make room. Requests under way are never further back than the timeout.
	 */
	if (!buckets_room(&l->buckets, due))
		buckets_write_until(&l->buckets, complete_until(l, due));
	buckets_count(&l->buckets, due, now, outcome, bytes);
	l->count[outcome]++;
	l->bytes += bytes;
	if (why)
		add_reason(l, why);
	if (outcome == OUTCOME_OK)
		hist_add(&l->latency, (uint64_t)(now - due));
}

/* ── connections ───────────────────────────────────────────────────────────────────────── */

static bool connection_free(const struct load *l)
{
	return l->free || !list_empty(&l->idle);
}

/* Persistent connections are told of one by one, so that it can be asked which of them a failover has cost. */
static void say_held(struct load *l, const struct conn *c, const char *state)
{
	timeline_event(l->tl, now_ns(), EV_HELD,
		json_pack("{s:s, s:I, s:s}", "load", l->name, "connection", (json_int_t)c->held, "state", state));
}

/* @state: how a persistent one has ended: "broken" under a request, "closed" by the server while it was idle */
static void drop(struct load *l, struct conn *c, const char *state)
{
	if (c->fd >= 0)
		close(c->fd);
	if (c->held)
		say_held(l, c, state);
	c->held = 0;
	c->fd = -1;
	c->state = CONN_FREE;
	c->next = l->free;
	l->free = c;
}

/* The request of @c has ended; the connection is kept when @keep. */
static void end_request(struct load *l, struct conn *c, nsec_t now, enum outcome outcome, const char *why, bool keep)
{
	if (!connection_free(l))
		l->last_full = now;
	count_request(l, c->due, now, outcome, c->rsp.bytes, why);
	list_remove(c);
	l->n_under_way--;
	if (!keep) {
		/* a response that ends the connection is the server's right */
		drop(l, c, outcome == OUTCOME_OK ? "closed" : "broken");
		return;
	}
	if (!c->held) {
		c->held = ++l->n_held;
		say_held(l, c, "open");
	}
	c->state = CONN_IDLE;
	list_append(&l->idle, c);
}

static enum outcome outcome_of(int error)
{
	switch (error) {
	case ECONNREFUSED:
		return OUTCOME_REFUSED;
	case ECONNRESET:
	case ECONNABORTED:
	case EPIPE:
		return OUTCOME_RESET;
	case ETIMEDOUT:
		return OUTCOME_TIMEOUT;
	default:
		return OUTCOME_OTHER;
	}
}

static const char *reason_of(int error)
{
	const char *s = strerrordesc_np(error);

	return s ? s : "unknown error";
}

static void fail(struct load *l, struct conn *c, int error)
{
	end_request(l, c, now_ns(), outcome_of(error), reason_of(error), false);
}

static bool port_usable(const struct load *l, uint32_t port)
{
	const struct sockaddr_in *a4 = (const struct sockaddr_in *)&l->url.addr;
	const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)&l->url.addr;
	uint16_t to = ntohs(l->url.addr.ss_family == AF_INET ? a4->sin_port : a6->sin6_port);

	return port != to && !(l->reserved[port / 8] & 1 << port % 8);
}

/* Binds to the next port in turn that can be had. */
static int bind_next(struct load *l, int fd)
{
	struct sockaddr_storage any = {.ss_family = l->url.addr.ss_family};
	struct sockaddr_in *a4 = (struct sockaddr_in *)&any;
	struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)&any;

	for (int i = 0; i < PORT_TRIES; i++) {
		uint32_t port = l->port_next;

		l->port_next = port < l->port_hi ? port + 1 : l->port_lo;
		if (!port_usable(l, port))
			continue;
		if (any.ss_family == AF_INET)
			a4->sin_port = htons((uint16_t)port);
		else
			a6->sin6_port = htons((uint16_t)port);
		if (bind(fd, (const struct sockaddr *)&any, l->url.addr_len) == 0)
			return 0;
		if (errno != EADDRINUSE && errno != EACCES)
			return -errno;
	}
	return -EADDRNOTAVAIL;
}

/* A connection, or the beginning of one. Returns the descriptor or -errno. */
static int open_connection(struct load *l)
{
	static const int one = 1, zero = 0;

	for (int i = 0; i < CONNECT_TRIES; i++) {
		_cleanup_close_ int fd =
			socket(l->url.addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
		int r;

		if (fd < 0)
			return -errno;
		if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
			return -errno;
		if (l->keep_alive && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
			return -errno;
		/* no harm where it is not heeded */
		(void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &zero, sizeof(zero));
		r = bind_next(l, fd);
		if (r < 0)
			return r;
		if (connect(fd, (const struct sockaddr *)&l->url.addr, l->url.addr_len) == 0 || errno == EINPROGRESS)
			return TAKE_FD(fd);
		/* this port already leads to that address, from another load, say */
		if (errno != EADDRNOTAVAIL && errno != EADDRINUSE)
			return -errno;
	}
	return -EADDRNOTAVAIL;
}

static int watch(struct load *l, struct conn *c, int op, bool out)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0u), .data.ptr = c};

	if (epoll_ctl(l->epoll_fd, op, c->fd, &e) < 0)
		return -errno;
	c->watch_out = out;
	return 0;
}

/* Sends as much of the request as goes. 0: all of it, or -EAGAIN, or another -errno. */
static int send_request(struct load *l, struct conn *c)
{
	while (c->sent < l->request_len) {
		ssize_t n = send(c->fd, l->request + c->sent, l->request_len - c->sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		c->sent += (size_t)n;
	}
	return 0;
}

/* Begins the request that was due at @due on a connection that must be there. */
static void start_request(struct load *l, nsec_t due)
{
	struct conn *c;
	bool fresh = l->free != NULL;
	int r = 0;

	if (fresh) {
		c = l->free;
		l->free = c->next;
	} else {
		c = l->idle.next;
		list_remove(c);
	}
	c->due = due;
	c->sent = 0;
	c->state = CONN_SENDING;
	http_response_start(&c->rsp, l->head);
	list_append(&l->under_way, c);
	l->n_under_way++;
	l->sent++;

	if (fresh) {
		l->connects++;
		r = open_connection(l);
		if (r < 0) {
			if (r == -EADDRNOTAVAIL)
				end_request(l, c, now_ns(), OUTCOME_OTHER, "no local port left", false);
			else
				fail(l, c, -r);
			return;
		}
		c->fd = r;
	}
	r = send_request(l, c);
	if (r < 0 && r != -EAGAIN) {
		fail(l, c, -r);
		return;
	}
	if (r == 0)
		c->state = CONN_READING;
	if (fresh)
		r = watch(l, c, EPOLL_CTL_ADD, r != 0);
	else
		r = r ? watch(l, c, EPOLL_CTL_MOD, true) : 0;
	if (r < 0)
		fail(l, c, -r);
}

static void response_complete(struct load *l, struct conn *c, bool reusable)
{
	nsec_t now = now_ns();
	bool keep = reusable && l->keep_alive && c->rsp.keep_alive && c->state == CONN_READING;

	if (now - c->due > l->timeout) {
		/* seen before the timer was, and too late all the same */
		end_request(l, c, now, OUTCOME_TIMEOUT, "no complete response in time", keep);
	} else if (c->rsp.status != l->status) {
		add_status(l, c->rsp.status);
		end_request(l, c, now, OUTCOME_STATUS, "unwanted status", keep);
	} else {
		end_request(l, c, now, OUTCOME_OK, NULL, keep);
	}
}

/* @hup: the server has said that it will send no more. */
static void read_response(struct load *l, struct conn *c, bool hup)
{
	for (int i = 0; i < READS_MAX; i++) {
		ssize_t n = recv(c->fd, l->buffer, sizeof(l->buffer), 0), used;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			fail(l, c, errno);
			return;
		}
		if (n == 0) {
			if (http_response_end(&c->rsp) == 0)
				response_complete(l, c, false);
			else
				end_request(l, c, now_ns(), OUTCOME_RESET,
					c->rsp.bytes ? "closed in the middle of the response" :
						       "closed before the response",
					false);
			return;
		}
		used = http_response_feed(&c->rsp, l->buffer, (size_t)n);
		if (used < 0) {
			end_request(l, c, now_ns(), OUTCOME_OTHER, c->rsp.why, false);
			return;
		}
		if (c->rsp.complete) {
			/* bytes that nobody asked for: whatever they are, the next response would begin with them */
			response_complete(l, c, used == n && !hup);
			return;
		}
		if ((size_t)n < sizeof(l->buffer))
			return; /* that was all there is; the wait is level-triggered, so nothing can be missed */
	}
}

static void on_event(struct load *l, struct conn *c, uint32_t events)
{
	if (c->state == CONN_IDLE) {
		/* closed by the server, or it speaks without being asked: either way of no use any more */
		bool was_full = !connection_free(l);

		list_remove(c);
		drop(l, c, "closed");
		if (was_full)
			l->last_full = now_ns();
		return;
	}
	if (c->state == CONN_SENDING) {
		int r = send_request(l, c);

		/* a response, or its absence, may have come before all was sent: what can be read says more than EPIPE */
		if (r < 0 && r != -EAGAIN && !(r == -EPIPE && events & EPOLLIN)) {
			fail(l, c, -r);
			return;
		}
		if (r == 0) {
			c->state = CONN_READING;
			if (c->watch_out && (r = watch(l, c, EPOLL_CTL_MOD, false)) < 0) {
				fail(l, c, -r);
				return;
			}
		}
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		read_response(l, c, events & (EPOLLRDHUP | EPOLLHUP));
}

/* ── the schedule ──────────────────────────────────────────────────────────────────────── */

static void time_out(struct load *l, nsec_t now)
{
	while (!list_empty(&l->under_way) && now - l->under_way.next->due >= l->timeout)
		end_request(l, l->under_way.next, now, OUTCOME_TIMEOUT,
			l->under_way.next->sent ? "no complete response in time" : "not connected in time", false);
}

/* Starts what is due. Returns whether some of it was left for the next round. */
static bool start_due(struct load *l, nsec_t now)
{
	for (int i = 0; i < STARTS_MAX; i++) {
		nsec_t due = due_at(l, l->next);
		bool waited;

		if (l->next >= l->last || due > now)
			return false;
		waited = due <= l->last_full || !connection_free(l);
		if (now - due >= l->timeout) {
			if (!waited)
				hist_add(&l->lag, (uint64_t)(now - due));
			l->next++;
			count_request(l, due, now, OUTCOME_OTHER, 0,
				waited ? "no free connection" : "not sent in time by the load generator itself");
			continue;
		}
		if (!connection_free(l))
			return false;
		if (waited)
			l->queued++;
		else
			hist_add(&l->lag, (uint64_t)(now - due));
		l->next++;
		start_request(l, due);
		now = now_ns();
	}
	return true;
}

static nsec_t next_wake(const struct load *l, nsec_t now)
{
	/* the watermark moves on with each bucket, whether or not anything was due */
	nsec_t wake = (now / TIMELINE_BUCKET + 1) * TIMELINE_BUCKET;

	if (!list_empty(&l->under_way))
		wake = MIN(wake, l->under_way.next->due + l->timeout);
	if (l->next < l->last)
		wake = MIN(wake, due_at(l, l->next) + (connection_free(l) ? 0 : l->timeout));
	return wake;
}

/* epoll with a timeout in nanoseconds: epoll_pwait2 is Linux 5.11; before that poll waits for the epoll descriptor. */
static int wait_events(struct load *l, struct epoll_event *events, nsec_t timeout)
{
	struct timespec ts = {.tv_sec = timeout / NSEC_PER_SEC, .tv_nsec = timeout % NSEC_PER_SEC};

	if (!l->no_pwait2) {
		int n = epoll_pwait2(l->epoll_fd, events, EVENTS_MAX, &ts, NULL);

		if (n >= 0 || errno != ENOSYS)
			return n < 0 && errno != EINTR ? -errno : MAX(n, 0);
		l->no_pwait2 = true;
	}
	{
		struct pollfd p = {.fd = l->epoll_fd, .events = POLLIN};
		int n;

		if (ppoll(&p, 1, &ts, NULL) <= 0)
			return 0;
		n = epoll_wait(l->epoll_fd, events, EVENTS_MAX, 0);
		return n < 0 && errno != EINTR ? -errno : MAX(n, 0);
	}
}

static void drive(struct load *l)
{
	struct epoll_event events[EVENTS_MAX];
	bool stopping = false;

	for (;;) {
		nsec_t now = now_ns();
		bool more;
		int n;

		switch (atomic_load(&l->wanted)) {
		case ABORT:
			l->ended_at = now;
			return;
		case STOP:
			if (stopping)
				break;
			stopping = true;
			l->stop_at = now;
			l->last = l->next;
			while (due_at(l, l->last) <= now)
				l->last++;
			break;
		default:
			break;
		}
		time_out(l, now);
		more = start_due(l, now);
		now = now_ns();
		buckets_write_until(&l->buckets, complete_until(l, now));
		realtime_look(&l->realtime, now);
		if (stopping && l->next >= l->last && list_empty(&l->under_way)) {
			l->ended_at = now;
			return;
		}
		n = wait_events(l, events, more ? 0 : MAX(next_wake(l, now) - now, (nsec_t)0));
		if (n < 0) {
			/* cannot happen with a valid descriptor; without events the load is deaf, so it ends */
			add_reason(l, reason_of(-n));
			l->ended_at = now_ns();
			return;
		}
		for (int i = 0; i < n; i++) {
			uint64_t woken;

			if (events[i].data.ptr)
				on_event(l, events[i].data.ptr, events[i].events);
			else if (read(l->wake_fd, &woken, sizeof(woken)) < 0 && errno != EAGAIN)
				add_reason(l, reason_of(errno));
		}
	}
}

/* ── start and stop ────────────────────────────────────────────────────────────────────── */

static void reserve_ports(struct load *l, const char *list)
{
	unsigned int from, to;
	int used;

	while (sscanf(list, "%u%n", &from, &used) == 1) {
		list += used;
		to = from;
		if (*list == '-' && sscanf(list, "-%u%n", &to, &used) == 1)
			list += used;
		for (unsigned int p = from; p <= to && p <= 65535; p++)
			l->reserved[p / 8] |= (uint8_t)(1 << p % 8);
		if (*list != ',')
			break;
		list++;
	}
}

/* In the client's namespace: both files are per namespace. */
static int read_ports(struct load *l, struct err *err)
{
	static const char range[] = "/proc/sys/net/ipv4/ip_local_port_range";
	_cleanup_free_ char *text = NULL, *list = NULL;
	unsigned int lo, hi, n = 0;
	int r = file_read(range, 4096, &text, NULL);

	if (r < 0)
		return err_set(err, r, "load %s: read %s: %s", l->name, range, strerror(-r));
	if (sscanf(text, "%u %u", &lo, &hi) != 2 || lo < 1 || lo > hi || hi > 65535)
		return err_set(err, -EINVAL, "load %s: %s is not a range of ports", l->name, range);
	/* absent or unreadable: nothing is reserved */
	if (file_read("/proc/sys/net/ipv4/ip_local_reserved_ports", 1 << 20, &list, NULL) == 0)
		reserve_ports(l, list);
	for (unsigned int p = lo; p <= hi; p++)
		n += port_usable(l, p);
	if (!n)
		return err_set(err, -EADDRNOTAVAIL, "load %s: every port of %s is reserved", l->name, range);
	l->port_lo = lo;
	l->port_hi = hi;
	/* a load that follows another shall go on where that one was, not begin with the ports it used last */
	l->port_next = lo + (uint32_t)((uint64_t)((double)now_ns() / NSEC_PER_SEC * l->rate) % (hi - lo + 1));
	return 0;
}

static int prepare(struct load *l, struct err *err)
{
	struct epoll_event e = {.events = EPOLLIN};
	int r = read_ports(l, err);

	if (r < 0)
		return r;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0 || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->wake_fd, &e) < 0)
		return err_set(err, -errno, "load %s: epoll: %s", l->name, strerror(errno));
	return 0;
}

static void *thread_main(void *arg)
{
	struct load *l = arg;
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	struct err err = {0};
	int r = node_enter(l->node, &v, &err);

	if (r == 0)
		r = prepare(l, &err);
	if (r == 0) {
		pthread_setname_np(pthread_self(), "load-http");
		realtime_begin(&l->realtime);
		/* the first bucket shall be a whole one */
		l->start = (now_ns() / TIMELINE_BUCKET + 1) * TIMELINE_BUCKET;
		l->last = UINT64_MAX;
		buckets_start(&l->buckets, l->start);
	}
	pthread_mutex_lock(&l->lock);
	l->start_result = r;
	l->start_err = err;
	pthread_cond_signal(&l->started);
	pthread_mutex_unlock(&l->lock);
	if (r < 0)
		return NULL;

	drive(l);
	l->abandoned = l->n_under_way;
	for (size_t i = 0; i < l->connections; i++)
		if (l->conns[i].fd >= 0)
			close(l->conns[i].fd);
	buckets_end(&l->buckets);
	return NULL;
}

static void load_free(struct load *l)
{
	if (!l)
		return;
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	buckets_free(&l->buckets);
	free(l->conns);
	free(l->name);
	free(l->url_text);
	free(l->url.path);
	free(l->request);
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->started);
	free(l);
}

static void load_freep(struct load **l)
{
	load_free(*l);
}

static bool header_ok(const char *name, const char *value)
{
	if (!*name)
		return false;
	for (; *name; name++)
		if (!((*name >= '0' && *name <= '9') || ((*name | 0x20) >= 'a' && (*name | 0x20) <= 'z') ||
			    strchr("!#$%&'*+-.^_`|~", *name)))
			return false;
	for (; *value; value++)
		if (((unsigned char)*value < 0x20 && *value != '\t') || *value == 0x7f)
			return false;
	return true;
}

static int make_request(struct load *l, const char *method, const json_t *headers, struct err *err)
{
	static const char *const own[] = {"connection", "content-length", "transfer-encoding", "upgrade", "expect", "te"};
	_cleanup_strbuf_ struct strbuf b = {0};
	bool host = false, agent = false;
	const char *name;
	const json_t *v;

	strbuf_addf(&b, "%s %s HTTP/1.1\r\n", method, l->url.path);
	json_object_foreach((json_t *)headers, name, v) {
		const char *value = json_string_value(v);

		if (!value || !header_ok(name, value))
			return err_set(err, -EINVAL, "load %s: header \"%.64s\" is not a header", l->name, name);
		for (size_t i = 0; i < ARRAY_SIZE(own); i++)
			if (strcasecmp(name, own[i]) == 0)
				return err_set(err, -EINVAL, "load %s: header %s is the load's own business", l->name,
					name);
		host |= strcasecmp(name, "host") == 0;
		agent |= strcasecmp(name, "user-agent") == 0;
		strbuf_addf(&b, "%s: %s\r\n", name, value);
	}
	if (!host)
		strbuf_addf(&b, "Host: %s\r\n", l->url.host);
	if (!agent)
		strbuf_puts(&b, "User-Agent: muster\r\n");
	strbuf_puts(&b, l->keep_alive ? "\r\n" : "Connection: close\r\n\r\n");
	if (b.oom)
		return -ENOMEM;
	if (b.len > REQUEST_MAX)
		return err_set(err, -E2BIG, "load %s: the request is longer than %u bytes", l->name, REQUEST_MAX);
	l->request_len = b.len;
	l->request = TAKE_PTR(b.s);
	return 0;
}

static int make_room(struct load *l, struct err *err)
{
	rlim_t need = l->connections + DESCRIPTORS_OWN;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < need) {
		if (limit.rlim_max < need) {
			err_set(err, -EMFILE, "load %s: %zu connections need %llu descriptors, and the limit is %llu", l->name,
				l->connections, (unsigned long long)need, (unsigned long long)limit.rlim_max);
			return err_hint(err, "ulimit -Hn %llu, or fewer connections", (unsigned long long)need);
		}
		limit.rlim_cur = need;
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			return err_set(err, -errno, "load %s: raise the descriptor limit: %s", l->name, strerror(errno));
	}
	l->conns = calloc(l->connections, sizeof(*l->conns));
	if (!l->conns || buckets_init(&l->buckets, l->tl, l->name, l->timeout) < 0)
		return err_set(err, -ENOMEM, "load %s: out of memory", l->name);
	list_init(&l->under_way);
	list_init(&l->idle);
	for (size_t i = l->connections; i-- > 0;) {
		l->conns[i].fd = -1;
		l->conns[i].next = l->free;
		l->free = &l->conns[i];
	}
	return 0;
}

static int run_thread(struct load *l, struct err *err)
{
	int r = source_thread(&l->thread, thread_main, l, err);

	if (r < 0)
		return err_prefix(err, "load %s", l->name);
	pthread_mutex_lock(&l->lock);
	while (l->start_result == 1)
		pthread_cond_wait(&l->started, &l->lock);
	r = l->start_result;
	pthread_mutex_unlock(&l->lock);
	if (r < 0) {
		pthread_join(l->thread, NULL);
		if (err)
			*err = l->start_err;
	}
	return r;
}

static int http_start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	_cleanup_(load_freep) struct load *l = calloc(1, sizeof(*l));
	const char *from = json_string_value(json_object_get(ctx->args, "from"));
	const char *url = json_string_value(json_object_get(ctx->args, "url"));
	const char *method = json_string_value(json_object_get(ctx->args, "method"));
	int r;

	if (!l)
		return err_set(err, -ENOMEM, "load %s: out of memory", ctx->name);
	l->epoll_fd = l->wake_fd = -1;
	l->start_result = 1;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->started, NULL);
	l->tl = ctx->tl;
	l->rate = json_number_value(json_object_get(ctx->args, "rate"));
	l->connections = (size_t)json_integer_value(json_object_get(ctx->args, "connections"));
	l->timeout = json_integer_value(json_object_get(ctx->args, "timeout"));
	l->keep_alive = json_is_true(json_object_get(ctx->args, "keep_alive"));
	l->status = (int)json_integer_value(json_object_get(ctx->args, "status"));
	l->head = streq(method, "HEAD");
	if (!from || !url || !method || !(l->rate > 0) || !l->connections || l->timeout <= 0)
		return err_set(err, -EINVAL, "load %s: its arguments were not checked", ctx->name);
	l->node = site_node(ctx->site, from);
	if (!l->node)
		return err_set(err, -ENOENT, "load %s: node %s does not exist", ctx->name, from);
	r = node_open(l->node, err);
	if (r < 0)
		return err_prefix(err, "load %s", ctx->name);
	l->name = strdup(ctx->name);
	l->url_text = strdup(url);
	if (!l->name || !l->url_text)
		return err_set(err, -ENOMEM, "load %s: out of memory", ctx->name);
	r = http_url_parse(url, &l->url, err);
	if (r < 0)
		return err_prefix(err, "load %s", l->name);
	r = make_request(l, method, json_object_get(ctx->args, "headers"), err);
	if (r == 0)
		r = make_room(l, err);
	if (r < 0)
		return r;
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0)
		return err_set(err, -errno, "load %s: eventfd: %s", l->name, strerror(errno));
	r = run_thread(l, err);
	if (r < 0)
		return r;
	*ret_handle = TAKE_PTR(l);
	return 0;
}

static void tell(struct load *l, enum wanted wanted)
{
	static const uint64_t one = 1;
	int was = RUN;

	/* what was aborted is not merely stopped */
	if (wanted == ABORT)
		atomic_store(&l->wanted, ABORT);
	else
		atomic_compare_exchange_strong(&l->wanted, &was, (int)wanted);
	/* fails only when the counter is full, and then the thread is awake */
	(void)!write(l->wake_fd, &one, sizeof(one));
}

static void http_abort(void *handle)
{
	tell(handle, ABORT);
}

static json_t *times(const struct hist *h)
{
	static const struct {
		const char *name;
		double q;
	} qs[] = {{"p50_ns", 0.5}, {"p90_ns", 0.9}, {"p99_ns", 0.99}, {"p999_ns", 0.999}};
	json_t *j;

	if (!h->n)
		return json_null();
	j = json_object();
	for (size_t i = 0; i < ARRAY_SIZE(qs); i++) {
		uint64_t v;

		if (hist_quantile(h, qs[i].q, &v) == 0)
			json_object_set_new(j, qs[i].name, json_integer((json_int_t)v));
	}
	json_object_set_new(j, "max_ns", json_integer((json_int_t)h->max));
	return j;
}

static void add_note(json_t *notes, char *text)
{
	_cleanup_free_ char *t = text;

	if (t)
		json_array_append_new(notes, json_string(t));
}

static json_t *summary(const struct load *l)
{
	json_t *j = json_object(), *outcomes = json_object(), *reasons = json_object(), *statuses = json_object(),
	       *notes = json_array();
	double seconds = (double)((l->stop_at ? l->stop_at : l->ended_at) - l->start) / (double)NSEC_PER_SEC;
	double turn = (double)(l->port_hi - l->port_lo + 1) / l->rate;
	uint64_t lag = 0, ended = 0;

	for (int i = 0; i < OUTCOME_COUNT; i++) {
		json_object_set_new(outcomes, outcome_names[i], json_integer((json_int_t)l->count[i]));
		ended += l->count[i];
	}
	for (size_t i = 0; i < REASONS_MAX && l->reasons[i].text; i++)
		json_object_set_new(reasons, l->reasons[i].text, json_integer((json_int_t)l->reasons[i].n));
	for (size_t i = 0; i < STATUSES_MAX && l->statuses[i].n; i++) {
		char text[16];

		snprintf(text, sizeof(text), l->statuses[i].status ? "%d" : "others", l->statuses[i].status);
		json_object_set_new(statuses, text, json_integer((json_int_t)l->statuses[i].n));
	}
	json_object_set_new(j, "kind", json_string("http"));
	json_object_set_new(j, "from", json_string(l->node->name));
	json_object_set_new(j, "url", json_string(l->url_text));
	json_object_set_new(j, "asked_rate", json_real(l->rate));
	json_object_set_new(j, "rate", seconds > 0 ? json_real((double)l->count[OUTCOME_OK] / seconds) : json_null());
	json_object_set_new(j, "requests", json_integer((json_int_t)ended));
	json_object_set_new(j, "sent", json_integer((json_int_t)l->sent));
	json_object_set_new(j, "connects", json_integer((json_int_t)l->connects));
	json_object_set_new(j, "waited", json_integer((json_int_t)l->queued));
	json_object_set_new(j, "abandoned", json_integer((json_int_t)l->abandoned));
	json_object_set_new(j, "bytes", json_integer((json_int_t)l->bytes));
	json_object_set_new(j, "outcomes", outcomes);
	json_object_set_new(j, "reasons", reasons);
	json_object_set_new(j, "statuses", statuses);
	json_object_set_new(j, "latency", times(&l->latency));
	json_object_set_new(j, "lag", times(&l->lag));
	json_object_set_new(j, "port_turn_s", l->keep_alive ? json_null() : json_real(turn));
	if (hist_quantile(&l->lag, 0.99, &lag) == 0 && (nsec_t)lag > LAG_TOLERABLE)
		add_note(notes, strf("the load generator itself was late: 1%% of its requests were sent %.0f ms or more after "
				     "they were due, and their latency includes that",
					(double)lag / 1e6));
	if (l->queued)
		add_note(notes, strf("%llu requests waited for one of the %zu connections; their latency includes the wait",
					(unsigned long long)l->queued, l->connections));
	if (!l->keep_alive && turn < FIN_WAIT_IPVS && seconds > turn)
		add_note(notes, strf("each source port was used again after %.0f s; IPVS in DR mode sends such a connection to the "
				     "previous real server for %d s: widen net.ipv4.ip_local_port_range on %s, or lower the rate",
					turn, FIN_WAIT_IPVS, l->node->name));
	if (l->buckets.out_of_memory)
		add_note(notes, strf("out of memory: some latencies were not recorded"));
	json_object_set_new(j, "notes", notes);
	return j;
}

static void http_stop(void *handle, json_t **ret_summary)
{
	_cleanup_(load_freep) struct load *l = handle;

	tell(l, STOP);
	pthread_join(l->thread, NULL);
	if (ret_summary)
		*ret_summary = summary(l);
}

static const struct param http_params[] = {
	{.name = "from", .type = PARAM_NODE, .required = true, .help = "the node the requests come from"},
	{.name = "url", .type = PARAM_URL, .required = true, .help = "what is requested"},
	{.name = "rate", .type = PARAM_RATE, .required = true, .min = 0.01, .max = 200000,
		.help = "requests per second, on a fixed schedule whatever the service does"},
	{.name = "connections", .type = PARAM_INT, .deflt = "64", .min = 1, .max = 20000,
		.help = "at most so many at once; a request that finds none free waits, and its clock runs"},
	{.name = "timeout", .type = PARAM_DURATION, .deflt = "2s", .min = 1e6, .max = 25e9,
		.help = "from the time a request was due to its complete response"},
	{.name = "keep_alive", .type = PARAM_BOOL, .deflt = "false",
		.help = "requests share persistent connections; otherwise each has its own, which the director schedules"},
	{.name = "method", .type = PARAM_STRING, .deflt = "GET", .values = "GET|HEAD", .help = "the request's method"},
	{.name = "headers", .type = PARAM_MAP, .of = PARAM_STRING, .help = "further request headers"},
	{.name = "status", .type = PARAM_INT, .deflt = "200", .min = 200, .max = 599,
		.help = "the status that counts as success"},
	{.name = "name", .type = PARAM_STRING, .help = "what the load is called in the report"},
	PARAM_END,
};

const struct source_ops load_http = {
	.name = "http",
	.summary = "HTTP/1.1 requests on a fixed schedule, latency taken from the time each was due",
	.kind = SOURCE_LOAD,
	.params = http_params,
	.start = http_start,
	.stop = http_stop,
	.abort = http_abort,
};
