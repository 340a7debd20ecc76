/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a kernel may refuse the journal: each operation of a journal's life fails once, or from then on, in turn. Whatever was
 * acknowledged is read back; nothing that was refused is half there; and all that was changed is undone in the end.
 * wrap: change_find clock_boot_id open openat mkdirat unlinkat readlinkat access opendir readdir fstat fstatat pread write ftruncate fdatasync fsync fcntl geteuid malloc calloc realloc strdup vasprintf
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/trusted.h"
#include "tests/unit/journal_world.h"

/* ── the edge where things fail ────────────────────────────────────────────────────────────── */

enum op {
	OPEN,
	OPENAT,
	MKDIRAT,
	UNLINKAT,
	READLINKAT,
	ACCESS,
	OPENDIR,
	READDIR,
	FSTAT,
	FSTATAT,
	PREAD,
	WRITE,
	SHORT_WRITE, /* half of it, and then nothing */
	FTRUNCATE,
	FDATASYNC,
	FSYNC,
	FCNTL,
	MALLOC,
	CALLOC,
	REALLOC,
	STRDUP,
	VASPRINTF,
	JSON, /* an allocation of the JSON library's */
	N_OPS,
};

static const char *const op_names[N_OPS] = {"open", "openat", "mkdirat", "unlinkat", "readlinkat", "access", "opendir",
	"readdir", "fstat", "fstatat", "pread", "write", "short write", "ftruncate", "fdatasync", "fsync", "fcntl", "malloc",
	"calloc", "realloc", "strdup", "vasprintf", "json"};

static struct {
	bool armed;
	enum op op;
	int nth;  /* the first that fails; 0: none */
	int many; /* how many fail, one after the other */
	int error;
	enum op with; /* another one that fails, each time, once the first has */
	int with_error;
	int count[N_OPS];
	bool hit;
	bool interrupt; /* the next ftruncate */
} fault;

static void disarm(void)
{
	fault.armed = false;
}

static void arm(enum op op, int nth, int many, int error)
{
	memset(&fault, 0, sizeof(fault));
	fault.op = op;
	fault.nth = nth;
	fault.many = many;
	fault.error = error;
	fault.with = N_OPS;
	fault.armed = true;
}

/* Does this one fail? errno is set then. */
static bool fails(enum op op)
{
	int n;

	if (!fault.armed || world_quiet)
		return false;
	n = ++fault.count[op];
	if (op == fault.op && fault.nth && n >= fault.nth && n - fault.nth < fault.many) {
		fault.hit = true;
		errno = fault.error;
		return true;
	}
	if (op == fault.with && fault.hit) {
		errno = fault.with_error;
		return true;
	}
	return false;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __real_mkdirat(int dir, const char *path, mode_t mode);
int __wrap_mkdirat(int dir, const char *path, mode_t mode);
int __real_unlinkat(int dir, const char *path, int flags);
int __wrap_unlinkat(int dir, const char *path, int flags);
ssize_t __real_readlinkat(int dir, const char *path, char *buf, size_t len);
ssize_t __wrap_readlinkat(int dir, const char *path, char *buf, size_t len);
int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
DIR *__real_opendir(const char *path);
DIR *__wrap_opendir(const char *path);
struct dirent *__real_readdir(DIR *d);
struct dirent *__wrap_readdir(DIR *d);
int __real_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st);
int __real_fstatat(int dir, const char *path, struct stat *st, int flags);
int __wrap_fstatat(int dir, const char *path, struct stat *st, int flags);
ssize_t __real_pread(int fd, void *buf, size_t len, off_t at);
ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t at);
ssize_t __real_write(int fd, const void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
int __real_ftruncate(int fd, off_t len);
int __wrap_ftruncate(int fd, off_t len);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __real_fcntl(int fd, int cmd, ...);
int __wrap_fcntl(int fd, int cmd, ...);
void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
char *__wrap_strdup(const char *s);
int __real_vasprintf(char **s, const char *fmt, va_list ap);
int __wrap_vasprintf(char **s, const char *fmt, va_list ap);

uid_t __wrap_geteuid(void);

static uid_t user;	   /* who runs us */
static bool other_device;  /* what lies at a path is on another file system than what is open */

/* Something that another process does just before a lock is asked for, or a file is created */
static void (*before_lock)(void), (*before_create)(void);

int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return fails(OPEN) ? -1 : __real_open(path, flags, mode);
}

int __wrap_openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if ((flags & O_CREAT) && before_create) {
		void (*f)(void) = TAKE_PTR(before_create);

		f();
	}
	return fails(OPENAT) ? -1 : __real_openat(dir, path, flags, mode);
}

