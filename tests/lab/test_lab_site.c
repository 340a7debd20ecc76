/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lab as a change: built, reachable in both families at once, taken down to nothing, by itself
 * or from the record in another process, and after the builder was killed before each single step.
 *
 * wrap: nlc_request mount unshare rename mkdir open fork unlink umount2
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine/change.h"
#include "engine/clock.h"
#include "lab/daemon.h"
#include "lab/lab.h"
#include "lab/netns.h"

extern const struct change_ops change_lab_site;
static const struct change_ops *const ops = &change_lab_site;

/* ── dying before the nth step ──────────────────────────────────────────────────────────── */

static bool armed; /* only ever in a child */
static unsigned long steps_left;

static void step(void)
{
	if (armed && steps_left-- == 0)
		kill(getpid(), SIGKILL);
}

int __real_nlc_request(struct nlc *nl, struct nl_msg *msg, struct err *err);
int __wrap_nlc_request(struct nlc *nl, struct nl_msg *msg, struct err *err);
int __wrap_nlc_request(struct nlc *nl, struct nl_msg *msg, struct err *err)
{
	step();
	return __real_nlc_request(nl, msg, err);
}

int __real_mount(const char *a, const char *b, const char *c, unsigned long d, const void *e);
int __wrap_mount(const char *a, const char *b, const char *c, unsigned long d, const void *e);
int __wrap_mount(const char *a, const char *b, const char *c, unsigned long d, const void *e)
{
	step();
	return __real_mount(a, b, c, d, e);
}

int __real_umount2(const char *a, int b);
int __wrap_umount2(const char *a, int b);
int __wrap_umount2(const char *a, int b)
{
	step();
	return __real_umount2(a, b);
}

int __real_unshare(int f);
int __wrap_unshare(int f);
int __wrap_unshare(int f)
{
	step();
	return __real_unshare(f);
}

int __real_rename(const char *a, const char *b);
int __wrap_rename(const char *a, const char *b);
int __wrap_rename(const char *a, const char *b)
{
	step();
	return __real_rename(a, b);
}

int __real_mkdir(const char *a, mode_t m);
int __wrap_mkdir(const char *a, mode_t m);
int __wrap_mkdir(const char *a, mode_t m)
{
	step();
	return __real_mkdir(a, m);
}

int __real_unlink(const char *a);
int __wrap_unlink(const char *a);
int __wrap_unlink(const char *a)
{
	step();
	return __real_unlink(a);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list ap;

	va_start(ap, flags);
	if (flags & O_CREAT)
		mode = va_arg(ap, mode_t);
	va_end(ap);
	if (flags & (O_CREAT | O_WRONLY | O_RDWR)) /* reading is no step */
		step();
	return __real_open(path, flags, mode);
}

pid_t __real_fork(void);
pid_t __wrap_fork(void);
pid_t __wrap_fork(void)
{
	pid_t pid;

	step();
	pid = __real_fork();
	if (pid == 0)
		armed = false; /* a daemon; its parent is the one that dies */
	else
		step(); /* the daemon exists, and nobody has noted it */
	return pid;
}

/* ── sites ──────────────────────────────────────────────────────────────────────────────── */

/* Two nodes and a switch, without daemons */
static const char pair_site[] =
	"{'name': 'ltpair', 'switches': ['lan'], 'nodes': ["
	"  {'name': 'a', 'links': [{'dev': 'eth0', 'switch': 'lan', 'addrs': ['198.18.0.1/24', "
	"'2001:db8::1/64']}],"
	"   'sysctl': {'net.ipv4.conf.eth0.arp_ignore': 1, 'net.ipv4.conf.all.arp_announce': '2'},"
	"   'lo': ['198.18.0.100/32', '2001:db8::100/128'],"
	"   'routes': [{'to': 'default', 'via': '198.18.0.2'}, {'to': '2001:db8:1::/48', 'dev': "
	"'eth0'}]},"
	"  {'name': 'b', 'links': [{'dev': 'eth0', 'switch': 'lan', 'addrs': ['198.18.0.2/24', "
	"'2001:db8::2/64']}]}]}";

