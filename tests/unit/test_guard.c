/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guard, in a process of its own as in a drill, over engines that are made for the purpose: they end well, die,
 * hang, spin, do not hear, do not die. The change they make is one word in a file of a scratch folder. No privilege
 * needed.
 * wrap: change_find residue_host syscall socketpair fork signalfd poll journal_play journal_load mlockall strf json_dumps malloc open sched_setscheduler run_engine
 */
#include <stdarg.h>
#include <setjmp.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/guard.h"
#include "engine/judge.h"
#include "engine/run_internal.h"

#define PATIENCE_MS 30000

static char root[64], run_dir[96], durable[96];

/* What the processes of a case tell each other */
static struct shared {
	char err[1024], hint[512];  /* of guard_run() */
	char announce[1024];	    /* what the guard answered to an intent */
	char halt[1024];	    /* the line that the engine got */
	char score[16];		    /* the engine's child's */
	char engine_score[16], guard_score[16];
	pid_t guard, engine, script;
	/* of the guard when it undoes, and of a process that an undo starts */
	int guard_nice, child_nice, guard_policy, child_policy;
	int applied;		    /* changes that were really made */
	int polls;		    /* of the guard */
	int first_wait, longest_wait; /* in them, in milliseconds */
	bool answered, spared, beats, beaten, told_all;
} *sh;

/* Which call fails, counted down from 1; 0: none. Inherited by the guard's process. */
static int fail_socketpair, fail_fork, fail_signalfd, fail_pidfd_open, fail_poll, poll_errno, fail_load, fail_spawn, fail_play;
static bool poll_broken; /* having failed once, it fails for ever */
static bool swallow_kill, residue_fails, residue_differs;
static bool no_heap, no_score, no_realtime, no_wchan;
static bool slow_to_protect, sigchld_ignored;
static int shared_lock = -1;  /* let go of when somebody waits for nothing but time */
static const char *own_score; /* what the guard inherits, if not ours */
static const char *wchan;     /* a file that stands for /proc/PID/task/ID/wchan */
static const char *fail_fmt; /* strf() of this finds no memory */
static const char *fail_key; /* json_dumps() of an object with it neither */
static size_t locked;

extern void __gcov_dump(void) __attribute__((weak));

static void flush(void)
{
	if (__gcov_dump)
		__gcov_dump();
}

static bool due(int *counter)
{
	return *counter > 0 && --*counter == 0;
}

int __real_socketpair(int domain, int type, int protocol, int fds[2]);
int __wrap_socketpair(int domain, int type, int protocol, int fds[2]);
int __wrap_socketpair(int domain, int type, int protocol, int fds[2])
{
	if (due(&fail_socketpair)) {
		errno = EMFILE;
		return -1;
	}
	return __real_socketpair(domain, type, protocol, fds);
}

pid_t __real_fork(void);
pid_t __wrap_fork(void);
pid_t __wrap_fork(void)
{
	if (due(&fail_fork)) {
		errno = EAGAIN;
		return -1;
	}
	return __real_fork();
}

int __real_signalfd(int fd, const sigset_t *set, int flags);
int __wrap_signalfd(int fd, const sigset_t *set, int flags);
int __wrap_signalfd(int fd, const sigset_t *set, int flags)
{
	if (due(&fail_signalfd)) {
		errno = ENFILE;
		return -1;
	}
	return __real_signalfd(fd, set, flags);
}

long __real_syscall(long n, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long n, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long n, long a, long b, long c, long d, long e, long f)
{
	if (n == SYS_pidfd_open && due(&fail_pidfd_open)) {
		errno = EMFILE;
		return -1;
	}
	if (n == SYS_pidfd_send_signal && swallow_kill)
		return 0; /* as if a thread slept in the kernel */
	return __real_syscall(n, a, b, c, d, e, f);
}

int __real_poll(struct pollfd *p, nfds_t n, int ms);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms)
{
	if (n == 5 && due(&fail_poll)) { /* the guard's alone */
		for (nfds_t i = 0; i < n; i++)
			p[i].revents = POLLIN; /* untouched, says the manual: what lies there must not be believed */
		fail_poll = poll_broken;
		errno = poll_errno;
		return -1;
	}
	if (n == 5) {
		if (sh->polls++ == 0)
			sh->first_wait = ms;
		sh->longest_wait = MAX(sh->longest_wait, ms);
	}
	if (n == 0 && shared_lock >= 0)
		close(TAKE_FD(shared_lock));
	return __real_poll(p, n, ms);
}

int __real_journal_play(struct journal *j, struct restore_result *ret, struct err *err);
int __wrap_journal_play(struct journal *j, struct restore_result *ret, struct err *err);
int __wrap_journal_play(struct journal *j, struct restore_result *ret, struct err *err)
{
	return due(&fail_play) ? err_set(err, -EIO, "the journal is unreadable") : __real_journal_play(j, ret, err);
}

int __real_journal_load(struct journal *j, const struct journal_entry **ret, size_t *n, struct err *err);
int __wrap_journal_load(struct journal *j, const struct journal_entry **ret, size_t *n, struct err *err);
int __wrap_journal_load(struct journal *j, const struct journal_entry **ret, size_t *n, struct err *err)
{
	return due(&fail_load) ? -ENOMEM : __real_journal_load(j, ret, n, err);
}

char *__wrap_strf(const char *fmt, ...) _printf_(1, 2);
char *__wrap_strf(const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;
	int n;

	if (streq(fmt, fail_fmt))
		return NULL;
	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : text;
}

