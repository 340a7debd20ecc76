/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The verdict, from timelines written by hand. The probes are made up, so that the judge is tested and not they: "is"
 * says what it was told to say; the others read the series in the plainest way.
 *
 * wrap: probe_find
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "engine/events.h"
#include "engine/judge.h"
#include "engine/predicate.h"
#include "engine/str.h"

#define S  NSEC_PER_SEC
#define MS NSEC_PER_MSEC
#define B  TIMELINE_BUCKET

/* ── the probes ────────────────────────────────────────────────────────────────────────── */

static int eval_is(const struct timeline *tl _unused_, const struct site *site _unused_,
	const json_t *args, nsec_t t0 _unused_, nsec_t t1 _unused_, struct sample *ret,
	struct err *err _unused_)
{
	const char *is = json_string_value(json_object_get(args, "is"));

	if (streq(is, "unknown"))
		return 0;
	*ret = (struct sample){.have = true, .n = 1};
	ret->value = ret->lo = ret->hi = streq(is, "true");
	return 0;
}

static int eval_error_ratio(const struct timeline *tl, const struct site *site _unused_,
	const json_t *args _unused_, nsec_t t0, nsec_t t1, struct sample *ret,
	struct err *err _unused_)
{
	const struct tl_load *l;
	size_t n = timeline_loads(tl, &l);
	uint64_t due = 0, ok = 0;

	for (size_t i = timeline_seek(l, n, sizeof(*l), t0); i < n && l[i].t < t1; i++) {
		for (int k = 0; k < OUTCOME_COUNT; k++)
			due += l[i].count[k];
		ok += l[i].count[OUTCOME_OK];
	}
	if (!due)
		return 0;
	*ret = (struct sample){.have = true, .n = due};
	ret->value = ret->lo = ret->hi = (double)(due - ok) / (double)due;
	return 0;
}

static int eval_conns(const struct timeline *tl, const struct site *site _unused_,
	const json_t *args _unused_, nsec_t t0, nsec_t t1, struct sample *ret,
	struct err *err _unused_)
{
	const struct tl_conn *c;
	size_t n = timeline_conns(tl, &c);
	uint64_t sum = 0;

	for (size_t i = timeline_seek(c, n, sizeof(*c), t0); i < n && c[i].t < t1; i++)
		sum += c[i].established;
	*ret = (struct sample){.have = true, .n = sum};
	ret->value = ret->lo = ret->hi = (double)sum;
	return 0;
}

static const struct param is_params[] = {
	{.name = "is", .type = PARAM_STRING, .required = true},
	PARAM_END,
};
static const struct probe_ops probes[] = {
	{.subject = "", .name = "is", .unit = UNIT_NONE, .params = is_params, .eval = eval_is},
	{.subject = "load",
		.name = "error_ratio",
		.unit = UNIT_RATIO,
		.window = S,
		.eval = eval_error_ratio},
	{.subject = "service", .name = "conns", .unit = UNIT_NONE, .window = S, .eval = eval_conns},
};

const struct probe_ops *__wrap_probe_find(const char *subject, const char *name);
const struct probe_ops *__wrap_probe_find(const char *subject, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(probes); i++)
		if (streq(probes[i].subject, subject) && streq(probes[i].name, name))
			return &probes[i];
	return NULL;
}

/* ── plans and timelines ───────────────────────────────────────────────────────────────── */

static json_t *parse(const char *text)
{
	json_error_t e;
	json_t *j = json_loads(text, 0, &e);

	if (!j)
		fail_msg("%s at %d: %s", e.text, e.position, text);
	return j;
}

static json_t *is(const char *what)
{
	return json_pack("{s:s, s:{s:s}, s:s, s:i, s:s}", "probe", "is", "args", "is", what, "op",
		"equals", "bound", 1, "text", what);
}

static json_t *few_errors(void)
{
	return parse("{\"probe\": \"load.error_ratio\", \"args\": {\"load\": \"client\"}, \"op\": "
		     "\"below\", "
		     "\"bound\": 0.01, \"text\": \"client:error_ratio() below 1%\"}");
}

/* @steady, @objective: arrays; stolen */
static json_t *make_plan(json_t *steady, json_t *objective)
{
	json_t *site =
		parse("{\"name\": \"s\", \"switches\": [\"lan\"], \"nodes\": ["
		      "{\"name\": \"director\", \"links\": [{\"dev\": \"eth0\", \"switch\": "
		      "\"lan\", \"addrs\": [\"198.18.0.2/24\"]}]},"
		      "{\"name\": \"rs1\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", "
		      "\"addrs\": [\"198.18.0.21/24\"]}]},"
		      "{\"name\": \"rs2\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", "
		      "\"addrs\": [\"198.18.0.22/24\"]}]}],"
		      "\"services\": [{\"name\": \"web\", \"protocol\": \"tcp\", \"port\": 8080, "
		      "\"vips\": [\"198.18.0.100\"],"
		      "\"scheduler\": \"wrr\", \"forward\": \"dr\", \"director\": \"director\","
		      "\"servers\": [{\"node\": \"rs1\", \"weight\": 3}, {\"node\": \"rs2\", "
		      "\"weight\": 5}]}]}");

	return json_pack("{s:s, s:s, s:i, s:{}, s:{s:s, s:s, s:o, s:[{s:s, s:s, s:{s:f}}], s:{s:I, "
			 "s:I, s:o}, s:o}, s:[]}",
		"schema", "muster.plan/1", "file", "x.lua", "seed", 7, "set", "scenario", "name",
		"test", "summary", "what if", "site", site, "loads", "kind", "http", "name",
		"client", "args", "rate", 100.0, "steady_state", "settle_ns", (json_int_t)(5 * B),
		"within_ns", (json_int_t)(60 * S), "predicates", steady, "objective",
		objective ? objective : json_object(), "steps");
}

static struct timeline *new_timeline(void)
{
	struct timeline *tl = NULL;

	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	return tl;
}

