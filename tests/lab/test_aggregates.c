/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the kernel has added up, against what can be known otherwise: the records of the same connections, the test's own bytes, the
 * kernel's counters (/proc/net/snmp, /proc/net/netstat). And what happens when there are too many, or the reader is late.
 * Everything in a network namespace of this test's own, on its loopback device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <bpf/bpf.h>
#include <cmocka.h>

#include "bpf/telemetry.h"
#include "engine/clock.h"
#include "engine/snapshot.h"
#include "engine/str.h"
#include "tests/lab/own_netns.h"

#define WAIT	  (10 * NSEC_PER_SEC)
#define BLACKHOLE "198.18.9.9" /* routed to lo, where nobody answers */
#define BLACKPORT 8080

enum { SERVER, CLIENTS, PARTIES };

static uint64_t netns;

/* ── the namespace ─────────────────────────────────────────────────────────────────────────── */

static int group_setup(void **state)
{
	struct rtentry rt = {.rt_flags = RTF_UP | RTF_HOST, .rt_dev = (char *)"lo"};
	struct rlimit files;
	struct stat st;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (own_netns(state) < 0)
		return -1;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	((struct sockaddr_in *)&rt.rt_dst)->sin_family = AF_INET;
	((struct sockaddr_in *)&rt.rt_genmask)->sin_family = AF_INET;
	inet_pton(AF_INET, BLACKHOLE, &((struct sockaddr_in *)&rt.rt_dst)->sin_addr);
	((struct sockaddr_in *)&rt.rt_genmask)->sin_addr.s_addr = INADDR_BROADCAST;
	if (ioctl(fd, SIOCADDRT, &rt) < 0)
		return -1;
	close(fd);
	fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1024 65000", 10) != 10 || fstat(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), &st) < 0)
		return -1;
	close(fd);
	netns = st.st_ino;
	return 0;
}

/* A counter of this namespace, by the name it has in /proc/net/snmp or netstat */
static uint64_t kernel_counter(const char *file, const char *prefix, const char *name)
{
	char path[64], head[4096], values[4096], *h, *v, *sh, *sv;
	uint64_t found = UINT64_MAX;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/thread-self/net/%s", file);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(head, sizeof(head), f) && fgets(values, sizeof(values), f)) {
		if (strncmp(head, prefix, strlen(prefix)) != 0)
			continue;
		h = strtok_r(head, " \n", &sh);
		v = strtok_r(values, " \n", &sv);
		for (; h && v; h = strtok_r(NULL, " \n", &sh), v = strtok_r(NULL, " \n", &sv))
			if (streq(h, name))
				found = strtoull(v, NULL, 10);
	}
	fclose(f);
	assert_true(found != UINT64_MAX);
	return found;
}

/* ── what is watched ───────────────────────────────────────────────────────────────────────── */

struct capture {
	struct telemetry *t;
	struct hist connect, lifetime, srtt; /* from the records */
	uint64_t ended[CONN_OUTCOME_COUNT], established, weights, records;
	struct conn_slot sum[PARTIES]; /* from the series */
	uint64_t buckets;
	nsec_t first[PARTIES], last[PARTIES], first_bad[PARTIES];
};

static void on_record(const struct conn_record *r, void *arg)
{
	struct capture *c = arg;

	c->records++;
	if (r->kind == CONN_ESTABLISHED) {
		c->established++;
		c->weights += r->weight;
		if (r->role == CONN_ROLE_ACTIVE)
			hist_add(&c->connect, (uint64_t)(r->established - r->open));
		return;
	}
	c->ended[r->outcome]++;
	if (r->established)
		hist_add(&c->lifetime, (uint64_t)(r->closed - r->established));
	if (r->srtt_us && r->established)
		hist_add(&c->srtt, r->srtt_us * 1000ull);
}

