/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * spec.h: a site as the lab room reads it: what site.h leaves to it ("lo", "sysctl", "routes",
 * "daemons"), checked and turned into structs, with every path written out. Pure: nothing of the
 * host is read or made.
 *
 *	"lo": [ "198.18.0.100/32" ]                                addresses on lo
 *	"sysctl": { "net.ipv4.conf.all.arp_ignore": "1" }          net.* only: no other is the node's own
 *	"routes": [ { "to": "default", "via": "198.18.0.1", "dev": "eth0" } ]
 *	"daemons": [ { "name": "nginx", "argv": ["nginx", ...],
 *	    "package": "nginx-light",             what apt is to install when argv[0] is not there
 *	    "files": { "nginx.conf": "..." },     written to the daemon's folder first
 *	    "order": 0,                           the next order starts when this one is ready
 *	    "within": "20s",                      until it has to be ready
 *	    "ready": { "listen": 8080 }, { "ipvs": { "destinations": 6 } } or { "address": "198.18.0.100" } } ]
 *
 * argv and the contents of files may hold %{dir} (the daemon's folder), %{node} and %{site}.
 */
#pragma once

#include "engine/site.h"

#define LAB_NETNS_DIR	   "/run/netns"
#define LAB_DAEMONS_MAX	   16 /* of one node */
#define LAB_SYSCTLS_MAX	   256
#define LAB_WITHIN_DEFAULT "20s"

struct lab_addr {
	int family; /* AF_INET, AF_INET6 */
	unsigned int prefix;
	unsigned char addr[16];
};

struct lab_sysctl {
	char *key;  /* as written */
	char *path; /* below /proc/sys */
	char *value;
	const char *
		dev; /* the node's link that it speaks of, and that it needs; NULL: none */
};

struct lab_route {
	struct lab_addr to; /* prefix 0: default */
	bool has_via;
	struct lab_addr via;
	const char *dev; /* NULL: the kernel finds it by the gateway */
};

struct lab_file {
	char *name; /* relative to the daemon's folder */
	char *content;
};

enum lab_ready { LAB_READY_STARTED, LAB_READY_LISTEN, LAB_READY_IPVS, LAB_READY_ADDRESS };

struct lab_daemon {
	const struct lab_ns *ns;
	char *name;
	char *package; /* may be NULL */
	char *dir;     /* LAB_ROOT/SITE/NODE/NAME */
	char **argv;   /* NULL-terminated */
	size_t n_files;
	struct lab_file *files;
	int order;
	nsec_t within;
	enum lab_ready ready;
	uint16_t listen_port;	   /* LISTEN: in every family that the node has an address of */
	struct lab_addr address;   /* ADDRESS: one that the daemon gives to a link of the node */
	unsigned int destinations; /* IPVS: with a weight above 0, over all services */
};

/* One namespace: a node's, or a switch's. */
struct lab_ns {
	const char *label;	 /* the node's or the switch's name */
	char *name;		 /* "muster-SITE-LABEL" */
	char *path;		 /* LAB_NETNS_DIR/NAME */
	const struct node *node; /* NULL: a switch */
	bool ipv4, ipv6;	 /* the node has such an address on a link */
	size_t n_lo, n_sysctls, n_routes;
	struct lab_addr *lo;
	struct lab_sysctl *sysctls;
	struct lab_route *routes;
};

struct lab_spec {
	struct site *site; /* bound by lab_bind() */
	char *dir;	   /* LAB_ROOT/SITE */
	size_t n_ns;
	struct lab_ns *ns; /* switches first */
	size_t n_daemons;
	struct lab_daemon *daemons; /* in the order of starting */
};

/* -EINVAL with a text that names the place. */
int lab_spec_new(const json_t *site, struct lab_spec **ret, struct err *err);
void lab_spec_free(struct lab_spec *s);
static inline void lab_spec_freep(struct lab_spec **s)
{
	lab_spec_free(*s);
}
#define _cleanup_lab_spec_ _cleanup_(lab_spec_freep)

/* "198.18.0.10/24", without a prefix the whole address; -EINVAL */
int lab_addr_parse(const char *s, struct lab_addr *ret);

/* The switch that link number @i of @node is plugged into */
const char *lab_link_switch(const struct site *s, const struct node *node, size_t i);

/* Where labs keep their files, "/run/muster/lab"; tests point it elsewhere. */
extern const char *lab_root;
