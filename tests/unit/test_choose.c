/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a drill is played. What the machine has is told by the test.
 *
 * wrap: vm_available host_has_ipvs host_has_qdisc host_has_btf
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/str.h"
#include "lab/choose.h"

static int has_ipvs, has_netem, has_btf, vm;

int __wrap_host_has_ipvs(void);
int __wrap_host_has_qdisc(const char *kind);
int __wrap_host_has_btf(void);
int __wrap_vm_available(struct err *err);

int __wrap_host_has_ipvs(void)
{
	return has_ipvs;
}

int __wrap_host_has_qdisc(const char *kind)
{
	assert_string_equal(kind, "netem");
	return has_netem;
}

int __wrap_host_has_btf(void)
{
	return has_btf;
}

int __wrap_vm_available(struct err *err)
{
	if (vm == 0)
		return 0;
	err_set(err, vm, "microVM: not installed: qemu");
	err_hint(err, "apt-get install qemu");
	return vm;
}

static void kernel(int ipvs, int netem, int btf, int vm_result)
{
	has_ipvs = ipvs;
	has_netem = netem;
	has_btf = btf;
	vm = vm_result;
}

static void chosen(const char *wanted, const char *lab, const char *part_of_why)
{
	_cleanup_free_ char *why = NULL;
	const char *got = NULL;
	struct err err = {0};

	if (lab_choose(wanted, &got, &why, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(got, lab);
	assert_non_null(strstr(why, part_of_why));
}

static void refused(const char *wanted, int code, const char *part_of_text, const char *hint)
{
	const char *lab = "untouched";
	char *why = NULL;
	struct err err = {0};

	assert_int_equal(lab_choose(wanted, &lab, &why, &err), code);
	assert_string_equal(lab, "untouched");
	assert_null(why);
	assert_non_null(strstr(err.text, part_of_text));
	if (hint)
		assert_string_equal(err.hint, hint);
}

static void auto_takes_namespaces_where_the_kernel_can(void **state _unused_)
{
	kernel(1, 1, 1, -ENOENT);
	chosen("auto", "netns", "IPVS, sch_netem and BTF");
	chosen(NULL, "netns", "");
}

static void auto_takes_the_microvm_and_says_what_is_lacking(void **state _unused_)
{
	kernel(0, 1, 1, 0);
	chosen("auto", "vm", "lacks IPVS, so");
	kernel(0, 0, 1, 0);
	chosen("auto", "vm", "lacks IPVS and sch_netem, so");
	kernel(0, -EPERM, 0, 0);
	chosen("auto", "vm", "lacks IPVS, sch_netem and BTF, so");
}

static void auto_refuses_where_neither_is_to_be_had(void **state _unused_)
{
	kernel(1, 0, 1, -ENOENT);
	refused("auto", -EOPNOTSUPP, "lacks sch_netem", "apt-get install qemu");
	refused("vm", -EOPNOTSUPP, "not installed: qemu", "apt-get install qemu");
}

static void what_is_asked_for_is_what_is_had(void **state _unused_)
{
	kernel(0, 0, 1, 0);
	chosen("netns", "netns", "lacks IPVS and sch_netem");
	chosen("none", "none", "");
	kernel(1, 1, 1, 0);
	chosen("vm", "vm", "as asked");
	chosen("netns", "netns", "as asked");
}

static void no_microvm_inside_the_microvm(void **state _unused_)
{
	setenv("MUSTER_VM", "1", 1);
	kernel(0, 1, 1, 0);
	refused("auto", -EOPNOTSUPP, "lacks IPVS", NULL);
	refused("vm", -EOPNOTSUPP, "inside", "--lab netns");
	kernel(1, 1, 1, 0);
	chosen("auto", "netns", "");
	unsetenv("MUSTER_VM");
}

static void an_unknown_word_gets_the_nearest_right_one(void **state _unused_)
{
	refused("netsn", -EINVAL, "did you mean netns?", NULL);
	refused("qqqqqqqq", -EINVAL, "auto, netns, vm or none", NULL);
}

static int no_vm_above(void **state _unused_)
{
	unsetenv("MUSTER_VM"); /* this test runs inside the microVM as well */
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(auto_takes_namespaces_where_the_kernel_can),
		cmocka_unit_test(auto_takes_the_microvm_and_says_what_is_lacking),
		cmocka_unit_test(auto_refuses_where_neither_is_to_be_had),
		cmocka_unit_test(what_is_asked_for_is_what_is_had),
		cmocka_unit_test(no_microvm_inside_the_microvm),
		cmocka_unit_test(an_unknown_word_gets_the_nearest_right_one),
	};

	return cmocka_run_group_tests(tests, no_vm_above, NULL);
}
