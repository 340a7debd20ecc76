/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * restore.sh, held to what run_script.h promises. For every example of every change, from the table alone, in a small network of the
 * test's own, with its snapshot compared byte for byte:
 *
 *	never	the script runs when it has been written and the change has not been made: nothing changes
 *	undo	the change is made and the script run: status 0, verify() agrees, the snapshot is as before
 *	again	it runs once more: the same
 *	binary	the change is made again and undone by the binary: the same snapshot; and the script finds nothing to do
 *	journal	played after the script it has nothing left to do, and is removed
 *	half	apply is killed somewhere in the middle: the script puts it back
 *	lint	shellcheck has nothing to say
 *
 * Then: names that would be commands; a script that must leave something; and whole drills whose engine and guard are killed, with
 * nothing but the script to come after them.
 */
#include "tests/lab/drill.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/socket.h>

#include "bridge_site.h"
#include "engine/journal.h"
#include "engine/run_script.h"
#include "engine/site.h"
#include "redis_pair.h"

#define PORT	8080
#define FOLDER	"/run/folder"
#define HALVES	3 /* points at which an apply is killed, spread evenly */
#define LONG	(10 * NSEC_PER_SEC) /* an emulated machine visits fewer: one at least, and says so */

static struct bridge_site bridge;
static struct redis_pair database; /* runs only for whom it concerns */
static struct node *host;
static struct site *named;
static char self[4096];
static unsigned int checked, skipped;
static bool own_machine; /* the microVM */
static const char *only; /* changes with this in their name; NULL: all */

struct one {
	const struct change_ops *ops;
	json_t *example;
	char name[64];
};

/* ── the site ──────────────────────────────────────────────────────────────────────────────── */

static const char site_text[] =
	"{\"name\": \"conformance\", \"switches\": [\"lan\"], \"nodes\": ["
	" {\"name\": \"node\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.2/24\", \"2001:db8::2/64\"]}]},"
	" {\"name\": \"peer\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.1/24\", \"2001:db8::1/64\"]}]}],"
	" \"services\": [{\"name\": \"web\", \"protocol\": \"tcp\", \"port\": 8080, \"vips\": [\"198.18.0.100\"], \"scheduler\": \"wrr\","
	"  \"forward\": \"dr\", \"directors\": [\"node\", \"peer\"], \"servers\": [{\"node\": \"peer\", \"weight\": 1}]}],"
	" " REDIS_PAIR_DECLARED("peer") "}";

static int daemon_main(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0)
		return 1;
	for (;;)
		pause();
}

static bool listens(void)
{
	_cleanup_close_ int fd = node_socket(bridge.node, AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static int make(void **state)
{
	_cleanup_json_ json_t *j = json_loads(site_text, 0, NULL);
	struct err err = {0};

	(void)state;
	bridge_site_make(&bridge);
	host = node_new("host", NULL);
	assert_non_null(host);
	assert_int_equal(node_open(host, NULL), 0);
	if (site_from_json(j, &named, &err) < 0)
		fail_msg("%s", err.text);
	sh("ip -n node address add 198.18.0.100/32 dev eth0"); /* the director that schedules */
	sh("mkdir -p " FOLDER " /run/daemon.d");
	/* for the rules that refer to them, where this kernel has any */
	sh("for s in 'blocked4 hash:ip' 'blocked6 hash:ip family inet6'; do nsenter --net=/run/netns/node ipset create $s 2>/dev/null; done; :");
	/* the service as somebody else has made it, with a weight that is not the declared one; where the kernel has IPVS */
	(void)!system("nsenter --net=/run/netns/node sh -c 'ipvsadm -A -t 198.18.0.100:8080 -s wrr && "
		      "ipvsadm -a -t 198.18.0.100:8080 -r 198.18.0.1:8080 -g -w 2' >/dev/null 2>&1");
	/* a daemon is not a muster; it has a user, an environment, a limit and an argument of its own, which it is to get again */
	sh("cp %s /run/daemon.d/daemon && cd /run/daemon.d && ulimit -n 512 && "
	   "nsenter --net=/run/netns/node setsid setpriv --reuid 65534 --regid 65534 --groups 7,9 "
	   "env -i 'WORD=a b' PATH=/run/daemon.d:/bin ./daemon daemon \"it's \\$(touch /run/broken) (x|y)\" "
	   "</dev/null >/dev/null 2>&1 &",
		self);
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC; !listens(); (void)poll(NULL, 0, 10))
		assert_true(now_ns() < until);
	return setup(NULL);
}

static int drop(void **state)
{
	(void)state;
	site_free(named);
	node_free(host);
	bridge_site_drop(&bridge);
	return teardown(NULL);
}

static char *snapshot(void)
{
	const struct node *nodes[] = {bridge.sw, bridge.node, bridge.peer, host};
	struct err err = {0};
	char *text = NULL;

	if (snapshot_take(nodes, ARRAY_SIZE(nodes), &text, &err) < 0)
		fail_msg("snapshot: %s", err.text);
	return text;
}

static void show_file(const char *path)
{
	_cleanup_free_ char *text = NULL;

	if (file_read(path, 8 << 20, &text, NULL) == 0)
		printf("%s:\n%s\n", path, text);
}

static void assert_as_before(const char *before, const char *when)
{
	_cleanup_free_ char *after = snapshot();
	_cleanup_json_ json_t *diff = snapshot_diff(before, after);

	if (json_array_size(diff)) {
		_cleanup_free_ char *text = json_dumps(diff, JSON_INDENT(1));

		show_file(FOLDER "/restore.sh");
		show_file(FOLDER "/log");
		fail_msg("%s, the site is not as it was: %s", when, text);
	}
	assert_int_not_equal(access("/run/broken", F_OK), 0);
}

/* ── the script ────────────────────────────────────────────────────────────────────────────── */

static int write_one(struct change *c, void *arg, struct err *err)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	script_begin(&b, arg, "a scenario\nreboot");
	script_change(&b, c->ops, c->node, c->args, c->prior);
	script_end(&b, arg);
	return script_write(FOLDER, &b, false, err);
}

