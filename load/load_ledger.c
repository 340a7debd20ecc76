/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * load_ledger.c: a ledger of writes: numbered, at a fixed rate, each acknowledgement kept on our side, everything read back in the
 * end. What was acknowledged and is not there has been lost by the database.
 *
 *	RPUSH KEY 1, RPUSH KEY 2, ...      each number once: a write that fails is not tried again, so a number that is there
 *	                                   twice was doubled by the database and not by us
 *	LINDEX KEY -1                      behind each write: the last number that the database knows. Less than had been
 *	                                   acknowledged before the question was sent is a stale answer
 *	LRANGE KEY 0 -1                    at the end, from whoever is the primary then
 *
 * The schedule is that of load_http.c: write i is due at start + i / rate, whatever the database does; latency counts from
 * there. A write that finds no primary waits for one, up to `timeout` after it was due. A write without an answer by then has timed
 * out, and the connection is given up, as an application would: the database may or may not have taken it.
 *
 * The history goes to the timeline as events (EV_LEDGER), a batch for each bucket; ledger_check() (engine/ledger.h) judges from
 * there alone, now or later.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"
#include "load/buckets.h"
#include "load/realtime.h"
#include "load/redis_primary.h"

#define READ_BACK_WAIT	(15 * NSEC_PER_SEC) /* for a primary to be found, and to answer */
#define READ_BACK_CHUNK 5000
#define ABORT_WAIT	(2 * NSEC_PER_SEC)
#define TICK_MAX_MS	20
#define WRITES_MAX	(1u << 22)

enum write_state { WAITING, SENT, ENDED };

struct write {
	nsec_t due, sent, ended;
	const char *node; /* of the site */
	uint8_t state, outcome;
};

/* A command under way */
struct command {
	struct ledger *l;
	uint64_t n;	/* the write's number; LINDEX: the highest one that was acknowledged when it was sent */
	nsec_t sent;
};

struct ledger {
	struct timeline *tl;
	const struct node *node;
	const struct database *db;
	char *name, key[96];
	double rate;
	nsec_t timeout;

	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t started;
	int start_result; /* 1: not yet */
	struct err start_err;
	atomic_bool stop, abort; /* the timer looks at them, TICK_MAX_MS later at the latest */

	/* the thread's own */
	uv_loop_t loop;
	uv_timer_t timer;
	struct redis_primary *primary;
	struct buckets buckets;
	struct realtime realtime;
	nsec_t start;
	nsec_t read_deadline; /* -1: not yet; 0: it has been read */
	uint64_t last; /* number of the first write that is not wanted any more */
	struct write *writes;
	uint64_t n, room;	/* started; number i is writes[i - 1] */
	uint64_t oldest;	/* index of the first that has not ended */
	uint64_t told;		/* written to the timeline */
	uint64_t acked_max;
	uint64_t under_way;	/* commands */
	uint64_t reads, stale;
	json_t *stale_list; /* since the last batch */
	uint64_t reads_told;
	bool reading, read_done, finished, full;
	unsigned int finds;
	json_t *runs; /* read back */
	json_int_t run_from, run_to;
	uint64_t read_count;
	char read_error[128];
	const char *reason_last;
	struct hist latency;
	json_t *reasons;
	uint64_t count[OUTCOME_COUNT];
};

/* ── the history ───────────────────────────────────────────────────────────────────────────── */

/* Batches of writes that have all ended, with whatever reads there were */
static void tell_until(struct ledger *l, nsec_t complete)
{
	while (l->told < l->oldest && l->writes[l->told].due < complete) {
		nsec_t bucket = l->writes[l->told].due / TIMELINE_BUCKET * TIMELINE_BUCKET;
		json_t *list = json_array();

		for (; l->told < l->oldest && l->writes[l->told].due < bucket + TIMELINE_BUCKET; l->told++) {
			const struct write *w = &l->writes[l->told];

			json_array_append_new(list,
				json_pack("[I, I, I, I, s, s?]", (json_int_t)l->told + 1, (json_int_t)w->due, (json_int_t)w->sent,
					(json_int_t)w->ended, outcome_names[w->outcome], w->node));
		}
		timeline_event(l->tl, bucket, EV_LEDGER,
			json_pack("{s:s, s:s, s:o, s:I, s:o}", "load", l->name, "database", l->db->name, "writes", list, "reads",
				(json_int_t)(l->reads - l->reads_told), "stale", l->stale_list ? l->stale_list : json_array()));
		l->stale_list = NULL;
		l->reads_told = l->reads;
	}
}

