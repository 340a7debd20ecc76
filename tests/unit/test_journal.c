/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The laws of journal.c, and what may be found on a disk. What a disk refuses: test_journal_fault.c; what it loses:
 * test_journal_power.c.
 * wrap: change_find clock_boot_id
 */
#include <stdarg.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "engine/trusted.h"
#include "tests/unit/journal_world.h"

/* ── the tests ─────────────────────────────────────────────────────────────────────────────── */

static void crc_is_castagnolis(void **state)
{
	uint8_t zeros[32] = {0}, ones[32];

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	/* RFC 3720, B.4 */
	assert_int_equal(crc32c(zeros, 32), 0x8a9136aa);
	assert_int_equal(crc32c(ones, 32), 0x62a8ab43);
	assert_int_equal(crc32c("123456789", 9), 0xe3069283);
}

static void a_change_lives_and_ends(void **state)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct change a = make(&volatile_ops, "a", NULL), b = make(&durable_ops, "b", NULL);
	const struct journal_entry *e;
	struct err err = {0};
	size_t n;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(change_apply(j, &a, &err), 0);
	assert_int_equal(change_apply(j, &b, &err), 0);
	assert_state("a", "ours");
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(e[0].state, JOURNAL_APPLIED);
	assert_string_equal(e[1].change, "test.durable");
	assert_int_equal(journal_remove(j, &err), -ENOTEMPTY);
	assert_int_equal(change_undo(j, &b, &err), 0);
	assert_int_equal(change_undo(j, &a, &err), 0);
	assert_string_equal(undone, "ba");
	assert_state("b", "prior");
	assert_int_equal(journal_remove(j, &err), 0);
	assert_int_equal(access(run_dir, F_OK), 0);
	assert_int_equal(journal_open("r1", &(struct journal *){NULL}, &err), -ENOENT);
	clear(&a);
	clear(&b);
}

static void apply_that_fails_is_taken_back(void **state)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct change a = make(&volatile_ops, "a", "apply_fails");
	struct err err = {0};

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(change_apply(j, &a, &err), -EIO);
	assert_string_equal(err.text, "as asked");
	assert_state("a", "prior");
	assert_int_equal(journal_remove(j, &err), 0);
	clear(&a);
}

static void play_is_last_in_first_out_and_idempotent(void **state)
{
	struct change c[3] = {make(&volatile_ops, "a", NULL), make(&durable_ops, "b", NULL), make(&volatile_ops, "c", NULL)};
	struct restore_result res;
	struct journal *j;
	struct err err = {0};

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(change_apply(j, &c[i], &err), 0);
	journal_close(j); /* the drill is dead: hot */
	res = play("r1", 0);
	assert_int_equal(res.undone, 3);
	assert_string_equal(undone, "cba");
	restore_result_clear(&res);
	res = play("r1", 0);
	assert_int_equal(res.undone, 0);
	assert_int_equal(res.already, 3);
	assert_string_equal(undone, "cba");
	restore_result_clear(&res);
	for (size_t i = 0; i < 3; i++)
		clear(&c[i]);
}

static void what_cannot_be_undone_does_not_stop_the_rest(void **state)
{
	struct change c[4] = {make(&volatile_ops, "a", NULL), make(&volatile_ops, "b", "undo_fails"),
		make(&volatile_ops, "c", "verify_fails"), make(&volatile_ops, "d", NULL)};
	struct restore_result res;
	struct journal *j;
	struct err err = {0};

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(change_apply(j, &c[i], &err), 0);
	assert_int_equal(write_state(c[3].args, "theirs"), 0);
	journal_close(j);
	res = play("r1", 0);
	assert_int_equal(res.undone, 1);
	assert_int_equal(res.failed, 2);
	assert_int_equal(res.conflicts, 1);
	assert_state("a", "prior");
	assert_state("d", "theirs");
	restore_result_clear(&res);
	/* the failed ones stay hot, the conflict is settled */
	assert_int_equal(journal_open("r1", &j, &err), 0);
	assert_int_equal(journal_remove(j, &err), -ENOTEMPTY);
	journal_close(j);
	for (size_t i = 0; i < 4; i++)
		clear(&c[i]);
}

