/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The probes of a service, over timelines written by hand: weights that change in the middle of a window,
 * connections that are too few to tell, servers that get what they should not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "engine/predicate.h"
#include "engine/stats.h"
#include "engine/str.h"

#define MS NSEC_PER_MSEC
#define S  NSEC_PER_SEC

static struct site *site;
static struct timeline *tl;

static int set_up(void **state _unused_)
{
	_cleanup_json_ json_t *j = json_loads(
		"{\"name\":\"t\",\"switches\":[\"lan\"],\"nodes\":["
		"{\"name\":\"director\"},{\"name\":\"rs1\"},{\"name\":\"rs2\"},{\"name\":\"rs3\"},{\"name\":\"spare\"}],"
		"\"services\":[{\"name\":\"web\",\"port\":8080,\"vips\":[\"198.18.0.100\"],\"director\":\"director\","
		"\"servers\":[{\"node\":\"rs1\",\"weight\":3},{\"node\":\"rs2\",\"weight\":5},{\"node\":\"rs3\",\"weight\":5}]}]}",
		0, NULL);
	struct err err = {0};

	assert_non_null(j);
	if (site_from_json(j, &site, &err) < 0)
		fail_msg("%s", err.text);
	return 0;
}

static int new_timeline(void **state _unused_)
{
	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	return 0;
}

static int drop_timeline(void **state _unused_)
{
	timeline_free(tl);
	tl = NULL;
	return 0;
}

static int tear_down(void **state _unused_)
{
	site_free(site);
	return 0;
}

static void conn(nsec_t t, const char *server, uint64_t n)
{
	timeline_add_conn(tl,
		&(struct tl_conn){.t = t, .service = "web", .server = server, .established = n});
}

static void weight(nsec_t t, const char *server, int w, int active)
{
	timeline_add_weight(tl,
		&(struct tl_weight){
			.t = t, .service = "web", .server = server, .weight = w, .active = active});
}

/* The same number in each bucket of [from, to) */
static void steadily(nsec_t from, nsec_t to, uint64_t rs1, uint64_t rs2, uint64_t rs3)
{
	for (nsec_t t = from; t < to; t += TIMELINE_BUCKET) {
		if (rs1)
			conn(t, "rs1", rs1);
		if (rs2)
			conn(t, "rs2", rs2);
		if (rs3)
			conn(t, "rs3", rs3);
	}
}

static struct sample ask(const char *probe, const char *server, nsec_t t0, nsec_t t1)
{
	_cleanup_json_ json_t *args = json_pack("{s:s, s:s*}", "service", "web", "server", server);
	const struct probe_ops *ops = probe_find("service", probe);
	struct sample s = {0};
	struct err err = {0};

	assert_non_null(ops);
	if (ops->eval(tl, site, args, t0, t1, &s, &err) < 0)
		fail_msg("%s", err.text);
	return s;
}

static enum tri within(double tolerance, nsec_t t0, nsec_t t1)
{
	_cleanup_json_ json_t *j = json_pack("{s:s, s:{s:s}, s:s, s:f}", "probe", "service.balance",
		"args", "service", "web", "op", "within", "bound", tolerance);
	struct predicate *p = NULL;
	struct sample s = {0};
	struct err err = {0};
	enum tri t;

	if (predicate_from_json(j, site, &p, &err) < 0)
		fail_msg("%s", err.text);
	t = predicate_eval(p, tl, site, t0, t1, &s, &err);
	json_decref(s.detail);
	predicate_free(p);
	return t;
}

