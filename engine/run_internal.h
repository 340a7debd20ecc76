/* SPDX-License-Identifier: GPL-2.0-only */
/* run_internal.h: what run.c, run_method.c and run_undo.c share; nobody else includes it. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include <uv.h>

#include "engine/events.h"
#include "engine/run.h"
#include "engine/source.h"
#include "engine/timeline.h"

struct run_change {
	struct change c;
	unsigned int id;
	char *where;
	char *waived; /* the management path that it crosses by leave of the scenario; NULL */
	char *script; /* its part of restore.sh, once it has been asked for */
	bool lifted;
};

struct run_source {
	const struct source_ops *ops;
	void *handle;
	char *name;
};

struct run {
	const struct run_opts *o;
	const struct plan *plan;
	struct site *site;
	const json_t *scenario;
	struct timeline *tl;

	/* the loop's */
	uv_loop_t loop;
	uv_timer_t beat, tick;
	uv_poll_t ctl, script;
	uv_signal_t term;
	uv_async_t finished;
	pthread_t conductor;
	nsec_t last_tick, guard_heard;
	atomic_bool guard_silent; /* and the conductor's, at the end */
	char ctl_line[1024];
	size_t ctl_len;
	unsigned int ticks;

	/* set once, by whoever is first; the conductor reads it when something it waits for ends early */
	atomic_bool halted;
	atomic_bool script_gone; /* whatever it has asked for, nobody waits for the answer */
	pthread_mutex_t halt_lock;

	/* the conductor's */
	struct node *host;
	struct run_change **changes;
	size_t n_changes;
	struct run_source *sources;
	size_t n_sources;
	struct predicate **steady, **stop;
	struct finding *stop_found; /* one for each of `stop`; the loop's */
	size_t n_steady, n_stop;
	nsec_t settle, within;
	char *host_before, *site_before;
	struct run_peak *peak; /* run_picture.c */
	int exit_status;
	bool undoing;		       /* the stage "undo" has begun */
	bool trouble;		       /* the host or the kernel failed the script, not the other way round */
	const struct change **settings; /* of the baseline, in force */
	size_t n_settings;
	atomic_bool way_back; /* has begun */
	atomic_bool stop_armed;	       /* stop conditions are judged from here on */
	_Atomic nsec_t stop_from;
};

/* The first halt wins. Any thread. */
void run_halt(struct run *r, const char *by, const char *reason);
static inline bool run_halted(struct run *r)
{
	return atomic_load(&r->halted);
}

/* Tells the guard of the INTENT just written; negative: the change is not to be made. @run is a struct run. */
int run_announce(void *run, struct err *err);

/* Is there a use in waiting on the script's behalf? */
static inline bool run_cut(struct run *r)
{
	return run_halted(r) || atomic_load(&r->script_gone);
}

void run_stage(struct run *r, const char *stage);

/* run_method.c */
int run_method(struct run *r, struct err *err);		     /* serves the script until it is done */
int run_await_scenario(struct run *r, struct err *err);	     /* ... until it has declared */
int run_steady(struct run *r, const char *use, nsec_t from); /* 0 attained; 1 not; -ECANCELED halted */
int run_change_apply(struct run *r, const struct change_ops *ops, struct node *n, const json_t *args, const char *where,
	bool optional, struct run_change **ret, struct err *err);
int run_change_lift(struct run *r, struct run_change *rc, struct err *err);

/*
 * run_mgmt.c: does it spare what has to survive (mgmt.h)? -EPERM: it does not, and nobody has waived it; *ret_waived, or NULL: somebody
 * has, and that is to be shown. run_check_plan(): all of the expected path.
 */
int run_check_paths(struct run *r, const struct change_ops *ops, const struct node *n, const json_t *args, char **ret_waived,
	struct err *err);
int run_check_plan(struct run *r, struct err *err);

/* run_script.c: restore.sh: with the change that is about to be made (@arg: the run; -errno: it is not made); as of now */
int run_script_intend(struct change *c, void *arg, struct err *err);
void run_script_update(struct run *r);

/* run_picture.c: what the host and the site look like */
int run_snapshot_host(struct run *r, char **ret, struct err *err);
int run_snapshot_site(struct run *r, char **ret, struct err *err);
/* At the peak, by a thread of its own; neither call waits for it. */
void run_peak_applied(struct run *r, struct run_change *rc);	    /* rc is in force */
void run_peak_lifting(struct run *r, const struct run_change *rc); /* ... and is about to be undone */
json_t *run_peak_end(struct run *r); /* writes snapshot-peak.txt; what it showed, for the residue event */
void run_peak_free(struct run *r);

/* run_undo.c */
void run_undo(struct run *r);
