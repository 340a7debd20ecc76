/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A standing lab, watched without a drill: the same sources and the same probes that a drill uses, on a timeline in memory that nobody
 * keeps. Every second the whole seconds that are complete are told; on a terminal in place, into a pipe one line after the other.
 * It changes nothing. What it has attached ends with it, however it ends.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/clock.h"
#include "engine/cmd.h"
#include "engine/events.h"
#include "engine/probe.h"
#include "engine/source.h"
#include "engine/str.h"
#include "engine/units.h"
#include "lab/lab.h"
#include "bpf/syscalls.h"

#define WATCH_MAX   (3600 * NSEC_PER_SEC) /* the timeline grows all the while */
#define SOURCES_MAX 16
#define QUANTILES   (3 * NSEC_PER_SEC) /* histograms come once a second */

struct watch {
	struct site *site;
	struct timeline *tl;
	size_t n;
	struct {
		const struct source_ops *ops;
		void *handle;
	} sources[SOURCES_MAX];
	json_t *refused; /* [{source, why}] */
	bool packets; /* count them as well */
	struct syscalls_reader *calls; /* NULL: not asked for, or not to be had */
	unsigned int lines; /* on the terminal, from the last time */
};

/* ── what is watched ───────────────────────────────────────────────────────────────────────── */

static int find_lab(const char *name, struct site **ret, struct err *err)
{
	_cleanup_json_ json_t *labs = NULL;
	_cleanup_site_ struct site *site = NULL;
	const json_t *lab;
	size_t i;
	int r = lab_list(&labs, err);

	if (r < 0)
		return r;
	json_array_foreach(labs, i, lab) {
		if (!streq(name, json_string_value(json_object_get(lab, "name"))))
			continue;
		r = site_from_json(json_object_get(lab, "site"), &site, err);
		if (r == 0)
			r = lab_bind(site, err);
		if (r == 0)
			*ret = TAKE_PTR(site);
		return r;
	}
	err_set(err, -ENOENT, "there is no lab %s", name);
	return err_hint(err, "muster lab up %s builds it", name);
}

/* What is asked of each service; where the probe names a source (probe.h), only with --packets, and then that source runs */
static const struct asked {
	const char *probe;
	nsec_t over;
	bool each; /* of each server as well */
	const char *arg; /* what the server is called there; NULL: "server" */
} asked[] = {
	{"accepted", NSEC_PER_SEC, true, NULL},
	{"connect_failed", NSEC_PER_SEC, false, NULL},
	{"broken", NSEC_PER_SEC, true, NULL},
	{"retransmits", NSEC_PER_SEC, true, NULL},
	{"connect_p50", QUANTILES, false, NULL},
	{"connect_p99", QUANTILES, false, NULL},
	{"round_trip_p99", QUANTILES, true, NULL},
	{"packets", NSEC_PER_SEC, true, "node"},
	{"packet_bytes", NSEC_PER_SEC, true, "node"},
	{"forwarded", NSEC_PER_SEC, true, NULL},
};

static const char *source_of(const struct asked *a)
{
	const struct probe_ops *p = probe_find("service", a->probe);

	return p ? p->source : NULL;
}

static bool is_asked(const struct watch *w, const char *source)
{
	for (size_t i = 0; w->packets && i < ARRAY_SIZE(asked); i++)
		if (streq(source_of(&asked[i]) ?: "", source))
			return true;
	return false;
}

static void started(struct watch *w, const struct source_ops *ops, const char *state)
{
	timeline_event(w->tl, now_ns(), EV_SOURCE,
		json_pack("{s:s, s:s, s:s}", "name", ops->name, "source_kind",
			ops->kind == SOURCE_TELEMETRY ? "telemetry" : "sampler", "state", state));
}

