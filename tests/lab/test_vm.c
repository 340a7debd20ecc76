/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Boots the microVM for real and looks at what comes out, in what state the host is left, and what happens when either side
 * dies. On an emulated processor a boot takes 3 to 15 s. Skipped where the microVM is not to be had, and inside of it.
 *
 * wrap: live_event live_note live_tick
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/str.h"
#include "lab/vm.h"

/* ── the live view, recorded ────────────────────────────────────────────────────────────────── */

static json_t *events;
static unsigned int ticks;

void __wrap_live_event(struct live *l, const json_t *event);
void __wrap_live_note(struct live *l, const char *text);
void __wrap_live_tick(struct live *l);

void __wrap_live_event(struct live *l _unused_, const json_t *event)
{
	json_array_append_new(events, json_deep_copy(event));
}

void __wrap_live_note(struct live *l _unused_, const char *text)
{
	print_message("note: %s\n", text);
}

void __wrap_live_tick(struct live *l _unused_)
{
	ticks++;
}

static struct live *const some_live = (struct live *)&events;

/* ── helpers ────────────────────────────────────────────────────────────────────────────────── */

static char out_dir[] = "/tmp/test_vm.XXXXXX";

static bool want_vm(void)
{
	struct err err = {0};

	if (getenv("MUSTER_VM")) {
		print_message("skip: this is the microVM\n");
		return false;
	}
	if (vm_available(&err) < 0) {
		print_message("skip: %s (%s)\n", err.text, err.hint);
		return false;
	}
	return true;
}

static int open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static int capture(const char *name)
{
	_cleanup_free_ char *path = strf("%s/%s", out_dir, name);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static char *captured(int fd, size_t *ret_len)
{
	char *text = NULL;

	assert_true(lseek(fd, 0, SEEK_SET) == 0);
	assert_int_equal(fd_read_all(fd, 64 << 20, &text, ret_len), 0);
	close(fd);
	return text;
}

static int set_up(void **state _unused_)
{
	events = json_array();
	assert_non_null(mkdtemp(out_dir));
	return 0;
}

static int tear_down(void **state _unused_)
{
	_cleanup_free_ char *command = strf("rm -r %s", out_dir);

	json_decref(events);
	return system(command);
}

/* ── the tests ──────────────────────────────────────────────────────────────────────────────── */

static void a_job_runs_and_everything_comes_out(void **state _unused_)
{
	static const char script[] =
		"set -e\n"
		"echo 'out 1'; echo 'err 1' >&2\n"
		"echo '{\"t\":1,\"kind\":\"log\",\"text\":\"an event\"}' >&3\n"
		"echo 'not an event' >&3\n"
		"printf '{\"t\":2,\"kind\":\"log\",\"text\":\"in two' >&3; printf ' parts\"}\\n' >&3\n"
		"[ -z \"$(cat)\" ]\n"				     /* standard input is empty */
		"[ $(id -u) = 0 ]; [ \"$MUSTER_VM\" = 1 ]; [ \"$MUSTER_TEST\" = \"it's passed on\" ]\n"
		"echo data >\"$1/file\"; mkdir \"$1/dir\"\n"	     /* the shared folder */
		"echo gone >/etc/muster-test; echo gone >/tmp/muster-test-vm\n" /* the rest is forgotten */
		"[ -z \"$(ls -A /var/lib/muster)\" ]\n"
		"modprobe ip_vs; [ -e /proc/net/ip_vs ]\n"
		"tc qdisc add dev lo root netem delay 1ms\n"
		"[ -e /sys/kernel/btf/vmlinux ]; [ -e /sys/fs/cgroup/cgroup.controllers ]\n"
		"ip netns add x; ip netns exec x true\n"
		"head -c 3000000 /dev/zero | tr '\\0' x\n"
		/* a job that leaves somebody behind still ends: many, who take their time to let go of its descriptors */
		"i=0; while [ $i -lt 60 ]; do (trap '' TERM; exec sleep 1000) & i=$((i + 1)); done\n"
		"echo; echo 'out 2'; printf 'err 2, no newline' >&2; exit 7\n";
	char *const argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, (char *)"sh", out_dir, NULL};
	struct vm_job job = {.argv = argv, .out_dir = out_dir, .timeout_s = 100, .live = some_live};
	_cleanup_free_ char *out = NULL, *err_text = NULL, *data = NULL, *path = strf("%s/file", out_dir);
	int status = -1, fds, r;
	struct err err = {0};
	size_t len;

	if (!want_vm())
		skip();
	setenv("MUSTER_TEST", "it's passed on", 1);
	/* the first run may fill the cache: not what is counted below */
	job.stdout_fd = capture("stdout");
	job.stderr_fd = capture("stderr");
	fds = open_fds();
	r = vm_run(&job, &status, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	assert_int_equal(open_fds(), fds);
	out = captured(job.stdout_fd, &len);
	err_text = captured(job.stderr_fd, NULL);
	assert_string_equal(err_text, "err 1\nerr 2, no newline");
	assert_int_equal(status, 7);
	assert_int_equal(len, 6 + 3000000 + 1 + 6);
	assert_memory_equal(out, "out 1\nxxx", 9);
	assert_string_equal(out + len - 9, "xx\nout 2\n");
	assert_int_equal(json_array_size(events), 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(events, 0), "text")), "an event");
	assert_string_equal(json_string_value(json_object_get(json_array_get(events, 1), "text")), "in two parts");
	assert_true(ticks > 3);
	assert_int_equal(file_read(path, 100, &data, NULL), 0);
	assert_string_equal(data, "data\n");
	assert_int_equal(access("/etc/muster-test", F_OK), -1);
	assert_int_equal(access("/tmp/muster-test-vm", F_OK), -1);
}

