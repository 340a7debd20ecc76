/* SPDX-License-Identifier: GPL-2.0-only */
/* Who holds a virtual address, who is the primary, how often a queue overflowed: probes over events written by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"

#define S NSEC_PER_SEC

static const char site_text[] =
	"{\"name\": \"t\", \"switches\": [\"lan\"], \"nodes\": [{\"name\": \"lvs1\"}, {\"name\": \"lvs2\"}, {\"name\": \"rs1\"},"
	" {\"name\": \"db1\"}, {\"name\": \"db2\"}],"
	" \"services\": [{\"name\": \"web\", \"port\": 80, \"vips\": [\"198.18.0.100\", \"2001:db8::100\"], \"directors\": [\"lvs1\", \"lvs2\"],"
	"  \"servers\": [{\"node\": \"rs1\"}]},"
	"  {\"name\": \"plain\", \"port\": 81, \"vips\": [\"198.18.0.101\"], \"director\": \"lvs1\", \"servers\": [{\"node\": \"rs1\"}]}],"
	" \"databases\": [{\"name\": \"cache\", \"kind\": \"redis\", \"nodes\": [\"db1\", \"db2\"]}]}";

static struct site *site;
static struct timeline *tl;

static int set_up(void **state _unused_)
{
	_cleanup_json_ json_t *j = json_loads(site_text, 0, NULL);
	struct err err = {0};

	if (site_from_json(j, &site, &err) < 0)
		fail_msg("%s", err.text);
	return timeline_new(NULL, &tl, NULL);
}

static int tear_down(void **state _unused_)
{
	timeline_free(tl);
	site_free(site);
	return 0;
}

static void role(nsec_t t, const char *service, const char *what_role, const char *node, const char *state, const char *what)
{
	timeline_event(tl, t, EV_ROLE,
		json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "service", service, "role", what_role, "node", node, "state", state, "what",
			what, "initial", 0));
}

static void vips(nsec_t t, const char *node, const char *state)
{
	role(t, "web", "director", node, state, "198.18.0.100");
	role(t, "web", "director", node, state, "2001:db8::100");
}

static struct sample ask(const char *subject, const char *name, json_t *args, nsec_t t0, nsec_t t1)
{
	const struct probe_ops *p = probe_find(subject, name);
	struct sample s = {0};
	struct err err = {0};

	assert_non_null(p);
	timeline_lock(tl);
	if (p->eval(tl, site, args, t0, t1, &s, &err) < 0)
		fail_msg("%s", err.text);
	timeline_unlock(tl);
	json_decref(args);
	assert_null(s.detail);
	return s;
}

static struct sample directors(nsec_t t0, nsec_t t1)
{
	return ask("service", "directors", json_pack("{s:s}", "service", "web"), t0, t1);
}

static double held_by(const char *node, nsec_t t)
{
	struct sample s = ask("service", "held_by", json_pack("{s:s, s:s}", "service", "web", "node", node), t, t);

	assert_true(s.have);
	return s.value;
}

static void addresses_move(void **state _unused_)
{
	struct sample s;

	assert_false(directors(S, S).have); /* nobody has looked yet */
	vips(1 * S, "lvs1", "taken");
	assert_true(directors(2 * S, 2 * S).value == 1);
	assert_true(held_by("lvs1", 2 * S) == 1);
	assert_true(held_by("lvs2", 2 * S) == 0);
	vips(3 * S, "lvs2", "taken");
	s = directors(4 * S, 4 * S);
	assert_true(s.value == 2);
	assert_non_null(strstr(s.text, "lvs1 and lvs2 at once: split brain"));
	vips(5 * S, "lvs1", "released");
	assert_true(directors(6 * S, 6 * S).value == 1);
	assert_true(held_by("lvs2", 6 * S) == 1);
	/* over a stretch of time, the number that is furthest from one */
	assert_true(directors(2 * S, 6 * S).value == 2);
	assert_true(directors(6 * S, 7 * S).value == 1);
	vips(8 * S, "lvs2", "released");
	s = directors(7 * S, 9 * S);
	assert_true(s.value == 0);
	assert_string_equal(s.text, "nobody");
}