/* The exit status. With no environment but an empty one: it brings its own. */
static int run_script(const char *dir, const char *option)
{
	_cleanup_free_ char *command = strf("env -i sh %s/restore.sh %s >%s/log 2>&1", dir, option, dir);
	int status = system(command);

	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void must_run(const char *when)
{
	int status = run_script(FOLDER, streq(when, "before the change") ? "--force" : ""); /* it is live then */

	if (status != 0) {
		show_file(FOLDER "/restore.sh");
		show_file(FOLDER "/log");
		fail_msg("%s: restore.sh ended with status %d", when, status);
	}
}

static void lint(void)
{
	static bool said;

	if (system("command -v shellcheck >/dev/null") != 0) {
		if (!said)
			printf("    shellcheck is not installed: the scripts are not linted\n");
		said = true;
		return;
	}
	if (system("shellcheck " FOLDER "/restore.sh >" FOLDER "/log") != 0) {
		show_file(FOLDER "/restore.sh");
		show_file(FOLDER "/log");
		fail_msg("shellcheck objects");
	}
}

/* ── one change ────────────────────────────────────────────────────────────────────────────── */

/* Normalised arguments and the node, the way of every change. false: not in this kernel; the reason was printed. */
static bool prepare(const struct one *o, struct change *ret)
{
	struct change c = {.ops = o->ops, .node = host, .before_intent = write_one};
	json_t *prior = NULL;
	struct err err = {0};
	const char *name;
	int r = 0;

	if (o->ops->kind == CHANGE_LAB)
		c.args = json_deep_copy(o->example);
	else
		r = param_check(o->ops->params, o->ops->name, o->example, NULL, &c.args, &err);
	if (r == 0 && o->ops->resolve)
		r = o->ops->resolve(named, c.args, &err);
	if (r < 0)
		fail_msg("the example of %s: %s", o->name, err.text);
	name = json_string_value(json_object_get(c.args, "node"));
	if (o->ops->kind != CHANGE_LAB)
		c.node = streq(name, "host") ? host : streq(name, "peer") ? bridge.peer : bridge.node;
	/* what the kernel has once for all is not this test's to change, unless the whole machine is */
	if (o->ops->kind == CHANGE_SETTING && c.node == host && !own_machine)
		r = err_set(&err, -EOPNOTSUPP, "of the whole machine, and this one is not the test's own");
	if (!redis_pair_wanted(o->ops, c.args))
		redis_pair_stop(&database);
	else if (!redis_pair_installed())
		r = err_set(&err, -EOPNOTSUPP, "redis-server or redis-sentinel is not installed");
	else
		redis_pair_ensure(&database, &bridge, bridge.peer);
	if (r == 0 && o->ops->supported)
		r = o->ops->supported(c.node, c.args, &err);
	if (r == 0)
		r = o->ops->capture(c.node, c.args, &prior, &err);
	if (r == 0) {
		_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0};

		if (o->ops->command(c.node, c.args, prior, &apply, &undo) == 0 && strstr(strbuf_cstr(&undo), "# left: "))
			r = err_set(&err, -EOPNOTSUPP, "plain words cannot put back all of it, and say so");
	}
	json_decref(prior);
	if (r == -EOPNOTSUPP) {
		printf("SKIP: %s: %s\n", o->name, err.text);
		json_decref(c.args);
		return false;
	}
	if (r < 0)
		fail_msg("%s: %s", o->name, err.text);
	*ret = c;
	return true;
}

