/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fault.accept_queue: nobody accepts any more. The processes that listen on a port are frozen (freeze.h) while connections go
 * on arriving, so the accept queue fills up to min(backlog, net.core.somaxconn) + 1 and overflows. What a client sees then is
 * net.ipv4.tcp_abort_on_overflow: 0, the last ACK of the handshake is ignored, and the client believes that it is connected;
 * 1, it is answered with RST. `abort` sets it for as long as the fault lasts. A SYN that finds the queue full already is dropped in
 * silence either way, and is sent again after 1 s, 3 s, ...: so RSTs are seen for the handshakes that were under way when it
 * became full, and time-outs for those that come later.
 *
 * The connections are not this fault's: without a load, or with a queue that is longer than the load fills in the time, nothing
 * overflows, and the fault says that it did not bite.
 *
 * Did it bite? The namespace's counter ListenOverflows (/proc/net/netstat, TcpExt) has grown. ListenDrops counts the same
 * refusals and others. The depth is the kernel's own: idiag_rqueue of a listening socket is the length of its accept queue,
 * idiag_wqueue its limit.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "engine/change.h"
#include "engine/site.h"
#include "engine/tcp_stat.h"
#include "inject/freeze.h"

#define ABORT "/proc/sys/net/ipv4/tcp_abort_on_overflow"

static const struct param params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "whose acceptors are frozen"},
	{.name = "port", .type = PARAM_INT, .min = 1, .max = 65535, .help = "the TCP port that they listen on"},
	{.name = "service", .type = PARAM_SERVICE, .help = "instead of a port: the port of this service"},
	{.name = "abort",
		.type = PARAM_BOOL,
		.help = "true: what overflows is answered with RST; false: dropped in silence; default: as the node has it"},
	PARAM_END,
};

static int resolve(const struct site *site, json_t *args, struct err *err)
{
	const char *name = json_string_value(json_object_get(args, "service"));
	const struct service *s = name && site ? site_service(site, name) : NULL;

	if (!name == !json_object_get(args, "port"))
		return err_set(err, -EINVAL, "fault.accept_queue: give one of port and service");
	if (name && !s)
		return err_set(err, -EINVAL, "fault.accept_queue: the site has no service \"%s\"", name);
	if (s && s->protocol != IPPROTO_TCP)
		return err_set(err, -EINVAL, "fault.accept_queue: service %s is not TCP: it has no accept queue", name);
	return s ? json_object_set_new(args, "port", json_integer(s->port)) : 0;
}

static uint16_t arg_port(const json_t *args)
{
	return (uint16_t)json_integer_value(json_object_get(args, "port"));
}

/* "0" or "1", or NULL: the node's own stays */
static const char *arg_abort(const json_t *args)
{
	const json_t *a = json_object_get(args, "abort");

	return json_is_boolean(a) ? (json_is_true(a) ? "1" : "0") : NULL;
}

static int supported(const struct node *n, const json_t *args _unused_, struct err *reterr)
{
	if (!n->netns)
		return err_set(reterr, -EOPNOTSUPP, "accept_queue on %s: the host's own processes are not frozen", n->name);
	return 0;
}

/* ── the life of it ────────────────────────────────────────────────────────────────────────── */

static int capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *frozen = NULL;
	_cleanup_free_ char *was = NULL;
	uint64_t overflows = 0, drops = 0;
	int r = freeze_capture(n, arg_port(args), &frozen, err);

	if (r == 0)
		r = tcp_ext_counter(n, "ListenOverflows", &overflows, err);
	if (r == 0)
		r = tcp_ext_counter(n, "ListenDrops", &drops, err);
	if (r < 0)
		return r;
	r = node_read(n, ABORT, &was);
	if (r < 0)
		return err_set(err, r, "%s: net.ipv4.tcp_abort_on_overflow: %s", n->name, strerror(-r));
	*ret_prior = json_pack("{s:O, s:s, s:I, s:I}", "frozen", frozen, "abort", was, "overflows", (json_int_t)overflows,
		"drops", (json_int_t)drops);
	return *ret_prior ? 0 : -ENOMEM;
}

static int apply(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const char *wanted = arg_abort(args);
	int r = wanted ? node_write(n, ABORT, wanted) : 0;

	if (r < 0)
		return err_set(err, r, "%s: net.ipv4.tcp_abort_on_overflow = %s: %s", n->name, wanted, strerror(-r));
	return freeze_apply(n, json_object_get(prior, "frozen"), err);
}

