/* SPDX-License-Identifier: GPL-2.0-only */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "lua/bind.h"

#define BOX "muster.json"

/* ── boxes ─────────────────────────────────────────────────────────────────────────────────── */

static int box_gc(lua_State *L)
{
	json_t **box = lua_touserdata(L, 1);

	json_decref(*box);
	*box = NULL;
	return 0;
}

json_t **bind_new_box(lua_State *L)
{
	json_t **box = lua_newuserdatauv(L, sizeof(*box), 0);

	*box = NULL;
	if (luaL_newmetatable(L, BOX)) {
		lua_pushcfunction(L, box_gc);
		lua_setfield(L, -2, "__gc");
		lua_pushboolean(L, 0);
		lua_setfield(L, -2, "__metatable");
	}
	lua_setmetatable(L, -2);
	return box;
}

json_t *bind_unbox(lua_State *L, int idx)
{
	json_t **box = luaL_testudata(L, idx, BOX);

	return box ? *box : NULL;
}

bool bind_push_data(lua_State *L, int idx)
{
	if (lua_type(L, idx) != LUA_TUSERDATA)
		return false;
	if (lua_getiuservalue(L, idx, 1) == LUA_TTABLE)
		return true;
	lua_pop(L, 1);
	return false;
}

/* ── Lua to JSON ───────────────────────────────────────────────────────────────────────────── */

struct conversion {
	lua_State *L;
	char *reason;
	size_t size;
};

static json_t *refuse(struct conversion *c, const char *what)
{
	snprintf(c->reason, c->size, "%s", what);
	return NULL;
}

/* The place is put together from the inside out, while the recursion unwinds: "servers[2].weight:
 * ..." */
static void at_key(struct conversion *c, const char *key)
{
	char old[256];
	const char *sep = ": ";

	snprintf(old, sizeof(old), "%s", c->reason);
	if (old[0] == '\001') /* a place stands in front already */
		sep = old[1] == '[' ? "" : ".";
	snprintf(c->reason, c->size, "\001%.64s%s%s", key, sep, old[0] == '\001' ? old + 1 : old);
}

static void at_index(struct conversion *c, size_t i)
{
	char key[32];

	snprintf(key, sizeof(key), "[%zu]", i);
	at_key(c, key);
}

static json_t *convert(struct conversion *c, int idx, unsigned int depth);

static json_t *convert_text(struct conversion *c, int idx)
{
	size_t len;
	const char *s = lua_tolstring(c->L, idx, &len);
	json_t *j;

	if (memchr(s, '\0', len))
		return refuse(c, "text with a NUL byte in it");
	j = json_stringn(s, len);
	return j ? j : refuse(c, "text that is not UTF-8");
}

static json_t *convert_number(struct conversion *c, int idx)
{
	lua_Number n;

	if (lua_isinteger(c->L, idx))
		return json_integer(lua_tointeger(c->L, idx));
	n = lua_tonumber(c->L, idx);
	if (isnan(n) || isinf(n))
		return refuse(c, isnan(n) ? "not a number (0/0)" : "an infinite number");
	/* 6/2 is 3.0 in Lua, and 3 is what was meant */
	if (n == floor(n) && fabs(n) < 9007199254740992.0)
		return json_integer((json_int_t)n);
	return json_real(n);
}

