/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The rule that asks an ipset: it drops what is in the set, follows a swapped set, is seen by nft(8), and is gone afterwards; a rule that
 * somebody puts beside it stays.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bridge_site.h"
#include "netns_node.h"

#include "baseline/sets.h"

static struct bridge_site bridge;
static struct lab_journal journal;
static bool ready;

static int setup(void **state _unused_)
{
	if (!ready)
		return 0;
	bridge_site_make(&bridge);
	lab_journal_make(&journal);
	return 0;
}

static int teardown(void **state _unused_)
{
	if (!ready)
		return 0;
	lab_journal_drop(&journal);
	bridge_site_drop(&bridge);
	return 0;
}

static json_t *block_args(const char *name, const char *family)
{
	return json_pack("{s:s, s:s, s:s}", "node", "node", "name", name, "family", family);
}

#define NEED_KERNEL(name)                                                                                                 \
	do {                                                                                                               \
		_cleanup_json_ json_t *need_args = block_args(name, "inet");                                                \
		struct err need_err = {0};                                                                                  \
		if (!ready)                                                                                                \
			SKIP("network namespaces need root");                                                              \
		if (change_find("set.block")->supported(bridge.node, need_args, &need_err) < 0)                             \
			SKIP("%s", need_err.text);                                                                          \
	} while (0)

static void apply_ok(const char *change, json_t *args, struct change *c)
{
	struct err err;

	if (lab_apply(&journal, change, bridge.node, NULL, args, c, &err) < 0)
		fail_msg("%s: %s", change, err.text);
}

static void blocked_and_let_through(const char *family, const char *peer, const char *node, const char *nft_family)
{
	_cleanup_free_ char *list = NULL, *cmd = NULL, *none = NULL;
	struct change set, block;
	struct err err = {0};

	assert_true(becomes_reachable(&bridge, node));
	apply_ok("set.ipset", json_pack("{s:s, s:s, s:s, s:[]}", "node", "node", "name", "drill", "family", family, "members"), &set);
	apply_ok("set.block", block_args("drill", family), &block);
	/* an empty set stops nobody */
	assert_true(reachable(&bridge, node));
	sh("ip netns exec node ipset add drill %s", peer);
	assert_false(reachable(&bridge, node));
	sh("ip netns exec node ipset del drill %s", peer);
	assert_true(becomes_reachable(&bridge, node));
	cmd = strf("nft list table %s muster_block_drill", nft_family);
	list = run_in(bridge.node, cmd);
	assert_non_null(strstr(list, "hook prerouting"));
	assert_non_null(strstr(list, "drop"));
	/* a set that a rule refers to cannot go */
	assert_int_not_equal(system("ip netns exec node ipset destroy drill 2>/dev/null"), 0);
	if (change_undo(journal.j, &block, &err) != 0 || change_undo(journal.j, &set, &err) != 0)
		fail_msg("%s", err.text);
	none = run_in(bridge.node, "nft list tables");
	assert_string_equal(none, "");
	change_drop(&block);
	change_drop(&set);
}

static void drops_what_is_in_the_set(void **state _unused_)
{
	NEED_KERNEL("drill");
	blocked_and_let_through("inet", "198.18.0.1", "198.18.0.2", "ip");
	blocked_and_let_through("inet6", "2001:db8::1", "2001:db8::2", "ip6");
}

/* The set is filled by a later change, which swaps it: the rule asks the new one. */
static void follows_a_swap(void **state _unused_)
{
	struct change first, block, second;
	struct err err = {0};

	NEED_KERNEL("drill");
	apply_ok("set.ipset", json_pack("{s:s, s:s, s:[]}", "node", "node", "name", "drill", "members"), &first);
	apply_ok("set.block", block_args("drill", "inet"), &block);
	assert_true(becomes_reachable(&bridge, "198.18.0.2"));
	apply_ok("set.ipset", json_pack("{s:s, s:s, s:[s]}", "node", "node", "name", "drill", "members", "198.18.0.1"), &second);
	assert_false(reachable(&bridge, "198.18.0.2"));
	if (change_undo(journal.j, &second, &err) != 0)
		fail_msg("%s", err.text);
	assert_true(becomes_reachable(&bridge, "198.18.0.2"));
	if (change_undo(journal.j, &block, &err) != 0 || change_undo(journal.j, &first, &err) != 0)
		fail_msg("%s", err.text);
	change_drop(&second);
	change_drop(&block);
	change_drop(&first);
}

static void a_third_partys_rule_stays(void **state _unused_)
{
	_cleanup_json_ json_t *items = NULL;
	_cleanup_free_ char *list = NULL;
	struct change set, block, again;
	struct err err = {0};

	NEED_KERNEL("drill");
	apply_ok("set.ipset", json_pack("{s:s, s:s, s:[]}", "node", "node", "name", "drill", "members"), &set);
	apply_ok("set.block", block_args("drill", "inet"), &block);
	/* the same once more changes nothing, and its undo leaves it */
	apply_ok("set.block", block_args("drill", "inet"), &again);
	assert_int_equal(change_undo(journal.j, &again, &err), 0);
	assert_int_equal(block.ops->look(bridge.node, block.args, block.prior, &items, &err), 0);
	assert_true(json_is_true(json_object_get(json_array_get(items, 0), "holds")));
	sh("ip netns exec node nft add rule ip muster_block_drill block counter accept");
	json_decref(TAKE_PTR(items));
	assert_int_equal(block.ops->look(bridge.node, block.args, block.prior, &items, &err), 0);
	assert_true(json_is_false(json_object_get(json_array_get(items, 0), "holds")));
	assert_int_equal(change_undo(journal.j, &block, &err), CHANGE_CONFLICT);
	list = run_in(bridge.node, "nft list table ip muster_block_drill");
	assert_non_null(strstr(list, "accept"));
	sh("ip netns exec node nft delete table ip muster_block_drill");
	assert_int_equal(change_undo(journal.j, &set, &err), 0);
	change_drop(&again);
	change_drop(&block);
	change_drop(&set);
}

static void what_cannot_be_is_said(void **state _unused_)
{
	struct change set, block;
	struct err err;

	NEED_KERNEL("drill");
	assert_int_equal(lab_apply(&journal, "set.block", bridge.node, NULL, block_args("nosuchset", "inet"), &block, &err), -ENOENT);
	assert_non_null(strstr(err.text, "there is no ipset nosuchset"));
	change_drop(&block);
	apply_ok("set.ipset", json_pack("{s:s, s:s, s:s, s:[]}", "node", "node", "name", "six", "family", "inet6", "members"), &set);
	assert_int_equal(lab_apply(&journal, "set.block", bridge.node, NULL, block_args("six", "inet"), &block, &err), -EINVAL);
	assert_non_null(strstr(err.text, "of another family"));
	change_drop(&block);
	sh("ip netns exec node nft add table ip muster_block_six");
	assert_int_equal(lab_apply(&journal, "set.block", bridge.node, NULL, block_args("six", "inet"), &block, &err), -EEXIST);
	sh("ip netns exec node nft delete table ip muster_block_six");
	change_drop(&block);
	assert_int_equal(change_undo(journal.j, &set, &err), 0);
	change_drop(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(drops_what_is_in_the_set),
		cmocka_unit_test(follows_a_swap),
		cmocka_unit_test(a_third_partys_rule_stays),
		cmocka_unit_test(what_cannot_be_is_said),
	};

	ready = sandbox_enter();
	return cmocka_run_group_tests(tests, setup, teardown);
}
