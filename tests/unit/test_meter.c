/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Meters: each bucket is told once, of all CPUs together; a reader that was held up tells how much it was, if not when; and the probes that
 * rest on them say nothing where nobody counted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bpf/meter.h"
#include "engine/events.h"
#include "engine/predicate.h"
#include "engine/str.h"

#define B TIMELINE_BUCKET
#define S NSEC_PER_SEC

/* ── telling ───────────────────────────────────────────────────────────────────────────────── */

struct told {
	size_t n;
	struct {
		nsec_t since, until;
		uint64_t packets, bytes;
	} v[64];
};

static void note(nsec_t since, nsec_t until, const uint64_t n[METER_COUNTS], void *arg)
{
	struct told *t = arg;

	assert_true(t->n < ARRAY_SIZE(t->v));
	t->v[t->n].since = since;
	t->v[t->n].until = until;
	t->v[t->n].packets = n[0];
	t->v[t->n++].bytes = n[1];
}

/* As meter_add() does it */
static void count(struct meter *m, uint64_t bucket, uint64_t packets, uint64_t bytes)
{
	struct meter_slot *s = &m->slots[bucket % METER_SLOTS];

	if (s->bucket != bucket)
		*s = (struct meter_slot){.bucket = bucket};
	s->n[0] += packets;
	s->n[1] += bytes;
	m->total[0] += packets;
	m->total[1] += bytes;
}

static void a_bucket_is_told_once(void **state _unused_)
{
	struct meter cpus[2] = {0};
	struct meter_told told = {.until = 1000 * B};
	struct told t = {0};

	count(&cpus[0], 1000, 3, 300);
	count(&cpus[1], 1000, 4, 400);
	count(&cpus[1], 1002, 5, 500);
	assert_int_equal(meter_tell(&told, cpus, 2, 1002 * B + B / 2, note, &t), 5); /* those of the bucket that is not over */
	assert_int_equal(t.n, 1);
	assert_int_equal(t.v[0].since, 1000 * B);
	assert_int_equal(t.v[0].until, 1001 * B);
	assert_int_equal(t.v[0].packets, 7);
	assert_int_equal(t.v[0].bytes, 700);
	assert_int_equal(meter_tell(&told, cpus, 2, 1003 * B, note, &t), 0);
	assert_int_equal(t.n, 2);
	assert_int_equal(t.v[1].since, 1002 * B);
	assert_int_equal(t.v[1].packets, 5);
	assert_int_equal(meter_tell(&told, cpus, 2, 1010 * B, note, &t), 0);
	assert_int_equal(t.n, 2);
}

static void what_is_late_is_said(void **state _unused_)
{
	struct meter cpu = {0};
	struct meter_told told = {.until = 1000 * B};
	struct told t = {0};

	count(&cpu, 1000, 1, 100);
	assert_int_equal(meter_tell(&told, &cpu, 1, 1001 * B, note, &t), 0);
	count(&cpu, 1000, 2, 200);
	assert_int_equal(meter_tell(&told, &cpu, 1, 1002 * B, note, &t), 2);
	assert_int_equal(t.n, 1);
}

static void a_reader_that_was_held_up_loses_nothing(void **state _unused_)
{
	struct meter cpu = {0};
	struct meter_told told = {.until = 1000 * B};
	struct told t = {0};

	for (uint64_t b = 1000; b < 1000 + 3 * METER_SLOTS; b++)
		count(&cpu, b, 1, 10);
	/* all but the last bucket, which is not over */
	assert_int_equal(meter_tell(&told, &cpu, 1, (nsec_t)(1000 + 3 * METER_SLOTS - 1) * B, note, &t), 1);
	assert_int_equal(t.n, 1);
	assert_int_equal(t.v[0].since, 1000 * B);
	assert_int_equal(t.v[0].until, (nsec_t)(1000 + 3 * METER_SLOTS - 1) * B);
	assert_int_equal(t.v[0].packets, 3 * METER_SLOTS - 1);
	assert_int_equal(t.v[0].bytes, 10 * (3 * METER_SLOTS - 1));
	assert_int_equal(meter_tell(&told, &cpu, 1, (nsec_t)(1000 + 3 * METER_SLOTS) * B, note, &t), 0);
	assert_int_equal(t.n, 2);
	assert_int_equal(t.v[1].packets, 1);
}

/* ── asking ────────────────────────────────────────────────────────────────────────────────── */

static struct site *site;
static struct timeline *tl;

