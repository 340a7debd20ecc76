/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The snapshot against other people's tools: each subject is changed by ip, tc, ipset, sysctl, taskset, prlimit, ... and the
 * difference must be that change and nothing else; taken back, there must be none. And two pictures of a host on which nothing is
 * changed are equal, idle to the byte, and while processes, connections and neighbours come and go.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <linux/bpf.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <sys/socket.h>

#include "engine/site.h"
#include "tests/lab/bridge_site.h"

#define TAKES	   100
#define TAKE_EVERY (50 * NSEC_PER_MSEC)

static struct node *host;

static char *take(void)
{
	const struct node *nodes[] = {host};
	struct err err = {0};
	char *text = NULL;

	if (snapshot_take(nodes, 1, &text, &err) < 0)
		fail_msg("snapshot: %s", err.text);
	return text;
}

/* True: @line, which begins with its sign, is one of the patterns in @want, "|" between them, matched from the start */
static bool is_wanted(const char *line, const char *want, unsigned int *matched)
{
	for (unsigned int i = 0; *want; i++) {
		size_t n = strcspn(want, "|");

		if (strncmp(line, want, n) == 0) {
			*matched |= 1u << i;
			return true;
		}
		want += n + (want[n] == '|');
	}
	return false;
}

static void assert_differs(const char *before, const char *after, const char *want, const char *what)
{
	_cleanup_json_ json_t *diff = snapshot_diff(before, after);
	_cleanup_free_ char *all = json_dumps(diff, JSON_INDENT(1));
	unsigned int matched = 0, n = want[0] ? 1 : 0;
	const json_t *line;
	size_t i;

	for (const char *p = want; *p; p++)
		n += *p == '|';
	json_array_foreach(diff, i, line)
		if (!is_wanted(json_string_value(line), want, &matched))
			fail_msg("%s: \"%s\" was not to change: %s", what, json_string_value(line), all);
	if ((unsigned int)__builtin_popcount(matched) != n)
		fail_msg("%s: not all of \"%s\" is there: %s", what, want, all);
}

/* ── by other people's tools ───────────────────────────────────────────────────────────────── */

/*
 * $W is a folder of the test's own; d0 and d1 are a pair of devices, up; $P is a process that sleeps. @needs: a command
 * that fails where the kernel cannot (its output says why); NULL: nothing. @want: the lines that change, as
 * "- host: subject ..." and "+ host: subject ...", each as its beginning.
 */
