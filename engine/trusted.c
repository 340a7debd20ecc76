/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/trusted.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/str.h"

#define LINKS_MAX 40 /* as the kernel's own */

int trusted_sync(int dir)
{
	_cleanup_close_ int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	do
		r = fsync(fd) < 0 ? -errno : 0;
	while (r == -EINTR);
	return r;
}

/* @on_the_way: a folder with more behind it */
static int look_at(int fd, const char *path, bool on_the_way, struct stat *ret, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		int r = err_set(err, -EPERM, "%s belongs to user %u, and what stands there would be played as root", path,
			(unsigned int)st.st_uid);

		err_hint(err, "look at what is in it; chown root:root %s if it is yours", path);
		return r;
	}
	/* a link's own mode says nothing; a group of root's is root */
	if (!S_ISLNK(st.st_mode) &&
		((st.st_mode & S_IWOTH) || ((st.st_mode & S_IWGRP) && st.st_gid != 0)) &&
		!(on_the_way && (st.st_mode & S_ISVTX))) {
		int r = err_set(err, -EPERM, "others may write to %s (mode %04o), and what stands there would be played as root",
			path, st.st_mode & 07777);

		err_hint(err, "look at what is in it; chmod go-w %s", path);
		return r;
	}
	*ret = st;
	return 0;
}

/* One step: the folder @name in @at, or, on the way, where a link of that name leads. */
static int step(int at, const char *name, const char *path, unsigned int flags, bool last, int *ret_fd, char *ret_link,
	size_t link_size, struct err *err)
{
	_cleanup_close_ int fd = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	bool made = false;
	struct stat st;
	int r;

	if (fd < 0 && errno == ENOENT && (flags & TRUSTED_MAKE)) {
		if (mkdirat(at, name, 0755) < 0 && errno != EEXIST)
			return err_set(err, -errno, "make %s: %s", path, strerror(errno));
		made = true;
		fd = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	}
	if (fd < 0)
		return err_set(err, -errno, "open %s: %s", path, strerror(errno));
	r = look_at(fd, path, !last, &st, err);
	if (r < 0)
		return r;
	if (S_ISLNK(st.st_mode)) {
		ssize_t n;

		if (last)
			return err_set(err, -ELOOP, "%s is a symbolic link; a journal's folder has to be a plain one", path);
		n = readlinkat(fd, "", ret_link, link_size - 1);
		if (n < 0)
			return err_set(err, -errno, "read the link %s: %s", path, strerror(errno));
		ret_link[n] = '\0';
		return 0;
	}
	if (!S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "%s is no folder", path);
	if ((flags & TRUSTED_SYNC) && (made || last)) {
		r = trusted_sync(at);
		if (r < 0)
			return err_set(err, r, "sync the folder that holds %s: %s", path, strerror(-r));
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int trusted_dir(const char *path, unsigned int flags, int *ret_fd, struct err *err)
{
	_cleanup_close_ int at = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *rest = strdup(path);
	_cleanup_strbuf_ struct strbuf walked = {0};
	char *p = rest;
	int links = 0;

	if (!rest)
		return err_set(err, -ENOMEM, "open %s: no memory", path);
	if (at < 0)
		return err_set(err, -errno, "open /: %s", strerror(errno));
	for (;;) {
		char link[PATH_MAX] = "", *name;
		int next = -1, r;

		p += strspn(p, "/");
		if (!*p)
			break;
		name = p;
		p += strcspn(p, "/");
		if (*p)
			*p++ = '\0';
		p += strspn(p, "/");
		strbuf_addf(&walked, "/%s", name);
		if (walked.oom)
			return err_set(err, -ENOMEM, "open %s: no memory", path);
		r = step(at, name, walked.s, flags, !*p, &next, link, sizeof(link), err);
		if (r < 0)
			return r;
		if (next >= 0) {
			close(at);
			at = next;
			continue;
		}
		if (++links > LINKS_MAX)
			return err_set(err, -ELOOP, "%s: too many symbolic links", path);
		name = strf("%s/%s", link, p);
		if (!name)
			return err_set(err, -ENOMEM, "open %s: no memory", path);
		free(rest);
		p = rest = name;
		walked.len = link[0] == '/' ? 0 : (size_t)(strrchr(walked.s, '/') - walked.s);
		walked.s[walked.len] = '\0';
		if (link[0] == '/') {
			close(at);
			at = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
			if (at < 0)
				return err_set(err, -errno, "open /: %s", strerror(errno));
		}
	}
	*ret_fd = TAKE_FD(at);
	return 0;
}

int trusted_subdir(int dir, const char *path, const char *name, unsigned int flags, int *ret_fd, struct err *err)
{
	_cleanup_free_ char *full = strf("%s/%s", path, name);

	if (!full)
		return err_set(err, -ENOMEM, "open %s: no memory", path);
	return step(dir, name, full, flags, true, ret_fd, NULL, 0, err);
}

int trusted_file(int dir, const char *path, const char *name, int flags, int *ret_fd, struct err *err)
{
	_cleanup_free_ char *full = strf("%s/%s", path, name);
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r;

	if (!full)
		return err_set(err, -ENOMEM, "open %s: no memory", path);
	/* O_NONBLOCK: whoever put a pipe there does not make us wait */
	fd = openat(dir, name, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(err, -errno, "%s %s: %s", flags & O_CREAT ? "create" : "open", full, strerror(errno));
	r = look_at(fd, full, false, &st, err);
	if (r < 0)
		return r;
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EPERM, "%s is no plain file", full);
	*ret_fd = TAKE_FD(fd);
	return 0;
}
