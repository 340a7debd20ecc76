/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/vm_image.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/clock.h"
#include "engine/embedded.h"
#include "lab/host.h"
#include "lab/vm.h"
#include "lab/vm_parts.h"

#define KERNEL_MAX	  (64u << 20)
#define MODULE_MAX	  (16u << 20)
#define TOOL_OUTPUT_MAX	  (1u << 20)
#define FETCH_TIMEOUT	  (15 * 60 * NSEC_PER_SEC)
#define UNPACK_TIMEOUT	  (5 * 60 * NSEC_PER_SEC)
#define NOTE_EVERY	  (5 * NSEC_PER_SEC)
#define KERNEL_META	  "linux-image-amd64"
#define INITRAMFS_VERSION 1

/* What the init loads before it has a root: the host's files, its ports, the overlay. Dependencies follow by themselves. */
static const char *const boot_modules[] = {"virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", NULL};

/* ── helper programs ────────────────────────────────────────────────────────────────────────── */

struct tool {
	const char *const *argv; /* the program's name first, looked up with host_program() */
	const char *cwd;
	int stdout_fd;	     /* -1: kept, see tool_run() */
	nsec_t timeout;
	void (*tick)(void *arg); /* about once a second; may be NULL */
	void *arg;
};

static void tool_child(const struct tool *t, const char *file, int output, pid_t parent)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if ((t->cwd && chdir(t->cwd) < 0) || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
		dup2(t->stdout_fd >= 0 ? t->stdout_fd : output, STDOUT_FILENO) < 0 ||
		dup2(output, STDERR_FILENO) < 0)
		_exit(127);
	syscall(SYS_close_range, 3, ~0U, 0);
	setenv("LC_ALL", "C", 1);
	execv(file, (char *const *)t->argv);
	_exit(127);
}

static const char *last_line(const struct strbuf *b)
{
	char *s = b->s, *nl;

	if (!s)
		return "";
	while (b->len && (nl = strrchr(s, '\n')) && !nl[1])
		*nl = '\0';
	nl = strrchr(s, '\n');
	return nl ? nl + 1 : s;
}

/* Runs it and waits. @ret_out (may be NULL) gets what it printed. Exit status other than 0: -EIO, with its last line. */
static int tool_run(const struct tool *t, struct strbuf *ret_out, struct err *err)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	_cleanup_close_ int rd = -1, wr = -1;
	_cleanup_free_ char *file = NULL;
	nsec_t deadline = now_ns() + t->timeout;
	pid_t pid, self = getpid();
	int fds[2], status, r = 0;

	if (host_program(t->argv[0], &file) < 0)
		return err_set(err, -ENOENT, "%s is not installed", t->argv[0]);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "%s: pipe: %s", t->argv[0], strerror(errno));
	rd = fds[0];
	wr = fds[1];
	pid = fork();
	if (pid < 0)
		return err_set(err, -errno, "%s: fork: %s", t->argv[0], strerror(errno));
	if (pid == 0)
		tool_child(t, file, wr, self);
	close(TAKE_FD(wr));
	for (;;) {
		struct pollfd p = {.fd = rd, .events = POLLIN};
		char chunk[4096];
		ssize_t n;

		if (poll(&p, 1, 1000) == 0) {
			if (t->tick)
				t->tick(t->arg);
		} else {
			n = read(rd, chunk, sizeof(chunk));
			if (n == 0 || (n < 0 && errno != EINTR))
				break;
			if (n > 0 && out.len < TOOL_OUTPUT_MAX)
				strbuf_add(&out, chunk, (size_t)n);
		}
		if (now_ns() > deadline) {
			kill(pid, SIGKILL);
			r = -ETIMEDOUT;
			break;
		}
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (r < 0)
		return err_set(err, r, "%s: no end after %lld s", t->argv[0],
			(long long)(t->timeout / NSEC_PER_SEC));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(err, -EIO, "%s: %s", t->argv[0],
			*last_line(&out) ? last_line(&out) : "ended with an error and no word");
	if (ret_out) {
		strbuf_free(ret_out);
		*ret_out = out;
		out = (struct strbuf){0};
	}
	return 0;
}

/* ── folders ────────────────────────────────────────────────────────────────────────────────── */

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_, struct FTW *f _unused_)
{
	return remove(path);
}

static void remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void remove_treep(char **path)
{
	if (*path)
		remove_tree(*path);
	free(*path);
}