static const struct {
	const char *name, *needs, *set_up, *change, *undo, *want;
} cases[] = {
	{"sysctl of a namespace", NULL, NULL, "sysctl -qw net.core.somaxconn=1000", "sysctl -qw net.core.somaxconn=4096",
		"- host: sysctl net.core.somaxconn = 4096|+ host: sysctl net.core.somaxconn = 1000"},
	{"sysctl of an interface", NULL, NULL, "sysctl -qw net.ipv4.conf.d0.rp_filter=2", "sysctl -qw net.ipv4.conf.d0.rp_filter=0",
		"- host: sysctl net.ipv4.conf.d0.rp_filter = 0|+ host: sysctl net.ipv4.conf.d0.rp_filter = 2"},
	{"sysctl of the machine", NULL, "cat /proc/sys/vm/page-cluster >$W/old",
		"echo $((1 + $(cat $W/old))) >/proc/sys/vm/page-cluster", "cat $W/old >/proc/sys/vm/page-cluster",
		"- host: sysctl vm.page-cluster = |+ host: sysctl vm.page-cluster = "},
	{"link", NULL, NULL, "ip link set d0 mtu 1400", "ip link set d0 mtu 1500",
		"- host: link d0 dev veth mtu 1500|+ host: link d0 dev veth mtu 1400"},
	{"address", NULL, NULL, "ip addr add 198.18.0.1/24 dev d0", "ip addr del 198.18.0.1/24 dev d0",
		"+ host: link d0 addr 198.18.0.1/24|+ host: link d0 route 198.18.0.0/24"},
	{"route in a table", NULL, NULL, "ip route add blackhole 198.18.7.0/24 table 77", "ip route flush table 77",
		"+ host: link - route 198.18.7.0/24 table 77 type 6"},
	{"next hop", "ip nexthop list", NULL, "ip nexthop add id 7 dev d0", "ip nexthop del id 7", "+ host: link d0 nexthop id 7"},
	{"neighbour", NULL, NULL, "ip neigh add 198.18.0.9 lladdr 02:00:00:00:00:09 dev d0 nud permanent",
		"ip neigh del 198.18.0.9 dev d0", "+ host: link d0 neigh 198.18.0.9 lladdr 02:00:00:00:00:09"},
	{"rule", "ip rule list", NULL, "ip rule add pref 100 fwmark 7 lookup 77", "ip rule del pref 100",
		"+ host: rule inet pref 100"},
	{"root qdisc", "tc qdisc add dev d0 root tbf rate 1mbit burst 10k limit 10k && tc qdisc del dev d0 root", NULL,
		"tc qdisc add dev d0 root handle 7: tbf rate 1mbit burst 10k limit 10k", "tc qdisc del dev d0 root",
		"- host: qdisc d0 root noqueue 0:|+ host: qdisc d0 root tbf 7: "},
	{"options of a qdisc", "tc qdisc add dev d0 root handle 7: tbf rate 1mbit burst 10k limit 10k", NULL,
		"tc qdisc change dev d0 root handle 7: tbf rate 2mbit burst 10k limit 10k", "tc qdisc del dev d0 root; tc qdisc add "
		"dev d0 root handle 7: tbf rate 1mbit burst 10k limit 10k", "- host: qdisc d0 root tbf 7: |+ host: qdisc d0 root tbf 7: "},
	{"class", "tc qdisc del dev d0 root; tc qdisc add dev d0 root handle 8: htb", NULL,
		"tc class add dev d0 parent 8: classid 8:10 htb rate 1mbit", "tc class del dev d0 classid 8:10",
		"+ host: qdisc d0 class 8:10 parent root htb"},
	{"filter", "tc qdisc add dev d1 clsact && tc filter add dev d1 egress pref 9 protocol ip u32 match u32 0 0", NULL,
		"tc filter add dev d1 ingress pref 5 protocol ip u32 match u32 0 0", "tc filter del dev d1 ingress",
		"+ host: qdisc d1 filter ingress u32 pref 5 protocol 0800"},
	{"action", "tc filter add dev d1 ingress pref 5 handle 1 matchall action drop", NULL,
		"tc filter del dev d1 ingress pref 5; tc filter add dev d1 ingress pref 5 handle 1 matchall action ok",
		"tc filter del dev d1 ingress pref 5; tc filter add dev d1 ingress pref 5 handle 1 matchall action drop",
		"- host: qdisc d1 filter ingress matchall pref 5 |+ host: qdisc d1 filter ingress matchall pref 5 "},
	{"police", "tc filter add dev d1 egress pref 6 handle 1 matchall action police rate 1mbit burst 10k", NULL,
		"tc filter del dev d1 egress pref 6; tc filter add dev d1 egress pref 6 handle 1 matchall action police rate 2mbit burst 10k",
		"tc filter del dev d1 egress pref 6; tc filter add dev d1 egress pref 6 handle 1 matchall action police rate 1mbit burst 10k",
		"- host: qdisc d1 filter egress matchall pref 6 |+ host: qdisc d1 filter egress matchall pref 6 "},
	{"netem", "tc qdisc add dev d1 root netem delay 1ms && tc qdisc del dev d1 root", NULL,
		"tc qdisc add dev d1 root handle 9: netem delay 5ms loss 1%", "tc qdisc del dev d1 root",
		"- host: qdisc d1 root noqueue 0:|+ host: qdisc d1 root netem 9: "},
	{"ipset", "ipset create probe hash:ip && ipset destroy probe", NULL, "ipset create t hash:ip", "ipset destroy t",
		"+ host: ipset t hash:ip"},
	{"member of an ipset", "ipset create m hash:ip", NULL, "ipset add m 198.18.0.1", "ipset del m 198.18.0.1",
		"+ host: ipset m member 198.18.0.1"},
	{"IPVS service", "ipvsadm -Ln", NULL, "ipvsadm -A -t 198.18.0.1:80 -s wrr", "ipvsadm -D -t 198.18.0.1:80",
		"+ host: ipvs service tcp 198.18.0.1:80 scheduler wrr"},
	{"IPVS destination", "ipvsadm -A -t 198.18.0.2:80 -s wrr && ipvsadm -a -t 198.18.0.2:80 -r 198.18.0.3:80 -g -w 3", NULL,
		"ipvsadm -e -t 198.18.0.2:80 -r 198.18.0.3:80 -g -w 0", "ipvsadm -e -t 198.18.0.2:80 -r 198.18.0.3:80 -g -w 3",
		"- host: ipvs server tcp 198.18.0.2:80 198.18.0.3:80 dr weight 3|+ host: ipvs server tcp 198.18.0.2:80 198.18.0.3:80 dr weight 0"},
	{"IPVS time-outs", "ipvsadm -Ln", NULL, "ipvsadm --set 901 120 300", "ipvsadm --set 900 120 300",
		"- host: ipvs timeouts tcp 900|+ host: ipvs timeouts tcp 901"},
	{"spreading of received packets", "test -w /sys/class/net/d0/queues/rx-0/rps_cpus", NULL,
		"echo 1 >/sys/class/net/d0/queues/rx-0/rps_cpus", "echo 0 >/sys/class/net/d0/queues/rx-0/rps_cpus",
		"- host: queue d0 rx-0 rps_cpus = 0|+ host: queue d0 rx-0 rps_cpus = 1"},
	{"interrupt", "for f in /proc/irq/*/*/; do f=${f%/*/}; cat $f/smp_affinity_list >$W/old && echo 0 >$f/smp_affinity_list && "
		      "! cmp -s $W/old $f/smp_affinity_list && cat $W/old >$f/smp_affinity_list && "
		      "cmp -s $W/old $f/smp_affinity_list && echo $f >$W/irq && exit 0; done "
		      "2>/dev/null; echo 'no interrupt of a device can be moved here'; exit 1",
		NULL, "echo 0 >$(cat $W/irq)/smp_affinity_list", "cat $W/old >$(cat $W/irq)/smp_affinity_list", "- host: irq |+ host: irq "},
	{"affinity", "test $(nproc) -gt 1", NULL, "taskset -cp 0 $P >/dev/null", "taskset -p ffffffff $P >/dev/null",
		"- host: task ~$P@*:sleep processors = 0-|+ host: task ~$P@*:sleep processors = 0"},
	{"limit", "prlimit --pid $P --nofile=900:1000", NULL, "prlimit --pid $P --nofile=800:1000", "prlimit --pid $P --nofile=900:1000",
		"- host: task ~$P@*:sleep limit nofile = 900 1000|+ host: task ~$P@*:sleep limit nofile = 800 1000"},
	{"niceness", NULL, "renice -n 0 -p $P >/dev/null", "renice -n 5 -p $P >/dev/null", "renice -n 0 -p $P >/dev/null",
		"+ host: task ~$P@*:sleep scheduled other priority 0 nice 5"},
	{"pages of other sizes", "test -w /sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
		"cat /proc/sys/vm/nr_overcommit_hugepages >$W/old",
		"echo $((1 + $(cat $W/old))) >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
		"cat $W/old >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
		"- host: hugepage 2048kB surplus allowed = |+ host: hugepage 2048kB surplus allowed = "},
	{"transparent huge pages", "test -w /sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan",
		"cat /sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan >$W/old",
		"echo $((1 + $(cat $W/old))) >/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan",
		"cat $W/old >/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan",
		"- host: hugepage transparent khugepaged/pages_to_scan|+ host: hugepage transparent khugepaged/pages_to_scan"},
	{"control group of ours", "mkdir -p $W/cg2 && mount -t cgroup2 none $W/cg2", NULL, "mkdir $W/cg2/muster-test-$$P",
		"rmdir $W/cg2/muster-test-$$P", "+ host: cgroup v2:/muster-test-"},
	{"setting of a control group", "mkdir $W/cg2/muster-test-$$P && test -e $W/cg2/muster-test-$$P/cgroup.freeze", NULL,
		"echo 1 >$W/cg2/muster-test-$$P/cgroup.freeze", "echo 0 >$W/cg2/muster-test-$$P/cgroup.freeze",
		"- host: cgroup v2:/muster-test-$$P cgroup.freeze = 0|+ host: cgroup v2:/muster-test-$$P cgroup.freeze = 1"},
	{"control group of a service", "test -d $W/cg2/muster-test-$$P", NULL, "mkdir $W/cg2/t$$P.service", "rmdir $W/cg2/t$$P.service", ""},
	{"setting of a service's control group", "mkdir $W/cg2/t$$P.service", NULL, "echo 1 >$W/cg2/t$$P.service/cgroup.freeze",
		"echo 0 >$W/cg2/t$$P.service/cgroup.freeze",
		"- host: cgroup ~v2:/t$$P.service#*cgroup.freeze = 0|+ host: cgroup ~v2:/t$$P.service#*cgroup.freeze = 1"},
	{"control groups again", "rmdir $W/cg2/t$$P.service $W/cg2/muster-test-$$P", NULL, "true", "true", ""},
	{"cpuset of version 1", "mkdir -p $W/cg1 && mount -t cgroup -o cpuset none $W/cg1 && mkdir $W/cg1/muster-test-$$P", NULL,
		"echo 0 >$W/cg1/muster-test-$$P/cpuset.cpus", "echo >$W/cg1/muster-test-$$P/cpuset.cpus; rmdir $W/cg1/muster-test-$$P; mkdir "
							      "$W/cg1/muster-test-$$P",
		"- host: cgroup cpuset:/muster-test-$$P cpuset.cpus = |+ host: cgroup cpuset:/muster-test-$$P cpuset.cpus = 0"},
	{"control groups of version 1 again", "! test -d $W/cg1/muster-test-$$P || rmdir $W/cg1/muster-test-$$P", NULL, "true", "true", ""},
	{"network namespace", NULL, "ip netns add first", "ip netns add second", "ip netns del second",
		"+ host: netns second|+ host: mount /run/netns/second nsfs"},
	{"mount of ours", "mkdir -p /run/muster-m", NULL, "mount -t tmpfs m /run/muster-m", "umount /run/muster-m",
		"+ host: mount /run/muster-m tmpfs"},
	{"somebody's mount", "mkdir -p $W/m", NULL, "mount -t tmpfs m $W/m", "umount $W/m", ""},
	{"options of a mount", "mount -t tmpfs m $W/m", NULL, "mount -o remount,ro $W/m", "mount -o remount,rw $W/m",
		"- host: mount ~$W/m#*rw|+ host: mount ~$W/m#*ro"},
	{"module", "modprobe -n dummy", NULL, "modprobe dummy numdummies=0", "true", ""},
};