static void a_live_run_is_locked(void **state)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct journal *other = NULL;
	struct journal_found *found;
	struct err err = {0};
	size_t n;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(journal_create("r1", &other, &err), -EEXIST);
	assert_int_equal(journal_open("r1", &other, &err), -EBUSY);
	assert_non_null(strstr(err.hint, "muster halt r1"));
	assert_int_equal(journal_list(&found, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_true(found[0].live);
	assert_int_equal(found[0].pid, getpid());
	journal_list_free(found, n);
	journal_close(TAKE_PTR(j));
	assert_int_equal(journal_list(&found, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_false(found[0].live);
	journal_list_free(found, n);
	assert_int_equal(journal_create("../r1", &other, &err), -EINVAL);
	assert_int_equal(journal_open("", &other, &err), -EINVAL);
}

static void a_reboot_voids_what_was_volatile(void **state)
{
	struct change a = make(&volatile_ops, "a", NULL), b = make(&durable_ops, "b", NULL);
	struct restore_result res;
	struct journal *j;
	struct err err = {0};

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(change_apply(j, &a, &err), 0);
	assert_int_equal(change_apply(j, &b, &err), 0);
	journal_close(j);
	boot_id = "boot-2";
	res = play("r1", 0);
	assert_int_equal(res.undone, 1);
	assert_string_equal(undone, "b");
	assert_state("a", "ours");
	restore_result_clear(&res);
	clear(&a);
	clear(&b);
}


/* What the child holds, the lock of its parent, is held until both are gone. */
static void a_lock_is_shared_with_the_children(void **state)
{
	struct journal *j = NULL, *other = NULL;
	struct err err = {0};
	int hold[2];
	pid_t pid;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(pipe(hold), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char c;

		close(hold[1]);
		_exit(read(hold[0], &c, 1) == 0 ? 0 : 1);
	}
	close(hold[0]);
	journal_close(j);
	assert_int_equal(journal_open("r1", &other, NULL), -EBUSY);
	close(hold[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(journal_open("r1", &other, &err), 0);
	journal_close(other);
}

/* Ten thousand questions whether it is live do not keep a restore from its lock. */
static void asking_who_is_live_takes_no_lock(void **state)
{
	struct journal *j = NULL;
	struct err err = {0};
	int ready[2];
	char c;
	pid_t pid;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	journal_close(j);
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		for (int i = 0;; i++) {
			struct journal_found *found;
			size_t n;

			if (journal_list(&found, &n, NULL) < 0)
				_exit(1);
			journal_list_free(found, n);
			if (i == 0 && write(ready[1], "y", 1) != 1)
				_exit(1);
		}
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(journal_open("r1", &j, &err), 0);
		journal_close(j);
	}
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(ready[0]);
	close(ready[1]);
}

/* The guard is there first; the engine, its child, makes the durable file. */
static void the_guard_finds_the_engines_durable_changes(void **state)
{
	struct journal *j = NULL;
	struct restore_result res = {0};
	struct err err = {0};
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct change a = make(&volatile_ops, "a", NULL), b = make(&durable_ops, "b", NULL),
			      c = make(&one_way_ops, "c", NULL);

		if (change_apply(j, &a, NULL) || change_apply(j, &b, NULL) || change_apply(j, &c, NULL))
			_exit(1);
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(journal_remove(j, &err), -ENOTEMPTY);
	assert_int_equal(journal_play(j, &res, &err), 0);
	assert_int_equal(res.undone, 3);
	assert_string_equal(undone, "cba");
	restore_result_clear(&res);
	assert_int_equal(journal_remove(j, &err), 0);
	assert_int_equal(access(volatile_path("r1"), F_OK), -1);
	assert_int_equal(access(durable_path("r1"), F_OK), -1);
	journal_close(j);
}

/* Both write at once: nothing of either is lost, or taken for torn, and no number is used twice. */
static void two_processes_append_to_one_journal(void **state)
{
	enum { EACH = 150 };
	_cleanup_json_ json_t *args = json_pack("{s:s}", "name", "a"), *prior = json_object();
	const struct journal_entry *e;
	struct journal *j = NULL;
	struct err err = {0};
	size_t n;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	pid = fork();
	assert_true(pid >= 0);
	for (int i = 0; i < EACH; i++) {
		/* an undo is longer than a page of the file system's now and then */
		_cleanup_free_ char *text = calloc(1, 9000);
		uint32_t seq;
		int r;

		memset(text, 'x', i % 7 == 0 ? 8999 : 9);
		json_object_set_new(prior, "text", json_string(text));
		r = journal_intent(j, i % 9 ? &volatile_ops : &durable_ops, host, args, prior, &seq, &err);
		if (r == 0)
			r = journal_mark(j, seq, JOURNAL_DONE, NULL, &err);
		if (pid == 0 && r < 0)
			_exit(1);
		assert_int_equal(r, 0);
	}
	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	journal_close(j);
	assert_int_equal(journal_open("r1", &j, &err), 0);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 2 * EACH);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(e[i].seq, i + 1);
		assert_int_equal(e[i].state, JOURNAL_DONE);
	}
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(j);
}

/* ── what may be found on a disk ───────────────────────────────────────────────────────────── */

/* A journal of both kinds, and what stands in it */
static void write_story(json_t *written, struct change c[4])
{
	const struct journal_entry *e;
	struct journal *j;
	struct err err = {0};
	size_t n;

	c[0] = make(&volatile_ops, "a", NULL);
	c[1] = make(&durable_ops, "b", NULL);
	c[2] = make(&volatile_ops, "c", NULL);
	c[3] = make(&durable_ops, "d", NULL);
	assert_int_equal(journal_create("r1", &j, &err), 0);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(change_apply(j, &c[i], &err), 0);
	assert_int_equal(change_undo(j, &c[3], &err), 0);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	for (size_t i = 0; i < n; i++)
		json_array_append(written, e[i].record);
	journal_close(j);
}

/* Every entry that is read is one that was written; returns how many. */
static size_t check_read(const json_t *written, bool may_be_damaged)
{
	_cleanup_journal_ struct journal *j = NULL;
	const struct journal_entry *e;
	struct err err = {0};
	size_t n, read = 0;
	int r = journal_open("r1", &j, &err);

	if (r == -EPROTONOSUPPORT && may_be_damaged) /* "MJ1" may become "MJ3" */
		return 0;
	assert_int_equal(r, 0);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	for (size_t i = 0; i < n; i++) {
		if (e[i].seq == 0) {
			assert_true(may_be_damaged);
			assert_null(e[i].ops);
			assert_string_equal(e[i].change, JOURNAL_DAMAGED);
			continue;
		}
		assert_in_range(e[i].seq, 1, json_array_size(written));
		assert_true(json_equal(e[i].record, json_array_get(written, e[i].seq - 1)));
		read++;
	}
	return read;
}

static void read_whole(const char *path, char **ret, size_t *ret_len)
{
	assert_int_equal(file_read(path, 1 << 20, ret, ret_len), 0);
}

/* Cut anywhere: no crash, and whatever had an INTENT that is whole is put back; nothing is called damaged. */
static void torn_at_every_byte(void **state)
{
	_cleanup_json_ json_t *written = json_array();
	char *whole[2] = {NULL, NULL};
	struct change c[4];
	size_t len[2], played = 0, states = 0;

	(void)state;
	write_story(written, c);
	read_whole(volatile_path("r1"), &whole[0], &len[0]);
	read_whole(durable_path("r1"), &whole[1], &len[1]);
	for (size_t cut = 0; cut <= len[0] + len[1]; cut++, states++) {
		bool in_durable = cut > len[0];
		struct restore_result res;
		size_t n;

		assert_int_equal(file_write(volatile_path("r1"), whole[0], in_durable ? len[0] : cut), 0);
		assert_int_equal(file_write(durable_path("r1"), whole[1], in_durable ? cut - len[0] : len[1]), 0);
		for (size_t i = 0; i < 4; i++)
			write_state(c[i].args, "ours");
		n = check_read(written, false);
		undone[0] = '\0';
		res = play("r1", 0);
		assert_int_equal(res.failed + res.conflicts, 0);
		assert_int_equal(res.undone + res.already, n);
		for (size_t i = 0; i < 4; i++) {
			const char *name = json_string_value(json_object_get(c[i].args, "name"));

			assert_state(name, strstr(undone, name) ? "prior" : "ours");
		}
		if (!in_durable || cut == len[0] + len[1])
			assert_state("d", "ours"); /* it was DONE: whoever set it again did not ask us */
		played += res.undone;
		restore_result_clear(&res);
		/* what was appended behind the cut can be read again */
		res = play("r1", 0);
		assert_int_equal(res.undone, 0);
		assert_int_equal(res.already, n);
		restore_result_clear(&res);
	}
	assert_true(played > states);
	printf("torn: %zu states, %zu changes undone\n", states, played);
	free(whole[0]);
	free(whole[1]);
	for (size_t i = 0; i < 4; i++)
		clear(&c[i]);
}

/* Any byte may be any other: what is read was written, and one byte costs one record. */
static void each_byte_flipped(void **state)
{
	static const uint8_t masks[] = {0xff, 0x01, 0x02, 0x20, 0x80};
	_cleanup_json_ json_t *written = json_array();
	struct change c[4];
	size_t states = 0;

	(void)state;
	write_story(written, c);
	for (int f = 0; f < 2; f++) {
		_cleanup_free_ char *whole = NULL;
		const char *path = f ? durable_path("r1") : volatile_path("r1");
		size_t len;

		read_whole(path, &whole, &len);
		for (size_t at = 0; at < len; at++) {
			for (size_t m = 0; m < ARRAY_SIZE(masks); m++, states++) {
				size_t n;

				whole[at] = (char)(whole[at] ^ masks[m]);
				assert_int_equal(file_write(path, whole, len), 0);
				n = check_read(written, true);
				if (n == 0)
					assert_true(at == 2);
				else
					assert_true(n >= 3);
				whole[at] = (char)(whole[at] ^ masks[m]);
			}
		}
		assert_int_equal(file_write(path, whole, len), 0);
	}
	assert_int_equal(check_read(written, false), 4);
	printf("flipped: %zu states\n", states);
	for (size_t i = 0; i < 4; i++)
		clear(&c[i]);
}

#define HEADER(run, boot) "{\"run\":\"" run "\",\"boot_id\":\"" boot "\",\"pid\":7}"
#define INTENT(seq, change, name)                                                                  \
	"{\"seq\":" seq ",\"intent\":{\"change\":\"" change                                            \
	"\",\"node\":{\"name\":\"host\",\"ino\":0,\"cookie\":0,\"links\":[]},\"args\":{\"name\":\"" name \
	"\"},\"prior\":{\"was\":\"prior\"}}}"
#define MARK(seq, mark) "{\"seq\":" seq ",\"mark\":\"" mark "\"}"

/* Writes the frames, plays, and says "UNDONE-NAMES/undone/already/failed": empty files do not exist */
static const char *outcome_of(const char *const *volatil, const char *const *durable)
{
	static char text[300];
	struct restore_result res;
	static const char *const names[] = {"a", "b", "c", NULL};

	sweep();
	if (volatil)
		write_frames_of(volatile_path("r1"), volatil);
	if (durable)
		write_frames_of(durable_path("r1"), durable);
	for (const char *const *n = names; *n; n++) {
		_cleanup_json_ json_t *args = json_pack("{s:s}", "name", *n);

		assert_int_equal(write_state(args, "ours"), 0);
	}
	res = play("r1", 0);
	snprintf(text, sizeof(text), "%s/%u/%u/%u", undone, res.undone, res.already, res.failed);
	restore_result_clear(&res);
	return text;
}

#define FRAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

static void headers_that_are_not_as_they_should_be(void **state)
{
	(void)state;
	/* of this run and this boot */
	assert_string_equal(outcome_of(FRAMES(HEADER("r1", "boot-1"), INTENT("1", "test.volatile", "a")), NULL), "a/1/0/0");
	/* another boot: void, and so is what is damaged in it; for a durable file that is no matter */
	assert_string_equal(outcome_of(FRAMES(HEADER("r1", "boot-0"), INTENT("1", "test.volatile", "a")), NULL), "/0/0/0");
	assert_string_equal(outcome_of(NULL, FRAMES(HEADER("r1", "boot-0"), INTENT("1", "test.durable", "b"))), "b/1/0/0");
	assert_string_equal(outcome_of(FRAMES(HEADER("r1", "boot-0"), "[]", INTENT("1", "test.volatile", "a")), NULL), "/0/0/0");
	/* none: of which boot a volatile change is cannot be told, so it is reported; a durable one is undone */
	assert_string_equal(outcome_of(FRAMES(INTENT("1", "test.volatile", "a")), NULL), "/0/0/1");
	assert_string_equal(outcome_of(NULL, FRAMES(INTENT("1", "test.durable", "b"))), "b/1/0/0");
	/* another run's: reported, not played */
	assert_string_equal(outcome_of(FRAMES(HEADER("r2", "boot-1"), INTENT("1", "test.volatile", "a")), NULL), "/0/0/1");
	assert_string_equal(outcome_of(NULL, FRAMES(HEADER("r2", "boot-1"), INTENT("1", "test.durable", "b"))), "/0/0/1");
	/* a second one is none */
	assert_string_equal(outcome_of(FRAMES(HEADER("r1", "boot-1"), INTENT("1", "test.volatile", "a"),
				       HEADER("r2", "boot-0"), INTENT("2", "test.volatile", "c")),
				    NULL),
		"ca/2/0/0");
	/* nothing can be added behind a header like that */
	{
		_cleanup_json_ json_t *args = json_pack("{s:s}", "name", "c"), *prior = json_object();
		_cleanup_journal_ struct journal *j = NULL;
		struct err err = {0};
		uint32_t seq;

		outcome_of(FRAMES(HEADER("r2", "boot-1")), NULL);
		assert_int_equal(journal_open("r1", &j, &err), 0);
		assert_int_equal(journal_intent(j, &volatile_ops, host, args, prior, &seq, &err), -EUCLEAN);
		assert_non_null(strstr(err.text, "header"));
	}
	/* a boot that has no name is no boot in particular */
	boot_id = "unknown";
	assert_string_equal(outcome_of(FRAMES(HEADER("r1", "unknown"), INTENT("1", "test.volatile", "a")), NULL), "/0/0/1");
}

static void records_that_are_not_as_they_should_be(void **state)
{
	const char *const h = HEADER("r1", "boot-1");

	(void)state;
	/* one number twice, in two files: two changes, and each mark is its own file's */
	assert_string_equal(outcome_of(FRAMES(h, INTENT("1", "test.volatile", "a")),
				    FRAMES(h, INTENT("1", "test.durable", "b"), MARK("1", "done"))),
		"a/1/1/0");
	/* in one file: the same again is the same; another one is reported */
	assert_string_equal(outcome_of(FRAMES(h, INTENT("1", "test.volatile", "a"), INTENT("1", "test.volatile", "a")), NULL),
		"a/1/0/0");
	assert_string_equal(outcome_of(FRAMES(h, INTENT("1", "test.volatile", "a"), INTENT("1", "test.volatile", "c")), NULL),
		"a/1/0/1");
	/* marks: for nobody, of a newer muster, in the other file, again */
	assert_string_equal(outcome_of(FRAMES(h, MARK("9", "done"), INTENT("1", "test.volatile", "a"), MARK("1", "parked"),
				       "{\"seq\":1,\"mark\":7}", MARK("-1", "done"), MARK("4294967297", "done")),
				    FRAMES(h, MARK("1", "done"))),
		"a/1/0/0");
	assert_string_equal(outcome_of(FRAMES(h, INTENT("1", "test.volatile", "a"), MARK("1", "done"), MARK("1", "done")), NULL),
		"/0/1/0");
	assert_string_equal(outcome_of(FRAMES(h, INTENT("1", "test.volatile", "a"), MARK("1", "failed")), NULL), "a/1/0/0");
	/* kinds that are not known change nothing; a change that is not known, and an INTENT that makes no sense, are reported */
	assert_string_equal(outcome_of(FRAMES(h, "{\"seq\":1,\"note\":\"x\"}", "{}", INTENT("2", "test.volatile", "a")), NULL),
		"a/1/0/0");
	assert_string_equal(outcome_of(FRAMES(h, INTENT("1", "test.newer", "a")), NULL), "/0/0/1");
	assert_string_equal(outcome_of(FRAMES(h, "{\"seq\":1,\"intent\":{}}", "{\"seq\":2,\"intent\":[]}",
				       INTENT("0", "test.volatile", "a"), INTENT("-5", "test.volatile", "a"),
				       INTENT("1.5", "test.volatile", "a"), INTENT("4294967296", "test.volatile", "a"),
				       "{\"seq\":3,\"intent\":{\"change\":[]}}"),
				    NULL),
		"/0/0/7");
	/* whole, and no JSON object; or shorter than any, which is one damaged stretch */
	assert_string_equal(outcome_of(FRAMES(h, "[]", "", "{", "7", "\"\"", INTENT("1", "test.volatile", "a")), NULL), "a/1/0/3");
	/* JSON, and not as it is written here: a name twice, blanks, a letter that need not be escaped */
	assert_string_equal(outcome_of(FRAMES(h, "{\"seq\":1,\"seq\":2}", "{ }", "{\"a\":\"\\u0041\"}", "{\"a\":100e0}"), NULL), "/0/0/4");
	assert_string_equal(outcome_of(FRAMES("[]", h, INTENT("1", "test.volatile", "a")), NULL), "/0/0/2");
	/* an entry whose node or prior is no such thing fails by itself */
	assert_string_equal(outcome_of(FRAMES(h, INTENT("1", "test.volatile", "a"),
				       "{\"seq\":2,\"intent\":{\"change\":\"test.volatile\",\"node\":[]}}",
				       "{\"seq\":3,\"intent\":{\"change\":\"test.volatile\"}}"),
				    NULL),
		"a/1/0/2");
}

/* A look sees what is there, of this boot or of another, and changes nothing: not a lock, not a torn tail. */
static void a_look_changes_nothing(void **state)
{
	const char *const h = HEADER("r1", "boot-1");
	struct change a = make(&volatile_ops, "a", NULL), b = make(&durable_ops, "b", NULL);
	struct journal_peek p = {0};
	struct journal *j;
	struct err err = {0};
	struct stat was, is;
	FILE *f;

	(void)state;
	assert_int_equal(journal_peek("r1", &p, &err), -ENOENT);
	assert_int_equal(journal_peek("../r1", &p, &err), -EINVAL);
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(change_apply(j, &a, &err), 0);
	assert_int_equal(journal_peek("r1", &p, &err), 0);
	assert_int_equal(p.n, 1);
	assert_true(p.live && !p.is_void && p.torn == 0 && p.header);
	assert_true(p.entries[0].intended > 0 && p.entries[0].marked >= p.entries[0].intended);
	assert_true(p.modified > 0);
	journal_peek_clear(&p);
	assert_int_equal(change_apply(j, &b, &err), 0);
	journal_close(j);
	f = fopen(volatile_path("r1"), "ae");
	fputs("MJ1\n", f);
	fclose(f);
	assert_int_equal(stat(volatile_path("r1"), &was), 0);
	boot_id = "boot-2";
	assert_int_equal(journal_peek("r1", &p, &err), 0);
	assert_int_equal(p.n, 2);
	assert_true(!p.live && p.is_void && p.torn == 4);
	for (size_t i = 0; i < p.n; i++) {
		assert_true(p.entries[i].is_void == !p.entries[i].durable);
		assert_non_null(p.entries[i].ops);
	}
	journal_peek_clear(&p);
	assert_int_equal(stat(volatile_path("r1"), &is), 0);
	assert_int_equal(is.st_size, was.st_size);
	assert_true(is.st_mtim.tv_nsec == was.st_mtim.tv_nsec);

	/* a time that cannot be; a newer format; a link; the durable file alone */
	write_frames_of(durable_path("r1"), FRAMES(h, "{\"seq\":1,\"at\":9223372036854775807,\"intent\":{\"change\":\"x\"}}"));
	assert_int_equal(unlink(volatile_path("r1")), 0);
	assert_int_equal(journal_peek("r1", &p, &err), 0);
	assert_int_equal(p.n, 1);
	assert_int_equal(p.entries[0].intended, 0);
	journal_peek_clear(&p);
	assert_int_equal(file_write(durable_path("r1"), "MJ2\nwhatever", 12), 0);
	assert_int_equal(journal_peek("r1", &p, &err), -EPROTONOSUPPORT);
	assert_int_equal(symlink("/dev/null", volatile_path("r1")), 0);
	assert_int_equal(journal_peek("r1", &p, &err), -ELOOP);
	assert_non_null(strstr(err.text, volatile_path("r1")));
	assert_int_equal(unlink(volatile_path("r1")), 0);
	clear(&a);
	clear(&b);
}

/* Nested deeper than JSON may be, on a disk: reported. Asked to write it, or a text with a NUL in it: refused, and not there. */
static void what_could_not_be_read_back_is_not_written(void **state)
{
	_cleanup_free_ char *deep = calloc(1, 10000);
	_cleanup_json_ json_t *nested = json_object(), *nul = json_pack("{s:s%}", "name", "a\0b", (size_t)3),
			      *prior = json_object();
	const struct journal_entry *e;
	struct journal *j;
	struct err err = {0};
	uint32_t seq = 0;
	size_t n, size;
	struct stat st;

	(void)state;
	memset(deep, '[', 4000);
	memset(deep + 4000, ']', 4000);
	assert_string_equal(outcome_of(FRAMES(HEADER("r1", "boot-1"), deep, INTENT("1", "test.volatile", "a")), NULL), "a/1/0/1");
	sweep();
	for (int i = 0; i < 3000; i++) {
		json_t *outer = json_pack("{s:o}", "in", nested);

		nested = outer;
	}
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(stat(volatile_path("r1"), &st), 0);
	size = (size_t)st.st_size;
	assert_int_equal(journal_intent(j, &volatile_ops, host, nested, prior, &seq, &err), -EILSEQ);
	assert_int_equal(journal_intent(j, &volatile_ops, host, nul, prior, &seq, &err), -EILSEQ);
	assert_int_equal(journal_intent(j, &durable_ops, host, nul, prior, &seq, &err), -EILSEQ);
	assert_int_equal(seq, 0);
	assert_int_equal(stat(volatile_path("r1"), &st), 0);
	assert_int_equal(st.st_size, size);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 0);
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(j);
}

static void limits_are_refused_before_anything_is_changed(void **state)
{
	_cleanup_json_ json_t *prior = json_object(), *args = json_pack("{s:s}", "name", "a"), *big = NULL;
	_cleanup_free_ char *text = malloc(JOURNAL_RECORD_MAX + 1);
	struct change c = make(&volatile_ops, "a", NULL);
	const struct journal_entry *e;
	struct journal *j;
	struct err err = {0};
	uint32_t seq;
	size_t n;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	memset(text, 'x', JOURNAL_RECORD_MAX);
	text[JOURNAL_RECORD_MAX] = '\0';
	big = json_pack("{s:s}", "name", text);
	assert_int_equal(journal_intent(j, &volatile_ops, host, big, prior, &seq, &err), -EFBIG);
	for (int i = 0; i < JOURNAL_ENTRIES_MAX; i++)
		assert_int_equal(journal_intent(j, &volatile_ops, host, args, prior, &seq, &err), 0);
	assert_int_equal(change_apply(j, &c, &err), -E2BIG);
	assert_non_null(strstr(err.text, "nothing has changed"));
	assert_state("a", "prior");
	/* and all that was taken can be read, and marked */
	assert_int_equal(journal_mark(j, seq, JOURNAL_DONE, NULL, &err), 0);
	journal_close(j);
	assert_int_equal(journal_open("r1", &j, &err), 0);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, JOURNAL_ENTRIES_MAX);
	journal_close(j);
	clear(&c);
	/* the last number that there is */
	assert_string_equal(outcome_of(FRAMES(HEADER("r1", "boot-1"), INTENT("2", "test.volatile", "a"),
				       INTENT("4294967295", "test.volatile", "c"), INTENT("1", "test.volatile", "b")),
				    NULL),
		"cab/3/0/0");
	assert_int_equal(journal_open("r1", &j, &err), 0);
	assert_int_equal(journal_intent(j, &volatile_ops, host, args, prior, &seq, &err), -E2BIG);
	journal_close(j);
	/* and a file that is long enough */
	sweep();
	journal_file_max = 1000;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	for (n = 0; journal_intent(j, &volatile_ops, host, args, prior, &seq, &err) == 0; n++)
		;
	assert_in_range(n, 4, 10);
	assert_non_null(strstr(err.text, "full"));
	for (uint32_t i = 1; i <= n; i++)
		assert_int_equal(journal_mark(j, i, JOURNAL_DONE, NULL, &err), 0);
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(j);
	journal_file_max = 256u << 20;
	write_frames_of(volatile_path("r1"), FRAMES(HEADER("r1", "boot-1")));
	/* a file that grew out of all proportion; sparse, so that it costs nothing */
	assert_int_equal(truncate(volatile_path("r1"), (off_t)journal_file_max * 3), 0);
	assert_int_equal(journal_open("r1", &j, &err), -EFBIG);
}

