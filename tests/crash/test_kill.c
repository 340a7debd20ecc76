/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whatever of a drill is killed, and whenever: the host is as it was. The real program is run over and over, with kill_at.c
 * preloaded, and shot at every step that its journal takes (kill_at.h), in every process that is alive then:
 *
 *	kill	SIGKILL to the engine; the guard; both at once; the script; both and the command: before the step, in the
 *		middle of a record that one of them is writing, and after it
 *	segv	SIGSEGV to the same, but for the command, after each step
 *	stop	SIGSTOP to them, before each step. The guard ends an engine that is stopped, and an engine may not trust in a
 *		guard that is (whose clock runs faster then, so that nobody waits for their patience); both are continued in
 *		the end; a drill whose script is stopped is halted by its operator
 *	full	no room: a record is not written, once; or half of it is, and nothing more until everybody has gone
 *	undo	everything in force, and then the undo killed at each of its steps: the guard's, when the engine was killed; the
 *		engine's, when the guard was; the command's, when both were; and that of `muster restore`, when all three were
 *
 * Then, each time: guard, engine and script are waited for; nothing may be hot, if one who could undo had lived; what the
 * command says may not be better than what is; `muster restore --all` is run, and again if there was something to restore; and the
 * canonical snapshot of all namespaces and of the machine around them is the one of before, every line of it but for what comes and goes by
 * itself (snapshot.h), and no journal, namespace, file of a run or process is left.
 *
 * A case is an example of a change (change.h), on the conformance test's site, or a scenario that ships, found by its file. A
 * scenario is played in a hurry (write_scenario(), below): its changes are all made, in their order, and that is what is looked
 * at. The steps that speak of the lab are shot at in drills that make one; all others on a lab that stands (`muster lab up`):
 * there the undo has to put back what was changed, where else the lab's end would have taken it along.
 *
 *	SELF [--all | --quick] [--seed N] [--sample N] [--few] [--list] [--point TEXT] [--file SCENARIO] [NAME...]
 *
 *	NAME		cases with this in their name
 *	--all		every point of further examples and of the scenarios too, not a sample of them
 *	--quick		a sample of each change's points
 *	--sample N	points of all scenarios together; default 40
 *	--few		of each step of a change the most telling points (for an emulated machine)
 *	--point TEXT	just this one, as a failure printed it
 *	--file SCENARIO	one that does not ship; of the others only what NAME says
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <glob.h>
#include <limits.h>
#include <linux/futex.h>
#include <regex.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "engine/guard.h"
#include "engine/judge.h"
#include "tests/conformance/examples.h"
#include "tests/crash/kill_at.h"

#define PATIENCE     (180 * NSEC_PER_SEC) /* for one process to end; an emulated machine is slow */
#define SETTLES	     (20 * NSEC_PER_SEC)  /* for a site's own controllers to put back what a fault made them change */
#define SAMPLE	     40			  /* points of all scenarios together */
#define QUICK	     4			  /* of a change, when in a hurry */
#define FURTHER	     12			  /* of a further example of a change, unless it is to be all */
#define FURTHER_FEW  2			  /* and when time is short */
#define FAILURES_MAX 12			  /* of one case */
#define WORK	     "/run/crash"	  /* the sandbox's own */
#define CONTROL	     WORK "/control"
#define LOG	     WORK "/log"

#define COMMAND BIT(ROLE_COMMAND)
#define ENGINE	BIT(ROLE_ENGINE)
#define GUARD	BIT(ROLE_GUARD)
#define SCRIPT	BIT(ROLE_SCRIPT)

static struct control *control;
static struct example_site site;
static char self[4096];
static bool have_site;

static struct {
	bool all, few, quick, list;
	uint64_t seed;
	unsigned int sample;
	const char *point;
	char **names, **files;
	int n_names, n_files;
} options = {.seed = 1, .sample = SAMPLE};

static unsigned int n_scenarios;	       /* to be played */
static unsigned int played, restored, stages; /* stages: how many cases were looked at */
static nsec_t began;

/* ── points ────────────────────────────────────────────────────────────────────────────────── */

struct point {
	struct shot run[2];
	struct shot restore; /* signal 0: none */
	unsigned int n_run;
};

struct points {
	struct point *p;
	size_t n;
};

static const char *const places[] = {"before", "torn", "after"};

static void add_point(struct points *list, const struct shot *run, unsigned int n_run, const struct shot *restore)
{
	struct point *p = realloc(list->p, (list->n + 1) * sizeof(*p));

	assert_non_null(p);
	list->p = p;
	p += list->n++;
	*p = (struct point){.n_run = n_run};
	memcpy(p->run, run, n_run * sizeof(*run));
	if (restore)
		p->restore = *restore;
}

static void shot_text(const struct shot *s, struct strbuf *b)
{
	static const char *const roles[] = {NULL, "command", "guard", "engine", "script"};
	const char *sep = "";

	strbuf_addf(b, "%d:%s:", s->step, places[s->place]);
	for (int i = 1; i < ROLES; i++)
		if (s->targets & BIT(i)) {
			strbuf_addf(b, "%s%s", sep, roles[i]);
			sep = "+";
		}
	if (s->error)
		strbuf_puts(b, s->lasting ? "full-for-good" : "full-once");
	strbuf_puts(b, s->signal == SIGKILL   ? ":kill"
		       : s->signal == SIGSEGV ? ":segv"
		       : s->signal == SIGSTOP ? ":stop"
					      : "");
}

static char *point_text(const struct point *p)
{
	struct strbuf b = {0};

	for (unsigned int i = 0; i < p->n_run; i++) {
		strbuf_puts(&b, i ? "," : "");
		shot_text(&p->run[i], &b);
	}
	if (p->restore.signal) {
		strbuf_puts(&b, "/");
		shot_text(&p->restore, &b);
	}
	return b.s;
}

/* ── a case ────────────────────────────────────────────────────────────────────────────────── */

