/* SPDX-License-Identifier: GPL-2.0-only */
/* own_netns.h: a network namespace of the test's own, with its loopback device up. */
#pragma once

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* 0 or -1, as a group's set-up is */
static int own_netns(void **state __attribute__((unused)))
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd, r;

	if (unshare(CLONE_NEWNET) < 0)
		return -1;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	r = ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
	return r;
}
