/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IPVS messages: what is put is what is parsed, and what a kernel might leave out or cut short is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <linux/ip_vs.h>
#include <netlink/attr.h>
#include <netlink/genl/genl.h>
#include <string.h>

#include "lvs/ipvs.h"

static struct nl_msg *new_msg(void)
{
	struct nl_msg *m = nlmsg_alloc_size(1024);

	assert_non_null(m);
	assert_non_null(genlmsg_put(m, 1, 1, 30, 0, 0, IPVS_CMD_NEW_SERVICE, IPVS_GENL_VERSION));
	return m;
}

static struct ipvs_service a_service(const char *addr)
{
	struct ipvs_service s = {.protocol = IPPROTO_TCP, .port = 8080, .scheduler = "wrr"};

	assert_int_equal(ipvs_addr_parse(addr, &s.family, s.addr), 0);
	ipvs_service_default_netmask(&s);
	return s;
}

static struct ipvs_dest a_dest(const char *addr)
{
	struct ipvs_dest d = {.port = 8080,
		.forward = IPVS_DR,
		.weight = 70000, /* more than 16 bits: the attribute has 32 */
		.upper_threshold = 1000,
		.lower_threshold = 900,
		.tun_type = 1,
		.tun_port = 6080,
		.tun_flags = 2};

	assert_int_equal(ipvs_addr_parse(addr, &d.family, d.addr), 0);
	return d;
}

static void service_round_trip(void **state _unused_)
{
	struct ipvs_service cases[3] = {a_service("198.18.0.100"), a_service("2001:db8::100"), {0}};

	cases[1].timeout = 300;
	cases[1].flags = IP_VS_SVC_F_PERSISTENT | IP_VS_SVC_F_SCHED1;
	cases[1].netmask = 64;
	strcpy(cases[1].pe, "sip");
	cases[2] = (struct ipvs_service){
		.family = AF_INET6, .fwmark = 7, .scheduler = "mh", .netmask = 128};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct nl_msg *m = new_msg();
		struct ipvs_service got;

		assert_int_equal(ipvs_put_service(m, &cases[i], true), 0);
		assert_int_equal(ipvs_parse_service(nlmsg_hdr(m), &got), 0);
		assert_true(ipvs_service_equal(&got, &cases[i]));
		nlmsg_free(m);
	}
}

static void dest_round_trip(void **state _unused_)
{
	const char *addrs[] = {"198.18.0.21", "2001:db8::21"};

	for (size_t i = 0; i < ARRAY_SIZE(addrs); i++) {
		struct ipvs_dest d = a_dest(addrs[i]), got;
		struct nl_msg *m = new_msg();

		assert_int_equal(ipvs_put_dest(m, &d, true), 0);
		/* a request has no connection counts, a reply must have them */
		assert_int_equal(ipvs_parse_dest(nlmsg_hdr(m), d.family, &got), -EBADMSG);
		nlmsg_free(m);
	}
}

/*
 * A destination as a 6.1 kernel sends it; @leave_out is an attribute to forget, @wide whether counters
 * come in 64 bits
 */
static struct nl_msg *kernel_dest(int leave_out, bool wide)
{
	uint8_t addr[16] = {198, 18, 0, 21, 0xaa, 0xbb,
		0xcc}; /* 12 bytes of somebody's stack after an IPv4 address */
	struct nl_msg *m = new_msg();
	struct nlattr *nest = nla_nest_start(m, IPVS_CMD_ATTR_DEST), *stats;
	const struct {
		int attr;
		uint32_t v;
	} u32s[] = {
		{IPVS_DEST_ATTR_FWD_METHOD, IP_VS_CONN_F_DROUTE},
		{IPVS_DEST_ATTR_WEIGHT, 5},
		{IPVS_DEST_ATTR_U_THRESH, 10},
		{IPVS_DEST_ATTR_L_THRESH, 9},
		{IPVS_DEST_ATTR_ACTIVE_CONNS, 3},
		{IPVS_DEST_ATTR_INACT_CONNS, 4},
		{IPVS_DEST_ATTR_PERSIST_CONNS, 1},
	};