char *__real_json_dumps(const json_t *j, size_t flags);
char *__wrap_json_dumps(const json_t *j, size_t flags);
char *__wrap_json_dumps(const json_t *j, size_t flags)
{
	return fail_key && json_object_get(j, fail_key) ? NULL : __real_json_dumps(j, flags);
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n)
{
	return no_heap && n == 16u << 20 ? NULL : __real_malloc(n);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	int mode;

	if (no_score && streq(path, "/proc/self/oom_score_adj")) {
		errno = ENOENT;
		return -1;
	}
	if (strlen(path) > 6 && streq(path + strlen(path) - 6, "/wchan")) {
		if (no_wchan) {
			errno = ENOENT;
			return -1;
		}
		path = wchan ? wchan : path;
	}
	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, int) : 0;
	va_end(ap);
	return __real_open(path, flags, mode);
}

int __real_sched_setscheduler(pid_t pid, int policy, const struct sched_param *p);
int __wrap_sched_setscheduler(pid_t pid, int policy, const struct sched_param *p);
int __wrap_sched_setscheduler(pid_t pid, int policy, const struct sched_param *p)
{
	/* a machine that is short of memory: what the guard does before it watches takes longer than `hang` */
	if (slow_to_protect) {
		nsec_t began = now_ns();

		while (!sh->beaten || now_ns() < began + 600 * NSEC_PER_MSEC)
			(void)__real_poll(NULL, 0, 5);
	}
	if (no_realtime) {
		errno = EPERM;
		return -1;
	}
	return __real_sched_setscheduler(pid, policy, p);
}

int __wrap_residue_host(const char *dir, json_t **ret, struct err *err);
int __wrap_residue_host(const char *dir, json_t **ret, struct err *err)
{
	assert_string_equal(dir, run_dir);
	if (residue_fails)
		return err_set(err, -EIO, "no picture");
	*ret = residue_differs ? json_pack("[s]", "host: a line") : json_array();
	return 0;
}

/* The kernel is asked in earnest only where no limit is in the way; that it was asked after the engine's fork is what counts */
int __wrap_mlockall(int flags);
int __wrap_mlockall(int flags)
{
	locked += flags == (MCL_CURRENT | MCL_FUTURE) && sh->engine != 0;
	return 0;
}

/* ── the change ────────────────────────────────────────────────────────────────────────────── */

static char *word_path(const json_t *args)
{
	return strf("%s/word-%s", root, json_string_value(json_object_get(args, "name")));
}

static int word_capture(const struct node *n _unused_, const json_t *args _unused_, json_t **ret, struct err *err _unused_)
{
	*ret = json_object();
	return 0;
}

static int word_apply(const struct node *n _unused_, const json_t *args, const json_t *prior _unused_, struct err *err _unused_)
{
	_cleanup_free_ char *path = word_path(args);

	__atomic_fetch_add(&sh->applied, 1, __ATOMIC_SEQ_CST);
	return file_write(path, "ours", 4);
}

static int word_undo(const struct node *n _unused_, const json_t *args, const json_t *prior _unused_, struct err *err)
{
	_cleanup_free_ char *path = word_path(args), *now = NULL;
	const char *name = json_string_value(json_object_get(args, "name"));
	int r = file_read(path, 64, &now, NULL);

	if (getpid() == sh->guard) {
		pid_t child = __real_fork();

		if (child == 0) {
			sh->child_nice = getpriority(PRIO_PROCESS, 0);
			sh->child_policy = sched_getscheduler(0);
			flush();
			_exit(0);
		}
		sh->guard_nice = getpriority(PRIO_PROCESS, 0);
		sh->guard_policy = sched_getscheduler(0);
		waitpid(child, NULL, 0);
	}
	if (streq(name, "stubborn"))
		return err_set(err, -EIO, "as asked");
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	if (!streq(now, "ours"))
		return err_set(err, CHANGE_CONFLICT, "it is \"%s\"", now);
	return unlink(path) < 0 ? -errno : 0;
}

static const struct change_ops word = {
	.name = "word", .class = CHANGE_VOLATILE, .capture = word_capture, .apply = word_apply, .undo = word_undo};

const struct change_ops *__wrap_change_find(const char *name);
const struct change_ops *__wrap_change_find(const char *name)
{
	return streq(name, "word") ? &word : NULL;
}

static bool is_ours(const char *name)
{
	_cleanup_json_ json_t *args = json_pack("{s:s}", "name", name);
	_cleanup_free_ char *path = word_path(args);

	return access(path, F_OK) == 0;
}

/* ── engines ───────────────────────────────────────────────────────────────────────────────── */

static void beat(const struct run_opts *o, char c)
{
	(void)send(o->ctl_fd, &c, 1, MSG_NOSIGNAL);
}

static int announce(void *o, struct err *err)
{
	struct run r = {.o = o};
	int e = run_announce(&r, err);

	snprintf(sh->announce, sizeof(sh->announce), "%s", e < 0 ? err->text : "");
	return e;
}

static int apply_at(const struct run_opts *o, const char *name, const char *netns, struct change *ret)
{
	struct node *n = node_new("host", netns);
	struct change c = {.ops = &word, .node = n, .args = json_pack("{s:s}", "name", name), .announce = announce,
		.announce_arg = (void *)o};
	struct err err = {0};
	int r;

	sh->engine = getpid();
	if (!netns)
		(void)node_open(n, NULL);
	r = change_apply(o->journal, &c, &err);
	if (ret)
		*ret = c;
	return r;
}

static int apply(const struct run_opts *o, const char *name)
{
	return apply_at(o, name, NULL, NULL);
}

/* Beats until the guard says something, and keeps that. */
static void beat_until_told(const struct run_opts *o)
{
	struct pollfd p = {.fd = o->ctl_fd, .events = POLLIN};

	for (size_t len = 0;;) {
		ssize_t n;

		beat(o, 'h');
		if (__real_poll(&p, 1, 20) <= 0)
			continue;
		n = recv(o->ctl_fd, sh->halt + len, sizeof(sh->halt) - 1 - len, 0);
		len += n > 0 ? (size_t)n : 0;
		sh->beats = true;
		if (strchr(sh->halt, '}'))
			return;
		len = 0;
	}
}