static json_t *judged(const json_t *plan, const struct timeline *tl)
{
	json_t *report = NULL;
	struct err err = {0};

	if (judge(plan, tl, &report, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(
		json_string_value(json_object_get(report, "schema")), "muster.report/1");
	return report;
}

static const char *verdict_of(const json_t *report)
{
	return json_string_value(json_object_get(report, "verdict"));
}

static int exit_of(const json_t *report)
{
	return (int)json_integer_value(json_object_get(report, "exit_code"));
}

static const char *reason_of(const json_t *report)
{
	return json_string_value(json_object_get(report, "reason"));
}

static const json_t *check_called(const json_t *report, const char *start)
{
	const json_t *c;
	size_t i;

	json_array_foreach (json_object_get(report, "checks"), i, c)
		if (strncmp(json_string_value(json_object_get(c, "name")), start, strlen(start)) ==
			0)
			return c;
	fail_msg("no check called \"%s...\"", start);
	return NULL;
}

static const char *status_of(const json_t *report, const char *start)
{
	return json_string_value(json_object_get(check_called(report, start), "status"));
}

static double number(const json_t *j, const char *key)
{
	const json_t *v = json_object_get(j, key);

	if (!json_is_number(v))
		fail_msg("%s is not a number", key);
	return json_number_value(v);
}

static void assert_null_member(const json_t *j, const char *key)
{
	if (!json_is_null(json_object_get(j, key)))
		fail_msg("%s is not null", key);
}

static void assert_says(const char *text, const char *what)
{
	if (!strstr(text, what))
		fail_msg("\"%s\" does not say \"%s\"", text, what);
}

/* ── the truth table ───────────────────────────────────────────────────────────────────── */

enum {
	HALT_NO,
	HALT_OPERATOR,
	HALT_DEADLINE,
	HALT_STOP,
	HALT_GUARD_DEADLINE,
	HALT_GUARD_CLI,
	HALTS
};
enum { ERROR_NO, ERROR_SCENARIO, ERROR_ENGINE, ERROR_DIED, ERROR_NO_END, ERROR_EXIT, ERRORS };
enum { FAULT_NO, FAULT_PROVED, FAULT_NOT, FAULT_NULL, FAULT_UNLIFTED, FAULT_FAILED, FAULTS };
enum { CHECK_TRUE, CHECK_FALSE, CHECK_UNKNOWN, CHECK_BOTH, CHECKS };
enum { RESIDUE_CLEAN, RESIDUE_DIRTY, RESIDUE_UNKNOWN, RESIDUE_NONE, RESIDUES };
static const char *const tri[] = {"true", "false", "unknown"};

struct row {
	int refused, error, halt, steady, fault, check, residue, applied;
};

static void add_expectation(struct timeline *tl, nsec_t t, int id, const char *what)
{
	timeline_event(tl, t, EV_CHECK,
		json_pack("{s:i, s:s, s:[o], s:I, s:I, s:s}", "id", id, "use", "eventually",
			"predicates", is(what), "from", (json_int_t)(3 * S), "within_ns",
			(json_int_t)(2 * B), "status", what));
}

static struct timeline *row_timeline(const struct row *r)
{
	struct timeline *tl = new_timeline();

	timeline_event(tl, 1 * S, EV_RUN,
		json_pack("{s:s, s:I}", "id", "r1", "wall_ns", (json_int_t)(1700000000 * S)));
	if (r->refused)
		timeline_event(tl, 1 * S, EV_REFUSED, json_pack("{s:s}", "text", "no root"));
	if (r->applied)
		timeline_event(tl, 1 * S, EV_CHANGE,
			json_pack("{s:i, s:s, s:s, s:s}", "id", 1, "change", "set.sysctl", "node",
				"rs1", "state", "applied"));
	timeline_event(tl, 2 * S, EV_CHECK,
		json_pack("{s:i, s:s, s:I, s:I, s:I}", "id", 10, "use", "steady-before", "from",
			(json_int_t)(2 * S), "settle_ns", (json_int_t)(5 * B), "until",
			(json_int_t)(2 * S + 6 * B)));
	timeline_event(tl, 3 * S, EV_STAGE, json_pack("{s:s}", "stage", "method"));
	if (r->fault == FAULT_FAILED)
		timeline_event(tl, 3 * S, EV_FAULT,
			json_pack("{s:i, s:s, s:s, s:s}", "id", 2, "change", "fault.x", "node",
				"rs2", "state", "failed"));
	else if (r->fault != FAULT_NO)
		timeline_event(tl, 3 * S, EV_FAULT,
			json_pack("{s:i, s:s, s:s, s:s}", "id", 2, "change", "fault.x", "node",
				"rs2", "state", "applied"));
	if (r->check == CHECK_BOTH) {
		add_expectation(tl, 3 * S, 20, "unknown");
		add_expectation(tl, 3 * S, 21, "false");
	} else {
		add_expectation(tl, 3 * S, 20, tri[r->check]);
	}
	if (r->fault == FAULT_PROVED || r->fault == FAULT_NOT || r->fault == FAULT_NULL)
		timeline_event(tl, 4 * S, EV_FAULT,
			json_pack("{s:i, s:s, s:s, s:s, s:o}", "id", 2, "change", "fault.x", "node",
				"rs2", "state", "lifted", "proved",
				r->fault == FAULT_PROVED ? json_true()
				: r->fault == FAULT_NOT	 ? json_false()
							 : json_null()));
	if (r->error == ERROR_SCENARIO || r->error == ERROR_ENGINE)
		timeline_event(tl, 4 * S, EV_ERROR,
			json_pack("{s:s, s:s}", "text", "oops", "blame",
				r->error == ERROR_SCENARIO ? "scenario" : "engine"));
	if (r->halt == HALT_OPERATOR)
		timeline_event(tl, 4 * S, EV_HALT,
			json_pack("{s:s, s:s}", "by", "operator", "reason", "lunch"));
	if (r->halt == HALT_DEADLINE)
		timeline_event(tl, 4 * S, EV_HALT, json_pack("{s:s}", "by", "deadline"));
	if (r->halt == HALT_STOP) {
		timeline_event(
			tl, 4 * S, EV_STOP, json_pack("{s:s}", "predicate", "too many errors"));
		timeline_event(tl, 4 * S, EV_HALT, json_pack("{s:s}", "by", "stop"));
	}
	if (r->halt == HALT_GUARD_DEADLINE)
		timeline_event(tl, 4 * S, EV_GUARD, json_pack("{s:s}", "what", "deadline"));
	if (r->halt == HALT_GUARD_CLI)
		timeline_event(tl, 4 * S, EV_GUARD, json_pack("{s:s}", "what", "cli-gone"));
	if (r->error == ERROR_DIED)
		timeline_event(tl, 4 * S, EV_GUARD, json_pack("{s:s}", "what", "engine-died"));
	if (r->residue != RESIDUE_NONE)
		timeline_event(tl, 5 * S, EV_RESIDUE,
			json_pack("{s:o, s:[]}", "clean",
				r->residue == RESIDUE_CLEAN   ? json_true()
				: r->residue == RESIDUE_DIRTY ? json_false()
							      : json_null(),
				"diff"));
	if (r->error != ERROR_NO_END)
		timeline_event(tl, 5 * S, EV_END,
			json_pack("{s:i}", "exit", r->error == ERROR_EXIT ? 1 : 0));
	return tl;
}

/* The contract's words, said again in another way */
static int expected(const struct row *r, const char **ret_verdict)
{
	/* without an `end`, word of the residue is an end as well: the guard's */
	bool broken_off = r->error == ERROR_NO_END && r->residue == RESIDUE_NONE;
	bool applied = r->applied || (r->fault != FAULT_NO && r->fault != FAULT_FAILED);
	int code;

	if (r->refused) {
		*ret_verdict = "refused";
		code = 6;
	} else if (broken_off || (r->error != ERROR_NO && r->error != ERROR_NO_END)) {
		*ret_verdict = "error";
		code = r->error == ERROR_SCENARIO ? 2 : 8;
	} else if (r->halt != HALT_NO) {
		*ret_verdict = "halted";
		code = r->halt == HALT_OPERATOR || r->halt == HALT_GUARD_CLI ? 4 : 3;
	} else if (r->steady != 0 || (r->fault != FAULT_NO && r->fault != FAULT_PROVED) ||
		   r->check == CHECK_UNKNOWN) {
		*ret_verdict = "inconclusive";
		code = 7;
	} else if (r->check == CHECK_FALSE || r->check == CHECK_BOTH) {
		*ret_verdict = "fail";
		code = 1;
	} else {
		*ret_verdict = "pass";
		code = 0;
	}
	return applied && r->residue != RESIDUE_CLEAN ? 5 : code;
}

static void test_truth_table(void **state _unused_)
{
	json_t *plans[3];
	struct row r;
	size_t n = 0;

	for (int i = 0; i < 3; i++)
		plans[i] = make_plan(json_pack("[o]", is(tri[i])), NULL);
	for (r.refused = 0; r.refused < 2; r.refused++)
		for (r.error = 0; r.error < ERRORS; r.error++)
			for (r.halt = 0; r.halt < HALTS; r.halt++)
				for (r.steady = 0; r.steady < 3; r.steady++)
					for (r.fault = 0; r.fault < FAULTS; r.fault++)
						for (r.check = 0; r.check < CHECKS; r.check++)
							for (r.residue = 0; r.residue < RESIDUES;
								r.residue++)
								for (r.applied = 0; r.applied < 2;
									r.applied++) {
									_cleanup_timeline_ struct
										timeline *tl = NULL;
									_cleanup_json_ json_t
										*report = NULL;
									const char *verdict;
									int code = expected(
										&r, &verdict);

									/* refused outweighs all the rest: its rows need not be tried with every other thing */
									if (r.refused &&
										(r.steady ||
											r.check >
												CHECK_FALSE))
										continue;
									tl = row_timeline(&r);
									report = judged(
										plans[r.steady],
										tl);
									if (!streq(verdict_of(
											   report),
										    verdict) ||
										exit_of(report) !=
											code ||
										!reason_of(
											report)[0])
										fail_msg(
											"refused "
											"%d error "
											"%d halt "
											"%d steady "
											"%d fault "
											"%d check "
											"%d "
											"residue "
											"%d "
											"applied "
											"%d: "
											"%s, exit "
											"%d (%s); "
											"wanted "
											"%s, exit "
											"%d",
											r.refused,
											r.error,
											r.halt,
											r.steady,
											r.fault,
											r.check,
											r.residue,
											r.applied,
											verdict_of(
												report),
											exit_of(report),
											reason_of(
												report),
											verdict,
											code);
									n++;
								}
	assert_int_equal(n, 6 * 6 * 6 * 4 * 2 * (3 * 4 + 2));
	for (int i = 0; i < 3; i++)
		json_decref(plans[i]);
}

/* ── series ────────────────────────────────────────────────────────────────────────────── */

/* Ten requests a bucket over [from, to), of which @failed fail */
static void add_load(struct timeline *tl, nsec_t from, nsec_t to, uint64_t failed)
{
	for (nsec_t t = from; t < to; t += B)
		timeline_add_load(tl,
			&(struct tl_load){.t = t,
				.load = "client",
				.count = {[OUTCOME_OK] = 10 - failed, [OUTCOME_TIMEOUT] = failed}});
}

static void add_weight(struct timeline *tl, nsec_t t, const char *server, int weight)
{
	timeline_add_weight(tl,
		&(struct tl_weight){.t = t, .service = "web", .server = server, .weight = weight});
}

static void add_conns(
	struct timeline *tl, nsec_t from, nsec_t to, const char *server, uint64_t n, nsec_t offset)
{
	for (nsec_t t = from; t < to; t += B)
		timeline_add_conn(tl, &(struct tl_conn){.t = t,
					      .service = "web",
					      .server = server,
					      .established = n,
					      .first = t + offset,
					      .last = t + offset + 5 * MS});
}

static void add_fault(struct timeline *tl, nsec_t t, const char *state)
{
	json_t *data = json_pack("{s:i, s:s, s:s, s:s}", "id", 2, "change", "fault.node_loss",
		"node", "rs2", "state", state);

	if (streq(state, "lifted"))
		json_object_update_new(data,
			parse("{\"asked\": {\"how\": \"silent\"}, \"measured\": {\"packets\": 12}, "
			      "\"proved\": true, \"text\": \"12 packets dropped\"}"));
	timeline_event(tl, t, EV_FAULT, data);
}

/*
 * A server falls silent at +10 s (of the clock), the director sees it at 12.05, errors stop at 12.5, it is let go at
 * 20 and has its weight back at 22.
 */
static struct timeline *loss_timeline(void)
{
	struct timeline *tl = new_timeline();

	timeline_event(tl, 1 * S, EV_RUN,
		parse("{\"id\": \"r1\", \"seed\": 7, \"kernel\": \"6.1\", \"lab\": \"netns\", "
		      "\"wall_ns\": 1700000000000000000}"));
	add_weight(tl, 1 * S, "rs1", 3);
	add_weight(tl, 1 * S, "rs2", 5);
	add_load(tl, 2 * S, 10 * S, 0);
	add_conns(tl, 2 * S, 10 * S, "rs1", 4, 10 * MS);
	add_conns(tl, 2 * S, 10 * S, "rs2", 6, 10 * MS);
	timeline_event(tl, 5 * S, EV_CHECK,
		parse("{\"id\": 1, \"use\": \"steady-before\", \"from\": 5000000000, "
		      "\"settle_ns\": 500000000, \"until\": 9000000000, \"status\": \"true\"}"));
	timeline_event(tl, 9 * S, EV_STAGE, parse("{\"stage\": \"method\"}"));
	add_fault(tl, 10 * S + 1, "applied");
	add_load(tl, 10 * S, 12 * S + 5 * B, 4);
	add_weight(tl, 12 * S + 50 * MS, "rs2", 0);
	add_conns(tl, 10 * S, 24 * S, "rs1", 9,
		40 * MS); /* 12.040 is before, 12.140 is after the director's move */
	add_load(tl, 12 * S + 5 * B, 30 * S, 0);
	add_fault(tl, 20 * S, "lifted");
	add_weight(tl, 22 * S, "rs2", 5);
	add_conns(tl, 24 * S, 30 * S, "rs1", 3, 10 * MS);
	add_conns(tl, 22 * S, 30 * S, "rs2", 5, 10 * MS);
	timeline_event(tl, 20 * S, EV_CHECK,
		parse("{\"id\": 9, \"use\": \"steady-after\", \"from\": 20000000000, "
		      "\"settle_ns\": 500000000, \"until\": 30000000000}"));
	timeline_event(tl, 30 * S, EV_STAGE, parse("{\"stage\": \"undo\"}"));
	timeline_event(tl, 30 * S, EV_SOURCE,
		parse("{\"name\": \"conn\", \"source_kind\": \"telemetry\", "
		      "\"state\": \"stopped\", \"summary\": {\"events\": 5000, \"dropped\": 0}}"));
	timeline_event(tl, 31 * S, EV_RESIDUE,
		parse("{\"clean\": true, \"diff\": [], \"conflicts\": [], \"failed\": []}"));
	timeline_event(tl, 31 * S, EV_END, parse("{\"exit\": 0}"));
	return tl;
}

static void test_recovery(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()),
		parse("{\"rto_ns\": 5000000000, \"error_budget\": 0.1, \"predicates\": []}"));
	_cleanup_timeline_ struct timeline *tl = loss_timeline();
	_cleanup_json_ json_t *report = judged(plan, tl);
	const json_t *r = json_object_get(report, "recovery"), *f, *svc, *b, *c;

	assert_string_equal(verdict_of(report), "pass");
	assert_int_equal(exit_of(report), 0);
	assert_string_equal(
		json_string_value(json_object_get(r, "onset")), "2023-11-14T22:13:29.000Z");
	assert_float_equal(number(r, "detect_ms"), 2050, 0.01);
	assert_float_equal(number(r, "failover_ms"), 2140, 0.01);
	assert_float_equal(number(r, "recover_ms"), 2500, 0.01);
	assert_float_equal(number(r, "rto_ms"), 2500, 0.01);
	assert_float_equal(number(r, "objective_ms"), 5000, 0.01);
	assert_float_equal(number(r, "resolution_ms"), 100, 0.01);

	assert_string_equal(status_of(report, "objective: recovery time"), "pass");
	c = check_called(report, "objective: recovery time");
	assert_float_equal(number(c, "margin"), 2500, 0.01);
	c = check_called(report, "objective: error budget");
	/* 25 buckets with 4 failures each, of 210 buckets of 10 */
	assert_float_equal(number(c, "measured"), 100.0 / 2100, 1e-9);
	assert_says(json_string_value(json_object_get(c, "evidence")), "100 of 2100");
	assert_says(json_string_value(json_object_get(c, "evidence")), "timeout 100");

	f = json_array_get(json_object_get(report, "faults"), 0);
	assert_true(json_is_true(json_object_get(f, "proved")));
	assert_int_equal(json_integer_value(json_object_get(f, "applied_ns")), 10 * S + 1);
	assert_int_equal(json_integer_value(json_object_get(f, "lifted_ns")), 20 * S);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(f, "asked"), "how")), "silent");

	/* steady from 20 s on, by the errors alone; the share counts from there */
	svc = json_array_get(json_object_get(report, "services"), 0);
	b = json_array_get(json_object_get(svc, "backends"), 1);
	assert_string_equal(json_string_value(json_object_get(b, "node")), "rs2");
	assert_int_equal(json_integer_value(json_object_get(b, "weight")), 5);
	assert_int_equal(json_integer_value(json_object_get(b, "connections")), 80 * 5);
	assert_float_equal(number(b, "share"), 400.0 / (400 + 40 * 9 + 60 * 3), 1e-9);
	assert_float_equal(number(b, "expected"), 5.0 / 8, 1e-9);
	assert_int_equal(json_integer_value(json_object_get(b, "total")), 80 * 6 + 80 * 5);

	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(report, "telemetry"), "events")),
		5000);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(report, "load"), "requests")),
		2800);
	assert_float_equal(number(json_object_get(report, "load"), "rate_achieved"), 100, 0.01);
	assert_null_member(
		json_object_get(report, "load"), "p99_ms"); /* the buckets carried no latency */
	assert_null_member(json_object_get(report, "ledger"), "rpo_ms");
	assert_true(json_is_true(json_object_get(json_object_get(report, "residue"), "clean")));
}

