/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * No memory left: the kernel takes the engine, and neither the guard nor what is drilled; the guard undoes. What each
 * process of a drill is worth to the kernel is read; then a whole drill is put into a memory cgroup that a glutton
 * fills.
 */
#include "tests/lab/drill.h"

#include <sys/mman.h>

#include "tests/lab/bridge_site.h"

#define GROUP	  "/run/cgroup/muster-oom-test"
#define ROOM	  (48ull << 20) /* between what the drill uses and the limit */
#define GLUTTON	  (1024ull << 20)

static const char *limit_file, *usage_file;

static int score_of(pid_t pid)
{
	_cleanup_free_ char *path = strf("/proc/%d/oom_score_adj", (int)pid), *text = NULL;

	assert_int_equal(file_read(path, 32, &text, NULL), 0);
	return atoi(text);
}

/* Can this process do it at all? */
static bool may_lower(void)
{
	return file_write("/proc/self/oom_score_adj", "-1", 2) == 0;
}

/* A drill whose processes are as they should be; returns the guard's score. */
static int scores_of_a_drill(void)
{
	_cleanup_node_ struct node *server = node_new("server", "/run/netns/muster-pair-server");
	_cleanup_free_ pid_t *pids = NULL;
	int ours = score_of(getpid()), guard;
	struct err err = {0};
	struct drill d;
	size_t n;

	start(&d, "drills/pair-overdue.lua", "--set", "deadline=2m", NULL);
	await_line(&d, "\"fault\"", "\"applied\"");
	assert_int_equal(score_of(d.pid), ours);
	assert_int_equal(score_of(process_of(&d, "script")), ours);
	assert_int_equal(score_of(process_of(&d, "engine")), MAX(ours, 800));
	guard = score_of(process_of(&d, "guard"));
	assert_int_equal(node_open(server, &err), 0);
	assert_int_equal(node_pids(server, &pids, &n, &err), 0);
	assert_true(n > 0);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(score_of(pids[i]), ours);
	kill(d.pid, SIGINT);
	expect(&d, 4, "halted");
	done(&d);
	assert_nothing_left();
	return guard;
}

static void who_is_taken_first(void **state _unused_)
{
	int guard = scores_of_a_drill();

	if (guard == -1000)
		return;
	assert_int_equal(guard, score_of(getpid()));
	if (!may_lower())
		SKIP("no privilege to lower oom_score_adj here (CAP_SYS_RESOURCE): the guard's stays %d", guard);
	fail_msg("the guard's is %d", guard);
}

/* A memory cgroup, of whichever version */
static bool make_group(void)
{
	(void)mkdir("/run/cgroup", 0755); /* the groups in it are the machine's, and so is one that a test left that was cut off */
	if (mount("none", "/run/cgroup", "cgroup", 0, "memory") == 0) {
		limit_file = GROUP "/memory.limit_in_bytes";
		usage_file = GROUP "/memory.usage_in_bytes";
	} else if (mount("none", "/run/cgroup", "cgroup2", 0, NULL) == 0) {
		(void)file_write("/run/cgroup/cgroup.subtree_control", "+memory", 7);
		limit_file = GROUP "/memory.max";
		usage_file = GROUP "/memory.current";
	} else {
		return false;
	}
	(void)rmdir(GROUP);
	return mkdir(GROUP, 0755) == 0 && access(limit_file, W_OK) == 0;
}

static void drop_group(void)
{
	(void)rmdir(GROUP);
	umount2("/run/cgroup", MNT_DETACH);
}

static void join_group(void)
{
	if (file_write(GROUP "/cgroup.procs", "0", 1) < 0)
		_exit(126);
}

/* Takes memory, in the group, until @pidfd has ended; holds it then. */
static _Noreturn void eat(int pidfd, int full)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	join_group();
	for (size_t taken = 0; taken < GLUTTON && poll(&p, 1, 0) == 0; taken += 1 << 20) {
		char *m = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (m == MAP_FAILED)
			_exit(1);
		for (size_t i = 0; i < 1 << 20; i += 4096)
			m[i] = 1;
	}
	(void)!write(full, "", 1);
	for (;;)
		pause();
}

static void memory_that_is_full(void **state _unused_)
{
	_cleanup_free_ char *used = NULL, *limit = NULL, *log = NULL;
	char path[160], c;
	int full[2], pidfd, status;
	struct pollfd p = {.events = POLLIN};
	struct drill d;
	pid_t glutton;

	if (!make_group()) {
		drop_group();
		SKIP("no memory cgroup to be had here");
	}
	/* what a drill takes; then another in a group of that size: the limit is a thing of the host's that the drill looks at */
	prelude = join_group;
	start(&d, "drills/pair-overdue.lua", "--set", "deadline=2m", NULL);
	await_line(&d, "\"fault\"", "\"applied\"");
	assert_int_equal(file_read(usage_file, 32, &used, NULL), 0);
	kill(d.pid, SIGINT);
	expect(&d, 4, "halted");
	done(&d);
	limit = strf("%llu", strtoull(used, NULL, 10) + ROOM);
	assert_int_equal(file_write(limit_file, limit, strlen(limit)), 0);

	start(&d, "drills/pair-overdue.lua", "--set", "deadline=2m", NULL);
	await_line(&d, "\"fault\"", "\"applied\"");
	prelude = NULL;
	pidfd = (int)syscall(SYS_pidfd_open, process_of(&d, "engine"), 0);
	assert_true(pidfd >= 0);
	assert_int_equal(pipe(full), 0);
	glutton = fork();
	if (glutton == 0)
		eat(pidfd, full[1]);
	close(full[1]);
	p.fd = pidfd;
	assert_int_equal(poll(&p, 1, 60000), 1); /* the kernel has taken it */
	/* first; what it leaves may not be enough, and then the glutton goes too, which is the largest */
	(void)!read(full[0], &c, 1);
	expect(&d, 8, "error");
	snprintf(path, sizeof(path), "%s/timeline.jsonl", d.out);
	assert_int_equal(file_read(path, 1 << 20, &log, NULL), 0);
	assert_non_null(strstr(log, "killed by signal 9"));
	kill(glutton, SIGKILL);
	waitpid(glutton, &status, 0);
	close(full[0]);
	close(pidfd);
	done(&d);
	assert_nothing_left();
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; rmdir(GROUP) < 0 && now_ns() < until; (void)poll(NULL, 0, 10))
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	assert_int_equal(access(GROUP, F_OK), -1);
	drop_group();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_is_taken_first),
		cmocka_unit_test(memory_that_is_full),
	};

	if (!sandbox_enter()) {
		fprintf(stderr, "not root: no namespaces to be had\n");
		return 1;
	}
	return cmocka_run_group_tests_name("no memory", tests, setup, teardown);
}
