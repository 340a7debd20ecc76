/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Real connections in network namespaces of this test's own, against what the kernel program reports of them: every count
 * is exact. Traffic stays on the loopback devices of the two namespaces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <bpf/bpf.h>
#include <cmocka.h>

#include "bpf/features.h"
#include "bpf/telemetry.h"
#include "engine/clock.h"
#include "engine/source.h"
#include "engine/str.h"

#define WAIT	  (10 * NSEC_PER_SEC) /* generous: an emulated machine runs this too */
#define BLACKHOLE "198.18.9.9"	      /* routed to lo, where no socket and no neighbour answers */

extern const struct source_ops source_conn;

static int ns_a = -1, ns_b = -1; /* the test lives in a */

/* ── namespaces ───────────────────────────────────────────────────────────────────────────── */

static uint64_t inode_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

static void lo_up(void)
{
	struct ifreq ifr = {.ifr_name = "lo"};
	struct sockaddr_in *dst, *mask;
	struct rtentry rt = {.rt_flags = RTF_UP | RTF_HOST, .rt_dev = (char *)"lo"};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	dst = (struct sockaddr_in *)&rt.rt_dst;
	mask = (struct sockaddr_in *)&rt.rt_genmask;
	dst->sin_family = mask->sin_family = AF_INET;
	inet_pton(AF_INET, BLACKHOLE, &dst->sin_addr);
	mask->sin_addr.s_addr = INADDR_BROADCAST;
	assert_int_equal(ioctl(fd, SIOCADDRT, &rt), 0);
	close(fd);
}

static int fresh_netns(void)
{
	int fd;

	assert_int_equal(unshare(CLONE_NEWNET), 0);
	lo_up();
	fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static int group_setup(void **state _unused_)
{
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "conn-test");
	ns_b = fresh_netns();
	ns_a = fresh_netns();
	return 0;
}

/* ── what was recorded ────────────────────────────────────────────────────────────────────── */

struct capture {
	struct telemetry *t;
	size_t n, size;
	struct conn_record *r;
	nsec_t begun;
};

static void keep(const struct conn_record *r, void *arg)
{
	struct capture *c = arg;

	if (c->n == c->size) {
		c->size = c->size ? 2 * c->size : 1024;
		c->r = reallocarray(c->r, c->size, sizeof(*c->r));
		assert_non_null(c->r);
	}
	c->r[c->n++] = *r;
}

static void begin_opts(struct capture *c, struct telemetry_opts o)
{
	uint64_t netns = inode_of(ns_a);
	struct err err = {0};

	*c = (struct capture){.begun = now_ns()};
	if (!o.all_netns) {
		o.netns = &netns;
		o.n_netns = 1;
	}
	if (telemetry_open(&o, keep, c, &c->t, &err) < 0)
		fail_msg("%s; %s", err.text, err.hint);
}

static void begin(struct capture *c)
{
	begin_opts(c, (struct telemetry_opts){0});
}

static void end(struct capture *c)
{
	telemetry_close(c->t);
	free(c->r);
}

static void drain(struct capture *c)
{
	bool more = true;

	while (more)
		assert_true(telemetry_drain(c->t, &more) >= 0);
}

/* Until @n records are there; then until none is under way, so that one too many is seen too. */
static void expect(struct capture *c, size_t n)
{
	nsec_t deadline = now_ns() + WAIT;

	drain(c);
	while (c->n < n && now_ns() < deadline) {
		poll(NULL, 0, 1);
		drain(c);
	}
	telemetry_detach(c->t);
	drain(c);
	assert_int_equal(c->n, n);
}

static size_t count(const struct capture *c, enum conn_kind kind, enum conn_role role,
	enum conn_outcome outcome)
{
	size_t i, n = 0;

	for (i = 0; i < c->n; i++)
		n += c->r[i].kind == kind && c->r[i].role == role && c->r[i].outcome == outcome;
	return n;
}

static const struct conn_record *find(
	const struct capture *c, enum conn_kind kind, enum conn_role role)
{
	size_t i;

	for (i = 0; i < c->n; i++) {
		if (c->r[i].kind == kind && c->r[i].role == role)
			return &c->r[i];
	}
	fail_msg("no record of kind %d, role %d", kind, role);
	return NULL;
}

static void nothing_lost(const struct capture *c)
{
	struct telemetry_stats s;

	assert_int_equal(telemetry_stats(c->t, &s), 0);
	assert_int_equal(s.received, c->n);
	assert_int_equal(s.submitted, c->n);
	assert_int_equal(telemetry_dropped(&s), 0);
}

/* ── connections ──────────────────────────────────────────────────────────────────────────── */

struct address {
	int family;
	socklen_t len;
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	};
};

static struct address address(const char *text, uint16_t port)
{
	struct address a = {0};

	if (strchr(text, ':')) {
		a.family = a.in6.sin6_family = AF_INET6;
		a.len = sizeof(a.in6);
		a.in6.sin6_port = htons(port);
		assert_int_equal(inet_pton(AF_INET6, text, &a.in6.sin6_addr), 1);
	} else {
		a.family = a.in.sin_family = AF_INET;
		a.len = sizeof(a.in);
		a.in.sin_port = htons(port);
		assert_int_equal(inet_pton(AF_INET, text, &a.in.sin_addr), 1);
	}
	return a;
}

