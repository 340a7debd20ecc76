/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * conn.bpf.c: follows every TCP connection of the namespaces it is told of, at the one trace point that sees them all:
 * inet_sock_set_state(sk, old, new), called just before the socket's state is changed.
 *
 *	active   CLOSE ── SYN_SENT ── ESTABLISHED ──┐
 *	               birth         │              ├─ FIN_WAIT1 ── FIN_WAIT2 ── CLOSE
 *	               (connect)     └ failed: CLOSE├─ CLOSE_WAIT ── LAST_ACK ── CLOSE
 *	passive  LISTEN ── SYN_RECV ── ESTABLISHED ─┘  reset, timeout, abort ─── CLOSE
 *	               ignored        birth                                      death
 *
 * SYN_RECV is ignored because the child still carries the listener's address and no cookie of its own then
 * (inet_csk_clone_lock() fills both in after it has set the state).
 *
 * Which process? The trace point runs in whatever context moved the socket. Only these moves are made by the socket's own
 * process: to SYN_SENT (connect), to FIN_WAIT1 and LAST_ACK (close, shutdown), and to CLOSE when both directions were shut
 * before, which is what close() does first. All others run in softirq or a timer, on top of any process. So an active
 * connection is its opener's from the start, a passive one has no process until its end closes it, and one that the peer
 * resets has none at all.
 *
 * Why two programs? The kernel does not run a program on top of itself: when an interrupt's softirq comes upon a process that
 * is in the middle of it, and moves another socket, that run is skipped. Under a high rate of packets that is not rare enough
 * to let pass, and on a slow processor it is not rare at all. So a second, identical program waits behind the first, and acts
 * for each change that the first was not run for: the first leaves a token of each that it was. A change is lost only if both are
 * skipped, so if it interrupts them both; softirqs do not nest, so none does.
 *
 * A trace point with two programs costs the kernel three times as much as one with a single one, more than all that is done here. So the
 * reader takes the second away when it has not been needed for long, and brings it back when a change is lost (telemetry.c).
 *
 * A connection's facts are kept here until it ends (`live`, by the address of its socket). What is made of them:
 *
 *	aggregates	always exact, and the reader pays by the second (conn.h says which there are)
 *	records		one at the handshake, one at the end, whole, so that user space needs no memory of its own; those that the
 *			reader asked for (rodata), and above a rate that it states only a sample, drawn at the connection's birth, so
 *			that it has both records or none. A record says how many connections it stands for
 *
 * What cannot be kept or sent is counted.
 *
 * The series are written without atomics: the two programs, and the one at retransmissions, have each their own, and none of
 * them runs on top of itself.
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

#define IPPROTO_TCP 6

char LICENSE[] SEC("license") = "GPL";

/* Set by the reader before loading */
const volatile bool all_netns = false;
const volatile bool want_records = true;
const volatile bool want_aggregates = false;
const volatile bool records_of_services = false; /* no others */
const volatile bool records_of_failures = false; /* ends that were not clean, and nothing else */
const volatile bool sees_retransmits = false;	 /* conn_retransmit is attached */
const volatile __u32 records_limit = 0;		 /* connections in one window and on one CPU; 0: no limit */
const volatile __u32 width = 1; /* of a row of counts */
const volatile __u32 live_sets = 1; /* of the table of live connections */
const volatile __u32 wake_bytes =
	1 << 20; /* wakes the reader when this much waits; below, it comes by itself */

volatile bool has_second = true; /* the second program is attached, or about to be: the reader says so */

static const struct conn_packets no_packets;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22); /* the reader may change it */
} ring SEC(".maps");

/* Inodes of the namespaces of interest, and the rows for what is of no service there: CONN_ROLE_COUNT of them */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} netns_wanted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* live_sets */
	__type(key, __u32);
	__type(value, struct conn_set);
} live SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conn_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the reader changes this and those below */
	__type(key, struct conn_endpoint_key);
	__type(value, struct conn_endpoint);
} endpoints SEC(".maps");

/* Whose address it is */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct conn_peer_key);
	__type(value, __u32);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conn_count);
} counts SEC(".maps");

/* [party * CONN_WAY_COUNT + way] */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conn_series);
} series SEC(".maps");

/* [party * CONN_HIST_COUNT + kind] */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conn_hist);
} hists SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct conn_packets);
} packets SEC(".maps");

/* Ids where there is no cookie: a count per CPU, told apart by its number */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} next_id SEC(".maps");

/* Atomic although per CPU: a softirq may come between the load and the store of a program run by a process. */
#define COUNT(c, member) __sync_fetch_and_add(&(c)->member, 1)

