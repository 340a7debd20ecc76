/* SPDX-License-Identifier: GPL-2.0-only */
#include "lab/choose.h"

#include <stdio.h>
#include <string.h>

#include "engine/str.h"
#include "lab/host.h"
#include "lab/vm.h"

/* What a lab of network namespaces takes from the kernel. A feature that could not be asked after counts as not there. */
static void kernel_lacks(struct strbuf *b)
{
	const struct {
		const char *name;
		bool there;
	} wanted[] = {{"IPVS", host_has_ipvs() == 1},
		{"sch_netem", host_has_qdisc("netem") == 1},
		{"BTF", host_has_btf() == 1}};
	size_t lacking = 0, named = 0;

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		lacking += !wanted[i].there;
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		if (wanted[i].there)
			continue;
		named++;
		strbuf_addf(b, "%s%s", named == 1 ? "" : named == lacking ? " and " : ", ", wanted[i].name);
	}
}

static int answer(const char *lab, char *why, const char **ret_lab, char **ret_why, struct err *err)
{
	if (!why)
		return err_set(err, -ENOMEM, "choose a lab: no memory");
	*ret_lab = lab;
	*ret_why = why;
	return 0;
}

static int choose_vm(const char *lacks, const char **ret_lab, char **ret_why, struct err *err)
{
	int r;

	if (getenv("MUSTER_VM")) {
		err_set(err, -EOPNOTSUPP, "a microVM inside the microVM is not to be had%s%s",
			*lacks ? ", and its kernel lacks " : "", lacks);
		err_hint(err, "--lab netns");
		return -EOPNOTSUPP;
	}
	r = vm_available(err);
	if (r < 0) {
		/* the hint that names the package stays */
		if (*lacks)
			err_prefix(err, "this kernel lacks %s, and the microVM that has it cannot be started", lacks);
		return -EOPNOTSUPP;
	}
	return answer("vm",
		*lacks ? strf("this kernel lacks %s, so the drill runs in a microVM", lacks) : strf("a microVM, as asked"),
		ret_lab, ret_why, err);
}

int lab_choose(const char *wanted, const char **ret_lab, char **ret_why, struct err *err)
{
	static const char *const words[] = {"auto", "netns", "vm", "none", NULL};
	_cleanup_strbuf_ struct strbuf lacks = {0};
	const char *near;

	if (streq(wanted, "none"))
		return answer("none", strf("no lab, as asked: the site is yours"), ret_lab, ret_why, err);
	if (streq(wanted, "vm"))
		return choose_vm("", ret_lab, ret_why, err);
	if (wanted && !streq(wanted, "auto") && !streq(wanted, "netns")) {
		near = str_nearest(wanted, words);
		return err_set(err, -EINVAL, "--lab %s: auto, netns, vm or none%s%s%s", wanted,
			near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
	}
	kernel_lacks(&lacks);
	if (lacks.oom)
		return err_set(err, -ENOMEM, "choose a lab: no memory");
	/* Who asks for namespaces gets them: a scenario need not touch what is lacking, and what does is refused by name. */
	if (streq(wanted, "netns"))
		return answer("netns",
			lacks.len ? strf("network namespaces, as asked; this kernel lacks %s", lacks.s)
				  : strf("network namespaces, as asked"),
			ret_lab, ret_why, err);
	if (!lacks.len)
		return answer("netns", strf("this kernel has IPVS, sch_netem and BTF, so network namespaces will do"),
			ret_lab, ret_why, err);
	return choose_vm(lacks.s, ret_lab, ret_why, err);
}
