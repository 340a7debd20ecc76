/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One qdisc change: a token bucket's rate on a veth, by one netlink request of ours, beside a tc that is started for it, and beside a
 * tc -batch that stands ready on a pipe. Turn and turn about, in a network namespace of its own; each change is one that the
 * kernel has to make. The journal's part (the intent before it, the mark after) is told by itself. Needs root.
 *
 *	qdisc-change		against a tc started for it
 *	qdisc-change-batch	against tc -batch, which answers for each line by what it prints for a "qdisc show" after it; the
 *				show alone is measured too and taken off
 *	qdisc-journal		the journal's two records of one change, against the same change unjournalled
 */
#include <fcntl.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/journal.h"
#include "inject/qdisc.h"
#include "tests/bench/bench.h"

#define ROUNDS	   201
#define ROUNDS_VM  41
#define GOAL_SPAWN 50.0
#define GOAL_BATCH 1.0

extern char **environ;

/* rate in bytes per second; the burst is 16 KiB, as in the words below, whose time at that rate the kernel wants in 64 ns ticks */
static struct nl_msg *bucket(int ifindex, uint32_t rate)
{
	struct nl_msg *m = tc_msg(RTM_NEWQDISC, NLM_F_REPLACE | NLM_F_CREATE, ifindex, TC_H_ROOT, 0x50000, 0, "tbf");
	struct tc_tbf_qopt q = {.rate = {.rate = rate, .cell_log = 6, .linklayer = 1},
		.limit = 1 << 20,
		.buffer = (uint32_t)(16384.0 / rate * 1e9 / 64)};
	uint32_t table[256] = {0};
	struct nlattr *o = m ? nla_nest_start(m, TCA_OPTIONS) : NULL;

	if (!o || nla_put(m, TCA_TBF_PARMS, sizeof(q), &q) < 0 || nla_put(m, TCA_TBF_RTAB, sizeof(table), table) < 0) {
		nlmsg_free(m);
		return NULL;
	}
	nla_nest_end(m, o);
	return m;
}

struct rate_seen {
	uint32_t rate;
};

static int rate_cb(const struct tc_obj *o, void *arg)
{
	const struct nlattr *p;
	struct tc_tbf_qopt q;

	if (!o || o->parent != TC_H_ROOT || !streq(o->kind, "tbf") || !o->options)
		return 0;
	p = nla_find(o->options, (int)o->options_len, TCA_TBF_PARMS);
	if (p && (size_t)nla_len(p) >= sizeof(q)) {
		memcpy(&q, nla_data(p), sizeof(q));
		((struct rate_seen *)arg)->rate = q.rate.rate;
	}
	return 0;
}

/* Neither may win by doing nothing. */
static bool is_rate(struct nlc *nl, int ifindex, uint32_t mbit)
{
	struct rate_seen s = {0};

	return tc_dump(nl, RTM_GETQDISC, ifindex, 0, rate_cb, &s, NULL) == 0 && s.rate == mbit * 125000;
}

