/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cut: the switch's end of each of the node's links goes down, and the node's end loses its carrier, as when a cable is pulled.
 *
 * Going down costs the port more than its carrier: the kernel drops the IPv6 addresses and all routes of the device. Ports of
 * a bridge have little of either, but a plain veth's other end may, so both are captured raw and what did not come
 * back by itself is put back. The undo is finished when the carrier is seen again on both ends.
 */
#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "inject/node_loss.h"
#include "inject/qdisc.h"

#define CARRIER_WAIT (5 * NSEC_PER_SEC)
/* The kernel makes a link-local address when the carrier is back, a little later */
#define ADDRESS_WAIT (2 * NSEC_PER_SEC)

/* ── the state of a device ─────────────────────────────────────────────────────────────────── */

struct link_state {
	unsigned int flags;
	int operstate, carrier; /* -1: not said */
	bool seen;
};

static int link_cb(struct nlmsghdr *hdr, void *arg)
{
	struct link_state *s = arg;
	struct nlattr *tb[IFLA_MAX + 1];

	if (!hdr || hdr->nlmsg_type != RTM_NEWLINK)
		return 0;
	if (nlmsg_parse(hdr, sizeof(struct ifinfomsg), tb, IFLA_MAX, NULL) < 0)
		return -EPROTO;
	s->seen = true;
	s->flags = ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_flags;
	if (tb[IFLA_OPERSTATE] && nla_len(tb[IFLA_OPERSTATE]) >= 1)
		s->operstate = nla_get_u8(tb[IFLA_OPERSTATE]);
	if (tb[IFLA_CARRIER] && nla_len(tb[IFLA_CARRIER]) >= 1)
		s->carrier = nla_get_u8(tb[IFLA_CARRIER]);
	return 0;
}

static int link_read(struct nlc *nl, int ifindex, struct link_state *ret, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC, .ifi_index = ifindex};
	struct nl_msg *m = nlmsg_alloc_simple(RTM_GETLINK, 0);
	struct link_state s = {.operstate = -1, .carrier = -1};
	int r;

	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_get(nl, m, link_cb, &s, err);
	if (r < 0)
		return r;
	if (!s.seen)
		return err_set(err, -ENODEV, "no device with index %d", ifindex);
	*ret = s;
	return 0;
}

static int link_set_up(struct nlc *nl, int ifindex, bool up, struct err *err)
{
	struct ifinfomsg ifi = {
		.ifi_family = AF_UNSPEC, .ifi_index = ifindex, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP};
	struct nl_msg *m = nlmsg_alloc_simple(RTM_NEWLINK, 0);

	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	return nlc_request(nl, m, err);
}

/* Until the device's operational state is @operstate again */
static int wait_operstate(const struct node *where, struct nlc *nl, int ifindex, const char *dev, int operstate,
	nsec_t deadline, struct err *err)
{
	_cleanup_nlc_ struct nlc *events = NULL;
	int r = nlc_open(where, NETLINK_ROUTE, &events, err);

	if (r == 0)
		r = nlc_join(events, RTNLGRP_LINK, err);
	while (r == 0) {
		struct link_state s;

		r = link_read(nl, ifindex, &s, err);
		if (r < 0 || s.operstate == operstate)
			return r;
		r = nlc_wait(events, deadline, NULL);
		if (r == -ETIMEDOUT)
			return err_set(err, r, "%s is up again, but its operational state did not come back (%d, was %d)", dev,
				s.operstate, operstate);
	}
	return r;
}

/* ── addresses and routes of the port, raw ─────────────────────────────────────────────────── */

struct raw {
	int ifindex;
	json_t *list;
};

static int raw_add(struct raw *l, const void *data, size_t len)
{
	_cleanup_free_ char *hex = hex_encode(data, len);

	return hex && json_array_append_new(l->list, json_string(hex)) == 0 ? 0 : -ENOMEM;
}

