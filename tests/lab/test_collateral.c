/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * No collateral: two streams of numbered datagrams, to A and to B, and a TCP transfer to B, run while a fault that is confined
 * to A comes and goes 50 times. Of B's nothing may be lost, doubled or out of order, and TCP must not have sent anything
 * twice; A must have felt it, and of A's nothing may be lost either where only a delay is asked for.
 *
 * That this can be seen at all is shown beside it: the same streams, while the root qdisc is replaced, and while clsact is added
 * and taken away, which is what the fault would do otherwise.
 *
 * Where the kernel has no netem the detour that carries it (detour.h) is tried with a token bucket instead.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netlink/attr.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>

#include "bridge_site.h"
#include "engine/change.h"
#include "inject/detour.h"

#define TIMES	50
#define LATE	(20 * NSEC_PER_MSEC)
#define PORT	7007
#define SEQ_MAX (1u << 22)

static struct bridge_site site;
static struct node *other; /* B: 198.18.0.3; A is the site's peer */
static char *before;
static bool emulated;

/* ── streams ───────────────────────────────────────────────────────────────────────────────── */

struct datagram {
	uint32_t seq;
	nsec_t sent;
	char filler[100];
};

struct stream {
	const char *name;
	int tx, rx;
	unsigned int pps;
	struct sockaddr_in to;
	pthread_t sender, receiver;
	atomic_bool stop, sent_all;
	_Atomic uint32_t sent, received; /* received: different ones */
	_Atomic uint32_t late;		 /* of them, those under way for more than LATE */
	uint32_t duplicated, reordered, errors;
	nsec_t longest;
	uint8_t *seen; /* a bit each */
};

static void *sender_main(void *arg)
{
	struct stream *s = arg;
	nsec_t start = now_ns();

	while (!s->stop && s->sent < SEQ_MAX) {
		nsec_t due = start + (nsec_t)s->sent * NSEC_PER_SEC / s->pps;
		struct timespec ts = {.tv_sec = due / NSEC_PER_SEC, .tv_nsec = due % NSEC_PER_SEC};
		struct datagram d = {.seq = s->sent};

		(void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		d.sent = now_ns();
		if (sendto(s->tx, &d, sizeof(d), 0, (struct sockaddr *)&s->to, sizeof(s->to)) != (ssize_t)sizeof(d))
			s->errors++;
		s->sent++;
	}
	s->sent_all = true;
	return NULL;
}

static void *receiver_main(void *arg)
{
	struct stream *s = arg;
	uint32_t next = 0;
	nsec_t until = NSEC_INFINITY;

	for (;;) {
		struct pollfd p = {.fd = s->rx, .events = POLLIN};
		struct datagram d;

		if (s->sent_all && until == NSEC_INFINITY)
			until = now_ns() + 3 * NSEC_PER_SEC; /* for what is still under way */
		if ((s->sent_all && s->received == s->sent) || now_ns() > until)
			return NULL;
		if (poll(&p, 1, 20) <= 0 || recv(s->rx, &d, sizeof(d), MSG_DONTWAIT) != (ssize_t)sizeof(d) || d.seq >= SEQ_MAX)
			continue;
		if (s->seen[d.seq / 8] & 1 << d.seq % 8) {
			s->duplicated++;
			continue;
		}
		s->seen[d.seq / 8] |= (uint8_t)(1 << d.seq % 8);
		s->received++;
		s->longest = MAX(s->longest, now_ns() - d.sent);
		s->late += now_ns() - d.sent > LATE;
		if (d.seq < next)
			s->reordered++;
		else
			next = d.seq + 1;
	}
}

static int udp_socket(const struct node *n, const char *bind_to)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = node_socket(n, AF_INET, SOCK_DGRAM, 0), size = 64 << 20;

	assert_true(fd >= 0);
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (bind_to) {
		inet_pton(AF_INET, bind_to, &a.sin_addr);
		assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	}
	return fd;
}