/*
 * In the aggregates, which the two programs share: while there is the first alone, nothing comes between the load and the store. Only
 * the retransmits have another that counts them.
 */
#define ADD(counter, more)                                                                         \
	do {                                                                                       \
		if (has_second)                                                                    \
			__sync_fetch_and_add(counter, more);                                       \
		else                                                                               \
			*(counter) += (more);                                                      \
	} while (0)

static __always_inline struct conn_counters *my_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline __u64 make_id(void)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&next_id, &zero);
	__u64 cpu = bpf_get_smp_processor_id();

	return n ? (1ULL << 62) | (cpu << 48) | __sync_fetch_and_add(n, 1) : 0;
}

/*
 * A member of a kernel struct. A tp_btf program has typed pointers and simply loads; in a raw tracepoint's they are numbers,
 * and each member takes a helper's call, which made a run half as long again when both did so. @typed is a constant, so one of
 * the two is gone before the verifier sees it.
 */
#define GET(typed, p, member) ((typed) ? (p)->member : BPF_CORE_READ(p, member))
#define SK(typed, tp, member) GET(typed, tp, inet_conn.icsk_inet.sk.member)

/* ── the table of live connections ─────────────────────────────────────────────────────────── */

/* A pointer as a number: the verifier lets nobody reckon with one, but what is read from a map is a number */
static __always_inline __u64 number_of(struct conn_counters *n, int way, const void *p)
{
	*(const void *volatile *)&n->key[way] = p;
	return *(volatile __u64 *)&n->key[way];
}

static __always_inline struct conn_set *set_of(__u64 key)
{
	__u32 i = ((key >> 6) * 0x9e3779b97f4a7c15ull >> 32) * live_sets >> 32;

	return bpf_map_lookup_elem(&live, &i);
}

/*
 * Functions that are not static are verified once, by themselves, instead of on every path that leads to them: without that a load
 * takes the verifier a hundred times as long. The price is that it believes nothing of what they return.
 */
int find(struct conn_set *set, __u64 key);
int claim(struct conn_set *set, __u64 key);
__u32 outcome_of(__u32 error, __u8 old, __u8 shutdown, __u8 retries);
__u32 draw(struct conn_counters *n, __u64 now);

__noinline int find(struct conn_set *set, __u64 key)
{
	if (!set)
		return -1;
	for (int i = 0; i < CONN_SET; i++)
		if (set->key[i] == key)
			return i;
	return -1;
}

/* Most sets hold one connection or none: that one is found, or known not to be there, without a call, which is dear */
static __always_inline struct conn_live *live_find(struct conn_set *set, __u64 key, __u32 *ret_at)
{
	__u64 any = 0;
	int i;

	if (!set)
		return NULL;
	if (set->key[0] == key) {
		*ret_at = 0;
		return &set->live[0];
	}
	for (i = 0; i < CONN_SET; i++)
		any |= set->key[i];
	i = any ? find(set, key) : -1;
	if (i < 0 || i >= CONN_SET)
		return NULL;
	*ret_at = i;
	return &set->live[i];
}

/* Other sockets' births compete for the free places, on other CPUs; nobody else asks for this one: its socket is locked */
__noinline int claim(struct conn_set *set, __u64 key)
{
	if (!set)
		return -1;
	for (int i = 0; i < CONN_SET; i++)
		if (!set->key[i] && __sync_val_compare_and_swap(&set->key[i], 0, key) == 0)
			return i;
	return -1;
}

static __always_inline void live_add(struct conn_counters *n, struct conn_set *set, __u64 key, const struct conn_live *c)
{
	int i = -1;

	if (set && !set->key[0] && __sync_val_compare_and_swap(&set->key[0], 0, key) == 0)
		i = 0;
	else if (set)
		i = claim(set, key);
	if (i < 0 || i >= CONN_SET)
		COUNT(n, untracked);
	else
		set->live[i] = *c;
}

static __always_inline void live_delete(struct conn_set *set, __u32 at)
{
	if (at < CONN_SET)
		*(volatile __u64 *)&set->key[at] = 0;
}

/* Only for the moves named above */
static __always_inline void set_process(struct conn_live *l)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();

	/* The last reference may be dropped by a kernel worker in the process's stead */
	if (task->flags & PF_KTHREAD)
		return;
	l->tgid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(l->comm, sizeof(l->comm));
}

/* close() with unread data, or with SO_LINGER 0, or before the handshake was done: at once to CLOSE */
static __always_inline bool closed_by_process(bool typed, struct tcp_sock *tp, int old)
{
	return (old == CONN_TCP_ESTABLISHED || old == CONN_TCP_CLOSE_WAIT ||
		       old == CONN_TCP_SYN_SENT) &&
	       SK(typed, tp, sk_shutdown) == SHUTDOWN_MASK && !SK(typed, tp, sk_err);
}

