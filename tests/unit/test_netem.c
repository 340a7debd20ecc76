/* SPDX-License-Identifier: GPL-2.0-only */
/* The netem message, byte by byte, against what libnl's own setters build; parsing it back; tc words; the nets of a detour. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/netem.h>
#include <netlink/route/tc.h>

#include "inject/detour.h"
#include "inject/netem.h"
#include "inject/qdisc.h"

#define IFINDEX 7
#define HANDLE	0x6d750000u

static struct nlattr *find_options(struct nl_msg *m)
{
	struct nlattr *o = nlmsg_find_attr(nlmsg_hdr(m), sizeof(struct tcmsg), TCA_OPTIONS);

	assert_non_null(o);
	assert_true(nla_len(o) >= (int)sizeof(struct tc_netem_qopt));
	return o;
}

static struct nlattr *find_netem(struct nl_msg *m, int type)
{
	struct nlattr *o = find_options(m);

	return nla_find((struct nlattr *)((char *)nla_data(o) + sizeof(struct tc_netem_qopt)),
		nla_len(o) - (int)sizeof(struct tc_netem_qopt), type);
}

static struct netem_spec full(void)
{
	/* times are whole numbers of microseconds and of ticks, so both ways of writing them are exact */
	return (struct netem_spec){.delay = 50 * NSEC_PER_MSEC,
		.jitter = 8 * NSEC_PER_MSEC,
		.delay_corr = netem_probability(0.25),
		.loss = netem_probability(0.01),
		.loss_corr = netem_probability(0.3),
		.duplicate = netem_probability(0.002),
		.duplicate_corr = netem_probability(0.1),
		.reorder = netem_probability(0.05),
		.reorder_corr = netem_probability(0.5),
		.corrupt = netem_probability(0.0001),
		.corrupt_corr = netem_probability(0.2),
		.rate = 0,
		.limit = 25000};
}

/* The same by libnl's setters */
static struct nl_msg *by_libnl(const struct netem_spec *s)
{
	struct rtnl_qdisc *q = rtnl_qdisc_alloc();
	struct nl_msg *m = NULL;

	rtnl_tc_set_ifindex(TC_CAST(q), IFINDEX);
	rtnl_tc_set_parent(TC_CAST(q), TC_H_ROOT);
	rtnl_tc_set_handle(TC_CAST(q), HANDLE);
	assert_int_equal(rtnl_tc_set_kind(TC_CAST(q), "netem"), 0);
	rtnl_netem_set_limit(q, (int)s->limit);
	rtnl_netem_set_delay(q, (int)(s->delay / 1000));
	rtnl_netem_set_jitter(q, (int)(s->jitter / 1000));
	rtnl_netem_set_delay_correlation(q, (int)s->delay_corr);
	rtnl_netem_set_loss(q, (int)s->loss);
	rtnl_netem_set_loss_correlation(q, (int)s->loss_corr);
	rtnl_netem_set_duplicate(q, (int)s->duplicate);
	rtnl_netem_set_duplicate_correlation(q, (int)s->duplicate_corr);
	rtnl_netem_set_gap(q, s->reorder ? 1 : 0);
	rtnl_netem_set_reorder_probability(q, (int)s->reorder);
	rtnl_netem_set_reorder_correlation(q, (int)s->reorder_corr);
	rtnl_netem_set_corruption_probability(q, (int)s->corrupt);
	rtnl_netem_set_corruption_correlation(q, (int)s->corrupt_corr);
	assert_int_equal(rtnl_qdisc_build_add_request(q, NLM_F_CREATE | NLM_F_REPLACE, &m), 0);
	rtnl_qdisc_put(q);
	return m;
}

static void assert_same_attr(struct nl_msg *ours, struct nl_msg *theirs, int type)
{
	struct nlattr *a = find_netem(ours, type), *b = find_netem(theirs, type);

	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal(nla_len(a), nla_len(b));
	assert_memory_equal(nla_data(a), nla_data(b), (size_t)nla_len(a));
}

