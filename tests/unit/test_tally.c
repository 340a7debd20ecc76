/* SPDX-License-Identifier: GPL-2.0-only */
/* Slots of the kernel become buckets of the right service, server and time; counts become traffic; loss becomes a sample. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "bpf/tally.h"
#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"

#define B TIMELINE_BUCKET

extern const struct probe_ops probe_telemetry[];

enum { NS_CLIENT = 11, NS_DIRECTOR, NS_RS1, NS_RS2 };

struct fixture {
	struct site site;
	struct node nodes[4], *node_ptrs[4];
	struct service services[3];
	struct service_server web_servers[2], api_servers[1], nat_servers[1];
	struct tally *tally;
	struct timeline *tl;
};

/* web: rs1, rs2; api: rs1 alone, and rs2 is a client of it; old: NAT, which telemetry cannot tell apart */
static int setup(void **state)
{
	static const char *const names[] = {"client", "director", "rs1", "rs2"};
	struct fixture *f = calloc(1, sizeof(*f));
	size_t i;

	assert_non_null(f);
	for (i = 0; i < 4; i++) {
		f->nodes[i].name = (char *)names[i];
		f->nodes[i].netns_fd = -1;
		f->nodes[i].netns_ino = NS_CLIENT + i;
		f->node_ptrs[i] = &f->nodes[i];
	}
	f->nodes[2].n_links = 1;
	f->nodes[2].links[0].n_addrs = 2;
	strcpy(f->nodes[2].links[0].addrs[0], "198.18.0.21/24");
	strcpy(f->nodes[2].links[0].addrs[1], "2001:db8::21/64");
	f->web_servers[0].node = &f->nodes[2];
	f->web_servers[1].node = &f->nodes[3];
	f->api_servers[0].node = &f->nodes[2];
	f->nat_servers[0].node = &f->nodes[2];
	f->services[0] = (struct service){.name = (char *)"web",
		.protocol = IPPROTO_TCP,
		.port = 8080,
		.n_vips = 2,
		.vips = {"198.18.0.100", "2001:db8::100"},
		.forward = "dr",
		.n_directors = 1,
		.directors = {&f->nodes[1]},
		.n_servers = 2,
		.servers = f->web_servers};
	f->services[1] = (struct service){.name = (char *)"api",
		.protocol = IPPROTO_TCP,
		.port = 9000,
		.n_vips = 1,
		.vips = {"198.18.0.100"},
		.forward = "dr",
		.n_directors = 1,
		.directors = {&f->nodes[1]},
		.n_servers = 1,
		.servers = f->api_servers};
	f->services[2] = (struct service){.name = (char *)"old",
		.protocol = IPPROTO_TCP,
		.port = 80,
		.n_vips = 1,
		.vips = {"198.18.0.100"},
		.forward = "nat",
		.n_directors = 1,
		.directors = {&f->nodes[1]},
		.n_servers = 1,
		.servers = f->nat_servers};
	f->site.n_nodes = 4;
	f->site.nodes = f->node_ptrs;
	f->site.n_services = 3;
	f->site.services = f->services;
	assert_int_equal(tally_new(&f->site, &f->tally, NULL), 0);
	assert_int_equal(timeline_new(NULL, &f->tl, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	tally_free(f->tally);
	timeline_free(f->tl);
	free(f);
	return 0;
}

enum { WEB_RS1, WEB_RS2, WEB_CLIENTS, API_RS1, API_CLIENTS, PARTIES };

static void add(struct fixture *f, unsigned int party, struct conn_slot s)
{
	tally_slot(f->tally, party, &s);
}

static const struct tl_conn *only(struct fixture *f)
{
	const struct tl_conn *c;

	assert_int_equal(timeline_conns(f->tl, &c), 1);
	return c;
}

/* The party that the kernel is told for this end, CONN_NONE for none; -1: it is told of no such end */
static int party_at(struct fixture *f, uint64_t netns, enum conn_role role, const char *addr, uint16_t port)
{
	struct telemetry_opts o = {0};
	uint8_t want[16] = {0};
	int family = strchr(addr, ':') ? AF_INET6 : AF_INET, found = -1;

	assert_int_equal(inet_pton(family, addr, want), 1);
	tally_places(f->tally, &o);
	assert_int_equal(o.n_parties, PARTIES);
	for (size_t i = 0; i < o.n_endpoints; i++) {
		const struct telemetry_endpoint *e = &o.endpoints[i];

		if (e->netns != netns || e->role != role || e->family != family || e->port != port || memcmp(e->addr, want, 16) != 0)
			continue;
		assert_int_equal(found, -1); /* once */
		found = e->party;
	}
	return found;
}

static void the_kernel_is_told_who_is_who(void **state)
{
	static const char *const vips[] = {"198.18.0.100", "2001:db8::100"};
	struct telemetry_opts o = {0};
	struct fixture *f = *state;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(party_at(f, NS_RS1, CONN_ROLE_PASSIVE, vips[i], 8080), WEB_RS1);
		assert_int_equal(party_at(f, NS_RS2, CONN_ROLE_PASSIVE, vips[i], 8080), WEB_RS2);
		assert_int_equal(party_at(f, NS_CLIENT, CONN_ROLE_ACTIVE, vips[i], 8080), WEB_CLIENTS);
		/* they may connect, and it is told in the counts, but they are no clients */
		assert_int_equal(party_at(f, NS_DIRECTOR, CONN_ROLE_ACTIVE, vips[i], 8080), CONN_NONE);
		assert_int_equal(party_at(f, NS_RS1, CONN_ROLE_ACTIVE, vips[i], 8080), CONN_NONE);
	}
	/* a server of one service is a client of another */
	assert_int_equal(party_at(f, NS_RS2, CONN_ROLE_ACTIVE, "198.18.0.100", 9000), API_CLIENTS);
	assert_int_equal(party_at(f, NS_RS1, CONN_ROLE_PASSIVE, "198.18.0.100", 9000), API_RS1);
	/* the health checker's way in; another port; nobody's server; NAT, which is told by the server's own address */
	assert_int_equal(party_at(f, NS_RS1, CONN_ROLE_PASSIVE, "198.18.0.21", 8080), -1);
	assert_int_equal(party_at(f, NS_RS1, CONN_ROLE_PASSIVE, "198.18.0.100", 22), -1);
	assert_int_equal(party_at(f, NS_CLIENT, CONN_ROLE_PASSIVE, "198.18.0.100", 8080), -1);
	assert_int_equal(party_at(f, NS_RS2, CONN_ROLE_PASSIVE, "198.18.0.100", 9000), -1);
	assert_int_equal(party_at(f, NS_RS1, CONN_ROLE_PASSIVE, "198.18.0.21", 80), CONN_NONE);
	tally_places(f->tally, &o);
	assert_int_equal(o.n_peers, 2);
	assert_int_equal(o.peers[0].node, 3); /* rs1, counted from 1 */
}

static void counts_where_it_was_accepted(void **state)
{
	struct fixture *f = *state;
	const struct tl_conn *c;

	/* two CPUs, one bucket */
	add(f, WEB_RS2, (struct conn_slot){.bucket = 7, .established = 1, .first = 7 * B + 30, .last = 7 * B + 30});
	add(f, WEB_RS2, (struct conn_slot){.bucket = 7, .established = 2, .closed = 1, .resets = 1, .retransmits = 3,
				.first = 7 * B + 10, .last = 7 * B + 20, .first_bad = 7 * B + 15});
	tally_flush(f->tally, 8 * B, f->tl);
	c = only(f);
	assert_int_equal(c->t, 7 * B);
	assert_string_equal(c->service, "web");
	assert_string_equal(c->server, "rs2");
	assert_int_equal(c->established, 3);
	assert_int_equal(c->closed, 1);
	assert_int_equal(c->failed, 0);
	assert_int_equal(c->resets, 1);
	assert_int_equal(c->retransmits, 3);
	assert_int_equal(c->first, 7 * B + 10);
	assert_int_equal(c->last, 7 * B + 30);
	assert_int_equal(c->first_bad, 7 * B + 15);
}

static void of_clients_only_what_failed_counts(void **state)
{
	struct fixture *f = *state;
	const struct tl_conn *c;

	add(f, WEB_CLIENTS, (struct conn_slot){.bucket = 7, .established = 9, .closed = 9, .first = 7 * B, .last = 7 * B});
	tally_flush(f->tally, NSEC_INFINITY, f->tl);
	assert_int_equal(timeline_conns(f->tl, &c), 0);
	add(f, WEB_CLIENTS, (struct conn_slot){.bucket = 7, .established = 9, .failed = 2, .first = 7 * B, .first_bad = 7 * B + 4});
	add(f, API_CLIENTS, (struct conn_slot){.bucket = 8, .failed = 1});
	add(f, PARTIES, (struct conn_slot){.bucket = 8, .failed = 1}); /* none of ours */
	tally_flush(f->tally, NSEC_INFINITY, f->tl);
	assert_int_equal(timeline_conns(f->tl, &c), 2);
	assert_string_equal(c[0].service, "web");
	assert_string_equal(c[0].server, "");
	assert_int_equal(c[0].failed, 2);
	assert_int_equal(c[0].established, 0);
	assert_int_equal(c[0].first, 0);
	assert_int_equal(c[0].first_bad, 7 * B + 4);
	assert_string_equal(c[1].service, "api");
	assert_int_equal(c[1].failed, 1);
}

static struct conn_slot one(uint64_t bucket)
{
	return (struct conn_slot){.bucket = bucket, .established = 1, .first = bucket * B, .last = bucket * B};
}

static void only_complete_buckets_are_written(void **state)
{
	struct fixture *f = *state;
	const struct tl_conn *c;

	add(f, WEB_RS1, one(8));
	add(f, WEB_RS1, one(7));
	add(f, WEB_RS2, one(7));
	tally_flush(f->tally, 8 * B - 1, f->tl);
	assert_int_equal(timeline_conns(f->tl, &c), 0);
	tally_flush(f->tally, 9 * B - 1, f->tl);
	assert_int_equal(timeline_conns(f->tl, &c), 2);
	tally_flush(f->tally, 9 * B, f->tl);
	assert_int_equal(timeline_conns(f->tl, &c), 3);
	assert_int_equal(c[0].t, 7 * B);
	assert_int_equal(c[1].t, 7 * B);
	assert_int_equal(c[2].t, 8 * B);
	tally_flush(f->tally, NSEC_INFINITY, f->tl);
	assert_int_equal(timeline_conns(f->tl, &c), 3);
}

static void late_ones_are_kept_and_told(void **state)
{
	struct fixture *f = *state;
	_cleanup_json_ json_t *j = NULL;
	const struct tl_conn *c;

	add(f, WEB_RS1, one(7));
	tally_flush(f->tally, 8 * B, f->tl);
	add(f, WEB_RS1, one(7));
	tally_flush(f->tally, 9 * B, f->tl);
	assert_int_equal(timeline_conns(f->tl, &c), 2);
	assert_int_equal(c[0].established + c[1].established, 2);
	j = tally_summary(f->tally, NULL, 0);
	assert_int_equal(json_integer_value(json_object_get(j, "late")), 1);
}

/* rs1 as the server of web, twice (v4 and v6); the client; the health checker, which is nobody's client */
static const struct telemetry_count sample_counts[] = {
	{.index = 3, .netns = NS_RS1, .role = CONN_ROLE_PASSIVE, .service = 0, .peer = 0, .count = {.established = 5, .ended = {[CONN_OUTCOME_CLOSED] = 5}}},
	{.index = 10, .netns = NS_RS1, .role = CONN_ROLE_PASSIVE, .service = 1, .peer = 3,
		.count = {.established = 30, .ended = {[CONN_OUTCOME_CLOSED] = 3, [CONN_OUTCOME_RESET] = 27}, .bytes_in = 100,
			.bytes_out = 900, .retransmits = 4, .unknown_birth = 2}},
	{.index = 20, .netns = NS_RS1, .role = CONN_ROLE_PASSIVE, .service = 1, .peer = 0,
		.count = {.established = 10, .ended = {[CONN_OUTCOME_RESET] = 10}, .bytes_in = 11}},
	{.index = 30, .netns = NS_CLIENT, .role = CONN_ROLE_ACTIVE, .service = 1, .peer = 0,
		.count = {.opened = 41, .established = 40, .ended = {[CONN_OUTCOME_CLOSED] = 40, [CONN_OUTCOME_REFUSED] = 1}}},
	{.index = 40, .netns = NS_DIRECTOR, .role = CONN_ROLE_ACTIVE, .service = 1, .peer = 0,
		.count = {.opened = 7, .established = 7, .ended = {[CONN_OUTCOME_ABORTED] = 7}}},
};

static void the_summary_adds_up(void **state)
{
	json_int_t est, closed, fine, reset, refused, clients, in, out, again;
	struct fixture *f = *state;
	_cleanup_json_ json_t *j = NULL;
	const char *unmapped;

	for (int i = 0; i < 2 * TALLY_EXAMPLES; i++) {
		struct conn_record r = {.kind = CONN_END, .role = CONN_ROLE_ACTIVE, .family = AF_INET,
			.outcome = i < 3 ? CONN_OUTCOME_CLOSED : CONN_OUTCOME_RESET};

		tally_record(f->tally, &r);
	}
	j = tally_summary(f->tally, sample_counts, ARRAY_SIZE(sample_counts));
	assert_non_null(j);
	assert_int_equal(
		json_unpack(j, "{s:{s:{s:{s:{s:I, s:I, s:{s:I, s:I}, s:I, s:I, s:I}}, s:{s:I, s:{s:I}}}}, s:[s]}",
			"services", "web", "servers", "rs1", "established", &est, "closed", &closed,
			"outcomes", "closed", &fine, "reset", &reset, "bytes_in", &in, "bytes_out", &out, "retransmits", &again,
			"clients", "closed", &clients, "outcomes", "refused", &refused, "unmapped", &unmapped),
		0);
	assert_int_equal(est, 40);
	assert_int_equal(closed, 40);
	assert_int_equal(fine, 3);
	assert_int_equal(reset, 37);
	assert_int_equal(in, 111);
	assert_int_equal(out, 900);
	assert_int_equal(again, 4);
	assert_int_equal(clients, 41);
	assert_int_equal(refused, 1);
	assert_string_equal(unmapped, "old");
	assert_int_equal(json_integer_value(json_object_get(j, "unknown_birth")), 2);
	assert_int_equal(json_array_size(json_object_get(j, "examples")), TALLY_EXAMPLES);
	assert_int_equal(json_array_size(json_object_get(j, "map")), ARRAY_SIZE(sample_counts));
	assert_int_equal(tally_events(sample_counts, ARRAY_SIZE(sample_counts)), 10 + 62 + 20 + 81 + 14);
}

static void traffic_is_told_as_it_grows(void **state)
{
	struct telemetry_count later[ARRAY_SIZE(sample_counts)];
	struct fixture *f = *state;
	const struct tl_event *e;
	json_int_t est, in, since;
	const char *node, *service, *peer;

	tally_traffic(f->tally, 1000, sample_counts + 1, 2, f->tl);
	assert_int_equal(timeline_events(f->tl, &e), 2);
	assert_int_equal(e[0].t, 1000);
	assert_string_equal(e[0].kind, EV_TRAFFIC);
	assert_int_equal(json_unpack(e[0].data, "{s:s, s:s, s:s, s:I, s:I, s:I}", "node", &node, "service", &service, "peer", &peer,
				 "since", &since, "established", &est, "bytes_in", &in),
		0);
	assert_string_equal(node, "rs1");
	assert_string_equal(service, "web");
	assert_string_equal(peer, "rs1");
	assert_int_equal(since, 0);
	assert_int_equal(est, 30);
	assert_int_equal(in, 100);

	/* one has grown, one is new and comes before it, one is as it was */
	memcpy(later, sample_counts, sizeof(later));
	later[2].count.established += 5;
	tally_traffic(f->tally, 2000, later, 3, f->tl);
	assert_int_equal(timeline_events(f->tl, &e), 4);
	assert_int_equal(json_unpack(e[2].data, "{s:n, s:n, s:I, s:I}", "service", "peer", "since", &since, "established", &est), 0);
	assert_int_equal(since, 1000);
	assert_int_equal(est, 5);
	assert_int_equal(json_unpack(e[3].data, "{s:s, s:n, s:I, s:I}", "service", &service, "peer", "established", &est, "bytes_in", &in), 0);
	assert_int_equal(est, 5);
	assert_int_equal(in, 0);
}

static void source_event(struct fixture *f, nsec_t t, const char *state, int dropped)
{
	timeline_event(f->tl, t, EV_SOURCE,
		json_pack("{s:s, s:s, s:s, s:{s:i}}", "name", "conn", "source_kind", "telemetry",
			"state", state, "summary", "dropped", dropped));
}

static struct sample lost(struct fixture *f, nsec_t t0, nsec_t t1)
{
	struct sample s;

	assert_string_equal(probe_telemetry[0].name, "telemetry_lost");
	assert_int_equal(probe_telemetry[0].eval(f->tl, &f->site, NULL, t0, t1, &s, NULL), 0);
	return s;
}

static void loss_is_a_sample_and_no_telemetry_is_none(void **state)
{
	struct fixture *f = *state;
	struct sample s;

	assert_false(lost(f, 0, 100).have);
	source_event(f, 10, "started", 0);
	s = lost(f, 0, 100);
	assert_true(s.have);
	assert_true(s.value == 0);
	source_event(f, 50, "lost", 7);
	source_event(f, 60, "lost", 12);
	assert_true(lost(f, 0, 50).value == 0);
	assert_true(lost(f, 0, 51).value == 7);
	assert_true(lost(f, 51, 100).value == 5);
	assert_true(lost(f, 61, 100).value == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_kernel_is_told_who_is_who, setup, teardown),
		cmocka_unit_test_setup_teardown(counts_where_it_was_accepted, setup, teardown),
		cmocka_unit_test_setup_teardown(of_clients_only_what_failed_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(only_complete_buckets_are_written, setup, teardown),
		cmocka_unit_test_setup_teardown(late_ones_are_kept_and_told, setup, teardown),
		cmocka_unit_test_setup_teardown(the_summary_adds_up, setup, teardown),
		cmocka_unit_test_setup_teardown(traffic_is_told_as_it_grows, setup, teardown),
		cmocka_unit_test_setup_teardown(
			loss_is_a_sample_and_no_telemetry_is_none, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