int vm_cache_dir(char **ret, struct err *err)
{
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	_cleanup_free_ char *dir = NULL;

	if (xdg && *xdg == '/')
		dir = strf("%s/muster/vm", xdg);
	else if (geteuid() == 0 || !home || *home != '/')
		dir = strf("/var/cache/muster/vm");
	else
		dir = strf("%s/.cache/muster/vm", home);
	if (!dir)
		return err_set(err, -ENOMEM, "microVM: no memory");
	*ret = TAKE_PTR(dir);
	return 0;
}

/* The cache's lock; closing the descriptor lets go of it. */
static int cache_lock(const char *cache, struct live *live, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/lock", cache);
	_cleanup_close_ int fd = -1;
	int r = mkdir_p(cache);

	if (!path)
		return -ENOMEM;
	if (r < 0)
		return err_set(err, r, "microVM cache %s: %s", cache, strerror(-r));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_set(err, -errno, "microVM cache: open %s: %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return err_set(err, -errno, "microVM cache: lock %s: %s", path, strerror(errno));
		if (live)
			live_note(live, "another muster is filling the microVM cache; waiting for it");
		while (flock(fd, LOCK_EX) < 0)
			if (errno != EINTR)
				return err_set(err, -errno, "microVM cache: lock %s: %s", path,
					strerror(errno));
	}
	return TAKE_FD(fd);
}

/*
 * What a killed muster left half made and, if @keep names the kernel in use, the others that nobody has open. The cache
 * is locked.
 */
static void cache_sweep(const char *cache, const char *keep)
{
	DIR *d = opendir(cache);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		_cleanup_free_ char *path = strf("%s/%s", cache, e->d_name);
		_cleanup_close_ int fd = -1;

		if (!path)
			break;
		if (strncmp(e->d_name, ".new-", 5) == 0) {
			remove_tree(path);
			continue;
		}
		if (!keep || strncmp(e->d_name, "linux-image-", 12) != 0 || streq(e->d_name, keep))
			continue;
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			remove_tree(path);
	}
	if (d)
		closedir(d);
}

/* ── the initramfs ──────────────────────────────────────────────────────────────────────────── */

static uint64_t fnv1a(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3u;
	return h;
}

static int busybox_path(char **ret, struct err *err)
{
	_cleanup_free_ char *path = NULL;

	if (host_program("busybox", &path) < 0 || vm_elf_static(path) != 1) {
		err_set(err, -ENOPKG, "microVM: no statically linked busybox");
		err_hint(err, "apt-get install --no-install-recommends busybox-static");
		return -ENOPKG;
	}
	*ret = TAKE_PTR(path);
	return 0;
}

static int initramfs_fill(const struct vm_image *img, const struct embedded *init, const char *busybox,
	struct strbuf *b, struct err *err)
{
	static const char *const dirs[] = {"bin", "modules"};
	_cleanup_free_ char *dep_path = strf("%s/modules.dep", img->modules), *dep = NULL, *box = NULL;
	_cleanup_json_ json_t *order = NULL;
	size_t i, len;
	json_t *file;
	int r;

	if (!dep_path)
		return -ENOMEM;
	r = file_read(dep_path, MODULE_MAX, &dep, NULL);
	if (r < 0)
		return err_set(err, r, "microVM: read %s: %s", dep_path, strerror(-r));
	r = vm_modules_order(dep, boot_modules, &order, err);
	if (r < 0)
		return r;
	for (i = 0; i < ARRAY_SIZE(dirs); i++)
		vm_cpio_add(b, dirs[i], S_IFDIR | 0755, "", 0);
	vm_cpio_add(b, "init", S_IFREG | 0755, init->data, init->len);
	r = file_read(busybox, MODULE_MAX, &box, &len);
	if (r < 0)
		return err_set(err, r, "microVM: read %s: %s", busybox, strerror(-r));
	vm_cpio_add(b, "bin/busybox", S_IFREG | 0755, box, len);
	json_array_foreach(order, i, file) {
		const char *path = json_string_value(file), *base = strrchr(path, '/');
		_cleanup_free_ char *from = strf("%s/%s", img->modules, path), *data = NULL;
		/* the number makes the shell's own order of names the order of loading */
		_cleanup_free_ char *to = strf("modules/%02zu-%s", i, base ? base + 1 : path);

		if (!from || !to)
			return -ENOMEM;
		r = file_read(from, MODULE_MAX, &data, &len);
		if (r < 0)
			return err_set(err, r, "microVM: read %s: %s", from, strerror(-r));
		vm_cpio_add(b, to, S_IFREG | 0644, data, len);
	}
	vm_cpio_end(b);
	return b->oom ? err_set(err, -ENOMEM, "microVM: no memory for the initramfs") : 0;
}

