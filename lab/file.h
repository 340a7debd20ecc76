/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * file.h: the file that a lab keeps about itself, LAB_ROOT/SITE/lab.json:
 *
 *	{ "id": "...", "owner": {"pid", "start"}, "names": ["muster-SITE-LABEL", ...],
 *	  "ino": {NAME: inode}, "site": {...} }
 *
 * It says whose lab this is, and proves that the namespaces of those names are a lab's; the folder
 * goes with the lab.
 */
#pragma once

#include "engine/err.h"

/* NULL when there is none; a damaged one is an empty object: somebody's, but nobody knows whose. */
json_t *lab_file_read(const char *dir);
/* By renaming, so that it is there whole or not at all. */
int lab_file_write(const char *dir, const json_t *lab, struct err *err);

/* Does the process that built it still live? Its pid goes to *ret_pid either way. */
bool lab_file_owner(const json_t *lab, pid_t *ret_pid);
/* Is @name one of the JSON array @names? */
bool lab_file_lists(const json_t *names, const char *name);
/*
 * Another lab than @site lists @name: site "a" with node "b-c" and site "a-b" with node "c" meet in
 * one name.
 */
bool lab_file_others(const char *site, const char *name);

/* "/run/muster/labs/SITE.json": there while `muster lab up` keeps that lab; NULL without memory */
char *lab_file_up(const char *site);