static __always_inline void read_addresses(bool typed, struct tcp_sock *tp, struct conn_event *e)
{
	__u32 *l = (__u32 *)e->laddr, *r = (__u32 *)e->raddr;

	e->lport = bpf_ntohs(GET(typed, tp, inet_conn.icsk_inet.inet_sport));
	e->rport = bpf_ntohs(SK(typed, tp, __sk_common.skc_dport));
	if (SK(typed, tp, __sk_common.skc_family) == AF_INET6) {
		r[0] = SK(typed, tp, __sk_common.skc_v6_daddr.in6_u.u6_addr32[0]);
		r[1] = SK(typed, tp, __sk_common.skc_v6_daddr.in6_u.u6_addr32[1]);
		r[2] = SK(typed, tp, __sk_common.skc_v6_daddr.in6_u.u6_addr32[2]);
		r[3] = SK(typed, tp, __sk_common.skc_v6_daddr.in6_u.u6_addr32[3]);
		/* ::ffff:a.b.c.d: IPv4 after all, and the IPv4 members are filled in */
		if (r[0] || r[1] || r[2] != bpf_htonl(0xffff)) {
			e->family = 6;
			l[0] = SK(typed, tp, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[0]);
			l[1] = SK(typed, tp, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[1]);
			l[2] = SK(typed, tp, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[2]);
			l[3] = SK(typed, tp, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[3]);
			return;
		}
	}
	e->family = 4;
	l[0] = SK(typed, tp, __sk_common.skc_rcv_saddr);
	r[0] = SK(typed, tp, __sk_common.skc_daddr);
	l[1] = l[2] = l[3] = r[1] = r[2] = r[3] = 0;
}

static __always_inline __u64 cgroup_of(bool typed, struct tcp_sock *tp)
{
	if (!bpf_core_field_exists(struct sock, sk_cgrp_data.cgroup))
		return 0;
	return typed ? tp->inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup->kn->id :
		       BPF_CORE_READ(tp, inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup, kn, id);
}

static __always_inline void send(struct conn_counters *n, bool typed, struct tcp_sock *tp,
	__u8 kind, int old, __u64 now, const struct conn_live *l)
{
	struct conn_event *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
	__u64 waiting, flags = BPF_RB_NO_WAKEUP;

	if (!e) {
		COUNT(n, ring_full);
		return;
	}
	e->version = CONN_EVENT_VERSION;
	e->kind = kind;
	e->role = l->role;
	e->old_state = old;
	e->shutdown = SK(typed, tp, sk_shutdown);
	e->retries = GET(typed, tp, inet_conn.icsk_retransmits);
	e->flags = (l->open ? 0 : CONN_F_BIRTH_UNKNOWN) | (typed ? CONN_F_ID_IS_COOKIE : 0);
	e->error = SK(typed, tp, sk_err);
	e->netns = typed ? tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net->ns.inum :
			   BPF_CORE_READ(tp, inet_conn.icsk_inet.sk.__sk_common.skc_net.net, ns.inum);
	e->id = l->id;
	e->t = now;
	e->open = l->open;
	e->established = l->established;
	e->acked = GET(typed, tp, bytes_acked);
	e->received = GET(typed, tp, bytes_received);
	e->retransmits = GET(typed, tp, total_retrans);
	e->srtt_us = GET(typed, tp, srtt_us) >> 3;
	e->cgroup = cgroup_of(typed, tp);
	e->tgid = l->tgid;
	e->weight = 1u << (l->sample & 31);
	e->pad = 0;
	__builtin_memcpy(e->comm, l->comm, sizeof(e->comm));
	read_addresses(typed, tp, e);
	COUNT(n, submitted);
	/*
	 * Forced on crossing the mark, not adaptive (flags 0): that wakes only a reader who has caught up to this very
	 * record, which after records without a wake-up he never has.
	 */
	waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
	if (waiting >= wake_bytes && waiting - wake_bytes < 4 * sizeof(*e))
		flags = BPF_RB_FORCE_WAKEUP;
	bpf_ringbuf_submit(e, flags);
}

/* ── aggregates ────────────────────────────────────────────────────────────────────────────── */

__noinline __u32 outcome_of(__u32 error, __u8 old, __u8 shutdown, __u8 retries)
{
	return conn_outcome_of(error, old, shutdown, retries);
}

