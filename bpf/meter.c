/* SPDX-License-Identifier: GPL-2.0-only */
#include "bpf/meter.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/str.h"

#define POLL_MS 50
#define LAG	(50 * NSEC_PER_MSEC) /* between the stamp and the count, at most; what takes longer is told as late */

/* ── one meter ─────────────────────────────────────────────────────────────────────────────── */

static bool any(const uint64_t n[METER_COUNTS])
{
	for (int i = 0; i < METER_COUNTS; i++)
		if (n[i])
			return true;
	return false;
}

static void tell(struct meter_told *told, nsec_t since, nsec_t until, const uint64_t n[METER_COUNTS], meter_fn fn, void *arg)
{
	if (!any(n))
		return;
	for (int i = 0; i < METER_COUNTS; i++)
		told->n[i] += n[i];
	fn(since, until, n, arg);
}

/* In buckets from..to-1 of all CPUs */
static void add_up(const struct meter *cpus, size_t n_cpus, uint64_t from, uint64_t to, uint64_t ret[METER_COUNTS])
{
	memset(ret, 0, METER_COUNTS * sizeof(*ret));
	for (size_t c = 0; c < n_cpus; c++)
		for (size_t s = 0; s < METER_SLOTS; s++)
			for (int i = 0; i < METER_COUNTS && cpus[c].slots[s].bucket >= from && cpus[c].slots[s].bucket < to; i++)
				ret[i] += cpus[c].slots[s].n[i];
}

uint64_t meter_tell(struct meter_told *told, const struct meter *cpus, size_t n_cpus, nsec_t complete, meter_fn fn, void *arg)
{
	uint64_t total[METER_COUNTS] = {0}, n[METER_COUNTS], from = (uint64_t)(told->until / TIMELINE_BUCKET),
		 to = (uint64_t)(complete / TIMELINE_BUCKET), newest = 0;

	for (size_t c = 0; c < n_cpus; c++) {
		for (size_t s = 0; s < METER_SLOTS; s++)
			newest = MAX(newest, (uint64_t)cpus[c].slots[s].bucket);
		for (int i = 0; i < METER_COUNTS; i++)
			total[i] += cpus[c].total[i];
	}
	if (to > from && newest >= from + METER_SLOTS) { /* some of them have been used again */
		add_up(cpus, n_cpus, to, UINT64_MAX, n);
		for (int i = 0; i < METER_COUNTS; i++)
			n[i] = total[i] > told->n[i] + n[i] ? total[i] - told->n[i] - n[i] : 0;
		tell(told, (nsec_t)from * TIMELINE_BUCKET, (nsec_t)to * TIMELINE_BUCKET, n, fn, arg);
	} else {
		for (uint64_t b = from; b < MIN(to, newest + 1); b++) {
			add_up(cpus, n_cpus, b, b + 1, n);
			tell(told, (nsec_t)b * TIMELINE_BUCKET, (nsec_t)(b + 1) * TIMELINE_BUCKET, n, fn, arg);
		}
	}
	told->until = MAX(told->until, (nsec_t)to * TIMELINE_BUCKET);
	return total[0] > told->n[0] ? total[0] - told->n[0] : 0;
}

/* ── all of a source ───────────────────────────────────────────────────────────────────────── */

struct entry {
	int map;
	uint32_t index;
	json_t *labels;
	struct meter_told told;
	uint64_t late;
};

struct meters {
	struct meters_opts o;
	char *source;
	size_t n;
	struct entry *v;
	int n_cpus, stop_fd;
	nsec_t begun; /* nothing before this bucket is counted */
	struct meter *cpus;
	pthread_t thread;
	uint64_t failures;
};

int meters_new(const struct meters_opts *o, struct meters **ret, struct err *err)
{
	struct meters *m = calloc(1, sizeof(*m));

	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	m->o = *o;
	m->begun = now_ns() / TIMELINE_BUCKET * TIMELINE_BUCKET;
	m->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->source = strdup(o->source);
	m->n_cpus = libbpf_num_possible_cpus();
	m->cpus = m->n_cpus > 0 ? calloc((size_t)m->n_cpus, sizeof(*m->cpus)) : NULL;
	if (m->stop_fd < 0 || !m->source || !m->cpus) {
		meters_free(m);
		return err_set(err, -ENOMEM, "out of memory");
	}
	*ret = m;
	return 0;
}

void meters_free(struct meters *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n; i++)
		json_decref(m->v[i].labels);
	if (m->stop_fd >= 0)
		close(m->stop_fd);
	free(m->v);
	free(m->cpus);
	free(m->source);
	free(m);
}

int meters_add(struct meters *m, int map, uint32_t index, json_t *labels, struct err *err)
{
	struct entry *more = reallocarray(m->v, m->n + 1, sizeof(*more));

	if (more)
		m->v = more;
	if (!more || !labels) {
		json_decref(labels);
		return err_set(err, -ENOMEM, "out of memory");
	}
	more[m->n++] = (struct entry){.map = map, .index = index, .labels = labels, .told.until = m->begun};
	return 0;
}

struct telling {
	const struct meters *m;
	const struct entry *e;
};

static void put_counts(const struct meters *m, json_t *to, const uint64_t n[METER_COUNTS])
{
	for (int i = 0; i < METER_COUNTS; i++)
		if (m->o.counts[i])
			json_object_set_new(to, m->o.counts[i], json_integer((json_int_t)n[i]));
}

