/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/run.h"

#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "engine/clock.h"
#include "engine/judge.h"
#include "engine/run_internal.h"
#include "engine/snapshot.h"

#define BEAT_MS 100
#define TICK_MS 100
#define GAUGE_TICKS 5

static const char *text(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

/* ── the loop ──────────────────────────────────────────────────────────────────────────────── */

void run_halt(struct run *r, const char *by, const char *reason)
{
	pthread_mutex_lock(&r->halt_lock);
	if (!run_halted(r)) {
		timeline_event(r->tl, now_ns(), EV_HALT, json_pack("{s:s, s:s}", "by", by, "reason", reason));
		atomic_store(&r->halted, true);
		/* the conductor may be waiting for the script's next word */
		if (r->o->script->pidfd >= 0)
			(void)syscall(SYS_pidfd_send_signal, r->o->script->pidfd, SIGKILL, NULL, 0);
		timeline_kick(r->tl);
	}
	pthread_mutex_unlock(&r->halt_lock);
}

void run_stage(struct run *r, const char *stage)
{
	timeline_event(r->tl, now_ns(), EV_STAGE, json_pack("{s:s}", "stage", stage));
}

/* Never blocks: a live view that does not read misses events, and the file has them all. */
static void send_event(struct run *r, nsec_t t, const char *kind, const json_t *data)
{
	_cleanup_json_ json_t *j = json_copy((json_t *)data);
	_cleanup_free_ char *line = NULL;

	if (!j || r->o->event_fd < 0)
		return;
	json_object_set_new(j, "t", json_integer(t));
	json_object_set_new(j, "kind", json_string(kind));
	line = json_dumps(j, JSON_COMPACT);
	if (line) {
		size_t n = strlen(line);

		line[n] = '\n';
		/* one write: a line is dropped whole or not at all, up to PIPE_BUF; a longer one may only come when there is room */
		(void)!write(r->o->event_fd, line, n + 1);
	}
}

static void on_timeline_event(const struct tl_event *e, void *arg)
{
	send_event(arg, e->t, e->kind, e->data);
}

static void on_beat(uv_timer_t *timer)
{
	struct run *r = timer->data;

	(void)send(r->o->ctl_fd, "h", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void judge_stop_conditions(struct run *r)
{
	nsec_t complete;

	if (!atomic_load(&r->stop_armed) || run_halted(r))
		return;
	timeline_lock(r->tl);
	complete = timeline_complete(r->tl);
	timeline_unlock(r->tl);
	for (size_t i = 0; i < r->n_stop; i++) {
		const struct predicate *p = r->stop[i];
		struct finding *f = &r->stop_found[i];

		/* goes on where it left off: each window is looked at once */
		predicate_stop(p, r->tl, r->site, atomic_load(&r->stop_from), complete, f);
		if (!f->done || f->status != TRI_TRUE || run_halted(r))
			continue;
		timeline_event(r->tl, now_ns(), EV_STOP,
			json_pack("{s:s, s:I, s:s}", "predicate", p->text, "from", (json_int_t)f->from, "text",
				f->sample.text));
		run_halt(r, "stop", p->text);
	}
}

static json_t *gauge_value(struct run *r, const char *load, const char *probe, nsec_t t1)
{
	const struct probe_ops *ops = probe_find("load", probe);
	_cleanup_json_ json_t *args = json_pack("{s:s}", "load", load);
	struct sample s = {0};

	if (!ops || ops->eval(r->tl, r->site, args, t1 - NSEC_PER_SEC, t1, &s, NULL) < 0 || !s.have)
		return json_null();
	json_decref(s.detail);
	/* a p99 behind which there are failures is endless, and JSON has no word for that */
	return isfinite(s.value) ? json_real(s.value) : json_null();
}

static json_t *gauge_weights(struct run *r)
{
	const struct tl_weight *w;
	size_t n = timeline_weights(r->tl, &w);
	json_t *services = json_object();

	for (size_t i = 0; i < n; i++) {
		json_t *servers = json_object_get(services, w[i].service);

		if (!servers)
			json_object_set_new(services, w[i].service, servers = json_object());
		json_object_set_new(servers, w[i].server, json_integer(w[i].weight));
	}
	return services;
}

static void send_gauge(struct run *r)
{
	const char *load = text(json_array_get(json_object_get(r->scenario, "loads"), 0), "name");
	_cleanup_json_ json_t *j = NULL;
	nsec_t complete;

	if (!load || r->o->event_fd < 0)
		return;
	timeline_lock(r->tl);
	complete = timeline_complete(r->tl);
	j = json_pack("{s:o, s:o, s:o, s:o}", "rate", gauge_value(r, load, "rate", complete), "error_ratio",
		gauge_value(r, load, "error_ratio", complete), "p99_ns", gauge_value(r, load, "p99", complete),
		"weights", gauge_weights(r));
	timeline_unlock(r->tl);
	if (j)
		send_event(r, now_ns(), EV_GAUGE, j);
}

/* The guard answers each beat. One that is stopped does not, and would not undo anything either. */
static void listen_for_guard(struct run *r)
{
	nsec_t now = now_ns();

	/* the machine stood still, or this process: nobody could be heard */
	if (now > r->last_tick + NSEC_PER_SEC)
		r->guard_heard = now;
	r->last_tick = now;
	if (now < r->guard_heard + RUN_SILENCE || r->guard_silent)
		return;
	r->guard_silent = true;
	run_halt(r, "guard", "the guard does not answer: the engine restores the host by itself");
}

static void on_tick(uv_timer_t *timer)
{
	struct run *r = timer->data;

	listen_for_guard(r);

	judge_stop_conditions(r);
	if (++r->ticks % GAUGE_TICKS == 0 && atomic_load(&r->stop_armed))
		send_gauge(r);
}

static void on_ctl_line(struct run *r, const char *line)
{
	_cleanup_json_ json_t *j = json_loads(line, 0, NULL);
	const char *by = text(j, "halt"), *reason = text(j, "reason");

	if (by)
		run_halt(r, by, reason ? reason : "");
}

static void on_ctl(uv_poll_t *poll, int status, int events)
{
	struct run *r = poll->data;
	ssize_t n = recv(r->o->ctl_fd, r->ctl_line + r->ctl_len, sizeof(r->ctl_line) - 1 - r->ctl_len, MSG_DONTWAIT);
	char *nl;

	(void)status;
	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		uv_poll_stop(poll);
		run_halt(r, "guard", "the guard is gone: the engine restores the host by itself");
		return;
	}
	r->guard_heard = now_ns();
	r->ctl_len += (size_t)n;
	r->ctl_line[r->ctl_len] = '\0';
	while ((nl = strchr(r->ctl_line, '\n'))) {
		*nl = '\0';
		on_ctl_line(r, r->ctl_line);
		r->ctl_len -= (size_t)(nl + 1 - r->ctl_line);
		memmove(r->ctl_line, nl + 1, r->ctl_len + 1);
	}
	if (r->ctl_len == sizeof(r->ctl_line) - 1)
		r->ctl_len = 0; /* not a line of ours */
}

int run_announce(void *run, struct err *err)
{
	const struct run *r = run;
	struct pollfd p = {.fd = r->o->intent_fd, .events = POLLIN};
	char answer[sizeof(err->text)] = "";
	nsec_t now = now_ns(), deadline = now + RUN_INTENT_PATIENCE;
	ssize_t n;
	int e;

	if (p.fd < 0)
		return 0;
	if (send(p.fd, &now, sizeof(now), MSG_NOSIGNAL) != sizeof(now))
		return err_set(err, -EPIPE, "no change without the guard, which is gone: %s", strerror(errno));
	do {
		e = poll(&p, 1, (int)MAX((deadline - now_ns()) / NSEC_PER_MSEC, 0LL));
	} while (e < 0 && errno == EINTR);
	if (e == 0)
		return err_set(err, -ETIMEDOUT, "no change without the guard, which has not answered for %d s",
			(int)(RUN_INTENT_PATIENCE / NSEC_PER_SEC));
	n = recv(p.fd, answer, sizeof(answer) - 1, 0);
	if (n <= 0)
		return err_set(err, -EPIPE, "no change without the guard, which is gone");
	return answer[0] ? err_set(err, -ECANCELED, "the guard could not undo it: %s", answer) : 0;
}

static void on_term(uv_signal_t *handle, int signum)
{
	(void)signum;
	run_halt(handle->data, "operator", "the engine was told to end (SIGTERM)");
}

static void on_script(uv_poll_t *poll, int status _unused_, int events _unused_)
{
	struct run *r = poll->data;

	uv_poll_stop(poll);
	atomic_store(&r->script_gone, true);
	timeline_kick(r->tl);
}

static void on_finished(uv_async_t *async)
{
	uv_stop(async->loop);
}

/* ── the conductor ─────────────────────────────────────────────────────────────────────────── */

static int refuse(struct run *r, const struct err *err)
{
	timeline_event(r->tl, now_ns(), EV_REFUSED,
		json_pack("{s:s, s:s?}", "text", err->text, "hint", err->hint[0] ? err->hint : NULL));
	return -ECANCELED;
}

static int fail(struct run *r, const struct err *err, const char *blame)
{
	/* a halt is the cause of whatever fails behind it */
	if (!run_halted(r))
		timeline_event(r->tl, now_ns(), EV_ERROR,
			json_pack("{s:s, s:s?, s:s}", "text", err->text, "hint", err->hint[0] ? err->hint : NULL,
				"blame", blame));
	return -ECANCELED;
}

/* Everything that the drill will ask this kernel for, before anything is changed. */
static int check_supported(struct run *r, struct err *err)
{
	const json_t *j, *baseline = json_object_get(json_object_get(r->scenario, "baseline"), "changes");
	size_t i;
	int e = 0;

	json_array_foreach((json_t *)baseline, i, j) {
		const struct change_ops *ops = change_find(text(j, "change"));
		const json_t *args = json_object_get(j, "args");

		if (e == 0 && ops->supported)
			e = ops->supported(site_node(r->site, text(args, "node")), args, err);
		if (e == -EOPNOTSUPP && json_is_true(json_object_get(j, "optional")))
			e = 0; /* said when its turn comes */
	}
	for (i = 0; e == 0 && i < r->plan->n_steps; i++) {
		const struct plan_step *s = &r->plan->steps[i];

		if (s->ops && s->ops->supported)
			e = s->ops->supported(s->node, json_object_get(s->request, "args"), err);
	}
	return e;
}

/*
 * Asking a kernel for a feature may load its module, and a module brings settings of its own to every namespace. It stays when
 * the drill is over, as it would after any first use. So it is asked for before the picture of the host is taken.
 */
static int load_features(struct run *r, const struct change_ops *lab, const json_t *lab_args, struct err *err)
{
	_cleanup_free_ char *look = NULL;
	const json_t *j, *baseline = json_object_get(json_object_get(r->scenario, "baseline"), "changes");
	size_t k;

	/* so does looking, once: what is looked at first does not show yet what looking at the last has loaded */
	(void)run_snapshot_host(r, &look, NULL);
	json_array_foreach((json_t *)baseline, k, j) {
		const struct change_ops *ops = change_find(text(j, "change"));

		if (ops->supported)
			(void)ops->supported(r->host, json_object_get(j, "args"), NULL);
	}
	for (size_t i = 0; i < r->plan->n_steps; i++) {
		const struct plan_step *s = &r->plan->steps[i];

		/* the answer that counts is the node's own: check_supported() */
		if (s->ops && s->ops->supported)
			(void)s->ops->supported(r->host, json_object_get(s->request, "args"), NULL);
	}
	return lab && lab->supported && !streq(r->o->lab, "none") ? lab->supported(r->host, lab_args, err) : 0;
}

static int stage_lab(struct run *r)
{
	const struct change_ops *ops = change_find("lab.site");
	_cleanup_json_ json_t *args = json_pack("{s:O}", "site", r->site->json);
	struct err err = {0};
	int e;

	run_stage(r, "lab");
	e = node_open(r->host, &err);
	if (e == 0)
		e = load_features(r, ops, args, &err);
	if (e == 0)
		e = run_snapshot_host(r, &r->host_before, &err);
	if (e == 0)
		e = r->o->bind(r->site, &err);
	if (e < 0)
		return refuse(r, &err);
	if (!streq(r->o->lab, "none")) {
		e = ops ? run_change_apply(r, ops, r->host, args, "", false, NULL, &err) :
			  err_set(&err, -EOPNOTSUPP, "this muster was built without labs");
		if (e < 0)
			return refuse(r, &err);
	}
	e = node_open(r->site->host, &err);
	if (e < 0)
		return refuse(r, &err);
	for (size_t i = 0; i < r->site->n_nodes; i++) {
		e = node_open(r->site->nodes[i], &err);
		if (e < 0 && streq(r->o->lab, "none"))
			err_hint(&err, "muster lab up %s builds the site; or leave --lab none out", r->site->name);
		if (e < 0)
			return refuse(r, &err);
	}
	e = run_check_plan(r, &err);
	if (e == 0)
		e = check_supported(r, &err);
	if (e == 0)
		e = run_snapshot_site(r, &r->site_before, &err);
	if (e == 0) {
		_cleanup_free_ char *path = strf("%s/snapshot-before.txt", r->o->dir),
				    *all = strf("%s%s", r->host_before, r->site_before);

		e = path && all ? file_write(path, all, strlen(all)) : -ENOMEM;
		if (e < 0)
			err_set(&err, e, "%s: %s", path ? path : "snapshot", strerror(-e));
	}
	return e < 0 ? refuse(r, &err) : 0;
}

static int stage_baseline(struct run *r)
{
	const json_t *j, *baseline = json_object_get(json_object_get(r->scenario, "baseline"), "changes");
	struct err err = {0};
	size_t i;

	run_stage(r, "baseline");
	r->settings = calloc(json_array_size(baseline) + 1, sizeof(*r->settings));
	if (!r->settings)
		return -ENOMEM;
	json_array_foreach((json_t *)baseline, i, j) {
		const struct change_ops *ops = change_find(text(j, "change"));
		const json_t *args = json_object_get(j, "args");
		bool optional = json_is_true(json_object_get(j, "optional"));
		struct run_change *rc;
		int e;

		if (run_halted(r))
			return -ECANCELED;
		e = run_change_apply(
			r, ops, site_node(r->site, text(args, "node")), args, text(j, "where") ?: "", optional, &rc, &err);
		if (e == -EOPNOTSUPP && optional)
			continue;
		if (e < 0)
			return fail(r, &err, "host");
		r->settings[r->n_settings++] = &rc->c;
	}
	return 0;
}

static void source_event(struct run *r, const struct source_ops *ops, const char *name, const char *state,
	const char *why)
{
	timeline_event(r->tl, now_ns(), EV_SOURCE,
		json_pack("{s:s, s:s, s:s, s:s?}", "name", name, "source_kind",
			ops->kind == SOURCE_LOAD	     ? "load" :
			ops->kind == SOURCE_SAMPLER ? "sampler" :
							     "telemetry",
			"state", state, "text", why));
}

static int start_source(struct run *r, const struct source_ops *ops, const char *name, const json_t *args,
	struct err *err)
{
	bool asked = ops->kind != SOURCE_LOAD && plan_asks(r->plan, name);
	_cleanup_json_ json_t *xdp_taken = asked ? plan_takes_xdp(r->plan) : NULL;
	struct source_ctx ctx = {.tl = r->tl, .site = r->site, .name = name, .args = args, .seed = r->plan->seed,
		.n_settings = r->n_settings, .settings = r->settings, .undoing = &r->way_back, .xdp_taken = xdp_taken, .asked = asked};
	struct run_source *more = realloc(r->sources, (r->n_sources + 1) * sizeof(*more));
	void *handle = NULL;
	int e;

	if (!more)
		return -ENOMEM;
	r->sources = more;
	e = ops->applies ? ops->applies(&ctx, err) : 1;
	if (e == 0)
		return 0;
	if (e > 0)
		e = ops->start(&ctx, &handle, err);
	if (e < 0) {
		source_event(r, ops, name, "refused", err->text);
		return e;
	}
	more[r->n_sources++] = (struct run_source){.ops = ops, .handle = handle, .name = strdup(name)};
	source_event(r, ops, name, "started", NULL);
	return 0;
}

/* A sampler or telemetry that will not start leaves its questions unanswered; the drill says so, and goes on. */
static void stage_telemetry(struct run *r)
{
	run_stage(r, "telemetry");
	for (const struct source_ops *const *s = source_table; *s; s++) {
		struct err err = {0};

		if ((*s)->kind != SOURCE_LOAD)
			(void)start_source(r, *s, (*s)->name, NULL, &err);
	}
}

static int stage_load(struct run *r)
{
	const json_t *j;
	struct err err = {0};
	size_t i;

	run_stage(r, "load");
	json_array_foreach(json_object_get(r->scenario, "loads"), i, j) {
		int e = start_source(r, source_find(SOURCE_LOAD, text(j, "kind")), text(j, "name"),
			json_object_get(j, "args"), &err);

		if (e < 0)
			return fail(r, &err, "host");
	}
	return 0;
}

static int stage_steady(struct run *r)
{
	nsec_t from = now_ns();

	run_stage(r, "steady");
	atomic_store(&r->stop_from, from);
	atomic_store(&r->stop_armed, true);
	/* not attained: the check says so, and there is no use in breaking what is not whole */
	return run_steady(r, "steady-before", from) == 0 ? 0 : -ECANCELED;
}

static int stage_method(struct run *r)
{
	struct err err = {0};
	int e;

	run_stage(r, "method");
	e = run_method(r, &err);
	return e < 0 ? fail(r, &err, r->trouble ? "host" : e == -EINVAL ? "scenario" : "engine") : 0;
}

static void stage_recovery(struct run *r)
{
	run_stage(r, "recovery");
	for (size_t i = r->n_changes; i-- > 0;)
		if (r->changes[i]->c.ops->kind == CHANGE_FAULT)
			(void)run_change_lift(r, r->changes[i], NULL);
	(void)run_steady(r, "steady-after", now_ns());
}

static int walk(struct run *r)
{
	struct err err = {0};
	int e = run_await_scenario(r, &err);

	if (e < 0)
		return refuse(r, &err);
	e = stage_lab(r);
	/* from here on the deadline runs: building the lab is not the drill */
	(void)send(r->o->ctl_fd, "d", 1, MSG_NOSIGNAL);
	change_run_set_deadline(now_ns() + json_integer_value(json_object_get(r->scenario, "deadline_ns")));
	if (e == 0 && !run_halted(r))
		e = stage_baseline(r);
	if (e < 0 || run_halted(r))
		return -ECANCELED;
	stage_telemetry(r);
	e = stage_load(r);
	if (e == 0 && !run_halted(r))
		e = stage_steady(r);
	if (e == 0 && !run_halted(r)) {
		e = stage_method(r);
		/* a script that failed half-way has asked its question badly: the damage ends at once */
		if (e == 0 && !run_halted(r))
			stage_recovery(r);
	}
	return e;
}

static void *conduct(void *arg)
{
	struct run *r = arg;

	(void)walk(r);
	atomic_store(&r->stop_armed, false);
	run_undo(r);
	/* the guard does it too, if it lives; what could not be undone stays hot */
	(void)journal_remove(r->o->journal, NULL);
	run_stage(r, "end");
	/* a guard that was stopped holds the locks, and the command waits for it */
	if (r->guard_silent && getppid() == r->o->guard)
		(void)kill(r->o->guard, SIGCONT);
	uv_async_send(&r->finished);
	return NULL;
}

/* ── the process ───────────────────────────────────────────────────────────────────────────── */

static int load_predicates(const json_t *list, const struct site *site, struct predicate ***ret, size_t *ret_n,
	struct err *err)
{
	const json_t *j;
	size_t i;

	*ret = calloc(json_array_size(list) + 1, sizeof(struct predicate *));
	if (!*ret)
		return -ENOMEM;
	json_array_foreach((json_t *)list, i, j) {
		int e = predicate_from_json(j, site, &(*ret)[i], err);

		if (e < 0)
			return e;
		(*ret_n)++;
	}
	return 0;
}

static void first_event(struct run *r)
{
	struct utsname u;

	uname(&u);
	timeline_event(r->tl, now_ns(), EV_RUN,
		json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:s, s:I}", "id", r->o->id, "scenario",
			text(r->scenario, "name"), "file", r->plan->file, "seed", (json_int_t)r->plan->seed, "kernel",
			u.release, "lab", r->o->lab, "host", u.nodename, "version", MUSTER_VERSION, "wall_ns",
			(json_int_t)wall_ns()));
}

