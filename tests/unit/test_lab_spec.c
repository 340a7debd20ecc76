/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A site as the lab room reads it: names, placeholders, what is refused and with which words; and
 * what readiness reads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/change.h"
#include "lab/daemon.h"
#include "lab/file.h"
#include "lab/lab.h"
#include "lua/script.h"

extern const struct change_ops change_lab_site;

/* JSON with single quotes */
static json_t *json(const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	json_error_t e;
	json_t *j;

	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	j = json_loads(copy, 0, &e);
	if (!j)
		fail_msg("%s at %d in %s", e.text, e.position, copy);
	return j;
}

static struct lab_spec *good(const char *text)
{
	_cleanup_json_ json_t *j = json(text);
	struct lab_spec *s = NULL;
	struct err err = {0};

	if (lab_spec_new(j, &s, &err) < 0)
		fail_msg("%s", err.text);
	return s;
}

static void bad(const char *text, const char *want)
{
	_cleanup_json_ json_t *j = json(text);
	struct lab_spec *s = NULL;
	struct err err = {0};
	int r = lab_spec_new(j, &s, &err);

	if (r >= 0)
		fail_msg("accepted: %s", text);
	assert_null(s);
	if (!strstr(err.text, want))
		fail_msg("\"%s\" does not say \"%s\"", err.text, want);
}

static const char site[] =
	"{'name': 'x', 'switches': ['lan', 'wan'], 'nodes': ["
	"  {'name': 'a', 'links': [{'dev': 'eth0', 'switch': 'lan', 'addrs': ['198.18.0.1/24']},"
	"                          {'dev': 'eth1', 'switch': 'wan', 'addrs': ['2001:db8::1/64']}],"
	"   'lo': ['198.18.0.100/32', '2001:db8::100'],"
	"   'sysctl': {'net.ipv4.conf.eth1.arp_ignore': 1, 'net.ipv4.conf.all.arp_ignore': '1', "
	"'net/ipv6/neigh/eth0/retrans_time_ms': 5},"
	"   'routes': [{'to': 'default', 'via': '198.18.0.2'}, {'to': '2001:db8:1::/48', 'dev': "
	"'eth1'}],"
	"   'daemons': [{'name': 'late', 'argv': ['late'], 'order': 2, 'within': '3s'},"
	"     {'name': 'd', 'argv': ['prog', '-c', '%{dir}/c.conf', '%{node}.%{site}', '100%'],"
	"      'files': {'c.conf': 'dir %{dir}; node %{node}', 'sub/empty': ''}, 'ready': "
	"{'listen': 8080}, 'package': 'p'}]},"
	"  {'name': 'b', 'links': [{'switch': 'lan', 'addrs': ['198.18.0.2/24', "
	"'2001:db8::2/64']}],"
	"   'daemons': [{'name': 'k', 'argv': ['/usr/sbin/k'], 'ready': {'ipvs': {'destinations': "
	"6}}}]}]}";

static void test_names(void **state)
{
	struct lab_spec *s = good(site);
	struct node *a = site_node(s->site, "a");

	(void)state;
	assert_int_equal(s->n_ns, 4);
	assert_string_equal(s->ns[0].path, "/run/netns/muster-x-lan");
	assert_null(s->ns[0].node);
	assert_string_equal(s->ns[2].name, "muster-x-a");
	assert_string_equal(a->netns, "/run/netns/muster-x-a");
	assert_string_equal(a->links[0].peer_netns, "/run/netns/muster-x-lan");
	assert_string_equal(a->links[0].peer_dev, "a");
	assert_string_equal(a->links[1].peer_netns, "/run/netns/muster-x-wan");
	assert_string_equal(lab_link_switch(s->site, a, 1), "wan");
	assert_string_equal(s->dir, "/run/muster/lab/x");
	/* binding again is the same */
	assert_int_equal(lab_bind(s->site, NULL), 0);
	assert_string_equal(a->netns, "/run/netns/muster-x-a");
	lab_spec_free(s);
}

