/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IPVS against a kernel that has it: what we write ipvsadm reads, what ipvsadm writes we read; the change
 * that sets weights, with somebody else at work on the same table; the sampler.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <linux/ip_vs.h>

#include "engine/clock.h"
#include "engine/site.h"
#include "engine/snapshot.h"
#include "engine/source.h"
#include "lvs/ipvs.h"
#include "netns_node.h"

static struct netns_node ns;
static struct ipvs *ip;
static char why_not[1200];
static struct err err; /* of the last call; the macros below clear it first */

static int set_up(void **state _unused_)
{

	if (!netns_node_make(&ns, "director")) {
		strcpy(why_not, "a network namespace needs root");
		return 0;
	}
	/*
	 * without a single route the kernel takes no IPv4 address for one of a host, and refuses it as a
	 * server
	 */
	free(run_in(ns.node, "ip link set lo up"));
	if (ipvs_open(ns.node, &ip, &err) < 0)
		snprintf(why_not, sizeof(why_not), "%s", err.text);
	else if (system("command -v ipvsadm >/dev/null") != 0)
		strcpy(why_not, "ipvsadm is not installed");
	return 0;
}

static int tear_down(void **state _unused_)
{
	ipvs_close(ip);
	netns_node_drop(&ns);
	return 0;
}

#define NEED_IPVS()                                                                                \
	do {                                                                                       \
		struct err e_ = {0};                                                               \
		if (why_not[0])                                                                    \
			SKIP("%s", why_not);                                                       \
		if (ipvs_flush(ip, &e_) < 0)                                                       \
			fail_msg("%s", e_.text);                                                   \
	} while (0)

