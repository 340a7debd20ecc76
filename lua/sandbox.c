/* SPDX-License-Identifier: GPL-2.0-only */
#include "lua/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <seccomp.h>

#include "engine/str.h"

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif
#ifndef UNDER_ASAN
#define UNDER_ASAN 0
#endif

void (*sandbox_probe)(void);

/* ── descriptors and signals ───────────────────────────────────────────────────────────────── */

static int keep_one_fd(int fd, struct err *err)
{
	/* first out of the way of what the next lines overwrite */
	int sock = fcntl(fd, F_DUPFD, SANDBOX_FD + 1), null;

	if (sock < 0)
		return err_set(err, -errno, "script process: socket: %s", strerror(errno));
	null = open("/dev/null", O_RDWR);
	if (null < 0)
		return err_set(err, -errno, "script process: /dev/null: %s", strerror(errno));
	/* a sanitizer's report goes to stderr, and would be lost */
	for (int i = 0; i <= (UNDER_ASAN ? 1 : 2); i++)
		if (dup2(null, i) < 0)
			return err_set(err, -errno, "script process: stdio: %s", strerror(errno));
	if (dup2(sock, SANDBOX_FD) < 0)
		return err_set(err, -errno, "script process: socket: %s", strerror(errno));
	if (syscall(SYS_close_range, SANDBOX_FD + 1, ~0U, 0) < 0)
		return err_set(
			err, -errno, "script process: closing descriptors: %s", strerror(errno));
	return 0;
}

static void default_signals(void)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;

	if (!UNDER_ASAN)
		for (int s = 1; s < NSIG; s++)
			sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* ── identity ──────────────────────────────────────────────────────────────────────────────── */

/* In a user namespace that maps root alone there is no nobody to become. */
static bool whole_user_namespace(void)
{
	_cleanup_free_ char *map = NULL;
	unsigned long inside, outside, count;

	if (file_read("/proc/self/uid_map", 4096, &map, NULL) < 0)
		return true;
	return sscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 && inside == 0 &&
	       count > SANDBOX_USER;
}

static int become_nobody(bool whole, struct err *err)
{
	if (setgroups(0, NULL) < 0 || setresgid(SANDBOX_USER, SANDBOX_USER, SANDBOX_USER) < 0 ||
		setresuid(SANDBOX_USER, SANDBOX_USER, SANDBOX_USER) < 0)
		if (whole)
			return err_set(err, -errno, "script process: becoming nobody: %s",
				strerror(errno));
	return 0;
}

/* While CAP_SETPCAP is there. Without it there is nothing to be gained from the set either: no
 * exec, no_new_privs. */
static void drop_bounding_set(void)
{
	for (unsigned long c = 0; c < 64; c++)
		prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
}

static int drop_capabilities(struct err *err)
{
	cap_t none;
	int r;

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	none = cap_init();
	if (!none)
		return err_set(err, -ENOMEM, "script process: capabilities: out of memory");
	r = cap_set_proc(none) < 0 ? -errno : 0;
	cap_free(none);
	if (r < 0)
		return err_set(err, r, "script process: dropping capabilities: %s", strerror(-r));
	return 0;
}

/* ── limits ────────────────────────────────────────────────────────────────────────────────── */

/* Forked from a process that may map a lot: the limit is what is there already, and room for Lua,
 * JSON and the stack. */
static rlim_t address_space(void)
{
	_cleanup_free_ char *statm = NULL;
	unsigned long pages = 0;

	if (file_read("/proc/self/statm", 256, &statm, NULL) < 0 ||
		sscanf(statm, "%lu", &pages) != 1)
		return RLIM_INFINITY;
	return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + 4 * (rlim_t)SANDBOX_MEMORY;
}

static int set_limits(unsigned int cpu_seconds, rlim_t memory, struct err *err)
{
	const struct {
		__rlimit_resource_t what;
		rlim_t soft, hard;
	} limits[] = {
		{RLIMIT_CORE, 0, 0},
		{RLIMIT_FSIZE, 0, 0},
		{RLIMIT_NPROC, 0, 0},
		{RLIMIT_NOFILE, SANDBOX_FD + 1, SANDBOX_FD + 1},
		{RLIMIT_MEMLOCK, 0, 0},
		{RLIMIT_MSGQUEUE, 0, 0},
		/* SIGXCPU at the soft limit, SIGKILL at the hard one */
		{RLIMIT_CPU, cpu_seconds, cpu_seconds + 1},
		/* ASan reserves terabytes of address space for its shadow */
		{RLIMIT_AS, UNDER_ASAN ? RLIM_INFINITY : memory,
			UNDER_ASAN ? RLIM_INFINITY : memory},
	};

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct rlimit have, want = {limits[i].soft, limits[i].hard};

		if (getrlimit(limits[i].what, &have) < 0)
			continue;
		/* a limit that is tighter already stays: only root could raise it */
		want.rlim_max = MIN(want.rlim_max, have.rlim_max);
		want.rlim_cur = MIN(want.rlim_cur, want.rlim_max);
		if (setrlimit(limits[i].what, &want) < 0)
			return err_set(err, -errno, "script process: resource limit %d: %s",
				(int)limits[i].what, strerror(errno));
	}
	return 0;
}

/* ── Landlock ──────────────────────────────────────────────────────────────────────────────── */