static int listener(const char *text, uint16_t *port)
{
	struct address a = address(text, *port);
	int one = 1, fd = socket(a.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval tv = {.tv_sec = WAIT / NSEC_PER_SEC};

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	assert_int_equal(bind(fd, &a.sa, a.len), 0);
	assert_int_equal(listen(fd, 1024), 0);
	a.len = sizeof(a.in6);
	assert_int_equal(getsockname(fd, &a.sa, &a.len), 0);
	*port = ntohs(a.family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port);
	return fd;
}

static int try_connect(const char *text, uint16_t port, int *ret_errno)
{
	struct address a = address(text, port);
	int fd = socket(a.family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	*ret_errno = connect(fd, &a.sa, a.len) < 0 ? errno : 0;
	return fd;
}

struct pair {
	int client, server;
};

static struct pair open_pair(int lfd, const char *text, uint16_t port)
{
	struct pair p;
	int e;

	p.client = try_connect(text, port, &e);
	assert_int_equal(e, 0);
	p.server = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(p.server >= 0);
	return p;
}

static void transfer(int from, int to, size_t n)
{
	char buf[2048] = {0};

	assert_true(n <= sizeof(buf));
	assert_int_equal(send(from, buf, n, 0), n);
	assert_int_equal(recv(to, buf, n, MSG_WAITALL), n);
}

static void close_pair(struct pair p)
{
	close(p.client);
	close(p.server);
}

static void abort_socket(int fd)
{
	struct linger l = {.l_onoff = 1};

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
	close(fd);
}

static uint64_t cookie(int fd)
{
	uint64_t v;
	socklen_t len = sizeof(v);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &v, &len), 0);
	return v;
}

/* ── tests ────────────────────────────────────────────────────────────────────────────────── */

/* The other end of @a's connection, among the records of the same kind */
static bool has_mirror(const struct capture *c, const struct conn_record *a)
{
	size_t i;

	for (i = 0; i < c->n; i++) {
		const struct conn_record *b = &c->r[i];

		if (b->kind == a->kind && b->role != a->role && b->family == a->family &&
			b->lport == a->rport && b->rport == a->lport &&
			memcmp(b->laddr, a->raddr, 16) == 0 && memcmp(b->raddr, a->laddr, 16) == 0)
			return true;
	}
	return false;
}

static void run_pairs(
	struct capture *c, const char *listen_on, const char *to, size_t n, uint64_t *cookies)
{
	uint16_t port = 0;
	int lfd = listener(listen_on, &port);
	size_t i;

	for (i = 0; i < n; i++) {
		struct pair p = open_pair(lfd, to, port);

		if (cookies)
			cookies[i] = cookie(p.client);
		transfer(p.client, p.server, 100);
		transfer(p.server, p.client, 1000);
		close_pair(p);
	}
	close(lfd);
	expect(c, 4 * n);
}

static void check_pairs(const struct capture *c, const char *to, size_t n, bool cookies_known)
{
	struct address a = address(to, 0);
	nsec_t now = now_ns();
	size_t i;

	assert_int_equal(count(c, CONN_ESTABLISHED, CONN_ROLE_ACTIVE, CONN_OUTCOME_ESTABLISHED), n);
	assert_int_equal(
		count(c, CONN_ESTABLISHED, CONN_ROLE_PASSIVE, CONN_OUTCOME_ESTABLISHED), n);
	assert_int_equal(count(c, CONN_END, CONN_ROLE_ACTIVE, CONN_OUTCOME_CLOSED), n);
	assert_int_equal(count(c, CONN_END, CONN_ROLE_PASSIVE, CONN_OUTCOME_CLOSED), n);
	for (i = 0; i < c->n; i++) {
		const struct conn_record *r = &c->r[i];
		bool active = r->role == CONN_ROLE_ACTIVE;

		assert_int_equal(r->netns, inode_of(ns_a));
		assert_int_equal(r->family, a.family);
		assert_true(has_mirror(c, r));
		assert_true(c->begun <= r->open && r->open <= r->established &&
			    r->established <= r->t && r->t <= now);
		assert_false(r->birth_unknown);
		assert_int_equal(r->id_is_cookie, cookies_known);
		assert_int_equal(r->error, 0);
		assert_int_equal(r->retransmits, 0);
		if (r->kind == CONN_END) {
			size_t sent = active ? 100 : 1000, got = active ? 1000 : 100;

			assert_int_equal(r->closed, r->t);
			assert_in_range(r->acked, sent, sent + 2); /* SYN, FIN */
			assert_in_range(r->received, got, got + 1);
		}
		/* the client's process from the start; the server's from its close */
		if (active || r->kind == CONN_END) {
			assert_int_equal(r->pid, getpid());
			assert_string_equal(r->comm, "conn-test");
		} else {
			assert_int_equal(r->pid, 0);
			assert_string_equal(r->comm, "");
		}
	}
}

