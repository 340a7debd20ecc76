/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A power cut after each operation of a journal's life on the disk. The model: what was synced is there; of what was not (a
 * write, a cut, a name made or removed) any subset is, and of the last write that is, any beginning, with nothing or zeros behind it.
 * Every disk that this allows is made, and a restore in the next boot reads it: no wrong undo, and each durable change
 * that was applied has its INTENT.
 * wrap: change_find clock_boot_id openat mkdirat unlinkat write ftruncate fdatasync fsync
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/journal_world.h"

int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __real_mkdirat(int dir, const char *path, mode_t mode);
int __wrap_mkdirat(int dir, const char *path, mode_t mode);
int __real_unlinkat(int dir, const char *path, int flags);
int __wrap_unlinkat(int dir, const char *path, int flags);
ssize_t __real_write(int fd, const void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
int __real_ftruncate(int fd, off_t len);
int __wrap_ftruncate(int fd, off_t len);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);

/* ── the disk ──────────────────────────────────────────────────────────────────────────────── */

enum { INODES = 16, NAMES = 4, PENDING = 12, CONTENT = 8192 };

struct inode {
	ino_t ino;
	bool file;
	size_t len; /* of a file */
	uint8_t data[CONTENT];
	struct {
		char name[32];
		int inode; /* -1: free */
	} names[NAMES]; /* of a folder */
};

/* What the kernel has been told and the disk not yet */
struct atom {
	enum { LINK, UNLINK, WRITE, CUT } kind;
	int inode;
	char name[32];
	int child;
	size_t at, len; /* CUT: to len */
	uint8_t data[2048];
};

struct disk {
	struct inode inodes[INODES]; /* 0: the scratch folder */
	int n;
};

static struct disk disk; /* as synced */
static struct atom pending[PENDING];
static int n_pending;
static bool modelling;
static int fail_sync; /* the one that fails, counted down */
static bool coarse;   /* not every byte of a write, but its ends and its middle */

static int find_inode(ino_t ino)
{
	for (int i = 0; i < disk.n; i++)
		if (disk.inodes[i].ino == ino)
			return i;
	return -1;
}

static int inode_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? -1 : find_inode(st.st_ino);
}

static int new_inode(ino_t ino, bool file)
{
	struct inode *i = &disk.inodes[disk.n];

	assert_true(disk.n < INODES);
	memset(i, 0, sizeof(*i));
	i->ino = ino;
	i->file = file;
	for (int k = 0; k < NAMES; k++)
		i->names[k].inode = -1;
	return disk.n++;
}

static void apply_atom(struct disk *d, const struct atom *a, size_t part, bool zeros)
{
	struct inode *i = &d->inodes[a->inode];
	int k;

	switch (a->kind) {
	case LINK:
		for (k = 0; i->names[k].inode >= 0; k++)
			assert_true(k < NAMES - 1);
		strcpy(i->names[k].name, a->name);
		i->names[k].inode = a->child;
		break;
	case UNLINK:
		for (k = 0; k < NAMES; k++)
			if (i->names[k].inode >= 0 && streq(i->names[k].name, a->name))
				i->names[k].inode = -1;
		break;
	case WRITE:
		assert_true(a->at + a->len <= CONTENT);
		if (a->at + part > i->len) {
			memset(i->data + i->len, 0, CONTENT - i->len);
			i->len = a->at + (zeros ? a->len : part);
		}
		memcpy(i->data + a->at, a->data, part);
		break;
	case CUT:
		if (i->len > a->len)
			i->len = a->len;
		else
			memset(i->data + i->len, 0, a->len - i->len), i->len = a->len;
		break;
	}
}

static void sync_inode(int inode)
{
	int left = 0;

	for (int i = 0; i < n_pending; i++) {
		if (pending[i].inode == inode)
			apply_atom(&disk, &pending[i], pending[i].len, false);
		else
			pending[left++] = pending[i];
	}
	n_pending = left;
}

/* ── what may be left of it ────────────────────────────────────────────────────────────────── */

enum { B, C, D, N_CHANGES };
enum phase { UNTOUCHED, CHANGED, ENDING, ENDED };

