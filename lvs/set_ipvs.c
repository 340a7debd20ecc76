/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.ipvs: virtual services, their schedulers, servers and weights.
 *
 * Three ways to ask for it:
 *
 *	{ service = "web", weights = { rs1 = 5, rs2 = 1 } }	weights of servers that are in the table
 *	{ service = "web", scheduler = "wlc" }			another scheduler (and weights too, if given)
 *	{ service = "web" }					all as the site declares it; what is missing is added
 *	{ node = "director", vip = "198.18.0.100", port = 8080, scheduler = "wrr", forward = "dr",
 *	  servers = { rs1 = 3, ["198.18.0.22"] = 5 } }		a service of one's own; servers by name or address
 *
 * resolve turns all of them into plain addresses, which the rest lives on:
 *
 *	"targets": [ {"vip", "port", "protocol", "create": bool, "scheduler"?, "forward"?, "declared_forward",
 *	              "dests": [ {"name", "addr", "port", "weight"} ] } ]
 *
 * prior = { "targets": [ {"service": null | tuple, "dests": [ null | tuple, ... ]} ] }, parallel to the
 * targets. A tuple is all that the kernel lets one configure, read from it: a change of a server rewrites
 * the whole tuple, so that what is put back must be whole. "last_weight" is the last weight above 0 as
 * far as it can be known; the kernel keeps one to itself (hash schedulers use it for servers at 0), and
 * it cannot be written without giving the server traffic, so it is evidence and not restored.
 *
 * Undo compares server by server: ours is the prior tuple with the wanted weight (and forwarding) in it.
 * A health checker such as keepalived owns the weights too: what it has changed meanwhile is left alone,
 * and reported. A server that was as wanted from the beginning was not changed, and whatever becomes of
 * it is nobody's residue.
 */
#include <arpa/inet.h>
#include <linux/ip_vs.h>
#include <stdio.h>
#include <string.h>

#include "engine/change.h"
#include "engine/site.h"
#include "lvs/ipvs.h"

/* ── arguments to targets ─────────────────────────────────────────────────────────────────── */

static const char *text(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

static json_t *dest_arg(const char *name, const char *addr, unsigned int port, json_int_t weight)
{
	return json_pack("{s:s, s:s, s:i, s:I}", "name", name, "addr", addr, "port", (int)port,
		"weight", weight);
}

static int server_of(const struct service *s, const char *name)
{
	for (size_t i = 0; i < s->n_servers; i++)
		if (streq(s->servers[i].node->name, name))
			return (int)i;
	return -1;
}

static int check_names(const struct service *s, const json_t *weights, struct err *err)
{
	_cleanup_free_ const char **names = calloc(s->n_servers + 1, sizeof(*names));
	const json_t *w;
	const char *name;

	if (!names)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < s->n_servers; i++)
		names[i] = s->servers[i].node->name;
	json_object_foreach((json_t *)weights, name, w) {
		const char *near;

		if (server_of(s, name) >= 0)
			continue;
		err_set(err, -EINVAL, "set.ipvs: weights: service %s has no server \"%.64s\"",
			s->name, name);
		near = str_nearest(name, names);
		if (near)
			err_hint(err, "did you mean \"%s\"?", near);
		return -EINVAL;
	}
	return 0;
}

/* A service of the site, at each of its addresses */
static int resolve_service(const struct site *site, json_t *args, json_t *targets, struct err *err)
{
	static const char *const own[] = {"vip", "port", "protocol", "forward", "servers"};
	const struct service *s = site_service(site, text(args, "service"));
	const json_t *weights = json_object_get(args, "weights");
	const char *scheduler = text(args, "scheduler");
	bool create = !weights && !scheduler;
	int r;

	if (!s)
		return err_set(err, -EINVAL, "set.ipvs: the site has no service \"%s\"",
			text(args, "service"));
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		if (json_object_get(args, own[i]))
			return err_set(err, -EINVAL,
				"set.ipvs: %s is the site's to say when service is given", own[i]);
	r = check_names(s, weights, err);
	if (r < 0)
		return r;
	if (!json_object_get(args, "node"))
		json_object_set_new(args, "node", json_string(s->directors[0]->name));
	for (size_t v = 0; v < s->n_vips; v++) {
		int family = strchr(s->vips[v], ':') ? AF_INET6 : AF_INET;
		json_t *dests = json_array(), *t;

		for (size_t i = 0; i < s->n_servers; i++) {
			const char *name = s->servers[i].node->name;
			const json_t *w = json_object_get(weights, name);
			char buf[64];
			const char *addr = site_server_addr(&s->servers[i], family, buf);

			if (addr && (w || create))
				json_array_append_new(dests,
					dest_arg(name, addr, s->port,
						w ? json_integer_value(w) : s->servers[i].weight));
		}
		t = json_pack("{s:s, s:i, s:s, s:b, s:s*, s:s*, s:s, s:o}", "vip", s->vips[v],
			"port", (int)s->port, "protocol", ipvs_protocol_name((uint16_t)s->protocol),
			"create", (int)create, "scheduler", create ? s->scheduler : scheduler,
			"forward", create ? s->forward : NULL, "declared_forward", s->forward,
			"dests", dests);
		json_array_append_new(targets, t);
	}
	return 0;
}

