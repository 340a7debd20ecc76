/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * base.h: what every file may use: clean-up attributes, array size, the time type.
 *
 * Clean-up attributes release memory, descriptors and handles. They never release host state:
 * that goes through the journal.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/param.h> /* MIN, MAX */
#include <unistd.h>

#include <jansson.h>

/* CLOCK_MONOTONIC nanoseconds, or a duration in nanoseconds */
typedef int64_t nsec_t;

#define NSEC_PER_USEC 1000LL
#define NSEC_PER_MSEC 1000000LL
#define NSEC_PER_SEC  1000000000LL
#define NSEC_INFINITY INT64_MAX

#define ARRAY_SIZE(a)	  (sizeof(a) / sizeof((a)[0]))
#define _cleanup_(f)	  __attribute__((cleanup(f)))
#define _printf_(fmt, va) __attribute__((format(printf, fmt, va)))
#define _unused_	  __attribute__((unused))

#define TAKE_PTR(p)                                                                                \
	({                                                                                         \
		__typeof__(p) take_ = (p);                                                         \
		(p) = NULL;                                                                        \
		take_;                                                                             \
	})
#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int take_ = (fd);                                                                  \
		(fd) = -1;                                                                         \
		take_;                                                                             \
	})

static inline void freep_(void *p)
{
	void *v = *(void **)p;

	free(v);
}

static inline void closep_(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		close(*fd);
		errno = saved;
	}
}

static inline void json_decrefp_(json_t **j)
{
	json_decref(*j);
}

#define _cleanup_free_	_cleanup_(freep_)
#define _cleanup_close_ _cleanup_(closep_)
#define _cleanup_json_	_cleanup_(json_decrefp_)