static void stream_start(struct stream *s, const char *name, const struct node *to, const char *addr, unsigned int pps)
{
	*s = (struct stream){.name = name, .pps = pps, .to = {.sin_family = AF_INET, .sin_port = htons(PORT)}};
	inet_pton(AF_INET, addr, &s->to.sin_addr);
	s->rx = udp_socket(to, addr);
	s->tx = udp_socket(site.node, NULL);
	s->seen = calloc(SEQ_MAX / 8, 1);
	assert_non_null(s->seen);
	assert_int_equal(pthread_create(&s->receiver, NULL, receiver_main, s), 0);
	assert_int_equal(pthread_create(&s->sender, NULL, sender_main, s), 0);
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC; s->received < 5; (void)poll(NULL, 0, 2))
		assert_true(now_ns() < until);
}

static uint32_t stream_lost(const struct stream *s)
{
	return s->sent - s->received;
}

static void stream_stop(struct stream *s)
{
	s->stop = true;
	pthread_join(s->sender, NULL);
	pthread_join(s->receiver, NULL);
	close(s->tx);
	close(s->rx);
	free(TAKE_PTR(s->seen));
	printf("    %s: %u sent, %u lost, %u duplicated, %u reordered; %u later than 20 ms, the longest %.1f ms\n", s->name, s->sent,
		stream_lost(s), s->duplicated, s->reordered, s->late, (double)s->longest / NSEC_PER_MSEC);
}

/* A TCP transfer from the node to B, at a pace that leaves the processors something */
struct transfer {
	int listener, tx, rx;
	pthread_t sender, receiver;
	atomic_bool stop;
	_Atomic uint64_t bytes;
};

static void *transfer_send(void *arg)
{
	static const char block[16384];
	struct transfer *t = arg;

	while (!t->stop)
		if (send(t->tx, block, sizeof(block), MSG_NOSIGNAL) < 0)
			break;
	shutdown(t->tx, SHUT_WR);
	return NULL;
}

static void *transfer_receive(void *arg)
{
	struct transfer *t = arg;
	char block[65536];
	ssize_t n;

	while ((n = recv(t->rx, block, sizeof(block), 0)) > 0)
		t->bytes += (uint64_t)n;
	return NULL;
}

