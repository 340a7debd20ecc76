/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Silent loss: bpf/drop.bpf.c at the clsact hook of each port, both directions, so the root qdisc, the bridge and the
 * node itself stay as they are, and neither side's carrier moves.
 *
 * Our filters are known by handle, priority and name; the name is the run's tag and, behind a slash, a token that capture() drew, so
 * the undo of one injection never takes another's filter; the undo goes by the token, the tag is for whoever finds a filter of a run
 * that is long over. Programs and maps carry the tag's short form (`bpftool prog`). They are found and deleted by plain netlink: no BPF is needed to undo. clsact is removed
 * only if the record says that it was not there before and nobody else uses it by now.
 *
 * With "keep_addrs" in its arguments, a list of addresses, what is exchanged with these passes: a partition with the node on one side
 * and those on both.
 *
 * The kernel itself ends it: after "ttl", and in any case a little after the drill's deadline (change.h), if nobody has lifted it by
 * then. The filters stay where they are, and let everything pass; the undo takes them away all the same.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <arpa/inet.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "engine/clock.h"
#include "engine/units.h"
#include "gen/drop.skel.h"
#include "inject/node_loss.h"
#include "inject/qdisc.h"

#define HANDLE	  0x6d757374u /* "must" */
#define PRIORITY  1u	      /* ahead of everybody: whoever comes first decides */
#define INFO	  TC_H_MAKE(PRIORITY << 16, htons(ETH_P_ALL))
#define TOKEN_LEN 16
#define INGRESS	  TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
#define EGRESS	  TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)

/* drop_counts, see bpf/drop.bpf.c */
enum {
	SENT_PACKETS,
	SENT_BYTES,
	SENT_IDLE,
	SENT_PASSED,
	SENT_KEPT,
	RECEIVED_PACKETS,
	RECEIVED_BYTES,
	RECEIVED_IDLE,
	RECEIVED_PASSED,
	RECEIVED_KEPT,
	COUNTS
};

static const uint32_t hooks[] = {INGRESS, EGRESS};

/* ── what stands at a hook ─────────────────────────────────────────────────────────────────── */

struct hook {
	const char *token;
	bool ours, foreign_here; /* at our priority */
	unsigned int others;
	uint32_t prog_id;
};

/* "muster:RUN/TOKEN"; which run it was does not matter */
static bool named_after(const struct nlattr *name, const char *token)
{
	const char *s = nla_data(name);
	size_t len = strnlen(s, (size_t)nla_len(name)), want = strlen(token);

	return len > want && memcmp(s, CHANGE_TAG, strlen(CHANGE_TAG)) == 0 && s[len - want - 1] == '/' &&
	       memcmp(s + len - want, token, want) == 0;
}

static int hook_cb(const struct tc_obj *o, void *arg)
{
	struct hook *h = arg;
	const struct nlattr *name, *id;

	if (!o) {
		*h = (struct hook){.token = h->token};
		return 0;
	}
	if (!o->handle)
		return 0; /* the priority's own entry */
	name = nla_find(o->options, (int)o->options_len, TCA_BPF_NAME);
	id = nla_find(o->options, (int)o->options_len, TCA_BPF_ID);
	if (h->token && streq(o->kind, "bpf") && o->handle == HANDLE && o->info == INFO && name &&
		named_after(name, h->token)) {
		h->ours = true;
		if (id && nla_len(id) >= 4)
			h->prog_id = nla_get_u32(id);
		return 0;
	}
	h->others++;
	if (o->info >> 16 == PRIORITY)
		h->foreign_here = true;
	return 0;
}

static int hook_read(struct nlc *nl, int ifindex, uint32_t hook, const char *token, struct hook *ret, struct err *err)
{
	struct hook h = {.token = token};
	int r = tc_dump(nl, RTM_GETTFILTER, ifindex, hook, hook_cb, &h, err);

	/* newer kernels say so when there is no clsact to ask about */
	if (r == -EINVAL || r == -ENOENT)
		h = (struct hook){.token = token};
	else if (r < 0)
		return r;
	*ret = h;
	return 0;
}

