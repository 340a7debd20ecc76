/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lines of timeline.jsonl. Every one is an object with "t" and "kind"; those of a kind named here are series and
 * book-keeping, all others are events (events.h), whose remaining members are their data. What is 0 is left out.
 *
 *	{"t":T,"kind":"load","load":L,"n":{"ok":30,"reset":1},"bytes":B,"lat":[[index,count]...],"first_ok":T,"last_ok":T}
 *	{"t":T,"kind":"conn","service":S,"server":N,"established":K,"closed":K,"failed":K,"resets":K,
 *	 "retransmits":K,"first":T,"last":T,"first_bad":T,"last_bad":T}
 *	{"t":T,"kind":"weight","service":S,"server":N,"weight":W,"active":K,"inactive":K}
 *	{"t":T,"kind":"mark","source":NAME,"ended":true}    complete up to T; at most one a second, and the last
 *	{"t":T,"kind":"torn"}                               this writer found the line before it unfinished
 *
 * Two locks: `lock` guards what is in memory; `out_lock` the queue of lines to be written. They are never held together
 * but in the order lock, out_lock.
 */
#include "engine/timeline.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/str.h"

#define KIND_LOAD   "load"
#define KIND_CONN   "conn"
#define KIND_WEIGHT "weight"
#define KIND_MARK   "mark"
#define KIND_TORN   "torn"

#define LINE_MAX_BYTES (4u << 20)
#define FILE_MAX_BYTES (1ull << 30)
#define MARK_EVERY     NSEC_PER_SEC

const char *const outcome_names[OUTCOME_COUNT] = {
	[OUTCOME_OK] = "ok",
	[OUTCOME_REFUSED] = "refused",
	[OUTCOME_RESET] = "reset",
	[OUTCOME_TIMEOUT] = "timeout",
	[OUTCOME_STATUS] = "status",
	[OUTCOME_OTHER] = "other",
};

/* A growing array whose entries begin with their nsec_t, in order of it */
struct series {
	char *v;
	size_t n, room, size;
};

struct mark {
	char *source;
	nsec_t t, written;
};

struct line {
	struct line *next;
	char *text;
};

struct timeline {
	uint64_t id; /* unlike an address, never used again */
	pthread_mutex_t lock;
	pthread_cond_t moved; /* a watermark went up, or a kick */
	struct series loads, conns, weights, events;
	size_t n_marks, n_strings;
	struct mark *marks;
	char **strings;
	nsec_t end;
	bool stored; /* read from a file: time stands still */
	int error;
	uint64_t kicks, conn_reads;
	void (*listener)(const struct tl_event *e, void *arg);
	void *listener_arg;

	int fd; /* -1: memory only */
	pthread_mutex_t out_lock;
	pthread_cond_t out_more;
	struct line *out_head, **out_tail;
	pthread_t writer;
	bool writer_runs, closing;
};

/* ── memory ────────────────────────────────────────────────────────────────────────────── */

/* Never without memory, so that a reader of an empty one has a pointer to count from. */
static int series_init(struct series *s, size_t size)
{
	*s = (struct series){.v = reallocarray(NULL, 64, size), .room = 64, .size = size};
	return s->v ? 0 : -ENOMEM;
}

static int series_insert(struct series *s, const void *entry)
{
	nsec_t t = *(const nsec_t *)entry;
	size_t at = s->n;

	if (s->n == s->room) {
		size_t room = s->room * 2;
		char *v = reallocarray(s->v, room, s->size);

		if (!v)
			return -ENOMEM;
		s->v = v;
		s->room = room;
	}
	/* Sources are a few buckets apart, so an entry's place is near the end. Equal times stay in order of arrival. */
	while (at > 0 && *(const nsec_t *)(s->v + (at - 1) * s->size) > t)
		at--;
	memmove(s->v + (at + 1) * s->size, s->v + at * s->size, (s->n - at) * s->size);
	memcpy(s->v + at * s->size, entry, s->size);
	s->n++;
	return 0;
}

