/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One job, one machine:
 *
 *	          spawn            "up"               "started"               "exit N" and the marks
 *	(nothing) ────── BOOTING ────── job is sent ────────── RUNNING ────────────────────────────── ENDED, killed
 *	                    │ on_control()                        │  on_control(), on_output()
 *	                    └ ended, or BOOT_TIMEOUT: -EIO        └ ended: -EIO; timeout_s: -ETIMEDOUT; 2nd signal: -EINTR
 *
 * QEMU is killed and not shut down: it owns no state, and what the job wrote to out_dir went through as it was
 * written. All channels are socket pairs, so there is no name to clean up.
 */
#include "lab/vm.h"

#include <ctype.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include "engine/clock.h"
#include "lab/host.h"
#include "lab/vm_image.h"
#include "lab/vm_parts.h"

#define QEMU		"qemu-system-x86_64"
#define BOOT_TIMEOUT	(180 * NSEC_PER_SEC) /* 3 s on an idle machine; this one may be shared */
#define KVM_TIMEOUT	(4 * NSEC_PER_SEC)   /* where KVM works it takes one */
#define TICK_MS		100
#define CONSOLE_KEEP	(256u << 10)
#define EVENT_LINE_MAX	(1u << 20)
#define CPUS_MAX	4
#define MARK_LEN	32

extern char **environ;

/* The channels between QEMU and us, and QEMU's own words last */
enum { CONSOLE, CONTROL, OUT, ERR, EVENTS, WORDS, CHANNELS };

/* The guest's ports by number, as lab/vm_init.sh uses them */
static const char *const port_names[] = {[CONTROL] = "control", [OUT] = "out", [ERR] = "err", [EVENTS] = "events"};

struct machine {
	pid_t pid;
	int pidfd;
	int fd[CHANNELS];
	struct strbuf console; /* the last CONSOLE_KEEP bytes of the kernel's console */
	struct strbuf words;
};

struct machine_config {
	const struct vm_image *image;
	bool kvm;
	unsigned int cpus, memory_mib;
	const char *cmdline; /* added to the kernel's */
	const char *out_dir; /* NULL: none */
};

/* ── starting and ending QEMU ───────────────────────────────────────────────────────────────── */

struct args {
	char *v[80];
	size_t n;
	bool oom;
};

static void args_add(struct args *a, const char *fmt, ...) _printf_(2, 3);
static void args_add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	if (a->oom || a->n + 1 >= ARRAY_SIZE(a->v)) {
		a->oom = true;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&a->v[a->n], fmt, ap) < 0) {
		a->v[a->n] = NULL;
		a->oom = true;
	} else {
		a->n++;
	}
	va_end(ap);
}

static void args_free(struct args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
}

/*
 * The rate of this processor's time stamp counter, which is what an emulated one counts by. A guest that has to find it out
 * by itself compares it with a timer, and gets it wrong when the host is busy; so it is told. 0: not known.
 */
static unsigned long tsc_khz(void)
{
#ifdef __x86_64__
	const struct timespec nap = {.tv_nsec = 20 * NSEC_PER_MSEC};
	nsec_t at[2] = {0, 0};
	uint64_t count[2];

	for (int i = 0; i < 2; i++) {
		nsec_t best = NSEC_INFINITY;

		/* the closest of a few readings: one that was interrupted in the middle would be off */
		for (int k = 0; k < 8; k++) {
			nsec_t before = now_ns(), after;
			uint64_t c = __builtin_ia32_rdtsc();

			after = now_ns();
			if (after - before < best) {
				best = after - before;
				at[i] = before + (after - before) / 2;
				count[i] = c;
			}
		}
		if (i == 0)
			nanosleep(&nap, NULL);
	}
	if (count[1] <= count[0] || at[1] - at[0] < nap.tv_nsec / 2)
		return 0;
	return (unsigned long)((double)(count[1] - count[0]) * (double)NSEC_PER_MSEC / (double)(at[1] - at[0]));
#else
	return 0;
#endif
}

/* @fds: what the channels are called in the child */
/*
 * What a baseline can move about: a network card with a queue for each of two processors, plugged into nothing, and a NUMA node for
 * each of two processors, with half of the memory each.
 */
static void hardware_args(const struct machine_config *c, struct args *a)
{
	args_add(a, "-netdev");
	args_add(a, "hubport,id=n0,hubid=0");
	args_add(a, "-device");
	args_add(a, "vmxnet3,netdev=n0");
	if (c->cpus < 2)
		return;
	for (unsigned int i = 0; i < 2; i++) {
		unsigned int half = c->memory_mib / 2, first = i ? c->cpus / 2 : 0, last = i ? c->cpus - 1 : c->cpus / 2 - 1;

		args_add(a, "-object");
		args_add(a, "memory-backend-ram,id=m%u,size=%uM", i, i ? c->memory_mib - half : half);
		args_add(a, "-numa");
		args_add(a, "node,nodeid=%u,cpus=%u-%u,memdev=m%u", i, first, last, i);
	}
}

