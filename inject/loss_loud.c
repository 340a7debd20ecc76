/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Loud: every process of the node is killed with SIGKILL, through pidfds, so that a reused pid is never hit. The node's
 * kernel stays and answers for the dead: FIN or RST to who is connected, RST to who wants to be.
 *
 * With "port" in the arguments only those who listen there, and what they have started. With "orderly" they are told to end
 * (SIGTERM), once, and it is they who end what they have started. Whoever was told may end much later; the undo waits a
 * little before it believes that he goes on.
 *
 * To be put back, the processes that nobody inside the node started (their parent is elsewhere) are started again, as they
 * were: executable, arguments, environment, working directory, user and groups, limits, umask, niceness, and the log
 * files under descriptors 1 and 2. What these started themselves, they will start again. A process's own arguments may be lost:
 * daemons write a title over them. They are taken from, in this order: the arguments, when they are no title; a title that
 * quotes them ("nginx: master process nginx -c FILE"); the "restart" argument; the site's description of its daemons. Otherwise
 * the capture refuses: what cannot be started again is not killed.
 *
 * Whatever it is told, it kills nobody whom mgmt.h protects (init, this program and its ancestors, any sshd), and nobody at all in the
 * network namespace that muster itself or init runs in, by whichever name that goes: capture refuses, and each kill asks again.
 *
 * Not carried over: mount and cgroup namespaces (it is checked that the executable is the same file in ours), capability sets,
 * signal masks, open descriptors.
 */
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "engine/clock.h"
#include "engine/mgmt.h"
#include "engine/units.h"
#include "inject/freeze.h"
#include "inject/node_loss.h"

#define DEATH_WAIT (5 * NSEC_PER_SEC)
#define END_WAIT   (30 * NSEC_PER_SEC) /* of who is told to: it may have data to save */
#define END_MOMENT (1 * NSEC_PER_SEC)  /* in which who was told to end begins to, at the latest */
#define START_WAIT (10 * NSEC_PER_SEC) /* until the ports listen again */
#define LOOK_EVERY (10 * NSEC_PER_MSEC)
#define SETTLE	   (50 * NSEC_PER_MSEC) /* unchanged for so long, what was started is there to stay */
#define FILE_LIMIT (1u << 20) /* of a command line or an environment */

static json_int_t num(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

/* 0: all of the node */
static uint16_t port_of(const json_t *args)
{
	return (uint16_t)num(args, "port");
}

static bool orderly(const json_t *args)
{
	return json_is_true(json_object_get(args, "orderly"));
}

/* ── what /proc knows of a process ─────────────────────────────────────────────────────────── */

static int proc_read(pid_t pid, const char *what, char **ret, size_t *ret_len)
{
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	r = file_read(path, FILE_LIMIT, ret, ret_len);
	return r == -ENOENT ? -ESRCH : r;
}

static int proc_link(pid_t pid, const char *what, char **ret)
{
	char path[64], target[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	target[n] = '\0';
	*ret = strdup(target);
	return *ret ? 0 : -ENOMEM;
}

/* Words separated by NULs. NULL: not UTF-8, or no memory */
static json_t *words(const char *data, size_t len)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < len; i += strlen(data + i) + 1) {
		if (json_array_append_new(list, json_string(data + i)) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* The command line as it reads now: arguments, or the title written over them, padded with NULs */
static int proc_title(pid_t pid, char **ret, size_t *ret_len)
{
	_cleanup_free_ char *s = NULL;
	size_t len;
	int r = proc_read(pid, "cmdline", &s, &len);

	if (r < 0)
		return r;
	while (len && s[len - 1] == '\0')
		len--;
	*ret = TAKE_PTR(s);
	*ret_len = len;
	return 0;
}

static int proc_parent(pid_t pid, pid_t *ret, char *ret_state)
{
	_cleanup_free_ char *s = NULL;
	char *p, state;
	int parent;
	int r = proc_read(pid, "stat", &s, NULL);

	if (r < 0)
		return r;
	p = strrchr(s, ')'); /* the name before it may hold anything */
	if (!p || sscanf(p + 1, " %c %d", &state, &parent) != 2)
		return -EPROTO;
	*ret = parent;
	if (ret_state)
		*ret_state = state;
	return 0;
}

/* The same process, still running? A zombie is not. */
static bool alive(pid_t pid, uint64_t start)
{
	uint64_t now;
	pid_t parent;
	char state;

	return pid_start_time(pid, &now) == 0 && now == start && proc_parent(pid, &parent, &state) == 0 && state != 'Z' &&
	       state != 'X';
}

struct procs {
	size_t n;
	pid_t *pid;
	pid_t *parent;
	uint64_t *start;
};

static void procs_free(struct procs *p)
{
	free(p->pid);
	free(p->parent);
	free(p->start);
	*p = (struct procs){0};
}
#define _cleanup_procs_ _cleanup_(procs_free)

static int procs_read(const struct node *n, struct procs *ret, struct err *err)
{
	_cleanup_free_ pid_t *pids = NULL;
	_cleanup_procs_ struct procs p = {0};
	size_t count;
	int r = node_pids(n, &pids, &count, err);

	if (r < 0)
		return r;
	p.pid = calloc(count + 1, sizeof(*p.pid));
	p.parent = calloc(count + 1, sizeof(*p.parent));
	p.start = calloc(count + 1, sizeof(*p.start));
	if (!p.pid || !p.parent || !p.start)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		char state;

		/* gone between the two looks: not there */
		if (pid_start_time(pids[i], &p.start[p.n]) < 0 || proc_parent(pids[i], &p.parent[p.n], &state) < 0 ||
			state == 'Z' || state == 'X')
			continue;
		p.pid[p.n++] = pids[i];
	}
	*ret = p;
	p = (struct procs){0};
	return 0;
}

static bool procs_has(const struct procs *p, pid_t pid)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->pid[i] == pid)
			return true;
	return false;
}

/* Leaves those that listen on @port, and what they have started */
static int procs_of_port(const struct node *n, uint16_t port, struct procs *p, struct err *err)
{
	_cleanup_free_ struct listener *l = NULL;
	_cleanup_free_ bool *in = calloc(p->n + 1, sizeof(*in));
	size_t n_l = 0, kept = 0;
	bool more = true;
	int r = in ? listeners_read(n, port, &l, &n_l, err) : -ENOMEM;

	if (r < 0)
		return r;
	for (size_t i = 0; i < p->n; i++)
		in[i] = proc_listens(p->pid[i], l, n_l);
	while (more) {
		more = false;
		for (size_t i = 0; i < p->n; i++)
			for (size_t k = 0; k < p->n && !in[i]; k++)
				more |= in[i] = in[k] && p->pid[k] == p->parent[i];
	}
	for (size_t i = 0; i < p->n; i++) {
		if (!in[i])
			continue;
		p->pid[kept] = p->pid[i];
		p->parent[kept] = p->parent[i];
		p->start[kept++] = p->start[i];
	}
	p->n = kept;
	return 0;
}