/* A service that the site need not know */
static int resolve_own(const struct site *site, json_t *args, json_t *targets, struct err *err)
{
	const char *vip = text(args, "vip"), *forward = text(args, "forward"),
		   *scheduler = text(args, "scheduler");
	const char *protocol = text(args, "protocol"), *name;
	int port = (int)json_integer_value(json_object_get(args, "port"));
	_cleanup_json_ json_t *dests = json_array();
	int family, dest_family;
	const json_t *w;
	uint8_t bin[16];

	if (!vip || !port || !text(args, "node")) {
		err_set(err, -EINVAL, "set.ipvs: wants either service, or node, vip and port");
		err_hint(
			err, "a service of the site: { service = \"web\", weights = { rs1 = 0 } }");
		return -EINVAL;
	}
	if (json_object_get(args, "weights"))
		return err_set(err, -EINVAL,
			"set.ipvs: weights goes with service; with vip the weights stand in servers");
	if (ipvs_addr_parse(vip, &family, bin) < 0)
		return err_set(err, -EINVAL, "set.ipvs: vip = \"%s\" is no address", vip);
	forward = forward ? forward : "dr";
	json_object_foreach(json_object_get(args, "servers"), name, w) {
		const struct node *n = site ? site_node(site, name) : NULL;
		char buf[64];
		const char *addr = n ? site_server_addr(
					       &(struct service_server){.node = (struct node *)n},
					       family, buf)
				     : name;

		if (n && !addr)
			return err_set(err, -EINVAL, "set.ipvs: servers: %s has no %s address",
				name, family == AF_INET6 ? "IPv6" : "IPv4");
		if (ipvs_addr_parse(addr, &dest_family, bin) < 0)
			return err_set(err, -EINVAL,
				"set.ipvs: servers: \"%.64s\" is neither a node of the site nor an address",
				name);
		if (dest_family != family && !streq(forward, "tun"))
			return err_set(err, -EINVAL,
				"set.ipvs: servers: %s is of another family than %s, which only tun can do",
				addr, vip);
		json_array_append_new(
			dests, dest_arg(name, addr, (unsigned int)port, json_integer_value(w)));
	}
	json_array_append_new(
		targets, json_pack("{s:s, s:i, s:s, s:b, s:s, s:s, s:s, s:O}", "vip", vip, "port",
				 port, "protocol", protocol ? protocol : "tcp", "create", 1,
				 "scheduler", scheduler ? scheduler : "wrr", "forward", forward,
				 "declared_forward", forward, "dests", dests));
	return 0;
}

static int set_ipvs_resolve(const struct site *site, json_t *args, struct err *err)
{
	const char *scheduler = text(args, "scheduler");
	_cleanup_json_ json_t *targets = json_array();
	int r;

	/* It becomes part of a module's name */
	if (scheduler && (!*scheduler || strlen(scheduler) >= IPVS_NAME_MAX ||
				 strspn(scheduler, "abcdefghijklmnopqrstuvwxyz0123456789_") !=
					 strlen(scheduler)))
		return err_set(err, -EINVAL,
			"set.ipvs: scheduler = \"%.40s\" is no scheduler's name", scheduler);
	r = text(args, "service") ? resolve_service(site, args, targets, err)
				  : resolve_own(site, args, targets, err);
	if (r < 0)
		return r;
	if (json_object_set(args, "targets", targets) < 0)
		return err_set(err, -ENOMEM, "out of memory");
	return 0;
}

/* ── records ──────────────────────────────────────────────────────────────────────────────── */

/* One server of a target: what it was, and what it is to be */
struct dest_plan {
	const char *name;
	bool existed;
	struct ipvs_dest was, want; /* `was` is the bare key when it did not exist */
};

struct target {
	bool create, existed;
	struct ipvs_service was, want;
	const char *declared_forward;
	size_t n;
	struct dest_plan *dests;
};

static void target_clear(struct target *t)
{
	free(t->dests);
}

static bool dest_unchanged(const struct dest_plan *d)
{
	return d->existed && ipvs_dest_equal(&d->was, &d->want);
}

static bool service_unchanged(const struct target *t)
{
	return t->existed && ipvs_service_equal(&t->was, &t->want);
}

