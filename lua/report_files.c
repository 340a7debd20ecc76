/* SPDX-License-Identifier: GPL-2.0-only */
#include "lua/report_files.h"

#include <stdio.h>
#include <string.h>

#include "engine/judge.h"
#include "engine/str.h"
#include "engine/timeline.h"
#include "lua/render.h"

int report_judge(const char *dir, json_t **ret_report, json_t **ret_timeline, struct err *err)
{
	_cleanup_free_ char *plan_path = strf("%s/plan.json", dir), *timeline_path = strf("%s/timeline.jsonl", dir);
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *plan = NULL;
	json_error_t where;
	int r;

	if (!plan_path || !timeline_path)
		return -ENOMEM;
	plan = json_load_file(plan_path, 0, &where);
	if (!plan)
		return err_set(err, -EINVAL, "%s: %s", plan_path, where.text);
	r = timeline_read(timeline_path, &tl, err);
	if (r == 0)
		r = judge(plan, tl, ret_report, err);
	if (r == 0 && ret_timeline)
		*ret_timeline = render_chart_data(tl);
	return r;
}

static int write_file(const char *dir, const char *name, const char *data, size_t len, struct err *err)
{
	_cleanup_free_ char *path = strf("%s/%s", dir, name);
	int r = path ? file_write(path, data, len) : -ENOMEM;

	return r < 0 ? err_set(err, r, "write %s/%s: %s", dir, name, strerror(-r)) : 0;
}

int report_files_write(const char *dir, json_t **ret_report, struct err *err)
{
	static const struct {
		const char *format, *name;
	} files[] = {{"html", "report.html"}, {"junit", "junit.xml"}, {"md", "report.md"}};
	_cleanup_json_ json_t *report = NULL, *timeline = NULL;
	_cleanup_free_ char *json = NULL;
	int r = report_judge(dir, &report, &timeline, err);

	if (r < 0)
		return r;
	json = json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
	if (!json)
		return -ENOMEM;
	r = write_file(dir, "report.json", json, strlen(json), err);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(files); i++) {
		_cleanup_free_ char *text = NULL;
		size_t len;

		r = render_report(report, timeline, files[i].format, &text, &len, err);
		if (r == 0)
			r = write_file(dir, files[i].name, text, len, err);
	}
	if (r == 0 && ret_report)
		*ret_report = TAKE_PTR(report);
	return r;
}
