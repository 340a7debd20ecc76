/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `muster lab` as a person uses it: up, looked at, gone into, down; cut off in the middle; asked
 * for what is not there. In a mount namespace of its own, so that this machine's /run and /etc stay
 * as they are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/node.h"
#include "engine/str.h"
#include "lab/netns.h"
#include "command.h"

#define PATIENCE (60 * NSEC_PER_SEC)

/* A client and a server whose nginx comes half a second late */
static const char slow_site[] =
	"local conf = [[daemon off; worker_processes 1; user root; pid %{dir}/pid; events {} http "
	"{ access_log off;\n"
	"client_body_temp_path %{dir}/1; proxy_temp_path %{dir}/2; fastcgi_temp_path %{dir}/3; "
	"uwsgi_temp_path %{dir}/4;\n"
	"scgi_temp_path %{dir}/5; server { listen 0.0.0.0:8080; listen [::]:8080; return 200 "
	"'hello'; } }]]\n"
	"local options = option { pause = 0.5 }\n"
	"return { name = 'slow', summary = 'a slow one', switches = { 'lan' }, nodes = {\n"
	"  { name = 'client', links = { { switch = 'lan', addrs = { '198.18.9.1/24', "
	"'2001:db8:9::1/64' } } } },\n"
	"  { name = 'server', links = { { switch = 'lan', addrs = { '198.18.9.2/24', "
	"'2001:db8:9::2/64' } } },\n"
	"    daemons = { { name = 'nginx', argv = { 'sh', '-c', 'sleep ' .. options.pause ..\n"
	"      '; exec /usr/sbin/nginx -c %{dir}/c -p %{dir} -e %{dir}/e' }, files = { c = conf }, "
	"ready = { listen = 8080 } } } } } }\n";

static bool there(const char *path)
{
	return access(path, F_OK) == 0;
}

static void assert_nothing_left(void)
{
	DIR *d = opendir("/run/muster");
	struct dirent *e;

	assert_false(there("/run/netns"));
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && strncmp(e->d_name, "lock", 4) != 0)
			fail_msg("/run/muster/%s is left", e->d_name);
	if (d)
		closedir(d);
}

/* Waits until @path is there, as a step of a process that is under way. */
static void await(const char *path)
{
	nsec_t deadline = now_ns() + PATIENCE;

	while (!there(path)) {
		assert_true(now_ns() < deadline);
		(void)poll(NULL, 0, 1);
	}
}

