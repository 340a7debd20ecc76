/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is left when everything of ours died at once, and nobody restores: the kernel ends the fault by itself, a little after the
 * drill's deadline; and what stays bears the run's tag, by which it is found when even the journal is gone.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <cmocka.h>

#include "bridge_site.h"
#include "engine/change.h"
#include "engine/units.h"
#include "own_site.h"

#define DEADLINE (2 * NSEC_PER_SEC)

static struct node *far;

static bool passes(void)
{
	struct echo_result e;

	return echo_run(far, "side", "198.18.0.2", 2, 20 * NSEC_PER_MSEC, 200 * NSEC_PER_MSEC, &e, NULL) == 0 && e.received > 0;
}

static void pause_ms(int ms)
{
	(void)poll(NULL, 0, ms);
}

/* @signal to each process of the program; returns how many there are. In this sandbox all are ours. */
static unsigned int to_all_of_ours(int signal)
{
	DIR *d = opendir("/proc");
	unsigned int n = 0;
	struct dirent *e;
	struct stat want, st;

	assert_non_null(d);
	assert_int_equal(stat(MUSTER_BINARY, &want), 0);
	while ((e = readdir(d))) {
		char path[64];
		int64_t pid;

		if (units_int(e->d_name, 2, INT32_MAX, &pid) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
		if (stat(path, &st) < 0 || st.st_ino != want.st_ino || st.st_dev != want.st_dev)
			continue;
		n++;
		if (signal)
			kill((pid_t)pid, signal);
	}
	closedir(d);
	return n;
}

static char *output_of(const char *command)
{
	FILE *p = popen(command, "r");
	char *text = NULL;

	assert_non_null(p);
	assert_int_equal(fd_read_all(fileno(p), 1 << 20, &text, NULL), 0);
	pclose(p);
	return text;
}

static void the_kernel_ends_what_nobody_can(void **state)
{
	_cleanup_free_ char *hot = NULL, *stray = NULL, *after = NULL;
	struct err err = {0};
	nsec_t start, passed;
	pid_t pid;

	(void)state;
	NEED_SANDBOX();
	far = node_new("far", "/run/netns/muster-own-lan");
	assert_int_equal(node_open(far, &err), 0);
	assert_true(passes());
	pid = fork();
	if (pid == 0) {
		char out[96], file[256];
		int fd;

		snprintf(out, sizeof(out), "%s/run", scratch);
		snprintf(file, sizeof(file), "%s/drills/own.lua", TEST_DATA);
		fd = open("/dev/null", O_RDWR);
		dup2(fd, 1);
		dup2(fd, 2);
		execl(MUSTER_BINARY, "muster", "run", file, "--lab", "none", "--out", out, "--set", "node=side", "--set", "hold=1h",
			"--set", "deadline=2s", NULL);
		_exit(127);
	}
	start = now_ns();
	while (passes())
		if (now_ns() - start > 60 * NSEC_PER_SEC)
			fail_msg("the fault was not made");
	/* stopped first, so that none of them sees another die */
	assert_true(to_all_of_ours(SIGSTOP) >= 4); /* command, guard, engine, script */
	(void)to_all_of_ours(SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	while (to_all_of_ours(0)) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		pause_ms(5);
	}
	assert_false(passes());
	while (!passes()) {
		if (now_ns() - start > DEADLINE + CHANGE_DEADLINE_MARGIN + 30 * NSEC_PER_SEC)
			fail_msg("nobody ended the fault");
		pause_ms(20);
	}
	passed = now_ns();
	print_message("    passed again %.1f s after the start, deadline 2 s, margin 10 s\n", (double)(passed - start) / 1e9);
	assert_true(passed - start >= CHANGE_DEADLINE_MARGIN);
	/* nobody has undone it: it is there, and lets pass; the journal knows it */
	sh("tc -n muster-own-lan filter show dev side ingress | grep -q muster:own-");
	hot = output_of(MUSTER_BINARY " status");
	assert_non_null(strstr(hot, "hot"));
	assert_null(strstr(hot, "stray"));
	/* the journal is lost */
	sh("rm -r /run/muster/own-*");
	stray = output_of(MUSTER_BINARY " status; " MUSTER_BINARY " doctor");
	if (!strstr(stray, "stray: tc filter on side ingress (muster-own-lan) of run own-") ||
		!strstr(stray, "tc filter on side egress of run own-"))
		fail_msg("the strays are not found: %s", stray);
	/* the command it names removes it */
	sh(MUSTER_BINARY " status | sed -n 's/^stray: .*hot: \\(.*\\) removes it$/\\1/p' | sh -e");
	after = output_of(MUSTER_BINARY " status");
	assert_null(strstr(after, "stray"));
	sh("! tc -n muster-own-lan filter show dev side ingress | grep -q muster");
	node_free(far);
}

/* A fault that the kernel ended before the drill did: the report says so. */
static void the_report_says_what_expired(void **state)
{
	_cleanup_free_ char *command = strf(MUSTER_BINARY " run %s/drills/own.lua --lab none --out %s/expired --set node=side "
					    "--set ttl=100ms --set hold=1s >/dev/null 2>&1", TEST_DATA, scratch),
			    *path = strf("%s/expired/report.json", scratch);
	_cleanup_json_ json_t *report = NULL;
	const json_t *fault;
	int code;

	(void)state;
	NEED_SANDBOX();
	code = WEXITSTATUS(system(command));
	report = json_load_file(path, 0, NULL);
	if (code != 7) { /* nobody talked there: it proves nothing */
		json_dumpf(json_object_get(report, "residue"), stderr, 0);
		json_dumpf(json_object_get(report, "errors"), stderr, 0);
	}
	assert_int_equal(code, 7);
	fault = json_array_get(json_object_get(report, "faults"), 0);
	assert_true(json_is_true(json_object_get(json_object_get(fault, "measured"), "expired")));
	assert_non_null(strstr(json_string_value(json_object_get(fault, "text")), "the kernel ended it before it was lifted"));
	sh("grep -q 'the kernel ended it before it was lifted' %s/expired/report.md %s/expired/report.html", scratch, scratch);
	assert_true(json_is_true(json_object_get(json_object_get(report, "residue"), "clean")));
}

/* Each of the kinds of stray, on the host and in a namespace; what a known run has is none. */
static void strays_of_every_kind(void **state)
{
	_cleanup_free_ char *text = NULL, *known = NULL, *after = NULL;
	bool sets;

	(void)state;
	NEED_SANDBOX();
	sh("ip link add s0 type veth peer name s1 && ip link set s0 alias muster:gone-1 && ip link set s1 alias 'muster is here'");
	sets = system("ip netns exec muster-own-wan ipset create muster-0123456789ab-00000001 hash:ip 2>/dev/null") == 0;
	text = output_of(MUSTER_BINARY " status");
	if (!strstr(text, "stray: link s0 (host) of run gone-1, which is neither live nor hot: ip link del s0 removes it"))
		fail_msg("%s", text);
	assert_null(strstr(text, "s1"));
	if (sets)
		assert_non_null(strstr(text, "ip netns exec muster-own-wan ipset destroy muster-0123456789ab-00000001"));
	else
		print_message("SKIP: %s: this kernel or machine has no ipset\n", __func__);
	sh("mkdir -p /run/muster/gone-1 && touch /run/muster/gone-1/undo.journal");
	known = output_of(MUSTER_BINARY " status");
	assert_null(strstr(known, "link s0"));
	sh("rm -r /run/muster/gone-1; ip link del s0");
	if (sets)
		sh("ip netns exec muster-own-wan ipset destroy muster-0123456789ab-00000001");
	after = output_of(MUSTER_BINARY " status");
	assert_null(strstr(after, "stray"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strays_of_every_kind),
		cmocka_unit_test(the_report_says_what_expired),
		cmocka_unit_test(the_kernel_ends_what_nobody_can),
	};

	here = sandbox_enter();
	return cmocka_run_group_tests_name("expiry", tests, own_setup, own_teardown);
}
