/* SPDX-License-Identifier: GPL-2.0-only */
#include "inject/netem.h"

#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <math.h>
#include <netlink/attr.h>
#include <string.h>

#include "inject/qdisc.h"

/* The packet scheduler's tick: 64 ns on every kernel since 2.6.31 (PSCHED_SHIFT 6) */
#define PSCHED_TICK_NS 64

uint32_t netem_probability(double ratio)
{
	return (uint32_t)llrint(ratio * (double)UINT32_MAX);
}

double netem_ratio(uint32_t probability)
{
	return (double)probability / (double)UINT32_MAX;
}

uint32_t netem_limit(nsec_t delay, nsec_t jitter)
{
	double packets = ceil((double)(delay + 3 * jitter) / (double)NSEC_PER_SEC * NETEM_ASSUMED_PPS);

	return packets < 1000 ? 1000 : packets > 1e6 ? 1000000 : (uint32_t)packets;
}

static uint32_t ticks(nsec_t ns)
{
	uint64_t t = (uint64_t)ns / PSCHED_TICK_NS;

	return t > UINT32_MAX ? UINT32_MAX : (uint32_t)t;
}

struct nl_msg *netem_msg(const struct netem_spec *s, int flags, int ifindex, uint32_t parent, uint32_t handle)
{
	const struct tc_netem_corr corr = {s->delay_corr, s->loss_corr, s->duplicate_corr};
	const struct tc_netem_reorder reorder = {s->reorder, s->reorder_corr};
	const struct tc_netem_corrupt corrupt = {s->corrupt, s->corrupt_corr};
	const struct tc_netem_rate rate = {.rate = s->rate > UINT32_MAX ? UINT32_MAX : (uint32_t)s->rate};
	/*
	 * The ticks in here are overruled by LATENCY64 and JITTER64 (Linux 4.15); they are filled in as far as they reach
	 * for what else reads the message. A gap of 1 makes reorder a probability, as tc does.
	 */
	const struct tc_netem_qopt qopt = {.latency = ticks(s->delay),
		.jitter = ticks(s->jitter),
		.limit = s->limit,
		.loss = s->loss,
		.gap = s->reorder ? 1 : 0,
		.duplicate = s->duplicate};
	struct nl_msg *m = tc_msg(RTM_NEWQDISC, flags, ifindex, parent, handle, 0, "netem");
	const int64_t latency = s->delay, jitter = s->jitter;
	struct nlattr *options;

	if (!m)
		return NULL;
	options = nla_reserve(m, TCA_OPTIONS, sizeof(qopt));
	if (!options)
		goto fail;
	memcpy(nla_data(options), &qopt, sizeof(qopt));
	if (nla_put(m, TCA_NETEM_LATENCY64, sizeof(latency), &latency) < 0 ||
		nla_put(m, TCA_NETEM_JITTER64, sizeof(jitter), &jitter) < 0 ||
		nla_put(m, TCA_NETEM_CORR, sizeof(corr), &corr) < 0 ||
		nla_put(m, TCA_NETEM_REORDER, sizeof(reorder), &reorder) < 0 ||
		nla_put(m, TCA_NETEM_CORRUPT, sizeof(corrupt), &corrupt) < 0 ||
		nla_put(m, TCA_NETEM_RATE, sizeof(rate), &rate) < 0)
		goto fail;
	if (s->rate > UINT32_MAX && nla_put(m, TCA_NETEM_RATE64, sizeof(s->rate), &s->rate) < 0)
		goto fail;
	/* the attributes count as part of the options, which libnl could not know when it wrote the length */
	options->nla_len = (uint16_t)((char *)nlmsg_tail(nlmsg_hdr(m)) - (char *)options);
	return m;
fail:
	nlmsg_free(m);
	return NULL;
}

