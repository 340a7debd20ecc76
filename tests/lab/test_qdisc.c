/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Capture and replay of qdisc trees: for each kind that this kernel has, what tc set up is captured, replaced by
 * something else, put back, and must then read the same, byte for byte, to us and to tc.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include "bridge_site.h"
#include "inject/qdisc.h"

static struct bridge_site site;
static struct nlc *nl;
static int default_fd = -1; /* the host's net.core.default_qdisc, which a namespace does not have */
static int ifindex, many; /* eth0; mq0, with four transmit queues */

static int make(void **state _unused_)
{
	bridge_site_make(&site);
	assert_int_equal(nlc_open(site.node, NETLINK_ROUTE, &nl, NULL), 0);
	ifindex = nlc_ifindex(nl, "eth0", NULL);
	assert_true(ifindex > 0);
	sh("ip -n node link add mq0 numtxqueues 4 numrxqueues 4 type veth peer name mq1 numtxqueues 4 numrxqueues 4; "
	   "ip -n node link set mq0 mtu 1200 up; ip -n node link set mq1 mtu 1200 up"); /* too small for IPv6: they say nothing */
	many = nlc_ifindex(nl, "mq0", NULL);
	assert_true(many > 0);
	return 0;
}

static int drop(void **state _unused_)
{
	nlc_close(TAKE_PTR(nl));
	bridge_site_drop(&site);
	return 0;
}

/* Only the node is of interest here. */
static char *node_snapshot(void)
{
	const struct node *nodes[] = {site.node};
	struct err err = {0};
	char *text = NULL;

	if (snapshot_take(nodes, 1, &text, &err) < 0)
		fail_msg("snapshot: %s", err.text);
	return text;
}

static void assert_node_equals(const char *before)
{
	_cleanup_free_ char *after = node_snapshot();

	assert_string_equal(before, after);
}

static bool node_differs(const char *before)
{
	_cleanup_free_ char *after = node_snapshot();

	return !streq(before, after);
}

/* A command in the node's namespace: forked from this thread while it is there, which spares an `ip netns exec` */
static FILE *in_node(const char *command, const char *mode)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	FILE *p;

	assert_int_equal(node_enter(site.node, &v, NULL), 0);
	p = popen(command, mode);
	assert_non_null(p);
	return p;
}

/* One or more tc commands in the node, without the "tc"; false: this kernel cannot */
static bool tc(const char *lines)
{
	FILE *p = in_node("exec tc -b - >/dev/null 2>&1", "w");

	fprintf(p, "%s\n", lines);
	return pclose(p) == 0;
}

static int clean(void **state _unused_)
{
	FILE *p = in_node("exec tc -force -b - >/dev/null 2>&1", "w");

	fputs("qdisc del dev eth0 root\nqdisc del dev eth0 clsact\nqdisc del dev mq0 root\n", p);
	(void)pclose(p); /* one of them is not there, as a rule */
	return 0;
}