static void tell_read_back(struct ledger *l)
{
	const struct node *from = redis_primary_node(l->primary);

	if (l->run_to)
		json_array_append_new(l->runs, json_pack("[I, I]", l->run_from, l->run_to));
	timeline_event(l->tl, now_ns(), EV_LEDGER_READ,
		json_pack("{s:s, s:s, s:s?, s:o, s:s?}", "load", l->name, "database", l->db->name, "node", from ? from->name : NULL,
			"runs", l->read_error[0] ? json_null() : json_incref(l->runs), "error",
			l->read_error[0] ? l->read_error : NULL));
}

/* ── writes ────────────────────────────────────────────────────────────────────────────────── */

static nsec_t due_at(const struct ledger *l, uint64_t i)
{
	return l->start + (nsec_t)((double)i * (double)NSEC_PER_SEC / l->rate);
}

static nsec_t complete_until(const struct ledger *l, nsec_t now)
{
	nsec_t t = now;

	if (l->oldest < l->n)
		t = MIN(t, l->writes[l->oldest].due);
	if (l->n < l->last)
		t = MIN(t, due_at(l, l->n));
	return t;
}

static void end_write(struct ledger *l, uint64_t number, enum outcome outcome, const char *why)
{
	struct write *w = &l->writes[number - 1];
	nsec_t now = now_ns();

	if (w->state == ENDED)
		return;
	w->state = ENDED;
	w->outcome = outcome;
	w->ended = now;
	while (l->oldest < l->n && l->writes[l->oldest].state == ENDED)
		l->oldest++;
	if (!buckets_room(&l->buckets, w->due))
		buckets_write_until(&l->buckets, complete_until(l, w->due));
	buckets_count(&l->buckets, w->due, now, outcome, 0);
	l->count[outcome]++;
	if (outcome == OUTCOME_OK) {
		l->acked_max = MAX(l->acked_max, number);
		hist_add(&l->latency, (uint64_t)(now - w->due));
	} else if (why) {
		json_object_set_new(l->reasons, why, json_integer(json_integer_value(json_object_get(l->reasons, why)) + 1));
	}
}

/* The first word of a Redis error is its kind: READONLY, LOADING, NOREPLICAS, ... */
static bool not_primary(const redisReply *r)
{
	static const char *const kinds[] = {"READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS"};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strncmp(r->str, kinds[i], strlen(kinds[i])) == 0)
			return true;
	return false;
}

static void on_written(redisAsyncContext *ac _unused_, void *reply, void *arg)
{
	struct command *c = arg;
	struct ledger *l = c->l;
	const redisReply *r = reply;

	l->under_way--;
	if (!r) {
		end_write(l, c->n, OUTCOME_RESET, "the connection was lost before the answer");
	} else if (r->type == REDIS_REPLY_INTEGER) {
		end_write(l, c->n, OUTCOME_OK, NULL);
	} else if (r->type == REDIS_REPLY_ERROR) {
		char kind[32];

		snprintf(kind, sizeof(kind), "%.*s", (int)strcspn(r->str, " "), r->str);
		end_write(l, c->n, OUTCOME_STATUS, kind);
		/* it is free to look for another one when this answer has been dealt with: not from within hiredis */
		if (not_primary(r))
			l->reason_last = "it says that it is no primary";
	} else {
		end_write(l, c->n, OUTCOME_OTHER, "an answer that makes no sense");
	}
	free(c);
}

