/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * kill_at.c: preloaded into the program under test: see kill_at.h. Every wrapped call is made by syscall(2), not by the next function of
 * that name: a sanitizer has functions of the same names in between.
 */
#include "tests/crash/kill_at.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define JOURNAL "undo.journal"

static struct control *control;
static enum role role;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv(KILL_AT_ENV), *slash;
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	struct control *c;
	int fd;

	*(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
	if (!path || n <= 0)
		return;
	exe[n] = '\0';
	slash = strrchr(exe, '/');
	/* what the program starts inherits the environment, and is nobody to count */
	if (!slash || strcmp(slash, "/muster") != 0)
		return;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (c == MAP_FAILED || c->magic != KILL_AT_MAGIC)
		return;
	role = ROLE_COMMAND;
	atomic_store(&c->pid[role], getpid());
	control = c;
}

/* ── who is who ────────────────────────────────────────────────────────────────────────────── */

int prctl(int option, ...)
{
	static const struct {
		const char *name;
		enum role role;
	} names[] = {{"muster-guard", ROLE_GUARD}, {"muster-engine", ROLE_ENGINE}, {"muster-script", ROLE_SCRIPT}};
	unsigned long a[4];
	va_list ap;

	va_start(ap, option);
	for (int i = 0; i < 4; i++)
		a[i] = va_arg(ap, unsigned long);
	va_end(ap);
	if (control && option == PR_SET_NAME)
		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
			if (strcmp((const char *)a[0], names[i].name) == 0) {
				role = names[i].role;
				atomic_store(&control->pid[role], getpid());
			}
	return (int)syscall(SYS_prctl, option, a[0], a[1], a[2], a[3]);
}

static uint8_t who_lives(void)
{
	unsigned int alive = 0;

	for (int i = ROLE_COMMAND; i < ROLES; i++) {
		pid_t pid = atomic_load(&control->pid[i]);

		if (pid > 0 && kill(pid, 0) == 0)
			alive |= BIT(i);
	}
	return (uint8_t)alive;
}

/* ── shooting ──────────────────────────────────────────────────────────────────────────────── */