static void machine_args(const struct machine_config *c, const int fds[CHANNELS], struct args *a)
{
	const char *dot = strrchr(c->image->kernel, '/');
	bool packed = dot && streq(dot, "/vmlinuz");
	unsigned long khz = c->kvm ? 0 : tsc_khz();
	char clock[96] = "";

	if (!c->kvm)
		snprintf(clock, sizeof(clock), " tsc=reliable no_timer_check");
	if (khz)
		snprintf(clock, sizeof(clock), " tsc=reliable no_timer_check tsc_early_khz=%lu", khz);

	args_add(a, QEMU);
	args_add(a, "-nodefaults");
	args_add(a, "-no-user-config");
	args_add(a, "-no-reboot");
	args_add(a, "-display");
	args_add(a, "none");
	args_add(a, "-machine");
	args_add(a, "q35,usb=off,smbus=off,sata=off,vmport=off,hpet=%s", c->kvm ? "on" : "off");
	args_add(a, "-accel");
	/*
	 * One thread for all emulated processors. With a thread each, QEMU before 8.1 may translate code while another processor rewrites
	 * it, and keep what is no more: a kernel that patches itself (static keys, ftrace, trampolines of BPF) then stands at a breakpoint
	 * that is not there, for good. Nor are two threads faster for what runs here.
	 */
	args_add(a, "%s", c->kvm ? "kvm" : "tcg,thread=single");
	args_add(a, "-cpu");
	args_add(a, "%s", c->kvm ? "host" : "max");
	args_add(a, "-smp");
	args_add(a, "%u", c->cpus);
	args_add(a, "-m");
	args_add(a, "%u", c->memory_mib);
	if (!streq(c->cmdline, "muster.probe"))
		hardware_args(c, a);
	args_add(a, "-kernel");
	args_add(a, "%s", c->image->kernel);
	args_add(a, "-initrd");
	args_add(a, "%s", c->image->initramfs);
	args_add(a, "-append");
	/*
	 * Only what makes a machine that lives for minutes start sooner or fail louder. tsc=reliable: the emulated
	 * counters agree, but the kernel does not know, and any other clock here is a slow device. The last three: modules
	 * that make a device when they are loaded would do so in the middle of a drill (systemd has the same in modprobe.d).
	 * lsm=: without AppArmor alone, the kernel would take SELinux, whose hooks are on every packet's way.
	 * A kernel that is stuck says where, and ends, instead of running into somebody's deadline; at the third word of it
	 * (30 s, and every 93 s from then on), because an emulated processor may wait long for a real one, and a machine that was
	 * stopped for a while takes the jump of its clock for a stall.
	 */
	args_add(a, "console=ttyS0 loglevel=5 panic=-1 oops=panic nowatchdog mitigations=off init_on_alloc=0 lsm=yama "
		    "audit=0 cryptomgr.notests random.trust_cpu=on rcupdate.rcu_cpu_stall_timeout=30 "
		    "sysctl.kernel.panic_on_rcu_stall=1 sysctl.kernel.max_rcu_stall_to_panic=3 dummy.numdummies=0 bonding.max_bonds=0 ifb.numifbs=0"
		    "%s%s %s",
		clock, packed ? " nokaslr" : "", c->cmdline);
	args_add(a, "-chardev");
	args_add(a, "socket,id=console,fd=%d", fds[CONSOLE]);
	args_add(a, "-serial");
	args_add(a, "chardev:console");
	args_add(a, "-device");
	args_add(a, "virtio-serial-pci,max_ports=8");
	for (int i = CONTROL; i <= EVENTS; i++) {
		args_add(a, "-chardev");
		args_add(a, "socket,id=%s,fd=%d", port_names[i], fds[i]);
		args_add(a, "-device");
		args_add(a, "virtserialport,nr=%d,chardev=%s,name=%s", i, port_names[i], port_names[i]);
	}
	args_add(a, "-virtfs");
	args_add(a, "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap");
	if (c->out_dir) {
		_cleanup_strbuf_ struct strbuf path = {0};

		vm_qemu_escape(&path, c->out_dir);
		args_add(a, "-virtfs");
		args_add(a, "local,path=%s,mount_tag=out,security_model=none,multidevs=remap", strbuf_cstr(&path));
	}
}

