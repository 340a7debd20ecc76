/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The `core` table: requests to the engine, argument checks from the tables, values. Each function
 * checks what it was given as if a scenario had called it, although only lua/lib/ can.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/clock.h"
#include "engine/source.h"
#include "engine/units.h"
#include "engine/wire.h"
#include "lua/bind.h"

/* ── where ─────────────────────────────────────────────────────────────────────────────────── */

bool bind_find_where(lua_State *L, struct script *s)
{
	lua_Debug ar;

	for (int level = 0; lua_getstack(L, level, &ar); level++) {
		lua_getinfo(L, "Sl", &ar);
		/* '@': a file, as opposed to the library ("=...") and C */
		if (ar.source[0] != '@' || ar.currentline <= 0)
			continue;
		snprintf(s->where, sizeof(s->where), "%s:%d", ar.source + 1, ar.currentline);
		return true;
	}
	s->where[0] = '\0';
	return false;
}

static size_t prefix_line(const char *name, const char *message)
{
	size_t n = strlen(name), digits;

	if (n == 0 || strncmp(message, name, n) != 0 || message[n] != ':')
		return 0;
	digits = strspn(message + n + 1, "0123456789");
	if (digits == 0 || strncmp(message + n + 1 + digits, ": ", 2) != 0)
		return 0;
	return n + 1 + digits;
}

const char *bind_split_where(
	const struct script *s, const char *message, char *ret_where, size_t size)
{
	for (size_t i = 0; i < s->n_files; i++) {
		const struct bind_file *f = &s->files[i];
		size_t n = prefix_line(f->name, message);

		if (n) {
			snprintf(ret_where, size, "%.*s", (int)n, message);
			return message + n + 2;
		}
		n = prefix_line(f->short_name, message);
		if (n) {
			snprintf(ret_where, size, "%s%.*s", f->name,
				(int)(n - strlen(f->short_name)), message + strlen(f->short_name));
			return message + n + 2;
		}
	}
	return message;
}

static int core_where(lua_State *L)
{
	lua_pushstring(L, bind_script(L)->where);
	return 1;
}

/* raise(text[, where]): at the scenario's line */
static int core_raise(lua_State *L)
{
	const char *text = luaL_checkstring(L, 1);
	const char *where = luaL_optstring(L, 2, bind_script(L)->where);

	if (*where)
		lua_pushfstring(L, "%s: %s", where, text);
	else
		lua_pushstring(L, text);
	return lua_error(L);
}

/*
 * api(f): what a scenario may call. A C function, because `return muster.scenario { ... }` is a
 * tail call, and would otherwise replace the very frame whose line the message is to name.
 */
static int api_call(lua_State *L)
{
	bind_find_where(L, bind_script(L));
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
	return lua_gettop(L);
}

static int core_api(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_settop(L, 1);
	lua_pushcclosure(L, api_call, 1);
	return 1;
}

/* ── values ────────────────────────────────────────────────────────────────────────────────── */

/* opaque(metatable, data): a value a scenario can pass on, and not open */
static int core_opaque(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checktype(L, 2, LUA_TTABLE);
	lua_newuserdatauv(L, 0, 1);
	lua_pushvalue(L, 2);
	lua_setiuservalue(L, -2, 1);
	lua_pushvalue(L, 1);
	lua_setmetatable(L, -2);
	return 1;
}

/* data(v): what opaque() was given, or nil */
static int core_data(lua_State *L)
{
	lua_settop(L, 1);
	if (!bind_push_data(L, 1))
		lua_pushnil(L);
	return 1;
}

/* array(t): t as a list, also when it is empty */
static int core_array(lua_State *L)
{
	json_t **box;
	lua_Integer n;

	luaL_checktype(L, 1, LUA_TTABLE);
	n = (lua_Integer)lua_rawlen(L, 1);
	box = bind_new_box(L);
	*box = json_array();
	for (lua_Integer i = 1; i <= n; i++) {
		char reason[256] = "";
		json_t *v;

		lua_rawgeti(L, 1, i);
		v = bind_to_json(L, -1, reason, sizeof(reason));
		lua_pop(L, 1);
		if (!v || json_array_append_new(*box, v) < 0)
			return luaL_error(L, "%s", *reason ? reason : "out of memory");
	}
	return 1;
}