int __wrap_mkdirat(int dir, const char *path, mode_t mode)
{
	return fails(MKDIRAT) ? -1 : __real_mkdirat(dir, path, mode);
}

int __wrap_unlinkat(int dir, const char *path, int flags)
{
	return fails(UNLINKAT) ? -1 : __real_unlinkat(dir, path, flags);
}

ssize_t __wrap_readlinkat(int dir, const char *path, char *buf, size_t len)
{
	return fails(READLINKAT) ? -1 : __real_readlinkat(dir, path, buf, len);
}

int __wrap_access(const char *path, int mode)
{
	return fails(ACCESS) ? -1 : __real_access(path, mode);
}

DIR *__wrap_opendir(const char *path)
{
	return fails(OPENDIR) ? NULL : __real_opendir(path);
}

struct dirent *__wrap_readdir(DIR *d)
{
	return fails(READDIR) ? NULL : __real_readdir(d);
}

int __wrap_fstat(int fd, struct stat *st)
{
	return fails(FSTAT) ? -1 : __real_fstat(fd, st);
}

int __wrap_fstatat(int dir, const char *path, struct stat *st, int flags)
{
	int r = fails(FSTATAT) ? -1 : __real_fstatat(dir, path, st, flags);

	if (r == 0 && other_device)
		st->st_dev++;
	return r;
}

uid_t __wrap_geteuid(void)
{
	return user;
}

ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t at)
{
	if (fails(PREAD))
		return fault.error ? -1 : 0; /* 0: the file has ended */
	return __real_pread(fd, buf, fault.armed && !world_quiet && len > 7 ? len / 2 : len, at); /* short reads are usual */
}

ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
	if (fails(WRITE))
		return -1;
	if (fails(SHORT_WRITE)) {
		fault.op = WRITE;
		fault.nth = fault.count[WRITE] + 1;
		return __real_write(fd, buf, MAX(len / 2, (size_t)1));
	}
	return __real_write(fd, buf, len);
}

int __wrap_ftruncate(int fd, off_t len)
{
	if (fault.interrupt) {
		fault.interrupt = false;
		errno = EINTR;
		return -1;
	}
	return fails(FTRUNCATE) ? -1 : __real_ftruncate(fd, len);
}

/* Nobody cuts the power here: the disk is spared */
int __wrap_fdatasync(int fd)
{
	(void)fd;
	return fails(FDATASYNC) ? -1 : 0;
}

int __wrap_fsync(int fd)
{
	(void)fd;
	return fails(FSYNC) ? -1 : 0;
}

int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (cmd == F_OFD_SETLK && before_lock) {
		void (*f)(void) = TAKE_PTR(before_lock);

		f();
	}
	return fails(FCNTL) ? -1 : __real_fcntl(fd, cmd, arg);
}

void *__wrap_malloc(size_t n)
{
	return fails(MALLOC) ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails(CALLOC) ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return fails(REALLOC) ? NULL : __real_realloc(p, n);
}

char *__wrap_strdup(const char *s)
{
	return fails(STRDUP) ? NULL : __real_strdup(s);
}

int __wrap_vasprintf(char **s, const char *fmt, va_list ap)
{
	return fails(VASPRINTF) ? -1 : __real_vasprintf(s, fmt, ap);
}

static void *json_alloc(size_t n)
{
	return fails(JSON) ? NULL : __real_malloc(n);
}

/* ── a journal's life ──────────────────────────────────────────────────────────────────────── */

enum { A, B, C, D, E, N_CHANGES };

static struct story {
	struct change c[N_CHANGES];
	bool done[N_CHANGES];
} story;

static void begin_story(void)
{
	static const struct {
		const struct change_ops *ops;
		const char *name, *flag;
	} what[N_CHANGES] = {{&volatile_ops, "a", NULL}, {&durable_ops, "b", NULL}, {&volatile_ops, "c", "apply_fails"},
		{&one_way_ops, "d", NULL}, {&volatile_ops, "e", NULL}};

	memset(&story, 0, sizeof(story));
	for (int i = 0; i < N_CHANGES; i++)
		story.c[i] = make(what[i].ops, what[i].name, what[i].flag);
}

static void end_story(void)
{
	for (int i = 0; i < N_CHANGES; i++)
		clear(&story.c[i]);
}

static const char *name_of(int i)
{
	return json_string_value(json_object_get(story.c[i].args, "name"));
}

static bool is_changed(int i)
{
	char now[64];

	world_quiet++;
	read_state(story.c[i].args, now);
	world_quiet--;
	return !streq(now, "prior");
}

