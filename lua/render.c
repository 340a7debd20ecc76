/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A renderer is a Lua file lua/lib/report_FORMAT.lua that returns a function (report, timeline) -> text. It gets the tables
 * and nothing else: no file, no network, no clock; what is in them came from a scenario, and may be anything. Its memory and
 * its instructions are bounded, so that a report that is too much becomes an error and not a hang.
 */
#include "lua/render.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

#include "engine/embedded.h"
#include "engine/str.h"

#define MEMORY_MAX	 (256u << 20)
#define INSTRUCTIONS_MAX 500000000
#define INSTRUCTIONS_AT	 1000000 /* the hook looks this often */
#define DEPTH_MAX	 100

const char *const render_formats[] = {"text", "html", "junit", "md", NULL};

struct job {
	const json_t *report, *timeline;
	const char *format;
	size_t memory;
	uint64_t instructions;
	char *ret;
	size_t ret_len;
};

static struct job *job_of(lua_State *L)
{
	return *(struct job **)lua_getextraspace(L);
}

static void *allocate(void *arg, void *p, size_t old, size_t new)
{
	struct job *job = arg;
	void *q;

	if (!p)
		old = 0; /* then it is a kind of object */
	if (new == 0) {
		free(p);
		job->memory -= old;
		return NULL;
	}
	if (new > old &&new - old > MEMORY_MAX - job->memory)
		return NULL;
	q = realloc(p, new);
	if (q)
		job->memory += new - old;
	return q;
}

static void on_count(lua_State *L, lua_Debug *ar _unused_)
{
	struct job *job = job_of(L);

	job->instructions += INSTRUCTIONS_AT;
	if (job->instructions > INSTRUCTIONS_MAX)
		luaL_error(L, "the report is too large to be rendered");
}

/* null is a value of its own, a light userdata: a list keeps its length, and a renderer has to say what "not measured" looks like. */
static void push_json(lua_State *L, const json_t *j, int depth)
{
	const char *key;
	const json_t *v;
	size_t i;

	if (depth > DEPTH_MAX)
		luaL_error(L, "the report is nested too deeply");
	luaL_checkstack(L, 4, NULL);
	switch (j ? json_typeof(j) : JSON_NULL) {
	case JSON_OBJECT:
		lua_createtable(L, 0, (int)json_object_size(j));
		json_object_foreach ((json_t *)j, key, v) {
			lua_pushstring(L, key);
			push_json(L, v, depth + 1);
			lua_rawset(L, -3);
		}
		break;
	case JSON_ARRAY:
		lua_createtable(L, (int)json_array_size(j), 0);
		json_array_foreach (j, i, v) {
			push_json(L, v, depth + 1);
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
		lua_pushlightuserdata(L, NULL);
		break;
	}
}

static void open_libraries(lua_State *L)
{
	/* what reaches outside, or makes code from text */
	static const char *const gone[] = {
		"dofile", "loadfile", "load", "print", "warn", "collectgarbage"};

	luaL_requiref(L, LUA_GNAME, luaopen_base, 1);
	luaL_requiref(L, LUA_STRLIBNAME, luaopen_string, 1);
	luaL_requiref(L, LUA_TABLIBNAME, luaopen_table, 1);
	luaL_requiref(L, LUA_MATHLIBNAME, luaopen_math, 1);
	lua_pop(L, 4);
	for (size_t i = 0; i < ARRAY_SIZE(gone); i++) {
		lua_pushnil(L);
		lua_setglobal(L, gone[i]);
	}
}

/* Runs lua/lib/report_NAME.lua with the one argument on the stack, which its one result replaces. */
static void run_file(lua_State *L, const char *name)
{
	char path[64], chunk[72];
	const struct embedded *file;

	snprintf(path, sizeof(path), "lua/lib/report_%s.lua", name);
	snprintf(chunk, sizeof(chunk), "@%s", path);
	file = embedded_find(path);
	if (!file)
		luaL_error(L, "%s is not in this program", path);
	if (luaL_loadbufferx(L, file->data, file->len, chunk, "t") != LUA_OK)
		lua_error(L);
	lua_insert(L, -2);
	lua_call(L, 1, 1);
}

static int protected(lua_State *L)
{
	struct job *job = job_of(L);
	const char *text;

	lua_sethook(L, on_count, LUA_MASKCOUNT, INSTRUCTIONS_AT);
	open_libraries(L);
	lua_pushlightuserdata(L, NULL);
	run_file(L, "common");
	run_file(L, job->format);
	push_json(L, job->report, 0);
	push_json(L, job->timeline, 0);
	lua_call(L, 2, 1);
	if (lua_type(L, -1) != LUA_TSTRING)
		luaL_error(L, "the renderer returned no text");
	text = lua_tolstring(L, -1, &job->ret_len);
	job->ret = malloc(job->ret_len + 1);
	if (!job->ret)
		luaL_error(L, "not enough memory");
	memcpy(job->ret, text, job->ret_len + 1);
	return 0;
}

int render_report(const json_t *report, const json_t *timeline, const char *format, char **ret,
	size_t *ret_len, struct err *err)
{
	struct job job = {.report = report, .timeline = timeline, .format = format};
	const char *const *f = render_formats;
	lua_State *L;
	int r;

	while (*f && !streq(*f, format))
		f++;
	if (!*f) {
		const char *near = str_nearest(format, render_formats);

		err_set(err, -EINVAL,
			"report: there is no format \"%s\" (text, html, json, junit, md)", format);
		if (near)
			err_hint(err, "did you mean %s?", near);
		return -EINVAL;
	}
	L = lua_newstate(allocate, &job);
	if (!L)
		return err_set(err, -ENOMEM, "report: out of memory");
	*(struct job **)lua_getextraspace(L) = &job;
	lua_pushcfunction(L, protected);
	r = lua_pcall(L, 0, 0, 0);
	if (r != LUA_OK)
		err_set(err, r == LUA_ERRMEM ? -ENOMEM : -EINVAL, "report as %s: %s", format,
			lua_tostring(L, -1) ? lua_tostring(L, -1) : "failed");
	lua_close(L);
	if (r != LUA_OK) {
		free(job.ret);
		return r == LUA_ERRMEM ? -ENOMEM : -EINVAL;
	}
	*ret = job.ret;
	if (ret_len)
		*ret_len = job.ret_len;
	return 0;
}