static void test_a_missed_recovery_time(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()),
		parse("{\"rto_ns\": 2000000000, \"error_budget\": 0.01, \"predicates\": []}"));
	_cleanup_timeline_ struct timeline *tl = loss_timeline();
	_cleanup_json_ json_t *report = judged(plan, tl);

	assert_string_equal(verdict_of(report), "fail");
	assert_int_equal(exit_of(report), 1);
	assert_string_equal(status_of(report, "objective: recovery time"), "fail");
	assert_float_equal(
		number(check_called(report, "objective: recovery time"), "margin"), -500, 0.01);
	assert_string_equal(status_of(report, "objective: error budget"), "fail");
	assert_says(reason_of(report), "and 1 more");
}

/* All is well, and at 10 s the fault is there; what follows is the test's */
static struct timeline *begun_loss(void)
{
	struct timeline *tl = new_timeline();

	timeline_event(tl, 1 * S, EV_RUN, parse("{\"id\": \"r1\"}"));
	timeline_event(tl, 9 * S, EV_STAGE, parse("{\"stage\": \"method\"}"));
	add_load(tl, 2 * S, 10 * S, 0);
	add_fault(tl, 10 * S, "applied");
	return tl;
}

/* Steady for a moment, then broken again before it is lifted: recovered is what lasts. */
static void test_recovery_must_last(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()),
		parse("{\"rto_ns\": 5000000000, \"predicates\": []}"));
	_cleanup_timeline_ struct timeline *tl = begun_loss();
	_cleanup_json_ json_t *report = NULL;

	add_load(tl, 10 * S, 12 * S, 9);
	add_load(tl, 12 * S, 14 * S, 0); /* good for two seconds */
	add_load(tl, 14 * S, 16 * S, 9);
	add_load(tl, 16 * S, 30 * S, 0);
	add_fault(tl, 20 * S, "lifted");
	timeline_event(tl, 30 * S, EV_END, NULL);
	report = judged(plan, tl);
	assert_float_equal(number(json_object_get(report, "recovery"), "rto_ms"), 6000, 0.01);
	assert_string_equal(status_of(report, "objective: recovery time"), "fail");
	assert_null_member(
		json_object_get(report, "recovery"), "detect_ms"); /* no weight ever moved */
	assert_null_member(json_object_get(report, "recovery"), "failover_ms");
	assert_null_member(
		json_object_get(report, "recovery"), "onset"); /* no wall clock was recorded */
}

