/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every way out of a drill undoes it: the end, a block that is left, an error, a halt by whomever, a signal to the
 * command, a terminal that is closed, each process killed or stopped, a disk that is full, no descriptor left. Whole
 * drills on site "pair", in a world of the test's own; before and after each, the host's snapshot is taken by the test
 * itself and must be the same.
 */
#include "tests/lab/drill.h"

#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <termios.h>

#include "tests/crash/trial.h"
#include "tests/lab/bridge_site.h"

static char *before_drill;

/* ── before and after ──────────────────────────────────────────────────────────────────────── */

static char *host_snapshot(void)
{
	_cleanup_node_ struct node *host = node_new("host", NULL);
	const struct node *nodes[] = {host};
	struct err err = {0};
	char *text = NULL;

	assert_int_equal(node_open(host, &err), 0);
	if (snapshot_take(nodes, 1, &text, &err) < 0)
		fail_msg("snapshot: %s", err.text);
	return text;
}

static int before(void **state _unused_)
{
	before_drill = host_snapshot();
	prelude = NULL;
	return 0;
}

/* A process of a drill that still runs, or NULL; the dead ones are buried on the way: this is process 1. */
static char *left_running(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	char *found = NULL;

	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	while (!found && (e = readdir(proc))) {
		_cleanup_free_ char *path = strf("/proc/%s/comm", e->d_name), *comm = NULL;

		if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && file_read(path, 64, &comm, NULL) == 0 &&
			(strncmp(comm, "muster", 6) == 0 || strncmp(comm, "nginx", 5) == 0))
			found = strf("process %s, %s", e->d_name, comm);
	}
	closedir(proc);
	return found;
}

static int after(void **state _unused_)
{
	_cleanup_free_ char *now = host_snapshot(), *then = TAKE_PTR(before_drill), *running = left_running();
	_cleanup_json_ json_t *diff = snapshot_diff(then, now);
	_cleanup_free_ char *text = json_dumps(diff, 0);

	if (running) {
		print_error("still there: %s\n", running);
		return -1;
	}
	if (json_array_size(diff)) {
		print_error("the host is not as it was: %s\n", text);
		return -1;
	}
	assert_nothing_left();
	return 0;
}

static void await_fault(const struct drill *d)
{
	await_line(d, "\"fault\"", "\"applied\"");
}

static void restore_all(int code)
{
	char cmd[512];
	int status;

	snprintf(cmd, sizeof(cmd), "%s restore --all >/dev/null", MUSTER_BINARY);
	status = system(cmd);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), code);
}

static char *timeline_of(const struct drill *d)
{
	char path[160], *text = NULL;

	snprintf(path, sizeof(path), "%s/timeline.jsonl", d->out);
	assert_int_equal(file_read(path, 64 << 20, &text, NULL), 0);
	return text;
}

static void assert_told(const struct drill *d, const char *what)
{
	_cleanup_free_ char *text = timeline_of(d);

	if (!strstr(text, what))
		fail_msg("\"%s\" is not in the timeline: %s", what, text);
}

static void begin(struct drill *d)
{
	start(d, "drills/pair-overdue.lua", "--set", "deadline=2m", NULL);
	await_fault(d);
}

/* ── ends of its own ───────────────────────────────────────────────────────────────────────── */

static void the_end(void **state _unused_)
{
	struct drill d;

	start(&d, "drills/pair-overdue.lua", "--set", "deadline=2m", "--set", "wait=300ms", NULL);
	/* nobody talked to the server, so nothing is proved; what counts here is that it is put back */
	expect(&d, 7, "inconclusive");
	assert_told(&d, "\"lifted\"");
	done(&d);
}

static void a_block_that_is_left(void **state _unused_)
{
	_cleanup_free_ char *text = NULL;
	const char *lifted, *recovery;
	struct drill d;

	start(&d, "drills/pair-toothless.lua", NULL);
	expect(&d, 7, "inconclusive");
	text = timeline_of(&d);
	lifted = strstr(text, "\"lifted\"");
	recovery = strstr(text, "\"recovery\"");
	assert_true(lifted && recovery && lifted < recovery);
	done(&d);
}

static void an_error_of_the_script(void **state _unused_)
{
	struct drill d;

	start(&d, "drills/pair-raises.lua", NULL);
	expect(&d, 2, "error");
	done(&d);
}

static void a_stop_condition(void **state _unused_)
{
	struct drill d;

	start(&d, "drills/pair-stops.lua", NULL);
	expect(&d, 3, "halted");
	done(&d);
}

static void the_deadline(void **state _unused_)
{
	struct drill d;

	start(&d, "drills/pair-overdue.lua", NULL);
	expect(&d, 3, "halted");
	done(&d);
	start(&d, "drills/pair-spins.lua", NULL);
	expect(&d, 3, "halted");
	done(&d);
}

