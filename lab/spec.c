/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/spec.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/str.h"
#include "engine/units.h"
#include "lab/lab.h"

const char *lab_root = "/run/muster/lab";

static void free_ns(struct lab_ns *ns)
{
	for (size_t i = 0; i < ns->n_sysctls; i++) {
		free(ns->sysctls[i].key);
		free(ns->sysctls[i].path);
		free(ns->sysctls[i].value);
	}
	free(ns->sysctls);
	free(ns->lo);
	free(ns->routes);
	free(ns->name);
	free(ns->path);
}

static void free_daemon(struct lab_daemon *d)
{
	for (char **a = d->argv; a && *a; a++)
		free(*a);
	for (size_t i = 0; i < d->n_files; i++) {
		free(d->files[i].name);
		free(d->files[i].content);
	}
	free(d->argv);
	free(d->files);
	free(d->name);
	free(d->package);
	free(d->dir);
}

void lab_spec_free(struct lab_spec *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_daemons; i++)
		free_daemon(&s->daemons[i]);
	for (size_t i = 0; i < s->n_ns; i++)
		free_ns(&s->ns[i]);
	free(s->daemons);
	free(s->ns);
	free(s->dir);
	site_free(s->site);
	free(s);
}

int lab_addr_parse(const char *s, struct lab_addr *ret)
{
	const char *slash = strchr(s, '/');
	char host[INET6_ADDRSTRLEN];
	size_t len = slash ? (size_t)(slash - s) : strlen(s);
	struct lab_addr a = {.family = strchr(s, ':') ? AF_INET6 : AF_INET};
	int64_t prefix = a.family == AF_INET6 ? 128 : 32;

	if (len >= sizeof(host))
		return -EINVAL;
	memcpy(host, s, len);
	host[len] = '\0';
	if (inet_pton(a.family, host, a.addr) != 1)
		return -EINVAL;
	if (slash && units_int(slash + 1, 0, prefix, &prefix) < 0)
		return -EINVAL;
	a.prefix = (unsigned int)prefix;
	*ret = a;
	return 0;
}

static int parse_lo(struct lab_ns *ns, const json_t *lo, const char *place, struct err *err)
{
	const json_t *j;
	size_t i;

	if (!lo)
		return 0;
	if (!json_is_array(lo) || json_array_size(lo) > NODE_ADDRS_MAX)
		return err_set(err, -EINVAL, "%s: lo is not a list of at most %d addresses", place,
			NODE_ADDRS_MAX);
	ns->lo = calloc(json_array_size(lo) + 1, sizeof(*ns->lo));
	if (!ns->lo)
		return -ENOMEM;
	json_array_foreach(lo, i, j) {
		const char *s = json_string_value(j);

		if (!s || lab_addr_parse(s, &ns->lo[ns->n_lo++]) < 0)
			return err_set(err, -EINVAL,
				"%s: lo: \"%.64s\" is no address such as 198.18.0.100/32", place,
				s ? s : "?");
	}
	return 0;
}

/*
 * The device that a key speaks of, if it is a link of the node: net.ipv4.conf.DEV.x,
 * net.ipv6.neigh.DEV.x. Such keys do not exist before the link does. "all", "default" and "lo"
 * always exist.
 */
static const char *sysctl_dev(const struct node *n, const char *path)
{
	static const char *const tables[] = {
		"net/ipv4/conf/", "net/ipv6/conf/", "net/ipv4/neigh/", "net/ipv6/neigh/"};

	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		size_t skip = strlen(tables[i]);

		if (strncmp(path, tables[i], skip) != 0)
			continue;
		for (size_t k = 0; k < n->n_links; k++) {
			size_t len = strlen(n->links[k].dev);

			if (strncmp(path + skip, n->links[k].dev, len) == 0 &&
				path[skip + len] == '/')
				return n->links[k].dev;
		}
	}
	return NULL;
}

