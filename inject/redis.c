/* SPDX-License-Identifier: GPL-2.0-only */
#include "inject/redis.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/str.h"
#include "engine/units.h"

static int connect_to(const struct node *from, struct redis_at at, nsec_t deadline, int *ret_fd)
{
	bool v6 = strchr(at.addr, ':') != NULL;
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(at.port)};
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(at.port)};
	_cleanup_close_ int fd = -1;
	int error = 0, r;
	socklen_t len = sizeof(error);

	if (inet_pton(v6 ? AF_INET6 : AF_INET, at.addr, v6 ? (void *)&a6.sin6_addr : &a4.sin_addr) != 1)
		return -EINVAL;
	fd = node_socket(from, v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	r = connect(fd, v6 ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4, v6 ? sizeof(a6) : sizeof(a4));
	if (r < 0 && errno != EINPROGRESS)
		return -errno;
	if (r < 0) {
		r = clock_poll(fd, POLLOUT, deadline);
		if (r < 0)
			return r;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			return -errno;
		if (error)
			return -error;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int send_all(int fd, const char *data, size_t len, nsec_t deadline)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			int r = clock_poll(fd, POLLOUT, deadline);

			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

static int read_reply(int fd, redisReader *reader, nsec_t deadline, redisReply **ret)
{
	for (;;) {
		void *reply = NULL;
		char buf[4096];
		ssize_t n;
		int r;

		if (redisReaderGetReply(reader, &reply) != REDIS_OK)
			return -EPROTO;
		if (reply) {
			*ret = reply;
			return 0;
		}
		r = clock_poll(fd, POLLIN, deadline);
		if (r < 0)
			return r;
		n = recv(fd, buf, sizeof(buf), 0);
		if (n == 0)
			return -ECONNRESET;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n > 0 && redisReaderFeed(reader, buf, (size_t)n) != REDIS_OK)
			return -ENOMEM;
	}
}

int redis_ask(const struct node *from, struct redis_at at, const char *command, nsec_t deadline, redisReply **ret,
	struct err *err)
{
	redisReader *reader = redisReaderCreate();
	_cleanup_close_ int fd = -1;
	const char *words[8];
	char copy[160], *save = NULL, *line = NULL;
	int n = 0, len, r;

	snprintf(copy, sizeof(copy), "%s", command);
	for (char *w = strtok_r(copy, " ", &save); w && n < (int)ARRAY_SIZE(words); w = strtok_r(NULL, " ", &save))
		words[n++] = w;
	len = redisFormatCommandArgv(&line, n, words, NULL);
	r = reader && len > 0 ? connect_to(from, at, deadline, &fd) : -ENOMEM;
	if (r == 0)
		r = send_all(fd, line, (size_t)len, deadline);
	if (r == 0)
		r = read_reply(fd, reader, deadline, ret);
	if (len > 0)
		redisFreeCommand(line);
	if (reader)
		redisReaderFree(reader);
	return r < 0 ? err_set(err, r, "%s port %u: %s", at.addr, at.port,
			       r == -ETIMEDOUT ? "no answer in time" : strerror(-r)) :
		       0;
}

/* ── INFO replication ──────────────────────────────────────────────────────────────────────── */

/* The value of "KEY:" at the start of a line, up to its end */
static bool field(const char *info, const char *key, char *buf, size_t size)
{
	size_t len = strlen(key);

	for (const char *p = info; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (strncmp(p, key, len) == 0 && p[len] == ':') {
			snprintf(buf, size, "%.*s", (int)strcspn(p + len + 1, "\r\n"), p + len + 1);
			return true;
		}
	}
	return false;
}

/* The value of "KEY=" in "ip=198.18.0.32,port=6379,state=online" */
static bool part(const char *line, const char *key, char *buf, size_t size)
{
	size_t len = strlen(key);

	for (const char *p = line; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (strncmp(p, key, len) == 0 && p[len] == '=') {
			snprintf(buf, size, "%.*s", (int)strcspn(p + len + 1, ","), p + len + 1);
			return true;
		}
	}
	return false;
}

static int number(const char *text, int lo, int hi, int *ret)
{
	int64_t v;
	int r = units_int(text, lo, hi, &v);

	if (r == 0)
		*ret = (int)v;
	return r;
}

int redis_replication_parse(const char *info, struct redis_replication *ret, struct err *err)
{
	struct redis_replication r = {0};
	char value[256], text[64];
	int n = 0, k = 0;

	if (!field(info, "role", value, sizeof(value)) || (!streq(value, "master") && !streq(value, "slave")))
		return err_set(err, -EPROTO, "it does not say whether it is a primary: \"%.60s\"", info);
	r.primary = streq(value, "master");
	if (!r.primary) {
		if (!field(info, "master_host", r.upstream, sizeof(r.upstream)) ||
			!field(info, "master_port", value, sizeof(value)) || number(value, 1, 65535, &k) < 0)
			return err_set(err, -EPROTO, "a replica that does not say of whom");
		r.upstream_port = (uint16_t)k;
		*ret = r;
		return 0;
	}
	if (!field(info, "connected_slaves", value, sizeof(value)) || number(value, 0, INT32_MAX, &n) < 0)
		return err_set(err, -EPROTO, "a primary that does not say who follows it");
	for (k = 0; k < n && r.n_replicas < REDIS_REPLICAS_MAX; k++) {
		int lag = -1;

		snprintf(text, sizeof(text), "slave%d", k);
		if (!field(info, text, value, sizeof(value)))
			break;
		if (!part(value, "ip", r.replicas[r.n_replicas].addr, sizeof(r.replicas[0].addr)) ||
			!part(value, "state", r.replicas[r.n_replicas].state, sizeof(r.replicas[0].state)))
			return err_set(err, -EPROTO, "what it says of a replica makes no sense: \"%.80s\"", value);
		/* not there until the replica has been heard once */
		if (part(value, "lag", text, sizeof(text)) && number(text, -1, INT32_MAX, &lag) < 0)
			return err_set(err, -EPROTO, "what it says of a replica makes no sense: \"%.80s\"", value);
		r.replicas[r.n_replicas++].lag = lag;
	}
	*ret = r;
	return 0;
}

int redis_replication(const struct node *from, struct redis_at at, nsec_t deadline, struct redis_replication *ret,
	struct err *err)
{
	_cleanup_reply_ redisReply *reply = NULL;
	int r = redis_ask(from, at, "INFO replication", deadline, &reply, err);

	if (r < 0)
		return r;
	if (reply->type == REDIS_REPLY_ERROR)
		return err_set(err, -EPROTO, "%s port %u: it answers \"%.100s\"", at.addr, at.port, reply->str);
	r = reply->type == REDIS_REPLY_STRING ? redis_replication_parse(reply->str, ret, err) :
										   err_set(err, -EPROTO, "no text");
	return r < 0 ? (err_prefix(err, "%s port %u", at.addr, at.port), r) : 0;
}
