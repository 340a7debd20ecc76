/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * run_picture.c: the snapshots of a run. Before and after are taken by the conductor (run.c, run_undo.c); the one at the peak by a
 * thread of its own, while the method goes on, so that it neither delays the drill nor the undo:
 *
 *	             run_peak_applied(): more faults in force than in any picture so far
 *	  idle ───────────────────────────────▶ taking ─── done, and no lift began meanwhile ──▶ kept; idle
 *	                                           │
 *	                                           └──── run_peak_lifting(): it would show half an undo ──▶ dropped; idle
 *
 * A lift does not wait for it: it says "stop", which is heard between two subjects, and goes on. What the picture is for: it differs
 * from the one before by what the drill has changed. A change that it does not show is one whose residue would not
 * show either, and the report says so.
 */
#include "engine/run_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "engine/clock.h"
#include "engine/snapshot.h"

#define PEAK_NICE 10

struct picture {
	char *text;
	nsec_t t, took;
	unsigned int faults;
	size_t n;
	struct run_change **in_force;
};

struct run_peak {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool started, quit, asked;
	atomic_bool stop; /* the picture being taken is of no use any more */
	unsigned int faults, lifts, missed;
	size_t n;
	struct run_change **in_force; /* borrowed from the run, which keeps them to its end */
	struct picture best;
};

/* ── pictures ──────────────────────────────────────────────────────────────────────────────── */

/* "/run/netns/muster-SITE-lan" is the switch called "switch/lan". */
static struct node *switch_node(const struct site *site, const char *netns)
{
	_cleanup_free_ char *prefix = strf("muster-%s-", site->name), *name = NULL;
	const char *base = strrchr(netns, '/');
	struct node *n;

	base = base ? base + 1 : netns;
	if (prefix && strncmp(base, prefix, strlen(prefix)) == 0)
		base += strlen(prefix);
	name = strf("switch/%s", base);
	n = name ? node_new(name, netns) : NULL;
	if (n && node_open(n, NULL) < 0) {
		node_free(n);
		return NULL;
	}
	return n;
}

/* The nodes, and the switches between them: a fault that cuts a node off may well sit there. */
static int take_site(const struct site *site, const atomic_bool *stop, char **ret, struct err *err)
{
	size_t n = 0, most = site->n_nodes * (1 + NODE_LINKS_MAX);
	_cleanup_free_ const struct node **all = calloc(most + 1, sizeof(*all));
	int e;

	if (!all)
		return -ENOMEM;
	for (; n < site->n_nodes; n++)
		all[n] = site->nodes[n];
	for (size_t i = 0; i < site->n_nodes; i++)
		for (size_t k = 0; k < site->nodes[i]->n_links; k++) {
			const char *netns = site->nodes[i]->links[k].peer_netns;
			bool known = !netns;
			struct node *sw;

			for (size_t o = 0; o < n && !known; o++)
				known = streq(all[o]->netns, netns);
			sw = known ? NULL : switch_node(site, netns);
			if (sw)
				all[n++] = sw;
		}
	e = snapshot_take_until(all, n, stop, ret, err);
	for (size_t i = site->n_nodes; i < n; i++)
		node_free((struct node *)all[i]);
	return e;
}

int run_snapshot_host(struct run *r, char **ret, struct err *err)
{
	const struct node *nodes[] = {r->host};

	return snapshot_take(nodes, 1, ret, err);
}

int run_snapshot_site(struct run *r, char **ret, struct err *err)
{
	return take_site(r->site, NULL, ret, err);
}

/* ── the peak ──────────────────────────────────────────────────────────────────────────────── */

static void picture_clear(struct picture *p)
{
	free(p->text);
	free(p->in_force);
	*p = (struct picture){0};
}

