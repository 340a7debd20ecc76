/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sets without a kernel: what is a member and what only looks like one, the kernel's texts taken apart,
 * the plan's commands.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <string.h>

#include "baseline/sets.h"
#include "engine/change.h"

static void members(void **state _unused_)
{
	static const struct {
		enum sets_type type;
		int family;
		const char *text, *want; /* NULL: refused */
	} cases[] = {
		{SETS_HASH_IP, AF_INET, "198.18.0.1", "198.18.0.1"},
		{SETS_HASH_IP, AF_INET, "198.18.0.0/24", NULL},
		{SETS_HASH_IP, AF_INET, "198.18.0.1-198.18.0.9", NULL},
		{SETS_HASH_IP, AF_INET, "localhost", NULL}, /* would be asked of a resolver */
		{SETS_HASH_IP, AF_INET, "198.18.1", NULL},
		{SETS_HASH_IP, AF_INET, "", NULL},
		{SETS_HASH_IP, AF_INET, "2001:db8::1", NULL},
		{SETS_HASH_IP, AF_INET6, "2001:DB8:0::1", "2001:db8::1"},
		{SETS_HASH_IP, AF_INET6, "198.18.0.1", NULL},
		{SETS_HASH_IP, AF_INET, "198.18.0.1 timeout 5", NULL},
		{SETS_HASH_IP, AF_INET, "198.18.0.1\nflush", NULL},
		{SETS_HASH_NET, AF_INET, "198.18.0.7/24", "198.18.0.0/24"},
		{SETS_HASH_NET, AF_INET, "198.18.0.7", "198.18.0.7"},
		{SETS_HASH_NET, AF_INET, "198.18.0.7/32", "198.18.0.7"},
		{SETS_HASH_NET, AF_INET, "198.18.255.7/17", "198.18.128.0/17"},
		{SETS_HASH_NET, AF_INET, "198.18.0.7/0", NULL},
		{SETS_HASH_NET, AF_INET, "198.18.0.7/33", NULL},
		{SETS_HASH_NET, AF_INET, "198.18.0.7/", NULL},
		{SETS_HASH_NET, AF_INET, "198.18.0.7/24/24", NULL},
		{SETS_HASH_NET, AF_INET6, "2001:db8::ffff/33", "2001:db8::/33"},
		{SETS_HASH_NET, AF_INET6, "2001:db8::ffff/128", "2001:db8::ffff"},
		{SETS_HASH_NET, AF_INET6, "2001:db8::ffff/129", NULL},
		{SETS_HASH_IP_PORT, AF_INET, "198.18.0.1,tcp:80", "198.18.0.1,tcp:80"},
		{SETS_HASH_IP_PORT, AF_INET, "198.18.0.1,udp:080", "198.18.0.1,udp:80"},
		{SETS_HASH_IP_PORT, AF_INET6, "2001:db8::1,sctp:0", "2001:db8::1,sctp:0"},
		{SETS_HASH_IP_PORT, AF_INET, "198.18.0.1,80", NULL},
		{SETS_HASH_IP_PORT, AF_INET, "198.18.0.1", NULL},
		{SETS_HASH_IP_PORT, AF_INET, "198.18.0.1,icmp:3", NULL},
		{SETS_HASH_IP_PORT, AF_INET, "198.18.0.1,tcp:http", NULL},
		{SETS_HASH_IP_PORT, AF_INET, "198.18.0.1,tcp:65536", NULL},
		{SETS_HASH_IP_PORT, AF_INET, "198.18.0.1,tc:80", NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char got[SETS_MEMBER_MAX] = "untouched";
		int r = sets_member(cases[i].type, cases[i].family, cases[i].text, got);

		if (cases[i].want) {
			assert_int_equal(r, 0);
			assert_string_equal(got, cases[i].want);
		} else if (r != -EINVAL) {
			fail_msg("\"%s\" became %s", cases[i].text, got);
		}
	}
	assert_true(sets_valid_name("blocked_hosts"));
	assert_false(sets_valid_name(""));
	assert_false(sets_valid_name("-exist"));
	assert_false(sets_valid_name("a b"));
	assert_false(sets_valid_name("a\nb"));
	assert_false(sets_valid_name("$(reboot)"));
	assert_false(sets_valid_name("0123456789012345678901234567890x"));
}

static const char saved[] =
	"create a hash:ip family inet hashsize 1024 maxelem 65536 timeout 300 counters comment bucketsize 12 "
	"initval 0x79adf436 \n"
	"create ab hash:net family inet6 hashsize 64 maxelem 9\n"
	"add a 198.18.0.2 timeout 100 packets 5 bytes 300 comment \"timeout 9 add a b\"\n"
	"add a 198.18.0.1 timeout 0 packets 0 bytes 0\n"
	"add ab 2001:db8::/32 nomatch\n"
	"add a 198.18.0.3 timeout 7 packets 1 bytes 60\n";

static void texts(void **state _unused_)
{
	struct sets_set a, ab, none;
	char type[SETS_NAME_MAX];
	unsigned int maxelem;
	long timeout;
	int family;

	assert_int_equal(sets_parse(saved, "a", &a), 0);
	assert_int_equal(a.n, 3);
	assert_string_equal(a.elems[0].text, "198.18.0.1");
	assert_int_equal(a.elems[0].timeout, 0);
	assert_int_equal(a.elems[1].timeout, 100);
	assert_string_equal(a.elems[2].text, "198.18.0.3");
	assert_int_equal(a.elems[2].timeout, 7);
	sets_header(a.header, type, &family, &maxelem, &timeout);
	assert_string_equal(type, "hash:ip");
	assert_int_equal(family, AF_INET);
	assert_int_equal(maxelem, 65536);
	assert_int_equal(timeout, 300);
	assert_int_equal(sets_parse(saved, "ab", &ab), 0);
	assert_int_equal(ab.n, 1);
	assert_string_equal(ab.elems[0].text, "2001:db8::/32 nomatch");
	sets_header(ab.header, type, &family, &maxelem, &timeout);
	assert_int_equal(family, AF_INET6);
	assert_int_equal(maxelem, 9);
	assert_int_equal(timeout, -1);
	assert_int_equal(sets_parse(saved, "b", &none), -ENOENT);
	assert_int_equal(sets_parse("", "a", &none), -ENOENT);
	sets_clear(&a);
	sets_clear(&ab);
}

static void expired_members(void **state _unused_)
{
	struct sets_set was, now;

	assert_int_equal(sets_parse(saved, "a", &was), 0);
	assert_int_equal(
		sets_parse("create a hash:ip\nadd a 198.18.0.1 timeout 0\n", "a", &now), 0);
	/* two have gone, and both had a time-out */
	assert_true(sets_within(&now, &was, false));
	assert_false(sets_within(&was, &now, true));
	sets_clear(&now);
	assert_int_equal(
		sets_parse("create a hash:ip\nadd a 198.18.0.3 timeout 0\n", "a", &now), 0);
	assert_false(sets_within(&now, &was, false)); /* 198.18.0.1 was to stay */
	assert_true(sets_within(&now, &was, true));
	sets_clear(&now);
	assert_int_equal(
		sets_parse("create a hash:ip\nadd a 198.18.0.1\nadd a 198.18.0.9\n", "a", &now), 0);
	assert_false(sets_within(&now, &was, true)); /* a stranger */
	sets_clear(&now);
	sets_clear(&was);
}

static void renamed(void **state _unused_)
{
	_cleanup_free_ char *text = sets_renamed(saved, "a", "spare", 10);

	assert_string_equal(text,
		"create spare hash:ip family inet hashsize 1024 maxelem 65536 timeout 300 counters comment bucketsize 12 initval "
		"0x79adf436 \n"
		"add spare 198.18.0.2 timeout 90 packets 5 bytes 300 comment \"timeout 9 add a b\"\n"
		"add spare 198.18.0.1 timeout 0 packets 0 bytes 0\n");
}

static int check(const char *args, json_t **ret, struct err *err)
{
	const struct change_ops *ops = change_find("set.ipset");
	_cleanup_json_ json_t *in = json_loads(args, 0, NULL);
	json_t *out = NULL;
	int r;

	assert_non_null(ops);
	assert_non_null(in);
	*err = (struct err){0};
	r = param_check(ops->params, ops->name, in, NULL, &out, err);
	if (r == 0)
		r = ops->resolve(NULL, out, err);
	if (r < 0)
		json_decref(out);
	else
		*ret = out;
	return r;
}

static void arguments(void **state _unused_)
{
	static const struct {
		const char *args, *text;
	} bad[] = {
		{"{\"node\":\"d\"}", "name is missing"},
		{"{\"node\":\"d\",\"name\":\"a b\"}", "name = \"a b\""},
		{"{\"node\":\"d\",\"name\":\"muster-1\"}", "are taken"},
		{"{\"node\":\"d\",\"name\":\"x\",\"type\":\"hash:mac\"}", "none of hash:ip"},
		{"{\"node\":\"d\",\"name\":\"x\",\"members\":[\"198.18.0.1\",\"example.org\"]}",
			"members[2] = \"example.org\""},
		{"{\"node\":\"d\",\"name\":\"x\",\"family\":\"inet6\",\"members\":[\"198.18.0.1\"]}",
			"family inet6"},
		{"{\"node\":\"d\",\"name\":\"x\",\"timeout\":\"500ms\"}", "whole seconds"},
		{"{\"node\":\"d\",\"name\":\"x\",\"maxelem\":2,\"members\":[\"198.18.0.1\",\"198.18.0.2\",\"198.18.0.3\"]}",
			"3 members, and maxelem = 2"},
	};
	_cleanup_json_ json_t *j = NULL;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		json_t *out;

		if (check(bad[i].args, &out, &err) != -EINVAL)
			fail_msg("%s was taken", bad[i].args);
		if (!strstr(err.text, bad[i].text))
			fail_msg("%s: %s", bad[i].args, err.text);
	}
	assert_int_equal(check("{\"node\":\"d\",\"name\":\"x\",\"type\":\"hash:net\",\"maxelem\":2,"
			       "\"members\":[\"198.18.9.9/16\",\"198.18.0.1\",\"198.18.0.0/16\"]}",
				 &j, &err),
		0);
	assert_int_equal(json_array_size(json_object_get(j, "members")), 2);
	assert_string_equal(json_string_value(json_array_get(json_object_get(j, "members"), 0)),
		"198.18.0.0/16");
}

