/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vm_image.h: what the microVM boots, and the cache it lies in. For the microVM's own files only.
 *
 *	CACHE/lock			held while anything below is made
 *	CACHE/current			-> the folder in use
 *	CACHE/linux-image-R_V/		one kernel package, unpacked
 *		vmlinux | vmlinuz	the kernel itself, or as packed when it could not be unpacked
 *		modules/		what belongs into /lib/modules/R
 *		release			R, one line; written last
 *		initramfs-HASH.cpio	made from this muster's init script, this busybox, these modules
 *	CACHE/kvm			what came of trying KVM (vm.c)
 *
 * Everything is made under a name of its own and renamed into place.
 */
#pragma once

#include "engine/err.h"
#include "engine/live.h"

struct vm_image {
	char *dir, *release, *kernel, *modules, *initramfs;
	int lock; /* shared, on dir: nobody removes it while it is in use */
};

void vm_image_free(struct vm_image *img);
static inline void vm_image_freep(struct vm_image **img)
{
	vm_image_free(*img);
}
#define _cleanup_vm_image_ _cleanup_(vm_image_freep)

/* What the cache holds. -ENOENT: nothing yet. Makes the initramfs if need be. */
int vm_image_open(struct vm_image **ret, struct err *err);
/* The same, after filling an empty cache or, with @newest, a cache that holds an older kernel than apt knows. */
int vm_image_get(bool newest, struct live *live, struct vm_image **ret, struct err *err);
