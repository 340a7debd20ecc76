/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Settings of running processes: limits, affinity and NUMA of a small service of the test's own, which makes threads and children
 * when it is told to. What was set is read back with prlimit(1), taskset(1) and out of /proc.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "netns_node.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "baseline/cpus.h"
#include "baseline/tasks.h"
#include "engine/clock.h"

#define NAME "drillservice"

/* ── the service ──────────────────────────────────────────────────────────────────────────── */

struct service {
	pid_t pid;
	int to, from; /* commands and answers */
};

static int service_from = -1;

static void *idle(void *arg _unused_)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);

	if (write(service_from, &tid, sizeof(tid)) == sizeof(tid))
		for (;;)
			pause();
	return NULL;
}

/* t: a thread; f: a child; m: 8 MiB of memory, touched. Each is answered with a number. */
static _Noreturn void service_main(int to, int from)
{
	char c;

	service_from = from;
	prctl(PR_SET_NAME, NAME);
	while (read(to, &c, 1) == 1) {
		pthread_t thread;
		pid_t pid = 0;

		if (c == 't') {
			if (pthread_create(&thread, NULL, idle, NULL) != 0)
				_exit(1);
			continue; /* the thread answers */
		}
		if (c == 'f') {
			pid = fork();
			if (pid == 0) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				for (;;)
					pause();
			}
		}
		if (c == 'm') {
			char *p = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			memset(p, 1, 8 << 20);
		}
		if (write(from, &pid, sizeof(pid)) != sizeof(pid))
			_exit(1);
	}
	_exit(0);
}

static void service_start(struct service *s, const struct node *n)
{
	int to[2], from[2];

	assert_int_equal(pipe2(to, O_CLOEXEC), 0);
	assert_int_equal(pipe2(from, O_CLOEXEC), 0);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (s->pid == 0) {
		struct node_visit v = {.fd = -1};

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		if (n && node_enter(n, &v, NULL) < 0)
			_exit(1);
		service_main(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	s->to = to[1];
	s->from = from[0];
}

static pid_t tell(struct service *s, char what)
{
	pid_t answer = -1;

	assert_int_equal(write(s->to, &what, 1), 1);
	assert_int_equal(read(s->from, &answer, sizeof(answer)), sizeof(answer));
	return answer;
}

static void service_stop(struct service *s)
{
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	close(s->to);
	close(s->from);
}

/* ── the fixture ──────────────────────────────────────────────────────────────────────────── */

struct fixture {
	struct netns_node net;
	struct lab_journal journal;
	struct service service;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	if (!netns_node_make(&f->net, "node"))
		return 0;
	lab_journal_make(&f->journal);
	service_start(&f->service, f->net.node);
	(void)tell(&f->service, 'm'); /* it runs, and is called as it should be */
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->net.node) {
		service_stop(&f->service);
		lab_journal_drop(&f->journal);
		netns_node_drop(&f->net);
	}
	free(f);
	return 0;
}

#define NEED_ROOT(f)                                                                                                       \
	do {                                                                                                               \
		if (!(f)->net.node)                                                                                        \
			SKIP("network namespaces need root");                                                              \
	} while (0)

/* "777" by prlimit's own words */
static void assert_nofile(const struct fixture *f, pid_t pid, const char *soft)
{
	_cleanup_free_ char *cmd = strf("prlimit --pid %d --nofile --output SOFT --noheadings --raw", (int)pid), *said = run_in(f->net.node, cmd);

	said[strcspn(said, " \n")] = '\0';
	assert_string_equal(said, soft);
}

static char *nofile_now(const struct fixture *f, pid_t pid)
{
	_cleanup_free_ char *cmd = strf("prlimit --pid %d --nofile --output SOFT --noheadings --raw", (int)pid);
	char *said = run_in(f->net.node, cmd);

	said[strcspn(said, " \n")] = '\0';
	return said;
}

/* "0-1" by taskset's own words: "pid 5's current affinity list: 0-1" */
static char *cpus_now(const struct fixture *f, pid_t tid)
{
	_cleanup_free_ char *cmd = strf("taskset -cp %d | sed 's/^.*: //'", (int)tid);
	char *said = run_in(f->net.node, cmd);

	said[strcspn(said, "\n")] = '\0';
	return said;
}

static void assert_cpus(const struct fixture *f, pid_t tid, const char *want)
{
	_cleanup_free_ char *now = cpus_now(f, tid);

	assert_string_equal(now, want);
}

/* Two processors at least, or nothing can be bound to one of them */
static bool many_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 1;
}

