/* SPDX-License-Identifier: GPL-2.0-only */
/* fault.netem against a kernel that has it: what is asked for is what happens, it is measured, and what was there comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "bridge_site.h"
#include "engine/change.h"
#include "engine/site.h"
#include "inject/netem.h"

static struct bridge_site site;
static char *before;

struct fault {
	const struct change_ops *ops;
	json_t *args, *prior;
};

static void fault_drop(struct fault *f)
{
	json_decref(f->args);
	json_decref(f->prior);
}
#define _cleanup_fault_ _cleanup_(fault_drop)

#define MUST(call)                                                                                 \
	do {                                                                                       \
		struct err must_err = {0}, *e_ = &must_err;                                        \
		int must_r = (call);                                                               \
		if (must_r != 0)                                                                   \
			fail_msg("%s: %d: %s", #call, must_r, e_->text);                           \
	} while (0)

/* @args as JSON text, without the node */
static int fault_make(struct fault *f, const char *args, struct err *err)
{
	_cleanup_json_ json_t *given = json_loads(args, 0, NULL);
	int r;

	*err = (struct err){0};
	assert_non_null(given);
	json_object_set_new(given, "node", json_string("node"));
	f->ops = change_find("fault.netem");
	f->args = f->prior = NULL;
	r = param_check(f->ops->params, f->ops->name, given, NULL, &f->args, err);
	return r == 0 ? f->ops->resolve(NULL, f->args, err) : r;
}

static int fault_capture(struct fault *f, const char *args, struct err *err)
{
	json_t *prior = NULL;
	int r = fault_make(f, args, err);

	assert_int_equal(r, 0);
	r = f->ops->capture(site.node, f->args, &prior, err);
	if (r == 0) {
		f->prior = through_text(prior);
		json_decref(prior);
	}
	return r;
}

static void must_capture(struct fault *f, const char *args)
{
	struct err err;

	if (fault_capture(f, args, &err) != 0)
		fail_msg("capture: %s", err.text);
}

static void must_apply(const struct fault *f)
{
	MUST(f->ops->apply(site.node, f->args, f->prior, e_));
}

static void must_undo(const struct fault *f)
{
	_cleanup_json_ json_t *j = node_to_json(site.node);
	_cleanup_node_ struct node *n = NULL;

	MUST(node_from_json(j, &n, e_));
	MUST(f->ops->undo(n, f->args, f->prior, e_));
	MUST(f->ops->verify(n, f->args, f->prior, e_));
}

static json_t *must_measure(const struct fault *f)
{
	json_t *evidence = NULL;

	MUST(f->ops->measure(site.node, f->args, f->prior, &evidence, e_));
	printf("    %s\n", json_string_value(json_object_get(evidence, "text")));
	return evidence;
}

/* Small datagrams from the node to the peer, to a port where nobody listens */
static void send_datagrams(int n)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
	int fd = node_socket(site.node, AF_INET, SOCK_DGRAM, 0), size = 8 << 20;

	assert_true(fd >= 0);
	inet_pton(AF_INET, "198.18.0.1", &to.sin_addr);
	/* what netem holds back counts against the sender's buffer */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	for (int i = 0; i < n; i++)
		/* "refused" by the port: no matter */
		if (sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != ECONNREFUSED)
			fail_msg("send: %s", strerror(errno));
	close(fd);
}

/* One site for all, because making it takes seconds on an emulated machine. Each test begins with the site as it was. */
static int make(void **state _unused_)
{
	bridge_site_make(&site);
	before = site_snapshot(&site);
	return 0;
}

static int drop(void **state _unused_)
{
	bridge_site_drop(&site);
	free(TAKE_PTR(before));
	return 0;
}

static int set_up(void **state _unused_)
{
	assert_site_equals(&site, before);
	return 0;
}

static int tear_down(void **state _unused_)
{
	if (site_differs(&site, before)) /* a test that failed, or ends in what it was to leave alone */
		sh("ip netns exec node sh -c 'tc qdisc del dev eth0 root; tc qdisc del dev eth0 clsact; tc qdisc del dev lo root' "
		   "2>/dev/null; true");
	return 0;
}

