/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * probe_load.c: what a load's buckets say about a stretch of time. Looked at are the buckets that lie wholly inside [t0, t1),
 * so nothing from before an event is mixed with what came after it. No request due in there: no data.
 *
 * Ratios and rates are a census of what was sent, so they are exact: lo = value = hi.
 *
 * Quantiles are of all requests, not of the successful ones: a request that failed is not a fast one, it counts as infinitely slow.
 * So with more than 1 % of failures p99 is infinite, and above every bound. Of n requests the quantile q is the one of rank
 * ceil(q n). When fewer than one request is expected beyond it (n (1 - q) < 1) the sample does not reach that far: the
 * largest observation is shown as the value, nothing bounds it from above, and from below it is bounded by the order statistic that
 * exceeds the true quantile with a probability of at most 2.5 %: the largest rank l with P(Binomial(n, q) < l) <= 0.025 (the usual
 * distribution-free interval, e.g. H. A. David and H. N. Nagaraja, Order Statistics, 7.1).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/probe.h"
#include "engine/str.h"
#include "engine/units.h"

#define BOUND_ALPHA 0.025

/* The sum of the buckets of @args' load inside [t0, t1); true when there was a request. */
static bool collect(const struct timeline *tl, const json_t *args, nsec_t t0, nsec_t t1, struct tl_load *ret,
	struct hist *latency)
{
	const char *load = json_string_value(json_object_get(args, "load"));
	const struct tl_load *b;
	size_t n = timeline_loads(tl, &b);
	uint64_t total = 0;

	memset(ret, 0, sizeof(*ret));
	if (latency)
		hist_reset(latency);
	for (size_t i = timeline_seek(b, n, sizeof(*b), t0); i < n && b[i].t <= t1 - TIMELINE_BUCKET; i++) {
		if (!streq(b[i].load, load))
			continue;
		for (int k = 0; k < OUTCOME_COUNT; k++) {
			ret->count[k] += b[i].count[k];
			total += b[i].count[k];
		}
		if (latency)
			hist_add_sparse(latency, &b[i].latency);
	}
	return total > 0;
}

static uint64_t total_of(const struct tl_load *b)
{
	uint64_t n = 0;

	for (int k = 0; k < OUTCOME_COUNT; k++)
		n += b->count[k];
	return n;
}

static void describe(const struct tl_load *sum, struct sample *s)
{
	static const char *const words[OUTCOME_COUNT] = {[OUTCOME_REFUSED] = "refused", [OUTCOME_RESET] = "reset",
		[OUTCOME_TIMEOUT] = "timed out", [OUTCOME_STATUS] = "wrong status", [OUTCOME_OTHER] = "other"};
	uint64_t n = total_of(sum);
	const char *sep = ": ";
	size_t len;

	s->detail = json_object();
	for (int k = 0; k < OUTCOME_COUNT; k++)
		json_object_set_new(s->detail, outcome_names[k], json_integer((json_int_t)sum->count[k]));
	len = (size_t)snprintf(s->text, sizeof(s->text), "%llu of %llu requests failed",
		(unsigned long long)(n - sum->count[OUTCOME_OK]), (unsigned long long)n);
	for (int k = 0; k < OUTCOME_COUNT && len < sizeof(s->text); k++) {
		if (k == OUTCOME_OK || !sum->count[k])
			continue;
		len += (size_t)snprintf(s->text + len, sizeof(s->text) - len, "%s%llu %s", sep,
			(unsigned long long)sum->count[k], words[k]);
		sep = ", ";
	}
}

static void exactly(struct sample *s, double value, uint64_t n)
{
	s->have = true;
	s->value = s->lo = s->hi = value;
	s->n = n;
}

static int share(const struct timeline *tl, const json_t *args, nsec_t t0, nsec_t t1, int outcome, struct sample *ret)
{
	struct sample s = {0};
	struct tl_load sum;

	if (collect(tl, args, t0, t1, &sum, NULL)) {
		uint64_t n = total_of(&sum);
		/* of OK the complement: all that failed */
		uint64_t k = outcome == OUTCOME_OK ? n - sum.count[OUTCOME_OK] : sum.count[outcome];

		exactly(&s, (double)k / (double)n, n);
		describe(&sum, &s);
	} else {
		snprintf(s.text, sizeof(s.text), "no request was due");
	}
	*ret = s;
	return 0;
}

/* The largest l with P(Binomial(n, q) < l) <= alpha; 0: there is none. n is small here: n (1 - q) < 1. */
static uint64_t lower_rank(uint64_t n, double q, double alpha)
{
	double below = 0, p;
	uint64_t l = 0;

	/* P(X = 0) = (1-q)^n underflows harmlessly: what is lost is far below alpha; so in logarithms */
	for (; l < n; l++) {
		p = exp(lgamma((double)n + 1) - lgamma((double)l + 1) - lgamma((double)(n - l) + 1) +
			(double)l * log(q) + (double)(n - l) * log1p(-q));
		if (below + p > alpha)
			break;
		below += p;
	}
	return l;
}

/* The request of this rank, from 1; failures stand behind the successes. */
static double at_rank(const struct hist *h, uint64_t rank)
{
	uint64_t v;

	if (rank == 0)
		return 0;
	if (rank > h->n || hist_quantile(h, (double)rank / (double)h->n, &v) < 0)
		return INFINITY;
	return (double)v;
}

