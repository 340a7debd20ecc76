/* SPDX-License-Identifier: GPL-2.0-only */
/* queue.h: what queue.bpf.c and its reader share: a listening port, how often its accept queue has overflowed, and how deep
 * its SYN queue was. */
#pragma once

#ifndef __bpf__
#include <linux/types.h>
#endif

struct queue_key {
	__u32 netns; /* inode */
	__u16 port;  /* host order */
	__u16 family;
};

struct queue_count {
	__u64 overflows;
	__u64 first, last; /* CLOCK_MONOTONIC ns; 0: none */
	/* at the last one */
	__u32 queued, limit;
	__u32 handshakes;   /* in the SYN queue */
	__u16 peer_port;    /* of who found it full; host order */
	__u8 peer_family;   /* 4 or 6; 0: none yet */
	__u8 pad;
	__u8 peer[16];      /* IPv4: the first four bytes */
};

/*
 * How many handshakes were under way, as the SYNs that came found them: the most in each bucket of time, the last QUEUE_DEPTHS of them.
 * One place is the bucket's number in the upper half and the most in the lower one, so that both are swapped at once.
 */
#define QUEUE_BUCKET_NS	100000000ull
#define QUEUE_DEPTHS	16

struct queue_port {
	struct queue_count count;
	__u64 depth[QUEUE_DEPTHS]; /* by number modulo QUEUE_DEPTHS */
};