/* Cuts "WORD number" out of a line. */
static void cut_number(char *line, const char *before, const char *after)
{
	char *from = strstr(line, before), *to;

	if (!from)
		return;
	to = from + strlen(before);
	to += strspn(to, "0123456789");
	if (strncmp(to, after, strlen(after)) == 0)
		memmove(from, to + strlen(after), strlen(to + strlen(after)) + 1);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What tc shows, less what counts, filters in their order, the rest sorted: the packets that the interface sends by itself change nothing here. */
static char *tc_shows(const char *dev)
{
	_cleanup_free_ char *commands = strf("exec printf 'qdisc show dev %s\nclass show dev %s\nfilter show dev %s\n"
					     "filter show dev %s egress\n' | tc -d -b - 2>/dev/null", dev, dev, dev, dev);
	FILE *p = in_node(commands, "r");
	char *text = NULL, *lines[256], *save = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	size_t n = 0, n_sorted = 0;

	assert_int_equal(fd_read_all(fileno(p), 1 << 20, &text, NULL), 0);
	(void)pclose(p); /* there may be no clsact to ask about */
	for (char *l = strtok_r(text, "\n", &save); l && n < ARRAY_SIZE(lines); l = strtok_r(NULL, "\n", &save)) {
		cut_number(l, "direct_packets_stat ", "");
		cut_number(l, " success ", ")");
		cut_number(l, "(rule hit ", "");
		if (strncmp(l, "qdisc ", 6) == 0 || strncmp(l, "class ", 6) == 0)
			n_sorted = n + 1;
		lines[n++] = l;
	}
	qsort(lines, n_sorted, sizeof(*lines), by_text);
	for (size_t i = 0; i < n; i++)
		strbuf_addf(&b, "%s\n", lines[i]);
	free(text);
	return TAKE_PTR(b.s);
}

static const struct {
	const char *name;
	const char *lines; /* replaces the root */
} trees[] = {
	{"tbf", "qdisc add dev eth0 root handle 5: tbf rate 10mbit burst 32kbit latency 400ms"},
	{"tbf by itself", "qdisc add dev eth0 root tbf rate 1gbit burst 1mbit latency 50ms"},
	{"pfifo", "qdisc add dev eth0 root handle 8: pfifo limit 77"},
	{"htb with classes, leaves and filters",
		"qdisc add dev eth0 root handle 1: htb default 20 r2q 5\n"
		"class add dev eth0 parent 1: classid 1:1 htb rate 100mbit ceil 100mbit\n"
		"class add dev eth0 parent 1:1 classid 1:10 htb rate 30mbit ceil 60mbit prio 1 quantum 3000\n"
		"class add dev eth0 parent 1:1 classid 1:20 htb rate 50mbit burst 20k\n"
		"class add dev eth0 parent 1: classid 1:2 htb rate 5mbit\n"
		"qdisc add dev eth0 parent 1:10 handle 10: pfifo limit 55\n"
		"qdisc add dev eth0 parent 1:20 handle 20: tbf rate 40mbit burst 64kbit latency 100ms\n"
		"filter add dev eth0 parent 1: protocol ip prio 3 u32 match ip dport 80 0xffff flowid 1:10\n"
		"filter add dev eth0 parent 1: protocol ip prio 3 u32 match ip dst 198.18.0.1/32 flowid 1:20\n"
		"filter add dev eth0 parent 1: protocol ipv6 prio 7 u32 match ip6 dst 2001:db8::1/128 flowid 1:2"},
	{"htb inside htb",
		"qdisc add dev eth0 root handle 1: htb default 1\n"
		"class add dev eth0 parent 1: classid 1:1 htb rate 100mbit\n"
		"qdisc add dev eth0 parent 1:1 handle 2: htb default 7\n"
		"class add dev eth0 parent 2: classid 2:7 htb rate 10mbit\n"
		"qdisc add dev eth0 parent 2:7 handle 3: pfifo limit 9"},
	{"fq_codel", "qdisc add dev eth0 root handle 9: fq_codel limit 2000 target 7ms noecn"},
	{"fq", "qdisc add dev eth0 root handle 9: fq maxrate 50mbit"},
	{"sfq", "qdisc add dev eth0 root handle 9: sfq perturb 10"},
	{"sfq, small", "qdisc add dev eth0 root handle 9: sfq limit 50 perturb 5"},
	{"prio with bands",
		"qdisc add dev eth0 root handle 1: prio bands 4\n"
		"qdisc add dev eth0 parent 1:2 handle 12: sfq\n"
		"qdisc add dev eth0 parent 1:4 handle 14: netem delay 30ms loss 1%\n"
		"filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dst 198.18.0.9/32 flowid 1:4\n"
		"filter add dev eth0 parent 1: protocol ip prio 2 handle 6 fw classid 1:2"},
	{"netem with a child",
		"qdisc add dev eth0 root handle 4: netem delay 10ms loss 0.5% 25% duplicate 1% rate 5mbit\n"
		"qdisc add dev eth0 parent 4:1 handle 40: pfifo limit 12"},
	{"netem, Gilbert-Elliott", "qdisc add dev eth0 root handle 4: netem delay 50ms loss gemodel 1% 30% rate 1mbit ecn"},
	{"cake", "qdisc add dev eth0 root handle 4: cake bandwidth 20mbit"},
	{"codel", "qdisc add dev eth0 root handle 4: codel limit 500 target 8ms"},
	{"drr", "qdisc add dev eth0 root handle 4: drr\nclass add dev eth0 parent 4: classid 4:1 drr quantum 1600\n"
		"qdisc add dev eth0 parent 4:1 handle 41: pfifo limit 3"},
	{"hfsc", "qdisc add dev eth0 root handle 4: hfsc default 1\n"
		 "class add dev eth0 parent 4: classid 4:1 hfsc sc rate 5mbit ul rate 10mbit"},
	{"ets", "qdisc add dev eth0 root handle 4: ets bands 3 strict 1 quanta 3000 2000"},
	{"classes made in an order of their own",
		"qdisc add dev eth0 root handle 1: htb default 30\n"
		"class add dev eth0 parent 1: classid 1:1 htb rate 100mbit\n"
		"class add dev eth0 parent 1:1 classid 1:30 htb rate 10mbit\n"
		"class add dev eth0 parent 1:1 classid 1:10 htb rate 10mbit\n"
		"class add dev eth0 parent 1:1 classid 1:20 htb rate 10mbit\n"
		"class add dev eth0 parent 1:20 classid 1:2 htb rate 2mbit\n"
		"class add dev eth0 parent 1:20 classid 1:22 htb rate 2mbit\n"
		"class add dev eth0 parent 1:20 classid 1:12 htb rate 2mbit\n"
		"qdisc add dev eth0 parent 1:22 handle 40: pfifo limit 4\n"
		"qdisc add dev eth0 parent 1:12 handle 20: pfifo limit 2\n"
		"qdisc add dev eth0 parent 1:30 handle 30: pfifo limit 3"},
	{"filters with chains, priorities and actions",
		"qdisc add dev eth0 root handle 1: htb default 1\n"
		"class add dev eth0 parent 1: classid 1:1 htb rate 100mbit\n"
		"class add dev eth0 parent 1: classid 1:2 htb rate 10mbit\n"
		"filter add dev eth0 parent 1: protocol ip prio 9 u32 match ip dport 80 0xffff action mirred egress redirect dev lo\n"
		"filter add dev eth0 parent 1: protocol ip prio 2 u32 match ip dport 81 0xffff action mirred egress mirror dev mq0 "
		"action mirred ingress redirect dev lo\n"
		"filter add dev eth0 parent 1: protocol all chain 7 prio 1 u32 match u32 0 0 flowid 1:2\n"
		"filter add dev eth0 parent 1: protocol ip prio 4 u32 match ip dst 198.18.0.7/32 flowid 1:1"},
	{"goto chain and marks",
		"qdisc add dev eth0 root handle 1: htb default 1\n"
		"class add dev eth0 parent 1: classid 1:1 htb rate 100mbit\n"
		"filter add dev eth0 parent 1: protocol ip prio 4 u32 match ip dst 198.18.0.7/32 action goto chain 3\n"
		"filter add dev eth0 parent 1: protocol ip chain 3 prio 1 u32 match u32 0 0 action skbedit mark 7 priority 1:1\n"
		"filter add dev eth0 parent 1: protocol ip prio 5 u32 match ip dst 198.18.0.8/32 action drop"},
	{"filters that are tried newest first",
		"qdisc add dev eth0 root handle 1: htb default 1\n"
		"class add dev eth0 parent 1: classid 1:1 htb rate 100mbit\n"
		"class add dev eth0 parent 1: classid 1:2 htb rate 100mbit\n"
		"filter add dev eth0 parent 1: protocol ip prio 3 handle 5 basic match 'cmp(u8 at 9 layer 1 eq 6)' classid 1:1\n"
		"filter add dev eth0 parent 1: protocol ip prio 3 handle 2 basic match 'cmp(u8 at 9 layer 1 eq 17)' classid 1:2\n"
		"filter add dev eth0 parent 1: protocol ip prio 3 handle 3 basic match 'cmp(u8 at 9 layer 1 lt 50)' classid 1:1"},
	{"overhead", "qdisc add dev eth0 root handle 1: stab overhead 14 linklayer ethernet tbf rate 1mbit burst 32kbit latency 400ms"},
	{"beside the clsact of others",
		"qdisc add dev eth0 root handle 5: tbf rate 10mbit burst 32kbit latency 400ms\n"
		"qdisc add dev eth0 clsact\n"
		"filter add dev eth0 egress pref 5 handle 0x1 bpf bytecode '1,6 0 0 4294967295' da\n"
		"filter add dev eth0 egress pref 9 protocol ip u32 match ip dst 198.18.0.9/32 action drop"},
	{"mq", "qdisc add dev mq0 root handle 8: mq"},
	{"mq with children",
		"qdisc add dev mq0 root handle 8: mq\n"
		"qdisc add dev mq0 parent 8:3 handle 83: tbf rate 10mbit burst 32kbit latency 400ms\n"
		"qdisc add dev mq0 parent 8:1 handle 81: pfifo limit 7\n"
		"qdisc add dev mq0 parent 8:4 handle 9: htb default 1\n"
		"class add dev mq0 parent 9: classid 9:1 htb rate 10mbit"},
	{"a shaper over many queues",
		"qdisc add dev mq0 root handle 8: htb default 1\nclass add dev mq0 parent 8: classid 8:1 htb rate 10mbit"},
};

static void one_tree(void **state)
{
	const char *dev = strncmp(trees[(size_t)*state].lines, "qdisc add dev mq0", 17) == 0 ? "mq0" : "eth0";
	int index = streq(dev, "mq0") ? many : ifindex;
	char other[64]; /* a skip does not come back to clean up */
	const char *name = trees[(size_t)*state].name, *lines = trees[(size_t)*state].lines;
	_cleanup_json_ json_t *tree = NULL, *again = NULL, *text = NULL;
	_cleanup_free_ char *before = NULL, *after = NULL, *snapshot = NULL, *what = NULL;
	struct err err = {0};
	unsigned int n_tx;
	int r;

	snprintf(other, sizeof(other), "qdisc replace dev %s root handle 77: pfifo limit 3", dev);
	if (!tc(lines))
		SKIP("this kernel cannot (%s), or this tc cannot", name);
	assert_int_equal(qdisc_tx_queues(nl, index, &n_tx, NULL), 0);
	before = tc_shows(dev);
	snapshot = node_snapshot();
	r = qdisc_capture(nl, index, &tree, &err);
	if (r < 0)
		fail_msg("%s: capture: %s", name, err.text);
	text = through_text(tree);
	what = qdisc_describe(text);
	r = qdisc_rehearse(text, n_tx, &err);
	assert_node_equals(snapshot); /* neither changes anything */
	if (r < 0)
		fail_msg("%s: rehearse: %s", name, err.text);

	/* something else stands there meanwhile */
	assert_true(tc(other));
	assert_true(node_differs(snapshot));
	r = qdisc_restore(nl, index, text, 0x770000, &err);
	if (r < 0)
		fail_msg("%s: restore: %s", name, err.text);
	after = tc_shows(dev);
	/* what stood there is destroyed a little later, and shares its actions till then */
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; !streq(before, after) && now_ns() < until; (void)poll(NULL, 0, 20)) {
		free(after);
		after = tc_shows(dev);
	}
	if (!streq(before, after)) {
		printf("%s: it was\n%s\nand is\n%s\n", name, before, after);
		fflush(stdout);
		fail_msg("%s: not as it was", name);
	}
	assert_node_equals(snapshot);
	assert_int_equal(qdisc_capture(nl, index, &again, NULL), 0);
	assert_true(qdisc_equal(tree, again));

	/* a second time changes nothing */
	r = qdisc_restore(nl, index, text, 0x770000, &err);
	if (r < 0)
		fail_msg("%s: restored once more: %s", name, err.text);
	assert_node_equals(snapshot);
	printf("    %s: back the same\n", what);
}