static bool target_unchanged(const struct target *t)
{
	for (size_t i = 0; i < t->n; i++)
		if (!dest_unchanged(&t->dests[i]))
			return false;
	return service_unchanged(t);
}

static json_t *service_record(const struct ipvs_service *s)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:I}", "scheduler", s->scheduler, "pe", s->pe,
		"flags", (json_int_t)s->flags, "timeout", (json_int_t)s->timeout, "netmask",
		(json_int_t)s->netmask);
}

static json_t *dest_record(const struct ipvs_dest *d)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:o}", "forward",
		(json_int_t)d->forward, "weight", (json_int_t)d->weight, "upper_threshold",
		(json_int_t)d->upper_threshold, "lower_threshold", (json_int_t)d->lower_threshold,
		"tun_type", (int)d->tun_type, "tun_port", (int)d->tun_port, "tun_flags",
		(int)d->tun_flags, "last_weight",
		d->weight ? json_integer(d->weight) : json_null());
}

static int service_from_record(const json_t *j, struct ipvs_service *s)
{
	const char *scheduler, *pe;
	json_int_t flags, timeout, netmask;

	if (json_unpack((json_t *)j, "{s:s, s:s, s:I, s:I, s:I}", "scheduler", &scheduler, "pe",
		    &pe, "flags", &flags, "timeout", &timeout, "netmask", &netmask) < 0 ||
		strlen(scheduler) >= sizeof(s->scheduler) || strlen(pe) >= sizeof(s->pe))
		return -EINVAL;
	strcpy(s->scheduler, scheduler);
	strcpy(s->pe, pe);
	s->flags = (uint32_t)flags;
	s->timeout = (uint32_t)timeout;
	s->netmask = (uint32_t)netmask;
	return 0;
}

static int dest_from_record(const json_t *j, struct ipvs_dest *d)
{
	json_int_t forward, weight, upper, lower;
	int type, port, flags;

	if (json_unpack((json_t *)j, "{s:I, s:I, s:I, s:I, s:i, s:i, s:i}", "forward", &forward,
		    "weight", &weight, "upper_threshold", &upper, "lower_threshold", &lower,
		    "tun_type", &type, "tun_port", &port, "tun_flags", &flags) < 0)
		return -EINVAL;
	d->forward = (uint32_t)forward;
	d->weight = (uint32_t)weight;
	d->upper_threshold = (uint32_t)upper;
	d->lower_threshold = (uint32_t)lower;
	d->tun_type = (uint8_t)type;
	d->tun_port = (uint16_t)port;
	d->tun_flags = (uint16_t)flags;
	return 0;
}

static int load_dest(const json_t *arg, const json_t *rec, const char *forward, struct dest_plan *d,
	struct err *err)
{
	struct ipvs_dest key = {.port = (uint16_t)json_integer_value(json_object_get(arg, "port"))};

	d->name = text(arg, "name");
	if (!d->name || !text(arg, "addr") ||
		ipvs_addr_parse(text(arg, "addr"), &key.family, key.addr) < 0)
		return err_set(err, -EINVAL, "set.ipvs: its record is damaged");
	d->was = key;
	if (rec && !json_is_null(rec)) {
		d->existed = true;
		if (dest_from_record(rec, &d->was) < 0)
			return err_set(err, -EINVAL, "set.ipvs: its record is damaged");
	}
	d->want = d->was;
	d->want.weight = (uint32_t)json_integer_value(json_object_get(arg, "weight"));
	if (forward && ipvs_forward_parse(forward, &d->want.forward) < 0)
		return err_set(err, -EINVAL, "set.ipvs: forward \"%s\"", forward);
	return 0;
}

/* @rec: the target's prior state; NULL while there is none yet: then `was` is what a fresh one would be. */
static int load_target(const json_t *arg, const json_t *rec, struct target *ret, struct err *err)
{
	const char *vip = text(arg, "vip"), *scheduler = text(arg, "scheduler");
	const json_t *dests = json_object_get(arg, "dests"),
		     *service = json_object_get(rec, "service"), *d;
	struct target t = {.create = json_is_true(json_object_get(arg, "create")),
		.declared_forward = text(arg, "declared_forward"),
		.was = {.port = (uint16_t)json_integer_value(json_object_get(arg, "port")),
			.protocol = streq(text(arg, "protocol"), "udp") ? IPPROTO_UDP
									: IPPROTO_TCP}};
	size_t i;
	int r = 0;

	if (!vip || ipvs_addr_parse(vip, &t.was.family, t.was.addr) < 0)
		return err_set(err, -EINVAL, "set.ipvs: its record is damaged");
	ipvs_service_default_netmask(&t.was);
	if (service && !json_is_null(service)) {
		t.existed = true;
		if (service_from_record(service, &t.was) < 0)
			return err_set(err, -EINVAL, "set.ipvs: its record is damaged");
	}
	t.want = t.was;
	if (scheduler)
		snprintf(t.want.scheduler, sizeof(t.want.scheduler), "%s", scheduler);
	t.dests = calloc(json_array_size(dests) + 1, sizeof(*t.dests));
	if (!t.dests)
		return err_set(err, -ENOMEM, "out of memory");
	json_array_foreach(dests, i, d) {
		r = load_dest(d, json_array_get(json_object_get(rec, "dests"), i),
			text(arg, "forward"), &t.dests[i], err);
		if (r < 0) {
			target_clear(&t);
			return r;
		}
		t.n++;
	}
	*ret = t;
	return 0;
}