static char run[64]; /* the one that began last: a test that fails does not stand in the way of the next */

static struct journal *begin(struct change *c, const char *what)
{
	static unsigned int runs;
	struct journal *j = NULL;
	struct err err = {0};

	/* what was started again finds its place first */
	if (c->ops && c->ops->supported && c->ops->supported(c->node, c->args, &err) < 0)
		fail_msg("%s", err.text);
	snprintf(run, sizeof(run), "%s-%u", what, ++runs);
	json_decref(TAKE_PTR(c->prior));
	c->arg = run;
	if (journal_create(run, &j, &err) < 0)
		fail_msg("%s", err.text);
	return j;
}

static void must_apply(struct journal *j, struct change *c)
{
	struct err err = {0};

	if (change_apply(j, c, &err) < 0)
		fail_msg("%s: apply: %s", c->ops->name, err.text);
}

static void must_verify(const struct change *c, const char *when)
{
	struct err err = {0};
	int r = c->ops->verify(c->node, c->args, c->prior, &err);

	if (r != 0) {
		show_file(FOLDER "/restore.sh");
		show_file(FOLDER "/log");
		fail_msg("%s: verify: %d: %s", when, r, err.text);
	}
}

/* What is left in the journal is played as `muster restore` would; nothing of it may fail. */
static void play(void)
{
	_cleanup_journal_ struct journal *j = NULL;
	struct restore_result res = {0};
	struct err err = {0};

	if (journal_open(run, &j, &err) < 0 || journal_play(j, &res, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(res.failed, 0);
	assert_int_equal(res.conflicts, 0);
	restore_result_clear(&res);
	if (journal_remove(j, &err) < 0)
		fail_msg("%s", err.text);
}

/* Runs the script before the change is made */
static int write_and_run(struct change *c, void *arg, struct err *err)
{
	int r = write_one(c, arg, err);

	assert_int_equal(r, 0);
	lint();
	must_run("before the change");
	return r;
}

static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		; /* process 1 inherits the orphans */
}

static void life(struct change *c, const char *before)
{
	struct journal *j = begin(c, "script-life");

	c->before_intent = write_and_run;
	must_apply(j, c);
	c->before_intent = write_one;
	journal_close(j); /* the drill is dead: hot */
	must_run("after the change");
	reap();
	must_verify(c, "after the script");
	assert_as_before(before, "after the script");
	must_run("the second time");
	assert_as_before(before, "after the script's second run");
	play();
	reap();
	assert_as_before(before, "after `muster restore` behind the script");
	/* the journal is gone: the script knows that there is nothing to do */
	must_run("without a journal");

	j = begin(c, "script-binary");
	must_apply(j, c);
	assert_int_equal(run_script(FOLDER, ""), 2); /* it is live: refused */
	assert_int_equal(change_undo(j, c, NULL), 0);
	reap();
	assert_as_before(before, "after the binary's undo");
	journal_close(j);
	must_run("after the binary's undo");
	reap();
	assert_as_before(before, "after the script behind the binary's undo");
	play();
}

/* Kills an apply at its @n-th system call of @total, counted by the first call with n = UINT_MAX. Returns the number of calls. */
static unsigned int apply_until(struct journal *j, struct change *c, unsigned int n)
{
	unsigned int calls = 0;
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		c->before_intent = NULL; /* written already: not what is to be killed */
		raise(SIGSTOP);
		_exit(change_apply(j, c, NULL) < 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD), 0);
	for (int sig = 0;; sig = 0) {
		if (ptrace(PTRACE_SYSCALL, pid, 0, sig) < 0 || waitpid(pid, &status, 0) != pid)
			fail_msg("the traced child was lost: %s", strerror(errno));
		if (WIFEXITED(status))
			return calls;
		assert_true(WIFSTOPPED(status));
		if (WSTOPSIG(status) != (SIGTRAP | 0x80))
			continue;
		if (calls++ < n)
			continue;
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		return calls;
	}
}

