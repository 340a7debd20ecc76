/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/file.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "engine/node.h"
#include "engine/str.h"
#include "lab/lab.h"
#include "lab/spec.h"

#define LAB_FILE "lab.json"

json_t *lab_file_read(const char *dir)
{
	_cleanup_free_ char *path = strf("%s/" LAB_FILE, dir);
	json_t *j;

	if (!path || access(path, F_OK) < 0)
		return NULL;
	j = json_load_file(path, 0, NULL);
	if (json_is_object(j))
		return j;
	json_decref(j);
	return json_object();
}

int lab_file_write(const char *dir, const json_t *lab, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/" LAB_FILE, dir),
			    *tmp = strf("%s/" LAB_FILE ".new", dir);
	_cleanup_free_ char *text = json_dumps(lab, JSON_INDENT(1));
	int r;

	if (!path || !tmp || !text)
		return -ENOMEM;
	r = file_write(tmp, text, strlen(text));
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	return r < 0 ? err_set(err, r, "write %s: %s", path, strerror(-r)) : 0;
}

bool lab_file_owner(const json_t *lab, pid_t *ret_pid)
{
	const json_t *owner = json_object_get(lab, "owner");
	pid_t pid = (pid_t)json_integer_value(json_object_get(owner, "pid"));
	uint64_t start;

	*ret_pid = pid;
	return pid > 0 && pid_start_time(pid, &start) == 0 &&
	       start == (uint64_t)json_integer_value(json_object_get(owner, "start"));
}

bool lab_file_lists(const json_t *names, const char *name)
{
	const json_t *j;
	size_t i;

	json_array_foreach(names, i, j)
		if (streq(json_string_value(j), name))
			return true;
	return false;
}

bool lab_file_others(const char *site, const char *name)
{
	DIR *d = opendir(lab_root);
	struct dirent *e;
	bool found = false;

	if (!d)
		return false;
	while (!found && (e = readdir(d))) {
		_cleanup_free_ char *dir = NULL;
		_cleanup_json_ json_t *lab = NULL;

		if (e->d_name[0] == '.' || streq(e->d_name, site))
			continue;
		dir = strf("%s/%s", lab_root, e->d_name);
		lab = dir ? lab_file_read(dir) : NULL;
		found = lab_file_lists(json_object_get(lab, "names"), name);
	}
	closedir(d);
	return found;
}

char *lab_file_up(const char *site)
{
	return strf("%ss/%s.json", lab_root, site);
}

/* ── for `muster lab` ───────────────────────────────────────────────────────────────────── */

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int visible(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

int lab_list(json_t **ret, struct err *err)
{
	_cleanup_json_ json_t *list = json_array();
	struct dirent **found;
	int n = scandir(lab_root, &found, visible, by_name), r = 0;

	if (n < 0 && errno != ENOENT)
		return err_set(err, -errno, "%s: %s", lab_root, strerror(errno));
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *dir = strf("%s/%s", lab_root, found[i]->d_name);
		_cleanup_free_ char *up = lab_file_up(found[i]->d_name);
		json_t *lab = dir ? lab_file_read(dir) : NULL;
		pid_t pid;

		if (!lab)
			lab = json_object(); /* cut short before the file was there */
		if (!lab || !up)
			r = -ENOMEM;
		json_object_set_new(lab, "name", json_string(found[i]->d_name));
		json_object_set_new(lab, "state",
			json_string(up && access(up, F_OK) == 0 ? "up"
				    : lab_file_owner(lab, &pid) ? "in use"
								: "left over"));
		json_array_append_new(list, lab);
		free(found[i]);
	}
	if (n >= 0)
		free(found);
	if (r == 0)
		*ret = TAKE_PTR(list);
	return r;
}

int lab_record(const char *name, const json_t *site, json_t **ret_args, json_t **ret_prior,
	struct err *err)
{
	_cleanup_free_ char *dir = strf("%s/%s", lab_root, name);
	_cleanup_json_ json_t *lab = dir ? lab_file_read(dir) : NULL, *args = NULL, *prior = NULL,
			      *names = json_array();
	const json_t *listed = json_object_get(lab, "names"), *id = json_object_get(lab, "id");
	_cleanup_lab_spec_ struct lab_spec *s = NULL;
	bool there = dir && access(dir, F_OK) == 0;
	size_t i;
	json_t *j;
	pid_t pid;
	int r;

	if (!dir || !names)
		return -ENOMEM;
	if (lab_file_owner(lab, &pid)) {
		err_set(err, -EBUSY, "lab %s is in use by process %d", name, (int)pid);
		return err_hint(err, "muster halt ends its drill");
	}
	json_array_foreach(listed, i, j)
		json_array_append(names, j);
	if (site) {
		r = lab_spec_new(site, &s, err);
		if (r < 0)
			return r;
		/* by name alone, whoever made them: that is what was asked for */
		for (i = 0; i < s->n_ns; i++)
			if (access(s->ns[i].path, F_OK) == 0 &&
				!lab_file_others(name, s->ns[i].name)) {
				there = true;
				if (!lab_file_lists(names, s->ns[i].name))
					json_array_append_new(names, json_string(s->ns[i].name));
			}
	}
	if (!there)
		return err_set(err, -ENOENT, "lab %s is not up", name);
	args = json_pack("{s:{s:s}}", "site", "name", name);
	prior = json_pack("{s:s, s:s, s:O}", "id", json_is_string(id) ? json_string_value(id) : "",
		"netns_dir", "mount", "names", names);
	if (!args || !prior)
		return -ENOMEM;
	*ret_args = TAKE_PTR(args);
	*ret_prior = TAKE_PTR(prior);
	return 0;
}