static void counts_exactly_v4(void **state _unused_)
{
	enum { N = 300 };
	uint64_t cookies[N];
	struct capture c;
	size_t i, j;

	begin(&c);
	assert_string_equal(telemetry_probe(c.t), "tp_btf/inet_sock_set_state");
	assert_string_equal(telemetry_fallback_reason(c.t), "");
	run_pairs(&c, "127.0.0.1", "127.0.0.1", N, cookies);
	check_pairs(&c, "127.0.0.1", N, true);
	nothing_lost(&c);
	for (i = 0; i < N; i++) {
		size_t seen = 0;

		for (j = 0; j < c.n; j++)
			seen += c.r[j].id == cookies[i] && c.r[j].role == CONN_ROLE_ACTIVE;
		assert_int_equal(seen, 2);
	}
	end(&c);
}

static void counts_exactly_v6(void **state _unused_)
{
	struct capture c;

	begin(&c);
	run_pairs(&c, "::1", "::1", 100, NULL);
	check_pairs(&c, "::1", 100, true);
	nothing_lost(&c);
	end(&c);
}

static void v4_on_a_v6_socket_is_v4(void **state _unused_)
{
	struct capture c;

	begin(&c);
	run_pairs(&c, "::", "127.0.0.1", 20, NULL);
	check_pairs(&c, "127.0.0.1", 20, true);
	end(&c);
	begin(&c);
	run_pairs(&c, "127.0.0.1", "::ffff:127.0.0.1", 20, NULL);
	check_pairs(&c, "127.0.0.1", 20, true);
	end(&c);
}

static void raw_tracepoint_tells_the_same(void **state _unused_)
{
	struct capture c;
	size_t i, j;

	begin_opts(&c, (struct telemetry_opts){.hook = TELEMETRY_RAW_TP});
	assert_string_equal(telemetry_probe(c.t), "raw_tp/inet_sock_set_state");
	run_pairs(&c, "127.0.0.1", "127.0.0.1", 100, NULL);
	check_pairs(&c, "127.0.0.1", 100, false);
	nothing_lost(&c);
	for (i = 0; i < c.n; i++) {
		size_t same = 0;

		for (j = 0; j < c.n; j++)
			same += c.r[j].id == c.r[i].id;
		assert_int_equal(same, 2); /* its own two */
	}
	end(&c);
}

static void refused_is_refused(void **state _unused_)
{
	enum { N = 50 };
	uint16_t port = 0;
	struct capture c;
	size_t i;

	close(listener("127.0.0.1", &port)); /* a port that was free a moment ago */
	begin(&c);
	for (i = 0; i < N; i++) {
		int e, fd = try_connect(i % 2 ? "::1" : "127.0.0.1", port, &e);

		assert_int_equal(e, ECONNREFUSED);
		close(fd);
	}
	expect(&c, N);
	assert_int_equal(count(&c, CONN_END, CONN_ROLE_ACTIVE, CONN_OUTCOME_REFUSED), N);
	for (i = 0; i < N; i++) {
		assert_true(conn_record_failed(&c.r[i]));
		assert_int_equal(c.r[i].error, ECONNREFUSED);
		assert_int_equal(c.r[i].rport, port);
		assert_int_not_equal(c.r[i].lport, 0);
		assert_int_equal(c.r[i].established, 0);
		assert_int_equal(c.r[i].pid, getpid());
	}
	nothing_lost(&c);
	end(&c);
}

static void reset_and_abort_are_two_ends(void **state _unused_)
{
	enum { N = 40 };
	uint16_t port = 0;
	int lfd = listener("127.0.0.1", &port);
	struct capture c;
	size_t i;

	begin(&c);
	for (i = 0; i < N; i++) {
		struct pair p = open_pair(lfd, "127.0.0.1", port);

		if (i % 2) {
			abort_socket(p.client);
		} else {
			/* closing with unread data resets, too */
			assert_int_equal(send(p.server, "x", 1, 0), 1);
			assert_int_equal(
				poll(&(struct pollfd){.fd = p.client, .events = POLLIN}, 1, 5000),
				1);
			close(p.client);
		}
		assert_true(poll(&(struct pollfd){.fd = p.server, .events = POLLIN}, 1, 5000) == 1);
		close(p.server);
	}
	expect(&c, 4 * N);
	assert_int_equal(count(&c, CONN_END, CONN_ROLE_ACTIVE, CONN_OUTCOME_ABORTED), N);
	assert_int_equal(count(&c, CONN_END, CONN_ROLE_PASSIVE, CONN_OUTCOME_RESET), N);
	/* a reset ends the server's side in the softirq: whose it was is not known, and not guessed */
	assert_int_equal(find(&c, CONN_END, CONN_ROLE_PASSIVE)->pid, 0);
	assert_int_equal(find(&c, CONN_END, CONN_ROLE_ACTIVE)->pid, getpid());
	nothing_lost(&c);
	close(lfd);
	end(&c);
}