static void test_against_libnl(void **state _unused_)
{
	const struct netem_spec s = full();
	struct nl_msg *ours = netem_msg(&s, NLM_F_CREATE | NLM_F_REPLACE, IFINDEX, TC_H_ROOT, HANDLE);
	struct nl_msg *theirs = by_libnl(&s);

	assert_non_null(ours);
	/* tcmsg */
	assert_memory_equal(nlmsg_data(nlmsg_hdr(ours)), nlmsg_data(nlmsg_hdr(theirs)), sizeof(struct tcmsg));
	assert_int_equal(nlmsg_hdr(ours)->nlmsg_type, nlmsg_hdr(theirs)->nlmsg_type);
	/* NLM_F_REQUEST is added on sending */
	assert_int_equal(nlmsg_hdr(ours)->nlmsg_flags | NLM_F_REQUEST, nlmsg_hdr(theirs)->nlmsg_flags);
	assert_string_equal(nla_get_string(nlmsg_find_attr(nlmsg_hdr(ours), sizeof(struct tcmsg), TCA_KIND)), "netem");
	/* the fixed part, all 24 bytes */
	assert_memory_equal(nla_data(find_options(ours)), nla_data(find_options(theirs)), sizeof(struct tc_netem_qopt));
	assert_same_attr(ours, theirs, TCA_NETEM_CORR);
	assert_same_attr(ours, theirs, TCA_NETEM_REORDER);
	assert_same_attr(ours, theirs, TCA_NETEM_CORRUPT);
	nlmsg_free(ours);
	nlmsg_free(theirs);
}

/* The whole of TCA_OPTIONS, as bytes written down by hand from linux/pkt_sched.h */
static void test_bytes(void **state _unused_)
{
	static const uint32_t want[] = {
		/* attribute header: length 4+24+12+12+16+12+12+20 = 112, type 2 (TCA_OPTIONS) */
		112 | 2u << 16,
		/* latency 15625 ticks, limit, loss, gap, duplicate, jitter */
		15625, 1000, 0x80000000u, 0, 0, 1250,
		/* LATENCY64 (10): 1 ms */
		12 | 10u << 16, 1000000, 0,
		/* JITTER64 (11): 80 us */
		12 | 11u << 16, 80000, 0,
		/* CORR (1) */
		16 | 1u << 16, 0, 0, 0,
		/* REORDER (3) */
		12 | 3u << 16, 0, 0,
		/* CORRUPT (4) */
		12 | 4u << 16, 0, 0,
		/* RATE (6) */
		20 | 6u << 16, 125000, 0, 0, 0};
	const struct netem_spec s = {
		.delay = NSEC_PER_MSEC, .jitter = 80000, .loss = netem_probability(0.5), .rate = 125000, .limit = 1000};
	struct nl_msg *m = netem_msg(&s, 0, IFINDEX, TC_H_ROOT, HANDLE);

	assert_int_equal(sizeof(want), 112);
	assert_non_null(m);
	assert_memory_equal(find_options(m), want, sizeof(want));
	/* and nothing comes after it */
	assert_ptr_equal((char *)find_options(m) + sizeof(want), nlmsg_tail(nlmsg_hdr(m)));
	nlmsg_free(m);
}

/* What is zero is sent too: a change in place would keep the old value otherwise. */
static void test_zeros_are_sent(void **state _unused_)
{
	static const int types[] = {TCA_NETEM_CORR, TCA_NETEM_REORDER, TCA_NETEM_CORRUPT, TCA_NETEM_RATE,
		TCA_NETEM_LATENCY64, TCA_NETEM_JITTER64};
	const struct netem_spec s = {.delay = NSEC_PER_MSEC, .limit = 1000};
	struct nl_msg *m = netem_msg(&s, 0, IFINDEX, TC_H_ROOT, HANDLE);

	assert_non_null(m);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		assert_non_null(find_netem(m, types[i]));
	assert_null(find_netem(m, TCA_NETEM_RATE64));
	nlmsg_free(m);
}

