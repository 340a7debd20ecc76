/* SPDX-License-Identifier: GPL-2.0-only */
/* What this machine has, what it lacks, what is used instead, and what to type about it. Looks; changes nothing. */
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/utsname.h>

#include "bpf/features.h"
#include "engine/cli_stray.h"
#include "engine/cmd.h"
#include "engine/journal.h"
#include "engine/standing.h"
#include "engine/str.h"
#include "lab/choose.h"
#include "lab/host.h"
#include "lab/vm.h"

/*
 * One line of the answer: {"group", "name", "status": "ok" | "warn" | "missing" | "unknown", "text", "instead", "fix",
 * "blocks"}. `blocks`: no shipped drill can run before this is mended.
 */
struct doctor {
	json_t *items;
	const char *lab; /* "netns", "vm"; NULL: neither */
	bool blocked;
};

static void say(struct doctor *d, const char *group, const char *name, const char *status, char *text,
	const char *instead, const char *fix, bool blocks)
{
	json_array_append_new(d->items, json_pack("{s:s, s:s, s:s, s:s, s:s?, s:s?, s:b}", "group", group, "name", name,
						"status", status, "text", text ? text : "", "instead", instead, "fix",
						fix, "blocks", blocks));
	d->blocked |= blocks;
	free(text);
}

static char *text_of(const char *s)
{
	return strdup(s);
}

/* ── kernel ─────────────────────────────────────────────────────────────────────────────────── */

/* @there: 1, 0, or -errno for "could not be told" */
static void feature(struct doctor *d, const char *name, int there, const char *what, const char *module,
	const char *fix)
{
	/* what matters is a lab that can be had: there the feature is not missed */
	const char *instead = streq(d->lab, "vm") ? "the microVM's kernel has it" : NULL;

	if (there == 1 && module && host_module(module) == HOST_MODULE_LOADABLE)
		say(d, "kernel", name, "ok", strf("%s (%s is loaded when it is first used)", what, module), NULL, NULL,
			false);
	else if (there == 1)
		say(d, "kernel", name, "ok", text_of(what), NULL, NULL, false);
	else if (there == 0)
		say(d, "kernel", name, "missing", strf("%s: not in this kernel", what), instead, fix, false);
	else
		say(d, "kernel", name, "unknown", strf("%s: %s", what, strerror(-there)), NULL, "run as root to know",
			false);
}

static void look_at_bpf(struct doctor *d)
{
	_cleanup_json_ json_t *list = NULL;
	json_t *f;
	size_t i;

	if (bpf_features(&list) < 0)
		return;
	json_array_foreach(list, i, f) {
		const char *name = json_string_value(json_object_get(f, "name"));
		const char *reason = json_string_value(json_object_get(f, "reason"));
		const char *text = json_string_value(json_object_get(f, "text"));
		const json_t *works = json_object_get(f, "works");
		_cleanup_free_ char *group = strf("bpf %s", name);

		if (json_is_true(works))
			say(d, "kernel", group, "ok", text_of(text), NULL, NULL, false);
		else
			say(d, "kernel", group, json_is_null(works) ? "unknown" : "missing",
				strf("%s: %s", text, reason ? reason : "no"),
				json_is_null(works)	   ? NULL
				: streq(d->lab, "vm") ? "the microVM's kernel has it"
				: streq(name, "tp_btf") ? "raw_tp, where that works"
							 : NULL,
				json_string_value(json_object_get(f, "hint")), false);
	}
}

