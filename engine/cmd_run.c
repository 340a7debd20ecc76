/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * cmd_run.c: the command around a drill: reads the scenario, decides where it is played, starts the guard, draws what happens,
 * and hands over the verdict. It changes nothing itself, and the drill survives its death.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/cmd.h"
#include "engine/cli_scenario.h"
#include "engine/events.h"
#include "engine/guard.h"
#include "engine/mgmt.h"
#include "engine/run_folder.h"
#include "engine/timeline.h"
#include "engine/units.h"
#include "engine/standing.h"
#include "lab/choose.h"
#include "lab/lab.h"
#include "lab/vm.h"
#include "lua/render.h"
#include "lua/report_files.h"

#define TICK_MS	   250
#define EVENT_PIPE (1 << 20)
/* beside the scenario's deadline: the boot, the lab, the undo, all of it in an emulated machine */
#define VM_EXTRA_S 900

struct watch {
	struct live *live;
	char line[1 << 16];
	size_t len;
	bool skip;	    /* the rest of a line that was too long */
	bool refused;	    /* an EV_REFUSED was seen */
	unsigned int signals;
};

static void on_line(struct watch *w, const char *line)
{
	_cleanup_json_ json_t *j = json_loads(line, 0, NULL);

	if (j)
		live_event(w->live, j);
}

/* Returns false at the end of file. */
static bool read_events(struct watch *w, int fd)
{
	ssize_t n = read(fd, w->line + w->len, sizeof(w->line) - 1 - w->len);
	char *nl;

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n == 0)
		return false;
	w->len += (size_t)n;
	w->line[w->len] = '\0';
	while ((nl = memchr(w->line, '\n', w->len))) {
		*nl = '\0';
		if (!w->skip)
			on_line(w, w->line);
		w->skip = false;
		w->len -= (size_t)(nl + 1 - w->line);
		memmove(w->line, nl + 1, w->len);
	}
	if (w->len == sizeof(w->line) - 1) {
		w->len = 0;
		w->skip = true;
	}
	return true;
}

/* Ctrl-C: once: halt and undo; twice: leave it to the guard. Returns false when to leave. */
static bool on_signal(struct watch *w, int fd, int guard_fd, const char *dir)
{
	_cleanup_free_ char *path = strf("%s/%s", dir, HALT_REASON), *reason = NULL;
	struct signalfd_siginfo si;

	if (read(fd, &si, sizeof(si)) != sizeof(si))
		return true;
	if (++w->signals > 1) {
		live_note(w->live, "leaving: the guard goes on restoring the host; muster status tells when it is done");
		return false;
	}
	live_note(w->live, "halting: the faults are lifted and the host is restored; once more leaves that to the guard");
	reason = strf("the command was told to end (%s)", strsignal((int)si.ssi_signo));
	/* `muster halt` may have left a better one */
	if (path && reason && access(path, F_OK) < 0)
		(void)file_write(path, reason, strlen(reason));
	(void)syscall(SYS_pidfd_send_signal, guard_fd, SIGTERM, NULL, 0);
	return true;
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* In the guard's process */
static void be_guard(const struct guard_opts *o)
{
	struct err err = {0};
	int code = guard_run(o, &err);

	if (code == EXIT_REFUSED && o->event_fd >= 0) {
		_cleanup_json_ json_t *j = json_pack("{s:I, s:s, s:s, s:s?}", "t", (json_int_t)now_ns(), "kind",
			EV_REFUSED, "text", err.text, "hint", err.hint[0] ? err.hint : NULL);
		_cleanup_free_ char *path = strf("%s/timeline.jsonl", o->dir), *line = j ? json_dumps(j, JSON_COMPACT) : NULL;
		_cleanup_close_ int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;

		if (line && fd >= 0)
			dprintf(fd, "%s\n", line);
		if (line)
			dprintf(o->event_fd, "%s\n", line);
	}
	_exit(code);
}

#define DYING (10 * NSEC_PER_SEC)

/*
 * Guard and engine have both died, and what they had changed is still in force: this command lives, so it need not be left to the
 * next one. The timeline goes on by hand, behind a line that may be torn.
 */
static void take_over(const struct guard_opts *o, struct live *live)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", o->dir), *line = NULL, *line2 = NULL;
	_cleanup_json_ json_t *diff = NULL, *failed = json_array(), *e = NULL, *residue = NULL;
	_cleanup_journal_ struct journal *j = NULL;
	_cleanup_close_ int fd = -1;
	struct restore_result res = {0};
	nsec_t until = now_ns() + DYING;
	struct err err = {0};
	int r;

	/* whoever was killed holds it until the kernel is done with him, and tells nobody when it is */
	while ((r = journal_open(o->id, &j, &err)) == -EBUSY && now_ns() < until)
		(void)poll(NULL, 0, 5);
	if (r == -ENOENT) {
		const char *const roots[] = {journal_volatile_root, journal_durable_root};

		/* as it should be; who died a moment later has left the journal's empty folder */
		for (size_t i = 0; i < ARRAY_SIZE(roots); i++) {
			_cleanup_free_ char *folder = strf("%s/%s", roots[i], o->id);

			if (folder)
				(void)rmdir(folder);
		}
		return;
	}
	if (r == 0) {
		live_note(live, "guard and engine were both killed; undoing what they had changed");
		r = journal_play(j, &res, &err);
	}
	if (r == 0 && journal_remove(j, &err) < 0 && !res.failed)
		r = err.code;
	if (r < 0)
		json_array_append_new(failed, json_string(err.text));
	if (res.failed)
		json_array_extend(failed, res.lines);
	if (residue_host(o->dir, &diff, &err) < 0) {
		diff = json_array();
		json_array_append_new(failed, json_string(err.text));
	}
	e = json_pack("{s:I, s:s, s:s, s:s, s:i, s:i, s:i}", "t", (json_int_t)now_ns(), "kind", EV_GUARD, "what", "engine-died",
		"text", "and the guard with it; the command undid what they had changed", "undone", (int)res.undone, "conflicts",
		(int)res.conflicts, "failed", (int)res.failed);
	residue = json_pack("{s:I, s:s, s:b, s:O, s:[], s:O}", "t", (json_int_t)now_ns(), "kind", EV_RESIDUE, "clean",
		json_array_size(failed) == 0 && !res.conflicts && json_array_size(diff) == 0, "diff", diff, "conflicts", "failed", failed);
	restore_result_clear(&res);
	line = e ? json_dumps(e, JSON_COMPACT) : NULL;
	line2 = residue ? json_dumps(residue, JSON_COMPACT) : NULL;
	fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
	if (fd >= 0 && line && line2)
		dprintf(fd, "\n%s\n%s\n", line, line2);
}

