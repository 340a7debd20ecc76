/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * syscalls.h: connect, sendto and recvfrom by process: how often, how many bytes, how often in vain. Shared by syscalls.bpf.c and
 * its reader.
 *
 * It hangs on the end of every system call of the machine, which costs each of them some 50 ns: so it is for looking
 * (`muster watch --processes`), and no drill attaches it by itself. A process that sends with write() or sendmsg() is not seen by it.
 */
#pragma once

#ifndef __bpf__
#include <linux/types.h>

#include "engine/err.h"
#endif

enum syscall_kind {
	SYSCALL_CONNECT,
	SYSCALL_SENDTO,
	SYSCALL_RECVFROM,
	SYSCALL_COUNT,
};

#define SYSCALLS_PROCESSES_MAX 4096

struct syscall_count {
	__u64 calls, bytes;
	__u64 errors;
	__u64 again; /* would have had to wait: EAGAIN, EINPROGRESS; no error */
};

struct syscall_process {
	char comm[16]; /* as it was called when it was first seen */
	__u32 netns, pad;
	struct syscall_count count[SYSCALL_COUNT];
};

#ifndef __bpf__
struct syscalls_reader;

/* -EOPNOTSUPP: this kernel cannot; -EPERM */
int syscalls_open(const uint64_t *netns, size_t n_netns, struct syscalls_reader **ret, struct err *err);
void syscalls_close(struct syscalls_reader *s);

struct syscalls_entry {
	pid_t pid;
	struct syscall_process p;
};
/* Since it was opened; the caller frees. *ret_lost: calls of processes for which there was no room */
int syscalls_read(struct syscalls_reader *s, struct syscalls_entry **ret, size_t *ret_n, uint64_t *ret_lost);
#endif