/* ── recording what is to be started again ─────────────────────────────────────────────────── */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* "nginx: master process /usr/sbin/nginx -c FILE": the words from the one that names the executable. */
static json_t *quoted_in_title(const char *title, const char *exe)
{
	_cleanup_free_ char *copy = strdup(title);
	const char *rest = strstr(title, ": master process ");
	json_t *argv = NULL;
	char *save = NULL;

	if (!copy || !rest)
		return NULL;
	rest += strlen(": master process ");
	strcpy(copy, rest);
	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		if (!argv) {
			if (!streq(base_name(w), base_name(exe)))
				return NULL;
			argv = json_array();
		}
		if (json_array_append_new(argv, json_string(w)) < 0) {
			json_decref(argv);
			return NULL;
		}
	}
	return argv;
}

/* The site's daemon that runs @exe, if exactly one does */
static json_t *from_site(const json_t *args, const char *exe)
{
	const json_t *daemons = json_object_get(args, "daemons"), *argv, *found = NULL;
	size_t i;

	json_array_foreach(daemons, i, argv) {
		const char *first = json_string_value(json_array_get(argv, 0));

		if (!first || !streq(base_name(first), base_name(exe)))
			continue;
		if (found)
			return NULL;
		found = argv;
	}
	return json_incref((json_t *)found);
}

static int find_argv(pid_t pid, const char *exe, const json_t *args, json_t **ret_argv, json_t **ret_title, struct err *err)
{
	const json_t *restart = json_object_get(args, "restart");
	_cleanup_json_ json_t *title = NULL, *argv = NULL;
	_cleanup_free_ char *line = NULL;
	const char *first;
	size_t len;
	int r = proc_title(pid, &line, &len);

	if (r < 0)
		return r;
	title = words(line, len);
	first = json_string_value(json_array_get(title, 0));
	if (!first)
		return err_set(err, -EOPNOTSUPP, "process %d (%s): its command line cannot be read", (int)pid, exe);
	/*
	 * A title is one string, and as a rule has blanks in it. Its last word may well be a path that ends in the program's name,
	 * so that is no sign of an argument list.
	 */
	if (json_array_size(title) > 1 || !strchr(first, ' '))
		argv = json_incref(title);
	if (!argv)
		argv = quoted_in_title(first, exe);
	if (!argv && json_array_size(restart))
		argv = json_incref((json_t *)restart);
	if (!argv)
		argv = from_site(args, exe);
	if (!argv) {
		err_set(err, -EOPNOTSUPP,
			"process %d (%s) has written \"%.80s\" over its arguments: it could not be started again", (int)pid, exe,
			first);
		err_hint(err, "say how: restart = { \"%s\", ... }", exe);
		return -EOPNOTSUPP;
	}
	*ret_argv = TAKE_PTR(argv);
	*ret_title = TAKE_PTR(title);
	return 0;
}

static bool same_namespace(pid_t pid, const char *which)
{
	_cleanup_free_ char *theirs = NULL, *mine = NULL;

	return proc_link(pid, which, &theirs) == 0 && proc_link(getpid(), which, &mine) == 0 && streq(theirs, mine);
}

/* "Uid:\t0\t0\t0\t0": the numbers after @key */
static json_t *status_numbers(const char *status, const char *key, int base)
{
	json_t *list = json_array();
	const char *p = strstr(status, key);

	if (!p || !list)
		return list;
	p += strlen(key);
	while (*p && *p != '\n') {
		char *end;
		long v = strtol(p, &end, base);

		if (end == p)
			break;
		json_array_append_new(list, json_integer(v));
		p = end;
	}
	return list;
}

/* Where descriptor @fd writes, if it is a file that can be opened by name; NULL else */
static char *log_path(pid_t pid, int fd)
{
	_cleanup_free_ char *path = NULL;
	struct stat there, here;
	char link[64];

	snprintf(link, sizeof(link), "fd/%d", fd);
	if (proc_link(pid, link, &path) < 0 || path[0] != '/')
		return NULL;
	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, fd);
	if (stat(link, &there) < 0 || !S_ISREG(there.st_mode) || stat(path, &here) < 0 || here.st_ino != there.st_ino ||
		here.st_dev != there.st_dev)
		return NULL;
	return TAKE_PTR(path);
}

static int limit_value(const char *word, rlim_t *ret)
{
	char *end;

	*ret = streq(word, "unlimited") ? RLIM_INFINITY : strtoull(word, &end, 10);
	return streq(word, "unlimited") || (*word && !*end) ? 0 : -EPROTO;
}

/*
 * From /proc/PID/limits, which everybody may read; prlimit(2) on another user's process takes a right that we may lack. The
 * lines are in the order of the RLIMIT_ numbers, the name is 25 wide (fs/proc/base.c: proc_pid_limits).
 */
static int limits(pid_t pid, json_t **ret)
{
	_cleanup_json_ json_t *list = json_array();
	_cleanup_free_ char *s = NULL;
	const char *line;
	int r = proc_read(pid, "limits", &s, NULL);

	if (r < 0)
		return r;
	line = strchr(s, '\n'); /* the heading */
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		char soft[24], hard[24];
		struct rlimit l;

		if (!line || strlen(line) < 27 || sscanf(line + 26, "%23s %23s", soft, hard) != 2 ||
			limit_value(soft, &l.rlim_cur) < 0 || limit_value(hard, &l.rlim_max) < 0)
			return -EPROTO;
		/* RLIM_INFINITY does not fit a signed number; it comes back as -1 does */
		json_array_append_new(list, json_pack("[I, I]", (json_int_t)l.rlim_cur, (json_int_t)l.rlim_max));
		line = strchr(line + 1, '\n');
	}
	*ret = TAKE_PTR(list);
	return 0;
}

/* A hard limit above our own can be given again only with CAP_SYS_RESOURCE. */
static bool limits_out_of_reach(const json_t *list)
{
	cap_t caps = cap_get_proc();
	cap_flag_value_t have = CAP_CLEAR;
	bool beyond = false;

	if (caps) {
		(void)cap_get_flag(caps, CAP_SYS_RESOURCE, CAP_EFFECTIVE, &have);
		cap_free(caps);
	}
	for (int i = 0; i < RLIM_NLIMITS && have != CAP_SET; i++) {
		rlim_t hard = (rlim_t)json_integer_value(json_array_get(json_array_get(list, (size_t)i), 1));
		struct rlimit mine;

		if (getrlimit(i, &mine) == 0 && hard > mine.rlim_max)
			beyond = true;
	}
	return beyond;
}