enum { CLSACT_NONE, CLSACT, CLSACT_INGRESS_ONLY };

static int clsact_cb(const struct tc_obj *o, void *arg)
{
	int *kind = arg;

	if (!o)
		*kind = CLSACT_NONE;
	else if (o->parent == TC_H_CLSACT)
		*kind = streq(o->kind, "clsact") ? CLSACT : CLSACT_INGRESS_ONLY;
	return 0;
}

static int clsact_read(struct nlc *nl, int ifindex, int *ret, struct err *err)
{
	int kind = CLSACT_NONE, r = tc_dump(nl, RTM_GETQDISC, ifindex, 0, clsact_cb, &kind, err);

	if (r == 0)
		*ret = kind;
	return r;
}

/* ── attaching ─────────────────────────────────────────────────────────────────────────────── */

static int clsact_add(struct nlc *nl, int ifindex, struct err *err)
{
	int r = nlc_request(nl,
		tc_msg(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, ifindex, TC_H_CLSACT, TC_H_MAKE(TC_H_CLSACT, 0), 0,
			"clsact"),
		err);

	return r < 0 ? (err_prefix(err, "add clsact"), r) : 0;
}

static int filter_add(struct nlc *nl, int ifindex, uint32_t hook, int prog_fd, const char *token, struct err *err)
{
	struct nl_msg *m = tc_msg(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, ifindex, hook, HANDLE, INFO, "bpf");
	struct nlattr *o = m ? nla_nest_start(m, TCA_OPTIONS) : NULL;
	char name[CHANGE_TAG_MAX + TOKEN_LEN + 2];
	int r;

	snprintf(name, sizeof(name), "%s/%s", change_run_tag(), token);
	if (!o || nla_put_u32(m, TCA_BPF_FD, (uint32_t)prog_fd) < 0 || nla_put_string(m, TCA_BPF_NAME, name) < 0 ||
		nla_put_u32(m, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	nla_nest_end(m, o);
	r = nlc_request(nl, m, err);
	return r < 0 ? (err_prefix(err, "add the filter"), r) : 0;
}

static void skel_close(struct drop **s)
{
	drop__destroy(*s);
}

static int say_nothing(enum libbpf_print_level level _unused_, const char *fmt _unused_, va_list ap _unused_)
{
	return 0;
}

/* A map of the same shape, under the run's tag */
static int map_tagged(struct bpf_map *m)
{
	_cleanup_close_ int fd = bpf_map_create(bpf_map__type(m), change_run_tag_short(), bpf_map__key_size(m),
		bpf_map__value_size(m), bpf_map__max_entries(m), NULL);

	return fd < 0 ? fd : bpf_map__reuse_fd(m, fd);
}

static int skel_load(struct drop **ret, struct err *err)
{
	struct drop *s;

	/* libbpf would print its advice on stderr; whoever listens to it otherwise gets it back */
	libbpf_print_fn_t before = libbpf_set_print(say_nothing);
	int r;

	errno = 0;
	s = drop__open();
	r = s ? 0 : errno ? -errno : -EINVAL;
	if (r == 0)
		r = map_tagged(s->maps.drop_conf);
	if (r == 0)
		r = map_tagged(s->maps.drop_counts);
	if (r == 0)
		r = map_tagged(s->maps.drop_keep);
	if (r == 0)
		r = drop__load(s);
	libbpf_set_print(before);
	if (r < 0) {
		drop__destroy(s);
		return err_set(err, r, "load the dropping program: %s", strerror(-r));
	}
	*ret = s;
	return 0;
}

/* The program under the run's tag: libbpf loads it under its function's name. The maps are known to the instructions by now. */
static int prog_tagged(const struct bpf_program *p)
{
	return bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, change_run_tag_short(), "GPL", bpf_program__insns(p),
		bpf_program__insn_cnt(p), NULL);
}

/* @keep: addresses that may go on to talk with the node; NULL: none */
static int keep_fill(const struct drop *s, const json_t *keep, struct err *err)
{
	uint64_t n = json_array_size(keep);
	uint32_t key = 1;
	const json_t *j;
	size_t i;
	int r;

	json_array_foreach((json_t *)keep, i, j) {
		struct in6_addr a = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
		const char *t = json_string_value(j);
		uint8_t yes = 1;

		if (!t || inet_pton(strchr(t, ':') ? AF_INET6 : AF_INET, t, strchr(t, ':') ? &a : (void *)&a.s6_addr[12]) != 1)
			return err_set(err, -EINVAL, "\"%s\" is no address", t ? t : "");
		r = bpf_map_update_elem(bpf_map__fd(s->maps.drop_keep), &a, &yes, BPF_ANY);
		if (r < 0)
			return err_set(err, r, "let %s pass: %s", t, strerror(-r));
	}
	r = bpf_map_update_elem(bpf_map__fd(s->maps.drop_conf), &key, &n, BPF_ANY);
	return r < 0 ? err_set(err, r, "let some pass: %s", strerror(-r)) : 0;
}

/* One port gets programs and counters of its own. @own: the port is the node's end, and directions are the other way round. */
static int port_silence(struct nlc *nl, int ifindex, bool own, const char *token, uint64_t deadline, const json_t *keep,
	struct err *err)
{
	_cleanup_(skel_close) struct drop *s = NULL;
	_cleanup_close_ int sent = -1, received = -1;
	uint32_t key = 0;
	int r = skel_load(&s, err);

	if (r < 0)
		return r;
	r = bpf_map_update_elem(bpf_map__fd(s->maps.drop_conf), &key, &deadline, BPF_ANY);
	if (r < 0)
		return err_set(err, r, "set the deadline: %s", strerror(-r));
	r = keep_fill(s, keep, err);
	if (r < 0)
		return r;
	sent = prog_tagged(s->progs.drop_sent);
	received = prog_tagged(s->progs.drop_received);
	if (sent < 0 || received < 0)
		return err_set(err, MIN(sent, received), "load the dropping program: %s", strerror(-MIN(sent, received)));
	/* The filters keep the programs, and those the maps, after this process is gone. */
	r = filter_add(nl, ifindex, INGRESS, own ? received : sent, token, err);
	if (r == 0)
		r = filter_add(nl, ifindex, EGRESS, own ? sent : received, token, err);
	return r;
}

static int filter_del(struct nlc *nl, int ifindex, uint32_t hook, struct err *err)
{
	int r = nlc_request(nl, tc_msg(RTM_DELTFILTER, 0, ifindex, hook, HANDLE, INFO, "bpf"), err);

	return r == -ENOENT ? 0 : r;
}

/* ── the change ────────────────────────────────────────────────────────────────────────────── */

static int supported(const struct node *n, const json_t *args _unused_, struct err *reterr)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct err why = {0};
	int ifindex, r;

	if (!n->netns) {
		err_set(reterr, -EOPNOTSUPP, "%s is this host: silencing it would cut off whoever is to lift the fault",
			n->name);
		err_hint(reterr, "name a node of the site that is not the host");
		return -EOPNOTSUPP;
	}
	r = qdisc_scratch(1, &nl, &ifindex, reterr);
	if (r < 0)
		return r;
	r = clsact_add(nl, ifindex, &why);
	if (r == 0)
		r = port_silence(nl, ifindex, false, "rehearsal", 0, NULL, &why);
	if (r < 0) {
		err_set(reterr, -EOPNOTSUPP, "%s: this kernel does not take the filter: %s", n->name, why.text);
		err_hint(reterr, "it needs CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF and CONFIG_BPF_SYSCALL; run with --lab vm");
		return -EOPNOTSUPP;
	}
	return 0;
}

