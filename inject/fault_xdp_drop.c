/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fault.xdp_drop: what comes to a node's device is dropped before its network stack sees it (bpf/xdp_drop.bpf.c, generic mode: every
 * device has that), all of it or what is for one port. What the node sends goes out as before: half a link is lost, which is
 * what a full receive ring or a broken filter looks like.
 *
 * The program stands at the device without a process that holds it, under the run's short tag as its name; the record keeps that
 * name. One device carries one program in this mode: where another one stands already, capture refuses; where another one
 * stands later, undo leaves it alone. The counters are found by the program's own list of maps, so any process can ask for them.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "engine/change.h"
#include "engine/clock.h"
#include "engine/units.h"
#include "gen/xdp_drop.skel.h"

/* As in bpf/xdp_drop.bpf.c */
struct conf {
	uint64_t deadline, port;
};
enum { DROPPED, DROPPED_BYTES, PASSED, PASSED_BYTES, EXPIRED, COUNTS };

static const struct param params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "whose packets are dropped as they come in"},
	{.name = "dev", .type = PARAM_STRING, .help = "the device; without: the node's first link"},
	{.name = "port", .type = PARAM_INT, .min = 1, .max = 65535, .help = "only what is for this TCP or UDP port"},
	{.name = "ttl", .type = PARAM_DURATION, .min = 1e6, .max = 3600e9,
		.help = "the kernel itself lets packets pass again after this"},
	PARAM_END,
};

static const char *device(const struct node *n, const json_t *args)
{
	const char *dev = json_string_value(json_object_get(args, "dev"));
	const struct node_link *l = node_link(n, NULL);

	return dev ? dev : l ? l->dev : NULL;
}

static int say_nothing(enum libbpf_print_level level _unused_, const char *fmt _unused_, va_list ap _unused_)
{
	return 0;
}

static int map_tagged(struct bpf_map *m)
{
	_cleanup_close_ int fd = bpf_map_create(bpf_map__type(m), change_run_tag_short(), bpf_map__key_size(m), bpf_map__value_size(m),
		bpf_map__max_entries(m), NULL);

	return fd < 0 ? fd : bpf_map__reuse_fd(m, fd);
}

/* The program under the run's tag, with maps of its own. A descriptor, or -errno */
static int load(const struct conf *conf, struct err *err)
{
	libbpf_print_fn_t before = libbpf_set_print(say_nothing);
	struct xdp_drop *s;
	uint32_t key = 0;
	int r, fd = -1;

	errno = 0;
	s = xdp_drop__open();
	r = s ? 0 : errno ? -errno : -EINVAL;
	if (r == 0)
		r = map_tagged(s->maps.xdp_conf);
	if (r == 0)
		r = map_tagged(s->maps.xdp_counts);
	if (r == 0)
		r = xdp_drop__load(s);
	if (r == 0)
		r = bpf_map_update_elem(bpf_map__fd(s->maps.xdp_conf), &key, conf, BPF_ANY);
	if (r == 0) {
		/* libbpf loads it under its function's name; the maps are known to the instructions by now */
		fd = bpf_prog_load(BPF_PROG_TYPE_XDP, change_run_tag_short(), "GPL", bpf_program__insns(s->progs.xdp_drop_in),
			bpf_program__insn_cnt(s->progs.xdp_drop_in), NULL);
		r = fd < 0 ? fd : 0;
	}
	libbpf_set_print(before);
	xdp_drop__destroy(s);
	return r < 0 ? err_set(err, r, "load the dropping program: %s", strerror(-r)) : fd;
}

/* What stands at the device, in any mode; id 0: nothing. @ret_name: its name. -ENODEV: there is no such device */
static int look(const char *dev, uint32_t *ret_id, char ret_name[BPF_OBJ_NAME_LEN])
{
	int ifindex = (int)if_nametoindex(dev), r;
	LIBBPF_OPTS(bpf_xdp_query_opts, o);
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info);
	_cleanup_close_ int fd = -1;

	*ret_id = 0;
	ret_name[0] = '\0';
	if (!ifindex)
		return -ENODEV;
	r = bpf_xdp_query(ifindex, 0, &o);
	if (r < 0)
		return r;
	*ret_id = o.prog_id ? o.prog_id : o.skb_prog_id ? o.skb_prog_id : o.drv_prog_id ? o.drv_prog_id : o.hw_prog_id;
	if (!*ret_id)
		return 0;
	fd = bpf_prog_get_fd_by_id(*ret_id);
	if (fd < 0)
		return fd == -ENOENT ? (*ret_id = 0, 0) : fd; /* gone meanwhile */
	if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return -errno;
	snprintf(ret_name, BPF_OBJ_NAME_LEN, "%s", info.name);
	return 0;
}

static int supported(const struct node *n, const json_t *args, struct err *reterr)
{
	_cleanup_close_ int fd = -1;
	struct err why = {0};

	if (!device(n, args))
		return err_set(reterr, -EINVAL, "xdp_drop on %s: the node has no link; name the device with \"dev\"", n->name);
	fd = load(&(struct conf){0}, &why);
	if (fd >= 0)
		return 0;
	err_set(reterr, -EOPNOTSUPP, "xdp_drop on %s: this kernel does not take the program: %s", n->name, why.text);
	err_hint(reterr, "it needs CONFIG_BPF_SYSCALL, and root; run with --lab vm");
	return -EOPNOTSUPP;
}