static void on_slot(unsigned int party, const struct conn_slot *d, void *arg)
{
	struct capture *c = arg;
	nsec_t start = (nsec_t)(d->bucket * CONN_BUCKET_NS);

	c->buckets++;
	c->sum[party].established += d->established;
	c->sum[party].closed += d->closed;
	c->sum[party].failed += d->failed;
	c->sum[party].resets += d->resets;
	c->sum[party].retransmits += d->retransmits;
	if (d->established) {
		assert_in_range(d->first, start, start + (nsec_t)CONN_BUCKET_NS - 1);
		assert_in_range(d->last, d->first, start + (nsec_t)CONN_BUCKET_NS - 1);
		c->first[party] = c->first[party] ? MIN(c->first[party], (nsec_t)d->first) : (nsec_t)d->first;
		c->last[party] = MAX(c->last[party], (nsec_t)d->last);
	}
	if (d->first_bad && (!c->first_bad[party] || (nsec_t)d->first_bad < c->first_bad[party]))
		c->first_bad[party] = (nsec_t)d->first_bad;
}

static void begin(struct capture *c, struct telemetry_opts o, uint16_t port)
{
	struct telemetry_endpoint e[] = {
		{.netns = netns, .role = CONN_ROLE_PASSIVE, .family = AF_INET, .addr = {127, 0, 0, 1}, .port = port, .service = 1,
			.party = SERVER},
		{.netns = netns, .role = CONN_ROLE_ACTIVE, .family = AF_INET, .addr = {127, 0, 0, 1}, .port = port, .service = 1,
			.party = CLIENTS},
		{.netns = netns, .role = CONN_ROLE_ACTIVE, .family = AF_INET, .addr = {198, 18, 9, 9}, .port = BLACKPORT, .service = 2,
			.party = CLIENTS},
	};
	struct telemetry_peer p[] = {{.family = AF_INET, .addr = {127, 0, 0, 1}, .node = 1}};
	struct err err = {0};

	memset(c, 0, sizeof(*c));
	o.netns = &netns;
	o.n_netns = 1;
	o.aggregates = true;
	o.endpoints = e;
	o.n_endpoints = ARRAY_SIZE(e);
	o.peers = p;
	o.n_peers = ARRAY_SIZE(p);
	o.n_parties = PARTIES;
	if (telemetry_open(&o, on_record, c, &c->t, &err) < 0)
		fail_msg("%s; %s", err.text, err.hint);
}

static void stop(struct capture *c)
{
	bool more = true;

	telemetry_detach(c->t);
	while (more)
		assert_true(telemetry_drain(c->t, &more) >= 0);
	assert_int_equal(telemetry_series(c->t, NSEC_INFINITY, on_slot, c), 0);
}

static struct telemetry_stats stats(const struct capture *c)
{
	struct telemetry_stats s;

	assert_int_equal(telemetry_stats(c->t, &s), 0);
	return s;
}

/* Of one role and service, all peers together; @peer: the only one there may be */
static struct conn_count counted(struct capture *c, enum conn_role role, uint16_t service, int peer)
{
	_cleanup_free_ struct telemetry_count *all = NULL;
	struct conn_count sum = {0};
	size_t n;

	assert_int_equal(telemetry_counts(c->t, &all, &n), 0);
	for (size_t i = 0; i < n; i++) {
		if (all[i].role != role || all[i].service != service)
			continue;
		assert_int_equal(all[i].netns, netns);
		if (peer >= 0)
			assert_int_equal(all[i].peer, peer);
		sum.opened += all[i].count.opened;
		sum.established += all[i].count.established;
		for (int k = 0; k < CONN_OUTCOME_COUNT; k++)
			sum.ended[k] += all[i].count.ended[k];
		sum.bytes_in += all[i].count.bytes_in;
		sum.bytes_out += all[i].count.bytes_out;
		sum.retransmits += all[i].count.retransmits;
		sum.unknown_birth += all[i].count.unknown_birth;
	}
	return sum;
}

