/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A server that takes a known time to answer, and what its kernel says of it: over IPv4 and IPv6, for the first request of a connection,
 * which may come with the handshake, and for later ones; for one that comes in pieces; and nothing where the server speaks first.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/hist.h"
#include "engine/probe.h"
#include "tests/lab/one_server.h"

#define WAIT (20 * NSEC_PER_SEC)

extern const struct source_ops source_response;

/* What the clock of this test says, to hold the kernel's against: between these two */
struct span {
	nsec_t least, most;
};

static void watch(struct one_server *s)
{
	struct source_ctx ctx = {.name = "response", .site = &s->site, .tl = s->tl, .asked = true};
	struct err err = {0};

	assert_int_equal(source_response.applies(&ctx, &err), 1);
	if (source_response.start(&ctx, &s->h, &err) < 0) {
		printf("SKIP reason: %s\n", err.text);
		one_server_free(s);
		skip();
	}
}

static struct span took(nsec_t from_first, nsec_t from_last, nsec_t to_first, nsec_t to_last)
{
	return (struct span){.least = to_first - from_last, .most = to_last - from_first};
}

static void until(nsec_t length)
{
	for (nsec_t end = now_ns() + length; now_ns() < end;)
		poll(NULL, 0, (int)((end - now_ns()) / NSEC_PER_MSEC) + 1);
}

static void expect_read(int fd, const char *text)
{
	char buf[64] = "";
	size_t n = 0;

	while (n < strlen(text)) {
		ssize_t r = read(fd, buf + n, sizeof(buf) - 1 - n);

		assert_true(r > 0);
		n += (size_t)r;
	}
	assert_string_equal(buf, text);
}

/* @first, @more: what the client sends, the second half a little later; answered after @wait */
static struct span ask(int client, int server, const char *first, const char *more, nsec_t wait, bool by_file)
{
	nsec_t t[4];

	t[0] = now_ns();
	assert_int_equal(send(client, first, strlen(first), 0), strlen(first));
	t[1] = now_ns();
	expect_read(server, first);
	if (more) {
		until(wait / 2);
		assert_int_equal(send(client, more, strlen(more), 0), strlen(more));
		expect_read(server, more);
	}
	until(wait);
	t[2] = now_ns();
	if (by_file) {
		int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

		assert_int_equal(sendfile(server, fd, NULL, 6), 6);
		close(fd);
	} else {
		assert_int_equal(send(server, "answer", 6, 0), 6);
	}
	t[3] = now_ns();
	/* the rest of an answer is no other one */
	assert_int_equal(send(server, "more", 4, 0), 4);
	{
		char buf[16];

		assert_int_equal(recv(client, buf, 10, MSG_WAITALL), 10);
	}
	return took(t[0], t[1], t[2], t[3]);
}

static void open_pair(const struct one_server *s, int *client, int *server)
{
	*client = socket(s->a.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(*client, (const struct sockaddr *)&s->a, s->len), 0);
	*server = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(*server >= 0);
}

/* All that was told: the answers in increasing order of time; each is known to its place in the histogram */
static size_t told(struct one_server *s, nsec_t least[], nsec_t most[], size_t max)
{
	const struct tl_event *e;
	size_t n_events, n = 0;

	timeline_lock(s->tl);
	n_events = timeline_events(s->tl, &e);
	for (unsigned int i = 0; i < HIST_BUCKETS; i++)
		for (size_t k = 0; k < n_events; k++) {
			const json_t *pair;
			size_t at;

			if (!streq(e[k].kind, EV_LATENCY))
				continue;
			assert_string_equal(json_string_value(json_object_get(e[k].data, "service")), "web");
			assert_string_equal(json_string_value(json_object_get(e[k].data, "server")), "rs1");
			json_array_foreach (json_object_get(e[k].data, "response"), at, pair)
				for (json_int_t c = json_integer_value(json_array_get(pair, 1));
					(unsigned int)json_integer_value(json_array_get(pair, 0)) == i && c > 0; c--) {
					assert_true(n < max);
					least[n] = (nsec_t)hist_lower(i);
					most[n++] = (nsec_t)hist_lower(i + 1);
				}
		}
	timeline_unlock(s->tl);
	return n;
}

