/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * redis_pair.h: a real Redis on the small bridge site: a primary on "node", its replica on "peer", and one sentinel, which could elect
 * another primary but is so patient that it never does. All of it dies with the site. To muster it is the database "cache"
 * (REDIS_PAIR_DECLARED).
 *
 *	struct redis_pair pair = {0};
 *
 *	redis_pair_start(&pair, &bridge, bridge.peer);
 *	...					the primary is taken away, and comes back with nothing
 *	redis_pair_await(&pair);		the replica has found it again
 *	redis_pair_stop(&pair);
 *
 * Include after cmocka.h.
 */
#pragma once

#include <sys/syscall.h>

#include "engine/change.h"
#include "inject/redis.h"
#include "tests/lab/bridge_site.h"

#define REDIS_PAIR_DIR	    "/run/redis-pair/"
#define REDIS_PAIR_PORT	    6379
#define REDIS_PAIR_SENTINEL 26379
#define REDIS_PAIR_PATIENCE (10 * NSEC_PER_SEC)

/* Of a site's text: @sentinel is the name of the sentinel's node */
#define REDIS_PAIR_DECLARED(sentinel)                                                                                          \
	"\"databases\": [{\"name\": \"cache\", \"kind\": \"redis\", \"port\": 6379, \"nodes\": [\"node\", \"peer\"], "           \
	"\"sentinels\": [\"" sentinel "\"], \"sentinel_port\": 26379}]"

static const struct redis_at redis_pair_primary = {"198.18.0.2", REDIS_PAIR_PORT},
			     redis_pair_replica = {"198.18.0.1", REDIS_PAIR_PORT};

struct redis_pair {
	const struct bridge_site *bridge; /* NULL: it does not run */
	struct redis_at sentinel;
};

static inline bool redis_pair_installed(void)
{
	return access("/usr/bin/redis-server", X_OK) == 0 && access("/usr/bin/redis-sentinel", X_OK) == 0;
}

/* Is the change with these arguments one on a database? */
static inline bool redis_pair_wanted(const struct change_ops *ops, const json_t *args)
{
	for (const struct param *p = ops->params; p->name; p++)
		if (p->type == PARAM_DATABASE && json_object_get(args, p->name))
			return true;
	return false;
}

static inline bool redis_pair_answers(const struct node *from, struct redis_at at)
{
	_cleanup_reply_ redisReply *r = NULL;

	return redis_ask(from, at, "PING", now_ns() + NSEC_PER_SEC / 2, &r, NULL) == 0 && r->type == REDIS_REPLY_STATUS;
}

static inline void redis_pair_await_answer(const struct node *from, struct redis_at at)
{
	for (nsec_t until = now_ns() + REDIS_PAIR_PATIENCE; !redis_pair_answers(from, at); (void)poll(NULL, 0, 20))
		if (now_ns() > until)
			fail_msg("%s port %u does not answer", at.addr, at.port);
}

/* What the sentinel says of the primary's state: "master", when it sees it and has nothing against it; false: it says nothing */
static inline bool redis_pair_flags(const struct redis_pair *p, char *ret, size_t size)
{
	_cleanup_reply_ redisReply *r = NULL;

	if (redis_ask(p->bridge->peer, p->sentinel, "SENTINEL MASTER cache", now_ns() + NSEC_PER_SEC, &r, NULL) < 0)
		return false;
	for (size_t i = 0; r->type == REDIS_REPLY_ARRAY && i + 1 < r->elements; i += 2)
		if (streq(r->element[i]->str, "flags")) {
			snprintf(ret, size, "%s", r->element[i + 1]->str);
			return true;
		}
	return false;
}

/* Until the replica is in sync (and the child that sent it its copy has gone), and the sentinel sees the primary */
static inline void redis_pair_await(const struct redis_pair *p)
{
	struct redis_replication r = {0};
	char flags[64] = "none";

	for (nsec_t until = now_ns() + REDIS_PAIR_PATIENCE;; (void)poll(NULL, 0, 50)) {
		if (redis_replication(p->bridge->node, redis_pair_primary, now_ns() + NSEC_PER_SEC, &r, NULL) == 0 &&
			r.n_replicas == 1 && streq(r.replicas[0].state, "online") && r.replicas[0].lag >= 0 &&
			r.replicas[0].lag < 2 && redis_pair_flags(p, flags, sizeof(flags)) && streq(flags, "master"))
			return;
		if (now_ns() > until)
			fail_msg("the replica does not follow: %zu, %s; the sentinel sees: %s", r.n_replicas,
				r.replicas[0].state, flags);
	}
}