static int ends_well(const struct run_opts *o)
{
	struct change c;

	if (apply_at(o, "a", NULL, &c) < 0 || change_undo(o->journal, &c, NULL) < 0)
		return 1;
	return 0;
}

static int is_killed(const struct run_opts *o)
{
	apply(o, "a");
	apply(o, "b");
	kill(getpid(), SIGKILL);
	return 0;
}

static int segfaults(const struct run_opts *o)
{
	signal(SIGSEGV, SIG_DFL); /* the sanitizer's would write a page about it */
	apply(o, "a");
	raise(SIGSEGV);
	return 0;
}

static int forgets(const struct run_opts *o)
{
	return apply(o, "a") < 0;
}

static int undoes_and_fails(const struct run_opts *o)
{
	(void)ends_well(o);
	flush();
	return 8;
}

static int hangs(const struct run_opts *o)
{
	apply(o, "a");
	while (pause() < 0)
		;
	return 0;
}

/* A parent in vfork() sleeps as one does that waits for a device: state D */
static int sleeps_in_the_kernel(const struct run_opts *o)
{
	apply(o, "a");
	if (vfork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (pause() < 0)
			;
		_exit(0);
	}
	return 0;
}

static int stops(const struct run_opts *o)
{
	apply(o, "a");
	kill(getpid(), SIGSTOP);
	/* continued, it would act behind the undo's back */
	apply(o, "late");
	return 0;
}

static int spins(const struct run_opts *o)
{
	apply(o, "a");
	for (volatile bool on = true; on;)
		;
	return 0;
}

static int hears_and_undoes(const struct run_opts *o)
{
	struct change c;

	if (apply_at(o, "a", NULL, &c) < 0)
		return 1;
	beat(o, 'd');
	beat_until_told(o);
	return change_undo(o->journal, &c, NULL) < 0;
}

/* Says that it is alive before the guard has begun to listen. */
static int beats_at_once(const struct run_opts *o)
{
	beat(o, 'h');
	sh->beaten = true;
	return hears_and_undoes(o);
}

/* The drill's own, which is tested elsewhere */
int __wrap_run_engine(const struct run_opts *o);
int __wrap_run_engine(const struct run_opts *o)
{
	sh->told_all = streq(o->id, "trial-1") && streq(o->dir, run_dir) && streq(o->lab, "none") && o->guard == sh->guard &&
		       streq(o->script->path, "trial.lua") && o->script->pid == sh->script && o->script->fd >= 0;
	flush();
	return ends_well(o);
}

static int hears_and_does_nothing(const struct run_opts *o)
{
	apply(o, "a");
	beat(o, 'd');
	do
		beat_until_told(o);
	while (sh->halt[0]);
	return 0;
}

static int meets_third_party(const struct run_opts *o)
{
	_cleanup_json_ json_t *args = json_pack("{s:s}", "name", "a");
	_cleanup_free_ char *path = word_path(args);

	apply(o, "a");
	(void)file_write(path, "theirs", 6);
	kill(getpid(), SIGKILL);
	return 0;
}

static int is_stubborn(const struct run_opts *o)
{
	apply(o, "a");
	apply(o, "stubborn");
	kill(getpid(), SIGKILL);
	return 0;
}

/* A change whose namespace the guard cannot open */
static int is_elsewhere(const struct run_opts *o)
{
	(void)apply_at(o, "a", "/nonexistent/netns", NULL);
	return 0;
}

/* A question that has lain too long, and one that is no question */
static int asks_late(const struct run_opts *o)
{
	struct pollfd p = {.fd = o->intent_fd, .events = POLLIN};
	nsec_t old = now_ns() - RUN_INTENT_PATIENCE;

	(void)send(o->intent_fd, "x", 1, 0);
	(void)send(o->intent_fd, &old, sizeof(old), 0);
	sh->answered = __real_poll(&p, 1, 300) > 0;
	return 0;
}

/* Nothing more will come from it, and it lives. */
static int hangs_up(const struct run_opts *o)
{
	apply(o, "a");
	close(o->ctl_fd);
	close(o->intent_fd);
	while (pause() < 0)
		;
	return 0;
}

/* Leaves the guard no descriptor but what it holds: none above the lowest that is free. Then it dies. */
static int starves_the_guard(const struct run_opts *o)
{
	struct rlimit none = {0};

	apply(o, "a");
	for (;; none.rlim_cur++) {
		_cleanup_free_ char *path = strf("/proc/%d/fd/%d", (int)o->guard, (int)none.rlim_cur);
		struct stat st;

		if (lstat(path, &st) < 0)
			break;
	}
	none.rlim_max = none.rlim_cur;
	sh->spared = prlimit(o->guard, RLIMIT_NOFILE, &none, NULL) == 0;
	kill(getpid(), SIGKILL);
	return 0;
}

static void read_own_score(char *ret, size_t size)
{
	_cleanup_free_ char *text = NULL;

	if (file_read("/proc/self/oom_score_adj", 15, &text, NULL) == 0)
		snprintf(ret, size, "%.*s", (int)strcspn(text, "\n"), text);
}

static int shows_scores(const struct run_opts *o)
{
	_cleanup_free_ char *path = strf("/proc/%d/oom_score_adj", (int)o->guard), *text = NULL;
	pid_t child;

	apply(o, "a"); /* when this is answered the guard is protected */
	read_own_score(sh->engine_score, sizeof(sh->engine_score));
	if (file_read(path, 15, &text, NULL) == 0)
		snprintf(sh->guard_score, sizeof(sh->guard_score), "%.*s", (int)strcspn(text, "\n"), text);
	child = __real_fork();
	if (child == 0) {
		read_own_score(sh->score, sizeof(sh->score));
		flush();
		_exit(0);
	}
	waitpid(child, NULL, 0);
	return 0;
}

/* ── a guard ───────────────────────────────────────────────────────────────────────────────── */

