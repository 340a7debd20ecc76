/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.sysctl: kernel parameters of a node.
 *
 * prior = { "values": [ {"key": K, "path": P, "text": what it was, "partner": {"key", "path", "text"},
 * "ifindex": of its device }, ... ] } in the order of the arguments; undo goes the other way. The text is
 * the kernel's own, as read.
 *
 * A parameter of a device belongs to the device: it goes along when that is renamed, and is gone when that
 * is. Another device that has the name by then is not touched.
 *
 * Of what can be set here, one cuts the management path for certain (see reach): arp_ignore = 8 makes a
 * host answer for no address. Switching forwarding off may cut others, not the host; rp_filter drops only what
 * comes in by a way that answers do not take.
 *
 * A value that the kernel does not take as it was written (clamped, sorted, merged) makes apply fail,
 * after that one parameter has been put back: "ours" must be what the record says, or undo could not tell
 * it from somebody else's change.
 */
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "baseline/sysctl.h"
#include "engine/change.h"

static int fail(const struct node *n, const char *key, int r, const char *doing, struct err *err)
{
	return err_set(err, r, "sysctl %s on %s: %s: %s", key, n->name, doing, strerror(-r));
}

/* A write of no bytes never reaches the parameter: an empty value is a line end. */
static int put(const struct node *n, const char *path, const char *text)
{
	return node_write(n, path, text[0] ? text : "\n");
}

/*
 * Is it there, and would it take a value? Opens it for writing, and writes nothing. Permission is by the
 * file's mode even for root: parameters of the machine that a namespace sees are read-only there.
 */
static int check_writable(const struct node *n, const char *key, const char *path, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	int r = node_enter(n, &v, err), fd;

	if (r < 0)
		return r;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		close(fd);
		return 0;
	}
	r = -errno;
	if (r == -ENOENT && n->netns) {
		err_set(err, r,
			"sysctl %s on %s: there is no such parameter in this network namespace",
			key, n->name);
		err_hint(err,
			"some are of the whole machine and are seen on the host alone; some come with a module "
			"that is not loaded");
	} else if (r == -ENOENT) {
		err_set(err, r, "sysctl %s on %s: there is no such parameter", key, n->name);
		err_hint(err, "misspelt, not in this kernel, or its module is not loaded");
	} else if ((r == -EACCES || r == -EPERM) && n->netns) {
		err_set(err, r,
			"sysctl %s on %s: it is of the whole machine, and read-only in a network namespace",
			key, n->name);
		err_hint(err, "set it on the host");
	} else {
		fail(n, key, r, "open for writing", err);
	}
	return r;
}

/* ── whose parameter it is ────────────────────────────────────────────────────────────────── */

static const char *const of_devices[] = {"/proc/sys/net/ipv4/conf/", "/proc/sys/net/ipv4/neigh/",
	"/proc/sys/net/ipv6/conf/", "/proc/sys/net/ipv6/neigh/", "/proc/sys/net/mpls/conf/"};

/* 1: of the device @ret, whose name is the part of the path from *ret_at; 0: of none */
static int device_of(const char *path, char ret[IFNAMSIZ], size_t *ret_at)
{
	for (size_t i = 0; i < ARRAY_SIZE(of_devices); i++) {
		size_t at = strlen(of_devices[i]), len;

		if (strncmp(path, of_devices[i], at) != 0)
			continue;
		len = strcspn(path + at, "/");
		if (len == 0 || len >= IFNAMSIZ || !path[at + len])
			return 0;
		memcpy(ret, path + at, len);
		ret[len] = '\0';
		*ret_at = at;
		return !streq(ret, "all") && !streq(ret, "default");
	}
	return 0;
}

static unsigned int index_of(const struct node *n, const char *dev)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};

	return node_enter(n, &v, NULL) < 0 ? 0 : if_nametoindex(dev);
}