size_t timeline_seek(const void *entries, size_t n, size_t size, nsec_t t)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (*(const nsec_t *)((const char *)entries + mid * size) < t)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Names are few: kinds, loads, services, servers. */
static const char *intern(struct timeline *tl, const char *s)
{
	char **strings;

	if (!s)
		s = "";
	for (size_t i = 0; i < tl->n_strings; i++)
		if (streq(tl->strings[i], s))
			return tl->strings[i];
	strings = reallocarray(tl->strings, tl->n_strings + 1, sizeof(*strings));
	if (!strings)
		return NULL;
	tl->strings = strings;
	strings[tl->n_strings] = strdup(s);
	return strings[tl->n_strings] ? strings[tl->n_strings++] : NULL;
}

static int sparse_copy(const struct hist_sparse *from, struct hist_sparse *ret)
{
	struct hist_sparse s = {.n_pairs = from->n_pairs};

	if (!s.n_pairs) {
		*ret = (struct hist_sparse){0};
		return 0;
	}
	s.index = calloc(s.n_pairs, sizeof(*s.index));
	s.count = calloc(s.n_pairs, sizeof(*s.count));
	if (!s.index || !s.count) {
		free(s.index);
		free(s.count);
		return -ENOMEM;
	}
	memcpy(s.index, from->index, s.n_pairs * sizeof(*s.index));
	memcpy(s.count, from->count, s.n_pairs * sizeof(*s.count));
	*ret = s;
	return 0;
}

/* These would come back from the file as something else than an event. */
static bool is_own_kind(const char *kind)
{
	static const char *const own[] = {KIND_LOAD, KIND_CONN, KIND_WEIGHT, KIND_MARK, KIND_TORN};

	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		if (streq(kind, own[i]))
			return true;
	return false;
}

static struct timeline *timeline_alloc(void)
{
	static uint64_t ids;
	struct timeline *tl = calloc(1, sizeof(*tl));
	pthread_mutexattr_t recursive;
	pthread_condattr_t attr;

	if (!tl)
		return NULL;
	tl->id = __atomic_add_fetch(&ids, 1, __ATOMIC_RELAXED);
	tl->fd = -1;
	tl->out_tail = &tl->out_head;
	pthread_mutexattr_init(&recursive);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&tl->lock, &recursive);
	pthread_mutexattr_destroy(&recursive);
	pthread_mutex_init(&tl->out_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&tl->moved, &attr);
	pthread_cond_init(&tl->out_more, &attr);
	pthread_condattr_destroy(&attr);
	if (series_init(&tl->loads, sizeof(struct tl_load)) < 0 ||
		series_init(&tl->conns, sizeof(struct tl_conn)) < 0 ||
		series_init(&tl->weights, sizeof(struct tl_weight)) < 0 ||
		series_init(&tl->events, sizeof(struct tl_event)) < 0) {
		timeline_free(tl);
		return NULL;
	}
	return tl;
}

static void timeline_failed(struct timeline *tl, int error)
{
	pthread_mutex_lock(&tl->lock);
	if (!tl->error)
		tl->error = error;
	pthread_mutex_unlock(&tl->lock);
}

/* ── the file ──────────────────────────────────────────────────────────────────────────── */

static void *writer_main(void *arg)
{
	struct timeline *tl = arg;
	bool broken = false;

	pthread_mutex_lock(&tl->out_lock);
	for (;;) {
		struct line *l = tl->out_head;

		if (!l) {
			if (tl->closing)
				break;
			pthread_cond_wait(&tl->out_more, &tl->out_lock);
			continue;
		}
		tl->out_head = l->next;
		if (!tl->out_head)
			tl->out_tail = &tl->out_head;
		pthread_mutex_unlock(&tl->out_lock);
		/* After a failure (a full disk) nothing more is written: a hole in the middle would look like quiet. */
		if (!broken) {
			int r = fd_write_all(tl->fd, l->text, strlen(l->text));

			if (r < 0) {
				broken = true;
				timeline_failed(tl, r);
			}
		}
		free(l->text);
		free(l);
		pthread_mutex_lock(&tl->out_lock);
	}
	pthread_mutex_unlock(&tl->out_lock);
	return NULL;
}

