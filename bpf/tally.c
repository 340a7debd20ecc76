/* SPDX-License-Identifier: GPL-2.0-only */
#include "bpf/tally.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "engine/events.h"
#include "engine/str.h"

/* A service's server, or all of its clients together (the last one of each service) */
struct party {
	const struct service *svc;
	const char *server; /* "" for the clients */
	uint64_t netns;	    /* servers only */
};

struct bucket {
	unsigned int party;
	struct tl_conn c;
};

/* The histograms of a party, as last told */
struct told {
	struct hist h[CONN_HIST_COUNT];
};

struct tally {
	const struct site *site;
	size_t n_parties, n_endpoints, n_peers, n_buckets, size;
	struct party *parties;
	struct telemetry_endpoint *endpoints;
	struct telemetry_peer *peers; /* `node` is the index in the site, and one */
	struct bucket *buckets; /* not yet written; few: a watermark's lag worth of them */
	nsec_t flushed;		/* buckets that end by then are written */
	uint64_t late;
	json_t *unmapped, *examples;

	struct telemetry_count *counts; /* as last told */
	size_t n_counts;
	nsec_t counted, measured; /* when; 0: not yet */
	struct told *told;
};

static const char *const hist_names[CONN_HIST_COUNT] = {"connect", "srtt", "lifetime"};

/* ── the site ──────────────────────────────────────────────────────────────────────────────── */

static bool is_server(const struct service *s, const struct node *n)
{
	for (size_t i = 0; i < s->n_servers; i++)
		if (s->servers[i].node == n)
			return true;
	return false;
}

static int add_endpoint(struct tally *t, const struct node *n, enum conn_role role, const char *addr, uint16_t port,
	size_t service, size_t party, struct err *err)
{
	struct telemetry_endpoint *more = reallocarray(t->endpoints, t->n_endpoints + 1, sizeof(*more)), *e;

	if (!more)
		return err_set(err, -ENOMEM, "telemetry: %s", strerror(ENOMEM));
	t->endpoints = more;
	e = &more[t->n_endpoints];
	*e = (struct telemetry_endpoint){.netns = n->netns_ino,
		.role = role,
		.family = strchr(addr, ':') ? AF_INET6 : AF_INET,
		.port = port,
		.service = (uint16_t)(service + 1),
		.party = (uint16_t)party};
	if (inet_pton(e->family, addr, e->addr) != 1)
		return err_set(err, -EINVAL, "telemetry: %s is no address", addr);
	/* two nodes that share a namespace: the first has it */
	for (size_t i = 0; i < t->n_endpoints; i++) {
		const struct telemetry_endpoint *o = &t->endpoints[i];

		if (o->netns == e->netns && o->role == role && o->family == e->family && o->port == port &&
			memcmp(o->addr, e->addr, sizeof(o->addr)) == 0)
			return 0;
	}
	t->n_endpoints++;
	return 0;
}

/* Where the service is met by its address @addr: at @srv if that is a server, and from all nodes that may be clients */
static int add_address(struct tally *t, size_t service, const struct service *s, const char *addr, size_t first_party, bool parties,
	struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->n_servers; i++)
		r = add_endpoint(t, s->servers[i].node, CONN_ROLE_PASSIVE, addr, s->port, service,
			parties ? first_party + i : CONN_NONE, err);
	/* of nodes that share a namespace the client comes first */
	for (int clients = 1; clients >= 0; clients--)
		for (size_t i = 0; r == 0 && i < t->site->n_nodes; i++) {
			const struct node *n = t->site->nodes[i];
			bool client = !service_has_director(s, n) && !is_server(s, n);

			if (client == clients)
				r = add_endpoint(t, n, CONN_ROLE_ACTIVE, addr, s->port, service,
					parties && client ? first_party + s->n_servers : CONN_NONE, err);
		}
	return r;
}