static bool have_netem(void)
{
	_cleanup_fault_ struct fault f = {0};
	struct err err;
	int r = fault_make(&f, "{\"delay\": \"10ms\"}", &err);

	assert_int_equal(r, 0);
	r = f.ops->supported(site.node, f.args, &err);
	if (r == 0)
		return true;
	/* a kernel without it is told apart from a failure, with the way out */
	assert_int_equal(r, -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "netem on node/eth0: not in this kernel (CONFIG_NET_SCH_NETEM)"));
	assert_non_null(strstr(err.hint, "--lab vm"));
	assert_site_equals(&site, before);
	return false;
}

#define NEED_NETEM()                                                                               \
	do {                                                                                       \
		if (!have_netem())                                                                 \
			SKIP("this kernel has no netem (CONFIG_NET_SCH_NETEM)");                   \
	} while (0)

static double rtt_ms(void)
{
	struct echo_result e;

	assert_int_equal(echo_run(site.node, "eth0", "198.18.0.1", 15, 10 * NSEC_PER_MSEC, NSEC_PER_SEC, &e, NULL), 0);
	assert_true(e.received > 0);
	return (double)e.rtt_median / NSEC_PER_MSEC;
}

static double rtt_to(const char *addr)
{
	struct echo_result e;

	assert_int_equal(echo_run(site.node, "eth0", addr, 15, 10 * NSEC_PER_MSEC, NSEC_PER_SEC, &e, NULL), 0);
	assert_true(e.received > 0);
	return (double)e.rtt_median / NSEC_PER_MSEC;
}

/* What a command says in the node */
static char *node_says(const char *command)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	char *text = NULL;
	FILE *p;

	assert_int_equal(node_enter(site.node, &v, NULL), 0);
	p = popen(command, "r");
	assert_non_null(p);
	assert_int_equal(fd_read_all(fileno(p), 1 << 20, &text, NULL), 0);
	assert_int_equal(pclose(p), 0);
	return text;
}

static char *node_qdiscs(void)
{
	return node_says("tc qdisc show dev eth0; tc class show dev eth0");
}

/* What it was before the fault, as a machine would have told it that had other things to do just then */
static void busy_before(struct fault *f, const char *what)
{
	json_object_set_new(json_object_get(f->prior, "echo"), what, json_integer(50 * NSEC_PER_MSEC));
}

static void delay(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_json_ json_t *e = NULL, *again = NULL, *never = NULL;
	double rtt0, rtt1, rtt2;

	NEED_NETEM();
	rtt0 = rtt_ms();
	must_capture(&f, "{\"delay\": \"60ms\"}");
	assert_site_equals(&site, before);
	assert_non_null(json_object_get(json_object_get(f.prior, "echo"), "rtt_median_ns"));
	must_apply(&f);
	assert_int_equal(f.ops->verify(site.node, f.args, f.prior, NULL), 1);
	rtt1 = rtt_ms();
	printf("    round trip %.2f ms -> %.2f ms\n", rtt0, rtt1);
	assert_true(rtt1 - rtt0 > 55);
	e = must_measure(&f);
	assert_true(json_is_true(json_object_get(e, "proved")));
	busy_before(&f, "rtt_median_ns");
	busy_before(&f, "rtt_p90_ns");
	again = must_measure(&f);
	assert_true(json_is_true(json_object_get(again, "proved")));
	busy_before(&f, "rtt_min_ns"); /* then nothing was added to any */
	never = must_measure(&f);
	assert_true(json_is_false(json_object_get(never, "proved")));
	must_undo(&f);
	assert_site_equals(&site, before);
	rtt2 = rtt_ms();
	assert_true(rtt2 < 50);
	must_undo(&f);
	assert_site_equals(&site, before);
}

static void delay_with_jitter(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_json_ json_t *e = NULL;

	NEED_NETEM();
	(void)rtt_ms(); /* or what is sent waits for the neighbour's address */
	must_capture(&f, "{\"delay\": \"60ms\", \"jitter\": \"20ms\", \"correlation\": \"25%\", \"dev\": \"eth0\"}");
	must_apply(&f);
	send_datagrams(50);
	e = must_measure(&f);
	assert_true(json_is_true(json_object_get(e, "proved")));
	must_undo(&f);
	assert_site_equals(&site, before);
}

