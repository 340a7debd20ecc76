/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who is the primary: each node of each Redis database is asked for its role, every POLL, from within its own network namespace, so
 * that a fault of the network between the nodes does not keep it from answering: two of them may well believe that they
 * are the primary.
 *
 * An event (EV_DATABASE) is written when the answer changes, and EV_ROLE when somebody begins or ceases to be the primary. A node
 * that does not answer within SILENCE is "unknown": frozen, or drowned; one that refuses the connection is "down". Neither
 * is told to have ceased to be what it was, as far as others know; the role is released when it says something else, or is down.
 *
 * The time of an event is that of the answer; of "unknown", that of the question that was not answered, since that is how long
 * nothing is known. The watermark is the time of the oldest question that has no answer yet.
 *
 * Two that each say, both after the second one began to, that they are the primary are split brain. When that has lasted for
 * SPLIT, it is written to the log, and when it is over, once more.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <hiredis/adapters/libuv.h>
#include <hiredis/async.h>
#include <uv.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"

#define POLL_MS 50
#define SILENCE (1 * NSEC_PER_SEC)
#define SPLIT	(1 * NSEC_PER_SEC) /* shorter ones are those of a change that everybody hears of in his turn */

enum role { NOT_ASKED, PRIMARY, REPLICA, DOWN, UNKNOWN };
static const char *const role_names[] = {"", "primary", "replica", "down", "unknown"};

struct watched {
	struct sampler *sm;
	const struct database *db;
	const struct node *node;
	redisAsyncContext *ac;
	nsec_t asked; /* 0: no question is under way */
	enum role role;
	bool holds;   /* it was the last thing it said: primary */
	nsec_t began, heard; /* when it first, and when it last said so */
	nsec_t two_since;    /* of the first one of a database: that there are two primaries; 0: there are not */
	bool split;	     /* and it has been said */
	int replicas; /* of a primary: that follow it; of a replica: 1 when its link is up */
};

struct sampler {
	struct timeline *tl;
	char *name;
	uv_loop_t loop;
	uv_timer_t timer;
	pthread_t thread;
	atomic_bool stop;
	size_t n;
	struct watched *nodes;
	uint64_t polls, answers;
	bool started;
};

static void say_role(struct watched *w, nsec_t t, bool taken)
{
	if (w->holds == taken)
		return;
	w->holds = taken;
	w->began = t;
	timeline_event(w->sm->tl, t, EV_ROLE,
		json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "service", w->db->name, "role", "primary", "node", w->node->name, "state",
			taken ? "taken" : "released", "what", "the writes", "initial", !w->sm->started));
}

static void say_at(struct watched *w, nsec_t t, enum role role, int replicas)
{
	if (role != w->role || replicas != w->replicas)
		timeline_event(w->sm->tl, t, EV_DATABASE,
			json_pack("{s:s, s:s, s:s, s:i}", "database", w->db->name, "node", w->node->name, "role", role_names[role],
				"replicas", replicas));
	w->role = role;
	w->replicas = replicas;
	if (role != UNKNOWN)
		say_role(w, t, role == PRIMARY);
	if (role == PRIMARY)
		w->heard = t;
}

static void say(struct watched *w, enum role role, int replicas)
{
	say_at(w, now_ns(), role, replicas);
}

/* Are there two nodes of @db that have said it since the last of them began to? One that was frozen when the other was elected has not. */
static bool two_primaries(const struct sampler *sm, const struct database *db, struct strbuf *names)
{
	nsec_t since = 0;
	unsigned int n = 0;

	for (size_t i = 0; i < sm->n; i++)
		if (sm->nodes[i].db == db && sm->nodes[i].holds && sm->nodes[i].role == PRIMARY)
			since = MAX(since, sm->nodes[i].began);
	for (size_t i = 0; i < sm->n; i++) {
		const struct watched *w = &sm->nodes[i];

		if (w->db != db || !w->holds || w->role != PRIMARY || w->heard < since)
			continue;
		strbuf_addf(names, "%s%s", n++ ? " and " : "", w->node->name);
	}
	return n > 1;
}

