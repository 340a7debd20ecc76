/* SPDX-License-Identifier: GPL-2.0-only */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/str.h"
#include "engine/timeline.h"

#define S NSEC_PER_SEC

static char path[64];

static int setup(void **state _unused_)
{
	int fd;

	strcpy(path, "/tmp/muster-timeline-XXXXXX");
	fd = mkstemp(path);
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static int teardown(void **state _unused_)
{
	unlink(path);
	return 0;
}

static void write_text(const char *text)
{
	assert_int_equal(file_write(path, text, strlen(text)), 0);
}

static void test_series_are_kept_in_order_of_time(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	const struct tl_load *l;
	const struct tl_conn *c;
	const struct tl_event *e;

	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	for (int i = 0; i < 1000; i++) {
		timeline_add_load(
			tl, &(struct tl_load){
				    .t = i * TIMELINE_BUCKET, .load = "a", .bytes = (uint64_t)i});
		if (i >= 7)
			timeline_add_load(
				tl, &(struct tl_load){.t = (i - 7) * TIMELINE_BUCKET, .load = "b"});
	}
	timeline_add_conn(tl, &(struct tl_conn){.t = 5, .service = "web", .server = "rs1"});
	timeline_add_conn(tl, &(struct tl_conn){.t = 3, .service = "web", .server = "rs2"});
	timeline_event(tl, 7, "log", json_pack("{s:s}", "text", "first"));
	timeline_event(tl, 7, "log", json_pack("{s:s}", "text", "second"));
	timeline_event(tl, 6, "log", NULL);

	timeline_lock(tl);
	assert_int_equal(timeline_loads(tl, &l), 1993);
	for (size_t i = 1; i < 1993; i++)
		assert_true(l[i - 1].t <= l[i].t);
	/* interned: one pointer a name */
	assert_string_equal(l[0].load, "a");
	assert_string_equal(l[1].load, "b");
	assert_ptr_equal(l[0].load, l[2].load);

	assert_int_equal(timeline_conns(tl, &c), 2);
	assert_int_equal(c[0].t, 3);
	assert_int_equal(timeline_seek(c, 2, sizeof(*c), 0), 0);
	assert_int_equal(timeline_seek(c, 2, sizeof(*c), 3), 0);
	assert_int_equal(timeline_seek(c, 2, sizeof(*c), 4), 1);
	assert_int_equal(timeline_seek(c, 2, sizeof(*c), 6), 2);

	assert_int_equal(timeline_events(tl, &e), 3);
	assert_int_equal(json_object_size(e[0].data), 0);
	assert_string_equal(json_string_value(json_object_get(e[1].data, "text")), "first");
	assert_string_equal(json_string_value(json_object_get(e[2].data, "text")), "second");
	assert_int_equal(timeline_end(tl), 1000 * TIMELINE_BUCKET);
	assert_int_equal(timeline_error(tl), 0);
	timeline_unlock(tl);
}

static void test_what_is_written_is_read_back(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL, *back = NULL;
	uint16_t index[] = {3, 700};
	uint32_t count[] = {2, 40};
	struct hist_sparse lat = {.n_pairs = 2, .index = index, .count = count};
	struct tl_load load = {.t = 2 * S,
		.load = "client",
		.count = {42, 1, 2, 3, 4, 5},
		.bytes = 123456789012,
		.latency = lat,
		.first_ok = 2 * S + 17,
		.last_ok = 3 * S};
	struct tl_conn conn = {.t = 2 * S,
		.service = "web",
		.server = "rs1",
		.established = 11,
		.closed = 10,
		.failed = 1,
		.retransmits = 4,
		.first = 2 * S + 1,
		.last = 2 * S + 99};
	struct tl_weight weight = {.t = 1 * S,
		.service = "web",
		.server = "rs2",
		.weight = -1,
		.active = 3,
		.inactive = 4};
	const struct tl_load *l;
	const struct tl_conn *c;
	const struct tl_weight *w;
	const struct tl_event *e;

	assert_int_equal(timeline_new(path, &tl, NULL), 0);
	timeline_event(tl, 1 * S, EV_PHASE,
		json_pack("{s:s, s:s}", "phase", "a \"quoted\" \xc3\xa9\n", "where", "f:1"));
	timeline_add_load(tl, &load);
	timeline_add_conn(tl, &conn);
	timeline_add_weight(tl, &weight);
	timeline_watermark(tl, "client", 3 * S);
	timeline_watermark(tl, "conn", 2 * S + TIMELINE_BUCKET);
	memset(count, 0, sizeof(count)); /* the timeline has its own copy */
	timeline_free(TAKE_PTR(tl));

	assert_int_equal(timeline_read(path, &back, NULL), 0);
	timeline_lock(back);
	assert_int_equal(timeline_loads(back, &l), 1);
	assert_int_equal(l->t, load.t);
	assert_string_equal(l->load, "client");
	assert_memory_equal(l->count, load.count, sizeof(load.count));
	assert_int_equal(l->bytes, load.bytes);
	assert_int_equal(l->first_ok, load.first_ok);
	assert_int_equal(l->last_ok, load.last_ok);
	assert_int_equal(l->latency.n_pairs, 2);
	assert_int_equal(l->latency.index[1], 700);
	assert_int_equal(l->latency.count[0], 2);
	assert_int_equal(l->latency.count[1], 40);
	assert_int_equal(timeline_conns(back, &c), 1);
	assert_string_equal(c->service, "web");
	assert_string_equal(c->server, "rs1");
	assert_int_equal(c->established, 11);
	assert_int_equal(c->closed, 10);
	assert_int_equal(c->failed, 1);
	assert_int_equal(c->retransmits, 4);
	assert_int_equal(c->first, conn.first);
	assert_int_equal(c->last, conn.last);
	assert_int_equal(timeline_weights(back, &w), 1);
	assert_int_equal(w->weight, -1);
	assert_int_equal(w->active, 3);
	assert_int_equal(w->inactive, 4);
	assert_int_equal(timeline_events(back, &e), 1);
	assert_string_equal(e->kind, EV_PHASE);
	assert_int_equal(json_object_size(e->data), 2);
	assert_string_equal(
		json_string_value(json_object_get(e->data, "phase")), "a \"quoted\" \xc3\xa9\n");
	/* a stored run is complete where its slowest source was */
	assert_int_equal(timeline_complete(back), 2 * S + TIMELINE_BUCKET);
	assert_int_equal(timeline_end(back), 3 * S);
	timeline_unlock(back);
}

static void test_an_ended_source_holds_nothing_back(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL, *back = NULL;

	assert_int_equal(timeline_new(path, &tl, NULL), 0);
	timeline_watermark(tl, "a", 1 * S);
	timeline_watermark(tl, "b", 2 * S);
	timeline_watermark(tl, "a", NSEC_INFINITY);
	timeline_lock(tl);
	assert_int_equal(timeline_complete(tl), 2 * S);
	timeline_unlock(tl);
	timeline_watermark(tl, "b", 1 * S); /* never back */
	timeline_lock(tl);
	assert_int_equal(timeline_complete(tl), 2 * S);
	timeline_unlock(tl);
	timeline_watermark(tl, "b", NSEC_INFINITY);
	timeline_lock(tl);
	assert_true(timeline_complete(tl) > 2 * S && timeline_complete(tl) <= now_ns());
	timeline_unlock(tl);
	timeline_free(TAKE_PTR(tl));

	assert_int_equal(timeline_read(path, &back, NULL), 0);
	timeline_lock(back);
	assert_int_equal(timeline_complete(back), 2 * S);
	timeline_unlock(back);
}

static void test_marks_are_thinned_in_the_file_only(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_free_ char *text = NULL;
	size_t lines = 0;

	assert_int_equal(timeline_new(path, &tl, NULL), 0);
	for (int i = 0; i <= 100; i++)
		timeline_watermark(tl, "a", i * TIMELINE_BUCKET);
	timeline_free(TAKE_PTR(tl));
	assert_int_equal(file_read(path, 1 << 20, &text, NULL), 0);
	for (const char *p = text; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 11);
}

static size_t count_events(const struct timeline *tl)
{
	const struct tl_event *e;
	size_t n;

	timeline_lock(tl);
	n = timeline_events(tl, &e);
	timeline_unlock(tl);
	return n;
}

static void test_torn_lines(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	struct err err = {0};

	write_text("{\"t\":1,\"kind\":\"log\"}\n{\"t\":2,\"kind\":\"lo");
	assert_int_equal(timeline_read(path, &tl, NULL), 0);
	assert_int_equal(count_events(tl), 1);
	timeline_free(TAKE_PTR(tl));

	/* the guard goes on where the engine was killed: its lines must not be lost with the torn one */
	assert_int_equal(timeline_new(path, &tl, NULL), 0);
	timeline_event(tl, 3, EV_GUARD, NULL);
	timeline_free(TAKE_PTR(tl));
	assert_int_equal(timeline_read(path, &tl, NULL), 0);
	assert_int_equal(count_events(tl), 2);
	timeline_free(TAKE_PTR(tl));

	/* killed just before the newline: nothing was lost */
	write_text("{\"t\":1,\"kind\":\"log\"}\n{\"t\":2,\"kind\":\"log\"}");
	assert_int_equal(timeline_new(path, &tl, NULL), 0);
	timeline_event(tl, 3, EV_GUARD, NULL);
	timeline_free(TAKE_PTR(tl));
	assert_int_equal(timeline_read(path, &tl, NULL), 0);
	assert_int_equal(count_events(tl), 3);
	timeline_free(TAKE_PTR(tl));

	/* the guard writes by hand, and what becomes of a microVM is said after an empty line */
	write_text("{\"t\":1,\"kind\":\"log\"}\n{\"t\":2,\"kind\":\"lo\n{\"t\":3,\"kind\":\"guard\"}\n");
	assert_int_equal(timeline_read(path, &tl, NULL), 0);
	assert_int_equal(count_events(tl), 2);
	timeline_free(TAKE_PTR(tl));
	write_text("{\"t\":1,\"kind\":\"log\"}\n{\"t\":2,\"ki\n\n{\"t\":3,\"kind\":\"error\"}\n\n{\"t\":4,\"kind\":\"residue\"}\n");
	assert_int_equal(timeline_read(path, &tl, NULL), 0);
	assert_int_equal(count_events(tl), 3);
	timeline_free(TAKE_PTR(tl));

	/* in the middle, with nobody to say why, it is damage */
	write_text(
		"{\"t\":1,\"kind\":\"log\"}\n{\"t\":2,\"kind\":\"lo\n{\"t\":3,\"kind\":\"log\"}\n");
	assert_int_equal(timeline_read(path, &tl, &err), -EBADMSG);
	assert_null(tl);
	assert_non_null(strstr(err.text, ":2: "));
}

static void test_what_is_no_timeline_is_refused(void **state _unused_)
{
	static const char *const bad[] = {
		"hello\n",
		"[]\n",
		"{}\n",
		"{\"t\":1}\n",
		"{\"t\":-1,\"kind\":\"log\"}\n",
		"{\"t\":1.5,\"kind\":\"log\"}\n",
		"{\"t\":9223372036854775807,\"kind\":\"log\"}\n",
		"{\"t\":1,\"t\":2,\"kind\":\"log\"}\n",
		"{\"t\":1,\"kind\":5}\n",
		"{\"t\":1,\"kind\":\"load\"}\n",
		"{\"t\":1,\"kind\":\"load\",\"load\":\"c\",\"n\":{\"ok\":-1}}\n",
		"{\"t\":1,\"kind\":\"load\",\"load\":\"c\",\"n\":{},\"lat\":[[1]]}\n",
		"{\"t\":1,\"kind\":\"load\",\"load\":\"c\",\"n\":{},\"lat\":[[99999,1]]}\n",
		"{\"t\":1,\"kind\":\"conn\",\"service\":\"w\"}\n",
		"{\"t\":1,\"kind\":\"conn\",\"service\":\"w\",\"server\":\"s\",\"established\":"
		"\"3\"}\n",
		"{\"t\":1,\"kind\":\"weight\",\"service\":\"w\",\"server\":\"s\"}\n",
		"{\"t\":1,\"kind\":\"weight\",\"service\":\"w\",\"server\":\"s\",\"weight\":"
		"99999999999}\n",
		"{\"t\":1,\"kind\":\"mark\"}\n",
	};
	struct timeline *tl = NULL;
	struct err err = {0};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		write_text(bad[i]);
		if (timeline_read(path, &tl, &err) != -EBADMSG)
			fail_msg("taken: %s", bad[i]);
		assert_non_null(strstr(err.text, ":1: "));
		assert_null(tl);
	}
	unlink(path);
	assert_int_equal(timeline_read(path, &tl, &err), -ENOENT);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(timeline_new("/nonexistent/x", &tl, &err), -ENOENT);
}

