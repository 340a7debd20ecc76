/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * features.h: what of BPF works here, found out by doing it: each program is loaded and attached, and taken away again. For
 * `muster doctor`.
 */
#pragma once

#include "engine/base.h"

/*
 * *ret: an array, in a fixed order, of
 *
 *	{ "name": "tp_btf", "works": true | false | null, "text": "what it is for", "reason": "..." | null, "hint": "..." | null }
 *
 * null is "could not be asked", for want of privilege as a rule. Names: "btf", "ringbuf", "tp_btf", "raw_tp", "cls_bpf".
 * Blocking, some 10 ms. -ENOMEM
 */
int bpf_features(json_t **ret);