static int group_setup(void **state)
{
	(void)state;
	if (unshare(CLONE_NEWNS) < 0 || mount("", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("none", "/run", "tmpfs", 0, "mode=755") < 0 || overlay_etc() < 0)
		return -1;
	return mkdir_p("/etc/muster/sites") < 0 ||
			       file_write("/etc/muster/sites/slow.lua", slow_site,
				       strlen(slow_site)) < 0 ||
			       file_write("/etc/muster/sites/liar.lua",
				       "return { name = 'honest', nodes = { { name = 'a' } } }",
				       54) < 0
		       ? -1
		       : 0;
}

/* After a failure: what the next test would stumble over */
static int clean(void **state)
{
	static const char *const names[] = {
		"muster-slow-lan", "muster-slow-client", "muster-slow-server"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = strf(LAB_NETNS_DIR "/%s", names[i]);
		uint64_t ino;

		if (netns_ino(path, &ino) == 0)
			(void)netns_kill(&ino, 1, NULL);
		(void)netns_del(path, NULL);
	}
	(void)netns_dir_restore(NETNS_DIR_ABSENT, NULL);
	return system("rm -rf /run/muster");
}

static void need_nginx(void)
{
	if (there("/usr/sbin/nginx"))
		return;
	print_message("skipped: nginx is not installed (apt-get install nginx-light)\n");
	skip();
}

static void test_up_and_down(void **state)
{
	_cleanup_json_ json_t *list = NULL;
	const json_t *lab, *daemon;

	(void)state;
	need_nginx();
	expect(0, "lab up slow --set pause=0", "lab slow is up");
	assert_true(there("/run/muster/labs/slow.json"));
	assert_true(there("/run/netns/muster-slow-client"));
	expect(0, "status", "lab-slow");
	/* a lab that is up is no leftover of a drill */
	expect(0, "restore --all", "nothing is hot");
	assert_true(there("/run/netns/muster-slow-client"));
	expect(6, "lab up slow", "lab slow is up");
	expect(0, "lab list", "198.18.9.2/24 2001:db8:9::2/64  nginx[");
	expect(0, "lab list --json", NULL);
	list = json_loads(out, 0, NULL);
	lab = json_array_get(list, 0);
	assert_string_equal(json_string_value(json_object_get(lab, "lab")), "slow");
	assert_string_equal(json_string_value(json_object_get(lab, "state")), "up");
	daemon = json_array_get(
		json_object_get(json_array_get(json_object_get(lab, "nodes"), 1), "daemons"), 0);
	assert_string_equal(json_string_value(json_object_get(daemon, "state")), "running");
	kill((pid_t)json_integer_value(json_object_get(daemon, "pid")), SIGKILL);
	expect(0, "lab down slow", "lab slow is down");
	assert_nothing_left();
}

static void test_exec(void **state)
{
	(void)state;
	need_nginx();
	expect(0, "lab up slow --set=pause=0 --quiet", NULL);
	expect(0, "lab exec slow server -- ls /sys/class/net", "eth0");
	expect(0, "lab exec slow lan -- ls /sys/class/net", "client"); /* a switch, and its ports */
	expect(7, "lab exec slow client -- sh -c exit\t7", NULL);
	expect(127, "lab exec slow client -- no-such-command", "no-such-command: No such file");
	expect(126, "lab exec slow client -- /etc/passwd", "Permission denied");
	expect(2, "lab exec slow cleint -- ls", "there are: lan client server");
	expect(2, "lab exec slow client", "a command is missing");
	expect(2, "lab exec fast client -- ls", "there is no lab fast");
	expect(0, "lab down slow --json", "{\"lab\":\"slow\",\"state\":\"down\"}");
	assert_nothing_left();
}

static void test_interrupted(void **state)
{
	pid_t pid;

	(void)state;
	need_nginx();
	pid = start("lab up slow", 0);
	await("/run/muster/lab/slow/server/nginx/muster.pid");
	kill(pid, SIGINT);
	assert_int_equal(finish(pid), 4);
	assert_non_null(strstr(out, "interrupted; it was taken down again"));
	assert_nothing_left();
}

static void test_killed(void **state)
{
	pid_t pid;

	(void)state;
	need_nginx();
	pid = start("lab up slow", 0);
	await("/run/muster/lab/slow/server/nginx/muster.pid");
	kill(pid, SIGKILL);
	assert_int_equal(finish(pid), -SIGKILL);
	expect(0, "lab list", "slow: left over");
	expect(6, "lab up slow", "half built");
	expect(0, "lab down slow", "lab slow is down");
	assert_nothing_left();
}

/*
 * And its journal is lost: the next one sweeps first, and says so; or it is taken down by what it
 * says of itself.
 */
static void test_killed_without_a_journal(void **state)
{
	(void)state;
	need_nginx();
	for (int i = 0; i < 2; i++) {
		pid_t pid = start("lab up slow", 0);

		await("/run/muster/lab/slow/server/nginx/muster.pid");
		kill(pid, SIGKILL);
		assert_int_equal(finish(pid), -SIGKILL);
		assert_int_equal(system("rm -r /run/muster/lab-slow"), 0);
		if (i == 0)
			expect(0, "lab up slow --set pause=0",
				"a killed run had left a lab slow behind");
		expect(0, "lab down slow", i == 0 ? "lab slow is down" : "had no journal");
		assert_nothing_left();
	}
}

/* Names that nobody can account for are refused, and go when asked for. */
static void test_foreign_names(void **state)
{
	struct err err = {0};
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};

	(void)state;
	need_nginx();
	assert_int_equal(netns_dir_make(&err), 0);
	assert_int_equal(netns_add(LAB_NETNS_DIR "/muster-slow-client", &v, &err), 0);
	node_leave(&v);
	expect(6, "lab up slow", "muster-slow-client that is not known to be a lab's");
	expect(0, "lab down slow", "lab slow is down");
	assert_false(there("/run/netns/muster-slow-client"));
	assert_int_equal(netns_dir_restore(NETNS_DIR_ABSENT, &err), 0);
	assert_nothing_left();
}

static void test_misuse(void **state)
{
	(void)state;
	expect(2, "lab", "argument is missing");
	expect(2, "lab dwon slow", "did you mean down?");
	expect(2, "lab up", "which site?");
	expect(2, "lab up no-such-site", "no-such-site");
	expect(2, "lab up ../../etc/passwd", NULL);
	expect(2, "lab up slow --set pase=1", "pase");
	expect(2, "lab up liar", "calls itself honest");
	expect(2, "lab down slow", "lab slow is not up");
	expect(2, "lab down ../x", NULL);
	expect(0, "lab list", "no lab is there");
	assert_int_equal(finish(start("lab up slow", 65534)), 6);
	assert_non_null(strstr(out, "needs root"));
	assert_nothing_left();
}

/*
 * The site that ships: whole where there is IPVS, and refused before anything is made where there
 * is not.
 */
static void test_lvs_dr(void **state)
{
	int r = finish(start("lab up lvs-dr", 0));

	(void)state;
	if (r == 6) {
		print_message("this machine cannot have it: %s\n", out);
		assert_true(strstr(out, "IPVS") || strstr(out, "apt-get install"));
		assert_nothing_left();
		return;
	}
	assert_int_equal(r, 0);
	expect(0, "lab exec lvs-dr director -- cat /proc/net/ip_vs", "C6120064:1F90 wrr");
	expect(0, "lab down lvs-dr", NULL);
	assert_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_up_and_down, clean),
		cmocka_unit_test_teardown(test_exec, clean),
		cmocka_unit_test_teardown(test_interrupted, clean),
		cmocka_unit_test_teardown(test_killed, clean),
		cmocka_unit_test_teardown(test_killed_without_a_journal, clean),
		cmocka_unit_test_teardown(test_foreign_names, clean),
		cmocka_unit_test_teardown(test_misuse, clean),
		cmocka_unit_test_teardown(test_lvs_dr, clean),
	};

	if (geteuid() != 0) {
		print_message("skipped: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("muster lab", tests, group_setup, NULL);
}