static struct conn_packets packets(const struct capture *c)
{
	struct conn_packets p = {0};
	int r = telemetry_packets(c->t, netns, &p);

	assert_true(r == 0 || r == -ENODATA);
	return p;
}

/* ── connections ───────────────────────────────────────────────────────────────────────────── */

static struct sockaddr_in address(const char *text, uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};

	inet_pton(AF_INET, text, &a.sin_addr);
	return a;
}

static int listener(uint16_t *port)
{
	struct sockaddr_in a = address("127.0.0.1", 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(fd, 4096), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

struct pair {
	int client, server;
};

static struct pair open_pair(int lfd, uint16_t port)
{
	struct sockaddr_in a = address("127.0.0.1", port);
	struct pair p = {.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};

	assert_true(p.client >= 0);
	if (connect(p.client, (struct sockaddr *)&a, sizeof(a)) < 0)
		fail_msg("connect: %s", strerror(errno));
	p.server = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(p.server >= 0);
	return p;
}

static void transfer(int from, int to, size_t n)
{
	static char buf[65536];

	while (n) {
		size_t now = MIN(n, sizeof(buf));

		assert_int_equal(send(from, buf, now, 0), now);
		assert_int_equal(recv(to, buf, now, MSG_WAITALL), now);
		n -= now;
	}
}

static void abort_socket(int fd)
{
	struct linger l = {.l_onoff = 1};

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
	close(fd);
}

/* Until the other end has had what ends it */
static void await_end(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, (int)(WAIT / NSEC_PER_MSEC)), 1);
}

/* Until so many have ended at both ends: the last steps of a close are the kernel's */
static void await_ends(struct capture *c, uint64_t n)
{
	nsec_t deadline = now_ns() + WAIT;
	uint64_t seen;

	do {
		struct conn_count s = counted(c, CONN_ROLE_PASSIVE, 1, -1), a = counted(c, CONN_ROLE_ACTIVE, 1, -1);

		seen = s.unknown_birth + a.unknown_birth;
		for (int k = 0; k < CONN_OUTCOME_COUNT; k++)
			seen += s.ended[k] + a.ended[k];
	} while (seen < n && now_ns() < deadline && poll(NULL, 0, 1) == 0);
	assert_int_equal(seen, n);
}

/* ── agreement ─────────────────────────────────────────────────────────────────────────────── */

static void same_hist(const struct hist *a, const struct hist *b)
{
	assert_int_equal(a->n, b->n);
	assert_memory_equal(a->count, b->count, sizeof(a->count));
}

static void check_hists(struct capture *c)
{
	static struct hist h, other;

	assert_int_equal(telemetry_hist(c->t, CLIENTS, CONN_HIST_CONNECT, &h), 0);
	same_hist(&h, &c->connect);
	assert_int_equal(telemetry_hist(c->t, SERVER, CONN_HIST_CONNECT, &h), 0);
	assert_int_equal(h.n, 0);
	assert_int_equal(telemetry_hist(c->t, CLIENTS, CONN_HIST_LIFETIME, &h), 0);
	assert_int_equal(telemetry_hist(c->t, SERVER, CONN_HIST_LIFETIME, &other), 0);
	hist_merge(&h, &other);
	same_hist(&h, &c->lifetime);
	assert_int_equal(telemetry_hist(c->t, CLIENTS, CONN_HIST_SRTT, &h), 0);
	assert_int_equal(telemetry_hist(c->t, SERVER, CONN_HIST_SRTT, &other), 0);
	hist_merge(&h, &other);
	same_hist(&h, &c->srtt);
}

