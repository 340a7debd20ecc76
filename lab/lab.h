/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * lab.h: sites built here out of network namespaces. The lab itself is a change ("lab.site",
 * lab/lab_site.c): its undo is in the journal before the first namespace exists.
 */
#pragma once

#include "engine/site.h"

/*
 * Says where the site's nodes will live: fills node->netns ("/run/netns/muster-SITE-NODE") and each
 * link's peer ("/run/netns/muster-SITE-SWITCH", the device called as the node). Pure naming:
 * nothing is made.
 */
int lab_bind(struct site *s, struct err *err);

/*
 * The labs that are there, by name: each the file it keeps (file.h), with "name" and "state" added:
 * "up" (kept by `muster lab up`), "in use" (its builder lives: a drill), "left over".
 */
int lab_list(json_t **ret, struct err *err);

/*
 * Arguments and prior state by which change lab.site undoes lab @name when its journal is lost:
 * from the lab's own file, and, if @site is given, every namespace that goes by a name of that
 * site. -ENOENT: nothing is there. -EBUSY: its builder lives.
 */
int lab_record(const char *name, const json_t *site, json_t **ret_args, json_t **ret_prior,
	struct err *err);