/*
 * A ruleset without rules: whatever it handles is denied. Rights came with ABI versions that Debian
 * 12's header does not know, and the kernel refuses bits and sizes that are newer than itself;
 * hence own numbers, and the ABI asked first. The seccomp filter denies all of this by itself: it
 * is the second wall of two.
 */
static void landlock_deny_all(void)
{
	struct {
		uint64_t fs, net, scoped;
	} attr = {0};
	size_t size = sizeof(attr.fs);
	long abi, fd;

	abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi < 1)
		return;
	attr.fs = (1ULL << 13) - 1; /* execute ... make_sym */
	if (abi >= 2)
		attr.fs |= 1ULL << 13; /* refer */
	if (abi >= 3)
		attr.fs |= 1ULL << 14; /* truncate */
	if (abi >= 5)
		attr.fs |= 1ULL << 15; /* ioctl_dev */
	if (abi >= 4) {
		attr.net = 3; /* bind_tcp, connect_tcp */
		size = sizeof(attr.fs) + sizeof(attr.net);
	}
	if (abi >= 6) {
		attr.scoped = 3; /* abstract_unix_socket, signal */
		size = sizeof(attr);
	}
	fd = syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	if (fd < 0)
		return;
	syscall(SYS_landlock_restrict_self, (int)fd, 0);
	close((int)fd);
}

int sandbox_enter(int fd, pid_t parent, unsigned int cpu_seconds, struct err *err)
{
	bool root = geteuid() == 0, whole = whole_user_namespace();
	rlim_t memory = address_space();
	static const int namespaces[] = {CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS};
	int r;

	/* Ctrl-C on the terminal is for the engine to answer, not for this process to die of. */
	setsid();
	default_signals();
	(void)prctl(PR_SET_NAME, "muster-script");
	/* also here, so that there is no moment without it: the change of identity below takes it
	 * away again */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	r = keep_one_fd(fd, err);
	if (r < 0)
		return r;

	if (!root)
		unshare(CLONE_NEWUSER);
	for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++)
		unshare(namespaces[i]);

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_set(err, -errno, "script process: no_new_privs: %s", strerror(errno));
	/* it needs a descriptor for a moment, and the limits leave none */
	landlock_deny_all();
	r = set_limits(cpu_seconds, memory, err);
	if (r < 0)
		return r;
	drop_bounding_set();
	if (root) {
		r = become_nobody(whole, err);
		if (r < 0)
			return r;
	}
	r = drop_capabilities(err);
	if (r < 0)
		return r;

	/* commit_creds() clears the parent-death signal whenever the identity changes: once more,
	 * and then look whether the parent died before */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return err_set(
			err, -errno, "script process: parent-death signal: %s", strerror(errno));
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (getppid() != parent)
		_exit(1);
	return 0;
}

/* ── seccomp ───────────────────────────────────────────────────────────────────────────────── */

/* libseccomp's own macros leave members to be zero, which clang warns of */
static struct scmp_arg_cmp arg_is(unsigned int arg, uint64_t value)
{
	return (struct scmp_arg_cmp){.arg = arg, .op = SCMP_CMP_EQ, .datum_a = value};
}

static struct scmp_arg_cmp arg_masked(unsigned int arg, uint64_t mask, uint64_t value)
{
	return (struct scmp_arg_cmp){
		.arg = arg, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value};
}

int sandbox_seal(struct err *err)
{
	/* what malloc, Lua and a clean end need; nothing here names a file, a process or a peer */
	static const int plain[] = {
		SCMP_SYS(munmap),
		SCMP_SYS(mremap),
		SCMP_SYS(brk),
		SCMP_SYS(madvise),
		SCMP_SYS(futex),
		SCMP_SYS(clock_gettime),
		SCMP_SYS(getrandom),
		SCMP_SYS(rt_sigprocmask),
		SCMP_SYS(rt_sigreturn),
		SCMP_SYS(restart_syscall),
		SCMP_SYS(exit),
		SCMP_SYS(exit_group),
	};
	/* for its report, and for the stack of its handler */
	static const int sanitizer[] = {
		SCMP_SYS(sigaltstack),
		SCMP_SYS(rt_sigaction),
		SCMP_SYS(sched_yield),
		SCMP_SYS(getpid),
		SCMP_SYS(gettid),
		SCMP_SYS(tgkill),
		SCMP_SYS(prctl),
	};
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = 0;

	if (!ctx)
		return err_set(err, -ENOMEM, "script process: seccomp: out of memory");
	for (size_t i = 0; !r && i < ARRAY_SIZE(plain); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, plain[i], 0);
	/* the one socket, and no address with it */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(recvfrom), 2,
			arg_is(0, SANDBOX_FD), arg_is(4, 0));
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sendto), 2,
			arg_is(0, SANDBOX_FD), arg_is(4, 0));
	/* memory that is nobody's file and never code */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
			arg_masked(2, PROT_EXEC, 0), arg_masked(3, MAP_ANONYMOUS, MAP_ANONYMOUS));
	if (!r)
		r = seccomp_rule_add(
			ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, arg_masked(2, PROT_EXEC, 0));
	if (UNDER_ASAN) {
		for (size_t i = 0; !r && i < ARRAY_SIZE(sanitizer); i++)
			r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, sanitizer[i], 0);
		if (!r)
			r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(write), 1, arg_is(0, 2));
	}
	if (!r)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	if (r < 0) {
		err_set(err, r, "script process: seccomp: %s", strerror(-r));
		err_hint(err, "a kernel with CONFIG_SECCOMP_FILTER is needed");
		return r;
	}
	return 0;
}