/* One that will not start leaves its columns empty, and it is said why. */
static void start_all(struct watch *w)
{
	for (const struct source_ops *const *s = source_table; *s && w->n < SOURCES_MAX; s++) {
		struct source_ctx ctx = {.tl = w->tl, .site = w->site, .name = (*s)->name, .asked = is_asked(w, (*s)->name)};
		struct err err = {0};
		int r;

		if ((*s)->kind == SOURCE_LOAD)
			continue;
		r = (*s)->applies ? (*s)->applies(&ctx, &err) : 1;
		if (r > 0)
			r = (*s)->start(&ctx, &w->sources[w->n].handle, &err);
		else if (r == 0)
			continue;
		if (r < 0) {
			json_array_append_new(w->refused, json_pack("{s:s, s:s}", "source", (*s)->name, "why", err.text));
			continue;
		}
		w->sources[w->n++].ops = *s;
		started(w, *s, "started");
	}
}

static void stop_all(struct watch *w)
{
	while (w->n > 0) {
		json_t *summary = NULL;

		w->n--;
		w->sources[w->n].ops->stop(w->sources[w->n].handle, &summary);
		json_decref(summary);
	}
}

/* ── asking ────────────────────────────────────────────────────────────────────────────────── */

/* @arg: as what @server, which may be NULL, is given */
static json_t *ask(const struct watch *w, const char *subject, const char *probe, const char *name, const char *arg, const char *server,
	nsec_t until, nsec_t length)
{
	const struct probe_ops *p = probe_find(subject, probe);
	_cleanup_json_ json_t *args = json_pack("{s:s, s:s*}", subject, name, arg, server);
	struct sample s = {0};

	if (!p || !args || p->eval(w->tl, w->site, args, p->window ? until - length : until, until, &s, NULL) < 0)
		return json_null();
	json_decref(s.detail);
	return s.have && isfinite(s.value) ? json_real(s.value) : json_null();
}

static json_t *ask_all(const struct watch *w, nsec_t until)
{
	json_t *all = json_object();

	for (size_t i = 0; i < w->site->n_services; i++) {
		const struct service *s = &w->site->services[i];
		json_t *o = json_object(), *servers = json_object();

		for (size_t k = 0; k < ARRAY_SIZE(asked); k++)
			if (w->packets || !source_of(&asked[k]))
				json_object_set_new(
					o, asked[k].probe, ask(w, "service", asked[k].probe, s->name, "server", NULL, until, asked[k].over));
		for (size_t n = 0; n < s->n_servers; n++) {
			const char *server = s->servers[n].node->name;
			json_t *one = json_object();

			for (size_t k = 0; k < ARRAY_SIZE(asked); k++)
				if (asked[k].each && (w->packets || !source_of(&asked[k])))
					json_object_set_new(one, asked[k].probe,
						ask(w, "service", asked[k].probe, s->name, asked[k].arg ?: "server", server, until,
							asked[k].over));
			json_object_set_new(one, "weight", ask(w, "service", "weight", s->name, "server", server, until, 0));
			json_object_set_new(one, "accept_queue", ask(w, "node", "accept_queue", server, "server", NULL, until, 0));
			json_object_set_new(one, "syn_queue", ask(w, "node", "syn_queue", server, "server", NULL, until, NSEC_PER_SEC));
			json_object_set_new(servers, server, one);
		}
		json_object_set_new(o, "servers", servers);
		json_object_set_new(all, s->name, o);
	}
	return all;
}

static const char *const call_names[SYSCALL_COUNT] = {"connect", "sendto", "recvfrom"};

