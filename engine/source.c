/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/source.h"

#include <signal.h>
#include <string.h>

#include "engine/str.h"

const struct source_ops *source_find(enum source_kind kind, const char *name)
{
	for (const struct source_ops *const *s = source_table; *s; s++)
		if ((*s)->kind == kind && streq((*s)->name, name))
			return *s;
	return NULL;
}

int source_thread(pthread_t *ret, void *(*fn)(void *), void *arg, struct err *err)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(ret, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r < 0 ? err_set(err, r, "start a thread: %s", strerror(-r)) : 0;
}
