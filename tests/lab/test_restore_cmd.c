/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `muster restore` and `muster status` as a person in an incident meets them: a live run, one that was cut off, one that has ended, one of
 * another boot, one that nobody knows; what they are told, and that telling changes nothing.
 */
#include "tests/lab/drill.h"

#include "bridge_site.h"
#include "engine/journal.h"

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

static struct node *host;

static int make(void **state)
{
	/* /run is the sandbox's own already; so is what outlives a boot, now */
	if (mount("lib", "/var/lib", "tmpfs", 0, "mode=755") < 0)
		return -1;
	sh("mkdir -p /var/lib/nginx");
	host = node_new("host", NULL);
	return node_open(host, NULL) < 0 ? -1 : setup(state);
}

static int drop(void **state)
{
	node_free(host);
	return teardown(state);
}

/* `COMMAND` with what it says on stdout and stderr; the exit code */
static int say(char **ret, const char *fmt, ...) _printf_(2, 3);
static int say(char **ret, const char *fmt, ...)
{
	_cleanup_free_ char *args = NULL, *command = NULL, *out = strf("%s/said", scratch);
	va_list ap;
	int status;

	va_start(ap, fmt);
	if (vasprintf(&args, fmt, ap) < 0)
		args = NULL;
	va_end(ap);
	assert_non_null(args);
	command = strf("%s >%s 2>&1 </dev/null", args, out);
	status = system(command);
	free(*ret);
	*ret = NULL;
	assert_int_equal(file_read(out, 8 << 20, ret, NULL), 0);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void assert_says(const char *text, const char *what)
{
	if (!strstr(text, what))
		fail_msg("\"%s\" is not in: %s", what, text);
}

static void await_applied(const struct drill *d)
{
	nsec_t deadline = now_ns() + PATIENCE / 2;
	struct pollfd p = {.fd = d->pidfd, .events = POLLIN};
	char path[160];

	snprintf(path, sizeof(path), "%s/timeline.jsonl", d->out);
	for (;;) {
		_cleanup_free_ char *text = NULL;
		char *fault;

		if (file_read(path, 64 << 20, &text, NULL) == 0 && (fault = strstr(text, "fault.node_loss")) &&
			strstr(fault, "applied"))
			return;
		if (now_ns() >= deadline || poll(&p, 1, 20) > 0) {
			show_log(d);
			fail_msg("the drill ended, or took too long, before its fault");
		}
	}
}

static char *run_id(void)
{
	struct journal_found *found;
	char *id;
	size_t n;

	assert_int_equal(journal_list(&found, &n, NULL), 0);
	assert_int_equal(n, 1);
	id = strdup(found[0].run_id);
	journal_list_free(found, n);
	return id;
}

/* Everything of ours in this PID namespace, which is the test's, and it is waited for. */
static size_t kill_those_found(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int fds[32];
	size_t n = 0;

	while ((e = readdir(proc))) {
		char path[300];
		_cleanup_free_ char *comm = NULL;
		pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);

		snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
		if (pid <= 1 || file_read(path, 64, &comm, NULL) < 0 || strncmp(comm, "muster", 6) != 0 || n == ARRAY_SIZE(fds))
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
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(poll(&(struct pollfd){.fd = fds[i], .events = POLLIN}, 1, 10000), 1);
		close(fds[i]);
	}
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return n;
}

/* Again, as long as there are any: who is not dead yet may have started another */
static void kill_ours(struct drill *d)
{
	while (kill_those_found())
		;
	close(d->pidfd);
}

static void file_is(const char *path, const char *bytes, size_t len)
{
	_cleanup_free_ char *now = NULL;
	size_t n;

	assert_int_equal(file_read(path, 8 << 20, &now, &n), 0);
	assert_int_equal(n, len);
	assert_memory_equal(now, bytes, len);
}

/* ── live ──────────────────────────────────────────────────────────────────────────────────── */