static json_t *processes(const struct watch *w)
{
	_cleanup_free_ struct syscalls_entry *all = NULL;
	json_t *list = json_array();
	uint64_t lost = 0;
	size_t n = 0;

	if (syscalls_read(w->calls, &all, &n, &lost) < 0) {
		json_decref(list);
		return json_null();
	}
	for (size_t i = 0; i < n; i++) {
		const char *node = "";
		char comm[sizeof(all[i].p.comm) + 1] = "";
		json_t *o;

		for (size_t k = 0; k < sizeof(comm) - 1 && all[i].p.comm[k]; k++)
			comm[k] = all[i].p.comm[k] >= 0x20 && all[i].p.comm[k] < 0x7f ? all[i].p.comm[k] : '?';
		for (size_t k = 0; k < w->site->n_nodes && !*node; k++)
			if (w->site->nodes[k]->netns_ino == all[i].p.netns)
				node = w->site->nodes[k]->name;
		o = json_pack("{s:i, s:s, s:s}", "pid", (int)all[i].pid, "comm", comm, "node", node);
		for (int k = 0; k < SYSCALL_COUNT; k++)
			json_object_set_new(o, call_names[k],
				json_pack("{s:I, s:I, s:I, s:I}", "calls", (json_int_t)all[i].p.count[k].calls, "bytes",
					(json_int_t)all[i].p.count[k].bytes, "errors", (json_int_t)all[i].p.count[k].errors, "again",
					(json_int_t)all[i].p.count[k].again));
		json_array_append_new(list, o);
	}
	return json_pack("{s:o, s:I}", "processes", list, "lost", (json_int_t)lost);
}

/* ── telling ───────────────────────────────────────────────────────────────────────────────── */

static void put_number(struct strbuf *b, const json_t *v, const char *fmt)
{
	char text[32] = "-";

	if (json_is_number(v))
		snprintf(text, sizeof(text), fmt, json_number_value(v));
	strbuf_addf(b, "%10s", text);
}

static void put_share(struct strbuf *b, const json_t *v)
{
	char text[UNITS_FMT_MAX] = "-";

	if (json_is_number(v))
		units_fmt_ratio(text, sizeof(text), json_number_value(v));
	strbuf_addf(b, "%10s", text);
}

static void put_time(struct strbuf *b, const json_t *v)
{
	char text[UNITS_FMT_MAX] = "-";

	if (json_is_number(v))
		units_fmt_duration(text, sizeof(text), (nsec_t)json_number_value(v));
	strbuf_addf(b, "%10s", text);
}

static void put_row(struct strbuf *b, const char *name, const json_t *o, bool packets, unsigned int *lines)
{
	strbuf_addf(b, "%-16.16s", name);
	put_number(b, json_object_get(o, "accepted"), "%.0f");
	put_share(b, json_object_get(o, "connect_failed"));
	put_share(b, json_object_get(o, "broken"));
	put_number(b, json_object_get(o, "retransmits"), "%.0f");
	put_time(b, json_object_get(o, "connect_p50"));
	put_time(b, json_object_get(o, "connect_p99"));
	put_time(b, json_object_get(o, "round_trip_p99"));
	put_number(b, json_object_get(o, "weight"), "%.0f");
	put_number(b, json_object_get(o, "accept_queue"), "%.0f");
	put_number(b, json_object_get(o, "syn_queue"), "%.0f");
	if (packets) {
		put_number(b, json_object_get(o, "packets"), "%.0f");
		put_number(b, json_object_get(o, "forwarded"), "%.0f");
	}
	strbuf_puts(b, "\n");
	++*lines;
}

static void put_processes(struct strbuf *b, const json_t *all, unsigned int *lines)
{
	const json_t *p;
	size_t i;

	strbuf_addf(b, "%-16s%-10s%8s", "process", "node", "pid");
	for (int k = 0; k < SYSCALL_COUNT; k++)
		strbuf_addf(b, "%10s%12s%8s", call_names[k], k == SYSCALL_CONNECT ? "" : "bytes", "errors");
	strbuf_puts(b, "\n");
	++*lines;
	json_array_foreach (json_object_get(all, "processes"), i, p) {
		strbuf_addf(b, "%-16s%-10.10s%8lld", json_string_value(json_object_get(p, "comm")),
			json_string_value(json_object_get(p, "node")), (long long)json_integer_value(json_object_get(p, "pid")));
		for (int k = 0; k < SYSCALL_COUNT; k++) {
			const json_t *c = json_object_get(p, call_names[k]);

			strbuf_addf(b, "%10lld", (long long)json_integer_value(json_object_get(c, "calls")));
			if (k == SYSCALL_CONNECT)
				strbuf_addf(b, "%12s", "");
			else
				strbuf_addf(b, "%12lld", (long long)json_integer_value(json_object_get(c, "bytes")));
			strbuf_addf(b, "%8lld", (long long)json_integer_value(json_object_get(c, "errors")));
		}
		strbuf_puts(b, "\n");
		++*lines;
	}
}

