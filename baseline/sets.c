/* SPDX-License-Identifier: GPL-2.0-only */
#include "baseline/sets.h"

#include <arpa/inet.h>
#include <libipset/ipset.h>
#include <libipset/linux_ip_set_hash.h>
#include <linux/netfilter/nfnetlink.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/nl.h"
#include "engine/nl_batch.h"
#include "engine/units.h"

const char *const sets_type_names[SETS_TYPE_COUNT + 1] = {
	[SETS_HASH_IP] = "hash:ip",
	[SETS_HASH_NET] = "hash:net",
	[SETS_HASH_IP_PORT] = "hash:ip,port",
	[SETS_TYPE_COUNT] = NULL,
};

bool sets_valid_name(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && n < SETS_NAME_MAX && name[0] != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:") ==
		       n;
}

/* ── members ──────────────────────────────────────────────────────────────────────────────── */

struct member {
	uint8_t addr[16];
	uint8_t prefix; /* hash:net */
	uint8_t proto;	/* hash:ip,port */
	uint16_t port;
};

static const struct {
	const char *name;
	uint8_t number;
} protos[] = {{"tcp", IPPROTO_TCP}, {"udp", IPPROTO_UDP}, {"sctp", IPPROTO_SCTP},
	{"udplite", IPPROTO_UDPLITE}};

