/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What change.h promises, asked of every entry of change_table that gives an example: from the table alone, on a small site of
 * the test's own, with the whole site's snapshot compared.
 *
 *	life		capture changes nothing; apply changes something (verify says so); a fault is measured; undo puts it back;
 *			undo twice; undo without apply; all of it through the record's text, undone by a process of its own
 *	death		apply is killed before and after its Nth system call that changes anything, for N all over it; undo
 *			puts it back from the record. Then the same with undo killed, and undone again
 *	failure	the Nth such system call of apply fails: undo puts it back
 * How many points were visited is printed: as many as the time allows, and three at least.
 *
 * Every change that this kernel cannot make is skipped, with its own reason, and counted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include "tests/conformance/examples.h"

#define POINTS_MAX 12 /* of death or failure, spread evenly over an apply or an undo */
#define PATIENCE   (8 * NSEC_PER_SEC) /* for the points of one example: an emulated machine visits fewer of them */
#define POINTS_MIN 3

static struct example_site site;
static char self[4096];
static unsigned int checked, skipped;
static const char *only; /* changes with this in their name; NULL: all */

/* ── the site ──────────────────────────────────────────────────────────────────────────────── */

static int make(void **state _unused_)
{
	example_site_make(&site, self);
	return 0;
}

static int drop(void **state _unused_)
{
	example_site_drop(&site);
	return 0;
}

static void assert_as_before(const char *before, const char *when)
{
	_cleanup_free_ char *after = example_site_snapshot(&site);
	_cleanup_json_ json_t *diff = snapshot_diff(before, after);
	_cleanup_free_ char *text = json_dumps(diff, JSON_INDENT(1));

	if (!diff || json_array_size(diff) > 0)
		fail_msg("%s, the site is not as it was: %s", when, text);
}

/* ── a record ──────────────────────────────────────────────────────────────────────────────── */

/* What the journal would hold, and nothing else */
struct record {
	const struct change_ops *ops;
	struct node *node;
	json_t *args, *prior;
};

static void record_drop(struct record *r)
{
	node_free(r->node);
	json_decref(r->args);
	json_decref(r->prior);
	*r = (struct record){0};
}
#define _cleanup_record_ _cleanup_(record_drop)

static char *record_text(const struct change_ops *ops, const struct node *n, const json_t *args, const json_t *prior)
{
	_cleanup_json_ json_t *j = json_pack("{s:s, s:o, s:O, s:O}", "change", ops->name, "node", node_to_json(n), "args", args,
		"prior", prior);
	char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;

	assert_non_null(text);
	return text;
}

static int record_read(const char *text, struct record *ret, struct err *err)
{
	_cleanup_json_ json_t *j = json_loads(text, 0, NULL);
	struct record r = {.ops = change_find(json_string_value(json_object_get(j, "change")))};
	int k;

	if (!r.ops)
		return -EINVAL;
	k = node_from_json(json_object_get(j, "node"), &r.node, err);
	if (k < 0)
		return k;
	r.args = json_incref(json_object_get(j, "args"));
	r.prior = json_incref(json_object_get(j, "prior"));
	*ret = r;
	return 0;
}

/* Checks, resolves, asks for support, captures: the way of every change. NULL: not in this kernel; the reason was printed. */
static char *record_make(const struct example *o)
{
	_cleanup_json_ json_t *args = NULL, *prior = NULL;
	const struct node *n;
	struct err err = {0};
	int r = example_args(&site, o, &args, &n);

	if (r > 0)
		return NULL;
	r = o->ops->capture(n, args, &prior, &err);
	if (r == -EOPNOTSUPP) {
		printf("SKIP: %s: %s\n", o->name, err.text);
		return NULL;
	}
	if (r < 0)
		fail_msg("%s: capture: %s", o->name, err.text);
	return record_text(o->ops, n, args, prior);
}

enum { APPLY, UNDO };

