/* SPDX-License-Identifier: GPL-2.0-only */
/* judge_sections.c: the parts of a report that are not judged, only counted: the run, faults, load, services, residue. */
#include "engine/judge_internal.h"

#include <stdio.h>

/*
 * What the scenario waives, and what came of it, a line each: a waiver that was not needed is said as well. NULL: it waives nothing.
 */
json_t *judge_waived(const struct judgement *j)
{
	const json_t *unsafe = json_object_get(j->scenario, "unsafe"), *what;
	json_t *all;
	size_t i;

	if (json_array_size(unsafe) == 0 && json_array_size(j->waived) == 0)
		return NULL;
	all = json_copy(j->waived);
	json_array_foreach (unsafe, i, what) {
		char line[128];
		size_t n = (size_t)snprintf(line, sizeof(line), "%.60s: ", json_string_value(what));
		const json_t *w;
		bool used = false;
		size_t k;

		json_array_foreach (j->waived, k, w)
			used = used || strncmp(json_string_value(w), line, n) == 0;
		if (used)
			continue;
		snprintf(line + n, sizeof(line) - n, "nothing that was made needed it");
		json_array_append_new(all, safe_string(line));
	}
	return all;
}

json_t *judge_faults(const struct judgement *j)
{
	json_t *all = json_array();

	for (size_t i = 0; i < j->n_faults; i++) {
		const struct fault *f = &j->faults[i];
		const json_t *e = f->applied_event  ? f->applied_event
				  : f->failed_event ? f->failed_event
						    : f->lifted_event;
		const json_t *l = f->lifted_event;

		json_array_append_new(all,
			json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "id",
				copy_of(e, "id"), "name", copy_of(e, "change"), "node",
				copy_of(e, "node"), "args", copy_of(e, "args"), "asked",
				copy_of(l, "asked"), "measured", copy_of(l, "measured"), "proved",
				copy_of(l, "proved"), "applied_ns", time_or_null(f->applied),
				"lifted_ns", time_or_null(f->lifted), "text",
				copy_of(l ? l : e, "text"), "where", copy_of(e, "where")));
	}
	return all;
}

struct load_total {
	const char *name; /* NULL: all of them */
	uint64_t count[OUTCOME_COUNT], due, bytes;
	nsec_t first, last;
	struct hist *latency;
};

static json_t *quantile(const struct hist *h, double q)
{
	uint64_t v;

	return hist_quantile(h, q, &v) < 0 ? json_null() : json_real((double)v / NSEC_PER_MSEC);
}

static json_t *load_total_to_json(const struct load_total *t, double asked)
{
	double seconds = (double)(t->last - t->first) / NSEC_PER_SEC;
	json_t *o = json_object();

	if (t->name)
		set(o, "name", json_string(t->name));
	set(o, "requests", json_integer((json_int_t)t->due));
	for (int k = 0; k < OUTCOME_COUNT; k++)
		set(o, outcome_names[k], json_integer((json_int_t)t->count[k]));
	set(o, "bytes", json_integer((json_int_t)t->bytes));
	set(o, "error_ratio",
		t->due ? json_real((double)(t->due - t->count[OUTCOME_OK]) / (double)t->due)
		       : NULL);
	set(o, "seconds", json_real(seconds));
	set(o, "rate_asked", asked > 0 ? json_real(asked) : NULL);
	set(o, "rate_achieved", seconds > 0 ? json_real((double)t->due / seconds) : NULL);
	set(o, "p50_ms", quantile(t->latency, 0.5));
	set(o, "p90_ms", quantile(t->latency, 0.9));
	set(o, "p99_ms", quantile(t->latency, 0.99));
	set(o, "p999_ms", quantile(t->latency, 0.999));
	set(o, "max_ms", quantile(t->latency, 1));
	return o;
}

/* @name NULL: over all loads. Returns 0 when there is nothing, else 1, or -ENOMEM. */
static int load_total(const struct judgement *j, const char *name, struct load_total *ret)
{
	struct load_total t = {.name = name, .first = -1, .latency = calloc(1, sizeof(*t.latency))};
	const struct tl_load *l;
	size_t n = timeline_loads(j->tl, &l);

	if (!t.latency)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (name && !streq(l[i].load, name))
			continue;
		if (t.first < 0)
			t.first = l[i].t;
		t.last = l[i].t + TIMELINE_BUCKET;
		t.bytes += l[i].bytes;
		for (int k = 0; k < OUTCOME_COUNT; k++) {
			t.count[k] += l[i].count[k];
			t.due += l[i].count[k];
		}
		hist_add_sparse(t.latency, &l[i].latency);
	}
	*ret = t;
	return t.first >= 0;
}