static int spawn(const struct script_args *a, pid_t *ret_pid, int *ret_pidfd, int *ret_fd, struct err *err)
{
	int fds[2];

	if (due(&fail_spawn))
		return err_set(err, -EIO, "%s: no script", a->path);
	assert_int_equal(__real_socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*ret_pid = __real_fork();
	if (*ret_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	sh->script = *ret_pid;
	close(fds[1]);
	*ret_fd = fds[0];
	*ret_pidfd = (int)__real_syscall(SYS_pidfd_open, *ret_pid, 0, 0, 0, 0, 0);
	return 0;
}

struct trial {
	struct guard_opts o;
	struct plan plan;
	pid_t pid;
	int pidfd;
};

static void begin(struct trial *t, int (*engine)(const struct run_opts *o), nsec_t deadline)
{
	t->plan = (struct plan){.file = (char *)"trial.lua", .text = (char *)"", .scenario = json_pack("{s:I}", "deadline_ns",
			(json_int_t)deadline)};
	t->o.plan = &t->plan;
	t->o.id = "trial-1";
	t->o.dir = run_dir;
	t->o.lab = "none";
	t->o.spawn = spawn;
	t->o.engine = engine;
	t->o.event_fd = t->o.event_fd ? t->o.event_fd : -1;
	t->o.parent_fd = t->o.parent_fd ? t->o.parent_fd : -1;
	memset(sh, 0, sizeof(*sh));
	fflush(NULL);
	t->pid = __real_fork();
	assert_true(t->pid >= 0);
	if (t->pid == 0) {
		struct err err = {0};
		int code;

		sh->guard = getpid();
		if (own_score) {
			int fd = __real_open("/proc/self/oom_score_adj", O_WRONLY);

			assert_int_equal(write(fd, own_score, strlen(own_score)), strlen(own_score));
			close(fd);
		}
		if (sigchld_ignored)
			signal(SIGCHLD, SIG_IGN);
		code = guard_run(&t->o, &err);
		strcpy(sh->err, err.text);
		strcpy(sh->hint, err.hint);
		flush();
		_exit(code);
	}
	t->pidfd = (int)__real_syscall(SYS_pidfd_open, t->pid, 0, 0, 0, 0, 0);
	assert_true(t->pidfd >= 0);
}

static int end(struct trial *t)
{
	struct pollfd p = {.fd = t->pidfd, .events = POLLIN};
	int status, n = __real_poll(&p, 1, PATIENCE_MS);

	if (n != 1)
		kill(t->pid, SIGKILL);
	assert_int_equal(waitpid(t->pid, &status, 0), t->pid);
	close(t->pidfd);
	json_decref(t->plan.scenario);
	assert_int_equal(n, 1);
	assert_true(WIFEXITED(status));
	if (sh->script)
		assert_int_equal(kill(sh->script, 0), -1); /* it has gone along */
	return WEXITSTATUS(status);
}

static int play(int (*engine)(const struct run_opts *o))
{
	struct trial t = {0};

	begin(&t, engine, 60 * NSEC_PER_SEC);
	return end(&t);
}

static char *timeline(void)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", run_dir);
	char *text = NULL;

	return file_read(path, 1 << 20, &text, NULL) < 0 ? strdup("") : text;
}

static void assert_said(const char *what)
{
	_cleanup_free_ char *text = timeline();

	if (!strstr(text, what))
		fail_msg("\"%s\" is not in: %s", what, text);
}

static bool journal_there(void)
{
	_cleanup_free_ char *path = strf("%s/trial-1/undo.journal", root);

	return access(path, F_OK) == 0;
}

/* The engine's change is made and the guard watches. */
static void await_change(const char *name)
{
	for (nsec_t until = now_ns() + PATIENCE_MS * NSEC_PER_MSEC; !is_ours(name); (void)__real_poll(NULL, 0, 5))
		assert_true(now_ns() < until);
}

static int fresh(void **state _unused_)
{
	strcpy(root, "/tmp/muster-guard-XXXXXX");
	if (!mkdtemp(root))
		return -1;
	snprintf(run_dir, sizeof(run_dir), "%s/run", root);
	snprintf(durable, sizeof(durable), "%s/durable", root);
	journal_volatile_root = root;
	journal_durable_root = durable;
	fail_socketpair = fail_fork = fail_signalfd = fail_pidfd_open = fail_poll = fail_load = fail_spawn = fail_play = 0;
	swallow_kill = residue_fails = residue_differs = no_heap = no_score = no_realtime = no_wchan = false;
	poll_broken = slow_to_protect = sigchld_ignored = false;
	fail_fmt = fail_key = own_score = wchan = NULL;
	memset(sh, 0, sizeof(*sh));
	return mkdir(run_dir, 0755);
}

static int clear(void **state _unused_)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf -- '%s'", root);
	return system(cmd);
}

/* ── cases ─────────────────────────────────────────────────────────────────────────────────── */

static void nothing_to_do_behind_a_good_engine(void **state _unused_)
{
	_cleanup_free_ char *said = NULL;

	assert_int_equal(play(ends_well), EXIT_PASS);
	said = timeline();
	assert_string_equal(said, "");
	assert_int_equal(sh->applied, 1);
	assert_string_equal(sh->announce, "");
	assert_false(is_ours("a"));
	assert_false(journal_there());
}

static void runs_the_drills_engine(void **state _unused_)
{
	assert_int_equal(play(NULL), EXIT_PASS);
	assert_true(sh->told_all);
	assert_int_equal(sh->applied, 1);
	assert_false(is_ours("a"));
}

