/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * plan.h: the record pass. The script is run with no side effects, every expectation is taken as met, and what it asks
 * for, in order, is the plan. `check` and `plan` stop there and need no root.
 *
 * What a scenario declares ("op":"scenario"), and what plan->scenario holds once checked:
 *
 *	{ "name": "real-server-loss", "summary": "...", "site": { site.h },
 *	  "baseline": { "profile": "open-autoglm" | null, "changes": [ {"change": "set.sysctl", "args": {...}, "where": W,
 *	                  "optional": true} ] },                  optional: where the host has it; else it is said, and the drill goes on
 *	  "deadline_ns": N,
 *	  "loads": [ {"kind": "http", "name": "client", "args": {...}, "where": W} ],
 *	  "steady_state": { "settle_ns": N, "within_ns": N, "predicates": [ predicate.h ] },
 *	  "stop_when": [ predicate ],
 *	  "objective": { "rto_ns": N | null, "error_budget": R | null, "predicates": [ predicate ] },
 *	  "unsafe": [ "management-path" ] }
 */
#pragma once

#include "engine/change.h"
#include "engine/predicate.h"
#include "engine/site.h"

/* What the engine needs to know to start a script process; the lua room provides the function. */
struct script_args {
	const char *path; /* for messages */
	const char *text;
	size_t len;
	bool run;	   /* false: the record pass */
	const json_t *set; /* --set k=v: an object of strings; NULL: none */
	uint64_t seed;	   /* of the script's math.random */
};
/*
 * Forks the script process and puts it into its sandbox. *ret_fd is the engine's end of the socketpair (close-on-exec),
 * *ret_pidfd polls readable when it has ended; both owned by the caller, who also reaps the pid.
 */
typedef int (*script_spawn_fn)(const struct script_args *a, pid_t *ret_pid, int *ret_pidfd, int *ret_fd,
	struct err *err);

/* The name of a site or profile becomes its Lua source: beside the scenario, then /etc/muster, then the embedded ones. */
int plan_find_source(const char *kind /* "site", "profile" */, const char *name, const char *scenario_path,
	char **ret_file, char **ret_text, struct err *err);

#define PLAN_SCENARIO_MAX   (1u << 20)		/* bytes of scenario text */
#define PLAN_RECORD_SECONDS 5			/* wall time of the record pass */
#define PLAN_STEPS_MAX	    10000

struct plan_step {
	json_t *request;	      /* as it came, args normalised */
	const struct change_ops *ops; /* inject, apply; else NULL */
	struct node *node;	      /* borrowed from the site */
};

struct plan {
	char *file, *text;
	size_t text_len;
	uint64_t seed;
	json_t *set;
	json_t *declared; /* the scenario as the script sent it: the run pass must declare the same */
	json_t *scenario; /* checked and normalised */
	struct site *site;
	size_t n_steps;
	struct plan_step *steps; /* the method, in order */
	json_t *mgmt;		 /* mgmt_find(): what has to survive, for the plan to say who would cut it; NULL: not looked for */
};

/* Reads the file, runs the record pass, checks everything. Errors carry FILE:LINE. */
int plan_record(const char *path, const json_t *set, uint64_t seed, script_spawn_fn spawn, struct plan **ret,
	struct err *err);
void plan_free(struct plan *p);
static inline void plan_freep(struct plan **p)
{
	plan_free(*p);
}
#define _cleanup_plan_ _cleanup_(plan_freep)

/*
 * The plan of a profile by itself, as if a scenario had no more than a baseline. @site: a site's name; NULL: this machine, as
 * a site PLAN_LOCAL of one node, which is director and real server at once.
 */
#define PLAN_LOCAL "localhost"
int plan_profile(const char *profile, const char *site, const json_t *set, script_spawn_fn spawn, struct plan **ret,
	struct err *err);

/* Does a predicate of the scenario, or one that the method expects, have a probe that names this source? Of the expected path. */
bool plan_asks(const struct plan *p, const char *source);

/* [{"node", "dev", "by"}]: where changes of the expected path put XDP programs (change.h: takes_xdp); NULL: nowhere */
json_t *plan_takes_xdp(const struct plan *p);

/* Checks one "inject" or "apply" request against the tables and the site; on success its args are normalised in place. */
int plan_check_change(const struct site *site, json_t *request, const struct change_ops **ret_ops,
	struct node **ret_node, struct err *err);

/*
 * plan.json, and what a person reads. With @mgmt in the plan both say which changes would hit the management path: "management_path":
 * [{"where": W, "change": NAME, "text": "refused: ..." or "waived: management-path: ..."}], if there are any.
 */
json_t *plan_to_json(const struct plan *p);
int plan_print(const struct plan *p, struct strbuf *out, struct err *err);
