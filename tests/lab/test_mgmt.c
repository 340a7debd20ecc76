/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The management-path guard, played by the real program. The sandbox's own network namespace is the host: it has a default route by
 * up0, an operator who came in by adm0, and a link side0 that nobody depends on; the site's nodes are that namespace under other names.
 * The operator's sshd is a process of that name with an established connection, which starts muster as sudo would: without SSH_CONNECTION.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <cmocka.h>

#include "bridge_site.h"
#include "engine/change.h"
#include "engine/mgmt.h"
#include "engine/str.h"
#include "own_site.h"

#define PATIENCE_MS 120000

static unsigned int runs;

/* ── the operator ──────────────────────────────────────────────────────────────────────────── */

enum login { BY_SOCKET, BY_ENVIRONMENT, AT_THE_CONSOLE };

struct played {
	int code;
	char out[128];
	char *text; /* what it printed */
	json_t *report;
};

static void played_drop(struct played *p)
{
	free(p->text);
	json_decref(p->report);
}

/* In a process called sshd, which holds a connection from 192.0.2.1 */
static void accept_operator(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(22)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, to = open("/run/netns/muster-own-mgt", O_RDONLY | O_CLOEXEC);

	inet_pton(AF_INET, "192.0.2.2", &at.sin_addr);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || to < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 1) < 0)
		_exit(120);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fd); /* it would outlive the server for a moment, and hold the port */
		if (setns(to, CLONE_NEWNET) < 0)
			_exit(1);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	if (accept4(fd, NULL, NULL, SOCK_CLOEXEC) < 0)
		_exit(121);
	close(fd);
	close(to);
}

/* `muster VERB tests/drills/own.lua ARGS`, typed by an operator who came in as @login */
static struct played play(enum login login, const char *verb, const char *args)
{
	struct played p = {0};
	_cleanup_free_ char *log = NULL, *command = NULL, *path = NULL;
	int status, fd;
	pid_t pid;

	snprintf(p.out, sizeof(p.out), "%s/run-%u", scratch, runs++);
	log = strf("%s.log", p.out);
	path = strf("%s/report.json", p.out);
	/* a shell between sshd and muster, and its environment; sudo's work is done by env -u */
	command = strf("env -u SSH_CONNECTION -u SSH_CLIENT %s %s %s/drills/own.lua %s%s %s; exit $?", MUSTER_BINARY, verb, TEST_DATA,
		streq(verb, "run") ? "--lab none --out " : "", streq(verb, "run") ? p.out : "", args);
	assert_non_null(command);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_NAME, login == AT_THE_CONSOLE ? "login" : "sshd");
		(void)unsetenv("SSH_CONNECTION");
		(void)unsetenv("SSH_CLIENT");
		if (login == BY_SOCKET)
			accept_operator();
		else if (login == BY_ENVIRONMENT)
			setenv("SSH_CONNECTION", "192.0.2.1 40404 192.0.2.2 22", 1);
		fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fork() == 0) {
			dup2(fd, 1);
			dup2(fd, 2);
			execl("/bin/sh", "sh", "-c", command, NULL);
			_exit(127);
		}
		do {
			pid = wait(&status); /* the operator's end may come first only when this process ends */
		} while (pid > 0 && !WIFEXITED(status));
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 122);
	}
	{
		_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		struct pollfd w = {.fd = pidfd, .events = POLLIN};

		if (poll(&w, 1, PATIENCE_MS) <= 0) {
			kill(pid, SIGKILL);
			fail_msg("muster %s did not end in time", verb);
		}
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	p.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
	if (file_read(log, 1 << 20, &p.text, NULL) < 0)
		fail_msg("the operator did not get in: %d", p.code);
	p.report = json_load_file(path, 0, NULL);
	return p;
}

static void assert_says(const struct played *p, const char *what)
{
	if (!strstr(p->text, what))
		fail_msg("it did not say \"%s\" but:\n%s", what, p->text);
}

static void assert_code(const struct played *p, int code)
{
	if (p->code != code)
		fail_msg("exit %d, wanted %d:\n%s", p->code, code, p->text);
}