static void silence_times_out(void **state _unused_)
{
	enum { N = 5 };
	struct address a = address(BLACKHOLE, 8080);
	struct pollfd p[N];
	struct capture c;
	nsec_t deadline;
	uint64_t connecting, established;
	size_t i, gone = 0;

	begin(&c);
	for (i = 0; i < N; i++) {
		int one = 1;

		p[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		p[i].events = POLLOUT;
		assert_int_equal(
			setsockopt(p[i].fd, IPPROTO_TCP, TCP_SYNCNT, &one, sizeof(one)), 0);
		assert_int_equal(connect(p[i].fd, &a.sa, a.len), -1);
		assert_int_equal(errno, EINPROGRESS);
	}
	assert_int_equal(telemetry_live(c.t, &connecting, &established), 0);
	assert_int_equal(connecting, N);
	assert_int_equal(established, 0);
	close(p[0].fd); /* one gives up by itself */
	p[0].fd = -1;

	deadline = now_ns() + 30 * NSEC_PER_SEC;
	while (gone < N - 1 && now_ns() < deadline) {
		assert_true(poll(p, N, 1000) >= 0);
		for (i = 1; i < N; i++) {
			int e = 0;
			socklen_t len = sizeof(e);

			if (p[i].fd < 0 || !p[i].revents)
				continue;
			assert_int_equal(getsockopt(p[i].fd, SOL_SOCKET, SO_ERROR, &e, &len), 0);
			assert_int_equal(e, ETIMEDOUT);
			close(p[i].fd);
			p[i].fd = -1;
			gone++;
		}
	}
	expect(&c, N);
	assert_int_equal(count(&c, CONN_END, CONN_ROLE_ACTIVE, CONN_OUTCOME_TIMED_OUT), N - 1);
	assert_int_equal(count(&c, CONN_END, CONN_ROLE_ACTIVE, CONN_OUTCOME_ABORTED), 1);
	for (i = 0; i < N; i++) {
		assert_true(conn_record_failed(&c.r[i]));
		assert_int_equal(c.r[i].pid, getpid());
		if (c.r[i].outcome == CONN_OUTCOME_TIMED_OUT) {
			assert_in_range(
				c.r[i].retransmits, 1, 8); /* newer kernels add linear ones */
			assert_true(c.r[i].closed - c.r[i].open >= NSEC_PER_SEC);
		}
	}
	nothing_lost(&c);
	assert_int_equal(telemetry_live(c.t, &connecting, &established), 0);
	assert_int_equal(connecting + established, 0);
	end(&c);
}

static void pairs_in_b(size_t n)
{
	uint16_t port = 0;
	int lfd;

	assert_int_equal(setns(ns_b, CLONE_NEWNET), 0);
	lfd = listener("127.0.0.1", &port);
	while (n--)
		close_pair(open_pair(lfd, "127.0.0.1", port));
	close(lfd);
	assert_int_equal(setns(ns_a, CLONE_NEWNET), 0);
}

static void other_namespaces_are_left_out(void **state _unused_)
{
	struct telemetry_stats s;
	struct capture c;
	size_t i, of_b = 0;

	begin(&c);
	pairs_in_b(20);
	expect(&c, 0);
	assert_int_equal(telemetry_stats(c.t, &s), 0);
	assert_int_equal(s.submitted + telemetry_dropped(&s), 0);
	end(&c);

	/* without the filter they are seen, with whatever else goes on in this machine */
	begin_opts(&c, (struct telemetry_opts){.all_netns = true});
	pairs_in_b(20);
	telemetry_detach(c.t);
	drain(&c);
	for (i = 0; i < c.n; i++)
		of_b += c.r[i].netns == inode_of(ns_b);
	assert_int_equal(of_b, 80);
	end(&c);
}

static void a_full_ring_is_counted(void **state _unused_)
{
	enum { N = 100 };
	struct telemetry_stats s;
	uint16_t port = 0;
	int lfd = listener("127.0.0.1", &port);
	struct capture c;
	size_t i;

	begin_opts(&c, (struct telemetry_opts){.ring_bytes = sysconf(_SC_PAGESIZE)});
	for (i = 0; i < N; i++)
		close_pair(open_pair(lfd, "127.0.0.1", port));
	telemetry_detach(c.t);
	drain(&c);
	assert_int_equal(telemetry_stats(c.t, &s), 0);
	assert_true(s.lost_ring > 0);
	assert_true(s.submitted > 0);
	assert_int_equal(s.submitted, c.n);
	assert_int_equal(s.submitted + s.lost_ring, 4 * N);
	assert_int_equal(telemetry_dropped(&s), s.lost_ring);
	close(lfd);
	end(&c);
}

static void older_connections_have_no_birth(void **state _unused_)
{
	enum { N = 5 };
	struct pair old[N];
	uint16_t port = 0;
	int lfd = listener("127.0.0.1", &port);
	struct capture c;
	size_t i;

	for (i = 0; i < N; i++)
		old[i] = open_pair(lfd, "127.0.0.1", port);
	begin(&c);
	for (i = 0; i < N; i++)
		close_pair(old[i]);
	close_pair(open_pair(lfd, "127.0.0.1", port));
	expect(&c, 2 * N + 4);
	for (i = 0; i < 2 * N; i++) {
		assert_int_equal(c.r[i].kind, CONN_END);
		assert_int_equal(c.r[i].role, CONN_ROLE_UNKNOWN);
		assert_true(c.r[i].birth_unknown);
		assert_int_equal(c.r[i].open, 0);
		assert_int_equal(c.r[i].established, 0);
		assert_false(conn_record_failed(&c.r[i]));
	}
	assert_int_equal(count(&c, CONN_END, CONN_ROLE_ACTIVE, CONN_OUTCOME_CLOSED), 1);
	nothing_lost(&c);
	close(lfd);
	end(&c);
}

static void a_full_table_is_counted(void **state _unused_)
{
	enum { N = 20 };
	struct telemetry_stats s;
	struct pair p[N];
	uint16_t port = 0;
	int lfd = listener("127.0.0.1", &port);
	uint64_t connecting, established;
	struct capture c;
	size_t i, unknown = 0;

	begin_opts(&c, (struct telemetry_opts){.live_max = 8});
	for (i = 0; i < N; i++)
		p[i] = open_pair(lfd, "127.0.0.1", port);
	assert_int_equal(telemetry_live(c.t, &connecting, &established), 0);
	assert_int_equal(connecting, 0);
	for (i = 0; i < N; i++)
		close_pair(p[i]);
	expect(&c, 4 * N); /* every one still has its two records at each end */
	assert_int_equal(telemetry_stats(c.t, &s), 0);
	assert_int_equal(s.untracked, 2 * N - established);
	assert_true(s.untracked > 0);
	for (i = 0; i < c.n; i++)
		unknown += c.r[i].kind == CONN_END && c.r[i].birth_unknown;
	assert_int_equal(unknown, s.untracked);
	close(lfd);
	end(&c);
}

static void the_reader_is_woken_when_much_waits(void **state _unused_)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	uint16_t port = 0;
	int lfd = listener("127.0.0.1", &port), ep = epoll_create1(EPOLL_CLOEXEC), i;
	struct capture c;

	/* a quarter of 64 KiB is 120 records: 30 connections */
	begin_opts(&c, (struct telemetry_opts){.ring_bytes = 65536});
	assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, telemetry_fd(c.t), &ev), 0);
	for (i = 0; i < 10; i++)
		close_pair(open_pair(lfd, "127.0.0.1", port));
	assert_int_equal(epoll_wait(ep, &ev, 1, 50), 0);
	for (i = 0; i < 30; i++)
		close_pair(open_pair(lfd, "127.0.0.1", port));
	assert_int_equal(epoll_wait(ep, &ev, 1, 5000), 1);
	expect(&c, 160);
	nothing_lost(&c);
	close(ep);
	close(lfd);
	end(&c);
}

