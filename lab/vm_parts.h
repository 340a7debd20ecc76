/* SPDX-License-Identifier: GPL-2.0-only */
/* vm_parts.h: the parts of the microVM that are computed from bytes alone. For the microVM's own files and their tests. */
#pragma once

#include "engine/err.h"
#include "engine/str.h"

/* ── the image ──────────────────────────────────────────────────────────────────────────────── */

/*
 * The files of @names (NULL-terminated) and of all they depend on, each after what it needs, as modules.dep (@dep) says.
 * *ret: an array of text, freed by json_decref. -ENOENT with the name that is not there.
 */
int vm_modules_order(const char *dep, const char *const *names, json_t **ret, struct err *err);

/* Adds one member to a cpio archive ("newc"); vm_cpio_end() adds the trailer. @mode with its S_IF bits. */
void vm_cpio_add(struct strbuf *b, const char *name, unsigned int mode, const char *data, size_t len);
void vm_cpio_end(struct strbuf *b);

/* The compressed kernel inside a bzImage. -EINVAL: not one, or its header points outside. */
int vm_bzimage_payload(const uint8_t *image, size_t len, size_t *ret_offset, size_t *ret_len);
/* Does this ELF file carry the note (Xen, 18) by which QEMU enters it directly? 1, 0; -errno: not an ELF, not readable */
int vm_elf_pvh(const char *path);
/* Is this program linked statically? 1, 0, -errno */
int vm_elf_static(const char *path);

/* "linux-image-6.1.0-56-amd64" out of `apt-cache show linux-image-amd64`. -ENOENT */
int vm_parse_depends(const char *show, char **ret);

/* ── the job ────────────────────────────────────────────────────────────────────────────────── */

struct vm_script {
	const char *mark;    /* what ends the output; letters and digits */
	const char *modules; /* the folder that becomes /lib/modules/RELEASE */
	const char *out_dir; /* NULL: none */
	const char *cwd;
	char *const *argv, *const *env; /* @env: the caller's; vm.h says which of it is passed on */
};
/* The shell text that lab/vm_init.sh reads: definitions of MARK, MODULES, OUT and job(). */
void vm_script_write(const struct vm_script *s, struct strbuf *b);

/*
 * Takes the mark off the end of a stream: what comes before it is appended to @out, what might be its beginning is held back
 * until more is there. After the mark, @found is set and everything is dropped.
 */
struct vm_mark {
	const char *mark;
	struct strbuf held;
	bool found;
};
void vm_mark_feed(struct vm_mark *m, const char *data, size_t len, struct strbuf *out);

/* A value inside QEMU's comma-separated options: commas are doubled. */
void vm_qemu_escape(struct strbuf *b, const char *text);

/* How much memory, of @available MiB; 0: too little to boot with */
unsigned int vm_memory(unsigned int available);