_Static_assert((CONN_OUTCOME_COUNT & (CONN_OUTCOME_COUNT - 1)) == 0, "a mask is all that the verifier needs to see");

static __always_inline void hist_add(__u16 party, int kind, __u64 ns)
{
	__u32 key = party * CONN_HIST_COUNT + kind, i = hist_index(ns);
	struct conn_hist *h = bpf_map_lookup_elem(&hists, &key);

	if (h && i < CONN_HIST_BUCKETS)
		ADD(&h->count[i], 1);
}

static __always_inline struct conn_series *series_of(int way, __u16 party)
{
	__u32 key = party * CONN_WAY_COUNT + way;

	return bpf_map_lookup_elem(&series, &key);
}

static __always_inline struct conn_slot *slot_at(struct conn_series *s, __u64 now)
{
	__u64 bucket = now / CONN_BUCKET_NS;
	struct conn_slot *slot = &s->slot[bucket % CONN_SLOTS];

	if (slot->bucket != bucket) {
		slot->established = slot->closed = slot->failed = slot->resets = 0;
		slot->retransmits = slot->first = slot->last = slot->first_bad = slot->last_bad = 0;
		slot->bucket = bucket;
	}
	return slot;
}

static __always_inline void in_trouble(struct conn_slot *slot, __u64 t)
{
	if (!slot->first_bad || t < slot->first_bad)
		slot->first_bad = t;
	if (t > slot->last_bad)
		slot->last_bad = t;
}

/* After the slot: a reader who copies from the front never finds more in `total` than in the slots */
#define SERIES_TOTAL(s, n) (*(volatile __u64 *)&(s)->total += (n))

static __always_inline struct conn_count *count_of(const struct conn_live *c)
{
	__u32 key = c->count;

	return bpf_map_lookup_elem(&counts, &key);
}

static __always_inline void wide_address(bool typed, struct tcp_sock *tp, bool remote, __u8 addr[16])
{
	__u32 *a = (__u32 *)addr;

	if (SK(typed, tp, __sk_common.skc_family) != AF_INET6) {
		a[0] = a[1] = 0;
		a[2] = bpf_htonl(0xffff);
		a[3] = remote ? SK(typed, tp, __sk_common.skc_daddr) : SK(typed, tp, __sk_common.skc_rcv_saddr);
	} else if (remote) {
		a[0] = SK(typed, tp, __sk_common.skc_v6_daddr.in6_u.u6_addr32[0]);
		a[1] = SK(typed, tp, __sk_common.skc_v6_daddr.in6_u.u6_addr32[1]);
		a[2] = SK(typed, tp, __sk_common.skc_v6_daddr.in6_u.u6_addr32[2]);
		a[3] = SK(typed, tp, __sk_common.skc_v6_daddr.in6_u.u6_addr32[3]);
	} else {
		a[0] = SK(typed, tp, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[0]);
		a[1] = SK(typed, tp, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[1]);
		a[2] = SK(typed, tp, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[2]);
		a[3] = SK(typed, tp, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[3]);
	}
}

enum { NOT_WANTED = 1, OF_NO_SERVICE, OF_A_SERVICE };

static __always_inline bool same_place(
	const struct conn_memo *m, const struct conn_endpoint_key *key, const struct conn_peer_key *peer)
{
	const __u64 *a = (const __u64 *)&m->key, *b = (const __u64 *)key, *c = (const __u64 *)peer;

	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ c[0]) | (a[4] ^ c[1]));
}

/*
 * Which service, party and peer it belongs to, if it is of interest at all. A connection of unknown role is tried as a
 * server's, then as a client's.
 */
static __always_inline int place(
	struct conn_counters *n, int way, bool typed, struct tcp_sock *tp, __u32 netns, struct conn_live *c)
{
	bool active = c->role == CONN_ROLE_ACTIVE;
	struct conn_memo *memo = &n->memo[way][active				  ? CONN_ROLE_ACTIVE :
					       c->role == CONN_ROLE_PASSIVE ? CONN_ROLE_PASSIVE :
									      CONN_ROLE_UNKNOWN];
	struct conn_endpoint_key key = {.netns = netns};
	const struct conn_endpoint *e = NULL;
	struct conn_peer_key peer;
	int where = NOT_WANTED;
	__u32 *node;

