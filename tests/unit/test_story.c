/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What story.h tells of journals that no drill would leave easily: every state, a change that nobody knows, text that would talk to a
 * terminal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "engine/journal.h"
#include "engine/run_script.h"
#include "engine/story.h"

static char root[] = "/tmp/muster-story-XXXXXX";
static char *run_root, *lib_root;
static struct node *host;

static int make(void **state _unused_)
{
	if (!mkdtemp(root))
		return -1;
	run_root = strf("%s/run", root);
	lib_root = strf("%s/lib", root);
	journal_volatile_root = run_root;
	journal_durable_root = lib_root;
	host = node_new("host", NULL);
	return host && node_open(host, NULL) == 0 ? 0 : -1;
}

static int drop(void **state _unused_)
{
	_cleanup_free_ char *command = strf("rm -rf %s", root);

	free(run_root);
	free(lib_root);
	node_free(host);
	return system(command);
}

static void intend(struct journal *j, const struct change_ops *ops, const struct node *n, const char *args, const char *prior,
	enum journal_state state, const char *text)
{
	_cleanup_json_ json_t *a = json_loads(args, 0, NULL), *p = json_loads(prior, 0, NULL);
	struct err err = {0};
	uint32_t seq;

	assert_non_null(a);
	assert_non_null(p);
	if (journal_intent(j, ops, n, a, p, &seq, &err) < 0 || (state != JOURNAL_INTENT && journal_mark(j, seq, state, text, &err) < 0))
		fail_msg("%s", err.text);
}

static void assert_has(const char *text, const char *what)
{
	if (!strstr(text, what))
		fail_msg("\"%s\" is not in: %s", what, text);
}

static void every_state(void **state _unused_)
{
	static const struct change_ops newer = {.name = "fault.tomorrow", .class = CHANGE_DURABLE};
	_cleanup_node_ struct node *gone = node_new("gone", "/nonexistent/net\033[2Jns");
	const struct change_ops *sysctl = change_find("set.sysctl");
	static const char args[] = "{\"node\": \"host\", \"values\": {\"net.core.somaxconn\": \"2\"}}",
			  prior[] = "{\"values\": [{\"key\": \"net.core.somaxconn\", \"path\": \"/x\", \"text\": \"1\"}]}";
	_cleanup_strbuf_ struct strbuf text = {0}, line = {0};
	_cleanup_json_ json_t *story = NULL;
	struct journal *j;
	struct err err = {0};

	assert_int_equal(journal_create("all", &j, &err), 0);
	intend(j, sysctl, host, args, prior, JOURNAL_INTENT, NULL);
	intend(j, sysctl, host, args, prior, JOURNAL_DONE, NULL);
	intend(j, sysctl, host, args, prior, JOURNAL_CONFLICT, "it is \"3\"\033]0;title\007, neither\nnor");
	intend(j, sysctl, host, args, prior, JOURNAL_FAILED, "write: Permission denied");
	intend(j, &newer, host, "{\"long\": \"00112233445566778899aabbccddeeff00112233\"}", "{}", JOURNAL_APPLIED, NULL);
	intend(j, sysctl, gone, args, prior, JOURNAL_APPLIED, NULL);
	assert_int_equal(story_read("all", &story, &err), 0);
	assert_string_equal(json_string_value(json_object_get(story, "state")), "live");
	json_decref(TAKE_PTR(story));
	journal_close(j);

	assert_int_equal(story_read("all", &story, &err), 0);
	story_text(story, &text);
	assert_null(strchr(strbuf_cstr(&text), '\033'));
	assert_null(strchr(strbuf_cstr(&text), '\007'));
	assert_has(strbuf_cstr(&text), "all: hot: its drill was cut off\n");
	assert_has(strbuf_cstr(&text), "\n1. 20");
	assert_has(strbuf_cstr(&text), "set.sysctl on host was about to be made: it may or may not have happened\n");
	assert_has(strbuf_cstr(&text), "set.sysctl on host was made, and undone (20");
	assert_has(strbuf_cstr(&text), "set.sysctl on host was left alone: somebody else had changed it (20");
	assert_has(strbuf_cstr(&text), "because  it is \"3\" ]0;title , neither nor\n");
	assert_has(strbuf_cstr(&text), "set.sysctl on host could not be undone (20");
	assert_has(strbuf_cstr(&text), "because  write: Permission denied\n    restore  would try again\n    by hand  sysctl -w net.core.somaxconn=1\n");
	assert_has(strbuf_cstr(&text), "fault.tomorrow on host was made, and is not undone\n    change   nothing → long: <20 bytes>\n"
				       "    restore  would fail: this muster does not know it; the restore.sh of the run does\n");
	assert_has(strbuf_cstr(&text), "set.sysctl on gone was made, and is not undone\n");
	assert_has(strbuf_cstr(&text), "would do nothing: its network namespace is gone, and the change with it\n");
	assert_has(strbuf_cstr(&text), "change   values: [{key: net.core.somaxconn, path: /x, text: 1}] → values: {net.core.somaxconn: 2}\n");
	/* last first */
	assert_true(strstr(strbuf_cstr(&text), "\n6. ") < strstr(strbuf_cstr(&text), "\n1. "));
	story_line(story, &line);
	assert_string_equal(strbuf_cstr(&line), "5 changes are not undone: set.sysctl on gone, fault.tomorrow on host, set.sysctl on host (failed), "
						"set.sysctl on host (conflict), set.sysctl on host (intended)");
	assert_false(story_is_void(story));
}

