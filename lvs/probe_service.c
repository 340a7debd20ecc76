/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What can be asked about a virtual service: the weight a server has now, the share of new connections it
 * gets, and whether all servers get what they should.
 *
 * Connections are counted where they are accepted, by telemetry (tl_conn). The director's own counters
 * would not do: the kernel refreshes them every 2 s only, and they survive the removal of a server. *New
 * connections* are counted, not requests: what the director schedules is a connection, whatever number of
 * requests it then carries.
 *
 * ── balance ──
 *
 * Not "is the distribution different from the weights?" (with enough connections it always is, and a
 * chi-square test says so), but "is every share close enough?": a test of equivalence. A tolerance t
 * holds when for each server i the whole confidence interval [lo_i, hi_i] of its share lies within p_i ±
 * t, p_i being what is expected; it is broken when for some server the whole interval lies outside; else
 * there are too few connections to tell.
 *
 *	x_i	new connections of server i, n = sum of x_i
 *	[lo, hi]_i	Wilson's score interval of x_i of n (E. B. Wilson, JASA 22, 1927), at the
 *			quantile that makes all k intervals hold together with confidence 0.95:
 *			z of 1 - 0.05/(2k) (Bonferroni; L. A. Goodman, Technometrics 7, 1965)
 *	value	max over i of |x_i/n - p_i|, in share points (0.05 is five points)
 *	hi	max over i of max(|hi_i - p_i|, |lo_i - p_i|)		value within t, surely:     hi <= t
 *	lo	max over i of the distance from p_i to [lo_i, hi_i]	value beyond t, surely:     lo >  t
 *
 * Wilson's interval is for independent draws. wrr deals its connections out in turn, so its shares
 * scatter less than that: the intervals are wider than need be, which errs on the side of "not enough
 * data". Persistence and hash schedulers tie connections of one client together and scatter more; with
 * few clients their balance cannot be judged this way.
 *
 * p_i comes from the *declared* weights of the servers that are in service, w_i / (sum over those in
 * service), not from the weights that the director happens to have: a director whose weights contradict
 * the declaration is out of balance by definition. In service is who has a live weight above 0; a server
 * that was drained expects 0. When that changes within the window, each stretch between two changes has
 * expectations of its own, and p_i is their mean, weighted by the stretches' connections. Connections
 * within BALANCE_GRACE of such a change do not count at all: the sampler sees a change up to one of its
 * intervals late, and a connection is accepted some time after it was scheduled.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/probe.h"
#include "engine/stats.h"
#include "engine/str.h"

#define BALANCE_GRACE (200 * NSEC_PER_MSEC)
#define BALANCE_ALPHA 0.05

/* ── live weights ─────────────────────────────────────────────────────────────────────────── */

static bool is_of(const struct tl_weight *w, const struct service *s, const char *server)
{
	return streq(w->server, server) && streq(w->service, s->name);
}

/* What the director had for this server at @t, or NULL. The timeline is sorted. */
static const struct tl_weight *weight_at(
	const struct timeline *tl, const struct service *s, const char *server, nsec_t t)
{
	const struct tl_weight *w;
	size_t n = timeline_weights(tl, &w);

	for (size_t i = timeline_seek(w, n, sizeof(*w), t + 1); i-- > 0;)
		if (is_of(&w[i], s, server))
			return &w[i];
	return NULL;
}

static int instant(const struct timeline *tl, const struct site *site, const json_t *args,
	nsec_t t1, const struct tl_weight **ret, const char **ret_name, struct err *err)
{
	const struct service *s = probe_service_of(site, args, err);
	int i;

	if (!s)
		return -EINVAL;
	i = probe_server_of(s, args, err);
	if (i < 0)
		return i;
	*ret_name = s->servers[i].node->name;
	*ret = weight_at(tl, s, *ret_name, t1);
	return 0;
}

static void exactly(struct sample *s, double v, uint64_t n)
{
	s->have = true;
	s->value = s->lo = s->hi = v;
	s->n = n;
}

