/* SPDX-License-Identifier: GPL-2.0-only */
/* Whatever arrives from the script: decoded or refused, never more; and what was decoded survives a
 * second trip. */
#include <assert.h>
#include <string.h>

#include "engine/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = {0};
	size_t off = 0;

	while (off < size) {
		json_t *msg = NULL;
		ssize_t n = wire_decode(data + off, size - off, &msg, &err);

		if (n <= 0) {
			assert(!msg);
			assert(n == 0 || n == -EPROTO || n == -EMSGSIZE);
			assert(n == 0 || err.text[0]);
			break;
		}
		assert(msg && (size_t)n <= size - off && n > 4);
		assert(json_is_object(msg));
		json_decref(msg);
		off += (size_t)n;
	}
	return 0;
}
