/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * wire.h: messages between the script and the engine: a 4-byte length, little endian, then that many bytes of
 * JSON, an object with "v": WIRE_VERSION. Everything is bounded: a frame by WIRE_MAX, nesting by WIRE_DEPTH.
 *
 * From the script ("id" counts up; each gets one reply with the same id):
 *
 *	{"v":1,"id":1,"op":"site","name":"lvs-dr","options":{}}       -> value {"file": PATH, "text": LUA SOURCE}
 *	{"v":1,"id":2,"op":"profile","name":"open-autoglm"}            -> value {"file": PATH, "text": LUA SOURCE}
 *	{"v":1,"id":2,"op":"scenario","scenario":{...}}                declares; plan.h has the shape      -> value null
 *	{"v":1,"id":n,"op":"phase","name":"silent loss","where":W}
 *	{"v":1,"id":n,"op":"inject","change":"fault.node_loss","args":{...},"where":W}   -> value {"handle": 3}
 *	{"v":1,"id":n,"op":"apply","change":"set.ipvs","args":{...},"where":W}           -> value {"handle": 4}
 *	{"v":1,"id":n,"op":"lift","handle":3,"where":W}                idempotent                           -> value null
 *	{"v":1,"id":n,"op":"eventually","predicate":{...},"within_ns":N,"where":W}       -> value true|false|null (null: unknown)
 *	{"v":1,"id":n,"op":"always","predicate":{...},"during_ns":N,"where":W}           -> value true|false|null
 *	{"v":1,"id":n,"op":"sample","probe":"load.p99","args":{},"over_ns":N,"where":W}  -> value number|null
 *	{"v":1,"id":n,"op":"wait","ns":N,"where":W}                    lets the drill run on for N
 *	{"v":1,"id":n,"op":"log","text":"...","where":W}
 *	{"v":1,"id":n,"op":"done"}                                     the file (record: and its method) has ended
 *	{"v":1,"id":n,"op":"error","where":W,"text":"...","traceback":"..."}             the script failed; then it exits
 * W is "FILE:LINE" or "".
 *
 * Replies: {"v":1,"id":n,"value":V} or {"v":1,"id":n,"error":"text","hint":"text"}: the script raises it at its own line.
 * With "halted":true beside the error, the drill is being stopped: no pcall holds the error back, the script unwinds and
 * exits, and sends nothing more, neither "lift" nor "error". "done" and "error" are the last message: no reply is waited for.
 * In the run pass the script waits after "scenario" for its reply, which comes when the method is to begin.
 */
#pragma once

#include "engine/err.h"

#define WIRE_VERSION 1
#define WIRE_MAX     (4u << 20)
#define WIRE_DEPTH   64

/* Blocking. -EMSGSIZE too large, -EPROTO malformed, -EPIPE / -ECONNRESET the other side is gone (0 bytes read: -EPIPE). */
int wire_send(int fd, const json_t *msg);
int wire_recv(int fd, json_t **ret, struct err *err);
/* As wire_recv, waiting at most until @deadline (CLOCK_MONOTONIC): -ETIMEDOUT */
int wire_recv_until(int fd, nsec_t deadline, json_t **ret, struct err *err);

/* Decodes one frame from memory: the fuzzed part. Returns the bytes used, 0 when more are needed, or -errno. */
ssize_t wire_decode(const uint8_t *data, size_t len, json_t **ret, struct err *err);
