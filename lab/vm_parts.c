/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/vm_parts.h"

#include <elf.h>
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ── modules.dep: "kernel/a/b.ko: kernel/c/d.ko kernel/e.ko\n" ──────────────────────────────── */

#define DEPTH_MAX 16 /* the kernel's own chains are 6 deep */

static bool is_module(const char *path, size_t len, const char *name)
{
	size_t n = strlen(name), base = len;

	while (base && path[base - 1] != '/')
		base--;
	if (len - base < n + 3 || strncmp(path + base + n, ".ko", 3) != 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (path[base + i] != name[i] && !(path[base + i] == '-' && name[i] == '_'))
			return false;
	return true;
}

static bool is_path(const char *path, size_t len, const char *wanted)
{
	return strncmp(path, wanted, len) == 0 && strchr(" \t\n", wanted[len]);
}

/* The line whose file @matches; @wanted ends in white space or a '\0' */
static const char *dep_line(const char *dep, const char *wanted,
	bool (*matches)(const char *path, size_t len, const char *wanted))
{
	while (*dep) {
		if (matches(dep, strcspn(dep, ":\n"), wanted))
			return dep;
		dep += strcspn(dep, "\n");
		dep += *dep == '\n';
	}
	return NULL;
}

static int add_module(const char *dep, const char *line, unsigned int depth, json_t *list)
{
	size_t len = strcspn(line, ":\n"), i;
	const char *p = line + len;
	json_t *known;
	int r;

	json_array_foreach(list, i, known)
		if (json_string_length(known) == len && memcmp(json_string_value(known), line, len) == 0)
			return 0;
	if (depth > DEPTH_MAX)
		return -ELOOP;
	p += *p == ':';
	for (;;) {
		size_t n;
		const char *needed;

		p += strspn(p, " \t");
		n = strcspn(p, " \t\n");
		if (n == 0)
			break;
		needed = dep_line(dep, p, is_path);
		if (!needed)
			return -ENOENT;
		r = add_module(dep, needed, depth + 1, list);
		if (r < 0)
			return r;
		p += n;
	}
	return json_array_append_new(list, json_stringn(line, len)) < 0 ? -ENOMEM : 0;
}

int vm_modules_order(const char *dep, const char *const *names, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *list = json_array();

	if (!list)
		return -ENOMEM;
	for (; *names; names++) {
		const char *line = dep_line(dep, *names, is_module);
		int r = line ? add_module(dep, line, 0, list) : -ENOENT;

		if (r < 0)
			return err_set(err, r, "kernel module %s: %s in modules.dep", *names,
				r == -ELOOP ? "depends on itself" : "it or what it needs is not");
	}
	*ret = TAKE_PTR(list);
	return 0;
}

/* ── cpio, the "newc" form: all numbers are eight hex digits, name and data are padded to four bytes ─── */

static void pad(struct strbuf *b)
{
	static const char zero[4];

	strbuf_add(b, zero, -b->len & 3);
}

void vm_cpio_add(struct strbuf *b, const char *name, unsigned int mode, const char *data, size_t len)
{
	/* inode numbers only tell hard links apart, and there are none */
	strbuf_addf(b, "070701%08X%08X%08X%08X%08X%08X%08zX%08X%08X%08X%08X%08zX%08X", 0, mode, 0, 0, 1, 0,
		len, 0, 0, 0, 0, strlen(name) + 1, 0);
	strbuf_add(b, name, strlen(name) + 1);
	pad(b);
	strbuf_add(b, data, len);
	pad(b);
}

void vm_cpio_end(struct strbuf *b)
{
	vm_cpio_add(b, "TRAILER!!!", 0, "", 0);
}

/* ── the kernel's own headers ───────────────────────────────────────────────────────────────── */

/* Offsets in the setup header: Documentation/x86/boot.rst of the kernel; all little endian. */
#define BZ_SETUP_SECTS 0x1f1
#define BZ_MAGIC       0x202 /* "HdrS" */
#define BZ_VERSION     0x206
#define BZ_PAYLOAD_OFF 0x248 /* from the start of the protected-mode code; since version 2.08 */
#define BZ_PAYLOAD_LEN 0x24c
#define BZ_HEADER_END  0x250

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

int vm_bzimage_payload(const uint8_t *image, size_t len, size_t *ret_offset, size_t *ret_len)
{
	size_t sects, start, offset, size;

	if (len < BZ_HEADER_END || memcmp(image + BZ_MAGIC, "HdrS", 4) != 0)
		return -EINVAL;
	if ((image[BZ_VERSION] | image[BZ_VERSION + 1] << 8) < 0x208)
		return -EINVAL;
	sects = image[BZ_SETUP_SECTS] ? image[BZ_SETUP_SECTS] : 4;
	start = (sects + 1) * 512;
	offset = get32(image + BZ_PAYLOAD_OFF);
	size = get32(image + BZ_PAYLOAD_LEN);
	if (start > len || offset > len - start || size > len - start - offset || size < 16)
		return -EINVAL;
	*ret_offset = start + offset;
	*ret_len = size;
	return 0;
}

/* The program headers of a 64-bit ELF file, little endian like the machines that this runs on */
static int read_phdrs(const char *path, int *ret_fd, Elf64_Phdr ret[64], size_t *ret_n)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr e;
	ssize_t n;

	if (fd < 0)
		return -errno;
	if (pread(fd, &e, sizeof(e), 0) != (ssize_t)sizeof(e) || memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 ||
		e.e_ident[EI_CLASS] != ELFCLASS64 || e.e_ident[EI_DATA] != ELFDATA2LSB ||
		e.e_phentsize != sizeof(Elf64_Phdr) || e.e_phnum > 64)
		return -ENOEXEC;
	n = (ssize_t)(e.e_phnum * sizeof(Elf64_Phdr));
	if (pread(fd, ret, (size_t)n, (off_t)e.e_phoff) != n)
		return -ENOEXEC;
	*ret_fd = TAKE_FD(fd);
	*ret_n = e.e_phnum;
	return 0;
}