static int parse_member(enum sets_type type, int family, const char *text, struct member *ret)
{
	int bits = family == AF_INET6 ? 128 : 32;
	struct member m = {.prefix = (uint8_t)bits};
	char host[INET6_ADDRSTRLEN];
	size_t len = strcspn(text, type == SETS_HASH_NET       ? "/"
				   : type == SETS_HASH_IP_PORT ? ","
							       : "");
	const char *rest = text + len;
	int64_t v;

	if (len >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = '\0';
	if (inet_pton(family, host, m.addr) != 1)
		return -EINVAL;
	if (type == SETS_HASH_NET && *rest) {
		if (units_int(rest + 1, 1, bits, &v) < 0)
			return -EINVAL;
		m.prefix = (uint8_t)v;
	}
	if (type == SETS_HASH_IP_PORT) {
		const char *colon = strchr(rest, ':');
		size_t i;

		if (!colon)
			return -EINVAL;
		for (i = 0; i < ARRAY_SIZE(protos); i++)
			if (strlen(protos[i].name) == (size_t)(colon - rest - 1) &&
				strncmp(protos[i].name, rest + 1, strlen(protos[i].name)) == 0)
				break;
		if (i == ARRAY_SIZE(protos) || units_int(colon + 1, 0, 65535, &v) < 0)
			return -EINVAL;
		m.proto = protos[i].number;
		m.port = (uint16_t)v;
	}
	/* the kernel keeps the network alone */
	for (int i = 0; i < bits / 8; i++) {
		int keep = m.prefix - i * 8;

		if (keep < 8)
			m.addr[i] &= (uint8_t)(keep <= 0 ? 0 : 0xff << (8 - keep));
	}
	*ret = m;
	return 0;
}

int sets_member(enum sets_type type, int family, const char *text, char ret[SETS_MEMBER_MAX])
{
	char host[INET6_ADDRSTRLEN];
	struct member m;
	int r = parse_member(type, family, text, &m);

	if (r < 0)
		return r;
	inet_ntop(family, m.addr, host, sizeof(host));
	if (type == SETS_HASH_NET && m.prefix < (family == AF_INET6 ? 128 : 32)) {
		snprintf(ret, SETS_MEMBER_MAX, "%s/%u", host, m.prefix);
	} else if (type == SETS_HASH_IP_PORT) {
		const char *proto = "";

		for (size_t i = 0; i < ARRAY_SIZE(protos); i++)
			if (protos[i].number == m.proto)
				proto = protos[i].name;
		snprintf(ret, SETS_MEMBER_MAX, "%s,%s:%u", host, proto, m.port);
	} else {
		snprintf(ret, SETS_MEMBER_MAX, "%s", host);
	}
	return 0;
}

/* ── libipset ─────────────────────────────────────────────────────────────────────────────── */

/* libipset has state of its own beside the session: one operation at a time */
static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;

struct output {
	struct strbuf text;
	size_t max;
	bool too_long, failed;
	char error[512];
};

static int take_output(struct ipset_session *s _unused_, void *p, const char *fmt, ...)
{
	struct output *o = p;
	char chunk[512], *more = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(chunk, sizeof(chunk), fmt, ap);
	va_end(ap);
	if (n < 0)
		return -1;
	if ((size_t)n >= sizeof(chunk)) {
		va_start(ap, fmt);
		n = vasprintf(&more, fmt, ap);
		va_end(ap);
		if (n < 0)
			return -1;
	}
	if (o->text.len + (size_t)n > o->max)
		o->too_long = true;
	else
		strbuf_add(&o->text, more ? more : chunk, (size_t)n);
	free(more);
	return 0;
}

static void note(struct output *o, const char *text)
{
	size_t n = strcspn(text, "\n");

	if (!o->failed)
		snprintf(o->error, sizeof(o->error), "%.*s", (int)n, text);
	o->failed = true;
}

/* Misuse and syntax. "No problem" is a way to say it, too. */
static int take_custom_error(struct ipset *set _unused_, void *p, int status, const char *msg, ...)
{
	char text[512];
	va_list ap;

	if (status == IPSET_NO_PROBLEM || !msg)
		return 0;
	va_start(ap, msg);
	vsnprintf(text, sizeof(text), msg, ap);
	va_end(ap);
	note(p, text);
	return -1;
}

/* What the kernel said */
static int take_standard_error(struct ipset *set, void *p)
{
	struct ipset_session *s = ipset_session(set);

	if (ipset_session_report_type(s) != IPSET_WARNING)
		note(p, ipset_session_report_msg(s));
	ipset_session_report_reset(s);
	return -1;
}

/*
 * Either a line or a text to restore; output goes to @o. Called in the node's namespace, with the lock
 * held.
 */
static int run_library(const char *line, const char *text, struct output *o)
{
	_cleanup_free_ char *copy = strdup(line ? line : text);
	struct ipset *set;
	int r = 0;

	if (!copy)
		return -ENOMEM;
	ipset_load_types();
	set = ipset_init();
	if (!set)
		return -ENOMEM;
	ipset_custom_printf(set, take_custom_error, take_standard_error, take_output, o);
	ipset_session_output(ipset_session(set), IPSET_LIST_SAVE);
	if (line) {
		r = ipset_parse_line(set, copy);
	} else {
		FILE *f = fmemopen(copy, strlen(copy), "r");

		if (!f) {
			r = -ENOMEM;
		} else {
			r = ipset_parse_stream(set, f);
			fclose(f);
		}
	}
	if (ipset_session_report_type(ipset_session(set)) >= IPSET_NOTICE)
		note(o, ipset_session_report_msg(ipset_session(set)));
	/* a return code that nobody explained still is a failure */
	if (r < 0 && !o->failed)
		note(o, "libipset gave no reason");
	ipset_fini(set);
	return r == -ENOMEM ? r : 0;
}

static int with_library(
	const struct node *n, const char *line, const char *text, struct output *o, struct err *err)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	int r = node_enter(n, &v, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&library);
	r = run_library(line, text, o);
	pthread_mutex_unlock(&library);
	if (r < 0 || o->text.oom)
		return err_set(err, -ENOMEM, "out of memory");
	if (o->failed)
		return err_set(err, -EINVAL, "%s", o->error);
	if (o->too_long)
		return err_set(err, -EFBIG, "its text is longer than %zu KiB", o->max / 1024);
	return 0;
}

/* ── straight to the kernel ───────────────────────────────────────────────────────────────── */