/* Takes @j. Called with the timeline locked, so that lines of equal time keep their order. */
static void put_line(struct timeline *tl, json_t *j)
{
	_cleanup_json_ json_t *line = j;
	_cleanup_free_ char *text = NULL;
	struct line *l;
	size_t len;

	if (tl->fd < 0)
		return;
	text = line ? json_dumps(line, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
	len = text ? strlen(text) : 0;
	l = calloc(1, sizeof(*l));
	if (!text || !l || !(l->text = malloc(len + 2))) {
		free(l);
		tl->error = tl->error ? tl->error : -ENOMEM;
		return;
	}
	memcpy(l->text, text, len);
	memcpy(l->text + len, "\n", 2);

	pthread_mutex_lock(&tl->out_lock);
	*tl->out_tail = l;
	tl->out_tail = &l->next;
	if (!tl->writer_runs) {
		int r = pthread_create(&tl->writer, NULL, writer_main, tl);

		tl->writer_runs = r == 0;
		if (r)
			tl->error = tl->error ? tl->error : -r;
	}
	pthread_cond_signal(&tl->out_more);
	pthread_mutex_unlock(&tl->out_lock);
}

/* A writer before us may have been killed in the middle of a line: ours must not be glued to it. */
static int mend_end(int fd)
{
	struct stat st;
	char last, note[80];
	int n;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size == 0)
		return 0;
	if (pread(fd, &last, 1, st.st_size - 1) != 1)
		return -EIO;
	if (last == '\n')
		return 0;
	n = snprintf(note, sizeof(note), "\n{\"t\":%lld,\"kind\":\"" KIND_TORN "\"}\n",
		(long long)now_ns());
	return fd_write_all(fd, note, (size_t)n);
}

int timeline_new(const char *path, struct timeline **ret, struct err *err)
{
	_cleanup_timeline_ struct timeline *tl = timeline_alloc();
	int r;

	if (!tl)
		return err_set(err, -ENOMEM, "timeline: out of memory");
	if (path) {
		tl->fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
		if (tl->fd < 0) {
			r = -errno;
			return err_set(err, r, "timeline %s: cannot be opened for writing: %s",
				path, strerror(-r));
		}
		r = mend_end(tl->fd);
		if (r < 0)
			return err_set(
				err, r, "timeline %s: cannot be continued: %s", path, strerror(-r));
	}
	*ret = TAKE_PTR(tl);
	return 0;
}

void timeline_free(struct timeline *tl)
{
	if (!tl)
		return;
	if (tl->writer_runs) {
		pthread_mutex_lock(&tl->out_lock);
		tl->closing = true;
		pthread_cond_signal(&tl->out_more);
		pthread_mutex_unlock(&tl->out_lock);
		pthread_join(tl->writer, NULL);
	}
	while (tl->out_head) { /* only when the thread could not be made */
		struct line *l = tl->out_head;

		tl->out_head = l->next;
		free(l->text);
		free(l);
	}
	if (tl->fd >= 0)
		close(tl->fd);
	for (size_t i = 0; i < tl->loads.n; i++)
		hist_sparse_free(&((struct tl_load *)tl->loads.v)[i].latency);
	for (size_t i = 0; i < tl->events.n; i++)
		json_decref(((struct tl_event *)tl->events.v)[i].data);
	free(tl->loads.v);
	free(tl->conns.v);
	free(tl->weights.v);
	free(tl->events.v);
	for (size_t i = 0; i < tl->n_marks; i++)
		free(tl->marks[i].source);
	free(tl->marks);
	for (size_t i = 0; i < tl->n_strings; i++)
		free(tl->strings[i]);
	free(tl->strings);
	pthread_cond_destroy(&tl->moved);
	pthread_cond_destroy(&tl->out_more);
	pthread_mutex_destroy(&tl->lock);
	pthread_mutex_destroy(&tl->out_lock);
	free(tl);
}

/* ── lines, out and in ─────────────────────────────────────────────────────────────────── */

static void set_uint(json_t *j, const char *key, uint64_t v)
{
	if (v)
		json_object_set_new(j, key, json_integer((json_int_t)v));
}

static void set_time(json_t *j, const char *key, nsec_t t)
{
	if (t)
		json_object_set_new(j, key, json_integer(t));
}

static json_t *load_to_json(const struct tl_load *b)
{
	json_t *j = json_pack(
		"{s:I, s:s, s:s}", "t", (json_int_t)b->t, "kind", KIND_LOAD, "load", b->load);
	json_t *n = json_object();

	for (int i = 0; i < OUTCOME_COUNT; i++)
		set_uint(n, outcome_names[i], b->count[i]);
	json_object_set_new(j, "n", n);
	set_uint(j, "bytes", b->bytes);
	if (b->latency.n_pairs)
		json_object_set_new(j, "lat", hist_sparse_to_json(&b->latency));
	set_time(j, "first_ok", b->first_ok);
	set_time(j, "last_ok", b->last_ok);
	return j;
}

