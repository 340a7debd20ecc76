/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * change.h: one reversible alteration of a node. A baseline setting and a fault are both changes.
 *
 * One file, one change: inject/fault_NAME.c, baseline/set_NAME.c, lvs/set_NAME.c, lab/lab_NAME.c. The file ends in
 *
 *	const struct change_ops change_fault_NAME = { .name = "fault.NAME", ... };
 *
 * and the build collects the tables from the file names; nobody edits a list. Everything else follows
 * from the table: the Lua constructor, checks, `muster list`, plan text, the journal's decoding and the conformance test.
 *
 * The life of a change, and who calls what:
 *
 *	supported ── capture ── [journal: INTENT] ── apply ── [journal: APPLIED] ── measure ── undo ── verify ── [journal: DONE]
 *	                │             │                  └ fails: undo is called at once     │        └ differs: CONFLICT, reported
 *	                └ fails: nothing was changed                                          └ from the record alone, in any process,
 *	                                                                                       perhaps twice, perhaps after an apply
 *	                                                                                       that never ran or ran half
 *
 * @args are normalised (param.h). @prior is whatever capture returned: plain JSON, self-contained, with the
 * kernel's own words (raw attributes as hex) where the kernel's words are to be replayed.
 * All calls may block for a short while (netlink, procfs): they never run on the engine's loop. None may
 * print, exit, change the thread's namespace for good, or call Lua.
 */
#pragma once

#include "engine/node.h"
#include "engine/param.h"
#include "engine/str.h"

struct site;

enum change_class {
	CHANGE_TTL,	 /* the kernel expires it by itself */
	CHANGE_VOLATILE, /* dies at reboot */
	CHANGE_DURABLE,	 /* survives a reboot */
	CHANGE_ONE_WAY,	 /* cannot be undone, only compensated */
};

enum change_kind {
	CHANGE_SETTING, /* set.*, lvs.*: establishes a wanted state; Lua: muster.set, muster.lvs */
	CHANGE_FAULT,	/* fault.*: made to do harm; must have measure; Lua: muster.fault */
	CHANGE_LAB,	/* lab.*: not for scenarios; the engine's own */
};

/* What undo and verify may answer beside 0 and -errno */
#define CHANGE_CONFLICT 1 /* undo: neither ours nor prior: somebody else changed it; left alone; text in err */

struct change_ops {
	const char *name;    /* "fault.netem" */
	const char *summary; /* one line, no trailing dot */
	enum change_kind kind;
	enum change_class class;
	const struct param *params;

	/*
	 * For the conformance test (tests/conformance/test_changes.c): arguments as JSON text, an object or an array of objects, each
	 * of which changes something. The test's site has nodes "node" and "peer" (eth0, on one switch; 198.18.0.2/24 and
	 * 2001:db8::2/64, 198.18.0.1/24 and 2001:db8::1/64), a service "web" (directors "node", which holds the virtual address
	 * 198.18.0.100, and "peer"; server "peer"; in the kernel with weight 2, not the declared 1), and a daemon that listens on TCP
	 * port 8080 of "node"; its process is called "daemon"; "node" has the empty ipsets "blocked4" and "blocked6". For a change on a
	 * database (PARAM_DATABASE), and for no other, there is the Redis "cache": its primary on "node", a replica in sync and a sentinel
	 * on "peer"; what its undo starts again may take its time to be of use, and the next supported() waits for it. What is set on the
	 * node "host" is tested in the microVM, whose machine is the test's own. A lab change is given to the engine's own node, without
	 * param_check(). NULL: not tested.
	 */
	const char *example;

	/*
	 * Turns names of the site into plain values, so that everything below, and the journal's reader, can do without the
	 * site: called once, after param_check() and before the node is looked up, on the normalised @args, which it completes
	 * in place ("node" from the service's director, addresses from server names). It touches no host: it runs for `check`
	 * and `plan` too. Keys it adds are not parameters, and its result is never given to param_check() again. With
	 * "node" optional in @params, it is resolve that provides it. -EINVAL with a text about the scenario. May be NULL.
	 */
	int (*resolve)(const struct site *site, json_t *args, struct err *err);

	/* Can this node do it at all? 0, or -EOPNOTSUPP with the reason and the way out in @reterr. May be NULL. */
	int (*supported)(const struct node *n, const json_t *args, struct err *reterr);

	/*
	 * What it would disturb, for mgmt.h to compare with what has to survive. Touches nothing; works from names, since for
	 * `plan` the node may not be there yet. *ret_reach is null (a NULL pointer) when it disturbs no path, else an object, all of
	 * whose members may be missing:
	 *
	 *	"devices"	[{"dev": "eth0", "netns": PATH}]: what passes these suffers. "netns": of the namespace, when it is not the
	 *			node's own; "dev": "*": whichever device it is
	 *	"to"		["198.18.0.0/24"]: of that, only what these addresses send or are sent; missing: all of it
	 *	"family"	4 or 6: only this one; missing: both
	 *	"processes"	"node": whoever runs in the node's network namespace is killed or stopped; or a list of pids
	 *
	 * NULL: it touches no path, ever. A fault confined to peers has a parameter "to".
	 */
	int (*reach)(const struct node *n, const json_t *args, json_t **ret_reach, struct err *err);

