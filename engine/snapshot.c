/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/snapshot.h"

#include <ctype.h>
#include <fcntl.h>
#include <netlink/attr.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define UNREADABLE " ! could not be read: "

/* ── for the subjects ──────────────────────────────────────────────────────────────────────── */

int snapshot_read(int dir_fd, const char *path, char ret[SNAPSHOT_VALUE_MAX])
{
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char text[SNAPSHOT_VALUE_MAX];
	size_t len = 0, out = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	for (;;) {
		n = read(fd, text + len, sizeof(text) - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		len += (size_t)n;
		if (len == sizeof(text))
			return -EFBIG;
		/* a control file gives all it has at once; a third of all system calls would go to hear that there is no more */
		if (n == 0 || len < sizeof(text) / 2)
			break;
	}
	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (c == '\0' || isspace((unsigned char)c)) {
			if (out && ret[out - 1] != ' ')
				ret[out++] = ' ';
		} else {
			ret[out++] = c;
		}
	}
	if (out && ret[out - 1] == ' ')
		out--;
	ret[out] = '\0';
	return 0;
}

void snapshot_fact(struct strbuf *b, int dir_fd, const char *path, const char *head, ...)
{
	char text[SNAPSHOT_VALUE_MAX], name[1024];
	int r = snapshot_read(dir_fd, path, text);
	va_list ap;

	if (r == -ENOENT || r == -EOPNOTSUPP || r == -ENODEV || r == -ESRCH)
		return;
	va_start(ap, head);
	vsnprintf(name, sizeof(name), head, ap);
	va_end(ap);
	if (r < 0)
		strbuf_addf(b, "%s" UNREADABLE "%s\n", name, strerror(-r));
	else
		strbuf_addf(b, "%s = %s\n", name, text);
}

void snapshot_word(struct strbuf *b, const char *name)
{
	for (; *name; name++) {
		unsigned char c = (unsigned char)*name;

		if (c > ' ' && c < 0x7f && c != '\\')
			strbuf_add(b, name, 1);
		else
			strbuf_addf(b, "\\x%02x", c);
	}
}

/* Attributes from one end to the other, and nothing else? */
static bool are_attrs(const uint8_t *p, size_t len)
{
	if (len < NLA_HDRLEN)
		return false;
	while (len >= NLA_HDRLEN) {
		struct nlattr a;

		memcpy(&a, p, sizeof(a));
		if (a.nla_len < NLA_HDRLEN || a.nla_len > len || (a.nla_type & NLA_TYPE_MASK) > 255)
			return false;
		if ((size_t)NLA_ALIGN(a.nla_len) >= len)
			return true;
		p += NLA_ALIGN(a.nla_len);
		len -= NLA_ALIGN(a.nla_len);
	}
	return false;
}

static bool is_text(const uint8_t *p, size_t len)
{
	if (len < 3 || p[len - 1] != '\0')
		return false;
	for (size_t i = 0; i + 1 < len; i++)
		if (p[i] <= ' ' || p[i] >= 0x7f || p[i] == '"')
			return false;
	return true;
}

void snapshot_attrs(struct strbuf *b, const void *data, size_t len, const int *without)
{
	const uint8_t *p = data;

	while (len >= NLA_HDRLEN) {
		size_t n, step;
		struct nlattr a;
		const int *no;
		int type;

		memcpy(&a, p, sizeof(a));
		if (a.nla_len < NLA_HDRLEN || a.nla_len > len)
			break;
		type = a.nla_type & NLA_TYPE_MASK;
		n = a.nla_len - (size_t)NLA_HDRLEN;
		step = MIN((size_t)NLA_ALIGN(a.nla_len), len);
		for (no = without; no && *no && *no != type; no++)
			;
		if (!no || !*no) {
			const uint8_t *v = p + NLA_HDRLEN;

			strbuf_addf(b, " %d=", type);
			if (is_text(v, n)) {
				strbuf_addf(b, "\"%s\"", (const char *)v);
			} else if (are_attrs(v, n)) {
				strbuf_puts(b, "{");
				snapshot_attrs(b, v, n, NULL);
				strbuf_puts(b, " }");
			} else {
				for (size_t i = 0; i < n; i++)
					strbuf_addf(b, "%02x", v[i]);
			}
		}
		p += step;
		len -= step;
	}
}

