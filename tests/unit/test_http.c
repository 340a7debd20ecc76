/* SPDX-License-Identifier: GPL-2.0-only */
/* Responses, whole and cut at every byte: the cuts must change nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "load/http.h"

struct want {
	const char *text;
	bool head;	  /* in reply to HEAD */
	bool end;	  /* then the connection ends */
	int result;	  /* 0 complete, -EPROTO, -EPIPE: more was to come */
	int status;
	bool keep_alive;
	size_t rest;	  /* bytes that belong to what follows */
};

static const struct want wants[] = {
	{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", .status = 200, .keep_alive = true},
	{"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhelloHTTP", .status = 200, .keep_alive = true, .rest = 4},
	{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5 \r\n\r\nhello", .status = 200, .keep_alive = true},
	{"HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n", .status = 500, .keep_alive = true},
	{"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", .status = 500, .keep_alive = true},
	{"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", .status = 200, .keep_alive = true},
	{"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nhi", .status = 200},
	{"HTTP/1.1 200 OK\r\nConnection: x, close , y\r\nContent-Length: 2\r\n\r\nhi", .status = 200},
	{"HTTP/1.1 200 OK\r\nConnection: closed\r\nContent-Length: 2\r\n\r\nhi", .status = 200, .keep_alive = true},
	{"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", .status = 200},
	{"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", .status = 200, .keep_alive = true},
	/* the connection's end is the body's end, and only then */
	{"HTTP/1.1 200 OK\r\n\r\nanything", .end = true, .status = 200},
	{"HTTP/1.1 200 OK\r\n\r\n", .end = true, .status = 200},
	{"HTTP/1.1 200 OK\r\n\r\nanything", .result = -EPIPE},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nanything", .end = true, .status = 200},
	{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", .end = true, .result = -EPIPE},
	{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", .end = true, .result = -EPIPE},
	{"", .end = true, .result = -EPIPE},
	/* no body, whatever the headers say */
	{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", .head = true, .status = 200, .keep_alive = true},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", .head = true, .status = 200, .keep_alive = true},
	{"HTTP/1.1 204 No Content\r\n\r\n", .status = 204, .keep_alive = true},
	{"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", .status = 304, .keep_alive = true},
	/* interim responses */
	{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
		.status = 200, .keep_alive = true},
	{"HTTP/1.1 100 Continue\r\nConnection: close\r\nContent-Length: 3\r\n\r\nHTTP/1.1 204 OK\r\n\r\n", .status = 204,
		.keep_alive = true},
	{"HTTP/1.1 101 Switching\r\n\r\n", .result = -EPROTO},
	/* chunks */
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", .status = 200, .keep_alive = true},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n00A;x=\"y\"\r\n0123456789\r\n1 \r\nx\r\n000\r\nT: v\r\n\r\nZ",
		.status = 200, .keep_alive = true, .rest = 1},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", .status = 200, .keep_alive = true},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", .end = true, .result = -EPIPE},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", .result = -EPROTO},
	{"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", .result = -EPROTO},
	/* lengths */
	{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", .result = -EPROTO},
	/* lines that are none */
	{"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\n: y\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nnothing\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 200 OK\r\nX: \x01\r\n\r\n", .result = -EPROTO},
	{"\r\nHTTP/1.1 200 OK\r\n\r\n", .result = -EPROTO},
	{"HTTP/2.0 200 OK\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 20 OK\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 2000 OK\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1 099 OK\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1  200 OK\r\n\r\n", .result = -EPROTO},
	{"HTTP/1.1\r\n\r\n", .result = -EPROTO},
	{"ICY 200 OK\r\n\r\n", .result = -EPROTO},
	{"220 mail.example.org ESMTP", .result = -EPROTO}, /* before its line ends */
};

static void run(const struct want *w, size_t cut1, size_t cut2)
{
	size_t len = strlen(w->text), cuts[] = {cut1, cut2, len}, pos = 0;
	struct http_response r;
	int result = -EPIPE;

	memset(&r, 0xa5, sizeof(r)); /* start must not rely on what was there */
	http_response_start(&r, w->head);
	for (size_t i = 0; i < ARRAY_SIZE(cuts) && !r.complete; i++) {
		size_t n = cuts[i] - pos;
		char *piece = malloc(n + !n);
		ssize_t used;

		memcpy(piece, w->text + pos, n);
		used = http_response_feed(&r, piece, n);
		free(piece);
		if (used < 0) {
			result = (int)used;
			assert_non_null(r.why);
			break;
		}
		pos += (size_t)used;
		if (!r.complete)
			assert_int_equal(pos, cuts[i]);
	}
	if (result == -EPIPE && (w->end || r.complete))
		result = http_response_end(&r);
	if (result != w->result)
		fail_msg("\"%s\" cut at %zu and %zu: %d (%s), want %d", w->text, cut1, cut2, result, r.why ? r.why : "",
			w->result);
	if (result == -EPROTO)
		assert_int_equal(http_response_feed(&r, "x", 1), -EPROTO);
	if (result < 0)
		return;
	assert_true(r.complete);
	assert_int_equal(r.status, w->status);
	if (r.keep_alive != w->keep_alive)
		fail_msg("\"%s\": keep_alive is %d", w->text, r.keep_alive);
	assert_int_equal(len - pos, w->rest);
	assert_int_equal(r.bytes, pos);
}

static void every_cut(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wants); i++) {
		size_t len = strlen(wants[i].text);

		for (size_t a = 0; a <= len; a++) {
			run(&wants[i], a, len);
			if (a < len)
				run(&wants[i], a, a + 1);
		}
	}
}

static int feed(struct http_response *r, const char *s)
{
	ssize_t n = http_response_feed(r, s, strlen(s));

	return n < 0 ? (int)n : 0;
}

/* A head of any shape ends at its limit; the limit is on the head, not on the body. */
static void limits(void **state)
{
	struct http_response r;
	char line[1024];
	int rc = 0;

	(void)state;
	memset(line, 'v', sizeof(line));
	memcpy(line, "X: ", 3);
	memcpy(line + sizeof(line) - 3, "\r\n", 3);

	/* one line longer than what is kept: harmless, if it is of no interest */
	http_response_start(&r, false);
	assert_int_equal(feed(&r, "HTTP/1.1 200 OK\r\n"), 0);
	assert_int_equal(feed(&r, line), 0);
	assert_int_equal(feed(&r, "Content-Length: 3\r\n\r\nabc"), 0);
	assert_true(r.complete);
	memcpy(line, "Connection: ", 12);
	http_response_start(&r, false);
	assert_int_equal(feed(&r, "HTTP/1.1 200 OK\r\n"), 0);
	assert_int_equal(feed(&r, line), -EPROTO);
	memset(line, 'n', 300);
	http_response_start(&r, false);
	assert_int_equal(feed(&r, "HTTP/1.1 200 OK\r\n"), 0);
	assert_int_equal(feed(&r, line), -EPROTO);

	/* headers without end */
	memcpy(line, "X: ", 3);
	http_response_start(&r, false);
	rc = feed(&r, "HTTP/1.1 200 OK\r\n");
	for (size_t sent = 0; !rc && sent < 2 * HTTP_HEAD_MAX; sent += sizeof(line))
		rc = feed(&r, line);
	assert_int_equal(rc, -EPROTO);
	assert_string_equal(r.why, "head too long");

	/* a line without end */
	http_response_start(&r, false);
	rc = feed(&r, "HTTP/1.1 200 ");
	for (size_t sent = 0; !rc && sent < 2 * HTTP_HEAD_MAX; sent += 10)
		rc = feed(&r, "0123456789");
	assert_int_equal(rc, -EPROTO);

	/* interim responses without end */
	http_response_start(&r, false);
	rc = 0;
	for (size_t sent = 0; !rc && sent < 2 * HTTP_HEAD_MAX; sent += 25)
		rc = feed(&r, "HTTP/1.1 100 Continue\r\n\r\n");
	assert_int_equal(rc, -EPROTO);

	/* trailers without end */
	http_response_start(&r, false);
	rc = feed(&r, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
	for (size_t sent = 0; !rc && sent < 2 * HTTP_HEAD_MAX; sent += 6)
		rc = feed(&r, "A: b\r\n");
	assert_int_equal(rc, -EPROTO);

	/* but any number of chunks, and bytes */
	http_response_start(&r, false);
	assert_int_equal(feed(&r, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), 0);
	for (int i = 0; i < 50000; i++)
		assert_int_equal(feed(&r, "3\r\nabc\r\n"), 0);
	assert_int_equal(feed(&r, "0\r\n\r\n"), 0);
	assert_true(r.complete && r.keep_alive);
	http_response_start(&r, false);
	assert_int_equal(feed(&r, "HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\n"), 0);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(feed(&r, line), 0);
	assert_false(r.complete);
}

static void urls(void **state)
{
	static const struct {
		const char *url;
		int family, port;
		const char *addr, *host, *path;
	} good[] = {
		{"http://198.18.0.1", AF_INET, 80, "198.18.0.1", "198.18.0.1", "/"},
		{"http://198.18.0.1/", AF_INET, 80, "198.18.0.1", "198.18.0.1", "/"},
		{"http://198.18.0.1:8080/a/b?c=d&e", AF_INET, 8080, "198.18.0.1", "198.18.0.1:8080", "/a/b?c=d&e"},
		{"http://198.18.0.1?q", AF_INET, 80, "198.18.0.1", "198.18.0.1", "/?q"},
		{"http://[2001:db8::1]", AF_INET6, 80, "2001:db8::1", "[2001:db8::1]", "/"},
		{"http://[2001:db8::1]:65535/x", AF_INET6, 65535, "2001:db8::1", "[2001:db8::1]:65535", "/x"},
	};
	static const char *const bad[] = {"", "http://", "https://198.18.0.1/", "198.18.0.1", "http://web/", "http://198.18.0/",
		"http://198.18.0.1:0/", "http://198.18.0.1:65536/", "http://198.18.0.1:/", "http://198.18.0.1:80x/",
		"http://198.18.0.1:-1/", "http://[2001:db8::1/", "http://[2001:db8::1]x/", "http://[198.18.0.1]/",
		"http://2001:db8::1/", "http://[]/", "http://u@198.18.0.1/", "http://198.18.0.1/a b",
		"http://198.18.0.1/a\r\nX: y", "http://198.18.0.1/#f", "http://198.18.0.1:00000000000000000080/",
		"http://11111111111111111111111111111111111111111111111111111111111111111111111111111111111111/"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct http_url u = {0};
		struct err err = {0};
		char text[INET6_ADDRSTRLEN];
		const struct sockaddr_in *a4 = (const struct sockaddr_in *)&u.addr;
		const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)&u.addr;
		bool six = good[i].family == AF_INET6;

		if (http_url_parse(good[i].url, &u, &err) < 0)
			fail_msg("%s: %s", good[i].url, err.text);
		assert_int_equal(u.addr.ss_family, good[i].family);
		assert_int_equal(ntohs(six ? a6->sin6_port : a4->sin_port), good[i].port);
		inet_ntop(good[i].family, six ? (const void *)&a6->sin6_addr : &a4->sin_addr, text, sizeof(text));
		assert_string_equal(text, good[i].addr);
		assert_string_equal(u.host, good[i].host);
		assert_string_equal(u.path, good[i].path);
		free(u.path);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct http_url u = {.addr_len = 77};
		struct err err = {0};

		if (http_url_parse(bad[i], &u, &err) != -EINVAL)
			fail_msg("\"%s\" was taken", bad[i]);
		assert_int_equal(u.addr_len, 77);
		assert_true(err.text[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_cut),
		cmocka_unit_test(limits),
		cmocka_unit_test(urls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