static int add_service(struct tally *t, size_t service, const struct service *s, struct err *err)
{
	bool nat = streq(s->forward, "nat");
	size_t first = t->n_parties;
	char addr[64];
	int r = 0;

	if (s->protocol != IPPROTO_TCP || nat)
		json_array_append_new(t->unmapped, json_string(s->name));
	if (s->protocol != IPPROTO_TCP)
		return 0;
	if (!nat) {
		struct party *more = reallocarray(t->parties, first + s->n_servers + 1, sizeof(*more));

		if (!more)
			return err_set(err, -ENOMEM, "service %s: %s", s->name, strerror(ENOMEM));
		t->parties = more;
		for (size_t i = 0; i < s->n_servers; i++)
			more[first + i] = (struct party){
				.svc = s, .server = s->servers[i].node->name, .netns = s->servers[i].node->netns_ino};
		more[first + s->n_servers] = (struct party){.svc = s, .server = ""};
		t->n_parties += s->n_servers + 1;
	}
	for (size_t i = 0; r == 0 && i < s->n_vips; i++)
		r = add_address(t, service, s, s->vips[i], first, !nat, err);
	for (size_t i = 0; r == 0 && nat && i < s->n_servers; i++) {
		static const int families[] = {AF_INET, AF_INET6};

		for (size_t k = 0; r == 0 && k < ARRAY_SIZE(families); k++)
			if (site_server_addr(&s->servers[i], families[k], addr))
				r = add_endpoint(t, s->servers[i].node, CONN_ROLE_PASSIVE, addr, s->port, service, CONN_NONE, err);
	}
	return r;
}

static int add_database(struct tally *t, size_t service, const struct database *d, struct err *err)
{
	static const int families[] = {AF_INET, AF_INET6};
	char addr[64];
	int r = 0;

	for (size_t i = 0; i < d->n_nodes; i++)
		for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
			if (!site_node_addr(d->nodes[i], families[f], addr))
				continue;
			r = add_endpoint(t, d->nodes[i], CONN_ROLE_PASSIVE, addr, d->port, service, CONN_NONE, err);
			for (size_t k = 0; r == 0 && k < t->site->n_nodes; k++)
				r = add_endpoint(
					t, t->site->nodes[k], CONN_ROLE_ACTIVE, addr, d->port, service, CONN_NONE, err);
			if (r < 0)
				return r;
		}
	return 0;
}

/* "198.18.0.21/24" */
static int add_peers(struct tally *t, size_t node, const struct node *n, struct err *err)
{
	for (size_t i = 0; i < n->n_links; i++)
		for (size_t k = 0; k < n->links[i].n_addrs; k++) {
			struct telemetry_peer *more = reallocarray(t->peers, t->n_peers + 1, sizeof(*more)), *p;
			char addr[64];

			if (!more)
				return err_set(err, -ENOMEM, "telemetry: %s", strerror(ENOMEM));
			t->peers = more;
			snprintf(addr, sizeof(addr), "%.*s", (int)strcspn(n->links[i].addrs[k], "/"), n->links[i].addrs[k]);
			p = &more[t->n_peers];
			*p = (struct telemetry_peer){
				.family = strchr(addr, ':') ? AF_INET6 : AF_INET, .node = (uint16_t)(node + 1)};
			if (inet_pton(p->family, addr, p->addr) != 1)
				return err_set(err, -EINVAL, "node %s: %s is no address", n->name, addr);
			t->n_peers++;
		}
	return 0;
}

int tally_new(const struct site *site, struct tally **ret, struct err *err)
{
	_cleanup_tally_ struct tally *t = calloc(1, sizeof(*t));
	int r = 0;

	if (!t)
		return err_set(err, -ENOMEM, "telemetry: %s", strerror(ENOMEM));
	t->site = site;
	t->unmapped = json_array();
	t->examples = json_array();
	if (!t->unmapped || !t->examples)
		return err_set(err, -ENOMEM, "telemetry: %s", strerror(ENOMEM));
	for (size_t i = 0; r == 0 && i < site->n_services; i++)
		r = add_service(t, i, &site->services[i], err);
	for (size_t i = 0; r == 0 && i < site->n_databases; i++)
		r = add_database(t, site->n_services + i, &site->databases[i], err);
	for (size_t i = 0; r == 0 && i < site->n_nodes; i++)
		r = add_peers(t, i, site->nodes[i], err);
	if (r < 0)
		return r;
	t->told = calloc(t->n_parties + 1, sizeof(*t->told));
	if (!t->told)
		return err_set(err, -ENOMEM, "telemetry: %s", strerror(ENOMEM));
	*ret = TAKE_PTR(t);
	return 0;
}

