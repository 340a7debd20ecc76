/* SPDX-License-Identifier: GPL-2.0-only */
/* The renderers: a report's text is not ours, and a field may be missing; neither may show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/str.h"
#include "lua/render.h"

#define S NSEC_PER_SEC
#define B TIMELINE_BUCKET

/* A tag, an attribute's end, an entity, a terminal's escape, a C1 control, a turn of direction, a line of our own, Markdown */
#define HOSTILE                                                                                    \
	"<script>alert(1)</script>\\\"'&amp;]]>\\u001b[31m\\u009b2J\\u202e\\u0001\\nPASS  all is " \
	"well | **x** "                                                                            \
	"[a](https://example.invalid) `c` @you #1 https://example.invalid/"

static const char hostile_report[] =
	"{\"schema\": \"muster.report/1\", \"verdict\": \"fail\", \"exit_code\": 1, \"reason\": "
	"\"" HOSTILE "\","
	"\"run\": {\"id\": \"" HOSTILE "\", \"scenario\": \"" HOSTILE "\", \"summary\": \"" HOSTILE
	"\", \"file\": \"" HOSTILE "\","
	" \"seed\": 7, \"kernel\": \"" HOSTILE "\", \"host\": \"" HOSTILE "\", \"lab\": \"" HOSTILE
	"\", \"started\": \"" HOSTILE "\", \"set\": {\"" HOSTILE "\": \"" HOSTILE "\"}},"
	"\"residue\": {\"clean\": false, \"diff\": [\"" HOSTILE "\"], \"conflicts\": [\"" HOSTILE
	"\"], \"failed\": []},"
	"\"checks\": [{\"name\": \"" HOSTILE "\", \"status\": \"fail\", \"evidence\": \"" HOSTILE
	"\", \"unit\": \"ms\", "
	"\"measured\": 1.5, \"objective\": null, \"margin\": null, \"where\": \"" HOSTILE "\"},"
	" {\"name\": \"" HOSTILE "\", \"status\": \"unknown\", \"evidence\": \"" HOSTILE "\"}],"
	"\"recovery\": {\"onset_ns\": 3000000000, \"detect_ms\": 100, \"recover_ms\": 500, "
	"\"objective_ms\": 900, "
	"\"withdrawn\": \"" HOSTILE "\"},"
	"\"faults\": [{\"name\": \"" HOSTILE "\", \"node\": \"" HOSTILE "\", \"asked\": {\"" HOSTILE
	"\": [\"" HOSTILE "\"]}, \"measured\": \"" HOSTILE
	"\", \"proved\": null, \"text\": \"" HOSTILE "\", \"applied_ns\": 3000000000, "
	"\"where\": \"" HOSTILE "\"}],"
	"\"changes\": [{\"change\": \"" HOSTILE "\", \"node\": \"" HOSTILE
	"\", \"state\": \"" HOSTILE "\", \"args\": {\"a\": \"" HOSTILE "\"}, \"text\": \"" HOSTILE
	"\"}],"
	"\"services\": [{\"name\": \"" HOSTILE "\", \"backends\": [{\"node\": \"" HOSTILE
	"\", \"weight\": 3, \"share\": 0.5, "
	"\"expected\": 0.5, \"connections\": 1234567}]}],"
	"\"load\": {\"requests\": 10, \"loads\": [{\"name\": \"" HOSTILE "\", \"requests\": 10}]},"
	"\"errors\": [{\"text\": \"" HOSTILE "\", \"hint\": \"" HOSTILE "\", \"where\": \"" HOSTILE
	"\"}]}";

static json_t *parse(const char *text)
{
	json_error_t e;
	json_t *j = json_loads(text, 0, &e);

	if (!j)
		fail_msg("%s at %d", e.text, e.position);
	return j;
}

