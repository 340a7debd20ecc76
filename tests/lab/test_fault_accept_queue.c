/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Acceptors frozen while connections arrive: a listener of the test's own with a short queue, and clients on the other
 * node. What overflows is dropped in silence, or answered with RST; both are seen by the clients and by the kernel's counters. And
 * who holds a virtual address, as it moves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "bridge_site.h"
#include "engine/change.h"
#include "engine/tcp_stat.h"
#include "lvs/vip_watch.h"

#define PORT	8080
#define BACKLOG 8	      /* as many handshakes may be under way, and one connection more may wait */
#define BEFORE	(BACKLOG - 1) /* so many wait already */
#define CLIENTS BACKLOG
#define REFUSED (BEFORE + CLIENTS - (BACKLOG + 1))

static struct bridge_site bridge;
static char self[4096];

/* Accepts and closes, for ever */
static int daemon_main(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0)
		return 1;
	for (;;) {
		int c = accept(fd, NULL, NULL);

		if (c >= 0)
			close(c);
	}
}

static size_t listening(void)
{
	_cleanup_free_ struct listener *l = NULL;
	size_t n = 0;

	assert_int_equal(listeners_read(bridge.node, PORT, &l, &n, NULL), 0);
	return n;
}

static int make(void **state _unused_)
{
	bridge_site_make(&bridge);
	sh("cp %s /run/acceptor && ip netns exec node setsid /run/acceptor daemon </dev/null >/dev/null 2>&1 &", self);
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; listening() == 0; (void)poll(NULL, 0, 10))
		assert_true(now_ns() < until);
	return 0;
}

static int drop(void **state _unused_)
{
	bridge_site_drop(&bridge);
	return 0;
}

/* Connects as a client does; what became of it within three seconds */
enum fate { SERVED, RESET, SILENT };

static void connect_all(int *fds, int n)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};

	inet_pton(AF_INET, "198.18.0.2", &a.sin_addr);
	for (int i = 0; i < n; i++) {
		fds[i] = node_socket(bridge.peer, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		assert_true(fds[i] >= 0);
	}
	for (int i = 0; i < n; i++)
		if (connect(fds[i], (struct sockaddr *)&a, sizeof(a)) < 0)
			assert_int_equal(errno, EINPROGRESS);
}

static unsigned int count_fates(int fds[CLIENTS], enum fate wanted)
{
	nsec_t deadline = now_ns() + 3 * NSEC_PER_SEC;
	unsigned int n = 0;

	for (int i = 0; i < CLIENTS; i++) {
		enum fate fate = SILENT;

		while (fate == SILENT) {
			struct pollfd p = {.fd = fds[i], .events = POLLIN};
			nsec_t left = MAX(deadline - now_ns(), 0);
			ssize_t got;
			char c;

			if (poll(&p, 1, (int)(left / NSEC_PER_MSEC)) <= 0)
				break;
			got = recv(fds[i], &c, 1, MSG_DONTWAIT);
			if (got == 0)
				fate = SERVED; /* accepted and closed */
			else if (got < 0 && (errno == ECONNRESET || errno == ECONNREFUSED))
				fate = RESET;
			else if (got < 0 && errno != EAGAIN)
				fail_msg("recv: %s", strerror(errno));
		}
		n += fate == wanted;
	}
	return n;
}

static void close_all(const int *fds, int n)
{
	for (int i = 0; i < n; i++)
		close(fds[i]);
}