/* The changes' undo from the journal alone, as seen by somebody who reads it for the first time: the last state of each name. */
static void read_back(enum journal_state ret[N_CHANGES], bool ret_there[N_CHANGES])
{
	const struct journal_entry *e;
	struct journal *j;
	struct err err = {0};
	size_t n;
	int r;

	memset(ret_there, 0, N_CHANGES * sizeof(*ret_there));
	world_quiet++;
	r = journal_open("r1", &j, &err);
	world_quiet--;
	if (r == -ENOENT)
		return;
	if (r < 0)
		fail_msg("it cannot be opened: %s", err.text);
	world_quiet++;
	r = journal_load(j, &e, &n, &err);
	world_quiet--;
	assert_int_equal(r, 0);
	for (size_t i = 0; i < n; i++) {
		const char *name = json_string_value(json_object_get(e[i].args, "name"));
		int k;

		if (e[i].seq == 0)
			fail_msg("half of something is there");
		for (k = 0; k < N_CHANGES && !streq(name, name_of(k)); k++)
			;
		assert_true(k < N_CHANGES);
		assert_true(json_equal(e[i].args, story.c[k].args));
		assert_string_equal(json_string_value(json_object_get(e[i].prior, "was")), "prior");
		assert_ptr_equal(e[i].ops, story.c[k].ops);
		ret[k] = e[i].state;
		ret_there[k] = true;
	}
	journal_close(j);
}

/* Whatever is changed has an entry that will be undone; what has been acknowledged as undone is. */
static void check_invariant(void)
{
	enum journal_state state[N_CHANGES] = {0};
	bool there[N_CHANGES];

	read_back(state, there);
	for (int i = 0; i < N_CHANGES; i++) {
		if (is_changed(i)) {
			if (!there[i])
				fail_msg("%s is changed, and the journal does not know it", name_of(i));
			assert_true(state[i] != JOURNAL_DONE && state[i] != JOURNAL_CONFLICT);
		}
		if (story.done[i]) {
			assert_false(is_changed(i));
			assert_true(!there[i] || state[i] == JOURNAL_DONE);
		}
		if (story.c[i].applied && !story.done[i] && is_changed(i))
			assert_true(there[i]);
	}
}

static void live(void)
{
	struct restore_result res = {0};
	struct journal_found *found;
	struct journal *j = NULL;
	struct err err = {0};
	const struct journal_entry *e;
	size_t n;
	int r;

	r = journal_create("r1", &j, &err);
	if (r == 0) {
		for (int i = 0; i < N_CHANGES; i++) {
			struct change *c = &story.c[i];
			bool changed;

			err = (struct err){0};
			r = change_apply(j, c, &err);
			if (r == -EIO && streq(err.text, "as asked"))
				story.done[i] = true;
			changed = is_changed(i);
			if (r == 0) {
				assert_true(changed);
			} else {
				assert_true(err.text[0] && strlen(err.text) > 5);
				assert_false(changed);
			}
		}
		if (journal_load(j, &e, &n, &err) == 0)
			assert_true(n <= N_CHANGES + 1); /* one may say that the durable file cannot be read */
		if (is_changed(D) && change_undo(j, &story.c[D], &err) == 0)
			story.done[D] = true;
		if (is_changed(E) && change_undo(j, &story.c[E], &err) == 0)
			story.done[E] = true;
		r = journal_remove(j, &err);
		if (r == 0)
			for (int i = 0; i < N_CHANGES; i++)
				assert_false(is_changed(i));
		journal_close(j); /* the drill dies */
	}
	check_invariant();
	r = journal_open("r1", &j, &err);
	if (r == 0) {
		(void)journal_play(j, &res, &err);
		restore_result_clear(&res);
		(void)journal_remove(j, &err);
		journal_close(j);
	} else {
		assert_true(err.text[0]);
	}
	check_invariant();
	if (journal_list(&found, &n, &err) == 0)
		journal_list_free(found, n);
}

/* With nothing failing any more: everything is undone, and nothing is left on the disk. */
static void check_end(void)
{
	struct journal_found *found;
	struct err err = {0};
	struct journal *j;
	size_t n;
	int r = journal_open("r1", &j, &err);
	char dir[300];

	if (r == 0) {
		struct restore_result res;

		assert_int_equal(journal_play(j, &res, &err), 0);
		assert_int_equal(res.failed + res.conflicts, 0);
		restore_result_clear(&res);
		if (journal_remove(j, &err) != 0)
			fail_msg("%s", err.text);
		journal_close(j);
	} else if (r != -ENOENT) {
		fail_msg("%s", err.text);
	}
	for (int i = 0; i < N_CHANGES; i++)
		assert_false(is_changed(i));
	assert_int_equal(journal_list(&found, &n, &err), 0);
	assert_int_equal(n, 0);
	journal_list_free(found, n);
	snprintf(dir, sizeof(dir), "%s/r1/undo.journal", run_dir);
	assert_int_equal(access(dir, F_OK), -1);
	snprintf(dir, sizeof(dir), "%s/r1/undo.journal", lib_dir);
	assert_int_equal(access(dir, F_OK), -1);
}