/* As sysctl(8) has it: dots separate, unless the first separator is a slash. */
static char *sysctl_path(const char *key)
{
	char *path = strdup(key);
	size_t first = strcspn(key, "./");

	if (path && key[first] == '.')
		for (char *p = path; *p; p++)
			*p = *p == '.' ? '/' : *p == '/' ? '.' : *p;
	return path;
}

static int parse_sysctls(
	struct lab_ns *ns, const json_t *sysctls, const char *place, struct err *err)
{
	const char *key;
	const json_t *j;

	if (!sysctls)
		return 0;
	if (!json_is_object(sysctls) || json_object_size(sysctls) > LAB_SYSCTLS_MAX)
		return err_set(err, -EINVAL, "%s: sysctl is not a table of at most %d keys", place,
			LAB_SYSCTLS_MAX);
	ns->sysctls = calloc(json_object_size(sysctls) + 1, sizeof(*ns->sysctls));
	if (!ns->sysctls)
		return -ENOMEM;
	json_object_foreach((json_t *)sysctls, key, j) {
		struct lab_sysctl *s = &ns->sysctls[ns->n_sysctls++];

		s->key = strdup(key);
		s->path = sysctl_path(key);
		s->value = json_is_integer(j)  ? strf("%lld", (long long)json_integer_value(j))
			   : json_is_string(j) ? strdup(json_string_value(j))
					       : NULL;
		if (!s->key || !s->path)
			return -ENOMEM;
		if (!s->value)
			return err_set(err, -EINVAL,
				"%s: sysctl %s: its value is neither text nor an integer", place,
				key);
		/*
		 * Only net.* has a value of its own in a network namespace: anything else would
		 * change this host.
		 */
		if (strncmp(s->path, "net/", 4) != 0 || strstr(s->path, "..") ||
			strstr(s->path, "//"))
			return err_set(err, -EINVAL,
				"%s: sysctl %s: only net.* belongs to a node of a lab", place, key);
		s->dev = sysctl_dev(ns->node, s->path);
	}
	return 0;
}

static int parse_routes(struct lab_ns *ns, const json_t *routes, const char *place, struct err *err)
{
	static const struct param params[] = {
		{.name = "to",
			.type = PARAM_STRING,
			.required = true,
			.help = "\"default\" or a network"},
		{.name = "via", .type = PARAM_ADDR, .help = "the gateway"},
		{.name = "dev", .type = PARAM_STRING, .help = "a link of the node"},
		PARAM_END,
	};
	const json_t *j;
	size_t i;

	if (!routes)
		return 0;
	if (!json_is_array(routes) || json_array_size(routes) > 64)
		return err_set(
			err, -EINVAL, "%s: routes is not a list of at most 64 routes", place);
	ns->routes = calloc(json_array_size(routes) + 1, sizeof(*ns->routes));
	if (!ns->routes)
		return -ENOMEM;
	json_array_foreach(routes, i, j) {
		struct lab_route *t = &ns->routes[ns->n_routes++];
		_cleanup_json_ json_t *args = NULL;
		const char *to, *via, *dev;
		char where[224];
		int r;

		snprintf(where, sizeof(where), "%s: route %zu", place, i + 1);
		r = param_check(params, where, j, NULL, &args, err);
		if (r < 0)
			return r;
		to = json_string_value(json_object_get(args, "to"));
		via = json_string_value(json_object_get(args, "via"));
		dev = json_string_value(json_object_get(args, "dev"));
		t->has_via = via != NULL;
		if (via && lab_addr_parse(via, &t->via) < 0)
			return err_set(
				err, -EINVAL, "%s: via = \"%.64s\" is no address", where, via);
		if (streq(to, "default"))
			t->to.family = via ? t->via.family : AF_INET;
		else if (lab_addr_parse(to, &t->to) < 0)
			return err_set(err, -EINVAL,
				"%s: to = \"%.64s\" is neither \"default\" nor a network", where,
				to);
		if (via && t->to.family != t->via.family)
			return err_set(
				err, -EINVAL, "%s: the gateway is of the other family", where);
		for (size_t k = 0; dev && k < ns->node->n_links; k++)
			if (streq(ns->node->links[k].dev, dev))
				t->dev = ns->node->links[k].dev;
		if (dev && !t->dev)
			return err_set(err, -EINVAL, "%s: the node has no link %.64s", where, dev);
		if (!dev && !via)
			return err_set(err, -EINVAL, "%s: neither via nor dev is given", where);
	}
	return 0;
}