/* The header is written before what it is the header of, whatever was left of the one before. */
static void a_file_without_a_header_gets_one(void **state)
{
	_cleanup_json_ json_t *prior = json_pack("{s:s}", "was", "prior"), *args = json_pack("{s:s}", "name", "a");
	static const char *const left[] = {"", "MJ1\n", "MJ1\n\x20", NULL};
	const char *const void_frames[] = {HEADER("r1", "boot-0"), INTENT("1", "test.volatile", "c"), NULL};

	(void)state;
	for (int i = 0; i < 4; i++) {
		struct restore_result res;
		struct journal *j;
		struct err err = {0};
		uint32_t seq;

		sweep();
		write_frames_of(volatile_path("r1"), void_frames);
		if (left[i])
			assert_int_equal(file_write(volatile_path("r1"), left[i], strlen(left[i])), 0);
		assert_int_equal(journal_open("r1", &j, &err), 0);
		assert_int_equal(journal_intent(j, &volatile_ops, host, args, prior, &seq, &err), 0);
		assert_int_equal(journal_intent(j, &durable_ops, host, args, prior, &seq, &err), 0);
		journal_close(j);
		assert_int_equal(write_state(args, "ours"), 0);
		res = play("r1", 0);
		assert_int_equal(res.undone, 2);
		assert_int_equal(res.failed, 0);
		restore_result_clear(&res);
		boot_id = "boot-2"; /* and it is this boot's */
		write_state(args, "ours");
		res = play("r1", 0);
		assert_int_equal(res.already, 1);
		restore_result_clear(&res);
		boot_id = "boot-1";
	}
}