static int record_top(pid_t pid, uint64_t start, const json_t *args, json_t **ret, struct err *err)
{
	_cleanup_free_ char *exe = NULL, *cwd = NULL, *root = NULL, *env = NULL, *status = NULL, *oom = NULL, *out = NULL,
		      *errors = NULL, *in = NULL;
	_cleanup_json_ json_t *argv = NULL, *title = NULL, *envp = NULL, *uid = NULL, *gid = NULL, *groups = NULL,
			      *mask = NULL, *lim = NULL;
	struct stat there, here;
	char path[64];
	size_t len;
	int r, prio;

	r = proc_link(pid, "exe", &exe);
	if (r == 0)
		r = proc_link(pid, "cwd", &cwd);
	if (r == 0)
		r = proc_link(pid, "root", &root);
	if (r == 0)
		r = proc_read(pid, "environ", &env, &len);
	if (r == 0)
		r = proc_read(pid, "status", &status, NULL);
	if (r == 0)
		r = proc_read(pid, "oom_score_adj", &oom, NULL);
	if (r == 0)
		r = find_argv(pid, exe, args, &argv, &title, err);
	if (r == -ESRCH)
		return r;
	if (r < 0)
		return err && err->code ? r : err_set(err, r, "process %d: %s", (int)pid, strerror(-r));

	if (!same_namespace(pid, "ns/pid") || !same_namespace(pid, "ns/user"))
		return err_set(err, -EOPNOTSUPP, "process %d (%s) runs in a container of its own: it could not be started again",
			(int)pid, exe);
	snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	if (stat(path, &there) < 0 || stat(exe, &here) < 0 || there.st_ino != here.st_ino || there.st_dev != here.st_dev ||
		!streq(root, "/"))
		return err_set(err, -EOPNOTSUPP,
			"process %d (%s): its executable is not to be found under that name any more: it could not be started again",
			(int)pid, exe);
	if (proc_link(pid, "fd/0", &in) == 0 && (strncmp(in, "/dev/pts/", 9) == 0 || strncmp(in, "/dev/tty", 8) == 0))
		return err_set(err, -EBUSY, "process %d (%s) has a terminal: somebody is at work in there", (int)pid, exe);

	envp = words(env, len);
	uid = status_numbers(status, "\nUid:", 10);
	gid = status_numbers(status, "\nGid:", 10);
	groups = status_numbers(status, "\nGroups:", 10);
	mask = status_numbers(status, "\nUmask:", 8);
	r = limits(pid, &lim);
	if (r < 0)
		return r == -ESRCH ? r : err_set(err, r, "process %d (%s): its limits cannot be read", (int)pid, exe);
	if (limits_out_of_reach(lim))
		return err_set(err, -EPERM, "process %d (%s) has limits that only CAP_SYS_RESOURCE could give it again", (int)pid,
			exe);
	errno = 0;
	prio = getpriority(PRIO_PROCESS, (id_t)pid);
	if (!envp || json_array_size(uid) < 3 || json_array_size(gid) < 3)
		return err_set(err, -EOPNOTSUPP, "process %d (%s): its environment is no text", (int)pid, exe);
	out = log_path(pid, 1);
	errors = log_path(pid, 2);
	*ret = json_pack("{s:i, s:I, s:b, s:s, s:O, s:O, s:O, s:s, s:I, s:I, s:O, s:I, s:O, s:i, s:i, s:s?, s:s?}", "pid",
		(int)pid, "start", (json_int_t)start, "top", 1, "exe", exe, "argv", argv, "title", title, "env", envp, "cwd",
		cwd, "uid", json_integer_value(json_array_get(uid, 1)), "gid", json_integer_value(json_array_get(gid, 1)),
		"groups", groups, "umask", json_integer_value(json_array_get(mask, 0)), "limits", lim, "nice",
		errno ? 0 : prio, "oom", atoi(oom), "stdout", out, "stderr", errors);
	return *ret ? 0 : -ENOMEM;
}

/* ── listening ports ───────────────────────────────────────────────────────────────────────── */

struct ports {
	uint16_t port; /* 0: any */
	json_t *list;
};

static int diag_cb(struct nlmsghdr *hdr, void *arg)
{
	const struct ports *p = arg;
	const struct inet_diag_msg *d;
	char addr[INET6_ADDRSTRLEN], line[96];

	if (!hdr || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(*d)))
		return 0;
	d = NLMSG_DATA(hdr);
	if (p->port && ntohs(d->id.idiag_sport) != p->port)
		return 0;
	inet_ntop(d->idiag_family, d->id.idiag_src, addr, sizeof(addr));
	snprintf(line, sizeof(line), d->idiag_family == AF_INET6 ? "[%s]:%u" : "%s:%u", addr, ntohs(d->id.idiag_sport));
	json_object_set_new(p->list, line, json_true()); /* SO_REUSEPORT: several sockets, one port */
	return 0;
}

/* The node's listening TCP ports, or of these only @port: {"0.0.0.0:80": true} */
static int listening(const struct node *n, uint16_t port, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *ports = json_object();
	struct ports p = {.port = port, .list = ports};
	_cleanup_nlc_ struct nlc *nl = NULL;
	int r = nlc_open(n, NETLINK_SOCK_DIAG, &nl, err);

	if (!ports)
		return -ENOMEM;
	for (int i = 0; r == 0 && i < 2; i++) {
		struct inet_diag_req_v2 q = {.sdiag_family = i ? AF_INET6 : AF_INET,
			.sdiag_protocol = IPPROTO_TCP,
			.idiag_states = 1u << TCP_LISTEN};
		struct nl_msg *m = nlmsg_alloc_simple(SOCK_DIAG_BY_FAMILY, 0);

		if (!m || nlmsg_append(m, &q, sizeof(q), NLMSG_ALIGNTO) < 0) {
			nlmsg_free(m);
			return -ENOMEM;
		}
		r = nlc_dump(nl, m, diag_cb, &p, err);
	}
	if (r < 0)
		return err_prefix(err, "%s: list the listening ports", n->name), r;
	*ret = TAKE_PTR(ports);
	return 0;
}

/* A port of @want that is not in @have, or NULL */
static const char *port_missing(const json_t *want, const json_t *have)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)want, key, v) {
		if (!json_object_get(have, key))
			return key;
	}
	return NULL;
}

/* ── capture ───────────────────────────────────────────────────────────────────────────────── */

static bool is_namespace_of(const struct node *n, const char *path)
{
	struct stat st;

	return n->netns_ino && stat(path, &st) == 0 && (uint64_t)st.st_ino == n->netns_ino;
}

static int supported(const struct node *n, const json_t *args _unused_, struct err *reterr)
{
	if (n->netns && !is_namespace_of(n, "/proc/thread-self/ns/net") && !is_namespace_of(n, "/proc/self/ns/net") &&
		!is_namespace_of(n, "/proc/1/ns/net"))
		return 0;
	err_set(reterr, -EOPNOTSUPP, "%s is this host: its processes are not the drill's to kill", n->name);
	err_hint(reterr, "name a node of the site that is a namespace of its own");
	return -EOPNOTSUPP;
}

/* The process outside the set that @pid descends from is not wanted, but the outermost one inside it. */
static pid_t top_of(const struct procs *p, size_t i)
{
	for (size_t hops = 0; hops < p->n; hops++) {
		size_t k;

		for (k = 0; k < p->n && p->pid[k] != p->parent[i]; k++)
			;
		if (k == p->n)
			break;
		i = k;
	}
	return p->pid[i];
}