static char *rendered(const json_t *report, const json_t *chart, const char *format)
{
	struct err err = {0};
	char *text = NULL;
	size_t len = 0;

	if (render_report(report, chart, format, &text, &len, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(strlen(text), len);
	return text;
}

static void assert_lacks(const char *text, const char *what)
{
	const char *at = strstr(text, what);

	if (at)
		fail_msg("\"%s\" is in there: %.*s", what, 80, at);
}

static void assert_has(const char *text, const char *what)
{
	if (!strstr(text, what))
		fail_msg("\"%s\" is not in there", what);
}

static json_t *hostile_chart(void)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	json_t *chart;

	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	timeline_event(tl, 1 * S, EV_RUN, NULL);
	timeline_event(tl, 2 * S, EV_PHASE, parse("{\"phase\": \"" HOSTILE "\"}"));
	timeline_event(tl, 2 * S, EV_STAGE, parse("{\"stage\": \"" HOSTILE "\"}"));
	timeline_event(tl, 3 * S, EV_LOG, parse("{\"text\": \"" HOSTILE "\"}"));
	for (nsec_t t = 2 * S; t < 9 * S; t += B) {
		timeline_add_load(tl, &(struct tl_load){.t = t, .load = "l", .count = {20, 10}});
		timeline_add_conn(tl, &(struct tl_conn){.t = t,
					      .service = "<script>",
					      .server = "<script>\"'&",
					      .established = 3});
	}
	chart = render_chart_data(tl);
	assert_non_null(chart);
	return chart;
}

static void test_nothing_of_a_scenario_is_markup(void **state _unused_)
{
	_cleanup_json_ json_t *report = parse(hostile_report), *chart = hostile_chart();

	for (const char *const *f = render_formats; *f; f++) {
		_cleanup_free_ char *text = rendered(report, chart, *f);

		assert_lacks(text, "\x1b");
		assert_lacks(text, "\x01");
		assert_lacks(text, "\xc2\x9b");
		assert_lacks(text, "\xe2\x80\xae");
		if (streq(*f, "text")) {
			assert_lacks(text, "\nPASS");
			continue;
		}
		/* Markdown may show it where it is code */
		if (!streq(*f, "md"))
			assert_lacks(text, "<script");
		if (streq(*f, "html")) {
			assert_lacks(text, "alert(1)</script>");
			assert_has(text, "&lt;script&gt;alert(1)");
			/* fetches nothing, runs nothing */
			assert_has(text, "default-src 'none'");
			assert_lacks(text, "src=");
			assert_lacks(text, "href=");
			assert_lacks(text, "url(");
			assert_lacks(text, "@import");
			assert_has(text, "<svg");
		}
		if (streq(*f, "junit")) {
			assert_lacks(text, "]]>");
			assert_has(text, "&#10;PASS");
		}
		if (streq(*f, "md")) {
			assert_lacks(text, "\nPASS");
			for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
				line = strtok_r(NULL, "\n", &save)) {
				if (strstr(line,
					    "``")) /* the fence of a code span that holds a backtick: nothing in it counts */
					continue;
				assert_lacks(line, "](https://");
				assert_lacks(line, " **x**");
				assert_lacks(line, "<script");
			}
		}
	}
}

/* In Markdown's tables a bar ends a cell, and every row must have as many as its head. */
static void test_markdown_tables_are_whole(void **state _unused_)
{
	_cleanup_json_ json_t *report = parse(hostile_report);
	_cleanup_free_ char *text = rendered(report, NULL, "md");
	unsigned int columns = 0, rows = 0;

	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		unsigned int bars = 0;

		if (line[0] != '|') {
			columns = 0;
			continue;
		}
		for (const char *c = line; *c; c++)
			bars += *c == '|' && (c == line || c[-1] != '\\');
		if (!columns)
			columns = bars;
		assert_int_equal(bars, columns);
		rows++;
	}
	assert_true(rows >= 10);
}

/* Tags open and close in order, attributes are quoted, entities are known: enough to be sure a parser takes it. */
static void assert_well_formed(const char *xml)
{
	char stack[64][32];
	size_t depth = 0;

	for (const char *p = xml; *p; p++) {
		if (*p == '&') {
			static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;",
				"&#39;", "&#10;", "&#9;", "&#13;"};
			bool ok = false;

			for (size_t i = 0; i < ARRAY_SIZE(known); i++)
				ok = ok || strncmp(p, known[i], strlen(known[i])) == 0;
			if (!ok)
				fail_msg("an entity: %.20s", p);
		}
		if (*p == '>')
			fail_msg("a bare >: %.20s", p);
		if (*p != '<')
			continue;
		if (strncmp(p, "<?xml ", 6) == 0) {
			p = strstr(p, "?>") + 1;
			continue;
		}
		if (p[1] == '/') {
			size_t n = strcspn(p + 2, ">");

			assert_true(depth > 0);
			depth--;
			if (strlen(stack[depth]) != n || strncmp(stack[depth], p + 2, n) != 0)
				fail_msg("</%.*s> ends <%s>", (int)n, p + 2, stack[depth]);
			p += 2 + n;
			continue;
		}
		{
			size_t n = strspn(p + 1, "abcdefghijklmnopqrstuvwxyz");

			assert_true(n > 0 && n < sizeof(stack[0]) && depth < ARRAY_SIZE(stack));
			memcpy(stack[depth], p + 1, n);
			stack[depth][n] = '\0';
			p += 1 + n;
		}
		while (*p == ' ') {
			p += 1 + strspn(p + 1, "abcdefghijklmnopqrstuvwxyz");
			assert_memory_equal(p, "=\"", 2);
			p += 2;
			while (*p != '"') {
				if (!*p || *p == '<')
					fail_msg("inside an attribute: %.20s", p);
				p++;
			}
			p++;
		}
		if (p[0] == '/' && p[1] == '>')
			p++;
		else if (*p == '>')
			depth++;
		else
			fail_msg("inside a tag: %.20s", p);
	}
	assert_int_equal(depth, 0);
}

