/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The script process, for real: each test forks one, plays the engine on the other end of its
 * socket, and looks at what was asked, what was reported and how the process ended. The tables of
 * changes, loads and probes are this file's own, so that the words of the messages can be compared
 * exactly.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/change.h"
#include "engine/clock.h"
#include "engine/embedded.h"
#include "engine/probe.h"
#include "engine/source.h"
#include "engine/str.h"
#include "engine/wire.h"
#include "lua/sandbox.h"
#include "lua/script.h"

/* ── tables ────────────────────────────────────────────────────────────────────────────────── */

static const struct param loss_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "the node that is lost"},
	{.name = "how", .type = PARAM_STRING, .values = "silent|cut|loud", .deflt = "silent"},
	PARAM_END,
};
static const struct param netem_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "where"},
	{.name = "delay", .type = PARAM_DURATION, .min = 0, .max = 10e9},
	{.name = "loss", .type = PARAM_RATIO},
	{.name = "steps", .type = PARAM_LIST, .of = PARAM_DURATION},
	PARAM_END,
};
static const struct param sysctl_params[] = {
	{.name = "node", .type = PARAM_NODE},
	{.name = "values",
		.type = PARAM_MAP,
		.of = PARAM_STRING,
		.required = true,
		.help = "name = value"},
	PARAM_END,
};
static const struct param ipvs_params[] = {
	{.name = "service", .type = PARAM_SERVICE, .required = true, .help = "the virtual service"},
	{.name = "weights", .type = PARAM_MAP, .of = PARAM_INT, .min = 0, .max = 65535},
	PARAM_END,
};
static const struct param no_params[] = {PARAM_END};

static const struct change_ops node_loss = {.name = "fault.node_loss",
	.summary = "a node is lost",
	.kind = CHANGE_FAULT,
	.params = loss_params};
static const struct change_ops netem = {.name = "fault.netem",
	.summary = "delay and loss",
	.kind = CHANGE_FAULT,
	.params = netem_params};
static const struct change_ops lab_site = {
	.name = "lab.site", .summary = "the lab", .kind = CHANGE_LAB, .params = no_params};
static const struct change_ops set_ipvs = {.name = "set.ipvs",
	.summary = "a virtual service",
	.kind = CHANGE_SETTING,
	.params = ipvs_params};
static const struct change_ops set_sysctl = {.name = "set.sysctl",
	.summary = "kernel settings",
	.kind = CHANGE_SETTING,
	.params = sysctl_params};
const struct change_ops *const change_table[] = {
	&netem, &node_loss, &lab_site, &set_ipvs, &set_sysctl, NULL};

static const struct param http_params[] = {
	{.name = "from", .type = PARAM_NODE, .required = true, .help = "the node that sends"},
	{.name = "url", .type = PARAM_URL, .required = true, .help = "what is asked for"},
	{.name = "rate", .type = PARAM_RATE, .required = true, .help = "requests per second"},
	{.name = "connections", .type = PARAM_INT, .min = 1, .max = 10000, .deflt = "64"},
	PARAM_END,
};
static const struct source_ops http = {
	.name = "http", .summary = "", .kind = SOURCE_LOAD, .params = http_params};
static const struct source_ops conn = {.name = "conn", .summary = "", .kind = SOURCE_TELEMETRY};
const struct source_ops *const source_table[] = {&http, &conn, NULL};

static const struct param weight_params[] = {
	{.name = "server", .type = PARAM_NODE, .required = true, .help = "the real server"},
	PARAM_END,
};
static const struct param quantile_params[] = {
	{.name = "q", .type = PARAM_RATIO, .deflt = "50%"},
	PARAM_END,
};
static const struct probe_ops probe_load[] = {
	{.subject = "load", .name = "error_ratio", .unit = UNIT_RATIO, .params = no_params},
	{.subject = "load", .name = "p99", .unit = UNIT_TIME},
	{.subject = "load", .name = "quantile", .unit = UNIT_TIME, .params = quantile_params},
	{.subject = "load", .name = "rate", .unit = UNIT_RATE},
	{0},
};
static const struct probe_ops probe_service[] = {
	{.subject = "service", .name = "balance", .unit = UNIT_RATIO},
	{.subject = "service", .name = "weight", .unit = UNIT_NONE, .params = weight_params},
	{.subject = "node", .name = "up", .unit = UNIT_NONE},
	{.subject = "", .name = "pressure", .unit = UNIT_RATIO},
	{0},
};
const struct probe_ops *const probe_table[] = {probe_load, probe_service, NULL};

static const char site_text[] = "local o = option { weight = 3, wide = false }\n"
				"local nodes = {}\n"
				"for i, name in ipairs { 'client', 'director', 'rs1', 'rs2' } do\n"
				"  nodes[i] = { name = name, lo = {}, links = { { switch = 'lan', "
				"addrs = { '198.18.0.' .. (10 + i) .. '/24' } } } }\n"
				"end\n"
				"return {\n"
				"  name = 'lvs-dr', switches = { 'lan' }, nodes = nodes,\n"
				"  services = { { name = 'web', port = 8080, vips = { "
				"'198.18.0.100', '2001:db8::100' }, director = 'director',\n"
				"    servers = { { node = 'rs1', weight = o.weight }, { node = "
				"'rs2', weight = 10 / 2 } } } },\n"
				"}\n";

static const char profile_text[] =
	"return { summary = 'tuned',\n"
	"  { on = 'servers', 'set.sysctl', { values = { ['net.core.somaxconn'] = '65535' } } },\n"
	"  { on = 'clients', 'set.sysctl', { values = { ['net.ipv4.tcp_tw_reuse'] = '1' } } },\n"
	"  { on = 'services', 'set.ipvs', { weights = { rs1 = 3 } } },\n"
	"  { on = 'host', optional = true, 'set.sysctl', { values = {} } },\n"
	"}\n";

/* ── the engine's side ─────────────────────────────────────────────────────────────────────── */

struct play {
	/* what the engine does */
	const char *set;	    /* --set, as JSON */
	const char *site, *profile; /* other texts than the above */
	const char *halt_on;	    /* this op is answered by "halted" */
	const char *refuse_op;	    /* this op is answered by an error with a hint */
	const char *kill_on;	    /* the script is killed when it asks this */
	const char *raw_on, *raw;   /* this op is answered by these bytes */
	size_t raw_len;
	nsec_t timeout; /* then it is killed */
	uint64_t seed;
	bool run;
	/* what was seen */
	struct strbuf log; /* a line a request */
	json_t *scenario;
	json_t *last; /* the last request */
	char where[256], text[1100], traceback[4100];
	bool done, timed_out;
	int status; /* of waitpid() */
	nsec_t took;
	int spawn; /* what script_spawn() returned */
	struct err err;
};

static void play_clear(struct play *p)
{
	strbuf_free(&p->log);
	json_decref(p->scenario);
	json_decref(p->last);
}
#define _cleanup_play_ __attribute__((cleanup(play_clear)))

static void answer(int fd, const json_t *request, const char *key, json_t *value)
{
	json_t *msg = json_pack(
		"{s:i,s:O,s:o}", "v", 1, "id", json_object_get(request, "id"), key, value);

	assert_non_null(msg);
	wire_send(fd, msg);
	json_decref(msg);
}

static void answer_error(
	int fd, const json_t *request, const char *text, const char *hint, bool halted)
{
	json_t *msg = json_pack("{s:i,s:O,s:s,s:s}", "v", 1, "id", json_object_get(request, "id"),
		"error", text, "hint", hint);

	if (halted)
		json_object_set_new(msg, "halted", json_true());
	wire_send(fd, msg);
	json_decref(msg);
}

static void note(struct play *p, const json_t *m)
{
	static const char *const keys[] = {"name", "change", "args", "predicate", "handle",
		"within_ns", "during_ns", "probe", "over_ns", "ns", "text", "options"};

	strbuf_puts(&p->log, json_string_value(json_object_get(m, "op")));
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		json_t *v = json_object_get(m, keys[i]);
		char *s;

		if (!v || (streq(json_string_value(json_object_get(m, "op")), "error")))
			continue;
		if (streq(keys[i], "predicate"))
			v = json_object_get(v, "text");
		s = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
		strbuf_addf(&p->log, " %s", s);
		free(s);
	}
	strbuf_addf(&p->log, " @%s\n", json_string_value(json_object_get(m, "where")) ?: "");
}

