/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets counted by XDP, with real traffic: each service's to the packet and byte, all of them as many as the device itself has received.
 * What hangs at the devices goes with the source, and with its process when that is killed; another's program is left alone, and its
 * device's packets are unknown, not none. Where a driver has a mode of its own, it is used.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "tests/lab/bridge_site.h"

#include "bpf/meter.h"
#include "engine/events.h"
#include "engine/probe.h"
#include "engine/source.h"

#define WAIT	(20 * NSEC_PER_SEC)
#define ETH	14
#define PAYLOAD 100
#define UDP_N	1000

extern const struct source_ops source_packets;

static struct bridge_site bs;

/* dns: UDP 5300 of node, both families; web: TCP 8080 */
static struct service_server servers[1];
static struct service services[2];
static struct node *nodes[2];
static struct site site;

static int make(void **state _unused_)
{
	bridge_site_make(&bs);
	nodes[0] = bs.node;
	nodes[1] = bs.peer;
	servers[0] = (struct service_server){.node = bs.node, .weight = 1};
	services[0] = (struct service){.name = (char *)"dns", .protocol = IPPROTO_UDP, .port = 5300, .n_vips = 2,
		.vips = {"198.18.0.2", "2001:db8::2"}, .forward = "dr", .n_servers = 1, .servers = servers};
	services[1] = services[0];
	services[1].name = (char *)"web";
	services[1].protocol = IPPROTO_TCP;
	services[1].port = 8080;
	site = (struct site){.name = (char *)"t", .n_nodes = 2, .nodes = nodes, .n_services = 2, .services = services};
	return 0;
}

static int drop(void **state _unused_)
{
	bridge_site_drop(&bs);
	return 0;
}

/* ── traffic ───────────────────────────────────────────────────────────────────────────────── */

static socklen_t address(struct sockaddr_storage *ret, const char *text, uint16_t port)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
	struct sockaddr_in *in4 = (struct sockaddr_in *)ret;
	bool v6 = strchr(text, ':');

	*ret = (struct sockaddr_storage){.ss_family = v6 ? AF_INET6 : AF_INET};
	in4->sin_port = htons(port); /* at the same place in both */
	assert_int_equal(inet_pton(ret->ss_family, text, v6 ? (void *)&in6->sin6_addr : (void *)&in4->sin_addr), 1);
	return v6 ? sizeof(*in6) : sizeof(*in4);
}

static void send_udp(const char *addr, uint16_t port, int n)
{
	static const char payload[PAYLOAD];
	struct sockaddr_storage a;
	socklen_t len = address(&a, addr, port);
	_cleanup_close_ int fd = node_socket(bs.peer, a.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	for (int i = 0; i < n; i++)
		assert_int_equal(sendto(fd, payload, sizeof(payload), 0, (struct sockaddr *)&a, len), sizeof(payload));
}

/* One connection: @bytes of it are sent to the node, and read there */
static void send_tcp(const char *addr, size_t bytes)
{
	_cleanup_close_ int lfd = node_socket(bs.node, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
			    fd = node_socket(bs.peer, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), conn = -1;
	struct sockaddr_storage a;
	socklen_t len = address(&a, addr, 8080);
	char buf[1024] = {0};

	assert_int_equal(setsockopt(lfd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)), 0);
	assert_int_equal(bind(lfd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(lfd, 1), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, len), 0);
	conn = accept(lfd, NULL, NULL);
	assert_true(conn >= 0);
	for (size_t done = 0; done < bytes; done += sizeof(buf)) {
		assert_int_equal(write(fd, buf, sizeof(buf)), sizeof(buf));
		assert_int_equal(recv(conn, buf, sizeof(buf), MSG_WAITALL), sizeof(buf));
	}
}

static uint64_t received(const struct node *n, const char *dev)
{
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};
	_cleanup_free_ char *command = strf("ip -s -j link show dev %s", dev);
	json_int_t packets;
	json_t *j;
	FILE *f;

	assert_int_equal(node_enter(n, &v, NULL), 0);
	f = popen(command, "r"); /* forked from this thread: in this namespace */
	assert_non_null(f);
	j = json_loadf(f, 0, NULL);
	assert_int_equal(pclose(f), 0);
	assert_int_equal(json_unpack(j, "[{s:{s:{s:I}}}]", "stats64", "rx", "packets", &packets), 0);
	json_decref(j);
	return (uint64_t)packets;
}

/* ── what was counted ──────────────────────────────────────────────────────────────────────── */

