/* SPDX-License-Identifier: GPL-2.0-only */
#include "lvs/weights.h"

#include <string.h>

#include "lvs/ipvs.h"

extern const struct change_ops change_set_ipvs;

static const char *text(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

static bool serves(const struct service *s, const char *name)
{
	for (size_t i = 0; i < s->n_servers; i++)
		if (streq(s->servers[i].node->name, name))
			return true;
	return false;
}

static int find_service(const struct site *site, const json_t *args, const char *who, const struct service **ret, struct err *err)
{
	const char *name = text(args, "service"), *server = text(args, "node");
	const struct service *found = NULL;

	if (name) {
		found = site_service(site, name);
		if (!found)
			return err_set(err, -EINVAL, "%s: the site has no service \"%s\"", who, name);
		if (!serves(found, server))
			return err_set(err, -EINVAL, "%s: service %s has no server \"%s\"", who, name, server);
		*ret = found;
		return 0;
	}
	for (size_t i = 0; i < site->n_services; i++) {
		if (!serves(&site->services[i], server))
			continue;
		if (found) {
			err_set(err, -EINVAL, "%s: %s is a server of several services", who, server);
			return err_hint(err, "say which: service = \"%s\"", found->name);
		}
		found = &site->services[i];
	}
	if (!found)
		return err_set(err, -EINVAL, "%s: %s is no server of any service", who, server);
	*ret = found;
	return 0;
}

int weights_resolve(const struct site *site, json_t *args, const char *who, json_int_t weight, struct err *err)
{
	_cleanup_free_ char *server = strdup(text(args, "node") ? text(args, "node") : "");
	const char *director = text(args, "director");
	const struct service *s = NULL;
	int r = server ? find_service(site, args, who, &s, err) : -ENOMEM;

	if (r < 0)
		return r;
	if (director && !service_has_director(s, site_node(site, director)))
		return err_set(err, -EINVAL, "%s: %s is no director of service %s", who, director, s->name);
	json_object_set_new(args, "server", json_string(server));
	json_object_set_new(args, "service", json_string(s->name));
	json_object_set_new(args, "weights", json_pack("{s:I}", server, weight));
	json_object_set_new(args, "node", json_string(director ? director : s->directors[0]->name));
	return change_set_ipvs.resolve(site, args, err);
}

int weights_supported(const struct node *n, const json_t *args, struct err *reterr)
{
	return change_set_ipvs.supported(n, args, reterr);
}

int weights_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	return change_set_ipvs.capture(n, args, ret_prior, err);
}

int weights_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	return change_set_ipvs.apply(n, args, prior, err);
}

int weights_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	return change_set_ipvs.undo(n, args, prior, err);
}

int weights_verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	return change_set_ipvs.verify(n, args, prior, err);
}

int weights_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	return change_set_ipvs.command(n, args, prior, ret_apply, ret_undo);
}

/* "targets": [ {"vip", "port", "protocol", "dests": [ {"addr", "port"} ] } ], as set.ipvs has resolved them */
int weights_active(const struct node *n, const json_t *args, unsigned int *ret, struct err *err)
{
	_cleanup_ipvs_ struct ipvs *ip = NULL;
	const json_t *t, *d;
	unsigned int sum = 0;
	size_t i, k;
	int r = ipvs_open(n, &ip, err);

	if (r < 0)
		return r;
	json_array_foreach(json_object_get(args, "targets"), i, t) {
		const char *protocol = text(t, "protocol");
		struct ipvs_service s = {.protocol = streq(protocol, "udp") ? IPPROTO_UDP : IPPROTO_TCP,
			.port = (uint16_t)json_integer_value(json_object_get(t, "port"))};
		_cleanup_free_ struct ipvs_dest *live = NULL;
		size_t n_live = 0;
		int family;

		r = ipvs_addr_parse(text(t, "vip"), &family, s.addr);
		s.family = (uint16_t)family;
		if (r == 0)
			r = ipvs_dests(ip, &s, &live, &n_live, err);
		if (r < 0)
			return r;
		json_array_foreach(json_object_get(t, "dests"), k, d) {
			struct ipvs_dest key = {.port = (uint16_t)json_integer_value(json_object_get(d, "port"))};
			const struct ipvs_dest *now;

			if (ipvs_addr_parse(text(d, "addr"), &family, key.addr) < 0)
				continue;
			key.family = (uint16_t)family;
			now = ipvs_dest_find(live, n_live, &key);
			sum += now ? now->active : 0;
		}
	}
	*ret = sum;
	return 0;
}
