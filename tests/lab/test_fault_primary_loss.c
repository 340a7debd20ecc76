/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A real Redis primary taken away in each way and put back: from the record alone, twice, by another process, by plain words; an
 * orderly end that the undo comes upon half-way; a partition with somebody on both sides; and each refusal. The sentinel runs
 * on the primary's own node, from the same executable: it is not to be touched. It is patient, and elects nobody.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/change.h"
#include "engine/site.h"
#include "redis_pair.h"

#define PATIENCE REDIS_PAIR_PATIENCE

static struct bridge_site bridge;
static struct redis_pair pair;
static struct site *site;
static const struct change_ops *ops;
static char self[4096];

static const char site_text[] =
	"{\"name\": \"pair\", \"switches\": [\"lan\"], \"nodes\": ["
	" {\"name\": \"node\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.2/24\", "
	"\"2001:db8::2/64\"]}]},"
	" {\"name\": \"peer\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.1/24\", "
	"\"2001:db8::1/64\"]}]}],"
	" " REDIS_PAIR_DECLARED("node") "}";

static void ask(const struct node *from, struct redis_at at, const char *command)
{
	_cleanup_reply_ redisReply *r = NULL;
	struct err err = {0};

	if (redis_ask(from, at, command, now_ns() + PATIENCE, &r, &err) < 0)
		fail_msg("%s: %s", command, err.text);
	if (r->type == REDIS_REPLY_ERROR)
		fail_msg("%s: %s", command, r->str);
}

/* The number behind "KEY:" in INFO server */
static long info(const struct node *from, struct redis_at at, const char *key)
{
	_cleanup_reply_ redisReply *r = NULL;
	const char *p;

	if (redis_ask(from, at, "INFO server", now_ns() + PATIENCE, &r, NULL) < 0 || !r->str || !(p = strstr(r->str, key)))
		return -1;
	return strtol(p + strlen(key) + 1, NULL, 10);
}

static int make(void **state _unused_)
{
	_cleanup_json_ json_t *j = json_loads(site_text, 0, NULL);
	struct err err = {0};

	bridge_site_make(&bridge);
	if (site_from_json(j, &site, &err) < 0)
		fail_msg("%s", err.text);
	ops = change_find("fault.primary_loss");
	assert_non_null(ops);
	redis_pair_start(&pair, &bridge, bridge.node);
	return 0;
}

static int drop(void **state _unused_)
{
	site_free(site);
	bridge_site_drop(&bridge);
	return 0;
}

/* ── a record ──────────────────────────────────────────────────────────────────────────────── */

struct record {
	struct node *node;
	json_t *args, *prior;
};

static void record_clear(struct record *r)
{
	node_free(r->node);
	json_decref(r->args);
	json_decref(r->prior);
	*r = (struct record){0};
}
#define _cleanup_record_ _cleanup_(record_clear)

/* Checked and resolved; @more: ", \"keep\": ..." */
static json_t *arguments(const char *how, const char *more)
{
	_cleanup_free_ char *text = strf("{\"database\": \"cache\", \"how\": \"%s\"%s}", how, more);
	_cleanup_json_ json_t *given = json_loads(text, 0, NULL);
	const struct param_names names = site_names(site);
	json_t *args = NULL;
	struct err err = {0};

	assert_non_null(given);
	if (param_check(ops->params, ops->name, given, &names, &args, &err) < 0 || ops->resolve(site, args, &err) < 0)
		fail_msg("%s: %s", text, err.text);
	return args;
}

/* Through text, as the journal keeps it */
static char *record_make(const char *how, const char *more)
{
	_cleanup_json_ json_t *args = arguments(how, more), *prior = NULL, *all = NULL;
	struct err err = {0};
	char *text;

	if (ops->supported(bridge.node, args, &err) < 0 || ops->capture(bridge.node, args, &prior, &err) < 0)
		fail_msg("%s: %s", how, err.text);
	all = json_pack("{s:o, s:O, s:O}", "node", node_to_json(bridge.node), "args", args, "prior", prior);
	text = json_dumps(all, JSON_COMPACT);
	assert_non_null(text);
	return text;
}

