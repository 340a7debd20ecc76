/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Huge pages: how many are asked for on each memory node and of each size, the surplus allowed, and the settings of transparent
 * ones. How many are free, reserved, in surplus or collapsed is the work of processes, and left out.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "engine/snapshot.h"

#define MM   "/sys/kernel/mm"
#define NODE "/sys/devices/system/node"

static const char *const of_thp[] = {"enabled", "defrag", "shmem_enabled", "use_zero_page", "shrink_underused",
	"khugepaged/alloc_sleep_millisecs", "khugepaged/defrag", "khugepaged/max_ptes_none", "khugepaged/max_ptes_shared",
	"khugepaged/max_ptes_swap", "khugepaged/pages_to_scan", "khugepaged/scan_sleep_millisecs"};

typedef void (*each_fn)(struct strbuf *b, int dir_fd, const char *name);

/* Calls @each for the folders of @dir whose names begin with @prefix; a folder that is not there has none. */
static void each_folder(struct strbuf *b, const char *dir, const char *prefix, each_fn each)
{
	struct dirent *e;
	DIR *d = opendir(dir);

	while (d && (e = readdir(d)))
		if (strncmp(e->d_name, prefix, strlen(prefix)) == 0)
			each(b, dirfd(d), e->d_name);
	if (d)
		closedir(d);
}

static void add_size(struct strbuf *b, int dir_fd, const char *name)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/nr_overcommit_hugepages", name);
	snapshot_fact(b, dir_fd, path, "hugepage %s surplus allowed", name + strlen("hugepages-"));
}

static void add_thp_size(struct strbuf *b, int dir_fd, const char *name)
{
	static const char *const files[] = {"enabled", "shmem_enabled"};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char path[320];

		snprintf(path, sizeof(path), "%s/%s", name, files[i]);
		snapshot_fact(b, dir_fd, path, "hugepage transparent %s %s", name + strlen("hugepages-"), files[i]);
	}
}

static void add_node(struct strbuf *b, int dir_fd, const char *node)
{
	struct dirent *e;
	char path[640];
	DIR *d;
	int fd;

	snprintf(path, sizeof(path), "%s/hugepages", node);
	fd = openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d && fd >= 0)
		close(fd);
	while (d && (e = readdir(d))) {
		if (strncmp(e->d_name, "hugepages-", 10) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/nr_hugepages", e->d_name);
		snapshot_fact(b, fd, path, "hugepage %s %s pages", e->d_name + 10, node);
	}
	if (d)
		closedir(d);
}

/* A kernel without memory nodes has them all in one place. */
static void add_pages(struct strbuf *b, int dir_fd, const char *name)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/nr_hugepages", name);
	snapshot_fact(b, dir_fd, path, "hugepage %s pages", name + strlen("hugepages-"));
}

static int take_host(struct strbuf *b, struct err *err _unused_)
{
	for (size_t i = 0; i < ARRAY_SIZE(of_thp); i++) {
		char path[128];

		snprintf(path, sizeof(path), MM "/transparent_hugepage/%s", of_thp[i]);
		snapshot_fact(b, AT_FDCWD, path, "hugepage transparent %s", of_thp[i]);
	}
	each_folder(b, MM "/transparent_hugepage", "hugepages-", add_thp_size);
	each_folder(b, MM "/hugepages", "hugepages-", add_size);
	if (access(NODE "/node0/hugepages", F_OK) == 0)
		each_folder(b, NODE, "node", add_node);
	else
		each_folder(b, MM "/hugepages", "hugepages-", add_pages);
	return 0;
}

const struct snapshot_ops snapshot_hugepage = {
	.name = "hugepage",
	.take_host = take_host,
};
