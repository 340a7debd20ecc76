/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * err.h: an error a person can act on.
 *
 * A function that can fail returns 0 or -errno, and takes a `struct err *` last when there is more
 * to say than a number. The text names the thing, the action and the kernel's reason; the hint says
 * what to type next. A null `struct err *` is accepted everywhere.
 *
 *	return err_set(err, -ENOENT, "netem on %s/%s: no such device", node->name, dev);
 */
#pragma once

#include "engine/base.h"

struct err {
	int code;	 /* -errno, 0 when unset */
	char text[1024]; /* one line, no trailing dot */
	char hint[512];	 /* what to type next, or empty */
};

/* Sets text and code; returns @code, so that it can stand in a return statement. */
int(err_set)(struct err *e, int code, const char *fmt, ...) _printf_(3, 4);
/* The same, and the compiler sees that the code comes back: else it takes a failed function's outputs for used. */
#define err_set(e, code, ...)                                                                      \
	({                                                                                         \
		int err_code_ = (code);                                                            \
		(void)(err_set)(e, err_code_, __VA_ARGS__);                                        \
		err_code_;                                                                         \
	})

/* Adds what to do about it; returns the code already set, -EIO when there is no @e to ask. */
int err_hint(struct err *e, const char *fmt, ...) _printf_(2, 3);

/* Puts "CONTEXT: " before the text that is there; returns the code already set, -EIO when there is no @e to ask. */
int err_prefix(struct err *e, const char *fmt, ...) _printf_(2, 3);