int netem_parse(const void *options, size_t len, struct netem_spec *ret)
{
	struct nlattr *tb[TCA_NETEM_MAX + 1];
	struct tc_netem_qopt qopt;
	struct netem_spec s = {0};
	int64_t t;

	if (!options || len < sizeof(qopt))
		return -EPROTO;
	memcpy(&qopt, options, sizeof(qopt));
	if (nla_parse(tb, TCA_NETEM_MAX, (struct nlattr *)((const char *)options + sizeof(qopt)),
		    (int)(len - sizeof(qopt)), NULL) < 0)
		return -EPROTO;
	s.delay = (nsec_t)qopt.latency * PSCHED_TICK_NS;
	s.jitter = (nsec_t)qopt.jitter * PSCHED_TICK_NS;
	s.limit = qopt.limit;
	s.loss = qopt.loss;
	s.duplicate = qopt.duplicate;
	if (tb[TCA_NETEM_LATENCY64] && nla_len(tb[TCA_NETEM_LATENCY64]) >= 8) {
		nla_memcpy(&t, tb[TCA_NETEM_LATENCY64], sizeof(t));
		s.delay = t;
	}
	if (tb[TCA_NETEM_JITTER64] && nla_len(tb[TCA_NETEM_JITTER64]) >= 8) {
		nla_memcpy(&t, tb[TCA_NETEM_JITTER64], sizeof(t));
		s.jitter = t;
	}
	if (tb[TCA_NETEM_CORR]) {
		struct tc_netem_corr c = {0};

		nla_memcpy(&c, tb[TCA_NETEM_CORR], sizeof(c));
		s.delay_corr = c.delay_corr;
		s.loss_corr = c.loss_corr;
		s.duplicate_corr = c.dup_corr;
	}
	if (tb[TCA_NETEM_REORDER]) {
		struct tc_netem_reorder c = {0};

		nla_memcpy(&c, tb[TCA_NETEM_REORDER], sizeof(c));
		s.reorder = c.probability;
		s.reorder_corr = c.correlation;
	}
	if (tb[TCA_NETEM_CORRUPT]) {
		struct tc_netem_corrupt c = {0};

		nla_memcpy(&c, tb[TCA_NETEM_CORRUPT], sizeof(c));
		s.corrupt = c.probability;
		s.corrupt_corr = c.correlation;
	}
	if (tb[TCA_NETEM_RATE]) {
		struct tc_netem_rate c = {0};

		nla_memcpy(&c, tb[TCA_NETEM_RATE], sizeof(c));
		s.rate = c.rate;
		if (c.packet_overhead || c.cell_size || c.cell_overhead)
			return -EOPNOTSUPP;
	}
	if (tb[TCA_NETEM_RATE64] && nla_len(tb[TCA_NETEM_RATE64]) >= 8)
		s.rate = nla_get_u64(tb[TCA_NETEM_RATE64]);
	/* of the loss models a plain probability is dumped as none at all */
	if (tb[TCA_NETEM_LOSS] || tb[TCA_NETEM_SLOT] ||
		(tb[TCA_NETEM_ECN] && nla_len(tb[TCA_NETEM_ECN]) >= 4 && nla_get_u32(tb[TCA_NETEM_ECN])) ||
		qopt.gap != (s.reorder ? 1u : 0u))
		return -EOPNOTSUPP;
	*ret = s;
	return 0;
}

bool netem_equal(const struct netem_spec *a, const struct netem_spec *b)
{
	return a->delay == b->delay && a->jitter == b->jitter && a->delay_corr == b->delay_corr && a->loss == b->loss &&
	       a->loss_corr == b->loss_corr && a->duplicate == b->duplicate &&
	       a->duplicate_corr == b->duplicate_corr && a->reorder == b->reorder &&
	       a->reorder_corr == b->reorder_corr && a->corrupt == b->corrupt && a->corrupt_corr == b->corrupt_corr &&
	       a->rate == b->rate && a->limit == b->limit;
}

/* tc takes no nanoseconds; fractions of a microsecond it does */
static void add_us(struct strbuf *b, nsec_t ns)
{
	if (ns % 1000)
		strbuf_addf(b, " %lld.%03lldus", (long long)(ns / 1000), (long long)(ns % 1000));
	else
		strbuf_addf(b, " %lldus", (long long)(ns / 1000));
}

static void add_percent(struct strbuf *b, const char *word, uint32_t p, uint32_t corr)
{
	if (!p)
		return;
	strbuf_addf(b, " %s %.6g%%", word, netem_ratio(p) * 100);
	if (corr)
		strbuf_addf(b, " %.6g%%", netem_ratio(corr) * 100);
}

void netem_words(const struct netem_spec *s, struct strbuf *b)
{
	strbuf_addf(b, "limit %u", s->limit);
	if (s->delay) {
		strbuf_puts(b, " delay");
		add_us(b, s->delay);
		if (s->jitter) {
			add_us(b, s->jitter);
			if (s->delay_corr)
				strbuf_addf(b, " %.6g%%", netem_ratio(s->delay_corr) * 100);
		}
	}
	add_percent(b, "loss", s->loss, s->loss_corr);
	add_percent(b, "duplicate", s->duplicate, s->duplicate_corr);
	add_percent(b, "corrupt", s->corrupt, s->corrupt_corr);
	add_percent(b, "reorder", s->reorder, s->reorder_corr);
	if (s->rate)
		strbuf_addf(b, " rate %llubps", (unsigned long long)s->rate); /* tc's bps: bytes per second */
}
