/* SPDX-License-Identifier: GPL-2.0-only */
/* run_mgmt.c: what mgmt.h knows, asked at the two moments when it can still be heeded. */
#include "engine/run_internal.h"

#include <string.h>

#include "engine/clock.h"
#include "engine/mgmt.h"

/*
 * What the command found holds, since its ancestors may be gone by now; what has changed since (a route, an address) is looked at
 * again: *now, kept for the next question of the same moment.
 */
static int check(struct run *r, json_t **now, const struct change_ops *ops, const struct node *n, const json_t *args,
	char **ret_waived, struct err *err)
{
	_cleanup_free_ char *hit = NULL;
	int e = 0;

	if (!ops->reach)
		return 0;
	if (r->o->mgmt) {
		e = mgmt_near(r->o->mgmt, ops, n, args, err);
		if (e == 0)
			return 0; /* a lab's own namespace, as a rule: looking again would only cost time */
		if (e > 0)
			e = mgmt_check(r->o->mgmt, ops, n, args, &hit, err);
	}
	if (e == 0 && !*now)
		e = mgmt_find(now, err);
	if (e == 0)
		e = mgmt_check(*now, ops, n, args, &hit, err);
	if (e < 0)
		return err_prefix(err, "%s on %s", ops->name, n->name), e;
	if (e == 0)
		return 0;
	if (!mgmt_waived(r->scenario))
		return mgmt_refuse(ops, n, hit, err);
	*ret_waived = strf(MGMT_WAIVER ": %s on %s: %s", ops->name, n->name, hit);
	return *ret_waived ? 0 : -ENOMEM;
}

int run_check_paths(struct run *r, const struct change_ops *ops, const struct node *n, const json_t *args, char **ret_waived,
	struct err *err)
{
	_cleanup_json_ json_t *now = NULL;

	return check(r, &now, ops, n, args, ret_waived, err);
}

int run_check_plan(struct run *r, struct err *err)
{
	const json_t *j, *baseline = json_object_get(json_object_get(r->scenario, "baseline"), "changes");
	_cleanup_json_ json_t *now = NULL;
	size_t i;
	int e = 0;

	json_array_foreach(baseline, i, j) {
		const struct change_ops *ops = change_find(json_string_value(json_object_get(j, "change")));
		const json_t *args = json_object_get(j, "args");
		_cleanup_free_ char *waived = NULL;

		if (e == 0)
			e = check(r, &now, ops, site_node(r->site, json_string_value(json_object_get(args, "node"))), args, &waived,
				err);
	}
	for (i = 0; e == 0 && i < r->plan->n_steps; i++) {
		const struct plan_step *s = &r->plan->steps[i];
		_cleanup_free_ char *waived = NULL;

		if (s->ops)
			e = check(r, &now, s->ops, s->node, json_object_get(s->request, "args"), &waived, err);
	}
	return e;
}
