/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * syscalls.bpf.c: see syscalls.h. The trace point sys_exit has the registers as they were on the way in, so the number of the
 * call is there still. Calls of 32-bit programs have other numbers and are not seen.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "bpf/core.h"
#include "bpf/syscalls.h"

#define EAGAIN	    11
#define EINPROGRESS 115

#if defined(__TARGET_ARCH_x86)
#define NR_CONNECT  42
#define NR_SENDTO   44
#define NR_RECVFROM 45
#else
#define NR_CONNECT  203
#define NR_SENDTO   206
#define NR_RECVFROM 207
#endif

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct pt_regs___x86 {
	unsigned long orig_ax;
};
struct pt_regs___arm64 {
	__s32 syscallno;
};
struct nsproxy {
	struct net *net_ns;
};
struct task_struct___ns {
	struct nsproxy *nsproxy;
};
#pragma clang attribute pop

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u8);
} calls_netns SEC(".maps");

/* By process, and per CPU, because its threads call on several at once */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, SYSCALLS_PROCESSES_MAX);
	__type(key, __u32);
	__type(value, struct syscall_process);
} calls_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} calls_lost SEC(".maps");

static const struct syscall_process nobody;

static __always_inline long call_number(void *regs)
{
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ((struct pt_regs___x86 *)regs, orig_ax);
#else
	return BPF_CORE_READ((struct pt_regs___arm64 *)regs, syscallno);
#endif
}

SEC("raw_tp/sys_exit")
int BPF_PROG(calls_exit, void *regs, long ret)
{
	long nr = call_number(regs);
	struct task_struct___ns *task;
	struct syscall_process *p;
	struct syscall_count *c;
	__u32 pid, netns, zero = 0;
	__u64 *lost;

	if (nr != NR_CONNECT && nr != NR_SENDTO && nr != NR_RECVFROM)
		return 0;
	task = (struct task_struct___ns *)bpf_get_current_task();
	netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	if (!bpf_map_lookup_elem(&calls_netns, &netns))
		return 0;
	pid = bpf_get_current_pid_tgid() >> 32;
	p = bpf_map_lookup_elem(&calls_processes, &pid);
	if (!p) {
		bpf_map_update_elem(&calls_processes, &pid, &nobody, BPF_NOEXIST);
		p = bpf_map_lookup_elem(&calls_processes, &pid);
	}
	if (!p) {
		lost = bpf_map_lookup_elem(&calls_lost, &zero);
		if (lost)
			__sync_fetch_and_add(lost, 1);
		return 0;
	}
	if (!p->netns) {
		bpf_get_current_comm(p->comm, sizeof(p->comm));
		p->netns = netns;
	}
	c = nr == NR_CONNECT ? &p->count[SYSCALL_CONNECT] : nr == NR_SENDTO ? &p->count[SYSCALL_SENDTO] : &p->count[SYSCALL_RECVFROM];
	c->calls++;
	if (ret == -EAGAIN || ret == -EINPROGRESS)
		c->again++;
	else if (ret < 0)
		c->errors++;
	else
		c->bytes += ret;
	return 0;
}
