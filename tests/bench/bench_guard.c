/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How long the host stays changed after the engine's death: from SIGKILL to the last of 64 changes undone, verified
 * and marked in the journal. The guard and the journal are the real ones; the engine is one that makes 64 changes
 * (set.sysctl, 8 parameters in each of 8 namespaces), each announced to the guard, and holds as much memory as a
 * drill's does, because its death takes longer by that. Beside it the same undo by the commands that restore.sh holds,
 * every fourth time. All values are read back each time. Needs root; a world of its own. About half a minute natively.
 */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "engine/events.h"
#include "tests/bench/bench.h"
#include "tests/crash/trial.h"

#define ROUNDS	  100
#define ROUNDS_VM 10
#define PEER_EACH 4
#define SPACES	  8
#define ENGINE_MB 64
#define GOAL	  100.0 /* ms, natively, p99 */

static const struct {
	const char *key, *path, *ours;
} keys[] = {
	{"net.ipv4.tcp_fin_timeout", "/proc/sys/net/ipv4/tcp_fin_timeout", "33"},
	{"net.ipv4.tcp_keepalive_time", "/proc/sys/net/ipv4/tcp_keepalive_time", "7001"},
	{"net.ipv4.tcp_keepalive_probes", "/proc/sys/net/ipv4/tcp_keepalive_probes", "7"},
	{"net.ipv4.tcp_keepalive_intvl", "/proc/sys/net/ipv4/tcp_keepalive_intvl", "71"},
	{"net.ipv4.tcp_syn_retries", "/proc/sys/net/ipv4/tcp_syn_retries", "4"},
	{"net.ipv4.tcp_synack_retries", "/proc/sys/net/ipv4/tcp_synack_retries", "4"},
	{"net.ipv4.tcp_retries2", "/proc/sys/net/ipv4/tcp_retries2", "14"},
	{"net.core.somaxconn", "/proc/sys/net/core/somaxconn", "2049"},
};

static struct node *nodes[SPACES];
static char *priors[SPACES][ARRAY_SIZE(keys)];
static struct shared {
	_Atomic int made;
	_Atomic pid_t engine;
} *sh;

/* The rank that at least this share does not exceed */
static double percentile(const double *v, int n, double p)
{
	return v[(int)ceil(p * n) - 1];
}

static int make_world(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("run", "/run", "tmpfs", 0, "mode=755") < 0)
		return -errno;
	for (int i = 0; i < SPACES; i++) {
		_cleanup_free_ char *name = strf("bench%d", i), *path = strf("/run/netns/%s", name),
				    *cmd = strf("ip netns add %s", name);

		if (system(cmd) != 0 || !(nodes[i] = node_new(name, path)) || node_open(nodes[i], NULL) < 0)
			return -EIO;
		for (size_t k = 0; k < ARRAY_SIZE(keys); k++)
			if (node_read(nodes[i], keys[k].path, &priors[i][k]) < 0 || streq(priors[i][k], keys[k].ours))
				return -EIO;
	}
	return 0;
}

static int engine(const struct run_opts *o)
{
	char *memory = malloc(ENGINE_MB << 20);

	if (memory)
		explicit_bzero(memory, ENGINE_MB << 20);
	for (int i = 0; i < SPACES; i++)
		for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
			struct err err = {0};

			if (trial_apply(o, "set.sysctl", nodes[i],
				    json_pack("{s:s, s:{s:s}}", "node", nodes[i]->name, "values", keys[k].key, keys[k].ours),
				    &err) < 0)
				return bench_failed("apply", &err);
		}
	sh->engine = getpid();
	sh->made = SPACES * ARRAY_SIZE(keys);
	trial_beat(o);
	return 0;
}

/* How many values are not what they were, or are not ours */
static int count_not(bool prior)
{
	int n = 0;

	for (int i = 0; i < SPACES; i++)
		for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
			_cleanup_free_ char *now = NULL;

			n += node_read(nodes[i], keys[k].path, &now) < 0 || !streq(now, prior ? priors[i][k] : keys[k].ours);
		}
	return n;
}

/* When the guard had undone the last, by its own word in the timeline; 0: it has not said so */
static nsec_t restored_at(const struct trial *t, int *ret_undone)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", t->dir), *text = NULL;
	char *save = NULL;

	if (file_read(path, 1 << 20, &text, NULL) < 0)
		return 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		_cleanup_json_ json_t *j = json_loads(line, 0, NULL);

		if (!streq(json_string_value(json_object_get(j, "kind")), EV_GUARD))
			continue;
		*ret_undone = (int)json_integer_value(json_object_get(j, "undone"));
		return json_integer_value(json_object_get(j, "restored_ns"));
	}
	return 0;
}

