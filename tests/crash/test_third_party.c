/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Somebody else is at work on the host while a drill is: 1,000 random sequences. In each, up to five changes are made,
 * and in between and after them a third party writes, removes or replaces some of the same objects; then the changes
 * are undone, by the engine's way or by the journal's reader. What must be there then is said by a model of
 * compare-and-restore that knows nothing of the changes' code:
 *
 *	going backwards, an object that has the value from before a change is left; one that has the change's value gets the one from
 *	before; one that has any other value is somebody else's: it stays, and the change's entry says CONFLICT
 *
 * Then the test puts back by hand what the third party changed, and the site's snapshot must equal the first one, byte
 * for byte. Seed: MUSTER_SEED, else 1; each sequence has one of its own, which is printed when it fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "baseline/sets.h"
#include "engine/journal.h"
#include "engine/site.h"
#include "engine/units.h"
#include "tests/lab/bridge_site.h"

#define SEQUENCES    1000
#define SEQUENCES_VM 40 /* everything takes ten times longer there */
#define CHANGES_MAX  5
#define OBJECTS_MAX  4 /* of one change */
#define VALUE_MAX    256

static struct bridge_site site;
static uint64_t state;
static unsigned int conflicts, undone, acts, refused;

static unsigned int below(unsigned int n)
{
	/* xorshift64* (Vigna 2016) */
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (unsigned int)((state * 2685821657736338717ull) >> 33) % n;
}

/* ── objects ───────────────────────────────────────────────────────────────────────────────── */

enum kind { SYSCTL, SET };

struct object {
	enum kind kind;
	const char *name; /* the parameter, the set */
	const char *path;
	const char *values[5]; /* that muster and the third party give it */
};

static const struct object objects[] = {
	{SYSCTL, "net.ipv4.tcp_fin_timeout", "/proc/sys/net/ipv4/tcp_fin_timeout", {"31", "32", "33", "34", "35"}},
	{SYSCTL, "net.ipv4.tcp_syn_retries", "/proc/sys/net/ipv4/tcp_syn_retries", {"2", "3", "4", "5", "7"}},
	{SYSCTL, "net.ipv4.tcp_retries2", "/proc/sys/net/ipv4/tcp_retries2", {"9", "10", "11", "12", "13"}},
	{SYSCTL, "net.ipv4.tcp_wmem", "/proc/sys/net/ipv4/tcp_wmem",
		{"4096\t16384\t65536", "4096\t16384\t131072", "4096\t32768\t65536", "8192\t16384\t65536", "8192\t32768\t131072"}},
	{SYSCTL, "net.core.somaxconn", "/proc/sys/net/core/somaxconn", {"100", "200", "300", "400", "500"}},
	{SYSCTL, "net.ipv4.conf.eth0.arp_ignore", "/proc/sys/net/ipv4/conf/eth0/arp_ignore", {"1", "2", "3", "8", "1"}},
	{SET, "one", NULL, {"10.0.0.1", "10.0.0.1 10.0.0.2", "10.0.0.3", "10.0.0.2 10.0.0.3 10.0.0.4", "10.0.0.9"}},
	{SET, "two", NULL, {"10.1.0.1", "10.1.0.1 10.1.0.2", "10.1.0.3", "10.1.0.2 10.1.0.3 10.1.0.4", "10.1.0.9"}},
};

static char original[ARRAY_SIZE(objects)][VALUE_MAX];

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/*
 * A set's members, sorted, a blank before each; before them "other" if it is of the third party's own kind; behind
 * them "#" and the seed of its hash, which tells a set from one made again with the same members. "-" when there is
 * none.
 */
