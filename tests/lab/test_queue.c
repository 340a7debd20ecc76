/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A listening socket that nobody accepts from: what eBPF counts of its overflows is what the kernel counts (ListenOverflows), and the
 * last of them says how full it was and whom it befell. One whose handshakes do not end: how many a SYN has found. Where the programs do
 * not attach, the kernel's count stands alone and the summary says so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "bpf/queue.h"
#include "engine/clock.h"
#include "engine/events.h"
#include "engine/probe.h"
#include "engine/tcp_stat.h"
#include "tests/lab/one_server.h"

#define WAIT	(60 * NSEC_PER_SEC)
#define BACKLOG 2
#define CLIENTS 6

extern const struct source_ops source_queue;

/* The last event of this sort; NULL: none yet. Borrowed */
static const json_t *last_event(struct timeline *tl)
{
	const struct tl_event *e;
	const json_t *found = NULL;
	size_t n;

	timeline_lock(tl);
	n = timeline_events(tl, &e);
	for (size_t i = 0; i < n; i++)
		if (streq(e[i].kind, EV_QUEUE))
			found = e[i].data;
	timeline_unlock(tl);
	return found;
}

static json_int_t number(const json_t *j, const char *key)
{
	const json_t *v = json_object_get(j, key);

	if (!json_is_integer(v))
		fail_msg("%s is not a number", key);
	return json_integer_value(v);
}

static void begin(struct one_server *l, const char *address, int backlog)
{
	struct source_ctx ctx = {.name = "queue"};
	struct err err = {0};

	one_server_listen(l, address, 0, backlog);
	ctx.site = &l->site;
	ctx.tl = l->tl;
	if (source_queue.start(&ctx, &l->h, &err) < 0)
		fail_msg("%s", err.text);
}

static void connect_all(const struct one_server *l, int fds[CLIENTS])
{
	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = socket(l->a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)connect(fds[i], (const struct sockaddr *)&l->a, l->len);
	}
}

static void overflows(const char *address)
{
	_cleanup_json_ json_t *summary = NULL;
	int fds[CLIENTS], active;
	bool mine = false;
	const json_t *e, *last;
	uint64_t before, now;
	nsec_t deadline;
	struct err err = {0};
	struct one_server l;
	const char *probe;

	begin(&l, address, BACKLOG);
	assert_int_equal(tcp_ext_counter(l.rs1, "ListenOverflows", &before, &err), 0);
	connect_all(&l, fds);
	/* those beyond the queue send their SYNs again and again */
	deadline = now_ns() + WAIT;
	do {
		assert_int_equal(tcp_ext_counter(l.rs1, "ListenOverflows", &now, &err), 0);
	} while (now - before < 6 && now_ns() < deadline && poll(NULL, 0, 20) == 0);
	assert_true(now - before >= 6);
	/* until the reader has come by after the last */
	assert_int_equal(shutdown(l.fd, SHUT_RDWR), 0); /* nothing more overflows */
	assert_int_equal(tcp_ext_counter(l.rs1, "ListenOverflows", &now, &err), 0);
	assert_int_equal(timeline_wait(l.tl, now_ns(), now_ns() + WAIT), 1);
	source_queue.stop(l.h, &summary);
	e = last_event(l.tl);
	assert_non_null(e);
	assert_string_equal(json_string_value(json_object_get(e, "node")), "rs1");
	assert_int_equal(number(e, "kernel"), now - before);
	assert_int_equal(json_unpack(summary, "{s:[{s:b, s:s}]}", "probes", "active", &active, "probe", &probe), 0);
	if (active) {
		assert_int_equal(number(e, "overflows"), now - before);
		last = json_object_get(e, "last");
		assert_int_equal(number(last, "limit"), BACKLOG);
		assert_int_equal(number(last, "queued"), BACKLOG + 1); /* full is more than the limit */
		assert_string_equal(json_string_value(json_object_get(last, "peer")), address);
		for (int i = 0; i < CLIENTS; i++) {
			struct sockaddr_storage own;
			socklen_t n = sizeof(own);

			assert_int_equal(getsockname(fds[i], (struct sockaddr *)&own, &n), 0);
			mine = mine || ntohs(((struct sockaddr_in *)&own)->sin_port) == number(last, "peer_port");
		}
		assert_true(mine);
		assert_in_range(number(last, "handshakes"), 0, CLIENTS);
		print_message("%s: %llu overflows by eBPF (%s) and by the kernel; the last befell port %lld\n", address,
			(unsigned long long)(now - before), probe, (long long)number(last, "peer_port"));
	} else {
		assert_true(json_is_null(json_object_get(e, "overflows")));
		assert_true(json_is_null(json_object_get(e, "last")));
		assert_true(json_is_string(json_object_get(json_array_get(json_object_get(summary, "probes"), 0), "why")));
		print_message("%s: %llu overflows by the kernel's count alone: %s\n", address, (unsigned long long)(now - before),
			json_string_value(json_object_get(json_array_get(json_object_get(summary, "probes"), 0), "why")));
	}
	for (int i = 0; i < CLIENTS; i++)
		close(fds[i]);
	one_server_free(&l);
}