/* What recovers only once the fault is lifted has recovered then. */
static void test_recovery_by_letting_go(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()),
		parse("{\"rto_ns\": 5000000000, \"predicates\": []}"));
	_cleanup_timeline_ struct timeline *tl = begun_loss();
	_cleanup_json_ json_t *report = NULL;

	add_load(tl, 10 * S, 20 * S + 2 * B, 9);
	add_fault(tl, 20 * S, "lifted");
	add_load(tl, 20 * S + 2 * B, 30 * S, 0);
	timeline_event(tl, 30 * S, EV_END, NULL);
	report = judged(plan, tl);
	assert_float_equal(number(json_object_get(report, "recovery"), "rto_ms"), 10200, 0.01);
	assert_says(json_string_value(json_object_get(
			    check_called(report, "objective: recovery time"), "evidence")),
		"not while the fault was in force");
}

/* What the lifting itself cuts is no sign that the service had not recovered: between its begin and its end, and what was under way. */
static void test_harm_of_the_lifting(void **state _unused_)
{
	static const struct {
		nsec_t bad; /* the errors begin */
		const char *status;
		double rto;
	} cases[] = {
		{20 * S, "pass", 2000}, /* the undo began at 20 s, and is told at 20.4 */
		{19 * S + 5 * B, "pass", 2000},
		{18 * S + 5 * B, "fail", 10600}, /* this was not the lifting */
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()),
			parse("{\"rto_ns\": 5000000000, \"predicates\": []}"));
		_cleanup_timeline_ struct timeline *tl = begun_loss();
		_cleanup_json_ json_t *report = NULL;

		add_load(tl, 10 * S, 12 * S, 9);
		add_load(tl, 12 * S, cases[i].bad, 0);
		add_load(tl, cases[i].bad, 20 * S + 6 * B, 9);
		timeline_event(tl, 20 * S + 4 * B, EV_FAULT,
			json_pack("{s:i, s:s, s:s, s:s, s:I, s:b}", "id", 2, "change", "fault.node_loss", "node", "rs2", "state",
				"lifted", "since", (json_int_t)(20 * S), "proved", 1));
		add_load(tl, 20 * S + 6 * B, 30 * S, 0);
		timeline_event(tl, 30 * S, EV_END, NULL);
		report = judged(plan, tl);
		assert_string_equal(status_of(report, "objective: recovery time"), cases[i].status);
		assert_float_equal(number(json_object_get(report, "recovery"), "rto_ms"), cases[i].rto, 0.01);
	}
}