static void undoes_what_a_dead_engine_left(void **state _unused_)
{
	assert_int_equal(play(is_killed), EXIT_PASS);
	assert_int_equal(sh->applied, 2);
	assert_false(is_ours("a") || is_ours("b"));
	assert_false(journal_there());
	assert_said("\"undone\":2");
	assert_said("killed by signal 9");
	assert_said("\"kind\":\"error\"");
	assert_said("\"clean\":true");

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	assert_int_equal(play(segfaults), EXIT_PASS);
	assert_false(is_ours("a"));
	assert_said("killed by signal 11");

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	assert_int_equal(play(forgets), EXIT_PASS);
	assert_false(is_ours("a"));
	assert_said("ended with status 0 and something left");

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	assert_int_equal(play(undoes_and_fails), EXIT_PASS);
	assert_said("ended with status 8");
	assert_said("\"undone\":0");

	/* how it ended is known also where the parent of us all did not care for its children */
	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	sigchld_ignored = true;
	assert_int_equal(play(undoes_and_fails), EXIT_PASS);
	assert_said("ended with status 8");
}

/* Killed first, then undone: nothing that was stopped acts again. */
static void ends_a_silent_engine(void **state _unused_)
{
	static int (*const silent[])(const struct run_opts *o) = {hangs, stops, spins, hangs_up};

	for (size_t i = 0; i < ARRAY_SIZE(silent); i++) {
		struct trial t = {.o.times.hang = 400 * NSEC_PER_MSEC};

		begin(&t, silent[i], 60 * NSEC_PER_SEC);
		await_change("a");
		(void)kill(sh->engine, SIGCONT); /* to no avail where it is stopped a moment later */
		assert_int_equal(end(&t), EXIT_PASS);
		assert_int_equal(kill(sh->engine, 0), -1);
		assert_false(is_ours("a"));
		assert_in_range(sh->polls, 1, 30); /* it waits, and does not ask and ask */
		if (silent[i] != stops)
			assert_said("engine-hung");
		assert_int_equal(clear(NULL) | fresh(NULL), 0);
	}
}

static void halts_at_the_deadline(void **state _unused_)
{
	struct trial t = {0};

	begin(&t, hears_and_undoes, 200 * NSEC_PER_MSEC);
	assert_int_equal(end(&t), EXIT_PASS);
	assert_non_null(strstr(sh->halt, "\"deadline\""));
	assert_true(sh->beats); /* and the guard answers beats */
	assert_false(is_ours("a"));
	assert_false(journal_there());
}

static void ends_an_engine_without_end(void **state _unused_)
{
	struct trial t = {.o.times.grace = 300 * NSEC_PER_MSEC};

	begin(&t, hears_and_does_nothing, 100 * NSEC_PER_MSEC);
	assert_int_equal(end(&t), EXIT_PASS);
	assert_false(is_ours("a"));
	assert_said("\"what\":\"deadline\"");
	assert_said("\"by\":\"deadline\"");
}

static void hears_signals(void **state _unused_)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	_cleanup_free_ char *path = NULL;
	struct trial t = {0};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		t = (struct trial){0};
		begin(&t, hears_and_undoes, 60 * NSEC_PER_SEC);
		await_change("a");
		kill(t.pid, signals[i]);
		kill(t.pid, signals[(i + 1) % ARRAY_SIZE(signals)]); /* twice is once */
		assert_int_equal(end(&t), EXIT_PASS);
		assert_non_null(strstr(sh->halt, "the guard was told to end"));
		assert_non_null(strstr(sh->halt, "\"operator\""));
	}
	path = strf("%s/%s", run_dir, HALT_REASON);
	t = (struct trial){0};
	begin(&t, hears_and_undoes, 60 * NSEC_PER_SEC);
	await_change("a");
	assert_int_equal(file_write(path, "enough seen", 11), 0);
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), EXIT_PASS);
	assert_non_null(strstr(sh->halt, "enough seen"));
	assert_int_equal(access(path, F_OK), -1);

	/* no reason that JSON could hold; no memory for it: it is a halt all the same */
	t = (struct trial){0};
	begin(&t, hears_and_undoes, 60 * NSEC_PER_SEC);
	await_change("a");
	assert_int_equal(file_write(path, "\xff\xfe", 2), 0);
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), EXIT_PASS);
	assert_non_null(strstr(sh->halt, "{\"halt\":\"operator\",\"reason\":\"(it cannot be told)\"}"));
	for (size_t i = 0; i < 3; i++) {
		fail_key = i == 0 ? "halt" : NULL;
		fail_fmt = i == 1 ? "%s/" HALT_REASON : i == 2 ? "the guard was told to end (%s)" : NULL;
		t = (struct trial){0};
		begin(&t, hears_and_undoes, 60 * NSEC_PER_SEC);
		for (nsec_t until = now_ns() + PATIENCE_MS * NSEC_PER_MSEC; !sh->applied; (void)__real_poll(NULL, 0, 5))
			assert_true(now_ns() < until);
		kill(t.pid, SIGTERM);
		assert_int_equal(end(&t), EXIT_PASS);
		assert_non_null(strstr(sh->halt, "{\"halt\":\"operator\""));
	}
}

static void notices_that_the_command_is_gone(void **state _unused_)
{
	struct trial t = {0};
	pid_t command = __real_fork();

	if (command == 0)
		for (;;)
			pause();
	t.o.parent_fd = (int)__real_syscall(SYS_pidfd_open, command, 0, 0, 0, 0, 0);
	begin(&t, hears_and_undoes, 60 * NSEC_PER_SEC);
	await_change("a");
	kill(command, SIGKILL);
	waitpid(command, NULL, 0);
	assert_int_equal(end(&t), EXIT_PASS);
	assert_non_null(strstr(sh->halt, "the command that ran the drill is gone"));
	close(t.o.parent_fd);
}

/* What it cannot hear while it is stopped is not the engine's silence. */
static void forgives_after_a_sleep(void **state _unused_)
{
	struct trial t = {.o.times.hang = 500 * NSEC_PER_MSEC};
	_cleanup_free_ char *said = NULL;

	begin(&t, hears_and_undoes, 60 * NSEC_PER_SEC);
	await_change("a");
	kill(t.pid, SIGSTOP);
	(void)__real_poll(NULL, 0, 1200); /* longer than `hang` and what it takes to notice: that is the case */
	kill(t.pid, SIGCONT);
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), EXIT_PASS);
	said = timeline();
	assert_string_equal(said, ""); /* the engine lived, and undid it itself */
}