static char the_case[200];

/* Each operation of a kind fails: by itself, twice, or from then on, perhaps with another kind that fails for good after it */
static void fail_each(enum op op, int many, int error, enum op with, int with_error, unsigned int *ret_cases)
{
	/* the JSON library allocates a thousand times, from the same few places */
	for (int nth = 1;; nth += op == JSON && many > 1 ? 7 : 1) {
		bool hit;

		snprintf(the_case, sizeof(the_case), "%s fails from its %d. on, %d times, with %s, then %s", op_names[op], nth,
			many, strerror(error), with == N_OPS ? "nothing" : op_names[with]);
		begin_story();
		arm(op, nth, many, error);
		fault.with = with;
		fault.with_error = with_error;
		live();
		hit = fault.hit;
		disarm();
		check_end();
		end_story();
		sweep();
		if (!hit)
			break;
		++*ret_cases;
	}
}

static void whatever_fails(void **state)
{
	(void)state;
	json_set_alloc_funcs(json_alloc, free);
	for (int op = 0; op < N_OPS; op++) {
		static const int errors[] = {EIO, ENOSPC, EINTR};
		bool memory = op >= MALLOC;
		unsigned int cases = 0;

		/* no links here; and nothing is cut off as long as nothing else fails */
		if (op == READLINKAT || op == FTRUNCATE)
			continue;
		for (size_t e = 0; e < ARRAY_SIZE(errors); e++) {
			int error = memory ? ENOMEM : op == PREAD && errors[e] == ENOSPC ? 0 : errors[e];

			fail_each((enum op)op, 1, error, N_OPS, 0, &cases);
			if (memory)
				break;
			if (error != EINTR)
				fail_each((enum op)op, 1 << 30, error, N_OPS, 0, &cases);
			else
				fail_each((enum op)op, 3, error, N_OPS, 0, &cases);
		}
		if (memory)
			fail_each((enum op)op, 1 << 30, ENOMEM, N_OPS, 0, &cases);
		if (op == WRITE || op == SHORT_WRITE || op == FDATASYNC) /* and it cannot be cut off either */
			fail_each((enum op)op, 1, EIO, FTRUNCATE, EIO, &cases);
		printf("%s: %u lives\n", op_names[op], cases);
		assert_true(cases > 0);
	}
	json_set_alloc_funcs(malloc, free);
}

/* ── single cases ──────────────────────────────────────────────────────────────────────────── */

static json_t *an_args, *a_prior;

static int setup_one(void **state)
{
	before_lock = before_create = NULL;
	user = getuid();
	other_device = false;
	an_args = json_pack("{s:s}", "name", "a");
	a_prior = json_pack("{s:s}", "was", "prior");
	return setup(state);
}

static int teardown_one(void **state)
{
	disarm();
	json_decref(an_args);
	json_decref(a_prior);
	return teardown(state);
}

static size_t size_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (size_t)st.st_size;
}

/* The texts of a full disk: what was refused, where, why, and what state the host is in. */
static void a_full_disk_is_told_of(void **state)
{
	struct change a = make(&volatile_ops, "a", NULL), b = make(&volatile_ops, "b", NULL), c = make(&volatile_ops, "c", NULL);
	_cleanup_journal_ struct journal *j = NULL;
	struct restore_result res = {0};
	struct err err = {0};
	size_t size;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(change_apply(j, &a, &err), 0);
	size = size_of(volatile_path("r1"));
	/* its INTENT */
	arm(SHORT_WRITE, 1, 1 << 30, ENOSPC);
	assert_int_equal(change_apply(j, &b, &err), -ENOSPC);
	disarm();
	assert_non_null(strstr(err.text, volatile_path("r1")));
	assert_non_null(strstr(err.text, "No space left on device"));
	assert_non_null(strstr(err.text, "test.volatile on host was not begun: nothing has changed"));
	assert_int_equal(size_of(volatile_path("r1")), size);
	assert_state("b", "prior");
	/* its APPLIED, and then the DONE of what is undone at once */
	arm(WRITE, 2, 1 << 30, ENOSPC);
	assert_int_equal(change_apply(j, &b, &err), -ENOSPC);
	disarm();
	assert_non_null(strstr(err.text, "test.volatile on host was undone again"));
	assert_non_null(strstr(err.text, "could not be noted"));
	assert_state("b", "prior");
	/* its APPLIED alone */
	arm(WRITE, 2, 1, ENOSPC);
	assert_int_equal(change_apply(j, &c, &err), -ENOSPC);
	disarm();
	assert_non_null(strstr(err.text, "was undone again"));
	assert_null(strstr(err.text, "could not be noted"));
	/* a DONE: it is undone, and a restore looks at it once more */
	arm(WRITE, 1, 1 << 30, ENOSPC);
	assert_int_equal(change_undo(j, &a, &err), -ENOSPC);
	disarm();
	assert_state("a", "prior");
	assert_int_equal(journal_remove(j, &err), -ENOTEMPTY);
	assert_int_equal(journal_play(j, &res, &err), 0);
	assert_int_equal(res.undone, 2);
	assert_int_equal(res.already, 1);
	restore_result_clear(&res);
	assert_int_equal(journal_remove(j, &err), 0);
	clear(&a);
	clear(&b);
	clear(&c);
}

