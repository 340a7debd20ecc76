/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.ipset in network namespaces of the test's own, seen through ipset(8).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>

#include "baseline/sets.h"
#include "engine/clock.h"
#include "engine/snapshot.h"
#include "netns_node.h"

static struct netns_node ns, other;
static struct lab_journal journal;
static struct err err;
static char why_not[1200];

static int set_up(void **state _unused_)
{
	if (!netns_node_make(&ns, "director") || !netns_node_make(&other, "client")) {
		strcpy(why_not, "a network namespace needs root");
		return 0;
	}
	lab_journal_make(&journal);
	if (sets_supported(ns.node, &err) < 0)
		snprintf(why_not, sizeof(why_not), "%s", err.text);
	else if (system("command -v ipset >/dev/null") != 0)
		strcpy(why_not, "ipset is not installed");
	return 0;
}

static int tear_down(void **state _unused_)
{
	if (ns.node && other.node)
		lab_journal_drop(&journal);
	netns_node_drop(&ns);
	netns_node_drop(&other);
	return 0;
}

#define NEED_IPSET()                                                                               \
	do {                                                                                       \
		if (why_not[0])                                                                    \
			SKIP("%s", why_not);                                                       \
		free(run_in(ns.node, "ipset -q destroy holder; ipset destroy"));                   \
	} while (0)
#define OK(expr)                                                                                   \
	do {                                                                                       \
		int r_ = (err = (struct err){0}, (expr));                                          \
		if (r_ != 0)                                                                       \
			fail_msg("%s: %d: %s (%s)", #expr, r_, err.text, err.hint);                \
	} while (0)

static void ipset(const char *args)
{
	_cleanup_free_ char *command = strf("ipset %s 2>&1", args);

	free(run_in(ns.node, command));
}

/* What ipset(8) shows of a set, without what is random or counts */
static char *shown(const char *name)
{
	_cleanup_free_ char *command = strf(
		"ipset save %s 2>&1 | sed -E 's/ (initval|hashsize|bucketsize) [^ ]+//g; s/ *$//' | sort",
		name);

	return run_in(ns.node, command);
}

static void assert_shown(const char *name, const char *want)
{
	_cleanup_free_ char *text = shown(name);

	assert_string_equal(text, want);
}

static void assert_sets(const char *want)
{
	_cleanup_free_ char *text = run_in(ns.node, "ipset list -n | sort");

	assert_string_equal(text, want);
}

static void apply(json_t *args, struct change *ret)
{
	if (lab_apply(&journal, "set.ipset", ns.node, NULL, args, ret, &err) < 0)
		fail_msg("%s (%s)", err.text, err.hint);
}

static void a_new_set(void **state _unused_)
{
	struct change c;

	NEED_IPSET();
	apply(json_pack("{s:s, s:s, s:[s, s, s]}", "node", "director", "name", "blocked_hosts",
		      "members", "198.18.0.2", "198.18.0.1", "198.18.0.2"),
		&c);
	assert_shown("blocked_hosts", "add blocked_hosts 198.18.0.1\nadd blocked_hosts 198.18.0.2\n"
				      "create blocked_hosts hash:ip family inet maxelem 65536\n");
	assert_int_equal(c.ops->verify(ns.node, c.args, c.prior, &err), 1);
	OK(change_undo(journal.j, &c, &err));
	assert_sets("");
	assert_int_equal(c.ops->undo(ns.node, c.args, c.prior, &err), 0);
	change_drop(&c);
}

static void every_type(void **state _unused_)
{
	static const struct {
		const char *args, *want;
	} cases[] = {
		{"{\"node\":\"d\",\"name\":\"s\",\"type\":\"hash:net\",\"members\":[\"198.18.0.9/24\",\"198.19.0.0/16\",\"198.18.7.7\"]}",
			"add s 198.18.0.0/24\nadd s 198.18.7.7\nadd s 198.19.0.0/16\ncreate s hash:net family inet maxelem 65536\n"},
		{"{\"node\":\"d\",\"name\":\"s\",\"type\":\"hash:net\",\"family\":\"inet6\",\"members\":[\"2001:db8:1::1/48\",\"2001:db8::7\"]}",
			"add s 2001:db8:1::/48\nadd s 2001:db8::7\ncreate s hash:net family inet6 maxelem 65536\n"},
		{"{\"node\":\"d\",\"name\":\"s\",\"type\":\"hash:ip,port\",\"maxelem\":3,\"members\":[\"198.18.0.1,tcp:8080\",\"198.18.0.1,udp:53\"]}",
			"add s 198.18.0.1,tcp:8080\nadd s 198.18.0.1,udp:53\ncreate s hash:ip,port family inet maxelem 3\n"},
		{"{\"node\":\"d\",\"name\":\"s\",\"family\":\"inet6\",\"members\":[\"2001:db8::1\"]}",
			"add s 2001:db8::1\ncreate s hash:ip family inet6 maxelem 65536\n"},
		{"{\"node\":\"d\",\"name\":\"s\"}", "create s hash:ip family inet maxelem 65536\n"},
	};

	NEED_IPSET();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct change c;

		apply(json_loads(cases[i].args, 0, NULL), &c);
		assert_shown("s", cases[i].want);
		OK(change_undo(journal.j, &c, &err));
		assert_sets("");
		change_drop(&c);
	}
}

