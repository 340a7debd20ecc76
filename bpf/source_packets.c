/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What comes to the devices of the site's nodes, before their network stacks see it: packets and bytes by service, in buckets of time
 * (packets.bpf.c). So what a node drops, and what comes to one that is frozen, is counted too.
 *
 * A program hangs at each device by a link that this process holds, and goes when it does, however that ends. A device has one place for
 * an XDP program: where another one stands, or a fault of the scenario is going to put one, nothing is attached, and the
 * packets of that device are not counted; an event says so, and why.
 *
 * A driver's own mode is used where there is one; a driver may take its link down for a moment for that. A veth has one too, but it would
 * change the other end (no segmentation offload any more, buffers of another sort): that is another network than
 * the one that is to be tried. So there, and where the driver has none, it is the generic mode, which costs each packet about a copy.
 * In that mode what has been put together on the way (GRO, GSO) is one packet, as it is for the device's own counter of a veth.
 *
 * It costs, so it runs when a check asks for it.
 */
#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/libbpf_log.h"
#include "bpf/meter.h"
#include "bpf/packets.h"
#include "gen/packets.skel.h"
#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"

#define UNCOUNTED "packets of %s/%s are not counted: %s"

struct device {
	const struct node *node;
	const char *dev;
	struct packets *skel;
	int link; /* -1: nothing is attached */
	bool generic;
	char why[160]; /* not */
};

struct source {
	const struct site *site;
	struct meters *meters;
	size_t n;
	struct device *v;
};

static void detach(struct device *d)
{
	if (d->link >= 0)
		close(d->link);
	d->link = -1;
}

static void source_free(struct source *s)
{
	if (!s)
		return;
	meters_free(s->meters);
	for (size_t i = 0; i < s->n; i++) {
		detach(&s->v[i]);
		packets__destroy(s->v[i].skel);
	}
	free(s->v);
	free(s);
}

static void source_freep(struct source **s)
{
	source_free(*s);
}

static int applies(const struct source_ctx *ctx, struct err *err _unused_)
{
	return ctx->asked;
}

/* ── what belongs to which service ─────────────────────────────────────────────────────────── */

/* -EEXIST: two services share it; the first has it */
static int place(const struct packets *skel, const char *addr, int protocol, uint16_t port, uint32_t index)
{
	bool v6 = strchr(addr, ':');
	struct packets_key key = {.port = port, .family = v6 ? 6 : 4, .protocol = (uint8_t)protocol};

	if (inet_pton(v6 ? AF_INET6 : AF_INET, addr, key.addr) != 1)
		return -EINVAL;
	return bpf_map_update_elem(bpf_map__fd(skel->maps.places), &key, &index, BPF_NOEXIST) < 0 && errno != EEXIST ? -errno : 0;
}

static int place_node(const struct packets *skel, const struct node *n, int protocol, uint16_t port, uint32_t index)
{
	char addr[64];
	int r = 0;

	for (size_t i = 0; r == 0 && i < n->n_links; i++)
		for (size_t k = 0; r == 0 && k < n->links[i].n_addrs; k++) {
			snprintf(addr, sizeof(addr), "%.*s", (int)strcspn(n->links[i].addrs[k], "/"), n->links[i].addrs[k]);
			r = place(skel, addr, protocol, port, index);
		}
	return r;
}

/* The virtual addresses; by NAT, which puts them there instead, the servers' own as well. What comes to those otherwise is checks. */
static int place_all(const struct packets *skel, const struct site *site)
{
	uint32_t index = 1;
	int r = 0;

	for (size_t i = 0; r == 0 && i < site->n_services; i++, index++) {
		const struct service *s = &site->services[i];

		for (size_t v = 0; r == 0 && v < s->n_vips; v++)
			r = place(skel, s->vips[v], s->protocol, s->port, index);
		for (size_t k = 0; r == 0 && streq(s->forward, "nat") && k < s->n_servers; k++)
			r = place_node(skel, s->servers[k].node, s->protocol, s->port, index);
	}
	for (size_t i = 0; r == 0 && i < site->n_databases; i++, index++)
		for (size_t k = 0; r == 0 && k < site->databases[i].n_nodes; k++)
			r = place_node(skel, site->databases[i].nodes[k], IPPROTO_TCP, site->databases[i].port, index);
	return r;
}

static const char *service_name(const struct site *site, size_t index)
{
	if (!index)
		return NULL;
	return index <= site->n_services ? site->services[index - 1].name : site->databases[index - 1 - site->n_services].name;
}

/* ── a device ──────────────────────────────────────────────────────────────────────────────── */

static bool is_veth(const struct device *d)
{
	_cleanup_close_ int fd = node_socket(d->node, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	struct ifreq ifr = {.ifr_data = (void *)&info};

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", d->dev);
	return fd >= 0 && ioctl(fd, SIOCETHTOOL, &ifr) == 0 && streq(info.driver, "veth");
}

/* In the node. A descriptor, or -errno */
static int attach_as(const struct device *d, unsigned int ifindex, uint32_t mode)
{
	LIBBPF_OPTS(bpf_link_create_opts, o, .flags = mode);
	int fd = bpf_link_create(bpf_program__fd(d->skel->progs.packets_in), (int)ifindex, BPF_XDP, &o);

	return fd < 0 ? -errno : fd;
}

static void attach(struct device *d)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	bool veth = is_veth(d);
	unsigned int ifindex;
	struct err err = {0};

	if (node_enter(d->node, &v, &err) < 0) {
		snprintf(d->why, sizeof(d->why), "%.150s", err.text);
		return;
	}
	ifindex = if_nametoindex(d->dev);
	d->link = ifindex ? veth ? -EOPNOTSUPP : attach_as(d, ifindex, XDP_FLAGS_DRV_MODE) : -ENODEV;
	/* no such mode, or not with this MTU or these queues */
	d->generic = d->link == -EOPNOTSUPP || d->link == -EINVAL || d->link == -ERANGE || d->link == -ENOSPC;
	if (d->generic)
		d->link = attach_as(d, ifindex, XDP_FLAGS_SKB_MODE);
	if (d->link == -EBUSY || d->link == -EEXIST)
		snprintf(d->why, sizeof(d->why), "another XDP program stands there");
	else if (d->link < 0)
		snprintf(d->why, sizeof(d->why), "attach: %s", strerror(-d->link));
}