static void a_live_run(void **state)
{
	_cleanup_free_ char *id = NULL, *said = NULL, *folder = NULL;
	struct drill d;

	(void)state;
	start(&d, "drills/pair-stays.lua", NULL);
	await_applied(&d);
	id = run_id();
	for (int i = 0; i < 20; i++) /* the lock is never in the way of anybody */
		assert_int_equal(say(&said, MUSTER_BINARY " restore --show pair"), 0);
	assert_says(said, ": live: its drill goes on");
	assert_says(said, "fault.node_loss on server was made, and is not undone");
	assert_says(said, "do nothing now: the run is live, and its own guard undoes it");
	assert_says(said, "tc filter del dev server ingress");
	assert_says(said, "muster halt pair-");
	assert_int_equal(say(&said, MUSTER_BINARY " restore pair-s"), 6);
	assert_says(said, "is live");
	assert_int_equal(say(&said, MUSTER_BINARY " restore --all"), 0);
	assert_says(said, "nothing is hot");
	assert_int_equal(say(&said, MUSTER_BINARY " status pai"), 0);
	assert_says(said, "live, process");
	assert_int_equal(say(&said, MUSTER_BINARY " halt pears --reason test"), 2);
	assert_int_equal(say(&said, MUSTER_BINARY " halt pair-s --reason test"), 0);
	expect(&d, 4, "halted");
	done(&d);
	/* ended: the folder was made elsewhere, so this one is not known; one in the standard place is */
	assert_int_equal(say(&said, MUSTER_BINARY " restore %s", id), 2);
	assert_says(said, "there is no run");
	folder = strf("/var/lib/muster/runs/%s", id);
	sh("mkdir -p /var/lib/muster/runs && cp -r %s %s", d.out, folder);
	assert_int_equal(say(&said, MUSTER_BINARY " restore pair"), 0);
	assert_says(said, "has ended, and nothing of it is left to undo");
	assert_int_equal(say(&said, MUSTER_BINARY " report pair"), 0);
	sh("cp -r %s %s-again", d.out, folder);
	assert_int_equal(say(&said, MUSTER_BINARY " restore pair"), 2);
	assert_says(said, "may be any of 2 runs");
	assert_int_equal(say(&said, MUSTER_BINARY " report pair"), 2);
	assert_says(said, "may be any of 2 runs");
	assert_int_equal(say(&said, MUSTER_BINARY " report %s", id), 0); /* one id may begin another */
	assert_int_equal(say(&said, MUSTER_BINARY " restore no-such-run"), 2);
	assert_int_equal(say(&said, MUSTER_BINARY " restore --all pair"), 2);
	sh("rm -r /var/lib/muster/runs");
	assert_nothing_left();
}

