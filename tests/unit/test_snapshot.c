/* SPDX-License-Identifier: GPL-2.0-only */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>

#include "engine/snapshot.h"

static void assert_diff(const char *before, const char *after, const char *want)
{
	_cleanup_json_ json_t *diff = snapshot_diff(before, after);
	_cleanup_strbuf_ struct strbuf got = {0};
	const json_t *line;
	size_t i;

	assert_non_null(diff);
	json_array_foreach (diff, i, line)
		strbuf_addf(&got, "%s|", json_string_value(line));
	assert_string_equal(strbuf_cstr(&got), want);
}

static void test_diff(void **state _unused_)
{
	assert_diff("", "", "");
	assert_diff("a\nb\n", "a\nb\n", "");
	assert_diff("a\nb\n", "b\na\n", ""); /* order is no state */
	assert_diff("a\nb\n", "a\n", "- b|");
	assert_diff("a\n", "a\nb\n", "+ b|");
	assert_diff("a\nc\n", "a\nb\n", "+ b|- c|");
	assert_diff("", "x\ny", "+ x|+ y|");
	assert_diff(NULL, "x\n", "+ x|");
	/* two of the same are not one: the same rule twice in a table */
	assert_diff("a\na\n", "a\n", "- a|");
	/* bytes that are no text still make a report */
	assert_diff("", "set \xff\xfe\n", "+ set ??|");
}

static void test_what_was_not_seen_is_not_equal(void **state _unused_)
{
	assert_diff("rs1: ipvs ! could not be read: no\n", "rs1: ipvs ! could not be read: no\n",
		"? rs1: ipvs ! could not be read: no|");
	assert_diff("rs1: ipvs a\n", "rs1: ipvs ! could not be read: no\n",
		"+ rs1: ipvs ! could not be read: no|- rs1: ipvs a|");
}

/* Objects that come and go by themselves count while they last, and only they. */
static void test_what_comes_and_goes(void **state _unused_)
{
	/* ended, or began: no difference, with all of its lines */
	assert_diff("h: task ~1@5:x processors = 0\nh: task ~1@5:x limit nofile = 1 2\n", "", "");
	assert_diff("", "h: task ~1@5:x processors = 0\n", "");
	/* in both: it is compared, whatever else begins or ends around it */
	assert_diff("h: task ~1@5:x processors = 0-1\nh: task ~2@6:y processors = 0\n",
		"h: task ~1@5:x processors = 0\nh: task ~3@7:z processors = 0\n",
		"+ h: task ~1@5:x processors = 0|- h: task ~1@5:x processors = 0-1|");
	/* a fact that only one of the two has */
	assert_diff("h: task ~1@5:x processors = 0-1\n", "h: task ~1@5:x limit nofile = 1 2\nh: task ~1@5:x processors = 0-1\n",
		"+ h: task ~1@5:x limit nofile = 1 2|");
	/* the same pid is not the same process; nor is an identity the beginning of another */
	assert_diff("h: task ~1@5:x processors = 0-1\n", "h: task ~1@9:x processors = 0\n", "");
	assert_diff("h: task ~1@5 processors = 0-1\n", "h: task ~1@55 processors = 0\nh: task ~1@5/7 processors = 0\n", "");
	/* of one node, of one subject */
	assert_diff("h: task ~1 a\n", "g: task ~1 b\nh: mount ~1 b\n", "");
	/* an object without more to say of it */
	assert_diff("h: module ~m\n", "", "");
	/* what is no object may hold a ~ */
	assert_diff("h: link eth0 alias ~x\n", "", "- h: link eth0 alias ~x|");
	assert_diff("h: rule ~\n", "h: rule ~\nh: rule ~ x\n", "+ h: rule ~ x|");
	/* not read is not seen, also where it would not count */
	assert_diff("h: task ~1 a ! could not be read: no\n", "h: task ~1 a ! could not be read: no\n",
		"? h: task ~1 a ! could not be read: no|");
	/* lines that are none of ours */
	assert_diff("~\n: \n: ~\n", "", "- : |- : ~|- ~|");
}

static void assert_attrs(const void *data, size_t len, const int *without, const char *want)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	snapshot_attrs(&b, data, len, without);
	assert_string_equal(strbuf_cstr(&b), want);
}

/* Netlink attributes of any kind, from the kernel's bytes */
static void test_attrs(void **state _unused_)
{
	static const uint8_t number[] = {8, 0, 3, 0, 0xc6, 0x12, 0, 1}, text[] = {7, 0, 1, 0, 'l', 'o', 0, 0},
			     nested[] = {12, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 2}, two[] = {5, 0, 1, 0, 7, 0, 0, 0, 5, 0, 2, 0, 9},
			     longer[] = {9, 0, 1, 0, 1, 2, 3, 4}, shorter[] = {3, 0, 1, 0}, empty[] = {4, 0, 9, 0};
	static const int one[] = {1, 0};

	assert_attrs(number, sizeof(number), NULL, " 3=c6120001");
	assert_attrs(text, sizeof(text), NULL, " 1=\"lo\"");
	assert_attrs(nested, sizeof(nested), NULL, " 2={ 1=00000002 }");
	assert_attrs(two, sizeof(two), NULL, " 1=07 2=09"); /* the last without its padding */
	assert_attrs(two, sizeof(two), one, " 2=09");
	assert_attrs(empty, sizeof(empty), NULL, " 9=");
	/* lengths that lie end it */
	assert_attrs(longer, sizeof(longer), NULL, "");
	assert_attrs(shorter, sizeof(shorter), NULL, "");
	for (size_t n = 0; n < sizeof(two); n++) {
		_cleanup_strbuf_ struct strbuf b = {0};
		uint8_t *exact = malloc(n + 1); /* the sanitizer watches its end */

		assert_non_null(exact);
		memcpy(exact + 1, two, n);
		snapshot_attrs(&b, exact + 1, n, NULL);
		free(exact);
	}
}