static void write_event(nsec_t since, nsec_t until, const uint64_t n[METER_COUNTS], void *arg)
{
	const struct telling *t = arg;
	json_t *j = json_copy(t->e->labels);

	json_object_set_new(j, "since", json_integer((json_int_t)since));
	put_counts(t->m, j, n);
	timeline_event(t->m->o.tl, MIN(until, now_ns()), t->m->o.kind, j); /* the last one of all may not be over */
}

static void read_all(struct meters *m, nsec_t complete)
{
	for (size_t i = 0; i < m->n; i++) {
		struct entry *e = &m->v[i];
		struct telling t = {m, e};

		if (bpf_map_lookup_elem(e->map, &e->index, m->cpus) < 0)
			m->failures++;
		else
			e->late = meter_tell(&e->told, m->cpus, (size_t)m->n_cpus, complete, write_event, &t);
	}
}

static void *run(void *arg)
{
	struct meters *m = arg;
	struct pollfd p = {.fd = m->stop_fd, .events = POLLIN};
	nsec_t last = 0;

	pthread_setname_np(pthread_self(), "muster-meter");
	while (poll(&p, 1, POLL_MS) <= 0) {
		nsec_t complete = now_ns() - LAG;
		uint64_t failures = m->failures;

		complete -= complete % TIMELINE_BUCKET;
		if (complete <= last)
			continue;
		read_all(m, complete);
		if (m->failures == failures) /* what could not be read is not complete */
			timeline_watermark(m->o.tl, m->source, complete);
		last = complete;
	}
	return NULL;
}

int meters_start(struct meters *m, struct err *err)
{
	int r;

	timeline_watermark(m->o.tl, m->source, m->begun);
	r = source_thread(&m->thread, run, m, err);
	if (r < 0) {
		timeline_watermark(m->o.tl, m->source, NSEC_INFINITY);
		return err_prefix(err, "%s", m->source);
	}
	return 0;
}

void meters_stop(struct meters *m)
{
	(void)eventfd_write(m->stop_fd, 1);
	pthread_join(m->thread, NULL);
	read_all(m, now_ns() + TIMELINE_BUCKET);
	timeline_watermark(m->o.tl, m->source, NSEC_INFINITY);
}

json_t *meters_summary(const struct meters *m)
{
	json_t *all = json_array();
	uint64_t late = 0;

	for (size_t i = 0; i < m->n; i++) {
		json_t *j = json_copy(m->v[i].labels);

		put_counts(m, j, m->v[i].told.n);
		json_array_append_new(all, j);
		late += m->v[i].late;
	}
	return json_pack("{s:o, s:I, s:I}", "counted", all, "late", (json_int_t)late, "failures", (json_int_t)m->failures);
}

/* ── asking ────────────────────────────────────────────────────────────────────────────────── */

/* NULL: @source ran in all of [t0, t1) */
static const char *why_not(const struct timeline *tl, const char *source, nsec_t t0, nsec_t t1)
{
	const char *why = "nobody counted them: no check that is planned asks for them";
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);

	for (size_t i = 0; i < n && e[i].t <= t1; i++) {
		const char *state = json_string_value(json_object_get(e[i].data, "state"));

		if (!streq(e[i].kind, EV_SOURCE) || !streq(json_string_value(json_object_get(e[i].data, "name")), source))
			continue;
		if (streq(state, "started"))
			why = e[i].t <= t0 ? NULL : "they were not counted yet";
		else if (streq(state, "stopped") && e[i].t <= t0)
			why = "they were not counted any more";
		else if (streq(state, "refused"))
			why = "they cannot be counted here";
	}
	return why;
}

bool meters_count(const struct timeline *tl, const char *source, const char *kind, const char *field,
	bool (*match)(const json_t *event, const void *arg), const void *arg, nsec_t t0, nsec_t t1, uint64_t *ret_lo, uint64_t *ret_hi,
	const char **ret_why)
{
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);

	*ret_lo = *ret_hi = 0;
	*ret_why = why_not(tl, source, t0, t1);
	if (*ret_why)
		return false;
	/* one that ends later, and covers a part, has been written by the time that the watermark is at t1 */
	for (size_t i = timeline_seek(e, n, sizeof(*e), t0 + 1); i < n; i++) {
		nsec_t since = json_integer_value(json_object_get(e[i].data, "since"));
		uint64_t v;

		if (!streq(e[i].kind, kind) || !json_is_integer(json_object_get(e[i].data, field)) || since >= t1 || !match(e[i].data, arg))
			continue;
		v = (uint64_t)MAX(json_integer_value(json_object_get(e[i].data, field)), (json_int_t)0);
		*ret_hi += v;
		if (since >= t0 && e[i].t <= t1)
			*ret_lo += v;
	}
	return true;
}

bool meters_rate(uint64_t lo, uint64_t hi, nsec_t t0, nsec_t t1, struct sample *ret)
{
	double seconds = (double)(t1 - t0) / NSEC_PER_SEC;

	if (t1 <= t0)
		return false;
	*ret = (struct sample){.have = true, .lo = (double)lo / seconds, .hi = (double)hi / seconds, .n = hi};
	ret->value = lo == hi ? ret->lo : (ret->lo + ret->hi) / 2;
	return true;
}