/* Neither written nor cut off again: the text says so, the next who appends cuts it off, and its number is used up. */
static void a_record_that_sticks(void **state)
{
	_cleanup_journal_ struct journal *j = NULL;
	const struct journal_entry *e;
	struct err err = {0};
	uint32_t seq = 0;
	size_t n;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	for (int durable = 0; durable < 2; durable++) {
		const struct change_ops *ops = durable ? &durable_ops : &volatile_ops;

		arm(SHORT_WRITE, 1, 2, EIO);
		fault.with = FTRUNCATE;
		fault.with_error = EROFS;
		assert_int_equal(journal_intent(j, ops, host, an_args, a_prior, &seq, &err), -EIO);
		assert_non_null(strstr(err.text, "could not be cut off again (Read-only file system), and may be found later"));
		/* nor can it be by the next */
		assert_int_equal(journal_intent(j, ops, host, an_args, a_prior, &seq, &err), -EROFS);
		disarm();
		assert_non_null(strstr(err.text, "cut off a torn record"));
		assert_int_equal(seq, 4 * (unsigned int)durable - (durable ? 1 : 0));
		assert_int_equal(journal_load(j, &e, &n, &err), 0);
		assert_int_equal(n, durable);
		assert_int_equal(journal_intent(j, ops, host, an_args, a_prior, &seq, &err), 0);
		assert_int_equal(seq, durable ? 6 : 3);
	}
	/* written, not synced, and not cut off: whole. It is an entry, and nobody else gets its number. */
	arm(FDATASYNC, 1, 1, EIO);
	fault.with = FTRUNCATE;
	fault.with_error = EIO;
	assert_int_equal(journal_intent(j, &durable_ops, host, an_args, a_prior, &seq, &err), -EIO);
	disarm();
	assert_int_equal(journal_intent(j, &volatile_ops, host, an_args, a_prior, &seq, &err), 0);
	assert_int_equal(seq, 8);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 4);
	assert_int_equal(e[2].seq, 7);
	/* interrupted while it is cut off */
	arm(WRITE, 1, 1, ENOSPC);
	assert_int_equal(journal_intent(j, &volatile_ops, host, an_args, a_prior, &seq, &err), -ENOSPC);
	arm(SHORT_WRITE, 1, 1, ENOSPC);
	fault.interrupt = true;
	assert_int_equal(journal_intent(j, &volatile_ops, host, an_args, a_prior, &seq, &err), -ENOSPC);
	assert_false(fault.interrupt);
	disarm();
	assert_null(strstr(err.text, "cut off"));
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 4);
}

/* A folder that was made by a try that failed is synced by the next. */
static void the_folders_are_synced_before_the_first_record_counts(void **state)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct err err = {0};
	uint32_t seq;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	/* lib's parent twice (made; the last), lib, lib/r1 made: then root again, lib, lib/r1 */
	for (int i = 1; i <= 5; i++) {
		arm(FSYNC, i, 1, EIO);
		assert_int_equal(journal_intent(j, &durable_ops, host, an_args, a_prior, &seq, &err), -EIO);
		assert_true(fault.hit);
		assert_non_null(strstr(err.text, "sync "));
		disarm();
		sweep();
		/* from the beginning: the files under it are gone */
		journal_close(TAKE_PTR(j));
		assert_int_equal(journal_create("r1", &j, &err), 0);
	}
	arm(FSYNC, 1, 1, EIO);
	assert_int_equal(journal_intent(j, &durable_ops, host, an_args, a_prior, &seq, &err), -EIO);
	arm(FSYNC, 0, 0, 0);
	assert_int_equal(journal_intent(j, &durable_ops, host, an_args, a_prior, &seq, &err), 0);
	assert_true(fault.count[FSYNC] >= 3);
	arm(FSYNC, 0, 0, 0);
	assert_int_equal(journal_intent(j, &durable_ops, host, an_args, a_prior, &seq, &err), 0);
	assert_int_equal(fault.count[FSYNC], 0);
	assert_int_equal(fault.count[FDATASYNC], 1);
	/* and so is each mark, or a power cut could leave a later one without it */
	arm(FSYNC, 0, 0, 0);
	for (enum journal_state m = JOURNAL_APPLIED; m <= JOURNAL_FAILED; m++)
		assert_int_equal(journal_mark(j, seq, m, NULL, &err), 0);
	assert_int_equal(fault.count[FDATASYNC], 4);
}

