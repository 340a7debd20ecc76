/* SPDX-License-Identifier: GPL-2.0-only */
/* fault.node_loss on a real bridge between namespaces: what it does, that it is measured, and that nothing of it stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "bridge_site.h"
#include "engine/change.h"
#include "engine/clock.h"

static struct bridge_site site;
static char *before;
static char self[4096];

/* One change, held as its record alone */
struct fault {
	const struct change_ops *ops;
	json_t *args, *prior;
};

static int fault_capture(struct fault *f, struct err *err, const char *fmt, ...)
{
	_cleanup_json_ json_t *given = NULL;
	json_t *prior = NULL;
	va_list ap;
	int r;

	*err = (struct err){0};
	f->ops = change_find("fault.node_loss");
	f->args = f->prior = NULL;
	va_start(ap, fmt);
	given = json_vpack_ex(NULL, 0, fmt, ap);
	va_end(ap);
	assert_non_null(given);
	assert_int_equal(param_check(f->ops->params, f->ops->name, given, NULL, &f->args, err), 0);
	r = f->ops->resolve(NULL, f->args, err);
	if (r == 0)
		r = f->ops->supported(site.node, f->args, err);
	if (r == 0)
		r = f->ops->capture(site.node, f->args, &prior, err);
	if (r == 0) {
		f->prior = through_text(prior);
		json_decref(prior);
	}
	return r;
}

static void fault_drop(struct fault *f)
{
	json_decref(f->args);
	json_decref(f->prior);
}
#define _cleanup_fault_ _cleanup_(fault_drop)

