/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where interrupts may be served: "irq virtio2-input.0 processors = 0-1", one line an interrupt that a device has asked for, by
 * the device's name; the number stands with it when two have the same name. Interrupts of the processor itself and those that no
 * driver has claimed are left out, as are where one was served last (effective_affinity) and how often.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "engine/snapshot.h"
#include "engine/units.h"

struct irq {
	int number;
	char name[128]; /* of its devices, as one word */
};

static int by_name(const void *a, const void *b)
{
	const struct irq *x = a, *y = b;
	int c = strcmp(x->name, y->name);

	return c ? c : (x->number > y->number) - (x->number < y->number);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* A folder for each device that has asked for it; none: nobody has. */
static bool irq_name(int dir_fd, const char *number, char ret[128])
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char names[8][256];
	struct dirent *e;
	size_t n = 0;
	DIR *d;
	int fd = openat(dir_fd, number, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return false;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return false;
	}
	while (n < ARRAY_SIZE(names) && (e = readdir(d)))
		if (e->d_type == DT_DIR && e->d_name[0] != '.')
			strcpy(names[n++], e->d_name);
	closedir(d);
	if (n == 0)
		return false;
	qsort(names, n, sizeof(names[0]), by_text);
	for (size_t i = 0; i < n; i++) {
		if (i)
			strbuf_puts(&b, ",");
		snapshot_word(&b, names[i]);
	}
	strncpy(ret, strbuf_cstr(&b), 127);
	ret[127] = '\0';
	return true;
}

static int take_host(struct strbuf *b, struct err *err)
{
	_cleanup_free_ struct irq *v = NULL;
	size_t n = 0, size = 0;
	struct dirent *e;
	DIR *d = opendir("/proc/irq");

	if (!d)
		return errno == ENOENT ? 0 : err_set(err, -errno, "/proc/irq: %s", strerror(errno));
	while ((e = readdir(d))) {
		int64_t number;

		if (units_int(e->d_name, 0, INT32_MAX, &number) < 0)
			continue;
		if (n == size) {
			struct irq *more = realloc(v, (size = size ? size * 2 : 64) * sizeof(*v));

			if (!more) {
				closedir(d);
				return -ENOMEM;
			}
			v = more;
		}
		v[n].number = (int)number;
		if (irq_name(dirfd(d), e->d_name, v[n].name))
			n++;
	}
	snapshot_fact(b, dirfd(d), "default_smp_affinity", "irq default mask");
	if (n > 1)
		qsort(v, n, sizeof(*v), by_name);
	for (size_t i = 0; i < n; i++) {
		bool same = (i > 0 && strcmp(v[i].name, v[i - 1].name) == 0) ||
			    (i + 1 < n && strcmp(v[i].name, v[i + 1].name) == 0);
		char path[64];

		snprintf(path, sizeof(path), "%d/smp_affinity_list", v[i].number);
		if (same)
			snapshot_fact(b, dirfd(d), path, "irq %s/%d processors", v[i].name, v[i].number);
		else
			snapshot_fact(b, dirfd(d), path, "irq %s processors", v[i].name);
	}
	closedir(d);
	return 0;
}

const struct snapshot_ops snapshot_irq = {
	.name = "irq",
	.take_host = take_host,
};
