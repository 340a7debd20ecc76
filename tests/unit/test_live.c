/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The live view, read back: as lines from a pipe, and as a picture from a pseudo-terminal, through a small terminal emulator that
 * complains about whatever the view is not supposed to write.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/live.h"
#include "engine/str.h"

/* ── a drill to show ───────────────────────────────────────────────────────────────────── */

static nsec_t drill_start;

/* A JSON object, written with ' for " */
static void tell(struct live *l, double at, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	_cleanup_json_ json_t *j = NULL;
	json_error_t e;

	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	j = json_loads(copy, 0, &e);
	if (!j)
		fail_msg("%s: %s", text, e.text);
	json_object_set_new(j, "t", json_integer(drill_start + (nsec_t)(at * 1e9)));
	live_event(l, j);
}

static void gauge(struct live *l, double at, double rate, double errors, int rs2)
{
	_cleanup_free_ char *s = strf("{'kind':'gauge','rate':%.1f,'error_ratio':%.4f,'p99_ns':3200000,"
				      "'weights':{'web':{'rs1':3,'rs2':%d,'rs3':5}}}",
		rate, errors, rs2);

	tell(l, at, s);
}

#define RUN                                                                                                            \
	"{'kind':'run','id':'20260131-abc','scenario':'real-server-loss','file':'x.lua','seed':1,'kernel':'6.1.0',"    \
	"'lab':'netns','host':'h','version':'0','wall_ns':1}"

/* ── lines ─────────────────────────────────────────────────────────────────────────────── */

struct pipe_end {
	int fd[2];
	char text[65536];
};

static struct live *over_pipe(struct pipe_end *p, enum live_mode mode, enum live_color color)
{
	struct live *l;

	assert_int_equal(pipe2(p->fd, O_CLOEXEC), 0);
	assert_int_equal(live_new(p->fd[1], mode, color, &l), 0);
	return l;
}

static const char *taken(struct pipe_end *p)
{
	struct pollfd q = {.fd = p->fd[0], .events = POLLIN};
	size_t len = 0;

	while (poll(&q, 1, 0) > 0 && q.revents & POLLIN) {
		ssize_t n = read(p->fd[0], p->text + len, sizeof(p->text) - 1 - len);

		assert_true(n >= 0);
		if (n == 0)
			break;
		len += (size_t)n;
	}
	p->text[len] = '\0';
	return p->text;
}

static void pipe_close(struct pipe_end *p)
{
	close(p->fd[0]);
	close(p->fd[1]);
}

static void expect_lines(struct pipe_end *p, const char *want)
{
	const char *got = taken(p);

	if (strcmp(got, want) != 0)
		fail_msg("got:\n%s\nwant:\n%s", got, want);
}

static void lines(void **state)
{
	static struct pipe_end p;
	struct live *l = over_pipe(&p, LIVE_AUTO, COLOR_AUTO);

	(void)state;
	drill_start = now_ns();
	live_note(l, "starting the microVM");
	expect_lines(&p, "           starting the microVM\n");
	tell(l, 0, RUN);
	/* at once, each by itself */
	expect_lines(&p, "+0.000s    drill real-server-loss, run 20260131-abc, lab netns, kernel 6.1.0\n");
	tell(l, 0.0012, "{'kind':'stage','stage':'baseline','text':'open-autoglm'}");
	tell(l, 0.5, "{'kind':'change','id':1,'change':'set.sysctl','node':'rs1','state':'applied','where':''}");
	tell(l, 0.6, "{'kind':'source','name':'client','source_kind':'load','state':'started'}");
	expect_lines(&p, "+0.001s    establishing the baseline: open-autoglm\n"
			 "+0.500s    set.sysctl on rs1: applied\n"
			 "+0.600s    load client: started\n");
	tell(l, 12.3456, "{'kind':'phase','phase':'silent loss','where':'x.lua:9'}");
	tell(l, 12.4, "{'kind':'fault','id':7,'change':'fault.none','node':'rs2','args':{},'state':'applied'}");
	tell(l, 14.9, "{'kind':'fault','id':7,'change':'fault.none','node':'rs2','state':'lifted','proved':true,'text':'812 packets "
		      "dropped'}");
	tell(l, 15, "{'kind':'fault','id':8,'change':'fault.none','node':'rs2','state':'lifted','proved':false,'text':'0 packets'}");
	tell(l, 15, "{'kind':'fault','id':9,'change':'fault.none','node':'rs2','state':'lifted','proved':null}");
	expect_lines(&p, "+12.346s   phase: silent loss\n"
			 "+12.400s   fault.none on rs2: in force\n"
			 "+14.900s   fault.none on rs2: lifted after 2.5s; it took effect: 812 packets dropped\n"
			 "+15.000s   fault.none on rs2: lifted; IT TOOK NO EFFECT: 0 packets\n"
			 "+15.000s   fault.none on rs2: lifted; its effect is not known\n");
	tell(l, 100, "{'kind':'residue','clean':true,'diff':[],'conflicts':[],'failed':[]}");
	tell(l, 3661, "{'kind':'residue','clean':false,'diff':['+ link x','- y'],'conflicts':[],'failed':['z']}");
	tell(l, 3662, "{'kind':'end','exit':0}");
	tell(l, 3663, "{'kind':'something-new','x':1}");
	expect_lines(&p, "+100.000s  the host is as it was before\n"
			 "+3661.000s THE HOST IS NOT PROVED RESTORED; 2 differences, first: + link x ...; 1 not undone, first: z\n");
	live_free(l);
	pipe_close(&p);
}