static void machine_child(const char *file, const struct args *a, const int fds[CHANNELS], pid_t parent)
{
	const struct rlimit no_core = {0, 0};
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	/* Ctrl-C is for the job: it comes by the control port, in order */
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_CORE, &no_core);
	if (null < 0 || chdir("/") < 0)
		_exit(127);
	/*
	 * The channels become 3, 4, ... in this order. They were all opened above that range (spawn() sees to it), so no
	 * copy overwrites one that is still to be made. Nothing else is passed on: a lock that QEMU inherited would be held by it.
	 */
	for (int i = 0; i < CHANNELS; i++)
		if (dup2(fds[i], 3 + i) < 0)
			_exit(127);
	if (dup2(null, STDIN_FILENO) < 0 || dup2(3 + WORDS, STDOUT_FILENO) < 0 || dup2(3 + WORDS, STDERR_FILENO) < 0)
		_exit(127);
	syscall(SYS_close_range, 3 + WORDS, ~0U, 0);
	execv(file, a->v);
	_exit(127);
}

static void machine_kill(struct machine *m)
{
	siginfo_t si;

	if (m->pidfd >= 0) {
		syscall(SYS_pidfd_send_signal, m->pidfd, SIGKILL, NULL, 0);
		while (waitid(P_PIDFD, (id_t)m->pidfd, &si, WEXITED) < 0 && errno == EINTR)
			;
		close(TAKE_FD(m->pidfd));
	} else if (m->pid > 0) {
		kill(m->pid, SIGKILL);
		while (waitpid(m->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	m->pid = 0;
	for (int i = 0; i < CHANNELS; i++)
		if (m->fd[i] >= 0)
			close(TAKE_FD(m->fd[i]));
	strbuf_free(&m->console);
	strbuf_free(&m->words);
}

/* A pair whose far end has a number beyond those that the child hands on */
static int channel(int type, int *ret_ours, int *ret_theirs)
{
	int sv[2], high;

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, sv) < 0)
		return -errno;
	high = fcntl(sv[1], F_DUPFD_CLOEXEC, 3 + CHANNELS);
	close(sv[1]);
	if (high < 0) {
		int r = -errno;

		close(sv[0]);
		return r;
	}
	*ret_ours = sv[0];
	*ret_theirs = high;
	return 0;
}

/* On failure the machine is to be killed all the same. */
static int machine_start(struct machine *m, const struct machine_config *c, struct err *err)
{
	_cleanup_(args_free) struct args a = {0};
	_cleanup_free_ char *file = NULL;
	int far[CHANNELS], named[CHANNELS], r = 0, opened;
	pid_t self = getpid();

	*m = (struct machine){.pidfd = -1};
	for (int i = 0; i < CHANNELS; i++) {
		m->fd[i] = -1;
		named[i] = 3 + i;
	}
	if (host_program(QEMU, &file) < 0)
		return err_set(err, -ENOENT, "microVM: %s is not installed", QEMU);
	for (opened = 0; opened < CHANNELS; opened++) {
		r = channel(SOCK_STREAM, &m->fd[opened], &far[opened]);
		if (r < 0)
			break;
		fcntl(m->fd[opened], F_SETFL, O_NONBLOCK);
	}
	machine_args(c, named, &a);
	if (r == 0 && a.oom)
		r = -ENOMEM;
	if (r == 0) {
		m->pid = fork();
		if (m->pid == 0)
			machine_child(file, &a, far, self);
		if (m->pid < 0)
			r = -errno;
	}
	while (opened-- > 0)
		close(far[opened]);
	if (r == 0) {
		m->pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
		if (m->pidfd < 0)
			r = -errno;
	}
	return r < 0 ? err_set(err, r, "microVM: start %s: %s", QEMU, strerror(-r)) : 0;
}

/* Keeps the end of what came; false when the channel has ended. */
static bool machine_read(int *fd, struct strbuf *keep)
{
	char chunk[16384];
	ssize_t n = read(*fd, chunk, sizeof(chunk));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (n <= 0) {
		close(TAKE_FD(*fd));
		return false;
	}
	if (keep->len + (size_t)n > CONSOLE_KEEP) {
		size_t drop = MIN(keep->len, CONSOLE_KEEP / 2);

		memmove(keep->s, keep->s + drop, keep->len - drop);
		keep->len -= drop;
	}
	strbuf_add(keep, chunk, (size_t)n);
	return true;
}

/* Printable text alone: it goes to a person's terminal */
static void clean(const char *from, size_t len, char *ret, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n < size - 1; i++)
		if (isprint((unsigned char)from[i]))
			ret[n++] = from[i];
	ret[n] = '\0';
}

static void first_words(const struct strbuf *from, char *ret, size_t size)
{
	clean(strbuf_cstr(from), strcspn(strbuf_cstr(from), "\n"), ret, size);
}

