/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The states of a guard, and the function on each arrow:
 *
 *	(none) ─guard_lock_host, journal_create─> HELD ─spawn, start_engine, protect─> WATCHING
 *	   └─ refused: nothing was changed            └─ failed: end_engine, restore ─> LET GO
 *
 *	WATCHING ── on_ctl: a beat; "d" starts the deadline ────────────────────> WATCHING
 *	   │        on_intent: learn() opens what undoing the new entry needs, and the engine's apply may begin
 *	   ├─ on_signal, deadline, death of the command: ask_to_halt ───────────> HALTING
 *	   ├─ no beat for `hang`: kill_engine("engine-hung") ───────────────────> KILLED
 *	   └─ pidfd: the engine has ended by itself ────────────────────────────> DEAD
 *	HALTING ── pidfd: it has undone everything, or died of it ──────────────> DEAD
 *	   └─ no beat for `hang`, or not done within `grace`: kill_engine ──────> KILLED
 *	KILLED ── pidfd: all its threads are gone ──────────────────────────────> DEAD
 *	   └─ not dead within `dies` (a thread sleeps in the kernel): ──────────> STUCK
 *	DEAD ── end_engine, journal_remove says all is DONE ────────────────────> LET GO
 *	   └─ something is left, or it did not live to say so: restore ─────────> LET GO
 *	STUCK ── restore, which says so: what the kernel still does for the engine may come after it: residue ──> LET GO
 *
 * Nothing is undone while the engine could still act: a stopped engine that somebody continues must not make a change
 * behind the undo's back. So SIGKILL comes first, then its death is awaited (a pidfd is readable when the last thread
 * is gone), and only then the journal is played. The one exception is STUCK, where the harm must not last as long as a
 * device's silence.
 *
 * What the undo begins with is there before it is needed: the journal is read as it grows, the namespaces of its
 * entries are open with a netlink socket each (node_keep), GUARD_SPARES descriptors are free for whatever an undo
 * opens, and memory is locked and touched.
 */
#include "engine/guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/judge.h"

#define OOM_SCORE_ADJ	 "/proc/self/oom_score_adj"
#define GUARD_SCORE	 "-1000" /* never taken */
#define GUARD_PRIORITY	 2	 /* real-time; a load's clock has 1 */
#define ENGINE_SCORE_MIN 800	 /* taken before the services that it drills, because its changes are undone then */
#define GUARD_HEAP	 (16u << 20)
#define GUARD_STACK	 (256u << 10)
#define GUARD_SPARES	 16
#define LOCK_LOOKS	 NSEC_PER_SEC /* for those who only look at the host's lock to be done with it */

struct guard {
	const struct guard_opts *o;
	struct journal *journal;
	struct session script;
	pid_t engine;
	int engine_fd; /* pidfd */
	int ctl_fd;
	int intent_fd;
	int signal_fd;
	struct guard_times times;
	nsec_t last_beat, deadline, grace; /* grace: when patience with a halted engine ends */
	bool halting;
	const char *killed; /* why the engine was killed by us: "engine-hung", "deadline" */
	nsec_t killed_at;
	bool stuck;    /* killed, and not dead */
	size_t learnt; /* entries of the journal whose undo is prepared */
	int spares[GUARD_SPARES];
};

/* ── one drill a host ──────────────────────────────────────────────────────────────────────── */

static char *lock_path(void)
{
	return strf("%s/lock", journal_volatile_root);
}

int guard_lock_holder(struct lock_holder *ret)
{
	_cleanup_free_ char *path = lock_path(), *text = NULL;
	_cleanup_close_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	int r, pid = 0;

	if (!path)
		return -ENOMEM;
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (flock(fd, LOCK_SH | LOCK_NB) == 0)
		return 0; /* given back when fd is closed */
	r = fd_read_all(fd, 8192, &text, NULL);
	if (r < 0)
		return r;
	*ret = (struct lock_holder){0};
	/* empty: its holder is about to write */
	if (sscanf(text, "%159s %d %4095[^\n]", ret->run_id, &pid, ret->dir) >= 2)
		ret->pid = pid;
	return 1;
}

