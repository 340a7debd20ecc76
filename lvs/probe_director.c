/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who schedules a service: which of its directors hold its virtual addresses, from the events of source_ipvs.c.
 *
 * When all is well one director holds all of them. None: the service is not served. Two: split brain, or one that was cut off
 * and does not know yet that the other has taken over; both answer for the address, if both are heard.
 */
#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"

/* Bit v: the director held the service's v-th address at the time */
struct holding {
	uint32_t held[SERVICE_DIRECTORS_MAX];
	bool told; /* somebody looked */
};

static int index_of(const struct service *s, const char *node, const char *vip, size_t *ret_director, size_t *ret_vip)
{
	size_t d = 0, v = 0;

	while (d < s->n_directors && !streq(s->directors[d]->name, node))
		d++;
	while (v < s->n_vips && !streq(s->vips[v], vip))
		v++;
	if (d == s->n_directors || v == s->n_vips)
		return -ENOENT;
	*ret_director = d;
	*ret_vip = v;
	return 0;
}

/* Takes one event into account; false: it is not about this service's directors */
static bool apply_event(const struct service *s, const struct tl_event *e, struct holding *h)
{
	const char *state = json_string_value(json_object_get(e->data, "state"));
	size_t d, v;

	if (!streq(e->kind, EV_ROLE) || !streq(json_string_value(json_object_get(e->data, "service")), s->name) ||
		!streq(json_string_value(json_object_get(e->data, "role")), "director") ||
		index_of(s, json_string_value(json_object_get(e->data, "node")),
			json_string_value(json_object_get(e->data, "what")), &d, &v) < 0)
		return false;
	if (streq(state, "taken"))
		h->held[d] |= 1u << v;
	else
		h->held[d] &= ~(1u << v);
	h->told = true;
	return true;
}

static unsigned int holders(const struct service *s, const struct holding *h)
{
	unsigned int n = 0;

	for (size_t d = 0; d < s->n_directors; d++)
		n += h->held[d] != 0;
	return n;
}

/* As it stood at @t; a service with one director is held by it. */
static struct holding at(const struct timeline *tl, const struct service *s, nsec_t t)
{
	struct holding h = {.told = s->n_directors == 1};
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);

	if (h.told)
		h.held[0] = UINT32_MAX;
	for (size_t i = 0; i < n && e[i].t <= t; i++)
		(void)apply_event(s, &e[i], &h);
	return h;
}

static void name_holders(const struct service *s, const struct holding *h, char *text, size_t size)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	for (size_t d = 0; d < s->n_directors; d++)
		if (h->held[d])
			strbuf_addf(&b, "%s%s", b.len ? " and " : "", s->directors[d]->name);
	snprintf(text, size, "%s", b.len ? strbuf_cstr(&b) : "nobody");
}

static unsigned int off(const struct service *s, const struct holding *h)
{
	unsigned int n = holders(s, h);

	return n ? n - 1 : 1;
}

/* The number within [t0, t1] that is furthest from one, the last one of equals */
static int eval_directors(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err)
{
	const struct service *s = probe_service_of(site, args, err);
	struct holding h, worst;
	const struct tl_event *e;
	size_t n;

	if (!s)
		return -EINVAL;
	h = worst = at(tl, s, t0);
	n = timeline_events(tl, &e);
	for (size_t i = timeline_seek(e, n, sizeof(*e), t0 + 1); i < n && e[i].t <= t1; i++)
		if (apply_event(s, &e[i], &h) && off(s, &h) >= off(s, &worst))
			worst = h;
	*ret = (struct sample){0};
	if (!h.told) {
		snprintf(ret->text, sizeof(ret->text), "nobody watches the directors of %s", s->name);
		return 0;
	}
	ret->have = true;
	ret->value = ret->lo = ret->hi = holders(s, &worst);
	ret->n = 1;
	name_holders(s, &worst, ret->text, sizeof(ret->text));
	if (holders(s, &worst) > 1)
		snprintf(ret->text + strlen(ret->text), sizeof(ret->text) - strlen(ret->text), " at once: split brain");
	return 0;
}

static int eval_held_by(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0 _unused_, nsec_t t1,
	struct sample *ret, struct err *err)
{
	const struct service *s = probe_service_of(site, args, err);
	const char *node = json_string_value(json_object_get(args, "node"));
	uint32_t all;
	struct holding h;
	size_t d = 0;

	if (!s)
		return -EINVAL;
	while (d < s->n_directors && !streq(s->directors[d]->name, node))
		d++;
	if (d == s->n_directors)
		return err_set(err, -EINVAL, "%s is no director of service %s", node ? node : "(none given)", s->name);
	h = at(tl, s, t1);
	all = (uint32_t)((UINT64_C(1) << s->n_vips) - 1);
	*ret = (struct sample){0};
	if (!h.told) {
		snprintf(ret->text, sizeof(ret->text), "nobody watches the directors of %s", s->name);
		return 0;
	}
	ret->have = true;
	ret->value = ret->lo = ret->hi = (h.held[d] & all) == all;
	ret->n = 1;
	name_holders(s, &h, ret->text, sizeof(ret->text));
	return 0;
}

static const struct param no_params[] = {PARAM_END};

static const struct param node_param[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "the director"},
	PARAM_END,
};

const struct probe_ops probe_director[] = {
	{
		.subject = "service",
		.name = "directors",
		.summary = "How many directors hold the service's virtual addresses; 1 when all is well, 2 at once is split brain",
		.params = no_params,
		.eval = eval_directors,
	},
	{
		.subject = "service",
		.name = "held_by",
		.summary = "1 when this director holds all of the service's virtual addresses, else 0",
		.params = node_param,
		.eval = eval_held_by,
	},
	{.name = NULL},
};