/* ── somebody wants an end ─────────────────────────────────────────────────────────────────── */

static void a_signal_to_the_command(void **state _unused_)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct drill d;

		begin(&d);
		kill(d.pid, signals[i]);
		expect(&d, 4, "halted");
		done(&d);
	}
}

static void muster_halt(void **state _unused_)
{
	_cleanup_free_ char *report = NULL;
	struct drill d;
	char cmd[512];

	begin(&d);
	snprintf(cmd, sizeof(cmd), "%s halt --quiet --reason 'enough seen'", MUSTER_BINARY);
	assert_int_equal(system(cmd), 0);
	expect(&d, 4, "halted");
	report = json_dumps(d.report, 0);
	assert_non_null(strstr(report, "enough seen"));
	done(&d);
}

static int terminal = -1;

/* The command's terminal is a pseudo terminal, its own */
static void take_terminal(void)
{
	int fd;

	setsid();
	fd = open(ptsname(terminal), O_RDWR);
	ioctl(fd, TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
}

static void a_terminal_that_is_closed(void **state _unused_)
{
	struct drill d;

	sh("mkdir -p /dev/pts && mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts");
	terminal = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(terminal >= 0);
	assert_int_equal(unlockpt(terminal), 0);
	prelude = take_terminal;
	start(&d, "drills/pair-overdue.lua", "--set", "deadline=2m", NULL);
	await_fault(&d);
	close(TAKE_FD(terminal)); /* the kernel sends SIGHUP */
	expect(&d, 4, "halted");
	assert_told(&d, "Hangup");
	done(&d);
	sh("umount /dev/pts");
}

static void the_command_killed(void **state _unused_)
{
	_cleanup_close_ int guard_fd = -1;
	struct pollfd p;
	struct drill d;

	begin(&d);
	guard_fd = (int)syscall(SYS_pidfd_open, process_of(&d, "guard"), 0);
	kill(d.pid, SIGKILL);
	assert_int_equal(finish(&d), -SIGKILL);
	p = (struct pollfd){.fd = guard_fd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 60000), 1);
	done(&d);
}

/* ── processes that die, or do not answer ──────────────────────────────────────────────────── */

static void the_engine_killed(void **state _unused_)
{
	static const char *const hows[] = {"how=silent", "how=cut", "how=loud"};

	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		struct drill d;

		start(&d, "drills/pair-overdue.lua", "--set", "deadline=2m", "--set", hows[i], NULL);
		await_fault(&d);
		kill(process_of(&d, "engine"), SIGKILL);
		expect(&d, 8, "error");
		assert_told(&d, "killed by signal 9");
		done(&d);
	}
}

static void the_engine_crashed(void **state _unused_)
{
	static const int signals[] = {SIGSEGV, SIGABRT, SIGBUS};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct drill d;

		begin(&d);
		kill(process_of(&d, "engine"), signals[i]);
		expect(&d, 8, "error");
		done(&d);
	}
}

/* It is dead before anything is undone, so that continuing it has no effect. */
static void the_engine_stopped(void **state _unused_)
{
	struct pollfd p = {.events = POLLIN};
	struct drill d;
	pid_t engine;

	begin(&d);
	engine = process_of(&d, "engine");
	p.fd = (int)syscall(SYS_pidfd_open, engine, 0);
	assert_true(p.fd >= 0);
	kill(engine, SIGSTOP);
	assert_int_equal(poll(&p, 1, 60000), 1);
	(void)syscall(SYS_pidfd_send_signal, p.fd, SIGCONT, NULL, 0); /* nobody is there to hear it, while the guard undoes */
	expect(&d, 8, "error");
	assert_told(&d, "engine-hung");
	close(p.fd);
	done(&d);
}

static void the_script_killed(void **state _unused_)
{
	struct drill d;

	begin(&d);
	kill(process_of(&d, "script"), SIGKILL);
	assert_true(finish(&d) != 0);
	assert_string_equal(verdict(&d), "error");
	assert_true(json_is_true(json_object_get(json_object_get(d.report, "residue"), "clean")));
	done(&d);
}

static void the_guard_killed(void **state _unused_)
{
	struct drill d;
	int code;

	begin(&d);
	kill(process_of(&d, "guard"), SIGKILL);
	code = finish(&d);
	assert_true(code == 3 || code == 8);
	assert_true(json_is_true(json_object_get(json_object_get(d.report, "residue"), "clean")));
	assert_told(&d, "the guard is gone");
	done(&d);
}

/* The engine notices, undoes by itself, and wakes the guard, which has the locks. */
static void the_guard_stopped(void **state _unused_)
{
	struct drill d;

	begin(&d);
	kill(process_of(&d, "guard"), SIGSTOP);
	await_line(&d, "\"fault\"", "\"lifted\"");
	expect(&d, 3, "halted");
	assert_told(&d, "the guard does not answer");
	done(&d);
}

