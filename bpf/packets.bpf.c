/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * packets.bpf.c: counts what comes to a device, for each service: packets, and bytes with their Ethernet headers; and lets all of it pass. One
 * program a device, with maps of its own. What is for no service is counted at index 0, and so is what shows no port: fragments,
 * IPv6 packets with extension headers, VLAN tags, whatever is not IP.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bpf/meter.h"
#include "bpf/packets.h"

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PACKETS_PLACES_MAX);
	__type(key, struct packets_key);
	__type(value, __u32);
} places SEC(".maps");

/* Which meter; 0: that of the others */
static __always_inline __u32 index_of(void *data, void *end)
{
	struct ethhdr *eth = data;
	struct packets_key key = {};
	__u16 *ports;
	__u32 *index;

	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->ihl < 5 || (ip->frag_off & bpf_htons(0x3fff)))
			return 0;
		key.family = 4;
		key.protocol = ip->protocol;
		__builtin_memcpy(key.addr, &ip->daddr, 4);
		ports = (void *)ip + ip->ihl * 4;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		if ((void *)(ip6 + 1) > end)
			return 0;
		key.family = 6;
		key.protocol = ip6->nexthdr;
		__builtin_memcpy(key.addr, &ip6->daddr, 16);
		ports = (void *)(ip6 + 1);
	} else {
		return 0;
	}
	if ((key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP) || (void *)(ports + 2) > end)
		return 0;
	key.port = bpf_ntohs(ports[1]);
	index = bpf_map_lookup_elem(&places, &key);
	return index ? *index : 0;
}

SEC("xdp")
int packets_in(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	meter_add(index_of(data, end), 1, end - data, 0);
	return XDP_PASS;
}
