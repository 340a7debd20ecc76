/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/host.h"

#include <ctype.h>
#include <dirent.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "engine/nl.h"
#include "engine/str.h"

#define MODULE_LIST_MAX (8u << 20) /* modules.dep of Debian 12 is 0.6 MB */

int host_program(const char *name, char **ret)
{
	static const char sbin[] = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";
	const char *path = getenv("PATH");
	const char *const lists[] = {path ? path : "", sbin};

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		const char *p = lists[i];

		while (*p) {
			size_t len = strcspn(p, ":");
			_cleanup_free_ char *file = strf("%.*s/%s", (int)len, p, name);

			if (!file)
				return -ENOMEM;
			/* a relative folder in PATH would name another file after a chdir */
			if (*p == '/' && access(file, X_OK) == 0) {
				*ret = TAKE_PTR(file);
				return 0;
			}
			p += len + (p[len] == ':');
		}
	}
	return -ENOENT;
}

/* Does a line of modules.dep or modules.builtin name this module? "kernel/net/sched/sch_netem.ko: ..." */
static bool list_names(const char *list, const char *name)
{
	size_t len = strlen(name);

	while (*list) {
		size_t line = strcspn(list, "\n"), path = strcspn(list, ":\n");
		const char *base = list, *p;

		for (p = list; p < list + path; p++)
			if (*p == '/')
				base = p + 1;
		if ((size_t)(list + path - base) > len && strncmp(base + len, ".ko", 3) == 0) {
			size_t i = 0;

			while (i < len && (base[i] == name[i] || (base[i] == '-' && name[i] == '_')))
				i++;
			if (i == len)
				return true;
		}
		list += line + (list[line] == '\n');
	}
	return false;
}

enum host_module host_module_at(const char *root, const char *release, const char *name)
{
	static const struct {
		const char *file;
		enum host_module means;
	} lists[] = {{"modules.builtin", HOST_MODULE_PRESENT}, {"modules.dep", HOST_MODULE_LOADABLE}};
	_cleanup_free_ char *plain = strdup(name), *sys = NULL;

	if (!plain)
		return HOST_MODULE_ABSENT;
	for (char *p = plain; *p; p++)
		if (*p == '-')
			*p = '_';
	sys = strf("%s/sys/module/%s", root, plain);
	if (sys && access(sys, F_OK) == 0)
		return HOST_MODULE_PRESENT;
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		_cleanup_free_ char *path = strf("%s/lib/modules/%s/%s", root, release, lists[i].file);
		_cleanup_free_ char *list = NULL;

		if (path && file_read(path, MODULE_LIST_MAX, &list, NULL) == 0 && list_names(list, plain))
			return lists[i].means;
	}
	return HOST_MODULE_ABSENT;
}

enum host_module host_module(const char *name)
{
	struct utsname u;

	return uname(&u) < 0 ? HOST_MODULE_ABSENT : host_module_at("", u.release, name);
}

int host_has_ipvs(void)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	int r;

	if (host_module("ip_vs") != HOST_MODULE_ABSENT)
		return 1;
	/* No file says so, and a kernel with IPVS built in need not have module files: the family itself decides. */
	r = nlc_open_netns(NULL, NETLINK_GENERIC, &nl, NULL);
	if (r < 0)
		return r;
	r = nlc_genl_family(nl, "IPVS", NULL);
	return r == -ENOENT ? 0 : r < 0 ? r : 1;
}

struct qdisc_try {
	const char *kind;
	int result;
};