static void on_last(redisAsyncContext *ac _unused_, void *reply, void *arg)
{
	struct command *c = arg;
	struct ledger *l = c->l;
	const redisReply *r = reply;

	l->under_way--;
	if (r && (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_NIL)) {
		long long value = r->type == REDIS_REPLY_NIL ? 0 : atoll(r->str);

		l->reads++;
		if (value < (long long)c->n) {
			l->stale++;
			if (!l->stale_list)
				l->stale_list = json_array();
			json_array_append_new(l->stale_list,
				json_pack("[I, I, I]", (json_int_t)c->sent, (json_int_t)value, (json_int_t)c->n));
		}
	}
	free(c);
}

static bool command(struct ledger *l, redisCallbackFn *fn, uint64_t n, const char *format, ...)
{
	redisAsyncContext *ac = redis_primary_context(l->primary);
	struct command *c = malloc(sizeof(*c));
	va_list ap;
	int r;

	if (!c)
		return false;
	*c = (struct command){.l = l, .n = n, .sent = now_ns()};
	va_start(ap, format);
	r = ac ? redisvAsyncCommand(ac, fn, c, format, ap) : REDIS_ERR;
	va_end(ap);
	if (r != REDIS_OK) {
		free(c);
		return false;
	}
	l->under_way++;
	return true;
}

static void send_write(struct ledger *l, uint64_t number)
{
	struct write *w = &l->writes[number - 1];

	if (!redis_primary_context(l->primary) ||
		!command(l, on_written, number, "RPUSH %s %llu", l->key, (unsigned long long)number))
		return; /* it waits */
	w->state = SENT;
	w->sent = now_ns();
	w->node = redis_primary_node(l->primary)->name;
	(void)command(l, on_last, l->acked_max, "LINDEX %s -1", l->key);
}

static void start_writes(struct ledger *l, nsec_t now)
{
	while (l->n < l->last && due_at(l, l->n) <= now) {
		if (l->n == l->room) {
			uint64_t room = l->room ? 2 * l->room : 1024;
			struct write *v = l->n < WRITES_MAX ? reallocarray(l->writes, room, sizeof(*v)) : NULL;

			if (!v) {
				l->full = true;
				l->last = l->n;
				return;
			}
			l->writes = v;
			l->room = room;
		}
		l->writes[l->n] = (struct write){.due = due_at(l, l->n)};
		l->n++;
		send_write(l, l->n);
	}
}

static void send_waiting(struct ledger *l)
{
	for (uint64_t i = l->oldest; i < l->n; i++)
		if (l->writes[i].state == WAITING)
			send_write(l, i + 1);
}

static void time_out(struct ledger *l, nsec_t now)
{
	bool silent = false;

	for (uint64_t i = l->oldest; i < l->n && l->writes[i].due + l->timeout <= now; i++) {
		if (l->writes[i].state == SENT) {
			/* one that had to wait until a primary was found has left it no time to answer */
			silent |= now - l->writes[i].sent >= l->timeout / 2;
			end_write(l, i + 1, OUTCOME_TIMEOUT, "no answer in time");
		} else if (l->writes[i].state == WAITING) {
			end_write(l, i + 1, OUTCOME_OTHER, "no primary was found in time");
		}
	}
	if (silent)
		redis_primary_drop(l->primary, "it does not answer");
}

/* ── reading back ──────────────────────────────────────────────────────────────────────────── */

static void finish(struct ledger *l, const char *error)
{
	if (l->finished)
		return;
	l->finished = true;
	if (error)
		snprintf(l->read_error, sizeof(l->read_error), "%s", error);
	tell_read_back(l);
	l->finds = redis_primary_finds(l->primary);
	redis_primary_free(TAKE_PTR(l->primary));
	uv_timer_stop(&l->timer);
	uv_close((uv_handle_t *)&l->timer, NULL);
}

static void read_chunk(struct ledger *l);

static void on_deleted(redisAsyncContext *ac _unused_, void *reply _unused_, void *arg)
{
	struct command *c = arg;

	c->l->under_way--;
	c->l->read_deadline = 0; /* on_timer() ends it */
	free(c);
}

