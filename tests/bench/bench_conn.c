/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What telemetry costs a host: the processor time of one loopback connection (connect, accept, abort) with nothing attached
 * and with our program attached and drained, turn and turn about in a namespace of its own; and the time of the program by
 * itself. All of it runs in the one thread, the kernel's softirqs included, and processor time leaves out who else has
 * work on this machine. Two lines of JSON. Needs root. About 2 s natively.
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include <bpf/bpf.h>

#include "bpf/telemetry.h"
#include "tests/bench/bench.h"

#define ROUNDS	    11
#define CONNECTIONS 2000
#define WARM_UP	    200
#define GOAL	    1.15 /* both ends are on this host; a real server has one of them to pay for */

static atomic_bool ending;
static struct sockaddr_in addr = {.sin_family = AF_INET};
static int lfd;

static void prepare(void)
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	socklen_t len = sizeof(addr);

	if (unshare(CLONE_NEWNET) < 0 || (lfd = socket(AF_INET, SOCK_STREAM, 0)) < 0 ||
		ioctl(lfd, SIOCSIFFLAGS, &ifr) < 0) {
		perror("bench_conn: a network namespace (needs root)");
		exit(1);
	}
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(lfd, (struct sockaddr *)&addr, len) < 0 || listen(lfd, 16) < 0 ||
		getsockname(lfd, (struct sockaddr *)&addr, &len) < 0) {
		perror("bench_conn: listen");
		exit(1);
	}
}

static nsec_t thread_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* ns a connection; aborted, so that no TIME_WAIT piles up */
static double round_ns(void)
{
	struct linger l = {.l_onoff = 1};
	nsec_t t0 = 0;
	int i, c, s;

	for (i = -WARM_UP; i < CONNECTIONS; i++) {
		if (i == 0)
			t0 = thread_ns();
		c = socket(AF_INET, SOCK_STREAM, 0);
		if (c < 0 || connect(c, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
			(s = accept(lfd, NULL, NULL)) < 0) {
			perror("bench_conn: connect");
			exit(1);
		}
		setsockopt(c, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
		close(c);
		close(s);
	}
	return (double)(thread_ns() - t0) / CONNECTIONS;
}

static void ignore(const struct conn_record *r _unused_, void *arg _unused_)
{
}

static void *drain(void *arg)
{
	bool more;

	do {
		telemetry_drain(arg, &more);
		poll(NULL, 0, 20);
	} while (!ending);
	telemetry_drain(arg, &more);
	return NULL;
}

/* Returns the time of a round with telemetry; its counters and the program's own time are added up. */
static double with_telemetry(bool timed, uint64_t *dropped, double *program_ns)
{
	struct telemetry_opts o = {0};
	struct telemetry_stats st;
	struct err err = {0};
	struct telemetry *t;
	pthread_t thread;
	struct stat ns;
	uint64_t ino;
	double v;
	int stats_fd;

	if (stat("/proc/self/ns/net", &ns) < 0)
		exit(1);
	ino = ns.st_ino;
	o.netns = &ino;
	o.n_netns = 1;
	if (telemetry_open(&o, ignore, NULL, &t, &err) < 0) {
		fprintf(stderr, "bench_conn: %s\n", err.text);
		exit(1);
	}
	ending = false;
	pthread_create(&thread, NULL, drain, t);
	stats_fd = timed ? bpf_enable_stats(BPF_STATS_RUN_TIME) : -1;
	v = round_ns();
	if (stats_fd >= 0)
		close(stats_fd);
	ending = true;
	pthread_join(thread, NULL);
	if (timed)
		telemetry_run_time(t, program_ns);
	if (telemetry_stats(t, &st) == 0)
		*dropped += telemetry_dropped(&st);
	telemetry_close(t);
	return v;
}

int main(void)
{
	const char *where = getenv("MUSTER_VM") ? "vm" : "native";
	double peer[ROUNDS], ours[ROUNDS], ratio[ROUNDS], r, program_ns = 0;
	uint64_t dropped = 0;
	int i;

	prepare();
	for (i = 0; i < ROUNDS; i++) {
		if (i % 2)
			ours[i] = with_telemetry(false, &dropped, NULL);
		peer[i] = round_ns();
		if (i % 2 == 0)
			ours[i] = with_telemetry(false, &dropped, NULL);
	}
	with_telemetry(true, &dropped, &program_ns);
	/* of neighbours: whatever else slows the machine for a while slows both */
	for (i = 0; i < ROUNDS; i++)
		ratio[i] = ours[i] / peer[i];
	r = median(ratio, ROUNDS);
	printf("{\"bench\":\"conn-telemetry\",\"where\":\"%s\",\"ours\":%.2f,\"peer\":%.2f,"
	       "\"unit\":\"us/connection\","
	       "\"ratio\":%.3f,\"goal\":%.2f,\"met\":%s,\"n\":%d,\"dropped\":%llu}\n",
		where, median(ours, ROUNDS) / 1e3, median(peer, ROUNDS) / 1e3, r, GOAL,
		r <= GOAL ? "true" : "false", ROUNDS * CONNECTIONS, (unsigned long long)dropped);
	printf("{\"bench\":\"conn-program\",\"where\":\"%s\",\"ours\":%.0f,\"peer\":null,\"unit\":"
	       "\"ns/run\",\"ratio\":null,"
	       "\"goal\":null,\"met\":null,\"n\":%d}\n",
		where, program_ns, CONNECTIONS);
	return 0;
}