#define MUST(call)                                                                                 \
	do {                                                                                       \
		struct err must_err = {0}, *e_ = &must_err;                                        \
		int must_r = (call);                                                               \
		if (must_r != 0)                                                                   \
			fail_msg("%s: %d: %s", #call, must_r, e_->text);                           \
	} while (0)

static void must_capture(struct fault *f, const char *how)
{
	struct err err;

	if (fault_capture(f, &err, "{s:s, s:s}", "node", "node", "how", how) != 0)
		fail_msg("capture: %s", err.text);
}

static void must_apply(const struct fault *f)
{
	MUST(f->ops->apply(site.node, f->args, f->prior, e_));
}

/* As another process would: from the node's record too */
static void must_undo(const struct fault *f)
{
	_cleanup_json_ json_t *j = node_to_json(site.node);
	_cleanup_node_ struct node *n = NULL;

	MUST(node_from_json(j, &n, e_));
	MUST(f->ops->undo(n, f->args, f->prior, e_));
	MUST(f->ops->verify(n, f->args, f->prior, e_));
}

static json_t *must_measure(const struct fault *f)
{
	json_t *evidence = NULL;

	MUST(f->ops->measure(site.node, f->args, f->prior, &evidence, e_));
	assert_true(json_is_object(json_object_get(evidence, "asked")));
	assert_true(json_is_object(json_object_get(evidence, "measured")));
	assert_true(json_is_string(json_object_get(evidence, "text")));
	return evidence;
}

static bool proved(const struct fault *f)
{
	_cleanup_json_ json_t *e = must_measure(f);

	printf("    %s\n", json_string_value(json_object_get(e, "text")));
	return json_is_true(json_object_get(e, "proved"));
}

static json_int_t measured(const struct fault *f, const char *key)
{
	_cleanup_json_ json_t *e = must_measure(f);

	return json_integer_value(json_object_get(json_object_get(e, "measured"), key));
}

static int count_processes(void);

/*
 * One site serves as many tests as leave it as it was, because a carrier may take a second to be seen. Tests that take it apart
 * say so.
 */
static bool spoiled;

static int set_up(void **state _unused_)
{
	if (site.node && !spoiled && !site_differs(&site, before))
		return 0;
	if (site.node)
		bridge_site_drop(&site);
	free(TAKE_PTR(before));
	spoiled = false;
	bridge_site_make(&site);
	before = site_snapshot(&site);
	return 0;
}

static int tear_down(void **state _unused_)
{
	sh("ip netns pids node | xargs -r kill -KILL");
	while (count_processes())
		(void)poll(NULL, 0, 5);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		; /* process 1 inherits the orphans */
	return 0;
}

static int drop(void **state _unused_)
{
	bridge_site_drop(&site);
	free(TAKE_PTR(before));
	return 0;
}

/* ── silent ────────────────────────────────────────────────────────────────────────────────── */

static void silent(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};

	assert_true(becomes_reachable(&site, "198.18.0.2"));
	assert_true(becomes_reachable(&site, "2001:db8::2"));
	must_capture(&f, "silent");
	assert_site_equals(&site, before); /* looking changes nothing */
	must_apply(&f);
	assert_true(site_differs(&site, before));
	assert_int_equal(f.ops->verify(site.node, f.args, f.prior, NULL), 1);
	assert_false(reachable(&site, "198.18.0.2"));
	assert_false(reachable(&site, "2001:db8::2"));
	/* nobody is told: the carrier stays */
	sh("ip -n node link show eth0 | grep -q 'LOWER_UP'");
	assert_true(proved(&f));
	/* two echoes by IPv4 and two by IPv6 at least were to reach it */
	assert_true(measured(&f, "received_dropped_packets") >= 4);
	must_undo(&f);
	assert_site_equals(&site, before);
	assert_true(becomes_reachable(&site, "198.18.0.2"));
	assert_true(becomes_reachable(&site, "2001:db8::2"));
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* What the node sends is dropped and counted too. */
static void silent_from_inside(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	struct echo_result e;

	assert_true(becomes_reachable(&site, "198.18.0.2")); /* both know each other's addresses */
	must_capture(&f, "silent");
	must_apply(&f);
	assert_int_equal(echo_run(site.node, "eth0", "198.18.0.1", 5, 0, 100 * NSEC_PER_MSEC, &e, NULL), 0);
	assert_int_equal(e.received, 0);
	assert_true(measured(&f, "sent_dropped_packets") >= 5);
	assert_int_equal(measured(&f, "received_dropped_packets"), 0);
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* Nobody talks to it: what its interface says by itself proves nothing. */
static void silent_toothless(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};

	must_capture(&f, "silent");
	must_apply(&f);
	/* joining a group is announced over the link */
	sh("ip -n node addr add 2001:db8::77/64 dev eth0 && ip -n node addr del 2001:db8::77/64 dev eth0");
	for (nsec_t until = now_ns() + 3 * NSEC_PER_SEC; measured(&f, "idle_dropped_packets") == 0 && now_ns() < until;)
		(void)poll(NULL, 0, 20);
	assert_true(measured(&f, "idle_dropped_packets") > 0);
	assert_false(proved(&f));
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* Nobody lifts it: the kernel does. */
static void silent_ttl(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_json_ json_t *e = NULL;
	struct err err;
	nsec_t start;

	assert_int_equal(
		fault_capture(&f, &err, "{s:s, s:s, s:s}", "node", "node", "how", "silent", "ttl", "800ms"), 0);
	must_apply(&f);
	start = now_ns();
	assert_false(reachable(&site, "198.18.0.2"));
	while (!reachable(&site, "198.18.0.2"))
		assert_true(now_ns() - start < 5 * NSEC_PER_SEC);
	assert_true(now_ns() - start >= 800 * NSEC_PER_MSEC);
	assert_true(site_differs(&site, before)); /* the filter is still there, and lets pass */
	e = must_measure(&f);
	assert_true(json_is_true(json_object_get(json_object_get(e, "measured"), "expired")));
	assert_true(measured(&f, "passed_after_expiry") > 0);
	assert_true(json_is_true(json_object_get(e, "proved")));
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* The process that made it is gone; another measures and lifts. */
static void silent_outlives_its_maker(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	int status;
	pid_t pid;

	must_capture(&f, "silent");
	pid = fork();
	if (pid == 0)
		_exit(f.ops->apply(site.node, f.args, f.prior, NULL) ? 1 : 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_false(reachable(&site, "198.18.0.2"));
	assert_true(proved(&f));
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* A drill that has a deadline, and no ttl was asked for; a ttl that is sooner comes sooner. */
static void silent_ends_with_the_drill(void **state _unused_)
{
	static const char *const ttls[] = {NULL, "1500ms", "1m"};

	for (size_t i = 0; i < ARRAY_SIZE(ttls); i++) {
		nsec_t least = ttls[i] && streq(ttls[i], "1500ms") ? 1500 * NSEC_PER_MSEC : 3 * NSEC_PER_SEC, start = now_ns();
		_cleanup_fault_ struct fault f = {0};
		_cleanup_json_ json_t *e = NULL;
		struct err err;
		pid_t pid;

		if (ttls[i])
			assert_int_equal(fault_capture(&f, &err, "{s:s, s:s, s:s}", "node", "node", "how", "silent", "ttl", ttls[i]), 0);
		else
			must_capture(&f, "silent");
		pid = fork();
		if (pid == 0) {
			change_run_set_deadline(now_ns() + 3 * NSEC_PER_SEC - CHANGE_DEADLINE_MARGIN);
			(void)f.ops->apply(site.node, f.args, f.prior, NULL);
			kill(getpid(), SIGKILL);
		}
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		assert_false(reachable(&site, "198.18.0.2"));
		while (!reachable(&site, "198.18.0.2"))
			assert_true(now_ns() - start < 20 * NSEC_PER_SEC);
		assert_true(now_ns() - start >= least);
		e = must_measure(&f);
		assert_true(json_is_true(json_object_get(json_object_get(e, "measured"), "expired")));
		assert_non_null(strstr(json_string_value(json_object_get(e, "text")), "the kernel ended it before it was lifted"));
		must_undo(&f);
		assert_site_equals(&site, before);
	}
}

static unsigned int programs_named(const char *name)
{
	unsigned int n = 0;

	for (uint32_t id = 0; bpf_prog_get_next_id(id, &id) == 0;) {
		_cleanup_close_ int fd = bpf_prog_get_fd_by_id(id);
		struct bpf_prog_info info = {0};
		uint32_t len = sizeof(info);

		if (fd >= 0 && bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && streq(info.name, name))
			n++;
	}
	return n;
}

/* Filters, programs and maps bear the run's name; the undo, in a process that knows of no run, finds them all the same. */
static void silent_names_its_run(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	char tag[CHANGE_TAG_SHORT_MAX];
	pid_t pid;
	int status;

	must_capture(&f, "silent");
	change_tag_short("test-run-7", tag);
	pid = fork();
	if (pid == 0) {
		change_run_begin("test-run-7");
		_exit(f.ops->apply(site.node, f.args, f.prior, NULL) ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_string_equal(change_run_tag(), CHANGE_TAG);
	sh("ip netns exec sw tc filter show dev node ingress | grep -q muster:test-run-7/ && "
	   "ip netns exec sw tc filter show dev node egress | grep -q muster:test-run-7/");
	assert_int_equal(programs_named(tag), 2);
	must_undo(&f);
	assert_site_equals(&site, before);
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; programs_named(tag) && now_ns() < until;)
		(void)poll(NULL, 0, 10); /* the kernel lets go of them a little later */
	assert_int_equal(programs_named(tag), 0);
}

/* The port is taken away, and another comes under its name: what is on that one is not ours. */
static void port_of_the_same_name(void **state _unused_)
{
	static const char *const hows[] = {"silent", "cut"};

	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		_cleanup_fault_ struct fault f = {0};
		_cleanup_free_ char *with = NULL;

		must_capture(&f, hows[i]);
		must_apply(&f);
		spoiled = true;
		/* down, and with a filter where ours was: a cut's undo would set it up, a silence's would take the clsact */
		sh("ip -n sw link del node && ip -n sw link add node type veth peer name eth0 netns node && "
		   "ip netns exec sw tc qdisc add dev node clsact && ip -n node link set eth0 up");
		with = site_snapshot(&site);
		MUST(f.ops->undo(site.node, f.args, f.prior, e_));
		MUST(f.ops->verify(site.node, f.args, f.prior, e_));
		assert_site_equals(&site, with);
		sh("ip netns exec sw tc qdisc show dev node | grep -q clsact");
		set_up(NULL);
	}
}

/* Renamed, it is the same device still, and is put back; a stranger under its old name is not touched. */
static void port_under_another_name(void **state _unused_)
{
	static const char *const hows[] = {"silent", "cut"};

	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		_cleanup_fault_ struct fault f = {0};

		must_capture(&f, hows[i]);
		must_apply(&f);
		spoiled = true;
		sh("ip -n sw link set node down && ip -n sw link set node name other %s && ip -n sw link add node type veth peer name nobody",
			i == 0 ? "&& ip -n sw link set other up" : "");
		MUST(f.ops->undo(site.node, f.args, f.prior, e_));
		MUST(f.ops->verify(site.node, f.args, f.prior, e_));
		assert_true(becomes_reachable(&site, "198.18.0.2"));
		sh("! ip netns exec sw tc qdisc show dev other | grep -q clsact && ip -n sw link show other | grep -q 'state UP' && "
		   "ip -n sw link show node | grep -q 'state DOWN'");
		set_up(NULL);
	}
}

/* Somebody's own clsact with a filter in it stays as it was. */
static void silent_beside_others(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_free_ char *with = NULL;

	sh("ip netns exec sw tc qdisc add dev node clsact && "
	   "ip netns exec sw tc filter add dev node ingress pref 10 handle 0x1 bpf bytecode '1,6 0 0 4294967295' da");
	with = site_snapshot(&site);
	must_capture(&f, "silent");
	must_apply(&f);
	assert_false(reachable(&site, "198.18.0.2"));
	must_undo(&f);
	assert_site_equals(&site, with);
	must_undo(&f);
	assert_site_equals(&site, with);
}

/* A filter that came into our clsact meanwhile is not swept away with it, and the answer says so. */
static void silent_conflict(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	struct err err = {0};

	must_capture(&f, "silent");
	must_apply(&f);
	sh("ip netns exec sw tc filter add dev node egress pref 10 handle 0x1 bpf bytecode '1,6 0 0 4294967295' da");
	assert_int_equal(f.ops->undo(site.node, f.args, f.prior, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.text, "somebody else"));
	assert_true(becomes_reachable(&site, "198.18.0.2")); /* ours is gone all the same */
	sh("ip netns exec sw tc filter show dev node egress | grep -q 'handle 0x1'");
	assert_int_equal(f.ops->verify(site.node, f.args, f.prior, &err), 1);
}

/* Another injection's filter of the same shape is not ours. */
static void silent_not_anothers(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0}, g = {0};
	struct err err;

	must_capture(&f, "silent");
	must_capture(&g, "silent");
	must_apply(&f);
	assert_int_equal(f.ops->undo(site.node, g.args, g.prior, &err), CHANGE_CONFLICT);
	assert_false(reachable(&site, "198.18.0.2"));
	/* and a third is refused while it is there */
	{
		_cleanup_fault_ struct fault h = {0};

		assert_int_equal(fault_capture(&h, &err, "{s:s, s:s}", "node", "node", "how", "silent"), -EBUSY);
		assert_non_null(strstr(err.hint, "muster restore"));
	}
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* The other end is unknown: the node's own device is the port, and the directions are still the node's. */
static void silent_without_a_switch(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	struct echo_result e;

	assert_true(becomes_reachable(&site, "198.18.0.2"));
	spoiled = true;
	free(TAKE_PTR(site.node->links[0].peer_netns));
	must_capture(&f, "silent");
	must_apply(&f);
	assert_false(reachable(&site, "198.18.0.2"));
	assert_true(measured(&f, "received_dropped_packets") >= 2);
	assert_int_equal(measured(&f, "sent_dropped_packets"), 0);
	assert_int_equal(echo_run(site.node, "eth0", "198.18.0.1", 3, 0, 100 * NSEC_PER_MSEC, &e, NULL), 0);
	assert_true(measured(&f, "sent_dropped_packets") >= 3);
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* restore.sh's words do the same, and lift what the program itself put up. */
static void plain_commands(void **state _unused_)
{
	static const char *const hows[] = {"silent", "cut"};

	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0}, planned = {0}, again = {0};
		_cleanup_fault_ struct fault f = {0};

		must_capture(&f, hows[i]);
		/* as a plan says it, by hand from beginning to end */
		assert_int_equal(f.ops->command(site.node, f.args, NULL, &apply, &planned), 0);
		sh("%s", strbuf_cstr(&apply));
		assert_false(reachable(&site, "198.18.0.2"));
		sh("%s", strbuf_cstr(&planned));
		must_undo(&f); /* for its waiting: a carrier takes a moment */
		assert_site_equals(&site, before);
		assert_int_equal(f.ops->command(site.node, f.args, f.prior, &again, &undo), 0);
		must_apply(&f);
		assert_false(reachable(&site, "198.18.0.2"));
		sh("%s", strbuf_cstr(&undo));
		must_undo(&f);
		assert_site_equals(&site, before);
		assert_true(becomes_reachable(&site, "198.18.0.2"));
	}
}

static void refused(void **state _unused_)
{
	const struct change_ops *ops = change_find("fault.node_loss");
	_cleanup_node_ struct node *host = node_new("host", NULL);
	_cleanup_fault_ struct fault f = {0};
	struct err err = {0};

	for (int i = 0; i < 2; i++) {
		_cleanup_json_ json_t *args = json_pack("{s:s, s:s}", "node", "host", "how", i ? "silent" : "loud");

		assert_int_equal(ops->supported(host, args, &err), -EOPNOTSUPP);
		assert_non_null(strstr(err.text, "host"));
	}
	assert_int_equal(fault_capture(&f, &err, "{s:s, s:s, s:s}", "node", "node", "how", "cut", "ttl", "1s"), -EINVAL);
	assert_non_null(strstr(err.text, "ttl"));
}

/* ── cut ───────────────────────────────────────────────────────────────────────────────────── */

static void cut(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};

	must_capture(&f, "cut");
	assert_site_equals(&site, before);
	assert_false(proved(&f)); /* not yet */
	must_apply(&f);
	assert_int_equal(f.ops->verify(site.node, f.args, f.prior, NULL), 1);
	assert_false(reachable(&site, "198.18.0.2"));
	sh("ip -n node link show eth0 | grep -q NO-CARRIER");
	assert_true(proved(&f));
	must_undo(&f);
	/* at once: the undo has waited for the carrier */
	assert_site_equals(&site, before);
	assert_true(becomes_reachable(&site, "198.18.0.2"));
	assert_true(becomes_reachable(&site, "2001:db8::2"));
	must_undo(&f);
	assert_site_equals(&site, before);
}

/* A plain veth's other end, with addresses and routes of its own, which the kernel throws away with the link */
static void cut_brings_addresses_back(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_free_ char *with = NULL;

	sh("ip -n sw addr add 198.18.7.1/24 dev node && ip -n sw addr add 2001:db8:7::1/64 dev node nodad && "
	   "ip -n sw route add 198.18.64.0/24 via 198.18.7.9 dev node metric 7 && "
	   "ip -n sw route add 2001:db8:64::/64 via 2001:db8:7::9 dev node");
	with = site_snapshot(&site);
	must_capture(&f, "cut");
	must_apply(&f);
	sh("! ip -n sw -6 addr show dev node | grep -q 2001:db8:7::1");
	must_undo(&f);
	assert_site_equals(&site, with);
}

static void cut_refuses_what_is_down(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0}, g = {0};
	struct err err;

	sh("ip -n sw link set node down");
	assert_int_equal(fault_capture(&f, &err, "{s:s, s:s}", "node", "node", "how", "cut"), -ENETDOWN);
	spoiled = true;
	free(TAKE_PTR(site.node->links[0].peer_netns));
	assert_int_equal(fault_capture(&g, &err, "{s:s, s:s}", "node", "node", "how", "cut"), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "not known"));
}

