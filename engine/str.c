/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/str.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool strbuf_room(struct strbuf *b, size_t more)
{
	size_t size = b->size ? b->size : 128;
	char *s;

	if (b->oom || more > SIZE_MAX / 4 - b->len) {
		b->oom = true;
		return false;
	}
	while (size < b->len + more + 1)
		size *= 2;
	if (size == b->size)
		return true;
	s = realloc(b->s, size);
	if (!s) {
		b->oom = true;
		return false;
	}
	b->s = s;
	b->size = size;
	return true;
}

void strbuf_add(struct strbuf *b, const char *data, size_t len)
{
	if (!strbuf_room(b, len))
		return;
	memcpy(b->s + b->len, data, len);
	b->len += len;
	b->s[b->len] = '\0';
}

void strbuf_puts(struct strbuf *b, const char *s)
{
	strbuf_add(b, s, strlen(s));
}

void strbuf_addf(struct strbuf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !strbuf_room(b, (size_t)n))
		return;
	va_start(ap, fmt);
	vsnprintf(b->s + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

const char *strbuf_cstr(const struct strbuf *b)
{
	return b->s ? b->s : "";
}

void strbuf_free(struct strbuf *b)
{
	free(b->s);
	*b = (struct strbuf){0};
}

char *strf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}

void strbuf_add_shell(struct strbuf *b, const char *word)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_";

	if (*word && strspn(word, plain) == strlen(word)) {
		strbuf_puts(b, word);
		return;
	}
	strbuf_puts(b, "'");
	for (; *word; word++) {
		if (*word == '\'')
			strbuf_puts(b, "'\\''");
		else
			strbuf_add(b, word, 1);
	}
	strbuf_puts(b, "'");
}

#define NEAREST_MAX 64

static size_t distance(const char *a, size_t la, const char *b, size_t lb)
{
	size_t d[3][NEAREST_MAX + 1], i, j;

	for (j = 0; j <= lb; j++)
		d[0][j] = j;
	for (i = 1; i <= la; i++) {
		size_t *cur = d[i % 3], *prev = d[(i + 2) % 3], *prev2 = d[(i + 1) % 3];

		cur[0] = i;
		for (j = 1; j <= lb; j++) {
			bool same = tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[j - 1]);
			size_t best = prev[j - 1] + !same;

			best = MIN(best, prev[j] + 1);
			best = MIN(best, cur[j - 1] + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = MIN(best, prev2[j - 2] + 1);
			cur[j] = best;
		}
	}
	return d[la % 3][lb];
}

const char *str_nearest(const char *name, const char *const *names)
{
	size_t len = strlen(name), best = SIZE_MAX;
	const char *nearest = NULL;

	if (len > NEAREST_MAX)
		return NULL;
	for (; *names; names++) {
		size_t n = strlen(*names), d;

		if (n > NEAREST_MAX)
			continue;
		d = distance(name, len, *names, n);
		if (d < best) {
			best = d;
			nearest = *names;
		}
	}
	return best <= MAX(len, (size_t)3) / 3 + (len > 4) ? nearest : NULL;
}

int fd_read_all(int fd, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char chunk[16384];

	for (;;) {
		ssize_t n = read(fd, chunk, sizeof(chunk));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		if (b.len + (size_t)n > max)
			return -EFBIG;
		strbuf_add(&b, chunk, (size_t)n);
	}
	strbuf_add(&b, "", 0);
	if (b.oom)
		return -ENOMEM;
	if (ret_len)
		*ret_len = b.len;
	*ret = TAKE_PTR(b.s);
	return 0;
}

int file_read(const char *path, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return fd_read_all(fd, max, ret, ret_len);
}

int fd_write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int file_write(const char *path, const char *data, size_t len)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0)
		return -errno;
	return fd_write_all(fd, data, len);
}

int mkdir_p(const char *path)
{
	_cleanup_free_ char *p = strdup(path);

	if (!p)
		return -ENOMEM;
	for (char *s = p + 1; *s; s++) {
		if (*s != '/')
			continue;
		*s = '\0';
		if (mkdir(p, 0755) < 0 && errno != EEXIST)
			return -errno;
		*s = '/';
	}
	if (mkdir(p, 0755) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}