static void half(struct change *c, const char *before)
{
	nsec_t begun = now_ns();
	unsigned int total = 0, k;

	for (k = 0; k <= HALVES && (k < 2 || now_ns() - begun < LONG); k++) {
		struct journal *j = begin(c, "script-half");
		struct err err = {0};

		if (c->ops->capture(c->node, c->args, &c->prior, &err) < 0)
			fail_msg("capture: %s", err.text);
		/*
		 * The child captures on its own, and what it draws by chance is not what this script knows: so it must be the child's
		 * record that the script is made of. It is in the journal, if the child came so far.
		 */
		json_decref(TAKE_PTR(c->prior));
		if (k == 0)
			total = apply_until(j, c, UINT32_MAX);
		else
			(void)apply_until(j, c, total - (total / 2) * (k - 1) / HALVES - 1);
		reap();
		{
			const struct journal_entry *e;
			size_t n;

			assert_int_equal(journal_load(j, &e, &n, &err), 0);
			if (n) {
				struct change record = {.ops = c->ops, .node = c->node, .args = (json_t *)e[0].args, .prior = (json_t *)e[0].prior};

				assert_int_equal(write_one(&record, run, &err), 0);
				journal_close(TAKE_PTR(j));
				must_run("after half a change");
			}
		}
		journal_close(j);
		play();
		reap();
		assert_as_before(before, "after half a change and the script");
	}
	if (k <= HALVES)
		printf("    %s: killed at %u of %u points: a slow machine\n", c->ops->name, k - 1, HALVES);
}

static void scripted(void **state)
{
	const struct one *o = *state;
	_cleanup_free_ char *before = NULL;
	struct change c;

	if (!o->example) {
		printf("SKIP: %s: it gives no example\n", o->name);
		skipped++;
		skip();
	}
	if (!prepare(o, &c)) {
		skipped++;
		skip();
	}
	before = snapshot();
	life(&c, before);
	half(&c, before);
	json_decref(c.args);
	json_decref(c.prior);
	checked++;
}

