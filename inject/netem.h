/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * netem.h: the kernel's network emulator as a struct, as a netlink message, and as tc words.
 *
 * TCA_OPTIONS of netem is not a plain nest: struct tc_netem_qopt comes first and attributes follow it directly, inside
 * the length of TCA_OPTIONS. A change keeps whatever it is not sent (sch_netem.c: netem_change), so correlation, reorder,
 * corruption and rate are always sent, zeros included.
 *
 * Probabilities and correlations are the kernel's: 0 .. 2^32-1 stands for 0 .. 1.
 */
#pragma once

#include "engine/nl.h"
#include "engine/str.h"

struct netem_spec {
	nsec_t delay, jitter; /* of each packet: uniform in delay ± jitter */
	uint32_t delay_corr;
	uint32_t loss, loss_corr;
	uint32_t duplicate, duplicate_corr;
	uint32_t reorder, reorder_corr; /* this share is sent at once, the rest is delayed */
	uint32_t corrupt, corrupt_corr;
	uint64_t rate;	/* bytes per second; 0: none */
	uint32_t limit; /* packets held; beyond it the qdisc drops what nobody asked it to */
};

/* Packets per second that the default limit is made for: 3 Gbit/s of full-size packets */
#define NETEM_ASSUMED_PPS 250000

uint32_t netem_probability(double ratio);
double netem_ratio(uint32_t probability);

/* The limit that holds delay + 3 jitter of traffic at NETEM_ASSUMED_PPS; 1000 (netem's own) .. 1,000,000 */
uint32_t netem_limit(nsec_t delay, nsec_t jitter);

/* A whole RTM_NEWQDISC message; NULL without memory */
struct nl_msg *netem_msg(const struct netem_spec *s, int flags, int ifindex, uint32_t parent, uint32_t handle);

/* Payload of TCA_OPTIONS as dumped. -EPROTO: too short; -EOPNOTSUPP: it holds what the struct cannot (loss model, slots, ecn) */
int netem_parse(const void *options, size_t len, struct netem_spec *ret);

/* Equal as far as the kernel can tell (times are kept in ns, probabilities whole) */
bool netem_equal(const struct netem_spec *a, const struct netem_spec *b);

/* "limit 1000 delay 50000us 5000us loss 1%" in tc's own grammar */
void netem_words(const struct netem_spec *s, struct strbuf *b);