static void loss(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_json_ json_t *e = NULL;
	double share;

	NEED_NETEM();
	(void)rtt_ms();
	must_capture(&f, "{\"loss\": \"20%\"}");
	must_apply(&f);
	send_datagrams(2000);
	e = must_measure(&f);
	share = json_number_value(json_object_get(json_object_get(e, "measured"), "loss"));
	assert_true(share > 0.15 && share < 0.25);
	assert_true(json_is_true(json_object_get(e, "proved")));
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* Nothing passed: false. Hardly anything: no data. A loss too rare for what passed: no data. */
static void toothless(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0}, g = {0};
	_cleanup_json_ json_t *e = NULL, *e2 = NULL, *e3 = NULL;
	struct echo_result echo;

	NEED_NETEM();
	must_capture(&f, "{\"delay\": \"60ms\", \"dev\": \"lo\"}");
	must_apply(&f);
	e = must_measure(&f);
	assert_true(json_is_false(json_object_get(e, "proved")));
	assert_non_null(strstr(json_string_value(json_object_get(e, "text")), "no packet passed"));
	assert_int_equal(echo_run(site.node, "lo", "127.0.0.1", 2, 0, NSEC_PER_SEC, &echo, NULL), 0);
	e2 = must_measure(&f);
	assert_true(json_is_null(json_object_get(e2, "proved")));
	must_undo(&f);
	must_capture(&g, "{\"loss\": \"0.01%\"}");
	must_apply(&g);
	send_datagrams(100);
	e3 = must_measure(&g);
	assert_true(json_is_null(json_object_get(e3, "proved")));
	must_undo(&g);
	assert_site_equals(&site, before);
}

/* Delay is not loss: the default limit holds what arrives meanwhile. */
static void limit_holds(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0}, g = {0};
	_cleanup_json_ json_t *e = NULL, *e2 = NULL;

	NEED_NETEM();
	(void)rtt_ms();
	must_capture(&f, "{\"delay\": \"200ms\"}");
	must_apply(&f);
	send_datagrams(4000);
	e = must_measure(&f);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(e, "measured"), "dropped")), 0);
	assert_true(json_integer_value(json_object_get(json_object_get(e, "measured"), "packets")) >= 4000);
	must_undo(&f);
	/* and one that is too small on purpose is told of */
	must_capture(&g, "{\"delay\": \"200ms\", \"limit\": 100}");
	must_apply(&g);
	send_datagrams(1000);
	e2 = must_measure(&g);
	assert_true(json_integer_value(json_object_get(json_object_get(e2, "measured"), "dropped")) > 100);
	assert_non_null(strstr(json_string_value(json_object_get(e2, "text")), "nobody asked for"));
	must_undo(&g);
	assert_site_equals(&site, before);
}

/* Whatever stood there comes back, byte for byte. */
static void prior_qdiscs(void **state _unused_)
{
	static const char *const setups[] = {
		"tc qdisc add dev eth0 root handle 5: tbf rate 100mbit burst 64kbit latency 100ms",
		"tc qdisc add dev eth0 root fq_codel limit 2000",
		"tc qdisc add dev eth0 root handle 9: fq maxrate 500mbit",
		"tc qdisc add dev eth0 root sfq perturb 10",
		"tc qdisc add dev eth0 root handle 1: htb default 20 && "
		"tc class add dev eth0 parent 1: classid 1:1 htb rate 900mbit && "
		"tc class add dev eth0 parent 1:1 classid 1:20 htb rate 800mbit && "
		"tc qdisc add dev eth0 parent 1:20 handle 20: sfq && "
		"tc filter add dev eth0 parent 1: protocol ip prio 3 u32 match ip dst 198.18.0.1/32 flowid 1:20",
		"tc qdisc add dev eth0 root handle 4: netem delay 1ms loss gemodel 1% 30% rate 100mbit",
		("tc qdisc add dev eth0 clsact && "
		 "tc filter add dev eth0 egress pref 5 handle 0x1 bpf bytecode '1,6 0 0 4294967295' da"),
	};

	NEED_NETEM();
	for (size_t i = 0; i < ARRAY_SIZE(setups); i++) {
		_cleanup_fault_ struct fault f = {0}, g = {0};
		_cleanup_free_ char *with = NULL, *qdiscs = NULL, *now = NULL;

		sh("ip netns exec node sh -c 'tc qdisc del dev eth0 root; tc qdisc del dev eth0 clsact' 2>/dev/null; true");
		sh("ip netns exec node sh -c \"%s\"", setups[i]);
		with = site_snapshot(&site);
		qdiscs = node_qdiscs();
		must_capture(&f, "{\"delay\": \"5ms\", \"loss\": \"1%\", \"how\": \"root\"}");
		assert_site_equals(&site, with);
		must_apply(&f);
		assert_true(site_differs(&site, with));
		must_undo(&f);
		assert_site_equals(&site, with);
		must_undo(&f);
		assert_site_equals(&site, with);
		/* and the way that leaves it where it is */
		must_capture(&g, "{\"delay\": \"5ms\", \"to\": \"198.18.0.1\"}");
		must_apply(&g);
		now = node_qdiscs();
		assert_string_equal(qdiscs, now);
		must_undo(&g);
		assert_site_equals(&site, with);
	}
}

