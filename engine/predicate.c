/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/predicate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/str.h"

const char *const tri_names[] = {
	[TRI_FALSE] = "false", [TRI_TRUE] = "true", [TRI_UNKNOWN] = "unknown"};

const char *const predicate_op_names[OP_COUNT + 1] = {
	[OP_BELOW] = "below",
	[OP_ABOVE] = "above",
	[OP_AT_MOST] = "at_most",
	[OP_AT_LEAST] = "at_least",
	[OP_EQUALS] = "equals",
	[OP_WITHIN] = "within",
	[OP_COUNT] = NULL,
};

enum tri tri_and(enum tri a, enum tri b)
{
	if (a == TRI_FALSE || b == TRI_FALSE)
		return TRI_FALSE;
	return a == TRI_UNKNOWN || b == TRI_UNKNOWN ? TRI_UNKNOWN : TRI_TRUE;
}

/* ── as data ───────────────────────────────────────────────────────────────────────────── */

const struct probe_ops *predicate_probe(const char *name)
{
	const char *dot = strchr(name, '.');
	size_t len = dot ? (size_t)(dot - name) : 0;
	char subject[32];

	if (len >= sizeof(subject))
		return NULL;
	memcpy(subject, name, len);
	subject[len] = '\0';
	return probe_find(subject, dot ? dot + 1 : name);
}

static int unknown_probe(const char *name, struct err *err)
{
	_cleanup_free_ const char **names = NULL;
	_cleanup_strbuf_ struct strbuf all = {0};
	const char *near = NULL, *at;
	size_t n = 0;

	/* "SUBJECT.NAME\0" one after the other, then pointers into it */
	for (const struct probe_ops *const *t = probe_table; *t; t++)
		for (const struct probe_ops *p = *t; p->name; p++, n++) {
			strbuf_addf(&all, "%s%s%s", p->subject, p->subject[0] ? "." : "", p->name);
			strbuf_add(&all, "", 1);
		}
	names = calloc(n + 1, sizeof(*names));
	if (names && !all.oom) {
		at = strbuf_cstr(&all);
		for (size_t i = 0; i < n; i++, at += strlen(at) + 1)
			names[i] = at;
		near = str_nearest(name, names);
	}
	err_set(err, -EINVAL, "probe %s: not known", name);
	if (near)
		err_hint(err, "did you mean %s?", near);
	return -EINVAL;
}

static int subject_exists(const struct probe_ops *probe, const char *who, const char *name,
	const struct site *site, struct err *err)
{
	const char *const *names;
	const char *near;

	if (!site)
		return 0;
	if (streq(probe->subject, "service"))
		names = site->service_names;
	else if (streq(probe->subject, "database"))
		names = site->database_names;
	else if (streq(probe->subject, "node"))
		names = site->node_names;
	else
		return 0; /* a load: the plan knows its names, the site does not */
	for (size_t i = 0; names && names[i]; i++)
		if (streq(names[i], name))
			return 0;
	err_set(err, -EINVAL, "%s: site %s has no %s called \"%s\"", who, site->name,
		probe->subject, name);
	near = names ? str_nearest(name, names) : NULL;
	if (near)
		err_hint(err, "did you mean \"%s\"?", near);
	return -EINVAL;
}

/* The subject's name travels as args[subject]; the other arguments are the probe's own. */
static int check_args(const struct probe_ops *probe, const char *who, const json_t *given,
	const struct site *site, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *own =
		json_is_object(given) ? json_copy((json_t *)given) : json_object();
	struct param_names names = {0};
	json_t *out, *subject;
	int r;

	if (!own)
		return err_set(err, -ENOMEM, "%s: out of memory", who);
	if (site)
		names = site_names(site);
	subject = probe->subject[0] ? json_incref(json_object_get(own, probe->subject)) : NULL;
	if (probe->subject[0]) {
		if (!json_is_string(subject)) {
			json_decref(subject);
			return err_set(err, -EINVAL, "%s: of which %s?", who, probe->subject);
		}
		r = subject_exists(probe, who, json_string_value(subject), site, err);
		if (r < 0) {
			json_decref(subject);
			return r;
		}
		json_object_del(own, probe->subject);
	}
	r = param_check(probe->params, who, own, &names, &out, err);
	if (r < 0) {
		json_decref(subject);
		return r;
	}
	if (subject)
		json_object_set_new(out, probe->subject, subject);
	*ret = out;
	return 0;
}

