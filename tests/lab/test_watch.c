/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A small lab with one nginx, watched: `muster watch` says what goes on in it and leaves nothing behind; and what the telemetry has
 * counted is what nginx has written into its own access log, connection by connection and byte by byte. In a mount namespace of its
 * own, so that this machine's /run and /etc stay as they are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
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

#include <bpf/bpf.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/probe.h"
#include "engine/source.h"
#include "engine/str.h"
#include "lab/lab.h"
#include "command.h"

#define PATIENCE (60 * NSEC_PER_SEC)
#define SERVER	 "198.18.9.2"

static const char watched_site[] =
	"local conf = [[daemon off; worker_processes 1; user root; pid %{dir}/pid; events { worker_connections 256; } http {\n"
	"log_format bytes '$request_length $bytes_sent'; access_log %{dir}/access.log bytes;\n"
	"client_body_temp_path %{dir}/1; proxy_temp_path %{dir}/2; fastcgi_temp_path %{dir}/3; uwsgi_temp_path %{dir}/4;\n"
	"scgi_temp_path %{dir}/5; server { listen 0.0.0.0:8080; location / { return 200 'hello'; } } }]]\n"
	"return { name = 'watched', summary = 'one to look at', switches = { 'lan' }, nodes = {\n"
	"  { name = 'client', links = { { switch = 'lan', addrs = { '198.18.9.1/24' } } } },\n"
	"  { name = 'gate', links = { { switch = 'lan', addrs = { '198.18.9.3/24' } } } },\n"
	"  { name = 'server', links = { { switch = 'lan', addrs = { '" SERVER "/24' } } },\n"
	"    daemons = { { name = 'nginx', argv = { '/usr/sbin/nginx', '-c', '%{dir}/c', '-p', '%{dir}', '-e', '%{dir}/e' },\n"
	"      files = { c = conf }, ready = { listen = 8080 } } } } },\n"
	"  services = { { name = 'web', port = 8080, vips = { '" SERVER "' }, director = 'gate', servers = { { node = 'server' } } } } }\n";

static int group_setup(void **state _unused_)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("none", "/run", "tmpfs", 0, "mode=755") < 0 || overlay_etc() < 0)
		return -1;
	command_errors = "/run/err"; /* the output is JSON */
	return mkdir_p("/etc/muster/sites") < 0 ||
		file_write("/etc/muster/sites/watched.lua", watched_site, strlen(watched_site)) < 0;
}

static int lab_up(void **state _unused_)
{
	if (access("/usr/sbin/nginx", X_OK) == 0)
		expect(0, "lab up watched", NULL);
	return 0;
}

static int lab_down(void **state _unused_)
{
	if (access("/usr/sbin/nginx", X_OK) == 0)
		expect(0, "lab down watched", NULL);
	return 0;
}

static void need_nginx(void)
{
	if (access("/usr/sbin/nginx", X_OK) == 0)
		return;
	printf("SKIP: nginx is not installed (apt-get install nginx-light)\n");
	skip();
}

/* ── from the client's node ────────────────────────────────────────────────────────────────── */

struct own_count {
	uint64_t connections, sent, received;
};

/* One request on a connection of its own, until the server closes it */
static bool request(const char *path, struct own_count *c)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(8080)};
	char text[256], buf[2048];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), n;
	ssize_t got;

	inet_pton(AF_INET, SERVER, &a.sin_addr);
	n = snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || write(fd, text, (size_t)n) != n)
		return false;
	c->connections++;
	c->sent += (uint64_t)n;
	while ((got = read(fd, buf, sizeof(buf))) > 0)
		c->received += (uint64_t)got;
	close(fd);
	return got == 0;
}

/* In a child that enters the node; what it counted itself comes back */
static struct own_count requests(const struct node *client, int n)
{
	struct own_count c = {0};
	int fds[2], status;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (setns(client->netns_fd, CLONE_NEWNET) < 0)
			_exit(1);
		for (int i = 0; i < n; i++) {
			char path[64];

			snprintf(path, sizeof(path), "/%0*d", i % 40 + 1, i);
			if (!request(path, &c))
				_exit(2);
			if (n > 100)
				poll(NULL, 0, 5);
		}
		_exit(write(fds[1], &c, sizeof(c)) != sizeof(c));
	}
	close(fds[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(fds[0], &c, sizeof(c)), sizeof(c));
	close(fds[0]);
	return c;
}