/* ── limits ───────────────────────────────────────────────────────────────────────────────── */

static void limits_are_set_and_put_back(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *before = NULL;
	_cleanup_json_ json_t *items = NULL;
	struct change c;
	struct err err;
	pid_t later;
	int r;

	NEED_ROOT(f);
	before = nofile_now(f, f->service.pid);
	r = lab_apply(&f->journal, "set.limits", f->net.node, NULL,
		json_pack("{s:s, s:s, s:{s:s}}", "node", "node", "process", NAME, "limits", "nofile", "777"), &c, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	assert_nofile(f, f->service.pid, "777");
	assert_int_equal(c.ops->look(f->net.node, c.args, c.prior, &items, &err), 0);
	assert_int_equal(json_array_size(items), 1);
	assert_true(json_is_true(json_object_get(json_array_get(items, 0), "holds")));
	/* a child that comes later inherits, and is put back too */
	later = tell(&f->service, 'f');
	assert_nofile(f, later, "777");
	assert_int_equal(c.ops->verify(f->net.node, c.args, c.prior, &err), 1);
	assert_int_equal(change_undo(f->journal.j, &c, &err), 0);
	assert_nofile(f, f->service.pid, before);
	assert_nofile(f, later, before);
	change_drop(&c);
}

static void a_third_partys_limit_stays(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *cmd = NULL, *said = NULL;
	_cleanup_json_ json_t *items = NULL;
	struct change c;
	struct err err;

	NEED_ROOT(f);
	assert_int_equal(lab_apply(&f->journal, "set.limits", f->net.node, NULL,
				 json_pack("{s:s, s:i, s:{s:i}}", "node", "node", "pid", (int)f->service.pid, "limits", "nofile", 700), &c,
				 &err),
		0);
	cmd = strf("prlimit --pid %d --nofile=555:", (int)f->service.pid);
	said = run_in(f->net.node, cmd);
	assert_int_equal(c.ops->look(f->net.node, c.args, c.prior, &items, &err), 0);
	assert_true(json_is_false(json_object_get(json_array_get(items, 0), "holds")));
	assert_int_equal(change_undo(f->journal.j, &c, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.text, "555"));
	assert_nofile(f, f->service.pid, "555");
	change_drop(&c);
}

/* A process of the same name that is not in the namespace is somebody else's. */
static void others_are_left_alone(void **state)
{
	struct fixture *f = *state;
	struct service other;
	_cleanup_free_ char *before = NULL, *cmd = NULL, *said = NULL;
	struct change c;
	struct err err;

	NEED_ROOT(f);
	service_start(&other, NULL);
	(void)tell(&other, 'm');
	before = nofile_now(f, other.pid);
	assert_int_equal(lab_apply(&f->journal, "set.limits", f->net.node, NULL,
				 json_pack("{s:s, s:s, s:{s:s}}", "node", "node", "process", NAME, "limits", "nofile", "778"), &c, &err),
		0);
	assert_nofile(f, f->service.pid, "778");
	assert_nofile(f, other.pid, before);
	/* nor one that was started anew since: it has nothing of ours, even if it has the same */
	service_stop(&f->service);
	service_start(&f->service, f->net.node);
	(void)tell(&f->service, 'm');
	cmd = strf("prlimit --pid %d --nofile=778:", (int)f->service.pid);
	said = run_in(f->net.node, cmd);
	assert_string_equal(said, "");
	assert_int_equal(change_undo(f->journal.j, &c, &err), 0);
	assert_nofile(f, f->service.pid, "778");
	service_stop(&other);
	change_drop(&c);
}

static void what_does_not_run_is_said(void **state)
{
	struct fixture *f = *state;
	struct change c;
	struct err err;

	NEED_ROOT(f);
	assert_int_equal(lab_apply(&f->journal, "set.limits", f->net.node, NULL,
				 json_pack("{s:s, s:s, s:{s:s}}", "node", "node", "process", "nosuchservice", "limits", "nofile", "1"), &c, &err),
		-EOPNOTSUPP);
	assert_non_null(strstr(err.text, "no process called nosuchservice runs there"));
	change_drop(&c);
	assert_int_equal(lab_apply(&f->journal, "set.affinity", f->net.node, NULL,
				 json_pack("{s:s, s:s, s:s}", "node", "node", "process", NAME, "cpus", "1000"), &c, &err),
		-EOPNOTSUPP);
	assert_non_null(strstr(err.text, "CPU 1000 is not there"));
	change_drop(&c);
	assert_int_equal(lab_apply(&f->journal, "set.numa", f->net.node, NULL,
				 json_pack("{s:s, s:s, s:i}", "node", "node", "process", NAME, "numa_node", 77), &c, &err),
		-EOPNOTSUPP);
	assert_true(strstr(err.text, "NUMA node 77 is not there") || strstr(err.text, "knows of no NUMA nodes"));
	change_drop(&c);
	/* a limit beyond what the machine allows */
	assert_int_equal(lab_apply(&f->journal, "set.limits", f->net.node, NULL,
				 json_pack("{s:s, s:s, s:{s:s}}", "node", "node", "process", NAME, "limits", "nofile", "2000000000"), &c, &err),
		-EOPNOTSUPP);
	assert_non_null(strstr(err.text, "fs.nr_open"));
	change_drop(&c);
}

/* ── affinity ─────────────────────────────────────────────────────────────────────────────── */

static void every_thread_is_bound(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *before = NULL;
	pid_t tids[4], later, child;
	struct change c;
	struct err err;

	NEED_ROOT(f);
	if (!many_cpus())
		SKIP("there is one processor");
	for (size_t i = 0; i < ARRAY_SIZE(tids); i++)
		tids[i] = tell(&f->service, 't');
	before = cpus_now(f, f->service.pid);
	assert_int_equal(lab_apply(&f->journal, "set.affinity", f->net.node, NULL,
				 json_pack("{s:s, s:s, s:s}", "node", "node", "process", NAME, "cpus", "0"), &c, &err),
		0);
	assert_cpus(f, f->service.pid, "0");
	for (size_t i = 0; i < ARRAY_SIZE(tids); i++)
		assert_cpus(f, tids[i], "0");
	later = tell(&f->service, 't');
	child = tell(&f->service, 'f');
	assert_cpus(f, later, "0");
	assert_cpus(f, child, "0");
	/* undone by somebody who has the record and nothing else */
	{
		struct restore_result res;

		assert_int_equal(journal_play(f->journal.j, &res, &err), 0);
		assert_int_equal(res.undone, 1);
		restore_result_clear(&res);
	}
	assert_cpus(f, f->service.pid, before);
	for (size_t i = 0; i < ARRAY_SIZE(tids); i++)
		assert_cpus(f, tids[i], before);
	assert_cpus(f, later, before);
	assert_cpus(f, child, before);
	change_drop(&c);
}

/* One thread that was bound on its own keeps what it had, and gets it back. */
static void each_has_its_own_before(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *before = NULL;
	struct change c;
	struct err err;
	pid_t tid;
	cpu_set_t one;

	NEED_ROOT(f);
	if (!many_cpus())
		SKIP("there is one processor");
	tid = tell(&f->service, 't');
	CPU_ZERO(&one);
	CPU_SET(1, &one);
	assert_int_equal(sched_setaffinity(tid, sizeof(one), &one), 0);
	before = cpus_now(f, f->service.pid);
	assert_int_equal(lab_apply(&f->journal, "set.affinity", f->net.node, NULL,
				 json_pack("{s:s, s:s, s:s}", "node", "node", "process", NAME, "cpus", "0"), &c, &err),
		0);
	assert_cpus(f, tid, "0");
	assert_int_equal(change_undo(f->journal.j, &c, &err), 0);
	assert_cpus(f, tid, "1");
	assert_cpus(f, f->service.pid, before);
	change_drop(&c);
}

static void an_ended_service_is_undone(void **state)
{
	struct fixture *f = *state;
	struct change c;
	struct err err;

	NEED_ROOT(f);
	assert_int_equal(lab_apply(&f->journal, "set.affinity", f->net.node, NULL,
				 json_pack("{s:s, s:s, s:s}", "node", "node", "process", NAME, "cpus", "0"), &c, &err),
		0);
	service_stop(&f->service);
	assert_int_equal(change_undo(f->journal.j, &c, &err), 0);
	service_start(&f->service, f->net.node);
	change_drop(&c);
}

/* The cpuset of its cgroup allows less than is asked for: the kernel would say nothing. */
static void a_cpuset_is_told(void **state)
{
	static const char root[] = "/sys/fs/cgroup/cpuset";
	struct fixture *f = *state;
	_cleanup_free_ char *dir = NULL, *cmd = NULL, *before = NULL;
	struct change c;
	struct err err;
	int code;

	NEED_ROOT(f);
	if (!many_cpus())
		SKIP("there is one processor");
	if (access("/sys/fs/cgroup/cpuset/cpuset.cpus", F_OK) < 0)
		SKIP("no cgroup of version 1 with cpusets here");
	dir = strf("%s/muster-test-%d", root, (int)getpid());
	cmd = strf("mkdir %s && echo 0 >%s/cpuset.cpus && echo 0 >%s/cpuset.mems && echo %d >%s/tasks", dir, dir, dir, (int)f->service.pid, dir);
	assert_int_equal(system(cmd), 0);
	before = cpus_now(f, f->service.pid);
	code = lab_apply(&f->journal, "set.affinity", f->net.node, NULL,
		json_pack("{s:s, s:s, s:s}", "node", "node", "process", NAME, "cpus", "0-1"), &c, &err);
	assert_cpus(f, f->service.pid, before);
	service_stop(&f->service);
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; rmdir(dir) < 0;) {
		assert_true(errno == EBUSY && now_ns() < until); /* until the kernel has seen it off */
		(void)poll(NULL, 0, 5);
	}
	service_start(&f->service, f->net.node);
	/* it asked for what it has, or for what it cannot have */
	assert_string_equal(before, "0");
	assert_int_equal(code, -ERANGE);
	assert_non_null(strstr(err.text, "the kernel made 0 of 0-1; put back to 0"));
	assert_non_null(strstr(err.hint, "cpuset"));
	change_drop(&c);
}

