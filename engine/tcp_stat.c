/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/tcp_stat.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "engine/str.h"

struct list {
	uint16_t port;
	size_t n, start; /* where this dump began */
	struct listener *v;
};

static int on_socket(struct nlmsghdr *hdr, void *arg)
{
	struct list *l = arg;
	const struct inet_diag_msg *m;
	struct listener *more;

	if (!hdr) {
		l->n = l->start;
		return 0;
	}
	if (hdr->nlmsg_len < NLMSG_LENGTH(sizeof(*m)))
		return 0;
	m = NLMSG_DATA(hdr);
	if (m->idiag_state != TCP_LISTEN || (l->port && ntohs(m->id.idiag_sport) != l->port))
		return 0;
	more = reallocarray(l->v, l->n + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	l->v = more;
	more[l->n++] = (struct listener){.family = m->idiag_family,
		.port = ntohs(m->id.idiag_sport),
		.inode = m->idiag_inode,
		.queued = m->idiag_rqueue,
		.limit = m->idiag_wqueue};
	return 0;
}

int listeners_read_on(struct nlc *nl, uint16_t port, struct listener **ret, size_t *ret_n, struct err *err)
{
	static const uint8_t families[] = {AF_INET, AF_INET6};
	struct list l = {.port = port};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(families); i++) {
		struct inet_diag_req_v2 req = {
			.sdiag_family = families[i], .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1u << TCP_LISTEN};
		struct nl_msg *m = nlmsg_alloc_simple(SOCK_DIAG_BY_FAMILY, 0);

		l.start = l.n;
		if (!m || nlmsg_append(m, &req, sizeof(req), NLMSG_ALIGNTO) < 0) {
			nlmsg_free(m);
			r = -ENOMEM;
		} else {
			r = nlc_dump(nl, m, on_socket, &l, err);
		}
	}
	if (r < 0) {
		free(l.v);
		return r;
	}
	*ret = l.v;
	*ret_n = l.n;
	return 0;
}

int listeners_read(const struct node *n, uint16_t port, struct listener **ret, size_t *ret_n, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	int r = nlc_open(n, NETLINK_SOCK_DIAG, &nl, err);

	if (r == 0)
		r = listeners_read_on(nl, port, ret, ret_n, err);
	return r < 0 ? (err_prefix(err, "%s: listening sockets", n->name), r) : 0;
}

/* For each protocol a line of names stands above a line of values. */
int tcp_ext_counter(const struct node *n, const char *name, uint64_t *ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	char *names, *values, *np, *vp, *ns = NULL, *vs = NULL;
	/* thread-self: /proc/net is that of the process's first thread */
	int r = node_read(n, "/proc/thread-self/net/netstat", &text);

	if (r < 0)
		return err_set(err, r, "%s: /proc/net/netstat: %s", n->name, strerror(-r));
	names = strstr(text, "TcpExt: ");
	values = names ? strstr(names + 1, "TcpExt: ") : NULL;
	if (!values)
		return err_set(err, -EPROTO, "%s: /proc/net/netstat has no TcpExt", n->name);
	values[-1] = '\0';
	for (np = strtok_r(names, " \n", &ns), vp = strtok_r(values, " \n", &vs); np && vp;
		np = strtok_r(NULL, " \n", &ns), vp = strtok_r(NULL, " \n", &vs))
		if (streq(np, name)) {
			*ret = strtoull(vp, NULL, 10);
			return 0;
		}
	return err_set(err, -ENOENT, "%s: this kernel does not count %s", n->name, name);
}