static void tell(struct watch *w, const json_t *all, const json_t *calls, bool in_place)
{
	static const char *const heads[] = {
		"accepted/s", "failed", "broken", "again/s", "connect50", "connect99", "rtt99", "weight", "queued", "syn queue"};
	_cleanup_strbuf_ struct strbuf b = {0};
	unsigned int lines = 1;
	const char *name, *server;
	json_t *o, *one;

	if (in_place && w->lines)
		strbuf_addf(&b, "\x1b[%uA\x1b[J", w->lines);
	strbuf_addf(&b, "%-16s", "");
	for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
		strbuf_addf(&b, "%10s", heads[i]);
	if (w->packets)
		strbuf_addf(&b, "%10s%10s", "packets/s", "sent on/s");
	strbuf_puts(&b, "\n");
	json_object_foreach ((json_t *)all, name, o) {
		put_row(&b, name, o, w->packets, &lines);
		json_object_foreach (json_object_get(o, "servers"), server, one) {
			_cleanup_free_ char *label = strf("  %s", server);

			put_row(&b, label ? label : "", one, w->packets, &lines);
		}
	}
	if (calls)
		put_processes(&b, calls, &lines);
	fputs(strbuf_cstr(&b), stdout);
	fflush(stdout);
	w->lines = in_place ? lines : 0;
}

/* At which another XDP program stands, say */
static void tell_uncounted(const struct watch *w)
{
	const struct tl_event *e;
	size_t n;

	timeline_lock(w->tl);
	n = timeline_events(w->tl, &e);
	for (size_t i = 0; i < n; i++)
		if (streq(e[i].kind, EV_PACKETS) && json_is_false(json_object_get(e[i].data, "counted")))
			fprintf(stderr, "muster: packets of %s/%s are not counted: %s\n", json_string_value(json_object_get(e[i].data, "node")),
				json_string_value(json_object_get(e[i].data, "dev")), json_string_value(json_object_get(e[i].data, "why")));
	timeline_unlock(w->tl);
}

static int watch_site(const struct cmd_args *a, struct watch *w, nsec_t length)
{
	nsec_t begun, told, next, end;
	bool in_place = !a->json && isatty(STDOUT_FILENO);
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	start_all(w);
	begun = now_ns();
	told = begun - begun % TIMELINE_BUCKET + TIMELINE_BUCKET; /* nothing before was seen */
	next = begun + NSEC_PER_SEC + 2 * TIMELINE_BUCKET;
	end = begun + length + NSEC_PER_SEC / 2;
	for (size_t i = 0; i < json_array_size(w->refused); i++)
		fprintf(stderr, "muster: %s is not watched: %s\n",
			json_string_value(json_object_get(json_array_get(w->refused, i), "source")),
			json_string_value(json_object_get(json_array_get(w->refused, i), "why")));
	tell_uncounted(w);
	while (next <= end) {
		nsec_t wait = MAX(next - now_ns(), 1), complete;
		struct timespec ts = {.tv_sec = wait / NSEC_PER_SEC, .tv_nsec = wait % NSEC_PER_SEC};

		if (sigtimedwait(&set, NULL, &ts) > 0)
			break;
		next += NSEC_PER_SEC;
		timeline_lock(w->tl);
		complete = timeline_complete(w->tl);
		complete -= complete % TIMELINE_BUCKET;
		if (complete >= told + NSEC_PER_SEC) {
			_cleanup_json_ json_t *all = ask_all(w, told + NSEC_PER_SEC), *calls = w->calls ? processes(w) : NULL;

			if (a->json) {
				_cleanup_json_ json_t *line = json_pack("{s:f, s:O, s:O*}", "seconds",
					(double)(told + NSEC_PER_SEC - begun) / NSEC_PER_SEC, "services", all, "calls", calls);

				json_dumpf(line, stdout, JSON_COMPACT);
				putchar('\n');
				fflush(stdout);
			} else {
				tell(w, all, calls, in_place);
			}
			told += NSEC_PER_SEC;
		}
		timeline_unlock(w->tl);
		if (ferror(stdout)) /* whoever read it has gone */
			break;
	}
	stop_all(w);
	return EXIT_PASS;
}

