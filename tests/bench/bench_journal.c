/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What it costs to be able to undo. Four lines, each beside its peer, turn and turn about:
 *
 *	journal-volatile   one record in memory (/run's file system), beside a bare write of as many bytes
 *	journal-durable    one record on the disk (/var/tmp's), beside a bare write and fdatasync of as many bytes
 *	journal-sysctl     set.sysctl applied and undone, journalled, beside `sysctl -w` twice
 *	journal-qdisc      fault.netem applied and undone, journalled, beside `tc qdisc add` and `del`
 *
 * The last two in a network namespace of their own. "ratio" is ours to the peer's, the median of neighbours. Needs root. About 5 s.
 */
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/journal.h"
#include "tests/bench/bench.h"

#define ROUNDS	      31
#define RECORDS	      100 /* a round, of those in memory */
#define GOAL_DURABLE  2.0 /* the disk's own time is what it should cost */
#define GOAL_SPAWN    0.5 /* and no more than half of what two commands do */

extern char **environ;

static char memory_root[64], disk_root[64];
static bool json;
static struct node *host;

static void die(const char *what, const struct err *err)
{
	exit(bench_failed(what, err));
}

/* @goal 0: none */
static void say(const char *bench, const char *unit, double *ours, double *peer, double goal, int n)
{
	const char *where = getenv("MUSTER_VM") ? "vm" : "native";
	double ratio[ROUNDS], r;
	char bound[16] = "null";

	for (int i = 0; i < ROUNDS; i++)
		ratio[i] = ours[i] / peer[i];
	r = median(ratio, ROUNDS);
	if (goal > 0)
		snprintf(bound, sizeof(bound), "%.1f", goal);
	if (json)
		printf("{\"bench\":\"%s\",\"where\":\"%s\",\"ours\":%.1f,\"peer\":%.1f,\"unit\":\"%s\",\"ratio\":%.3f,"
		       "\"goal\":%s,\"met\":%s,\"n\":%d}\n",
			bench, where, median(ours, ROUNDS), median(peer, ROUNDS), unit, r, bound,
			goal > 0 ? r <= goal ? "true" : "false" : "null", n);
	else
		printf("%s: %.1f %s, its peer %.1f: %.2f of it (goal: %s; median of %d)\n", bench, median(ours, ROUNDS), unit,
			median(peer, ROUNDS), r, goal > 0 ? bound : "none", n);
}

static void say_not(const char *bench, const char *why)
{
	if (json)
		printf("{\"bench\":\"%s\",\"where\":\"%s\",\"ours\":null,\"peer\":null,\"unit\":\"us\",\"ratio\":null,"
		       "\"goal\":%.1f,\"met\":null,\"n\":0}\n",
			bench, getenv("MUSTER_VM") ? "vm" : "native", GOAL_SPAWN);
	fprintf(stderr, "bench_journal: %s: not measured: %s\n", bench, why);
}

/* ── records ───────────────────────────────────────────────────────────────────────────────── */

static struct change_ops record_ops = {.name = "set.sysctl"};

static double record_us(struct journal *j, const json_t *args, const json_t *prior, int n)
{
	nsec_t t0 = now_ns();
	struct err err = {0};
	uint32_t seq;

	for (int i = 0; i < n; i++)
		if (journal_intent(j, &record_ops, host, args, prior, &seq, &err) < 0)
			die("a record", &err);
	return (double)(now_ns() - t0) / n / 1e3;
}

static double write_us(int fd, const char *data, size_t len, bool sync, int n)
{
	nsec_t t0 = now_ns();

	for (int i = 0; i < n; i++)
		if (fd_write_all(fd, data, len) < 0 || (sync && fdatasync(fd) < 0))
			die("a bare write", NULL);
	return (double)(now_ns() - t0) / n / 1e3;
}

static size_t size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? 0 : (size_t)st.st_size;
}

static void records(const char *bench, enum change_class class, int each, double goal)
{
	bool durable = class == CHANGE_DURABLE;
	_cleanup_json_ json_t *args = json_pack("{s:s, s:{s:s}}", "node", "host", "values", "net.ipv4.tcp_fin_timeout", "31"),
			      *prior = json_pack("{s:{s:s}}", "values", "net.ipv4.tcp_fin_timeout", "60");
	_cleanup_free_ char *bare = strf("%s/bare", durable ? disk_root : memory_root),
			    *file = strf("%s/r/undo.journal", durable ? disk_root : memory_root);
	_cleanup_close_ int fd = open(bare, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	double ours[ROUNDS], peer[ROUNDS];
	struct journal *j;
	struct err err = {0};
	char data[4096];
	size_t before, len;

	if (fd < 0)
		die(bare, NULL);
	memset(data, 'x', sizeof(data));
	record_ops.class = class;
	if (journal_create("r", &j, &err) < 0)
		die("create", &err);
	(void)record_us(j, args, prior, 1); /* the file and its folders */
	before = size_of(file);
	(void)record_us(j, args, prior, 1);
	len = MIN(size_of(file) - before, sizeof(data));
	for (int i = 0; i < ROUNDS; i++) {
		if (i % 2)
			ours[i] = record_us(j, args, prior, each);
		peer[i] = write_us(fd, data, len, durable, each);
		if (i % 2 == 0)
			ours[i] = record_us(j, args, prior, each);
	}
	for (uint32_t seq = 1; journal_mark(j, seq, JOURNAL_DONE, NULL, NULL) == 0; seq++)
		;
	if (journal_remove(j, &err) < 0)
		die("remove", &err);
	journal_close(j);
	(void)unlink(bare);
	say(bench, "us", ours, peer, goal, ROUNDS * each);
}

/* ── a whole change ────────────────────────────────────────────────────────────────────────── */

static int run_command(const char *const *argv)
{
	pid_t pid;
	int status;

	if (posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ) != 0)
		return -1;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static double commands_us(const char *const *first, const char *const *second)
{
	nsec_t t0 = now_ns();

	if (run_command(first) != 0 || run_command(second) != 0)
		die(first[0], NULL);
	return (double)(now_ns() - t0) / 1e3;
}

static double change_us(struct journal *j, const struct change_ops *ops, json_t *args)
{
	struct change c = {.ops = ops, .node = host, .args = args};
	struct err err = {0};
	nsec_t t0 = now_ns();
	double us;

	if (change_apply(j, &c, &err) < 0 || change_undo(j, &c, &err) != 0)
		die(ops->name, &err);
	us = (double)(now_ns() - t0) / 1e3;
	json_decref(c.prior);
	return us;
}

static void changes(const char *bench, const char *name, json_t *asked, const char *const *first, const char *const *second)
{
	const struct change_ops *ops = change_find(name);
	_cleanup_json_ json_t *raw = asked, *args = NULL;
	double ours[ROUNDS], peer[ROUNDS];
	struct journal *j;
	struct err err = {0};

	if (!ops || param_check(ops->params, name, raw, NULL, &args, &err) < 0)
		die(name, &err);
	if (ops->supported && ops->supported(host, args, &err) == -EOPNOTSUPP) {
		say_not(bench, err.text);
		return;
	}
	if (journal_create("r", &j, &err) < 0)
		die("create", &err);
	(void)change_us(j, ops, args);
	(void)commands_us(first, second);
	for (int i = 0; i < ROUNDS; i++) {
		if (i % 2)
			ours[i] = change_us(j, ops, args);
		peer[i] = commands_us(first, second);
		if (i % 2 == 0)
			ours[i] = change_us(j, ops, args);
	}
	if (journal_remove(j, &err) < 0)
		die("remove", &err);
	journal_close(j);
	say(bench, "us", ours, peer, GOAL_SPAWN, ROUNDS);
}

static void leave(void)
{
	(void)rmdir(memory_root);
	(void)rmdir(disk_root);
}

int main(int argc, char **argv)
{
	static const char *const sysctl_there[] = {"sysctl", "-q", "-w", "net.ipv4.tcp_fin_timeout=31", NULL},
				 *const sysctl_back[] = {"sysctl", "-q", "-w", "net.ipv4.tcp_fin_timeout=60", NULL},
				 *const link[] = {"ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1", NULL},
				 *const link_up[] = {"ip", "link", "set", "eth0", "up", NULL},
				 *const tc_there[] = {"tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "10ms", NULL},
				 *const tc_back[] = {"tc", "qdisc", "del", "dev", "eth0", "root", NULL};
	struct err err = {0};

	json = argc > 1 && streq(argv[1], "--json");
	if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
		printf("skipped: network namespaces need root\n");
		return 0;
	}
	strcpy(memory_root, "/run/muster-bench-XXXXXX");
	strcpy(disk_root, "/var/tmp/muster-bench-XXXXXX");
	if (!mkdtemp(memory_root) || !mkdtemp(disk_root))
		die("a folder", NULL);
	atexit(leave);
	journal_volatile_root = memory_root;
	journal_durable_root = disk_root;
	host = node_new("host", NULL);
	if (!host || node_open(host, &err) < 0)
		die("node", &err);
	records("journal-volatile", CHANGE_VOLATILE, RECORDS, 0);
	records("journal-durable", CHANGE_DURABLE, 1, GOAL_DURABLE);
	changes("journal-sysctl", "set.sysctl",
		json_pack("{s:s, s:{s:s}}", "node", "host", "values", "net.ipv4.tcp_fin_timeout", "31"), sysctl_there,
		sysctl_back);
	if (run_command(link) != 0 || run_command(link_up) != 0)
		die("a link", NULL);
	changes("journal-qdisc", "fault.netem", json_pack("{s:s, s:s, s:s}", "node", "host", "dev", "eth0", "delay", "10ms"),
		tc_there, tc_back);
	node_free(host);
	return 0;
}