static int capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *list = json_array(), *ports = NULL;
	_cleanup_procs_ struct procs p = {0};
	int r = supported(n, NULL, err);

	if (r == 0)
		r = procs_read(n, &p, err);
	if (r == 0 && port_of(args))
		r = procs_of_port(n, port_of(args), &p, err);
	if (r < 0)
		return r;
	if (!list)
		return -ENOMEM;
	if (port_of(args) && !p.n)
		return err_set(err, -ESRCH, "%s: nobody listens on TCP port %u", n->name, port_of(args));
	for (size_t i = 0; i < p.n; i++) {
		_cleanup_free_ char *who = NULL;
		json_t *j = NULL;

		if (mgmt_protected(p.pid[i], &who)) {
			err_set(err, -EBUSY, "%s: %s runs there, by which this machine is administered: it is not killed",
				n->name, who ? who : "a process");
			return err_hint(err, "how = \"silent\" and \"cut\" kill nobody");
		}
		if (!procs_has(&p, p.parent[i])) {
			r = record_top(p.pid[i], p.start[i], args, &j, err);
			if (r == -ESRCH) /* ended while it was looked at */
				continue;
			if (r < 0)
				return err_prefix(err, "%s", n->name), r;
		} else {
			j = json_pack("{s:i, s:I, s:b, s:i}", "pid", (int)p.pid[i], "start", (json_int_t)p.start[i], "top", 0,
				"of", (int)top_of(&p, i));
		}
		json_array_append_new(list, j);
	}
	r = listening(n, port_of(args), &ports, err);
	if (r < 0)
		return r;
	*ret_prior = json_pack("{s:O, s:O}", "processes", list, "listening", ports);
	return *ret_prior ? 0 : -ENOMEM;
}

/* ── killing ───────────────────────────────────────────────────────────────────────────────── */

/* The signal for this very process; its pidfd, or -1 when it is gone. */
static int kill_one(pid_t pid, uint64_t start, int sig, int *ret_fd)
{
	_cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	uint64_t now;

	*ret_fd = -1;
	if (fd < 0)
		return errno == ESRCH ? 0 : -errno;
	/* with the pidfd in hand the pid cannot change its owner any more */
	if (pid_start_time(pid, &now) < 0 || now != start || mgmt_protected(pid, NULL))
		return 0;
	if (syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0) < 0)
		return errno == ESRCH ? 0 : -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static bool recorded(const json_t *list, pid_t pid, uint64_t start)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j) {
		if (num(j, "pid") == pid && (uint64_t)num(j, "start") == start)
			return true;
	}
	return false;
}

/*
 * Of the processes there now, those to be killed: the recorded ones, what they have started since (a child of one, or, when the
 * parent is dead already, the same executable, which on a port of several says nothing). Anybody else came later and is not
 * in the record: left alone.
 */
static bool is_target(const struct procs *p, size_t i, const json_t *list, bool by_port)
{
	_cleanup_free_ char *exe = NULL;
	const json_t *j;
	size_t k, hops = 0;

	for (k = i; k < p->n && hops++ <= p->n;) {
		size_t up;

		if (recorded(list, p->pid[k], p->start[k]))
			return true;
		for (up = 0; up < p->n && p->pid[up] != p->parent[k]; up++)
			;
		k = up;
	}
	if (by_port || proc_link(p->pid[i], "exe", &exe) < 0)
		return false;
	json_array_foreach(list, k, j) {
		if (streq(text(j, "exe"), exe))
			return true;
	}
	return false;
}

/* Kills until none is left: those with the parent outside first, so that nobody starts a dead worker anew. */
static int kill_all(const struct node *n, const json_t *list, bool by_port, struct err *err)
{
	nsec_t deadline = now_ns() + DEATH_WAIT;

	for (;;) {
		_cleanup_procs_ struct procs p = {0};
		_cleanup_free_ int *fds = NULL;
		size_t n_fds = 0;
		int r = procs_read(n, &p, err);

		if (r < 0)
			return r;
		fds = calloc(p.n + 1, sizeof(*fds));
		if (!fds)
			return -ENOMEM;
		for (int pass = 0; pass < 2; pass++) {
			for (size_t i = 0; i < p.n; i++) {
				int fd;

				if (procs_has(&p, p.parent[i]) == (pass == 0) || !is_target(&p, i, list, by_port))
					continue;
				r = kill_one(p.pid[i], p.start[i], SIGKILL, &fd);
				if (r < 0)
					err_set(err, r, "%s: kill process %d: %s", n->name, (int)p.pid[i], strerror(-r));
				else if (fd >= 0)
					fds[n_fds++] = fd;
				if (r < 0)
					break;
			}
		}
		for (size_t i = 0; i < n_fds; i++) {
			if (r == 0) {
				r = clock_poll(fds[i], POLLIN, deadline);
				if (r < 0)
					err_set(err, r, "%s: a killed process does not end: %s", n->name, strerror(-r));
			}
			close(fds[i]);
		}
		if (r < 0 || n_fds == 0)
			return r;
		if (now_ns() > deadline)
			return err_set(err, -ETIMEDOUT, "%s: processes keep coming", n->name);
	}
}

/* Told once, each of them: a second word would be an order to hurry. */
static int end_all(const struct node *n, const json_t *list, struct err *err)
{
	nsec_t deadline = now_ns() + END_WAIT;
	const json_t *j;
	size_t i;

	json_array_foreach((json_t *)list, i, j) {
		_cleanup_close_ int fd = -1;
		int r;

		if (!json_is_true(json_object_get(j, "top")))
			continue;
		r = kill_one((pid_t)num(j, "pid"), (uint64_t)num(j, "start"), SIGTERM, &fd);
		if (r < 0)
			return err_set(err, r, "%s: tell process %d to end: %s", n->name, (int)num(j, "pid"), strerror(-r));
		r = fd >= 0 ? clock_poll(fd, POLLIN, deadline) : 0;
		if (r < 0) {
			err_set(err, r, "%s: process %d (%s) was told to end and still runs after %d s; it may end yet", n->name,
				(int)num(j, "pid"), text(j, "exe"), (int)(END_WAIT / NSEC_PER_SEC));
			return err_hint(err, "see its log for what keeps it"), r;
		}
	}
	return 0;
}

static int apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const json_t *list = json_object_get(prior, "processes");
	int r;

	if (!json_is_array(list))
		return err_set(err, -EINVAL, "the record of the loss is damaged");
	r = supported(n, NULL, err);
	if (r < 0)
		return r;
	return orderly(args) ? end_all(n, list, err) : kill_all(n, list, port_of(args) > 0, err);
}

/* ── starting again ────────────────────────────────────────────────────────────────────────── */

/* All that the child needs, made before the fork: after it, in a process with threads, nothing may allocate. */
struct start {
	const char *exe, *cwd, *out, *errors;
	char **argv, **envp;
	uid_t uid;
	gid_t gid;
	size_t n_groups;
	gid_t *groups;
	mode_t mask;
	int nice;
	char oom[16];
	struct rlimit limits[RLIM_NLIMITS];
};

static void start_free(struct start *s)
{
	free(s->argv);
	free(s->envp);
	free(s->groups);
}

static char **vector(const json_t *list)
{
	char **v = calloc(json_array_size(list) + 1, sizeof(*v));
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j) {
		if (v)
			v[i] = (char *)json_string_value(j);
	}
	return v;
}

