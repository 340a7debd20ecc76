/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * fault.primary_loss: the primary of a database is lost, and another one has to be elected.
 *
 *	stop	it is told to end (SIGTERM), as for a restart: it saves what it has to and closes its connections
 *	kill	SIGKILL: its kernel closes the connections for it
 *	freeze	SIGSTOP: it keeps its connections, and answers nobody. When it goes on it takes itself for the primary still
 *	cut	its packets are dropped, with `keep`: but for those of some nodes. A partition in which the old primary still serves
 *		somebody, while replica and sentinels are on the other side, is how acknowledged writes are lost: it goes on to
 *		acknowledge, the others elect a new primary, and when they meet again the old one takes the new one's data
 *
 * stop, kill and freeze take only who listens on the database's port. These are the ways of node_loss.h, under the names they have
 * among those who run a database.
 *
 * Where nobody can take over there is nothing to drill, and the data are at stake for nothing. So it is refused, when the drill
 * begins and again when its turn comes, unless
 *
 *	- there is a primary, and a replica in sync: connected, "online", and heard within LAG_MAX seconds
 *	- most of the sentinels say that they could elect another one (SENTINEL CKQUORUM)
 *	- and, when its turn comes, it is this node that is the primary
 *
 * In a lab that has just been built a replica may still be on its way, and sentinels find one another by what they publish every
 * 2 s: supported() looks again for PATIENCE before it believes that this will not come.
 *
 * All is asked from inside the node, by its own address: as who will lose it, not as who watches.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "engine/site.h"
#include "inject/node_loss.h"
#include "inject/redis.h"

#define WHO	   "fault.primary_loss"
#define PATIENCE   (10 * NSEC_PER_SEC)
#define LOOK_AGAIN 200 /* ms */
#define ANSWER	   (1 * NSEC_PER_SEC) /* for one */
#define LAG_MAX	   2		      /* seconds: a replica tells how far it is every second */
#define END_WAIT   (20 * NSEC_PER_SEC)

static const struct param params[] = {
	{.name = "database", .type = PARAM_DATABASE, .required = true, .help = "whose primary is lost"},
	{.name = "node", .type = PARAM_NODE, .help = "the one that is the primary then; default: the database's first"},
	{.name = "how",
		.type = PARAM_STRING,
		.deflt = "kill",
		.values = "stop|kill|freeze|cut",
		.help = "told to end; killed; stopped where it is; its node's packets dropped"},
	{.name = "keep",
		.type = PARAM_LIST,
		.of = PARAM_NODE,
		.help = "cut: the nodes that can still talk to it"},
	{.name = "restart",
		.type = PARAM_LIST,
		.of = PARAM_STRING,
		.help = "stop, kill: its command line, word by word, when it hides its own"},
	PARAM_END,
};

static const char *text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static bool how_is(const json_t *args, const char *how)
{
	return streq(text(args, "how"), how);
}

/* How a node is lost (node_loss.h) when its database is lost so */
static const char *way_of(const json_t *args)
{
	return how_is(args, "freeze") ? "frozen" : how_is(args, "cut") ? "silent" : "loud";
}

/* ── resolve ───────────────────────────────────────────────────────────────────────────────── */

static const char *address_of(const struct node *n, char buf[64])
{
	const char *a = site_node_addr(n, AF_INET, buf);

	return a ? a : site_node_addr(n, AF_INET6, buf);
}

static struct redis_at at(const json_t *j)
{
	return (struct redis_at){
		.addr = text(j, "addr"), .port = (uint16_t)json_integer_value(json_object_get(j, "port"))};
}

/* "keep_addrs": every address of the nodes in "keep" */
static int resolve_keep(const struct site *site, json_t *args, struct err *err)
{
	json_t *keep = json_object_get(args, "keep"), *addrs, *j;
	size_t i;

	if (!keep)
		return 0;
	if (!how_is(args, "cut"))
		return err_set(err, -EINVAL, WHO ": keep goes with how = \"cut\", not with \"%s\"", text(args, "how"));
	addrs = json_array();
	json_object_set_new(args, "keep_addrs", addrs);
	json_array_foreach(keep, i, j) {
		const char *name = json_string_value(j);
		const struct node *n = name ? site_node(site, name) : NULL;

		if (!n)
			return err_set(err, -EINVAL, WHO ": keep: the site has no node \"%s\"", name ? name : "");
		if (streq(name, text(args, "node")))
			return err_set(err, -EINVAL, WHO ": keep: %s is the node that is cut off", name);
		for (size_t l = 0; l < n->n_links; l++)
			for (size_t a = 0; a < n->links[l].n_addrs; a++) {
				const char *net = n->links[l].addrs[a];

				json_array_append_new(addrs, json_stringn(net, strcspn(net, "/")));
			}
	}
	if (json_array_size(addrs) == 0)
		return err_set(err, -EINVAL, WHO ": keep: none of its nodes has an address");
	if (json_array_size(addrs) > LOSS_KEEP_MAX)
		return err_set(err, -EINVAL, WHO ": keep: its nodes have more than %d addresses", LOSS_KEEP_MAX);
	return 0;
}