static int eval_weight(const struct timeline *tl, const struct site *site, const json_t *args,
	nsec_t t0 _unused_, nsec_t t1, struct sample *ret, struct err *err)
{
	const struct tl_weight *w;
	const char *name;
	int r = instant(tl, site, args, t1, &w, &name, err);

	if (r < 0)
		return r;
	*ret = (struct sample){0};
	if (!w) {
		snprintf(ret->text, sizeof(ret->text), "%s: the director was not read yet", name);
	} else if (w->weight == TL_WEIGHT_UNKNOWN) {
		snprintf(ret->text, sizeof(ret->text), "%s: the director could not be read", name);
	} else if (w->weight == TL_WEIGHT_ABSENT) {
		exactly(ret, 0, 1);
		snprintf(ret->text, sizeof(ret->text), "%s: not in the table", name);
	} else {
		exactly(ret, w->weight, 1);
		snprintf(ret->text, sizeof(ret->text), "%s: weight %d", name, w->weight);
	}
	return 0;
}

static int eval_active(const struct timeline *tl, const struct site *site, const json_t *args,
	nsec_t t0 _unused_, nsec_t t1, struct sample *ret, struct err *err)
{
	const struct tl_weight *w;
	const char *name;
	int r = instant(tl, site, args, t1, &w, &name, err);

	if (r < 0)
		return r;
	*ret = (struct sample){0};
	if (!w || w->weight == TL_WEIGHT_UNKNOWN) {
		snprintf(ret->text, sizeof(ret->text), "%s: the director was not read", name);
		return 0;
	}
	exactly(ret, w->active, 1);
	snprintf(ret->text, sizeof(ret->text), "%s: %d active, %d inactive connections", name,
		w->active, w->inactive);
	return 0;
}

/* ── connections ──────────────────────────────────────────────────────────────────────────── */

/* Buckets that lie wholly inside [t0, t1) */
static size_t conns_between(
	const struct timeline *tl, nsec_t t0, nsec_t t1, const struct tl_conn **ret)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(tl, &c), from = timeline_seek(c, n, sizeof(*c), t0);
	size_t to = t1 - t0 < TIMELINE_BUCKET
			    ? from
			    : timeline_seek(c, n, sizeof(*c), t1 - TIMELINE_BUCKET + 1);

	*ret = c + from;
	return MAX(to, from) - from;
}

/* Has anybody counted a connection of this service before @t1? Else 0 would be an answer that nobody gave. */
static bool is_counted(const struct timeline *tl, const struct service *s, nsec_t t1)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(tl, &c);

	for (size_t i = 0; i < n && c[i].t < t1; i++)
		if (streq(c[i].service, s->name) && c[i].server[0])
			return true;
	return false;
}

static int eval_share(const struct timeline *tl, const struct site *site, const json_t *args,
	nsec_t t0, nsec_t t1, struct sample *ret, struct err *err)
{
	const struct service *s = probe_service_of(site, args, err);
	const struct tl_conn *c;
	uint64_t mine = 0, all = 0;
	const char *name;
	size_t n;
	int i;

	if (!s)
		return -EINVAL;
	i = probe_server_of(s, args, err);
	if (i < 0)
		return i;
	name = s->servers[i].node->name;
	n = conns_between(tl, t0, t1, &c);
	for (; n--; c++) {
		if (!streq(c->service, s->name) || !c->server[0])
			continue;
		all += c->established;
		if (streq(c->server, name))
			mine += c->established;
	}
	*ret = (struct sample){.n = all};
	if (!all) {
		snprintf(ret->text, sizeof(ret->text), "no new connections");
		return 0;
	}
	ret->have = true;
	ret->value = (double)mine / (double)all;
	stats_wilson(mine, all, stats_normal_quantile(0.975), &ret->lo, &ret->hi);
	snprintf(ret->text, sizeof(ret->text), "%s: %.1f %% of %llu new connections", name,
		ret->value * 100, (unsigned long long)all);
	return 0;
}