static bool serve(struct play *p, int fd, pid_t pid, const json_t *m)
{
	const char *op = json_string_value(json_object_get(m, "op"));
	static int handles;

	assert_non_null(op);
	json_decref(p->last);
	p->last = json_incref((json_t *)m);
	note(p, m);
	if (streq(op, "done")) {
		p->done = true;
		return false;
	}
	if (streq(op, "error")) {
		snprintf(p->where, sizeof(p->where), "%s",
			json_string_value(json_object_get(m, "where")));
		snprintf(p->text, sizeof(p->text), "%s",
			json_string_value(json_object_get(m, "text")));
		snprintf(p->traceback, sizeof(p->traceback), "%s",
			json_string_value(json_object_get(m, "traceback")));
		return false;
	}
	if (streq(op, p->kill_on)) {
		kill(pid, SIGKILL);
	} else if (streq(op, p->raw_on)) {
		assert_int_equal(send(fd, p->raw, p->raw_len, MSG_NOSIGNAL), p->raw_len);
	} else if (streq(op, p->halt_on)) {
		answer_error(fd, m, "the drill is halted: stop condition", "", true);
	} else if (streq(op, p->refuse_op)) {
		answer_error(fd, m, "rs2: no such device", "look at the site", false);
	} else if (streq(op, "site")) {
		answer(fd, m, "value",
			json_pack("{s:s,s:s}", "file", "sites/lvs-dr.lua", "text",
				p->site ?: site_text));
	} else if (streq(op, "profile")) {
		answer(fd, m, "value",
			json_pack("{s:s,s:s}", "file", "profiles/p.lua", "text",
				p->profile ?: profile_text));
	} else if (streq(op, "scenario")) {
		json_decref(p->scenario);
		p->scenario = json_incref(json_object_get(m, "scenario"));
		answer(fd, m, "value", json_null());
	} else if (streq(op, "inject") || streq(op, "apply")) {
		answer(fd, m, "value", json_pack("{s:i}", "handle", ++handles));
	} else if (streq(op, "eventually") || streq(op, "always")) {
		answer(fd, m, "value", json_true());
	} else if (streq(op, "sample")) {
		answer(fd, m, "value", json_real(0.25));
	} else {
		answer(fd, m, "value", json_null());
	}
	return true;
}

static void play_text(struct play *p, const char *text, size_t len)
{
	_cleanup_json_ json_t *set = p->set ? json_loads(p->set, 0, NULL) : NULL;
	struct script_args args = {.path = "t.lua",
		.text = text,
		.len = len,
		.run = p->run,
		.set = set,
		.seed = p->seed};
	nsec_t t0 = now_ns(), deadline = t0 + (p->timeout ? p->timeout : 20 * NSEC_PER_SEC);
	int pidfd = -1, fd = -1;
	bool go_on = true;
	pid_t pid = -1;

	p->spawn = script_spawn(&args, &pid, &pidfd, &fd, &p->err);
	if (p->spawn < 0)
		return;
	assert_true(pid > 0 && pidfd >= 0 && fd >= 0);
	while (go_on) {
		_cleanup_json_ json_t *m = NULL;
		int r = wire_recv_until(fd, deadline, &m, &p->err);

		if (r == -ETIMEDOUT) {
			p->timed_out = true;
			kill(pid, SIGKILL);
			break;
		}
		if (r < 0) {
			kill(pid, SIGKILL);
			break;
		}
		go_on = serve(p, fd, pid, m);
	}
	/* the pidfd is what the engine will wait on */
	struct pollfd pfd = {.fd = pidfd, .events = POLLIN};
	assert_int_equal(poll(&pfd, 1, 10000), 1);
	assert_int_equal(waitpid(pid, &p->status, 0), pid);
	p->took = now_ns() - t0;
	close(pidfd);
	close(fd);
}

static void play(struct play *p, const char *text)
{
	play_text(p, text, strlen(text));
}

#define HEAD                                                                                       \
	"local muster = require 'muster'\n"                                                        \
	"local site = muster.site 'lvs-dr'\n"                                                      \
	"local web = site:service 'web'\n"                                                         \
	"local client = muster.load.http { from = 'client', url = web:url '/', rate = '300/s' }\n"
#define HEAD_LINES 4
/* the method begins on line 6 */
#define METHOD(body)                                                                               \
	HEAD "return muster.scenario { name = 'x', site = site, deadline = '1m', load = client, "  \
	     "method = function(run)\n" body "\nend }\n"

static void expect_error(const char *text, const char *where, const char *says)
{
	/* the run has no wall clock of its own, which an emulated machine would meet first */
	_cleanup_play_ struct play p = {.run = true, .timeout = 60 * NSEC_PER_SEC};

	play(&p, text);
	if (!strstr(p.text, says) || !streq(p.where, where))
		fail_msg("got %s: %s\nwanted %s: %s\nof: %s", p.where, p.text, where, says, text);
	assert_true(WIFEXITED(p.status));
	assert_int_equal(WEXITSTATUS(p.status), 1);
	assert_false(p.done);
}

static void expect_log(const struct play *p, const char *line)
{
	if (!strstr(strbuf_cstr(&p->log), line))
		fail_msg("not in the log: %s\n%s (error: %s: %s)", line, strbuf_cstr(&p->log),
			p->where, p->text);
}

static void expect_done(const struct play *p)
{
	if (!p->done || !WIFEXITED(p->status) || WEXITSTATUS(p->status) != 0)
		fail_msg("not done: status %x, %s: %s\n%s", p->status, p->where, p->text,
			p->traceback);
}

/* ── what a good scenario sends ────────────────────────────────────────────────────────────── */

static void test_shipped_scenario(void **state)
{
	const struct embedded *e = embedded_find("scenarios/real-server-loss.lua");
	_cleanup_play_ struct play p = {.seed = 7};

	(void)state;
	assert_non_null(e);
	play_text(&p, e->data, e->len);
	expect_done(&p);
	assert_string_equal(strbuf_cstr(&p.log),
		"site \"lvs-dr\" {} @t.lua:10\n"
		"profile \"open-autoglm\" @t.lua:14\n"
		"scenario @t.lua:14\n"
		"phase \"silent loss\" @t.lua:31\n"
		"inject \"fault.node_loss\" {\"node\":\"rs2\",\"how\":\"silent\"} @t.lua:33\n"
		"eventually \"web:weight(\\\"rs2\\\") equals 0\" 3000000000 @t.lua:34\n"
		"always \"client:error_ratio() below 2%\" 10000000000 @t.lua:35\n"
		"lift 1 @t.lua:35\n"
		"phase \"return\" @t.lua:38\n"
		"eventually \"web:weight(\\\"rs2\\\") equals 5\" 10000000000 @t.lua:39\n"
		"done @\n");
}

static const json_t *at(const json_t *j, const char *path)
{
	char *copy = strdup(path), *save = NULL;

	for (char *k = strtok_r(copy, ".", &save); k && j; k = strtok_r(NULL, ".", &save))
		j = *k >= '0' && *k <= '9' ? json_array_get(j, (size_t)atoi(k))
					   : json_object_get(j, k);
	free(copy);
	return j;
}

static void expect_json(const json_t *j, const char *path, const char *text)
{
	const json_t *v = at(j, path);
	_cleanup_free_ char *s = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;

	if (!streq(s, text))
		fail_msg("%s is %s, not %s", path, s ? s : "missing", text);
}