static int reach(const struct node *n, const json_t *args, json_t **ret_reach, struct err *err _unused_)
{
	const char *dev = device(n, args);

	*ret_reach = json_pack("{s:[{s:s}]}", "devices", "dev", dev ? dev : "*");
	return *ret_reach ? 0 : -ENOMEM;
}

static int capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	char name[BPF_OBJ_NAME_LEN];
	const char *dev = device(n, args);
	uint32_t id;
	int r;

	if (!dev)
		return err_set(err, -EINVAL, "xdp_drop on %s: the node has no link; name the device with \"dev\"", n->name);
	r = node_enter(n, &v, err);
	if (r < 0)
		return r;
	r = look(dev, &id, name);
	if (r < 0)
		return err_set(err, r, "xdp_drop on %s/%s: %s", n->name, dev, strerror(-r));
	if (id) {
		err_set(err, -EBUSY, "xdp_drop on %s/%s: a program stands there already: %s", n->name, dev, name[0] ? name : "(without a name)");
		return err_hint(err, "it may be muster's own from an earlier run: muster restore --all");
	}
	*ret_prior = json_pack("{s:s, s:s}", "dev", dev, "name", change_run_tag_short());
	return *ret_prior ? 0 : -ENOMEM;
}

static int apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	nsec_t ttl = json_integer_value(json_object_get(args, "ttl")), own = ttl ? now_ns() + ttl : 0, run = change_run_deadline();
	struct conf conf = {.deadline = (uint64_t)(own && run ? MIN(own, run) : own ? own : run),
		.port = (uint64_t)json_integer_value(json_object_get(args, "port"))};
	const char *dev = json_string_value(json_object_get(prior, "dev"));
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	_cleanup_close_ int fd = load(&conf, err);
	int r = fd < 0 ? fd : node_enter(n, &v, err);

	if (r < 0)
		return r;
	r = bpf_xdp_attach((int)if_nametoindex(dev), fd, XDP_FLAGS_SKB_MODE | XDP_FLAGS_UPDATE_IF_NOEXIST, NULL);
	return r < 0 ? err_set(err, r, "xdp_drop on %s/%s: attach: %s", n->name, dev, strerror(-r)) : 0;
}

/* 0: nothing stands there; 1: ours; CHANGE_CONFLICT + 1: another's */
enum { NOTHING, OURS, ANOTHERS };
static int who(const struct node *n, const json_t *prior, uint32_t *ret_id, struct err *err)
{
	const char *dev = json_string_value(json_object_get(prior, "dev")), *want = json_string_value(json_object_get(prior, "name"));
	char name[BPF_OBJ_NAME_LEN];
	int r;

	if (!dev || !want)
		return err_set(err, -EINVAL, "xdp_drop: its record is damaged");
	r = look(dev, ret_id, name);
	if (r == -ENODEV)
		return NOTHING; /* it went with the device */
	if (r < 0)
		return err_set(err, r, "xdp_drop on %s/%s: %s", n->name, dev, strerror(-r));
	if (!*ret_id)
		return NOTHING;
	if (streq(name, want))
		return OURS;
	err_set(err, -EEXIST, "xdp_drop on %s/%s: another program stands there by now: %s; it was left", n->name, dev, name);
	return ANOTHERS;
}

static int undo(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	const char *dev = json_string_value(json_object_get(prior, "dev"));
	uint32_t id = 0;
	int r = node_enter(n, &v, err);

	if (r == 0)
		r = who(n, prior, &id, err);
	if (r <= NOTHING)
		return r;
	if (r == ANOTHERS)
		return CHANGE_CONFLICT;
	r = bpf_xdp_detach((int)if_nametoindex(dev), XDP_FLAGS_SKB_MODE, NULL);
	return r < 0 && r != -ENODEV ? err_set(err, r, "xdp_drop on %s/%s: detach: %s", n->name, dev, strerror(-r)) : 0;
}

static int verify(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	uint32_t id = 0;
	int r = node_enter(n, &v, err);

	if (r == 0)
		r = who(n, prior, &id, err);
	if (r == OURS)
		err_set(err, -EUCLEAN, "xdp_drop on %s: the dropping program is still there", n->name);
	return r <= NOTHING ? r : 1;
}