static int eval_connection_rate(const struct timeline *tl, const struct site *site,
	const json_t *args, nsec_t t0, nsec_t t1, struct sample *ret, struct err *err)
{
	const struct service *s = probe_service_of(site, args, err);
	const struct tl_conn *c;
	const char *name = NULL;
	uint64_t k = 0;
	size_t n;
	int r;

	if (!s)
		return -EINVAL;
	if (json_object_get(args, "server")) {
		r = probe_server_of(s, args, err);
		if (r < 0)
			return r;
		name = s->servers[r].node->name;
	}
	*ret = (struct sample){0};
	if (t1 - t0 < TIMELINE_BUCKET || !is_counted(tl, s, t1)) {
		snprintf(
			ret->text, sizeof(ret->text), "connections of %s are not counted", s->name);
		return 0;
	}
	n = conns_between(tl, t0, t1, &c);
	for (; n--; c++)
		if (streq(c->service, s->name) && c->server[0] && (!name || streq(c->server, name)))
			k += c->established;
	exactly(ret, (double)k / ((double)(t1 - t0) / NSEC_PER_SEC), k);
	snprintf(ret->text, sizeof(ret->text), "%llu new connections in %.3g s",
		(unsigned long long)k, (double)(t1 - t0) / NSEC_PER_SEC);
	return 0;
}

/* ── balance ──────────────────────────────────────────────────────────────────────────────── */

enum standing { OUT_OF_SERVICE, IN_SERVICE, NOT_KNOWN, NOT_SEEN };

/* From @from on, until the next epoch begins, each server's standing is this. */
struct epoch {
	nsec_t from;
	uint64_t connections;
	uint8_t *standing; /* one a server */
};

struct epochs {
	size_t k; /* servers */
	size_t n, room;
	struct epoch *v;
};

static void epochs_clear(struct epochs *e)
{
	for (size_t i = 0; i < e->n; i++)
		free(e->v[i].standing);
	free(e->v);
}

static enum standing standing_of(const struct tl_weight *w)
{
	if (w->weight == TL_WEIGHT_UNKNOWN)
		return NOT_KNOWN;
	return w->weight > 0 ? IN_SERVICE : OUT_OF_SERVICE;
}

static int epochs_add(struct epochs *e, nsec_t from)
{
	uint8_t *standing = malloc(MAX(e->k, (size_t)1));

	if (!standing)
		return -ENOMEM;
	if (e->n == e->room) {
		size_t room = e->room ? e->room * 2 : 8;
		struct epoch *v = reallocarray(e->v, room, sizeof(*v));

		if (!v) {
			free(standing);
			return -ENOMEM;
		}
		e->v = v;
		e->room = room;
	}
	if (e->n)
		memcpy(standing, e->v[e->n - 1].standing, e->k);
	else
		memset(standing, NOT_SEEN, e->k);
	e->v[e->n++] = (struct epoch){.from = from, .standing = standing};
	return 0;
}

/*
 * Who was in service when, up to @until. Before a server is first mentioned it stands as it does then
 * (the sampler mentions all when it starts); one that is never mentioned counts as in service: nobody
 * watches a director there.
 */
static int epochs_build(
	const struct timeline *tl, const struct service *s, nsec_t until, struct epochs *ret)
{
	struct epochs e = {.k = s->n_servers};
	const struct tl_weight *w;
	size_t n = timeline_weights(tl, &w);
	int r = epochs_add(&e, 0);

	for (size_t i = 0; r == 0 && i < n && w[i].t <= until; i++) {
		uint8_t now = standing_of(&w[i]);

		if (!streq(w[i].service, s->name))
			continue;
		for (size_t k = 0; r == 0 && k < e.k; k++) {
			struct epoch *last = &e.v[e.n - 1];

			if (!streq(s->servers[k].node->name, w[i].server) ||
				last->standing[k] == now)
				continue;
			if (last->standing[k] == NOT_SEEN) {
				for (size_t j = 0; j < e.n; j++)
					e.v[j].standing[k] = now;
				continue;
			}
			if (last->from != w[i].t || e.n == 1)
				r = epochs_add(&e, w[i].t);
			if (r == 0)
				e.v[e.n - 1].standing[k] = now;
		}
	}
	if (r < 0) {
		epochs_clear(&e);
		return r;
	}
	for (size_t j = 0; j < e.n; j++)
		for (size_t k = 0; k < e.k; k++)
			if (e.v[j].standing[k] == NOT_SEEN)
				e.v[j].standing[k] = IN_SERVICE;
	*ret = e;
	return 0;
}

/*
 * The epoch of the bucket that begins at @t, or NULL when a change is too near to say what was to be
 * expected.
 */