static void look_at_kernel(struct doctor *d)
{
	bool v2 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
	struct utsname u;

	if (uname(&u) == 0)
		say(d, "kernel", "release", "ok", strf("%s %s, %s", u.sysname, u.release, u.machine), NULL, NULL, false);
	feature(d, "netns", host_has_netns(), "network namespaces", NULL, "a kernel with CONFIG_NET_NS");
	feature(d, "ipvs", host_has_ipvs(), "IPVS, which the director is made of", "ip_vs",
		"a kernel with CONFIG_IP_VS (Debian's linux-image-amd64 has it)");
	feature(d, "sch_netem", host_has_qdisc("netem"), "netem: delay, jitter and loss", "sch_netem",
		"a kernel with CONFIG_NET_SCH_NETEM (Debian's linux-image-amd64 has it)");
	feature(d, "clsact", host_has_qdisc("clsact"), "clsact: faults by address", "sch_ingress",
		"a kernel with CONFIG_NET_SCH_INGRESS");
	feature(d, "ip_set", host_module("ip_set") != HOST_MODULE_ABSENT, "ipset", "ip_set",
		"a kernel with CONFIG_IP_SET");
	look_at_bpf(d);
	say(d, "kernel", "cgroup", v2 ? "ok" : "warn", strf("control groups, version %s", v2 ? "2" : "1 or mixed"),
		v2 ? NULL : "processes are told apart by their network namespace",
		v2 ? NULL : "boot with systemd.unified_cgroup_hierarchy=1", false);
}

/* ── privileges ─────────────────────────────────────────────────────────────────────────────── */

static void look_at_privileges(struct doctor *d)
{
	static const struct {
		cap_value_t cap;
		const char *name;
	} caps[] = {{CAP_SYS_ADMIN, "sys_admin"}, {CAP_NET_ADMIN, "net_admin"}, {CAP_SYS_PTRACE, "sys_ptrace"},
		{CAP_KILL, "kill"}, {CAP_SYS_RESOURCE, "sys_resource"}, {CAP_BPF, "bpf"}, {CAP_PERFMON, "perfmon"}};
	_cleanup_strbuf_ struct strbuf lacking = {0};
	cap_t mine = cap_get_proc();

	if (geteuid() != 0) {
		say(d, "privileges", "root", "missing", strf("not root (uid %d): a drill changes kernel state", (int)geteuid()),
			"muster check and muster plan work without", "sudo muster doctor", true);
		cap_free(mine);
		return;
	}
	for (size_t i = 0; mine && i < ARRAY_SIZE(caps); i++) {
		cap_flag_value_t v = CAP_CLEAR;

		if (cap_get_flag(mine, caps[i].cap, CAP_EFFECTIVE, &v) == 0 && v != CAP_SET)
			strbuf_addf(&lacking, " cap_%s", caps[i].name);
	}
	cap_free(mine);
	if (lacking.len)
		say(d, "privileges", "root", "warn", strf("root, but without%s (a container?)", lacking.s),
			streq(d->lab, "vm") ? "inside the microVM it is root with all of them" : NULL,
			"start the container with --privileged, or run on the host", false);
	else
		say(d, "privileges", "root", "ok", text_of("root, with the capabilities that a drill uses"), NULL, NULL,
			false);
}

/* ── programs ───────────────────────────────────────────────────────────────────────────────── */

