/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libbpf_log.h: keeps libbpf from printing, and keeps what it would have said, because that often is the only reason given.
 */
#pragma once

/* Call before any use of libbpf. Idempotent. Forgets what this thread has heard so far. */
void libbpf_log_start(void);

/* The first warning this thread has had since, without "libbpf: " and the newline; "" when none. */
const char *libbpf_log_first(void);