static void test_an_empty_file_is_an_empty_timeline(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;

	assert_int_equal(timeline_read(path, &tl, NULL), 0);
	assert_int_equal(count_events(tl), 0);
	timeline_lock(tl);
	assert_int_equal(timeline_end(tl), 0);
	assert_int_equal(timeline_complete(tl), 0);
	timeline_unlock(tl);
}

static void test_a_full_disk_is_told(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	int error = 0;

	assert_int_equal(timeline_new("/dev/full", &tl, NULL), 0);
	timeline_event(tl, 1, "log", NULL);
	for (nsec_t end = now_ns() + 5 * S; !error && now_ns() < end;) {
		timeline_lock(tl);
		error = timeline_error(tl);
		timeline_unlock(tl);
	}
	assert_int_equal(error, -ENOSPC);
	assert_int_equal(count_events(tl), 1); /* memory still has it */
}

static void test_a_series_kind_is_not_an_event(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;

	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	timeline_event(tl, 1, "load", NULL);
	assert_int_equal(count_events(tl), 0);
	timeline_lock(tl);
	assert_int_equal(timeline_error(tl), -EINVAL);
	timeline_unlock(tl);
}

static void heard(const struct tl_event *e, void *arg)
{
	struct strbuf *b = arg;

	strbuf_addf(b, "%s@%lld ", e->kind, (long long)e->t);
}