/* ── taking ────────────────────────────────────────────────────────────────────────────────── */

/* The lines of a text, without their newlines; the text is cut up in place. Empty ones are left out. */
static int split(char *text, char ***ret, size_t *ret_n)
{
	size_t n = 0, room = 1;
	char **lines;

	for (const char *p = text; *p; p++)
		room += *p == '\n';
	lines = calloc(room, sizeof(*lines));
	if (!lines)
		return -ENOMEM;
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save))
		lines[n++] = line;
	*ret = lines;
	*ret_n = n;
	return 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort(char **lines, size_t n)
{
	if (n > 1)
		qsort(lines, n, sizeof(*lines), by_text);
}

/* What a subject said of a node, or why not, each line behind "NODE: " */
static int add_lines(const struct snapshot_ops *ops, const struct node *node, int r, struct strbuf *b, const struct err *why,
	struct strbuf *all, struct err *err)
{
	if (r == -ENOMEM || b->oom)
		return err_set(err, -ENOMEM, "snapshot of %s: out of memory", node->name);
	if (r < 0) {
		/* Half of it would look as if the rest were not there. */
		const char *reason = why->text[0] ? why->text : strerror(-r);

		strbuf_addf(all, "%s: %s" UNREADABLE "%.*s\n", node->name, ops->name,
			(int)strcspn(reason, "\n"), reason);
		return 0;
	}
	for (const char *p = strbuf_cstr(b); *p;) {
		size_t n = strcspn(p, "\n");

		if (n) {
			strbuf_puts(all, node->name);
			strbuf_puts(all, ": ");
			strbuf_add(all, p, n);
			strbuf_puts(all, "\n");
		}
		p += n + (p[n] == '\n');
	}
	return 0;
}

/* One subject of one node; @machine: and of the machine */
static int take_one(const struct snapshot_ops *ops, const struct node *node, bool machine, struct strbuf *all,
	struct err *err)
{
	int r = 0;

	if (ops->take) {
		_cleanup_strbuf_ struct strbuf b = {0};
		struct err why = {0};

		r = add_lines(ops, node, ops->take(node, &b, &why), &b, &why, all, err);
	}
	if (r == 0 && machine && ops->take_host) {
		_cleanup_strbuf_ struct strbuf b = {0};
		struct err why = {0};

		r = add_lines(ops, node, ops->take_host(&b, &why), &b, &why, all, err);
	}
	return r;
}

int snapshot_take_until(const struct node *const *nodes, size_t n, const atomic_bool *stop, char **ret, struct err *err)
{
	_cleanup_strbuf_ struct strbuf all = {0}, out = {0};
	_cleanup_free_ char **lines = NULL;
	bool machine_done = false;
	char none[1] = "";
	size_t n_lines;

	for (size_t i = 0; i < n; i++) {
		/* two nodes may both be the host: the machine is still one */
		bool machine = !nodes[i]->netns && !machine_done;

		machine_done |= machine;
		for (const struct snapshot_ops *const *ops = snapshot_table; *ops; ops++) {
			int r;

			if (stop && atomic_load(stop))
				return -ECANCELED;
			r = take_one(*ops, nodes[i], machine, &all, err);
			if (r < 0)
				return r;
		}
	}
	if (all.oom || split(all.s ? all.s : none, &lines, &n_lines) < 0)
		return err_set(err, -ENOMEM, "snapshot: out of memory");
	sort(lines, n_lines);
	strbuf_puts(&out, "");
	for (size_t i = 0; i < n_lines; i++) {
		strbuf_puts(&out, lines[i]);
		strbuf_puts(&out, "\n");
	}
	if (out.oom || !out.s)
		return err_set(err, -ENOMEM, "snapshot: out of memory");
	*ret = TAKE_PTR(out.s);
	return 0;
}