/* A rule's set is replaced in one step, and comes back with its options, counters and time-outs. */
static void in_place_of_another(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *after = NULL;
	struct change c;

	NEED_IPSET();
	ipset("create x hash:ip hashsize 2048 maxelem 777 counters comment");
	ipset("add x 198.18.0.9 packets 7 bytes 99 comment 'a b'");
	ipset("add x 198.18.0.8");
	ipset("create holder list:set");
	ipset("add holder x"); /* as a rule would */
	before = run_in(ns.node, "ipset save x | sort");
	apply(json_pack("{s:s, s:s, s:[s], s:i}", "node", "d", "name", "x", "members", "198.18.0.1",
		      "maxelem", 5),
		&c);
	assert_shown("x", "add x 198.18.0.1\ncreate x hash:ip family inet maxelem 5\n");
	OK(change_undo(journal.j, &c, &err));
	after = run_in(ns.node, "ipset save x | sort");
	assert_string_equal(before, after);
	assert_sets("holder\nx\n");
	change_drop(&c);
}

static void the_spare_one_was_lost(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *after = NULL, *command = NULL;
	struct change c;

	NEED_IPSET();
	ipset("create x hash:net family inet6 maxelem 777 comment");
	ipset("add x 2001:db8::/32 nomatch comment 'packets 5 add x'");
	ipset("add x 2001:db8:1::/48");
	before = run_in(ns.node, "ipset save x | sort");
	apply(json_pack("{s:s, s:s, s:s, s:s}", "node", "d", "name", "x", "type", "hash:net",
		      "family", "inet6"),
		&c);
	command = strf("ipset destroy %s", json_string_value(json_object_get(c.prior, "spare")));
	free(run_in(ns.node, command));
	OK(change_undo(journal.j, &c, &err));
	after = run_in(ns.node, "ipset save x | sort");
	assert_string_equal(before, after); /* the random seed of its hash included */
	change_drop(&c);
}

static void killed_on_the_way(void **state _unused_)
{
	const struct change_ops *ops = change_find("set.ipset");
	const char *const members[] = {"198.18.0.1", "198.18.0.2"};

	NEED_IPSET();
	for (int existed = 0; existed <= 1; existed++) {
		for (int steps = 0; steps <= 4; steps++) {
			_cleanup_json_ json_t *args = json_pack(
				"{s:s, s:s, s:s, s:s, s:i, s:[s, s]}", "node", "d", "name", "x",
				"type", "hash:ip", "family", "inet", "maxelem", 65536, "members",
				members[0], members[1]);
			_cleanup_json_ json_t *prior = NULL;
			_cleanup_free_ char *before = NULL, *after = NULL;
			struct restore_result res;
			const char *fill;
			uint32_t seq;

			free(run_in(ns.node, "ipset destroy"));
			if (existed)
				ipset("create x hash:ip");
			if (existed)
				ipset("add x 198.18.0.1");
			before = run_in(ns.node, "ipset save | sort");
			OK(ops->capture(ns.node, args, &prior, &err));
			OK(journal_intent(journal.j, ops, ns.node, args, prior, &seq, &err));
			fill = existed ? json_string_value(json_object_get(prior, "spare")) : "x";
			if (steps > 0)
				OK(sets_create(
					ns.node, fill, SETS_HASH_IP, AF_INET, 65536, -1, 0, &err));
			if (steps > 1)
				OK(sets_add(
					ns.node, fill, SETS_HASH_IP, AF_INET, members, 1, &err));
			if (steps > 2)
				OK(sets_add(
					ns.node, fill, SETS_HASH_IP, AF_INET, members, 2, &err));
			if (steps > 3 && existed)
				OK(sets_swap(ns.node, "x", fill, &err));
			OK(journal_play(journal.j, &res, &err));
			if (res.undone != 1)
				fail_msg("existed %d, steps %d: %s", existed, steps,
					json_dumps(res.lines, 0));
			restore_result_clear(&res);
			after = run_in(ns.node, "ipset save | sort");
			assert_string_equal(before, after);
		}
	}
}

