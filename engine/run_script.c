/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/run_script.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/clock.h"
#include "engine/journal.h"
#include "engine/run_internal.h"

#define LEFT "# left: "

/* ── words ─────────────────────────────────────────────────────────────────────────────────── */

/* Into a comment, where a line end would end it, whatever its name says */
static void add_comment(struct strbuf *b, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		strbuf_add(b, iscntrl((unsigned char)text[i]) ? "?" : text + i, 1);
}

static void add_word(struct strbuf *b, const char *fmt, ...) _printf_(2, 3);
static void add_word(struct strbuf *b, const char *fmt, ...)
{
	_cleanup_free_ char *word = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&word, fmt, ap) < 0)
		word = NULL;
	va_end(ap);
	if (word)
		strbuf_add_shell(b, word);
	else
		b->oom = true;
}

size_t script_next(const char **p, const char **ret)
{
	const char *s = *p;
	char quote = '\0';
	size_t n;

	s += strspn(s, "\n");
	for (n = 0; s[n]; n++) {
		if (!quote && s[n] == '\n')
			break;
		if (n == 0 && s[n] == '#') { /* a comment has no quotes */
			n = strcspn(s, "\n");
			break;
		}
		if (s[n] == '\\' && quote != '\'' && s[n + 1])
			n++;
		else if (quote ? s[n] == quote : s[n] == '\'' || s[n] == '"')
			quote = quote ? '\0' : s[n];
	}
	*ret = s;
	*p = s + n;
	return n;
}

const char *script_left(const char *command, size_t len, size_t *ret_len)
{
	size_t skip = strlen(LEFT);

	if (len <= skip || strncmp(command, LEFT, skip) != 0)
		return NULL;
	*ret_len = len - skip;
	return command + skip;
}

/* ── the script ────────────────────────────────────────────────────────────────────────────── */

/* Words in single quotes for a shell that is started by a command are not meant to be expanded by this one. */
static const char lint[] = "# shellcheck disable=SC2016\n";

void script_begin(struct strbuf *b, const char *run_id, const char *file)
{
	strbuf_puts(b, "#!/bin/sh\n# Undoes run ");
	add_comment(b, run_id, strlen(run_id));
	strbuf_puts(b, " of ");
	add_comment(b, file, strlen(file));
	strbuf_addf(b,
		" with plain commands, last change first: for when\n"
		"# `muster restore %s` cannot. That one compares everything before it touches it; this one where it is cheap.\n"
		"#\n"
		"#	sh restore.sh [--force]\n"
		"#\n"
		"# --force: although the run's journal says that it has been undone, or that it still runs. May be run again.\n"
		"# Exit status: 0 all is undone; 1 not all, and it says what; 2 it did not begin.\n",
		run_id);
	strbuf_puts(b, lint);
	strbuf_puts(b, "set -u\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nLC_ALL=C\nexport PATH LC_ALL\n"
		       "exec </dev/null\nvolatile=");
	add_word(b, "%s/%s/undo.journal", journal_volatile_root, run_id);
	strbuf_puts(b, "\ndurable=");
	add_word(b, "%s/%s/undo.journal", journal_durable_root, run_id);
	strbuf_addf(b, "\nboot_id=%s\n", clock_boot_id());
	strbuf_puts(b,
		"failed=0 left=0\n"
		"\n"
		"refuse()\n"
		"{\n"
		"	echo \"restore.sh: $1; nothing was touched\" >&2\n"
		"	exit 2\n"
		"}\n"
		"\n"
		"# The rest is done, and in the end this counts.\n"
		"left()\n"
		"{\n"
		"	left=$((left + 1))\n"
		"	printf '  LEFT: %s\\n' \"$1\" >&2\n"
		"}\n"
		"\n"
		"# What does not outlive a boot need not be undone after it.\n"
		"same_boot()\n"
		"{\n"
		"	[ \"$(cat /proc/sys/kernel/random/boot_id)\" != \"$boot_id\" ] || return 0\n"
		"	echo '  nothing to undo: it ended with the boot that it was made in'\n"
		"	return 1\n"
		"}\n"
		"\n"
		"# PATH INODE: is the network namespace still the one that was changed?\n"
		"here()\n"
		"{\n"
		"	[ \"$(stat -L -c %i \"$1\" 2>/dev/null)\" != \"$2\" ] || return 0\n"
		"	printf '  nothing to undo: the network namespace %s is gone\\n' \"$1\"\n"
		"	return 1\n"
		"}\n"
		"\n"
		"# Does somebody hold the journal?\n"
		"held()\n"
		"{\n"
		"	inode=$(stat -c %i \"$volatile\" 2>/dev/null) && grep -qsE \": OFDLCK .*:$inode \" /proc/locks\n"
		"}\n"
		"\n"
		"[ \"$(id -u)\" = 0 ] || refuse 'it needs root'\n"
		"if [ \"${1-}\" != --force ]; then\n"
		"	if [ ! -e \"$volatile\" ] && [ ! -e \"$durable\" ]; then\n"
		"		echo 'restore.sh: nothing is left to undo: the run has no journal here any more; --force does it all the same'\n"
		"		exit 0\n"
		"	fi\n"
		"	if held && sleep 1 && held; then # who was killed just now may hold it for a moment more\n"
		"		refuse 'the run still goes on: muster halt ends it, or --force'\n"
		"	fi\n"
		"fi\n");
}