/* The last line that says something */
static void last_words(const struct strbuf *from, char *ret, size_t size)
{
	size_t end = from->len, begin;

	while (end && isspace((unsigned char)from->s[end - 1]))
		end--;
	for (begin = end; begin && from->s[begin - 1] != '\n' && end - begin < size - 1; begin--)
		;
	clean(strbuf_cstr(from) + begin, end - begin, ret, size);
}

/* ── KVM ────────────────────────────────────────────────────────────────────────────────────── */

static bool kvm_device(char **ret_why)
{
	_cleanup_close_ int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0) {
		*ret_why = strf("/dev/kvm: %s", strerror(errno));
		return false;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		*ret_why = strf("/dev/kvm speaks version %d, not %d", version, KVM_API_VERSION);
		return false;
	}
	return true;
}

/* Boots to user space, or not. 1, 0 with the reason, -errno when it could not be tried */
static int kvm_try(const struct vm_image *img, char **ret_why, struct err *err)
{
	const struct machine_config c = {
		.image = img, .kvm = true, .cpus = 1, .memory_mib = 512, .cmdline = "muster.probe"};
	_cleanup_(machine_kill) struct machine m = {.pidfd = -1};
	nsec_t deadline = now_ns() + KVM_TIMEOUT, now;
	char words[256] = "";
	int r = machine_start(&m, &c, err);

	if (r < 0)
		return r;
	while ((now = now_ns()) < deadline && (m.fd[CONSOLE] >= 0 || m.fd[WORDS] >= 0)) {
		struct pollfd p[] = {{.fd = m.fd[CONSOLE], .events = POLLIN}, {.fd = m.fd[WORDS], .events = POLLIN}};

		if (poll(p, ARRAY_SIZE(p), (int)((deadline - now) / NSEC_PER_MSEC) + 1) < 0 && errno != EINTR)
			return err_set(err, -errno, "microVM: poll: %s", strerror(errno));
		if (p[0].revents)
			machine_read(&m.fd[CONSOLE], &m.console);
		if (p[1].revents)
			machine_read(&m.fd[WORDS], &m.words);
		if (strstr(strbuf_cstr(&m.console), "muster-vm: alive"))
			return 1;
	}
	if (now >= deadline)
		*ret_why = strf("the kernel did not come up within %lld s under KVM", KVM_TIMEOUT / NSEC_PER_SEC);
	else {
		/* the first line has the cause, the last one an assertion */
		first_words(&m.words, words, sizeof(words));
		*ret_why = strf("KVM: %s", *words ? words : "QEMU ended without a word");
	}
	return *ret_why ? 0 : -ENOMEM;
}

/* What the answer depends on: this boot of this host, this QEMU, this kernel */
static char *kvm_key(const struct vm_image *img)
{
	_cleanup_free_ char *qemu = NULL;
	struct stat st;

	if (host_program(QEMU, &qemu) < 0 || stat(qemu, &st) < 0)
		return NULL;
	return strf("%s %lld %lld %s", clock_boot_id(), (long long)st.st_size, (long long)st.st_mtim.tv_sec,
		strrchr(img->dir, '/') + 1);
}

/* -ENOENT: not known. *ret_why is NULL when it works. */
static int kvm_recall(const char *cache, const char *key, char **ret_why)
{
	_cleanup_free_ char *path = strf("%s/kvm", cache), *text = NULL;
	char *nl;

	if (!path)
		return -ENOMEM;
	if (file_read(path, 4096, &text, NULL) < 0 || !(nl = strchr(text, '\n')))
		return -ENOENT;
	*nl++ = '\0';
	if (!streq(text, key))
		return -ENOENT;
	nl[strcspn(nl, "\n")] = '\0';
	*ret_why = streq(nl, "works") ? NULL : strdup(nl);
	return 0;
}

static void kvm_remember(const char *cache, const char *key, const char *why)
{
	_cleanup_free_ char *path = strf("%s/kvm", cache), *fresh = strf("%s/.new-kvm-%d", cache, (int)getpid());
	_cleanup_free_ char *text = strf("%s\n%s\n", key, why ? why : "works");

	/* A cache that cannot be written only costs the next start its four seconds. */
	if (path && fresh && text && (file_write(fresh, text, strlen(text)) < 0 || rename(fresh, path) < 0))
		unlink(fresh);
}