struct crash_case {
	char name[96];
	struct example example; /* ops NULL: a scenario */
	char *shipped;		/* the scenario's file */
	bool further;		/* not the first example of its change */
	/* of what is being played: */
	const char *lab; /* "none", "netns" */
	bool settles;	 /* the site has controllers of its own */
	char *before;	 /* the world's snapshot */
	char *left_before;
	unsigned int failed;
};

/* ── the world ─────────────────────────────────────────────────────────────────────────────── */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a folder, sorted, but for those that begin with a dot. Freed with free_names(). */
static size_t names_in(const char *dir, char ***ret)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char **list = NULL;
	size_t n = 0;

	while (d && (e = readdir(d))) {
		char **more;

		if (e->d_name[0] == '.')
			continue;
		more = realloc(list, (n + 1) * sizeof(*list));
		assert_non_null(more);
		list = more;
		list[n++] = strdup(e->d_name);
	}
	if (d)
		closedir(d);
	if (n)
		qsort(list, n, sizeof(*list), by_name);
	*ret = list;
	return n;
}

static void free_names(char **list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i]);
	free(list);
}

/* The canonical state of every namespace there is, and of this one, the host's */
static char *world(void)
{
	struct err err = {0};
	struct node *nodes[64];
	char **names, *text = NULL;
	size_t n = names_in("/run/netns", &names), have = 0;

	assert_true(n < ARRAY_SIZE(nodes));
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *path = strf("/run/netns/%s", names[i]);
		struct node *node = node_new(names[i], path);

		assert_non_null(node);
		/* a name that stands for nothing is found out by left() */
		if (node_open(node, NULL) == 0)
			nodes[have++] = node;
		else
			node_free(node);
	}
	free_names(names, n);
	nodes[have] = node_new("host", NULL);
	assert_int_equal(node_open(nodes[have++], NULL), 0);
	if (snapshot_take((const struct node *const *)nodes, have, &text, &err) < 0)
		fail_msg("snapshot: %s", err.text);
	for (size_t i = 0; i < have; i++)
		node_free(nodes[i]);
	return text;
}

/* What could be left behind beside kernel state, a line each */
static char *left(void)
{
	static const char *const dirs[] = {
		"/run/netns", "/run/muster", "/run/muster/lab", "/run/muster/labs", "/var/lib/muster", NULL};
	struct strbuf b = {0};

	for (const char *const *d = dirs; *d; d++) {
		char **names;
		size_t n = names_in(*d, &names);

		for (size_t i = 0; i < n; i++)
			/* the host's lock is a file that stays, and a folder for runs to be kept */
			if (!streq(names[i], "lock") && !streq(names[i], "runs") && !streq(names[i], "lab"))
				strbuf_addf(&b, "file %s/%s\n", *d, names[i]);
		free_names(names, n);
	}
	return strbuf_cstr(&b) == b.s ? b.s : strdup("");
}

/*
 * Processes: all there are in this sandbox, but for ourselves. Each is known by its command line and its namespace: a daemon that a
 * fault has killed comes back as another pid.
 */
struct process {
	pid_t pid;
	char what[200];
};
struct processes {
	struct process p[256];
	size_t n;
};
static struct processes standing; /* the site's own */

static bool process_read(pid_t pid, struct process *ret)
{
	_cleanup_free_ char *path = strf("/proc/%d/cmdline", (int)pid), *ns = strf("/proc/%d/ns/net", (int)pid),
			    *text = NULL;
	char link[64] = "";
	size_t len = 0;

	/* what has no command line any more has ended */
	if (pid <= 1 || file_read(path, 4096, &text, &len) < 0 || len == 0 || readlink(ns, link, sizeof(link) - 1) < 0)
		return false;
	for (size_t i = 0; i + 1 < len; i++)
		if (!text[i])
			text[i] = ' ';
	ret->pid = pid;
	snprintf(ret->what, sizeof(ret->what), "%.100s in %s", text, link);
	return true;
}

static void processes_now(struct processes *ret)
{
	char **names;
	size_t n = names_in("/proc", &names);

	ret->n = 0;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		; /* process 1 inherits the orphans */
	for (size_t i = 0; i < n && ret->n < ARRAY_SIZE(ret->p); i++)
		if (process_read((pid_t)atoi(names[i]), &ret->p[ret->n]))
			ret->n++;
	free_names(names, n);
}

/* One that @a has and @b has not, or fewer of */
static const struct process *one_more(const struct processes *a, const struct processes *b)
{
	for (size_t i = 0; i < a->n; i++) {
		int n = 0;

		for (size_t k = 0; k < a->n; k++)
			n += k <= i && streq(a->p[k].what, a->p[i].what);
		for (size_t k = 0; k < b->n; k++)
			n -= streq(b->p[k].what, a->p[i].what);
		if (n > 0)
			return &a->p[i];
	}
	return NULL;
}

/* Waits for the end of @pid, whoever's child it is. False: it lives. */
static bool await_gone(pid_t pid, nsec_t deadline)
{
	_cleanup_close_ int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	nsec_t now = now_ns();

	if (fd < 0)
		return true;
	return poll(&p, 1, deadline > now ? (int)((deadline - now) / NSEC_PER_MSEC) + 1 : 0) > 0;
}

/* ── processes ─────────────────────────────────────────────────────────────────────────────── */

static void aim(const struct shot *shots, unsigned int n, uint32_t hurry)
{
	memset(control, 0, sizeof(*control));
	control->magic = KILL_AT_MAGIC;
	control->n_shots = n;
	control->hurry = hurry;
	if (n)
		memcpy(control->shots, shots, n * sizeof(*shots));
}

