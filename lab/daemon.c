/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/daemon.h"

#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netlink/attr.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine/addrs.h"
#include "engine/clock.h"
#include "engine/nl.h"
#include "lab/host.h"

#define LOG_TAIL 600

/* ── starting ───────────────────────────────────────────────────────────────────────────── */

int daemon_program(const struct lab_daemon *d, char **ret, struct err *err)
{
	int r;

	if (strchr(d->argv[0], '/')) {
		if (access(d->argv[0], X_OK) < 0)
			return err_set(err, -errno, "daemon %s of node %s: %s: %s", d->name,
				d->ns->label, d->argv[0], strerror(errno));
		*ret = strdup(d->argv[0]);
		return *ret ? 0 : -ENOMEM;
	}
	r = host_program(d->argv[0], ret);
	if (r != -ENOENT)
		return r;
	err_set(err, r, "daemon %s of node %s: the program %s is not installed", d->name,
		d->ns->label, d->argv[0]);
	return err_hint(err, "apt-get install %s", d->package ? d->package : d->argv[0]);
}

static int write_files(const struct lab_daemon *d, struct err *err)
{
	int r = mkdir_p(d->dir);

	for (size_t i = 0; r == 0 && i < d->n_files; i++) {
		const struct lab_file *f = &d->files[i];
		_cleanup_free_ char *path = strf("%s/%s", d->dir, f->name);
		char *slash;

		if (!path)
			return -ENOMEM;
		slash = strrchr(path, '/');
		*slash = '\0';
		r = mkdir_p(path);
		*slash = '/';
		if (r == 0)
			r = file_write(path, f->content, strlen(f->content));
	}
	if (r < 0)
		return err_set(err, r, "daemon %s of node %s: write its folder %s: %s", d->name,
			d->ns->label, d->dir, strerror(-r));
	return 0;
}

/*
 * What the child does between fork and exec: system calls only, since another thread may hold any
 * lock.
 */
_Noreturn static void child(
	const char *program, char *const argv[], const char *dir, int log, int report)
{
	static char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	static char locale[] = "LC_ALL=C.UTF-8", home[] = "HOME=/";
	char *const env[] = {path, locale, home, NULL};
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;
	int null, oom, saved;

	setsid();
	for (int s = 1; s < NSIG; s++)
		(void)sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	umask(022);
	/* whatever protects us from the OOM killer is not for it */
	oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (oom >= 0 && write(oom, "0", 1) != 1)
		goto fail;
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	/* `report` may be 0 to 2 if our own were closed: out of the way first */
	report = fcntl(report, F_DUPFD_CLOEXEC, 10);
	log = fcntl(log, F_DUPFD_CLOEXEC, 10);
	if (null < 0 || report < 0 || log < 0 || chdir(dir) < 0 || dup2(null, 0) < 0 ||
		dup2(log, 1) < 0 || dup2(log, 2) < 0)
		goto fail;
	if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		goto fail;
	execve(program, argv, env);
fail:
	saved = errno;
	if (write(report, &saved, sizeof(saved)) != sizeof(saved))
		_exit(126);
	_exit(127);
}

static int write_pid(const struct lab_daemon *d, pid_t pid, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/" DAEMON_PID_FILE, d->dir), *text = NULL;
	uint64_t start = 0;
	int r = pid_start_time(pid, &start);

	/* a zombie still has its line in /proc, so it is there even if the daemon ended at once */
	if (r == 0)
		text = strf("%d %llu\n", (int)pid, (unsigned long long)start);
	if (r == 0 && (!path || !text))
		return -ENOMEM;
	if (r == 0)
		r = file_write(path, text, strlen(text));
	if (r < 0)
		return err_set(err, r, "daemon %s of node %s: note its pid: %s", d->name,
			d->ns->label, strerror(-r));
	return 0;
}