/* Is KVM to be used? *ret_why says why not. Tries it when nobody knows, or when @anew. */
static bool kvm_usable(const struct vm_image *img, bool anew, struct live *live, char **ret_why)
{
	_cleanup_free_ char *cache = NULL, *key = kvm_key(img);
	int r;

	if (!kvm_device(ret_why))
		return false;
	if (!key || vm_cache_dir(&cache, NULL) < 0) {
		*ret_why = strdup("KVM could not be tried");
		return false;
	}
	if (!anew && kvm_recall(cache, key, ret_why) == 0)
		return !*ret_why;
	if (live)
		live_note(live, "trying KVM, once");
	r = kvm_try(img, ret_why, NULL);
	if (r < 0) {
		*ret_why = strf("KVM could not be tried: %s", strerror(-r));
		return false;
	}
	kvm_remember(cache, key, *ret_why);
	return r == 1;
}

/* ── what it takes ──────────────────────────────────────────────────────────────────────────── */

static void need(struct strbuf *what, struct strbuf *packages, const char *thing, const char *package)
{
	strbuf_addf(what, "%s%s", what->len ? ", " : "", thing);
	strbuf_addf(packages, " %s", package);
}

int vm_available(struct err *err)
{
	_cleanup_strbuf_ struct strbuf what = {0}, packages = {0};
	_cleanup_free_ char *cache = NULL, *current = NULL, *path = NULL, *busybox = NULL;
	unsigned int memory = host_memory_mib();
	struct utsname u;

	if (uname(&u) < 0 || !streq(u.machine, "x86_64"))
		return err_set(err, -EOPNOTSUPP, "microVM: not on %s: the kernel is fetched for x86_64", u.machine);
	if (vm_cache_dir(&cache, err) < 0)
		return -ENOMEM;
	current = strf("%s/current/release", cache);
	if (!current)
		return -ENOMEM;
	if (host_program(QEMU, &path) < 0)
		need(&what, &packages, QEMU, "qemu-system-x86");
	if (host_program("busybox", &busybox) < 0 || vm_elf_static(busybox) != 1)
		need(&what, &packages, "a statically linked busybox", "busybox-static");
	if (access(current, R_OK) < 0) {
		free(TAKE_PTR(path));
		if (host_program("depmod", &path) < 0)
			need(&what, &packages, "depmod", "kmod");
		free(TAKE_PTR(path));
		if (host_program("apt-get", &path) < 0 || access("/var/lib/dpkg/status", R_OK) < 0)
			return err_set(err, -ENOENT,
				"microVM: no kernel in %s, and no apt here to fetch Debian's with", cache);
	}
	if (what.len) {
		err_set(err, -ENOENT, "microVM: not installed: %s", strbuf_cstr(&what));
		err_hint(err, "apt-get install --no-install-recommends%s", strbuf_cstr(&packages));
		return -ENOENT;
	}
	if (memory && !vm_memory(memory))
		return err_set(err, -ENOMEM, "microVM: only %u MiB of memory are free; it takes 1280", memory);
	return 0;
}

int vm_fetch(struct live *live, char **ret_what, struct err *err)
{
	_cleanup_vm_image_ struct vm_image *img = NULL;
	_cleanup_free_ char *why = NULL, *what = NULL;
	bool kvm;
	int r = vm_available(err);

	if (r < 0)
		return r;
	r = vm_image_get(true, live, &img, err);
	if (r < 0)
		return r;
	kvm = kvm_usable(img, true, live, &why);
	what = strf("Linux %s in %s; %s%s%s", img->release, img->dir, kvm ? "KVM works" : "no KVM (",
		kvm ? "" : why ? why : "?", kvm ? "" : "): the processor is emulated");
	if (!what)
		return -ENOMEM;
	if (ret_what)
		*ret_what = TAKE_PTR(what);
	return 0;
}

int vm_look(struct vm_state *ret, struct err *err)
{
	struct vm_state s = {.kvm = VM_KVM_UNTRIED};
	_cleanup_vm_image_ struct vm_image *img = NULL;
	_cleanup_free_ char *cache = NULL, *key = NULL;
	char *why = NULL;
	int r = vm_cache_dir(&cache, err);

	if (r < 0)
		return r;
	s.dir = strdup(cache);
	if (vm_image_open(&img, NULL) == 0) {
		s.release = strdup(img->release);
		key = kvm_key(img);
	}
	if (!kvm_device(&why))
		s.kvm = VM_KVM_UNUSABLE;
	else if (key && kvm_recall(cache, key, &why) == 0)
		s.kvm = why ? VM_KVM_UNUSABLE : VM_KVM_WORKS;
	s.kvm_text = why;
	*ret = s;
	return 0;
}

void vm_state_clear(struct vm_state *s)
{
	free(s->release);
	free(s->dir);
	free(s->kvm_text);
	*s = (struct vm_state){0};
}

/* ── running a job ──────────────────────────────────────────────────────────────────────────── */

/* Where one of the job's outputs goes: through the mark filter, then to a descriptor */
struct sink {
	struct vm_mark mark;
	int fd; /* -1: dropped */
	struct strbuf pending;
	size_t done; /* of pending */
};

