/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Filling the load balancer's table: 1,000 services of 10 servers in bulk, beside `ipvsadm -R` with the
 * same rules, turn and turn about, in a network namespace of its own. Needs root, and a kernel with IPVS.
 * One line of JSON. About 30 s emulated.
 */
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "lvs/ipvs.h"
#include "tests/bench/bench.h"

#define SERVICES 1000
#define SERVERS	 10
#define ROUNDS	 5
#define GOAL	 5.0 /* times */

static struct ipvs_service service(int i)
{
	struct ipvs_service s = {.family = AF_INET,
		.protocol = IPPROTO_TCP,
		.port = 80,
		.addr = {198, 18, (uint8_t)(i >> 8), (uint8_t)i},
		.scheduler = "wrr"};

	ipvs_service_default_netmask(&s);
	return s;
}

static struct ipvs_dest server(int k)
{
	return (struct ipvs_dest){.family = AF_INET,
		.port = 80,
		.addr = {198, 19, 0, (uint8_t)(k + 1)},
		.forward = IPVS_DR,
		.weight = (uint32_t)k + 1};
}

static char *rules(void)
{
	struct strbuf b = {0};

	for (int i = 0; i < SERVICES; i++) {
		struct ipvs_service s = service(i);
		char st[IPVS_TEXT_MAX], dt[IPVS_TEXT_MAX];

		strbuf_addf(&b, "-A -t %s -s wrr\n", ipvs_fmt_service(st, &s));
		for (int k = 0; k < SERVERS; k++) {
			struct ipvs_dest d = server(k);

			strbuf_addf(&b, "-a -t %s -r %s -g -w %u\n", st, ipvs_fmt_dest(dt, &d),
				d.weight);
		}
	}
	return b.s;
}

static int in_bulk(const struct node *n, struct ipvs *ip, struct err *err)
{
	_cleanup_ipvs_batch_ struct ipvs_batch *b = NULL;
	int r = ipvs_batch_open(n, ip, &b, err);

	for (int i = 0; r == 0 && i < SERVICES; i++) {
		struct ipvs_service s = service(i);

		r = ipvs_batch_service(b, IPVS_ADD, &s, err);
		for (int k = 0; r == 0 && k < SERVERS; k++) {
			struct ipvs_dest d = server(k);

			r = ipvs_batch_dest(b, IPVS_ADD, &s, &d, err);
		}
	}
	return r < 0 ? r : ipvs_batch_flush(b, err);
}

/* Neither may win by doing less. */
static int count(struct ipvs *ip, struct err *err)
{
	_cleanup_free_ struct ipvs_service *s = NULL;
	size_t n = 0, all = 0;
	int r = ipvs_services(ip, &s, &n, err);

	for (size_t i = 0; r == 0 && i < n; i++) {
		_cleanup_free_ struct ipvs_dest *d = NULL;
		size_t dests = 0;

		r = ipvs_dests(ip, &s[i], &d, &dests, err);
		all += dests;
	}
	if (r == 0 && (n != SERVICES || all != SERVICES * SERVERS))
		r = err_set(err, -EPROTO, "%zu services with %zu servers", n, all);
	return r;
}

int main(void)
{
	_cleanup_node_ struct node *here = node_new("bench", NULL);
	double ours[ROUNDS], peer[ROUNDS], ratio;
	_cleanup_ipvs_ struct ipvs *ip = NULL;
	char path[] = "/tmp/muster-bench-XXXXXX", command[64];
	_cleanup_free_ char *text = rules();
	_cleanup_close_ int fd = -1;
	struct err err = {0};
	int result = 1;

	if (geteuid() != 0) {
		printf("skipped: network namespaces need root\n");
		return 0;
	}
	/* IPv4 servers need a first route */
	if (unshare(CLONE_NEWNET) < 0 || system("ip link set lo up") != 0 || !here || !text)
		return bench_failed("prepare", &(struct err){.text = "no network namespace"});
	if (ipvs_open(here, &ip, &err) < 0) {
		printf("skipped: %s\n", err.text);
		return 0;
	}
	fd = mkstemp(path);
	if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0)
		return bench_failed("write the rules", &err);
	snprintf(command, sizeof(command), "ipvsadm -R <%s", path);
	for (int i = 0; i < ROUNDS; i++) {
		nsec_t begun = now_ns();

		if (in_bulk(here, ip, &err) < 0)
			goto out;
		ours[i] = (double)(now_ns() - begun) / 1e6;
		if (count(ip, &err) < 0 || ipvs_flush(ip, &err) < 0)
			goto out;
		begun = now_ns();
		if (system(command) != 0) {
			err_set(&err, -EIO, "ipvsadm failed");
			goto out;
		}
		peer[i] = (double)(now_ns() - begun) / 1e6;
		if (count(ip, &err) < 0 || ipvs_flush(ip, &err) < 0)
			goto out;
	}
	qsort(ours, ROUNDS, sizeof(*ours), ascending);
	qsort(peer, ROUNDS, sizeof(*peer), ascending);
	ratio = peer[ROUNDS / 2] / ours[ROUNDS / 2];
	printf("{\"bench\":\"ipvs-fill\",\"where\":\"%s\",\"ours\":%.1f,\"peer\":%.1f,\"unit\":\"ms\",\"ratio\":%.2f,\"goal\":%.0f,"
	       "\"met\":%s,\"n\":%d,\"worst\":%.1f}\n",
		getenv("MUSTER_VM") ? "vm" : "native", ours[ROUNDS / 2], peer[ROUNDS / 2], ratio,
		GOAL, ratio >= GOAL ? "true" : "false", ROUNDS, ours[ROUNDS - 1]);
	result = 0;
out:
	unlink(path);
	return result ? bench_failed("run", &err) : 0;
}