/* The set code's own numbers, past all errnos: as an errno that comes near, and in words */
static int set_error(int r, struct err *err)
{
	static const struct {
		int number, near;
		const char *text;
	} known[] = {
		{IPSET_ERR_PROTOCOL, -EPROTO, "the kernel speaks another protocol version"},
		{IPSET_ERR_FIND_TYPE, -EOPNOTSUPP, "this kernel has no sets of that type"},
		{IPSET_ERR_MAX_SETS, -ENOSPC, "there are as many sets as the kernel allows"},
		{IPSET_ERR_BUSY, -EBUSY, "a rule or another set refers to it"},
		{IPSET_ERR_EXIST_SETNAME2, -ENOENT, "the other set does not exist"},
		{IPSET_ERR_TYPE_MISMATCH, -EINVAL, "the two sets differ in type or family"},
		{IPSET_ERR_EXIST, -EEXIST, "the member is there already"},
		{IPSET_ERR_REFERENCED, -EBUSY, "a rule or another set refers to it"},
		{IPSET_ERR_HASH_FULL, -ENOSPC, "the set is full (maxelem)"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (r == -known[i].number)
			return err_set(err, known[i].near, "%s", known[i].text);
	if (r < -4095)
		return err_set(err, -EINVAL, "the kernel's set error %d", -r);
	return r;
}

static struct nl_msg *new_msg(uint8_t cmd, int flags, int family, const char *name, size_t size)
{
	const struct nfgenmsg g = {.nfgen_family = (uint8_t)family, .version = NFNETLINK_V0};
	struct nl_msg *m = nlmsg_alloc_size(size);

	if (m && (!nlmsg_put(m, NL_AUTO_PORT, NL_AUTO_SEQ, (NFNL_SUBSYS_IPSET << 8) | cmd, 0,
			  NLM_F_REQUEST | flags) ||
			 nlmsg_append(m, (void *)&g, sizeof(g), NLMSG_ALIGNTO) < 0 ||
			 nla_put_u8(m, IPSET_ATTR_PROTOCOL, IPSET_PROTOCOL_MIN) < 0 ||
			 (name && nla_put_string(m, IPSET_ATTR_SETNAME, name) < 0))) {
		nlmsg_free(m);
		m = NULL;
	}
	return m;
}

static int ignore_reply(struct nlmsghdr *h _unused_, void *arg _unused_)
{
	return 0;
}

static int request(
	const struct node *n, uint8_t cmd, const char *name, const char *name2, struct err *err)
{
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct nl_msg *m;
	int r = nlc_open(n, NETLINK_NETFILTER, &nl, err);

	if (r < 0)
		return r;
	/* without "exclusive" the kernel takes the absence of what is to be destroyed for success */
	m = new_msg(cmd, cmd == IPSET_CMD_DESTROY ? NLM_F_EXCL : 0, AF_INET, name, 512);
	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	if (name2 && nla_put_string(m, IPSET_ATTR_SETNAME2, name2) < 0) {
		nlmsg_free(m);
		return err_set(err, -ENAMETOOLONG, "set name \"%.40s\"", name2);
	}
	return set_error(nlc_get(nl, m, ignore_reply, NULL, err), err);
}

static int named(const struct node *n, const char *name, int r, struct err *err)
{
	if (r < 0)
		err_prefix(err, "ipset %s on %s", name, n->name);
	return r;
}

int sets_supported(const struct node *n, struct err *err)
{
	int r = request(n, IPSET_CMD_PROTOCOL, NULL, NULL, err);

	/* nfnetlink knows no such subsystem */
	if (r == -EINVAL || r == -EOPNOTSUPP) {
		err_set(err, -EOPNOTSUPP,
			"ipset on %s: this kernel has no IP sets, or their module is not loaded",
			n->name);
		err_hint(err,
			"modprobe ip_set; where that fails (CONFIG_IP_SET), run with --lab vm");
		return -EOPNOTSUPP;
	}
	if (r < 0)
		err_prefix(err, "ipset on %s", n->name);
	return r;
}

int sets_exists(const struct node *n, const char *name, struct err *err)
{
	struct err e = {0};
	int r = request(n, IPSET_CMD_HEADER, name, NULL, &e);

	if (r == -ENOENT)
		return 0;
	if (r < 0) {
		if (err)
			*err = e;
		return named(n, name, r, err);
	}
	return 1;
}

static int list_cb(struct nlmsghdr *hdr, void *arg)
{
	struct nlattr *tb[IPSET_ATTR_CMD_MAX + 1], *refs;
	char name[SETS_NAME_MAX];
	json_int_t n = 0;

	if (!hdr) {
		json_object_clear(arg);
		return 0;
	}
	if (nlmsg_parse(hdr, sizeof(struct nfgenmsg), tb, IPSET_ATTR_CMD_MAX, NULL) < 0 || !tb[IPSET_ATTR_SETNAME])
		return 0;
	nla_strlcpy(name, tb[IPSET_ATTR_SETNAME], sizeof(name));
	refs = tb[IPSET_ATTR_DATA] ? nla_find(nla_data(tb[IPSET_ATTR_DATA]), nla_len(tb[IPSET_ATTR_DATA]),
					     IPSET_ATTR_REFERENCES) :
				     NULL;
	if (refs && nla_len(refs) >= 4)
		n = ntohl(nla_get_u32(refs));
	return json_object_set_new(arg, name, json_integer(n)) < 0 ? -ENOMEM : 0;
}

int sets_list(const struct node *n, json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *list = json_object();
	_cleanup_nlc_ struct nlc *nl = NULL;
	struct nl_msg *m;
	int r = list ? nlc_open(n, NETLINK_NETFILTER, &nl, err) : -ENOMEM;

	if (r < 0)
		return r;
	m = new_msg(IPSET_CMD_LIST, 0, AF_INET, NULL, 512);
	if (!m || nla_put_u32(m, IPSET_ATTR_FLAGS | NLA_F_NET_BYTEORDER, htonl(IPSET_FLAG_LIST_HEADER)) < 0) {
		nlmsg_free(m);
		return err_set(err, -ENOMEM, "out of memory");
	}
	r = set_error(nlc_dump(nl, m, list_cb, list, err), err);
	if (r < 0)
		return named(n, "list", r, err);
	*ret = TAKE_PTR(list);
	return 0;
}

int sets_save(const struct node *n, const char *name, size_t max, char **ret, struct err *err)
{
	struct output o = {.max = max};
	char line[64];
	int r;

	if (name) {
		/* libipset's answer for "no such set" cannot be told from others */
		r = sets_exists(n, name, err);
		if (r == 0)
			return err_set(err, -ENOENT, "ipset %s on %s: there is no such set", name,
				n->name);
		if (r < 0)
			return r;
	}
	snprintf(line, sizeof(line), "save%s%s", name ? " " : "", name ? name : "");
	r = with_library(n, line, NULL, &o, err);
	if (r == 0) {
		strbuf_add(&o.text, "", 0);
		*ret = TAKE_PTR(o.text.s);
		if (!*ret)
			r = err_set(err, -ENOMEM, "out of memory");
	}
	strbuf_free(&o.text);
	return named(n, name ? name : "save", r, err);
}

int sets_restore(const struct node *n, const char *text, struct err *err)
{
	struct output o = {.max = SETS_TEXT_MAX};
	int r = with_library(n, NULL, text, &o, err);

	strbuf_free(&o.text);
	return named(n, "restore", r, err);
}

/* A bucket of the kernel's table has room for up to 12 members, and grows by 4: with fewer in each it neither grows nor is the table doubled. */
#define BUCKET_MEMBERS 4

int sets_create(const struct node *n, const char *name, enum sets_type type, int family,
	unsigned int maxelem, long timeout, size_t expected, struct err *err)
{
	struct output o = {.max = SETS_TEXT_MAX};
	char line[256], life[40] = "", size[40] = "";
	size_t buckets = 1024; /* the kernel's own */
	int r;

	while (buckets * BUCKET_MEMBERS < expected)
		buckets *= 2;
	if (buckets > 1024)
		snprintf(size, sizeof(size), " hashsize %zu", buckets);

	if (timeout >= 0)
		snprintf(life, sizeof(life), " timeout %ld", timeout);
	snprintf(line, sizeof(line), "create %s %s family %s maxelem %u%s%s", name,
		sets_type_names[type], family == AF_INET6 ? "inet6" : "inet", maxelem, size, life);
	r = with_library(n, line, NULL, &o, err);
	strbuf_free(&o.text);
	return named(n, name, r, err);
}

static int put_member(
	struct nl_msg *m, enum sets_type type, int family, const struct member *x, uint32_t lineno)
{
	struct nlattr *data = nla_nest_start(m, IPSET_ATTR_DATA), *ip;
	int len = family == AF_INET6 ? 16 : 4;

	if (!data)
		return -EMSGSIZE;
	ip = nla_nest_start(m, IPSET_ATTR_IP);
	if (!ip || nla_put(m,
			   (family == AF_INET6 ? IPSET_ATTR_IPADDR_IPV6 : IPSET_ATTR_IPADDR_IPV4) |
				   NLA_F_NET_BYTEORDER,
			   len, x->addr) < 0)
		return -EMSGSIZE;
	nla_nest_end(m, ip);
	if (nla_put_u32(m, IPSET_ATTR_CADT_LINENO | NLA_F_NET_BYTEORDER, htonl(lineno)) < 0)
		return -EMSGSIZE;
	if (type == SETS_HASH_NET && nla_put_u8(m, IPSET_ATTR_CIDR, x->prefix) < 0)
		return -EMSGSIZE;
	if (type == SETS_HASH_IP_PORT &&
		(nla_put_u16(m, IPSET_ATTR_PORT | NLA_F_NET_BYTEORDER, htons(x->port)) < 0 ||
			nla_put_u8(m, IPSET_ATTR_PROTO, x->proto) < 0))
		return -EMSGSIZE;
	nla_nest_end(m, data);
	return 0;
}

/*
 * Members that fit one message of the size that a batch takes, with room to spare: none is longer than 72
 * bytes
 */
#define MEMBERS_A_MESSAGE 800

int sets_add(const struct node *n, const char *name, enum sets_type type, int family,
	const char *const *members, size_t count, struct err *err)
{
	_cleanup_nl_batch_ struct nl_batch *b = NULL;
	int r = nl_batch_open(n, NETLINK_NETFILTER, &b, err);

	for (size_t i = 0; r == 0 && i < count;) {
		struct nl_msg *m = new_msg(IPSET_CMD_ADD, 0, family, name, NL_BATCH_BYTES);
		struct nlattr *adt;

		if (!m)
			return err_set(err, -ENOMEM, "out of memory");
		/*
		 * the outer line number is there to be found in an error's echo: the kernel writes the
		 * failing one into it
		 */
		adt = nla_put_u32(m, IPSET_ATTR_LINENO, 0) < 0 ? NULL
							       : nla_nest_start(m, IPSET_ATTR_ADT);
		r = adt ? 0 : -EMSGSIZE;
		for (size_t k = 0; r == 0 && k < MEMBERS_A_MESSAGE && i < count; k++, i++) {
			struct member x;

			r = parse_member(type, family, members[i], &x);
			if (r == 0)
				r = put_member(m, type, family, &x, (uint32_t)i + 1);
		}
		if (r < 0) {
			nlmsg_free(m);
			return named(n, name,
				err_set(err, r, "member \"%.60s\": %s", members[MIN(i, count - 1)],
					strerror(-r)),
				err);
		}
		nla_nest_end(m, adt);
		r = nl_batch_add(b, m, err);
	}
	if (r == 0)
		r = nl_batch_flush(b, err);
	return named(n, name, set_error(r, err), err);
}

int sets_swap(const struct node *n, const char *a, const char *b, struct err *err)
{
	int r = request(n, IPSET_CMD_SWAP, a, b, err);

	if (r < 0)
		err_prefix(err, "ipset on %s: swapping %s and %s", n->name, a, b);
	return r;
}

int sets_destroy(const struct node *n, const char *name, struct err *err)
{
	int r = request(n, IPSET_CMD_DESTROY, name, NULL, err);

	if (r < 0)
		err_prefix(err, "ipset on %s: destroying %s", n->name, name);
	return r;
}

/* ── texts ────────────────────────────────────────────────────────────────────────────────── */

void sets_clear(struct sets_set *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->elems[i].text);
	free(s->elems);
	free(s->header);
	*s = (struct sets_set){0};
}

/* The next word of a line, quoted text (comments) being one; NULL at its end */
static const char *next_word(const char **p, const char *end, size_t *ret_len)
{
	const char *word;
	bool quoted = false;

	while (*p < end && **p == ' ')
		(*p)++;
	word = *p;
	while (*p < end && (quoted || **p != ' ')) {
		if (**p == '"')
			quoted = !quoted;
		(*p)++;
	}
	*ret_len = (size_t)(*p - word);
	return *ret_len ? word : NULL;
}

static bool is_word(const char *w, size_t n, const char *s)
{
	return n == strlen(s) && memcmp(w, s, n) == 0;
}

static long to_number(const char *w, size_t n)
{
	char buf[24];

	if (!w || n >= sizeof(buf))
		return 0;
	memcpy(buf, w, n);
	buf[n] = '\0';
	return strtol(buf, NULL, 10);
}

/*
 * Copies an "add" line's words, leaving out the counters, and the time-out too unless @timeout is given,
 * which then is written in its place. *ret_timeout: what it said, -1 nothing.
 */
static void add_elem_words(
	struct strbuf *b, const char *p, const char *end, const long *timeout, long *ret_timeout)
{
	const char *w;
	bool first = true;
	size_t n;

	*ret_timeout = -1;
	while ((w = next_word(&p, end, &n))) {
		if (is_word(w, n, "timeout")) {
			w = next_word(&p, end, &n);
			*ret_timeout = to_number(w, n);
			if (timeout)
				strbuf_addf(b, " timeout %ld", *timeout);
			continue;
		}
		if (!timeout && (is_word(w, n, "packets") || is_word(w, n, "bytes"))) {
			next_word(&p, end, &n);
			continue;
		}
		if (!first)
			strbuf_puts(b, " ");
		strbuf_add(b, w, n);
		first = false;
	}
}

/* "VERB NAME rest": the start of the rest, or NULL when the line is another one */
static const char *line_of(const char *line, const char *end, const char *verb, const char *name)
{
	const char *p = line, *w;
	size_t n;

	w = next_word(&p, end, &n);
	if (!w || !is_word(w, n, verb))
		return NULL;
	w = next_word(&p, end, &n);
	if (!w || !is_word(w, n, name))
		return NULL;
	return p < end ? p + 1 : p;
}

static int compare_elems(const void *a, const void *b)
{
	return strcmp(((const struct sets_elem *)a)->text, ((const struct sets_elem *)b)->text);
}

int sets_parse(const char *text, const char *name, struct sets_set *ret)
{
	struct sets_set s = {0};
	size_t room = 0;
	int r = 0;

	for (const char *line = text, *end; r == 0 && *line; line = *end ? end + 1 : end) {
		const char *rest;

		end = line + strcspn(line, "\n");
		rest = line_of(line, end, "create", name);
		if (rest) {
			/* the kernel ends it with a blank for some types */
			while (end > rest && end[-1] == ' ')
				end--;
			free(s.header);
			s.header = strndup(rest, (size_t)(end - rest));
			if (!s.header)
				r = -ENOMEM;
			end += strcspn(end, "\n");
			continue;
		}
		rest = line_of(line, end, "add", name);
		if (!rest)
			continue;
		if (s.n == room) {
			struct sets_elem *v = reallocarray(
				s.elems, room ? room * 2 : 64, sizeof(*v));

			if (!v) {
				r = -ENOMEM;
				break;
			}
			s.elems = v;
			room = room ? room * 2 : 64;
		}
		{
			struct strbuf b = {0};
			long timeout;

			add_elem_words(&b, rest, end, NULL, &timeout);
			strbuf_add(&b, "", 0);
			if (b.oom || !b.s) {
				strbuf_free(&b);
				r = -ENOMEM;
				break;
			}
			s.elems[s.n++] = (struct sets_elem){.text = b.s, .timeout = timeout};
		}
	}
	if (r == 0 && !s.header)
		r = -ENOENT;
	if (r < 0) {
		sets_clear(&s);
		return r;
	}
	if (s.n)
		qsort(s.elems, s.n, sizeof(*s.elems), compare_elems);
	*ret = s;
	return 0;
}

void sets_header(const char *header, char ret_type[SETS_NAME_MAX], int *ret_family,
	unsigned int *ret_maxelem, long *ret_timeout)
{
	const char *p = header, *end = header + strlen(header), *w;
	size_t n;

	w = next_word(&p, end, &n);
	snprintf(ret_type, SETS_NAME_MAX, "%.*s", (int)MIN(n, (size_t)SETS_NAME_MAX - 1),
		w ? w : "");
	*ret_family = AF_INET;
	*ret_maxelem = 65536;
	*ret_timeout = -1;
	while ((w = next_word(&p, end, &n))) {
		const char *key = w;
		size_t key_len = n;

		if (!is_word(key, key_len, "family") && !is_word(key, key_len, "maxelem") &&
			!is_word(key, key_len, "timeout"))
			continue;
		w = next_word(&p, end, &n);
		if (!w)
			break;
		if (is_word(key, key_len, "family"))
			*ret_family = is_word(w, n, "inet6") ? AF_INET6 : AF_INET;
		else if (is_word(key, key_len, "maxelem"))
			*ret_maxelem = (unsigned int)to_number(w, n);
		else
			*ret_timeout = to_number(w, n);
	}
}

bool sets_within(const struct sets_set *a, const struct sets_set *b, bool any)
{
	size_t i = 0;

	/* both are sorted: walk them together */
	for (size_t k = 0; k < b->n; k++) {
		if (i < a->n && streq(a->elems[i].text, b->elems[k].text))
			i++;
		else if (!any && b->elems[k].timeout <= 0)
			return false;
	}
	return i == a->n;
}

char *sets_renamed(const char *text, const char *name, const char *new_name, long elapsed)
{
	struct strbuf b = {0};

	for (const char *line = text, *end; *line; line = *end ? end + 1 : end) {
		const char *rest;

		end = line + strcspn(line, "\n");
		rest = line_of(line, end, "create", name);
		if (rest) {
			strbuf_addf(&b, "create %s %.*s\n", new_name, (int)(end - rest), rest);
			continue;
		}
		rest = line_of(line, end, "add", name);
		if (rest) {
			struct strbuf words = {0};
			long timeout, left;

			add_elem_words(&words, rest, end, NULL, &timeout);
			strbuf_free(&words);
			left = timeout - elapsed;
			if (timeout > 0 && left <= 0)
				continue; /* it would be gone by now */
			if (timeout <= 0)
				left = timeout;
			add_elem_words(&words, rest, end, &left, &timeout);
			strbuf_addf(&b, "add %s %s\n", new_name, strbuf_cstr(&words));
			if (words.oom)
				b.oom = true;
			strbuf_free(&words);
		}
	}
	strbuf_add(&b, "", 0);
	if (b.oom)
		strbuf_free(&b);
	return b.s;
}