/* Where the recorded parameter is now. -ENOENT: its device is gone, whoever else has the name. */
static int path_now(const struct node *n, const json_t *rec, char ret[SYSCTL_PATH_MAX])
{
	const char *path = json_string_value(json_object_get(rec, "path"));
	unsigned int ifindex =
		(unsigned int)json_integer_value(json_object_get(rec, "ifindex"));
	char was[IFNAMSIZ], name[IFNAMSIZ];
	size_t at;
	int len;

	if (!path)
		return -EINVAL;
	if (!ifindex || device_of(path, was, &at) == 0) {
		len = snprintf(ret, SYSCTL_PATH_MAX, "%s", path);
		return len < SYSCTL_PATH_MAX ? 0 : -ENAMETOOLONG;
	}
	{
		_cleanup_(node_leave) struct node_visit v = {.fd = -1};
		int r = node_enter(n, &v, NULL);

		if (r < 0)
			return r;
		if (!if_indextoname(ifindex, name))
			return -ENOENT;
	}
	len = snprintf(ret, SYSCTL_PATH_MAX, "%.*s%s%s", (int)at, path, name, path + at + strlen(was));
	return len < SYSCTL_PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* Reads the recorded parameter, where it is now. */
static int read_now(const struct node *n, const json_t *rec, char **ret)
{
	char path[SYSCTL_PATH_MAX];
	int r = path_now(n, rec, path);

	return r < 0 ? r : node_read(n, path, ret);
}

static int put_now(const struct node *n, const json_t *rec, const char *text)
{
	char path[SYSCTL_PATH_MAX];
	int r = path_now(n, rec, path);

	return r < 0 ? r : put(n, path, text);
}

static json_t *record(const char *key, const char *path, const char *text)
{
	return json_pack("{s:s, s:s, s:s}", "key", key, "path", path, "text", text);
}

static int capture_one(const struct node *n, const char *key, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *rec = NULL;
	_cleanup_free_ char *text = NULL;
	const char *why = sysctl_refused(key), *partner = sysctl_partner(key);
	char path[SYSCTL_PATH_MAX];
	int r;

	r = sysctl_path(key, path, err);
	if (r < 0)
		return r;
	if (why)
		return err_set(err, -EPERM,
			"sysctl %s: refused, because it could not be put back exactly: %s", key,
			why);
	if (n->netns && sysctl_is_global(key)) {
		err_set(err, -EPERM,
			"sysctl %s on %s: it is of the whole machine, and %s is a network namespace on it",
			key, n->name, n->name);
		err_hint(err,
			"only net.* parameters belong to a namespace; set this one on the host");
		return -EPERM;
	}
	r = check_writable(n, key, path, err);
	if (r < 0)
		return r;
	r = node_read(n, path, &text);
	if (r < 0)
		return fail(n, key, r, "read, to be able to put it back", err);
	rec = record(key, path, text);
	if (!rec)
		return err_set(err, -EILSEQ, "sysctl %s on %s: its value is no text", key, n->name);
	{
		char dev[IFNAMSIZ];
		size_t at;

		if (device_of(path, dev, &at))
			json_object_set_new(rec, "ifindex", json_integer(index_of(n, dev)));
	}
	if (partner) {
		_cleanup_free_ char *other = NULL;
		char other_path[SYSCTL_PATH_MAX];

		r = sysctl_path(partner, other_path, err);
		if (r == 0)
			r = node_read(n, other_path, &other);
		if (r < 0)
			return fail(n, partner, r, "read, to be able to put it back", err);
		json_object_set_new(rec, "partner", record(partner, other_path, other));
	}
	*ret = TAKE_PTR(rec);
	return 0;
}

/*
 * Of the host: what is not there is told before anything is changed, and an optional entry goes without it. A drill that is itself in
 * a network namespace has no parameters of the whole machine. In a site's namespaces a module that comes with the site may bring more.
 */
static int sysctl_supported(const struct node *n, const json_t *args, struct err *reterr)
{
	const json_t *value;
	const char *key;

	json_object_foreach((json_t *)json_object_get(args, "values"), key, value) {
		char path[SYSCTL_PATH_MAX];

		if (!n->netns && sysctl_path(key, path, reterr) == 0 && check_writable(n, key, path, reterr) == -ENOENT) {
			if (reterr)
				reterr->code = -EOPNOTSUPP;
			return -EOPNOTSUPP;
		}
	}
	return 0;
}

static int sysctl_capture(
	const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *list = json_array();
	const json_t *value;
	const char *key;

	json_object_foreach(json_object_get(args, "values"), key, value) {
		json_t *rec;
		int r = capture_one(n, key, &rec, err);

		if (r < 0)
			return r;
		if (strchr(json_string_value(value), '\n'))
			return err_set(
				err, -EINVAL, "sysctl %s: its value has more than one line", key);
		if (json_array_append_new(list, rec) < 0)
			return err_set(err, -ENOMEM, "out of memory");
	}
	*ret_prior = json_pack("{s:O}", "values", list);
	return *ret_prior ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static const char *text_of(const json_t *rec, const char *member)
{
	const char *s = json_string_value(json_object_get(rec, member));

	return s ? s : "";
}

/* What the scenario wants for a recorded parameter */
static const char *wanted(const json_t *args, const json_t *rec)
{
	return text_of(json_object_get(args, "values"), text_of(rec, "key"));
}

static int sysctl_apply(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const json_t *rec;
	size_t i;

	json_array_foreach(json_object_get(prior, "values"), i, rec) {
		const char *key = text_of(rec, "key"), *want = wanted(args, rec);
		_cleanup_free_ char *now = NULL;
		int r;

		r = read_now(n, rec, &now);
		if (r < 0)
			return fail(n, key, r, "read", err);
		if (sysctl_same(now, want))
			continue;
		r = put_now(n, rec, want);
		if (r < 0)
			return err_set(err, r, "sysctl %s on %s: write \"%.80s\": %s", key, n->name,
				want, strerror(-r));
		free(TAKE_PTR(now));
		r = read_now(n, rec, &now);
		if (r < 0)
			return fail(n, key, r, "read back", err);
		if (!sysctl_same(now, want)) {
			(void)put_now(n, rec, text_of(rec, "text"));
			err_set(err, -ERANGE,
				"sysctl %s on %s: the kernel made \"%.80s\" of \"%.80s\"; put back to \"%.80s\"",
				key, n->name, now, want, text_of(rec, "text"));
			err_hint(err, "ask for a value that the kernel takes as it is written");
			return -ERANGE;
		}
	}
	return 0;
}

/* Of a pair that clear each other, the one that was 0 comes back by writing the other. */
static const json_t *to_write(const json_t *rec)
{
	const json_t *partner = json_object_get(rec, "partner");

	return partner && sysctl_same(text_of(rec, "text"), "0") &&
			       !sysctl_same(text_of(partner, "text"), "0")
		       ? partner
		       : rec;
}

static int sysctl_undo(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const json_t *list = json_object_get(prior, "values");
	int result = 0;

	/* All that can be put back is; what is reported is the worst, and of that the first */
	for (size_t i = json_array_size(list); i-- > 0;) {
		const json_t *rec = json_array_get(list, i), *w = to_write(rec);
		const char *key = text_of(rec, "key"), *was = text_of(rec, "text"),
			   *ours = wanted(args, rec);
		_cleanup_free_ char *now = NULL;
		int r = read_now(n, rec, &now);

		if (r == -ENOENT) {
			if (result == 0)
				result = err_set(err, CHANGE_CONFLICT,
					"sysctl %s on %s: it is gone, with its device or module",
					key, n->name);
			continue;
		}
		if (r == 0) {
			if (sysctl_same(now, was))
				continue;
			if (!sysctl_same(now, ours)) {
				if (result == 0)
					result = err_set(err, CHANGE_CONFLICT,
						"sysctl %s on %s: it is \"%.80s\", neither ours (\"%.80s\") nor as before (\"%.80s\")",
						key, n->name, now, ours, was);
				continue;
			}
			r = put_now(n, w, text_of(w, "text"));
		}
		if (r < 0 && result >= 0)
			result = fail(n, key, r, "put back", err);
	}
	return result;
}

static int differs(const struct node *n, const json_t *rec, struct err *err)
{
	_cleanup_free_ char *now = NULL;
	int r = read_now(n, rec, &now);

	if (r < 0 && r != -ENOENT)
		return fail(n, text_of(rec, "key"), r, "read", err);
	if (r == 0 && sysctl_same(now, text_of(rec, "text")))
		return 0;
	err_set(err, 1, "sysctl %s on %s: it is %s%.80s%s, before it was \"%.80s\"",
		text_of(rec, "key"), n->name, now ? "\"" : "", now ? now : "gone", now ? "\"" : "",
		text_of(rec, "text"));
	return 1;
}

static int sysctl_verify(
	const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	const json_t *rec;
	size_t i;

	json_array_foreach(json_object_get(prior, "values"), i, rec) {
		const json_t *partner = json_object_get(rec, "partner");
		int r = differs(n, rec, err);

		if (r == 0 && partner)
			r = differs(n, partner, err);
		if (r != 0)
			return r;
	}
	return 0;
}

static int sysctl_look(
	const struct node *n, const json_t *args, const json_t *prior, json_t **ret_items, struct err *err)
{
	_cleanup_json_ json_t *items = json_array();
	const json_t *rec;
	size_t i;

	json_array_foreach(json_object_get(prior, "values"), i, rec) {
		_cleanup_free_ char *now = NULL;
		const char *want = wanted(args, rec);
		int r = read_now(n, rec, &now);
		json_t *item = json_pack("{s:s, s:s, s:s, s:s, s:o}", "key", text_of(rec, "key"), "before",
			text_of(rec, "text"), "want", want, "now", r < 0 ? "" : now, "holds",
			r < 0 ? json_null() : json_boolean(sysctl_same(now, want)));

		if (!item)
			return err_set(err, -ENOMEM, "out of memory");
		if (r < 0)
			json_object_set_new(item, "text",
				json_string(r == -ENOENT ? "it is gone, with its device or module" : strerror(-r)));
		json_array_append_new(items, item);
	}
	*ret_items = TAKE_PTR(items);
	return 0;
}

static void add_command(struct strbuf *b, const struct node *n, const char *key, const char *value)
{
	_cleanup_strbuf_ struct strbuf word = {0};

	strbuf_addf(&word, "%s=%s", key, value);
	change_command_prefix(n, b);
	strbuf_puts(b, "sysctl -w ");
	strbuf_add_shell(b, strbuf_cstr(&word));
	strbuf_puts(b, "\n");
}

/* sysctl(8) takes no empty value. */
static void add_undo(struct strbuf *b, const struct node *n, const json_t *rec)
{
	if (text_of(rec, "text")[0]) {
		add_command(b, n, text_of(rec, "key"), text_of(rec, "text"));
		return;
	}
	change_command_prefix(n, b);
	strbuf_puts(b, "sh -c 'echo >\"$1\"' sh ");
	strbuf_add_shell(b, text_of(rec, "path"));
	strbuf_puts(b, "\n");
}

static int sysctl_command(const struct node *n, const json_t *args, const json_t *prior,
	struct strbuf *ret_apply, struct strbuf *ret_undo)
{
	const json_t *list = json_object_get(prior, "values"), *value;
	const char *key;

	json_object_foreach(json_object_get(args, "values"), key, value)
		add_command(ret_apply, n, key, json_string_value(value));
	if (!prior)
		strbuf_puts(ret_undo, "# puts back the values that it reads before the change\n");
	for (size_t i = json_array_size(list); i-- > 0;)
		add_undo(ret_undo, n, to_write(json_array_get(list, i)));
	return 0;
}

/* Checks what can be checked without the node, so that `check` and `plan` say it already. */
static int sysctl_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	const json_t *value;
	const char *key;

	if (json_object_size(json_object_get(args, "values")) == 0)
		return err_set(err, -EINVAL, "set.sysctl: values is empty");
	json_object_foreach(json_object_get(args, "values"), key, value) {
		const char *why = sysctl_refused(key);
		char path[SYSCTL_PATH_MAX];
		int r = sysctl_path(key, path, err);

		if (r < 0)
			return r;
		if (why)
			return err_set(err, -EINVAL,
				"set.sysctl: %s: refused, because it could not be put back exactly: %s",
				key, why);
	}
	return 0;
}

/* See the top: what cuts for certain. */
static int sysctl_reach(const struct node *n _unused_, const json_t *args, json_t **ret_reach, struct err *err _unused_)
{
	json_t *devices = json_array();
	const json_t *value;
	const char *key;

	json_object_foreach(json_object_get(args, "values"), key, value) {
		char path[SYSCTL_PATH_MAX], dev[IFNAMSIZ] = "";
		const char *text = json_string_value(value);
		size_t at, len;

		if (sysctl_path(key, path, NULL) < 0 || !sysctl_same(text ? text : "", "8"))
			continue;
		len = strlen(path);
		if (len < 11 || !streq(path + len - 11, "/arp_ignore"))
			continue;
		if (device_of(path, dev, &at))
			json_array_append_new(devices, json_pack("{s:s}", "dev", dev));
		else if (streq(dev, "all")) /* "default" is for devices to come */
			json_array_append_new(devices, json_pack("{s:s}", "dev", "*"));
	}
	*ret_reach = json_pack("{s:i, s:o}", "family", 4, "devices", devices);
	return *ret_reach ? 0 : -ENOMEM;
}

static const struct param sysctl_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "where"},
	{.name = "values",
		.type = PARAM_MAP,
		.of = PARAM_TEXT,
		.required = true,
		.help = "parameters by their dotted names, as in [\"net.core.somaxconn\"] = 65535"},
	PARAM_END,
};

const struct change_ops change_set_sysctl = {
	.name = "set.sysctl",
	.summary = "Kernel parameters",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = sysctl_params,
	.example = "{\"node\": \"node\", \"values\": {\"net.core.somaxconn\": \"1024\", \"net.ipv4.tcp_fin_timeout\": \"31\","
		   " \"net.ipv4.tcp_rmem\": \"4096 65536 1048576\"}}",
	.resolve = sysctl_resolve,
	.supported = sysctl_supported,
	.reach = sysctl_reach,
	.capture = sysctl_capture,
	.apply = sysctl_apply,
	.undo = sysctl_undo,
	.verify = sysctl_verify,
	.look = sysctl_look,
	.command = sysctl_command,
};
