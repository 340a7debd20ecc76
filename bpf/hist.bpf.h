/* SPDX-License-Identifier: GPL-2.0-only */
/* hist.bpf.h: which place of a histogram of the kernel's (struct conn_hist) a value belongs to. */
#pragma once

#include "bpf/conn.h"

/* 1 if @x is not 0. As a sum, not as a question: each question doubles what the verifier goes through, and may be guessed wrong. */
static __always_inline __u64 hist_any(__u64 x)
{
	barrier_var(x); /* or the compiler sees through it, and asks */
	return -x >> 63;
}

/*
 * As hist_index() of engine/hist.c: 256 exact ones, then 128 steps in each power of two. Values below 128 have the power of 128
 * here, which gives them the same place. At most CONN_HIST_BUCKETS - 1.
 */
static __always_inline __u32 hist_index(__u64 value)
{
	__u64 v = value | 128, above = 0, s;
	__u32 i;

#pragma unroll
	for (int k = 5; k > 0; k--) {
		s = hist_any(v >> (1 << k)) << k;
		v >>= s;
		above += s;
	}
	above += v >> 1;
	above -= 7;
	i = above * 128 + (value >> (above & 63));
	return i < CONN_HIST_BUCKETS ? i : CONN_HIST_BUCKETS - 1;
}
