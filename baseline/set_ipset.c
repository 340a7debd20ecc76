/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.ipset: a named set of addresses, for one rule to refer to instead of a rule per address.
 *
 * prior = { "save": the set's text as the kernel saves it, or null: there was none; "spare": a name;
 * "at_ns": when }
 *
 * A set that exists is not emptied and filled again, which rules would see: a second one is made under
 * the spare name, filled, and the two are swapped in one step. The old one stays under the spare name for
 * as long as the change lasts: its time-outs run on, its counters stay, and undo is one more swap. Should
 * it be gone by then, it is made again from the record, its time-outs lowered by the time that has
 * passed.
 *
 *	                 NAME      SPARE
 *	before           prior     -
 *	apply: fill      prior     part of ours
 *	apply: swap      ours      prior            or, when there was none: ours, -
 *	undo             prior     -                whatever it finds of the above
 *
 * The spare set's name tells the run, for who finds it. Members have no comment to carry a tag: the kernel
 * takes one only in a set that was made for comments, and neither ours (it is as it was asked for) nor
 * the one that was there (it is not ours to tell) is.
 *
 * Ours is a set of our type and options with nothing in it but members of ours: some may be missing,
 * because apply did not get that far, or because their time-out has come.
 */
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "baseline/sets.h"
#include "engine/change.h"
#include "engine/clock.h"

#define SPARE_PREFIX CHANGE_TAG "-" /* and the run's hash, and a number: cli_stray.c finds them by it */
#define TIMEOUT_MAX  2147483 /* seconds: the kernel counts milliseconds in 32 bits */

/* The arguments, decoded */
struct wanted {
	const char *name;
	enum sets_type type;
	int family;
	unsigned int maxelem;
	long timeout; /* -1: members stay */
	size_t n;
	const char **members; /* canonical, sorted */
};

static void wanted_clear(struct wanted *w)
{
	free(w->members);
}

static int compare_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int decode(const json_t *args, struct wanted *ret, struct err *err)
{
	const json_t *members = json_object_get(args, "members"), *m,
		     *timeout = json_object_get(args, "timeout");
	const char *type = json_string_value(json_object_get(args, "type"));
	struct wanted w = {.name = json_string_value(json_object_get(args, "name")),
		.family = streq(json_string_value(json_object_get(args, "family")), "inet6")
				  ? AF_INET6
				  : AF_INET,
		.maxelem = (unsigned int)json_integer_value(json_object_get(args, "maxelem")),
		.timeout = timeout ? (long)(json_integer_value(timeout) / NSEC_PER_SEC) : -1};
	size_t i;

	while (w.type < SETS_TYPE_COUNT && !streq(type, sets_type_names[w.type]))
		w.type++;
	if (!w.name || w.type == SETS_TYPE_COUNT || !sets_valid_name(w.name))
		return err_set(err, -EINVAL, "set.ipset: its arguments are damaged");
	w.members = calloc(json_array_size(members) + 1, sizeof(*w.members));
	if (!w.members)
		return err_set(err, -ENOMEM, "out of memory");
	json_array_foreach(members, i, m)
		w.members[w.n++] = json_string_value(m);
	*ret = w;
	return 0;
}