/* No filter, no fault in the report, no journal */
static void assert_nothing_changed(const struct played *p)
{
	const json_t *fault;
	size_t i;

	sh("for n in wan:gw mgt:adm lan:side; do ! tc -n muster-own-${n%%:*} qdisc show dev ${n#*:} | grep -q clsact || exit 1; "
	   "ip -n muster-own-${n%%:*} link show ${n#*:} | grep -q 'state UP' || exit 1; done");
	assert_int_equal(system("ls -d /run/muster/own-* >/dev/null 2>&1") != 0, 1);
	assert_true(json_is_true(json_object_get(json_object_get(p->report, "residue"), "clean")));
	json_array_foreach(json_object_get(p->report, "faults"), i, fault)
		assert_true(json_is_null(json_object_get(fault, "applied_ns")));
	assert_int_equal(json_array_size(json_object_get(p->report, "faults")), 0);
}

static void assert_refused(const struct played *p, const char *path)
{
	assert_code(p, 6);
	assert_string_equal(json_string_value(json_object_get(p->report, "verdict")), "refused");
	assert_says(p, path);
	assert_says(p, "unsafe = { \"management-path\" }");
	assert_nothing_changed(p);
}

/* ── tests ─────────────────────────────────────────────────────────────────────────────────── */

static void default_route_is_kept(void **state)
{
	struct played p;

	(void)state;
	NEED_SANDBOX();
	p = play(AT_THE_CONSOLE, "run", "");
	assert_refused(&p, "fault.node_loss on gw is refused: up0 carries the default route by 203.0.113.1 (IPv4)");
	played_drop(&p);
	p = play(AT_THE_CONSOLE, "run", "--set how=cut");
	assert_refused(&p, "up0 carries the default route");
	played_drop(&p);
}

/* The session's device is not the default route's: without a session nothing stands against it. */
static void session_is_found_by_its_socket(void **state)
{
	struct played p;

	(void)state;
	NEED_SANDBOX();
	p = play(BY_SOCKET, "run", "--set node=adm");
	assert_refused(&p, "fault.node_loss on adm is refused: adm0 carries the SSH session from 192.0.2.1");
	played_drop(&p);
	p = play(AT_THE_CONSOLE, "run", "--set node=adm");
	assert_code(&p, 7); /* made; nobody talked there, so it proves nothing */
	played_drop(&p);
}

static void session_is_found_by_an_ancestors_environment(void **state)
{
	struct played p;

	(void)state;
	NEED_SANDBOX();
	p = play(BY_ENVIRONMENT, "run", "--set node=adm");
	assert_refused(&p, "adm0 carries the SSH session from 192.0.2.1");
	played_drop(&p);
}

static void processes_are_kept_whatever_is_waived(void **state)
{
	struct played p;

	(void)state;
	NEED_SANDBOX();
	p = play(BY_SOCKET, "run", "--set node=side --set how=loud");
	assert_refused(&p, "is on the management path and would be killed");
	played_drop(&p);
	/* had it been done, nobody would be left to say so */
	p = play(BY_SOCKET, "run", "--set node=side --set how=loud --set waive=yes");
	assert_code(&p, 6);
	assert_says(&p, "side is this host");
	assert_nothing_changed(&p);
	played_drop(&p);
}

static void other_links_are_free(void **state)
{
	struct played p;

	(void)state;
	NEED_SANDBOX();
	p = play(BY_SOCKET, "run", "--set node=side");
	assert_code(&p, 7);
	assert_int_equal(json_array_size(json_object_get(p.report, "faults")), 1);
	assert_null(json_object_get(p.report, "waived"));
	assert_true(json_is_true(json_object_get(json_object_get(p.report, "residue"), "clean")));
	played_drop(&p);
}

