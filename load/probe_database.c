/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a database's nodes say of themselves, from the events of source_redis.c: who is the primary, and how many follow it.
 *
 * A node that has fallen silent may still take itself for what it was: it is counted as a doubt (between lo and hi), not as a
 * primary. One primary at a time is what everything else rests on. Two at once: what is written to one of them will be lost.
 */
#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/probe.h"
#include "engine/str.h"

struct standing {
	bool primary[DATABASE_NODES_MAX]; /* the last thing it said, before it fell silent if it did */
	const char *role[DATABASE_NODES_MAX]; /* NULL: nobody has asked it */
	int replicas[DATABASE_NODES_MAX];
};

static const struct database *get_database(const struct site *site, const json_t *args, struct err *err)
{
	const char *name = json_string_value(json_object_get(args, "database"));
	const struct database *d = name && site ? site_database(site, name) : NULL;

	if (!d)
		err_set(err, -EINVAL, "the site has no database called \"%s\"", name ? name : "");
	return d;
}

static size_t index_of(const struct database *d, const char *node)
{
	size_t i = 0;

	while (i < d->n_nodes && !streq(d->nodes[i]->name, node))
		i++;
	return i;
}

static const char *text_of(const struct tl_event *e, const char *key)
{
	return json_string_value(json_object_get(e->data, key));
}

static void apply_event(const struct database *d, const struct tl_event *e, struct standing *s)
{
	size_t i;

	if (streq(e->kind, EV_DATABASE) && streq(text_of(e, "database"), d->name)) {
		i = index_of(d, text_of(e, "node"));
		if (i == d->n_nodes)
			return;
		s->role[i] = text_of(e, "role");
		s->replicas[i] = (int)json_integer_value(json_object_get(e->data, "replicas"));
	} else if (streq(e->kind, EV_ROLE) && streq(text_of(e, "service"), d->name) && streq(text_of(e, "role"), "primary")) {
		i = index_of(d, text_of(e, "node"));
		if (i < d->n_nodes)
			s->primary[i] = streq(text_of(e, "state"), "taken");
	}
}

static struct standing at(const struct timeline *tl, const struct database *d, nsec_t t)
{
	struct standing s = {0};
	const struct tl_event *e;
	size_t n = timeline_events(tl, &e);

	for (size_t i = 0; i < n && e[i].t <= t; i++)
		apply_event(d, &e[i], &s);
	return s;
}

/* Those that say so; *ret_silent: those that said so last and do not answer now */
static unsigned int primaries(const struct database *d, const struct standing *s, unsigned int *ret_silent)
{
	unsigned int n = 0, silent = 0;

	for (size_t i = 0; i < d->n_nodes; i++) {
		bool answers = s->role[i] && !streq(s->role[i], "unknown");

		n += s->primary[i] && answers;
		silent += s->primary[i] && !answers;
	}
	if (ret_silent)
		*ret_silent = silent;
	return n;
}

static bool all_asked(const struct database *d, const struct standing *s)
{
	for (size_t i = 0; i < d->n_nodes; i++)
		if (!s->role[i])
			return false;
	return true;
}

/* "db1 primary (1 follows), db2 replica" */
static void describe(const struct database *d, const struct standing *s, char *text, size_t size)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	for (size_t i = 0; i < d->n_nodes; i++) {
		strbuf_addf(&b, "%s%s %s", i ? ", " : "", d->nodes[i]->name, s->role[i] ? s->role[i] : "not asked yet");
		if (s->role[i] && streq(s->role[i], "primary"))
			strbuf_addf(&b, " (%d follow%s)", s->replicas[i], s->replicas[i] == 1 ? "s" : "");
		if (s->role[i] && streq(s->role[i], "unknown") && s->primary[i])
			strbuf_puts(&b, " (was primary)");
	}
	snprintf(text, size, "%s", strbuf_cstr(&b));
}

static unsigned int off(const struct database *d, const struct standing *s)
{
	unsigned int n = primaries(d, s, NULL);

	return n ? n - 1 : 1;
}

/* The number within [t0, t1] that is furthest from one, the last one of equals */
static int eval_primaries(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err)
{
	const struct database *d = get_database(site, args, err);
	struct standing s, worst;
	const struct tl_event *e;
	unsigned int silent;
	size_t n;

	if (!d)
		return -EINVAL;
	s = worst = at(tl, d, t0);
	n = timeline_events(tl, &e);
	for (size_t i = timeline_seek(e, n, sizeof(*e), t0 + 1); i < n && e[i].t <= t1; i++) {
		apply_event(d, &e[i], &s);
		if (off(d, &s) >= off(d, &worst))
			worst = s;
	}
	*ret = (struct sample){0};
	describe(d, &worst, ret->text, sizeof(ret->text));
	if (primaries(d, &worst, NULL) > 1)
		snprintf(ret->text + strlen(ret->text), sizeof(ret->text) - strlen(ret->text), ": split brain");
	if (!all_asked(d, &s))
		return 0;
	ret->have = true;
	ret->value = ret->lo = primaries(d, &worst, &silent);
	ret->hi = ret->value + silent;
	ret->n = d->n_nodes;
	return 0;
}

static int eval_primary(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0 _unused_, nsec_t t1,
	struct sample *ret, struct err *err)
{
	const struct database *d = get_database(site, args, err);
	const char *node = json_string_value(json_object_get(args, "node"));
	struct standing s;
	size_t i;

	if (!d)
		return -EINVAL;
	i = index_of(d, node);
	if (i == d->n_nodes)
		return err_set(err, -EINVAL, "%s is no node of database %s", node ? node : "(none given)", d->name);
	s = at(tl, d, t1);
	*ret = (struct sample){0};
	describe(d, &s, ret->text, sizeof(ret->text));
	if (!s.role[i])
		return 0;
	ret->have = true;
	ret->value = ret->lo = ret->hi = s.primary[i] && streq(s.role[i], "primary");
	ret->n = 1;
	return 0;
}

static int eval_replicas(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0 _unused_, nsec_t t1,
	struct sample *ret, struct err *err)
{
	const struct database *d = get_database(site, args, err);
	struct standing s;
	int replicas = 0;

	if (!d)
		return -EINVAL;
	s = at(tl, d, t1);
	*ret = (struct sample){0};
	describe(d, &s, ret->text, sizeof(ret->text));
	if (!all_asked(d, &s))
		return 0;
	for (size_t i = 0; i < d->n_nodes; i++)
		replicas += s.role[i] && streq(s.role[i], "replica") && s.replicas[i];
	ret->have = true;
	ret->value = ret->lo = ret->hi = replicas;
	ret->n = d->n_nodes;
	return 0;
}

static const struct param no_params[] = {PARAM_END};

static const struct param node_param[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "a node of the database"},
	PARAM_END,
};

const struct probe_ops probe_database[] = {
	{
		.subject = "database",
		.name = "primaries",
		.summary = "How many nodes take themselves for the primary; 1 when all is well, 2 at once is split brain",
		.params = no_params,
		.eval = eval_primaries,
	},
	{
		.subject = "database",
		.name = "primary",
		.summary = "1 when this node is the primary, and says so, else 0",
		.params = node_param,
		.eval = eval_primary,
	},
	{
		.subject = "database",
		.name = "replicas",
		.summary = "How many replicas follow the primary, their link being up",
		.params = no_params,
		.eval = eval_replicas,
	},
	{.name = NULL},
};
