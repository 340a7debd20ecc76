/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The laws:
 *
 *  1. No apply before its INTENT record (table name, node identity, arguments, prior state, CRC) is written; durable
 *     changes are synced first. Volatile records carry the boot id and are void after a reboot.
 *  2. Undo is last in, first out, idempotent, compare-and-restore: current equals ours: restore; equals prior: done;
 *     else CONFLICT: left alone and reported, because somebody else changed it.
 *  3. An entry that cannot be undone does not stop the rest; it makes the run's residue not clean.
 *  4. DONE is written only after verify said so.
 *  5. Live while its lock is held; present and unlocked it is *hot*: `run` refuses until `restore` has played it.
 *  6. Undo never widens the harm on the way.
 *
 * A file is a sequence of frames:
 *
 *	"MJ1\n"  u32 length  u32 CRC-32C of the payload  payload (JSON text)  "\n"          little endian
 *
 * The first frame is the header {"run", "boot_id", "pid", "version", "created"}; then {"seq", "at", "intent": {...}} and {"seq", "at",
 * "mark": "applied"|"done"|"conflict"|"failed", "text"}, "at" being wall time in ms. Being JSON behind a short frame, it can be read with `strings` in an incident.
 * The JSON holds no raw newline, so that a frame's beginning is never found inside another one.
 *
 * The states of an entry, and the function on each arrow:
 *
 *	(none) ──journal_intent──> INTENT ──journal_mark(APPLIED)──> APPLIED
 *	   │ fails: no apply         │                                  │ fails: undone at once, or by the next who plays
 *	   └──> (none)               └───────────┬──────────────────────┘
 *	                                         ├─ change_undo, verify says 0 ──> DONE        (settled)
 *	                                         ├─ change_undo says CONFLICT ───> CONFLICT    (settled: it is somebody else's now)
 *	                                         └─ undo or verify failed ───────> FAILED      (played again by the next restore)
 *
 * Every arrow is one record. One that is lost, or refused by a full disk, leaves the entry where it was, which is always to the
 * left: it is undone (again), and law 2 makes that harmless. In the durable file each record is synced before the next is written:
 * INTENT must not be lost at all; after DONE somebody may set our value again, and that is theirs; and with two at a time on
 * their way to the disk, a power cut may leave the second without the first, which reads like damage.
 *
 * What reading makes of a file:
 *
 *   - A torn tail is legal, and means "may or may not have happened". It is left alone until somebody appends: then it is cut
 *     off, because whatever came behind it would be taken for damaged. A record that could not be written, or not synced, is cut off
 *     again at once; it was acknowledged to nobody. Its number is not used again, in case the cutting fails too.
 *   - Damage is what is not whole and has something whole behind it: nobody of ours leaves that. Reading goes on behind it;
 *     it becomes an entry that cannot be undone, so the run's residue is not clean, and is never cut off.
 *   - Volatile records of another boot are void. Of which boot they are the header says; without one they are
 *     reported and not played. Durable ones need no header.
 *   - A durable file that cannot be read does not keep the volatile changes from being undone: it is an entry that cannot
 *     be, for as long as that lasts.
 *   - A kind of record or mark that is not known here was written by a newer muster, and changes nothing.
 *
 * Locks, both on the volatile file, on bytes that lie far behind its end:
 *
 *	LOCK_LIVE    belongs to the open file: shared with the children, gone with the last of them. Asked after without taking it.
 *	LOCK_APPEND  belongs to the process, and is held while it reads and appends, so that no half of a record is taken for
 *	             a torn one. It is gone with a process that is killed while it holds it.
 */
#include "engine/journal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/clock.h"
#include "engine/crc32c.h"
#include "engine/trusted.h"

#define FRAME_MAGIC  "MJ1\n"
#define FRAME_HEADER 12
#define FILE_NAME    "undo.journal"
#define LOCK_LIVE    ((off_t)1 << 40)
#define LOCK_APPEND  (((off_t)1 << 40) + 1)
#define OPEN_TRIES   16 /* each is another process that removed the file just then */

const char *journal_volatile_root = "/run/muster";
const char *journal_durable_root = "/var/lib/muster";
size_t journal_file_max = 256u << 20;

static const char *const state_names[] = {"intent", "applied", "done", "conflict", "failed"};

enum header {
	HEADER_NONE,	/* nothing whole has been read yet */
	HEADER_OURS,	/* what follows can be played */
	HEADER_VOID,	/* of another boot */
	HEADER_UNKNOWN, /* of whom and when cannot be told: reported, not played */
};

struct file {
	const char *root; /* path of the folder of all runs */
	char *path;	  /* of the run's folder */
	int root_fd, dir_fd, fd;
	bool durable;
	bool settled; /* the folders that lead to it are known to be on the disk */
	bool unread;  /* it could not be read to its end: nothing may be cut off or appended */
	enum header header;
	size_t at;   /* it has been read up to here: the end of the last frame that is whole */
	size_t size; /* as last seen; what lies behind @at is a torn tail */
};

struct journal {
	char *run_id;
	struct file volatil, durable; /* the durable one is made when it is first needed */
	uint32_t seq;
	struct journal_entry *entries; /* by seq */
	size_t n_entries, room;
	bool peeking; /* journal_peek(): what is void is an entry too */
	bool excused; /* the first entry says that the durable file cannot be read */
};

static void forget(struct journal *j)
{
	for (size_t i = 0; i < j->n_entries; i++) {
		json_decref(j->entries[i].record);
		json_decref(j->entries[i].mark);
	}
	j->n_entries = 0;
	j->excused = false;
	j->volatil.at = j->durable.at = 0;
	j->volatil.header = j->durable.header = HEADER_NONE;
}

static void file_close(struct file *f)
{
	closep_(&f->fd);
	closep_(&f->dir_fd);
	closep_(&f->root_fd);
	f->fd = f->dir_fd = f->root_fd = -1;
}

void journal_close(struct journal *j)
{
	if (!j)
		return;
	forget(j);
	free(j->entries);
	file_close(&j->volatil);
	file_close(&j->durable);
	free(j->volatil.path);
	free(j->durable.path);
	free(j->run_id);
	free(j);
}

static int no_memory(const char *run_id, struct err *err)
{
	return err_set(err, -ENOMEM, "journal of run %s: no memory", run_id);
}

/* A run id is a file name: nothing that could lead elsewhere. */
static bool valid_run_id(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	return n > 0 && n <= 128 && s[n] == '\0' && s[0] != '.';
}

static int journal_new(const char *run_id, struct journal **ret, struct err *err)
{
	_cleanup_journal_ struct journal *j = NULL;

	if (!valid_run_id(run_id))
		return err_set(err, -EINVAL, "\"%.128s\" is no run id", run_id);
	j = calloc(1, sizeof(*j));
	if (!j)
		return no_memory(run_id, err);
	j->volatil = (struct file){.root = journal_volatile_root, .root_fd = -1, .dir_fd = -1, .fd = -1};
	j->durable = (struct file){
		.root = journal_durable_root, .root_fd = -1, .dir_fd = -1, .fd = -1, .durable = true};
	j->run_id = strdup(run_id);
	j->volatil.path = strf("%s/%s", journal_volatile_root, run_id);
	j->durable.path = strf("%s/%s", journal_durable_root, run_id);
	if (!j->run_id || !j->volatil.path || !j->durable.path)
		return no_memory(run_id, err);
	*ret = TAKE_PTR(j);
	return 0;
}

const char *journal_run_id(const struct journal *j)
{
	return j->run_id;
}

/* ── locks ─────────────────────────────────────────────────────────────────────────────────── */

/* 0 or -errno; -EAGAIN: somebody else's */
static int lock(int fd, int cmd, short type, off_t byte)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
	int r;

	do
		r = fcntl(fd, cmd, &l) < 0 ? -errno : 0;
	while (r == -EINTR);
	if (r == 0 && cmd == F_OFD_GETLK && l.l_type != F_UNLCK)
		return -EAGAIN;
	return r == -EACCES ? -EAGAIN : r;
}