/* ── NUMA ─────────────────────────────────────────────────────────────────────────────────── */

/* Pages of the large mapping on @node, in the kernel's words: "N1=2048" */
static unsigned long pages_on(const struct fixture *f, int node)
{
	_cleanup_free_ char *cmd = strf("tr ' ' '\\n' </proc/%d/numa_maps | awk -F= '$1 == \"N%d\" {n += $2} END {print n + 0}'",
				    (int)f->service.pid, node),
			    *said = run_in(f->net.node, cmd);

	return strtoul(said, NULL, 10);
}

static void memory_follows_and_comes_back(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *cpus = NULL;
	unsigned long on0, on1, had;
	struct change c;
	struct err err;
	int from, to;

	NEED_ROOT(f);
	if (access("/sys/devices/system/node/node1", F_OK) < 0)
		SKIP("this machine has one NUMA node");
	on0 = pages_on(f, 0);
	on1 = pages_on(f, 1);
	from = on0 > on1 ? 0 : 1; /* where most of its 8 MiB is: it may have been moved while it wrote to them */
	to = 1 - from;
	had = MAX(on0, on1);
	cpus = cpus_now(f, f->service.pid);
	assert_true(on0 + on1 >= 2048);
	if (lab_apply(&f->journal, "set.numa", f->net.node, NULL,
		    json_pack("{s:s, s:s, s:i}", "node", "node", "process", NAME, "numa_node", to), &c, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(pages_on(f, to) >= 2048);
	assert_true(pages_on(f, from) + 1024 <= had);
	{
		_cleanup_free_ char *path = strf("/sys/devices/system/node/node%d/cpulist", to), *list = NULL;

		assert_int_equal(node_read(f->net.node, path, &list), 0);
		assert_cpus(f, f->service.pid, list);
	}
	/* what it takes from now on is of the node too */
	on1 = pages_on(f, to);
	(void)tell(&f->service, 'm');
	assert_true(pages_on(f, to) >= on1 + 2048);
	if (change_undo(f->journal.j, &c, &err) != 0)
		fail_msg("%s", err.text);
	assert_true(pages_on(f, from) + 256 >= had);
	assert_cpus(f, f->service.pid, cpus);
	change_drop(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(limits_are_set_and_put_back, setup, teardown),
		cmocka_unit_test_setup_teardown(a_third_partys_limit_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(others_are_left_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(what_does_not_run_is_said, setup, teardown),
		cmocka_unit_test_setup_teardown(every_thread_is_bound, setup, teardown),
		cmocka_unit_test_setup_teardown(each_has_its_own_before, setup, teardown),
		cmocka_unit_test_setup_teardown(an_ended_service_is_undone, setup, teardown),
		cmocka_unit_test_setup_teardown(a_cpuset_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(memory_follows_and_comes_back, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