/*
 * Those of other versions of muster go when they have not been made today: one that is about to boot cannot be told from
 * one that is not wanted any more.
 */
static void initramfs_sweep(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	struct stat st;

	while (d && (e = readdir(d)))
		if ((strncmp(e->d_name, "initramfs-", 10) == 0 || strncmp(e->d_name, ".new-", 5) == 0) &&
			fstatat(dirfd(d), e->d_name, &st, 0) == 0 &&
			wall_ns() / NSEC_PER_SEC - st.st_mtim.tv_sec > 24 * 3600)
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
}

static int initramfs_make(struct vm_image *img, struct err *err)
{
	const struct embedded *init = embedded_find("lab/vm_init.sh");
	_cleanup_free_ char *busybox = NULL, *path = NULL, *temporary = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	uint64_t h = 0xcbf29ce484222325u ^ INITRAMFS_VERSION;
	struct stat st;
	int r;

	if (!init)
		return err_set(err, -ENOENT, "microVM: this muster was built without lab/vm_init.sh");
	r = busybox_path(&busybox, err);
	if (r < 0)
		return r;
	if (stat(busybox, &st) < 0)
		return err_set(err, -errno, "microVM: %s: %s", busybox, strerror(errno));
	h = fnv1a(h, init->data, init->len);
	h = fnv1a(h, &st.st_size, sizeof(st.st_size));
	h = fnv1a(h, &st.st_mtim, sizeof(st.st_mtim));
	for (const char *const *m = boot_modules; *m; m++)
		h = fnv1a(h, *m, strlen(*m) + 1);
	path = strf("%s/initramfs-%016llx.cpio", img->dir, (unsigned long long)h);
	if (!path)
		return -ENOMEM;
	if (access(path, R_OK) == 0) {
		img->initramfs = TAKE_PTR(path);
		return 0;
	}
	initramfs_sweep(img->dir);
	r = initramfs_fill(img, init, busybox, &b, err);
	if (r < 0)
		return r;
	temporary = strf("%s/.new-initramfs-%d", img->dir, (int)getpid());
	if (!temporary)
		return -ENOMEM;
	r = file_write(temporary, b.s, b.len);
	if (r == 0 && rename(temporary, path) < 0)
		r = -errno;
	if (r < 0) {
		unlink(temporary);
		return err_set(err, r, "microVM: write %s: %s", path, strerror(-r));
	}
	img->initramfs = TAKE_PTR(path);
	return 0;
}

/* ── opening ────────────────────────────────────────────────────────────────────────────────── */

void vm_image_free(struct vm_image *img)
{
	if (!img)
		return;
	free(img->dir);
	free(img->release);
	free(img->kernel);
	free(img->modules);
	free(img->initramfs);
	if (img->lock >= 0)
		close(img->lock);
	free(img);
}