static void checks_in_words(void **state)
{
	static const struct {
		const char *fields, *words;
	} cases[] = {
		{"'use':'eventually','within_ns':3000000000,'status':'true','at':2800000000,'text':'0'",
			"reached after 2.8s: N (0)"},
		{"'use':'eventually','within_ns':3000000000,'status':'false','at':null,'text':''", "not reached within 3.0s: N"},
		{"'use':'eventually','within_ns':3000000000,'status':'unknown','at':null,'text':'too few'",
			"could not be judged: N (too few)"},
		{"'use':'always','during_ns':10000000000,'status':'true','at':null,'text':''", "held for 10s: N"},
		{"'use':'always','during_ns':10000000000,'status':'false','at':1500000000,'text':''",
			"did not hold, broke after 1.5s: N"},
		{"'use':'objective','within_ns':9000000000,'status':'false','at':null,'text':'8.1 s'",
			"OBJECTIVE MISSED within 9.0s: N (8.1 s)"},
		{"'use':'steady-before','settle_ns':5000000000,'status':'true','at':1000000000,'text':'',"
		 "'predicates':[{'text':'a below 1'},{'text':'b below 2'}]",
			"steady state attained after 1.0s: a below 1, b below 2"},
		{"'use':'steady-after','settle_ns':5000000000,'status':'unknown','at':null,'text':'','predicates':['c']",
			"the return of the steady state could not be judged: c"},
	};
	static struct pipe_end p;
	struct live *l = over_pipe(&p, LIVE_LINES, COLOR_AUTO);

	(void)state;
	drill_start = 0;
	tell(l, 0, RUN);
	(void)taken(&p);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *e = strf("{'kind':'check','name':'N','from':0,%s}", cases[i].fields);
		_cleanup_free_ char *want = strf("+20.000s   %s\n", cases[i].words);

		tell(l, 20, e);
		expect_lines(&p, want);
	}
	live_free(l);
	pipe_close(&p);
}

