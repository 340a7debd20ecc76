/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/addrs.h"

#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <string.h>

#define LO_INDEX 1 /* in each network namespace */

int addr_parse(const char *text, struct addr *ret)
{
	struct addr a = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};

	if (inet_pton(a.family, text, a.bytes) != 1)
		return -EINVAL;
	*ret = a;
	return 0;
}

struct look {
	const struct addr *list;
	size_t n;
	uint32_t held;
};

static int on_addr(struct nlmsghdr *hdr, void *arg)
{
	struct look *l = arg;
	const struct ifaddrmsg *a;
	const struct nlattr *local;
	int len;

	if (!hdr) {
		l->held = 0;
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWADDR || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(*a)))
		return 0;
	a = NLMSG_DATA(hdr);
	if (a->ifa_index == LO_INDEX || a->ifa_flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED))
		return 0;
	/* on a point-to-point link IFA_ADDRESS is the far end; without IFA_LOCAL, as for IPv6, it is ours */
	local = nlmsg_find_attr(hdr, sizeof(*a), IFA_LOCAL);
	if (!local)
		local = nlmsg_find_attr(hdr, sizeof(*a), IFA_ADDRESS);
	len = a->ifa_family == AF_INET ? 4 : 16;
	if (!local || nla_len(local) < len)
		return 0;
	for (size_t i = 0; i < l->n; i++)
		if (l->list[i].family == a->ifa_family && memcmp(l->list[i].bytes, nla_data(local), (size_t)len) == 0)
			l->held |= 1u << i;
	return 0;
}

int addrs_held(struct nlc *nl, const struct addr *list, size_t n, uint32_t *ret_held, struct err *err)
{
	const struct ifaddrmsg any = {.ifa_family = AF_UNSPEC};
	struct nl_msg *m = nlmsg_alloc_simple(RTM_GETADDR, 0);
	struct look l = {.list = list, .n = MIN(n, (size_t)ADDRS_MAX)};
	int r;

	if (!m || nlmsg_append(m, (void *)&any, sizeof(any), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_dump(nl, m, on_addr, &l, err);
	if (r == 0)
		*ret_held = l.held;
	return r;
}
