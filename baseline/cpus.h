/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * cpus.h: sets of processors, as the kernel writes them: lists ("0-3,8") and masks ("00000001,0000000f": groups of 32 bits, the
 * highest first), and which processors and NUMA nodes this machine has.
 *
 * Text from a scenario and text from the kernel go through the same parsers; both reject what is not wholly theirs.
 */
#pragma once

#include <sched.h>

#include "engine/node.h"
#include "engine/str.h"

#define CPUS_MAX CPU_SETSIZE /* 1024: what glibc's cpu_set_t holds */

/* "0-3,8". -EINVAL: no list, or an empty one; -ERANGE: a processor from CPUS_MAX on */
int cpus_parse_list(const char *text, cpu_set_t *ret);
/* "f", "00000001,0000000f"; zero is a mask. -EINVAL, -ERANGE */
int cpus_parse_mask(const char *text, cpu_set_t *ret);

void cpus_add_list(struct strbuf *b, const cpu_set_t *set); /* "" when empty */
void cpus_add_mask(struct strbuf *b, const cpu_set_t *set);
char *cpus_list(const cpu_set_t *set); /* fresh memory, or NULL */
char *cpus_mask(const cpu_set_t *set);

/* The first processor from @from on that is in the set; -1 */
int cpus_next(const cpu_set_t *set, int from);
bool cpus_within(const cpu_set_t *inner, const cpu_set_t *outer);

/* What is online; @only: "all" or NULL, else a list. -EOPNOTSUPP: names one that is not there, said in the words of @who */
int cpus_online(const char *who, const char *only, cpu_set_t *ret, struct err *err);

/* For resolve: is it a list at all? */
int cpus_check_text(const char *who, const char *text, struct err *err);

/* The processors of a NUMA node. -EOPNOTSUPP: there is no such node, or no NUMA in this kernel */
int cpus_of_numa_node(const char *who, int node, cpu_set_t *ret, struct err *err);
/* NUMA nodes with memory, at most @max; 0 when this kernel does not know of nodes */
int cpus_numa_nodes(int *ret, int max);