/* What stops a drill, in every mode that a person reads; and only that in the quiet one. */
static void trouble(void **state)
{
	static const enum live_mode modes[] = {LIVE_LINES, LIVE_QUIET};
	static struct pipe_end p;

	(void)state;
	drill_start = now_ns();
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct live *l = over_pipe(&p, modes[i], COLOR_NEVER);

		tell(l, 0, RUN);
		tell(l, 1, "{'kind':'log','text':'hello','where':''}");
		live_note(l, "a note");
		if (modes[i] == LIVE_QUIET)
			expect_lines(&p, "");
		(void)taken(&p);
		tell(l, 2, "{'kind':'error','text':'it broke','hint':'mend it','where':'x.lua:3','blame':'scenario'}");
		tell(l, 3, "{'kind':'refused','text':'not here','hint':'go there'}");
		tell(l, 4, "{'kind':'stop','predicate':'e above 60%','text':'70%'}");
		tell(l, 5, "{'kind':'halt','by':'operator','reason':'enough'}");
		tell(l, 6, "{'kind':'guard','what':'engine-died','text':'it was killed','undone':3}");
		tell(l, 7, "{'kind':'change','id':1,'change':'set.x','node':'rs1','state':'conflict','text':'it is 5'}");
		expect_lines(&p, "+2.000s    error: x.lua:3: it broke; mend it\n"
				 "+3.000s    refused: not here; go there\n"
				 "+4.000s    STOP CONDITION: e above 60% (70%)\n"
				 "+5.000s    HALTED (operator): enough\n"
				 "+6.000s    guard: engine-died: it was killed; 3 changes undone\n"
				 "+7.000s    set.x on rs1: NOT UNDONE, somebody else changed it: it is 5\n");
		live_free(l);
		pipe_close(&p);
	}
}

static void json_lines(void **state)
{
	static struct pipe_end p;
	struct live *l = over_pipe(&p, LIVE_JSON, COLOR_ALWAYS);
	_cleanup_json_ json_t *note = NULL;

	(void)state;
	drill_start = 5;
	tell(l, 0, "{'kind':'log','text':'h\xc3\xa4 \\u001b[2J','where':''}");
	expect_lines(&p, "{\"kind\":\"log\",\"text\":\"h\\u00E4 \\u001B[2J\",\"where\":\"\",\"t\":5}\n");
	tell(l, 0, "{'kind':'gauge','rate':1.5}");
	expect_lines(&p, "{\"kind\":\"gauge\",\"rate\":1.5,\"t\":5}\n");
	live_note(l, "halting");
	note = json_loads(taken(&p), 0, NULL);
	assert_string_equal(json_string_value(json_object_get(note, "kind")), "note");
	live_free(l);
	pipe_close(&p);

	/* and at the outer side it is a note again */
	l = over_pipe(&p, LIVE_LINES, COLOR_NEVER);
	live_event(l, note);
	expect_lines(&p, "           halting\n");
	live_free(l);
	pipe_close(&p);
}

/* A pipe hears of the gauges now and then, not each time. */
static void gauges_are_rare(void **state)
{
	static struct pipe_end p;
	struct live *l = over_pipe(&p, LIVE_LINES, COLOR_NEVER);

	(void)state;
	drill_start = now_ns();
	tell(l, 0, RUN);
	(void)taken(&p);
	for (int i = 0; i < 20; i++)
		gauge(l, i, 300, 0, 5);
	expect_lines(&p, "");
	live_free(l);
	pipe_close(&p);
}

static bool printable_utf8(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;

	while (*p) {
		int more = *p < 0x80 ? 0 : *p < 0xc2 ? 9 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : *p < 0xf5 ? 3 : 9;

		if (more == 9 || (*p < 0x20 && *p != '\n') || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0))
			return false;
		for (p++; more; more--, p++)
			if ((*p & 0xc0) != 0x80)
				return false;
	}
	return true;
}

/* Text from outside cannot drive the terminal. */
static void hostile_text(void **state)
{
	static const char *const texts[] = {"\x1b[2J\x1b]0;title\x07", "a\nb\rc\td", "\xc2\x9b" "31m", "\xff\xfe\x80\xc3",
		"\xc3", "\xe2\x82", "\xed\xa0\x80", "\xc0\x80", "\xf5\x80\x80\x80", "\xe2\x80\xae" "abc", "\x7f\x01\x1f",
		"\xf0\x9f\x94\xa5 fine \xe6\xbc\xa2"};
	static struct pipe_end p;
	struct live *l = over_pipe(&p, LIVE_LINES, COLOR_NEVER);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		_cleanup_json_ json_t *j = json_object();
		const char *got;

		/* json_stringn_nocheck(): as a careless sender might */
		json_object_set_new(j, "kind", json_string(EV_LOG));
		json_object_set_new(j, "text", json_stringn_nocheck(texts[i], strlen(texts[i])));
		live_event(l, j);
		got = taken(&p);
		assert_true(strlen(got) > 11);
		if (!printable_utf8(got) || strchr(got, '\n') != got + strlen(got) - 1)
			fail_msg("text %zu came out as %s", i, got);
	}
	live_free(l);
	pipe_close(&p);
}