static void transfer_start(struct transfer *t, const char *addr)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	uint32_t pace = emulated ? 1 << 20 : 20 << 20;
	int one = 1;

	*t = (struct transfer){.listener = node_socket(other, AF_INET, SOCK_STREAM, 0), .tx = node_socket(site.node, AF_INET, SOCK_STREAM, 0)};
	inet_pton(AF_INET, addr, &a.sin_addr);
	assert_int_equal(setsockopt(t->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
	assert_int_equal(bind(t->listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(t->listener, 1), 0);
	assert_int_equal(setsockopt(t->tx, SOL_SOCKET, SO_MAX_PACING_RATE, &pace, sizeof(pace)), 0);
	assert_int_equal(connect(t->tx, (struct sockaddr *)&a, sizeof(a)), 0);
	t->rx = accept(t->listener, NULL, NULL);
	assert_true(t->rx >= 0);
	assert_int_equal(pthread_create(&t->sender, NULL, transfer_send, t), 0);
	assert_int_equal(pthread_create(&t->receiver, NULL, transfer_receive, t), 0);
}

/* What TCP has sent twice, by its own account of the connection */
static unsigned int transfer_stop(struct transfer *t)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	t->stop = true;
	pthread_join(t->sender, NULL);
	pthread_join(t->receiver, NULL);
	assert_int_equal(getsockopt(t->tx, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	close(t->tx);
	close(t->rx);
	close(t->listener);
	printf("    TCP to B: %.1f MB, %u segments sent twice\n", (double)t->bytes / 1e6, info.tcpi_total_retrans);
	assert_true(t->bytes > 0);
	return info.tcpi_total_retrans;
}

/* The node's whole account: /proc/net/snmp, Tcp: RetransSegs */
static long retransmitted(void)
{
	_cleanup_free_ char *text = NULL;
	char *names, *values, *s1, *s2, *n, *v;
	long found = -1;

	{
		_cleanup_(node_leave) struct node_visit visit = {.fd = -1};

		assert_int_equal(node_enter(site.node, &visit, NULL), 0);
		assert_int_equal(file_read("/proc/thread-self/net/snmp", 1 << 20, &text, NULL), 0);
	}
	names = strstr(text, "Tcp: ");
	values = names ? strstr(names + 1, "Tcp: ") : NULL;
	assert_non_null(values);
	values[-1] = '\0';
	for (n = strtok_r(names, " ", &s1), v = strtok_r(values, " \n", &s2); n && v;
		n = strtok_r(NULL, " ", &s1), v = strtok_r(NULL, " \n", &s2))
		if (streq(n, "RetransSegs"))
			found = atol(v);
	assert_true(found >= 0);
	return found;
}

/* ── the site ──────────────────────────────────────────────────────────────────────────────── */

static int make(void **state _unused_)
{
	bridge_site_make(&site);
	sh("ip netns add other && ip -n sw link add name other type veth peer name eth0 netns other && ip -n sw link set other master lan up && "
	   "ip -n other link set eth0 up && ip -n other addr add 198.18.0.3/24 dev eth0");
	/*
	 * A tail loss probe is sent twice without any loss, when the other end's processor was busy elsewhere. A real loss
	 * is repaired without it too.
	 */
	sh("ip netns exec node sysctl -qw net.ipv4.tcp_early_retrans=0");
	/*
	 * A queue is emptied by whichever processor comes along, and a veth hands over on that processor: beside htb datagrams overtake
	 * each other without any fault. One processor receives for all.
	 */
	sh("for n in sw node peer other; do ip netns exec $n sh -c "
	   "'for f in /sys/class/net/*/queues/rx-0/rps_cpus; do echo 1 >$f || exit 1; done' || exit 1; done");
	other = site_node_make("other", "eth0", "other");
	assert_true(becomes_reachable(&site, "198.18.0.3"));
	before = site_snapshot(&site);
	return 0;
}

static int drop(void **state _unused_)
{
	node_free(TAKE_PTR(other));
	sh("ip netns del other");
	bridge_site_drop(&site);
	free(TAKE_PTR(before));
	return 0;
}

static int clean(void **state _unused_)
{
	sh("ip netns exec node sh -c 'tc qdisc del dev eth0 root; tc qdisc del dev eth0 clsact' 2>/dev/null; true");
	return 0;
}

/* ── what the fault would do otherwise ─────────────────────────────────────────────────────── */

static void control(const char *what, const char *there, const char *away, bool must_lose)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	struct stream b;
	int tc_pipe;
	FILE *p;

	stream_start(&b, what, other, "198.18.0.3", emulated ? 2000 : 20000);
	assert_int_equal(node_enter(site.node, &v, NULL), 0);
	p = popen("exec tc -b - >/dev/null", "w");
	assert_non_null(p);
	node_leave(&v);
	v.fd = -1;
	tc_pipe = fileno(p);
	for (int i = 0; i < TIMES; i++) {
		uint32_t at = b.sent;

		dprintf(tc_pipe, "%s\n", i % 2 ? away : there);
		while (b.sent < at + b.pps / 200)
			(void)poll(NULL, 0, 1);
	}
	assert_int_equal(pclose(p), 0);
	stream_stop(&b);
	if (must_lose)
		assert_true(stream_lost(&b) > 0);
}

static void root_replaced(void **state _unused_)
{
	control("B, while the root qdisc is replaced 50 times", "qdisc replace dev eth0 root handle 5: tbf rate 10gbit burst 1mbit limit 10mb",
		"qdisc del dev eth0 root", true);
}

static void clsact_flapped(void **state _unused_)
{
	control("B, while clsact comes and goes 50 times", "qdisc add dev eth0 clsact", "qdisc del dev eth0 clsact", emulated);
}

/* ── the detour by itself ──────────────────────────────────────────────────────────────────── */

static const char *const roots[] = {
	NULL,
	/* 12 Mbit/s: there is a queue all the time, and its order and its packets are at stake */
	"qdisc add dev eth0 root handle 5: tbf rate 12mbit burst 16kb limit 4mb",
	"qdisc add dev eth0 root handle 1: htb default 20\nclass add dev eth0 parent 1: classid 1:20 htb rate 100mbit\n"
	"qdisc add dev eth0 parent 1:20 handle 20: pfifo limit 3000\nqdisc add dev eth0 clsact\n"
	"filter add dev eth0 egress pref 5 handle 0x1 bpf bytecode '1,6 0 0 4294967295' da",
	"qdisc add dev eth0 root handle 9: fq_codel",
};

static bool root_set(const char *lines)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	FILE *p;

	if (!lines)
		return true;
	assert_int_equal(node_enter(site.node, &v, NULL), 0);
	p = popen("exec tc -b - >/dev/null 2>&1", "w");
	assert_non_null(p);
	fprintf(p, "%s\n", lines);
	return pclose(p) == 0;
}

static struct nl_msg *bucket(int ifindex)
{
	struct nl_msg *m = tc_msg(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, ifindex, TC_H_ROOT, 0x50000, 0, "tbf");
	/* 2 MB/s, 64 KiB held at most, 3 KiB at once; a tick is 64 ns (psched) */
	struct tc_tbf_qopt q = {.rate = {.rate = 2 << 20, .cell_log = 6, .linklayer = 1}, .limit = 65536, .buffer = 3072 * 1000 / 2097 * 1000 / 64};
	uint32_t table[256] = {0};
	struct nlattr *o = nla_nest_start(m, TCA_OPTIONS);

	assert_non_null(o);
	assert_int_equal(nla_put(m, TCA_TBF_PARMS, sizeof(q), &q), 0);
	assert_int_equal(nla_put(m, TCA_TBF_RTAB, sizeof(table), table), 0);
	nla_nest_end(m, o);
	return m;
}

static void one_detour(const struct detour *d, struct nlc *rt, struct nlc *nf, const struct stream *a, const struct stream *b)
{
	struct detour_seen seen = {0};
	struct err err = {0};
	uint32_t at;
	int in;

	if (detour_make(rt, d, "muster", &in, &err) < 0 || nlc_request(rt, bucket(in), &err) < 0 ||
		detour_open(rt, nf, d, "muster", &err) < 0)
		fail_msg("%s", err.text);
	/* until it has been felt, and B has gone on beside it */
	at = b->received;
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC; seen.packets < 5 || b->received < at + 5; (void)poll(NULL, 0, 2)) {
		if (now_ns() > until)
			fail_msg("%u packets took the detour, %u went past it; %u sent to A", (unsigned int)seen.packets, b->received - at,
				a->sent);
		assert_int_equal(detour_read(rt, nf, d, &seen, &err), 0);
	}
	assert_true(seen.table && seen.rules && !seen.foreign && seen.in && seen.out);
	if (detour_close(rt, nf, d, &seen, NSEC_PER_SEC, &err) < 0)
		fail_msg("%s", err.text);
}