static int measure(double *ret_ms)
{
	nsec_t killed, restored, until = now_ns() + 60 * NSEC_PER_SEC;
	const int all = SPACES * ARRAY_SIZE(keys);
	struct trial t;
	int code, undone = 0;

	sh->made = 0;
	if (trial_make(&t) < 0 || trial_begin(&t, engine) < 0)
		return bench_failed("begin", NULL);
	while (sh->made < all && now_ns() < until)
		(void)poll(NULL, 0, 1);
	if (sh->made < all || count_not(false))
		return bench_failed("the changes were not made", NULL);
	killed = now_ns();
	kill(sh->engine, SIGKILL);
	code = trial_end(&t);
	restored = restored_at(&t, &undone);
	trial_drop(&t);
	if (code != 0 || undone != all || count_not(true)) {
		fprintf(stderr, "bench_guard: exit %d, %d undone, %d values not as before\n", code, undone, count_not(true));
		return 1;
	}
	*ret_ms = (double)(restored - killed) / NSEC_PER_MSEC;
	return 0;
}

static int measure_commands(double *ret_ms)
{
	const struct change_ops *ops = change_find("set.sysctl");
	_cleanup_strbuf_ struct strbuf all = {0}, ignored = {0};
	nsec_t begun;

	for (int i = SPACES; i-- > 0;)
		for (size_t k = ARRAY_SIZE(keys); k-- > 0;) {
			_cleanup_json_ json_t *args =
				json_pack("{s:s, s:{s:s}}", "node", nodes[i]->name, "values", keys[k].key, keys[k].ours);
			_cleanup_json_ json_t *prior = NULL;
			struct err err = {0};

			if (ops->capture(nodes[i], args, &prior, &err) < 0 || ops->apply(nodes[i], args, prior, &err) < 0 ||
				ops->command(nodes[i], args, prior, &ignored, &all) < 0)
				return bench_failed("apply", &err);
		}
	begun = now_ns();
	{
		_cleanup_free_ char *script = strf("{ %s } >/dev/null", strbuf_cstr(&all));

		if (system(script) != 0 || count_not(true))
			return bench_failed("the commands failed", NULL);
	}
	*ret_ms = (double)(now_ns() - begun) / NSEC_PER_MSEC;
	return 0;
}

int main(int argc, char **argv)
{
	static double ours[ROUNDS], peer[ROUNDS];
	const bool vm = getenv("MUSTER_VM") != NULL;
	const int rounds = vm ? ROUNDS_VM : ROUNDS;
	double p50, p99;
	int n_peer = 0;

	if (geteuid() != 0) {
		printf("skipped: network namespaces need root\n");
		return 0;
	}
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED || make_world() < 0)
		return bench_failed("prepare", NULL);
	for (int i = 0; i < rounds; i++) {
		if (measure(&ours[i]) != 0)
			return 1;
		if (i % PEER_EACH == 0 && measure_commands(&peer[n_peer++]) != 0)
			return 1;
	}
	qsort(ours, (size_t)rounds, sizeof(*ours), ascending);
	qsort(peer, (size_t)n_peer, sizeof(*peer), ascending);
	p50 = percentile(ours, rounds, 0.5);
	p99 = percentile(ours, rounds, 0.99);
	if (argc > 1 && streq(argv[1], "--json"))
		printf("{\"bench\":\"guard-undo-64\",\"where\":\"%s\",\"ours\":%.2f,\"peer\":%.1f,\"unit\":\"ms\",\"ratio\":%.1f,"
		       "\"goal\":%s,\"met\":%s,\"n\":%d,\"p50\":%.2f,\"worst\":%.2f}\n",
			vm ? "vm" : "native", p99, percentile(peer, n_peer, 0.99), percentile(peer, n_peer, 0.99) / p99,
			vm ? "null" : "100", vm ? "null" : p99 <= GOAL ? "true" : "false", rounds, p50, ours[rounds - 1]);
	else
		printf("guard-undo-64: %.2f ms from the engine's death by SIGKILL to the last of 64 changes undone (p99 of %d; p50 %.2f, "
		       "worst %.2f); by restore.sh's commands %.1f ms; goal %s\n",
			p99, rounds, p50, ours[rounds - 1], percentile(peer, n_peer, 0.99),
			vm ? "none in an emulated machine" : "100 ms");
	return 0;
}