struct session {
	const struct vm_job *job;
	struct machine *m;
	struct strbuf script;  /* what is sent when the guest is up */
	struct sink sinks[2];  /* OUT, ERR */
	struct vm_mark events;
	struct strbuf line;    /* of EVENTS, not yet whole */
	struct strbuf control; /* likewise of CONTROL */
	bool started, exited;
	int status;
	int signal; /* the first one, not yet passed on; 0 */
	unsigned int signals;
};

static void session_clear(struct session *s)
{
	strbuf_free(&s->script);
	for (size_t i = 0; i < ARRAY_SIZE(s->sinks); i++) {
		strbuf_free(&s->sinks[i].pending);
		strbuf_free(&s->sinks[i].mark.held);
	}
	strbuf_free(&s->events.held);
	strbuf_free(&s->line);
	strbuf_free(&s->control);
}

static bool session_over(const struct session *s)
{
	return s->exited && s->sinks[0].mark.found && s->sinks[1].mark.found && s->events.found &&
		!s->sinks[0].pending.len && !s->sinks[1].pending.len;
}

/* To the guest. A few hundred bytes fit into any socket's buffer; a job of megabytes waits here while QEMU takes it. */
static int control_send(struct session *s, const char *data, size_t len)
{
	int fd = s->m->fd[CONTROL];
	nsec_t deadline = now_ns() + 30 * NSEC_PER_SEC;

	while (len) {
		ssize_t n = fd < 0 ? -1 : send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd p = {.fd = fd, .events = POLLOUT};

		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (fd < 0 || (errno != EAGAIN && errno != EINTR) || now_ns() > deadline) {
			return -EPIPE;
		} else {
			poll(&p, 1, 1000);
		}
	}
	return 0;
}

static void pass_signal(struct session *s)
{
	if (!s->started || s->exited || !s->signal)
		return;
	if (s->signal == SIGINT)
		control_send(s, "INT\n", 4);
	else
		control_send(s, "TERM\n", 5);
	s->signal = 0;
}

static void control_line(struct session *s, const char *line)
{
	if (streq(line, "up")) {
		char head[32];
		int n = snprintf(head, sizeof(head), "%zu\n", s->script.len);

		if (control_send(s, head, (size_t)n) == 0)
			control_send(s, s->script.s, s->script.len);
	} else if (streq(line, "started")) {
		s->started = true;
		pass_signal(s);
	} else if (strncmp(line, "exit ", 5) == 0) {
		s->status = atoi(line + 5) & 0xff;
		s->exited = true;
	}
}

/* Calls @fn for each whole line in @b and keeps the rest; a line that grows too long is dropped. */
static void each_line(struct session *s, struct strbuf *b, void (*fn)(struct session *s, const char *line))
{
	size_t begin = 0;
	char *nl;

	while (b->len > begin && (nl = memchr(b->s + begin, '\n', b->len - begin))) {
		*nl = '\0';
		fn(s, b->s + begin);
		begin = (size_t)(nl - b->s) + 1;
	}
	if (b->len - begin > EVENT_LINE_MAX)
		begin = b->len;
	if (begin) {
		memmove(b->s, b->s + begin, b->len - begin);
		b->len -= begin;
	}
}

static void event_line(struct session *s, const char *line)
{
	_cleanup_json_ json_t *event = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

	/* Anything may be written to descriptor 3; only events are shown. */
	if (event && s->job->live && json_is_object(event) && json_object_get(event, "kind"))
		live_event(s->job->live, event);
}

static void on_readable(struct session *s, int channel)
{
	struct machine *m = s->m;
	struct strbuf chunk = {0};

	switch (channel) {
	case CONSOLE:
		machine_read(&m->fd[channel], &m->console);
		return;
	case WORDS:
		machine_read(&m->fd[channel], &m->words);
		return;
	case CONTROL:
		machine_read(&m->fd[channel], &s->control);
		each_line(s, &s->control, control_line);
		return;
	case OUT:
	case ERR:
		machine_read(&m->fd[channel], &chunk);
		vm_mark_feed(&s->sinks[channel - OUT].mark, strbuf_cstr(&chunk), chunk.len,
			&s->sinks[channel - OUT].pending);
		break;
	case EVENTS:
		machine_read(&m->fd[channel], &chunk);
		vm_mark_feed(&s->events, strbuf_cstr(&chunk), chunk.len, &s->line);
		each_line(s, &s->line, event_line);
		break;
	}
	strbuf_free(&chunk);
}