static int undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const char *wanted = arg_abort(args), *was = json_string_value(json_object_get(prior, "abort"));
	_cleanup_free_ char *now = NULL;
	/* those who listen first: the harm is theirs */
	int r = freeze_undo(n, json_object_get(prior, "frozen"), err);

	if (r < 0 || !wanted || streq(wanted, was))
		return r;
	r = node_read(n, ABORT, &now);
	if (r < 0)
		return err_set(err, r, "%s: net.ipv4.tcp_abort_on_overflow: %s", n->name, strerror(-r));
	if (streq(now, was))
		return 0;
	if (!streq(now, wanted))
		return err_set(err, CHANGE_CONFLICT, "%s: net.ipv4.tcp_abort_on_overflow is %s, neither %s (before) nor %s (ours)",
			       n->name, now, was, wanted),
		       CHANGE_CONFLICT;
	r = node_write(n, ABORT, was);
	return r < 0 ? err_set(err, r, "%s: net.ipv4.tcp_abort_on_overflow = %s: %s", n->name, was, strerror(-r)) : 0;
}

static int verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	const char *was = json_string_value(json_object_get(prior, "abort"));
	_cleanup_free_ char *now = NULL;
	int r = freeze_verify(n, json_object_get(prior, "frozen"), err);

	if (r != 0 || !arg_abort(args))
		return r;
	r = node_read(n, ABORT, &now);
	if (r < 0)
		return err_set(err, r, "%s: net.ipv4.tcp_abort_on_overflow: %s", n->name, strerror(-r));
	if (!streq(now, was)) {
		err_set(err, 1, "%s: net.ipv4.tcp_abort_on_overflow is %s, and was %s", n->name, now, was);
		return 1;
	}
	return 0;
}

static int measure(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence, struct err *err)
{
	_cleanup_strbuf_ struct strbuf names = {0};
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ struct listener *l = NULL;
	struct listener fullest = {.port = arg_port(args)};
	uint64_t overflows = 0, drops = 0;
	size_t all, stopped, n_l = 0;
	int r = freeze_count(n, json_object_get(prior, "frozen"), &all, &stopped, err);

	if (r == 0)
		r = listeners_read(n, arg_port(args), &l, &n_l, err);
	for (size_t i = 0; i < n_l; i++)
		if (l[i].queued >= fullest.queued)
			fullest = l[i];
	if (r == 0)
		r = tcp_ext_counter(n, "ListenOverflows", &overflows, err);
	if (r == 0)
		r = tcp_ext_counter(n, "ListenDrops", &drops, err);
	if (r < 0)
		return r;
	overflows -= (uint64_t)json_integer_value(json_object_get(prior, "overflows"));
	drops -= (uint64_t)json_integer_value(json_object_get(prior, "drops"));
	freeze_names(json_object_get(prior, "frozen"), &names);
	text = strf("port %u of %s: %llu overflows of the accept queue, %u of %u in it; %zu of %zu stopped: %s", fullest.port, n->name,
		(unsigned long long)overflows, fullest.queued, fullest.limit, stopped, all, strbuf_cstr(&names));
	*ret_evidence = json_pack("{s:{s:i, s:O?}, s:{s:I, s:I, s:I, s:I, s:I, s:I}, s:b, s:s}", "asked", "port", (int)fullest.port,
		"abort", json_object_get(args, "abort"), "measured", "overflows", (json_int_t)overflows, "drops", (json_int_t)drops,
		"queued", (json_int_t)fullest.queued, "limit", (json_int_t)fullest.limit, "processes", (json_int_t)all, "stopped",
		(json_int_t)stopped, "proved", overflows > 0, "text", text ? text : "");
	return *ret_evidence ? 0 : -ENOMEM;
}

static int command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	_cleanup_json_ json_t *planned = json_pack("{s:i}", "port", (int)arg_port(args));
	const char *wanted = arg_abort(args), *was = json_string_value(json_object_get(prior, "abort"));

	if (!planned)
		return -ENOMEM;
	if (wanted) {
		change_command_prefix(n, ret_apply);
		strbuf_addf(ret_apply, "sysctl -w net.ipv4.tcp_abort_on_overflow=%s\n", wanted);
	}
	freeze_command(n, planned, ret_apply, ret_undo);
	if (wanted && was) {
		change_command_prefix(n, ret_undo);
		strbuf_addf(ret_undo, "sysctl -w net.ipv4.tcp_abort_on_overflow=%s\n", was);
	} else if (wanted) {
		strbuf_puts(ret_undo, "# and net.ipv4.tcp_abort_on_overflow as it was before\n");
	}
	return 0;
}

const struct change_ops change_fault_accept_queue = {
	.name = "fault.accept_queue",
	.summary = "Nobody accepts connections on a port any more: its accept queue fills up and overflows",
	.kind = CHANGE_FAULT,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "[{\"node\": \"node\", \"port\": 8080}, {\"node\": \"node\", \"port\": 8080, \"abort\": true}]",
	.resolve = resolve,
	.supported = supported,
	.capture = capture,
	.apply = apply,
	.undo = undo,
	.verify = verify,
	.measure = measure,
	.command = command,
};