static void check_agreement(enum telemetry_hook hook)
{
	enum { N = 200, FIRST_HALF = N / 2 };
	uint64_t opens = kernel_counter("snmp", "Tcp:", "PassiveOpens"), in = 0, out = 0;
	struct conn_count server, clients;
	static struct capture c;
	nsec_t before, after;
	uint16_t port;
	int lfd = listener(&port);

	begin(&c, (struct telemetry_opts){.hook = hook}, port);
	before = now_ns();
	for (size_t i = 0; i < N; i++) {
		struct pair p = open_pair(lfd, port);

		transfer(p.client, p.server, 100 + i);
		transfer(p.server, p.client, 70000 + 3 * i);
		in += 100 + i;
		out += 70000 + 3 * i;
		if (i % 4 == 3) {
			abort_socket(p.client);
			await_end(p.server);
			close(p.server);
		} else if (i % 2) {
			close(p.client);
			await_end(p.server);
			close(p.server);
		} else {
			close(p.server);
			await_end(p.client);
			close(p.client);
		}
	}
	after = now_ns();
	await_ends(&c, 2 * N);
	stop(&c);
	server = counted(&c, CONN_ROLE_PASSIVE, 1, 1);
	clients = counted(&c, CONN_ROLE_ACTIVE, 1, 1);
	assert_int_equal(server.opened, N);
	assert_int_equal(server.established, N);
	assert_int_equal(clients.opened, N);
	assert_int_equal(clients.established, N);
	assert_int_equal(kernel_counter("snmp", "Tcp:", "PassiveOpens") - opens, N);
	/* each byte once, as the test itself has counted them; of what was aborted nothing was under way */
	assert_int_equal(server.bytes_in, in);
	assert_int_equal(server.bytes_out, out);
	assert_int_equal(clients.bytes_in, out);
	assert_int_equal(clients.bytes_out, in);
	assert_int_equal(server.ended[CONN_OUTCOME_CLOSED], N - N / 4);
	assert_int_equal(server.ended[CONN_OUTCOME_RESET], N / 4);
	assert_int_equal(clients.ended[CONN_OUTCOME_CLOSED], N - N / 4);
	assert_int_equal(clients.ended[CONN_OUTCOME_ABORTED], N / 4);
	/* the records say the same */
	assert_int_equal(c.established, 2 * N);
	for (int k = 0; k < CONN_OUTCOME_COUNT; k++)
		assert_int_equal(c.ended[k], server.ended[k] + clients.ended[k]);
	check_hists(&c);
	/* and the buckets of time */
	assert_int_equal(c.sum[SERVER].established, N);
	assert_int_equal(c.sum[SERVER].closed, N);
	assert_int_equal(c.sum[SERVER].resets, N / 4);
	assert_int_equal(c.sum[CLIENTS].established, N);
	assert_int_equal(c.sum[CLIENTS].failed + c.sum[SERVER].failed, 0);
	assert_true(before <= c.first[SERVER] && c.first[SERVER] < c.last[SERVER] && c.last[SERVER] <= after);
	assert_int_equal(telemetry_inexact(&(struct telemetry_stats){0}), 0);
	{
		struct telemetry_stats s = stats(&c);

		assert_int_equal(telemetry_inexact(&s) + telemetry_dropped(&s), 0);
	}
	close(lfd);
	telemetry_close(c.t);
}

static void all_witnesses_agree(void **state _unused_)
{
	check_agreement(TELEMETRY_TP_BTF);
}

static void raw_tracepoints_too(void **state _unused_)
{
	check_agreement(TELEMETRY_RAW_TP);
}