static void read_set(const char *name, char ret[VALUE_MAX])
{
	_cleanup_free_ char *text = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	char *members[32], *save = NULL, *seed = NULL;
	size_t n = 0;
	int r = sets_save(site.node, name, SETS_TEXT_MAX, &text, NULL);

	assert_true(r == 0 || r == -ENOENT);
	if (r == -ENOENT) {
		strcpy(ret, "-");
		return;
	}
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *last = strrchr(line, ' ');

		if (strncmp(line, "add ", 4) == 0 && n < ARRAY_SIZE(members))
			members[n++] = last;
		else if (strstr(line, "maxelem 777 "))
			strbuf_puts(&b, "other");
		if (strncmp(line, "create ", 7) == 0 && (seed = strstr(line, "initval ")))
			seed += 8;
	}
	qsort(members, n, sizeof(members[0]), by_text);
	for (size_t i = 0; i < n; i++)
		strbuf_puts(&b, members[i]);
	if (seed)
		strbuf_addf(&b, "#%.*s", (int)strcspn(seed, " "), seed);
	snprintf(ret, VALUE_MAX, "%s", strbuf_cstr(&b));
}

static void read_object(const struct object *o, char ret[VALUE_MAX])
{
	_cleanup_free_ char *text = NULL;

	if (o->kind == SET) {
		read_set(o->name, ret);
		return;
	}
	assert_int_equal(node_read(site.node, o->path, &text), 0);
	snprintf(ret, VALUE_MAX, "%s", text);
}

/* The third party's hand: the tools of an administrator, not ours */
static void ipset(const char *fmt, ...) _printf_(1, 2);
static void ipset(const char *fmt, ...)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	va_list ap;
	FILE *p;

	assert_int_equal(node_enter(site.node, &v, NULL), 0);
	p = popen("exec ipset restore", "w"); /* in the namespace of this thread */
	assert_non_null(p);
	va_start(ap, fmt);
	vfprintf(p, fmt, ap);
	va_end(ap);
	fputc('\n', p);
	assert_int_equal(pclose(p), 0);
}

/* All that a sequence can touch, and more; the rest of the site is compared at the end */
static char *picture(void)
{
	const struct node *nodes[] = {site.node};
	struct err err = {0};
	char *text = NULL;

	if (snapshot_take(nodes, 1, &text, &err) < 0)
		fail_msg("snapshot: %s", err.text);
	return text;
}

/* To the value that read_object() gave */
static void write_object(const struct object *o, const char *value)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char now[VALUE_MAX], *copy, *save = NULL;

	if (o->kind == SYSCTL) {
		assert_int_equal(node_write(site.node, o->path, value), 0);
		return;
	}
	read_object(o, now);
	if (!streq(now, "-"))
		strbuf_addf(&b, "destroy %s\n", o->name);
	if (!streq(value, "-")) {
		bool other = strncmp(value, "other", 5) == 0;

		const char *seed = strchr(value, '#');

		strbuf_addf(&b, "create %s hash:ip family inet maxelem %s%s%s\n", o->name, other ? "777" : "65536",
			seed ? " initval " : "", seed ? seed + 1 : "");
		copy = strdup(value + (other ? 5 : 0));
		copy[strcspn(copy, "#")] = '\0';
		for (char *m = strtok_r(copy, " ", &save); m; m = strtok_r(NULL, " ", &save))
			strbuf_addf(&b, "add %s %s\n", o->name, m);
		free(copy);
	}
	if (b.len)
		ipset("%s", strbuf_cstr(&b));
}

/* ── the model ─────────────────────────────────────────────────────────────────────────────── */

struct made {
	struct change c;
	const struct object *o[OBJECTS_MAX];
	char prior[OBJECTS_MAX][VALUE_MAX], ours[OBJECTS_MAX][VALUE_MAX];
	size_t n;
	bool conflict;
};

/*
 * Of a set that was made, not swapped in, a part may be all that a killed apply got to: so a part is still ours, and
 * goes with the rest.
 */
static bool part_of(const char *part, const char *whole, bool all_of_it)
{
	_cleanup_free_ char *copy = strdup(part), *all = strf("%.*s ", (int)strcspn(whole, "#"), whole);
	char *save = NULL;

	copy[strcspn(copy, "#")] = '\0';
	if (all_of_it && strlen(copy) + 1 != strlen(all))
		return false;

	for (char *m = strtok_r(copy, " ", &save); m; m = strtok_r(NULL, " ", &save)) {
		_cleanup_free_ char *word = strf(" %s ", m);

		if (!strstr(all, word))
			return false;
	}
	return true;
}

