/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Three witnesses: the connections that the telemetry saw at the real servers, those that eBPF saw the director send on, and those that
 * its IPVS counted, as ipvsadm prints them. They must be the same number, for each real server; and so must the packets that were sent
 * on, those that XDP saw arrive, and IPVS's.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/journal.h"
#include "engine/source.h"
#include "lab/lab.h"
#include "lua/script.h"
#include "tests/lab/sandbox.h"

#define LOAD_TIME   (8 * NSEC_PER_SEC)
#define TICK	    (2100 * NSEC_PER_MSEC) /* IPVS copies its counters every 2 s */
#define SETTLE_TIME (20 * NSEC_PER_SEC)

static char scratch[64], durable[80];

static int setup(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/muster-agree-XXXXXX");
	if (!mkdtemp(scratch))
		return -1;
	snprintf(durable, sizeof(durable), "%s/durable", scratch);
	journal_volatile_root = scratch;
	journal_durable_root = durable;
	return 0;
}

static int teardown(void **state)
{
	char cmd[96];

	(void)state;
	snprintf(cmd, sizeof(cmd), "rm -rf %s", scratch);
	return system(cmd);
}

static void sleep_until(nsec_t t)
{
	while (now_ns() < t)
		poll(NULL, 0, (int)((t - now_ns()) / NSEC_PER_MSEC) + 1);
}

/* "  -> 198.18.0.21:8080   143   715 ...": connections and packets of each server, over all services, as ipvsadm says */
static void ipvsadm_counts(const struct site *site, const struct service *web, uint64_t counts[2][8])
{
	char cmd[256], line[512];
	FILE *f;

	snprintf(cmd, sizeof(cmd), "ip netns exec muster-%s-%s ipvsadm -Ln --stats --exact", site->name,
		web->directors[0]->name);
	f = popen(cmd, "r");
	assert_non_null(f);
	memset(counts, 0, 2 * sizeof(*counts));
	while (fgets(line, sizeof(line), f)) {
		char server[128];
		unsigned long long conns, packets;

		if (sscanf(line, " -> %127s %llu %llu", server, &conns, &packets) != 3)
			continue;
		for (size_t i = 0; i < web->n_servers; i++) {
			char v4[64], v6[64], want4[80], want6[80];

			snprintf(want4, sizeof(want4), "%s:%u", site_server_addr(&web->servers[i], AF_INET, v4), web->port);
			snprintf(want6, sizeof(want6), "[%s]:%u", site_server_addr(&web->servers[i], AF_INET6, v6), web->port);
			if (streq(server, want4) || streq(server, want6))
				counts[0][i] += conns, counts[1][i] += packets;
		}
	}
	assert_int_equal(pclose(f), 0);
}

static void start(const struct source_ops *ops, struct source_ctx ctx, void **handle)
{
	struct err err = {0};

	if (ops->start(&ctx, handle, &err) < 0)
		fail_msg("%s: %s", ops->name, err.text);
}

/* What a source has told of service web at a server in all: in its summary, and in its events, which must be the same */
static uint64_t told_of(const json_t *summary, struct timeline *tl, const char *kind, const char *key, const char *server, const char *field)
{
	const struct tl_event *e;
	uint64_t told = 0, sum = 0;
	const json_t *c;
	size_t i, n;

	json_array_foreach (json_object_get(summary, "counted"), i, c)
		if (streq(json_string_value(json_object_get(c, key)), server) && streq(json_string_value(json_object_get(c, "service")), "web"))
			sum += (uint64_t)json_integer_value(json_object_get(c, field));
	timeline_lock(tl);
	n = timeline_events(tl, &e);
	for (i = 0; i < n; i++)
		if (streq(e[i].kind, kind) && streq(json_string_value(json_object_get(e[i].data, key)), server) &&
			streq(json_string_value(json_object_get(e[i].data, "service")), "web"))
			told += (uint64_t)json_integer_value(json_object_get(e[i].data, field));
	timeline_unlock(tl);
	assert_int_equal(told, sum);
	return sum;
}