static pid_t start(const char *const *argv)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		static const char *const envs[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"LD_PRELOAD=" KILL_AT_MODULE, KILL_AT_ENV "=" CONTROL,
			"ASAN_OPTIONS=verify_asan_link_order=0:detect_leaks=0:handle_segv=0:allow_user_segv_handler=1",
			NULL};
		struct rlimit no_core;
		int fd = open(LOG, O_WRONLY | O_CREAT | O_APPEND, 0644), null = open("/dev/null", O_RDONLY);

		/* the hard limit stays: what runs with a lower one than a daemon refuses to end it */
		if (getrlimit(RLIMIT_CORE, &no_core) == 0) {
			no_core.rlim_cur = 0;
			setrlimit(RLIMIT_CORE, &no_core);
		}
		signal(SIGSEGV, SIG_DFL);
		dup2(null, 0);
		dup2(fd, 1);
		dup2(fd, 2);
		execve(argv[0], (char **)argv, (char **)envs);
		_exit(127);
	}
	return pid;
}

/* The exit code, -SIGNAL, or -1000: it does not end */
static int await_exit(pid_t pid, nsec_t deadline)
{
	int status;

	if (!await_gone(pid, deadline))
		return -1000;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int do_restore(const struct shot *shot)
{
	const char *argv[] = {MUSTER_BINARY, "restore", "--all", NULL};

	aim(shot, shot ? 1 : 0, 0);
	return await_exit(start(argv), now_ns() + PATIENCE);
}

static pid_t pid_of(enum role r)
{
	return atomic_load(&control->pid[r]);
}

/* Until a shot was fired, or @pid has ended */
static bool await_shot(pid_t pid, nsec_t deadline)
{
	struct timespec slice = {.tv_nsec = 50000000};

	while (atomic_load(&control->fired) == 0) {
		if (now_ns() > deadline || await_gone(pid, now_ns()))
			return false;
		syscall(SYS_futex, &control->fired, FUTEX_WAIT, 0, &slice, NULL, 0);
	}
	return true;
}

static bool await_stopped(pid_t pid, nsec_t deadline)
{
	_cleanup_free_ char *path = strf("/proc/%d/stat", (int)pid);

	while (now_ns() < deadline) {
		_cleanup_free_ char *text = NULL;

		if (file_read(path, 4096, &text, NULL) < 0)
			return false;
		if (strstr(text, ") T ") || strstr(text, ") Z "))
			return true;
		(void)poll(NULL, 0, 5); /* there is no event for who is not its parent */
	}
	return false;
}

/* What a person would do about a process that is stopped */
static void after_stop(uint32_t targets, pid_t command, nsec_t deadline)
{
	if (!await_shot(command, deadline))
		return;
	if (targets == BIT(ROLE_SCRIPT)) {
		kill(pid_of(ROLE_GUARD), SIGTERM);
	} else if (targets == BIT(ROLE_GUARD)) {
		(void)await_stopped(pid_of(ROLE_GUARD), deadline);
		(void)await_gone(pid_of(ROLE_ENGINE), deadline);
		kill(pid_of(ROLE_GUARD), SIGCONT);
	} else if (targets == (BIT(ROLE_GUARD) | BIT(ROLE_ENGINE))) {
		(void)await_stopped(pid_of(ROLE_GUARD), deadline);
		(void)await_stopped(pid_of(ROLE_ENGINE), deadline);
		kill(pid_of(ROLE_ENGINE), SIGCONT);
		kill(pid_of(ROLE_GUARD), SIGCONT);
	}
}

/* The drill, with shots; its exit code, or as await_exit() has it. All processes of it have ended, if @why stays empty. */
static int drill(const struct crash_case *c, const struct shot *shots, unsigned int n, char *why, size_t size)
{
	const char *argv[] = {MUSTER_BINARY, "run", WORK "/scenario.lua",
		c->lab[1] == 'o' ? "--lab=none" : "--lab=netns", "--quiet", "--out", WORK "/out", NULL};
	bool stop = n && shots[n - 1].signal == SIGSTOP;
	nsec_t deadline = now_ns() + PATIENCE;
	int code;
	pid_t pid;

	sh("rm -rf " WORK "/out " LOG);
	aim(shots, n,
		!stop					   ? 0
		: shots[n - 1].targets == BIT(ROLE_ENGINE) ? BIT(ROLE_GUARD)
		: shots[n - 1].targets == BIT(ROLE_GUARD)  ? BIT(ROLE_ENGINE)
							   : 0);
	pid = start(argv);
	if (stop)
		after_stop(shots[n - 1].targets, pid, deadline);
	code = await_exit(pid, deadline);
	if (code == -1000) {
		snprintf(why, size, "the command does not end");
		return code;
	}
	for (enum role r = ROLE_GUARD; r < ROLES; r++)
		if (!await_gone(pid_of(r), deadline)) {
			static const char *const names[] = {"", "", "guard", "engine", "script"};

			snprintf(why, size, "the %s does not end", names[r]);
		}
	return code;
}

static bool is_hot(void)
{
	struct journal_found *found;
	bool hot = false;
	size_t n;

	assert_int_equal(journal_list(&found, &n, NULL), 0);
	for (size_t i = 0; i < n; i++)
		hot = hot || strncmp(found[i].run_id, "lab-", 4) != 0;
	journal_list_free(found, n);
	return hot;
}

/* ── one point ─────────────────────────────────────────────────────────────────────────────── */

/* NULL: all is as before. Else what differs; freed by the caller. */
static char *differs(const struct crash_case *c)
{
	nsec_t until = now_ns() + SETTLES, patience = now_ns() + 10 * NSEC_PER_SEC;
	_cleanup_free_ char *files = left();
	const struct process *p;
	struct processes have;

	if (!streq(files, c->left_before))
		return strf("left behind:\n%s-- before:\n%s", files, c->left_before);
	/* what was killed a moment ago may still be about to die */
	for (processes_now(&have); (p = one_more(&have, &standing)); processes_now(&have))
		if (!await_gone(p->pid, patience))
			return strf("process %d (%s) is left", (int)p->pid, p->what);
	p = one_more(&standing, &have);
	if (p)
		return strf("process \"%s\" is missing", p->what);
	for (;;) {
		_cleanup_free_ char *now = world();
		_cleanup_json_ json_t *diff = snapshot_diff(c->before, now);

		if (diff && json_array_size(diff) == 0)
			return NULL;
		if (!c->settles || now_ns() > until)
			return json_dumps(diff, JSON_INDENT(1));
		(void)poll(NULL, 0, 200);
	}
}

/* Who had lived through all the shots, at the last of them */
static uint32_t survivors(const struct point *p)
{
	uint32_t alive = 0, shot = 0;

	for (unsigned int i = 0; i < p->n_run; i++) {
		uint32_t step = (uint32_t)p->run[i].step;

		alive = step < STEPS_MAX ? control->steps[step].alive : 0;
		if (p->run[i].signal == SIGKILL || p->run[i].signal == SIGSEGV)
			shot |= p->run[i].targets;
	}
	return alive & ~shot;
}

/* NULL: restored. *ret_missed: the drill, or restore, did not come to the point. */
static char *play(const struct crash_case *c, const struct point *p, bool *ret_missed)
{
	char why[128] = "", *diff;
	int code = drill(c, p->run, p->n_run, why, sizeof(why)), r;
	uint32_t alive;
	bool hot;

	*ret_missed = false;
	if (why[0])
		return strf("%s", why);
	*ret_missed = atomic_load(&control->fired) < p->n_run;
	if (*ret_missed)
		return strf("the drill did not come to this point (%u steps, exit %d)", atomic_load(&control->n_steps),
			code);
	hot = is_hot();
	alive = survivors(p);
	/* what has been undone cannot be noted on a disk that is full: the only excuse of those who live */
	if (hot && (alive & (COMMAND | GUARD | ENGINE)) && !p->run[0].lasting)
		return strf("the journal is hot, though somebody lived who could undo (exit %d)", code);
	if (hot && (alive & COMMAND) && code != EXIT_RESIDUE)
		return strf("the journal is hot, and the command says exit %d", code);
	if (!hot && (alive & (GUARD | ENGINE)) && code == EXIT_RESIDUE)
		return strf("restored, and the command says that it is not (exit %d)", code);
	if (!hot && (alive & (COMMAND | GUARD | ENGINE))) {
		diff = differs(c);
		if (diff)
			return diff;
	}
	if (p->restore.signal) {
		r = do_restore(&p->restore);
		if (atomic_load(&control->fired) < 1)
			return strf("restore did not come to this point (%u steps, exit %d)",
				atomic_load(&control->n_steps), r);
		if (r != -p->restore.signal)
			return strf("restore was shot, and exits %d", r);
	}
	r = do_restore(NULL);
	if (r != 0)
		return strf("muster restore --all: exit %d", r);
	if (hot) {
		diff = differs(c);
		if (diff)
			return diff;
		r = do_restore(NULL);
		if (r != 0)
			return strf("muster restore --all, once more: exit %d", r);
		if (atomic_load(&control->n_steps))
			return strf("muster restore --all, once more, wrote to a journal");
	}
	return differs(c);
}

/* ── the sites that stand ──────────────────────────────────────────────────────────────────── */

static void take_before(struct crash_case *c)
{
	free(c->before);
	free(c->left_before);
	c->before = world();
	c->left_before = left();
	processes_now(&standing);
}

static void clear_away(void)
{
	const struct process *p;
	struct processes have;

	for (processes_now(&have); (p = one_more(&have, &standing)); processes_now(&have)) {
		kill(p->pid, SIGKILL);
		(void)await_gone(p->pid, now_ns() + 10 * NSEC_PER_SEC);
	}
	(void)do_restore(NULL);
	sh("for j in /run/muster/*/undo.journal /var/lib/muster/*/undo.journal; do "
	   "case $j in */lab-*) ;; *) rm -f $j; rmdir ${j%%/*} 2>/dev/null;; esac; done; true");
}

static void drop_site(void)
{
	if (!have_site)
		return;
	sh("for n in lan node peer; do umount -l /run/netns/muster-conformance-$n; rm -f "
	   "/run/netns/muster-conformance-$n; done");
	example_site_drop(&site);
	have_site = false;
}

/* The conformance test's site, under the names that muster would give its namespaces */
static void make_site(void)
{
	if (have_site)
		return;
	example_site_make(&site, self);
	sh("cd /run/netns && for n in lan node peer; do m=$n; [ $n != lan ] || m=sw; "
	   ": >muster-conformance-$n && mount --bind $m muster-conformance-$n || exit 1; done");
	have_site = true;
}

/* ── scenarios as text ─────────────────────────────────────────────────────────────────────── */

static void add_lua(struct strbuf *b, const json_t *j)
{
	const json_t *v;
	const char *key;
	size_t i;

	if (json_is_object(j)) {
		strbuf_puts(b, "{");
		json_object_foreach ((json_t *)j, key, v) {
			strbuf_addf(b, "[\"%s\"] = ", key);
			add_lua(b, v);
			strbuf_puts(b, ", ");
		}
		strbuf_puts(b, "}");
	} else if (json_is_array(j)) {
		strbuf_puts(b, "{");
		json_array_foreach ((json_t *)j, i, v) {
			add_lua(b, v);
			strbuf_puts(b, ", ");
		}
		strbuf_puts(b, "}");
	} else {
		_cleanup_free_ char *text = json_dumps(j, JSON_ENCODE_ANY);

		/* of the escapes of JSON, Lua knows those that an example has */
		strbuf_puts(b, text);
	}
}

static void write_text(const char *path, const char *text)
{
	assert_int_equal(file_write(path, text, strlen(text)), 0);
}

static void write_site(const json_t *j)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	strbuf_puts(&b, "return ");
	add_lua(&b, j);
	assert_int_equal(mkdir_p(WORK "/sites"), 0);
	write_text(WORK "/sites/conformance.lua", b.s);
}