static int spawned(const char *const argv[])
{
	pid_t pid;
	int status;

	if (posix_spawnp(&pid, "tc", NULL, NULL, (char *const *)argv, environ) != 0 || waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

/* tc -batch on two pipes */
struct batch {
	FILE *in;
	int out;
	pid_t pid;
};

static int batch_open(struct batch *b)
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
		return -errno;
	b->pid = fork();
	if (b->pid < 0)
		return -errno;
	if (b->pid == 0) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		/* its answers are to come line by line */
		execlp("stdbuf", "stdbuf", "-oL", "tc", "-batch", "-", (char *)NULL);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	b->in = fdopen(to[1], "w");
	b->out = from[0];
	return b->in ? 0 : -errno;
}

/* Until a whole line has come */
static int batch_line(struct batch *b)
{
	char c;

	do {
		if (read(b->out, &c, 1) != 1)
			return -EIO;
	} while (c != '\n');
	return 0;
}

static void batch_close(struct batch *b)
{
	int status;

	fclose(b->in);
	close(b->out);
	waitpid(b->pid, &status, 0);
}

static void report(const char *bench, const char *where, double ours, double peer, double goal, int n)
{
	double ratio = peer / ours;

	printf("{\"bench\":\"%s\",\"where\":\"%s\",\"ours\":%.1f,\"peer\":%.1f,\"unit\":\"us\",\"ratio\":%.2f,", bench, where, ours, peer, ratio);
	if (goal > 0)
		printf("\"goal\":%.0f,\"met\":%s,\"n\":%d}\n", goal, ratio >= goal ? "true" : "false", n);
	else
		printf("\"goal\":null,\"met\":null,\"n\":%d}\n", n);
}

static const struct change_ops journalled = {.name = "fault.netem", .summary = "one change", .class = CHANGE_VOLATILE};

int main(void)
{
	const char *where = getenv("MUSTER_VM") ? "vm" : "native";
	int n = getenv("MUSTER_VM") ? ROUNDS_VM : ROUNDS, ifindex = 0, r;
	static double ours[ROUNDS], journal[ROUNDS], spawn[ROUNDS], batch[ROUNDS], show[ROUNDS];
	char dir[] = "/run/muster-bench-XXXXXX", durable[sizeof(dir) + 8];
	_cleanup_node_ struct node *here = node_new("bench", NULL);
	_cleanup_json_ json_t *args = json_pack("{s:s, s:i}", "node", "bench", "delay", 40000000);
	_cleanup_json_ json_t *prior = json_pack("{s:s, s:s, s:i, s:s}", "how", "detour", "dev", "b0", "ifindex", 2, "token", "00000000");
	_cleanup_journal_ struct journal *j = NULL;
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct batch b = {0};
	struct err err = {0};

	if (geteuid() != 0) {
		printf("skipped: network namespaces need root\n");
		return 0;
	}
	if (unshare(CLONE_NEWNET) < 0 || !here || !args || !prior || !mkdtemp(dir) ||
		system("ip link add b0 type veth peer name b1 && ip link set b0 mtu 1200 up && ip link set b1 mtu 1200 up") != 0)
		return bench_failed("prepare", &err);
	snprintf(durable, sizeof(durable), "%s/durable", dir);
	journal_volatile_root = dir;
	journal_durable_root = durable;
	r = journal_create("bench", &j, &err);
	if (r == 0)
		r = node_open(here, &err);
	if (r == 0)
		r = nlc_open(here, NETLINK_ROUTE, &nl, &err);
	if (r == 0)
		r = ifindex = nlc_ifindex(nl, "b0", &err);
	if (r >= 0)
		r = batch_open(&b);
	if (r < 0)
		goto out;
	for (int i = 0; i < n; i++) {
		uint32_t mbit = 100 + (uint32_t)i * 3, seq;
		char word[32];
		const char *argv[] = {"tc", "qdisc", "replace", "dev", "b0", "root", "handle", "5:", "tbf", "rate", word, "burst", "16k",
			"limit", "1mb", NULL};
		nsec_t t, t2;

		/* ours: the journal's intent, the change, the journal's mark */
		t = now_ns();
		r = journal_intent(j, &journalled, here, args, prior, &seq, &err);
		journal[i] = (double)(now_ns() - t) / 1e3;
		t = now_ns();
		if (r == 0)
			r = nlc_request(nl, bucket(ifindex, mbit * 125000), &err);
		t2 = now_ns();
		ours[i] = (double)(t2 - t) / 1e3;
		if (r == 0)
			r = journal_mark(j, seq, JOURNAL_APPLIED, NULL, &err);
		journal[i] += (double)(now_ns() - t2) / 1e3;
		if (r < 0)
			break;
		if (!is_rate(nl, ifindex, mbit)) {
			r = err_set(&err, -EPROTO, "our change is not there");
			break;
		}
		snprintf(word, sizeof(word), "%umbit", mbit + 1);
		t = now_ns();
		r = spawned(argv);
		spawn[i] = (double)(now_ns() - t) / 1e3;
		if (r < 0 || !is_rate(nl, ifindex, mbit + 1)) {
			r = err_set(&err, -EPROTO, "tc's change is not there");
			break;
		}
		t = now_ns();
		fprintf(b.in, "qdisc replace dev b0 root handle 5: tbf rate %umbit burst 16k limit 1mb\nqdisc show dev b0\n", mbit + 2);
		fflush(b.in);
		r = batch_line(&b);
		batch[i] = (double)(now_ns() - t) / 1e3;
		if (r < 0 || !is_rate(nl, ifindex, mbit + 2)) {
			r = err_set(&err, -EPROTO, "the change by tc -batch is not there");
			break;
		}
		t = now_ns();
		fputs("qdisc show dev b0\n", b.in);
		fflush(b.in);
		r = batch_line(&b);
		show[i] = (double)(now_ns() - t) / 1e3;
		if (r < 0)
			break;
		batch[i] -= show[i];
	}
	if (r >= 0) {
		double o = median(ours, n);

		report("qdisc-change", where, o, median(spawn, n), GOAL_SPAWN, n);
		report("qdisc-change-batch", where, o, median(batch, n), GOAL_BATCH, n);
		report("qdisc-journal", where, median(journal, n), o, 0, n);
	}
out:
	if (b.in)
		batch_close(&b);
	{
		char command[64];

		snprintf(command, sizeof(command), "rm -rf -- '%s'", dir);
		if (system(command) != 0)
			fprintf(stderr, "bench_qdisc: %s was not removed\n", dir);
	}
	return r < 0 ? bench_failed("run", &err) : 0;
}