static struct epoch *epoch_of(const struct epochs *e, nsec_t t)
{
	struct epoch *found = &e->v[0];

	for (size_t i = 1; i < e->n; i++) {
		nsec_t change = e->v[i].from;

		if (t < change + BALANCE_GRACE && t + TIMELINE_BUCKET > change - BALANCE_GRACE)
			return NULL;
		if (change <= t)
			found = &e->v[i];
	}
	for (size_t k = 0; k < e->k; k++)
		if (found->standing[k] == NOT_KNOWN)
			return NULL;
	return found;
}

struct share {
	const char *name;
	unsigned int declared;
	int live; /* TL_WEIGHT_UNKNOWN: nobody looked */
	uint64_t connections;
	double expected, lo, hi;
};

/* p_i: the mean over the epochs of w_i / (sum of w in service), weighted by the epochs' connections */
static void expect(
	const struct service *s, const struct epochs *e, struct share *shares, uint64_t n)
{
	for (size_t j = 0; j < e->n; j++) {
		const struct epoch *ep = &e->v[j];
		double sum = 0;

		for (size_t k = 0; k < e->k; k++)
			if (ep->standing[k] == IN_SERVICE)
				sum += s->servers[k].weight;
		if (!ep->connections || sum == 0)
			continue; /* nobody is in service: whoever gets something gets too much */
		for (size_t k = 0; k < e->k; k++)
			if (ep->standing[k] == IN_SERVICE)
				shares[k].expected += s->servers[k].weight / sum *
						      (double)ep->connections / (double)n;
	}
}

/* "rs1 23.2 % (want 23.1 %), ...; n=1500", with as many servers as there is room for */
static void balance_text(char *text, size_t size, const struct share *shares, size_t k, uint64_t n)
{
	char tail[48], one[128];
	size_t used = 0, room;

	snprintf(tail, sizeof(tail), "; n=%llu", (unsigned long long)n);
	room = size - strlen(tail) - sizeof(", ...");
	text[0] = '\0';
	for (size_t i = 0; i < k; i++) {
		int len = snprintf(one, sizeof(one), "%s%s %.1f %% (want %.1f %%)",
			used ? ", " : "", shares[i].name,
			(double)shares[i].connections / (double)n * 100, shares[i].expected * 100);

		if (used + (size_t)len > room) {
			strcpy(text + used, ", ...");
			used += strlen(", ...");
			break;
		}
		memcpy(text + used, one, (size_t)len + 1);
		used += (size_t)len;
	}
	strcpy(text + used, tail);
}

static json_t *balance_detail(const struct share *shares, size_t k, uint64_t n, uint64_t left_out,
	uint64_t unattributed, double z)
{
	json_t *servers = json_array();

	for (size_t i = 0; i < k; i++) {
		const struct share *s = &shares[i];
		json_t *live = s->live == TL_WEIGHT_UNKNOWN  ? json_null()
			       : s->live == TL_WEIGHT_ABSENT ? json_integer(0)
							     : json_integer(s->live);

		json_array_append_new(
			servers, json_pack("{s:s, s:I, s:o, s:I, s:f, s:f, s:f, s:f}", "node",
					 s->name, "weight", (json_int_t)s->declared, "live_weight",
					 live, "connections", (json_int_t)s->connections, "share",
					 (double)s->connections / (double)n, "expected",
					 s->expected, "lo", s->lo, "hi", s->hi));
	}
	return json_pack("{s:I, s:I, s:I, s:f, s:f, s:o}", "n", (json_int_t)n, "left_out",
		(json_int_t)left_out, "unattributed", (json_int_t)unattributed, "alpha",
		BALANCE_ALPHA, "z", z, "servers", servers);
}