static void test_declaration(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play(&p, HEAD
		"return muster.scenario {\n"
		"  name = 'full', summary = 's', site = site, deadline = '90s', load = { client "
		"},\n"
		"  baseline = { 'p', muster.set.sysctl { node = 'rs1', values = { a = '2' } } },\n"
		"  steady_state = { settle = '3s', client:p99():below('50ms'):over '2s', "
		"web:balance():within '5%' },\n"
		"  stop_when = { client:error_ratio():above('60%'):lasting '5s' },\n"
		"  objective = { rto = '10s', error_budget = '1%', client:rate():at_least '290/s' "
		"},\n"
		"  unsafe = { 'management-path' }, method = function() end }\n");
	expect_done(&p);
	expect_json(p.scenario, "name", "\"full\"");
	expect_json(p.scenario, "site.name", "\"lvs-dr\"");
	expect_json(p.scenario, "site.services.0.servers",
		"[{\"node\":\"rs1\",\"weight\":3},{\"node\":\"rs2\",\"weight\":5}]");
	expect_json(p.scenario, "site.nodes.0.lo", "{}");
	expect_json(p.scenario, "deadline_ns", "90000000000");
	expect_json(p.scenario, "loads.0",
		"{\"args\":{\"from\":\"client\",\"url\":\"http://198.18.0.100:8080/"
		"\",\"rate\":300.0,\"connections\":64},"
		"\"kind\":\"http\",\"name\":\"client\",\"where\":\"t.lua:4\"}");
	expect_json(p.scenario, "baseline.profile", "\"p\"");
	/* rs1, rs2; client; web; the host; and the scenario's own, last */
	expect_json(p.scenario, "baseline.changes.0",
		"{\"args\":{\"node\":\"rs1\",\"values\":{\"net.core.somaxconn\":\"65535\"}},"
		"\"change\":\"set.sysctl\",\"where\":\"t.lua:5\"}");
	expect_json(p.scenario, "baseline.changes.1.args.node", "\"rs2\"");
	expect_json(p.scenario, "baseline.changes.2.args.node", "\"client\"");
	expect_json(p.scenario, "baseline.changes.3.args",
		"{\"service\":\"web\",\"weights\":{\"rs1\":3}}");
	expect_json(p.scenario, "baseline.changes.4.args",
		"{\"node\":\"host\",\"values\":{}}");
	expect_json(p.scenario, "baseline.changes.4.optional", "true");
	expect_json(p.scenario, "baseline.changes.5",
		"{\"args\":{\"node\":\"rs1\",\"values\":{\"a\":\"2\"}},\"change\":\"set.sysctl\","
		"\"where\":\"t.lua:7\"}");
	assert_int_equal(json_array_size(at(p.scenario, "baseline.changes")), 6);
	expect_json(p.scenario, "steady_state.settle_ns", "3000000000");
	expect_json(p.scenario, "steady_state.within_ns", "60000000000");
	expect_json(p.scenario, "steady_state.predicates.0",
		"{\"args\":{\"load\":\"client\"},\"bound\":50000000,\"lasting_ns\":0,\"op\":"
		"\"below\",\"over_ns\":2000000000,"
		"\"probe\":\"load.p99\",\"text\":\"client:p99() below 50ms over 2s\"}");
	expect_json(p.scenario, "steady_state.predicates.1",
		"{\"args\":{\"service\":\"web\"},\"bound\":0.050000000000000003,\"lasting_ns\":0,"
		"\"op\":\"within\","
		"\"probe\":\"service.balance\",\"text\":\"web:balance() within 5%\"}");
	expect_json(p.scenario, "stop_when.0.lasting_ns", "5000000000");
	expect_json(
		p.scenario, "stop_when.0.text", "\"client:error_ratio() above 60% lasting 5s\"");
	expect_json(p.scenario, "objective.rto_ns", "10000000000");
	expect_json(p.scenario, "objective.error_budget", "0.01");
	expect_json(p.scenario, "objective.predicates.0.text", "\"client:rate() at least 290/s\"");
	expect_json(p.scenario, "objective.predicates.0.bound", "290");
	expect_json(p.scenario, "unsafe", "[\"management-path\"]");
}

static void test_smallest_declaration(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play(&p, "local m = require 'muster'\n"
		 "return m.scenario { name = 'x', site = m.site('lvs-dr', { weight = 7, wide = "
		 "true }), deadline = '1s',\n"
		 "  method = function() end }\n");
	expect_done(&p);
	expect_json(p.scenario, "site.services.0.servers.0.weight", "7");
	expect_json(p.scenario, "baseline", "{\"changes\":[],\"profile\":null}");
	expect_json(p.scenario, "loads", "[]");
	expect_json(p.scenario, "steady_state",
		"{\"predicates\":[],\"settle_ns\":5000000000,\"within_ns\":60000000000}");
	expect_json(p.scenario, "stop_when", "[]");
	expect_json(p.scenario, "objective",
		"{\"error_budget\":null,\"predicates\":[],\"rpo_ns\":null,\"rto_ns\":null}");
	expect_json(p.scenario, "unsafe", "[]");
}

static void test_method_requests(void **state)
{
	_cleanup_play_ struct play p = {.run = true};

	(void)state;
	play(&p, METHOD("local rs2 = site:node 'rs2'\n" /* 6 */
			"local h = run:apply(muster.set.ipvs { service = web, weights = { rs1 = 9 "
			"} })\n"
			"h:lift() h:lift()\n" /* 8 */
			"assert(run:sample(client:p99(), { over = '2s' }) == 0.25)\n"
			"assert(run:sample(muster.probe.pressure()) == 0.25)\n" /* 10 */
			"assert(run:eventually(web:weight(rs2):at_most(3), { within = '1s' }) == "
			"true)\n"
			"run:always(rs2:up():equals(1), { during = '250ms' })\n" /* 12 */
			"run:wait '5s' run:log('a', 1, nil, h) print 'b'\n"
			"assert(run:sample(client:quantile { q = '90%' }) == 0.25)\n"
			"local f = muster.fault.netem { node = rs2, delay = '20ms', loss = 0.5 }\n"
			"do local x <close> = run:inject(f) end return run:phase(tostring(f))\n"));
	expect_done(&p);
	expect_log(&p,
		"apply \"set.ipvs\" {\"service\":\"web\",\"weights\":{\"rs1\":9}} @t.lua:7\nlift ");
	expect_log(&p, "@t.lua:8\nsample {\"load\":\"client\"} \"load.p99\" 2000000000 @t.lua:9\n");
	expect_log(&p, "sample {} \"pressure\" @t.lua:10\n");
	expect_log(&p, "eventually \"web:weight(\\\"rs2\\\") at most 3\" 1000000000 @t.lua:11\n");
	expect_log(&p, "always \"rs2:up() equals 1\" 250000000 @t.lua:12\n");
	expect_log(&p, "wait 5000000000 @t.lua:13\n");
	expect_log(&p, "log \"a\\t1\\tnil\\tset.ipvs { service = web, weights = {\\\"rs1\\\": 9} } "
		       "(in force)\" @t.lua:13\nlog \"b\" @t.lua:13\n");
	expect_log(&p, "sample {\"q\":0.90000000000000002,\"load\":\"client\"} \"load.quantile\" "
		       "@t.lua:14\n");
	expect_log(&p, "inject \"fault.netem\" {\"node\":\"rs2\",\"delay\":20000000,\"loss\":0.5} "
		       "@t.lua:16\n");
	/* a tail call keeps its line */
	expect_log(
		&p, "phase \"fault.netem { node = rs2, delay = 20ms, loss = 50% }\" @t.lua:16\n");
}

/* print at the top waits for the declaration, which comes first, and keeps its line */
static void test_print_at_the_top(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play(&p, "print('a', {} ~= nil)\nprint 'b\\0\xff'\n" METHOD("print 'c'"));
	expect_done(&p);
	expect_log(&p, "scenario @t.lua:7\nlog \"a\\ttrue\" @t.lua:1\nlog \"b??\" @t.lua:2\nlog "
		       "\"c\" @t.lua:8\n");
}

/* unknown is nil; false is false: an expectation that was missed does not end the method */
static void test_expectation_values(void **state)
{
	_cleanup_play_ struct play p = {.raw_on = "eventually"};
	const char body[] = "{\"v\":1,\"id\":3,\"value\":null}";
	char frame[64] = {sizeof(body) - 1};

	(void)state;
	memcpy(frame + 4, body, sizeof(body) - 1);
	p.raw = frame;
	p.raw_len = 4 + sizeof(body) - 1;
	play(&p, METHOD("local v = run:eventually(client:p99():below '1s', { within = '1s' })\n"
			"run:log(v == nil)"));
	expect_done(&p);
	expect_log(&p, "log \"true\" @t.lua:7\n");
}

static void test_urls(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play(&p, METHOD("run:log(web:url '/a?b=1', web:url(), web:url('/', { family = 'ipv6' }), "
			"web:url('/', { family = 'ipv4' }))\n"
			"run:log(web, web.port, client.name, site, site:node 'rs1', "
			"client:p99():below '1s')"));
	expect_done(&p);
	expect_log(&p, "log "
		       "\"http://198.18.0.100:8080/a?b=1\\thttp://198.18.0.100:8080/\\thttp://"
		       "[2001:db8::100]:8080/\\t"
		       "http://198.18.0.100:8080/\" @");
	expect_log(&p, "log \"web\\t8080\\tclient\\tlvs-dr\\trs1\\tclient:p99() below 1s\" @");
}

