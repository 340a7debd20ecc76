/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * examples.h: what every change's example is tried on: the small bridge site of tests/lab/bridge_site.h, as the site that it would be for
 * muster, with a service, a daemon and a database (change.h, `example`); and the examples, one by one.
 *
 * Include after cmocka.h.
 */
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "engine/change.h"
#include "engine/site.h"
#include "tests/lab/bridge_site.h"
#include "tests/lab/redis_pair.h"

#define EXAMPLE_PORT 8080

static const char example_site_text[] =
	"{\"name\": \"conformance\", \"switches\": [\"lan\"], \"nodes\": ["
	" {\"name\": \"node\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.2/24\", "
	"\"2001:db8::2/64\"]}]},"
	" {\"name\": \"peer\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.1/24\", "
	"\"2001:db8::1/64\"]}]}],"
	" \"services\": [{\"name\": \"web\", \"protocol\": \"tcp\", \"port\": 8080, \"vips\": [\"198.18.0.100\"], "
	"\"scheduler\": \"wrr\","
	"  \"forward\": \"dr\", \"directors\": [\"node\", \"peer\"], \"servers\": [{\"node\": \"peer\", \"weight\": 1}]}],"
	" " REDIS_PAIR_DECLARED("peer") "}";

struct example_site {
	struct bridge_site bridge;
	struct redis_pair database; /* runs only for whom it concerns: example_site_serve() */
	struct node *host;
	struct site *named;
};

static inline bool example_daemon_listens(const struct example_site *s)
{
	_cleanup_close_ int fd = node_socket(s->bridge.node, AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons(EXAMPLE_PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

/* "SELF daemon": the one that listens on "node" */
static inline int example_daemon_main(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(EXAMPLE_PORT)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0)
		return 1;
	for (;;)
		pause();
}

/* Where the test was started: its namespace, and whether that is the microVM, where the whole machine is the test's */
static int example_outer = -1;
static bool example_in_vm;
__attribute__((constructor)) static void example_remember_outer(void)
{
	example_outer = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	example_in_vm = access("/run/muster-vm", F_OK) == 0;
}

static inline bool example_own_machine(void)
{
	return example_in_vm;
}

/* The machine's network card, which has interrupts, comes into this namespace, and goes back by itself when that ends. */
static inline void example_take_card(void)
{
	pid_t pid;
	int status;

	if (if_nametoindex("eth0") != 0)
		return;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		nsec_t until = now_ns() + 5 * NSEC_PER_SEC;

		if (setns(example_outer, CLONE_NEWNET) < 0)
			_exit(126);
		/* the kernel takes its time to bring it back from the namespace of the last test */
		while (if_nametoindex("eth0") == 0 && now_ns() < until)
			(void)poll(NULL, 0, 20);
		if (if_nametoindex("eth0") != 0)
			execlp("ip", "ip", "link", "set", "eth0", "netns", "1", NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status != 0)
		return;
	sh("echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6 && ip link set eth0 up");
	/* the kernel tells of the carrier a while after; what changes then would be taken for the change's doing */
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC;
		system("ip -o link show dev eth0 | grep -q ' state UP '") != 0; (void)poll(NULL, 0, 20))
		assert_true(now_ns() < until);
}

/* @self: this program, which runs example_daemon_main() when it is told "daemon" */
static inline void example_site_make(struct example_site *s, const char *self)
{
	_cleanup_json_ json_t *j = json_loads(example_site_text, 0, NULL);
	struct err err = {0};

	bridge_site_make(&s->bridge);
	s->host = node_new("host", NULL);
	assert_non_null(s->host);
	assert_int_equal(node_open(s->host, NULL), 0);
	assert_non_null(j);
	if (site_from_json(j, &s->named, &err) < 0)
		fail_msg("%s", err.text);
	sh("ip -n node address add 198.18.0.100/32 dev eth0"); /* the director that schedules */
	/* a file of its own: a daemon is not a muster */
	sh("cp %s /run/daemon && ip netns exec node setsid /run/daemon daemon </dev/null >/dev/null 2>&1 &", self);
	if (example_own_machine())
		example_take_card();
	/* for the rules that refer to them, where this kernel has any */
	sh("for s in 'blocked4 hash:ip' 'blocked6 hash:ip family inet6'; do ip netns exec node ipset create $s 2>/dev/null; done; :");
	/* the service as somebody else has made it, with a weight that is not the declared one; where the kernel has IPVS */
	(void)!system("ip netns exec node sh -c 'ipvsadm -A -t 198.18.0.100:8080 -s wrr && "
		      "ipvsadm -a -t 198.18.0.100:8080 -r 198.18.0.1:8080 -g -w 2' >/dev/null 2>&1");
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; !example_daemon_listens(s); (void)poll(NULL, 0, 10))
		assert_true(now_ns() < until);
}