static int set_up(void **state _unused_)
{
	_cleanup_json_ json_t *j = json_loads("{\"name\":\"t\",\"switches\":[\"lan\"],\"nodes\":["
					      "{\"name\":\"director\"},{\"name\":\"client\"},{\"name\":\"rs1\"},{\"name\":\"rs2\"}],"
					      "\"services\":[{\"name\":\"web\",\"port\":8080,\"vips\":[\"198.18.0.100\"],\"director\":\"director\","
					      "\"servers\":[{\"node\":\"rs1\",\"weight\":1},{\"node\":\"rs2\",\"weight\":1}]}]}",
		0, NULL);
	struct err err = {0};

	assert_non_null(j);
	if (site_from_json(j, &site, &err) < 0)
		fail_msg("%s", err.text);
	return 0;
}

static int tear_down(void **state _unused_)
{
	site_free(site);
	return 0;
}

static int new_timeline(void **state _unused_)
{
	return timeline_new(NULL, &tl, NULL);
}

static int drop_timeline(void **state _unused_)
{
	timeline_free(tl);
	tl = NULL;
	return 0;
}

static void source(nsec_t t, const char *name, const char *state)
{
	timeline_event(tl, t, EV_SOURCE, json_pack("{s:s, s:s, s:s}", "name", name, "source_kind", "sampler", "state", state));
}

static void forwarded(nsec_t since, nsec_t until, const char *server, int packets, int connections)
{
	timeline_event(tl, until, EV_FORWARDED,
		json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:i}", "service", "web", "server", server, "director", "director", "since",
			(json_int_t)since, "packets", packets, "bytes", 60 * packets, "connections", connections));
}

static enum tri test(const char *json, nsec_t t0, nsec_t t1, struct sample *ret)
{
	_cleanup_json_ json_t *j = json_loads(json, 0, NULL);
	struct predicate *p = NULL;
	struct err err = {0};
	enum tri r;

	assert_non_null(j);
	if (predicate_from_json(j, site, &p, &err) < 0)
		fail_msg("%s", err.text);
	r = predicate_eval(p, tl, site, t0, t1, ret, NULL);
	json_decref(ret->detail);
	predicate_free(p);
	return r;
}

#define PROBE(name, args, op, bound)                                                                                   \
	"{\"probe\":\"" name "\",\"args\":{" args "},\"op\":\"" op "\",\"bound\":" bound ",\"text\":\"t\"}"
#define STOPPED PROBE("service.forwarded", "\"service\":\"web\",\"server\":\"rs2\"", "equals", "0")
#define NO_NEW	PROBE("service.scheduled", "\"service\":\"web\",\"server\":\"rs2\"", "equals", "0")
#define ALL	PROBE("service.forwarded", "\"service\":\"web\"", "at_least", "20")

static void what_nobody_counted_is_unknown(void **state _unused_)
{
	struct sample s;

	assert_int_equal(test(STOPPED, 10 * S, 11 * S, &s), TRI_UNKNOWN);
	assert_false(s.have);
	assert_non_null(strstr(s.text, "no check that is planned"));
	source(10 * S + 1, "forward", "started");
	assert_int_equal(test(STOPPED, 10 * S, 11 * S, &s), TRI_UNKNOWN); /* not all of it */
	assert_int_equal(test(STOPPED, 11 * S, 12 * S, &s), TRI_TRUE);
	assert_true(s.have);
	source(13 * S, "forward", "stopped");
	assert_int_equal(test(STOPPED, 14 * S, 15 * S, &s), TRI_UNKNOWN);
}

static void a_source_that_was_refused_says_so(void **state _unused_)
{
	struct sample s;

	source(9 * S, "forward", "refused");
	assert_int_equal(test(STOPPED, 10 * S, 11 * S, &s), TRI_UNKNOWN);
	assert_string_equal(s.text, "they cannot be counted here");
}

static void what_is_still_sent_counts(void **state _unused_)
{
	struct sample s;

	source(9 * S, "forward", "started");
	forwarded(10 * S, 10 * S + B, "rs1", 18, 6);
	forwarded(10 * S + 2 * B, 10 * S + 3 * B, "rs2", 4, 0);
	assert_int_equal(test(STOPPED, 10 * S, 11 * S, &s), TRI_FALSE);
	assert_true(s.value == 4);
	assert_non_null(strstr(s.text, "4 packets sent to rs2"));
	assert_int_equal(test(NO_NEW, 10 * S, 11 * S, &s), TRI_TRUE);
	assert_int_equal(test(ALL, 10 * S, 11 * S, &s), TRI_TRUE);
	assert_true(s.value == 22);
	assert_int_equal(test(STOPPED, 10 * S + 3 * B, 11 * S + 3 * B, &s), TRI_TRUE);
	/* a rate is by the second */
	assert_int_equal(test(ALL, 10 * S, 12 * S, &s), TRI_FALSE);
	assert_true(s.value == 11);
}