/* with(box, key, value): a copy with one more member */
static int core_with(lua_State *L)
{
	json_t *from = bind_unbox(L, 1), **box, *v;
	const char *key = luaL_checkstring(L, 2);
	char reason[256] = "";

	luaL_argcheck(L, json_is_object(from), 1, "JSON object expected");
	box = bind_new_box(L);
	*box = json_copy(from);
	v = bind_to_json(L, 3, reason, sizeof(reason));
	if (!v || json_object_set_new(*box, key, v) < 0)
		return luaL_error(L, "%s", *reason ? reason : "out of memory");
	return 1;
}

static int core_unbox(lua_State *L)
{
	json_t *j = bind_unbox(L, 1);

	luaL_argcheck(L, j, 1, "JSON expected");
	bind_push_json(L, j);
	return 1;
}

/* ── requests ──────────────────────────────────────────────────────────────────────────────── */

static void push_text_and_hint(lua_State *L, const char *text, const char *hint)
{
	if (hint && *hint)
		lua_pushfstring(L, "%s (%s)", text, hint);
	else
		lua_pushstring(L, text);
}

/* Raises the text on top of the stack at @where ("": nowhere). */
static int raise_at(lua_State *L, const char *where)
{
	if (*where) {
		lua_pushfstring(L, "%s: %s", where, lua_tostring(L, -1));
		lua_remove(L, -2);
	}
	return lua_error(L);
}

/* request(t): sends it with version, id and where; returns the reply's value, or raises its error
 * at the scenario's line */
static int core_request(lua_State *L)
{
	struct script *s = bind_script(L);
	uint64_t id = ++s->next_id;
	const json_t *error, *value;
	const char *where;
	char reason[256] = "";
	struct err err = {0};
	json_t **box;
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	/* the caller's line, unless the library says that it is about another one */
	lua_getfield(L, 1, "where");
	where = lua_isstring(L, 2) ? lua_tostring(L, 2) : lua_pushstring(L, s->where);
	if (s->stop) {
		lua_pushstring(L, s->stop_text);
		return raise_at(L, s->stop == STOP_HALTED ? where : "");
	}
	box = bind_new_box(L);
	*box = bind_to_json(L, 1, reason, sizeof(reason));
	if (!*box) {
		lua_pushstring(L, reason);
		return raise_at(L, where);
	}
	if (json_object_set_new(*box, "v", json_integer(WIRE_VERSION)) < 0 ||
		json_object_set_new(*box, "id", json_integer((json_int_t)id)) < 0 ||
		json_object_set_new(*box, "where", json_string(where)) < 0)
		return luaL_error(L, "out of memory");
	r = wire_send(s->fd, *box);
	if (r == -EMSGSIZE) {
		lua_pushfstring(
			L, "more than %d MiB of data for the engine", (int)(WIRE_MAX >> 20));
		return raise_at(L, where);
	}
	/* Without an engine nothing that follows could matter, and there is nobody to tell. */
	if (r < 0)
		_exit(SCRIPT_PROTOCOL);
	json_decref(*box);
	*box = NULL;
	if (wire_recv(s->fd, box, &err) < 0)
		_exit(SCRIPT_PROTOCOL);
	if (!json_is_integer(json_object_get(*box, "id")) ||
		(uint64_t)json_integer_value(json_object_get(*box, "id")) != id)
		_exit(SCRIPT_PROTOCOL);

	error = json_object_get(*box, "error");
	value = json_object_get(*box, "value");
	if (error) {
		if (!json_is_string(error))
			_exit(SCRIPT_PROTOCOL);
		if (json_is_true(json_object_get(*box, "halted"))) {
			s->stop = STOP_HALTED;
			snprintf(
				s->stop_text, sizeof(s->stop_text), "%s", json_string_value(error));
		}
		push_text_and_hint(L, json_string_value(error),
			json_string_value(json_object_get(*box, "hint")));
		return raise_at(L, where);
	}
	if (!value)
		_exit(SCRIPT_PROTOCOL);
	bind_push_json(L, value);
	return 1;
}

/* stopped(): why the script is to end now, or nil */
static int core_stopped(lua_State *L)
{
	const struct script *s = bind_script(L);

	if (s->stop)
		lua_pushstring(L, s->stop_text);
	else
		lua_pushnil(L);
	return 1;
}