/* The switch is gone, and with it the port: nothing is left to undo. */
static void switch_is_gone(void **state _unused_)
{
	static const char *const hows[] = {"silent", "cut"};

	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		_cleanup_fault_ struct fault f = {0};

		must_capture(&f, hows[i]);
		must_apply(&f);
		sh("ip netns del sw && ip netns add sw");
		MUST(f.ops->undo(site.node, f.args, f.prior, e_));
		MUST(f.ops->verify(site.node, f.args, f.prior, e_));
		spoiled = true;
		set_up(NULL);
	}
}

/* ── loud ──────────────────────────────────────────────────────────────────────────────────── */

/* What "SELF listen PORT" does: a daemon with a worker; the worker holds the socket too. */
static int daemon_main(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct rlimit l;
	mode_t mask;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0)
		return 1;
	if (fork() == 0)
		for (;;)
			pause();
	getrlimit(RLIMIT_NOFILE, &l);
	mask = umask(0);
	umask(mask);
	printf("up %s %u %u %lu %o\n", getenv("WORD") ? getenv("WORD") : "-", getuid(), getgid(), (unsigned long)l.rlim_cur,
		mask);
	fflush(stdout);
	for (;;)
		pause();
}

static char *run_in_node(const char *command)
{
	FILE *p = popen(command, "r");
	char *text = NULL;

	assert_non_null(p);
	assert_int_equal(fd_read_all(fileno(p), 4096, &text, NULL), 0);
	pclose(p);
	return text;
}