static int eval_balance(const struct timeline *tl, const struct site *site, const json_t *args,
	nsec_t t0, nsec_t t1, struct sample *ret, struct err *err)
{
	_cleanup_(epochs_clear) struct epochs epochs = {0};
	_cleanup_free_ struct share *shares = NULL;
	uint64_t n = 0, left_out = 0, unattributed = 0;
	const struct service *s = probe_service_of(site, args, err);
	const struct tl_conn *c;
	size_t k, buckets;
	double z;
	int r;

	if (!s)
		return -EINVAL;
	k = s->n_servers;
	shares = calloc(k + 1, sizeof(*shares)); /* and one for strangers */
	if (!shares)
		return err_set(err, -ENOMEM, "out of memory");
	/* nothing past t1: what comes later must not change the answer */
	r = epochs_build(tl, s, t1, &epochs);
	if (r < 0)
		return err_set(err, r, "out of memory");
	for (size_t i = 0; i < k; i++) {
		const struct tl_weight *w = weight_at(tl, s, s->servers[i].node->name, t1);

		shares[i] = (struct share){.name = s->servers[i].node->name,
			.declared = s->servers[i].weight,
			.live = w ? w->weight : TL_WEIGHT_UNKNOWN};
	}
	shares[k] = (struct share){.name = "others", .live = TL_WEIGHT_UNKNOWN};

	buckets = conns_between(tl, t0, t1, &c);
	for (; buckets--; c++) {
		struct epoch *e;
		size_t i = 0;

		if (!streq(c->service, s->name) || !c->established)
			continue;
		if (!c->server[0]) {
			unattributed += c->established;
			continue;
		}
		e = epoch_of(&epochs, c->t);
		if (!e) {
			left_out += c->established;
			continue;
		}
		while (i < k && !streq(shares[i].name, c->server))
			i++;
		shares[i].connections += c->established;
		e->connections += c->established;
		n += c->established;
	}

	*ret = (struct sample){.n = n};
	if (!n) {
		if (left_out)
			snprintf(ret->text, sizeof(ret->text),
				"no new connections to judge: %llu came while servers went in or "
				"out of service, or the director could not be read",
				(unsigned long long)left_out);
		else
			snprintf(ret->text, sizeof(ret->text), "no new connections");
		return 0;
	}
	k += shares[k].connections > 0;
	expect(s, &epochs, shares, n);
	z = stats_z_simultaneous(BALANCE_ALPHA, (unsigned int)k);
	for (size_t i = 0; i < k; i++) {
		struct share *sh = &shares[i];
		double p = sh->expected;

		stats_wilson(sh->connections, n, z, &sh->lo, &sh->hi);
		ret->value = fmax(ret->value, fabs((double)sh->connections / (double)n - p));
		ret->hi = fmax(ret->hi, fmax(fabs(sh->hi - p), fabs(sh->lo - p)));
		ret->lo = fmax(ret->lo, fmax(sh->lo - p, p - sh->hi));
	}
	ret->have = true;
	balance_text(ret->text, sizeof(ret->text), shares, k, n);
	ret->detail = balance_detail(shares, k, n, left_out, unattributed, z);
	return 0;
}

static const struct param server_param[] = {
	{.name = "server", .type = PARAM_NODE, .required = true, .help = "the real server"},
	PARAM_END,
};

static const struct param optional_server_param[] = {
	{.name = "server", .type = PARAM_NODE, .help = "the real server; default: all"},
	PARAM_END,
};

static const struct param no_params[] = {PARAM_END};

const struct probe_ops probe_service[] = {
	{
		.subject = "service",
		.name = "weight",
		.summary =
			"The weight that the director gives a server now; 0 when it is not in the table",
		.params = server_param,
		.eval = eval_weight,
	},
	{
		.subject = "service",
		.name = "active",
		.summary = "Active connections of a server, as the director counts them",
		.params = server_param,
		.eval = eval_active,
	},
	{
		.subject = "service",
		.name = "share",
		.summary = "A server's share of the new connections",
		.unit = UNIT_RATIO,
		.window = 5 * NSEC_PER_SEC,
		.params = server_param,
		.eval = eval_share,
	},
	{
		.subject = "service",
		.name = "balance",
		.summary =
			"The largest difference between a server's share of new connections and its declared weight's",
		.unit = UNIT_RATIO,
		.window = 5 * NSEC_PER_SEC,
		.params = no_params,
		.eval = eval_balance,
	},
	{
		.subject = "service",
		.name = "connection_rate",
		.summary = "New connections a second, of the service or of one server",
		.unit = UNIT_RATE,
		.window = NSEC_PER_SEC,
		.params = optional_server_param,
		.eval = eval_connection_rate,
	},
	{.name = NULL},
};