	if (leave_out != IPVS_DEST_ATTR_ADDR_FAMILY)
		nla_put_u16(m, IPVS_DEST_ATTR_ADDR_FAMILY, AF_INET);
	if (leave_out != IPVS_DEST_ATTR_ADDR)
		nla_put(m, IPVS_DEST_ATTR_ADDR, sizeof(addr), addr);
	if (leave_out != IPVS_DEST_ATTR_PORT)
		nla_put_u16(m, IPVS_DEST_ATTR_PORT, htons(8080));
	for (size_t i = 0; i < ARRAY_SIZE(u32s); i++)
		if (leave_out != u32s[i].attr)
			nla_put_u32(m, u32s[i].attr, u32s[i].v);
	stats = nla_nest_start(m, IPVS_DEST_ATTR_STATS);
	nla_put_u32(m, IPVS_STATS_ATTR_CONNS, 0xfffffff0);
	nla_put_u64(m, IPVS_STATS_ATTR_INBYTES, 1ull << 40);
	nla_put_u32(m, IPVS_STATS_ATTR_CPS, 12);
	nla_nest_end(m, stats);
	if (wide) {
		stats = nla_nest_start(m, IPVS_DEST_ATTR_STATS64);
		nla_put_u64(m, IPVS_STATS_ATTR_CONNS, 0x1fffffff0);
		nla_put_u64(m, IPVS_STATS_ATTR_INBYTES, 1ull << 41);
		nla_put_u64(m, IPVS_STATS_ATTR_CPS, 13);
		nla_nest_end(m, stats);
	}
	/* one that does not exist yet */
	nla_put_u32(m, IPVS_DEST_ATTR_MAX + 5, 1);
	nla_nest_end(m, nest);
	return m;
}

static void dest_from_kernel(void **state _unused_)
{
	static const int needed[] = {IPVS_DEST_ATTR_ADDR, IPVS_DEST_ATTR_PORT,
		IPVS_DEST_ATTR_FWD_METHOD, IPVS_DEST_ATTR_WEIGHT, IPVS_DEST_ATTR_U_THRESH,
		IPVS_DEST_ATTR_L_THRESH, IPVS_DEST_ATTR_ACTIVE_CONNS, IPVS_DEST_ATTR_INACT_CONNS,
		IPVS_DEST_ATTR_PERSIST_CONNS};
	struct ipvs_dest want = {.family = AF_INET,
		.addr = {198, 18, 0, 21},
		.port = 8080,
		.forward = IPVS_DR,
		.weight = 5,
		.upper_threshold = 10,
		.lower_threshold = 9};
	struct ipvs_dest got, untouched;
	struct nl_msg *m;

	for (int wide = 0; wide < 2; wide++) {
		m = kernel_dest(0, wide);
		assert_int_equal(ipvs_parse_dest(nlmsg_hdr(m), AF_INET6, &got), 0);
		assert_true(ipvs_dest_equal(&got, &want));
		assert_memory_equal(
			got.addr, want.addr, 16); /* the rest of the 16 bytes is cleared */
		assert_int_equal(got.active, 3);
		assert_int_equal(got.inactive, 4);
		assert_int_equal(got.persistent, 1);
		assert_true(got.stats.conns == (wide ? 0x1fffffff0ull : 0xfffffff0ull));
		assert_true(got.stats.in_bytes == (wide ? 1ull << 41 : 1ull << 40));
		assert_true(got.stats.cps == (wide ? 13u : 12u));
		assert_true(got.stats.out_packets == 0);
		nlmsg_free(m);
	}
	/* without the family attribute it is the service's */
	m = kernel_dest(IPVS_DEST_ATTR_ADDR_FAMILY, true);
	assert_int_equal(ipvs_parse_dest(nlmsg_hdr(m), AF_INET, &got), 0);
	assert_true(ipvs_dest_equal(&got, &want));
	nlmsg_free(m);
	memset(&got, 0x5a, sizeof(got));
	untouched = got;
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		m = kernel_dest(needed[i], true);
		assert_int_equal(ipvs_parse_dest(nlmsg_hdr(m), AF_INET, &got), -EBADMSG);
		assert_memory_equal(&got, &untouched, sizeof(got));
		nlmsg_free(m);
	}
}