static bool listens(int port)
{
	_cleanup_close_ int fd = node_socket(site.peer, AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	inet_pton(AF_INET, "198.18.0.2", &a.sin_addr);
	return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static void wait_listens(int port)
{
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; !listens(port);) {
		assert_true(now_ns() < until);
		(void)poll(NULL, 0, 10);
	}
}

static int count_processes(void)
{
	pid_t *pids = NULL;
	size_t n = 0;

	assert_int_equal(node_pids(site.node, &pids, &n, NULL), 0);
	free(pids);
	return (int)n;
}

/* Workers are forked when the port is open already. */
static void wait_processes(int n)
{
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; count_processes() != n; (void)poll(NULL, 0, 5))
		if (now_ns() > until)
			fail_msg("%d processes, and not %d", count_processes(), n);
}

static void start_daemon(int port)
{
	sh("mkdir -p /run/d && chmod 777 /run/d && cd /run/d && umask 027 && ulimit -n 512 && WORD='a b' "
	   "ip netns exec node setsid setpriv --reuid 65534 --regid 65534 --clear-groups %s listen %d "
	   "</dev/null >>/run/d/log 2>&1 &",
		self, port);
	wait_listens(port);
	wait_processes(2);
}

static char *log_lines(void)
{
	char *text = NULL;

	assert_int_equal(file_read("/run/d/log", 65536, &text, NULL), 0);
	return text;
}

