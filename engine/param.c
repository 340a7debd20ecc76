/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/param.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/str.h"
#include "engine/units.h"

/* What a value must look like, for the message when it does not. */
static const char *const type_names[] = {
	[PARAM_STRING] = "text",
	[PARAM_BOOL] = "true or false",
	[PARAM_INT] = "integer",
	[PARAM_REAL] = "number",
	[PARAM_DURATION] = "duration",
	[PARAM_RATIO] = "ratio",
	[PARAM_RATE] = "rate",
	[PARAM_BYTES] = "size",
	[PARAM_NODE] = "node",
	[PARAM_SERVICE] = "service",
	[PARAM_DATABASE] = "database",
	[PARAM_ADDR] = "address",
	[PARAM_NET] = "network",
	[PARAM_URL] = "url",
	[PARAM_MAP] = "table",
	[PARAM_LIST] = "list",
	[PARAM_TEXT] = "text or integer",
};

static const char *const type_examples[] = {
	[PARAM_DURATION] = "\"50ms\"",
	[PARAM_RATIO] = "\"0.1%\"",
	[PARAM_RATE] = "\"300/s\"",
	[PARAM_BYTES] = "\"64KiB\"",
	[PARAM_ADDR] = "\"198.18.0.10\"",
	[PARAM_NET] = "\"198.18.0.0/24\"",
	[PARAM_URL] = "\"http://198.18.0.100:8080/\"",
	[PARAM_TEXT] = NULL, /* the last type: it sets the size */
};

const char *param_type_name(const struct param *p)
{
	return p->values ? p->values : type_names[p->type];
}

static int wrong_type(const char *who, const char *name, const struct param *p, const json_t *v, struct err *err)
{
	_cleanup_free_ char *given = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
	const char *example = type_examples[p->type];

	if (given && strlen(given) > 60)
		strcpy(given + 57, "...");
	return err_set(err, -EINVAL, "%s: %s wants a %s%s%s, not %s", who, name, type_names[p->type],
		example ? " such as " : "", example ? example : "", given ? given : "this");
}

static int out_of_range(const char *who, const char *name, const struct param *p, const char *given, struct err *err)
{
	struct param bound = *p;
	_cleanup_json_ json_t *lo = NULL, *hi = NULL;
	_cleanup_free_ char *lo_text = NULL, *hi_text = NULL;

	if (p->min == 0 && p->max == 0)
		return err_set(err, -ERANGE, "%s: %s = %s is out of range", who, name, given);
	lo = p->type == PARAM_INT || p->type == PARAM_DURATION || p->type == PARAM_BYTES ?
		     json_integer((json_int_t)p->min) :
		     json_real(p->min);
	hi = p->type == PARAM_INT || p->type == PARAM_DURATION || p->type == PARAM_BYTES ?
		     json_integer((json_int_t)p->max) :
		     json_real(p->max);
	lo_text = param_format(&bound, lo);
	hi_text = param_format(&bound, hi);
	return err_set(err, -ERANGE, "%s: %s = %s is out of range (%s to %s)", who, name, given,
		lo_text ? lo_text : "?", hi_text ? hi_text : "?");
}

static int check_choice(const char *who, const char *name, const struct param *p, const char *s, struct err *err)
{
	_cleanup_free_ char *copy = strdup(p->values);
	const char *choices[32] = {NULL};
	const char *near;
	size_t n = 0;
	char *save = NULL;

	if (!copy)
		return -ENOMEM;
	for (char *c = strtok_r(copy, "|", &save); c && n < ARRAY_SIZE(choices) - 1; c = strtok_r(NULL, "|", &save)) {
		if (streq(c, s))
			return 0;
		choices[n++] = c;
	}
	near = str_nearest(s, choices);
	err_set(err, -EINVAL, "%s: %s = \"%.64s\" is none of %s", who, name, s, p->values);
	if (near)
		err_hint(err, "did you mean \"%s\"?", near);
	return -EINVAL;
}

static int check_known(const char *who, const char *name, const char *what, const char *s, const char *const *names,
	struct err *err)
{
	_cleanup_strbuf_ struct strbuf all = {0};
	const char *near;

	if (!names)
		return 0;
	for (const char *const *n = names; *n; n++) {
		if (streq(*n, s))
			return 0;
		strbuf_addf(&all, "%s%s", n == names ? "" : ", ", *n);
	}
	near = str_nearest(s, names);
	err_set(err, -EINVAL, "%s: %s = \"%.64s\": the site has no such %s", who, name, s, what);
	if (near)
		err_hint(err, "did you mean \"%s\"? There are: %s", near, strbuf_cstr(&all));
	else
		err_hint(err, "there are: %s", strbuf_cstr(&all));
	return -EINVAL;
}

