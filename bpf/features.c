/* SPDX-License-Identifier: GPL-2.0-only */
#include "bpf/features.h"

#include <linux/bpf.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "bpf/libbpf_log.h"
#include "bpf/telemetry.h"

struct answer {
	int r; /* 0 works; -EPERM without root: could not be asked; else it does not */
	char reason[1024];
	const char *hint;
};

static void no(struct answer *a, int r, const char *what)
{
	a->r = r;
	snprintf(a->reason, sizeof(a->reason), "%s: %s%s%s", what, strerror(-r),
		*libbpf_log_first() ? ": " : "", libbpf_log_first());
}

static void ask_btf(struct answer *a)
{
	struct btf *btf;

	if (access("/sys/kernel/btf/vmlinux", F_OK) < 0) {
		no(a, -errno, "/sys/kernel/btf/vmlinux");
		a->hint = "a kernel with CONFIG_DEBUG_INFO_BTF, or --lab vm";
		return;
	}
	btf = btf__load_vmlinux_btf();
	if (!btf)
		no(a, -errno, "/sys/kernel/btf/vmlinux");
	btf__free(btf);
}

static void ask_ringbuf(struct answer *a)
{
	int fd = bpf_map_create(
		BPF_MAP_TYPE_RINGBUF, "muster_probe", 0, 0, sysconf(_SC_PAGESIZE), NULL);

	if (fd < 0) {
		no(a, -errno, "ring buffer");
		a->hint = "Linux 5.8 or newer, or --lab vm";
		return;
	}
	close(fd);
}

static void ignore(const struct conn_record *r _unused_, void *arg _unused_)
{
}

/* The very program that a drill uses, told to look at no namespace that exists */
static void ask_hook(struct answer *a, enum telemetry_hook hook)
{
	uint64_t nowhere = 1;
	struct telemetry_opts o = {.netns = &nowhere,
		.n_netns = 1,
		.hook = hook,
		.ring_bytes = sysconf(_SC_PAGESIZE),
		.live_max = 1};
	_cleanup_telemetry_ struct telemetry *t = NULL;
	struct err err = {0};

	a->r = telemetry_open(&o, ignore, NULL, &t, &err);
	if (a->r < 0) {
		snprintf(a->reason, sizeof(a->reason), "%s", err.text);
		a->hint = "a kernel with BTF and BPF tracing, or --lab vm";
	}
}

/*
 * A program on the loopback device of a namespace that lives as long as this thread: nothing of the host is touched, and nothing
 * has to be cleaned up.
 */
static void *cls_bpf_thread(void *arg)
{
	static const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	LIBBPF_OPTS(bpf_tc_hook, hook, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts);
	_cleanup_close_ int fd = -1;
	struct answer *a = arg;
	int r;

	libbpf_log_start();
	if (unshare(CLONE_NEWNET) < 0) {
		no(a, -errno, "a network namespace to try it in");
		return NULL;
	}
	fd = bpf_prog_load(
		BPF_PROG_TYPE_SCHED_CLS, "muster_probe", "GPL", pass, ARRAY_SIZE(pass), NULL);
	if (fd < 0) {
		no(a, -errno, "load a classifier program");
		return NULL;
	}
	hook.ifindex = if_nametoindex("lo");
	r = bpf_tc_hook_create(&hook);
	if (r < 0) {
		no(a, r, "clsact on lo (CONFIG_NET_SCH_INGRESS)");
		a->hint = "a kernel with sch_ingress, or --lab vm";
		return NULL;
	}
	opts.prog_fd = fd;
	r = bpf_tc_attach(&hook, &opts);
	if (r < 0) {
		no(a, r, "attach to clsact (CONFIG_NET_CLS_BPF)");
		a->hint = "a kernel with cls_bpf, or --lab vm";
	}
	return NULL;
}

static void ask_cls_bpf(struct answer *a)
{
	pthread_t thread;
	int r;

	r = pthread_create(&thread, NULL, cls_bpf_thread, a);
	if (r) {
		no(a, -r, "a thread to try it in");
		return;
	}
	pthread_join(thread, NULL);
}

static int add(json_t *list, const char *name, const char *text, const struct answer *a)
{
	bool asked = a->r != -EPERM || geteuid() == 0;
	const char *hint = asked ? a->hint : "run as root to know";

	return json_array_append_new(
		list, json_pack("{s:s, s:o, s:s, s:s?, s:s?}", "name", name, "works",
			      !asked ? json_null() : json_boolean(a->r == 0), "text", text,
			      "reason", a->r ? a->reason : NULL, "hint", a->r ? hint : NULL));
}

int bpf_features(json_t **ret)
{
	_cleanup_json_ json_t *list = json_array();
	struct answer btf = {0}, ringbuf = {0}, tp_btf = {0}, raw_tp = {0}, cls_bpf = {0};

	if (!list)
		return -ENOMEM;
	libbpf_log_start();
	ask_btf(&btf);
	libbpf_log_start();
	ask_ringbuf(&ringbuf);
	ask_hook(&tp_btf, TELEMETRY_TP_BTF);
	ask_hook(&raw_tp, TELEMETRY_RAW_TP);
	ask_cls_bpf(&cls_bpf);
	if (add(list, "btf", "types of the running kernel, which programs are fitted to", &btf) <
			0 ||
		add(list, "ringbuf", "the way of records from the kernel to muster", &ringbuf) <
			0 ||
		add(list, "tp_btf", "connection telemetry, with socket cookies", &tp_btf) < 0 ||
		add(list, "raw_tp", "connection telemetry where tp_btf does not load", &raw_tp) <
			0 ||
		add(list, "cls_bpf", "packet faults by address without a change of the root qdisc",
			&cls_bpf) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(list);
	return 0;
}