/* The server waits for the clients' first data, and their handshakes for it: each SYN finds one more than the one before. */
static void handshakes(const char *address)
{
	_cleanup_json_ json_t *summary = NULL, *args = json_pack("{s:s}", "node", "rs1");
	struct sample s = {0};
	struct err err = {0};
	struct one_server l;
	nsec_t begun, looked;
	int fds[CLIENTS], patient = 60, active;

	begin(&l, address, 4 * CLIENTS);
	assert_int_equal(setsockopt(l.fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &patient, sizeof(patient)), 0);
	begun = now_ns();
	connect_all(&l, fds);
	for (int i = 0; i < CLIENTS; i++) {
		struct pollfd p = {.fd = fds[i], .events = POLLOUT};

		assert_int_equal(poll(&p, 1, (int)(WAIT / NSEC_PER_MSEC)), 1);
	}
	looked = now_ns();
	/* and no SYN any more: the next look that says so comes within two buckets */
	for (nsec_t deadline = now_ns() + WAIT; now_ns() < deadline;) {
		const json_t *e = last_event(l.tl), *found = json_object_get(e, "handshakes");

		if (json_is_null(found) || (timeline_complete(l.tl) > looked + (nsec_t)(2 * QUEUE_BUCKET_NS) && json_integer_value(found) == 0))
			break;
		poll(NULL, 0, 10);
	}
	source_queue.stop(l.h, &summary);
	timeline_lock(l.tl);
	assert_int_equal(probe_find("node", "syn_queue")->eval(l.tl, &l.site, args, begun, now_ns(), &s, &err), 0);
	timeline_unlock(l.tl);
	assert_int_equal(json_unpack(summary, "{s:[{s:b}]}", "probes", "active", &active), 0);
	assert_int_equal(s.have, active);
	if (active) {
		assert_int_equal((int)s.value, CLIENTS - 1);
		assert_int_equal(number(last_event(l.tl), "handshakes"), 0);
	}
	print_message("%s: %s\n", address, s.text);
	for (int i = 0; i < CLIENTS; i++)
		close(fds[i]);
	one_server_free(&l);
	if (!active) {
		printf("SKIP reason: %s\n", json_string_value(json_object_get(json_array_get(json_object_get(summary, "probes"), 0), "why")));
		json_decref(summary); /* skip() does not come back */
		json_decref(args);
		skip();
	}
}

static void handshakes_of_ipv4(void **state _unused_)
{
	handshakes("127.0.0.1");
}

static void handshakes_of_ipv6(void **state _unused_)
{
	handshakes("::1");
}

static void of_ipv4(void **state _unused_)
{
	overflows("127.0.0.1");
}

static void of_ipv6(void **state _unused_)
{
	overflows("::1");
}

static void nothing_without_root(void **state _unused_)
{
	printf("SKIP: all of them: network namespaces and BPF need root\n");
	skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(of_ipv4), cmocka_unit_test(of_ipv6),
		cmocka_unit_test(handshakes_of_ipv4), cmocka_unit_test(handshakes_of_ipv6)};
	const struct CMUnitTest none[] = {cmocka_unit_test(nothing_without_root)};

	if (geteuid() != 0)
		return cmocka_run_group_tests(none, NULL, NULL);
	return cmocka_run_group_tests(tests, own_netns, NULL);
}