void tally_free(struct tally *t)
{
	if (!t)
		return;
	free(t->parties);
	free(t->endpoints);
	free(t->peers);
	free(t->buckets);
	free(t->counts);
	free(t->told);
	json_decref(t->unmapped);
	json_decref(t->examples);
	free(t);
}

void tally_places(const struct tally *t, struct telemetry_opts *o)
{
	o->endpoints = t->endpoints;
	o->n_endpoints = t->n_endpoints;
	o->peers = t->peers;
	o->n_peers = t->n_peers;
	o->n_parties = t->n_parties;
}

/* ── buckets of time ───────────────────────────────────────────────────────────────────────── */

static struct tl_conn *bucket_at(struct tally *t, unsigned int party, nsec_t start)
{
	const struct party *p = &t->parties[party];
	struct bucket *b;

	for (size_t i = t->n_buckets; i-- > 0;) {
		b = &t->buckets[i];
		if (b->c.t == start && b->party == party)
			return &b->c;
	}
	if (t->n_buckets == t->size) {
		size_t size = t->size ? 2 * t->size : 64;

		b = reallocarray(t->buckets, size, sizeof(*b));
		if (!b)
			return NULL;
		t->buckets = b;
		t->size = size;
	}
	b = &t->buckets[t->n_buckets++];
	*b = (struct bucket){
		.party = party,
		.c = {.t = start, .service = p->svc->name, .server = p->server},
	};
	return &b->c;
}

static void take_earlier(nsec_t *t, uint64_t other)
{
	if (other && (!*t || (nsec_t)other < *t))
		*t = (nsec_t)other;
}

void tally_slot(struct tally *t, unsigned int party, const struct conn_slot *d)
{
	nsec_t start = (nsec_t)(d->bucket * CONN_BUCKET_NS);
	uint64_t n = (uint64_t)d->established + d->closed + d->failed;
	struct tl_conn *c;
	bool server;

	if (party >= t->n_parties)
		return;
	server = *t->parties[party].server;
	/* of the clients only what went wrong: the rest is their servers' */
	if (!server && !d->failed && !d->resets && !d->retransmits)
		return;
	if (start + TIMELINE_BUCKET <= t->flushed)
		t->late += n;
	c = bucket_at(t, party, start);
	if (!c) {
		t->late += n;
		return;
	}
	if (server) {
		c->established += d->established;
		c->closed += d->closed;
		take_earlier(&c->first, d->first);
		c->last = MAX(c->last, (nsec_t)d->last);
	}
	c->failed += d->failed;
	c->resets += d->resets;
	c->retransmits += d->retransmits;
	take_earlier(&c->first_bad, d->first_bad);
	c->last_bad = MAX(c->last_bad, (nsec_t)d->last_bad);
}

static int by_time(const void *a, const void *b)
{
	const struct bucket *x = a, *y = b;

	if (x->c.t != y->c.t)
		return x->c.t < y->c.t ? -1 : 1;
	return (x->party > y->party) - (x->party < y->party);
}

void tally_flush(struct tally *t, nsec_t complete, struct timeline *tl)
{
	size_t i, kept = 0;

	if (t->n_buckets == 0)
		goto out;
	qsort(t->buckets, t->n_buckets, sizeof(*t->buckets), by_time);
	for (i = 0; i < t->n_buckets; i++) {
		if (t->buckets[i].c.t <= complete - TIMELINE_BUCKET)
			timeline_add_conn(tl, &t->buckets[i].c);
		else
			t->buckets[kept++] = t->buckets[i];
	}
	t->n_buckets = kept;
out:
	t->flushed = MAX(t->flushed, complete);
}