/* Never steady again: missed if it was watched for long enough, else not known. */
static void test_recovery_that_never_came(void **state _unused_)
{
	for (int longer = 0; longer < 2; longer++) {
		_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()),
			parse("{\"rto_ns\": 5000000000, \"predicates\": []}"));
		_cleanup_timeline_ struct timeline *tl = new_timeline();
		_cleanup_json_ json_t *report = NULL;
		nsec_t end = longer ? 16 * S : 15 * S;

		timeline_event(tl, 1 * S, EV_RUN, parse("{\"id\": \"r1\"}"));
		timeline_event(tl, 2 * S, EV_CHECK,
			parse("{\"id\": 1, \"use\": \"steady-before\", \"from\": 2000000000, "
			      "\"until\": 9000000000}"));
		timeline_event(tl, 9 * S, EV_STAGE, parse("{\"stage\": \"method\"}"));
		add_load(tl, 2 * S, 10 * S, 0);
		add_fault(tl, 10 * S, "applied");
		add_load(tl, 10 * S, end, 9);
		add_fault(tl, end, "lifted");
		timeline_event(tl, end, EV_RESIDUE, parse("{\"clean\": true}"));
		report = judged(plan, tl);
		assert_null_member(json_object_get(report, "recovery"), "rto_ms");
		assert_null_member(check_called(report, "objective: recovery time"), "measured");
		assert_string_equal(
			status_of(report, "objective: recovery time"), longer ? "fail" : "unknown");
	}
}

/* ── missing data ──────────────────────────────────────────────────────────────────────── */

static void test_an_empty_timeline(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", is("true")),
		parse("{\"rto_ns\": 1, \"error_budget\": 0.5, \"predicates\": []}"));
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = judged(plan, tl);

	assert_string_equal(verdict_of(report), "error");
	assert_int_equal(exit_of(report), 8);
	assert_null_member(json_object_get(report, "residue"), "clean");
	assert_null_member(json_object_get(report, "run"), "started");
	assert_null_member(json_object_get(report, "telemetry"), "events");
	assert_true(json_is_null(json_object_get(report, "load")));
	assert_string_equal(status_of(report, "steady state before"), "unknown");
	assert_string_equal(status_of(report, "objective: recovery time"), "unknown");
	assert_string_equal(status_of(report, "objective: error budget"), "unknown");
	assert_null_member(check_called(report, "objective: error budget"), "measured");
}

/* Killed in the middle: the record breaks off, and with a change applied the host is not proved restored. */
static void test_a_record_that_breaks_off(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()), NULL);
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *report = NULL;
	char path[] = "/tmp/muster-judge-XXXXXX";
	int fd = mkstemp(path);
	static const char text[] =
		"{\"t\": 1000000000, \"kind\": \"run\", \"id\": \"r1\"}\n"
		"{\"t\": 2000000000, \"kind\": \"change\", \"id\": 1, \"state\": \"applied\"}\n"
		"{\"t\": 3000000000, \"kind\": \"fau";

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
	close(fd);
	assert_int_equal(timeline_read(path, &tl, NULL), 0);
	unlink(path);
	report = judged(plan, tl);
	assert_string_equal(verdict_of(report), "error");
	assert_int_equal(exit_of(report), 5);
	assert_says(reason_of(report), "breaks off");
	assert_says(reason_of(report), "not proved");
}

static void test_nothing_checked_is_not_a_pass(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_array(), NULL);
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;

	timeline_event(tl, S, EV_RUN, NULL);
	timeline_event(tl, 2 * S, EV_END, NULL);
	report = judged(plan, tl);
	assert_string_equal(verdict_of(report), "inconclusive");
	assert_int_equal(exit_of(report), 7);
}

/* The load died before the fault was lifted: what it counted until then proves nothing about the rest. */
static void test_a_load_that_ends_early(void **state _unused_)
{
	_cleanup_json_ json_t *plan =
		make_plan(json_array(), json_pack("{s:n, s:f, s:[o]}", "rto_ns", "error_budget",
						0.5, "predicates", few_errors()));
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;

	timeline_event(tl, 1 * S, EV_RUN, NULL);
	timeline_event(tl, 2 * S, EV_STAGE, parse("{\"stage\": \"method\"}"));
	add_load(tl, 2 * S, 5 * S, 0);
	add_fault(tl, 3 * S, "applied");
	add_fault(tl, 8 * S, "lifted");
	timeline_event(tl, 9 * S, EV_RESIDUE, parse("{\"clean\": true}"));
	report = judged(plan, tl);
	assert_string_equal(status_of(report, "objective: error budget"), "unknown");
	assert_string_equal(status_of(report, "objective: client:error_ratio()"), "unknown");
	assert_string_equal(verdict_of(report), "inconclusive");
}

static void add_always_conns(struct timeline *tl, json_int_t bound)
{
	timeline_event(tl, 11 * S, EV_CHECK,
		json_pack("{s:i, s:s, s:[{s:s, s:{s:s}, s:s, s:I, s:s}], s:I, s:I}", "id", 5, "use",
			"always", "predicates", "probe", "service.conns", "args", "service", "web",
			"op", "at_least", "bound", bound, "text", "web:conns()", "from",
			(json_int_t)(11 * S), "during_ns", (json_int_t)(5 * S)));
}

