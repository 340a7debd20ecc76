/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/change.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

const struct change_ops *change_find(const char *name)
{
	for (const struct change_ops *const *c = change_table; *c; c++)
		if (streq((*c)->name, name))
			return *c;
	return NULL;
}

void change_command_prefix(const struct node *n, struct strbuf *b)
{
	_cleanup_free_ char *word = n->netns ? strf("--net=%s", n->netns) : NULL;

	if (!n->netns)
		return;
	strbuf_puts(b, "nsenter ");
	strbuf_add_shell(b, word ? word : "");
	strbuf_puts(b, " ");
}

const char *change_class_name(enum change_class c)
{
	static const char *const names[] = {"ttl", "volatile", "durable", "one-way"};

	return names[c];
}

/* ── the run ───────────────────────────────────────────────────────────────────────────────── */

static char run_tag[CHANGE_TAG_MAX] = CHANGE_TAG, run_tag_short[CHANGE_TAG_SHORT_MAX] = CHANGE_TAG;
static _Atomic nsec_t run_deadline;

void change_tag_short(const char *run_id, char ret[CHANGE_TAG_SHORT_MAX])
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, folded to 48 bits */

	for (const char *p = run_id; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3u;
	h ^= h >> 48;
	snprintf(ret, CHANGE_TAG_SHORT_MAX, "mu_%012llx", (unsigned long long)(h & 0xffffffffffffu));
}

void change_run_begin(const char *run_id)
{
	snprintf(run_tag, sizeof(run_tag), CHANGE_TAG ":%s", run_id);
	change_tag_short(run_id, run_tag_short);
}

const char *change_run_tag(void)
{
	return run_tag;
}

const char *change_run_tag_short(void)
{
	return run_tag_short;
}

const char *change_tag_run(const char *tag, size_t *ret_len)
{
	size_t n = strlen(CHANGE_TAG);

	if (strncmp(tag, CHANGE_TAG ":", n + 1) != 0)
		return NULL;
	tag += n + 1;
	*ret_len = strcspn(tag, " /");
	return *ret_len ? tag : NULL;
}

nsec_t change_run_deadline(void)
{
	return atomic_load(&run_deadline);
}

void change_run_set_deadline(nsec_t drill_deadline)
{
	atomic_store(&run_deadline, drill_deadline ? drill_deadline + CHANGE_DEADLINE_MARGIN : 0);
}