static void changed_by_somebody_else(void **state _unused_)
{
	_cleanup_free_ char *all = NULL;
	struct change c;

	NEED_IPSET();
	apply(json_pack("{s:s, s:s, s:[s]}", "node", "d", "name", "x", "members", "198.18.0.1"),
		&c);
	ipset("add x 198.18.0.7");
	assert_int_equal(change_undo(journal.j, &c, &err), CHANGE_CONFLICT);
	assert_sets("x\n");
	change_drop(&c);
	ipset("destroy x");

	/* in use by then: not undone, and said why */
	apply(json_pack("{s:s, s:s, s:[s]}", "node", "d", "name", "x", "members", "198.18.0.1"),
		&c);
	ipset("create holder list:set");
	ipset("add holder x");
	assert_int_equal(change_undo(journal.j, &c, &err), -EBUSY);
	assert_non_null(strstr(err.text, "a rule or another set refers to it"));
	ipset("destroy holder");
	OK(c.ops->undo(ns.node, c.args, c.prior, &err));
	change_drop(&c);

	/* there was one before: it stays, under the spare name, and the hint says how to get it back */
	ipset("create x hash:ip");
	ipset("add x 198.18.0.3");
	apply(json_pack("{s:s, s:s, s:[s]}", "node", "d", "name", "x", "members", "198.18.0.1"),
		&c);
	ipset("add x 198.18.0.7");
	err = (struct err){0};
	assert_int_equal(c.ops->undo(ns.node, c.args, c.prior, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.hint, "ipset swap muster-"));
	assert_non_null(strstr(err.hint, ": ipset swap"));
	all = run_in(ns.node, strstr(err.hint, ": ipset swap") + 2);
	assert_shown("x", "add x 198.18.0.3\ncreate x hash:ip family inet maxelem 65536\n");
	assert_sets("x\n");
	change_drop(&c);
}

static void refused(void **state _unused_)
{
	struct change c;

	NEED_IPSET();
	ipset("create x hash:net");
	assert_int_equal(lab_apply(&journal, "set.ipset", ns.node, NULL,
				 json_pack("{s:s, s:s}", "node", "d", "name", "x"), &c, &err),
		-EEXIST);
	assert_non_null(strstr(err.text, "exists as a hash:net"));
	change_drop(&c);
	assert_shown("x", "create x hash:net family inet maxelem 65536\n");
}

/* With a time-out the kernel removes the members; what is left at the end is still ours. */
static void members_that_expire(void **state _unused_)
{
	nsec_t deadline = now_ns() + 20 * NSEC_PER_SEC;
	struct change c;

	NEED_IPSET();
	apply(json_pack("{s:s, s:s, s:[s, s], s:s}", "node", "d", "name", "x", "members",
		      "198.18.0.1", "198.18.0.2", "timeout", "1s"),
		&c);
	for (;;) {
		struct sets_set now;
		_cleanup_free_ char *text = NULL;
		size_t n;

		OK(sets_save(ns.node, "x", SETS_TEXT_MAX, &text, &err));
		OK(sets_parse(text, "x", &now));
		n = now.n;
		sets_clear(&now);
		if (n == 0)
			break;
		if (now_ns() > deadline)
			fail_msg("members of a set with a time-out of 1 s are still there");
		usleep(20000); /* the kernel tells nobody */
	}
	OK(change_undo(journal.j, &c, &err));
	assert_sets("");
	change_drop(&c);

	/* and a prior set's time-outs run on meanwhile: what has expired stays gone */
	ipset("create x hash:ip timeout 100");
	ipset("add x 198.18.0.5 timeout 1");
	ipset("add x 198.18.0.6 timeout 0");
	apply(json_pack("{s:s, s:s, s:[s]}", "node", "d", "name", "x", "members", "198.18.0.1"),
		&c);
	while (now_ns() < c.applied + 2 * NSEC_PER_SEC)
		usleep(50000); /* its second must pass */
	OK(change_undo(journal.j, &c, &err));
	assert_shown("x",
		"add x 198.18.0.6 timeout 0\ncreate x hash:ip family inet maxelem 65536 timeout 100\n");
	change_drop(&c);
}

