/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/node.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "engine/str.h"
#include "engine/units.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* Linux 5.14; older C library headers lack it */
#endif

/* The protocols that changes speak. One socket of each: who needs a second at the same time opens it. */
static const int kept_protocols[] = {NETLINK_ROUTE, NETLINK_NETFILTER, NETLINK_GENERIC};

struct node_kept {
	struct node_kept *next;
	struct node *node;
	int sockets[ARRAY_SIZE(kept_protocols)]; /* -1: taken, or this kernel has none */
};

static struct node_kept *kept_nodes;

struct node *node_new(const char *name, const char *netns)
{
	struct node *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->netns_fd = -1;
	n->name = strdup(name);
	if (netns)
		n->netns = strdup(netns);
	if (!n->name || (netns && !n->netns)) {
		node_free(n);
		return NULL;
	}
	return n;
}

void node_free(struct node *n)
{
	if (!n)
		return;
	if (n->netns_fd >= 0 && !n->kept)
		close(n->netns_fd);
	for (size_t i = 0; i < NODE_LINKS_MAX; i++)
		free(n->links[i].peer_netns);
	free(n->netns);
	free(n->name);
	free(n);
}

static int read_cookie(uint64_t *ret)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(*ret);

	if (fd < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret, &len) < 0)
		return -errno;
	return 0;
}

int node_open(struct node *n, struct err *err)
{
	const char *path = n->netns ? n->netns : "/proc/self/ns/net";
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r;

	if (n->netns_fd >= 0)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "node %s: open its network namespace %s: %s", n->name, path,
			strerror(errno));
	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "node %s: stat %s: %s", n->name, path, strerror(errno));
	n->netns_fd = TAKE_FD(fd);
	n->netns_ino = st.st_ino;
	{
		_cleanup_(node_leave) struct node_visit v = {.fd = -1};

		r = node_enter(n, &v, err);
		if (r == 0 && read_cookie(&n->netns_cookie) < 0)
			n->netns_cookie = 0;
	}
	if (r < 0) {
		close(TAKE_FD(n->netns_fd));
		n->netns_ino = 0;
	}
	return r;
}

const struct node_link *node_link(const struct node *n, const char *dev)
{
	for (size_t i = 0; i < n->n_links; i++)
		if (!dev || streq(n->links[i].dev, dev))
			return &n->links[i];
	return NULL;
}

json_t *node_to_json(const struct node *n)
{
	json_t *links = json_array(), *j;

	for (size_t i = 0; i < n->n_links; i++) {
		const struct node_link *l = &n->links[i];
		json_t *addrs = json_array();

		for (size_t k = 0; k < l->n_addrs; k++)
			json_array_append_new(addrs, json_string(l->addrs[k]));
		json_array_append_new(links, json_pack("{s:s, s:s*, s:s, s:o}", "dev", l->dev, "peer_netns",
						     l->peer_netns, "peer_dev", l->peer_dev, "addrs", addrs));
	}
	/* ino and cookie are u64; JSON integers here are signed, and both stay far below 2^63 */
	j = json_pack("{s:s, s:s*, s:I, s:I, s:o}", "name", n->name, "netns", n->netns, "ino",
		(json_int_t)n->netns_ino, "cookie", (json_int_t)n->netns_cookie, "links", links);
	return j;
}

static int links_from_json(struct node *n, const json_t *links)
{
	const json_t *j;
	size_t i;

	if (json_array_size(links) > NODE_LINKS_MAX)
		return -EINVAL;
	json_array_foreach(links, i, j) {
		struct node_link *l = &n->links[n->n_links++];
		const char *dev = NULL, *netns = NULL, *peer = NULL;
		const json_t *addrs = NULL, *a;
		size_t k;

		if (json_unpack((json_t *)j, "{s:s, s?s, s:s, s:o}", "dev", &dev, "peer_netns", &netns, "peer_dev",
			    &peer, "addrs", &addrs) < 0 ||
			strlen(dev) >= sizeof(l->dev) || strlen(peer) >= sizeof(l->peer_dev) ||
			json_array_size(addrs) > NODE_ADDRS_MAX)
			return -EINVAL;
		strcpy(l->dev, dev);
		strcpy(l->peer_dev, peer);
		if (netns && !(l->peer_netns = strdup(netns)))
			return -ENOMEM;
		json_array_foreach(addrs, k, a) {
			const char *s = json_string_value(a);

			if (!s || strlen(s) >= sizeof(l->addrs[0]))
				return -EINVAL;
			strcpy(l->addrs[l->n_addrs++], s);
		}
	}
	return 0;
}