/* The drill that makes this one change and takes it back */
static void write_example(const struct example *e)
{
	_cleanup_json_ json_t *j = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	const char *dot = strchr(e->ops->name, '.');

	strbuf_puts(&b, "local muster = require \"muster\"\nlocal site = muster.site \"conformance\"\n"
			"return muster.scenario {\n\tname = \"crash\", site = site, deadline = \"3m\",\n\tmethod = "
			"function(run)\n");
	if (e->ops->kind == CHANGE_LAB) {
		j = json_incref(json_object_get(e->json, "site"));
		strbuf_puts(&b, "\t\trun:phase \"nothing\"\n");
	} else {
		j = json_loads(example_site_text, 0, NULL);
		/* a service would bring probes along, which take their time and change nothing */
		if (!strstr(e->ops->example, "\"service\""))
			json_object_del(j, "services");
		if (!redis_pair_wanted(e->ops, e->json))
			json_object_del(j, "databases");
		strbuf_addf(&b, "\t\tlocal c <close> = run:%s(muster[\"%.*s\"][\"%s\"] ",
			e->ops->kind == CHANGE_FAULT ? "inject" : "apply", (int)(dot - e->ops->name), e->ops->name,
			dot + 1);
		add_lua(&b, e->json);
		strbuf_puts(&b, ")\n");
	}
	strbuf_puts(&b, "\tend,\n}\n");
	write_site(j);
	write_text(WORK "/scenario.lua", b.s);
}