static void add_undo(struct strbuf *b, const char *undo)
{
	const char *p = undo, *line;
	size_t len, text_len;

	strbuf_puts(b, "	set -x\n");
	while ((len = script_next(&p, &line))) {
		const char *text = script_left(line, len, &text_len);

		strbuf_puts(b, "	");
		if (text) {
			_cleanup_free_ char *word = strndup(text, text_len);

			strbuf_puts(b, "left ");
			add_word(b, "%s", word ? word : "?");
			strbuf_puts(b, "\n");
			continue;
		}
		strbuf_add(b, line, len);
		strbuf_puts(b, line[0] == '#' ? "\n" : " || failed=$((failed + 1))\n");
	}
	strbuf_puts(b, "	{ set +x; } 2>/dev/null\n");
}

void script_change(struct strbuf *b, const struct change_ops *ops, const struct node *n, const json_t *args, const json_t *prior)
{
	bool durable = ops->class == CHANGE_DURABLE || ops->class == CHANGE_ONE_WAY;
	_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0};
	const char *conditions[2];
	_cleanup_strbuf_ struct strbuf here = {0};
	size_t c = 0;

	strbuf_puts(b, "\necho ");
	add_word(b, "%s on %s:", ops->name, n->name);
	strbuf_puts(b, "\n");
	if (!ops->command || ops->command(n, args, prior, &apply, &undo) < 0 || apply.oom || undo.oom) {
		strbuf_puts(b, "left ");
		add_word(b, "%s on %s: there are no plain commands for it", ops->name, n->name);
		strbuf_puts(b, "\n");
		return;
	}
	if (!durable)
		conditions[c++] = "same_boot";
	if (n->netns) {
		strbuf_puts(&here, "here ");
		strbuf_add_shell(&here, n->netns);
		strbuf_addf(&here, " %llu", (unsigned long long)n->netns_ino);
		conditions[c++] = strbuf_cstr(&here);
	}
	/* a condition always, for the sake of one form: durable and on the host it is `true` */
	strbuf_addf(b, "if %s%s%s; then\n", c ? conditions[0] : "true", c > 1 ? " && " : "", c > 1 ? conditions[1] : "");
	add_undo(b, strbuf_cstr(&undo));
	strbuf_puts(b, "fi\n");
}

void script_end(struct strbuf *b, const char *run_id)
{
	strbuf_addf(b,
		"\n"
		"if [ $((failed + left)) -gt 0 ]; then\n"
		"	echo \"restore.sh: NOT all is undone: $failed commands failed, $left things are left; both are named above\" >&2\n"
		"	exit 1\n"
		"fi\n"
		"echo 'restore.sh: all is undone; muster restore %s compares it once more and removes the journal'\n",
		run_id);
}

int script_write(const char *dir, const struct strbuf *b, bool sync, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/restore.sh", dir), *fresh = strf("%s/restore.sh.new", dir);
	_cleanup_close_ int fd = -1, dir_fd = -1;
	int r = 0;

	if (!path || !fresh || b->oom || !b->s)
		return err_set(err, -ENOMEM, "restore.sh: out of memory");
	/* its owner's alone: what starts a daemon again has that daemon's environment in it, and with it its secrets */
	fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
	r = fd < 0 ? -errno : fd_write_all(fd, b->s, b->len);
	if (r == 0 && sync && fdatasync(fd) < 0)
		r = -errno;
	if (r == 0 && rename(fresh, path) < 0)
		r = -errno;
	if (r == 0 && sync) {
		dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = dir_fd < 0 || fsync(dir_fd) < 0 ? -errno : 0;
	}
	if (r < 0) {
		(void)unlink(fresh);
		err_set(err, r, "write %s: %s", path, strerror(-r));
	}
	return r;
}

/* ── of a run ──────────────────────────────────────────────────────────────────────────────── */

/* Nothing left to undo, says the journal */
static bool settled(const struct journal_entry *e, size_t n, uint32_t seq)
{
	for (size_t i = 0; i < n; i++)
		if (e[i].seq == seq)
			return e[i].state == JOURNAL_DONE;
	return false;
}

static int write_script(struct run *r, const struct change *coming, struct err *err)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	const struct journal_entry *e;
	bool sync = false;
	size_t n;
	int k = journal_load(r->o->journal, &e, &n, err);

	if (k < 0)
		return k;
	script_begin(&b, r->o->id, r->plan->file);
	if (coming) {
		sync = coming->ops->class == CHANGE_DURABLE || coming->ops->class == CHANGE_ONE_WAY;
		script_change(&b, coming->ops, coming->node, coming->args, coming->prior);
	}
	for (size_t i = r->n_changes; i-- > 0;) {
		struct run_change *rc = r->changes[i];

		/* without a number it never came to its INTENT */
		if (!rc->c.seq || settled(e, n, rc->c.seq))
			continue;
		if (!rc->script) {
			_cleanup_strbuf_ struct strbuf one = {0};

			script_change(&one, rc->c.ops, rc->c.node, rc->c.args, rc->c.prior);
			rc->script = one.oom ? NULL : TAKE_PTR(one.s);
		}
		if (rc->script)
			strbuf_puts(&b, rc->script);
		else
			b.oom = true;
	}
	script_end(&b, r->o->id);
	return script_write(r->o->dir, &b, sync, err);
}

int run_script_intend(struct change *c, void *arg, struct err *err)
{
	return write_script(arg, c, err);
}

void run_script_update(struct run *r)
{
	/* what it says too much is found done already, and does no harm */
	(void)write_script(r, NULL, NULL);
}