static int capture(const struct node *n, const json_t *args _unused_, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *ports = NULL;
	char token[TOKEN_LEN + 1];
	uint64_t random;
	json_t *j, *prior;
	size_t i;
	int r = ports_find(n, true, &ports, err);

	if (r < 0)
		return r;
	json_array_foreach(ports, i, j) {
		_cleanup_port_ struct port p = {0};
		int clsact = 0;

		r = port_open(j, &p, err);
		if (r == 0)
			r = clsact_read(p.nl, p.ifindex, &clsact, err);
		if (r < 0)
			return r;
		if (clsact == CLSACT_INGRESS_ONLY)
			return err_set(err, -EBUSY, "%s/%s: an ingress qdisc stands where clsact is needed", n->name, p.link);
		for (size_t k = 0; k < ARRAY_SIZE(hooks) && clsact == CLSACT; k++) {
			struct hook h;

			r = hook_read(p.nl, p.ifindex, hooks[k], NULL, &h, err);
			if (r < 0)
				return r;
			if (h.foreign_here) {
				err_set(err, -EBUSY, "%s/%s: another filter has priority %u on %s already", n->name, p.link,
					PRIORITY, p.dev);
				err_hint(err, "it may be muster's own from an earlier run: muster restore --all");
				return -EBUSY;
			}
		}
		json_object_set_new(j, "clsact", json_boolean(clsact == CLSACT));
	}
	if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return err_set(err, -EIO, "random numbers: %s", strerror(errno));
	snprintf(token, sizeof(token), "%016llx", (unsigned long long)random);
	prior = json_pack("{s:s, s:O}", "token", token, "ports", ports);
	if (!prior)
		return -ENOMEM;
	*ret_prior = prior;
	return 0;
}