static void refused_reset_and_silence_are_three(void **state _unused_)
{
	enum { N = 30, SILENT = 3 };
	uint64_t sent = kernel_counter("snmp", "Tcp:", "OutRsts");
	struct sockaddr_in black = address(BLACKHOLE, BLACKPORT);
	struct pollfd p[SILENT];
	static struct capture c;
	struct conn_count n;
	struct conn_packets k;
	nsec_t deadline, begun;
	unsigned int gone = 0;
	uint16_t port, again;
	int lfd = listener(&port);

	begin(&c, (struct telemetry_opts){0}, port);
	begun = now_ns();
	for (int i = 0; i < SILENT; i++) {
		int one = 1;

		p[i] = (struct pollfd){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), .events = POLLOUT};
		assert_int_equal(setsockopt(p[i].fd, IPPROTO_TCP, TCP_SYNCNT, &one, sizeof(one)), 0);
		assert_int_equal(connect(p[i].fd, (struct sockaddr *)&black, sizeof(black)), -1);
	}
	for (int i = 0; i < N; i++) {
		struct pair pair = open_pair(lfd, port);

		abort_socket(pair.server);
		await_end(pair.client);
		close(pair.client);
	}
	close(lfd);
	for (int i = 0; i < N; i++) {
		struct sockaddr_in a = address("127.0.0.1", port);
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), -1);
		assert_int_equal(errno, ECONNREFUSED);
		close(fd);
	}
	deadline = now_ns() + 3 * WAIT;
	while (gone < SILENT && now_ns() < deadline) {
		assert_true(poll(p, SILENT, 1000) >= 0);
		for (int i = 0; i < SILENT; i++)
			if (p[i].fd >= 0 && p[i].revents) {
				close(p[i].fd);
				p[i].fd = -1;
				gone++;
			}
	}
	assert_int_equal(gone, SILENT);
	stop(&c);
	n = counted(&c, CONN_ROLE_ACTIVE, 1, 1);
	assert_int_equal(n.opened, 2 * N);
	assert_int_equal(n.ended[CONN_OUTCOME_REFUSED], N);
	assert_int_equal(n.ended[CONN_OUTCOME_RESET], N);
	n = counted(&c, CONN_ROLE_PASSIVE, 1, 1);
	assert_int_equal(n.ended[CONN_OUTCOME_ABORTED], N);
	n = counted(&c, CONN_ROLE_ACTIVE, 2, 0);
	assert_int_equal(n.opened, SILENT);
	assert_int_equal(n.established, 0);
	assert_int_equal(n.ended[CONN_OUTCOME_TIMED_OUT], SILENT);
	assert_int_equal(c.sum[CLIENTS].failed, N + SILENT);
	assert_int_equal(c.sum[CLIENTS].resets, N);
	assert_true(c.first_bad[CLIENTS] >= begun);

	/* packets: of the resets to nobody's SYN 6.1 does not tell */
	k = packets(&c);
	sent = kernel_counter("snmp", "Tcp:", "OutRsts") - sent;
	assert_int_equal(k.resets_received, 2 * N);
	if (k.resets_sent != sent)
		assert_int_equal(k.resets_sent, sent - N);
	print_message("resets sent: %llu by eBPF, %llu by the kernel's count\n", (unsigned long long)k.resets_sent,
		(unsigned long long)sent);
	lfd = listener(&again);
	close(lfd);
	telemetry_close(c.t);
}

/* SYNs into the void, and data that a full receiver's host drops: both are sent again, and counted by the kernel as well */
static void what_is_sent_again_agrees_with_netstat(void **state _unused_)
{
	enum { SILENT = 4 };
	uint64_t kernel = kernel_counter("snmp", "Tcp:", "RetransSegs");
	struct sockaddr_in black = address(BLACKHOLE, BLACKPORT);
	static struct capture c;
	struct conn_packets k;
	struct conn_count n;
	nsec_t deadline;
	int fd[SILENT];
	uint16_t port;
	int lfd = listener(&port);

	begin(&c, (struct telemetry_opts){0}, port);
	for (int i = 0; i < SILENT; i++) {
		fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		assert_int_equal(connect(fd[i], (struct sockaddr *)&black, sizeof(black)), -1);
	}
	/* told when it happens, not only at the end: nothing has ended yet */
	deadline = now_ns() + 3 * WAIT;
	do {
		n = counted(&c, CONN_ROLE_ACTIVE, 2, 0);
	} while (n.retransmits < 2 * SILENT && now_ns() < deadline && poll(NULL, 0, 20) == 0);
	assert_true(n.retransmits >= 2 * SILENT);
	assert_int_equal(n.ended[CONN_OUTCOME_ABORTED], 0);
	for (int i = 0; i < SILENT; i++)
		close(fd[i]);
	stop(&c);
	kernel = kernel_counter("snmp", "Tcp:", "RetransSegs") - kernel;
	n = counted(&c, CONN_ROLE_ACTIVE, 2, 0);
	k = packets(&c);
	assert_int_equal(n.ended[CONN_OUTCOME_ABORTED], SILENT);
	assert_int_equal(n.retransmits, kernel);
	assert_int_equal(k.retransmits + k.synack_retransmits, kernel);
	assert_int_equal(c.sum[CLIENTS].retransmits, kernel);
	close(lfd);
	telemetry_close(c.t);
}