static json_t *conn_to_json(const struct tl_conn *b)
{
	json_t *j = json_pack("{s:I, s:s, s:s, s:s}", "t", (json_int_t)b->t, "kind", KIND_CONN,
		"service", b->service, "server", b->server);

	set_uint(j, "established", b->established);
	set_uint(j, "closed", b->closed);
	set_uint(j, "failed", b->failed);
	set_uint(j, "resets", b->resets);
	set_uint(j, "retransmits", b->retransmits);
	set_time(j, "first", b->first);
	set_time(j, "last", b->last);
	set_time(j, "first_bad", b->first_bad);
	set_time(j, "last_bad", b->last_bad);
	return j;
}

static json_t *weight_to_json(const struct tl_weight *w)
{
	return json_pack("{s:I, s:s, s:s, s:s, s:i, s:i, s:i}", "t", (json_int_t)w->t, "kind",
		KIND_WEIGHT, "service", w->service, "server", w->server, "weight", w->weight,
		"active", w->active, "inactive", w->inactive);
}

/* An absent member is 0; anything but a non-negative integer is -EINVAL. */
static int get_uint(const json_t *j, const char *key, uint64_t *ret)
{
	const json_t *v = json_object_get(j, key);

	if (!v) {
		*ret = 0;
		return 0;
	}
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return -EINVAL;
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int get_int(const json_t *j, const char *key, int *ret)
{
	const json_t *v = json_object_get(j, key);

	if (!v) {
		*ret = 0;
		return 0;
	}
	if (!json_is_integer(v) || json_integer_value(v) < INT32_MIN ||
		json_integer_value(v) > INT32_MAX)
		return -EINVAL;
	*ret = (int)json_integer_value(v);
	return 0;
}

static int get_time(const json_t *j, const char *key, nsec_t *ret)
{
	return get_uint(j, key, (uint64_t *)ret);
}

static int load_from_json(const json_t *j, struct tl_load *ret)
{
	const json_t *n = json_object_get(j, "n"), *lat = json_object_get(j, "lat");

	ret->load = json_string_value(json_object_get(j, "load"));
	if (!ret->load || !json_is_object(n) || get_uint(j, "bytes", &ret->bytes) < 0 ||
		get_time(j, "first_ok", &ret->first_ok) < 0 ||
		get_time(j, "last_ok", &ret->last_ok) < 0)
		return -EINVAL;
	for (int i = 0; i < OUTCOME_COUNT; i++)
		if (get_uint(n, outcome_names[i], &ret->count[i]) < 0)
			return -EINVAL;
	return lat ? hist_sparse_from_json(lat, &ret->latency) : 0;
}

static int conn_from_json(const json_t *j, struct tl_conn *ret)
{
	ret->service = json_string_value(json_object_get(j, "service"));
	ret->server = json_string_value(json_object_get(j, "server"));
	if (!ret->service || !ret->server || get_uint(j, "established", &ret->established) < 0 ||
		get_uint(j, "closed", &ret->closed) < 0 ||
		get_uint(j, "failed", &ret->failed) < 0 ||
		get_uint(j, "resets", &ret->resets) < 0 || get_uint(j, "retransmits", &ret->retransmits) < 0 ||
		get_time(j, "first", &ret->first) < 0 || get_time(j, "last", &ret->last) < 0 ||
		get_time(j, "first_bad", &ret->first_bad) < 0 || get_time(j, "last_bad", &ret->last_bad) < 0)
		return -EINVAL;
	return 0;
}

static int weight_from_json(const json_t *j, struct tl_weight *ret)
{
	ret->service = json_string_value(json_object_get(j, "service"));
	ret->server = json_string_value(json_object_get(j, "server"));
	if (!ret->service || !ret->server || !json_object_get(j, "weight") ||
		get_int(j, "weight", &ret->weight) < 0 || get_int(j, "active", &ret->active) < 0 ||
		get_int(j, "inactive", &ret->inactive) < 0)
		return -EINVAL;
	return 0;
}

/* ── writers ───────────────────────────────────────────────────────────────────────────── */

static void insert(struct timeline *tl, struct series *s, const void *entry, nsec_t until)
{
	int r = series_insert(s, entry);

	if (r < 0 && !tl->error)
		tl->error = r;
	tl->end = MAX(tl->end, until);
}

void timeline_event(struct timeline *tl, nsec_t t, const char *kind, json_t *data)
{
	void (*listener)(const struct tl_event *e, void *arg);
	struct tl_event e = {.t = t, .data = data ? data : json_object()};
	bool gauge = streq(kind, EV_GAUGE);
	void *arg;

	pthread_mutex_lock(&tl->lock);
	e.kind = is_own_kind(kind) ? NULL : intern(tl, kind);
	if (!e.kind || !e.data) {
		tl->error = tl->error ? tl->error : is_own_kind(kind) ? -EINVAL : -ENOMEM;
		pthread_mutex_unlock(&tl->lock);
		json_decref(e.data);
		return;
	}
	if (!gauge) {
		json_t *line = json_pack("{s:I, s:s}", "t", (json_int_t)t, "kind", e.kind);

		if (line)
			json_object_update_missing(line, e.data);
		put_line(tl, line);
		insert(tl, &tl->events, &e, t);
	}
	listener = tl->listener;
	arg = tl->listener_arg;
	pthread_mutex_unlock(&tl->lock);

	if (listener)
		listener(&e, arg);
	if (gauge)
		json_decref(e.data);
}

void timeline_add_load(struct timeline *tl, const struct tl_load *bucket)
{
	struct tl_load b = *bucket;

	pthread_mutex_lock(&tl->lock);
	b.load = intern(tl, bucket->load);
	if (!b.load || sparse_copy(&bucket->latency, &b.latency) < 0) {
		tl->error = tl->error ? tl->error : -ENOMEM;
	} else {
		put_line(tl, load_to_json(&b));
		insert(tl, &tl->loads, &b, b.t + TIMELINE_BUCKET);
	}
	pthread_mutex_unlock(&tl->lock);
}

void timeline_add_conn(struct timeline *tl, const struct tl_conn *bucket)
{
	struct tl_conn b = *bucket;

	pthread_mutex_lock(&tl->lock);
	b.service = intern(tl, bucket->service);
	b.server = intern(tl, bucket->server);
	if (!b.service || !b.server) {
		tl->error = tl->error ? tl->error : -ENOMEM;
	} else {
		put_line(tl, conn_to_json(&b));
		insert(tl, &tl->conns, &b, b.t + TIMELINE_BUCKET);
	}
	pthread_mutex_unlock(&tl->lock);
}

void timeline_add_weight(struct timeline *tl, const struct tl_weight *w)
{
	struct tl_weight b = *w;

	pthread_mutex_lock(&tl->lock);
	b.service = intern(tl, w->service);
	b.server = intern(tl, w->server);
	if (!b.service || !b.server) {
		tl->error = tl->error ? tl->error : -ENOMEM;
	} else {
		put_line(tl, weight_to_json(&b));
		insert(tl, &tl->weights, &b, b.t);
	}
	pthread_mutex_unlock(&tl->lock);
}

static struct mark *find_mark(struct timeline *tl, const char *source)
{
	struct mark *marks;

	for (size_t i = 0; i < tl->n_marks; i++)
		if (streq(tl->marks[i].source, source))
			return &tl->marks[i];
	marks = reallocarray(tl->marks, tl->n_marks + 1, sizeof(*marks));
	if (!marks)
		return NULL;
	tl->marks = marks;
	marks[tl->n_marks] = (struct mark){.source = strdup(source), .t = -1, .written = -1};
	return marks[tl->n_marks].source ? &marks[tl->n_marks++] : NULL;
}

void timeline_watermark(struct timeline *tl, const char *source, nsec_t t)
{
	struct mark *m;
	json_t *line;

	pthread_mutex_lock(&tl->lock);
	m = find_mark(tl, source);
	if (!m) {
		tl->error = tl->error ? tl->error : -ENOMEM;
	} else if (t > m->t) { /* a mark never goes back */
		bool first = m->written < 0, ended = t == NSEC_INFINITY;

		if (first || ended || t - m->written >= MARK_EVERY) {
			nsec_t at = ended ? MAX(m->t, 0) : t;

			line = json_pack("{s:I, s:s, s:s}", "t", (json_int_t)at, "kind", KIND_MARK,
				"source", source);
			if (ended)
				json_object_set_new(line, "ended", json_true());
			put_line(tl, line);
			m->written = at;
		}
		m->t = t;
		if (!ended)
			tl->end = MAX(tl->end, t);
		pthread_cond_broadcast(&tl->moved);
	}
	pthread_mutex_unlock(&tl->lock);
}

void timeline_listen(
	struct timeline *tl, void (*fn)(const struct tl_event *e, void *arg), void *arg)
{
	pthread_mutex_lock(&tl->lock);
	tl->listener = fn;
	tl->listener_arg = arg;
	pthread_mutex_unlock(&tl->lock);
}

/* ── reading a stored one ──────────────────────────────────────────────────────────────── */

/* One line's object. -EINVAL: not a line of ours. */
static int read_entry(struct timeline *tl, json_t *j)
{
	const char *kind = json_string_value(json_object_get(j, "kind"));
	const json_t *jt = json_object_get(j, "t");
	nsec_t t;
	int r;

	if (!json_is_object(j) || !kind || !json_is_integer(jt) || json_integer_value(jt) < 0 ||
		json_integer_value(jt) > NSEC_INFINITY - TIMELINE_BUCKET)
		return -EINVAL;
	t = json_integer_value(jt);

	if (streq(kind, KIND_LOAD)) {
		_cleanup_(hist_sparse_free) struct hist_sparse latency = {0};
		struct tl_load b = {.t = t};

		r = load_from_json(j, &b);
		latency = b.latency;
		if (r < 0)
			return r;
		timeline_add_load(tl, &b);
	} else if (streq(kind, KIND_CONN)) {
		struct tl_conn b = {.t = t};

		r = conn_from_json(j, &b);
		if (r < 0)
			return r;
		timeline_add_conn(tl, &b);
	} else if (streq(kind, KIND_WEIGHT)) {
		struct tl_weight b = {.t = t};

		r = weight_from_json(j, &b);
		if (r < 0)
			return r;
		timeline_add_weight(tl, &b);
	} else if (streq(kind, KIND_MARK)) {
		const char *source = json_string_value(json_object_get(j, "source"));

		if (!source)
			return -EINVAL;
		timeline_watermark(tl, source, t);
		if (json_is_true(json_object_get(j, "ended")))
			timeline_watermark(tl, source, NSEC_INFINITY);
	} else if (!streq(kind, KIND_TORN)) {
		_cleanup_free_ char *name = strdup(kind); /* dies with the member */
		_cleanup_json_ json_t *data = json_copy(j);

		if (!name || !data)
			return -ENOMEM;
		json_object_del(data, "t");
		json_object_del(data, "kind");
		timeline_event(tl, t, name, TAKE_PTR(data));
	}
	return tl->error;
}

/*
 * May the line before this one be unfinished? Only where another writer went on: a timeline's own first line then, or what the
 * guard or the command says about an engine (or a microVM) that died.
 */
static bool goes_on(const json_t *j)
{
	const char *kind = json_string_value(json_object_get(j, "kind"));

	return streq(kind, KIND_TORN) || streq(kind, EV_GUARD) || streq(kind, EV_ERROR);
}

static void fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}

