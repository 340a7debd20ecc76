/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whatever is in timeline.jsonl, it is read or refused, judged, and rendered. The plan is a fixed one of short names, so that
 * the input can come to speak of them.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/judge.h"
#include "engine/str.h"
#include "lua/render.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char plan_text[] =
	"{\"schema\":\"muster.plan/"
	"1\",\"file\":\"x.lua\",\"seed\":1,\"set\":{},\"scenario\":{\"name\":\"x\",\"site\":{"
	"\"name\":\"s\","
	"\"switches\":[\"l\"],\"nodes\":[{\"name\":\"d\",\"links\":[{\"dev\":\"e\",\"switch\":"
	"\"l\",\"addrs\":[\"198.18.0.1/24\"]}]},"
	"{\"name\":\"r\",\"links\":[{\"dev\":\"e\",\"switch\":\"l\",\"addrs\":[\"198.18.0.2/"
	"24\"]}]}],\"services\":[{\"name\":\"w\","
	"\"protocol\":\"tcp\",\"port\":80,\"vips\":[\"198.18.0.9\"],\"scheduler\":\"wrr\","
	"\"forward\":\"dr\",\"director\":\"d\","
	"\"servers\":[{\"node\":\"r\",\"weight\":1}]}]},\"loads\":[{\"kind\":\"http\",\"name\":"
	"\"c\",\"args\":{\"rate\":10.0}}],"
	"\"steady_state\":{\"settle_ns\":200000000,\"within_ns\":1000000000,\"predicates\":[{"
	"\"probe\":\"load.error_ratio\","
	"\"args\":{\"load\":\"c\"},\"op\":\"below\",\"bound\":0.1,\"text\":\"e\"},{\"probe\":"
	"\"service.balance\",\"args\":{\"service\":\"w\"},"
	"\"op\":\"within\",\"bound\":0.1,\"text\":\"b\"}]},\"objective\":{\"rto_ns\":1000000000,"
	"\"error_budget\":0.1,\"predicates\":[{"
	"\"probe\":\"load.p99\",\"args\":{\"load\":\"c\"},\"op\":\"below\",\"bound\":1000000,"
	"\"text\":\"p\"}]}},\"steps\":[]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static json_t *plan;
	_cleanup_close_ int fd = memfd_create("timeline", MFD_CLOEXEC);
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *report = NULL, *chart = NULL;
	struct err err = {0};
	char path[64];

	if (!plan)
		plan = json_loads(plan_text, 0, NULL);
	if (!plan || fd < 0 || fd_write_all(fd, data, len) < 0)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (timeline_read(path, &tl, &err) < 0)
		return 0;
	if (judge(plan, tl, &report, &err) < 0) {
		if (!strstr(err.text, "more than a day"))
			abort(); /* all else that could be read can be judged */
		return 0;
	}
	chart = render_chart_data(tl);
	for (const char *const *f = render_formats; *f; f++) {
		_cleanup_free_ char *text = NULL;

		if (render_report(report, chart, *f, &text, NULL, &err) < 0 &&
			!strstr(err.text, "nested"))
			abort();
	}
	return 0;
}
