/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * BPF programs where they are attached, by name and tag (a digest of the code), never by id:
 *
 *	bpf eth0 xdp muster_drop 3b185187f1855c4c
 *	bpf eth0 tcx-ingress NAME TAG
 *	bpf pin /sys/fs/bpf/NAME
 *	bpf ~link#7 tracing NAME TAG
 *
 * Filters of tc stand with qdisc, which gives the same two, and programs of control groups with cgroup. A link ends with the
 * process that holds it, so links are compared while they last (snapshot.h); one that would outlive its process is pinned, and a
 * pin is a fact like another. Sampling of programs that are merely loaded would only show who is running.
 */
#include <bpf/bpf.h>
#include <dirent.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>

#include "engine/nl.h"
#include "engine/snapshot.h"

#define BPFFS "/sys/fs/bpf"
#define PINS_MAX 4096

/* enum bpf_attach_type; Linux 6.6, and older headers lack them */
#define TCX_INGRESS 46
#define TCX_EGRESS  47

/* " NAME TAG" of a program; nothing when it is gone. 0; -errno */
static int add_program(struct strbuf *b, uint32_t id)
{
	_cleanup_close_ int fd = bpf_prog_get_fd_by_id(id);
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info);

	if (fd < 0)
		return -errno;
	if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return -errno;
	strbuf_puts(b, " ");
	snapshot_word(b, info.name[0] ? info.name : "-");
	strbuf_puts(b, " ");
	for (size_t i = 0; i < sizeof(info.tag); i++)
		strbuf_addf(b, "%02x", info.tag[i]);
	return 0;
}

static void add_attached(struct strbuf *b, const char *dev, const char *where, uint32_t id)
{
	_cleanup_strbuf_ struct strbuf program = {0};
	int r = add_program(&program, id);

	if (r == -ENOENT)
		return; /* gone meanwhile */
	strbuf_puts(b, "bpf ");
	snapshot_word(b, dev);
	if (r < 0)
		strbuf_addf(b, " %s ! could not be read: %s\n", where, strerror(-r));
	else
		strbuf_addf(b, " %s%s\n", where, strbuf_cstr(&program));
}

/* ── of a namespace ────────────────────────────────────────────────────────────────────────── */

struct take {
	struct strbuf *b;
	size_t start;
};

static void add_tcx(struct strbuf *b, const char *dev, int ifindex)
{
	static const struct {
		int type;
		const char *word;
	} hooks[] = {{TCX_INGRESS, "tcx-ingress"}, {TCX_EGRESS, "tcx-egress"}};

	for (size_t i = 0; i < ARRAY_SIZE(hooks); i++) {
		uint32_t ids[32], n = ARRAY_SIZE(ids), flags = 0;

		if (bpf_prog_query(ifindex, (enum bpf_attach_type)hooks[i].type, 0, &flags, ids, &n) < 0)
			continue; /* none, or a kernel without */
		for (uint32_t k = 0; k < n; k++)
			add_attached(b, dev, hooks[i].word, ids[k]);
	}
}

static int link_cb(struct nlmsghdr *hdr, void *arg)
{
	static const struct {
		int attr;
		const char *word;
	} modes[] = {{IFLA_XDP_DRV_PROG_ID, "xdp"}, {IFLA_XDP_SKB_PROG_ID, "xdp-generic"}, {IFLA_XDP_HW_PROG_ID, "xdp-offload"}};
	const struct nlattr *name, *xdp;
	struct take *t = arg;

	if (!hdr) {
		if (t->b->s)
			t->b->s[t->b->len = t->start] = '\0';
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWLINK || !(name = nlmsg_find_attr(hdr, sizeof(struct ifinfomsg), IFLA_IFNAME)))
		return 0;
	xdp = nlmsg_find_attr(hdr, sizeof(struct ifinfomsg), IFLA_XDP);
	for (size_t i = 0; xdp && i < ARRAY_SIZE(modes); i++) {
		struct nlattr *id = nla_find(nla_data(xdp), nla_len(xdp), modes[i].attr);

		if (id && nla_len(id) >= 4)
			add_attached(t->b, nla_get_string((struct nlattr *)name), modes[i].word, nla_get_u32(id));
	}
	add_tcx(t->b, nla_get_string((struct nlattr *)name), ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_index);
	return 0;
}

static int take(const struct node *n, struct strbuf *b, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC};
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct take t = {.b = b, .start = b->len};
	struct nl_msg *m;
	int r = nlc_open(n, NETLINK_ROUTE, &nl, err);

	if (r == 0)
		r = node_enter(n, &v, err); /* tcx asks about the caller's devices */
	if (r < 0)
		return r;
	m = nlmsg_alloc_simple(RTM_GETLINK, 0);
	if (!m || nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return -ENOMEM;
	}
	return nlc_dump(nl, m, link_cb, &t, err);
}

/* ── of the machine ────────────────────────────────────────────────────────────────────────── */

static int add_links(struct strbuf *b, struct err *err)
{
	static const char *const types[] = {"-", "raw_tracepoint", "tracing", "cgroup", "iter", "netns", "xdp", "perf_event",
		"kprobe_multi", "struct_ops", "netfilter", "tcx", "uprobe_multi", "netkit"};
	uint32_t id = 0;

	for (;;) {
		_cleanup_strbuf_ struct strbuf program = {0};
		_cleanup_close_ int fd = -1;
		struct bpf_link_info info = {0};
		uint32_t len = sizeof(info);

		if (bpf_link_get_next_id(id, &id) < 0) {
			if (errno == ENOENT || errno == EINVAL || errno == ENOSYS) /* the end; or a kernel without */
				return 0;
			return err_set(err, -errno, "list the BPF links: %s", strerror(errno));
		}
		fd = bpf_link_get_fd_by_id(id);
		if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len) < 0 || add_program(&program, info.prog_id) < 0)
			continue; /* gone meanwhile */
		strbuf_addf(b, "bpf ~link#%u %s%s\n", id, info.type < ARRAY_SIZE(types) ? types[info.type] : "other",
			strbuf_cstr(&program));
	}
}

static int add_pins(struct strbuf *b, const char *dir, unsigned int *left)
{
	struct dirent *e;
	DIR *d = opendir(dir);
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && (e = readdir(d))) {
		_cleanup_free_ char *path = NULL;

		if (streq(e->d_name, ".") || streq(e->d_name, ".."))
			continue;
		if ((*left)-- == 0) {
			r = -E2BIG;
			break;
		}
		path = strf("%s/%s", dir, e->d_name);
		if (!path) {
			r = -ENOMEM;
			break;
		}
		strbuf_puts(b, "bpf pin ");
		snapshot_word(b, path);
		strbuf_puts(b, "\n");
		if (e->d_type == DT_DIR)
			r = add_pins(b, path, left);
	}
	closedir(d);
	return r == -ENOENT ? 0 : r;
}

static int take_host(struct strbuf *b, struct err *err)
{
	unsigned int left = PINS_MAX;
	int r = add_links(b, err);

	if (r == 0) {
		r = add_pins(b, BPFFS, &left);
		if (r == -E2BIG)
			return err_set(err, r, BPFFS " holds more than %d objects", PINS_MAX);
		if (r < 0)
			return err_set(err, r, BPFFS ": %s", strerror(-r));
	}
	return r;
}

const struct snapshot_ops snapshot_bpf = {.name = "bpf", .take = take, .take_host = take_host};