static int try_qdisc(const char *kind)
{
	bool clsact = streq(kind, "clsact");
	struct tcmsg t = {.tcm_family = AF_UNSPEC, .tcm_parent = clsact ? TC_H_CLSACT : TC_H_ROOT};
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct nl_msg *msg;
	int r;

	/* Only this thread moves, and the namespace goes with it: nothing of the host is tried on. */
	if (unshare(CLONE_NEWNET) < 0)
		return -errno;
	r = nlc_open_netns(NULL, NETLINK_ROUTE, &nl, NULL);
	if (r < 0)
		return r;
	t.tcm_ifindex = nlc_ifindex(nl, "lo", NULL);
	if (t.tcm_ifindex < 0)
		return t.tcm_ifindex;
	msg = nlmsg_alloc_simple(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
	if (!msg || nlmsg_append(msg, &t, sizeof(t), NLMSG_ALIGNTO) < 0 ||
		nla_put_string(msg, TCA_KIND, kind) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	r = nlc_request(nl, msg, NULL);
	/* An unknown kind is ENOENT. A known one may well want options and say EINVAL. */
	return r == -ENOENT ? 0 : r == -EPERM || r == -ETIMEDOUT ? r : 1;
}

static void *qdisc_thread(void *arg)
{
	struct qdisc_try *t = arg;

	t->result = try_qdisc(t->kind);
	return NULL;
}

int host_has_qdisc(const char *kind)
{
	struct qdisc_try t = {.kind = kind};
	_cleanup_free_ char *module = strf("sch_%s", streq(kind, "clsact") ? "ingress" : kind);
	pthread_t thread;
	int r;

	if (!module)
		return -ENOMEM;
	if (host_module(module) != HOST_MODULE_ABSENT)
		return 1;
	r = pthread_create(&thread, NULL, qdisc_thread, &t);
	if (r)
		return -r;
	pthread_join(thread, NULL);
	return t.result;
}

int host_has_btf(void)
{
	if (access("/sys/kernel/btf/vmlinux", F_OK) == 0)
		return 1;
	return errno == ENOENT ? 0 : -errno;
}

static void *netns_thread(void *arg)
{
	*(int *)arg = unshare(CLONE_NEWNET) < 0 ? -errno : 1;
	return NULL;
}

int host_has_netns(void)
{
	pthread_t thread;
	int result = 0, r;

	if (access("/proc/self/ns/net", F_OK) < 0)
		return 0;
	r = pthread_create(&thread, NULL, netns_thread, &result);
	if (r)
		return -r;
	pthread_join(thread, NULL);
	return result;
}

pid_t host_daemon(const char *comm)
{
	DIR *d = opendir("/proc");
	struct stat own, its;
	struct dirent *e;
	pid_t found = 0;

	if (d && stat("/proc/self/ns/net", &own) == 0) {
		while (!found && (e = readdir(d))) {
			char path[64], name[64];
			_cleanup_free_ char *text = NULL;

			if (!isdigit((unsigned char)e->d_name[0]) || strlen(e->d_name) > 20)
				continue;
			snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
			if (file_read(path, sizeof(name), &text, NULL) < 0)
				continue;
			text[strcspn(text, "\n")] = '\0';
			if (strncmp(text, comm, 15) != 0)
				continue;
			snprintf(path, sizeof(path), "/proc/%.20s/ns/net", e->d_name);
			if (stat(path, &its) == 0 && its.st_ino == own.st_ino)
				found = (pid_t)atoi(e->d_name);
		}
	}
	if (d)
		closedir(d);
	return found;
}

unsigned int host_ipvs_entries(void)
{
	_cleanup_free_ char *text = NULL;
	unsigned int lines = 0;

	if (file_read("/proc/net/ip_vs", 16 << 20, &text, NULL) < 0)
		return 0;
	for (const char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	return lines > 3 ? lines - 3 : 0; /* three lines of heading */
}

unsigned int host_memory_mib(void)
{
	_cleanup_free_ char *text = NULL;
	unsigned long kib;
	const char *p;

	if (file_read("/proc/meminfo", 1 << 16, &text, NULL) < 0)
		return 0;
	p = strstr(text, "MemAvailable:");
	return p && sscanf(p, "MemAvailable: %lu kB", &kib) == 1 ? (unsigned int)(kib / 1024) : 0;
}

unsigned int host_cpus(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	/* fails on machines of more than 1024 processors: more than enough of them, then */
	return sched_getaffinity(0, sizeof(set), &set) < 0 ? 2 : (unsigned int)CPU_COUNT(&set);
}
