/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Text that settings read, from scenarios and from the kernel: processors, interrupts, limits, pages, control files. Whatever it is,
 * it is understood wholly or refused, and the output of what is refused is untouched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "baseline/cpus.h"
#include "baseline/irqs.h"
#include "baseline/knobs.h"
#include "baseline/pages.h"
#include "baseline/rlimits.h"

/* ── processors ───────────────────────────────────────────────────────────────────────────── */

static void lists(void **state _unused_)
{
	static const struct {
		const char *text, *list, *mask; /* NULL: refused */
	} cases[] = {
		{"0", "0", "1"},
		{"0-3", "0-3", "f"},
		{"0,1,2,3", "0-3", "f"},
		{"3,1", "1,3", "a"},
		{"0-1,31-33", "0-1,31-33", "3,80000003"},
		{"64", "64", "1,00000000,00000000"},
		{"1023", "1023", NULL},
		{"5-5", "5", "20"},
		{"007", "7", "80"},
		{"", NULL, NULL},
		{" 0", NULL, NULL},
		{"0 ", NULL, NULL},
		{"0\n", NULL, NULL},
		{",", NULL, NULL},
		{"0,", NULL, NULL},
		{",0", NULL, NULL},
		{"0,,1", NULL, NULL},
		{"3-1", NULL, NULL},
		{"-1", NULL, NULL},
		{"1-", NULL, NULL},
		{"1--2", NULL, NULL},
		{"+1", NULL, NULL},
		{"0x1", NULL, NULL},
		{"1024", NULL, NULL},
		{"0-1024", NULL, NULL},
		{"4294967296", NULL, NULL},
		{"18446744073709551616", NULL, NULL},
		{"all", NULL, NULL},
		{"0;reboot", NULL, NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *list = NULL, *mask = NULL;
		cpu_set_t set, back;
		int r;

		CPU_ZERO(&set);
		CPU_SET(77, &set);
		r = cpus_parse_list(cases[i].text, &set);
		if (!cases[i].list) {
			if (r != -EINVAL && r != -ERANGE)
				fail_msg("\"%s\" was taken", cases[i].text);
			assert_true(CPU_ISSET(77, &set) && CPU_COUNT(&set) == 1);
			continue;
		}
		assert_int_equal(r, 0);
		list = cpus_list(&set);
		mask = cpus_mask(&set);
		assert_string_equal(list, cases[i].list);
		if (cases[i].mask)
			assert_string_equal(mask, cases[i].mask);
		assert_int_equal(cpus_parse_mask(mask, &back), 0);
		assert_true(CPU_EQUAL(&set, &back));
	}
}

static void masks(void **state _unused_)
{
	static const struct {
		const char *text, *list; /* NULL: refused */
	} cases[] = {
		{"3", "0-1"},
		{"0", ""},
		{"00000000,00000003", "0-1"},
		{"F", "0-3"},
		{"1,00000000", "32"},
		{"ffffffff", "0-31"},
		{"", NULL},
		{",", NULL},
		{"1,", NULL},
		{",1", NULL},
		{"1,0", NULL},
		{"100000000", NULL}, /* nine digits in a group */
		{"0x3", NULL},
		{"3 ", NULL},
		{"3\n", NULL},
		{"g", NULL},
	};
	char large[400];
	cpu_set_t set;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *list = NULL;
		int r = cpus_parse_mask(cases[i].text, &set);

		if (!cases[i].list) {
			if (r != -EINVAL)
				fail_msg("\"%s\" was taken: %d", cases[i].text, r);
			continue;
		}
		assert_int_equal(r, 0);
		list = cpus_list(&set);
		assert_string_equal(list, cases[i].list);
	}
	/* processor 1024 */
	strcpy(large, "1");
	for (int i = 0; i < CPUS_MAX / 32; i++)
		strcat(large, ",00000000");
	assert_int_equal(cpus_parse_mask(large, &set), -ERANGE);
	large[0] = '0';
	assert_int_equal(cpus_parse_mask(large, &set), 0);
}

static void there_or_not(void **state _unused_)
{
	struct err err = {0};
	cpu_set_t set;
	int nodes[4];

	assert_int_equal(cpus_online("test", "all", &set, &err), 0);
	assert_true(CPU_COUNT(&set) > 0);
	assert_int_equal(cpus_online("test", "1000", &set, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "CPU 1000 is not there"));
	assert_int_equal(cpus_online("test", "0-x", &set, &err), -EINVAL);
	assert_int_equal(cpus_of_numa_node("test", 999, &set, &err), -EOPNOTSUPP);
	assert_true(cpus_numa_nodes(nodes, 4) <= 4);
}

/* ── interrupts ───────────────────────────────────────────────────────────────────────────── */