static void test_load_names(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play(&p, HEAD
		"local b = muster.load.http { from = 'client', url = web:url '/b', rate = '1/s' }\n"
		"local c = muster.load.http { name = 'third', from = 'client', url = web:url '/c', "
		"rate = '1/s' }\n"
		"return muster.scenario { name = 'x', site = site, deadline = '1m', load = { "
		"client, b, c }, method = print,\n"
		"  objective = { b:p99():below '1s', c:p99():below '1s' } }\n");
	expect_done(&p);
	expect_json(p.scenario, "loads.1.name", "\"client-2\"");
	expect_json(p.scenario, "loads.2.name", "\"third\"");
	expect_json(p.scenario, "objective.predicates.0.text", "\"client-2:p99() below 1s\"");
	expect_json(p.scenario, "objective.predicates.1.args", "{\"load\":\"third\"}");
}

static void test_parameters(void **state)
{
	_cleanup_play_ struct play p = {.set = "{\"rate\":\"5/s\",\"n\":\"3\",\"on\":\"true\"}"};
	_cleanup_play_ struct play wrong = {.set = "{\"raet\":\"5/s\"}"},
				   bad = {.set = "{\"n\":\"x\"}"};
	static const char text[] = "local m = require 'muster'\n"
				   "local s = m.site 'lvs-dr'\n"
				   "local rate, n, on, d = m.param('rate', '1/s'), m.param('n', "
				   "1), m.param('on', false), m.param('d', 'dflt')\n"
				   "return m.scenario { name = 'x', site = s, deadline = '1m', "
				   "method = function(run)\n"
				   "  run:log(rate, n + 1, on, d) end }\n";

	(void)state;
	play(&p, text);
	expect_done(&p);
	expect_log(&p, "log \"5/s\\t4\\ttrue\\tdflt\" @");
	play(&wrong, text);
	assert_string_equal(wrong.where, "t.lua:4");
	assert_string_equal(wrong.text,
		"--set raet: the scenario has no such parameter (did you mean \"rate\"?)");
	play(&bad, text);
	assert_string_equal(bad.where, "t.lua:3");
	assert_string_equal(bad.text, "--set n=x: a number is wanted");
}

static void test_seed(void **state)
{
	_cleanup_play_ struct play a = {.seed = 1}, b = {.seed = 1}, c = {.seed = 2};
	static const char text[] = METHOD("run:log(math.random(1 << 40), math.random())");

	(void)state;
	play(&a, text);
	play(&b, text);
	play(&c, text);
	expect_done(&a);
	assert_string_equal(a.log.s, b.log.s);
	assert_string_not_equal(a.log.s, c.log.s);
}

/* ── mistakes, with line and nearest name ──────────────────────────────────────────────────── */

static void test_mistakes_at_the_top(void **state)
{
	(void)state;
	expect_error("local x = = 1\n", "t.lua:1", "unexpected symbol near '='");
	expect_error(
		"return 1\n", "t.lua:1", "the file must return muster.scenario { ... }, not 1");
	expect_error(HEAD
		"muster.scenario { name = 'x', site = site, deadline = '1m', method = print }\n",
		"t.lua:5", "write return in front of it");
	expect_error(
		"local m = require 'mustr'\n", "t.lua:1", "there is one module here, \"muster\"");
	expect_error("\nlocal x = pritn\n", "t.lua:2",
		"undeclared name \"pritn\" (did you mean \"print\"?)");
	expect_error("x = 1\n", "t.lua:1",
		"assignment to the undeclared name \"x\": write local x = ...");
	expect_error("local m = require 'muster'\nm.senario {}\n", "t.lua:2",
		"muster has no \"senario\" (did you mean \"scenario\"?)");
	expect_error("local m = require 'muster'\nm.fault.node_los {}\n", "t.lua:2",
		"muster.fault has no \"node_los\" (did you mean \"node_loss\"?)");
	expect_error("local m = require 'muster'\nm.site 'a'\nm.site 'b'\n", "t.lua:3",
		"a scenario has one site: lvs-dr was named at t.lua:2");
	expect_error("local m = require 'muster'\nlocal t = m.lab\n", "t.lua:2",
		"muster has no \"lab\"");
	expect_error(HEAD "site:service 'wbe'\n", "t.lua:5",
		"site lvs-dr has no service \"wbe\" (did you mean \"web\"?)");
	expect_error(HEAD "site:node 'rs3'\n", "t.lua:5",
		"site lvs-dr has no node \"rs3\" (did you mean \"rs");
	expect_error(HEAD "web:ballance()\n", "t.lua:5",
		"the service \"web\" has no \"ballance\" (did you mean \"balance\"?)");
	expect_error(HEAD "web.balance()\n", "t.lua:5", "balance is called with a colon");
	expect_error(HEAD "web:weight 'rs9'\n", "t.lua:5",
		"web:weight: server = \"rs9\": the site has no such node");
	expect_error(HEAD "web:weight()\n", "t.lua:5", "web:weight: server is missing");
	expect_error(HEAD "web:balance(1)\n", "t.lua:5", "web:balance takes no argument, not 1");
	expect_error(HEAD "web:url 'x'\n", "t.lua:5", "web:url wants a path that begins with /");
	expect_error(HEAD "client:p99():below(50)\n", "t.lua:5",
		"client:p99():below: 50 has no unit: write \"50s\"");
	expect_error(HEAD "client:p99():below '-50ms'\n", "t.lua:5", "\"-50ms\" is negative");
	expect_error(HEAD "client:p99():belo '50ms'\n", "t.lua:5", "(did you mean \"below\"?)");
	expect_error(HEAD "local x = client:p99() < '50ms'\n", "t.lua:5",
		"a probe is compared with a method");
	expect_error(HEAD "client:error_ratio():below '200%'\n", "t.lua:5",
		"\"200%\" is not between 0% and 100%");
	expect_error(HEAD "client.x = 1\n", "t.lua:5", "the load \"client\" cannot be changed");
	expect_error(HEAD "muster.fault.netem { node = 'rs2', delay = 50 }\n", "t.lua:5",
		"fault.netem: delay = 50 has no unit: write it as \"50ms\"");
	expect_error(HEAD "muster.fault.netem { node = 'rs2', steps = { '1ms', 50 } }\n", "t.lua:5",
		"fault.netem: steps = 50 has no unit");
	expect_error(HEAD "muster.fault.netem { node = 'rs2', delay = '-5ms' }\n", "t.lua:5",
		"fault.netem: delay = \"-5ms\" is negative");
	expect_error(HEAD "muster.fault.netem { node = 'rs2', dealy = '5ms' }\n", "t.lua:5",
		"fault.netem: unknown key \"dealy\" (did you mean \"delay\"?)");
	expect_error(HEAD "muster.fault.netem { node = 'sr2' }\n", "t.lua:5",
		"fault.netem: node = \"sr2\": the site has no such node (did you mean \"rs2\"?");
	expect_error(HEAD "muster.fault.netem 'rs2'\n", "t.lua:5",
		"fault.netem wants a table { name = value, ... }, not \"rs2\"");
	expect_error(HEAD "muster.fault.netem { 'rs2' }\n", "t.lua:5",
		"fault.netem: takes arguments by name");
	expect_error(HEAD "muster.fault.netem { 'rs2', node = 'rs2' }\n", "t.lua:5",
		"both positions and names");
	expect_error(HEAD "muster.fault.netem { node = print }\n", "t.lua:5",
		"fault.netem: node: a function where data is wanted");
	expect_error(HEAD "local t = {} t.node = t muster.fault.netem(t)\n", "t.lua:5",
		"nested too deep");
	expect_error(HEAD "muster.fault.node_loss { node = 'rs2', how = 'slient' }\n", "t.lua:5",
		"how = \"slient\" is none of silent|cut|loud (did you mean \"silent\"?)");
	expect_error(HEAD "muster.load.http { name = 'client', from = 'client', url = web:url '/', "
			  "rate = '1/s' }\n",
		"t.lua:5", "the name \"client\" is taken (t.lua:4)");
	expect_error(HEAD "muster.load.http { from = 'client', url = web:url '/', rate = 300 }\n",
		"t.lua:5", "rate = 300 has no unit: write it as \"300/s\"");
}

/* one key of an otherwise good scenario */
static void mistaken(const char *key, const char *says)
{
	_cleanup_free_ char *text = strf(HEAD "return muster.scenario { name = 'x', site = site, "
					      "deadline = '1m', load = client,\n"
					      "method = print, %s }\n",
		key);

	expect_error(text, "t.lua:5", says);
}