static void a_waiver_lets_it_pass_and_is_shown(void **state)
{
	static const char line[] = "management-path: fault.node_loss on gw: up0 carries the default route by 203.0.113.1 (IPv4)";
	_cleanup_free_ char *in_files = NULL;
	const json_t *waived;
	struct played p;

	(void)state;
	NEED_SANDBOX();
	p = play(BY_SOCKET, "run", "--set waive=yes");
	assert_code(&p, 7);
	waived = json_object_get(p.report, "waived");
	assert_int_equal(json_array_size(waived), 1);
	assert_string_equal(json_string_value(json_array_get(waived, 0)), line);
	assert_true(json_is_integer(
		json_object_get(json_array_get(json_object_get(p.report, "faults"), 0), "applied_ns")));
	assert_true(json_is_true(json_object_get(json_object_get(p.report, "residue"), "clean")));
	assert_says(&p, "waived: management-path: fault.node_loss on gw");
	in_files = strf("cd %s && grep -q 'waived: management-path' report.html && grep -q 'waived: management-path' report.md && "
			"grep -q 'waived: management-path' junit.xml && grep -q '\"kind\":\"fault\".*\"waived\":\"management-path' timeline.jsonl",
		p.out);
	if (system(in_files) != 0)
		fail_msg("the waiver is not in every file of %s", p.out);
	played_drop(&p);
	/* one that nobody needed is shown, too */
	p = play(AT_THE_CONSOLE, "run", "--set waive=yes --set node=side");
	assert_code(&p, 7);
	assert_says(&p, "waived: management-path: nothing that was made needed it");
	played_drop(&p);
}

static void what_the_record_did_not_see_is_refused_when_it_comes(void **state)
{
	struct played p;

	(void)state;
	NEED_SANDBOX();
	p = play(BY_SOCKET, "run", "--set surprise=yes --set node=adm");
	assert_refused(&p, "fault.node_loss on adm is refused: adm0 carries the SSH session from 192.0.2.1");
	played_drop(&p);
}

static void plan_says_it_beforehand(void **state)
{
	struct played p;

	(void)state;
	NEED_SANDBOX();
	p = play(BY_SOCKET, "plan", "--set node=adm");
	assert_code(&p, 0);
	assert_says(&p, "refused: fault.node_loss on adm is refused: adm0 carries the SSH session from 192.0.2.1");
	played_drop(&p);
	p = play(BY_SOCKET, "plan", "--set waive=yes");
	assert_says(&p, "waived: management-path: up0 carries the default route");
	played_drop(&p);
	p = play(BY_SOCKET, "plan", "--set node=side");
	assert_null(strstr(p.text, "refused"));
	played_drop(&p);
}

