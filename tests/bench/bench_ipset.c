/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Filling a set: 100,000 members of a hash:ip in bulk, beside `ipset restore` with the same members, turn and turn about, in a
 * network namespace of its own. Both make the set first. Needs root. One line of JSON.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "baseline/sets.h"
#include "engine/clock.h"
#include "tests/bench/bench.h"

#define MEMBERS 100000
#define MAXELEM 131072
#define ROUNDS	9
#define GOAL	3.0 /* times */
#define SET	"bench"

/* Neither may win by doing less. */
static int count(struct err *err)
{
	FILE *f = popen("ipset -t list " SET, "re");
	char line[256];
	int n = -1;

	while (f && fgets(line, sizeof(line), f))
		(void)sscanf(line, "Number of entries: %d", &n);
	if (f)
		pclose(f);
	return n == MEMBERS ? 0 : err_set(err, -EPROTO, "%d members", n);
}

static char **make_members(void)
{
	char **m = calloc(MEMBERS, sizeof(*m));

	for (int i = 0; m && i < MEMBERS; i++)
		m[i] = strf("198.%d.%d.%d", 18 + (i >> 16), (i >> 8) & 255, i & 255);
	return m;
}

int main(void)
{
	_cleanup_node_ struct node *here = node_new("bench", NULL);
	char path[] = "/tmp/muster-bench-XXXXXX", command[64];
	double ours[ROUNDS], peer[ROUNDS], ratio;
	char **members = make_members();
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_close_ int fd = -1;
	struct err err = {0};
	int result = 1;

	if (geteuid() != 0) {
		printf("skipped: network namespaces need root\n");
		return 0;
	}
	if (unshare(CLONE_NEWNET) < 0 || !here || !members)
		return bench_failed("prepare", &(struct err){.text = "no network namespace"});
	if (sets_supported(here, &err) < 0) {
		printf("skipped: %s\n", err.text);
		return 0;
	}
	strbuf_addf(&text, "create " SET " hash:ip family inet maxelem %d\n", MAXELEM);
	for (int i = 0; i < MEMBERS; i++)
		strbuf_addf(&text, "add " SET " %s\n", members[i]);
	fd = mkstemp(path);
	if (fd < 0 || fd_write_all(fd, text.s, text.len) < 0)
		return bench_failed("write the set", &(struct err){.text = "no file"});
	snprintf(command, sizeof(command), "ipset restore <%s", path);
	for (int i = 0; i < ROUNDS; i++) {
		nsec_t begun = now_ns();

		if (sets_create(here, SET, SETS_HASH_IP, AF_INET, MAXELEM, -1, MEMBERS, &err) < 0 ||
			sets_add(here, SET, SETS_HASH_IP, AF_INET, (const char *const *)members, MEMBERS, &err) < 0)
			goto out;
		ours[i] = (double)(now_ns() - begun) / 1e6;
		if (count(&err) < 0 || sets_destroy(here, SET, &err) < 0)
			goto out;
		begun = now_ns();
		if (system(command) != 0) {
			err_set(&err, -EIO, "ipset restore failed");
			goto out;
		}
		peer[i] = (double)(now_ns() - begun) / 1e6;
		if (count(&err) < 0 || sets_destroy(here, SET, &err) < 0)
			goto out;
	}
	qsort(ours, ROUNDS, sizeof(*ours), ascending);
	qsort(peer, ROUNDS, sizeof(*peer), ascending);
	ratio = peer[ROUNDS / 2] / ours[ROUNDS / 2];
	printf("{\"bench\":\"ipset-fill\",\"where\":\"%s\",\"ours\":%.1f,\"peer\":%.1f,\"unit\":\"ms\",\"ratio\":%.2f,\"goal\":%.0f,"
	       "\"met\":%s,\"n\":%d,\"worst\":%.1f}\n",
		getenv("MUSTER_VM") ? "vm" : "native", ours[ROUNDS / 2], peer[ROUNDS / 2], ratio, GOAL,
		ratio >= GOAL ? "true" : "false", ROUNDS, ours[ROUNDS - 1]);
	result = 0;
out:
	unlink(path);
	for (int i = 0; i < MEMBERS; i++)
		free(members[i]);
	free(members);
	return result ? bench_failed("run", &err) : 0;
}