/* One node that serves */
static const char nginx_site[] = "{'name': 'ltweb', 'switches': ['lan'], 'nodes': ["
				 "  {'name': 'c', 'links': [{'dev': 'eth0', 'switch': 'lan', "
				 "'addrs': ['198.18.0.1/24', '2001:db8::1/64']}]},"
				 "  {'name': 's', 'links': [{'dev': 'eth0', 'switch': 'lan', "
				 "'addrs': ['198.18.0.2/24', '2001:db8::2/64']}],"
				 "   'daemons': [{'name': 'nginx', 'package': 'nginx-light',"
				 "     'argv': ['nginx', '-p', '%{dir}', '-c', "
				 "'%{dir}/nginx.conf', '-e', '%{dir}/error.log'],"
				 "     'files': {'nginx.conf': 'daemon off; worker_processes 1; "
				 "user root; pid %{dir}/nginx.pid; events {}"
				 "        http { access_log off; client_body_temp_path %{dir}/t1; "
				 "proxy_temp_path %{dir}/t2; fastcgi_temp_path %{dir}/t3;"
				 "        uwsgi_temp_path %{dir}/t4; scgi_temp_path %{dir}/t5; "
				 "server { listen 0.0.0.0:8080; listen [::]:8080;"
				 "        return 200 %{node}; } }'},"
				 "     'ready': {'listen': 8080}}]}]}";

/* JSON with single quotes */
static json_t *site_args(const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	json_error_t e;
	json_t *site;

	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	site = json_loads(copy, 0, &e);
	if (!site)
		fail_msg("%s at %d", e.text, e.position);
	return json_pack("{s:o}", "site", site);
}

static struct node *host;
static char *run_dir; /* stands in for /run/muster */
static enum netns_dir netns_before;

static int remove_below(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	return f->level > 0 ? remove(path) : 0;
}