static void test_the_listener_hears_gauges_and_the_file_does_not(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};

	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	timeline_listen(tl, heard, &b);
	timeline_event(tl, 1, EV_GAUGE, json_pack("{s:f}", "rate", 300.0));
	timeline_event(tl, 2, EV_LOG, NULL);
	assert_string_equal(strbuf_cstr(&b), "gauge@1 log@2 ");
	assert_int_equal(count_events(tl), 1);
}

static void *advance(void *arg)
{
	struct timeline *tl = arg;

	for (int i = 1; i <= 20; i++)
		timeline_watermark(tl, "a", i * TIMELINE_BUCKET);
	return NULL;
}

static void *kick(void *arg)
{
	timeline_kick(arg);
	return NULL;
}

static void test_waiting(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	pthread_t thread;
	nsec_t t0 = now_ns();

	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	timeline_watermark(tl, "a", 0);
	assert_int_equal(timeline_wait(tl, 0, 0), 1);
	assert_int_equal(timeline_wait(tl, 1, 0), 0); /* the deadline has passed */
	assert_int_equal(timeline_wait(tl, 1, now_ns() + 20 * NSEC_PER_MSEC), 0);
	assert_true(now_ns() - t0 >= 20 * NSEC_PER_MSEC);

	pthread_create(&thread, NULL, advance, tl);
	assert_int_equal(timeline_wait(tl, 20 * TIMELINE_BUCKET, now_ns() + 30 * S), 1);
	pthread_join(thread, NULL);

	/* a kick wakes, and one that came before the wait is not lost */
	pthread_create(&thread, NULL, kick, tl);
	t0 = now_ns();
	assert_int_equal(timeline_wait(tl, 100 * TIMELINE_BUCKET, now_ns() + 30 * S), 0);
	assert_true(now_ns() - t0 < 20 * S);
	pthread_join(thread, NULL);
	timeline_kick(tl);
	assert_int_equal(timeline_wait(tl, 100 * TIMELINE_BUCKET, now_ns() + 30 * S), 0);
	assert_true(now_ns() - t0 < 20 * S);

	/* no source: completeness is the clock's */
	timeline_free(TAKE_PTR(tl));
	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	t0 = now_ns() + 30 * NSEC_PER_MSEC;
	assert_int_equal(timeline_wait(tl, t0, now_ns() + 30 * S), 1);
	assert_true(now_ns() >= t0);
}