/* ── honesty ───────────────────────────────────────────────────────────────────────────────── */

/* A hundred thousand connections, nearly twenty thousand ends of them open at once, and a table for ten thousand */
static void a_flood_is_counted_and_said_to_be_inexact(void **state _unused_)
{
	enum { AT_ONCE = 9800, TABLE = 10000 };
	const int ALL = (getenv("MUSTER_VM") ? 2 : 11) * AT_ONCE; /* emulated, one takes a millisecond and more */
	struct pair *p = calloc(AT_ONCE, sizeof(*p));
	struct conn_count server, clients;
	struct telemetry_stats s;
	static struct capture c;
	uint64_t untracked;
	uint16_t port;
	int lfd = listener(&port);

	assert_non_null(p);
	begin(&c, (struct telemetry_opts){.no_records = true, .live_max = TABLE}, port);
	for (int done = 0; done < ALL; done += AT_ONCE) {
		for (int i = 0; i < AT_ONCE; i++) {
			p[i] = open_pair(lfd, port);
			/* as a drill does, or slots would be used again unread */
			if (i % 1000 == 0)
				assert_int_equal(telemetry_series(c.t, now_ns() - 50 * NSEC_PER_MSEC, on_slot, &c), 0);
		}
		for (int i = 0; i < AT_ONCE; i++) {
			abort_socket(p[i].client);
			close(p[i].server);
			if (i % 1000 == 0)
				assert_int_equal(telemetry_series(c.t, now_ns() - 50 * NSEC_PER_MSEC, on_slot, &c), 0);
		}
	}
	stop(&c);
	s = stats(&c);
	server = counted(&c, CONN_ROLE_PASSIVE, 1, 1);
	clients = counted(&c, CONN_ROLE_ACTIVE, 1, 1);
	/* none is missing where the table is of no use ... */
	assert_int_equal(server.established, ALL);
	assert_int_equal(clients.established, ALL);
	assert_int_equal(c.sum[SERVER].established, ALL);
	/* ... what needs it is missing, is counted, and more than the report lets pass */
	untracked = s.untracked;
	assert_in_range(untracked, 1, 2 * ALL);
	/* an active one that was not tracked is noticed again when it ends; of those that were, every end has its outcome */
	assert_int_equal(server.unknown_birth + clients.unknown_birth, untracked);
	assert_int_equal(server.ended[CONN_OUTCOME_RESET] + clients.ended[CONN_OUTCOME_ABORTED] + server.unknown_birth +
				 clients.unknown_birth, 2 * ALL);
	assert_true(telemetry_inexact(&s) >= untracked);
	assert_true((double)untracked > 0.001 * 4 * ALL);
	print_message("%d connections, %llu of their ends without a birth\n", ALL, (unsigned long long)untracked);
	free(p);
	close(lfd);
	telemetry_close(c.t);
}