static void a_newer_format_is_not_touched(void **state)
{
	static const char newer[] = "MJ2\nwhatever it says";
	_cleanup_free_ char *now = NULL;
	struct journal *j = NULL;
	struct err err = {0};

	(void)state;
	write_frames_of(volatile_path("r1"), FRAMES(HEADER("r1", "boot-1")));
	write_frames_of(durable_path("r1"), FRAMES(HEADER("r1", "boot-1")));
	for (int f = 0; f < 2; f++) {
		const char *path = f ? durable_path("r1") : volatile_path("r1");

		assert_int_equal(file_write(path, newer, sizeof(newer) - 1), 0);
		assert_int_equal(journal_open("r1", &j, &err), -EPROTONOSUPPORT);
		assert_non_null(strstr(err.text, path));
		assert_non_null(strstr(err.hint, "restore.sh"));
		free(TAKE_PTR(now));
		assert_int_equal(file_read(path, 100, &now, NULL), 0);
		assert_string_equal(now, newer);
		assert_int_equal(file_write(path, "MJ:\n", 4), 0); /* no number */
		assert_int_equal(journal_open("r1", &j, &err), 0);
		journal_close(j);
		assert_int_equal(file_write(path, "MJ22", 4), 0); /* no frame */
		assert_int_equal(journal_open("r1", &j, &err), 0);
		journal_close(j);
	}
}