	c->party = CONN_NONE;
	if (want_aggregates || records_of_services) {
		wide_address(typed, tp, true, peer.addr);
		if (active) {
			key.role = CONN_ROLE_ACTIVE;
			key.port = bpf_ntohs(SK(typed, tp, __sk_common.skc_dport));
			__builtin_memcpy(key.addr, peer.addr, 16);
		} else {
			key.role = CONN_ROLE_PASSIVE;
			key.port = bpf_ntohs(GET(typed, tp, inet_conn.icsk_inet.inet_sport));
			wide_address(typed, tp, false, key.addr);
		}
		if (c->role != CONN_ROLE_UNKNOWN && memo->where && same_place(memo, &key, &peer)) {
			c->count = memo->count;
			c->party = memo->party;
			return memo->where;
		}
		memo->key = key;
		memo->peer = peer;
		memo->where = 0;
		e = bpf_map_lookup_elem(&endpoints, &key);
		if (!e && c->role == CONN_ROLE_UNKNOWN) {
			key.role = CONN_ROLE_ACTIVE;
			key.port = bpf_ntohs(SK(typed, tp, __sk_common.skc_dport));
			__builtin_memcpy(key.addr, peer.addr, 16);
			e = bpf_map_lookup_elem(&endpoints, &key);
		}
	}
	if (e) {
		c->count = e->counts;
		c->party = e->party;
		where = OF_A_SERVICE;
	} else if (all_netns) {
		where = OF_NO_SERVICE;
	} else {
		const __u32 *row = bpf_map_lookup_elem(&netns_wanted, &netns);

		if (row) {
			c->count = *row + c->role * width;
			where = OF_NO_SERVICE;
		}
	}
	if (want_aggregates) {
		node = bpf_map_lookup_elem(&peers, &peer);
		if (node)
			c->count += *node;
	}
	memo->count = c->count;
	memo->party = c->party;
	memo->where = where;
	return where;
}

/* ── the sample ────────────────────────────────────────────────────────────────────────────── */

/*
 * Half as many of them as soon as a window has seen more than the limit, and twice as many after a window that would have been
 * within it. By lot: every second one would go in step with a scheduler that deals out in turn.
 */
__noinline __u32 draw(struct conn_counters *n, __u64 now)
{
	__u64 window = now >> CONN_SAMPLE_WINDOW_SHIFT, sample;

	if (!n)
		return CONN_NOT_SAMPLED;
	COUNT(n, births);
	if (!records_limit)
		return 0;
	sample = n->sample & 31;
	if (n->window != window) {
		if (n->window + 1 != window)
			sample = 0;
		else if (sample && n->in_window <= (__u64)records_limit << (sample - 1))
			sample--;
		n->window = window;
		n->in_window = 0;
	}
	if (++n->in_window > (__u64)records_limit << sample && sample < CONN_SAMPLE_MAX) {
		sample++;
		if (n->sample_most < sample)
			n->sample_most = sample;
	}
	n->sample = sample;
	if (sample && (bpf_get_prandom_u32() & ((1u << sample) - 1))) {
		COUNT(n, sampled_out);
		return CONN_NOT_SAMPLED;
	}
	return sample;
}

/* ── a connection's life ───────────────────────────────────────────────────────────────────── */

/*
 * The time. Reading the clock is dear in some virtual machines. Where a packet or a timer of this very socket is being worked
 * on, TCP has read it already, a few instructions ago: on the way to ESTABLISHED, at the last ACK, and at the peer's FIN when
 * this end's has been answered: the end comes in the same breath as SOCK_DONE then.
 */
static __always_inline __u64 time_of(bool typed, struct tcp_sock *tp, int old, int new)
{
	__u64 t = 0;

	if (new == CONN_TCP_ESTABLISHED || old == CONN_TCP_LAST_ACK ||
		(old == CONN_TCP_FIN_WAIT2 && (SK(typed, tp, __sk_common.skc_flags) & (1ul << SOCK_DONE))))
		t = GET(typed, tp, tcp_clock_cache);
	return t ? t : bpf_ktime_get_ns();
}

static __always_inline void count_established(int way, __u64 now, const struct conn_live *c, bool opened)
{
	struct conn_count *v = count_of(c);
	struct conn_series *s;

	if (v) {
		ADD(&v->established, 1);
		if (opened)
			ADD(&v->opened, 1);
	}
	if (c->party == CONN_NONE)
		return;
	if (c->role == CONN_ROLE_ACTIVE && c->open)
		hist_add(c->party, CONN_HIST_CONNECT, now - c->open);
	s = series_of(way, c->party);
	if (s) {
		struct conn_slot *slot = slot_at(s, now);

		slot->established++;
		if (!slot->first)
			slot->first = now;
		slot->last = now;
		SERIES_TOTAL(s, 1);
	}
}