static int group_setup(void **state)
{
	static char tmpl[] = "/tmp/muster-test-lab-XXXXXX";

	(void)state;
	run_dir = mkdtemp(tmpl);
	/*
	 * A mount namespace of our own, with an empty /run: what this machine keeps in /run/netns
	 * is not touched, and the labs of other tests do not come between.
	 */
	if (unshare(CLONE_NEWNS) < 0 || mount("", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("none", "/run", "tmpfs", 0, "mode=755") < 0)
		return -1;
	lab_root = run_dir ? strf("%s/lab", run_dir) : NULL;
	host = node_new("host", NULL);
	return lab_root && host && netns_dir_state(&netns_before, NULL) == 0 ? 0 : -1;
}

static int group_teardown(void **state)
{
	(void)state;
	rmdir(run_dir);
	free((char *)lab_root);
	node_free(host);
	return 0;
}

/* After a failure: what the next test would stumble over */
static int clean(void **state)
{
	DIR *d = opendir(LAB_NETNS_DIR);
	struct dirent *e;

	(void)state;
	while (d && (e = readdir(d))) {
		_cleanup_free_ char *path = strf(LAB_NETNS_DIR "/%s", e->d_name);
		uint64_t ino;

		if (strncmp(e->d_name, "muster-lt", 9) != 0)
			continue;
		if (netns_ino(path, &ino) == 0)
			(void)netns_kill(&ino, 1, NULL);
		(void)netns_del(path, NULL);
	}
	if (d)
		closedir(d);
	(void)netns_dir_restore(netns_before, NULL);
	(void)nftw(run_dir, remove_below, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}

static size_t entries(const char *path)
{
	DIR *d = opendir(path);
	size_t n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n > 2 ? n - 2 : 0;
}

/* Nothing of any lab of this test is left, and /run/netns is what it was. */
static void assert_nothing_left(void)
{
	DIR *d = opendir(LAB_NETNS_DIR);
	enum netns_dir now;
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (strncmp(e->d_name, "muster-lt", 9) == 0)
			fail_msg("%s is left", e->d_name);
	if (d)
		closedir(d);
	assert_int_equal(entries(run_dir), 0);
	assert_int_equal(netns_dir_state(&now, NULL), 0);
	assert_int_equal(now, netns_before);
	assert_int_equal(entries(LAB_NETNS_DIR), 0);
}

static void must(int r, const struct err *err)
{
	if (r != 0)
		fail_msg("%d: %s (%s)", r, err->text, err->hint);
}

static void build(const json_t *args, json_t **ret_prior)
{
	struct err err = {0};

	must(ops->supported(host, args, &err), &err);
	must(ops->capture(host, args, ret_prior, &err), &err);
	must(ops->apply(host, args, *ret_prior, &err), &err);
}

static void take_down(const json_t *args, const json_t *prior)
{
	struct err err = {0};

	must(ops->undo(host, args, prior, &err), &err);
	must(ops->verify(host, args, prior, &err), &err);
}

/* ── what a lab is good for ─────────────────────────────────────────────────────────────── */

static struct node *lab_node(const char *site, const char *name)
{
	_cleanup_free_ char *path = strf(LAB_NETNS_DIR "/muster-%s-%s", site, name);
	struct node *n = node_new(name, path);
	struct err err = {0};

	must(node_open(n, &err), &err);
	return n;
}

/*
 * Time until a TCP connection from one node to an address of another stands, in ns; the listener is
 * made here
 */
static nsec_t connect_over(
	const struct node *from, const struct node *to, const char *addr, uint16_t port)
{
	bool v6 = strchr(addr, ':');
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	const struct sockaddr *sa =
		v6 ? (const struct sockaddr *)&a6 : (const struct sockaddr *)&a4;
	socklen_t len = v6 ? sizeof(a6) : sizeof(a4);
	_cleanup_close_ int listener =
		to ? node_socket(to, v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) : -1;
	_cleanup_close_ int fd =
		node_socket(from, v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int error = 0;
	socklen_t elen = sizeof(error);
	nsec_t begun;

	assert_true(fd >= 0);
	if (v6)
		assert_int_equal(inet_pton(AF_INET6, addr, &a6.sin6_addr), 1);
	else
		assert_int_equal(inet_pton(AF_INET, addr, &a4.sin_addr), 1);
	if (to) {
		assert_int_equal(bind(listener, sa, len), 0);
		assert_int_equal(listen(listener, 8), 0);
	}
	begun = now_ns();
	if (connect(fd, sa, len) < 0)
		assert_int_equal(errno, EINPROGRESS);
	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &elen), 0);
	assert_int_equal(error, 0);
	return now_ns() - begun;
}

static void test_builds_and_connects_at_once(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *prior = NULL;
	_cleanup_node_ struct node *a = NULL, *b = NULL;
	_cleanup_free_ char *text = NULL;
	nsec_t begun = now_ns(), built, t;
	struct err err = {0};

	(void)state;
	build(args, &prior);
	built = now_ns() - begun;
	a = lab_node("ltpair", "a");
	b = lab_node("ltpair", "b");
	/*
	 * Both families, both directions, without waiting for carrier, duplicate address detection
	 * or a bridge that learns: any of these would cost a SYN, which is sent again after a
	 * second.
	 */
	t = connect_over(a, b, "198.18.0.2", 9001);
	assert_true(t < 900 * NSEC_PER_MSEC);
	t = connect_over(a, b, "2001:db8::2", 9001);
	assert_true(t < 900 * NSEC_PER_MSEC);
	t = connect_over(b, a, "198.18.0.1", 9001);
	assert_true(t < 900 * NSEC_PER_MSEC);
	t = connect_over(b, a, "2001:db8::1", 9001);
	assert_true(t < 900 * NSEC_PER_MSEC);
	/* an address on lo serves its own node */
	t = connect_over(a, a, "198.18.0.100", 9002);
	t = connect_over(a, a, "2001:db8::100", 9002);
	must(node_read(a, "/proc/sys/net/ipv4/conf/eth0/arp_ignore", &text), &err);
	assert_string_equal(text, "1");
	freep_(&text);
	must(node_read(a, "/proc/sys/net/ipv4/conf/all/arp_announce", &text), &err);
	assert_string_equal(text, "2");
	freep_(&text);
	must(node_read(b, "/proc/sys/net/ipv4/conf/all/arp_announce", &text), &err);
	assert_string_equal(text, "0");
	freep_(&text);
	must(node_read(a, "/proc/net/route", &text), &err);
	assert_non_null(strstr(text, "eth0\t00000000\t020012C6")); /* default via 198.18.0.2 */
	print_message("two nodes and a switch: %.1f ms\n", (double)built / 1e6);
	take_down(args, prior);
	take_down(args, prior); /* a second time changes nothing */
	assert_nothing_left();
}

static void test_ip_tool_sees_it(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *prior = NULL;

	(void)state;
	if (system("command -v ip >/dev/null") != 0) {
		print_message("skipped: iproute2 is not installed\n");
		skip();
	}
	change_run_begin("lab-ltpair");
	build(args, &prior);
	assert_int_equal(system("ip netns list | grep -qw muster-ltpair-a"), 0);
	assert_int_equal(system("ip netns exec muster-ltpair-a ip -o -4 addr show dev eth0 | grep "
				"-q 198.18.0.1/24"),
		0);
	assert_int_equal(
		system("ip -n muster-ltpair-lan -o link show master br.0 | grep -q ' b@'"), 0);
	/* both ends say whose they are */
	assert_int_equal(
		system("ip -n muster-ltpair-a link show dev eth0 | grep -q 'alias muster:lab-ltpair$'"), 0);
	assert_int_equal(
		system("ip -n muster-ltpair-lan link show dev a | grep -q 'alias muster:lab-ltpair$'"), 0);
	take_down(args, prior);
	assert_nothing_left();
}

/*
 * The same again and again, with the one connection that is the first to be lost when a lab is called ready too early: of
 * thirty labs it was one, by IPv4 when a queue was not yet switched on, and four, by IPv6 when an address had not yet
 * joined its solicited-node group.
 */
static void test_ready_each_time(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site);

	(void)state;
	for (int i = 0; i < 25; i++) {
		_cleanup_json_ json_t *prior = NULL;
		_cleanup_node_ struct node *a = NULL, *b = NULL;

		build(args, &prior);
		a = lab_node("ltpair", "a");
		b = lab_node("ltpair", "b");
		assert_true(connect_over(a, b, i % 2 ? "198.18.0.2" : "2001:db8::2", 9001) <
			    900 * NSEC_PER_MSEC);
		take_down(args, prior);
	}
	assert_nothing_left();
}