int judge_load(const struct judgement *j, json_t **ret)
{
	json_t *all, *loads = json_array();
	struct load_total t;
	double asked = 0;
	const json_t *l;
	size_t i;
	int r;

	json_array_foreach (json_object_get(j->scenario, "loads"), i, l) {
		const char *name = text(l, "name");
		double rate =
			json_number_value(json_object_get(json_object_get(l, "args"), "rate"));

		r = load_total(j, name, &t);
		if (r < 0) {
			json_decref(loads);
			return r;
		}
		asked += rate;
		if (r > 0) {
			json_t *one = load_total_to_json(&t, rate);

			set(one, "summary", copy_of(j->load_summaries, name));
			json_array_append_new(loads, one);
		}
		free(t.latency);
	}
	r = load_total(j, NULL, &t);
	if (r <= 0) {
		json_decref(loads);
		if (r == 0)
			free(t.latency);
		*ret = json_null();
		return r;
	}
	all = load_total_to_json(&t, asked);
	set(all, "loads", loads);
	free(t.latency);
	*ret = all;
	return 0;
}

/* The weight that the director gave last before @t; false: not known */
static bool weight_at(
	const struct judgement *j, const char *service, const char *server, nsec_t t, int *ret)
{
	const struct tl_weight *w;
	size_t n = timeline_weights(j->tl, &w);

	for (size_t i = timeline_seek(w, n, sizeof(*w), t + 1); i-- > 0;)
		if (streq(w[i].service, service) && streq(w[i].server, server)) {
			*ret = MAX(w[i].weight, 0); /* not in the table: it gets nothing */
			return w[i].weight != TL_WEIGHT_UNKNOWN;
		}
	return false;
}

/* New connections at @server in [t0, t1) */
static uint64_t connections(
	const struct judgement *j, const char *service, const char *server, nsec_t t0, nsec_t t1)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(j->tl, &c);
	uint64_t sum = 0;

	for (size_t i = timeline_seek(c, n, sizeof(*c), t0); i < n && c[i].t < t1; i++)
		if (streq(c[i].service, service) && streq(c[i].server, server))
			sum += c[i].established;
	return sum;
}

static bool service_was_watched(const struct judgement *j, const char *service)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(j->tl, &c);

	for (size_t i = 0; i < n; i++)
		if (streq(c[i].service, service))
			return true;
	return false;
}

/*
 * What the balance probe has to say of the servers in [t0, t1): it knows who was in service when, and which connections
 * count. NULL when there is no such probe, or no connection.
 */
static json_t *balance_detail(const struct judgement *j, const char *service, nsec_t t0, nsec_t t1)
{
	const struct probe_ops *balance = probe_find("service", "balance");
	_cleanup_json_ json_t *args = json_pack("{s:s}", "service", service);
	struct sample s = {0};
	json_t *servers;

	if (!balance || t0 >= t1 || balance->eval(j->tl, j->site, args, t0, t1, &s, NULL) < 0)
		return NULL;
	servers = s.have ? json_incref(json_object_get(s.detail, "servers")) : NULL;
	json_decref(s.detail);
	return servers;
}

static json_t *backend_to_json(const struct judgement *j, const struct service *svc,
	const struct service_server *srv, nsec_t t0, nsec_t t1, const json_t *detail)
{
	const char *name = srv->node->name;
	bool watched = service_was_watched(j, svc->name);
	json_t *b = json_object();
	const json_t *d = NULL, *one;
	double weights = 0;
	uint64_t sum = 0, mine = connections(j, svc->name, name, t0, t1);
	size_t i;
	int w;

	for (i = 0; i < svc->n_servers; i++) {
		sum += connections(j, svc->name, svc->servers[i].node->name, t0, t1);
		weights += svc->servers[i].weight;
	}
	json_array_foreach (detail, i, one)
		if (streq(text(one, "node"), name))
			d = one;
	set(b, "node", json_string(name));
	set(b, "weight", weight_at(j, svc->name, name, j->stop_t, &w) ? json_integer(w) : NULL);
	if (d) {
		set(b, "connections", copy_of(d, "connections"));
		set(b, "share", copy_of(d, "share"));
		set(b, "expected", copy_of(d, "expected"));
	} else {
		set(b, "connections", watched && t0 < t1 ? json_integer((json_int_t)mine) : NULL);
		set(b, "share", watched && sum ? json_real((double)mine / (double)sum) : NULL);
		set(b, "expected", weights > 0 ? json_real(srv->weight / weights) : NULL);
	}
	set(b, "declared_weight", json_integer(srv->weight));
	set(b, "total",
		watched ? json_integer(
				  (json_int_t)connections(j, svc->name, name, 0, NSEC_INFINITY))
			: NULL);
	return b;
}

