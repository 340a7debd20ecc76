/* SPDX-License-Identifier: GPL-2.0-only */
#include "bpf/libbpf_log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <bpf/libbpf.h>

static _Thread_local char first[256];

static int keep(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char line[sizeof(first)];
	const char *s = line;

	if (level != LIBBPF_WARN || *first)
		return 0;
	vsnprintf(line, sizeof(line), fmt, ap);
	if (strncmp(s, "libbpf: ", 8) == 0)
		s += 8;
	/* several lines are the verifier's; they are of no use to a person who did not write the program */
	snprintf(first, sizeof(first), "%.*s", (int)strcspn(s, "\n"), s);
	return 0;
}

static void install(void)
{
	libbpf_set_print(keep);
}

void libbpf_log_start(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, install);
	first[0] = '\0';
}

const char *libbpf_log_first(void)
{
	return first;
}
