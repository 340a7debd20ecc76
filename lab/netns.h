/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * netns.h: named network namespaces as iproute2 keeps them, so that `ip netns exec` works on them,
 * and the devices in them. All in-process: namespaces by unshare(2) and bind mounts, devices by
 * rtnetlink.
 *
 * /run/netns has to be a shared mount of its own: only then does removing a name reach the copies
 * that other mount namespaces hold of it (each `ip netns exec` makes one), and only then does the
 * namespace die with its name.
 */
#pragma once

#include "engine/nl.h"
#include "lab/spec.h"

/* What /run/netns is */
enum netns_dir { NETNS_DIR_ABSENT, NETNS_DIR_PLAIN, NETNS_DIR_MOUNT };
extern const char *const netns_dir_names[]; /* "absent" "plain" "mount", NULL */

int netns_dir_state(enum netns_dir *ret, struct err *err);
/* Makes it a shared mount if it is not yet one. */
int netns_dir_make(struct err *err);
/* Takes it back to @prior, if nothing is left in it: -ENOTEMPTY otherwise, and nothing was changed. */
int netns_dir_restore(enum netns_dir prior, struct err *err);

/*
 * A new namespace called @path; the calling thread is in it until node_leave(). -EEXIST when the
 * name is taken. Cut short, it leaves at most a name that stands for nothing.
 */
int netns_add(const char *path, struct node_visit *ret, struct err *err);
/* Removes the name, whatever it stands for. Success when it is not there. */
int netns_del(const char *path, struct err *err);
/* The namespace's inode. -ENOENT: no such name; -ENODATA: a name that stands for no namespace. */
int netns_ino(const char *path, uint64_t *ret);

/*
 * Kills every process in one of the namespaces, waits until it is dead, and looks again until a
 * look finds none: a process may have forked meanwhile. Never the caller itself. -EBUSY when one of
 * them is the caller's or init's own namespace; -ETIMEDOUT after 10 s, naming a process that is
 * still there.
 */
int netns_kill(const uint64_t *ino, size_t n, struct err *err);
/* How many processes there are in them, the caller not counted */
int netns_count(const uint64_t *ino, size_t n, size_t *ret, struct err *err);

/*
 * A bridge that forwards from the first frame: no spanning tree, no forward delay, no multicast
 * snooping. Up.
 */
int netns_bridge(struct nlc *nl, const char *dev, int index, struct err *err);

/*
 * A veth pair, both ends born where they belong: @port, up, a port of bridge number @bridge, in the
 * namespace of @nl; @dev in the one of @peer_fd, still down: an end cannot come up before the other
 * exists. The two indexes have to differ: with equal ones the kernel takes the device for its own
 * lower device, its carrier is no urgent event then, and is up to a second late.
 */
int netns_veth(struct nlc *nl, const char *port, int index, int bridge, int peer_fd,
	const char *dev, int peer_index, struct err *err);

/* @alias: what it is called for people (`ip link` shows it); NULL: nothing. It cannot be given at birth. */
int netns_up(struct nlc *nl, int index, const char *alias, struct err *err);
/*
 * 1: the device passes packets, 0: not yet. Carrier comes to the one end when the other is set up,
 * but the queue of that end is switched on by the kernel's link watch, later, on its own time;
 * until then it drops everything, and a SYN that is dropped costs a second. IFLA_OPERSTATE is set
 * in the same breath as the queue.
 */
int netns_is_up(struct nlc *nl, int index, struct err *err);
/*
 * An IPv6 address of prefix 128 is a service's: it comes deprecated, so that it is never chosen as
 * a source address. It would be, before the link's own: of two addresses the kernel takes the one
 * that matches the destination in more bits, and counts no more of them than the prefix is long. A
 * director that checks real servers from the virtual address gets no answer: it is theirs, too.
 */
int netns_addr(struct nlc *nl, int index, const struct lab_addr *a, struct err *err);
/*
 * How many addresses of the namespace are tentative still. Even without duplicate address detection
 * a new IPv6 address is for a moment: it is a worker of the kernel's that joins its solicited-node
 * group and then takes the flag away, and until then its neighbours ask for it in vain, and again a
 * second later. With IFA_F_NODAD it would never be tentative, and this moment invisible.
 */
int netns_tentative(struct nlc *nl, size_t *ret, struct err *err);
/* @index 0: by the gateway */
int netns_route(struct nlc *nl, const struct lab_route *t, int index, struct err *err);
