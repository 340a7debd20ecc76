/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * detour.h: a way round for some of the packets that a device sends, so that a qdisc of ours can work on them while the
 * device's own qdiscs are not touched.
 *
 * Why not a qdisc on the device itself: whoever replaces a root qdisc, and whoever adds clsact beside it, makes the kernel deactivate
 * the device first (sch_api.c: qdisc_graft calls dev_deactivate, on Linux 6.1 for clsact too). While that lasts, which is an RCU
 * grace period, every packet of every flow is dropped by the noop qdisc, and what was queued is thrown away. Parking prio, htb or mq
 * once would have the same cost twice, when it is put there and when it is taken away, and needs the prior tree captured and
 * rebuilt. A hook of netfilter's is inserted and removed without any of that: the list of hooks is swapped under RCU. So:
 *
 *	          ┌ nftables, egress hook of DEV: "ip daddr ... fwd to IN" (our own table)
 *	sender ── DEV ──────────────────────────────────────── DEV's own clsact and qdiscs ── wire
 *	           │                                            ▲
 *	           └─▶ IN (macvlan on OUT), root qdisc: ours    │
 *	                └─▶ OUT (bridge without ports), clsact egress: "mirred redirect" to DEV
 *
 * A packet that tc redirects skips the netfilter hook of where it comes to (linux/netfilter_netdev.h: nf_skip_egress), so it does
 * not go round again. Our hook is the last of the device's, so the hooks of others see each packet once, before us; DEV's tc
 * filters and qdiscs see it once, after us. Flows that no rule names pass the hook and are neither queued, copied, nor delayed.
 *
 * ifb, the usual detour, is not taken: it marks what it sends back (ifb.c: tc_skip_classify), so that the next tc hook is skipped, be it
 * at the other end of a veth, where another fault may stand; and its module makes two devices as it is loaded. A redirect by
 * DEV's own clsact, to whatever device, needs clsact there.
 *
 * IN and OUT have an MTU below 1280, which keeps IPv6 off them (addrconf.c), so they never say anything by themselves; frames on
 * the way are not checked against it. What OUT sends on is only what entered at DEV ("indev").
 *
 * What cannot be kept of a packet that goes round: its tie to the sending socket (act_mirred clones), its conntrack entry, and its
 * time stamp. What does not: mark, priority, VLAN tag, checksum offload, route.
 */
#pragma once

#include "engine/nl.h"
#include "engine/str.h"
#include "inject/qdisc.h"

/* Every packet of the device is compared with every net: so few that nobody feels it */
#define DETOUR_NETS_MAX 64
#define DETOUR_TOKEN_LEN 8

struct detour_net {
	int family;	  /* AF_INET, AF_INET6; AF_UNSPEC: every packet, whatever it is */
	uint8_t prefix;	  /* bits */
	uint8_t addr[16]; /* network order, no bit set beyond the prefix */
};

/* "198.18.0.1", "2001:db8::/64"; -EINVAL */
int detour_net_parse(const char *text, struct detour_net *ret);
/* with its prefix, if that is not the whole address; returns @buf */
#define DETOUR_NET_MAX 64
const char *detour_net_fmt(char buf[DETOUR_NET_MAX], const struct detour_net *n);
bool detour_net_overlap(const struct detour_net *a, const struct detour_net *b);
/* Is the address in it? */
bool detour_net_has(const struct detour_net *n, const char *addr);

struct detour {
	char token[DETOUR_TOKEN_LEN + 1]; /* hex; tells one detour from another, and is part of all its names */
	const char *dev;		  /* borrowed */
	int ifindex;			  /* of dev */
	size_t n;			  /* nets; 0: all packets */
	struct detour_net to[DETOUR_NETS_MAX];
};

/* Names: "mu1a2b3c4d-in", "mu1a2b3c4d-out", and the table "muster-1a2b3c4d" */
#define DETOUR_NAME_MAX 24
const char *detour_in(const struct detour *d, char buf[DETOUR_NAME_MAX]);
const char *detour_out(const struct detour *d, char buf[DETOUR_NAME_MAX]);
const char *detour_table(const struct detour *d, char buf[DETOUR_NAME_MAX]);

/* A fresh token */
int detour_token(char ret[DETOUR_TOKEN_LEN + 1], struct err *err);

/* A detour of somebody's that takes packets of @ifindex to @nets (none: any) already: -EEXIST, with a text; 0: none. */
int detour_taken(struct nlc *nf, int ifindex, const struct detour_net *nets, size_t n, struct err *err);

/*
 * Makes the devices and their filter. IN is down and without its qdisc: that is the caller's to put there, by
 * RTM_NEWQDISC on *ret_in, before detour_open() sends packets through it.
 */
int detour_make(struct nlc *rt, const struct detour *d, const char *alias, int *ret_in, struct err *err);
int detour_open(struct nlc *rt, struct nlc *nf, const struct detour *d, const char *comment, struct err *err);

struct detour_seen {
	bool table;   /* our table is there */
	bool foreign; /* ... and is not as it was made */
	bool rules;   /* ... and has its rules: they go with the device */
	bool in, out; /* the devices are there, and are ours by name and kind */
	int in_ifindex, out_ifindex;
	uint64_t packets, bytes; /* that took the detour */
};
int detour_read(struct nlc *rt, struct nlc *nf, const struct detour *d, struct detour_seen *ret, struct err *err);

/*
 * Takes the rules away: from its return on no packet enters, and none is on its way in. Then waits, until @patience is over at
 * the longest, for those that are still in IN's qdisc to leave by the way they would have left, and removes the devices. What is
 * still in there then is dropped. Copes with whatever part of it is there.
 */
int detour_close(struct nlc *rt, struct nlc *nf, const struct detour *d, const struct detour_seen *seen, nsec_t patience,
	struct err *err);

/* In plain words; @root: "netem delay 50ms", what follows "handle X:" */
void detour_command(const struct node *n, const struct detour *d, const char *alias, const char *root, struct strbuf *ret_apply,
	struct strbuf *ret_undo);
