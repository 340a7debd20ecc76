/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sampler over a director that is played by this test: what is written when, and what is not known.
 * wrap: ipvs_open ipvs_close ipvs_dests node_open vip_watch_open vip_watch_close vip_watch_fd vip_watch_read
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "engine/clock.h"
#include "engine/events.h"
#include "engine/source.h"
#include "engine/str.h"
#include "lvs/ipvs.h"
#include "lvs/vip_watch.h"

/* ── the director ─────────────────────────────────────────────────────────────────────────── */

struct entry {
	bool there;
	uint32_t weight, active;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	int error;		    /* of every read; 0: none */
	bool service[2];	    /* IPv4, IPv6 */
	struct entry servers[2][2]; /* by family, by server */
	bool refuses;		    /* to be opened */
	unsigned int open;
} director;

int __wrap_node_open(struct node *n, struct err *err);
int __wrap_node_open(struct node *n _unused_, struct err *err _unused_)
{
	return 0;
}

int __wrap_ipvs_open(const struct node *n, struct ipvs **ret, struct err *err);
int __wrap_ipvs_open(const struct node *n, struct ipvs **ret, struct err *err)
{
	assert_int_equal(strncmp(n->name, "director", 8), 0);
	if (director.refuses)
		return err_set(err, -EOPNOTSUPP, "not in this kernel");
	director.open++;
	*ret = (struct ipvs *)&director;
	return 0;
}

void __wrap_ipvs_close(struct ipvs *ip);
void __wrap_ipvs_close(struct ipvs *ip)
{
	if (ip)
		director.open--;
}

int __wrap_ipvs_dests(struct ipvs *ip, const struct ipvs_service *s, struct ipvs_dest **ret,
	size_t *ret_n, struct err *err);
int __wrap_ipvs_dests(struct ipvs *ip _unused_, const struct ipvs_service *s,
	struct ipvs_dest **ret, size_t *ret_n, struct err *err)
{
	int f = s->family == AF_INET6, r = 0;
	struct ipvs_dest *d = calloc(3, sizeof(*d));
	size_t n = 0;

	pthread_mutex_lock(&lock);
	if (director.error)
		r = err_set(err, director.error, "played");
	else if (!director.service[f])
		r = err_set(err, -ESRCH, "no such virtual service");
	for (int i = 0; r == 0 && i < 2; i++) {
		char text[64];

		if (!director.servers[f][i].there)
			continue;
		snprintf(text, sizeof(text), f ? "2001:db8::2%d" : "198.18.0.2%d", i + 1);
		d[n].port = 8081; /* not the service's own: it is the host that counts */
		d[n].weight = director.servers[f][i].weight;
		d[n].active = director.servers[f][i].active;
		ipvs_addr_parse(text, &d[n].family, d[n].addr);
		n++;
	}
	if (r == 0) { /* somebody whom the site does not know */
		d[n].weight = 99;
		d[n++].family = s->family;
	}
	pthread_mutex_unlock(&lock);
	if (r < 0) {
		free(d);
		return r;
	}
	*ret = d;
	*ret_n = n;
	return 0;
}

/* Who holds the addresses, when there are two directors: an eventfd stands for the kernel's notifications. */
struct vip_watch {
	int fd;
	uint32_t held;
};
static struct vip_watch watches[2];

int __wrap_vip_watch_open(
	const struct node *n, const char (*vips)[64], size_t count, struct vip_watch **ret, struct err *err);
int __wrap_vip_watch_open(const struct node *n, const char (*vips)[64] _unused_, size_t count _unused_, struct vip_watch **ret,
	struct err *err _unused_)
{
	*ret = &watches[streq(n->name, "director2")];
	(*ret)->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return 0;
}

void __wrap_vip_watch_close(struct vip_watch *w);
void __wrap_vip_watch_close(struct vip_watch *w)
{
	if (w)
		close(w->fd);
}

int __wrap_vip_watch_fd(const struct vip_watch *w);
int __wrap_vip_watch_fd(const struct vip_watch *w)
{
	return w->fd;
}

int __wrap_vip_watch_read(struct vip_watch *w, uint32_t *ret_held, struct err *err);
int __wrap_vip_watch_read(struct vip_watch *w, uint32_t *ret_held, struct err *err _unused_)
{
	eventfd_t n;

	(void)eventfd_read(w->fd, &n);
	pthread_mutex_lock(&lock);
	*ret_held = w->held;
	pthread_mutex_unlock(&lock);
	return 0;
}