int guard_lock_host(const char *run_id, const char *dir, int *ret_fd, struct err *err)
{
	_cleanup_free_ char *path = lock_path(), *text = strf("%s %d %s\n", run_id, (int)getpid(), dir);
	_cleanup_close_ int fd = -1;
	nsec_t until = now_ns() + LOCK_LOOKS;
	int r = mkdir_p(journal_volatile_root);

	if (r < 0 || !path || !text)
		return err_set(err, r < 0 ? r : -ENOMEM, "make %s: %s", journal_volatile_root, strerror(-r));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_set(err, -errno, "open %s: %s", path, strerror(errno));
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		struct lock_holder holder = {0};
		const char *who = holder.run_id;
		int held = guard_lock_holder(&holder);

		/* by nobody: it was shared for an instant, by guard_lock_holder() in a `muster status`, say; nothing tells the end of that */
		if (held == 0 && now_ns() < until) {
			(void)poll(NULL, 0, 1);
			continue;
		}
		if (held <= 0)
			who = "(which one cannot be told)";
		else if (!holder.run_id[0])
			who = "(it is starting)";
		err_set(err, -EBUSY, "another drill is going on here: %s", who);
		return err_hint(err, "muster status shows it; muster halt --reason TEXT ends it");
	}
	if (ftruncate(fd, 0) < 0 || fd_write_all(fd, text, strlen(text)) < 0)
		return err_set(err, -EIO, "write %s: %s", path, strerror(errno));
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* ── halting ───────────────────────────────────────────────────────────────────────────────── */