static int take_peak(struct run *r, char **ret)
{
	const struct node *nodes[] = {r->host};
	_cleanup_free_ char *host = NULL, *site = NULL;
	int e = snapshot_take_until(nodes, 1, &r->peak->stop, &host, NULL);

	if (e == 0)
		e = take_site(r->site, &r->peak->stop, &site, NULL);
	if (e < 0)
		return e;
	*ret = strf("%s%s", host, site);
	return *ret ? 0 : -ENOMEM;
}

static void *peak_thread(void *arg)
{
	struct run *r = arg;
	struct run_peak *p = r->peak;

	/*
	 * Behind the load and the probes, where processors are short. Not further back: it holds the kernel's locks for moments
	 * that an undo may have to wait for.
	 */
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), PEAK_NICE);
	pthread_mutex_lock(&p->lock);
	while (!p->quit) {
		struct picture now = {0};
		unsigned int lifts = p->lifts;
		int e = 0;

		if (!p->asked) {
			pthread_cond_wait(&p->wake, &p->lock);
			continue;
		}
		p->asked = false;
		atomic_store(&p->stop, false);
		now.faults = p->faults;
		now.n = p->n;
		now.in_force = malloc((p->n + 1) * sizeof(*now.in_force));
		if (!now.in_force)
			e = -ENOMEM;
		else
			memcpy(now.in_force, p->in_force, p->n * sizeof(*now.in_force));
		now.t = now_ns();
		pthread_mutex_unlock(&p->lock);
		if (e == 0)
			e = take_peak(r, &now.text);
		pthread_mutex_lock(&p->lock);
		now.took = now_ns() - now.t;
		if (e == 0 && lifts == p->lifts) {
			picture_clear(&p->best);
			p->best = now;
			/* more came while it was taken */
			p->asked = p->asked && p->faults > p->best.faults;
		} else {
			p->missed++;
			picture_clear(&now);
		}
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static struct run_peak *peak_new(struct run *r)
{
	struct run_peak *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, NULL);
	r->peak = p;
	/* without a thread there is no picture, and the report says that */
	p->started = pthread_create(&p->thread, NULL, peak_thread, r) == 0;
	return p;
}

void run_peak_applied(struct run *r, struct run_change *rc)
{
	struct run_peak *p = r->peak ? r->peak : peak_new(r);
	struct run_change **more;

	if (!p || rc->c.ops->kind == CHANGE_LAB)
		return;
	pthread_mutex_lock(&p->lock);
	more = realloc(p->in_force, (p->n + 1) * sizeof(struct run_change *));
	if (more) {
		p->in_force = more;
		more[p->n++] = rc;
		if (rc->c.ops->kind == CHANGE_FAULT && ++p->faults > p->best.faults) {
			p->asked = true;
			pthread_cond_signal(&p->wake);
		}
	}
	pthread_mutex_unlock(&p->lock);
}

void run_peak_lifting(struct run *r, const struct run_change *rc)
{
	struct run_peak *p = r->peak;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	for (size_t i = 0; i < p->n; i++)
		if (p->in_force[i] == rc) {
			memmove(&p->in_force[i], &p->in_force[i + 1], (--p->n - i) * sizeof(struct run_change *));
			p->faults -= rc->c.ops->kind == CHANGE_FAULT;
			break;
		}
	p->lifts++;
	p->asked = false;
	atomic_store(&p->stop, true);
	pthread_mutex_unlock(&p->lock);
}

/* ── what it shows ─────────────────────────────────────────────────────────────────────────── */

/* "+ NODE: SUBJECT ..." taken apart */
struct diff_line {
	const char *node, *subject, *rest;
	size_t node_len, subject_len;
};

static bool diff_line(const char *line, struct diff_line *ret)
{
	const char *p = line[0] && line[1] == ' ' ? strstr(line + 2, ": ") : NULL;

	if (!p)
		return false;
	ret->node = line + 2;
	ret->node_len = (size_t)(p - ret->node);
	ret->subject = p + 2;
	ret->subject_len = strcspn(ret->subject, " ");
	ret->rest = ret->subject + ret->subject_len;
	return true;
}