static __always_inline void count_end(int way, bool typed, struct tcp_sock *tp, int old, __u64 now,
	const struct conn_live *c, __u32 outcome)
{
	__u64 in = GET(typed, tp, bytes_received), out = GET(typed, tp, bytes_sent) - GET(typed, tp, bytes_retrans);
	__u32 retransmits = GET(typed, tp, total_retrans), srtt = GET(typed, tp, srtt_us) >> 3;
	bool failed = c->role == CONN_ROLE_ACTIVE && !c->established && (c->open || old == CONN_TCP_SYN_SENT);
	struct conn_count *v = count_of(c);
	struct conn_series *s;

	if (in && (SK(typed, tp, __sk_common.skc_flags) & (1ul << SOCK_DONE)))
		in--; /* the FIN counts as one */
	/* one that is not in `live` has been told of by conn_retransmit, each time */
	if (c->open || !sees_retransmits)
		retransmits -= c->retransmits;
	else
		retransmits = 0;
	if (v) {
		if (!c->open && !failed)
			ADD(&v->unknown_birth, 1);
		else
			ADD(&v->ended[outcome & (CONN_OUTCOME_COUNT - 1)], 1);
		ADD(&v->bytes_in, in);
		ADD(&v->bytes_out, out);
		if (retransmits)
			__sync_fetch_and_add(&v->retransmits, retransmits);
	}
	if (c->party == CONN_NONE)
		return;
	if (srtt && !failed)
		hist_add(c->party, CONN_HIST_SRTT, srtt * 1000ULL);
	if (c->established)
		hist_add(c->party, CONN_HIST_LIFETIME, now - c->established);
	if (!c->open && !failed)
		return; /* its birth is in no bucket: more would close than had opened */
	s = series_of(way, c->party);
	if (s) {
		struct conn_slot *slot = slot_at(s, now);
		bool reset = outcome == CONN_OUTCOME_RESET || outcome == CONN_OUTCOME_TIMED_OUT;

		if (failed)
			slot->failed++;
		else
			slot->closed++;
		if (reset && !failed)
			slot->resets++;
		slot->retransmits += retransmits;
		if (failed || reset || retransmits)
			in_trouble(slot, failed && c->open ? c->open : now);
		SERIES_TOTAL(s, 1 + (reset && !failed) + retransmits);
	}
}

static __always_inline bool wanted(__u32 netns)
{
	return all_netns || bpf_map_lookup_elem(&netns_wanted, &netns);
}

static __always_inline int role_of(int old, int new)
{
	if (new == CONN_TCP_ESTABLISHED && old == CONN_TCP_SYN_RECV)
		return CONN_ROLE_PASSIVE;
	if (new == CONN_TCP_CLOSE && old != CONN_TCP_SYN_SENT)
		return CONN_ROLE_UNKNOWN;
	return CONN_ROLE_ACTIVE;
}

static __always_inline void set_state(struct conn_counters *n, int way, __u64 key, bool typed, struct sock *sk,
	struct tcp_sock *tp, int old, int new)
{
	__u64 now;
	struct conn_live c = {}; /* a copy: the verifier wants one kind of pointer in send() */
	struct conn_set *set = set_of(key);
	__u32 outcome;
	struct conn_live *l;
	__u32 at = 0, netns;
	bool known;

	/* an active one may come from SYN_RECV too, when both ends called connect() */
	l = live_find(set, key, &at);
	known = l && new != CONN_TCP_SYN_SENT; /* else left behind by one whose end was missed */
	if (!known) {
		int where;

		if (new == CONN_TCP_FIN_WAIT1 || new == CONN_TCP_LAST_ACK)
			return;
		/* a child that never came to be; a socket that was closed already */
		if (new == CONN_TCP_CLOSE && (old == CONN_TCP_SYN_RECV || old == CONN_TCP_CLOSE))
			return;
		netns = typed ? sk->__sk_common.skc_net.net->ns.inum : BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
		c.role = role_of(old, new);
		where = place(n, way, typed, tp, netns, &c);
		if (where == NOT_WANTED)
			return;
		now = time_of(typed, tp, old, new);
		c.sample = want_records && (where == OF_A_SERVICE || !records_of_services) ? draw(n, now) : CONN_NOT_SAMPLED;
		if (c.sample != CONN_NOT_SAMPLED)
			c.id = typed ? bpf_get_socket_cookie(sk) : make_id();
	} else {
		now = time_of(typed, tp, old, new);
		c = *l;
	}

