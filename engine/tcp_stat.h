/* SPDX-License-Identifier: GPL-2.0-only */
/* tcp_stat.h: what the kernel says of a namespace's TCP: the sockets that listen (sock_diag), and its counters (/proc/net/netstat). */
#pragma once

#include "engine/nl.h"

struct listener {
	int family; /* AF_INET, AF_INET6 */
	uint16_t port;
	uint32_t inode;	 /* as in /proc/PID/fd: "socket:[INODE]" */
	uint32_t queued; /* connections in the accept queue */
	uint32_t limit;	 /* of that queue; it is full with one more than this */
};

/* @port 0: all. An array of *ret_n, to be freed; none is success. */
int listeners_read(const struct node *n, uint16_t port, struct listener **ret, size_t *ret_n, struct err *err);
/* The same on a socket that is open (NETLINK_SOCK_DIAG), for who asks often */
int listeners_read_on(struct nlc *nl, uint16_t port, struct listener **ret, size_t *ret_n, struct err *err);

/* A counter of TcpExt by its name ("ListenOverflows"). -ENOENT: this kernel does not count it */
int tcp_ext_counter(const struct node *n, const char *name, uint64_t *ret, struct err *err);