static void test_what_a_node_has(void **state)
{
	struct lab_spec *s = good(site);
	const struct lab_ns *a = &s->ns[2], *b = &s->ns[3];

	(void)state;
	assert_true(a->ipv4 && a->ipv6 && b->ipv4 && b->ipv6);
	assert_int_equal(a->n_lo, 2);
	assert_int_equal(a->lo[0].prefix, 32);
	assert_int_equal(a->lo[1].family, AF_INET6);
	assert_int_equal(a->lo[1].prefix, 128); /* without a prefix: the whole address */
	assert_int_equal(a->n_sysctls, 3);
	for (size_t i = 0; i < a->n_sysctls; i++) {
		const struct lab_sysctl *y = &a->sysctls[i];

		if (streq(y->key, "net.ipv4.conf.eth1.arp_ignore")) {
			assert_string_equal(y->path, "net/ipv4/conf/eth1/arp_ignore");
			assert_string_equal(y->dev, "eth1");
			assert_string_equal(y->value, "1");
		} else if (streq(y->key, "net.ipv4.conf.all.arp_ignore")) {
			assert_null(y->dev);
		} else {
			assert_string_equal(y->path, "net/ipv6/neigh/eth0/retrans_time_ms");
			assert_string_equal(y->dev, "eth0");
			assert_string_equal(y->value, "5");
		}
	}
	assert_int_equal(a->n_routes, 2);
	assert_int_equal(a->routes[0].to.prefix, 0);
	assert_true(a->routes[0].has_via);
	assert_int_equal(a->routes[1].to.prefix, 48);
	assert_string_equal(a->routes[1].dev, "eth1");
	lab_spec_free(s);
}

static void test_daemons(void **state)
{
	struct lab_spec *s = good(site);
	const struct lab_daemon *d = &s->daemons[0];

	(void)state;
	assert_int_equal(s->n_daemons, 3);
	/* by order, then as written */
	assert_string_equal(s->daemons[0].name, "d");
	assert_string_equal(s->daemons[1].name, "k");
	assert_string_equal(s->daemons[2].name, "late");
	assert_string_equal(d->dir, "/run/muster/lab/x/a/d");
	assert_string_equal(d->argv[2], "/run/muster/lab/x/a/d/c.conf");
	assert_string_equal(d->argv[3], "a.x");
	assert_string_equal(d->argv[4], "100%");
	assert_null(d->argv[5]);
	assert_int_equal(d->n_files, 2);
	for (size_t i = 0; i < d->n_files; i++)
		assert_string_equal(d->files[i].content,
			streq(d->files[i].name, "c.conf") ? "dir /run/muster/lab/x/a/d; node a"
							  : "");
	assert_int_equal(d->ready, LAB_READY_LISTEN);
	assert_int_equal(d->listen_port, 8080);
	assert_int_equal(d->within, 20 * NSEC_PER_SEC);
	assert_int_equal(s->daemons[1].ready, LAB_READY_IPVS);
	assert_int_equal(s->daemons[1].destinations, 6);
	assert_int_equal(s->daemons[2].ready, LAB_READY_STARTED);
	assert_int_equal(s->daemons[2].within, 3 * NSEC_PER_SEC);
	lab_spec_free(s);
}

#define NODE(rest)   "{'name': 'x', 'switches': ['lan'], 'nodes': [{'name': 'a', " rest "}]}"
#define DAEMON(rest) NODE("'daemons': [{'name': 'd', 'argv': ['p'], " rest "}]")