/* What it had no time to hear before it listened is not the engine's silence either: it is heard before it is judged. */
static void hears_before_it_judges(void **state _unused_)
{
	struct trial t = {.o.times.hang = 400 * NSEC_PER_MSEC};
	_cleanup_free_ char *said = NULL;

	slow_to_protect = true;
	begin(&t, beats_at_once, 60 * NSEC_PER_SEC);
	await_change("a");
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), EXIT_PASS);
	assert_int_equal(sh->first_wait, 0);
	said = timeline();
	assert_string_equal(said, "");
}

/* Milliseconds of two months are more than poll() can be told; it is woken once a minute, and hears what there is to hear. */
static void has_patience(void **state _unused_)
{
	const nsec_t months = 60 * 24 * 3600 * NSEC_PER_SEC;
	struct trial t = {.o.times.hang = months};

	begin(&t, hears_and_undoes, months);
	await_change("a");
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), EXIT_PASS);
	assert_non_null(strstr(sh->halt, "operator"));
	assert_int_equal(sh->longest_wait, 60000);
}

static void cannot_kill(int (*engine)(const struct run_opts *o), const char *said)
{
	struct trial t = {.o.times = {.hang = 300 * NSEC_PER_MSEC, .dies = 300 * NSEC_PER_MSEC}};
	nsec_t until = now_ns() + PATIENCE_MS * NSEC_PER_MSEC;

	swallow_kill = true;
	begin(&t, engine, 60 * NSEC_PER_SEC);
	await_change("a");
	for (; is_ours("a"); (void)__real_poll(NULL, 0, 5))
		assert_true(now_ns() < until);
	kill(sh->script, SIGKILL); /* the guard's was swallowed too */
	assert_int_equal(end(&t), EXIT_RESIDUE);
	assert_int_equal(kill(sh->engine, 0), 0); /* it lives, and that was not waited for */
	kill(sh->engine, SIGKILL);
	assert_in_range(sh->polls, 1, 30);
	assert_said(said);
	assert_said("\"clean\":false");
}

static void says_so_when_the_engine_cannot_be_killed(void **state _unused_)
{
	cannot_kill(hangs, "has not died in 0.3 s: a thread of process");
	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	cannot_kill(sleeps_in_the_kernel, "has not died in 0.3 s: thread ");
	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	fail_fmt = "/proc/%d/task";
	cannot_kill(hangs, "a thread of process");

	/* without memory to look it up; where the kernel does not tell where it sleeps, or not to us */
	for (size_t i = 0; i < 4; i++) {
		_cleanup_free_ char *zero = NULL;

		assert_int_equal(clear(NULL) | fresh(NULL), 0);
		zero = strf("%s/zero", root);
		assert_int_equal(file_write(zero, "0", 1), 0);
		fail_fmt = i == 0 ? "%s/%s/stat" : i == 1 ? "%s/%s/wchan" : NULL;
		no_wchan = i == 2;
		wchan = i == 3 ? zero : NULL;
		cannot_kill(sleeps_in_the_kernel, i < 2 ? "0.3 s: a thread of process" : " (in ?) of process");
	}
}

static void reports_what_it_could_not_undo(void **state _unused_)
{
	assert_int_equal(play(meets_third_party), EXIT_RESIDUE);
	assert_true(is_ours("a"));
	assert_said("\"conflicts\":1");
	assert_false(journal_there()); /* settled: it is somebody else's now */

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	assert_int_equal(play(is_stubborn), EXIT_RESIDUE);
	assert_false(is_ours("a")); /* one that fails does not stop the rest */
	assert_true(is_ours("stubborn"));
	assert_said("word on host: failed");
	assert_true(journal_there()); /* hot */

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	fail_play = 1;
	assert_int_equal(play(is_killed), EXIT_RESIDUE);
	assert_said("the journal is unreadable");
	assert_true(journal_there());

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	residue_differs = true;
	assert_int_equal(play(is_killed), EXIT_RESIDUE);
	assert_said("host: a line");

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	residue_fails = true; /* what could not be compared is not known to be as it was */
	assert_int_equal(play(is_killed), EXIT_RESIDUE);
	assert_said("no picture");
}

static void no_change_that_could_not_be_undone(void **state _unused_)
{
	assert_int_equal(play(is_elsewhere), EXIT_PASS);
	assert_int_equal(sh->applied, 0);
	assert_non_null(strstr(sh->announce, "the guard could not undo it: node host: its network namespace /nonexistent/netns"));

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	fail_load = 1;
	assert_int_equal(play(forgets), EXIT_PASS);
	assert_int_equal(sh->applied, 0);
	assert_non_null(strstr(sh->announce, "no memory left"));

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	assert_int_equal(play(asks_late), EXIT_PASS);
	assert_false(sh->answered);
}

static void undoes_without_a_free_descriptor(void **state _unused_)
{
	assert_int_equal(play(starves_the_guard), EXIT_PASS);
	assert_true(sh->spared);
	assert_said("\"undone\":1");
}

static void is_taken_last(void **state _unused_)
{
	char before[16];

	read_own_score(before, sizeof(before));
	assert_int_equal(play(shows_scores), EXIT_PASS);
	assert_string_equal(sh->score, before);
	assert_int_equal(atoi(sh->engine_score), MAX(atoi(before), 800));
	/* without the privilege (CAP_SYS_RESOURCE) it stays what it was; with it, tests/crash/test_ways_out.c sees it */
	assert_true(streq(sh->guard_score, "-1000") || streq(sh->guard_score, before));

	/* what is to be taken earlier still remains so */
	own_score = "900";
	assert_int_equal(play(shows_scores), EXIT_PASS);
	assert_string_equal(sh->engine_score, "900");
	assert_string_equal(sh->score, "900");
}