/*
 * A namespace outlives its name for as long as a process is in it (`ip netns del` while a daemon runs), with all that was changed in
 * there. Inodes are given again, cookies never: without one it is not looked for. 1: found and open; 0: nobody is in it
 */
static int node_open_nameless(struct node *n, uint64_t ino, uint64_t cookie)
{
	DIR *d = ino && cookie ? opendir("/proc") : NULL;
	struct dirent *e;

	while (d && n->netns_fd < 0 && (e = readdir(d))) {
		uint64_t now = 0;
		struct stat st;
		char path[64];
		int64_t pid;

		if (units_int(e->d_name, 1, INT32_MAX, &pid) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
		if (stat(path, &st) < 0 || (uint64_t)st.st_ino != ino)
			continue;
		n->netns_fd = open(path, O_RDONLY | O_CLOEXEC);
		if (n->netns_fd < 0)
			continue;
		if (fstat(n->netns_fd, &st) == 0 && (uint64_t)st.st_ino == ino) {
			_cleanup_(node_leave) struct node_visit v = {.fd = -1};

			if (node_enter(n, &v, NULL) == 0)
				(void)read_cookie(&now);
		}
		if (now != cookie)
			close(TAKE_FD(n->netns_fd)); /* ended, and the inode is somebody else's */
	}
	if (d)
		closedir(d);
	if (n->netns_fd < 0)
		return 0;
	n->netns_ino = ino;
	n->netns_cookie = cookie;
	return 1;
}

static int parse_json(const json_t *j, struct node **ret, uint64_t *ret_ino, uint64_t *ret_cookie, struct err *err)
{
	_cleanup_node_ struct node *n = NULL;
	const char *name = NULL, *netns = NULL;
	json_int_t ino = 0, cookie = 0;
	const json_t *links = NULL;
	int r;

	if (json_unpack((json_t *)j, "{s:s, s?s, s:I, s:I, s:o}", "name", &name, "netns", &netns, "ino", &ino,
		    "cookie", &cookie, "links", &links) < 0)
		return err_set(err, -EINVAL, "node record: it is damaged");
	n = node_new(name, netns);
	if (!n)
		return -ENOMEM;
	r = links_from_json(n, links);
	if (r < 0)
		return err_set(err, r, "node %s: its record is damaged", name);
	*ret = TAKE_PTR(n);
	*ret_ino = (uint64_t)ino;
	*ret_cookie = (uint64_t)cookie;
	return 0;
}

int node_describe(const json_t *j, struct node **ret, struct err *err)
{
	uint64_t ino, cookie;
	int r = parse_json(j, ret, &ino, &cookie, err);

	if (r == 0) {
		(*ret)->netns_ino = ino;
		(*ret)->netns_cookie = cookie;
	}
	return r;
}

/* ── kept namespaces ───────────────────────────────────────────────────────────────────────── */

/* A descriptor holds the namespace itself, so what it was when it was opened it still is: the record's, or not. */
static struct node_kept *kept_find(const char *netns, uint64_t ino, uint64_t cookie)
{
	for (struct node_kept *k = kept_nodes; k; k = k->next) {
		const struct node *n = k->node;

		if (!netns && !n->netns)
			return k;
		if (streq(netns, n->netns) && ino == n->netns_ino &&
			(!cookie || !n->netns_cookie || cookie == n->netns_cookie))
			return k;
	}
	return NULL;
}

static bool is_node_record(const json_t *j)
{
	return json_is_string(json_object_get(j, "name")) && json_is_integer(json_object_get(j, "ino")) &&
	       json_is_integer(json_object_get(j, "cookie")) && json_is_array(json_object_get(j, "links"));
}

static int keep_one(const json_t *record, struct err *err)
{
	struct node_kept *k;
	struct node *n;
	int r = node_from_json(record, &n, err);

	if (r < 0)
		return r;
	if (n->kept) {
		node_free(n);
		return 0;
	}
	k = calloc(1, sizeof(*k));
	if (!k) {
		node_free(n);
		return -ENOMEM;
	}
	/* what cannot be had now is opened when it is needed */
	for (size_t i = 0; i < ARRAY_SIZE(kept_protocols); i++)
		k->sockets[i] = node_socket(n, AF_NETLINK, SOCK_RAW, kept_protocols[i]);
	k->node = n;
	k->next = kept_nodes;
	kept_nodes = k;
	return 0;
}

int node_keep(const json_t *j, struct err *err)
{
	const json_t *v;
	const char *key;
	size_t i;
	int r = is_node_record(j) ? keep_one(j, err) : 0;

	if (r < 0)
		return r;
	json_object_foreach((json_t *)j, key, v) {
		r = node_keep(v, err);
		if (r < 0)
			return r;
	}
	json_array_foreach((json_t *)j, i, v) {
		r = node_keep(v, err);
		if (r < 0)
			return r;
	}
	return 0;
}

void node_keep_none(void)
{
	while (kept_nodes) {
		struct node_kept *k = kept_nodes;

		kept_nodes = k->next;
		for (size_t i = 0; i < ARRAY_SIZE(k->sockets); i++)
			if (k->sockets[i] >= 0)
				close(k->sockets[i]);
		node_free(k->node);
		free(k);
	}
}

static int kept_socket(struct node_kept *k, int type, int protocol)
{
	for (size_t i = 0; type == SOCK_RAW && i < ARRAY_SIZE(kept_protocols); i++)
		if (kept_protocols[i] == protocol && k->sockets[i] >= 0)
			return TAKE_FD(k->sockets[i]);
	return -1;
}

int node_from_json(const json_t *j, struct node **ret, struct err *err)
{
	_cleanup_node_ struct node *n = NULL;
	uint64_t ino, cookie;
	int r = parse_json(j, &n, &ino, &cookie, err);

	if (r < 0)
		return r;
	n->kept = kept_find(n->netns, ino, cookie);
	if (n->kept) {
		n->netns_fd = n->kept->node->netns_fd;
		n->netns_ino = n->kept->node->netns_ino;
		n->netns_cookie = n->kept->node->netns_cookie;
		*ret = TAKE_PTR(n);
		return 0;
	}
	r = node_open(n, err);
	if (r < 0 && r != -ENOENT && r != -EINVAL) /* EINVAL: a plain file, the namespace was unmounted */
		return r;
	/* The host is always the host; after a reboot its inode may differ, and the boot id guards that case. */
	if (r < 0 ||
		(ino && n->netns && (n->netns_ino != ino || (cookie && n->netns_cookie && n->netns_cookie != cookie)))) {
		bool gone = r < 0;

		if (n->netns_fd >= 0)
			close(TAKE_FD(n->netns_fd));
		if (node_open_nameless(n, ino, cookie) == 0)
			return gone ? err_set(err, -ESTALE, "node %s: its network namespace %s is gone", n->name, n->netns) :
				      err_set(err, -ESTALE, "node %s: %s is another namespace now", n->name, n->netns);
	}
	*ret = TAKE_PTR(n);
	return 0;
}

static int enter_fd(int fd, const char *what, struct node_visit *ret, struct err *err)
{
	_cleanup_close_ int back = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	if (back < 0)
		return err_set(err, -errno, "%s: open my own network namespace: %s", what, strerror(errno));
	if (setns(fd, CLONE_NEWNET) < 0)
		return err_set(err, -errno, "%s: enter its network namespace: %s", what, strerror(errno));
	ret->fd = TAKE_FD(back);
	return 0;
}

int node_enter(const struct node *n, struct node_visit *ret, struct err *err)
{
	if (!n->netns) { /* already there */
		ret->fd = -1;
		return 0;
	}
	if (n->netns_fd < 0)
		return err_set(err, -ENOTCONN, "node %s: its network namespace is not open", n->name);
	return enter_fd(n->netns_fd, n->name, ret, err);
}

int netns_enter(const char *path, struct node_visit *ret, struct err *err)
{
	_cleanup_close_ int fd = -1;

	if (!path) {
		ret->fd = -1;
		return 0;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "network namespace %s: %s", path, strerror(errno));
	return enter_fd(fd, path, ret, err);
}

void node_leave(struct node_visit *v)
{
	int saved = errno;

	if (v->fd < 0)
		return;
	/* A thread left in a foreign namespace would do its next work in the wrong place. */
	if (setns(v->fd, CLONE_NEWNET) < 0)
		abort();
	close(v->fd);
	v->fd = -1;
	errno = saved;
}

int node_socket(const struct node *n, int domain, int type, int protocol)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	int fd = n->kept && domain == AF_NETLINK ? kept_socket(n->kept, type, protocol) : -1, r;

	if (fd >= 0)
		return fd;
	r = node_enter(n, &v, NULL);
	if (r < 0)
		return r;
	fd = socket(domain, type | SOCK_CLOEXEC, protocol);
	return fd < 0 ? -errno : fd;
}

