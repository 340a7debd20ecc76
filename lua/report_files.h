/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * report_files.h: a run's folder, judged: reads plan.json and timeline.jsonl, writes report.json report.html junit.xml report.md.
 */
#pragma once

#include "engine/err.h"

/* Judges only. @ret_timeline: what charts are drawn from (render.h); may be NULL. */
int report_judge(const char *dir, json_t **ret_report, json_t **ret_timeline, struct err *err);

/* Judges and writes all four. */
int report_files_write(const char *dir, json_t **ret_report, struct err *err);