static void run_ids_are_names(void **state)
{
	static const char *const bad[] = {"", ".", "..", ".hidden", "a/b", "../r1", "a b", "a\n", "ä", "r1/", "$(id)", NULL};
	struct journal *j = NULL;
	struct journal_found *found;
	struct err err = {0};
	char dir[300], longest[160];
	size_t n;

	(void)state;
	memset(longest, 'x', sizeof(longest));
	longest[129] = '\0';
	assert_int_equal(journal_create(longest, &j, &err), -EINVAL);
	longest[128] = '\0';
	assert_int_equal(journal_create(longest, &j, &err), 0);
	assert_string_equal(journal_run_id(j), longest);
	assert_int_equal(journal_remove(j, &err), 0);
	journal_close(j);
	for (const char *const *b = bad; *b; b++) {
		assert_int_equal(journal_create(*b, &j, &err), -EINVAL);
		assert_int_equal(journal_open(*b, &j, &err), -EINVAL);
	}
	/* and what else lies there is no run */
	snprintf(dir, sizeof(dir), "%s/.hidden", run_dir);
	assert_int_equal(mkdir_p(dir), 0);
	snprintf(dir, sizeof(dir), "%s/.hidden/undo.journal", run_dir);
	assert_int_equal(file_write(dir, "", 0), 0);
	snprintf(dir, sizeof(dir), "%s/lock", run_dir);
	assert_int_equal(file_write(dir, "", 0), 0);
	snprintf(dir, sizeof(dir), "%s/empty", run_dir);
	assert_int_equal(mkdir_p(dir), 0);
	assert_int_equal(journal_list(&found, &n, &err), 0);
	assert_int_equal(n, 0);
	journal_list_free(found, n);
}