static void look_at_tools(struct doctor *d)
{
	static const struct {
		const char *program, *package, *what;
		bool blocks;
	} tools[] = {
		{"nginx", "nginx-light", "the real servers of site lvs-dr", true},
		{"keepalived", "keepalived", "the health checker of site lvs-dr", true},
		{"ip", "iproute2", "restore.sh", false},
		{"tc", "iproute2", "restore.sh", false},
		{"sysctl", "procps", "restore.sh", false},
		{"ipset", "ipset", "restore.sh", false},
		{"ipvsadm", "ipvsadm", "restore.sh", false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(tools); i++) {
		_cleanup_free_ char *path = NULL, *fix = NULL;

		if (host_program(tools[i].program, &path) == 0) {
			say(d, "tools", tools[i].program, "ok", strf("%s: %s", tools[i].what, path), NULL, NULL, false);
			continue;
		}
		fix = strf("apt-get install --no-install-recommends %s", tools[i].package);
		say(d, "tools", tools[i].program, tools[i].blocks ? "missing" : "warn",
			strf("%s: not installed", tools[i].what),
			tools[i].blocks ? NULL : "muster restore needs no program but itself", fix, tools[i].blocks);
	}
}

static void look_at_vm(struct doctor *d)
{
	struct vm_state s = {0};
	struct err err = {0};

	if (getenv("MUSTER_VM")) {
		say(d, "microvm", "here", "ok", text_of("this is the microVM"), NULL, NULL, false);
		return;
	}
	if (vm_available(&err) < 0)
		say(d, "microvm", "qemu", streq(d->lab, "netns") ? "warn" : "missing", text_of(err.text),
			streq(d->lab, "netns") ? "not needed: network namespaces will do here" : NULL, err.hint, false);
	else
		say(d, "microvm", "qemu", "ok", text_of("QEMU, a static busybox and memory for it are here"), NULL, NULL,
			false);
	if (vm_look(&s, &err) < 0) {
		say(d, "microvm", "kernel", "unknown", text_of(err.text), NULL, NULL, false);
		return;
	}
	if (s.release)
		say(d, "microvm", "kernel", "ok", strf("Linux %s in %s", s.release, s.dir), NULL, NULL, false);
	else
		say(d, "microvm", "kernel", "warn", strf("none in %s yet", s.dir),
			"the first drill that needs it fetches it (70 MB)", "muster vm fetch", false);
	if (s.kvm == VM_KVM_WORKS)
		say(d, "microvm", "kvm", "ok", text_of("KVM boots it: nearly native speed"), NULL, NULL, false);
	else if (s.kvm == VM_KVM_UNTRIED)
		say(d, "microvm", "kvm", "unknown", text_of("/dev/kvm is here; whether it boots is tried at the first start"),
			"emulation, if it does not", "muster vm fetch", false);
	else
		say(d, "microvm", "kvm", "warn", strf("not usable: %s", s.kvm_text ? s.kvm_text : "?"),
			"the processor is emulated: 10 to 15 times slower, and times are only good as ratios",
			"a machine, or a virtual one with nested virtualisation, where KVM boots", false);
	vm_state_clear(&s);
}

/* ── who else is at work here ───────────────────────────────────────────────────────────────── */

static void look_at_neighbours(struct doctor *d)
{
	static const struct {
		const char *comm, *does, *fix;
	} others[] = {
		{"irqbalance", "moves interrupts that a baseline has placed", "systemctl stop irqbalance"},
		{"tuned", "writes sysctls and governors that a baseline sets", "systemctl stop tuned"},
		{"numad", "moves processes and memory between nodes", "systemctl stop numad"},
		{"keepalived", "owns this host's IPVS table and addresses",
			"drill a lab site, or an inventory site that names keepalived as the owner"},
		{"ldirectord", "owns this host's IPVS table", "drill a lab site"},
		{"NetworkManager", "may configure devices that appear, a lab's among them",
			"unmanaged-devices=driver:veth;driver:bridge in /etc/NetworkManager/conf.d"},
		{"firewalld", "reloads rules, and a fault made of rules goes with them", "systemctl stop firewalld"},
	};
	unsigned int entries = host_ipvs_entries();
	bool any = false;

	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		pid_t pid = host_daemon(others[i].comm);

		if (!pid)
			continue;
		any = true;
		say(d, "daemons", others[i].comm, "warn", strf("runs here (pid %d): %s", (int)pid, others[i].does),
			"a lab's own namespaces are not touched by it", others[i].fix, false);
	}
	if (entries) {
		any = true;
		say(d, "daemons", "ipvs", "warn", strf("this host's own IPVS table has %u entries: it is in service", entries),
			"a lab has tables of its own", "do not point set.ipvs at the host itself", false);
	}
	if (!any)
		say(d, "daemons", "none", "ok", text_of("nobody here is known to undo a drill's changes"), NULL, NULL, false);
}

static void look_at_journals(struct doctor *d)
{
	struct journal_found *found;
	struct err err = {0};
	size_t n, hot = 0;

	if (journal_list(&found, &n, &err) < 0) {
		say(d, "journals", "journals", "unknown", text_of(err.text), NULL, "run as root to know", false);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *fix = NULL;

		/* a lab that was put up by hand and a baseline keep their journals until they are taken down */
		if (standing_run(found[i].run_id))
			continue;
		hot++;
		fix = found[i].live ? strf("muster halt %s --reason TEXT, or wait for it", found[i].run_id)
				    : strf("muster restore %s", found[i].run_id);
		say(d, "journals", found[i].run_id, "warn",
			text_of(found[i].live ? "a drill is going on" : "hot: a drill was cut off and not yet undone"), NULL,
			fix, true);
	}
	journal_list_free(found, n);
	if (!hot)
		say(d, "journals", "none", "ok", text_of("nothing is left to restore"), NULL, NULL, false);
}

