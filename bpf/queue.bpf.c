/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * queue.bpf.c: counts overflows of accept queues, for each listening port, where the kernel counts them for the whole
 * namespace (ListenOverflows).
 *
 * The kernel refuses for want of room at two places: when a SYN comes (tcp_conn_request), and when the last ACK of a handshake
 * does (tcp_v4_syn_recv_sock, tcp_v6_syn_recv_sock, which for IPv4 peers of an IPv6 socket calls the other one). Each asks first
 * of all whether the queue is full, and counts; so the same question on entry counts the same. Between the SYN's arrival and
 * that question a SYN queue that is full may refuse it, unless SYN cookies are on, which they are by default.
 *
 * Some kernels have a tcp_v4_syn_recv_sock that no trampoline fits (seven arguments; Debian's 6.1.192). There the last ACK is seen one
 * call further out, on the way back from tcp_check_req: no child although the queue is full, for a packet that was neither a SYN
 * sent again nor a reset.
 *
 * The SYN queue has no such moment. It is looked at whenever a SYN comes, which is when its depth matters: the most that one found,
 * for each bucket of time.
 *
 * Only ports that the reader has put into `ports` are counted.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "bpf/core.h"
#include "bpf/queue.h"

#define ETH_P_IP 0x0800

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct queue_key);
	__type(value, struct queue_port);
} ports SEC(".maps");

/* Who has sent this packet: its network and transport headers are where TCP has found them */
static __always_inline void note_peer(struct queue_count *c, struct sk_buff *skb)
{
	const unsigned char *head = skb->head, *ip = head + skb->network_header, *tcp = head + skb->transport_header;
	bool v4 = skb->protocol == bpf_htons(ETH_P_IP);
	__u16 port = 0;

	if (v4)
		bpf_probe_read_kernel(c->peer, 4, ip + 12);
	else
		bpf_probe_read_kernel(c->peer, 16, ip + 8);
	bpf_probe_read_kernel(&port, sizeof(port), tcp);
	c->peer_port = bpf_ntohs(port);
	c->peer_family = v4 ? 4 : 6;
}

static __always_inline struct queue_port *port_of(struct sock *sk)
{
	struct queue_key key = {
		.netns = sk->__sk_common.skc_net.net->ns.inum, .port = sk->__sk_common.skc_num, .family = sk->__sk_common.skc_family};

	return bpf_map_lookup_elem(&ports, &key);
}

static __always_inline __u32 handshakes_of(struct sock *sk)
{
	return BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_accept_queue.qlen.counter);
}

static __always_inline int look(struct sock *sk, struct sk_buff *skb)
{
	__u32 queued = sk->sk_ack_backlog, limit = sk->sk_max_ack_backlog;
	struct queue_count *c;
	struct queue_port *p;
	__u64 now;

	if (queued <= limit)
		return 0;
	p = port_of(sk);
	if (!p)
		return 0;
	c = &p->count;
	now = bpf_ktime_get_ns();
	__sync_fetch_and_add(&c->overflows, 1);
	if (!c->first)
		c->first = now;
	c->last = now;
	c->queued = queued;
	c->limit = limit;
	c->handshakes = handshakes_of(sk);
	note_peer(c, skb);
	return 0;
}

#define TRIES 8 /* of others who have found more meanwhile; who still fails has found no more than they, or there is no telling */

static __always_inline void note_depth(struct sock *sk)
{
	__u32 found = handshakes_of(sk);
	struct queue_port *p;
	__u64 bucket, *place;

	if (!found) /* the usual case costs no look-up */
		return;
	p = port_of(sk);
	if (!p)
		return;
	bucket = bpf_ktime_get_ns() / QUEUE_BUCKET_NS;
	place = &p->depth[bucket % QUEUE_DEPTHS];
	for (int i = 0; i < TRIES; i++) {
		__u64 was = *(volatile __u64 *)place;

		if (was >> 32 == (__u32)bucket && (__u32)was >= found)
			return;
		if (__sync_val_compare_and_swap(place, was, bucket << 32 | found) == was)
			return;
	}
}

SEC("fentry/tcp_conn_request")
int BPF_PROG(on_syn, void *ops, void *af_ops, struct sock *sk, struct sk_buff *skb)
{
	note_depth(sk);
	return look(sk, skb);
}

#define TCP_FLAGS 13 /* of the header: where they are */
#define TCP_SYN	  0x02
#define TCP_RST	  0x04
#define TCP_ACK	  0x10

/* The request does not matter, and what comes after it differs between kernels: the result is fetched by hand */
SEC("fexit/tcp_check_req")
int on_check(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct sk_buff *skb = (struct sk_buff *)ctx[1];
	__u64 child = 1;
	__u8 flags = 0;

	if (bpf_get_func_ret(ctx, &child) || child)
		return 0;
	bpf_probe_read_kernel(&flags, 1, skb->head + skb->transport_header + TCP_FLAGS);
	if ((flags & (TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
		return 0;
	return look(sk, skb);
}

SEC("fentry/tcp_v4_syn_recv_sock")
int BPF_PROG(on_ack_v4, struct sock *sk, struct sk_buff *skb)
{
	return look(sk, skb);
}

SEC("fentry/tcp_v6_syn_recv_sock")
int BPF_PROG(on_ack_v6, struct sock *sk, struct sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) ? 0 : look(sk, skb);
}
