/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who is a director that can be lost: the one that holds an address of the service on a link, now. How each way takes it, and puts it
 * back, the conformance test shows; IPVS is not needed for any of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bridge_site.h"
#include "engine/change.h"
#include "engine/site.h"

static struct bridge_site bridge;
static struct site *site;
static const struct change_ops *ops;

static const char site_text[] =
	"{\"name\": \"pair\", \"switches\": [\"lan\"], \"nodes\": ["
	" {\"name\": \"node\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.2/24\"]}]},"
	" {\"name\": \"peer\", \"links\": [{\"dev\": \"eth0\", \"switch\": \"lan\", \"addrs\": [\"198.18.0.1/24\"]}]}],"
	" \"services\": [{\"name\": \"web\", \"protocol\": \"tcp\", \"port\": 8080, \"vips\": [\"198.18.0.100\", "
	"\"2001:db8::100\"], \"scheduler\": \"wrr\", \"forward\": \"dr\", \"directors\": [\"node\", \"peer\"], "
	"\"servers\": [{\"node\": \"peer\", \"weight\": 1}]}]}";

static int make(void **state _unused_)
{
	_cleanup_json_ json_t *j = json_loads(site_text, 0, NULL);
	struct err err = {0};

	bridge_site_make(&bridge);
	if (site_from_json(j, &site, &err) < 0)
		fail_msg("%s", err.text);
	ops = change_find("fault.director_loss");
	assert_non_null(ops);
	return 0;
}

static int drop(void **state _unused_)
{
	site_free(site);
	bridge_site_drop(&bridge);
	return 0;
}

static json_t *arguments(const char *more)
{
	_cleanup_free_ char *text = strf("{\"service\": \"web\", \"how\": \"silent\"%s}", more);
	_cleanup_json_ json_t *given = json_loads(text, 0, NULL);
	const struct param_names names = site_names(site);
	json_t *args = NULL;
	struct err err = {0};

	if (param_check(ops->params, ops->name, given, &names, &args, &err) < 0 || ops->resolve(site, args, &err) < 0)
		fail_msg("%s: %s", text, err.text);
	return args;
}

static void refused(const struct node *n, const json_t *args)
{
	_cleanup_json_ json_t *prior = NULL;
	_cleanup_free_ char *want = strf("%s does not hold any virtual address of web now (198.18.0.100, 2001:db8::100)", n->name);
	struct err err = {0};

	assert_int_equal(ops->supported(n, args, &err), 0);
	assert_int_equal(ops->capture(n, args, &prior, &err), -ESTALE);
	if (!strstr(err.text, want))
		fail_msg("%s", err.text);
	assert_true(err.hint[0]);
}

static void only_the_one_that_schedules(void **state _unused_)
{
	_cleanup_json_ json_t *first = arguments(""), *second = arguments(", \"node\": \"peer\"");

	assert_string_equal(json_string_value(json_object_get(first, "node")), "node");
	refused(bridge.node, first);
	/* a standby, or a real server, may have it on lo without answering for it */
	sh("ip -n node addr add 198.18.0.100/32 dev lo");
	refused(bridge.node, first);
	sh("ip -n node addr del 198.18.0.100/32 dev lo && ip -n peer addr add 2001:db8::100/128 dev eth0 nodad");
	refused(bridge.node, first);
	{
		_cleanup_json_ json_t *prior = NULL;
		struct err err = {0};

		if (ops->capture(bridge.peer, second, &prior, &err) < 0)
			fail_msg("%s", err.text);
		assert_int_equal(json_array_size(json_object_get(prior, "held")), 1);
	}
	sh("ip -n peer addr del 2001:db8::100/128 dev eth0");
}

static void it_is_named(void **state _unused_)
{
	_cleanup_json_ json_t *args = arguments(""), *prior = NULL, *e = NULL;
	_cleanup_free_ char *before = NULL;
	struct err err = {0};
	const char *text;

	sh("ip -n node addr add 198.18.0.100/32 dev eth0 && ip -n node addr add 2001:db8::100/128 dev eth0 nodad");
	before = site_snapshot(&bridge);
	assert_int_equal(ops->capture(bridge.node, args, &prior, &err), 0);
	assert_int_equal(ops->apply(bridge.node, args, prior, &err), 0);
	assert_false(reachable(&bridge, "198.18.0.100"));
	assert_int_equal(ops->measure(bridge.node, args, prior, &e, &err), 0);
	text = json_string_value(json_object_get(e, "text"));
	assert_true(json_is_true(json_object_get(e, "proved")));
	assert_string_equal(json_string_value(json_object_get(json_object_get(e, "asked"), "node")), "node");
	assert_string_equal(json_string_value(json_object_get(json_object_get(e, "asked"), "service")), "web");
	assert_string_equal(json_string_value(json_object_get(json_object_get(e, "measured"), "node")), "node");
	assert_int_equal(json_array_size(json_object_get(json_object_get(e, "measured"), "held")), 2);
	if (!strstr(text, "node, which held 198.18.0.100, 2001:db8::100: "))
		fail_msg("%s", text);
	assert_int_equal(ops->undo(bridge.node, args, prior, &err), 0);
	assert_int_equal(ops->verify(bridge.node, args, prior, &err), 0);
	assert_site_equals(&bridge, before);
	assert_true(becomes_reachable(&bridge, "198.18.0.100"));
	sh("ip -n node addr del 198.18.0.100/32 dev eth0 && ip -n node addr del 2001:db8::100/128 dev eth0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_the_one_that_schedules),
		cmocka_unit_test(it_is_named),
	};

	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, make, drop);
}