/* Cut at every length, in a buffer of exactly that size so that a sanitizer sees any step beyond it. */
static void cut_short(void **state _unused_)
{
	struct nl_msg *m = kernel_dest(0, true);
	const struct nlmsghdr *whole = nlmsg_hdr(m);

	for (uint32_t len = NLMSG_HDRLEN; len < whole->nlmsg_len; len++) {
		struct nlmsghdr *h = malloc(len);
		struct ipvs_dest d;
		struct ipvs_service s;
		struct ipvs_daemon g;

		assert_non_null(h);
		memcpy(h, whole, len);
		h->nlmsg_len = len;
		/* the nest's own length now points past the end */
		assert_int_equal(ipvs_parse_dest(h, AF_INET, &d), -EBADMSG);
		assert_int_equal(ipvs_parse_service(h, &s), -EBADMSG);
		assert_int_equal(ipvs_parse_daemon(h, &g), -EBADMSG);
		free(h);
	}
	nlmsg_free(m);
}

static void wrong_attributes(void **state _unused_)
{
	struct ipvs_service s = a_service("198.18.0.100"), got;
	struct nlattr *nest;
	struct nl_msg *m;

	/* a scheduler's name without its terminator, and one that is too long */
	for (int name_len = 3; name_len <= 20; name_len += 17) {
		m = new_msg();
		nest = nla_nest_start(m, IPVS_CMD_ATTR_SERVICE);
		nla_put_u16(m, IPVS_SVC_ATTR_AF, AF_INET);
		nla_put_u32(m, IPVS_SVC_ATTR_FWMARK, 3);
		nla_put(m, IPVS_SVC_ATTR_SCHED_NAME, name_len, "wrrdefghijklmnopqrst");
		nla_put(m, IPVS_SVC_ATTR_FLAGS, sizeof(struct ip_vs_flags),
			&(struct ip_vs_flags){IP_VS_SVC_F_HASHED, ~0u});
		nla_put_u32(m, IPVS_SVC_ATTR_TIMEOUT, 0);
		nla_put_u32(m, IPVS_SVC_ATTR_NETMASK, ~0u);
		nla_nest_end(m, nest);
		assert_int_equal(
			ipvs_parse_service(nlmsg_hdr(m), &got), name_len == 3 ? 0 : -EBADMSG);
		assert_string_equal(got.scheduler, "wrr");
		assert_int_equal(got.flags, 0); /* "hashed" is the kernel's own business */
		nlmsg_free(m);
	}

	m = new_msg();
	nest = nla_nest_start(m, IPVS_CMD_ATTR_SERVICE);
	nla_put_u16(m, IPVS_SVC_ATTR_AF, AF_UNIX);
	nla_nest_end(m, nest);
	assert_int_equal(ipvs_parse_service(nlmsg_hdr(m), &got), -EBADMSG);
	nlmsg_free(m);

	/* what is sent never says "hashed": the kernel would then not put a new service into its table */
	s.flags = IP_VS_SVC_F_HASHED | IP_VS_SVC_F_ONEPACKET;
	m = new_msg();
	assert_int_equal(ipvs_put_service(m, &s, true), 0);
	{
		struct nlattr *top = nlmsg_find_attr(
				      nlmsg_hdr(m), GENL_HDRLEN, IPVS_CMD_ATTR_SERVICE),
			      *tb[IPVS_SVC_ATTR_MAX + 1];
		struct ip_vs_flags flags;

		assert_non_null(top);
		assert_int_equal(nla_parse_nested(tb, IPVS_SVC_ATTR_MAX, top, NULL), 0);
		memcpy(&flags, nla_data(tb[IPVS_SVC_ATTR_FLAGS]), sizeof(flags));
		assert_int_equal(flags.flags, IP_VS_SVC_F_ONEPACKET);
		assert_int_equal(flags.mask & IP_VS_SVC_F_HASHED, 0);
		assert_int_equal(nla_len(tb[IPVS_SVC_ATTR_ADDR]), 16);
		assert_int_equal(*(uint16_t *)nla_data(tb[IPVS_SVC_ATTR_PORT]), htons(8080));
	}
	nlmsg_free(m);

	/* the key alone has no more than the key */
	m = new_msg();
	assert_int_equal(ipvs_put_service(m, &s, false), 0);
	assert_int_equal(ipvs_parse_service(nlmsg_hdr(m), &got), -EBADMSG);
	nlmsg_free(m);
}

