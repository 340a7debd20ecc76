/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * lab.site: the lab itself, as a change. Prior state: nothing is there. The record holds what may
 * come to exist (the names), so the undo needs no memory of how far an apply got.
 *
 *	/run/netns/muster-SITE-LABEL        a namespace for each node and each switch
 *	/run/muster/lab/SITE/lab.json       whose lab this is; made first
 *	/run/muster/lab/SITE/NODE/DAEMON/   the working folder of a daemon
 *	/run/muster/lab/.netns-dir          what /run/netns was before the first lab
 *
 * lab.json bears an id that the record bears too. A lab of the same name with another id was built
 * later by somebody else, who tore ours down first: the undo of an old record leaves it alone.
 *
 *	capture ── refuses what is in use, or not provably ours ──> record {id, names, leftover}
 *	apply   ── sweep(leftover) ── folder, lab.json ── namespaces ── bridges ── veths
 *	           ── addresses, routes ── daemons
 *	undo    ── sweep(names): processes ── names ── folder ── /run/netns
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "engine/change.h"
#include "engine/clock.h"
#include "lab/daemon.h"
#include "lab/file.h"
#include "lab/lab.h"
#include "lab/netns.h"
#include "lab/spec.h"

#define DIR_MARKER ".netns-dir"

/*
 * Device numbers are chosen here, so that nothing has to be asked back. All differ: see
 * netns_veth().
 */
#define LO_INDEX       1
#define LINK_INDEX     100
#define BRIDGE_INDEX   200
#define PORT_INDEX     1000
#define SETTLE_TIMEOUT (5 * NSEC_PER_SEC)
#define BRIDGE_NAME    "br.0" /* no node can be called that */

/*
 * A namespace inherits some IPv4 settings from the host, and has defaults made for a machine on a
 * real network. A lab is to be the same everywhere, silent, and usable at once: an IPv6 address is
 * unusable while it is being checked for duplicates.
 */
