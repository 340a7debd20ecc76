/* SPDX-License-Identifier: GPL-2.0-only */
/* What a record of the ring means, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "bpf/conn_record.h"

static struct conn_event end_event(uint8_t old_state, uint32_t error)
{
	struct conn_event e = {
		.version = CONN_EVENT_VERSION,
		.kind = CONN_END,
		.role = CONN_ROLE_ACTIVE,
		.family = 4,
		.old_state = old_state,
		.error = error,
		.flags = CONN_F_ID_IS_COOKIE,
		.netns = 4026532000u,
		.id = 77,
		.t = 3000,
		.open = 1000,
		.established = 2000,
		.acked = 120,
		.received = 900,
		.retransmits = 2,
		.srtt_us = 41,
		.cgroup = 99,
		.weight = 1,
		.tgid = 4321,
		.lport = 40000,
		.rport = 8080,
		.laddr = {198, 18, 0, 10},
		.raddr = {198, 18, 0, 100},
		.comm = "client",
	};
	return e;
}

static void all_fields_come_through(void **state _unused_)
{
	struct conn_event e = end_event(CONN_TCP_FIN_WAIT2, 0);
	char buf[CONN_ENDPOINT_MAX];
	struct conn_record r;

	assert_int_equal(conn_decode(&e, sizeof(e), &r), 0);
	assert_int_equal(r.kind, CONN_END);
	assert_int_equal(r.role, CONN_ROLE_ACTIVE);
	assert_int_equal(r.outcome, CONN_OUTCOME_CLOSED);
	assert_int_equal(r.family, AF_INET);
	assert_int_equal(r.netns, 4026532000u);
	assert_int_equal(r.id, 77);
	assert_true(r.id_is_cookie);
	assert_false(r.birth_unknown);
	assert_int_equal(r.open, 1000);
	assert_int_equal(r.established, 2000);
	assert_int_equal(r.closed, 3000);
	assert_int_equal(r.acked, 120);
	assert_int_equal(r.received, 900);
	assert_int_equal(r.retransmits, 2);
	assert_int_equal(r.srtt_us, 41);
	assert_int_equal(r.pid, 4321);
	assert_int_equal(r.cgroup, 99);
	assert_int_equal(r.weight, 1);
	assert_string_equal(r.comm, "client");
	assert_string_equal(
		conn_fmt_endpoint(buf, r.family, r.laddr, r.lport), "198.18.0.10:40000");
	assert_string_equal(
		conn_fmt_endpoint(buf, r.family, r.raddr, r.rport), "198.18.0.100:8080");
	assert_false(conn_record_failed(&r));
}

static void every_end_has_its_outcome(void **state _unused_)
{
	static const struct {
		uint8_t old_state, shutdown, retries;
		uint32_t error;
		enum conn_outcome want;
	} t[] = {
		{CONN_TCP_SYN_SENT, 0, 0, ECONNREFUSED, CONN_OUTCOME_REFUSED},
		{CONN_TCP_SYN_SENT, 0, 2, ETIMEDOUT, CONN_OUTCOME_TIMED_OUT},
		{CONN_TCP_SYN_SENT, 0, 2, 0,
			CONN_OUTCOME_TIMED_OUT}, /* its error was fetched before */
		{CONN_TCP_SYN_SENT, 3, 2, 0, CONN_OUTCOME_ABORTED}, /* closed while retrying */
		{CONN_TCP_SYN_SENT, 3, 0, 0, CONN_OUTCOME_ABORTED},
		{CONN_TCP_SYN_SENT, 0, 0, 0, CONN_OUTCOME_ERROR}, /* no free port */
		{CONN_TCP_SYN_SENT, 0, 1, EHOSTUNREACH, CONN_OUTCOME_UNREACHABLE},
		{CONN_TCP_ESTABLISHED, 0, 0, ECONNRESET, CONN_OUTCOME_RESET},
		{CONN_TCP_CLOSE_WAIT, 1, 0, EPIPE, CONN_OUTCOME_RESET},
		{CONN_TCP_ESTABLISHED, 0, 15, ETIMEDOUT, CONN_OUTCOME_TIMED_OUT},
		{CONN_TCP_ESTABLISHED, 0, 15, 0, CONN_OUTCOME_TIMED_OUT},
		{CONN_TCP_ESTABLISHED, 3, 0, 0, CONN_OUTCOME_ABORTED}, /* SO_LINGER 0 */
		{CONN_TCP_CLOSE_WAIT, 3, 0, 0, CONN_OUTCOME_ABORTED},  /* unread data */
		{CONN_TCP_ESTABLISHED, 0, 0, ECONNABORTED, CONN_OUTCOME_ABORTED},
		{CONN_TCP_LAST_ACK, 3, 0, 0, CONN_OUTCOME_CLOSED},
		{CONN_TCP_FIN_WAIT2, 3, 0, 0, CONN_OUTCOME_CLOSED},
		{CONN_TCP_CLOSING, 3, 0, 0, CONN_OUTCOME_CLOSED},
		{CONN_TCP_FIN_WAIT1, 3, 9, ETIMEDOUT, CONN_OUTCOME_TIMED_OUT},
		{CONN_TCP_ESTABLISHED, 0, 0, EMSGSIZE, CONN_OUTCOME_ERROR},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(t); i++) {
		struct conn_event e = end_event(t[i].old_state, t[i].error);
		struct conn_record r;

		e.shutdown = t[i].shutdown;
		e.retries = t[i].retries;
		assert_int_equal(conn_decode(&e, sizeof(e), &r), 0);
		if (r.outcome != t[i].want)
			fail_msg("case %zu: %s, want %s", i, conn_outcome_names[r.outcome],
				conn_outcome_names[t[i].want]);
	}
}