/* The same where something stands already that is to stay, or to come back. */
static void with_something_there(void **state)
{
	static const struct {
		const char *change, *args, *setup, *cleanup;
	} cases[] = {
		{"set.ipset", "{\"node\": \"node\", \"name\": \"there\", \"members\": [\"198.18.0.7\"]}",
			"nsenter --net=/run/netns/node sh -c 'ipset create there hash:ip timeout 600 counters comment && "
			"ipset add there 198.18.0.1 timeout 500 comment \"it is here\" && ipset add there 198.18.0.3'",
			"nsenter --net=/run/netns/node ipset destroy there"},
		{"fault.node_loss", "{\"node\": \"node\", \"how\": \"silent\"}",
			"nsenter --net=/run/netns/sw sh -c 'tc qdisc add dev node clsact && "
			"tc filter add dev node ingress pref 7 handle 0x1 bpf bytecode \"1,6 0 0 4294967295\" da'",
			"nsenter --net=/run/netns/sw tc qdisc del dev node clsact"},
		{"fault.node_loss", "{\"node\": \"node\", \"how\": \"cut\"}",
			"nsenter --net=/run/netns/sw ip addr add 2001:db8:9::1/64 dev node nodad",
			"nsenter --net=/run/netns/sw ip addr del 2001:db8:9::1/64 dev node"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct one o = {.ops = change_find(cases[i].change), .example = json_loads(cases[i].args, 0, NULL)};
		_cleanup_free_ char *before = NULL;
		struct change c = {0};

		snprintf(o.name, sizeof(o.name), "%s, case %zu", cases[i].change, i + 1);
		assert_non_null(o.example);
		sh("%s", cases[i].setup);
		if (!prepare(&o, &c))
			fail_msg("%s cannot be made", o.name);
		before = snapshot();
		life(&c, before);
		half(&c, before);
		json_decref(c.args);
		json_decref(c.prior);
		json_decref(o.example);
		sh("%s", cases[i].cleanup);
	}
}

/* A filter that somebody else has put into our clsact meanwhile is left alone, and the script says that it is not done. */
static void leaves_what_is_others(void **state)
{
	struct one o = {.ops = change_find("fault.node_loss"), .name = "others"};
	_cleanup_free_ char *before = snapshot();
	struct change c = {0};
	struct journal *j;

	(void)state;
	o.example = json_pack("{s:s, s:s}", "node", "node", "how", "silent");
	assert_true(prepare(&o, &c));
	j = begin(&c, "script-others");
	must_apply(j, &c);
	journal_close(j);
	sh("nsenter --net=/run/netns/sw tc filter add dev node egress pref 7 handle 0x1 bpf bytecode '1,6 0 0 4294967295' da");
	assert_int_equal(run_script(FOLDER, ""), 1);
	sh("nsenter --net=/run/netns/sw tc filter show dev node egress | grep -q 'pref 7 '");
	sh("! nsenter --net=/run/netns/sw tc filter show dev node egress | grep muster");
	sh("nsenter --net=/run/netns/sw tc filter del dev node egress pref 7");
	must_run("after the other filter has gone");
	assert_as_before(before, "after the script");
	play();
	json_decref(c.args);
	json_decref(c.prior);
	json_decref(o.example);
}

static void something_was_checked(void **state)
{
	(void)state;
	printf("    %u examples are undone by their scripts, %u skipped\n", checked, skipped);
	assert_true(only || checked > 0);
}

/* ── names ─────────────────────────────────────────────────────────────────────────────────── */

#define HOSTILE "/run/it's `touch broken` $(touch broken)\n\"; touch broken #"

static void hostile_names(void **state)
{
	_cleanup_json_ json_t *args = json_pack("{s:s, s:{s:s}}", "node", "node", "values", "net.core.somaxconn", "1234");
	_cleanup_node_ struct node *n = node_new("a $(touch broken) 'name\nreboot", HOSTILE);
	const struct change_ops *ops = change_find("set.sysctl");
	_cleanup_free_ char *before = NULL;
	_cleanup_strbuf_ struct strbuf quoted = {0};
	struct change c = {.ops = ops, .node = n, .before_intent = write_one};
	struct journal *j;
	int fd;

	(void)state;
	fd = open(HOSTILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	strbuf_add_shell(&quoted, HOSTILE);
	sh("mount --bind /run/netns/node %s", strbuf_cstr(&quoted));
	assert_int_equal(node_open(n, NULL), 0);
	before = snapshot();
	c.args = args;
	j = begin(&c, "script-names");
	must_apply(j, &c);
	journal_close(j);
	lint();
	must_run("with hostile names");
	must_verify(&c, "with hostile names");
	assert_as_before(before, "after a script with hostile names");
	assert_int_not_equal(access("broken", F_OK), 0);
	assert_int_not_equal(access("/broken", F_OK), 0);
	play();
	json_decref(c.prior);
	assert_int_equal(umount2(HOSTILE, MNT_DETACH), 0);
	assert_int_equal(unlink(HOSTILE), 0);
}

/* Carriers, and the addresses that come with them, take a moment: as in bridge_site_make() */
static void await_links(void)
{
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC;; (void)poll(NULL, 0, 10)) {
		_cleanup_free_ char *now = site_snapshot(&bridge);

		if (count_text(now, " operstate 6 ") == 5 && count_text(now, " addr fe80:") == 5)
			return;
		if (now_ns() > until)
			fail_msg("the links do not come up: %s", now);
	}
}

/* A device may be called nearly anything without a blank or a slash, and goes into tc's and ip's words. */
static void hostile_device(void **state)
{
	static const char *const hows[] = {"silent", "cut"};
	struct node_link *l = &bridge.node->links[0];
	_cleanup_free_ char *before = NULL;
	char port[16];

	(void)state;
	strcpy(port, l->peer_dev);
	strcpy(l->peer_dev, "x'`id`;$0\"#");
	sh("nsenter --net=/run/netns/sw ip link set node down && nsenter --net=/run/netns/sw ip link set node name 'x'\\''`id`;$0\"#' up");
	await_links();
	before = snapshot();
	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		struct one o = {.ops = change_find("fault.node_loss"), .name = "hostile"};
		struct change c = {0};

		o.example = json_pack("{s:s, s:s}", "node", "node", "how", hows[i]);
		assert_true(prepare(&o, &c));
		life(&c, before);
		json_decref(c.args);
		json_decref(c.prior);
		json_decref(o.example);
	}
	strcpy(l->peer_dev, port);
	sh("nsenter --net=/run/netns/sw ip link set 'x'\\''`id`;$0\"#' down && "
	   "nsenter --net=/run/netns/sw ip link set 'x'\\''`id`;$0\"#' name node up");
	await_links();
}

