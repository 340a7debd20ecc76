// SPDX-License-Identifier: GPL-2.0-only
/*
 * drop.bpf.c: a wall on a switch port. Two tc classifiers in direct-action mode, one a direction; every packet is
 * dropped until the deadline (0: none), and passed on to whatever filter comes next after it. So the kernel itself ends
 * the fault if everybody who could lift it is dead.
 *
 * Directions are the node's: what it sends enters the port (tc ingress), what it is sent leaves there (tc egress).
 *
 * Even a link that nobody uses carries something: an interface announces its multicast groups, looks for routers,
 * defends its address. Dropping that harms nobody and proves nothing, so it is counted apart ("idle").
 *
 * A wall may have holes: what goes to and comes from the addresses in drop_keep passes, and ARP and neighbour discovery about
 * them, or they could not be reached for long. conf[1]: how many there are. IPv4 addresses stand there as ::ffff:a.b.c.d.
 *
 * counts[], per CPU: [0..4] packets dropped, bytes dropped, idle packets dropped (not among the former), packets passed
 * after the deadline, packets passed through a hole, sent by the node; [5..9] the same, sent to the node. conf[0]: the deadline,
 * CLOCK_MONOTONIC ns.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_LLDP 0x88cc

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} drop_conf SEC(".maps");

struct address {
	__u32 w[4]; /* network order */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64); /* LOSS_KEEP_MAX in inject/node_loss.h */
	__type(key, struct address);
	__type(value, __u8);
} drop_keep SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 10);
	__type(key, __u32);
	__type(value, __u64);
} drop_counts SEC(".maps");

static __always_inline void count(__u32 key, __u64 n)
{
	__u64 *c = bpf_map_lookup_elem(&drop_counts, &key);

	if (c)
		*c += n;
}

/* An address announced or probed for (RFC 5227) is idle; asking for somebody's address is the start of talking to him. */
static __always_inline int idle_arp(struct __sk_buff *skb)
{
	__u32 sender, target;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + 14, &sender, 4) || bpf_skb_load_bytes(skb, ETH_HLEN + 24, &target, 4))
		return 0;
	return sender == 0 || sender == target;
}

/* ICMPv6: MLD (RFC 2710, 3810), router discovery, duplicate address detection, unsolicited advertisements (RFC 4861) */
static __always_inline int idle_ipv6(struct __sk_buff *skb)
{
	__u32 off = ETH_HLEN + 40, src[4];
	__u8 next, hop[2], type, dst;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1))
		return 0;
	if (next == 0 /* hop-by-hop options */) { /* MLD carries a router alert there */
		if (bpf_skb_load_bytes(skb, off, hop, 2))
			return 0;
		next = hop[0];
		off += ((__u32)hop[1] + 1) * 8;
	}
	if (next != 58 /* ICMPv6 */ || bpf_skb_load_bytes(skb, off, &type, 1))
		return 0;
	switch (type) {
	case 130: /* multicast listener query, report, done */
	case 131:
	case 132:
	case 143:
	case 133: /* router solicitation, advertisement */
	case 134:
		return 1;
	case 135: /* neighbour solicitation: from nowhere, it looks for its own duplicate */
		return !bpf_skb_load_bytes(skb, ETH_HLEN + 8, src, 16) && !(src[0] | src[1] | src[2] | src[3]);
	case 136: /* neighbour advertisement: to all, nobody has asked */
		return !bpf_skb_load_bytes(skb, ETH_HLEN + 24, &dst, 1) && dst == 0xff;
	}
	return 0;
}

static __always_inline int idle(struct __sk_buff *skb)
{
	__u16 proto;
	__u8 ip_proto;

	if (bpf_skb_load_bytes(skb, 12, &proto, 2))
		return 0;
	proto = bpf_ntohs(proto);
	if (proto < ETH_P_802_3_MIN || proto == ETH_LLDP) /* a length: spanning tree and its like */
		return 1;
	if (proto == ETH_P_ARP)
		return idle_arp(skb);
	if (proto == ETH_P_IPV6)
		return idle_ipv6(skb);
	return proto == ETH_P_IP && !bpf_skb_load_bytes(skb, ETH_HLEN + 9, &ip_proto, 1) && ip_proto == IPPROTO_IGMP;
}

static __always_inline int in_keep(struct __sk_buff *skb, __u32 off, int family4)
{
	struct address a = {};

	if (family4) {
		a.w[2] = bpf_htonl(0xffff);
		if (bpf_skb_load_bytes(skb, off, &a.w[3], 4))
			return 0;
	} else if (bpf_skb_load_bytes(skb, off, &a, sizeof(a))) {
		return 0;
	}
	return bpf_map_lookup_elem(&drop_keep, &a) != 0;
}

/* Does the other end of this packet have leave to be heard? @sent: by the node, so the other end is where it goes. */
static __always_inline int kept(struct __sk_buff *skb, int sent)
{
	__u32 key = 1;
	__u64 *n = bpf_map_lookup_elem(&drop_conf, &key);
	__u16 proto;
	__u8 next, type;

	if (!n || !*n || bpf_skb_load_bytes(skb, 12, &proto, 2))
		return 0;
	if (proto == bpf_htons(ETH_P_IP))
		return in_keep(skb, ETH_HLEN + (sent ? 16 : 12), 1);
	if (proto == bpf_htons(ETH_P_ARP))
		return in_keep(skb, ETH_HLEN + (sent ? 24 : 14), 1);
	if (proto != bpf_htons(ETH_P_IPV6))
		return 0;
	if (in_keep(skb, ETH_HLEN + (sent ? 24 : 8), 0))
		return 1;
	/* who is looked for stands behind the header; it goes to a group */
	return sent && !bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1) && next == 58 /* ICMPv6 */ &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN + 40, &type, 1) && type == 135 /* neighbour solicitation */ &&
	       in_keep(skb, ETH_HLEN + 48, 0);
}

static __always_inline int drop(struct __sk_buff *skb, __u32 first, int sent)
{
	__u32 key = 0;
	__u64 *deadline = bpf_map_lookup_elem(&drop_conf, &key);

	if (deadline && *deadline && bpf_ktime_get_ns() >= *deadline) {
		count(first + 3, 1);
		return TC_ACT_UNSPEC; /* not my packet: the next filter decides */
	}
	if (kept(skb, sent)) {
		count(first + 4, 1);
		return TC_ACT_UNSPEC;
	}
	if (idle(skb)) {
		count(first + 2, 1);
	} else {
		count(first, 1);
		count(first + 1, skb->len);
	}
	return TC_ACT_SHOT;
}

SEC("tc")
int drop_sent(struct __sk_buff *skb)
{
	return drop(skb, 0, 1);
}

SEC("tc")
int drop_received(struct __sk_buff *skb)
{
	return drop(skb, 5, 0);
}

char LICENSE[] SEC("license") = "GPL";