static int start_prepare(const json_t *j, struct start *ret)
{
	const json_t *groups = json_object_get(j, "groups"), *lim = json_object_get(j, "limits");
	_cleanup_(start_free) struct start s = {.exe = text(j, "exe"),
		.cwd = text(j, "cwd"),
		.out = text(j, "stdout"),
		.errors = text(j, "stderr"),
		.uid = (uid_t)num(j, "uid"),
		.gid = (gid_t)num(j, "gid"),
		.mask = (mode_t)num(j, "umask"),
		.nice = (int)num(j, "nice")};

	s.argv = vector(json_object_get(j, "argv"));
	s.envp = vector(json_object_get(j, "env"));
	s.groups = calloc(json_array_size(groups) + 1, sizeof(*s.groups));
	if (!s.argv || !s.envp || !s.groups)
		return -ENOMEM;
	if (!s.exe || !s.cwd || !s.argv[0] || json_array_size(lim) != RLIM_NLIMITS)
		return -EINVAL;
	for (size_t i = 0; i < json_array_size(groups); i++)
		s.groups[s.n_groups++] = (gid_t)json_integer_value(json_array_get(groups, i));
	for (size_t i = 0; i < RLIM_NLIMITS; i++) {
		const json_t *pair = json_array_get(lim, i);

		s.limits[i].rlim_cur = (rlim_t)json_integer_value(json_array_get(pair, 0));
		s.limits[i].rlim_max = (rlim_t)json_integer_value(json_array_get(pair, 1));
	}
	snprintf(s.oom, sizeof(s.oom), "%d", (int)num(j, "oom"));
	*ret = s;
	s = (struct start){0};
	return 0;
}

enum { STEP_FORK, STEP_STDIO, STEP_LIMITS, STEP_USER, STEP_CWD, STEP_EXEC };
static const char *const steps[] = {"fork", "open its log", "set its limits", "become its user", "enter its folder",
	"execute it"};

struct failure {
	int step, error;
};

static int child_stdio(const struct start *s)
{
	int in = open("/dev/null", O_RDWR), out, errors;

	if (in < 0)
		return -1;
	out = s->out ? open(s->out, O_WRONLY | O_APPEND | O_CREAT, 0640) : dup(in);
	errors = s->errors && s->out && __builtin_strcmp(s->errors, s->out) == 0 ?
			 dup(out) :
			 (s->errors ? open(s->errors, O_WRONLY | O_APPEND | O_CREAT, 0640) : dup(in));
	if (out < 0 || errors < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(errors, 2) < 0)
		return -1;
	return 0;
}

/*
 * The grandchild: becomes what was recorded. Only system calls: another thread of the parent may have held any lock, and glibc's
 * setuid() family would try to tell threads that do not exist here.
 */
static void child_become(const struct start *s, int report) __attribute__((noreturn));
static void child_become(const struct start *s, int report)
{
	struct failure f = {.step = STEP_STDIO};
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;
	int fd;

	if (child_stdio(s) < 0)
		goto fail;
	/* the report's end goes to 3 and closes itself on exec; nothing else of ours is handed down */
	if (report != 3 && dup3(report, 3, O_CLOEXEC) < 0)
		goto fail;
	report = 3;
	if (syscall(SYS_close_range, 4u, ~0u, 0u) < 0)
		goto fail;
	for (int i = 1; i < NSIG; i++)
		(void)sigaction(i, &dfl, NULL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)umask(s->mask);

	f.step = STEP_LIMITS;
	(void)setpriority(PRIO_PROCESS, 0, s->nice);
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t n = write(fd, s->oom, __builtin_strlen(s->oom));

		(void)n; /* as near as it will go */
		close(fd);
	}
	for (int i = 0; i < RLIM_NLIMITS; i++)
		if (syscall(SYS_prlimit64, 0, i, &s->limits[i], NULL) < 0)
			goto fail;

	f.step = STEP_CWD; /* while we may still go anywhere */
	if (chdir(s->cwd) < 0)
		goto fail;
	f.step = STEP_USER;
	if (syscall(SYS_setgroups, s->n_groups, s->groups) < 0 || syscall(SYS_setresgid, s->gid, s->gid, s->gid) < 0 ||
		syscall(SYS_setresuid, s->uid, s->uid, s->uid) < 0)
		goto fail;
	f.step = STEP_EXEC;
	execve(s->exe, s->argv, s->envp);
fail:
	f.error = errno;
	if (write(report, &f, sizeof(f)) < 0)
		_exit(126);
	_exit(127);
}

/* Forked twice, so that what runs in the end is nobody's child and nobody has to reap it. */
static int start_one(const struct node *n, const json_t *j, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	_cleanup_(start_free) struct start s = {0};
	_cleanup_close_ int from = -1, to = -1;
	struct failure f;
	ssize_t got;
	int fds[2], r = start_prepare(j, &s);
	pid_t pid;

	if (r < 0)
		return err_set(err, r, "the record of a process is damaged");
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "pipe: %s", strerror(errno));
	from = fds[0];
	to = fds[1];
	r = node_enter(n, &v, err);
	if (r < 0)
		return r;
	pid = fork();
	if (pid < 0)
		return err_set(err, -errno, "fork: %s", strerror(errno));
	if (pid == 0) {
		pid_t grandchild;

		(void)setsid();
		grandchild = fork();
		if (grandchild == 0)
			child_become(&s, to);
		if (grandchild < 0) {
			f = (struct failure){.step = STEP_FORK, .error = errno};
			_exit(write(to, &f, sizeof(f)) < 0 ? 126 : 127);
		}
		_exit(0);
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	close(TAKE_FD(to));
	/* closed without a word: the program runs */
	do {
		got = read(from, &f, sizeof(f));
	} while (got < 0 && errno == EINTR);
	if (got == (ssize_t)sizeof(f) && f.step >= 0 && f.step < (int)ARRAY_SIZE(steps))
		return err_set(err, -f.error, "%s: start %s again: %s: %s", n->name, s.exe, steps[f.step],
			strerror(f.error));
	return 0;
}

/* Does @pid run what @j records? Fresh from exec it shows its arguments, later perhaps a title. */
static bool runs(pid_t pid, const json_t *j)
{
	_cleanup_free_ char *exe = NULL, *line = NULL;
	_cleanup_json_ json_t *title = NULL;
	size_t len;

	if (proc_link(pid, "exe", &exe) < 0 || !streq(exe, text(j, "exe")) || proc_title(pid, &line, &len) < 0)
		return false;
	title = words(line, len);
	return json_equal(title, json_object_get(j, "title")) || json_equal(title, json_object_get(j, "argv"));
}

/*
 * Which of the recorded outermost processes run, be it the very same or one like it; two alike need two. found[i] becomes the
 * pid of the i-th record, 0 for none.
 */
