/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * aggregates.h: reads the aggregates of conn.bpf.c (conn.h): adds up what the CPUs and the programs have each kept for
 * themselves, and remembers what it has read of the series, so that only what is new is handed on. telemetry.h offers it.
 */
#pragma once

#include "bpf/telemetry.h"

struct aggregates;

/* What a row of counts is of */
struct aggregates_row {
	uint64_t netns;
	enum conn_role role;
	uint16_t service;
};

/* The rows' width is the number of peers and one; of the first CONN_ROLE_COUNT rows nobody's namespace is known. */
struct aggregates_layout {
	size_t n_parties, n_hist_parties;
	uint32_t width;
	size_t n_rows;
	struct aggregates_row *rows;
};

/* The descriptors stay the caller's, @layout does not: it is taken over. -ENOMEM, or what libbpf says of the number of CPUs */
int aggregates_new(int series_fd, int hists_fd, int counts_fd, struct aggregates_layout *layout, struct aggregates **ret);
void aggregates_free(struct aggregates *a);

int aggregates_series(struct aggregates *a, nsec_t complete, telemetry_series_fn fn, void *arg);
uint64_t aggregates_missed(const struct aggregates *a);
int aggregates_counts(struct aggregates *a, struct telemetry_count **ret, size_t *ret_n);
/* A histogram as each CPU has kept it, as one */
void conn_hist_sum(const struct conn_hist *cpus, int n_cpus, struct hist *ret);
int aggregates_hist(struct aggregates *a, unsigned int party, enum conn_hist_kind kind, struct hist *ret);