static void sink_write(struct sink *k)
{
	/* poll() said there is room, which for a pipe means PIPE_BUF bytes; more could block */
	size_t left = k->pending.len - k->done, len = MIN(left, (size_t)4096);
	ssize_t n = k->fd < 0 ? (ssize_t)left : write(k->fd, k->pending.s + k->done, len);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n < 0) {
		k->fd = -1; /* its reader is gone: the job's business goes on without */
		return;
	}
	k->done += (size_t)n;
	if (k->done == k->pending.len) {
		k->pending.len = 0;
		k->done = 0;
	}
}

static void on_signal(struct session *s, int sfd)
{
	struct signalfd_siginfo si;

	while (read(sfd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGPIPE)
			continue;
		s->signals++;
		if (s->signals == 1) {
			s->signal = (int)si.ssi_signo;
			pass_signal(s);
		}
	}
}

enum { PIDFD = CHANNELS, SIGNALFD, SINK_OUT, SINK_ERR, POLLS };

static int session_poll(struct session *s, int sfd, struct err *err)
{
	struct machine *m = s->m;
	struct pollfd p[POLLS];
	bool any = false;

	for (int i = 0; i < CHANNELS; i++)
		p[i] = (struct pollfd){.fd = m->fd[i], .events = POLLIN};
	p[PIDFD] = (struct pollfd){.fd = m->pidfd, .events = POLLIN};
	p[SIGNALFD] = (struct pollfd){.fd = sfd, .events = POLLIN};
	for (int i = 0; i < 2; i++) {
		struct sink *k = &s->sinks[i];

		p[SINK_OUT + i] = (struct pollfd){.fd = k->pending.len ? k->fd : -1, .events = POLLOUT};
		if (k->pending.len && k->fd < 0)
			sink_write(k);
		/* No more is taken than can be handed on: the job feels a slow reader as it would here. */
		if (k->pending.len)
			p[OUT + i].fd = -1;
	}
	if (poll(p, POLLS, TICK_MS) < 0 && errno != EINTR)
		return err_set(err, -errno, "microVM: poll: %s", strerror(errno));
	for (int i = 0; i < CHANNELS; i++)
		if (p[i].fd >= 0 && p[i].revents) {
			on_readable(s, i);
			any = true;
		}
	for (int i = 0; i < 2; i++)
		if (p[SINK_OUT + i].fd >= 0 && p[SINK_OUT + i].revents) {
			sink_write(&s->sinks[i]);
			any = true;
		}
	if (p[SIGNALFD].revents)
		on_signal(s, sfd);
	/* dead, and every word of it read */
	return p[PIDFD].revents && !any;
}

/* Where the console's text is kept for whoever asks what went wrong */
static char *keep_console(const struct vm_job *job, const struct machine *m)
{
	_cleanup_free_ char *cache = NULL;
	char *path = NULL;

	if (job->out_dir)
		path = strf("%s/console.log", job->out_dir);
	else if (vm_cache_dir(&cache, NULL) == 0)
		path = strf("%s/console.log", cache);
	if (path && file_write(path, strbuf_cstr(&m->console), m->console.len) < 0)
		free(TAKE_PTR(path));
	return path;
}

/* The line that says why, where there is one: behind a panic comes more that does not */
static void console_words(struct strbuf *console, char *ret, size_t size)
{
	static const char *const telling[] = {"muster-vm: ", "Kernel panic"};

	for (size_t i = 0; i < ARRAY_SIZE(telling); i++) {
		const char *at = strstr(strbuf_cstr(console), telling[i]);

		if (at) {
			clean(at, strcspn(at, "\n"), ret, size);
			return;
		}
	}
	last_words(console, ret, size);
}

static int session_failed(const struct session *s, int code, const char *what, struct err *err)
{
	_cleanup_free_ char *log = keep_console(s->job, s->m);
	char words[256], console[256];

	last_words(&s->m->words, words, sizeof(words));
	console_words(&s->m->console, console, sizeof(console));
	err_set(err, code, "microVM: %s%s%s%s%s", what, *words ? "; QEMU: " : "", words,
		*console ? "; its console: " : "", console);
	if (log)
		err_hint(err, "the whole console is in %s", log);
	return code;
}

static int session_run(struct session *s, int sfd, struct err *err)
{
	nsec_t begin = now_ns(), limit = s->job->timeout_s ? s->job->timeout_s * NSEC_PER_SEC : NSEC_INFINITY;

	while (!session_over(s)) {
		int r = session_poll(s, sfd, err);

		if (r < 0)
			return r;
		if (r > 0)
			return session_failed(s, -EIO,
				s->started ? "it ended before its job" : "it did not come up", err);
		if (s->signals > 1)
			return err_set(err, -EINTR, "microVM: killed on the second signal");
		if (now_ns() - begin > limit) {
			char what[64];

			snprintf(what, sizeof(what), "the job did not end within %u s", s->job->timeout_s);
			return session_failed(s, -ETIMEDOUT, what, err);
		}
		if (!s->started && now_ns() - begin > BOOT_TIMEOUT)
			return session_failed(s, -ETIMEDOUT, "it did not come up in time", err);
		if (s->job->live)
			live_tick(s->job->live);
	}
	return 0;
}