static void colors(void **state)
{
	static struct pipe_end p;
	struct live *l = over_pipe(&p, LIVE_LINES, COLOR_ALWAYS);

	(void)state;
	tell(l, 0, "{'kind':'refused','text':'x'}");
	assert_non_null(strstr(taken(&p), "\x1b[31m"));
	live_free(l);
	pipe_close(&p);
	l = over_pipe(&p, LIVE_LINES, COLOR_AUTO);
	tell(l, 0, "{'kind':'refused','text':'x'}");
	assert_null(strchr(taken(&p), '\x1b'));
	live_free(l);
	pipe_close(&p);
}

/* The reader is gone, or does not read: no crash, no endless wait. */
static void reader_gone(void **state)
{
	static struct pipe_end p;
	struct live *l;
	nsec_t begin;

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	l = over_pipe(&p, LIVE_LINES, COLOR_NEVER);
	close(p.fd[0]);
	tell(l, 0, RUN);
	tell(l, 0, RUN);
	live_free(l);
	close(p.fd[1]);

	l = over_pipe(&p, LIVE_JSON, COLOR_NEVER);
	assert_int_equal(fcntl(p.fd[1], F_SETFL, O_NONBLOCK), 0);
	begin = now_ns();
	for (int i = 0; i < 5000; i++)
		tell(l, 0, RUN);
	assert_true(now_ns() - begin < 20 * NSEC_PER_SEC);
	live_free(l);
	pipe_close(&p);
}

/* ── a small terminal ──────────────────────────────────────────────────────────────────── */

#define VT_COLUMNS 200
#define VT_ROWS	   60

struct vt {
	int master, slave;
	pthread_t reader;
	pthread_mutex_t lock;
	pthread_cond_t more;
	unsigned int marks; /* seen */

	unsigned int columns, rows, x, y;
	uint32_t cell[VT_ROWS][VT_COLUMNS];
	char seq[32];
	size_t seq_len;
	uint32_t partial;
	int partial_left;
	unsigned int scrolled, wrapped, sgr, up;
	char bad[128]; /* the first thing that should not have come */
};

static void vt_bad(struct vt *v, const char *what)
{
	if (!v->bad[0])
		snprintf(v->bad, sizeof(v->bad), "%s (seq \"%.*s\", at %u,%u)", what, (int)v->seq_len, v->seq, v->x, v->y);
}

static void vt_newline(struct vt *v)
{
	if (++v->y < v->rows)
		return;
	memmove(v->cell[0], v->cell[1], sizeof(v->cell[0]) * (VT_ROWS - 1));
	v->y = v->rows - 1;
	memset(v->cell[v->y], 0, sizeof(v->cell[0]));
	v->scrolled++;
}

static void vt_char(struct vt *v, uint32_t c)
{
	if (v->x >= v->columns) {
		v->wrapped++;
		v->x = 0;
		vt_newline(v);
	}
	v->cell[v->y][v->x++] = c;
}

static void vt_csi(struct vt *v, char final)
{
	int n = v->seq_len ? atoi(v->seq) : 0;

	switch (final) {
	case 'm':
		v->sgr++;
		break;
	case 'A':
		v->up++;
		if ((unsigned int)n > v->y)
			vt_bad(v, "up beyond the top");
		v->y -= MIN((unsigned int)n, v->y);
		break;
	case 'K':
		memset(&v->cell[v->y][v->x], 0, sizeof(uint32_t) * (VT_COLUMNS - v->x));
		break;
	case 'J':
		if (n)
			vt_bad(v, "erase of more than what is below");
		memset(&v->cell[v->y][v->x], 0, sizeof(uint32_t) * (VT_COLUMNS - v->x));
		for (unsigned int y = v->y + 1; y < VT_ROWS; y++)
			memset(v->cell[y], 0, sizeof(v->cell[y]));
		break;
	default:
		vt_bad(v, "sequence");
	}
}