static int match(const struct node *n, const json_t *list, bool by_port, pid_t *found, size_t *ret_missing, struct err *err)
{
	_cleanup_procs_ struct procs p = {0};
	_cleanup_free_ bool *used = NULL;
	size_t i, missing = 0;
	const json_t *j;
	int r = procs_read(n, &p, err);

	if (r < 0)
		return r;
	used = calloc(p.n + 1, sizeof(*used));
	if (!used)
		return -ENOMEM;
	for (int pass = 0; pass < 2; pass++) {
		json_array_foreach(list, i, j) {
			if (!json_is_true(json_object_get(j, "top")) || (pass && found[i]))
				continue;
			found[i] = 0;
			for (size_t k = 0; k < p.n && !found[i]; k++) {
				bool same = p.pid[k] == num(j, "pid") && p.start[k] == (uint64_t)num(j, "start");

				/* a worker may look like its master, also when it has outlived it: it is in the record as what it is */
				if (used[k] || (pass == 0 ? !same :
							    (!by_port && procs_has(&p, p.parent[k])) || recorded(list, p.pid[k], p.start[k]) ||
								    !runs(p.pid[k], j)))
					continue;
				used[k] = true;
				found[i] = p.pid[k];
			}
			if (pass && !found[i])
				missing++;
		}
	}
	*ret_missing = missing;
	return 0;
}

/* What a dead master left behind holds its ports: it goes before the master is started anew. */
static int kill_orphans(const struct node *n, const json_t *list, pid_t of, struct err *err)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j) {
		int fd, r;

		if (json_is_true(json_object_get(j, "top")) || num(j, "of") != of ||
			!alive((pid_t)num(j, "pid"), (uint64_t)num(j, "start")))
			continue;
		r = kill_one((pid_t)num(j, "pid"), (uint64_t)num(j, "start"), SIGKILL, &fd);
		if (r == 0 && fd >= 0) {
			r = clock_poll(fd, POLLIN, now_ns() + DEATH_WAIT);
			close(fd);
		}
		if (r < 0)
			return err_set(err, r, "%s: kill process %d, left over by %d: %s", n->name, (int)num(j, "pid"),
				(int)of, strerror(-r));
	}
	return 0;
}

/* Listening is no event that anybody announces: it is looked at every 10 ms. */
static int wait_listening(const struct node *n, const json_t *want, nsec_t deadline, struct err *err)
{
	for (;;) {
		_cleanup_json_ json_t *now = NULL;
		const char *missing;
		int r = listening(n, 0, &now, err);

		if (r < 0)
			return r;
		missing = port_missing(want, now);
		if (!missing)
			return 0;
		if (now_ns() >= deadline)
			return err_set(err, -ETIMEDOUT, "%s: nobody listens on %s again", n->name, missing);
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = LOOK_EVERY}, NULL);
	}
}

/*
 * An undo that was killed may have left a child on its way to exec: still this program, inside the node. It is waited for, or the
 * same daemon would be started twice.
 */
static int wait_started(const struct node *n, struct err *err)
{
	nsec_t deadline = now_ns() + 2 * NSEC_PER_SEC;
	struct stat mine;

	if (stat("/proc/self/exe", &mine) < 0)
		return err_set(err, -errno, "/proc/self/exe: %s", strerror(errno));
	for (;;) {
		_cleanup_procs_ struct procs p = {0};
		bool waiting = false;
		int r = procs_read(n, &p, err);

		if (r < 0)
			return r;
		for (size_t i = 0; i < p.n; i++) {
			struct stat st;
			char path[64];

			snprintf(path, sizeof(path), "/proc/%d/exe", (int)p.pid[i]);
			if (stat(path, &st) == 0 && st.st_ino == mine.st_ino && st.st_dev == mine.st_dev)
				waiting = true;
		}
		if (!waiting || now_ns() >= deadline) /* whatever it is then, it is no start of ours */
			return 0;
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = LOOK_EVERY}, NULL);
	}
}

/* SIGKILL has reached it and it has not ended yet, as far as /proc shows it */
static bool dying(pid_t pid)
{
	_cleanup_free_ char *s = NULL;
	const char *p;

	if (proc_read(pid, "status", &s, NULL) < 0)
		return false;
	/* of the thread, and of the whole process: bit 8 is signal 9 */
	p = strstr(s, "\nSigPnd:");
	if (p && (strtoull(p + 8, NULL, 16) & 0x100))
		return true;
	p = strstr(s, "\nShdPnd:");
	return p && (strtoull(p + 8, NULL, 16) & 0x100);
}

/*
 * An apply that was killed may have sent its signals just before: who is dying is waited for, since he still holds his ports and
 * would pass for alive. Between taking the signal and being gone a process shows neither, so the others are watched for a moment.
 */
static int wait_dying(const json_t *list, bool told, struct err *err)
{
	nsec_t moment = now_ns() + (told ? END_MOMENT : 20 * NSEC_PER_MSEC);
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j) {
		pid_t pid = (pid_t)num(j, "pid");
		_cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
		int r;

		if (fd < 0 || !alive(pid, (uint64_t)num(j, "start")))
			continue;
		r = clock_poll(fd, POLLIN, dying(pid) ? now_ns() + DEATH_WAIT : moment);
		if (r == -ETIMEDOUT && dying(pid))
			return err_set(err, r, "process %d has been killed and does not end", (int)pid);
	}
	return 0;
}

/*
 * Until all run, and are the same ones when looked at again a little later: a daemon that goes to the background is for a moment
 * two, and then not the one that was started; and a title is not written in one instant. -ETIMEDOUT
 */
static int wait_settled(const struct node *n, const json_t *list, bool by_port, nsec_t deadline, struct err *err)
{
	size_t count = json_array_size(list), missing;
	_cleanup_free_ pid_t *now = calloc(count + 1, sizeof(*now)), *before = calloc(count + 1, sizeof(*before));
	nsec_t since = now_ns();

	if (!now || !before)
		return -ENOMEM;
	for (;;) {
		int r = match(n, list, by_port, now, &missing, err);

		if (r < 0)
			return r;
		if (missing || memcmp(now, before, count * sizeof(*now)) != 0) {
			since = now_ns();
			memcpy(before, now, count * sizeof(*now));
		} else if (now_ns() - since >= SETTLE) {
			return 0;
		}
		if (now_ns() >= deadline + SETTLE)
			return -ETIMEDOUT;
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = LOOK_EVERY}, NULL);
	}
}

static int undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const json_t *list = json_object_get(prior, "processes"), *ports = json_object_get(prior, "listening"), *j;
	_cleanup_free_ pid_t *found = NULL;
	bool by_port = port_of(args) > 0;
	nsec_t deadline;
	size_t missing, i;
	int r;

	if (!json_is_array(list) || !json_is_object(ports))
		return err_set(err, -EINVAL, "the record of the loss is damaged");
	found = calloc(json_array_size(list) + 1, sizeof(*found));
	if (!found)
		return -ENOMEM;
	r = wait_dying(list, orderly(args), err);
	if (r == 0)
		r = wait_started(n, err);
	if (r == 0)
		r = match(n, list, by_port, found, &missing, err);
	if (r < 0)
		return r;
	deadline = now_ns() + START_WAIT;
	json_array_foreach(list, i, j) {
		if (!json_is_true(json_object_get(j, "top")) || found[i])
			continue;
		r = kill_orphans(n, list, (pid_t)num(j, "pid"), err);
		if (r == 0)
			r = start_one(n, j, err);
		if (r < 0)
			return r;
	}
	r = wait_listening(n, ports, deadline, err);
	if (r < 0)
		return r;
	r = wait_settled(n, list, by_port, deadline, err);
	if (r != -ETIMEDOUT)
		return r;
	r = match(n, list, by_port, found, &missing, err);
	json_array_foreach(list, i, j) {
		if (r == 0 && json_is_true(json_object_get(j, "top")) && !found[i])
			return err_set(err, -ECHILD, "%s: %s was started again and is not running", n->name, text(j, "exe"));
	}
	return r;
}