static int do_step(const struct record *r, int step, struct err *err)
{
	return step == APPLY ? r->ops->apply(r->node, r->args, r->prior, err) :
			       r->ops->undo(r->node, r->args, r->prior, err);
}

static void must_undo(const char *text, const char *when)
{
	_cleanup_record_ struct record r = {0};
	struct err err = {0};
	int k = record_read(text, &r, &err);

	if (k < 0)
		fail_msg("%s: the record: %s", when, err.text);
	k = r.ops->undo(r.node, r.args, r.prior, &err);
	if (k != 0)
		fail_msg("%s: undo: %d: %s", when, k, err.text);
	k = r.ops->verify(r.node, r.args, r.prior, &err);
	if (k != 0)
		fail_msg("%s: verify: %d: %s", when, k, err.text);
}

static void must_apply(const char *text)
{
	_cleanup_record_ struct record r = {0};
	struct err err = {0};
	int k;

	assert_int_equal(record_read(text, &r, NULL), 0);
	k = r.ops->apply(r.node, r.args, r.prior, &err);
	if (k != 0)
		fail_msg("apply: %d: %s", k, err.text);
	k = r.ops->verify(r.node, r.args, r.prior, &err);
	if (k != 1)
		fail_msg("in force, and verify says %d: the example changes nothing, or verify does not look", k);
}

/* ── life ──────────────────────────────────────────────────────────────────────────────────── */

/* "SELF undo FILE": from the record's text alone */
static int undo_main(const char *path)
{
	_cleanup_record_ struct record r = {0};
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	int k = file_read(path, 16 << 20, &text, NULL);

	if (k == 0)
		k = record_read(text, &r, &err);
	if (k == 0)
		k = r.ops->undo(r.node, r.args, r.prior, &err);
	if (k == 0)
		k = r.ops->verify(r.node, r.args, r.prior, &err);
	if (k != 0)
		fprintf(stderr, "undo in another process: %d: %s\n", k, err.text);
	return k == 0 ? 0 : 1;
}

static void measure(const char *text)
{
	_cleanup_record_ struct record r = {0};
	_cleanup_json_ json_t *e = NULL;
	const json_t *proved;
	struct err err = {0};
	int k;

	assert_int_equal(record_read(text, &r, NULL), 0);
	if (r.ops->kind != CHANGE_FAULT)
		return;
	assert_non_null(r.ops->measure);
	k = r.ops->measure(r.node, r.args, r.prior, &e, &err);
	if (k != 0)
		fail_msg("measure: %d: %s", k, err.text);
	proved = json_object_get(e, "proved");
	assert_true(json_is_object(json_object_get(e, "asked")));
	assert_true(json_is_object(json_object_get(e, "measured")));
	assert_true(json_is_boolean(proved) || json_is_null(proved));
	assert_true(json_string_length(json_object_get(e, "text")) > 0);
}

/* A setting's own eyes: all of it stands as wanted when it is in force, and not all when it is not. */
static void looks(const char *text, bool in_force)
{
	_cleanup_record_ struct record r = {0};
	_cleanup_json_ json_t *items = NULL;
	unsigned int against = 0;
	struct err err = {0};
	const json_t *item;
	size_t i;

	assert_int_equal(record_read(text, &r, NULL), 0);
	if (!r.ops->look)
		return;
	if (r.ops->look(r.node, r.args, r.prior, &items, &err) < 0)
		fail_msg("look: %s", err.text);
	assert_true(json_array_size(items) > 0);
	json_array_foreach(items, i, item) {
		const json_t *holds = json_object_get(item, "holds");

		assert_true(json_string_length(json_object_get(item, "key")) > 0);
		assert_true(json_is_boolean(holds) || json_is_null(holds));
		if (json_is_true(holds) || json_is_null(holds))
			continue;
		against++;
		if (in_force)
			fail_msg("in force, and %s is %s instead of %s", json_string_value(json_object_get(item, "key")),
				json_string_value(json_object_get(item, "now")), json_string_value(json_object_get(item, "want")));
	}
	if (!in_force && against == 0)
		fail_msg("not in force, and all of it holds");
}

