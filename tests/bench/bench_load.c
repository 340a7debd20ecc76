/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How many requests a second the HTTP load can drive, what a request costs it, and how well it keeps its schedule: against
 * nginx with one worker, over the loopback of a network namespace of its own. Where wrk is installed it runs in turn with ours.
 *
 *	bench_load [--json] [SECONDS]
 *
 * It measures and prints; it judges nothing but the goal of 20,000 requests a second over persistent connections.
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/source.h"
#include "engine/str.h"

#define ROUNDS 3
#define GOAL   20000.0

static const char conf[] = "daemon off; master_process off; worker_processes 1; pid %1$s/pid; error_log %1$s/error;\n"
			   "events { worker_connections 4096; }\n"
			   "http { access_log off; keepalive_requests 100000000; client_body_temp_path %1$s/t1;\n"
			   "proxy_temp_path %1$s/t2; fastcgi_temp_path %1$s/t3; uwsgi_temp_path %1$s/t4;\n"
			   "scgi_temp_path %1$s/t5; server { listen 127.0.0.1:8080 backlog=4096; return 200 'hello'; } }\n";

static void die(const char *what)
{
	fprintf(stderr, "bench_load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static pid_t nginx_start(const char *dir)
{
	_cleanup_free_ char *path = strf("%s/conf", dir), *text = strf(conf, dir);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(8080), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	nsec_t deadline = now_ns() + 10 * NSEC_PER_SEC;
	pid_t pid;

	if (!path || !text || file_write(path, text, strlen(text)) < 0)
		die("write nginx's configuration");
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/usr/sbin/nginx", "nginx", "-c", path, "-p", dir, (char *)NULL);
		_exit(127);
	}
	while (now_ns() < deadline) {
		_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
			return pid;
		if (waitpid(pid, NULL, WNOHANG) == pid)
			break;
		sched_yield();
	}
	errno = ETIMEDOUT;
	die("start nginx");
	return -1;
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* TCP segments sent in this namespace, by both sides */
static double segments(void)
{
	_cleanup_free_ char *text = NULL;
	double sent = 0;
	const char *p;

	if (file_read("/proc/thread-self/net/snmp", 1 << 20, &text, NULL) < 0)
		return 0;
	/* the names' line, then the numbers': OutSegs is the eleventh */
	p = strstr(text, "\nTcp: ");
	p = p ? strstr(p + 1, "\nTcp: ") : NULL;
	if (p)
		sscanf(p, "\nTcp: %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %lf", &sent);
	return sent;
}

struct result {
	double rate, cpu_us, segments; /* OK per second; of our CPU, and segments, per request sent */
	double failed;
	double p50_us, p99_us, lag_p50_us, lag_p99_us, lag_max_us;
};

static double us(const json_t *summary, const char *what, const char *q)
{
	return (double)json_integer_value(json_object_get(json_object_get(summary, what), q)) / 1e3;
}

static struct result run(const struct site *site, double rate, bool keep_alive, int connections, double seconds, bool backlog)
{
	const struct source_ops *ops = source_find(SOURCE_LOAD, "http");
	_cleanup_json_ json_t *given = json_pack("{s:s, s:s, s:f, s:b, s:i, s:s}", "from", "client", "url",
		"http://127.0.0.1:8080/", "rate", rate, "keep_alive", (int)keep_alive, "connections", connections, "timeout",
		backlog ? "25s" : "2s");
	_cleanup_json_ json_t *args = NULL, *summary = NULL;
	_cleanup_timeline_ struct timeline *tl = NULL;
	struct param_names names = site_names(site);
	struct source_ctx ctx = {.site = site, .name = "bench", .seed = 1};
	struct err err = {0};
	struct result r = {0};
	nsec_t begin;
	double cpu, segs;
	void *handle;

	if (param_check(ops->params, "load.http", given, &names, &args, &err) < 0 || timeline_new(NULL, &tl, &err) < 0) {
		fprintf(stderr, "bench_load: %s\n", err.text);
		exit(1);
	}
	ctx.tl = tl;
	ctx.args = args;
	segs = segments();
	cpu = cpu_seconds();
	begin = now_ns();
	if (ops->start(&ctx, &handle, &err) < 0) {
		fprintf(stderr, "bench_load: %s\n", err.text);
		exit(1);
	}
	/* a load without sources but itself: the wait ends with its watermark, or, when that is held back, with the deadline */
	timeline_wait(tl, begin + (nsec_t)(seconds * 1e9), begin + (nsec_t)(seconds * 1e9));
	if (backlog)
		ops->abort(handle);
	ops->stop(handle, &summary);
	cpu = cpu_seconds() - cpu;
	r.segments = (segments() - segs) / (double)MAX(json_integer_value(json_object_get(summary, "sent")), 1);
	r.rate = json_number_value(json_object_get(summary, "rate"));
	r.failed = (double)(json_integer_value(json_object_get(summary, "requests")) -
			    json_integer_value(json_object_get(json_object_get(summary, "outcomes"), "ok")));
	r.cpu_us = cpu * 1e6 / (double)MAX(json_integer_value(json_object_get(summary, "sent")), 1);
	r.p50_us = us(summary, "latency", "p50_ns");
	r.p99_us = us(summary, "latency", "p99_ns");
	r.lag_p50_us = us(summary, "lag", "p50_ns");
	r.lag_p99_us = us(summary, "lag", "p99_ns");
	r.lag_max_us = us(summary, "lag", "max_ns");
	return r;
}

/* Requests a second as wrk counts them; negative: it is not there. */
static double wrk(double seconds, bool keep_alive)
{
	_cleanup_free_ char *command = strf("wrk -t1 -c64 -d%ds %s http://127.0.0.1:8080/ 2>/dev/null", MAX((int)seconds, 1),
		keep_alive ? "" : "-H 'Connection: close'");
	char line[256];
	double rate = -1;
	FILE *f = popen(command, "r");

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		sscanf(line, "Requests/sec: %lf", &rate);
	pclose(f);
	return rate;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void maximum(const struct site *site, double seconds, bool keep_alive, bool json)
{
	double ours[ROUNDS], peer[ROUNDS], cost[ROUNDS];
	const char *name = keep_alive ? "load-max-persistent" : "load-max-connections";

	for (int i = 0; i < ROUNDS; i++) {
		struct result r = run(site, 200000, keep_alive, 64, seconds, true);

		ours[i] = r.rate;
		cost[i] = r.cpu_us;
		peer[i] = wrk(seconds, keep_alive);
	}
	qsort(ours, ROUNDS, sizeof(*ours), by_value);
	qsort(peer, ROUNDS, sizeof(*peer), by_value);
	qsort(cost, ROUNDS, sizeof(*cost), by_value);
	if (json) {
		_cleanup_json_ json_t *j = json_pack("{s:s, s:s, s:f, s:o, s:s, s:o, s:o, s:o, s:i}", "bench", name, "where",
			"native", "ours", ours[ROUNDS / 2], "peer",
			peer[0] >= 0 ? json_real(peer[ROUNDS / 2]) : json_null(), "unit", "requests/s", "ratio",
			peer[0] >= 0 ? json_real(ours[ROUNDS / 2] / peer[ROUNDS / 2]) : json_null(), "goal",
			keep_alive ? json_real(GOAL) : json_null(), "met",
			keep_alive ? json_boolean(ours[ROUNDS / 2] >= GOAL) : json_null(), "n", ROUNDS);

		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
		return;
	}
	printf("%-22s %8.0f requests/s, %.1f us of CPU each (median of %d, %.0f to %.0f)", name, ours[ROUNDS / 2],
		cost[ROUNDS / 2], ROUNDS, ours[0], ours[ROUNDS - 1]);
	if (peer[0] >= 0)
		printf("; wrk -t1 -c64 in turn: %.0f (%.0f to %.0f)", peer[ROUNDS / 2], peer[0], peer[ROUNDS - 1]);
	printf(keep_alive ? "; goal %.0f\n" : "\n", GOAL);
}

static void accuracy(const struct site *site, double seconds, double rate, bool keep_alive, bool json)
{
	struct result r = run(site, rate, keep_alive, 64, seconds, false);

	if (json) {
		_cleanup_json_ json_t *j = json_pack("{s:s, s:s, s:f, s:n, s:s, s:n, s:n, s:n, s:i, s:f, s:f, s:f, s:f}", "bench",
			"load-lag-p99", "where", "native", "ours", r.lag_p99_us, "peer", "unit", "us", "ratio", "goal", "met", "n",
			1, "rate", r.rate, "asked_rate", rate, "lag_p50_us", r.lag_p50_us, "cpu_us", r.cpu_us);

		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
		return;
	}
	printf("%7.0f/s asked, %s: %8.1f/s, %.0f failed; lag p50 %6.0f us, p99 %6.0f us, max %7.0f us; "
	       "latency p50 %6.0f us, p99 %6.0f us; %.1f us of CPU and %.1f segments each\n",
		rate, keep_alive ? "persistent " : "connections", r.rate, r.failed, r.lag_p50_us, r.lag_p99_us, r.lag_max_us,
		r.p50_us, r.p99_us, r.cpu_us, r.segments);
}

int main(int argc, char **argv)
{
	static const double rates[] = {300, 1000, 5000, 10000, 20000};
	_cleanup_json_ json_t *j = json_pack("{s:s, s:[], s:[{s:s, s:[]}]}", "name", "bench", "switches", "nodes", "name",
		"client", "links");
	_cleanup_site_ struct site *site = NULL;
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	char dir[] = "/tmp/muster-bench-XXXXXX";
	bool json = argc > 1 && streq(argv[1], "--json");
	double seconds = argc > 1 + json ? atof(argv[1 + json]) : 2;
	_cleanup_free_ char *command = NULL;
	_cleanup_close_ int fd = -1, ports = -1;
	struct err err = {0};
	pid_t pid;

	if (access("/usr/sbin/nginx", X_OK) < 0) {
		printf("skipped: nginx is not installed\n");
		return 0;
	}
	if (unshare(CLONE_NEWNET) < 0)
		die("a network namespace of its own (are you root?)");
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
		die("bring the loopback up");
	if (file_write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535", 10) < 0)
		die("widen the range of ports");
	if (site_from_json(j, &site, &err) < 0) {
		fprintf(stderr, "bench_load: %s\n", err.text);
		return 1;
	}
	if (!mkdtemp(dir))
		die("make a folder in /tmp");
	pid = nginx_start(dir);
	maximum(site, seconds, true, json);
	maximum(site, seconds, false, json);
	for (size_t i = 0; i < ARRAY_SIZE(rates); i++)
		for (int keep = 0; keep < 2; keep++)
			if (keep || rates[i] <= 5000)
				accuracy(site, seconds, rates[i], keep, json);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	command = strf("rm -r %s", dir);
	return command && system(command) == 0 ? 0 : 1;
}
