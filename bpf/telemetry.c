/* SPDX-License-Identifier: GPL-2.0-only */
#include "bpf/telemetry.h"

#include <linux/membarrier.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/aggregates.h"
#include "bpf/libbpf_log.h"
#include "engine/clock.h"
#include "gen/conn.skel.h"

#define SECOND_LOOK (100 * NSEC_PER_MSEC) /* how often it is asked whether the second program is needed */

uint32_t telemetry_live_default = TELEMETRY_LIVE_MAX;
uint64_t telemetry_calm_default = TELEMETRY_CALM_MOVES;

/* Programs that can be done without, each by itself */
static const char *const extra_names[] = {
	"tp_btf/tcp_retransmit_skb", "tp_btf/tcp_retransmit_synack", "tp_btf/tcp_receive_reset", "tp_btf/tcp_send_reset"};
#define N_EXTRAS   ARRAY_SIZE(extra_names)
#define ALL_EXTRAS ((1u << N_EXTRAS) - 1)

struct telemetry {
	struct conn *skel;
	struct aggregates *aggregates; /* NULL: not asked for */
	unsigned int extras;	       /* bits: which of them are active */
	char extra_why[N_EXTRAS][160];
	struct ring_buffer *ring;
	telemetry_fn fn;
	void *arg;
	bool raw;
	char fallback[sizeof(((struct err *)0)->text)];
	uint64_t received, malformed;
	uint32_t in_drain;
	/* the second program: when it was last thought of, and what the first had missed and seen when it last missed any */
	nsec_t looked;
	uint64_t missed, calm_since;
	bool detached;
};

uint64_t telemetry_dropped(const struct telemetry_stats *s)
{
	return s->lost_ring + s->lost_nested + s->untracked + s->malformed;
}

uint64_t telemetry_inexact(const struct telemetry_stats *s)
{
	return s->lost_nested + s->untracked + s->series_missed;
}

static int on_sample(void *arg, void *data, size_t len)
{
	struct telemetry *t = arg;
	struct conn_record r;

	if (conn_decode(data, len, &r) < 0) {
		t->malformed++;
	} else {
		t->received++;
		t->fn(&r, t->arg);
	}
	/* libbpf takes the record as consumed, and stops */
	return ++t->in_drain >= TELEMETRY_DRAIN_MAX ? -EAGAIN : 0;
}

static bool ring_size_ok(uint32_t bytes)
{
	return bytes >= (uint32_t)sysconf(_SC_PAGESIZE) && (bytes & (bytes - 1)) == 0;
}

static int check_opts(const struct telemetry_opts *o, struct err *err)
{
	if (o->ring_bytes && !ring_size_ok(o->ring_bytes))
		return err_set(err, -EINVAL,
			"telemetry: a ring of %u bytes: must be a power of two, and a page at "
			"least",
			o->ring_bytes);
	if (o->n_netns > TELEMETRY_NETNS_MAX)
		return err_set(err, -EINVAL, "telemetry: %zu namespaces: at most %d", o->n_netns,
			TELEMETRY_NETNS_MAX);
	if (!o->all_netns && o->n_netns == 0)
		return err_set(err, -EINVAL, "telemetry: no namespace to watch");
	return 0;
}

/*
 * Rows: CONN_ROLE_COUNT for what is in no namespace of the list, as many for each of these, one for each endpoint. The row of a
 * namespace's role is at a fixed distance from its first.
 */
static int lay_out(const struct telemetry_opts *o, struct aggregates_layout *ret)
{
	size_t n = (1 + o->n_netns) * CONN_ROLE_COUNT + o->n_endpoints, width = 1;
	int cpus = libbpf_num_possible_cpus();
	struct aggregates_row *rows;

	*ret = (struct aggregates_layout){.width = 1, .n_rows = 1};
	if (!o->aggregates)
		return 0;
	for (size_t i = 0; i < o->n_peers; i++)
		width = MAX(width, (size_t)o->peers[i].node + 1);
	if (n * width > TELEMETRY_COUNTS_MAX)
		width = 1;
	rows = calloc(n, sizeof(*rows));
	if (!rows)
		return -ENOMEM;
	for (size_t i = 0; i < (1 + o->n_netns) * CONN_ROLE_COUNT; i++)
		rows[i] = (struct aggregates_row){.netns = i < CONN_ROLE_COUNT ? 0 : o->netns[i / CONN_ROLE_COUNT - 1],
			.role = (enum conn_role)(i % CONN_ROLE_COUNT)};
	for (size_t i = 0; i < o->n_endpoints; i++)
		rows[(1 + o->n_netns) * CONN_ROLE_COUNT + i] = (struct aggregates_row){
			.netns = o->endpoints[i].netns, .role = o->endpoints[i].role, .service = o->endpoints[i].service};
	*ret = (struct aggregates_layout){.n_parties = o->n_parties,
		.n_hist_parties = MIN(o->n_parties,
			TELEMETRY_HISTS_BYTES / (sizeof(struct conn_hist) * CONN_HIST_COUNT * (size_t)MAX(cpus, 1))),
		.width = (uint32_t)width,
		.n_rows = n,
		.rows = rows};
	return 0;
}

