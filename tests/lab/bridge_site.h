/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * bridge_site.h: for tests that need a whole small network: namespaces "sw" (a bridge called lan), "node" and "peer",
 * joined by veths, with addresses. All of it, and every process started in it, dies with the test, however that ends: the
 * test runs as process 1 of a PID namespace of its own, with a mount namespace whose /run is its own.
 *
 *	node eth0  198.18.0.2/24  2001:db8::2/64      sw: port "node"
 *	peer eth0  198.18.0.1/24  2001:db8::1/64      sw: port "peer"
 *
 * Include after cmocka.h.
 */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/node.h"
#include "engine/snapshot.h"
#include "engine/str.h"
#include "inject/echo.h"
#include "tests/lab/sandbox.h"

/* A skip says why, and can be counted. */
#ifndef SKIP
#define SKIP(...)                                                                                  \
	do {                                                                                       \
		printf("SKIP: %s: ", __func__);                                                    \
		printf(__VA_ARGS__);                                                               \
		printf("\n");                                                                      \
		skip();                                                                            \
	} while (0)
#endif

struct bridge_site {
	struct node *sw, *node, *peer;
};

/* A shell command that must work */
static inline void sh(const char *fmt, ...) _printf_(1, 2);
static inline void sh(const char *fmt, ...)
{
	char command[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	if (system(command) != 0)
		fail_msg("failed: %s", command);
}

static inline struct node *site_node_make(const char *name, const char *dev, const char *peer_dev)
{
	_cleanup_free_ char *path = strf("/run/netns/%s", name);
	struct node *n = node_new(name, path);

	assert_non_null(n);
	if (dev) {
		n->n_links = 1;
		strcpy(n->links[0].dev, dev);
		n->links[0].peer_netns = strdup("/run/netns/sw");
		strcpy(n->links[0].peer_dev, peer_dev);
	}
	if (node_open(n, NULL) < 0)
		fail_msg("node %s cannot be opened", name);
	return n;
}

/* The canonical state of all three namespaces */
static inline char *site_snapshot(const struct bridge_site *s)
{
	const struct node *nodes[] = {s->sw, s->node, s->peer};
	struct err err = {0};
	char *text = NULL;

	if (snapshot_take(nodes, 3, &text, &err) < 0)
		fail_msg("snapshot: %s", err.text);
	return text;
}

static inline unsigned int count_text(const char *s, const char *what)
{
	unsigned int n = 0;

	while ((s = strstr(s, what))) {
		n++;
		s++;
	}
	return n;
}

static inline void bridge_site_make(struct bridge_site *s)
{
	/* No waiting for duplicate addresses: until that is over the kernel still adds to the picture. */
	sh("for n in sw node peer; do ip netns add $n && "
	   "nsenter --net=/run/netns/$n sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad' || exit 1; done");
	sh("printf '%%s\n' 'link set lo up' 'link add lan type bridge' 'link set lan up' "
	   "'link add node type veth peer name eth0 netns node' 'link set node master lan' 'link set node up' "
	   "'link add peer type veth peer name eth0 netns peer' 'link set peer master lan' 'link set peer up' | ip -n sw -b -");
	sh("i=1; for n in peer node; do printf '%%s\n' 'link set lo up' 'link set eth0 up' \"addr add 198.18.0.$i/24 dev eth0\" "
	   "\"addr add 2001:db8::$i/64 dev eth0 nodad\" | ip -n $n -b - || exit 1; i=2; done");
	s->sw = site_node_make("sw", NULL, NULL);
	s->node = site_node_make("node", "eth0", "node");
	s->peer = site_node_make("peer", "eth0", "peer");
	strcpy(s->node->links[0].addrs[0], "198.18.0.2/24");
	strcpy(s->node->links[0].addrs[1], "2001:db8::2/64");
	s->node->links[0].n_addrs = 2;
	/* carriers, and the link-local addresses that come with them, take a moment: five devices with one each */
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC;;) {
		_cleanup_free_ char *now = site_snapshot(s);

		if (count_text(now, " operstate 6 ") == 5 && count_text(now, " addr fe80:") == 5)
			break;
		if (now_ns() > until)
			fail_msg("the links do not come up: %s", now);
		(void)poll(NULL, 0, 10);
	}
}

static inline void bridge_site_drop(struct bridge_site *s)
{
	node_free(s->sw);
	node_free(s->node);
	node_free(s->peer);
	*s = (struct bridge_site){0};
	sh("for n in node peer sw; do ip netns pids $n | xargs -r kill -KILL; ip netns del $n; done");
	while (waitpid(-1, NULL, WNOHANG) > 0)
		; /* process 1 inherits the orphans */
}

/* Equal to @before, line by line, but for what comes and goes by itself; shows what differs. */
static inline void assert_site_equals(const struct bridge_site *s, const char *before)
{
	_cleanup_free_ char *after = site_snapshot(s);
	_cleanup_json_ json_t *diff = snapshot_diff(before, after);
	_cleanup_free_ char *text = json_dumps(diff, JSON_INDENT(1));

	if (!diff || json_array_size(diff) > 0)
		fail_msg("the site is not as it was: %s", text);
}

static inline bool site_differs(const struct bridge_site *s, const char *before)
{
	_cleanup_free_ char *after = site_snapshot(s);
	_cleanup_json_ json_t *diff = snapshot_diff(before, after);

	return json_array_size(diff) > 0;
}

/* Does @addr answer an echo of the peer's? */
static inline bool reachable(const struct bridge_site *s, const char *addr)
{
	struct echo_result e;

	return echo_run(s->peer, "eth0", addr, 2, 20 * NSEC_PER_MSEC, 300 * NSEC_PER_MSEC, &e, NULL) == 0 && e.received > 0;
}

/*
 * The same, within 5 s: who could not find a neighbour asks for it again once a second only.
 */
static inline bool becomes_reachable(const struct bridge_site *s, const char *addr)
{
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; now_ns() < until;)
		if (reachable(s, addr))
			return true;
	return false;
}

/* A record as the journal would keep it: through text and back */
static inline json_t *through_text(const json_t *j)
{
	_cleanup_free_ char *text = json_dumps(j, JSON_COMPACT);
	json_t *back = text ? json_loads(text, 0, NULL) : NULL;

	assert_non_null(back);
	assert_true(json_equal(j, back));
	return back;
}