static const char interrupts[] =
	"           CPU0       CPU1       \n"
	"  0:         42          0   IO-APIC   2-edge      timer\n"
	" 28:          0          0   PCI-MSI 16384-edge      eth0-rxtx-0\n"
	" 29:          0          0 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.1\n"
	" 30:          0          0   PCI-MSI 16386-edge      eth0-event-2  \n"
	" 31:          0          0   PCI-MSI 16387-edge\n"
	"128:          0          0   PCI-MSI 1-edge      mlx5_comp7@pci:0000:03:00.0\n"
	"NMI:          0          0   Non-maskable interrupts\n"
	"ERR:          0";

static void names(void **state _unused_)
{
	char name[64] = "untouched", small[8] = "small";

	assert_int_equal(irqs_name(interrupts, 28, name, sizeof(name)), 0);
	assert_string_equal(name, "eth0-rxtx-0");
	assert_int_equal(irqs_name(interrupts, 30, name, sizeof(name)), 0);
	assert_string_equal(name, "eth0-event-2");
	assert_int_equal(irqs_name(interrupts, 128, name, sizeof(name)), 0);
	assert_string_equal(name, "mlx5_comp7@pci:0000:03:00.0");
	/* 8 is not 28, and 2 not 128 */
	assert_int_equal(irqs_name(interrupts, 8, name, sizeof(name)), -ENOENT);
	assert_int_equal(irqs_name(interrupts, 2, name, sizeof(name)), -ENOENT);
	assert_int_equal(irqs_name(interrupts, 31, name, sizeof(name)), -ENOENT);
	assert_int_equal(irqs_name(interrupts, 4294967295u, name, sizeof(name)), -ENOENT);
	assert_int_equal(irqs_name("", 28, name, sizeof(name)), -ENOENT);
	assert_int_equal(irqs_name("28:", 28, name, sizeof(name)), -ENOENT);
	assert_int_equal(irqs_name(interrupts, 28, small, sizeof(small)), -ENOENT);
	assert_string_equal(small, "small");
}

static void queues(void **state _unused_)
{
	static const struct {
		const char *name;
		int queue;
	} cases[] = {
		{"virtio1-input.0", 0},
		{"virtio1-output.3", 3},
		{"virtio1-config", -1},
		{"virtio1-control", -1},
		{"virtio4-input", 0},
		{"virtio4-output", 0},
		{"virtio3-event", -1},
		{"eth0-rxtx-1", 1},
		{"eth0-event-2", -1},
		{"eth0-TxRx-15", 15},
		{"eth0-rx-2", 2},
		{"eth0", 0},
		{"i40e-eth0-TxRx-7", 7},
		{"mlx5_comp12@pci:0000:03:00.0", 12},
		{"mlx5_async0@pci:0000:03:00.0", -1},
		{"ena-mgmnt@pci:0000:00:05.0", -1},
		{"iavf-0000:00:05.0:mbx", -1},
		{"", -1},
		{"@", -1},
		{"eth0-rx-99999999999999999999", -1},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (irqs_queue(cases[i].name) != cases[i].queue)
			fail_msg("\"%s\" is queue %d, wanted %d", cases[i].name, irqs_queue(cases[i].name), cases[i].queue);
}

/* ── limits ───────────────────────────────────────────────────────────────────────────────── */

static void limits(void **state _unused_)
{
	static const struct {
		const char *text, *out; /* NULL: refused */
		bool raise;
	} cases[] = {
		{"65536", "65536:65536", true},
		{"1024:65536", "1024:65536", false},
		{"0:0", "0:0", false},
		{"unlimited", "unlimited:unlimited", true},
		{"0:unlimited", "0:unlimited", false},
		{"9223372036854775807", "9223372036854775807:9223372036854775807", true},
		{"", NULL, false},
		{":", NULL, false},
		{"1:", NULL, false},
		{":1", NULL, false},
		{"1:2:3", NULL, false},
		{"2:1", NULL, false},
		{"unlimited:1", NULL, false},
		{"-1", NULL, false},
		{"+1", NULL, false},
		{" 1", NULL, false},
		{"1 ", NULL, false},
		{"1k", NULL, false},
		{"0x10", NULL, false},
		{"unlimite", NULL, false},
		{"Unlimited", NULL, false},
		{"99999999999999999999999999", NULL, false},
	};
	struct err err = {0};
	int resource = -7;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rlimit l = {.rlim_cur = 7, .rlim_max = 8};
		char text[RLIMITS_TEXT_MAX];
		bool raise = false;
		int r = rlimits_parse(cases[i].text, &l, &raise);

		if (!cases[i].out) {
			if (r >= 0)
				fail_msg("\"%s\" was taken", cases[i].text);
			assert_true(l.rlim_cur == 7 && l.rlim_max == 8);
			continue;
		}
		assert_int_equal(r, 0);
		rlimits_format(&l, text);
		assert_string_equal(text, cases[i].out);
		assert_true(raise == cases[i].raise);
	}
	assert_int_equal(rlimits_find("test", "nofile", &resource, &err), 0);
	assert_int_equal(resource, RLIMIT_NOFILE);
	assert_int_equal(rlimits_find("test", "nofiles", &resource, &err), -EINVAL);
	assert_non_null(strstr(err.hint, "nofile"));
}