static bool is_word(const char *s, size_t len, const char *word)
{
	return strlen(word) == len && memcmp(s, word, len) == 0;
}

/* "set.sysctl" is told by the subject of that name, if there is one. */
static const char *own_subject(const struct run_change *rc)
{
	const char *dot = strchr(rc->c.ops->name, '.');

	for (const struct snapshot_ops *const *ops = snapshot_table; dot && *ops; ops++)
		if (streq((*ops)->name, dot + 1))
			return (*ops)->name;
	return NULL;
}

/* Is there a line about the change's node, or about its port of a switch, that no other change has a better claim to? */
static bool shows(const json_t *diff, const struct picture *p, const struct run_change *rc)
{
	const char *own = own_subject(rc), *node = rc->c.node->name;
	_cleanup_free_ char *port = strf(" %s ", node);
	const json_t *line;
	size_t i;

	json_array_foreach((json_t *)diff, i, line) {
		struct diff_line l;
		bool taken = false;

		if (!diff_line(json_string_value(line), &l))
			continue;
		if (!is_word(l.node, l.node_len, node) &&
			!(l.node_len > 7 && memcmp(l.node, "switch/", 7) == 0 && port && strstr(l.rest, port)))
			continue;
		if (own) {
			if (is_word(l.subject, l.subject_len, own))
				return true;
			continue;
		}
		for (size_t k = 0; k < p->n && !taken; k++) {
			const char *other = own_subject(p->in_force[k]);

			taken = other && streq(p->in_force[k]->c.node->name, node) &&
				is_word(l.subject, l.subject_len, other);
		}
		if (!taken)
			return true;
	}
	return false;
}

static json_t *peak_to_json(const struct run *r, const struct picture *p)
{
	_cleanup_free_ char *before = strf("%s%s", r->host_before ? r->host_before : "", r->site_before ? r->site_before : "");
	_cleanup_json_ json_t *diff = before ? snapshot_diff(before, p->text) : NULL;
	json_t *changed = json_object(), *unseen = json_array();
	const json_t *line;
	size_t i;

	json_array_foreach(diff, i, line) {
		struct diff_line l;

		if (diff_line(json_string_value(line), &l)) {
			_cleanup_free_ char *subject = strndup(l.subject, l.subject_len);

			if (subject)
				json_object_set_new(changed, subject,
					json_integer(json_integer_value(json_object_get(changed, subject)) + 1));
		}
	}
	for (i = 0; i < p->n; i++)
		if (!shows(diff, p, p->in_force[i])) {
			_cleanup_free_ char *s = strf("%s on %s", p->in_force[i]->c.ops->name, p->in_force[i]->c.node->name);

			json_array_append_new(unseen, s ? json_string(s) : NULL);
		}
	return json_pack("{s:I, s:f, s:i, s:i, s:o, s:o}", "at_ns", (json_int_t)p->t, "took_ms",
		(double)p->took / NSEC_PER_MSEC, "faults", (int)p->faults, "changes", (int)p->n, "changed", changed, "unseen",
		unseen);
}

json_t *run_peak_end(struct run *r)
{
	struct run_peak *p = r->peak;
	json_t *j = NULL;

	if (!p)
		return json_null();
	pthread_mutex_lock(&p->lock);
	p->quit = true;
	atomic_store(&p->stop, true);
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	if (p->started)
		pthread_join(p->thread, NULL);
	p->started = false;
	if (p->best.text) {
		_cleanup_free_ char *path = strf("%s/snapshot-peak.txt", r->o->dir);

		if (path)
			(void)file_write(path, p->best.text, strlen(p->best.text));
		j = peak_to_json(r, &p->best);
	} else if (p->missed) {
		j = json_pack("{s:s}", "text", "every fault was lifted before the picture at the peak was complete");
	}
	return j ? j : json_null();
}

void run_peak_free(struct run *r)
{
	struct run_peak *p = TAKE_PTR(r->peak);

	if (!p)
		return;
	picture_clear(&p->best);
	free(p->in_force);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