static char work[64];
static pid_t sleeper;

/* $W, $P, $$P (the test's own number, for names that the whole machine sees) */
static char *expand(const char *s)
{
	struct strbuf b = {0};

	for (; s && *s; s++) {
		if (strncmp(s, "$W", 2) == 0)
			strbuf_puts(&b, work);
		else if (strncmp(s, "$$P", 3) == 0)
			strbuf_addf(&b, "%s", work + strlen("/run/snapshot."));
		else if (strncmp(s, "$P", 2) == 0)
			strbuf_addf(&b, "%d", (int)sleeper);
		else {
			strbuf_add(&b, s, 1);
			continue;
		}
		s += strncmp(s, "$$P", 3) == 0 ? 2 : 1;
	}
	strbuf_puts(&b, "");
	return b.s;
}

static bool try(const char *command, char **ret_output)
{
	_cleanup_free_ char *full = strf("{ %s\n} 2>&1", command);
	FILE *p = popen(full, "r");
	size_t len;

	assert_non_null(p);
	*ret_output = NULL;
	assert_int_equal(fd_read_all(fileno(p), 1 << 20, ret_output, &len), 0);
	return pclose(p) == 0;
}

/* "*" in a wanted line stands for anything up to the next letter of it: cut there, the rest is looked for in the line */
static void assert_change(const char *before, const char *after, const char *want, const char *what)
{
	_cleanup_free_ char *starts = strdup(want);
	char *to = starts;

	for (const char *p = want; *p;) {
		if (*p == '*') {
			p += strcspn(p, "|");
			continue;
		}
		*to++ = *p++;
	}
	*to = '\0';
	assert_differs(before, after, starts, what);
	/* the parts behind the stars */
	for (const char *p = want; (p = strchr(p, '*')); p++) {
		_cleanup_free_ char *part = strndup(p + 1, strcspn(p + 1, "|"));
		const char *sign = p;

		while (sign > want && sign[-1] != '|')
			sign--;
		if (!strstr(*sign == '-' ? before : after, part))
			fail_msg("%s: \"%s\" is not there", what, part);
	}
}