static int prior_read(const json_t *prior, const char **ret_token, const json_t **ret_ports, struct err *err)
{
	const char *token = json_string_value(json_object_get(prior, "token"));
	const json_t *ports = json_object_get(prior, "ports");

	if (!token || strlen(token) != TOKEN_LEN || !json_is_array(ports))
		return err_set(err, -EINVAL, "the record of the loss is damaged");
	*ret_token = token;
	*ret_ports = ports;
	return 0;
}

/* When the kernel ends it, on its own clock; 0: never (no drill, no ttl) */
static uint64_t expiry(nsec_t ttl)
{
	nsec_t own = ttl ? now_ns() + ttl : 0, run = change_run_deadline();

	return (uint64_t)(own && run ? MIN(own, run) : own ? own : run);
}

static int apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	nsec_t ttl = json_integer_value(json_object_get(args, "ttl"));
	uint64_t deadline = expiry(ttl);
	const json_t *ports, *j;
	const char *token;
	size_t i;
	int r = prior_read(prior, &token, &ports, err);

	if (r < 0)
		return r;
	json_array_foreach(ports, i, j) {
		_cleanup_port_ struct port p = {0};

		r = port_open(j, &p, err);
		if (r == 0 && !json_is_true(json_object_get(j, "clsact")))
			r = clsact_add(p.nl, p.ifindex, err);
		if (r == 0)
			r = port_silence(p.nl, p.ifindex, p.own, token, deadline, json_object_get(args, "keep_addrs"), err);
		if (r < 0)
			return err_prefix(err, "%s/%s", n->name, json_string_value(json_object_get(j, "link"))), r;
	}
	return 0;
}

/* Takes our filters off one port, and clsact if it came with them. CHANGE_CONFLICT: others live in it by now. */
static int port_restore(const json_t *record, const char *token, struct err *err)
{
	_cleanup_port_ struct port p = {0};
	unsigned int others = 0;
	int clsact = 0, r = port_open(record, &p, err);

	if (r == -ESTALE)
		return 0; /* the filters went with it */
	if (r == 0)
		r = clsact_read(p.nl, p.ifindex, &clsact, err);
	if (r < 0)
		return r;
	if (clsact != CLSACT)
		return 0;
	for (size_t k = 0; k < ARRAY_SIZE(hooks); k++) {
		struct hook h;

		r = hook_read(p.nl, p.ifindex, hooks[k], token, &h, err);
		if (r == 0 && h.ours)
			r = filter_del(p.nl, p.ifindex, hooks[k], err);
		if (r < 0)
			return r;
		others += h.others;
	}
	if (json_is_true(json_object_get(record, "clsact")))
		return 0;
	if (others) {
		err_set(err, -EEXIST, "%s: somebody else put filters into the clsact that came with the fault; it was left",
			p.dev);
		return CHANGE_CONFLICT;
	}
	r = nlc_request(p.nl, tc_msg(RTM_DELQDISC, 0, p.ifindex, TC_H_CLSACT, TC_H_MAKE(TC_H_CLSACT, 0), 0, NULL), err);
	return r == -ENOENT ? 0 : r;
}