/* Somebody else's qdisc is not touched, whether it replaced ours, changed it, or lives below it. */
static void conflicts(void **state _unused_)
{
	static const char *const meddling[] = {
		"tc qdisc replace dev eth0 root handle 99: pfifo limit 5",
		"tc qdisc change dev eth0 root handle 6d75: netem delay 1ms",
		"tc qdisc add dev eth0 parent 6d75:1 handle 98: pfifo limit 7",
	};

	NEED_NETEM();
	for (size_t i = 0; i < ARRAY_SIZE(meddling); i++) {
		_cleanup_fault_ struct fault f = {0};
		_cleanup_free_ char *with = NULL;
		struct err err = {0};

		must_capture(&f, "{\"delay\": \"60ms\", \"how\": \"root\"}");
		must_apply(&f);
		sh("ip netns exec node %s", meddling[i]);
		with = site_snapshot(&site);
		assert_int_equal(f.ops->undo(site.node, f.args, f.prior, &err), CHANGE_CONFLICT);
		assert_non_null(strstr(err.text, "somebody else"));
		assert_site_equals(&site, with);
		assert_int_equal(f.ops->verify(site.node, f.args, f.prior, &err), 1);
		if (i < 2) {
			_cleanup_json_ json_t *e = must_measure(&f);

			assert_true(json_is_false(json_object_get(e, "proved")));
		}
		sh("ip netns exec node tc qdisc del dev eth0 root");
		assert_site_equals(&site, before);
	}
}

/* The same beside the device: what is ours is known by kind, handle, options and rules. */
static void conflicts_beside(void **state _unused_)
{
	static const struct {
		const char *meddling;
		bool bites;
	} cases[] = {
		{"tc qdisc replace dev mu%s-in root handle 99: pfifo limit 5", false},
		{"tc qdisc change dev mu%s-in root handle 6d75: netem delay 1ms", false},
		{"tc qdisc add dev mu%s-in parent 6d75:1 handle 98: pfifo limit 7", true},
		{"nft add rule netdev muster-%s if%d ip daddr 198.18.0.9 drop", false},
	};

	NEED_NETEM();
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_fault_ struct fault f = {0};
		_cleanup_free_ char *with = NULL, *command = NULL, *rules = NULL, *rules2 = NULL;
		const char *token;
		struct err err = {0};

		must_capture(&f, "{\"delay\": \"60ms\", \"to\": \"198.18.0.1\"}");
		must_apply(&f);
		token = json_string_value(json_object_get(f.prior, "token"));
		if (strstr(cases[i].meddling, "%d"))
			command = strf("nft add rule netdev muster-%s if%d ip daddr 198.18.0.9 drop", token,
				(int)json_integer_value(json_object_get(f.prior, "ifindex")));
		else
			command = strf("%.*s%s%s", (int)(strstr(cases[i].meddling, "%s") - cases[i].meddling), cases[i].meddling,
				token, strstr(cases[i].meddling, "%s") + 2);
		sh("ip netns exec node %s", command);
		with = site_snapshot(&site);
		rules = node_says("nft -s list ruleset");
		assert_int_equal(f.ops->undo(site.node, f.args, f.prior, &err), CHANGE_CONFLICT);
		assert_non_null(strstr(err.text, "somebody else"));
		assert_site_equals(&site, with);
		rules2 = node_says("nft -s list ruleset");
		assert_string_equal(rules, rules2);
		assert_int_equal(f.ops->verify(site.node, f.args, f.prior, &err), 1);
		if (!cases[i].bites) {
			_cleanup_json_ json_t *e = must_measure(&f);

			assert_true(json_is_false(json_object_get(e, "proved")));
		}
		sh("ip netns exec node sh -c 'nft delete table netdev muster-%s; ip link del mu%s-out'", token, token);
		assert_site_equals(&site, before);
	}
}

