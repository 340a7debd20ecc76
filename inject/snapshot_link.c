/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Links, addresses, routes and permanent neighbours in a snapshot:
 *
 *	link eth0 dev veth mtu 1500 lladdr 02:... flags up,broadcast,multicast operstate 6 master - txqlen 1000 ...
 *	link eth0 addr 198.18.0.2/24 scope 0 flags 80
 *	link eth0 route 0.0.0.0/0 via 198.18.0.1 table 254 protocol 3 ...
 *	link eth0 neigh 198.18.0.9 lladdr 02:...
 *	link eth0 nexthop id 7 ...
 *
 * Left out because time alone changes it: counters, lifetimes, whether an address is still tentative, cached routes, what the
 * kernel derives from addresses (its local, broadcast and multicast routes), and what came by advertisement.
 */
#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>

#include "engine/nl.h"
#include "engine/snapshot.h"

/* IF_OPER_...: linux/if.h, which cannot be had together with net/if.h */
#define OPER_UNKNOWN 0
#define OPER_UP	     6

struct take {
	struct strbuf *b;
	size_t start; /* length of @b before this dump */
	/* names, from the first dump */
	size_t n, size;
	struct device {
		int ifindex;
		char name[16];
	} *dev;
};

static const char *dev_name(const struct take *t, int ifindex, char buf[32])
{
	for (size_t i = 0; i < t->n; i++)
		if (t->dev[i].ifindex == ifindex)
			return t->dev[i].name;
	snprintf(buf, 32, ifindex ? "if%d" : "-", ifindex);
	return buf;
}

/* Starts a dump over: what it has written so far is taken back. */
static int restart(struct take *t)
{
	if (t->b->s)
		t->b->s[t->b->len = t->start] = '\0';
	return 0;
}

static void add_bytes(struct strbuf *b, const char *word, const struct nlattr *a)
{
	const uint8_t *p = a ? nla_data(a) : NULL;

	if (!a)
		return;
	strbuf_addf(b, " %s ", word);
	for (int i = 0; i < nla_len(a); i++)
		strbuf_addf(b, i ? ":%02x" : "%02x", p[i]);
}

static void add_u32(struct strbuf *b, const char *word, const struct nlattr *a)
{
	if (a && nla_len(a) >= 4)
		strbuf_addf(b, " %s %u", word, nla_get_u32(a));
}

static const char *addr_text(int family, const struct nlattr *a, char buf[INET6_ADDRSTRLEN])
{
	if (a && nla_len(a) == (family == AF_INET ? 4 : 16))
		return inet_ntop(family, nla_data(a), buf, INET6_ADDRSTRLEN);
	return family == AF_INET ? "0.0.0.0" : "::";
}

static int names_cb(struct nlmsghdr *hdr, void *arg)
{
	struct take *t = arg;
	struct nlattr *name;

	if (!hdr) {
		t->n = 0;
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWLINK)
		return 0;
	name = nlmsg_find_attr(hdr, sizeof(struct ifinfomsg), IFLA_IFNAME);
	if (!name)
		return 0;
	if (t->n == t->size) {
		struct device *more = realloc(t->dev, (t->size = t->size ? t->size * 2 : 8) * sizeof(*more));

		if (!more)
			return -ENOMEM;
		t->dev = more;
	}
	t->dev[t->n].ifindex = ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_index;
	nla_strlcpy(t->dev[t->n].name, name, sizeof(t->dev[t->n].name));
	t->n++;
	return 0;
}

static void add_flags(struct strbuf *b, unsigned int flags)
{
	static const struct {
		unsigned int bit;
		const char *name;
	} names[] = {{IFF_UP, "up"}, {IFF_BROADCAST, "broadcast"}, {IFF_LOOPBACK, "loopback"},
		{IFF_POINTOPOINT, "pointopoint"}, {IFF_NOARP, "noarp"}, {IFF_PROMISC, "promisc"},
		{IFF_ALLMULTI, "allmulti"}, {IFF_MULTICAST, "multicast"}};

	strbuf_puts(b, " flags ");
	for (size_t i = 0, n = 0; i < ARRAY_SIZE(names); i++)
		if (flags & names[i].bit)
			strbuf_addf(b, "%s%s", n++ ? "," : "", names[i].name);
}

