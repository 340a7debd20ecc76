/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/netns.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/magic.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <linux/if.h>
#include <netlink/attr.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/str.h"
#include "engine/units.h"

#define KILL_TIMEOUT (10 * NSEC_PER_SEC)

const char *const netns_dir_names[] = {"absent", "plain", "mount", NULL};

int netns_dir_state(enum netns_dir *ret, struct err *err)
{
	struct statx st;

	if (statx(AT_FDCWD, LAB_NETNS_DIR, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st) < 0) {
		if (errno != ENOENT)
			return err_set(err, -errno, LAB_NETNS_DIR ": %s", strerror(errno));
		*ret = NETNS_DIR_ABSENT;
		return 0;
	}
	if (!S_ISDIR(st.stx_mode))
		return err_set(err, -ENOTDIR, LAB_NETNS_DIR " is not a directory");
	*ret = st.stx_attributes & STATX_ATTR_MOUNT_ROOT ? NETNS_DIR_MOUNT : NETNS_DIR_PLAIN;
	return 0;
}

int netns_dir_make(struct err *err)
{
	enum netns_dir state;
	int r = mkdir_p(LAB_NETNS_DIR);

	if (r < 0)
		return err_set(err, r, "make " LAB_NETNS_DIR ": %s", strerror(-r));
	r = netns_dir_state(&state, err);
	if (r < 0)
		return r;
	if (state != NETNS_DIR_MOUNT &&
		mount(LAB_NETNS_DIR, LAB_NETNS_DIR, "none", MS_BIND | MS_REC, NULL) < 0)
		return err_set(
			err, -errno, "mount " LAB_NETNS_DIR " on itself: %s", strerror(errno));
	if (mount("", LAB_NETNS_DIR, "none", MS_SHARED | MS_REC, NULL) < 0)
		return err_set(err, -errno, "make the mount " LAB_NETNS_DIR " shared: %s",
			strerror(errno));
	return 0;
}

static int dir_empty(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && (e = readdir(d)))
		if (!streq(e->d_name, ".") && !streq(e->d_name, ".."))
			r = -ENOTEMPTY;
	closedir(d);
	return r;
}

int netns_dir_restore(enum netns_dir prior, struct err *err)
{
	enum netns_dir now;
	int r = netns_dir_state(&now, err);

	if (r < 0 || prior == NETNS_DIR_MOUNT || now == NETNS_DIR_ABSENT)
		return r;
	r = dir_empty(LAB_NETNS_DIR);
	if (r < 0)
		return err_set(err, r, LAB_NETNS_DIR ": %s", strerror(-r));
	/* Not MNT_DETACH: a name that came meanwhile is a mount below this one, and makes it busy. */
	if (now == NETNS_DIR_MOUNT && umount2(LAB_NETNS_DIR, UMOUNT_NOFOLLOW) < 0)
		return err_set(err, errno == EBUSY ? -ENOTEMPTY : -errno,
			"unmount " LAB_NETNS_DIR ": %s", strerror(errno));
	if (prior == NETNS_DIR_ABSENT && rmdir(LAB_NETNS_DIR) < 0 && errno != ENOENT)
		return err_set(err, -errno, "remove " LAB_NETNS_DIR ": %s", strerror(errno));
	return 0;
}

int netns_add(const char *path, struct node_visit *ret, struct err *err)
{
	_cleanup_close_ int back = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int file = -1;

	if (back < 0)
		return err_set(err, -errno, "open my own network namespace: %s", strerror(errno));
	file = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
	if (file < 0)
		return err_set(err, -errno, "make %s: %s", path, strerror(errno));
	if (unshare(CLONE_NEWNET) < 0)
		return err_set(err, -errno, "make a network namespace: %s", strerror(errno));
	ret->fd = TAKE_FD(back);
	if (mount("/proc/thread-self/ns/net", path, "none", MS_BIND, NULL) < 0) {
		int r = -errno;

		node_leave(ret);
		return err_set(err, r, "name a network namespace %s: %s", path, strerror(-r));
	}
	return 0;
}

