/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The load balancer's configuration as text: what ipvsadm -Sn would say, and the time-outs and sync
 * daemons beside it. Counters and connection counts are left out: they are volatile.
 */
#include <arpa/inet.h>
#include <linux/ip_vs.h>
#include <string.h>

#include "engine/snapshot.h"
#include "lvs/ipvs.h"

/*
 * Is the module there? Asking for its netlink family could load it, and a snapshot changes nothing.
 * /proc/net would be the namespace of the process's first thread: thread-self is this one's.
 */
static bool has_ipvs(const struct node *n)
{
	_cleanup_free_ char *text = NULL;

	return node_read(n, "/proc/thread-self/net/ip_vs", &text) == 0;
}

static void add_service(struct strbuf *b, const struct ipvs_service *s)
{
	char st[IPVS_TEXT_MAX];

	strbuf_addf(b, "ipvs service %s%s scheduler %s",
		s->fwmark		     ? ""
		: s->protocol == IPPROTO_UDP ? "udp "
					     : "tcp ",
		ipvs_fmt_service(st, s), s->scheduler);
	if (s->flags)
		strbuf_addf(b, " flags 0x%x", s->flags);
	if (s->flags & IP_VS_SVC_F_PERSISTENT)
		strbuf_addf(b, " persistent %u netmask 0x%x", s->timeout, s->netmask);
	if (s->pe[0])
		strbuf_addf(b, " pe %s", s->pe);
	strbuf_puts(b, "\n");
}

static void add_dest(struct strbuf *b, const struct ipvs_service *s, const struct ipvs_dest *d)
{
	char st[IPVS_TEXT_MAX], dt[IPVS_TEXT_MAX];

	strbuf_addf(b, "ipvs server %s %s %s %s weight %u",
		s->fwmark ? "" : ipvs_protocol_name(s->protocol), ipvs_fmt_service(st, s),
		ipvs_fmt_dest(dt, d), ipvs_forward_name(d->forward), d->weight);
	if (d->upper_threshold || d->lower_threshold)
		strbuf_addf(b, " thresholds %u %u", d->upper_threshold, d->lower_threshold);
	if (d->tun_type || d->tun_port || d->tun_flags)
		strbuf_addf(
			b, " tunnel %u port %u flags 0x%x", d->tun_type, d->tun_port, d->tun_flags);
	strbuf_puts(b, "\n");
}

static void add_daemon(struct strbuf *b, const struct ipvs_daemon *d)
{
	char group[IPVS_TEXT_MAX] = "default";

	if (d->mcast_family)
		ipvs_fmt_addr(group, d->mcast_family, d->mcast_group);
	strbuf_addf(b, "ipvs daemon %s %s id %u group %s port %u ttl %u maxlen %u\n",
		d->state == IP_VS_STATE_MASTER ? "master" : "backup", d->ifname, d->sync_id, group,
		d->mcast_port, d->mcast_ttl, d->sync_maxlen);
}

static int ipvs_take(const struct node *n, struct strbuf *b, struct err *err)
{
	_cleanup_free_ struct ipvs_service *services = NULL;
	_cleanup_free_ struct ipvs_daemon *daemons = NULL;
	_cleanup_ipvs_ struct ipvs *ip = NULL;
	size_t n_services = 0, n_daemons = 0;
	struct ipvs_config c;
	int r;

	if (!has_ipvs(n))
		return 0;
	r = ipvs_open(n, &ip, err);
	if (r == 0)
		r = ipvs_get_config(ip, &c, err);
	if (r == 0)
		r = ipvs_services(ip, &services, &n_services, err);
	if (r == 0)
		r = ipvs_daemons(ip, &daemons, &n_daemons, err);
	if (r < 0)
		return r;
	strbuf_addf(b, "ipvs timeouts tcp %u tcpfin %u udp %u\n", c.tcp_timeout, c.tcp_fin_timeout,
		c.udp_timeout);
	for (size_t i = 0; i < n_daemons; i++)
		add_daemon(b, &daemons[i]);
	for (size_t i = 0; i < n_services; i++) {
		_cleanup_free_ struct ipvs_dest *dests = NULL;
		size_t n_dests = 0;

		r = ipvs_dests(ip, &services[i], &dests, &n_dests, err);
		if (r == -ESRCH)
			continue; /* removed since it was listed */
		if (r < 0)
			return r;
		add_service(b, &services[i]);
		for (size_t k = 0; k < n_dests; k++)
			add_dest(b, &services[i], &dests[k]);
	}
	return 0;
}

const struct snapshot_ops snapshot_ipvs = {
	.name = "ipvs",
	.take = ipvs_take,
};
