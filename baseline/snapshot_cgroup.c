/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Control groups of both versions, with the settings that confine processes, and the BPF programs attached to them:
 *
 *	cgroup v2:/muster-drill made
 *	cgroup ~v2:/system.slice/nginx.service#3412 memory.max = max
 *	cgroup ~v2:/system.slice/nginx.service#3412 bpf 6 sd_devices 40ddf486530245f5
 *	cgroup cpuset:/ cpuset.cpus = 0-1
 *
 * systemd and container managers make and remove groups while time passes: those that carry a unit's name, or an identity made by a
 * machine (32 hexadecimal digits and more), or live below such a one, are compared only while they last (snapshot.h), told
 * apart by inode. So are the values of cgroup.subtree_control that systemd sets as units need controllers: they are left out. Any
 * other group is somebody's on purpose; one of ours, "muster...", always is.
 */
#include <bpf/bpf.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "engine/snapshot.h"

#define DEPTH_MAX 64

static const char *const of_v2[] = {"cgroup.freeze", "cgroup.type", "cpuset.cpus", "cpuset.mems", "cpuset.cpus.partition",
	"cpu.max", "cpu.weight", "cpu.idle", "cpu.uclamp.min", "cpu.uclamp.max", "memory.min", "memory.low", "memory.high", "memory.max",
	"memory.swap.max", "memory.oom.group", "io.max", "io.weight", "pids.max"};

static const struct {
	const char *controller;
	const char *files[8];
} of_v1[] = {
	{"cpuset", {"cpuset.cpus", "cpuset.mems", "cpuset.cpu_exclusive", "cpuset.mem_exclusive", "cpuset.sched_load_balance",
			   "cpuset.memory_migrate"}},
	{"memory", {"memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness"}},
	{"freezer", {"freezer.self_freezing"}},
	{"cpu", {"cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.rt_runtime_us"}},
	{"blkio", {"blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device", "blkio.throttle.read_iops_device",
			  "blkio.throttle.write_iops_device"}},
	{"pids", {"pids.max"}},
	{"net_cls", {"net_cls.classid"}},
};

/*
 * Attach types of programs that belong to a group (linux/bpf.h): traffic in and out, socket creation and options, devices,
 * addresses of bind, connect and sendmsg, sysctl, sockopt.
 */
static const int attach_types[] = {0, 1, 2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 29, 30, 31, 32, 34};

struct hierarchy {
	const char *name; /* "v2", "cpuset" */
	bool v2;
	struct strbuf *b;
};

static bool by_machine(const char *name)
{
	static const char *const units[] = {".service", ".scope", ".slice", ".socket", ".mount", ".swap", ".automount", ".timer",
		".partition"};
	size_t len = strlen(name), hex = 0;

	if (strncmp(name, "muster", 6) == 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		size_t n = strlen(units[i]);

		if (len > n && streq(name + len - n, units[i]))
			return true;
	}
	/* with or without hyphens, as UUIDs have them */
	for (; *name; name++)
		if (isxdigit((unsigned char)*name))
			hex++;
		else if (*name != '-' && *name != '_')
			hex = hex >= 32 ? hex : 0;
	return hex >= 32;
}

static void add_programs(struct strbuf *b, int dir_fd, const char *object)
{
	for (size_t i = 0; i < ARRAY_SIZE(attach_types); i++) {
		uint32_t ids[64], n = ARRAY_SIZE(ids), flags = 0;

		if (bpf_prog_query(dir_fd, (enum bpf_attach_type)attach_types[i], 0, &flags, ids, &n) < 0) {
			/* EINVAL: a kernel without this type; ENOSYS, EPERM: no programs, or none to be seen */
			if (errno == ENOSPC)
				strbuf_addf(b, "cgroup %s bpf %d ! could not be read: more than %zu programs\n", object,
					attach_types[i], ARRAY_SIZE(ids));
			continue;
		}
		for (uint32_t k = 0; k < n; k++) {
			_cleanup_close_ int fd = bpf_prog_get_fd_by_id(ids[k]);
			struct bpf_prog_info info = {0};
			uint32_t len = sizeof(info);

			if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
				continue; /* detached meanwhile */
			strbuf_addf(b, "cgroup %s bpf %d ", object, attach_types[i]);
			snapshot_word(b, info.name[0] ? info.name : "-");
			strbuf_puts(b, " ");
			for (size_t c = 0; c < sizeof(info.tag); c++)
				strbuf_addf(b, "%02x", info.tag[c]);
			strbuf_puts(b, "\n");
		}
	}
}