static int get_duration(const json_t *j, const char *who, const char *key, nsec_t absent,
	nsec_t *ret, struct err *err)
{
	const json_t *v = json_object_get(j, key);

	if (!v || json_is_null(v)) {
		*ret = absent;
		return 0;
	}
	if (!json_is_integer(v) || json_integer_value(v) < 0 ||
		json_integer_value(v) > 24 * 3600 * NSEC_PER_SEC)
		return err_set(err, -EINVAL,
			"%s: %s is not a duration of at most 24 h in nanoseconds", who, key);
	*ret = json_integer_value(v);
	return 0;
}

static void predicate_freep(struct predicate **p)
{
	predicate_free(*p);
}

int predicate_from_json(
	const json_t *j, const struct site *site, struct predicate **ret, struct err *err)
{
	_cleanup_(predicate_freep) struct predicate *p = calloc(1, sizeof(*p));
	const char *name = json_string_value(json_object_get(j, "probe"));
	const char *op = json_string_value(json_object_get(j, "op"));
	const char *text = json_string_value(json_object_get(j, "text"));
	const json_t *bound = json_object_get(j, "bound");
	int r;

	if (!p)
		return err_set(err, -ENOMEM, "predicate: out of memory");
	if (!name)
		return err_set(err, -EINVAL, "predicate: names no probe");
	p->probe = predicate_probe(name);
	if (!p->probe)
		return unknown_probe(name, err);
	while (p->op < OP_COUNT && !streq(op, predicate_op_names[p->op]))
		p->op++;
	if (p->op == OP_COUNT) {
		const char *near = op ? str_nearest(op, predicate_op_names) : NULL;

		err_set(err, -EINVAL, "%s: \"%s\" is no comparison", name, op ? op : "");
		if (near)
			err_hint(err, "did you mean %s?", near);
		return -EINVAL;
	}
	if (!json_is_number(bound) || !isfinite(json_number_value(bound)))
		return err_set(err, -EINVAL, "%s: %s wants a number", name, op);
	p->bound = json_number_value(bound);
	r = get_duration(j, name, "over_ns", -1, &p->over, err);
	if (r < 0)
		return r;
	r = get_duration(j, name, "lasting_ns", 0, &p->lasting, err);
	if (r < 0)
		return r;
	r = check_args(p->probe, name, json_object_get(j, "args"), site, &p->args, err);
	if (r < 0)
		return r;
	p->text = text ? strdup(text) : strf("%s %s %g", name, op, p->bound);
	if (!p->text)
		return err_set(err, -ENOMEM, "predicate: out of memory");
	*ret = TAKE_PTR(p);
	return 0;
}

void predicate_free(struct predicate *p)
{
	if (!p)
		return;
	json_decref(p->args);
	free(p->text);
	free(p);
}

/* ── one window ────────────────────────────────────────────────────────────────────────── */

enum tri predicate_test(const struct predicate *p, const struct sample *s)
{
	double b = p->bound, lo = s->lo, hi = s->hi;

	if (!s->have || isnan(lo) || isnan(hi))
		return TRI_UNKNOWN;
	switch (p->op) {
	case OP_BELOW:
		return hi < b ? TRI_TRUE : lo >= b ? TRI_FALSE : TRI_UNKNOWN;
	case OP_ABOVE:
		return lo > b ? TRI_TRUE : hi <= b ? TRI_FALSE : TRI_UNKNOWN;
	case OP_AT_MOST:
	case OP_WITHIN:
		return hi <= b ? TRI_TRUE : lo > b ? TRI_FALSE : TRI_UNKNOWN;
	case OP_AT_LEAST:
		return lo >= b ? TRI_TRUE : hi < b ? TRI_FALSE : TRI_UNKNOWN;
	case OP_EQUALS:
		return lo == b && hi == b ? TRI_TRUE : b < lo || b > hi ? TRI_FALSE : TRI_UNKNOWN;
	case OP_COUNT:
		break;
	}
	return TRI_UNKNOWN;
}

