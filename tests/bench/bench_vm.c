/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From the call to the first byte of the job's output, for a job that writes one at once: what the microVM costs a drill
 * before it begins. It has no peer.
 *
 *	bench_vm [--json]
 *
 * The cache is filled first, which is not measured.
 */
#include <pthread.h>
#include <stdio.h>

#include "engine/clock.h"
#include "engine/str.h"
#include "lab/vm.h"

#define ROUNDS 5
#define GOAL_S 15.0

static void *first_byte(void *arg)
{
	int fd = *(int *)arg;
	static nsec_t at;
	char c;

	at = read(fd, &c, 1) == 1 ? now_ns() : 0;
	while (read(fd, &c, 1) > 0)
		;
	return &at;
}

static int start_once(nsec_t *ret)
{
	char *const argv[] = {(char *)"/bin/echo", (char *)"here", NULL};
	struct vm_job job = {.argv = argv, .timeout_s = 120, .stderr_fd = -1};
	nsec_t begin = now_ns();
	struct err err = {0};
	pthread_t reader;
	void *at;
	int p[2], status, r;

	if (pipe(p) < 0)
		return -errno;
	job.stdout_fd = p[1];
	pthread_create(&reader, NULL, first_byte, &p[0]);
	r = vm_run(&job, &status, &err);
	close(p[1]);
	pthread_join(reader, &at);
	close(p[0]);
	if (r < 0) {
		fprintf(stderr, "bench_vm: %s\n        %s\n", err.text, err.hint);
		return r;
	}
	*ret = *(nsec_t *)at - begin;
	return 0;
}

static int by_value(const void *a, const void *b)
{
	const nsec_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

int main(int argc, char **argv)
{
	bool json = argc > 1 && streq(argv[1], "--json");
	nsec_t took[ROUNDS];
	double median, worst;

	if (getenv("MUSTER_VM")) {
		fprintf(stderr, "bench_vm: not inside the microVM\n");
		return 0;
	}
	if (start_once(&took[0]) < 0) /* fills the cache */
		return 1;
	for (size_t i = 0; i < ROUNDS; i++)
		if (start_once(&took[i]) < 0)
			return 1;
	qsort(took, ROUNDS, sizeof(*took), by_value);
	median = (double)took[ROUNDS / 2] / NSEC_PER_SEC;
	worst = (double)took[ROUNDS - 1] / NSEC_PER_SEC;
	if (json)
		printf("{\"bench\":\"vm-start\",\"where\":\"native\",\"ours\":%.2f,\"peer\":null,\"unit\":\"s\",\"ratio\":null,"
		       "\"goal\":%.0f,\"met\":%s,\"n\":%d}\n",
			median, GOAL_S, worst <= GOAL_S ? "true" : "false", ROUNDS);
	else
		printf("microVM, start to first output: median %.2f s, worst %.2f s of %d; goal %.0f s\n", median, worst, ROUNDS,
			GOAL_S);
	return worst <= GOAL_S ? 0 : 1;
}
