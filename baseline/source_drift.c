/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Watches the baseline that is in force: does everything still stand as it was made? Looks every second, in a thread of its own, by
 * each setting's own eyes (look in change.h), and writes an event when something has changed, and another when it is as it was
 * again. A drift fails no drill by itself; but the undo will find it, and leave alone what somebody else made of it.
 *
 * It writes no series, so it has no watermark: nothing waits for it.
 *
 * Once the way back has begun, what changes is the undo's doing: nothing is written from there on.
 */
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/journal.h"
#include "engine/source.h"
#include "engine/str.h"

#define INTERVAL (1 * NSEC_PER_SEC)
#define SHARE	 20 /* looking takes at most this part of the time: large sets are looked at less often */

struct watched {
	const struct change *c;
	json_t *drifted; /* key: what it was when it was last said */
	bool failing;
};

struct sampler {
	struct timeline *tl;
	char *name;
	const atomic_bool *undoing;
	size_t n;
	struct watched *settings;
	int timer, end; /* descriptors */
	pthread_t thread;
	/* totals, the thread's own until it has been joined */
	uint64_t looks, drifts, failures;
	nsec_t longest, next;
};

static void sampler_free(struct sampler *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		json_decref(s->settings[i].drifted);
	if (s->timer >= 0)
		close(s->timer);
	if (s->end >= 0)
		close(s->end);
	free(s->settings);
	free(s->name);
	free(s);
}

static void sampler_freep(struct sampler **s)
{
	sampler_free(*s);
}

static void say(struct sampler *s, const struct change *c, const json_t *item, nsec_t t)
{
	json_t *j = json_pack("{s:s, s:s, s:O*, s:O*, s:O*, s:O*, s:O*}", "change", c->ops->name, "node", c->node->name, "key",
		json_object_get(item, "key"), "before", json_object_get(item, "before"), "want", json_object_get(item, "want"), "now",
		json_object_get(item, "now"), "holds", json_object_get(item, "holds"));

	if (j)
		timeline_event(s->tl, t, EV_DRIFT, j);
}

/* What is true of an item now, against what was last said of it */
static void compare(struct sampler *s, struct watched *w, const json_t *item, nsec_t t)
{
	const char *key = json_string_value(json_object_get(item, "key"));
	const json_t *holds = json_object_get(item, "holds"), *now = json_object_get(item, "now"),
		     *said = key ? json_object_get(w->drifted, key) : NULL;

	/* what cannot be said (a process that has ended) is no drift */
	if (!key || !json_is_boolean(holds) || atomic_load(s->undoing))
		return;
	if (json_is_true(holds) && said) {
		say(s, w->c, item, t);
		json_object_del(w->drifted, key);
	} else if (json_is_false(holds) && !json_equal(said, now)) {
		say(s, w->c, item, t);
		json_object_set(w->drifted, key, (json_t *)now);
		s->drifts++;
	}
}

static void look(struct sampler *s, struct watched *w)
{
	const struct change *c = w->c;
	_cleanup_json_ json_t *items = NULL;
	struct err err = {0};
	const json_t *item;
	nsec_t t;
	size_t i;
	int r;

	r = c->ops->look(c->node, c->args, c->prior, &items, &err);
	t = now_ns();
	if (atomic_load(s->undoing))
		return;
	s->failures += r < 0;
	if (r < 0 && !w->failing)
		timeline_event(s->tl, t, EV_LOG,
			json_pack("{s:o, s:s}", "text",
				json_sprintf("%s on %s: whether it still holds cannot be read: %s", c->ops->name, c->node->name, err.text),
				"where", ""));
	w->failing = r < 0;
	json_array_foreach(items, i, item)
		compare(s, w, item, t);
}

static void look_at_all(struct sampler *s)
{
	nsec_t begun = now_ns();

	for (size_t i = 0; i < s->n && !atomic_load(s->undoing); i++)
		look(s, &s->settings[i]);
	s->looks++;
	s->longest = MAX(s->longest, now_ns() - begun);
	s->next = begun + (now_ns() - begun) * SHARE;
}

static void *sampler_main(void *arg)
{
	struct sampler *s = arg;
	struct pollfd p[] = {{.fd = s->timer, .events = POLLIN}, {.fd = s->end, .events = POLLIN}};

	pthread_setname_np(pthread_self(), "muster-drift");
	for (;;) {
		uint64_t ticks;

		if (poll(p, ARRAY_SIZE(p), -1) < 0) {
			if (errno == EINTR)
				continue;
			break;
		}
		if (p[1].revents)
			break;
		if (read(s->timer, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN && errno != EINTR)
			break;
		if (now_ns() >= s->next)
			look_at_all(s);
	}
	return NULL;
}

static int drift_applies(const struct source_ctx *ctx, struct err *err _unused_)
{
	for (size_t i = 0; i < ctx->n_settings; i++)
		if (ctx->settings[i]->ops->look)
			return 1;
	return 0;
}

static int drift_start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	const struct itimerspec every = {.it_interval = {.tv_sec = INTERVAL / NSEC_PER_SEC}, .it_value = {.tv_sec = INTERVAL / NSEC_PER_SEC}};
	_cleanup_(sampler_freep) struct sampler *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->timer = s->end = -1;
	s->tl = ctx->tl;
	s->undoing = ctx->undoing;
	s->name = strdup(ctx->name);
	s->settings = calloc(ctx->n_settings + 1, sizeof(*s->settings));
	if (!s->name || !s->settings)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < ctx->n_settings; i++)
		if (ctx->settings[i]->ops->look)
			s->settings[s->n++] = (struct watched){.c = ctx->settings[i], .drifted = json_object()};
	s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	s->end = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->timer < 0 || s->end < 0 || timerfd_settime(s->timer, 0, &every, NULL) < 0)
		return err_set(err, -errno, "drift: timer: %s", strerror(errno));
	r = source_thread(&s->thread, sampler_main, s, err);
	if (r < 0)
		return err_prefix(err, "drift");
	*ret_handle = TAKE_PTR(s);
	return 0;
}

static void drift_stop(void *handle, json_t **ret_summary)
{
	_cleanup_(sampler_freep) struct sampler *s = handle;

	(void)eventfd_write(s->end, 1); /* a fresh eventfd always takes it */
	pthread_join(s->thread, NULL);
	if (ret_summary)
		*ret_summary = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "settings", (json_int_t)s->n, "looks", (json_int_t)s->looks,
			"drifts", (json_int_t)s->drifts, "failures", (json_int_t)s->failures, "interval_ns", (json_int_t)INTERVAL,
			"longest_look_ns", (json_int_t)s->longest);
}

const struct source_ops source_drift = {
	.name = "drift",
	.summary = "Whether the baseline still holds, every second",
	.kind = SOURCE_SAMPLER,
	.applies = drift_applies,
	.start = drift_start,
	.stop = drift_stop,
};