static bool served(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = node_socket(bridge.peer, AF_INET, SOCK_STREAM, 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char c;
	bool ok;

	inet_pton(AF_INET, "198.18.0.2", &a.sin_addr);
	/* the acceptor may still have a full queue to work off: the SYN is sent again after a second */
	ok = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && poll(&p, 1, 5000) > 0 && recv(fd, &c, 1, 0) == 0;
	close(fd);
	return ok;
}

static const struct change_ops *ops(void)
{
	const struct change_ops *o = change_find("fault.accept_queue");

	assert_non_null(o);
	return o;
}

static json_t *measured(const json_t *args, const json_t *prior)
{
	json_t *e = NULL;
	struct err err = {0};

	if (ops()->measure(bridge.node, args, prior, &e, &err) < 0)
		fail_msg("measure: %s", err.text);
	return e;
}

static json_int_t of(const json_t *evidence, const char *key)
{
	return json_integer_value(json_object_get(json_object_get(evidence, "measured"), key));
}

static void overflow(bool abort, enum fate fate)
{
	_cleanup_json_ json_t *args = json_pack("{s:s, s:i, s:b}", "node", "node", "port", PORT, "abort", abort), *prior = NULL,
			      *idle = NULL, *full = NULL;
	uint64_t before, after;
	struct err err = {0};
	int before_it[BEFORE], fds[CLIENTS];

	if (ops()->capture(bridge.node, args, &prior, &err) < 0 || ops()->apply(bridge.node, args, prior, &err) < 0)
		fail_msg("%s", err.text);
	/* frozen, and nobody has come: it did not bite */
	idle = measured(args, prior);
	assert_true(json_is_false(json_object_get(idle, "proved")));
	assert_int_equal(of(idle, "stopped"), 1);
	assert_int_equal(tcp_ext_counter(bridge.node, "ListenOverflows", &before, NULL), 0);

	/*
	 * The queue is almost full. Then all SYNs are there before the first ACK comes: one that finds the queue full would be
	 * dropped, whatever `abort` says; and no more than the backlog, or it would be answered with a cookie, whose ACK is dropped too.
	 */
	connect_all(before_it, BEFORE);
	sh("tc -n node qdisc add dev eth0 root tbf rate 8kbit burst 90 limit 100000");
	connect_all(fds, CLIENTS);
	sleep(2); sh("ip netns exec node nstat -az | grep -iE \"Listen|OutRst|Overflow|Cookie|InSegs|Backlog\"; ip netns exec node ss -tan; tc -s -n node qdisc show dev eth0; ip netns exec node sysctl net.ipv4.tcp_abort_on_overflow net.ipv4.tcp_syncookies"); 	assert_int_equal(count_fates(fds, fate), fate == SILENT ? CLIENTS : REFUSED);
	close_all(fds, CLIENTS);
	close_all(before_it, BEFORE);
	sh("tc -n node qdisc del dev eth0 root");
	full = measured(args, prior);
	assert_true(json_is_true(json_object_get(full, "proved")));
	assert_int_equal(of(full, "queued"), BACKLOG + 1);
	assert_int_equal(of(full, "limit"), BACKLOG);
	/* the number is the kernel's own, to the last one */
	assert_int_equal(tcp_ext_counter(bridge.node, "ListenOverflows", &after, NULL), 0);
	assert_int_equal(of(full, "overflows"), after - before);

	if (ops()->undo(bridge.node, args, prior, &err) != 0 || ops()->verify(bridge.node, args, prior, &err) != 0)
		fail_msg("%s", err.text);
	/* and who comes now is served again */
	assert_true(served());
}

static void dropped_in_silence(void **state _unused_)
{
	overflow(false, SILENT);
}

static void answered_with_rst(void **state _unused_)
{
	overflow(true, RESET);
}

static void nobody_listens_there(void **state _unused_)
{
	_cleanup_json_ json_t *args = json_pack("{s:s, s:i}", "node", "node", "port", PORT + 1), *prior = NULL;
	struct err err = {0};

	assert_int_equal(ops()->capture(bridge.node, args, &prior, &err), -ESRCH);
	assert_string_equal(err.text, "node: nobody listens on TCP port 8081");
}

/* ── processes that hold one listening socket ──────────────────────────────────────────────── */

struct pair {
	pid_t parent, child;
};

/* Listens on PORT + 1 and has a child that holds the socket too; both wait. @vforked: the parent sleeps in the kernel until the child ends. */
static int pair_main(bool vforked)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT + 1)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct pair p = {.parent = getpid()};

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0)
		return 1;
	p.child = (pid_t)syscall(SYS_clone, SIGCHLD | (vforked ? CLONE_VFORK : 0), 0, 0, 0, 0);
	if (p.child == 0) {
		p.child = getpid();
		(void)!write(1, &p, sizeof(p));
		for (;;)
			pause();
	}
	(void)!write(1, "awake", 5);
	for (;;)
		pause();
}

/* *ret_fd: what they say */
static struct pair pair_start(const char *mode, int *ret_fd)
{
	struct pair p = {0};
	int out[2];

	assert_int_equal(pipe(out), 0);
	if (fork() == 0) {
		dup2(out[1], 1);
		execlp("ip", "ip", "netns", "exec", "node", "/run/acceptor", mode, NULL);
		_exit(127);
	}
	close(out[1]);
	while (p.child == 0) {
		char word[sizeof(p)];

		assert_int_equal(read(out[0], word, 5), 5);
		if (memcmp(word, "awake", 5) == 0)
			continue;
		assert_int_equal(read(out[0], word + 5, sizeof(p) - 5), sizeof(p) - 5);
		memcpy(&p, word, sizeof(p));
	}
	*ret_fd = out[0];
	return p;
}

static void pair_end(const struct pair *p, int fd)
{
	kill(p->child, SIGKILL);
	kill(p->parent, SIGKILL);
	assert_int_equal(waitpid(p->parent, NULL, 0), p->parent);
	close(fd);
}

static char state_of(pid_t pid)
{
	_cleanup_free_ char *path = strf("/proc/%d/stat", (int)pid), *text = NULL;

	assert_int_equal(file_read(path, 4096, &text, NULL), 0);
	return strrchr(text, ')')[2];
}