static void play_held(int i, uint32_t held, bool tell)
{
	pthread_mutex_lock(&lock);
	watches[i].held = held;
	pthread_mutex_unlock(&lock);
	if (tell)
		(void)eventfd_write(watches[i].fd, 1);
}

static void play(int family, int server, bool there, uint32_t weight, uint32_t active)
{
	pthread_mutex_lock(&lock);
	director.service[family] = true;
	director.servers[family][server] = (struct entry){there, weight, active};
	pthread_mutex_unlock(&lock);
}

static void play_error(int error)
{
	pthread_mutex_lock(&lock);
	director.error = error;
	pthread_mutex_unlock(&lock);
}

/* ── the test's side ──────────────────────────────────────────────────────────────────────── */

static struct site *site;
static struct timeline *tl;
static void *handle;
static const struct source_ops *ops;

static int set_up_with(const char *directors)
{
	_cleanup_free_ char *text = strf(
		"{\"name\":\"t\",\"switches\":[\"lan\"],\"nodes\":["
		"{\"name\":\"director\"},{\"name\":\"director2\"},"
		"{\"name\":\"rs1\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198.18.0.21/24\",\"2001:db8::21/64\"]}]},"
		"{\"name\":\"rs2\",\"links\":[{\"switch\":\"lan\",\"addrs\":[\"198.18.0.22/24\",\"2001:db8::22/64\"]}]}],"
		"\"services\":[{\"name\":\"web\",\"port\":8080,\"vips\":[\"198.18.0.100\",\"2001:db8::100\"],"
		"\"directors\":[%s],\"servers\":[{\"node\":\"rs1\"},{\"node\":\"rs2\"}]}]}",
		directors);
	_cleanup_json_ json_t *j = json_loads(text, 0, NULL);

	memset(&director, 0, sizeof(director));
	ops = source_find(SOURCE_SAMPLER, "ipvs");
	assert_non_null(ops);
	assert_int_equal(site_from_json(j, &site, NULL), 0);
	assert_int_equal(timeline_new(NULL, &tl, NULL), 0);
	return 0;
}

static int set_up(void **state _unused_)
{
	return set_up_with("\"director\"");
}

static int set_up_two(void **state _unused_)
{
	memset(watches, 0, sizeof(watches));
	return set_up_with("\"director\",\"director2\"");
}

static int tear_down(void **state _unused_)
{
	timeline_free(tl);
	site_free(site);
	assert_int_equal(director.open, 0);
	return 0;
}

static void start(void)
{
	const struct source_ctx ctx = {.tl = tl, .site = site, .name = "ipvs"};
	struct err err = {0};

	if (ops->start(&ctx, &handle, &err) < 0)
		fail_msg("%s", err.text);
}

/* Until two more polls have begun and ended: the watermark has passed @now twice */
static void let_it_poll(void)
{
	for (int i = 0; i < 2; i++) {
		nsec_t now = now_ns(), deadline = now + 5 * NSEC_PER_SEC;

		while (!timeline_wait(tl, now + 1, deadline))
			if (now_ns() >= deadline)
				fail_msg("the sampler has stopped");
	}
}

static size_t entries(const char *server, struct tl_weight *last)
{
	const struct tl_weight *w;
	size_t n, count = 0;

	timeline_lock(tl);
	n = timeline_weights(tl, &w);
	for (size_t i = 0; i < n; i++) {
		if (!streq(w[i].server, server))
			continue;
		assert_string_equal(w[i].service, "web");
		*last = w[i];
		count++;
	}
	timeline_unlock(tl);
	return count;
}

static unsigned int logged(const char *text)
{
	const struct tl_event *e;
	unsigned int count = 0;
	size_t n;

	timeline_lock(tl);
	n = timeline_events(tl, &e);
	for (size_t i = 0; i < n; i++)
		if (streq(e[i].kind, EV_LOG) &&
			strstr(json_string_value(json_object_get(e[i].data, "text")), text))
			count++;
	timeline_unlock(tl);
	return count;
}

static void only_what_changes(void **state _unused_)
{
	struct tl_weight w;

	play(0, 0, true, 3, 10);
	start();
	let_it_poll();
	assert_int_equal(entries("rs1", &w), 1);
	assert_int_equal(w.weight, 3);
	assert_int_equal(w.active, 10);
	assert_int_equal(entries("rs2", &w), 1);
	assert_int_equal(w.weight, TL_WEIGHT_ABSENT);
	play(0, 1, true, 5, 0);
	let_it_poll();
	assert_int_equal(entries("rs2", &w), 2);
	assert_int_equal(w.weight, 5);
	assert_int_equal(entries("rs1", &w), 1);
	ops->stop(handle, NULL);
	assert_int_equal(entries("rs1", &w), 1);
}