/* A change that the guard has not heard of is not made. */
static void the_guard_stopped_before_the_change(void **state _unused_)
{
	_cleanup_free_ char *text = NULL;
	struct drill d;
	int code;

	start(&d, "drills/pair-overdue.lua", "--set", "deadline=2m", "--set", "before=1s", NULL);
	await_line(&d, "\"stage\"", "\"method\"");
	kill(process_of(&d, "guard"), SIGSTOP);
	code = finish(&d);
	assert_true(code == 3 || code == 8);
	assert_true(json_is_true(json_object_get(json_object_get(d.report, "residue"), "clean")));
	text = timeline_of(&d);
	assert_null(strstr(text, "\"lifted\""));
	done(&d);
}

/* Neither sees the other die. Nobody can undo but who comes later. */
static void kill_both(const struct drill *d)
{
	pid_t guard = process_of(d, "guard"), engine = process_of(d, "engine");

	kill(guard, SIGSTOP);
	kill(engine, SIGKILL);
	kill(guard, SIGKILL);
}

/* The command, which lives, may undo it, or leave it to `muster restore`; it says which. */
static void engine_and_guard_killed(void **state _unused_)
{
	struct drill d;

	begin(&d);
	kill_both(&d);
	expect(&d, 8, "error"); /* the command undid it */
	assert_nothing_left();
	done(&d);
}

static void everybody_killed(void **state _unused_)
{
	struct drill d, next;

	begin(&d);
	kill(d.pid, SIGSTOP);
	kill_both(&d);
	kill(d.pid, SIGKILL);
	assert_int_equal(finish(&d), -SIGKILL);
	done(&d);
	start(&next, "drills/pair-toothless.lua", NULL);
	assert_int_equal(finish(&next), 6);
	done(&next);
	restore_all(0);
	assert_nothing_left();
	restore_all(0);
}

/* ── nothing left to work with ─────────────────────────────────────────────────────────────── */

/*
 * /run/muster and /var/lib/muster on a disk that is small, until disk_whole(); the sandbox's own. When it is full a
 * journal can still grow to the end of its last page: a record that is to find no room must be larger than that.
 */
static void disk_small(void)
{
	for (size_t i = 0; i < 2; i++)
		sh("d=%s; mkdir -p $d && mount -t tmpfs -o size=4m,mode=755 small $d", i ? "/var/lib/muster" : "/run/muster");
}

static void disk_fill(void)
{
	static const char *const dirs[] = {"/run/muster", "/var/lib/muster"};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		_cleanup_free_ char *path = strf("%s/.filler", dirs[i]);
		_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		char page[4096] = {1};
		struct statfs fs;

		while (write(fd, page, sizeof(page)) > 0)
			;
		assert_int_equal(errno, ENOSPC);
		assert_int_equal(fstatfs(fd, &fs), 0);
		assert_int_equal(fs.f_bavail, 0);
	}
}

static void disk_free(void)
{
	sh("rm -f /run/muster/.filler /var/lib/muster/.filler");
}

static void disk_whole(void)
{
	sh("umount /run/muster && umount /var/lib/muster");
}

static void a_disk_that_is_full(void **state _unused_)
{
	struct drill d;

	disk_small();
	disk_fill();
	start(&d, "drills/pair-overdue.lua", NULL);
	assert_int_equal(finish(&d), 6);
	assert_nothing_left();
	done(&d);
	disk_free();
	disk_whole();
}

/*
 * The INTENT cannot be written: no change is made. What was changed before is undone; if that cannot be noted either,
 * the drill does not call it proved, and a restore with room for a mark settles it.
 */
static void a_disk_that_fills_up(void **state _unused_)
{
	_cleanup_free_ char *text = NULL;
	struct drill d;
	int code;

	disk_small();
	start(&d, "drills/pair-fills.lua", "--set", "before=2s", NULL);
	await_line(&d, "\"stage\"", "\"method\"");
	disk_fill();
	code = finish(&d);
	text = timeline_of(&d);
	/* of all changes the lab alone was made */
	if (!strstr(text, "set.ipset on server: ") || !strstr(text, "No space left") ||
		count_text(text, "\"state\":\"applied\"") != 1)
		fail_msg("exit %d; not refused for want of space: %s", code, text);
	assert_true(code == 5 || code == 8);
	assert_int_equal(access("/run/netns/muster-pair-server", F_OK), -1); /* undone, noted or not */
	disk_free();
	restore_all(0);
	assert_nothing_left();
	done(&d);
	disk_whole();
}

