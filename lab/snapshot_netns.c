/* SPDX-License-Identifier: GPL-2.0-only */
/* Network namespaces that have a name, as `ip netns` gives them: "netns muster-lvs-dr-rs1". One that is left over is residue. */
#include <dirent.h>
#include <string.h>

#include "engine/snapshot.h"

static int take_host(struct strbuf *b, struct err *err)
{
	struct dirent *e;
	DIR *d = opendir("/run/netns");

	if (!d)
		return errno == ENOENT ? 0 : err_set(err, -errno, "/run/netns: %s", strerror(errno));
	while ((e = readdir(d)))
		if (e->d_name[0] != '.') {
			strbuf_puts(b, "netns ");
			snapshot_word(b, e->d_name);
			strbuf_puts(b, "\n");
		}
	closedir(d);
	return 0;
}

const struct snapshot_ops snapshot_netns = {
	.name = "netns",
	.take_host = take_host,
};