static void what_lies_in_the_window_in_part_may_lie_in_it_or_not(void **state _unused_)
{
	struct sample s;

	source(9 * S, "forward", "started");
	forwarded(10 * S, 14 * S, "rs2", 8, 0);
	assert_int_equal(test(STOPPED, 11 * S, 12 * S, &s), TRI_UNKNOWN);
	assert_true(s.lo == 0 && s.hi == 8);
	assert_int_equal(test(STOPPED, 10 * S, 14 * S, &s), TRI_FALSE);
	assert_int_equal(test(STOPPED, 14 * S, 15 * S, &s), TRI_TRUE);
}

/* ── connects to a node's own addresses ────────────────────────────────────────────────────── */

static void traffic(nsec_t since, nsec_t until, const char *node, const char *peer, int opened)
{
	timeline_event(tl, until, EV_TRAFFIC,
		json_pack("{s:s, s:s, s:n, s:s, s:I, s:i}", "node", node, "role", "active", "service", "peer", peer, "since",
			(json_int_t)since, "opened", opened));
}

#define ATTEMPTS(more) PROBE("node.attempts", "\"node\":\"rs2\"" more, "equals", "0")

static void attempts_are_the_others(void **state _unused_)
{
	struct sample s;

	assert_int_equal(test(ATTEMPTS(""), 10 * S, 13 * S, &s), TRI_UNKNOWN);
	traffic(10 * S, 11 * S, "client", "rs2", 6);
	traffic(10 * S, 11 * S, "director", "rs2", 2);
	traffic(10 * S, 11 * S, "rs2", "rs2", 50); /* itself */
	traffic(11 * S, 12 * S, "client", "rs1", 7);
	assert_int_equal(test(ATTEMPTS(""), 10 * S, 12 * S, &s), TRI_FALSE);
	assert_true(fabs(s.value - 4) < 1e-9);
	assert_int_equal(test(ATTEMPTS(",\"from\":\"director\""), 10 * S, 12 * S, &s), TRI_FALSE);
	assert_true(fabs(s.value - 1) < 1e-9);
	assert_int_equal(test(ATTEMPTS(""), 11 * S, 12 * S, &s), TRI_TRUE); /* a reading, and nobody called it */
	assert_int_equal(test(ATTEMPTS(""), 12 * S, 14 * S, &s), TRI_UNKNOWN);
}

/* ── packets that came to a device ─────────────────────────────────────────────────────────── */

static void device(nsec_t t, const char *node, bool counted)
{
	timeline_event(tl, t, EV_PACKETS,
		json_pack("{s:s, s:s, s:b, s:s?}", "node", node, "dev", "eth0", "counted", counted, "why", counted ? NULL : "it is taken"));
}

static void came(nsec_t since, nsec_t until, const char *node, const char *service, int packets)
{
	timeline_event(tl, until, EV_PACKETS,
		json_pack("{s:s, s:s, s:s?, s:I, s:i, s:i}", "node", node, "dev", "eth0", "service", service, "since", (json_int_t)since,
			"packets", packets, "bytes", 60 * packets));
}

#define RS1(name, bound)      PROBE("node." name, "\"node\":\"rs1\"", "equals", bound)
#define WEB(name, more, bound) PROBE("service." name, "\"service\":\"web\"" more, "equals", bound)