/* One of the two addresses is not the service. */
static void half_is_not_all(void **state _unused_)
{
	role(1 * S, "web", "director", "lvs1", "taken", "198.18.0.100");
	assert_true(held_by("lvs1", 2 * S) == 0);
	assert_true(directors(2 * S, 2 * S).value == 1);
	role(3 * S, "web", "director", "lvs1", "taken", "2001:db8::100");
	assert_true(held_by("lvs1", 3 * S) == 1);
}

static void what_is_not_ours_is_passed_over(void **state _unused_)
{
	vips(1 * S, "lvs1", "taken");
	role(2 * S, "plain", "director", "lvs2", "taken", "198.18.0.100");
	role(2 * S, "web", "primary", "lvs2", "taken", "198.18.0.100");
	role(2 * S, "web", "director", "rs1", "taken", "198.18.0.100");
	role(2 * S, "web", "director", "lvs2", "taken", "198.18.0.99");
	assert_true(directors(3 * S, 3 * S).value == 1);
}

static void a_single_director_always_holds(void **state _unused_)
{
	struct sample s = ask("service", "directors", json_pack("{s:s}", "service", "plain"), S, S);

	assert_true(s.have && s.value == 1);
	s = ask("service", "held_by", json_pack("{s:s, s:s}", "service", "plain", "node", "lvs1"), S, S);
	assert_true(s.have && s.value == 1);
}

static void questions_that_make_no_sense(void **state _unused_)
{
	static const struct {
		const char *subject, *name, *args, *want;
	} cases[] = {
		{"service", "held_by", "{\"service\": \"web\", \"node\": \"rs1\"}", "rs1 is no director of service web"},
		{"service", "directors", "{\"service\": \"wob\"}", "no service called \"wob\""},
		{"database", "primary", "{\"database\": \"cache\", \"node\": \"lvs1\"}", "lvs1 is no node of database cache"},
		{"database", "primaries", "{\"database\": \"cash\"}", "no database called \"cash\""},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ json_t *args = json_loads(cases[i].args, 0, NULL);
		struct sample s;
		struct err err = {0};

		assert_int_equal(probe_find(cases[i].subject, cases[i].name)->eval(tl, site, args, 0, S, &s, &err), -EINVAL);
		assert_non_null(strstr(err.text, cases[i].want));
	}
}

static void database(nsec_t t, const char *node, const char *what, int replicas)
{
	timeline_event(tl, t, EV_DATABASE,
		json_pack("{s:s, s:s, s:s, s:i}", "database", "cache", "node", node, "role", what, "replicas", replicas));
}

static struct sample primaries(nsec_t t)
{
	return ask("database", "primaries", json_pack("{s:s}", "database", "cache"), t, t);
}

static struct sample replicas(nsec_t t)
{
	return ask("database", "replicas", json_pack("{s:s}", "database", "cache"), t, t);
}

static struct sample primary(const char *node, nsec_t t)
{
	return ask("database", "primary", json_pack("{s:s, s:s}", "database", "cache", "node", node), t, t);
}

static void a_primary_falls_silent(void **state _unused_)
{
	struct sample s;

	database(1 * S, "db1", "primary", 1);
	role(1 * S, "cache", "primary", "db1", "taken", "the writes");
	assert_false(primaries(1 * S).have); /* db2 was not asked yet */
	database(2 * S, "db2", "replica", 1);
	s = primaries(3 * S);
	assert_true(s.have && s.value == 1 && s.hi == 1);
	assert_true(replicas(3 * S).value == 1);
	assert_true(primary("db1", 3 * S).value == 1);

	/* silent: it may still take itself for the primary, and nobody can know */
	database(4 * S, "db1", "unknown", 1);
	s = primaries(5 * S);
	assert_true(s.value == 0 && s.lo == 0 && s.hi == 1);
	assert_true(primary("db1", 5 * S).value == 0);
	assert_non_null(strstr(s.text, "db1 unknown (was primary)"));

	database(6 * S, "db2", "primary", 0);
	role(6 * S, "cache", "primary", "db2", "taken", "the writes");
	s = primaries(7 * S);
	assert_true(s.value == 1 && s.hi == 2);
	assert_true(primary("db2", 7 * S).value == 1);
	assert_true(replicas(7 * S).value == 0);

	/* back, and it does: two at once */
	database(8 * S, "db1", "primary", 0);
	s = primaries(8 * S);
	assert_true(s.value == 2 && s.lo == 2);
	assert_string_equal(s.text, "db1 primary (0 follow), db2 primary (0 follow): split brain");
	database(9 * S, "db1", "replica", 1);
	role(9 * S, "cache", "primary", "db1", "released", "the writes");
	assert_true(primaries(10 * S).value == 1);
	assert_true(replicas(10 * S).value == 1);
}