/* ── who may have written it ───────────────────────────────────────────────────────────────── */

static void refused(int code, const char *what)
{
	struct journal *j = NULL;
	struct err err = {0};

	assert_int_equal(journal_open("r1", &j, NULL), code);
	assert_int_equal(journal_open("r1", &j, &err), code);
	if (!strstr(err.text, what))
		fail_msg("\"%s\" is not in \"%s\"", what, err.text);
}

static void what_others_can_write_is_not_played(void **state)
{
	struct change a = make(&volatile_ops, "a", NULL), b = make(&durable_ops, "b", NULL);
	struct journal *j;
	struct err err = {0};
	char dir[256], moved[256];
	struct restore_result res;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(change_apply(j, &a, &err), 0);
	assert_int_equal(change_apply(j, &b, &err), 0);
	journal_close(j);
	for (int f = 0; f < 2; f++) {
		const char *file = f ? durable_path("r1") : volatile_path("r1"), *top = f ? lib_dir : run_dir;

		snprintf(dir, sizeof(dir), "%s/r1", top);
		/* the file, the run's folder, the one above, sticky or not, and one on the way */
		assert_int_equal(chmod(file, 0602), 0);
		refused(-EPERM, "others may write to");
		assert_int_equal(chmod(file, 0600), 0);
		assert_int_equal(chmod(dir, 0777), 0);
		refused(-EPERM, "others may write to");
		assert_int_equal(chmod(dir, 01777), 0);
		refused(-EPERM, "others may write to");
		assert_int_equal(chmod(dir, 0755), 0);
		assert_int_equal(chmod(top, 01777), 0);
		refused(-EPERM, "others may write to");
		assert_int_equal(chmod(top, 0755), 0);
		assert_int_equal(chmod(root, 0777), 0);
		refused(-EPERM, "others may write to");
		assert_int_equal(chmod(root, 01777), 0);
		assert_int_equal(journal_open("r1", &j, &err), 0);
		journal_close(j);
		assert_int_equal(chmod(root, 0700), 0);
		/* links: to the file, to the folders */
		snprintf(moved, sizeof(moved), "%s/moved", root);
		assert_int_equal(rename(file, moved), 0);
		assert_int_equal(symlink(moved, file), 0);
		refused(-ELOOP, "undo.journal");
		assert_int_equal(unlink(file), 0);
		assert_int_equal(mkfifo(file, 0600), 0);
		refused(-EPERM, "no plain file");
		assert_int_equal(unlink(file), 0);
		assert_int_equal(rename(moved, file), 0);
		assert_int_equal(rename(dir, moved), 0);
		assert_int_equal(symlink(moved, dir), 0);
		refused(-ELOOP, "symbolic link");
		assert_int_equal(unlink(dir), 0);
		assert_int_equal(rename(moved, dir), 0);
		assert_int_equal(rename(top, moved), 0);
		assert_int_equal(symlink("moved", top), 0);
		refused(-ELOOP, "symbolic link");
		assert_int_equal(unlink(top), 0);
		assert_int_equal(rename(moved, top), 0);
	}
	assert_string_equal(undone, "");
	res = play("r1", 0);
	assert_int_equal(res.undone, 2);
	restore_result_clear(&res);
	clear(&a);
	clear(&b);
}

static void what_belongs_to_others_is_not_played(void **state)
{
	struct change a = make(&volatile_ops, "a", NULL), b = make(&durable_ops, "b", NULL);
	struct journal *j;
	struct err err = {0};
	char dir[256];

	(void)state;
	if (geteuid() != 0) {
		printf("SKIP: %s: only root can give a file away\n", __func__);
		clear(&a);
		clear(&b);
		skip();
	}
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(change_apply(j, &a, &err), 0);
	assert_int_equal(change_apply(j, &b, &err), 0);
	journal_close(j);
	for (int f = 0; f < 2; f++) {
		const char *file = f ? durable_path("r1") : volatile_path("r1"), *top = f ? lib_dir : run_dir;
		const char *places[3] = {file, dir, top};

		snprintf(dir, sizeof(dir), "%s/r1", top);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(chown(places[i], 65534, 0), 0);
			refused(-EPERM, "belongs to user 65534");
			assert_int_equal(chown(places[i], 0, 0), 0);
			/* a group of root's is root; another is others */
			assert_int_equal(chmod(places[i], 0770), 0);
			assert_int_equal(journal_open("r1", &j, &err), 0);
			journal_close(j);
			assert_int_equal(chown(places[i], 0, 65534), 0);
			assert_int_equal(chmod(places[i], 0770), 0);
			refused(-EPERM, "others may write to");
			assert_int_equal(chown(places[i], 0, 0), 0);
			assert_int_equal(chmod(places[i], i ? 0755 : 0600), 0);
		}
	}
	/* nor is anything made there */
	assert_int_equal(chown(run_dir, 65534, 0), 0);
	assert_int_equal(journal_create("r2", &j, &err), -EPERM);
	assert_int_equal(chown(run_dir, 0, 0), 0);
	assert_int_equal(chown(lib_dir, 65534, 0), 0);
	assert_int_equal(journal_create("r2", &j, &err), 0);
	json_decref(TAKE_PTR(b.prior));
	assert_int_equal(change_apply(j, &b, &err), -EPERM);
	assert_non_null(strstr(err.text, "nothing has changed"));
	journal_close(j);
	clear(&a);
	clear(&b);
}

