/* SPDX-License-Identifier: GPL-2.0-only */
/* set.thp: transparent huge pages, of the whole machine. prior: knobs.h */
#include "baseline/knobs.h"

#define DIR "/sys/kernel/mm/transparent_hugepage"

static const char *const files[] = {"enabled", "defrag"};

static const char *wanted(const json_t *args, size_t i)
{
	return json_string_value(json_object_get(args, files[i]));
}

static int thp_resolve(const struct site *site _unused_, json_t *args, struct err *err)
{
	if (!wanted(args, 0) && !wanted(args, 1))
		return err_set(err, -EINVAL, "set.thp: neither enabled nor defrag is given");
	return 0;
}

static int thp_supported(const struct node *n _unused_, const json_t *args _unused_, struct err *err)
{
	if (access(DIR "/enabled", F_OK) == 0)
		return 0;
	return err_set(err, -EOPNOTSUPP, "transparent huge pages: not in this kernel (CONFIG_TRANSPARENT_HUGEPAGE)");
}

static int thp_capture(const struct node *n, const json_t *args, json_t **ret_prior, struct err *err)
{
	_cleanup_json_ json_t *list = json_array();
	int r = knobs_host_only(n, "set.thp", err);

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(files); i++) {
		_cleanup_free_ char *path = strf(DIR "/%s", files[i]), *key = strf("transparent huge pages, %s", files[i]);

		if (!path || !key)
			return -ENOMEM;
		if (wanted(args, i))
			r = knobs_add(n, list, key, path, "choice", wanted(args, i), err);
	}
	if (r < 0)
		return r;
	*ret_prior = knobs_prior(TAKE_PTR(list));
	return *ret_prior ? 0 : -ENOMEM;
}

static int thp_command(const struct node *n, const json_t *args, const json_t *prior, struct strbuf *ret_apply,
	struct strbuf *ret_undo)
{
	for (size_t i = 0; !prior && i < ARRAY_SIZE(files); i++)
		if (wanted(args, i))
			strbuf_addf(ret_apply, "echo %s >" DIR "/%s\n", wanted(args, i), files[i]);
	return knobs_command(n, args, prior, ret_apply, ret_undo);
}

static const struct param thp_params[] = {
	{.name = "node", .type = PARAM_NODE, .required = true, .help = "the machine: \"host\""},
	{.name = "enabled",
		.type = PARAM_STRING,
		.values = "always|madvise|never",
		.help = "which memory gets them; default: left as it is"},
	{.name = "defrag",
		.type = PARAM_STRING,
		.values = "always|defer|defer+madvise|madvise|never",
		.help = "who waits until memory is compacted for one; default: left as it is"},
	PARAM_END,
};

const struct change_ops change_set_thp = {
	.name = "set.thp",
	.summary = "Transparent huge pages",
	.kind = CHANGE_SETTING,
	.class = CHANGE_VOLATILE,
	.params = thp_params,
	.example = "[{\"node\": \"host\", \"enabled\": \"always\", \"defrag\": \"defer\"}, {\"node\": \"host\", \"enabled\": \"never\"}]",
	.resolve = thp_resolve,
	.supported = thp_supported,
	.capture = thp_capture,
	.apply = knobs_apply,
	.undo = knobs_undo,
	.verify = knobs_verify,
	.look = knobs_look,
	.command = thp_command,
};