/* A mark reads nothing but what was written since: nothing at all, when it was this process. */
static void marks_do_not_read_everything_again(void **state)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct err err = {0};
	uint32_t seq[64];

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	arm(PREAD, 0, 0, 0);
	for (int i = 0; i < 64; i++)
		assert_int_equal(journal_intent(j, &volatile_ops, host, an_args, a_prior, &seq[i], &err), 0);
	for (int i = 0; i < 64; i++)
		assert_int_equal(journal_mark(j, seq[i], JOURNAL_DONE, NULL, &err), 0);
	assert_int_equal(fault.count[PREAD], 0);
}

/* ── others, in between ────────────────────────────────────────────────────────────────────── */

static int times;

static void remove_volatile(void)
{
	world_quiet++;
	(void)unlink(volatile_path("r1"));
	world_quiet--;
	if (--times > 0)
		before_lock = remove_volatile;
}

static void replace_volatile(void)
{
	const char *const frames[] = {"{\"run\":\"r1\",\"boot_id\":\"boot-1\"}", NULL};
	char aside[300];

	world_quiet++;
	snprintf(aside, sizeof(aside), "%s/aside", root);
	(void)rename(volatile_path("r1"), aside);
	write_frames_of(volatile_path("r1"), frames);
	assert_int_equal(chmod(volatile_path("r1"), 0600), 0);
	world_quiet--;
}

static struct journal *others;

static void lock_volatile(void)
{
	void (*again)(void) = TAKE_PTR(before_lock);
	struct err err = {0};

	(void)again;
	if (journal_open("r1", &others, &err) != 0)
		fail_msg("%s", err.text);
}

static void lock_and_remove(void)
{
	lock_volatile();
	assert_int_equal(journal_remove(others, NULL), 0);
	journal_close(TAKE_PTR(others));
}

/* A restore may come upon a journal that has just been made: whoever has the lock has the file, and both know. */
static void between_a_file_and_its_lock(void **state)
{
	struct journal *j = NULL;
	struct err err = {0};

	(void)state;
	before_lock = lock_volatile;
	assert_int_equal(journal_create("r1", &j, &err), -EBUSY);
	assert_int_equal(journal_remove(others, &err), 0);
	journal_close(TAKE_PTR(others));
	before_lock = lock_and_remove;
	assert_int_equal(journal_create("r1", &j, &err), -EBUSY);
	assert_non_null(strstr(err.text, "removed as soon as it was made"));
	assert_int_equal(access(volatile_path("r1"), F_OK), -1);
	/* opened, removed by another, and made again in the meantime */
	assert_int_equal(journal_create("r1", &j, &err), 0);
	journal_close(TAKE_PTR(j));
	before_lock = replace_volatile;
	assert_int_equal(journal_open("r1", &j, &err), 0);
	journal_close(TAKE_PTR(j));
	/* gone, again and again: a durable file is there, so a volatile one is made each time */
	assert_int_equal(unlink(volatile_path("r1")), 0);
	{
		const char *const frames[] = {"{\"run\":\"r1\",\"boot_id\":\"boot-1\"}", NULL};

		write_frames_of(durable_path("r1"), frames);
	}
	times = 3;
	before_lock = remove_volatile;
	assert_int_equal(journal_open("r1", &j, &err), 0);
	assert_int_equal(times, 0);
	journal_close(TAKE_PTR(j));
	times = 1000;
	before_lock = remove_volatile;
	assert_int_equal(journal_open("r1", &j, &err), -EAGAIN);
	before_lock = NULL;
	/* two restores after a reboot: the other one makes the file first */
	(void)unlink(volatile_path("r1"));
	before_create = replace_volatile;
	assert_int_equal(journal_open("r1", &j, &err), 0);
	journal_close(TAKE_PTR(j));
}