static struct site *open_site(json_t **ret_labs)
{
	struct site *site = NULL;
	struct err err = {0};

	assert_int_equal(lab_list(ret_labs, &err), 0);
	assert_int_equal(json_array_size(*ret_labs), 1);
	if (site_from_json(json_object_get(json_array_get(*ret_labs, 0), "site"), &site, &err) < 0 || lab_bind(site, &err) < 0)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < site->n_nodes; i++)
		if (node_open(site->nodes[i], &err) < 0)
			fail_msg("%s", err.text);
	return site;
}

/* Lines, and the sums of its two columns; nginx writes them when a request is done */
static void access_log(struct own_count *ret)
{
	_cleanup_free_ char *text = NULL;
	unsigned long long bytes_in, bytes_out;
	int used;

	*ret = (struct own_count){0};
	assert_int_equal(system("cat $(find /run/muster -name access.log) > /run/log"), 0);
	assert_int_equal(file_read("/run/log", 1 << 20, &text, NULL), 0);
	for (const char *s = text; sscanf(s, "%llu %llu\n%n", &bytes_in, &bytes_out, &used) == 2; s += used) {
		ret->connections++;
		ret->received += bytes_in;
		ret->sent += bytes_out;
	}
}

static void the_telemetry_agrees_with_nginx_own_log(void **state _unused_)
{
	enum { N = 90 };
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *labs = NULL, *summary = NULL;
	json_int_t established, clean, bytes_in, bytes_out, client_in, client_out;
	const struct source_ops *ops = source_find(SOURCE_TELEMETRY, "conn");
	struct source_ctx ctx = {.name = "conn"};
	struct own_count own, log, before;
	const struct tl_event *e;
	struct err err = {0};
	uint64_t told = 0;
	struct site *site;
	void *h = NULL;
	size_t n;

	need_nginx();
	site = open_site(&labs);
	access_log(&before);
	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	ctx.tl = tl;
	ctx.site = site;
	if (ops->start(&ctx, &h, &err) < 0)
		fail_msg("%s", err.text);
	own = requests(site_node(site, "client"), N);
	/* the last end is the kernel's: a second is long enough for the watermark, and so for it */
	assert_int_equal(timeline_wait(tl, now_ns() + NSEC_PER_SEC, now_ns() + PATIENCE), 1);
	ops->stop(h, &summary);
	access_log(&log);
	log.connections -= before.connections;
	log.received -= before.received;
	log.sent -= before.sent;
	assert_int_equal(own.connections, N);
	assert_int_equal(log.connections, N);
	assert_int_equal(json_unpack(summary,
				 "{s:{s:{s:{s:{s:I, s:I, s:I, s:{s:I}}}, s:{s:I, s:I}}}}", "services", "web", "servers", "server",
				 "established", &established, "bytes_in", &bytes_in, "bytes_out", &bytes_out, "outcomes", "closed", &clean, "clients",
				 "bytes_in", &client_in, "bytes_out", &client_out),
		0);
	assert_int_equal(established, log.connections);
	assert_int_equal(clean, log.connections);
	assert_int_equal(bytes_in, log.received);
	assert_int_equal(bytes_out, log.sent);
	assert_int_equal(client_out, own.sent);
	assert_int_equal(client_in, own.received);
	assert_int_equal(bytes_in, own.sent);
	assert_int_equal(bytes_out, own.received);

	/* and so does the map, as it was told second by second */
	timeline_lock(tl);
	n = timeline_events(tl, &e);
	for (size_t i = 0; i < n; i++) {
		const char *node, *peer, *role;
		json_int_t established_then;

		if (!streq(e[i].kind, EV_TRAFFIC) ||
			json_unpack(e[i].data, "{s:s, s:s, s:s, s:I}", "node", &node, "role", &role, "peer", &peer, "established",
				&established_then) < 0)
			continue;
		if (streq(node, "server") && streq(role, "passive") && streq(peer, "client"))
			told += (uint64_t)established_then;
	}
	timeline_unlock(tl);
	assert_int_equal(told, N);
	site_free(site);
}

/* ── the command ───────────────────────────────────────────────────────────────────────────── */

static unsigned int links(void)
{
	uint32_t id = 0;
	unsigned int n = 0;

	while (bpf_link_get_next_id(id, &id) == 0)
		n++;
	return n;
}