/* Members become what the kernel will call them, sorted, each once: for `check` and `plan` already. */
static int ipset_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	const char *name = json_string_value(json_object_get(args, "name"));
	const json_t *timeout = json_object_get(args, "timeout"), *m;
	_cleanup_json_ json_t *list = json_array();
	_cleanup_(wanted_clear) struct wanted w = {0};
	const char *last = NULL;
	size_t i;
	int r;

	if (!sets_valid_name(name))
		return err_set(err, -EINVAL,
			"set.ipset: name = \"%.40s\": 1 to 31 letters, digits and _ - . :", name);
	if (strncmp(name, SPARE_PREFIX, strlen(SPARE_PREFIX)) == 0)
		return err_set(err, -EINVAL,
			"set.ipset: name = \"%s\": names that begin with " SPARE_PREFIX
			" are taken",
			name);
	if (timeout && (json_integer_value(timeout) % NSEC_PER_SEC ||
			       json_integer_value(timeout) < NSEC_PER_SEC ||
			       json_integer_value(timeout) / NSEC_PER_SEC > TIMEOUT_MAX))
		return err_set(err, -EINVAL,
			"set.ipset: timeout: the kernel takes whole seconds, 1 to %d", TIMEOUT_MAX);
	r = decode(args, &w, err);
	if (r < 0)
		return r;
	for (i = 0; i < w.n; i++) {
		char member[SETS_MEMBER_MAX];

		if (sets_member(w.type, w.family, w.members[i], member) < 0) {
			err_set(err, -EINVAL,
				"set.ipset: members[%zu] = \"%.60s\" is no member of a %s of family %s",
				i + 1, w.members[i], sets_type_names[w.type],
				w.family == AF_INET6 ? "inet6" : "inet");
			err_hint(err, "%s",
				w.type == SETS_HASH_NET ? "as in \"198.18.0.0/24\""
				: w.type == SETS_HASH_IP_PORT
					? "as in \"198.18.0.1,tcp:80\""
					: "as in \"198.18.0.1\"; networks go into a hash:net");
			return -EINVAL;
		}
		json_array_append_new(list, json_string(member));
	}
	json_array_foreach(list, i, m)
		w.members[i] = json_string_value(m);
	qsort(w.members, w.n, sizeof(*w.members), compare_text);
	{
		_cleanup_json_ json_t *sorted = json_array();

		for (i = 0; i < w.n; i++) {
			if (!streq(w.members[i], last))
				json_array_append_new(sorted, json_string(w.members[i]));
			last = w.members[i];
		}
		if (json_array_size(sorted) > w.maxelem)
			return err_set(err, -EINVAL, "set.ipset: %zu members, and maxelem = %u",
				json_array_size(sorted), w.maxelem);
		json_object_set(args, "members", sorted);
	}
	return 0;
}

/* ── what is there ────────────────────────────────────────────────────────────────────────── */

/* 1: parsed; 0: there is no such set */
static int read_set(const struct node *n, const char *name, struct sets_set *ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r = sets_save(n, name, SIZE_MAX, &text, err);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	r = sets_parse(text, name, ret);
	return r < 0 ? err_set(err, r, "ipset %s on %s: its text cannot be read: %s", name, n->name,
			       strerror(-r))
		     : 1;
}

static bool same_kind(const struct wanted *w, const struct sets_set *s)
{
	char type[SETS_NAME_MAX];
	unsigned int maxelem;
	long timeout;
	int family;

	sets_header(s->header, type, &family, &maxelem, &timeout);
	return streq(type, sets_type_names[w->type]) && family == w->family &&
	       maxelem == w->maxelem && timeout == w->timeout;
}

/* @whole: with every member, as it is right after apply */
static bool is_ours(const struct wanted *w, const struct sets_set *s, bool whole)
{
	size_t i = 0;

	if (!same_kind(w, s) || s->n > w->n)
		return false;
	for (size_t k = 0; k < s->n; k++) {
		while (i < w->n && strcmp(w->members[i], s->elems[k].text) < 0)
			i++;
		if (i == w->n || !streq(w->members[i], s->elems[k].text))
			return false;
	}
	return !whole || s->n == w->n;
}

static bool is_prior(const struct sets_set *prior, const struct sets_set *s)
{
	return streq(s->header, prior->header) && sets_within(s, prior, false);
}

static const char *spare_of(const json_t *prior)
{
	const char *s = json_string_value(json_object_get(prior, "spare"));

	return s ? s : "";
}

/* 1: there was a set; 0: there was none */
static int load_prior(
	const struct wanted *w, const json_t *prior, struct sets_set *ret, struct err *err)
{
	const json_t *save = json_object_get(prior, "save");
	int r;

	if (!sets_valid_name(spare_of(prior)) ||
		strncmp(spare_of(prior), SPARE_PREFIX, strlen(SPARE_PREFIX)) != 0)
		return err_set(err, -EINVAL, "set.ipset: its record is damaged");
	if (json_is_null(save))
		return 0;
	r = json_is_string(save) ? sets_parse(json_string_value(save), w->name, ret) : -EINVAL;
	return r < 0 ? err_set(err, -EINVAL, "set.ipset: its record is damaged") : 1;
}

