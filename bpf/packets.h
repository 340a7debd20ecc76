/* SPDX-License-Identifier: GPL-2.0-only */
/* packets.h: what packets.bpf.c and its reader share: where packets go that belong to a service. */
#pragma once

#ifndef __bpf__
#include <linux/types.h>
#endif

#define PACKETS_PLACES_MAX 1024

struct packets_key {
	__u16 port;   /* the destination's, host order */
	__u8 family;  /* 4 or 6 */
	__u8 protocol;
	__u8 addr[16]; /* the destination's, network order; IPv4: the first four bytes */
};
