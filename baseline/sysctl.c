/* SPDX-License-Identifier: GPL-2.0-only */
#include "baseline/sysctl.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "engine/str.h"

int sysctl_path(const char *key, char ret_path[SYSCTL_PATH_MAX], struct err *err)
{
	char path[SYSCTL_PATH_MAX] = "/proc/sys/";
	size_t len = strlen(path), part = len;
	char separator = key[strcspn(key, "./")];

	if (!separator || strlen(key) + len >= sizeof(path))
		return err_set(
			err, -EINVAL, "sysctl \"%.80s\": no name of a kernel parameter", key);
	for (const char *p = key;; p++) {
		if (*p == separator || *p == '\0') {
			const char *name = path + part;
			size_t n = len - part;

			if (n == 0 || (n == 1 && name[0] == '.') ||
				(n == 2 && name[0] == '.' && name[1] == '.'))
				return err_set(err, -EINVAL,
					"sysctl \"%.80s\": a part of the name is empty, . or ..",
					key);
			if (*p == '\0')
				break;
			path[len++] = '/';
			part = len;
		} else if (*p == '/') {
			path[len++] = '.';
		} else if (isalnum((unsigned char)*p) || strchr("_-:@.", *p)) {
			path[len++] = *p;
		} else {
			return err_set(err, -EINVAL,
				"sysctl \"%.80s\": \"%c\" does not belong into the name", key,
				isprint((unsigned char)*p) ? *p : '?');
		}
	}
	path[len] = '\0';
	memcpy(ret_path, path, len + 1);
	return 0;
}

/* Compares a key with a pattern of dotted form; "net/ipv4/..." is the same key. */
static bool matches(const char *key, const char *pattern)
{
	char dotted[SYSCTL_PATH_MAX];
	size_t n = strlen(key);

	if (n >= sizeof(dotted))
		return false;
	memcpy(dotted, key, n + 1);
	if (key[strcspn(key, "./")] == '/')
		for (char *p = dotted; *p; p++)
			*p = *p == '/' ? '.' : *p == '.' ? '/' : *p;
	return fnmatch(pattern, dotted, 0) == 0;
}

bool sysctl_is_global(const char *key)
{
	return !matches(key, "net.*");
}

const char *sysctl_refused(const char *key)
{
	static const struct {
		const char *pattern, *why;
	} no[] = {
		{"kernel.modules_disabled", "once set it stays set until the next boot"},
		{"kernel.kexec_load_disabled", "once set it stays set until the next boot"},
		{"kernel.unprivileged_bpf_disabled", "once 1 it stays 1 until the next boot"},
		{"kernel.yama.ptrace_scope", "once 3 it stays 3 until the next boot"},
		{"vm.drop_caches", "it is an action, not a state"},
		{"vm.compact_memory", "it is an action, not a state"},
		{"vm.stat_refresh", "it is an action, not a state"},
		{"net.ipv[46].route.flush", "it is an action, not a state"},
		{"kernel.core_pattern", "it can name a program that the kernel runs as root"},
		{"kernel.modprobe", "it names a program that the kernel runs as root"},
		{"kernel.hotplug", "it names a program that the kernel runs as root"},
		/* Writing these also rewrites the same parameter of every interface */
		{"net.ipv4.ip_forward",
			"it overwrites forwarding of every interface; set net.ipv4.conf.IF.forwarding"},
		{"net.ipv[46].conf.all.forwarding",
			"it overwrites forwarding of every interface; set conf.IF.forwarding"},
		{"net.ipv6.conf.*.disable_ipv6",
			"it removes the addresses, and nothing would bring them back"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(no); i++)
		if (matches(key, no[i].pattern))
			return no[i].why;
	return NULL;
}

const char *sysctl_partner(const char *key)
{
	static const char *const pairs[][2] = {
		{"vm.dirty_ratio", "vm.dirty_bytes"},
		{"vm.dirty_background_ratio", "vm.dirty_background_bytes"},
		{"vm.overcommit_ratio", "vm.overcommit_kbytes"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		for (size_t k = 0; k < 2; k++)
			if (matches(key, pairs[i][k]))
				return pairs[i][1 - k];
	return NULL;
}

static size_t next_word(const char **p)
{
	*p += strspn(*p, " \t\n");
	return strcspn(*p, " \t\n");
}

static bool same_word(const char *a, size_t na, const char *b, size_t nb)
{
	char x[32], y[32], *ex, *ey;
	long long vx, vy;

	if (na == nb && memcmp(a, b, na) == 0)
		return true;
	if (na == 0 || nb == 0 || na >= sizeof(x) || nb >= sizeof(y))
		return false;
	memcpy(x, a, na);
	memcpy(y, b, nb);
	x[na] = y[nb] = '\0';
	errno = 0;
	vx = strtoll(x, &ex, 0);
	vy = strtoll(y, &ey, 0);
	return !*ex && !*ey && errno == 0 && vx == vy;
}

bool sysctl_same(const char *a, const char *b)
{
	for (;;) {
		size_t na = next_word(&a), nb = next_word(&b);

		if (!same_word(a, na, b, nb))
			return false;
		if (na == 0)
			return true;
		a += na;
		b += nb;
	}
}