/* ── the way to it ─────────────────────────────────────────────────────────────────────────── */

/* On the way, root's links are followed, to wherever they lead. */
static void links_on_the_way(void **state)
{
	char real[200], link[200], path[300], target[300];
	struct err err = {0};
	int fd = -1;

	(void)state;
	snprintf(real, sizeof(real), "%s/real/deep", root);
	assert_int_equal(mkdir_p(real), 0);
	snprintf(link, sizeof(link), "%s/link", root);
	snprintf(path, sizeof(path), "%s/link//there/", root);
	static const char *const targets[] = {"real", "/", "./real/deep/..", NULL};
	for (const char *const *t = targets; *t; t++) {
		snprintf(target, sizeof(target), "%s%s", (*t)[0] == '/' ? root : *t, (*t)[0] == '/' ? "/real" : "");
		assert_int_equal(symlink(target, link), 0);
		if (trusted_dir(path, TRUSTED_MAKE | TRUSTED_SYNC, &fd, &err) != 0)
			fail_msg("%s", err.text);
		close(fd);
		snprintf(target, sizeof(target), "%s/real/there", root);
		assert_int_equal(rmdir(target), 0);
		assert_int_equal(trusted_dir(path, 0, &fd, &err), -ENOENT);
		snprintf(target, sizeof(target), "%s/real/there", root);
		assert_non_null(strstr(err.text, "there"));
		assert_int_equal(unlink(link), 0);
	}
	/* in a circle; to a file; the root itself */
	assert_int_equal(symlink("link", link), 0);
	assert_int_equal(trusted_dir(path, 0, &fd, &err), -ELOOP);
	assert_int_equal(unlink(link), 0);
	assert_int_equal(file_write(link, "", 0), 0);
	assert_int_equal(trusted_dir(path, 0, &fd, &err), -ENOTDIR);
	assert_int_equal(trusted_dir("/", 0, &fd, &err), 0);
	close(fd);
}

