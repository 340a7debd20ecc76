/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * conn.h: what conn.bpf.c and its reader share: the record in the ring, the aggregates, the counters, the numbers.
 *
 * Included by BPF code and by user space alike, so it uses nothing but the __uN types.
 *
 * Two records make a connection, seen from one of its ends: CONN_ESTABLISHED when the handshake is done, CONN_END when the
 * socket is closed; a connect that fails has CONN_END alone. CONN_END repeats all times, so a lost first
 * record takes nothing from the second.
 *
 * The aggregates are of three sorts, so that each is as small as its use allows:
 *
 *	counts	   by (namespace, role, service, peer), which the reader lays out in rows: who talked to whom, how much, with what outcome; since the start
 *	series	   by party (a service's real server, or all of its clients): buckets of time, the last CONN_SLOTS of them
 *	histograms by party: connect latency, round trip, lifetime, in the layout of engine/hist.h
 */
#pragma once

#ifndef __bpf__
#include <linux/types.h>
#endif

#define CONN_EVENT_VERSION 2

enum conn_kind {
	CONN_ESTABLISHED = 1,
	CONN_END = 2,
};

enum conn_role {
	CONN_ROLE_UNKNOWN = 0, /* born before we looked */
	CONN_ROLE_ACTIVE = 1,  /* called connect() */
	CONN_ROLE_PASSIVE = 2, /* came to a listening socket */
	CONN_ROLE_COUNT,
};

/* The states of <netinet/tcp.h>, which BPF code cannot include */
enum conn_state {
	CONN_TCP_ESTABLISHED = 1,
	CONN_TCP_SYN_SENT = 2,
	CONN_TCP_SYN_RECV = 3,
	CONN_TCP_FIN_WAIT1 = 4,
	CONN_TCP_FIN_WAIT2 = 5,
	CONN_TCP_TIME_WAIT = 6,
	CONN_TCP_CLOSE = 7,
	CONN_TCP_CLOSE_WAIT = 8,
	CONN_TCP_LAST_ACK = 9,
	CONN_TCP_LISTEN = 10,
	CONN_TCP_CLOSING = 11,
	CONN_TCP_MAX = 12, /* NEW_SYN_RECV: never of a full socket */
};

/*
 * How a connection ended, as this end of it saw it. One connection has two ends and may have two outcomes: the end that
 * aborts says ABORTED, the other RESET.
 */
enum conn_outcome {
	CONN_OUTCOME_ESTABLISHED, /* it has not ended */
	CONN_OUTCOME_CLOSED,	  /* FIN both ways */
	CONN_OUTCOME_REFUSED,	  /* a reset in answer to the SYN */
	CONN_OUTCOME_TIMED_OUT, /* retransmissions or keep-alives without an answer, in whatever state */
	CONN_OUTCOME_RESET,   /* the peer reset it */
	CONN_OUTCOME_ABORTED, /* this end gave it up: closed before the handshake was done, with unread data, with SO_LINGER 0, or destroyed */
	CONN_OUTCOME_UNREACHABLE, /* ICMP, or no neighbour answered */
	CONN_OUTCOME_ERROR, /* anything else; `error` may tell, 0 when connect() itself failed (no free port) */
	CONN_OUTCOME_COUNT,
};

/* Of <errno.h>, which BPF code cannot include either; the same on every architecture that is built for (cmake/bpf_object.cmake) */
enum {
	CONN_EPIPE = 32,
	CONN_ENONET = 64,
	CONN_ENETUNREACH = 101,
	CONN_ECONNABORTED = 103,
	CONN_ECONNRESET = 104,
	CONN_ETIMEDOUT = 110,
	CONN_ECONNREFUSED = 111,
	CONN_EHOSTDOWN = 112,
	CONN_EHOSTUNREACH = 113,
};

/*
 * The one judge of how it ended, for the kernel's counts and for the records alike.
 *
 * The socket's error tells, if there is one. Some ends leave none:
 *
 *	- this end's own close(): it shuts both directions first, so @shutdown is 3 while the state is still an open one;
 *	- a timeout on kernels (6.1) that wake the process before they close the socket, whereupon a quick process may have
 *	  fetched the error already: neither shut down nor in a closing state, but retransmitting.
 */
static inline __attribute__((always_inline)) enum conn_outcome conn_outcome_of(
	__u32 error, __u8 old_state, __u8 shutdown, __u8 retries)
{
	switch (error) {
	case 0:
		break;
	case CONN_ECONNREFUSED:
		return CONN_OUTCOME_REFUSED;
	case CONN_ETIMEDOUT:
		return CONN_OUTCOME_TIMED_OUT;
	case CONN_ECONNRESET:
	case CONN_EPIPE: /* a reset after the peer's FIN */
		return CONN_OUTCOME_RESET;
	case CONN_ECONNABORTED: /* SOCK_DESTROY */
		return CONN_OUTCOME_ABORTED;
	case CONN_EHOSTUNREACH:
	case CONN_ENETUNREACH:
	case CONN_EHOSTDOWN:
	case CONN_ENONET:
		return CONN_OUTCOME_UNREACHABLE;
	default:
		return CONN_OUTCOME_ERROR;
	}
	switch (old_state) {
	case CONN_TCP_SYN_SENT:
	case CONN_TCP_SYN_RECV:
		if (shutdown == 3)
			return CONN_OUTCOME_ABORTED;
		return retries > 0 ? CONN_OUTCOME_TIMED_OUT : CONN_OUTCOME_ERROR;
	case CONN_TCP_ESTABLISHED:
	case CONN_TCP_CLOSE_WAIT:
		if (shutdown == 3)
			return CONN_OUTCOME_ABORTED;
		return retries > 0 ? CONN_OUTCOME_TIMED_OUT : CONN_OUTCOME_ABORTED;
	default:
		return CONN_OUTCOME_CLOSED;
	}
}

#define CONN_F_BIRTH_UNKNOWN                                                                       \
	(1u << 0) /* no times before this one: the socket is older than the probe, or was not tracked */
#define CONN_F_ID_IS_COOKIE (1u << 1) /* `id` is what SO_COOKIE gives */
#define CONN_F_ALL	    (CONN_F_BIRTH_UNKNOWN | CONN_F_ID_IS_COOKIE)

#define CONN_COMM 16

struct conn_event {
	__u8 version;
	__u8 kind;	/* enum conn_kind */
	__u8 role;	/* enum conn_role */
	__u8 family;	/* 4 or 6; an IPv4 peer of an IPv6 socket is 4 */
	__u8 old_state; /* enum conn_state: what it was before */
	__u8 shutdown; /* sk_shutdown: bit 0 receive, bit 1 send; both before the end: this end's process closed it */
	__u8 retries; /* retransmissions in a row when it ended, without an answer */
	__u8 flags;   /* CONN_F_* */
	__u32 error;  /* sk_err; 0: none */
	__u32 netns;  /* inode of the network namespace */
	__u64 id;
	__u64 t;	   /* of this record; CLOCK_MONOTONIC ns, as all times here */
	__u64 open;	   /* connect() was called; passive: as `established`; 0: not known */
	__u64 established; /* 0: never, or not known (CONN_F_BIRTH_UNKNOWN) */
	__u64 acked,
		received; /* payload bytes, as tcp_info counts them: SYN and FIN count one each in `acked` */
	__u64 cgroup;		   /* id of the socket's control group (v2); 0: not known */
	__u32 retransmits;	   /* segments sent again, SYNs too */
	__u32 srtt_us;		   /* smoothed round trip, microseconds; 0: never measured */
	__u32 tgid;		   /* process; 0: not known, and `comm` is empty then */
	__u32 weight;		   /* this record stands for so many connections; 1: nothing is left out */
	__u32 pad;
	__u16 lport, rport;	   /* host order */
	__u8 laddr[16], raddr[16]; /* IPv4: the first four bytes */
	char comm[CONN_COMM];
};

_Static_assert(sizeof(struct conn_event) == 144,
	"no holes: the ring must not carry bytes that nobody wrote");

/* ── aggregates ────────────────────────────────────────────────────────────────────────────── */

#define CONN_NONE 0xffff /* no party */

/* Where a service is met: the local end of a passive connection, the remote end of an active one. IPv4 as ::ffff:a.b.c.d */
struct conn_endpoint_key {
	__u32 netns;
	__u16 port; /* host order */
	__u16 role;
	__u8 addr[16];
};

struct conn_endpoint {
	__u32 counts; /* its row: the first of conn_width counts, one for each peer; 0 is for nobody known */
	__u16 party;  /* CONN_NONE: it is in the counts alone */
	__u16 pad;
};

struct conn_peer_key {
	__u8 addr[16];
};

struct conn_count {
	__u64 opened, established;
	__u64 ended[CONN_OUTCOME_COUNT];
	__u64 bytes_in, bytes_out; /* payload of those that ended: what came and what was sent, each byte once */
	__u64 retransmits;	   /* segments sent again, at the time they were */
	__u64 unknown_birth;	   /* ends of connections that are older than the probe, or were not tracked: not in `ended` */
};

/* As TIMELINE_BUCKET and engine/hist.h; asserted where both are seen (telemetry.c) */
#define CONN_BUCKET_NS	  100000000ULL
#define CONN_HIST_BUCKETS 4608

/*
 * One slot is one bucket of time, found by its number modulo CONN_SLOTS. Whoever writes into a slot of an older bucket clears
 * it first. The reader must come by before a slot is needed again; `total`, which is never cleared, tells when he did not.
 */
#define CONN_SLOTS 32

struct conn_slot {
	__u64 bucket; /* number: time / CONN_BUCKET_NS */
	__u32 established, closed, failed, resets;
	__u64 retransmits;
	__u64 first, last; /* of `established`; 0: none */
	/*
	 * The first and the last that were in trouble: the packet that was sent in vain, so of a connect that failed or is sent
	 * again the time it was begun, which may be before this bucket; else the time of the reset or retransmission. 0: none
	 */
	__u64 first_bad, last_bad;
};

_Static_assert(sizeof(struct conn_slot) == 64, "a cache line");

struct conn_series {
	__u64 total; /* of all slots, ever: established + closed + failed + resets + retransmits */
	struct conn_slot slot[CONN_SLOTS];
};

/* Programs that may interrupt each other on a CPU have each a series of their own; the reader adds them up. */
enum conn_way {
	CONN_WAY_FIRST,
	CONN_WAY_SECOND,
	CONN_WAY_RETRANSMIT,
	CONN_WAY_COUNT,
};

enum conn_hist_kind {
	CONN_HIST_CONNECT,  /* active: connect() to established, ns */
	CONN_HIST_SRTT,	    /* smoothed round trip at the end, ns */
	CONN_HIST_LIFETIME, /* established to the end, ns */
	CONN_HIST_COUNT,
};

struct conn_hist {
	__u32 count[CONN_HIST_BUCKETS];
};

/* Of a namespace: packets */
struct conn_packets {
	__u64 resets_sent, resets_received;
	__u64 retransmits;	  /* segments */
	__u64 synack_retransmits; /* of listeners: no connection counts them */
};

/* ── the rest ──────────────────────────────────────────────────────────────────────────────── */

#define CONN_NOT_SAMPLED 0xff

/* A connection that has not ended, in the kernel's table */
struct conn_live {
	__u64 id, open, established;
	__u32 tgid;
	__u32 retransmits; /* counted so far */
	__u32 count;	   /* index of its counts */
	__u16 party;
	__u8 role;
	__u8 sample; /* it stands for 1 << sample connections in the ring; CONN_NOT_SAMPLED: it is not there */
	char comm[CONN_COMM];
};

/*
 * The table is an array of these. A connection is found by the address of its socket, which is its own for as long as it lives,
 * in the one set that the address falls into: keys first, so that a search touches two cache lines, and the connection a third. A
 * hash table of the kernel's does the same for three times the time, and this is most of what telemetry costs a host.
 */
#define CONN_SET 16

struct conn_set {
	__u64 key[CONN_SET]; /* 0: free */
	struct conn_live live[CONN_SET];
};

/* Where the last connection of a role belonged: the next is often of the same */
struct conn_memo {
	struct conn_endpoint_key key;
	struct conn_peer_key peer;
	__u32 count;
	__u16 party;
	__u8 where; /* 0: nothing is remembered yet */
	__u8 pad;
};

_Static_assert(sizeof(struct conn_memo) == 48, "no holes: it is compared by words");

/* Per CPU, one entry */
struct conn_counters {
	__u64 submitted;   /* records in the ring */
	__u64 ring_full;   /* records lost: no room */
	__u64 untracked;   /* births lost: table of live connections full */
	__u64 moves;	   /* runs of the first program; without the second, of those for changes that matter */
	__u64 rescued;	   /* runs of the second program in place of the first */
	__u64 births;	   /* connections that might have been in the ring */
	__u64 sampled_out; /* ... and are not, because there were too many */
	__u64 sample_most; /* the greatest `sample` so far */
	__u64 token[2];	   /* of changes that the first program has seen and the second not yet; 0: none */
	__u64 key[CONN_WAY_COUNT]; /* for a moment: see number_of() */
	struct conn_memo memo[CONN_WAY_COUNT][CONN_ROLE_COUNT];
	/* sampling: births in this window of time */
	__u64 window, in_window;
	__u64 sample; /* now */
};

#define CONN_SAMPLE_WINDOW_SHIFT 27 /* 2^27 ns = 134 ms */
#define CONN_SAMPLE_MAX		 16
