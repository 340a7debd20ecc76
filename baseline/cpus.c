/* SPDX-License-Identifier: GPL-2.0-only */
#include "baseline/cpus.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Digits alone: no sign, no blank. Moves *p behind them. */
static int number(const char **p, unsigned int *ret)
{
	unsigned int v = 0;

	if (!isdigit((unsigned char)**p))
		return -EINVAL;
	for (; isdigit((unsigned char)**p); (*p)++) {
		v = v * 10 + (unsigned int)(**p - '0');
		if (v >= CPUS_MAX)
			return -ERANGE;
	}
	*ret = v;
	return 0;
}

int cpus_parse_list(const char *text, cpu_set_t *ret)
{
	const char *p = text;
	cpu_set_t set;

	CPU_ZERO(&set);
	for (;;) {
		unsigned int from, to;
		int r = number(&p, &from);

		to = from;
		if (r == 0 && *p == '-') {
			p++;
			r = number(&p, &to);
		}
		if (r < 0)
			return r;
		if (to < from)
			return -EINVAL;
		for (unsigned int i = from; i <= to; i++)
			CPU_SET(i, &set);
		if (*p == '\0')
			break;
		if (*p++ != ',')
			return -EINVAL;
	}
	*ret = set;
	return 0;
}

int cpus_parse_mask(const char *text, cpu_set_t *ret)
{
	size_t len = strlen(text), bit = 0, digits = 0;
	cpu_set_t set;

	CPU_ZERO(&set);
	if (len == 0)
		return -EINVAL;
	/* from the right: the last group is the lowest, and only the first may be short */
	while (len-- > 0) {
		unsigned char c = (unsigned char)text[len];
		unsigned int v;

		if (c == ',') {
			if (digits != 8 || len == 0)
				return -EINVAL;
			digits = 0;
			continue;
		}
		if (!isxdigit(c) || digits == 8)
			return -EINVAL;
		v = (unsigned int)(isdigit(c) ? c - '0' : tolower(c) - 'a' + 10);
		for (unsigned int i = 0; i < 4; i++) {
			if (!(v & (1u << i)))
				continue;
			if (bit + i >= CPUS_MAX)
				return -ERANGE;
			CPU_SET(bit + i, &set);
		}
		bit += 4;
		digits++;
	}
	*ret = set;
	return 0;
}

int cpus_next(const cpu_set_t *set, int from)
{
	for (int i = from; i < CPUS_MAX; i++)
		if (CPU_ISSET(i, set))
			return i;
	return -1;
}

bool cpus_within(const cpu_set_t *inner, const cpu_set_t *outer)
{
	cpu_set_t both;

	CPU_AND(&both, inner, outer);
	return CPU_EQUAL(&both, inner);
}

void cpus_add_list(struct strbuf *b, const cpu_set_t *set)
{
	const char *comma = "";

	for (int from = cpus_next(set, 0); from >= 0;) {
		int to = from;

		while (to + 1 < CPUS_MAX && CPU_ISSET(to + 1, set))
			to++;
		if (to > from)
			strbuf_addf(b, "%s%d-%d", comma, from, to);
		else
			strbuf_addf(b, "%s%d", comma, from);
		comma = ",";
		from = cpus_next(set, to + 1);
	}
}

void cpus_add_mask(struct strbuf *b, const cpu_set_t *set)
{
	bool any = false;

	for (int group = CPUS_MAX / 32 - 1; group >= 0; group--) {
		uint32_t v = 0;

		for (int i = 0; i < 32; i++)
			v |= CPU_ISSET(group * 32 + i, set) ? UINT32_C(1) << i : 0;
		if (any)
			strbuf_addf(b, ",%08x", v);
		else if (v || group == 0)
			strbuf_addf(b, "%x", v);
		any = any || v;
	}
}

char *cpus_list(const cpu_set_t *set)
{
	struct strbuf b = {0};

	strbuf_puts(&b, "");
	cpus_add_list(&b, set);
	if (b.oom)
		strbuf_free(&b);
	return b.s ? b.s : strdup("");
}

char *cpus_mask(const cpu_set_t *set)
{
	struct strbuf b = {0};

	cpus_add_mask(&b, set);
	if (b.oom)
		strbuf_free(&b);
	return b.s;
}

/* A list in a file of the kernel's */
static int read_list(const char *path, cpu_set_t *ret)
{
	_cleanup_free_ char *text = NULL;
	int r = file_read(path, 65536, &text, NULL);

	if (r < 0)
		return r;
	text[strcspn(text, "\n")] = '\0';
	if (!text[0]) {
		CPU_ZERO(ret);
		return 0;
	}
	return cpus_parse_list(text, ret);
}

int cpus_check_text(const char *who, const char *text, struct err *err)
{
	cpu_set_t set;

	if (!text || streq(text, "all") || cpus_parse_list(text, &set) == 0)
		return 0;
	err_set(err, -EINVAL, "%s: cpus = \"%.80s\" is no list of processors", who, text);
	err_hint(err, "as in \"0-3,8\", or \"all\"; they are numbered from 0 to at most %d", CPUS_MAX - 1);
	return -EINVAL;
}

int cpus_online(const char *who, const char *only, cpu_set_t *ret, struct err *err)
{
	static const char path[] = "/sys/devices/system/cpu/online";
	_cleanup_free_ char *there = NULL;
	cpu_set_t online, set;
	int r = read_list(path, &online);

	if (r < 0)
		return err_set(err, r, "%s: read %s: %s", who, path, strerror(-r));
	if (!only || streq(only, "all")) {
		*ret = online;
		return 0;
	}
	r = cpus_parse_list(only, &set);
	if (r < 0)
		return cpus_check_text(who, only, err);
	there = cpus_list(&online);
	for (int i = cpus_next(&set, 0); i >= 0; i = cpus_next(&set, i + 1)) {
		if (CPU_ISSET(i, &online))
			continue;
		return err_set(err, -EOPNOTSUPP, "%s: CPU %d is not there: this machine has %s online", who, i,
			there ? there : "others");
	}
	*ret = set;
	return 0;
}

int cpus_of_numa_node(const char *who, int node, cpu_set_t *ret, struct err *err)
{
	char path[96];
	cpu_set_t set;
	int r;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist", node);
	r = read_list(path, &set);
	if (r == -ENOENT) {
		_cleanup_free_ char *there = NULL;

		if (read_list("/sys/devices/system/node/online", &set) < 0)
			return err_set(err, -EOPNOTSUPP, "%s: this kernel knows of no NUMA nodes (CONFIG_NUMA)", who);
		there = cpus_list(&set);
		return err_set(err, -EOPNOTSUPP, "%s: NUMA node %d is not there: this machine has %s", who, node,
			there ? there : "others");
	}
	if (r < 0)
		return err_set(err, r, "%s: read %s: %s", who, path, strerror(-r));
	if (CPU_COUNT(&set) == 0)
		return err_set(err, -EOPNOTSUPP, "%s: NUMA node %d has memory and no processor", who, node);
	*ret = set;
	return 0;
}

int cpus_numa_nodes(int *ret, int max)
{
	cpu_set_t set;
	int n = 0;

	if (read_list("/sys/devices/system/node/has_memory", &set) < 0)
		return 0;
	for (int i = cpus_next(&set, 0); i >= 0 && n < max; i = cpus_next(&set, i + 1))
		ret[n++] = i;
	return n;
}
