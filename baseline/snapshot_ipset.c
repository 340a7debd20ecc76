/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IP sets as text, as the kernel saves them, without what runs by itself: time-outs and counters. A set
 * of more than MEMBERS_SHOWN members is one line with their number and a digest.
 */
#include <string.h>

#include "baseline/sets.h"
#include "engine/snapshot.h"

#define MEMBERS_SHOWN 256
#define ALL_MAX	      (64u << 20)

/* FNV-1a, 64 bits: it tells two states of one host apart; nobody forges a snapshot against himself */
static uint64_t digest(const struct sets_set *s)
{
	uint64_t h = 14695981039346656037ull;

	for (size_t i = 0; i < s->n; i++)
		for (const char *p = s->elems[i].text;; p++) {
			h = (h ^ (uint8_t)*p) * 1099511628211ull;
			if (!*p)
				break;
		}
	return h;
}

static void add_set(struct strbuf *b, const char *name, const struct sets_set *s)
{
	strbuf_addf(b, "ipset %s %s\n", name, s->header);
	if (s->n > MEMBERS_SHOWN) {
		strbuf_addf(b, "ipset %s members %zu digest %016llx\n", name, s->n,
			(unsigned long long)digest(s));
		return;
	}
	for (size_t i = 0; i < s->n; i++)
		strbuf_addf(b, "ipset %s member %s\n", name, s->elems[i].text);
}

static int ipset_take(const struct node *n, struct strbuf *b, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r;

	/*
	 * Asking the kernel could load the module, and a snapshot changes nothing. Built in, it is listed
	 * there too.
	 */
	if (access("/sys/module/ip_set", F_OK) < 0)
		return 0;
	r = sets_save(n, NULL, ALL_MAX, &text, err);
	if (r < 0)
		return r;
	/* "create NAME ..." lines name the sets */
	for (const char *p = text; p && *p;) {
		const char *line = p, *end = p + strcspn(p, "\n");
		char name[SETS_NAME_MAX];
		size_t len;

		p = *end ? end + 1 : end;
		if (strncmp(line, "create ", 7) != 0)
			continue;
		line += 7;
		len = strcspn(line, " \n");
		if (len < sizeof(name)) {
			_cleanup_(sets_clear) struct sets_set s = {0};

			memcpy(name, line, len);
			name[len] = '\0';
			r = sets_parse(text, name, &s);
			if (r < 0)
				return err_set(err, r, "ipset %s: its text cannot be read: %s",
					name, strerror(-r));
			add_set(b, name, &s);
		}
	}
	return 0;
}

const struct snapshot_ops snapshot_ipset = {
	.name = "ipset",
	.take = ipset_take,
};