static int quantile(const struct timeline *tl, const json_t *args, nsec_t t0, nsec_t t1, double q, struct sample *ret)
{
	struct sample s = {0};
	struct hist h;
	struct tl_load sum;
	uint64_t n, rank;

	if (!collect(tl, args, t0, t1, &sum, &h)) {
		snprintf(s.text, sizeof(s.text), "no request was due");
		*ret = s;
		return 0;
	}
	n = total_of(&sum);
	/* nearest rank, as in hist_quantile() */
	rank = (uint64_t)ceil(q * (double)n * (1 - 1e-12));
	exactly(&s, at_rank(&h, MAX(rank, (uint64_t)1)), n);
	describe(&sum, &s);
	if ((double)n * (1 - q) < 1 - 1e-9) {
		double largest = at_rank(&h, n);
		char buf[UNITS_FMT_MAX];

		s.value = largest;
		s.lo = MIN(at_rank(&h, lower_rank(n, q, BOUND_ALPHA)), largest);
		s.hi = INFINITY;
		if (isfinite(largest))
			snprintf(s.text, sizeof(s.text), "only %llu requests, the slowest took %s", (unsigned long long)n,
				units_fmt_duration(buf, sizeof(buf), (nsec_t)largest));
	}
	*ret = s;
	return 0;
}

#define SHARE(name, outcome)                                                                                           \
	static int eval_##name(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0,      \
		nsec_t t1, struct sample *ret, struct err *err)                                                        \
	{                                                                                                              \
		(void)site;                                                                                            \
		(void)err;                                                                                             \
		return share(tl, args, t0, t1, outcome, ret);                                                          \
	}
SHARE(error_ratio, OUTCOME_OK)
SHARE(refused, OUTCOME_REFUSED)
SHARE(reset, OUTCOME_RESET)
SHARE(timed_out, OUTCOME_TIMEOUT)
SHARE(wrong_status, OUTCOME_STATUS)
SHARE(other, OUTCOME_OTHER)

#define QUANTILE(name, q)                                                                                              \
	static int eval_##name(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0,      \
		nsec_t t1, struct sample *ret, struct err *err)                                                        \
	{                                                                                                              \
		(void)site;                                                                                            \
		(void)err;                                                                                             \
		return quantile(tl, args, t0, t1, q, ret);                                                             \
	}
QUANTILE(p50, 0.5)
QUANTILE(p90, 0.9)
QUANTILE(p99, 0.99)
QUANTILE(p999, 0.999)

/* A rate of 0 is an answer when requests were due and all failed; when none was due there is none. */
static int eval_rate(const struct timeline *tl, const struct site *site, const json_t *args, nsec_t t0, nsec_t t1,
	struct sample *ret, struct err *err)
{
	/* the time that the buckets inside cover */
	nsec_t from = (t0 + TIMELINE_BUCKET - 1) / TIMELINE_BUCKET * TIMELINE_BUCKET;
	nsec_t to = t1 / TIMELINE_BUCKET * TIMELINE_BUCKET;
	struct sample s = {0};
	struct tl_load sum;

	(void)site;
	(void)err;
	if (collect(tl, args, t0, t1, &sum, NULL)) {
		exactly(&s, (double)sum.count[OUTCOME_OK] * (double)NSEC_PER_SEC / (double)(to - from), total_of(&sum));
		describe(&sum, &s);
	} else {
		snprintf(s.text, sizeof(s.text), "no request was due");
	}
	*ret = s;
	return 0;
}

const struct probe_ops probe_load[] = {
	{.subject = "load", .name = "error_ratio", .summary = "share of the requests that did not succeed",
		.unit = UNIT_RATIO, .window = NSEC_PER_SEC, .eval = eval_error_ratio},
	{.subject = "load", .name = "refused", .summary = "share of the requests whose connection was refused",
		.unit = UNIT_RATIO, .window = NSEC_PER_SEC, .eval = eval_refused},
	{.subject = "load", .name = "reset", .summary = "share of the requests whose connection was reset or closed too early",
		.unit = UNIT_RATIO, .window = NSEC_PER_SEC, .eval = eval_reset},
	{.subject = "load", .name = "timed_out", .summary = "share of the requests without a complete response in time",
		.unit = UNIT_RATIO, .window = NSEC_PER_SEC, .eval = eval_timed_out},
	{.subject = "load", .name = "wrong_status", .summary = "share of the requests answered with an unwanted status",
		.unit = UNIT_RATIO, .window = NSEC_PER_SEC, .eval = eval_wrong_status},
	{.subject = "load", .name = "other", .unit = UNIT_RATIO, .window = NSEC_PER_SEC,
		.summary = "share of the requests that failed otherwise: unreachable, malformed, no free connection",
		.eval = eval_other},
	{.subject = "load", .name = "p50", .summary = "half of the requests took no longer, from the time they were due",
		.unit = UNIT_TIME, .window = NSEC_PER_SEC, .eval = eval_p50},
	{.subject = "load", .name = "p90", .summary = "90 % of the requests took no longer, from the time they were due",
		.unit = UNIT_TIME, .window = NSEC_PER_SEC, .eval = eval_p90},
	{.subject = "load", .name = "p99", .unit = UNIT_TIME, .window = NSEC_PER_SEC,
		.summary = "99 % of the requests took no longer, from the time they were due; a failed one counts as endless",
		.eval = eval_p99},
	{.subject = "load", .name = "p999", .unit = UNIT_TIME, .window = 10 * NSEC_PER_SEC,
		.summary = "99.9 % of the requests took no longer, from the time they were due; a failed one counts as endless",
		.eval = eval_p999},
	{.subject = "load", .name = "rate", .summary = "requests that succeeded, per second", .unit = UNIT_RATE,
		.window = NSEC_PER_SEC, .eval = eval_rate},
	{.name = NULL},
};