static int undo(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	const json_t *ports, *j;
	const char *token;
	size_t i;
	int result = 0, r = prior_read(prior, &token, &ports, err);

	if (r < 0)
		return r;
	/* one port that fails does not keep the others silent; an error outweighs a conflict */
	json_array_foreach(ports, i, j) {
		struct err why = {0};

		r = port_restore(j, token, &why);
		if (r == 0 || result < 0)
			continue;
		result = r;
		err_set(err, r < 0 ? r : -EEXIST, "%s/%s: %s", n->name,
			json_string_value(json_object_get(j, "link")), why.text[0] ? why.text : strerror(r < 0 ? -r : EEXIST));
	}
	return result;
}

static int verify(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	const json_t *ports, *j;
	const char *token;
	size_t i;
	int r = prior_read(prior, &token, &ports, err);

	if (r < 0)
		return r;
	json_array_foreach(ports, i, j) {
		_cleanup_port_ struct port p = {0};
		bool had = json_is_true(json_object_get(j, "clsact"));
		int clsact = 0;

		r = port_open(j, &p, err);
		if (r == -ESTALE)
			continue;
		if (r == 0)
			r = clsact_read(p.nl, p.ifindex, &clsact, err);
		if (r < 0)
			return r;
		if ((clsact == CLSACT) != had) {
			err_set(err, -EUCLEAN, "%s/%s: clsact on %s %s", n->name, p.link, p.dev,
				had ? "is gone" : "is there, and was not");
			return 1;
		}
		for (size_t k = 0; k < ARRAY_SIZE(hooks) && clsact == CLSACT; k++) {
			struct hook h;

			r = hook_read(p.nl, p.ifindex, hooks[k], token, &h, err);
			if (r < 0)
				return r;
			if (h.ours) {
				err_set(err, -EUCLEAN, "%s/%s: the dropping filter is still on %s", n->name, p.link, p.dev);
				return 1;
			}
		}
	}
	return 0;
}

/* ── did it bite? ──────────────────────────────────────────────────────────────────────────── */