static int run_open(struct run *r, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", r->o->dir);
	const json_t *steady = json_object_get(r->scenario, "steady_state");
	int e;

	r->host = node_new("host", NULL);
	if (!path || !r->host)
		return -ENOMEM;
	e = timeline_new(path, &r->tl, err);
	if (e == 0)
		e = load_predicates(json_object_get(steady, "predicates"), r->site, &r->steady, &r->n_steady, err);
	if (e == 0)
		e = load_predicates(json_object_get(r->scenario, "stop_when"), r->site, &r->stop, &r->n_stop, err);
	r->stop_found = calloc(r->n_stop + 1, sizeof(*r->stop_found));
	if (e == 0 && !r->stop_found)
		e = -ENOMEM;
	r->settle = json_integer_value(json_object_get(steady, "settle_ns"));
	r->within = json_integer_value(json_object_get(steady, "within_ns"));
	return e;
}

static void run_close(struct run *r)
{
	for (size_t i = 0; i < r->n_changes; i++) {
		json_decref(r->changes[i]->c.args);
		json_decref(r->changes[i]->c.prior);
		free(r->changes[i]->where);
		free(r->changes[i]->waived);
		free(r->changes[i]->script);
		free(r->changes[i]);
	}
	free(r->changes);
	for (size_t i = 0; i < r->n_sources; i++)
		free(r->sources[i].name);
	free(r->sources);
	for (size_t i = 0; i < r->n_steady; i++)
		predicate_free(r->steady[i]);
	for (size_t i = 0; i < r->n_stop; i++) {
		predicate_free(r->stop[i]);
		if (r->stop_found)
			finding_clear(&r->stop_found[i]);
	}
	free(r->stop_found);
	free(r->settings);
	free(r->steady);
	free(r->stop);
	free(r->host_before);
	free(r->site_before);
	run_peak_free(r);
	node_free(r->host);
	timeline_free(r->tl);
}