int vm_image_open(struct vm_image **ret, struct err *err)
{
	_cleanup_vm_image_ struct vm_image *img = calloc(1, sizeof(*img));
	_cleanup_free_ char *cache = NULL, *link = NULL, *release = NULL, *packed = NULL;
	int r;

	if (!img)
		return -ENOMEM;
	img->lock = -1;
	r = vm_cache_dir(&cache, err);
	if (r < 0)
		return r;
	link = strf("%s/current", cache);
	if (!link)
		return -ENOMEM;
	img->dir = realpath(link, NULL);
	if (!img->dir)
		return err_set(err, -errno, "microVM cache %s: %s", cache,
			errno == ENOENT ? "no kernel in it yet" : strerror(errno));
	img->lock = open(img->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (img->lock < 0 || flock(img->lock, LOCK_SH | LOCK_NB) < 0)
		return err_set(err, -ENOENT, "microVM cache %s: no kernel in it yet", cache);
	release = strf("%s/release", img->dir);
	img->modules = strf("%s/modules", img->dir);
	img->kernel = strf("%s/vmlinux", img->dir);
	packed = strf("%s/vmlinuz", img->dir);
	if (!release || !img->modules || !img->kernel || !packed)
		return -ENOMEM;
	/* written last: without it the folder is not whole */
	r = file_read(release, 256, &img->release, NULL);
	if (r < 0)
		return err_set(err, -ENOENT, "microVM cache %s: no kernel in it yet", cache);
	img->release[strcspn(img->release, "\n")] = '\0';
	if (access(img->kernel, R_OK) < 0) {
		free(img->kernel);
		img->kernel = TAKE_PTR(packed);
	}
	r = initramfs_make(img, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(img);
	return 0;
}

/* ── filling ────────────────────────────────────────────────────────────────────────────────── */

struct fetch {
	struct live *live;
	const char *cache;
	char *work;	   /* CACHE/.new-PID */
	char *package;	   /* linux-image-6.1.0-56-amd64 */
	char *name;	   /* linux-image-6.1.0-56-amd64_6.1.192-2: the folder */
	char *lists[2];	   /* apt options for lists of our own; NULL: the host's */
	nsec_t noted;
	uint64_t size;
};

static void note(struct live *live, const char *fmt, ...) _printf_(2, 3);
static void note(struct live *live, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (!live)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	live_note(live, text);
}

/* The one .deb in the work folder, whole or in the making */
static int find_deb(const char *dir, char **ret)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int r = -ENOENT;

	while (d && (e = readdir(d))) {
		if (!strstr(e->d_name, ".deb"))
			continue;
		*ret = strf("%s/%s", dir, e->d_name);
		r = *ret ? 0 : -ENOMEM;
		break;
	}
	if (d)
		closedir(d);
	return r;
}

static void fetch_tick(void *arg)
{
	struct fetch *f = arg;
	_cleanup_free_ char *deb = NULL;
	struct stat st;

	if (now_ns() - f->noted < NOTE_EVERY || find_deb(f->work, &deb) < 0 || stat(deb, &st) < 0)
		return;
	f->noted = now_ns();
	note(f->live, "fetching %s: %lld of %llu MB", f->package, (long long)st.st_size / 1000000,
		(unsigned long long)f->size / 1000000);
}

/* "Size: 70550672" and "Filename: pool/.../linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb" of apt-cache show */
static int parse_package(struct fetch *f, const char *show)
{
	const char *p = strstr(show, "\nSize: "), *base, *end;

	f->size = p ? strtoull(p + 7, NULL, 10) : 0;
	base = strstr(show, "\nFilename: ");
	if (!base)
		return -ENOENT;
	base += 11;
	end = base + strcspn(base, "\n");
	for (p = base; p < end; p++)
		if (*p == '/')
			base = p + 1;
	for (p = end; p > base && *p != '_'; p--)
		;
	if (p == base || strncmp(base, "linux-image-", 12) != 0)
		return -ENOENT;
	f->name = strndup(base, (size_t)(p - base));
	return f->name ? 0 : -ENOMEM;
}

static int apt(struct fetch *f, const char *program, const char *verb, const char *what, struct strbuf *out,
	struct err *err)
{
	/* apt's own user may not write into our folder; the package is checked against its signed list all the same */
	const char *argv[16] = {program, "-q", "-o", "APT::Sandbox::User=root", "-o", "APT::Cache::AllVersions=0"};
	struct tool t = {.argv = argv, .cwd = f->work, .stdout_fd = -1, .timeout = FETCH_TIMEOUT};
	size_t n = 6;

	for (size_t i = 0; i < ARRAY_SIZE(f->lists); i++)
		if (f->lists[i]) {
			argv[n++] = "-o";
			argv[n++] = f->lists[i];
		}
	argv[n++] = verb;
	if (what)
		argv[n++] = what;
	t.tick = fetch_tick;
	t.arg = f;
	return tool_run(&t, out, err);
}

static int fetch_name(struct fetch *f, struct err *err)
{
	_cleanup_strbuf_ struct strbuf out = {0};
	int r;

	free(TAKE_PTR(f->package));
	free(TAKE_PTR(f->name));
	r = apt(f, "apt-cache", "show", KERNEL_META, &out, err);
	if (r == 0 && vm_parse_depends(strbuf_cstr(&out), &f->package) < 0)
		r = err_set(err, -ENOENT, "apt knows %s, but not the kernel that it stands for", KERNEL_META);
	if (r == 0)
		r = apt(f, "apt-cache", "show", f->package, &out, err);
	if (r == 0 && parse_package(f, strbuf_cstr(&out)) < 0)
		r = err_set(err, -ENOENT, "apt knows %s, but not its file", f->package);
	return r;
}

static bool have_already(const struct fetch *f)
{
	_cleanup_free_ char *whole = strf("%s/%s/release", f->cache, f->name);

	return whole && access(whole, R_OK) == 0;
}

static int fetch_deb(struct fetch *f, struct err *err)
{
	if (have_already(f))
		return 0;
	note(f->live, "fetching %s (%llu MB) for the microVM", f->package, (unsigned long long)f->size / 1000000);
	f->noted = now_ns();
	return apt(f, "apt-get", "download", f->package, NULL, err);
}

/* With the package lists of this host; if they are missing or too old to download by, with fresh ones of our own. */
static int fetch_package(struct fetch *f, struct err *err)
{
	int r = fetch_name(f, err);
	_cleanup_free_ char *lists = NULL;

	if (r == 0)
		r = fetch_deb(f, err);
	if (r < 0) {
		lists = strf("%s/lists/partial", f->work);
		f->lists[0] = strf("Dir::State::Lists=%s/lists", f->work);
		f->lists[1] = strf("Dir::Cache=%s/lists", f->work);
		if (!lists || !f->lists[0] || !f->lists[1])
			return -ENOMEM;
		r = mkdir_p(lists);
		note(f->live, "the package lists of this host are missing or old; reading fresh ones");
		if (r == 0)
			r = apt(f, "apt-get", "update", NULL, NULL, err);
		if (r == 0)
			r = fetch_name(f, err);
		if (r == 0)
			r = fetch_deb(f, err);
	}
	if (r < 0) {
		err_prefix(err, "microVM: fetch Debian's kernel package");
		err_hint(err, "apt-get update && apt-get download %s must work here; then: muster vm fetch",
			KERNEL_META);
	}
	return r;
}

/* vmlinuz -> vmlinux: the emulated processor would take seconds for what this one does in one */
static int unpack_kernel(const char *from, const char *dir, struct err *err)
{
	static const struct {
		uint8_t magic[4];
		const char *argv[5];
	} kinds[] = {
		{{0xfd, '7', 'z', 'X'}, {"xz", "-dc", "--single-stream"}},
		{{0x28, 0xb5, 0x2f, 0xfd}, {"zstd", "-dcq"}},
		{{0x1f, 0x8b, 0x08, 0x00}, {"gzip", "-dc"}},
	};
	_cleanup_free_ char *image = NULL, *payload = strf("%s/payload", dir), *to = strf("%s/vmlinux", dir);
	_cleanup_close_ int fd = -1;
	size_t len, offset, size;
	int r;

	if (!payload || !to)
		return -ENOMEM;
	r = file_read(from, KERNEL_MAX, &image, &len);
	if (r == 0)
		r = vm_bzimage_payload((const uint8_t *)image, len, &offset, &size);
	if (r == 0)
		r = file_write(payload, image + offset, size);
	if (r < 0)
		return err_set(err, r, "microVM: unpack %s: %s", from, strerror(-r));
	r = -EOPNOTSUPP;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		const char *argv[6];
		struct tool t = {.argv = argv, .timeout = UNPACK_TIMEOUT};
		size_t n = 0;

		if (memcmp(image + offset, kinds[i].magic, sizeof(kinds[i].magic)) != 0)
			continue;
		fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0)
			return err_set(err, -errno, "microVM: write %s: %s", to, strerror(errno));
		for (; kinds[i].argv[n]; n++)
			argv[n] = kinds[i].argv[n];
		argv[n++] = payload;
		argv[n] = NULL;
		t.stdout_fd = fd;
		r = tool_run(&t, NULL, err);
		break;
	}
	unlink(payload);
	if (r == 0 && vm_elf_pvh(to) != 1)
		r = -EOPNOTSUPP;
	if (r < 0)
		unlink(to);
	return r;
}