/* The engine is asked to halt; if it cannot hear, the grace period finds it out. */
static void ask_to_halt(struct guard *g, const char *by, const char *reason)
{
	/* NULL without memory, or when the reason is no UTF-8 */
	_cleanup_json_ json_t *j = json_pack("{s:s, s:s}", "halt", by, "reason", reason);
	_cleanup_free_ char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	char plain[96];
	const char *line = text;

	if (g->halting)
		return;
	g->halting = true;
	g->grace = now_ns() + g->times.grace;
	if (!line) {
		snprintf(plain, sizeof(plain), "{\"halt\":\"%s\",\"reason\":\"(it cannot be told)\"}", by);
		line = plain;
	}
	(void)send(g->ctl_fd, line, strlen(line), MSG_DONTWAIT | MSG_NOSIGNAL);
	(void)send(g->ctl_fd, "\n", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void kill_engine(struct guard *g, const char *why)
{
	if (g->killed)
		return;
	g->killed = why;
	g->killed_at = now_ns();
	(void)syscall(SYS_pidfd_send_signal, g->engine_fd, SIGKILL, NULL, 0);
}

/* `muster halt` leaves its reason in the run's folder before it sends the signal. */
static void on_signal(struct guard *g)
{
	_cleanup_free_ char *path = strf("%s/" HALT_REASON, g->o->dir), *reason = NULL;
	struct signalfd_siginfo si = {0};

	(void)!read(g->signal_fd, &si, sizeof(si)); /* poll() has said that there is one */
	if (!path || file_read(path, 1024, &reason, NULL) < 0)
		reason = strf("the guard was told to end (%s)", strsignal((int)si.ssi_signo));
	else
		(void)unlink(path);
	ask_to_halt(g, "operator", reason ? reason : "(no memory for the reason)");
}

/* false: end of file. The engine has let go of it, and is ending, or not; its pidfd says when, or its silence that it must. */
static bool on_ctl(struct guard *g)
{
	char buf[256];
	ssize_t n = recv(g->ctl_fd, buf, sizeof(buf), MSG_DONTWAIT);

	for (ssize_t i = 0; i < n; i++) {
		g->last_beat = now_ns();
		if (buf[i] == 'd')
			g->deadline = now_ns() +
				      json_integer_value(json_object_get(g->o->plan->scenario, "deadline_ns"));
	}
	/* the guard's own beat, an empty line: the engine wants to know that there is one */
	if (n > 0)
		(void)send(g->ctl_fd, "\n", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n != 0;
}

/* Opens what undoing the journal's new entries will need. */
static int learn(struct guard *g, struct err *err)
{
	const struct journal_entry *e;
	size_t n;
	int r = journal_load(g->journal, &e, &n, err);

	for (; r == 0 && g->learnt < n; g->learnt++) {
		r = node_keep(e[g->learnt].node, err);
		if (r == 0)
			r = node_keep(e[g->learnt].prior, err);
		if (r < 0)
			break;
	}
	return r;
}

/*
 * The engine has written an INTENT and waits. The answer is empty, or the text why this change cannot be undone for
 * certain, and so is not to be made. A question that is older than the engine's patience is not answered, and the
 * journal not read: the engine has gone on, and may be writing. Returns false as on_ctl() does.
 */
static bool on_intent(struct guard *g)
{
	struct err err = {0};
	nsec_t asked;
	ssize_t n = recv(g->intent_fd, &asked, sizeof(asked), MSG_DONTWAIT);

	if (n != sizeof(asked) || now_ns() - asked > RUN_INTENT_PATIENCE / 2)
		return n != 0;
	if (learn(g, &err) < 0 && !err.text[0])
		(void)err_set(&err, -ENOMEM, "the guard has no memory left");
	(void)send(g->intent_fd, err.text, strlen(err.text) + 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	return true;
}

/* ── watching ──────────────────────────────────────────────────────────────────────────────── */

static int next_wake(const struct guard *g)
{
	nsec_t t = MIN(g->last_beat + g->times.hang, g->halting ? g->grace : g->deadline);

	if (g->killed)
		t = g->killed_at + g->times.dies;
	t -= now_ns();
	return t < 0 ? 0 : (int)MIN(t / NSEC_PER_MSEC + 1, 60000);
}

/*
 * Woken far too late, the guard itself was stopped, or the machine: what it did not hear in that time it cannot hold
 * against the engine.
 */
static void forgive(struct guard *g, nsec_t asleep_since, int wake_ms)
{
	if (now_ns() > asleep_since + wake_ms * NSEC_PER_MSEC + g->times.hang / 2)
		g->last_beat = now_ns();
}

static void judge_engine(struct guard *g)
{
	nsec_t now = now_ns();

	if (g->killed) {
		g->stuck = now >= g->killed_at + g->times.dies;
		return;
	}
	if (now >= g->last_beat + g->times.hang)
		kill_engine(g, "engine-hung");
	else if (!g->halting && now >= g->deadline)
		ask_to_halt(g, "deadline", "the scenario's deadline has passed");
	else if (g->halting && now >= g->grace)
		kill_engine(g, "deadline");
}

/* Returns when the engine is dead, or cannot be killed. */
static void watch(struct guard *g)
{
	enum { ENGINE, CTL, INTENT, SIGNAL, PARENT };
	struct pollfd p[] = {
		[ENGINE] = {.fd = g->engine_fd, .events = POLLIN},
		[CTL] = {.fd = g->ctl_fd, .events = POLLIN},
		[INTENT] = {.fd = g->intent_fd, .events = POLLIN},
		[SIGNAL] = {.fd = g->signal_fd, .events = POLLIN},
		[PARENT] = {.fd = g->o->parent_fd, .events = POLLIN},
	};

	while (!g->stuck) {
		nsec_t began = now_ns();
		int wake = next_wake(g);

		if (poll(p, ARRAY_SIZE(p), wake) < 0) {
			if (errno != EINTR)
				kill_engine(g, "guard-failed");
			for (size_t i = 0; i < ARRAY_SIZE(p); i++)
				p[i].revents = 0;
		}
		if (p[CTL].revents && !on_ctl(g))
			p[CTL].fd = -1;
		if (p[ENGINE].revents)
			return;
		if (p[INTENT].revents && !on_intent(g))
			p[INTENT].fd = -1;
		if (p[SIGNAL].revents)
			on_signal(g);
		if (p[PARENT].revents) {
			p[PARENT].fd = -1;
			ask_to_halt(g, "guard", "the command that ran the drill is gone");
		}
		forgive(g, began, wake);
		judge_engine(g);
	}
}

/* ── restoring ─────────────────────────────────────────────────────────────────────────────── */

/* The engine's timeline, continued by hand: the guard has nothing to lose from a line that is torn. */
static void write_event(const struct guard *g, const char *kind, json_t *data)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", g->o->dir), *line = NULL;
	_cleanup_close_ int fd = path ? open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
	_cleanup_strbuf_ struct strbuf b = {0};
	_cleanup_json_ json_t *j = data;
	char last = '\n';

	json_object_set_new(j, "t", json_integer(now_ns()));
	json_object_set_new(j, "kind", json_string(kind));
	line = json_dumps(j, JSON_COMPACT);
	if (!line)
		return;
	/* the engine may have died in the middle of a line; where there is no file, or nothing in it, nothing is read */
	(void)!pread(fd, &last, 1, lseek(fd, 0, SEEK_END) - 1);
	if (last != '\n')
		(void)!write(fd, "\n", 1);
	strbuf_addf(&b, "%s\n", line);
	if (fd >= 0)
		(void)fd_write_all(fd, b.s, b.len);
	if (g->o->event_fd >= 0)
		(void)!write(g->o->event_fd, b.s, b.len);
}

/* Of a process that does not die: which thread holds it, and where in the kernel. */
static void who_sleeps(pid_t pid, char *buf, size_t size)
{
	_cleanup_free_ char *path = strf("/proc/%d/task", (int)pid);
	DIR *d = path ? opendir(path) : NULL;
	struct dirent *e;

	snprintf(buf, size, "a thread");
	while (d && (e = readdir(d))) {
		_cleanup_free_ char *stat_path = strf("%s/%s/stat", path, e->d_name),
				    *wchan_path = strf("%s/%s/wchan", path, e->d_name), *stat = NULL, *wchan = NULL;

		/* "ID (NAME) STATE ..."; the names of the engine's threads are ours, and have no parenthesis */
		if (!stat_path || !wchan_path || file_read(stat_path, 4096, &stat, NULL) < 0 || !strstr(stat, ") D "))
			continue;
		/* "0" says the kernel to who may not know */
		(void)file_read(wchan_path, 128, &wchan, NULL);
		snprintf(buf, size, "thread %.16s (in %.64s)", e->d_name, wchan && !streq(wchan, "0") ? wchan : "?");
		break;
	}
	if (d)
		closedir(d);
}

/* How the engine ended, for a person. */
static void how_it_ended(const struct guard *g, int status, char *buf, size_t size)
{
	char who[160];

	if (g->stuck) {
		who_sleeps(g->engine, who, sizeof(who));
		snprintf(buf, size,
			"it was killed and has not died in %.3g s: %s of process %d sleeps in the kernel, and what that was asked to do "
			"may still be done",
			(double)g->times.dies / NSEC_PER_SEC, who, (int)g->engine);
	}
	else if (WIFSIGNALED(status))
		snprintf(buf, size, "it was killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(buf, size, "it ended with status %d and something left to undo", WEXITSTATUS(status));
}

/* Plays what the engine has left undone. Returns whether the host is restored. */
static bool restore(struct guard *g, int status)
{
	const char *what = g->killed ? g->killed : "engine-died";
	_cleanup_json_ json_t *diff = NULL, *failed = json_array();
	struct restore_result res = {0};
	struct err err = {0};
	nsec_t restored;
	char how[512];
	bool compared, clean;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(g->spares); i++)
		if (g->spares[i] >= 0)
			close(TAKE_FD(g->spares[i]));
	r = journal_play(g->journal, &res, &err);
	restored = now_ns();
	node_keep_none();
	how_it_ended(g, status, how, sizeof(how));
	if (r < 0)
		json_array_append_new(failed, json_string(err.text));
	else if (res.failed)
		json_array_extend(failed, res.lines);
	if (g->stuck)
		json_array_append_new(failed, json_string(how));
	compared = residue_host(g->o->dir, &diff, &err) == 0;
	if (!compared) {
		diff = json_array();
		json_array_append_new(failed, json_string(err.text));
	}
	clean = r == 0 && compared && res.failed == 0 && res.conflicts == 0 && !g->stuck && json_array_size(diff) == 0;
	write_event(g, EV_GUARD,
		json_pack("{s:s, s:s, s:i, s:i, s:i, s:I}", "what", what, "text", how, "undone", (int)res.undone, "conflicts",
			(int)res.conflicts, "failed", (int)res.failed, "restored_ns", (json_int_t)restored));
	if (streq(what, "deadline"))
		write_event(g, EV_HALT, json_pack("{s:s, s:s}", "by", "deadline", "reason", "the engine did not end in time"));
	else if (g->stuck || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		write_event(g, EV_ERROR,
			json_pack("{s:s, s:s}", "text", "the engine ended before its time; the guard undid what it had changed",
				"blame", "engine"));
	write_event(g, EV_RESIDUE,
		json_pack("{s:b, s:O, s:[], s:O}", "clean", clean, "diff", diff, "conflicts", "failed", failed));
	restore_result_clear(&res);
	return clean;
}

/* ── the process ───────────────────────────────────────────────────────────────────────────── */

/* What the command had, and whatever the engine starts is to have. */
static char inherited_score[16] = "0";

static void set_score(const char *score)
{
	int fd = open(OOM_SCORE_ADJ, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)!write(fd, score, strlen(score)); /* without the privilege it stays as it is */
	close(fd);
}

static void read_score(void)
{
	_cleanup_free_ char *text = NULL;

	if (file_read(OOM_SCORE_ADJ, sizeof(inherited_score) - 1, &text, NULL) == 0)
		snprintf(inherited_score, sizeof(inherited_score), "%.*s", (int)strcspn(text, "\n"), text);
}

static int inherited_nice;

/* In a child of the engine, or a daemon that an undo of ours starts again; between fork and exec: system calls only */
static void be_ordinary(void)
{
	set_score(inherited_score);
	(void)setpriority(PRIO_PROCESS, 0, inherited_nice);
}

/*
 * In the engine. Short of memory, the kernel takes it first, and neither the guard, which undoes then, nor the
 * services that are drilled. Its own children, daemons of a lab, are no different from the same daemons started by
 * hand.
 */
static void expose_engine(void)
{
	char score[16];

	snprintf(score, sizeof(score), "%d", MAX(atoi(inherited_score), ENGINE_SCORE_MIN));
	set_score(score);
	(void)pthread_atfork(NULL, NULL, be_ordinary);
}

/* A stack that has been this deep stays mapped, and locked. */
static void __attribute__((noinline)) touch_stack(void)
{
	volatile char deep[GUARD_STACK];

	for (size_t i = 0; i < sizeof(deep); i += 4096)
		deep[i] = 0;
}

/*
 * After the last fork, whose copies of our pages would else be made when we first write to them, perhaps when there is
 * no memory to copy to: locking writable private memory makes the copies now.
 */
static void protect(struct guard *g)
{
	const struct sched_param first = {.sched_priority = GUARD_PRIORITY};
	struct rlimit files;
	char *heap;

	(void)pthread_atfork(NULL, NULL, be_ordinary);
	set_score(GUARD_SCORE);
	/*
	 * It sleeps until it is needed, and then it is needed before everything that is drilled. Niceness counts within a
	 * session only (autogroup), so it is a real-time priority, where that may be had.
	 */
	if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &first) < 0)
		(void)setpriority(PRIO_PROCESS, 0, -20);
	/* The heap neither grows by mapping nor gives back what it has */
	(void)mallopt(M_MMAP_MAX, 0);
	(void)mallopt(M_TRIM_THRESHOLD, INT32_MAX);
	(void)mallopt(M_TOP_PAD, GUARD_HEAP);
	heap = malloc(GUARD_HEAP);
	if (heap)
		explicit_bzero(heap, GUARD_HEAP);
	free(heap);
	touch_stack();
#ifndef __SANITIZE_ADDRESS__ /* which maps terabytes */
	(void)mlockall(MCL_CURRENT | MCL_FUTURE);
#endif
	(void)getrlimit(RLIMIT_NOFILE, &files); /* which cannot fail */
	files.rlim_cur = files.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &files);
	for (size_t i = 0; i < ARRAY_SIZE(g->spares); i++)
		g->spares[i] = fcntl(g->signal_fd, F_DUPFD_CLOEXEC, 0);
}

static int open_signals(struct guard *g)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	g->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	return g->signal_fd < 0 ? -errno : 0;
}

