/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * conn_record.h: a record of the ring (conn.h), checked and given its meaning. No BPF is needed to use this.
 */
#pragma once

#include <sys/types.h>

#include "engine/base.h"
#include "bpf/conn.h"

extern const char *const conn_outcome_names[CONN_OUTCOME_COUNT];
extern const char *const conn_role_names[CONN_ROLE_COUNT];

struct conn_record {
	enum conn_kind kind;
	enum conn_role role;
	enum conn_outcome outcome;
	int family;		      /* AF_INET or AF_INET6 */
	uint8_t laddr[16], raddr[16]; /* network order; IPv4: the first four bytes, zeros after */
	uint16_t lport, rport;	      /* host order; lport 0: a connect that got no port */
	uint32_t netns;		      /* inode */
	uint64_t id; /* SO_COOKIE's when `id_is_cookie`, else unique in this capture alone */
	bool id_is_cookie;
	bool birth_unknown; /* older than the capture: open and established may be missing though they happened */
	nsec_t t; /* of this record: the time of being established, or of the end */
	nsec_t open, established, closed; /* 0: did not happen, or not known */
	uint64_t acked,
		received;     /* bytes, as tcp_info counts (SYN and FIN are one each in `acked`) */
	uint32_t retransmits; /* segments, SYNs too */
	uint32_t srtt_us;     /* 0: never measured */
	int error;	      /* errno the socket was left with; 0: none */
	uint64_t cgroup; /* id of the socket's control group (v2); 0: not known */
	uint32_t weight; /* it stands for so many connections: the others of its kind were left out by lot */
	pid_t pid;	      /* 0: not known; see conn.bpf.c for when it can be */
	char comm[CONN_COMM + 1]; /* "" when pid is 0 */
};

/* True for a connect that never established. Such a record is an END. */
bool conn_record_failed(const struct conn_record *r);

/* -EPROTO: another size or version, or a number that means nothing */
int conn_decode(const void *data, size_t len, struct conn_record *ret);

/* "198.18.0.10:8080", "[2001:db8::10]:8080"; returns @buf */
#define CONN_ENDPOINT_MAX 64
const char *conn_fmt_endpoint(
	char buf[CONN_ENDPOINT_MAX], int family, const uint8_t addr[16], uint16_t port);

/*
 * {"id" (the socket's cookie), "netns", "role", "local", "remote", "open", "established", "closed", "outcome", "error", "pid", "comm",
 * "cgroup", "acked", "received", "retransmits", "srtt_ns", "weight"}; null is what is not known. NULL without memory.
 */
json_t *conn_record_to_json(const struct conn_record *r);