/* What others do to the device meanwhile is theirs, and does not stand in the way; nor does a firewall that starts again. */
static void left_to_others(void **state _unused_)
{
	static const char *const meddling[] = {
		"tc qdisc replace dev eth0 root handle 99: pfifo limit 500",
		"nft flush ruleset",
		"ip link del eth0",
	};

	NEED_NETEM();
	for (size_t i = 0; i < ARRAY_SIZE(meddling); i++) {
		_cleanup_fault_ struct fault f = {0};
		_cleanup_free_ char *with = NULL;
		_cleanup_json_ json_t *e = NULL;

		must_capture(&f, "{\"delay\": \"30ms\", \"to\": [\"198.18.0.1\"]}");
		sh("ip netns exec node tc qdisc replace dev eth0 root handle 98: pfifo limit 400");
		must_apply(&f);
		sh("ip netns exec node %s", meddling[i]);
		with = node_says("ip -o link show dev eth0 2>/dev/null; tc qdisc show dev eth0 2>/dev/null; true");
		if (i > 0) {
			e = must_measure(&f);
			assert_true(json_is_false(json_object_get(e, "proved")));
		}
		must_undo(&f);
		must_undo(&f);
		{
			_cleanup_free_ char *now = node_says("ip -o link show dev eth0 2>/dev/null; tc qdisc show dev eth0 2>/dev/null; true");
			_cleanup_free_ char *left = node_says("ip -o link; nft list ruleset");

			assert_string_equal(with, now);
			assert_null(strstr(left, "mu"));
		}
	}
	bridge_site_drop(&site); /* its link is gone */
	free(TAKE_PTR(before));
	bridge_site_make(&site);
	before = site_snapshot(&site);
}

/* Only what is sent to those that are named; by either version of IP, by address and by net. */
static void confined(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_json_ json_t *e = NULL;
	double a, b, a6, b6;

	NEED_NETEM();
	sh("ip -n peer addr add 198.18.0.3/24 dev eth0; ip -n peer addr add 2001:db8::3/64 dev eth0 nodad");
	(void)rtt_to("198.18.0.3"); /* so that it is known */
	must_capture(&f, "{\"delay\": \"60ms\", \"to\": [\"198.18.0.1\", \"2001:db8::/127\"]}");
	assert_non_null(json_object_get(json_object_get(f.prior, "bystander"), "rtt_median_ns"));
	must_apply(&f);
	a = rtt_to("198.18.0.1");
	b = rtt_to("198.18.0.3");
	a6 = rtt_to("2001:db8::1");
	b6 = rtt_to("2001:db8::3");
	printf("    IPv4 %.2f ms, beside it %.2f ms; IPv6 %.2f ms, beside it %.2f ms\n", a, b, a6, b6);
	assert_true(a > 55 && a6 > 55 && b < 50 && b6 < 50);
	e = must_measure(&f);
	assert_true(json_is_true(json_object_get(e, "proved")));
	assert_non_null(json_object_get(json_object_get(e, "measured"), "bystander_delay_ns"));
	must_undo(&f);
	sh("ip -n peer addr del 198.18.0.3/24 dev eth0; ip -n peer addr del 2001:db8::3/64 dev eth0");
	assert_site_equals(&site, before);
}