/* Above one event lost in a thousand, what rests on connections is not known; the rest stands. */
static void test_lost_telemetry(void **state _unused_)
{
	static const struct {
		json_int_t events, dropped, bound;
		const char *conns, *verdict;
	} rows[] = {
		{9990, 10, 50, "pass", "pass"},
		{9989, 11, 50, "unknown", "inconclusive"},
		{9989, 11, 5000, "unknown",
			"inconclusive"}, /* a "no" is as little worth as a "yes" */
		{9990, 10, 5000, "fail", "fail"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()),
			parse("{\"rto_ns\": 5000000000, \"error_budget\": 0.1, \"predicates\": "
			      "[]}"));
		_cleanup_timeline_ struct timeline *tl = loss_timeline();
		_cleanup_json_ json_t *report = NULL;
		bool lossy = streq(rows[i].conns, "unknown");

		add_always_conns(tl, rows[i].bound);
		timeline_event(tl, 30 * S, EV_SOURCE,
			json_pack("{s:s, s:s, s:s, s:{s:I, s:I}}", "name", "conn2", "source_kind",
				"telemetry", "state", "stopped", "summary", "events",
				rows[i].events - 5000, "dropped", rows[i].dropped));
		report = judged(plan, tl);
		assert_string_equal(status_of(report, "always web:conns()"), rows[i].conns);
		assert_string_equal(verdict_of(report), rows[i].verdict);
		assert_string_equal(status_of(report, "objective: recovery time"), "pass");
		assert_int_equal(json_integer_value(json_object_get(
					 json_object_get(report, "telemetry"), "dropped")),
			rows[i].dropped);
		if (lossy)
			assert_null_member(json_object_get(report, "recovery"), "failover_ms");
		else
			assert_float_equal(
				number(json_object_get(report, "recovery"), "failover_ms"), 2140,
				0.01);
	}
}

/* A loss that is nothing over the whole run takes away what rests on the stretch where it happened, and leaves the rest */
static void test_telemetry_lost_in_one_stretch(void **state _unused_)
{
	static const struct {
		nsec_t at;
		const char *conns, *bad_phase;
	} rows[] = {
		{8 * S, "pass", "before the method"},
		{12 * S, "unknown", "method"},
		{16 * S + B, "unknown", "method"}, /* told a reading later than it happened */
		{25 * S, "pass", "method"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()), json_object());
		_cleanup_timeline_ struct timeline *tl = loss_timeline();
		_cleanup_json_ json_t *report = NULL;
		const json_t *phase, *phases;
		size_t k;

		add_always_conns(tl, 50);
		timeline_event(tl, rows[i].at, EV_SOURCE,
			parse("{\"name\": \"conn2\", \"source_kind\": \"telemetry\", \"state\": \"lost\", "
			      "\"summary\": {\"dropped\": 7}}"));
		timeline_event(tl, 30 * S, EV_SOURCE,
			parse("{\"name\": \"conn2\", \"source_kind\": \"telemetry\", \"state\": \"stopped\", "
			      "\"summary\": {\"events\": 900000, \"dropped\": 7}}"));
		report = judged(plan, tl);
		assert_string_equal(status_of(report, "always web:conns()"), rows[i].conns);
		assert_string_equal(verdict_of(report), streq(rows[i].conns, "pass") ? "pass" : "inconclusive");
		if (streq(rows[i].conns, "unknown"))
			assert_says(json_string_value(json_object_get(check_called(report, "always web:conns()"), "evidence")),
				"lost 7 of");
		phases = json_object_get(json_object_get(report, "telemetry"), "phases");
		assert_int_equal(json_array_size(phases), 3); /* and the undo */
		json_array_foreach (phases, k, phase) {
			bool here = streq(json_string_value(json_object_get(phase, "phase")), rows[i].bad_phase);

			assert_int_equal(json_integer_value(json_object_get(phase, "lost")), here ? 7 : 0);
		}
	}
}

/* Nobody is accepted from 10.003 to 11.2345; who tried is known from 10.004 to 11.234 */
static void test_the_outage(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()), parse("{\"rto_ns\": 5000000000}"));
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;
	const json_t *r, *o;

	timeline_event(tl, 1 * S, EV_RUN, parse("{\"id\": \"r1\", \"wall_ns\": 1700000000000000000}"));
	add_load(tl, 2 * S, 10 * S, 0);
	add_conns(tl, 2 * S, 10 * S, "rs1", 4, 10 * MS);
	timeline_event(tl, 5 * S, EV_CHECK,
		parse("{\"id\": 1, \"use\": \"steady-before\", \"from\": 5000000000, \"until\": 9000000000, \"status\": \"true\"}"));
	timeline_event(tl, 9 * S, EV_STAGE, parse("{\"stage\": \"method\"}"));
	/* trouble before the fault is none of it */
	timeline_add_conn(tl, &(struct tl_conn){.t = 9 * S, .service = "web", .server = "", .failed = 1, .first_bad = 9 * S + 1,
				      .last_bad = 9 * S + 1});
	add_fault(tl, 10 * S + 1 * MS, "applied");
	timeline_add_conn(tl, &(struct tl_conn){.t = 10 * S, .service = "web", .server = "rs1", .established = 1,
				      .first = 10 * S + 500000, .last = 10 * S + 3 * MS});
	timeline_add_conn(tl, &(struct tl_conn){.t = 10 * S, .service = "web", .server = "", .failed = 5, .first_bad = 10 * S + 4 * MS,
				      .last_bad = 10 * S + 90 * MS});
	/* one that gave up long after it was over had begun in the midst of it */
	timeline_add_conn(tl, &(struct tl_conn){.t = 13 * S, .service = "web", .server = "", .failed = 5, .first_bad = 10 * S + 5 * MS,
				      .last_bad = 11 * S + 234 * MS});
	timeline_add_conn(tl, &(struct tl_conn){.t = 11 * S + 2 * B, .service = "web", .server = "rs1", .established = 1,
				      .first = 11 * S + 234500000, .last = 11 * S + 290 * MS});
	add_conns(tl, 11 * S + 3 * B, 16 * S, "rs1", 4, 10 * MS);
	add_load(tl, 10 * S, 11 * S + 3 * B, 8);
	add_load(tl, 11 * S + 3 * B, 16 * S, 0);
	add_fault(tl, 15 * S, "lifted");
	timeline_event(tl, 16 * S, EV_STAGE, parse("{\"stage\": \"undo\"}"));
	timeline_event(tl, 16 * S, EV_RESIDUE, parse("{\"clean\": true, \"diff\": [], \"conflicts\": [], \"failed\": []}"));
	timeline_event(tl, 16 * S, EV_END, parse("{\"exit\": 0}"));
	report = judged(plan, tl);
	r = json_object_get(report, "recovery");
	o = json_object_get(r, "outage");
	assert_float_equal(number(r, "affected_ms"), 3, 0.001);
	assert_string_equal(json_string_value(json_object_get(o, "service")), "web");
	assert_int_equal(json_integer_value(json_object_get(o, "from_ns")), 10 * S + 4 * MS);
	assert_int_equal(json_integer_value(json_object_get(o, "to_ns")), 11 * S + 234500000);
	assert_float_equal(number(o, "length_ms"), 1230.5, 0.001);
	assert_float_equal(number(o, "resolution_ms"), 1 + 0.5, 0.001);
	/* the windows say 11.3, the connections 11.2345: within the same bucket, and finer */
	assert_float_equal(number(r, "recover_ms"), 1233.5, 0.001);
	assert_string_equal(verdict_of(report), "pass");
}

