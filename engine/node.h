/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * node.h: a place where changes are made: this host, or a network namespace.
 *
 * A node is known by name. Its identity (namespace path, inode, cookie) is recorded with every change, so
 * that an undo played by another process, later, knows whether the namespace under the path is still the
 * one that was changed.
 *
 * Entering a namespace moves the calling thread only. Never stay: sockets stay in the namespace they were
 * made in, so the usual way is node_socket(), or nlc_open() in nl.h. The main thread of a process must be
 * back in its own namespace whenever it is not inside one of these calls.
 */
#pragma once

#include "engine/err.h"

#define NODE_LINKS_MAX 8
#define NODE_ADDRS_MAX 8

struct node_link {
	char dev[16];	      /* name inside the node */
	char *peer_netns;     /* where the other end of the veth is (the switch's namespace); NULL: unknown */
	char peer_dev[16];    /* its name there */
	size_t n_addrs;
	char addrs[NODE_ADDRS_MAX][64]; /* "198.18.0.10/24" */
};

struct node_kept;

struct node {
	char *name;
	char *netns;	     /* path of the namespace file; NULL: this process's own (the host) */
	int netns_fd;	     /* -1 until node_open() */
	uint64_t netns_ino;  /* 0 until node_open() */
	uint64_t netns_cookie; /* SO_NETNS_COOKIE; 0 when the kernel gives none */
	struct node_kept *kept; /* whose netns_fd it is, see node_keep(); NULL: its own */
	size_t n_links;
	struct node_link links[NODE_LINKS_MAX];
};

struct node *node_new(const char *name, const char *netns);
void node_free(struct node *n);
static inline void node_freep(struct node **n)
{
	node_free(*n);
}
#define _cleanup_node_ _cleanup_(node_freep)

/* Opens the namespace and reads its identity. -ENOENT when the path is not there. Idempotent. */
int node_open(struct node *n, struct err *err);

/* The link called @dev, or the first one when @dev is NULL; NULL when there is none. */
const struct node_link *node_link(const struct node *n, const char *dev);

/*
 * The node as it goes into a journal record, and back. Back opens the namespace and compares:
 * -ESTALE when the path is gone or names another namespace (the node died: nothing is left to undo there). One that has only lost its
 * name, and has a process in it still, is found by that.
 */
json_t *node_to_json(const struct node *n);
int node_from_json(const json_t *j, struct node **ret, struct err *err);
/* The same without a look at the host, and without a right to: for telling what a record says. */
int node_describe(const json_t *j, struct node **ret, struct err *err);

/*
 * For a process that will undo what others do: the guard. Opens the namespace of each node record that is found
 * anywhere in @j, and netlink sockets in it, and keeps them: node_from_json() takes a kept namespace, whatever its
 * path names by then, if inode and cookie are those of the record; node_socket() takes a kept socket. So an undo
 * begins without a name, a descriptor or a socket of its own. Keeping a namespace keeps it alive: node_keep_none()
 * lets go of all, when no node made from them is left. One thread.
 */
int node_keep(const json_t *j, struct err *err);
void node_keep_none(void);

/*
 * Moves this thread into the node's namespace; node_leave() takes it back. Use as
 *	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
 *	r = node_enter(node, &v, err);
 */
struct node_visit {
	int fd; /* the namespace to go back to */
};
int node_enter(const struct node *n, struct node_visit *ret, struct err *err);
void node_leave(struct node_visit *v);

/* The same for a namespace given by path (the switch's, say). */
int netns_enter(const char *path, struct node_visit *ret, struct err *err);

/* socket(2) inside the node. Returns the descriptor or -errno. */
int node_socket(const struct node *n, int domain, int type, int protocol);

/*
 * Reads and writes one-line control files ("/proc/sys/net/..." follows the namespace of the opener).
 * The trailing newline is removed on reading. Writing is one write(2): the kernel's -EINVAL comes back.
 */
int node_read(const struct node *n, const char *path, char **ret);
int node_write(const struct node *n, const char *path, const char *text);

/*
 * The processes whose network namespace is this node's (by inode), never this process itself. For the
 * host node: -EOPNOTSUPP, because "all processes of the host" is never what was meant.
 */
int node_pids(const struct node *n, pid_t **ret, size_t *ret_n, struct err *err);
/* Field 22 of /proc/PID/stat: with the pid, a process's identity. -ESRCH when it is gone. */
int pid_start_time(pid_t pid, uint64_t *ret);
