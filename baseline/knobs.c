/* SPDX-License-Identifier: GPL-2.0-only */
#include "baseline/knobs.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>

#include "baseline/cpus.h"
#include "engine/units.h"

#define NET	 "/sys/class/net"
#define TEXT_MAX (64u << 10)

static const char *text_of(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

int knobs_host_only(const struct node *n, const char *what, struct err *err)
{
	if (!n->netns)
		return 0;
	err_set(err, -EPERM, "%s: %s is a network namespace, and this is of the whole machine", what, n->name);
	return err_hint(err, "set it on the node \"host\"; in a profile: on = \"host\"");
}

/* ── files ────────────────────────────────────────────────────────────────────────────────── */

/* A sysfs of the node's own, mounted nowhere: it lives as long as the descriptor. */
static int sysfs_of(const struct node *n)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	_cleanup_close_ int fs = -1;
	int r = node_enter(n, &v, NULL), fd;

	if (r < 0)
		return r;
	fs = fsopen("sysfs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return -errno;
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_file(const struct node *n, const char *path, int flags)
{
	_cleanup_close_ int root = -1;
	int fd;

	if (strncmp(path, NET "/", sizeof(NET)) != 0 && !streq(path, NET)) {
		fd = open(path, flags | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	root = sysfs_of(n);
	if (root == -EPERM && !n->netns) /* who may not mount may still look at what is mounted */
		fd = open(path, flags | O_CLOEXEC);
	else if (root < 0)
		return root;
	else
		fd = openat(root, path + strlen("/sys/"), flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int knob_read(const struct node *n, const char *path, char **ret)
{
	_cleanup_close_ int fd = open_file(n, path, O_RDONLY);
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r;

	if (fd < 0)
		return fd;
	r = fd_read_all(fd, TEXT_MAX, &text, &len);
	if (r < 0)
		return r;
	while (len && text[len - 1] == '\n')
		text[--len] = '\0';
	*ret = TAKE_PTR(text);
	return 0;
}

int knob_write(const struct node *n, const char *path, const char *text)
{
	_cleanup_close_ int fd = open_file(n, path, O_WRONLY);
	size_t len = strlen(text);
	ssize_t w;

	if (fd < 0)
		return fd;
	do {
		w = write(fd, text, len);
	} while (w < 0 && errno == EINTR);
	if (w < 0)
		return -errno;
	return (size_t)w == len ? 0 : -EIO;
}

static int by_name(const void *a, const void *b)
{
	return strverscmp(*(const char *const *)a, *(const char *const *)b); /* rx-2 before rx-10 */
}

int knob_list(const struct node *n, const char *path, json_t **ret)
{
	_cleanup_close_ int fd = open_file(n, path, O_RDONLY | O_DIRECTORY);
	_cleanup_json_ json_t *list = json_array();
	const char **names = NULL;
	size_t count = 0;
	struct dirent *e;
	DIR *d;

	if (fd < 0)
		return fd;
	d = fdopendir(fd);
	if (!d || !list) {
		if (d)
			closedir(d);
		return -ENOMEM;
	}
	fd = -1;
	while ((e = readdir(d))) {
		const char **more = e->d_name[0] == '.' ? NULL : realloc(names, (count + 1) * sizeof(*names));

		if (!more)
			continue;
		names = more;
		names[count] = strdup(e->d_name);
		count += names[count] != NULL;
	}
	closedir(d);
	if (count)
		qsort(names, count, sizeof(*names), by_name);
	for (size_t i = 0; i < count; i++) {
		json_array_append_new(list, json_string(names[i]));
		free((void *)names[i]);
	}
	free(names);
	*ret = TAKE_PTR(list);
	return 0;
}

/* ── values ───────────────────────────────────────────────────────────────────────────────── */

/* Of "always [madvise] never" the word in brackets; other text is left as it is. In place. */
static void value_of(const char *kind, char *text)
{
	char *open = streq(kind, "choice") ? strchr(text, '[') : NULL, *close = open ? strchr(open, ']') : NULL;

	if (!close)
		return;
	*close = '\0';
	memmove(text, open + 1, strlen(open + 1) + 1);
}

bool knobs_same(const char *kind, const char *a, const char *b)
{
	cpu_set_t x, y;

	if (streq(kind, "mask"))
		return cpus_parse_mask(a, &x) == 0 && cpus_parse_mask(b, &y) == 0 && CPU_EQUAL(&x, &y);
	return streq(a, b);
}

/* Cut off on the way from before to want */
static bool between(const json_t *f, const char *now)
{
	int64_t before, want, v;

	if (!streq(text_of(f, "kind"), "pages") || units_int(text_of(f, "before"), 0, INT64_MAX, &before) < 0 ||
		units_int(text_of(f, "want"), 0, INT64_MAX, &want) < 0 || units_int(now, 0, INT64_MAX, &v) < 0)
		return false;
	return v > MIN(before, want) && v < MAX(before, want);
}

static int read_value(const struct node *n, const json_t *f, char **ret)
{
	_cleanup_free_ char *text = NULL;
	int r = knob_read(n, text_of(f, "path"), &text);

	if (r < 0)
		return r;
	value_of(text_of(f, "kind"), text);
	*ret = TAKE_PTR(text);
	return 0;
}

static int fail(const struct node *n, const json_t *f, int r, const char *doing, struct err *err)
{
	return err_set(err, r, "%s on %s: %s: %s (%s)", text_of(f, "key"), n->name, doing, strerror(-r), text_of(f, "path"));
}

/* ── the life of the change ───────────────────────────────────────────────────────────────── */

int knobs_add(const struct node *n, json_t *files, const char *key, const char *path, const char *kind, const char *want,
	struct err *err)
{
	_cleanup_json_ json_t *f = json_pack("{s:s, s:s, s:s, s:s}", "key", key, "path", path, "kind", kind, "want", want);
	_cleanup_free_ char *before = NULL;
	json_t *text;
	int r;

	if (!f)
		return err_set(err, -ENOMEM, "out of memory");
	r = read_value(n, f, &before);
	if (r < 0)
		return fail(n, f, r, "read, to be able to put it back", err);
	if (knobs_same(kind, before, want)) {
		/* nothing to do, but something to watch */
		json_object_set_new(f, "want", json_string(before));
	}
	text = json_string(before);
	if (!text)
		return err_set(err, -EILSEQ, "%s on %s: its value is no text", key, n->name);
	json_object_set_new(f, "before", text);
	return json_array_append(files, f) < 0 ? -ENOMEM : 0;
}

json_t *knobs_prior(json_t *files)
{
	return json_pack("{s:o}", "files", files);
}

/* Approached page by page: what is missing is said as what this host cannot give, after it has been put back. */
static int fell_short(const struct node *n, const json_t *f, const char *now, struct err *err)
{
	bool pages = streq(text_of(f, "kind"), "pages");
	int r;

	(void)knob_write(n, text_of(f, "path"), text_of(f, "before"));
	if (pages)
		r = err_set(err, -EOPNOTSUPP, "%s on %s: the kernel found memory for %s of %s; put back to %s", text_of(f, "key"),
			n->name, now, text_of(f, "want"), text_of(f, "before"));
	else
		r = err_set(err, -ERANGE, "%s on %s: the kernel made \"%.80s\" of \"%.80s\"; put back to \"%.80s\"",
			text_of(f, "key"), n->name, now, text_of(f, "want"), text_of(f, "before"));
	err_hint(err, pages ? "ask for them soon after boot, or for fewer" : "ask for a value that the kernel takes as it is written");
	return r;
}

int knobs_apply(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	const json_t *f;
	size_t i;

	json_array_foreach(json_object_get(prior, "files"), i, f) {
		_cleanup_free_ char *now = NULL;
		const char *want = text_of(f, "want"), *kind = text_of(f, "kind");
		int r = read_value(n, f, &now);

		if (r < 0)
			return fail(n, f, r, "read", err);
		if (knobs_same(kind, now, want))
			continue;
		r = knob_write(n, text_of(f, "path"), want);
		if (r < 0) {
			err_set(err, r, "%s on %s: write \"%.80s\": %s (%s)", text_of(f, "key"), n->name, want, strerror(-r),
				text_of(f, "path"));
			if (r == -EIO && streq(kind, "mask"))
				err_hint(err, "the kernel manages the place of this interrupt itself");
			return r;
		}
		free(TAKE_PTR(now));
		r = read_value(n, f, &now);
		if (r < 0)
			return fail(n, f, r, "read back", err);
		if (!knobs_same(kind, now, want))
			return fell_short(n, f, now, err);
	}
	return 0;
}

/* One file. 0, CHANGE_CONFLICT, -errno */
static int put_back(const struct node *n, const json_t *f, struct err *err)
{
	const char *kind = text_of(f, "kind"), *before = text_of(f, "before");
	_cleanup_free_ char *now = NULL;
	int r = read_value(n, f, &now);

	if (r == -ENOENT) /* with its device, and so is the change */
		return 0;
	if (r < 0)
		return fail(n, f, r, "read", err);
	if (knobs_same(kind, now, before))
		return 0;
	if (!knobs_same(kind, now, text_of(f, "want")) && !between(f, now))
		return err_set(err, CHANGE_CONFLICT, "%s on %s: it is \"%.80s\", neither ours (\"%.80s\") nor as before (\"%.80s\")",
			text_of(f, "key"), n->name, now, text_of(f, "want"), before);
	r = knob_write(n, text_of(f, "path"), before);
	if (r < 0)
		return fail(n, f, r, "put back", err);
	free(TAKE_PTR(now));
	r = read_value(n, f, &now);
	if (r < 0)
		return fail(n, f, r, "read back", err);
	if (!knobs_same(kind, now, before) && streq(kind, "pages"))
		return err_set(err, -EBUSY, "%s on %s: %s remain, before it was %s: some are in use", text_of(f, "key"), n->name,
			now, before);
	return 0;
}

int knobs_undo(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	const json_t *files = json_object_get(prior, "files");
	int result = 0;

	/* All that can be put back is; what is reported is the worst, and of that the first */
	for (size_t i = json_array_size(files); i-- > 0;) {
		struct err e = {0};
		int r = put_back(n, json_array_get(files, i), &e);

		if (r != 0 && (result == 0 || (r < 0 && result > 0))) {
			result = r;
			if (err)
				*err = e;
		}
	}
	return result;
}

int knobs_verify(const struct node *n, const json_t *args _unused_, const json_t *prior, struct err *err)
{
	const json_t *f;
	size_t i;

	json_array_foreach(json_object_get(prior, "files"), i, f) {
		_cleanup_free_ char *now = NULL;
		int r = read_value(n, f, &now);

		if (r == -ENOENT)
			continue;
		if (r < 0)
			return fail(n, f, r, "read", err);
		if (!knobs_same(text_of(f, "kind"), now, text_of(f, "before")))
			return err_set(err, 1, "%s on %s: it is \"%.80s\", before it was \"%.80s\"", text_of(f, "key"), n->name, now,
				text_of(f, "before"));
	}
	return 0;
}

int knobs_look(const struct node *n, const json_t *args _unused_, const json_t *prior, json_t **ret_items, struct err *err)
{
	_cleanup_json_ json_t *items = json_array();
	const json_t *f;
	size_t i;

	json_array_foreach(json_object_get(prior, "files"), i, f) {
		_cleanup_free_ char *now = NULL;
		int r = read_value(n, f, &now);
		json_t *item = json_pack("{s:O, s:O, s:O, s:s}", "key", json_object_get(f, "key"), "before",
			json_object_get(f, "before"), "want", json_object_get(f, "want"), "now", r < 0 ? "" : now);

		if (!item)
			return err_set(err, -ENOMEM, "out of memory");
		json_object_set_new(item, "holds",
			r < 0 ? json_null() : json_boolean(knobs_same(text_of(f, "kind"), now, text_of(f, "want"))));
		if (r < 0)
			json_object_set_new(item, "text", json_string(r == -ENOENT ? "it is gone, with its device" : strerror(-r)));
		json_array_append_new(items, item);
	}
	*ret_items = TAKE_PTR(items);
	return 0;
}

/* @undo: a file that is gone with its device has nothing to put back */
static void add_write(struct strbuf *b, const struct node *n, const char *path, const char *text, bool undo)
{
	_cleanup_strbuf_ struct strbuf line = {0};
	bool mount = n->netns && strncmp(path, NET "/", sizeof(NET)) == 0;

	/* /sys shows the namespace that it was mounted in */
	strbuf_puts(&line, mount ? "mount -t sysfs sysfs /sys && { " : "");
	if (undo) {
		strbuf_puts(&line, "[ ! -e ");
		strbuf_add_shell(&line, path);
		strbuf_puts(&line, " ] || ");
	}
	strbuf_puts(&line, "echo ");
	strbuf_add_shell(&line, text);
	strbuf_puts(&line, " >");
	strbuf_add_shell(&line, path);
	strbuf_puts(&line, mount ? "; }" : "");
	if (mount) {
		change_command_prefix(n, b);
		strbuf_puts(b, "unshare --mount sh -c ");
		strbuf_add_shell(b, strbuf_cstr(&line));
		strbuf_puts(b, "\n");
	} else {
		strbuf_addf(b, "%s\n", strbuf_cstr(&line));
	}
}

int knobs_command(const struct node *n, const json_t *args _unused_, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	const json_t *files = json_object_get(prior, "files"), *f;
	size_t i;

	json_array_foreach(files, i, f)
		if (!knobs_same(text_of(f, "kind"), text_of(f, "before"), text_of(f, "want")))
			add_write(ret_apply, n, text_of(f, "path"), text_of(f, "want"), false);
	for (i = json_array_size(files); i-- > 0;) {
		f = json_array_get(files, i);
		if (!knobs_same(text_of(f, "kind"), text_of(f, "before"), text_of(f, "want")))
			add_write(ret_undo, n, text_of(f, "path"), text_of(f, "before"), true);
	}
	if (prior && !ret_apply->len) {
		strbuf_puts(ret_apply, "# nothing to do: it is so already\n");
		strbuf_puts(ret_undo, "# nothing was changed\n");
	}
	if (!prior)
		strbuf_puts(ret_undo, "# puts back what it reads before the change\n");
	return 0;
}
