/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * site.h: named nodes, links and services. A site is data: a Lua file in lab/sites/ (or beside the scenario)
 * returns a table, the script process turns it into JSON, and this turns the JSON into structs, checking everything.
 *
 *	{ "name": "lvs-dr", "summary": "...",
 *	  "switches": [ "lan" ],
 *	  "nodes": [ { "name": "rs1",
 *	               "links": [ { "dev": "eth0", "switch": "lan", "addrs": ["198.18.0.21/24", "2001:db8::21/64"] } ],
 *	               "lo": ["198.18.0.100/32", "2001:db8::100/128"],          addresses on lo
 *	               "sysctl": { "net.ipv4.conf.all.arp_ignore": "1" },        set before the addresses
 *	               "daemons": [ { "name": "nginx", "argv": [...], "files": {...}, "ready": {...} } ] } ],
 *	  "services": [ { "name": "web", "protocol": "tcp", "port": 8080, "vips": ["198.18.0.100", "2001:db8::100"],
 *	                  "scheduler": "wrr", "forward": "dr", "directors": [ "lvs1", "lvs2" ],
 *	                  "servers": [ { "node": "rs1", "weight": 3 }, ... ] } ],
 *
 *	  "databases": [ { "name": "cache", "kind": "redis", "port": 6379, "nodes": ["db1", "db2"],
 *	                   "sentinels": ["s1", "s2", "s3"], "sentinel_port": 26379 } ] }
 *
 * A service with one director may say "director": "lvs1". With several, one at a time holds the virtual addresses (VRRP); the
 * first is the one that does when all is well.
 *
 * Nodes, links and services are interpreted here; "lo", "sysctl" and "daemons" by the lab room.
 */
#pragma once

#include "engine/node.h"
#include "engine/param.h"

#define SERVICE_VIPS_MAX      4
#define SERVICE_DIRECTORS_MAX 4

struct service_server {
	struct node *node;
	unsigned int weight; /* as declared */
};

struct service {
	char *name;
	int protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	uint16_t port;
	size_t n_vips;
	char vips[SERVICE_VIPS_MAX][64];
	char scheduler[16];
	char forward[8]; /* "dr" "nat" "tun" */
	size_t n_directors;
	struct node *directors[SERVICE_DIRECTORS_MAX]; /* the first: who schedules when all is well */
	size_t n_servers;
	struct service_server *servers;
};

/* One primary and its replicas */
#define DATABASE_NODES_MAX 8
struct database {
	char *name; /* also what the sentinels call it */
	char kind[16]; /* "redis" */
	uint16_t port, sentinel_port;
	size_t n_nodes, n_sentinels;
	struct node *nodes[DATABASE_NODES_MAX]; /* the first: the primary when all is well */
	struct node *sentinels[DATABASE_NODES_MAX];
};

struct site {
	char *name;
	json_t *json; /* as it came */
	size_t n_nodes;
	struct node **nodes;
	size_t n_services;
	struct service *services;
	size_t n_databases;
	struct database *databases;
	const char **node_names;    /* NULL-terminated, for param_names */
	const char **service_names;
	const char **database_names;
	/* This machine, under the name SITE_HOST: for settings alone, which may be of the whole machine. Not among the nodes. */
	struct node *host;
	const char **setting_nodes; /* node_names and SITE_HOST */
};

#define SITE_HOST "host"


/* -EINVAL with a text that names the place: `site lvs-dr: node rs1: link eth0: switch "lam" does not exist (lan?)` */
int site_from_json(const json_t *j, struct site **ret, struct err *err);
void site_free(struct site *s);
static inline void site_freep(struct site **s)
{
	site_free(*s);
}
#define _cleanup_site_ _cleanup_(site_freep)

/* A node of the site, or its host */
struct node *site_node(const struct site *s, const char *name);
struct service *site_service(const struct site *s, const char *name);
bool service_has_director(const struct service *v, const struct node *n);
struct database *site_database(const struct site *s, const char *name);
/* The node's own address in @family, without the prefix; NULL when it has none */
const char *site_node_addr(const struct node *n, int family, char buf[64]);
/* The server's own address in the family of @vip, without the prefix; NULL when it has none */
const char *site_server_addr(const struct service_server *srv, int family, char buf[64]);
struct param_names site_names(const struct site *s);
/* The same for a setting's arguments: the host too */
struct param_names site_setting_names(const struct site *s);
