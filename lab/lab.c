/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/lab.h"

#include <string.h>

#include "engine/str.h"
#include "lab/spec.h"

static const json_t *find_node(const struct site *s, const char *name)
{
	const json_t *j;
	size_t i;

	json_array_foreach(json_object_get(s->json, "nodes"), i, j)
		if (streq(json_string_value(json_object_get(j, "name")), name))
			return j;
	return NULL;
}

const char *lab_link_switch(const struct site *s, const struct node *node, size_t i)
{
	const json_t *link = json_array_get(json_object_get(find_node(s, node->name), "links"), i);

	return json_string_value(json_object_get(link, "switch"));
}

static int set(char **where, const char *site, const char *label)
{
	char *path = strf(LAB_NETNS_DIR "/muster-%s-%s", site, label);

	if (!path)
		return -ENOMEM;
	free(*where);
	*where = path;
	return 0;
}

static int bind_node(struct site *s, struct node *n, struct err *err)
{
	int r;

	/* in the switch's namespace the port is called as the node, beside the loopback device */
	if (streq(n->name, "lo"))
		return err_set(err, -EINVAL, "site %s: a node cannot be called lo", s->name);
	r = set(&n->netns, s->name, n->name);
	for (size_t i = 0; r == 0 && i < n->n_links; i++) {
		struct node_link *l = &n->links[i];
		const char *sw = lab_link_switch(s, n, i);

		if (!sw)
			return err_set(err, -EINVAL, "site %s: node %s: link %s: it has no switch",
				s->name, n->name, l->dev);
		for (size_t k = 0; k < i; k++) {
			if (streq(lab_link_switch(s, n, k), sw))
				return err_set(err, -EINVAL,
					"site %s: node %s: two of its links are plugged into "
					"switch %s",
					s->name, n->name, sw);
			if (streq(n->links[k].dev, l->dev))
				return err_set(err, -EINVAL,
					"site %s: node %s: two of its links are called %s", s->name,
					n->name, l->dev);
		}
		if (streq(l->dev, "lo"))
			return err_set(err, -EINVAL, "site %s: node %s: a link cannot be called lo",
				s->name, n->name);
		strcpy(l->peer_dev, n->name);
		r = set(&l->peer_netns, s->name, sw);
	}
	return r;
}

int lab_bind(struct site *s, struct err *err)
{
	const json_t *sw;
	size_t i;

	json_array_foreach(json_object_get(s->json, "switches"), i, sw) {
		const char *name = json_string_value(sw);

		if (site_node(s, name))
			return err_set(err, -EINVAL,
				"site %s: %s is the name of a node and of a switch", s->name, name);
		for (size_t k = 0; k < i; k++)
			if (streq(json_string_value(
					  json_array_get(json_object_get(s->json, "switches"), k)),
				    name))
				return err_set(err, -EINVAL, "site %s: switch %s is there twice",
					s->name, name);
	}
	for (i = 0; i < s->n_nodes; i++) {
		int r = bind_node(s, s->nodes[i], err);

		if (r < 0)
			return r;
	}
	return 0;
}