static bool is_taken(const struct source_ctx *ctx, const struct device *d, const char **ret_by)
{
	const json_t *t;
	size_t i;

	json_array_foreach (ctx->xdp_taken, i, t)
		if (streq(json_string_value(json_object_get(t, "node")), d->node->name) &&
			streq(json_string_value(json_object_get(t, "dev")), d->dev)) {
			*ret_by = json_string_value(json_object_get(t, "by"));
			return true;
		}
	return false;
}

/* -errno: this kernel cannot, at no device */
static int watch(struct source *s, const struct source_ctx *ctx, struct device *d, struct err *err)
{
	size_t n = 1 + s->site->n_services + s->site->n_databases;
	const char *by = NULL;
	int r;

	if (is_taken(ctx, d, &by)) {
		snprintf(d->why, sizeof(d->why), "%.60s takes the place of an XDP program there", by);
		return 0;
	}
	libbpf_log_start();
	d->skel = packets__open();
	r = d->skel ? bpf_map__set_max_entries(d->skel->maps.meters, (uint32_t)n) : -errno;
	if (r == 0)
		r = packets__load(d->skel);
	if (r == 0)
		r = place_all(d->skel, s->site);
	if (r < 0) {
		err_set(err, r == -EPERM ? r : -EOPNOTSUPP, "packets of %s/%s cannot be counted: %s%s%.120s", d->node->name, d->dev, strerror(-r),
			*libbpf_log_first() ? ": " : "", libbpf_log_first());
		return r == -EPERM ? r : -EOPNOTSUPP;
	}
	for (uint32_t i = 0; r == 0 && i < n; i++)
		r = meters_add(s->meters, bpf_map__fd(d->skel->maps.meters), i,
			json_pack("{s:s, s:s, s:s?}", "node", d->node->name, "dev", d->dev, "service", service_name(s->site, i)), err);
	return r;
}

static void say(const struct source *s, struct timeline *tl)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct device *d = &s->v[i];

		timeline_event(tl, now_ns(), EV_PACKETS,
			json_pack("{s:s, s:s, s:b, s:s?}", "node", d->node->name, "dev", d->dev, "counted", d->link >= 0, "why",
				*d->why ? d->why : NULL));
		if (d->link < 0) {
			_cleanup_free_ char *text = strf(UNCOUNTED, d->node->name, d->dev, d->why);

			timeline_event(tl, now_ns(), EV_LOG, json_pack("{s:s?, s:s}", "text", text, "where", ""));
		}
	}
}

static int start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	_cleanup_(source_freep) struct source *s = calloc(1, sizeof(*s));
	const struct meters_opts o = {.tl = ctx->tl, .source = ctx->name, .kind = EV_PACKETS, .counts = {"packets", "bytes"}};
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->site = ctx->site;
	s->v = calloc(ctx->site->n_nodes * NODE_LINKS_MAX + 1, sizeof(*s->v));
	if (!s->v)
		return err_set(err, -ENOMEM, "out of memory");
	r = meters_new(&o, &s->meters, err);
	for (size_t i = 0; r == 0 && i < ctx->site->n_nodes; i++) {
		struct node *n = ctx->site->nodes[i];

		r = node_open(n, err);
		for (size_t k = 0; r == 0 && k < n->n_links; k++) {
			s->v[s->n] = (struct device){.node = n, .dev = n->links[k].dev, .link = -1};
			r = watch(s, ctx, &s->v[s->n++], err);
		}
	}
	if (r < 0)
		return r;
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].skel)
			attach(&s->v[i]);
	r = meters_start(s->meters, err);
	if (r < 0)
		return r;
	say(s, ctx->tl);
	*ret_handle = TAKE_PTR(s);
	return 0;
}

static void stop(void *handle, json_t **ret_summary)
{
	_cleanup_(source_freep) struct source *s = handle;
	json_t *probes = json_array(), *notes = json_array();

	for (size_t i = 0; i < s->n; i++) {
		const struct device *d = &s->v[i];
		_cleanup_free_ char *name = strf("xdp/%s/%s%s", d->node->name, d->dev, d->link >= 0 && d->generic ? " (generic)" : "");

		json_array_append_new(probes,
			json_pack("{s:s?, s:b, s:s?}", "probe", name, "active", d->link >= 0, "why", *d->why ? d->why : NULL));
		if (d->link < 0) {
			_cleanup_free_ char *note = strf(UNCOUNTED, d->node->name, d->dev, d->why);

			json_array_append_new(notes, json_string(note ? note : ""));
		}
		detach(&s->v[i]);
	}
	meters_stop(s->meters);
	if (ret_summary) {
		*ret_summary = meters_summary(s->meters);
		json_object_set(*ret_summary, "probes", probes);
		json_object_set(*ret_summary, "notes", notes);
	}
	json_decref(probes);
	json_decref(notes);
}

const struct source_ops source_packets = {
	.name = "packets",
	.summary = "What comes to the nodes' devices, by XDP: packets and bytes of each service",
	.kind = SOURCE_SAMPLER,
	.applies = applies,
	.start = start,
	.stop = stop,
};
