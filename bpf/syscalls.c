/* SPDX-License-Identifier: GPL-2.0-only */
#include "bpf/syscalls.h"

#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/libbpf_log.h"
#include "gen/syscalls.skel.h"

struct syscalls_reader {
	struct syscalls *skel;
};

void syscalls_close(struct syscalls_reader *s)
{
	if (!s)
		return;
	syscalls__destroy(s->skel);
	free(s);
}

int syscalls_open(const uint64_t *netns, size_t n_netns, struct syscalls_reader **ret, struct err *err)
{
	struct syscalls_reader *s = calloc(1, sizeof(*s));
	const uint8_t one = 1;
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "system calls: %s", strerror(ENOMEM));
	libbpf_log_start();
	s->skel = syscalls__open();
	r = s->skel ? syscalls__load(s->skel) : -errno;
	for (size_t i = 0; r == 0 && i < n_netns; i++) {
		uint32_t ino = (uint32_t)netns[i];

		if (bpf_map_update_elem(bpf_map__fd(s->skel->maps.calls_netns), &ino, &one, BPF_ANY) < 0)
			r = -errno;
	}
	if (r == 0)
		r = syscalls__attach(s->skel);
	if (r < 0) {
		err_set(err, r == -EPERM && geteuid() != 0 ? -EPERM : -EOPNOTSUPP, "system calls: raw_tp/sys_exit: %s%s%s", strerror(-r),
			*libbpf_log_first() ? ": " : "", libbpf_log_first());
		syscalls_close(s);
		return err ? err->code : -EOPNOTSUPP;
	}
	*ret = s;
	return 0;
}

int syscalls_read(struct syscalls_reader *s, struct syscalls_entry **ret, size_t *ret_n, uint64_t *ret_lost)
{
	int cpus = libbpf_num_possible_cpus(), fd = bpf_map__fd(s->skel->maps.calls_processes);
	_cleanup_free_ struct syscall_process *one = NULL;
	_cleanup_free_ struct syscalls_entry *all = NULL;
	_cleanup_free_ uint64_t *lost = NULL;
	uint32_t key, zero = 0, *from = NULL;
	size_t n = 0;

	if (cpus < 0)
		return cpus;
	one = calloc((size_t)cpus, sizeof(*one));
	lost = calloc((size_t)cpus, sizeof(*lost));
	all = calloc(SYSCALLS_PROCESSES_MAX, sizeof(*all));
	if (!one || !lost || !all)
		return -ENOMEM;
	/* nothing is ever taken out, so the walk does not start over */
	while (n < SYSCALLS_PROCESSES_MAX && bpf_map_get_next_key(fd, from, &key) == 0) {
		struct syscalls_entry *e = &all[n];

		from = &key;
		if (bpf_map_lookup_elem(fd, &key, one) < 0)
			continue;
		e->pid = (pid_t)key;
		for (int cpu = 0; cpu < cpus; cpu++) {
			if (one[cpu].netns) {
				memcpy(e->p.comm, one[cpu].comm, sizeof(e->p.comm));
				e->p.netns = one[cpu].netns;
			}
			for (int k = 0; k < SYSCALL_COUNT; k++) {
				e->p.count[k].calls += one[cpu].count[k].calls;
				e->p.count[k].bytes += one[cpu].count[k].bytes;
				e->p.count[k].errors += one[cpu].count[k].errors;
				e->p.count[k].again += one[cpu].count[k].again;
			}
		}
		n++;
	}
	*ret_lost = 0;
	if (bpf_map_lookup_elem(bpf_map__fd(s->skel->maps.calls_lost), &zero, lost) == 0)
		for (int cpu = 0; cpu < cpus; cpu++)
			*ret_lost += lost[cpu];
	*ret = TAKE_PTR(all);
	*ret_n = n;
	return 0;
}
