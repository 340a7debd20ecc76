/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a process may use: where it may run, how it is scheduled, its limits and its place with the out-of-memory killer.
 *
 *	task ~4711@81923:nginx processors = 0-1
 *	task ~4711@81923:nginx limit nofile = 1024 4096
 *	task ~4711@81923/4715 processors = 0              a thread
 *
 * Of the host: every process of the machine; of a network namespace: those that live in it. Kernel threads are left out (the
 * kernel moves them), and so are this process and others of its program, which see to themselves. Processes come and go by
 * themselves, so the object is the process: its pid and when it was started (snapshot.h). The first line of each
 * process is always there; the rest only where it is not what every process starts with, by a fixed table, so that a line
 * never depends on another process.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "engine/snapshot.h"
#include "engine/units.h"

#define KERNEL_THREAD 0x00200000u /* PF_KTHREAD of the flags in /proc/PID/stat */

/* Left out where they are what process 1 is given by every kernel since 2.6. */
static const struct limit {
	int resource;
	const char *name;
	rlim_t soft, hard;
} limits[] = {
	{RLIMIT_CPU, "cpu", RLIM_INFINITY, RLIM_INFINITY},
	{RLIMIT_FSIZE, "fsize", RLIM_INFINITY, RLIM_INFINITY},
	{RLIMIT_DATA, "data", RLIM_INFINITY, RLIM_INFINITY},
	{RLIMIT_STACK, "stack", 8u << 20, RLIM_INFINITY},
	{RLIMIT_CORE, "core", 0, RLIM_INFINITY},
	{RLIMIT_RSS, "rss", RLIM_INFINITY, RLIM_INFINITY},
	{RLIMIT_NPROC, "nproc", RLIM_INFINITY, RLIM_INFINITY},
	{RLIMIT_NOFILE, "nofile", 1024, 4096},
	{RLIMIT_MEMLOCK, "memlock", 8u << 20, 8u << 20},
	{RLIMIT_AS, "as", RLIM_INFINITY, RLIM_INFINITY},
	{RLIMIT_LOCKS, "locks", RLIM_INFINITY, RLIM_INFINITY},
	{RLIMIT_SIGPENDING, "sigpending", RLIM_INFINITY, RLIM_INFINITY},
	{RLIMIT_MSGQUEUE, "msgqueue", 819200, 819200},
	{RLIMIT_NICE, "nice", 0, 0},
	{RLIMIT_RTPRIO, "rtprio", 0, 0},
	{RLIMIT_RTTIME, "rttime", RLIM_INFINITY, RLIM_INFINITY},
};

struct stat_line {
	char comm[64];
	unsigned long flags;
	int nice;
	unsigned int threads, rt_priority, policy;
	unsigned long long start;
};

/* Fields of /proc/PID/stat; false: the process is gone. */
static bool stat_read(int proc_fd, const char *pid, struct stat_line *ret)
{
	char path[64], text[SNAPSHOT_VALUE_MAX], *open, *close_;
	char state;
	int n;

	snprintf(path, sizeof(path), "%s/stat", pid);
	if (snapshot_read(proc_fd, path, text) < 0)
		return false;
	/* the command, field 2, may hold anything, brackets and blanks too */
	open = strchr(text, '(');
	close_ = strrchr(text, ')');
	if (!open || !close_ || close_ < open)
		return false;
	*close_ = '\0';
	strncpy(ret->comm, open + 1, sizeof(ret->comm) - 1);
	ret->comm[sizeof(ret->comm) - 1] = '\0';
	n = sscanf(close_ + 2, "%c %*d %*d %*d %*d %*d %lu %*u %*u %*u %*u %*u %*u %*d %*d %*d %d %u %*d %llu", &state,
		&ret->flags, &ret->nice, &ret->threads, &ret->start);
	if (n != 5 || state == 'Z' || state == 'X')
		return false;
	ret->policy = ret->rt_priority = 0;
	/* fields 40 and 41 */
	close_ += 2;
	for (int field = 3; close_ && field < 40; field++) {
		close_ = strchr(close_, ' ');
		close_ += close_ != NULL;
	}
	if (close_)
		(void)sscanf(close_, "%u %u", &ret->rt_priority, &ret->policy);
	return true;
}

