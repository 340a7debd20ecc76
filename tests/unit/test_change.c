/* SPDX-License-Identifier: GPL-2.0-only */
/* change.c: the run's tag and deadline, as the kernel's objects carry them. */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "engine/change.h"

static void without_a_run(void **state)
{
	size_t n;

	(void)state;
	assert_string_equal(change_run_tag(), "muster");
	assert_string_equal(change_run_tag_short(), "muster");
	assert_int_equal(change_run_deadline(), 0);
	assert_null(change_tag_run("muster", &n));
}

static void tag_names_the_run(void **state)
{
	static const char id[] = "real-server-loss-20260102-030405-beef";
	const char *run;
	char buf[64];
	size_t n;

	(void)state;
	change_run_begin(id);
	assert_string_equal(change_run_tag(), "muster:real-server-loss-20260102-030405-beef");
	run = change_tag_run(change_run_tag(), &n);
	assert_non_null(run);
	assert_int_equal(n, strlen(id));
	assert_memory_equal(run, id, n);
	/* what stands behind a slash or a blank is the object's own */
	snprintf(buf, sizeof(buf), "%s/%s", "muster:abc", "0123");
	run = change_tag_run(buf, &n);
	assert_non_null(run);
	assert_int_equal(n, 3);
	assert_null(change_tag_run("muster:", &n));
	assert_null(change_tag_run("mustered:x", &n));
	assert_null(change_tag_run("", &n));
}

/* BPF names: letters, digits, _ and . only, 15 of them (kernel/bpf/syscall.c: bpf_obj_name_cpy) */
static void short_tag_fits_everywhere(void **state)
{
	char a[CHANGE_TAG_SHORT_MAX], b[CHANGE_TAG_SHORT_MAX];

	(void)state;
	change_tag_short("a-20260102-030405-0001", a);
	change_tag_short("a-20260102-030405-0002", b);
	assert_int_equal(strlen(a), 15);
	assert_string_not_equal(a, b);
	for (const char *p = a; *p; p++)
		assert_true(isalnum(*p) || *p == '_');
	change_run_begin("a-20260102-030405-0001");
	assert_string_equal(change_run_tag_short(), a);
}

static void longest_id_is_whole(void **state)
{
	char id[112];
	size_t n;

	(void)state;
	memset(id, 'x', sizeof(id) - 1); /* 64 letters of a name, the time, the tail: what a run's id can be, and more */
	id[sizeof(id) - 1] = '\0';
	change_run_begin(id);
	assert_true(strlen(change_run_tag()) <= 255);
	assert_non_null(change_tag_run(change_run_tag(), &n));
	assert_int_equal(n, strlen(id));
}

static void deadline_leaves_room_for_the_undo(void **state)
{
	(void)state;
	change_run_set_deadline(5 * NSEC_PER_SEC);
	assert_int_equal(change_run_deadline(), 5 * NSEC_PER_SEC + CHANGE_DEADLINE_MARGIN);
	change_run_set_deadline(0);
	assert_int_equal(change_run_deadline(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_run),
		cmocka_unit_test(tag_names_the_run),
		cmocka_unit_test(short_tag_fits_everywhere),
		cmocka_unit_test(longest_id_is_whole),
		cmocka_unit_test(deadline_leaves_room_for_the_undo),
	};

	return cmocka_run_group_tests_name("change", tests, NULL, NULL);
}