/* 0 or a failure with the text */
#define OK(expr)                                                                                   \
	do {                                                                                       \
		int r_ = (err = (struct err){0}, (expr));                                          \
		if (r_ != 0)                                                                       \
			fail_msg("%s: %d: %s (%s)", #expr, r_, err.text, err.hint);                \
	} while (0)
#define ERR(want, expr)                                                                            \
	do {                                                                                       \
		int r_ = (err = (struct err){0}, (expr));                                          \
		if (r_ != (want))                                                                  \
			fail_msg("%s: %d, not %d: %s", #expr, r_, want, err.text);                 \
		assert_true(strlen(err.text) > 0);                                                 \
	} while (0)

static void ipvsadm(const char *fmt, ...) _printf_(1, 2);
static void ipvsadm(const char *fmt, ...)
{
	_cleanup_free_ char *out = NULL, *command = NULL;
	_cleanup_free_ char *args = NULL;
	va_list ap;

	va_start(ap, fmt);
	assert_true(vasprintf(&args, fmt, ap) >= 0);
	va_end(ap);
	command = strf("ipvsadm %s 2>&1", args);
	out = run_in(ns.node, command);
}

static struct ipvs_service service(const char *addr, uint16_t port)
{
	struct ipvs_service s = {.protocol = IPPROTO_TCP, .port = port, .scheduler = "wrr"};

	assert_int_equal(ipvs_addr_parse(addr, &s.family, s.addr), 0);
	ipvs_service_default_netmask(&s);
	return s;
}

static struct ipvs_dest dest(const char *addr, uint16_t port, uint32_t weight)
{
	struct ipvs_dest d = {.port = port, .weight = weight, .forward = IPVS_DR};

	assert_int_equal(ipvs_addr_parse(addr, &d.family, d.addr), 0);
	return d;
}

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The lines of @text, sorted and without blanks at their ends */
static char *sorted(char *text)
{
	char *lines[4096], *save = NULL;
	struct strbuf b = {0};
	size_t n = 0;

	for (char *l = strtok_r(text, "\n", &save); l && n < ARRAY_SIZE(lines);
		l = strtok_r(NULL, "\n", &save)) {
		size_t len = strlen(l);

		while (len && (l[len - 1] == ' ' || l[len - 1] == '\t'))
			l[--len] = '\0';
		lines[n++] = l;
	}
	qsort(lines, n, sizeof(lines[0]), compare_lines);
	for (size_t i = 0; i < n; i++)
		strbuf_addf(&b, "%s\n", lines[i]);
	strbuf_add(&b, "", 0);
	return b.s;
}

/* Our reading of the table, in the words of `ipvsadm -Sn` */
static char *our_rules(void)
{
	_cleanup_free_ struct ipvs_service *services = NULL;
	_cleanup_strbuf_ struct strbuf b = {0};
	size_t n = 0;

	OK(ipvs_services(ip, &services, &n, &err));
	for (size_t i = 0; i < n; i++) {
		const struct ipvs_service *s = &services[i];
		_cleanup_free_ struct ipvs_dest *dests = NULL;
		_cleanup_free_ char *key = NULL;
		char buf[IPVS_TEXT_MAX], mask[INET_ADDRSTRLEN];
		size_t n_dests = 0;

		key = s->fwmark ? strf("-f %u%s", s->fwmark, s->family == AF_INET6 ? " -6" : "")
				: strf("-%c %s", s->protocol == IPPROTO_UDP ? 'u' : 't',
					  ipvs_fmt_service(buf, s));
		strbuf_addf(&b, "-A %s -s %s", key, s->scheduler);
		if (s->flags & IP_VS_SVC_F_PERSISTENT) {
			strbuf_addf(&b, " -p %u", s->timeout);
			if (s->family == AF_INET && s->netmask != UINT32_MAX)
				strbuf_addf(&b, " -M %s",
					inet_ntop(AF_INET, &s->netmask, mask, sizeof(mask)));
			if (s->family == AF_INET6 && s->netmask != 128)
				strbuf_addf(&b, " -M %u", s->netmask);
		}
		if (s->flags & IP_VS_SVC_F_SCHED1)
			strbuf_puts(
				&b, streq(s->scheduler, "sh") ? " -b sh-fallback" : " -b flag-1");
		if (s->flags & IP_VS_SVC_F_ONEPACKET)
			strbuf_puts(&b, " -o");
		strbuf_puts(&b, "\n");
		OK(ipvs_dests(ip, s, &dests, &n_dests, &err));
		for (size_t k = 0; k < n_dests; k++)
			strbuf_addf(&b, "-a %s -r %s -%c -w %u%s\n", key,
				ipvs_fmt_dest(buf, &dests[k]),
				dests[k].forward == IPVS_NAT   ? 'm'
				: dests[k].forward == IPVS_TUN ? 'i'
							       : 'g',
				dests[k].weight,
				dests[k].forward == IPVS_TUN ? " --tun-type ipip" : "");
	}
	strbuf_add(&b, "", 0);
	return sorted(b.s);
}

static char *their_rules(void)
{
	_cleanup_free_ char *text = run_in(ns.node, "ipvsadm -Sn");

	return sorted(text);
}

static void assert_same_rules(void)
{
	_cleanup_free_ char *ours = our_rules(), *theirs = their_rules();

	assert_string_equal(ours, theirs);
}

static void we_read_what_ipvsadm_writes(void **state _unused_)
{
	NEED_IPVS();
	{
		_cleanup_free_ char *out = run_in(ns.node,
			"printf '%s\\n' "
			"'-A -t 198.18.0.100:8080 -s wrr' "
			"'-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 3' "
			"'-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 70000' "
			"'-A -t [2001:db8::100]:8080 -s wlc' "
			"'-a -t [2001:db8::100]:8080 -r [2001:db8::21]:8080 -g -w 0' "
			"'-A -u 198.18.0.101:53 -s rr -o' "
			"'-a -u 198.18.0.101:53 -r 198.18.0.31:5353 -m -w 1' "
			"'-A -t 198.18.0.102:443 -s sh -b flag-1 -p 300 -M 255.255.255.0' "
			"'-a -t 198.18.0.102:443 -r 198.18.0.21:443 -i -w 2' "
			"'-A -f 7 -s rr' "
			"'-A -f 8 -6 -s rr -p 60 -M 64' | ipvsadm -R");
		(void)out;
	}
	assert_same_rules();
}

static void ipvsadm_reads_what_we_write(void **state _unused_)
{
	struct ipvs_service v4 = service("198.18.0.100", 8080), v6 = service("2001:db8::100", 8080),
			    mark = {.family = AF_INET, .fwmark = 9, .scheduler = "wlc"},
			    persistent = service("198.18.0.102", 443);
	struct ipvs_dest a = dest("198.18.0.21", 8080, 3), b = dest("198.18.0.22", 8080, 5),
			 c = dest("2001:db8::21", 8080, 7);

	NEED_IPVS();
	ipvs_service_default_netmask(&mark);
	persistent.flags = IP_VS_SVC_F_PERSISTENT;
	persistent.timeout = 120;
	persistent.netmask = htonl(0xffffff00);
	OK(ipvs_add_service(ip, &v4, &err));
	OK(ipvs_add_service(ip, &v6, &err));
	OK(ipvs_add_service(ip, &mark, &err));
	OK(ipvs_add_service(ip, &persistent, &err));
	OK(ipvs_add_dest(ip, &v4, &a, &err));
	OK(ipvs_add_dest(ip, &v4, &b, &err));
	OK(ipvs_add_dest(ip, &v6, &c, &err));
	b.forward = IPVS_NAT;
	OK(ipvs_add_dest(ip, &mark, &b, &err));
	assert_same_rules();
	{
		_cleanup_free_ char *theirs = their_rules();

		assert_string_equal(theirs,
			"-A -f 9 -s wlc\n"
			"-A -t 198.18.0.100:8080 -s wrr\n"
			"-A -t 198.18.0.102:443 -s wrr -p 120 -M 255.255.255.0\n"
			"-A -t [2001:db8::100]:8080 -s wrr\n"
			"-a -f 9 -r 198.18.0.22:8080 -m -w 5\n"
			"-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 3\n"
			"-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 5\n"
			"-a -t [2001:db8::100]:8080 -r [2001:db8::21]:8080 -g -w 7\n");
	}
	strcpy(v4.scheduler, "wlc");
	OK(ipvs_set_service(ip, &v4, &err));
	a.weight = 0;
	OK(ipvs_set_dest(ip, &v4, &a, &err));
	b = dest("198.18.0.22", 8080, 0);
	OK(ipvs_del_dest(ip, &v4, &b, &err));
	OK(ipvs_del_service(ip, &mark, &err));
	OK(ipvs_del_service(ip, &persistent, &err));
	{
		_cleanup_free_ char *theirs = their_rules();

		assert_string_equal(theirs,
			"-A -t 198.18.0.100:8080 -s wlc\n"
			"-A -t [2001:db8::100]:8080 -s wrr\n"
			"-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 0\n"
			"-a -t [2001:db8::100]:8080 -r [2001:db8::21]:8080 -g -w 7\n");
	}
}

/* Read, change one thing, write: all else must still be there. */
static void nothing_is_lost(void **state _unused_)
{
	struct ipvs_service s = service("198.18.0.100", 8080);
	_cleanup_free_ struct ipvs_dest *d = NULL, *again = NULL;
	size_t n = 0;

	NEED_IPVS();
	ipvsadm("-A -t 198.18.0.100:8080 -s mh -b mh-fallback -p 77 -M 255.255.0.0 --pe sip 2>/dev/null || "
		"ipvsadm -A -t 198.18.0.100:8080 -s mh -b mh-fallback -p 77 -M 255.255.0.0");
	ipvsadm("-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -i -w 4 -x 200 -y 150 --tun-type gue --tun-port 6080 --tun-nocsum");
	OK(ipvs_dests(ip, &s, &d, &n, &err));
	assert_int_equal(n, 1);
	assert_int_equal(d[0].upper_threshold, 200);
	assert_int_equal(d[0].lower_threshold, 150);
	assert_int_equal(d[0].tun_type, 1);
	assert_int_equal(d[0].tun_port, 6080);
	d[0].weight = 9;
	OK(ipvs_set_dest(ip, &s, &d[0], &err));
	OK(ipvs_dests(ip, &s, &again, &n, &err));
	assert_true(ipvs_dest_equal(&d[0], &again[0]));
	OK(ipvs_get_service(ip, &s, &err));
	assert_string_equal(s.scheduler, "mh");
	assert_int_equal(s.timeout, 77);
	{
		struct ipvs_service was = s, now;

		strcpy(s.scheduler, "wrr");
		OK(ipvs_set_service(ip, &s, &err));
		OK(ipvs_set_service(ip, &was, &err));
		now = was;
		OK(ipvs_get_service(ip, &now, &err));
		assert_true(ipvs_service_equal(&now, &was));
	}
	assert_int_equal(d[0].stats.conns, 0);
}

static void errors(void **state _unused_)
{
	struct ipvs_service s = service("198.18.0.100", 8080), missing = service("198.18.0.109", 1);
	struct ipvs_dest d = dest("198.18.0.21", 8080, 1), *none = NULL;
	size_t n = 77;

	NEED_IPVS();
	ERR(-ESRCH, ipvs_get_service(ip, &missing, &err));
	ERR(-ESRCH, ipvs_dests(ip, &missing, &none, &n, &err));
	assert_null(none);
	assert_int_equal(n, 77);
	ERR(-ESRCH, ipvs_add_dest(ip, &missing, &d, &err));
	ERR(-ESRCH, ipvs_set_dest(ip, &missing, &d, &err));
	ERR(-ESRCH, ipvs_del_service(ip, &missing, &err));
	OK(ipvs_add_service(ip, &s, &err));
	ERR(-EEXIST, ipvs_add_service(ip, &s, &err));
	OK(ipvs_dests(ip, &s, &none, &n, &err)); /* there, and empty */
	assert_int_equal(n, 0);
	ERR(-ENOENT, ipvs_set_dest(ip, &s, &d, &err));
	ERR(-ENOENT, ipvs_del_dest(ip, &s, &d, &err));
	OK(ipvs_add_dest(ip, &s, &d, &err));
	ERR(-EEXIST, ipvs_add_dest(ip, &s, &d, &err));
	strcpy(missing.scheduler, "nonesuch");
	ERR(-ENOENT, ipvs_add_service(ip, &missing, &err));
	/* and none of that has upset the socket */
	OK(ipvs_get_service(ip, &s, &err));
	free(none);
}

static void config_info_daemons(void **state _unused_)
{
	struct ipvs_config was, c = {.tcp_timeout = 800, .tcp_fin_timeout = 90, .udp_timeout = 200},
				now;
	struct ipvs_daemon m = {.state = IP_VS_STATE_MASTER, .ifname = "lo", .sync_id = 5},
			   *d = NULL;
	struct ipvs_info info;
	size_t n = 0;

	NEED_IPVS();
	OK(ipvs_get_config(ip, &was, &err));
	OK(ipvs_set_config(ip, &c, &err));
	{
		_cleanup_free_ char *out = run_in(ns.node, "ipvsadm -Ln --timeout");

		assert_non_null(strstr(out, "800 90 200"));
	}
	OK(ipvs_get_config(ip, &now, &err));
	assert_memory_equal(&now, &c, sizeof(c));
	OK(ipvs_set_config(ip, &was, &err));
	OK(ipvs_get_info(ip, &info, &err));
	{
		_cleanup_free_ char *out = run_in(ns.node, "ipvsadm -Ln"), *want = NULL;

		want = strf("version %u.%u.%u (size=%u)", info.version >> 16 & 0xff,
			info.version >> 8 & 0xff, info.version & 0xff, info.conn_tab_size);
		assert_non_null(strstr(out, want));
	}
	OK(ipvs_daemons(ip, &d, &n, &err));
	assert_int_equal(n, 0);
	OK(ipvs_start_daemon(ip, &m, &err));
	ERR(-EEXIST, ipvs_start_daemon(ip, &m, &err));
	OK(ipvs_daemons(ip, &d, &n, &err));
	assert_int_equal(n, 1);
	assert_int_equal(d[0].state, IP_VS_STATE_MASTER);
	assert_string_equal(d[0].ifname, "lo");
	assert_int_equal(d[0].sync_id, 5);
	assert_int_equal(d[0].mcast_port, 8848);
	free(d);
	{
		_cleanup_free_ char *out = run_in(ns.node, "ipvsadm -Ln --daemon");

		assert_non_null(strstr(out, "master sync daemon (mcast=lo, syncid=5"));
	}
	OK(ipvs_stop_daemon(ip, &m, &err));
	OK(ipvs_zero(ip, NULL, &err));
}

static void in_bulk(void **state _unused_)
{
	_cleanup_ipvs_batch_ struct ipvs_batch *b = NULL;
	_cleanup_free_ struct ipvs_service *services = NULL;
	size_t n = 0;

	NEED_IPVS();
	OK(ipvs_batch_open(ns.node, ip, &b, &err));
	for (int i = 0; i < 100; i++) {
		struct ipvs_service s = service("198.18.1.0", 80);

		s.addr[3] = (uint8_t)i;
		OK(ipvs_batch_service(b, IPVS_ADD, &s, &err));
		for (int k = 0; k < 10; k++) {
			struct ipvs_dest d = dest("198.18.2.0", 80, (uint32_t)k);

			d.addr[3] = (uint8_t)k;
			OK(ipvs_batch_dest(b, IPVS_ADD, &s, &d, &err));
		}
	}
	OK(ipvs_batch_flush(b, &err));
	OK(ipvs_services(ip, &services, &n, &err));
	assert_int_equal(n, 100);
	for (size_t i = 0; i < n; i += 33) {
		_cleanup_free_ struct ipvs_dest *d = NULL;
		size_t n_dests = 0;

		OK(ipvs_dests(ip, &services[i], &d, &n_dests, &err));
		assert_int_equal(n_dests, 10);
	}
	assert_same_rules();
	/* one in the middle that fails: the others are done, and it is named */
	{
		struct ipvs_service s = service("198.18.1.0", 80),
				    missing = service("198.18.9.9", 80);
		struct ipvs_dest d = dest("198.18.2.3", 80, 77);
		_cleanup_ipvs_batch_ struct ipvs_batch *c = NULL;
		_cleanup_free_ struct ipvs_dest *live = NULL;
		size_t n_live = 0;

		OK(ipvs_batch_open(ns.node, ip, &c, &err));
		for (int i = 0; i < 1000; i++)
			OK(ipvs_batch_dest(c, IPVS_SET, i == 700 ? &missing : &s, &d, &err));
		assert_int_equal(ipvs_batch_flush(c, &err), -ESRCH);
		assert_non_null(strstr(err.text, "message 700 of 1000"));
		assert_int_equal(ipvs_dests(ip, &s, &live, &n_live, &err), 0);
		assert_int_equal(ipvs_dest_find(live, n_live, &d)->weight, 77);
	}
	/* all of many fail: every answer fits */
	{
		struct ipvs_service missing = service("198.18.9.9", 80);
		_cleanup_ipvs_batch_ struct ipvs_batch *c = NULL;

		OK(ipvs_batch_open(ns.node, ip, &c, &err));
		for (int i = 0; i < 2000; i++)
			OK(ipvs_batch_service(c, IPVS_DEL, &missing, &err));
		assert_int_equal(ipvs_batch_flush(c, &err), -ESRCH);
		assert_non_null(strstr(err.text, "message 0 of 2000"));
	}
}

/* ── the change ───────────────────────────────────────────────────────────────────────────── */

static struct site *make_site(void)
{
	static const char text[] =
		"{\"name\":\"t\",\"switches\":[\"lan\"],\"nodes\":["
		"{\"name\":\"director\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198.18.0.2/24\",\"2001:db8::2/64\"]}]},"
		"{\"name\":\"rs1\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198.18.0.21/24\",\"2001:db8::21/64\"]}]},"
		"{\"name\":\"rs2\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198.18.0.22/24\",\"2001:db8::22/64\"]}]}],"
		"\"services\":[{\"name\":\"web\",\"port\":8080,\"vips\":[\"198.18.0.100\",\"2001:db8::100\"],"
		"\"director\":\"director\",\"servers\":[{\"node\":\"rs1\",\"weight\":3},{\"node\":\"rs2\",\"weight\":5}]}]}";
	_cleanup_json_ json_t *j = json_loads(text, 0, NULL);
	struct site *site = NULL;
	struct node *d;

	assert_non_null(j);
	OK(site_from_json(j, &site, &err));
	d = site_node(site, "director");
	d->netns = strdup(ns.node->netns);
	OK(node_open(d, &err));
	return site;
}

static const char declared[] = "-A -t 198.18.0.100:8080 -s wrr\n"
			       "-A -t [2001:db8::100]:8080 -s wrr\n"
			       "-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 3\n"
			       "-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 5\n"
			       "-a -t [2001:db8::100]:8080 -r [2001:db8::21]:8080 -g -w 3\n"
			       "-a -t [2001:db8::100]:8080 -r [2001:db8::22]:8080 -g -w 5\n";

static void assert_rules(const char *want)
{
	_cleanup_free_ char *ours = our_rules();

	assert_string_equal(ours, want);
}

static void change_and_undo(void **state _unused_)
{
	struct lab_journal journal;
	struct change made, weights, scheduler;
	struct site *site;
	struct node *d;

	NEED_IPVS();
	site = make_site();
	d = site_node(site, "director");
	lab_journal_make(&journal);

	/* nothing there: a weight cannot be set */
	assert_int_equal(lab_apply(&journal, "set.ipvs", d, site,
				 json_pack("{s:s, s:{s:i}}", "service", "web", "weights", "rs1", 0),
				 &weights, &err),
		-ENOENT);
	change_drop(&weights);
	/* all as declared */
	if (lab_apply(&journal, "set.ipvs", d, site, json_pack("{s:s}", "service", "web"), &made,
		    &err) < 0)
		fail_msg("%s", err.text);
	assert_rules(declared);
	assert_same_rules();
	/* other weights, then another scheduler, on top of each other */
	if (lab_apply(&journal, "set.ipvs", d, site,
		    json_pack(
			    "{s:s, s:{s:i, s:i}}", "service", "web", "weights", "rs1", 9, "rs2", 0),
		    &weights, &err) < 0)
		fail_msg("%s", err.text);
	if (lab_apply(&journal, "set.ipvs", d, site,
		    json_pack("{s:s, s:s}", "service", "web", "scheduler", "wlc"), &scheduler,
		    &err) < 0)
		fail_msg("%s", err.text);
	assert_rules("-A -t 198.18.0.100:8080 -s wlc\n"
		     "-A -t [2001:db8::100]:8080 -s wlc\n"
		     "-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 9\n"
		     "-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 0\n"
		     "-a -t [2001:db8::100]:8080 -r [2001:db8::21]:8080 -g -w 9\n"
		     "-a -t [2001:db8::100]:8080 -r [2001:db8::22]:8080 -g -w 0\n");
	if (change_undo(journal.j, &scheduler, &err) || change_undo(journal.j, &weights, &err))
		fail_msg("%s", err.text);
	assert_rules(declared);
	assert_int_equal(weights.ops->undo(d, weights.args, weights.prior, &err), 0);
	assert_rules(declared);
	if (change_undo(journal.j, &made, &err))
		fail_msg("%s", err.text);
	assert_rules("");
	assert_int_equal(made.ops->undo(d, made.args, made.prior, &err), 0);
	change_drop(&made);
	change_drop(&weights);
	change_drop(&scheduler);
	lab_journal_drop(&journal);
	site_free(site);
}

/* The engine was killed after any number of its steps; the journal is played by another. */
static void half_applied(void **state _unused_)
{
	const struct change_ops *ops = change_find("set.ipvs");
	_cleanup_json_ json_t *args = NULL;
	struct lab_journal journal;
	struct site *site;
	struct node *d;

	NEED_IPVS();
	args = json_pack("{s:s, s:s, s:i, s:{s:i, s:i}}", "node", "director", "vip", "198.18.0.100",
		"port", 8080, "servers", "198.18.0.21", 3, "198.18.0.22", 5);
	site = make_site();
	d = site_node(site, "director");
	lab_journal_make(&journal);
	OK(ops->resolve(site, args, &err));
	for (int steps = 0; steps <= 3; steps++) {
		struct ipvs_service s = service("198.18.0.100", 8080);
		struct ipvs_dest a = dest("198.18.0.21", 8080, 3), b = dest("198.18.0.22", 8080, 5);
		_cleanup_json_ json_t *prior = NULL;
		struct restore_result res;
		uint32_t seq;

		OK(ops->capture(d, args, &prior, &err));
		OK(journal_intent(journal.j, ops, d, args, prior, &seq, &err));
		if (steps > 0)
			OK(ipvs_add_service(ip, &s, &err));
		if (steps > 1)
			OK(ipvs_add_dest(ip, &s, &a, &err));
		if (steps > 2)
			OK(ipvs_add_dest(ip, &s, &b, &err));
		OK(journal_play(journal.j, &res, &err));
		assert_int_equal(res.undone, 1);
		assert_int_equal(res.failed + res.conflicts + res.stale, 0);
		restore_result_clear(&res);
		assert_rules("");
	}
	lab_journal_drop(&journal);
	site_free(site);
}

static void a_health_checker_at_work(void **state _unused_)
{
	struct lab_journal journal;
	struct change c;
	struct site *site;
	struct node *d;

	NEED_IPVS();
	site = make_site();
	d = site_node(site, "director");
	lab_journal_make(&journal);
	ipvsadm("-A -t 198.18.0.100:8080 -s wrr");
	ipvsadm("-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 3");
	ipvsadm("-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 5");
	ipvsadm("-A -t [2001:db8::100]:8080 -s wrr");
	ipvsadm("-a -t [2001:db8::100]:8080 -r [2001:db8::21]:8080 -g -w 3");
	ipvsadm("-a -t [2001:db8::100]:8080 -r [2001:db8::22]:8080 -g -w 5");
	if (lab_apply(&journal, "set.ipvs", d, site,
		    json_pack(
			    "{s:s, s:{s:i, s:i}}", "service", "web", "weights", "rs1", 9, "rs2", 1),
		    &c, &err) < 0)
		fail_msg("%s", err.text);
	/* it takes rs2 out, and restores rs1 by itself at one address */
	ipvsadm("-e -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 0");
	ipvsadm("-e -t [2001:db8::100]:8080 -r [2001:db8::21]:8080 -g -w 3");
	assert_int_equal(change_undo(journal.j, &c, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.text,
		"rs2 of 198.18.0.100:8080 is weight 0 dr, neither ours (weight 1 dr) nor as before (weight 5 dr)"));
	assert_rules(
		"-A -t 198.18.0.100:8080 -s wrr\n"
		"-A -t [2001:db8::100]:8080 -s wrr\n"
		"-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 3\n" /* put back */
		"-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 0\n" /* theirs, left alone */
		"-a -t [2001:db8::100]:8080 -r [2001:db8::21]:8080 -g -w 3\n"
		"-a -t [2001:db8::100]:8080 -r [2001:db8::22]:8080 -g -w 5\n");
	change_drop(&c);

	/* a server of somebody else in a service that is ours keeps the service */
	OK(ipvs_flush(ip, &err));
	if (lab_apply(&journal, "set.ipvs", d, site,
		    json_pack("{s:s, s:s, s:i, s:{s:i}}", "node", "director", "vip", "198.18.0.101",
			    "port", 80, "servers", "rs1", 1),
		    &c, &err) < 0)
		fail_msg("%s", err.text);
	ipvsadm("-a -t 198.18.0.101:80 -r 198.18.0.77:80 -g -w 1");
	assert_int_equal(change_undo(journal.j, &c, &err), CHANGE_CONFLICT);
	assert_rules(
		"-A -t 198.18.0.101:80 -s wrr\n-a -t 198.18.0.101:80 -r 198.18.0.77:80 -g -w 1\n");
	/* when it has gone, so can ours */
	ipvsadm("-d -t 198.18.0.101:80 -r 198.18.0.77:80");
	assert_int_equal(c.ops->undo(d, c.args, c.prior, &err), 0);
	assert_int_equal(c.ops->verify(d, c.args, c.prior, &err), 0);
	assert_rules("");
	change_drop(&c);

	/* what was as wanted from the start is not ours to put back, whatever became of it */
	ipvsadm("-A -t 198.18.0.103:80 -s wrr");
	ipvsadm("-a -t 198.18.0.103:80 -r 198.18.0.21:80 -g -w 1");
	ipvsadm("-a -t 198.18.0.103:80 -r 198.18.0.22:80 -g -w 2");
	if (lab_apply(&journal, "set.ipvs", d, site,
		    json_pack("{s:s, s:s, s:i, s:{s:i, s:i}}", "node", "director", "vip",
			    "198.18.0.103", "port", 80, "servers", "rs1", 1, "rs2", 7),
		    &c, &err) < 0)
		fail_msg("%s", err.text);
	ipvsadm("-e -t 198.18.0.103:80 -r 198.18.0.21:80 -g -w 0");
	if (change_undo(journal.j, &c, &err))
		fail_msg("%s", err.text);
	assert_rules("-A -t 198.18.0.103:80 -s wrr\n"
		     "-a -t 198.18.0.103:80 -r 198.18.0.21:80 -g -w 0\n"
		     "-a -t 198.18.0.103:80 -r 198.18.0.22:80 -g -w 2\n");
	change_drop(&c);

	/* the whole service went away */
	ipvsadm("-A -t 198.18.0.102:80 -s wrr");
	ipvsadm("-a -t 198.18.0.102:80 -r 198.18.0.21:80 -g -w 1");
	if (lab_apply(&journal, "set.ipvs", d, site,
		    json_pack("{s:s, s:s, s:i, s:{s:i}}", "node", "director", "vip", "198.18.0.102",
			    "port", 80, "servers", "rs1", 4),
		    &c, &err) < 0)
		fail_msg("%s", err.text);
	ipvsadm("-D -t 198.18.0.102:80");
	assert_int_equal(change_undo(journal.j, &c, &err), CHANGE_CONFLICT);
	assert_non_null(strstr(err.text, "gone"));
	change_drop(&c);
	lab_journal_drop(&journal);
	site_free(site);
}

/*
 * What `plan` prints is what can be run: apply's commands make the same table, undo's commands the one
 * before.
 */
static void commands_do_the_same(void **state _unused_)
{
	const struct change_ops *ops = change_find("set.ipvs");
	_cleanup_json_ json_t *args = NULL, *prior = NULL;
	_cleanup_strbuf_ struct strbuf apply = {0}, undo = {0};
	_cleanup_free_ char *before = NULL, *after = NULL, *out = NULL, *out2 = NULL;
	_cleanup_node_ struct node *here = NULL;
	struct site *site;
	struct node *d;

	NEED_IPVS();
	args = json_pack("{s:s}", "service", "web");
	here = node_new("director", NULL);
	site = make_site();
	d = site_node(site, "director");
	ipvsadm("-A -t 198.18.0.100:8080 -s wlc -p 50 -M 255.255.255.0");
	ipvsadm("-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -i -w 8 -x 20 -y 10 --tun-type gue --tun-port 6000 --tun-csum");
	before = run_in(ns.node, "ipvsadm -Sn; ipvsadm -Ln --thresholds; ipvsadm -Ln --tun-info");
	OK(ops->resolve(site, args, &err));
	OK(ops->capture(d, args, &prior, &err));
	assert_int_equal(ops->command(here, args, prior, &apply, &undo),
		0); /* without the prefix: run_in() enters */
	out = run_in(ns.node, strbuf_cstr(&apply));
	{
		_cleanup_free_ char *made = our_rules(), *again = NULL;

		out2 = run_in(ns.node, strbuf_cstr(&undo));
		after = run_in(
			ns.node, "ipvsadm -Sn; ipvsadm -Ln --thresholds; ipvsadm -Ln --tun-info");
		assert_string_equal(before, after);
		OK(ops->apply(d, args, prior, &err));
		again = our_rules();
		assert_string_equal(made, again);
		OK(ops->undo(d, args, prior, &err));
		OK(ops->verify(d, args, prior, &err));
	}
	site_free(site);
}

/* ── the sampler and the snapshot ─────────────────────────────────────────────────────────── */

/* Waits until the last entry of @server has @weight; returns its time */
static nsec_t wait_weight(struct timeline *tl, const char *server, int weight)
{
	nsec_t deadline = now_ns() + 10 * NSEC_PER_SEC;

	for (;;) {
		const struct tl_weight *w;
		nsec_t found = -1, now = now_ns();
		size_t n;

		timeline_lock(tl);
		n = timeline_weights(tl, &w);
		while (n-- > 0 && !streq(w[n].server, server))
			;
		if (n != SIZE_MAX && w[n].weight == weight)
			found = w[n].t;
		timeline_unlock(tl);
		if (found >= 0)
			return found;
		if (now >= deadline)
			fail_msg("%s never had the weight %d", server, weight);
		/* the next poll moves the watermark past now */
		timeline_wait(tl, now + 1, deadline);
	}
}

static void sampler(void **state _unused_)
{
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *summary = NULL;
	const struct source_ops *ops = source_find(SOURCE_SAMPLER, "ipvs");
	struct ipvs_service s = service("198.18.0.100", 8080);
	struct ipvs_dest a = dest("198.18.0.21", 8080, 3), b = dest("198.18.0.22", 8080, 5);
	struct source_ctx ctx = {.name = "ipvs"};
	nsec_t before, seen;
	struct site *site;
	void *handle;

	NEED_IPVS();
	site = make_site();
	OK(timeline_new(NULL, &tl, &err));
	ctx.tl = tl;
	ctx.site = site;
	{

		assert_int_equal(ops->applies(&ctx, &err), 1);
	}
	OK(ipvs_add_service(ip, &s, &err));
	OK(ipvs_add_dest(ip, &s, &a, &err));
	OK(ops->start(&ctx, &handle, &err));
	/* as it was at the start */
	wait_weight(tl, "rs1", 3);
	wait_weight(tl, "rs2", TL_WEIGHT_ABSENT);
	before = now_ns();
	OK(ipvs_add_dest(ip, &s, &b, &err));
	seen = wait_weight(tl, "rs2", 5);
	assert_true(seen >= before);
	assert_true(seen - before < NSEC_PER_SEC); /* 50 ms where there is a processor for it */
	a.weight = 0;
	before = now_ns();
	OK(ipvs_set_dest(ip, &s, &a, &err));
	assert_true(wait_weight(tl, "rs1", 0) >= before);
	OK(ipvs_del_service(ip, &s, &err));
	wait_weight(tl, "rs1", TL_WEIGHT_ABSENT);
	wait_weight(tl, "rs2", TL_WEIGHT_ABSENT);
	ops->stop(handle, &summary);
	assert_int_equal(json_integer_value(json_object_get(summary, "weight_changes")), 4);
	assert_int_equal(json_integer_value(json_object_get(summary, "failures")), 0);
	print_message("polls: %lld, the longest took %.1f ms\n",
		json_integer_value(json_object_get(summary, "polls")),
		(double)json_integer_value(json_object_get(summary, "longest_poll_ns")) / 1e6);
	site_free(site);
}

static void snapshot(void **state _unused_)
{
	const struct snapshot_ops *const *ops = snapshot_table;
	_cleanup_strbuf_ struct strbuf b = {0};

	NEED_IPVS();
	while (*ops && !streq((*ops)->name, "ipvs"))
		ops++;
	assert_non_null(*ops);
	ipvsadm("-A -t 198.18.0.100:8080 -s wrr");
	ipvsadm("-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 3");
	ipvsadm("-A -f 3 -s rr -p 60");
	OK((*ops)->take(ns.node, &b, &err));
	assert_non_null(strstr(strbuf_cstr(&b), "ipvs timeouts tcp 900 tcpfin 120 udp 300\n"));
	assert_non_null(
		strstr(strbuf_cstr(&b), "ipvs service tcp 198.18.0.100:8080 scheduler wrr\n"));
	assert_non_null(strstr(strbuf_cstr(&b),
		"ipvs server tcp 198.18.0.100:8080 198.18.0.21:8080 dr weight 3\n"));
	assert_non_null(strstr(strbuf_cstr(&b),
		"ipvs service fwmark 3 scheduler rr flags 0x1 persistent 60 netmask 0xffffffff\n"));
}

/* Where the kernel has no IPVS the answers say so, and what to do about it. */
static void without_ipvs(void **state _unused_)
{
	const struct change_ops *ops = change_find("set.ipvs");
	const struct snapshot_ops *const *snap = snapshot_table;
	_cleanup_strbuf_ struct strbuf b = {0};

	if (!ns.node)
		SKIP("a network namespace needs root");
	if (ip)
		SKIP("this kernel has IPVS; the other tests are for it");
	assert_int_equal(ops->supported(ns.node, NULL, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "not in this kernel"));
	assert_non_null(strstr(err.hint, "--lab vm"));
	while (*snap && !streq((*snap)->name, "ipvs"))
		snap++;
	OK((*snap)->take(ns.node, &b, &err));
	assert_string_equal(strbuf_cstr(&b), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_ipvs),
		cmocka_unit_test(we_read_what_ipvsadm_writes),
		cmocka_unit_test(ipvsadm_reads_what_we_write),
		cmocka_unit_test(nothing_is_lost),
		cmocka_unit_test(errors),
		cmocka_unit_test(config_info_daemons),
		cmocka_unit_test(in_bulk),
		cmocka_unit_test(change_and_undo),
		cmocka_unit_test(half_applied),
		cmocka_unit_test(a_health_checker_at_work),
		cmocka_unit_test(commands_do_the_same),
		cmocka_unit_test(sampler),
		cmocka_unit_test(snapshot),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
