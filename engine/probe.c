/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/probe.h"

#include "engine/str.h"

const struct probe_ops *probe_find(const char *subject, const char *name)
{
	for (const struct probe_ops *const *table = probe_table; *table; table++)
		for (const struct probe_ops *p = *table; p->name; p++)
			if (streq(p->subject, subject) && streq(p->name, name))
				return p;
	return NULL;
}

const struct service *probe_service_of(const struct site *site, const json_t *args, struct err *err)
{
	const char *name = json_string_value(json_object_get(args, "service"));
	const struct service *s = name && site ? site_service(site, name) : NULL;

	if (!s)
		err_set(err, -EINVAL, "the site has no service called \"%s\"", name ? name : "");
	return s;
}

int probe_server_of(const struct service *s, const json_t *args, struct err *err)
{
	const char *name = json_string_value(json_object_get(args, "server"));
	_cleanup_strbuf_ struct strbuf all = {0};

	for (size_t i = 0; i < s->n_servers; i++) {
		if (streq(s->servers[i].node->name, name))
			return (int)i;
		strbuf_addf(&all, "%s%s", i ? ", " : "", s->servers[i].node->name);
	}
	err_set(err, -EINVAL, "service %s has no server %s", s->name, name ? name : "(none given)");
	err_hint(err, "there are: %s", strbuf_cstr(&all));
	return -EINVAL;
}