static int fill_netns(struct conn *skel, const struct telemetry_opts *o, const struct aggregates_layout *l, struct err *err)
{
	size_t i;

	for (i = 0; i < o->n_netns; i++) {
		uint32_t ino = (uint32_t)o->netns[i], row = (uint32_t)(i + 1) * CONN_ROLE_COUNT * l->width;

		if (ino != o->netns[i] || ino == 0)
			return err_set(err, -EINVAL, "telemetry: %llu is no inode of a namespace",
				(unsigned long long)o->netns[i]);
		if (bpf_map__update_elem(skel->maps.netns_wanted, &ino, sizeof(ino), &row,
			    sizeof(row), BPF_NOEXIST) < 0 && errno != EEXIST)
			return err_set(
				err, -errno, "telemetry: namespace filter: %s", strerror(errno));
	}
	return 0;
}

static void wide(uint8_t to[16], int family, const uint8_t addr[16])
{
	if (family == AF_INET6) {
		memcpy(to, addr, 16);
		return;
	}
	memset(to, 0, 10);
	to[10] = to[11] = 0xff;
	memcpy(to + 12, addr, 4);
}

static int fill_places(struct conn *skel, const struct telemetry_opts *o, const struct aggregates_layout *l, struct err *err)
{
	size_t i;

	for (i = 0; i < o->n_endpoints; i++) {
		const struct telemetry_endpoint *p = &o->endpoints[i];
		struct conn_endpoint_key key = {.netns = (uint32_t)p->netns, .port = p->port, .role = p->role};
		struct conn_endpoint value = {
			.counts = (uint32_t)((1 + o->n_netns) * CONN_ROLE_COUNT + i) * l->width, .party = p->party};

		wide(key.addr, p->family, p->addr);
		/* two nodes in one namespace: the first */
		if (bpf_map__update_elem(skel->maps.endpoints, &key, sizeof(key), &value, sizeof(value), BPF_NOEXIST) < 0 &&
			errno != EEXIST)
			return err_set(err, -errno, "telemetry: table of services: %s", strerror(errno));
	}
	for (i = 0; i < o->n_peers; i++) {
		struct conn_peer_key key;
		uint32_t node = l->width > 1 ? o->peers[i].node : 0;

		wide(key.addr, o->peers[i].family, o->peers[i].addr);
		if (bpf_map__update_elem(skel->maps.peers, &key, sizeof(key), &node, sizeof(node), BPF_NOEXIST) < 0 &&
			errno != EEXIST)
			return err_set(err, -errno, "telemetry: table of nodes: %s", strerror(errno));
	}
	return 0;
}

/* The kernel decides by CPU and window; at least one each, or nothing would be seen at all */
static uint32_t records_limit(const struct telemetry_opts *o)
{
	int cpus = libbpf_num_possible_cpus();
	uint64_t windows = NSEC_PER_SEC >> CONN_SAMPLE_WINDOW_SHIFT;

	if (!o->records_rate)
		return 0;
	return (uint32_t)MAX(o->records_rate / windows / (uint64_t)MAX(cpus, 1), (uint64_t)1);
}

/*
 * Half full on average when there are as many as was asked for: a set is full before that in one of 270 (Poisson), and what
 * does not find room is counted.
 */
static uint32_t live_sets(const struct telemetry_opts *o)
{
	return ((o->live_max ?: telemetry_live_default) + CONN_SET / 2 - 1) / (CONN_SET / 2);
}

