/* SPDX-License-Identifier: GPL-2.0-only */
/* The units as they are installed: where systemd looks, naming the program that lies beside them, and to systemd's own liking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/str.h"

static char root[] = "/tmp/muster-units-XXXXXX";

static int make(void **state _unused_)
{
	char binary[] = MUSTER_BINARY;
	_cleanup_free_ char *command = NULL;

	if (!mkdtemp(root))
		return -1;
	command = strf("DESTDIR=%s cmake --install %s --prefix /usr >/dev/null", root, dirname(binary));
	return system(command);
}

static int drop(void **state _unused_)
{
	_cleanup_free_ char *command = strf("rm -rf %s", root);

	return system(command);
}

static char *unit(const char *name)
{
	_cleanup_free_ char *path = strf("%s/usr/lib/systemd/system/%s", root, name);
	char *text = NULL;

	if (file_read(path, 1 << 16, &text, NULL) < 0)
		fail_msg("%s is not installed", path);
	return text;
}

static void installed(void **state _unused_)
{
	_cleanup_free_ char *boot = unit("muster-restore.service"), *drill = unit("muster@.service"), *timer = unit("muster@.timer"),
			    *program = strf("%s/usr/sbin/muster", root);

	assert_int_equal(access(program, X_OK), 0);
	assert_non_null(strstr(boot, "\nExecStart=/usr/sbin/muster restore --all\n"));
	assert_non_null(strstr(drill, "\nExecStart=/usr/sbin/muster run --yes /etc/muster/scenarios/%i.lua\n"));
	assert_non_null(strstr(drill, "\nExecStopPost=/usr/sbin/muster restore --all --wait\n"));
	assert_non_null(strstr(timer, "\nWantedBy=timers.target\n"));
	assert_null(strstr(boot, "@"));
	assert_null(strstr(drill, "@MUSTER"));
}

/* The options that the units give are there. */
static void understood(void **state _unused_)
{
	_cleanup_free_ char *command = strf("%s/usr/sbin/muster restore --help | grep -q -e --wait", root);

	assert_int_equal(system(command), 0);
	assert_int_equal(system(MUSTER_BINARY " run --help | grep -q -e --yes"), 0);
}

static void verified(void **state _unused_)
{
	_cleanup_free_ char *command = NULL, *out = strf("%s/said", root), *said = NULL;
	int status;

	if (system("command -v systemd-analyze >/dev/null") != 0) {
		printf("SKIP: verified: systemd-analyze is not installed (apt-get install systemd)\n");
		skip();
	}
	/* the program is looked for where the unit says, on this machine: the one that was installed beside the units stands in */
	command = strf("cd %s/usr/lib/systemd/system && sed -i 's|=/usr/sbin/muster |=%s/usr/sbin/muster |' *.service && "
		       "SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no --recursive-errors=no "
		       "./muster-restore.service ./muster@drill.service ./muster@drill.timer >%s 2>&1",
		root, root, out);
	status = system(command);
	assert_int_equal(file_read(out, 1 << 16, &said, NULL), 0);
	if (status != 0 || said[0])
		fail_msg("systemd-analyze verify: status %d: %s", status, said);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(installed),
		cmocka_unit_test(understood),
		cmocka_unit_test(verified),
	};

	return cmocka_run_group_tests(tests, make, drop);
}