static int record_read(const char *text, struct record *ret)
{
	_cleanup_json_ json_t *all = json_loads(text, 0, NULL);
	int r = node_from_json(json_object_get(all, "node"), &ret->node, NULL);

	ret->args = json_incref(json_object_get(all, "args"));
	ret->prior = json_incref(json_object_get(all, "prior"));
	return r;
}

static void must(int r, const struct err *err, const char *what)
{
	if (r != 0)
		fail_msg("%s: %d %s", what, r, err->text);
}

static void must_apply(const char *text)
{
	_cleanup_record_ struct record r = {0};
	struct err err = {0};

	assert_int_equal(record_read(text, &r), 0);
	must(ops->apply(r.node, r.args, r.prior, &err), &err, "apply");
}

static void must_undo(const char *text, const char *when)
{
	_cleanup_record_ struct record r = {0};
	struct err err = {0};

	assert_int_equal(record_read(text, &r), 0);
	must(ops->undo(r.node, r.args, r.prior, &err), &err, when);
	must(ops->verify(r.node, r.args, r.prior, &err), &err, when);
}

/* "SELF undo FILE": another process, which has the record and nothing else */
static int undo_main(const char *path)
{
	_cleanup_record_ struct record r = {0};
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	const struct change_ops *o = change_find("fault.primary_loss");
	int k = file_read(path, 1 << 20, &text, NULL);

	if (k == 0)
		k = record_read(text, &r);
	if (k == 0)
		k = o->undo(r.node, r.args, r.prior, &err);
	if (k == 0)
		k = o->verify(r.node, r.args, r.prior, &err);
	if (k)
		fprintf(stderr, "undo: %d %s\n", k, err.text);
	return k != 0;
}

static json_t *must_measure(const char *text)
{
	_cleanup_record_ struct record r = {0};
	struct err err = {0};
	json_t *e = NULL;

	assert_int_equal(record_read(text, &r), 0);
	must(ops->measure(r.node, r.args, r.prior, &e, &err), &err, "measure");
	return e;
}

static const char *at(const json_t *j, const char *a, const char *b)
{
	const char *s = json_string_value(json_object_get(json_object_get(j, a), b));

	return s ? s : "";
}

/* ── the life of each way ──────────────────────────────────────────────────────────────────── */

static void by_plain_words(const char *text)
{
	_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0};
	_cleanup_record_ struct record r = {0};
	struct err err = {0};

	assert_int_equal(record_read(text, &r), 0);
	assert_int_equal(ops->command(r.node, r.args, r.prior, &apply, &undo), 0);
	assert_null(strstr(strbuf_cstr(&undo), "# left:"));
	assert_int_equal(file_write("/run/undo.sh", undo.s, undo.len), 0);
	for (int i = 0; i < 2; i++) {
		sh("sh -e /run/undo.sh");
		must(ops->verify(r.node, r.args, r.prior, &err), &err, "after the plain words");
	}
}