/* Who has to be asked: "addr", "port", and "sentinels" [{"node", "addr", "port"}] */
static int resolve_addresses(const struct database *d, const struct node *n, json_t *args, struct err *err)
{
	json_t *list = json_array();
	const char *a;
	char buf[64];

	json_object_set_new(args, "sentinels", list);
	a = address_of(n, buf);
	if (!a)
		return err_set(err, -EINVAL, WHO ": %s has no address to be asked at", n->name);
	json_object_set_new(args, "addr", json_string(a));
	json_object_set_new(args, "port", json_integer(d->port));
	for (size_t i = 0; i < d->n_sentinels; i++) {
		a = address_of(d->sentinels[i], buf);
		if (!a)
			return err_set(err, -EINVAL, WHO ": sentinel %s has no address to be asked at", d->sentinels[i]->name);
		json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "node", d->sentinels[i]->name, "addr", a, "port",
						    (int)d->sentinel_port));
	}
	return 0;
}

static int resolve(const struct site *site, json_t *args, struct err *err)
{
	const char *database = text(args, "database"), *name;
	const struct database *d = database && site ? site_database(site, database) : NULL;
	const struct node *n = NULL;
	bool ends = how_is(args, "stop") || how_is(args, "kill");
	int r;

	if (!d)
		return err_set(err, -EINVAL, WHO ": the site has no database \"%s\"", database ? database : "");
	if (!streq(d->kind, "redis"))
		return err_set(err, -EINVAL, WHO ": database %s is of kind %s; only redis is known here", d->name, d->kind);
	if (d->n_nodes < 2)
		return err_set(err, -EINVAL, WHO ": database %s has no replica: nobody could take over", d->name);
	if (d->n_sentinels == 0)
		return err_set(err, -EINVAL, WHO ": database %s has no sentinels: nobody would elect another primary", d->name);
	if (json_object_get(args, "restart") && !ends)
		return err_set(err, -EINVAL, WHO ": restart goes with how = \"stop\" and \"kill\", not with \"%s\"",
			text(args, "how"));
	if (!text(args, "node"))
		json_object_set_new(args, "node", json_string(d->nodes[0]->name));
	name = text(args, "node");
	for (size_t i = 0; i < d->n_nodes; i++)
		if (streq(d->nodes[i]->name, name))
			n = d->nodes[i];
	if (!n) {
		char names[192] = "";

		for (size_t i = 0; i < d->n_nodes; i++)
			snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? ", " : "", d->nodes[i]->name);
		return err_set(err, -EINVAL, WHO ": %s is no node of database %s (%s)", name ? name : "", d->name, names);
	}
	json_object_set_new(args, "way", json_string(way_of(args)));
	r = resolve_keep(site, args, err);
	if (r == 0)
		r = resolve_addresses(d, n, args, err);
	if (r == 0 && how_is(args, "stop"))
		json_object_set_new(args, "orderly", json_true());
	return r == 0 && ends ? loss_daemons(site, name, args) : r;
}

/* ── can anybody take over? ────────────────────────────────────────────────────────────────── */

/* What is known of the others before the fault: goes into the record, for the report */
struct standing {
	struct redis_replication here; /* what the node itself says */
	size_t replicas;	       /* in sync */
	size_t sentinels;	       /* that could elect */
};

/* The primary's own word: at least one of its replicas is in sync */
static int check_replicas(const char *name, const struct redis_replication *p, size_t *ret_in_sync, struct err *err)
{
	size_t in_sync = 0;

	for (size_t i = 0; i < p->n_replicas; i++)
		in_sync += streq(p->replicas[i].state, "online") && p->replicas[i].lag >= 0 && p->replicas[i].lag <= LAG_MAX;
	*ret_in_sync = in_sync;
	if (in_sync)
		return 0;
	if (!p->n_replicas)
		return err_set(err, -ENOTCONN, "%s has no replica (connected_slaves:0): nobody could take over", name);
	if (streq(p->replicas[0].state, "online") && p->replicas[0].lag >= 0)
		return err_set(err, -ENOTCONN, "%s has no replica in sync: %s has not been heard for %d s", name,
			p->replicas[0].addr, p->replicas[0].lag);
	return err_set(err, -ENOTCONN, "%s has no replica in sync: %s is in state %s", name, p->replicas[0].addr,
		streq(p->replicas[0].state, "online") ? "online, and has not been heard yet" : p->replicas[0].state);
}

