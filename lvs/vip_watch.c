/* SPDX-License-Identifier: GPL-2.0-only */
#include "lvs/vip_watch.h"

#include <linux/rtnetlink.h>
#include <stdio.h>

#include "engine/addrs.h"

struct vip_watch {
	struct nlc *events, *table; /* a socket each: what arrives at the first is dropped unread */
	char name[64];
	size_t n;
	struct addr vips[ADDRS_MAX];
};

void vip_watch_close(struct vip_watch *w)
{
	if (!w)
		return;
	nlc_close(w->events);
	nlc_close(w->table);
	free(w);
}

int vip_watch_open(const struct node *director, const char (*vips)[64], size_t n, struct vip_watch **ret, struct err *err)
{
	_cleanup_vip_watch_ struct vip_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(err, -ENOMEM, "out of memory");
	if (n > ARRAY_SIZE(w->vips))
		return err_set(err, -E2BIG, "%s: more than %zu addresses to watch", director->name, ARRAY_SIZE(w->vips));
	snprintf(w->name, sizeof(w->name), "%s", director->name);
	for (; w->n < n; w->n++)
		if (addr_parse(vips[w->n], &w->vips[w->n]) < 0)
			return err_set(err, -EINVAL, "\"%s\" is no address", vips[w->n]);
	r = nlc_open(director, NETLINK_ROUTE, &w->events, err);
	if (r == 0)
		r = nlc_join(w->events, RTNLGRP_IPV4_IFADDR, err);
	if (r == 0)
		r = nlc_join(w->events, RTNLGRP_IPV6_IFADDR, err);
	if (r == 0)
		r = nlc_open(director, NETLINK_ROUTE, &w->table, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(w);
	return 0;
}

int vip_watch_fd(const struct vip_watch *w)
{
	return nlc_fd(w->events);
}

int vip_watch_read(struct vip_watch *w, uint32_t *ret_held, struct err *err)
{
	int r;

	/* the notifications first: what comes while the table is read makes the descriptor readable again */
	(void)nlc_wait(w->events, 0, NULL);
	r = addrs_held(w->table, w->vips, w->n, ret_held, err);
	return r < 0 ? (err_prefix(err, "addresses of %s", w->name), r) : 0;
}
