/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * render.h: report.json becomes text, html, junit and md. The renderers are Lua (lua/lib/report_*.lua), run here in a
 * state of their own; they see the report alone.
 */
#pragma once

#include "engine/timeline.h"

extern const char *const render_formats[]; /* "text" "html" "junit" "md", NULL */

/*
 * @timeline: render_chart_data(), or NULL: then there are no charts. -EINVAL: no such format (with the nearest right name), or a
 * report that cannot be rendered.
 */
int render_report(const json_t *report, const json_t *timeline, const char *format, char **ret, size_t *ret_len,
	struct err *err);

/* What charts are drawn from; its form stands at the top of render_chart.c. NULL without memory. */
json_t *render_chart_data(const struct timeline *tl);