static void on_range(redisAsyncContext *ac _unused_, void *reply, void *arg)
{
	struct command *c = arg;
	struct ledger *l = c->l;
	const redisReply *r = reply;

	l->under_way--;
	free(c);
	if (!r) {
		l->reading = false; /* from the start, when there is a primary again */
		return;
	}
	if (r->type != REDIS_REPLY_ARRAY) {
		snprintf(l->read_error, sizeof(l->read_error), "%s", r->type == REDIS_REPLY_ERROR ? r->str : "no list");
		return;
	}
	for (size_t i = 0; i < r->elements; i++) {
		json_int_t v = r->element[i]->type == REDIS_REPLY_STRING ? atoll(r->element[i]->str) : 0;

		if (l->run_to && v == l->run_to + 1) {
			l->run_to = v;
			continue;
		}
		if (l->run_to)
			json_array_append_new(l->runs, json_pack("[I, I]", l->run_from, l->run_to));
		l->run_from = l->run_to = v;
	}
	l->read_count += r->elements;
	if (r->elements == READ_BACK_CHUNK) {
		read_chunk(l);
		return;
	}
	l->read_done = true;
	/* the key is ours, and goes */
	if (!command(l, on_deleted, 0, "DEL %s", l->key))
		l->read_deadline = 0;
}

static void read_chunk(struct ledger *l)
{
	if (!command(l, on_range, 0, "LRANGE %s %llu %llu", l->key, (unsigned long long)l->read_count,
		    (unsigned long long)l->read_count + READ_BACK_CHUNK - 1))
		l->reading = false;
}

static void read_back(struct ledger *l, nsec_t now)
{
	if (l->read_deadline == 0 || (l->read_done && now >= l->read_deadline)) {
		finish(l, NULL);
	} else if (l->read_error[0]) {
		finish(l, l->read_error);
	} else if (now >= l->read_deadline) {
		finish(l, "no primary answered in time");
	} else if (!l->reading && redis_primary_context(l->primary)) {
		json_array_clear(l->runs);
		l->run_from = l->run_to = 0;
		l->read_count = 0;
		l->reading = true;
		read_chunk(l);
	}
}

/* ── the loop ──────────────────────────────────────────────────────────────────────────────── */

static void on_timer(uv_timer_t *timer);