static void add_mask(struct strbuf *b, const cpu_set_t *set, size_t size)
{
	size_t n = size * 8;
	bool first = true;

	for (size_t i = 0; i < n; i++) {
		size_t k = i;

		if (!CPU_ISSET_S(i, size, set))
			continue;
		while (k + 1 < n && CPU_ISSET_S(k + 1, size, set))
			k++;
		strbuf_addf(b, k > i ? "%s%zu-%zu" : "%s%zu", first ? "" : ",", i, k);
		first = false;
		i = k;
	}
}

static void add_processors(struct strbuf *b, pid_t tid, const char *object, struct strbuf *mask)
{
	cpu_set_t set[8]; /* 8192 processors */
	long size;

	if (mask->s)
		mask->s[mask->len = 0] = '\0';
	/* the system call, and not the library's: it says how long this kernel's masks are */
	size = syscall(SYS_sched_getaffinity, tid, sizeof(set), set);
	if (size < 0) {
		if (errno != ESRCH)
			strbuf_addf(b, "task %s processors ! could not be read: %s\n", object, strerror(errno));
		return;
	}
	add_mask(mask, set, (size_t)size);
	strbuf_addf(b, "task %s processors = %s\n", object, strbuf_cstr(mask));
}

static void add_limit(struct strbuf *b, rlim_t v)
{
	if (v == RLIM_INFINITY)
		strbuf_puts(b, " unlimited");
	else
		strbuf_addf(b, " %llu", (unsigned long long)v);
}

/* "Max open files            1024                 4096                 files" and so on, a line for each of limits[] */
static int limits_read(int proc_fd, const char *pid, struct rlimit ret[ARRAY_SIZE(limits)])
{
	static const char *const rows[ARRAY_SIZE(limits)] = {"cpu time", "file size", "data size", "stack size", "core file size",
		"resident set", "processes", "open files", "locked memory", "address space", "file locks", "pending signals",
		"msgqueue size", "nice priority", "realtime priority", "realtime timeout"};
	char path[64], text[SNAPSHOT_VALUE_MAX];
	int r;

	snprintf(path, sizeof(path), "%s/limits", pid);
	r = snapshot_read(proc_fd, path, text);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		_cleanup_free_ char *row = strf("Max %s ", rows[i]);
		const char *p = row ? strstr(text, row) : NULL;
		rlim_t *to[] = {&ret[i].rlim_cur, &ret[i].rlim_max};

		if (!p)
			return -EPROTO;
		p += strlen(row);
		for (size_t k = 0; k < 2; k++) {
			char *end;

			if (strncmp(p, "unlimited", 9) == 0) {
				*to[k] = RLIM_INFINITY;
				end = (char *)p + 9;
			} else {
				*to[k] = strtoull(p, &end, 10);
			}
			if (end == p)
				return -EPROTO;
			p = end + strspn(end, " ");
		}
	}
	return 0;
}

static void add_limits(struct strbuf *b, int proc_fd, const char *pid_text, pid_t pid, const char *object)
{
	struct rlimit all[ARRAY_SIZE(limits)];
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(limits); i++)
		if (prlimit(pid, (enum __rlimit_resource)limits[i].resource, NULL, &all[i]) < 0)
			r = -errno;
	/* another user's, and a root without CAP_SYS_RESOURCE: the text may be read still */
	if (r == -EPERM)
		r = limits_read(proc_fd, pid_text, all);
	if (r < 0) {
		if (r != -ESRCH && r != -ENOENT)
			strbuf_addf(b, "task %s limits ! could not be read: %s\n", object, strerror(-r));
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		if (all[i].rlim_cur == limits[i].soft && all[i].rlim_max == limits[i].hard)
			continue;
		strbuf_addf(b, "task %s limit %s =", object, limits[i].name);
		add_limit(b, all[i].rlim_cur);
		add_limit(b, all[i].rlim_max);
		strbuf_puts(b, "\n");
	}
}