/* In the engine's process */
static _Noreturn void be_engine(struct guard *g, int ctl_fd, int intent_fd)
{
	const struct guard_opts *o = g->o;
	const struct run_opts run = {
		.plan = o->plan,
		.id = o->id,
		.dir = o->dir,
		.lab = o->lab,
		.bind = o->bind,
		.event_fd = o->event_fd,
		.ctl_fd = ctl_fd,
		.intent_fd = intent_fd,
		.guard = getppid(),
		.script = &g->script,
		.journal = g->journal,
		.mgmt = o->mgmt,
	};
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	close(g->ctl_fd);
	close(g->intent_fd);
	close(g->signal_fd);
	expose_engine();
	_exit(o->engine ? o->engine(&run) : run_engine(&run));
}

static int start_engine(struct guard *g, struct err *err)
{
	int ctl[2], intent[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ctl) < 0)
		return err_set(err, -errno, "socketpair: %s", strerror(errno));
	g->ctl_fd = ctl[0];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, intent) < 0) {
		int r = -errno;

		close(ctl[1]);
		return err_set(err, r, "socketpair: %s", strerror(-r));
	}
	g->intent_fd = intent[0];
	g->engine = fork();
	if (g->engine == 0)
		be_engine(g, ctl[1], intent[1]);
	close(ctl[1]);
	close(intent[1]);
	if (g->engine < 0)
		return err_set(err, -errno, "start the engine: %s", strerror(errno));
	g->engine_fd = (int)syscall(SYS_pidfd_open, g->engine, 0);
	if (g->engine_fd < 0)
		return err_set(err, -errno, "pidfd of the engine: %s", strerror(errno));
	/* the engine talks to the script now; its end of file must reach the engine alone */
	close(TAKE_FD(g->script.fd));
	return 0;
}