static void loud(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_free_ char *log = NULL;
	char first[256];

	start_daemon(8080);
	must_capture(&f, "loud");
	assert_true(listens(8080));
	assert_false(proved(&f)); /* not yet */
	must_apply(&f);
	assert_int_equal(count_processes(), 0);
	assert_false(listens(8080));
	assert_true(proved(&f));
	assert_int_equal(f.ops->verify(site.node, f.args, f.prior, NULL), 1);
	must_undo(&f);
	assert_true(listens(8080));
	wait_processes(2);
	for (nsec_t until = now_ns() + 5 * NSEC_PER_SEC; now_ns() < until; (void)poll(NULL, 0, 5)) {
		_cleanup_free_ char *so_far = log_lines();

		if (count_text(so_far, "\n") == 2)
			break; /* it writes when it listens already */
	}
	/* the same user, limits, umask, environment, folder and log: the daemon says so itself, twice the same */
	log = log_lines();
	assert_int_equal(sscanf(log, "%255[^\n]\n", first), 1);
	assert_string_equal(first, "up a b 65534 65534 512 27");
	assert_string_equal(log + strlen(first) + 1, "up a b 65534 65534 512 27\n");
	/* running already: nothing more is started */
	must_undo(&f);
	assert_int_equal(count_processes(), 2);
	assert_site_equals(&site, before);
}