static int verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	bool by_port = port_of(args) > 0;
	const json_t *list = json_object_get(prior, "processes"), *ports = json_object_get(prior, "listening"), *j;
	_cleanup_json_ json_t *now = NULL;
	_cleanup_free_ pid_t *found = NULL;
	const char *port;
	size_t missing, i;
	int r;

	found = calloc(json_array_size(list) + 1, sizeof(*found));
	if (!found)
		return -ENOMEM;
	r = match(n, list, by_port, found, &missing, err);
	if (r == 0)
		r = listening(n, 0, &now, err);
	if (r < 0)
		return r;
	json_array_foreach(list, i, j) {
		if (json_is_true(json_object_get(j, "top")) && !found[i]) {
			err_set(err, -EUCLEAN, "%s: %s does not run", n->name, text(j, "exe"));
			return 1;
		}
	}
	port = port_missing(ports, now);
	if (port) {
		err_set(err, -EUCLEAN, "%s: nobody listens on %s", n->name, port);
		return 1;
	}
	return 0;
}

static int measure(const struct node *n, const json_t *args _unused_, const json_t *prior, json_t **ret_evidence,
	struct err *err)
{
	const json_t *list = json_object_get(prior, "processes"), *ports = json_object_get(prior, "listening"), *j;
	size_t total = json_array_size(list), living = 0, open_ports = 0, i;
	_cleanup_strbuf_ struct strbuf line = {0};
	_cleanup_json_ json_t *now = NULL;
	const char *key;
	json_t *v, *e;
	bool proved;
	int r = listening(n, 0, &now, err);

	if (r < 0)
		return r;
	json_array_foreach(list, i, j) {
		if (alive((pid_t)num(j, "pid"), (uint64_t)num(j, "start")))
			living++;
	}
	json_object_foreach((json_t *)ports, key, v) {
		if (json_object_get(now, key))
			open_ports++;
	}
	proved = total > 0 && living == 0 && open_ports == 0;
	if (total == 0)
		strbuf_puts(&line, "no process was there to kill: it did not bite");
	else
		strbuf_addf(&line, "%zu of %zu processes dead", total - living, total);
	if (json_object_size(ports))
		strbuf_addf(&line, ", %zu of %zu ports closed", json_object_size(ports) - open_ports, json_object_size(ports));
	if (total && !living && open_ports)
		strbuf_puts(&line, ": somebody has started them again");
	e = json_pack("{s:{s:s}, s:{s:I, s:I, s:I, s:I}, s:b, s:s}", "asked", "how", "loud", "measured", "processes",
		(json_int_t)total, "alive", (json_int_t)living, "listening_before", (json_int_t)json_object_size(ports),
		"listening", (json_int_t)open_ports, "proved", proved, "text", strbuf_cstr(&line));
	if (!e)
		return -ENOMEM;
	*ret_evidence = e;
	return 0;
}

/* ── in the shell's words ──────────────────────────────────────────────────────────────────── */

/* "the process @pid that began at @start lives": field 3 of its stat is its state, 22 its start */
static void add_alive(struct strbuf *b, const json_t *j)
{
	strbuf_addf(b, "grep -qsE \"^%d .*\\) [^ZX]( -?[0-9]+){18} %lld \" /proc/%d/stat", (int)num(j, "pid"),
		(long long)num(j, "start"), (int)num(j, "pid"));
}

/*
 * Who was told to end by an apply that was killed then may live for a while yet, which is no sign that there is nothing to put back: it is
 * given a moment to begin, and waited for while @goes_on does not deny that it has.
 */
static void add_told(struct strbuf *b, const json_t *j, const char *goes_on)
{
	_cleanup_strbuf_ struct strbuf script = {0};

	strbuf_puts(&script, "i=0; while ");
	add_alive(&script, j);
	strbuf_addf(&script, " && { [ \"$i\" -lt %d ]", (int)(END_MOMENT / (100 * NSEC_PER_MSEC)));
	if (goes_on)
		strbuf_addf(&script, " || ! { %s; }", goes_on);
	strbuf_puts(&script, "; }; do sleep 0.1; i=$((i + 1)); done");
	strbuf_addf(b, "timeout %d sh -c ", (int)(END_WAIT / NSEC_PER_SEC));
	strbuf_add_shell(b, strbuf_cstr(&script));
	strbuf_puts(b, "\n");
}

/* An argument list as pgrep -f sees it, as an extended regular expression */
static void add_pattern(struct strbuf *b, const json_t *argv)
{
	const json_t *w;
	size_t i;

	json_array_foreach(argv, i, w) {
		if (i)
			strbuf_puts(b, " ");
		for (const char *p = json_string_value(w); p && *p; p++) {
			if (strchr("\\.[](){}*+?^$|", *p))
				strbuf_puts(b, "\\");
			strbuf_add(b, p, 1);
		}
	}
}

/*
 * How many processes of the node have the command line of @j, before or after a title was written over it: at least @want? Those that
 * one of them has started, and that look like it, are not told apart here.
 */
static void add_runs(struct strbuf *b, const struct node *n, const json_t *j, size_t want, bool wait)
{
	const json_t *argv = json_object_get(j, "argv"), *title = json_object_get(j, "title");
	_cleanup_strbuf_ struct strbuf pattern = {0};

	strbuf_puts(&pattern, "(");
	add_pattern(&pattern, argv);
	if (!json_equal(argv, title)) {
		strbuf_puts(&pattern, "|");
		add_pattern(&pattern, title);
	}
	strbuf_puts(&pattern, ")");
	change_command_prefix(n, b);
	strbuf_addf(b, "%s[ \"$(pgrep -c --ns $$ --nslist net -x -f -- \"$1\")\" -ge \"$2\" ]%s' sh ",
		wait ? "timeout 10 sh -c 'until " : "sh -c '", wait ? "; do sleep 0.1; done" : "");
	strbuf_add_shell(b, strbuf_cstr(&pattern));
	strbuf_addf(b, " %zu", want);
}

/* " --nofile=1024:1048576": in the order of the RLIMIT_ numbers */
static void add_limits(struct strbuf *b, const json_t *list)
{
	static const char *const names[RLIM_NLIMITS] = {"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile",
		"memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"};

	for (size_t i = 0; i < RLIM_NLIMITS && names[i]; i++) {
		strbuf_addf(b, " --%s=", names[i]);
		for (size_t k = 0; k < 2; k++) {
			json_int_t v = json_integer_value(json_array_get(json_array_get(list, i), k));

			if (v < 0)
				strbuf_puts(b, k ? "unlimited" : "unlimited:");
			else
				strbuf_addf(b, k ? "%lld" : "%lld:", (long long)v);
		}
	}
}

