/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * core.h: the few kernel types that our BPF programs read, with the few members they read.
 *
 * preserve_access_index makes every member access a relocation: libbpf looks the member up by name in the running
 * kernel's BTF and patches the offset in. So these structs need neither the order, the size nor the nesting of the real
 * ones (members of anonymous unions are found too), and no vmlinux.h of the building host goes into the binary.
 * A struct must be declared before a BPF_PROG() names it, or clang sees two different ones.
 */
#pragma once

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__u32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport; /* network order */
	__u16 skc_num;	 /* the local port, host order */
	unsigned short skc_family;
	unsigned long skc_flags;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	__u8 sk_shutdown;
	int sk_err;
	struct sock_cgroup_data sk_cgrp_data;
	__u32 sk_ack_backlog; /* of a listening socket: connections in its accept queue, and the most there may be */
	__u32 sk_max_ack_backlog;
};

struct inet_sock {
	struct sock sk;
	/*
	 * Network order. Not skc_num: tcp_set_state() gives an ephemeral port back, and clears skc_num, before the trace
	 * point sees the socket close; this one stays.
	 */
	__u16 inet_sport;
};

typedef struct {
	int counter;
} atomic_t;

struct request_sock_queue {
	atomic_t qlen; /* handshakes under way */
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue; /* of a listening socket; called so, and not the accept queue */
	__u8 icsk_retransmits;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 tcp_clock_cache; /* CLOCK_MONOTONIC ns of the packet or timer that is being worked on */
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 bytes_sent; /* payload; those sent again too */
	__u64 bytes_retrans;
	__u32 total_retrans;
	__u32 srtt_us; /* eighths of a microsecond */
};

struct sk_buff {
	struct net_device *dev;
	unsigned int len;
	unsigned char *head;
	__u16 network_header, transport_header; /* offsets from it */
	__u16 protocol; /* network order */
};

struct task_struct {
	unsigned int flags;
};

#pragma clang attribute pop

/* Kernel constants that no uapi header carries for BPF */
#define AF_INET	 2
#define AF_INET6 10

#define PF_KTHREAD    0x00200000
#define SOCK_DONE     1 /* a bit of skc_flags: the peer's FIN has come */
#define SHUTDOWN_MASK 3
