/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One request at a time on a socket, so a reply belongs to the request whose sequence number it carries; anything
 * else (a late reply of a request that timed out) is dropped.
 */
#include "engine/nl.h"

#include <arpa/inet.h>
#include <linux/genetlink.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/attr.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/clock.h"
#include "engine/str.h"

#define NLC_TIMEOUT	(5 * NSEC_PER_SEC)
#define NLC_BUFFER	(128 * 1024)
#define NLC_DUMP_RETRIES 16

struct nlc {
	int fd;
	int protocol;
	uint32_t seq;
	char *buf; /* NLC_BUFFER bytes: the kernel sizes its dump messages by it */
};

void nlc_close(struct nlc *nl)
{
	if (!nl)
		return;
	if (nl->fd >= 0)
		close(nl->fd);
	free(nl->buf);
	free(nl);
}

static int nlc_new(int fd, int protocol, const char *where, struct nlc **ret, struct err *err)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK};
	int one = 1, size = 1 << 20;
	_cleanup_nlc_ struct nlc *nl = calloc(1, sizeof(*nl));

	if (!nl) {
		close(fd);
		return -ENOMEM;
	}
	nl->fd = fd;
	nl->protocol = protocol;
	nl->seq = (uint32_t)now_ns();
	nl->buf = malloc(NLC_BUFFER);
	if (!nl->buf)
		return -ENOMEM;
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_set(err, -errno, "%s: bind a netlink socket: %s", where, strerror(errno));
	/* Both are improvements, not needs: an old kernel without them still answers. */
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	*ret = TAKE_PTR(nl);
	return 0;
}

int nlc_open(const struct node *n, int protocol, struct nlc **ret, struct err *err)
{
	int fd = node_socket(n, AF_NETLINK, SOCK_RAW, protocol);

	if (fd < 0)
		return err_set(err, fd, "%s: open a netlink socket: %s", n->name, strerror(-fd));
	return nlc_new(fd, protocol, n->name, ret, err);
}

int nlc_open_netns(const char *path, int protocol, struct nlc **ret, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	int r = netns_enter(path, &v, err), fd;

	if (r < 0)
		return r;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	if (fd < 0)
		return err_set(err, -errno, "%s: open a netlink socket: %s", path ? path : "host", strerror(errno));
	return nlc_new(fd, protocol, path ? path : "host", ret, err);
}

