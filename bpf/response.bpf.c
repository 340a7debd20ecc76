/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * response.bpf.c: how long a server takes to answer: from the arrival of a request's first bytes in its kernel to the first bytes that it
 * gives the kernel in answer. So the time in the accept queue counts, and the time that a process is busy or frozen; the network does not.
 *
 * The first bytes may come with the handshake's last ACK, where no trace point sees them: then the request has arrived when the
 * connection was established. Where the server speaks first, what it says answers nothing.
 *
 * What waits hangs at the socket (BPF_MAP_TYPE_SK_STORAGE), and goes with it.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "bpf/core.h"
#include "bpf/conn.h"
#include "bpf/hist.bpf.h"
#include "bpf/response.h"

#define IPPROTO_TCP 6
#define TCP_DOFF    12 /* of the header: where its length is, in words of four bytes, in the upper half */

char LICENSE[] SEC("license") = "GPL";

/* A socket of a server that is watched */
struct waiting {
	__u64 since; /* a request, or, while `fresh`, the connection is there; 0: nothing waits for an answer */
	__u32 place;
	bool fresh;  /* established, and no data has been seen to come */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct waiting);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, RESPONSE_PLACES_MAX);
	__type(key, struct response_key);
	__type(value, __u32);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conn_hist);
} hists SEC(".maps");

static __always_inline struct waiting *watched(struct sock *sk)
{
	struct response_key key = {.netns = sk->__sk_common.skc_net.net->ns.inum, .port = sk->__sk_common.skc_num};
	__u32 *place, *addr = (__u32 *)key.addr;
	struct waiting none = {0};

	if (sk->__sk_common.skc_family == AF_INET6) {
		addr[0] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[0];
		addr[1] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[1];
		addr[2] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[2];
		addr[3] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[3];
	} else {
		addr[2] = bpf_htonl(0xffff);
		addr[3] = sk->__sk_common.skc_rcv_saddr;
	}
	place = bpf_map_lookup_elem(&places, &key);
	if (!place)
		return NULL;
	none.place = *place;
	return bpf_sk_storage_get(&sockets, sk, &none, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline __u64 received(struct sock *sk)
{
	return BPF_CORE_READ((struct tcp_sock *)sk, bytes_received);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int old, int new)
{
	struct waiting *w;

	if (old != CONN_TCP_SYN_RECV || new != CONN_TCP_ESTABLISHED || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	w = watched(sk);
	if (w) {
		w->since = bpf_ktime_get_ns();
		w->fresh = true;
	}
	return 0;
}

/* A segment for an established connection has come */
SEC("tp_btf/tcp_probe")
int BPF_PROG(on_segment, struct sock *sk, struct sk_buff *skb)
{
	struct waiting *w;
	__u8 words = 0;

	bpf_probe_read_kernel(&words, 1, skb->head + skb->transport_header + TCP_DOFF);
	if (skb->len <= (__u32)(words >> 4) * 4)
		return 0;
	w = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!w) /* it was there before us, or is none of ours */
		w = watched(sk);
	if (!w)
		return 0;
	if (!w->since || (w->fresh && received(sk) == 0))
		w->since = bpf_ktime_get_ns();
	w->fresh = false;
	return 0;
}

static __always_inline int answer(struct sock *sk)
{
	struct waiting *w = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	struct conn_hist *h;
	__u32 place, i;
	__u64 took;

	if (!w || !w->since)
		return 0;
	if (w->fresh && received(sk) == 0) {
		w->since = 0;
		w->fresh = false;
		return 0;
	}
	took = bpf_ktime_get_ns() - w->since;
	w->since = 0;
	w->fresh = false;
	place = w->place;
	i = hist_index(took);
	h = bpf_map_lookup_elem(&hists, &place);
	if (h && i < CONN_HIST_BUCKETS)
		__sync_fetch_and_add(&h->count[i], 1);
	return 0;
}

SEC("fentry/tcp_sendmsg")
int BPF_PROG(on_send, struct sock *sk)
{
	return answer(sk);
}

/* Linux 6.3, for kernels that refuse fentry: when it has been sent */
SEC("tp_btf/sock_send_length")
int BPF_PROG(on_sent, struct sock *sk, int sent)
{
	return sent > 0 ? answer(sk) : 0;
}

/* sendfile() of kernels before 6.5 */
SEC("fentry/tcp_sendpage")
int BPF_PROG(on_sendpage, struct sock *sk)
{
	return answer(sk);
}