static void what_is_asked_and_not_answered(void **state)
{
	struct journal_found *found;
	struct journal *j = NULL;
	struct err err = {0};
	char path[300], link[300];
	int fd;
	size_t n;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	/* live, and its header is not to be read: the pid is not known */
	arm(PREAD, 1, 1, EIO);
	assert_int_equal(journal_list(&found, &n, &err), 0);
	disarm();
	assert_int_equal(n, 1);
	assert_true(found[0].live);
	assert_int_equal(found[0].pid, 0);
	journal_list_free(found, n);
	assert_int_equal(truncate(volatile_path("r1"), 5), 0);
	assert_int_equal(journal_list(&found, &n, &err), 0);
	assert_true(found[0].live);
	assert_int_equal(found[0].pid, 0);
	journal_list_free(found, n);
	journal_close(TAKE_PTR(j));
	/* not for this user to know */
	arm(OPEN, 1, 1, EACCES);
	assert_int_equal(journal_list(&found, &n, &err), -EACCES);
	arm(FSTATAT, 1, 1, EACCES);
	assert_int_equal(journal_list(&found, &n, &err), -EACCES);
	/* somebody's file system says EACCES for a lock that is another's */
	arm(FCNTL, 1, 1, EACCES);
	assert_int_equal(journal_open("r1", &j, NULL), -EBUSY);
	arm(FCNTL, 1, 1, ENOLCK);
	assert_int_equal(journal_open("r1", &j, &err), -ENOLCK);
	disarm();
	/* gone between the question and the opening */
	arm(ACCESS, 1, 1, EACCES);
	assert_int_equal(journal_open("r1", &j, &err), 0);
	disarm();
	journal_close(TAKE_PTR(j));
	/* links on the way that cannot be read, or followed for want of memory or descriptors */
	snprintf(link, sizeof(link), "%s/link", root);
	assert_int_equal(symlink(root, link), 0);
	snprintf(path, sizeof(path), "%s/link/there", root);
	arm(READLINKAT, 1, 1, EIO);
	assert_int_equal(trusted_dir(path, TRUSTED_MAKE, &fd, &err), -EIO);
	arm(VASPRINTF, 1, 1, ENOMEM);
	assert_int_equal(trusted_dir(path, TRUSTED_MAKE, &fd, &err), -ENOMEM);
	arm(OPEN, 2, 1, EMFILE);
	assert_int_equal(trusted_dir(path, TRUSTED_MAKE, &fd, &err), -EMFILE);
	disarm();
}

static void what_is_left_of_a_run(void **state)
{
	const char *const other_boot[] = {"{\"run\":\"r1\",\"boot_id\":\"boot-0\"}", NULL};
	const char *const damaged[] = {"[", "{\"run\":\"r1\",\"boot_id\":\"boot-1\"}", "{}", NULL};
	struct journal *j = NULL;
	const struct journal_entry *e;
	struct err err = {0};
	uint32_t seq;
	size_t n;

	(void)state;
	/* its folder is gone already, or holds something else: some systems say so in other words */
	static const int codes[] = {ENOENT, EEXIST, ENOTEMPTY};
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		assert_int_equal(journal_create("r1", &j, &err), 0);
		arm(UNLINKAT, 2, 1, codes[i]);
		assert_int_equal(journal_remove(j, &err), 0);
		assert_true(fault.hit);
		disarm();
		journal_close(TAKE_PTR(j));
	}
	assert_int_equal(journal_create("r1", &j, &err), 0);
	arm(UNLINKAT, 2, 1, EIO);
	assert_int_equal(journal_remove(j, &err), -EIO);
	assert_non_null(strstr(err.text, "settled"));
	disarm();
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(TAKE_PTR(j));
	/* the file that lies there is another one, on another file system */
	assert_int_equal(journal_create("r1", &j, &err), 0);
	other_device = true;
	assert_int_equal(journal_remove(j, &err), 0);
	assert_int_equal(access(volatile_path("r1"), F_OK), 0);
	other_device = false;
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(TAKE_PTR(j));
	/* a file of another boot, which cannot be begun anew */
	write_frames_of(volatile_path("r1"), other_boot);
	assert_int_equal(journal_open("r1", &j, &err), 0);
	arm(FTRUNCATE, 1, 1, EROFS);
	assert_int_equal(journal_intent(j, &volatile_ops, host, an_args, a_prior, &seq, &err), -EROFS);
	disarm();
	journal_close(TAKE_PTR(j));
	/* damage that there is no room for */
	write_frames_of(volatile_path("r1"), damaged);
	for (int nth = 1;; nth++) {
		arm(REALLOC, nth, 1, ENOMEM);
		if (journal_open("r1", &j, &err) == 0)
			break;
		assert_true(fault.hit);
	}
	disarm();
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 1);
	journal_close(TAKE_PTR(j));
}

