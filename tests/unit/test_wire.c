/* SPDX-License-Identifier: GPL-2.0-only */
/* Frames between script and engine: both directions, every bound, and a peer that misbehaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/clock.h"
#include "engine/str.h"
#include "engine/wire.h"

struct pair {
	int a, b;
};

static int setup(void **state)
{
	struct pair *p = malloc(sizeof(*p));
	int fds[2];

	if (!p || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	*p = (struct pair){fds[0], fds[1]};
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	if (p->a >= 0)
		close(p->a);
	if (p->b >= 0)
		close(p->b);
	free(p);
	return 0;
}

/* A frame of @text as it is, whatever it is. */
static void put(struct strbuf *b, const char *text, size_t len)
{
	char h[4] = {(char)len, (char)(len >> 8), (char)(len >> 16), (char)(len >> 24)};

	strbuf_add(b, h, 4);
	strbuf_add(b, text, len);
}

static ssize_t decode_text(const char *text, json_t **ret, struct err *err)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	put(&b, text, strlen(text));
	return wire_decode((const uint8_t *)b.s, b.len, ret, err);
}

static void test_round_trip(void **state)
{
	struct pair *p = *state;
	_cleanup_json_ json_t *m = json_pack(
		"{s:i,s:i,s:s,s:[f,n,b]}", "v", 1, "id", 7, "op", "lo\"g\n\xc3\xa9", "x", 0.1, 1);
	_cleanup_json_ json_t *got = NULL, *second = NULL;
	struct err err = {0};

	assert_int_equal(wire_send(p->a, m), 0);
	assert_int_equal(wire_send(p->a, m), 0);
	assert_int_equal(wire_recv(p->b, &got, &err), 0);
	assert_true(json_equal(m, got));
	assert_int_equal(wire_recv_until(p->b, now_ns() + NSEC_PER_SEC, &second, &err), 0);
	assert_true(json_equal(m, second));
}

/* Every prefix of a frame needs more; the frame is taken whole; what follows is left. */
static void test_decode_prefixes(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	_cleanup_json_ json_t *got = NULL;
	struct err err = {0};
	const char *text = "{\"v\":1,\"id\":3,\"value\":null}";

	(void)state;
	put(&b, text, strlen(text));
	for (size_t i = 0; i < b.len; i++) {
		assert_int_equal(wire_decode((const uint8_t *)b.s, i, &got, &err), 0);
		assert_null(got);
	}
	strbuf_puts(&b, "tail");
	assert_int_equal(
		wire_decode((const uint8_t *)b.s, b.len, &got, &err), (ssize_t)(4 + strlen(text)));
	assert_int_equal(json_integer_value(json_object_get(got, "id")), 3);
}

static void test_decode_refuses(void **state)
{
	static const struct {
		const char *text;
		int code;
		const char *says;
	} cases[] = {
		{"{}", -EPROTO, "without a version"},
		{"{\"v\":\"1\"}", -EPROTO, "without a version"},
		{"{\"v\":2}", -EPROTO, "version 2"},
		{"[1,2]", -EPROTO, "not a JSON object"},
		{"{\"v\":1", -EPROTO, "not JSON"},
		{"{\"v\":1}x", -EPROTO, "not JSON"},
		{"{\"v\":1,\"v\":1}", -EPROTO, "not JSON"},
		{"{\"v\":1,\"s\":\"\xff\"}", -EPROTO, "not JSON"},
		{"{\"v\":1,\"s\":\"\\u0000\"}", -EPROTO, "not JSON"},
		{"{\"v\":1,\"n\":1e999}", -EPROTO, "not JSON"},
		{"x", -EPROTO, "1 bytes"},
		{"", -EPROTO, "0 bytes"},
	};
	struct err err = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *got = NULL;

		assert_int_equal(decode_text(cases[i].text, &got, &err), cases[i].code);
		assert_null(got);
		assert_non_null(strstr(err.text, cases[i].says));
	}
}

