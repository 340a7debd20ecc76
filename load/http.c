/* SPDX-License-Identifier: GPL-2.0-only */
/*
 *	STATUS_LINE ──> HEADERS ──┬── Content-Length ──> BODY_LENGTH ─────────────────────────────┐
 *	     ^             │      ├── chunked ─────────> CHUNK_SIZE ──> CHUNK_DATA ──> CHUNK_END  │
 *	     └── 1xx ──────┘      │                       │  ^ size 0          ^              │      │
 *	                          │                       │  └─────────────────┼──────────────┘      │
 *	                          │                       └──> TRAILERS ───────┼──────────────────> COMPLETE
 *	                          ├── neither ──────────> BODY_CLOSE ── end of the connection ──────>│
 *	                          └── no body ──────────────────────────────────────────────────────>│
 */
#include "load/http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "engine/units.h"

#define LENGTH_MAX (1ull << 62)

void http_response_start(struct http_response *r, bool head)
{
	/* all but the line, which line_len guards: this runs for every request */
	memset(r, 0, offsetof(struct http_response, line));
	r->no_body = head;
}

static int malformed(struct http_response *r, const char *why)
{
	r->why = why;
	return -EPROTO;
}

static void complete(struct http_response *r)
{
	r->state = HTTP_COMPLETE;
	r->complete = true;
	r->keep_alive = !r->close && (!r->http_1_0 || r->persist);
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

static int status_line(struct http_response *r, const char *s, size_t len)
{
	/* "HTTP/1.1 200" and, behind a space, a reason or nothing */
	if (len < 12 || memcmp(s, "HTTP/1.", 7) != 0 || !digit(s[7]) || s[8] != ' ')
		return malformed(r, "not an HTTP/1 status line");
	if (s[9] < '1' || s[9] > '9' || !digit(s[10]) || !digit(s[11]) || (len > 12 && s[12] != ' '))
		return malformed(r, "status is not three digits");
	r->status = (s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0');
	r->http_1_0 = s[7] == '0';
	if (r->status == 101)
		return malformed(r, "switching protocols was not asked for");
	r->state = HTTP_HEADERS;
	return 0;
}

/* RFC 9110 5.6.2 */
static bool token_char(unsigned char c)
{
	return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is(const char *s, size_t len, const char *word)
{
	return len == strlen(word) && strncasecmp(s, word, len) == 0;
}

static int content_length(struct http_response *r, const char *s, size_t len)
{
	uint64_t v = 0;

	if (!len)
		return malformed(r, "Content-Length is empty");
	for (size_t i = 0; i < len; i++) {
		if (!digit(s[i]))
			return malformed(r, "Content-Length is not a number");
		v = v * 10 + (uint64_t)(s[i] - '0');
		if (v > LENGTH_MAX)
			return malformed(r, "Content-Length is too large");
	}
	if (r->have_length && v != r->length)
		return malformed(r, "two different Content-Lengths");
	r->have_length = true;
	r->length = v;
	return 0;
}

/* Calls for each element of a comma-separated list, without the white space around it. */
static void list_each(struct http_response *r, const char *s, size_t len,
	void (*fn)(struct http_response *r, const char *s, size_t len))
{
	const char *end = s + len;

	while (s < end) {
		const char *comma = memchr(s, ',', (size_t)(end - s));
		const char *stop = comma ? comma : end, *next = comma ? comma + 1 : end;

		while (s < stop && (*s == ' ' || *s == '\t'))
			s++;
		while (stop > s && (stop[-1] == ' ' || stop[-1] == '\t'))
			stop--;
		if (stop > s)
			fn(r, s, (size_t)(stop - s));
		s = next;
	}
}

static void connection_option(struct http_response *r, const char *s, size_t len)
{
	r->close |= is(s, len, "close");
	r->persist |= is(s, len, "keep-alive");
}

static void transfer_coding(struct http_response *r, const char *s, size_t len)
{
	/* the last one says how the body ends */
	r->have_coding = true;
	r->chunked = is(s, len, "chunked");
}

static int header_line(struct http_response *r, const char *s, size_t len, bool whole)
{
	size_t name = 0;
	const char *v;

	if (*s == ' ' || *s == '\t')
		return malformed(r, "folded header line");
	while (name < len && token_char((unsigned char)s[name]))
		name++;
	if (!whole && name == len)
		return malformed(r, "header name too long");
	if (!name || name == len || s[name] != ':')
		return malformed(r, "header line without a name and a colon");
	if (!is(s, name, "content-length") && !is(s, name, "transfer-encoding") && !is(s, name, "connection"))
		return 0;
	if (!whole)
		return malformed(r, "header line too long");
	v = s + name + 1;
	len -= name + 1;
	while (len && (*v == ' ' || *v == '\t')) {
		v++;
		len--;
	}
	while (len && (v[len - 1] == ' ' || v[len - 1] == '\t'))
		len--;
	if (is(s, name, "content-length"))
		return content_length(r, v, len);
	list_each(r, v, len, is(s, name, "connection") ? connection_option : transfer_coding);
	return 0;
}

/* The empty line: where does the body end? RFC 9112 6.3 */
static int headers_end(struct http_response *r)
{
	if (r->status < 200) {
		/* an interim response; its head counts towards the limit, so they cannot go on for ever */
		uint32_t head = r->head;
		uint64_t bytes = r->bytes;

		http_response_start(r, r->no_body);
		r->head = head;
		r->bytes = bytes;
		return 0;
	}
	if (r->no_body || r->status == 204 || r->status == 304) {
		complete(r);
		return 0;
	}
	if (r->have_coding) {
		if (r->have_length)
			return malformed(r, "Transfer-Encoding and Content-Length at once");
		if (r->http_1_0)
			return malformed(r, "Transfer-Encoding in HTTP/1.0");
		r->state = r->chunked ? HTTP_CHUNK_SIZE : HTTP_BODY_CLOSE;
	} else if (r->have_length) {
		r->left = r->length;
		r->state = HTTP_BODY_LENGTH;
		if (!r->left)
			complete(r);
	} else {
		r->state = HTTP_BODY_CLOSE;
	}
	if (r->state == HTTP_BODY_CLOSE)
		r->close = true;
	return 0;
}

static int hex(char c)
{
	if (digit(c))
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int chunk_size(struct http_response *r, const char *s, size_t len)
{
	uint64_t v = 0;
	size_t i = 0;

	for (; i < len && hex(s[i]) >= 0; i++) {
		v = v << 4 | (uint64_t)hex(s[i]);
		if (v > LENGTH_MAX)
			return malformed(r, "chunk too large");
	}
	/* extensions are passed over */
	if (!i || (i < len && s[i] != ';' && s[i] != ' ' && s[i] != '\t'))
		return malformed(r, "chunk size is not a number");
	r->left = v;
	r->state = v ? HTTP_CHUNK_DATA : HTTP_TRAILERS;
	return 0;
}

/* @whole: the line fits `line`; else @s is its beginning. */
static int line_done(struct http_response *r, const char *s, size_t len, bool whole)
{
	switch (r->state) {
	case HTTP_STATUS_LINE:
		return status_line(r, s, len);
	case HTTP_HEADERS:
		return len ? header_line(r, s, len, whole) : headers_end(r);
	case HTTP_CHUNK_SIZE:
		return chunk_size(r, s, len);
	case HTTP_CHUNK_END:
		if (len)
			return malformed(r, "chunk longer than it said");
		r->state = HTTP_CHUNK_SIZE;
		/* a body may have any number of chunks; what is limited is what one of them spends on its lines */
		r->head = 0;
		return 0;
	case HTTP_TRAILERS:
		if (!len)
			complete(r);
		return 0;
	default:
		return malformed(r, "internal: no line expected");
	}
}

/* Takes bytes up to and including the next LF. */
static ssize_t feed_line(struct http_response *r, const char *data, size_t len)
{
	const char *lf = memchr(data, '\n', len);
	size_t used = lf ? (size_t)(lf - data) + 1 : len, text = lf ? used - 1 : used, keep;
	size_t seen = r->line_len, line_len;
	bool whole;
	int rc;

	if (used > HTTP_HEAD_MAX - r->head)
		return malformed(r, "head too long");
	r->head += (uint32_t)used;
	for (size_t i = 0; i < text; i++) {
		unsigned char c = (unsigned char)data[i];

		/* a CR belongs to the line end, and nowhere else */
		if (r->cr || (c < 0x20 && c != '\t' && c != '\r') || c == 0x7f)
			return malformed(r, "control character in the head");
		r->cr = c == '\r';
	}
	keep = seen < sizeof(r->line) ? MIN(text, sizeof(r->line) - seen) : 0;
	if (keep)
		memcpy(r->line + seen, data, keep);
	r->line_len += (uint32_t)text;
	if (!lf) {
		/* a server that does not speak HTTP shall not be listened to until its line ends */
		if (r->state == HTTP_STATUS_LINE && memcmp(r->line, "HTTP/1.", MIN(r->line_len, 7u)) != 0)
			return malformed(r, "not an HTTP/1 status line");
		return (ssize_t)used;
	}
	line_len = r->line_len - r->cr;
	r->line_len = 0;
	r->cr = false;
	whole = line_len <= sizeof(r->line);
	rc = line_done(r, r->line, MIN(line_len, sizeof(r->line)), whole);
	return rc < 0 ? rc : (ssize_t)used;
}

ssize_t http_response_feed(struct http_response *r, const char *data, size_t len)
{
	size_t pos = 0;

	if (r->why)
		return -EPROTO;
	while (pos < len && !r->complete) {
		size_t n = len - pos;

		switch (r->state) {
		case HTTP_BODY_LENGTH:
		case HTTP_CHUNK_DATA:
			n = (size_t)MIN((uint64_t)n, r->left);
			r->left -= n;
			break;
		case HTTP_BODY_CLOSE:
			break;
		default: {
			/* counted first: an interim response starts the structure anew */
			ssize_t used = feed_line(r, data + pos, n);

			if (used < 0)
				return used;
			pos += (size_t)used;
			r->bytes += (uint64_t)used;
			continue;
		}
		}
		pos += n;
		r->bytes += n;
		if (r->left == 0 && r->state == HTTP_BODY_LENGTH)
			complete(r);
		else if (r->left == 0 && r->state == HTTP_CHUNK_DATA)
			r->state = HTTP_CHUNK_END;
	}
	return (ssize_t)pos;
}

int http_response_end(struct http_response *r)
{
	if (r->state == HTTP_BODY_CLOSE && !r->why)
		complete(r);
	return r->complete ? 0 : -EPIPE;
}

int http_url_parse(const char *url, struct http_url *ret, struct err *err)
{
	struct http_url u = {.addr_len = 0};
	const char *authority, *path, *colon, *port = "80";
	char host[sizeof(u.host)], number[8];
	size_t len;
	int64_t n;

	if (strncmp(url, "http://", 7) != 0)
		return err_set(err, -EINVAL, "url \"%.100s\": must begin with http://", url);
	authority = url + 7;
	len = strcspn(authority, "/?#");
	path = authority + len;
	if (len >= sizeof(u.host))
		return err_set(err, -EINVAL, "url \"%.100s\": host is too long", url);
	memcpy(u.host, authority, len);
	u.host[len] = '\0';
	for (const char *p = path; *p; p++)
		if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '#')
			return err_set(err, -EINVAL, "url \"%.100s\": a path holds no spaces, control characters or #", url);

	strcpy(host, u.host);
	if (*host == '[') {
		char *end = strchr(host, ']');

		if (!end || (end[1] && end[1] != ':'))
			return err_set(err, -EINVAL, "url \"%.100s\": \"]\" missing after the address", url);
		if (end[1])
			port = u.host + (end + 2 - host);
		*end = '\0';
		memmove(host, host + 1, strlen(host));
	} else {
		colon = strchr(u.host, ':');
		if (colon) {
			port = colon + 1;
			host[colon - u.host] = '\0';
		}
	}
	if (strlen(port) >= sizeof(number) || units_int(strcpy(number, port), 1, 65535, &n) < 0)
		return err_set(err, -EINVAL, "url \"%.100s\": port must be 1 to 65535", url);
	if (*u.host == '[') {
		struct sockaddr_in6 *a = (struct sockaddr_in6 *)&u.addr;

		a->sin6_family = AF_INET6;
		a->sin6_port = htons((uint16_t)n);
		u.addr_len = sizeof(*a);
		if (inet_pton(AF_INET6, host, &a->sin6_addr) != 1)
			return err_set(err, -EINVAL, "url \"%.100s\": \"%s\" is not an IPv6 address", url, host);
	} else {
		struct sockaddr_in *a = (struct sockaddr_in *)&u.addr;

		a->sin_family = AF_INET;
		a->sin_port = htons((uint16_t)n);
		u.addr_len = sizeof(*a);
		if (inet_pton(AF_INET, host, &a->sin_addr) != 1)
			return err_set(err, -EINVAL,
				"url \"%.100s\": \"%s\" is not an address (names are not resolved)", url, host);
	}
	if (asprintf(&u.path, "%s%s", *path == '/' ? "" : "/", path) < 0)
		return err_set(err, -ENOMEM, "url: out of memory");
	*ret = u;
	return 0;
}