static struct change changes[N_CHANGES];
static enum phase phase[N_CHANGES];
static size_t n_disks, n_cuts, n_entries_seen;

static void write_tree(const struct disk *d, int inode, const char *path)
{
	const struct inode *i = &d->inodes[inode];

	if (i->file) {
		assert_int_equal(file_write(path, (const char *)i->data, i->len), 0);
		return;
	}
	assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
	for (int k = 0; k < NAMES; k++) {
		char below[300];

		if (i->names[k].inode < 0)
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, i->names[k].name);
		write_tree(d, i->names[k].inode, below);
	}
}

static int which(const json_t *args)
{
	const char *name = json_string_value(json_object_get(args, "name"));

	for (int k = 0; k < N_CHANGES; k++)
		if (streq(name, json_string_value(json_object_get(changes[k].args, "name"))))
			return k;
	return -1;
}

static int remove_it(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

/* The next boot, with the disk that is left. */
static void restore_from(const struct disk *d)
{
	char left[128], run[160], lib[160];
	const char *const old_run = journal_volatile_root, *const old_lib = journal_durable_root, *const old_boot = boot_id;
	enum journal_state state[N_CHANGES] = {0};
	bool there[N_CHANGES] = {0};
	const struct journal_entry *e;
	struct journal *j;
	struct err err = {0};
	size_t n;
	int r;

	n_disks++;
	snprintf(left, sizeof(left), "%s/left", root);
	snprintf(run, sizeof(run), "%s/run", left);
	snprintf(lib, sizeof(lib), "%s/lib", left);
	write_tree(d, 0, left);
	journal_volatile_root = run;
	journal_durable_root = lib;
	boot_id = "the next";
	r = journal_open("r1", &j, &err);
	if (r == 0) {
		struct restore_result res;

		assert_int_equal(journal_load(j, &e, &n, &err), 0);
		for (size_t i = 0; i < n; i++) {
			int k = which(e[i].args);

			if (k < 0)
				fail_msg("something is read that was never written: %s", e[i].change);
			assert_true(json_equal(e[i].args, changes[k].args));
			assert_string_equal(json_string_value(json_object_get(e[i].prior, "was")), "prior");
			assert_ptr_equal(e[i].ops, changes[k].ops);
			assert_false(there[k]);
			there[k] = true;
			state[k] = e[i].state;
			n_entries_seen++;
		}
		undone[0] = '\0';
		assert_int_equal(journal_play(j, &res, &err), 0);
		assert_int_equal(res.failed + res.conflicts, 0);
		restore_result_clear(&res);
		if (journal_remove(j, &err) != 0)
			fail_msg("%s", err.text);
		journal_close(j);
	} else if (r != -ENOENT) {
		fail_msg("%s", err.text);
	}
	for (int k = 0; k < N_CHANGES; k++) {
		const char *name = json_string_value(json_object_get(changes[k].args, "name"));
		bool settled = state[k] == JOURNAL_DONE || state[k] == JOURNAL_CONFLICT;

		if (phase[k] == CHANGED && (!there[k] || settled))
			fail_msg("%s was applied, and what is left of the journal does not undo it", name);
		if (phase[k] == ENDED && there[k] && !settled)
			fail_msg("%s was undone, and what is left of the journal undoes it again", name);
	}
	journal_volatile_root = old_run;
	journal_durable_root = old_lib;
	boot_id = old_boot;
	assert_int_equal(nftw(left, remove_it, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void cut_the_power(void)
{
	static struct disk left;

	modelling = false;
	n_cuts++;
	for (unsigned int set = 0; set < 1u << n_pending; set++) {
		int last = -1;

		for (int i = 0; i < n_pending; i++)
			if ((set & 1u << i) && pending[i].kind == WRITE)
				last = i;
		for (int zeros = 0; zeros < (last < 0 ? 1 : 2); zeros++) {
			size_t len = last < 0 ? 0 : pending[last].len, step = coarse ? MAX(len / 2, (size_t)1) : 1;

			/* the whole of it first; zeros behind the whole is the whole */
			for (size_t part = len;; part -= MIN(part, step)) {
				left = disk;
				for (int i = 0; i < n_pending; i++)
					if (set & 1u << i)
						apply_atom(&left, &pending[i], i == last ? part : pending[i].len,
							i == last && zeros);
				if (!zeros || part < len)
					restore_from(&left);
				if (part == 0)
					break;
			}
		}
	}
	modelling = true;
}

static struct atom *add_atom(int kind, int inode)
{
	struct atom *a = &pending[n_pending++];

	assert_true(n_pending <= PENDING);
	memset(a, 0, sizeof(*a));
	a->kind = kind;
	a->inode = inode;
	return a;
}

/* ── the kernel ────────────────────────────────────────────────────────────────────────────── */

int __wrap_openat(int dir, const char *path, int flags, ...)
{
	int folder, fd;
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	fd = __real_openat(dir, path, flags, mode);
	folder = modelling && fd >= 0 && (flags & O_CREAT) ? inode_of(dir) : -1;
	if (folder >= 0) {
		struct stat st;
		struct atom *a = add_atom(LINK, folder);

		assert_int_equal(fstat(fd, &st), 0);
		a->child = new_inode(st.st_ino, true);
		strcpy(a->name, path);
		cut_the_power();
	}
	return fd;
}

int __wrap_mkdirat(int dir, const char *path, mode_t mode)
{
	int r = __real_mkdirat(dir, path, mode), folder = modelling && r == 0 ? inode_of(dir) : -1;

	if (folder >= 0) {
		struct stat st;
		struct atom *a = add_atom(LINK, folder);

		assert_int_equal(fstatat(dir, path, &st, 0), 0);
		a->child = new_inode(st.st_ino, false);
		strcpy(a->name, path);
		cut_the_power();
	}
	return r;
}

int __wrap_unlinkat(int dir, const char *path, int flags)
{
	int r = __real_unlinkat(dir, path, flags), folder = modelling && r == 0 ? inode_of(dir) : -1;

	if (folder >= 0) {
		strcpy(add_atom(UNLINK, folder)->name, path);
		cut_the_power();
	}
	return r;
}

ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
	int file = modelling ? inode_of(fd) : -1;
	struct stat st;
	ssize_t n;

	if (file < 0)
		return __real_write(fd, buf, len);
	assert_int_equal(fstat(fd, &st), 0);
	n = __real_write(fd, buf, len);
	if (n > 0) {
		struct atom *a = add_atom(WRITE, file);

		assert_true((size_t)n <= sizeof(a->data));
		a->at = (size_t)st.st_size; /* O_APPEND */
		a->len = (size_t)n;
		memcpy(a->data, buf, (size_t)n);
		cut_the_power();
	}
	return n;
}

int __wrap_ftruncate(int fd, off_t len)
{
	int file = modelling ? inode_of(fd) : -1, r = __real_ftruncate(fd, len);

	if (file >= 0 && r == 0) {
		add_atom(CUT, file)->len = (size_t)len;
		cut_the_power();
	}
	return r;
}

/* The real one is spared: the power of this machine is not cut. */
static int sync_any(int fd)
{
	int inode = modelling ? inode_of(fd) : -1;

	if (inode < 0)
		return 0;
	if (fail_sync && --fail_sync == 0) {
		errno = EIO; /* what was to be synced may be on the disk or not */
		cut_the_power();
		return -1;
	}
	sync_inode(inode);
	cut_the_power();
	return 0;
}

int __wrap_fdatasync(int fd)
{
	return sync_any(fd);
}

int __wrap_fsync(int fd)
{
	return sync_any(fd);
}

/* ── the changes: what is true of each is known from its own calls ─────────────────────────── */

static int model_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	(void)n;
	(void)prior;
	(void)err;
	phase[which(args)] = CHANGED;
	cut_the_power();
	return 0;
}

static int model_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	(void)n;
	(void)prior;
	(void)err;
	if (modelling)
		phase[which(args)] = ENDING;
	return 0;
}

static int model_verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	(void)n;
	(void)args;
	(void)prior;
	(void)err;
	return 0;
}

