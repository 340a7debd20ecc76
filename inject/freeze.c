/* SPDX-License-Identifier: GPL-2.0-only */
#include "inject/freeze.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "engine/change.h"
#include "engine/clock.h"

#define PATIENCE (5 * NSEC_PER_SEC)
#define LOOK_MS	 2

/* ── who ───────────────────────────────────────────────────────────────────────────────────── */

bool proc_listens(pid_t pid, const struct listener *l, size_t n)
{
	char path[64];
	struct dirent *e;
	bool found = false;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	while (d && !found && (e = readdir(d))) {
		char target[64];
		unsigned int inode;
		ssize_t len = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);

		if (len <= 0)
			continue;
		target[len] = '\0';
		if (sscanf(target, "socket:[%u]", &inode) != 1)
			continue;
		for (size_t i = 0; i < n; i++)
			found |= l[i].inode == inode;
	}
	if (d)
		closedir(d);
	return found;
}

/* State (field 3), start time (22) and name of a process. -ESRCH: it is gone, or a zombie */
static int proc_look(pid_t pid, char *ret_state, uint64_t *ret_start, char ret_name[16])
{
	_cleanup_free_ char *s = NULL;
	char path[64];
	char *open, *close;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	r = file_read(path, 4096, &s, NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	open = strchr(s, '(');
	close = strrchr(s, ')');
	if (!open || !close || close[1] != ' ')
		return -EPROTO;
	*ret_state = close[2];
	if (*ret_state == 'Z' || *ret_state == 'X')
		return -ESRCH;
	snprintf(ret_name, 16, "%.*s", (int)(close - open - 1), open + 1);
	for (char *c = ret_name; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return pid_start_time(pid, ret_start);
}

static bool is_stopped(char state)
{
	return state == 'T' || state == 't';
}

static bool listed(const json_t *list, pid_t pid, uint64_t start)
{
	const json_t *j;
	size_t i;

	json_array_foreach((json_t *)list, i, j)
		if (json_integer_value(json_object_get(j, "pid")) == pid &&
			(uint64_t)json_integer_value(json_object_get(j, "start")) == start)
			return true;
	return false;
}

/* Calls @fn for each process that the rule names */
typedef int (*each_fn)(pid_t pid, uint64_t start, char state, const char *name, void *arg);

static int each(const struct node *n, uint16_t port, each_fn fn, void *arg, struct err *err)
{
	_cleanup_free_ struct listener *l = NULL;
	_cleanup_free_ pid_t *pids = NULL;
	size_t count = 0, n_l = 0;
	int r = port ? listeners_read(n, port, &l, &n_l, err) : 0;

	if (r == 0)
		r = node_pids(n, &pids, &count, err);
	for (size_t i = 0; r == 0 && i < count; i++) {
		char state, name[16];
		uint64_t start;

		if (proc_look(pids[i], &state, &start, name) < 0 || (port && !proc_listens(pids[i], l, n_l)))
			continue;
		r = fn(pids[i], start, state, name, arg);
	}
	return r;
}

static uint16_t port_of(const json_t *prior)
{
	return (uint16_t)json_integer_value(json_object_get(prior, "port"));
}

/* ── capture ───────────────────────────────────────────────────────────────────────────────── */

struct lists {
	json_t *stopped, *running;
};

static int record(pid_t pid, uint64_t start, char state, const char *name, void *arg)
{
	struct lists *l = arg;

	return json_array_append_new(is_stopped(state) ? l->stopped : l->running,
		       json_pack("{s:i, s:I, s:s}", "pid", (int)pid, "start", (json_int_t)start, "name", name)) < 0 ?
		       -ENOMEM :
		       0;
}

int freeze_capture(const struct node *n, uint16_t port, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *stopped = json_array(), *running = json_array();
	struct lists l = {stopped, running};
	int r = stopped && running ? each(n, port, record, &l, err) : -ENOMEM;

	if (r < 0)
		return r;
	if (json_array_size(running) == 0) {
		if (port)
			err_set(err, -ESRCH, "%s: nobody listens on TCP port %u", n->name, port);
		else
			err_set(err, -ESRCH, "%s: no process runs there", n->name);
		if (json_array_size(stopped))
			err_hint(err, "%zu are stopped already", json_array_size(stopped));
		return -ESRCH;
	}
	*ret_prior = json_pack("{s:o, s:O, s:O}", "port", port ? json_integer(port) : json_null(), "stopped", stopped, "running",
		running);
	return *ret_prior ? 0 : -ENOMEM;
}

/* ── stop and go ───────────────────────────────────────────────────────────────────────────── */

/* By pidfd, so that a pid that was reused in between is never hit */
static int tell(pid_t pid, uint64_t start, int sig)
{
	uint64_t now;
	int fd = (int)syscall(SYS_pidfd_open, pid, 0), r;

	if (fd < 0)
		return errno == ESRCH ? 0 : -errno;
	r = pid_start_time(pid, &now);
	if (r == 0 && now == start && syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0) < 0 && errno != ESRCH)
		r = -errno;
	close(fd);
	return r == -ESRCH ? 0 : r;
}

struct sweep {
	const json_t *stopped; /* those that were stopped before */
	int signal;	       /* 0: only look */
	bool anyway;	       /* also to those that are as wanted */
	size_t all, other;     /* of the rule; those that are not yet as wanted */
	size_t frozen;
	pid_t pid;	       /* one of the others */
	char name[16];
};

static int sweep_one(pid_t pid, uint64_t start, char state, const char *name, void *arg)
{
	struct sweep *s = arg;
	bool stopped = is_stopped(state);

	if (listed(s->stopped, pid, start))
		return 0;
	s->all++;
	s->frozen += stopped;
	if (!s->signal || (stopped == (s->signal == SIGSTOP) && !s->anyway))
		return 0;
	s->other += stopped != (s->signal == SIGSTOP);
	s->pid = pid;
	snprintf(s->name, sizeof(s->name), "%s", name);
	return tell(pid, start, s->signal);
}

/*
 * Until a look finds all of them as wanted: whoever forks meanwhile is found by the next one. To go on is said to each once, whatever it
 * looks like: one that sleeps in the kernel may have a stop before it that it has not come to, and that takes it back.
 */
static int sweep(const struct node *n, const json_t *prior, int sig, struct err *err)
{
	nsec_t deadline = now_ns() + PATIENCE;
	bool first = true;

	for (;; first = false) {
		struct sweep s = {.stopped = json_object_get(prior, "stopped"), .signal = sig, .anyway = first && sig == SIGCONT};
		int r = each(n, port_of(prior), sweep_one, &s, err);

		if (r < 0)
			return err && err->text[0] ? r : err_set(err, r, "%s: %s: %s", n->name,
								 sig == SIGSTOP ? "stop a process" : "let a process go on", strerror(-r));
		if (!s.other)
			return 0;
		if (now_ns() >= deadline)
			return err_set(err, -ETIMEDOUT, "%s: process %d (%s) does not %s", n->name, (int)s.pid, s.name,
				sig == SIGSTOP ? "stop" : "go on");
		(void)poll(NULL, 0, LOOK_MS);
	}
}

int freeze_apply(const struct node *n, const json_t *prior, struct err *err)
{
	return sweep(n, prior, SIGSTOP, err);
}

int freeze_undo(const struct node *n, const json_t *prior, struct err *err)
{
	return sweep(n, prior, SIGCONT, err);
}

int freeze_count(const struct node *n, const json_t *prior, size_t *ret_all, size_t *ret_stopped, struct err *err)
{
	struct sweep s = {.stopped = json_object_get(prior, "stopped")};
	int r = each(n, port_of(prior), sweep_one, &s, err);

	if (r < 0)
		return r;
	*ret_all = s.all;
	*ret_stopped = s.frozen;
	return 0;
}

int freeze_verify(const struct node *n, const json_t *prior, struct err *err)
{
	size_t all, stopped;
	int r = freeze_count(n, prior, &all, &stopped, err);

	if (r < 0)
		return r;
	if (stopped) {
		err_set(err, 1, "%s: %zu of %zu processes are stopped", n->name, stopped, all);
		return 1;
	}
	return 0;
}

/* ── words ─────────────────────────────────────────────────────────────────────────────────── */

void freeze_names(const json_t *prior, struct strbuf *b)
{
	const json_t *running = json_object_get(prior, "running"), *j, *k;
	size_t i, m;

	json_array_foreach((json_t *)running, i, j) {
		const char *name = json_string_value(json_object_get(j, "name"));
		unsigned int before = 0, count = 0;

		json_array_foreach((json_t *)running, m, k) {
			if (!streq(json_string_value(json_object_get(k, "name")), name))
				continue;
			before += m < i;
			count++;
		}
		if (before)
			continue;
		strbuf_addf(b, "%s%s", b->len ? ", " : "", name);
		if (count > 1)
			strbuf_addf(b, " (%u)", count);
	}
}

void freeze_signal_words(const struct node *n, const char *sig, uint16_t port, struct strbuf *b)
{
	const char *slash = n->netns ? strrchr(n->netns, '/') : NULL;

	if (port) {
		change_command_prefix(n, b);
		strbuf_addf(b, "ss -Hltnp 'sport = :%u' | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u | xargs -r kill -%s\n", port,
			sig);
	} else {
		strbuf_addf(b, "ip netns pids %s | xargs -r kill -%s\n", slash ? slash + 1 : n->name, sig);
	}
}

void freeze_command(const struct node *n, const json_t *prior, struct strbuf *apply, struct strbuf *undo)
{
	freeze_signal_words(n, "STOP", port_of(prior), apply);
	freeze_signal_words(n, "CONT", port_of(prior), undo);
}