/* The commands that `muster plan` prints build the same lab, and those for restore.sh take it down. */
static void test_plain_commands(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site);
	_cleanup_strbuf_ struct strbuf up = {0}, down = {0};
	_cleanup_node_ struct node *a = NULL, *b = NULL;
	enum netns_dir before;
	struct err err = {0};

	(void)state;
	if (system("command -v ip >/dev/null && command -v sysctl >/dev/null") != 0) {
		print_message("skipped: iproute2 or procps is not installed\n");
		skip();
	}
	must(netns_dir_state(&before, &err), &err);
	assert_int_equal(ops->command(host, args, NULL, &up, &down), 0);
	strbuf_puts(&up, "exit 0\n");
	assert_int_equal(system(strbuf_cstr(&up)), 0);
	a = lab_node("ltpair", "a");
	b = lab_node("ltpair", "b");
	/*
	 * `ip link set up` after `ip link add` may leave the carrier to a later event; the SYN is
	 * sent again
	 */
	(void)connect_over(a, b, "198.18.0.2", 9001);
	(void)connect_over(b, a, "2001:db8::1", 9001);
	strbuf_puts(&down, "exit 0\n");
	assert_int_equal(system(strbuf_cstr(&down)), 0);
	must(netns_dir_restore(before, &err), &err);
	assert_nothing_left();
}

/* ── nothing remains ────────────────────────────────────────────────────────────────────── */

static void http_get(const struct node *from, const char *addr, const char *want)
{
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(8080)};
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(8080)};
	bool v6 = strchr(addr, ':');
	_cleanup_close_ int fd = node_socket(from, v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
	static const char req[] = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	struct timeval tv = {.tv_sec = 10};
	_cleanup_free_ char *reply = NULL;
	const char *end;

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), 0);
	assert_int_equal(inet_pton(v6 ? AF_INET6 : AF_INET, addr,
				 v6 ? (void *)&a6.sin6_addr : (void *)&a4.sin_addr),
		1);
	assert_int_equal(connect(fd, v6 ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4,
				 v6 ? sizeof(a6) : sizeof(a4)),
		0);
	assert_int_equal(fd_write_all(fd, req, sizeof(req) - 1), 0);
	assert_int_equal(fd_read_all(fd, 4096, &reply, NULL), 0);
	assert_int_equal(strncmp(reply, "HTTP/1.1 200 ", 13), 0);
	end = strstr(reply, "\r\n\r\n");
	assert_non_null(end);
	assert_string_equal(end + 4, want);
}

static void test_daemon_serves_and_goes(void **state)
{
	_cleanup_json_ json_t *args = site_args(nginx_site), *prior = NULL;
	_cleanup_lab_spec_ struct lab_spec *s = NULL;
	_cleanup_node_ struct node *c = NULL;
	struct err err = {0};
	pid_t pid;

	(void)state;
	if (access("/usr/sbin/nginx", X_OK) < 0) {
		print_message("skipped: nginx is not installed (apt-get install nginx-light)\n");
		skip();
	}
	build(args, &prior);
	c = lab_node("ltweb", "c");
	http_get(c, "198.18.0.2", "s"); /* it is ready, so the first try is answered */
	http_get(c, "2001:db8::2", "s");
	must(lab_spec_new(json_object_get(args, "site"), &s, &err), &err);
	pid = daemon_pid(&s->daemons[0]);
	assert_true(pid > 0);
	assert_int_equal(getsid(pid), pid);
	take_down(args, prior);
	assert_int_equal(kill(pid, 0), -1);
	assert_int_equal(errno, ESRCH); /* reaped, too */
	assert_nothing_left();
}