static void set_sizes(struct conn *skel, const struct telemetry_opts *o, const struct aggregates_layout *l)
{
	bpf_map__set_max_entries(skel->maps.ring, o->ring_bytes ?: TELEMETRY_RING_BYTES);
	bpf_map__set_max_entries(skel->maps.live, live_sets(o));
	bpf_map__set_max_entries(skel->maps.endpoints, (uint32_t)MAX(o->n_endpoints, (size_t)1));
	bpf_map__set_max_entries(skel->maps.peers, (uint32_t)MAX(o->n_peers, (size_t)1));
	bpf_map__set_max_entries(skel->maps.counts, (uint32_t)l->n_rows * l->width);
	bpf_map__set_max_entries(skel->maps.series, MAX((uint32_t)l->n_parties * CONN_WAY_COUNT, 1u));
	bpf_map__set_max_entries(skel->maps.hists, MAX((uint32_t)l->n_hist_parties * CONN_HIST_COUNT, 1u));
	if (!o->aggregates)
		bpf_map__set_max_entries(skel->maps.packets, 1);
}

/* One hook, to the end: a program that loads may still fail to attach. */
static int try_hook(const struct telemetry_opts *o, const struct aggregates_layout *l, bool raw, unsigned int extras, struct conn **ret, struct err *err)
{
	struct conn *skel;
	const char *what;
	int r;

	libbpf_log_start();
	skel = conn__open();
	if (!skel)
		return err_set(err, -errno, "telemetry: open: %s", strerror(errno));
	bpf_program__set_autoload(skel->progs.conn_tp_btf, !raw);
	bpf_program__set_autoload(skel->progs.conn_tp_btf_2, !raw);
	bpf_program__set_autoload(skel->progs.conn_raw_tp, raw);
	bpf_program__set_autoload(skel->progs.conn_raw_tp_2, raw);
	bpf_program__set_autoload(skel->progs.conn_retransmit, extras & 1);
	bpf_program__set_autoload(skel->progs.conn_synack, extras & 2);
	bpf_program__set_autoload(skel->progs.conn_reset_in, extras & 4);
	bpf_program__set_autoload(skel->progs.conn_reset_out, extras & 8);
	skel->rodata->all_netns = o->all_netns;
	skel->rodata->want_records = !o->no_records;
	skel->rodata->want_aggregates = o->aggregates;
	skel->rodata->records_of_services = o->records_of_services;
	skel->rodata->records_of_failures = o->records_of_failures;
	skel->rodata->records_limit = records_limit(o);
	skel->rodata->sees_retransmits = extras & 1;
	skel->rodata->width = l->width;
	skel->rodata->live_sets = live_sets(o);
	skel->rodata->wake_bytes = (o->ring_bytes ?: TELEMETRY_RING_BYTES) / 4;
	set_sizes(skel, o, l);

	what = "load";
	r = conn__load(skel);
	if (r == 0) {
		r = fill_netns(skel, o, l, err);
		if (r == 0)
			r = fill_places(skel, o, l, err);
		if (r < 0) {
			conn__destroy(skel);
			return r;
		}
		what = "attach";
		r = conn__attach(skel);
	}
	if (r < 0) {
		/* On EPERM libbpf blames RLIMIT_MEMLOCK, which has had no part in it since Linux 5.11 */
		const char *more = r == -EPERM ? "" : libbpf_log_first();

		conn__destroy(skel);
		return err_set(err, r, "%s/inet_sock_set_state: %s: %s%s%s",
			raw ? "raw_tp" : "tp_btf", what, strerror(-r), *more ? ": " : "", more);
	}
	*ret = skel;
	return 0;
}

/* With as many of the extra programs as this kernel has */
static int try_typed(struct telemetry *t, const struct telemetry_opts *o, const struct aggregates_layout *l, struct err *err)
{
	unsigned int works = 0;
	int r;

	if (!o->aggregates)
		return try_hook(o, l, false, 0, &t->skel, err);
	r = try_hook(o, l, false, ALL_EXTRAS, &t->skel, err);
	if (r == 0) {
		t->extras = ALL_EXTRAS;
		return 0;
	}
	r = try_hook(o, l, false, 0, &t->skel, err);
	if (r < 0)
		return r;
	for (unsigned int i = 0; i < N_EXTRAS; i++) {
		struct conn *skel = NULL;
		struct err why = {0};

		if (try_hook(o, l, false, works | 1u << i, &skel, &why) == 0)
			works |= 1u << i;
		else
			snprintf(t->extra_why[i], sizeof(t->extra_why[i]), "%.159s", why.text);
		conn__destroy(skel);
	}
	conn__destroy(t->skel);
	t->skel = NULL;
	t->extras = works;
	return try_hook(o, l, false, works, &t->skel, err);
}

