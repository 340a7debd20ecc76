/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The script process, from fork to end:
 *
 *	script_spawn ── fork ──> sandbox_enter ── make_state ── sandbox_seal
 *	   │ wait_ready              │ failed        │ failed       │ failed
 *	   │ <──────── "failed" ─────┴───────────────┴──────────────┤
 *	   │ <──────── "ready" ─────────────────────────────────────┘ then: push_entry
 *	   returns                        "done" or report_error, and _exit
 *
 * Two messages beside those of wire.h never leave this file: "ready", and "failed", when the walls
 * could not be put up. The spawn waits for one of them, so that whoever holds a script holds a
 * confined one, and a kernel that cannot confine is an error of the start, not of the scenario.
 *
 * The scenario runs in a coroutine. When a coroutine dies its stack stays as it was, so the line is
 * known even when the error is "not enough memory", for which Lua calls no handler; the pending
 * <close> variables are closed after that.
 */
#include "lua/script.h"

#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/embedded.h"
#include "engine/wire.h"
#include "lua/bind.h"
#include "lua/sandbox.h"
#include "lua/script_private.h"

#define READY_TIMEOUT	 (10 * NSEC_PER_SEC)
#define REPORT_RESERVE	 (4u << 20) /* memory to say that memory ran out */
#define TEXT_MAX	 1000
#define OVERTIME_SECONDS 4 /* of PLAN_RECORD_SECONDS */
_Static_assert(
	OVERTIME_SECONDS < PLAN_RECORD_SECONDS, "the script has to speak before it is killed");
#define STRING_(x)    #x
#define STRING(x)     STRING_(x)
#define TRACEBACK_MAX 4000

static const char *const op_ready = "ready", *const op_failed = "failed";

/* ── the Lua state ─────────────────────────────────────────────────────────────────────────── */

static void *allocate(void *ud, void *ptr, size_t old, size_t size)
{
	struct script *s = ud;
	void *p;

	if (!ptr)
		old = 0; /* the argument is then a kind of object */
	if (size == 0) {
		s->memory -= old;
		free(ptr);
		return NULL;
	}
	if (size > old && size - old > s->memory_max - MIN(s->memory, s->memory_max))
		return NULL;
	p = realloc(ptr, size);
	if (p)
		s->memory = s->memory - old + size;
	return p;
}

/* Only an error outside any protected call comes here: before the scenario, or in reporting. */
static int on_panic(lua_State *L)
{
	(void)L;
	_exit(SCRIPT_SANDBOX);
}

static int load_library(lua_State *L, const char *name, const char *chunk)
{
	const struct embedded *e = embedded_find(name);

	if (!e)
		return luaL_error(L, "%s is not in this program", name);
	if (luaL_loadbufferx(L, e->data, e->len, chunk, "t") != LUA_OK)
		return lua_error(L);
	return 1;
}

/* Protected: leaves the library's table of entry points in the registry, under its own name. */
static int make_library(lua_State *L)
{
	static const luaL_Reg libraries[] = {
		{LUA_GNAME, luaopen_base},
		{LUA_STRLIBNAME, luaopen_string},
		{LUA_TABLIBNAME, luaopen_table},
		{LUA_MATHLIBNAME, luaopen_math},
		{LUA_UTF8LIBNAME, luaopen_utf8},
		{LUA_COLIBNAME, luaopen_coroutine},
		{NULL, NULL},
	};
	uint64_t seed = bind_script(L)->args->seed;

	for (const luaL_Reg *l = libraries; l->name; l++) {
		luaL_requiref(L, l->name, l->func, 1);
		lua_pop(L, 1);
	}
	/* before strict.lua takes the argument-less form away */
	lua_getglobal(L, LUA_MATHLIBNAME);
	lua_getfield(L, -1, "randomseed");
	lua_pushinteger(L, (lua_Integer)seed);
	lua_pushinteger(L, 0);
	lua_call(L, 2, 0);
	lua_pop(L, 1);

	load_library(L, "lua/lib/muster.lua", "=muster.lua");
	bind_core(L);
	load_library(L, "lua/lib/strict.lua", "=strict.lua");
	lua_pushvalue(L, -2);
	lua_call(L, 1, 1);
	lua_call(L, 2, 1);
	lua_setfield(L, LUA_REGISTRYINDEX, "muster");
	return 0;
}

