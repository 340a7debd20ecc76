/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the script asks for, as the engine checks it before it does anything: changes, expectations
 * and the declaration itself, against the real tables. Nothing is carried out. Start it with
 * tests/fuzz/corpus/request.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "engine/session.h"
#include "engine/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX (64u << 10)

static const char site_json[] = "{\"name\":\"lvs-dr\",\"switches\":[\"lan\"],\"nodes\":["
				"{\"name\":\"client\",\"links\":[{\"switch\":\"lan\",\"addrs\":["
				"\"198.18.0.10/24\",\"2001:db8::10/64\"]}]},"
				"{\"name\":\"director\",\"links\":[{\"switch\":\"lan\",\"addrs\":["
				"\"198.18.0.2/24\",\"2001:db8::2/64\"]}]},"
				"{\"name\":\"rs1\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198."
				"18.0.21/24\",\"2001:db8::21/64\"]}]},"
				"{\"name\":\"rs2\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198."
				"18.0.22/24\",\"2001:db8::22/64\"]}]}],"
				"\"services\":[{\"name\":\"web\",\"port\":8080,\"vips\":[\"198.18."
				"0.100\",\"2001:db8::100\"],"
				"\"director\":\"director\",\"servers\":[{\"node\":\"rs1\","
				"\"weight\":3},{\"node\":\"rs2\",\"weight\":5}]}]}";

static const struct site *the_site(void)
{
	static struct site *site;
	struct err err = {0};

	if (!site) {
		json_t *j = json_loads(site_json, 0, NULL);
		int r = site_from_json(j, &site, &err);

		if (r < 0)
			fprintf(stderr, "%s\n", err.text);
		assert(r == 0);
		json_decref(j);
	}
	return site;
}

/* Whatever was accepted is accepted again, and is the same: the engine checks what the script
 * process normalised. */
static void check_change(json_t *request)
{
	const struct change_ops *ops = NULL;
	struct node *node = NULL;
	struct err err = {0};
	_cleanup_json_ json_t *first = NULL;
	int r = plan_check_change(the_site(), request, &ops, &node, &err);

	if (r < 0) {
		assert(err.text[0] || r == -ENOMEM);
		return;
	}
	assert(ops && node);
	/* resolve() adds keys that are no parameters */
	if (ops->resolve)
		return;
	first = json_deep_copy(json_object_get(request, "args"));
	r = plan_check_change(the_site(), request, &ops, &node, &err);
	assert(r == 0 && json_equal(first, json_object_get(request, "args")));
}

static void check_expectation(const json_t *request, const char *time_key)
{
	struct predicate *p = NULL;
	struct err err = {0};
	nsec_t ns = -1;
	int r = session_check_expectation(the_site(), request, time_key, &p, &ns, &err);

	if (r < 0) {
		assert(!p && (err.text[0] || r == -ENOMEM));
		return;
	}
	assert(p && p->text && ns >= 0);
	predicate_free(p);
}

static void check_scenario(const json_t *declared)
{
	struct site *site = NULL;
	_cleanup_json_ json_t *scenario = NULL;
	struct err err = {0};
	int r = session_check_scenario(declared, &site, &scenario, &err);

	if (r < 0) {
		assert(!site && !scenario && (err.text[0] || r == -ENOMEM));
		return;
	}
	assert(site && json_is_object(scenario));
	site_free(site);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t frame[4 + INPUT_MAX];
	_cleanup_json_ json_t *m = NULL;
	struct err err = {0};
	const char *op;

	if (size > INPUT_MAX)
		return 0;
	for (unsigned int i = 0; i < 4; i++)
		frame[i] = (uint8_t)(size >> (8 * i));
	memcpy(frame + 4, data, size);
	if (wire_decode(frame, 4 + size, &m, &err) <= 0)
		return 0;
	op = json_string_value(json_object_get(m, "op"));
	if (streq(op, "inject") || streq(op, "apply"))
		check_change(m);
	else if (streq(op, "eventually"))
		check_expectation(m, "within_ns");
	else if (streq(op, "always"))
		check_expectation(m, "during_ns");
	else if (streq(op, "scenario"))
		check_scenario(json_object_get(m, "scenario"));
	return 0;
}