/* ── the life of the change ───────────────────────────────────────────────────────────────── */

static int ipset_supported(const struct node *n, const json_t *args _unused_, struct err *reterr)
{
	return sets_supported(n, reterr);
}

static int ipset_capture(
	const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_(wanted_clear) struct wanted w = {0};
	_cleanup_free_ char *text = NULL;
	_cleanup_(sets_clear) struct sets_set was = {0};
	char spare[SETS_NAME_MAX];
	int r = decode(args, &w, err);

	if (r < 0)
		return r;
	r = sets_save(n, w.name, SETS_TEXT_MAX, &text, err);
	if (r == -EFBIG)
		err_hint(err, "it could not be recorded, and so not be put back for certain");
	if (r < 0 && r != -ENOENT)
		return r;
	if (text) {
		char type[SETS_NAME_MAX];
		unsigned int maxelem;
		long timeout;
		int family;

		r = sets_parse(text, w.name, &was);
		if (r < 0)
			return err_set(err, r, "ipset %s on %s: its text cannot be read: %s",
				w.name, n->name, strerror(-r));
		sets_header(was.header, type, &family, &maxelem, &timeout);
		if (!streq(type, sets_type_names[w.type]) || family != w.family) {
			err_set(err, -EEXIST,
				"ipset %s on %s: it exists as a %s of family %s, and cannot become a %s of family %s",
				w.name, n->name, type, family == AF_INET6 ? "inet6" : "inet",
				sets_type_names[w.type], w.family == AF_INET6 ? "inet6" : "inet");
			err_hint(
				err, "rules may refer to it: choose another name, or its own type");
			return -EEXIST;
		}
	}
	do {
		const char *run = strchr(change_run_tag_short(), '_');

		snprintf(spare, sizeof(spare), SPARE_PREFIX "%s-%08llx", run ? run + 1 : "0",
			(unsigned long long)now_ns() & 0xffffffffull);
		r = sets_exists(n, spare, err);
	} while (r == 1);
	if (r < 0)
		return r;
	*ret_prior = json_pack(
		"{s:s?, s:s, s:I}", "save", text, "spare", spare, "at_ns", (json_int_t)now_ns());
	return *ret_prior ? 0
			  : err_set(err, -EILSEQ, "ipset %s on %s: its text is no valid text",
				    w.name, n->name);
}

static int fill(const struct node *n, const struct wanted *w, const char *name, struct err *err)
{
	int r = sets_create(n, name, w->type, w->family, w->maxelem, w->timeout, w->n, err);

	return r < 0 || w->n == 0 ? r
				  : sets_add(n, name, w->type, w->family, w->members, w->n, err);
}

static int ipset_apply(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_(wanted_clear) struct wanted w = {0};
	_cleanup_(sets_clear) struct sets_set was = {0}, now = {0}, made = {0};
	int r = decode(args, &w, err), existed;

	if (r < 0)
		return r;
	existed = load_prior(&w, prior, &was, err);
	if (existed < 0)
		return existed;
	r = read_set(n, w.name, &now, err);
	if (r < 0)
		return r;
	if (r != existed || (existed && !is_prior(&was, &now)))
		return err_set(err, -EBUSY,
			"ipset %s on %s: it changed between being read and being set", w.name,
			n->name);
	if (existed && is_ours(&w, &now, true) && w.timeout < 0)
		return 0;
	r = fill(n, &w, existed ? spare_of(prior) : w.name, err);
	if (r == 0 && existed)
		r = sets_swap(n, w.name, spare_of(prior), err);
	if (r < 0)
		return r;
	r = read_set(n, w.name, &made, err);
	if (r < 0)
		return r;
	if (r == 0 || !is_ours(&w, &made, w.timeout < 0))
		return err_set(err, -EPROTO,
			"ipset %s on %s: it reads back otherwise than it was set", w.name, n->name);
	return 0;
}

/*
 * The prior set is back under its name by way of the spare one, which is made of the record if it is not
 * there.
 */