/* By the program's own list of maps */
static int read_counts(uint32_t id, uint64_t counts[COUNTS], struct err *err)
{
	_cleanup_close_ int prog = bpf_prog_get_fd_by_id(id);
	uint32_t map_ids[4] = {0}, len;
	struct bpf_prog_info info = {.nr_map_ids = ARRAY_SIZE(map_ids), .map_ids = (uintptr_t)map_ids};
	int cpus = libbpf_num_possible_cpus();
	_cleanup_free_ uint64_t *values = cpus > 0 ? calloc((size_t)cpus, sizeof(*values)) : NULL;

	len = sizeof(info);
	if (prog < 0 || !values)
		return err_set(err, prog < 0 ? prog : -ENOMEM, "open the dropping program: %s", strerror(prog < 0 ? -prog : ENOMEM));
	if (bpf_obj_get_info_by_fd(prog, &info, &len) < 0)
		return err_set(err, -errno, "ask about the dropping program: %s", strerror(errno));
	for (uint32_t i = 0; i < MIN(info.nr_map_ids, (uint32_t)ARRAY_SIZE(map_ids)); i++) {
		_cleanup_close_ int map = bpf_map_get_fd_by_id(map_ids[i]);
		struct bpf_map_info m = {0};

		len = sizeof(m);
		if (map < 0 || bpf_obj_get_info_by_fd(map, &m, &len) < 0)
			return err_set(err, -errno, "ask about the counters: %s", strerror(errno));
		if (m.type != BPF_MAP_TYPE_PERCPU_ARRAY || m.max_entries != COUNTS)
			continue;
		for (uint32_t key = 0; key < COUNTS; key++) {
			if (bpf_map_lookup_elem(map, &key, values) < 0)
				return err_set(err, -errno, "read the counters: %s", strerror(errno));
			for (int cpu = 0; cpu < cpus; cpu++)
				counts[key] += values[cpu];
		}
	}
	return 0;
}

static int measure(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	_cleanup_strbuf_ struct strbuf text = {0};
	uint64_t counts[COUNTS] = {0};
	uint32_t id = 0;
	int r = node_enter(n, &v, err), whose;

	if (r == 0)
		r = who(n, prior, &id, err);
	if (r < 0)
		return r;
	whose = r;
	if (whose == OURS)
		r = read_counts(id, counts, err);
	if (r < 0)
		return r;
	if (whose != OURS)
		strbuf_puts(&text, "the dropping program is not there any more");
	else if (!counts[DROPPED])
		strbuf_addf(&text, "nothing came that was to be dropped (%llu packets of others passed): it did not bite",
			(unsigned long long)counts[PASSED]);
	else
		strbuf_addf(&text, "%llu packets to it were dropped, %llu of others passed", (unsigned long long)counts[DROPPED],
			(unsigned long long)counts[PASSED]);
	if (counts[EXPIRED])
		strbuf_addf(&text, "; its time was up before it was lifted: %llu packets have passed since", (unsigned long long)counts[EXPIRED]);
	*ret_evidence = json_pack("{s:{s:O, s:O?}, s:{s:I, s:I, s:I, s:I, s:I}, s:b, s:s}", "asked", "dev", json_object_get(prior, "dev"), "port",
		json_object_get(args, "port"), "measured", "dropped_packets", (json_int_t)counts[DROPPED], "dropped_bytes",
		(json_int_t)counts[DROPPED_BYTES], "passed_packets", (json_int_t)counts[PASSED], "passed_bytes",
		(json_int_t)counts[PASSED_BYTES], "passed_after_expiry", (json_int_t)counts[EXPIRED], "proved",
		whose == OURS && counts[DROPPED] > 0, "text", strbuf_cstr(&text));
	return *ret_evidence ? 0 : -ENOMEM;
}

/* Without this program an XDP program cannot be attached by plain words: `ip` wants an object file. Taking it away it can. */
static int command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply, struct strbuf *ret_undo)
{
	const char *dev = prior ? json_string_value(json_object_get(prior, "dev")) : device(n, args);
	const char *name = json_string_value(json_object_get(prior, "name"));
	json_int_t port = json_integer_value(json_object_get(args, "port"));

	if (!dev || (prior && !name))
		return -EINVAL;
	strbuf_addf(ret_apply, "# an XDP program at %s of %s drops ", dev, n->name);
	if (port)
		strbuf_addf(ret_apply, "what comes for port %lld\n", (long long)port);
	else
		strbuf_puts(ret_apply, "what comes\n");
	if (name) {
		strbuf_puts(ret_undo, "! ");
		change_command_prefix(n, ret_undo);
		strbuf_puts(ret_undo, "ip -d link show dev ");
		strbuf_add_shell(ret_undo, dev);
		strbuf_puts(ret_undo, " 2>/dev/null | grep -qwF ");
		strbuf_add_shell(ret_undo, name);
		strbuf_puts(ret_undo, " || ");
	}
	change_command_prefix(n, ret_undo);
	strbuf_puts(ret_undo, "ip link set dev ");
	strbuf_add_shell(ret_undo, dev);
	strbuf_puts(ret_undo, " xdpgeneric off\n");
	return ret_apply->oom || ret_undo->oom ? -ENOMEM : 0;
}

const struct change_ops change_fault_xdp_drop = {
	.name = "fault.xdp_drop",
	.summary = "What comes to a node is dropped at its device, before the network stack: all of it, or what is for one port",
	.kind = CHANGE_FAULT,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "[{\"node\": \"node\"}, {\"node\": \"node\", \"dev\": \"eth0\", \"port\": 8080, \"ttl\": \"1m\"}]",
	.supported = supported,
	.reach = reach,
	.takes_xdp = true,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.measure = measure,
	.command = command,
};