/* Counts move all the time: one entry a bucket. A weight does not wait for it. */
static void counts_are_rationed(void **state _unused_)
{
	struct tl_weight w;
	size_t before, after;
	nsec_t from, to;

	play(0, 0, true, 3, 0);
	start();
	from = now_ns();
	before = entries("rs1", &w);
	for (uint32_t i = 1; i <= 10; i++) {
		play(0, 0, true, 3, i);
		let_it_poll();
	}
	after = entries("rs1", &w);
	to = now_ns();
	assert_true(after > before);
	assert_true((nsec_t)(after - before) <= (to - from) / TIMELINE_BUCKET + 1);
	play(0, 0, true, 0, 10);
	let_it_poll();
	entries("rs1", &w);
	assert_int_equal(w.weight, 0);
	assert_int_equal(w.active, 10);
	ops->stop(handle, NULL);
}

static void the_larger_of_two_addresses(void **state _unused_)
{
	struct tl_weight w;

	play(0, 0, true, 3, 10);
	play(1, 0, true, 4, 7);
	start();
	entries("rs1", &w);
	assert_int_equal(w.weight, 4);
	assert_int_equal(w.active, 17);
	play(1, 0, true, 0, 7);
	let_it_poll();
	entries("rs1", &w);
	assert_int_equal(w.weight, 3);
	play(0, 0, false, 0, 0);
	let_it_poll();
	entries("rs1", &w);
	assert_int_equal(w.weight, 0); /* at one drained, at the other gone */
	play(1, 0, false, 0, 0);
	let_it_poll();
	entries("rs1", &w);
	assert_int_equal(w.weight, TL_WEIGHT_ABSENT);
	ops->stop(handle, NULL);
}

static void not_readable(void **state _unused_)
{
	_cleanup_json_ json_t *summary = NULL;
	struct tl_weight w;

	play(0, 0, true, 3, 1);
	start();
	play_error(-EPERM);
	let_it_poll();
	entries("rs1", &w);
	assert_int_equal(w.weight, TL_WEIGHT_UNKNOWN);
	let_it_poll();
	assert_int_equal(logged("cannot be read: played"), 1); /* said once, not at each poll */
	assert_int_equal(logged("can be read again"), 0);
	play_error(0);
	let_it_poll();
	entries("rs1", &w);
	assert_int_equal(w.weight, 3);
	assert_int_equal(logged("can be read again"), 1);
	ops->stop(handle, &summary);
	assert_true(json_integer_value(json_object_get(summary, "failures")) >= 2);
}

static void cannot_start(void **state _unused_)
{
	const struct source_ctx ctx = {.tl = tl, .site = site, .name = "ipvs"};
	struct err err = {0};

	assert_int_equal(ops->applies(&ctx, &err), 1);
	play_error(-EIO);
	assert_int_equal(ops->start(&ctx, &handle, &err), -EIO);
	/* nothing waits for a source that is not there */
	assert_int_equal(timeline_wait(tl, now_ns(), now_ns() + NSEC_PER_SEC), 1);
	director.refuses = true;
	assert_int_equal(ops->applies(&ctx, &err), -EOPNOTSUPP);
	assert_int_equal(ops->start(&ctx, &handle, &err), -EOPNOTSUPP);
}

static void await_logged(const char *text)
{
	nsec_t deadline = now_ns() + 5 * NSEC_PER_SEC;

	while (!logged(text)) {
		if (now_ns() >= deadline)
			fail_msg("not logged: %s", text);
		let_it_poll();
	}
}

/* A change of hands in which both have the address for a moment is none; one that lasts is, and is said once, and its end. */
static void split_brain(void **state _unused_)
{
	play_held(0, 3, false);
	start();
	play_held(1, 3, true);
	let_it_poll();
	play_held(0, 0, true);
	let_it_poll();
	assert_int_equal(logged("split brain"), 0);
	play_held(0, 1, true); /* one address of two is enough */
	await_logged("split brain: director and director2 have both held addresses of web for ");
	let_it_poll();
	assert_int_equal(logged("split brain"), 1);
	play_held(1, 0, true);
	await_logged("the split brain of web is over, after ");
	assert_int_equal(logged("split brain"), 2);
	ops->stop(handle, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(only_what_changes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(counts_are_rationed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_larger_of_two_addresses, set_up, tear_down),
		cmocka_unit_test_setup_teardown(not_readable, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cannot_start, set_up, tear_down),
		cmocka_unit_test_setup_teardown(split_brain, set_up_two, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