/* Adds what the program with @id counted: from the id alone, so any process can ask. */
static int counts_read(uint32_t id, uint64_t counts[COUNTS], uint64_t *ret_deadline, struct err *err)
{
	_cleanup_close_ int prog = bpf_prog_get_fd_by_id(id);
	uint32_t map_ids[8] = {0};
	struct bpf_prog_info info = {.nr_map_ids = ARRAY_SIZE(map_ids), .map_ids = (uintptr_t)map_ids};
	uint32_t len = sizeof(info);
	int cpus = libbpf_num_possible_cpus();
	_cleanup_free_ uint64_t *values = NULL;

	if (prog < 0)
		return err_set(err, prog, "open the dropping program: %s", strerror(-prog));
	if (cpus < 0)
		return err_set(err, cpus, "count the CPUs: %s", strerror(-cpus));
	if (bpf_obj_get_info_by_fd(prog, &info, &len) < 0)
		return err_set(err, -errno, "ask about the dropping program: %s", strerror(errno));
	values = calloc((size_t)cpus, sizeof(*values));
	if (!values)
		return -ENOMEM;
	for (uint32_t i = 0; i < MIN(info.nr_map_ids, (uint32_t)ARRAY_SIZE(map_ids)); i++) {
		_cleanup_close_ int map = bpf_map_get_fd_by_id(map_ids[i]);
		struct bpf_map_info m = {0};
		uint32_t m_len = sizeof(m), key = 0;

		if (map < 0)
			return err_set(err, map, "open the counters: %s", strerror(-map));
		if (bpf_obj_get_info_by_fd(map, &m, &m_len) < 0)
			return err_set(err, -errno, "ask about the counters: %s", strerror(errno));
		if (m.type == BPF_MAP_TYPE_ARRAY && m.value_size == sizeof(uint64_t))
			(void)bpf_map_lookup_elem(map, &key, ret_deadline);
		if (m.type != BPF_MAP_TYPE_PERCPU_ARRAY || m.max_entries != COUNTS || m.value_size != sizeof(uint64_t))
			continue;
		for (key = 0; key < COUNTS; key++) {
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
	nsec_t ttl = json_integer_value(json_object_get(args, "ttl"));
	_cleanup_strbuf_ struct strbuf text = {0};
	uint64_t counts[COUNTS] = {0}, deadline = 0;
	const json_t *ports, *j;
	unsigned int missing = 0;
	const char *token;
	json_t *evidence;
	bool proved, expired;
	size_t i;
	int r = prior_read(prior, &token, &ports, err);

	if (r < 0)
		return r;
	json_array_foreach(ports, i, j) {
		_cleanup_port_ struct port p = {0};
		struct hook h[ARRAY_SIZE(hooks)];

		r = port_open(j, &p, err);
		if (r == -ESTALE) {
			missing++;
			continue;
		}
		for (size_t k = 0; k < ARRAY_SIZE(hooks) && r == 0; k++) {
			r = hook_read(p.nl, p.ifindex, hooks[k], token, &h[k], err);
			if (r == 0 && !h[k].ours)
				missing++;
		}
		/* both programs share the counters: one of them is enough */
		if (r == 0 && (h[0].ours || h[1].ours))
			r = counts_read(h[0].ours ? h[0].prog_id : h[1].prog_id, counts, &deadline, err);
		if (r < 0)
			return err_prefix(err, "%s", n->name), r;
	}
	expired = deadline && (uint64_t)now_ns() >= deadline;
	proved = !missing && counts[SENT_PACKETS] + counts[RECEIVED_PACKETS] > 0;
	if (missing)
		strbuf_puts(&text, "the dropping filters are not all there any more");
	else if (!proved)
		strbuf_addf(&text, "nobody talked to it or heard from it (%llu idle packets apart): it did not bite",
			(unsigned long long)(counts[SENT_IDLE] + counts[RECEIVED_IDLE]));
	else
		strbuf_addf(&text, "%llu packets from it and %llu to it were dropped", (unsigned long long)counts[SENT_PACKETS],
			(unsigned long long)counts[RECEIVED_PACKETS]);
	if (expired)
		strbuf_addf(&text, "; its time was up and the kernel ended it before it was lifted: %llu packets have passed since",
			(unsigned long long)(counts[SENT_PASSED] + counts[RECEIVED_PASSED]));
	if (json_object_get(args, "keep_addrs"))
		strbuf_addf(&text, "; %llu from it and %llu to it passed, of those that may still talk to it",
			(unsigned long long)counts[SENT_KEPT], (unsigned long long)counts[RECEIVED_KEPT]);
	evidence = json_pack("{s:{s:s}, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:b}, s:b, s:s}", "asked", "how", "silent", "measured",
		"sent_dropped_packets", (json_int_t)counts[SENT_PACKETS], "sent_dropped_bytes",
		(json_int_t)counts[SENT_BYTES], "received_dropped_packets", (json_int_t)counts[RECEIVED_PACKETS],
		"received_dropped_bytes", (json_int_t)counts[RECEIVED_BYTES], "idle_dropped_packets",
		(json_int_t)(counts[SENT_IDLE] + counts[RECEIVED_IDLE]), "passed_after_expiry",
		(json_int_t)(counts[SENT_PASSED] + counts[RECEIVED_PASSED]), "expired", expired, "proved", proved, "text",
		strbuf_cstr(&text));
	if (!evidence)
		return -ENOMEM;
	if (ttl)
		json_object_set_new(json_object_get(evidence, "asked"), "ttl_ns", json_integer(ttl));
	if (json_object_get(args, "keep_addrs")) {
		json_t *m = json_object_get(evidence, "measured");

		json_object_set_new(m, "sent_kept_packets", json_integer((json_int_t)counts[SENT_KEPT]));
		json_object_set_new(m, "received_kept_packets", json_integer((json_int_t)counts[RECEIVED_KEPT]));
	}
	*ret_evidence = evidence;
	return 0;
}

/* "tc WORDS dev DEV" where the port is, as in "qdisc show" */
static void add_tc(struct strbuf *b, const struct node *n, const struct node_link *l, const char *words)
{
	port_command_prefix(n, l, b);
	strbuf_addf(b, "tc %s dev ", words);
	strbuf_add_shell(b, l->peer_netns ? l->peer_dev : l->dev);
}

/* One port's undo: our filters by their token, then clsact if it came with them and nobody else lives in it by now. */
static void add_port_undo(struct strbuf *b, const struct node *n, const struct node_link *l, const char *token, bool keep)
{
	for (size_t k = 0; k < ARRAY_SIZE(hooks); k++) {
		const char *hook = hooks[k] == INGRESS ? "ingress" : "egress";

		if (token) {
			strbuf_puts(b, "! ");
			add_tc(b, n, l, "filter show");
			strbuf_addf(b, " %s 2>/dev/null | grep -qF /%s || ", hook, token);
		}
		add_tc(b, n, l, "filter del");
		strbuf_addf(b, " %s pref %u handle 0x%x bpf\n", hook, PRIORITY, HANDLE);
	}
	if (keep)
		return;
	if (token) {
		strbuf_puts(b, "! ");
		add_tc(b, n, l, "qdisc show");
		strbuf_puts(b, " 2>/dev/null | grep -q '^qdisc clsact ' || { ! { ");
		add_tc(b, n, l, "filter show");
		strbuf_puts(b, " ingress; ");
		add_tc(b, n, l, "filter show");
		strbuf_puts(b, " egress; } | grep -q . && ");
	}
	add_tc(b, n, l, "qdisc del");
	strbuf_puts(b, token ? " clsact; }\n" : " clsact\n");
}

/* The plain-command twin drops with one line of classic BPF, which cls_bpf takes from the command line. */
static int command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const json_t *ports = NULL, *j;
	const char *token = NULL;
	size_t k;

	if (prior && prior_read(prior, &token, &ports, NULL) < 0)
		return -EINVAL;
	json_array_foreach(json_object_get(args, "keep_addrs"), k, j)
		strbuf_addf(ret_apply, "# but for what is exchanged with %s\n", json_string_value(j));
	for (size_t i = 0; i < n->n_links; i++) {
		const struct node_link *l = &n->links[i];
		bool keep = json_is_true(json_object_get(json_array_get(ports, i), "clsact"));

		if (!keep) {
			add_tc(ret_apply, n, l, "qdisc add");
			strbuf_puts(ret_apply, " clsact\n");
		}
		for (k = 0; k < ARRAY_SIZE(hooks); k++) {
			add_tc(ret_apply, n, l, "filter add");
			strbuf_addf(ret_apply, " %s pref %u handle 0x%x bpf bytecode '1,6 0 0 2' direct-action\n",
				hooks[k] == INGRESS ? "ingress" : "egress", PRIORITY, HANDLE);
		}
		add_port_undo(ret_undo, n, l, token, keep);
	}
	return ret_apply->oom || ret_undo->oom ? -ENOMEM : 0;
}

const struct loss_ops loss_silent = {
	.how = "silent",
	.supported = supported,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.measure = measure,
	.command = command,
};