/* ── checks ────────────────────────────────────────────────────────────────────────────────── */

static int fail_with(lua_State *L, const struct err *err)
{
	lua_pushnil(L);
	push_text_and_hint(L, err->text[0] ? err->text : "out of memory", err->hint);
	return 2;
}

/* nearest(name, list): the entry that was probably meant, or nil */
static int core_nearest(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1), *near;
	const char *names[256] = {NULL};
	size_t n;

	luaL_checktype(L, 2, LUA_TTABLE);
	n = MIN(lua_rawlen(L, 2), ARRAY_SIZE(names) - 1);
	luaL_checkstack(L, (int)n + 4, NULL);
	for (size_t i = 0; i < n; i++) {
		/* left on the stack, so that they stay */
		lua_rawgeti(L, 2, (lua_Integer)i + 1);
		names[i] = luaL_checkstring(L, -1);
	}
	near = str_nearest(name, names);
	if (near)
		lua_pushstring(L, near);
	else
		lua_pushnil(L);
	return 1;
}

static const struct param *find_params(
	lua_State *L, const char *table, const char *subject, const char *name)
{
	const struct change_ops *change;
	const struct source_ops *load;
	const struct probe_ops *probe;

	if (streq(table, "change") && (change = change_find(name)))
		return change->params;
	if (streq(table, "load") && (load = source_find(SOURCE_LOAD, name)))
		return load->params;
	if (streq(table, "probe") && (probe = probe_find(subject, name)))
		return probe->params;
	luaL_error(L, "no %s is called %s", table, name);
	return NULL;
}

/*
 * param_check() takes a bare number for what it made itself of a text, because the engine checks
 * again what arrives from here. What a scenario wrote has passed nothing yet: 50 might be
 * milliseconds or seconds, so it is refused.
 */
static int refuse_bare_number(
	const char *who, const char *name, enum param_type type, const json_t *v, struct err *err)
{
	const char *unit = type == PARAM_RATE ? "300/s" : "50ms";
	double n = json_number_value(v);

	if (!json_is_number(v) || (type != PARAM_DURATION && type != PARAM_RATE))
		return 0;
	if (type == PARAM_DURATION && n == 0)
		return 0;
	return err_set(
		err, -EINVAL, "%s: %s = %.14g has no unit: write it as \"%s\"", who, name, n, unit);
}