static int explain(int r, struct err *err)
{
	/* as root EPERM is the kernel's (a lockdown, a security module), and EACCES is the verifier's */
	if (r == -EPERM && geteuid() != 0) {
		err_prefix(err, "telemetry");
		return err_hint(err, "needs CAP_BPF and CAP_PERFMON: run as root");
	}
	if (r == -ENOMEM || r == -EINVAL) {
		err_prefix(err, "telemetry");
		return r;
	}
	err_prefix(err, "telemetry: not in this kernel");
	err_hint(err, "muster doctor tells more; --lab vm brings a kernel that can");
	if (err)
		err->code = -EOPNOTSUPP;
	return -EOPNOTSUPP;
}

int telemetry_supported(struct err *err)
{
	if (access("/sys/kernel/btf/vmlinux", R_OK) == 0)
		return 0;
	err_set(err, -EOPNOTSUPP, "telemetry: /sys/kernel/btf/vmlinux: %s (CONFIG_DEBUG_INFO_BTF)",
		strerror(errno));
	err_hint(err, "--lab vm brings a kernel that has it");
	return -EOPNOTSUPP;
}

static void layout_clear(struct aggregates_layout *l)
{
	free(l->rows);
}

int telemetry_open(const struct telemetry_opts *o, telemetry_fn fn, void *arg,
	struct telemetry **ret, struct err *err)
{
	_cleanup_(layout_clear) struct aggregates_layout layout = {0};
	_cleanup_telemetry_ struct telemetry *t = NULL;
	struct err why = {0};
	int r;

	r = check_opts(o, err);
	if (r < 0)
		return r;
	r = telemetry_supported(err);
	if (r < 0)
		return r;
	t = calloc(1, sizeof(*t));
	if (!t)
		return err_set(err, -ENOMEM, "telemetry: %s", strerror(ENOMEM));
	t->fn = fn;
	t->arg = arg;

	r = lay_out(o, &layout);
	if (r < 0)
		return err_set(err, r, "telemetry: %s", strerror(-r));
	t->raw = o->hook == TELEMETRY_RAW_TP;
	r = t->raw ? try_hook(o, &layout, true, 0, &t->skel, &why) : try_typed(t, o, &layout, &why);
	if (r < 0 && o->hook == TELEMETRY_AUTO && r != -EINVAL && r != -ENOMEM) {
		snprintf(t->fallback, sizeof(t->fallback), "%s", why.text);
		t->raw = true;
		r = try_hook(o, &layout, true, 0, &t->skel, &why);
	}
	if (r < 0) {
		err_set(err, r, "%s", why.text);
		return explain(r, err);
	}

	libbpf_log_start();
	t->ring = ring_buffer__new(bpf_map__fd(t->skel->maps.ring), on_sample, t, NULL);
	if (!t->ring)
		return err_set(err, -errno, "telemetry: ring buffer: %s", strerror(errno));
	if (o->aggregates) {
		r = aggregates_new(bpf_map__fd(t->skel->maps.series), bpf_map__fd(t->skel->maps.hists),
			bpf_map__fd(t->skel->maps.counts), &layout, &t->aggregates);
		if (r < 0)
			return err_set(err, r, "telemetry: aggregates: %s", strerror(-r));
	}
	for (size_t i = 0; i < N_EXTRAS; i++)
		if (!(t->extras & 1u << i) && !t->extra_why[i][0])
			snprintf(t->extra_why[i], sizeof(t->extra_why[i]), "%s",
				t->raw ? "raw tracepoints are in use" : "not asked for");
	*ret = TAKE_PTR(t);
	return 0;
}

const char *telemetry_probe(const struct telemetry *t)
{
	return t->raw ? "raw_tp/inet_sock_set_state" : "tp_btf/inet_sock_set_state";
}

