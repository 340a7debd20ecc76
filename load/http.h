/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * http.h: what an HTTP/1.1 client must understand of a response to know where it ends and whether the connection lives on:
 * status line, Content-Length, chunked bodies, bodies that end with the connection (RFC 9112). Bodies are counted, not kept.
 *
 * Bytes are fed as they come, in pieces of any size:
 *
 *	struct http_response rsp;
 *	http_response_start(&rsp, false);
 *	n = http_response_feed(&rsp, buf, len);       n < 0: malformed, rsp.why says how
 *	if (rsp.complete) ...                         bytes from buf + n on do not belong to it
 *	... at the end of the connection: http_response_end(&rsp)
 *
 * It is strict where a lenient reading would guess: folded header lines, both framings at once, two different lengths, spaces before
 * the colon and control characters are malformed. Lines may end in a bare LF. Interim responses (1xx) are passed over.
 * Every quantity is bounded: HTTP_HEAD_MAX bytes of status line, headers, chunk lines and trailers together per response;
 * the lines that matter at HTTP_LINE_MAX; lengths at 2^62.
 */
#pragma once

#include <sys/socket.h>

#include "engine/err.h"

#define HTTP_LINE_MAX 256
#define HTTP_HEAD_MAX (64u << 10)

enum http_state {
	HTTP_STATUS_LINE,
	HTTP_HEADERS,
	HTTP_BODY_LENGTH, /* `left` bytes to go */
	HTTP_BODY_CLOSE,  /* until the connection ends */
	HTTP_CHUNK_SIZE,
	HTTP_CHUNK_DATA, /* `left` bytes to go */
	HTTP_CHUNK_END,	 /* the line end behind the data */
	HTTP_TRAILERS,
	HTTP_COMPLETE,
};

struct http_response {
	enum http_state state;
	int status;	 /* 0 until the status line was read */
	bool complete;	 /* all of it has been seen */
	bool keep_alive; /* once complete: the connection can carry another request */
	uint64_t bytes;	 /* of all that was fed and belonged to it */
	const char *why; /* malformed: a few static words; else NULL */

	bool no_body; /* the answer to HEAD */
	bool http_1_0, chunked, have_length, have_coding, close, persist, cr;
	uint64_t left, length;
	uint32_t head;	   /* bytes of lines so far; for chunk lines of a long body, those of the current chunk */
	uint32_t line_len; /* of the current line, also beyond what `line` holds */
	char line[HTTP_LINE_MAX];
};

/* Begins a response; @head: to a HEAD request, which has headers only. */
void http_response_start(struct http_response *r, bool head);

/*
 * Takes @len bytes; returns how many belonged to the response: all, unless it is complete. -EPROTO: malformed, with
 * r->why; nothing more can be fed then.
 */
ssize_t http_response_feed(struct http_response *r, const char *data, size_t len);

/* The connection has ended: 0 when that completes the response or it was complete, -EPIPE when it came too early. */
int http_response_end(struct http_response *r);

/* Where a request goes. */
struct http_url {
	struct sockaddr_storage addr;
	socklen_t addr_len;
	char host[80]; /* for the Host header, as in the URL: "198.18.0.100:8080", "[2001:db8::1]" */
	char *path;    /* with the query, never empty; to be freed */
};

/* http://ADDRESS[:PORT][/PATH]; an IPv6 address in brackets; port 80 when it is not said. -EINVAL with the reason. */
int http_url_parse(const char *url, struct http_url *ret, struct err *err);
