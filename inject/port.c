/* SPDX-License-Identifier: GPL-2.0-only */
#include <net/if.h>
#include <string.h>

#include "inject/node_loss.h"

void port_close(struct port *p)
{
	nlc_close(p->nl);
	node_free(p->where);
	*p = (struct port){0};
}

static int port_find(const struct node *n, const struct node_link *l, bool allow_own, json_t **ret, struct err *err)
{
	bool own = !l->peer_netns;
	_cleanup_node_ struct node *sw = NULL;
	_cleanup_nlc_ struct nlc *nl = NULL;
	const char *dev = own ? l->dev : l->peer_dev;
	int r;

	if (own && !allow_own) {
		err_set(err, -EOPNOTSUPP, "%s/%s: where its other end is plugged in is not known", n->name, l->dev);
		err_hint(err, "how = \"silent\" works on the node's own end");
		return -EOPNOTSUPP;
	}
	if (!own) {
		sw = node_new("switch", l->peer_netns);
		if (!sw)
			return -ENOMEM;
		r = node_open(sw, err);
		if (r < 0)
			return err_prefix(err, "the switch that %s/%s is plugged into", n->name, l->dev), r;
	}
	r = nlc_open(own ? n : sw, NETLINK_ROUTE, &nl, err);
	if (r == 0)
		r = nlc_ifindex(nl, dev, err);
	if (r < 0)
		return err_prefix(err, own ? "%s/%s" : "the port of %s/%s on the switch", n->name, l->dev), r;
	*ret = json_pack("{s:s, s:o, s:s, s:i, s:b}", "link", l->dev, "switch", node_to_json(own ? n : sw), "dev", dev,
		"ifindex", r, "own", own);
	return *ret ? 0 : -ENOMEM;
}

int ports_find(const struct node *n, bool allow_own, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *ports = json_array();

	if (!ports)
		return -ENOMEM;
	if (!n->n_links)
		return err_set(err, -EOPNOTSUPP, "%s: no link of it is known, so it cannot be taken off the network", n->name);
	for (size_t i = 0; i < n->n_links; i++) {
		json_t *port = NULL;
		int r = port_find(n, &n->links[i], allow_own, &port, err);

		if (r < 0)
			return r;
		json_array_append_new(ports, port);
	}
	*ret = TAKE_PTR(ports);
	return 0;
}

int port_open(const json_t *record, struct port *ret, struct err *err)
{
	_cleanup_port_ struct port p = {0};
	const json_t *where = NULL;
	int own = 0, r;

	if (json_unpack((json_t *)record, "{s:s, s:o, s:s, s:i, s:b}", "link", &p.link, "switch", &where, "dev", &p.dev,
		    "ifindex", &p.ifindex, "own", &own) < 0)
		return err_set(err, -EINVAL, "the record of a port is damaged");
	p.own = own;
	r = node_from_json(where, &p.where, err);
	if (r < 0)
		return r;
	r = nlc_open(p.where, NETLINK_ROUTE, &p.nl, err);
	if (r < 0)
		return r;
	r = nlc_ifindex(p.nl, p.dev, err);
	if (r < 0 && r != -ENODEV)
		return r;
	if (r != p.ifindex) {
		/*
		 * Another device may have the name by now, and ours another name: then it is ours still, with all that was done to
		 * it. The kernel gives an index once in a namespace's life, unless somebody asks for a certain one.
		 */
		_cleanup_(node_leave) struct node_visit v = {.fd = -1};

		r = node_enter(p.where, &v, err);
		if (r < 0)
			return r;
		if (!if_indextoname((unsigned int)p.ifindex, p.now))
			return err_set(err, -ESTALE, "device %s is gone", p.dev);
		p.renamed = true;
	}
	*ret = p;
	if (ret->renamed)
		ret->dev = ret->now;
	p = (struct port){0};
	return 0;
}

void port_command_prefix(const struct node *n, const struct node_link *l, struct strbuf *b)
{
	_cleanup_node_ struct node *sw = l->peer_netns ? node_new("switch", l->peer_netns) : NULL;

	change_command_prefix(sw ? sw : n, b);
}