json_t *judge_services(const struct judgement *j)
{
	nsec_t t0 = j->settled >= 0 ? bucket_ceil(j->settled) : j->stop_t, t1 = j->stop_t;
	json_t *all = json_array();

	for (size_t i = 0; j->site && i < j->site->n_services; i++) {
		const struct service *svc = &j->site->services[i];
		_cleanup_json_ json_t *detail = balance_detail(j, svc->name, t0, t1);
		json_t *backends = json_array();

		for (size_t k = 0; k < svc->n_servers; k++)
			json_array_append_new(backends,
				backend_to_json(j, svc, &svc->servers[k], t0, t1, detail));
		json_array_append_new(
			all, json_pack("{s:s, s:o, s:o, s:o}", "name", svc->name, "backends",
				     backends, "from_ns", t0 < t1 ? json_integer(t0) : json_null(),
				     "to_ns", t0 < t1 ? json_integer(t1) : json_null()));
	}
	return all;
}

static json_t *list_of(const json_t *j, const char *key)
{
	json_t *v = json_object_get(j, key);

	return json_is_array(v) ? json_incref(v) : json_array();
}

json_t *judge_residue(const struct judgement *j)
{
	const json_t *clean = json_object_get(j->residue, "clean");

	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "clean",
		json_is_boolean(clean) ? json_incref((json_t *)clean) : json_null(), "diff",
		list_of(j->residue, "diff"), "conflicts", list_of(j->residue, "conflicts"),
		"failed", list_of(j->residue, "failed"), "compared", copy_of(j->residue, "compared"), "peak",
		copy_of(j->residue, "peak"));
}

json_t *judge_run(const struct judgement *j, const json_t *plan)
{
	static const char *const of_run[] = {"seed", "kernel", "lab", "file", "host", "version"};
	json_t *o = json_object(), *name = json_object_get(j->scenario, "name");

	set(o, "id", copy_of(j->run, "id"));
	set(o, "scenario", name ? json_incref(name) : copy_of(j->run, "scenario"));
	/* a run that was turned away before it began has its plan alone */
	for (size_t i = 0; i < ARRAY_SIZE(of_run); i++)
		set(o, of_run[i], copy_of(json_object_get(j->run, of_run[i]) ? j->run : plan, of_run[i]));
	set(o, "started", judge_wall(j, j->run ? j->run_t : -1));
	set(o, "ended", judge_wall(j, j->run ? j->last_t : -1));
	set(o, "started_ns", time_or_null(j->run ? j->run_t : -1));
	set(o, "seconds", j->run ? json_real((double)(j->last_t - j->run_t) / NSEC_PER_SEC) : NULL);
	set(o, "summary", copy_of(j->scenario, "summary"));
	set(o, "site", copy_of(json_object_get(j->scenario, "site"), "name"));
	set(o, "set", copy_of(plan, "set"));
	return o;
}

json_t *judge_ledger(const struct judgement *j)
{
	struct ledger_result sum = {.read_back = true};
	const json_t *load;
	unsigned int n = 0;
	size_t i;

	json_array_foreach (json_object_get(j->scenario, "loads"), i, load) {
		struct ledger_result l;

		if (!streq(text(load, "kind"), "ledger") || ledger_check(j->tl, text(load, "name"), &l) <= 0)
			continue;
		n++;
		sum.attempted += l.attempted;
		sum.acknowledged += l.acknowledged;
		sum.reads += l.reads;
		sum.stale += l.stale;
		sum.lost += l.lost;
		sum.duplicated += l.duplicated;
		sum.unsure += l.unsure;
		sum.rpo = MAX(sum.rpo, l.rpo);
		sum.read_back = sum.read_back && l.read_back;
		if (l.missing[0] && !sum.missing[0])
			memcpy(sum.missing, l.missing, sizeof(sum.missing));
	}
	if (!n)
		return json_pack("{s:n, s:n, s:n, s:n}", "acknowledged", "lost", "duplicated", "rpo_ms");
	if (!sum.read_back)
		return json_pack("{s:I, s:I, s:n, s:n, s:n, s:n, s:I, s:I, s:n}", "attempted", (json_int_t)sum.attempted,
			"acknowledged", (json_int_t)sum.acknowledged, "lost", "duplicated", "unsure", "rpo_ms", "reads",
			(json_int_t)sum.reads, "stale", (json_int_t)sum.stale, "missing");
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:s}", "attempted", (json_int_t)sum.attempted, "acknowledged",
		(json_int_t)sum.acknowledged, "lost", (json_int_t)sum.lost, "duplicated", (json_int_t)sum.duplicated, "unsure",
		(json_int_t)sum.unsure, "rpo_ms", (double)sum.rpo / NSEC_PER_MSEC, "reads", (json_int_t)sum.reads, "stale",
		(json_int_t)sum.stale, "missing", sum.missing);
}