/* The whole of `reach` against what is found here: by device, by its other names, by address */
static void confined_faults_pass(void **state)
{
	static const struct {
		const char *args;
		bool hit;
	} cases[] = {
		{"{\"dev\": \"up0\"}", true},
		{"{\"dev\": \"uplink\"}", true}, /* its altname */
		{"{\"dev\": \"side0\"}", false},
		{"{\"dev\": \"up0\", \"to\": [\"198.51.100.7\"]}", false},
		{"{\"dev\": \"up0\", \"to\": [\"203.0.113.0/24\"]}", true}, /* the router is in it */
		{"{\"dev\": \"up0\", \"to\": [\"0.0.0.0/0\"]}", true},
		{"{\"dev\": \"up0\", \"to\": [\"2001:db8::/32\"]}", false},
		{"{\"dev\": \"up0\", \"to\": \"198.51.100.7\"}", false},
		{"{\"dev\": \"lo\"}", true},
		{"{\"dev\": \"lo\", \"to\": [\"127.0.0.9\"]}", true},
		{"{\"dev\": \"lo\", \"to\": [\"198.51.100.7\"]}", false},
	};
	_cleanup_json_ json_t *found = NULL;
	_cleanup_node_ struct node *gw = node_new("gw", "/run/netns/muster-own-gw"), *far = node_new("wan", "/run/netns/muster-own-wan"),
				   *none = node_new("none", "/run/netns/muster-own-none");
	const struct change_ops *netem = change_find("fault.netem");
	struct err err = {0};

	(void)state;
	NEED_SANDBOX();
	sh("ip link property add dev up0 altname uplink");
	assert_int_equal(mgmt_find(&found, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ json_t *args = json_loads(cases[i].args, 0, NULL);
		_cleanup_free_ char *hit = NULL;

		assert_non_null(args);
		if (mgmt_check(found, netem, gw, args, &hit, &err) != cases[i].hit)
			fail_msg("%s: %s", cases[i].args, hit ? hit : "let pass");
		/* the same names elsewhere are nobody's path */
		assert_int_equal(mgmt_check(found, netem, far, args, &hit, &err), 0);
		assert_int_equal(mgmt_check(found, netem, none, args, &hit, &err), 0);
	}
	sh("ip link property del dev up0 altname uplink");
}

/* A VLAN over it, a bridge that it is a port of */
static void lower_devices_are_part_of_the_path(void **state)
{
	_cleanup_node_ struct node *gw = node_new("gw", "/run/netns/muster-own-gw");
	_cleanup_json_ json_t *found = NULL, *port = json_pack("{s:s}", "dev", "side0"), *other = json_pack("{s:s}", "dev", "adm0");
	_cleanup_free_ char *hit = NULL;
	const struct change_ops *netem = change_find("fault.netem");
	struct err err = {0};

	(void)state;
	NEED_SANDBOX();
	sh("ip link add br0 type bridge && ip link set side0 master br0 && ip link set br0 up && ip addr add 198.51.100.2/24 dev br0 && "
	   "ip route add default via 198.51.100.1 metric 50");
	assert_int_equal(mgmt_find(&found, &err), 0);
	sh("ip link set side0 nomaster && ip link del br0");
	assert_int_equal(mgmt_check(found, netem, gw, port, &hit, &err), 1);
	assert_non_null(strstr(hit, "side0 carries the default route by 198.51.100.1"));
	free(TAKE_PTR(hit));
	assert_int_equal(mgmt_check(found, netem, gw, other, &hit, &err), 0);
}

static void some_processes_are_nobodys_to_kill(void **state)
{
	pid_t self = getpid(), sshd, other;
	_cleanup_free_ char *why = NULL;
	int fd[2];
	char c;

	(void)state;
	NEED_SANDBOX();
	assert_int_equal(pipe(fd), 0);
	sshd = fork();
	if (sshd == 0) {
		prctl(PR_SET_NAME, "sshd-session");
		(void)!write(fd[1], "x", 1);
		for (;;)
			pause();
	}
	other = fork();
	if (other == 0) {
		(void)!write(fd[1], "x", 1);
		for (;;)
			pause();
	}
	assert_int_equal(read(fd[0], &c, 1), 1);
	assert_int_equal(read(fd[0], &c, 1), 1);
	assert_true(mgmt_protected(1, NULL));
	assert_true(mgmt_protected(self, NULL));
	assert_true(mgmt_protected(sshd, &why));
	assert_non_null(strstr(why, "sshd-session (process "));
	assert_false(mgmt_protected(other, NULL)); /* a child of our own is ours to end */
	kill(sshd, SIGKILL);
	kill(other, SIGKILL);
	waitpid(sshd, NULL, 0);
	waitpid(other, NULL, 0);
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(default_route_is_kept),
		cmocka_unit_test(session_is_found_by_its_socket),
		cmocka_unit_test(session_is_found_by_an_ancestors_environment),
		cmocka_unit_test(processes_are_kept_whatever_is_waived),
		cmocka_unit_test(other_links_are_free),
		cmocka_unit_test(a_waiver_lets_it_pass_and_is_shown),
		cmocka_unit_test(what_the_record_did_not_see_is_refused_when_it_comes),
		cmocka_unit_test(plan_says_it_beforehand),
		cmocka_unit_test(confined_faults_pass),
		cmocka_unit_test(lower_devices_are_part_of_the_path),
		cmocka_unit_test(some_processes_are_nobodys_to_kill),
	};

	here = sandbox_enter();
	return cmocka_run_group_tests_name("mgmt", tests, own_setup, own_teardown);
}