/* The apply died between the master and its worker: the worker still holds the port. */
static void loud_half(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	const json_t *j;
	size_t i;

	start_daemon(8080);
	must_capture(&f, "loud");
	json_array_foreach(json_object_get(f.prior, "processes"), i, j) {
		if (json_is_true(json_object_get(j, "top")))
			kill((pid_t)json_integer_value(json_object_get(j, "pid")), SIGKILL);
	}
	wait_processes(1);
	must_undo(&f);
	wait_processes(2);
	assert_true(listens(8080));
}

/* An apply that never ran leaves nothing to do, and the processes are the very same. */
static void loud_never_applied(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	_cleanup_json_ json_t *e = NULL;

	start_daemon(8080);
	must_capture(&f, "loud");
	must_undo(&f);
	e = must_measure(&f);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(e, "measured"), "alive")), 2);
}

/* Two alike are two. */
static void loud_twins(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};

	sh("ip netns exec node setsid sleep 600 & ip netns exec node setsid sleep 600 &");
	wait_processes(2);
	/* ip replaces itself by sleep, but not at once */
	sh("for i in $(seq 200); do test $(ip netns pids node | xargs -I{} readlink /proc/{}/exe | grep -c sleep) = 2 && break; "
	   "sleep 0.01; done");
	must_capture(&f, "loud");
	must_apply(&f);
	assert_int_equal(count_processes(), 0);
	must_undo(&f);
	assert_int_equal(count_processes(), 2);
}

