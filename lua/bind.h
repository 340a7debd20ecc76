/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * bind.h: what the script process's C side shares: the state behind a Lua state, Lua values as
 * JSON, and the `core` table that lua/lib/ is built on. Nothing here is visible to a scenario: it
 * sees only what lua/lib/strict.lua hands out.
 */
#pragma once

#include <lauxlib.h>
#include <lua.h>

#include "engine/plan.h"

#define BIND_FILES_MAX 8
#define BIND_WHERE_MAX 4224 /* a path and a line */
#define BIND_DEPTH     32   /* nesting of tables that become JSON */

/* A file whose code may appear in messages. Lua shortens long names there; we do not. */
struct bind_file {
	char *name;
	char short_name[LUA_IDSIZE];
};

/* Why the script is not to go on, whatever it catches with pcall */
enum script_stop {
	STOP_NOT,
	STOP_HALTED,   /* the engine is stopping the drill: nothing is sent any more */
	STOP_OVERTIME, /* it computes and computes: reported as an error */
};

struct script {
	const struct script_args *args;
	int fd;
	uint64_t next_id;
	size_t memory, memory_max;
	enum script_stop stop;
	char stop_text[BIND_WHERE_MAX + 512]; /* the error then; of STOP_OVERTIME with its line */
	char where[BIND_WHERE_MAX]; /* the scenario's line that called into the library, or "" */
	struct site *site; /* for the names in arguments; NULL until muster.site was called */
	size_t n_files;
	struct bind_file files[BIND_FILES_MAX];
};

static inline struct script *bind_script(lua_State *L)
{
	return *(struct script **)lua_getextraspace(L);
}

/* How the script process ends. Nobody but a person looking at a trace depends on the numbers. */
enum script_exit {
	SCRIPT_DONE = 0,
	SCRIPT_FAILED = 1,   /* an error was sent */
	SCRIPT_PROTOCOL = 2, /* the engine is gone, or what it sent is no reply */
	SCRIPT_HALTED = 3,
	SCRIPT_SANDBOX = 4,
};

/* ── bind_json.c ───────────────────────────────────────────────────────────────────────────── */

/*
 * The value at @idx as JSON. Tables: keys 1..n make a list, text keys an object, an empty table an
 * empty object (which every reader of a list takes for an empty list). Metatables are not looked
 * at. An opaque value of the library stands for its name if it has one, a boxed JSON value for
 * itself. Never raises: returns NULL with the reason in @reason.
 */
json_t *bind_to_json(lua_State *L, int idx, char *reason, size_t size);

/* Pushes @j as plain Lua values; null becomes nil. May raise out of memory. */
void bind_push_json(lua_State *L, const json_t *j);

/* Pushes an empty box: what is put into it next has an owner when an error unwinds. */
json_t **bind_new_box(lua_State *L);
json_t *bind_unbox(lua_State *L, int idx); /* borrowed; NULL when it is no box */

/* The library's opaque values carry one user value, a table; [1] of it is the name that stands for
 * the value in JSON. */
bool bind_push_data(lua_State *L, int idx);

/* ── bind_core.c ───────────────────────────────────────────────────────────────────────────── */

/* Pushes the `core` table. */
int bind_core(lua_State *L);

/* Fills s->where from the nearest frame of @L that runs a file's code; false: there is none. */
bool bind_find_where(lua_State *L, struct script *s);

/* "FILE:LINE: text" is split when FILE is known; otherwise *ret_where is left alone and the whole
 * is the text. */
const char *bind_split_where(
	const struct script *s, const char *message, char *ret_where, size_t size);
