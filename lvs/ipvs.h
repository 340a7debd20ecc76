/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ipvs.h: the kernel's load balancer over generic netlink: virtual services, their real servers
 * ("destinations" in the kernel's words), the connection sync daemons, time-outs.
 *
 *	_cleanup_ipvs_ struct ipvs *ip = NULL;
 *	r = ipvs_open(director, &ip, err);               one socket, in the node's namespace
 *	r = ipvs_dests(ip, &service, &dests, &n, err);
 *	dests[0].weight = 0;
 *	r = ipvs_set_dest(ip, &service, &dests[0], err);
 *
 * What the kernel does that a user of this must know (Linux 6.1):
 *
 *   - Changing a destination rewrites all of it: a threshold or tunnel attribute that is not sent becomes
 *     0. Hence struct ipvs_dest is the full tuple, to be read, modified and written back; the same goes
 *     for a service.
 *   - Asking for the destinations of a service that does not exist is an empty success. ipvs_dests()
 *     tells the two apart.
 *   - A dump is not a snapshot: it restarts by index, so that a concurrent deletion may hide or repeat an
 *     entry.
 *   - Counters (stats) are copied every 2 s, and they outlive the deletion of a destination while a
 *     connection still refers to it; connection counts (active, inactive, persistent) are live. Use
 *     differences, 2.1 s apart.
 *   - The packets of the way back never pass a director in DR mode: outgoing counters stay 0.
 *   - There is no notification: who wants to see changes polls.
 *   - Everything, reading included, needs CAP_NET_ADMIN in the initial user namespace.
 *
 * One ipvs is for one thread at a time. Errors are the kernel's: -ESRCH the service is not there, -ENOENT
 * the destination (or, adding a service, its scheduler) is not there, -EEXIST it is there already.
 */
#pragma once

#include <netlink/msg.h>

#include "engine/nl_batch.h"
#include "engine/node.h"
#include "engine/str.h"

#define IPVS_NAME_MAX                                                                              \
	16 /* of a scheduler, a persistence engine, an interface; with the terminator */

/* Forwarding methods (IP_VS_CONN_F_FWD_MASK) */
enum ipvs_forward { IPVS_NAT = 0, IPVS_LOCAL = 1, IPVS_TUN = 2, IPVS_DR = 3, IPVS_BYPASS = 4 };
const char *ipvs_forward_name(uint32_t forward); /* "nat" "local" "tun" "dr" "bypass", "?" */
int ipvs_forward_parse(const char *name, uint32_t *ret); /* "nat" "tun" "dr"; -EINVAL */

struct ipvs_stats {
	uint64_t conns, in_packets, out_packets, in_bytes, out_bytes;
	uint64_t cps, in_pps, out_pps, in_bps,
		out_bps; /* per second, averaged by the kernel over about 8 s */
};

/* A virtual service. Its key is (family, fwmark) if fwmark is set, else (family, protocol, addr, port). */
struct ipvs_service {
	int family;	   /* AF_INET, AF_INET6 */
	uint32_t fwmark;   /* 0: none */
	uint16_t protocol; /* IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP */
	uint16_t port;	   /* host order; 0 only with persistence */
	uint8_t addr
		[16]; /* network order; an IPv4 address fills the first 4 bytes, the rest is 0 */
	/* not the key */
	char scheduler[IPVS_NAME_MAX]; /* "wrr"; "none" */
	char pe[IPVS_NAME_MAX];	       /* persistence engine; "": none */
	uint32_t flags;	  /* IP_VS_SVC_F_*; the kernel's own "hashed" bit is never set here */
	uint32_t timeout; /* of persistence, seconds */
	uint32_t netmask; /* of persistence: IPv4: a mask, network order; IPv6: a prefix length */
	struct ipvs_stats stats; /* read only */
};

/* A real server of a service. Its key is (family, addr, port). */
struct ipvs_dest {
	int family;
	uint8_t addr[16];
	uint16_t port; /* host order */
	/* not the key */
	uint32_t forward;
	uint32_t weight; /* 0: quiescent: no new connection, existing ones go on */
	uint32_t upper_threshold, lower_threshold;
	uint8_t tun_type;
	uint16_t tun_port; /* host order */
	uint16_t tun_flags;
	/* read only */
	uint32_t active, inactive, persistent;
	struct ipvs_stats stats;
};

/* A sync daemon */
struct ipvs_daemon {
	uint32_t state; /* IP_VS_STATE_MASTER or IP_VS_STATE_BACKUP */
	char ifname[IPVS_NAME_MAX];
	uint32_t sync_id;
	uint16_t sync_maxlen; /* 0: the kernel's choice */
	int mcast_family;     /* 0: the kernel's default group, 224.0.0.81 */
	uint8_t mcast_group[16];
	uint16_t mcast_port; /* host order; 0: 8848 */
	uint8_t mcast_ttl;   /* 0: 1 */
};

struct ipvs_config {
	uint32_t tcp_timeout, tcp_fin_timeout, udp_timeout; /* seconds */
};

struct ipvs_info {
	uint32_t version;	/* 0xMMmmpp: 0x010201 is 1.2.1 */
	uint32_t conn_tab_size; /* buckets of the connection table, which all namespaces share */
};

/* ── values and text ──────────────────────────────────────────────────────────────────────── */

/* Fills family and addr from text; -EINVAL */
int ipvs_addr_parse(const char *text, int *ret_family, uint8_t ret_addr[16]);
#define IPVS_TEXT_MAX 80
/* "198.18.0.100:8080", "[2001:db8::100]:8080", "fwmark 7" (IPv6: "fwmark 7 inet6"); return @buf */
const char *ipvs_fmt_service(char buf[IPVS_TEXT_MAX], const struct ipvs_service *s);
const char *ipvs_fmt_dest(char buf[IPVS_TEXT_MAX], const struct ipvs_dest *d);
const char *ipvs_fmt_addr(
	char buf[IPVS_TEXT_MAX], int family, const uint8_t addr[16]); /* no port, no brackets */
const char *ipvs_protocol_name(uint16_t protocol);		      /* "tcp" "udp" "sctp", "?" */

bool ipvs_service_same_key(const struct ipvs_service *a, const struct ipvs_service *b);
bool ipvs_dest_same_key(const struct ipvs_dest *a, const struct ipvs_dest *b);
/* All that can be configured, the key included; counters do not count. */
bool ipvs_service_equal(const struct ipvs_service *a, const struct ipvs_service *b);
bool ipvs_dest_equal(const struct ipvs_dest *a, const struct ipvs_dest *b);

/* What a service without persistence says: /32 or /128 */
void ipvs_service_default_netmask(struct ipvs_service *s);

/* The entry with @key's key, or NULL */
struct ipvs_dest *ipvs_dest_find(struct ipvs_dest *dests, size_t n, const struct ipvs_dest *key);

/* ── the kernel ───────────────────────────────────────────────────────────────────────────── */

struct ipvs;

/* -EOPNOTSUPP: this kernel has no IPVS; the hint says what to do. */
int ipvs_open(const struct node *n, struct ipvs **ret, struct err *err);
void ipvs_close(struct ipvs *ip);
static inline void ipvs_closep(struct ipvs **ip)
{
	ipvs_close(*ip);
}
#define _cleanup_ipvs_ _cleanup_(ipvs_closep)

/* All services, in the kernel's order; the caller frees the array. */
int ipvs_services(struct ipvs *ip, struct ipvs_service **ret, size_t *ret_n, struct err *err);
/* Reads the service with the key in @s into @s. -ESRCH */
int ipvs_get_service(struct ipvs *ip, struct ipvs_service *s, struct err *err);
int ipvs_add_service(struct ipvs *ip, const struct ipvs_service *s, struct err *err);
int ipvs_set_service(struct ipvs *ip, const struct ipvs_service *s, struct err *err);
/* Takes its destinations along. */
int ipvs_del_service(struct ipvs *ip, const struct ipvs_service *s, struct err *err);

/* The destinations of the service with @s's key, in the kernel's order; the caller frees the array. -ESRCH */
int ipvs_dests(struct ipvs *ip, const struct ipvs_service *s, struct ipvs_dest **ret, size_t *ret_n,
	struct err *err);
int ipvs_add_dest(
	struct ipvs *ip, const struct ipvs_service *s, const struct ipvs_dest *d, struct err *err);
int ipvs_set_dest(
	struct ipvs *ip, const struct ipvs_service *s, const struct ipvs_dest *d, struct err *err);
int ipvs_del_dest(
	struct ipvs *ip, const struct ipvs_service *s, const struct ipvs_dest *d, struct err *err);

/* At most one of each state. */
int ipvs_daemons(struct ipvs *ip, struct ipvs_daemon **ret, size_t *ret_n, struct err *err);
/* -EEXIST: one of that state runs; -ENODEV: no such interface */
int ipvs_start_daemon(struct ipvs *ip, const struct ipvs_daemon *d, struct err *err);
int ipvs_stop_daemon(struct ipvs *ip, const struct ipvs_daemon *d,
	struct err *err); /* state, ifname, sync_id count */

int ipvs_get_config(struct ipvs *ip, struct ipvs_config *ret, struct err *err);
int ipvs_set_config(struct ipvs *ip, const struct ipvs_config *c,
	struct err *err); /* 0 leaves a value as it is */
int ipvs_get_info(struct ipvs *ip, struct ipvs_info *ret, struct err *err);

/* Removes every service of the namespace. */
int ipvs_flush(struct ipvs *ip, struct err *err);
/*
 * Zeroes the counters of @s, or of all when NULL. What the last tick has not copied yet reappears: prefer
 * differences.
 */
int ipvs_zero(struct ipvs *ip, const struct ipvs_service *s, struct err *err);

/* ── many rows at once ────────────────────────────────────────────────────────────────────── */

/*
 * Requests are queued and sent in bulk (nl_batch.h says what that means for errors); @ip gives the family
 * alone.
 */
struct ipvs_batch;
int ipvs_batch_open(
	const struct node *n, struct ipvs *ip, struct ipvs_batch **ret, struct err *err);
void ipvs_batch_close(struct ipvs_batch *b);
static inline void ipvs_batch_closep(struct ipvs_batch **b)
{
	ipvs_batch_close(*b);
}
#define _cleanup_ipvs_batch_ _cleanup_(ipvs_batch_closep)

enum ipvs_verb { IPVS_ADD, IPVS_SET, IPVS_DEL };
int ipvs_batch_service(
	struct ipvs_batch *b, enum ipvs_verb v, const struct ipvs_service *s, struct err *err);
int ipvs_batch_dest(struct ipvs_batch *b, enum ipvs_verb v, const struct ipvs_service *s,
	const struct ipvs_dest *d, struct err *err);
int ipvs_batch_flush(struct ipvs_batch *b, struct err *err);

/* ── messages (for the tests: encoding and decoding without a kernel) ─────────────────────── */

/* Append the nested attribute. @full: with what is not the key, as NEW and SET want it. -EMSGSIZE */
int ipvs_put_service(struct nl_msg *m, const struct ipvs_service *s, bool full);
int ipvs_put_dest(struct nl_msg *m, const struct ipvs_dest *d, bool full);
int ipvs_put_daemon(struct nl_msg *m, const struct ipvs_daemon *d);
/* Decode a reply. 0, or -EBADMSG: an attribute is missing or too short; outputs untouched then. */
int ipvs_parse_service(struct nlmsghdr *h, struct ipvs_service *ret);
int ipvs_parse_dest(struct nlmsghdr *h, int service_family, struct ipvs_dest *ret);
int ipvs_parse_daemon(struct nlmsghdr *h, struct ipvs_daemon *ret);