static void add_threads(struct strbuf *b, int proc_fd, const char *pid, unsigned long long start, struct strbuf *mask)
{
	char path[64];
	struct dirent *e;
	DIR *d;
	int fd;

	snprintf(path, sizeof(path), "%s/task", pid);
	fd = openat(proc_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return;
	}
	while ((e = readdir(d))) {
		char object[96];
		int64_t tid;

		if (units_int(e->d_name, 1, INT32_MAX, &tid) < 0 || streq(e->d_name, pid))
			continue;
		snprintf(object, sizeof(object), "~%s@%llu/%d", pid, start, (int)tid);
		add_processors(b, (pid_t)tid, object, mask);
	}
	closedir(d);
}

struct look {
	ino_t netns;	  /* 0: of any */
	dev_t self_dev;
	ino_t self_ino; /* this program */
};

static bool is_ours(const struct look *l, int proc_fd, const char *pid)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "%s/exe", pid);
	return fstatat(proc_fd, path, &st, 0) == 0 && st.st_dev == l->self_dev && st.st_ino == l->self_ino;
}

static void add_process(struct strbuf *b, const struct look *l, int proc_fd, const char *pid_text, pid_t pid, struct strbuf *mask)
{
	static const char *const policies[] = {"other", "fifo", "rr", "batch", "iso", "idle", "deadline"};
	_cleanup_strbuf_ struct strbuf object = {0};
	char path[64], text[SNAPSHOT_VALUE_MAX];
	struct stat_line s;

	if (l->netns) {
		struct stat st;

		snprintf(path, sizeof(path), "%s/ns/net", pid_text);
		if (fstatat(proc_fd, path, &st, 0) < 0 || st.st_ino != l->netns)
			return;
	}
	if (!stat_read(proc_fd, pid_text, &s) || (s.flags & KERNEL_THREAD) || is_ours(l, proc_fd, pid_text))
		return;
	strbuf_addf(&object, "~%s@%llu:", pid_text, s.start);
	snapshot_word(&object, s.comm);
	add_processors(b, pid, strbuf_cstr(&object), mask);
	add_limits(b, proc_fd, pid_text, pid, strbuf_cstr(&object));
	if (s.policy || s.nice || s.rt_priority)
		strbuf_addf(b, "task %s scheduled %s priority %u nice %d\n", strbuf_cstr(&object),
			s.policy < ARRAY_SIZE(policies) ? policies[s.policy] : "?", s.rt_priority, s.nice);
	snprintf(path, sizeof(path), "%s/oom_score_adj", pid_text);
	if (snapshot_read(proc_fd, path, text) == 0 && !streq(text, "0"))
		strbuf_addf(b, "task %s oom_score_adj = %s\n", strbuf_cstr(&object), text);
	if (s.threads > 1)
		add_threads(b, proc_fd, pid_text, s.start, mask);
}

static int add_processes(struct strbuf *b, ino_t netns, struct err *err)
{
	_cleanup_strbuf_ struct strbuf mask = {0};
	struct look l = {.netns = netns};
	struct dirent *e;
	struct stat st;
	DIR *d = opendir("/proc");

	if (!d)
		return err_set(err, -errno, "/proc: %s", strerror(errno));
	if (stat("/proc/self/exe", &st) == 0) {
		l.self_dev = st.st_dev;
		l.self_ino = st.st_ino;
	}
	while ((e = readdir(d))) {
		int64_t pid;

		if (units_int(e->d_name, 1, INT32_MAX, &pid) == 0)
			add_process(b, &l, dirfd(d), e->d_name, (pid_t)pid, &mask);
	}
	closedir(d);
	return 0;
}

static int take(const struct node *n, struct strbuf *b, struct err *err)
{
	return n->netns ? add_processes(b, n->netns_ino, err) : 0; /* the host's stand with the machine's */
}

static int take_host(struct strbuf *b, struct err *err)
{
	return add_processes(b, 0, err);
}

const struct snapshot_ops snapshot_task = {
	.name = "task",
	.take = take,
	.take_host = take_host,
};