static void test_words(void **state _unused_)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	snapshot_word(&b, "a b\n~\\\xc3");
	assert_string_equal(strbuf_cstr(&b), "a\\x20b\\x0a~\\x5c\\xc3");
}

static void test_read(void **state _unused_)
{
	char path[] = "/tmp/test_snapshot.XXXXXX", *big = malloc(SNAPSHOT_VALUE_MAX + 1), value[SNAPSHOT_VALUE_MAX];
	_cleanup_strbuf_ struct strbuf b = {0};
	int fd = mkstemp(path);

	assert_true(fd >= 0 && big);
	assert_int_equal(write(fd, "4096\t87380  6291456\n\n", 22), 22);
	assert_int_equal(snapshot_read(AT_FDCWD, path, value), 0);
	assert_string_equal(value, "4096 87380 6291456");
	snapshot_fact(&b, AT_FDCWD, path, "sysctl %s", "x");
	/* not there: the feature is not, and that is no fact; not readable: said */
	snapshot_fact(&b, AT_FDCWD, "/nonexistent/x", "sysctl y");
	snapshot_fact(&b, AT_FDCWD, "/tmp", "sysctl z");
	assert_string_equal(strbuf_cstr(&b), "sysctl x = 4096 87380 6291456\nsysctl z ! could not be read: Is a directory\n");
	memset(big, 'x', SNAPSHOT_VALUE_MAX + 1);
	assert_int_equal(pwrite(fd, big, SNAPSHOT_VALUE_MAX - 1, 0), SNAPSHOT_VALUE_MAX - 1);
	assert_int_equal(snapshot_read(AT_FDCWD, path, value), 0);
	assert_int_equal(strlen(value), SNAPSHOT_VALUE_MAX - 1);
	assert_int_equal(pwrite(fd, big, SNAPSHOT_VALUE_MAX + 1, 0), SNAPSHOT_VALUE_MAX + 1);
	assert_int_equal(snapshot_read(AT_FDCWD, path, value), -EFBIG);
	close(fd);
	unlink(path);
	free(big);
}

static void test_count(void **state _unused_)
{
	_cleanup_json_ json_t *counts = snapshot_count("h: link a\nh: link b\nsw: rule x\n");
	_cleanup_free_ char *text = json_dumps(counts, JSON_COMPACT | JSON_SORT_KEYS);

	assert_string_equal(text, "{\"link\":2,\"rule\":1}");
}

/* What the machine has once is asked once, of a node that is the host, and never of a namespace. */
static void test_whose(void **state _unused_)
{
	_cleanup_node_ struct node *a = node_new("a", NULL), *b = node_new("b", NULL);
	const struct node *nodes[] = {a, b};
	_cleanup_free_ char *text = NULL;
	atomic_bool stop = true;
	char *none = NULL;

	assert_int_equal(snapshot_take(nodes, 2, &text, NULL), 0);
	assert_non_null(strstr(text, "a: sysctl vm.swappiness = "));
	assert_null(strstr(text, "b: sysctl vm.swappiness = "));
	assert_non_null(strstr(text, "b: sysctl net.core.somaxconn = "));
	/* given up on request */
	assert_int_equal(snapshot_take_until(nodes, 2, &stop, &none, NULL), -ECANCELED);
	assert_null(none);
	for (const struct snapshot_ops *const *ops = snapshot_table; *ops; ops++)
		assert_true((*ops)->take || (*ops)->take_host);
}

/* Whatever the table holds: each line begins with its node and a subject of the table, and the lines are in order. */
static void test_form(void **state _unused_)
{
	_cleanup_node_ struct node *host = node_new("host", NULL);
	const struct node *nodes[] = {host};
	_cleanup_free_ char *text = NULL, *again = NULL;
	char last[4096] = "";

	assert_int_equal(snapshot_take(NULL, 0, &text, NULL), 0);
	assert_string_equal(text, "");
	free(TAKE_PTR(text));

	assert_int_equal(node_open(host, NULL), 0);
	assert_int_equal(snapshot_take(nodes, 1, &text, NULL), 0);
	again = strdup(text);
	for (char *save = NULL, *line = strtok_r(again, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		bool known = false;

		assert_memory_equal(line, "host: ", 6);
		for (const struct snapshot_ops *const *ops = snapshot_table; *ops; ops++) {
			size_t n = strlen((*ops)->name);

			known = known ||
				(strncmp(line + 6, (*ops)->name, n) == 0 && line[6 + n] == ' ');
		}
		if (!known)
			fail_msg("\"%s\" is of no subject", line);
		if (strncmp(last, line, sizeof(last) - 1) > 0)
			fail_msg("\"%s\" stands before \"%s\"", last, line);
		strncpy(last, line, sizeof(last) - 1);
	}
	if (!strstr(text, "could not be read")) /* without privilege some of it may not be */
		assert_diff(text, text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_diff),
		cmocka_unit_test(test_what_was_not_seen_is_not_equal),
		cmocka_unit_test(test_what_comes_and_goes),
		cmocka_unit_test(test_attrs),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_count),
		cmocka_unit_test(test_whose),
		cmocka_unit_test(test_form),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