static void test_refused(void **state)
{
	_cleanup_strbuf_ struct strbuf many = {0};

	(void)state;
	bad("{'name': 'x', 'switches': ['a'], 'nodes': [{'name': 'a'}]}",
		"name of a node and of a switch");
	bad("{'name': 'x', 'switches': ['s', 's'], 'nodes': [{'name': 'a'}]}",
		"switch s is there twice");
	bad("{'name': 'x', 'nodes': [{'name': 'lo'}]}", "cannot be called lo");
	bad(NODE("'links': [{'dev': 'lo', 'switch': 'lan', 'addrs': ['198.18.0.1/24']}]"),
		"cannot be called lo");
	bad(NODE("'links': [{'dev': 'eth0', 'switch': 'lan', 'addrs': ['198.18.0.1/24']},"
		 "          {'dev': 'eth1', 'switch': 'lan', 'addrs': ['198.18.0.2/24']}]"),
		"plugged into switch lan");
	bad("{'name': 'x', 'switches': ['s', 't'], 'nodes': [{'name': 'a', 'links': ["
	    "{'switch': 's', 'addrs': ['198.18.0.1/24']}, {'switch': 't', 'addrs': "
	    "['198.18.1.1/24']}]}]}",
		"two of its links are called eth0");
	bad(NODE("'lo': ['198.18.0.300/32']"), "\"198.18.0.300/32\" is no address");
	bad(NODE("'lo': ['198.18.0.1/33']"), "no address");
	bad(NODE("'lo': [7]"), "no address");
	bad(NODE("'lo': {}"), "lo is not a list");
	bad(NODE("'sysctl': {'kernel.sysrq': '1'}"), "only net.* belongs to a node");
	bad(NODE("'sysctl': {'net.../kernel.sysrq': '1'}"), "only net.* belongs to a node");
	bad(NODE("'sysctl': {'net/../kernel/sysrq': '1'}"), "only net.* belongs to a node");
	bad(NODE("'sysctl': {'net.ipv4.tcp_rmem': [1, 2]}"), "neither text nor an integer");
	bad(NODE("'sysctl': ['net.x']"), "sysctl is not a table");
	bad(NODE("'routes': [{'to': 'everywhere', 'via': '198.18.0.2'}]"),
		"neither \"default\" nor a network");
	bad(NODE("'routes': [{'to': '2001:db8::/64', 'via': '198.18.0.2'}]"),
		"of the other family");
	bad(NODE("'routes': [{'to': 'default'}]"), "neither via nor dev");
	bad(NODE("'routes': [{'to': 'default', 'dev': 'eth9'}]"), "no link eth9");
	bad(NODE("'routes': [{'too': 'default'}]"), "too");
	bad(NODE("'daemons': {}"), "daemons is not a list");
	bad(NODE("'daemons': [7]"), "daemon 1 is not a table");
	bad(NODE("'daemons': [{'name': 'd'}]"), "argv");
	bad(NODE("'daemons': [{'name': 'd', 'argv': []}]"), "argv is not a list of 1 to 64");
	bad(NODE("'daemons': [{'name': '../d', 'argv': ['p']}]"), "its name is not");
	bad(NODE("'daemons': [{'name': 'd', 'argv': ['p']}, {'name': 'd', 'argv': ['p']}]"),
		"d is there twice");
	bad(DAEMON("'files': {'../x': ''}"), "outside the daemon's folder");
	bad(DAEMON("'files': {'/etc/x': ''}"), "outside the daemon's folder");
	bad(DAEMON("'files': {'a//b': ''}"), "outside the daemon's folder");
	bad(DAEMON("'files': {'a/.': ''}"), "outside the daemon's folder");
	bad(DAEMON("'files': {'a/': ''}"), "outside the daemon's folder");
	bad(DAEMON("'files': {'x': '%{home}'}"), "unknown placeholder %{home}");
	bad(DAEMON("'files': {'x': '%{dir'}"), "unknown placeholder %{dir");
	bad(DAEMON("'ready': {'listen': 0}"), "listen");
	bad(DAEMON("'ready': {'listen': 8080, 'ipvs': {'destinations': 1}}"), "ipvs");
	bad(DAEMON("'ready': {}"), "give one of listen, ipvs and address");
	bad(DAEMON("'ready': {'ipvs': {}}"), "destinations");
	bad(DAEMON("'within': 'soon'"), "within");
	bad(DAEMON("'redy': {'listen': 1}"), "redy");
	/* a limit that is hit is said */
	strbuf_puts(&many, "{'name': 'x', 'nodes': [{'name': 'a', 'daemons': [");
	for (int i = 0; i <= LAB_DAEMONS_MAX; i++)
		strbuf_addf(&many, "%s{'name': 'd%d', 'argv': ['p']}", i ? "," : "", i);
	strbuf_puts(&many, "]}]}");
	bad(strbuf_cstr(&many), "at most 16");
}

static void test_ipvs_table(void **state)
{
	static const char text[] = "IP Virtual Server version 1.2.1 (size=4096)\n"
				   "Prot LocalAddress:Port Scheduler Flags\n"
				   "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
				   "TCP  C6120064:1F90 wrr  \n"
				   "  -> C6120017:1F90      Route   5      0          0         \n"
				   "  -> C6120016:1F90      Route   0      0          0         \n"
				   "TCP  [2001:0db8:0000:0000:0000:0000:0000:0100]:1F90 wrr  \n"
				   "  -> [2001:0db8:0000:0000:0000:0000:0000:0021]:1F90      Route "
				   "  3      0          0";

	(void)state;
	assert_int_equal(daemon_ipvs_destinations(text), 2);
	assert_int_equal(daemon_ipvs_destinations(""), 0);
}

static void test_missing_program(void **state)
{
	struct lab_spec *s = good(NODE("'daemons': [{'name': 'd', 'argv': ['no-such-program'], "
				       "'package': 'some-package'}]"));
	_cleanup_free_ char *program = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(daemon_program(&s->daemons[0], &program, &err), -ENOENT);
	assert_string_equal(
		err.text, "daemon d of node a: the program no-such-program is not installed");
	assert_string_equal(err.hint, "apt-get install some-package");
	lab_spec_free(s);
}

