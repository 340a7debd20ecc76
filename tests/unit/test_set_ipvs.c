/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * set.ipvs without a kernel: names become addresses, mistakes are named, and the plan reads as ipvsadm's
 * commands.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "engine/change.h"
#include "engine/site.h"

static struct site *site;

static int set_up(void **state _unused_)
{
	static const char text[] =
		"{\"name\":\"t\",\"switches\":[\"lan\"],\"nodes\":["
		"{\"name\":\"director\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198.18.0.2/24\",\"2001:db8::2/64\"]}]},"
		"{\"name\":\"rs1\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198.18.0.21/24\",\"2001:db8::21/64\"]}]},"
		"{\"name\":\"rs2\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198.18.0.22/24\"]}]}],"
		"\"services\":[{\"name\":\"web\",\"port\":8080,\"vips\":[\"198.18.0.100\",\"2001:db8::100\"],"
		"\"scheduler\":\"wrr\",\"director\":\"director\",\"servers\":[{\"node\":\"rs1\",\"weight\":3},{\"node\":\"rs2\",\"weight\":5}]}]}";
	_cleanup_json_ json_t *j = json_loads(text, 0, NULL);
	struct err err = {0};

	assert_non_null(j);
	if (site_from_json(j, &site, &err) < 0)
		fail_msg("%s", err.text);
	return 0;
}

static int tear_down(void **state _unused_)
{
	site_free(site);
	return 0;
}

/* As plan_check_change() does it */
static int check(const char *args, json_t **ret, struct err *err)
{
	const struct change_ops *ops = change_find("set.ipvs");
	const struct param_names names = site_names(site);
	_cleanup_json_ json_t *in = json_loads(args, 0, NULL);
	json_t *out = NULL;
	int r;

	assert_non_null(ops);
	assert_non_null(in);
	*err = (struct err){0};
	r = param_check(ops->params, ops->name, in, &names, &out, err);
	if (r == 0)
		r = ops->resolve(site, out, err);
	if (r < 0)
		json_decref(out);
	else
		*ret = out;
	return r;
}