static void test_mistakes_in_the_scenario(void **state)
{
	(void)state;
	mistaken("sumary = 's'", "scenario: unknown key \"sumary\" (did you mean \"summary\"?)");
	mistaken("'x'", "has no place here: arguments have names");
	mistaken("name = ''", "name wants a text, not an empty one");
	mistaken("name = 'a.b'", "name = \"a.b\": 1 to 64 letters, digits, - and _ are wanted");
	mistaken("name = nil", "scenario: name is missing");
	mistaken("site = 'lvs-dr'", "site wants muster.site \"NAME\", not \"lvs-dr\"");
	mistaken("deadline = '-1s'", "deadline: \"-1s\" is negative");
	mistaken("deadline = 120", "deadline: 120 has no unit: write \"120s\"");
	mistaken("deadline = 'soon'", "deadline: \"soon\" is not a duration");
	mistaken("deadline = '0'", "deadline: 0 is no deadline");
	mistaken("deadline = nil", "scenario: deadline is missing");
	mistaken("method = nil", "scenario: method is missing");
	mistaken("method = 'x'", "method wants a function, not \"x\"");
	mistaken("load = web",
		"load wants a load (load.http { ... }) or a list of them, not the service \"web\"");
	mistaken("load = { client, client }", "load: \"client\" is there twice");
	mistaken("load = {}, objective = { client:p99():below '1s' }",
		"the load \"client\" is not among the scenario's loads");
	mistaken("steady_state = { setle = '1s' }",
		"steady_state: unknown key \"setle\" (did you mean \"settle\"?)");
	mistaken("steady_state = { settle = 5 }", "steady_state: settle: 5 has no unit");
	mistaken(
		"steady_state = { client:p99() }", "entry 1 is the probe client:p99(): compare it");
	mistaken("steady_state = { client:p99():below('1s'):lasting '1s' }",
		"lasting is for stop_when");
	mistaken("stop_when = client",
		"stop_when wants predicates, and entry 1 is the load \"client\"");
	mistaken("objective = { rtoo = '1s' }",
		"objective: unknown key \"rtoo\" (did you mean \"rto\"?)");
	mistaken("objective = { error_budget = '1' .. '01%' }",
		"objective: error_budget: \"101%\" is not between");
	mistaken("unsafe = { 'management' }", "unsafe: \"management\"");
	mistaken("baseline = { muster.fault.node_loss { node = 'rs2' } }",
		"baseline: fault.node_loss is a fault");
	mistaken("baseline = { 'p', 'q' }", "baseline: one profile at a time");
	mistaken("baseline = 5", "baseline wants a profile's name or settings");
}

static void test_mistakes_in_the_method(void **state)
{
	(void)state;
	expect_error(METHOD("run:inject(client)"), "t.lua:6",
		"run:inject wants a fault, not the load \"client\"");
	expect_error(METHOD("run:inject(muster.set.ipvs { service = 'web' })"), "t.lua:6",
		"run:inject wants a fault, not set.ipvs: write run:apply(...)");
	expect_error(METHOD("run:inject 'x'"), "t.lua:6", "run:inject wants a fault, not \"x\"");
	expect_error(METHOD("run.wait '1s'"), "t.lua:6", "wait is called with a colon");
	expect_error(METHOD("run:wiat '1s'"), "t.lua:6",
		"the run has no \"wiat\" (did you mean \"wait\"?)");
	expect_error(METHOD("run:wait '-1s'"), "t.lua:6", "run:wait: \"-1s\" is negative");
	expect_error(METHOD("run:wait(1)"), "t.lua:6", "run:wait: 1 has no unit");
	expect_error(METHOD("run:eventually(client:p99():below '1s')"), "t.lua:6",
		"run:eventually(PREDICATE, { within = \"10s\" })");
	expect_error(METHOD("run:eventually(client:p99():below '1s', { during = '1s' })"),
		"t.lua:6", "run:eventually: unknown key \"during\"");
	expect_error(METHOD("run:always(client:p99(), { during = '1s' })"), "t.lua:6",
		"run:always wants a predicate, not the probe client:p99(): compare it");
	expect_error(METHOD("run:phase(nil)"), "t.lua:6", "run:phase wants a text, not nil");
	expect_error(
		METHOD("muster.site 'x'"), "t.lua:6", "muster.site belongs at the top of the file");
	expect_error(METHOD("muster.param 'x'"), "t.lua:6",
		"muster.param belongs at the top of the file");
	expect_error(METHOD("run:log('\\n')\nlocal t = nil\nt.x = 1"), "t.lua:8",
		"attempt to index a nil value (local 't')");
	expect_error(METHOD("error { 1 }"), "t.lua:6", "the error is no text but a table");
	expect_error(METHOD("error('two\\nlines')"), "t.lua:6", "two lines");
	expect_error(METHOD("coroutine.yield()"), "t.lua:6", "attempt to yield");
	expect_error(METHOD("run:log(undeclared)"), "t.lua:6", "undeclared name \"undeclared\"");
}

static void test_refused_by_the_engine(void **state)
{
	_cleanup_play_ struct play p = {.refuse_op = "inject"}, caught = {.refuse_op = "inject"},
				   site = {.refuse_op = "site"};

	(void)state;
	play(&p, METHOD("run:inject(muster.fault.node_loss { node = 'rs2' })"));
	assert_string_equal(p.where, "t.lua:6");
	assert_string_equal(p.text, "rs2: no such device (look at the site)");
	/* a mistake can be caught, unlike a halt */
	play(&caught,
		METHOD("run:log(pcall(run.inject, run, muster.fault.node_loss { node = 'rs2' }))"));
	expect_done(&caught);
	expect_log(&caught,
		"log \"false\\tt.lua:6: rs2: no such device (look at the site)\" @t.lua:6\n");
	play(&site, METHOD(""));
	assert_string_equal(site.where, "t.lua:2");
}

static void test_traceback(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play(&p, METHOD("local function inner() run:wait(1) end\nlocal function outer() inner() "
			"end\nouter()"));
	assert_string_equal(p.where, "t.lua:6");
	assert_non_null(strstr(p.traceback, "t.lua:6: in"));
	assert_non_null(strstr(p.traceback, "t.lua:7: in"));
	assert_non_null(strstr(p.traceback, "t.lua:8: in"));
	assert_null(strstr(p.traceback, "muster.lua"));
	assert_null(strstr(p.traceback, "[C]"));
}

