/* SPDX-License-Identifier: GPL-2.0-only */
/* Somebody changes the baseline under a drill: it is an event, it stands in the report, and it fails no drill by itself. */
#include "drill.h"

#include "engine/node.h"

/* Waits until the timeline has a line with all three words; returns its number of such lines. */
static void await_event(struct drill *d, const char *kind, const char *word, const char *other)
{
	_cleanup_free_ char *path = strf("%s/timeline.jsonl", d->out);
	nsec_t until = now_ns() + 60 * NSEC_PER_SEC;

	for (;;) {
		_cleanup_free_ char *text = NULL;

		if (file_read(path, 64 << 20, &text, NULL) == 0) {
			char *save = NULL;

			for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
				if (strstr(line, kind) && strstr(line, word) && strstr(line, other))
					return;
		}
		if (now_ns() > until) {
			show_log(d);
			fail_msg("no event %s %s %s", kind, word, other);
		}
		(void)poll(NULL, 0, 20);
	}
}

static void drift_is_an_event(void **state)
{
	_cleanup_node_ struct node *server = node_new("server", "/run/netns/muster-pair-server");
	_cleanup_free_ char *cmd = NULL, *text = NULL;
	const json_t *drift, *first, *second;
	struct drill d;
	FILE *p;

	(void)state;
	start(&d, "drills/pair-drift.lua", NULL);
	await_event(&d, "\"fault\"", "\"lifted\"", "node_loss");
	assert_int_equal(node_open(server, NULL), 0);
	assert_int_equal(node_write(server, "/proc/sys/net/core/somaxconn", "4321"), 0);
	await_event(&d, "\"drift\"", "\"4321\"", "\"holds\":false");
	assert_int_equal(node_write(server, "/proc/sys/net/core/somaxconn", "65535"), 0);
	await_event(&d, "\"drift\"", "\"65535\"", "\"holds\":true");
	expect(&d, 0, "pass");
	drift = json_object_get(d.report, "drift");
	assert_int_equal(json_array_size(drift), 2);
	first = json_array_get(drift, 0);
	second = json_array_get(drift, 1);
	assert_string_equal(json_string_value(json_object_get(first, "key")), "net.core.somaxconn");
	assert_string_equal(json_string_value(json_object_get(first, "now")), "4321");
	assert_string_equal(json_string_value(json_object_get(first, "want")), "65535");
	assert_true(json_is_false(json_object_get(first, "holds")));
	assert_true(json_is_true(json_object_get(second, "holds")));
	/* and a person reads it */
	cmd = strf("%s report %s --format text", MUSTER_BINARY, d.out);
	p = popen(cmd, "r");
	assert_non_null(p);
	assert_int_equal(fd_read_all(fileno(p), 1 << 20, &text, NULL), 0);
	pclose(p);
	if (!strstr(text, "drift: set.sysctl on server: net.core.somaxconn became 4321; the baseline made it 65535") ||
		!strstr(text, "net.core.somaxconn holds again"))
		fail_msg("not in the report: %s", text);
	done(&d);
	assert_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(drift_is_an_event),
	};

	if (!sandbox_enter()) {
		printf("SKIP: a drill needs root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("drift", tests, setup, teardown);
}