/* Connections come every 20 ms and one of them fails: between its neighbours lie 40 ms, which is no outage */
static void test_one_failure_is_no_outage(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()), json_object());
	_cleanup_timeline_ struct timeline *tl = loss_timeline();
	_cleanup_json_ json_t *report = NULL;
	const json_t *r;

	timeline_add_conn(tl, &(struct tl_conn){.t = 11 * S, .service = "web", .server = "", .failed = 1, .first_bad = 11 * S + 30 * MS,
				      .last_bad = 11 * S + 30 * MS});
	report = judged(plan, tl);
	r = json_object_get(report, "recovery");
	assert_float_equal(number(r, "affected_ms"), 1030, 0.01);
	assert_null_member(r, "outage");
}

static void test_traffic_before_during_and_after(void **state _unused_)
{
	static const struct {
		nsec_t since, t;
		int n;
	} rows[] = {{8 * S, 9 * S, 5}, {9 * S, 10 * S + 5 * B, 6}, {10 * S + 5 * B, 19 * S, 7}, {19 * S, 20 * S + 5 * B, 8},
		{20 * S + 5 * B, 21 * S, 9}};
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()), json_object());
	_cleanup_timeline_ struct timeline *tl = loss_timeline();
	_cleanup_json_ json_t *report = NULL;
	json_int_t before, during, after, refused;
	const json_t *all;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		timeline_event(tl, rows[i].t, EV_TRAFFIC,
			json_pack("{s:s, s:s, s:s, s:n, s:I, s:i, s:{s:i}}", "node", "rs1", "role", "passive", "service", "web", "peer",
				"since", (json_int_t)rows[i].since, "established", rows[i].n, "outcomes", "refused", i));
	timeline_event(tl, 9 * S, EV_TRAFFIC,
		json_pack("{s:s, s:s, s:s, s:s, s:I, s:i}", "node", "rs1", "role", "passive", "service", "web", "peer", "director", "since",
			(json_int_t)(8 * S), "established", 100));
	report = judged(plan, tl);
	all = json_object_get(report, "traffic");
	assert_int_equal(json_array_size(all), 2);
	assert_int_equal(json_unpack(json_array_get(all, json_is_null(json_object_get(json_array_get(all, 0), "peer")) ? 0 : 1),
				 "{s:{s:I}, s:{s:I, s:{s:I}}, s:{s:I}}", "before", "established", &before, "during", "established",
				 &during, "outcomes", "refused", &refused, "after", "established", &after),
		0);
	assert_int_equal(before, 5);
	assert_int_equal(during, 6 + 7 + 8);
	assert_int_equal(refused, 1 + 2 + 3);
	assert_int_equal(after, 9);
}

/* ── evidence ──────────────────────────────────────────────────────────────────────────── */

static void test_a_fault_that_did_not_bite_outweighs_a_missed_objective(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_pack("[o]", few_errors()),
		parse("{\"rto_ns\": 1000000000, \"error_budget\": 0.0001, \"predicates\": []}"));
	_cleanup_timeline_ struct timeline *tl = loss_timeline();
	_cleanup_json_ json_t *report = NULL;

	timeline_event(tl, 20 * S, EV_FAULT,
		parse("{\"id\": 2, \"change\": \"fault.node_loss\", \"node\": \"rs2\", \"state\": "
		      "\"lifted\", "
		      "\"proved\": false, \"text\": \"no packet was dropped\"}"));
	report = judged(plan, tl);
	assert_string_equal(status_of(report, "objective: recovery time"), "fail");
	assert_string_equal(verdict_of(report), "inconclusive");
	assert_int_equal(exit_of(report), 7);
	assert_says(
		reason_of(report), "fault.node_loss on rs2 did not bite: no packet was dropped");
}

static void test_a_check_found_otherwise_says_so(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_array(), NULL);
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;

	timeline_event(tl, 1 * S, EV_RUN, NULL);
	timeline_event(tl, 3 * S, EV_CHECK,
		json_pack("{s:i, s:s, s:[o], s:I, s:I, s:s}", "id", 1, "use", "eventually",
			"predicates", is("true"), "from", (json_int_t)(3 * S), "within_ns",
			(json_int_t)(2 * B), "status", "false"));
	timeline_event(tl, 9 * S, EV_END, NULL);
	report = judged(plan, tl);
	assert_string_equal(verdict_of(report), "pass");
	assert_says(
		json_string_value(json_object_get(check_called(report, "eventually"), "evidence")),
		"found false");
}

/* A check is announced, then answered: one check, by its last word. Asked but never answered, it is judged all the same. */
static void test_a_check_is_counted_once(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_array(), NULL);
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;

	timeline_event(tl, 1 * S, EV_RUN, NULL);
	for (int i = 0; i < 2; i++)
		timeline_event(tl, (3 + i) * S, EV_CHECK,
			json_pack("{s:i, s:s, s:[o], s:I, s:I}", "id", 1, "use", "always",
				"predicates", is("true"), "from", (json_int_t)(3 * S), "during_ns",
				(json_int_t)S));
	timeline_event(tl, 9 * S, EV_END, NULL);
	report = judged(plan, tl);
	assert_int_equal(json_array_size(json_object_get(report, "checks")), 1);
	assert_string_equal(verdict_of(report), "pass");
}

/* Time that was not recorded cannot be judged: the engine died before the ten seconds were over. */
static void test_a_check_whose_time_was_not_seen(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_array(), NULL);
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;

	timeline_event(tl, 1 * S, EV_RUN, NULL);
	timeline_event(tl, 3 * S, EV_CHECK,
		json_pack("{s:i, s:s, s:[o], s:I, s:I}", "id", 1, "use", "always", "predicates",
			is("true"), "from", (json_int_t)(3 * S), "during_ns",
			(json_int_t)(10 * S)));
	timeline_event(tl, 9 * S, EV_END, NULL);
	report = judged(plan, tl);
	assert_string_equal(status_of(report, "always"), "unknown");
	assert_string_equal(verdict_of(report), "inconclusive");
}

/* A source that would not run, or has something to say about its data, is heard in the report. */
static void test_sources(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_array(), NULL);
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;
	const json_t *s;

	timeline_event(tl, 1 * S, EV_RUN, NULL);
	timeline_event(tl, 2 * S, EV_SOURCE,
		parse("{\"name\": \"conn\", \"source_kind\": \"telemetry\", \"state\": "
		      "\"refused\", \"text\": \"no BTF\"}"));
	timeline_event(tl, 2 * S, EV_SOURCE,
		parse("{\"name\": \"client\", \"source_kind\": \"load\", \"state\": \"started\"}"));
	timeline_event(tl, 3 * S, EV_SOURCE,
		parse("{\"name\": \"client\", \"source_kind\": \"load\", \"state\": \"stopped\", "
		      "\"summary\": {\"notes\": [\"late\"]}}"));
	timeline_event(tl, 9 * S, EV_END, NULL);
	report = judged(plan, tl);
	assert_int_equal(json_array_size(json_object_get(report, "sources")), 2);
	s = json_array_get(json_object_get(report, "sources"), 0);
	assert_string_equal(json_string_value(json_object_get(s, "state")), "refused");
	assert_string_equal(json_string_value(json_object_get(s, "text")), "no BTF");
	s = json_array_get(json_object_get(report, "sources"), 1);
	assert_string_equal(json_string_value(json_object_get(s, "state")), "stopped");
	assert_string_equal(
		json_string_value(json_array_get(json_object_get(s, "notes"), 0)), "late");
	assert_null_member(json_object_get(report, "telemetry"), "events");
	assert_null_member(json_object_get(report, "telemetry"), "dropped");
}