int timeline_read(const char *path, struct timeline **ret, struct err *err)
{
	_cleanup_timeline_ struct timeline *tl = timeline_alloc();
	_cleanup_(fclosep) FILE *f = NULL;
	_cleanup_free_ char *text = NULL;
	size_t size = 0, line = 0,
	       bad = 0;	   /* `bad`: number of the line just before, when it could not be read */
	bool whole = true; /* the line has its newline */
	uint64_t total = 0;
	ssize_t n;
	int r;

	if (!tl)
		return err_set(err, -ENOMEM, "timeline: out of memory");
	tl->stored = true;
	f = fopen(path, "re");
	if (!f) {
		r = -errno;
		return err_set(err, r, "timeline %s: cannot be opened: %s", path, strerror(-r));
	}
	while ((errno = 0, n = getline(&text, &size, f)) > 0) {
		_cleanup_json_ json_t *j = NULL;

		line++;
		whole = text[n - 1] == '\n';
		total += (uint64_t)n;
		if (total > FILE_MAX_BYTES)
			return err_set(err, -EFBIG, "timeline %s: larger than 1 GiB", path);
		if (n == 1 && whole)
			continue; /* a writer that made sure of a new line */
		if ((size_t)n <= LINE_MAX_BYTES)
			j = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
		if (bad && !goes_on(j))
			break;
		/* A line without its newline may still be all there. */
		r = j ? read_entry(tl, j) : -EINVAL;
		if (r < 0 && r != -EINVAL)
			return err_set(err, r, "timeline %s:%zu: %s", path, line, strerror(-r));
		bad = r == -EINVAL ? line : 0;
	}
	if (n < 0 && !feof(f)) {
		r = errno ? -errno : -EIO;
		return err_set(err, r, "timeline %s: cannot be read: %s", path, strerror(-r));
	}
	if (bad && (whole || !feof(f)))
		return err_set(
			err, -EBADMSG, "timeline %s:%zu: not a line of a timeline", path, bad);
	*ret = TAKE_PTR(tl);
	return 0;
}

