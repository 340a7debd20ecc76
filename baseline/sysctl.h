/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * sysctl.h: kernel parameters by their dotted names: what a name may look like, and where its file is.
 *
 * Parameters under net belong to a network namespace, and a namespace node may change those it sees
 * there. All others (vm, kernel, fs, and a few of net that only the host's namespace shows) belong to the
 * whole machine, which a namespace node shares with everybody else: there they are refused.
 */
#pragma once

#include "engine/node.h"

#define SYSCTL_PATH_MAX 256

/*
 * "net.ipv4.conf.eth0/100.rp_filter" or "net/ipv4/conf/eth0.100/rp_filter" becomes
 * "/proc/sys/net/ipv4/conf/eth0.100/rp_filter". Whichever of . and / comes first separates; the other
 * stands for itself (a dot within a device's name). -EINVAL with a text: empty parts, "..", an absolute
 * path, anything but letters, digits and _ - : @
 */
int sysctl_path(const char *key, char ret_path[SYSCTL_PATH_MAX], struct err *err);

/* Is the parameter one of the machine, not of a network namespace? */
bool sysctl_is_global(const char *key);

/*
 * Why a change of it could not be put back exactly (it cannot be unset, it acts instead of being set, it
 * changes others); NULL when there is nothing against it.
 */
const char *sysctl_refused(const char *key);

/* A parameter whose value the kernel clears when @key is set, and the other way round; NULL. */
const char *sysctl_partner(const char *key);

/*
 * Same value? White space between words does not count, nor does the base of a number: the kernel reads
 * "0x10" and says "16".
 */
bool sysctl_same(const char *a, const char *b);