static int unpack(struct fetch *f, const char *deb, struct err *err)
{
	_cleanup_free_ char *root = strf("%s/root", f->work), *release = NULL, *from = NULL, *to = NULL,
			    *image = NULL, *boot = NULL, *done = NULL, *line = NULL, *list = NULL;
	const char *const dpkg[] = {"dpkg-deb", "-x", deb, root, NULL};
	struct tool t = {.argv = dpkg, .stdout_fd = -1, .timeout = UNPACK_TIMEOUT};
	int r;

	if (!root)
		return -ENOMEM;
	note(f->live, "unpacking %s", f->package);
	r = tool_run(&t, NULL, err);
	if (r < 0)
		return r;
	release = strdup(f->package + strlen("linux-image-"));
	from = strf("%s/lib/modules/%s", root, release);
	to = strf("%s/modules", f->work);
	list = strf("%s/lib/modules/%s/modules.dep", root, release);
	boot = strf("%s/boot/vmlinuz-%s", root, release);
	image = strf("%s/vmlinuz", f->work);
	done = strf("%s/release", f->work);
	line = strf("%s\n", release);
	if (!release || !from || !to || !list || !boot || !image || !done || !line)
		return -ENOMEM;
	{
		const char *const depmod[] = {"depmod", "-b", root, release, NULL};
		struct tool d = {.argv = depmod, .stdout_fd = -1, .timeout = UNPACK_TIMEOUT};

		r = tool_run(&d, NULL, err);
	}
	if (r < 0)
		return r;
	if (access(list, R_OK) < 0 || rename(from, to) < 0 || rename(boot, image) < 0)
		return err_set(err, -EINVAL, "microVM: %s is not laid out as a kernel package: %s", f->package,
			strerror(errno));
	/* A kernel that stays packed boots as well, only later. */
	if (unpack_kernel(image, f->work, NULL) == 0)
		unlink(image);
	remove_tree(root);
	unlink(deb);
	r = file_write(done, line, strlen(line));
	return r < 0 ? err_set(err, r, "microVM: write %s: %s", done, strerror(-r)) : 0;
}