static int nlc_send(struct nlc *nl, struct nl_msg *msg, int flags, struct err *err)
{
	struct nlmsghdr *hdr = nlmsg_hdr(msg);
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	ssize_t n;

	hdr->nlmsg_flags |= NLM_F_REQUEST | (uint16_t)flags;
	hdr->nlmsg_seq = ++nl->seq;
	hdr->nlmsg_pid = 0;
	do {
		n = sendto(nl->fd, hdr, hdr->nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_set(err, -errno, "send to the kernel: %s", strerror(errno));
	return 0;
}

/* Receives one datagram into nl->buf. */
static int nlc_recv(struct nlc *nl, nsec_t deadline, size_t *ret_len, struct err *err)
{
	for (;;) {
		struct sockaddr_nl from;
		struct iovec iov = {.iov_base = nl->buf, .iov_len = NLC_BUFFER};
		struct msghdr m = {
			.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;
		int r = clock_poll(nl->fd, POLLIN, deadline);

		if (r == -ETIMEDOUT)
			return err_set(err, r, "the kernel did not answer within 5 s");
		if (r < 0)
			return err_set(err, r, "wait for the kernel's answer: %s", strerror(-r));
		n = recvmsg(nl->fd, &m, 0);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return err_set(err, -errno, "receive the kernel's answer: %s", strerror(errno));
		if (m.msg_flags & MSG_TRUNC)
			return err_set(err, -EMSGSIZE, "the kernel's answer is larger than %d bytes", NLC_BUFFER);
		if (m.msg_namelen != sizeof(from) || from.nl_pid != 0)
			continue; /* not from the kernel */
		*ret_len = (size_t)n;
		return 0;
	}
}

/* The text of an extended ack, or NULL; points into the message. */
static const char *ext_ack_text(const struct nlmsghdr *hdr, const struct nlmsgerr *e)
{
	size_t skip = sizeof(*e);
	const struct nlattr *a;

	if (!(hdr->nlmsg_flags & NLM_F_ACK_TLVS))
		return NULL;
	if (!(hdr->nlmsg_flags & NLM_F_CAPPED)) {
		if (e->msg.nlmsg_len < sizeof(e->msg))
			return NULL;
		skip += NLMSG_ALIGN(e->msg.nlmsg_len) - sizeof(e->msg);
	}
	if (NLMSG_PAYLOAD(hdr, 0) <= skip || hdr->nlmsg_len < NLMSG_HDRLEN + skip)
		return NULL;
	a = nla_find((const struct nlattr *)((const char *)NLMSG_DATA(hdr) + skip),
		(int)(hdr->nlmsg_len - NLMSG_HDRLEN - skip), NLMSGERR_ATTR_MSG);
	if (!a || nla_len(a) < 2 || ((const char *)nla_data(a))[nla_len(a) - 1] != '\0')
		return NULL;
	return nla_data(a);
}

static int answer(const struct nlmsghdr *hdr, struct err *err)
{
	const struct nlmsgerr *e = NLMSG_DATA(hdr);
	const char *text;

	if (hdr->nlmsg_len < NLMSG_HDRLEN + sizeof(*e))
		return err_set(err, -EPROTO, "the kernel's answer is too short");
	if (e->error == 0)
		return 0;
	text = ext_ack_text(hdr, e);
	if (text)
		return err_set(err, e->error, "%s (%s)", text, strerror(-e->error));
	return err_set(err, e->error, "%s", strerror(-e->error));
}

/*
 * Reads until the ack, the end of the dump or an error. *ret_interrupted: the dump is not a consistent picture.
 */
static int nlc_collect(struct nlc *nl, bool dump, nlc_cb cb, void *arg, bool *ret_interrupted, struct err *err)
{
	nsec_t deadline = now_ns() + NLC_TIMEOUT;
	bool interrupted = false;
	int aborted = 0;

	for (;;) {
		struct nlmsghdr *hdr;
		size_t len;
		int r = nlc_recv(nl, deadline, &len, err);

		if (r < 0)
			return r;
		for (hdr = (struct nlmsghdr *)nl->buf; NLMSG_OK(hdr, len); hdr = NLMSG_NEXT(hdr, len)) {
			if (hdr->nlmsg_seq != nl->seq)
				continue;
			if (hdr->nlmsg_flags & NLM_F_DUMP_INTR)
				interrupted = true;
			if (hdr->nlmsg_type == NLMSG_ERROR || hdr->nlmsg_type == NLMSG_DONE) {
				if (ret_interrupted)
					*ret_interrupted = interrupted;
				if (hdr->nlmsg_type == NLMSG_ERROR)
					r = answer(hdr, err);
				else if (hdr->nlmsg_len >= NLMSG_HDRLEN + sizeof(int) && *(int *)NLMSG_DATA(hdr) < 0)
					/* a dump that failed half-way says so in its DONE */
					r = err_set(err, *(int *)NLMSG_DATA(hdr), "%s",
						strerror(-*(int *)NLMSG_DATA(hdr)));
				return r < 0 ? r : aborted;
			}
			if (hdr->nlmsg_type == NLMSG_NOOP || !cb || aborted)
				continue;
			/* keep reading after the callback gave up: the socket stays usable */
			r = cb(hdr, arg);
			if (r < 0)
				aborted = r;
		}
		if (dump)
			deadline = now_ns() + NLC_TIMEOUT; /* it is moving */
	}
}

int nlc_request(struct nlc *nl, struct nl_msg *msg, struct err *err)
{
	int r = msg ? nlc_send(nl, msg, NLM_F_ACK, err) : -ENOMEM;

	nlmsg_free(msg);
	return r < 0 ? r : nlc_collect(nl, false, NULL, NULL, NULL, err);
}

int nlc_get(struct nlc *nl, struct nl_msg *msg, nlc_cb cb, void *arg, struct err *err)
{
	int r = msg ? nlc_send(nl, msg, NLM_F_ACK, err) : -ENOMEM;

	nlmsg_free(msg);
	return r < 0 ? r : nlc_collect(nl, false, cb, arg, NULL, err);
}

int nlc_dump(struct nlc *nl, struct nl_msg *msg, nlc_cb cb, void *arg, struct err *err)
{
	bool interrupted = true;
	int r = msg ? 0 : -ENOMEM;

	for (int i = 0; r == 0 && interrupted && i < NLC_DUMP_RETRIES; i++) {
		if (i > 0)
			r = cb(NULL, arg);
		if (r == 0)
			r = nlc_send(nl, msg, NLM_F_DUMP, err);
		if (r == 0)
			r = nlc_collect(nl, true, cb, arg, &interrupted, err);
	}
	nlmsg_free(msg);
	if (r == 0 && interrupted)
		return err_set(err, -EAGAIN, "the kernel's table kept changing while it was read");
	return r;
}

/* One message into the datagram, with the next sequence number */
static int pack(struct nlc *nl, struct nl_msg *msg, int flags, char *out, size_t size, size_t *used)
{
	struct nlmsghdr *hdr = nlmsg_hdr(msg), *copy = (struct nlmsghdr *)(out + *used);
	size_t room = NLMSG_ALIGN(hdr->nlmsg_len);

	if (*used + room > size)
		return -EMSGSIZE;
	memset(copy, 0, room);
	memcpy(copy, hdr, hdr->nlmsg_len);
	copy->nlmsg_flags |= NLM_F_REQUEST | (uint16_t)flags;
	copy->nlmsg_seq = ++nl->seq;
	copy->nlmsg_pid = 0;
	*used += room;
	return 0;
}

/*
 * Each message between the marks is acknowledged or refused by itself, in their order; a refusal of the whole (no such subsystem,
 * no right, a commit that failed) carries the first mark's number and may be all that comes.
 */
static int transaction_answers(struct nlc *nl, uint32_t first, uint32_t last, struct err *err)
{
	nsec_t deadline = now_ns() + NLC_TIMEOUT;
	int result = 0;

	for (;;) {
		struct nlmsghdr *hdr;
		size_t len;
		int r = nlc_recv(nl, deadline, &len, err);

		if (r < 0)
			return r;
		for (hdr = (struct nlmsghdr *)nl->buf; NLMSG_OK(hdr, len); hdr = NLMSG_NEXT(hdr, len)) {
			if (hdr->nlmsg_type != NLMSG_ERROR || hdr->nlmsg_seq - first > last - first)
				continue;
			if (result == 0)
				result = answer(hdr, err);
			if (hdr->nlmsg_seq == last || (hdr->nlmsg_seq == first && result < 0))
				return result;
		}
	}
}

/* The frame of a transaction: which subsystem it is for stands in a field of the header that is otherwise not used. */
static struct nl_msg *nft_frame(int type)
{
	struct nfgenmsg g = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(NFNL_SUBSYS_NFTABLES)};
	struct nl_msg *m = nlmsg_alloc();

	if (m && nlmsg_put(m, 0, 0, type, 0, 0) && nlmsg_append(m, &g, sizeof(g), NLMSG_ALIGNTO) == 0)
		return m;
	nlmsg_free(m);
	return NULL;
}

int nlc_nft(struct nlc *nl, struct nl_msg **msgs, size_t n, struct err *err)
{
	struct nl_msg *begin = nft_frame(NFNL_MSG_BATCH_BEGIN), *end = nft_frame(NFNL_MSG_BATCH_END);
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	_cleanup_free_ char *out = malloc(NLC_BUFFER);
	uint32_t first = nl->seq + 1;
	size_t used = 0;
	ssize_t sent;
	int r = out && begin && end ? pack(nl, begin, 0, out, NLC_BUFFER, &used) : -ENOMEM;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = msgs[i] ? pack(nl, msgs[i], NLM_F_ACK, out, NLC_BUFFER, &used) : -ENOMEM;
	if (r == 0)
		r = pack(nl, end, 0, out, NLC_BUFFER, &used);
	nlmsg_free(begin);
	nlmsg_free(end);
	for (size_t i = 0; i < n; i++)
		nlmsg_free(msgs[i]);
	if (r < 0)
		return err_set(err, r, "put a transaction together: %s", strerror(-r));
	do {
		sent = sendto(nl->fd, out, used, 0, (struct sockaddr *)&kernel, sizeof(kernel));
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return err_set(err, -errno, "send to the kernel: %s", strerror(errno));
	return transaction_answers(nl, first, nl->seq - 1, err);
}

int nlc_fd(const struct nlc *nl)
{
	return nl->fd;
}

int nlc_join(struct nlc *nl, int group, struct err *err)
{
	if (setsockopt(nl->fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
		return err_set(err, -errno, "listen to the kernel's events: %s", strerror(errno));
	return 0;
}

int nlc_wait(struct nlc *nl, nsec_t deadline, struct err *err)
{
	int r = clock_poll(nl->fd, POLLIN, deadline);

	if (r == -ETIMEDOUT)
		return err_set(err, r, "no event from the kernel in time");
	if (r < 0)
		return err_set(err, r, "wait for the kernel's events: %s", strerror(-r));
	/* all that is there; an overrun (ENOBUFS) is an event too */
	while (recv(nl->fd, nl->buf, NLC_BUFFER, MSG_DONTWAIT) >= 0)
		;
	return 0;
}

struct family {
	const char *name;
	int id;
};

static int family_cb(struct nlmsghdr *hdr, void *arg)
{
	struct family *f = arg;
	const struct nlattr *a;

	if (!hdr)
		return 0;
	a = nlmsg_find_attr(hdr, sizeof(struct genlmsghdr), CTRL_ATTR_FAMILY_ID);
	if (a && nla_len(a) >= 2)
		f->id = nla_get_u16(a);
	return 0;
}

int nlc_genl_family(struct nlc *nl, const char *name, struct err *err)
{
	struct family f = {.name = name, .id = 0};
	struct genlmsghdr g = {.cmd = CTRL_CMD_GETFAMILY, .version = 1};
	struct nl_msg *msg = nlmsg_alloc_simple(GENL_ID_CTRL, 0);
	int r;

	if (!msg || nlmsg_append(msg, &g, sizeof(g), NLMSG_ALIGNTO) < 0 ||
		nla_put_string(msg, CTRL_ATTR_FAMILY_NAME, name) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	r = nlc_get(nl, msg, family_cb, &f, err);
	if (r == -ENOENT || (r == 0 && f.id == 0))
		return err_set(err, -ENOENT, "this kernel has no %s (generic netlink family not found)", name);
	return r < 0 ? r : f.id;
}

static int ifindex_cb(struct nlmsghdr *hdr, void *arg)
{
	if (hdr && hdr->nlmsg_type == RTM_NEWLINK && hdr->nlmsg_len >= NLMSG_LENGTH(sizeof(struct ifinfomsg)))
		*(int *)arg = ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_index;
	return 0;
}

int nlc_ifindex(struct nlc *nl, const char *dev, struct err *err)
{
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC};
	struct nl_msg *msg = nlmsg_alloc_simple(RTM_GETLINK, 0);
	int index = 0, r;

	if (!msg || nlmsg_append(msg, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0 ||
		nla_put_string(msg, IFLA_IFNAME, dev) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	r = nlc_get(nl, msg, ifindex_cb, &index, err);
	if (r == -ENODEV || (r == 0 && index == 0))
		return err_set(err, -ENODEV, "no device %s", dev);
	return r < 0 ? r : index;
}