/*
 * Reaps the engine, which is dead, or will be at once: it could not be watched. One that is stuck is left. No signal has
 * a handler here, so the wait is not interrupted; and SIGCHLD is not ignored, so there is a status to be had.
 */
static int end_engine(struct guard *g)
{
	int status = 0;

	if (g->stuck)
		return 0;
	if (g->engine_fd < 0)
		(void)kill(g->engine, SIGKILL);
	(void)waitpid(g->engine, &status, 0);
	return status;
}

/* The host is as it was, or what is not is written down and stays hot. Returns which. */
static bool settle(struct guard *g, int status)
{
	bool clean = true;

	if (!g->stuck && journal_remove(g->journal, NULL) == 0) {
		/* the engine has undone everything; did it also live to say so? */
		return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? clean : restore(g, status);
	}
	clean = restore(g, status);
	(void)journal_remove(g->journal, NULL); /* what could not be undone stays hot */
	return clean;
}

static void guard_close(struct guard *g)
{
	const int fds[] = {g->engine_fd, g->ctl_fd, g->intent_fd, g->signal_fd};

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	for (size_t i = 0; i < ARRAY_SIZE(g->spares); i++)
		if (g->spares[i] >= 0)
			close(g->spares[i]);
	node_keep_none();
	journal_close(g->journal);
}

