/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.rps: where a device has fewer queues than the machine has processors, packets are spread in software: RPS and RFS for what is
 * received, XPS for what is sent. prior: knobs.h, up to three files a queue.
 *
 * rps_flow_cnt is rounded up by the kernel to a power of two, so that is what it has to be. xps_cpus of a device with one queue is
 * there and answers ENOENT: there is nothing to choose.
 */
#include <stdio.h>
#include <string.h>

#include "baseline/cpus.h"
#include "baseline/knobs.h"

static const char *text_of(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

/* Names become parts of paths. */
static bool is_device_name(const char *s)
{
	return *s && strlen(s) < 16 && !strchr(s, '/') && !streq(s, ".") && !streq(s, "..");
}

static int rps_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	json_int_t flows = json_integer_value(json_object_get(args, "flows"));
	int r = cpus_check_text("set.rps", text_of(args, "cpus"), err);

	if (r == 0 && text_of(args, "xps_cpus") && !streq(text_of(args, "xps_cpus"), "none"))
		r = cpus_check_text("set.rps: xps_", text_of(args, "xps_cpus"), err);
	if (r < 0)
		return r;
	if (!is_device_name(text_of(args, "device")))
		return err_set(err, -EINVAL, "set.rps: device = \"%.40s\" is no device's name", text_of(args, "device"));
	if (flows & (flows - 1))
		return err_set(err, -EINVAL, "set.rps: flows = %" JSON_INTEGER_FORMAT " is no power of two, and the kernel takes no other",
			flows);
	return 0;
}

static int queues_of(const struct node *n, const json_t *args, json_t **ret, struct err *err)
{
	_cleanup_free_ char *path = strf("/sys/class/net/%s/queues", text_of(args, "device"));
	int r = path ? knob_list(n, path, ret) : -ENOMEM;

	if (r == -ENOENT)
		return err_set(err, -EOPNOTSUPP, "set.rps: there is no device %s on %s", text_of(args, "device"), n->name);
	if (r < 0)
		return err_set(err, r, "set.rps: queues of %s on %s: %s", text_of(args, "device"), n->name, strerror(-r));
	if (json_array_size(*ret) == 0) {
		json_decref(TAKE_PTR(*ret));
		return err_set(err, -EOPNOTSUPP, "set.rps: %s on %s has no queues", text_of(args, "device"), n->name);
	}
	return 0;
}

static int rps_supported(const struct node *n, const json_t *args, struct err *err)
{
	_cleanup_json_ json_t *queues = NULL;
	const char *xps = text_of(args, "xps_cpus");
	cpu_set_t set;
	int r = cpus_online("set.rps", text_of(args, "cpus"), &set, err);

	if (r == 0 && xps && !streq(xps, "none"))
		r = cpus_online("set.rps", xps, &set, err);
	return r < 0 ? r : queues_of(n, args, &queues, err);
}

static int add(const struct node *n, json_t *files, const char *dev, const char *queue, const char *file, const char *kind,
	const char *want, bool may_lack, struct err *err)
{
	_cleanup_free_ char *path = strf("/sys/class/net/%s/queues/%s/%s", dev, queue, file), *now = NULL,
			    *key = strf("%s/%s %s", dev, queue, file);
	int r;

	if (!path || !key)
		return -ENOMEM;
	if (may_lack && knob_read(n, path, &now) == -ENOENT)
		return 0;
	r = knobs_add(n, files, key, path, kind, want, err);
	if (r == -ENOENT)
		return err_set(err, -EOPNOTSUPP, "set.rps: %s on %s: not in this kernel (CONFIG_RPS)", key, n->name);
	return r;
}

static int rps_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *queues = NULL, *files = json_array();
	const json_t *flows = json_object_get(args, "flows"), *q;
	const char *dev = text_of(args, "device"), *xps = text_of(args, "xps_cpus");
	_cleanup_free_ char *mask = NULL, *xps_mask = NULL, *count = NULL;
	cpu_set_t set;
	size_t i;
	int r = cpus_online("set.rps", text_of(args, "cpus"), &set, err);

	mask = r == 0 ? cpus_mask(&set) : NULL;
	if (r == 0 && xps && !streq(xps, "none")) {
		r = cpus_online("set.rps", xps, &set, err);
		xps_mask = r == 0 ? cpus_mask(&set) : NULL;
	}
	if (r == 0)
		r = queues_of(n, args, &queues, err);
	if (r < 0)
		return r;
	if (flows && !(count = strf("%" JSON_INTEGER_FORMAT, json_integer_value(flows))))
		return -ENOMEM;
	json_array_foreach(queues, i, q) {
		const char *name = json_string_value(q);
		bool rx = strncmp(name, "rx-", 3) == 0;

		if (rx)
			r = add(n, files, dev, name, "rps_cpus", "mask", mask, false, err);
		if (r == 0 && rx && count)
			r = add(n, files, dev, name, "rps_flow_cnt", "text", count, false, err);
		if (r == 0 && !rx && xps_mask)
			r = add(n, files, dev, name, "xps_cpus", "mask", xps_mask, true, err);
		if (r < 0)
			return r;
	}
	*ret_prior = knobs_prior(TAKE_PTR(files));
	return *ret_prior ? 0 : -ENOMEM;
}

static int rps_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	if (!prior) {
		_cleanup_free_ char *path = strf("/sys/class/net/%s/queues/rx-*/rps_cpus", text_of(args, "device"));

		strbuf_addf(ret_apply, "# the mask of CPUs %s to each of %s%s\n", text_of(args, "cpus"), path ? path : "",
			n->netns ? ", in the namespace" : "");
	}
	return knobs_command(n, args, prior, ret_apply, ret_undo);
}

static const struct param rps_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "where the device is"},
	{.name = "device", .type = PARAM_STRING, .deflt = "eth0", .help = "its name"},
	{.name = "cpus", .type = PARAM_STRING, .deflt = "all", .help = "processors that packets are spread over (RPS): \"0-3,8\", or \"all\""},
	{.name = "flows",
		.type = PARAM_INT,
		.min = 0,
		.max = 1048576,
		.help = "flows of each queue that are steered to where they are read (RFS), a power of two; default: left as it is"},
	{.name = "xps_cpus", .type = PARAM_STRING, .help = "processors that may send on each queue (XPS); default: left as it is"},
	PARAM_END,
};

const struct change_ops change_set_rps = {
	.name = "set.rps",
	.summary = "Packets of a device spread over processors in software",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = rps_params,
	.example = "[{\"node\": \"node\", \"cpus\": \"0\", \"flows\": 256},"
		   " {\"node\": \"node\", \"cpus\": \"0\", \"xps_cpus\": \"0\"}]",
	.resolve = rps_resolve,
	.supported = rps_supported,
	.capture = rps_capture,
	.apply = knobs_apply,
	.undo = knobs_undo,
	.verify = knobs_verify,
	.look = knobs_look,
	.command = rps_command,
};