int daemon_start(const struct lab_daemon *d, struct daemon_run *ret, struct err *err)
{
	_cleanup_free_ char *program = NULL, *log_path = strf("%s/" DAEMON_LOG_FILE, d->dir);
	_cleanup_close_ int log = -1, in = -1, out = -1, pidfd = -1;
	int fds[2], failure = 0, r;
	ssize_t n;
	pid_t pid;

	if (!log_path)
		return -ENOMEM;
	r = daemon_program(d, &program, err);
	if (r == 0)
		r = write_files(d, err);
	if (r < 0)
		return r;
	log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (log < 0)
		return err_set(err, -errno, "%s: %s", log_path, strerror(errno));
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "daemon %s: make a pipe: %s", d->name, strerror(errno));
	in = fds[0];
	out = fds[1];
	{
		/*
		 * Forked from inside, the child is born in the namespace: there is no instant at
		 * which it exists but the undo, which looks for processes by namespace, would not
		 * find it.
		 */
		_cleanup_(node_leave) struct node_visit v = {.fd = -1};

		r = netns_enter(d->ns->path, &v, err);
		if (r < 0)
			return r;
		pid = fork();
		if (pid == 0)
			child(program, d->argv, d->dir, log, out);
		if (pid < 0)
			r = err_set(err, -errno, "daemon %s: fork: %s", d->name, strerror(errno));
	}
	if (r < 0)
		return r;
	close(TAKE_FD(out));
	pidfd = pidfd_open(pid, 0);
	if (pidfd < 0)
		return err_set(err, -errno, "daemon %s: pidfd of %d: %s", d->name, (int)pid,
			strerror(errno));
	do {
		n = read(in, &failure, sizeof(failure));
	} while (n < 0 && errno == EINTR);
	if (n == sizeof(failure)) {
		(void)waitpid(pid, NULL, 0);
		return err_set(err, -failure, "daemon %s of node %s: start %s: %s", d->name,
			d->ns->label, program, strerror(failure));
	}
	r = write_pid(d, pid, err);
	if (r < 0)
		return r;
	*ret = (struct daemon_run){.daemon = d, .pid = pid, .pidfd = TAKE_FD(pidfd)};
	return 0;
}

void daemon_release(struct daemon_run *run)
{
	if (run->pidfd > 0)
		close(run->pidfd);
	run->pidfd = -1;
}

pid_t daemon_pid(const struct lab_daemon *d)
{
	_cleanup_free_ char *path = strf("%s/" DAEMON_PID_FILE, d->dir), *text = NULL;
	unsigned long long start = 0;
	uint64_t now = 0;
	int pid = 0;

	if (!path || file_read(path, 64, &text, NULL) < 0 ||
		sscanf(text, "%d %llu", &pid, &start) != 2 || pid <= 0)
		return 0;
	return pid_start_time(pid, &now) == 0 && now == start ? pid : 0;
}

/* ── readiness ──────────────────────────────────────────────────────────────────────────── */

struct listeners {
	uint16_t port;
	bool ipv4, ipv6;
};

static int listener_cb(struct nlmsghdr *hdr, void *arg)
{
	struct listeners *l = arg;
	const struct inet_diag_msg *m;
	const struct nlattr *only;

	if (!hdr) {
		l->ipv4 = l->ipv6 = false;
		return 0;
	}
	if (hdr->nlmsg_len < NLMSG_LENGTH(sizeof(*m)))
		return 0;
	m = NLMSG_DATA(hdr);
	if (m->idiag_state != TCP_LISTEN || ntohs(m->id.idiag_sport) != l->port)
		return 0;
	if (m->idiag_family == AF_INET) {
		l->ipv4 = true;
		return 0;
	}
	l->ipv6 = true;
	/* a socket on :: serves IPv4 too unless it says otherwise */
	only = nlmsg_find_attr(hdr, sizeof(*m), INET_DIAG_SKV6ONLY);
	if (only && nla_len(only) >= 1 && !nla_get_u8(only) &&
		IN6_IS_ADDR_UNSPECIFIED((struct in6_addr *)m->id.idiag_src))
		l->ipv4 = true;
	return 0;
}