static void one_case(void **state)
{
	size_t i = (size_t)(uintptr_t)*state;
	_cleanup_free_ char *needs = expand(cases[i].needs), *set_up = expand(cases[i].set_up), *change = expand(cases[i].change),
			    *undo = expand(cases[i].undo), *want = expand(cases[i].want), *output = NULL;
	_cleanup_free_ char *before = NULL, *during = NULL, *after = NULL;

	if (cases[i].needs && !try(needs, &output)) {
		printf("SKIP: %s: %s: %s\n", cases[i].name, needs, output);
		/* skip() does not come back */
		free(TAKE_PTR(needs));
		free(TAKE_PTR(set_up));
		free(TAKE_PTR(change));
		free(TAKE_PTR(undo));
		free(TAKE_PTR(want));
		free(TAKE_PTR(output));
		skip();
	}
	if (cases[i].set_up)
		sh("%s", set_up);
	before = take();
	sh("%s", change);
	during = take();
	sh("%s", undo);
	after = take();
	assert_change(before, during, want, cases[i].name);
	assert_differs(before, after, "", cases[i].name);
}

/* ── what has no tool here ─────────────────────────────────────────────────────────────────── */

static bool nft_send(const struct nl_msg *const *msgs, size_t n)
{
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	char buf[16384];
	size_t len = 0;
	ssize_t got;

	if (fd < 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		struct nlmsghdr *h = nlmsg_hdr((struct nl_msg *)msgs[i]);

		h->nlmsg_seq = (uint32_t)i + 1;
		h->nlmsg_pid = 0;
		memcpy(buf + len, h, h->nlmsg_len);
		len += NLMSG_ALIGN(h->nlmsg_len);
	}
	assert_int_equal(sendto(fd, buf, len, 0, (struct sockaddr *)&kernel, sizeof(kernel)), (ssize_t)len);
	/* the last but one asked for an answer; an error of another comes before it */
	got = recv(fd, buf, sizeof(buf), 0);
	if (got < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)))
		return false;
	return ((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)buf))->error == 0;
}

