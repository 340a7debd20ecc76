/* SPDX-License-Identifier: GPL-2.0-only */
#include "inject/echo.h"

#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netlink/attr.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "engine/clock.h"
#include "engine/nl.h"
#include "engine/str.h"

#define CANDIDATES_MAX 8

struct addr {
	int family;
	struct in_addr v4;
	struct in6_addr v6;
};

/* The same eight bytes begin ICMP's and ICMPv6's echo; the rest tells mine from everybody else's. */
struct packet {
	uint8_t type, code;
	uint16_t checksum, id, seq;
	uint64_t cookie;
	uint8_t filler[48];
} __attribute__((packed));

struct pinger {
	int family, fd, ifindex;
	uint16_t id;
	uint64_t cookie;
};

static int addr_parse(const char *s, struct addr *ret)
{
	char buf[ECHO_ADDR_MAX];
	struct addr a = {0};
	char *scope;

	if (strlen(s) >= sizeof(buf))
		return -EINVAL;
	strcpy(buf, s);
	scope = strchr(buf, '%'); /* which link is meant is known here */
	if (scope)
		*scope = '\0';
	if (inet_pton(AF_INET, buf, &a.v4) == 1)
		a.family = AF_INET;
	else if (inet_pton(AF_INET6, buf, &a.v6) == 1)
		a.family = AF_INET6;
	else
		return -EINVAL;
	*ret = a;
	return 0;
}

static void addr_format(const struct addr *a, char ret[ECHO_ADDR_MAX])
{
	inet_ntop(a->family, a->family == AF_INET ? (const void *)&a->v4 : (const void *)&a->v6, ret, ECHO_ADDR_MAX);
}

/* RFC 1071 */
static uint16_t checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)p[i] | (uint32_t)p[i + 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static int pinger_open(const struct node *n, const char *dev, int family, struct pinger *ret, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	struct pinger p = {.family = family};
	_cleanup_close_ int fd = -1;
	int zero = 0, r;

	r = node_enter(n, &v, err);
	if (r < 0)
		return r;
	p.ifindex = (int)if_nametoindex(dev);
	if (!p.ifindex)
		return err_set(err, -ENODEV, "%s/%s: no such device", n->name, dev);
	fd = socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, dev, (socklen_t)strlen(dev)) < 0)
		return err_set(err, -errno, "%s/%s: open a socket for echoes: %s", n->name, dev, strerror(errno));
	if (family == AF_INET) {
		uint32_t all_but_replies = ~(1u << ICMP_ECHOREPLY);

		(void)setsockopt(fd, SOL_RAW, 1 /* ICMP_FILTER */, &all_but_replies, sizeof(all_but_replies));
	} else {
		struct icmp6_filter f;

		ICMP6_FILTER_SETBLOCKALL(&f);
		ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &f);
		(void)setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &f, sizeof(f));
		/* the all-nodes address is for the others */
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, &zero, sizeof(zero));
	}
	if (getrandom(&p.id, sizeof(p.id), 0) < 0 || getrandom(&p.cookie, sizeof(p.cookie), 0) < 0)
		return err_set(err, -errno, "random numbers: %s", strerror(errno));
	p.fd = TAKE_FD(fd);
	*ret = p;
	return 0;
}

static int pinger_send(const struct pinger *p, const struct addr *to, uint16_t seq)
{
	struct packet k = {.type = p->family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST,
		.id = p->id,
		.seq = htons(seq),
		.cookie = p->cookie};
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = to->v4};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = to->v6};
	ssize_t n;

	if (IN6_IS_ADDR_LINKLOCAL(&to->v6) || IN6_IS_ADDR_MULTICAST(&to->v6))
		v6.sin6_scope_id = (uint32_t)p->ifindex;
	if (p->family == AF_INET)
		k.checksum = checksum(&k, sizeof(k)); /* the kernel fills in ICMPv6's */
	do {
		n = p->family == AF_INET ? sendto(p->fd, &k, sizeof(k), 0, (struct sockaddr *)&v4, sizeof(v4)) :
					   sendto(p->fd, &k, sizeof(k), 0, (struct sockaddr *)&v6, sizeof(v6));
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* One of my replies if there is one: its sequence number, or -EAGAIN */
static int pinger_receive(const struct pinger *p, struct addr *ret_from)
{
	for (;;) {
		uint8_t buf[2048];
		union {
			struct sockaddr_in v4;
			struct sockaddr_in6 v6;
		} from = {0};
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(p->fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &from_len);
		size_t skip = 0;
		struct packet k;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) /* an ICMP error that came back is no reply */
			return -EAGAIN;
		if (p->family == AF_INET) /* IPv4's raw sockets give the IP header too */
			skip = n > 0 ? (size_t)(buf[0] & 15) * 4 : 0;
		if ((size_t)n < skip + sizeof(k))
			continue;
		memcpy(&k, buf + skip, sizeof(k));
		if (k.type != (p->family == AF_INET ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY) || k.id != p->id ||
			k.cookie != p->cookie)
			continue;
		ret_from->family = p->family;
		ret_from->v4 = from.v4.sin_addr;
		if (p->family == AF_INET6)
			ret_from->v6 = from.v6.sin6_addr;
		return ntohs(k.seq);
	}
}