/* Only a set that somebody refers to can cut anything, and of it only who comes or goes. */
static void who_is_reached(void **state _unused_)
{
	const struct change_ops *ops = change_find("set.ipset");
	_cleanup_json_ json_t *args = json_pack("{s:s, s:s, s:s, s:s, s:i, s:[s, s]}", "node", "d", "name", "x", "type", "hash:ip",
		"family", "inet", "maxelem", 65536, "members", "198.18.0.1", "198.18.0.3");
	_cleanup_json_ json_t *reach = NULL, *sets = NULL,
			      *want = json_pack("{s:[{s:s}], s:[s, s]}", "devices", "dev", "*", "to", "198.18.0.2", "198.18.0.3");

	NEED_IPSET();
	OK(ops->reach(ns.node, args, &reach, &err));
	assert_null(reach);
	ipset("create x hash:ip");
	ipset("add x 198.18.0.1");
	ipset("add x 198.18.0.2");
	OK(ops->reach(ns.node, args, &reach, &err));
	assert_null(reach);
	ipset("create holder list:set");
	ipset("add holder x");
	OK(sets_list(ns.node, &sets, &err));
	assert_int_equal(json_object_size(sets), 2);
	assert_int_equal(json_integer_value(json_object_get(sets, "x")), 1);
	OK(ops->reach(ns.node, args, &reach, &err));
	if (!json_equal(reach, want))
		fail_msg("%s", json_dumps(reach, 0));
}

/* libipset keeps names whatever the namespace; and it must not be asked by two threads at once. */
static void *save_often(void *arg)
{
	const struct netns_node *n = arg;

	for (int i = 0; i < 50; i++) {
		_cleanup_free_ char *text = NULL;
		struct err e = {0};

		if (sets_save(n->node, "b", SETS_TEXT_MAX, &text, &e) < 0 ||
			!strstr(text, n == &ns ? "create b hash:ip family inet "
					       : "create b hash:net family inet6 "))
			return (void *)"wrong";
	}
	return NULL;
}

static void two_namespaces(void **state _unused_)
{
	_cleanup_free_ char *text = NULL;
	pthread_t threads[2];
	void *result;

	NEED_IPSET();
	free(run_in(other.node, "ipset destroy"));
	OK(sets_create(ns.node, "b", SETS_HASH_IP, AF_INET, 65536, -1, 0, &err));
	/* there is none of that name here */
	assert_int_equal(sets_save(other.node, "b", SETS_TEXT_MAX, &text, &err), -ENOENT);
	assert_true(sets_restore(other.node, "add b 198.18.0.1\n", &err) < 0);
	assert_true(strlen(err.text) > 0);
	OK(sets_create(other.node, "b", SETS_HASH_NET, AF_INET6, 65536, -1, 0, &err));
	assert_int_equal(pthread_create(&threads[0], NULL, save_often, &ns), 0);
	assert_int_equal(pthread_create(&threads[1], NULL, save_often, &other), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_null(result);
	}
	free(run_in(other.node, "ipset destroy"));
}

