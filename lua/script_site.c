/* SPDX-License-Identifier: GPL-2.0-only */
/* The engine's side of a site's evaluation: one request answered, one answer kept. */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/wire.h"
#include "lua/script_private.h"

static int reply(int fd, const json_t *request, const char *key, json_t *value)
{
	_cleanup_json_ json_t *msg = json_pack("{s:i,s:O,s:o}", "v", WIRE_VERSION, "id",
		json_object_get(request, "id"), key, value);

	return msg ? wire_send(fd, msg) : -ENOMEM;
}

/* @kind: "site", or a "part" of one */
static int answer_source(int fd, const json_t *request, const char *kind)
{
	_cleanup_free_ char *file = NULL, *text = NULL;
	_cleanup_json_ json_t *value = NULL, *msg = NULL;
	const char *name = json_string_value(json_object_get(request, "name"));
	struct err err = {0};

	if (!name || plan_find_source(kind, name, NULL, &file, &text, &err) < 0) {
		msg = json_pack("{s:i,s:O,s:s,s:s}", "v", WIRE_VERSION, "id",
			json_object_get(request, "id"), "error",
			name ? err.text : "a site, and a part, has a name", "hint", err.hint);
		return msg ? wire_send(fd, msg) : -ENOMEM;
	}
	value = json_pack("{s:s,s:s}", "file", file, "text", text);
	if (!value)
		return -ENOMEM;
	return reply(fd, request, "value", TAKE_PTR(value));
}

static int converse(int fd, const char *name, json_t **ret, struct err *err)
{
	nsec_t deadline = now_ns() + PLAN_RECORD_SECONDS * NSEC_PER_SEC;
	_cleanup_json_ json_t *site = NULL;

	for (;;) {
		_cleanup_json_ json_t *msg = NULL;
		const char *op;
		int r = wire_recv_until(fd, deadline, &msg, err);

		if (r == -ETIMEDOUT)
			return err_set(err, r, "site %s: its file did not end within %d s", name,
				PLAN_RECORD_SECONDS);
		if (r == -EPIPE || r == -ECONNRESET)
			return err_set(err, r, "site %s: the process that evaluates it died", name);
		if (r < 0)
			return err_prefix(err, "site %s", name);
		op = json_string_value(json_object_get(msg, "op"));
		r = 0;
		if (streq(op, "site") || streq(op, "part")) {
			r = answer_source(fd, msg, op);
		} else if (streq(op, "site-json") && json_is_object(json_object_get(msg, "site"))) {
			json_decref(site);
			site = json_incref(json_object_get(msg, "site"));
			r = reply(fd, msg, "value", json_null());
		} else if (streq(op, "log")) {
			r = reply(fd, msg, "value", json_null());
		} else if (streq(op, "error")) {
			const char *where = json_string_value(json_object_get(msg, "where"));
			const char *text = json_string_value(json_object_get(msg, "text"));

			return err_set(err, -EINVAL, "%s%s%s", where ? where : "",
				where && *where ? ": " : "", text ? text : "it failed");
		} else if (streq(op, "done") && site) {
			*ret = TAKE_PTR(site);
			return 0;
		} else {
			r = -EPROTO;
		}
		if (r < 0)
			return err_set(err, r,
				"site %s: talking to the process that evaluates it: %s", name,
				strerror(-r));
	}
}

int script_site(const char *name, const json_t *options, json_t **ret, struct err *err)
{
	const struct script_args args = {.path = name, .text = ""};
	const struct script_site_request request = {.name = name, .options = options};
	_cleanup_close_ int pidfd = -1, fd = -1;
	pid_t pid;
	int r;

	r = script_spawn_request(&args, &request, &pid, &pidfd, &fd, err);
	if (r < 0)
		return r;
	r = converse(fd, name, ret, err);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}