const char *telemetry_probe_at(const struct telemetry *t, size_t i, const char **ret_why)
{
	*ret_why = NULL;
	if (i == 0)
		return telemetry_probe(t);
	if (i > N_EXTRAS)
		return NULL;
	if (!(t->extras & 1u << (i - 1)))
		*ret_why = t->extra_why[i - 1];
	return extra_names[i - 1];
}

const char *telemetry_fallback_reason(const struct telemetry *t)
{
	return t->fallback;
}

int telemetry_fd(const struct telemetry *t)
{
	return bpf_map__fd(t->skel->maps.ring);
}

/* ── the second program ────────────────────────────────────────────────────────────────────── */

static struct bpf_link **second_link(const struct telemetry *t)
{
	return t->raw ? &t->skel->links.conn_raw_tp_2 : &t->skel->links.conn_tp_btf_2;
}

/* When it returns, every program that had begun before has ended: programs run under RCU, and this waits for a grace period. */
static void wait_for_programs(void)
{
	syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

/* What the first does for the second's sake (has_second) it has to do before that is there, and until it is gone. */
static void second_attach(struct telemetry *t)
{
	t->skel->data->has_second = true;
	wait_for_programs();
	/* behind the first, as it was. If it cannot be had any more, what is missed is counted */
	*second_link(t) = bpf_program__attach(t->raw ? t->skel->progs.conn_raw_tp_2 : t->skel->progs.conn_tp_btf_2);
}

static void second_detach(struct telemetry *t)
{
	bpf_link__destroy(*second_link(t));
	*second_link(t) = NULL;
	wait_for_programs();
	t->skel->data->has_second = false;
}

static void second_tend(struct telemetry *t)
{
	struct telemetry_stats s;
	nsec_t now = now_ns();
	uint64_t missed;

	if (t->detached || now - t->looked < SECOND_LOOK)
		return;
	t->looked = now;
	if (telemetry_stats(t, &s) < 0)
		return;
	missed = s.rescued + s.lost_nested;
	if (missed != t->missed) {
		t->missed = missed;
		t->calm_since = s.moves;
		if (!s.second)
			second_attach(t);
	} else if (s.second && s.moves - t->calm_since >= telemetry_calm_default) {
		second_detach(t);
	}
}

int telemetry_drain(struct telemetry *t, bool *ret_more)
{
	int r;

	second_tend(t);
	t->in_drain = 0;
	r = ring_buffer__consume(t->ring);
	if (r < 0 && r != -EAGAIN)
		return r;
	*ret_more = r == -EAGAIN;
	return t->in_drain;
}

static int prog_info(const struct telemetry *t, struct bpf_prog_info *ret)
{
	struct bpf_program *prog = t->raw ? t->skel->progs.conn_raw_tp : t->skel->progs.conn_tp_btf;
	uint32_t len = sizeof(*ret);

	memset(ret, 0, sizeof(*ret)); /* what is not zero asks for more */
	return bpf_obj_get_info_by_fd(bpf_program__fd(prog), ret, &len) < 0 ? -errno : 0;
}

int telemetry_run_time(const struct telemetry *t, double *ret_ns)
{
	struct bpf_prog_info info;
	int r = prog_info(t, &info);

	if (r < 0)
		return r;
	if (info.run_cnt == 0)
		return -ENODATA;
	*ret_ns = (double)info.run_time_ns / info.run_cnt;
	return 0;
}

int telemetry_stats(const struct telemetry *t, struct telemetry_stats *ret)
{
	struct telemetry_stats s = {.received = t->received, .malformed = t->malformed};
	_cleanup_free_ struct conn_counters *c = NULL;
	struct bpf_prog_info info;
	uint32_t key = 0;
	int i, r, cpus = libbpf_num_possible_cpus();

	if (cpus < 0)
		return cpus;
	c = calloc(cpus, sizeof(*c));
	if (!c)
		return -ENOMEM;
	/* before the counters: a run that is skipped and made up for between the two readings must not look like a loss */
	r = prog_info(t, &info);
	if (r < 0)
		return r;
	if (bpf_map_lookup_elem(bpf_map__fd(t->skel->maps.counters), &key, c) < 0)
		return -errno;
	for (i = 0; i < cpus; i++) {
		s.submitted += c[i].submitted;
		s.lost_ring += c[i].ring_full;
		s.untracked += c[i].untracked;
		s.rescued += c[i].rescued;
		s.moves += c[i].moves;
		s.births += c[i].births;
		s.sampled_out += c[i].sampled_out;
		s.sample_most = MAX(s.sample_most, 1ull << (c[i].sample_most & 31));
	}
	s.second = *second_link(t) != NULL;
	if (t->aggregates)
		s.series_missed = aggregates_missed(t->aggregates);
	/* Runs of the first program that the kernel skipped, and for which the second did not step in (conn.bpf.c) */
	if (info.recursion_misses > s.rescued)
		s.lost_nested = info.recursion_misses - s.rescued;
	*ret = s;
	return 0;
}

int telemetry_series(struct telemetry *t, nsec_t complete, telemetry_series_fn fn, void *arg)
{
	second_tend(t);
	return t->aggregates ? aggregates_series(t->aggregates, complete, fn, arg) : -ENODATA;
}

int telemetry_counts(struct telemetry *t, struct telemetry_count **ret, size_t *ret_n)
{
	return t->aggregates ? aggregates_counts(t->aggregates, ret, ret_n) : -ENODATA;
}

int telemetry_hist(struct telemetry *t, unsigned int party, enum conn_hist_kind kind, struct hist *ret)
{
	return t->aggregates ? aggregates_hist(t->aggregates, party, kind, ret) : -ENODATA;
}

int telemetry_packets(const struct telemetry *t, uint64_t netns, struct conn_packets *ret)
{
	_cleanup_free_ struct conn_packets *p = NULL;
	int cpus = libbpf_num_possible_cpus();
	uint32_t key = (uint32_t)netns;
	struct conn_packets sum = {0};

	if (!t->aggregates)
		return -ENODATA;
	if (cpus < 0)
		return cpus;
	p = calloc((size_t)cpus, sizeof(*p));
	if (!p)
		return -ENOMEM;
	if (bpf_map_lookup_elem(bpf_map__fd(t->skel->maps.packets), &key, p) < 0)
		return errno == ENOENT ? -ENODATA : -errno;
	for (int i = 0; i < cpus; i++) {
		sum.resets_sent += p[i].resets_sent;
		sum.resets_received += p[i].resets_received;
		sum.retransmits += p[i].retransmits;
		sum.synack_retransmits += p[i].synack_retransmits;
	}
	*ret = sum;
	return 0;
}

int telemetry_live(const struct telemetry *t, uint64_t *ret_connecting, uint64_t *ret_established)
{
	enum { BATCH = 256 };
	uint32_t sets = bpf_map__max_entries(t->skel->maps.live), batch = MIN(sets, (uint32_t)BATCH);
	_cleanup_free_ struct conn_set *values = calloc(batch, sizeof(*values));
	_cleanup_free_ uint32_t *keys = calloc(batch, sizeof(*keys));
	uint64_t connecting = 0, established = 0;
	uint32_t in = 0, out = 0, n;
	bool started = false;
	int r;

	if (!values || !keys)
		return -ENOMEM;
	do {
		n = batch;
		r = bpf_map_lookup_batch(bpf_map__fd(t->skel->maps.live), started ? &in : NULL,
			&out, keys, values, &n, NULL);
		if (r < 0 && errno != ENOENT)
			return -errno;
		for (uint32_t i = 0; i < n; i++)
			for (unsigned int k = 0; k < CONN_SET; k++) {
				if (!values[i].key[k])
					continue;
				if (values[i].live[k].established)
					established++;
				else
					connecting++;
			}
		in = out;
		started = true;
	} while (r == 0);
	*ret_connecting = connecting;
	*ret_established = established;
	return 0;
}

void telemetry_detach(struct telemetry *t)
{
	if (!t || !t->skel)
		return;
	t->detached = true;
	/* first of all those that wait behind another: alone they would act for every change (conn.bpf.c) */
	bpf_link__destroy(t->skel->links.conn_tp_btf_2);
	bpf_link__destroy(t->skel->links.conn_raw_tp_2);
	t->skel->links.conn_tp_btf_2 = t->skel->links.conn_raw_tp_2 = NULL;
	conn__detach(t->skel);
	wait_for_programs(); /* the last of them has submitted its record */
}

void telemetry_close(struct telemetry *t)
{
	if (!t)
		return;
	aggregates_free(t->aggregates);
	ring_buffer__free(t->ring);
	conn__destroy(t->skel);
	free(t);
}
