/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * pages.h: where the memory of a process is, page by page, and moving it between NUMA nodes.
 *
 * The record is text, "ADDRESS+PAGES@NODE ADDRESS+PAGES@NODE ...", addresses in hexadecimal: runs of neighbouring pages on one node.
 */
#pragma once

#include "engine/err.h"

#define PAGES_SCAN_MAX (4u << 20) /* of address space looked at, in pages: 16 GiB */
#define PAGES_RUNS_MAX 65536	  /* in a record */

struct page_run {
	uint64_t addr;
	uint32_t pages;
	int node;
};

/*
 * The runs of pages of @pid that are not on @node, as text. -E2BIG: too large to be recorded page by page. -ESRCH. -EBUSY: it has a
 * memory policy of its own (set_mempolicy, numactl), which nobody else can change: the policy is put into @ret_policy.
 */
int pages_elsewhere(pid_t pid, int node, char **ret, char ret_policy[32]);

/* Takes a record apart. -EINVAL */
int pages_parse(const char *text, struct page_run **ret, size_t *ret_n);

struct pages_moved {
	uint64_t moved, there, busy; /* busy: pinned, shared with others, or no room on the node */
};
/*
 * Moves pages of the runs: @to >= 0: to that node, those that are where they were recorded; @to < 0: those on @from back to where
 * they were recorded. Pages that are gone, or have gone elsewhere since, are left alone.
 */
int pages_move(pid_t pid, const struct page_run *runs, size_t n, int to, int from, struct pages_moved *ret);
/* How many pages of the runs are on @node, of those that nobody else shares */
int pages_count(pid_t pid, const struct page_run *runs, size_t n, int node, uint64_t *ret);

/* One line of numa_maps: its address and policy, and whether pages of it are on another node than @node. -EINVAL. For tests */
int pages_numa_line(const char *line, int node, uint64_t *ret_addr, char ret_policy[32], bool *ret_elsewhere);