/* The name is given in full, however long: Lua itself would cut it at 60 characters. */
static void test_long_path(void **state)
{
	static const char path[] = "a/rather/long/way/down/into/the/folders/of/somebody/who/likes/"
				   "order/very/much/indeed/scenario.lua";
	static const char *const texts[] = {
		"local x = = 1\n", "local x = nil + 1\n", "local m = require 'x'\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct script_args args = {.path = path, .text = texts[i], .len = strlen(texts[i])};
		_cleanup_json_ json_t *m = NULL;
		_cleanup_close_ int pidfd = -1, fd = -1;
		_cleanup_free_ char *want = strf("%s:1", path);
		struct err err = {0};
		pid_t pid;

		assert_int_equal(script_spawn(&args, &pid, &pidfd, &fd, &err), 0);
		assert_int_equal(wire_recv_until(fd, now_ns() + 10 * NSEC_PER_SEC, &m, &err), 0);
		assert_string_equal(json_string_value(json_object_get(m, "where")), want);
		assert_null(strstr(json_string_value(json_object_get(m, "text")), "scenario.lua"));
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
}

/* ── sites and profiles ────────────────────────────────────────────────────────────────────── */

static void bad_site(const char *site, const char *call, const char *where, const char *says)
{
	_cleanup_free_ char *text = strf("local m = require 'muster'\n\nm.site%s\n", call);
	_cleanup_play_ struct play p = {.site = site};

	play(&p, text);
	if (!streq(p.where, where) || !strstr(p.text, says))
		fail_msg("got %s: %s\nwanted %s: %s", p.where, p.text, where, says);
}

static void test_bad_sites(void **state)
{
	(void)state;
	bad_site("return { 1", " 's'", "sites/lvs-dr.lua:1", "'}' expected");
	bad_site("\nreturn nil + 1", " 's'", "sites/lvs-dr.lua:2", "arithmetic on a nil value");
	bad_site("return 5", " 's'", "sites/lvs-dr.lua:1", "the site s must return a table, not 5");
	bad_site("return require 'muster'", " 's'", "sites/lvs-dr.lua:1",
		"undeclared name \"require\"");
	bad_site("return {}", " 's'", "sites/lvs-dr.lua:1", "site s: nodes is missing or empty");
	bad_site("return { nodes = { { name = 'a', links = { { swich = 'x' } } } } }", " 's'",
		"sites/lvs-dr.lua:1",
		"site s: node a: link 1: unknown key \"swich\" (did you mean \"switch\"?)");
	bad_site("return { nodes = { { name = 'a', lo = { print } } } }", " 's'",
		"sites/lvs-dr.lua:1", "site s: nodes[1].lo[1]: a function where data is wanted");
	bad_site(NULL, "('s', { wieght = 1 })", "t.lua:3",
		"site s has no option \"wieght\" (did you mean \"weight\"?)");
	bad_site(NULL, "('s', { weight = {} })", "t.lua:3",
		"site s: option weight wants a number, not a table");
	bad_site("return {}", "('s', { x = 1 })", "t.lua:3",
		"site s has no option \"x\" (it takes none)");
	bad_site(NULL, "(5)", "t.lua:3", "muster.site wants a text, not 5");
}

static void bad_profile(const char *profile, const char *says)
{
	_cleanup_play_ struct play p = {.profile = profile};

	play(&p, HEAD "return muster.scenario { name = 'x', site = site, deadline = '1m', method = "
		      "print, baseline = 'p' }\n");
	if (!streq(p.where, "profiles/p.lua:1") || !strstr(p.text, says))
		fail_msg("got %s: %s\nwanted %s", p.where, p.text, says);
}

static void test_bad_profiles(void **state)
{
	(void)state;
	bad_profile("return { { on = 'server', 'set.sysctl', {} } }",
		"entry 1: on = \"server\" (did you mean \"servers\"?)");
	bad_profile("return { { on = 'servers', 'set.sysctrl', {} } }",
		"entry 1: there is no setting \"set.sysctrl\" (did you mean \"set.sysctl\"?)");
	bad_profile("return { { on = 'servers', 'fault.netem', {} } }",
		"there is no setting \"fault.netem\"");
	bad_profile("return { { on = 'servers', 'set.sysctl', { valeus = {} } } }",
		"entry 1: set.sysctl: unknown key \"valeus\" (did you mean \"values\"?)");
	bad_profile("return { 5 }", "entry 1: a table");
	bad_profile("return { { on = 'servers', optional = 'yes', 'set.sysctl', {} } }",
		"entry 1: optional is true or false");
	bad_profile("return nil", "the profile p must return a table");
}

/* What script_site() asks for; the real one is the plan's. */
static const char *site_source;
int plan_find_source(const char *kind, const char *name, const char *scenario_path, char **ret_file,
	char **ret_text, struct err *err)
{
	assert_string_equal(kind, "site");
	assert_null(scenario_path);
	if (!streq(name, "lvs-dr")) {
		err_set(err, -ENOENT, "there is no site \"%s\"", name);
		err_hint(err, "did you mean \"lvs-dr\"?");
		return -ENOENT;
	}
	*ret_file = strdup("sites/lvs-dr.lua");
	*ret_text = strdup(site_source ? site_source : site_text);
	return 0;
}

static void test_site_alone(void **state)
{
	_cleanup_json_ json_t *site = NULL, *with = NULL,
			      *options = json_pack("{s:i}", "weight", 8), *none = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(script_site("lvs-dr", NULL, &site, &err), 0);
	expect_json(site, "name", "\"lvs-dr\"");
	expect_json(site, "services.0.servers.0.weight", "3");
	assert_int_equal(script_site("lvs-dr", options, &with, &err), 0);
	expect_json(with, "services.0.servers.0.weight", "8");

	assert_int_equal(script_site("lvs-rd", NULL, &none, &err), -EINVAL);
	assert_string_equal(err.text, "there is no site \"lvs-rd\" (did you mean \"lvs-dr\"?)");
	site_source = "print 'x'\nreturn nil + 1\n";
	assert_int_equal(script_site("lvs-dr", NULL, &none, &err), -EINVAL);
	assert_string_equal(
		err.text, "sites/lvs-dr.lua:2: attempt to perform arithmetic on a nil value");
	site_source = "local t = {} for i = 1, 1e9 do t[i] = i end\n";
	assert_int_equal(script_site("lvs-dr", NULL, &none, &err), -EINVAL);
	assert_string_equal(err.text, "sites/lvs-dr.lua:1: not enough memory");
	site_source = NULL;
	assert_null(none);
}

/* ── hostile scenarios ─────────────────────────────────────────────────────────────────────── */

static void test_too_large(void **state)
{
	_cleanup_play_ struct play p = {0};
	size_t len = 2 << 20;
	_cleanup_free_ char *text = malloc(len);

	(void)state;
	memset(text, ' ', len);
	play_text(&p, text, len);
	assert_int_equal(p.spawn, -E2BIG);
	assert_string_equal(p.err.text, "t.lua: a scenario of 2097152 bytes (the limit is 1 MiB)");
}

static void test_bytecode(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play_text(&p, "\x1bLua\x54\x00\x19\x93\r\n\x1a\n", 12);
	assert_string_equal(p.where, "t.lua:1");
	assert_string_equal(p.text, "this is compiled Lua: only source text is taken");
}

/* What nothing but SIGKILL ends: the caller's deadline does it, and the process is gone. */
static void test_endless(void **state)
{
	static const char *const bodies[] = {
		"while true do end\n",
		METHOD("while true do pcall(error) end"),
		METHOD("while true do pcall(function() while true do end end) end"),
		METHOD("string.find(('a'):rep(10000), '.-.-.-.-b$')"),
		METHOD("coroutine.wrap(function() while true do end end)()"),
		METHOD("local t <close> = setmetatable({}, { __close = function() while true do "
		       "end end }) error 'x'"),
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
		_cleanup_play_ struct play p = {.timeout = 300 * NSEC_PER_MSEC};

		play(&p, bodies[i]);
		assert_true(p.timed_out);
		assert_true(WIFSIGNALED(p.status));
		assert_int_equal(WTERMSIG(p.status), SIGKILL);
		assert_true(p.took < 3 * NSEC_PER_SEC);
	}
}

/* Left alone, a script says itself where it loops, before the record pass gives it up; pcall does
 * not help it. */
static void test_endless_has_a_line(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play(&p, METHOD("local function spin()\n"
			"while true do end\n"
			"end\n"
			"while true do pcall(spin) end"));
	assert_false(p.timed_out);
	assert_string_equal(p.where, "t.lua:7");
	assert_string_equal(p.text, "still busy after 4 s: is there an endless loop?");
	assert_true(p.took < PLAN_RECORD_SECONDS * NSEC_PER_SEC);
}

static void test_finalisers(void **state)
{
	(void)state;
	expect_error(METHOD("setmetatable({}, { __gc = function() while true do end end })"),
		"t.lua:6", "__gc: values have no finalisers here");
	expect_error("collectgarbage()\n", "t.lua:1", "there is no collectgarbage here");
	/* added after the fact it is no finaliser */
	_cleanup_play_ struct play p = {.timeout = 20 * NSEC_PER_SEC};
	play(&p, METHOD("for i = 1, 1e5 do local mt = {} setmetatable({}, mt) mt.__gc = function() "
			"while true do end end end"));
	expect_done(&p);
}

static void test_memory(void **state)
{
	(void)state;
	expect_error(METHOD("local s = ('x'):rep(1000000000)"), "t.lua:6",
		"string.rep: a text of 1000000000 bytes (the limit is 16 MiB)");
	expect_error(METHOD("local s = 'x'\nwhile true do\ns = s .. s end"), "t.lua:8",
		"not enough memory");
	expect_error(METHOD("local t = {}\nfor i = 1, 1e9 do\nt[i] = i end"), "t.lua:8",
		"not enough memory");
	expect_error(METHOD("local t = {}\nfor i = 1, 1e9 do\nt[i] = { i } end"), "t.lua:8",
		"not enough memory");
	expect_error(METHOD("string.format('%99999d', 1)"), "t.lua:6", "invalid");
	expect_error(METHOD("table.unpack({}, 1, 1e8)"), "t.lua:6", "too many results to unpack");
	/* Lua's own limit of a million slots is above ours of 64 MiB */
	expect_error(METHOD("local function f() return 1 + f() end f()"), "t.lua:6",
		"not enough memory");
	expect_error(METHOD("local t = setmetatable({}, {}) getmetatable(t).__index = function(a, "
			    "b) return a[b] end\n"
			    "local x = t.x"),
		"t.lua:6", "stack overflow");
	expect_error(
		METHOD("table.sort({ 3, 1, 2, 5, 4, 9, 8, 7, 6 }, function() return true end)"),
		"t.lua:6", "invalid order function");
}

/* Faults are lifted also when memory ran out. */
static void test_memory_and_close(void **state)
{
	_cleanup_play_ struct play p = {.run = true, .timeout = 60 * NSEC_PER_SEC};

	(void)state;
	play(&p, METHOD("local x <close> = run:inject(muster.fault.node_loss { node = 'rs2' })\n"
			"local t = {} for i = 1, 1e9 do t[i] = { i } end"));
	assert_string_equal(p.where, "t.lua:7");
	expect_log(&p, "lift ");
}

static void test_deep_parse(void **state)
{
	_cleanup_play_ struct play p = {0};
	size_t n = 190000;
	_cleanup_free_ char *text = malloc(n + 16);

	(void)state;
	memcpy(text, "return ", 7);
	memset(text + 7, '(', n);
	play_text(&p, text, 7 + n);
	assert_string_equal(p.where, "t.lua:1");
	assert_non_null(strstr(p.text, "overflow"));
}

static void test_missing_libraries(void **state)
{
	static const char *const names[] = {
		"os", "io", "debug", "package", "load", "loadfile", "dofile", "loadstring"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *text = strf("local x = %s\n", names[i]),
				    *says = strf("there is no %s here", names[i]);

		expect_error(text, "t.lua:1", says);
	}
	expect_error(
		"string.dump(print)\n", "t.lua:1", "attempt to call a nil value (field 'dump')");
	expect_error(
		"getmetatable('').__index = nil\n", "t.lua:1", "attempt to index a boolean value");
	expect_error("setmetatable(_G, {})\n", "t.lua:1", "cannot change a protected metatable");
	expect_error("local m = require 'muster'\nsetmetatable(m, {})\n", "t.lua:2",
		"table expected, got muster.module");
	expect_error(
		"local m = require 'muster'\nrawset(m, 'x', 1)\n", "t.lua:2", "table expected");
	expect_error("math.randomseed()\n", "t.lua:1", "math.randomseed wants a number");
}

/* What a scenario does to the tables it was given does not reach the library. */
static void test_poisoned_tables(void **state)
{
	_cleanup_play_ struct play p = {0};

	(void)state;
	play(&p, "for _, t in pairs { string, table, math, utf8, coroutine } do for k in pairs(t) "
		 "do t[k] = nil end end\n"
		 "pcall, pairs, ipairs, type, tostring, error, select, next = nil\n" METHOD(
			 "run:log('x')"));
	expect_done(&p);
}

/* ── halting ───────────────────────────────────────────────────────────────────────────────── */

static void test_halt_is_sticky(void **state)
{
	static const char *const bodies[] = {
		METHOD("local f <close> = run:inject(muster.fault.node_loss { node = 'rs2' })\n"
		       "while true do pcall(run.wait, run, '1s') end"),
		METHOD("while true do xpcall(run.wait, function(e) return e end, run, '1s') end"),
		METHOD("while true do coroutine.resume(coroutine.create(function() run:wait '1s' "
		       "end)) end"),
		METHOD("while true do pcall(function() pcall(run.wait, run, '1s') run:log 'still "
		       "here' end) end"),
		METHOD("local t <close> = setmetatable({}, { __close = function() run:log 'still "
		       "here' end }) run:wait '1s'"),
		METHOD("run:wait '1s'"),
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
		_cleanup_play_ struct play p = {.halt_on = "wait", .timeout = 5 * NSEC_PER_SEC};

		play(&p, bodies[i]);
		assert_false(p.timed_out);
		assert_false(p.done);
		assert_true(WIFEXITED(p.status));
		assert_int_equal(WEXITSTATUS(p.status), 3);
		/* nothing after it: no lift, no log, no error */
		assert_string_equal(json_string_value(json_object_get(p.last, "op")), "wait");
	}
}

static void test_error_lifts(void **state)
{
	_cleanup_play_ struct play p = {0};
	const char *lift, *error;

	(void)state;
	play(&p, METHOD("local a <close> = run:inject(muster.fault.node_loss { node = 'rs2' })\n"
			"local b <close> = run:inject(muster.fault.node_loss { node = 'rs1' })\n"
			"run:nonsense()"));
	lift = strstr(p.log.s, "lift ");
	error = strstr(p.log.s, "error ");
	assert_true(lift && error && lift < error);
	assert_non_null(strstr(lift + 1, "lift "));
	assert_string_equal(p.where, "t.lua:8");
}

/* ── a broken conversation ─────────────────────────────────────────────────────────────────── */

static void test_killed_mid_request(void **state)
{
	_cleanup_play_ struct play p = {.kill_on = "wait"};

	(void)state;
	play(&p, METHOD("run:wait '1s'"));
	assert_true(WIFSIGNALED(p.status));
	assert_int_equal(p.err.code, -EPIPE);
	assert_false(p.done);
}

static void test_garbage_from_the_engine(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
	} cases[] = {
#define FRAME(len, text) {len "\0\0\0" text, 4 + sizeof(text) - 1}
		FRAME("\x04", "null"),
		FRAME("\x07", "{\"v\":1}"),
		FRAME("\x08", "\xff\xff\xff\xff\xff\xff\xff\xff"),
		FRAME("\x10", "{\"v\":1,\"id\":99 }"),
		FRAME("\x0f", "{\"v\":1,\"id\":2 }"),
		FRAME("\x19", "{\"v\":1,\"id\":2,\"error\": 7 }"),
		{"\xff\xff\xff\xff", 4},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_play_ struct play p = {.raw_on = "site",
			.raw = cases[i].bytes,
			.raw_len = cases[i].len,
			.timeout = 5 * NSEC_PER_SEC};

		play(&p, METHOD(""));
		assert_false(p.timed_out);
		assert_true(WIFEXITED(p.status));
		assert_int_equal(WEXITSTATUS(p.status), 2);
	}
}