static void look_for_split(struct sampler *sm, nsec_t now)
{
	for (size_t i = 0; i < sm->n; i++) {
		struct watched *first = &sm->nodes[i]; /* of its database: it keeps the account */
		_cleanup_strbuf_ struct strbuf names = {0};
		char *text = NULL;

		if (i && first[-1].db == first->db)
			continue;
		if (!two_primaries(sm, first->db, &names)) {
			if (first->split)
				text = strf("the split brain of %s is over, after %.1f s", first->db->name,
					(double)(now - first->two_since) / NSEC_PER_SEC);
			first->two_since = 0;
			first->split = false;
		} else if (!first->two_since) {
			first->two_since = now;
		} else if (!first->split && now - first->two_since >= SPLIT) {
			first->split = true;
			text = strf("split brain: %s have both been the primary of %s for %.1f s", strbuf_cstr(&names), first->db->name,
				(double)(now - first->two_since) / NSEC_PER_SEC);
		}
		if (text)
			timeline_event(sm->tl, now, EV_LOG, json_pack("{s:s, s:s}", "text", text, "where", ""));
		free(text);
	}
}

static void forget(struct watched *w)
{
	redisAsyncContext *ac = w->ac;

	w->ac = NULL;
	w->asked = 0;
	if (!ac)
		return;
	ac->data = NULL;
	redisAsyncFree(ac);
}

static void on_connect(const redisAsyncContext *ac, int status)
{
	struct watched *w = ac->data;

	if (!w || status == REDIS_OK)
		return;
	w->ac = NULL;
	w->asked = 0;
	say(w, DOWN, 0);
}

static void on_disconnect(const redisAsyncContext *ac, int status _unused_)
{
	struct watched *w = ac->data;

	if (!w)
		return;
	/* it may have ended, or ended us alone: the next connect tells */
	w->ac = NULL;
	w->asked = 0;
}

static void on_role(redisAsyncContext *ac, void *reply, void *arg _unused_)
{
	struct watched *w = ac->data;
	const redisReply *r = reply;

	if (!w || !r)
		return;
	w->asked = 0;
	w->sm->answers++;
	if (r->type != REDIS_REPLY_ARRAY || r->elements < 3 || r->element[0]->type != REDIS_REPLY_STRING)
		say(w, UNKNOWN, 0); /* LOADING, say */
	else if (streq(r->element[0]->str, "master"))
		say(w, PRIMARY, r->element[2]->type == REDIS_REPLY_ARRAY ? (int)r->element[2]->elements : 0);
	else
		say(w, REPLICA,
			r->elements > 3 && r->element[3]->type == REDIS_REPLY_STRING && streq(r->element[3]->str, "connected"));
}

/* The socket is made inside the node; this thread is back outside before anything else happens. */
static void open_connection(struct watched *w)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	redisAsyncContext *ac;

	if (node_enter(w->node, &v, NULL) < 0)
		return;
	ac = redisAsyncConnect("127.0.0.1", w->db->port);
	if (!ac)
		return;
	if (ac->err || redisLibuvAttach(ac, &w->sm->loop) != REDIS_OK) {
		redisAsyncFree(ac);
		return;
	}
	ac->data = w;
	w->ac = ac;
	redisAsyncSetConnectCallback(ac, on_connect);
	redisAsyncSetDisconnectCallback(ac, on_disconnect);
}

static void poll_one(struct watched *w, nsec_t now)
{
	if (w->asked && now - w->asked >= SILENCE) {
		say_at(w, w->asked, UNKNOWN, w->replicas);
		forget(w);
	}
	if (w->asked)
		return;
	if (!w->ac)
		open_connection(w);
	if (w->ac && redisAsyncCommand(w->ac, on_role, NULL, "ROLE") == REDIS_OK) {
		w->asked = now;
		w->sm->polls++;
	}
}