static void round_trip(const struct netem_spec *s)
{
	struct nl_msg *m = netem_msg(s, 0, IFINDEX, TC_H_ROOT, HANDLE);
	struct netem_spec back = {0};
	struct nlattr *o;

	assert_non_null(m);
	o = find_options(m);
	assert_int_equal(netem_parse(nla_data(o), (size_t)nla_len(o), &back), 0);
	assert_true(netem_equal(s, &back));
	back.loss++;
	assert_false(netem_equal(s, &back));
	nlmsg_free(m);
}

static void test_round_trip(void **state _unused_)
{
	struct netem_spec s = full();

	round_trip(&s);
	s.delay = 3600 * NSEC_PER_SEC + 1; /* beyond what ticks can say, and no whole tick */
	s.rate = 12500000000ull;	   /* 100 Gbit/s: needs RATE64 */
	s.loss = UINT32_MAX;
	round_trip(&s);
	round_trip(&(struct netem_spec){.limit = 1});
}

static void test_parse_rejects(void **state _unused_)
{
	const struct netem_spec s = full();
	struct nl_msg *m = netem_msg(&s, 0, IFINDEX, TC_H_ROOT, HANDLE);
	struct netem_spec back = {.limit = 4711};
	struct nlattr *o = find_options(m);
	uint8_t copy[512];
	size_t len = (size_t)nla_len(o);

	for (size_t n = 0; n < sizeof(struct tc_netem_qopt); n++)
		assert_int_equal(netem_parse(nla_data(o), n, &back), -EPROTO);
	assert_int_equal(netem_parse(NULL, 0, &back), -EPROTO);
	/* cut short anywhere, it is read no further than it goes */
	for (size_t n = sizeof(struct tc_netem_qopt); n < len; n++) {
		uint8_t *exact = malloc(n);

		memcpy(exact, nla_data(o), n);
		(void)netem_parse(exact, n, &(struct netem_spec){0});
		free(exact);
	}
	/* a gap without reorder, or a loss model: not ours, and not to be mistaken for it */
	memcpy(copy, nla_data(o), len);
	((struct tc_netem_qopt *)copy)->gap = 5;
	assert_int_equal(netem_parse(copy, len, &back), -EOPNOTSUPP);
	memcpy(copy, nla_data(o), len);
	((struct nlattr *)(copy + len))->nla_len = NLA_HDRLEN;
	((struct nlattr *)(copy + len))->nla_type = TCA_NETEM_LOSS;
	assert_int_equal(netem_parse(copy, len + NLA_HDRLEN, &back), -EOPNOTSUPP);
	assert_int_equal(back.limit, 4711);
	nlmsg_free(m);
}

static void test_probability(void **state _unused_)
{
	assert_int_equal(netem_probability(0), 0);
	assert_int_equal(netem_probability(1), UINT32_MAX);
	assert_int_equal(netem_probability(0.5), 0x80000000u);
	assert_true(fabs(netem_ratio(netem_probability(0.01)) - 0.01) < 1e-9);
}

/* Delay must not turn into loss: the limit holds what arrives meanwhile. */
static void test_limit(void **state _unused_)
{
	assert_int_equal(netem_limit(0, 0), 1000);
	assert_int_equal(netem_limit(50 * NSEC_PER_MSEC, 0), 12500);
	assert_int_equal(netem_limit(50 * NSEC_PER_MSEC, 10 * NSEC_PER_MSEC), 20000);
	assert_int_equal(netem_limit(3600 * NSEC_PER_SEC, 0), 1000000);
}

static void test_words(void **state _unused_)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct netem_spec s = full();

	s.rate = 125000;
	s.jitter += 64;
	netem_words(&s, &b);
	assert_string_equal(strbuf_cstr(&b),
		"limit 25000 delay 50000us 8000.064us 25% loss 1% 30% duplicate 0.2% 10% corrupt 0.01% 20% "
		"reorder 5% 50% rate 125000bps");
}