static void a_late_reader_is_told_what_he_missed(void **state _unused_)
{
	static struct capture c;
	struct telemetry_stats s;
	nsec_t begun;
	uint64_t made = 0;
	uint16_t port;
	int lfd = listener(&port);
	cpu_set_t all, here;

	/* a CPU has slots of its own: on another one, nothing is written over what the first one's still hold */
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	assert_int_equal(sched_setaffinity(0, sizeof(here), &here), 0);
	begin(&c, (struct telemetry_opts){.no_records = true}, port);
	/* longer than all the slots; nobody reads */
	begun = now_ns();
	while (now_ns() - begun < (nsec_t)((CONN_SLOTS + 5) * CONN_BUCKET_NS)) {
		struct pair p = open_pair(lfd, port);

		abort_socket(p.client);
		close(p.server);
		made++;
		poll(NULL, 0, 2);
	}
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	stop(&c);
	s = stats(&c);
	assert_true(s.series_missed > 0);
	/* established and closed, and the reset of one end: at each end two or three */
	assert_int_equal(c.sum[SERVER].established + c.sum[SERVER].closed + c.sum[SERVER].resets + c.sum[CLIENTS].established +
				 c.sum[CLIENTS].closed + c.sum[CLIENTS].resets + s.series_missed,
		5 * made);
	assert_int_equal(telemetry_inexact(&s), s.series_missed);
	/* the counts do not pass by there */
	assert_int_equal(counted(&c, CONN_ROLE_PASSIVE, 1, 1).established, made);
	close(lfd);
	telemetry_close(c.t);
}

static void a_reader_in_time_misses_nothing(void **state _unused_)
{
	static struct capture c;
	nsec_t begun, read = 0;
	uint64_t made = 0;
	uint16_t port;
	int lfd = listener(&port);

	begin(&c, (struct telemetry_opts){.no_records = true}, port);
	begun = now_ns();
	while (now_ns() - begun < (nsec_t)((CONN_SLOTS + 5) * CONN_BUCKET_NS)) {
		struct pair p = open_pair(lfd, port);

		abort_socket(p.client);
		close(p.server);
		made++;
		poll(NULL, 0, 2);
		if (now_ns() - read >= NSEC_PER_SEC) {
			read = now_ns();
			assert_int_equal(telemetry_series(c.t, read - 50 * NSEC_PER_MSEC, on_slot, &c), 0);
		}
	}
	stop(&c);
	assert_int_equal(stats(&c).series_missed, 0);
	assert_int_equal(c.sum[SERVER].established, made);
	assert_int_equal(c.sum[CLIENTS].closed, made);
	close(lfd);
	telemetry_close(c.t);
}

static void above_the_rate_records_are_a_sample(void **state _unused_)
{
	enum { N = 6000 };
	struct telemetry_stats s;
	static struct capture c;
	uint16_t port;
	int lfd = listener(&port);

	begin(&c, (struct telemetry_opts){.records_rate = getenv("MUSTER_VM") ? 200 : 1000}, port);
	for (int i = 0; i < N; i++) {
		struct pair p = open_pair(lfd, port);

		abort_socket(p.client);
		close(p.server);
	}
	stop(&c);
	s = stats(&c);
	assert_int_equal(counted(&c, CONN_ROLE_PASSIVE, 1, 1).established, N);
	assert_int_equal(s.births, 2 * N);
	assert_int_equal(s.lost_ring, 0);
	assert_true(s.sampled_out > N / 2);
	assert_true(s.sample_most > 1);
	/* both records or none; and their weights speak for all 2 N ends, as far as some hundred draws can */
	assert_int_equal(c.records, 2 * (s.births - s.sampled_out));
	assert_in_range(c.weights, N, 3 * N);
	print_message("%llu of %d recorded, one in %llu at most, standing for %llu\n", (unsigned long long)(s.births - s.sampled_out),
		2 * N, (unsigned long long)s.sample_most, (unsigned long long)c.weights);
	telemetry_close(c.t);

	/* and below it they are all there */
	begin(&c, (struct telemetry_opts){.records_rate = 1000000}, port);
	for (int i = 0; i < 50; i++) {
		struct pair p = open_pair(lfd, port);

		abort_socket(p.client);
		close(p.server);
	}
	stop(&c);
	assert_int_equal(c.records, 200);
	assert_int_equal(stats(&c).sampled_out, 0);
	close(lfd);
	telemetry_close(c.t);
}

