/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.sysctl in a network namespace of the test's own: applied, read back, put back, by way of the journal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/snapshot.h"
#include "netns_node.h"

static struct netns_node ns;
static struct lab_journal journal;

static int set_up(void **state _unused_)
{
	if (!netns_node_make(&ns, "rs1"))
		return 0; /* each test says so */
	lab_journal_make(&journal);
	return 0;
}

static int tear_down(void **state _unused_)
{
	if (ns.node) {
		lab_journal_drop(&journal);
		netns_node_drop(&ns);
	}
	return 0;
}

#define NEED_NS()                                                                                  \
	do {                                                                                       \
		if (!ns.node)                                                                      \
			SKIP("a network namespace needs root");                                    \
	} while (0)

static char *get(const char *path)
{
	char *text = NULL;

	assert_int_equal(node_read(ns.node, path, &text), 0);
	return text;
}

static void assert_value(const char *path, const char *want)
{
	_cleanup_free_ char *text = get(path);

	assert_string_equal(text, want);
}

static void put_back(void **state _unused_)
{
	_cleanup_free_ char *rmem = NULL, *host_before = NULL, *host_after = NULL;
	struct change c;
	struct err err;

	NEED_NS();
	rmem = get("/proc/sys/net/ipv4/tcp_rmem");
	assert_int_equal(file_read("/proc/sys/net/core/somaxconn", 100, &host_before, NULL), 0);
	if (lab_apply(&journal, "set.sysctl", ns.node, NULL,
		    json_pack("{s:s, s:{s:i, s:s, s:i}}", "node", "rs1", "values",
			    "net.core.somaxconn", 1234, "net.ipv4.tcp_rmem",
			    "65536  131072 1048576", "net.ipv4.conf.lo.arp_ignore", 0),
		    &c, &err) < 0)
		fail_msg("%s", err.text);
	assert_value("/proc/sys/net/core/somaxconn", "1234");
	assert_value("/proc/sys/net/ipv4/tcp_rmem", "65536\t131072\t1048576");
	assert_int_equal(file_read("/proc/sys/net/core/somaxconn", 100, &host_after, NULL), 0);
	assert_string_equal(host_before, host_after); /* the namespace's alone */
	assert_int_equal(c.ops->verify(ns.node, c.args, c.prior, &err), 1);
	if (change_undo(journal.j, &c, &err) != 0)
		fail_msg("%s", err.text);
	assert_value("/proc/sys/net/ipv4/tcp_rmem", rmem);
	/* twice is as good as once */
	assert_int_equal(c.ops->undo(ns.node, c.args, c.prior, &err), 0);
	assert_int_equal(c.ops->verify(ns.node, c.args, c.prior, &err), 0);
	change_drop(&c);
}

/* Killed anywhere between INTENT and APPLIED: only the journal is left, and it is played by somebody else. */
static void half_applied(void **state _unused_)
{
	_cleanup_json_ json_t *args = NULL;
	_cleanup_free_ char *was = NULL;
	const struct change_ops *ops = change_find("set.sysctl");
	struct restore_result res;
	struct err err = {0};

	NEED_NS();
	was = get("/proc/sys/net/core/somaxconn");
	args = json_pack("{s:s, s:{s:s, s:s}}", "node", "rs1", "values", "net.core.somaxconn", "77",
		"net.ipv4.tcp_fin_timeout", "30");
	for (int written = 0; written <= 2; written++) {
		_cleanup_json_ json_t *prior = NULL;
		uint32_t seq;

		assert_int_equal(ops->capture(ns.node, args, &prior, &err), 0);
		assert_int_equal(
			journal_intent(journal.j, ops, ns.node, args, prior, &seq, &err), 0);
		if (written > 0)
			assert_int_equal(
				node_write(ns.node, "/proc/sys/net/core/somaxconn", "77"), 0);
		if (written > 1)
			assert_int_equal(
				node_write(ns.node, "/proc/sys/net/ipv4/tcp_fin_timeout", "30"), 0);
		assert_int_equal(journal_play(journal.j, &res, &err), 0);
		assert_int_equal(res.undone, 1);
		assert_int_equal(res.failed + res.conflicts + res.stale, 0);
		restore_result_clear(&res);
		assert_value("/proc/sys/net/core/somaxconn", was);
		assert_value("/proc/sys/net/ipv4/tcp_fin_timeout", "60");
	}
}