static void plain_words(const char *text)
{
	_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0}, apply2 = {0}, undo2 = {0};
	_cleanup_record_ struct record r = {0};

	assert_int_equal(record_read(text, &r, NULL), 0);
	assert_non_null(r.ops->command);
	assert_int_equal(r.ops->command(r.node, r.args, r.prior, &apply, &undo), 0);
	assert_true(apply.len > 0 && apply.s[apply.len - 1] == '\n');
	assert_true(undo.len > 0 && undo.s[undo.len - 1] == '\n');
	/* a plan made without a host */
	assert_int_equal(r.ops->command(r.node, r.args, NULL, &apply2, &undo2), 0);
	assert_true(apply2.len > 0);
}

static void life(const struct example *o)
{
	_cleanup_free_ char *before = example_site_snapshot(&site), *text = record_make(o), *again = NULL;

	assert_non_null(text);
	assert_as_before(before, "after a capture");
	plain_words(text);
	must_undo(text, "without an apply");
	assert_as_before(before, "after an undo without an apply");

	looks(text, false);
	must_apply(text);
	looks(text, true);
	measure(text);
	must_undo(text, "after an apply");
	assert_as_before(before, "after an undo");
	must_undo(text, "the second time");
	assert_as_before(before, "after an undo too many");

	/* and the same by another process, which has the text and nothing else */
	again = record_make(o);
	assert_non_null(again);
	must_apply(again);
	assert_int_equal(file_write("/run/record", again, strlen(again)), 0);
	sh("%s undo /run/record", self);
	assert_as_before(before, "after another process's undo");
}

/* ── death and failure ─────────────────────────────────────────────────────────────────────── */

/* System calls that change the world, or might: the places where it is interesting to die. */
static bool changes(uint64_t nr)
{
	static const long list[] = {SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_write, SYS_writev, SYS_pwrite64, SYS_ioctl,
		SYS_setsockopt, SYS_mount, SYS_umount2, SYS_unshare, SYS_setns, SYS_bpf, SYS_kill, SYS_tgkill,
		SYS_pidfd_send_signal, SYS_clone, SYS_clone3, SYS_execve, SYS_unlinkat, SYS_mkdirat, SYS_renameat2, SYS_prlimit64,
		SYS_sched_setaffinity, SYS_move_pages,
#ifdef SYS_unlink
		SYS_unlink, SYS_rmdir, SYS_mkdir, SYS_rename, SYS_fork, SYS_vfork,
#endif
	};

	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		if ((uint64_t)list[i] == nr)
			return true;
	return false;
}

enum mode { COUNT, DIE_BEFORE, DIE_AFTER, FAIL };

#ifdef __x86_64__
#define CAN_FAIL true
static void skip_call(pid_t pid)
{
	struct user_regs_struct regs;

	assert_int_equal(ptrace(PTRACE_GETREGS, pid, 0, &regs), 0);
	regs.orig_rax = (unsigned long long)-1;
	assert_int_equal(ptrace(PTRACE_SETREGS, pid, 0, &regs), 0);
}

static void set_result(pid_t pid, int error)
{
	struct user_regs_struct regs;

	assert_int_equal(ptrace(PTRACE_GETREGS, pid, 0, &regs), 0);
	regs.rax = (unsigned long long)(long long)-error;
	assert_int_equal(ptrace(PTRACE_SETREGS, pid, 0, &regs), 0);
}
#else
#define CAN_FAIL false
static void skip_call(pid_t pid _unused_)
{
}
static void set_result(pid_t pid _unused_, int error _unused_)
{
}
#endif

/*
 * Runs @step of the record in a child, and lets the @n-th changing system call (from 0) be its last, or fail with EIO. Returns how
 * many there were; *ret_status: how the child ended: 0, 1 (the step failed), or -1 (killed by us).
 */