static int swap_back(const struct node *n, const struct wanted *w, const json_t *prior,
	bool have_spare, struct err *err)
{
	const char *save = json_string_value(json_object_get(prior, "save")),
		   *spare = spare_of(prior);
	nsec_t at = json_integer_value(json_object_get(prior, "at_ns"));
	_cleanup_free_ char *text = NULL;
	int r = 0;

	if (!have_spare) {
		text = sets_renamed(save, w->name, spare, (long)((now_ns() - at) / NSEC_PER_SEC));
		if (!text)
			return err_set(err, -ENOMEM, "out of memory");
		r = sets_restore(n, text, err);
	}
	return r < 0 ? r : sets_swap(n, w->name, spare, err);
}

static int conflict(const struct node *n, const struct wanted *w, const struct sets_set *now,
	bool there, struct err *err)
{
	if (there)
		return err_set(err, CHANGE_CONFLICT,
			"ipset %s on %s: it has %zu members and is neither ours nor as before",
			w->name, n->name, now->n);
	return err_set(err, CHANGE_CONFLICT, "ipset %s on %s: somebody else destroyed it", w->name,
		n->name);
}

static int ipset_undo(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_(wanted_clear) struct wanted w = {0};
	_cleanup_(sets_clear) struct sets_set was = {0}, now = {0}, spare = {0};
	int r = decode(args, &w, err), existed, there, have_spare, result = 0;

	if (r < 0)
		return r;
	existed = load_prior(&w, prior, &was, err);
	if (existed < 0)
		return existed;
	there = read_set(n, w.name, &now, err);
	if (there < 0)
		return there;
	if (!existed) {
		if (!there)
			return 0;
		if (!is_ours(&w, &now, false))
			return conflict(n, &w, &now, true, err);
		r = sets_destroy(n, w.name, err);
		return r == -ENOENT ? 0 : r;
	}
	have_spare = read_set(n, spare_of(prior), &spare, err);
	if (have_spare < 0)
		return have_spare;
	/*
	 * Is the spare one the prior set (apply has swapped), or a part of ours (it has not)? Where prior
	 * and ours are alike, either does.
	 */
	if (there && is_prior(&was, &now)) {
		result = 0;
	} else if (there && is_ours(&w, &now, w.timeout < 0)) { /* it was put there whole: what is missing somebody took */
		if (have_spare && !is_prior(&was, &spare)) {
			r = sets_destroy(n, spare_of(prior), err);
			if (r < 0)
				return r;
			have_spare = 0;
		}
		r = swap_back(n, &w, prior, have_spare, err);
		if (r < 0)
			return r;
		have_spare = 1;
	} else {
		result = conflict(n, &w, &now, there, err);
	}
	/*
	 * Of the two, what is under the spare name now is ours: or somebody else's change made it the
	 * only copy of the prior one
	 */
	if (have_spare && result == 0) {
		r = sets_destroy(n, spare_of(prior), err);
		if (r < 0 && r != -ENOENT)
			return r;
	} else if (have_spare) {
		err_hint(err, "the set as it was is kept as %s: ipset swap %s %s; ipset destroy %s",
			spare_of(prior), spare_of(prior), w.name, spare_of(prior));
	}
	return result;
}

static int ipset_verify(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_(wanted_clear) struct wanted w = {0};
	_cleanup_(sets_clear) struct sets_set was = {0}, now = {0};
	int r = decode(args, &w, err), existed;

	if (r < 0)
		return r;
	existed = load_prior(&w, prior, &was, err);
	if (existed < 0)
		return existed;
	r = sets_exists(n, spare_of(prior), err);
	if (r < 0)
		return r;
	if (r == 1)
		return err_set(err, 1, "ipset on %s: the spare set %s is still there", n->name,
			spare_of(prior));
	r = read_set(n, w.name, &now, err);
	if (r < 0)
		return r;
	if (r != existed)
		return err_set(err, 1, "ipset %s on %s: it is %s", w.name, n->name,
			r ? "still there" : "gone");
	if (existed && !is_prior(&was, &now))
		return err_set(err, 1,
			"ipset %s on %s: it has %zu members, before %zu, or other options", w.name,
			n->name, now.n, was.n);
	return 0;
}

