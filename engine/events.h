/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * events.h: the kinds of timeline events and their fields: what run.c writes, and judge.c, the live view and the
 * renderers read. In timeline.jsonl each line is {"t": ns, "kind": K, fields...}; W is "FILE:LINE".
 *
 *	run	  id scenario file seed kernel lab host version wall_ns          first line; `t` and wall_ns tie the clocks
 *	stage	  stage: lab baseline load steady method recovery undo end; text
 *	phase	  phase where rto_ns (its own objective)
 *	change	  id change node args state: applied|undone|conflict|failed|unsupported text where     settings and
 *		  the lab (unsupported: an optional setting that this host cannot give; nothing was changed)
 *		  waived: what it crosses by leave of the scenario (mgmt.h), of faults too
 *	fault	  id change node args where state: applied|lifted|failed; when lifted: asked measured proved(true|false|null) text
 *		  since: when its undo began, which takes effect before it is done and told
 *	check	  id name use: eventually|always|steady-before|steady-after|objective; predicates[] from within_ns (or during_ns),
 *		  until = from + that; status: true|false|unknown; at value unit text where
 *	stop	  predicate from text                                            a stop condition became true
 *	halt	  by: operator|deadline|stop|guard; reason
 *	error	  text hint where blame: scenario|engine|host
 *	refused	  text hint
 *	log	  text where
 *	source	  name source_kind: load|sampler|telemetry; state: started|stopped|refused|lost; text summary
 *		  (lost: records of it did not arrive; summary.dropped is how many since its start)
 *	role	  service role: director|primary; node state: taken|released; what initial     who serves: the virtual address, the writes
 *	queue	  node port: of a listening service; overflows: of its accept queue, by eBPF (null: not counted); kernel: of all of
 *		  the node's (ListenOverflows); both since the start; queued limit: now; handshakes: the most under
 *		  way that a SYN has found since the last look, by eBPF (null: not seen); last: the last overflow
 *		  that eBPF saw, or null: at queued limit handshakes (of the SYN queue) peer peer_port
 *	traffic	  node role(active|passive) service peer (null: none, nobody known) since; of the time after `since`: opened established
 *		  outcomes{} bytes_in bytes_out retransmits unknown_birth: who talked to whom, as `node` saw it; bytes are told at the end
 *	latency	  service server ("": its clients) since; connect srtt lifetime, or response: [[bucket of hist.h, count]], of the time after
 *		  `since`
 *	forwarded service server director since; of [since, t): packets bytes connections: that the director sent on to the server
 *	packets	  node dev; at the start: counted (false: not at this device) why; else: service (null: of none) since; of [since, t): packets
 *		  bytes: that came to the device
 *	held	  load connection state: open (it has carried a response, and is kept)|broken (under a request)|closed (by the server)
 *	database  database node role: primary|replica|down|unknown; replicas: that follow it, or, of a replica, 1 when its link is up
 *	ledger	  load database; writes[[n, due, sent (0: never), ended, outcome, node]], those due in this bucket; reads; stale[[sent, value,
 *		  floor]]: the last number was `value`, and `floor` had been acknowledged before the question
 *	ledger-read  load database node; runs[[first, last]], the list as it is there, in its order; or error
 *	drift	  change node key before want now; holds: false: it is no longer what the baseline made it; true: it is again
 *	residue	  clean diff[] conflicts[] failed[]
 *	guard	  what: engine-died|engine-hung|deadline|cli-gone; text undone conflicts failed restored_ns (on the timeline's clock)
 *	gauge	  only to the live view, not stored: rate error_ratio p99_ns weights{service:{server:n}} progress 0..1 text
 *	end	  exit (of the engine: 0 unless it failed)                       last line of the engine
 */
#pragma once

#define EV_RUN	   "run"
#define EV_STAGE   "stage"
#define EV_PHASE   "phase"
#define EV_CHANGE  "change"
#define EV_FAULT   "fault"
#define EV_CHECK   "check"
#define EV_STOP	   "stop"
#define EV_HALT	   "halt"
#define EV_ERROR   "error"
#define EV_REFUSED "refused"
#define EV_LOG	   "log"
#define EV_SOURCE  "source"
#define EV_ROLE	   "role"
#define EV_HELD	   "held"
#define EV_QUEUE   "queue"
#define EV_TRAFFIC "traffic"
#define EV_LATENCY "latency"
#define EV_FORWARDED "forwarded"
#define EV_PACKETS "packets"
#define EV_DATABASE "database"
#define EV_LEDGER  "ledger"
#define EV_LEDGER_READ "ledger-read"
#define EV_RESIDUE "residue"
#define EV_DRIFT   "drift"
#define EV_GUARD   "guard"
#define EV_GAUGE   "gauge"
#define EV_END	   "end"