static void weights_now(void **state _unused_)
{
	struct sample s = ask("weight", "rs2", 10 * S, 10 * S);

	assert_false(s.have);
	weight(1 * S, "rs2", 5, 4);
	weight(2 * S, "rs1", 3, 1);
	weight(3 * S, "rs2", 0, 2);
	weight(4 * S, "rs2", TL_WEIGHT_ABSENT, 0);
	weight(5 * S, "rs2", TL_WEIGHT_UNKNOWN, 0);
	weight(6 * S, "rs2", 5, 0);
	s = ask("weight", "rs2", S - 1, S - 1);
	assert_false(s.have); /* not before it was read */
	s = ask("weight", "rs2", S, S);
	assert_true(s.have && s.value == 5 && s.lo == 5 && s.hi == 5);
	s = ask("weight", "rs2", 3 * S - 1, 3 * S - 1);
	assert_true(s.have && s.value == 5);
	s = ask("weight", "rs2", 3 * S, 3 * S);
	assert_true(s.have && s.value == 0);
	assert_string_equal(s.text, "rs2: weight 0");
	s = ask("weight", "rs2", 4 * S, 4 * S);
	assert_true(s.have && s.value == 0);
	assert_string_equal(s.text, "rs2: not in the table");
	s = ask("weight", "rs2", 5 * S, 5 * S);
	assert_false(s.have);
	s = ask("weight", "rs2", 7 * S, 7 * S);
	assert_true(s.have && s.value == 5);
	s = ask("active", "rs2", 3 * S, 3 * S);
	assert_true(s.have && s.value == 2);
	s = ask("active", "rs2", 5 * S, 5 * S);
	assert_false(s.have);
}

static void wrong_questions(void **state _unused_)
{
	_cleanup_json_ json_t *args = json_pack("{s:s, s:s}", "service", "web", "server", "spare");
	_cleanup_json_ json_t *other = json_pack("{s:s}", "service", "mail");
	struct sample s;
	struct err err = {0};

	assert_int_equal(
		probe_find("service", "weight")->eval(tl, site, args, 0, 0, &s, &err), -EINVAL);
	assert_string_equal(err.text, "service web has no server spare");
	assert_string_equal(err.hint, "there are: rs1, rs2, rs3");
	assert_int_equal(
		probe_find("service", "balance")->eval(tl, site, other, 0, S, &s, &err), -EINVAL);
	assert_non_null(strstr(err.text, "mail"));
}

static void balanced(void **state _unused_)
{
	struct sample s;
	const json_t *servers;

	weight(0, "rs1", 3, 0);
	weight(0, "rs2", 5, 0);
	weight(0, "rs3", 5, 0);
	steadily(1 * S, 6 * S, 6, 10, 10); /* 50 buckets, exactly 3:5:5 */
	s = ask("balance", NULL, 1 * S, 6 * S);
	assert_true(s.have);
	assert_int_equal(s.n, 1300);
	assert_true(fabs(s.value) < 1e-12);
	assert_true(s.lo == 0);
	/* the widest of the three simultaneous intervals: z = 2.394 for k = 3 */
	assert_true(fabs(s.hi - 0.0325) < 0.001);
	assert_non_null(strstr(s.text, "rs1 23.1 % (want 23.1 %)"));
	assert_non_null(strstr(s.text, "; n=1300"));
	servers = json_object_get(s.detail, "servers");
	assert_int_equal(json_array_size(servers), 3);
	assert_int_equal(
		json_integer_value(json_object_get(json_array_get(servers, 1), "connections")),
		500);
	assert_int_equal(
		json_integer_value(json_object_get(json_array_get(servers, 1), "weight")), 5);
	json_decref(s.detail);
	assert_int_equal(within(0.05, 1 * S, 6 * S), TRI_TRUE);
	/* one bucket of 26 connections says nothing at five points */
	assert_int_equal(within(0.05, 1 * S, 1 * S + 100 * MS), TRI_UNKNOWN);
	/* nor does any amount at a tolerance narrower than the interval */
	assert_int_equal(within(0.01, 1 * S, 6 * S), TRI_UNKNOWN);
}

static void formula(void **state _unused_)
{
	double z = stats_z_simultaneous(0.05, 3), p[] = {3 / 13.0, 5 / 13.0, 5 / 13.0}, hi = 0,
	       lo = 0, value = 0;
	const uint64_t x[] = {350, 450, 500};
	struct sample s;

	for (int i = 0; i < 3; i++) {
		double a, b;

		stats_wilson(x[i], 1300, z, &a, &b);
		value = fmax(value, fabs(x[i] / 1300.0 - p[i]));
		hi = fmax(hi, fmax(fabs(a - p[i]), fabs(b - p[i])));
		lo = fmax(lo, p[i] < a ? a - p[i] : p[i] > b ? p[i] - b : 0);
	}
	steadily(0, 5 * S, 7, 9, 10);
	s = ask("balance", NULL, 0,
		5 * S); /* nobody watches a director here: the declared weights alone */
	assert_true(s.have && s.n == 1300);
	assert_true(fabs(s.value - value) < 1e-12 && fabs(s.lo - lo) < 1e-12 &&
		    fabs(s.hi - hi) < 1e-12);
	assert_true(lo > 0 && lo < value && value < hi);
	json_decref(s.detail);
}