/* An interrupted restore is finished by the next one, from wherever it stopped. */
static void interrupted(void **state _unused_)
{
	static const json_int_t order[] = {0x10001, 0x10002, 0x10010, 0x10020}; /* parents first */
	_cleanup_json_ json_t *tree = NULL;
	_cleanup_free_ char *snapshot = NULL;
	struct err err = {0};
	size_t n_classes;

	assert_true(tc(trees[3].lines));
	snapshot = node_snapshot();
	assert_int_equal(qdisc_capture(nl, ifindex, &tree, NULL), 0);
	n_classes = json_array_size(json_object_get(tree, "classes"));
	assert_int_equal(n_classes, 4);
	for (size_t stop = 0; stop <= n_classes; stop++) {
		_cleanup_json_ json_t *half = json_deep_copy(tree);

		/* the first @stop classes, no filter: as if it had died there */
		for (size_t i = n_classes; i-- > 0;) {
			json_t *classes = json_object_get(half, "classes");
			json_int_t h = json_integer_value(json_object_get(json_array_get(classes, i), "handle"));

			for (size_t k = stop; k < n_classes; k++)
				if (h == order[k]) {
					json_array_remove(classes, i);
					break;
				}
		}
		json_array_clear(json_object_get(half, "filters"));
		if (stop < n_classes) /* nor what sits on the classes that are missing */
			for (size_t i = json_array_size(json_object_get(half, "qdiscs")); i-- > 0;)
				if (json_array_get(json_object_get(half, "qdiscs"), i) != qdisc_root(half))
					json_array_remove(json_object_get(half, "qdiscs"), i);
		assert_true(tc("qdisc replace dev eth0 root handle 77: pfifo limit 3"));
		if (qdisc_restore(nl, ifindex, half, 0x770000, &err) < 0)
			fail_msg("half of it: %s", err.text);
		assert_true(node_differs(snapshot));
		if (qdisc_restore(nl, ifindex, tree, 0x770000, &err) < 0)
			fail_msg("the rest of it: %s", err.text);
		assert_node_equals(snapshot);
	}
}