/* Cut at every byte: it tells what is whole, says that there is a tail, and leaves the file as it is. */
static void torn_at_every_byte(void **state _unused_)
{
	_cleanup_free_ char *path = strf("%s/torn/undo.journal", run_root), *bytes = NULL;
	unsigned int torn = 0;
	struct journal *j;
	struct err err = {0};
	size_t len;

	assert_int_equal(journal_create("torn", &j, &err), 0);
	intend(j, change_find("set.sysctl"), host, "{}", "{\"values\": []}", JOURNAL_APPLIED, NULL);
	journal_close(j);
	assert_int_equal(file_read(path, 1 << 20, &bytes, &len), 0);
	for (size_t cut = 0; cut <= len; cut++) {
		_cleanup_strbuf_ struct strbuf text = {0};
		_cleanup_free_ char *after = NULL;
		_cleanup_json_ json_t *story = NULL;
		size_t n;

		assert_int_equal(file_write(path, bytes, cut), 0);
		if (story_read("torn", &story, &err) < 0)
			fail_msg("cut at %zu: %s", cut, err.text);
		story_text(story, &text);
		assert_true(json_array_size(json_object_get(story, "changes")) <= 1);
		torn += strstr(strbuf_cstr(&text), "torn tail: ") != NULL;
		assert_int_equal(file_read(path, 1 << 20, &after, &n), 0);
		assert_int_equal(n, cut);
		assert_memory_equal(after, bytes, cut);
	}
	/* all but the whole frames: none, the header, the intent, the mark */
	assert_int_equal(torn, len + 1 - 4);
	assert_int_equal(story_read("no-such", &(json_t *){NULL}, &err), -ENOENT);
	assert_int_equal(story_read("../torn", &(json_t *){NULL}, &err), -EINVAL);
}

/* A change's undo is taken apart into commands by this. */
static void commands(void **state _unused_)
{
	static const char text[] = "# it isn't quoted\none 'two\n\"three' \"it's\nfour\" it\\'s\n\n# left: the rest\nlast";
	static const char *const want[] = {"# it isn't quoted", "one 'two\n\"three' \"it's\nfour\" it\\'s", "# left: the rest", "last"};
	const char *p = text, *command, *left;
	size_t len, left_len;

	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		len = script_next(&p, &command);
		assert_int_equal(len, strlen(want[i]));
		assert_memory_equal(command, want[i], len);
		left = script_left(command, len, &left_len);
		assert_int_equal(left != NULL, i == 2);
		if (left)
			assert_int_equal(left_len, strlen("the rest"));
	}
	assert_int_equal(script_next(&p, &command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_state),
		cmocka_unit_test(torn_at_every_byte),
		cmocka_unit_test(commands),
	};

	return cmocka_run_group_tests(tests, make, drop);
}
