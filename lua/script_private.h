/* SPDX-License-Identifier: GPL-2.0-only */
/* script_private.h: between script.c and script_site.c. */
#pragma once

#include "lua/script.h"

/* Instead of a scenario: evaluate this site, and send it as {"op":"site-json","site":{...}}. */
struct script_site_request {
	const char *name;
	const json_t *options; /* NULL: none */
};

int script_spawn_request(const struct script_args *a, const struct script_site_request *site,
	pid_t *ret_pid, int *ret_pidfd, int *ret_fd, struct err *err);
