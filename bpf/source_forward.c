/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the directors send on to each real server, in buckets of time: packets and new connections, counted where IPVS sends them
 * (forward.bpf.c). So a server that is lost is looked at from outside: what is still sent to it shows here, whether it arrives or not.
 * It costs each forwarded packet a look-up, so it runs when a check asks for it.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/forward.h"
#include "bpf/libbpf_log.h"
#include "bpf/meter.h"
#include "gen/forward.skel.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"

struct source {
	struct forward *skel;
	struct meters *meters;
};

static void source_free(struct source *s)
{
	if (!s)
		return;
	meters_free(s->meters);
	forward__destroy(s->skel);
	free(s);
}

static void source_freep(struct source **s)
{
	source_free(*s);
}

static int applies(const struct source_ctx *ctx, struct err *err _unused_)
{
	return ctx->asked && ctx->site->n_services > 0;
}

/* All or nothing: what one of them does not see would be missing without a word */
static int load(struct source *s, uint32_t n, struct err *err)
{
	int r;

	libbpf_log_start();
	s->skel = forward__open();
	r = s->skel ? bpf_map__set_max_entries(s->skel->maps.meters, n) : -errno;
	if (r == 0)
		r = forward__load(s->skel);
	if (r == 0)
		r = forward__attach(s->skel);
	if (r == 0)
		return 0;
	err_set(err, r == -EPERM ? r : -EOPNOTSUPP, "what directors send on cannot be counted: %s%s%.120s", strerror(-r),
		*libbpf_log_first() ? ": " : "", libbpf_log_first());
	err_hint(err, "it needs ip_vs with BTF, IPv6 and fentry, and root; run with --lab vm");
	return r == -EPERM ? r : -EOPNOTSUPP;
}

/* This server at the virtual address @vip, as that director has it; 1 when it has an address there, else 0 */
static int place(const struct source *s, const struct service *v, const struct node *director, const char *vip,
	const struct service_server *server, uint32_t index, struct err *err)
{
	bool v6 = strchr(vip, ':');
	struct forward_key key = {.netns = (uint32_t)director->netns_ino,
		.port = v->port,
		.protocol = (uint8_t)v->protocol,
		.families = v6 ? FORWARD_VIRTUAL_IS_V6 | FORWARD_SERVER_IS_V6 : 0};
	char buf[64];
	const char *addr = site_server_addr(server, v6 ? AF_INET6 : AF_INET, buf);

	if (!addr || inet_pton(v6 ? AF_INET6 : AF_INET, vip, key.virtual) != 1 ||
		inet_pton(v6 ? AF_INET6 : AF_INET, addr, key.server) != 1)
		return 0;
	if (bpf_map_update_elem(bpf_map__fd(s->skel->maps.places), &key, &index, BPF_NOEXIST) < 0)
		return err_set(err, -errno, "service %s, server %s at director %s: %s", v->name, server->node->name, director->name,
			strerror(errno));
	return 1;
}

static int watch(struct source *s, const struct service *v, uint32_t *index, struct err *err)
{
	int r;

	for (size_t d = 0; d < v->n_directors; d++) {
		r = node_open(v->directors[d], err);
		if (r < 0)
			return r;
		for (size_t i = 0; i < v->n_servers; i++) {
			r = meters_add(s->meters, bpf_map__fd(s->skel->maps.meters), *index,
				json_pack("{s:s, s:s, s:s}", "service", v->name, "server", v->servers[i].node->name, "director",
					v->directors[d]->name),
				err);
			for (size_t a = 0; r >= 0 && a < v->n_vips; a++)
				r = place(s, v, v->directors[d], v->vips[a], &v->servers[i], *index, err);
			if (r < 0)
				return r;
			++*index;
		}
	}
	return 0;
}

static int start(const struct source_ctx *ctx, void **ret_handle, struct err *err)
{
	_cleanup_(source_freep) struct source *s = calloc(1, sizeof(*s));
	const struct meters_opts o = {.tl = ctx->tl, .source = ctx->name, .kind = EV_FORWARDED, .counts = {"packets", "bytes", "connections"}};
	uint32_t n = 0, index = 0;
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < ctx->site->n_services; i++)
		n += (uint32_t)(ctx->site->services[i].n_directors * ctx->site->services[i].n_servers);
	r = load(s, MAX(n, 1u), err);
	if (r == 0)
		r = meters_new(&o, &s->meters, err);
	for (size_t i = 0; r == 0 && i < ctx->site->n_services; i++)
		r = watch(s, &ctx->site->services[i], &index, err);
	if (r == 0)
		r = meters_start(s->meters, err);
	if (r < 0)
		return r;
	*ret_handle = TAKE_PTR(s);
	return 0;
}

static void stop(void *handle, json_t **ret_summary)
{
	_cleanup_(source_freep) struct source *s = handle;

	forward__detach(s->skel);
	meters_stop(s->meters);
	if (!ret_summary)
		return;
	*ret_summary = meters_summary(s->meters);
	json_object_set_new(*ret_summary, "probes",
		json_pack("[{s:s, s:b, s:n}]", "probe", "fentry/ip_vs_{dr,nat,tunnel}_xmit{,_v6}", "active", 1, "why"));
}

const struct source_ops source_forward = {
	.name = "forward",
	.summary = "What the directors send on to each real server, as they send it: packets, bytes, new connections",
	.kind = SOURCE_SAMPLER,
	.applies = applies,
	.start = start,
	.stop = stop,
};