/* The guard undoes though it can note nothing. */
static void a_disk_that_is_full_for_the_guard(void **state _unused_)
{
	struct drill d;

	disk_small();
	begin(&d);
	disk_fill();
	kill(process_of(&d, "engine"), SIGKILL);
	(void)finish(&d);
	assert_told(&d, "\"what\":\"engine-died\"");
	assert_told(&d, "\"undone\":2");
	assert_int_equal(access("/run/netns/muster-pair-server", F_OK), -1);
	disk_free();
	restore_all(0);
	assert_nothing_left();
	done(&d);
	disk_whole();
}

static void no_descriptor_for_the_guard(void **state _unused_)
{
	struct rlimit none = {0};
	struct drill d;
	pid_t guard;

	begin(&d);
	guard = process_of(&d, "guard");
	for (;; none.rlim_cur++) {
		_cleanup_free_ char *path = strf("/proc/%d/fd/%d", (int)guard, (int)none.rlim_cur);
		struct stat st;

		if (lstat(path, &st) < 0)
			break;
	}
	none.rlim_max = none.rlim_cur;
	assert_int_equal(prlimit(guard, RLIMIT_NOFILE, &none, NULL), 0);
	kill(process_of(&d, "engine"), SIGKILL);
	expect(&d, 8, "error");
	assert_told(&d, "\"undone\":2");
	done(&d);
}

/* ── a namespace without a name ────────────────────────────────────────────────────────────── */

#define LOST_PATH "/run/netns/lost"
#define LOST_KEY  "net.ipv4.tcp_fin_timeout"

/* Changes something in a namespace, takes its name away, names another one like it, and dies. */
static int loses_the_name(const struct run_opts *o)
{
	_cleanup_node_ struct node *n = node_new("lost", LOST_PATH);
	struct err err = {0};

	if (node_open(n, &err) < 0 ||
		trial_apply(o, "set.sysctl", n, json_pack("{s:s, s:{s:s}}", "node", "lost", "values", LOST_KEY, "33"), &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	(void)!system("ip netns del lost && ip netns add lost");
	kill(getpid(), SIGKILL);
	return 0;
}

/* The namespace lives, held by a process, say: the change is undone there, and not in what has its name now. */
/* The first `ip netns add` makes its folder a mount, which stays. */
static int before_with_ip_netns(void **state)
{
	sh("ip netns add lost && ip netns del lost");
	return before(state);
}

static void a_namespace_that_lost_its_name(void **state _unused_)
{
	_cleanup_node_ struct node *n = node_new("lost", LOST_PATH), *other = node_new("other", LOST_PATH);
	_cleanup_free_ char *was = NULL, *is = NULL, *others = NULL;
	const char *path = "/proc/sys/net/ipv4/tcp_fin_timeout";
	struct trial t;

	sh("ip netns add lost");
	assert_int_equal(node_open(n, NULL), 0); /* holds it */
	assert_int_equal(node_read(n, path, &was), 0);
	assert_string_not_equal(was, "33");
	assert_int_equal(trial_make(&t), 0);
	assert_int_equal(trial_begin(&t, loses_the_name), 0);
	assert_int_equal(trial_end(&t), 0);
	assert_int_equal(node_read(n, path, &is), 0);
	assert_string_equal(is, was);
	assert_int_equal(node_open(other, NULL), 0);
	assert_true(other->netns_ino != n->netns_ino);
	assert_int_equal(node_read(other, path, &others), 0);
	assert_string_equal(others, was);
	trial_drop(&t);
	journal_volatile_root = "/run/muster";
	journal_durable_root = "/var/lib/muster";
	sh("ip netns del lost");
}

int main(int argc, char **argv)
{
#define WAY(f) cmocka_unit_test_setup_teardown(f, before, after)
	const struct CMUnitTest tests[] = {
		WAY(the_end),
		WAY(a_block_that_is_left),
		WAY(an_error_of_the_script),
		WAY(a_stop_condition),
		WAY(the_deadline),
		WAY(a_signal_to_the_command),
		WAY(muster_halt),
		WAY(a_terminal_that_is_closed),
		WAY(the_command_killed),
		WAY(the_engine_killed),
		WAY(the_engine_crashed),
		WAY(the_engine_stopped),
		WAY(the_script_killed),
		WAY(the_guard_killed),
		WAY(the_guard_stopped),
		WAY(the_guard_stopped_before_the_change),
		WAY(engine_and_guard_killed),
		WAY(everybody_killed),
		WAY(a_disk_that_is_full),
		WAY(a_disk_that_fills_up),
		WAY(a_disk_that_is_full_for_the_guard),
		WAY(no_descriptor_for_the_guard),
		cmocka_unit_test_setup_teardown(a_namespace_that_lost_its_name, before_with_ip_netns, after),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (!sandbox_enter()) {
		fprintf(stderr, "not root: no namespaces to be had\n");
		return 1;
	}
	return cmocka_run_group_tests_name("ways out", tests, setup, teardown);
}