/* A durable file that cannot be read: the volatile changes are undone all the same, and the rest is reported. */
static void one_file_does_not_keep_the_other_from_being_undone(void **state)
{
	struct change a = make(&volatile_ops, "a", NULL), b = make(&durable_ops, "b", NULL);
	struct restore_result res = {0};
	const struct journal_entry *e;
	_cleanup_journal_ struct journal *j = NULL;
	struct err err = {0};
	int status;
	uint32_t seq;
	size_t n;
	pid_t pid;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(change_apply(j, &a, &err), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(change_apply(j, &b, NULL) ? 1 : 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(chmod(lib_dir, 0777), 0);
	assert_int_equal(journal_play(j, &res, &err), 0);
	assert_int_equal(res.undone, 1);
	assert_int_equal(res.failed, 1);
	restore_result_clear(&res);
	assert_state("a", "prior");
	assert_state("b", "ours");
	assert_int_equal(journal_intent(j, &volatile_ops, host, a.args, a.prior, &seq, &err), -EIO);
	assert_non_null(strstr(err.text, "others may write to"));
	assert_int_equal(journal_remove(j, &err), -ENOTEMPTY);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_non_null(strstr(e[0].change, "the durable journal"));
	assert_int_equal(chmod(lib_dir, 0755), 0);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(e[0].seq, 1);
	assert_int_equal(journal_play(j, &res, &err), 0);
	assert_int_equal(res.undone, 1);
	assert_int_equal(res.failed, 0);
	restore_result_clear(&res);
	assert_int_equal(journal_remove(j, &err), 0);
	clear(&a);
	clear(&b);
}

/* What a page of the log looks like is not for muster to choose: a text cut in the middle of a letter, say. */
static void a_mark_takes_any_text(void **state)
{
	_cleanup_json_ json_t *prior = json_object(), *args = json_pack("{s:s}", "name", "a");
	_cleanup_journal_ struct journal *j = NULL;
	_cleanup_free_ char *text = NULL;
	const struct journal_entry *e;
	struct err err = {0};
	uint32_t seq;
	size_t n, len;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(journal_intent(j, &volatile_ops, host, args, prior, &seq, &err), 0);
	assert_int_equal(journal_mark(j, seq, JOURNAL_CONFLICT, "caf\xc3", &err), 0);
	assert_int_equal(journal_mark(j, seq + 1, JOURNAL_DONE, NULL, &err), -ENOENT);
	assert_int_equal(journal_mark(j, 0, JOURNAL_DONE, NULL, &err), -ENOENT);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(e[0].state, JOURNAL_CONFLICT);
	read_whole(volatile_path("r1"), &text, &len);
	assert_non_null(memmem(text, len, "caf?", 4));
	assert_int_equal(journal_remove(j, &err), 0);
	assert_int_equal(journal_remove(j, &err), 0); /* the guard does it again */
}

/* The file under the name is another run's by now: it is not this one's to remove. */
static void only_its_own_file_is_removed(void **state)
{
	struct journal *j, *again;
	struct err err = {0};

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(unlink(volatile_path("r1")), 0);
	assert_int_equal(journal_create("r1", &again, &err), 0);
	assert_int_equal(journal_remove(j, &err), 0);
	assert_int_equal(access(volatile_path("r1"), F_OK), 0);
	assert_int_equal(journal_remove(again, &err), 0);
	assert_int_equal(access(volatile_path("r1"), F_OK), -1);
	journal_close(j);
	journal_close(again);
}

/* A run's name may come again; what it left on the disk then is not the new one's. */
static void a_run_that_left_something_is_not_begun_again(void **state)
{
	struct journal *j = NULL;
	struct err err = {0};

	(void)state;
	write_frames_of(durable_path("r1"), FRAMES(HEADER("r1", "boot-0"), INTENT("1", "test.durable", "b")));
	assert_int_equal(journal_create("r1", &j, &err), -EEXIST);
	assert_int_equal(access(volatile_path("r1"), F_OK), -1);
	assert_int_equal(journal_open("r1", &j, &err), 0);
	journal_close(j);
	boot_id = "unknown";
	assert_int_equal(journal_create("r2", &j, &err), -ENOTSUP);
	assert_int_equal(access(volatile_path("r2"), F_OK), -1);
}

/* Cut shorter by somebody else while it is open: read again from the beginning. */
static void a_file_that_shrank(void **state)
{
	_cleanup_json_ json_t *prior = json_object(), *args = json_pack("{s:s}", "name", "a");
	_cleanup_journal_ struct journal *j = NULL;
	const struct journal_entry *e;
	struct err err = {0};
	struct stat st;
	uint32_t seq;
	size_t n;

	(void)state;
	assert_int_equal(journal_create("r1", &j, &err), 0);
	assert_int_equal(journal_intent(j, &volatile_ops, host, args, prior, &seq, &err), 0);
	assert_int_equal(stat(volatile_path("r1"), &st), 0);
	assert_int_equal(journal_intent(j, &volatile_ops, host, args, prior, &seq, &err), 0);
	assert_int_equal(truncate(volatile_path("r1"), st.st_size), 0);
	assert_int_equal(journal_load(j, &e, &n, &err), 0);
	assert_int_equal(n, 1);
	/* the number that is gone is not used again */
	assert_int_equal(journal_intent(j, &volatile_ops, host, args, prior, &seq, &err), 0);
	assert_int_equal(seq, 3);
	assert_int_equal(journal_mark(j, 2, JOURNAL_DONE, NULL, &err), -ENOENT);
}

/* Several runs, of which a reboot has left some with one file only */
static void the_list_knows_both_folders(void **state)
{
	struct journal_found *found;
	struct journal *j;
	struct err err = {0};
	size_t n;

	(void)state;
	write_frames_of(volatile_path("r1"), FRAMES(HEADER("r1", "boot-1")));
	write_frames_of(volatile_path("r2"), FRAMES(HEADER("r2", "boot-1")));
	write_frames_of(durable_path("r2"), FRAMES(HEADER("r2", "boot-1")));
	write_frames_of(durable_path("r3"), FRAMES(HEADER("r3", "boot-1")));
	assert_int_equal(journal_open("r2", &j, &err), 0);
	assert_int_equal(journal_list(&found, &n, &err), 0);
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(found[i].live, streq(found[i].run_id, "r2"));
	journal_list_free(found, n);
	journal_close(j);
	/* and a restore says what is wrong with the one that is left */
	assert_int_equal(chmod(lib_dir, 0777), 0);
	assert_int_equal(journal_open("r3", &j, &err), -EPERM);
	assert_non_null(strstr(err.text, lib_dir));
}

/* SIGKILL between any two writes: a child applies and undoes, and is killed at its Nth write. */
static void killed_at_every_record(void **state)
{
	int boundaries = 0;

	(void)state;
	for (int nth = 1;; nth++) {
		struct restore_result res;
		char id[16];
		pid_t pid;
		int status;

		snprintf(id, sizeof(id), "kill-%d", nth);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			struct change a = make(&volatile_ops, "a", NULL), b = make(&durable_ops, "b", NULL);
			struct change *const order[] = {&a, &b};
			struct journal *j;
			int left = nth;

			if (journal_create(id, &j, NULL) < 0)
				_exit(9);
			for (size_t i = 0; i < 2; i++) {
				if (left-- == 0)
					raise(SIGKILL);
				if (change_apply(j, order[i], NULL) < 0)
					_exit(9);
			}
			for (size_t i = 2; i-- > 0;) {
				if (left-- == 0)
					raise(SIGKILL);
				if (change_undo(j, order[i], NULL) != 0)
					_exit(9);
			}
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
		res = play(id, 0);
		assert_int_equal(res.failed + res.conflicts, 0);
		restore_result_clear(&res);
		assert_state("a", "prior");
		assert_state("b", "prior");
		if (!WIFSIGNALED(status))
			break;
		boundaries++;
	}
	assert_true(boundaries >= 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc_is_castagnolis),
		cmocka_unit_test_setup_teardown(a_change_lives_and_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(apply_that_fails_is_taken_back, setup, teardown),
		cmocka_unit_test_setup_teardown(play_is_last_in_first_out_and_idempotent, setup, teardown),
		cmocka_unit_test_setup_teardown(what_cannot_be_undone_does_not_stop_the_rest, setup, teardown),
		cmocka_unit_test_setup_teardown(a_live_run_is_locked, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reboot_voids_what_was_volatile, setup, teardown),
		cmocka_unit_test_setup_teardown(a_look_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_lock_is_shared_with_the_children, setup, teardown),
		cmocka_unit_test_setup_teardown(asking_who_is_live_takes_no_lock, setup, teardown),
		cmocka_unit_test_setup_teardown(the_guard_finds_the_engines_durable_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(two_processes_append_to_one_journal, setup, teardown),
		cmocka_unit_test_setup_teardown(torn_at_every_byte, setup, teardown),
		cmocka_unit_test_setup_teardown(each_byte_flipped, setup, teardown),
		cmocka_unit_test_setup_teardown(headers_that_are_not_as_they_should_be, setup, teardown),
		cmocka_unit_test_setup_teardown(records_that_are_not_as_they_should_be, setup, teardown),
		cmocka_unit_test_setup_teardown(what_could_not_be_read_back_is_not_written, setup, teardown),
		cmocka_unit_test_setup_teardown(limits_are_refused_before_anything_is_changed, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_without_a_header_gets_one, setup, teardown),
		cmocka_unit_test_setup_teardown(a_newer_format_is_not_touched, setup, teardown),
		cmocka_unit_test_setup_teardown(run_ids_are_names, setup, teardown),
		cmocka_unit_test_setup_teardown(what_others_can_write_is_not_played, setup, teardown),
		cmocka_unit_test_setup_teardown(what_belongs_to_others_is_not_played, setup, teardown),
		cmocka_unit_test_setup_teardown(links_on_the_way, setup, teardown),
		cmocka_unit_test_setup_teardown(one_file_does_not_keep_the_other_from_being_undone, setup, teardown),
		cmocka_unit_test_setup_teardown(a_mark_takes_any_text, setup, teardown),
		cmocka_unit_test_setup_teardown(only_its_own_file_is_removed, setup, teardown),
		cmocka_unit_test_setup_teardown(a_run_that_left_something_is_not_begun_again, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_that_shrank, setup, teardown),
		cmocka_unit_test_setup_teardown(the_list_knows_both_folders, setup, teardown),
		cmocka_unit_test_setup_teardown(killed_at_every_record, setup, teardown),
	};

	return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
