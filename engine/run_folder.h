/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * run_folder.h: a run's folder: /var/lib/muster/runs/ID, or where --out says: scenario.lua plan.json timeline.jsonl
 * report.json report.html junit.xml report.md snapshot-before.txt snapshot-peak.txt snapshot-after.txt restore.sh
 */
#pragma once

#include "engine/plan.h"

/* NAME-YYYYMMDD-HHMMSS-xxxx: sorts by time within a scenario; the tail keeps two of one second apart. */
char *run_folder_id(const struct plan *p);

/* Makes the folder (@out, or the standard place) and writes scenario.lua and plan.json. -EEXIST: it holds a run. */
int run_folder_make(const struct plan *p, const char *id, const char *out, char **ret_dir, struct err *err);

/* The folder of @run: a path, or an id (or its beginning, run_id_find()) under the standard place. -ENOENT, -ENOTUNIQ */
int run_folder_find(const char *run, char **ret_dir, struct err *err);

/* Where --out has put the folder of a live or hot run is known as long as no later run has begun. -ENOENT */
int run_folder_of(const char *id, char **ret_dir);

#define RUN_FOLDER_ROOT "/var/lib/muster/runs"

/* Which runs an id may be of */
enum run_kind {
	RUN_LIVE = 1,	 /* the drill that goes on */
	RUN_JOURNAL = 2, /* live or hot: its journal is there */
	RUN_FOLDER = 4,	 /* it has a folder in the standard place */
};

/*
 * The whole id of the run that somebody means by @given: an id, or a beginning that only one of the @kinds has. -ENOENT with the nearest;
 * -ENOTUNIQ with those that it may be.
 */
int run_id_find(const char *given, unsigned int kinds, char **ret_id, struct err *err);