/* ── the life of the change ───────────────────────────────────────────────────────────────── */

static int set_ipvs_supported(const struct node *n, const json_t *args _unused_, struct err *reterr)
{
	_cleanup_ipvs_ struct ipvs *ip = NULL;

	return ipvs_open(n, &ip, reterr);
}

/* The live service and its servers. *ret_there false: no such service; the others are then untouched. */
static int read_live(struct ipvs *ip, const struct ipvs_service *key, bool *ret_there,
	struct ipvs_service *ret_s, struct ipvs_dest **ret_dests, size_t *ret_n, struct err *err)
{
	struct ipvs_service s = *key;
	int r = ipvs_get_service(ip, &s, err);

	if (r == 0)
		r = ipvs_dests(ip, &s, ret_dests, ret_n, err);
	if (r < 0 && r != -ESRCH)
		return r;
	*ret_there = r == 0;
	if (r == 0)
		*ret_s = s;
	return 0;
}

static int capture_target(
	struct ipvs *ip, const struct node *n, const json_t *arg, json_t **ret, struct err *err)
{
	_cleanup_(target_clear) struct target t = {0};
	_cleanup_free_ struct ipvs_dest *live = NULL;
	_cleanup_json_ json_t *dests = json_array();
	struct ipvs_service s;
	char st[IPVS_TEXT_MAX], dt[IPVS_TEXT_MAX];
	bool there;
	size_t n_live = 0;
	int r;