static void vt_byte(struct vt *v, unsigned char c)
{
	if (v->seq_len == 1 && v->seq[0] == '\x1b') {
		v->seq_len = 0;
		if (c != '[')
			vt_bad(v, "escape");
		v->seq[0] = '\0';
		v->partial_left = -1; /* inside a control sequence */
		return;
	}
	if (v->partial_left == -1) {
		if (c >= '@') {
			v->seq[v->seq_len] = '\0';
			v->partial_left = 0;
			vt_csi(v, (char)c);
			v->seq_len = 0;
		} else if (v->seq_len < sizeof(v->seq) - 1) {
			v->seq[v->seq_len++] = (char)c;
		}
		return;
	}
	if (v->partial_left > 0) {
		if ((c & 0xc0) != 0x80)
			vt_bad(v, "broken UTF-8");
		v->partial = v->partial << 6 | (c & 0x3f);
		if (--v->partial_left == 0)
			vt_char(v, v->partial);
		return;
	}
	switch (c) {
	case '\x1b':
		v->seq[0] = '\x1b';
		v->seq_len = 1;
		break;
	case '\r':
		v->x = 0;
		break;
	case '\n':
		vt_newline(v);
		break;
	case '\x1e': /* ours: all before it has been seen */
		v->marks++;
		break;
	default:
		if (c < 0x20 || c == 0x7f)
			vt_bad(v, "control character");
		else if (c < 0x80)
			vt_char(v, c);
		else if (c >= 0xf0)
			v->partial = c & 7, v->partial_left = 3;
		else if (c >= 0xe0)
			v->partial = c & 15, v->partial_left = 2;
		else if (c >= 0xc2)
			v->partial = c & 31, v->partial_left = 1;
		else
			vt_bad(v, "broken UTF-8");
	}
}

static void *vt_read(void *arg)
{
	struct vt *v = arg;
	unsigned char buf[4096];
	ssize_t n;

	while ((n = read(v->master, buf, sizeof(buf))) > 0) {
		pthread_mutex_lock(&v->lock);
		for (ssize_t i = 0; i < n; i++)
			vt_byte(v, buf[i]);
		pthread_cond_signal(&v->more);
		pthread_mutex_unlock(&v->lock);
	}
	return NULL;
}

/* Waits until all that was written has been read. */
static void vt_sync(struct vt *v)
{
	unsigned int want;
	struct timespec ts;

	pthread_mutex_lock(&v->lock);
	want = v->marks + 1;
	pthread_mutex_unlock(&v->lock);
	assert_int_equal(write(v->slave, "\x1e", 1), 1);
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 20;
	pthread_mutex_lock(&v->lock);
	while (v->marks < want)
		assert_int_equal(pthread_cond_timedwait(&v->more, &v->lock, &ts), 0);
	pthread_mutex_unlock(&v->lock);
}

static void vt_size(struct vt *v, unsigned int columns, unsigned int rows)
{
	struct winsize ws = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};

	assert_int_equal(ioctl(v->slave, TIOCSWINSZ, &ws), 0);
	v->columns = columns;
	v->rows = rows;
}

static unsigned int row_length(const struct vt *v, unsigned int y)
{
	unsigned int n = VT_COLUMNS;

	while (n && !v->cell[y][n - 1])
		n--;
	return n;
}

/* Becomes narrower as most terminals do it: lines that no longer fit are wrapped, and the cursor stays with its line. */
static void vt_narrow(struct vt *v, unsigned int columns)
{
	static uint32_t rows[VT_ROWS * 20][VT_COLUMNS];
	unsigned int n = 0, cursor = 0, top;

	memset(rows, 0, sizeof(rows));
	for (unsigned int y = 0; y <= v->y; y++) {
		unsigned int len = row_length(v, y), at = 0;

		if (y == v->y)
			cursor = n;
		do {
			memcpy(rows[n++], &v->cell[y][at], sizeof(uint32_t) * MIN(columns, len > at ? len - at : 0));
			at += columns;
		} while (at < len);
	}
	top = cursor >= v->rows ? cursor - v->rows + 1 : 0;
	memset(v->cell, 0, sizeof(v->cell));
	memcpy(v->cell, rows[top], sizeof(v->cell[0]) * MIN(v->rows, n - top));
	v->scrolled += top;
	v->y = cursor - top;
	vt_size(v, columns, v->rows);
}

