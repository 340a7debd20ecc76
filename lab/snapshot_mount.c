/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mounts, with their options: a disk that a fault has made read-only, a file system that it left mounted.
 *
 *	mount /run/muster/lab tmpfs on / rw,nosuid size=1024k
 *	mount ~/var/lib/docker/overlay2/x#812 overlay on / rw,relatime
 *
 * Container managers, automounters and removable disks mount and unmount by themselves: a mount is compared while it lasts
 * (snapshot.h), told apart by the kernel's number for it. Where a drill mounts things itself, below /run/muster, /run/netns and
 * /var/lib/muster or under a name with "muster" in it, its coming and going counts.
 */
#include <stdio.h>
#include <string.h>

#include "engine/snapshot.h"

static bool ours(const char *point)
{
	return strstr(point, "muster") || strncmp(point, "/run/netns", 10) == 0;
}

static int take_host(struct strbuf *b, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r = file_read("/proc/self/mountinfo", 16 << 20, &text, NULL);

	if (r < 0)
		return err_set(err, r, "/proc/self/mountinfo: %s", strerror(-r));
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *tail = strstr(line, " - "), root[1024], point[1024], options[512], type[64], source[1024], super[2048];
		unsigned int id;

		if (!tail || sscanf(line, "%u %*u %*s %1023s %1023s %511s", &id, root, point, options) != 4 ||
			sscanf(tail, " - %63s %1023s %2047s", type, source, super) != 3)
			continue;
		/* the kernel has escaped blanks and the like already */
		if (ours(point))
			strbuf_addf(b, "mount %s", point);
		else
			strbuf_addf(b, "mount ~%s#%u", point, id);
		/* a namespace's root names its inode, which is another each time */
		strbuf_addf(b, " %s on %s %s %s\n", type, streq(type, "nsfs") ? "-" : root, options, super);
	}
	return 0;
}

const struct snapshot_ops snapshot_mount = {
	.name = "mount",
	.take_host = take_host,
};
