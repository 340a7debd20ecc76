/* SPDX-License-Identifier: GPL-2.0-only */
#include <stdarg.h>
#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

#include "engine/param.h"
#include "engine/str.h"
#include "engine/units.h"

static void durations(void **state)
{
	static const struct {
		const char *text;
		nsec_t ns;
	} good[] = {{"0", 0}, {"1ns", 1}, {"250us", 250000}, {"50ms", 50000000}, {"1.5s", 1500000000}, {"2m", 120000000000},
		{"24h", 86400000000000}};
	static const char *const bad[] = {
		"", "5", "-5s", "5 s", "5sx", "s", ".", "1e3s", "0x5s", "nan", "infs", "+5s", "25h", "1.2.3s", "5s ", " 5s"};
	nsec_t ns = 42;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(units_duration(good[i].text, &ns), 0);
		assert_true(ns == good[i].ns);
	}
	ns = 42;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(units_duration(bad[i], &ns) < 0);
		assert_true(ns == 42);
	}
}

static void ratios_rates_sizes(void **state)
{
	uint64_t bytes = 7;
	double d = 7;

	(void)state;
	assert_int_equal(units_ratio("0.1%", &d), 0);
	assert_float_equal(d, 0.001, 1e-12);
	assert_int_equal(units_ratio("0.5", &d), 0);
	assert_float_equal(d, 0.5, 1e-12);
	assert_int_equal(units_ratio("101%", &d), -ERANGE);
	assert_int_equal(units_ratio("1%%", &d), -EINVAL);
	assert_int_equal(units_rate("300/s", &d), 0);
	assert_float_equal(d, 300, 1e-9);
	assert_int_equal(units_rate("60/min", &d), 0);
	assert_float_equal(d, 1, 1e-9);
	assert_int_equal(units_rate("300", &d), -EINVAL);
	assert_int_equal(units_bytes("64KiB", &bytes), 0);
	assert_int_equal(bytes, 65536);
	assert_int_equal(units_bytes("64kib", &bytes), -EINVAL);
	assert_int_equal(bytes, 65536);
}

static void durations_print_and_parse_back(void **state)
{
	static const char *const texts[] = {"0s", "1ns", "50ms", "1.5s", "90s", "2m", "1h", "250us"};
	char buf[UNITS_FMT_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		nsec_t ns;

		assert_int_equal(units_duration(streq(texts[i], "0s") ? "0" : texts[i], &ns), 0);
		assert_string_equal(units_fmt_duration(buf, sizeof(buf), ns), texts[i]);
	}
}

static const struct param params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "where"},
	{.name = "how", .type = PARAM_STRING, .values = "silent|cut|loud", .deflt = "silent"},
	{.name = "delay", .type = PARAM_DURATION, .deflt = "50ms", .max = 10e9},
	{.name = "loss", .type = PARAM_RATIO},
	{.name = "port", .type = PARAM_INT, .min = 1, .max = 65535},
	{.name = "addr", .type = PARAM_ADDR},
	{.name = "url", .type = PARAM_URL},
	{.name = "values", .type = PARAM_MAP, .of = PARAM_STRING},
	{.name = "list", .type = PARAM_LIST, .of = PARAM_NET},
	{.name = "texts", .type = PARAM_MAP, .of = PARAM_TEXT},
	{.name = "flag", .type = PARAM_BOOL, .deflt = "false"},
	PARAM_END,
};
static const char *const nodes[] = {"client", "rs1", "rs2", NULL};
static const struct param_names names = {.nodes = nodes};

static int check(const char *args, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *j = json_loads(args, JSON_ALLOW_NUL, NULL);

	assert_non_null(j);
	return param_check(params, "fault.x", j, &names, ret, err);
}

static void normalises(void **state)
{
	_cleanup_json_ json_t *out = NULL, *again = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(check("{\"node\":\"rs2\",\"loss\":\"5%\",\"values\":[],\"list\":{},\"url\":\"http://[2001:db8::1]:80/x\"}",
				 &out, &err),
		0);
	assert_int_equal(json_integer_value(json_object_get(out, "delay")), 50000000);
	assert_string_equal(json_string_value(json_object_get(out, "how")), "silent");
	assert_true(json_is_false(json_object_get(out, "flag")));
	assert_null(json_object_get(out, "port"));
	assert_true(json_is_object(json_object_get(out, "values")));
	assert_true(json_is_array(json_object_get(out, "list")));
	assert_null(json_object_get(out, "texts"));
	/* what comes out goes in again, unchanged: the engine checks what the script process sent */
	assert_int_equal(param_check(params, "fault.x", out, &names, &again, &err), 0);
	assert_true(json_equal(out, again));
}