static void contradicting_weights(void **state _unused_)
{
	/*
	 * somebody made it 5:1:1, and the traffic follows: out of balance, because 3:5:5 is what was
	 * declared
	 */
	weight(0, "rs1", 5, 0);
	weight(0, "rs2", 1, 0);
	weight(0, "rs3", 1, 0);
	steadily(0, 5 * S, 10, 2, 2);
	assert_int_equal(within(0.05, 0, 5 * S), TRI_FALSE);
}

static void drained_server(void **state _unused_)
{
	struct sample s;

	weight(0, "rs1", 3, 0);
	weight(0, "rs2", 5, 0);
	weight(0, "rs3", 5, 0);
	weight(5 * S + 30 * MS, "rs2", 0, 0); /* in the middle of a bucket */
	steadily(0, 5 * S, 6, 10, 10);
	steadily(5 * S, 10 * S, 9, 0, 15);
	/* each side of the change by itself, and both together: all as they should be */
	assert_int_equal(within(0.05, 0, 5 * S), TRI_TRUE);
	assert_int_equal(within(0.05, 5 * S, 10 * S), TRI_TRUE);
	s = ask("balance", NULL, 0, 10 * S);
	assert_true(s.have);
	/* buckets that touch the grace: 4.8 .. 5.2 */
	assert_int_equal(
		json_integer_value(json_object_get(s.detail, "left_out")), 2 * 26 + 3 * 24);
	assert_int_equal(s.n, 48 * 26 + 47 * 24);
	assert_true(s.value < 1e-12);
	json_decref(s.detail);
	assert_int_equal(within(0.05, 0, 10 * S), TRI_TRUE);
	/* gone from the table is drained too */
	weight(10 * S, "rs1", TL_WEIGHT_ABSENT, 0);
	steadily(10 * S, 15 * S, 0, 0, 20);
	assert_int_equal(within(0.05, 10 * S + 300 * MS, 15 * S), TRI_TRUE);
	/* a drained server that goes on getting connections is not in balance */
	steadily(15 * S, 20 * S, 0, 4, 20);
	assert_int_equal(within(0.05, 15 * S, 20 * S), TRI_FALSE);
}

static void back_in_service(void **state _unused_)
{
	/* back in the table, and nothing comes: not in balance */
	weight(0, "rs1", 3, 0);
	weight(0, "rs2", 0, 0);
	weight(0, "rs3", 5, 0);
	weight(1 * S, "rs2", 5, 0);
	steadily(0, 6 * S, 9, 0, 15);
	assert_int_equal(within(0.1, 0, 800 * MS), TRI_TRUE);
	assert_int_equal(within(0.05, 1200 * MS, 6 * S), TRI_FALSE);
}

static void not_readable(void **state _unused_)
{
	struct sample s;

	weight(0, "rs1", 3, 0);
	weight(0, "rs2", 5, 0);
	weight(0, "rs3", 5, 0);
	for (int i = 1; i <= 3; i++)
		weight(2 * S, i == 1 ? "rs1" : i == 2 ? "rs2" : "rs3", TL_WEIGHT_UNKNOWN, 0);
	steadily(2500 * MS, 5 * S, 6, 10, 10);
	s = ask("balance", NULL, 2500 * MS, 5 * S);
	assert_false(s.have);
	assert_non_null(strstr(s.text, "650 came"));
	assert_int_equal(within(0.05, 2500 * MS, 5 * S), TRI_UNKNOWN);
}

static void strangers(void **state _unused_)
{
	struct sample s;

	steadily(0, 5 * S, 6, 10, 10);
	for (nsec_t t = 0; t < 5 * S; t += TIMELINE_BUCKET) {
		conn(t, "spare",
			5); /* a node that is no server of this service got connections for it */
		conn(t, "", 2); /* and some could not be attributed */
	}
	s = ask("balance", NULL, 0, 5 * S);
	assert_true(s.have && s.n == 50 * 31);
	assert_true(fabs(s.value - 5 / 31.0) < 1e-12);
	assert_int_equal(json_array_size(json_object_get(s.detail, "servers")), 4);
	assert_int_equal(json_integer_value(json_object_get(s.detail, "unattributed")), 100);
	json_decref(s.detail);
	assert_int_equal(within(0.05, 0, 5 * S), TRI_FALSE);
}

