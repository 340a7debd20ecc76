/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How packets are spread over processors: masks and tables of a device's queues, "queue eth0 rx-0 rps_cpus = 3", and how often
 * its interrupt is deferred. Read from a sysfs of the namespace's own, mounted nowhere: /sys shows the devices of the namespace it was
 * mounted in.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "engine/snapshot.h"

static const char *const of_device[] = {"gro_flush_timeout", "napi_defer_hard_irqs", "threaded"};
static const char *const of_rx[] = {"rps_cpus", "rps_flow_cnt"};
static const char *const of_tx[] = {"xps_cpus", "xps_rxqs", "tx_maxrate", "byte_queue_limits/limit_max",
	"byte_queue_limits/limit_min"};

/* A descriptor of sysfs as the calling thread's namespace sees it */
static int open_sysfs(void)
{
	_cleanup_close_ int fs = fsopen("sysfs", FSOPEN_CLOEXEC);
	int fd;

	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY);
	return fd < 0 ? -errno : fd;
}

static void add_queues(struct strbuf *b, int dev_fd, const char *dev)
{
	int fd = openat(dev_fd, "queues", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *e;
	DIR *d;

	if (fd < 0)
		return;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return;
	}
	while ((e = readdir(d))) {
		bool rx = strncmp(e->d_name, "rx-", 3) == 0;
		const char *const *files = rx ? of_rx : of_tx;
		size_t n = rx ? ARRAY_SIZE(of_rx) : ARRAY_SIZE(of_tx);

		if (!rx && strncmp(e->d_name, "tx-", 3) != 0)
			continue;
		for (size_t i = 0; i < n; i++) {
			char path[384];

			snprintf(path, sizeof(path), "%s/%s", e->d_name, files[i]);
			snapshot_fact(b, fd, path, "queue %s %s %s", dev, e->d_name, files[i]);
		}
	}
	closedir(d);
}

static int take(const struct node *n, struct strbuf *b, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	_cleanup_close_ int sysfs = -1;
	struct dirent *e;
	DIR *d;
	int r = node_enter(n, &v, err), fd;

	if (r < 0)
		return r;
	sysfs = open_sysfs();
	if (sysfs < 0)
		return err_set(err, sysfs, "the namespace's own sysfs: %s", strerror(-sysfs));
	fd = openat(sysfs, "class/net", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "sysfs class/net: %s", strerror(errno));
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return -ENOMEM;
	}
	while ((e = readdir(d))) {
		_cleanup_close_ int dev = -1;

		if (e->d_name[0] == '.' || e->d_type == DT_REG) /* bonding_masters is a file */
			continue;
		dev = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dev < 0)
			continue; /* gone meanwhile */
		for (size_t i = 0; i < ARRAY_SIZE(of_device); i++)
			snapshot_fact(b, dev, of_device[i], "queue %s %s", e->d_name, of_device[i]);
		add_queues(b, dev, e->d_name);
	}
	closedir(d);
	return 0;
}

const struct snapshot_ops snapshot_queue = {
	.name = "queue",
	.take = take,
};
