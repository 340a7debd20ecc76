/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * host.h: what this machine has: programs, kernel modules, features that a lab needs. Looks and does not touch: nothing
 * is loaded, started or written here, so `muster doctor` may ask at any time, with or without root.
 */
#pragma once

#include "engine/err.h"

/* The absolute path of program @name: $PATH, then the sbin folders that a user's PATH lacks. -ENOENT. */
int host_program(const char *name, char **ret);

enum host_module {
	HOST_MODULE_ABSENT,   /* not in this kernel, as far as its files tell */
	HOST_MODULE_LOADABLE, /* a file in /lib/modules; the kernel loads it when it is first used */
	HOST_MODULE_PRESENT,  /* loaded, or built in */
};
/* @root stands before /sys and /lib, for tests; "" for this machine. @name as in "sch_netem"; - and _ are one. */
enum host_module host_module_at(const char *root, const char *release, const char *name);
enum host_module host_module(const char *name);

/*
 * Kernel features, found without loading a module: 1 there, 0 not there, -errno could not be told.
 * host_has_qdisc() tries on "lo" of a network namespace that it makes for the purpose, where module files do not decide.
 */
int host_has_ipvs(void);
int host_has_qdisc(const char *kind);
int host_has_btf(void);
int host_has_netns(void); /* may this process make a network namespace? */

/*
 * The pid of a process called @comm (at most 15 letters count) in this process's own network namespace: the daemons of a lab live
 * in others. 0: none.
 */
pid_t host_daemon(const char *comm);
/* How many services and servers this namespace's IPVS table has; 0 as well when there is no IPVS */
unsigned int host_ipvs_entries(void);

/* MemAvailable, in MiB; 0 when it cannot be read */
unsigned int host_memory_mib(void);
/* Processors that this process may use */
unsigned int host_cpus(void);