/* ── pages ────────────────────────────────────────────────────────────────────────────────── */

static void numa_lines(void **state _unused_)
{
	static const struct {
		const char *line, *policy; /* NULL: refused */
		uint64_t addr;
		bool elsewhere; /* than node 0 */
	} cases[] = {
		{"55d0c0a00000 default file=/usr/sbin/nginx mapped=40 N0=30 N1=10 kernelpagesize_kB=4", "default", 0x55d0c0a00000, true},
		{"7f0000000000 default anon=3 dirty=3 N0=3 kernelpagesize_kB=4", "default", 0x7f0000000000, false},
		{"7f0000000000 bind:1 anon=3 N1=3", "bind:1", 0x7f0000000000, true},
		{"7f0000000000 default file=/N1=3 N0=1", "default", 0x7f0000000000, false},
		{"7f0000000000 default N1=0", "default", 0x7f0000000000, false},
		{"7f0000000000 default", "default", 0x7f0000000000, false},
		{"", NULL, 0, false},
		{"default N1=3", NULL, 0, false}, /* hexadecimal letters are an address, and then nothing fits */
		{"zz default", NULL, 0, false},
		{"7f00", NULL, 0, false},
		{"7f00  default", NULL, 0, false},
		{"7f00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NULL, 0, false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char policy[32] = "untouched";
		bool elsewhere = false;
		uint64_t addr = 0;
		int r = pages_numa_line(cases[i].line, 0, &addr, policy, &elsewhere);

		if (!cases[i].policy) {
			assert_int_equal(r, -EINVAL);
			continue;
		}
		assert_int_equal(r, 0);
		assert_string_equal(policy, cases[i].policy);
		assert_true(addr == cases[i].addr && elsewhere == cases[i].elsewhere);
	}
}

static void page_records(void **state _unused_)
{
	static const char *const bad[] = {"x", "1000", "1000+", "1000+0@1", "1000+1", "1000+1@", "1000+1@x", "1000+1@1 ", "1000+1@1,",
		"+1@1", "1000+-1@1", "1000+1@-1", "1000+99999999@1", "1000+1@1024", " 1000+1@1", "ffffffffffffffffff+1@1", "1000 +1@1"};
	struct page_run *runs = NULL;
	size_t n = 0;

	assert_int_equal(pages_parse("7f0000001000+3@1 7f0000010000+512@0", &runs, &n), 0);
	assert_int_equal(n, 2);
	assert_true(runs[0].addr == 0x7f0000001000 && runs[0].pages == 3 && runs[0].node == 1);
	assert_true(runs[1].addr == 0x7f0000010000 && runs[1].pages == 512 && runs[1].node == 0);
	free(runs);
	runs = NULL;
	assert_int_equal(pages_parse("", &runs, &n), 0);
	assert_int_equal(n, 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (pages_parse(bad[i], &runs, &n) != -EINVAL)
			fail_msg("\"%s\" was taken", bad[i]);
}

/* ── control files ────────────────────────────────────────────────────────────────────────── */

static void same_values(void **state _unused_)
{
	assert_true(knobs_same("mask", "00000000,00000003", "3"));
	assert_false(knobs_same("mask", "3", "1"));
	assert_false(knobs_same("mask", "", ""));
	assert_false(knobs_same("mask", "x", "x"));
	assert_true(knobs_same("choice", "always", "always"));
	assert_false(knobs_same("choice", "always", "madvise"));
	assert_true(knobs_same("pages", "5", "5"));
	assert_false(knobs_same("pages", "5", "05"));
}

/* ── what is refused before there is a host ───────────────────────────────────────────────── */

static void refused_by_resolve(void **state _unused_)
{
	static const struct {
		const char *change, *args, *text;
	} cases[] = {
		{"set.limits", "{'node': 'n', 'process': 'x', 'limits': {'nofiles': '1'}}", "there is no limit \"nofiles\""},
		{"set.limits", "{'node': 'n', 'process': 'x', 'limits': {'nofile': '2:1'}}", "soft limit is above"},
		{"set.limits", "{'node': 'n', 'process': 'x', 'limits': {}}", "limits is empty"},
		{"set.limits", "{'node': 'n', 'limits': {'nofile': '1'}}", "process or pid"},
		{"set.limits", "{'node': 'n', 'process': 'x', 'pid': 5, 'limits': {'nofile': '1'}}", "process or pid"},
		{"set.limits", "{'node': 'n', 'process': '', 'limits': {'nofile': '1'}}", "process is empty"},
		{"set.affinity", "{'node': 'n', 'process': 'x', 'cpus': '3-1'}", "no list of processors"},
		{"set.affinity", "{'node': 'n', 'process': 'x', 'cpus': '5000'}", "no list of processors"},
		{"set.irq", "{'node': 'n', 'cpus': 'x'}", "no list of processors"},
		{"set.rps", "{'node': 'n', 'device': '../eth0'}", "no device's name"},
		{"set.rps", "{'node': 'n', 'device': '..'}", "no device's name"},
		{"set.rps", "{'node': 'n', 'flows': 300}", "no power of two"},
		{"set.thp", "{'node': 'n'}", "neither enabled nor defrag"},
		{"set.thp", "{'node': 'n', 'enabled': 'alwyas'}", "always"},
		{"set.hugepages", "{'node': 'n', 'pages': 1000000000}", "pages"},
		{"set.hugepages", "{'node': 'n', 'pages': -1}", "pages"},
		{"set.block", "{'node': 'n', 'name': 'a b'}", "no name of an ipset"},
		{"set.block", "{'node': 'n', 'name': 'x', 'match': 'source'}", "match"},
		{"set.ipset", "{'node': 'n', 'name': 'x', 'members': ['2001:db8::1']}", "no member of a hash:ip of family inet"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ json_t *args = NULL, *checked = NULL;
		_cleanup_free_ char *text = strdup(cases[i].args);
		const struct change_ops *ops = change_find(cases[i].change);
		struct err err = {0};
		int r;

		for (char *p = text; *p; p++)
			*p = *p == '\'' ? '"' : *p;
		args = json_loads(text, 0, NULL);
		assert_non_null(args);
		assert_non_null(ops);
		r = param_check(ops->params, ops->name, args, NULL, &checked, &err);
		if (r == 0 && ops->resolve)
			r = ops->resolve(NULL, checked, &err);
		if (r != -EINVAL && r != -ERANGE)
			fail_msg("%s %s was taken", cases[i].change, cases[i].args);
		if (!strstr(err.text, cases[i].text))
			fail_msg("%s %s: \"%s\", and not \"%s\"", cases[i].change, cases[i].args, err.text, cases[i].text);
	}
}

/* What no record says must not be believed: undo and verify answer, and do not fall over. */
static void damaged_records(void **state _unused_)
{
	static const char *const priors[] = {"{}", "{\"files\": 5}", "{\"files\": [5]}", "{\"files\": [{}]}", "{\"tasks\": [{}]}",
		"{\"tasks\": [{\"pid\": -1, \"tid\": -1, \"start\": 0, \"want\": \"x\"}]}", "{\"tasks\": \"x\"}",
		"{\"memory\": [{\"pid\": 1, \"runs\": \"x\"}]}", "{\"memory\": [5]}"};
	static const char *const changes[] = {"set.thp", "set.irq", "set.rps", "set.limits", "set.affinity", "set.numa", "set.hugepages"};
	_cleanup_json_ json_t *args = json_pack("{s:s, s:i}", "node", "n", "numa_node", 0);
	_cleanup_node_ struct node *n = node_new("n", NULL);

	assert_int_equal(node_open(n, NULL), 0);
	for (size_t c = 0; c < ARRAY_SIZE(changes); c++) {
		const struct change_ops *ops = change_find(changes[c]);

		for (size_t i = 0; i < ARRAY_SIZE(priors); i++) {
			_cleanup_json_ json_t *prior = json_loads(priors[i], 0, NULL), *items = NULL;
			_cleanup_strbuf_ struct strbuf a = {0}, u = {0};
			struct err err = {0};

			assert_non_null(prior);
			(void)ops->undo(n, args, prior, &err);
			(void)ops->verify(n, args, prior, &err);
			(void)ops->look(n, args, prior, &items, &err);
			(void)ops->command(n, args, prior, &a, &u);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists),
		cmocka_unit_test(masks),
		cmocka_unit_test(there_or_not),
		cmocka_unit_test(names),
		cmocka_unit_test(queues),
		cmocka_unit_test(limits),
		cmocka_unit_test(numa_lines),
		cmocka_unit_test(page_records),
		cmocka_unit_test(same_values),
		cmocka_unit_test(refused_by_resolve),
		cmocka_unit_test(damaged_records),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
