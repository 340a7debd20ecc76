/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Any bytes for a record: refused, or a record that can be printed. Each input is tried as it is, and once more as a record of
 * the right size, version and weight, or hardly any would come past these.
 */
#include <string.h>

#include "bpf/conn_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void one(const void *data, size_t size)
{
	struct conn_record r;
	json_t *j;

	if (conn_decode(data, size, &r) < 0)
		return;
	if (r.outcome >= CONN_OUTCOME_COUNT || r.role >= CONN_ROLE_COUNT ||
		strlen(r.comm) > CONN_COMM)
		__builtin_trap();
	if (conn_record_failed(&r) && r.kind != CONN_END)
		__builtin_trap();
	j = conn_record_to_json(&r);
	if (!j)
		__builtin_trap();
	json_decref(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct conn_event e = {0};

	one(data, size);
	if (size)
		memcpy(&e, data, MIN(size, sizeof(e)));
	e.version = CONN_EVENT_VERSION;
	e.weight = 1;
	one(&e, sizeof(e));
	return 0;
}