#define WRITERS 4
#define EACH	500

static void *write_many(void *arg)
{
	struct timeline *tl = arg;

	for (int i = 0; i < EACH; i++) {
		timeline_event(tl, now_ns(), EV_LOG, json_pack("{s:i}", "i", i));
		timeline_add_load(tl, &(struct tl_load){.t = now_ns(), .load = "l", .count = {1}});
	}
	return NULL;
}

static void test_many_writers(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	pthread_t threads[WRITERS];
	const struct tl_load *l;

	assert_int_equal(timeline_new(path, &tl, NULL), 0);
	for (int i = 0; i < WRITERS; i++)
		pthread_create(&threads[i], NULL, write_many, tl);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	timeline_free(TAKE_PTR(tl));
	assert_int_equal(timeline_read(path, &tl, NULL), 0);
	assert_int_equal(count_events(tl), WRITERS * EACH);
	timeline_lock(tl);
	assert_int_equal(timeline_loads(tl, &l), WRITERS * EACH);
	timeline_unlock(tl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_series_are_kept_in_order_of_time),
		cmocka_unit_test_setup_teardown(test_what_is_written_is_read_back, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_an_ended_source_holds_nothing_back, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_marks_are_thinned_in_the_file_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_torn_lines, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_what_is_no_timeline_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_an_empty_file_is_an_empty_timeline, setup, teardown),
		cmocka_unit_test(test_a_full_disk_is_told),
		cmocka_unit_test(test_a_series_kind_is_not_an_event),
		cmocka_unit_test(test_the_listener_hears_gauges_and_the_file_does_not),
		cmocka_unit_test(test_waiting),
		cmocka_unit_test_setup_teardown(test_many_writers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
