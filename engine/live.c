/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * live.c: three parts. *Knowing*: the state that events and gauges leave behind (what runs, which faults are in force, the
 * last minute of errors). *Saying*: an event as one line of plain text, for pipes, and for the view's tail. *Drawing*: the panel.
 *
 * The panel is drawn in place, below whatever is on the terminal, with nothing but "cursor up", "erase line" and "erase
 * below". Scrolling region, alternate screen and cursor visibility stay as they are, so there is nothing to restore if this
 * process is killed in the middle: at worst one panel stays on the screen. Each frame is one write, and no line reaches the last
 * column, so the terminal never wraps one by itself. When the terminal has become narrower since the last frame, it has
 * wrapped the old lines, and they are counted as the rows they now take.
 *
 * What comes in events was written by others (a scenario, a kernel message): control characters and broken UTF-8 never
 * reach the terminal.
 *
 * Times. An event's `t` is the clock of the kernel that ran the drill, in a microVM not ours. The smallest difference seen between
 * its arrival here and its `t` ties the two; ages and the elapsed time are counted with it.
 */
#include "engine/live.h"

#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "engine/change.h"
#include "engine/clock.h"
#include "engine/events.h"
#include "engine/str.h"
#include "engine/units.h"

#define FAULTS_MAX   8
#define SERVICES_MAX 4
#define TAIL_MAX     8	/* last events in the panel */
#define SPARK_MAX    60 /* seconds */
#define ROWS_MAX     40
#define TEXT_MAX     400 /* bytes of an event's line */
#define LABEL	     9	 /* columns of the panel's first column */
#define FRAME_EVERY  (60 * NSEC_PER_MSEC)
#define GAUGE_EVERY  (5 * NSEC_PER_SEC) /* a pipe is told so often that the drill lives */
#define WRITE_WAIT   500		/* ms that a stopped terminal may hold us up, once */

enum style { PLAIN, BOLD, DIM, RED, GREEN, YELLOW, CYAN };

static const char *const sgr[] = {[PLAIN] = "", [BOLD] = "\x1b[1m", [DIM] = "\x1b[2m", [RED] = "\x1b[31m",
	[GREEN] = "\x1b[32m", [YELLOW] = "\x1b[33m", [CYAN] = "\x1b[36m"};

/* How much a line matters. LIVE_QUIET shows TROUBLE only; in the view TROUBLE stays on the screen. */
enum weight { ROUTINE, GOOD, BAD, TROUBLE };

struct fault {
	json_int_t id;
	nsec_t since;
	char *text;
};

struct said {
	nsec_t t;
	enum weight weight;
	char text[TEXT_MAX];
};

struct second {
	int64_t number; /* since the start; -1: nothing */
	double rate, error_ratio;
};

struct live {
	int fd;
	enum live_mode mode;
	bool color, unicode;
	bool dead; /* the other end is gone, or does not take anything any more */

	nsec_t opened;
	bool have_base, have_skew;
	nsec_t base; /* `t` of the first event */
	nsec_t skew; /* what to subtract from our clock */

	/* knowing */
	char *scenario, *phase;
	char stage[160];
	bool ended;
	char note[TEXT_MAX];
	size_t n_faults;
	struct fault faults[FAULTS_MAX];
	json_t *gauge; /* the last */
	nsec_t gauge_said, last_said;
	struct second seconds[SPARK_MAX];

	/* drawing */
	struct said tail[TAIL_MAX];
	size_t n_tail;
	nsec_t drawn;
	bool stale;
	size_t n_rows;
	unsigned int rows[ROWS_MAX]; /* columns of each line on the screen */
};

/* ── text that is safe to print ────────────────────────────────────────────────────────── */

/* The next code point; broken or dangerous ones come out as '?'. */
static uint32_t next_char(const char **s)
{
	const unsigned char *p = (const unsigned char *)*s;
	unsigned int more = p[0] < 0x80 ? 0 : p[0] >= 0xc2 && p[0] < 0xe0 ? 1 : p[0] >= 0xe0 && p[0] < 0xf0 ? 2 :
			    p[0] >= 0xf0 && p[0] < 0xf5			    ? 3 :
									      9;
	static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
	uint32_t c = more == 0 ? p[0] : more == 1 ? p[0] & 0x1fu : more == 2 ? p[0] & 0x0fu : p[0] & 0x07u;

	*s += 1;
	if (more == 9)
		return '?';
	for (unsigned int i = 1; i <= more; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return '?';
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return '?';
	*s += more;
	if (c < 0x20 || c == 0x7f)
		return c == '\t' || c == '\n' ? ' ' : '?';
	/* C1 controls, and what changes the direction of writing or hides itself */
	if (c < 0xa0 || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x2069) ||
		c == 0xfeff)
		return c < 0x80 ? c : '?';
	return c;
}