/* The command is gone and its guard undoes: --wait sees the end of that. */
static void waits_for_the_guard(void **state)
{
	_cleanup_free_ char *said = NULL, *out = strf("%s/waited", scratch), *command = NULL;
	nsec_t deadline = now_ns() + PATIENCE;
	struct journal_found *found;
	struct drill d;
	pid_t guard, waiter;
	int status;
	size_t n;

	(void)state;
	start(&d, "drills/pair-stays.lua", NULL);
	await_applied(&d);
	assert_int_equal(say(&said, MUSTER_BINARY " restore --all --wait"), 0); /* in full swing: not waited for */
	assert_null(strstr(said, "waiting"));
	assert_int_equal(journal_list(&found, &n, NULL), 0);
	assert_int_equal(n, 1);
	guard = found[0].pid;
	journal_list_free(found, n);
	assert_true(guard > 1);
	/* it stands still, so that it is not done before anybody could wait for it */
	kill(guard, SIGSTOP);
	kill(d.pid, SIGKILL);
	assert_int_equal(waitpid(d.pid, NULL, 0), d.pid);
	close(d.pidfd);
	command = strf("exec " MUSTER_BINARY " restore --all --wait >%s 2>&1", out);
	waiter = fork();
	assert_true(waiter >= 0);
	if (waiter == 0) {
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	for (;; (void)poll(NULL, 0, 10)) {
		free(TAKE_PTR(said));
		if (file_read(out, 1 << 16, &said, NULL) == 0 && strstr(said, "is ending; waiting for its guard"))
			break;
		assert_true(now_ns() < deadline);
	}
	kill(guard, SIGCONT);
	assert_int_equal(waitpid(waiter, &status, 0), waiter);
	assert_int_equal(status, 0);
	free(TAKE_PTR(said));
	assert_int_equal(file_read(out, 1 << 16, &said, NULL), 0);
	assert_says(said, "nothing is hot");
	assert_nothing_left();
}

/* ── hot ───────────────────────────────────────────────────────────────────────────────────── */

static const json_t *change_of(const json_t *story, const char *name)
{
	const json_t *c;
	size_t i;

	json_array_foreach(json_object_get(story, "changes"), i, c) {
		if (streq(json_string_value(json_object_get(c, "change")), name))
			return c;
	}
	fail_msg("%s is not told of", name);
	return NULL;
}

static void a_hot_run(void **state)
{
	_cleanup_free_ char *id = NULL, *said = NULL, *journal = NULL, *bytes = NULL;
	_cleanup_json_ json_t *all = NULL;
	const json_t *story, *c;
	struct drill d;
	size_t len;

	(void)state;
	start(&d, "drills/pair-stays.lua", NULL);
	await_applied(&d);
	kill_ours(&d);
	id = run_id();
	journal = strf("/run/muster/%s/undo.journal", id);

	/* a torn tail, as a power cut leaves it; and nothing but the permission to read */
	sh("printf 'MJ1\\n\\377\\001\\000\\000torn' >>%s && chmod 644 %s", journal, journal);
	assert_int_equal(file_read(journal, 8 << 20, &bytes, &len), 0);
	assert_int_equal(say(&said, "setpriv --reuid 65534 --regid 65534 --clear-groups " MUSTER_BINARY " restore --show pair"), 0);
	assert_says(said, ": hot: its drill was cut off");
	assert_says(said, "torn tail: 12 bytes behind the last whole record");
	assert_says(said, "3. 20");
	assert_says(said, "Z: fault.node_loss on server was made, and is not undone");
	assert_says(said, "→ how: silent");
	assert_says(said, "set.sysctl on server");
	assert_says(said, "text: ");
	assert_says(said, "→ values: {net.core.somaxconn: 65535}");
	assert_says(said, "by hand  nsenter --net=/run/netns/muster-pair-server sysctl -w net.core.somaxconn=");
	assert_says(said, "restore  would undo it: compare, put back what was before, compare");
	assert_says(said, "to undo it: muster restore pair-stays-");
	assert_says(said, "/restore.sh\n");
	file_is(journal, bytes, len);
	assert_int_equal(say(&said, "setpriv --reuid 65534 --regid 65534 --clear-groups " MUSTER_BINARY " restore pair"), 6);
	file_is(journal, bytes, len);

	assert_int_equal(say(&said, MUSTER_BINARY " restore --show"), 0);
	assert_says(said, ": hot: 3 changes are not undone: fault.node_loss on server, set.sysctl on server, lab.site on host");
	assert_int_equal(say(&said, MUSTER_BINARY " status"), 0);
	assert_says(said, "and 3 changes are not undone: fault.node_loss on server, set.sysctl on server, lab.site on host");
	assert_int_equal(say(&said, MUSTER_BINARY " restore --show --json %s", id), 0);
	all = json_loads(said, 0, NULL);
	story = json_array_get(all, 0);
	assert_string_equal(json_string_value(json_object_get(story, "state")), "hot");
	assert_string_equal(json_string_value(json_object_get(story, "folder")), d.out);
	assert_true(json_is_true(json_object_get(story, "this_boot")));
	assert_int_equal(json_integer_value(json_object_get(story, "torn_bytes")), 12);
	c = change_of(story, "set.sysctl");
	assert_string_equal(json_string_value(json_object_get(c, "state")), "applied");
	assert_string_equal(json_string_value(json_object_get(c, "class")), "volatile");
	assert_true(json_is_string(json_object_get(c, "intended")));
	assert_int_equal(json_array_size(json_object_get(c, "undo")), 1);
	file_is(journal, bytes, len);

	assert_int_equal(say(&said, MUSTER_BINARY " restore pair"), 0);
	assert_says(said, "3 undone");
	assert_int_equal(say(&said, MUSTER_BINARY " restore --show"), 0);
	assert_says(said, "nothing to show");
	assert_nothing_left();
}

/* ── another boot ──────────────────────────────────────────────────────────────────────────── */

static void reboot(const char *id)
{
	sh("echo %s >/run/boot_id && mount --bind /run/boot_id " BOOT_ID, id);
}

static void after_a_reboot(void **state)
{
	_cleanup_free_ char *id = NULL, *said = NULL;
	struct drill d;

	(void)state;
	start(&d, "drills/pair-stays.lua", NULL);
	await_applied(&d);
	kill_ours(&d);
	id = run_id();
	reboot("01234567-89ab-cdef-0123-456789abcdef");
	assert_int_equal(say(&said, MUSTER_BINARY " restore --show pair"), 0);
	assert_says(said, "in another boot");
	assert_says(said, "fault.node_loss on server is void");
	assert_says(said, "would do nothing: it ended with the boot");
	assert_null(strstr(said, "by hand"));
	assert_int_equal(say(&said, MUSTER_BINARY " status"), 0);
	assert_says(said, "all of it ended with the boot");
	/* what the boot unit does: nothing is undone, since this machine has never seen it, and the record goes */
	assert_int_equal(say(&said, MUSTER_BINARY " restore --all"), 0);
	assert_says(said, "0 undone, 0 had been undone");
	assert_int_equal(system("ls /run/netns | grep -q muster-pair-server"), 0);
	assert_int_equal(say(&said, MUSTER_BINARY " restore --all"), 0);
	assert_says(said, "nothing is hot");
	/* what a real reboot would have taken along */
	sh("umount " BOOT_ID);
	sh("for n in /run/netns/muster-pair-*; do n=${n##*/}; ip netns pids $n | xargs -r kill -KILL; ip netns del $n; done; "
	   "rm -rf /run/muster/lab");
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

/* A durable change of an earlier boot is undone at boot, when /run is empty. */
static void durable_at_boot(void **state)
{
	_cleanup_json_ json_t *args = json_pack("{s:s, s:{s:s}}", "node", "host", "values", "net.core.somaxconn", "4321");
	struct change_ops durable = *change_find("set.sysctl");
	struct change c = {.ops = &durable, .node = host, .args = args};
	_cleanup_free_ char *before = NULL, *now = NULL, *said = NULL;
	struct journal *j;
	struct err err = {0};

	(void)state;
	assert_int_equal(node_read(host, "/proc/sys/net/core/somaxconn", &before), 0);
	durable.class = CHANGE_DURABLE;
	assert_int_equal(journal_create("durable-1", &j, &err), 0);
	if (change_apply(j, &c, &err) < 0)
		fail_msg("%s", err.text);
	journal_close(j);
	/* the power goes */
	sh("rm -r /run/muster");
	reboot("11111111-89ab-cdef-0123-456789abcdef");
	assert_int_equal(say(&said, MUSTER_BINARY " restore --show dur"), 0);
	assert_says(said, "in another boot");
	assert_says(said, "set.sysctl on host was made, and is not undone");
	if (say(&said, MUSTER_BINARY " restore --all") != 0)
		fail_msg("%s", said);
	assert_says(said, "1 undone");
	assert_int_equal(node_read(host, "/proc/sys/net/core/somaxconn", &now), 0);
	assert_string_equal(now, before);
	assert_int_not_equal(access("/var/lib/muster/durable-1", F_OK), 0);
	assert_int_not_equal(access("/run/muster/durable-1", F_OK), 0);
	sh("umount " BOOT_ID);
	json_decref(c.prior);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_live_run),
		cmocka_unit_test(waits_for_the_guard),
		cmocka_unit_test(a_hot_run),
		cmocka_unit_test(after_a_reboot),
		cmocka_unit_test(durable_at_boot),
	};

	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, make, drop);
}