static struct nl_msg *nft_msg(int type, int flags, uint8_t family, uint16_t res)
{
	struct nfgenmsg g = {.nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(res)};
	struct nl_msg *m = nlmsg_alloc_simple(type, NLM_F_REQUEST | flags);

	assert_non_null(m);
	assert_int_equal(nlmsg_append(m, &g, sizeof(g), NLMSG_ALIGNTO), 0);
	return m;
}

enum nft_what { NFT_TABLE_CHAIN, NFT_RULE, NFT_DROP };

/* Table "t", a chain "c" at the local input, a rule that counts: each made in a transaction of its own */
static bool nft_do(enum nft_what what)
{
	static const int types[] = {NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_DELTABLE};
	struct nl_msg *v[4];
	size_t n = 0;
	bool ok;

	v[n++] = nft_msg(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	if (what == NFT_TABLE_CHAIN) {
		v[n] = nft_msg(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE, NLM_F_CREATE, NFPROTO_IPV4, 0);
		nla_put_string(v[n++], NFTA_TABLE_NAME, "t");
	}
	v[n] = nft_msg(NFNL_SUBSYS_NFTABLES << 8 | types[what], NLM_F_ACK | (what == NFT_DROP ? 0 : NLM_F_CREATE | NLM_F_APPEND),
		NFPROTO_IPV4, 0);
	nla_put_string(v[n], NFTA_CHAIN_TABLE, "t"); /* 1 in all three */
	if (what == NFT_TABLE_CHAIN) {
		struct nlattr *hook;

		nla_put_string(v[n], NFTA_CHAIN_NAME, "c");
		hook = nla_nest_start(v[n], NFTA_CHAIN_HOOK);
		nla_put_u32(v[n], NFTA_HOOK_HOOKNUM, htonl(NF_INET_LOCAL_IN));
		nla_put_u32(v[n], NFTA_HOOK_PRIORITY, htonl(0));
		nla_nest_end(v[n], hook);
		nla_put_string(v[n], NFTA_CHAIN_TYPE, "filter");
	} else if (what == NFT_RULE) {
		struct nlattr *list, *elem;

		nla_put_string(v[n], NFTA_RULE_CHAIN, "c");
		list = nla_nest_start(v[n], NFTA_RULE_EXPRESSIONS);
		elem = nla_nest_start(v[n], NFTA_LIST_ELEM);
		nla_put_string(v[n], NFTA_EXPR_NAME, "counter");
		nla_nest_end(v[n], elem);
		nla_nest_end(v[n], list);
	}
	n++;
	v[n++] = nft_msg(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	ok = nft_send((const struct nl_msg *const *)v, n);
	for (size_t i = 0; i < n; i++)
		nlmsg_free(v[i]);
	return ok;
}

/* One datagram to this namespace's own loopback, received: it has passed the input chain */
static void packet(void)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	char c;

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	assert_int_equal(sendto(fd, "x", 1, 0, (struct sockaddr *)&a, sizeof(a)), 1);
	assert_int_equal(recv(fd, &c, 1, 0), 1);
}

static void nftables(void **state _unused_)
{
	_cleanup_free_ char *none = take(), *chain = NULL, *rule = NULL, *counted = NULL, *again = NULL;

	if (!nft_do(NFT_TABLE_CHAIN))
		SKIP("this kernel has no nftables (CONFIG_NF_TABLES)");
	chain = take();
	assert_differs(none, chain, "+ host: nft ip t table flags 0|+ host: nft ip t chain c type filter hook", "a table and a chain");
	assert_true(nft_do(NFT_RULE));
	rule = take();
	assert_differs(chain, rule, "+ host: nft ip t rule c 1: counter{", "a rule");
	packet();
	counted = take();
	assert_string_equal(rule, counted); /* what it counted is not in it */
	assert_true(nft_do(NFT_RULE));
	free(counted);
	counted = take();
	assert_differs(rule, counted, "+ host: nft ip t rule c 2: counter{", "the same rule again");
	assert_true(nft_do(NFT_DROP));
	again = take();
	assert_differs(none, again, "", "the table is gone");
}

static int load_program(enum bpf_prog_type type, int verdict)
{
	const struct bpf_insn code[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = verdict},
		{.code = BPF_JMP | BPF_EXIT},
	};

	return bpf_prog_load(type, "snap_test", "GPL", code, ARRAY_SIZE(code), NULL);
}