static json_t *convert_list(struct conversion *c, int idx, size_t n, unsigned int depth)
{
	_cleanup_json_ json_t *list = json_array();

	for (size_t i = 1; i <= n; i++) {
		json_t *v;

		lua_rawgeti(c->L, idx, (lua_Integer)i);
		v = convert(c, -1, depth + 1);
		lua_pop(c->L, 1);
		if (!v) {
			at_index(c, i);
			return NULL;
		}
		if (json_array_append_new(list, v) < 0)
			return refuse(c, "out of memory");
	}
	return TAKE_PTR(list);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Lua's own order changes from run to run: a plan's text should not. */
static json_t *sorted(json_t *object)
{
	_cleanup_json_ json_t *out = json_object();
	size_t n = json_object_size(object), i = 0;
	_cleanup_free_ const char **keys = calloc(n + 1, sizeof(*keys));
	const char *key;
	json_t *v;

	if (!out || !keys)
		return NULL;
	json_object_foreach (object, key, v)
		keys[i++] = key;
	qsort(keys, n, sizeof(*keys), by_name);
	for (i = 0; i < n; i++)
		if (json_object_set(out, keys[i], json_object_get(object, keys[i])) < 0)
			return NULL;
	return TAKE_PTR(out);
}

static json_t *convert_object(struct conversion *c, int idx, unsigned int depth)
{
	_cleanup_json_ json_t *object = json_object();
	json_t *out;

	lua_pushnil(c->L);
	while (lua_next(c->L, idx)) {
		size_t len;
		const char *key;
		json_t *v;

		if (lua_type(c->L, -2) != LUA_TSTRING) {
			lua_pop(c->L, 2);
			return refuse(c, "a table with both positions and names, or with gaps");
		}
		/* a string already: lua_tolstring() converts nothing, which would confuse
		 * lua_next() */
		key = lua_tolstring(c->L, -2, &len);
		if (strlen(key) != len) {
			lua_pop(c->L, 2);
			return refuse(c, "a key with a NUL byte in it");
		}
		v = convert(c, -1, depth + 1);
		if (!v) {
			at_key(c, key);
			lua_pop(c->L, 2);
			return NULL;
		}
		lua_pop(c->L, 1);
		if (json_object_set_new(object, key, v) < 0) {
			lua_pop(c->L, 1);
			return refuse(c, "a key that is not UTF-8");
		}
	}
	out = sorted(object);
	return out ? out : refuse(c, "out of memory");
}

static json_t *convert_table(struct conversion *c, int idx, unsigned int depth)
{
	size_t n;

	if (depth >= BIND_DEPTH)
		return refuse(c, "tables nested too deep (or in a circle)");
	if (!lua_checkstack(c->L, 4))
		return refuse(c, "out of memory");
	idx = lua_absindex(c->L, idx);
	n = lua_rawlen(c->L, idx);
	if (n > 0) {
		size_t count = 0;

		/* a border says nothing about further keys */
		lua_pushnil(c->L);
		while (lua_next(c->L, idx)) {
			lua_pop(c->L, 1);
			count++;
		}
		if (count == n)
			return convert_list(c, idx, n, depth);
		return refuse(c, "a table with both positions and names, or with gaps");
	}
	return convert_object(c, idx, depth);
}

static json_t *convert(struct conversion *c, int idx, unsigned int depth)
{
	json_t *j;

	switch (lua_type(c->L, idx)) {
	case LUA_TNIL:
		return json_null();
	case LUA_TBOOLEAN:
		return json_boolean(lua_toboolean(c->L, idx));
	case LUA_TNUMBER:
		return convert_number(c, idx);
	case LUA_TSTRING:
		return convert_text(c, idx);
	case LUA_TTABLE:
		return convert_table(c, idx, depth);
	case LUA_TLIGHTUSERDATA: /* core.null: in a table nil is no value at all */
		return json_null();
	case LUA_TUSERDATA:
		j = bind_unbox(c->L, idx);
		if (j)
			return json_incref(j);
		if (!lua_checkstack(c->L, 2))
			return refuse(c, "out of memory");
		if (bind_push_data(c->L, idx)) {
			j = lua_rawgeti(c->L, -1, 1) == LUA_TSTRING ? convert_text(c, -1) : NULL;
			lua_pop(c->L, 2);
			if (j)
				return j;
		}
		return refuse(c, "a value that has no place here");
	case LUA_TFUNCTION:
		return refuse(c, "a function where data is wanted");
	default:
		return refuse(c, "a coroutine where data is wanted");
	}
}

json_t *bind_to_json(lua_State *L, int idx, char *reason, size_t size)
{
	struct conversion c = {.L = L, .reason = reason, .size = size};
	json_t *j = convert(&c, idx, 0);

	if (!j && reason[0] == '\001')
		memmove(reason, reason + 1, strlen(reason));
	return j;
}

/* ── JSON to Lua ───────────────────────────────────────────────────────────────────────────── */

void bind_push_json(lua_State *L, const json_t *j)
{
	const json_t *v;
	const char *key;
	size_t i;

	luaL_checkstack(L, 4, "reply");
	switch (json_typeof(j)) {
	case JSON_OBJECT:
		lua_createtable(L, 0, (int)json_object_size(j));
		json_object_foreach ((json_t *)j, key, v) {
			bind_push_json(L, v);
			lua_setfield(L, -2, key);
		}
		break;
	case JSON_ARRAY:
		lua_createtable(L, (int)json_array_size(j), 0);
		json_array_foreach (j, i, v) {
			bind_push_json(L, v);
			lua_rawseti(L, -2, (lua_Integer)i + 1);
		}
		break;
	case JSON_STRING:
		lua_pushlstring(L, json_string_value(j), json_string_length(j));
		break;
	case JSON_INTEGER:
		lua_pushinteger(L, json_integer_value(j));
		break;
	case JSON_REAL:
		lua_pushnumber(L, json_real_value(j));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		lua_pushboolean(L, json_is_true(j));
		break;
	case JSON_NULL:
		lua_pushnil(L);
		break;
	}
}