int netns_del(const char *path, struct err *err)
{
	/* More than one mount may lie there if somebody else bound a namespace to the same name. */
	while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		;
	if (errno != EINVAL && errno != ENOENT)
		return err_set(err, -errno, "unmount %s: %s", path, strerror(errno));
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set(err, -errno, "remove %s: %s", path, strerror(errno));
	return 0;
}

int netns_ino(const char *path, uint64_t *ret)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct statfs fs;
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (fs.f_type != NSFS_MAGIC)
		return -ENODATA;
	*ret = st.st_ino;
	return 0;
}

/* ── the processes in a namespace ───────────────────────────────────────────────────────── */

static bool is_in(pid_t pid, const uint64_t *ino, size_t n)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	if (stat(path, &st) < 0)
		return false; /* gone, or a zombie, which is in no namespace any more */
	for (size_t i = 0; i < n; i++)
		if (st.st_ino == ino[i])
			return true;
	return false;
}

struct victims {
	int *fds; /* pidfds */
	pid_t *pids;
	size_t n, size;
};

static void victims_clear(struct victims *v)
{
	for (size_t i = 0; i < v->n; i++)
		close(v->fds[i]);
	free(v->fds);
	free(v->pids);
	*v = (struct victims){0};
}

static int victims_room(struct victims *v)
{
	size_t size = v->size ? v->size * 2 : 16;
	int *fds;
	pid_t *pids;

	if (v->n < v->size)
		return 0;
	fds = realloc(v->fds, size * sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	v->fds = fds;
	pids = realloc(v->pids, size * sizeof(*pids));
	if (!pids)
		return -ENOMEM;
	v->pids = pids;
	v->size = size;
	return 0;
}

static int find(const uint64_t *ino, size_t n, struct victims *v, struct err *err)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	int r = 0;

	if (!d)
		return err_set(err, -errno, "/proc: %s", strerror(errno));
	while (r == 0 && (e = readdir(d))) {
		int64_t pid;
		int fd;

		if (units_int(e->d_name, 1, INT32_MAX, &pid) < 0 || pid == getpid() ||
			!is_in((pid_t)pid, ino, n))
			continue;
		fd = pidfd_open((pid_t)pid, 0);
		if (fd < 0)
			continue; /* gone meanwhile */
		/*
		 * Asked again: if the number was reused in between, the descriptor is of the new
		 * process.
		 */
		if (!is_in((pid_t)pid, ino, n)) {
			close(fd);
			continue;
		}
		r = victims_room(v);
		if (r < 0) {
			close(fd);
			continue;
		}
		v->pids[v->n] = (pid_t)pid;
		v->fds[v->n++] = fd;
	}
	closedir(d);
	return r;
}

static int await_death(struct victims *v, nsec_t deadline, struct err *err)
{
	for (size_t i = 0; i < v->n;) {
		int r = clock_poll(v->fds[i], POLLIN, deadline);
		siginfo_t si;

		if (r == -ETIMEDOUT)
			return err_set(err, r, "process %d does not die of SIGKILL", (int)v->pids[i]);
		if (r < 0)
			return err_set(err, r, "wait for process %d to die: %s", (int)v->pids[i], strerror(-r));
		/*
		 * A child of this very process would stay a zombie; of any other, this fails with
		 * ECHILD.
		 */
		(void)waitid(P_PIDFD, (id_t)v->fds[i], &si, WEXITED | WNOHANG);
		i++;
	}
	return 0;
}

int netns_kill(const uint64_t *ino, size_t n, struct err *err)
{
	nsec_t deadline = now_ns() + KILL_TIMEOUT;

	if (n == 0)
		return 0;
	if (is_in(1, ino, n) || is_in(getpid(), ino, n))
		return err_set(err, -EBUSY,
			"a name of the lab stands for this host's own network namespace");
	for (;;) {
		__attribute__((cleanup(victims_clear))) struct victims v = {0};
		int r = find(ino, n, &v, err);

		if (r < 0 || v.n == 0)
			return r;
		for (size_t i = 0; i < v.n; i++)
			(void)pidfd_send_signal(v.fds[i], SIGKILL, NULL, 0);
		r = await_death(&v, deadline, err);
		if (r < 0)
			return r;
	}
}

