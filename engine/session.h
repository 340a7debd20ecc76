/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * session.h: the engine's side of the conversation with a script process (wire.h): what the record pass and the run have in
 * common. The script is not trusted: whatever it sends is checked here, against the tables.
 */
#pragma once

#include "engine/plan.h"

struct session {
	int fd;
	pid_t pid;
	int pidfd;
	const char *path;	/* of the scenario */
	json_int_t id;		/* of the request being answered */
	json_t *declared;	/* the scenario as the script sent it, once it has */
};

/*
 * The next request, with "site" and "profile" already answered. *ret_op is borrowed from the request. -ETIMEDOUT after
 * @deadline; -EPIPE when the script is gone (how it went is in the text).
 */
int session_next(struct session *s, nsec_t deadline, json_t **ret_request, const char **ret_op, struct err *err);

int session_reply(struct session *s, json_t *value /* stolen; NULL: null */);
int session_refuse(struct session *s, const struct err *why);

/* "FILE:LINE: text" of an "error" request, with its traceback left out */
int session_script_error(const json_t *request, struct err *err);

/* Kills the script if it lives, closes everything. The pid is reaped if it is a child of this process. */
void session_end(struct session *s);

/* Turns the declared scenario into its checked, normalised form (plan.h), and the site into structs. */
int session_check_scenario(const json_t *declared, struct site **ret_site, json_t **ret_scenario, struct err *err);

/* An expectation's predicate, checked. "within_ns" / "during_ns" go to *ret_ns. */
int session_check_expectation(const struct site *site, const json_t *request, const char *time_key,
	struct predicate **ret, nsec_t *ret_ns, struct err *err);