static int open_calls(struct watch *w, struct err *err)
{
	_cleanup_free_ uint64_t *netns = calloc(w->site->n_nodes + 1, sizeof(*netns));

	if (!netns)
		return -ENOMEM;
	for (size_t i = 0; i < w->site->n_nodes; i++)
		netns[i] = w->site->nodes[i]->netns_ino;
	return syscalls_open(netns, w->site->n_nodes, &w->calls, err);
}

static int watch(const struct cmd_args *a)
{
	const char *length = cmd_value(a, "for");
	_cleanup_site_ struct site *site = NULL;
	_cleanup_timeline_ struct timeline *tl = NULL;
	struct watch w = {0};
	struct err err = {0};
	nsec_t most = WATCH_MAX;
	int r, code;

	if (length && (units_duration(length, &most) < 0 || most < NSEC_PER_SEC || most > WATCH_MAX)) {
		err_set(&err, -EINVAL, "--for %s: wants a duration from 1s to 1h", length);
		return cmd_fail(a, EXIT_USAGE, &err);
	}
	if (geteuid() != 0) {
		err_set(&err, -EPERM, "watching needs root: it looks into network namespaces, with eBPF");
		err_hint(&err, "sudo muster watch %s", a->argv[0]);
		return cmd_fail(a, EXIT_REFUSED, &err);
	}
	r = find_lab(a->argv[0], &site, &err);
	if (r < 0)
		return cmd_fail(a, r == -ENOENT ? EXIT_USAGE : EXIT_ERROR, &err);
	for (size_t i = 0; r == 0 && i < site->n_nodes; i++)
		r = node_open(site->nodes[i], &err);
	if (r == 0)
		r = timeline_new(NULL, &tl, &err);
	if (r < 0)
		return cmd_fail(a, EXIT_ERROR, &err);
	w.site = site;
	w.tl = tl;
	w.packets = cmd_has(a, "packets");
	w.refused = json_array();
	if (cmd_has(a, "processes") && open_calls(&w, &err) < 0) {
		json_decref(w.refused);
		return cmd_fail(a, EXIT_REFUSED, &err);
	}
	code = watch_site(a, &w, most);
	syscalls_close(w.calls);
	json_decref(w.refused);
	return code;
}

static const struct cmd_opt opts[] = {
	{"for", "DURATION", "end after this; at most 1h, which is also the default"},
	{"packets", NULL, "what comes to the nodes' devices (XDP) and what directors send on as well; slows every packet of the site a little"},
	{"processes", NULL, "connect, sendto and recvfrom by process as well: calls, bytes, errors; slows every system call of the machine a little"},
	{0},
};

const struct cmd cmd_watch = {
	.name = "watch",
	.order = 55,
	.args = "SITE",
	.summary = "A standing lab, live and without a drill: connections, failures, latencies",
	.help = "Every second, from inside the kernel: new connections, the shares that failed or were broken off, segments sent\n"
		"again, how long handshakes and round trips took, weights and accept queues; of each service, and of each of its\n"
		"real servers. \"-\" is no data. Nothing is changed. Ctrl-C ends it.",
	.opts = opts,
	.min_args = 1,
	.max_args = 1,
	.run = watch,
};