static void test_undo_from_the_record_in_another_process(void **state)
{
	_cleanup_json_ json_t *args = site_args(nginx_site), *prior = NULL, *copy = NULL,
			      *args_copy = NULL;
	_cleanup_free_ char *text = NULL, *args_text = NULL;
	struct err err = {0};
	int status, fds[2];
	pid_t pid;

	(void)state;
	if (access("/usr/sbin/nginx", X_OK) < 0)
		skip();
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = __real_fork();
	if (pid == 0) { /* builds, hands over the record as text, and is gone */
		if (ops->capture(host, args, &prior, &err) < 0 ||
			ops->apply(host, args, prior, &err) < 0)
			_exit(1);
		_exit(json_dumpfd(prior, fds[1], 0) < 0);
	}
	close(fds[1]);
	assert_int_equal(fd_read_all(fds[0], 65536, &text, NULL), 0);
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	args_text = json_dumps(args, 0);
	copy = json_loads(text, 0, NULL);
	args_copy = json_loads(args_text, 0, NULL);
	assert_non_null(copy);
	take_down(args_copy, copy);
	assert_nothing_left();
}

/*
 * A child builds and dies before its nth step; the undo, here, from the record alone. True when the
 * child came to its end.
 */
static bool killed_at(const char *site, unsigned long n)
{
	_cleanup_json_ json_t *args = site_args(site), *prior = NULL;
	struct err err = {0};
	int status;
	pid_t pid;

	must(ops->capture(host, args, &prior, &err), &err);
	pid = __real_fork();
	if (pid == 0) {
		steps_left = n;
		armed = true;
		_exit(ops->apply(host, args, prior, &err) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status))
		assert_int_equal(WEXITSTATUS(status), 0);
	take_down(args, prior);
	take_down(args, prior);
	assert_nothing_left();
	return WIFEXITED(status);
}

static void test_killed_before_each_step(void **state)
{
	unsigned long n = 0;

	(void)state;
	while (!killed_at(pair_site, n))
		n++;
	print_message("%lu steps\n", n);
	assert_true(n > 20);
}

static void test_killed_while_daemons_start(void **state)
{
	unsigned long n = 0;

	(void)state;
	if (access("/usr/sbin/nginx", X_OK) < 0)
		skip();
	/* the devices were had above: from the daemon's folder on */
	while (!killed_at(nginx_site, n))
		n += n < 60 ? 15 : 1;
	print_message("%lu steps\n", n);
}

/* And at any instant, in the middle of a system call too */
static void test_killed_at_random(void **state)
{
	unsigned int seed = (unsigned int)now_ns();
	nsec_t whole = 0;

	(void)state;
	if (access("/usr/sbin/nginx", X_OK) < 0)
		skip();
	print_message("seed %u\n", seed);
	srandom(seed);
	for (int i = 0; i < 40; i++) {
		_cleanup_json_ json_t *args = site_args(nginx_site), *prior = NULL;
		_cleanup_close_ int pidfd = -1;
		nsec_t begun = now_ns(), after;
		struct timespec ts;
		struct pollfd p;
		struct err err = {0};
		pid_t pid;

		must(ops->capture(host, args, &prior, &err), &err);
		pid = __real_fork();
		if (pid == 0)
			_exit(ops->apply(host, args, prior, &err) == 0 ? 0 : 1);
		pidfd = pidfd_open(pid, 0);
		assert_true(pidfd >= 0);
		p = (struct pollfd){.fd = pidfd, .events = POLLIN};
		/* the first one shows how long it takes */
		after = i ? (nsec_t)((double)random() / (double)RAND_MAX * (double)whole)
			  : 60 * NSEC_PER_SEC;
		ts = (struct timespec){
			.tv_sec = after / NSEC_PER_SEC, .tv_nsec = after % NSEC_PER_SEC};
		assert_true(ppoll(&p, 1, &ts, NULL) >= 0);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		whole = MAX(whole, i ? 0 : now_ns() - begun);
		take_down(args, prior);
		assert_nothing_left();
	}
}

/* The undo is killed before each of its steps, too; the next one finishes. */
static void test_undo_killed_before_each_step(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site);

	(void)state;
	for (unsigned long n = 0;; n++) {
		_cleanup_json_ json_t *prior = NULL;
		struct err err = {0};
		int status;
		pid_t pid;

		build(args, &prior);
		pid = __real_fork();
		if (pid == 0) {
			steps_left = n;
			armed = true;
			_exit(ops->undo(host, args, prior, &err) == 0 ? 0 : 1);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (WIFEXITED(status))
			assert_int_equal(WEXITSTATUS(status), 0);
		take_down(args, prior);
		assert_nothing_left();
		if (WIFEXITED(status))
			break;
	}
}

/* ── what lies in the way ───────────────────────────────────────────────────────────────── */

/*
 * A run was killed, and its journal is lost: the next one sweeps what it has left, under other
 * names even.
 */
