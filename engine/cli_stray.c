/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/cli_stray.h"

#include <dirent.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <stdio.h>
#include <string.h>

#include "baseline/sets.h"
#include "engine/change.h"
#include "engine/guard.h"
#include "engine/journal.h"
#include "engine/nl.h"
#include "inject/qdisc.h"

#define NETNS_DIR "/run/netns"

struct search {
	struct journal_found *runs; /* those that will be undone, or are at work */
	size_t n_runs;
	struct lock_holder holder;
	bool busy;

	const char *where;
	struct nlc *nl;
	json_t *found;
	/* of the namespace at hand */
	json_t *links, *clsacts; /* {"INDEX": name}; [index] */
	int ifindex;
	uint32_t hook;
};

static bool known(const struct search *s, const char *run, size_t len)
{
	if (s->busy && strlen(s->holder.run_id) == len && memcmp(s->holder.run_id, run, len) == 0)
		return true;
	for (size_t i = 0; i < s->n_runs; i++)
		if (strlen(s->runs[i].run_id) == len && memcmp(s->runs[i].run_id, run, len) == 0)
			return true;
	return false;
}

/* @hash: twelve digits of a short tag */
static bool known_hash(const struct search *s, const char *hash)
{
	char tag[CHANGE_TAG_SHORT_MAX];

	for (size_t i = 0; i < s->n_runs + s->busy; i++) {
		change_tag_short(i < s->n_runs ? s->runs[i].run_id : s->holder.run_id, tag);
		if (strncmp(strchr(tag, '_') + 1, hash, 12) == 0)
			return true;
	}
	return false;
}

static void add(struct search *s, const char *what, const char *run, size_t len, const char *fix)
{
	json_array_append_new(s->found, json_pack("{s:s, s:s, s:o, s:s}", "what", what, "where", s->where, "run",
						run ? json_stringn(run, len) : json_null(), "fix", fix));
}

/* "tc -n NETNS", "ip -n NETNS"; plain on the host */
static void add_command(const struct search *s, struct strbuf *b, const char *program)
{
	strbuf_puts(b, program);
	if (streq(s->where, "host"))
		return;
	strbuf_puts(b, " -n ");
	strbuf_add_shell(b, s->where);
}

static int link_cb(struct nlmsghdr *hdr, void *arg)
{
	struct search *s = arg;
	struct nlattr *tb[IFLA_MAX + 1];
	char name[16] = "", alias[256] = "", key[16];

	if (!hdr) {
		json_object_clear(s->links);
		return 0;
	}
	if (hdr->nlmsg_type != RTM_NEWLINK || nlmsg_parse(hdr, sizeof(struct ifinfomsg), tb, IFLA_MAX, NULL) < 0)
		return 0;
	if (tb[IFLA_IFNAME])
		nla_strlcpy(name, tb[IFLA_IFNAME], sizeof(name));
	if (tb[IFLA_IFALIAS])
		nla_strlcpy(alias, tb[IFLA_IFALIAS], sizeof(alias));
	snprintf(key, sizeof(key), "%d", ((struct ifinfomsg *)NLMSG_DATA(hdr))->ifi_index);
	json_object_set_new(s->links, key, json_pack("{s:s, s:s}", "name", name, "alias", alias));
	return 0;
}

static void look_at_links(struct search *s)
{
	const json_t *l;
	const char *key;

	json_object_foreach(s->links, key, l) {
		const char *name = json_string_value(json_object_get(l, "name"));
		_cleanup_strbuf_ struct strbuf fix = {0}, what = {0};
		size_t len;
		const char *run = change_tag_run(json_string_value(json_object_get(l, "alias")), &len);

		if (!run || known(s, run, len))
			continue;
		strbuf_addf(&what, "link %s", name);
		add_command(s, &fix, "ip");
		strbuf_puts(&fix, " link del ");
		strbuf_add_shell(&fix, name);
		add(s, strbuf_cstr(&what), run, len, strbuf_cstr(&fix));
	}
}

static int clsact_cb(const struct tc_obj *o, void *arg)
{
	struct search *s = arg;

	if (!o)
		json_array_clear(s->clsacts);
	else if (o->parent == TC_H_CLSACT)
		json_array_append_new(s->clsacts, json_integer(o->ifindex));
	return 0;
}

