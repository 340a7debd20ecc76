/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whatever lies in a run's two journal files: it is read or refused; an entry that can be played is one that stood there, byte by
 * byte; and what is appended behind it is read back, with all that had been read before. Nothing is played.
 *
 * The input is lines. The first letter says what to do with the rest, in which @BOOT is this boot's id:
 *
 *	V, D	a record of the volatile or the durable file, framed here
 *	v, d	bytes of that file as they are, with the newline; w, e: without
 *	!	as the input's first letter: all that follows is both files, as it is
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/clock.h"
#include "engine/crc32c.h"
#include "engine/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static char root[64], volatile_root[80], durable_root[80], volatile_file[120], durable_file[120];
static struct node *host;

static const struct change_ops volatile_ops = {.name = "fuzz.volatile", .class = CHANGE_VOLATILE};

static void leave(void)
{
	char cmd[160];

	node_free(host);
	snprintf(cmd, sizeof(cmd), "rm -rf -- %s", root);
	(void)!system(cmd);
}

static void prepare(void)
{
	strcpy(root, "/dev/shm/muster-fuzz-XXXXXX");
	if (!mkdtemp(root))
		abort();
	snprintf(volatile_root, sizeof(volatile_root), "%s/run", root);
	snprintf(durable_root, sizeof(durable_root), "%s/lib", root);
	snprintf(volatile_file, sizeof(volatile_file), "%s/f/undo.journal", volatile_root);
	snprintf(durable_file, sizeof(durable_file), "%s/f/undo.journal", durable_root);
	journal_volatile_root = volatile_root;
	journal_durable_root = durable_root;
	host = node_new("host", NULL);
	if (!host || node_open(host, NULL) < 0)
		abort();
	atexit(leave);
}

static void put_u32(char *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (char)(v >> (8 * i));
}

static void add_frame(struct strbuf *b, const char *text, size_t len)
{
	char head[12] = "MJ1\n";

	put_u32(head + 4, (uint32_t)len);
	put_u32(head + 8, crc32c(text, len));
	strbuf_add(b, head, sizeof(head));
	strbuf_add(b, text, len);
	strbuf_add(b, "\n", 1);
}

/* @files: volatile, durable */
static void make_files(const char *p, size_t len, struct strbuf files[2])
{
	static const char kinds[] = "VDvdwe";

	while (len) {
		const char *end = memchr(p, '\n', len), *kind = strchr(kinds, *p ? *p : '?');
		size_t n = end ? (size_t)(end - p) : len;

		if (kind && n) {
			struct strbuf *b = &files[(kind - kinds) % 2];
			_cleanup_strbuf_ struct strbuf line = {0};

			for (size_t i = 1; i < n; i++) {
				if (n - i >= 5 && memcmp(p + i, "@BOOT", 5) == 0) {
					strbuf_puts(&line, clock_boot_id());
					i += 4;
				} else {
					strbuf_add(&line, p + i, 1);
				}
			}
			if (kind - kinds < 2)
				add_frame(b, strbuf_cstr(&line), line.len);
			else
				strbuf_add(b, strbuf_cstr(&line), line.len);
			if (kind - kinds == 2 || kind - kinds == 3)
				strbuf_add(b, "\n", 1);
		}
		p += n + (end != NULL);
		len -= n + (end != NULL);
	}
}

/* What can be played stood in the file, whole; returns how many there are. */
static size_t check(const struct journal_entry *e, size_t n, const struct strbuf files[2])
{
	size_t playable = 0;

	for (size_t i = 0; i < n; i++) {
		const struct strbuf *b = &files[e[i].durable];
		_cleanup_free_ char *text = e[i].seq ? json_dumps(e[i].record, JSON_COMPACT) : NULL;

		if (!e[i].change || (i > 0 && e[i].seq < e[i - 1].seq) || (e[i].ops && !e[i].seq))
			abort();
		if (text && !memmem(strbuf_cstr(b), b->len, text, strlen(text)))
			abort();
		playable += e[i].ops != NULL;
	}
	return playable;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct strbuf files[2] = {{0}, {0}};
	_cleanup_json_ json_t *args = json_pack("{s:s}", "name", "fuzz"), *prior = json_object();
	const struct journal_entry *e;
	struct journal *j = NULL;
	struct err err = {0};
	size_t n = 0, before = 0, after = 0;
	uint32_t seq = 0, last;
	bool added;

	if (!root[0])
		prepare();
	if (len && data[0] == '!') {
		strbuf_add(&files[0], (const char *)data + 1, len - 1);
		strbuf_add(&files[1], (const char *)data + 1, len - 1);
	} else {
		make_files((const char *)data, len, files);
	}
	for (int f = 0; f < 2; f++) {
		const char *path = f ? durable_file : volatile_file;
		char dir[120];

		snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
		if (files[f].len == 0)
			(void)unlink(path);
		else if (mkdir_p(dir) < 0 || file_write(path, files[f].s, files[f].len) < 0)
			abort();
	}
	if (journal_open("f", &j, &err) < 0) {
		if (!err.text[0])
			abort();
		goto end;
	}
	if (journal_load(j, &e, &n, &err) < 0)
		abort();
	before = n;
	last = n ? e[n - 1].seq : 0;
	(void)check(e, n, files);
	added = journal_intent(j, &volatile_ops, host, args, prior, &seq, &err) == 0;
	if (added && journal_mark(j, seq, JOURNAL_APPLIED, "caf\xc3", &err) < 0)
		abort();
	if (added && seq <= last)
		abort(); /* a number was used twice */
	journal_close(j);
	if (journal_open("f", &j, &err) < 0 || journal_load(j, &e, &after, &err) < 0)
		abort();
	if (after != before + added)
		abort();
	if (added) {
		const struct journal_entry *mine = NULL;

		for (size_t i = 0; i < after; i++)
			if (e[i].seq == seq && !mine)
				mine = &e[i];
		if (!mine || mine->state != JOURNAL_APPLIED || !json_equal(mine->args, args) || mine->durable)
			abort();
		if (journal_mark(j, seq, JOURNAL_DONE, NULL, &err) < 0)
			abort();
	}
	(void)journal_remove(j, &err);
	journal_close(j);
end:
	strbuf_free(&files[0]);
	strbuf_free(&files[1]);
	(void)unlink(volatile_file);
	(void)unlink(durable_file);
	return 0;
}