/* Who came after the record was made is not in it, and is left alone. */
static void loud_spares_newcomers(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};

	start_daemon(8080);
	must_capture(&f, "loud");
	sh("ip netns exec node setsid sleep 600 &");
	sh("for i in $(seq 200); do ip netns pids node | xargs -I{} readlink /proc/{}/exe | grep -q sleep && break; sleep 0.01; done");
	must_apply(&f);
	assert_int_equal(count_processes(), 1);
	must_undo(&f);
	assert_int_equal(count_processes(), 3);
}

/* A record whose pids others have by now: nobody is killed by it, and only what is missing is started. */
static void loud_pids_are_reused(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	json_t *p, *list;
	pid_t innocent = 0;
	char *text;
	size_t i;

	start_daemon(8080);
	must_capture(&f, "loud");
	must_apply(&f);
	sh("ip netns exec node setsid sleep 600 &");
	sh("for i in $(seq 200); do ip netns pids node | xargs -I{} readlink /proc/{}/exe | grep -q sleep && break; sleep 0.01; done");
	text = run_in_node("ip netns pids node | head -n 1");
	innocent = (pid_t)atoi(text);
	assert_true(innocent > 1);
	list = json_object_get(f.prior, "processes");
	json_array_foreach(list, i, p)
		json_object_set_new(p, "pid", json_integer(innocent));
	/* the workers' master, for kill_orphans() */
	json_array_foreach(list, i, p)
		if (json_object_get(p, "of"))
			json_object_set_new(p, "of", json_integer(innocent));
	must_undo(&f);
	assert_int_equal(count_processes(), 3); /* it, and the daemon with its worker */
	assert_true(listens(8080));
	must_apply(&f); /* and once more: what runs the recorded program goes, what has the recorded pid does not */
	assert_int_equal(count_processes(), 1);
	free(TAKE_PTR(text));
	text = run_in_node("ip netns pids node");
	assert_int_equal(atoi(text), innocent);
	free(text);
}

/* An sshd in the node is not killed, nor is anything done to whoever is next to it. */
static void loud_spares_the_way_in(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0}, g = {0};
	struct err err;

	start_daemon(8080);
	must_capture(&f, "loud");
	sh("cp /bin/sleep /run/sshd && ip netns exec node setsid /run/sshd 600 &");
	sh("for i in $(seq 200); do ip netns pids node | xargs -I{} cat /proc/{}/comm | grep -q sshd && break; sleep 0.01; done");
	assert_int_equal(fault_capture(&g, &err, "{s:s, s:s}", "node", "node", "how", "loud"), -EBUSY);
	assert_non_null(strstr(err.text, "sshd (process "));
	/* one that comes after the record, and even one that is in it */
	{
		json_t *p;
		size_t i;

		json_array_foreach(json_object_get(f.prior, "processes"), i, p)
			if (json_object_get(p, "exe"))
				json_object_set_new(p, "exe", json_string("/run/sshd"));
	}
	must_apply(&f);
	sh("ip netns pids node | xargs -I{} cat /proc/{}/comm | grep -q sshd");
}

/* A node that is the host under another name: refused, and nobody is killed, at each step. */
static void loud_on_the_host_itself(void **state _unused_)
{
	_cleanup_node_ struct node *n = node_new("gw", "/run/netns/gw");
	_cleanup_json_ json_t *args = json_pack("{s:s, s:s}", "node", "gw", "how", "loud"), *prior = NULL;
	const struct change_ops *ops = change_find("fault.node_loss");
	struct err err = {0};

	sh("touch /run/netns/gw && mount --bind /proc/self/ns/net /run/netns/gw");
	MUST(node_open(n, e_));
	assert_int_equal(ops->supported(n, args, &err), -EOPNOTSUPP);
	assert_int_equal(ops->capture(n, args, &prior, &err), -EOPNOTSUPP);
	prior = json_pack("{s:[], s:{}}", "processes", "listening");
	assert_int_equal(ops->apply(n, args, prior, &err), -EOPNOTSUPP);
	sh("umount -l /run/netns/gw && rm /run/netns/gw");
}

static void loud_nobody_there(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};

	must_capture(&f, "loud");
	must_apply(&f);
	assert_false(proved(&f));
	must_undo(&f);
}

