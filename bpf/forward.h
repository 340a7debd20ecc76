/* SPDX-License-Identifier: GPL-2.0-only */
/* forward.h: what forward.bpf.c and its reader share: a real server behind a virtual address, as one director knows it. */
#pragma once

#ifndef __bpf__
#include <linux/types.h>
#endif

#define FORWARD_PLACES_MAX 4096

#define FORWARD_VIRTUAL_IS_V6 1
#define FORWARD_SERVER_IS_V6  2

struct forward_key {
	__u32 netns; /* inode of the director's */
	__u16 port;  /* the virtual one, host order */
	__u8 protocol;
	__u8 families;	  /* FORWARD_* */
	__u8 virtual[16]; /* network order; IPv4: the first four bytes */
	__u8 server[16];
};