	/* It puts an XDP program at the devices that reach names: telemetry leaves them alone (source_ctx.xdp_taken). */
	bool takes_xdp;

	/* Reads the state that apply will change. Changes nothing. Refuses (-errno) what could not be restored exactly. */
	int (*capture)(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err);

	/* Makes the change. On failure it need not clean up: undo follows. */
	int (*apply)(const struct node *n, const json_t *args, const json_t *prior, struct err *err);

	/*
	 * Puts @prior back: compare and restore. Needs the record alone. Idempotent. An apply that never ran is success.
	 * 0 done; CHANGE_CONFLICT; -errno.
	 */
	int (*undo)(const struct node *n, const json_t *args, const json_t *prior, struct err *err);

	/* 0: the node equals @prior. 1: it does not, text in @err. -errno: could not be read. */
	int (*verify)(const struct node *n, const json_t *args, const json_t *prior, struct err *err);

	/*
	 * Settings: how things stand, one item for each thing that is set, in the order of the record:
	 * [{"key": "net.core.somaxconn", "before": "4096", "want": "65535", "now": "65535", "holds": true}, ...]
	 * "holds" is null when it cannot be said, and "text" then says why. Reads only; any thread; may be NULL. What a baseline's
	 * plan and verify show, and what is looked at during the drill: an item that does not hold has drifted.
	 */
	int (*look)(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_items, struct err *err);

	/*
	 * Faults: did it bite? Called while the fault is in force, just before it is lifted. Returns
	 * {"asked": {...}, "measured": {...}, "proved": true|false|null, "text": "one line"}: null is "no data".
	 */
	int (*measure)(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence,
		struct err *err);

	/*
	 * The same in plain commands for `muster plan` and restore.sh, each a line of its own for a POSIX shell (a quoted word may
	 * span lines; no name stands within "$(...)", where quotes nest). @prior is NULL in a plan made without a host; then the words may be short. With a record @ret_undo is what
	 * restore.sh runs (run_script.c), so it keeps undo's promises: each line ends with 0 when it has put its part back or
	 * finds nothing to put back, whether apply ran, ran in part or never did; it may run twice; and names are quoted
	 * (strbuf_add_shell). What plain words cannot put back is a line "# left: WHAT AND WHY": the script does the rest, says
	 * it, and fails. Other lines that begin with # are comments. Namespaces are entered by path: change_command_prefix().
	 * No host is touched.
	 */
	int (*command)(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
		struct strbuf *ret_undo);
};

/* All tables, sorted by name, NULL-terminated; made by the build. */
extern const struct change_ops *const change_table[];
const struct change_ops *change_find(const char *name);

/*
 * "nsenter --net=PATH " for a node in a namespace, "" for the host. Not `ip netns exec`: that one knows names only, and puts what it
 * runs into a mount namespace of its own, where a daemon that is started again would stay.
 */
void change_command_prefix(const struct node *n, struct strbuf *b);

const char *change_class_name(enum change_class c); /* "ttl", "volatile", "durable", "one-way" */

/*
 * What runs here, told once by the engine (or `muster lab up`) before the first change: for the kernel's own memory, which
 * outlives us. Objects that can carry a text carry the tag, so that a person, `muster status` and `muster doctor` know whose they
 * are; faults that can carry a deadline carry the drill's, so that the kernel ends them when nobody of ours is left to do it.
 * Neither is needed to undo: that takes the record alone, and another process, which was told nothing.
 */
void change_run_begin(const char *run_id);
/* "muster:RUN", for names and comments of up to 255 letters (IFLA_IFALIAS, TCA_BPF_NAME, ipset and nftables comments); without a
 * run: "muster" */
#define CHANGE_TAG_MAX 176
#define CHANGE_TAG "muster"
const char *change_run_tag(void);
/* "mu_" and twelve hex digits made from the run's id, for names of up to 15 letters (BPF programs and maps, devices) */
#define CHANGE_TAG_SHORT_MAX 16
const char *change_run_tag_short(void);
void change_tag_short(const char *run_id, char ret[CHANGE_TAG_SHORT_MAX]);
/* The run that @tag names, or NULL: no tag of muster's. A pointer into @tag; the id ends at a blank, a slash or the end: *ret_len */
const char *change_tag_run(const char *tag, size_t *ret_len);

/*
 * When the kernel itself may end what this run does: the drill's deadline, and CHANGE_DEADLINE_MARGIN for our own undo to come
 * first. CLOCK_MONOTONIC; 0: none.
 */
#define CHANGE_DEADLINE_MARGIN (10 * NSEC_PER_SEC)
nsec_t change_run_deadline(void);
void change_run_set_deadline(nsec_t drill_deadline);