void tally_record(struct tally *t, const struct conn_record *r)
{
	if (r->kind == CONN_END && r->outcome != CONN_OUTCOME_CLOSED && json_array_size(t->examples) < TALLY_EXAMPLES)
		json_array_append_new(t->examples, conn_record_to_json(r));
}

/* ── who talked to whom ────────────────────────────────────────────────────────────────────── */

static const char *service_name(const struct tally *t, uint16_t service)
{
	if (service && service <= t->site->n_services)
		return t->site->services[service - 1].name;
	if (service && service - t->site->n_services <= t->site->n_databases)
		return t->site->databases[service - 1 - t->site->n_services].name;
	return "";
}

static const char *node_name(const struct tally *t, uint64_t netns)
{
	for (size_t i = 0; i < t->site->n_nodes; i++)
		if (t->site->nodes[i]->netns_ino == netns)
			return t->site->nodes[i]->name;
	return "";
}

static json_t *outcomes_of(const struct conn_count *c)
{
	json_t *j = json_object();

	for (size_t i = 0; i < CONN_OUTCOME_COUNT; i++)
		if (c->ended[i])
			json_object_set_new(j, conn_outcome_names[i], json_integer((json_int_t)c->ended[i]));
	return j;
}

static uint64_t ended(const struct conn_count *c)
{
	uint64_t n = 0;

	for (size_t i = 0; i < CONN_OUTCOME_COUNT; i++)
		n += c->ended[i];
	return n;
}

static json_t *traffic(const struct tally *t, const struct telemetry_count *c, const struct conn_count *n, nsec_t since)
{
	const char *service = service_name(t, c->service);
	const char *peer = c->peer && c->peer <= t->site->n_nodes ? t->site->nodes[c->peer - 1]->name : NULL;

	return json_pack("{s:s, s:s, s:s?, s:s?, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:I}", "node", node_name(t, c->netns), "role",
		conn_role_names[c->role], "service", *service ? service : NULL, "peer", peer, "since", (json_int_t)since, "opened",
		(json_int_t)n->opened, "established", (json_int_t)n->established, "outcomes", outcomes_of(n), "bytes_in",
		(json_int_t)n->bytes_in, "bytes_out", (json_int_t)n->bytes_out, "retransmits", (json_int_t)n->retransmits,
		"unknown_birth", (json_int_t)n->unknown_birth);
}

static struct conn_count minus(struct conn_count a, const struct conn_count *b)
{
	a.opened -= b->opened;
	a.established -= b->established;
	for (int i = 0; i < CONN_OUTCOME_COUNT; i++)
		a.ended[i] -= b->ended[i];
	a.bytes_in -= b->bytes_in;
	a.bytes_out -= b->bytes_out;
	a.retransmits -= b->retransmits;
	a.unknown_birth -= b->unknown_birth;
	return a;
}

void tally_traffic(struct tally *t, nsec_t now, const struct telemetry_count *counts, size_t n, struct timeline *tl)
{
	static const struct conn_count none;
	struct telemetry_count *copy;
	size_t k = 0;

	for (size_t i = 0; i < n; i++) {
		struct conn_count d;

		while (k < t->n_counts && t->counts[k].index < counts[i].index)
			k++;
		d = minus(counts[i].count, k < t->n_counts && t->counts[k].index == counts[i].index ? &t->counts[k].count : &none);
		if (memcmp(&d, &none, sizeof(d)) != 0)
			timeline_event(tl, now, EV_TRAFFIC, traffic(t, &counts[i], &d, t->counted));
	}
	copy = n ? malloc(n * sizeof(*copy)) : NULL;
	if (n && !copy)
		return; /* the next one covers this stretch as well */
	if (n)
		memcpy(copy, counts, n * sizeof(*copy));
	free(t->counts);
	t->counts = copy;
	t->n_counts = n;
	t->counted = now;
}

