/* SPDX-License-Identifier: GPL-2.0-only */
#include <string.h>

#include "engine/site.h"
#include "inject/node_loss.h"

static const struct loss_ops *const ways[] = {&loss_silent, &loss_cut, &loss_loud, &loss_frozen};

const struct loss_ops *loss_way(const json_t *args, struct err *err)
{
	const json_t *named = json_object_get(args, "way");
	const char *how = json_string_value(named ? named : json_object_get(args, "how"));

	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		if (streq(ways[i]->how, how))
			return ways[i];
	err_set(err, -EINVAL, "the loss of a node: how = \"%s\" is not known", how ? how : "");
	return NULL;
}

/* Whole as it stands: the lab fills in "%{dir}" and the like only when it starts the daemon, which is later than here. */
static bool plain(const json_t *argv)
{
	const json_t *w;
	size_t i;

	json_array_foreach((json_t *)argv, i, w) {
		if (!json_is_string(w) || strstr(json_string_value(w), "%{"))
			return false;
	}
	return json_array_size(argv) > 0;
}

int loss_daemons(const struct site *site, const char *node, json_t *args)
{
	json_t *daemons = json_array();
	const json_t *n, *d;
	size_t i, k;

	json_array_foreach(json_object_get(site->json, "nodes"), i, n) {
		if (!streq(json_string_value(json_object_get(n, "name")), node))
			continue;
		json_array_foreach(json_object_get(n, "daemons"), k, d) {
			if (plain(json_object_get(d, "argv")))
				json_array_append(daemons, json_object_get(d, "argv"));
		}
	}
	return json_object_set_new(args, "daemons", daemons) < 0 ? -ENOMEM : 0;
}

int loss_reach(const struct node *n, const json_t *args, json_t **ret_reach, struct err *err)
{
	const struct loss_ops *way = loss_way(args, err);
	json_t *devices;

	if (!way)
		return -EINVAL;
	if (way == &loss_loud || way == &loss_frozen) {
		*ret_reach = json_pack("{s:s}", "processes", "node");
		return *ret_reach ? 0 : -ENOMEM;
	}
	/* a path may lead over either end of a link */
	devices = json_array();
	for (size_t i = 0; i < n->n_links; i++) {
		const struct node_link *l = &n->links[i];

		json_array_append_new(devices, json_pack("{s:s}", "dev", l->dev));
		if (l->peer_netns)
			json_array_append_new(devices, json_pack("{s:s, s:s}", "dev", l->peer_dev, "netns", l->peer_netns));
	}
	*ret_reach = json_pack("{s:o}", "devices", devices);
	return *ret_reach ? 0 : -ENOMEM;
}

/* ── what is the same for all who lose a node ──────────────────────────────────────────────── */

static const json_t *own_record(const json_t *prior)
{
	const json_t *loss = json_object_get(prior, "loss");

	return loss ? loss : prior;
}

int loss_supported(const struct node *n, const json_t *args, struct err *reterr)
{
	const struct loss_ops *w = loss_way(args, reterr);

	if (!w)
		return -EINVAL;
	return w->supported ? w->supported(n, args, reterr) : 0;
}

int loss_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	const struct loss_ops *w = loss_way(args, err);

	return w ? w->capture(n, args, ret_prior, err) : -EINVAL;
}

int loss_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const struct loss_ops *w = loss_way(args, err);

	return w ? w->apply(n, args, own_record(prior), err) : -EINVAL;
}

int loss_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const struct loss_ops *w = loss_way(args, err);

	return w ? w->undo(n, args, own_record(prior), err) : -EINVAL;
}

int loss_verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const struct loss_ops *w = loss_way(args, err);

	return w ? w->verify(n, args, own_record(prior), err) : -EINVAL;
}

int loss_measure(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence, struct err *err)
{
	const struct loss_ops *w = loss_way(args, err);

	return w ? w->measure(n, args, own_record(prior), ret_evidence, err) : -EINVAL;
}

int loss_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const struct loss_ops *w = loss_way(args, NULL);

	return w ? w->command(n, args, own_record(prior), ret_apply, ret_undo) : -EINVAL;
}