/* @service "": of none; "*": of all */
static uint64_t counted(const json_t *summary, const char *node, const char *service, const char *field)
{
	const json_t *c;
	uint64_t sum = 0;
	size_t i;

	json_array_foreach (json_object_get(summary, "counted"), i, c) {
		const char *s = json_string_value(json_object_get(c, "service")) ?: "";

		if (streq(json_string_value(json_object_get(c, "node")), node) && (streq(service, "*") || streq(s, service)))
			sum += (uint64_t)json_integer_value(json_object_get(c, field));
	}
	return sum;
}

static const json_t *probe_at(const json_t *summary, const char *part)
{
	const json_t *p;
	size_t i;

	json_array_foreach (json_object_get(summary, "probes"), i, p)
		if (strstr(json_string_value(json_object_get(p, "probe")), part))
			return p;
	fail_msg("no probe %s", part);
	return NULL;
}

static void *begin(struct timeline **ret_tl, const json_t *taken)
{
	struct source_ctx ctx = {.site = &site, .name = "packets", .xdp_taken = taken, .asked = true};
	struct err err = {0};
	void *h = NULL;

	assert_int_equal(timeline_new(NULL, ret_tl, NULL), 0);
	ctx.tl = *ret_tl;
	assert_int_equal(source_packets.applies(&ctx, &err), 1);
	if (source_packets.start(&ctx, &h, &err) < 0)
		fail_msg("%s", err.text);
	timeline_event(*ret_tl, now_ns(), EV_SOURCE,
		json_pack("{s:s, s:s, s:s}", "name", "packets", "source_kind", "sampler", "state", "started"));
	return h;
}

static struct sample ask(struct timeline *tl, const char *subject, const char *name, const char *who, nsec_t t0, nsec_t t1)
{
	const struct probe_ops *p = probe_find(subject, name);
	_cleanup_json_ json_t *args = json_pack("{s:s}", subject, who);
	struct sample s = {0};

	assert_non_null(p);
	timeline_lock(tl);
	assert_int_equal(p->eval(tl, &site, args, t0, t1, &s, NULL), 0);
	timeline_unlock(tl);
	return s;
}

static void all_are_counted(void **state _unused_)
{
	_cleanup_free_ char *before = site_snapshot(&bs);
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *summary = NULL;
	uint64_t outer, inner;
	struct sample s;
	nsec_t t0, t1;
	void *h;

	assert_true(becomes_reachable(&bs, "198.18.0.2")); /* neighbours are found before it is counted */
	outer = received(bs.node, "eth0");
	h = begin(&tl, NULL);
	inner = received(bs.node, "eth0");
	assert_true(site_differs(&bs, before)); /* the picture does show what hangs there */
	t0 = now_ns();
	send_udp("198.18.0.2", 5300, UDP_N);
	send_udp("2001:db8::2", 5300, UDP_N / 2);
	send_udp("198.18.0.2", 5301, UDP_N / 4); /* of no service */
	send_tcp("198.18.0.2", 50 * 1024);
	t1 = now_ns();
	inner = received(bs.node, "eth0") - inner;
	assert_int_equal(timeline_wait(tl, t1, now_ns() + WAIT), 1);
	s = ask(tl, "service", "packets", "dns", t0, t1);
	assert_true(s.have);
	assert_true(s.lo <= s.hi && s.hi * (double)(t1 - t0) / NSEC_PER_SEC > UDP_N * 1.5 - 0.5);
	source_packets.stop(h, &summary);
	outer = received(bs.node, "eth0") - outer;

	/* to the packet, and to the byte */
	assert_int_equal(counted(summary, "node", "dns", "packets"), UDP_N + UDP_N / 2);
	assert_int_equal(counted(summary, "node", "dns", "bytes"),
		UDP_N * (ETH + 20 + 8 + PAYLOAD) + UDP_N / 2 * (ETH + 40 + 8 + PAYLOAD));
	assert_true(counted(summary, "node", "web", "packets") >= 50 + 2);
	assert_true(counted(summary, "node", "", "packets") >= UDP_N / 4);
	/* as many as the device has received since it was attached: it may have been one more just before, or just after */
	print_message("counted %llu; the device: %llu with it attached, %llu around it\n",
		(unsigned long long)counted(summary, "node", "*", "packets"), (unsigned long long)inner, (unsigned long long)outer);
	assert_in_range(counted(summary, "node", "*", "packets"), inner, outer);
	assert_true(outer - inner < 20);
	assert_int_equal(json_integer_value(json_object_get(summary, "late")), 0);
	assert_int_equal(json_integer_value(json_object_get(summary, "failures")), 0);
	assert_true(json_is_true(json_object_get(probe_at(summary, "xdp/node/eth0 (generic)"), "active")));
	assert_site_equals(&bs, before);
}