static int make_state(struct script *s, lua_State **ret, struct err *err)
{
	lua_State *L = lua_newstate(allocate, s);

	if (!L)
		return err_set(err, -ENOMEM, "script process: out of memory");
	*(struct script **)lua_getextraspace(L) = s;
	lua_atpanic(L, on_panic);
	lua_pushcfunction(L, make_library);
	if (lua_pcall(L, 0, 0, 0) != LUA_OK)
		return err_set(
			err, -EINVAL, "script process: the Lua library: %s", lua_tostring(L, -1));
	*ret = L;
	return 0;
}

/* ── errors ────────────────────────────────────────────────────────────────────────────────── */

/* The traceback without the library's own frames, which are no help to who wrote the scenario. */
static void filter_traceback(const char *all, char *out, size_t size)
{
	size_t used = 0;

	out[0] = '\0';
	while (*all) {
		size_t len = strcspn(all, "\n");

		if (strncmp(all, "\t[C]:", 5) != 0 && strncmp(all, "\tmuster.lua:", 12) != 0 &&
			strncmp(all, "\tstrict.lua:", 12) != 0 && used + len + 2 < size) {
			memcpy(out + used, all, len);
			used += len;
			out[used++] = '\n';
			out[used] = '\0';
		}
		all += len + (all[len] == '\n');
	}
	if (used)
		out[used - 1] = '\0';
}