static void daemon_round_trip(void **state _unused_)
{
	struct ipvs_daemon d = {.state = IP_VS_STATE_MASTER,
		.ifname = "eth0",
		.sync_id = 5,
		.sync_maxlen = 1400,
		.mcast_family = AF_INET,
		.mcast_group = {224, 0, 0, 82},
		.mcast_port = 8850,
		.mcast_ttl = 2};
	struct ipvs_daemon got;
	struct nl_msg *m = new_msg();

	assert_int_equal(ipvs_put_daemon(m, &d), 0);
	assert_int_equal(ipvs_parse_daemon(nlmsg_hdr(m), &got), 0);
	/* member by member: what stands between them is nobody's */
	assert_int_equal(got.state, d.state);
	assert_string_equal(got.ifname, d.ifname);
	assert_int_equal(got.sync_id, d.sync_id);
	assert_int_equal(got.sync_maxlen, d.sync_maxlen);
	assert_int_equal(got.mcast_family, d.mcast_family);
	assert_memory_equal(got.mcast_group, d.mcast_group, sizeof(d.mcast_group));
	assert_int_equal(got.mcast_port, d.mcast_port);
	assert_int_equal(got.mcast_ttl, d.mcast_ttl);
	nlmsg_free(m);
}

static void no_room(void **state _unused_)
{
	struct ipvs_service s = a_service("2001:db8::100");
	struct ipvs_dest d = a_dest("2001:db8::21");

	for (size_t size = NLMSG_HDRLEN + GENL_HDRLEN; size < 140; size += 4) {
		struct nl_msg *m = nlmsg_alloc_size(size);

		assert_non_null(m);
		if (genlmsg_put(m, 1, 1, 30, 0, 0, 1, 1)) {
			assert_int_equal(ipvs_put_service(m, &s, true) == 0 &&
						 ipvs_put_dest(m, &d, true) == 0,
				0);
		}
		nlmsg_free(m);
	}
}

static void texts(void **state _unused_)
{
	struct ipvs_service s = a_service("2001:db8::100"),
			    mark = {.family = AF_INET6, .fwmark = 7};
	struct ipvs_dest d = a_dest("198.18.0.21");
	char buf[IPVS_TEXT_MAX];
	uint8_t addr[16];
	uint32_t fwd;
	int family;

	assert_string_equal(ipvs_fmt_service(buf, &s), "[2001:db8::100]:8080");
	assert_string_equal(ipvs_fmt_service(buf, &mark), "fwmark 7 inet6");
	assert_string_equal(ipvs_fmt_dest(buf, &d), "198.18.0.21:8080");
	assert_string_equal(ipvs_forward_name(IPVS_DR), "dr");
	assert_string_equal(ipvs_forward_name(99), "?");
	assert_int_equal(ipvs_forward_parse("tun", &fwd), 0);
	assert_int_equal(fwd, IPVS_TUN);
	assert_int_equal(ipvs_forward_parse("local", &fwd), -EINVAL);
	assert_int_equal(ipvs_addr_parse("198.18.0.21.", &family, addr), -EINVAL);
	assert_int_equal(ipvs_addr_parse("rs1", &family, addr), -EINVAL);
}

static void keys(void **state _unused_)
{
	struct ipvs_service a = a_service("198.18.0.100"), b = a;
	struct ipvs_dest dests[2] = {a_dest("198.18.0.21"), a_dest("198.18.0.22")}, key = dests[1];

	strcpy(b.scheduler, "wlc");
	assert_true(ipvs_service_same_key(&a, &b));
	assert_false(ipvs_service_equal(&a, &b));
	b.protocol = IPPROTO_UDP;
	assert_false(ipvs_service_same_key(&a, &b));
	/* with a mark the rest of the key does not count */
	a.fwmark = b.fwmark = 9;
	assert_true(ipvs_service_same_key(&a, &b));
	key.weight = 1;
	assert_ptr_equal(ipvs_dest_find(dests, 2, &key), &dests[1]);
	key.port++;
	assert_null(ipvs_dest_find(dests, 2, &key));
	assert_true(ipvs_dest_equal(&dests[0], &dests[0]));
	key = dests[0];
	key.active = 7; /* a counter */
	assert_true(ipvs_dest_equal(&dests[0], &key));
	key.upper_threshold++;
	assert_false(ipvs_dest_equal(&dests[0], &key));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(service_round_trip),
		cmocka_unit_test(dest_round_trip),
		cmocka_unit_test(dest_from_kernel),
		cmocka_unit_test(cut_short),
		cmocka_unit_test(wrong_attributes),
		cmocka_unit_test(daemon_round_trip),
		cmocka_unit_test(no_room),
		cmocka_unit_test(texts),
		cmocka_unit_test(keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
