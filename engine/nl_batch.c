/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/nl_batch.h"

#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/clock.h"

#define FAILURES_MAX 4096
#define ANSWER_NS    (5 * NSEC_PER_SEC)
#define RECV_BYTES   65536

struct nl_batch {
	int fd;
	uint32_t seq;	    /* of the next message */
	uint32_t first_seq; /* of message 0 */
	size_t used, n_queued;
	struct nlmsghdr *last; /* of the queued ones */
	size_t n_failures;
	struct nl_batch_failure failures[FAILURES_MAX];
	uint64_t lost_failures; /* beyond FAILURES_MAX */
	char text[256];		/* the kernel's on the first failure */
	nl_batch_on_failure on_failure;
	void *on_failure_arg;
	_Alignas(NLMSG_ALIGNTO) char out[NL_BATCH_BYTES];
	_Alignas(NLMSG_ALIGNTO) char in[RECV_BYTES];
};

int nl_batch_open(const struct node *n, int protocol, struct nl_batch **ret, struct err *err)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	int one = 1, bytes = 4 << 20;
	struct nl_batch *b;
	int fd;

	fd = node_socket(n, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	if (fd < 0)
		return err_set(err, fd, "netlink socket on %s: %s", n->name, strerror(-fd));
	/* Refused without CAP_NET_ADMIN, and then every request will be too */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	/* A failure need not carry the failed message back: its sequence number is enough */
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *)&kernel, sizeof(kernel)) < 0) {
		int r = -errno;

		close(fd);
		return err_set(err, r, "netlink socket on %s: %s", n->name, strerror(-r));
	}
	b = calloc(1, sizeof(*b));
	if (!b) {
		close(fd);
		return err_set(err, -ENOMEM, "out of memory");
	}
	b->fd = fd;
	b->seq = b->first_seq = 1;
	*ret = b;
	return 0;
}

void nl_batch_close(struct nl_batch *b)
{
	if (!b)
		return;
	close(b->fd);
	free(b);
}

void nl_batch_set_on_failure(struct nl_batch *b, nl_batch_on_failure fn, void *arg)
{
	b->on_failure = fn;
	b->on_failure_arg = arg;
}

size_t nl_batch_failures(const struct nl_batch *b, const struct nl_batch_failure **ret)
{
	*ret = b->failures;
	return b->n_failures;
}

/* The extended-ack text of an error message, or NULL: attributes follow the header that is echoed. */
static const char *ack_text(const struct nlmsghdr *h)
{
	const struct nlmsgerr *e = NLMSG_DATA(h);
	size_t skip = sizeof(*e);
	struct nlattr *a;

	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
		return NULL;
	if (!(h->nlmsg_flags & NLM_F_CAPPED)) {
		if (e->msg.nlmsg_len < sizeof(e->msg))
			return NULL;
		skip += NLMSG_ALIGN(e->msg.nlmsg_len - sizeof(e->msg));
	}
	if (NLMSG_HDRLEN + skip > h->nlmsg_len)
		return NULL;
	a = nla_find((struct nlattr *)((char *)NLMSG_DATA(h) + skip),
		(int)(h->nlmsg_len - NLMSG_HDRLEN - skip), NLMSGERR_ATTR_MSG);
	if (!a || nla_len(a) < 1 || memchr(nla_data(a), '\0', (size_t)nla_len(a)) == NULL)
		return NULL;
	return nla_data(a);
}

static void note_failure(struct nl_batch *b, const struct nlmsghdr *h, int error)
{
	uint64_t index = h->nlmsg_seq - b->first_seq;
	const char *text = ack_text(h);

	if (b->n_failures == 0)
		snprintf(b->text, sizeof(b->text), "%s", text ? text : "");
	if (b->n_failures < FAILURES_MAX)
		b->failures[b->n_failures++] = (struct nl_batch_failure){index, error};
	else
		b->lost_failures++;
	if (b->on_failure)
		b->on_failure(h, index, b->on_failure_arg);
}

/* Reads answers until the one for @last has come. */
static int collect(struct nl_batch *b, uint32_t last, struct err *err)
{
	nsec_t deadline = now_ns() + ANSWER_NS;

	for (;;) {
		ssize_t n;
		int len, r = clock_poll(b->fd, POLLIN, deadline);

		if (r < 0)
			return err_set(err, r, "netlink batch: %s",
				r == -ETIMEDOUT ? "the kernel gave no answer within 5 s" : strerror(-r));
		n = recv(b->fd, b->in, sizeof(b->in), MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return err_set(err, -errno, "netlink batch: %s%s", strerror(errno),
				errno == ENOBUFS ? ": answers were lost" : "");
		if ((size_t)n > sizeof(b->in))
			return err_set(err, -EMSGSIZE, "netlink batch: an answer of %zd bytes", n);
		len = (int)n;
		for (struct nlmsghdr *h = (struct nlmsghdr *)b->in; nlmsg_ok(h, len);
			h = nlmsg_next(h, &len)) {
			const struct nlmsgerr *e = NLMSG_DATA(h);

			if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
				continue;
			if (e->error)
				note_failure(b, h, e->error);
			if (h->nlmsg_seq == last)
				return 0;
		}
	}
}

static int send_queued(struct nl_batch *b, struct err *err)
{
	uint32_t last;
	ssize_t n;

	if (b->n_queued == 0)
		return 0;
	b->last->nlmsg_flags |= NLM_F_ACK;
	last = b->last->nlmsg_seq;
	do
		n = send(b->fd, b->out, b->used, 0);
	while (n < 0 && errno == EINTR);
	b->used = b->n_queued = 0;
	b->last = NULL;
	if (n < 0)
		return err_set(err, -errno, "netlink batch: %s", strerror(errno));
	return collect(b, last, err);
}

int nl_batch_add(struct nl_batch *b, struct nl_msg *msg, struct err *err)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);
	size_t len = h->nlmsg_len, room = NLMSG_ALIGN(len);
	int r = 0;

	if (room > sizeof(b->out)) {
		nlmsg_free(msg);
		return err_set(err, -EMSGSIZE, "netlink batch: a message of %zu bytes", len);
	}
	if (b->used + room > sizeof(b->out) || b->n_queued == NL_BATCH_MESSAGES)
		r = send_queued(b, err);
	if (r == 0) {
		struct nlmsghdr *copy = (struct nlmsghdr *)(b->out + b->used);

		memcpy(copy, h, len);
		memset((char *)copy + len, 0, room - len);
		copy->nlmsg_flags = (uint16_t)((h->nlmsg_flags & ~NLM_F_ACK) | NLM_F_REQUEST);
		copy->nlmsg_seq = b->seq++;
		copy->nlmsg_pid = 0;
		b->last = copy;
		b->used += room;
		b->n_queued++;
	}
	nlmsg_free(msg);
	return r;
}

int nl_batch_flush(struct nl_batch *b, struct err *err)
{
	int r = send_queued(b, err);

	if (r < 0)
		return r;
	if (b->n_failures == 0)
		return 0;
	return err_set(err, b->failures[0].error, "message %llu of %u: %s%s%s",
		(unsigned long long)b->failures[0].index, b->seq - b->first_seq,
		strerror(-b->failures[0].error), b->text[0] ? ": " : "", b->text);
}