static void only_a_connect_can_fail(void **state _unused_)
{
	struct conn_event e = end_event(CONN_TCP_SYN_SENT, ECONNREFUSED);
	struct conn_record r;

	e.established = 0;
	assert_int_equal(conn_decode(&e, sizeof(e), &r), 0);
	assert_true(conn_record_failed(&r));

	/* older than the capture: whether it ever established is not known */
	e = end_event(CONN_TCP_FIN_WAIT2, 0);
	e.open = e.established = 0;
	e.role = CONN_ROLE_UNKNOWN;
	e.flags |= CONN_F_BIRTH_UNKNOWN;
	assert_int_equal(conn_decode(&e, sizeof(e), &r), 0);
	assert_true(r.birth_unknown);
	assert_false(conn_record_failed(&r));

	e = end_event(CONN_TCP_SYN_SENT, 0);
	e.kind = CONN_ESTABLISHED;
	assert_int_equal(conn_decode(&e, sizeof(e), &r), 0);
	assert_int_equal(r.outcome, CONN_OUTCOME_ESTABLISHED);
	assert_int_equal(r.closed, 0);
	assert_false(conn_record_failed(&r));
}

static void nonsense_is_refused(void **state _unused_)
{
	const struct conn_event good = end_event(CONN_TCP_LAST_ACK, 0);
	uint8_t bytes[sizeof(good) + 1] = {0};
	struct conn_event e;
	struct conn_record r, untouched;
	size_t len;

	memset(&r, 0x5a, sizeof(r));
	untouched = r;
	memcpy(bytes, &good, sizeof(good));
	for (len = 0; len <= sizeof(bytes); len++) {
		if (len != sizeof(good))
			assert_int_equal(conn_decode(bytes, len, &r), -EPROTO);
	}
#define REFUSED(change)                                                                            \
	do {                                                                                       \
		e = good;                                                                          \
		change;                                                                            \
		assert_int_equal(conn_decode(&e, sizeof(e), &r), -EPROTO);                         \
	} while (0)
	REFUSED(e.version++);
	REFUSED(e.kind = 0);
	REFUSED(e.kind = 3);
	REFUSED(e.role = CONN_ROLE_COUNT);
	REFUSED(e.family = 2);
	REFUSED(e.old_state = 0);
	REFUSED(e.old_state = CONN_TCP_MAX + 1);
	REFUSED(e.shutdown = 4);
	REFUSED(e.flags = 0x80);
	REFUSED(e.error = (uint32_t)-104);
	REFUSED(e.t = 0);
	REFUSED(e.t = UINT64_MAX);
	REFUSED(e.open = 1ULL << 63);
	REFUSED(e.established = 1ULL << 63);
	REFUSED(e.tgid = 1u << 31);
	REFUSED(e.weight = 0);
	REFUSED(e.weight = 3);
	REFUSED(e.weight = 2u << CONN_SAMPLE_MAX);
	REFUSED(e.kind = CONN_ESTABLISHED; e.established = 0);
	assert_memory_equal(&r, &untouched, sizeof(r));
}

static void a_name_may_fill_its_field(void **state _unused_)
{
	struct conn_event e = end_event(CONN_TCP_LAST_ACK, 0);
	_cleanup_json_ json_t *j = NULL;
	struct conn_record r;

	memset(e.comm, 'x', sizeof(e.comm));
	e.comm[3] = '\xff';
	assert_int_equal(conn_decode(&e, sizeof(e), &r), 0);
	assert_int_equal(strlen(r.comm), CONN_COMM);
	j = conn_record_to_json(&r);
	assert_non_null(j);
	assert_string_equal(json_string_value(json_object_get(j, "comm")), "xxx?xxxxxxxxxxxx");
}

static void unknown_is_null(void **state _unused_)
{
	struct conn_event e = end_event(CONN_TCP_LAST_ACK, 0);
	_cleanup_json_ json_t *j = NULL;
	struct conn_record r;

	e.family = 6;
	memcpy(e.laddr, (uint8_t[16]){0x20, 0x01, 0x0d, 0xb8, [15] = 0x10}, 16);
	e.role = CONN_ROLE_UNKNOWN;
	e.open = e.established = 0;
	e.flags = CONN_F_BIRTH_UNKNOWN;
	e.tgid = 0;
	e.srtt_us = 0;
	assert_int_equal(conn_decode(&e, sizeof(e), &r), 0);
	assert_string_equal(r.comm, ""); /* a name without a process is left over from elsewhere */
	j = conn_record_to_json(&r);
	assert_non_null(j);
	assert_string_equal(json_string_value(json_object_get(j, "local")), "[2001:db8::10]:40000");
	assert_true(json_is_null(json_object_get(j, "id")));
	assert_true(json_is_null(json_object_get(j, "open")));
	assert_true(json_is_null(json_object_get(j, "established")));
	assert_true(json_is_null(json_object_get(j, "error")));
	assert_true(json_is_null(json_object_get(j, "pid")));
	assert_true(json_is_null(json_object_get(j, "comm")));
	assert_true(json_is_null(json_object_get(j, "srtt_ns")));
	assert_int_equal(json_integer_value(json_object_get(j, "closed")), 3000);
	assert_string_equal(json_string_value(json_object_get(j, "role")), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_fields_come_through),
		cmocka_unit_test(every_end_has_its_outcome),
		cmocka_unit_test(only_a_connect_can_fail),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(a_name_may_fill_its_field),
		cmocka_unit_test(unknown_is_null),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