/* ── readers ───────────────────────────────────────────────────────────────────────────── */

/* A reader holds the timeline as const: what it may not change is the entries. */
void timeline_lock(const struct timeline *tl)
{
	pthread_mutex_lock(&((struct timeline *)tl)->lock);
}

void timeline_unlock(const struct timeline *tl)
{
	pthread_mutex_unlock(&((struct timeline *)tl)->lock);
}

nsec_t timeline_end(const struct timeline *tl)
{
	return tl->end;
}

nsec_t timeline_complete(const struct timeline *tl)
{
	nsec_t t = tl->stored ? tl->end : now_ns();

	for (size_t i = 0; i < tl->n_marks; i++)
		t = MIN(t, tl->marks[i].t);
	return t;
}

size_t timeline_loads(const struct timeline *tl, const struct tl_load **ret)
{
	*ret = (const struct tl_load *)tl->loads.v;
	return tl->loads.n;
}

size_t timeline_conns(const struct timeline *tl, const struct tl_conn **ret)
{
	*ret = (const struct tl_conn *)tl->conns.v;
	((struct timeline *)tl)->conn_reads++;
	return tl->conns.n;
}

uint64_t timeline_conn_reads(const struct timeline *tl)
{
	return tl->conn_reads;
}

size_t timeline_weights(const struct timeline *tl, const struct tl_weight **ret)
{
	*ret = (const struct tl_weight *)tl->weights.v;
	return tl->weights.n;
}