static void life(const char *how, const char *want_answer)
{
	_cleanup_free_ char *before = NULL, *text = NULL, *again = NULL, *third = NULL;
	_cleanup_json_ json_t *e = NULL;
	long watcher = info(bridge.node, pair.sentinel, "process_id");

	assert_true(watcher > 0);
	redis_pair_await(&pair);
	before = site_snapshot(&bridge);
	text = record_make(how, "");
	assert_site_equals(&bridge, before);
	must_undo(text, "without an apply");
	assert_site_equals(&bridge, before);

	must_apply(text);
	e = must_measure(text);
	if (!json_is_true(json_object_get(e, "proved")) && !streq(how, "cut"))
		fail_msg("%s: not proved: %s", how, json_string_value(json_object_get(e, "text")));
	assert_string_equal(at(e, "asked", "how"), how);
	assert_string_equal(at(e, "asked", "node"), "node");
	assert_string_equal(at(e, "measured", "node"), "node");
	assert_string_equal(at(e, "measured", "answers"), want_answer);
	/* the same executable, on the same node, on another port */
	assert_true(redis_pair_answers(bridge.node, pair.sentinel));
	assert_int_equal(info(bridge.node, pair.sentinel, "process_id"), watcher);
	must_undo(text, "after an apply");
	assert_true(redis_pair_answers(bridge.node, redis_pair_primary));
	assert_site_equals(&bridge, before);
	must_undo(text, "the second time");
	assert_site_equals(&bridge, before);

	again = record_make(how, "");
	must_apply(again);
	assert_int_equal(file_write("/run/record", again, strlen(again)), 0);
	sh("%s undo /run/record", self);
	assert_true(redis_pair_answers(bridge.node, redis_pair_primary));
	assert_site_equals(&bridge, before);

	third = record_make(how, "");
	must_apply(third);
	by_plain_words(third);
	for (nsec_t until = now_ns() + PATIENCE; !redis_pair_answers(bridge.node, redis_pair_primary); (void)poll(NULL, 0, 20))
		assert_true(now_ns() < until);
	assert_site_equals(&bridge, before);
	assert_int_equal(info(bridge.node, pair.sentinel, "process_id"), watcher);
}

static void stop(void **state _unused_)
{
	life("stop", "refused");
}

static void killed(void **state _unused_)
{
	life("kill", "refused");
}

static void freeze(void **state _unused_)
{
	life("freeze", "none");
}

static void cut(void **state _unused_)
{
	life("cut", "yes");
}

/*
 * The apply's process dies when it has told the primary to end, and the undo comes at once: the primary is there still. With a
 * replica that is behind and does not listen it stays for seconds.
 */
static void an_end_that_is_on_its_way(void **state _unused_)
{
	long pid, child;
	nsec_t begun;

	redis_pair_await(&pair);
	for (int i = 0; i < 4; i++) {
		bool behind = i & 1, words = i & 2;
		_cleanup_free_ char *text = record_make("stop", "");

		pid = info(bridge.node, redis_pair_primary, "process_id");
		child = info(bridge.peer, redis_pair_replica, "process_id");
		assert_true(pid > 0 && child > 0);
		if (behind) {
			ask(bridge.node, redis_pair_primary, "CONFIG SET shutdown-timeout 3");
			assert_int_equal(kill((pid_t)child, SIGSTOP), 0);
			ask(bridge.node, redis_pair_primary, "SET a 1");
		}
		begun = now_ns();
		assert_int_equal(kill((pid_t)pid, SIGTERM), 0);
		if (words)
			by_plain_words(text);
		else
			must_undo(text, "while it ends");
		if (behind) {
			assert_true(now_ns() - begun > 2 * NSEC_PER_SEC); /* it was waited for */
			assert_int_equal(kill((pid_t)child, SIGCONT), 0);
		}
		/* another one, and it stays */
		assert_int_not_equal(info(bridge.node, redis_pair_primary, "process_id"), pid);
		assert_true(redis_pair_answers(bridge.node, redis_pair_primary));
		(void)poll(NULL, 0, 200);
		assert_true(redis_pair_answers(bridge.node, redis_pair_primary));
		redis_pair_await(&pair);
	}
}

/* ── on both sides ─────────────────────────────────────────────────────────────────────────── */

static bool heard(const struct node *from, const char *dev, const char *addr)
{
	struct echo_result e;

	return echo_run(from, dev, addr, 2, 20 * NSEC_PER_MSEC, 300 * NSEC_PER_MSEC, &e, NULL) == 0 && e.received > 0;
}