static unsigned int run_step(const char *text, int step, enum mode mode, unsigned int n, int *ret_status)
{
	unsigned int seen = 0;
	bool failing = false;
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct record r = {0};
		int k;

		/* cmocka would catch it and go on with the tests, in here */
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
		signal(SIGFPE, SIG_DFL);
		if (record_read(text, &r, NULL) < 0)
			_exit(2);
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		k = do_step(&r, step, NULL);
		_exit(k == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status));
	/* only this one thread is followed: what it starts lives on after its death, as it would */
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD), 0);
	*ret_status = -1;
	for (int signal = 0;;) {
		struct __ptrace_syscall_info info = {0};
		static uint64_t entered;

		if (ptrace(PTRACE_SYSCALL, pid, 0, signal) < 0 || waitpid(pid, &status, 0) != pid)
			fail_msg("the traced child was lost: %s", strerror(errno));
		signal = 0;
		if (WIFEXITED(status)) {
			*ret_status = WEXITSTATUS(status);
			assert_int_not_equal(*ret_status, 2);
			return seen;
		}
		if (!WIFSTOPPED(status) && mode == FAIL && WTERMSIG(status) == SIGABRT)
			return seen; /* a failure that leaves a thread in a foreign namespace is answered by abort() */
		if (!WIFSTOPPED(status))
			fail_msg("the traced child was killed by signal %d", WTERMSIG(status));
		if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
			if (WSTOPSIG(status) != SIGTRAP)
				signal = WSTOPSIG(status);
			continue;
		}
		assert_true(ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) > 0);
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
			entered = info.entry.nr;
			if (changes(entered) && seen == n && mode == FAIL) {
				skip_call(pid);
				failing = true;
			}
			if (!changes(entered) || seen != n || mode != DIE_BEFORE)
				continue;
		} else {
			if (failing)
				set_result(pid, EIO);
			failing = false;
			if (!changes(entered))
				continue;
			if (seen++ != n || mode != DIE_AFTER)
				continue;
		}
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		return seen;
	}
}

/*
 * The @k-th of @n points spread evenly over @total, ends included; not in their order but far apart at first, so that a visit that
 * ends early has been everywhere: 7 has no divisor in common with any n up to POINTS_MAX but 7 itself.
 */
static unsigned int point(unsigned int k, unsigned int n, unsigned int total)
{
	unsigned int i = n == 7 ? k : k * 7 % n;

	return n < 2 ? 0 : (unsigned int)((uint64_t)i * (total - 1) / (n - 1));
}

static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		; /* process 1 inherits the orphans */
}

static void death_and_failure(const struct example *o)
{
	_cleanup_free_ char *before = example_site_snapshot(&site), *first = record_make(o);
	unsigned int total[2], points[2], visited[2] = {0};
	int status;

	assert_non_null(first);
	for (int step = APPLY; step <= UNDO; step++) {
		total[step] = run_step(first, step, COUNT, UINT32_MAX, &status);
		assert_int_equal(status, 0);
		assert_true(total[step] > 0);
		points[step] = MIN(total[step], POINTS_MAX);
	}
	assert_as_before(before, "after an apply and an undo by children");
	for (int step = APPLY; step <= UNDO; step++) {
		nsec_t until = now_ns() + PATIENCE / 2;

		for (unsigned int k = 0; k < points[step] && (k < POINTS_MIN || now_ns() < until); k++, visited[step]++) {
			for (enum mode mode = DIE_BEFORE; mode <= (CAN_FAIL && step == APPLY ? FAIL : DIE_AFTER); mode++) {
				static const char *const names[] = {"", "killed before", "killed after", "failing at"};
				_cleanup_free_ char *text = record_make(o), *when = NULL;
				unsigned int n = point(k, points[step], total[step]);

				assert_non_null(text);
				when = strf("%s %s its change %u of %u", step == APPLY ? "an apply" : "an undo", names[mode], n,
					total[step]);
				if (step == UNDO)
					must_apply(text);
				(void)run_step(text, step, mode, n, &status);
				reap();
				must_undo(text, when);
				assert_as_before(before, when);
			}
		}
	}
	printf("    %s: %u of %u points of an apply, %u of %u of an undo\n", o->name, visited[APPLY], total[APPLY],
		visited[UNDO], total[UNDO]);
	reap();
}