/*
 * By itself a set is only a list of addresses. What rules refer to it already do with its members is not looked at: whichever address is
 * let in or thrown out by this may be cut, on any device. A node that is not there yet has no rules.
 */
static int ipset_reach(const struct node *n, const json_t *args, json_t **ret_reach, struct err *err)
{
	_cleanup_(wanted_clear) struct wanted w = {0};
	_cleanup_(sets_clear) struct sets_set now = {0};
	_cleanup_json_ json_t *sets = NULL, *to = json_array();
	int r = decode(args, &w, err);

	if (r < 0 || n->netns_fd < 0 || sets_supported(n, NULL) < 0)
		return r;
	r = sets_list(n, &sets, err);
	if (r < 0)
		return r;
	if (json_integer_value(json_object_get(sets, w.name)) == 0)
		return 0;
	r = read_set(n, w.name, &now, err);
	for (size_t i = 0, k = 0; r >= 0 && (i < w.n || k < now.n);) {
		int c = i == w.n ? 1 : k == now.n ? -1 : strcmp(w.members[i], now.elems[k].text);
		const char *m = c <= 0 ? w.members[i] : now.elems[k].text;

		/* "198.18.0.7,tcp:80" */
		if (c != 0)
			json_array_append_new(to, json_stringn(m, strcspn(m, ", ")));
		i += c <= 0;
		k += c >= 0;
	}
	if (r < 0)
		return r;
	*ret_reach = json_pack("{s:[{s:s}], s:O}", "devices", "dev", "*", "to", to);
	return *ret_reach ? 0 : -ENOMEM;
}

static void add_size(json_t *item, const char *key, const struct sets_set *s, bool there)
{
	json_object_set_new(item, key, there ? json_sprintf("%zu members", s->n) : json_string("none"));
}

static int ipset_look(
	const struct node *n, const json_t *args, const json_t *prior, json_t **ret_items, struct err *err)
{
	_cleanup_(wanted_clear) struct wanted w = {0};
	_cleanup_(sets_clear) struct sets_set was = {0}, now = {0};
	_cleanup_json_ json_t *item = NULL;
	int r = decode(args, &w, err), existed, exists;

	if (r < 0)
		return r;
	existed = load_prior(&w, prior, &was, err);
	exists = existed < 0 ? existed : read_set(n, w.name, &now, err);
	if (exists < 0)
		return exists;
	item = json_pack("{s:o, s:o, s:b}", "key", json_sprintf("ipset %s", w.name), "want",
		json_sprintf("%zu members", w.n), "holds", exists && is_ours(&w, &now, w.timeout < 0));
	if (!item)
		return err_set(err, -ENOMEM, "out of memory");
	add_size(item, "before", &was, existed);
	add_size(item, "now", &now, exists);
	*ret_items = json_pack("[O]", item);
	return *ret_items ? 0 : -ENOMEM;
}

/* ── in ipset's words ─────────────────────────────────────────────────────────────────────── */

#define MEMBERS_SHOWN 8

static void add_restore(struct strbuf *b, const struct node *n, const char *text)
{
	strbuf_puts(b, "printf %s ");
	strbuf_add_shell(b, text);
	strbuf_puts(b, " | ");
	change_command_prefix(n, b);
	strbuf_puts(b, "ipset restore\n");
}

/* Destroys what is there, and is content when nothing is */
static void add_destroy(struct strbuf *b, const struct node *n, const char *name)
{
	strbuf_puts(b, "! ");
	change_command_prefix(n, b);
	strbuf_addf(b, "ipset list -name %s >/dev/null 2>&1 || ", name);
	change_command_prefix(n, b);
	strbuf_addf(b, "ipset destroy %s\n", name);
}

static void add_line(struct strbuf *b, const struct node *n, const char *fmt, ...) _printf_(3, 4);
static void add_line(struct strbuf *b, const struct node *n, const char *fmt, ...)
{
	_cleanup_free_ char *line = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&line, fmt, ap) < 0)
		line = NULL;
	va_end(ap);
	change_command_prefix(n, b);
	strbuf_addf(b, "%s\n", line ? line : "");
}