static int expand(const char *text, const struct lab_daemon *d, const char *site, const char *place,
	char **ret, struct err *err)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	while (*text) {
		const char *mark = strstr(text, "%{");
		const char *end = mark ? strchr(mark, '}') : NULL;

		if (!mark) {
			strbuf_puts(&b, text);
			break;
		}
		strbuf_add(&b, text, (size_t)(mark - text));
		if (end && end - mark == 5 && strncmp(mark, "%{dir}", 6) == 0)
			strbuf_puts(&b, d->dir);
		else if (end && strncmp(mark, "%{node}", 7) == 0)
			strbuf_puts(&b, d->ns->label);
		else if (end && strncmp(mark, "%{site}", 7) == 0)
			strbuf_puts(&b, site);
		else
			return err_set(err, -EINVAL,
				"%s: unknown placeholder %.16s (there are %%{dir}, %%{node} and "
				"%%{site})",
				place, mark);
		text = end + 1;
	}
	if (b.oom)
		return -ENOMEM;
	*ret = b.s ? TAKE_PTR(b.s) : strdup("");
	return *ret ? 0 : -ENOMEM;
}

/* A path that stays below the folder: no "..", no leading slash, no empty part */
static bool inside(const char *path)
{
	if (!*path || strlen(path) > 200)
		return false;
	for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) {
		size_t len = strcspn(p, "/");

		if (len == 0 || (len == 1 && p[0] == '.') ||
			(len == 2 && p[0] == '.' && p[1] == '.'))
			return false;
	}
	return true;
}

static int parse_ready(
	struct lab_daemon *d, const json_t *ready, const char *place, struct err *err)
{
	static const struct param ipvs_params[] = {
		{.name = "destinations",
			.type = PARAM_INT,
			.min = 1,
			.max = 65535,
			.required = true,
			.help = "destinations with a weight above 0, over all services"},
		PARAM_END,
	};
	static const struct param params[] = {
		{.name = "listen",
			.type = PARAM_INT,
			.min = 1,
			.max = 65535,
			.help = "TCP port that is listened on"},
		{.name = "address", .type = PARAM_ADDR, .help = "an address that a link of the node has by then"},
		PARAM_END,
	};
	_cleanup_json_ json_t *args = NULL;
	const json_t *ipvs = json_object_get(ready, "ipvs");
	int r;

	if (!ready)
		return 0;
	if (ipvs && json_object_size(ready) == 1) {
		r = param_check(ipvs_params, place, ipvs, NULL, &args, err);
		if (r < 0)
			return r;
		d->ready = LAB_READY_IPVS;
		d->destinations =
			(unsigned int)json_integer_value(json_object_get(args, "destinations"));
		return 0;
	}
	r = param_check(params, place, ready, NULL, &args, err);
	if (r < 0)
		return r;
	if (!json_object_get(args, "listen") == !json_object_get(args, "address"))
		return err_set(err, -EINVAL, "%s: give one of listen, ipvs and address", place);
	if (json_object_get(args, "address")) {
		d->ready = LAB_READY_ADDRESS;
		return lab_addr_parse(json_string_value(json_object_get(args, "address")), &d->address);
	}
	d->ready = LAB_READY_LISTEN;
	d->listen_port = (uint16_t)json_integer_value(json_object_get(args, "listen"));
	return 0;
}

static bool valid_name(const char *s)
{
	if (!isalpha((unsigned char)*s) || strlen(s) > 31)
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && *s != '-' && *s != '_')
			return false;
	return true;
}