static void changed_by_somebody_else(void **state _unused_)
{
	struct change c;
	struct err err;

	NEED_NS();
	assert_int_equal(
		lab_apply(&journal, "set.sysctl", ns.node, NULL,
			json_pack("{s:s, s:{s:i, s:i}}", "node", "rs1", "values",
				"net.ipv4.tcp_tw_reuse", 1, "net.ipv4.tcp_fin_timeout", 30),
			&c, &err),
		0);
	assert_int_equal(node_write(ns.node, "/proc/sys/net/ipv4/tcp_fin_timeout", "45"), 0);
	assert_int_equal(change_undo(journal.j, &c, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.text, "neither ours (\"30\") nor as before (\"60\")"));
	assert_value("/proc/sys/net/ipv4/tcp_fin_timeout", "45"); /* left alone */
	assert_value(
		"/proc/sys/net/ipv4/tcp_tw_reuse", "2"); /* the other one is back all the same */
	assert_int_equal(node_write(ns.node, "/proc/sys/net/ipv4/tcp_fin_timeout", "60"), 0);
	change_drop(&c);
}

static void refused_before_anything(void **state _unused_)
{
	static const struct {
		const char *key, *text;
	} bad[] = {
		{"vm.swappiness", "whole machine"}, {"kernel.sysrq", "whole machine"},
		{"net.core.no_such_thing", "no such parameter in this network namespace"},
		{"net.ipv4.tcp_mem",
			""}, /* of the machine: absent from, or read-only in, a namespace */
	};

	NEED_NS();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_free_ char *before = get("/proc/sys/net/core/somaxconn");
		struct change c;
		struct err err;

		/* the good one stands first and must not have been written */
		assert_true(lab_apply(&journal, "set.sysctl", ns.node, NULL,
				    json_pack("{s:s, s:{s:i, s:i}}", "node", "rs1", "values",
					    "net.core.somaxconn", 99, bad[i].key, 10),
				    &c, &err) < 0);
		assert_non_null(strstr(err.text, bad[i].text));
		assert_true(strlen(err.hint) > 0);
		assert_value("/proc/sys/net/core/somaxconn", before);
		change_drop(&c);
	}
}

static void not_taken_as_written(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;
	struct change c;
	struct err err;

	NEED_NS();
	before = get("/proc/sys/net/ipv4/ip_local_reserved_ports");
	/* the kernel merges neighbours into a range */
	assert_int_equal(lab_apply(&journal, "set.sysctl", ns.node, NULL,
				 json_pack("{s:s, s:{s:i, s:s}}", "node", "rs1", "values",
					 "net.core.somaxconn", 99,
					 "net.ipv4.ip_local_reserved_ports", "8080,8081"),
				 &c, &err),
		-ERANGE);
	assert_non_null(strstr(err.text, "8080-8081"));
	assert_null(strstr(err.text, "could not be undone"));
	assert_value("/proc/sys/net/ipv4/ip_local_reserved_ports", before);
	assert_value("/proc/sys/net/core/somaxconn", "4096");
	change_drop(&c);
	/* and one that it refuses */
	assert_int_equal(lab_apply(&journal, "set.sysctl", ns.node, NULL,
				 json_pack("{s:s, s:{s:s}}", "node", "rs1", "values",
					 "net.core.somaxconn", "many"),
				 &c, &err),
		-EINVAL);
	assert_value("/proc/sys/net/core/somaxconn", "4096");
	change_drop(&c);
}