/* One line of valid UTF-8, whatever the scenario raised. */
static void clean_line(char *s)
{
	_cleanup_json_ json_t *probe = NULL;

	for (char *p = s; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			*p = ' ';
	probe = json_string(s);
	for (char *p = s; !probe && *p; p++)
		if ((unsigned char)*p > 127)
			*p = '?';
}

struct report {
	lua_State *co;
	char where[BIND_WHERE_MAX];
	char text[TEXT_MAX];
	char traceback[TRACEBACK_MAX];
};

/* Protected: fills the report from the dead coroutine; the error value is on top of its stack. */
static int describe_error(lua_State *L)
{
	struct report *r = lua_touserdata(L, 1);
	struct script *s = bind_script(L);
	const char *message;

	luaL_traceback(L, r->co, NULL, 0);
	filter_traceback(lua_tostring(L, -1), r->traceback, sizeof(r->traceback));
	lua_pop(L, 1);
	/* where the stack stood, unless the message says better */
	bind_find_where(r->co, s);
	snprintf(r->where, sizeof(r->where), "%s", s->where);

	if (lua_gettop(r->co) == 0)
		lua_pushnil(r->co);
	lua_xmove(r->co, L, 1);
	if (lua_isstring(L, -1)) {
		message = lua_tostring(L, -1);
		message = bind_split_where(s, message, r->where, sizeof(r->where));
		snprintf(r->text, sizeof(r->text), "%s", message);
	} else {
		snprintf(r->text, sizeof(r->text), "the error is no text but a %s",
			luaL_typename(L, -1));
	}
	return 0;
}

static void send_error(struct script *s, const struct report *r)
{
	_cleanup_json_ json_t *msg = json_pack("{s:i,s:I,s:s,s:s,s:s,s:s}", "v", WIRE_VERSION, "id",
		(json_int_t)++s->next_id, "op", "error", "where", r->where, "text", r->text,
		"traceback", r->traceback);

	if (msg)
		wire_send(s->fd, msg);
}

static int report_error(lua_State *L, lua_State *co, struct script *s)
{
	struct report r = {.co = co};
	int top = lua_gettop(L);

	if (s->stop == STOP_HALTED) {
		lua_resetthread(co);
		return SCRIPT_HALTED;
	}
	s->memory_max += REPORT_RESERVE;
	lua_pushcfunction(L, describe_error);
	lua_pushlightuserdata(L, &r);
	if (lua_pcall(L, 1, 0, 0) != LUA_OK && !r.text[0])
		snprintf(r.text, sizeof(r.text), "not enough memory");
	lua_settop(L, top);
	clean_line(r.text);
	clean_line(r.where);
	for (char *p = r.traceback; *p; p++)
		if (((unsigned char)*p < ' ' && *p != '\n' && *p != '\t') ||
			(unsigned char)*p > 126)
			*p = '?';
	/* closes what was to be closed: faults are lifted before the engine hears of the error */
	lua_resetthread(co);
	if (s->stop == STOP_HALTED)
		return SCRIPT_HALTED;
	send_error(s, &r);
	return SCRIPT_FAILED;
}

/* ── overtime ──────────────────────────────────────────────────────────────────────────────── */

/*
 * A loop without end is killed by whoever waits for the script; but "killed" names no line. So
 * shortly before, a signal plants a hook, the hook raises an error, and the error has a line. It
 * does not reach into C functions nor other coroutines, where SIGKILL remains: this is for the
 * message, not for safety.
 */
static lua_State *watched;
static const char *overtime_text;

static void overtime_hook(lua_State *L, lua_Debug *ar)
{
	struct script *s = bind_script(L);

	(void)ar;
	/* the first line is the one: where a pcall caught it is only where it went on */
	if (s->stop == STOP_NOT) {
		bind_find_where(L, s);
		snprintf(s->stop_text, sizeof(s->stop_text), s->where[0] ? "%s: %s" : "%s%s",
			s->where, overtime_text);
		s->stop = STOP_OVERTIME;
	}
	lua_pushstring(L, s->stop_text);
	lua_error(L);
}

/* lua_sethook() may be called from a signal handler, as the interpreter's own Ctrl-C does. Count 1:
 * also what catches it stops. */
static void on_overtime(int sig)
{
	overtime_text = sig == SIGALRM
				? "still busy after " STRING(
					  OVERTIME_SECONDS) " s: is there an endless loop?"
				: "it has used up its processor time: is there an endless loop?";
	if (watched)
		lua_sethook(watched, overtime_hook, LUA_MASKCOUNT, 1);
}

/* Before sandbox_seal(). The record pass has a wall clock; the run may well take long, as long as
 * it does not compute. */
static void watch_time(bool run)
{
	const struct itimerval timer = {.it_value = {.tv_sec = OVERTIME_SECONDS}};
	const struct sigaction action = {.sa_handler = on_overtime, .sa_flags = SA_RESTART};

	sigaction(SIGXCPU, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	if (!run)
		setitimer(ITIMER_REAL, &timer, NULL);
}

/* ── the child ─────────────────────────────────────────────────────────────────────────────── */

static void send_op(struct script *s, const char *op)
{
	_cleanup_json_ json_t *msg = json_pack(
		"{s:i,s:I,s:s}", "v", WIRE_VERSION, "id", (json_int_t)++s->next_id, "op", op);

	if (!msg || wire_send(s->fd, msg) < 0)
		_exit(SCRIPT_PROTOCOL);
}

static _Noreturn void send_failed(const struct err *err)
{
	_cleanup_json_ json_t *msg = json_pack("{s:i,s:s,s:i,s:s,s:s}", "v", WIRE_VERSION, "op",
		op_failed, "code", err->code, "text", err->text, "hint", err->hint);

	if (msg)
		wire_send(SANDBOX_FD, msg);
	_exit(SCRIPT_SANDBOX);
}

/* Pushes the entry point and its arguments, which are as large as the scenario's text and may not
 * fit. */
static int push_entry(lua_State *co)
{
	const struct script_args *a = bind_script(co)->args;
	const struct script_site_request *site = lua_touserdata(co, 1);

	lua_settop(co, 0);
	lua_getfield(co, LUA_REGISTRYINDEX, "muster");
	lua_getfield(co, -1, site ? "site" : "scenario");
	if (site) {
		lua_pushstring(co, site->name);
		if (site->options)
			bind_push_json(co, site->options);
		else
			lua_newtable(co);
	} else {
		lua_pushstring(co, a->path);
		lua_pushlstring(co, a->text, a->len);
	}
	lua_call(co, 2, 0);
	return 0;
}

static _Noreturn void child(
	const struct script_args *a, const struct script_site_request *site, int fd, pid_t parent)
{
	static struct script script;
	struct script *s = &script;
	struct err err = {0};
	lua_State *L = NULL, *co;
	int n = 0, r;

	/* jansson reads the seed of its hash tables from /dev/urandom at the first object; later it
	 * could not */
	json_object_seed(0);
	r = sandbox_enter(fd, parent, a->run ? SANDBOX_CPU_RUN : SANDBOX_CPU_RECORD, &err);
	if (r < 0) {
		/* EBADF: it has been moved there already */
		if (dup2(fd, SANDBOX_FD) < 0 && errno != EBADF)
			_exit(SCRIPT_SANDBOX);
		send_failed(&err);
	}
	*s = (struct script){.args = a, .fd = SANDBOX_FD, .memory_max = SANDBOX_MEMORY};
	r = make_state(s, &L, &err);
	if (r < 0)
		send_failed(&err);
	watch_time(a->run);
	r = sandbox_seal(&err);
	if (r < 0)
		send_failed(&err);
	send_op(s, op_ready);
	s->next_id = 0;
	if (sandbox_probe)
		sandbox_probe();

	co = lua_newthread(L);
	watched = co;
	lua_pushcfunction(co, push_entry);
	lua_pushlightuserdata(co, (void *)site);
	r = lua_resume(co, L, 1, &n);
	if (r != LUA_OK)
		_exit(report_error(L, co, s));
	send_op(s, "done");
	_exit(SCRIPT_DONE);
}

/* ── the parent ────────────────────────────────────────────────────────────────────────────── */

static int wait_ready(int fd, struct err *err)
{
	_cleanup_json_ json_t *msg = NULL;
	const char *op;
	int r = wire_recv_until(fd, now_ns() + READY_TIMEOUT, &msg, err);

	if (r < 0)
		return err_set(err, r, "script process: it did not start: %s",
			r == -EPIPE || r == -ECONNRESET ? "it died" : strerror(-r));
	op = json_string_value(json_object_get(msg, "op"));
	if (streq(op, op_ready))
		return 0;
	if (!streq(op, op_failed))
		return err_set(
			err, -EPROTO, "script process: it did not start: unexpected message");
	r = (int)json_integer_value(json_object_get(msg, "code"));
	err_set(err, r < 0 ? r : -EIO, "%s", json_string_value(json_object_get(msg, "text")));
	if (json_string_length(json_object_get(msg, "hint")))
		err_hint(err, "%s", json_string_value(json_object_get(msg, "hint")));
	return r < 0 ? r : -EIO;
}

int script_spawn_request(const struct script_args *a, const struct script_site_request *site,
	pid_t *ret_pid, int *ret_pidfd, int *ret_fd, struct err *err)
{
	_cleanup_close_ int ours = -1, theirs = -1, pidfd = -1;
	pid_t parent = getpid(), pid;
	int fds[2], r;

	if (a->len > PLAN_SCENARIO_MAX)
		return err_set(err, -E2BIG, "%s: a scenario of %zu bytes (the limit is %u MiB)",
			a->path, a->len, PLAN_SCENARIO_MAX >> 20);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "script process: socketpair: %s", strerror(errno));
	ours = fds[0];
	theirs = fds[1];
	pid = fork();
	if (pid < 0)
		return err_set(err, -errno, "script process: fork: %s", strerror(errno));
	if (pid == 0)
		child(a, site, theirs, parent);
	close(TAKE_FD(theirs));

	pidfd = pidfd_open(pid, 0);
	if (pidfd < 0)
		r = err_set(err, -errno, "script process: pidfd_open: %s", strerror(errno));
	else
		r = wait_ready(ours, err);
	if (r < 0) {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return r;
	}
	*ret_pid = pid;
	*ret_pidfd = TAKE_FD(pidfd);
	*ret_fd = TAKE_FD(ours);
	return 0;
}

int script_spawn(
	const struct script_args *a, pid_t *ret_pid, int *ret_pidfd, int *ret_fd, struct err *err)
{
	return script_spawn_request(a, NULL, ret_pid, ret_pidfd, ret_fd, err);
}
