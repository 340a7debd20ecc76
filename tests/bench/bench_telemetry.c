/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What it costs a host to have its connections watched: nginx and wrk on loopback, one request a connection, at the full rate of
 * this machine, while one watcher after the other is attached, in turns drawn anew in each round:
 *
 *	bare		nothing
 *	aggregates	ours, as a drill reads it: series every 100 ms, counts and histograms every second; no record leaves the kernel
 *	records		ours, with every record of every connection besides, drained every 20 ms
 *	tcplife, tcpstates, tcpconnlat		of Debian's libbpf-tools, their output thrown away
 *
 * The load runs on all the while; a turn is watched for TURN after a moment to settle, and ours from when its second program has gone
 * (TELEMETRY_CALM_MOVES: a second or so at these rates); "second" counts the turns in which it was there. Cost is the share of the bare rate of
 * the same round that is missing. Beside the rate stands processor time a connection, of all that takes part (nginx, wrk and
 * the watcher, the kernel's work in their time included), which suffers less from who else is using the machine: where the bare rate's
 * quartiles are more than NOISE apart, it is by this that the goals are judged ("judged_by"). Medians over the rounds, and the
 * quartiles, so that the noise can be seen.
 *
 * What the aggregates cost is less than the noise from one second to the next. So it is judged by another measure: our programs
 * stay loaded, and are attached and taken off again every 100 ms, PAIRS times, and each pair is compared in itself ("alternating").
 * Its peer is a program that does nothing: what no program at this trace point can be below.
 *
 * Needs root; everything happens in a network namespace of its own.
 *
 *	bench_telemetry [--json] [--rounds N] [--turn MS] [--pairs N] [--only WATCHER]...	(bare besides)
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "bpf/telemetry.h"
#include "engine/clock.h"
#include "engine/str.h"

#define PORT	    8080
#define SETTLE	    (250 * NSEC_PER_MSEC)
#define ROUNDS_MAX  99
#define CONNECTIONS "64"
#define NOISE	    0.05

enum { BARE, AGGREGATES, RECORDS, TCPLIFE, TCPSTATES, TCPCONNLAT, WATCHERS };
static const char *const names[] = {"bare", "aggregates", "records", "tcplife", "tcpstates", "tcpconnlat"};

struct turn {
	double rate;   /* connections a second */
	double cpu_us; /* a connection */
};

static struct turn turns[WATCHERS][ROUNDS_MAX];
static uint64_t lost, recorded, accepted;
static char dir[] = "/tmp/muster-bench-XXXXXX";
static pid_t nginx, wrk;
static bool missing[WATCHERS];

static void die(const char *what)
{
	fprintf(stderr, "bench_telemetry: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void stop_process(pid_t pid)
{
	if (pid > 0) {
		kill(pid, SIGTERM);
		waitpid(pid, NULL, 0);
	}
}

static void clean_up(void)
{
	char path[128];

	stop_process(wrk);
	stop_process(nginx);
	snprintf(path, sizeof(path), "%s/nginx.conf", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/pid", dir);
	unlink(path);
	rmdir(dir);
}

static pid_t spawn(char *const argv[])
{
	pid_t pid = fork();

	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid < 0)
		die("fork");
	return pid;
}

static void prepare(void)
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = -1;

	if (unshare(CLONE_NEWNET) < 0 || (fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		die("a network namespace (needs root)");
	close(fd);
	/* the peers' tools look their trace points up there; mounted for this process and its children alone */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("a mount namespace");
	(void)mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
	fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1024 65535", 10) != 10)
		die("ip_local_port_range");
	close(fd);
	if (!mkdtemp(dir))
		die(dir);
	atexit(clean_up);
	{
		char path[128];
		FILE *f;

		snprintf(path, sizeof(path), "%s/nginx.conf", dir);
		f = fopen(path, "w");
		if (!f)
			die(path);
		fprintf(f,
			"daemon off; master_process off; worker_processes 1; pid %s/pid; error_log /dev/null;\n"
			"events { worker_connections 1024; }\n"
			"http { access_log off; server { listen 127.0.0.1:%d backlog=1024; location / { return 200 \"ok\"; } } }\n",
			dir, PORT);
		fclose(f);
		nginx = spawn((char *[]){(char *)"nginx", (char *)"-c", path, NULL});
	}
	for (int i = 0; i < 500; i++) {
		int r;

		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		r = connect(fd, (struct sockaddr *)&a, sizeof(a));
		close(fd);
		if (r == 0)
			break;
		if (i == 499)
			die("nginx does not answer");
		poll(NULL, 0, 10);
	}
	wrk = spawn((char *[]){(char *)"wrk", (char *)"-t1", (char *)"-c" CONNECTIONS, (char *)"-d3600s", (char *)"-H",
		(char *)"Connection: close", (char *)"http://127.0.0.1:8080/", NULL});
}

/* Connections that were accepted in this namespace so far */
static uint64_t passive_opens(void)
{
	char buf[8192], *s;
	int fd = open("/proc/thread-self/net/snmp", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	unsigned long long v = 0;

	if (n <= 0)
		die("/proc/thread-self/net/snmp");
	close(fd);
	buf[n] = '\0';
	s = strstr(buf, "\nTcp: ");
	s = s ? strstr(s + 1, "\nTcp: ") : NULL;
	/* RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens */
	if (!s || sscanf(s, "\nTcp: %*s %*s %*s %*s %*s %llu", &v) != 1)
		die("PassiveOpens");
	return v;
}

/* Time on a processor, of all threads of it, ns */
static uint64_t process_ns(pid_t pid)
{
	struct timespec ts;
	clockid_t clock;

	if (pid <= 0 || clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* ── ours ──────────────────────────────────────────────────────────────────────────────────── */

#define CALM_WAIT (5 * NSEC_PER_SEC)

static atomic_bool ending, calm;
static unsigned int not_calm;

struct watch {
	struct telemetry *t;
	bool records;
};

static void take_record(const struct conn_record *r, void *arg _unused_)
{
	recorded += r->weight;
}

static void take_slot(unsigned int party _unused_, const struct conn_slot *d, void *arg _unused_)
{
	accepted += d->established;
}

static void *read_ours(void *arg)
{
	static struct hist h;
	struct watch *w = arg;
	nsec_t series = 0, rest = 0;
	bool more = true;

	while (!ending) {
		struct telemetry_stats st;
		nsec_t now = now_ns();

		if (telemetry_stats(w->t, &st) == 0)
			calm = !st.second;
		if (w->records)
			telemetry_drain(w->t, &more);
		if (now - series >= 100 * NSEC_PER_MSEC) {
			telemetry_series(w->t, now - 50 * NSEC_PER_MSEC, take_slot, NULL);
			series = now;
		}
		if (now - rest >= NSEC_PER_SEC) {
			struct telemetry_count *c = NULL;
			size_t n;

			if (telemetry_counts(w->t, &c, &n) == 0)
				free(c);
			for (unsigned int k = 0; k < 2 * CONN_HIST_COUNT; k++)
				telemetry_hist(w->t, k / CONN_HIST_COUNT, k % CONN_HIST_COUNT, &h);
			rest = now;
		}
		poll(NULL, 0, w->records ? 20 : 100);
	}
	return NULL;
}

static struct telemetry *open_ours(bool records)
{
	struct telemetry_endpoint e[] = {
		{.role = CONN_ROLE_ACTIVE, .family = AF_INET, .addr = {127, 0, 0, 1}, .port = PORT, .service = 1, .party = 0},
		{.role = CONN_ROLE_PASSIVE, .family = AF_INET, .addr = {127, 0, 0, 1}, .port = PORT, .service = 1, .party = 1},
	};
	struct telemetry_opts o = {.n_netns = 1, .no_records = !records, .aggregates = true, .endpoints = e, .n_endpoints = 2,
		.n_parties = 2};
	struct err err = {0};
	struct telemetry *t;
	struct stat ns;
	uint64_t ino;

	if (stat("/proc/thread-self/ns/net", &ns) < 0)
		die("/proc/thread-self/ns/net");
	ino = e[0].netns = e[1].netns = ns.st_ino;
	o.netns = &ino;
	if (telemetry_open(&o, take_record, NULL, &t, &err) < 0) {
		fprintf(stderr, "bench_telemetry: %s\n", err.text);
		exit(1);
	}
	return t;
}

/* ── a turn ────────────────────────────────────────────────────────────────────────────────── */

static void sleep_until(nsec_t t)
{
	struct timespec ts = {.tv_sec = t / NSEC_PER_SEC, .tv_nsec = t % NSEC_PER_SEC};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

/* Of @length from now on; @tool: the watcher's process, 0 when it is this one */
static struct turn measure(nsec_t length, pid_t tool)
{
	nsec_t t0 = now_ns(), t1;
	uint64_t n = passive_opens(), c = process_ns(nginx) + process_ns(wrk) + process_ns(tool) + process_ns(getpid());

	sleep_until(t0 + length);
	t1 = now_ns();
	n = passive_opens() - n;
	c = process_ns(nginx) + process_ns(wrk) + process_ns(tool) + process_ns(getpid()) - c;
	return (struct turn){.rate = (double)n * NSEC_PER_SEC / (double)(t1 - t0), .cpu_us = n ? (double)c / 1e3 / (double)n : 0};
}

static void read_in_a_thread(struct watch *w, pthread_t *ret)
{
	ending = calm = false;
	if (pthread_create(ret, NULL, read_ours, w))
		die("a thread");
}

static void wait_until_calm(void)
{
	for (nsec_t t0 = now_ns(); !calm && now_ns() - t0 < CALM_WAIT;)
		sleep_until(now_ns() + 50 * NSEC_PER_MSEC);
	not_calm += !calm;
}

static struct turn take_turn(int who, nsec_t length)
{
	struct watch w = {.records = who == RECORDS};
	pthread_t thread;
	pid_t tool = 0;
	struct turn t;

	if (who == AGGREGATES || who == RECORDS) {
		w.t = open_ours(w.records);
		read_in_a_thread(&w, &thread);
		wait_until_calm();
	} else if (who != BARE) {
		tool = spawn((char *[]){(char *)names[who], NULL});
		sleep_until(now_ns() + 1500 * NSEC_PER_MSEC); /* it compiles nothing, but it loads and attaches */
	}
	sleep_until(now_ns() + SETTLE);
	t = measure(length, tool);
	if (tool && waitpid(tool, NULL, WNOHANG) == tool) {
		missing[who] = true;
		tool = 0;
	}
	stop_process(tool);
	if (w.t) {
		struct telemetry_stats st;

		ending = true;
		pthread_join(thread, NULL);
		telemetry_detach(w.t);
		telemetry_series(w.t, NSEC_INFINITY, take_slot, NULL);
		if (telemetry_stats(w.t, &st) == 0)
			lost += telemetry_inexact(&st) + st.lost_ring;
		telemetry_close(w.t);
	}
	return t;
}

/* ── ours, on and off ──────────────────────────────────────────────────────────────────────── */

#define SLICE	    (100 * NSEC_PER_MSEC)
#define SLICE_QUIET (10 * NSEC_PER_MSEC)
#define PAIRS_MAX   2000
#define PROGS_MAX   8

static uint32_t newest_prog(void)
{
	uint32_t id = 0;

	while (bpf_prog_get_next_id(id, &id) == 0)
		;
	return id;
}

/* Of the programs that are newer than @since, those that are attached while the second is not needed */
static size_t our_progs(uint32_t since, int fds[PROGS_MAX])
{
	size_t n = 0;

	for (uint32_t id = since; n < PROGS_MAX && bpf_prog_get_next_id(id, &id) == 0;) {
		struct bpf_prog_info info = {0};
		uint32_t len = sizeof(info);
		int fd = bpf_prog_get_fd_by_id(id);

		if (fd >= 0 && bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && strncmp(info.name, "conn_", 5) == 0 &&
			!strstr(info.name, "_2"))
			fds[n++] = fd;
		else if (fd >= 0)
			close(fd);
	}
	return n;
}

/* @name: of the trace point of raw programs; NULL: typed ones know theirs */
static struct turn take_slice(const char *name, const int *progs, size_t n)
{
	int links[PROGS_MAX];
	struct turn t;

	for (size_t i = 0; i < n; i++) {
		links[i] = bpf_raw_tracepoint_open(name, progs[i]);
		if (links[i] < 0)
			die("attaching once more");
	}
	sleep_until(now_ns() + SLICE_QUIET);
	t = measure(SLICE, 0);
	for (size_t i = 0; i < n; i++)
		close(links[i]);
	return t;
}

/* Of each pair the share of the bare rate that is missing, and of processor time that is added */
static void take_pairs(const char *name, const int *progs, size_t n, int pairs, double *ret_rate, double *ret_cpu)
{
	for (int i = 0; i < pairs; i++) {
		struct turn bare, ours;

		if (i % 2)
			ours = take_slice(name, progs, n);
		bare = take_slice(NULL, NULL, 0);
		if (i % 2 == 0)
			ours = take_slice(name, progs, n);
		ret_rate[i] = 1 - ours.rate / bare.rate;
		ret_cpu[i] = ours.cpu_us / bare.cpu_us - 1;
	}
}

/* What the kernel takes for a program at our trace point that does nothing: whoever is attached there costs that much */
static void alternate_empty(int pairs, double *ret_rate, double *ret_cpu)
{
	static const struct bpf_insn nothing[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int fd = bpf_prog_load(BPF_PROG_TYPE_RAW_TRACEPOINT, "nothing", "GPL", nothing, ARRAY_SIZE(nothing), NULL);

	if (fd < 0)
		die("loading a program that does nothing");
	take_pairs("inet_sock_set_state", &fd, 1, pairs, ret_rate, ret_cpu);
	close(fd);
}

/* Returns how many programs it were. */
static size_t alternate(int pairs, double *ret_rate, double *ret_cpu)
{
	uint32_t since = newest_prog();
	struct watch w = {.t = open_ours(false)};
	int progs[PROGS_MAX];
	pthread_t thread;
	size_t n = our_progs(since, progs);

	read_in_a_thread(&w, &thread);
	wait_until_calm();
	ending = true;
	pthread_join(thread, NULL);
	telemetry_detach(w.t); /* the programs stay, and what they know */
	read_in_a_thread(&w, &thread);
	take_pairs(NULL, progs, n, pairs, ret_rate, ret_cpu);
	ending = true;
	pthread_join(thread, NULL);
	for (size_t i = 0; i < n; i++)
		close(progs[i]);
	telemetry_close(w.t);
	return n;
}

/* ── what came of it ───────────────────────────────────────────────────────────────────────── */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct spread {
	double low, median, high; /* quartiles */
};

static struct spread spread_of(double *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), by_value);
	return (struct spread){.low = v[n / 4], .median = v[n / 2], .high = v[n - 1 - n / 4]};
}

static struct spread rate_of(int who, int n)
{
	double v[ROUNDS_MAX];

	for (int i = 0; i < n; i++)
		v[i] = turns[who][i].rate;
	return spread_of(v, n);
}

/* The share of the bare rate that is missing; and of processor time, that is added */
static struct spread cost_of(int who, int n)
{
	double v[ROUNDS_MAX];

	for (int i = 0; i < n; i++)
		v[i] = 1 - turns[who][i].rate / turns[BARE][i].rate;
	return spread_of(v, n);
}

static struct spread cpu_cost_of(int who, int n)
{
	double v[ROUNDS_MAX];

	for (int i = 0; i < n; i++)
		v[i] = turns[who][i].cpu_us / turns[BARE][i].cpu_us - 1;
	return spread_of(v, n);
}

/* The first one leaves out all others */
static void only(const char *name)
{
	static bool first = true;

	for (int i = AGGREGATES; i < WATCHERS; i++) {
		if (first)
			missing[i] = true;
		if (streq(names[i], name))
			missing[i] = false;
	}
	first = false;
}

int main(int argc, char *argv[])
{
	const char *where = getenv("MUSTER_VM") ? "vm" : "native";
	nsec_t length = NSEC_PER_SEC;
	struct spread aggregates, records, tcplife, bare;
	unsigned int seed = 1;
	int rounds = 11, pairs = 400;
	bool ok, noisy;

	for (int i = 1; i < argc; i++) {
		if (streq(argv[i], "--rounds") && i + 1 < argc)
			rounds = atoi(argv[++i]);
		else if (streq(argv[i], "--turn") && i + 1 < argc)
			length = atoi(argv[++i]) * NSEC_PER_MSEC;
		else if (streq(argv[i], "--pairs") && i + 1 < argc)
			pairs = atoi(argv[++i]);
		else if (streq(argv[i], "--only") && i + 1 < argc)
			only(argv[++i]);
	}
	rounds = MAX(1, MIN(rounds, ROUNDS_MAX));
	pairs = MAX(1, MIN(pairs, PAIRS_MAX));
	length = MAX(length, 100 * NSEC_PER_MSEC);
	signal(SIGPIPE, SIG_IGN);
	prepare();
	sleep_until(now_ns() + NSEC_PER_SEC);
	for (int r = 0; r < rounds; r++) {
		int order[WATCHERS];

		for (int i = 0; i < WATCHERS; i++)
			order[i] = i;
		for (int i = WATCHERS - 1; i > 0; i--) {
			int k = rand_r(&seed) % (i + 1), t = order[i];

			order[i] = order[k];
			order[k] = t;
		}
		for (int i = 0; i < WATCHERS; i++)
			if (!missing[order[i]])
				turns[order[i]][r] = take_turn(order[i], length);
		fprintf(stderr, "bench_telemetry: round %d of %d:", r + 1, rounds);
		for (int i = 0; i < WATCHERS; i++)
			fprintf(stderr, " %s %.0f/s %.1f us", names[i], turns[i][r].rate, turns[i][r].cpu_us);
		fprintf(stderr, "\n");
	}
	if (!missing[AGGREGATES]) {
		static double rate[PAIRS_MAX], cpu[PAIRS_MAX];
		size_t n = alternate(pairs, rate, cpu);
		struct spread r = spread_of(rate, pairs), c = spread_of(cpu, pairs), floor, floor_cpu;

		alternate_empty(pairs, rate, cpu);
		floor = spread_of(rate, pairs);
		floor_cpu = spread_of(cpu, pairs);
		printf("{\"bench\":\"telemetry-aggregates-alternating\",\"where\":\"%s\",\"ours\":%.4f,\"peer\":%.4f,\"unit\":\"cost\","
		       "\"ratio\":%.4f,\"goal\":0.98,\"met\":%s,\"n\":%d,\"cost_quartiles\":[%.4f,%.4f],\"cpu_cost\":%.4f,"
		       "\"cpu_cost_quartiles\":[%.4f,%.4f],\"programs\":%zu,\"peer_is\":\"a program that does nothing\","
		       "\"peer_quartiles\":[%.4f,%.4f],\"peer_cpu_cost\":%.4f}\n",
			where, r.median, floor.median, 1 - r.median, r.median <= 0.02 ? "true" : "false", pairs, r.low, r.high, c.median,
			c.low, c.high, n, floor.low, floor.high, floor_cpu.median);
	}
	bare = rate_of(BARE, rounds);
	noisy = bare.high - bare.low > NOISE * bare.median;
	for (int i = AGGREGATES; i < WATCHERS; i++) {
		struct spread rate = rate_of(i, rounds), cost = cost_of(i, rounds), cpu = cpu_cost_of(i, rounds);

		if (missing[i]) {
			printf("{\"bench\":\"telemetry-%s\",\"where\":\"%s\",\"ours\":null,\"peer\":null,\"unit\":\"connections/s\","
			       "\"ratio\":null,\"goal\":null,\"met\":null,\"n\":0,\"text\":\"it does not run here, or was not asked for\"}\n",
				names[i], where);
			continue;
		}
		printf("{\"bench\":\"telemetry-%s-beside-bare\",\"where\":\"%s\",\"ours\":%.0f,\"peer\":%.0f,\"unit\":\"connections/s\","
		       "\"ratio\":%.4f,\"goal\":null,\"met\":null,\"n\":%d,\"cost\":%.4f,\"cost_quartiles\":[%.4f,%.4f],"
		       "\"judged_by\":\"%s\",\"cpu_cost\":%.4f,\"cpu_cost_quartiles\":[%.4f,%.4f],\"bare_quartiles\":[%.0f,%.0f]}\n",
			names[i], where, rate.median, bare.median, 1 - cost.median, rounds, cost.median, cost.low, cost.high,
			noisy ? "cpu" : "rate", cpu.median, cpu.low, cpu.high, bare.low, bare.high);
	}
	aggregates = noisy ? cpu_cost_of(AGGREGATES, rounds) : cost_of(AGGREGATES, rounds);
	records = noisy ? cpu_cost_of(RECORDS, rounds) : cost_of(RECORDS, rounds);
	tcplife = noisy ? cpu_cost_of(TCPLIFE, rounds) : cost_of(TCPLIFE, rounds);
	ok = !missing[TCPLIFE] && records.median <= tcplife.median / 4;
	printf("{\"bench\":\"telemetry-records-beside-tcplife\",\"where\":\"%s\",\"ours\":%.4f,\"peer\":%.4f,\"unit\":\"cost\","
	       "\"ratio\":%.3f,\"goal\":0.25,\"met\":%s,\"n\":%d,\"judged_by\":\"%s\",\"aggregates\":%.4f}\n",
		where, records.median, tcplife.median, records.median / tcplife.median, ok ? "true" : "false", rounds,
		noisy ? "cpu" : "rate", aggregates.median);
	printf("{\"bench\":\"telemetry-lost\",\"where\":\"%s\",\"ours\":%llu,\"peer\":null,\"unit\":\"records\",\"ratio\":null,\"goal\":0,"
	       "\"met\":%s,\"n\":%llu,\"rate\":%.0f,\"accepted\":%llu,\"second\":%u}\n",
		where, (unsigned long long)lost, lost ? "false" : "true", (unsigned long long)recorded, rate_of(RECORDS, rounds).median,
		(unsigned long long)accepted, not_calm);
	return 0;
}