/* The process that held it is killed: nothing is left */
static void it_goes_with_its_process(void **state _unused_)
{
	_cleanup_free_ char *before = site_snapshot(&bs);
	int ready[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct timeline *tl;

		(void)begin(&tl, NULL);
		(void)!write(ready[1], "y", 1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	assert_true(site_differs(&bs, before));
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	/* the links go when the last of its threads has */
	for (nsec_t until = now_ns() + WAIT; site_differs(&bs, before) && now_ns() < until;)
		(void)poll(NULL, 0, 10);
	assert_site_equals(&bs, before);
}

static uint32_t standing_at(const char *dev)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, o);
	_cleanup_(node_leave) struct node_visit v = {.fd = -1};

	assert_int_equal(node_enter(bs.node, &v, NULL), 0);
	assert_int_equal(bpf_xdp_query((int)if_nametoindex(dev), 0, &o), 0);
	return o.prog_id ?: o.skb_prog_id;
}

static void anothers_is_left_alone(void **state _unused_)
{
	static const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS}, {.code = BPF_JMP | BPF_EXIT}};
	_cleanup_close_ int fd = bpf_prog_load(BPF_PROG_TYPE_XDP, "anothers", "GPL", pass, ARRAY_SIZE(pass), NULL);
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *summary = NULL;
	struct node_visit v = {.fd = -1};
	uint32_t id;
	struct sample s;
	nsec_t t0;
	void *h;

	assert_true(fd >= 0);
	assert_int_equal(node_enter(bs.node, &v, NULL), 0);
	assert_int_equal(bpf_xdp_attach((int)if_nametoindex("eth0"), fd, XDP_FLAGS_SKB_MODE, NULL), 0);
	node_leave(&v);
	id = standing_at("eth0");
	assert_true(id);
	h = begin(&tl, NULL);
	assert_int_equal(standing_at("eth0"), id);
	t0 = now_ns();
	send_udp("198.18.0.2", 5300, 10);
	assert_int_equal(timeline_wait(tl, t0 + NSEC_PER_SEC / 5, now_ns() + WAIT), 1);
	s = ask(tl, "node", "packets", "node", t0, t0 + NSEC_PER_SEC / 5);
	assert_false(s.have);
	assert_string_equal(s.text, "node/eth0 is not counted: another XDP program stands there");
	s = ask(tl, "service", "packets", "dns", t0, t0 + NSEC_PER_SEC / 5);
	assert_false(s.have);
	s = ask(tl, "node", "packets", "peer", t0, t0 + NSEC_PER_SEC / 5);
	assert_true(s.have); /* the other device is */
	source_packets.stop(h, &summary);
	assert_false(json_is_true(json_object_get(probe_at(summary, "xdp/node/eth0"), "active")));
	assert_int_equal(standing_at("eth0"), id);
	assert_int_equal(node_enter(bs.node, &v, NULL), 0);
	assert_int_equal(bpf_xdp_detach((int)if_nametoindex("eth0"), XDP_FLAGS_SKB_MODE, NULL), 0);
	node_leave(&v);
}

/* The fault that is going to need the place finds it free. */
static void a_faults_place_is_left_free(void **state _unused_)
{
	_cleanup_json_ json_t *taken = json_pack("[{s:s, s:s, s:s}]", "node", "node", "dev", "eth0", "by", "fault.xdp_drop");
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *summary = NULL;
	void *h = begin(&tl, taken);

	assert_int_equal(standing_at("eth0"), 0);
	source_packets.stop(h, &summary);
	assert_string_equal(json_string_value(json_object_get(probe_at(summary, "xdp/node/eth0"), "why")),
		"fault.xdp_drop takes the place of an XDP program there");
	assert_true(json_is_true(json_object_get(probe_at(summary, "xdp/peer/eth0"), "active")));
}