static struct change_ops model_durable, model_one_way;

static const struct change_ops *model_find(const char *name)
{
	return streq(name, model_durable.name) ? &model_durable :
	       streq(name, model_one_way.name) ? &model_one_way :
	       streq(name, volatile_ops.name)  ? &volatile_ops :
						   NULL;
}

static void one_life(void)
{
	struct change a = make(&volatile_ops, "a", NULL);
	struct restore_result res;
	struct journal *j;
	struct err err = {0};
	struct stat st;
	int r;

	model_durable = durable_ops;
	model_one_way = one_way_ops;
	model_durable.apply = model_one_way.apply = model_apply;
	model_durable.undo = model_one_way.undo = model_undo;
	model_durable.verify = model_one_way.verify = model_verify;
	find_instead = model_find;
	changes[B] = make(&model_durable, "b", NULL);
	changes[C] = make(&model_one_way, "c", NULL);
	changes[D] = make(&model_durable, "d", NULL);
	memset(phase, 0, sizeof(phase));
	disk.n = n_pending = 0;
	assert_int_equal(stat(root, &st), 0);
	new_inode(st.st_ino, false);
	/* the run's folder may have been made by somebody who syncs nothing: muster's own reports lie beside it */
	modelling = true;
	cut_the_power();
	assert_int_equal(mkdir(run_dir, 0755), 0); /* in memory: gone with the power, so the model does not know it */
	assert_int_equal(mkdir(lib_dir, 0755), 0);
	{
		struct atom *lib = add_atom(LINK, 0);

		assert_int_equal(stat(lib_dir, &st), 0);
		strcpy(lib->name, "lib");
		lib->child = new_inode(st.st_ino, false);
		cut_the_power();
	}
	assert_int_equal(journal_create("r1", &j, &err), 0);
	for (int k = 0; k < N_CHANGES; k++) {
		r = change_apply(j, &changes[k], &err);
		/* refused, or undone again because its mark was */
		assert_true(r == 0 ? phase[k] == CHANGED : phase[k] == UNTOUCHED || phase[k] == ENDING);
		if (k == B)
			assert_int_equal(change_apply(j, &a, &err), 0);
		if (k == C && phase[C] == CHANGED) {
			r = change_undo(j, &changes[C], &err);
			phase[C] = r == 0 ? ENDED : phase[C];
			cut_the_power();
		}
	}
	/* the engine and the guard are killed; the machine goes on; whoever restores may lose its power too */
	journal_close(j);
	cut_the_power();
	assert_int_equal(journal_open("r1", &j, &err), 0);
	assert_int_equal(journal_play(j, &res, &err), 0);
	restore_result_clear(&res);
	cut_the_power();
	(void)journal_remove(j, &err); /* refused when a mark was */
	cut_the_power();
	journal_close(j);
	modelling = false;
	find_instead = NULL;
	for (int k = 0; k < N_CHANGES; k++)
		clear(&changes[k]);
	clear(&a);
	sweep();
}

static void the_power_is_cut(void **state)
{
	(void)state;
	fail_sync = 0;
	coarse = false;
	n_disks = n_cuts = n_entries_seen = 0;
	one_life();
	printf("power cuts at %zu steps: %zu disks read, %zu entries\n", n_cuts, n_disks, n_entries_seen);
	assert_true(n_cuts > 30 && n_disks > 1500 && n_entries_seen > n_disks);
}

/* The same, and one of the syncs fails: what it was to sync is on the disk, or not, or is there again after it was cut off. */
static void a_sync_fails_and_the_power_is_cut(void **state)
{
	int nth;

	(void)state;
	coarse = true;
	n_disks = n_cuts = n_entries_seen = 0;
	for (nth = 1;; nth++) {
		fail_sync = nth;
		one_life();
		if (fail_sync)
			break;
	}
	printf("%d syncs fail, power cuts at %zu steps: %zu disks read, %zu entries\n", nth - 1, n_cuts, n_disks,
		n_entries_seen);
	assert_true(nth > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_power_is_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(a_sync_fails_and_the_power_is_cut, setup, teardown),
	};

	return cmocka_run_group_tests_name("journal, power", tests, NULL, NULL);
}
