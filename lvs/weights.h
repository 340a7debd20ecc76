/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * weights.h: what lvs.set_weight and lvs.drain share: a weight of one server is set.ipvs with one weight, so its record, its undo
 * and its conflicts are that one's too.
 */
#pragma once

#include "engine/change.h"
#include "engine/site.h"

/*
 * For resolve: { node = SERVER, service?, director? } becomes set.ipvs's arguments: "node" is the director, "server" who it is about.
 * A server of one service alone needs no "service".
 */
int weights_resolve(const struct site *site, json_t *args, const char *who, json_int_t weight, struct err *err);

/* The rest of its life is set.ipvs's. */
int weights_supported(const struct node *n, const json_t *args, struct err *reterr);
int weights_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err);
int weights_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int weights_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int weights_verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err);
int weights_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo);

/* Active connections that the director counts for the record's server, over all its addresses; they are live (kernel atomics). */
int weights_active(const struct node *n, const json_t *args, unsigned int *ret, struct err *err);
