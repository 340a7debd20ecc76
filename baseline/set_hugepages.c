/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.hugepages: static huge pages of 2 MiB, in all or of one NUMA node. prior: knobs.h, a file for each node with memory.
 *
 * The kernel takes any number and gives what it finds. So it is asked before anything is changed whether that many can be there at
 * all, and what falls short is put back, and said. A total is spread here, evenly over the nodes: the kernel's own spreading cannot
 * be undone node by node.
 *
 * Pages that somebody uses are not freed: the kernel turns them into surplus pages, which go when they are let go. Restoring says so.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "baseline/cpus.h"
#include "baseline/knobs.h"
#include "engine/units.h"

#define PAGE_KIB   2048
#define PAGES_MAX  16777216 /* 32 TiB */
#define NODES_MAX  64
#define RESERVE	   8 /* an eighth of the memory is left to everybody else, 128 MiB at least */
#define RESERVE_KIB (128 * 1024)

struct place {
	int node; /* -1: the kernel knows of none */
	char dir[128];
	int64_t now;
};

static int read_number(const char *dir, const char *file, int64_t *ret)
{
	_cleanup_free_ char *path = strf("%s/%s", dir, file), *text = NULL;
	int r = path ? file_read(path, 64, &text, NULL) : -ENOMEM;

	if (r < 0)
		return r;
	text[strcspn(text, "\n")] = '\0';
	return units_int(text, 0, INT64_MAX, ret);
}

/* "Node 0 MemFree:    123 kB" or "MemAvailable:   123 kB" */
static int64_t memory_kib(int node, const char *what)
{
	_cleanup_free_ char *path = node < 0 ? strdup("/proc/meminfo") : strf("/sys/devices/system/node/node%d/meminfo", node),
			    *text = NULL;
	const char *p;

	if (!path || file_read(path, 65536, &text, NULL) < 0)
		return -1;
	p = strstr(text, what);
	return p ? (int64_t)strtoll(p + strlen(what), NULL, 10) : -1;
}

/* What can be handed out: of a node what is free or can be given up */
static int64_t available_kib(int node)
{
	int64_t free_kib, active, inactive;

	if (node < 0)
		return memory_kib(-1, "MemAvailable:");
	free_kib = memory_kib(node, "MemFree:");
	active = memory_kib(node, "Active(file):");
	inactive = memory_kib(node, "Inactive(file):");
	/* half of the page cache, as the kernel's own estimate of MemAvailable has it at most */
	return free_kib < 0 ? -1 : free_kib + (active > 0 ? active / 2 : 0) + (inactive > 0 ? inactive / 2 : 0);
}

static int places(const json_t *args, struct place *ret, size_t *ret_n, struct err *err)
{
	const json_t *only = json_object_get(args, "numa_node");
	int nodes[NODES_MAX], n = cpus_numa_nodes(nodes, NODES_MAX);
	size_t count = 0;

	for (int i = 0; i < MAX(n, 1); i++) {
		struct place *p = &ret[count];
		int r;

		p->node = n ? nodes[i] : -1;
		if (only && json_integer_value(only) != (n ? nodes[i] : 0))
			continue;
		if (n)
			snprintf(p->dir, sizeof(p->dir), "/sys/devices/system/node/node%d/hugepages/hugepages-%dkB", nodes[i], PAGE_KIB);
		else
			snprintf(p->dir, sizeof(p->dir), "/sys/kernel/mm/hugepages/hugepages-%dkB", PAGE_KIB);
		r = read_number(p->dir, "nr_hugepages", &p->now);
		if (r < 0)
			return err_set(err, r == -ENOENT ? -EOPNOTSUPP : r, "huge pages: %s: %s", p->dir,
				r == -ENOENT ? "this kernel has none of 2 MiB (CONFIG_HUGETLBFS)" : strerror(-r));
		count++;
	}
	if (count == 0) {
		_cleanup_strbuf_ struct strbuf all = {0};

		for (int i = 0; i < n; i++)
			strbuf_addf(&all, "%s%d", i ? "," : "", nodes[i]);
		return err_set(err, -EOPNOTSUPP, "huge pages: NUMA node %" JSON_INTEGER_FORMAT " is not there: this machine has %s",
			json_integer_value(only), all.len ? all.s : "0");
	}
	*ret_n = count;
	return 0;
}