static int refuse_bare_numbers(
	const struct param *params, const char *who, const json_t *args, struct err *err)
{
	for (const struct param *p = params; p && p->name; p++) {
		const json_t *v = json_object_get(args, p->name), *e;
		const char *key;
		size_t i;
		int r = 0;

		if (p->type == PARAM_LIST) {
			json_array_foreach (v, i, e)
				r = r < 0 ? r : refuse_bare_number(who, p->name, p->of, e, err);
		} else if (p->type == PARAM_MAP) {
			json_object_foreach ((json_t *)v, key, e)
				r = r < 0 ? r : refuse_bare_number(who, p->name, p->of, e, err);
		} else {
			r = refuse_bare_number(who, p->name, p->type, v, err);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/* check(table, subject, name, who, args): the arguments normalised, in a box; or nil and why not */
static int core_check(lua_State *L)
{
	struct script *s = bind_script(L);
	const char *table = luaL_checkstring(L, 1), *subject = luaL_checkstring(L, 2);
	const char *name = luaL_checkstring(L, 3), *who = luaL_checkstring(L, 4);
	const struct param *params = find_params(L, table, subject, name);
	struct param_names names = {0};
	struct err err = {0};
	char reason[256] = "";
	json_t **given, **box;
	int r;

	luaL_checktype(L, 5, LUA_TTABLE);
	if (s->site) /* a setting may be of the machine itself */
		names = streq(table, "change") && strncmp(name, "set.", 4) == 0 ? site_setting_names(s->site) : site_names(s->site);
	given = bind_new_box(L);
	box = bind_new_box(L);
	*given = bind_to_json(L, 5, reason, sizeof(reason));
	if (!*given) {
		err_set(&err, -EINVAL, "%s: %s", who, reason);
		return fail_with(L, &err);
	}
	if (json_is_array(*given)) {
		err_set(&err, -EINVAL, "%s: takes arguments by name: { name = value, ... }", who);
		return fail_with(L, &err);
	}
	r = refuse_bare_numbers(params, who, *given, &err);
	if (r < 0)
		return fail_with(L, &err);
	r = param_check(params, who, *given, &names, box, &err);
	if (r < 0)
		return fail_with(L, &err);
	return 1;
}

/* describe(table, subject, name, box): "how = silent, node = rs2" */
static int core_describe(lua_State *L)
{
	const struct param *p = find_params(
		L, luaL_checkstring(L, 1), luaL_checkstring(L, 2), luaL_checkstring(L, 3));
	const json_t *args = bind_unbox(L, 4);
	luaL_Buffer b;
	bool any = false;

	luaL_argcheck(L, args, 4, "JSON expected");
	luaL_buffinit(L, &b);
	for (; p && p->name; p++) {
		const json_t *v = json_object_get(args, p->name);
		char text[160];
		char *s;

		if (!v)
			continue;
		s = param_format(p, v);
		snprintf(text, sizeof(text), "%s%s = %.96s", any ? ", " : "", p->name, s ? s : "?");
		free(s);
		luaL_addstring(&b, text);
		any = true;
	}
	luaL_pushresult(&b);
	return 1;
}

/* ── units ─────────────────────────────────────────────────────────────────────────────────── */

static int reason(lua_State *L, const char *fmt, ...) _printf_(2, 3);
static int reason(lua_State *L, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	lua_pushnil(L);
	lua_pushstring(L, text);
	return 2;
}

static int parse_duration(lua_State *L, int idx, nsec_t *ret)
{
	const char *s;
	nsec_t ns;
	int r;

	if (lua_type(L, idx) == LUA_TNUMBER) {
		if (lua_tonumber(L, idx) == 0) {
			*ret = 0;
			return 0;
		}
		if (lua_tonumber(L, idx) < 0)
			return reason(L, "%.14g is negative", lua_tonumber(L, idx));
		return reason(L, "%.14g has no unit: write \"%.14gs\" for seconds",
			lua_tonumber(L, idx), lua_tonumber(L, idx));
	}
	if (lua_type(L, idx) != LUA_TSTRING)
		return reason(L, "a duration such as \"50ms\" or \"2m\" is wanted, not a %s",
			luaL_typename(L, idx));
	s = lua_tostring(L, idx);
	r = strlen(s) == lua_rawlen(L, idx) ? units_duration(s, &ns) : -EINVAL;
	if (r == -EINVAL && s[0] == '-' && units_duration(s + 1, &ns) == 0)
		return reason(L, "\"%.48s\" is negative", s);
	if (r == -ERANGE)
		return reason(L, "\"%.48s\" is longer than 24h", s);
	if (r < 0)
		return reason(
			L, "\"%.48s\" is not a duration such as \"50ms\", \"1.5s\" or \"2m\"", s);
	*ret = ns;
	return 0;
}

static int parse_ratio(lua_State *L, int idx, double *ret)
{
	const char *s;
	int r;

	if (lua_type(L, idx) == LUA_TNUMBER) {
		double n = lua_tonumber(L, idx);

		if (!(n >= 0 && n <= 1))
			return reason(L,
				"%.14g is not between 0 and 1: write \"%.14g%%\" for percent", n,
				n);
		*ret = n;
		return 0;
	}
	if (lua_type(L, idx) != LUA_TSTRING)
		return reason(
			L, "a ratio such as \"0.1%%\" is wanted, not a %s", luaL_typename(L, idx));
	s = lua_tostring(L, idx);
	r = strlen(s) == lua_rawlen(L, idx) ? units_ratio(s, ret) : -EINVAL;
	if (r == -ERANGE)
		return reason(L, "\"%.48s\" is not between 0%% and 100%%", s);
	if (r < 0)
		return reason(L, "\"%.48s\" is not a ratio such as \"0.1%%\"", s);
	return 0;
}

static int parse_rate(lua_State *L, int idx, double *ret)
{
	const char *s;
	int r;

	if (lua_type(L, idx) != LUA_TSTRING)
		return reason(
			L, "a rate such as \"300/s\" is wanted, not a %s", luaL_typename(L, idx));
	s = lua_tostring(L, idx);
	r = strlen(s) == lua_rawlen(L, idx) ? units_rate(s, ret) : -EINVAL;
	if (r == -ERANGE)
		return reason(L, "\"%.48s\" is more than 1e7/s", s);
	if (r < 0)
		return reason(L, "\"%.48s\" is not a rate such as \"300/s\"", s);
	return 0;
}

/* duration(v): nanoseconds; or nil and why not */
static int core_duration(lua_State *L)
{
	nsec_t ns = 0;
	int n;

	lua_settop(L, 1);
	n = parse_duration(L, 1, &ns);
	if (n)
		return n;
	lua_pushinteger(L, ns);
	return 1;
}

/* bound(unit, v): a number in the probe's unit; or nil and why not */
static int core_bound(lua_State *L)
{
	static const char *const units[] = {"none", "ratio", "time", "rate", NULL};
	int unit = luaL_checkoption(L, 1, NULL, units), n = 0;
	double v = 0;
	nsec_t ns;

	lua_settop(L, 2);
	switch (unit) {
	case 0:
		if (lua_type(L, 2) != LUA_TNUMBER)
			return reason(L, "a number is wanted, not a %s", luaL_typename(L, 2));
		v = lua_tonumber(L, 2);
		if (isnan(v) || isinf(v))
			return reason(L, "%g is no bound", v);
		break;
	case 1:
		n = parse_ratio(L, 2, &v);
		break;
	case 2:
		n = parse_duration(L, 2, &ns);
		v = n ? 0 : (double)ns;
		break;
	case 3:
		n = parse_rate(L, 2, &v);
		break;
	}
	if (n)
		return n;
	lua_pushnumber(L, v);
	return 1;
}

/* ── files ─────────────────────────────────────────────────────────────────────────────────── */

static void remember_file(lua_State *L, const char *name)
{
	struct script *s = bind_script(L);
	struct bind_file *f;
	char chunk[16];
	lua_Debug ar;

	for (size_t i = 0; i < s->n_files; i++)
		if (streq(s->files[i].name, name))
			return;
	if (s->n_files == BIND_FILES_MAX)
		return;
	f = &s->files[s->n_files];
	/* how Lua will shorten the name is asked, not guessed: from an empty chunk, since the file
	 * may not compile */
	snprintf(chunk, sizeof(chunk), " ");
	lua_pushfstring(L, "@%s", name);
	if (luaL_loadbufferx(L, chunk, 1, lua_tostring(L, -1), "t") == LUA_OK) {
		lua_getinfo(L, ">S", &ar);
		snprintf(f->short_name, sizeof(f->short_name), "%s", ar.short_src);
		f->name = strdup(name);
		if (f->name)
			s->n_files++;
	} else {
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
}

/* load(text, file, env): the file's function, its globals being env; raises the syntax error */
static int core_load(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	const char *file = luaL_checkstring(L, 2);
	int r;

	luaL_checktype(L, 3, LUA_TTABLE);
	remember_file(L, file);
	if (len && text[0] == LUA_SIGNATURE[0]) {
		lua_pushfstring(L, "%s:1: this is compiled Lua: only source text is taken", file);
		return lua_error(L);
	}
	if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
		text += 3;
		len -= 3;
	}
	/* "#!" of an executable file; the line stays, empty, so that numbers are right */
	if (len && text[0] == '#') {
		const char *nl = memchr(text, '\n', len);

		len = nl ? len - (size_t)(nl - text) : 0;
		text = nl ? nl : "";
	}
	lua_pushfstring(L, "@%s", file);
	r = luaL_loadbufferx(L, text, len, lua_tostring(L, -1), "t");
	if (r != LUA_OK) {
		char where[BIND_WHERE_MAX] = "";

		/* "C stack overflow" and "not enough memory" come without a line */
		bind_split_where(bind_script(L), lua_tostring(L, -1), where, sizeof(where));
		if (!*where)
			lua_pushfstring(L, "%s:1: %s", file, lua_tostring(L, -1));
		return lua_error(L);
	}
	lua_pushvalue(L, 3);
	if (!lua_setupvalue(L, -2, 1))
		lua_pop(L, 1);
	return 1;
}

/* site(t, name): the site's JSON in a box, checked as the engine will; or nil and why not */
static int core_site(lua_State *L)
{
	struct script *s = bind_script(L);
	const char *name = luaL_checkstring(L, 2);
	struct site *site = NULL;
	struct err err = {0};
	char why[256] = "";
	json_t **box;
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	box = bind_new_box(L);
	*box = bind_to_json(L, 1, why, sizeof(why));
	if (!*box) {
		err_set(&err, -EINVAL, "site %s: %s", name, why);
		return fail_with(L, &err);
	}
	if (!json_is_object(*box)) {
		err_set(&err, -EINVAL, "site %s: a list where named fields are wanted", name);
		return fail_with(L, &err);
	}
	if (!json_object_get(*box, "name") &&
		json_object_set_new(*box, "name", json_string(name)) < 0)
		return luaL_error(L, "out of memory");
	r = site_from_json(*box, &site, &err);
	if (r < 0)
		return fail_with(L, &err);
	site_free(s->site);
	s->site = site;
	return 1;
}

/* ── tables ────────────────────────────────────────────────────────────────────────────────── */

static void push_params(lua_State *L, const struct param *p)
{
	lua_newtable(L);
	for (lua_Integer i = 1; p && p->name; p++, i++) {
		lua_pushstring(L, p->name);
		lua_rawseti(L, -2, i);
	}
	lua_setfield(L, -2, "params");
}

static void push_string_field(lua_State *L, const char *key, const char *value)
{
	lua_pushstring(L, value);
	lua_setfield(L, -2, key);
}

/* { {table = "change", family = "fault", name = "fault.netem", short = "netem", params = {...}},
 * ... } */
static void push_changes(lua_State *L)
{
	lua_Integer i = 0;

	lua_newtable(L);
	for (const struct change_ops *const *c = change_table; *c; c++) {
		const char *dot = strchr((*c)->name, '.');

		if ((*c)->kind == CHANGE_LAB || !dot)
			continue;
		lua_newtable(L);
		push_string_field(L, "name", (*c)->name);
		push_string_field(L, "short", dot + 1);
		lua_pushlstring(L, (*c)->name, (size_t)(dot - (*c)->name));
		lua_setfield(L, -2, "family");
		push_params(L, (*c)->params);
		lua_rawseti(L, -2, ++i);
	}
}

static void push_loads(lua_State *L)
{
	lua_Integer i = 0;

	lua_newtable(L);
	for (const struct source_ops *const *s = source_table; *s; s++) {
		if ((*s)->kind != SOURCE_LOAD)
			continue;
		lua_newtable(L);
		push_string_field(L, "name", (*s)->name);
		push_params(L, (*s)->params);
		lua_rawseti(L, -2, ++i);
	}
}

static void push_probes(lua_State *L)
{
	static const char *const units[] = {"none", "ratio", "time", "rate"};
	lua_Integer i = 0;

	lua_newtable(L);
	for (const struct probe_ops *const *t = probe_table; *t; t++) {
		for (const struct probe_ops *p = *t; p->name; p++) {
			lua_newtable(L);
			push_string_field(L, "subject", p->subject);
			push_string_field(L, "name", p->name);
			push_string_field(L, "unit", units[p->unit]);
			push_params(L, p->params);
			lua_rawseti(L, -2, ++i);
		}
	}
}

int bind_core(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"api", core_api},
		{"array", core_array},
		{"bound", core_bound},
		{"check", core_check},
		{"data", core_data},
		{"describe", core_describe},
		{"duration", core_duration},
		{"load", core_load},
		{"nearest", core_nearest},
		{"opaque", core_opaque},
		{"raise", core_raise},
		{"request", core_request},
		{"site", core_site},
		{"stopped", core_stopped},
		{"unbox", core_unbox},
		{"where", core_where},
		{"with", core_with},
		{NULL, NULL},
	};
	const struct script *s = bind_script(L);

	luaL_newlib(L, functions);
	lua_pushlightuserdata(L, NULL);
	lua_setfield(L, -2, "null");
	push_changes(L);
	lua_setfield(L, -2, "changes");
	push_loads(L);
	lua_setfield(L, -2, "loads");
	push_probes(L);
	lua_setfield(L, -2, "probes");
	lua_newtable(L);
	if (json_is_object(s->args->set)) {
		lua_pop(L, 1);
		bind_push_json(L, s->args->set);
	}
	lua_setfield(L, -2, "set");
	return 1;
}