static bool valid_addr(const char *s, bool prefix_allowed)
{
	char host[INET6_ADDRSTRLEN + 1];
	const char *slash = strchr(s, '/');
	size_t len = slash ? (size_t)(slash - s) : strlen(s);
	unsigned char bin[16];
	int64_t prefix;
	bool v6;

	if (len >= sizeof(host) || (slash && !prefix_allowed))
		return false;
	memcpy(host, s, len);
	host[len] = '\0';
	v6 = strchr(host, ':') != NULL;
	if (inet_pton(v6 ? AF_INET6 : AF_INET, host, bin) != 1)
		return false;
	return !slash || units_int(slash + 1, 0, v6 ? 128 : 32, &prefix) == 0;
}

/* http://ADDRESS[:PORT][/PATH]; a name would need a resolver, which would be one more thing that can fail in a drill */
static bool valid_url(const char *s)
{
	char host[INET6_ADDRSTRLEN + 1];
	const char *p = s, *end;
	int64_t port;

	if (strncmp(p, "http://", 7) != 0)
		return false;
	p += 7;
	if (*p == '[') {
		end = strchr(++p, ']');
		if (!end)
			return false;
	} else {
		end = p + strcspn(p, ":/");
	}
	if ((size_t)(end - p) >= sizeof(host))
		return false;
	memcpy(host, p, (size_t)(end - p));
	host[end - p] = '\0';
	if (!valid_addr(host, false) || (*end == ']') != (strchr(host, ':') != NULL))
		return false;
	p = end + (*end == ']');
	if (*p == ':') {
		char text[8];
		size_t n = strcspn(++p, "/");

		if (n >= sizeof(text))
			return false;
		memcpy(text, p, n);
		text[n] = '\0';
		if (units_int(text, 1, 65535, &port) < 0)
			return false;
		p += n;
	}
	if (*p && *p != '/')
		return false;
	for (; *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 127)
			return false;
	return true;
}

static bool in_range(const struct param *p, double v)
{
	return (p->min == 0 && p->max == 0) || (v >= p->min && v <= p->max);
}

static int check_value(const char *who, const char *name, const struct param *p, const json_t *v,
	const struct param_names *names, json_t **ret, struct err *err);

static int check_number(const char *who, const char *name, const struct param *p, const json_t *v, json_t **ret,
	struct err *err)
{
	const char *s = json_string_value(v);
	char given[64];
	double d = 0;
	nsec_t ns;
	uint64_t bytes;
	int64_t i;
	int r = 0;

	snprintf(given, sizeof(given), "\"%.48s\"", s ? s : "");
	switch (p->type) {
	case PARAM_INT:
		if (!json_is_number(v) || json_number_value(v) != floor(json_number_value(v)))
			return wrong_type(who, name, p, v, err);
		i = json_is_integer(v) ? (int64_t)json_integer_value(v) : (int64_t)json_real_value(v);
		snprintf(given, sizeof(given), "%" PRId64, i);
		if (!in_range(p, (double)i))
			return out_of_range(who, name, p, given, err);
		*ret = json_integer(i);
		break;
	case PARAM_REAL:
		if (!json_is_number(v))
			return wrong_type(who, name, p, v, err);
		d = json_number_value(v);
		snprintf(given, sizeof(given), "%g", d);
		if (!in_range(p, d))
			return out_of_range(who, name, p, given, err);
		*ret = json_real(d);
		break;
	case PARAM_DURATION:
		/* an integer is what this function made of the text; a scenario's bare number has no unit */
		if (json_is_integer(v) && json_integer_value(v) >= 0)
			ns = json_integer_value(v);
		else if (!s)
			return wrong_type(who, name, p, v, err);
		else
			r = units_duration(s, &ns);
		if (r == -EINVAL && s[0] == '-')
			return err_set(err, -ERANGE, "%s: %s = %s is negative", who, name, given);
		if (r < 0)
			return r == -ERANGE ? err_set(err, r, "%s: %s = %s is longer than 24h", who, name, given) :
					      wrong_type(who, name, p, v, err);
		if (!s)
			units_fmt_duration(given, sizeof(given), ns);
		if (!in_range(p, (double)ns))
			return out_of_range(who, name, p, given, err);
		*ret = json_integer(ns);
		break;
	case PARAM_RATIO:
		if (json_is_number(v))
			d = json_number_value(v);
		else if (!s)
			return wrong_type(who, name, p, v, err);
		else
			r = units_ratio(s, &d);
		if (r == -EINVAL)
			return wrong_type(who, name, p, v, err);
		if (!s)
			snprintf(given, sizeof(given), "%g", d);
		if (r < 0 || !(d >= 0 && d <= 1))
			return err_set(err, -ERANGE, "%s: %s = %s is not between 0%% and 100%%", who, name, given);
		if (!in_range(p, d))
			return out_of_range(who, name, p, given, err);
		*ret = json_real(d);
		break;
	case PARAM_RATE:
		if (json_is_real(v))
			d = json_real_value(v);
		else if (!s)
			return wrong_type(who, name, p, v, err);
		else
			r = units_rate(s, &d);
		if (r == -EINVAL)
			return wrong_type(who, name, p, v, err);
		if (r < 0 || !(d > 0) || !in_range(p, d))
			return out_of_range(who, name, p, given, err);
		*ret = json_real(d);
		break;
	case PARAM_BYTES:
		if (json_is_integer(v) && json_integer_value(v) >= 0)
			bytes = (uint64_t)json_integer_value(v);
		else if (!s)
			return wrong_type(who, name, p, v, err);
		else
			r = units_bytes(s, &bytes);
		if (r == -EINVAL)
			return wrong_type(who, name, p, v, err);
		if (r < 0 || !in_range(p, (double)bytes))
			return out_of_range(who, name, p, given, err);
		*ret = json_integer((json_int_t)bytes);
		break;
	default:
		return -EINVAL;
	}
	return *ret ? 0 : -ENOMEM;
}