static void test_leftover_of_a_killed_run(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *old = NULL, *prior = NULL,
			      *other = site_args(pair_site);
	struct err err = {0};
	int status;
	pid_t pid;

	(void)state;
	json_object_set_new(
		json_array_get(json_object_get(json_object_get(other, "site"), "nodes"), 1), "name",
		json_string("z"));
	pid = __real_fork();
	if (pid == 0) {
		if (ops->capture(host, other, &old, &err) < 0 ||
			ops->apply(host, other, old, &err) < 0)
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(access(LAB_NETNS_DIR "/muster-ltpair-z", F_OK), 0);
	build(args, &prior);
	assert_int_equal(access(LAB_NETNS_DIR "/muster-ltpair-z", F_OK), -1);
	assert_int_equal(access(LAB_NETNS_DIR "/muster-ltpair-b", F_OK), 0);
	take_down(args, prior);
	assert_nothing_left();
}

/* Its journal is found after all, when another run has built the lab anew: that one is left alone. */
static void test_stale_record_spares_the_new_lab(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *old = NULL, *prior = NULL;
	struct err err = {0};
	int status;
	pid_t pid;

	(void)state;
	must(ops->capture(host, args, &old, &err), &err);
	pid = __real_fork();
	if (pid == 0) {
		(void)ops->apply(host, args, old, &err);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	build(args, &prior);
	take_down(args, old);
	assert_int_equal(access(LAB_NETNS_DIR "/muster-ltpair-a", F_OK), 0);
	take_down(args, prior);
	assert_nothing_left();
}

static void test_refuses_what_is_in_use(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *prior = NULL, *second = NULL;
	struct err err = {0};

	(void)state;
	build(args, &prior);
	assert_int_equal(ops->capture(host, args, &second, &err), -EEXIST);
	assert_null(second);
	assert_non_null(strstr(err.text, "in use by process"));
	take_down(args, prior);
	assert_nothing_left();
}

static void test_refuses_a_name_that_is_not_ours(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *prior = NULL;
	enum netns_dir before;
	struct err err = {0};

	(void)state;
	must(netns_dir_state(&before, &err), &err);
	must(netns_dir_make(&err), &err);
	{
		_cleanup_(node_leave) struct node_visit v = {.fd = -1};

		must(netns_add(LAB_NETNS_DIR "/muster-ltpair-b", &v, &err), &err);
	}
	assert_int_equal(ops->capture(host, args, &prior, &err), -EEXIST);
	assert_non_null(strstr(err.text, "muster-ltpair-b"));
	assert_non_null(strstr(err.hint, "muster lab down ltpair"));
	must(netns_del(LAB_NETNS_DIR "/muster-ltpair-b", &err), &err);
	must(netns_dir_restore(before, &err), &err);
	assert_nothing_left();
}

/* Somebody replaced a namespace of ours under its name: his is left alone, and said so. */
static void test_conflict(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *prior = NULL;
	struct err err = {0};
	_cleanup_close_ int keep = -1;

	(void)state;
	build(args, &prior);
	keep = open(LAB_NETNS_DIR "/muster-ltpair-b",
		O_RDONLY | O_CLOEXEC); /* so that its inode is not used again */
	must(netns_del(LAB_NETNS_DIR "/muster-ltpair-b", &err), &err);
	{
		_cleanup_(node_leave) struct node_visit v = {.fd = -1};

		must(netns_add(LAB_NETNS_DIR "/muster-ltpair-b", &v, &err), &err);
	}
	assert_int_equal(ops->undo(host, args, prior, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.text, "muster-ltpair-b"));
	assert_int_equal(access(LAB_NETNS_DIR "/muster-ltpair-b", F_OK), 0);
	assert_int_equal(access(LAB_NETNS_DIR "/muster-ltpair-a", F_OK), -1);
	must(netns_del(LAB_NETNS_DIR "/muster-ltpair-b", &err), &err);
	must(netns_dir_restore(netns_before, &err), &err);
	assert_nothing_left();
}

/* This host's own namespace under a lab's name: no process of it is touched. */
static void test_never_kills_the_host(void **state)
{
	uint64_t own;
	struct err err = {0};
	struct stat st;

	(void)state;
	assert_int_equal(stat("/proc/self/ns/net", &st), 0);
	own = st.st_ino;
	assert_int_equal(netns_kill(&own, 1, &err), -EBUSY);
}

static void test_daemon_that_ends(void **state)
{
	_cleanup_json_ json_t *args =
		site_args("{'name': 'ltend', 'nodes': [{'name': 'n', 'daemons': [{'name': 'd', "
			  "'argv': ['sh', '-c', 'echo oops; exit 3'],"
			  " 'ready': {'listen': 80}}]}]}");
	_cleanup_json_ json_t *prior = NULL;
	struct err err = {0};

	(void)state;
	must(ops->capture(host, args, &prior, &err), &err);
	assert_int_equal(ops->apply(host, args, prior, &err), -ECHILD);
	assert_non_null(strstr(err.text, "status 3"));
	assert_non_null(strstr(err.hint, "oops"));
	take_down(args, prior);
	assert_nothing_left();
}

static void test_daemon_that_is_late(void **state)
{
	_cleanup_json_ json_t *args =
		site_args("{'name': 'ltlate', 'nodes': [{'name': 'n', 'daemons': [{'name': 'd', "
			  "'argv': ['sleep', '100'],"
			  " 'within': '100ms', 'ready': {'listen': 80}}]}]}");
	_cleanup_json_ json_t *prior = NULL;
	struct err err = {0};

	(void)state;
	must(ops->capture(host, args, &prior, &err), &err);
	assert_int_equal(ops->apply(host, args, prior, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "does not listen on port 80"));
	take_down(args, prior);
	assert_nothing_left();
}

static void test_missing_sysctl(void **state)
{
	_cleanup_json_ json_t *args = site_args("{'name': 'ltsys', 'nodes': [{'name': 'n', "
						"'sysctl': {'net.ipv4.no_such_knob': '1'}}]}");
	_cleanup_json_ json_t *prior = NULL;
	struct err err = {0};

	(void)state;
	must(ops->capture(host, args, &prior, &err), &err);
	assert_int_equal(ops->apply(host, args, prior, &err), -ENOENT);
	assert_non_null(strstr(err.text, "net.ipv4.no_such_knob"));
	take_down(args, prior);
	assert_nothing_left();
}

/* Without IPVS, "unsupported" comes before anything is made; with it, nothing is refused. */
static void test_ipvs_is_asked_for(void **state)
{
	_cleanup_json_ json_t *args =
		site_args("{'name': 'ltvs', 'nodes': [{'name': 'n', 'sysctl': "
			  "{'net.ipv4.vs.expire_nodest_conn': '1'}}]}");
	_cleanup_json_ json_t *prior = NULL;
	_cleanup_node_ struct node *n = NULL;
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	int r = ops->supported(host, args, &err);

	(void)state;
	if (r < 0) {
		assert_int_equal(r, -EOPNOTSUPP);
		assert_non_null(
			strstr(err.text, "net.ipv4.vs.expire_nodest_conn of node n needs IPVS"));
		assert_non_null(strstr(err.hint, "--lab vm"));
		assert_int_equal(access("/proc/net/ip_vs", F_OK), -1);
		return;
	}
	build(args, &prior);
	n = lab_node("ltvs", "n");
	must(node_read(n, "/proc/sys/net/ipv4/vs/expire_nodest_conn", &text), &err);
	assert_string_equal(text, "1");
	take_down(args, prior);
	assert_nothing_left();
}

/* Whatever /run/netns was, it is again; and what somebody else has put into it meanwhile stays. */
static void test_run_netns_goes_back(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site);
	struct err err = {0};
	enum netns_dir now;

	(void)state;
	assert_int_equal(netns_before, NETNS_DIR_ABSENT);
	for (enum netns_dir dir = NETNS_DIR_ABSENT; dir <= NETNS_DIR_MOUNT; dir++) {
		_cleanup_json_ json_t *prior = NULL;

		if (dir == NETNS_DIR_PLAIN)
			assert_int_equal(mkdir(LAB_NETNS_DIR, 0755), 0);
		if (dir == NETNS_DIR_MOUNT)
			must(netns_dir_make(&err), &err);
		build(args, &prior);
		must(netns_dir_state(&now, &err), &err);
		assert_int_equal(now, NETNS_DIR_MOUNT);
		take_down(args, prior);
		must(netns_dir_state(&now, &err), &err);
		assert_int_equal(now, dir);
		assert_int_equal(entries(run_dir), 0);
	}
	must(netns_dir_restore(NETNS_DIR_ABSENT, &err), &err);
	{
		_cleanup_json_ json_t *prior = NULL;
		_cleanup_(node_leave) struct node_visit v = {.fd = -1};

		build(args, &prior);
		must(netns_add(LAB_NETNS_DIR "/somebody", &v, &err), &err);
		node_leave(&v);
		take_down(args, prior);
		assert_int_equal(access(LAB_NETNS_DIR "/somebody", F_OK), 0);
		assert_int_equal(entries(run_dir), 0);
	}
	must(netns_del(LAB_NETNS_DIR "/somebody", &err), &err);
	must(netns_dir_restore(NETNS_DIR_ABSENT, &err), &err);
	assert_nothing_left();
}

/*
 * A process that was moved into the lab and holds on to it: by its namespace, found and killed; a
 * mount namespace that it made, with copies of our names in it, does not keep them.
 */
static void test_other_processes_in_it(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *prior = NULL;
	_cleanup_node_ struct node *a = NULL;
	struct err err = {0};
	int status, ready[2];
	char c;
	pid_t pid;

	(void)state;
	build(args, &prior);
	a = lab_node("ltpair", "a");
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = __real_fork();
	if (pid == 0) {
		struct node_visit v = {.fd = -1};

		if (node_enter(a, &v, &err) < 0 || unshare(CLONE_NEWNS) < 0 ||
			mount("", "/", "none", MS_SLAVE | MS_REC, NULL) < 0)
			_exit(1);
		signal(SIGTERM, SIG_IGN);
		(void)!write(ready[1], "r", 1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	/* reaped by the undo, since it is our child: waitpid() finds none */
	take_down(args, prior);
	assert_int_equal(waitpid(pid, &status, 0), -1);
	assert_int_equal(errno, ECHILD);
	assert_nothing_left();
}

/* A mount below the lab's folder is nobody's of ours: what is in there stays, and the undo says so. */
static void test_mount_in_the_folder(void **state)
{
	_cleanup_json_ json_t *args = site_args(pair_site), *prior = NULL;
	_cleanup_free_ char *dir = strf("%s/ltpair/mnt", lab_root),
			    *file = strf("%s/ltpair/mnt/x", lab_root);
	struct err err = {0};

	(void)state;
	build(args, &prior);
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(mount("none", dir, "tmpfs", 0, NULL), 0);
	assert_int_equal(file_write(file, "x", 1), 0);
	assert_int_equal(ops->undo(host, args, prior, &err), -EBUSY);
	assert_int_equal(access(file, F_OK), 0);
	assert_int_equal(ops->verify(host, args, prior, &err), 1);
	assert_int_equal(umount2(dir, 0), 0);
	take_down(args, prior);
	assert_nothing_left();
}

/* Two labs at once: /run/netns goes back with the last one, whichever that is. */
static void test_two_labs(void **state)
{
	_cleanup_json_ json_t *a = site_args(pair_site), *b = site_args(pair_site), *pa = NULL,
			      *pb = NULL;

	(void)state;
	json_object_set_new(json_object_get(b, "site"), "name", json_string("ltother"));
	build(a, &pa);
	build(b, &pb);
	take_down(a, pa);
	assert_int_equal(access(LAB_NETNS_DIR "/muster-ltother-a", F_OK), 0);
	take_down(b, pb);
	assert_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_builds_and_connects_at_once, clean),
		cmocka_unit_test_teardown(test_ready_each_time, clean),
		cmocka_unit_test_teardown(test_ip_tool_sees_it, clean),
		cmocka_unit_test_teardown(test_plain_commands, clean),
		cmocka_unit_test_teardown(test_daemon_serves_and_goes, clean),
		cmocka_unit_test_teardown(test_undo_from_the_record_in_another_process, clean),
		cmocka_unit_test_teardown(test_killed_before_each_step, clean),
		cmocka_unit_test_teardown(test_killed_while_daemons_start, clean),
		cmocka_unit_test_teardown(test_killed_at_random, clean),
		cmocka_unit_test_teardown(test_undo_killed_before_each_step, clean),
		cmocka_unit_test_teardown(test_leftover_of_a_killed_run, clean),
		cmocka_unit_test_teardown(test_stale_record_spares_the_new_lab, clean),
		cmocka_unit_test_teardown(test_refuses_what_is_in_use, clean),
		cmocka_unit_test_teardown(test_refuses_a_name_that_is_not_ours, clean),
		cmocka_unit_test_teardown(test_conflict, clean),
		cmocka_unit_test_teardown(test_never_kills_the_host, clean),
		cmocka_unit_test_teardown(test_daemon_that_ends, clean),
		cmocka_unit_test_teardown(test_daemon_that_is_late, clean),
		cmocka_unit_test_teardown(test_missing_sysctl, clean),
		cmocka_unit_test_teardown(test_ipvs_is_asked_for, clean),
		cmocka_unit_test_teardown(test_run_netns_goes_back, clean),
		cmocka_unit_test_teardown(test_other_processes_in_it, clean),
		cmocka_unit_test_teardown(test_mount_in_the_folder, clean),
		cmocka_unit_test_teardown(test_two_labs, clean),
	};

	if (geteuid() != 0) {
		print_message("skipped: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("lab.site", tests, group_setup, group_teardown);
}