int tally_latency(struct tally *t, nsec_t now, struct telemetry *from, struct timeline *tl)
{
	_cleanup_free_ struct hist *h = malloc(sizeof(*h));
	int r = h ? 0 : -ENOMEM;

	for (unsigned int p = 0; r == 0 && p < t->n_parties; p++) {
		json_t *e = NULL;

		for (int k = 0; k < CONN_HIST_COUNT; k++) {
			json_t *news;

			r = telemetry_hist(from, p, (enum conn_hist_kind)k, h);
			if (r < 0)
				break;
			news = hist_news_to_json(h, &t->told[p].h[k]);
			if (!news)
				continue;
			if (!e)
				e = json_pack("{s:s, s:s, s:I}", "service", t->parties[p].svc->name, "server", t->parties[p].server,
					"since", (json_int_t)t->measured);
			json_object_set_new(e, hist_names[k], news);
			t->told[p].h[k] = *h;
		}
		if (e)
			timeline_event(tl, now, EV_LATENCY, e);
	}
	if (r == 0)
		t->measured = now;
	return r;
}

/* ── the summary ───────────────────────────────────────────────────────────────────────────── */

uint64_t tally_events(const struct telemetry_count *counts, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += counts[i].count.established + ended(&counts[i].count) + counts[i].count.unknown_birth;
	return sum;
}

static void add(struct conn_count *to, const struct conn_count *c)
{
	to->established += c->established;
	for (int i = 0; i < CONN_OUTCOME_COUNT; i++)
		to->ended[i] += c->ended[i];
	to->bytes_in += c->bytes_in;
	to->bytes_out += c->bytes_out;
	to->retransmits += c->retransmits;
}

static json_t *party_to_json(const struct tally *t, size_t service, const struct party *p, const struct telemetry_count *counts, size_t n)
{
	struct conn_count sum = {0};

	for (size_t i = 0; i < n; i++) {
		const struct telemetry_count *c = &counts[i];
		bool is_party = false;

		if (c->service != service + 1 || (c->role == CONN_ROLE_ACTIVE) == (bool)*p->server)
			continue;
		if (*p->server) {
			is_party = c->netns == p->netns;
		} else {
			/* as in add_address() */
			for (size_t e = 0; e < t->n_endpoints; e++)
				is_party = is_party || (t->endpoints[e].netns == c->netns && t->endpoints[e].role == CONN_ROLE_ACTIVE &&
							       t->endpoints[e].service == c->service &&
							       t->endpoints[e].party != CONN_NONE);
		}
		if (is_party)
			add(&sum, &c->count);
	}
	return json_pack("{s:I, s:I, s:o, s:I, s:I, s:I}", "established", (json_int_t)sum.established, "closed",
		(json_int_t)ended(&sum), "outcomes", outcomes_of(&sum), "bytes_in", (json_int_t)sum.bytes_in, "bytes_out",
		(json_int_t)sum.bytes_out, "retransmits", (json_int_t)sum.retransmits);
}

json_t *tally_summary(const struct tally *t, const struct telemetry_count *counts, size_t n)
{
	json_t *services = json_object(), *map = json_array();
	uint64_t unknown_birth = 0;

	for (size_t i = 0; i < t->n_parties; i++) {
		const struct party *p = &t->parties[i];
		json_t *s = json_object_get(services, p->svc->name);
		size_t service = (size_t)(p->svc - t->site->services);

		if (!s) {
			s = json_pack("{s:{}, s:n}", "servers", "clients");
			json_object_set_new(services, p->svc->name, s);
		}
		if (*p->server)
			json_object_set_new(
				json_object_get(s, "servers"), p->server, party_to_json(t, service, p, counts, n));
		else
			json_object_set_new(s, "clients", party_to_json(t, service, p, counts, n));
	}
	for (size_t i = 0; i < n; i++) {
		unknown_birth += counts[i].service ? counts[i].count.unknown_birth : 0;
		json_array_append_new(map, traffic(t, &counts[i], &counts[i].count, 0));
	}
	return json_pack("{s:o, s:O, s:I, s:I, s:O, s:o}", "services", services, "unmapped", t->unmapped,
		"late", (json_int_t)t->late, "unknown_birth", (json_int_t)unknown_birth,
		"examples", t->examples, "map", map);
}
