/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * netem_way.h: where fault.netem puts its qdisc.
 *
 *	detour	beside the device, for the packets that are meant (detour.h): no other packet is touched, not even while
 *		it comes and goes
 *	root	in the place of the device's root qdisc: for kernels without the netfilter egress hook (Linux 5.16,
 *		CONFIG_NETFILTER_EGRESS), and devices without Ethernet headers. It cannot be confined. The kernel loses what is
 *		sent while a root is replaced, and what is queued then, twice: that is unavoidable this way, and the evidence says so
 *
 * Both are known by their qdisc's handle, 6d75: ("mu"), kind and options; each writes what it needs into the prior.
 */
#pragma once

#include "engine/change.h"
#include "inject/detour.h"
#include "inject/netem.h"

#define NETEM_HANDLE 0x6d750000u

/* What args and prior say, read once */
struct netem_fault {
	const struct node *node;
	const char *dev;
	int ifindex; /* 0 without a prior */
	struct netem_spec spec;
	size_t n; /* nets; 0: everybody */
	struct detour_net to[DETOUR_NETS_MAX];
	const json_t *args, *prior;
};

struct netem_seen {
	bool there;	  /* ours, as it was made, and packets go through it */
	uint64_t entered; /* packets; passed, dropped and queued ones together */
	uint64_t packets;
	uint32_t drops, qlen;
};

struct netem_way {
	const char *how;
	/* @rt: a socket in the node. Adds to @prior. */
	int (*capture)(const struct netem_fault *f, struct nlc *rt, json_t *prior, struct err *err);
	int (*apply)(const struct netem_fault *f, struct nlc *rt, struct err *err);
	/* @gone: the device is not there any more, or is another one */
	int (*undo)(const struct netem_fault *f, struct nlc *rt, bool gone, struct err *err);
	int (*verify)(const struct netem_fault *f, struct nlc *rt, bool gone, struct err *err);
	int (*read)(const struct netem_fault *f, struct nlc *rt, struct netem_seen *ret, struct err *err);
	int (*command)(const struct netem_fault *f, struct strbuf *ret_apply, struct strbuf *ret_undo);
};
extern const struct netem_way netem_detour, netem_root;

/* Can this kernel do it? Tried once in a process, in a namespace of its own. 0, or -EOPNOTSUPP with the reason. */
int netem_detour_supported(struct err *err);

/* The root qdisc of a device */
struct netem_root_seen {
	struct tc_obj o; /* kind and options are not to be used */
	bool found;
	unsigned int n; /* qdiscs with a handle, the root among them */
	struct netem_spec spec;
	int parsed; /* 0: spec holds; else it is no netem, or one that the struct cannot hold */
};
int netem_root_read(struct nlc *rt, int ifindex, struct netem_root_seen *ret, struct err *err);
static inline bool netem_root_ours(const struct netem_root_seen *s, const struct netem_spec *spec)
{
	return s->found && s->o.handle == NETEM_HANDLE && s->parsed == 0 && netem_equal(&s->spec, spec);
}