static void errors_are_errors(void **state _unused_)
{
	const char *const members[] = {"198.18.0.1", "198.18.0.2", "198.18.0.3"};

	NEED_IPSET();
	assert_true(sets_restore(ns.node, "add nosuch 198.18.0.1\n", &err) < 0);
	assert_true(sets_restore(ns.node, "create a hash:ip\nadd a 300.1.2.3.4.5/x\n", &err) < 0);
	assert_true(sets_restore(ns.node, "nonsense\n", &err) < 0);
	assert_true(sets_restore(ns.node, "create a hash:ip\n", &err) < 0); /* it is there */
	assert_int_equal(sets_destroy(ns.node, "nosuch", &err), -ENOENT);
	assert_int_equal(sets_swap(ns.node, "a", "nosuch", &err), -ENOENT);
	assert_int_equal(
		sets_add(ns.node, "nosuch", SETS_HASH_IP, AF_INET, members, 1, &err), -ENOENT);
	OK(sets_create(ns.node, "small", SETS_HASH_IP, AF_INET, 2, -1, 0, &err));
	OK(sets_create(ns.node, "net", SETS_HASH_NET, AF_INET, 2, -1, 0, &err));
	assert_int_equal(sets_swap(ns.node, "small", "net", &err), -EINVAL);
	assert_non_null(strstr(err.text, "differ in type"));
	assert_int_equal(sets_exists(ns.node, "small", &err), 1);
	assert_int_equal(sets_exists(ns.node, "smaller", &err), 0);
}

static void in_bulk(void **state _unused_)
{
	enum { COUNT = 20000 };
	_cleanup_free_ char *text = NULL;
	char(*space)[20];
	const char **members;
	struct sets_set got;
	nsec_t begun;

	NEED_IPSET();
	space = calloc(COUNT, sizeof(*space));
	members = calloc(COUNT, sizeof(*members));
	assert_true(space && members);
	for (int i = 0; i < COUNT; i++) {
		snprintf(space[i], sizeof(space[i]), "198.%d.%d.%d", 18 + (i >> 16), i >> 8 & 0xff,
			i & 0xff);
		members[i] = space[i];
	}
	OK(sets_create(ns.node, "big", SETS_HASH_IP, AF_INET, 65536, -1, 0, &err));
	begun = now_ns();
	OK(sets_add(ns.node, "big", SETS_HASH_IP, AF_INET, members, COUNT, &err));
	print_message("%d members in %.1f ms\n", COUNT, (double)(now_ns() - begun) / 1e6);
	OK(sets_save(ns.node, "big", SETS_TEXT_MAX, &text, &err));
	OK(sets_parse(text, "big", &got));
	assert_int_equal(got.n, COUNT);
	sets_clear(&got);
	/* those that are there are no error; too many are, and the text says so */
	OK(sets_add(ns.node, "big", SETS_HASH_IP, AF_INET, members, COUNT, &err));
	OK(sets_create(ns.node, "small", SETS_HASH_IP, AF_INET, 64, -1, 0, &err));
	assert_int_equal(
		sets_add(ns.node, "small", SETS_HASH_IP, AF_INET, members, COUNT, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "full"));
	free(space);
	free(members);
}

static void snapshot(void **state _unused_)
{
	const struct snapshot_ops *const *ops = snapshot_table;
	_cleanup_strbuf_ struct strbuf a = {0}, b = {0};

	NEED_IPSET();
	while (*ops && !streq((*ops)->name, "ipset"))
		ops++;
	assert_non_null(*ops);
	OK((*ops)->take(ns.node, &a, &err));
	assert_string_equal(strbuf_cstr(&a), "");
	ipset("create t hash:ip timeout 100 counters");
	ipset("add t 198.18.0.1 timeout 50 packets 3 bytes 9");
	OK((*ops)->take(ns.node, &b, &err));
	assert_non_null(strstr(strbuf_cstr(&b), "ipset t member 198.18.0.1\n"));
	assert_non_null(strstr(strbuf_cstr(&b), "ipset t hash:ip family inet "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_set),
		cmocka_unit_test(every_type),
		cmocka_unit_test(in_place_of_another),
		cmocka_unit_test(the_spare_one_was_lost),
		cmocka_unit_test(killed_on_the_way),
		cmocka_unit_test(changed_by_somebody_else),
		cmocka_unit_test(refused),
		cmocka_unit_test(members_that_expire),
		cmocka_unit_test(who_is_reached),
		cmocka_unit_test(two_namespaces),
		cmocka_unit_test(errors_are_errors),
		cmocka_unit_test(in_bulk),
		cmocka_unit_test(snapshot),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
