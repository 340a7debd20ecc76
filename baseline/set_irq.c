/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.irq: one queue, one processor: the affinity of the interrupts of a device's queues. prior: knobs.h, a mask for each interrupt.
 *
 * The interrupts of a device are listed below /sys/class/net/DEV/device/msi_irqs (of a virtio device, its PCI parent's); which of
 * them serve which queue, their names in /proc/interrupts say. Receiving and sending of one queue go to the same processor.
 *
 * /proc/irq/N/smp_affinity is what was asked for; the kernel moves an interrupt the next time it arrives, so the effective affinity
 * follows late, and of an idle queue not at all. What is read back and watched is the former; where they differ, look says it.
 * Interrupts that the kernel places itself (managed ones: many storage and RDMA queues) answer EIO.
 *
 * irqbalance rewrites all affinities every 10 s: while it runs, this is refused, because it would not hold.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "baseline/cpus.h"
#include "baseline/irqs.h"
#include "baseline/knobs.h"
#include "engine/units.h"

#define QUEUES_MAX 1024

struct queue_irq {
	unsigned int irq;
	int queue;
	char dev[16], name[64];
};

struct queue_irqs {
	size_t n;
	struct queue_irq *all;
};

static void queue_irqs_clear(struct queue_irqs *q)
{
	free(q->all);
	*q = (struct queue_irqs){0};
}

static const char *device_of(const json_t *args)
{
	return json_string_value(json_object_get(args, "device"));
}

static int by_queue(const void *a, const void *b)
{
	const struct queue_irq *x = a, *y = b;
	int c = strcmp(x->dev, y->dev);

	return c		      ? c :
	       x->queue != y->queue ? (x->queue > y->queue) - (x->queue < y->queue) :
				      (x->irq > y->irq) - (x->irq < y->irq);
}

/* 0: added, perhaps none; -ENOENT: it has no interrupts of its own */
static int add_device(const struct node *n, const char *dev, const char *interrupts, struct queue_irqs *q)
{
	_cleanup_json_ json_t *irqs = NULL;
	const json_t *irq;
	size_t i;
	int r = -ENOENT;

	for (int k = 0; k < 2 && r == -ENOENT; k++) {
		_cleanup_free_ char *path = strf("/sys/class/net/%s/device/%smsi_irqs", dev, k ? "../" : "");

		r = path ? knob_list(n, path, &irqs) : -ENOMEM;
	}
	if (r < 0)
		return r;
	json_array_foreach(irqs, i, irq) {
		struct queue_irq one = {0}, *more;
		int64_t number;

		if (units_int(json_string_value(irq), 0, INT32_MAX, &number) < 0)
			continue;
		one.irq = (unsigned int)number;
		if (irqs_name(interrupts, one.irq, one.name, sizeof(one.name)) < 0)
			continue;
		one.queue = irqs_queue(one.name);
		if (one.queue < 0 || q->n == QUEUES_MAX)
			continue;
		snprintf(one.dev, sizeof(one.dev), "%s", dev);
		more = realloc(q->all, (q->n + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		q->all = more;
		more[q->n++] = one;
	}
	return 0;
}

static int find_queues(const struct node *n, const json_t *args, struct queue_irqs *ret, struct err *err)
{
	_cleanup_(queue_irqs_clear) struct queue_irqs q = {0};
	_cleanup_free_ char *interrupts = NULL;
	_cleanup_json_ json_t *devices = NULL;
	const char *only = device_of(args);
	const json_t *dev;
	size_t i;
	int r = file_read("/proc/interrupts", 16 << 20, &interrupts, NULL);

	if (r == 0)
		r = knob_list(n, "/sys/class/net", &devices);
	if (r < 0)
		return err_set(err, r, "set.irq: read the devices of %s and their interrupts: %s", n->name, strerror(-r));
	json_array_foreach(devices, i, dev) {
		const char *name = json_string_value(dev);

		if (only && !streq(only, name))
			continue;
		r = add_device(n, name, interrupts, &q);
		if (r < 0 && r != -ENOENT)
			return err_set(err, r, "set.irq: interrupts of %s on %s: %s", name, n->name, strerror(-r));
		if (only)
			break;
	}
	if (only && i == json_array_size(devices))
		return err_set(err, -EOPNOTSUPP, "set.irq: there is no device %s on %s", only, n->name);
	if (q.n == 0) {
		err_set(err, -EOPNOTSUPP, "set.irq: %s%s%s has no queue with an interrupt of its own", only ? only : "",
			only ? " on " : "no device of ", n->name);
		if (!only)
			err_set(err, -EOPNOTSUPP, "set.irq: no device of %s has a queue with an interrupt of its own", n->name);
		return err_hint(err, "virtual devices (veth, bridge, lo) have none: set.rps spreads their load; a device that is down may "
				     "not have asked for them yet");
	}
	qsort(q.all, q.n, sizeof(*q.all), by_queue);
	*ret = q;
	q = (struct queue_irqs){0};
	return 0;
}

/* Is it running? By the name of the process: any namespace's irqbalance moves the same interrupts. */
static bool balanced(void)
{
	struct dirent *e;
	bool found = false;
	DIR *d = opendir("/proc");

	while (d && !found && (e = readdir(d))) {
		_cleanup_free_ char *path = NULL, *comm = NULL;

		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		path = strf("/proc/%s/comm", e->d_name);
		found = path && file_read(path, 64, &comm, NULL) == 0 && streq(comm, "irqbalance\n");
	}
	if (d)
		closedir(d);
	return found;
}

static int irq_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	return cpus_check_text("set.irq", json_string_value(json_object_get(args, "cpus")), err);
}

static int irq_supported(const struct node *n, const json_t *args, struct err *err)
{
	_cleanup_(queue_irqs_clear) struct queue_irqs q = {0};
	cpu_set_t cpus;
	int r = cpus_online("set.irq", json_string_value(json_object_get(args, "cpus")), &cpus, err);

	if (r == 0)
		r = find_queues(n, args, &q, err);
	if (r == 0 && balanced()) {
		err_set(err, -EOPNOTSUPP, "set.irq on %s: irqbalance runs, and moves every interrupt again within 10 s", n->name);
		return err_hint(err, "systemctl stop irqbalance; or ban the interrupts there (irqbalance --banirq)");
	}
	return r;
}

static int irq_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_(queue_irqs_clear) struct queue_irqs q = {0};
	_cleanup_json_ json_t *files = json_array();
	cpu_set_t cpus;
	int r = cpus_online("set.irq", json_string_value(json_object_get(args, "cpus")), &cpus, err), last = -1, cpu = -1;
	const char *dev = "";

	if (r == 0)
		r = find_queues(n, args, &q, err);
	for (size_t i = 0; r == 0 && i < q.n; i++) {
		const struct queue_irq *one = &q.all[i];
		_cleanup_free_ char *path = strf("/proc/irq/%u/smp_affinity", one->irq),
				    *key = strf("%s: queue %d, interrupt %u (%s)", one->dev, one->queue, one->irq, one->name), *mask = NULL;
		cpu_set_t set;

		/* the next queue goes to the next processor, and behind the last comes the first again; each device begins anew */
		if (!streq(dev, one->dev))
			cpu = last = -1;
		if (one->queue != last || cpu < 0) {
			cpu = cpus_next(&cpus, cpu + 1);
			if (cpu < 0)
				cpu = cpus_next(&cpus, 0);
		}
		last = one->queue;
		dev = one->dev;
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		mask = cpus_mask(&set);
		if (!path || !key || !mask)
			return -ENOMEM;
		r = knobs_add(n, files, key, path, "mask", mask, err);
	}
	if (r < 0)
		return r;
	*ret_prior = knobs_prior(TAKE_PTR(files));
	return *ret_prior ? 0 : -ENOMEM;
}

/* Whether the interrupt has arrived where it was sent */
static int irq_look(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_items, struct err *err)
{
	const json_t *files = json_object_get(prior, "files");
	int r = knobs_look(n, args, prior, ret_items, err);
	json_t *item;
	size_t i;

	if (r < 0)
		return r;
	json_array_foreach(*ret_items, i, item) {
		const char *path = json_string_value(json_object_get(json_array_get(files, i), "path"));
		_cleanup_free_ char *effective = NULL, *there = NULL;
		cpu_set_t now, real;

		if (!path || strncmp(path, "/proc/irq/", 10) != 0)
			continue;
		effective = strf("%.*s/effective_affinity", (int)(strrchr(path, '/') - path), path);
		if (!effective || knob_read(n, effective, &there) < 0 || cpus_parse_mask(there, &real) < 0 ||
			cpus_parse_mask(json_string_value(json_object_get(item, "now")), &now) < 0 || cpus_within(&real, &now))
			continue;
		free(TAKE_PTR(effective));
		effective = cpus_list(&real);
		json_object_set_new(item, "text",
			json_sprintf("it is still served by CPU %s, until it arrives the next time", effective ? effective : "?"));
	}
	return 0;
}

static int irq_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	if (!prior)
		strbuf_addf(ret_apply, "# one CPU for each queue of %s: echo MASK >/proc/irq/N/smp_affinity\n",
			device_of(args) ? device_of(args) : "every device that has queues");
	return knobs_command(n, args, prior, ret_apply, ret_undo);
}

static const struct param irq_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "where the device is; \"host\" for the machine's own"},
	{.name = "device", .type = PARAM_STRING, .help = "its name; default: every device that has queues with interrupts"},
	{.name = "cpus",
		.type = PARAM_STRING,
		.deflt = "all",
		.help = "the processors that serve the queues, one after the other: \"0-3,8\", or \"all\""},
	PARAM_END,
};

const struct change_ops change_set_irq = {
	.name = "set.irq",
	.summary = "Interrupts of a device's queues, one processor for each",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = irq_params,
	.example = "[{\"node\": \"host\"}, {\"node\": \"host\", \"cpus\": \"0\"}]",
	.resolve = irq_resolve,
	.supported = irq_supported,
	.capture = irq_capture,
	.apply = knobs_apply,
	.undo = knobs_undo,
	.verify = knobs_verify,
	.look = irq_look,
	.command = irq_command,
};
