/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * qdisc.h: traffic control as the kernel tells it: dumping, and putting a whole root qdisc tree back.
 *
 * A tree (root qdisc, classes, child qdiscs, filters) is kept as JSON in which every object carries the kernel's own
 * TCA_OPTIONS bytes as hex, so a kind that is unknown here can still be put back: what the kernel dumps is, with few
 * exceptions, what it accepts. The exceptions are mended where they are known (htb's version, sfq's limit, the "in hardware"
 * bits of filters); counters inside the options are zeroed. Whether a given tree does come back the same is not
 * assumed but tried: qdisc_rehearse() builds it on a device of its own in a namespace of its own and compares.
 *
 *	{ "qdiscs":  [ {"kind": "htb", "handle": 65536, "parent": 4294967295, "options": "1c00..."} ],
 *	  "classes": [ {"kind": "htb", "handle": 65546, "parent": 65536, "options": "..."} ],
 *	  "filters": [ {"kind": "u32", "handle": 2147485696, "parent": 65536, "info": 65544, "chain": 0, "options": "..."} ] }
 *
 * Order is part of it where it means something: filters of one priority stand in the order in which they are tried, and are put
 * back so that they are tried in it again; where a kind does not tell that order (flower), the tree is refused. What classes and qdiscs
 * do depends on their handles alone; they are listed in the order of the kernel's hash table, which grows as they are made.
 *
 * A root whose handle is 0 (or no root) is the kernel's default: it is put back by deleting whatever stands there.
 * The clsact or ingress qdisc is not part of the tree: it coexists with any root.
 */
#pragma once

#include "engine/nl.h"
#include "engine/str.h"

/* One object of a dump; valid inside the callback only */
struct tc_obj {
	int type; /* RTM_NEWQDISC, RTM_NEWTCLASS, RTM_NEWTFILTER */
	int ifindex;
	uint32_t handle, parent, info, chain;
	const char *kind;
	const void *options; /* payload of TCA_OPTIONS; NULL: none */
	size_t options_len;
	const void *stab; /* TCA_STAB_BASE: a size table is attached, which the kernel dumps without its data; NULL: none */
	size_t stab_len;
	bool block; /* shares its filters with other devices */
	uint64_t packets, bytes;
	uint32_t drops, overlimits, qlen, backlog;
};
typedef int (*tc_cb)(const struct tc_obj *o, void *arg); /* NULL: start over; negative: abort */

/*
 * Dumps RTM_GETQDISC, RTM_GETTCLASS or RTM_GETTFILTER. @ifindex 0: all devices (qdiscs only); @parent matters for filters. A
 * parent that does not exist is an empty dump.
 */
int tc_dump(struct nlc *nl, int type, int ifindex, uint32_t parent, tc_cb cb, void *arg, struct err *err);

/* A message with its tcmsg and TCA_KIND (@kind may be NULL); NULL without memory */
struct nl_msg *tc_msg(int type, int flags, int ifindex, uint32_t parent, uint32_t handle, uint32_t info,
	const char *kind);

/*
 * The options of an object as they are recorded: hex, without counters and ids. NULL: it has none. @actions (may be NULL): says
 * whether a filter has actions that cannot be replayed, which are left out. -ENOMEM
 */
int tc_options(const struct tc_obj *o, char **ret, bool *ret_actions);

/* The tree of a device. -EOPNOTSUPP, with the reason, when something in it can be seen to be beyond restoring. */
int qdisc_capture(struct nlc *nl, int ifindex, json_t **ret, struct err *err);

/* The root's entry; NULL: none, or its handle is 0: the kernel's default */
const json_t *qdisc_root(const json_t *tree);

bool qdisc_equal(const json_t *a, const json_t *b);

/*
 * @now is what an interrupted restore of @tree leaves behind: its root, and not yet all of what belongs below. (Options of classes
 * may differ then: an htb class without its children describes itself as a leaf.)
 */
bool qdisc_partial(const json_t *now, const json_t *tree);

/* "htb 1: with 3 classes, 2 qdiscs and 1 filter", "the kernel's default (fq_codel)": for texts; NULL without memory */
char *qdisc_describe(const json_t *tree);

/*
 * Puts @tree back. @ours: handle of the root that stands there now and is to go; the kernel refuses when another
 * one does (-EINVAL), so a foreign root is never deleted. 0: replace whatever is there. May run twice, and again after it
 * was interrupted: then the part that is there is taken down and built again.
 */
int qdisc_restore(struct nlc *nl, int ifindex, const json_t *tree, uint32_t ours, struct err *err);

/* A device with @n_tx transmit queues, down, in a fresh namespace that lives as long as *ret. */
int qdisc_scratch(unsigned int n_tx, struct nlc **ret, int *ret_ifindex, struct err *err);
/* The same, called "scratch", and a socket for NETLINK_NETFILTER in its namespace */
int qdisc_scratch_nf(unsigned int n_tx, struct nlc **ret, struct nlc **ret_nf, int *ret_ifindex, struct err *err);

/* Builds @tree on a scratch device: -EOPNOTSUPP when the kernel does not take it or does not give the same back. */
int qdisc_rehearse(const json_t *tree, unsigned int n_tx, struct err *err);

/* Puts the selector of a u32 filter that every packet matches (TCA_U32_SEL): one key, 0 under the mask 0. -ENOMEM */
int tc_put_match_all(struct nl_msg *m);

/* Transmit queues of a device */
int qdisc_tx_queues(struct nlc *nl, int ifindex, unsigned int *ret, struct err *err);

/* "1:", "1:10", "root": a handle as tc writes it; returns @buf */
#define TC_HANDLE_MAX 16
const char *tc_handle_fmt(char buf[TC_HANDLE_MAX], uint32_t handle);

/* Hex and back */
char *hex_encode(const void *data, size_t len);
int hex_decode(const char *text, void **ret, size_t *ret_len); /* -EINVAL, -ENOMEM; *ret is never NULL on success */