#define NOTE_MAX	 (1u << 16)
#define XEN_NOTE_PHYS32 18 /* XEN_ELFNOTE_PHYS32_ENTRY in the kernel's include/xen/interface/elfnote.h */

int vm_elf_pvh(const char *path)
{
	_cleanup_close_ int fd = -1;
	Elf64_Phdr ph[64];
	size_t n;
	int r = read_phdrs(path, &fd, ph, &n);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ uint8_t *notes = NULL;
		size_t len = ph[i].p_filesz, at = 0;

		if (ph[i].p_type != PT_NOTE || len > NOTE_MAX)
			continue;
		notes = malloc(len + 1);
		if (!notes)
			return -ENOMEM;
		if (pread(fd, notes, len, (off_t)ph[i].p_offset) != (ssize_t)len)
			return -ENOEXEC;
		while (len - at >= 12) {
			size_t name = get32(notes + at), desc = get32(notes + at + 4);
			uint32_t type = get32(notes + at + 8);

			at += 12;
			if (name > len - at)
				break;
			if (type == XEN_NOTE_PHYS32 && name == 4 && memcmp(notes + at, "Xen", 4) == 0)
				return 1;
			at += MIN((name + 3) & ~(size_t)3, len - at);
			if (desc > len - at)
				break;
			at += MIN((desc + 3) & ~(size_t)3, len - at);
		}
	}
	return 0;
}

int vm_elf_static(const char *path)
{
	_cleanup_close_ int fd = -1;
	Elf64_Phdr ph[64];
	size_t n;
	int r = read_phdrs(path, &fd, ph, &n);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		if (ph[i].p_type == PT_INTERP)
			return 0;
	return 1;
}