int netns_count(const uint64_t *ino, size_t n, size_t *ret, struct err *err)
{
	__attribute__((cleanup(victims_clear))) struct victims v = {0};
	int r = n ? find(ino, n, &v, err) : 0;

	if (r == 0)
		*ret = v.n;
	return r;
}

/* ── devices ────────────────────────────────────────────────────────────────────────────── */

/* A message with its fixed header; NULL without memory */
static struct nl_msg *message(int type, int flags, const void *header, size_t len)
{
	struct nl_msg *m = nlmsg_alloc_simple(type, flags);

	if (m && nlmsg_append(m, (void *)header, len, NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		m = NULL;
	}
	return m;
}

int netns_bridge(struct nlc *nl, const char *dev, int index, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC,
		.ifi_index = index,
		.ifi_flags = IFF_UP,
		.ifi_change = IFF_UP};
	struct nl_msg *m = message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifi, sizeof(ifi));
	struct nlattr *info, *data;
	int r;

	if (!m || nla_put_string(m, IFLA_IFNAME, dev) < 0 ||
		!(info = nla_nest_start(m, IFLA_LINKINFO)) ||
		nla_put_string(m, IFLA_INFO_KIND, "bridge") < 0 ||
		!(data = nla_nest_start(m, IFLA_INFO_DATA)) ||
		nla_put_u32(m, IFLA_BR_STP_STATE, 0) < 0 ||
		nla_put_u32(m, IFLA_BR_FORWARD_DELAY, 0) < 0 ||
		nla_put_u8(m, IFLA_BR_MCAST_SNOOPING, 0) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	nla_nest_end(m, data);
	nla_nest_end(m, info);
	r = nlc_request(nl, m, err);
	return r < 0 ? err_prefix(err, "make bridge %s", dev), r : 0;
}

int netns_veth(struct nlc *nl, const char *port, int index, int bridge, int peer_fd,
	const char *dev, int peer_index, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC,
		.ifi_index = index,
		.ifi_flags = IFF_UP,
		.ifi_change = IFF_UP};
	struct ifinfomsg peer_ifi = {.ifi_family = AF_UNSPEC, .ifi_index = peer_index};
	struct nl_msg *m = message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifi, sizeof(ifi));
	struct nlattr *info, *data, *peer;
	int r;

	/* VETH_INFO_PEER is a header with attributes behind it, in one attribute */
	if (!m || nla_put_string(m, IFLA_IFNAME, port) < 0 ||
		nla_put_u32(m, IFLA_MASTER, (uint32_t)bridge) < 0 ||
		!(info = nla_nest_start(m, IFLA_LINKINFO)) ||
		nla_put_string(m, IFLA_INFO_KIND, "veth") < 0 ||
		!(data = nla_nest_start(m, IFLA_INFO_DATA)) ||
		!(peer = nla_nest_start(m, VETH_INFO_PEER)) ||
		nlmsg_append(m, &peer_ifi, sizeof(peer_ifi), NLMSG_ALIGNTO) < 0 ||
		nla_put_string(m, IFLA_IFNAME, dev) < 0 ||
		nla_put_u32(m, IFLA_NET_NS_FD, (uint32_t)peer_fd) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	nla_nest_end(m, peer);
	nla_nest_end(m, data);
	nla_nest_end(m, info);
	r = nlc_request(nl, m, err);
	return r < 0 ? err_prefix(err, "plug %s of %s into the switch", dev, port), r : 0;
}

int netns_up(struct nlc *nl, int index, const char *alias, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC,
		.ifi_index = index,
		.ifi_flags = IFF_UP,
		.ifi_change = IFF_UP};
	struct nl_msg *m = message(RTM_NEWLINK, 0, &ifi, sizeof(ifi));
	int r = -ENOMEM;

	if (m && alias && nla_put_string(m, IFLA_IFALIAS, alias) < 0)
		nlmsg_free(m);
	else if (m)
		r = nlc_request(nl, m, err);
	return r < 0 ? err_prefix(err, "set device %d up", index), r : 0;
}

