/* SPDX-License-Identifier: GPL-2.0-only */
#include "baseline/irqs.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

int irqs_name(const char *text, unsigned int irq, char *ret, size_t size)
{
	char label[16];
	size_t len = (size_t)snprintf(label, sizeof(label), "%u:", irq);

	for (const char *line = text; *line;) {
		size_t n = strcspn(line, "\n"), from = strspn(line, " ");

		if (from < n && n - from > len && strncmp(line + from, label, len) == 0) {
			size_t end = n, begin;

			while (end > from + len && line[end - 1] == ' ')
				end--;
			for (begin = end; begin > from + len && line[begin - 1] != ' '; begin--)
				;
			/* a line that ends in the kind of the interrupt ("2-edge") has no owner */
			if (begin == end || end - begin >= size || begin <= from + len)
				return -ENOENT;
			memcpy(ret, line + begin, end - begin);
			ret[end - begin] = '\0';
			return strstr(ret, "-edge") || strstr(ret, "-level") || strstr(ret, "-fasteoi") ? -ENOENT : 0;
		}
		line += n + (line[n] == '\n');
	}
	return -ENOENT;
}

int irqs_queue(const char *name)
{
	static const char *const others[] = {
		"config", "event", "ctrl", "control", "async", "admin", "mgmnt", "mbox", "misc", "other", "lsc", "cmd", NULL};
	const char *end = name + strcspn(name, "@"), *p = end;
	long v;

	for (size_t i = 0; others[i]; i++)
		if (strcasestr(name, others[i]))
			return -1;
	while (p > name && isdigit((unsigned char)p[-1]))
		p--;
	/* one queue may go without a number: "virtio1-input" */
	if (p == end)
		return strcasestr(name, "rx") || strcasestr(name, "tx") || strcasestr(name, "input") || strcasestr(name, "output") ?
			       0 :
			       -1;
	/* "eth0" alone is a device with one interrupt for all: its number is the device's */
	if (!strpbrk(name, "-._@:") && !strcasestr(name, "comp"))
		return 0;
	if (end - p > 5)
		return -1;
	v = strtol(p, NULL, 10);
	return (int)v;
}