/* How many each place is to have. A total that is there already stays as it is spread. */
static void spread(const struct place *p, size_t n, int64_t pages, int64_t *ret)
{
	int64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += p[i].now;
	for (size_t i = 0; i < n; i++)
		ret[i] = sum == pages ? p[i].now : pages / (int64_t)n + ((int64_t)i < pages % (int64_t)n);
}

static int64_t wanted_pages(const json_t *args)
{
	return json_integer_value(json_object_get(args, "pages"));
}

static int hugepages_supported(const struct node *n _unused_, const json_t *args, struct err *err)
{
	struct place p[NODES_MAX];
	int64_t want[NODES_MAX];
	size_t count = 0;
	int r = places(args, p, &count, err);

	if (r < 0)
		return r;
	spread(p, count, wanted_pages(args), want);
	for (size_t i = 0; i < count; i++) {
		int64_t need = (want[i] - p[i].now) * PAGE_KIB, total = memory_kib(p[i].node, "MemTotal:"),
			reserve = MAX(total / RESERVE, RESERVE_KIB), there = available_kib(p[i].node);
		char where[48] = "";

		if (need <= 0 || (there >= 0 && need <= there - reserve))
			continue;
		if (p[i].node >= 0)
			snprintf(where, sizeof(where), " on NUMA node %d", p[i].node);
		err_set(err, -EOPNOTSUPP,
			"huge pages: %" PRId64 " of 2 MiB%s take %" PRId64 " MiB more, and %" PRId64 " MiB of %" PRId64
			" are to be had (%" PRId64 " are kept for everybody else)",
			want[i], where, need / 1024, MAX(there, (int64_t)0) / 1024, MAX(total, (int64_t)0) / 1024, reserve / 1024);
		return err_hint(err, "ask for fewer pages");
	}
	return 0;
}

static int hugepages_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *list = json_array();
	struct place p[NODES_MAX];
	int64_t want[NODES_MAX];
	size_t count = 0;
	int r = knobs_host_only(n, "set.hugepages", err);

	if (r == 0)
		r = places(args, p, &count, err);
	if (r < 0)
		return r;
	spread(p, count, wanted_pages(args), want);
	for (size_t i = 0; i < count; i++) {
		_cleanup_free_ char *path = strf("%s/nr_hugepages", p[i].dir), *text = strf("%" PRId64, want[i]),
				    *key = p[i].node < 0 ? strdup("huge pages") : strf("huge pages of NUMA node %d", p[i].node);
		int64_t surplus = 0;

		if (!path || !text || !key)
			return -ENOMEM;
		(void)read_number(p[i].dir, "surplus_hugepages", &surplus);
		if (surplus > 0)
			return err_set(err, -EBUSY, "%s on %s: %" PRId64 " are there beyond the count, in use: they could not be put back",
				key, n->name, surplus);
		r = knobs_add(n, list, key, path, "pages", text, err);
		if (r < 0)
			return r;
	}
	*ret_prior = knobs_prior(TAKE_PTR(list));
	return *ret_prior ? 0 : -ENOMEM;
}

static int hugepages_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const json_t *only = json_object_get(args, "numa_node");

	if (!prior && only)
		strbuf_addf(ret_apply,
			"echo %" PRId64 " >/sys/devices/system/node/node%" JSON_INTEGER_FORMAT "/hugepages/hugepages-2048kB/nr_hugepages\n",
			wanted_pages(args), json_integer_value(only));
	else if (!prior)
		strbuf_addf(ret_apply, "sysctl -w vm.nr_hugepages=%" PRId64 "\n", wanted_pages(args));
	return knobs_command(n, args, prior, ret_apply, ret_undo);
}

static const struct param hugepages_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "the machine: \"host\""},
	{.name = "pages",
		.type = PARAM_INT,
		.required = true,
		.min = 0,
		.max = PAGES_MAX,
		.help = "how many of 2 MiB; spread evenly over the NUMA nodes"},
	{.name = "numa_node", .type = PARAM_INT, .min = 0, .max = 1023, .help = "all on this one, and the others left alone"},
	PARAM_END,
};

const struct change_ops change_set_hugepages = {
	.name = "set.hugepages",
	.summary = "Static huge pages of 2 MiB",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = hugepages_params,
	.example = "[{\"node\": \"host\", \"pages\": 5}, {\"node\": \"host\", \"pages\": 3, \"numa_node\": 0}]",
	.supported = hugepages_supported,
	.capture = hugepages_capture,
	.apply = knobs_apply,
	.undo = knobs_undo,
	.verify = knobs_verify,
	.look = knobs_look,
	.command = hugepages_command,
};
