/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * str.h: a growing string, and the few string helpers that are used in more than one place.
 */
#pragma once

#include "engine/base.h"

/* A growing, always terminated string. Zero-initialise it; after a failed allocation `oom` is set and
 * further appends do nothing, so that only the end has to check. */
struct strbuf {
	char *s; /* NULL when nothing was added: use strbuf_cstr() */
	size_t len, size;
	bool oom;
};

void strbuf_add(struct strbuf *b, const char *data, size_t len);
void strbuf_puts(struct strbuf *b, const char *s);
void strbuf_addf(struct strbuf *b, const char *fmt, ...) _printf_(2, 3);
const char *strbuf_cstr(const struct strbuf *b);
void strbuf_free(struct strbuf *b);
#define _cleanup_strbuf_ _cleanup_(strbuf_free)

static inline bool streq(const char *a, const char *b)
{
	return a && b && __builtin_strcmp(a, b) == 0;
}

/* printf into fresh memory, NULL when there is none */
char *strf(const char *fmt, ...) _printf_(1, 2);

/* Quotes for a POSIX shell if needed, appends to @b. */
void strbuf_add_shell(struct strbuf *b, const char *word);

/*
 * The candidate nearest to @name (optimal string alignment distance, case ignored), or NULL when none
 * is near enough to be worth suggesting: more than a third of the letters would have to change.
 * @names is NULL-terminated.
 */
const char *str_nearest(const char *name, const char *const *names);

/* Reads a whole file or descriptor of at most @max bytes, adds a '\0'. -EFBIG when larger. */
int file_read(const char *path, size_t max, char **ret, size_t *ret_len);
int fd_read_all(int fd, size_t max, char **ret, size_t *ret_len);
/* Writes a whole file (0644), truncating it. */
int file_write(const char *path, const char *data, size_t len);
/* Writes all of it, retrying on EINTR and short writes. */
int fd_write_all(int fd, const void *data, size_t len);
/* mkdir -p, mode 0755 */
int mkdir_p(const char *path);