static void short_of_memory(void **state)
{
	const char *const frames[] = {"{\"run\":\"r1\",\"boot_id\":\"boot-1\"}", NULL};
	struct journal *j = NULL;
	const struct journal_entry *e;
	struct err err = {0};
	uint32_t seq;
	size_t n;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(journal_intent(j, &volatile_ops, host, an_args, a_prior, &seq, &err), 0);
	/* a text that has to be made ASCII */
	arm(STRDUP, 1, 1, ENOMEM);
	assert_int_equal(journal_mark(j, seq, JOURNAL_FAILED, "caf\xc3", &err), 0);
	disarm();
	/* the entries fill their room: one more needs more */
	for (int i = 1; i < 16; i++)
		assert_int_equal(journal_intent(j, &volatile_ops, host, an_args, a_prior, &seq, &err), 0);
	/* the durable file cannot be read, and there is no room to say so */
	write_frames_of(durable_path("r1"), frames);
	json_set_alloc_funcs(json_alloc, free);
	for (int op = REALLOC; op <= JSON; op += JSON - REALLOC) {
		arm(FSTAT, 2, 1 << 30, EIO);
		fault.with = (enum op)op;
		fault.with_error = ENOMEM;
		assert_int_equal(journal_load(j, &e, &n, &err), -ENOMEM);
		disarm();
	}
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 16);
	json_set_alloc_funcs(malloc, free);
	journal_close(j);
}

/* Not root: then what is one's own is as good as root's, and nobody else's. */
static void who_runs_us(void **state)
{
	struct journal *j = NULL;
	struct err err = {0};
	char path[300];
	int fd;

	(void)state;
	if (getuid() != 0) {
		printf("SKIP: %s: only root can give a file away\n", __func__);
		skip();
	}
	assert_int_equal(journal_create("r1", &j, &err), 0);
	journal_close(TAKE_PTR(j));
	assert_int_equal(chown(volatile_path("r1"), 1234, 0), 0);
	user = 4321;
	assert_int_equal(journal_open("r1", &j, &err), -EPERM);
	user = 1234;
	assert_int_equal(journal_open("r1", &j, &err), 0);
	journal_close(TAKE_PTR(j));
	user = 0;
	/* a folder that somebody else makes at the same moment, and takes away again */
	snprintf(path, sizeof(path), "%s/there", root);
	arm(MKDIRAT, 1, 1, EEXIST);
	assert_int_equal(trusted_dir(path, TRUSTED_MAKE, &fd, &err), -ENOENT);
	disarm();
}

/* A look: what it finds, or why it cannot; and the run is as it was, whatever the kernel refuses. */
static void a_look_that_is_refused(void **state)
{
	static const enum op ops[] = {OPEN, FSTAT, PREAD, MALLOC, CALLOC, REALLOC, STRDUP, VASPRINTF};
	_cleanup_journal_ struct journal *j = NULL;
	size_t was[2], refused = 0, looked = 0;
	struct err err = {0};
	uint32_t seq;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(journal_intent(j, &volatile_ops, host, an_args, a_prior, &seq, &err), 0);
	assert_int_equal(journal_intent(j, &durable_ops, host, an_args, a_prior, &seq, &err), 0);
	assert_int_equal(journal_mark(j, seq, JOURNAL_CONFLICT, "somebody's", &err), 0);
	was[0] = size_of(volatile_path("r1"));
	was[1] = size_of(durable_path("r1"));
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		for (int nth = 1;; nth++) {
			_cleanup_journal_peek_ struct journal_peek p = {0};
			bool hit;
			int r;

			snprintf(the_case, sizeof(the_case), "a look: %s fails, the %d.", op_names[ops[i]], nth);
			err = (struct err){0};
			arm(ops[i], nth, 1, ops[i] >= MALLOC ? ENOMEM : EIO);
			r = journal_peek("r1", &p, &err);
			hit = fault.hit;
			disarm();
			assert_int_equal(size_of(volatile_path("r1")), was[0]);
			assert_int_equal(size_of(durable_path("r1")), was[1]);
			if (r < 0) {
				assert_true(hit);
				refused++;
				continue;
			}
			looked++;
			assert_int_equal(p.n, 2);
			assert_true(p.live);
			assert_int_equal(p.torn, 0);
			if (!hit)
				break;
		}
	assert_true(refused > ARRAY_SIZE(ops));
	assert_true(looked >= ARRAY_SIZE(ops));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_look_that_is_refused, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(whatever_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_disk_is_told_of, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(a_record_that_sticks, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(the_folders_are_synced_before_the_first_record_counts, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(marks_do_not_read_everything_again, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(between_a_file_and_its_lock, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(what_is_asked_and_not_answered, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(what_is_left_of_a_run, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(short_of_memory, setup_one, teardown_one),
		cmocka_unit_test_setup_teardown(who_runs_us, setup_one, teardown_one),
	};

	int r = cmocka_run_group_tests_name("journal, refused", tests, NULL, NULL);

	if (r)
		fprintf(stderr, "last case: %s\n", the_case);
	return r;
}