/* @what: "server", "sentinel" */
static inline void redis_pair_run(const struct node *n, const char *what, const char *conf)
{
	_cleanup_free_ char *dir = strf(REDIS_PAIR_DIR "%s-%s", n->name, what), *path = strf("%s/conf", dir);

	assert_int_equal(mkdir_p(dir), 0);
	assert_int_equal(file_write(path, conf, strlen(conf)), 0);
	/* by path: what is started again is not to be in a mount namespace of its own (change.h) */
	sh("cd %s && nsenter --net=%s setsid redis-%s %s </dev/null >>log 2>&1 &", dir, n->netns, what, path);
}

/* @sentinel: the node of the sentinel */
static inline void redis_pair_start(struct redis_pair *p, const struct bridge_site *bridge, const struct node *sentinel)
{
	static const char common[] = "port %d\nbind * -::*\nprotected-mode no\ndaemonize no\nset-proc-title no\nsave \"\"\n"
				     "repl-diskless-sync-delay 0\n";
	_cleanup_free_ char *leads = strf(common, REDIS_PAIR_PORT),
			    *follows = strf("%sreplicaof %s %d\n", leads, redis_pair_primary.addr, REDIS_PAIR_PORT),
			    *watches = strf("port %d\nbind * -::*\nprotected-mode no\nsentinel monitor cache %s %d 1\n"
					    "sentinel down-after-milliseconds cache 3600000\n",
				    REDIS_PAIR_SENTINEL, redis_pair_primary.addr, REDIS_PAIR_PORT);

	*p = (struct redis_pair){.bridge = bridge,
		.sentinel = {sentinel == bridge->node ? redis_pair_primary.addr : redis_pair_replica.addr, REDIS_PAIR_SENTINEL}};
	redis_pair_run(bridge->node, "server", leads);
	redis_pair_await_answer(bridge->node, redis_pair_primary);
	redis_pair_run(bridge->peer, "server", follows);
	redis_pair_run(sentinel, "sentinel", watches);
	redis_pair_await(p);
}

/* Whoever of them runs, be it as somebody has started it again */
static inline void redis_pair_stop(struct redis_pair *p)
{
	bool more = p->bridge != NULL;

	while (more) {
		const struct node *nodes[] = {p->bridge->node, p->bridge->peer};

		more = false;
		for (size_t i = 0; i < ARRAY_SIZE(nodes); i++) {
			_cleanup_free_ pid_t *pids = NULL;
			size_t n;

			assert_int_equal(node_pids(nodes[i], &pids, &n, NULL), 0);
			for (size_t k = 0; k < n; k++) {
				_cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pids[k], 0);
				char link[32], cwd[256] = "";

				snprintf(link, sizeof(link), "/proc/%d/cwd", (int)pids[k]);
				if (readlink(link, cwd, sizeof(cwd) - 1) < 0 || strncmp(cwd, REDIS_PAIR_DIR, strlen(REDIS_PAIR_DIR)) != 0)
					continue;
				kill(pids[k], SIGKILL);
				if (fd >= 0)
					assert_int_equal(clock_poll(fd, POLLIN, now_ns() + REDIS_PAIR_PATIENCE), 0);
				more = true;
			}
		}
		while (waitpid(-1, NULL, WNOHANG) > 0)
			; /* process 1 inherits the orphans */
	}
	*p = (struct redis_pair){0};
}

/* It runs, or is started; what a test that failed has left of it goes first. */
static inline void redis_pair_ensure(struct redis_pair *p, const struct bridge_site *bridge, const struct node *sentinel)
{
	if (p->bridge && redis_pair_answers(bridge->node, redis_pair_primary))
		return;
	redis_pair_stop(p);
	redis_pair_start(p, bridge, sentinel);
}