/* The default root is put back by deleting ours, and only ours. */
static void default_root(void **state _unused_)
{
	_cleanup_json_ json_t *tree = NULL;
	_cleanup_free_ char *snapshot = node_snapshot();
	struct err err = {0};

	assert_int_equal(qdisc_capture(nl, ifindex, &tree, NULL), 0);
	assert_null(qdisc_root(tree));
	assert_int_equal(qdisc_rehearse(tree, 1, &err), 0);
	assert_true(tc("qdisc replace dev eth0 root handle 77: pfifo limit 3"));
	/* another handle than that of what stands there: the kernel refuses */
	assert_true(qdisc_restore(nl, ifindex, tree, 0x780000, &err) < 0);
	assert_int_equal(qdisc_restore(nl, ifindex, tree, 0x770000, &err), 0);
	assert_node_equals(snapshot);
}

/* What cannot be put back exactly is refused beforehand, with the reason. */
static void refused(void **state _unused_)
{
	static const struct {
		const char *lines, *reason;
	} cases[] = {
		{"qdisc add dev eth0 root handle 1: htb\n"
		 "filter add dev eth0 parent 1: protocol all prio 1 handle 0x1 bpf bytecode '1,6 0 0 0' classid 1:1",
			"cannot be put back"},
		{"qdisc add dev eth0 root handle 1: htb\n"
		 "filter add dev eth0 parent 1: protocol ip prio 1 u32 match u32 0 0 action pedit munge ip ttl set 9",
			"actions"},
		/* one action of two filters */
		{"qdisc add dev eth0 root handle 1: htb\n"
		 "filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dport 80 0xffff action mirred egress redirect dev lo index 9\n"
		 "filter add dev eth0 parent 1: protocol ip prio 2 u32 match ip dport 81 0xffff action mirred egress redirect dev lo index 9",
			"actions"},
		{"qdisc add dev eth0 root handle 1: stab overhead 14 linklayer atm tbf rate 1mbit burst 32kbit latency 400ms",
			"size table"},
		{"qdisc add dev eth0 root handle 1: htb\n"
		 "filter add dev eth0 parent 1: protocol ip prio 1 flower dst_ip 198.18.0.0/24 classid 1:1\n"
		 "filter add dev eth0 parent 1: protocol ip prio 1 flower dst_ip 198.18.0.1/32 classid 1:1",
			"order in which they are tried"},
		{"qdisc add dev eth0 root handle 1: htb\n"
		 "chain add dev eth0 parent 1: protocol ip chain 4 flower dst_ip 0.0.0.0/8",
			"template"},
		{"qdisc add dev mq0 root handle 1: mq\nqdisc add dev mq0 parent 1:1 handle 9: netem delay 1ms 1ms", "distribution"},
		{"qdisc add dev eth0 root handle 4: netem delay 50ms 10ms distribution normal", "distribution"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ json_t *tree = NULL;
		struct err err = {0};

		(void)clean(NULL);
		if (!tc(cases[i].lines)) {
			printf("SKIP: %s: not in this kernel\n", cases[i].reason);
			continue;
		}
		if (qdisc_capture(nl, strstr(cases[i].lines, "mq0") ? many : ifindex, &tree, &err) != -EOPNOTSUPP)
			fail_msg("not refused: %s", cases[i].lines);
		if (!strstr(err.text, cases[i].reason))
			fail_msg("%s: %s", cases[i].lines, err.text);
	}
}

/*
 * The order of filters is compared too: the same ones in another order are another tree. And the default root follows
 * net.core.default_qdisc: what it has become meanwhile is told apart from what it was.
 */
static void differences_are_seen(void **state _unused_)
{
	_cleanup_json_ json_t *tree = NULL, *turned = NULL;
	json_t *filters, *first;

	if (!tc("qdisc add dev eth0 root handle 1: htb\n"
		"filter add dev eth0 parent 1: protocol ip prio 3 handle 5 basic match 'cmp(u8 at 9 layer 1 eq 6)' classid 1:1\n"
		"filter add dev eth0 parent 1: protocol ip prio 3 handle 2 basic match 'cmp(u8 at 9 layer 1 eq 17)' classid 1:2"))
		SKIP("this kernel has no basic filters (CONFIG_NET_CLS_BASIC)");
	assert_int_equal(qdisc_capture(nl, ifindex, &tree, NULL), 0);
	turned = json_deep_copy(tree);
	filters = json_object_get(turned, "filters");
	assert_int_equal(json_array_size(filters), 2);
	first = json_incref(json_array_get(filters, 0));
	json_array_remove(filters, 0);
	json_array_append_new(filters, first);
	assert_false(qdisc_equal(tree, turned));
	assert_true(qdisc_equal(tree, tree));
}

static void default_changed(void **state _unused_)
{
	_cleanup_json_ json_t *tree = NULL, *now = NULL, *back = NULL;
	char was[64] = "";
	struct err err = {0};

	if (default_fd < 0)
		SKIP("net.core.default_qdisc is the whole host's: it is changed in the microVM only");
	assert_true(pread(default_fd, was, sizeof(was) - 1, 0) > 0);
	/* a device that is not without a queue by default, as veth, bridge and dummy are */
	sh("ip -n node link add ifb9 mtu 1200 type ifb && ip -n node link set ifb9 up");
	{
		int index = nlc_ifindex(nl, "ifb9", NULL);

		assert_int_equal(qdisc_capture(nl, index, &tree, &err), 0);
		assert_null(qdisc_root(tree));
		assert_true(tc("qdisc replace dev ifb9 root handle 77: pfifo limit 3"));
		assert_int_equal(pwrite(default_fd, "sfq", 3, 0), 3);
		assert_int_equal(qdisc_restore(nl, index, tree, 0x770000, &err), 0);
		assert_int_equal(qdisc_capture(nl, index, &now, &err), 0);
		{
			_cleanup_free_ char *a = qdisc_describe(tree), *b = qdisc_describe(now);

			printf("    %s became %s\n", a, b);
		}
		assert_false(qdisc_equal(tree, now)); /* not silently */
		/* with the default as it was, it comes back */
		assert_true(pwrite(default_fd, was, strlen(was), 0) > 0);
		assert_true(tc("qdisc replace dev ifb9 root handle 77: pfifo limit 3"));
		assert_int_equal(qdisc_restore(nl, index, tree, 0x770000, &err), 0);
		assert_int_equal(qdisc_capture(nl, index, &back, &err), 0);
		assert_true(qdisc_equal(tree, back));
	}
	sh("ip -n node link del ifb9");
}

/* red needs a table that it does not dump: the rehearsal finds it out, before anything is changed. */
static void rehearsal_finds_out(void **state _unused_)
{
	_cleanup_json_ json_t *tree = NULL;
	_cleanup_free_ char *snapshot = NULL;
	struct err err = {0};

	if (!tc("qdisc add dev eth0 root handle 4: red limit 400000 min 30000 max 90000 avpkt 1000 burst 55 ecn bandwidth 10mbit"))
		SKIP("this kernel has no red (CONFIG_NET_SCH_RED)");
	snapshot = node_snapshot();
	assert_int_equal(qdisc_capture(nl, ifindex, &tree, &err), 0);
	assert_int_equal(qdisc_rehearse(tree, 1, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "red 4: could not be put back"));
	assert_node_equals(snapshot);
}

/* clsact lives beside any root and is none of the tree's business. */
static void clsact_apart(void **state _unused_)
{
	_cleanup_json_ json_t *without = NULL, *with = NULL;

	assert_int_equal(qdisc_capture(nl, ifindex, &without, NULL), 0);
	assert_true(tc("qdisc add dev eth0 clsact\n"
		       "filter add dev eth0 ingress pref 5 handle 0x1 bpf bytecode '1,6 0 0 4294967295' da"));
	assert_int_equal(qdisc_capture(nl, ifindex, &with, NULL), 0);
	assert_true(qdisc_equal(without, with));
	{
		_cleanup_free_ char *snapshot = node_snapshot();

		assert_non_null(strstr(snapshot, "node: qdisc eth0 hook clsact"));
		assert_non_null(strstr(snapshot, "node: qdisc eth0 filter ingress bpf pref 5"));
	}
}

/* A record that was damaged does no harm and is reported. */
static void damaged(void **state _unused_)
{
	static const char *const records[] = {
		"{\"qdiscs\":[{\"kind\":\"pfifo\",\"handle\":524288,\"parent\":4294967295,\"options\":\"zz\"}],"
		"\"classes\":[],\"filters\":[]}",
		"{\"qdiscs\":[{\"kind\":\"htb\",\"handle\":65536,\"parent\":4294967295,\"options\":\"00\"}],"
		"\"classes\":[],\"filters\":[]}",
	};
	_cleanup_free_ char *snapshot = node_snapshot();

	for (size_t i = 0; i < ARRAY_SIZE(records); i++) {
		_cleanup_json_ json_t *tree = json_loads(records[i], 0, NULL);
		struct err err = {0};

		assert_non_null(tree);
		assert_true(qdisc_restore(nl, ifindex, tree, 0, &err) < 0);
		assert_true(err.text[0]);
		assert_node_equals(snapshot);
	}
}

#define T(f) cmocka_unit_test_teardown(f, clean)

int main(void)
{
	const struct CMUnitTest others[] = {
		T(interrupted), T(default_root), T(refused), T(rehearsal_finds_out), T(clsact_apart), T(damaged),
		T(differences_are_seen), T(default_changed),
	};
	struct CMUnitTest tests[ARRAY_SIZE(trees) + ARRAY_SIZE(others)];
	size_t n = 0;

	if (getenv("MUSTER_VM"))
		default_fd = open("/proc/sys/net/core/default_qdisc", O_RDWR | O_CLOEXEC);
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	for (size_t i = 0; i < ARRAY_SIZE(trees); i++)
		tests[n++] = (struct CMUnitTest){
			.name = trees[i].name, .test_func = one_tree, .teardown_func = clean, .initial_state = (void *)i};
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		tests[n++] = others[i];
	return cmocka_run_group_tests(tests, make, drop);
}
