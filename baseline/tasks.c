/* SPDX-License-Identifier: GPL-2.0-only */
#include "baseline/tasks.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "baseline/cpus.h"
#include "engine/units.h"

#define PASSES_MAX   50 /* a process that makes threads faster than this is not to be caught */
#define ANCESTORS_MAX 16

static const char *text_of(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

int tasks_check(const char *who, const json_t *args, struct err *err)
{
	const char *process = json_string_value(json_object_get(args, "process"));
	bool pid = json_object_get(args, "pid") != NULL;

	if (!process == !pid)
		return err_set(err, -EINVAL, "%s: process or pid: one of the two is wanted", who);
	if (process && !*process)
		return err_set(err, -EINVAL, "%s: process is empty", who);
	return 0;
}

/* ── finding ──────────────────────────────────────────────────────────────────────────────── */

/* Name, parent and flags out of /proc/PID/stat. -ESRCH when it is gone */
static int read_stat(pid_t pid, char name[16], pid_t *ret_parent, unsigned int *ret_flags)
{
	_cleanup_free_ char *path = strf("/proc/%d/stat", (int)pid), *text = NULL;
	int ppid = 0, r = path ? file_read(path, 4096, &text, NULL) : -ENOMEM;
	unsigned int flags = 0;
	const char *open, *close;

	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	/* the name may hold anything, brackets and blanks too */
	open = strchr(text, '(');
	close = strrchr(text, ')');
	if (!open || !close || close < open || sscanf(close, ") %*c %d %*d %*d %*d %*d %u", &ppid, &flags) != 2)
		return -EPROTO;
	if (name)
		snprintf(name, 16, "%.*s", (int)MIN(close - open - 1, 15), open + 1);
	*ret_parent = (pid_t)ppid;
	if (ret_flags)
		*ret_flags = flags;
	return 0;
}

static bool on_node(const struct node *n, pid_t pid)
{
	_cleanup_free_ char *path = strf("/proc/%d/ns/net", (int)pid);
	struct stat st, own;

	if (!path || stat(path, &st) < 0)
		return false;
	if (n->netns)
		return st.st_ino == n->netns_ino;
	return stat("/proc/self/ns/net", &own) == 0 && st.st_ino == own.st_ino;
}

struct task_list {
	size_t n;
	struct task *all;
};

static int list_add(struct task_list *l, const struct task *t)
{
	struct task *more;

	if ((l->n & (l->n + 1)) == 0) { /* grows in powers of two */
		more = realloc(l->all, (l->n + 1) * 2 * sizeof(*more));
		if (!more)
			return -ENOMEM;
		l->all = more;
	}
	l->all[l->n++] = *t;
	return 0;
}

/* The process, or each of its threads. One that ends meanwhile is left out. */
static int add_process(struct task_list *l, pid_t pid, const char *name, bool threads)
{
	_cleanup_free_ char *path = strf("/proc/%d/task", (int)pid);
	struct task t = {.pid = pid, .tid = pid};
	struct dirent *e;
	int r = 0;
	DIR *d;

	snprintf(t.name, sizeof(t.name), "%s", name);
	if (!threads)
		return pid_start_time(pid, &t.start) < 0 ? 0 : list_add(l, &t);
	d = path ? opendir(path) : NULL;
	while (d && r == 0 && (e = readdir(d))) {
		int64_t tid;

		if (units_int(e->d_name, 1, INT32_MAX, &tid) < 0)
			continue;
		t.tid = (pid_t)tid;
		if (pid_start_time(t.tid, &t.start) == 0)
			r = list_add(l, &t);
	}
	if (d)
		closedir(d);
	return r;
}

#define PF_KTHREAD 0x00200000 /* of the kernel's own threads: nothing of theirs is a service's */

int tasks_find(const struct node *n, const char *who, const json_t *args, bool threads, struct task **ret, size_t *ret_n,
	struct err *err)
{
	const char *process = json_string_value(json_object_get(args, "process"));
	json_int_t wanted = json_integer_value(json_object_get(args, "pid"));
	struct task_list l = {0};
	struct dirent *e;
	int r = 0;
	DIR *d = opendir("/proc");

	if (!d)
		return err_set(err, -errno, "%s: /proc: %s", who, strerror(errno));
	while (r == 0 && (e = readdir(d))) {
		unsigned int flags;
		pid_t parent;
		char name[16];
		int64_t pid;

		if (units_int(e->d_name, 1, INT32_MAX, &pid) < 0 || (wanted && pid != wanted) || pid == getpid())
			continue;
		if (read_stat((pid_t)pid, name, &parent, &flags) < 0 || (flags & PF_KTHREAD))
			continue;
		/* the kernel keeps 15 bytes of a name */
		if ((process && strncmp(name, process, 15) != 0) || !on_node(n, (pid_t)pid))
			continue;
		r = add_process(&l, (pid_t)pid, name, threads);
	}
	closedir(d);
	if (r < 0 || l.n == 0)
		free(TAKE_PTR(l.all));
	if (r < 0)
		return err_set(err, r, "%s: %s", who, strerror(-r));
	if (l.n == 0 && process) {
		err_set(err, -EOPNOTSUPP, "%s on %s: no process called %s runs there", who, n->name, process);
		return err_hint(err, "start the service first; the name is that of /proc/PID/comm");
	}
	if (l.n == 0)
		return err_set(err, -EOPNOTSUPP, "%s on %s: process %" JSON_INTEGER_FORMAT " does not run there", who, n->name, wanted);
	*ret = l.all;
	*ret_n = l.n;
	return 0;
}

/* ── the record ───────────────────────────────────────────────────────────────────────────── */

static pid_t id_of(const json_t *t, const char *key)
{
	return (pid_t)json_integer_value(json_object_get(t, key));
}

/* Is the one that was recorded still there? */
static bool lives(const json_t *t)
{
	uint64_t start;

	return pid_start_time(id_of(t, "tid"), &start) == 0 &&
	       start == (uint64_t)json_integer_value(json_object_get(t, "start"));
}

/* "nginx[123] nofile", "nginx[123/125] CPUs" */
static char *key_of(const struct task_ops *ops, const json_t *t)
{
	const char *what = *text_of(t, "what") ? text_of(t, "what") : ops->unit;

	if (id_of(t, "pid") == id_of(t, "tid"))
		return strf("%s[%d] %s", text_of(t, "name"), (int)id_of(t, "pid"), what);
	return strf("%s[%d/%d] %s", text_of(t, "name"), (int)id_of(t, "pid"), (int)id_of(t, "tid"), what);
}

static int fail(const struct task_ops *ops, const struct node *n, const json_t *t, int r, const char *doing, struct err *err)
{
	_cleanup_free_ char *key = key_of(ops, t);

	return err_set(err, r, "%s on %s: %s: %s", key ? key : "?", n->name, doing, strerror(-r));
}

int tasks_add(const struct task_ops *ops, const struct node *n, const struct task *t, size_t count, const char *what,
	const char *want, json_t *list, struct err *err)
{
	for (size_t i = 0; i < count; i++) {
		_cleanup_free_ char *before = NULL;
		json_t *rec = json_pack("{s:i, s:i, s:I, s:s, s:s, s:s}", "pid", (int)t[i].pid, "tid", (int)t[i].tid, "start",
			(json_int_t)t[i].start, "name", t[i].name, "what", what, "want", want);
		int r;

		if (!rec) /* a name that is no UTF-8 */
			rec = json_pack("{s:i, s:i, s:I, s:s, s:s, s:s}", "pid", (int)t[i].pid, "tid", (int)t[i].tid, "start",
				(json_int_t)t[i].start, "name", "process", "what", what, "want", want);
		if (!rec)
			return err_set(err, -ENOMEM, "out of memory");
		r = ops->read(t[i].tid, what, &before);
		if (r == -ESRCH) {
			json_decref(rec);
			continue;
		}
		if (r == -EPERM) {
			/* a process of another user's, and root here lacks what it has elsewhere */
			r = err_set(err, -EOPNOTSUPP,
				"%s[%d] on %s: root may not touch it here: a capability is missing (CAP_SYS_RESOURCE for limits)", t[i].name, (int)t[i].pid, n->name);
			json_decref(rec);
			return r;
		}
		if (r < 0) {
			fail(ops, n, rec, r, "read, to be able to put it back", err);
			json_decref(rec);
			return r;
		}
		json_object_set_new(rec, "before", json_string(before));
		json_array_append_new(list, rec);
	}
	return 0;
}

static const json_t *record_of(const json_t *tasks, pid_t tid, uint64_t start, const char *what)
{
	const json_t *t;
	size_t i;

	json_array_foreach((json_t *)tasks, i, t)
		if (id_of(t, "tid") == tid && (uint64_t)json_integer_value(json_object_get(t, "start")) == start &&
			streq(text_of(t, "what"), what))
			return t;
	return NULL;
}

/* A record of process @pid, for @what */
static const json_t *record_of_process(const json_t *tasks, pid_t pid, const char *what)
{
	const json_t *t;
	size_t i;

	json_array_foreach((json_t *)tasks, i, t)
		if (id_of(t, "pid") == pid && streq(text_of(t, "what"), what) && lives(t))
			return t;
	return NULL;
}

/* From whom @pid has what it has: itself, or the nearest recorded one among its ancestors */
static const json_t *inherited_from(const json_t *tasks, pid_t pid, const char *what)
{
	/* 1 has no parent, and 2 is the kernel's */
	for (int i = 0; pid > 2 && i < ANCESTORS_MAX; i++) {
		const json_t *t = record_of_process(tasks, pid, what);
		pid_t parent;

		if (t)
			return t;
		if (read_stat(pid, NULL, &parent, NULL) < 0)
			return NULL;
		pid = parent;
	}
	return NULL;
}

/*
 * Calls @fn for each thread or process that came later and has inherited. Returns how many times @fn said that it did something, or
 * -errno.
 */
typedef int (*later_fn)(const struct task_ops *ops, const struct task *t, const json_t *from, void *arg);

static int each_later(const struct task_ops *ops, const json_t *tasks, const char *what, later_fn fn, void *arg)
{
	struct dirent *e;
	int did = 0, r = 0;
	DIR *d = opendir("/proc");

	if (!d)
		return -errno;
	while (r >= 0 && (e = readdir(d))) {
		struct task_list l = {0};
		const json_t *from;
		int64_t pid;

		if (units_int(e->d_name, 1, INT32_MAX, &pid) < 0)
			continue;
		from = inherited_from(tasks, (pid_t)pid, what);
		if (!from)
			continue;
		r = add_process(&l, (pid_t)pid, text_of(from, "name"), ops->threads);
		for (size_t i = 0; r >= 0 && i < l.n; i++) {
			if (record_of(tasks, l.all[i].tid, l.all[i].start, what))
				continue;
			r = fn(ops, &l.all[i], from, arg);
			did += r > 0;
		}
		free(l.all);
	}
	closedir(d);
	return r < 0 ? r : did;
}

/* All whats of the record, once each */
static int each_what(const struct task_ops *ops, const json_t *tasks, later_fn fn, void *arg)
{
	const json_t *t;
	int did = 0;
	size_t i, k;

	json_array_foreach((json_t *)tasks, i, t) {
		bool seen = false;
		int r;

		for (k = 0; k < i; k++)
			seen = seen || streq(text_of(json_array_get(tasks, k), "what"), text_of(t, "what"));
		if (seen)
			continue;
		r = each_later(ops, tasks, text_of(t, "what"), fn, arg);
		if (r < 0)
			return r;
		did += r;
	}
	return did;
}

/* ── the life of the change ───────────────────────────────────────────────────────────────── */

/* A later one that has what its creator had goes the same way: not one that somebody has made different on purpose. */
static int follow(const struct task_ops *ops, const struct task *t, const json_t *creator, const char *had, const char *has)
{
	const char *what = text_of(creator, "what"), *old = text_of(creator, had), *new = text_of(creator, has);
	_cleanup_free_ char *now = NULL;
	int r = ops->read(t->tid, what, &now);

	if (r == 0 && streq(now, old) && !streq(now, new))
		r = ops->write(t->tid, what, new) ?: 1;
	return r == -ESRCH ? 0 : r;
}

static int catch_up(const struct task_ops *ops, const struct task *t, const json_t *from, void *arg _unused_)
{
	return follow(ops, t, from, "before", "want");
}

static int apply_one(const struct task_ops *ops, const struct node *n, const json_t *t, struct err *err)
{
	const char *what = text_of(t, "what"), *want = text_of(t, "want"), *before = text_of(t, "before");
	_cleanup_free_ char *now = NULL, *key = NULL;
	int r;

	if (!lives(t))
		return 0;
	r = ops->read(id_of(t, "tid"), what, &now);
	if (r == 0 && !streq(now, want)) {
		r = ops->write(id_of(t, "tid"), what, want);
		if (r < 0 && r != -ESRCH) {
			key = key_of(ops, t);
			return err_set(err, r, "%s on %s: set it to %s: %s", key ? key : "?", n->name, want, strerror(-r));
		}
		free(TAKE_PTR(now));
		if (r == 0)
			r = ops->read(id_of(t, "tid"), what, &now);
	}
	if (r == -ESRCH) /* it ended meanwhile */
		return 0;
	if (r < 0)
		return fail(ops, n, t, r, "read", err);
	if (streq(now, want))
		return 0;
	(void)ops->write(id_of(t, "tid"), what, before);
	key = key_of(ops, t);
	err_set(err, -ERANGE, "%s on %s: the kernel made %s of %s; put back to %s", key ? key : "?", n->name, now, want, before);
	return err_hint(err, ops->threads ? "its cpuset allows no others (cgroup): ask for those it allows" :
					    "ask for a value that the kernel takes as it is written");
}

int tasks_apply(const struct task_ops *ops, const struct node *n, const json_t *prior, struct err *err)
{
	const json_t *tasks = json_object_get(prior, "tasks"), *t;
	size_t i;
	int r;

	json_array_foreach((json_t *)tasks, i, t) {
		r = apply_one(ops, n, t, err);
		if (r < 0)
			return r;
	}
	for (int pass = 0; pass < PASSES_MAX; pass++) {
		r = each_what(ops, tasks, catch_up, NULL);
		if (r < 0)
			return err_set(err, r, "threads and children that came meanwhile, on %s: %s", n->name, strerror(-r));
		if (r == 0)
			return 0;
	}
	return err_set(err, -EAGAIN, "processes on %s make threads faster than these can be set", n->name);
}

static int give_back(const struct task_ops *ops, const struct task *t, const json_t *from, void *arg _unused_)
{
	return follow(ops, t, from, "want", "before");
}

static int undo_one(const struct task_ops *ops, const struct node *n, const json_t *t, struct err *err)
{
	const char *what = text_of(t, "what"), *want = text_of(t, "want"), *before = text_of(t, "before");
	_cleanup_free_ char *now = NULL, *key = NULL;
	int r;

	if (!lives(t))
		return 0;
	r = ops->read(id_of(t, "tid"), what, &now);
	if (r == -ESRCH || (r == 0 && streq(now, before)))
		return 0;
	if (r < 0)
		return fail(ops, n, t, r, "read", err);
	if (!streq(now, want)) {
		key = key_of(ops, t);
		return err_set(err, CHANGE_CONFLICT, "%s on %s: it is %s, neither ours (%s) nor as before (%s)", key ? key : "?", n->name,
			now, want, before);
	}
	r = ops->write(id_of(t, "tid"), what, before);
	return r < 0 && r != -ESRCH ? fail(ops, n, t, r, "put back", err) : 0;
}

int tasks_undo(const struct task_ops *ops, const struct node *n, const json_t *prior, struct err *err)
{
	const json_t *tasks = json_object_get(prior, "tasks");
	int result = 0, r = 1;

	for (size_t i = json_array_size(tasks); i-- > 0;) {
		struct err e = {0};

		r = undo_one(ops, n, json_array_get(tasks, i), &e);
		if (r != 0 && (result == 0 || (r < 0 && result > 0))) {
			result = r;
			if (err)
				*err = e;
		}
	}
	r = 1;
	for (int pass = 0; r > 0 && pass < PASSES_MAX; pass++)
		r = each_what(ops, tasks, give_back, NULL);
	if (r != 0 && result >= 0)
		result = err_set(err, r < 0 ? r : -EAGAIN, "threads and children that came later, on %s: put back: %s", n->name,
			strerror(r < 0 ? -r : EAGAIN));
	return result;
}

static int still_ours(const struct task_ops *ops, const struct task *t, const json_t *from, void *arg)
{
	_cleanup_free_ char *now = NULL;
	int r = ops->read(t->tid, text_of(from, "what"), &now);

	if (r == 0 && streq(now, text_of(from, "want")) && !streq(now, text_of(from, "before"))) {
		*(pid_t *)arg = t->tid;
		return 1;
	}
	return r == -ESRCH ? 0 : r;
}

int tasks_verify(const struct task_ops *ops, const struct node *n, const json_t *prior, struct err *err)
{
	const json_t *tasks = json_object_get(prior, "tasks"), *t;
	pid_t later = 0;
	size_t i;
	int r;

	json_array_foreach((json_t *)tasks, i, t) {
		_cleanup_free_ char *now = NULL, *key = NULL;

		if (!lives(t))
			continue;
		r = ops->read(id_of(t, "tid"), text_of(t, "what"), &now);
		if (r == -ESRCH)
			continue;
		if (r < 0)
			return fail(ops, n, t, r, "read", err);
		if (streq(now, text_of(t, "before")))
			continue;
		key = key_of(ops, t);
		return err_set(err, 1, "%s on %s: it is %s, before it was %s", key ? key : "?", n->name, now, text_of(t, "before"));
	}
	r = each_what(ops, tasks, still_ours, &later);
	if (r < 0)
		return err_set(err, r, "threads and children that came later, on %s: %s", n->name, strerror(-r));
	return r == 0 ? 0 : err_set(err, 1, "task %d on %s, which came later: it has inherited, and not been put back", (int)later, n->name);
}

int tasks_look(const struct task_ops *ops, const struct node *n _unused_, const json_t *prior, json_t **ret_items, struct err *err)
{
	_cleanup_json_ json_t *items = json_array();
	const json_t *t;
	size_t i;

	json_array_foreach(json_object_get(prior, "tasks"), i, t) {
		_cleanup_free_ char *now = NULL, *key = key_of(ops, t);
		int r = lives(t) ? ops->read(id_of(t, "tid"), text_of(t, "what"), &now) : -ESRCH;
		json_t *item;

		/* a thread that has ended is nobody's loss */
		if (r == -ESRCH && id_of(t, "pid") != id_of(t, "tid"))
			continue;
		item = json_pack("{s:s, s:O, s:O, s:s, s:o}", "key", key ? key : "?", "before", json_object_get(t, "before"), "want",
			json_object_get(t, "want"), "now", r < 0 ? "" : now, "holds",
			r < 0 ? json_null() : json_boolean(streq(now, text_of(t, "want"))));
		if (!item)
			return err_set(err, -ENOMEM, "out of memory");
		if (r < 0)
			json_object_set_new(item, "text", json_string(r == -ESRCH ? "it has ended" : strerror(-r)));
		json_array_append_new(items, item);
	}
	*ret_items = TAKE_PTR(items);
	return 0;
}

void tasks_command(const struct task_ops *ops, const json_t *args, const json_t *prior, const char *what, const char *want,
	struct strbuf *ret_apply, struct strbuf *ret_undo)
{
	const json_t *tasks = json_object_get(prior, "tasks"), *t;
	bool any = false;
	size_t i;

	if (!prior) {
		const char *process = json_string_value(json_object_get(args, "process"));
		_cleanup_free_ char *who = process ? strf("PID") : strf("%" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(args, "pid")));

		if (process)
			strbuf_addf(ret_apply, "# for each %sprocess called %s there:\n", ops->threads ? "thread of each " : "", process);
		ops->command(ret_apply, who ? who : "PID", what, want);
		strbuf_puts(ret_undo, "# puts back what it reads before the change\n");
		return;
	}
	json_array_foreach((json_t *)tasks, i, t) {
		char id[16];

		if (!streq(text_of(t, "what"), what) || streq(text_of(t, "before"), text_of(t, "want")))
			continue;
		snprintf(id, sizeof(id), "%d", (int)id_of(t, "tid"));
		ops->command(ret_apply, id, what, text_of(t, "want"));
		/* who it was: field 22, counted from behind the name, which may hold anything */
		strbuf_addf(ret_undo, "[ \"$(sed 's/.*) //' /proc/%s/stat 2>/dev/null | cut -d' ' -f20)\" != %" JSON_INTEGER_FORMAT " ] || ", id,
			json_integer_value(json_object_get(t, "start")));
		ops->command(ret_undo, id, what, text_of(t, "before"));
		any = true;
	}
	if (any)
		strbuf_puts(ret_undo, "# those that it started since have inherited: muster restore puts them back too\n");
}

/* ── affinity ─────────────────────────────────────────────────────────────────────────────── */

static int cpus_read(pid_t tid, const char *what _unused_, char **ret)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (sched_getaffinity(tid, sizeof(set), &set) < 0)
		return -errno;
	*ret = cpus_list(&set);
	return *ret ? 0 : -ENOMEM;
}

static int cpus_write(pid_t tid, const char *what _unused_, const char *text)
{
	cpu_set_t set;
	int r = cpus_parse_list(text, &set);

	if (r < 0)
		return r;
	return sched_setaffinity(tid, sizeof(set), &set) < 0 ? -errno : 0;
}

static void cpus_command(struct strbuf *b, const char *tid, const char *what _unused_, const char *text)
{
	strbuf_addf(b, "taskset -cp %s %s >/dev/null\n", text, tid);
}

const struct task_ops tasks_cpus = {
	.threads = true, .read = cpus_read, .write = cpus_write, .command = cpus_command, .unit = "CPUs"};