static void sample_clear(struct sample *s)
{
	json_decref(s->detail);
	*s = (struct sample){0};
}

enum tri predicate_eval(const struct predicate *p, const struct timeline *tl,
	const struct site *site, nsec_t t0, nsec_t t1, struct sample *ret_sample, struct err *err)
{
	struct err own = {0};
	int r;

	*ret_sample = (struct sample){0};
	timeline_lock(tl);
	r = p->probe->eval(tl, site, p->args, t0, t1, ret_sample, &own);
	timeline_unlock(tl);
	if (r < 0) {
		sample_clear(ret_sample);
		snprintf(ret_sample->text, sizeof(ret_sample->text), "%.*s",
			(int)sizeof(ret_sample->text) - 1, own.text[0] ? own.text : strerror(-r));
		if (err)
			*err = own;
		return TRI_UNKNOWN;
	}
	return predicate_test(p, ret_sample);
}

/* Of two samples, is @a further from holding (or nearer to the bound)? */
static bool is_worse(const struct predicate *p, const struct sample *a, const struct sample *b)
{
	if (!a->have || !b->have)
		return a->have;
	switch (p->op) {
	case OP_BELOW:
	case OP_AT_MOST:
	case OP_WITHIN:
		return a->value > b->value;
	case OP_ABOVE:
	case OP_AT_LEAST:
		return a->value < b->value;
	case OP_EQUALS:
		return fabs(a->value - p->bound) > fabs(b->value - p->bound);
	case OP_COUNT:
		break;
	}
	return false;
}

/* ── sliding ───────────────────────────────────────────────────────────────────────────── */

static nsec_t bucket_floor(nsec_t t)
{
	return t - t % TIMELINE_BUCKET;
}

static nsec_t bucket_ceil(nsec_t t)
{
	return t > NSEC_INFINITY - TIMELINE_BUCKET ? bucket_floor(t)
						   : bucket_floor(t + TIMELINE_BUCKET - 1);
}