static int link_cb(struct nlmsghdr *hdr, void *arg)
{
	struct nlattr *tb[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1] = {0}, *xdp[IFLA_XDP_MAX + 1] = {0};
	struct take *t = arg;
	struct ifinfomsg *ifi;
	char buf[32];

	if (!hdr)
		return restart(t);
	if (hdr->nlmsg_type != RTM_NEWLINK)
		return 0;
	if (nlmsg_parse(hdr, sizeof(*ifi), tb, IFLA_MAX, NULL) < 0)
		return -EPROTO;
	ifi = NLMSG_DATA(hdr);
	if (tb[IFLA_LINKINFO])
		(void)nla_parse_nested(info, IFLA_INFO_MAX, tb[IFLA_LINKINFO], NULL);
	if (tb[IFLA_XDP])
		(void)nla_parse_nested(xdp, IFLA_XDP_MAX, tb[IFLA_XDP], NULL);
	strbuf_addf(t->b, "link %s dev %s", dev_name(t, ifi->ifi_index, buf),
		info[IFLA_INFO_KIND] ? nla_get_string(info[IFLA_INFO_KIND]) : "-");
	add_u32(t->b, "mtu", tb[IFLA_MTU]);
	add_bytes(t->b, "lladdr", tb[IFLA_ADDRESS]);
	add_flags(t->b, ifi->ifi_flags);
	if (tb[IFLA_OPERSTATE] && nla_len(tb[IFLA_OPERSTATE]) >= 1) {
		unsigned int state = nla_get_u8(tb[IFLA_OPERSTATE]);

		/* a new virtual device is "unknown" until the kernel gets round to saying "up"; running it is either way */
		if (state == OPER_UNKNOWN && info[IFLA_INFO_KIND] && (ifi->ifi_flags & IFF_RUNNING))
			state = OPER_UP;
		strbuf_addf(t->b, " operstate %u", state);
	}
	strbuf_addf(t->b, " master %s",
		dev_name(t, tb[IFLA_MASTER] && nla_len(tb[IFLA_MASTER]) >= 4 ? (int)nla_get_u32(tb[IFLA_MASTER]) : 0, buf));
	add_u32(t->b, "txqlen", tb[IFLA_TXQLEN]);
	add_u32(t->b, "txqueues", tb[IFLA_NUM_TX_QUEUES]);
	add_u32(t->b, "rxqueues", tb[IFLA_NUM_RX_QUEUES]);
	add_u32(t->b, "group", tb[IFLA_GROUP]);
	if (xdp[IFLA_XDP_ATTACHED] && nla_len(xdp[IFLA_XDP_ATTACHED]) >= 1 && nla_get_u8(xdp[IFLA_XDP_ATTACHED]))
		strbuf_addf(t->b, " xdp %u", nla_get_u8(xdp[IFLA_XDP_ATTACHED]));
	strbuf_puts(t->b, "\n");
	return 0;
}

static int addr_cb(struct nlmsghdr *hdr, void *arg)
{
	char a1[INET6_ADDRSTRLEN], a2[INET6_ADDRSTRLEN], buf[32];
	struct nlattr *tb[IFA_MAX + 1];
	struct take *t = arg;
	struct ifaddrmsg *ifa;
	uint32_t flags;

	if (!hdr)
		return restart(t);
	if (hdr->nlmsg_type != RTM_NEWADDR)
		return 0;
	if (nlmsg_parse(hdr, sizeof(*ifa), tb, IFA_MAX, NULL) < 0)
		return -EPROTO;
	ifa = NLMSG_DATA(hdr);
	flags = tb[IFA_FLAGS] && nla_len(tb[IFA_FLAGS]) >= 4 ? nla_get_u32(tb[IFA_FLAGS]) : ifa->ifa_flags;
	/* addresses for privacy take turns by themselves (for IPv4 the same bit says "secondary") */
	if (ifa->ifa_family == AF_INET6 && (flags & IFA_F_TEMPORARY))
		return 0;
	flags &= ~(uint32_t)(IFA_F_TENTATIVE | IFA_F_OPTIMISTIC | IFA_F_DEPRECATED);
	strbuf_addf(t->b, "link %s addr %s/%u", dev_name(t, (int)ifa->ifa_index, buf),
		addr_text(ifa->ifa_family, tb[IFA_LOCAL] ? tb[IFA_LOCAL] : tb[IFA_ADDRESS], a1), ifa->ifa_prefixlen);
	if (tb[IFA_LOCAL] && tb[IFA_ADDRESS] && nla_len(tb[IFA_LOCAL]) == nla_len(tb[IFA_ADDRESS]) &&
		memcmp(nla_data(tb[IFA_LOCAL]), nla_data(tb[IFA_ADDRESS]), (size_t)nla_len(tb[IFA_LOCAL])) != 0)
		strbuf_addf(t->b, " peer %s", addr_text(ifa->ifa_family, tb[IFA_ADDRESS], a2));
	if (tb[IFA_BROADCAST])
		strbuf_addf(t->b, " brd %s", addr_text(ifa->ifa_family, tb[IFA_BROADCAST], a2));
	strbuf_addf(t->b, " scope %u flags %x\n", ifa->ifa_scope, flags);
	return 0;
}