/* ── no room ───────────────────────────────────────────────────────────────────────────────── */

static int write_full(struct change *c, void *arg, struct err *err)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	script_begin(&b, arg, "x.lua");
	script_change(&b, c->ops, c->node, c->args, c->prior);
	return script_write("/run/full", &b, true, err);
}

/* What could not be undone without us is not done. */
static void no_room_for_the_script(void **state)
{
	_cleanup_json_ json_t *args = json_pack("{s:s, s:{s:s}}", "node", "node", "values", "net.core.somaxconn", "1234");
	struct change c = {.ops = change_find("set.sysctl"), .node = bridge.node, .args = args, .before_intent = write_full};
	_cleanup_free_ char *before = snapshot(), *script = NULL;
	const struct journal_entry *e;
	struct journal *j = begin(&c, "script-full");
	struct err err = {0};
	size_t n;

	(void)state;
	sh("mkdir /run/full && mount -t tmpfs -o size=8k full /run/full && echo old >/run/full/restore.sh && "
	   "! cat /dev/zero >/run/full/zero 2>/dev/null");
	assert_int_equal(change_apply(j, &c, &err), -ENOSPC);
	if (!strstr(err.text, "/run/full/restore.sh"))
		fail_msg("%s", err.text);
	assert_int_equal(journal_load(j, &e, &n, NULL), 0);
	assert_int_equal(n, 0);
	assert_as_before(before, "after a change that was not made");
	/* the one that was there is whole, and nothing else lies about */
	assert_int_equal(file_read("/run/full/restore.sh", 100, &script, NULL), 0);
	assert_string_equal(script, "old\n");
	assert_int_not_equal(access("/run/full/restore.sh.new", F_OK), 0);
	sh("umount /run/full && rmdir /run/full");
	journal_close(j);
	play();
}

/* ── what plain words cannot do ────────────────────────────────────────────────────────────── */

static int partly(const struct node *n _unused_, const json_t *args _unused_, const json_t *prior _unused_,
	struct strbuf *ret_apply _unused_, struct strbuf *ret_undo)
{
	strbuf_puts(ret_undo, "# a comment that isn't a quote\n# left: the filter's program, which isn't text\n"
			      "echo 'one\ntwo' >" FOLDER "/did\nfalse\necho more >>" FOLDER "/did\n");
	return 0;
}

static void says_what_it_leaves(void **state)
{
	static const struct change_ops ops = {.name = "test.partly", .class = CHANGE_VOLATILE, .command = partly},
				       none = {.name = "test.none", .class = CHANGE_DURABLE};
	_cleanup_free_ char *log = NULL, *did = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	struct change c = {0};
	struct journal *j;
	struct err err = {0};

	(void)state;
	j = begin(&c, "script-left");
	journal_close(j);
	script_begin(&b, run, "x.lua");
	script_change(&b, &ops, host, NULL, NULL);
	script_change(&b, &none, host, NULL, NULL);
	script_end(&b, run);
	assert_int_equal(script_write(FOLDER, &b, true, &err), 0);
	lint();
	assert_int_equal(run_script(FOLDER, ""), 1);
	assert_int_equal(file_read(FOLDER "/log", 1 << 20, &log, NULL), 0);
	assert_non_null(strstr(log, "LEFT: the filter's program, which isn't text"));
	assert_non_null(strstr(log, "LEFT: test.none on host: there are no plain commands for it"));
	assert_non_null(strstr(log, "NOT all is undone: 1 commands failed, 2 things are left"));
	/* and the rest was done */
	assert_int_equal(file_read(FOLDER "/did", 1 << 20, &did, NULL), 0);
	assert_string_equal(did, "one\ntwo\nmore\n");
	play();
}

/* Another boot: what was volatile is void, and is not touched. */
static void another_boot(void **state)
{
	_cleanup_json_ json_t *args = json_pack("{s:s, s:{s:s}}", "node", "node", "values", "net.core.somaxconn", "1234");
	struct change c = {.ops = change_find("set.sysctl"), .node = bridge.node, .args = args, .before_intent = write_one};
	_cleanup_free_ char *log = NULL, *before = snapshot();
	struct journal *j = begin(&c, "script-boot");

	(void)state;
	must_apply(j, &c);
	journal_close(j);
	sh("echo 01234567-89ab-cdef-0123-456789abcdef >/run/boot_id && mount --bind /run/boot_id /proc/sys/kernel/random/boot_id");
	must_run("in another boot");
	sh("umount /proc/sys/kernel/random/boot_id");
	assert_int_equal(file_read(FOLDER "/log", 1 << 20, &log, NULL), 0);
	assert_non_null(strstr(log, "it ended with the boot"));
	assert_int_equal(c.ops->verify(c.node, c.args, c.prior, NULL), 1);
	must_run("in this boot");
	assert_as_before(before, "after the script");
	play();
	json_decref(c.prior);
}