/* Copies the family header, then those attributes that configure; what only tells of the moment is left out. */
static int raw_message(struct raw *l, struct nlmsghdr *hdr, const void *header, size_t header_len,
	bool (*keep)(const struct nlattr *a))
{
	_cleanup_free_ char *buf = calloc(1, hdr->nlmsg_len + NLA_ALIGNTO);
	size_t len = NLMSG_ALIGN(header_len);
	struct nlattr *a;
	int rem;

	if (!buf)
		return -ENOMEM;
	memcpy(buf, header, header_len);
	nlmsg_for_each_attr(a, hdr, (int)header_len, rem) {
		if (!keep(a))
			continue;
		memcpy(buf + len, a, a->nla_len);
		len += NLA_ALIGN(a->nla_len);
	}
	return raw_add(l, buf, len);
}

static bool addr_keep(const struct nlattr *a)
{
	return nla_type(a) != IFA_CACHEINFO && nla_type(a) != IFA_FLAGS;
}

static int addr_cb(struct nlmsghdr *hdr, void *arg)
{
	struct raw *l = arg;
	struct ifaddrmsg ifa;

	if (!hdr) {
		json_array_clear(l->list);
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWADDR || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(ifa)))
		return 0;
	memcpy(&ifa, NLMSG_DATA(hdr), sizeof(ifa));
	/* those with a lifetime are somebody's to renew */
	if ((int)ifa.ifa_index != l->ifindex || !(ifa.ifa_flags & IFA_F_PERMANENT))
		return 0;
	ifa.ifa_flags &= IFA_F_NODAD;
	return raw_message(l, hdr, &ifa, sizeof(ifa), addr_keep);
}

static bool route_keep(const struct nlattr *a)
{
	return nla_type(a) != RTA_CACHEINFO;
}

static int route_cb(struct nlmsghdr *hdr, void *arg)
{
	struct raw *l = arg;
	struct nlattr *oif;
	struct rtmsg rt;

	if (!hdr) {
		json_array_clear(l->list);
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWROUTE || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(rt)))
		return 0;
	memcpy(&rt, NLMSG_DATA(hdr), sizeof(rt));
	oif = nlmsg_find_attr(hdr, sizeof(rt), RTA_OIF);
	/* the kernel's own come and go with the addresses, a router's with its advertisements */
	if (!oif || nla_len(oif) < 4 || (int)nla_get_u32(oif) != l->ifindex || rt.rtm_protocol == RTPROT_KERNEL ||
		rt.rtm_protocol == RTPROT_RA || rt.rtm_protocol == RTPROT_REDIRECT || (rt.rtm_flags & RTM_F_CLONED))
		return 0;
	rt.rtm_flags &= RTNH_F_ONLINK;
	return raw_message(l, hdr, &rt, sizeof(rt), route_keep);
}

static int raw_dump(struct nlc *nl, int ifindex, int type, json_t **ret, struct err *err)
{
	struct raw l = {.ifindex = ifindex, .list = json_array()};
	struct nl_msg *m = nlmsg_alloc_simple(type, 0);
	struct rtmsg rt = {.rtm_family = AF_UNSPEC};
	struct ifaddrmsg ifa = {.ifa_family = AF_UNSPEC};
	bool addr = type == RTM_GETADDR;
	int r;

	if (!l.list || !m ||
		nlmsg_append(m, addr ? (void *)&ifa : (void *)&rt, addr ? sizeof(ifa) : sizeof(rt), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		json_decref(l.list);
		return -ENOMEM;
	}
	r = nlc_dump(nl, m, addr ? addr_cb : route_cb, &l, err);
	if (r < 0) {
		json_decref(l.list);
		return r;
	}
	*ret = l.list;
	return 0;
}

static bool listed(const json_t *list, const json_t *item)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j) {
		if (json_equal(j, item))
			return true;
	}
	return false;
}

/* @want without what is in @have, in order */
static json_t *missing(const json_t *want, const json_t *have)
{
	json_t *ret = json_array();
	const json_t *j;
	size_t i;

	json_array_foreach(want, i, j) {
		if (!listed(have, j))
			json_array_append(ret, (json_t *)j);
	}
	return ret;
}