static void unlock(const struct journal *j)
{
	(void)lock(j->volatil.fd, F_SETLK, F_UNLCK, LOCK_APPEND);
}

/* ── files ─────────────────────────────────────────────────────────────────────────────────── */

static int open_folder(struct file *f, const char *run_id, unsigned int flags, struct err *err)
{
	int r = trusted_dir(f->root, flags, &f->root_fd, err);

	return r < 0 ? r : trusted_subdir(f->root_fd, f->root, run_id, flags, &f->dir_fd, err);
}

static int open_file(struct file *f, const char *run_id, struct err *err)
{
	int r = open_folder(f, run_id, 0, err);

	if (r == 0)
		r = trusted_file(f->dir_fd, f->path, FILE_NAME, O_RDWR | O_APPEND, &f->fd, err);
	if (r < 0)
		file_close(f);
	f->at = f->size = 0;
	f->header = HEADER_NONE;
	return r;
}

/* The run's folder may hold other things: then it stays. */
static int remove_folder(const struct file *f, const char *run_id)
{
	if (unlinkat(f->root_fd, run_id, AT_REMOVEDIR) < 0 && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST)
		return -errno;
	return 0;
}

static int create_file(struct file *f, const char *run_id, struct err *err)
{
	int r = open_folder(f, run_id, TRUSTED_MAKE | (f->durable ? TRUSTED_SYNC : 0), err);

	if (r == 0)
		r = trusted_file(f->dir_fd, f->path, FILE_NAME, O_RDWR | O_APPEND | O_CREAT | O_EXCL, &f->fd, err);
	if (r < 0) {
		if (f->root_fd >= 0)
			(void)remove_folder(f, run_id);
		file_close(f);
	}
	return r;
}

