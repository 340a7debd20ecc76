/* SPDX-License-Identifier: GPL-2.0-only */
/* response.h: what response.bpf.c and its reader share: which local endpoint is whose. */
#pragma once

#ifndef __bpf__
#include <linux/types.h>
#endif

#define RESPONSE_PLACES_MAX 1024

struct response_key {
	__u32 netns; /* inode */
	__u16 port;  /* host order */
	__u16 pad;
	__u8 addr[16]; /* IPv4: mapped (::ffff:a.b.c.d) */
};