static void add_char(struct strbuf *b, uint32_t c)
{
	char u[4];
	size_t n = 0;

	if (c < 0x80) {
		u[n++] = (char)c;
	} else if (c < 0x800) {
		u[n++] = (char)(0xc0 | c >> 6);
	} else if (c < 0x10000) {
		u[n++] = (char)(0xe0 | c >> 12);
		u[n++] = (char)(0x80 | (c >> 6 & 0x3f));
	} else {
		u[n++] = (char)(0xf0 | c >> 18);
		u[n++] = (char)(0x80 | (c >> 12 & 0x3f));
		u[n++] = (char)(0x80 | (c >> 6 & 0x3f));
	}
	if (c >= 0x80)
		u[n++] = (char)(0x80 | (c & 0x3f));
	strbuf_add(b, u, n);
}

/* Columns on a terminal: the usual wide ranges count two, combining marks none. */
static unsigned int columns_of(uint32_t c)
{
	if (c >= 0x300 && c < 0x370)
		return 0;
	if ((c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) || (c >= 0xac00 && c <= 0xd7a3) ||
		(c >= 0xf900 && c <= 0xfaff) || (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
		(c >= 0xffe0 && c <= 0xffe6) || (c >= 0x1f300 && c <= 0x1faff) || (c >= 0x20000 && c <= 0x3fffd))
		return 2;
	return 1;
}

static unsigned int width_of(const char *s)
{
	unsigned int n = 0;

	while (*s)
		n += columns_of(next_char(&s));
	return n;
}

/* ── writing ───────────────────────────────────────────────────────────────────────────── */

static void out(struct live *l, const char *s, size_t len)
{
	while (len && !l->dead) {
		ssize_t n = write(l->fd, s, len);

		if (n > 0) {
			s += n;
			len -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			/* a terminal that somebody made non-blocking: it gets a moment, and is given up when it has had it */
			struct pollfd p = {.fd = l->fd, .events = POLLOUT};

			l->dead = poll(&p, 1, WRITE_WAIT) <= 0;
		} else if (n < 0 && errno != EINTR) {
			l->dead = true;
		}
	}
}

/* ── knowing ───────────────────────────────────────────────────────────────────────────── */

static const char *str(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

static nsec_t time_of(const json_t *j, const char *key, nsec_t absent)
{
	const json_t *v = json_object_get(j, key);

	return json_is_integer(v) ? json_integer_value(v) : absent;
}

/* The drill's clock now */
static nsec_t drill_now(const struct live *l)
{
	return now_ns() - (l->have_skew ? l->skew : 0);
}

static nsec_t elapsed(const struct live *l)
{
	return l->have_base ? drill_now(l) - l->base : now_ns() - l->opened;
}

static const char *age(char buf[32], nsec_t ns)
{
	double s = (double)MAX(ns, (nsec_t)0) / 1e9;

	if (s < 10)
		snprintf(buf, 32, "%.1fs", s);
	else if (s < 60)
		snprintf(buf, 32, "%.0fs", s);
	else
		snprintf(buf, 32, "%dm%02ds", (int)(s / 60), (int)s % 60);
	return buf;
}

/* What a change was asked for, as the scenario would say it: "how silent, loss 30%". Defaults are left out, but for choices. */
static void add_args(struct strbuf *b, const char *change, const json_t *args)
{
	const struct change_ops *ops = change_find(change);
	const char *sep = " (";

	for (const struct param *p = ops ? ops->params : NULL; p && p->name; p++) {
		const json_t *v = json_object_get(args, p->name);
		_cleanup_free_ char *text = NULL;

		if (!v || streq(p->name, "node"))
			continue;
		text = param_format(p, v);
		if (!text || (streq(text, p->deflt) && !p->values))
			continue;
		strbuf_addf(b, "%s%s %.60s", sep, p->name, text);
		sep = ", ";
	}
	if (*sep == ',')
		strbuf_puts(b, ")");
}

static const char *stage_words(const char *stage)
{
	static const char *const words[][2] = {
		{"lab", "building the lab"},
		{"baseline", "establishing the baseline"},
		{"telemetry", "starting the telemetry"},
		{"load", "starting the load"},
		{"steady", "attaining the steady state"},
		{"method", "method"},
		{"recovery", "waiting for the steady state to return"},
		{"undo", "putting everything back"},
		{"end", "end"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (streq(stage, words[i][0]))
			return words[i][1];
	return stage;
}

static struct fault *fault_by_id(struct live *l, json_int_t id)
{
	for (size_t i = 0; i < l->n_faults; i++)
		if (l->faults[i].id == id)
			return &l->faults[i];
	return NULL;
}

static void fault_forget(struct live *l, struct fault *f)
{
	free(f->text);
	*f = l->faults[--l->n_faults];
}

static void know_fault(struct live *l, const json_t *e)
{
	json_int_t id = json_integer_value(json_object_get(e, "id"));
	struct fault *f = fault_by_id(l, id);
	_cleanup_strbuf_ struct strbuf b = {0};

	if (!streq(str(e, "state"), "applied")) {
		if (f)
			fault_forget(l, f);
		return;
	}
	if (f || l->n_faults == FAULTS_MAX)
		return;
	strbuf_addf(&b, "%s on %s", str(e, "change"), str(e, "node"));
	add_args(&b, str(e, "change"), json_object_get(e, "args"));
	if (b.oom)
		return;
	l->faults[l->n_faults++] = (struct fault){.id = id, .since = time_of(e, "t", drill_now(l)), .text = TAKE_PTR(b.s)};
}

static void know_gauge(struct live *l, const json_t *e)
{
	const json_t *rate = json_object_get(e, "rate"), *errors = json_object_get(e, "error_ratio");
	int64_t number = (time_of(e, "t", drill_now(l)) - l->base) / NSEC_PER_SEC;
	struct second *s;

	json_decref(l->gauge);
	l->gauge = json_incref((json_t *)e);
	if (number < 0 || (!json_is_number(rate) && !json_is_number(errors)))
		return;
	s = &l->seconds[number % SPARK_MAX];
	if (s->number != number)
		*s = (struct second){.number = number};
	s->rate = MAX(s->rate, json_number_value(rate));
	s->error_ratio = MAX(s->error_ratio, json_number_value(errors));
}

static void replace(char **to, const char *text)
{
	free(*to);
	*to = strdup(text);
}

static void know(struct live *l, const json_t *e)
{
	const char *kind = str(e, "kind");
	nsec_t t = time_of(e, "t", -1);

	if (t >= 0) {
		nsec_t skew = now_ns() - t;

		l->skew = l->have_skew ? MIN(l->skew, skew) : skew;
		l->have_skew = true;
		if (!l->have_base || streq(kind, EV_RUN))
			l->base = t;
		l->have_base = true;
	}
	if (streq(kind, EV_RUN)) {
		replace(&l->scenario, str(e, "scenario"));
		l->note[0] = '\0';
	} else if (streq(kind, EV_STAGE)) {
		const char *text = str(e, "text");

		snprintf(l->stage, sizeof(l->stage), "%s%s%.100s", stage_words(str(e, "stage")), *text ? ": " : "", text);
		if (!streq(str(e, "stage"), "method"))
			replace(&l->phase, "");
	} else if (streq(kind, EV_PHASE)) {
		replace(&l->phase, str(e, "phase"));
	} else if (streq(kind, EV_FAULT)) {
		know_fault(l, e);
	} else if (streq(kind, EV_GAUGE)) {
		know_gauge(l, e);
	} else if (streq(kind, EV_END)) {
		l->ended = true;
	}
}

/* ── saying ────────────────────────────────────────────────────────────────────────────── */

static enum weight say_change(struct live *l, const json_t *e, struct strbuf *b)
{
	const char *state = str(e, "state"), *text = str(e, "text"), *change = str(e, "change");
	bool fault = streq(str(e, "kind"), EV_FAULT);
	const struct fault *f = fault_by_id(l, json_integer_value(json_object_get(e, "id")));
	char buf[32];

	strbuf_addf(b, "%s on %s", change, str(e, "node"));
	if (streq(state, "applied")) {
		strbuf_puts(b, fault ? ": in force" : ": applied");
		add_args(b, change, json_object_get(e, "args"));
		return ROUTINE;
	}
	if (streq(state, "lifted")) {
		const json_t *proved = json_object_get(e, "proved");

		strbuf_puts(b, ": lifted");
		if (f)
			strbuf_addf(b, " after %s", age(buf, time_of(e, "t", f->since) - f->since));
		strbuf_puts(b, json_is_true(proved)  ? "; it took effect" :
			       json_is_false(proved) ? "; IT TOOK NO EFFECT" :
						       "; its effect is not known");
		if (*text)
			strbuf_addf(b, ": %s", text);
		return json_is_true(proved) ? ROUTINE : BAD;
	}
	if (streq(state, "conflict"))
		strbuf_puts(b, ": NOT UNDONE, somebody else changed it");
	else if (streq(state, "unsupported"))
		strbuf_puts(b, ": not on this host, the drill goes on without");
	else
		strbuf_addf(b, ": %s", state);
	if (*text)
		strbuf_addf(b, ": %s", text);
	return streq(state, "undone") || streq(state, "unsupported") ? ROUTINE : TROUBLE;
}

static enum weight say_check(const json_t *e, struct strbuf *b)
{
	/* true, false, unknown */
	static const char *const words[][4] = {
		{"eventually", "reached", "not reached", "could not be judged"},
		{"always", "held", "did not hold", "could not be judged"},
		{"objective", "objective met", "OBJECTIVE MISSED", "objective could not be judged"},
		{"steady-before", "steady state attained", "STEADY STATE NOT ATTAINED", "steady state could not be judged"},
		{"steady-after", "steady state is back", "STEADY STATE DID NOT RETURN",
			"the return of the steady state could not be judged"},
	};
	const char *use = str(e, "use"), *status = str(e, "status"), *name = str(e, "name"), *text = str(e, "text"), *sep = ": ";
	int column = streq(status, "true") ? 1 : streq(status, "false") ? 2 : 3;
	nsec_t from = time_of(e, "from", -1), at = time_of(e, "at", -1), within = time_of(e, "within_ns", -1),
	       during = time_of(e, "during_ns", -1);
	bool steady = strncmp(use, "steady", 6) == 0;
	const json_t *p;
	char buf[32];
	size_t i, k = 0;

	while (k < ARRAY_SIZE(words) && !streq(use, words[k][0]))
		k++;
	strbuf_puts(b, k < ARRAY_SIZE(words) ? words[k][column] : status);
	if (column == 1 && during >= 0)
		strbuf_addf(b, " for %s", age(buf, during));
	else if (column == 1 && at >= 0 && from >= 0)
		strbuf_addf(b, " after %s", age(buf, at - from));
	else if (column == 2 && during >= 0 && at >= 0 && from >= 0)
		strbuf_addf(b, ", broke after %s", age(buf, at - from));
	else if (column == 2 && within >= 0)
		strbuf_addf(b, " within %s", age(buf, within));
	if (steady) {
		json_array_foreach(json_object_get(e, "predicates"), i, p) {
			const char *t = json_is_string(p) ? json_string_value(p) : str(p, "text");

			strbuf_addf(b, "%s%s", sep, t);
			sep = ", ";
		}
	} else {
		strbuf_addf(b, ": %s", name);
	}
	if (*text)
		strbuf_addf(b, " (%s)", text);
	return column == 1 ? GOOD : BAD;
}

static void add_list(struct strbuf *b, const char *what, const json_t *list)
{
	const char *first = json_string_value(json_array_get(list, 0));
	size_t n = json_array_size(list);

	if (n)
		strbuf_addf(b, "; %zu %s%s%.120s%s", n, what, first ? ", first: " : "", first ? first : "", n > 1 ? " ..." : "");
}

static enum weight say_residue(const json_t *e, struct strbuf *b)
{
	if (json_is_true(json_object_get(e, "clean"))) {
		strbuf_puts(b, "the host is as it was before");
		return GOOD;
	}
	strbuf_puts(b, "THE HOST IS NOT PROVED RESTORED");
	add_list(b, "differences", json_object_get(e, "diff"));
	add_list(b, "conflicts", json_object_get(e, "conflicts"));
	add_list(b, "not undone", json_object_get(e, "failed"));
	return TROUBLE;
}

static enum weight say_source(const json_t *e, struct strbuf *b)
{
	const char *state = str(e, "state"), *text = str(e, "text"), *kind = str(e, "source_kind");
	const json_t *notes = json_object_get(json_object_get(e, "summary"), "notes"), *dropped;

	strbuf_addf(b, "%s %s: %s", kind, str(e, "name"), state);
	if (*text)
		strbuf_addf(b, ": %s", text);
	if (streq(state, "lost") && !*text) {
		dropped = json_object_get(json_object_get(e, "summary"), "dropped");
		if (json_is_integer(dropped))
			strbuf_addf(b, ": %" JSON_INTEGER_FORMAT " records did not arrive", json_integer_value(dropped));
	}
	if (json_string_value(json_array_get(notes, 0)))
		strbuf_addf(b, "; %s", json_string_value(json_array_get(notes, 0)));
	return streq(state, "started") || streq(state, "stopped") ? ROUTINE : BAD;
}

static void add_hint(const json_t *e, struct strbuf *b)
{
	if (*str(e, "hint"))
		strbuf_addf(b, "; %s", str(e, "hint"));
}

/* Returns false when the event is nothing to be said. */
static bool say(struct live *l, const json_t *e, struct strbuf *b, enum weight *ret)
{
	const char *kind = str(e, "kind");

	*ret = ROUTINE;
	if (streq(kind, EV_RUN)) {
		strbuf_addf(b, "drill %s, run %s, lab %s, kernel %s", str(e, "scenario"), str(e, "id"), str(e, "lab"),
			str(e, "kernel"));
	} else if (streq(kind, EV_STAGE)) {
		if (streq(str(e, "stage"), "end"))
			return false;
		strbuf_puts(b, stage_words(str(e, "stage")));
		if (*str(e, "text"))
			strbuf_addf(b, ": %s", str(e, "text"));
	} else if (streq(kind, EV_PHASE)) {
		strbuf_addf(b, "phase: %s", str(e, "phase"));
	} else if (streq(kind, EV_CHANGE) || streq(kind, EV_FAULT)) {
		*ret = say_change(l, e, b);
	} else if (streq(kind, EV_DRIFT)) {
		bool holds = json_is_true(json_object_get(e, "holds"));

		strbuf_addf(b, "%s on %s: %s %s: %s", str(e, "change"), str(e, "node"), str(e, "key"),
			holds ? "holds again" : "has DRIFTED", str(e, "now"));
		if (!holds)
			strbuf_addf(b, ", wanted %s", str(e, "want"));
		*ret = holds ? GOOD : TROUBLE;
	} else if (streq(kind, EV_CHECK)) {
		*ret = say_check(e, b);
	} else if (streq(kind, EV_STOP)) {
		strbuf_addf(b, "STOP CONDITION: %s", str(e, "predicate"));
		if (*str(e, "text"))
			strbuf_addf(b, " (%s)", str(e, "text"));
		*ret = TROUBLE;
	} else if (streq(kind, EV_HALT)) {
		strbuf_addf(b, "HALTED (%s): %s", str(e, "by"), str(e, "reason"));
		*ret = TROUBLE;
	} else if (streq(kind, EV_ERROR)) {
		strbuf_addf(b, "error: %s%s%s", str(e, "where"), *str(e, "where") ? ": " : "", str(e, "text"));
		add_hint(e, b);
		*ret = TROUBLE;
	} else if (streq(kind, EV_REFUSED)) {
		strbuf_addf(b, "refused: %s", str(e, "text"));
		add_hint(e, b);
		*ret = TROUBLE;
	} else if (streq(kind, EV_LOG)) {
		strbuf_puts(b, str(e, "text"));
	} else if (streq(kind, EV_SOURCE)) {
		*ret = say_source(e, b);
	} else if (streq(kind, EV_ROLE)) {
		if (json_is_true(json_object_get(e, "initial")))
			return false;
		strbuf_addf(b, "%s: %s %s %s %s", str(e, "service"), str(e, "role"), str(e, "node"),
			streq(str(e, "state"), "taken") ? "has taken" : "has released", str(e, "what"));
	} else if (streq(kind, EV_RESIDUE)) {
		*ret = say_residue(e, b);
	} else if (streq(kind, EV_GUARD)) {
		strbuf_addf(b, "guard: %s: %s; %" JSON_INTEGER_FORMAT " changes undone", str(e, "what"), str(e, "text"),
			json_integer_value(json_object_get(e, "undone")));
		*ret = TROUBLE;
	} else {
		return false; /* gauge, end, and what a newer muster may add */
	}
	return true;
}

static void add_gauge(const struct live *l, struct strbuf *b)
{
	const json_t *rate = json_object_get(l->gauge, "rate"), *errors = json_object_get(l->gauge, "error_ratio"),
		     *p99 = json_object_get(l->gauge, "p99_ns"), *progress = json_object_get(l->gauge, "progress");
	char buf[UNITS_FMT_MAX];

	if (json_is_number(rate))
		strbuf_addf(b, "%.0f/s succeed", json_number_value(rate));
	if (json_is_number(errors))
		strbuf_addf(b, ", errors %s", units_fmt_ratio(buf, sizeof(buf), json_number_value(errors)));
	/* with failures beyond it, it has no value */
	if (json_is_number(p99))
		strbuf_addf(b, ", p99 %s", units_fmt_duration(buf, sizeof(buf), (nsec_t)json_number_value(p99)));
	else if (json_is_number(errors))
		strbuf_puts(b, ", no p99");
	if (*str(l->gauge, "text"))
		strbuf_addf(b, "%s%s", b->len ? ", " : "", str(l->gauge, "text"));
	if (json_is_number(progress))
		strbuf_addf(b, "%s%.0f%% done", b->len ? ", " : "", 100 * json_number_value(progress));
}

static void add_weights(struct strbuf *b, const json_t *servers)
{
	const char *name, *sep = "";
	const json_t *w;

	json_object_foreach((json_t *)servers, name, w) {
		if (json_integer_value(w) < 0)
			strbuf_addf(b, "%s%s out", sep, name);
		else
			strbuf_addf(b, "%s%s %" JSON_INTEGER_FORMAT, sep, name, json_integer_value(w));
		sep = "  ";
	}
}

static void add_safe(struct strbuf *b, const char *s)
{
	while (*s)
		add_char(b, next_char(&s));
}

static enum style style_of(enum weight w)
{
	return w == GOOD ? GREEN : w == BAD ? YELLOW : w == TROUBLE ? RED : PLAIN;
}

/* One line of plain output: "+12.345s  text". @t < 0: it has no time. */
static void add_line(const struct live *l, struct strbuf *b, nsec_t t, enum weight weight, const char *text)
{
	char when[32] = "";
	bool color = l->color && style_of(weight) != PLAIN;

	if (t >= 0 && l->have_base)
		snprintf(when, sizeof(when), "%+.3fs", (double)(t - l->base) / 1e9);
	strbuf_addf(b, "%-10s %s", when, color ? sgr[style_of(weight)] : "");
	add_safe(b, text);
	strbuf_puts(b, color ? "\x1b[m\n" : "\n");
}

/* ── drawing ───────────────────────────────────────────────────────────────────────────── */

struct panel {
	const struct live *l;
	struct strbuf text;
	unsigned int columns, at; /* of the terminal; of the line that is being made */
	size_t max_rows, n_rows;
	unsigned int rows[ROWS_MAX];
};

/* Adds text to the line, and cuts it before the last column. */
static void put(struct panel *p, enum style style, const char *s)
{
	unsigned int room = p->columns - 1 - MIN(p->at, p->columns - 1), need = width_of(s);
	bool cut = need > room;
	bool color = p->l->color && style != PLAIN;

	if (!room)
		return;
	if (color)
		strbuf_puts(&p->text, sgr[style]);
	if (cut)
		room--;
	while (*s) {
		uint32_t c = next_char(&s);

		if (columns_of(c) > room)
			break;
		room -= columns_of(c);
		p->at += columns_of(c);
		add_char(&p->text, c);
	}
	if (cut) {
		strbuf_puts(&p->text, p->l->unicode ? "\xe2\x80\xa6" : "~");
		/* a wide character may have left a column empty; nothing is put behind a cut */
		p->at = p->columns - 1;
	}
	if (color)
		strbuf_puts(&p->text, "\x1b[m");
}

static void pad(struct panel *p, unsigned int column)
{
	while (p->at < column && p->at < p->columns - 1) {
		strbuf_puts(&p->text, " ");
		p->at++;
	}
}

static bool line_begin(struct panel *p)
{
	p->at = 0;
	return p->n_rows < p->max_rows;
}

static void line_end(struct panel *p)
{
	strbuf_puts(&p->text, "\x1b[K\n");
	p->rows[p->n_rows++] = p->at;
}

/* What is to stand at the right end, if there is room left for it. */
static void put_right(struct panel *p, enum style style, const char *s)
{
	unsigned int need = width_of(s);

	if (p->at + 1 + need > p->columns - 1)
		return;
	pad(p, p->columns - 1 - need);
	put(p, style, s);
}

static void label(struct panel *p, enum style style, const char *s)
{
	put(p, style, s);
	pad(p, p->at < LABEL ? LABEL : p->at + 1);
}

static void draw_head(struct panel *p)
{
	static const char *const dots[] = {"\xe2\xa0\x8b", "\xe2\xa0\x99", "\xe2\xa0\xb9", "\xe2\xa0\xb8", "\xe2\xa0\xbc",
		"\xe2\xa0\xb4", "\xe2\xa0\xa6", "\xe2\xa0\xa7", "\xe2\xa0\x87", "\xe2\xa0\x8f"};
	static const char *const plain[] = {"|", "/", "-", "\\"};
	const struct live *l = p->l;
	size_t frame = (size_t)(now_ns() / (100 * NSEC_PER_MSEC));
	char when[32];
	nsec_t ns = MAX(elapsed(l), (nsec_t)0);

	if (!line_begin(p))
		return;
	put(p, CYAN, l->ended ? " " : l->unicode ? dots[frame % ARRAY_SIZE(dots)] : plain[frame % ARRAY_SIZE(plain)]);
	put(p, PLAIN, " ");
	put(p, BOLD, l->scenario ? l->scenario : "muster");
	if (l->stage[0]) {
		put(p, PLAIN, "  ");
		put(p, PLAIN, l->stage);
	}
	if (l->phase && *l->phase) {
		put(p, PLAIN, ": ");
		put(p, PLAIN, l->phase);
	}
	snprintf(when, sizeof(when), "%02d:%04.1f", (int)(ns / (60 * NSEC_PER_SEC)), (double)(ns % (60 * NSEC_PER_SEC)) / 1e9);
	put_right(p, DIM, when);
	line_end(p);
	if (l->note[0] && line_begin(p)) {
		put(p, PLAIN, "  ");
		put(p, DIM, l->note);
		line_end(p);
	}
}

static void draw_faults(struct panel *p)
{
	const struct live *l = p->l;

	for (size_t i = 0; i < l->n_faults && line_begin(p); i++) {
		char buf[32], in_force[48];
		unsigned int need;

		snprintf(in_force, sizeof(in_force), "in force %s", age(buf, drill_now(l) - l->faults[i].since));
		need = width_of(in_force);
		label(p, RED, "fault");
		/* its age is the news: the text gives way */
		if (p->at + 20 + need < p->columns) {
			unsigned int columns = p->columns;

			p->columns -= need + 2;
			put(p, PLAIN, l->faults[i].text);
			p->columns = columns;
			pad(p, p->at + 1);
		}
		put_right(p, RED, in_force);
		line_end(p);
	}
}

static void draw_spark(struct panel *p)
{
	static const char *const blocks[] = {"\xe2\x96\x81", "\xe2\x96\x82", "\xe2\x96\x83", "\xe2\x96\x84", "\xe2\x96\x85",
		"\xe2\x96\x86", "\xe2\x96\x87", "\xe2\x96\x88"};
	static const char *const plain[] = {"_", ".", ":", "-", "=", "+", "*", "#"};
	const struct live *l = p->l;
	int64_t last = elapsed(l) / NSEC_PER_SEC;
	_cleanup_strbuf_ struct strbuf run = {0}; /* of one style */
	enum style run_style = PLAIN;
	double max_rate = 0, max_errors = 0;
	char tail[64], buf[UNITS_FMT_MAX];
	int n;

	for (size_t i = 0; i < SPARK_MAX; i++) {
		if (l->seconds[i].number < 0 || l->seconds[i].number <= last - SPARK_MAX)
			continue;
		max_rate = MAX(max_rate, l->seconds[i].rate);
		max_errors = MAX(max_errors, l->seconds[i].error_ratio);
	}
	if (max_rate <= 0 && max_errors <= 0)
		return;
	if (max_errors > 0)
		snprintf(tail, sizeof(tail), " up to %s", units_fmt_ratio(buf, sizeof(buf), max_errors));
	else
		snprintf(tail, sizeof(tail), " up to %.0f/s", max_rate);
	n = (int)p->columns - 1 - LABEL - (int)width_of(tail);
	n = MIN(n, SPARK_MAX);
	if (n < 8 || !line_begin(p))
		return;
	label(p, PLAIN, max_errors > 0 ? "errors" : "rate");
	for (int64_t i = MAX(last - n + 1, (int64_t)0); i <= last; i++) {
		const struct second *at = &l->seconds[i % SPARK_MAX];
		double v = max_errors > 0 ? at->error_ratio / max_errors : at->rate / max_rate;
		/* the lowest block is 0; whatever is more is seen */
		int level = v <= 0 ? 0 : MIN(7, 1 + (int)(v * 6.999));
		enum style style = max_errors > 0 ? level ? RED : GREEN : CYAN;
		bool blank = at->number != i;

		if (run.len && (blank || style != run_style)) {
			put(p, run_style, run.s);
			run.len = 0;
		}
		run_style = style;
		if (blank)
			put(p, PLAIN, " ");
		else
			strbuf_puts(&run, l->unicode ? blocks[level] : plain[level]);
	}
	if (run.len)
		put(p, run_style, run.s);
	put(p, DIM, tail);
	line_end(p);
}

static void draw_gauges(struct panel *p)
{
	const struct live *l = p->l;
	_cleanup_strbuf_ struct strbuf b = {0};
	const char *service;
	const json_t *servers;
	size_t n = 0;

	if (!l->gauge)
		return;
	add_gauge(l, &b);
	if (b.len && line_begin(p)) {
		label(p, PLAIN, "load");
		put(p, json_number_value(json_object_get(l->gauge, "error_ratio")) > 0 ? YELLOW : PLAIN, strbuf_cstr(&b));
		line_end(p);
	}
	draw_spark(p);
	json_object_foreach(json_object_get(l->gauge, "weights"), service, servers) {
		_cleanup_strbuf_ struct strbuf w = {0};

		if (n++ == SERVICES_MAX || !line_begin(p))
			break;
		add_weights(&w, servers);
		label(p, PLAIN, service);
		put(p, PLAIN, strbuf_cstr(&w));
		line_end(p);
	}
}

static void draw_tail(struct panel *p)
{
	const struct live *l = p->l;
	size_t room = p->max_rows - p->n_rows, n = MIN(l->n_tail, MIN(room, (size_t)TAIL_MAX));

	for (size_t i = l->n_tail - n; i < l->n_tail && line_begin(p); i++) {
		const struct said *s = &l->tail[i];
		char when[32];

		snprintf(when, sizeof(when), "%+.1fs", (double)(s->t - l->base) / 1e9);
		label(p, DIM, when);
		put(p, style_of(s->weight), s->text);
		line_end(p);
	}
}

static void terminal_size(const struct live *l, unsigned int *ret_columns, unsigned int *ret_rows)
{
	struct winsize ws = {0};

	if (ioctl(l->fd, TIOCGWINSZ, &ws) < 0 || !ws.ws_col || !ws.ws_row)
		ws = (struct winsize){.ws_col = 80, .ws_row = 24};
	*ret_columns = ws.ws_col;
	*ret_rows = ws.ws_row;
}

/* To the first column of the panel's first row. */
static void go_up(const struct live *l, struct strbuf *b, unsigned int columns, unsigned int rows)
{
	unsigned int up = 0;

	for (size_t i = 0; i < l->n_rows; i++)
		up += MAX(1u, (l->rows[i] + columns - 1) / columns);
	/* what has left the screen at its top cannot be reached */
	up = MIN(up, rows - 1);
	strbuf_puts(b, "\r");
	if (up)
		strbuf_addf(b, "\x1b[%uA", up);
}

/* @above: lines that are to stay, above the panel; may be NULL. @panel: false: only takes the old one away. */
static void draw(struct live *l, const char *above, bool panel)
{
	struct panel p = {.l = l};
	unsigned int rows;

	terminal_size(l, &p.columns, &rows);
	go_up(l, &p.text, p.columns, rows);
	if (above || !panel)
		strbuf_puts(&p.text, "\x1b[J");
	if (above)
		strbuf_puts(&p.text, above);
	/* one row is for the cursor; the first columns of a tiny terminal are not worth the flicker */
	p.max_rows = panel && p.columns >= 10 ? MIN((size_t)rows - 1, (size_t)ROWS_MAX) : 0;
	draw_head(&p);
	draw_faults(&p);
	draw_gauges(&p);
	draw_tail(&p);
	strbuf_puts(&p.text, "\x1b[J");
	if (!p.text.oom) {
		out(l, p.text.s, p.text.len);
		l->n_rows = p.n_rows;
		memcpy(l->rows, p.rows, sizeof(l->rows));
	}
	strbuf_free(&p.text);
	l->drawn = now_ns();
	l->stale = false;
}

static void draw_soon(struct live *l)
{
	if (now_ns() - l->drawn >= FRAME_EVERY)
		draw(l, NULL, true);
	else
		l->stale = true;
}

static void keep_tail(struct live *l, nsec_t t, enum weight weight, const char *text)
{
	struct said *s;

	if (l->n_tail == TAIL_MAX)
		memmove(l->tail, l->tail + 1, --l->n_tail * sizeof(*l->tail));
	s = &l->tail[l->n_tail++];
	s->t = t;
	s->weight = weight;
	snprintf(s->text, sizeof(s->text), "%s", text);
}

/* ── the calls ─────────────────────────────────────────────────────────────────────────── */

static bool utf8_locale(void)
{
	const char *s = getenv("LC_ALL");

	if (!s || !*s)
		s = getenv("LC_CTYPE");
	if (!s || !*s)
		s = getenv("LANG");
	return s && (strcasestr(s, "utf-8") || strcasestr(s, "utf8"));
}

int live_new(int fd, enum live_mode mode, enum live_color color, struct live **ret)
{
	struct live *l = calloc(1, sizeof(*l));
	const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
	bool tty = isatty(fd), smart = term && *term && !streq(term, "dumb");

	if (!l)
		return -ENOMEM;
	if (mode == LIVE_AUTO)
		mode = tty ? LIVE_TTY : LIVE_LINES;
	/* a terminal that cannot move its cursor gets lines, whoever asked */
	if (mode == LIVE_TTY && !smart)
		mode = LIVE_LINES;
	l->fd = fd;
	l->mode = mode;
	l->color = color == COLOR_ALWAYS || (color == COLOR_AUTO && tty && smart && !(no_color && *no_color));
	l->unicode = utf8_locale();
	l->opened = now_ns();
	l->gauge_said = l->opened;
	for (size_t i = 0; i < SPARK_MAX; i++)
		l->seconds[i].number = -1;
	*ret = l;
	return 0;
}

static void write_json(struct live *l, const json_t *e)
{
	char *text = json_dumps(e, JSON_COMPACT | JSON_ENSURE_ASCII);
	size_t len = text ? strlen(text) : 0;

	if (text) {
		/* one write a line: readers of a pipe see it whole */
		text[len] = '\n';
		out(l, text, len + 1);
	}
	free(text);
}

static void emit(struct live *l, nsec_t t, enum weight weight, const char *text)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	if (l->mode == LIVE_TTY) {
		keep_tail(l, t, weight, text);
		if (weight != TROUBLE) {
			draw_soon(l);
			return;
		}
	}
	if (l->mode == LIVE_QUIET && weight != TROUBLE)
		return;
	add_line(l, &b, t, weight, text);
	if (b.oom)
		return;
	l->last_said = now_ns();
	if (l->mode == LIVE_TTY)
		draw(l, b.s, true);
	else
		out(l, b.s, b.len);
}

void live_event(struct live *l, const json_t *event)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	const char *kind = str(event, "kind");
	enum weight weight;

	if (!json_is_object(event))
		return;
	if (l->mode == LIVE_JSON) {
		write_json(l, event);
		return;
	}
	/* what the muster inside a microVM said with live_note() */
	if (streq(kind, "note")) {
		live_note(l, str(event, "text"));
		return;
	}
	if (!streq(kind, EV_RUN) && say(l, event, &b, &weight)) {
		know(l, event);
		emit(l, time_of(event, "t", drill_now(l)), weight, strbuf_cstr(&b));
		return;
	}
	/* the run's first event sets the clock that its own line is written with */
	know(l, event);
	if (streq(kind, EV_RUN) && say(l, event, &b, &weight)) {
		emit(l, time_of(event, "t", drill_now(l)), weight, strbuf_cstr(&b));
	} else if (l->mode == LIVE_TTY) {
		draw_soon(l);
	} else if (l->mode == LIVE_LINES && streq(kind, EV_GAUGE) &&
		   now_ns() - MAX(l->gauge_said, l->last_said) >= GAUGE_EVERY) {
		const char *service;
		const json_t *servers;

		add_gauge(l, &b);
		json_object_foreach(json_object_get(event, "weights"), service, servers) {
			strbuf_addf(&b, "%s%s: ", b.len ? "; " : "", service);
			add_weights(&b, servers);
		}
		if (b.len)
			emit(l, time_of(event, "t", drill_now(l)), ROUTINE, strbuf_cstr(&b));
		l->gauge_said = now_ns();
	}
}

void live_tick(struct live *l)
{
	if (l->mode == LIVE_TTY && (l->stale || now_ns() - l->drawn >= FRAME_EVERY))
		draw(l, NULL, true);
}

void live_note(struct live *l, const char *text)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	if (!*text)
		return;
	switch (l->mode) {
	case LIVE_JSON: {
		_cleanup_json_ json_t *j =
			json_pack("{s:I, s:s, s:s}", "t", (json_int_t)now_ns(), "kind", "note", "text", text);

		if (j)
			write_json(l, j);
		break;
	}
	case LIVE_LINES:
		add_line(l, &b, l->have_base ? drill_now(l) : -1, ROUTINE, text);
		if (!b.oom)
			out(l, b.s, b.len);
		l->last_said = now_ns();
		break;
	case LIVE_TTY:
		snprintf(l->note, sizeof(l->note), "%s", text);
		draw(l, NULL, true);
		break;
	default:
		break;
	}
}

void live_free(struct live *l)
{
	if (!l)
		return;
	if (l->mode == LIVE_TTY && l->n_rows)
		draw(l, NULL, false);
	for (size_t i = 0; i < l->n_faults; i++)
		free(l->faults[i].text);
	json_decref(l->gauge);
	free(l->scenario);
	free(l->phase);
	free(l);
}