/* nginx writes a title over its arguments, and quotes them in it. */
static void loud_nginx(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};

	if (access("/usr/sbin/nginx", X_OK) < 0)
		SKIP("nginx is not installed");
	sh("mkdir -p /run/n && printf '%%s\n' 'daemon on; master_process on; worker_processes 2; pid /run/n/pid; user root;' "
	   "'error_log /run/n/error.log; events {}' 'http { access_log off; server { listen 8080; } }' >/run/n/conf");
	sh("ip netns exec node nginx -c /run/n/conf -p /run/n");
	wait_listens(8080);
	wait_processes(3);
	must_capture(&f, "loud");
	must_apply(&f);
	assert_int_equal(count_processes(), 0);
	assert_true(proved(&f));
	must_undo(&f);
	wait_listens(8080);
	wait_processes(3);
	must_undo(&f);
	assert_int_equal(count_processes(), 3);
}

/* A title that tells nothing: refused, unless somebody says how. */
static void loud_hidden_arguments(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0}, g = {0};
	struct err err;
	int r;

	sh("ip netns exec node setsid %s title </dev/null >/dev/null 2>&1 &", self);
	sh("for i in $(seq 200); do ip netns pids node | xargs -I{} cat /proc/{}/cmdline | grep -q busy && break; sleep 0.01; done");
	r = fault_capture(&f, &err, "{s:s, s:s}", "node", "node", "how", "loud");
	assert_int_equal(r, -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "busy with this"));
	assert_non_null(strstr(err.hint, "restart"));
	r = fault_capture(&g, &err, "{s:s, s:s, s:[s, s]}", "node", "node", "how", "loud", "restart", self, "title");
	assert_int_equal(r, 0);
	must_apply(&g);
	assert_int_equal(count_processes(), 0);
	must_undo(&g);
	assert_int_equal(count_processes(), 1);
}

/* Writes over its own arguments, as daemons do. */
static int __attribute__((noreturn)) title_main(char **argv)
{
	size_t room = (size_t)(argv[1] + strlen(argv[1]) - argv[0]);

	memset(argv[0], 0, room);
	strncpy(argv[0], "x: busy with this and that", room - 1);
	for (;;)
		pause();
}

/* The executable is replaced by something that cannot run: the undo fails, says why, and succeeds when it is mended. */
static void loud_start_fails(void **state _unused_)
{
	_cleanup_fault_ struct fault f = {0};
	struct err err = {0};

	sh("mkdir -p /run/x && cp %s /run/x/prog && ip netns exec node setsid /run/x/prog listen 8080 </dev/null >/dev/null 2>&1 &",
		self);
	wait_listens(8080);
	must_capture(&f, "loud");
	must_apply(&f);
	sh("chmod 600 /run/x/prog");
	assert_int_equal(f.ops->undo(site.node, f.args, f.prior, &err), -EACCES);
	assert_non_null(strstr(err.text, "/run/x/prog"));
	sh("chmod 755 /run/x/prog");
	must_undo(&f);
	assert_true(listens(8080));
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(silent),
		T(silent_from_inside),
		T(silent_toothless),
		T(silent_ttl),
		T(silent_outlives_its_maker),
		T(silent_ends_with_the_drill),
		T(silent_names_its_run),
		T(port_of_the_same_name),
		T(port_under_another_name),
		T(silent_beside_others),
		T(silent_conflict),
		T(silent_not_anothers),
		T(silent_without_a_switch),
		T(plain_commands),
		T(refused),
		T(cut),
		T(cut_brings_addresses_back),
		T(cut_refuses_what_is_down),
		T(switch_is_gone),
		T(loud),
		T(loud_half),
		T(loud_never_applied),
		T(loud_twins),
		T(loud_spares_newcomers),
		T(loud_pids_are_reused),
		T(loud_spares_the_way_in),
		T(loud_on_the_host_itself),
		T(loud_nobody_there),
		T(loud_nginx),
		T(loud_hidden_arguments),
		T(loud_start_fails),
	};

	if (argc == 3 && streq(argv[1], "listen"))
		return daemon_main(atoi(argv[2]));
	if (argc == 2 && streq(argv[1], "title"))
		return title_main(argv);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	/* a file of its own: a daemon is not a muster */
	sh("cp %s /run/daemon-of-the-test", self);
	strcpy(self, "/run/daemon-of-the-test");
	return cmocka_run_group_tests(tests, NULL, drop);
}