static void it_tells_what_goes_on_and_leaves_nothing(void **state _unused_)
{
	unsigned int busy = 0, lines = 0;
	_cleanup_json_ json_t *labs = NULL;
	nsec_t deadline = now_ns() + PATIENCE;
	double accepted = 0;
	struct site *site;
	unsigned int before;
	char *save = NULL;
	pid_t pid;

	need_nginx();
	site = open_site(&labs);
	before = links();
	pid = start("watch watched --for 5s --json", 0);
	while (links() <= before && now_ns() < deadline)
		poll(NULL, 0, 5);
	assert_true(links() > before);
	(void)requests(site_node(site, "client"), 600); /* 200 a second, for three */
	assert_int_equal(finish(pid), 0);
	for (char *line = strtok_r(out, "\n", &save); line; line = strtok_r(NULL, "\n", &save), lines++) {
		_cleanup_json_ json_t *j = json_loads(line, 0, NULL);
		const json_t *web = json_object_get(json_object_get(j, "services"), "web"),
			     *server = json_object_get(json_object_get(web, "servers"), "server");
		double rate = json_number_value(json_object_get(web, "accepted"));

		assert_non_null(web);
		assert_true(json_is_number(json_object_get(server, "accepted")));
		accepted += rate;
		if (rate < 50)
			continue;
		busy++;
		assert_true(json_number_value(json_object_get(server, "accepted")) == rate);
		assert_true(json_number_value(json_object_get(web, "connect_failed")) == 0);
		if (!json_is_null(json_object_get(web, "connect_p99")))
			assert_true(json_number_value(json_object_get(web, "connect_p99")) >=
				json_number_value(json_object_get(web, "connect_p50")));
	}
	assert_in_range(lines, 3, 5);
	assert_true(busy >= 1);
	/* windows of a second, each where the last ended: none is told twice; the last may lie beyond the end */
	assert_true(accepted >= 300 && accepted <= 600);
	while (links() != before && now_ns() < deadline)
		poll(NULL, 0, 5);
	assert_int_equal(links(), before);
	site_free(site);
}