static void numbers_as_text(void **state)
{
	_cleanup_json_ json_t *out = NULL;
	const json_t *t;
	struct err err = {0};

	(void)state;
	assert_int_equal(check("{\"node\":\"rs2\",\"texts\":{\"a\":65535,\"b\":-1.0,\"c\":\"4096 87380\"}}", &out, &err), 0);
	t = json_object_get(out, "texts");
	assert_string_equal(json_string_value(json_object_get(t, "a")), "65535");
	assert_string_equal(json_string_value(json_object_get(t, "b")), "-1");
	assert_string_equal(json_string_value(json_object_get(t, "c")), "4096 87380");
}

static void refuses(void **state)
{
	static const struct {
		const char *args, *text, *hint;
	} bad[] = {
		{"{}", "node is missing", ""},
		{"{\"node\":\"rs3\"}", "the site has no such node", "rs1"},
		{"{\"nodee\":\"rs2\"}", "unknown key \"nodee\"", "\"node\""},
		{"{\"node\":\"rs2\",\"how\":\"silnet\"}", "none of silent|cut|loud", "\"silent\""},
		{"{\"node\":\"rs2\",\"delay\":\"-5ms\"}", "negative", ""},
		{"{\"node\":\"rs2\",\"delay\":-5}", "duration", ""},
		{"{\"node\":\"rs2\",\"delay\":1.5}", "duration such as", ""},
		{"{\"node\":\"rs2\",\"delay\":\"11s\"}", "out of range", ""},
		{"{\"node\":\"rs2\",\"loss\":\"150%\"}", "not between", ""},
		{"{\"node\":\"rs2\",\"loss\":-0.1}", "not between", ""},
		{"{\"node\":\"rs2\",\"port\":0}", "out of range (1 to 65535)", ""},
		{"{\"node\":\"rs2\",\"port\":\"80\"}", "integer", ""},
		{"{\"node\":\"rs2\",\"addr\":\"198.18.0.256\"}", "address", ""},
		{"{\"node\":\"rs2\",\"addr\":\"rs1\"}", "address", ""},
		{"{\"node\":\"rs2\",\"url\":\"http://example/\"}", "url", ""},
		{"{\"node\":\"rs2\",\"url\":\"http://[198.18.0.1]/\"}", "url", ""},
		{"{\"node\":\"rs2\",\"url\":\"http://198.18.0.1/a b\"}", "url", ""},
		{"{\"node\":\"rs2\",\"values\":{\"a\":5}}", "values[\"a\"]", ""},
		{"{\"node\":\"rs2\",\"texts\":{\"a\":0.5}}", "texts[\"a\"] wants a text or integer", ""},
		{"{\"node\":\"rs2\",\"texts\":{\"a\":true}}", "texts[\"a\"]", ""},
		{"{\"node\":\"rs2\",\"list\":[\"198.18.0.0/33\"]}", "list[1]", ""},
		{"{\"node\":\"r\\u0000s\"}", "NUL", ""},
		{"[1]", "table of named arguments", ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = {0};
		json_t *out = NULL;

		assert_true(check(bad[i].args, &out, &err) < 0);
		assert_null(out);
		if (!strstr(err.text, bad[i].text) || !strstr(err.hint, bad[i].hint))
			fail_msg("%s: \"%s\" (%s)", bad[i].args, err.text, err.hint);
	}
}

static void nearest(void **state)
{
	static const char *const list[] = {"delay", "jitter", "loss", "node", NULL};

	(void)state;
	assert_string_equal(str_nearest("dealy", list), "delay");
	assert_string_equal(str_nearest("Jiter", list), "jitter");
	assert_null(str_nearest("bandwidth", list));
}

static void shell_words(void **state)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	(void)state;
	strbuf_add_shell(&b, "plain-1.0");
	strbuf_puts(&b, " ");
	strbuf_add_shell(&b, "it's $HOME");
	strbuf_puts(&b, " ");
	strbuf_add_shell(&b, "");
	assert_string_equal(strbuf_cstr(&b), "plain-1.0 'it'\\''s $HOME' ''");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(durations),
		cmocka_unit_test(ratios_rates_sizes),
		cmocka_unit_test(durations_print_and_parse_back),
		cmocka_unit_test(normalises),
		cmocka_unit_test(numbers_as_text), cmocka_unit_test(refuses),
		cmocka_unit_test(nearest),
		cmocka_unit_test(shell_words),
	};

	return cmocka_run_group_tests_name("units", tests, NULL, NULL);
}
