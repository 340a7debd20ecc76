/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whole drills, as they are stored and as they are told. Each tests/golden/NAME.tl is a run written by hand, in words that
 * stand for many buckets; it is judged by the real probes against plan.json, and what comes out must be NAME.json
 * and NAME.txt to the letter.
 *
 * MUSTER_GOLDEN=update writes them anew: then read the difference before it is committed.
 *
 *	[FROM TO] load NAME ok=N refused=N ... lat=MS       N requests due in each bucket; the OK ones took MS
 *	[FROM TO] conn SERVICE SERVER N                     N new connections in each bucket
 *	T weight SERVICE SERVER W
 *	T event KIND {...}
 *	T end SOURCE | T mark SOURCE                        a source's data end, or are complete up to here
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "engine/judge.h"
#include "engine/str.h"
#include "lua/render.h"

#define B TIMELINE_BUCKET

/* Milliseconds are enough, and exact. */
static nsec_t parse_time(const char *word)
{
	char *end;
	double s = strtod(word, &end);

	if (*end)
		fail_msg("\"%s\" is no time", word);
	return (nsec_t)(s * 1000 + 0.5) * NSEC_PER_MSEC;
}

static void add_load(struct timeline *tl, nsec_t t, const char *name, char *words)
{
	struct tl_load b = {.t = t, .load = name};
	struct hist *h = calloc(1, sizeof(*h));
	uint64_t latency = 0;

	assert_non_null(h);
	for (char *save = NULL, *w = strtok_r(words, " ", &save); w;
		w = strtok_r(NULL, " ", &save)) {
		char *value = strchr(w, '=');
		int k = 0;

		assert_non_null(value);
		*value++ = '\0';
		if (streq(w, "lat")) {
			latency = (uint64_t)(atof(value) * NSEC_PER_MSEC);
			continue;
		}
		while (k < OUTCOME_COUNT && !streq(outcome_names[k], w))
			k++;
		assert_true(k < OUTCOME_COUNT);
		b.count[k] = strtoull(value, NULL, 10);
	}
	hist_reset(h);
	for (uint64_t i = 0; i < b.count[OUTCOME_OK]; i++)
		hist_add(h, latency + i * (latency / 50)); /* a spread, so that quantiles differ */
	assert_int_equal(hist_to_sparse(h, &b.latency), 0);
	b.first_ok = b.last_ok = b.count[OUTCOME_OK] ? t + 5 * NSEC_PER_MSEC : 0;
	timeline_add_load(tl, &b);
	hist_sparse_free(&b.latency);
	free(h);
}

static void add_line(struct timeline *tl, const char *where, char *line)
{
	char *save = NULL, *word = strtok_r(line, " ", &save), *next, *kind, rest[2048];
	nsec_t from = parse_time(word), to;

	kind = strtok_r(NULL, " ", &save);
	if (strspn(kind, "0123456789.") == strlen(kind)) {
		to = parse_time(kind);
		kind = strtok_r(NULL, " ", &save);
	} else {
		to = from + 1;
	}
	next = strtok_r(NULL, " ", &save);
	if (streq(kind, "event")) {
		json_error_t e;
		json_t *data = json_loads(save + strspn(save, " "), 0, &e);

		if (!data)
			fail_msg("%s: %s", where, e.text);
		timeline_event(tl, from, next, data);
	} else if (streq(kind, "weight")) {
		const char *server = strtok_r(NULL, " ", &save);

		timeline_add_weight(tl, &(struct tl_weight){.t = from,
						.service = next,
						.server = server,
						.weight = atoi(save)});
	} else if (streq(kind, "mark") || streq(kind, "end")) {
		timeline_watermark(tl, next, from);
		if (streq(kind, "end"))
			timeline_watermark(tl, next, NSEC_INFINITY);
	} else if (streq(kind, "conn")) {
		const char *server = strtok_r(NULL, " ", &save);
		uint64_t n = strtoull(save, NULL, 10);

		for (nsec_t t = from; t < to; t += B)
			timeline_add_conn(tl, &(struct tl_conn){.t = t,
						      .service = next,
						      .server = server,
						      .established = n,
						      .first = t + 7 * NSEC_PER_MSEC,
						      .last = t + 93 * NSEC_PER_MSEC});
	} else if (streq(kind, "load")) {
		for (nsec_t t = from; t < to; t += B) {
			snprintf(rest, sizeof(rest), "%s", save);
			add_load(tl, t, next, rest);
		}
	} else {
		fail_msg("%s: \"%s\" is no kind of line", where, kind);
	}
}

