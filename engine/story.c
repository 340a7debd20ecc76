/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/story.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/clock.h"
#include "engine/journal.h"
#include "engine/run_folder.h"
#include "engine/run_script.h"
#include "engine/standing.h"

#define TERSE_MAX 160 /* bytes of one side of "before → asked" */
#define HEX_LONG  32

static const char *const states[] = {"intended", "applied", "undone", "conflict", "failed"};

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

/* ── reading ───────────────────────────────────────────────────────────────────────────────── */

static json_t *wall_or_null(nsec_t wall)
{
	char buf[CLOCK_WALL_MAX];

	return wall ? json_string(clock_fmt_wall(buf, wall)) : json_null();
}

/* The namespace of @n is not there any more, or another one has its name. Without entering it: that takes a right. */
static bool is_gone(const struct node *n)
{
	struct stat st;

	return n->netns && (stat(n->netns, &st) < 0 || (n->netns_ino && st.st_ino != n->netns_ino));
}

static const char *what_restore_does(const struct journal_peek *p, const struct journal_entry *e, bool gone)
{
	if (e->state == JOURNAL_DONE)
		return "do nothing: it has been undone";
	if (e->is_void)
		return "do nothing: it ended with the boot that it was made in; the record is removed";
	if (p->live)
		return "do nothing now: the run is live, and its own guard undoes it";
	if (e->state == JOURNAL_CONFLICT)
		return "leave it alone, and report it: somebody else had changed it";
	if (!e->ops)
		return "fail: this muster does not know it; the restore.sh of the run does";
	if (gone)
		return "do nothing: its network namespace is gone, and the change with it";
	if (e->state == JOURNAL_FAILED)
		return "try again";
	if (e->state == JOURNAL_INTENT)
		return "undo it if it has happened, in full or in part: compare, put back, compare";
	return "undo it: compare, put back what was before, compare";
}

static void add_commands(json_t *out, const struct journal_entry *e, const struct node *n)
{
	_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0};
	json_t *commands = json_object_get(out, "undo"), *left = json_object_get(out, "left");
	const char *p, *command;
	size_t len, left_len;

	if (e->state == JOURNAL_DONE || e->state == JOURNAL_CONFLICT || e->is_void || !e->ops || !e->ops->command ||
		e->ops->command(n, e->args, e->prior, &apply, &undo) < 0)
		return;
	p = strbuf_cstr(&undo);
	while ((len = script_next(&p, &command))) {
		const char *why = script_left(command, len, &left_len);

		if (why)
			json_array_append_new(left, json_stringn(why, left_len));
		else if (command[0] != '#')
			json_array_append_new(commands, json_stringn(command, len));
	}
}

static json_t *change_story(const struct journal_peek *p, const struct journal_entry *e)
{
	_cleanup_node_ struct node *n = NULL;
	bool gone = false, known = node_describe(e->node, &n, NULL) == 0;
	json_t *j;

	if (known)
		gone = is_gone(n);
	j = json_pack("{s:I, s:s, s:s, s:s?, s:s?, s:s, s:b, s:b, s:o, s:o, s:s?, s:O?, s:O?, s:s, s:[], s:[]}", "seq",
		(json_int_t)e->seq, "change", e->change, "node", known ? n->name : "?", "netns", known ? n->netns : NULL, "class",
		e->ops ? change_class_name(e->ops->class) : NULL, "state", states[e->state], "void", e->is_void, "gone", gone,
		"intended", wall_or_null(e->intended), "marked", wall_or_null(e->marked), "text", e->text, "args", e->args,
		"prior", e->prior, "would", what_restore_does(p, e, gone), "undo", "left");
	if (j && known && !gone)
		add_commands(j, e, n);
	return j;
}