static void arm(struct ledger *l)
{
	nsec_t now = now_ns(), next = now + TICK_MAX_MS * NSEC_PER_MSEC;

	if (l->finished)
		return;
	if (l->n < l->last)
		next = MIN(next, due_at(l, l->n));
	uv_update_time(&l->loop);
	uv_timer_start(&l->timer, on_timer, next <= now ? 0 : (uint64_t)((next - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC), 0);
}

static void look_around(struct ledger *l)
{
	nsec_t now = now_ns(), complete;

	if (l->finished)
		return;
	if ((atomic_load(&l->stop) || atomic_load(&l->abort)) && l->last == UINT64_MAX)
		l->last = l->n;
	if (l->reason_last)
		redis_primary_drop(l->primary, l->reason_last);
	l->reason_last = NULL;
	start_writes(l, now);
	time_out(l, now);
	if (atomic_load(&l->abort))
		while (l->oldest < l->n)
			end_write(l, l->oldest + 1, OUTCOME_OTHER, "the drill was halted");
	complete = complete_until(l, now);
	buckets_write_until(&l->buckets, complete);
	realtime_look(&l->realtime, now);
	tell_until(l, l->oldest == l->n && l->n == l->last ? NSEC_INFINITY : complete);
	if (l->n == l->last && l->oldest == l->n && atomic_load(&l->stop)) {
		if (l->read_deadline < 0)
			l->read_deadline = now + (atomic_load(&l->abort) ? ABORT_WAIT : READ_BACK_WAIT);
		read_back(l, now);
	}
}

static void on_timer(uv_timer_t *timer)
{
	struct ledger *l = timer->data;

	look_around(l);
	arm(l);
}

static void on_found(void *arg)
{
	struct ledger *l = arg;

	if (!l->finished)
		send_waiting(l);
}

static void on_lost(void *arg, const char *why)
{
	struct ledger *l = arg;

	timeline_event(l->tl, now_ns(), EV_LOG,
		json_pack("{s:o, s:s}", "text", json_sprintf("load %s: the primary was given up: %s", l->name, why), "where", ""));
}

static const struct redis_primary_ops primary_ops = {.found = on_found, .lost = on_lost};

static int prepare(struct ledger *l, struct err *err)
{
	int r = uv_loop_init(&l->loop);

	if (r < 0)
		return err_set(err, r, "load %s: loop: %s", l->name, uv_strerror(r));
	uv_timer_init(&l->loop, &l->timer);
	l->timer.data = l;
	l->start = (now_ns() / TIMELINE_BUCKET + 1) * TIMELINE_BUCKET;
	l->last = UINT64_MAX;
	l->read_deadline = -1;
	buckets_start(&l->buckets, l->start);
	r = redis_primary_new(&l->loop, l->db, &primary_ops, l, &l->primary);
	if (r < 0)
		return err_set(err, r, "load %s: out of memory", l->name);
	arm(l);
	return 0;
}

static void *thread_main(void *arg)
{
	struct ledger *l = arg;
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	struct err err = {0};
	int r = node_enter(l->node, &v, &err);

	if (r == 0)
		r = prepare(l, &err);
	pthread_setname_np(pthread_self(), "load-ledger");
	realtime_begin(&l->realtime);
	pthread_mutex_lock(&l->lock);
	l->start_result = r;
	l->start_err = err;
	pthread_cond_signal(&l->started);
	pthread_mutex_unlock(&l->lock);
	if (r < 0)
		return NULL;
	uv_run(&l->loop, UV_RUN_DEFAULT);
	uv_loop_close(&l->loop);
	buckets_end(&l->buckets);
	return NULL;
}

/* ── the source ────────────────────────────────────────────────────────────────────────────── */

static void ledger_free(struct ledger *l)
{
	if (!l)
		return;
	buckets_free(&l->buckets);
	json_decref(l->runs);
	json_decref(l->reasons);
	json_decref(l->stale_list);
	free(l->writes);
	free(l->name);
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->started);
	free(l);
}

static void ledger_freep(struct ledger **l)
{
	ledger_free(*l);
}

static int ledger_start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	_cleanup_(ledger_freep) struct ledger *l = calloc(1, sizeof(*l));
	const char *from = json_string_value(json_object_get(ctx->args, "from"));
	const char *database = json_string_value(json_object_get(ctx->args, "database"));
	int r;

	if (!l)
		return err_set(err, -ENOMEM, "load %s: out of memory", ctx->name);
	l->start_result = 1;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->started, NULL);
	l->tl = ctx->tl;
	l->node = from ? site_node(ctx->site, from) : NULL;
	l->db = database ? site_database(ctx->site, database) : NULL;
	l->rate = json_number_value(json_object_get(ctx->args, "rate"));
	l->timeout = json_integer_value(json_object_get(ctx->args, "timeout"));
	l->name = strdup(ctx->name);
	l->runs = json_array();
	l->reasons = json_object();
	if (!l->name || !l->runs || !l->reasons)
		return err_set(err, -ENOMEM, "load %s: out of memory", ctx->name);
	if (!l->node || !l->db || !(l->rate > 0) || l->timeout <= 0)
		return err_set(err, -EINVAL, "load %s: its arguments were not checked", ctx->name);
	r = node_open(site_node(ctx->site, from), err);
	if (r < 0)
		return err_prefix(err, "load %s", ctx->name);
	/* a key of this drill's own, whatever an earlier one has left */
	snprintf(l->key, sizeof(l->key), "muster:ledger:%.31s:%llx", l->name, (unsigned long long)wall_ns());
	if (buckets_init(&l->buckets, l->tl, l->name, l->timeout + NSEC_PER_SEC) < 0)
		return err_set(err, -ENOMEM, "load %s: out of memory", l->name);
	r = source_thread(&l->thread, thread_main, l, err);
	if (r < 0)
		return err_prefix(err, "load %s", l->name);
	pthread_mutex_lock(&l->lock);
	while (l->start_result == 1)
		pthread_cond_wait(&l->started, &l->lock);
	pthread_mutex_unlock(&l->lock);
	if (l->start_result < 0) {
		pthread_join(l->thread, NULL);
		if (err)
			*err = l->start_err;
		return l->start_result;
	}
	*ret_handle = TAKE_PTR(l);
	return 0;
}