/* ── whole drills ──────────────────────────────────────────────────────────────────────────── */

/* All of muster's own processes in this PID namespace, which is the test's: the command, the guard, the engine, the script */
static size_t kill_those_found(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int fds[32];
	size_t n = 0;

	assert_non_null(proc);
	while ((e = readdir(proc))) {
		char path[300];
		_cleanup_free_ char *comm = NULL;
		pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);

		if (pid <= 1)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
		if (file_read(path, 64, &comm, NULL) < 0 || strncmp(comm, "muster", 6) != 0 || n == ARRAY_SIZE(fds))
			continue;
		fds[n] = (int)syscall(SYS_pidfd_open, pid, 0);
		/* all stand still before the first one dies, or the others would undo what its death tells them to */
		if (fds[n] >= 0)
			kill(pid, SIGSTOP);
		n += fds[n] >= 0;
	}
	closedir(proc);
	for (size_t i = 0; i < n; i++)
		(void)syscall(SYS_pidfd_send_signal, fds[i], SIGKILL, NULL, 0);
	/* dead when they have let go of what they hold, which takes a moment */
	for (size_t i = 0; i < n; i++) {
		struct pollfd p = {.fd = fds[i], .events = POLLIN};

		assert_int_equal(poll(&p, 1, 10000), 1);
		close(fds[i]);
	}
	return n;
}

/* Again, as long as there are any: who was not found yet may have started another */
static void kill_ours(void)
{
	while (kill_those_found())
		reap();
}

static char *host_snapshot(void)
{
	const struct node *nodes[] = {host};
	char *text = NULL;

	assert_int_equal(snapshot_take(nodes, 1, &text, NULL), 0);
	return text;
}

/* Until the run's journal holds @n changes: of a drill, what is going on when it does is made just then. */
static void await_records(const struct drill *d, size_t n)
{
	nsec_t deadline = now_ns() + PATIENCE / 2;
	struct pollfd p = {.fd = d->pidfd, .events = POLLIN};

	for (;;) {
		struct journal_found *found;
		size_t runs, have = 0;

		assert_int_equal(journal_list(&found, &runs, NULL), 0);
		if (runs) {
			_cleanup_journal_peek_ struct journal_peek peek = {0};

			if (journal_peek(found[0].run_id, &peek, NULL) == 0)
				have = peek.n;
		}
		journal_list_free(found, runs);
		if (have >= n)
			return;
		if (now_ns() >= deadline || poll(&p, 1, 1) > 0) {
			show_log(d);
			fail_msg("the drill ended, or took too long, before its change %zu", n);
		}
	}
}

/* Everything of ours is dead; a shell brings the host back. */
static void shell_restores(struct drill *d, const char *before, const char *when, int stale)
{
	_cleanup_free_ char *after = NULL, *log = strf("%s/log", d->out), *out = strf("%s/restored.json", d->out),
			    *command = strf(MUSTER_BINARY " restore --json >%s", out);
	_cleanup_json_ json_t *report = NULL, *diff = NULL;
	struct journal_found *found;
	const json_t *r;
	size_t n;
	int status;

	kill_ours();
	close(d->pidfd);
	status = run_script(d->out, "");
	if (status != 0) {
		show_file(log);
		fail_msg("%s: restore.sh ended with status %d", when, status);
	}
	reap();
	after = host_snapshot();
	diff = snapshot_diff(before, after);
	if (json_array_size(diff)) {
		_cleanup_free_ char *text = json_dumps(diff, JSON_INDENT(1));

		show_file(log);
		fail_msg("%s: the host is not as it was: %s", when, text);
	}
	assert_int_not_equal(system("ls /run/netns | grep -q muster-pair"), 0);
	assert_int_not_equal(access("/run/muster/lab", F_OK), 0);
	/* and the binary finds nothing left */
	assert_int_equal(system(command), 0);
	report = json_load_file(out, 0, NULL);
	r = json_array_get(report, 0);
	assert_int_equal(json_integer_value(json_object_get(r, "failed")), 0);
	assert_int_equal(json_integer_value(json_object_get(r, "conflicts")), 0);
	/* what was in a namespace that is gone; the lab itself had been undone when it was looked at */
	if (stale >= 0)
		assert_int_equal(json_integer_value(json_object_get(r, "stale")), stale);
	assert_int_equal(journal_list(&found, &n, NULL), 0);
	assert_int_equal(n, 0);
	journal_list_free(found, n);
	assert_int_equal(run_script(d->out, ""), 0);
	done(d);
}

