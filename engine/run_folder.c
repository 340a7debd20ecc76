/* SPDX-License-Identifier: GPL-2.0-only */
#include "engine/run_folder.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/clock.h"
#include "engine/guard.h"
#include "engine/journal.h"

char *run_folder_id(const struct plan *p)
{
	time_t t = (time_t)(wall_ns() / NSEC_PER_SEC);
	uint16_t tail = (uint16_t)now_ns();
	char when[32];
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(when, sizeof(when), "%Y%m%d-%H%M%S", &tm);
	(void)!getrandom(&tail, sizeof(tail), GRND_NONBLOCK);
	return strf("%s-%s-%04x", json_string_value(json_object_get(p->scenario, "name")), when, tail);
}

static int write_in(const char *dir, const char *name, const char *data, size_t len, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/%s", dir, name);
	int r = path ? file_write(path, data, len) : -ENOMEM;

	return r < 0 ? err_set(err, r, "write %s/%s: %s", dir, name, strerror(-r)) : 0;
}

int run_folder_make(const struct plan *p, const char *id, const char *out, char **ret_dir, struct err *err)
{
	_cleanup_free_ char *dir = out ? strdup(out) : strf(RUN_FOLDER_ROOT "/%s", id), *used = NULL, *plan_text = NULL;
	_cleanup_json_ json_t *plan = plan_to_json(p);
	int r;

	plan_text = plan ? json_dumps(plan, JSON_INDENT(1)) : NULL;
	used = dir ? strf("%s/timeline.jsonl", dir) : NULL;
	if (!used || !plan_text)
		return -ENOMEM;
	r = mkdir_p(dir);
	if (r < 0)
		return err_set(err, r, "make %s: %s", dir, strerror(-r));
	if (access(used, F_OK) == 0) {
		err_set(err, -EEXIST, "%s holds a run already", dir);
		return err_hint(err, "choose another folder for --out");
	}
	r = write_in(dir, "scenario.lua", p->text, p->text_len, err);
	if (r == 0)
		r = write_in(dir, "plan.json", plan_text, strlen(plan_text), err);
	if (r < 0)
		return r;
	*ret_dir = TAKE_PTR(dir);
	return 0;
}

int run_folder_find(const char *run, char **ret_dir, struct err *err)
{
	for (size_t i = strchr(run, '/') ? 0 : 1;; i--) {
		_cleanup_free_ char *dir = i ? strf(RUN_FOLDER_ROOT "/%s", run) : strdup(run);
		_cleanup_free_ char *plan = dir ? strf("%s/plan.json", dir) : NULL;

		if (!plan)
			return -ENOMEM;
		if (access(plan, F_OK) == 0) {
			*ret_dir = TAKE_PTR(dir);
			return 0;
		}
		if (i == 0)
			break;
	}
	if (!strchr(run, '/')) {
		_cleanup_free_ char *id = NULL, *dir = NULL;
		int r = run_id_find(run, RUN_FOLDER, &id, err);

		if (r < 0)
			return r;
		dir = strf(RUN_FOLDER_ROOT "/%s", id);
		if (!dir)
			return -ENOMEM;
		*ret_dir = TAKE_PTR(dir);
		return 0;
	}
	err_set(err, -ENOENT, "there is no run %s", run);
	return err_hint(err, "runs are folders in " RUN_FOLDER_ROOT ", or where --out said");
}

int run_folder_of(const char *id, char **ret_dir)
{
	_cleanup_free_ char *dir = strf(RUN_FOLDER_ROOT "/%s", id), *plan = strf("%s/plan.json", dir),
			    *lock = strf("%s/lock", journal_volatile_root), *text = NULL;
	char holder[160], folder[4096];

	if (!dir || !plan || !lock)
		return -ENOMEM;
	/* what the last guard wrote into the host's lock outlives it */
	if (access(plan, F_OK) < 0) {
		if (file_read(lock, 8192, &text, NULL) < 0 || sscanf(text, "%159s %*d %4095[^\n]", holder, folder) != 2 ||
			!streq(holder, id))
			return -ENOENT;
		free(dir);
		dir = strdup(folder);
		if (!dir)
			return -ENOMEM;
	}
	*ret_dir = TAKE_PTR(dir);
	return 0;
}

