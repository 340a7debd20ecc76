/* SPDX-License-Identifier: GPL-2.0-only */
#include "baseline/pages.h"

#include <ctype.h>
#include <inttypes.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "engine/str.h"

#define CHUNK 512

static long move_pages_call(pid_t pid, unsigned long n, void **addrs, const int *nodes, int *status)
{
	return syscall(SYS_move_pages, pid, n, addrs, nodes, status, nodes ? MPOL_MF_MOVE : 0) < 0 ? -errno : 0;
}

/* In the other process: never to be followed here */
static void *address(uint64_t at)
{
	return (void *)(uintptr_t)at; /* NOLINT(performance-no-int-to-ptr) */
}

static uint64_t page_size(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

int pages_numa_line(const char *line, int node, uint64_t *ret_addr, char ret_policy[32], bool *ret_elsewhere)
{
	char *end;
	uint64_t addr = strtoull(line, &end, 16);
	bool elsewhere = false;
	size_t n;

	if (end == line || *end != ' ')
		return -EINVAL;
	line = end + 1;
	n = strcspn(line, " \n");
	if (n == 0 || n >= 32)
		return -EINVAL;
	memcpy(ret_policy, line, n);
	ret_policy[n] = '\0';
	for (line += n; *line && *line != '\n';) {
		line += strspn(line, " ");
		n = strcspn(line, " \n");
		/* "N1=23"; a file's name ("file=/N1=3") does not begin so */
		if (n > 3 && line[0] == 'N' && isdigit((unsigned char)line[1])) {
			long on = strtol(line + 1, &end, 10);

			if (*end == '=' && strtoull(end + 1, NULL, 10) > 0 && on != node)
				elsewhere = true;
		}
		line += n;
	}
	*ret_addr = addr;
	*ret_elsewhere = elsewhere;
	return 0;
}

/* The end of the mapping that begins at @addr; 0: it is gone */
static uint64_t mapping_end(const char *maps, uint64_t addr)
{
	for (const char *line = maps; *line;) {
		uint64_t from, to;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to) == 2 && from == addr)
			return to;
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	return 0;
}

struct writer {
	struct strbuf text;
	struct page_run run;
	size_t runs;
};

static void writer_flush(struct writer *w)
{
	if (!w->run.pages)
		return;
	strbuf_addf(&w->text, "%s%" PRIx64 "+%" PRIu32 "@%d", w->runs ? " " : "", w->run.addr, w->run.pages, w->run.node);
	w->runs++;
	w->run.pages = 0;
}

static int scan(pid_t pid, int node, uint64_t from, uint64_t to, struct writer *w)
{
	uint64_t size = page_size();

	while (from < to) {
		void *addrs[CHUNK];
		int status[CHUNK];
		unsigned long n = MIN((to - from) / size, (uint64_t)CHUNK);
		long r;

		for (unsigned long i = 0; i < n; i++)
			addrs[i] = address(from + i * size);
		r = move_pages_call(pid, n, addrs, NULL, status);
		if (r < 0)
			return (int)r;
		for (unsigned long i = 0; i < n; i++) {
			uint64_t at = from + i * size;

			if (status[i] < 0 || status[i] == node) /* not present, or at home */
				continue;
			if (w->run.pages && w->run.node == status[i] && w->run.addr + w->run.pages * size == at) {
				w->run.pages++;
				continue;
			}
			writer_flush(w);
			w->run = (struct page_run){.addr = at, .pages = 1, .node = status[i]};
		}
		if (w->runs > PAGES_RUNS_MAX)
			return -E2BIG;
		from += n * size;
	}
	return 0;
}

/* Set by the process itself, or by who started it */
static bool own_policy(const char *policy, int node)
{
	char here[24];

	snprintf(here, sizeof(here), "bind:%d", node);
	if (strncmp(policy, "bind", 4) == 0)
		return !streq(policy, here) && !strstr(policy, "static");
	return strncmp(policy, "interleave", 10) == 0;
}