/* With each connection come some packets to the server, as many as to its service; nothing is sent on where there is no IPVS. */
static void packets_are_told(void **state _unused_)
{
	_cleanup_json_ json_t *labs = NULL;
	nsec_t deadline = now_ns() + PATIENCE;
	unsigned int before, busy = 0;
	struct site *site;
	char *save = NULL;
	pid_t pid;

	need_nginx();
	site = open_site(&labs);
	before = links();
	pid = start("watch watched --for 4s --json --packets", 0);
	/* three devices, and the connections' */
	while (links() <= before + 3 && now_ns() < deadline)
		poll(NULL, 0, 5);
	assert_true(links() > before + 3);
	(void)requests(site_node(site, "client"), 400);
	assert_int_equal(finish(pid), 0);
	for (char *line = strtok_r(out, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		_cleanup_json_ json_t *j = json_loads(line, 0, NULL);
		const json_t *web = json_object_get(json_object_get(j, "services"), "web"),
			     *server = json_object_get(json_object_get(web, "servers"), "server");
		double rate = json_number_value(json_object_get(web, "accepted")), packets = json_number_value(json_object_get(web, "packets"));

		assert_non_null(web);
		assert_true(json_is_number(json_object_get(web, "packets")) && json_is_number(json_object_get(web, "packet_bytes")));
		assert_true(json_number_value(json_object_get(server, "packets")) == packets);
		if (rate < 50)
			continue;
		busy++;
		assert_in_range(packets / rate, 3, 10); /* SYN, ACK, request, FIN at least */
		assert_true(json_number_value(json_object_get(web, "packet_bytes")) > 54 * packets);
	}
	assert_true(busy >= 1);
	while (links() != before && now_ns() < deadline)
		poll(NULL, 0, 5);
	assert_int_equal(links(), before);
	site_free(site);
}

/* A process of our own in the client's node, with so many calls of each sort */
static void calls_are_told_by_process(void **state _unused_)
{
	enum { N = 7 };
	_cleanup_json_ json_t *labs = NULL, *line = NULL;
	unsigned int before = links();
	nsec_t deadline = now_ns() + PATIENCE;
	const json_t *p, *found = NULL;
	json_int_t connects, failed, sent, sent_bytes, received, received_bytes, again;
	struct site *site;
	struct stat st;
	pid_t pid, child;
	const char *node;
	char *last;
	int status;
	size_t i;

	need_nginx();
	site = open_site(&labs);
	pid = start("watch watched --for 3s --json --processes", 0);
	/* all of them are attached: the first line is on its way */
	while (stat(COMMAND_OUT, &st) == 0 && st.st_size == 0 && now_ns() < deadline)
		poll(NULL, 0, 5);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(8080)}, closed = {.sin_family = AF_INET, .sin_port = htons(9)};
		static const char text[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
		char buf[2048];

		inet_pton(AF_INET, SERVER, &a.sin_addr);
		inet_pton(AF_INET, SERVER, &closed.sin_addr);
		if (setns(site_node(site, "client")->netns_fd, CLONE_NEWNET) < 0)
			_exit(1);
		for (int k = 0; k < N; k++) {
			int fd = socket(AF_INET, SOCK_STREAM, 0), none = socket(AF_INET, SOCK_STREAM, 0);

			if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || connect(none, (struct sockaddr *)&closed, sizeof(closed)) == 0 ||
				sendto(fd, text, strlen(text), 0, NULL, 0) != (ssize_t)strlen(text) ||
				recvfrom(fd, buf, 10, MSG_WAITALL, NULL, NULL) != 10)
				_exit(2);
			while (recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, NULL, NULL) > 0)
				;
			close(fd);
			close(none);
		}
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(finish(pid), 0);
	out[strlen(out) - 1] = '\0';
	last = strrchr(out, '\n');
	line = json_loads(last ? last + 1 : out, 0, NULL);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(line, "calls"), "lost")), 0);
	json_array_foreach (json_object_get(json_object_get(line, "calls"), "processes"), i, p)
		if (json_integer_value(json_object_get(p, "pid")) == child)
			found = p;
	assert_non_null(found);
	assert_int_equal(json_unpack((json_t *)found, "{s:s, s:{s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I, s:I}}", "node", &node, "connect", "calls",
				 &connects, "errors", &failed, "sendto", "calls", &sent, "bytes", &sent_bytes, "recvfrom", "calls",
				 &received, "bytes", &received_bytes, "again", &again),
		0);
	assert_string_equal(node, "client");
	assert_int_equal(connects, 2 * N);
	assert_int_equal(failed, N);
	assert_int_equal(sent, N);
	assert_int_equal(sent_bytes, N * (json_int_t)strlen("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
	assert_true(received >= 2 * N);
	assert_true(received_bytes >= 10 * N);
	assert_int_equal(again, N); /* the last of each loop */
	while (links() != before && now_ns() < deadline)
		poll(NULL, 0, 5);
	assert_int_equal(links(), before);
	site_free(site);
}

static void ctrl_c_ends_it(void **state _unused_)
{
	unsigned int before = links();
	nsec_t deadline = now_ns() + PATIENCE;
	pid_t pid;

	need_nginx();
	pid = start("watch watched", 0);
	while (links() <= before && now_ns() < deadline)
		poll(NULL, 0, 5);
	assert_true(links() > before);
	kill(pid, SIGINT);
	assert_int_equal(finish(pid), 0);
	while (links() != before && now_ns() < deadline)
		poll(NULL, 0, 5);
	assert_int_equal(links(), before);
}

static void misuse_is_told(void **state _unused_)
{
	expect(2, "watch", NULL);
	expect(2, "watch no-such-lab", NULL);
	expect(2, "watch watched --for 2h", NULL);
	expect(2, "watch watched --for soon", NULL);
}

static void nothing_without_root(void **state _unused_)
{
	printf("SKIP: all of them: network namespaces and BPF need root\n");
	skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(misuse_is_told),
		cmocka_unit_test_setup_teardown(the_telemetry_agrees_with_nginx_own_log, lab_up, lab_down),
		cmocka_unit_test_setup_teardown(it_tells_what_goes_on_and_leaves_nothing, lab_up, lab_down),
		cmocka_unit_test_setup_teardown(packets_are_told, lab_up, lab_down),
		cmocka_unit_test_setup_teardown(calls_are_told_by_process, lab_up, lab_down),
		cmocka_unit_test_setup_teardown(ctrl_c_ends_it, lab_up, lab_down),
	};
	const struct CMUnitTest none[] = {cmocka_unit_test(nothing_without_root)};

	if (geteuid() != 0)
		return cmocka_run_group_tests(none, NULL, NULL);
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