/* The site that ships: as the script process reads it, with each of its options */
static void test_lvs_dr(void **state)
{
	static const char *const checkers[] = {"keepalived", "none"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(checkers); i++) {
		_cleanup_json_ json_t *options = json_pack("{s:s}", "health_checker", checkers[i]),
				      *j = NULL;
		_cleanup_lab_spec_ struct lab_spec *s = NULL;
		const struct lab_daemon *d;
		const struct service *web;
		struct err err = {0};
		const char *conf;
		unsigned int checks = 0, servers = 0;

		if (script_site("lvs-dr", i ? options : NULL, &j, &err) < 0 ||
			lab_spec_new(j, &s, &err) < 0)
			fail_msg("%s", err.text);
		assert_int_equal(s->site->n_nodes, 5);
		assert_int_equal(s->n_ns, 6);
		web = site_service(s->site, "web");
		assert_non_null(web);
		assert_int_equal(web->n_servers, 3);
		assert_int_equal(web->n_vips, 2);
		for (size_t k = 0; k < 3; k++)
			assert_int_equal(web->servers[k].weight, k == 0 ? 3 : 5);
		/* the checker comes last: it would withdraw servers that are not up yet */
		assert_int_equal(s->n_daemons, 4);
		d = &s->daemons[3];
		assert_string_equal(d->name, "keepalived");
		assert_string_equal(d->ns->label, "director");
		assert_int_equal(d->destinations, 6);
		assert_int_equal(d->n_files, 1);
		conf = d->files[0].content;
		for (const char *p = conf; (p = strstr(p, "real_server ")); p++)
			servers++;
		for (const char *p = conf; (p = strstr(p, "HTTP_GET ")); p++)
			checks++;
		assert_int_equal(servers, 6);
		assert_int_equal(checks, i ? 0 : 6);
	}
}

static void test_lvs_dr_option(void **state)
{
	_cleanup_json_ json_t *options = json_pack("{s:s}", "health_checker", "ldirectord"),
			      *j = NULL;
	struct err err = {0};

	(void)state;
	assert_true(script_site("lvs-dr", options, &j, &err) < 0);
	assert_non_null(strstr(err.text, "neither \"keepalived\" nor \"none\""));
}

/* What `plan` shows, without root and without a kernel that could do it */
static void test_plan_words(void **state)
{
	_cleanup_json_ json_t *j = json(site), *args = json_pack("{s:o}", "site", TAKE_PTR(j));
	_cleanup_strbuf_ struct strbuf up = {0}, down = {0};
	_cleanup_node_ struct node *host = node_new("host", NULL);

	(void)state;
	assert_int_equal(change_lab_site.command(host, args, NULL, &up, &down), 0);
	assert_non_null(strstr(up.s, "ip netns add muster-x-a\n"));
	assert_non_null(strstr(up.s,
		"ip -n muster-x-wan link add name a type veth peer name eth1 netns muster-x-a\n"));
	assert_non_null(strstr(
		up.s, "ip netns exec muster-x-a sysctl -q net.ipv4.conf.eth1.arp_ignore=1\n"));
	assert_non_null(strstr(
		up.s, "ip -n muster-x-a addr add 2001:db8::100/128 dev lo preferred_lft 0\n"));
	assert_non_null(strstr(up.s, "ip -n muster-x-a route add 0.0.0.0/0 via 198.18.0.2\n"));
	assert_non_null(strstr(
		up.s, "exec setsid ip netns exec muster-x-a prog -c /run/muster/lab/x/a/d/c.conf"));
	assert_non_null(strstr(down.s, "ip netns delete muster-x-lan"));
	assert_non_null(strstr(down.s, "rm -rf /run/muster/lab/x\n"));
}

/* A damaged record removes nothing that is not a lab's. */
static void test_damaged_record(void **state)
{
	static const char *const priors[] = {
		"{'id': 'i', 'netns_dir': 'mount', 'names': ['../../etc/passwd']}",
		"{'id': 'i', 'netns_dir': 'mount', 'names': ['muster-/../x']}",
		"{'id': 'i', 'netns_dir': 'mount', 'names': [7]}",
		"{'id': 'i', 'netns_dir': 'mount', 'names': 'muster-x'}",
		"{}",
	};
	_cleanup_json_ json_t *args = json("{'site': {'name': 'no-such-lab'}}"), *none = json("{}");
	_cleanup_json_ json_t *up = json("{'site': {'name': '..'}}");
	_cleanup_node_ struct node *host = node_new("host", NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(priors); i++) {
		_cleanup_json_ json_t *prior = json(priors[i]);
		struct err err = {0};

		assert_int_equal(change_lab_site.undo(host, args, prior, &err), -EINVAL);
		assert_non_null(strstr(err.text, "damaged"));
		assert_int_equal(change_lab_site.undo(host, none, prior, &err), -EINVAL);
		assert_int_equal(change_lab_site.undo(host, up, prior, &err), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_what_a_node_has),
		cmocka_unit_test(test_daemons),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_ipvs_table),
		cmocka_unit_test(test_missing_program),
		cmocka_unit_test(test_lvs_dr),
		cmocka_unit_test(test_lvs_dr_option),
		cmocka_unit_test(test_plan_words),
		cmocka_unit_test(test_damaged_record),
	};

	return cmocka_run_group_tests_name("lab spec", tests, NULL, NULL);
}