static int by_time(const void *a, const void *b)
{
	nsec_t x = *(const nsec_t *)a, y = *(const nsec_t *)b;

	return x < y ? -1 : x > y;
}

int echo_run(const struct node *n, const char *dev, const char *peer, unsigned int count, nsec_t interval, nsec_t wait,
	struct echo_result *ret, struct err *err)
{
	nsec_t sent_at[ECHO_MAX] = {0}, rtt[ECHO_MAX], start, next, deadline;
	bool seen[ECHO_MAX] = {false};
	struct echo_result res = {0};
	struct pinger p;
	struct addr to;
	int r = addr_parse(peer, &to);

	if (r < 0)
		return err_set(err, r, "%s is no address", peer);
	count = MIN(count, (unsigned int)ECHO_MAX);
	r = pinger_open(n, dev, to.family, &p, err);
	if (r < 0)
		return r;
	snprintf(res.peer, sizeof(res.peer), "%s", peer);
	start = next = now_ns();
	deadline = start + (nsec_t)count * interval + wait;
	for (;;) {
		struct pollfd fd = {.fd = p.fd, .events = POLLIN};
		nsec_t t = now_ns(), until;
		struct addr from;
		int seq;

		while (res.sent < count && t >= next) {
			sent_at[res.sent] = now_ns();
			r = pinger_send(&p, &to, (uint16_t)res.sent);
			if (r < 0 && res.sent == 0) {
				close(p.fd);
				return err_set(err, r, "%s/%s: send an echo to %s: %s", n->name, dev, peer, strerror(-r));
			}
			/* a later one that does not get out is an echo lost: the fault's doing or not, it did not arrive */
			res.sent++;
			next = start + (nsec_t)res.sent * interval;
			t = now_ns();
		}
		while ((seq = pinger_receive(&p, &from)) >= 0) {
			if ((unsigned int)seq >= res.sent)
				continue;
			if (seen[seq]) {
				res.duplicates++;
				continue;
			}
			seen[seq] = true;
			rtt[res.received++] = now_ns() - sent_at[seq];
		}
		t = now_ns();
		if ((res.sent == count && res.received == count) || t >= deadline)
			break;
		until = res.sent < count ? MIN(next, deadline) : deadline;
		/* rounded up: an early wake would only spin */
		(void)poll(&fd, 1, until <= t ? 0 : (int)((until - t) / NSEC_PER_MSEC) + 1);
	}
	close(p.fd);
	if (res.received) {
		qsort(rtt, res.received, sizeof(rtt[0]), by_time);
		res.rtt_min = rtt[0];
		res.rtt_median = rtt[(res.received - 1) / 2];
		res.rtt_p90 = rtt[(res.received * 9 - 1) / 10];
		res.rtt_max = rtt[res.received - 1];
	}
	*ret = res;
	return 0;
}

/* ── who is there? ─────────────────────────────────────────────────────────────────────────── */

struct neighbours {
	int ifindex;
	size_t n;
	struct addr a[CANDIDATES_MAX];
};

static int neigh_cb(struct nlmsghdr *hdr, void *arg)
{
	/* a neighbour in one of these states has been heard of */
	const int known = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT;
	struct neighbours *l = arg;
	struct nlattr *dst;
	struct ndmsg *nd;
	struct addr a = {0};

	if (!hdr) {
		l->n = 0;
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWNEIGH || hdr->nlmsg_len < NLMSG_LENGTH(sizeof(*nd)))
		return 0;
	nd = NLMSG_DATA(hdr);
	dst = nlmsg_find_attr(hdr, sizeof(*nd), NDA_DST);
	if (nd->ndm_ifindex != l->ifindex || !(nd->ndm_state & known) || !dst)
		return 0;
	a.family = nd->ndm_family;
	if (a.family == AF_INET && nla_len(dst) == sizeof(a.v4))
		memcpy(&a.v4, nla_data(dst), sizeof(a.v4));
	else if (a.family == AF_INET6 && nla_len(dst) == sizeof(a.v6))
		memcpy(&a.v6, nla_data(dst), sizeof(a.v6));
	else
		return 0;
	if (a.family == AF_INET6 && IN6_IS_ADDR_MULTICAST(&a.v6))
		return 0;
	/* those heard of lately first */
	if (l->n == CANDIDATES_MAX) {
		if (nd->ndm_state & NUD_REACHABLE)
			l->a[CANDIDATES_MAX - 1] = a;
		return 0;
	}
	if (nd->ndm_state & NUD_REACHABLE) {
		memmove(&l->a[1], &l->a[0], l->n * sizeof(l->a[0]));
		l->a[0] = a;
	} else {
		l->a[l->n] = a;
	}
	l->n++;
	return 0;
}

