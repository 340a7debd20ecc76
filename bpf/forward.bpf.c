/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * forward.bpf.c: counts what a director sends on to each real server, at the moment it does: packets, bytes, and connections by their first
 * packet. IPVS counts the same, but shows it every 2 s only, and no more once the server is out of the table.
 *
 * IPVS has counted a packet when it hands it to one of these functions, and counts it for its connection (in_pkts) after they
 * return: so 0 there is the first. What a sync daemon has brought from another director begins with more than that.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "bpf/core.h"
#include "bpf/forward.h"
#include "bpf/meter.h"

char LICENSE[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct netns_ipvs {
	struct net *net;
};

union nf_inet_addr {
	__u32 all[4];
};

struct ip_vs_conn {
	__u16 vport; /* network order */
	__u16 af, daf;
	union nf_inet_addr vaddr, daddr;
	__u16 protocol;
	struct netns_ipvs *ipvs;
	atomic_t in_pkts;
};

#pragma clang attribute pop

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FORWARD_PLACES_MAX);
	__type(key, struct forward_key);
	__type(value, __u32);
} places SEC(".maps");

static __always_inline int count(struct sk_buff *skb, struct ip_vs_conn *cp)
{
	bool v6 = cp->af == AF_INET6, server_v6 = cp->daf == AF_INET6;
	struct forward_key key = {.netns = cp->ipvs->net->ns.inum,
		.port = bpf_ntohs(cp->vport),
		.protocol = cp->protocol,
		.families = (v6 ? FORWARD_VIRTUAL_IS_V6 : 0) | (server_v6 ? FORWARD_SERVER_IS_V6 : 0)};
	__u32 *index;

	/* of an IPv4 address the rest is not zero */
	bpf_probe_read_kernel(key.virtual, v6 ? 16 : 4, &cp->vaddr);
	bpf_probe_read_kernel(key.server, server_v6 ? 16 : 4, &cp->daddr);
	index = bpf_map_lookup_elem(&places, &key);
	if (!index)
		return 0;
	meter_add(*index, 1, skb->len, cp->in_pkts.counter == 0);
	return 0;
}

#define FORWARD(way)                                                                                                   \
	SEC("fentry/ip_vs_" #way "_xmit")                                                                              \
	int BPF_PROG(on_##way, struct sk_buff *skb, struct ip_vs_conn *cp)                                             \
	{                                                                                                              \
		return count(skb, cp);                                                                                 \
	}                                                                                                              \
	SEC("fentry/ip_vs_" #way "_xmit_v6")                                                                           \
	int BPF_PROG(on_##way##_v6, struct sk_buff *skb, struct ip_vs_conn *cp)                                        \
	{                                                                                                              \
		return count(skb, cp);                                                                                 \
	}
FORWARD(dr)
FORWARD(nat)
FORWARD(tunnel)