int pages_elsewhere(pid_t pid, int node, char **ret, char ret_policy[32])
{
	_cleanup_free_ char *path = strf("/proc/%d/numa_maps", (int)pid), *maps_path = strf("/proc/%d/maps", (int)pid), *numa = NULL,
			    *maps = NULL;
	struct writer w = {0};
	uint64_t looked = 0;
	int r;

	if (!path || !maps_path)
		return -ENOMEM;
	r = file_read(path, 64 << 20, &numa, NULL);
	if (r == 0)
		r = file_read(maps_path, 64 << 20, &maps, NULL);
	for (const char *line = numa; r == 0 && *line;) {
		uint64_t addr, end;
		char policy[32];
		bool elsewhere;

		r = pages_numa_line(line, node, &addr, policy, &elsewhere);
		if (r == 0 && own_policy(policy, node)) {
			strcpy(ret_policy, policy);
			r = -EBUSY;
		} else if (r == 0 && elsewhere && (end = mapping_end(maps, addr)) != 0) {
			looked += (end - addr) / page_size();
			r = looked > PAGES_SCAN_MAX ? -E2BIG : scan(pid, node, addr, end, &w);
		}
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	writer_flush(&w);
	if (r == 0 && w.text.oom)
		r = -ENOMEM;
	if (r == 0)
		r = (*ret = w.text.s ? TAKE_PTR(w.text.s) : strdup("")) ? 0 : -ENOMEM;
	strbuf_free(&w.text);
	return r == -ENOENT ? -ESRCH : r;
}

int pages_parse(const char *text, struct page_run **ret, size_t *ret_n)
{
	_cleanup_free_ struct page_run *runs = NULL;
	size_t n = 0;

	while (*text) {
		struct page_run *more, one;
		char *end;
		unsigned long long v;

		if (!isxdigit((unsigned char)*text) || n == PAGES_RUNS_MAX + 1)
			return -EINVAL;
		errno = 0;
		one.addr = strtoull(text, &end, 16);
		if (errno || *end != '+' || !isdigit((unsigned char)end[1]))
			return -EINVAL;
		v = strtoull(end + 1, &end, 10);
		if (errno || v == 0 || v > PAGES_SCAN_MAX || *end != '@' || !isdigit((unsigned char)end[1]))
			return -EINVAL;
		one.pages = (uint32_t)v;
		v = strtoull(end + 1, &end, 10);
		if (errno || v > 1023 || (*end != ' ' && *end != '\0') || (*end == ' ' && end[1] == '\0'))
			return -EINVAL;
		one.node = (int)v;
		text = end + (*end == ' ');
		if ((n & (n + 1)) == 0) {
			more = realloc(runs, (n + 1) * 2 * sizeof(*more));
			if (!more)
				return -ENOMEM;
			runs = more;
		}
		runs[n++] = one;
	}
	*ret = TAKE_PTR(runs);
	*ret_n = n;
	return 0;
}

/* Pages that are on @on (or, @on < 0, where they were recorded) go to @to (@to < 0: to where they were recorded). */
static int move_run(pid_t pid, const struct page_run *run, int on, int to, struct pages_moved *m)
{
	uint64_t size = page_size();

	for (uint32_t done = 0; done < run->pages;) {
		void *addrs[CHUNK], *move[CHUNK];
		int status[CHUNK], nodes[CHUNK];
		unsigned long n = MIN(run->pages - done, (uint32_t)CHUNK), k = 0;
		long r;

		for (unsigned long i = 0; i < n; i++)
			addrs[i] = address(run->addr + (done + i) * size);
		r = move_pages_call(pid, n, addrs, NULL, status);
		if (r < 0)
			return (int)r;
		for (unsigned long i = 0; i < n; i++) {
			if (status[i] != (on < 0 ? run->node : on))
				continue;
			nodes[k] = to < 0 ? run->node : to;
			move[k++] = addrs[i];
		}
		if (k) {
			r = move_pages_call(pid, k, move, nodes, status);
			if (r < 0 && r != -ENOENT)
				return (int)r;
		}
		for (unsigned long i = 0; i < k; i++) {
			m->moved += status[i] == nodes[i];
			m->busy += status[i] == -EBUSY || status[i] == -EACCES || status[i] == -ENOMEM;
		}
		m->there += n - k;
		done += (uint32_t)n;
	}
	return 0;
}

int pages_move(pid_t pid, const struct page_run *runs, size_t n, int to, int from, struct pages_moved *ret)
{
	struct pages_moved m = {0};

	for (size_t i = 0; i < n; i++) {
		int r = move_run(pid, &runs[i], to < 0 ? from : -1, to, &m);

		if (r < 0)
			return r;
	}
	*ret = m;
	return 0;
}

int pages_count(pid_t pid, const struct page_run *runs, size_t n, int node, uint64_t *ret)
{
	uint64_t size = page_size(), count = 0;

	for (size_t i = 0; i < n; i++) {
		for (uint32_t done = 0; done < runs[i].pages;) {
			void *addrs[CHUNK];
			int status[CHUNK];
			unsigned long k = MIN(runs[i].pages - done, (uint32_t)CHUNK);
			long r;

			for (unsigned long a = 0; a < k; a++)
				addrs[a] = address(runs[i].addr + (done + a) * size);
			r = move_pages_call(pid, k, addrs, NULL, status);
			if (r < 0)
				return (int)r;
			for (unsigned long a = 0; a < k; a++)
				count += status[a] == node;
			done += (uint32_t)k;
		}
	}
	*ret = count;
	return 0;
}