int snapshot_take(const struct node *const *nodes, size_t n, char **ret, struct err *err)
{
	return snapshot_take_until(nodes, n, NULL, ret, err);
}

/* ── comparing ─────────────────────────────────────────────────────────────────────────────── */

/* Length of "NODE: SUBJECT ~OBJECT"; 0: the line is not about an object that comes and goes by itself */
static size_t passing(const char *line)
{
	const char *p = strstr(line, ": ");

	if (p)
		p = strchr(p + 2, ' ');
	return p && p[1] == '~' ? (size_t)(p + 1 - line) + strcspn(p + 1, " ") : 0;
}

/* Does one of the sorted @lines begin with the @len bytes of @key, as whole words? */
static bool has_object(char *const *lines, size_t n, const char *key, size_t len)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (strncmp(lines[mid], key, len) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* "~1@2" sorts before "~1@23", and its lines before that one's: a blank sorts before every other character of a word */
	for (; lo < n && strncmp(lines[lo], key, len) == 0; lo++)
		if (lines[lo][len] == ' ' || lines[lo][len] == '\0')
			return true;
	return false;
}

static int add(json_t *diff, char sign, const char *line)
{
	_cleanup_free_ char *s = strf("%c %s", sign, line);
	json_t *j = s ? json_string(s) : NULL;

	/* a name in the kernel's tables need not be text */
	for (char *c = s; s && !j && *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	if (!j && s)
		j = json_string(s);
	return json_array_append_new(diff, j);
}

json_t *snapshot_diff(const char *before, const char *after)
{
	_cleanup_free_ char *b = strdup(before ? before : ""), *a = strdup(after ? after : "");
	_cleanup_free_ char **bl = NULL, **al = NULL;
	_cleanup_json_ json_t *diff = json_array();
	size_t nb, na, i = 0, k = 0;
	int r = 0;

	if (!a || !b || !diff || split(b, &bl, &nb) < 0 || split(a, &al, &na) < 0)
		return NULL;
	sort(bl, nb);
	sort(al, na);
	while (r == 0 && (i < nb || k < na)) {
		int c = i == nb ? 1 : k == na ? -1 : strcmp(bl[i], al[k]);

		if (c < 0) {
			size_t key = passing(bl[i]);

			if (!key || has_object(al, na, bl[i], key))
				r = add(diff, '-', bl[i]);
			i++;
		} else if (c > 0) {
			size_t key = passing(al[k]);

			if (!key || has_object(bl, nb, al[k], key))
				r = add(diff, '+', al[k]);
			k++;
		} else {
			/* Two pictures that show nothing are not equal: nobody has seen that it is as it was. */
			if (strstr(bl[i], UNREADABLE))
				r = add(diff, '?', bl[i]);
			i++;
			k++;
		}
	}
	return r < 0 ? NULL : TAKE_PTR(diff);
}

json_t *snapshot_count(const char *text)
{
	_cleanup_json_ json_t *counts = json_object();

	for (const char *line = text; counts && line && *line;) {
		size_t n = strcspn(line, "\n");
		const char *p = memmem(line, n, ": ", 2);

		if (p) {
			char name[32];
			size_t len;

			p += 2;
			len = strcspn(p, " \n");
			if (len < sizeof(name)) {
				memcpy(name, p, len);
				name[len] = '\0';
				if (json_object_set_new(counts, name,
					    json_integer(json_integer_value(json_object_get(counts, name)) + 1)) < 0)
					return NULL;
			}
		}
		line += n + (line[n] == '\n');
	}
	return TAKE_PTR(counts);
}