	switch (new) {
	case CONN_TCP_SYN_SENT:
		c.open = now;
		if (c.sample != CONN_NOT_SAMPLED)
			set_process(&c);
		if (l)
			*l = c;
		else
			live_add(n, set, key, &c);
		if (want_aggregates) {
			struct conn_count *v = count_of(&c);

			if (v)
				ADD(&v->opened, 1);
		}
		return;

	case CONN_TCP_ESTABLISHED:
		c.established = now;
		if (known) {
			l->established = now;
		} else if (c.role == CONN_ROLE_PASSIVE) {
			c.open = now;
			live_add(n, set, key, &c);
		}
		if (want_aggregates)
			count_established(way, now, &c, !known && c.role == CONN_ROLE_PASSIVE);
		if (c.sample != CONN_NOT_SAMPLED && !records_of_failures)
			send(n, typed, tp, CONN_ESTABLISHED, old, now, &c);
		return;

	case CONN_TCP_FIN_WAIT1:
	case CONN_TCP_LAST_ACK:
		if (!l->tgid && l->sample != CONN_NOT_SAMPLED)
			set_process(l);
		return;

	case CONN_TCP_CLOSE:
		outcome = outcome_of(SK(typed, tp, sk_err), old, SK(typed, tp, sk_shutdown),
			GET(typed, tp, inet_conn.icsk_retransmits));
		if (want_aggregates)
			count_end(way, typed, tp, old, now, &c, outcome);
		if (c.sample != CONN_NOT_SAMPLED && (!records_of_failures || outcome != CONN_OUTCOME_CLOSED)) {
			if (!c.tgid && closed_by_process(typed, tp, old))
				set_process(&c);
			send(n, typed, tp, CONN_END, old, now, &c);
		}
		if (known)
			live_delete(set, at);
		return;
	}
}

/* Does this change matter at all? Most do not: the half of a close, the life of listening sockets */
static __always_inline bool of_interest(int old, int new)
{
	if (old == CONN_TCP_LISTEN)
		return false;
	if (want_records && (new == CONN_TCP_FIN_WAIT1 || new == CONN_TCP_LAST_ACK))
		return true;
	return new == CONN_TCP_SYN_SENT || new == CONN_TCP_ESTABLISHED || new == CONN_TCP_CLOSE;
}

static __always_inline void on_tp_btf(struct conn_counters *n, int way, __u64 key, struct sock *sk, int old, int new)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk); /* NULL: SCTP, MPTCP's own */

	if (tp)
		set_state(n, way, key, true, sk, tp, old, new);
}

/* For a kernel where tp_btf does not load. No cookie can be asked for here. */
static __always_inline void on_raw_tp(struct conn_counters *n, int way, __u64 key, struct sock *sk, int old, int new)
{
	if (BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP)
		set_state(n, way, key, false, sk, (struct tcp_sock *)sk, old, new);
}

/* ── which changes the first program was not run for ───────────────────────────────────────── */

/*
 * The first program leaves a token of the change, the second takes it away; where there is none to take, the first was skipped.
 * A socket is locked while it is moved, so that no change comes upon another of the same socket.
 *
 * Both run in one go, without preemption in between or within: what comes between them on this CPU is an interrupt, whose
 * changes are through with both of them before it returns. So of the changes under way there are two at most, a process's and a
 * softirq's, and the one below has the first slot.
 *
 * A softirq that comes upon the second program leaves tokens that nobody takes, for the second is skipped then. They lie above
 * that of the change it came upon, and go when that one is taken; or, if it was gone already, in its place, until a change
 * clears them away that is a process's for certain, so that nothing is under way below. Until then the slot above serves both
 * levels.
 *
 * A token that was left behind could only hide the same move of the same socket, and only if the first program is skipped for
 * that one too. Even that is counted: what was skipped and not rescued.
 */
static __always_inline void token_leave(struct conn_counters *n, __u64 token, int new)
{
	volatile __u64 *slot = n->token;
	bool of_process = new == CONN_TCP_SYN_SENT || new == CONN_TCP_FIN_WAIT1 || new == CONN_TCP_LAST_ACK;

	if (slot[0] && slot[0] != token && !of_process) {
		slot[1] = token;
		return;
	}
	slot[1] = 0;
	slot[0] = token;
}

static __always_inline bool token_take(struct conn_counters *n, __u64 token)
{
	volatile __u64 *slot = n->token;

	if (slot[0] == token) {
		slot[1] = 0;
		slot[0] = 0;
		return true;
	}
	if (slot[1] != token)
		return false;
	slot[1] = 0;
	return true;
}

/*
 * The token goes before anything else, and also for a change that does not matter, since one that does may come upon it. A
 * socket's address is a multiple of more than there are states. The reader learns of what was lost by comparing the kernel's
 * count of skipped runs of the first with `rescued`.
 */