size_t timeline_events(const struct timeline *tl, const struct tl_event **ret)
{
	*ret = (const struct tl_event *)tl->events.v;
	return tl->events.n;
}

int timeline_error(const struct timeline *tl)
{
	return tl->error;
}

/* ── waiting ───────────────────────────────────────────────────────────────────────────── */

/* What this thread has seen of the kicks, so that one that came between its test and its wait is noticed. */
static _Thread_local struct {
	uint64_t id, kicks;
} seen;

int timeline_wait(struct timeline *tl, nsec_t t, nsec_t deadline)
{
	int r;

	pthread_mutex_lock(&tl->lock);
	if (seen.id != tl->id) {
		seen.id = tl->id;
		seen.kicks = 0;
	}
	for (;;) {
		nsec_t now = now_ns(), until;
		struct timespec ts;

		r = timeline_complete(tl) >= t;
		if (r || seen.kicks != tl->kicks || now >= deadline)
			break;
		/* Completeness is bounded by now: marks may all be ahead of it already (the sources have ended). */
		until = t > now ? MIN(t, deadline) : deadline;
		if (until == NSEC_INFINITY) {
			pthread_cond_wait(&tl->moved, &tl->lock);
		} else {
			ts.tv_sec = until / NSEC_PER_SEC;
			ts.tv_nsec = until % NSEC_PER_SEC;
			pthread_cond_timedwait(&tl->moved, &tl->lock, &ts);
		}
	}
	seen.kicks = tl->kicks;
	pthread_mutex_unlock(&tl->lock);
	return r;
}

void timeline_kick(struct timeline *tl)
{
	pthread_mutex_lock(&tl->lock);
	tl->kicks++;
	pthread_cond_broadcast(&tl->moved);
	pthread_mutex_unlock(&tl->lock);
}
