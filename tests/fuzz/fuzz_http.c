/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The response parser and the URL parser. The first byte chooses how the rest is cut into pieces: the pieces must not change
 * what comes out, and what was taken is never more than what was given.
 */
#include <stdlib.h>
#include <string.h>

#include "load/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ssize_t feed_pieces(struct http_response *r, const char *s, size_t len, size_t piece)
{
	size_t pos = 0;

	while (pos < len && !r->complete) {
		size_t n = MIN(piece, len - pos);
		/* in memory of its own, so that reading past a piece is seen */
		char *copy = malloc(n);
		ssize_t used;

		memcpy(copy, s + pos, n);
		used = http_response_feed(r, copy, n);
		free(copy);
		if (used < 0)
			return used;
		if ((size_t)used > n || ((size_t)used < n && !r->complete))
			abort();
		pos += (size_t)used;
	}
	return (ssize_t)pos;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http_response whole, pieces;
	struct http_url url;
	const char *s = (const char *)data + 1;
	ssize_t a, b;
	char *text;

	if (!size)
		return 0;
	size--;
	http_response_start(&whole, data[0] & 0x80);
	http_response_start(&pieces, data[0] & 0x80);
	a = feed_pieces(&whole, s, size, size ? size : 1);
	b = feed_pieces(&pieces, s, size, (data[0] & 0x7f) + 1);
	/* an error is found in the same bytes, though a status line that is none is refused as soon as that can be seen */
	if (a != b || whole.complete != pieces.complete || (a >= 0 && whole.bytes != (uint64_t)a))
		abort();
	if (a >= 0 && (whole.status != pieces.status || whole.state != pieces.state ||
			      http_response_end(&whole) != http_response_end(&pieces) ||
			      whole.keep_alive != pieces.keep_alive || whole.bytes != pieces.bytes))
		abort();
	if (a < 0 && (!whole.why || http_response_feed(&whole, s, size) != -EPROTO || http_response_end(&whole) != -EPIPE))
		abort();

	text = malloc(size + 1);
	memcpy(text, s, size);
	text[size] = '\0';
	if (http_url_parse(text, &url, NULL) == 0) {
		if (*url.path != '/' || !*url.host || !url.addr_len)
			abort();
		free(url.path);
	}
	free(text);
	return 0;
}
