/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vm.h: the disposable microVM: Debian's stock kernel under QEMU, this host's root file system read-only under a tmpfs.
 *
 * What a job finds in there: the host's files as they are, writable but forgotten afterwards; a /run and a
 * /var/lib/muster of its own, both empty; proc, sys, devpts, cgroup2, bpf, tracefs, debugfs; "lo" up and no other device;
 * the kernel's modules under /lib/modules; root's rights; the caller's working folder, and of its environment LANG,
 * TERM, TZ, NO_COLOR and what begins with MUSTER_, CMOCKA_, ASAN_, UBSAN_ or LSAN_, with MUSTER_VM=1 added. Standard input is empty.
 * Only what is written below out_dir reaches the host.
 *
 * The kernel comes from apt and lives unpacked in a cache folder (vm_cache_dir()); nothing is installed. KVM is used where
 * it boots that kernel, which is tried once and remembered; else QEMU emulates the processor.
 */
#pragma once

#include "engine/err.h"
#include "engine/live.h"

struct vm_job {
	char *const *argv;   /* what to run in there: an absolute path first; NULL-terminated */
	const char *out_dir; /* a folder of this host, visible at the same path inside, writable; NULL: none */
	unsigned int timeout_s; /* of the whole, start included; 0: none */
	struct live *live;   /* gets notes, and each line of the job's descriptor 3 as an event; may be NULL */
	int stdout_fd, stderr_fd; /* where the job's output goes; -1: dropped */
};

/* What it would take: 0, or -errno with what is missing and the apt line that mends it. */
int vm_available(struct err *err);

/*
 * Boots, runs, powers off. *ret_status: the job's exit status, 128 + N when signal N ended it. Killed with the calling
 * thread; leaves nothing behind. Fills the cache first when it is empty, which needs the network.
 *
 * While it runs, SIGINT, SIGTERM and SIGHUP are taken from the caller: the first is passed on to the job, the second kills the
 * machine (-EINTR). -ETIMEDOUT: timeout_s has passed. -EIO: the machine ended before its job; the error says what the
 * console said last and where all of it lies.
 */
int vm_run(const struct vm_job *job, int *ret_status, struct err *err);

/* ── the cache ──────────────────────────────────────────────────────────────────────────────── */

/* $XDG_CACHE_HOME/muster/vm; without that variable under /var/cache for root, under ~/.cache for others */
int vm_cache_dir(char **ret, struct err *err);

/*
 * Makes sure that the cache holds the newest kernel that apt knows, ready to boot, and tries KVM anew. *ret_what (may be
 * NULL): one line for a person.
 */
int vm_fetch(struct live *live, char **ret_what, struct err *err);

struct vm_state {
	char *release; /* of the cached kernel; NULL: none yet */
	char *dir;     /* where it lies */
	enum { VM_KVM_UNTRIED, VM_KVM_WORKS, VM_KVM_UNUSABLE } kvm;
	char *kvm_text; /* why it is not usable, or what was tried */
};
/* What a run would use, as far as is known without starting anything. */
int vm_look(struct vm_state *ret, struct err *err);
void vm_state_clear(struct vm_state *s);