int vm_parse_depends(const char *show, char **ret)
{
	static const char field[] = "Depends:";
	static const char prefix[] = "linux-image-";

	for (const char *p = show; p; p = strchr(p, '\n')) {
		size_t len;

		p += *p == '\n';
		if (strncmp(p, field, strlen(field)) != 0)
			continue;
		p += strlen(field);
		for (;;) {
			p += strspn(p, " ,|");
			len = strcspn(p, " ,|(\n");
			if (len == 0)
				break;
			/* a name, not a path: it becomes a folder and an argument */
			if (strncmp(p, prefix, strlen(prefix)) == 0 && !memchr(p, '/', len)) {
				*ret = strndup(p, len);
				return *ret ? 0 : -ENOMEM;
			}
			p += len;
			p += strspn(p, " ");
			if (*p == '(')
				p += strcspn(p, ")\n");
			p += *p == ')';
		}
		if (!*p)
			break;
	}
	return -ENOENT;
}

/* ── the job ────────────────────────────────────────────────────────────────────────────────── */

static bool env_passes(const char *var)
{
	static const char *const exact[] = {"LANG=", "TERM=", "TZ=", "NO_COLOR="};
	static const char *const prefix[] = {"MUSTER_", "CMOCKA_", "ASAN_", "UBSAN_", "LSAN_"};

	if (strncmp(var, "MUSTER_VM=", 10) == 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(exact); i++)
		if (strncmp(var, exact[i], strlen(exact[i])) == 0)
			return true;
	for (size_t i = 0; i < ARRAY_SIZE(prefix); i++)
		if (strncmp(var, prefix[i], strlen(prefix[i])) == 0)
			return true;
	return false;
}

static void assign(struct strbuf *b, const char *name, const char *value)
{
	strbuf_puts(b, name);
	strbuf_puts(b, "=");
	strbuf_add_shell(b, value);
	strbuf_puts(b, "\n");
}

void vm_script_write(const struct vm_script *s, struct strbuf *b)
{
	assign(b, "MARK", s->mark);
	assign(b, "MODULES", s->modules);
	assign(b, "OUT", s->out_dir ? s->out_dir : "");
	strbuf_puts(b, "job()\n{\ncd ");
	strbuf_add_shell(b, s->cwd);
	/* A session of its own, and nothing of init's environment; $B runs both without a dynamic loader. */
	strbuf_puts(b, " 2>/dev/null || cd /\nexec $B setsid $B env -i PATH=\"$PATH\" HOME=/root USER=root LOGNAME=root "
		       "SHELL=/bin/sh MUSTER_VM=1");
	for (char *const *e = s->env; e && *e; e++) {
		if (!env_passes(*e))
			continue;
		strbuf_puts(b, " ");
		strbuf_add_shell(b, *e);
	}
	for (char *const *a = s->argv; *a; a++) {
		strbuf_puts(b, " ");
		strbuf_add_shell(b, *a);
	}
	strbuf_puts(b, "\n}\n");
}

void vm_mark_feed(struct vm_mark *m, const char *data, size_t len, struct strbuf *out)
{
	size_t n = strlen(m->mark), keep;
	char *at;

	if (m->found)
		return;
	strbuf_add(&m->held, data, len);
	if (m->held.oom)
		return;
	at = memmem(m->held.s, m->held.len, m->mark, n);
	if (at) {
		m->found = true;
		strbuf_add(out, m->held.s, (size_t)(at - m->held.s));
		strbuf_free(&m->held);
		return;
	}
	keep = MIN(n - 1, m->held.len);
	while (keep && memcmp(m->held.s + m->held.len - keep, m->mark, keep) != 0)
		keep--;
	strbuf_add(out, m->held.s, m->held.len - keep);
	memmove(m->held.s, m->held.s + m->held.len - keep, keep);
	m->held.len = keep;
	m->held.s[keep] = '\0';
}

void vm_qemu_escape(struct strbuf *b, const char *text)
{
	for (; *text; text++)
		strbuf_add(b, *text == ',' ? ",," : text, *text == ',' ? 2 : 1);
}

/* The kernel itself and the file cache of a job want some 300 MiB; what is written in there lives in memory as well. */
#define MEMORY_MIN  768
#define MEMORY_MAX  2048
#define MEMORY_LEFT 512 /* for QEMU's own and for everybody else */

unsigned int vm_memory(unsigned int available)
{
	if (available < MEMORY_MIN + MEMORY_LEFT)
		return 0;
	return MIN(MAX(available / 2, MEMORY_MIN), MEMORY_MAX);
}