static nsec_t own_window(const struct predicate *p)
{
	return p->over >= 0 ? p->over : p->probe->window;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

enum use { USE_EVENTUALLY = 1, USE_ALWAYS, USE_STEADY, USE_STOP };

/* Is this the call after the one that @f remembers? If not, it starts over. Whatever memory it was, nothing in it is trusted. */
static void resume(
	struct finding *f, enum use use, const void *what, nsec_t from, nsec_t length, nsec_t more)
{
	uint64_t key =
		mix(mix(mix(mix(mix(use, (uintptr_t)what), (uint64_t)from), (uint64_t)length),
			    (uint64_t)more),
			0x6d75737465720aull);

	if (f->resume.key == key)
		return;
	*f = (struct finding){.status = TRI_UNKNOWN,
		.resume = {.key = key, .at = -1, .run = -1, .seen = TRI_UNKNOWN}};
}

void finding_clear(struct finding *f)
{
	sample_clear(&f->sample);
	*f = (struct finding){.status = TRI_UNKNOWN};
}

static void keep_sample(struct finding *f, struct sample *s, nsec_t t0, nsec_t t1)
{
	sample_clear(&f->sample);
	f->sample = *s;
	*s = (struct sample){0};
	f->from = t0;
	f->to = t1;
}

static void decide(struct finding *f, enum tri status, nsec_t at)
{
	f->status = status;
	f->at = at;
	f->done = true;
}

/* The windows of a predicate inside [from, to] */
struct slide {
	nsec_t t0, t1; /* the window now */
	nsec_t last;   /* where the last one ends */
};

/* False: not even a bucket fits. @at: the t0 to go on with, or -1 for the first. */
static bool slide_begin(
	struct slide *s, const struct predicate *p, nsec_t from, nsec_t to, nsec_t at)
{
	nsec_t window = own_window(p);

	if (window == 0) {
		s->last = to;
		s->t0 = s->t1 = at >= 0 ? at : from;
		return from <= to;
	}
	s->last = bucket_floor(to);
	window = MIN(bucket_ceil(window), s->last - bucket_ceil(from));
	if (window <= 0)
		return false;
	s->t0 = at >= 0 ? at : bucket_ceil(from);
	s->t1 = s->t0 + window;
	return true;
}

/* False: that was the last */
static bool slide_next(struct slide *s)
{
	nsec_t length = s->t1 - s->t0, next;

	if (s->t1 >= s->last)
		return false;
	next = bucket_floor(s->t0) + TIMELINE_BUCKET;
	if (length == 0)
		next = MIN(next, s->last);
	s->t0 = next;
	s->t1 = next + length;
	return true;
}

void predicate_eventually(const struct predicate *p, const struct timeline *tl,
	const struct site *site, nsec_t from, nsec_t within, nsec_t complete, struct finding *ret)
{
	struct slide s;

	resume(ret, USE_EVENTUALLY, p, from, within, 0);
	if (ret->done)
		return;
	if (!slide_begin(&s, p, from, from + within, ret->resume.at)) {
		decide(ret, TRI_UNKNOWN, from + within);
		return;
	}
	/* What it was in all windows so far; one that could not be told from true forbids a plain "no". */
	if (ret->resume.at < 0)
		ret->resume.seen = TRI_FALSE;
	timeline_lock(tl);
	for (;;) {
		struct sample sample = {0};
		enum tri now;

		if (s.t1 > complete)
			break;
		now = predicate_eval(p, tl, site, s.t0, s.t1, &sample, NULL);
		keep_sample(ret, &sample, s.t0, s.t1);
		if (now == TRI_TRUE) {
			decide(ret, TRI_TRUE, s.t1);
			break;
		}
		if (now == TRI_UNKNOWN)
			ret->resume.seen = TRI_UNKNOWN;
		if (!slide_next(&s)) {
			decide(ret, ret->resume.seen, s.t1);
			break;
		}
		ret->resume.at = s.t0;
	}
	timeline_unlock(tl);
}

void predicate_always(const struct predicate *p, const struct timeline *tl, const struct site *site,
	nsec_t from, nsec_t during, nsec_t complete, struct finding *ret)
{
	struct slide s;

	resume(ret, USE_ALWAYS, p, from, during, 0);
	if (ret->done)
		return;
	if (!slide_begin(&s, p, from, from + during, ret->resume.at)) {
		decide(ret, TRI_UNKNOWN, from + during);
		return;
	}
	if (ret->resume.at < 0)
		ret->resume.seen = TRI_TRUE;
	timeline_lock(tl);
	for (;;) {
		struct sample sample = {0};
		enum tri now;

		if (s.t1 > complete)
			break;
		now = predicate_eval(p, tl, site, s.t0, s.t1, &sample, NULL);
		if (now == TRI_FALSE) {
			/*
			 * The window before this one was not bad, so it is the newest bucket that broke it; in the first
			 * one, who knows.
			 */
			nsec_t broke = ret->resume.at < 0 ? s.t0 : MAX(s.t1 - TIMELINE_BUCKET, s.t0);

			keep_sample(ret, &sample, s.t0, s.t1);
			decide(ret, TRI_FALSE, broke);
			break;
		}
		/* Kept is the worst, but a window that cannot be told explains more than a good one. */
		if (ret->to == 0 || (now == TRI_UNKNOWN && ret->resume.seen == TRI_TRUE) ||
			(now == ret->resume.seen && is_worse(p, &sample, &ret->sample)))
			keep_sample(ret, &sample, s.t0, s.t1);
		ret->resume.seen = tri_and(ret->resume.seen, now);
		sample_clear(&sample);
		if (!slide_next(&s)) {
			decide(ret, ret->resume.seen, s.t1);
			break;
		}
		ret->resume.at = s.t0;
	}
	timeline_unlock(tl);
}

enum tri predicate_steady_at(struct predicate *const *ps, size_t n, const struct timeline *tl,
	const struct site *site, nsec_t t0, nsec_t t1, size_t *ret_decided_by,
	struct sample *ret_sample)
{
	struct sample kept = {0};
	enum tri all = TRI_TRUE;
	size_t by = 0;

	for (size_t i = 0; i < n && all != TRI_FALSE; i++) {
		struct sample sample;
		enum tri now;

		if (own_window(ps[i]) == 0) {
			now = predicate_eval(ps[i], tl, site, t1, t1, &sample, NULL);
			if (now != TRI_FALSE) {
				struct sample start;
				enum tri then =
					predicate_eval(ps[i], tl, site, t0, t0, &start, NULL);

				if (tri_and(now, then) != now) {
					now = then;
					sample_clear(&sample);
					sample = start;
				} else {
					sample_clear(&start);
				}
			}
		} else {
			now = predicate_eval(ps[i], tl, site, t0, t1, &sample, NULL);
		}
		if (i == 0 || tri_and(all, now) != all) {
			all = i == 0 ? now : tri_and(all, now);
			sample_clear(&kept);
			kept = sample;
			by = i;
		} else {
			sample_clear(&sample);
		}
	}
	*ret_decided_by = by;
	*ret_sample = kept;
	return all;
}

void predicate_steady(struct predicate *const *ps, size_t n, const struct timeline *tl,
	const struct site *site, nsec_t from, nsec_t until, nsec_t settle, nsec_t complete,
	struct finding *ret)
{
	nsec_t t0, length = MAX(bucket_ceil(settle), TIMELINE_BUCKET);

	resume(ret, USE_STEADY, ps, from, settle, until);
	if (ret->done)
		return;
	t0 = ret->resume.at >= 0 ? ret->resume.at : bucket_ceil(from);
	if (t0 + length > bucket_ceil(until)) {
		decide(ret, TRI_UNKNOWN, until);
		return;
	}
	timeline_lock(tl);
	for (; t0 + length <= complete; t0 += TIMELINE_BUCKET) {
		struct sample sample;
		enum tri now = predicate_steady_at(
			ps, n, tl, site, t0, t0 + length, &ret->decided_by, &sample);

		keep_sample(ret, &sample, t0, t0 + length);
		if (now == TRI_TRUE) {
			decide(ret, TRI_TRUE, t0);
			break;
		}
		if (t0 + length + TIMELINE_BUCKET > bucket_ceil(until)) {
			decide(ret, now, t0 + length);
			break;
		}
	}
	ret->resume.at = t0;
	timeline_unlock(tl);
}

void predicate_stop(const struct predicate *p, const struct timeline *tl, const struct site *site,
	nsec_t from, nsec_t complete, struct finding *ret)
{
	nsec_t window = bucket_ceil(own_window(p));
	nsec_t t0, lasting = p->lasting;

	resume(ret, USE_STOP, p, from, lasting, 0);
	if (ret->done)
		return;
	if (lasting > 0)
		window = MIN(window, MAX(bucket_floor(lasting), TIMELINE_BUCKET));
	t0 = ret->resume.at >= 0 ? ret->resume.at : bucket_ceil(from);
	timeline_lock(tl);
	for (; t0 + window <= complete; t0 += TIMELINE_BUCKET) {
		struct sample sample;
		enum tri now = predicate_eval(p, tl, site, t0, t0 + window, &sample, NULL);

		keep_sample(ret, &sample, t0, t0 + window);
		if (now != TRI_TRUE) {
			ret->resume.run = -1;
			continue;
		}
		if (ret->resume.run < 0)
			ret->resume.run = t0;
		if (t0 + window - ret->resume.run >= lasting) {
			ret->from = ret->resume.run;
			decide(ret, TRI_TRUE, t0 + window);
			break;
		}
	}
	ret->resume.at = t0;
	timeline_unlock(tl);
}