/* The drill in namespaces of this kernel. Returns 0, or EXIT_RESIDUE when the drill was left to its guard. */
static int run_here(struct guard_opts *o, struct live *live, struct err *err)
{
	static struct watch w;
	_cleanup_close_ int signals = open_signals(), guard_fd = -1, events = -1, self = -1;
	struct pollfd p[2];
	int pipe_fd[2], r = 0;
	pid_t guard;

	w.live = live;
	self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (signals < 0 || self < 0 || pipe2(pipe_fd, O_CLOEXEC) < 0)
		return err_set(err, -errno, "start the guard: %s", strerror(errno));
	(void)fcntl(pipe_fd[1], F_SETPIPE_SZ, EVENT_PIPE);
	fflush(stdout);
	guard = fork();
	if (guard < 0)
		return err_set(err, -errno, "start the guard: %s", strerror(errno));
	if (guard == 0) {
		close(pipe_fd[0]);
		o->event_fd = pipe_fd[1];
		o->parent_fd = self;
		be_guard(o);
	}
	close(pipe_fd[1]);
	events = pipe_fd[0];
	guard_fd = (int)syscall(SYS_pidfd_open, guard, 0);
	p[0] = (struct pollfd){.fd = events, .events = POLLIN};
	p[1] = (struct pollfd){.fd = signals, .events = POLLIN};
	for (;;) {
		int n = poll(p, 2, TICK_MS);

		if (n < 0 && errno != EINTR)
			break;
		if (n > 0 && p[1].revents && !on_signal(&w, signals, guard_fd, o->dir))
			return EXIT_RESIDUE;
		if (n > 0 && p[0].revents && !read_events(&w, events))
			break;
		live_tick(live);
	}
	/* the pipe has ended: guard and engine are both gone */
	while (waitpid(guard, &r, 0) < 0 && errno == EINTR)
		;
	/* a guard that refused has left nothing; there may be no journal that could be asked, for the same reason that it refused */
	if (!WIFEXITED(r) || WEXITSTATUS(r) != EXIT_REFUSED)
		take_over(o, live);
	return 0;
}

/* ── in the microVM ────────────────────────────────────────────────────────────────────────── */

#define VM_ARGS_MAX 160

struct vm_args {
	char *argv[VM_ARGS_MAX + 1];
	size_t n;
};

static void vm_arg(struct vm_args *v, const char *arg)
{
	if (v->n < VM_ARGS_MAX)
		v->argv[v->n++] = strdup(arg);
}

static void vm_args_free(struct vm_args *v)
{
	for (size_t i = 0; i < v->n; i++)
		free(v->argv[i]);
}

