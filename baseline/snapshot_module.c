/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel modules that are loaded: "module ~ip_vs". They are listed, and not compared by presence: the kernel loads one when
 * its feature is first asked for, by whomever, and keeps it, and taking it out again would be a change of its own. What a module
 * brings along shows in its subject (its parameters among sysctl's).
 */
#include <string.h>

#include "engine/snapshot.h"

static int take_host(struct strbuf *b, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r = file_read("/proc/modules", 4 << 20, &text, NULL);

	if (r == -ENOENT) /* a kernel without modules */
		return 0;
	if (r < 0)
		return err_set(err, r, "/proc/modules: %s", strerror(-r));
	for (const char *p = text; *p;) {
		size_t n = strcspn(p, "\n"), len = strcspn(p, " \n");

		strbuf_puts(b, "module ~");
		strbuf_add(b, p, len);
		strbuf_puts(b, "\n");
		p += n + (p[n] == '\n');
	}
	return 0;
}

const struct snapshot_ops snapshot_module = {
	.name = "module",
	.take_host = take_host,
};