static bool is_soon(pid_t pid, char state)
{
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; now_ns() < until; (void)poll(NULL, 0, 5))
		if (state_of(pid) == state)
			return true;
	return false;
}

static json_t *args_of_pair(void)
{
	return json_pack("{s:s, s:i}", "node", "node", "port", PORT + 1);
}

/* One that was stopped before stays stopped; its companion is stopped and goes on. */
static void who_was_stopped_before_stays_so(void **state _unused_)
{
	_cleanup_json_ json_t *args = args_of_pair(), *prior = NULL;
	struct err err = {0};
	int fd;
	struct pair p = pair_start("twins", &fd);

	kill(p.child, SIGSTOP);
	assert_true(is_soon(p.child, 'T'));
	if (ops()->capture(bridge.node, args, &prior, &err) < 0 || ops()->apply(bridge.node, args, prior, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(state_of(p.parent), 'T');
	if (ops()->undo(bridge.node, args, prior, &err) != 0 || ops()->verify(bridge.node, args, prior, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(state_of(p.child), 'T');
	assert_int_not_equal(state_of(p.parent), 'T');
	pair_end(&p, fd);
}

/* It sleeps in the kernel, and comes to the stop only when all has been undone: it must not stop then. */
static void a_stop_that_is_still_to_come_is_taken_back(void **state _unused_)
{
	_cleanup_json_ json_t *args = args_of_pair(), *prior = NULL;
	struct err err = {0};
	char word[5];
	int fd;
	struct pair p = pair_start("vforked", &fd);

	assert_int_equal(state_of(p.parent), 'D');
	if (ops()->capture(bridge.node, args, &prior, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(ops()->apply(bridge.node, args, prior, &err), -ETIMEDOUT);
	if (ops()->undo(bridge.node, args, prior, &err) != 0)
		fail_msg("%s", err.text);
	kill(p.child, SIGKILL); /* and the parent goes on */
	assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000), 1);
	assert_int_equal(read(fd, word, 5), 5);
	assert_memory_equal(word, "awake", 5);
	pair_end(&p, fd);
}

/* ── who holds an address ──────────────────────────────────────────────────────────────────── */

static uint32_t held(struct vip_watch *w)
{
	uint32_t h = UINT32_MAX;
	struct err err = {0};

	if (vip_watch_read(w, &h, &err) < 0)
		fail_msg("%s", err.text);
	return h;
}

static bool told(struct vip_watch *w)
{
	struct pollfd p = {.fd = vip_watch_fd(w), .events = POLLIN};

	return poll(&p, 1, 2000) > 0;
}

static void an_address_moves(void **state _unused_)
{
	static const char vips[2][64] = {"198.18.0.100", "2001:db8::100"};
	_cleanup_vip_watch_ struct vip_watch *w = NULL;
	struct err err = {0};

	if (vip_watch_open(bridge.node, vips, 2, &w, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(held(w), 0);
	sh("ip -n node addr add 198.18.0.100/32 dev eth0");
	assert_true(told(w));
	assert_int_equal(held(w), 1);
	sh("ip -n node addr add 2001:db8::100/128 dev eth0 nodad");
	assert_true(told(w));
	assert_int_equal(held(w), 3);
	/* on lo it serves nobody */
	sh("ip -n node addr del 198.18.0.100/32 dev eth0; ip -n node addr add 198.18.0.100/32 dev lo");
	assert_true(told(w));
	assert_int_equal(held(w), 2);
	/* an address of another kind, and the same one with another prefix */
	sh("ip -n node addr add 198.18.0.101/32 dev eth0; ip -n node addr del 198.18.0.100/32 dev lo;"
	   "ip -n node addr add 198.18.0.100/24 dev eth0");
	assert_int_equal(held(w), 3);
	sh("ip -n node addr flush dev eth0 to 198.18.0.100/31; ip -n node -6 addr del 2001:db8::100/128 dev eth0");
	assert_int_equal(held(w), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		/* in this order: an RST ends a handshake; one that was dropped in silence still counts for the next test's SYN queue */
		cmocka_unit_test(answered_with_rst),
		cmocka_unit_test(dropped_in_silence),
		cmocka_unit_test(nobody_listens_there),
		cmocka_unit_test(who_was_stopped_before_stays_so),
		cmocka_unit_test(a_stop_that_is_still_to_come_is_taken_back),
		cmocka_unit_test(an_address_moves),
	};

	if (argc == 2 && streq(argv[1], "daemon"))
		return daemon_main();
	if (argc == 2 && (streq(argv[1], "twins") || streq(argv[1], "vforked")))
		return pair_main(streq(argv[1], "vforked"));
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, make, drop);
}