static json_t *times(const struct hist *h)
{
	static const struct {
		const char *name;
		double q;
	} qs[] = {{"p50_ns", 0.5}, {"p90_ns", 0.9}, {"p99_ns", 0.99}, {"p999_ns", 0.999}};
	json_t *j = h->n ? json_object() : json_null();

	for (size_t i = 0; h->n && i < ARRAY_SIZE(qs); i++) {
		uint64_t v;

		if (hist_quantile(h, qs[i].q, &v) == 0)
			json_object_set_new(j, qs[i].name, json_integer((json_int_t)v));
	}
	if (h->n)
		json_object_set_new(j, "max_ns", json_integer((json_int_t)h->max));
	return j;
}

static json_t *summary(const struct ledger *l)
{
	json_t *outcomes = json_object(), *notes = json_array();
	double seconds = (double)(due_at(l, l->n) - l->start) / (double)NSEC_PER_SEC;

	for (int i = 0; i < OUTCOME_COUNT; i++)
		json_object_set_new(outcomes, outcome_names[i], json_integer((json_int_t)l->count[i]));
	if (l->full)
		json_array_append_new(notes, json_string("the ledger was full: it ended before the drill did"));
	if (l->read_error[0])
		json_array_append_new(notes, json_sprintf("nothing could be read back: %s", l->read_error));
	return json_pack("{s:s, s:s, s:s, s:f, s:o, s:I, s:I, s:I, s:I, s:I, s:o, s:O, s:o, s:o}", "kind", "ledger", "from",
		l->node->name, "database", l->db->name, "asked_rate", l->rate, "rate",
		seconds > 0 ? json_real((double)l->count[OUTCOME_OK] / seconds) : json_null(), "requests", (json_int_t)l->n, "sent",
		(json_int_t)l->n, "primaries", (json_int_t)l->finds, "reads", (json_int_t)l->reads, "stale", (json_int_t)l->stale, "outcomes",
		outcomes, "reasons", l->reasons, "latency", times(&l->latency), "notes", notes);
}

static void ledger_abort(void *handle)
{
	struct ledger *l = handle;

	atomic_store(&l->abort, true);
}

static void ledger_stop(void *handle, json_t **ret_summary)
{
	_cleanup_(ledger_freep) struct ledger *l = handle;

	atomic_store(&l->stop, true);
	pthread_join(l->thread, NULL);
	if (ret_summary)
		*ret_summary = summary(l);
}

static const struct param ledger_params[] = {
	{.name = "from", .type = PARAM_NODE, .required = true, .help = "the node that writes"},
	{.name = "database", .type = PARAM_DATABASE, .required = true, .help = "where to"},
	{.name = "rate", .type = PARAM_RATE, .deflt = "20/s", .min = 0.01, .max = 1000,
		.help = "writes per second, on a fixed schedule whatever the database does"},
	{.name = "timeout", .type = PARAM_DURATION, .deflt = "1s", .min = 1e7, .max = 25e9,
		.help = "from the time a write was due to its acknowledgement"},
	{.name = "name", .type = PARAM_STRING, .help = "what the ledger is called in the report"},
	PARAM_END,
};

const struct source_ops load_ledger = {
	.name = "ledger",
	.summary = "Numbered writes to a database on a fixed schedule, each acknowledgement kept, everything read back",
	.kind = SOURCE_LOAD,
	.params = ledger_params,
	.start = ledger_start,
	.stop = ledger_stop,
	.abort = ledger_abort,
};