static int check_list(const char *who, const char *name, const struct param *p, const json_t *v,
	const struct param_names *names, json_t **ret, struct err *err)
{
	const struct param item = {.name = name, .type = p->of, .values = p->values, .min = p->min, .max = p->max};
	_cleanup_json_ json_t *out = json_array();
	const json_t *e;
	size_t i;

	/* an empty Lua table is both {} and [] */
	if (json_is_object(v) && json_object_size(v) == 0)
		return (*ret = TAKE_PTR(out)) ? 0 : -ENOMEM;
	/* one text is a list of one */
	if (json_is_string(v) && p->of != PARAM_MAP && p->of != PARAM_LIST) {
		json_t *x;
		int r = check_value(who, name, &item, v, names, &x, err);

		if (r < 0)
			return r;
		return json_array_append_new(out, x) < 0 ? -ENOMEM : (*ret = TAKE_PTR(out), 0);
	}
	if (!json_is_array(v))
		return wrong_type(who, name, p, v, err);
	json_array_foreach(v, i, e) {
		char place[128];
		json_t *x;
		int r;

		snprintf(place, sizeof(place), "%s[%zu]", name, i + 1);
		r = check_value(who, place, &item, e, names, &x, err);
		if (r < 0)
			return r;
		if (json_array_append_new(out, x) < 0)
			return -ENOMEM;
	}
	*ret = TAKE_PTR(out);
	return 0;
}

static int check_map(const char *who, const char *name, const struct param *p, const json_t *v,
	const struct param_names *names, json_t **ret, struct err *err)
{
	const struct param item = {.name = name, .type = p->of, .values = p->values, .min = p->min, .max = p->max};
	_cleanup_json_ json_t *out = json_object();
	const char *key;
	const json_t *e;

	if (json_is_array(v) && json_array_size(v) == 0)
		return (*ret = TAKE_PTR(out)) ? 0 : -ENOMEM;
	if (!json_is_object(v))
		return wrong_type(who, name, p, v, err);
	json_object_foreach((json_t *)v, key, e) {
		char place[128];
		json_t *x;
		int r;

		snprintf(place, sizeof(place), "%s[\"%.64s\"]", name, key);
		r = check_value(who, place, &item, e, names, &x, err);
		if (r < 0)
			return r;
		if (json_object_set_new(out, key, x) < 0)
			return -ENOMEM;
	}
	*ret = TAKE_PTR(out);
	return 0;
}