int story_read(const char *run_id, json_t **ret, struct err *err)
{
	_cleanup_journal_peek_ struct journal_peek p = {0};
	_cleanup_free_ char *folder = NULL;
	_cleanup_json_ json_t *j = NULL;
	json_t *changes = json_array();
	const char *boot;
	int r = journal_peek(run_id, &p, err);

	if (r < 0) {
		json_decref(changes);
		return r;
	}
	for (size_t i = p.n; i-- > 0;)
		json_array_append_new(changes, change_story(&p, &p.entries[i]));
	boot = json_string_value(json_object_get(p.header, "boot_id"));
	if (run_folder_of(run_id, &folder) < 0)
		folder = NULL;
	j = json_pack("{s:s, s:s, s:O?, s:O?, s:O?, s:s?, s:b, s:o, s:I, s:s?, s:o}", "run", run_id, "state",
		p.live					? "live" :
		standing_run(run_id) ? standing_run(run_id) :
						  "hot",
		"created", json_object_get(p.header, "created"), "pid", json_object_get(p.header, "pid"), "version",
		json_object_get(p.header, "version"), "boot_id", boot, "this_boot", streq(boot, clock_boot_id()), "modified",
		wall_or_null(p.modified), "torn_bytes", (json_int_t)p.torn, "folder", folder, "changes", changes);
	if (!j)
		return -ENOMEM;
	*ret = TAKE_PTR(j);
	return 0;
}

bool story_is_void(const json_t *story)
{
	const json_t *c;
	size_t i;

	json_array_foreach(json_object_get(story, "changes"), i, c) {
		if (!json_is_true(json_object_get(c, "void")))
			return false;
	}
	return !json_is_true(json_object_get(story, "this_boot"));
}

/* ── telling ───────────────────────────────────────────────────────────────────────────────── */

static void add_printable(struct strbuf *b, const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		strbuf_add(b, (unsigned char)s[i] < ' ' || s[i] == 0x7f ? " " : s + i, 1);
}

/* JSON in short: no quotes, no braces around the outermost, long hexadecimal numbers by their length */
static void terse(struct strbuf *b, const json_t *j, unsigned int depth)
{
	const char *key, *open = json_is_array(j) ? "[" : "{", *close = json_is_array(j) ? "]" : "}";
	const json_t *v;
	size_t i, n = 0;

	switch (json_typeof(j)) {
	case JSON_OBJECT:
	case JSON_ARRAY:
		if (depth)
			strbuf_puts(b, open);
		if (json_is_array(j)) {
			json_array_foreach(j, i, v) {
				strbuf_puts(b, n++ ? ", " : "");
				terse(b, v, depth + 1);
			}
		} else {
			json_object_foreach((json_t *)j, key, v) {
				strbuf_puts(b, n++ ? ", " : "");
				add_printable(b, key, strlen(key));
				strbuf_puts(b, ": ");
				terse(b, v, depth + 1);
			}
		}
		if (depth)
			strbuf_puts(b, close);
		break;
	case JSON_STRING:
		if (json_string_length(j) > HEX_LONG && strspn(json_string_value(j), "0123456789abcdef") == json_string_length(j))
			strbuf_addf(b, "<%zu bytes>", json_string_length(j) / 2);
		else
			add_printable(b, json_string_value(j), json_string_length(j));
		break;
	case JSON_INTEGER:
		strbuf_addf(b, "%lld", (long long)json_integer_value(j));
		break;
	case JSON_REAL:
		strbuf_addf(b, "%g", json_real_value(j));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		strbuf_puts(b, json_is_true(j) ? "yes" : "no");
		break;
	case JSON_NULL:
		strbuf_puts(b, "none");
		break;
	}
}

static void add_terse(struct strbuf *b, const json_t *j)
{
	_cleanup_strbuf_ struct strbuf all = {0};
	const char *s;
	size_t len;

	terse(&all, j, 0);
	s = strbuf_cstr(&all);
	len = strlen(s);
	if (len == 0) {
		strbuf_puts(b, "nothing");
	} else if (len > TERSE_MAX) {
		for (len = TERSE_MAX; len && ((unsigned char)s[len] & 0xc0) == 0x80; len--)
			; /* not within a letter */
		strbuf_add(b, s, len);
		strbuf_puts(b, "...");
	} else {
		strbuf_puts(b, s);
	}
}

/* What was asked, without what the sentence has said already */
static json_t *asked(const json_t *change)
{
	json_t *args = json_deep_copy(json_object_get(change, "args"));

	if (json_is_object(args))
		json_object_del(args, "node");
	return args ? args : json_object();
}

static const char *said(const json_t *c)
{
	const char *state = text(c, "state");

	if (json_is_true(json_object_get(c, "void")))
		return "is void: it was made in another boot, and ended with it";
	if (streq(state, "intended"))
		return "was about to be made: it may or may not have happened";
	if (streq(state, "applied"))
		return "was made, and is not undone";
	if (streq(state, "undone"))
		return "was made, and undone";
	if (streq(state, "conflict"))
		return "was left alone: somebody else had changed it";
	return "could not be undone";
}