static void test_junit_is_xml(void **state _unused_)
{
	_cleanup_json_ json_t *report = parse(hostile_report);
	_cleanup_free_ char *text = rendered(report, NULL, "junit");

	assert_well_formed(text);
	assert_has(text, "tests=\"5\" failures=\"3\" errors=\"1\" skipped=\"1\"");
}

/* What CI sees: a drill without an answer is an error of the suite, whatever its checks say. */
static void test_junit_of_each_verdict(void **state _unused_)
{
	static const struct {
		const char *verdict;
		int exit, failures, errors, skipped;
	} rows[] = {
		{"pass", 0, 0, 0, 0},
		{"fail", 1, 1, 0, 0},
		{"inconclusive", 7, 0, 1, 0},
		{"halted", 3, 0, 1, 0},
		{"refused", 6, 0, 1, 0},
		{"error", 8, 0, 1, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_json_ json_t *report = json_pack("{s:s, s:i, s:s, s:{s:b}, s:[]}",
			"verdict", rows[i].verdict, "exit_code", rows[i].exit, "reason", "because",
			"residue", "clean", 1, "checks");
		_cleanup_free_ char *text = rendered(report, NULL, "junit"),
				    *want = strf("<testsuites tests=\"2\" failures=\"%d\" "
						 "errors=\"%d\" skipped=\"%d\">",
					    rows[i].failures, rows[i].errors, rows[i].skipped);

		assert_has(text, want);
		assert_well_formed(text);
	}
}

/* Nothing measured: no format fails, and none of them shows a number that nobody measured. */
static void test_an_empty_report(void **state _unused_)
{
	static const char *const reports[] = {
		"{}",
		"{\"verdict\": null, \"run\": null, \"residue\": null, \"checks\": null, "
		"\"recovery\": null, \"faults\": null, \"load\": null, "
		"\"services\": null, \"telemetry\": null, \"changes\": null, \"errors\": null}",
		"{\"verdict\": \"error\", \"checks\": [{\"name\": \"x\", \"status\": \"unknown\", "
		"\"measured\": null, \"objective\": null, "
		"\"unit\": \"ms\", \"margin\": null}], \"faults\": [{}], \"changes\": [{}], "
		"\"services\": [{\"name\": \"web\", \"backends\": "
		"[{\"node\": \"rs1\", \"weight\": null, \"connections\": null, \"share\": null, "
		"\"expected\": null}]}], "
		"\"recovery\": {\"onset_ns\": 5, \"detect_ms\": null, \"failover_ms\": null, "
		"\"recover_ms\": null, \"objective_ms\": null}, "
		"\"load\": {\"requests\": null, \"error_ratio\": null, \"p99_ms\": null}, "
		"\"telemetry\": {\"events\": null, \"dropped\": null}}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(reports); i++)
		for (const char *const *f = render_formats; *f; f++) {
			_cleanup_json_ json_t *report = parse(reports[i]);
			_cleanup_free_ char *text = rendered(report, NULL, *f);

			assert_lacks(text, "userdata");
			assert_lacks(text, "nan");
			if (i == 2 && !streq(*f, "junit"))
				assert_has(text, "not measured");
		}
}

/* What a scenario waives stands in every format, as text; a report of a drill that waives nothing does not speak of it. */
static void test_waivers(void **state _unused_)
{
	for (const char *const *f = render_formats; *f; f++) {
		_cleanup_json_ json_t *report = parse("{\"verdict\": \"pass\", \"waived\": [\"management-path: <b>eth0</b> | & \\\"x\\\"\", {}]}"),
				      *none = parse("{\"verdict\": \"pass\"}");
		_cleanup_free_ char *text = rendered(report, NULL, *f), *without = rendered(none, NULL, *f);

		assert_has(text, streq(*f, "json") ? "\"waived\"" : "waived: management-path: ");
		if (!streq(*f, "text") && !streq(*f, "json"))
			assert_lacks(text, "<b>eth0");
		if (streq(*f, "junit"))
			assert_well_formed(text);
		assert_lacks(without, "waived");
	}
}

static void test_unknown_format(void **state _unused_)
{
	_cleanup_json_ json_t *report = json_object();
	struct err err = {0};
	char *text = NULL;

	assert_int_equal(render_report(report, NULL, "htm", &text, NULL, &err), -EINVAL);
	assert_has(err.hint, "html");
	assert_int_equal(render_report(report, NULL, "../html", &text, NULL, &err), -EINVAL);
	assert_null(text);
}

static void test_what_is_too_much_is_an_error(void **state _unused_)
{
	_cleanup_json_ json_t *report = json_object();
	json_t *j = json_object();
	struct err err = {0};
	char *text = NULL;

	for (int i = 0; i < 200; i++)
		j = json_pack("{s:o}", "a", j);
	json_object_set_new(report, "faults", json_pack("[{s:o}]", "asked", j));
	assert_int_equal(render_report(report, NULL, "text", &text, NULL, &err), -EINVAL);
	assert_has(err.text, "nested");
	assert_null(text);
}

static void test_chart_data(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *chart = NULL, *empty = NULL;
	const json_t *load, *point, *line;
	double requests = 0;
	size_t i;

	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	empty = render_chart_data(tl);
	assert_int_equal(json_array_size(json_object_get(empty, "load")), 0);
	timeline_event(tl, 1 * S, EV_RUN, NULL);
	timeline_event(tl, 1 * S + S / 2, EV_RESIDUE, NULL); /* nothing to draw */
	timeline_event(tl, 2 * S, EV_PHASE, parse("{\"phase\": \"loss\"}"));
	for (nsec_t t = 2 * S; t < 602 * S; t += B)
		timeline_add_load(tl, &(struct tl_load){.t = t, .load = "l", .count = {20, 10}});
	timeline_add_conn(
		tl, &(struct tl_conn){
			    .t = 5 * S, .service = "web", .server = "rs1", .established = 40});
	timeline_add_weight(tl, &(struct tl_weight){.t = 3 * S,
					.service = "web",
					.server = "rs1",
					.weight = TL_WEIGHT_UNKNOWN});
	chart = render_chart_data(tl);

	/* ten minutes are drawn with as many points as one */
	load = json_object_get(chart, "load");
	assert_in_range(json_array_size(load), 100, 301);
	json_array_foreach (load, i, point) {
		assert_float_equal(json_number_value(json_array_get(point, 1)), 300, 1e-6);
		assert_float_equal(json_number_value(json_array_get(point, 2)), 1.0 / 3, 1e-6);
		assert_true(json_is_null(json_array_get(point, 3))); /* no latency was stored */
		requests += json_number_value(json_array_get(point, 1));
	}
	assert_float_equal(
		requests * json_number_value(json_object_get(chart, "step_s")), 6000 * 30, 1000);
	assert_float_equal(json_number_value(json_array_get(json_array_get(load, 0), 0)), 1.1, 1e-9);

	assert_int_equal(json_array_size(json_object_get(chart, "events")), 1);
	line = json_array_get(json_object_get(chart, "conns"), 0);
	requests = 0;
	json_array_foreach (json_object_get(line, "points"), i, point)
		requests += json_number_value(json_array_get(point, 1));
	assert_float_equal(
		requests * json_number_value(json_object_get(chart, "step_s")), 40, 1e-6);
	line = json_array_get(json_object_get(chart, "weights"), 0);
	assert_true(json_is_null(
		json_array_get(json_array_get(json_object_get(line, "points"), 0), 1)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_of_a_scenario_is_markup),
		cmocka_unit_test(test_markdown_tables_are_whole),
		cmocka_unit_test(test_junit_is_xml),
		cmocka_unit_test(test_junit_of_each_verdict),
		cmocka_unit_test(test_an_empty_report),
		cmocka_unit_test(test_waivers),
		cmocka_unit_test(test_unknown_format),
		cmocka_unit_test(test_what_is_too_much_is_an_error),
		cmocka_unit_test(test_chart_data),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
