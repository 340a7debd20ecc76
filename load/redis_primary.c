/* SPDX-License-Identifier: GPL-2.0-only */
/*
 *	ASKING ──on_sentinel()──> CONNECTING ──on_role()──> FOUND
 *	  ^  └ no answer in STEP, or nobody known      │          │
 *	  │                         └ refused, no answer in STEP, or no primary
 *	  └──────────── WAITING, for RETRY ────────────┴──────────┘ lost or dropped
 */
#include "load/redis_primary.h"

#include <string.h>

#include <hiredis/adapters/libuv.h>

#include "engine/str.h"

#define STEP_MS	 500 /* for one answer, while looking */
#define RETRY_MS 50

enum state { WAITING, ASKING, CONNECTING, FOUND };

struct redis_primary {
	uv_loop_t *loop;
	const struct database *db;
	const struct redis_primary_ops *ops;
	void *arg;
	uv_timer_t timer;
	enum state state;
	size_t next;		  /* sentinel, or node, to be tried next */
	redisAsyncContext *ac;	  /* to a sentinel or to a node; NULL: none */
	const struct node *node;  /* CONNECTING, FOUND */
	unsigned int finds;
};

static void look(struct redis_primary *p);

/* Our end of a connection: from here on nothing that happens to it is ours. */
static void forget(struct redis_primary *p)
{
	redisAsyncContext *ac = p->ac;

	p->ac = NULL;
	if (!ac)
		return;
	ac->data = NULL;
	redisAsyncFree(ac);
}

static void on_timer(uv_timer_t *timer)
{
	struct redis_primary *p = timer->data;

	forget(p);
	look(p);
}

static void wait_and_look(struct redis_primary *p)
{
	p->state = WAITING;
	uv_timer_start(&p->timer, on_timer, RETRY_MS, 0);
}

static void gone(struct redis_primary *p, const char *why)
{
	bool had = p->state == FOUND;

	p->state = WAITING;
	forget(p);
	if (had)
		p->ops->lost(p->arg, why);
	wait_and_look(p);
}

static void on_connect(const redisAsyncContext *ac, int status)
{
	struct redis_primary *p = ac->data;

	if (!p || status == REDIS_OK)
		return;
	p->ac = NULL; /* hiredis frees it */
	gone(p, "the connection failed");
}

static void on_disconnect(const redisAsyncContext *ac, int status _unused_)
{
	struct redis_primary *p = ac->data;

	if (!p)
		return;
	p->ac = NULL;
	gone(p, "the connection was closed");
}

/* false: not even a socket could be had */
static bool connect_to(struct redis_primary *p, const struct node *n, uint16_t port)
{
	char buf[64];
	const char *addr = site_node_addr(n, AF_INET, buf);
	redisAsyncContext *ac;

	if (!addr)
		addr = site_node_addr(n, AF_INET6, buf);
	ac = addr ? redisAsyncConnect(addr, port) : NULL;
	if (!ac)
		return false;
	if (ac->err || redisLibuvAttach(ac, p->loop) != REDIS_OK) {
		redisAsyncFree(ac);
		return false;
	}
	ac->data = p;
	p->ac = ac;
	redisAsyncSetConnectCallback(ac, on_connect);
	redisAsyncSetDisconnectCallback(ac, on_disconnect);
	uv_timer_start(&p->timer, on_timer, STEP_MS, 0);
	return true;
}

static void on_role(redisAsyncContext *ac, void *reply, void *arg _unused_)
{
	struct redis_primary *p = ac->data;
	const redisReply *r = reply;

	if (!p || !r)
		return; /* what ended the connection says so itself */
	if (r->type != REDIS_REPLY_ARRAY || r->elements < 1 || r->element[0]->type != REDIS_REPLY_STRING ||
		!streq(r->element[0]->str, "master")) {
		gone(p, "it is no primary");
		return;
	}
	uv_timer_stop(&p->timer);
	p->state = FOUND;
	p->finds++;
	p->ops->found(p->arg);
}

static void connect_node(struct redis_primary *p, const struct node *n)
{
	p->state = CONNECTING;
	p->node = n;
	if (!connect_to(p, n, p->db->port) || redisAsyncCommand(p->ac, on_role, NULL, "ROLE") != REDIS_OK) {
		forget(p);
		wait_and_look(p);
	}
}

static const struct node *node_of(const struct database *db, const char *addr)
{
	static const int families[] = {AF_INET, AF_INET6};
	char buf[64];

	for (size_t i = 0; i < db->n_nodes; i++)
		for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
			const char *a = site_node_addr(db->nodes[i], families[f], buf);

			if (a && streq(a, addr))
				return db->nodes[i];
		}
	return NULL;
}

static void on_sentinel(redisAsyncContext *ac, void *reply, void *arg _unused_)
{
	struct redis_primary *p = ac->data;
	const redisReply *r = reply;
	const struct node *n = NULL;

	if (!p || !r)
		return;
	if (r->type == REDIS_REPLY_ARRAY && r->elements == 2 && r->element[0]->type == REDIS_REPLY_STRING)
		n = node_of(p->db, r->element[0]->str);
	forget(p);
	if (n)
		connect_node(p, n);
	else
		wait_and_look(p);
}

static void look(struct redis_primary *p)
{
	size_t n = p->db->n_sentinels ? p->db->n_sentinels : p->db->n_nodes, i = p->next++ % n;

	if (!p->db->n_sentinels) {
		connect_node(p, p->db->nodes[i]);
		return;
	}
	p->state = ASKING;
	if (!connect_to(p, p->db->sentinels[i], p->db->sentinel_port) ||
		redisAsyncCommand(p->ac, on_sentinel, NULL, "SENTINEL get-master-addr-by-name %s", p->db->name) != REDIS_OK) {
		forget(p);
		wait_and_look(p);
	}
}

int redis_primary_new(uv_loop_t *loop, const struct database *db, const struct redis_primary_ops *ops, void *arg,
	struct redis_primary **ret)
{
	struct redis_primary *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	*p = (struct redis_primary){.loop = loop, .db = db, .ops = ops, .arg = arg};
	uv_timer_init(loop, &p->timer);
	p->timer.data = p;
	*ret = p;
	look(p);
	return 0;
}

static void on_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void redis_primary_free(struct redis_primary *p)
{
	if (!p)
		return;
	p->state = WAITING;
	forget(p);
	uv_close((uv_handle_t *)&p->timer, on_closed);
}

redisAsyncContext *redis_primary_context(const struct redis_primary *p)
{
	return p->state == FOUND ? p->ac : NULL;
}

const struct node *redis_primary_node(const struct redis_primary *p)
{
	return p->state == FOUND ? p->node : NULL;
}

unsigned int redis_primary_finds(const struct redis_primary *p)
{
	return p->finds;
}

void redis_primary_drop(struct redis_primary *p, const char *why)
{
	if (p->state == FOUND)
		gone(p, why);
}
