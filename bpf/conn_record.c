/* SPDX-License-Identifier: GPL-2.0-only */
#include "bpf/conn_record.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

const char *const conn_outcome_names[CONN_OUTCOME_COUNT] = {
	[CONN_OUTCOME_ESTABLISHED] = "established",
	[CONN_OUTCOME_CLOSED] = "closed",
	[CONN_OUTCOME_REFUSED] = "refused",
	[CONN_OUTCOME_TIMED_OUT] = "timed-out",
	[CONN_OUTCOME_RESET] = "reset",
	[CONN_OUTCOME_ABORTED] = "aborted",
	[CONN_OUTCOME_UNREACHABLE] = "unreachable",
	[CONN_OUTCOME_ERROR] = "error",
};

const char *const conn_role_names[CONN_ROLE_COUNT] = {
	[CONN_ROLE_UNKNOWN] = "unknown",
	[CONN_ROLE_ACTIVE] = "active",
	[CONN_ROLE_PASSIVE] = "passive",
};

_Static_assert(CONN_EPIPE == EPIPE && CONN_ENONET == ENONET && CONN_ENETUNREACH == ENETUNREACH &&
		       CONN_ECONNABORTED == ECONNABORTED && CONN_ECONNRESET == ECONNRESET && CONN_ETIMEDOUT == ETIMEDOUT &&
		       CONN_ECONNREFUSED == ECONNREFUSED && CONN_EHOSTDOWN == EHOSTDOWN && CONN_EHOSTUNREACH == EHOSTUNREACH,
	"the numbers of errno.h");

static bool plausible(const struct conn_event *e)
{
	if (e->version != CONN_EVENT_VERSION)
		return false;
	if (e->kind != CONN_ESTABLISHED && e->kind != CONN_END)
		return false;
	if (e->role >= CONN_ROLE_COUNT || (e->family != 4 && e->family != 6))
		return false;
	if (e->old_state < CONN_TCP_ESTABLISHED || e->old_state > CONN_TCP_MAX)
		return false;
	if (e->shutdown > 3 || (e->flags & ~CONN_F_ALL) || e->error > 4095)
		return false;
	if (e->t == 0 || e->t > INT64_MAX || e->open > INT64_MAX || e->established > INT64_MAX)
		return false;
	if (e->kind == CONN_ESTABLISHED && !e->established)
		return false;
	if (e->weight == 0 || e->weight > 1u << CONN_SAMPLE_MAX || (e->weight & (e->weight - 1)))
		return false;
	return e->tgid <= INT32_MAX;
}

int conn_decode(const void *data, size_t len, struct conn_record *ret)
{
	struct conn_record r = {0};
	struct conn_event e;

	if (len != sizeof(e))
		return -EPROTO;
	memcpy(&e, data, sizeof(e)); /* the buffer need not be aligned */
	if (!plausible(&e))
		return -EPROTO;

	r.kind = e.kind;
	r.role = e.role;
	r.outcome = e.kind == CONN_ESTABLISHED ? CONN_OUTCOME_ESTABLISHED :
						     conn_outcome_of(e.error, e.old_state, e.shutdown, e.retries);
	r.family = e.family == 4 ? AF_INET : AF_INET6;
	memcpy(r.laddr, e.laddr, e.family == 4 ? 4 : 16);
	memcpy(r.raddr, e.raddr, e.family == 4 ? 4 : 16);
	r.lport = e.lport;
	r.rport = e.rport;
	r.netns = e.netns;
	r.id = e.id;
	r.id_is_cookie = e.flags & CONN_F_ID_IS_COOKIE;
	r.birth_unknown = e.flags & CONN_F_BIRTH_UNKNOWN;
	r.t = e.t;
	r.open = e.open;
	r.established = e.established;
	r.closed = e.kind == CONN_END ? (nsec_t)e.t : 0;
	r.acked = e.acked;
	r.received = e.received;
	r.retransmits = e.retransmits;
	r.srtt_us = e.srtt_us;
	r.error = e.error;
	r.cgroup = e.cgroup;
	r.weight = e.weight;
	r.pid = e.tgid;
	if (e.tgid)
		memcpy(r.comm, e.comm, CONN_COMM); /* r.comm is one longer and all zero */
	*ret = r;
	return 0;
}

bool conn_record_failed(const struct conn_record *r)
{
	/* Of the sockets without a known birth only one that ends in SYN_SENT is given a role, so nothing else gets in here */
	return r->kind == CONN_END && r->role == CONN_ROLE_ACTIVE && !r->established;
}

const char *conn_fmt_endpoint(
	char buf[CONN_ENDPOINT_MAX], int family, const uint8_t addr[16], uint16_t port)
{
	char a[INET6_ADDRSTRLEN];

	if (!inet_ntop(family, addr, a, sizeof(a)))
		snprintf(buf, CONN_ENDPOINT_MAX, "?:%u", port);
	else
		snprintf(buf, CONN_ENDPOINT_MAX, family == AF_INET6 ? "[%s]:%u" : "%s:%u", a, port);
	return buf;
}

static json_t *time_or_null(nsec_t t)
{
	return t ? json_integer(t) : json_null();
}

/* A process may call itself anything, JSON takes only UTF-8 */
static json_t *comm_or_null(const char *comm)
{
	char clean[CONN_COMM + 1];
	size_t i;

	if (!*comm)
		return json_null();
	for (i = 0; i < CONN_COMM && comm[i]; i++)
		clean[i] = comm[i] >= 0x20 && comm[i] < 0x7f ? comm[i] : '?';
	clean[i] = '\0';
	return json_string(clean);
}

json_t *conn_record_to_json(const struct conn_record *r)
{
	char local[CONN_ENDPOINT_MAX], remote[CONN_ENDPOINT_MAX];

	return json_pack(
		"{s:o, s:I, s:s, s:s, s:s, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:I}",
		"id", r->id_is_cookie ? json_integer(r->id) : json_null(), "netns",
		(json_int_t)r->netns, "role", conn_role_names[r->role], "local",
		conn_fmt_endpoint(local, r->family, r->laddr, r->lport), "remote",
		conn_fmt_endpoint(remote, r->family, r->raddr, r->rport), "open",
		time_or_null(r->open), "established", time_or_null(r->established), "closed",
		time_or_null(r->closed), "outcome", conn_outcome_names[r->outcome], "error",
		r->error ? json_string(strerrorname_np(r->error) ?: "unknown") : json_null(), "pid",
		r->pid ? json_integer(r->pid) : json_null(), "comm", comm_or_null(r->comm), "cgroup",
		r->cgroup ? json_integer((json_int_t)r->cgroup) : json_null(), "acked",
		(json_int_t)r->acked, "received", (json_int_t)r->received, "retransmits",
		(json_int_t)r->retransmits, "srtt_ns",
		r->srtt_us ? json_integer((json_int_t)r->srtt_us * 1000) : json_null(), "weight",
		(json_int_t)r->weight);
}