/* It undoes before everything else; what it starts in doing so is nothing special. */
static void comes_first(void **state _unused_)
{
	int ours = getpriority(PRIO_PROCESS, 0);

	assert_int_equal(play(is_killed), EXIT_PASS);
	assert_int_equal(sh->child_nice, ours);
	assert_int_equal(sh->child_policy, SCHED_OTHER);
	if (geteuid() == 0)
		assert_true(sh->guard_policy == (SCHED_RR | SCHED_RESET_ON_FORK) || sh->guard_nice == -20);

	/* where it may not be real-time */
	no_realtime = true;
	assert_int_equal(play(is_killed), EXIT_PASS);
	assert_int_equal(sh->child_nice, ours);
	assert_int_equal(sh->guard_nice, geteuid() == 0 ? -20 : ours);
}

static void refuses_before_it_begins(void **state _unused_)
{
	_cleanup_free_ char *path = strf("%s/lock", root), *hot = strf("%s/trial-1", root);
	int fd, lock;

	/* another drill; then one that has not said yet who it is */
	assert_int_equal(guard_lock_host("first-1", "/tmp/first", &lock, NULL), 0);
	assert_int_equal(play(ends_well), EXIT_REFUSED);
	assert_non_null(strstr(sh->err, "another drill is going on here: first-1"));
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(play(ends_well), EXIT_REFUSED);
	assert_non_null(strstr(sh->err, "(it is starting)"));
	close(lock);

	fail_signalfd = 1;
	assert_int_equal(play(ends_well), EXIT_REFUSED);
	fail_signalfd = 0;

	fail_spawn = 1;
	assert_int_equal(play(ends_well), EXIT_REFUSED);
	assert_non_null(strstr(sh->err, "no script"));
	assert_false(journal_there());
	fail_spawn = 0;

	for (int nth = 1; nth <= 2; nth++) {
		fail_socketpair = nth;
		assert_int_equal(play(ends_well), EXIT_REFUSED);
		assert_non_null(strstr(sh->err, "socketpair"));
		assert_false(journal_there());
	}
	fail_socketpair = 0;
	fail_fork = 1;
	assert_int_equal(play(ends_well), EXIT_REFUSED);
	assert_non_null(strstr(sh->err, "start the engine"));
	assert_false(journal_there());
	fail_fork = 0;

	/* it runs and cannot be watched: it is ended, and what it did undone */
	fail_pidfd_open = 1;
	assert_int_equal(play(hangs), EXIT_REFUSED);
	assert_non_null(strstr(sh->err, "pidfd of the engine"));
	assert_false(is_ours("a"));
	fail_pidfd_open = 0;

	assert_int_equal(mkdir(hot, 0755), 0);
	assert_int_equal(file_write((free(TAKE_PTR(path)), path = strf("%s/undo.journal", hot)), "", 0), 0);
	assert_int_equal(play(ends_well), EXIT_REFUSED);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0); /* whose it is, it stays */
	close(fd);
}

static void survives_its_own_poll(void **state _unused_)
{
	struct trial t = {0}, deaf = {.o.times.dies = 300 * NSEC_PER_MSEC};

	fail_poll = 2;
	poll_errno = EINTR;
	begin(&t, hears_and_undoes, 60 * NSEC_PER_SEC);
	await_change("a");
	kill(t.pid, SIGTERM);
	assert_int_equal(end(&t), EXIT_PASS);
	assert_non_null(strstr(sh->halt, "operator"));

	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	fail_poll = 2;
	poll_errno = ENOMEM;
	assert_int_equal(play(hears_and_does_nothing), EXIT_PASS);
	assert_said("guard-failed");
	assert_false(is_ours("a"));

	/* never again to hear of anything, of the engine's death neither: it undoes when that should have been, and calls it residue */
	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	fail_poll = 2;
	poll_broken = true;
	begin(&deaf, hears_and_does_nothing, 60 * NSEC_PER_SEC);
	assert_int_equal(end(&deaf), EXIT_RESIDUE);
	assert_said("guard-failed");
	assert_said("\"clean\":false");
	assert_false(is_ours("a"));
}

/* A line that the engine was writing when it died is ended; the live view gets what the file gets, and may be gone. */
static void goes_on_with_the_timeline(void **state _unused_)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", run_dir), *text = NULL;
	struct trial t = {0};
	char buf[4096] = "";
	int view[2];
	ssize_t n;

	assert_int_equal(file_write(path, "{\"t\":1,\"kind\":\"lo", 17), 0);
	assert_int_equal(pipe2(view, O_CLOEXEC), 0);
	t.o.event_fd = view[1];
	begin(&t, is_killed, 60 * NSEC_PER_SEC);
	assert_int_equal(end(&t), EXIT_PASS);
	text = timeline();
	assert_non_null(strstr(text, "\"lo\n{\""));
	n = read(view[0], buf, sizeof(buf) - 1);
	assert_true(n > 0);
	assert_string_equal(buf, strchr(text, '\n') + 1);
	close(view[0]);
	close(view[1]);

	/* a whole line needs no ending; no folder, no file, and it is undone all the same */
	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	free(TAKE_PTR(path));
	path = strf("%s/timeline.jsonl", run_dir);
	assert_int_equal(file_write(path, "{}\n", 3), 0);
	assert_int_equal(play(is_killed), EXIT_PASS);
	free(TAKE_PTR(text));
	text = timeline();
	assert_int_equal(strncmp(text, "{}\n{", 4), 0);
	assert_int_equal(clear(NULL) | fresh(NULL), 0);
	assert_int_equal(rmdir(run_dir), 0);
	assert_int_equal(play(is_killed), EXIT_PASS);
	assert_false(is_ours("a"));
}