static void bpf_programs(void **state _unused_)
{
	_cleanup_close_ int xdp = load_program(BPF_PROG_TYPE_XDP, 2 /* XDP_PASS */), skb = load_program(BPF_PROG_TYPE_CGROUP_SKB, 1);
	_cleanup_free_ char *before = NULL, *during = NULL, *after = NULL, *pinned = NULL, *attached = NULL, *path = NULL;
	_cleanup_close_ int cg = -1;
	int ifindex = (int)if_nametoindex("d1");

	if (xdp < 0 || skb < 0)
		SKIP("this kernel loads no BPF program: %s", strerror(errno));
	sh("mount -t bpf bpf /sys/fs/bpf"); /* the sandbox has a sysfs of its own */
	before = take();
	assert_int_equal(bpf_xdp_attach(ifindex, xdp, 1u << 1 /* XDP_FLAGS_SKB_MODE */, NULL), 0);
	during = take();
	assert_int_equal(bpf_xdp_detach(ifindex, 1u << 1, NULL), 0);
	assert_differs(before, during, "+ host: bpf d1 xdp-generic snap_test |- host: link d1 dev veth|+ host: link d1 dev veth", "xdp");
	after = take();
	assert_differs(before, after, "", "xdp is detached");
	assert_int_equal(bpf_obj_pin(xdp, "/sys/fs/bpf/snap_test"), 0);
	pinned = take();
	assert_int_equal(unlink("/sys/fs/bpf/snap_test"), 0);
	assert_differs(before, pinned, "+ host: bpf pin /sys/fs/bpf/snap_test", "a pin");
	/* attached to a group of ours */
	path = strf("%s/cg2/muster-bpf-%s", work, work + strlen("/run/snapshot."));
	sh("mkdir -p %s/cg2; mountpoint -q %s/cg2 || mount -t cgroup2 none %s/cg2; mkdir %s", work, work, work, path);
	free(before);
	before = take();
	cg = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(cg >= 0);
	if (bpf_prog_attach(skb, cg, BPF_CGROUP_INET_INGRESS, 0) < 0) {
		rmdir(path);
		SKIP("no programs in control groups (CONFIG_CGROUP_BPF): %s", strerror(errno));
	}
	attached = take();
	assert_int_equal(bpf_prog_detach2(skb, cg, BPF_CGROUP_INET_INGRESS), 0);
	rmdir(path);
	assert_differs(before, attached, "+ host: cgroup v2:/muster-bpf-", "a program in a control group");
	assert_non_null(strstr(attached, " bpf 0 snap_test "));
}

/* A process that ends or begins is no change, pinned or not; a thread of one that stays is. */
static void processes(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *after = NULL, *object = NULL;
	pid_t old = fork();

	assert_true(old >= 0);
	if (old == 0) {
		execlp("taskset", "taskset", "-c", "0", "sleep", "1000", NULL);
		_exit(127);
	}
	object = strf("task ~%d@", (int)old);
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC;;) { /* until it is "sleep" */
		_cleanup_free_ char *now = take();
		const char *p = strstr(now, object);

		if (p && strncmp(p + strcspn(p, ":"), ":sleep ", 7) == 0)
			break;
		assert_true(now_ns() < until);
		(void)poll(NULL, 0, 5);
	}
	before = take();
	assert_non_null(strstr(before, object));
	kill(old, SIGKILL);
	waitpid(old, NULL, 0);
	sh("taskset -c 0 prlimit --nofile=100:100 sleep 1000 >/dev/null 2>&1 & echo $! >%s/new", work);
	after = take();
	assert_null(strstr(after, object));
	assert_differs(before, after, "", "processes that came and went");
	sh("kill -KILL $(cat %s/new)", work);
}

