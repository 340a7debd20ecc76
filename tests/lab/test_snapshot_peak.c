/* SPDX-License-Identifier: GPL-2.0-only */
/* The three pictures of a drill: the one at the peak is taken while the fault is in force, and shows what was done. */
#include "tests/lab/drill.h"
#include "tests/lab/bridge_site.h"

static json_t *of(const json_t *j, const char *a, const char *b)
{
	return json_object_get(json_object_get(j, a), b);
}

static char *picture(const struct drill *d, const char *name)
{
	_cleanup_free_ char *path = strf("%s/snapshot-%s.txt", d->out, name);
	char *text = NULL;

	if (file_read(path, 64 << 20, &text, NULL) < 0)
		fail_msg("%s is not there", path);
	return text;
}

static void the_peak_shows_the_fault(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *peak = NULL, *after = NULL;
	_cleanup_json_ json_t *residue = NULL;
	const json_t *shown, *fault;
	json_int_t at;
	struct drill d;

	start(&d, "drills/pair-loss.lua", NULL);
	expect(&d, 0, "pass");
	before = picture(&d, "before");
	peak = picture(&d, "peak");
	after = picture(&d, "after");
	/* the fault sits at the switch's port of the server; the baseline in the server */
	assert_null(strstr(before, "switch/lan: qdisc server hook clsact"));
	assert_non_null(strstr(peak, "switch/lan: qdisc server hook clsact"));
	assert_null(strstr(after, "switch/lan: qdisc server hook clsact"));
	assert_non_null(strstr(peak, "server: sysctl net.core.somaxconn = 65535\n"));
	assert_null(strstr(after, "server: sysctl net.core.somaxconn = 65535\n"));
	residue = snapshot_diff(before, after);
	assert_int_equal(json_array_size(residue), 0);
	/* and the report says so */
	shown = of(d.report, "residue", "peak");
	fault = json_array_get(json_object_get(d.report, "faults"), 0);
	assert_int_equal(json_integer_value(json_object_get(shown, "faults")), 1);
	assert_int_equal(json_integer_value(json_object_get(shown, "changes")), 2);
	assert_int_equal(json_array_size(json_object_get(shown, "unseen")), 0);
	assert_true(json_is_array(json_object_get(shown, "unseen")));
	assert_true(json_integer_value(of(shown, "changed", "qdisc")) > 0);
	assert_int_equal(json_integer_value(of(shown, "changed", "sysctl")), 2); /* as it was, and as it is */
	assert_true(json_integer_value(of(json_object_get(d.report, "residue"), "compared", "sysctl")) > 100);
	at = json_integer_value(json_object_get(shown, "at_ns"));
	assert_true(at >= json_integer_value(json_object_get(fault, "applied_ns")));
	assert_true(at < json_integer_value(json_object_get(fault, "lifted_ns")));
	print_message("the picture at the peak took %.1f ms, of %zu bytes\n", json_real_value(json_object_get(shown, "took_ms")),
		strlen(peak));
	done(&d);
	assert_nothing_left();
}

/* A fault that is lifted at once is lifted at once: a picture that it would have to wait for is dropped, and that is said. */
static void a_lift_does_not_wait(void **state _unused_)
{
	const json_t *shown, *fault;
	struct drill d;
	double ms;

	start(&d, "drills/pair-flash.lua", NULL);
	expect(&d, 0, "pass");
	shown = of(d.report, "residue", "peak");
	fault = json_array_get(json_object_get(d.report, "faults"), 0);
	ms = (double)(json_integer_value(json_object_get(fault, "lifted_ns")) -
		      json_integer_value(json_object_get(fault, "applied_ns"))) /
	     NSEC_PER_MSEC;
	assert_true(json_is_object(shown));
	if (json_object_get(shown, "text")) {
		struct stat st;
		_cleanup_free_ char *path = strf("%s/snapshot-peak.txt", d.out);

		assert_int_equal(stat(path, &st), -1);
		print_message("in force for %.1f ms: %s\n", ms, json_string_value(json_object_get(shown, "text")));
	} else {
		/* in force for long enough */
		assert_true(json_real_value(json_object_get(shown, "took_ms")) <= ms);
		print_message("in force for %.1f ms, the picture took %.1f ms\n", ms,
			json_real_value(json_object_get(shown, "took_ms")));
	}
	done(&d);
	assert_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_peak_shows_the_fault),
		cmocka_unit_test(a_lift_does_not_wait),
	};

	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	/* runs and journals of its own: another drill may be going on outside */
	sh("mkdir -p /var/lib/muster && mount -t tmpfs lib /var/lib/muster && ip link set lo up");
	return cmocka_run_group_tests(tests, setup, teardown);
}