	r = load_target(arg, NULL, &t, err);
	if (r == 0)
		r = read_live(ip, &t.was, &there, &s, &live, &n_live, err);
	if (r < 0)
		return r;
	if (!there && !t.create) {
		err_set(err, -ENOENT, "ipvs on %s: there is no service %s %s to change", n->name,
			ipvs_protocol_name(t.was.protocol), ipvs_fmt_service(st, &t.was));
		err_hint(err,
			"its health checker has not made it yet? { service = NAME } alone makes it as declared");
		return -ENOENT;
	}
	for (size_t i = 0; i < t.n; i++) {
		struct ipvs_dest *d = ipvs_dest_find(live, n_live, &t.dests[i].was);

		if (!d && !t.create)
			return err_set(err, -ENOENT,
				"ipvs on %s: %s (%s) is not in the table of %s: it has no weight to change",
				n->name, t.dests[i].name, ipvs_fmt_dest(dt, &t.dests[i].was),
				ipvs_fmt_service(st, &t.was));
		json_array_append_new(dests, d ? dest_record(d) : json_null());
	}
	*ret = json_pack(
		"{s:o, s:O}", "service", there ? service_record(&s) : json_null(), "dests", dests);
	return *ret ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static int set_ipvs_capture(
	const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	const json_t *targets = json_object_get(args, "targets"), *arg;
	_cleanup_json_ json_t *list = json_array();
	_cleanup_ipvs_ struct ipvs *ip = NULL;
	size_t i;
	int r;

	if (json_array_size(targets) == 0)
		return err_set(err, -EINVAL, "set.ipvs: its arguments were not resolved");
	r = ipvs_open(n, &ip, err);
	if (r < 0)
		return r;
	json_array_foreach(targets, i, arg) {
		json_t *rec;

		r = capture_target(ip, n, arg, &rec, err);
		if (r < 0)
			return r;
		json_array_append_new(list, rec);
	}
	*ret_prior = json_pack("{s:O}", "targets", list);
	return *ret_prior ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static int meanwhile(const struct node *n, const char *what, struct err *err)
{
	err_set(err, -EBUSY, "ipvs on %s: %s changed between being read and being set", n->name,
		what);
	err_hint(err, "a health checker at work? Set it when the service is steady");
	return -EBUSY;
}

static int apply_target(
	struct ipvs *ip, const struct node *n, const struct target *t, struct err *err)
{
	_cleanup_free_ struct ipvs_dest *live = NULL, *after = NULL;
	char st[IPVS_TEXT_MAX], dt[IPVS_TEXT_MAX];
	struct ipvs_service s;
	size_t n_live = 0, n_after = 0;
	bool there;
	int r;

	r = read_live(ip, &t->was, &there, &s, &live, &n_live, err);
	if (r < 0)
		return r;
	ipvs_fmt_service(st, &t->was);
	if (there != t->existed && !(there && ipvs_service_equal(&s, &t->want)))
		return meanwhile(n, st, err);
	if (!there) {
		r = ipvs_add_service(ip, &t->want, err);
	} else if (!ipvs_service_equal(&s, &t->want)) {
		if (!ipvs_service_equal(&s, &t->was))
			return meanwhile(n, st, err);
		r = ipvs_set_service(ip, &t->want, err);
	}
	for (size_t i = 0; r == 0 && i < t->n; i++) {
		const struct dest_plan *d = &t->dests[i];
		const struct ipvs_dest *now = ipvs_dest_find(live, n_live, &d->was);

		if (now && ipvs_dest_equal(now, &d->want))
			continue;
		if (!!now != d->existed || (now && !ipvs_dest_equal(now, &d->was)))
			return meanwhile(n, ipvs_fmt_dest(dt, &d->was), err);
		r = now ? ipvs_set_dest(ip, &t->want, &d->want, err)
			: ipvs_add_dest(ip, &t->want, &d->want, err);
	}
	if (r == 0)
		r = ipvs_dests(ip, &t->want, &after, &n_after, err);
	for (size_t i = 0; r == 0 && i < t->n; i++) {
		const struct dest_plan *d = &t->dests[i];
		const struct ipvs_dest *now = ipvs_dest_find(after, n_after, &d->want);

		if (!now || !ipvs_dest_equal(now, &d->want))
			return err_set(err, -EPROTO,
				"ipvs on %s: %s of %s reads back otherwise than it was set",
				n->name, ipvs_fmt_dest(dt, &d->want), st);
	}
	return r;
}

/*
 * The targets of a record, one at a time; @f gets the connection. Goes on after a failure if @all,
 * returns the worst.
 */
typedef int (*target_fn)(
	struct ipvs *ip, const struct node *n, const struct target *t, struct err *err);

static int each_target(const struct node *n, const json_t *args, const json_t *prior,
	bool backwards, target_fn f, struct err *err)
{
	const json_t *targets = json_object_get(args, "targets"),
		     *records = json_object_get(prior, "targets");
	size_t count = json_array_size(targets);
	_cleanup_ipvs_ struct ipvs *ip = NULL;
	int result = 0, r;

	if (json_array_size(records) != count)
		return err_set(err, -EINVAL, "set.ipvs: its record is damaged");
	r = ipvs_open(n, &ip, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		size_t at = backwards ? count - 1 - i : i;
		_cleanup_(target_clear) struct target t = {0};
		struct err e = {0};

		r = load_target(json_array_get(targets, at), json_array_get(records, at), &t, &e);
		if (r == 0)
			r = f(ip, n, &t, &e);
		if (r != 0 && (result == 0 || (result > 0 && r < 0))) {
			result = r;
			if (err)
				*err = e;
		}
		if (r < 0 && !backwards)
			break;
	}
	return result;
}

static int set_ipvs_apply(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	return each_target(n, args, prior, false, apply_target, err);
}

static void tuple_text(char *buf, size_t size, const struct ipvs_dest *d)
{
	if (!d)
		snprintf(buf, size, "absent");
	else
		snprintf(buf, size, "weight %u %s", d->weight, ipvs_forward_name(d->forward));
}

static int dest_conflict(const struct node *n, const struct target *t, const struct dest_plan *d,
	const struct ipvs_dest *now, struct err *err)
{
	char st[IPVS_TEXT_MAX], is[48], ours[48], was[48];

	tuple_text(is, sizeof(is), now);
	tuple_text(ours, sizeof(ours), &d->want);
	tuple_text(was, sizeof(was), d->existed ? &d->was : NULL);
	err_set(err, CHANGE_CONFLICT,
		"ipvs on %s: %s of %s is %s, neither ours (%s) nor as before (%s)", n->name,
		d->name, ipvs_fmt_service(st, &t->was), is, ours, was);
	err_hint(err, "a health checker such as keepalived sets weights too; left alone");
	return CHANGE_CONFLICT;
}

static int undo_dest(struct ipvs *ip, const struct node *n, const struct target *t,
	const struct dest_plan *d, const struct ipvs_dest *now, struct err *err)
{
	int r;

	if (dest_unchanged(d) || (d->existed ? now && ipvs_dest_equal(now, &d->was) : !now))
		return 0;
	if (!now || !ipvs_dest_equal(now, &d->want))
		return dest_conflict(n, t, d, now, err);
	r = d->existed ? ipvs_set_dest(ip, &t->was, &d->was, err)
		       : ipvs_del_dest(ip, &t->was, &d->want, err);
	/* gone in this very moment, by another hand: as good as done, and verify will look */
	return r == -ENOENT && !d->existed ? 0 : r;
}

/* The service itself, after its servers */
static int undo_service(struct ipvs *ip, const struct node *n, const struct target *t,
	const struct ipvs_service *now, struct err *err)
{
	_cleanup_free_ struct ipvs_dest *left = NULL;
	char st[IPVS_TEXT_MAX], dt[IPVS_TEXT_MAX];
	size_t n_left = 0;
	int r;

	if (service_unchanged(t) || (t->existed && ipvs_service_equal(now, &t->was)))
		return 0;
	if (!ipvs_service_equal(now, &t->want)) {
		err_set(err, CHANGE_CONFLICT,
			"ipvs on %s: %s has the scheduler %s, flags 0x%x, time-out %u, neither ours (%s) nor as "
			"before (%s)",
			n->name, ipvs_fmt_service(st, now), now->scheduler, now->flags,
			now->timeout, t->want.scheduler, t->existed ? t->was.scheduler : "absent");
		return CHANGE_CONFLICT;
	}
	if (t->existed)
		return ipvs_set_service(ip, &t->was, err);
	r = ipvs_dests(ip, &t->want, &left, &n_left, err);
	if (r < 0)
		return r == -ESRCH ? 0 : r;
	if (n_left)
		return err_set(err, CHANGE_CONFLICT,
			"ipvs on %s: %s is ours, but %s in it is not: left alone", n->name,
			ipvs_fmt_service(st, &t->want), ipvs_fmt_dest(dt, &left[0]));
	r = ipvs_del_service(ip, &t->want, err);
	return r == -ESRCH ? 0 : r;
}

static int undo_target(
	struct ipvs *ip, const struct node *n, const struct target *t, struct err *err)
{
	_cleanup_free_ struct ipvs_dest *live = NULL;
	struct ipvs_service s;
	char st[IPVS_TEXT_MAX];
	size_t n_live = 0;
	bool there;
	int result, r;

	if (target_unchanged(t))
		return 0;
	result = read_live(ip, &t->was, &there, &s, &live, &n_live, err);
	if (result < 0)
		return result;
	if (!there)
		return t->existed
			       ? err_set(err, CHANGE_CONFLICT,
					 "ipvs on %s: the service %s is gone: somebody else removed it",
					 n->name, ipvs_fmt_service(st, &t->was))
			       : 0;
	for (size_t i = t->n; i-- > 0;) {
		struct err e = {0};

		r = undo_dest(
			ip, n, t, &t->dests[i], ipvs_dest_find(live, n_live, &t->dests[i].was), &e);
		if (r != 0 && (result == 0 || (result > 0 && r < 0))) {
			result = r;
			if (err)
				*err = e;
		}
	}
	if (result != 0 && !t->existed)
		return result; /* the service cannot go while servers stay */
	{
		struct err e = {0};

		r = undo_service(ip, n, t, &s, &e);
		if (r != 0 && (result == 0 || (result > 0 && r < 0))) {
			result = r;
			if (err)
				*err = e;
		}
	}
	return result;
}

static int set_ipvs_undo(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	return each_target(n, args, prior, true, undo_target, err);
}

static int verify_target(
	struct ipvs *ip, const struct node *n, const struct target *t, struct err *err)
{
	_cleanup_free_ struct ipvs_dest *live = NULL;
	char st[IPVS_TEXT_MAX], is[48], was[48];
	struct ipvs_service s;
	size_t n_live = 0;
	bool there;
	int r;

	if (target_unchanged(t))
		return 0;
	r = read_live(ip, &t->was, &there, &s, &live, &n_live, err);
	if (r < 0)
		return r;
	ipvs_fmt_service(st, &t->was);
	if (there != t->existed)
		return err_set(err, 1, "ipvs on %s: the service %s is %s", n->name, st,
			there ? "still there" : "gone");
	if (!there)
		return 0;
	if (!service_unchanged(t) && !ipvs_service_equal(&s, &t->was))
		return err_set(err, 1, "ipvs on %s: the service %s has the scheduler %s, before %s",
			n->name, st, s.scheduler, t->was.scheduler);
	for (size_t i = 0; i < t->n; i++) {
		const struct dest_plan *d = &t->dests[i];
		const struct ipvs_dest *now = ipvs_dest_find(live, n_live, &d->was);

		if (dest_unchanged(d) || (d->existed ? now && ipvs_dest_equal(now, &d->was) : !now))
			continue;
		tuple_text(is, sizeof(is), now);
		tuple_text(was, sizeof(was), d->existed ? &d->was : NULL);
		return err_set(err, 1, "ipvs on %s: %s of %s is %s, before %s", n->name, d->name,
			st, is, was);
	}
	return 0;
}

static int set_ipvs_verify(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	return each_target(n, args, prior, false, verify_target, err);
}

/* ── in ipvsadm's words ───────────────────────────────────────────────────────────────────── */

static void add_service_words(
	struct strbuf *b, const struct node *n, const char *verb, const struct ipvs_service *s)
{
	char st[IPVS_TEXT_MAX];

	change_command_prefix(n, b);
	strbuf_addf(b, "ipvsadm %s -%c ", verb, s->protocol == IPPROTO_UDP ? 'u' : 't');
	strbuf_add_shell(b, ipvs_fmt_service(st, s));
}

static void add_service_command(
	struct strbuf *b, const struct node *n, const char *verb, const struct ipvs_service *s)
{
	add_service_words(b, n, verb, s);
	strbuf_puts(b, " -s ");
	strbuf_add_shell(b, s->scheduler);
	if (s->flags & IP_VS_SVC_F_PERSISTENT) {
		strbuf_addf(b, " -p %u -M ", s->timeout);
		if (s->family == AF_INET6)
			strbuf_addf(b, "%u", s->netmask);
		else
			strbuf_puts(b, inet_ntop(AF_INET, &s->netmask, (char[INET_ADDRSTRLEN]){0},
					       INET_ADDRSTRLEN));
	}
	if (s->pe[0]) {
		strbuf_puts(b, " --pe ");
		strbuf_add_shell(b, s->pe);
	}
	if (s->flags & IP_VS_SVC_F_ONEPACKET)
		strbuf_puts(b, " -o");
	for (int i = 0; i < 3; i++)
		if (s->flags & ((uint32_t)IP_VS_SVC_F_SCHED1 << i))
			strbuf_addf(b, " -b flag-%d", i + 1);
	strbuf_puts(b, "\n");
}

static void add_dest_command(struct strbuf *b, const struct node *n, const char *verb,
	const struct ipvs_service *s, const struct ipvs_dest *d)
{
	static const char *const tun_types[] = {"ipip", "gue", "gre"};
	char dt[IPVS_TEXT_MAX];

	add_service_words(b, n, verb, s);
	strbuf_puts(b, " -r ");
	strbuf_add_shell(b, ipvs_fmt_dest(dt, d));
	if (!streq(verb, "-d")) {
		strbuf_addf(b, " -%c -w %u",
			d->forward == IPVS_NAT	 ? 'm'
			: d->forward == IPVS_TUN ? 'i'
						 : 'g',
			d->weight);
		if (d->upper_threshold || d->lower_threshold)
			strbuf_addf(b, " -x %u -y %u", d->upper_threshold, d->lower_threshold);
		if (d->forward == IPVS_TUN && d->tun_type && d->tun_type < ARRAY_SIZE(tun_types)) {
			strbuf_addf(b, " --tun-type %s", tun_types[d->tun_type]);
			if (d->tun_port)
				strbuf_addf(b, " --tun-port %u", d->tun_port);
			strbuf_puts(
				b, d->tun_flags & IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM ? " --tun-remcsum"
				   : d->tun_flags & IP_VS_TUNNEL_ENCAP_FLAG_CSUM  ? " --tun-csum"
										 : " --tun-nocsum");
		}
	}
	strbuf_puts(b, "\n");
}

/* The command behind it runs if the service, or its server @d, is in the table: to find neither is to be done. */
static void add_if_there(
	struct strbuf *b, const struct node *n, const struct ipvs_service *s, const struct ipvs_dest *d)
{
	char st[IPVS_TEXT_MAX], dt[IPVS_TEXT_MAX];
	_cleanup_free_ char *line = strf("-%c -%c %s%s%s ", d ? 'a' : 'A', s->protocol == IPPROTO_UDP ? 'u' : 't',
		ipvs_fmt_service(st, s), d ? " -r " : "", d ? ipvs_fmt_dest(dt, d) : "");

	strbuf_puts(b, "! ");
	change_command_prefix(n, b);
	strbuf_puts(b, "ipvsadm -Sn | grep -qF -e ");
	strbuf_add_shell(b, line ? line : "");
	strbuf_puts(b, " || ");
}

/*
 * With a record: exactly what is done and undone. Without one, what would be done to a service as the
 * site declares it.
 */
static void target_commands(const struct node *n, struct target *t, bool recorded,
	struct strbuf *apply, struct strbuf *undo)
{
	char st[IPVS_TEXT_MAX];

	if (!recorded) {
		/*
		 * Nothing was read: a partial change finds its service in place, a full one is taken to
		 * make it
		 */
		t->existed = !t->create;
		for (size_t i = 0; i < t->n; i++) {
			t->dests[i].existed = t->existed;
			(void)ipvs_forward_parse(t->declared_forward, &t->dests[i].want.forward);
		}
	}
	if (!t->existed)
		add_service_command(apply, n, "-A", &t->want);
	else if (recorded ? !ipvs_service_equal(&t->was, &t->want) : t->want.scheduler[0])
		add_service_command(apply, n, "-E", &t->want);
	for (size_t i = 0; i < t->n; i++) {
		const struct dest_plan *d = &t->dests[i];

		if (!recorded || !d->existed || !ipvs_dest_equal(&d->was, &d->want))
			add_dest_command(apply, n, d->existed ? "-e" : "-a", &t->want, &d->want);
	}

	if (!recorded && t->existed) {
		strbuf_addf(undo, "# puts back what it reads from %s before the change\n",
			ipvs_fmt_service(st, &t->was));
		return;
	}
	for (size_t i = t->n; t->existed && i-- > 0;) {
		const struct dest_plan *d = &t->dests[i];

		if (!d->existed) {
			add_if_there(undo, n, &t->was, &d->want);
			add_dest_command(undo, n, "-d", &t->was, &d->want);
		} else if (!ipvs_dest_equal(&d->was, &d->want)) {
			add_dest_command(undo, n, "-e", &t->was, &d->was);
		}
	}
	if (!t->existed) {
		if (recorded)
			add_if_there(undo, n, &t->want, NULL);
		add_service_words(undo, n, "-D", &t->want);
		strbuf_puts(undo, "\n");
	} else if (!ipvs_service_equal(&t->was, &t->want)) {
		add_service_command(undo, n, "-E", &t->was);
	}
}

static int set_ipvs_command(const struct node *n, const json_t *args, const json_t *prior,
	struct strbuf *ret_apply, struct strbuf *ret_undo)
{
	const json_t *targets = json_object_get(args, "targets"),
		     *records = json_object_get(prior, "targets");

	for (size_t i = 0; i < json_array_size(targets); i++) {
		_cleanup_(target_clear) struct target t = {0};
		int r = load_target(
			json_array_get(targets, i), json_array_get(records, i), &t, NULL);

		if (r < 0)
			return r;
		target_commands(n, &t, prior != NULL, ret_apply, ret_undo);
	}
	return 0;
}

static const struct param set_ipvs_params[] = {
	{.name = "node", .type = PARAM_NODE, .help = "the director; default: the service's first"},
	{.name = "service",
		.type = PARAM_SERVICE,
		.help = "a service of the site; alone: all as declared there"},
	{.name = "weights",
		.type = PARAM_MAP,
		.of = PARAM_INT,
		.min = 0,
		.max = 65535,
		.help = "weights of the service's servers, by name; 0: no new connections"},
	{.name = "scheduler",
		.type = PARAM_STRING,
		.help = "\"wrr\", \"wlc\", ...; default without service: wrr"},
	{.name = "vip",
		.type = PARAM_ADDR,
		.help = "virtual address of a service of one's own; added if it is missing"},
	{.name = "port",
		.type = PARAM_INT,
		.min = 1,
		.max = 65535,
		.help = "of vip, and of its servers"},
	{.name = "protocol",
		.type = PARAM_STRING,
		.values = "tcp|udp",
		.help = "of vip; default: tcp"},
	{.name = "forward",
		.type = PARAM_STRING,
		.values = "dr|nat|tun",
		.help = "of vip; default: dr"},
	{.name = "servers",
		.type = PARAM_MAP,
		.of = PARAM_INT,
		.min = 0,
		.max = 65535,
		.help = "of vip: weights, by a node's name or an address"},
	PARAM_END,
};

const struct change_ops change_set_ipvs = {
	.name = "set.ipvs",
	.summary = "Virtual services of the kernel's load balancer: servers, weights, scheduler",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = set_ipvs_params,
	.example = "[{\"service\": \"web\"}, {\"node\": \"node\", \"vip\": \"2001:db8::100\", \"port\": 80,"
		   " \"scheduler\": \"wlc\", \"servers\": {\"2001:db8::1\": 3}}]",
	.resolve = set_ipvs_resolve,
	.supported = set_ipvs_supported,
	.capture = set_ipvs_capture,
	.apply = set_ipvs_apply,
	.undo = set_ipvs_undo,
	.verify = set_ipvs_verify,
	.command = set_ipvs_command,
};