static void play(struct site *site, const struct service *web)
{
	static const char *const families[] = {"http://198.18.0.100:8080/", "http://[2001:db8::100]:8080/"};
	const struct source_ops *conn_ops = source_find(SOURCE_TELEMETRY, "conn"), *http_ops = source_find(SOURCE_LOAD, "http");
	const struct param_names names = site_names(site);
	struct source_ctx ctx = {.site = site, .name = "conn", .seed = 1};
	_cleanup_timeline_ struct timeline *tl = NULL;
	uint64_t seen[8] = {0}, counted[2][8], again[2][8], total = 0;
	void *conn, *forward, *packets_in, *load[ARRAY_SIZE(families)];
	const struct tl_conn *c;
	json_t *summary = NULL, *sent = NULL, *came = NULL;
	struct err err = {0};
	nsec_t deadline;
	size_t n;

	assert_true(web->n_servers <= ARRAY_SIZE(seen));
	assert_int_equal(timeline_new(NULL, &tl, &err), 0);
	ctx.tl = tl;
	start(conn_ops, ctx, &conn);
	ctx.name = "forward";
	start(source_find(SOURCE_SAMPLER, "forward"), ctx, &forward);
	ctx.name = "packets";
	start(source_find(SOURCE_SAMPLER, "packets"), ctx, &packets_in);
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		_cleanup_json_ json_t *given = json_pack("{s:s, s:s, s:s, s:i, s:s}", "from", "client", "url", families[i],
					      "rate", "40/s", "connections", 64, "timeout", "5s"),
				      *args = NULL;

		if (param_check(http_ops->params, "load.http", given, &names, &args, &err) < 0)
			fail_msg("%s", err.text);
		ctx.name = i ? "v6" : "v4";
		ctx.args = args;
		start(http_ops, ctx, &load[i]);
	}
	sleep_until(now_ns() + LOAD_TIME);
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		http_ops->stop(load[i], NULL);
	conn_ops->stop(conn, &summary);
	assert_int_equal(json_integer_value(json_object_get(summary, "dropped")), 0);
	json_decref(summary);

	timeline_lock(tl);
	n = timeline_conns(tl, &c);
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < web->n_servers; k++)
			if (streq(c[i].server, web->servers[k].node->name)) {
				seen[k] += c[i].established;
				total += c[i].established;
			}
	timeline_unlock(tl);

	/* the counters stand still when two readings a tick apart are the same */
	deadline = now_ns() + SETTLE_TIME;
	ipvsadm_counts(site, web, counted);
	for (;;) {
		sleep_until(now_ns() + TICK);
		ipvsadm_counts(site, web, again);
		if (memcmp(counted, again, sizeof(again)) == 0)
			break;
		assert_true(now_ns() < deadline);
		memcpy(counted, again, sizeof(counted));
	}
	source_find(SOURCE_SAMPLER, "forward")->stop(forward, &sent);
	source_find(SOURCE_SAMPLER, "packets")->stop(packets_in, &came);
	assert_int_equal(json_integer_value(json_object_get(sent, "late")), 0);
	assert_int_equal(json_integer_value(json_object_get(came, "late")), 0);
	for (size_t k = 0; k < web->n_servers; k++) {
		const char *server = web->servers[k].node->name;
		uint64_t packets = told_of(sent, tl, EV_FORWARDED, "server", server, "packets"),
			 connections = told_of(sent, tl, EV_FORWARDED, "server", server, "connections"),
			 arrived = told_of(came, tl, EV_PACKETS, "node", server, "packets");

		print_message("%s: connections: telemetry %llu, sent on %llu, ipvsadm %llu; packets: sent on %llu, arrived %llu, ipvsadm %llu\n", server,
			(unsigned long long)seen[k], (unsigned long long)connections, (unsigned long long)counted[0][k],
			(unsigned long long)packets, (unsigned long long)arrived, (unsigned long long)counted[1][k]);
		assert_int_equal(seen[k], counted[0][k]);
		assert_int_equal(connections, counted[0][k]);
		assert_int_equal(packets, counted[1][k]);
		assert_int_equal(arrived, counted[1][k]);
	}
	json_decref(sent);
	json_decref(came);
	assert_true(total >= 300);
}

static void telemetry_agrees_with_ipvs(void **state)
{
	const struct change_ops *lab = change_find("lab.site"), *ipvs = change_find("set.ipvs");
	_cleanup_node_ struct node *host = node_new("host", NULL);
	_cleanup_journal_ struct journal *j = NULL;
	_cleanup_json_ json_t *json = NULL;
	_cleanup_site_ struct site *site = NULL;
	struct change c = {.ops = lab, .node = host};
	struct err err = {0};
	int r;

	(void)state;
	assert_int_equal(node_open(host, &err), 0);
	if (ipvs->supported(host, NULL, &err) < 0) {
		print_message("SKIP reason: %s\n", err.text);
		node_free(TAKE_PTR(host)); /* a skip does not come back to clean up */
		skip();
	}
	if (script_site("lvs-dr", NULL, &json, &err) < 0 || site_from_json(json, &site, &err) < 0 ||
		lab_bind(site, &err) < 0 || journal_create("agree", &j, &err) < 0)
		fail_msg("%s", err.text);
	c.args = json_pack("{s:O}", "site", json);
	r = change_apply(j, &c, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < site->n_nodes; i++)
		assert_int_equal(node_open(site->nodes[i], &err), 0);
	play(site, site_service(site, "web"));
	if (change_undo(j, &c, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(journal_remove(j, &err), 0);
	json_decref(c.args);
	json_decref(c.prior);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(telemetry_agrees_with_ipvs)};

	if (!sandbox_enter()) {
		printf("SKIP: a drill needs root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("agreement", tests, setup, teardown);
}