static void test_depth(void **state)
{
	_cleanup_json_ json_t *got = NULL, *quoted = NULL;
	_cleanup_strbuf_ struct strbuf ok = {0}, deep = {0};
	struct err err = {0};

	(void)state;
	strbuf_puts(&ok, "{\"v\":1,\"a\":");
	strbuf_puts(&deep, "{\"v\":1,\"a\":");
	for (int i = 0; i < WIRE_DEPTH - 1; i++) {
		strbuf_puts(&ok, "[");
		strbuf_puts(&deep, "[");
	}
	strbuf_puts(&deep, "[]");
	for (int i = 0; i < WIRE_DEPTH - 1; i++) {
		strbuf_puts(&ok, "]");
		strbuf_puts(&deep, "]");
	}
	strbuf_puts(&ok, "}");
	strbuf_puts(&deep, "}");
	assert_true(decode_text(ok.s, &got, &err) > 0);
	json_decref(got);
	got = NULL;
	assert_int_equal(decode_text(deep.s, &got, &err), -EPROTO);
	assert_non_null(strstr(err.text, "deep"));
	/* brackets inside a string are text */
	strbuf_free(&ok);
	strbuf_puts(&ok, "{\"v\":1,\"a\":\"\\\"");
	for (int i = 0; i < 500; i++)
		strbuf_puts(&ok, "[{");
	strbuf_puts(&ok, "\"}");
	assert_true(decode_text(ok.s, &quoted, &err) > 0);
}

static void test_size_limits(void **state)
{
	struct pair *p = *state;
	_cleanup_json_ json_t *m = json_pack("{s:i}", "v", 1), *got = NULL;
	_cleanup_free_ char *big = malloc(WIRE_MAX + 1);
	const uint8_t header[4] = {0x01, 0x00, 0x40, 0x00}; /* 4 MiB + 1 */
	struct err err = {0};

	assert_non_null(big);
	memset(big, 'x', WIRE_MAX);
	big[WIRE_MAX] = '\0';
	json_object_set_new(m, "text", json_string(big));
	assert_int_equal(wire_send(p->a, m), -EMSGSIZE);
	/* refused from the length alone: nobody waits for the rest of it */
	assert_int_equal(wire_decode(header, sizeof(header), &got, &err), -EMSGSIZE);
	assert_int_equal(write(p->a, header, sizeof(header)), 4);
	assert_int_equal(wire_recv_until(p->b, now_ns() + NSEC_PER_SEC, &got, &err), -EMSGSIZE);
	assert_null(got);
}

static void *send_thread(void *arg)
{
	struct pair *p = arg;
	json_t *m = json_pack("{s:i}", "v", 1);
	char *text = malloc(1 << 20);

	memset(text, 'y', (1 << 20) - 1);
	text[(1 << 20) - 1] = '\0';
	json_object_set_new(m, "text", json_string(text));
	wire_send(p->a, m);
	json_decref(m);
	free(text);
	return NULL;
}

/* Larger than any socket buffer: several short writes and reads on both sides */
static void test_large_message(void **state)
{
	struct pair *p = *state;
	_cleanup_json_ json_t *got = NULL;
	struct err err = {0};
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, send_thread, p), 0);
	assert_int_equal(wire_recv_until(p->b, now_ns() + 10 * NSEC_PER_SEC, &got, &err), 0);
	pthread_join(t, NULL);
	assert_int_equal(json_string_length(json_object_get(got, "text")), (1 << 20) - 1);
}

static void test_other_side_gone(void **state)
{
	struct pair *p = *state;
	_cleanup_json_ json_t *m = json_pack("{s:i}", "v", 1), *got = NULL;
	struct err err = {0};

	/* in the middle of a message */
	assert_int_equal(write(p->a, "\x20\0\0\0{\"v\"", 8), 8);
	close(p->a);
	p->a = -1;
	assert_int_equal(wire_recv(p->b, &got, &err), -EPIPE);
	assert_non_null(strstr(err.text, "in the middle"));
	/* and between messages; sending fails without a signal */
	assert_int_equal(wire_recv(p->b, &got, &err), -EPIPE);
	assert_null(strstr(err.text, "in the middle"));
	assert_int_equal(wire_send(p->b, m), -EPIPE);
	assert_null(got);
}

static void test_deadline(void **state)
{
	struct pair *p = *state;
	_cleanup_json_ json_t *got = NULL;
	struct err err = {0};
	nsec_t t0 = now_ns();

	assert_int_equal(wire_recv_until(p->b, t0 + 30 * NSEC_PER_MSEC, &got, &err), -ETIMEDOUT);
	assert_true(now_ns() - t0 >= 30 * NSEC_PER_MSEC);
	assert_int_equal(write(p->a, "\x20\0\0\0{", 5), 5);
	assert_int_equal(
		wire_recv_until(p->b, now_ns() + 30 * NSEC_PER_MSEC, &got, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "half a message"));
	assert_null(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test(test_decode_prefixes),
		cmocka_unit_test(test_decode_refuses),
		cmocka_unit_test(test_depth),
		cmocka_unit_test_setup_teardown(test_size_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large_message, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_side_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
	};

	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