/* Two at once on one device, lifted in either order; a third that overlaps is refused. */
static void two_at_once(void **state _unused_)
{
	NEED_NETEM();
	sh("ip -n peer addr add 198.18.0.3/24 dev eth0");
	for (int order = 0; order < 2; order++) {
		_cleanup_fault_ struct fault first = {0}, second = {0}, third = {0}, fourth = {0};
		struct fault *f[] = {&first, &second};
		_cleanup_json_ json_t *e0 = NULL, *e1 = NULL;
		struct err err;
		double a, b;

		must_capture(f[0], "{\"delay\": \"60ms\", \"to\": \"198.18.0.1\"}");
		must_apply(f[0]);
		must_capture(f[1], "{\"delay\": \"150ms\", \"to\": \"198.18.0.2/31\"}");
		must_apply(f[1]);
		assert_int_equal(fault_capture(&third, "{\"delay\": \"6ms\", \"to\": \"198.18.0.0/30\"}", &err), -EBUSY);
		assert_non_null(strstr(err.hint, "muster restore"));
		assert_int_equal(fault_capture(&fourth, "{\"delay\": \"6ms\"}", &err), -EBUSY);
		a = rtt_to("198.18.0.1");
		b = rtt_to("198.18.0.3");
		printf("    %.1f ms and %.1f ms\n", a, b);
		assert_true(a > 55 && a < 130 && b > 145);
		e0 = must_measure(f[0]);
		assert_true(json_is_true(json_object_get(e0, "proved")));
		e1 = must_measure(f[1]);
		assert_true(json_is_true(json_object_get(e1, "proved")));
		must_undo(f[order]);
		a = rtt_to(order ? "198.18.0.1" : "198.18.0.3");
		assert_true(order ? a > 55 && a < 130 : a > 145);
		assert_true(rtt_to(order ? "198.18.0.3" : "198.18.0.1") < 50);
		must_undo(f[!order]);
	}
	sh("ip -n peer addr del 198.18.0.3/24 dev eth0");
	assert_site_equals(&site, before);
}

/* Names become addresses while the scenario is checked; no kernel is asked. */
static void names_resolved(void **state _unused_)
{
	static const char text[] =
		"{\"name\": \"s\", \"switches\": [\"lan\"], \"nodes\": ["
		" {\"name\": \"node\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.2/24\"]}]},"
		" {\"name\": \"bare\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": []}]},"
		" {\"name\": \"rs1\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.1/24\", "
		"\"2001:db8::1/64\"]}]}]}";
	static const struct {
		const char *args, *want, *reason; /* one of the two */
	} cases[] = {
		{"\"to\": \"rs1\"", "[\"198.18.0.1\",\"2001:db8::1\"]", NULL},
		{"\"to\": [\"rs1\", \"10.1.2.3/8\", \"::/0\"]", "[\"198.18.0.1\",\"2001:db8::1\",\"10.0.0.0/8\",\"::/0\"]", NULL},
		{"\"to\": \"rs1\", \"peer\": \"198.18.0.1\"", "[\"198.18.0.1\",\"2001:db8::1\"]", NULL},
		{"\"to\": \"rs2\"", NULL, "no node of the site, no address and no net"},
		{"\"to\": \"198.18.0.1/33\"", NULL, "no node of the site"},
		{"\"to\": \"node\"", NULL, "to itself"},
		{"\"to\": \"bare\"", NULL, "no address"},
		{"\"to\": []", NULL, "names nobody"},
		{"\"to\": \"rs1\", \"how\": \"root\"", NULL, "to everybody"},
		{"\"to\": \"rs1\", \"peer\": \"198.18.0.9\"", NULL, "not among those"},
	};
	const struct change_ops *ops = change_find("fault.netem");
	_cleanup_json_ json_t *j = json_loads(text, 0, NULL);
	_cleanup_site_ struct site *named = NULL;

	assert_int_equal(site_from_json(j, &named, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *given = strf("{\"node\": \"node\", \"delay\": \"5ms\", %s}", cases[i].args), *nets = NULL;
		_cleanup_json_ json_t *args = json_loads(given, 0, NULL), *checked = NULL;
		struct err err = {0};
		int r = param_check(ops->params, ops->name, args, NULL, &checked, &err);

		if (r == 0)
			r = ops->resolve(named, checked, &err);
		if (cases[i].reason) {
			assert_int_equal(r, -EINVAL);
			if (!strstr(err.text, cases[i].reason))
				fail_msg("%s: %s", given, err.text);
			continue;
		}
		if (r < 0)
			fail_msg("%s: %s", given, err.text);
		nets = json_dumps(json_object_get(checked, "nets"), JSON_COMPACT);
		assert_string_equal(nets, cases[i].want);
	}
}