/* ── all of the table ──────────────────────────────────────────────────────────────────────── */

static void conforms(void **state)
{
	const struct example *o = *state;
	_cleanup_free_ char *probe = NULL;

	if (!o->json) {
		printf("SKIP: %s: it gives no example\n", o->name);
		skipped++;
		skip();
	}
	probe = example_site_serve(&site, o) == 0 ? record_make(o) : NULL;
	if (!probe) {
		skipped++;
		skip();
	}
	life(o);
	death_and_failure(o);
	checked++;
}

/* What the table itself promises, with or without an example */
static void table_is_sound(void **state _unused_)
{
	for (const struct change_ops *const *c = change_table; *c; c++) {
		const struct change_ops *o = *c;

		assert_ptr_equal(change_find(o->name), o);
		assert_non_null(o->summary);
		assert_true(o->summary[0] && o->summary[strlen(o->summary) - 1] != '.');
		assert_non_null(o->params);
		assert_non_null(o->capture);
		assert_non_null(o->apply);
		assert_non_null(o->undo);
		assert_non_null(o->verify);
		assert_non_null(o->command);
		assert_true((o->kind == CHANGE_FAULT) == (strncmp(o->name, "fault.", 6) == 0));
		assert_true((o->kind == CHANGE_SETTING) == (strncmp(o->name, "set.", 4) == 0 || strncmp(o->name, "lvs.", 4) == 0));
		assert_true((o->kind == CHANGE_LAB) == (strncmp(o->name, "lab.", 4) == 0));
		if (o->kind == CHANGE_FAULT)
			assert_non_null(o->measure);
		for (const struct param *p = o->params; p->name; p++)
			assert_true(p->help && p->help[0]);
	}
}

static void something_was_checked(void **state _unused_)
{
	printf("    %u examples conform, %u skipped\n", checked, skipped);
	assert_true(only || checked > 0);
}

static void add_tests(struct CMUnitTest **tests, size_t *n, const struct change_ops *ops)
{
	size_t count = example_count(ops);

	for (size_t i = 0; i < count; i++) {
		struct example *o = calloc(1, sizeof(*o));
		struct CMUnitTest *more = realloc(*tests, (*n + 1) * sizeof(**tests));

		if (!o || !more)
			exit(1);
		*tests = more;
		example_get(ops, i, o);
		(*tests)[(*n)++] = (struct CMUnitTest){.name = o->name, .test_func = conforms, .initial_state = o};
	}
}

int main(int argc, char **argv)
{
	struct CMUnitTest *tests = malloc(sizeof(*tests));
	size_t n = 0;
	int failed;

	if (argc == 2 && streq(argv[1], "daemon"))
		return example_daemon_main();
	if (argc == 3 && streq(argv[1], "undo"))
		return undo_main(argv[2]);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 || !tests)
		return 1;
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	only = argc > 1 ? argv[1] : NULL; /* "SELF netem" */
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(table_is_sound);
	for (const struct change_ops *const *c = change_table; *c; c++)
		if (!only || strstr((*c)->name, only))
			add_tests(&tests, &n, *c);
	tests = realloc(tests, (n + 1) * sizeof(*tests));
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(something_was_checked);
	failed = _cmocka_run_group_tests("changes", tests, n, make, drop);
	for (size_t i = 0; i < n; i++) {
		struct example *o = tests[i].initial_state;

		if (o)
			json_decref(o->json);
		free(o);
	}
	free(tests);
	return failed;
}