static void assert_commands(
	const char *args, const json_t *prior, const char *apply, const char *undo)
{
	const struct change_ops *ops = change_find("set.ipvs");
	_cleanup_strbuf_ struct strbuf a = {0}, u = {0};
	_cleanup_node_ struct node *n = node_new("director", "/run/netns/d");
	_cleanup_json_ json_t *j = NULL;
	struct err err;

	if (check(args, &j, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(json_string_value(json_object_get(j, "node")), "director");
	assert_int_equal(ops->command(n, j, prior, &a, &u), 0);
	assert_string_equal(strbuf_cstr(&a), apply);
	assert_string_equal(strbuf_cstr(&u), undo);
}

#define P "nsenter --net=/run/netns/d ipvsadm "

static void weights_only(void **state _unused_)
{
	assert_commands("{\"service\":\"web\",\"weights\":{\"rs1\":0,\"rs2\":1}}", NULL,
		P "-e -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 0\n" P
		  "-e -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 1\n" P
		  "-e -t '[2001:db8::100]:8080' -r '[2001:db8::21]:8080' -g -w 0\n",
		"# puts back what it reads from 198.18.0.100:8080 before the change\n"
		"# puts back what it reads from [2001:db8::100]:8080 before the change\n");
}

static void scheduler_only(void **state _unused_)
{
	assert_commands("{\"service\":\"web\",\"scheduler\":\"wlc\"}", NULL,
		P "-E -t 198.18.0.100:8080 -s wlc\n" P "-E -t '[2001:db8::100]:8080' -s wlc\n",
		"# puts back what it reads from 198.18.0.100:8080 before the change\n"
		"# puts back what it reads from [2001:db8::100]:8080 before the change\n");
}

static void as_declared(void **state _unused_)
{
	assert_commands("{\"service\":\"web\"}", NULL,
		P "-A -t 198.18.0.100:8080 -s wrr\n" P
		  "-a -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 3\n" P
		  "-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 5\n" P
		  "-A -t '[2001:db8::100]:8080' -s wrr\n" P
		  "-a -t '[2001:db8::100]:8080' -r '[2001:db8::21]:8080' -g -w 3\n",
		P "-D -t 198.18.0.100:8080\n" P "-D -t '[2001:db8::100]:8080'\n");
}

static void own_service(void **state _unused_)
{
	assert_commands(
		"{\"node\":\"director\",\"vip\":\"198.18.0.101\",\"port\":53,\"protocol\":\"udp\",\"scheduler\":\"sh\","
		"\"forward\":\"nat\",\"servers\":{\"rs2\":5,\"198.18.0.77\":1}}",
		NULL,
		P "-A -u 198.18.0.101:53 -s sh\n" P
		  "-a -u 198.18.0.101:53 -r 198.18.0.22:53 -m -w 5\n" P
		  "-a -u 198.18.0.101:53 -r 198.18.0.77:53 -m -w 1\n",
		P "-D -u 198.18.0.101:53\n");
}

/* With a record the commands say exactly what is put back, thresholds, persistence, tunnels and all. */
static void from_a_record(void **state _unused_)
{
	_cleanup_json_ json_t *prior = json_loads(
		"{\"targets\":[{\"service\":{\"scheduler\":\"rr\",\"pe\":\"\",\"flags\":9,\"timeout\":300,\"netmask\":16777215},"
		"\"dests\":[{\"forward\":2,\"weight\":7,\"upper_threshold\":100,\"lower_threshold\":80,\"tun_type\":1,"
		"\"tun_port\":6080,\"tun_flags\":1,\"last_weight\":7},null]},"
		"{\"service\":null,\"dests\":[null]}]}",
		0, NULL);

	assert_non_null(prior);
	assert_commands("{\"service\":\"web\"}", prior,
		P "-E -t 198.18.0.100:8080 -s wrr -p 300 -M 255.255.255.0 -b flag-1\n" P
		  "-e -t 198.18.0.100:8080 -r 198.18.0.21:8080 -g -w 3 -x 100 -y 80\n" P
		  "-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 -g -w 5\n" P
		  "-A -t '[2001:db8::100]:8080' -s wrr\n" P
		  "-a -t '[2001:db8::100]:8080' -r '[2001:db8::21]:8080' -g -w 3\n",
		"! " P "-Sn | grep -qF -e '-a -t 198.18.0.100:8080 -r 198.18.0.22:8080 ' || " P
		"-d -t 198.18.0.100:8080 -r 198.18.0.22:8080\n" P
		"-e -t 198.18.0.100:8080 -r 198.18.0.21:8080 -i -w 7 -x 100 -y 80 --tun-type gue --tun-port 6080 --tun-csum\n" P
		"-E -t 198.18.0.100:8080 -s rr -p 300 -M 255.255.255.0 -b flag-1\n"
		"! " P "-Sn | grep -qF -e '-A -t [2001:db8::100]:8080 ' || " P
		"-D -t '[2001:db8::100]:8080'\n");
}

static void mistakes(void **state _unused_)
{
	static const struct {
		const char *args, *text, *hint;
	} bad[] = {
		{"{}", "wants either service, or node, vip and port", "service"},
		{"{\"vip\":\"198.18.0.100\",\"port\":80}", "wants either service", ""},
		{"{\"service\":\"wen\"}", "no such service", "web"},
		{"{\"service\":\"web\",\"weights\":{\"rs3\":1}}",
			"service web has no server \"rs3\"", "rs"},
		{"{\"service\":\"web\",\"weights\":{\"director\":1}}", "has no server \"director\"",
			""},
		{"{\"service\":\"web\",\"weights\":{\"rs1\":-1}}", "out of range", ""},
		{"{\"service\":\"web\",\"weights\":{\"rs1\":70000}}", "out of range", ""},
		{"{\"service\":\"web\",\"port\":80}", "port is the site's to say", ""},
		{"{\"service\":\"web\",\"scheduler\":\"../x\"}", "no scheduler's name", ""},
		{"{\"service\":\"web\",\"scheduler\":\"\"}", "no scheduler's name", ""},
		{"{\"node\":\"director\",\"vip\":\"198.18.0.1\",\"port\":80,\"weights\":{\"rs1\":1}}",
			"weights goes with service", ""},
		{"{\"node\":\"director\",\"vip\":\"198.18.0.1\",\"port\":80,\"servers\":{\"nobody\":1}}",
			"neither a node of the site nor an address", ""},
		{"{\"node\":\"director\",\"vip\":\"2001:db8::1\",\"port\":80,\"servers\":{\"rs2\":1}}",
			"rs2 has no IPv6 address", ""},
		{"{\"node\":\"director\",\"vip\":\"198.18.0.1\",\"port\":80,\"servers\":{\"2001:db8::9\":1}}",
			"another family", ""},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		json_t *out = NULL;
		struct err err;

		if (check(bad[i].args, &out, &err) != -EINVAL && err.code != -ERANGE)
			fail_msg("%s was taken", bad[i].args);
		if (!strstr(err.text, bad[i].text) || !strstr(err.hint, bad[i].hint))
			fail_msg("%s: \"%s\" (%s)", bad[i].args, err.text, err.hint);
	}
}

static void damaged_record(void **state _unused_)
{
	static const char *const priors[] = {
		"{}",
		"{\"targets\":[]}",
		"{\"targets\":[{\"service\":{\"scheduler\":1},\"dests\":[]},{}]}",
		"{\"targets\":[{\"service\":{\"scheduler\":\"0123456789abcdef\",\"pe\":\"\",\"flags\":0,\"timeout\":0,\"netmask\":0}},{}]}",
		"{\"targets\":[{\"service\":null,\"dests\":[{\"weight\":1}]},{}]}",
	};
	const struct change_ops *ops = change_find("set.ipvs");
	_cleanup_node_ struct node *n = node_new("director", "/nonexistent");
	_cleanup_json_ json_t *args = NULL;
	struct err err;

	assert_int_equal(check("{\"service\":\"web\"}", &args, &err), 0);
	for (size_t i = 2; i < ARRAY_SIZE(priors); i++) {
		_cleanup_json_ json_t *prior = json_loads(priors[i], 0, NULL);
		_cleanup_strbuf_ struct strbuf a = {0}, u = {0};

		assert_non_null(prior);
		assert_int_equal(ops->command(n, args, prior, &a, &u), -EINVAL);
	}
	for (size_t i = 0; i < 2; i++) {
		_cleanup_json_ json_t *prior = json_loads(priors[i], 0, NULL);

		assert_int_equal(ops->undo(n, args, prior, &err), -EINVAL);
		assert_non_null(strstr(err.text, "damaged"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(weights_only),
		cmocka_unit_test(scheduler_only),
		cmocka_unit_test(as_declared),
		cmocka_unit_test(own_service),
		cmocka_unit_test(from_a_record),
		cmocka_unit_test(mistakes),
		cmocka_unit_test(damaged_record),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