static void substitute(char **text, const char *pattern, const char *with)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	const char *at = *text;
	regmatch_t m[3];
	regex_t re;

	assert_int_equal(regcomp(&re, pattern, REG_EXTENDED), 0);
	/* group 1 stays, group 2 is replaced */
	while (regexec(&re, at, 3, m, 0) == 0) {
		strbuf_add(&b, at, (size_t)m[2].rm_so);
		strbuf_puts(&b, with);
		at += m[2].rm_eo;
	}
	strbuf_puts(&b, at);
	regfree(&re);
	free(*text);
	*text = strdup(b.s);
}

/* "KEY = { ... }" becomes "KEY = nil": not declared */
static void undeclare(char **text, const char *key)
{
	_cleanup_free_ char *pattern = strf("%s[ \t]*=[ \t]*\\{", key), *without = NULL;
	regmatch_t m;
	regex_t re;
	size_t end;
	int depth = 1;

	assert_int_equal(regcomp(&re, pattern, REG_EXTENDED), 0);
	if (regexec(&re, *text, 1, &m, 0) == 0) {
		for (end = (size_t)m.rm_eo; depth > 0 && (*text)[end]; end++)
			depth += ((*text)[end] == '{') - ((*text)[end] == '}');
		assert_int_equal(depth, 0);
		without = strf("%.*s%s = nil%s", (int)m.rm_so, *text, key, *text + end);
		free(*text);
		*text = TAKE_PTR(without);
	}
	regfree(&re);
}

/*
 * The scenario, in a hurry: it waits for nothing longer than it must, and what it finds does not keep it from going on: without its steady
 * state, its stop conditions and its objectives, which change nothing. What it does change, and in which order, stays.
 */
static void write_scenario(const char *file)
{
	char *text;

	/* its own sites, which it would find beside it */
	sh("rm -rf " WORK "/sites; d=$(dirname %s)/sites; [ ! -d $d ] || cp -r $d " WORK "/sites", file);
	assert_int_equal(file_read(file, 1 << 20, &text, NULL), 0);
	undeclare(&text, "steady_state");
	undeclare(&text, "stop_when");
	undeclare(&text, "objective");
	substitute(&text, "(during *= *\")([0-9.]+m?s)", "200ms");
	substitute(&text, "(run:wait *\\(? *\")([0-9.]+m?s)", "200ms");
	substitute(&text, "(within *= *\")([0-9.]+m?s)", "200ms");
	substitute(&text, "(\"rate\" *, *\")([0-9]+/s)", "40/s");
	write_text(WORK "/scenario.lua", text);
	free(text);
}

/* ── all points of a drill ─────────────────────────────────────────────────────────────────── */

/* One run in which nobody dies: what it goes through. NULL, or why it is no use. */
static char *trace(const struct crash_case *c, const struct shot *shots, unsigned int n, struct control *ret)
{
	char why[128] = "";
	int code = drill(c, shots, n, why, sizeof(why));

	*ret = *control;
	if (why[0])
		return strf("%s", why);
	if (n == 0 && code == EXIT_REFUSED)
		return strf("refused");
	if (n == 0 && (code == EXIT_RESIDUE || code == EXIT_ERROR || code == EXIT_USAGE || code < 0))
		return strf("a drill that nobody disturbs ends with exit %d", code);
	if (ret->n_steps > STEPS_MAX)
		return strf("it takes %u steps, more than there is room for", ret->n_steps);
	return NULL;
}

/* Every place of step @i at which @targets can be shot. @few: one of those that come to the same. */
static void add_kills(struct points *list, const struct step *s, int i, uint32_t targets, int signal, bool few,
	const struct shot *first, bool restore)
{
	bool own = targets & BIT(s->role);

	for (int place = PLACE_BEFORE; place <= PLACE_AFTER; place++) {
		struct shot run[2], shot = {.step = i, .place = place, .targets = targets, .signal = signal};

		/* only a writer's own death tears a record; a record that is written is not yet synced, and that is all */
		if ((place == PLACE_TORN && (s->op != STEP_WRITE || !own)) ||
			(s->op == STEP_SYNC && place == PLACE_BEFORE))
			continue;
		/* behind a step is where the next one begins; a torn record is the same to whoever reads it */
		if (few && place != PLACE_AFTER && (place != PLACE_TORN || targets != ENGINE || first))
			continue;
		if (first)
			run[0] = *first;
		run[first ? 1 : 0] = shot;
		if (restore)
			add_point(list, first, 1, &shot);
		else
			add_point(list, run, first ? 2 : 1, NULL);
	}
}