static void detour_beside(void **state _unused_)
{
	_cleanup_nlc_ struct nlc *rt = NULL, *nf = NULL;
	struct err err = {0};

	assert_int_equal(nlc_open(site.node, NETLINK_ROUTE, &rt, &err), 0);
	if (nlc_open(site.node, NETLINK_NETFILTER, &nf, &err) < 0)
		SKIP("no nftables: %s", err.text);
	for (size_t i = 0; i < ARRAY_SIZE(roots); i++) {
		_cleanup_free_ char *with = NULL;
		struct transfer t;
		struct stream a, b;
		struct detour d = {.dev = "eth0", .ifindex = nlc_ifindex(rt, "eth0", NULL), .n = 1};
		long twice;

		(void)clean(NULL);
		if (!root_set(roots[i])) {
			printf("SKIP: %s: not in this kernel\n", roots[i]);
			continue;
		}
		printf("    beside %s:\n", roots[i] ? roots[i] : "the default root");
		with = site_snapshot(&site);
		twice = retransmitted();
		assert_int_equal(detour_net_parse("198.18.0.1", &d.to[0]), 0);
		stream_start(&a, "A", site.peer, "198.18.0.1", emulated ? 300 : 2000);
		stream_start(&b, "B", other, "198.18.0.3", emulated ? 300 : 5000);
		transfer_start(&t, "198.18.0.3");
		for (int k = 0; k < (emulated ? TIMES / 5 : TIMES); k++) {
			assert_int_equal(detour_token(d.token, NULL), 0);
			one_detour(&d, rt, nf, &a, &b);
		}
		stream_stop(&a);
		stream_stop(&b);
		assert_int_equal(transfer_stop(&t), 0);
		assert_int_equal(stream_lost(&b), 0);
		assert_int_equal(b.duplicated, 0);
		assert_int_equal(b.reordered, 0);
		assert_int_equal(stream_lost(&a), 0);
		assert_int_equal(a.duplicated, 0);
		assert_int_equal(retransmitted(), twice);
		assert_site_equals(&site, with);
	}
}