static inline void example_site_drop(struct example_site *s)
{
	site_free(s->named);
	node_free(s->host);
	bridge_site_drop(&s->bridge);
	*s = (struct example_site){0};
}

/* The canonical state of all of it, and of the machine around it */
static inline char *example_site_snapshot(const struct example_site *s)
{
	const struct node *nodes[] = {s->bridge.sw, s->bridge.node, s->bridge.peer, s->host};
	struct err err = {0};
	char *text = NULL;

	if (snapshot_take(nodes, ARRAY_SIZE(nodes), &text, &err) < 0)
		fail_msg("snapshot: %s", err.text);
	return text;
}

/* ── the examples ──────────────────────────────────────────────────────────────────────────── */

/* One example of one change; without one, json is NULL */
struct example {
	const struct change_ops *ops;
	json_t *json;
	char name[64];
};

/* How many a change has: one at least, which may be none */
static inline size_t example_count(const struct change_ops *ops)
{
	_cleanup_json_ json_t *list = ops->example ? json_loads(ops->example, 0, NULL) : NULL;

	if (ops->example && !list) {
		fprintf(stderr, "%s: its example is no JSON\n", ops->name);
		exit(1);
	}
	return json_is_array(list) ? json_array_size(list) : 1;
}

static inline void example_get(const struct change_ops *ops, size_t i, struct example *ret)
{
	_cleanup_json_ json_t *list = ops->example ? json_loads(ops->example, 0, NULL) : NULL;
	size_t n = json_is_array(list) ? json_array_size(list) : 1;

	*ret = (struct example){.ops = ops, .json = json_incref(json_is_array(list) ? json_array_get(list, i) : list)};
	snprintf(ret->name, sizeof(ret->name), n > 1 ? "%s, example %zu" : "%s", ops->name, i + 1);
}

/* What only some of the examples need runs for them, and for no other: the database. 1: it is not installed, and the reason was printed. */
static inline int example_site_serve(struct example_site *s, const struct example *e)
{
	if (!redis_pair_wanted(e->ops, e->json)) {
		redis_pair_stop(&s->database);
		return 0;
	}
	if (!redis_pair_installed()) {
		printf("SKIP: %s: redis-server or redis-sentinel is not installed\n", e->name);
		return 1;
	}
	redis_pair_ensure(&s->database, &s->bridge, s->bridge.peer);
	return 0;
}

/* Until what was started again has found its place */
static inline void example_site_await(const struct example_site *s)
{
	if (s->database.bridge)
		redis_pair_await(&s->database);
}

/* Checked and resolved; *ret_node is borrowed. 1: not in this kernel, and the reason was printed. */
static inline int example_args(
	const struct example_site *s, const struct example *e, json_t **ret_args, const struct node **ret_node)
{
	_cleanup_json_ json_t *args = NULL;
	const struct node *n = s->host;
	struct err err = {0};
	const char *name;
	int r = 0;

	if (e->ops->kind == CHANGE_LAB)
		args = json_deep_copy(e->json);
	else
		r = param_check(e->ops->params, e->ops->name, e->json, NULL, &args, &err);
	if (r == 0 && e->ops->resolve)
		r = e->ops->resolve(s->named, args, &err);
	if (r < 0)
		fail_msg("the example of %s: %s", e->name, err.text);
	name = json_string_value(json_object_get(args, "node"));
	if (e->ops->kind != CHANGE_LAB) {
		assert_non_null(name);
		n = streq(name, "host") ? s->host : streq(name, "peer") ? s->bridge.peer : s->bridge.node;
		/* what the kernel has once for all is not a test's to change, unless the whole machine is the test's: the microVM */
		if (n == s->host && !example_own_machine()) {
			printf("SKIP: %s: of the whole machine, and this one is not the test's own\n", e->name);
			return 1;
		}
	}
	if (e->ops->supported) {
		r = e->ops->supported(n, args, &err);
		if (r == -EOPNOTSUPP) {
			assert_true(err.text[0]);
			printf("SKIP: %s: %s\n", e->name, err.text);
			return 1;
		}
		if (r < 0)
			fail_msg("%s: supported: %s", e->name, err.text);
	}
	*ret_args = TAKE_PTR(args);
	*ret_node = n;
	return 0;
}