static int ipset_command(const struct node *n, const json_t *args, const json_t *prior,
	struct strbuf *ret_apply, struct strbuf *ret_undo)
{
	const char *save = json_string_value(json_object_get(prior, "save")),
		   *spare = spare_of(prior), *fill_name;
	_cleanup_(wanted_clear) struct wanted w = {0};
	int r = decode(args, &w, NULL);

	if (r < 0)
		return r;
	fill_name = save ? spare : w.name;
	if (w.timeout >= 0)
		add_line(ret_apply, n, "ipset create %s %s family %s maxelem %u timeout %ld",
			fill_name, sets_type_names[w.type], w.family == AF_INET6 ? "inet6" : "inet",
			w.maxelem, w.timeout);
	else
		add_line(ret_apply, n, "ipset create %s %s family %s maxelem %u", fill_name,
			sets_type_names[w.type], w.family == AF_INET6 ? "inet6" : "inet",
			w.maxelem);
	for (size_t i = 0; i < MIN(w.n, (size_t)MEMBERS_SHOWN); i++)
		add_line(ret_apply, n, "ipset add %s %s", fill_name, w.members[i]);
	if (w.n > MEMBERS_SHOWN)
		strbuf_addf(ret_apply, "# ... and %zu more members\n", w.n - MEMBERS_SHOWN);
	if (save)
		add_line(ret_apply, n, "ipset swap %s %s", w.name, spare);

	if (!save) {
		if (prior) {
			add_destroy(ret_undo, n, w.name);
		} else {
			strbuf_puts(ret_undo,
				"# if there was none before; else what it held is swapped back\n");
			add_line(ret_undo, n, "ipset destroy %s", w.name);
		}
	} else {
		/* Whatever state it is found in: made again from the record, then put in place in one step */
		_cleanup_free_ char *text = sets_renamed(save, w.name, spare, 0);

		if (!text)
			return -ENOMEM;
		add_destroy(ret_undo, n, spare);
		add_restore(ret_undo, n, text);
		add_line(ret_undo, n, "ipset swap %s %s", w.name, spare);
		add_destroy(ret_undo, n, spare);
	}
	return 0;
}

static const struct param ipset_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "where"},
	{.name = "name",
		.type = PARAM_STRING,
		.required = true,
		.help = "of the set, as rules refer to it"},
	{.name = "type",
		.type = PARAM_STRING,
		.values = "hash:ip|hash:net|hash:ip,port",
		.deflt = "hash:ip",
		.help = "of its members"},
	{.name = "family",
		.type = PARAM_STRING,
		.values = "inet|inet6",
		.deflt = "inet",
		.help = "of its members"},
	{.name = "members",
		.type = PARAM_LIST,
		.of = PARAM_STRING,
		.deflt = "[]",
		.help = "\"198.18.0.1\", \"198.18.0.0/24\" or \"198.18.0.1,tcp:80\", by its type; nothing else is in it then"},
	{.name = "timeout",
		.type = PARAM_DURATION,
		.help = "the kernel drops members after this long; default: they stay"},
	{.name = "maxelem",
		.type = PARAM_INT,
		.min = 1,
		.max = 16777216,
		.deflt = "65536",
		.help = "members it may have at most"},
	PARAM_END,
};

const struct change_ops change_set_ipset = {
	.name = "set.ipset",
	.summary = "A named set of addresses for packet filter rules to refer to",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = ipset_params,
	.example = "[{\"node\": \"node\", \"name\": \"conformance\", \"members\": [\"198.18.0.7\", \"198.18.0.9\"]},"
		   " {\"node\": \"node\", \"name\": \"conformance6\", \"type\": \"hash:net\", \"family\": \"inet6\","
		   " \"members\": [\"2001:db8:7::/48\"]}]",
	.resolve = ipset_resolve,
	.supported = ipset_supported,
	.reach = ipset_reach,
	.capture = ipset_capture,
	.apply = ipset_apply,
	.undo = ipset_undo,
	.verify = ipset_verify,
	.look = ipset_look,
	.command = ipset_command,
};