static int operstate_cb(struct nlmsghdr *hdr, void *arg)
{
	const struct nlattr *a;

	if (!hdr || hdr->nlmsg_type != RTM_NEWLINK ||
		hdr->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
		return 0;
	a = nlmsg_find_attr(hdr, sizeof(struct ifinfomsg), IFLA_OPERSTATE);
	if (a && nla_len(a) >= 1)
		*(int *)arg = nla_get_u8(a) == IF_OPER_UP;
	return 0;
}

int netns_is_up(struct nlc *nl, int index, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC, .ifi_index = index};
	struct nl_msg *m = message(RTM_GETLINK, 0, &ifi, sizeof(ifi));
	int up = 0, r = m ? nlc_get(nl, m, operstate_cb, &up, err) : -ENOMEM;

	return r < 0 ? err_prefix(err, "state of device %d", index), r : up;
}

static size_t addr_len(const struct lab_addr *a)
{
	return a->family == AF_INET6 ? 16 : 4;
}

int netns_addr(struct nlc *nl, int index, const struct lab_addr *a, struct err *err)
{
	struct ifaddrmsg ifa = {.ifa_family = (uint8_t)a->family,
		.ifa_prefixlen = (uint8_t)a->prefix,
		.ifa_scope = RT_SCOPE_UNIVERSE,
		.ifa_index = (uint32_t)index};
	/* lifetimes in seconds: for ever valid, never preferred */
	struct ifa_cacheinfo deprecated = {.ifa_valid = UINT32_MAX, .ifa_prefered = 0};
	struct nl_msg *m = message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &ifa, sizeof(ifa));

	if (!m || nla_put(m, IFA_LOCAL, (int)addr_len(a), a->addr) < 0 ||
		nla_put(m, IFA_ADDRESS, (int)addr_len(a), a->addr) < 0 ||
		(a->family == AF_INET6 && a->prefix == 128 &&
			nla_put(m, IFA_CACHEINFO, sizeof(deprecated), &deprecated) < 0)) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	return nlc_request(nl, m, err);
}

static int tentative_cb(struct nlmsghdr *hdr, void *arg)
{
	const struct ifaddrmsg *ifa;
	const struct nlattr *a;
	size_t *n = arg;
	uint32_t flags;

	if (!hdr) {
		*n = 0;
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWADDR || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(*ifa)))
		return 0;
	ifa = NLMSG_DATA(hdr);
	a = nlmsg_find_attr(hdr, sizeof(*ifa), IFA_FLAGS);
	flags = a && nla_len(a) >= 4 ? nla_get_u32(a) : ifa->ifa_flags;
	*n += (flags & IFA_F_TENTATIVE) != 0;
	return 0;
}

int netns_tentative(struct nlc *nl, size_t *ret, struct err *err)
{
	struct ifaddrmsg ifa = {.ifa_family = AF_INET6};
	struct nl_msg *m = message(RTM_GETADDR, 0, &ifa, sizeof(ifa));
	size_t n = 0;
	int r = m ? nlc_dump(nl, m, tentative_cb, &n, err) : -ENOMEM;

	if (r < 0)
		return err_prefix(err, "list IPv6 addresses"), r;
	*ret = n;
	return 0;
}

int netns_route(struct nlc *nl, const struct lab_route *t, int index, struct err *err)
{
	struct rtmsg rt = {.rtm_family = (uint8_t)t->to.family,
		.rtm_dst_len = (uint8_t)t->to.prefix,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_STATIC,
		.rtm_scope =
			t->has_via || t->to.family == AF_INET6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
		.rtm_type = RTN_UNICAST};
	struct nl_msg *m = message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &rt, sizeof(rt));

	if (!m || (t->to.prefix && nla_put(m, RTA_DST, (int)addr_len(&t->to), t->to.addr) < 0) ||
		(t->has_via && nla_put(m, RTA_GATEWAY, (int)addr_len(&t->via), t->via.addr) < 0) ||
		(index && nla_put_u32(m, RTA_OIF, (uint32_t)index) < 0)) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	return nlc_request(nl, m, err);
}
