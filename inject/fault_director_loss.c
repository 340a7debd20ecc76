/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fault.director_loss: the director that schedules a service is lost, in one of the ways of node_loss.h. What is lost with it are
 * the virtual addresses: another director has to take them, and knows of the connections what the sync daemon has told it.
 *
 * A director that does not hold any of the addresses at the moment is not the one that schedules: to lose it would prove nothing,
 * and is refused. So is the loss of the only one.
 */
#include <stdio.h>
#include <string.h>

#include "engine/addrs.h"
#include "engine/site.h"
#include "inject/node_loss.h"

#define WHO "fault.director_loss"

static const struct param params[] = {
	{.name = "service", .type = PARAM_SERVICE, .required = true, .help = "whose director is lost"},
	{.name = "node", .type = PARAM_NODE, .help = "the director; default: the service's first one"},
	{.name = "how",
		.type = PARAM_STRING,
		.deflt = "silent",
		.values = "silent|cut|loud|frozen",
		.help = "packets dropped; link down on the switch's side; processes killed; processes stopped"},
	PARAM_END,
};

static const char *text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

/* "vips": the service's virtual addresses */
static int resolve(const struct site *site, json_t *args, struct err *err)
{
	const char *service = text(args, "service");
	const struct service *s = service && site ? site_service(site, service) : NULL;
	json_t *vips = NULL;
	const char *name;
	const struct node *n;

	if (!s)
		return err_set(err, -EINVAL, WHO ": the site has no service \"%s\"", service ? service : "");
	if (s->n_directors < 2) {
		err_set(err, -EINVAL, WHO ": %s is the only director of service %s: nobody could take over", s->directors[0]->name,
			s->name);
		return err_hint(err, "fault.node_loss takes a node away whatever becomes of the rest");
	}
	if (!text(args, "node"))
		json_object_set_new(args, "node", json_string(s->directors[0]->name));
	name = text(args, "node");
	n = name ? site_node(site, name) : NULL;
	if (!n || !service_has_director(s, n)) {
		char names[192] = "";

		for (size_t i = 0; i < s->n_directors; i++)
			snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? ", " : "", s->directors[i]->name);
		return err_set(err, -EINVAL, WHO ": %s is no director of service %s (%s)", name ? name : "", s->name, names);
	}
	vips = json_array();
	for (size_t i = 0; i < s->n_vips; i++)
		json_array_append_new(vips, json_string(s->vips[i]));
	if (json_object_set_new(args, "vips", vips) < 0)
		return -ENOMEM;
	return streq(text(args, "how"), "loud") ? loss_daemons(site, name, args) : 0;
}

/* Which of the service's addresses the node has on a link now: an array */
static int held_now(const struct node *n, const json_t *args, json_t **ret, struct err *err)
{
	const json_t *vips = json_object_get(args, "vips"), *j;
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct addr list[SERVICE_VIPS_MAX];
	json_t *held;
	uint32_t bits;
	size_t n_vips = 0, i;
	int r = 0;

	json_array_foreach((json_t *)vips, i, j) {
		if (n_vips == ARRAY_SIZE(list) || !json_string_value(j) || addr_parse(json_string_value(j), &list[n_vips++]) < 0)
			return err_set(err, -EINVAL, WHO ": its addresses are damaged");
	}
	r = nlc_open(n, NETLINK_ROUTE, &nl, err);
	if (r == 0)
		r = addrs_held(nl, list, n_vips, &bits, err);
	if (r < 0)
		return err_prefix(err, "addresses of %s", n->name), r;
	held = json_array();
	for (i = 0; i < n_vips; i++)
		if (bits & (1u << i))
			json_array_append(held, json_array_get(vips, i));
	*ret = held;
	return held ? 0 : -ENOMEM;
}

static void add_list(struct strbuf *b, const json_t *list)
{
	const json_t *j;
	size_t i;

	json_array_foreach((json_t *)list, i, j)
		strbuf_addf(b, "%s%s", i ? ", " : "", json_string_value(j));
}

static int capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *held = NULL, *loss = NULL;
	int r = held_now(n, args, &held, err);

	if (r < 0)
		return r;
	if (json_array_size(held) == 0) {
		_cleanup_strbuf_ struct strbuf b = {0};

		add_list(&b, json_object_get(args, "vips"));
		err_set(err, -ESTALE, "%s does not hold any virtual address of %s now (%s): it is not the director that schedules",
			n->name, text(args, "service"), strbuf_cstr(&b));
		return err_hint(err, "wait until it does (held_by), or name the one that does: node = ...");
	}
	r = loss_capture(n, args, &loss, err);
	if (r < 0)
		return r;
	*ret_prior = json_pack("{s:O, s:O}", "held", held, "loss", loss);
	return *ret_prior ? 0 : -ENOMEM;
}

/*
 * What the way measures, and what became of the addresses. Those that are still there are no sign that it did not bite: a director
 * that hears nobody goes on to believe in itself.
 */
static int measure(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence, struct err *err)
{
	_cleanup_json_ json_t *e = NULL, *held = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	json_t *asked, *measured;
	int r = loss_measure(n, args, prior, &e, err);

	if (r == 0)
		r = held_now(n, args, &held, err);
	if (r < 0)
		return r;
	asked = json_object_get(e, "asked");
	measured = json_object_get(e, "measured");
	json_object_set(asked, "service", json_object_get(args, "service"));
	json_object_set_new(asked, "node", json_string(n->name));
	json_object_set_new(measured, "node", json_string(n->name));
	json_object_set(measured, "held_before", json_object_get(prior, "held"));
	json_object_set(measured, "held", held);
	strbuf_addf(&b, "%s, which held ", n->name);
	add_list(&b, json_object_get(prior, "held"));
	strbuf_addf(&b, ": %s", text(e, "text"));
	json_object_set_new(e, "text", json_string(strbuf_cstr(&b)));
	*ret_evidence = TAKE_PTR(e);
	return 0;
}

const struct change_ops change_fault_director_loss = {
	.name = WHO,
	.summary = "The director that schedules a service is lost: silent, cut, killed or frozen; another one has to take over",
	.kind = CHANGE_FAULT,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "[{\"service\": \"web\", \"how\": \"silent\"}, {\"service\": \"web\", \"how\": \"cut\"},"
		   " {\"service\": \"web\", \"how\": \"loud\"}, {\"service\": \"web\", \"how\": \"frozen\"}]",
	.resolve = resolve,
	.supported = loss_supported,
	.reach = loss_reach,
	.capture = capture,
	.apply = loss_apply,
	.undo = loss_undo,
	.verify = loss_verify,
	.measure = measure,
	.command = loss_command,
};
