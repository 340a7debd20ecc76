/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/clock.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static nsec_t read_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (nsec_t)ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

nsec_t now_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

nsec_t wall_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}

int clock_poll(int fd, short events, nsec_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		nsec_t left = deadline - now_ns();
		int r = poll(&p, 1, left <= 0 ? 0 : (int)MIN(left / NSEC_PER_MSEC + 1, INT_MAX));

		if (r > 0)
			return 0;
		if (r == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

const char *clock_fmt_wall(char buf[CLOCK_WALL_MAX], nsec_t wall)
{
	time_t t = (time_t)(wall / NSEC_PER_SEC);
	struct tm tm;
	size_t n;

	gmtime_r(&t, &tm);
	n = strftime(buf, CLOCK_WALL_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf + n, CLOCK_WALL_MAX - n, ".%03dZ", (int)(wall / NSEC_PER_MSEC % 1000));
	return buf;
}

const char *clock_boot_id(void)
{
	static char id[40];

	if (!id[0]) {
		_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, id, sizeof(id) - 1);

		if (n <= 0)
			strcpy(id, "unknown");
		else
			id[strcspn(id, "\n")] = '\0';
	}
	return id;
}