int node_read(const struct node *n, const char *path, char **ret)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = node_enter(n, &v, NULL);

	if (r < 0)
		return r;
	r = file_read(path, 1 << 20, &text, &len);
	if (r < 0)
		return r;
	while (len && text[len - 1] == '\n')
		text[--len] = '\0';
	*ret = TAKE_PTR(text);
	return 0;
}

int node_write(const struct node *n, const char *path, const char *text)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	_cleanup_close_ int fd = -1;
	size_t len = strlen(text);
	ssize_t w;
	int r = node_enter(n, &v, NULL);

	if (r < 0)
		return r;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	do {
		w = write(fd, text, len);
	} while (w < 0 && errno == EINTR);
	if (w < 0)
		return -errno;
	return (size_t)w == len ? 0 : -EIO;
}

int node_pids(const struct node *n, pid_t **ret, size_t *ret_n, struct err *err)
{
	_cleanup_free_ pid_t *pids = NULL;
	size_t count = 0, size = 0;
	struct dirent *e;
	DIR *d;

	if (!n->netns)
		return err_set(err, -EOPNOTSUPP, "node %s is the host: its processes are not the drill's to count",
			n->name);
	d = opendir("/proc");
	if (!d)
		return err_set(err, -errno, "/proc: %s", strerror(errno));
	while ((e = readdir(d))) {
		char path[64];
		struct stat st;
		int64_t pid;

		if (units_int(e->d_name, 1, INT32_MAX, &pid) < 0 || pid == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
		/* gone meanwhile, or a zombie: neither is a process of the node any more */
		if (stat(path, &st) < 0 || st.st_ino != n->netns_ino)
			continue;
		if (count == size) {
			pid_t *more = realloc(pids, (size = size ? size * 2 : 16) * sizeof(*pids));

			if (!more) {
				closedir(d);
				return -ENOMEM;
			}
			pids = more;
		}
		pids[count++] = (pid_t)pid;
	}
	closedir(d);
	*ret = TAKE_PTR(pids);
	*ret_n = count;
	return 0;
}

int pid_start_time(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	char *p;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	r = file_read(path, 4096, &text, NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	/* the command, field 2, may hold anything, brackets and blanks too */
	p = strrchr(text, ')');
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p)
		return -EPROTO;
	*ret = strtoull(p + 1, NULL, 10);
	return 0;
}