#define FIRST(handler)                                                                             \
	do {                                                                                       \
		struct conn_counters *n;                                                           \
		__u64 key;                                                                         \
		if (!has_second && !of_interest(old, new))                                         \
			return 0;                                                                  \
		n = my_counters();                                                                 \
		if (!n)                                                                            \
			return 0;                                                                  \
		n->moves++;                                                                        \
		key = number_of(n, CONN_WAY_FIRST, sk);                                            \
		if (has_second)                                                                    \
			token_leave(n, key + (__u32)new, new);                                     \
		if (of_interest(old, new))                                                         \
			handler(n, CONN_WAY_FIRST, key, sk, old, new);                             \
	} while (0)

#define SECOND(handler)                                                                            \
	do {                                                                                       \
		struct conn_counters *n = my_counters();                                           \
		__u64 key;                                                                         \
		if (!n)                                                                            \
			return 0;                                                                  \
		key = number_of(n, CONN_WAY_SECOND, sk);                                           \
		if (token_take(n, key + (__u32)new))                                               \
			return 0;                                                                  \
		COUNT(n, rescued);                                                                 \
		if (of_interest(old, new))                                                         \
			handler(n, CONN_WAY_SECOND, key, sk, old, new);                            \
	} while (0)

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(conn_tp_btf, struct sock *sk, int old, int new)
{
	FIRST(on_tp_btf);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(conn_tp_btf_2, struct sock *sk, int old, int new)
{
	SECOND(on_tp_btf);
	return 0;
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(conn_raw_tp, struct sock *sk, int old, int new)
{
	FIRST(on_raw_tp);
	return 0;
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(conn_raw_tp_2, struct sock *sk, int old, int new)
{
	SECOND(on_raw_tp);
	return 0;
}

/* ── packets that tell of trouble; rare, and all of this can be done without ───────────────── */

static __always_inline struct conn_packets *packets_of(__u32 netns)
{
	struct conn_packets *p = bpf_map_lookup_elem(&packets, &netns);

	if (p)
		return p;
	bpf_map_update_elem(&packets, &netns, &no_packets, BPF_NOEXIST);
	return bpf_map_lookup_elem(&packets, &netns);
}

/* The kernel has added to total_retrans before it comes by here. Newer kernels pass a third argument. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(conn_retransmit, struct sock *sk)
{
	__u32 netns = sk->__sk_common.skc_net.net->ns.inum, segments = 1;
	struct conn_counters *n = my_counters();
	__u64 now, key;
	struct conn_live c = {}, *l;
	__u32 at;
	struct conn_packets *p;
	struct conn_series *s;
	struct conn_count *v;
	struct tcp_sock *tp;

	if (!n)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	now = bpf_ktime_get_ns();
	key = number_of(n, CONN_WAY_RETRANSMIT, sk);
	l = live_find(set_of(key), key, &at);
	if (l) {
		segments = tp->total_retrans - l->retransmits;
		l->retransmits = tp->total_retrans;
		c = *l;
	} else if (place(n, CONN_WAY_RETRANSMIT, true, tp, netns, &c) == NOT_WANTED) {
		return 0;
	}
	p = packets_of(netns);
	if (p)
		__sync_fetch_and_add(&p->retransmits, segments);
	v = count_of(&c);
	if (v)
		__sync_fetch_and_add(&v->retransmits, segments);
	s = c.party == CONN_NONE ? NULL : series_of(CONN_WAY_RETRANSMIT, c.party);
	if (s) {
		struct conn_slot *slot = slot_at(s, now);

		slot->retransmits += segments;
		in_trouble(slot, c.open && !c.established ? c.open : now);
		SERIES_TOTAL(s, segments);
	}
	return 0;
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(conn_synack, struct sock *sk)
{
	__u32 netns = sk->__sk_common.skc_net.net->ns.inum;
	struct conn_packets *p = wanted(netns) ? packets_of(netns) : NULL;

	if (p)
		COUNT(p, synack_retransmits);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(conn_reset_in, struct sock *sk)
{
	__u32 netns = sk->__sk_common.skc_net.net->ns.inum;
	struct conn_packets *p = wanted(netns) ? packets_of(netns) : NULL;

	if (p)
		COUNT(p, resets_received);
	return 0;
}

/* Newer kernels tell of resets to packets that belong to no socket as well: @sk is NULL then */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(conn_reset_out, struct sock *sk, struct sk_buff *skb)
{
	struct conn_packets *p;
	__u32 netns;

	if (sk)
		netns = sk->__sk_common.skc_net.net->ns.inum;
	else if (!skb)
		return 0;
	else
		netns = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
	p = wanted(netns) ? packets_of(netns) : NULL;
	if (p)
		COUNT(p, resets_sent);
	return 0;
}