/* ── faults ────────────────────────────────────────────────────────────────────────────────── */

#define MUST(call)                                                                                 \
	do {                                                                                       \
		struct err must_err = {0}, *e_ = &must_err;                                        \
		int must_r = (call);                                                               \
		if (must_r != 0)                                                                   \
			fail_msg("%s: %d: %s", #call, must_r, e_->text);                           \
	} while (0)

/* @args with the node's name put in: to be checked, resolved, captured once a round */
struct faulty {
	const struct change_ops *ops;
	const struct node *node;
	json_t *args;
};

/* False: not in this kernel */
static bool faulty_make(struct faulty *f, const char *name, const struct node *node, const char *text)
{
	_cleanup_json_ json_t *given = json_loads(text, 0, NULL);
	struct err err = {0};

	assert_non_null(given);
	*f = (struct faulty){.ops = change_find(name), .node = node};
	json_object_set_new(given, "node", json_string(node->name));
	MUST(param_check(f->ops->params, name, given, NULL, &f->args, e_));
	MUST(f->ops->resolve(NULL, f->args, e_));
	if (f->ops->supported(node, f->args, &err) == 0)
		return true;
	printf("SKIP: %s: %s\n", name, err.text);
	json_decref(TAKE_PTR(f->args));
	return false;
}

/* In force until @felt has moved by @by; then measured, if that is wanted, and lifted */
static void once(const struct faulty *f, const _Atomic uint32_t *felt, uint32_t by, json_t **ret_evidence)
{
	_cleanup_json_ json_t *prior = NULL;
	uint32_t at;

	MUST(f->ops->capture(f->node, f->args, &prior, e_));
	at = *felt;
	MUST(f->ops->apply(f->node, f->args, prior, e_));
	for (nsec_t until = now_ns() + 20 * NSEC_PER_SEC; *felt < at + by; (void)poll(NULL, 0, 2))
		if (now_ns() > until)
			fail_msg("%s: in force for 20 s, and not felt", f->ops->name);
	if (ret_evidence)
		MUST(f->ops->measure(f->node, f->args, prior, ret_evidence, e_));
	MUST(f->ops->undo(f->node, f->args, prior, e_));
	MUST(f->ops->verify(f->node, f->args, prior, e_));
}

static void netem_confined(void **state _unused_)
{
	struct transfer t;
	struct stream a, b;
	struct faulty f;
	_cleanup_json_ json_t *evidence = NULL;
	long twice = retransmitted();

	if (!faulty_make(&f, "fault.netem", site.node, "{\"delay\": \"25ms\", \"to\": \"198.18.0.1\"}"))
		skip();
	stream_start(&a, "A", site.peer, "198.18.0.1", 200);
	stream_start(&b, "B", other, "198.18.0.3", 300);
	transfer_start(&t, "198.18.0.3");
	for (int k = 0; k < TIMES; k++)
		/* the one that is measured has enough traffic to be called a bite */
		once(&f, &a.late, k == TIMES / 2 ? 60 : 3, k == TIMES / 2 ? &evidence : NULL);
	stream_stop(&a);
	stream_stop(&b);
	json_decref(f.args);
	assert_int_equal(transfer_stop(&t), 0);
	assert_int_equal(stream_lost(&b), 0);
	assert_int_equal(b.duplicated, 0);
	assert_int_equal(b.reordered, 0);
	assert_int_equal(retransmitted(), twice);
	assert_true(a.late >= 3 * TIMES);
	printf("    %s\n", json_string_value(json_object_get(evidence, "text")));
	assert_true(json_is_true(json_object_get(evidence, "proved")));
	assert_int_equal(stream_lost(&a), 0); /* it was to be late, not lost */
	assert_site_equals(&site, before);
}

/* For everybody, and still nothing is lost of what was only to be late */
static void netem_whole(void **state _unused_)
{
	struct stream a, b;
	struct faulty f;

	if (!faulty_make(&f, "fault.netem", site.node, "{\"delay\": \"25ms\"}"))
		skip();
	stream_start(&a, "A", site.peer, "198.18.0.1", 200);
	stream_start(&b, "B", other, "198.18.0.3", 300);
	for (int k = 0; k < TIMES / 2; k++)
		once(&f, &b.late, 3, NULL);
	stream_stop(&a);
	stream_stop(&b);
	json_decref(f.args);
	assert_int_equal(stream_lost(&a) + stream_lost(&b), 0);
	assert_int_equal(a.duplicated + b.duplicated, 0);
	assert_site_equals(&site, before);
}

/* In the place of the root qdisc it cannot be had without loss: this is what that costs. */
static void netem_root_costs(void **state _unused_)
{
	struct stream a, b;
	struct faulty f;

	if (!faulty_make(&f, "fault.netem", site.node, "{\"delay\": \"25ms\", \"how\": \"root\"}"))
		skip();
	stream_start(&a, "A, netem as root", site.peer, "198.18.0.1", 200);
	stream_start(&b, "B, netem as root", other, "198.18.0.3", 300);
	for (int k = 0; k < TIMES / 2; k++)
		once(&f, &b.late, 3, NULL);
	stream_stop(&a);
	stream_stop(&b);
	json_decref(f.args);
	assert_true(stream_lost(&b) > 0); /* at each lift, what it holds */
	assert_site_equals(&site, before);
}

/* A is silenced at its port on the switch; nobody else's port is touched. */
static void node_loss_confined(void **state _unused_)
{
	struct transfer t;
	struct stream b;
	struct faulty f;
	long twice = retransmitted();

	if (!faulty_make(&f, "fault.node_loss", site.peer, "{\"how\": \"silent\"}"))
		skip();
	stream_start(&b, "B, while A is silenced", other, "198.18.0.3", emulated ? 300 : 5000);
	transfer_start(&t, "198.18.0.3");
	for (int k = 0; k < TIMES / 2; k++)
		once(&f, &b.sent, 20, NULL);
	stream_stop(&b);
	json_decref(f.args);
	assert_int_equal(transfer_stop(&t), 0);
	assert_int_equal(stream_lost(&b), 0);
	assert_int_equal(b.duplicated, 0);
	assert_int_equal(b.reordered, 0);
	assert_int_equal(retransmitted(), twice);
	assert_site_equals(&site, before);
}

#define T(f) cmocka_unit_test_teardown(f, clean)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(root_replaced), T(clsact_flapped), T(detour_beside), T(netem_confined), T(netem_whole), T(netem_root_costs),
		T(node_loss_confined),
	};

	emulated = getenv("MUSTER_VM") != NULL;
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, make, drop);
}