static nsec_t or_default(nsec_t t, nsec_t deflt)
{
	return t ? t : deflt;
}

int guard_run(const struct guard_opts *o, struct err *err)
{
	struct guard g = {.o = o,
		.engine_fd = -1,
		.ctl_fd = -1,
		.intent_fd = -1,
		.signal_fd = -1,
		.script = {.fd = -1, .pidfd = -1, .path = o->plan->file},
		.times = {.hang = or_default(o->times.hang, GUARD_HANG),
			.grace = or_default(o->times.grace, GUARD_GRACE),
			.dies = or_default(o->times.dies, GUARD_DIES)}};
	const struct script_args script = {.path = o->plan->file,
		.text = o->plan->text,
		.len = o->plan->text_len,
		.run = true,
		.set = o->plan->set,
		.seed = o->plan->seed};
	_cleanup_close_ int lock = -1;
	bool clean = true;
	int r, status;

	for (size_t i = 0; i < ARRAY_SIZE(g.spares); i++)
		g.spares[i] = -1;
	prctl(PR_SET_NAME, "muster-guard");
	(void)setsid(); /* the terminal's Ctrl-C is the command's to interpret */
	(void)signal(SIGCHLD, SIG_DFL); /* ignored by whoever started us, it would lose how the engine ended */
	read_score();
	inherited_nice = getpriority(PRIO_PROCESS, 0);
	r = guard_lock_host(o->id, o->dir, &lock, err);
	if (r == 0)
		r = open_signals(&g);
	if (r == 0)
		r = journal_create(o->id, &g.journal, err);
	if (r < 0) {
		guard_close(&g);
		return EXIT_REFUSED;
	}
	r = o->spawn(&script, &g.script.pid, &g.script.pidfd, &g.script.fd, err);
	if (r == 0) {
		g.last_beat = now_ns();
		g.deadline = now_ns() + GUARD_LAB;
		r = start_engine(&g, err);
	}
	if (r == 0) {
		protect(&g);
		watch(&g);
	}
	if (g.engine > 0) {
		status = end_engine(&g);
		clean = settle(&g, status);
	} else {
		(void)journal_remove(g.journal, NULL);
	}
	session_end(&g.script);
	guard_close(&g);
	/* whoever is told of a refusal need not look for what is left to undo */
	if (!clean)
		return EXIT_RESIDUE;
	return r < 0 ? EXIT_REFUSED : EXIT_PASS;
}
