/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How long a lab takes to stand: site lvs-dr, five nodes and the switch, without its daemons and
 * without what needs IPVS. Beside it the same lab by the commands that `muster plan` prints (ip,
 * sysctl), turn and turn about. Usable is the end: `ours` ends when every link passes packets, the
 * commands end when the last of them does. Needs root. About 10 s natively.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/change.h"
#include "engine/clock.h"
#include "lab/lab.h"
#include "lab/netns.h"
#include "lab/spec.h"
#include "tests/bench/bench.h"

#define ROUNDS	  15
#define ROUNDS_VM 3	/* where each of the hundred commands takes a third of a second */
#define GOAL	  150.0 /* ms, natively */

extern const struct change_ops change_lab_site;

static const char site_text[] = "{'name': 'bench', 'switches': ['lan'], 'nodes': ["
				"{'name': 'client', 'links': [{'switch': 'lan', 'addrs': "
				"['198.18.0.10/24', '2001:db8::10/64']}]},"
				"{'name': 'director', 'links': [{'switch': 'lan', 'addrs': "
				"['198.18.0.2/24', '2001:db8::2/64', '198.18.0.100/32',"
				" '2001:db8::100/128']}]},"
				"{'name': 'rs1', 'links': [{'switch': 'lan', 'addrs': "
				"['198.18.0.21/24', '2001:db8::21/64']}], 'lo': ['198.18.0.100/32',"
				" '2001:db8::100/128'], 'sysctl': {'net.ipv4.conf.all.arp_ignore': "
				"1, 'net.ipv4.conf.all.arp_announce': 2}},"
				"{'name': 'rs2', 'links': [{'switch': 'lan', 'addrs': "
				"['198.18.0.22/24', '2001:db8::22/64']}], 'lo': ['198.18.0.100/32',"
				" '2001:db8::100/128'], 'sysctl': {'net.ipv4.conf.all.arp_ignore': "
				"1, 'net.ipv4.conf.all.arp_announce': 2}},"
				"{'name': 'rs3', 'links': [{'switch': 'lan', 'addrs': "
				"['198.18.0.23/24', '2001:db8::23/64']}], 'lo': ['198.18.0.100/32',"
				" '2001:db8::100/128'], 'sysctl': {'net.ipv4.conf.all.arp_ignore': "
				"1, 'net.ipv4.conf.all.arp_announce': 2}}]}";

int main(int argc, char **argv)
{
	char text[sizeof(site_text)];
	double ours[ROUNDS], peer[ROUNDS], mine;
	_cleanup_strbuf_ struct strbuf up = {0}, down = {0};
	_cleanup_json_ json_t *args = NULL;
	_cleanup_node_ struct node *host = node_new("host", NULL);
	const struct change_ops *ops = &change_lab_site;
	const bool vm = getenv("MUSTER_VM") != NULL;
	const int rounds = vm ? ROUNDS_VM : ROUNDS;
	enum netns_dir before;
	struct err err = {0};

	if (geteuid() != 0) {
		printf("skipped: network namespaces need root\n");
		return 0;
	}
	strcpy(text, site_text);
	for (char *p = text; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	lab_root = "/run/muster-bench/lab";
	args = json_pack("{s:o}", "site", json_loads(text, 0, NULL));
	if (!args || !host || ops->command(host, args, NULL, &up, &down) < 0 ||
		netns_dir_state(&before, &err) < 0)
		return bench_failed("prepare", &err);
	strbuf_puts(&down, "exit 0\n");
	for (int i = 0; i < rounds; i++) {
		_cleanup_json_ json_t *prior = NULL;
		nsec_t begun;

		if (ops->capture(host, args, &prior, &err) < 0)
			return bench_failed("capture", &err);
		begun = now_ns();
		if (ops->apply(host, args, prior, &err) < 0) {
			(void)ops->undo(host, args, prior, NULL);
			return bench_failed("build", &err);
		}
		ours[i] = (double)(now_ns() - begun) / 1e6;
		if (ops->undo(host, args, prior, &err) != 0 ||
			ops->verify(host, args, prior, &err) != 0)
			return bench_failed("take down", &err);
		begun = now_ns();
		if (system(strbuf_cstr(&up)) != 0)
			fprintf(stderr, "bench_lab: the commands failed\n");
		peer[i] = (double)(now_ns() - begun) / 1e6;
		if (system(strbuf_cstr(&down)) != 0)
			fprintf(stderr, "bench_lab: the commands failed\n");
		if (netns_dir_restore(before, &err) < 0)
			return bench_failed("restore", &err);
	}
	(void)rmdir("/run/muster-bench");
	qsort(ours, (size_t)rounds, sizeof(*ours), ascending);
	qsort(peer, (size_t)rounds, sizeof(*peer), ascending);
	mine = ours[rounds / 2];
	if (argc > 1 && streq(argv[1], "--json"))
		printf("{\"bench\":\"lab-up\",\"where\":\"%s\",\"ours\":%.1f,\"peer\":%.1f,"
		       "\"unit\":\"ms\","
		       "\"ratio\":%.2f,\"goal\":%s,\"met\":%s,\"n\":%d,\"worst\":%.1f}\n",
			vm ? "vm" : "native", mine, peer[rounds / 2], peer[rounds / 2] / mine,
			vm ? "null" : "150",
			vm	       ? "null"
			: mine <= GOAL ? "true"
				       : "false",
			rounds, ours[rounds - 1]);
	else
		printf("lab-up: %.1f ms for five nodes and a switch (median of %d, worst %.1f); by "
		       "ip and "
		       "sysctl %.1f ms; goal %s\n",
			mine, rounds, ours[rounds - 1], peer[rounds / 2],
			vm ? "none in an emulated machine" : "150 ms");
	return 0;
}