static int parse_daemon(struct lab_spec *s, const struct lab_ns *ns, const json_t *j,
	const char *place, struct err *err)
{
	static const struct param params[] = {
		{.name = "name",
			.type = PARAM_STRING,
			.required = true,
			.help = "names its folder"},
		{.name = "argv",
			.type = PARAM_LIST,
			.of = PARAM_STRING,
			.required = true,
			.help = "program and arguments"},
		{.name = "files",
			.type = PARAM_MAP,
			.of = PARAM_STRING,
			.help = "name and content, in its folder"},
		{.name = "package",
			.type = PARAM_STRING,
			.help = "Debian's package of the program"},
		{.name = "order",
			.type = PARAM_INT,
			.min = 0,
			.max = 100,
			.deflt = "0",
			.help = "when it is started"},
		{.name = "within",
			.type = PARAM_DURATION,
			.deflt = LAB_WITHIN_DEFAULT,
			.help = "until it has to be ready"},
		PARAM_END,
	};
	struct lab_daemon *d = &s->daemons[s->n_daemons++];
	_cleanup_json_ json_t *rest = NULL, *args = NULL;
	const char *key;
	const json_t *v;
	char where[256];
	size_t i, n;
	int r;

	*d = (struct lab_daemon){.ns = ns};
	if (!json_is_object(j))
		return err_set(err, -EINVAL, "%s is not a table", place);
	rest = json_copy((json_t *)j);
	if (!rest)
		return -ENOMEM;
	json_object_del(rest, "ready"); /* a table of tables: parse_ready() checks it */
	r = param_check(params, place, rest, NULL, &args, err);
	if (r < 0)
		return r;
	d->name = strdup(json_string_value(json_object_get(args, "name")));
	if (!d->name)
		return -ENOMEM;
	if (!valid_name(d->name))
		return err_set(err, -EINVAL, "%s: its name is not 1 to 31 letters, digits, - and _",
			place);
	for (const struct lab_daemon *o = s->daemons; o < d; o++)
		if (o->ns == ns && streq(o->name, d->name))
			return err_set(err, -EINVAL, "%s: %s is there twice", place, d->name);
	snprintf(where, sizeof(where) - sizeof(": ready"), "%s (%s)", place, d->name);
	d->dir = strf("%s/%s/%s", s->dir, ns->label, d->name);
	d->order = (int)json_integer_value(json_object_get(args, "order"));
	d->within = json_integer_value(json_object_get(args, "within"));
	v = json_object_get(args, "package");
	if (v)
		d->package = strdup(json_string_value(v));
	n = json_array_size(json_object_get(args, "argv"));
	if (n == 0 || n > 64)
		return err_set(err, -EINVAL, "%s: argv is not a list of 1 to 64 words", where);
	d->argv = calloc(n + 1, sizeof(*d->argv));
	d->files = calloc(json_object_size(json_object_get(args, "files")) + 1, sizeof(*d->files));
	if (!d->dir || (v && !d->package) || !d->argv || !d->files)
		return -ENOMEM;
	json_array_foreach(json_object_get(args, "argv"), i, v) {
		r = expand(json_string_value(v), d, s->site->name, where, &d->argv[i], err);
		if (r < 0)
			return r;
	}
	json_object_foreach(json_object_get(args, "files"), key, v) {
		struct lab_file *f = &d->files[d->n_files++];

		if (!inside(key))
			return err_set(err, -EINVAL,
				"%s: file \"%.64s\" would lie outside the daemon's folder", where,
				key);
		f->name = strdup(key);
		if (!f->name)
			return -ENOMEM;
		r = expand(json_string_value(v), d, s->site->name, where, &f->content, err);
		if (r < 0)
			return r;
	}
	strcat(where, ": ready");
	return parse_ready(d, json_object_get(j, "ready"), where, err);
}

static int new_ns(struct lab_spec *s, const char *label, const struct node *node)
{
	struct lab_ns *ns = &s->ns[s->n_ns++];

	ns->label = label;
	ns->node = node;
	ns->name = strf("muster-%s-%s", s->site->name, label);
	ns->path = strf(LAB_NETNS_DIR "/muster-%s-%s", s->site->name, label);
	for (size_t i = 0; node && i < node->n_links; i++)
		for (size_t k = 0; k < node->links[i].n_addrs; k++) {
			if (strchr(node->links[i].addrs[k], ':'))
				ns->ipv6 = true;
			else
				ns->ipv4 = true;
		}
	return ns->name && ns->path ? 0 : -ENOMEM;
}