static int64_t real_now(void)
{
	struct timespec t = {0};

	real_clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* All of the targets, the shooter last. Returns when it was none of them, or is to go on. */
static void fire(const struct shot *s)
{
	bool self = s->targets & BIT(role);

	if (control->hurry)
		atomic_store(&control->hurry_from, real_now());
	for (int i = ROLE_COMMAND; i < ROLES; i++) {
		pid_t pid = atomic_load(&control->pid[i]);

		if ((s->targets & BIT(i)) && i != (int)role && pid > 0 && s->signal)
			kill(pid, s->signal);
	}
	if (s->lasting)
		atomic_store(&control->failing, s->error);
	atomic_fetch_add(&control->fired, 1);
	syscall(SYS_futex, &control->fired, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	if (self && s->signal) {
		kill(getpid(), s->signal);
		/* the signal may be another thread's to take; nothing of this one happens after it */
		while (s->signal == SIGKILL || s->signal == SIGSEGV)
			pause();
	}
}

static const struct shot *shot_at(int step, enum place place)
{
	for (uint32_t i = 0; i < control->n_shots; i++)
		if (control->shots[i].step == step && control->shots[i].place == (int32_t)place)
			return &control->shots[i];
	return NULL;
}

/* Notes the step; returns its number, or -1 when this is not to be counted. Shoots if it is to be before it. */
static int step_begin(enum step_op op, const void *data, size_t len, const struct shot **ret_failing)
{
	uint32_t n = atomic_fetch_add(&control->n_steps, 1);
	const struct shot *s;

	if (n >= STEPS_MAX)
		return -1;
	control->steps[n] =
		(struct step){.op = (uint8_t)op, .role = (uint8_t)role, .alive = who_lives(), .size = (uint32_t)len};
	for (size_t i = 0, k = 0; i < len && k < LABEL_MAX - 1; i++) {
		unsigned char c = ((const unsigned char *)data)[i];

		if (c >= 32 && c < 127)
			control->steps[n].label[k++] = (char)c;
	}
	s = shot_at((int)n, PLACE_BEFORE);
	if (s)
		fire(s);
	*ret_failing = s && s->error ? s : NULL;
	return (int)n;
}

static void step_end(int n)
{
	const struct shot *s = n >= 0 ? shot_at(n, PLACE_AFTER) : NULL;

	if (s)
		fire(s);
}

/* ── the calls ─────────────────────────────────────────────────────────────────────────────── */

static bool is_journal_path(const char *path)
{
	const char *slash = strrchr(path, '/');

	return strcmp(slash ? slash + 1 : path, JOURNAL) == 0;
}

/* By what the descriptor is, not by how it came to be. A script is behind a seccomp filter by now, and has no journal. */
static bool is_journal(int fd)
{
	char link[64], path[PATH_MAX];
	ssize_t n;
	int saved = errno;

	if (!control || role == ROLE_SCRIPT || fd <= STDERR_FILENO)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	errno = saved;
	if (n <= 0)
		return false;
	path[n] = '\0';
	return is_journal_path(path);
}

/* pwrite when @at is not negative */
static ssize_t put(int fd, const void *data, size_t len, off_t at)
{
	return at < 0 ? syscall(SYS_write, fd, data, len) : syscall(SYS_pwrite64, fd, data, len, at);
}

static ssize_t counted_write(int fd, const void *data, size_t len, off_t at)
{
	static _Thread_local int fail_next; /* the rest of a record of which only half found room */
	const struct shot *failing, *torn;
	ssize_t r;
	int n;

	if (fail_next || atomic_load(&control->failing)) {
		errno = fail_next ? fail_next : atomic_load(&control->failing);
		fail_next = 0;
		return -1;
	}
	n = step_begin(STEP_WRITE, data, len, &failing);
	if (failing) {
		errno = failing->error;
		return -1;
	}
	torn = n >= 0 ? shot_at(n, PLACE_TORN) : NULL;
	if (torn) {
		r = put(fd, data, len / 2, at);
		fire(torn);
		if (torn->error) {
			fail_next = torn->error;
			return r;
		}
		return r < 0 ? r
			     : r + put(fd, (const char *)data + len / 2, len - len / 2,
					   at < 0 ? at : at + (off_t)(len / 2));
	}
	r = put(fd, data, len, at);
	step_end(n);
	return r;
}

ssize_t write(int fd, const void *data, size_t len)
{
	return is_journal(fd) ? counted_write(fd, data, len, -1) : put(fd, data, len, -1);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
	return is_journal(fd) ? counted_write(fd, data, len, at) : put(fd, data, len, at);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at)
{
	return pwrite(fd, data, len, at);
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
	char record[1 << 16];
	size_t len = 0;

	if (!is_journal(fd))
		return syscall(SYS_writev, fd, v, n);
	for (int i = 0; i < n; i++) {
		if (v[i].iov_len > sizeof(record) - len)
			return syscall(SYS_writev, fd, v, n);
		memcpy(record + len, v[i].iov_base, v[i].iov_len);
		len += v[i].iov_len;
	}
	return counted_write(fd, record, len, -1);
}

static int counted(enum step_op op, const char *label, long nr, long a, long b, long c)
{
	const struct shot *failing;
	int n = step_begin(op, label, strlen(label), &failing), r;

	if (failing) {
		errno = failing->error;
		return -1;
	}
	r = (int)syscall(nr, a, b, c);
	step_end(n);
	return r;
}

int fdatasync(int fd)
{
	return is_journal(fd) ? counted(STEP_SYNC, "", SYS_fdatasync, fd, 0, 0) : (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
	return is_journal(fd) ? counted(STEP_SYNC, "", SYS_fsync, fd, 0, 0) : (int)syscall(SYS_fsync, fd);
}

int ftruncate(int fd, off_t len)
{
	return is_journal(fd) ? counted(STEP_TRUNCATE, "", SYS_ftruncate, fd, len, 0)
			      : (int)syscall(SYS_ftruncate, fd, len);
}

int ftruncate64(int fd, off64_t len)
{
	return ftruncate(fd, len);
}

/* A file that is not there is no step: it is looked for by more than one process, at the end in their own time. */
static bool is_there(int dir, const char *path)
{
	struct stat st;

	return control && role != ROLE_SCRIPT && is_journal_path(path) &&
	       fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

int unlink(const char *path)
{
	return is_there(AT_FDCWD, path) ? counted(STEP_REMOVE, path, SYS_unlinkat, AT_FDCWD, (long)path, 0)
					: (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int unlinkat(int dir, const char *path, int flags)
{
	return is_there(dir, path) ? counted(STEP_REMOVE, path, SYS_unlinkat, dir, (long)path, flags)
				   : (int)syscall(SYS_unlinkat, dir, path, flags);
}

/* ── a clock in a hurry ────────────────────────────────────────────────────────────────────── */

static bool in_a_hurry(void)
{
	return control && (control->hurry & BIT(role));
}

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	int r = real_clock_gettime(clock, ret);
	int64_t t, from, ahead;

	if (r < 0 || !in_a_hurry() || clock != CLOCK_MONOTONIC)
		return r;
	from = atomic_load(&control->hurry_from);
	t = ret->tv_sec * 1000000000LL + ret->tv_nsec;
	if (!from || t < from)
		return r;
	ahead = (t - from) * (LAPSE_FASTER - 1);
	t += ahead < LAPSE_MAX ? ahead : LAPSE_MAX;
	ret->tv_sec = t / 1000000000LL;
	ret->tv_nsec = t % 1000000000LL;
	return r;
}

/* In slices: the shot may fall while it waits, and the time that it wants to wait is its own. */
int poll(struct pollfd *p, nfds_t n, int timeout)
{
	struct timespec begin, now, slice = {.tv_nsec = 20000000};

	if (!in_a_hurry())
		return (int)syscall(SYS_ppoll, p, n,
			timeout < 0 ? NULL : &(struct timespec){timeout / 1000, timeout % 1000 * 1000000L}, NULL, 0);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (;;) {
		int r = (int)syscall(SYS_ppoll, p, n, &slice, NULL, 0);

		slice = (struct timespec){.tv_nsec = 20000000};
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (r != 0 ||
			(timeout >= 0 && (now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 >=
						 timeout))
			return r;
	}
}
