/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * xdp_drop.bpf.c: drops what comes to a device, or of that only what is for one TCP or UDP port, before the network stack sees it; until the
 * deadline (0: none), after which everything passes. So the kernel itself ends the fault if everybody who could lift it is dead.
 *
 * xdp_conf[0]: see struct xdp_conf. xdp_counts[], per CPU: packets and bytes dropped, packets and bytes of others that passed, packets
 * passed because the deadline was over. What is neither IPv4 nor IPv6 (ARP) passes when a port is given, and so do fragments and
 * IPv6 packets with extension headers, which show no port.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct xdp_conf {
	__u64 deadline; /* CLOCK_MONOTONIC ns; 0: none */
	__u64 port;	/* host order; 0: everything */
};

enum { DROPPED, DROPPED_BYTES, PASSED, PASSED_BYTES, EXPIRED, COUNTS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xdp_conf);
} xdp_conf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} xdp_counts SEC(".maps");

static __always_inline void count(__u32 key, __u64 n)
{
	__u64 *c = bpf_map_lookup_elem(&xdp_counts, &key);

	if (c)
		*c += n;
}

/* The destination port, host order; 0: none to be seen */
static __always_inline __u16 port_of(void *data, void *end)
{
	struct ethhdr *eth = data;
	__u16 *ports;
	__u8 protocol;

	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->ihl < 5 || (ip->frag_off & bpf_htons(0x3fff)))
			return 0;
		protocol = ip->protocol;
		ports = (void *)ip + ip->ihl * 4;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		if ((void *)(ip6 + 1) > end)
			return 0;
		protocol = ip6->nexthdr;
		ports = (void *)(ip6 + 1);
	} else {
		return 0;
	}
	if ((protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || (void *)(ports + 2) > end)
		return 0;
	return bpf_ntohs(ports[1]);
}

SEC("xdp")
int xdp_drop_in(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	const struct xdp_conf *conf = bpf_map_lookup_elem(&xdp_conf, &zero);

	if (!conf)
		return XDP_PASS;
	if (conf->deadline && bpf_ktime_get_ns() >= conf->deadline) {
		count(EXPIRED, 1);
		return XDP_PASS;
	}
	if (conf->port && port_of(data, end) != conf->port) {
		count(PASSED, 1);
		count(PASSED_BYTES, end - data);
		return XDP_PASS;
	}
	count(DROPPED, 1);
	count(DROPPED_BYTES, end - data);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