static void records_can_be_those_of_failures_alone(void **state _unused_)
{
	static struct capture c;
	uint16_t port, other;
	int lfd = listener(&port), elsewhere = listener(&other);

	begin(&c, (struct telemetry_opts){.records_of_failures = true, .records_of_services = true}, port);
	for (int i = 0; i < 20; i++) {
		struct pair p = open_pair(lfd, port), q = open_pair(elsewhere, other);

		if (i % 2) {
			abort_socket(p.client);
			await_end(p.server);
		} else {
			close(p.client);
			await_end(p.server);
		}
		close(p.server);
		abort_socket(q.client);
		close(q.server);
	}
	await_ends(&c, 40);
	stop(&c);
	assert_int_equal(c.records, 20);
	assert_int_equal(c.ended[CONN_OUTCOME_RESET], 10);
	assert_int_equal(c.ended[CONN_OUTCOME_ABORTED], 10);
	assert_int_equal(counted(&c, CONN_ROLE_PASSIVE, 0, 1).established, 20);
	close(lfd);
	close(elsewhere);
	telemetry_close(c.t);
}

/* ── nothing stays ─────────────────────────────────────────────────────────────────────────── */

static char *bpf_snapshot(void)
{
	_cleanup_node_ struct node *host = node_new("host", NULL);
	const struct snapshot_ops *const *s;
	struct strbuf b = {0};
	struct err err = {0};

	assert_int_equal(node_open(host, NULL), 0);
	for (s = snapshot_table; *s && !streq((*s)->name, "bpf"); s++)
		;
	assert_non_null(*s);
	assert_int_equal((*s)->take(host, &b, &err), 0);
	assert_int_equal((*s)->take_host(&b, &err), 0);
	return b.s ? b.s : strdup("");
}

/* How often our programs are seen in it */
static unsigned int links_in(const char *snapshot)
{
	unsigned int n = 0;

	for (const char *s = snapshot; (s = strstr(s, " conn_")); s++)
		n++;
	return n;
}

static void the_snapshot_sees_it_come_and_go(void **state _unused_)
{
	_cleanup_free_ char *during = NULL, *after = NULL;
	unsigned int before;
	nsec_t deadline = now_ns() + WAIT;
	static struct capture c;

	after = bpf_snapshot();
	before = links_in(after);
	begin(&c, (struct telemetry_opts){0}, 1);
	during = bpf_snapshot();
	assert_int_equal(links_in(during), before + 6); /* two, and the four at resets and retransmissions */
	telemetry_close(c.t);
	/* the kernel takes them away after a grace period */
	do {
		free(after);
		after = bpf_snapshot();
	} while (links_in(after) != before && now_ns() < deadline && poll(NULL, 0, 5) == 0);
	assert_int_equal(links_in(after), before);
}

static void nothing_without_root(void **state _unused_)
{
	printf("SKIP: all of them: network namespaces and BPF need root\n");
	skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_witnesses_agree),
		cmocka_unit_test(raw_tracepoints_too),
		cmocka_unit_test(refused_reset_and_silence_are_three),
		cmocka_unit_test(what_is_sent_again_agrees_with_netstat),
		cmocka_unit_test(a_flood_is_counted_and_said_to_be_inexact),
		cmocka_unit_test(a_late_reader_is_told_what_he_missed),
		cmocka_unit_test(a_reader_in_time_misses_nothing),
		cmocka_unit_test(above_the_rate_records_are_a_sample),
		cmocka_unit_test(records_can_be_those_of_failures_alone),
		cmocka_unit_test(the_snapshot_sees_it_come_and_go),
	};
	const struct CMUnitTest none[] = {cmocka_unit_test(nothing_without_root)};

	if (geteuid() != 0)
		return cmocka_run_group_tests(none, NULL, NULL);
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
