/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/ledger.h"

#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/str.h"

#define WRITES_MAX (1u << 22)

struct entry {
	nsec_t ended;
	bool known, sent, acknowledged;
	uint8_t there; /* how often, at most 2 */
};

struct book {
	struct entry *v;
	size_t n, room; /* number i is v[i - 1] */
};

static struct entry *entry_of(struct book *b, json_int_t number)
{
	if (number < 1 || number > WRITES_MAX)
		return NULL;
	if ((size_t)number > b->room) {
		size_t room = MAX((size_t)number, b->room * 2);
		struct entry *v = reallocarray(b->v, room, sizeof(*v));

		if (!v)
			return NULL;
		memset(v + b->room, 0, (room - b->room) * sizeof(*v));
		b->v = v;
		b->room = room;
	}
	b->n = MAX(b->n, (size_t)number);
	return &b->v[number - 1];
}

/* [n, due, sent, ended, outcome, node] */
static int take_writes(struct book *b, const json_t *list)
{
	const json_t *w;
	size_t i;

	json_array_foreach((json_t *)list, i, w) {
		struct entry *e = entry_of(b, json_integer_value(json_array_get(w, 0)));

		if (!e || e->known)
			return -EBADMSG;
		e->known = true;
		e->sent = json_integer_value(json_array_get(w, 2)) > 0;
		e->ended = json_integer_value(json_array_get(w, 3));
		e->acknowledged = streq(json_string_value(json_array_get(w, 4)), outcome_names[OUTCOME_OK]);
	}
	return 0;
}

/* [[first, last], ...] */
static int take_runs(struct book *b, const json_t *runs)
{
	const json_t *run;
	size_t i;

	json_array_foreach((json_t *)runs, i, run) {
		json_int_t first = json_integer_value(json_array_get(run, 0)), last = json_integer_value(json_array_get(run, 1));

		if (first < 1 || last < first || last > WRITES_MAX)
			return -EBADMSG;
		for (json_int_t n = first; n <= last; n++) {
			struct entry *e = entry_of(b, n);

			if (!e)
				return -ENOMEM;
			e->there += e->there < 2;
		}
	}
	return 0;
}

static void add_missing(struct ledger_result *r, size_t first, size_t last)
{
	size_t used = strlen(r->missing), room = sizeof(r->missing) - used;
	char one[48];

	if (first == last)
		snprintf(one, sizeof(one), "%s%zu", used ? ", " : "", first);
	else
		snprintf(one, sizeof(one), "%s%zu-%zu", used ? ", " : "", first, last);
	if (strlen(one) + sizeof(", ...") < room)
		strcpy(r->missing + used, one);
	else if (used && room > sizeof(", ...") && !strstr(r->missing, "..."))
		strcpy(r->missing + used, ", ...");
}

static void compare(const struct book *b, struct ledger_result *r)
{
	nsec_t survived = -1, stretch_from = -1;
	size_t run = 0; /* first of a run of lost ones; 0: none */

	for (size_t i = 0; i < b->n; i++) {
		const struct entry *e = &b->v[i];
		bool lost = e->acknowledged && !e->there;

		r->duplicated += e->there > 1;
		r->unsure += e->there && !e->acknowledged;
		r->lost += lost;
		if (lost && !run)
			run = i + 1;
		if (run && (!lost || i + 1 == b->n)) {
			add_missing(r, run, lost ? i + 1 : i);
			run = 0;
		}
		if (e->acknowledged && e->there && stretch_from < 0)
			survived = MAX(survived, e->ended);
		if (lost) {
			if (stretch_from < 0)
				stretch_from = survived >= 0 ? survived : e->ended;
			r->rpo = MAX(r->rpo, e->ended - stretch_from);
		}
	}
}

int ledger_check(const struct timeline *tl, const char *load, struct ledger_result *ret)
{
	struct ledger_result r = {0};
	struct book b = {0};
	const struct tl_event *e;
	const json_t *read = NULL;
	size_t n = timeline_events(tl, &e);
	bool any = false;
	int k = 0;

	for (size_t i = 0; k == 0 && i < n; i++) {
		if (!streq(json_string_value(json_object_get(e[i].data, "load")), load))
			continue;
		if (streq(e[i].kind, EV_LEDGER)) {
			any = true;
			k = take_writes(&b, json_object_get(e[i].data, "writes"));
			r.reads += (uint64_t)json_integer_value(json_object_get(e[i].data, "reads"));
			r.stale += json_array_size(json_object_get(e[i].data, "stale"));
		} else if (streq(e[i].kind, EV_LEDGER_READ)) {
			any = true;
			read = e[i].data;
		}
	}
	for (size_t i = 0; i < b.n; i++) {
		r.attempted += b.v[i].known;
		r.acknowledged += b.v[i].acknowledged;
	}
	if (k == 0 && json_is_array(json_object_get(read, "runs"))) {
		r.read_back = true;
		r.read_from = json_string_value(json_object_get(read, "node"));
		k = take_runs(&b, json_object_get(read, "runs"));
		if (k == 0)
			compare(&b, &r);
	} else if (k == 0 && any) {
		const char *why = json_string_value(json_object_get(read, "error"));

		snprintf(r.error, sizeof(r.error), "%s", why ? why : "the drill ended before that");
	}
	free(b.v);
	if (k < 0 || !any)
		return k;
	*ret = r;
	return 1;
}