/* A microVM that is gone took every change with it: the host outside was never touched. */
static void note_vm_gone(const char *dir, const struct err *err)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", dir), *line = NULL;
	_cleanup_close_ int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
	_cleanup_json_ json_t *e = json_pack("{s:I, s:s, s:s, s:s}", "t", (json_int_t)now_ns(), "kind", EV_ERROR, "text",
				       err->text, "blame", "host"),
			      *res = json_pack("{s:I, s:s, s:b, s:[], s:[], s:[]}", "t", (json_int_t)now_ns(), "kind",
				       EV_RESIDUE, "clean", 1, "diff", "conflicts", "failed");
	_cleanup_free_ char *line2 = json_dumps(res, JSON_COMPACT);

	line = json_dumps(e, JSON_COMPACT);
	if (fd >= 0 && line && line2)
		dprintf(fd, "\n%s\n%s\n", line, line2);
}

static int run_in_vm(const struct cmd_args *a, const struct plan *p, const char *id, const char *dir,
	struct live *live, struct err *err)
{
	_cleanup_(vm_args_free) struct vm_args v = {0};
	_cleanup_free_ char *cwd = getcwd(NULL, 0), *out = realpath(dir, NULL), *seed = NULL;
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	struct vm_job job = {.live = live, .stdout_fd = STDERR_FILENO, .stderr_fd = STDERR_FILENO};
	_cleanup_close_ int lock = -1;
	int status = 0, r = guard_lock_host(id, dir, &lock, err);

	if (r < 0)
		return r;

	if (n <= 0 || !cwd || !out)
		return err_set(err, -errno, "find my own program: %s", strerror(errno));
	self[n] = '\0';
	seed = strf("%llu", (unsigned long long)p->seed);
	vm_arg(&v, "/bin/sh");
	vm_arg(&v, "-c");
	vm_arg(&v, "cd \"$1\" && shift && exec \"$@\"");
	vm_arg(&v, "sh");
	vm_arg(&v, cwd);
	vm_arg(&v, self);
	vm_arg(&v, "run");
	vm_arg(&v, p->file);
	vm_arg(&v, "--lab=netns");
	vm_arg(&v, "--inside-vm");
	vm_arg(&v, "--run-id");
	vm_arg(&v, id);
	vm_arg(&v, "--out");
	vm_arg(&v, out);
	vm_arg(&v, "--seed");
	vm_arg(&v, seed ? seed : "1");
	for (size_t i = 0; i < a->n_given; i++) {
		if (!streq(a->given[i].opt->name, "set"))
			continue;
		vm_arg(&v, "--set");
		vm_arg(&v, a->given[i].value);
	}
	job.argv = v.argv;
	job.out_dir = out;
	job.timeout_s = (unsigned int)(json_integer_value(json_object_get(p->scenario, "deadline_ns")) / NSEC_PER_SEC) +
			VM_EXTRA_S;
	r = vm_run(&job, &status, err);
	if (r < 0)
		note_vm_gone(dir, err);
	return r;
}

/* The inner side: events go to descriptor 3, the report is the outer side's. */
static int run_inside(struct guard_opts *o)
{
	struct live *live = NULL;
	struct err err = {0};
	int r = live_new(3, LIVE_JSON, COLOR_NEVER, &live);

	if (r == 0)
		r = run_here(o, live, &err);
	live_free(live);
	return r < 0 ? EXIT_ERROR : r;
}

/* ── the command ───────────────────────────────────────────────────────────────────────────── */

/* The lock decides; this asks before the folder of a run is made that could not begin. */
static int refuse_second(struct err *err)
{
	struct lock_holder holder;

	if (guard_lock_holder(&holder) <= 0)
		return 0;
	err_set(err, -EBUSY, "another drill is going on here: %s", holder.run_id[0] ? holder.run_id : "(it is starting)");
	return err_hint(err, "muster status shows it; muster halt --reason TEXT ends it");
}

/* A hot journal is unfinished business: nothing new before it is settled. */
static int refuse_hot(struct err *err)
{
	struct journal_found *found;
	size_t n;
	int r = journal_list(&found, &n, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n && r == 0; i++) {
		if (found[i].live || standing_run(found[i].run_id))
			continue;
		r = err_set(err, -EBUSY, "run %s was cut off, and what it changed has not been undone", found[i].run_id);
		err_hint(err, "muster restore %s does it; then run this again", found[i].run_id);
	}
	journal_list_free(found, n);
	return r < 0 ? r : refuse_second(err);
}