static void add_group(const struct hierarchy *h, int dir_fd, const char *path, bool passing)
{
	_cleanup_strbuf_ struct strbuf object = {0};
	const char *name;
	struct stat st;

	if (fstat(dir_fd, &st) < 0)
		return;
	if (passing)
		strbuf_puts(&object, "~");
	strbuf_addf(&object, "%s:", h->name);
	snapshot_word(&object, path);
	if (passing)
		strbuf_addf(&object, "#%llu", (unsigned long long)st.st_ino);
	name = strbuf_cstr(&object);
	if (!streq(path, "/"))
		strbuf_addf(h->b, "cgroup %s made\n", name);
	if (h->v2) {
		for (size_t i = 0; i < ARRAY_SIZE(of_v2); i++)
			snapshot_fact(h->b, dir_fd, of_v2[i], "cgroup %s %s", name, of_v2[i]);
		add_programs(h->b, dir_fd, name);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(of_v1); i++) {
		/* "cpu,cpuacct": one folder may serve several */
		const char *at = strstr(h->name, of_v1[i].controller);
		size_t n = strlen(of_v1[i].controller);

		while (at && !((at == h->name || at[-1] == ',') && (at[n] == '\0' || at[n] == ',')))
			at = strstr(at + 1, of_v1[i].controller);
		for (size_t k = 0; at && k < ARRAY_SIZE(of_v1[i].files) && of_v1[i].files[k]; k++)
			snapshot_fact(h->b, dir_fd, of_v1[i].files[k], "cgroup %s %s", name, of_v1[i].files[k]);
	}
}

static int walk(const struct hierarchy *h, int dir_fd, const char *path, bool passing, int depth)
{
	struct dirent *e;
	DIR *d = fdopendir(dir_fd);
	int r = 0;

	if (!d) {
		close(dir_fd);
		return -ENOMEM;
	}
	add_group(h, dir_fd, path, passing);
	while (r == 0 && depth < DEPTH_MAX && (e = readdir(d))) {
		_cleanup_free_ char *sub = NULL;
		int fd;

		if (e->d_type != DT_DIR || streq(e->d_name, ".") || streq(e->d_name, ".."))
			continue;
		fd = openat(dir_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			continue; /* removed meanwhile */
		sub = strf("%s/%s", depth ? path : "", e->d_name);
		if (!sub) {
			close(fd);
			r = -ENOMEM;
			break;
		}
		r = walk(h, fd, sub, strncmp(e->d_name, "muster", 6) != 0 && (passing || by_machine(e->d_name)), depth + 1);
	}
	closedir(d);
	return r;
}

/* The controllers in a version 1 mount's options: "rw,cpu,cpuacct" becomes "cpu,cpuacct", "rw,name=systemd" "name=systemd" */
static void controllers(const char *options, char ret[256])
{
	static const char *const not[] = {"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"};
	size_t out = 0;

	while (*options) {
		size_t n = strcspn(options, ",");
		bool keep = n > 0 && strncmp(options, "release_agent=", 14) != 0;

		for (size_t i = 0; i < ARRAY_SIZE(not); i++)
			keep = keep && !(strlen(not[i]) == n && memcmp(options, not[i], n) == 0);
		if (keep && out + n + 2 < 256) {
			if (out)
				ret[out++] = ',';
			memcpy(ret + out, options, n);
			out += n;
		}
		options += n + (options[n] == ',');
	}
	ret[out] = '\0';
}

static bool is_cgroup(int fd)
{
	struct statfs st;

	return fstatfs(fd, &st) == 0 && (st.f_type == CGROUP_SUPER_MAGIC || st.f_type == CGROUP2_SUPER_MAGIC);
}

static int take_host(struct strbuf *b, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	char done[32][256];
	size_t n_done = 0;
	int r = file_read("/proc/self/mountinfo", 16 << 20, &text, NULL);

	if (r < 0)
		return err_set(err, r, "/proc/self/mountinfo: %s", strerror(-r));
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); r == 0 && line; line = strtok_r(NULL, "\n", &save)) {
		char *tail = strstr(line, " - "), type[32], options[512], root[256], point[512], name[256];
		struct hierarchy h = {.b = b, .name = name};
		bool again = false;
		int fd;

		if (!tail || sscanf(tail, " - %31s %*s %511s", type, options) != 2 || strncmp(type, "cgroup", 6) != 0 ||
			sscanf(line, "%*s %*s %*s %255s %511s", root, point) != 2)
			continue;
		h.v2 = streq(type, "cgroup2");
		if (h.v2)
			strcpy(name, "v2");
		else
			controllers(options, name);
		/* a hierarchy may be mounted in several places */
		for (size_t i = 0; i < n_done; i++)
			again |= streq(done[i], name);
		if (again || n_done == ARRAY_SIZE(done))
			continue;
		fd = open(point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		/*
		 * Covered by another mount: nobody in this mount namespace reaches it by that path. (Not marked as
		 * seen: it may be mounted elsewhere too.)
		 */
		if ((fd < 0 && errno == ENOENT) || (fd >= 0 && !is_cgroup(fd))) {
			if (fd >= 0)
				close(fd);
			continue;
		}
		strcpy(done[n_done++], name);
		if (fd < 0)
			strbuf_addf(b, "cgroup %s:/ ! could not be read: %s\n", name, strerror(errno));
		else
			r = walk(&h, fd, "/", false, 0);
	}
	return r;
}

const struct snapshot_ops snapshot_cgroup = {
	.name = "cgroup",
	.take_host = take_host,
};