/* ── nothing changes by itself ─────────────────────────────────────────────────────────────── */

static int by_nsec(const void *a, const void *b)
{
	nsec_t x = *(const nsec_t *)a, y = *(const nsec_t *)b;

	return (x > y) - (x < y);
}

/* @exact: to the byte; else but for what comes and goes by itself */
static void takes(const char *what)
{
	_cleanup_free_ char *first = take();
	nsec_t took[TAKES], due = now_ns();

	assert_null(strstr(first, "could not be read"));
	for (int i = 0; i < TAKES; i++) {
		nsec_t t;

		/* the schedule is the test: 50 ms between one and the next */
		due += TAKE_EVERY;
		for (nsec_t left; (left = due - now_ns()) > 0;)
			(void)poll(NULL, 0, (int)(left / NSEC_PER_MSEC) + 1);
		t = now_ns();
		{
			_cleanup_free_ char *again = take();

			took[i] = now_ns() - t;
			assert_differs(first, again, "", what);
		}
	}
	qsort(took, TAKES, sizeof(took[0]), by_nsec);
	print_message("%s: %d of %d equal; one takes %.1f ms (median), %.1f ms (95th), %zu bytes\n", what, TAKES, TAKES,
		(double)took[TAKES / 2] / NSEC_PER_MSEC, (double)took[TAKES * 95 / 100] / NSEC_PER_MSEC, strlen(first));
}

static void idle(void **state _unused_)
{
	takes("idle");
}

static void busy(void **state _unused_)
{
	_cleanup_free_ char *script = strf("%s/busy.sh", work);
	static const char text[] = "ip addr add 198.18.9.1/24 dev d0\n"
				   "i=2\n"
				   "while :; do\n"
				   "	sleep 0.02 & (exec -a other sleep 0.01) &\n"
				   "	ip neigh replace 198.18.9.$i lladdr 02:00:00:00:09:01 dev d0 nud reachable\n"
				   "	i=$(( i % 250 + 2 ))\n"
				   "	(: </dev/tcp/127.0.0.1/9) 2>/dev/null\n"
				   "	(: >/dev/udp/198.18.9.$i/9) 2>/dev/null\n"
				   "	echo x >>$1/growing\n"
				   "	wait\n"
				   "done\n";
	pid_t pid;
	int ready[2];
	char c;

	assert_int_equal(file_write(script, text, strlen(text)), 0);
	sh("ip addr add 198.18.9.1/24 dev d0");
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		(void)!write(ready[1], "y", 1);
		freopen("/dev/null", "w", stderr);
		execlp("bash", "bash", script, work, NULL);
		_exit(127);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	takes("busy");
	kill(-pid, SIGKILL);
	waitpid(pid, NULL, 0);
	sh("ip addr del 198.18.9.1/24 dev d0");
}

