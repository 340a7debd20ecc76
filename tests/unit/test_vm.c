/* SPDX-License-Identifier: GPL-2.0-only */
/* The pure parts of the microVM: what is sent in, what is cut off the end, what the image is made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <elf.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lab/host.h"
#include "lab/vm_parts.h"

/* ── modules ────────────────────────────────────────────────────────────────────────────────── */

static const char dep[] = "kernel/a/virtio.ko: kernel/a/virtio-ring.ko\n"
			  "kernel/a/virtio-ring.ko:\n"
			  "kernel/p/virtio_pci.ko: kernel/p/legacy.ko kernel/a/virtio.ko kernel/a/virtio-ring.ko\n"
			  "kernel/p/legacy.ko:\n"
			  "kernel/loop/x.ko: kernel/loop/y.ko\n"
			  "kernel/loop/y.ko: kernel/loop/x.ko\n"
			  "kernel/b/broken.ko: kernel/b/missing.ko\n";

static void modules_come_after_what_they_need(void **state _unused_)
{
	const char *const names[] = {"virtio_pci", "virtio_ring", NULL};
	_cleanup_json_ json_t *list = NULL;
	_cleanup_free_ char *text = NULL;

	assert_int_equal(vm_modules_order(dep, names, &list, NULL), 0);
	text = json_dumps(list, JSON_COMPACT);
	assert_string_equal(text, "[\"kernel/p/legacy.ko\",\"kernel/a/virtio-ring.ko\",\"kernel/a/virtio.ko\","
				  "\"kernel/p/virtio_pci.ko\"]");
}

static void modules_that_are_not_there_are_named(void **state _unused_)
{
	const char *const absent[] = {"overlay", NULL}, *const broken[] = {"broken", NULL}, *const loop[] = {"x", NULL},
			 *const part[] = {"virtio_pc", NULL};
	json_t *list = (json_t *)0x1;
	struct err err = {0};

	assert_int_equal(vm_modules_order(dep, absent, &list, &err), -ENOENT);
	assert_non_null(strstr(err.text, "overlay"));
	assert_int_equal(vm_modules_order(dep, broken, &list, &err), -ENOENT);
	assert_int_equal(vm_modules_order(dep, loop, &list, &err), -ELOOP);
	assert_int_equal(vm_modules_order(dep, part, &list, &err), -ENOENT);
	assert_ptr_equal(list, (json_t *)0x1); /* untouched */
}

/* ── cpio: read back by an independent hand ─────────────────────────────────────────────────── */

static unsigned int hex8(const char *p)
{
	char buf[9] = {0};

	memcpy(buf, p, 8);
	return (unsigned int)strtoul(buf, NULL, 16);
}

static void cpio_members_read_back(void **state _unused_)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	static const struct {
		const char *name;
		unsigned int mode;
		const char *data;
		size_t len;
	} want[] = {{"bin", S_IFDIR | 0755, "", 0},
		{"init", S_IFREG | 0755, "#!/bin/sh\n", 10},
		{"abc", S_IFREG | 0644, "\0\1\2\3\4", 5},
		{"TRAILER!!!", 0, "", 0}};
	const char *p;

	for (size_t i = 0; i < ARRAY_SIZE(want) - 1; i++)
		vm_cpio_add(&b, want[i].name, want[i].mode, want[i].data, want[i].len);
	vm_cpio_end(&b);
	assert_false(b.oom);
	p = b.s;
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		size_t namesize, size;

		assert_int_equal((p - b.s) % 4, 0);
		assert_memory_equal(p, "070701", 6);
		assert_int_equal(hex8(p + 6 + 8), want[i].mode);
		size = hex8(p + 6 + 6 * 8);
		namesize = hex8(p + 6 + 11 * 8);
		assert_int_equal(size, want[i].len);
		assert_int_equal(namesize, strlen(want[i].name) + 1);
		assert_string_equal(p + 110, want[i].name);
		p += (110 + namesize + 3) / 4 * 4;
		assert_memory_equal(p, want[i].data, size);
		p += (size + 3) / 4 * 4;
	}
	assert_ptr_equal(p, b.s + b.len);
}