static void test_hex(void **state _unused_)
{
	static const uint8_t bytes[] = {0x00, 0x7f, 0x80, 0xff};
	_cleanup_free_ char *s = hex_encode(bytes, sizeof(bytes));
	_cleanup_free_ void *p = NULL, *empty = NULL;
	void *untouched = (void *)1;
	size_t len = 0;

	assert_string_equal(s, "007f80ff");
	assert_int_equal(hex_decode(s, &p, &len), 0);
	assert_int_equal(len, sizeof(bytes));
	assert_memory_equal(p, bytes, len);
	assert_int_equal(hex_decode("", &empty, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(hex_decode("0", &untouched, &len), -EINVAL);
	assert_int_equal(hex_decode("0g", &untouched, &len), -EINVAL);
	assert_int_equal(hex_decode("-1", &untouched, &len), -EINVAL);
	assert_ptr_equal(untouched, (void *)1);
}

static void test_nets(void **state _unused_)
{
	static const struct {
		const char *text, *want; /* NULL: refused */
	} cases[] = {
		{"198.18.0.1", "198.18.0.1"},
		{"198.18.0.1/32", "198.18.0.1"},
		{"198.18.0.129/25", "198.18.0.128/25"},
		{"10.255.255.255/9", "10.128.0.0/9"},
		{"1.2.3.4/0", "0.0.0.0/0"},
		{"2001:db8::1", "2001:db8::1"},
		{"2001:db8::ffff/113", "2001:db8::8000/113"},
		{"2001:db8:ffff::/33", "2001:db8:8000::/33"},
		{"::/0", "::/0"},
		{"198.18.0.1/33", NULL},
		{"::1/129", NULL},
		{"198.18.0.1/", NULL},
		{"198.18.0.1/-1", NULL},
		{"198.18.0", NULL},
		{"rs1", NULL},
		{"", NULL},
		{"/8", NULL},
		{"2001:db8:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000", NULL},
	};
	static const struct {
		const char *a, *b;
		bool overlap;
	} pairs[] = {
		{"198.18.0.0/24", "198.18.0.7", true},
		{"198.18.0.0/24", "198.18.1.7", false},
		{"198.18.0.0/24", "198.18.0.128/25", true},
		{"198.18.0.0/25", "198.18.0.128/25", false},
		{"0.0.0.0/0", "203.0.113.9", true},
		{"0.0.0.0/0", "::1", false},
		{"2001:db8::/64", "2001:db8::8000:0:0:1", true},
		{"2001:db8::/64", "2001:db8:0:1::1", false},
		{"2001:db8::/113", "2001:db8::8000/113", false},
	};
	struct detour_net n, all = {.family = AF_UNSPEC};
	char buf[DETOUR_NET_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r = detour_net_parse(cases[i].text, &n);

		assert_int_equal(r, cases[i].want ? 0 : -EINVAL);
		if (cases[i].want)
			assert_string_equal(detour_net_fmt(buf, &n), cases[i].want);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct detour_net a, b;

		assert_int_equal(detour_net_parse(pairs[i].a, &a), 0);
		assert_int_equal(detour_net_parse(pairs[i].b, &b), 0);
		assert_int_equal(detour_net_overlap(&a, &b), pairs[i].overlap);
		assert_int_equal(detour_net_overlap(&b, &a), pairs[i].overlap);
		assert_true(detour_net_overlap(&a, &all) && detour_net_overlap(&all, &b));
	}
	assert_int_equal(detour_net_parse("fe80::/64", &n), 0);
	assert_true(detour_net_has(&n, "fe80::1%3"));
	assert_false(detour_net_has(&n, "fe81::1%3"));
	assert_false(detour_net_has(&n, "nonsense"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_libnl),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_zeros_are_sent),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_parse_rejects),
		cmocka_unit_test(test_probability),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_hex),
		cmocka_unit_test(test_nets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