int run_engine(const struct run_opts *o)
{
	struct run r = {.o = o, .plan = o->plan, .site = o->plan->site, .scenario = o->plan->scenario};
	struct err err = {0};
	int e;

	prctl(PR_SET_NAME, "muster-engine");
	change_run_begin(o->id);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	pthread_mutex_init(&r.halt_lock, NULL);
	r.last_tick = r.guard_heard = now_ns();
	if (o->event_fd >= 0)
		(void)fcntl(o->event_fd, F_SETFL, fcntl(o->event_fd, F_GETFL) | O_NONBLOCK);
	e = run_open(&r, &err);
	if (e < 0) {
		_cleanup_json_ json_t *j = json_pack("{s:s, s:s}", "text", err.text[0] ? err.text : strerror(-e), "blame",
			"engine");

		send_event(&r, now_ns(), EV_ERROR, j);
		run_close(&r);
		return EXIT_ERROR;
	}
	timeline_listen(r.tl, on_timeline_event, &r);
	first_event(&r);

	uv_loop_init(&r.loop);
	uv_timer_init(&r.loop, &r.beat);
	uv_timer_init(&r.loop, &r.tick);
	uv_poll_init(&r.loop, &r.ctl, o->ctl_fd);
	uv_poll_init(&r.loop, &r.script, o->script->pidfd);
	uv_signal_init(&r.loop, &r.term);
	uv_async_init(&r.loop, &r.finished, on_finished);
	r.beat.data = r.tick.data = r.ctl.data = r.script.data = r.term.data = &r;
	uv_timer_start(&r.beat, on_beat, 0, BEAT_MS);
	uv_timer_start(&r.tick, on_tick, TICK_MS, TICK_MS);
	uv_poll_start(&r.ctl, UV_READABLE | UV_DISCONNECT, on_ctl);
	uv_poll_start(&r.script, UV_READABLE, on_script);
	uv_signal_start(&r.term, on_term, SIGTERM);

	e = pthread_create(&r.conductor, NULL, conduct, &r);
	if (e == 0) {
		uv_run(&r.loop, UV_RUN_DEFAULT);
		pthread_join(r.conductor, NULL);
	} else {
		r.exit_status = EXIT_ERROR;
	}
	timeline_event(r.tl, now_ns(), EV_END, json_pack("{s:i}", "exit", r.exit_status));
	run_close(&r);
	return r.exit_status;
}