static void add_all(struct points *list, const struct control *t, bool few, int from, int to)
{
	static const uint32_t targets[] = {ENGINE, GUARD, ENGINE | GUARD, SCRIPT, COMMAND | ENGINE | GUARD};

	for (int i = from; i < to; i++) {
		const struct step *s = &t->steps[i];

		for (size_t k = 0; k < ARRAY_SIZE(targets); k++) {
			struct shot segv = {.step = i, .place = PLACE_AFTER, .targets = targets[k], .signal = SIGSEGV};
			struct shot stop = {.step = i, .place = PLACE_BEFORE, .targets = targets[k], .signal = SIGSTOP};

			if ((s->alive & targets[k]) != targets[k])
				continue;
			add_kills(list, s, i, targets[k], SIGKILL, few, NULL, false);
			if (few || (targets[k] & COMMAND))
				continue;
			add_point(list, &segv, 1, NULL);
			add_point(list, &stop, 1, NULL);
		}
		if (!few && (s->op == STEP_WRITE || s->op == STEP_SYNC)) {
			struct shot once = {.step = i, .place = PLACE_BEFORE, .error = ENOSPC};
			struct shot good = {.step = i,
				.place = s->op == STEP_WRITE ? PLACE_TORN : PLACE_BEFORE,
				.error = ENOSPC,
				.lasting = true};

			add_point(list, &once, 1, NULL);
			add_point(list, &good, 1, NULL);
		}
	}
}

/* The step after which all of the drill's changes are in force; -1: it makes none */
static int peak(const struct control *t)
{
	int at = -1;

	for (int i = 0; i < (int)t->n_steps; i++)
		if (t->steps[i].op == STEP_WRITE && strstr(t->steps[i].label, "\"applied\""))
			at = i;
	return at;
}

/* From the peak: the undo of the guard, of the engine, of the command and of the next one, killed at each of its steps. NULL, or what failed. */
static char *add_undos(struct points *list, struct crash_case *c, const struct control *t, bool few)
{
	static const struct {
		uint32_t dies;
		enum role undoes;
	} ways[] = {{ENGINE, ROLE_GUARD}, {GUARD, ROLE_ENGINE}, {ENGINE | GUARD, ROLE_COMMAND}};
	struct shot first = {
		.step = peak(t), .place = PLACE_AFTER, .targets = COMMAND | ENGINE | GUARD, .signal = SIGKILL};
	struct control *u = calloc(1, sizeof(*u));
	char *why;

	assert_non_null(u);
	why = first.step < 0 ? strf("it puts nothing in force") : NULL;
	for (size_t k = 0; k < ARRAY_SIZE(ways) && !why; k++) {
		first.targets = ways[k].dies;
		why = trace(c, &first, 1, u);
		for (int i = first.step + 1; i < (int)u->n_steps && !why; i++)
			if (u->steps[i].role == ways[k].undoes)
				add_kills(list, &u->steps[i], i, BIT(ways[k].undoes), SIGKILL, few, &first, false);
	}
	first.targets = COMMAND | ENGINE | GUARD;
	if (!why)
		why = trace(c, &first, 1, u);
	if (!why) {
		int r = do_restore(NULL);

		*u = *control;
		if (r != 0)
			why = strf("muster restore --all: exit %d", r);
	}
	for (int i = 0; i < (int)u->n_steps && !why; i++)
		add_kills(list, &u->steps[i], i, BIT(ROLE_COMMAND), SIGKILL, few, &first, true);
	free(u);
	return why;
}

/* ── playing them ──────────────────────────────────────────────────────────────────────────── */

static void show_log(void)
{
	_cleanup_free_ char *text = NULL;

	if (file_read(LOG, 1 << 20, &text, NULL) == 0)
		printf("        its log: %s\n", text);
}

static void show_steps(const struct control *t)
{
	static const char *const roles[] = {"", "command", "guard", "engine", "script"}, *const ops[] = {"write",
												 "sync", "cut",
												 "remove"};

	for (uint32_t i = 0; i < t->n_steps && i < STEPS_MAX; i++)
		printf("    %3u %-7s %-6s %5u %s%s%s %.90s\n", i, roles[t->steps[i].role], ops[t->steps[i].op],
			t->steps[i].size, t->steps[i].alive & GUARD ? "G" : "-", t->steps[i].alive & ENGINE ? "E" : "-",
			t->steps[i].alive & SCRIPT ? "S" : "-", t->steps[i].label);
}

/* Something of it was not as it should be: nothing of it is to spoil what comes after. */
typedef void (*again_fn)(struct crash_case *c);

static void play_all(struct crash_case *c, const struct points *list, again_fn again)
{
	nsec_t said = now_ns();

	for (size_t i = 0; i < list->n; i++) {
		_cleanup_free_ char *text = point_text(&list->p[i]), *why = NULL;
		bool missed;

		if (now_ns() > said + 30 * NSEC_PER_SEC) {
			said = now_ns();
			printf("    %s: %zu of %zu points tried\n", c->name, i, list->n);
		}

		if (options.point && !streq(options.point, text))
			continue;
		if (options.list) {
			printf("    %s %s\n", c->lab, text);
			continue;
		}
		played++;
		why = play(c, &list->p[i], &missed);
		if (missed && c->settles) {
			/* the site's own controllers have given a role away for good, and the scenario asks for it */
			again(c);
			free(why);
			why = play(c, &list->p[i], &missed);
		}
		if (!why) {
			restored++;
			continue;
		}
		c->failed++;
		printf("    NOT RESTORED: %s, lab %s, %s: %s\n", c->name, c->lab, text, why);
		printf("        again: script/crash --case '%s' --point '%s'\n", c->name, text);
		if (c->failed <= 3 || options.point)
			show_log();
		clear_away();
		again(c);
		if (c->failed == FAILURES_MAX) {
			printf("    %s: %u failures are enough; %zu points were not tried\n", c->name, c->failed,
				list->n - i - 1);
			played += (unsigned int)(list->n - i - 1);
			break;
		}
	}
}

/* @n of them, by the seed, in its order */
static void sample(struct points *list, size_t n)
{
	uint64_t x = options.seed * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i < list->n && i < n; i++) {
		struct point p;
		size_t k;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		k = i + x % (list->n - i);
		p = list->p[i];
		list->p[i] = list->p[k];
		list->p[k] = p;
	}
	list->n = MIN(list->n, n);
}