static struct vt *vt_open(unsigned int columns, unsigned int rows)
{
	struct vt *v = calloc(1, sizeof(*v));

	assert_non_null(v);
	assert_int_equal(openpty(&v->master, &v->slave, NULL, NULL, NULL), 0);
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->more, NULL);
	vt_size(v, columns, rows);
	assert_int_equal(pthread_create(&v->reader, NULL, vt_read, v), 0);
	return v;
}

static void vt_close(struct vt *v)
{
	close(v->slave);
	pthread_join(v->reader, NULL);
	close(v->master);
	free(v);
}

/* A row as text, code points beyond ASCII as '#' */
static const char *row(const struct vt *v, unsigned int y)
{
	static char buf[8][VT_COLUMNS + 1];
	static unsigned int turn;
	char *s = buf[turn++ % 8];
	unsigned int n = row_length(v, y);

	for (unsigned int x = 0; x < n; x++)
		s[x] = !v->cell[y][x] ? ' ' : v->cell[y][x] < 0x80 ? (char)v->cell[y][x] : '#';
	s[n] = '\0';
	return s;
}

static unsigned int rows_with(const struct vt *v, const char *words)
{
	unsigned int n = 0;

	for (unsigned int y = 0; y < v->rows; y++)
		n += strstr(row(v, y), words) != NULL;
	return n;
}

static void show(const struct vt *v)
{
	for (unsigned int y = 0; y < v->rows; y++)
		print_message("|%s\n", row(v, y));
}

static void ok(const struct vt *v)
{
	if (v->bad[0] || v->wrapped) {
		show(v);
		fail_msg("%s; %u lines wrapped", v->bad, v->wrapped);
	}
}

static void type(struct vt *v, const char *s)
{
	assert_int_equal(fd_write_all(v->slave, s, strlen(s)), 0);
}

static struct live *over_terminal(struct vt *v, enum live_color color)
{
	struct live *l;

	setenv("TERM", "xterm", 1);
	unsetenv("NO_COLOR");
	setenv("LC_ALL", "C.UTF-8", 1);
	assert_int_equal(live_new(v->slave, LIVE_AUTO, color, &l), 0);
	return l;
}

static void a_drill(struct live *l)
{
	drill_start = now_ns() - 7 * NSEC_PER_SEC;
	tell(l, 0, RUN);
	tell(l, 0.1, "{'kind':'stage','stage':'lab'}");
	tell(l, 0.4, "{'kind':'stage','stage':'method'}");
	gauge(l, 1, 300, 0, 5);
	gauge(l, 2, 300, 0, 5);
	tell(l, 3, "{'kind':'phase','phase':'silent loss','where':'x.lua:9'}");
	tell(l, 3.5, "{'kind':'fault','id':7,'change':'fault.unheard_of','node':'rs2','args':{},'state':'applied'}");
	gauge(l, 4, 190, 0.35, 5);
	gauge(l, 6, 300, 0.01, 0);
	tell(l, 6.5, "{'kind':'check','use':'eventually','name':'web:weight \\'rs2\\' equals 0','from':0,'within_ns':3000000000,"
		     "'status':'true','at':2800000000,'text':''}");
}

/* ── the panel ─────────────────────────────────────────────────────────────────────────── */