static void device_that_went(void **state _unused_)
{
	_cleanup_free_ char *out = NULL, *out2 = NULL;
	struct change c;
	struct err err;

	NEED_NS();
	out = run_in(ns.node, "ip link add v0.7 type veth peer name v1");
	assert_int_equal(lab_apply(&journal, "set.sysctl", ns.node, NULL,
				 json_pack("{s:s, s:{s:i}}", "node", "rs1", "values",
					 "net.ipv4.conf.v0/7.arp_ignore", 1),
				 &c, &err),
		0);
	assert_value("/proc/sys/net/ipv4/conf/v0.7/arp_ignore", "1");
	out2 = run_in(ns.node, "ip link del v1");
	assert_int_equal(change_undo(journal.j, &c, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.text, "gone"));
	change_drop(&c);
}

/* Deleted and made anew under its name: what the new one has is its own. */
static void device_of_the_same_name(void **state _unused_)
{
	_cleanup_free_ char *out = NULL, *out2 = NULL;
	struct change c;
	struct err err;

	NEED_NS();
	out = run_in(ns.node, "ip link add v0 type veth peer name v1");
	assert_int_equal(lab_apply(&journal, "set.sysctl", ns.node, NULL,
				 json_pack("{s:s, s:{s:i}}", "node", "rs1", "values",
					 "net.ipv4.conf.v0.arp_ignore", 1),
				 &c, &err),
		0);
	out2 = run_in(ns.node, "ip link del v1 && ip link add v0 type veth peer name v1");
	/* the very value that ours was, so that only the device tells them apart */
	assert_int_equal(node_write(ns.node, "/proc/sys/net/ipv4/conf/v0/arp_ignore", "1"), 0);
	assert_int_equal(change_undo(journal.j, &c, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.text, "gone"));
	assert_value("/proc/sys/net/ipv4/conf/v0/arp_ignore", "1");
	change_drop(&c);
}

/* Renamed, it takes its parameters along. */
static void device_under_another_name(void **state _unused_)
{
	_cleanup_free_ char *out = NULL, *out2 = NULL;
	struct change c;
	struct err err;

	NEED_NS();
	out = run_in(ns.node, "ip link add r0 type veth peer name r1");
	assert_int_equal(lab_apply(&journal, "set.sysctl", ns.node, NULL,
				 json_pack("{s:s, s:{s:i}}", "node", "rs1", "values",
					 "net.ipv4.conf.r0.arp_ignore", 1),
				 &c, &err),
		0);
	out2 = run_in(ns.node,
		"ip link set r0 name w0 && ip link add r0 type veth peer name r2 && sysctl -qw net.ipv4.conf.r0.arp_ignore=1");
	assert_value("/proc/sys/net/ipv4/conf/w0/arp_ignore", "1");
	if (change_undo(journal.j, &c, &err) != 0)
		fail_msg("%s", err.text);
	assert_value("/proc/sys/net/ipv4/conf/w0/arp_ignore", "0");
	assert_value("/proc/sys/net/ipv4/conf/r0/arp_ignore", "1");
	change_drop(&c);
}

static void point_to(const char *path, const struct netns_node *n)
{
	(void)unlink(path);
	assert_int_equal(symlink(n->node->netns, path), 0);
}

/*
 * The node's namespace is replaced under its name: what is in the new one is nobody's of ours. The old one is undone as long as
 * a process keeps it, and is gone with the last.
 */