/* The peer may talk to it, the switch may not; nobody knows anybody's address when it begins. */
static void kept_ones_pass(void **state _unused_)
{
	static const char *const addrs[] = {"198.18.0.2", "2001:db8::2"};
	_cleanup_json_ json_t *e = NULL;
	_cleanup_free_ char *text = NULL;
	const json_t *m;

	redis_pair_await(&pair);
	sh("ip -n sw addr add 198.18.0.3/24 dev lan && ip -n sw addr add 2001:db8::3/64 dev lan nodad");
	for (size_t i = 0; i < 2; i++)
		assert_true(heard(bridge.sw, "lan", addrs[i]));
	text = record_make("cut", ", \"keep\": [\"peer\"]");
	must_apply(text);
	sh("for n in node peer sw; do ip -n $n neigh flush all; done");
	for (size_t i = 0; i < 2; i++) {
		assert_true(becomes_reachable(&bridge, addrs[i]));
		assert_false(heard(bridge.sw, "lan", addrs[i]));
	}
	assert_true(heard(bridge.node, "eth0", "198.18.0.1"));
	assert_false(heard(bridge.node, "eth0", "198.18.0.3"));
	assert_true(redis_pair_answers(bridge.peer, redis_pair_primary));
	e = must_measure(text);
	m = json_object_get(e, "measured");
	assert_true(json_is_true(json_object_get(e, "proved")));
	assert_true(json_integer_value(json_object_get(m, "sent_kept_packets")) > 0);
	assert_true(json_integer_value(json_object_get(m, "received_kept_packets")) > 0);
	assert_true(json_integer_value(json_object_get(m, "received_dropped_packets")) > 0);
	must_undo(text, "of the partition");
	for (size_t i = 0; i < 2; i++) {
		for (nsec_t until = now_ns() + PATIENCE; !heard(bridge.sw, "lan", addrs[i]);)
			assert_true(now_ns() < until);
	}
	sh("ip -n sw addr del 198.18.0.3/24 dev lan && ip -n sw addr del 2001:db8::3/64 dev lan");
}

/* ── refusals ──────────────────────────────────────────────────────────────────────────────── */

static void refused(const struct node *n, const json_t *args, bool by_supported, const char *want)
{
	_cleanup_json_ json_t *prior = NULL;
	struct err err = {0};
	int r = by_supported ? ops->supported(n, args, &err) : 0;

	if (by_supported && r == 0)
		fail_msg("not refused; wanted: %s", want);
	if (r == 0)
		r = ops->capture(n, args, &prior, &err);
	if (r == 0 || !strstr(err.text, want))
		fail_msg("%d, wanted \"%s\": %s", r, want, err.text);
}

static void who_is_no_primary(void **state _unused_)
{
	_cleanup_json_ json_t *args = NULL;
	struct err err = {0};

	redis_pair_await(&pair);
	args = arguments("kill", ", \"node\": \"peer\"");
	/* its turn may come: there is a primary, and somebody to take over */
	must(ops->supported(bridge.peer, args, &err), &err, "supported");
	refused(bridge.peer, args, false, "peer is not the primary of cache now: it follows 198.18.0.2");
}

static void a_replica_that_is_not_in_sync(void **state _unused_)
{
	_cleanup_json_ json_t *args = arguments("freeze", "");
	struct redis_replication r = {0};
	long pid = info(bridge.peer, redis_pair_replica, "process_id");

	assert_int_equal(kill((pid_t)pid, SIGSTOP), 0);
	for (nsec_t until = now_ns() + PATIENCE; r.replicas[0].lag < 3; (void)poll(NULL, 0, 50)) {
		assert_int_equal(redis_replication(bridge.node, redis_pair_primary, now_ns() + NSEC_PER_SEC, &r, NULL), 0);
		assert_true(now_ns() < until);
	}
	refused(bridge.node, args, false, "node has no replica in sync: 198.18.0.1 has not been heard for");
	assert_int_equal(kill((pid_t)pid, SIGCONT), 0);
	redis_pair_await(&pair);
}