static void panel(void **state)
{
	struct vt *v = vt_open(80, 24);
	struct live *l;

	(void)state;
	type(v, "$ muster run x.lua\n");
	l = over_terminal(v, COLOR_AUTO);
	a_drill(l);
	live_tick(l);
	for (int i = 0; i < 30; i++)
		gauge(l, 7, 300, 0.01, 0);
	live_note(l, "a note");
	vt_sync(v);
	ok(v);
	assert_string_equal(row(v, 0), "$ muster run x.lua");
	if (!strstr(row(v, 1), "# real-server-loss  method: silent loss") || !strstr(row(v, 2), "  a note") ||
		strncmp(row(v, 3), "fault    fault.unheard_of on rs2", 32) != 0 || !strstr(row(v, 3), "in force 3.") ||
		strcmp(row(v, 4), "load     300/s succeed, errors 1%, p99 3.2ms") != 0 ||
		strncmp(row(v, 5), "errors   ", 9) != 0 || !strstr(row(v, 5), " up to 35%") ||
		strcmp(row(v, 6), "web      rs1 3  rs2 0  rs3 5") != 0 || strncmp(row(v, 7), "+0.0s    drill real", 19) != 0 ||
		!strstr(row(v, 12), "reached after 2.8s: web:weight")) {
		show(v);
		fail_msg("that is not the panel");
	}
	assert_int_equal(rows_with(v, "real-server-loss  method"), 1);
	assert_int_equal(v->x, 0);
	assert_int_equal(v->y, 13);
	assert_true(v->sgr > 0);

	tell(l, 6.9, "{'kind':'fault','id':7,'change':'fault.unheard_of','node':'rs2','state':'lifted','proved':true}");
	live_note(l, "drawn now");
	vt_sync(v);
	assert_int_equal(rows_with(v, "in force "), 0);

	/* trouble stays, above the panel */
	tell(l, 7, "{'kind':'halt','by':'operator','reason':'enough'}");
	vt_sync(v);
	ok(v);
	assert_string_equal(row(v, 1), "+7.000s    HALTED (operator): enough");
	assert_int_equal(rows_with(v, "real-server-loss  method"), 1);

	live_free(l);
	vt_sync(v);
	ok(v);
	assert_string_equal(row(v, 0), "$ muster run x.lua");
	assert_string_equal(row(v, 1), "+7.000s    HALTED (operator): enough");
	for (unsigned int y = 2; y < v->rows; y++)
		assert_string_equal(row(v, y), "");
	assert_int_equal(v->x, 0);
	assert_int_equal(v->y, 2);
	assert_int_equal(v->scrolled, 0);
	vt_close(v);
}

/* Any size: no line wraps, one panel at a time, and nothing of it is left. */
static void any_size(void **state)
{
	static const unsigned int columns[] = {1, 2, 5, 9, 10, 11, 17, 24, 31, 40, 61, 100, 199}, rows[] = {1, 2, 3, 4, 7, 12, 30};

	(void)state;
	for (size_t c = 0; c < ARRAY_SIZE(columns); c++) {
		for (size_t r = 0; r < ARRAY_SIZE(rows); r++) {
			struct vt *v = vt_open(columns[c], rows[r]);
			struct live *l = over_terminal(v, COLOR_AUTO);

			a_drill(l);
			for (int i = 0; i < 5; i++)
				live_note(l, "a note with \xe6\xbc\xa2\xe5\xad\x97 in it");
			vt_sync(v);
			if (v->wrapped && columns[c] < 10)
				v->wrapped = 0;
			ok(v);
			if (columns[c] >= 10 && rows[r] > 1)
				assert_int_equal(rows_with(v, "# real-s") + rows_with(v, "# real-#"), 1);
			live_free(l);
			vt_sync(v);
			ok(v);
			for (unsigned int y = 0; y < v->rows; y++)
				assert_string_equal(row(v, y), "");
			vt_close(v);
		}
	}
}

static void resized(void **state)
{
	static const unsigned int columns[] = {100, 60, 33, 47, 20, 120, 80};
	struct vt *v = vt_open(100, 50);
	struct live *l;

	(void)state;
	type(v, "$ muster run x.lua\n");
	l = over_terminal(v, COLOR_AUTO);
	a_drill(l);
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		live_note(l, "before");
		vt_sync(v);
		if (columns[i] < v->columns)
			vt_narrow(v, columns[i]);
		else
			vt_size(v, columns[i], v->rows);
		live_note(l, "after");
		vt_sync(v);
		ok(v);
		if (rows_with(v, "# real-server-loss") != 1 || rows_with(v, "before") != 0 || rows_with(v, "  after") != 1 ||
			strcmp(row(v, 0), "$ muster run x.lua") != 0) {
			show(v);
			fail_msg("garbage at %u columns", columns[i]);
		}
	}
	live_free(l);
	vt_sync(v);
	assert_string_equal(row(v, 0), "$ muster run x.lua");
	for (unsigned int y = 1; y < v->rows; y++)
		assert_string_equal(row(v, y), "");
	vt_close(v);
}