static const struct {
	const char *key, *value;
} base_sysctls[] = {
	{"net/ipv4/ip_forward", "0"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/conf/all/arp_ignore", "0"},
	{"net/ipv4/conf/default/arp_ignore", "0"},
	{"net/ipv4/conf/all/arp_announce", "0"},
	{"net/ipv4/conf/default/arp_announce", "0"},
	{"net/ipv6/conf/all/disable_ipv6", "0"},
	{"net/ipv6/conf/default/disable_ipv6", "0"},
	{"net/ipv6/conf/all/accept_dad", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/default/dad_transmits", "0"},
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/ipv6/conf/default/router_solicitations", "0"},
};

/*
 * A switch has no address. With br_netfilter loaded its frames would pass through iptables, and
 * half a DR flow be dropped.
 */
static const struct {
	const char *key, *value;
} switch_sysctls[] = {
	{"net/ipv6/conf/all/disable_ipv6", "1"},
	{"net/ipv6/conf/default/disable_ipv6", "1"},
	{"net/bridge/bridge-nf-call-iptables", "0"},
	{"net/bridge/bridge-nf-call-ip6tables", "0"},
	{"net/bridge/bridge-nf-call-arptables", "0"},
};

static int spec_of(const json_t *args, struct lab_spec **ret, struct err *err)
{
	return lab_spec_new(json_object_get(args, "site"), ret, err);
}

/*
 * /run/netns is made and unmade under this lock: between the check that it is empty and the
 * unmount, another lab must not put its first name there. A lock on a folder needs no file of its
 * own.
 */
static int lock_labs(int *ret_fd, struct err *err)
{
	_cleanup_free_ char *parent = strdup(lab_root);
	_cleanup_close_ int fd = -1;
	char *slash = parent ? strrchr(parent, '/') : NULL;
	int r;

	if (!slash)
		return parent ? -EINVAL : -ENOMEM;
	*slash = '\0';
	r = mkdir_p(parent);
	if (r < 0)
		return err_set(err, r, "make %s: %s", parent, strerror(-r));
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "open %s: %s", parent, strerror(errno));
	while (flock(fd, LOCK_EX) < 0)
		if (errno != EINTR)
			return err_set(err, -errno, "lock %s: %s", parent, strerror(errno));
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* ── supported, capture ─────────────────────────────────────────────────────────────────── */

static const char *needs_ipvs(const struct lab_spec *s, const char **ret_what)
{
	for (size_t i = 0; i < s->n_daemons; i++)
		if (s->daemons[i].ready == LAB_READY_IPVS) {
			*ret_what = s->daemons[i].name;
			return s->daemons[i].ns->label;
		}
	for (size_t i = 0; i < s->n_ns; i++)
		for (size_t k = 0; k < s->ns[i].n_sysctls; k++)
			if (strncmp(s->ns[i].sysctls[k].path, "net/ipv4/vs/", 12) == 0) {
				*ret_what = s->ns[i].sysctls[k].key;
				return s->ns[i].label;
			}
	return NULL;
}

static int lab_supported(const struct node *n, const json_t *args, struct err *reterr)
{
	_cleanup_lab_spec_ struct lab_spec *s = NULL;
	const char *label, *what = NULL;
	int r;

	r = spec_of(args, &s, reterr);
	if (r < 0)
		return r;
	if (n->netns)
		return err_set(reterr, -EOPNOTSUPP,
			"lab %s: a lab is built on the host, not inside node %s", s->site->name,
			n->name);
	if (geteuid() != 0) {
		err_set(reterr, -EPERM, "lab %s: only root can make network namespaces",
			s->site->name);
		return err_hint(reterr, "run it with sudo");
	}
	for (size_t i = 0; i < s->n_daemons; i++) {
		_cleanup_free_ char *program = NULL;

		r = daemon_program(&s->daemons[i], &program, reterr);
		if (r < 0)
			return r;
	}
	label = needs_ipvs(s, &what);
	if (label) {
		_cleanup_nlc_ struct nlc *nl = NULL;

		/* Asking loads the module, and with it comes net.ipv4.vs of every namespace. */
		r = nlc_open_netns(NULL, NETLINK_GENERIC, &nl, reterr);
		if (r == 0)
			r = nlc_genl_family(nl, "IPVS", reterr);
		if (r == -ENOENT) {
			err_set(reterr, -EOPNOTSUPP,
				"lab %s: %s of node %s needs IPVS, which this kernel lacks "
				"(CONFIG_IP_VS)",
				s->site->name, what, label);
			return err_hint(reterr, "run it with --lab vm");
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_free(const struct lab_spec *s, const json_t *lab, struct err *err)
{
	_cleanup_free_ char *up = lab_file_up(s->site->name);
	pid_t pid;

	if (!up)
		return -ENOMEM;
	if (lab && access(up, F_OK) == 0) {
		err_set(err, -EEXIST, "lab %s is up", s->site->name);
		return err_hint(err, "muster lab down %s", s->site->name);
	}
	if (lab && lab_file_owner(lab, &pid)) {
		err_set(err, -EEXIST, "lab %s is in use by process %d", s->site->name, (int)pid);
		return err_hint(err, "muster status tells what runs");
	}
	for (size_t i = 0; i < s->n_ns; i++) {
		const char *name = s->ns[i].name;

		if (access(s->ns[i].path, F_OK) < 0)
			continue;
		if (lab_file_lists(json_object_get(lab, "names"), name) &&
			!lab_file_others(s->site->name, name))
			continue;
		err_set(err, -EEXIST,
			"lab %s: there is a network namespace %s that is not known to be a lab's",
			s->site->name, name);
		return err_hint(
			err, "muster lab down %s removes it, whoever made it", s->site->name);
	}
	return 0;
}

static int lab_capture(
	const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_lab_spec_ struct lab_spec *s = NULL;
	_cleanup_json_ json_t *lab = NULL, *prior = NULL, *names = json_array(), *leftover = NULL;
	_cleanup_free_ char *id = NULL;
	enum netns_dir dir;
	uint64_t start = 0;
	int r = spec_of(args, &s, err);

	(void)n;
	if (r < 0)
		return r;
	lab = lab_file_read(s->dir);
	r = check_free(s, lab, err);
	if (r == 0)
		r = netns_dir_state(&dir, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < s->n_ns; i++)
		json_array_append_new(names, json_string(s->ns[i].name));
	/*
	 * what a killed run has left: its names may be others than ours, if the site has changed
	 * since
	 */
	if (access(s->dir, F_OK) == 0)
		leftover = json_pack("{s:s, s:o}", "id",
			json_is_string(json_object_get(lab, "id"))
				? json_string_value(json_object_get(lab, "id"))
				: "",
			"names",
			json_is_array(json_object_get(lab, "names"))
				? json_incref(json_object_get(lab, "names"))
				: json_array());
	(void)pid_start_time(getpid(), &start);
	id = strf("%d-%llu-%lld", (int)getpid(), (unsigned long long)start, (long long)now_ns());
	prior = json_pack("{s:s, s:s, s:O, s:O?}", "id", id, "netns_dir", netns_dir_names[dir],
		"names", names, "leftover", leftover);
	if (!id || !prior)
		return -ENOMEM;
	*ret_prior = TAKE_PTR(prior);
	return 0;
}

/* ── taking it down ─────────────────────────────────────────────────────────────────────── */

/*
 * rm -rf, but for what is mounted below it: that is somebody else's, and rmdir() says EBUSY then.
 * By the mount, and not by the device number as nftw() has it: on an overlay a file and its folder
 * have different ones.
 */
static int remove_below(int parent, const char *name)
{
	struct statx st;
	struct dirent *e;
	DIR *d;
	int fd, r = 0;

	if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &st) < 0)
		r = -errno;
	else if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		r = -EBUSY;
	d = r == 0 ? fdopendir(fd) : NULL;
	if (!d) {
		r = r ? r : -errno;
		close(fd);
		return r;
	}
	while (r == 0 && (e = readdir(d)))
		if (!streq(e->d_name, ".") && !streq(e->d_name, ".."))
			r = remove_below(fd, e->d_name);
	closedir(d);
	if (r == 0 && unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

static int remove_tree(const char *path, struct err *err)
{
	int r = remove_below(AT_FDCWD, path);

	return r < 0 ? err_set(err, r, "remove %s: %s", path, strerror(-r)) : 0;
}

/*
 * The record is trusted (it has a CRC), but what is unmounted and unlinked by it is a lab's name or
 * nothing.
 */
static bool lab_name(const char *name)
{
	return name && strncmp(name, "muster-", 7) == 0 && !strchr(name, '/') && strlen(name) < 128;
}

static int dir_left(const char *path, size_t *ret)
{
	DIR *d = opendir(path);
	struct dirent *e;

	*ret = 0;
	if (!d)
		return errno == ENOENT ? 0 : -errno;
	while ((e = readdir(d)))
		*ret += !streq(e->d_name, ".") && !streq(e->d_name, "..") &&
			!streq(e->d_name, DIR_MARKER);
	closedir(d);
	return 0;
}

/* The last lab to go puts /run/netns back as the first one found it. Locked. */
static int restore_dir(const char *recorded, struct err *err)
{
	_cleanup_free_ char *marker = strf("%s/" DIR_MARKER, lab_root), *text = NULL;
	enum netns_dir prior = NETNS_DIR_MOUNT;
	const char *word = recorded;
	size_t labs;
	int r;

	if (!marker)
		return -ENOMEM;
	r = dir_left(lab_root, &labs);
	if (r < 0 || labs)
		return r;
	if (file_read(marker, 64, &text, NULL) == 0)
		word = text;
	for (int i = 0; netns_dir_names[i]; i++)
		if (streq(netns_dir_names[i], word))
			prior = (enum netns_dir)i;
	r = netns_dir_restore(prior, err);
	/*
	 * Somebody else has put a name there meanwhile: it serves him now, and is no longer ours to
	 * take down.
	 */
	if (r == -ENOTEMPTY)
		r = 0;
	if (r == 0 && unlink(marker) < 0 && errno != ENOENT)
		r = -errno;
	if (r == 0 && rmdir(lab_root) < 0 && errno != ENOENT && errno != ENOTEMPTY)
		r = -errno;
	return r < 0 ? err_set(err, r, "%s: %s", lab_root, strerror(-r)) : 0;
}

/*
 * Takes down what goes by @names, and the folder @dir. @lab (may be NULL) knows the inodes that the
 * names stood for; one that stands for another namespace now is left alone: CHANGE_CONFLICT.
 */
static int sweep(const char *dir, const json_t *names, const json_t *lab, const char *netns_dir,
	struct err *err)
{
	const json_t *known = json_object_get(lab, "ino"), *j;
	_cleanup_free_ uint64_t *inos = calloc(json_array_size(names) + 1, sizeof(*inos));
	_cleanup_free_ char *foreign = NULL;
	_cleanup_close_ int lock = -1;
	size_t i, n = 0;
	int r;

	if (!inos)
		return -ENOMEM;
	json_array_foreach(names, i, j) {
		const char *name = json_string_value(j);
		_cleanup_free_ char *path = NULL;
		json_int_t was;

		if (!lab_name(name))
			return err_set(err, -EINVAL,
				"the record of a lab is damaged: it names \"%.64s\"",
				name ? name : "?");
		path = strf(LAB_NETNS_DIR "/%s", name);
		if (!path)
			return -ENOMEM;
		if (netns_ino(path, &inos[n]) < 0)
			continue; /* not there, or a name for nothing */
		was = json_integer_value(json_object_get(known, name));
		if (was && (uint64_t)was != inos[n])
			foreign = foreign ? foreign : strdup(name);
		else
			n++;
	}
	r = netns_kill(inos, n, err);
	if (r == 0)
		r = lock_labs(&lock, err);
	json_array_foreach(names, i, j) {
		_cleanup_free_ char *path = strf(LAB_NETNS_DIR "/%s", json_string_value(j));
		json_int_t was = json_integer_value(json_object_get(known, json_string_value(j)));
		uint64_t ino;

		if (r < 0 || !path)
			return r < 0 ? r : -ENOMEM;
		if (was && netns_ino(path, &ino) == 0 && ino != (uint64_t)was)
			continue;
		r = netns_del(path, err);
	}
	if (r == 0)
		r = remove_tree(dir, err);
	if (r == 0)
		r = restore_dir(netns_dir, err);
	if (r == 0 && foreign)
		r = err_set(err, CHANGE_CONFLICT,
			"%s stands for another namespace than the lab's now", foreign);
	return r;
}

static char *dir_of(const json_t *args)
{
	const char *name =
		json_string_value(json_object_get(json_object_get(args, "site"), "name"));

	return name && *name && *name != '.' && !strchr(name, '/') ? strf("%s/%s", lab_root, name)
								   : NULL;
}

/* What lies under this name was built by another record, later. */
static bool is_foreign(const json_t *lab, const json_t *prior)
{
	const char *id = json_string_value(json_object_get(lab, "id"));
	const char *left =
		json_string_value(json_object_get(json_object_get(prior, "leftover"), "id"));

	return id && !streq(id, json_string_value(json_object_get(prior, "id"))) &&
	       !streq(id, left);
}

static int lab_undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_free_ char *dir = dir_of(args);
	_cleanup_json_ json_t *lab = dir ? lab_file_read(dir) : NULL, *names = NULL;
	const json_t *j, *left = json_object_get(json_object_get(prior, "leftover"), "names");
	size_t i;

	(void)n;
	if (!dir)
		return err_set(err, -EINVAL, "the record of a lab is damaged: it has no site");
	if (is_foreign(lab, prior))
		return 0;
	names = json_copy(json_object_get(prior, "names"));
	if (!json_is_array(names))
		return err_set(
			err, -EINVAL, "the record of lab %s is damaged: it has no names", dir);
	json_array_foreach(left, i, j)
		if (!lab_file_lists(names, json_string_value(j)))
			json_array_append(names, (json_t *)j);
	return sweep(dir, names, lab, json_string_value(json_object_get(prior, "netns_dir")), err);
}

/*
 * Processes that work in the lab's folder, gone or not: what a daemon is even when its namespace
 * has no name any more
 */
static pid_t process_in(const char *dir)
{
	size_t len = strlen(dir);
	DIR *d = opendir("/proc");
	struct dirent *e;
	pid_t found = 0;

	while (d && !found && (e = readdir(d))) {
		char path[300], cwd[512];
		ssize_t got;

		if (e->d_name[0] < '1' || e->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/cwd", e->d_name);
		got = readlink(path, cwd, sizeof(cwd) - 1);
		if (got > (ssize_t)len && strncmp(cwd, dir, len) == 0 && cwd[len] == '/')
			found = (pid_t)atoi(e->d_name);
	}
	if (d)
		closedir(d);
	return found;
}

static int lab_verify(
	const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	_cleanup_free_ char *dir = dir_of(args);
	_cleanup_json_ json_t *lab = dir ? lab_file_read(dir) : NULL;
	const json_t *j;
	pid_t pid;
	size_t i;

	(void)n;
	if (!dir)
		return err_set(err, -EINVAL, "the record of a lab is damaged: it has no site");
	if (is_foreign(lab, prior))
		return 0;
	json_array_foreach(json_object_get(prior, "names"), i, j) {
		_cleanup_free_ char *path = strf(LAB_NETNS_DIR "/%s", json_string_value(j));

		if (!path)
			return -ENOMEM;
		if (access(path, F_OK) == 0)
			return err_set(err, 1, "the network namespace %s is still there",
				json_string_value(j));
	}
	if (access(dir, F_OK) == 0)
		return err_set(err, 1, "the folder %s is still there", dir);
	pid = process_in(dir);
	if (pid)
		return err_set(err, 1, "process %d of the lab is still there", (int)pid);
	return 0;
}

/* ── building it ────────────────────────────────────────────────────────────────────────── */

static int write_sysctl(const char *path, const char *value)
{
	char file[512];
	int fd, r = 0;

	if (snprintf(file, sizeof(file), "/proc/sys/%s", path) >= (int)sizeof(file))
		return -ENAMETOOLONG;
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* Those that speak of a link exist only once the link does. */
static int write_sysctls(const struct lab_ns *ns, bool of_links, struct err *err)
{
	for (size_t i = 0; i < ns->n_sysctls; i++) {
		const struct lab_sysctl *s = &ns->sysctls[i];
		int r;

		if ((s->dev != NULL) != of_links)
			continue;
		r = write_sysctl(s->path, s->value);
		if (r == -ENOENT)
			return err_set(err, r,
				"node %s: this kernel has no sysctl %s in a network namespace",
				ns->label, s->key);
		if (r < 0)
			return err_set(err, r, "node %s: set sysctl %s = %s: %s", ns->label, s->key,
				s->value, strerror(-r));
	}
	return 0;
}

static int base_settings(const struct lab_ns *ns, struct err *err)
{
	size_t n = ns->node ? ARRAY_SIZE(base_sysctls) : ARRAY_SIZE(switch_sysctls);

	for (size_t i = 0; i < n; i++) {
		const char *key = ns->node ? base_sysctls[i].key : switch_sysctls[i].key;
		const char *value = ns->node ? base_sysctls[i].value : switch_sysctls[i].value;
		int r = write_sysctl(key, value);

		if (r < 0 && r != -ENOENT) /* no IPv6, no br_netfilter: nothing to set */
			return err_set(
				err, r, "%s: set %s = %s: %s", ns->label, key, value, strerror(-r));
	}
	return ns->node ? write_sysctls(ns, false, err) : 0;
}

struct handle { /* of one namespace, while the lab is being built */
	struct nlc *nl;
	int fd;
	int ports; /* of a switch */
};

struct handles {
	size_t n;
	struct handle *h;
};

static void handles_free(struct handles *hs)
{
	for (size_t i = 0; i < hs->n; i++) {
		nlc_close(hs->h[i].nl);
		if (hs->h[i].fd >= 0)
			close(hs->h[i].fd);
	}
	free(hs->h);
}

static int add_ns(const struct lab_ns *ns, struct handle *h, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	int r = netns_add(ns->path, &v, err);

	if (r < 0)
		return r;
	h->fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (h->fd < 0)
		return err_set(err, -errno, "%s: open its network namespace: %s", ns->name,
			strerror(errno));
	r = base_settings(ns, err);
	if (r == 0)
		r = nlc_open_netns(
			NULL, NETLINK_ROUTE, &h->nl, err); /* made in here, it stays in here */
	if (r == 0)
		r = netns_up(h->nl, LO_INDEX, NULL, err);
	if (r == 0 && !ns->node)
		r = netns_bridge(h->nl, BRIDGE_NAME, BRIDGE_INDEX, err);
	return r;
}

static int plug(const struct lab_spec *s, struct handles *hs, size_t node, struct err *err)
{
	const struct node *n = s->ns[node].node;

	for (size_t l = 0; l < n->n_links; l++) {
		const char *sw = lab_link_switch(s->site, n, l);
		size_t i = 0;
		int port, r;

		while (i < s->n_ns && (s->ns[i].node || !streq(s->ns[i].label, sw)))
			i++;
		if (i == s->n_ns)
			return err_set(err, -EINVAL, "node %s: there is no switch %s", n->name, sw);
		port = PORT_INDEX + hs->h[i].ports++;
		r = netns_veth(hs->h[i].nl, n->links[l].peer_dev, port, BRIDGE_INDEX, hs->h[node].fd,
			n->links[l].dev, LINK_INDEX + (int)l, err);
		/* both ends say whose they are, wherever they are found one day */
		if (r == 0)
			r = netns_up(hs->h[node].nl, LINK_INDEX + (int)l, change_run_tag(), err);
		if (r == 0)
			r = netns_up(hs->h[i].nl, port, change_run_tag(), err);
		if (r < 0)
			return err_prefix(err, "node %s", n->name), r;
	}
	return 0;
}

static int link_index(const struct node *n, const char *dev)
{
	for (size_t l = 0; dev && l < n->n_links; l++)
		if (streq(n->links[l].dev, dev))
			return LINK_INDEX + (int)l;
	return 0;
}

static int address(const struct lab_ns *ns, struct nlc *nl, struct err *err)
{
	const struct node *n = ns->node;
	struct lab_addr a;
	int r = 0;

	for (size_t i = 0; r == 0 && i < ns->n_sysctls; i++)
		if (ns->sysctls[i].dev) {
			_cleanup_(node_leave) struct node_visit v = {.fd = -1};

			r = netns_enter(ns->path, &v, err);
			if (r == 0)
				r = write_sysctls(ns, true, err);
			break;
		}
	/* what is on lo first: once a link has its address, somebody may already ask */
	for (size_t i = 0; r == 0 && i < ns->n_lo; i++) {
		r = netns_addr(nl, LO_INDEX, &ns->lo[i], err);
		if (r < 0)
			err_prefix(err, "node %s: address %zu on lo", n->name, i + 1);
	}
	for (size_t l = 0; r == 0 && l < n->n_links; l++)
		for (size_t k = 0; r == 0 && k < n->links[l].n_addrs; k++) {
			r = lab_addr_parse(n->links[l].addrs[k], &a);
			if (r == 0)
				r = netns_addr(nl, LINK_INDEX + (int)l, &a, err);
			if (r < 0)
				err_prefix(err, "node %s: address %s on %s", n->name,
					n->links[l].addrs[k], n->links[l].dev);
		}
	for (size_t i = 0; r == 0 && i < ns->n_routes; i++) {
		r = netns_route(nl, &ns->routes[i], link_index(n, ns->routes[i].dev), err);
		if (r < 0)
			err_prefix(err, "node %s: route %zu", n->name, i + 1);
	}
	return r;
}

/* 1: its links pass packets, and its addresses answer; 0: not yet */
static int settled(const struct lab_ns *ns, const struct handle *h, struct err *err)
{
	int n = ns->node ? (int)ns->node->n_links : h->ports, r = 1;
	size_t tentative = 0;

	for (int k = 0; r > 0 && k < n; k++)
		r = netns_is_up(h->nl, (ns->node ? LINK_INDEX : PORT_INDEX) + k, err);
	if (r <= 0 || !ns->ipv6)
		return r;
	r = netns_tentative(h->nl, &tentative, err);
	return r < 0 ? r : tentative == 0;
}

static int settle(const struct lab_spec *s, const struct handles *hs, struct err *err)
{
	nsec_t deadline = now_ns() + SETTLE_TIMEOUT;

	for (size_t i = 0; i < s->n_ns;) {
		int r = settled(&s->ns[i], &hs->h[i], err);

		if (r < 0)
			return r;
		if (r > 0)
			i++;
		else if (now_ns() > deadline)
			return err_set(err, -ETIMEDOUT, "%s: its links do not come up within 5 s",
				s->ns[i].label);
		else
			(void)poll(
				NULL, 0, 1); /* no event says both: asked again in a millisecond */
	}
	return 0;
}

static int build(const struct lab_spec *s, json_t *lab, struct err *err)
{
	_cleanup_(handles_free) struct handles hs = {
		.n = s->n_ns, .h = calloc(s->n_ns + 1, sizeof(*hs.h))};
	_cleanup_json_ json_t *inos = json_object();
	int r = 0;

	if (!hs.h || !inos) {
		hs.n = 0;
		return -ENOMEM;
	}
	for (size_t i = 0; i < s->n_ns; i++)
		hs.h[i].fd = -1;
	for (size_t i = 0; r == 0 && i < s->n_ns; i++) {
		struct stat st;

		r = add_ns(&s->ns[i], &hs.h[i], err);
		if (r == 0 && fstat(hs.h[i].fd, &st) == 0)
			json_object_set_new(
				inos, s->ns[i].name, json_integer((json_int_t)st.st_ino));
	}
	if (r == 0) {
		json_object_set(lab, "ino", inos);
		r = lab_file_write(s->dir, lab, err);
	}
	for (size_t i = 0; r == 0 && i < s->n_ns; i++)
		if (s->ns[i].node)
			r = plug(s, &hs, i, err);
	for (size_t i = 0; r == 0 && i < s->n_ns; i++)
		if (s->ns[i].node)
			r = address(&s->ns[i], hs.h[i].nl, err);
	return r < 0 ? r : settle(s, &hs, err);
}

/* Those of one order start together, and serve before the next order starts. */
static int start_daemons(const struct lab_spec *s, struct err *err)
{
	_cleanup_free_ struct daemon_run *runs = calloc(s->n_daemons + 1, sizeof(*runs));
	int r = 0;

	if (!runs)
		return -ENOMEM;
	for (size_t i = 0, n; r == 0 && i < s->n_daemons; i += n) {
		size_t started = 0;

		for (n = 0; i + n < s->n_daemons && s->daemons[i + n].order == s->daemons[i].order;
			n++)
			;
		for (size_t k = 0; r == 0 && k < n; k++) {
			r = daemon_start(&s->daemons[i + k], &runs[k], err);
			started += r == 0;
		}
		if (r == 0)
			r = daemon_await(runs, n, err);
		for (size_t k = 0; k < started; k++)
			daemon_release(&runs[k]);
	}
	return r;
}

static int claim(const struct lab_spec *s, const json_t *args, const json_t *prior,
	json_t **ret_lab, struct err *err)
{
	_cleanup_json_ json_t *lab = NULL;
	uint64_t start = 0;
	int r = mkdir_p(lab_root);

	if (r < 0)
		return err_set(err, r, "make %s: %s", lab_root, strerror(-r));
	if (mkdir(s->dir, 0755) < 0)
		return err_set(err, -errno, "lab %s: make its folder %s: %s", s->site->name, s->dir,
			strerror(errno));
	r = pid_start_time(getpid(), &start);
	if (r < 0)
		return err_set(err, r, "read my own start time: %s", strerror(-r));
	lab = json_pack("{s:O, s:{s:i, s:I}, s:O, s:O}", "id", json_object_get(prior, "id"),
		"owner", "pid", (int)getpid(), "start", (json_int_t)start, "names",
		json_object_get(prior, "names"), "site", json_object_get(args, "site"));
	if (!lab)
		return -ENOMEM;
	r = lab_file_write(s->dir, lab, err);
	if (r == 0)
		*ret_lab = TAKE_PTR(lab);
	return r;
}

/* What /run/netns is now, for the lab that goes last; noted by the one that comes first. Locked. */
static int note_dir(struct err *err)
{
	_cleanup_free_ char *marker = strf("%s/" DIR_MARKER, lab_root);
	enum netns_dir now;
	int r = marker ? netns_dir_state(&now, err) : -ENOMEM;

	if (r < 0 || now == NETNS_DIR_MOUNT || access(marker, F_OK) == 0)
		return r;
	r = file_write(marker, netns_dir_names[now], strlen(netns_dir_names[now]));
	return r < 0 ? err_set(err, r, "write %s: %s", marker, strerror(-r)) : 0;
}

static int lab_apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const json_t *leftover = json_object_get(prior, "leftover");
	_cleanup_lab_spec_ struct lab_spec *s = NULL;
	_cleanup_json_ json_t *lab = NULL;
	int r = spec_of(args, &s, err);

	(void)n;
	if (r == 0 && leftover && json_is_object(leftover)) {
		_cleanup_json_ json_t *old = lab_file_read(s->dir);

		r = sweep(s->dir, json_object_get(leftover, "names"), old,
			json_string_value(json_object_get(prior, "netns_dir")), err);
		if (r == CHANGE_CONFLICT)
			r = -EEXIST;
	}
	if (r == 0) {
		_cleanup_close_ int lock = -1;

		/*
		 * the lock first: until a folder stands in it, the last lab that goes may remove
		 * lab_root
		 */
		r = lock_labs(&lock, err);
		if (r == 0)
			r = claim(s, args, prior, &lab, err);
		if (r == 0)
			r = note_dir(err);
		if (r == 0)
			r = netns_dir_make(err);
		if (r == 0)
			r = build(s, lab, err);
	}
	if (r == 0)
		r = start_daemons(s, err);
	return r < 0 && s ? err_prefix(err, "lab %s", s->site->name), r : r;
}

/* ── in plain commands ──────────────────────────────────────────────────────────────────── */

static void command_sysctls(const struct lab_ns *ns, struct strbuf *b)
{
	strbuf_addf(b, "ip netns exec %s sysctl -q", ns->name);
	if (!ns->node) {
		strbuf_puts(b, " -e");
		for (size_t i = 0; i < ARRAY_SIZE(switch_sysctls); i++)
			strbuf_addf(b, " %s=%s", switch_sysctls[i].key, switch_sysctls[i].value);
	} else {
		strbuf_puts(b, " -e");
		for (size_t i = 0; i < ARRAY_SIZE(base_sysctls); i++)
			strbuf_addf(b, " %s=%s", base_sysctls[i].key, base_sysctls[i].value);
	}
	strbuf_puts(b, "\n");
}

static void command_node_sysctls(const struct lab_ns *ns, bool of_links, struct strbuf *b)
{
	for (size_t i = 0; i < ns->n_sysctls; i++) {
		_cleanup_free_ char *word = strf("%s=%s", ns->sysctls[i].key, ns->sysctls[i].value);

		if ((ns->sysctls[i].dev != NULL) != of_links || !word)
			continue;
		strbuf_addf(b, "ip netns exec %s sysctl -q ", ns->name);
		strbuf_add_shell(b, word);
		strbuf_puts(b, "\n");
	}
}

static void command_links(const struct lab_ns *ns, struct strbuf *b)
{
	for (size_t l = 0; l < ns->node->n_links; l++) {
		const struct node_link *link = &ns->node->links[l];
		const char *sw = strrchr(link->peer_netns, '/') + 1;

		strbuf_addf(b, "ip -n %s link add name %s type veth peer name %s netns %s\n", sw,
			link->peer_dev, link->dev, ns->name);
		strbuf_addf(b, "ip -n %s link set dev %s master " BRIDGE_NAME " up\n", sw,
			link->peer_dev);
		strbuf_addf(b, "ip -n %s link set dev %s up\n", ns->name, link->dev);
	}
}

static void add_addr(struct strbuf *b, const struct lab_addr *a, bool prefix)
{
	char text[INET6_ADDRSTRLEN] = "";

	inet_ntop(a->family, a->addr, text, sizeof(text));
	strbuf_puts(b, text);
	if (prefix)
		strbuf_addf(b, "/%u", a->prefix);
}

/* See netns_addr(). */
static const char *deprecated(const struct lab_addr *a)
{
	return a->family == AF_INET6 && a->prefix == 128 ? " preferred_lft 0" : "";
}

static void command_addrs(const struct lab_ns *ns, struct strbuf *b)
{
	for (size_t i = 0; i < ns->n_lo; i++) {
		strbuf_addf(b, "ip -n %s addr add ", ns->name);
		add_addr(b, &ns->lo[i], true);
		strbuf_addf(b, " dev lo%s\n", deprecated(&ns->lo[i]));
	}
	for (size_t l = 0; l < ns->node->n_links; l++)
		for (size_t k = 0; k < ns->node->links[l].n_addrs; k++) {
			const char *addr = ns->node->links[l].addrs[k];
			struct lab_addr a = {.family = AF_UNSPEC};

			(void)lab_addr_parse(addr, &a);
			strbuf_addf(b, "ip -n %s addr add %s dev %s%s%s\n", ns->name, addr,
				ns->node->links[l].dev, a.family == AF_INET6 ? " nodad" : "",
				deprecated(&a));
		}
	for (size_t i = 0; i < ns->n_routes; i++) {
		const struct lab_route *t = &ns->routes[i];

		strbuf_addf(b, "ip -n %s route add ", ns->name);
		add_addr(b, &t->to, true);
		if (t->has_via) {
			strbuf_puts(b, " via ");
			add_addr(b, &t->via, false);
		}
		if (t->dev)
			strbuf_addf(b, " dev %s", t->dev);
		strbuf_puts(b, "\n");
	}
}

static void command_daemon(const struct lab_daemon *d, struct strbuf *b)
{
	for (size_t i = 0; i < d->n_files; i++)
		strbuf_addf(b, "# %s/%s is written, %zu bytes\n", d->dir, d->files[i].name,
			strlen(d->files[i].content));
	strbuf_addf(b, "(cd %s && exec setsid ip netns exec %s", d->dir, d->ns->name);
	for (char **a = d->argv; *a; a++) {
		strbuf_puts(b, " ");
		strbuf_add_shell(b, *a);
	}
	strbuf_puts(b, " </dev/null >" DAEMON_LOG_FILE " 2>&1) &\n");
}

/*
 * The undo of a record. What lies under the lab's name may have been built by another record, later: the lab's own file tells by its id.
 * When it has not come to that file yet, the names were free before, and are ours.
 */
static void command_undo(const char *dir, const json_t *prior, struct strbuf *b)
{
	const json_t *leftover = json_object_get(prior, "leftover"), *lists[] = {json_object_get(prior, "names"),
		json_object_get(leftover, "names")}, *j;
	const char *ids[] = {json_string_value(json_object_get(prior, "id")),
		json_string_value(json_object_get(leftover, "id"))},
		*was = json_string_value(json_object_get(prior, "netns_dir"));
	_cleanup_strbuf_ struct strbuf ours = {0}, file = {0};
	_cleanup_free_ char *path = strf("%s/lab.json", dir);
	size_t i;

	strbuf_add_shell(&file, path ? path : "");
	strbuf_addf(&ours, "! [ -e %s ] || grep -qF", strbuf_cstr(&file));
	for (i = 0; i < ARRAY_SIZE(ids); i++) {
		_cleanup_free_ char *id = ids[i] && ids[i][0] ? strf("\"id\": \"%s\"", ids[i]) : NULL;

		if (!id)
			continue;
		strbuf_puts(&ours, " -e ");
		strbuf_add_shell(&ours, id);
	}
	strbuf_addf(&ours, " %s", strbuf_cstr(&file));
	for (size_t l = 0; l < ARRAY_SIZE(lists); l++)
		json_array_foreach(lists[l], i, j) {
			const char *name = json_string_value(j);

			if (!lab_name(name))
				continue;
			strbuf_puts(b, "! [ -e " LAB_NETNS_DIR "/");
			strbuf_add_shell(b, name);
			strbuf_addf(b, " ] || ! { %s; } || { ip netns pids ", strbuf_cstr(&ours));
			strbuf_add_shell(b, name);
			strbuf_puts(b, " | xargs -r kill -KILL; timeout 5 sh -c "
				       "'while [ -n \"$(ip netns pids \"$1\")\" ]; do sleep 0.05; done' sh ");
			strbuf_add_shell(b, name);
			strbuf_puts(b, "; ip netns delete ");
			strbuf_add_shell(b, name);
			strbuf_puts(b, "; }\n");
		}
	strbuf_addf(b, "! { %s; } || rm -rf --one-file-system ", strbuf_cstr(&ours));
	strbuf_add_shell(b, dir);
	strbuf_puts(b, "\n");
	/* the last lab to go puts the folder of names back as the first one found it */
	if (!streq(was, netns_dir_names[NETNS_DIR_MOUNT]))
		strbuf_addf(b,
			"[ -n \"$(ls %s 2>/dev/null)\" ] || [ -n \"$(ls " LAB_NETNS_DIR " 2>/dev/null)\" ] || "
			"! mountpoint -q " LAB_NETNS_DIR " || umount " LAB_NETNS_DIR "\n",
			lab_root);
	if (streq(was, netns_dir_names[NETNS_DIR_ABSENT]))
		strbuf_addf(b,
			"[ -n \"$(ls %s 2>/dev/null)\" ] || [ -n \"$(ls " LAB_NETNS_DIR " 2>/dev/null)\" ] || "
			"! [ -d " LAB_NETNS_DIR " ] || rmdir " LAB_NETNS_DIR "\n",
			lab_root);
	strbuf_addf(b, "[ -n \"$(ls %s 2>/dev/null)\" ] || rm -rf %s\n", lab_root, lab_root);
}

static int lab_command(const struct node *n, const json_t *args, const json_t *prior,
	struct strbuf *ret_apply, struct strbuf *ret_undo)
{
	_cleanup_lab_spec_ struct lab_spec *s = NULL;
	_cleanup_free_ char *dir = NULL;
	int r;

	(void)n;
	if (prior) {
		/* the words of an undo need no more than the record, whose lab may have come from `muster lab down` */
		dir = dir_of(args);
		if (!dir)
			return -EINVAL;
		command_undo(dir, prior, ret_undo);
	}
	r = spec_of(args, &s, NULL);
	if (r < 0)
		return r;
	for (size_t i = 0; i < s->n_ns; i++) {
		const struct lab_ns *ns = &s->ns[i];

		strbuf_addf(ret_apply, "ip netns add %s\n", ns->name);
		command_sysctls(ns, ret_apply);
		strbuf_addf(ret_apply, "ip -n %s link set dev lo up\n", ns->name);
		if (!ns->node) {
			strbuf_addf(ret_apply,
				"ip -n %s link add name " BRIDGE_NAME
				" type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n",
				ns->name);
			strbuf_addf(
				ret_apply, "ip -n %s link set dev " BRIDGE_NAME " up\n", ns->name);
		}
		command_node_sysctls(ns, false, ret_apply);
	}
	for (size_t i = 0; i < s->n_ns; i++) {
		if (!s->ns[i].node)
			continue;
		command_links(&s->ns[i], ret_apply);
		command_node_sysctls(&s->ns[i], true, ret_apply);
		command_addrs(&s->ns[i], ret_apply);
	}
	for (size_t i = 0; i < s->n_daemons; i++)
		command_daemon(&s->daemons[i], ret_apply);
	for (size_t i = 0; !prior && i < s->n_ns; i++) {
		strbuf_addf(ret_undo, "ip netns pids %s 2>/dev/null | xargs -r kill -KILL\n",
			s->ns[i].name);
		strbuf_addf(ret_undo, "ip netns delete %s 2>/dev/null\n", s->ns[i].name);
	}
	if (!prior)
		strbuf_addf(ret_undo, "rm -rf %s\n", s->dir);
	return ret_apply->oom || ret_undo->oom ? -ENOMEM : 0;
}

/*
 * "site" is the whole of site.h's JSON: no parameter type describes it, and lab_spec_new() checks
 * it.
 */
static const struct param params[] = {PARAM_END};

const struct change_ops change_lab_site = {
	.name = "lab.site",
	.summary = "network namespaces, a switch between them, and the daemons of a site",
	.kind = CHANGE_LAB,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "{\"site\": {\"name\": \"conformance\", \"switches\": [\"lan\"], \"nodes\": ["
		   "{\"name\": \"a\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.9.1/24\"]}]},"
		   "{\"name\": \"b\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.9.2/24\"]}]}]}}",
	.supported = lab_supported,
	.capture = lab_capture,
	.apply = lab_apply,
	.undo = lab_undo,
	.verify = lab_verify,
	.command = lab_command,
};
