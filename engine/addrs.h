/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * addrs.h: which of some addresses the links of a node have. Those on lo do not count: a standby director, and a real server in
 * direct routing, have the virtual address there without answering for it.
 */
#pragma once

#include "engine/nl.h"

#define ADDRS_MAX 32

struct addr {
	int family;	   /* AF_INET, AF_INET6 */
	uint8_t bytes[16]; /* IPv4: the first four */
};

/* Without a prefix. -EINVAL */
int addr_parse(const char *text, struct addr *ret);

/*
 * Bit i: the namespace of @nl (NETLINK_ROUTE) has list[i] on a link. One that is still being checked for duplicates, or was found
 * to be one, serves nobody and does not count. @n: at most ADDRS_MAX
 */
int addrs_held(struct nlc *nl, const struct addr *list, size_t n, uint32_t *ret_held, struct err *err);