static int dump_listeners(struct nlc *nl, int family, struct listeners *l, struct err *err)
{
	struct inet_diag_req_v2 req = {.sdiag_family = (uint8_t)family,
		.sdiag_protocol = IPPROTO_TCP,
		.idiag_states = 1U << TCP_LISTEN};
	struct nl_msg *m = nlmsg_alloc_simple(SOCK_DIAG_BY_FAMILY, 0);

	if (!m || nlmsg_append(m, &req, sizeof(req), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	return nlc_dump(nl, m, listener_cb, l, err);
}

/* 1: yes, 0: not yet */
static int listening(const struct lab_daemon *d, struct err *err)
{
	struct listeners four = {.port = d->listen_port}, six = four;
	_cleanup_nlc_ struct nlc *nl = NULL;
	bool ipv4;
	int r = nlc_open_netns(d->ns->path, NETLINK_SOCK_DIAG, &nl, err);

	if (r == 0)
		r = dump_listeners(nl, AF_INET, &four, err);
	if (r == 0)
		r = dump_listeners(nl, AF_INET6, &six, err);
	if (r < 0)
		return err_prefix(err, "listening sockets of node %s", d->ns->label), r;
	ipv4 = four.ipv4 || six.ipv4;
	if (!d->ns->ipv4 && !d->ns->ipv6)
		return ipv4 || six.ipv6;
	return (!d->ns->ipv4 || ipv4) && (!d->ns->ipv6 || six.ipv6);
}

unsigned int daemon_ipvs_destinations(const char *text)
{
	unsigned int n = 0;

	while (text && *text) {
		const char *end = strchr(text, '\n');
		int weight;

		/*
		 * the header's third line starts alike: "  -> RemoteAddress:Port Forward Weight
		 * ..."; %d fails on it
		 */
		if (sscanf(text, " -> %*s %*s %d", &weight) == 1 && weight > 0)
			n++;
		text = end ? end + 1 : NULL;
	}
	return n;
}

static int scheduling(const struct daemon_run *run, struct err *err)
{
	_cleanup_free_ char *path = strf("/proc/%d/net/ip_vs", (int)run->pid), *text = NULL;
	int r = path ? file_read(path, 4 << 20, &text, NULL) : -ENOMEM;

	/* A daemon that is just ending has no such file either; its pidfd says so. */
	if (r < 0 && poll(&(struct pollfd){.fd = run->pidfd, .events = POLLIN}, 1, 0) > 0)
		return 0;
	if (r == -ENOENT)
		return err_set(err, -EOPNOTSUPP, "node %s: this kernel has no IPVS (CONFIG_IP_VS)",
			run->daemon->ns->label);
	if (r < 0)
		return err_set(err, r, "%s: %s", path ? path : "/proc", strerror(-r));
	return daemon_ipvs_destinations(text) >= run->daemon->destinations;
}

static int has_address(const struct lab_daemon *d, struct err *err)
{
	struct addr a = {.family = d->address.family};
	_cleanup_nlc_ struct nlc *nl = NULL;
	uint32_t held = 0;
	int r = nlc_open_netns(d->ns->path, NETLINK_ROUTE, &nl, err);

	memcpy(a.bytes, d->address.addr, sizeof(a.bytes));
	if (r == 0)
		r = addrs_held(nl, &a, 1, &held, err);
	return r < 0 ? (err_prefix(err, "addresses of node %s", d->ns->label), r) : held != 0;
}

static int check_ready(const struct daemon_run *run, struct err *err)
{
	switch (run->daemon->ready) {
	case LAB_READY_LISTEN:
		return listening(run->daemon, err);
	case LAB_READY_IPVS:
		return scheduling(run, err);
	case LAB_READY_ADDRESS:
		return has_address(run->daemon, err);
	case LAB_READY_STARTED:
		break;
	}
	return 1;
}

/* The end of the log in one line, for an error */
static void add_log(const struct lab_daemon *d, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/" DAEMON_LOG_FILE, d->dir), *text = NULL;
	size_t len = 0;
	char *tail;

	if (!err || !path || file_read(path, 1 << 20, &text, &len) < 0)
		return;
	while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
		text[--len] = '\0';
	if (len == 0) {
		err_hint(err, "its log %s is empty", path);
		return;
	}
	tail = len > LOG_TAIL ? text + len - LOG_TAIL : text;
	for (char *p = tail; *p; p++)
		if (*p == '\n')
			*p = '|';
		else if ((unsigned char)*p < ' ')
			*p = ' ';
	err_hint(err, "its log ends in: %s", tail);
}

static int ended(const struct daemon_run *run, struct err *err)
{
	const struct lab_daemon *d = run->daemon;
	siginfo_t si = {0};

	if (waitid(P_PIDFD, (id_t)run->pidfd, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
		err_set(err, -ECHILD, "daemon %s of node %s has ended before it was ready", d->name,
			d->ns->label);
	else if (si.si_code == CLD_EXITED)
		err_set(err, -ECHILD,
			"daemon %s of node %s has ended with status %d before it was ready",
			d->name, d->ns->label, si.si_status);
	else
		err_set(err, -ECHILD,
			"daemon %s of node %s was killed by signal %d before it was ready", d->name,
			d->ns->label, si.si_status);
	add_log(d, err);
	return -ECHILD;
}

static int late(const struct daemon_run *run, struct err *err)
{
	const struct lab_daemon *d = run->daemon;

	if (d->ready == LAB_READY_LISTEN)
		err_set(err, -ETIMEDOUT,
			"daemon %s of node %s does not listen on port %u after %lld ms", d->name,
			d->ns->label, d->listen_port, (long long)(d->within / NSEC_PER_MSEC));
	else if (d->ready == LAB_READY_ADDRESS)
		err_set(err, -ETIMEDOUT, "daemon %s of node %s has not given it its address after %lld ms", d->name,
			d->ns->label, (long long)(d->within / NSEC_PER_MSEC));
	else
		err_set(err, -ETIMEDOUT,
			"daemon %s of node %s has not %u IPVS destinations after %lld ms", d->name,
			d->ns->label, d->destinations, (long long)(d->within / NSEC_PER_MSEC));
	add_log(d, err);
	return -ETIMEDOUT;
}

/*
 * The kernel announces neither a new listener nor a new destination, so they are asked for, every
 * few milliseconds and ever more rarely; a daemon's end does wake the wait.
 */
int daemon_await(struct daemon_run *runs, size_t n, struct err *err)
{
	_cleanup_free_ struct pollfd *fds = calloc(n + 1, sizeof(*fds));
	nsec_t begun = now_ns();
	int pause_ms = 1;

	if (!fds)
		return -ENOMEM;
	for (;;) {
		nsec_t now = now_ns();
		size_t waiting = 0;
		int r;

		for (size_t i = 0; i < n; i++) {
			/*
			 * Dead first: a port may be listened on by a child that is about to die
			 * with it.
			 */
			fds[i] = (struct pollfd){.fd = runs[i].pidfd, .events = POLLIN};
			if (poll(&fds[i], 1, 0) > 0)
				return ended(&runs[i], err);
			if (runs[i].ready)
				continue;
			r = check_ready(&runs[i], err);
			if (r < 0)
				return r;
			runs[i].ready = r > 0;
			if (runs[i].ready)
				continue;
			if (now - begun > runs[i].daemon->within)
				return late(&runs[i], err);
			waiting++;
		}
		if (!waiting)
			return 0;
		r = poll(fds, n, pause_ms);
		if (r < 0 && errno != EINTR)
			return err_set(err, -errno, "wait for daemons: %s", strerror(errno));
		pause_ms = MIN(pause_ms * 2, 25);
	}
}
