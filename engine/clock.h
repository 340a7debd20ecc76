/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * clock.h: the one clock of a drill. CLOCK_MONOTONIC is what bpf_ktime_get_ns() reads, so times taken
 * in the kernel and here compare directly. Wall time is for reports only.
 */
#pragma once

#include "engine/base.h"

nsec_t now_ns(void);  /* CLOCK_MONOTONIC */
nsec_t wall_ns(void); /* CLOCK_REALTIME */

/* Waits until @fd has one of poll(2)'s @events, or an error that the next call on it tells. 0, -ETIMEDOUT at @deadline, -errno */
int clock_poll(int fd, short events, nsec_t deadline);

/* RFC 3339, UTC, milliseconds: 2026-01-31T12:00:00.123Z; returns @buf */
#define CLOCK_WALL_MAX 32
const char *clock_fmt_wall(char buf[CLOCK_WALL_MAX], nsec_t wall);

/* This boot's id as in /proc/sys/kernel/random/boot_id, without the newline; read once. */
const char *clock_boot_id(void);
