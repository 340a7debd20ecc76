/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * trusted.h: folders and files that root may believe, because nobody else could have put them there.
 *
 * What stands in a journal is played as root. So its file is reached one folder at a time, by descriptor, and each step is looked
 * at: it belongs to root (or to who runs us), and nobody else may write to it. On the way a sticky folder (/tmp) will do, because there
 * nobody can rename or remove what is ours, and a symbolic link of root's is followed; the last folder has to be a plain one.
 *
 * What is refused is -EPERM (-ELOOP: a symbolic link), and the text names it.
 */
#pragma once

#include "engine/err.h"

enum {
	TRUSTED_MAKE = 1, /* makes what is missing, mode 0755 */
	TRUSTED_SYNC = 2, /* what it made, and the last one in any case, is on the disk: the folder that holds it is synced */
};

/* The folder at the absolute @path; for use as a base and in trusted_sync() only (O_PATH). -ENOENT */
int trusted_dir(const char *path, unsigned int flags, int *ret_fd, struct err *err);

/* The folder @name in the one behind @dir; @path is that one's, for texts. */
int trusted_subdir(int dir, const char *path, const char *name, unsigned int flags, int *ret_fd, struct err *err);

/* A plain file in it, with open(2)'s @flags; O_CREAT makes it with mode 0600. */
int trusted_file(int dir, const char *path, const char *name, int flags, int *ret_fd, struct err *err);

/* fsync of a folder: what was made or removed in it is on the disk. 0 or -errno */
int trusted_sync(int dir);