/* current -> NAME, replaced in one step */
static int point_current(const char *cache, const char *name, struct err *err)
{
	_cleanup_free_ char *link = strf("%s/current", cache), *fresh = strf("%s/.new-current", cache);

	if (!link || !fresh)
		return -ENOMEM;
	unlink(fresh);
	if (symlink(name, fresh) < 0 || rename(fresh, link) < 0)
		return err_set(err, -errno, "microVM: link %s: %s", link, strerror(errno));
	return 0;
}

static int fetch_into(struct fetch *f, struct err *err)
{
	_cleanup_free_ char *deb = NULL, *target = NULL, *lists = NULL;
	int r = fetch_package(f, err);

	if (r < 0)
		return r;
	if (!have_already(f)) {
		target = strf("%s/%s", f->cache, f->name);
		lists = strf("%s/lists", f->work);
		if (!target || !lists)
			return -ENOMEM;
		r = find_deb(f->work, &deb);
		if (r < 0)
			return err_set(err, r, "microVM: apt-get download %s left no file", f->package);
		r = unpack(f, deb, err);
		if (r < 0)
			return r;
		remove_tree(lists);
		remove_tree(target); /* one that was never whole */
		if (rename(f->work, target) < 0)
			return err_set(err, -errno, "microVM: rename to %s: %s", target, strerror(errno));
	}
	r = point_current(f->cache, f->name, err);
	if (r == 0)
		cache_sweep(f->cache, f->name);
	return r;
}

int vm_image_get(bool newest, struct live *live, struct vm_image **ret, struct err *err)
{
	_cleanup_free_ char *cache = NULL;
	_cleanup_(remove_treep) char *work = NULL;
	_cleanup_close_ int lock = -1;
	struct fetch f = {.live = live};
	struct err none = {0};
	int r;

	if (!newest) {
		r = vm_image_open(ret, &none);
		if (r != -ENOENT) {
			if (r < 0 && err)
				*err = none;
			return r;
		}
	}
	r = vm_cache_dir(&cache, err);
	if (r < 0)
		return r;
	lock = cache_lock(cache, live, err);
	if (lock < 0)
		return lock;
	/* whoever had the lock may have done it */
	if (!newest) {
		r = vm_image_open(ret, NULL);
		if (r != -ENOENT)
			return r;
	}
	cache_sweep(cache, NULL);
	work = strf("%s/.new-%d", cache, (int)getpid());
	if (!work)
		return -ENOMEM;
	r = mkdir_p(work);
	if (r < 0)
		return err_set(err, r, "microVM cache: make %s: %s", work, strerror(-r));
	f.cache = cache;
	f.work = work;
	r = fetch_into(&f, err);
	free(f.package);
	free(f.name);
	free(f.lists[0]);
	free(f.lists[1]);
	return r < 0 ? r : vm_image_open(ret, err);
}