static void commands(void **state _unused_)
{
	const struct change_ops *ops = change_find("set.ipset");
	_cleanup_node_ struct node *n = node_new("d", "/run/netns/d");
	_cleanup_json_ json_t *
		args = NULL,
	       *prior = json_pack("{s:s, s:s, s:i}", "save",
		       "create x hash:ip family inet hashsize 1024 maxelem 65536\nadd x 198.18.0.9\n",
		       "spare", "muster-0a", "at_ns", 0);
	_cleanup_strbuf_ struct strbuf a = {0}, u = {0}, a2 = {0}, u2 = {0};
	struct err err;

	assert_int_equal(
		check("{\"node\":\"d\",\"name\":\"x\",\"timeout\":\"5m\",\"members\":[\"198.18.0.1\"]}",
			&args, &err),
		0);
	assert_int_equal(ops->command(n, args, NULL, &a, &u), 0);
	assert_string_equal(strbuf_cstr(&a),
		"nsenter --net=/run/netns/d ipset create x hash:ip family inet maxelem 65536 timeout 300\n"
		"nsenter --net=/run/netns/d ipset add x 198.18.0.1\n");
	assert_int_equal(ops->command(n, args, prior, &a2, &u2), 0);
	assert_string_equal(strbuf_cstr(&a2),
		"nsenter --net=/run/netns/d ipset create muster-0a hash:ip family inet maxelem 65536 timeout 300\n"
		"nsenter --net=/run/netns/d ipset add muster-0a 198.18.0.1\n"
		"nsenter --net=/run/netns/d ipset swap x muster-0a\n");
	assert_string_equal(strbuf_cstr(&u2),
		"! nsenter --net=/run/netns/d ipset list -name muster-0a >/dev/null 2>&1 || nsenter --net=/run/netns/d ipset destroy muster-0a\n"
		"printf %s 'create muster-0a hash:ip family inet hashsize 1024 maxelem 65536\n"
		"add muster-0a 198.18.0.9\n"
		"' | nsenter --net=/run/netns/d ipset restore\n"
		"nsenter --net=/run/netns/d ipset swap x muster-0a\n"
		"! nsenter --net=/run/netns/d ipset list -name muster-0a >/dev/null 2>&1 || "
		"nsenter --net=/run/netns/d ipset destroy muster-0a\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members),
		cmocka_unit_test(texts),
		cmocka_unit_test(expired_members),
		cmocka_unit_test(renamed),
		cmocka_unit_test(arguments),
		cmocka_unit_test(commands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