static void refused(void **state _unused_)
{
	static const struct {
		const char *args, *reason;
	} bad[] = {
		{"{}", "nothing is asked for"},
		{"{\"jitter\": \"5ms\"}", "no delay"},
		{"{\"delay\": \"5ms\", \"correlation\": \"10%\"}", "no jitter"},
		{"{\"loss_correlation\": \"10%\", \"delay\": \"1ms\"}", "without loss"},
		{"{\"reorder\": \"10%\"}", "no delay"},
		{"{\"delay\": \"-5ms\"}", "delay"},
		{"{\"loss\": \"101%\"}", "loss"},
		{"{\"dely\": \"5ms\"}", "delay"},
		{"{\"delay\": \"5ms\", \"to\": \"nobody\"}", "no node of the site"},
	};
	_cleanup_fault_ struct fault first = {0}, second = {0}, fourth = {0};
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_fault_ struct fault f = {0};

		int r = fault_make(&f, bad[i].args, &err);

		assert_true(r == -EINVAL || r == -ERANGE);
		if (!strstr(err.text, bad[i].reason) && !strstr(err.hint, bad[i].reason))
			fail_msg("%s: %s (%s)", bad[i].args, err.text, err.hint);
	}
	{ /* a skip does not come back to clean up, so this ends before it */
		_cleanup_fault_ struct fault third = {0};

		assert_int_equal(fault_capture(&third, "{\"delay\": \"5ms\", \"dev\": \"eth7\"}", &err), -ENODEV);
		assert_non_null(strstr(err.text, "eth7"));
	}
	NEED_NETEM();
	must_capture(&first, "{\"delay\": \"5ms\"}");
	must_apply(&first);
	assert_int_equal(fault_capture(&second, "{\"delay\": \"6ms\"}", &err), -EBUSY);
	assert_non_null(strstr(err.hint, "muster restore"));
	must_undo(&first);
	/* a qdisc that would not come back the same */
	sh("ip netns exec node tc qdisc add dev eth0 root handle 4: netem delay 5ms 1ms");
	assert_int_equal(fault_capture(&fourth, "{\"delay\": \"6ms\", \"how\": \"root\"}", &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "distribution"));
}

/* Plain words make the same, and take ours away. */
static void plain_commands(void **state _unused_)
{
	static const char *const hows[] = {"\"how\": \"root\"", "\"how\": \"detour\"",
		"\"to\": [\"198.18.0.1\", \"198.18.4.0/22\", \"2001:db8::1\", \"2001:db8:1::/49\"]"};

	NEED_NETEM();
	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0};
		_cleanup_fault_ struct fault f = {0};
		_cleanup_free_ char *by_us = NULL, *by_tc = NULL, *rules1 = NULL, *rules2 = NULL, *args = NULL;
		static const char rules[] = "nft -s list ruleset; ip -o link | sed 's/^[0-9]*: *//; s/ether .*//'; "
					    "for i in $(ls /sys/class/net | grep '^mu.*-'); do cat /sys/class/net/$i/ifalias; done; true";

		args = strf("{\"delay\": \"40ms\", \"jitter\": \"4ms\", \"loss\": \"1%%\", \"duplicate\": \"2%%\", \"corrupt\": \"0.5%%\", "
			    "\"reorder\": \"10%%\", \"rate\": \"1MB\", \"correlation\": \"25%%\", %s}", hows[i]);
		must_capture(&f, args);
		assert_int_equal(f.ops->command(site.node, f.args, f.prior, &apply, &undo), 0);
		must_apply(&f);
		by_us = site_snapshot(&site);
		rules1 = node_says(rules);
		sh("%s", strbuf_cstr(&undo));
		assert_site_equals(&site, before);
		sh("%s", strbuf_cstr(&apply));
		by_tc = site_snapshot(&site);
		rules2 = node_says(rules);
		assert_string_equal(rules1, rules2);
		if (i == 0) /* the devices' addresses are drawn at random */
			assert_string_equal(by_us, by_tc);
		must_undo(&f);
		assert_site_equals(&site, before);
	}
}

/* The process that made it is gone. */
static void outlives_its_maker(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	int status;
	pid_t pid;

	NEED_NETEM();
	must_capture(&f, "{\"delay\": \"5ms\", \"jitter\": \"1ms\"}");
	pid = fork();
	if (pid == 0)
		_exit(f.ops->apply(site.node, f.args, f.prior, NULL) ? 1 : 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(site_differs(&site, before));
	must_undo(&f);
	assert_site_equals(&site, before);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(delay),	T(delay_with_jitter), T(loss),		  T(toothless),
		T(limit_holds), T(prior_qdiscs),      T(conflicts),	  T(refused),
		T(plain_commands), T(outlives_its_maker), T(conflicts_beside), T(left_to_others),
		T(confined),	T(two_at_once),	      T(names_resolved),
	};

	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, make, drop);
}