static void on_timer(uv_timer_t *timer)
{
	struct sampler *sm = timer->data;
	nsec_t now = now_ns(), complete = now;

	if (atomic_load(&sm->stop)) {
		for (size_t i = 0; i < sm->n; i++)
			forget(&sm->nodes[i]);
		uv_timer_stop(timer);
		uv_close((uv_handle_t *)timer, NULL);
		timeline_watermark(sm->tl, sm->name, NSEC_INFINITY);
		return;
	}
	for (size_t i = 0; i < sm->n; i++) {
		struct watched *w = &sm->nodes[i];

		if (w->asked)
			complete = MIN(complete, w->asked);
		poll_one(w, now);
	}
	look_for_split(sm, now);
	/* what was heard first was so from the start */
	sm->started = sm->started || sm->polls > 2 * sm->n;
	timeline_watermark(sm->tl, sm->name, complete);
}

static void *sampler_main(void *arg)
{
	struct sampler *sm = arg;

	pthread_setname_np(pthread_self(), "muster-redis");
	uv_run(&sm->loop, UV_RUN_DEFAULT);
	uv_loop_close(&sm->loop);
	return NULL;
}

static void sampler_free(struct sampler *sm)
{
	if (!sm)
		return;
	free(sm->nodes);
	free(sm->name);
	free(sm);
}

static void sampler_freep(struct sampler **sm)
{
	sampler_free(*sm);
}

static int redis_applies(const struct source_ctx *ctx, struct err *err _unused_)
{
	return ctx->site->n_databases > 0;
}

static int redis_start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	_cleanup_(sampler_freep) struct sampler *sm = calloc(1, sizeof(*sm));
	int r;

	if (!sm)
		return err_set(err, -ENOMEM, "out of memory");
	sm->tl = ctx->tl;
	sm->name = strdup(ctx->name);
	sm->nodes = calloc(ctx->site->n_databases * DATABASE_NODES_MAX, sizeof(*sm->nodes));
	if (!sm->name || !sm->nodes)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t d = 0; d < ctx->site->n_databases; d++) {
		const struct database *db = &ctx->site->databases[d];

		for (size_t i = 0; i < db->n_nodes; i++) {
			r = node_open(db->nodes[i], err);
			if (r < 0)
				return r;
			sm->nodes[sm->n++] = (struct watched){.sm = sm, .db = db, .node = db->nodes[i]};
		}
	}
	r = uv_loop_init(&sm->loop);
	if (r < 0)
		return err_set(err, r, "redis: loop: %s", uv_strerror(r));
	uv_timer_init(&sm->loop, &sm->timer);
	sm->timer.data = sm;
	uv_timer_start(&sm->timer, on_timer, 0, POLL_MS);
	timeline_watermark(sm->tl, sm->name, now_ns());
	r = source_thread(&sm->thread, sampler_main, sm, err);
	if (r < 0) {
		timeline_watermark(sm->tl, sm->name, NSEC_INFINITY);
		return err_prefix(err, "redis");
	}
	*ret_handle = TAKE_PTR(sm);
	return 0;
}

static void redis_stop(void *handle, json_t **ret_summary)
{
	_cleanup_(sampler_freep) struct sampler *sm = handle;

	atomic_store(&sm->stop, true);
	pthread_join(sm->thread, NULL);
	if (ret_summary)
		*ret_summary = json_pack("{s:I, s:I, s:I}", "polls", (json_int_t)sm->polls, "answers", (json_int_t)sm->answers,
			"interval_ns", (json_int_t)POLL_MS * NSEC_PER_MSEC);
}

const struct source_ops source_redis = {
	.name = "redis",
	.summary = "Who is the primary of each database, and who follows it, every 50 ms",
	.kind = SOURCE_SAMPLER,
	.applies = redis_applies,
	.start = redis_start,
	.stop = redis_stop,
};