/* ── headers ────────────────────────────────────────────────────────────────────────────────── */

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static void bzimage_payload_is_inside_or_refused(void **state _unused_)
{
	static uint8_t image[8192];
	size_t off = 7, len = 7;

	assert_int_equal(vm_bzimage_payload(image, sizeof(image), &off, &len), -EINVAL); /* no magic */
	memcpy(image + 0x202, "HdrS", 4);
	image[0x206] = 0x0f;
	image[0x207] = 0x02;
	image[0x1f1] = 3;
	put32(image + 0x248, 100);
	put32(image + 0x24c, 2000);
	assert_int_equal(vm_bzimage_payload(image, sizeof(image), &off, &len), 0);
	assert_int_equal(off, 4 * 512 + 100);
	assert_int_equal(len, 2000);
	put32(image + 0x24c, sizeof(image) - 4 * 512 - 100);
	assert_int_equal(vm_bzimage_payload(image, sizeof(image), &off, &len), 0);
	put32(image + 0x24c, sizeof(image) - 4 * 512 - 99);
	assert_int_equal(vm_bzimage_payload(image, sizeof(image), &off, &len), -EINVAL);
	put32(image + 0x248, 0xfffffff0);
	assert_int_equal(vm_bzimage_payload(image, sizeof(image), &off, &len), -EINVAL);
	put32(image + 0x248, 100);
	put32(image + 0x24c, 2000);
	image[0x1f1] = 255;
	assert_int_equal(vm_bzimage_payload(image, sizeof(image), &off, &len), -EINVAL);
	image[0x1f1] = 3;
	image[0x206] = 7; /* version 2.07 had no such fields */
	assert_int_equal(vm_bzimage_payload(image, sizeof(image), &off, &len), -EINVAL);
	assert_int_equal(vm_bzimage_payload(image, 100, &off, &len), -EINVAL);
}

static void write_elf(const char *path, uint32_t type, const uint8_t *notes, size_t len)
{
	Elf64_Ehdr e = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_phoff = sizeof(e),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 1};
	Elf64_Phdr p = {.p_type = type, .p_offset = sizeof(e) + sizeof(p), .p_filesz = len};
	_cleanup_strbuf_ struct strbuf b = {0};

	strbuf_add(&b, (char *)&e, sizeof(e));
	strbuf_add(&b, (char *)&p, sizeof(p));
	strbuf_add(&b, (const char *)notes, len);
	assert_int_equal(file_write(path, b.s, b.len), 0);
}

static void pvh_note_is_found_among_others(void **state _unused_)
{
	uint8_t notes[64] = {0};
	char path[] = "/tmp/test_vm.XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	put32(notes, 4);
	put32(notes + 4, 5); /* padded to 8 */
	put32(notes + 8, 7);
	memcpy(notes + 12, "Xen", 4);
	put32(notes + 24, 4);
	put32(notes + 28, 4);
	put32(notes + 32, 18);
	memcpy(notes + 36, "Xen", 4);
	write_elf(path, PT_NOTE, notes, 44);
	assert_int_equal(vm_elf_pvh(path), 1);
	write_elf(path, PT_LOAD, notes, 44);
	assert_int_equal(vm_elf_pvh(path), 0);
	put32(notes + 32, 17);
	write_elf(path, PT_NOTE, notes, 44);
	assert_int_equal(vm_elf_pvh(path), 0);
	put32(notes + 32, 18);
	put32(notes, 0xfffffff0); /* a name that would reach beyond the end */
	write_elf(path, PT_NOTE, notes, 44);
	assert_int_equal(vm_elf_pvh(path), 0);
	assert_int_equal(file_write(path, "not an ELF", 10), 0);
	assert_int_equal(vm_elf_pvh(path), -ENOEXEC);
	unlink(path);
	assert_int_equal(vm_elf_pvh(path), -ENOENT);
	assert_int_equal(vm_elf_static("/proc/self/exe"), 0); /* this test is linked dynamically */
}