/* Through a file and back, because that is how a run is judged. */
static struct timeline *read_run(const char *path)
{
	char stored[] = "/tmp/muster-golden-XXXXXX";
	struct timeline *tl = NULL;
	_cleanup_free_ char *text = NULL;
	int fd = mkstemp(stored), n = 0;

	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(file_read(path, 1 << 20, &text, NULL), 0);
	assert_int_equal(timeline_new(stored, &tl, NULL), 0);
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		char where[256];

		snprintf(where, sizeof(where), "%s, line %d that is no comment", path, ++n);
		if (line[0] != '#')
			add_line(tl, where, line);
	}
	timeline_free(TAKE_PTR(tl));
	assert_int_equal(timeline_read(stored, &tl, NULL), 0);
	unlink(stored);
	return tl;
}

static void compare(const char *path, const char *suffix, const char *got)
{
	_cleanup_free_ char *name = strf(
				    "%.*s%s", (int)(strlen(path) - strlen(".tl")), path, suffix),
			    *want = NULL;
	const char *g = got, *w, *update = getenv("MUSTER_GOLDEN");
	int line = 1;

	if (streq(update, "update")) {
		assert_int_equal(file_write(name, got, strlen(got)), 0);
		return;
	}
	if (file_read(name, 4 << 20, &want, NULL) < 0)
		fail_msg("%s: not there; MUSTER_GOLDEN=update makes it", name);
	if (streq(got, want))
		return;
	for (w = want; *g && *g == *w; g++, w++)
		line += *g == '\n';
	while (g > got && g[-1] != '\n') {
		g--;
		w--;
	}
	fail_msg("%s:%d\nwanted: %.*s\n   got: %.*s", name, line, (int)strcspn(w, "\n"), w,
		(int)strcspn(g, "\n"), g);
}

/* The first comment says what the run shows; a line "# verdict: NAME, exit N" what is to come out. */
static void check_promise(const char *path, const json_t *report)
{
	_cleanup_free_ char *text = NULL;
	char want[64];

	assert_int_equal(file_read(path, 1 << 20, &text, NULL), 0);
	snprintf(want, sizeof(want), "# verdict: %s, exit %d\n",
		json_string_value(json_object_get(report, "verdict")),
		(int)json_integer_value(json_object_get(report, "exit_code")));
	if (!strstr(text, want))
		fail_msg("%s: %s(%s)", path, want,
			json_string_value(json_object_get(report, "reason")));
}

static void check_run(const char *path, const json_t *plan)
{
	_cleanup_timeline_ struct timeline *tl = read_run(path);
	_cleanup_json_ json_t *report = NULL, *chart = NULL;
	_cleanup_free_ char *json = NULL, *text = NULL, *html = NULL, *again = NULL;
	struct err err = {0};

	if (judge(plan, tl, &report, &err) < 0)
		fail_msg("%s: %s", path, err.text);
	check_promise(path, report);
	json = json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
	compare(path, ".json", json);
	if (render_report(report, NULL, "text", &text, NULL, &err) < 0)
		fail_msg("%s: %s", path, err.text);
	compare(path, ".txt", text);
	/* too large to be kept, and the same every time */
	chart = render_chart_data(tl);
	assert_non_null(chart);
	for (const char *const *f = render_formats; *f; f++) {
		free(TAKE_PTR(html));
		free(TAKE_PTR(again));
		if (render_report(report, chart, *f, &html, NULL, &err) < 0 ||
			render_report(report, chart, *f, &again, NULL, &err) < 0)
			fail_msg("%s: %s", path, err.text);
		assert_string_equal(html, again);
		if (getenv("MUSTER_GOLDEN_DIR")) {
			const char *slash = strrchr(path, '/');
			_cleanup_free_ char *out =
				strf("%s/%s.%s", getenv("MUSTER_GOLDEN_DIR"), slash + 1, *f);

			assert_int_equal(file_write(out, html, strlen(html)), 0);
		}
	}
}

static void test_golden(void **state _unused_)
{
	_cleanup_json_ json_t *plan = json_load_file(TEST_DATA "/golden/plan.json", 0, NULL);
	glob_t found;

	assert_non_null(plan);
	assert_int_equal(glob(TEST_DATA "/golden/*.tl", 0, NULL, &found), 0);
	for (size_t i = 0; i < found.gl_pathc; i++)
		check_run(found.gl_pathv[i], plan);
	print_message("%zu runs\n", found.gl_pathc);
	assert_true(found.gl_pathc >= 6);
	globfree(&found);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