static void add_nexthop(const struct take *t, int family, int ifindex, const struct nlattr *gateway, const struct nlattr *via,
	unsigned int flags)
{
	char a[INET6_ADDRSTRLEN], buf[32];

	strbuf_addf(t->b, " dev %s", dev_name(t, ifindex, buf));
	if (gateway)
		strbuf_addf(t->b, " via %s", addr_text(family, gateway, a));
	add_bytes(t->b, "via-other", via); /* a gateway of the other family */
	if (flags & RTNH_F_ONLINK)
		strbuf_puts(t->b, " onlink");
	if (flags & RTNH_F_DEAD)
		strbuf_puts(t->b, " dead");
	if (flags & RTNH_F_LINKDOWN)
		strbuf_puts(t->b, " linkdown");
}

static void add_multipath(const struct take *t, int family, const struct nlattr *multipath)
{
	int left = nla_len(multipath);
	struct rtnexthop *nh;

	for (nh = nla_data(multipath); RTNH_OK(nh, left); left -= (int)NLMSG_ALIGN(nh->rtnh_len), nh = RTNH_NEXT(nh)) {
		struct nlattr *tb[RTA_MAX + 1] = {0};

		(void)nla_parse(tb, RTA_MAX, (struct nlattr *)RTNH_DATA(nh), (int)(nh->rtnh_len - RTNH_LENGTH(0)), NULL);
		strbuf_puts(t->b, " nexthop");
		add_nexthop(t, family, nh->rtnh_ifindex, tb[RTA_GATEWAY], tb[RTA_VIA], nh->rtnh_flags);
		strbuf_addf(t->b, " weight %u", nh->rtnh_hops + 1u);
	}
}

static int route_cb(struct nlmsghdr *hdr, void *arg)
{
	char a[INET6_ADDRSTRLEN], buf[32];
	struct nlattr *tb[RTA_MAX + 1];
	struct take *t = arg;
	struct rtmsg *rt;
	uint32_t table;
	int oif;

	if (!hdr)
		return restart(t);
	if (hdr->nlmsg_type != RTM_NEWROUTE)
		return 0;
	if (nlmsg_parse(hdr, sizeof(*rt), tb, RTA_MAX, NULL) < 0)
		return -EPROTO;
	rt = NLMSG_DATA(hdr);
	table = tb[RTA_TABLE] && nla_len(tb[RTA_TABLE]) >= 4 ? nla_get_u32(tb[RTA_TABLE]) : rt->rtm_table;
	if ((rt->rtm_family != AF_INET && rt->rtm_family != AF_INET6) || (rt->rtm_flags & RTM_F_CLONED) ||
		rt->rtm_protocol == RTPROT_RA || rt->rtm_protocol == RTPROT_REDIRECT ||
		(table == RT_TABLE_LOCAL && rt->rtm_protocol == RTPROT_KERNEL))
		return 0;
	oif = tb[RTA_OIF] && nla_len(tb[RTA_OIF]) >= 4 ? (int)nla_get_u32(tb[RTA_OIF]) : 0;
	strbuf_addf(t->b, "link %s route %s/%u", dev_name(t, oif, buf), addr_text(rt->rtm_family, tb[RTA_DST], a),
		rt->rtm_dst_len);
	if (rt->rtm_src_len)
		strbuf_addf(t->b, " from %s/%u", addr_text(rt->rtm_family, tb[RTA_SRC], a), rt->rtm_src_len);
	strbuf_addf(t->b, " table %u type %u protocol %u scope %u tos %u", table, rt->rtm_type, rt->rtm_protocol,
		rt->rtm_scope, rt->rtm_tos);
	if (tb[RTA_MULTIPATH])
		add_multipath(t, rt->rtm_family, tb[RTA_MULTIPATH]);
	else
		add_nexthop(t, rt->rtm_family, oif, tb[RTA_GATEWAY], tb[RTA_VIA], rt->rtm_flags);
	add_u32(t->b, "metric", tb[RTA_PRIORITY]);
	if (tb[RTA_PREFSRC])
		strbuf_addf(t->b, " src %s", addr_text(rt->rtm_family, tb[RTA_PREFSRC], a));
	add_bytes(t->b, "metrics", tb[RTA_METRICS]);
	add_u32(t->b, "nhid", tb[RTA_NH_ID]);
	add_bytes(t->b, "encap", tb[RTA_ENCAP]);
	strbuf_puts(t->b, "\n");
	return 0;
}