/* What a script process that has been taken over could say instead of a request: refused, whatever
 * it is. */
static void say_nonsense(void)
{
	send(SANDBOX_FD, "\x0a\0\0\0{\"v\":1,]]]", 14, 0);
}
static void say_too_much(void)
{
	send(SANDBOX_FD, "\xff\xff\xff\x7f", 4, 0);
}
static void say_half(void)
{
	send(SANDBOX_FD, "\x0a\0\0\0{\"v\"", 8, 0);
	_exit(0);
}

static void test_garbage_from_the_script(void **state)
{
	static const struct {
		void (*say)(void);
		int code;
	} cases[] = {{say_nonsense, -EPROTO}, {say_too_much, -EMSGSIZE}, {say_half, -EPIPE}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_play_ struct play p = {0};

		sandbox_probe = cases[i].say;
		play(&p, "while true do end\n");
		sandbox_probe = NULL;
		assert_int_equal(p.err.code, cases[i].code);
		assert_int_equal(p.log.len, 0);
	}
}

/* The engine dies: so does the script, though it is busy and reads nothing. */
static void test_parent_dies(void **state)
{
	int report[2];
	pid_t engine, script;
	ssize_t n;

	(void)state;
	assert_int_equal(pipe2(report, O_CLOEXEC), 0);
	engine = fork();
	if (engine == 0) {
		static const char text[] = "while true do end\n";
		struct script_args args = {.path = "t.lua", .text = text, .len = sizeof(text) - 1};
		int pidfd, fd;
		struct err err;
		pid_t pid;

		if (script_spawn(&args, &pid, &pidfd, &fd, &err) < 0)
			_exit(1);
		if (write(report[1], &pid, sizeof(pid)) != sizeof(pid))
			_exit(1);
		pause();
		_exit(0);
	}
	close(report[1]);
	n = read(report[0], &script, sizeof(script));
	close(report[0]);
	assert_int_equal(n, sizeof(script));
	int pidfd = (int)syscall(SYS_pidfd_open, script, 0);
	assert_true(pidfd >= 0);
	kill(engine, SIGKILL);
	waitpid(engine, NULL, 0);
	struct pollfd pfd = {.fd = pidfd, .events = POLLIN};
	assert_int_equal(poll(&pfd, 1, 5000), 1);
	close(pidfd);
}

/* ── the walls ─────────────────────────────────────────────────────────────────────────────── */

static unsigned long long status_field(pid_t pid, const char *name, int base)
{
	_cleanup_free_ char *path = strf("/proc/%d/status", (int)pid), *text = NULL;
	const char *at_name;

	assert_int_equal(file_read(path, 65536, &text, NULL), 0);
	at_name = strstr(text, name);
	assert_non_null(at_name);
	return strtoull(at_name + strlen(name), NULL, base);
}