struct worker {
	pthread_t thread;
	size_t n;
	bool ok;
};

/* No assertions here: cmocka knows its own thread only */
static void *connect_many(void *arg)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int lfd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c, s;
	socklen_t len = sizeof(a);
	struct worker *w = arg;
	size_t i;

	w->ok = bind(lfd, (struct sockaddr *)&a, len) == 0 && listen(lfd, 16) == 0 &&
		getsockname(lfd, (struct sockaddr *)&a, &len) == 0;
	for (i = 0; w->ok && i < w->n; i++) {
		c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		w->ok = connect(c, (struct sockaddr *)&a, len) == 0 &&
			(s = accept(lfd, NULL, NULL)) >= 0;
		if (w->ok) {
			close(c);
			close(s);
		}
	}
	close(lfd);
	return NULL;
}

/* More threads than processors, so that there is something to interrupt */
#define STORM_THREADS 6

static void storm(size_t each)
{
	struct worker w[STORM_THREADS];

	for (size_t i = 0; i < ARRAY_SIZE(w); i++) {
		w[i].n = each;
		assert_int_equal(pthread_create(&w[i].thread, NULL, connect_many, &w[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(w); i++) {
		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
		assert_true(w[i].ok);
	}
}

/* Packets of lo are received by all processors, by interrupt, instead of by the one that has sent them, which is none. */
static void spread_lo(void)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		/* sysfs shows the namespace in which it was mounted */
		bool ok = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
			mount("sysfs", "/sys", "sysfs", 0, NULL) == 0;
		int fd = ok ? open("/sys/class/net/lo/queues/rx-0/rps_cpus", O_WRONLY | O_CLOEXEC) : -1;
		char mask[32];

		snprintf(mask, sizeof(mask), "%llx", (1ull << MIN(sysconf(_SC_NPROCESSORS_ONLN), 32L)) - 1);
		_exit(fd >= 0 && write(fd, mask, strlen(mask)) > 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* Whether every change was seen, and some by the second program. None may be lost to the first, and none be seen twice. */
static bool interrupted_with(enum telemetry_hook hook)
{
	enum { EACH = 500, N = STORM_THREADS * EACH };
	nsec_t deadline = now_ns() + NSEC_PER_SEC;
	struct telemetry_stats s;
	struct capture c;
	bool all;

	begin_opts(&c, (struct telemetry_opts){.hook = hook});
	storm(EACH);
	for (drain(&c); c.n < 4 * N && now_ns() < deadline; drain(&c))
		poll(NULL, 0, 1);
	telemetry_detach(c.t);
	drain(&c);
	nothing_lost(&c);
	assert_int_equal(telemetry_stats(c.t, &s), 0);
	print_message("%s: %zu of %d changes, %llu of them came upon another\n", telemetry_probe(c.t), c.n, 4 * N,
		(unsigned long long)s.rescued);
	assert_in_range(c.n, 0, 4 * N);
	assert_in_range(count(&c, CONN_ESTABLISHED, CONN_ROLE_PASSIVE, CONN_OUTCOME_ESTABLISHED), 0, N);
	all = c.n == 4 * N;
	end(&c);
	return all && (s.rescued > 0 || sysconf(_SC_NPROCESSORS_ONLN) == 1);
}

/*
 * Interrupts come while a process is inside the program, and bring state changes of other sockets with them: none may be missed.
 *
 * More than once: there are kernels that let no tracing happen while certain processes run, so that nobody sees, or counts, what
 * an interrupt brings then.
 */
static void changes_that_interrupt_are_seen(void **state _unused_)
{
	static const enum telemetry_hook hooks[] = {TELEMETRY_TP_BTF, TELEMETRY_RAW_TP};
	int was = ns_a;

	ns_a = fresh_netns();
	spread_lo();
	for (size_t i = 0; i < ARRAY_SIZE(hooks); i++) {
		int tries = 20;

		while (!interrupted_with(hooks[i]) && --tries > 0)
			;
		assert_true(tries > 0);
	}
	close(ns_a);
	ns_a = was;
	assert_int_equal(setns(ns_a, CLONE_NEWNET), 0);
}

static bool second_is_there(struct capture *c)
{
	struct telemetry_stats s;

	drain(c);
	assert_int_equal(telemetry_stats(c->t, &s), 0);
	return s.second;
}

/*
 * What sees the changes that interrupt goes while none do; nothing is missed or seen twice for its going. One that is missed brings it
 * back, counted as lost; and from then on none is.
 */
static void what_is_not_needed_goes_and_comes_back(void **state _unused_)
{
	static const enum telemetry_hook hooks[] = {TELEMETRY_TP_BTF, TELEMETRY_RAW_TP};
	int was = ns_a;

	for (size_t i = 0; i < ARRAY_SIZE(hooks); i++) {
		nsec_t deadline = now_ns() + 20 * NSEC_PER_SEC;
		struct telemetry_stats s;
		struct capture c;
		uint64_t lost;
		uint16_t port = 0;
		size_t n = 0;
		int lfd;

		ns_a = fresh_netns();
		lfd = listener("127.0.0.1", &port);
		telemetry_calm_default = 100;
		begin_opts(&c, (struct telemetry_opts){.hook = hooks[i]});
		assert_true(second_is_there(&c));
		for (; second_is_there(&c); n++) {
			assert_true(now_ns() < deadline);
			close_pair(open_pair(lfd, "127.0.0.1", port));
		}
		for (int k = 0; k < 20; k++, n++)
			close_pair(open_pair(lfd, "127.0.0.1", port));
		for (nsec_t until = now_ns() + WAIT; c.n < 4 * n && now_ns() < until; drain(&c))
			poll(NULL, 0, 1);
		assert_int_equal(c.n, 4 * n);
		nothing_lost(&c);

		telemetry_calm_default = UINT64_MAX;
		spread_lo();
		while (!second_is_there(&c)) {
			assert_true(now_ns() < deadline);
			storm(200);
		}
		assert_int_equal(telemetry_stats(c.t, &s), 0);
		assert_true(s.lost_nested > 0);
		lost = s.lost_nested;
		storm(200);
		assert_true(second_is_there(&c));
		assert_int_equal(telemetry_stats(c.t, &s), 0);
		assert_int_equal(s.lost_nested, lost);
		end(&c);
		close(lfd);
		close(ns_a);
	}
	telemetry_calm_default = TELEMETRY_CALM_MOVES;
	ns_a = was;
	assert_int_equal(setns(ns_a, CLONE_NEWNET), 0);
}

/* ── nothing stays ────────────────────────────────────────────────────────────────────────── */

struct held {
	size_t fds, n_prog, n_map, n_link;
	uint32_t prog[8], map[16], link[8];
};

/* What BPF objects process @pid holds descriptors of, by the kernel's ids */
static struct held holds(pid_t pid)
{
	struct held h = {0};
	char dir[64], path[128], *text, *s;
	struct dirent *e;
	size_t len;
	DIR *d;

	snprintf(dir, sizeof(dir), "/proc/%d/fdinfo", pid);
	d = opendir(dir);
	assert_non_null(d);
	while ((e = readdir(d))) {
		if (*e->d_name == '.' || (pid == getpid() && atoi(e->d_name) == dirfd(d)))
			continue;
		h.fds++;
		snprintf(path, sizeof(path), "%s/%.20s", dir, e->d_name);
		if (file_read(path, 65536, &text, &len) < 0)
			continue;
		/* a link's own text names its program too */
		if ((s = strstr(text, "link_id:")) && h.n_link < ARRAY_SIZE(h.link))
			h.link[h.n_link++] = atoi(s + 8);
		else if ((s = strstr(text, "prog_id:")) && h.n_prog < ARRAY_SIZE(h.prog))
			h.prog[h.n_prog++] = atoi(s + 8);
		else if ((s = strstr(text, "map_id:")) && h.n_map < ARRAY_SIZE(h.map))
			h.map[h.n_map++] = atoi(s + 7);
		free(text);
	}
	closedir(d);
	return h;
}

static void await_gone(int (*fd_by_id)(uint32_t), const uint32_t *ids, size_t n, const char *what)
{
	nsec_t deadline = now_ns() + WAIT; /* the kernel frees them after a grace period */
	size_t i;
	int fd;

	for (i = 0; i < n; i++) {
		while ((fd = fd_by_id(ids[i])) >= 0) {
			close(fd);
			if (now_ns() > deadline)
				fail_msg("%s %u is still there", what, ids[i]);
			poll(NULL, 0, 1);
		}
		assert_int_equal(fd, -ENOENT);
	}
}

static void all_gone(const struct held *h)
{
	assert_true(h->n_prog == 2 && h->n_map >= 5 && h->n_link == 2);
	await_gone(bpf_link_get_fd_by_id, h->link, h->n_link, "link");
	await_gone(bpf_prog_get_fd_by_id, h->prog, h->n_prog, "program");
	await_gone(bpf_map_get_fd_by_id, h->map, h->n_map, "map");
}

static void closing_leaves_nothing(void **state _unused_)
{
	size_t fds = holds(getpid()).fds;
	struct capture c;
	struct held h;

	begin(&c);
	h = holds(getpid());
	end(&c);
	all_gone(&h);
	assert_int_equal(holds(getpid()).fds, fds);
}

static void dying_leaves_nothing(void **state _unused_)
{
	int ready[2], status;
	struct held h;
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct telemetry_opts o = {.all_netns = true};
		struct capture c = {0};

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (telemetry_open(&o, keep, &c, &c.t, NULL) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	h = holds(pid);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(ready[0]);
	all_gone(&h);
}

static void bad_options_are_refused(void **state _unused_)
{
	struct telemetry *t = NULL;
	uint64_t many[2] = {1, 1ULL << 40};
	struct err err = {0};

	assert_int_equal(
		telemetry_open(&(struct telemetry_opts){0}, keep, NULL, &t, &err), -EINVAL);
	assert_int_equal(
		telemetry_open(&(struct telemetry_opts){.all_netns = true, .ring_bytes = 5000},
			keep, NULL, &t, &err),
		-EINVAL);
	assert_int_equal(telemetry_open(&(struct telemetry_opts){.netns = many, .n_netns = 2}, keep,
				 NULL, &t, &err),
		-EINVAL);
	assert_null(t);
}

/* ── the source, from connection to timeline ──────────────────────────────────────────────── */

static void sum(struct timeline *tl, const char *server, struct tl_conn *ret)
{
	const struct tl_conn *c;
	size_t i, n;

	memset(ret, 0, sizeof(*ret));
	timeline_lock(tl);
	n = timeline_conns(tl, &c);
	for (i = 0; i < n; i++) {
		assert_string_equal(c[i].service, "web");
		assert_int_equal(c[i].t % TIMELINE_BUCKET, 0);
		if (!streq(c[i].server, server))
			continue;
		ret->established += c[i].established;
		ret->closed += c[i].closed;
		ret->failed += c[i].failed;
		if (!ret->first)
			ret->first = c[i].first;
		ret->last = MAX(ret->last, c[i].last);
		if (c[i].established) {
			assert_in_range(c[i].first, c[i].t, c[i].t + TIMELINE_BUCKET - 1);
			assert_in_range(c[i].last, c[i].first, c[i].t + TIMELINE_BUCKET - 1);
		}
	}
	timeline_unlock(tl);
}

/* VIP 127.0.0.100, the server's own address 127.0.0.1, and everybody in one namespace: a host that serves itself */
static void the_source_fills_the_timeline(void **state _unused_)
{
	enum { N = 60, CHECKS = 10, FAILS = 7 };
	_cleanup_node_ struct node *client = node_new("client", NULL), *rs1 = node_new("rs1", NULL);
	struct node *nodes[] = {client, rs1};
	struct service_server servers[] = {{.node = rs1, .weight = 1}};
	struct service web = {
		.name = (char *)"web",
		.protocol = IPPROTO_TCP,
		.n_vips = 2,
		.vips = {"127.0.0.100", "::1"},
		.forward = "dr",
		.n_servers = 1,
		.servers = servers,
	};
	struct site site = {.name = (char *)"self",
		.n_nodes = 2,
		.nodes = nodes,
		.n_services = 1,
		.services = &web};
	struct source_ctx ctx = {.site = &site, .name = "conn"};
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *summary = NULL;
	json_int_t events, dropped, est, clients, refused;
	struct tl_conn s, f;
	struct err err = {0};
	const char *probe;
	nsec_t before, after;
	void *h = NULL;
	int i, e, lfd, active[5];

	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	ctx.tl = tl;
	lfd = listener("::", &web.port);
	assert_int_equal(source_conn.applies(&ctx, &err), 1);
	if (source_conn.start(&ctx, &h, &err) < 0)
		fail_msg("%s", err.text);
	before = now_ns();
	for (i = 0; i < N; i++)
		close_pair(open_pair(lfd, i % 2 ? "127.0.0.100" : "::1", web.port));
	for (i = 0; i < CHECKS; i++)
		close_pair(open_pair(lfd, "127.0.0.1", web.port));
	close(lfd);
	after = now_ns();
	for (i = 0; i < FAILS; i++) {
		int fd = try_connect("127.0.0.100", web.port, &e);

		assert_int_equal(e, ECONNREFUSED);
		close(fd);
	}

	/* complete once the mark has passed, and not before stop() only */
	assert_int_equal(timeline_wait(tl, now_ns(), now_ns() + WAIT), 1);
	sum(tl, "rs1", &s);
	sum(tl, "", &f);
	assert_int_equal(s.established, N);
	assert_int_equal(s.closed, N);
	assert_int_equal(s.failed, 0);
	assert_true(before <= s.first && s.first < s.last && s.last <= after);
	assert_int_equal(f.established + f.closed, 0);
	assert_int_equal(f.failed, FAILS);

	source_conn.stop(h, &summary);
	sum(tl, "rs1", &s);
	assert_int_equal(s.established, N);
	assert_non_null(summary);
	assert_int_equal(
		json_unpack(summary,
			"{s:I, s:I, s:[{s:s, s:b}, {s:b}, {s:b}, {s:b}, {s:b}], s:{s:I}, s:{s:{s:{s:{s:I}}, s:{s:I, s:{s:I}}}}}",
			"events", &events, "dropped", &dropped, "probes", "probe", &probe, "active", &active[0], "active",
			&active[1], "active", &active[2], "active", &active[3], "active", &active[4], "resolution",
			"series_ns", &est, "services", "web", "servers", "rs1", "established", &est,
			"clients", "established", &clients, "outcomes", "refused", &refused),
		0);
	assert_int_equal(events, 4 * (N + CHECKS) + FAILS);
	assert_int_equal(dropped, 0);
	assert_int_equal(est, N);
	assert_int_equal(clients, N); /* both sides agree */
	assert_int_equal(refused, FAILS);
	assert_string_equal(probe, "tp_btf/inet_sock_set_state");
	for (i = 0; i < 5; i++)
		assert_true(active[i]);
	timeline_lock(tl);
	assert_true(timeline_complete(tl) > after);
	timeline_unlock(tl);
}

/* ── what works here ──────────────────────────────────────────────────────────────────────── */

static void features_answer_for_root_and_for_nobody(void **state _unused_)
{
	static const char *const names[] = {"btf", "ringbuf", "tp_btf", "raw_tp", "cls_bpf"};
	_cleanup_json_ json_t *list = NULL;
	const json_t *e;
	int status;
	pid_t pid;
	size_t i;

	assert_int_equal(bpf_features(&list), 0);
	assert_int_equal(json_array_size(list), ARRAY_SIZE(names));
	json_array_foreach (list, i, e) {
		const json_t *works = json_object_get(e, "works");

		assert_string_equal(json_string_value(json_object_get(e, "name")), names[i]);
		assert_true(json_is_boolean(works));
		assert_int_equal(json_is_true(works), json_is_null(json_object_get(e, "reason")));
		/* the tests above have shown as much */
		if (i < 4)
			assert_true(json_is_true(works));
	}

	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		json_t *l = NULL;

		if (setuid(65534) < 0 || bpf_features(&l) < 0)
			_exit(2);
		e = json_array_get(l, 2);
		_exit(!json_is_null(json_object_get(e, "works")) ||
			!streq(json_string_value(json_object_get(e, "hint")),
				"run as root to know"));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void nothing_without_root(void **state _unused_)
{
	printf("SKIP: all of them: network namespaces and BPF need root\n");
	skip();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_exactly_v4),
		cmocka_unit_test(counts_exactly_v6),
		cmocka_unit_test(v4_on_a_v6_socket_is_v4),
		cmocka_unit_test(raw_tracepoint_tells_the_same),
		cmocka_unit_test(refused_is_refused),
		cmocka_unit_test(reset_and_abort_are_two_ends),
		cmocka_unit_test(silence_times_out),
		cmocka_unit_test(other_namespaces_are_left_out),
		cmocka_unit_test(a_full_ring_is_counted),
		cmocka_unit_test(older_connections_have_no_birth),
		cmocka_unit_test(a_full_table_is_counted),
		cmocka_unit_test(the_reader_is_woken_when_much_waits),
		cmocka_unit_test(changes_that_interrupt_are_seen),
		cmocka_unit_test(what_is_not_needed_goes_and_comes_back),
		cmocka_unit_test(closing_leaves_nothing),
		cmocka_unit_test(dying_leaves_nothing),
		cmocka_unit_test(bad_options_are_refused),
		cmocka_unit_test(the_source_fills_the_timeline),
		cmocka_unit_test(features_answer_for_root_and_for_nobody),
	};

	const struct CMUnitTest none[] = {cmocka_unit_test(nothing_without_root)};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (geteuid() != 0)
		return cmocka_run_group_tests(none, NULL, NULL);
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