static bool link_local(const json_t *addr)
{
	_cleanup_free_ void *data = NULL;
	size_t len;

	return hex_decode(json_string_value(addr), &data, &len) == 0 && len >= sizeof(struct ifaddrmsg) &&
	       ((struct ifaddrmsg *)data)->ifa_family == AF_INET6 &&
	       ((struct ifaddrmsg *)data)->ifa_scope == RT_SCOPE_LINK;
}

static int raw_replay(struct nlc *nl, int type, const json_t *item, struct err *err)
{
	_cleanup_free_ void *data = NULL;
	struct nl_msg *m;
	size_t len;
	int r = hex_decode(json_string_value(item), &data, &len);

	if (r < 0)
		return err_set(err, r, "the record of an address or a route is damaged");
	m = nlmsg_alloc_simple(type, NLM_F_CREATE | NLM_F_EXCL);
	if (!m || nlmsg_append(m, data, len, NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	r = nlc_request(nl, m, err);
	return r == -EEXIST ? 0 : r;
}

/* Addresses first, because routes lean on them. Link-local ones are the kernel's to make again, and waited for. */
static int restore_addressing(const struct port *p, const json_t *addrs, const json_t *routes, struct err *err)
{
	_cleanup_nlc_ struct nlc *events = NULL;
	nsec_t deadline = now_ns() + ADDRESS_WAIT;
	_cleanup_json_ json_t *lost_routes = NULL, *routes_now = NULL;
	const json_t *j;
	size_t i;
	int r = nlc_open(p->where, NETLINK_ROUTE, &events, err);

	if (r == 0)
		r = nlc_join(events, RTNLGRP_IPV6_IFADDR, err);
	for (bool late = false; r == 0;) {
		_cleanup_json_ json_t *now = NULL, *lost = NULL;
		bool waiting = false;

		r = raw_dump(p->nl, p->ifindex, RTM_GETADDR, &now, err);
		if (r < 0)
			return r;
		lost = missing(addrs, now);
		json_array_foreach(lost, i, j) {
			if (link_local(j) && !late)
				waiting = true;
			else if ((r = raw_replay(p->nl, RTM_NEWADDR, j, err)) < 0)
				return err_prefix(err, "put back an address of %s", p->dev), r;
		}
		if (!waiting)
			break;
		if (nlc_wait(events, deadline, NULL) < 0)
			late = true;
	}
	if (r == 0)
		r = raw_dump(p->nl, p->ifindex, RTM_GETROUTE, &routes_now, err);
	if (r < 0)
		return r;
	lost_routes = missing(routes, routes_now);
	json_array_foreach(lost_routes, i, j) {
		r = raw_replay(p->nl, RTM_NEWROUTE, j, err);
		if (r < 0)
			return err_prefix(err, "put back a route through %s", p->dev), r;
	}
	return 0;
}

/* ── the change ────────────────────────────────────────────────────────────────────────────── */

static int capture(const struct node *n, const json_t *args _unused_, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *ports = NULL;
	_cleanup_nlc_ struct nlc *inside = NULL;
	json_t *j;
	size_t i;
	int r = ports_find(n, false, &ports, err);

	if (r == 0)
		r = nlc_open(n, NETLINK_ROUTE, &inside, err);
	if (r < 0)
		return r;
	json_array_foreach(ports, i, j) {
		_cleanup_port_ struct port p = {0};
		struct link_state port, link;
		json_t *addrs = NULL, *routes = NULL;
		int index;

		r = port_open(j, &p, err);
		if (r == 0)
			r = link_read(p.nl, p.ifindex, &port, err);
		if (r < 0)
			return r;
		if (!(port.flags & IFF_UP))
			return err_set(err, -ENETDOWN, "%s/%s: its port %s is down already: there is nothing to cut", n->name, p.link,
				p.dev);
		index = nlc_ifindex(inside, p.link, err);
		if (index < 0)
			return err_prefix(err, "%s", n->name), index;
		r = link_read(inside, index, &link, err);
		if (r == 0)
			r = raw_dump(p.nl, p.ifindex, RTM_GETADDR, &addrs, err);
		if (r == 0)
			r = raw_dump(p.nl, p.ifindex, RTM_GETROUTE, &routes, err);
		if (r < 0) {
			json_decref(addrs);
			return r;
		}
		json_object_set_new(j, "operstate", json_integer(port.operstate));
		json_object_set_new(j, "link_operstate", json_integer(link.operstate));
		json_object_set_new(j, "link_ifindex", json_integer(index));
		json_object_set_new(j, "addrs", addrs);
		json_object_set_new(j, "routes", routes);
	}
	*ret_prior = json_pack("{s:O}", "ports", ports);
	return *ret_prior ? 0 : -ENOMEM;
}

static int apply(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	const json_t *j;
	size_t i;

	json_array_foreach(json_object_get(prior, "ports"), i, j) {
		_cleanup_port_ struct port p = {0};
		int r = port_open(j, &p, err);

		if (r == 0)
			r = link_set_up(p.nl, p.ifindex, false, err);
		if (r < 0)
			return err_prefix(err, "%s: take down %s", n->name,
				json_string_value(json_object_get(j, "dev"))), r;
	}
	return 0;
}

static int port_up(const json_t *record, struct err *err)
{
	_cleanup_port_ struct port p = {0};
	struct link_state s;
	int r = port_open(record, &p, err);

	if (r == -ESTALE)
		return 0;
	if (r == 0)
		r = link_read(p.nl, p.ifindex, &s, err);
	if (r == 0 && !(s.flags & IFF_UP))
		r = link_set_up(p.nl, p.ifindex, true, err);
	return r;
}

static int port_settle(const struct node *n, const json_t *record, nsec_t deadline, struct err *err)
{
	int operstate = (int)json_integer_value(json_object_get(record, "operstate"));
	int link_operstate = (int)json_integer_value(json_object_get(record, "link_operstate")), r;
	_cleanup_nlc_ struct nlc *inside = NULL;
	_cleanup_port_ struct port p = {0};

	r = port_open(record, &p, err);
	if (r == -ESTALE)
		return 0;
	if (r == 0)
		r = wait_operstate(p.where, p.nl, p.ifindex, p.dev, operstate, deadline, err);
	if (r == 0)
		r = restore_addressing(&p, json_object_get(record, "addrs"), json_object_get(record, "routes"), err);
	if (r == 0)
		r = nlc_open(n, NETLINK_ROUTE, &inside, err);
	if (r == 0) {
		r = nlc_ifindex(inside, p.link, err);
		/* the node's end is gone, or another has its name: nobody is left to see a carrier */
		if (r == -ENODEV || (r > 0 && json_integer_value(json_object_get(record, "link_ifindex")) &&
					    r != json_integer_value(json_object_get(record, "link_ifindex"))))
			return 0;
	}
	if (r >= 0)
		r = wait_operstate(n, inside, r, p.link, link_operstate, deadline, err);
	return r;
}

static int undo(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	nsec_t deadline = now_ns() + CARRIER_WAIT;
	int result = 0;
	const json_t *j;
	size_t i;

	if (!json_is_array(json_object_get(prior, "ports")))
		return err_set(err, -EINVAL, "the record of the loss is damaged");
	/* all up first, then wait for all: the carriers come back side by side */
	for (int pass = 0; pass < 2; pass++) {
		json_array_foreach(json_object_get(prior, "ports"), i, j) {
			struct err why = {0};
			int r = pass == 0 ? port_up(j, &why) : port_settle(n, j, deadline, &why);

			if (r < 0 && result == 0)
				result = err_set(err, r, "%s/%s: %s", n->name,
					json_string_value(json_object_get(j, "link")), why.text);
		}
	}
	return result;
}

static int verify(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	const json_t *j;
	size_t i;

	json_array_foreach(json_object_get(prior, "ports"), i, j) {
		_cleanup_json_ json_t *addrs = NULL, *routes = NULL, *lost_addrs = NULL, *lost_routes = NULL;
		_cleanup_port_ struct port p = {0};
		struct link_state s;
		int r = port_open(j, &p, err);

		if (r == -ESTALE)
			continue;
		if (r == 0)
			r = link_read(p.nl, p.ifindex, &s, err);
		if (r == 0)
			r = raw_dump(p.nl, p.ifindex, RTM_GETADDR, &addrs, err);
		if (r == 0)
			r = raw_dump(p.nl, p.ifindex, RTM_GETROUTE, &routes, err);
		if (r < 0)
			return r;
		if (!(s.flags & IFF_UP) || s.operstate != json_integer_value(json_object_get(j, "operstate"))) {
			err_set(err, -EUCLEAN, "%s/%s: its port %s is %s", n->name, p.link, p.dev,
				s.flags & IFF_UP ? "up, but its operational state differs" : "down");
			return 1;
		}
		lost_addrs = missing(json_object_get(j, "addrs"), addrs);
		lost_routes = missing(json_object_get(j, "routes"), routes);
		if (json_array_size(lost_addrs) || json_array_size(lost_routes)) {
			err_set(err, -EUCLEAN, "%s/%s: %zu addresses and %zu routes of its port %s did not come back", n->name,
				p.link, json_array_size(lost_addrs), json_array_size(lost_routes), p.dev);
			return 1;
		}
	}
	return 0;
}

static int measure(const struct node *n, const json_t *args _unused_, const json_t *prior, json_t **ret_evidence,
	struct err *err)
{
	_cleanup_json_ json_t *carriers = json_object();
	_cleanup_strbuf_ struct strbuf text = {0};
	_cleanup_nlc_ struct nlc *nl = NULL;
	bool proved = true;
	const json_t *j;
	json_t *e;
	size_t i;
	int r = nlc_open(n, NETLINK_ROUTE, &nl, err);

	if (r < 0)
		return r;
	json_array_foreach(json_object_get(prior, "ports"), i, j) {
		const char *link = json_string_value(json_object_get(j, "link"));
		struct link_state s;

		r = link ? nlc_ifindex(nl, link, err) : err_set(err, -EINVAL, "the record of the loss is damaged");
		if (r >= 0)
			r = link_read(nl, r, &s, err);
		if (r < 0)
			return err_prefix(err, "%s", n->name), r;
		if (s.carrier != 0)
			proved = false;
		json_object_set_new(carriers, link, s.carrier < 0 ? json_null() : json_boolean(s.carrier));
		strbuf_addf(&text, "%s%s %s", text.len ? ", " : "", link,
			s.carrier == 0 ? "has no carrier" : "still has its carrier: it did not bite");
	}
	e = json_pack("{s:{s:s}, s:{s:O}, s:b, s:s}", "asked", "how", "cut", "measured", "carrier", carriers, "proved",
		proved, "text", strbuf_cstr(&text));
	if (!e)
		return -ENOMEM;
	*ret_evidence = e;
	return 0;
}

/* ── in ip's words ─────────────────────────────────────────────────────────────────────────── */

/* As `ip -o link` says it; NULL: it does not say that one so that it could be waited for */
static const char *operstate_word(json_int_t operstate)
{
	static const char *const words[] = {"UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"};

	return operstate >= 0 && operstate < (json_int_t)ARRAY_SIZE(words) ? words[operstate] : NULL;
}

/* Until the device is as it was again; the carrier takes a moment. */
static void add_wait(struct strbuf *b, const char *netns, const char *dev, const char *what, const char *pattern)
{
	const struct node where = {.netns = (char *)netns};

	change_command_prefix(&where, b);
	strbuf_addf(b, "timeout 5 sh -c 'until %s dev \"$1\" | grep -q -e \"$2\"; do sleep 0.05; done' sh ", what);
	strbuf_add_shell(b, dev);
	strbuf_puts(b, " ");
	strbuf_add_shell(b, pattern);
	strbuf_puts(b, "\n");
}

/* An address that goes with the link: "2001:db8::1/64"; -EINVAL: it stays, or the kernel makes it again */
static int lost_address(const json_t *raw, char ret[INET6_ADDRSTRLEN + 8])
{
	_cleanup_free_ void *data = NULL;
	const struct nlattr *a;
	struct ifaddrmsg ifa;
	char addr[INET6_ADDRSTRLEN];
	size_t len;

	if (hex_decode(json_string_value(raw), &data, &len) < 0 || len < NLMSG_ALIGN(sizeof(ifa)))
		return -EINVAL;
	memcpy(&ifa, data, sizeof(ifa));
	a = nla_find((struct nlattr *)((char *)data + NLMSG_ALIGN(sizeof(ifa))), (int)(len - NLMSG_ALIGN(sizeof(ifa))),
		IFA_ADDRESS);
	if (ifa.ifa_family != AF_INET6 || link_local(raw) || !a || nla_len(a) != 16)
		return -EINVAL;
	inet_ntop(AF_INET6, nla_data(a), addr, sizeof(addr));
	snprintf(ret, INET6_ADDRSTRLEN + 8, "%s/%u", addr, ifa.ifa_prefixlen);
	return 0;
}

/* What going down has cost the port beside its carrier. Its routes are kept raw: words for every kind of them there are not. */
static void add_addressing(struct strbuf *b, const struct node *n, const struct node_link *l, const json_t *port)
{
	size_t routes = json_array_size(json_object_get(port, "routes")), i;
	bool local = false;
	const json_t *j;

	json_array_foreach(json_object_get(port, "addrs"), i, j) {
		char addr[INET6_ADDRSTRLEN + 8];

		local = local || link_local(j);
		if (lost_address(j, addr) < 0)
			continue;
		port_command_prefix(n, l, b);
		strbuf_addf(b, "ip -6 addr replace %s dev ", addr);
		strbuf_add_shell(b, l->peer_dev);
		strbuf_puts(b, " nodad\n");
	}
	if (local)
		add_wait(b, l->peer_netns, l->peer_dev, "ip -o -6 addr show scope link", "inet6");
	if (routes)
		strbuf_addf(b, "# left: %zu routes through %s, the port of %s/%s, which went with its carrier\n", routes,
			l->peer_dev, n->name, l->dev);
}

static int command(const struct node *n, const json_t *args _unused_, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const json_t *ports = json_object_get(prior, "ports");

	for (size_t i = 0; i < n->n_links; i++) {
		const struct node_link *l = &n->links[i];

		for (int up = 0; up < 2; up++) {
			struct strbuf *b = up ? ret_undo : ret_apply;

			port_command_prefix(n, l, b);
			strbuf_puts(b, "ip link set ");
			strbuf_add_shell(b, l->peer_dev);
			strbuf_puts(b, up ? " up\n" : " down\n");
		}
	}
	/* all up first, then wait for all: the carriers come back side by side */
	for (size_t i = 0; i < MIN(n->n_links, json_array_size(ports)); i++) {
		const struct node_link *l = &n->links[i];
		const json_t *port = json_array_get(ports, i);
		const char *own = operstate_word(json_integer_value(json_object_get(port, "link_operstate"))),
			   *other = operstate_word(json_integer_value(json_object_get(port, "operstate")));
		char pattern[32];

		if (other) {
			snprintf(pattern, sizeof(pattern), " state %s ", other);
			add_wait(ret_undo, l->peer_netns, l->peer_dev, "ip -o link show", pattern);
		}
		if (own) {
			snprintf(pattern, sizeof(pattern), " state %s ", own);
			add_wait(ret_undo, n->netns, l->dev, "ip -o link show", pattern);
		}
		add_addressing(ret_undo, n, l, port);
	}
	return ret_apply->oom || ret_undo->oom ? -ENOMEM : 0;
}

const struct loss_ops loss_cut = {
	.how = "cut",
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.measure = measure,
	.command = command,
};