static bool is_ours(const struct made *m, size_t i, const char *value)
{
	if (streq(value, m->ours[i]))
		return true;
	/* a set with our members is as we want it, whoever made it */
	return m->o[i]->kind == SET && !streq(value, "-") && part_of(value, m->ours[i], !streq(m->prior[i], "-"));
}

/* What compare-and-restore must make of @value: [objects] */
static void model_undo(struct made *made, size_t n, char value[][VALUE_MAX])
{
	for (size_t k = n; k-- > 0;)
		for (size_t i = 0; i < made[k].n; i++) {
			char *v = value[made[k].o[i] - objects];

			if (streq(v, made[k].prior[i]))
				continue;
			if (is_ours(&made[k], i, v))
				strcpy(v, made[k].prior[i]);
			else
				made[k].conflict = true;
		}
}

/* ── one sequence ──────────────────────────────────────────────────────────────────────────── */

static void make_change(struct journal *j, struct made *made, size_t *n)
{
	struct made *m = &made[*n];
	json_t *raw, *args = NULL;
	struct err err = {0};
	const char *name;
	int r;

	*m = (struct made){.c.node = site.node};
	if (below(3) > 0) {
		json_t *values = json_object();
		size_t count = 1 + below(3);

		name = "set.sysctl";
		while (m->n < count) {
			const struct object *o = &objects[below(6)];

			if (json_object_get(values, o->name))
				break;
			json_object_set_new(values, o->name, json_string(o->values[below(5)]));
			m->o[m->n++] = o;
		}
		raw = json_pack("{s:s, s:o}", "node", "node", "values", values);
	} else {
		const struct object *o = &objects[6 + below(2)];
		json_t *members = json_array();
		_cleanup_free_ char *copy = strdup(o->values[below(5)]);
		char *save = NULL;

		name = "set.ipset";
		for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
			json_array_append_new(members, json_string(w));
		m->o[m->n++] = o;
		raw = json_pack("{s:s, s:s, s:o}", "node", "node", "name", o->name, "members", members);
	}
	m->c.ops = change_find(name);
	assert_non_null(m->c.ops);
	r = param_check(m->c.ops->params, name, raw, NULL, &args, &err);
	json_decref(raw);
	if (r == 0 && m->c.ops->resolve)
		r = m->c.ops->resolve(NULL, args, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	m->c.args = args;
	for (size_t i = 0; i < m->n; i++)
		read_object(m->o[i], m->prior[i]);
	r = change_apply(j, &m->c, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < m->n; i++)
		read_object(m->o[i], m->ours[i]);
	(*n)++;
}

/* Something to an object that was changed, or to any */
static void third_party_acts(const struct made *made, size_t n)
{
	const struct made *m = n && below(5) ? &made[below((unsigned int)n)] : NULL;
	size_t i = m ? below((unsigned int)m->n) : 0;
	const struct object *o = m ? m->o[i] : &objects[below(ARRAY_SIZE(objects))];
	char now[VALUE_MAX];

	acts++;
	read_object(o, now);
	switch (below(m ? 6 : 3)) {
	case 0: /* removes; a parameter cannot be removed */
		if (o->kind == SET) {
			write_object(o, "-");
			return;
		}
		/* fallthrough */
	case 1:
		if (o->kind == SYSCTL) {
			write_object(o, o->values[below(5)]);
		} else {
			_cleanup_free_ char *v = strf(" %s", o->values[below(5)]);

			write_object(o, v);
		}
		return;
	case 2: /* alters a little, or replaces by another of the name */
		if (o->kind == SYSCTL)
			write_object(o, o->values[below(5)]);
		else if (streq(now, "-") || below(3) == 0)
			write_object(o, "other 10.9.9.9");
		else if (below(2))
			ipset("add %s 10.7.7.%u -exist", o->name, 1 + below(9));
		else if (strchr(now, ' '))
			ipset("del %s %.*s", o->name, (int)strcspn(strrchr(now, ' ') + 1, "#"), strrchr(now, ' ') + 1);
		return;
	case 3: /* puts back what was there before us */
		write_object(o, m->prior[i]);
		return;
	case 4: /* wants the same as we do */
		write_object(o, m->ours[i]);
		return;
	default: /* away and back again */
		write_object(o, o->kind == SYSCTL ? o->values[below(5)] : "-");
		write_object(o, now);
		return;
	}
}

static void drop_spares(void)
{
	sh("nsenter --net=/run/netns/node ipset list -n | { grep ^muster- || true; } | "
	   "while read -r s; do nsenter --net=/run/netns/node ipset destroy \"$s\" || exit 1; done");
}

static void undo_all(struct journal *j, struct made *made, size_t n)
{
	struct restore_result res = {0};
	struct err err = {0};

	if (below(2)) {
		for (size_t k = n; k-- > 0;)
			if (change_undo(j, &made[k].c, &err) < 0)
				fail_msg("%s", err.text);
		return;
	}
	if (journal_play(j, &res, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(res.failed + res.stale + res.already, 0);
	restore_result_clear(&res);
}

static const char *state_names[] = {"INTENT", "APPLIED", "DONE", "CONFLICT", "FAILED"};

static void compare(struct journal *j, const struct made *made, size_t n, char want[][VALUE_MAX])
{
	const struct journal_entry *e;
	struct err err = {0};
	size_t n_entries;

	for (size_t i = 0; i < ARRAY_SIZE(objects); i++) {
		char now[VALUE_MAX];

		read_object(&objects[i], now);
		if (!streq(now, want[i]))
			fail_msg("%s is \"%s\", and must be \"%s\" (at first \"%s\")", objects[i].name, now, want[i], original[i]);
	}
	assert_int_equal(journal_load(j, &e, &n_entries, &err), 0);
	assert_int_equal(n_entries, n);
	for (size_t k = 0; k < n; k++) {
		enum journal_state wanted = made[k].conflict ? JOURNAL_CONFLICT : JOURNAL_DONE;

		if (e[k].state != wanted)
			fail_msg("change %zu (%s of %s: \"%s\", then \"%s\") is %s, and must be %s", k + 1, e[k].change,
				made[k].o[0]->name, made[k].prior[0], made[k].ours[0], state_names[e[k].state], state_names[wanted]);
		conflicts += made[k].conflict;
		undone += !made[k].conflict;
	}
	assert_int_equal(journal_remove(j, &err), 0);
}

static void sequence(uint64_t seed)
{
	struct made made[CHANGES_MAX] = {0};
	char want[ARRAY_SIZE(objects)][VALUE_MAX];
	_cleanup_free_ char *first = NULL, *last = NULL;
	struct journal *j = NULL;
	struct err err = {0};
	size_t n = 0, count;

	state = seed * 0x9e3779b97f4a7c15ull + 1;
	(void)below(2);
	for (size_t i = 6; i < ARRAY_SIZE(objects); i++)
		if (below(2)) {
			_cleanup_free_ char *v = strf(" %s", objects[i].values[below(5)]);

			write_object(&objects[i], v);
		}
	for (size_t i = 0; i < ARRAY_SIZE(objects); i++)
		read_object(&objects[i], original[i]);
	first = picture();
	assert_int_equal(journal_create("sequence", &j, &err), 0);
	count = 1 + below(CHANGES_MAX);
	while (n < count) {
		make_change(j, made, &n);
		while (below(3) == 0)
			third_party_acts(made, n);
	}
	for (size_t i = 0; i < ARRAY_SIZE(objects); i++)
		read_object(&objects[i], want[i]);
	model_undo(made, n, want);
	undo_all(j, made, n);
	compare(j, made, n, want);
	journal_close(j);
	/* what is not as at first is so by the third party's will: it takes that back */
	for (size_t i = 0; i < ARRAY_SIZE(objects); i++)
		if (!streq(want[i], original[i]))
			write_object(&objects[i], original[i]);
	for (size_t k = 0; k < n; k++)
		if (made[k].conflict && made[k].o[0]->kind == SET) {
			drop_spares(); /* a conflict keeps the set as it was, and says so */
			break;
		}
	last = picture();
	assert_string_equal(last, first);
	for (size_t k = 0; k < n; k++) {
		json_decref(made[k].c.args);
		json_decref(made[k].c.prior);
	}
	for (size_t i = 6; i < ARRAY_SIZE(objects); i++)
		write_object(&objects[i], "-");
}

static uint64_t seed_of(void)
{
	const char *text = getenv("MUSTER_SEED");
	int64_t v = 1;

	if (text)
		assert_int_equal(units_int(text, 0, INT64_MAX / SEQUENCES - 1, &v), 0);
	return (uint64_t)v;
}

static void what_a_third_party_did_is_kept(void **unused _unused_)
{
	const unsigned int count = getenv("MUSTER_VM") ? SEQUENCES_VM : SEQUENCES;
	_cleanup_free_ char *whole = site_snapshot(&site);
	uint64_t seed = seed_of();

	conflicts = undone = acts = 0;
	for (unsigned int i = 0; i < count; i++) {
		char what[64];

		snprintf(what, sizeof(what), "%llu", (unsigned long long)(seed * SEQUENCES + i));
		setenv("MUSTER_SEQUENCE", what, 1); /* which one it was: the group's teardown says so when it did not end */
		sequence(seed * SEQUENCES + i);
	}
	unsetenv("MUSTER_SEQUENCE");
	assert_site_equals(&site, whole);
	printf("seed %llu: %u sequences, %u acts of a third party, %u changes undone, %u left alone\n", (unsigned long long)seed, count,
		acts, undone, conflicts);
	assert_true(conflicts > count / 10 && undone > count / 10);
}

/* ── faults: filters and links, which have no value but a presence ─────────────────────────── */

static int apply_fault(struct journal *j, const char *name, json_t *raw, struct change *ret)
{
	const struct change_ops *ops = change_find(name);
	json_t *args = NULL;
	struct err err = {0};
	int r;

	assert_non_null(ops);
	r = param_check(ops->params, name, raw, NULL, &args, &err);
	json_decref(raw);
	if (r == 0 && ops->resolve)
		r = ops->resolve(NULL, args, &err);
	*ret = (struct change){.ops = ops, .node = site.node, .args = args};
	if (r == 0)
		r = change_apply(j, ret, &err);
	if (r < 0)
		print_message("%s: %s\n", name, err.text);
	return r;
}

#define FILTER "bpf bytecode '1,6 0 0 4294967295' da"

/* What is done to a fault in the meantime, how it is taken back, and what the undo must answer */
static const struct meddling {
	const char *name, *args, *act, *repair;
	int answer;
} meddlings[] = {
	{"fault.node_loss", "{'node': 'node', 'how': 'silent'}", "true", "true", 0},
	{"fault.node_loss", "{'node': 'node', 'how': 'silent'}", "tc -n sw filter del dev node egress", "true", 0},
	{"fault.node_loss", "{'node': 'node', 'how': 'silent'}", "tc -n sw filter del dev node ingress; tc -n sw filter del dev node egress",
		"true", 0},
	{"fault.node_loss", "{'node': 'node', 'how': 'silent'}", "tc -n sw qdisc del dev node clsact", "true", 0},
	{"fault.node_loss", "{'node': 'node', 'how': 'silent'}", "tc -n sw filter add dev node ingress pref 10 handle 0x1 " FILTER,
		"tc -n sw filter show dev node ingress | grep -q 'pref 10 ' && tc -n sw qdisc del dev node clsact", CHANGE_CONFLICT},
	{"fault.node_loss", "{'node': 'node', 'how': 'silent'}",
		"tc -n sw qdisc del dev node clsact && tc -n sw qdisc add dev node clsact && "
		"tc -n sw filter add dev node egress pref 10 handle 0x1 " FILTER,
		"tc -n sw filter show dev node egress | grep -q 'pref 10 ' && tc -n sw qdisc del dev node clsact", CHANGE_CONFLICT},
	{"fault.node_loss", "{'node': 'node', 'how': 'cut'}", "true", "true", 0},
	{"fault.node_loss", "{'node': 'node', 'how': 'cut'}", "ip -n sw link set node up", "true", 0},
	{"fault.node_loss", "{'node': 'node', 'how': 'cut'}", "ip -n sw link set node up && ip -n sw link set node down", "true", 0},
	{"fault.netem", "{'node': 'node', 'dev': 'eth0', 'delay': '20ms'}", "true", "true", 0},
	{"fault.netem", "{'node': 'node', 'dev': 'eth0', 'delay': '20ms', 'how': 'root'}", "true", "true", 0},
	{"fault.netem", "{'node': 'node', 'dev': 'eth0', 'delay': '20ms', 'how': 'root'}", "tc -n node qdisc del dev eth0 root", "true", 0},
};

static void await_links(const char *first)
{
	/* a carrier and the addresses that come with it */
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC; site_differs(&site, first) && now_ns() < until;)
		(void)poll(NULL, 0, 20);
	assert_site_equals(&site, first);
}

static void meddled(const struct meddling *m)
{
	_cleanup_free_ char *first = site_snapshot(&site), *text = strdup(m->args);
	struct journal *j = NULL;
	struct change c = {0};
	struct err err = {0};
	int r;

	for (char *p = text; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	assert_int_equal(journal_create("meddled", &j, &err), 0);
	r = apply_fault(j, m->name, json_loads(text, 0, NULL), &c);
	if (r == -EOPNOTSUPP) {
		refused++;
	} else {
		assert_int_equal(r, 0);
		sh("%s", m->act);
		r = change_undo(j, &c, &err);
		if (r != m->answer)
			fail_msg("%s %s, then %s: undo says %d, %s", m->name, m->args, m->act, r, err.text);
		sh("%s", m->repair);
	}
	await_links(first);
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(j);
	json_decref(c.args);
	json_decref(c.prior);
}

static void faults_that_somebody_meddled_with(void **unused _unused_)
{
	refused = 0;
	for (size_t i = 0; i < ARRAY_SIZE(meddlings); i++)
		meddled(&meddlings[i]);
	if (refused)
		SKIP("%u of %zu faults: not in this kernel", refused, ARRAY_SIZE(meddlings));
}

/* ── another of the same name ──────────────────────────────────────────────────────────────── */

/* The namespace under the path is another one: nothing in it is ours to touch. */
static void a_namespace_of_the_same_name(void **unused _unused_)
{
	_cleanup_node_ struct node *old = node_new("short", "/run/netns/short"), *new = node_new("short", "/run/netns/short");
	struct restore_result res = {0};
	_cleanup_free_ char *now = NULL;
	struct journal *j = NULL;
	uint64_t ino;
	struct err err = {0};
	struct change c = {.ops = change_find("set.sysctl"), .node = old};

	sh("ip netns add short");
	assert_int_equal(node_open(old, NULL), 0);
	assert_int_equal(journal_create("replaced", &j, &err), 0);
	c.args = json_pack("{s:s, s:{s:s}}", "node", "short", "values", "net.ipv4.tcp_fin_timeout", "33");
	assert_int_equal(change_apply(j, &c, &err), 0);
	ino = old->netns_ino;
	node_free(TAKE_PTR(old)); /* so that the kernel may give its number away again: the cookie tells them apart */
	sh("ip netns del short && ip netns add short && nsenter --net=/run/netns/short sysctl -qw net.ipv4.tcp_fin_timeout=33");
	assert_int_equal(journal_play(j, &res, &err), 0);
	assert_int_equal(res.stale, 1);
	restore_result_clear(&res);
	assert_int_equal(node_open(new, NULL), 0);
	printf("the other namespace has %s inode\n", new->netns_ino == ino ? "the same" : "another");
	assert_int_equal(node_read(new, "/proc/sys/net/ipv4/tcp_fin_timeout", &now), 0);
	assert_string_equal(now, "33"); /* a value like ours, and not ours */
	sh("ip netns del short");
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(j);
	json_decref(c.args);
	json_decref(c.prior);
}

/* The port under the name is another one. */
static void a_link_of_the_same_name(void **unused _unused_)
{
	static const char *const hows[] = {"silent", "cut"};

	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		_cleanup_free_ char *before = NULL, *after = NULL;
		struct journal *j = NULL;
		struct change c = {0};
		struct err err = {0};

		assert_int_equal(journal_create("replaced", &j, &err), 0);
		assert_int_equal(apply_fault(j, "fault.node_loss", json_pack("{s:s, s:s}", "node", "node", "how", hows[i]), &c), 0);
		/* with what looks like ours on it */
		sh("ip -n sw link del node && ip -n sw link add node type veth peer name eth0 netns node && "
		   "tc -n sw qdisc add dev node clsact && tc -n sw filter add dev node ingress pref 10 handle 0x1 " FILTER);
		before = site_snapshot(&site);
		if (change_undo(j, &c, &err) != 0)
			fail_msg("%s: %s", hows[i], err.text);
		after = site_snapshot(&site);
		assert_string_equal(after, before);
		assert_int_equal(journal_remove(j, &err), 0);
		journal_close(j);
		json_decref(c.args);
		json_decref(c.prior);
		bridge_site_drop(&site);
		bridge_site_make(&site);
	}
}

/* The device of a parameter is another one, with a value like ours. */
static void a_device_of_the_same_name(void **unused _unused_)
{
	const char *path = "/proc/sys/net/ipv4/conf/eth0/arp_ignore";
	_cleanup_free_ char *now = NULL;
	struct journal *j = NULL;
	struct err err = {0};
	struct change c = {.ops = change_find("set.sysctl"), .node = site.node};

	assert_int_equal(journal_create("replaced", &j, &err), 0);
	c.args = json_pack("{s:s, s:{s:s}}", "node", "node", "values", "net.ipv4.conf.eth0.arp_ignore", "8");
	assert_int_equal(change_apply(j, &c, &err), 0);
	sh("ip -n sw link del node && ip -n sw link add node type veth peer name eth0 netns node");
	assert_int_equal(node_write(site.node, path, "8"), 0);
	assert_int_equal(change_undo(j, &c, &err), CHANGE_CONFLICT);
	assert_int_equal(node_read(site.node, path, &now), 0);
	assert_string_equal(now, "8");
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(j);
	json_decref(c.args);
	json_decref(c.prior);
}

static int make(void **unused _unused_)
{
	bridge_site_make(&site);
	journal_volatile_root = "/run/third-party";
	journal_durable_root = "/run/third-party-durable";
	return 0;
}

static int drop(void **unused _unused_)
{
	if (getenv("MUSTER_SEQUENCE"))
		print_error("in sequence %s\n", getenv("MUSTER_SEQUENCE"));
	bridge_site_drop(&site);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_a_third_party_did_is_kept, make, drop),
		cmocka_unit_test_setup_teardown(faults_that_somebody_meddled_with, make, drop),
		cmocka_unit_test_setup_teardown(a_namespace_of_the_same_name, make, drop),
		cmocka_unit_test_setup_teardown(a_link_of_the_same_name, make, drop),
		cmocka_unit_test_setup_teardown(a_device_of_the_same_name, make, drop),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (!sandbox_enter()) {
		fprintf(stderr, "not root: no namespaces to be had\n");
		return 1;
	}
	return cmocka_run_group_tests_name("third party", tests, NULL, NULL);
}