/* A tap's driver has a mode of its own: frames that are written to it have come to the device */
static void a_drivers_own_mode_is_used(void **state _unused_)
{
	_cleanup_close_ int tun = -1;
	struct ifreq ifr = {.ifr_name = "tap0", .ifr_flags = IFF_TAP | IFF_NO_PI};
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_json_ json_t *summary = NULL;
	unsigned char frame[ETH + 28 + PAYLOAD] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x00, 0x45};
	struct node *own[] = {bs.node};
	struct site tap_site = site;
	struct node_visit v = {.fd = -1};
	uint64_t before;
	void *h;

	assert_int_equal(node_enter(bs.node, &v, NULL), 0);
	tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC); /* its devices are where it was opened */
	if (tun < 0) {
		node_leave(&v);
		SKIP("no /dev/net/tun");
	}
	assert_int_equal(ioctl(tun, TUNSETIFF, &ifr), 0);
	node_leave(&v);
	sh("ip -n node link set tap0 up");
	strcpy(bs.node->links[1].dev, "tap0");
	bs.node->n_links = 2;
	frame[ETH + 3] = 28 + PAYLOAD; /* total length */
	frame[ETH + 8] = 64;
	frame[ETH + 9] = IPPROTO_UDP;
	assert_int_equal(inet_pton(AF_INET, "198.18.0.2", frame + ETH + 16), 1);
	frame[ETH + 22] = 5300 >> 8;
	frame[ETH + 23] = 5300 & 0xff;
	tap_site.n_nodes = 1;
	tap_site.nodes = own;
	{
		const struct site all = site;

		site = tap_site;
		h = begin(&tl, NULL);
		before = received(bs.node, "tap0");
		for (int i = 0; i < 50; i++)
			assert_int_equal(write(tun, frame, sizeof(frame)), sizeof(frame));
		before = received(bs.node, "tap0") - before;
		source_packets.stop(h, &summary);
		site = all;
	}
	bs.node->n_links = 1;
	assert_int_equal(before, 50);
	assert_true(json_is_true(json_object_get(probe_at(summary, "xdp/node/tap0"), "active")));
	assert_null(strstr(json_string_value(json_object_get(probe_at(summary, "xdp/node/tap0"), "probe")), "generic"));
	assert_int_equal(counted(summary, "node", "dns", "packets"), 50);
	assert_int_equal(counted(summary, "node", "dns", "bytes"), 50 * sizeof(frame));
}

/*
 * To attach takes a while: what came in the meantime, in buckets that were over before the reader began, is neither left out nor late.
 */
static void what_came_while_it_was_attached_is_told(void **state _unused_)
{
	struct meters_opts o = {.source = "packets", .kind = EV_PACKETS, .counts = {"packets"}};
	int cpus = libbpf_num_possible_cpus(), map;
	_cleanup_(meters_freep) struct meters *m = NULL;
	_cleanup_timeline_ struct timeline *tl = NULL;
	_cleanup_free_ struct meter *v = NULL;
	_cleanup_json_ json_t *summary = NULL;
	struct err err = {0};
	uint32_t index = 0;
	nsec_t counted;

	assert_true(cpus > 0);
	v = calloc((size_t)cpus, sizeof(*v));
	assert_non_null(v);
	map = bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "meters", sizeof(index), sizeof(*v), 1, NULL);
	assert_true(map >= 0);
	assert_int_equal(timeline_new(NULL, &tl, &err), 0);
	o.tl = tl;
	assert_int_equal(meters_new(&o, &m, &err), 0);
	assert_int_equal(meters_add(m, map, index, json_pack("{s:s}", "node", "node"), &err), 0);

	counted = now_ns();
	v[0].slots[counted / TIMELINE_BUCKET % METER_SLOTS] = (struct meter_slot){.bucket = (uint64_t)(counted / TIMELINE_BUCKET), .n = {7}};
	v[0].total[0] = 7;
	assert_int_equal(bpf_map_update_elem(map, &index, v, BPF_ANY), 0);
	while (now_ns() / TIMELINE_BUCKET == counted / TIMELINE_BUCKET)
		(void)poll(NULL, 0, 10);
	assert_int_equal(meters_start(m, &err), 0);
	meters_stop(m);
	summary = meters_summary(m);
	assert_int_equal(json_integer_value(json_object_get(summary, "late")), 0);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(json_object_get(summary, "counted"), 0), "packets")), 7);
	close(map);
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {T(all_are_counted), T(it_goes_with_its_process), T(anothers_is_left_alone),
		T(a_faults_place_is_left_free), T(a_drivers_own_mode_is_used),
		cmocka_unit_test(what_came_while_it_was_attached_is_told)};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (!sandbox_enter()) {
		printf("SKIP: network namespaces need root\n");
		return 77;
	}
	return cmocka_run_group_tests_name("packets", tests, NULL, NULL);
}
