/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/wire.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/clock.h"

#define HEADER 4u

/*
 * jansson recurses up to 2048 levels, and a value that deep would come back to us in every later
 * walk. So the nesting is counted before the parser sees the text. Brackets inside strings do not
 * count; whether the text is JSON at all is the parser's business.
 */
static int check_depth(const char *s, size_t len)
{
	unsigned int depth = 0;
	bool in_string = false;

	for (size_t i = 0; i < len; i++) {
		char c = s[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
			continue;
		}
		if (c == '"')
			in_string = true;
		else if ((c == '{' || c == '[') && ++depth > WIRE_DEPTH)
			return -EPROTO;
		else if ((c == '}' || c == ']') && depth)
			depth--;
	}
	return 0;
}

static uint32_t get_length(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int check_length(uint32_t len, struct err *err)
{
	if (len > WIRE_MAX)
		return err_set(err, -EMSGSIZE, "message of %" PRIu32 " bytes: the limit is %u", len,
			WIRE_MAX);
	if (len < 2)
		return err_set(
			err, -EPROTO, "message of %" PRIu32 " bytes is not a JSON object", len);
	return 0;
}

ssize_t wire_decode(const uint8_t *data, size_t len, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *msg = NULL;
	json_error_t jerr;
	const char *body;
	const json_t *v;
	uint32_t n;
	int r;

	if (len < HEADER)
		return 0;
	n = get_length(data);
	/* before asking for more: a length that will be refused is refused now */
	r = check_length(n, err);
	if (r < 0)
		return r;
	if (len - HEADER < n)
		return 0;
	body = (const char *)data + HEADER;
	if (check_depth(body, n) < 0)
		return err_set(err, -EPROTO, "message nested more than %d deep", WIRE_DEPTH);
	msg = json_loadb(body, n, JSON_REJECT_DUPLICATES, &jerr);
	if (!msg)
		return err_set(err, -EPROTO, "message is not JSON: %s at byte %d", jerr.text,
			jerr.position);
	if (!json_is_object(msg))
		return err_set(err, -EPROTO, "message is not a JSON object");
	v = json_object_get(msg, "v");
	if (!json_is_integer(v))
		return err_set(err, -EPROTO, "message without a version");
	if (json_integer_value(v) != WIRE_VERSION)
		return err_set(err, -EPROTO,
			"message of version %" JSON_INTEGER_FORMAT ": only %d is spoken here",
			json_integer_value(v), WIRE_VERSION);
	*ret = TAKE_PTR(msg);
	return (ssize_t)(HEADER + n);
}

int wire_send(int fd, const json_t *msg)
{
	_cleanup_free_ uint8_t *buf = NULL;
	size_t len, off = 0;

	len = json_dumpb(msg, NULL, 0, JSON_COMPACT);
	if (len == 0)
		return -EINVAL;
	if (len > WIRE_MAX)
		return -EMSGSIZE;
	buf = malloc(HEADER + len);
	if (!buf)
		return -ENOMEM;
	for (unsigned int i = 0; i < HEADER; i++)
		buf[i] = (uint8_t)(len >> (8 * i));
	if (json_dumpb(msg, (char *)buf + HEADER, len, JSON_COMPACT) != len)
		return -ENOMEM;
	len += HEADER;
	while (off < len) {
		/* A peer that is gone is an error to handle here, not a signal. */
		ssize_t n = send(fd, buf + off, len - off, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		off += (size_t)n;
	}
	return 0;
}

/* 0 when readable (or the other side is gone: recv() tells) */
static int wait_readable(int fd, nsec_t deadline)
{
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		nsec_t left = deadline - now_ns();
		nsec_t ms = left <= 0 ? 0 : (left + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;
		int r = poll(&p, 1, (int)MIN(ms, (nsec_t)60000));

		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r == 0 && now_ns() >= deadline)
			return -ETIMEDOUT;
	}
}

static int recv_all(int fd, uint8_t *buf, size_t len, nsec_t deadline, bool inside, struct err *err)
{
	size_t off = 0;

	while (off < len) {
		bool timed = deadline != NSEC_INFINITY;
		ssize_t n;

		if (timed) {
			int r = wait_readable(fd, deadline);

			if (r < 0)
				return err_set(err, r, "%s: %s",
					off || inside ? "half a message" : "no message",
					r == -ETIMEDOUT ? "none came in time" : strerror(-r));
		}
		n = recv(fd, buf + off, len - off, timed ? MSG_DONTWAIT : 0);
		if (n < 0 && (errno == EINTR || (timed && errno == EAGAIN)))
			continue;
		if (n < 0) {
			int code = -errno;

			return err_set(err, code, "reading a message: %s", strerror(-code));
		}
		if (n == 0)
			return err_set(err, -EPIPE, "the other side is gone%s",
				off || inside ? ", in the middle of a message" : "");
		off += (size_t)n;
	}
	return 0;
}

int wire_recv_until(int fd, nsec_t deadline, json_t **ret, struct err *err)
{
	_cleanup_free_ uint8_t *buf = NULL;
	uint8_t header[HEADER];
	ssize_t used;
	uint32_t n;
	int r;

	r = recv_all(fd, header, HEADER, deadline, false, err);
	if (r < 0)
		return r;
	n = get_length(header);
	r = check_length(n, err);
	if (r < 0)
		return r;
	buf = malloc(HEADER + n);
	if (!buf)
		return err_set(err, -ENOMEM, "message of %" PRIu32 " bytes: out of memory", n);
	memcpy(buf, header, HEADER);
	r = recv_all(fd, buf + HEADER, n, deadline, true, err);
	if (r < 0)
		return r;
	used = wire_decode(buf, HEADER + n, ret, err);
	return used < 0 ? (int)used : 0;
}

int wire_recv(int fd, json_t **ret, struct err *err)
{
	return wire_recv_until(fd, NSEC_INFINITY, ret, err);
}