/* supported() waits for a replica that is on its way. */
static void a_replica_that_comes(void **state _unused_)
{
	_cleanup_json_ json_t *args = arguments("kill", "");
	struct err err = {0};
	pid_t child;

	ask(bridge.peer, redis_pair_replica, "REPLICAOF NO ONE");
	refused(bridge.node, args, false, "node has no replica (connected_slaves:0): nobody could take over");
	fflush(NULL);
	child = fork();
	if (child == 0) {
		_cleanup_reply_ redisReply *r = NULL;

		(void)poll(NULL, 0, 500);
		_exit(redis_ask(bridge.peer, redis_pair_replica, "REPLICAOF 198.18.0.2 6379", now_ns() + PATIENCE, &r, NULL) != 0);
	}
	must(ops->supported(bridge.node, args, &err), &err, "supported");
	assert_int_equal(waitpid(child, NULL, 0), child);
	redis_pair_await(&pair);
}

static void a_quorum_that_is_not_to_be_had(void **state _unused_)
{
	_cleanup_json_ json_t *args = arguments("kill", "");

	ask(bridge.node, pair.sentinel, "SENTINEL SET cache quorum 2");
	refused(bridge.node, args, true, "database cache: 0 of 1 sentinels can reach their quorum");
	ask(bridge.node, pair.sentinel, "SENTINEL SET cache quorum 1");
}

static void who_does_not_answer(void **state _unused_)
{
	_cleanup_json_ json_t *args = arguments("kill", "");

	json_object_set_new(args, "port", json_integer(6380));
	refused(bridge.node, args, false, "database cache: 198.18.0.2 port 6380: Connection refused");
}

/* ── what it is told, taken apart ──────────────────────────────────────────────────────────── */

static void info_is_read(void **state _unused_)
{
	static const char *const broken[] = {"", "role:", "role:king\r\n", "role:slave\r\n", "role:slave\r\nmaster_host:a\r\nmaster_port:x\r\n",
		"role:master\r\n", "role:master\r\nconnected_slaves:-1\r\n", "role:master\r\nconnected_slaves:1\r\nslave0:ip=1\r\n",
		"role:master\r\nconnected_slaves:1\r\nslave0:ip=1,state=online,lag=y\r\n"};
	struct redis_replication r;
	struct err err = {0};

	assert_int_equal(redis_replication_parse("# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"
						 "slave0:ip=198.18.0.1,port=6379,state=online,offset=14,lag=1\r\n"
						 "slave1:ip=2001:db8::1,port=6379,state=wait_bgsave,offset=0,lag=0\r\n",
				 &r, &err),
		0);
	assert_true(r.primary);
	assert_int_equal(r.n_replicas, 2);
	assert_string_equal(r.replicas[0].addr, "198.18.0.1");
	assert_string_equal(r.replicas[0].state, "online");
	assert_int_equal(r.replicas[0].lag, 1);
	assert_string_equal(r.replicas[1].addr, "2001:db8::1");
	assert_string_equal(r.replicas[1].state, "wait_bgsave");
	assert_int_equal(redis_replication_parse("role:slave\r\nmaster_host:198.18.0.2\r\nmaster_port:6379\r\n", &r, &err), 0);
	assert_false(r.primary);
	assert_string_equal(r.upstream, "198.18.0.2");
	assert_int_equal(r.upstream_port, 6379);
	for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
		err = (struct err){0};
		assert_int_equal(redis_replication_parse(broken[i], &r, &err), -EPROTO);
		assert_true(err.text[0]);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(info_is_read),
		cmocka_unit_test(stop),
		cmocka_unit_test(killed),
		cmocka_unit_test(freeze),
		cmocka_unit_test(cut),
		cmocka_unit_test(an_end_that_is_on_its_way),
		cmocka_unit_test(kept_ones_pass),
		cmocka_unit_test(who_is_no_primary),
		cmocka_unit_test(a_replica_that_is_not_in_sync),
		cmocka_unit_test(a_replica_that_comes),
		cmocka_unit_test(a_quorum_that_is_not_to_be_had),
		cmocka_unit_test(who_does_not_answer),
	};

	if (argc == 3 && streq(argv[1], "undo"))
		return undo_main(argv[2]);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	if (!redis_pair_installed()) {
		printf("SKIP: redis-server or redis-sentinel is not installed\n");
		return 77;
	}
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, make, drop);
}
