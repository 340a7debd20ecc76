/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * own_site.h: the site of tests/drills/own.lua, for tests that drill "the host": the sandbox's own network namespace, which each of the
 * site's nodes is under another name, and its three links:
 *
 *	up0	203.0.113.2/24	the default route by .1		far end "gw" in namespace muster-own-wan
 *	adm0	192.0.2.2/24	where the operator comes in	"adm" in muster-own-mgt
 *	side0	198.18.0.2/24	nobody's			"side" in muster-own-lan
 *
 * Include after cmocka.h and bridge_site.h, whose sandbox it needs.
 */
#pragma once

#include "engine/str.h"

static bool here; /* the sandbox was to be had */
static char scratch[] = "/tmp/muster-own-XXXXXX";

#define NEED_SANDBOX()                                                                             \
	do {                                                                                       \
		if (!here)                                                                         \
			SKIP("no namespaces to be had (not root?)");                               \
	} while (0)

static inline void link_make(const char *dev, const char *switch_, const char *node, const char *net)
{
	sh("ip netns add muster-own-%s && ip link add %s type veth peer name %s netns muster-own-%s && "
	   "ip addr add %s.2/24 dev %s && ip link set %s up && ip -n muster-own-%s link set lo up && "
	   "ip -n muster-own-%s addr add %s.1/24 dev %s && ip -n muster-own-%s link set %s up",
		switch_, dev, node, switch_, net, dev, dev, switch_, switch_, net, node, switch_, node);
}

static inline int own_setup(void **state)
{
	(void)state;
	if (!here)
		return 0;
	assert_non_null(mkdtemp(scratch));
	assert_int_equal(mount("lib", "/var/lib", "tmpfs", 0, "mode=755"), 0);
	sh("for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done; ip link set lo up");
	link_make("up0", "wan", "gw", "203.0.113");
	link_make("adm0", "mgt", "adm", "192.0.2");
	link_make("side0", "lan", "side", "198.18.0");
	sh("ip route add default via 203.0.113.1");
	/* a site that stands: the kernel tells a carrier a little later, and tries an IPv6 address out for a second or two */
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC;; (void)poll(NULL, 0, 20)) {
		if (system("for n in wan mgt lan; do ip -n muster-own-$n -o link; ip -n muster-own-$n -6 -o addr show scope link; done |"
			   " awk '/state UP/ {up++} /inet6/ && !/tentative/ {ready++} END {exit !(up == 3 && ready == 3)}'") == 0)
			break;
		assert_true(now_ns() < until);
	}
	sh("for n in gw adm side; do touch /run/netns/muster-own-$n && mount --bind /proc/self/ns/net /run/netns/muster-own-$n || exit 1; "
	   "done");
	return 0;
}

static inline int own_teardown(void **state)
{
	char command[96];

	(void)state;
	if (!here)
		return 0;
	snprintf(command, sizeof(command), "rm -rf %s", scratch);
	return system(command);
}