/* Most of the sentinels, or nobody is elected */
static int check_sentinels(const struct node *n, const json_t *args, nsec_t deadline, size_t *ret_able, struct err *err)
{
	const json_t *list = json_object_get(args, "sentinels"), *j;
	char command[96], why[256] = "";
	size_t able = 0, all = json_array_size(list), i;

	snprintf(command, sizeof(command), "SENTINEL CKQUORUM %s", text(args, "database"));
	json_array_foreach((json_t *)list, i, j) {
		_cleanup_reply_ redisReply *reply = NULL;
		struct err e = {0};
		int r = redis_ask(n, at(j), command, MIN(deadline, now_ns() + ANSWER), &reply, &e);

		if (r == 0 && (reply->type == REDIS_REPLY_STATUS || reply->type == REDIS_REPLY_STRING) &&
			strncmp(reply->str, "OK", 2) == 0)
			able++;
		else if (!why[0])
			snprintf(why, sizeof(why), "%s: %.200s", text(j, "node"), r < 0 ? e.text : reply->str ? reply->str : "no text");
	}
	*ret_able = able;
	if (2 * able > all)
		return 0;
	return err_set(err, -ENOTCONN, "%zu of %zu sentinels can reach their quorum: nobody would elect another primary; %s",
		able, all, why);
}

/* One look. -ENOTCONN and whatever the questions failed with: not now */
static int look(const struct node *n, const json_t *args, nsec_t deadline, struct standing *ret, struct err *err)
{
	struct standing s = {0};
	struct redis_replication up;
	const struct redis_replication *p = &s.here;
	const char *name = n->name;
	int r = redis_replication(n, at(args), MIN(deadline, now_ns() + ANSWER), &s.here, err);

	if (r == 0 && !s.here.primary) {
		/* a later phase's turn may come when the roles have been exchanged: that there is a primary is what counts now */
		r = redis_replication(n, (struct redis_at){.addr = s.here.upstream, .port = s.here.upstream_port},
			MIN(deadline, now_ns() + ANSWER), &up, err);
		if (r == 0 && !up.primary)
			r = err_set(err, -ENOTCONN, "%s follows %s, which is no primary", n->name, s.here.upstream);
		p = &up;
		name = s.here.upstream;
	}
	if (r == 0)
		r = check_replicas(name, p, &s.replicas, err);
	if (r == 0)
		r = check_sentinels(n, args, deadline, &s.sentinels, err);
	if (r == 0)
		*ret = s;
	return r < 0 ? (err_prefix(err, "database %s", text(args, "database")), r) : 0;
}

static int supported(const struct node *n, const json_t *args, struct err *reterr)
{
	nsec_t deadline = now_ns() + PATIENCE;
	struct standing s;
	struct err why;
	int r = loss_supported(n, args, reterr);

	if (r < 0)
		return r;
	for (;;) {
		why = (struct err){0};
		r = look(n, args, now_ns() + 5 * ANSWER, &s, &why);
		if (r == 0)
			return 0;
		if (now_ns() >= deadline)
			break;
		(void)poll(NULL, 0, LOOK_AGAIN);
	}
	if (reterr)
		*reterr = why;
	return r;
}

/* ── the life of it ────────────────────────────────────────────────────────────────────────── */

static int capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *loss = NULL;
	struct standing s;
	int r = look(n, args, now_ns() + 5 * ANSWER, &s, err);

	if (r < 0)
		return r;
	if (!s.here.primary) {
		err_set(err, -ESTALE, "%s is not the primary of %s now: it follows %s", n->name, text(args, "database"),
			s.here.upstream);
		return err_hint(err, "wait until it is (primary), or name the one that is: node = ...");
	}
	r = loss_capture(n, args, &loss, err);
	if (r < 0)
		return r;
	*ret_prior = json_pack("{s:I, s:I, s:O}", "replicas", (json_int_t)s.replicas, "sentinels", (json_int_t)s.sentinels, "loss",
		loss);
	return *ret_prior ? 0 : -ENOMEM;
}

/*
 * Redis that has been told to end may wait for its replicas first, for 10 s as it comes, and lives meanwhile. "Does not answer" is
 * no better: it may be saving.
 */
static bool goes_on(const struct node *n, const json_t *args, struct err *err)
{
	_cleanup_reply_ redisReply *reply = NULL;
	int r = redis_ask(n, at(args), "INFO server", now_ns() + ANSWER, &reply, err);

	if (r < 0)
		return false;
	if (reply->str && strstr(reply->str, "shutdown_in_milliseconds:")) {
		err_set(err, -EBUSY, "%s: it was told to end, and has not yet", n->name);
		return false;
	}
	return true;
}