static void depends_line_is_parsed(void **state _unused_)
{
	char *name = NULL;

	assert_int_equal(vm_parse_depends("Package: x\nDepends: libc6 (>= 2), linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n",
				 &name),
		0);
	assert_string_equal(name, "linux-image-6.1.0-56-amd64");
	free(name);
	name = NULL;
	assert_int_equal(vm_parse_depends("Depends: linux-image-1|linux-image-2\n", &name), 0);
	assert_string_equal(name, "linux-image-1");
	free(name);
	name = NULL;
	assert_int_equal(vm_parse_depends("Pre-Depends: linux-image-1\nDescription: Depends: no\n", &name), -ENOENT);
	assert_int_equal(vm_parse_depends("Depends: linux-image-../../x\n", &name), -ENOENT);
	assert_int_equal(vm_parse_depends("", &name), -ENOENT);
	assert_null(name);
}

/* ── the job ────────────────────────────────────────────────────────────────────────────────── */

/* The text goes through a real shell: it must arrive there as it was given, whatever is in it. */
static void script_survives_a_shell(void **state _unused_)
{
	static const char show[] = "#!/bin/sh\nfor a; do printf '<%s>' \"$a\"; done\n";
	const char *const argv[] = {"/bin/echo", "a b", "it's", "$HOME `id`", "new\nline", "", NULL};
	const char *const env[] = {"LANG=C.UTF-8", "MUSTER_X=1 2", "SECRET=no", "MUSTER_VM=0", "PATH=/nowhere", NULL};
	const struct vm_script s = {
		.mark = "abc", .modules = "/m d", .cwd = "/a'b", .argv = (char *const *)argv, .env = (char *const *)env};
	_cleanup_strbuf_ struct strbuf b = {0}, command = {0};
	char box[] = "/tmp/test_vm.XXXXXX", out[4096] = "";
	int fd = mkstemp(box);
	FILE *f;

	/* in busybox's place: a program that shows what it was given, each word in brackets */
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, show, sizeof(show) - 1), 0);
	assert_int_equal(fchmod(fd, 0700), 0);
	close(fd);
	strbuf_addf(&b, "B=%s\n", box);
	vm_script_write(&s, &b);
	strbuf_puts(&b, "PATH=/p; (job); printf '|%s|%s|%s' \"$MARK\" \"$MODULES\" \"$OUT\"\n");
	strbuf_puts(&command, "sh -c ");
	strbuf_add_shell(&command, b.s);
	f = popen(command.s, "r");
	assert_non_null(f);
	assert_true(fread(out, 1, sizeof(out) - 1, f) > 0);
	assert_int_equal(pclose(f), 0);
	unlink(box);
	assert_memory_equal(out, "<setsid>", 8);
	assert_non_null(strstr(out, "<env><-i><PATH=/p><HOME=/root><USER=root><LOGNAME=root><SHELL=/bin/sh>"
				    "<MUSTER_VM=1><LANG=C.UTF-8><MUSTER_X=1 2></bin/echo><a b><it's><$HOME `id`>"
				    "<new\nline><>|abc|/m d|"));
}

static void mark_is_cut_off_wherever_it_is_split(void **state _unused_)
{
	static const char text[] = "data 0ab0abcd 0abc0abcdetail";
	const size_t total = sizeof(text) - 1;

	for (size_t a = 0; a <= total; a++) {
		for (size_t c = a; c <= total; c++) {
			struct vm_mark m = {.mark = "0abcde"};
			_cleanup_strbuf_ struct strbuf out = {0};

			vm_mark_feed(&m, text, a, &out);
			vm_mark_feed(&m, text + a, c - a, &out);
			vm_mark_feed(&m, text + c, total - c, &out);
			assert_true(m.found);
			assert_string_equal(strbuf_cstr(&out), "data 0ab0abcd 0abc");
			strbuf_free(&m.held);
		}
	}
}