static int filter_cb(const struct tc_obj *o, void *arg)
{
	struct search *s = arg;
	_cleanup_strbuf_ struct strbuf fix = {0}, what = {0};
	const struct nlattr *a;
	const char *run, *dev;
	char name[256], key[16];
	size_t len;

	if (!o || !o->handle || !streq(o->kind, "bpf") || !o->options)
		return 0; /* a dump that starts over may name one twice */
	a = nla_find(o->options, (int)o->options_len, TCA_BPF_NAME);
	if (!a)
		return 0;
	nla_strlcpy(name, a, sizeof(name));
	run = change_tag_run(name, &len);
	if (!run || known(s, run, len))
		return 0;
	snprintf(key, sizeof(key), "%d", s->ifindex);
	dev = json_string_value(json_object_get(json_object_get(s->links, key), "name"));
	strbuf_addf(&what, "tc filter on %s %s", dev ? dev : key, s->hook == TC_H_MIN_INGRESS ? "ingress" : "egress");
	add_command(s, &fix, "tc");
	strbuf_puts(&fix, " filter del dev ");
	strbuf_add_shell(&fix, dev ? dev : key);
	strbuf_addf(&fix, " %s pref %u handle 0x%x bpf", s->hook == TC_H_MIN_INGRESS ? "ingress" : "egress", o->info >> 16, o->handle);
	add(s, strbuf_cstr(&what), run, len, strbuf_cstr(&fix));
	return 0;
}

static void look_at_filters(struct search *s)
{
	static const uint32_t hooks[] = {TC_H_MIN_INGRESS, TC_H_MIN_EGRESS};
	const json_t *j;
	size_t i;

	if (tc_dump(s->nl, RTM_GETQDISC, 0, 0, clsact_cb, s, NULL) < 0)
		return;
	json_array_foreach(s->clsacts, i, j) {
		for (size_t k = 0; k < ARRAY_SIZE(hooks); k++) {
			s->ifindex = (int)json_integer_value(j);
			s->hook = hooks[k];
			(void)tc_dump(s->nl, RTM_GETTFILTER, s->ifindex, TC_H_MAKE(TC_H_CLSACT, hooks[k]), filter_cb, s, NULL);
		}
	}
}

/* "muster-HASH-NUMBER" */
static void look_at_sets(struct search *s, const struct node *n)
{
	static const char head[] = CHANGE_TAG "-";
	_cleanup_json_ json_t *sets = NULL;
	const char *name;
	json_t *refs;

	if (sets_supported(n, NULL) < 0 || sets_list(n, &sets, NULL) < 0)
		return;
	json_object_foreach(sets, name, refs) {
		const char *hash = name + strlen(head);
		_cleanup_strbuf_ struct strbuf fix = {0};
		_cleanup_free_ char *what = NULL;

		if (strncmp(name, head, strlen(head)) != 0 || strspn(hash, "0123456789abcdef") != 12 || hash[12] != '-' ||
			known_hash(s, hash))
			continue;
		what = strf("IP set %s", name);
		if (!streq(s->where, "host")) {
			strbuf_puts(&fix, "ip netns exec ");
			strbuf_add_shell(&fix, s->where);
			strbuf_puts(&fix, " ");
		}
		strbuf_puts(&fix, "ipset destroy ");
		strbuf_add_shell(&fix, name);
		if (what)
			add(s, what, NULL, 0, strbuf_cstr(&fix));
	}
}

static int look_in(struct search *s, const char *where, const char *path, struct err *err)
{
	_cleanup_node_ struct node *n = node_new(where, path);
	struct nl_msg *m = nlmsg_alloc_simple(RTM_GETLINK, 0);
	struct ifinfomsg ifi = {.ifi_family = AF_UNSPEC};
	int r = n && m && nlmsg_append(m, &ifi, sizeof(ifi), NLMSG_ALIGNTO) == 0 ? node_open(n, err) : -ENOMEM;

	if (r == 0)
		r = nlc_open(n, NETLINK_ROUTE, &s->nl, err);
	if (r < 0) {
		nlmsg_free(m);
		return r;
	}
	s->where = where;
	s->links = json_object();
	s->clsacts = json_array();
	r = nlc_dump(s->nl, m, link_cb, s, err);
	if (r == 0) {
		look_at_links(s);
		look_at_filters(s);
		look_at_sets(s, n);
	}
	json_decref(TAKE_PTR(s->links));
	json_decref(TAKE_PTR(s->clsacts));
	nlc_close(TAKE_PTR(s->nl));
	return r;
}

int cli_stray_find(json_t **ret, struct err *err)
{
	struct search s = {.found = json_array()};
	struct dirent *e;
	DIR *d;
	int r = s.found ? journal_list(&s.runs, &s.n_runs, err) : -ENOMEM;

	if (r < 0) {
		json_decref(s.found);
		return r;
	}
	s.busy = guard_lock_holder(&s.holder) > 0;
	r = look_in(&s, "host", NULL, err);
	d = r == 0 ? opendir(NETNS_DIR) : NULL;
	while (d && (e = readdir(d))) {
		_cleanup_free_ char *path = strf(NETNS_DIR "/%s", e->d_name);

		/* one that goes meanwhile, or stands for nothing, has nothing in it */
		if (e->d_name[0] != '.' && path)
			(void)look_in(&s, e->d_name, path, NULL);
	}
	if (d)
		closedir(d);
	journal_list_free(s.runs, s.n_runs);
	if (r < 0)
		json_decref(s.found);
	else
		*ret = s.found;
	return r;
}