static int print_report(const struct cmd_args *a, const char *dir, const json_t *report)
{
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	size_t len;

	if (a->json) {
		json_dumpf(report, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12));
		putchar('\n');
	} else if (render_report(report, NULL, "text", &text, &len, &err) < 0) {
		return cmd_fail(a, EXIT_ERROR, &err);
	} else {
		fwrite(text, 1, len, stdout);
		printf("report: %s/report.html\n", dir);
	}
	return (int)json_integer_value(json_object_get(report, "exit_code"));
}

static int finish(const struct cmd_args *a, const char *dir)
{
	_cleanup_json_ json_t *report = NULL;
	struct err err = {0};

	if (report_files_write(dir, &report, &err) < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	return print_report(a, dir, report);
}

static int run(const struct cmd_args *a)
{
	_cleanup_json_ json_t *set = NULL, *mgmt = NULL;
	_cleanup_plan_ struct plan *p = NULL;
	_cleanup_free_ char *id = NULL, *dir = NULL, *why = NULL, *note = NULL;
	const char *lab = NULL, *seed = cmd_value(a, "seed");
	bool inside = cmd_has(a, "inside-vm");
	struct live *live = NULL;
	struct err err = {0};
	struct guard_opts o;
	int64_t seed_value;
	int r;

	if (seed && units_int(seed, 0, INT64_MAX, &seed_value) < 0) {
		err_set(&err, -EINVAL, "--seed %s: wants a whole number from 0", seed);
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	if (cli_scenario_set(a, &set, &err) < 0 ||
		plan_record(a->argv[0], set, cli_scenario_seed(a), cli_script_spawn, &p, &err) < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	if (geteuid() != 0) {
		err_set(&err, -EPERM, "a drill needs root: it changes kernel state on purpose; nothing was changed");
		err_hint(&err, "sudo muster run %s; check and plan need no root", a->argv[0]);
		return cmd_fail(a, EXIT_REFUSED, &err);
	}
	r = inside ? 0 : refuse_hot(&err);
	if (r == 0)
		r = lab_choose(cmd_value(a, "lab"), &lab, &why, &err);
	if (r < 0)
		return cmd_fail(a, r == -EINVAL ? EXIT_USAGE : EXIT_REFUSED, &err);
	if (lab_bind(p->site, &err) < 0)
		return cmd_fail(a, EXIT_USAGE, &err);
	/* now, while whoever started this is still our ancestor */
	if (!streq(lab, "vm") && mgmt_find(&mgmt, &err) < 0)
		return cmd_fail(a, EXIT_REFUSED, &err);
	id = cmd_has(a, "run-id") ? strdup(cmd_value(a, "run-id")) : run_folder_id(p);
	if (!id)
		return EXIT_ERROR;
	r = run_folder_make(p, id, cmd_value(a, "out"), &dir, &err);
	if (r < 0)
		return cmd_fail(a, r == -EEXIST ? EXIT_USAGE : EXIT_ERROR, &err);
	o = (struct guard_opts){.plan = p, .id = id, .dir = dir, .lab = inside ? "vm" : lab, .bind = lab_bind, .spawn = cli_script_spawn, .mgmt = mgmt};
	if (inside)
		return run_inside(&o);

	r = live_new(STDERR_FILENO, a->quiet ? LIVE_QUIET : LIVE_AUTO, a->color, &live);
	if (r < 0) {
		err_set(&err, r, "the live view: %s", strerror(-r));
		return cmd_fail(a, EXIT_ERROR, &err);
	}
	note = strf("run %s, lab %s: %s", id, lab, why ? why : "");
	live_note(live, note ? note : "");
	r = streq(lab, "vm") ? run_in_vm(a, p, id, dir, live, &err) : run_here(&o, live, &err);
	live_free(live);
	if (r == EXIT_RESIDUE)
		return r;
	if (r < 0)
		(void)cmd_fail(NULL, EXIT_ERROR, &err);
	return finish(a, dir);
}

static const struct cmd_opt opts[] = {
	{"lab", "WHERE", "auto (default), netns, vm, or none: the namespaces are there already"},
	{"out", "DIR", "the run's folder; default: a new one in " RUN_FOLDER_ROOT},
	{"seed", "N", "of everything random; default 1"},
	{"set", "K=V", "a value for muster.param(K); may be repeated"},
	{"yes", NULL, "do not ask (nothing is asked when stdin is no terminal)"},
	{"inside-vm", NULL, "internal: this is the microVM; events go to descriptor 3"},
	{"run-id", "ID", "internal: the id that the outer side has chosen"},
	{0},
};

const struct cmd cmd_run = {
	.name = "run",
	.order = 10,
	.args = "FILE",
	.summary = "Runs a drill and hands over its verdict",
	.help = "Ctrl-C once halts the drill and restores the host; twice leaves that to the guard.",
	.opts = opts,
	.min_args = 1,
	.max_args = 1,
	.run = run,
};