static void namespace_of_the_same_name(void **state _unused_)
{
	_cleanup_free_ char *path = strf("%s/ns", journal.dir);
	struct netns_node old, new;
	struct err err;

	NEED_NS();
	assert_true(netns_node_make(&new, "new"));
	for (int dead = 0; dead < 2; dead++) {
		_cleanup_free_ char *value = NULL, *prior = NULL;
		struct restore_result res = {0};
		struct node *node = node_new("rs9", path);
		struct change c;

		assert_true(netns_node_make(&old, "old"));
		assert_int_equal(node_read(old.node, "/proc/sys/net/core/somaxconn", &prior), 0);
		point_to(path, &old);
		assert_int_equal(node_open(node, NULL), 0);
		assert_int_equal(lab_apply(&journal, "set.sysctl", node, NULL,
					 json_pack("{s:s, s:{s:i}}", "node", "rs9", "values", "net.core.somaxconn", 1234), &c, &err),
			0);
		node_free(node); /* another process will undo it, which holds nothing open */
		assert_int_equal(node_write(new.node, "/proc/sys/net/core/somaxconn", "1234"), 0);
		point_to(path, &new);
		if (dead)
			netns_node_drop(&old);
		assert_int_equal(journal_play(journal.j, &res, &err), 0);
		assert_int_equal(res.failed, 0);
		assert_int_equal(res.stale, dead);
		if (dead)
			assert_non_null(strstr(json_string_value(json_array_get(res.lines, 0)), "another namespace now"));
		else
			assert_int_equal(res.undone, 1);
		restore_result_clear(&res);
		assert_int_equal(node_read(new.node, "/proc/sys/net/core/somaxconn", &value), 0);
		assert_string_equal(value, "1234");
		if (!dead) {
			free(TAKE_PTR(value));
			assert_int_equal(node_read(old.node, "/proc/sys/net/core/somaxconn", &value), 0);
			assert_string_equal(value, prior);
			netns_node_drop(&old);
		}
		change_drop(&c);
	}
	assert_int_equal(unlink(path), 0);
	netns_node_drop(&new);
}

static char *take(const struct node *n)
{
	const struct snapshot_ops *const *ops = snapshot_table;
	struct strbuf b = {0};
	struct err err = {0};

	while (*ops && !streq((*ops)->name, "sysctl"))
		ops++;
	assert_non_null(*ops);
	if ((*ops)->take(n, &b, &err) < 0 || (!n->netns && (*ops)->take_host(&b, &err) < 0))
		fail_msg("%s", err.text);
	assert_non_null(b.s);
	return b.s;
}

static void snapshot(void **state _unused_)
{
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL, *d = NULL;
	_cleanup_node_ struct node *host = node_new("host", NULL);

	NEED_NS();
	assert_int_equal(node_open(host, NULL), 0);
	a = take(ns.node);
	assert_non_null(strstr(a, "sysctl net.core.somaxconn = "));
	assert_non_null(strstr(a, "sysctl net.ipv4.tcp_rmem = "));
	assert_non_null(strstr(a, "sysctl net.ipv4.conf.all.arp_ignore = "));
	assert_null(strstr(a, "sysctl vm.")); /* the host's */
	assert_null(strstr(a, "fastopen_key"));
	assert_int_equal(node_write(ns.node, "/proc/sys/net/ipv4/conf/lo/arp_ignore", "2"), 0);
	b = take(ns.node);
	assert_null(strstr(a, "sysctl net.ipv4.conf.lo.arp_ignore = 2\n"));
	assert_non_null(strstr(b, "sysctl net.ipv4.conf.lo.arp_ignore = 2\n"));
	assert_int_equal(node_write(ns.node, "/proc/sys/net/ipv4/conf/lo/arp_ignore", "0"), 0);
	free(TAKE_PTR(b));
	b = take(ns.node);
	assert_string_equal(a, b); /* nothing in it changes by itself */
	c = take(host);
	d = take(host);
	assert_string_equal(c, d);
	assert_non_null(strstr(c, "sysctl vm.swappiness = "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(put_back),
		cmocka_unit_test(half_applied),
		cmocka_unit_test(changed_by_somebody_else),
		cmocka_unit_test(refused_before_anything),
		cmocka_unit_test(not_taken_as_written),
		cmocka_unit_test(device_that_went),
		cmocka_unit_test(device_of_the_same_name),
		cmocka_unit_test(namespace_of_the_same_name),
		cmocka_unit_test(device_under_another_name),
		cmocka_unit_test(snapshot),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