static int neigh_cb(struct nlmsghdr *hdr, void *arg)
{
	struct nlattr *tb[NDA_MAX + 1];
	char a[INET6_ADDRSTRLEN], buf[32];
	struct take *t = arg;
	struct ndmsg *nd;

	if (!hdr)
		return restart(t);
	if (hdr->nlmsg_type != RTM_NEWNEIGH)
		return 0;
	if (nlmsg_parse(hdr, sizeof(*nd), tb, NDA_MAX, NULL) < 0)
		return -EPROTO;
	nd = NLMSG_DATA(hdr);
	if (!(nd->ndm_state & NUD_PERMANENT) || (nd->ndm_family != AF_INET && nd->ndm_family != AF_INET6))
		return 0;
	strbuf_addf(t->b, "link %s neigh %s", dev_name(t, nd->ndm_ifindex, buf), addr_text(nd->ndm_family, tb[NDA_DST], a));
	add_bytes(t->b, "lladdr", tb[NDA_LLADDR]);
	strbuf_puts(t->b, "\n");
	return 0;
}

/* Next hops that routes refer to by number */
static int nexthop_cb(struct nlmsghdr *hdr, void *arg)
{
	static const int said[] = {NHA_ID, NHA_OIF, 0};
	struct nlattr *tb[NHA_OIF + 1];
	struct take *t = arg;
	struct nhmsg *nh;
	char buf[32];

	if (!hdr)
		return restart(t);
	if (hdr->nlmsg_type != RTM_NEWNEXTHOP)
		return 0;
	if (nlmsg_parse(hdr, sizeof(*nh), tb, NHA_OIF, NULL) < 0)
		return -EPROTO;
	nh = NLMSG_DATA(hdr);
	strbuf_addf(t->b, "link %s nexthop", dev_name(t, tb[NHA_OIF] && nla_len(tb[NHA_OIF]) >= 4 ? (int)nla_get_u32(tb[NHA_OIF]) : 0, buf));
	add_u32(t->b, "id", tb[NHA_ID]);
	strbuf_addf(t->b, " family %u scope %u protocol %u flags %x", nh->nh_family, nh->nh_scope, nh->nh_protocol, nh->nh_flags);
	snapshot_attrs(t->b, nlmsg_attrdata(hdr, sizeof(*nh)), (size_t)nlmsg_attrlen(hdr, sizeof(*nh)), said);
	strbuf_puts(t->b, "\n");
	return 0;
}

static int dump(struct nlc *nl, struct take *t, int type, const void *header, size_t len, nlc_cb cb, struct err *err)
{
	struct nl_msg *m = nlmsg_alloc_simple(type, 0);

	if (!m || nlmsg_append(m, (void *)header, len, NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	t->start = t->b->len;
	return nlc_dump(nl, m, cb, t, err);
}

static int take(const struct node *n, struct strbuf *b, struct err *err)
{
	const struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC};
	const struct ifaddrmsg ifa = {.ifa_family = AF_UNSPEC};
	const struct rtmsg rt = {.rtm_family = AF_UNSPEC};
	const struct ndmsg nd = {.ndm_family = AF_UNSPEC};
	const struct nhmsg nh = {.nh_family = AF_UNSPEC};
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct take t = {.b = b};
	int r = nlc_open(n, NETLINK_ROUTE, &nl, err);

	if (r == 0)
		r = dump(nl, &t, RTM_GETLINK, &ifi, sizeof(ifi), names_cb, err);
	if (r == 0)
		r = dump(nl, &t, RTM_GETLINK, &ifi, sizeof(ifi), link_cb, err);
	if (r == 0)
		r = dump(nl, &t, RTM_GETADDR, &ifa, sizeof(ifa), addr_cb, err);
	if (r == 0)
		r = dump(nl, &t, RTM_GETROUTE, &rt, sizeof(rt), route_cb, err);
	if (r == 0)
		r = dump(nl, &t, RTM_GETNEIGH, &nd, sizeof(nd), neigh_cb, err);
	if (r == 0) {
		r = dump(nl, &t, RTM_GETNEXTHOP, &nh, sizeof(nh), nexthop_cb, err);
		if (r == -EOPNOTSUPP) /* before Linux 5.3 */
			r = 0;
	}
	free(t.dev);
	return r;
}

const struct snapshot_ops snapshot_link = {.name = "link", .take = take};