static void finish(struct crash_case *c, struct control *t, struct points *list, char *why, nsec_t from,
	unsigned int before, unsigned int before_ok)
{
	free(t);
	free(list->p);
	if (why) {
		c->failed++;
		printf("    %s: %s\n", c->name, why);
		show_log();
		free(why);
		clear_away();
	}
	printf("    %s: %u of %u restored, %.1f s\n", c->name, restored - before_ok, played - before,
		(double)(now_ns() - from) / NSEC_PER_SEC);
	fflush(stdout);
	free(c->before);
	free(c->left_before);
	c->before = c->left_before = NULL;
}

static void again_example(struct crash_case *c)
{
	if (c->example.ops->kind != CHANGE_LAB) {
		drop_site();
		make_site();
		(void)example_site_serve(&site, &c->example);
	}
	take_before(c);
}

static void change_is_undone(void **state)
{
	struct crash_case *c = *state;
	bool lab = c->example.ops->kind == CHANGE_LAB;
	struct control *t = calloc(1, sizeof(*t));
	unsigned int before = played, before_ok = restored;
	struct points list = {0};
	const struct node *n;
	nsec_t from = now_ns();
	json_t *args = NULL;
	char *why;

	assert_non_null(t);
	if (!c->example.json) {
		printf("SKIP: %s: it gives no example\n", c->name);
		free(t);
		skip();
	}
	make_site();
	if (example_site_serve(&site, &c->example) > 0 || example_args(&site, &c->example, &args, &n) > 0) {
		free(t);
		skip();
	}
	json_decref(args);
	if (lab)
		drop_site();
	stages++;
	c->lab = lab ? "netns" : "none";
	write_example(&c->example);
	why = trace(c, NULL, 0, t);
	if (have_site)
		example_site_await(&site);
	take_before(c);
	if (options.list)
		show_steps(t);
	if (!why) {
		add_all(&list, t, options.few, 0, (int)t->n_steps);
		why = add_undos(&list, c, t, options.few);
	}
	if (options.quick && !options.point)
		sample(&list, QUICK);
	else if (c->further && !options.all && !options.point)
		sample(&list, options.few ? FURTHER_FEW : FURTHER);
	if (!why)
		play_all(c, &list, again_example);
	finish(c, t, &list, why, from, before, before_ok);
	if (c->failed)
		fail();
}

/* ── a scenario ────────────────────────────────────────────────────────────────────────────── */

static int lab(const char *verb, const char *name)
{
	const char *argv[] = {MUSTER_BINARY, "lab", verb, name, NULL};

	aim(NULL, 0, 0);
	return await_exit(start(argv), now_ns() + PATIENCE);
}

/* The site of the drill that was just played */
static char *site_name(void)
{
	_cleanup_json_ json_t *plan = json_load_file(WORK "/out/plan.json", 0, NULL);
	const char *name =
		json_string_value(json_object_get(json_object_get(json_object_get(plan, "scenario"), "site"), "name"));

	return name ? strdup(name) : NULL;
}

static char *refusal(void)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL;

	if (file_read(WORK "/out/timeline.jsonl", 16 << 20, &text, NULL) < 0)
		return strdup("refused");
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		_cleanup_json_ json_t *j = json_loads(line, 0, NULL);

		if (streq(json_string_value(json_object_get(j, "kind")), "refused"))
			return strdup(json_string_value(json_object_get(j, "text")));
	}
	return strdup("refused");
}

static void again_lab(struct crash_case *c)
{
	take_before(c);
}

static char *standing_name;

static void again_standing(struct crash_case *c)
{
	(void)lab("down", standing_name);
	if (lab("up", standing_name) != 0)
		printf("    lab %s does not come up again\n", standing_name);
	take_before(c);
}

static bool is_labs(const struct step *s)
{
	return strstr(s->label, "lab.site") || strstr(s->label, "\"run\"");
}

static void scenario_is_undone(void **state)
{
	struct crash_case *c = *state;
	struct control *t = calloc(1, sizeof(*t));
	unsigned int before = played, before_ok = restored;
	struct points in_lab = {0}, list = {0};
	nsec_t from = now_ns();
	bool standing_lab;
	size_t n_lab;
	char *why;

	assert_non_null(t);
	drop_site();
	write_scenario(c->shipped);
	c->lab = "netns";
	c->settles = false;
	why = trace(c, NULL, 0, t);
	if (streq(why, "refused")) {
		char *text = refusal();

		printf("SKIP: %s: %s\n", c->name, text);
		free(text);
		free(why);
		free(t);
		skip(); /* does not come back */
	}
	stages++;
	take_before(c);
	free(standing_name);
	standing_name = site_name();
	if (options.list)
		show_steps(t);
	/* with a lab of its own: the records of the lab itself */
	for (int i = 0; i < (int)t->n_steps && !why; i++)
		if (is_labs(&t->steps[i]) || t->steps[i].op == STEP_REMOVE)
			add_all(&in_lab, t, false, i, i + 1);
	/* on a lab that stands: everything else; a site that only its scenario can find has none */
	if (!why && lab("up", standing_name) == 0) {
		c->lab = "none";
		c->settles = true;
		/* now: a checker that has seen a fault takes its time to trust a server again */
		take_before(c);
		why = trace(c, NULL, 0, t);
		if (options.list)
			show_steps(t);
	}
	if (!why) {
		add_all(&list, t, false, 0, (int)t->n_steps);
		why = add_undos(&list, c, t, false);
	}
	standing_lab = streq(c->lab, "none");
	if (!standing_lab)
		in_lab.n = 0; /* the others are all in one */
	printf("    %s: %zu points with a lab of its own, %zu %s; seed %llu\n", c->name, in_lab.n, list.n,
		standing_lab ? "on one that stands" : "in others", (unsigned long long)options.seed);
	if (!options.all && !options.point) {
		/* a fifth of the sample with a lab of its own, which is slow */
		size_t share = (options.sample + n_scenarios - 1) / n_scenarios;

		n_lab = MIN(in_lab.n, MAX(share / 5, 1));
		sample(&in_lab, n_lab);
		sample(&list, share - n_lab);
	}
	if (!why && standing_lab)
		why = differs(c);
	if (!why) {
		play_all(c, &list, standing_lab ? again_standing : again_lab);
	}
	if (standing_lab)
		(void)lab("down", standing_name);
	c->lab = "netns";
	c->settles = false;
	if (!why) {
		take_before(c);
		play_all(c, &in_lab, again_lab);
	}
	free(in_lab.p);
	finish(c, t, &list, why, from, before, before_ok);
	if (c->failed)
		fail();
}