static void nothing_is_held_back_that_cannot_be_the_mark(void **state _unused_)
{
	struct vm_mark m = {.mark = "xyz"};
	_cleanup_strbuf_ struct strbuf out = {0};

	vm_mark_feed(&m, "prompt> ", 8, &out);
	assert_string_equal(out.s, "prompt> ");
	vm_mark_feed(&m, "xy", 2, &out);
	assert_string_equal(out.s, "prompt> ");
	vm_mark_feed(&m, "x", 1, &out);
	assert_string_equal(out.s, "prompt> xy");
	assert_false(m.found);
	strbuf_free(&m.held);
}

static void qemu_commas_are_doubled(void **state _unused_)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	vm_qemu_escape(&b, "/a,b,/c");
	assert_string_equal(b.s, "/a,,b,,/c");
}

static void memory_is_sized_or_refused(void **state _unused_)
{
	assert_int_equal(vm_memory(0), 0);
	assert_int_equal(vm_memory(1279), 0);
	assert_int_equal(vm_memory(1280), 768);
	assert_int_equal(vm_memory(3000), 1500);
	assert_int_equal(vm_memory(64000), 2048);
}

/* ── the host's modules, from files ─────────────────────────────────────────────────────────── */

static void host_modules_are_told_apart(void **state _unused_)
{
	char root[] = "/tmp/test_vm.XXXXXX", path[128], cmd[128];

	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof(path), "%s/sys/module/ip_set", root);
	assert_int_equal(mkdir_p(path), 0);
	snprintf(path, sizeof(path), "%s/lib/modules/1.2", root);
	assert_int_equal(mkdir_p(path), 0);
	snprintf(path, sizeof(path), "%s/lib/modules/1.2/modules.dep", root);
	assert_int_equal(file_write(path, "kernel/ip_vs.ko: kernel/nf-conntrack.ko\nkernel/sch-netem.ko.xz:\n", 65), 0);
	snprintf(path, sizeof(path), "%s/lib/modules/1.2/modules.builtin", root);
	assert_int_equal(file_write(path, "kernel/sch_htb.ko\n", 18), 0);
	assert_int_equal(host_module_at(root, "1.2", "ip_set"), HOST_MODULE_PRESENT);
	assert_int_equal(host_module_at(root, "1.2", "ip-set"), HOST_MODULE_PRESENT);
	assert_int_equal(host_module_at(root, "1.2", "sch_htb"), HOST_MODULE_PRESENT);
	assert_int_equal(host_module_at(root, "1.2", "ip_vs"), HOST_MODULE_LOADABLE);
	assert_int_equal(host_module_at(root, "1.2", "sch_netem"), HOST_MODULE_LOADABLE);
	/* needed by a module is not the same as being one that is there; nor is a longer name */
	assert_int_equal(host_module_at(root, "1.2", "nf_conntrack"), HOST_MODULE_ABSENT);
	assert_int_equal(host_module_at(root, "1.2", "ip_v"), HOST_MODULE_ABSENT);
	assert_int_equal(host_module_at(root, "9.9", "ip_vs"), HOST_MODULE_ABSENT);
	snprintf(cmd, sizeof(cmd), "rm -r %s", root);
	assert_int_equal(system(cmd), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(modules_come_after_what_they_need),
		cmocka_unit_test(modules_that_are_not_there_are_named),
		cmocka_unit_test(cpio_members_read_back),
		cmocka_unit_test(bzimage_payload_is_inside_or_refused),
		cmocka_unit_test(pvh_note_is_found_among_others),
		cmocka_unit_test(depends_line_is_parsed),
		cmocka_unit_test(script_survives_a_shell),
		cmocka_unit_test(mark_is_cut_off_wherever_it_is_split),
		cmocka_unit_test(nothing_is_held_back_that_cannot_be_the_mark),
		cmocka_unit_test(qemu_commas_are_doubled),
		cmocka_unit_test(memory_is_sized_or_refused),
		cmocka_unit_test(host_modules_are_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