/* Is the file at its path still the one that is open? Only who holds the lock removes it. 1, 0, or -errno */
static int in_place(const struct file *f)
{
	struct stat open, there;

	if (fstatat(f->dir_fd, FILE_NAME, &there, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(f->fd, &open) < 0)
		return -errno;
	return open.st_dev == there.st_dev && open.st_ino == there.st_ino;
}

static int remove_file(struct file *f, const char *run_id)
{
	int r;

	if (f->fd < 0)
		return 0;
	r = in_place(f);
	if (r > 0)
		r = unlinkat(f->dir_fd, FILE_NAME, 0) < 0 ? -errno : 0;
	if (r == 0 && f->durable)
		r = trusted_sync(f->dir_fd);
	if (r == 0)
		r = remove_folder(f, run_id);
	if (r == 0 && f->durable)
		r = trusted_sync(f->root_fd);
	return r;
}

/* The file's folder, the one of all runs, and the one that holds that. */
static int settle_folders(struct file *f, struct err *err)
{
	_cleanup_close_ int fd = -1;
	int r = trusted_dir(f->root, TRUSTED_SYNC, &fd, err);

	if (r < 0)
		return r;
	r = trusted_sync(f->root_fd);
	if (r == 0)
		r = trusted_sync(f->dir_fd);
	if (r < 0)
		return err_set(err, r, "sync %s: %s", f->path, strerror(-r));
	f->settled = true;
	return 0;
}

/* The engine may have made the durable file after the guard was forked off. */
static int find_durable(struct journal *j, struct err *err)
{
	char path[4096];
	int r;

	snprintf(path, sizeof(path), "%s/" FILE_NAME, j->durable.path);
	if (j->durable.fd >= 0 || (access(path, F_OK) < 0 && errno == ENOENT))
		return 0;
	r = open_file(&j->durable, j->run_id, err);
	return r == -ENOENT ? 0 : r;
}

/* ── reading ───────────────────────────────────────────────────────────────────────────────── */

static void put_u32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
	p[2] = (uint8_t)(v >> 16);
	p[3] = (uint8_t)(v >> 24);
}

static uint32_t get_u32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The length of the frame that begins at @p, 0 when it is not whole */
static size_t whole_frame(const uint8_t *p, size_t len)
{
	size_t n;

	if (len < FRAME_HEADER + 1 || memcmp(p, FRAME_MAGIC, 4) != 0)
		return 0;
	n = get_u32(p + 4);
	/* the CRC of nothing is 0: a magic that a power cut left in front of zeros is no frame */
	if (n < strlen("{}") || n > JOURNAL_RECORD_MAX || len - FRAME_HEADER - 1 < n || crc32c(p + FRAME_HEADER, n) != get_u32(p + 8))
		return 0;
	return FRAME_HEADER + n + 1;
}

/* Where the next whole frame begins, @len when there is none */
static size_t next_frame(const uint8_t *p, size_t at, size_t len)
{
	const uint8_t *q;

	while ((q = memmem(p + at, len - at, FRAME_MAGIC, 4))) {
		at = (size_t)(q - p);
		if (whole_frame(q, len - at))
			return at;
		at++;
	}
	return len;
}