static void after_a_crash(void **state)
{
	static const char *const hows[] = {"how=silent", "how=cut", "how=loud"};
	_cleanup_free_ char *before = host_snapshot();

	(void)state;
	sh("rm -rf /run/muster"); /* what a test that failed has left */
	for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
		struct drill d;

		start(&d, "drills/pair-stays.lua", "--set", hows[i], NULL);
		await_line(&d, "fault.node_loss", "\"applied\"");
		shell_restores(&d, before, hows[i], 2);
	}
}

/* Killed while the lab is being built, the baseline set, the fault injected */
static void after_a_crash_in_the_middle(void **state)
{
	_cleanup_free_ char *before = host_snapshot();
	nsec_t begun = now_ns();
	unsigned int kills = 0;

	(void)state;
	sh("rm -rf /run/muster");
	for (int late = 0; late < 3 && (late == 0 || now_ns() - begun < LONG); late++)
		for (size_t records = 1; records <= 3; records++, kills++) {
			_cleanup_free_ char *when = strf("in change %zu, %d ms later", records, late * 30);
			struct drill d;

			start(&d, "drills/pair-stays.lua", "--set", "how=loud", NULL);
			await_records(&d, records);
			(void)poll(NULL, 0, late * 30);
			shell_restores(&d, before, when, -1);
		}
	printf("    killed %u times, restored by the script each time\n", kills);
}

/* ── all of the table ──────────────────────────────────────────────────────────────────────── */

static void add_tests(struct CMUnitTest **tests, size_t *n, const struct change_ops *ops)
{
	json_t *examples = ops->example ? json_loads(ops->example, 0, NULL) : NULL;
	size_t count = json_is_array(examples) ? json_array_size(examples) : 1;

	for (size_t i = 0; i < count; i++) {
		struct one *o = calloc(1, sizeof(*o));
		struct CMUnitTest *more = realloc(*tests, (*n + 1) * sizeof(**tests));

		if (!o || !more)
			exit(1);
		*tests = more;
		o->ops = ops;
		o->example = json_is_array(examples) ? json_incref(json_array_get(examples, i)) : json_incref(examples);
		snprintf(o->name, sizeof(o->name), count > 1 ? "%s, example %zu" : "%s", ops->name, i + 1);
		(*tests)[(*n)++] = (struct CMUnitTest){.name = o->name, .test_func = scripted, .initial_state = o};
	}
	json_decref(examples);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest others[] = {
		cmocka_unit_test(something_was_checked),
		cmocka_unit_test(with_something_there),
		cmocka_unit_test(leaves_what_is_others),
		cmocka_unit_test(hostile_names),
		cmocka_unit_test(hostile_device),
		cmocka_unit_test(no_room_for_the_script),
		cmocka_unit_test(says_what_it_leaves),
		cmocka_unit_test(another_boot),
		cmocka_unit_test(after_a_crash),
		cmocka_unit_test(after_a_crash_in_the_middle),
	};
	struct CMUnitTest *tests = NULL, *all;
	size_t n = 0;
	int failed;

	if (argc > 2 && streq(argv[1], "daemon"))
		return daemon_main();
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	own_machine = access("/run/muster-vm", F_OK) == 0;
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	only = argc > 1 ? argv[1] : NULL; /* "SELF netem" */
	for (const struct change_ops *const *c = change_table; *c; c++)
		if (!only || strstr((*c)->name, only))
			add_tests(&tests, &n, *c);
	all = realloc(tests, (n + ARRAY_SIZE(others)) * sizeof(*tests));
	if (!all)
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (!only || strstr(others[i].name, only))
			all[n++] = others[i];
	failed = _cmocka_run_group_tests("restore_script", all, n, make, drop);
	for (size_t i = 0; i < n; i++) {
		struct one *o = all[i].initial_state;

		if (o)
			json_decref(o->example);
		free(o);
	}
	free(all);
	return failed;
}