static int check_value(const char *who, const char *name, const struct param *p, const json_t *v,
	const struct param_names *names, json_t **ret, struct err *err)
{
	const char *s = json_string_value(v);
	int r = 0;

	switch (p->type) {
	case PARAM_BOOL:
		if (!json_is_boolean(v))
			return wrong_type(who, name, p, v, err);
		*ret = json_boolean(json_is_true(v));
		return 0;
	case PARAM_LIST:
		return check_list(who, name, p, v, names, ret, err);
	case PARAM_MAP:
		return check_map(who, name, p, v, names, ret, err);
	case PARAM_INT:
	case PARAM_REAL:
	case PARAM_DURATION:
	case PARAM_RATIO:
	case PARAM_RATE:
	case PARAM_BYTES:
		return check_number(who, name, p, v, ret, err);
	case PARAM_TEXT:
		if (json_is_number(v) && json_number_value(v) == floor(json_number_value(v)) &&
			fabs(json_number_value(v)) <= 9007199254740992.0) {
			char digits[32];

			/* up to 2^53 a Lua float and an integer are the same number */
			snprintf(digits, sizeof(digits), "%.0f", json_number_value(v));
			*ret = json_string(digits);
			return *ret ? 0 : -ENOMEM;
		}
		break;
	default:
		break;
	}

	if (!s)
		return wrong_type(who, name, p, v, err);
	if (strlen(s) != json_string_length(v))
		return err_set(err, -EINVAL, "%s: %s has a NUL byte in it", who, name);
	if (p->type == PARAM_STRING && p->values)
		r = check_choice(who, name, p, s, err);
	else if (p->type == PARAM_NODE)
		r = check_known(who, name, "node", s, names ? names->nodes : NULL, err);
	else if (p->type == PARAM_SERVICE)
		r = check_known(who, name, "service", s, names ? names->services : NULL, err);
	else if (p->type == PARAM_DATABASE)
		r = check_known(who, name, "database", s, names ? names->databases : NULL, err);
	else if ((p->type == PARAM_ADDR && !valid_addr(s, false)) || (p->type == PARAM_NET && !valid_addr(s, true)) ||
		 (p->type == PARAM_URL && !valid_url(s)))
		r = wrong_type(who, name, p, v, err);
	if (r < 0)
		return r;
	*ret = json_string(s);
	return *ret ? 0 : -ENOMEM;
}

static int unknown_key(const struct param *table, const char *who, const char *key, struct err *err)
{
	_cleanup_strbuf_ struct strbuf all = {0};
	const char *list[64] = {NULL}, *near;
	size_t n = 0;

	for (; table->name && n < ARRAY_SIZE(list) - 1; table++) {
		strbuf_addf(&all, "%s%s", n ? ", " : "", table->name);
		list[n++] = table->name;
	}
	near = str_nearest(key, list);
	err_set(err, -EINVAL, "%s: unknown key \"%.64s\"", who, key);
	if (near)
		err_hint(err, "did you mean \"%s\"?", near);
	else if (n)
		err_hint(err, "it takes %s", strbuf_cstr(&all));
	else
		err_hint(err, "it takes no keys");
	return -EINVAL;
}

int param_check(const struct param *table, const char *who, const json_t *args, const struct param_names *names,
	json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *out = json_object();
	const char *key;
	const json_t *v;

	if (!out)
		return -ENOMEM;
	if (!json_is_object(args) && !(json_is_array(args) && json_array_size(args) == 0))
		return err_set(err, -EINVAL, "%s: wants a table of named arguments", who);
	json_object_foreach((json_t *)args, key, v) {
		const struct param *p = table;

		while (p && p->name && !streq(p->name, key))
			p++;
		if (!p || !p->name)
			return unknown_key(table, who, key, err);
	}
	for (const struct param *p = table; p && p->name; p++) {
		_cleanup_json_ json_t *text = NULL;
		json_t *x = NULL;
		int r;

		v = json_object_get(args, p->name);
		if (!v || json_is_null(v)) {
			if (p->required)
				return err_set(err, -EINVAL, "%s: %s is missing (%s)", who, p->name,
					p->help ? p->help : type_names[p->type]);
			if (!p->deflt)
				continue;
			/* defaults are written as a scenario would write them: text, or JSON for the other types */
			if (p->type == PARAM_BOOL || p->type == PARAM_INT || p->type == PARAM_REAL || p->type == PARAM_LIST ||
				p->type == PARAM_MAP)
				text = json_loads(p->deflt, JSON_DECODE_ANY, NULL);
			else
				text = json_string(p->deflt);
			v = text;
		}
		r = check_value(who, p->name, p, v, names, &x, err);
		if (r < 0)
			return r;
		if (json_object_set_new(out, p->name, x) < 0)
			return -ENOMEM;
	}
	*ret = TAKE_PTR(out);
	return 0;
}

char *param_format(const struct param *p, const json_t *value)
{
	char buf[UNITS_FMT_MAX];

	switch (p->type) {
	case PARAM_DURATION:
		return strdup(units_fmt_duration(buf, sizeof(buf), json_integer_value(value)));
	case PARAM_RATIO:
		return strdup(units_fmt_ratio(buf, sizeof(buf), json_number_value(value)));
	case PARAM_RATE:
		return strf("%g/s", json_number_value(value));
	case PARAM_BYTES: {
		json_int_t n = json_integer_value(value);

		if (n && n % (1 << 20) == 0)
			return strf("%" JSON_INTEGER_FORMAT "MiB", n >> 20);
		if (n && n % 1024 == 0)
			return strf("%" JSON_INTEGER_FORMAT "KiB", n >> 10);
		return strf("%" JSON_INTEGER_FORMAT "B", n);
	}
	default:
		return json_is_string(value) ? strdup(json_string_value(value)) :
					       json_dumps(value, JSON_ENCODE_ANY | JSON_SORT_KEYS);
	}
}
