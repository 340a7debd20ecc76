/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Names and values of kernel parameters, and what set.sysctl refuses before it touches anything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "baseline/sysctl.h"
#include "engine/change.h"

static void paths(void **state _unused_)
{
	static const struct {
		const char *key, *path; /* NULL: refused */
	} cases[] = {
		{"net.core.somaxconn", "/proc/sys/net/core/somaxconn"},
		{"net/core/somaxconn", "/proc/sys/net/core/somaxconn"},
		{"net.ipv4.conf.eth0/100.rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"},
		{"net/ipv4/conf/eth0.100/rp_filter", "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"},
		{"kernel.threads-max", "/proc/sys/kernel/threads-max"},
		{"", NULL},
		{"somaxconn", NULL},
		{".net.core.somaxconn", NULL},
		{"/proc/sys/net/core/somaxconn", NULL},
		{"/etc/passwd", NULL},
		{"net..core", NULL},
		{"net.core.", NULL},
		{"net/../../../etc/passwd", NULL},
		{"net.//.//.//etc/passwd", NULL},
		{"net././x", NULL},
		{"net.//.core", NULL},
		{"net.core.some thing", NULL},
		{"net.core.x\n", NULL},
		{"net.core.$(reboot)", NULL},
		{"net.core.*", NULL},
	};
	char long_key[400];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char path[SYSCTL_PATH_MAX] = "untouched";
		struct err err = {0};
		int r = sysctl_path(cases[i].key, path, &err);

		if (cases[i].path) {
			assert_int_equal(r, 0);
			assert_string_equal(path, cases[i].path);
		} else {
			if (r != -EINVAL)
				fail_msg("\"%s\" became %s", cases[i].key, path);
			assert_string_equal(path, "untouched");
			assert_true(strlen(err.text) > 0);
		}
	}
	memset(long_key, 'a', sizeof(long_key) - 1);
	long_key[3] = '.';
	long_key[sizeof(long_key) - 1] = '\0';
	{
		char path[SYSCTL_PATH_MAX];

		assert_int_equal(sysctl_path(long_key, path, NULL), -EINVAL);
	}
}

static void values(void **state _unused_)
{
	assert_true(sysctl_same("4096\t16384\t4194304", "4096 16384  4194304\n"));
	assert_true(sysctl_same("16", "0x10"));
	assert_true(sysctl_same("8", "010"));
	assert_true(sysctl_same("-1", "-1"));
	assert_true(sysctl_same("", " \n"));
	assert_true(sysctl_same("cubic", "cubic"));
	assert_false(sysctl_same("cubic", "cubic reno"));
	assert_false(sysctl_same("1", "1 0"));
	assert_false(sysctl_same("1", ""));
	assert_false(sysctl_same("1", "2"));
	assert_false(sysctl_same("1x", "1"));
	assert_false(sysctl_same("99999999999999999999", "88888888888888888888"));
}

static void kinds(void **state _unused_)
{
	assert_false(sysctl_is_global("net.core.somaxconn"));
	assert_false(sysctl_is_global("net/core/somaxconn"));
	assert_true(sysctl_is_global("vm.swappiness"));
	assert_true(sysctl_is_global("kernel.sysrq"));
	assert_true(sysctl_is_global("network.x"));
	assert_null(sysctl_refused("net.core.somaxconn"));
	assert_null(sysctl_refused("net.ipv4.conf.eth0.forwarding"));
	assert_non_null(sysctl_refused("net.ipv4.ip_forward"));
	assert_non_null(sysctl_refused("net/ipv4/ip_forward"));
	assert_non_null(sysctl_refused("net.ipv6.conf.eth0.disable_ipv6"));
	assert_non_null(sysctl_refused("kernel.modules_disabled"));
	assert_string_equal(sysctl_partner("vm.dirty_bytes"), "vm.dirty_ratio");
	assert_null(sysctl_partner("vm.swappiness"));
}

static int check(json_t *args, struct err *err)
{
	const struct change_ops *ops = change_find("set.sysctl");
	_cleanup_json_ json_t *in = args, *out = NULL;
	int r;

	assert_non_null(ops);
	r = param_check(ops->params, ops->name, in, NULL, &out, err);
	return r < 0 ? r : ops->resolve(NULL, out, err);
}

static void refused_by_check(void **state _unused_)
{
	struct err err = {0};

	assert_int_equal(check(json_pack("{s:s, s:{s:i, s:s}}", "node", "rs1", "values",
				       "net.core.somaxconn", 65535, "net.ipv4.tcp_rmem",
				       "4096 131072 1048576"),
				 &err),
		0);
	assert_int_equal(check(json_pack("{s:s, s:{}}", "node", "rs1", "values"), &err), -EINVAL);
	assert_int_equal(
		check(json_pack("{s:s, s:{s:s}}", "node", "rs1", "values", "net/../x", "1"), &err),
		-EINVAL);
	assert_int_equal(check(json_pack("{s:s, s:{s:i}}", "node", "rs1", "values",
				       "net.ipv4.ip_forward", 1),
				 &err),
		-EINVAL);
	assert_non_null(strstr(err.text, "put back exactly"));
	assert_int_equal(
		check(json_pack("{s:{s:i}}", "values", "net.core.somaxconn", 1), &err), -EINVAL);
}

/* Plan text without a host, and with a record: quoted, in order, undone in the opposite order */
static void commands(void **state _unused_)
{
	const struct change_ops *ops = change_find("set.sysctl");
	_cleanup_json_ json_t *args = json_pack("{s:s, s:{s:s, s:s}}", "node", "rs1", "values",
		"net.core.somaxconn", "65535", "net.ipv4.tcp_rmem", "4096 1 2");
	_cleanup_json_ json_t *prior = json_pack("{s:[{s:s, s:s, s:s}, {s:s, s:s, s:s}]}", "values",
		"key", "net.core.somaxconn", "path", "/proc/sys/net/core/somaxconn", "text", "4096",
		"key", "net.ipv4.tcp_rmem", "path", "/proc/sys/net/ipv4/tcp_rmem", "text",
		"4096\t131072\t6291456");
	_cleanup_strbuf_ struct strbuf a = {0}, u = {0}, a2 = {0}, u2 = {0};
	_cleanup_node_ struct node *host = node_new("host", NULL),
				   *rs1 = node_new("rs1", "/run/netns/muster-t-rs1");

	assert_int_equal(ops->command(host, args, NULL, &a, &u), 0);
	assert_string_equal(strbuf_cstr(&a),
		"sysctl -w net.core.somaxconn=65535\nsysctl -w 'net.ipv4.tcp_rmem=4096 1 2'\n");
	assert_string_equal(
		strbuf_cstr(&u), "# puts back the values that it reads before the change\n");
	assert_int_equal(ops->command(rs1, args, prior, &a2, &u2), 0);
	assert_string_equal(strbuf_cstr(&u2),
		"nsenter --net=/run/netns/muster-t-rs1 sysctl -w 'net.ipv4.tcp_rmem=4096\t131072\t6291456'\n"
		"nsenter --net=/run/netns/muster-t-rs1 sysctl -w net.core.somaxconn=4096\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths),
		cmocka_unit_test(values),
		cmocka_unit_test(kinds),
		cmocka_unit_test(refused_by_check),
		cmocka_unit_test(commands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