/* What carries the tag of a run that is neither live nor hot */
static void look_at_strays(struct doctor *d)
{
	_cleanup_json_ json_t *strays = NULL;
	struct err err = {0};
	json_t *s;
	size_t i;

	if (geteuid() != 0)
		return say(d, "strays", "strays", "unknown", text_of("not looked for"), NULL, "run as root to know", false);
	if (cli_stray_find(&strays, &err) < 0)
		return say(d, "strays", "strays", "unknown", text_of(err.text), NULL, NULL, false);
	json_array_foreach(strays, i, s) {
		const char *run = json_string_value(json_object_get(s, "run"));

		say(d, "strays", json_string_value(json_object_get(s, "where")), "warn",
			strf("%s of run %s, which is neither live nor hot", json_string_value(json_object_get(s, "what")),
				run ? run : "(unknown)"),
			NULL, json_string_value(json_object_get(s, "fix")), false);
	}
	if (json_array_size(strays) == 0)
		say(d, "strays", "none", "ok", text_of("nothing here bears the mark of a run that is over"), NULL, NULL, false);
}

/* ── the command ────────────────────────────────────────────────────────────────────────────── */

static void print_items(const struct doctor *d)
{
	json_t *item;
	size_t i;

	json_array_foreach(d->items, i, item) {
		const char *instead = json_string_value(json_object_get(item, "instead"));
		const char *fix = json_string_value(json_object_get(item, "fix"));

		printf("%-8s %-11s %-12s %s\n", json_string_value(json_object_get(item, "status")),
			json_string_value(json_object_get(item, "group")),
			json_string_value(json_object_get(item, "name")),
			json_string_value(json_object_get(item, "text")));
		if (instead)
			printf("%34sinstead: %s\n", "", instead);
		if (fix)
			printf("%34sfix: %s\n", "", fix);
	}
}

static int doctor(const struct cmd_args *a)
{
	struct doctor d = {.items = json_array()};
	_cleanup_free_ char *why = NULL;
	struct err err = {0};
	int r, code;

	r = lab_choose("auto", &d.lab, &why, &err);
	if (r < 0)
		d.lab = NULL;
	look_at_kernel(&d);
	look_at_privileges(&d);
	look_at_tools(&d);
	look_at_vm(&d);
	look_at_neighbours(&d);
	look_at_journals(&d);
	look_at_strays(&d);
	code = r < 0 || d.blocked ? EXIT_REFUSED : EXIT_PASS;
	if (a->json) {
		_cleanup_json_ json_t *j = json_pack("{s:O, s:{s:s?, s:s, s:s?}, s:b}", "items", d.items, "lab", "auto", d.lab,
			"why", d.lab ? why : err.text, "fix", err.hint[0] && !d.lab ? err.hint : NULL, "can_run",
			code == EXIT_PASS);

		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
	} else {
		print_items(&d);
		if (d.lab)
			printf("\n--lab auto: %s: %s\n", d.lab, why);
		else
			printf("\n--lab auto: none: %s\n%s%s%s", err.text, err.hint[0] ? "fix: " : "", err.hint,
				err.hint[0] ? "\n" : "");
		printf("%s\n", code == EXIT_PASS ? "A drill can run here."
						 : "No drill can run here yet: mend what is missing above.");
	}
	json_decref(d.items);
	return code;
}

const struct cmd cmd_doctor = {
	.name = "doctor",
	.order = 100,
	.args = "",
	.summary = "What this machine lacks for a drill, and what is used instead",
	.help = "Looks at kernel features, privileges, programs, the microVM, daemons that might undo a drill's changes, and\n"
		"journals left behind. Each line: ok, warn, missing or unknown; what is used instead; how to mend it.\n"
		"Says which lab --lab auto picks, and why. Exit code 0 when a drill can run here, 6 when not.",
	.opts = (const struct cmd_opt[]){{0}},
	.max_args = 0,
	.run = doctor,
};