static void packets_are_by_node_and_service(void **state _unused_)
{
	struct sample s;

	assert_int_equal(test(RS1("packets", "0"), 10 * S, 11 * S, &s), TRI_UNKNOWN);
	source(9 * S, "packets", "started");
	device(9 * S, "rs1", true);
	device(9 * S, "rs2", true);
	device(9 * S, "director", true);
	device(9 * S, "client", false);
	came(10 * S, 10 * S + B, "rs1", "web", 5);
	came(10 * S, 10 * S + B, "rs1", NULL, 2);
	came(10 * S, 10 * S + B, "rs2", "web", 9);
	assert_int_equal(test(RS1("packets", "7"), 10 * S, 11 * S, &s), TRI_TRUE);
	assert_string_equal(s.text, "7 packets came to rs1 in 1 s");
	assert_int_equal(test(RS1("packet_bytes", "420"), 10 * S, 11 * S, &s), TRI_TRUE);
	assert_int_equal(test(WEB("packets", ",\"node\":\"rs1\"", "5"), 10 * S, 11 * S, &s), TRI_TRUE);
	assert_int_equal(test(WEB("packets", "", "14"), 10 * S, 11 * S, &s), TRI_TRUE);
	assert_int_equal(test(WEB("packet_bytes", ",\"node\":\"rs2\"", "540"), 10 * S, 11 * S, &s), TRI_TRUE);
	/* nothing came to the director; of the client's device nothing is known */
	assert_int_equal(test(PROBE("node.packets", "\"node\":\"director\"", "equals", "0"), 10 * S, 11 * S, &s), TRI_TRUE);
	assert_int_equal(test(PROBE("node.packets", "\"node\":\"client\"", "equals", "0"), 10 * S, 11 * S, &s), TRI_UNKNOWN);
	assert_string_equal(s.text, "client/eth0 is not counted: it is taken");
}

/* It has no link that the site names, say */
static void a_node_that_nobody_counts_is_unknown(void **state _unused_)
{
	struct sample s;

	source(9 * S, "packets", "started");
	device(9 * S, "rs2", true);
	assert_int_equal(test(RS1("packets", "0"), 10 * S, 11 * S, &s), TRI_UNKNOWN);
	assert_string_equal(s.text, "no device of rs1 is counted");
}

static void wrong_names_are_told(void **state _unused_)
{
	static const struct {
		const char *json, *want;
	} cases[] = {
		{PROBE("service.forwarded", "\"service\":\"web\",\"server\":\"rs3\"", "equals", "0"), "rs"},
		{PROBE("service.schedule", "\"service\":\"web\"", "equals", "0"), "did you mean service.scheduled?"},
		{PROBE("node.attempts", "\"node\":\"clint\"", "equals", "0"), "did you mean \"client\"?"},
		{PROBE("node.packets", "\"node\":\"rs11\"", "equals", "0"), "did you mean \"rs1\"?"},
		{PROBE("service.packets", "\"service\":\"web\",\"node\":\"clinet\"", "equals", "0"), "did you mean \"client\"?"},
		{PROBE("service.packets", "\"service\":\"wbe\"", "equals", "0"), "did you mean \"web\"?"},
		{PROBE("node.attempts", "\"node\":\"rs2\",\"from\":\"directr\"", "equals", "0"), "did you mean \"director\"?"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ json_t *j = json_loads(cases[i].json, 0, NULL);
		struct predicate *p = NULL;
		struct err err = {0};

		assert_non_null(j);
		assert_int_equal(predicate_from_json(j, site, &p, &err), -EINVAL);
		if (!strstr(err.text, cases[i].want) && !strstr(err.hint, cases[i].want))
			fail_msg("%s (%s)", err.text, err.hint);
	}
}

/* A node of the site that is no server of the service: told when it is asked */
static void who_is_no_server_is_told(void **state _unused_)
{
	struct sample s;

	source(9 * S, "forward", "started");
	assert_int_equal(test(PROBE("service.forwarded", "\"service\":\"web\",\"server\":\"client\"", "equals", "0"), 10 * S, 11 * S, &s),
		TRI_UNKNOWN);
	assert_non_null(strstr(s.text, "no server client"));
}

#define ASKING(f) cmocka_unit_test_setup_teardown(f, new_timeline, drop_timeline)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bucket_is_told_once),
		cmocka_unit_test(what_is_late_is_said),
		cmocka_unit_test(a_reader_that_was_held_up_loses_nothing),
		ASKING(what_nobody_counted_is_unknown),
		ASKING(a_source_that_was_refused_says_so),
		ASKING(what_is_still_sent_counts),
		ASKING(what_lies_in_the_window_in_part_may_lie_in_it_or_not),
		ASKING(attempts_are_the_others),
		ASKING(packets_are_by_node_and_service),
		ASKING(a_node_that_nobody_counts_is_unknown),
		ASKING(wrong_names_are_told),
		ASKING(who_is_no_server_is_told),
	};

	return cmocka_run_group_tests_name("meter", tests, set_up, tear_down);
}