static void change_text(const json_t *c, struct strbuf *b)
{
	_cleanup_json_ json_t *args = asked(c);
	const char *when = text(c, "intended"), *marked = text(c, "marked");
	const json_t *line;
	size_t i;

	strbuf_addf(b, "\n%lld. %s%s", (long long)json_integer_value(json_object_get(c, "seq")), when, when[0] ? ": " : "");
	add_printable(b, text(c, "change"), strlen(text(c, "change")));
	strbuf_puts(b, " on ");
	add_printable(b, text(c, "node"), strlen(text(c, "node")));
	strbuf_addf(b, " %s", said(c));
	if (marked[0] && !streq(text(c, "state"), "applied"))
		strbuf_addf(b, " (%s)", marked);
	strbuf_puts(b, "\n    change   ");
	add_terse(b, json_object_get(c, "prior"));
	strbuf_puts(b, " → ");
	add_terse(b, args);
	if (text(c, "text")[0]) {
		strbuf_puts(b, "\n    because  ");
		add_printable(b, text(c, "text"), strlen(text(c, "text")));
	}
	strbuf_addf(b, "\n    restore  would %s\n", text(c, "would"));
	json_array_foreach(json_object_get(c, "undo"), i, line) {
		strbuf_addf(b, "    %s  %s\n", i ? "       " : "by hand", json_string_value(line));
	}
	json_array_foreach(json_object_get(c, "left"), i, line) {
		strbuf_addf(b, "    no words for  %s\n", json_string_value(line));
	}
}

void story_text(const json_t *story, struct strbuf *b)
{
	const json_t *changes = json_object_get(story, "changes"), *c;
	const char *state = text(story, "state"), *run = text(story, "run"), *folder = text(story, "folder");
	json_int_t torn = json_integer_value(json_object_get(story, "torn_bytes"));
	size_t i;

	strbuf_addf(b, "%s: %s\n", run,
		streq(state, "live") ? "live: its drill goes on, and its guard undoes it" :
		streq(state, "lab")  ? "a lab that is up" :
				       "hot: its drill was cut off");
	strbuf_addf(b, "begun %s by process %lld, in %s; last written %s\n", text(story, "created"),
		(long long)json_integer_value(json_object_get(story, "pid")),
		json_is_true(json_object_get(story, "this_boot")) ? "this boot" : "another boot", text(story, "modified"));
	if (torn && streq(state, "live"))
		strbuf_puts(b, "a record is being written just now\n");
	else if (torn)
		strbuf_addf(b,
			"torn tail: %lld bytes behind the last whole record: what was about to be noted may or may not have happened\n",
			(long long)torn);
	if (json_array_size(changes) == 0)
		strbuf_puts(b, "nothing was changed\n");
	else
		strbuf_puts(b, "its changes, in the order in which they are undone:\n");
	json_array_foreach(changes, i, c) {
		change_text(c, b);
	}
	if (streq(state, "live"))
		strbuf_addf(b, "\nto end and undo it: muster halt %s --reason TEXT\n", run);
	else
		strbuf_addf(b, "\nto undo it: muster restore %s\n", run);
	if (folder[0] && !streq(state, "live")) {
		strbuf_puts(b, "without muster: sh ");
		strbuf_add_shell(b, folder);
		strbuf_puts(b, "/restore.sh\n");
	}
}

void story_line(const json_t *story, struct strbuf *b)
{
	_cleanup_strbuf_ struct strbuf names = {0};
	size_t i, left = 0;
	const json_t *c;

	json_array_foreach(json_object_get(story, "changes"), i, c) {
		const char *state = text(c, "state");

		if (streq(state, "undone") || json_is_true(json_object_get(c, "void")))
			continue;
		strbuf_puts(&names, left++ ? ", " : "");
		add_printable(&names, text(c, "change"), strlen(text(c, "change")));
		strbuf_puts(&names, " on ");
		add_printable(&names, text(c, "node"), strlen(text(c, "node")));
		if (!streq(state, "applied"))
			strbuf_addf(&names, " (%s)", state);
	}
	if (left == 0)
		strbuf_puts(b, story_is_void(story) ? "all of it ended with the boot that it was made in" : "nothing is left to undo");
	else
		strbuf_addf(b, "%zu %s not undone: %s", left, left == 1 ? "change is" : "changes are", strbuf_cstr(&names));
}