/* At the bottom of the screen the first frame scrolls, the others do not. */
static void at_the_bottom(void **state)
{
	struct vt *v = vt_open(80, 24);
	struct live *l;
	unsigned int scrolled;

	(void)state;
	for (int i = 0; i < 30; i++)
		type(v, "an older line\n");
	l = over_terminal(v, COLOR_AUTO);
	a_drill(l);
	live_note(l, "note");
	vt_sync(v);
	scrolled = v->scrolled;
	for (int i = 0; i < 10; i++)
		live_note(l, "note");
	vt_sync(v);
	ok(v);
	assert_int_equal(v->scrolled, scrolled);
	assert_int_equal(rows_with(v, "# real-server-loss"), 1);
	live_free(l);
	vt_sync(v);
	assert_int_equal(rows_with(v, "an older line"), v->y);
	assert_int_equal(rows_with(v, "real-server-loss"), 0);
	vt_close(v);
}

static void environment(void **state)
{
	struct vt *v = vt_open(80, 24);
	struct live *l;

	(void)state;
	/* NO_COLOR: no colour, but a panel all the same */
	setenv("TERM", "xterm", 1);
	setenv("LC_ALL", "C.UTF-8", 1);
	setenv("NO_COLOR", "1", 1);
	assert_int_equal(live_new(v->slave, LIVE_AUTO, COLOR_AUTO, &l), 0);
	a_drill(l);
	live_note(l, "note");
	live_free(l);
	vt_sync(v);
	ok(v);
	assert_int_equal(v->sgr, 0);
	assert_true(v->up > 0);
	/* unless colour is asked for; empty means unset */
	assert_int_equal(live_new(v->slave, LIVE_AUTO, COLOR_ALWAYS, &l), 0);
	live_note(l, "note");
	live_free(l);
	vt_sync(v);
	assert_true(v->sgr > 0);
	v->sgr = 0;
	setenv("NO_COLOR", "", 1);
	assert_int_equal(live_new(v->slave, LIVE_AUTO, COLOR_AUTO, &l), 0);
	live_note(l, "note");
	live_free(l);
	vt_sync(v);
	assert_true(v->sgr > 0);
	unsetenv("NO_COLOR");

	/* a dumb terminal gets lines, without any sequence */
	for (int i = 0; i < 2; i++) {
		setenv("TERM", "dumb", 1);
		v->sgr = v->up = 0;
		assert_int_equal(live_new(v->slave, i ? LIVE_TTY : LIVE_AUTO, COLOR_AUTO, &l), 0);
		drill_start = now_ns();
		tell(l, 0, "{'kind':'refused','text':'a dumb one'}");
		live_free(l);
		vt_sync(v);
		ok(v);
		assert_int_equal(v->sgr + v->up, 0);
		assert_int_equal(rows_with(v, "+0.000s    refused: a dumb one"), (unsigned int)i + 1);
	}
	setenv("TERM", "xterm", 1);

	/* no UTF-8: nothing beyond ASCII of our own */
	setenv("LC_ALL", "C", 1);
	assert_int_equal(live_new(v->slave, LIVE_AUTO, COLOR_AUTO, &l), 0);
	a_drill(l);
	live_note(l, "note");
	vt_sync(v);
	for (unsigned int y = 0; y < v->rows; y++)
		for (unsigned int x = 0; x < v->columns; x++)
			assert_true(v->cell[y][x] < 0x80);
	live_free(l);
	setenv("LC_ALL", "C.UTF-8", 1);
	vt_sync(v);
	vt_close(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines),
		cmocka_unit_test(checks_in_words),
		cmocka_unit_test(trouble),
		cmocka_unit_test(json_lines),
		cmocka_unit_test(gauges_are_rare),
		cmocka_unit_test(hostile_text),
		cmocka_unit_test(colors),
		cmocka_unit_test(reader_gone),
		cmocka_unit_test(panel),
		cmocka_unit_test(any_size),
		cmocka_unit_test(resized),
		cmocka_unit_test(at_the_bottom),
		cmocka_unit_test(environment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