/* Without privilege: what cannot be read is said, for each subject, and nothing is equal to it. */
static void unreadable(void **state _unused_)
{
	static const char *const subjects[] = {"queue ! could not be read", "bpf ! could not be read"};
	int out[2], status;
	_cleanup_free_ char *text = NULL;
	_cleanup_json_ json_t *diff = NULL;
	size_t len;
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char *mine = NULL;
		const struct node *nodes[] = {host};

		close(out[0]);
		if (setgid(65534) < 0 || setuid(65534) < 0 || snapshot_take(nodes, 1, &mine, NULL) < 0)
			_exit(1);
		_exit(fd_write_all(out[1], mine, strlen(mine)) < 0);
	}
	close(out[1]);
	assert_int_equal(fd_read_all(out[0], 64 << 20, &text, &len), 0);
	close(out[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* limits may be read by everybody, if not by the system call */
	assert_non_null(strstr(text, ":sleep limit nproc = "));
	for (size_t i = 0; i < ARRAY_SIZE(subjects); i++)
		if (!strstr(text, subjects[i]))
			fail_msg("\"%s\" is not said", subjects[i]);
	diff = snapshot_diff(text, text);
	assert_true(json_array_size(diff) >= ARRAY_SIZE(subjects));
}

/* ── the command ───────────────────────────────────────────────────────────────────────────── */

static void command(void **state _unused_)
{
	_cleanup_free_ char *out = NULL, *file = strf("%s/stored", work);

	sh(MUSTER_BINARY " snapshot >%s", file);
	sh(MUSTER_BINARY " snapshot --quiet --diff %s", file);
	sh("sysctl -qw net.core.somaxconn=1001; " MUSTER_BINARY " snapshot --quiet --diff %s >%s.diff; test $? = 5", file, file);
	sh("test \"$(cat %s.diff)\" = \"$(printf '%%s\\n' '+ host: sysctl net.core.somaxconn = 1001' '- host: sysctl net.core.somaxconn = "
	   "4096')\"",
		file);
	sh(MUSTER_BINARY " snapshot --json --diff %s >%s.json; test $? = 5 && grep -q '\"equal\":false' %s.json", file, file, file);
	sh("sysctl -qw net.core.somaxconn=4096; " MUSTER_BINARY " snapshot --json | grep -q '\"schema\":\"muster.snapshot/1\"'");
	/* of a namespace only what is a namespace's */
	sh("ip netns add only; " MUSTER_BINARY " snapshot only >%s.ns; ip netns del only; grep -q '^only: link lo ' %s.ns && "
	   "! grep -qE '^only: (irq|hugepage|module|cgroup|mount|netns|sysctl vm)' %s.ns",
		file, file, file);
	/* what is wrong is usage: 2 */
	sh(MUSTER_BINARY " snapshot nobody-of-that-name 2>/dev/null; test $? = 2");
	sh(MUSTER_BINARY " snapshot --diff %s/none 2>/dev/null; test $? = 2", work);
	sh("ip netns add only; " MUSTER_BINARY " snapshot only --diff %s 2>/dev/null; r=$?; ip netns del only; test $r = 2", file);
	(void)try("setpriv --reuid 65534 --clear-groups " MUSTER_BINARY " snapshot; echo exit $?", &out);
	assert_non_null(strstr(out, "root"));
	assert_non_null(strstr(out, "exit 6"));
}

static int prepare(void **state _unused_)
{
	snprintf(work, sizeof(work), "/run/snapshot.%llx", (unsigned long long)now_ns());
	if (mkdir_p(work) < 0)
		return -1;
	host = node_new("host", NULL);
	if (!host || node_open(host, NULL) < 0)
		return -1;
	/* no addresses that come a moment later */
	sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.rp_filter=0; ip link set lo up; "
	   "ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up; ip netns add zero; ip netns del zero");
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC;;) {
		_cleanup_free_ char *now = take();

		if (count_text(now, " operstate 6 ") == 2)
			break;
		if (now_ns() > until)
			return -1;
		(void)poll(NULL, 0, 10);
	}
	sleeper = fork();
	if (sleeper == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execlp("sleep", "sleep", "100000", NULL);
		_exit(127);
	}
	for (nsec_t until = now_ns() + 10 * NSEC_PER_SEC;;) {
		_cleanup_free_ char *path = strf("/proc/%d/comm", (int)sleeper), *comm = NULL;

		if (file_read(path, 64, &comm, NULL) == 0 && strncmp(comm, "sleep", 5) == 0)
			return 0;
		if (now_ns() > until)
			return -1;
		(void)poll(NULL, 0, 5);
	}
}

static int clean_up(void **state _unused_)
{
	if (sleeper > 0)
		kill(sleeper, SIGKILL);
	node_free(host);
	/* control groups are the machine's: a case that failed half-way must not leave one */
	sh("for d in %s/cg?/muster-*-%s %s/cg?/t%s.service; do [ ! -d $d ] || rmdir $d; done", work, work + strlen("/run/snapshot."), work,
		work + strlen("/run/snapshot."));
	return 0;
}

int main(void)
{
	static const struct CMUnitTest after[] = {
		cmocka_unit_test(nftables),
		cmocka_unit_test(bpf_programs),
		cmocka_unit_test(processes),
		cmocka_unit_test(idle),
		cmocka_unit_test(busy),
		cmocka_unit_test(unreadable),
		cmocka_unit_test(command),
	};
	struct CMUnitTest tests[ARRAY_SIZE(cases) + ARRAY_SIZE(after)];

	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		tests[i] = (struct CMUnitTest){.name = cases[i].name, .test_func = one_case, .initial_state = (void *)(uintptr_t)i};
	memcpy(&tests[ARRAY_SIZE(cases)], after, sizeof(after));
	return cmocka_run_group_tests(tests, prepare, clean_up);
}