/* What could not be prepared, or said, keeps nothing from being undone. */
static void goes_without(void **state _unused_)
{
	struct rlimit files, all;

	no_heap = no_score = true;
	assert_int_equal(play(is_killed), EXIT_PASS);
	assert_false(is_ours("a"));
	no_heap = no_score = false;
	fail_fmt = "%s/timeline.jsonl";
	assert_int_equal(play(is_killed), EXIT_PASS);
	fail_fmt = NULL;
	fail_key = "kind";
	assert_int_equal(play(is_killed), EXIT_PASS);
	fail_key = NULL;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	all = (struct rlimit){.rlim_cur = 100, .rlim_max = files.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &all), 0);
	assert_int_equal(play(is_killed), EXIT_PASS);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
}

static void tells_who_holds_the_lock(void **state _unused_)
{
	_cleanup_free_ char *path = strf("%s/lock", root), *big = malloc(9001), *not_there = strf("%s/none", root);
	struct rlimit size, none;
	struct lock_holder h;
	struct err err = {0};
	int lock, other, r;

	assert_int_equal(guard_lock_holder(&h), 0); /* no file */
	assert_int_equal(guard_lock_host("x-1", "/tmp/a folder", &lock, &err), 0);
	assert_int_equal(guard_lock_holder(&h), 1);
	assert_string_equal(h.run_id, "x-1");
	assert_string_equal(h.dir, "/tmp/a folder");
	assert_int_equal(h.pid, getpid());
	assert_int_equal(guard_lock_host("y-1", "/tmp", &other, &err), -EBUSY);
	/* not ours to read: a text without end, and none */
	memset(big, 'x', 9000);
	big[9000] = '\0';
	assert_int_equal(file_write(path, big, 9000), 0);
	assert_int_equal(guard_lock_holder(&h), -EFBIG);
	assert_int_equal(guard_lock_host("y-1", "/tmp", &other, &err), -EBUSY);
	assert_non_null(strstr(err.text, "(which one cannot be told)"));
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(guard_lock_holder(&h), 1);
	assert_int_equal(h.pid, 0);
	close(lock);
	assert_int_equal(guard_lock_holder(&h), 0); /* nobody any more */

	/* who looks, as `muster status` does, keeps nobody from a drill; who looks and looks is not waited for */
	shared_lock = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(flock(shared_lock, LOCK_SH), 0);
	assert_int_equal(guard_lock_host("x-1", "/tmp", &lock, &err), 0);
	assert_int_equal(shared_lock, -1);
	close(lock);
	other = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(flock(other, LOCK_SH), 0);
	assert_int_equal(guard_lock_host("x-1", "/tmp", &lock, &err), -EBUSY);
	close(other);

	/* a folder in its place; a file where its folder should be; a full disk */
	assert_int_equal(unlink(path) | mkdir(path, 0755), 0);
	assert_int_equal(guard_lock_host("x-1", "/tmp", &lock, &err), -EISDIR);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(file_write(not_there, "", 0), 0);
	journal_volatile_root = not_there;
	assert_true(guard_lock_host("x-1", "/tmp", &lock, &err) < 0);
	assert_int_equal(guard_lock_holder(&h), -ENOTDIR);
	free(TAKE_PTR(not_there));
	not_there = strf("%s/none/below", root);
	journal_volatile_root = not_there;
	assert_int_equal(guard_lock_host("x-1", "/tmp", &lock, &err), -ENOTDIR);
	journal_volatile_root = root;
	fail_fmt = "%s/lock";
	assert_int_equal(guard_lock_host("x-1", "/tmp", &lock, &err), -ENOMEM);
	assert_true(guard_lock_holder(&h) < 0);
	fail_fmt = "%s %d %s\n";
	assert_int_equal(guard_lock_host("x-1", "/tmp", &lock, &err), -ENOMEM);
	fail_fmt = NULL;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &size), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = size.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	r = guard_lock_host("x-1", "/tmp", &lock, &err);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &size), 0);
	assert_true(r < 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/dev/full", path), 0);
	assert_true(guard_lock_host("x-1", "/tmp", &lock, &err) < 0);
	assert_non_null(strstr(err.text, "write"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_to_do_behind_a_good_engine, fresh, clear),
		cmocka_unit_test_setup_teardown(runs_the_drills_engine, fresh, clear),
		cmocka_unit_test_setup_teardown(undoes_what_a_dead_engine_left, fresh, clear),
		cmocka_unit_test_setup_teardown(ends_a_silent_engine, fresh, clear),
		cmocka_unit_test_setup_teardown(halts_at_the_deadline, fresh, clear),
		cmocka_unit_test_setup_teardown(ends_an_engine_without_end, fresh, clear),
		cmocka_unit_test_setup_teardown(hears_signals, fresh, clear),
		cmocka_unit_test_setup_teardown(notices_that_the_command_is_gone, fresh, clear),
		cmocka_unit_test_setup_teardown(forgives_after_a_sleep, fresh, clear),
		cmocka_unit_test_setup_teardown(hears_before_it_judges, fresh, clear),
		cmocka_unit_test_setup_teardown(has_patience, fresh, clear),
		cmocka_unit_test_setup_teardown(says_so_when_the_engine_cannot_be_killed, fresh, clear),
		cmocka_unit_test_setup_teardown(reports_what_it_could_not_undo, fresh, clear),
		cmocka_unit_test_setup_teardown(no_change_that_could_not_be_undone, fresh, clear),
		cmocka_unit_test_setup_teardown(undoes_without_a_free_descriptor, fresh, clear),
		cmocka_unit_test_setup_teardown(is_taken_last, fresh, clear),
		cmocka_unit_test_setup_teardown(comes_first, fresh, clear),
		cmocka_unit_test_setup_teardown(refuses_before_it_begins, fresh, clear),
		cmocka_unit_test_setup_teardown(survives_its_own_poll, fresh, clear),
		cmocka_unit_test_setup_teardown(goes_on_with_the_timeline, fresh, clear),
		cmocka_unit_test_setup_teardown(goes_without, fresh, clear),
		cmocka_unit_test_setup_teardown(tells_who_holds_the_lock, fresh, clear),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return sh == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