static int make_mark(char ret[MARK_LEN + 1])
{
	static const char hex[] = "0123456789abcdef";
	uint8_t random[MARK_LEN];

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return -errno;
	for (size_t i = 0; i < MARK_LEN; i++)
		ret[i] = hex[random[i] & 15];
	ret[MARK_LEN] = '\0';
	return 0;
}

/* Takes the signals from the caller for as long as the machine runs. */
struct taken {
	int fd;
	sigset_t set, before;
};

static int take_signals(struct taken *t, struct err *err)
{
	sigemptyset(&t->set);
	sigaddset(&t->set, SIGINT);
	sigaddset(&t->set, SIGTERM);
	sigaddset(&t->set, SIGHUP);
	sigaddset(&t->set, SIGPIPE);
	t->fd = signalfd(-1, &t->set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (t->fd < 0)
		return err_set(err, -errno, "microVM: signalfd: %s", strerror(errno));
	pthread_sigmask(SIG_BLOCK, &t->set, &t->before);
	return 0;
}

static void return_signals(struct taken *t)
{
	struct signalfd_siginfo si;

	if (t->fd < 0)
		return;
	/* what is still pending was meant for the machine, which has ended */
	while (read(t->fd, &si, sizeof(si)) > 0)
		;
	close(TAKE_FD(t->fd));
	pthread_sigmask(SIG_SETMASK, &t->before, NULL);
}

static void note_start(const struct vm_job *job, const struct machine_config *c, const char *why)
{
	_cleanup_free_ char *text = NULL;

	if (!job->live)
		return;
	text = strf("starting the microVM: Linux %s, %u processors (%s%s%s), %u MiB", c->image->release, c->cpus,
		c->kvm ? "KVM" : "emulated: ", c->kvm ? "" : why ? why : "no KVM", "", c->memory_mib);
	if (text)
		live_note(job->live, text);
}

int vm_run(const struct vm_job *job, int *ret_status, struct err *err)
{
	_cleanup_vm_image_ struct vm_image *img = NULL;
	_cleanup_(return_signals) struct taken signals = {.fd = -1};
	_cleanup_(machine_kill) struct machine m = {.pidfd = -1};
	_cleanup_(session_clear) struct session s = {.job = job, .m = &m};
	_cleanup_free_ char *cwd = getcwd(NULL, 0), *out = NULL, *why = NULL;
	char mark[MARK_LEN + 1];
	struct machine_config c = {.cmdline = ""};
	struct vm_script script;
	int r;

	for (int i = 0; i < CHANNELS; i++)
		m.fd[i] = -1;
	if (!job->argv || !job->argv[0] || job->argv[0][0] != '/')
		return err_set(err, -EINVAL, "microVM: the job's program must be an absolute path");
	r = vm_available(err);
	if (r < 0)
		return r;
	r = vm_image_get(false, job->live, &img, err);
	if (r < 0)
		return r;
	if (job->out_dir) {
		out = realpath(job->out_dir, NULL);
		if (!out)
			return err_set(err, -errno, "microVM: output folder %s: %s", job->out_dir, strerror(errno));
	}
	r = make_mark(mark);
	if (r < 0)
		return err_set(err, r, "microVM: no random numbers: %s", strerror(-r));
	script = (struct vm_script){.mark = mark,
		.modules = img->modules,
		.out_dir = out,
		.cwd = cwd ? cwd : "/",
		.argv = job->argv,
		.env = environ};
	vm_script_write(&script, &s.script);
	if (s.script.oom)
		return -ENOMEM;
	s.sinks[0] = (struct sink){.fd = job->stdout_fd, .mark.mark = mark};
	s.sinks[1] = (struct sink){.fd = job->stderr_fd, .mark.mark = mark};
	s.events.mark = mark;

	c.image = img;
	c.kvm = kvm_usable(img, false, job->live, &why);
	c.cpus = MIN(host_cpus(), CPUS_MAX);
	c.memory_mib = vm_memory(host_memory_mib());
	if (!c.memory_mib)
		c.memory_mib = 1024; /* not known; vm_available() has refused what is known to be too little */
	c.out_dir = out;
	note_start(job, &c, why);
	r = take_signals(&signals, err);
	if (r == 0)
		r = machine_start(&m, &c, err);
	if (r == 0)
		r = session_run(&s, signals.fd, err);
	if (r < 0)
		return r;
	*ret_status = s.status;
	return 0;
}