/* ── ids ───────────────────────────────────────────────────────────────────────────────────── */

struct ids {
	size_t n;
	char **id; /* ends with NULL */
};

static void ids_free(struct ids *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->id[i]);
	free(l->id);
}

static int ids_add(struct ids *l, const char *id)
{
	char **more;

	for (size_t i = 0; i < l->n; i++)
		if (streq(l->id[i], id))
			return 0;
	more = realloc(l->id, (l->n + 2) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	l->id = more;
	more[l->n] = strdup(id);
	more[l->n + 1] = NULL;
	return more[l->n] ? (l->n++, 0) : -ENOMEM;
}

static int ids_of_journals(struct ids *l, struct err *err)
{
	struct journal_found *found;
	size_t n;
	int r = journal_list(&found, &n, err);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = ids_add(l, found[i].run_id);
	journal_list_free(found, n);
	return r;
}

static int ids_of_folders(struct ids *l, struct err *err)
{
	DIR *d = opendir(RUN_FOLDER_ROOT);
	struct dirent *e;
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : err_set(err, -errno, RUN_FOLDER_ROOT ": %s", strerror(errno));
	while (r == 0 && (e = readdir(d))) {
		_cleanup_free_ char *plan = strf(RUN_FOLDER_ROOT "/%s/plan.json", e->d_name);

		if (e->d_name[0] != '.' && plan && access(plan, F_OK) == 0)
			r = ids_add(l, e->d_name);
	}
	closedir(d);
	return r;
}

static int not_unique(const char *given, const struct ids *l, struct err *err)
{
	_cleanup_strbuf_ struct strbuf names = {0};
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		if (strncmp(l->id[i], given, strlen(given)) == 0 && n++ < 5)
			strbuf_addf(&names, "%s%s", n > 1 ? ", " : "", l->id[i]);
	err_set(err, -ENOTUNIQ, "\"%s\" may be any of %zu runs: %s%s", given, n, strbuf_cstr(&names), n > 5 ? ", ..." : "");
	return err_hint(err, "give more of its id");
}

int run_id_find(const char *given, unsigned int kinds, char **ret_id, struct err *err)
{
	_cleanup_(ids_free) struct ids l = {0};
	size_t hit = 0, hits = 0;
	struct lock_holder live;
	const char *near;
	char *id;
	int r = 0;

	if (kinds & RUN_LIVE && guard_lock_holder(&live) > 0 && live.run_id[0])
		r = ids_add(&l, live.run_id);
	if (r == 0 && kinds & RUN_JOURNAL)
		r = ids_of_journals(&l, err);
	if (r == 0 && kinds & RUN_FOLDER)
		r = ids_of_folders(&l, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < l.n; i++) {
		if (strncmp(l.id[i], given, strlen(given)) != 0)
			continue;
		hit = i;
		hits++;
		if (streq(l.id[i], given)) {
			hits = 1;
			break;
		}
	}
	if (hits > 1 || (hits && !*given))
		return not_unique(given, &l, err);
	if (hits == 0) {
		err_set(err, -ENOENT, "there is no run %s", given);
		near = l.n ? str_nearest(given, (const char *const *)l.id) : NULL;
		if (near)
			return err_hint(err, "did you mean %s?", near);
		return err_hint(err, kinds & RUN_FOLDER ? "runs are folders in " RUN_FOLDER_ROOT ", or where --out said" :
							  "muster status lists what runs and what is hot");
	}
	id = strdup(l.id[hit]);
	if (!id)
		return -ENOMEM;
	*ret_id = id;
	return 0;
}