static int parse_node(struct lab_spec *s, const json_t *j, struct err *err)
{
	const struct node *node = site_node(s->site, json_string_value(json_object_get(j, "name")));
	const json_t *daemons = json_object_get(j, "daemons"), *d;
	struct lab_ns *ns = &s->ns[s->n_ns];
	char place[160], where[192];
	size_t i;
	int r = new_ns(s, node->name, node);

	snprintf(place, sizeof(place), "site %s: node %s", s->site->name, node->name);
	if (r == 0)
		r = parse_lo(ns, json_object_get(j, "lo"), place, err);
	if (r == 0)
		r = parse_sysctls(ns, json_object_get(j, "sysctl"), place, err);
	if (r == 0)
		r = parse_routes(ns, json_object_get(j, "routes"), place, err);
	if (r == 0 && daemons &&
		(!json_is_array(daemons) || json_array_size(daemons) > LAB_DAEMONS_MAX))
		return err_set(err, -EINVAL, "%s: daemons is not a list of at most %d", place,
			LAB_DAEMONS_MAX);
	json_array_foreach(daemons, i, d) {
		if (r < 0)
			break;
		snprintf(where, sizeof(where), "%s: daemon %zu", place, i + 1);
		r = parse_daemon(s, ns, d, where, err);
	}
	return r;
}

/* Stable: within one order they start as they are written. */
static void sort_daemons(struct lab_spec *s)
{
	for (size_t i = 1; i < s->n_daemons; i++) {
		struct lab_daemon d = s->daemons[i];
		size_t k = i;

		for (; k > 0 && s->daemons[k - 1].order > d.order; k--)
			s->daemons[k] = s->daemons[k - 1];
		s->daemons[k] = d;
	}
}

int lab_spec_new(const json_t *site, struct lab_spec **ret, struct err *err)
{
	_cleanup_lab_spec_ struct lab_spec *s = calloc(1, sizeof(*s));
	const json_t *nodes, *switches, *j;
	size_t i, n_daemons = 0;
	int r;

	if (!s)
		return -ENOMEM;
	r = site_from_json(site, &s->site, err);
	if (r == 0)
		r = lab_bind(s->site, err);
	if (r < 0)
		return r;
	s->dir = strf("%s/%s", lab_root, s->site->name);
	nodes = json_object_get(site, "nodes");
	switches = json_object_get(site, "switches");
	json_array_foreach(nodes, i, j)
		n_daemons += json_array_size(json_object_get(j, "daemons"));
	s->ns = calloc(json_array_size(nodes) + json_array_size(switches) + 1, sizeof(*s->ns));
	s->daemons = calloc(n_daemons + 1, sizeof(*s->daemons));
	if (!s->dir || !s->ns || !s->daemons)
		return -ENOMEM;
	json_array_foreach(switches, i, j) {
		r = new_ns(s, json_string_value(j), NULL);
		if (r < 0)
			return r;
	}
	json_array_foreach(nodes, i, j) {
		r = parse_node(s, j, err);
		if (r < 0)
			return r;
	}
	for (i = 0; i < s->site->n_nodes; i++)
		for (size_t l = 0; l < s->site->nodes[i]->n_links; l++)
			for (size_t k = 0; k < s->site->nodes[i]->links[l].n_addrs; k++) {
				struct lab_addr a;

				if (lab_addr_parse(s->site->nodes[i]->links[l].addrs[k], &a) < 0)
					return err_set(err, -EINVAL,
						"site %s: node %s: \"%s\" is no address",
						s->site->name, s->site->nodes[i]->name,
						s->site->nodes[i]->links[l].addrs[k]);
			}
	sort_daemons(s);
	*ret = TAKE_PTR(s);
	return 0;
}