static void nothing_counted(void **state _unused_)
{
	struct sample s = ask("balance", NULL, 0, 5 * S);

	assert_false(s.have);
	assert_int_equal(within(0.05, 0, 5 * S), TRI_UNKNOWN);
	s = ask("share", "rs1", 0, 5 * S);
	assert_false(s.have);
	s = ask("connection_rate", NULL, 0, S);
	assert_false(s.have); /* nobody counts */
	steadily(0, S, 6, 10, 10);
	s = ask("connection_rate", NULL, 2 * S, 3 * S);
	assert_true(s.have && s.value == 0); /* somebody does, and there was none */
	s = ask("connection_rate", NULL, 0, S);
	assert_true(s.have && s.value == 260);
	s = ask("connection_rate", "rs2", 0, 500 * MS);
	assert_true(s.have && s.value == 100);
	s = ask("share", "rs2", 0, S);
	assert_true(
		s.have && fabs(s.value - 10 / 26.0) < 1e-12 && s.lo < s.value && s.value < s.hi);
	/* only whole buckets count: nothing is known about the inside of one */
	s = ask("share", "rs2", 50 * MS, 150 * MS);
	assert_false(s.have);
	s = ask("balance", NULL, 50 * MS, 280 * MS);
	assert_int_equal(s.n, 26);
	json_decref(s.detail);
}

/*
 * What comes after the window must not change what was said about it: a run is judged while it runs, and
 * again later.
 */
static void later_is_another_matter(void **state _unused_)
{
	struct sample a, b;

	weight(0, "rs1", 3, 0);
	weight(0, "rs2", 5, 0);
	weight(0, "rs3", 5, 0);
	steadily(0, 5 * S, 6, 10, 10);
	a = ask("balance", NULL, 0, 5 * S);
	weight(5 * S + 1, "rs2", 0, 0);
	steadily(5 * S, 8 * S, 30, 0, 0);
	b = ask("balance", NULL, 0, 5 * S);
	assert_true(a.value == b.value && a.lo == b.lo && a.hi == b.hi && a.n == b.n);
	assert_string_equal(a.text, b.text);
	json_decref(a.detail);
	json_decref(b.detail);
}

/* A text that must fit 192 bytes */
static void many_servers(void **state _unused_)
{
	_cleanup_json_ json_t *j = json_loads(
		"{\"name\":\"t\",\"switches\":[\"lan\"],\"nodes\":[{\"name\":\"director\"}],"
		"\"services\":[{\"name\":\"web\",\"port\":8080,\"vips\":[\"198.18.0.100\"],\"director\":\"director\","
		"\"servers\":[]}]}",
		0, NULL);
	_cleanup_json_ json_t *args = json_pack("{s:s}", "service", "web");
	json_t *nodes = json_object_get(j, "nodes"),
	       *servers = json_object_get(
		       json_array_get(json_object_get(j, "services"), 0), "servers");
	_cleanup_site_ struct site *big = NULL;
	struct sample s = {0};
	struct err err = {0};

	for (int i = 0; i < 40; i++) {
		_cleanup_free_ char *name = strf("server-with-n%02d", i);

		json_array_append_new(nodes, json_pack("{s:s}", "name", name));
		json_array_append_new(servers, json_pack("{s:s, s:i}", "node", name, "weight", 1));
		conn(0, name, 10);
	}
	if (site_from_json(j, &big, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(
		probe_find("service", "balance")->eval(tl, big, args, 0, 5 * S, &s, &err), 0);
	assert_true(s.have && s.n == 400 && s.value < 1e-12);
	assert_true(strlen(s.text) < sizeof(s.text));
	assert_non_null(strstr(s.text, ", ...; n=400"));
	json_decref(s.detail);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, new_timeline, drop_timeline)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(weights_now),
		TEST(wrong_questions),
		TEST(balanced),
		TEST(formula),
		TEST(contradicting_weights),
		TEST(drained_server),
		TEST(back_in_service),
		TEST(not_readable),
		TEST(strangers),
		TEST(nothing_counted),
		TEST(later_is_another_matter),
		TEST(many_servers),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
