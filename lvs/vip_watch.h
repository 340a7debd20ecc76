/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vip_watch.h: which virtual addresses a director holds. VRRP moves a service by giving its addresses to another
 * director, so who holds them is who schedules.
 *
 *	r = vip_watch_open(director, vips, n, &w, err);
 *	... when vip_watch_fd(w) is readable: vip_watch_read(w, &held, err);      bit i: vips[i]
 *
 * An address counts on any device but lo: a standby director and the real servers may have it there, without answering for it. The
 * kernel's notification only says when to look; what is held is read from its table, so that a lost notification
 * costs time and never truth.
 */
#pragma once

#include "engine/site.h"

struct vip_watch;

/* @vips: at most 32 addresses without a prefix. -EINVAL: one is no address */
int vip_watch_open(const struct node *director, const char (*vips)[64], size_t n, struct vip_watch **ret, struct err *err);
void vip_watch_close(struct vip_watch *w);
static inline void vip_watch_closep(struct vip_watch **w)
{
	vip_watch_close(*w);
}
#define _cleanup_vip_watch_ _cleanup_(vip_watch_closep)

/* Readable when an address has come or gone; vip_watch_read() takes the notifications away. */
int vip_watch_fd(const struct vip_watch *w);
int vip_watch_read(struct vip_watch *w, uint32_t *ret_held, struct err *err);