static void queue(nsec_t t, const char *node, json_t *ebpf, int kernel, int queued)
{
	timeline_event(tl, t, EV_QUEUE,
		json_pack("{s:s, s:i, s:o, s:i, s:i, s:i}", "node", node, "port", 80, "overflows", ebpf, "kernel", kernel, "queued",
			queued, "limit", 8));
}

static struct sample overflows(nsec_t t0, nsec_t t1)
{
	return ask("node", "overflows", json_pack("{s:s}", "node", "rs1"), t0, t1);
}

static void two_witnesses(void **state _unused_)
{
	struct sample s;

	assert_false(overflows(0, S).have);
	queue(1 * S, "rs1", json_integer(0), 0, 0);
	queue(2 * S, "rs1", json_integer(5), 5, 9);
	s = overflows(1 * S, 3 * S);
	assert_true(s.value == 5 && s.lo == 5 && s.hi == 5);
	queue(4 * S, "rs1", json_integer(8), 9, 9);
	queue(4 * S, "lvs1", json_integer(100), 100, 9);
	s = overflows(3 * S, 5 * S);
	assert_true(s.value == 3 && s.lo == 3 && s.hi == 4); /* they differ: the truth lies between them */
	assert_true(ask("node", "accept_queue", json_pack("{s:s}", "node", "rs1"), 5 * S, 5 * S).value == 9);
	assert_true(overflows(5 * S, 6 * S).value == 0);
}

static struct sample handshakes(nsec_t t0, nsec_t t1)
{
	return ask("node", "syn_queue", json_pack("{s:s}", "node", "rs1"), t0, t1);
}

static void syn_queue(nsec_t t, json_t *found)
{
	timeline_event(tl, t, EV_QUEUE, json_pack("{s:s, s:i, s:o}", "node", "rs1", "port", 80, "handshakes", found));
}

static void the_most_that_a_syn_found(void **state _unused_)
{
	assert_false(handshakes(0, S).have);
	syn_queue(1 * S, json_integer(3)); /* until the next is told, it is so at each look */
	syn_queue(2 * S, json_integer(0));
	syn_queue(3 * S, json_integer(7));
	syn_queue(4 * S, json_integer(1));
	assert_true(handshakes(1 * S, 2 * S).value == 3);
	assert_true(handshakes(2 * S, 3 * S).value == 0);
	assert_true(handshakes(2 * S, 4 * S).value == 7);
	assert_true(handshakes(5 * S, 6 * S).value == 1);
	syn_queue(7 * S, json_null());
	assert_false(handshakes(6 * S, 8 * S).have);
}

static void one_witness(void **state _unused_)
{
	struct sample s;

	queue(1 * S, "rs1", json_null(), 0, 0);
	queue(2 * S, "rs1", json_null(), 7, 9);
	s = overflows(1 * S, 3 * S);
	assert_true(s.have && s.value == 7);
	assert_non_null(strstr(s.text, "eBPF does not count them here"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(addresses_move, set_up, tear_down),
		cmocka_unit_test_setup_teardown(half_is_not_all, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_not_ours_is_passed_over, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_single_director_always_holds, set_up, tear_down),
		cmocka_unit_test_setup_teardown(questions_that_make_no_sense, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_primary_falls_silent, set_up, tear_down),
		cmocka_unit_test_setup_teardown(two_witnesses, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_most_that_a_syn_found, set_up, tear_down),
		cmocka_unit_test_setup_teardown(one_witness, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