static int undo(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	nsec_t deadline = now_ns() + END_WAIT;

	for (;;) {
		struct err why = {0};
		int r = loss_undo(n, args, prior, err);

		if (r != 0 || !how_is(args, "stop") || goes_on(n, args, &why))
			return r;
		if (now_ns() >= deadline)
			return err_set(err, -EBUSY, "%s", why.text);
		(void)poll(NULL, 0, LOOK_AGAIN);
	}
}

static int verify(const struct node *n, const json_t *args, const json_t *prior, struct err *err)
{
	int r = loss_verify(n, args, prior, err);

	return r == 0 && how_is(args, "stop") && !goes_on(n, args, err) ? 1 : r;
}

/* With goes_on() in plain words */
static int command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	_cleanup_json_ json_t *more = json_copy((json_t *)args);
	_cleanup_strbuf_ struct strbuf b = {0};
	struct redis_at a = at(args);

	if (!how_is(args, "stop") || !a.addr)
		return loss_command(n, args, prior, ret_apply, ret_undo);
	change_command_prefix(n, &b);
	strbuf_puts(&b, "timeout 1 redis-cli -h ");
	strbuf_add_shell(&b, a.addr);
	strbuf_addf(&b,
		" -p %u INFO server 2>/dev/null | "
		"awk \"/^redis_version:/ { up = 1 } /^shutdown_in_milliseconds:/ { ends = 1 } END { exit !up || ends }\"",
		a.port);
	if (!more || b.oom || json_object_set_new(more, "goes_on", json_string(strbuf_cstr(&b))) < 0)
		return -ENOMEM;
	return loss_command(n, more, prior, ret_apply, ret_undo);
}

/* Who asks the node itself for an answer gets: "yes", "refused", "none"; anything else is the kernel's word for it */
static const char *answer(const struct node *n, const json_t *args)
{
	_cleanup_reply_ redisReply *reply = NULL;
	int r = redis_ask(n, at(args), "PING", now_ns() + ANSWER / 2, &reply, NULL);

	return r == 0 ? "yes" : r == -ECONNREFUSED ? "refused" : r == -ETIMEDOUT ? "none" : strerror(-r);
}

/* To what the way measures comes whether the database answers: a port that is closed and a process that is dead are two witnesses. */
static int measure(const struct node *n, const json_t *args, const json_t *prior, json_t **ret_evidence, struct err *err)
{
	_cleanup_json_ json_t *e = NULL;
	_cleanup_free_ char *line = NULL;
	json_t *asked, *measured;
	const char *answers, *want = how_is(args, "cut") ? NULL : how_is(args, "freeze") ? "none" : "refused";
	int r = loss_measure(n, args, prior, &e, err);

	if (r < 0)
		return r;
	answers = answer(n, args);
	asked = json_object_get(e, "asked");
	measured = json_object_get(e, "measured");
	json_object_set(asked, "how", json_object_get(args, "how"));
	json_object_set(asked, "database", json_object_get(args, "database"));
	json_object_set_new(asked, "node", json_string(n->name));
	if (json_object_get(args, "keep"))
		json_object_set(asked, "keep", json_object_get(args, "keep"));
	json_object_set_new(measured, "node", json_string(n->name));
	json_object_set_new(measured, "answers", json_string(answers));
	json_object_set(measured, "replicas_before", json_object_get(prior, "replicas"));
	json_object_set(measured, "sentinels_before", json_object_get(prior, "sentinels"));
	if (want && !streq(answers, want) && json_is_true(json_object_get(e, "proved")))
		json_object_set_new(e, "proved", json_false());
	line = strf("%s, primary of %s with %lld in sync: %s; asked on its own node, it %s", n->name, text(args, "database"),
		(long long)json_integer_value(json_object_get(prior, "replicas")), text(e, "text"),
		streq(answers, "yes")	    ? "answers" :
		streq(answers, "refused") ? "refuses connections" :
		streq(answers, "none")    ? "does not answer" :
					     answers);
	json_object_set_new(e, "text", json_string(line ? line : ""));
	*ret_evidence = TAKE_PTR(e);
	return 0;
}

const struct change_ops change_fault_primary_loss = {
	.name = WHO,
	.summary = "The primary of a database is lost: told to end, killed, frozen or cut off; another one has to be elected",
	.kind = CHANGE_FAULT,
	.class = CHANGE_VOLATILE,
	.params = params,
	.example = "[{\"database\": \"cache\", \"how\": \"kill\"}, {\"database\": \"cache\", \"how\": \"stop\"},"
		   " {\"database\": \"cache\", \"how\": \"freeze\"}, {\"database\": \"cache\", \"how\": \"cut\"},"
		   " {\"database\": \"cache\", \"how\": \"cut\", \"keep\": [\"peer\"]}]",
	.resolve = resolve,
	.supported = supported,
	.reach = loss_reach,
	.capture = capture,
	.apply = loss_apply,
	.undo = undo,
	.verify = verify,
	.measure = measure,
	.command = command,
};
