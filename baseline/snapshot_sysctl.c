/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel parameters as text: "sysctl net.core.somaxconn = 4096". A parameter is in by the tables below: all of net.* that a
 * namespace has for itself, and of the machine all of vm.* and those parts of kernel.* and fs.* that are settings. What the kernel
 * changes by itself is not in them: counts, what an advertisement of a router brings (mtu, hop_limit, the times of IPv6
 * neighbours), sampling rates and warning budgets that it lowers on its own, lists that grow with the modules loaded; nor
 * are secrets, nor the huge pages, which have a subject of their own. A parameter that can only be written is an action.
 */
#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/snapshot.h"

struct part {
	const char *dir;    /* below /proc/sys */
	bool folders;	    /* the files of the folders in it (one an interface), not its own */
	const char *keep;   /* patterns, separated by blanks */
	const char *except; /* of those, these not */
};

static const struct part of_namespace[] = {
	{"net", false, "nf_conntrack_max", ""},
	{"net/core", false, "*", "netdev_rss_key"},
	{"net/ipv4", false, "*", "tcp_available_* tcp_allowed_* tcp_fastopen_key fib_multipath_hash_seed"},
	{"net/ipv4/conf", true, "*", ""},
	{"net/ipv4/neigh", true, "*", ""},
	{"net/ipv4/route", false, "*", ""},
	{"net/ipv4/vs", false, "*", "am_droprate"},
	{"net/ipv6", false, "*", ""},
	{"net/ipv6/conf", true, "*", "mtu hop_limit stable_secret"},
	{"net/ipv6/icmp", false, "*", ""},
	{"net/ipv6/neigh", true, "*", "base_reachable_time* retrans_time*"},
	{"net/ipv6/route", false, "*", ""},
	{"net/bridge", false, "*", ""},
	{"net/mptcp", false, "*", "available_*"},
	{"net/netfilter", false, "nf_*", "nf_conntrack_count"},
	{"net/unix", false, "*", ""},
};

static const struct part of_machine[] = {
	{"vm", false, "*", "nr_hugepages* nr_overcommit_hugepages numa_stat stat_refresh"},
	{"kernel", false,
		"sched_* numa_balancing* timer_migration perf_event_* perf_cpu_time_max_percent panic* *watchdog* hung_task_* "
		"softlockup_* hardlockup_* max_rcu_* oops_* warn_limit printk* bpf_stats_enabled sysrq pid_max threads-max "
		"randomize_va_space core_pattern core_uses_pid core_pipe_limit shm* sem msg* io_uring_* kptr_restrict "
		"dmesg_restrict split_lock_mitigate task_delayacct",
		"perf_event_max_sample_rate hung_task_warnings hung_task_detect_count *_next_id"},
	{"fs", false, "file-max nr_open aio-max-nr pipe-* mount-max", ""},
	{"fs/inotify", false, "*", ""},
};

static bool in_list(const char *list, const char *name)
{
	char pattern[64];

	for (;;) {
		size_t n;

		list += strspn(list, " ");
		n = strcspn(list, " ");
		if (n == 0)
			return false;
		if (n < sizeof(pattern)) {
			memcpy(pattern, list, n);
			pattern[n] = '\0';
			if (fnmatch(pattern, name, 0) == 0)
				return true;
		}
		list += n;
	}
}

/* "net/ipv4/conf/eth0.100/rp_filter" is spelt "net.ipv4.conf.eth0/100.rp_filter" */
static void spell(const char *dir, const char *name, char ret[512])
{
	snprintf(ret, 512, "%s/%s", dir, name);
	for (char *p = ret; *p; p++)
		*p = *p == '/' ? '.' : *p == '.' ? '/' : *p;
}

static void add_file(struct strbuf *b, int dir_fd, const char *dir, const char *name)
{
	char text[SNAPSHOT_VALUE_MAX], key[512];
	int r = snapshot_read(dir_fd, name, text);
	struct stat st;

	/* gone meanwhile; or, as nobody may read it, an action */
	if (r == -ENOENT || (r == -EACCES && fstatat(dir_fd, name, &st, 0) == 0 && !(st.st_mode & 0444)))
		return;
	spell(dir, name, key);
	if (r < 0)
		strbuf_addf(b, "sysctl %s ! could not be read: %s\n", key, strerror(-r));
	else
		strbuf_addf(b, "sysctl %s = %s\n", key, text);
}

/* @folders: go into the folders of @dir. 0, also when there is no such folder; -errno */
static int add_dir(struct strbuf *b, int at, const char *name, const char *dir, const struct part *p, bool folders)
{
	struct dirent *e;
	DIR *d;
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return -ENOMEM;
	}
	while (r == 0 && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		if (folders && e->d_type == DT_DIR) {
			char sub[512];

			if ((size_t)snprintf(sub, sizeof(sub), "%s/%s", dir, e->d_name) < sizeof(sub))
				r = add_dir(b, fd, e->d_name, sub, p, false);
		} else if (!folders && e->d_type == DT_REG && in_list(p->keep, e->d_name) && !in_list(p->except, e->d_name)) {
			add_file(b, fd, dir, e->d_name);
		}
	}
	closedir(d);
	return r;
}

static int add_parts(struct strbuf *b, const struct part *parts, size_t n, struct err *err)
{
	_cleanup_close_ int root = open("/proc/sys", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return err_set(err, -errno, "/proc/sys: %s", strerror(errno));
	for (size_t i = 0; i < n; i++) {
		int r = add_dir(b, root, parts[i].dir, parts[i].dir, &parts[i], parts[i].folders);

		if (r < 0)
			return err_set(err, r, "/proc/sys/%s: %s", parts[i].dir, strerror(-r));
	}
	return 0;
}

static int take(const struct node *n, struct strbuf *b, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	int r = node_enter(n, &v, err);

	return r < 0 ? r : add_parts(b, of_namespace, ARRAY_SIZE(of_namespace), err);
}

static int take_host(struct strbuf *b, struct err *err)
{
	return add_parts(b, of_machine, ARRAY_SIZE(of_machine), err);
}

const struct snapshot_ops snapshot_sysctl = {
	.name = "sysctl",
	.take = take,
	.take_host = take_host,
};