static int neighbours_read(const struct node *n, const char *dev, struct neighbours *ret, struct err *err)
{
	struct ndmsg nd = {.ndm_family = AF_UNSPEC};
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct nl_msg *m;
	int r = nlc_open(n, NETLINK_ROUTE, &nl, err);

	if (r < 0)
		return r;
	ret->ifindex = nlc_ifindex(nl, dev, err);
	if (ret->ifindex < 0)
		return ret->ifindex;
	m = nlmsg_alloc_simple(RTM_GETNEIGH, 0);
	if (!m || nlmsg_append(m, &nd, sizeof(nd), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	return nlc_dump(nl, m, neigh_cb, ret, err);
}

/* Asks all at once; the first to answer is taken. */
static int first_to_answer(const struct node *n, const char *dev, const struct addr *a, size_t n_addrs,
	struct addr *ret, struct err *err)
{
	struct pinger p[2] = {{.fd = -1}, {.fd = -1}};
	nsec_t deadline = now_ns() + ECHO_FIND_WAIT;
	int r = 0, found = -ENODATA;

	for (size_t i = 0; i < n_addrs; i++) {
		struct pinger *k = &p[a[i].family == AF_INET6];

		if (k->fd < 0) {
			r = pinger_open(n, dev, a[i].family, k, err);
			if (r < 0) {
				k->fd = -1;
				continue;
			}
		}
		(void)pinger_send(k, &a[i], (uint16_t)i);
	}
	while (found < 0 && (p[0].fd >= 0 || p[1].fd >= 0)) {
		struct pollfd fds[2] = {{.fd = p[0].fd, .events = POLLIN}, {.fd = p[1].fd, .events = POLLIN}};
		nsec_t t = now_ns();

		if (t >= deadline)
			break;
		(void)poll(fds, 2, (int)((deadline - t) / NSEC_PER_MSEC) + 1);
		for (size_t i = 0; i < 2 && found < 0; i++)
			if (p[i].fd >= 0 && pinger_receive(&p[i], ret) >= 0)
				found = 0;
	}
	for (size_t i = 0; i < 2; i++)
		if (p[i].fd >= 0)
			close(p[i].fd);
	return found == 0 ? 0 : r < 0 ? r : -ENODATA;
}

int echo_neighbours(const struct node *n, const char *dev, char (*ret)[ECHO_ADDR_MAX], size_t max, size_t *ret_n,
	struct err *err)
{
	struct neighbours l = {0};
	int r = neighbours_read(n, dev, &l, err);

	if (r < 0)
		return r;
	*ret_n = MIN(l.n, max);
	for (size_t i = 0; i < *ret_n; i++)
		addr_format(&l.a[i], ret[i]);
	return 0;
}

int echo_first(const struct node *n, const char *dev, char (*addrs)[ECHO_ADDR_MAX], size_t n_addrs, char ret[ECHO_ADDR_MAX],
	struct err *err)
{
	struct addr a[CANDIDATES_MAX], found;
	size_t k = 0;
	int r;

	for (size_t i = 0; i < n_addrs && k < ARRAY_SIZE(a); i++) {
		r = addr_parse(addrs[i], &a[k]);
		if (r < 0)
			return err_set(err, r, "%s is no address", addrs[i]);
		k++;
	}
	r = first_to_answer(n, dev, a, k, &found, err);
	if (r == -ENODATA)
		return err_set(err, r, "%s/%s: nobody answers to an echo", n->name, dev);
	if (r < 0)
		return r;
	addr_format(&found, ret);
	return 0;
}

int echo_find_peer(const struct node *n, const char *dev, const char *wanted, bool ask_all, char ret[ECHO_ADDR_MAX],
	struct err *err)
{
	struct neighbours l = {0};
	struct addr found;
	int r;

	if (wanted) {
		l.n = 1;
		r = addr_parse(wanted, &l.a[0]);
		if (r < 0)
			return err_set(err, r, "%s is no address", wanted);
		ask_all = false;
	} else {
		r = neighbours_read(n, dev, &l, err);
		if (r < 0)
			return r;
	}
	r = first_to_answer(n, dev, l.a, l.n, &found, err);
	if (r == -ENODATA && ask_all) {
		(void)addr_parse("ff02::1", &l.a[0]);
		r = first_to_answer(n, dev, l.a, 1, &found, err);
	}
	if (r == -ENODATA)
		return err_set(err, r, "%s/%s: %s%s to an echo", n->name, dev,
			wanted ? wanted : "no neighbour on the link", wanted ? " does not answer" : " answers");
	if (r < 0)
		return r;
	addr_format(&found, ret);
	return 0;
}