/* One child of @pid; 0: it has none yet */
static pid_t child_of(pid_t pid)
{
	_cleanup_free_ char *path = strf("/proc/%d/task/%d/children", (int)pid, (int)pid), *text = NULL;

	return file_read(path, 4096, &text, NULL) == 0 ? (pid_t)atoi(text) : 0;
}

/* A muster of its own that runs @script; returns its pid once the job has said "ready" */
static pid_t start_muster(const char *script, int *ret_out)
{
	char *const argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};
	struct vm_job job = {.argv = argv, .timeout_s = 100, .stderr_fd = -1};
	char said[16] = "";
	int p[2], status, r;
	pid_t pid;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		job.stdout_fd = p[1];
		r = vm_run(&job, &status, NULL);
		_exit(r == -EINTR ? 250 : r < 0 ? 251 : status);
	}
	close(p[1]);
	/* ends with the job's first line, or with the process: vm_run() has a deadline */
	for (size_t n = 0; n < 6; n++)
		if (read(p[0], said + n, 1) != 1)
			break;
	assert_string_equal(said, "ready\n");
	*ret_out = p[0];
	return pid;
}

static int exit_status(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void assert_ends(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 10000), 1);
	close(pidfd);
}

static void the_first_signal_goes_to_the_job(void **state _unused_)
{
	pid_t pid;
	int out;

	if (!want_vm())
		skip();
	pid = start_muster("trap 'exit 5' TERM; echo ready; while :; do sleep 0.2; done", &out);
	kill(pid, SIGTERM);
	assert_int_equal(exit_status(pid), 5);
	close(out);
}

static void the_second_signal_kills_the_machine(void **state _unused_)
{
	char said[4] = "";
	pid_t pid, qemu;
	int out, pidfd;

	if (!want_vm())
		skip();
	pid = start_muster("trap 'echo got' INT; echo ready; while :; do sleep 0.2; done", &out);
	qemu = child_of(pid);
	assert_true(qemu > 0);
	pidfd = (int)syscall(SYS_pidfd_open, qemu, 0);
	assert_true(pidfd >= 0);
	kill(pid, SIGINT);
	assert_int_equal(read(out, said, 4), 4); /* the job has seen it, and goes on */
	kill(pid, SIGINT);
	assert_int_equal(exit_status(pid), 250);
	assert_ends(pidfd);
	close(out);
}

static void a_killed_muster_takes_the_machine_along(void **state _unused_)
{
	pid_t pid, qemu;
	int out, pidfd;

	if (!want_vm())
		skip();
	pid = start_muster("echo ready; sleep 1000", &out);
	qemu = child_of(pid);
	assert_true(qemu > 0);
	pidfd = (int)syscall(SYS_pidfd_open, qemu, 0);
	assert_true(pidfd >= 0);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_ends(pidfd);
	close(out);
}

static void a_machine_that_dies_is_an_error_with_its_reason(void **state _unused_)
{
	char *const argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)"echo c >/proc/sysrq-trigger; sleep 100", NULL};
	const struct vm_job job = {.argv = argv, .out_dir = out_dir, .timeout_s = 100, .stdout_fd = -1, .stderr_fd = -1};
	_cleanup_free_ char *path = strf("%s/console.log", out_dir), *log = NULL;
	struct err err = {0};
	int status = -1;

	if (!want_vm())
		skip();
	assert_int_equal(vm_run(&job, &status, &err), -EIO);
	assert_int_equal(status, -1);
	assert_non_null(strstr(err.text, "Kernel panic - not syncing: sysrq triggered crash"));
	assert_non_null(strstr(err.hint, path));
	assert_int_equal(file_read(path, 1 << 20, &log, NULL), 0);
	assert_non_null(strstr(log, "Call Trace"));
}

static void a_job_that_does_not_end_is_timed_out(void **state _unused_)
{
	char *const argv[] = {(char *)"/bin/sleep", (char *)"1000", NULL};
	const struct vm_job job = {.argv = argv, .timeout_s = 1, .stdout_fd = -1, .stderr_fd = -1};
	nsec_t begin = now_ns();
	struct err err = {0};
	int status = -1;

	if (!want_vm())
		skip();
	assert_int_equal(vm_run(&job, &status, &err), -ETIMEDOUT);
	assert_true(now_ns() - begin < 10 * NSEC_PER_SEC);
	assert_int_equal(child_of(getpid()), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_job_runs_and_everything_comes_out),
		cmocka_unit_test(the_first_signal_goes_to_the_job),
		cmocka_unit_test(the_second_signal_kills_the_machine),
		cmocka_unit_test(a_killed_muster_takes_the_machine_along),
		cmocka_unit_test(a_machine_that_dies_is_an_error_with_its_reason),
		cmocka_unit_test(a_job_that_does_not_end_is_timed_out),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