/* ── all of it ─────────────────────────────────────────────────────────────────────────────── */

static void all_is_restored(void **state _unused_)
{
	drop_site();
	printf("    crash: %u of %u restored, over %u drills, in %.0f s; seed %llu\n", restored, played, stages,
		(double)(now_ns() - began) / NSEC_PER_SEC, (unsigned long long)options.seed);
	assert_int_equal(restored, played);
	if (!options.n_names && !options.n_files && !options.list && !options.point)
		assert_true(played > 0);
}

static bool wanted(const char *name)
{
	for (int i = 0; i < options.n_names; i++)
		if (strstr(name, options.names[i]))
			return true;
	return options.n_names == 0 && options.n_files == 0;
}

static struct CMUnitTest *tests;
static size_t n_tests;

static void add_test(struct crash_case *c, void (*fn)(void **))
{
	tests = realloc(tests, (n_tests + 1) * sizeof(*tests));
	if (!tests)
		exit(1);
	tests[n_tests++] =
		(struct CMUnitTest){.name = c ? c->name : "all_is_restored", .test_func = fn, .initial_state = c};
}

static void add_scenario(const char *file, bool asked_for)
{
	struct crash_case *c = calloc(1, sizeof(*c));
	const char *base = strrchr(file, '/');

	if (!c)
		exit(1);
	base = base ? base + 1 : file;
	c->shipped = realpath(file, NULL);
	snprintf(c->name, sizeof(c->name), "%.*s", (int)strcspn(base, "."), base);
	if (c->shipped && (asked_for || wanted(c->name))) {
		add_test(c, scenario_is_undone);
		n_scenarios++;
	} else {
		free(c->shipped);
		free(c);
	}
}

static void add_tests(void)
{
	glob_t g;

	for (const struct change_ops *const *ops = change_table; *ops; ops++) {
		for (size_t i = 0; i < example_count(*ops); i++) {
			struct crash_case *c = calloc(1, sizeof(*c));

			if (!c)
				exit(1);
			example_get(*ops, i, &c->example);
			snprintf(c->name, sizeof(c->name), "%s", c->example.name);
			c->further = i > 0;
			if (wanted(c->name)) {
				add_test(c, change_is_undone);
			} else {
				json_decref(c->example.json);
				free(c);
			}
		}
	}
	if (glob(TEST_DATA "/../scenarios/*.lua", 0, NULL, &g) != 0)
		exit(1);
	for (size_t i = 0; i < g.gl_pathc; i++)
		add_scenario(g.gl_pathv[i], false);
	globfree(&g);
	for (int i = 0; i < options.n_files; i++)
		add_scenario(options.files[i], true);
	add_test(NULL, all_is_restored);
}

/* A world of its own: processes, mounts, network, /run, and where journals and runs are kept */
static void open_world(void)
{
	int fd;

	if (mount("lib", "/var/lib/muster", "tmpfs", 0, "mode=755") < 0 || mkdir_p(WORK) < 0) {
		perror("sandbox: /var/lib/muster");
		exit(1);
	}
	fd = open(CONTROL, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || ftruncate(fd, sizeof(*control)) < 0) {
		perror(CONTROL);
		exit(1);
	}
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED) {
		perror(CONTROL);
		exit(1);
	}
}

static const char *value(int argc, char **argv, int *i)
{
	if (++*i == argc) {
		fprintf(stderr, "%s wants a value\n", argv[*i - 1]);
		exit(2);
	}
	return argv[*i];
}

int main(int argc, char **argv)
{
	char *names[64], *files[8];
	int failed;

	if (argc == 2 && streq(argv[1], "daemon"))
		return example_daemon_main();
	options.names = names;
	options.files = files;
	for (int i = 1; i < argc; i++) {
		if (streq(argv[i], "--all"))
			options.all = true;
		else if (streq(argv[i], "--few"))
			options.few = true;
		else if (streq(argv[i], "--quick"))
			options.quick = true;
		else if (streq(argv[i], "--list"))
			options.list = true;
		else if (streq(argv[i], "--seed"))
			options.seed = strtoull(value(argc, argv, &i), NULL, 10);
		else if (streq(argv[i], "--sample"))
			options.sample = (unsigned int)strtoul(value(argc, argv, &i), NULL, 10);
		else if (streq(argv[i], "--file") && options.n_files < (int)ARRAY_SIZE(files))
			files[options.n_files++] = (char *)value(argc, argv, &i);
		else if (streq(argv[i], "--point"))
			options.point = value(argc, argv, &i);
		else if (options.n_names < (int)ARRAY_SIZE(names))
			names[options.n_names++] = argv[i];
	}
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	/* kept: it is where muster keeps its runs */
	if (geteuid() == 0)
		(void)mkdir_p("/var/lib/muster");
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	open_world();
	began = now_ns();
	add_tests();
	failed = _cmocka_run_group_tests("kill", tests, n_tests, NULL, NULL);
	for (size_t i = 0; i < n_tests; i++) {
		struct crash_case *c = tests[i].initial_state;

		if (!c)
			continue;
		json_decref(c->example.json);
		free(c->shipped);
		free(c->before);
		free(c->left_before);
		free(c);
	}
	free(tests);
	free(standing_name);
	return failed;
}