/* Is @dir one of the folders in @path? */
static bool in_path(const char *path, const char *dir, size_t len)
{
	while (*path) {
		size_t n = strcspn(path, ":");

		if (n == len && strncmp(path, dir, len) == 0)
			return true;
		path += n + (path[n] == ':');
	}
	return false;
}

/*
 * The environment and the arguments behind `env -i`. A title may have been written over the environment as well, and what is no
 * variable would pass for the command. The command is the name it was started by, which it may look at; without a slash it has to be
 * found in its own PATH, which may be lost.
 */
static void add_words(struct strbuf *b, const json_t *j)
{
	const json_t *argv = json_object_get(j, "argv"), *w;
	const char *exe = text(j, "exe"), *first = json_string_value(json_array_get(argv, 0)), *path = NULL;
	size_t dir = (size_t)(base_name(exe) - exe), i;

	json_array_foreach(json_object_get(j, "env"), i, w) {
		const char *s = json_string_value(w);

		if (!strchr(s, '=') || s[0] == '=')
			continue;
		if (strncmp(s, "PATH=", 5) == 0)
			path = s + 5;
		strbuf_puts(b, " ");
		strbuf_add_shell(b, s);
	}
	if (!strchr(first, '/') && !path && dir) {
		_cleanup_free_ char *word = strf("PATH=%.*s:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			(int)dir - 1, exe);

		strbuf_puts(b, " ");
		strbuf_add_shell(b, word ? word : "");
	} else if (!strchr(first, '/') && dir && !in_path(path, exe, dir - 1)) {
		first = exe;
	}
	json_array_foreach(argv, i, w) {
		strbuf_puts(b, " ");
		strbuf_add_shell(b, i == 0 ? first : json_string_value(w));
	}
}

/* One process, started as it was: the same steps as child_become() */
static void add_start(struct strbuf *b, const struct node *n, const json_t *j)
{
	const char *out = text(j, "stdout"), *errors = text(j, "stderr");
	const json_t *w, *groups = json_object_get(j, "groups");
	size_t i;

	strbuf_puts(b, "(cd ");
	strbuf_add_shell(b, text(j, "cwd"));
	strbuf_addf(b, " && umask %04llo && echo %lld >/proc/self/oom_score_adj && exec ", (unsigned long long)num(j, "umask"),
		(long long)num(j, "oom"));
	change_command_prefix(n, b);
	strbuf_puts(b, "setsid prlimit");
	add_limits(b, json_object_get(j, "limits"));
	if (num(j, "nice"))
		strbuf_addf(b, " nice -n %lld", (long long)num(j, "nice"));
	strbuf_addf(b, " setpriv --reuid %lld --regid %lld", (long long)num(j, "uid"), (long long)num(j, "gid"));
	if (!json_array_size(groups))
		strbuf_puts(b, " --clear-groups");
	json_array_foreach(groups, i, w) {
		strbuf_addf(b, i ? ",%lld" : " --groups %lld", (long long)json_integer_value(w));
	}
	/* what runs in a shell's background ignores two signals */
	strbuf_puts(b, " env -i --default-signal=INT,QUIT");
	add_words(b, j);
	strbuf_puts(b, " >>");
	strbuf_add_shell(b, out ? out : "/dev/null");
	strbuf_puts(b, " 2>>");
	strbuf_add_shell(b, errors ? errors : "/dev/null");
	strbuf_puts(b, " </dev/null &)");
}

/* Which of those that look alike @list[@at] is, from 1 */
static size_t number_among_alike(const json_t *list, size_t at)
{
	const json_t *j = json_array_get(list, at), *other;
	size_t i, number = 1;

	json_array_foreach(list, i, other) {
		if (i < at && json_is_true(json_object_get(other, "top")) &&
			json_equal(json_object_get(other, "argv"), json_object_get(j, "argv")))
			number++;
	}
	return number;
}

static void add_listening(struct strbuf *b, const struct node *n, const char *port)
{
	const char *colon = strrchr(port, ':');

	change_command_prefix(n, b);
	strbuf_addf(b, "timeout 10 sh -c 'until ss -Hltn \"sport = $1\" | grep -q .; do sleep 0.1; done' sh %s\n",
		colon ? colon : "");
}

static int command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const json_t *list = json_object_get(prior, "processes"), *j, *child;
	const char *name = n->netns ? strrchr(n->netns, '/') : NULL, *port;
	json_t *v;
	size_t i, k;

	if (port_of(args)) {
		freeze_signal_words(n, orderly(args) ? "TERM" : "KILL", port_of(args), ret_apply);
	} else {
		strbuf_puts(ret_apply, "ip netns pids ");
		strbuf_add_shell(ret_apply, name ? name + 1 : n->name);
		strbuf_puts(ret_apply, " | xargs -r kill -KILL\n");
	}
	if (!prior) {
		strbuf_puts(ret_undo, port_of(args) ? "# start the process again, as it was\n" :
						      "# start the processes of this node again, as they were\n");
		return ret_apply->oom || ret_undo->oom ? -ENOMEM : 0;
	}
	json_array_foreach(list, i, j) {
		if (!json_is_true(json_object_get(j, "top")))
			continue;
		if (orderly(args))
			add_told(ret_undo, j, text(args, "goes_on"));
		/* what a dead master left behind holds its ports */
		json_array_foreach(list, k, child) {
			if (json_is_true(json_object_get(child, "top")) || num(child, "of") != num(j, "pid"))
				continue;
			add_alive(ret_undo, j);
			strbuf_puts(ret_undo, " || ! ");
			add_alive(ret_undo, child);
			strbuf_addf(ret_undo, " || kill -KILL %d\n", (int)num(child, "pid"));
		}
		add_alive(ret_undo, j);
		strbuf_puts(ret_undo, " || ");
		add_runs(ret_undo, n, j, number_among_alike(list, i), false);
		strbuf_puts(ret_undo, " || ");
		add_start(ret_undo, n, j);
		strbuf_puts(ret_undo, "\n");
	}
	json_object_foreach((json_t *)json_object_get(prior, "listening"), port, v)
		add_listening(ret_undo, n, port);
	/* they were started in the background: do they run, also a little later? */
	json_array_foreach(list, i, j) {
		if (!json_is_true(json_object_get(j, "top")))
			continue;
		add_alive(ret_undo, j);
		strbuf_puts(ret_undo, " || { sleep 0.2; ");
		add_runs(ret_undo, n, j, number_among_alike(list, i), true);
		strbuf_puts(ret_undo, "; }\n");
	}
	return ret_apply->oom || ret_undo->oom ? -ENOMEM : 0;
}

const struct loss_ops loss_loud = {
	.how = "loud",
	.supported = supported,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.measure = measure,
	.command = command,
};
