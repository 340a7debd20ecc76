/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/site.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "engine/str.h"

#define SITE_NODES_MAX	  64
#define SITE_SERVICES_MAX 32
#define SITE_DATABASES_MAX 8

void site_free(struct site *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_services; i++) {
		free(s->services[i].name);
		free(s->services[i].servers);
	}
	for (size_t i = 0; i < s->n_databases; i++)
		free(s->databases[i].name);
	for (size_t i = 0; i < s->n_nodes; i++)
		node_free(s->nodes[i]);
	free(s->databases);
	free(s->database_names);
	free(s->services);
	node_free(s->host);
	free(s->nodes);
	free(s->node_names);
	free(s->setting_nodes);
	free(s->service_names);
	json_decref(s->json);
	free(s->name);
	free(s);
}

/* Names become parts of paths, device names and tags. */
static bool valid_name(const char *s, size_t max)
{
	if (!s || !*s || strlen(s) > max || !isalpha((unsigned char)*s))
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && *s != '-' && *s != '_')
			return false;
	return true;
}

static const char *text(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

static int parse_link(struct node_link *l, const json_t *j, const json_t *switches, const char *place, struct err *err)
{
	static const struct param params[] = {
		{.name = "dev", .type = PARAM_STRING, .deflt = "eth0"},
		{.name = "switch", .type = PARAM_STRING, .required = true, .help = "the switch it is plugged into"},
		{.name = "addrs", .type = PARAM_LIST, .of = PARAM_NET, .required = true, .help = "its addresses"},
		PARAM_END,
	};
	_cleanup_json_ json_t *args = NULL;
	const json_t *addr, *sw;
	const char *names[SITE_NODES_MAX] = {NULL};
	size_t i;
	int r = param_check(params, place, j, NULL, &args, err);

	if (r < 0)
		return r;
	if (!valid_name(text(args, "dev"), sizeof(l->dev) - 1))
		return err_set(err, -EINVAL, "%s: dev = \"%s\" is no device name", place, text(args, "dev"));
	strcpy(l->dev, text(args, "dev"));
	json_array_foreach(switches, i, sw) {
		if (i < ARRAY_SIZE(names) - 1)
			names[i] = json_string_value(sw);
		if (streq(json_string_value(sw), text(args, "switch")))
			break;
	}
	if (i == json_array_size(switches)) {
		const char *near = str_nearest(text(args, "switch"), names);

		err_set(err, -EINVAL, "%s: switch \"%s\" does not exist", place, text(args, "switch"));
		if (near)
			err_hint(err, "did you mean \"%s\"?", near);
		return -EINVAL;
	}
	if (json_array_size(json_object_get(args, "addrs")) > NODE_ADDRS_MAX)
		return err_set(err, -EINVAL, "%s: more than %d addresses", place, NODE_ADDRS_MAX);
	json_array_foreach(json_object_get(args, "addrs"), i, addr)
		snprintf(l->addrs[l->n_addrs++], sizeof(l->addrs[0]), "%s", json_string_value(addr));
	return 0;
}

static int parse_node(struct site *s, const json_t *j, struct err *err)
{
	const char *name = text(j, "name");
	const json_t *links = json_object_get(j, "links"), *l;
	struct node *n;
	char place[192];
	size_t i;

	/* 15 bytes are a device name's limit, and the switch's port is called as the node */
	if (!valid_name(name, 15))
		return err_set(err, -EINVAL,
			"site %s: node %zu: name is missing or not 1 to 15 letters, digits, - and _", s->name,
			s->n_nodes + 1);
	if (streq(name, SITE_HOST))
		return err_set(err, -EINVAL, "site %s: no node can be called " SITE_HOST ": that is the machine itself", s->name);
	if (site_node(s, name))
		return err_set(err, -EINVAL, "site %s: node %s is there twice", s->name, name);
	n = node_new(name, NULL);
	if (!n)
		return -ENOMEM;
	s->nodes[s->n_nodes] = n;
	s->setting_nodes[s->n_nodes] = n->name;
	s->setting_nodes[s->n_nodes + 1] = s->host->name;
	s->node_names[s->n_nodes++] = n->name;
	if (json_array_size(links) > NODE_LINKS_MAX)
		return err_set(err, -EINVAL, "site %s: node %s: more than %d links", s->name, name, NODE_LINKS_MAX);
	json_array_foreach(links, i, l) {
		int r;

		snprintf(place, sizeof(place), "site %s: node %s: link %zu", s->name, name, i + 1);
		r = parse_link(&n->links[n->n_links++], l, json_object_get(s->json, "switches"), place, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int parse_servers(struct site *s, struct service *v, const json_t *servers, const char *place, struct err *err)
{
	static const struct param params[] = {
		{.name = "node", .type = PARAM_NODE, .required = true, .help = "the real server"},
		{.name = "weight", .type = PARAM_INT, .deflt = "1", .min = 0, .max = 65535},
		PARAM_END,
	};
	const struct param_names names = site_names(s);
	const json_t *j;
	size_t i;

	if (json_array_size(servers) == 0)
		return err_set(err, -EINVAL, "%s: servers is missing or empty", place);
	v->servers = calloc(json_array_size(servers), sizeof(*v->servers));
	if (!v->servers)
		return -ENOMEM;
	json_array_foreach(servers, i, j) {
		_cleanup_json_ json_t *args = NULL;
		char where[224];
		int r;

		snprintf(where, sizeof(where), "%s: server %zu", place, i + 1);
		r = param_check(params, where, j, &names, &args, err);
		if (r < 0)
			return r;
		v->servers[v->n_servers].node = site_node(s, text(args, "node"));
		v->servers[v->n_servers].weight = (unsigned int)json_integer_value(json_object_get(args, "weight"));
		for (size_t k = 0; k < v->n_servers; k++)
			if (v->servers[k].node == v->servers[v->n_servers].node)
				return err_set(err, -EINVAL, "%s: %s is there twice", where, text(args, "node"));
		v->n_servers++;
	}
	return 0;
}

static int parse_directors(struct site *s, struct service *v, const json_t *args, const char *place, struct err *err)
{
	const json_t *list = json_object_get(args, "directors"), *j;
	const char *one = text(args, "director");
	size_t i;

	if (!one == (json_array_size(list) == 0))
		return err_set(err, -EINVAL, one ? "%s: director and directors: give one of the two" :
						   "%s: director (or directors) is missing", place);
	if (json_array_size(list) > SERVICE_DIRECTORS_MAX)
		return err_set(err, -EINVAL, "%s: more than %d directors", place, SERVICE_DIRECTORS_MAX);
	if (one)
		v->directors[v->n_directors++] = site_node(s, one);
	json_array_foreach(list, i, j) {
		struct node *n = site_node(s, json_string_value(j));

		if (service_has_director(v, n))
			return err_set(err, -EINVAL, "%s: director %s is there twice", place, n->name);
		v->directors[v->n_directors++] = n;
	}
	return 0;
}

static int parse_service(struct site *s, const json_t *j, struct err *err)
{
	static const struct param params[] = {
		{.name = "name", .type = PARAM_STRING, .required = true, .help = "what scenarios call it"},
		{.name = "protocol", .type = PARAM_STRING, .values = "tcp|udp", .deflt = "tcp"},
		{.name = "port", .type = PARAM_INT, .min = 1, .max = 65535, .required = true, .help = "of the virtual address"},
		{.name = "vips", .type = PARAM_LIST, .of = PARAM_ADDR, .required = true, .help = "virtual addresses"},
		{.name = "scheduler", .type = PARAM_STRING, .deflt = "wrr"},
		{.name = "forward", .type = PARAM_STRING, .values = "dr|nat|tun", .deflt = "dr"},
		{.name = "director", .type = PARAM_NODE, .help = "the node that schedules"},
		{.name = "directors", .type = PARAM_LIST, .of = PARAM_NODE, .help = "the nodes that may; the first one does at first"},
		{.name = "servers", .type = PARAM_LIST, .of = PARAM_MAP, .required = true, .help = "real servers"},
		PARAM_END,
	};
	const struct param_names names = site_names(s);
	struct service *v = &s->services[s->n_services];
	_cleanup_json_ json_t *shallow = json_copy((json_t *)j), *args = NULL;
	const char *name = text(j, "name");
	const json_t *vip;
	char place[192];
	size_t i;
	int r;

	snprintf(place, sizeof(place), "site %s: service %s", s->name, name ? name : "?");
	if (!valid_name(name, 31))
		return err_set(err, -EINVAL, "%s: name is missing or not 1 to 31 letters, digits, - and _", place);
	/* the servers are tables of mixed values: parse_servers() checks them */
	json_object_set_new(shallow, "servers", json_array());
	r = param_check(params, place, shallow, &names, &args, err);
	if (r < 0)
		return r;
	if (site_service(s, name))
		return err_set(err, -EINVAL, "%s is there twice", place);
	v->name = strdup(name);
	if (!v->name)
		return -ENOMEM;
	s->service_names[s->n_services++] = v->name;
	v->protocol = streq(text(args, "protocol"), "udp") ? IPPROTO_UDP : IPPROTO_TCP;
	v->port = (uint16_t)json_integer_value(json_object_get(args, "port"));
	if (!valid_name(text(args, "scheduler"), sizeof(v->scheduler) - 1))
		return err_set(err, -EINVAL, "%s: scheduler = \"%s\" is no scheduler's name", place,
			text(args, "scheduler"));
	strcpy(v->scheduler, text(args, "scheduler"));
	snprintf(v->forward, sizeof(v->forward), "%s", text(args, "forward"));
	r = parse_directors(s, v, args, place, err);
	if (r < 0)
		return r;
	if (json_array_size(json_object_get(args, "vips")) > SERVICE_VIPS_MAX)
		return err_set(err, -EINVAL, "%s: more than %d virtual addresses", place, SERVICE_VIPS_MAX);
	json_array_foreach(json_object_get(args, "vips"), i, vip)
		snprintf(v->vips[v->n_vips++], sizeof(v->vips[0]), "%s", json_string_value(vip));
	return parse_servers(s, v, json_object_get(j, "servers"), place, err);
}

/* A list of nodes into @to; *ret_n of them */
static int parse_nodes(const struct site *s, const json_t *list, const char *place, const char *what, struct node **to,
	size_t *ret_n, struct err *err)
{
	const json_t *j;
	size_t i;

	if (json_array_size(list) > DATABASE_NODES_MAX)
		return err_set(err, -E2BIG, "%s: %s: more than %d nodes", place, what, DATABASE_NODES_MAX);
	json_array_foreach(list, i, j) {
		struct node *n = site_node(s, json_string_value(j));

		for (size_t k = 0; k < i; k++)
			if (to[k] == n)
				return err_set(err, -EINVAL, "%s: %s: %s is there twice", place, what, n->name);
		to[i] = n;
	}
	*ret_n = i;
	return 0;
}

static int parse_database(struct site *s, const json_t *j, struct err *err)
{
	static const struct param params[] = {
		{.name = "name", .type = PARAM_STRING, .required = true, .help = "what scenarios and sentinels call it"},
		{.name = "kind", .type = PARAM_STRING, .values = "redis", .required = true, .help = "whose protocol it speaks"},
		{.name = "port", .type = PARAM_INT, .min = 1, .max = 65535, .deflt = "6379", .help = "of each node"},
		{.name = "nodes", .type = PARAM_LIST, .of = PARAM_NODE, .required = true, .help = "the primary first, then its replicas"},
		{.name = "sentinels", .type = PARAM_LIST, .of = PARAM_NODE, .help = "who elects another primary"},
		{.name = "sentinel_port", .type = PARAM_INT, .min = 1, .max = 65535, .deflt = "26379", .help = "of each sentinel"},
		PARAM_END,
	};
	const struct param_names names = site_names(s);
	struct database *d = &s->databases[s->n_databases];
	_cleanup_json_ json_t *args = NULL;
	const char *name = text(j, "name");
	char place[192];
	int r;

	snprintf(place, sizeof(place), "site %s: database %s", s->name, name ? name : "?");
	if (!valid_name(name, 31))
		return err_set(err, -EINVAL, "%s: name is missing or not 1 to 31 letters, digits, - and _", place);
	r = param_check(params, place, j, &names, &args, err);
	if (r < 0)
		return r;
	if (site_database(s, name))
		return err_set(err, -EINVAL, "%s is there twice", place);
	d->name = strdup(name);
	if (!d->name)
		return -ENOMEM;
	s->database_names[s->n_databases++] = d->name;
	snprintf(d->kind, sizeof(d->kind), "%s", text(args, "kind"));
	d->port = (uint16_t)json_integer_value(json_object_get(args, "port"));
	d->sentinel_port = (uint16_t)json_integer_value(json_object_get(args, "sentinel_port"));
	r = parse_nodes(s, json_object_get(args, "nodes"), place, "nodes", d->nodes, &d->n_nodes, err);
	if (r == 0)
		r = parse_nodes(s, json_object_get(args, "sentinels"), place, "sentinels", d->sentinels, &d->n_sentinels, err);
	if (r == 0 && d->n_nodes == 0)
		return err_set(err, -EINVAL, "%s: nodes is empty", place);
	return r;
}

static int check_keys(const char *place, const json_t *j, const char *const *known, struct err *err)
{
	const char *key;
	const json_t *v;

	json_object_foreach((json_t *)j, key, v) {
		const char *const *k = known;
		const char *near;

		while (*k && !streq(*k, key))
			k++;
		if (*k)
			continue;
		near = str_nearest(key, known);
		err_set(err, -EINVAL, "%s: unknown key \"%.64s\"", place, key);
		if (near)
			err_hint(err, "did you mean \"%s\"?", near);
		return -EINVAL;
	}
	return 0;
}

int site_from_json(const json_t *j, struct site **ret, struct err *err)
{
	static const char *const site_keys[] = {
		"name", "summary", "switches", "nodes", "services", "databases", "options", NULL};
	static const char *const node_keys[] = {"name", "links", "lo", "sysctl", "daemons", "routes", "roles", NULL};
	_cleanup_site_ struct site *s = calloc(1, sizeof(*s));
	const char *name = text(j, "name");
	const json_t *e;
	char place[128];
	size_t i;
	int r;

	if (!s)
		return -ENOMEM;
	if (!valid_name(name, 31))
		return err_set(err, -EINVAL, "site: name is missing or not 1 to 31 letters, digits, - and _");
	s->name = strdup(name);
	s->json = json_incref((json_t *)j);
	s->nodes = calloc(SITE_NODES_MAX, sizeof(*s->nodes));
	s->node_names = calloc(SITE_NODES_MAX + 1, sizeof(*s->node_names));
	s->setting_nodes = calloc(SITE_NODES_MAX + 2, sizeof(*s->setting_nodes));
	s->host = node_new(SITE_HOST, NULL);
	s->services = calloc(SITE_SERVICES_MAX, sizeof(*s->services));
	s->service_names = calloc(SITE_SERVICES_MAX + 1, sizeof(*s->service_names));
	s->databases = calloc(SITE_DATABASES_MAX, sizeof(*s->databases));
	s->database_names = calloc(SITE_DATABASES_MAX + 1, sizeof(*s->database_names));
	if (!s->name || !s->nodes || !s->node_names || !s->setting_nodes || !s->host || !s->services || !s->service_names ||
		!s->databases || !s->database_names)
		return -ENOMEM;
	snprintf(place, sizeof(place), "site %s", name);
	r = check_keys(place, j, site_keys, err);
	if (r < 0)
		return r;
	json_array_foreach(json_object_get(j, "switches"), i, e)
		if (!valid_name(json_string_value(e), 15))
			return err_set(err, -EINVAL,
				"site %s: switch %zu: its name is not 1 to 15 letters, digits, - and _", name, i + 1);
	if (json_array_size(json_object_get(j, "nodes")) == 0)
		return err_set(err, -EINVAL, "site %s: nodes is missing or empty", name);
	if (json_array_size(json_object_get(j, "nodes")) > SITE_NODES_MAX ||
		json_array_size(json_object_get(j, "services")) > SITE_SERVICES_MAX ||
		json_array_size(json_object_get(j, "databases")) > SITE_DATABASES_MAX)
		return err_set(err, -E2BIG, "site %s: more than %d nodes, %d services or %d databases", name, SITE_NODES_MAX,
			SITE_SERVICES_MAX, SITE_DATABASES_MAX);
	json_array_foreach(json_object_get(j, "nodes"), i, e) {
		r = parse_node(s, e, err);
		if (r < 0)
			return r;
		snprintf(place, sizeof(place), "site %s: node %s", name, s->node_names[s->n_nodes - 1]);
		r = check_keys(place, e, node_keys, err);
		if (r < 0)
			return r;
	}
	json_array_foreach(json_object_get(j, "services"), i, e) {
		r = parse_service(s, e, err);
		if (r < 0)
			return r;
	}
	json_array_foreach(json_object_get(j, "databases"), i, e) {
		r = parse_database(s, e, err);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(s);
	return 0;
}

struct node *site_node(const struct site *s, const char *name)
{
	for (size_t i = 0; i < s->n_nodes; i++)
		if (streq(s->nodes[i]->name, name))
			return s->nodes[i];
	return streq(name, SITE_HOST) ? s->host : NULL;
}

bool service_has_director(const struct service *v, const struct node *n)
{
	for (size_t i = 0; i < v->n_directors; i++)
		if (v->directors[i] == n)
			return true;
	return false;
}

struct service *site_service(const struct site *s, const char *name)
{
	for (size_t i = 0; i < s->n_services; i++)
		if (streq(s->services[i].name, name))
			return &s->services[i];
	return NULL;
}

struct database *site_database(const struct site *s, const char *name)
{
	for (size_t i = 0; i < s->n_databases; i++)
		if (streq(s->databases[i].name, name))
			return &s->databases[i];
	return NULL;
}

const char *site_node_addr(const struct node *n, int family, char buf[64])
{
	for (size_t i = 0; i < n->n_links; i++) {
		const struct node_link *l = &n->links[i];

		for (size_t k = 0; k < l->n_addrs; k++) {
			if ((strchr(l->addrs[k], ':') ? AF_INET6 : AF_INET) != family)
				continue;
			snprintf(buf, 64, "%.*s", (int)strcspn(l->addrs[k], "/"), l->addrs[k]);
			return buf;
		}
	}
	return NULL;
}

const char *site_server_addr(const struct service_server *srv, int family, char buf[64])
{
	return site_node_addr(srv->node, family, buf);
}

struct param_names site_names(const struct site *s)
{
	return (struct param_names){
		.nodes = s->node_names, .services = s->service_names, .databases = s->database_names};
}

struct param_names site_setting_names(const struct site *s)
{
	return (struct param_names){
		.nodes = s->setting_nodes, .services = s->service_names, .databases = s->database_names};
}