/* What an optional setting's host could not give, and what drifted: told, and no reason for any verdict. */
static void test_a_baseline_that_is_not_whole(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_array(), NULL);
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;
	const json_t *c, *d;

	timeline_event(tl, S, EV_RUN, NULL);
	timeline_event(tl, 2 * S, EV_CHANGE,
		parse("{\"id\": 1, \"change\": \"set.irq\", \"node\": \"host\", \"state\": \"unsupported\", "
		      "\"text\": \"no queue\"}"));
	timeline_event(tl, 3 * S, EV_DRIFT,
		parse("{\"change\": \"set.sysctl\", \"node\": \"rs1\", \"key\": \"a.b\", \"before\": \"1\", \"want\": "
		      "\"2\", \"now\": \"3\", \"holds\": false}"));
	timeline_event(tl, 4 * S, EV_END, NULL);
	report = judged(plan, tl);
	/* as if neither had been: nothing was checked, and nothing was changed that would have to be put back */
	assert_string_equal(verdict_of(report), "inconclusive");
	assert_int_equal(exit_of(report), 7);
	c = json_array_get(json_object_get(report, "changes"), 0);
	assert_string_equal(json_string_value(json_object_get(c, "state")), "unsupported");
	assert_null_member(c, "applied_ns");
	d = json_array_get(json_object_get(report, "drift"), 0);
	assert_string_equal(json_string_value(json_object_get(d, "key")), "a.b");
	assert_string_equal(json_string_value(json_object_get(d, "now")), "3");
	assert_int_equal(json_integer_value(json_object_get(d, "at_ns")), 3 * S);
}

static void test_an_objective_looks_further_back_for_data(void **state _unused_)
{
	_cleanup_json_ json_t *plan =
		make_plan(json_array(), json_pack("{s:[o]}", "predicates", few_errors()));
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t *report = NULL;
	const json_t *c;

	timeline_event(tl, 1 * S, EV_RUN, NULL);
	timeline_event(tl, 2 * S, EV_STAGE, parse("{\"stage\": \"method\"}"));
	add_fault(tl, 3 * S, "applied");
	add_load(tl, 2 * S, 6 * S, 9); /* long before it was lifted: not looked at */
	add_fault(tl, 7 * S, "lifted");
	add_load(tl, 7 * S, 8 * S, 0);
	/* a bucket in which nothing was due marks how far the load came */
	timeline_add_load(tl, &(struct tl_load){.t = 10 * S - B, .load = "client"});
	timeline_event(tl, 10 * S, EV_STAGE, parse("{\"stage\": \"undo\"}"));
	timeline_event(tl, 10 * S, EV_RESIDUE, parse("{\"clean\": true}"));
	report = judged(plan, tl);
	c = check_called(report, "objective: client:error_ratio()");
	assert_string_equal(json_string_value(json_object_get(c, "status")), "pass");
	assert_float_equal(number(c, "measured"), 0, 1e-9);
	assert_says(json_string_value(json_object_get(c, "evidence")), "n = ");
}

static void test_a_plan_that_cannot_be_judged(void **state _unused_)
{
	static const char *const bad[] = {
		"{}",
		"{\"schema\": \"muster.plan/2\"}",
		"{\"schema\": \"muster.plan/1\"}",
		"{\"schema\": \"muster.plan/1\", \"scenario\": {}}",
	};
	_cleanup_timeline_ struct timeline *tl = new_timeline();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_json_ json_t *plan = parse(bad[i]);
		json_t *report = NULL;
		struct err err = {0};

		assert_int_equal(judge(plan, tl, &report, &err), -EINVAL);
		assert_null(report);
		assert_non_null(strstr(err.text, "plan"));
	}
}

/* Evidence that was cut in the middle of a character must not lose the check. */
static void test_text_that_is_not_utf8(void **state _unused_)
{
	_cleanup_json_ json_t *plan = make_plan(json_array(), NULL);
	_cleanup_timeline_ struct timeline *tl = new_timeline();
	_cleanup_json_ json_t
		*report = NULL,
		*event = parse("{\"id\": 1, \"use\": \"always\", \"from\": 1, \"during_ns\": 1}");
	char name[1200];

	for (size_t i = 0; i + 2 < sizeof(name); i += 2)
		memcpy(name + i, "\xc3\xa9", 3);
	json_object_set_new(event, "predicates",
		json_pack("[{s:s}]", "probe",
			name)); /* an unknown probe: its name goes into err.text */
	timeline_event(tl, 1 * S, EV_RUN, NULL);
	timeline_event(tl, 2 * S, EV_CHECK, json_incref(event));
	timeline_event(tl, 9 * S, EV_END, NULL);
	report = judged(plan, tl);
	assert_int_equal(json_array_size(json_object_get(report, "checks")), 1);
	assert_string_equal(verdict_of(report), "inconclusive");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_truth_table),
		cmocka_unit_test(test_recovery),
		cmocka_unit_test(test_a_missed_recovery_time),
		cmocka_unit_test(test_recovery_must_last),
		cmocka_unit_test(test_recovery_by_letting_go),
		cmocka_unit_test(test_harm_of_the_lifting),
		cmocka_unit_test(test_recovery_that_never_came),
		cmocka_unit_test(test_an_empty_timeline),
		cmocka_unit_test(test_a_record_that_breaks_off),
		cmocka_unit_test(test_nothing_checked_is_not_a_pass),
		cmocka_unit_test(test_a_load_that_ends_early),
		cmocka_unit_test(test_lost_telemetry),
		cmocka_unit_test(test_telemetry_lost_in_one_stretch),
		cmocka_unit_test(test_the_outage),
		cmocka_unit_test(test_one_failure_is_no_outage),
		cmocka_unit_test(test_traffic_before_during_and_after),
		cmocka_unit_test(test_a_fault_that_did_not_bite_outweighs_a_missed_objective),
		cmocka_unit_test(test_a_check_found_otherwise_says_so),
		cmocka_unit_test(test_a_check_is_counted_once),
		cmocka_unit_test(test_a_check_whose_time_was_not_seen),
		cmocka_unit_test(test_sources),
		cmocka_unit_test(test_a_baseline_that_is_not_whole),
		cmocka_unit_test(test_an_objective_looks_further_back_for_data),
		cmocka_unit_test(test_a_plan_that_cannot_be_judged),
		cmocka_unit_test(test_text_that_is_not_utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
