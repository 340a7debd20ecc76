/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ledger.h: what became of a ledger's writes: a pure function over its history in the timeline (EV_LEDGER, EV_LEDGER_READ).
 *
 *	acknowledged	the database said that it has them
 *	lost		acknowledged, and not there when everything was read back
 *	duplicated	there more than once, though each was sent once
 *	unsure		sent, not acknowledged, and there all the same: neither a loss nor a lie
 *	stale		answers to "what was the last one?" below what had been acknowledged before the question
 *	rpo		the stretch of acknowledged time that is missing: from the last acknowledgement that survived before the first
 *			lost write to the acknowledgement of the last lost one; 0: nothing is lost
 */
#pragma once

#include "engine/timeline.h"

struct ledger_result {
	uint64_t attempted, acknowledged, reads, stale;
	bool read_back; /* false: what follows is not known */
	uint64_t lost, duplicated, unsure;
	nsec_t rpo;
	char missing[160];    /* the lost numbers, "412-418, 433" */
	char error[160];      /* why it was not read back */
	const char *read_from; /* the node; borrowed from the timeline */
};

/* 1; 0 when the timeline has no ledger of that name; -ENOMEM, -EBADMSG: a history that makes no sense */
int ledger_check(const struct timeline *tl, const char *load, struct ledger_result *ret);
