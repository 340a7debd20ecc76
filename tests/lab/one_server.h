/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * one_server.h: a service of one server, here: a listening socket of the test's own at a loopback address, which a source watches. In a
 * network namespace of this test's own (own_netns()). Include after cmocka.h.
 */
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/source.h"
#include "engine/str.h"
#include "tests/lab/own_netns.h"

struct one_server {
	struct node *rs1, *nodes[1];
	struct service_server servers[1];
	struct service web;
	struct site site;
	struct sockaddr_storage a;
	socklen_t len;
	int fd; /* listens */
	struct timeline *tl;
	void *h; /* the source's, when one has been started */
};

/* @port 0: any */
static void one_server_listen(struct one_server *s, const char *address, uint16_t port, int backlog)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&s->a;
	struct sockaddr_in *in4 = (struct sockaddr_in *)&s->a;
	struct err err = {0};

	*s = (struct one_server){.rs1 = node_new("rs1", NULL), .a = {.ss_family = strchr(address, ':') ? AF_INET6 : AF_INET}};
	s->nodes[0] = s->rs1;
	s->servers[0] = (struct service_server){.node = s->rs1, .weight = 1};
	s->len = s->a.ss_family == AF_INET6 ? sizeof(*in6) : sizeof(*in4);
	in4->sin_port = htons(port); /* at the same place in both */
	assert_int_equal(inet_pton(s->a.ss_family, address, s->a.ss_family == AF_INET6 ? (void *)&in6->sin6_addr : (void *)&in4->sin_addr), 1);
	s->fd = socket(s->a.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&s->a, s->len), 0);
	assert_int_equal(listen(s->fd, backlog), 0);
	assert_int_equal(getsockname(s->fd, (struct sockaddr *)&s->a, &s->len), 0);
	s->web = (struct service){.name = (char *)"web", .protocol = IPPROTO_TCP, .n_vips = 1, .forward = "dr", .n_servers = 1,
		.servers = s->servers, .port = ntohs(in4->sin_port)};
	strcpy(s->web.vips[0], address);
	s->site = (struct site){.name = (char *)"self", .n_nodes = 1, .nodes = s->nodes, .n_services = 1, .services = &s->web};
	assert_int_equal(node_open(s->rs1, &err), 0);
	assert_int_equal(timeline_new(NULL, &s->tl, NULL), 0);
}

static void one_server_free(struct one_server *s)
{
	timeline_free(s->tl);
	node_free(s->rs1);
	close(s->fd);
}
