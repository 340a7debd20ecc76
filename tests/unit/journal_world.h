/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * journal_world.h: what the journal's tests change: small files in a scratch folder. "state-NAME" holds one word, "prior" when it
 * is not there. And the two roots of the journals, in the same folder.
 *
 * Include after cmocka.h; name change_find and clock_boot_id in the wrap line.
 */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/clock.h"
#include "engine/crc32c.h"
#include "engine/journal.h"

#define FRAME_HEADER 12 /* "MJ1\n", length, CRC */

static char root[64], run_dir[128], lib_dir[128];
static const char *boot_id = "boot-1";
static char undone[256]; /* names, in the order they were undone */
static int world_quiet;	 /* above 0: the world itself is at work, and no fault of the test's is meant for it */
static struct node *host;

const struct change_ops *__wrap_change_find(const char *name);
const char *__wrap_clock_boot_id(void);

const char *__wrap_clock_boot_id(void)
{
	return boot_id;
}

/* ── a change: one word in a file ──────────────────────────────────────────────────────────── */

static void state_path(char *buf, size_t size, const json_t *args)
{
	snprintf(buf, size, "%s/state-%s", root, json_string_value(json_object_get(args, "name")));
}

static void read_state(const json_t *args, char word[64])
{
	char path[128];
	FILE *f;

	state_path(path, sizeof(path), args);
	f = fopen(path, "re");
	strcpy(word, "prior");
	if (f) {
		word[fread(word, 1, 63, f)] = '\0';
		fclose(f);
	}
}

static int write_state(const json_t *args, const char *text)
{
	char path[128];
	FILE *f;

	state_path(path, sizeof(path), args);
	f = fopen(path, "we"); /* stdio: not through the wrapped write of a journal that is full */
	if (!f)
		return -errno;
	setvbuf(f, NULL, _IONBF, 0);
	fputs(text, f);
	return fclose(f) ? -errno : 0;
}

static int capture(const struct node *n, const json_t *args, json_t **ret, struct err *err)
{
	char now[64];

	(void)n;
	(void)err;
	world_quiet++;
	read_state(args, now);
	*ret = json_pack("{s:s}", "was", now);
	world_quiet--;
	return 0;
}

static int apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	int r;

	(void)n;
	(void)prior;
	world_quiet++;
	if (json_object_get(args, "apply_fails")) {
		write_state(args, "half");
		r = err_set(err, -EIO, "as asked");
	} else {
		r = write_state(args, "ours");
	}
	world_quiet--;
	return r;
}

static int undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const char *was = json_string_value(json_object_get(prior, "was"));
	char now[64];
	int r;

	(void)n;
	if (json_object_get(args, "undo_fails"))
		return err_set(err, -EIO, "as asked");
	world_quiet++;
	read_state(args, now);
	if (!streq(now, "ours") && !streq(now, "half") && !streq(now, was)) {
		r = err_set(err, CHANGE_CONFLICT, "it is \"%s\" now", now);
	} else {
		if (strlen(undone) < sizeof(undone) - 8)
			strcat(undone, json_string_value(json_object_get(args, "name")));
		r = write_state(args, was);
	}
	world_quiet--;
	return r;
}

static int verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	char now[64];

	(void)n;
	if (json_object_get(args, "verify_fails"))
		return err_set(err, 1, "as asked");
	world_quiet++;
	read_state(args, now);
	world_quiet--;
	return streq(now, json_string_value(json_object_get(prior, "was"))) ? 0 : 1;
}

static const struct change_ops volatile_ops = {.name = "test.volatile",
	.class = CHANGE_VOLATILE,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify};
static const struct change_ops durable_ops = {.name = "test.durable",
	.class = CHANGE_DURABLE,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify};
static const struct change_ops one_way_ops = {.name = "test.one-way",
	.class = CHANGE_ONE_WAY,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify};

static const struct change_ops *(*find_instead)(const char *name); /* a test's own changes */

const struct change_ops *__wrap_change_find(const char *name)
{
	return find_instead		      ? find_instead(name) :
	       streq(name, volatile_ops.name) ? &volatile_ops :
	       streq(name, durable_ops.name)  ? &durable_ops :
	       streq(name, one_way_ops.name)  ? &one_way_ops :
						  NULL;
}

/* ── the scratch folder ────────────────────────────────────────────────────────────────────── */

static int setup(void **state)
{
	struct err err = {0};

	(void)state;
	/* in memory where there is such a folder: thousands of small files */
	strcpy(root, "/dev/shm/muster-journal-XXXXXX");
	if (!mkdtemp(root)) {
		strcpy(root, "/tmp/muster-journal-XXXXXX");
		if (!mkdtemp(root))
			return -1;
	}
	snprintf(run_dir, sizeof(run_dir), "%s/run", root);
	snprintf(lib_dir, sizeof(lib_dir), "%s/lib", root);
	journal_volatile_root = run_dir;
	journal_durable_root = lib_dir;
	boot_id = "boot-1";
	undone[0] = '\0';
	world_quiet = 0;
	host = node_new("host", NULL);
	return node_open(host, &err);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	return where->level > 0 ? remove(path) : 0;
}

/* All that is in the scratch folder */
static void sweep(void)
{
	world_quiet++;
	assert_int_equal(nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
	world_quiet--;
	undone[0] = '\0';
}

static int teardown(void **state)
{
	(void)state;
	node_free(host);
	return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS) || rmdir(root);
}

/* ── helpers ───────────────────────────────────────────────────────────────────────────────── */

static inline struct change make(const struct change_ops *ops, const char *name, const char *flag)
{
	json_t *args = json_pack("{s:s}", "name", name);

	if (flag)
		json_object_set_new(args, flag, json_true());
	return (struct change){.ops = ops, .node = host, .args = args};
}

static inline void clear(struct change *c)
{
	json_decref(c->args);
	json_decref(c->prior);
	*c = (struct change){0};
}

static inline void assert_state(const char *name, const char *want)
{
	_cleanup_json_ json_t *args = json_pack("{s:s}", "name", name);
	char now[64];

	read_state(args, now);
	assert_string_equal(now, want);
}

static inline struct restore_result play(const char *run, int want)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct restore_result res = {0};
	struct err err = {0};

	if (journal_open(run, &j, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(journal_play(j, &res, &err), want);
	return res;
}

static inline const char *volatile_path(const char *run)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s/undo.journal", run_dir, run);
	return path;
}

static inline const char *durable_path(const char *run)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s/undo.journal", lib_dir, run);
	return path;
}

/* A frame as journal.c describes it, made here by hand */
static inline void add_frame(struct strbuf *b, const char *text)
{
	size_t len = strlen(text);
	uint32_t crc = crc32c(text, len);
	uint8_t head[FRAME_HEADER] = {'M', 'J', '1', '\n'};

	for (int i = 0; i < 4; i++) {
		head[4 + i] = (uint8_t)(len >> (8 * i));
		head[8 + i] = (uint8_t)(crc >> (8 * i));
	}
	strbuf_add(b, (const char *)head, sizeof(head));
	strbuf_add(b, text, len);
	strbuf_add(b, "\n", 1);
}

static inline void write_frames_of(const char *path, const char *const *texts)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char dir[256];

	for (; *texts; texts++)
		add_frame(&b, *texts);
	snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
	assert_int_equal(mkdir_p(dir), 0);
	assert_int_equal(file_write(path, strbuf_cstr(&b), b.len), 0);
}