static void answers(const char *address)
{
	static const nsec_t waits[] = {5 * NSEC_PER_MSEC, 40 * NSEC_PER_MSEC, 90 * NSEC_PER_MSEC, 200 * NSEC_PER_MSEC, 400 * NSEC_PER_MSEC};
	_cleanup_json_ json_t *summary = NULL, *args = NULL;
	nsec_t least[16], most[16], begun;
	struct span want[ARRAY_SIZE(waits)];
	struct sample sample = {0};
	int client, server, old_client, old_server;
	struct one_server s;
	struct err err = {0};
	size_t n;

	one_server_listen(&s, address, 0, 16);
	open_pair(&s, &old_client, &old_server); /* it is there before anybody watches */
	watch(&s);
	args = json_pack("{s:s, s:s}", "service", "web", "server", "rs1");
	begun = now_ns();
	timeline_event(s.tl, begun, EV_SOURCE, json_pack("{s:s, s:s, s:s}", "name", "conn", "source_kind", "telemetry", "state", "started"));
	open_pair(&s, &client, &server);
	want[0] = ask(client, server, "one", NULL, waits[0], false);
	want[1] = ask(client, server, "two", NULL, waits[1], true);
	want[2] = ask(client, server, "thr", "ee", waits[2], false);
	want[3] = ask(old_client, old_server, "four", NULL, waits[3], false);
	close(client);
	close(server);
	/* a server that speaks first, and is then asked something */
	open_pair(&s, &client, &server);
	until(20 * NSEC_PER_MSEC);
	assert_int_equal(send(server, "hello", 5, 0), 5);
	expect_read(client, "hello");
	want[4] = ask(client, server, "five", NULL, waits[4], false);
	close(client);
	close(server);
	close(old_client);
	close(old_server);
	source_response.stop(s.h, &summary);
	n = told(&s, least, most, ARRAY_SIZE(least));
	assert_int_equal(n, ARRAY_SIZE(waits));
	for (size_t i = 0; i < n; i++)
		if (most[i] < want[i].least || least[i] > want[i].most)
			fail_msg("answer %zu: %lld to %lld ns by the kernel, %lld to %lld by us", i, (long long)least[i], (long long)most[i],
				(long long)want[i].least, (long long)want[i].most);
	timeline_lock(s.tl);
	assert_int_equal(probe_find("service", "response_p50")->eval(s.tl, &s.site, args, begun - NSEC_PER_SEC, now_ns(), &sample, &err), 0);
	timeline_unlock(s.tl);
	assert_true(sample.have && sample.n == n);
	assert_true(sample.value >= (double)want[2].least * 0.99 && sample.value <= (double)want[2].most * 1.01);
	print_message("%s: %s\n", address, sample.text);
	one_server_free(&s);
}

static void of_ipv4(void **state _unused_)
{
	answers("127.0.0.1");
}

static void of_ipv6(void **state _unused_)
{
	answers("::1");
}

/* The request comes with the handshake's last ACK: nobody sees it come but the handshake's end, and the time until it is accepted counts. */
static void with_the_handshake(void **state _unused_)
{
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), server, off = 0;
	_cleanup_json_ json_t *summary = NULL;
	nsec_t least[4], most[4], t[4];
	struct pollfd p = {.events = POLLOUT};
	struct one_server s;
	struct span want;

	one_server_listen(&s, "127.0.0.1", 0, 16);
	watch(&s);
	assert_int_equal(setsockopt(client, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off)), 0);
	t[0] = now_ns();
	(void)connect(client, (struct sockaddr *)&s.a, s.len);
	p.fd = client;
	assert_int_equal(poll(&p, 1, (int)(WAIT / NSEC_PER_MSEC)), 1);
	assert_int_equal(send(client, "now", 3, 0), 3);
	t[1] = now_ns();
	until(60 * NSEC_PER_MSEC); /* in the accept queue */
	server = accept4(s.fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(server >= 0);
	expect_read(server, "now");
	t[2] = now_ns();
	assert_int_equal(send(server, "yes", 3, 0), 3);
	t[3] = now_ns();
	close(client);
	close(server);
	source_response.stop(s.h, &summary);
	assert_int_equal(told(&s, least, most, ARRAY_SIZE(least)), 1);
	want = took(t[0], t[1], t[2], t[3]);
	assert_true(most[0] >= want.least && least[0] <= want.most);
	one_server_free(&s);
}

/* Another port of the same node, and the service's port at another address, are none of ours. */
static void others_are_not_told(void **state _unused_)
{
	_cleanup_json_ json_t *summary = NULL;
	struct one_server s, other[2];
	nsec_t least[1], most[1];

	one_server_listen(&s, "127.0.0.1", 0, 16);
	watch(&s);
	one_server_listen(&other[0], "127.0.0.1", 0, 16);
	one_server_listen(&other[1], "127.0.0.2", s.web.port, 16);
	for (size_t i = 0; i < ARRAY_SIZE(other); i++) {
		int client, server;

		open_pair(&other[i], &client, &server);
		(void)ask(client, server, "who", NULL, NSEC_PER_MSEC, false);
		close(client);
		close(server);
		one_server_free(&other[i]);
	}
	source_response.stop(s.h, &summary);
	assert_int_equal(told(&s, least, most, 1), 0);
	one_server_free(&s);
}

static void nothing_without_root(void **state _unused_)
{
	printf("SKIP: all of them: network namespaces and BPF need root\n");
	skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(of_ipv4), cmocka_unit_test(of_ipv6), cmocka_unit_test(with_the_handshake),
		cmocka_unit_test(others_are_not_told)};
	const struct CMUnitTest none[] = {cmocka_unit_test(nothing_without_root)};

	if (geteuid() != 0)
		return cmocka_run_group_tests(none, NULL, NULL);
	return cmocka_run_group_tests(tests, own_netns, NULL);
}