/* Run in a script that waits for us: it is inspected from outside. */
static void check_walls(bool root)
{
	static const char text[] = METHOD("run:wait '1s'");
	struct script_args args = {.path = "t.lua", .text = text, .len = sizeof(text) - 1};
	_cleanup_play_ struct play p = {0};
	_cleanup_close_ int pidfd = -1, fd = -1;
	bool go_on = true;
	struct err err = {0};
	pid_t pid;

	assert_int_equal(script_spawn(&args, &pid, &pidfd, &fd, &err), 0);
	while (go_on) {
		_cleanup_json_ json_t *m = NULL;

		assert_int_equal(wire_recv_until(fd, now_ns() + 10 * NSEC_PER_SEC, &m, &err), 0);
		if (streq(json_string_value(json_object_get(m, "op")), "wait"))
			break;
		go_on = serve(&p, fd, pid, m);
	}
	assert_true(go_on);
	assert_int_equal(status_field(pid, "Seccomp:", 10), 2);
	assert_int_equal(status_field(pid, "NoNewPrivs:", 10), 1);
	assert_int_equal(status_field(pid, "CapEff:", 16), 0);
	assert_int_equal(status_field(pid, "CapPrm:", 16), 0);
	assert_int_equal(status_field(pid, "CapInh:", 16), 0);
	assert_int_equal(status_field(pid, "CapAmb:", 16), 0);
	assert_int_equal(status_field(pid, "Threads:", 10), 1);
	if (root) {
		_cleanup_free_ char *netns = strf("/proc/%d/ns/net", (int)pid);
		char theirs[64] = "", ours[64] = "";

		assert_int_equal(status_field(pid, "CapBnd:", 16), 0);
		assert_int_equal(status_field(pid, "Uid:", 10), SANDBOX_USER);
		assert_int_equal(status_field(pid, "Gid:", 10), SANDBOX_USER);
		if (readlink(netns, theirs, sizeof(theirs) - 1) > 0 &&
			readlink("/proc/self/ns/net", ours, sizeof(ours) - 1) > 0)
			assert_string_not_equal(theirs, ours);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_walls(void **state)
{
	(void)state;
	check_walls(geteuid() == 0);
}

/* `check` and `plan` need no root. */
static void test_without_root(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	if (geteuid() != 0) {
		print_message("runs without root already: test_walls covers it\n");
		skip();
	}
	pid = fork();
	if (pid == 0) {
		_cleanup_play_ struct play p = {0};

		if (setresgid(SANDBOX_USER, SANDBOX_USER, SANDBOX_USER) < 0 ||
			setresuid(SANDBOX_USER, SANDBOX_USER, SANDBOX_USER) < 0)
			_exit(2);
		check_walls(false);
		play(&p, METHOD("run:log 'x'"));
		_exit(p.done ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* Each is tried by the sealed child itself, as an attacker in control of the interpreter would. */
static void try_open(void)
{
	syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY);
}
static void try_socket(void)
{
	syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
}
static void try_fork(void)
{
	syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static void try_exec(void)
{
	char *const argv[] = {(char *)"/bin/true", NULL};

	syscall(SYS_execve, argv[0], argv, NULL);
}
static void try_kill(void)
{
	syscall(SYS_kill, getppid(), 0);
}
static void try_ptrace(void)
{
	syscall(SYS_ptrace, 0, 0, 0, 0);
}
static void try_write_fd2(void)
{
	syscall(SYS_write, 1, "x", 1);
}
static void try_executable_memory(void)
{
	syscall(SYS_mmap, 0, 4096, 7 /* rwx */, 0x22 /* private, anonymous */, -1, 0);
}
static void try_send_to_address(void)
{
	syscall(SYS_sendto, SANDBOX_FD, "x", 1, 0, "\1\0/tmp/x", 8);
}
static void try_other_descriptor(void)
{
	char c;

	syscall(SYS_recvfrom, 0, &c, 1, 0, NULL, NULL);
}
static void try_unshare(void)
{
	syscall(SYS_unshare, CLONE_NEWUSER);
}

static void test_system_calls(void **state)
{
	static void (*const tries[])(void) = {try_open, try_socket, try_fork, try_exec, try_kill,
		try_ptrace, try_write_fd2, try_executable_memory, try_send_to_address,
		try_other_descriptor, try_unshare};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		_cleanup_play_ struct play p = {.timeout = 10 * NSEC_PER_SEC};

		sandbox_probe = tries[i];
		play(&p, METHOD(""));
		sandbox_probe = NULL;
		if (!WIFSIGNALED(p.status) || WTERMSIG(p.status) != SIGSYS)
			fail_msg("attempt %zu was not stopped: status %x", i, p.status);
		assert_int_equal(p.log.len, 0);
	}
}

/* Without the filter the other walls stand by themselves: Landlock, the limits, the descriptors. */
static int behind_the_other_walls(int fd, pid_t parent)
{
	struct rlimit files, processes, core;
	struct err err = {0};

	if (sandbox_enter(fd, parent, 5, &err) < 0)
		return 1;
	if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_max != SANDBOX_FD + 1)
		return 2;
	if (getrlimit(RLIMIT_NPROC, &processes) < 0 || processes.rlim_max != 0)
		return 3;
	if (getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max != 0)
		return 4;
	/* frees a slot, so that it is not the limit that refuses */
	close(0);
	if (open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0)
		return 5;
	return errno == EACCES ? 0 : 6;
}

static void test_other_walls(void **state)
{
	pid_t parent = getpid(), pid;
	int fds[2], status;

	(void)state;
	/* 1: LANDLOCK_CREATE_RULESET_VERSION */
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 1) {
		print_message("this kernel has no Landlock: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	pid = fork();
	if (pid == 0)
		_exit(behind_the_other_walls(fds[1], parent));
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_no_descriptor_leaks(void **state)
{
	static const char text[] = "while true do end\n";
	struct script_args args = {.path = "t.lua", .text = text, .len = sizeof(text) - 1};
	_cleanup_close_ int pidfd = -1, fd = -1, secret = open("/etc/passwd", O_RDONLY);
	struct err err = {0};
	pid_t pid;

	(void)state;
	if (geteuid() != 0) {
		print_message("not root: /proc/PID/fd of an undumpable process cannot be read\n");
		skip();
	}
	assert_true(secret >= 0);
	assert_int_equal(script_spawn(&args, &pid, &pidfd, &fd, &err), 0);
	for (int i = 0; i < 1024; i++) {
		_cleanup_free_ char *link = strf("/proc/%d/fd/%d", (int)pid, i);
		char target[256] = "";
		bool there = readlink(link, target, sizeof(target) - 1) > 0;

		if (i <= 1)
			assert_string_equal(target, "/dev/null");
		else if (i == SANDBOX_FD)
			assert_non_null(strstr(target, "socket:"));
		else if (i > SANDBOX_FD)
			assert_false(there);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shipped_scenario),
		cmocka_unit_test(test_declaration),
		cmocka_unit_test(test_smallest_declaration),
		cmocka_unit_test(test_method_requests),
		cmocka_unit_test(test_print_at_the_top),
		cmocka_unit_test(test_expectation_values),
		cmocka_unit_test(test_urls),
		cmocka_unit_test(test_load_names),
		cmocka_unit_test(test_parameters),
		cmocka_unit_test(test_seed),
		cmocka_unit_test(test_mistakes_at_the_top),
		cmocka_unit_test(test_mistakes_in_the_scenario),
		cmocka_unit_test(test_mistakes_in_the_method),
		cmocka_unit_test(test_refused_by_the_engine),
		cmocka_unit_test(test_traceback),
		cmocka_unit_test(test_long_path),
		cmocka_unit_test(test_bad_sites),
		cmocka_unit_test(test_bad_profiles),
		cmocka_unit_test(test_site_alone),
		cmocka_unit_test(test_too_large),
		cmocka_unit_test(test_bytecode),
		cmocka_unit_test(test_endless),
		cmocka_unit_test(test_endless_has_a_line),
		cmocka_unit_test(test_finalisers),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_memory_and_close),
		cmocka_unit_test(test_deep_parse),
		cmocka_unit_test(test_missing_libraries),
		cmocka_unit_test(test_poisoned_tables),
		cmocka_unit_test(test_halt_is_sticky),
		cmocka_unit_test(test_error_lifts),
		cmocka_unit_test(test_killed_mid_request),
		cmocka_unit_test(test_garbage_from_the_engine),
		cmocka_unit_test(test_garbage_from_the_script),
		cmocka_unit_test(test_parent_dies),
		cmocka_unit_test(test_walls),
		cmocka_unit_test(test_without_root),
		cmocka_unit_test(test_system_calls),
		cmocka_unit_test(test_other_walls),
		cmocka_unit_test(test_no_descriptor_leaks),
	};

	return cmocka_run_group_tests_name("script", tests, NULL, NULL);
}