/* The first entry of that number or a greater one */
static size_t lower_bound(const struct journal *j, uint32_t seq)
{
	size_t lo = 0, hi = j->n_entries;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (j->entries[mid].seq < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Both files count on one number, so one number is one entry; what breaks this is kept apart by the file it stands in. */
static struct journal_entry *find_entry(struct journal *j, uint32_t seq, bool durable)
{
	for (size_t i = lower_bound(j, seq); i < j->n_entries && j->entries[i].seq == seq; i++)
		if (j->entries[i].durable == durable)
			return &j->entries[i];
	return NULL;
}

/* Room for one more: after this, taking a record cannot fail. */
static int reserve(struct journal *j)
{
	size_t room = j->room ? j->room * 2 : 16;
	struct journal_entry *e;

	if (j->n_entries < j->room)
		return 0;
	e = realloc(j->entries, room * sizeof(*e));
	if (!e)
		return -ENOMEM;
	j->entries = e;
	j->room = room;
	return 0;
}

static void insert(struct journal *j, struct journal_entry e)
{
	size_t i = j->n_entries;

	while (i > 0 && j->entries[i - 1].seq > e.seq)
		i--;
	memmove(&j->entries[i + 1], &j->entries[i], (j->n_entries - i) * sizeof(e));
	j->entries[i] = e;
	j->n_entries++;
}

static void take_damage(struct journal *j, const struct file *f)
{
	if (f->header == HEADER_VOID)
		return;
	insert(j, (struct journal_entry){
			  .state = JOURNAL_FAILED, .durable = f->durable, .change = JOURNAL_DAMAGED});
}

/*
 * Wall time, for people. In milliseconds: the JSON library's reader aborts when it runs out of memory within a number of 16 digits
 * or more.
 */
static json_int_t wall_ms(void)
{
	return wall_ns() / NSEC_PER_MSEC;
}

static nsec_t time_of(const json_t *record)
{
	json_int_t ms = json_integer_value(json_object_get(record, "at"));

	return ms > 0 && ms < INT64_MAX / NSEC_PER_MSEC ? ms * NSEC_PER_MSEC : 0;
}

static void take_mark(struct journal *j, const struct file *f, uint32_t seq, const char *mark, const json_t *record)
{
	struct journal_entry *e = find_entry(j, seq, f->durable);

	if (!e)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
		if (streq(mark, state_names[i]))
			e->state = (enum journal_state)i;
	json_decref(e->mark);
	e->mark = json_incref((json_t *)record);
	e->text = json_string_value(json_object_get(record, "text"));
	e->marked = time_of(record);
}

/* One record into the entries, for which there is room. */
static void take_record(struct journal *j, const struct file *f, const json_t *record)
{
	const char *mark = json_string_value(json_object_get(record, "mark"));
	json_t *intent = json_object_get(record, "intent");
	const char *change = json_string_value(json_object_get(intent, "change"));
	json_int_t n = json_integer_value(json_object_get(record, "seq"));
	uint32_t seq = n > 0 && n <= UINT32_MAX ? (uint32_t)n : 0;
	const struct journal_entry *same = seq ? find_entry(j, seq, f->durable) : NULL;

	j->seq = MAX(j->seq, seq);
	if (f->header == HEADER_VOID && !j->peeking)
		return;
	if (mark) {
		if (seq)
			take_mark(j, f, seq, mark, record);
		return;
	}
	if (!intent || (same && json_equal(intent, same->record)))
		return;
	/* an INTENT that makes no sense is not forgotten; nor is the second of a number, whose marks could not be told apart */
	if (!change || !seq || same) {
		take_damage(j, f);
		return;
	}
	insert(j, (struct journal_entry){
			  .seq = seq,
			  .durable = f->durable,
			  .ops = f->header == HEADER_OURS || f->header == HEADER_VOID ? change_find(change) : NULL,
			  .change = change,
			  .node = json_object_get(intent, "node"),
			  .args = json_object_get(intent, "args"),
			  .prior = json_object_get(intent, "prior"),
			  .record = json_incref(intent),
			  .intended = time_of(record),
			  .is_void = f->header == HEADER_VOID,
		  });
}

static enum header read_header(const struct journal *j, const struct file *f, const json_t *record)
{
	const char *boot = clock_boot_id();

	if (!streq(json_string_value(json_object_get(record, "run")), j->run_id))
		return HEADER_UNKNOWN;
	if (f->durable)
		return HEADER_OURS;
	if (streq(boot, "unknown")) /* then every boot is */
		return HEADER_UNKNOWN;
	return streq(json_string_value(json_object_get(record, "boot_id")), boot) ? HEADER_OURS : HEADER_VOID;
}

/*
 * Takes only what is the same again when it is written out: the library's reader loses letters of a long word without a word when
 * memory is short. -EILSEQ: that, or no JSON, or nested too deep for it.
 */
static int parse(const char *text, size_t len, json_t **ret)
{
	json_error_t why = {0};
	_cleanup_json_ json_t *record = json_loadb(text, len, JSON_DECODE_ANY, &why);
	_cleanup_free_ char *again = record ? json_dumps(record, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

	if (!record) /* without memory the reader has nothing to say */
		return why.text[0] ? -EILSEQ : -ENOMEM;
	if (!again)
		return -ENOMEM;
	if (strlen(again) != len || memcmp(again, text, len) != 0)
		return -EILSEQ;
	*ret = TAKE_PTR(record);
	return 0;
}

static int take_frame(struct journal *j, struct file *f, const uint8_t *payload, size_t len)
{
	_cleanup_json_ json_t *record = NULL;

	if (reserve(j) < 0 || parse((const char *)payload, len, &record) == -ENOMEM)
		return -ENOMEM;
	if (f->at == 0 && json_object_get(record, "boot_id")) {
		f->header = read_header(j, f, record);
		return 0;
	}
	if (f->header == HEADER_NONE)
		f->header = f->durable ? HEADER_OURS : HEADER_UNKNOWN;
	if (json_is_object(record))
		take_record(j, f, record);
	else
		take_damage(j, f);
	return 0;
}

static int read_range(int fd, size_t at, size_t len, uint8_t **ret)
{
	_cleanup_free_ uint8_t *data = malloc(len);
	size_t got = 0;

	if (!data)
		return -ENOMEM;
	while (got < len) {
		ssize_t n = pread(fd, data + got, len - got, (off_t)(at + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0) /* it was longer a moment ago */
			return -EIO;
		got += (size_t)n;
	}
	*ret = TAKE_PTR(data);
	return 0;
}

/* Takes what was appended to one file since it was last read. */
static int read_file(struct journal *j, struct file *f, struct err *err)
{
	_cleanup_free_ uint8_t *data = NULL;
	size_t len = f->size - f->at, at = 0;
	int r = 0;

	if (len == 0)
		return 0;
	if (len > 2 * journal_file_max)
		return err_set(err, -EFBIG, "%s/" FILE_NAME ": of %zu bytes, larger than any journal", f->path, f->size);
	r = read_range(f->fd, f->at, len, &data);
	if (r == 0 && f->at == 0 && len >= 4 && data[0] == 'M' && data[1] == 'J' && data[2] > '1' && data[2] <= '9' &&
		data[3] == '\n') {
		r = err_set(err, -EPROTONOSUPPORT, "%s/" FILE_NAME ": of a newer muster (format %c)", f->path, data[2]);
		err_hint(err, "restore with that one, or with the restore.sh in the run's folder");
		return r;
	}
	while (r == 0 && at < len) {
		size_t n = whole_frame(data + at, len - at);

		if (n > 0) {
			r = take_frame(j, f, data + at + FRAME_HEADER, n - FRAME_HEADER - 1);
		} else {
			n = next_frame(data, at + 1, len) - at;
			if (at + n == len)
				break;
			r = reserve(j);
			if (r == 0)
				take_damage(j, f);
		}
		if (r == 0) {
			at += n;
			f->at += n;
		}
	}
	return r < 0 ? err_set(err, r, "read %s/" FILE_NAME ": %s", f->path, strerror(-r)) : 0;
}

static int look(struct file *f, bool *ret_shrunk, struct err *err)
{
	struct stat st;

	if (f->fd < 0)
		return 0;
	if (fstat(f->fd, &st) < 0)
		return err_set(err, -errno, "%s/" FILE_NAME ": %s", f->path, strerror(errno));
	f->size = (size_t)st.st_size;
	*ret_shrunk |= f->size < f->at;
	return 0;
}

/* The entry that stands for a durable file that cannot be read, while that is so */
static int excuse(struct journal *j, int r, const struct err *why)
{
	json_t *text;

	if (j->excused) {
		json_decref(j->entries[0].record);
		memmove(j->entries, j->entries + 1, --j->n_entries * sizeof(*j->entries));
		j->excused = false;
	}
	if (r == 0)
		return 0;
	text = json_sprintf("the durable journal (%s)", why->text);
	r = reserve(j);
	if (r < 0 || !text) {
		json_decref(text);
		return -ENOMEM;
	}
	memmove(j->entries + 1, j->entries, j->n_entries++ * sizeof(*j->entries));
	j->entries[0] = (struct journal_entry){
		.state = JOURNAL_FAILED, .durable = true, .change = json_string_value(text), .record = text};
	j->excused = true;
	return 0;
}

/* @ret_durable: what is wrong with the durable file alone */
static int load(struct journal *j, int *ret_durable, struct err *err)
{
	bool shrunk = false;
	struct err why = {0};
	int r = look(&j->volatil, &shrunk, err), d = find_durable(j, &why);

	if (d == 0)
		d = look(&j->durable, &shrunk, &why);
	/* begun anew by another process (start_anew()), or by somebody's hand */
	if (r == 0 && shrunk)
		forget(j);
	if (r == 0)
		r = read_file(j, &j->volatil, err);
	if (r == 0 && d == 0)
		d = read_file(j, &j->durable, &why);
	j->durable.unread = d < 0;
	if (r == 0 && excuse(j, d, &why) < 0)
		r = no_memory(j->run_id, err);
	if (r == 0 && d < 0 && ret_durable) {
		*ret_durable = d;
		if (err)
			*err = why;
	}
	return r;
}

int journal_load(struct journal *j, const struct journal_entry **ret, size_t *ret_n, struct err *err)
{
	int r;

	/* without it a record that is being written looks torn until the next time: better than not to undo at all */
	(void)lock(j->volatil.fd, F_SETLKW, F_RDLCK, LOCK_APPEND);
	r = load(j, NULL, err);
	unlock(j);
	if (r < 0)
		return r;
	*ret = j->entries;
	*ret_n = j->n_entries;
	return 0;
}

/* ── appending ─────────────────────────────────────────────────────────────────────────────── */

/* A frame behind what is in @b; the record as it will be read back */
static int encode(const json_t *record, struct strbuf *b, json_t **ret_readback)
{
	_cleanup_free_ char *text = json_dumps(record, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;
	uint8_t head[FRAME_HEADER] = FRAME_MAGIC;
	int r;

	if (!text)
		return -ENOMEM;
	if (len > JOURNAL_RECORD_MAX)
		return -EFBIG;
	/* what cannot be read back (nested too deep, a NUL in a string) would be an undo that is lost */
	r = parse(text, len, ret_readback);
	if (r < 0)
		return r;
	put_u32(head + 4, (uint32_t)len);
	put_u32(head + 8, crc32c(text, len));
	strbuf_add(b, (const char *)head, FRAME_HEADER);
	strbuf_add(b, text, len);
	strbuf_add(b, "\n", 1);
	return b->oom ? -ENOMEM : 0;
}

static int encode_header(const struct journal *j, struct strbuf *b)
{
	char wall[CLOCK_WALL_MAX];
	_cleanup_json_ json_t *readback = NULL;
	_cleanup_json_ json_t *h = json_pack("{s:s, s:s, s:i, s:s, s:s}", "run", j->run_id, "boot_id",
		clock_boot_id(), "pid", (int)getpid(), "version", MUSTER_VERSION, "created",
		clock_fmt_wall(wall, wall_ns()));

	return h ? encode(h, b, &readback) : -ENOMEM;
}

static int cut(struct file *f, size_t size)
{
	int r;

	do
		r = ftruncate(f->fd, (off_t)size) < 0 ? -errno : 0;
	while (r == -EINTR);
	if (r == 0)
		f->size = size;
	return r;
}

static int sync_file(const struct file *f)
{
	int r;

	do
		r = fdatasync(f->fd) < 0 ? -errno : 0;
	while (r == -EINTR);
	return r;
}

/* Writes at the end of what is whole. What could not be written, or synced, is not there. */
static int write_frames(struct file *f, const struct strbuf *b, struct err *err)
{
	int r = f->size > f->at ? cut(f, f->at) : 0, c;

	if (r < 0)
		return err_set(err, r, "%s/" FILE_NAME ": cut off a torn record: %s", f->path, strerror(-r));
	r = fd_write_all(f->fd, b->s, b->len);
	if (r == 0 && f->durable)
		r = sync_file(f);
	if (r == 0) {
		f->at += b->len;
		f->size = f->at;
		return 0;
	}
	c = cut(f, f->at);
	if (c < 0)
		return err_set(err, r, "write %s/" FILE_NAME ": %s; the record could not be cut off again (%s), and may be found later",
			f->path, strerror(-r), strerror(-c));
	return err_set(err, r, "write %s/" FILE_NAME ": %s", f->path, strerror(-r));
}

/* All that a volatile file of another boot holds is void: it becomes this boot's. */
static int start_anew(struct file *f)
{
	int r = f->header == HEADER_VOID ? cut(f, 0) : 0;

	if (r == 0 && f->header == HEADER_VOID) {
		f->at = 0;
		f->header = HEADER_NONE;
	}
	return r;
}

/* One record, behind the header if there is none yet. The lock is held, and all has been read. */
static int append(struct journal *j, struct file *f, const json_t *record, struct err *err)
{
	_cleanup_json_ json_t *readback = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	int r = f->unread ? -EIO : start_anew(f);
	bool first = f->at == 0;

	if (r == 0 && first)
		r = encode_header(j, &b);
	if (r == 0)
		r = encode(record, &b, &readback);
	if (r == 0)
		r = reserve(j);
	if (r < 0)
		return err_set(err, r, "journal of run %s: a record for %s: %s", j->run_id, f->path, strerror(-r));
	r = write_frames(f, &b, err);
	if (r < 0)
		return r;
	if (first)
		f->header = HEADER_OURS;
	take_record(j, f, readback);
	return 0;
}

/* Holds the lock when it succeeds. */
static int begin(struct journal *j, struct err *err)
{
	int r = lock(j->volatil.fd, F_SETLKW, F_WRLCK, LOCK_APPEND);

	if (r < 0)
		return err_set(err, r, "journal of run %s: lock: %s", j->run_id, strerror(-r));
	r = load(j, NULL, err);
	if (r < 0)
		unlock(j);
	return r;
}

static bool is_durable(const struct change_ops *ops)
{
	return ops->class == CHANGE_DURABLE || ops->class == CHANGE_ONE_WAY;
}

static int intent_locked(struct journal *j, const struct change_ops *ops, const struct node *n, const json_t *args,
	const json_t *prior, uint32_t *ret_seq, struct err *err)
{
	struct file *f = is_durable(ops) ? &j->durable : &j->volatil;
	_cleanup_json_ json_t *record = NULL;
	uint32_t seq = j->seq + 1;
	int r;

	if (seq == 0 || j->n_entries >= JOURNAL_ENTRIES_MAX || f->at > journal_file_max)
		return err_set(err, -E2BIG, "journal of run %s: it is full (%zu changes)", j->run_id, j->n_entries);
	if (j->durable.unread) /* whose numbers are not known */
		return err_set(err, -EIO, "journal of run %s: %s", j->run_id, j->entries[0].change);
	if (f->header == HEADER_UNKNOWN)
		return err_set(err, -EUCLEAN, "%s/" FILE_NAME ": its header is damaged", f->path);
	r = f->fd < 0 ? create_file(f, j->run_id, err) : 0;
	if (r == 0 && f->durable && !f->settled)
		r = settle_folders(f, err);
	if (r < 0)
		return r;
	record = json_pack("{s:I, s:I, s:{s:s, s:s, s:o, s:O, s:O}}", "seq", (json_int_t)seq, "at", wall_ms(), "intent",
		"change", ops->name, "class", change_class_name(ops->class), "node", node_to_json(n), "args", args, "prior", prior);
	if (!record)
		return no_memory(j->run_id, err);
	j->seq = seq; /* used up, whatever comes of it */
	r = append(j, f, record, err);
	if (r == 0)
		*ret_seq = seq;
	return r;
}

int journal_intent(struct journal *j, const struct change_ops *ops, const struct node *n, const json_t *args,
	const json_t *prior, uint32_t *ret_seq, struct err *err)
{
	int r = begin(j, err);

	if (r < 0)
		return r;
	r = intent_locked(j, ops, n, args, prior, ret_seq, err);
	unlock(j);
	return r;
}

/* Texts come from the kernel and from everywhere, cut at a length: what is not UTF-8 becomes ASCII. */
static json_t *text_to_json(const char *text)
{
	json_t *s = json_string(text);
	_cleanup_free_ char *plain = s ? NULL : strdup(text);

	if (s || !plain)
		return s;
	for (char *p = plain; *p; p++)
		if (*p & 0x80)
			*p = '?';
	return json_string(plain);
}

static int mark_locked(struct journal *j, uint32_t seq, enum journal_state state, const char *text, struct err *err)
{
	size_t i = lower_bound(j, seq);
	_cleanup_json_ json_t *record = NULL;
	bool durable;

	if (seq == 0 || i == j->n_entries || j->entries[i].seq != seq)
		return err_set(err, -ENOENT, "journal of run %s: it has no entry %u", j->run_id, seq);
	durable = j->entries[i].durable;
	record = json_pack("{s:I, s:I, s:s, s:o*}", "seq", (json_int_t)seq, "at", wall_ms(), "mark", state_names[state], "text",
		text ? text_to_json(text) : NULL);
	if (!record)
		return no_memory(j->run_id, err);
	return append(j, durable ? &j->durable : &j->volatil, record, err);
}

int journal_mark(struct journal *j, uint32_t seq, enum journal_state state, const char *text, struct err *err)
{
	int r = begin(j, err);

	if (r < 0)
		return r;
	r = mark_locked(j, seq, state, text, err);
	unlock(j);
	return r;
}

/* ── a run's journal, from beginning to end ────────────────────────────────────────────────── */

static int lock_live(struct journal *j, struct err *err)
{
	int r = lock(j->volatil.fd, F_OFD_SETLK, F_WRLCK, LOCK_LIVE);

	if (r == -EAGAIN) {
		r = err_set(err, -EBUSY, "run %s is live: its drill is still going on", j->run_id);
		err_hint(err, "muster halt %s --reason TEXT ends it and restores the host", j->run_id);
		return r;
	}
	return r < 0 ? err_set(err, r, "journal of run %s: lock: %s", j->run_id, strerror(-r)) : 0;
}

int journal_create(const char *run_id, struct journal **ret, struct err *err)
{
	_cleanup_journal_ struct journal *j = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	int r = journal_new(run_id, &j, err);

	if (r < 0)
		return r;
	if (streq(clock_boot_id(), "unknown"))
		return err_set(err, -ENOTSUP, "journal of run %s: /proc/sys/kernel/random/boot_id is not readable, so what dies at a reboot could not be told from what does not",
			run_id);
	r = create_file(&j->volatil, run_id, err);
	if (r < 0)
		return r;
	r = lock_live(j, err);
	if (r == -EBUSY) /* a restore has come upon it, and will remove it */
		return r;
	if (r == 0 && in_place(&j->volatil) != 1)
		r = err_set(err, -EBUSY, "journal of run %s: it was removed as soon as it was made", run_id);
	if (r == 0)
		r = find_durable(j, err);
	if (r == 0 && j->durable.fd >= 0)
		r = err_set(err, -EEXIST, "run %s has left a journal: %s/" FILE_NAME, run_id, j->durable.path);
	if (r == 0) {
		r = encode_header(j, &b);
		r = r < 0 ? no_memory(run_id, err) : write_frames(&j->volatil, &b, err);
	}
	if (r < 0) {
		(void)remove_file(&j->volatil, run_id);
		return r;
	}
	j->volatil.header = HEADER_OURS;
	*ret = TAKE_PTR(j);
	return 0;
}

/* The volatile file, which carries the lock: after a reboot only the durable one is left, and it is made anew. Locked. */
static int open_locked(struct journal *j, struct err *err)
{
	for (int i = 0; i < OPEN_TRIES; i++) {
		struct err why = {0};
		int r = open_file(&j->volatil, j->run_id, &why);

		if (r == -ENOENT) {
			r = find_durable(j, err);
			if (r < 0)
				return r;
			if (j->durable.fd < 0) {
				r = err_set(err, -ENOENT, "there is no journal of a run %s", j->run_id);
				err_hint(err, "muster status lists what runs and what is hot");
				return r;
			}
			/* under the lock it is looked for again */
			file_close(&j->durable);
			r = create_file(&j->volatil, j->run_id, &why);
			if (r == -EEXIST)
				continue;
		}
		if (r < 0) {
			if (err)
				*err = why;
			return r;
		}
		r = lock_live(j, err);
		if (r < 0)
			return r;
		r = in_place(&j->volatil);
		if (r != 0)
			return r < 0 ? err_set(err, r, "%s/" FILE_NAME ": %s", j->volatil.path, strerror(-r)) : 0;
		file_close(&j->volatil);
	}
	return err_set(err, -EAGAIN, "journal of run %s: others make and remove it all the time", j->run_id);
}

int journal_open(const char *run_id, struct journal **ret, struct err *err)
{
	_cleanup_journal_ struct journal *j = NULL;
	int durable = 0, r = journal_new(run_id, &j, err);

	if (r == 0)
		r = open_locked(j, err);
	if (r == 0)
		r = load(j, &durable, err);
	/* whoever restores is told what is wrong with it, and what to do, before anything is played */
	if (r == 0)
		r = durable;
	if (r < 0)
		return r;
	*ret = TAKE_PTR(j);
	return 0;
}

int journal_remove(struct journal *j, struct err *err)
{
	int r = begin(j, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < j->n_entries && r == 0; i++) {
		const struct journal_entry *e = &j->entries[i];

		if (e->state != JOURNAL_DONE && e->state != JOURNAL_CONFLICT)
			r = err_set(err, -ENOTEMPTY, "journal of run %s: %s on it is not undone", j->run_id, e->change);
	}
	if (r == 0) {
		/* the durable one first: it is all settled, and the lock has to outlive it */
		r = remove_file(&j->durable, j->run_id);
		if (r == 0)
			r = remove_file(&j->volatil, j->run_id);
		if (r < 0)
			err_set(err, r, "journal of run %s: all of it is settled, but it could not be removed: %s", j->run_id,
				strerror(-r));
	}
	unlock(j);
	return r;
}

/* ── who is there ──────────────────────────────────────────────────────────────────────────── */

/* The first frame of a file; NULL: it was not written whole */
static json_t *header_of(int fd)
{
	uint8_t head[4096];
	ssize_t len = pread(fd, head, sizeof(head), 0);
	size_t n = len > 0 ? whole_frame(head, (size_t)len) : 0;

	return n ? json_loadb((const char *)head + FRAME_HEADER, n - FRAME_HEADER - 1, 0, NULL) : NULL;
}

/* Who wrote the header; 0: there is none that can be read */
static pid_t creator(int fd)
{
	_cleanup_json_ json_t *h = header_of(fd);

	return (pid_t)json_integer_value(json_object_get(h, "pid"));
}

/* Is it live? Asked without taking the lock, so that nobody who wants it finds it taken by us. */
static int ask_live(struct journal_found *f)
{
	_cleanup_free_ char *path = strf("%s/%s/" FILE_NAME, journal_volatile_root, f->run_id);
	_cleanup_close_ int fd = path ? open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
	int r;

	if (!path)
		return -ENOMEM;
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = lock(fd, F_OFD_GETLK, F_WRLCK, LOCK_LIVE);
	f->live = r == -EAGAIN;
	f->pid = f->live ? creator(fd) : 0;
	return f->live ? 0 : r;
}

static int list_entry(DIR *d, const char *run_id, struct journal_found **list, size_t *n)
{
	char path[256];
	struct journal_found *more;
	struct stat st;

	if (!valid_run_id(run_id))
		return 0;
	snprintf(path, sizeof(path), "%s/" FILE_NAME, run_id);
	if (fstatat(dirfd(d), path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	for (size_t i = 0; i < *n; i++)
		if (streq((*list)[i].run_id, run_id))
			return 0;
	more = realloc(*list, (*n + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	*list = more;
	more[*n] = (struct journal_found){.run_id = strdup(run_id)};
	if (!more[*n].run_id)
		return -ENOMEM;
	(*n)++;
	return ask_live(&more[*n - 1]);
}

static int list_root(const char *root, struct journal_found **list, size_t *n)
{
	DIR *d = opendir(root);
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0) {
		const struct dirent *e;

		errno = 0;
		e = readdir(d);
		if (!e) {
			r = -errno;
			break;
		}
		r = list_entry(d, e->d_name, list, n);
	}
	closedir(d);
	return r;
}

int journal_list(struct journal_found **ret, size_t *ret_n, struct err *err)
{
	struct journal_found *list = NULL;
	size_t n = 0;
	int r = list_root(journal_volatile_root, &list, &n);

	if (r == 0)
		r = list_root(journal_durable_root, &list, &n);
	if (r < 0) {
		journal_list_free(list, n);
		return err_set(err, r, "list the journals: %s", strerror(-r));
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

void journal_list_free(struct journal_found *f, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(f[i].run_id);
	free(f);
}

/* ── a look, and nothing more ──────────────────────────────────────────────────────────────── */

static int peek_file(struct journal_peek *p, struct file *f, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/" FILE_NAME, f->path);
	bool shrunk = false;
	struct stat st;
	int r;

	if (!path)
		return no_memory(p->journal->run_id, err);
	f->fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (f->fd < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "journal: open %s: %s", path, strerror(errno));
	r = look(f, &shrunk, err);
	if (r == 0)
		r = read_file(p->journal, f, err);
	if (r < 0 || fstat(f->fd, &st) < 0)
		return r < 0 ? r : -errno;
	if (!f->durable) {
		p->live = lock(f->fd, F_OFD_GETLK, F_WRLCK, LOCK_LIVE) == -EAGAIN;
		p->is_void = f->header == HEADER_VOID;
	}
	/* somebody may be writing just now: then that is no torn tail for long */
	p->torn += f->size - f->at;
	p->modified = MAX(p->modified, (nsec_t)st.st_mtim.tv_sec * NSEC_PER_SEC + st.st_mtim.tv_nsec);
	if (!p->header)
		p->header = header_of(f->fd);
	return 0;
}

void journal_peek_clear(struct journal_peek *p)
{
	journal_close(p->journal);
	json_decref(p->header);
	*p = (struct journal_peek){0};
}

int journal_peek(const char *run_id, struct journal_peek *ret, struct err *err)
{
	_cleanup_journal_peek_ struct journal_peek p = {0};
	int r = journal_new(run_id, &p.journal, err);

	if (r < 0)
		return r;
	p.journal->peeking = true;
	r = peek_file(&p, &p.journal->volatil, err);
	if (r == 0)
		r = peek_file(&p, &p.journal->durable, err);
	if (r < 0)
		return r;
	if (p.journal->volatil.fd < 0 && p.journal->durable.fd < 0)
		return err_set(err, -ENOENT, "there is no journal of a run %s", run_id);
	p.entries = p.journal->entries;
	p.n = p.journal->n_entries;
	*ret = p;
	p = (struct journal_peek){0};
	return 0;
}
