/*
 * bench-engine MODE RUNS builtin|torch MODEL [PROFILE ADAPTER]: how long one run of a model takes at its native size on random inputs,
 * batch 1, next to how fast this machine multiplies and copies meanwhile, and the most memory the process had. MODE is
 *
 *   forward    float32
 *   simulate   under PROFILE, with ADAPTER
 *   distill    the same, and back to the adapter's tensors
 *
 * Prints lines "name value"; the scripts beside it make the picture. "bench-engine noise FILE MODEL" writes the inputs of one sample of
 * 32 x 32 latents, to calibrate a profile with.
 */
#include "lib/math/math.h"
#include "quant/quant.h"
#include "scripts/bench/bench.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MOST_RUNS = 1000 };

struct bench {
	const char *mode, *path, *profile_path, *adapter;
	bool libtorch;
	struct qd_opened opened;
	struct qd_profile profile;
	struct qd_fitted fitted;
	struct qd_net net;
	struct qd_runner runner;
	bool *trained; /* per value of the graph */
	float *gradient;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static long peak_memory(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss / 1024 : 0;
}

/* All inputs but an adapter's. */
static enum qd_status feed_random(struct qd_runner *runner)
{
	const struct qd_graph *g = runner->graph;
	struct qd_random random;
	struct qd_tensor data = { 0 };
	enum qd_status st = QD_OK;

	qd_random_init(&random, 0, 0);
	for (size_t i = 0; i < g->n_inputs; i++) {
		const struct qd_value *v = &g->values[g->inputs[i]];
		if (qd_lora_tensor_of(v->name) != QD_LORA_NONE)
			continue;
		qd_tensor_release(&data);
		QD_TRY(st, qd_tensor_new(&data, v->name, QD_F32, &v->shape));
		for (int64_t k = 0; k < qd_shape_elements(&v->shape); k++)
			((float *)data.data)[k] = v->shape.rank == 1 ? 500 : (float)qd_random_normal(&random);
		QD_TRY(st, qd_runner_feed(runner, &data));
	}
out:
	qd_tensor_release(&data);
	return st;
}

static enum qd_status open_bench(struct bench *b)
{
	bool simulate = strcmp(b->mode, "forward") != 0, distill = strcmp(b->mode, "distill") == 0;
	struct qd_run_options options = { .engine.simulate = simulate, .libtorch = b->libtorch };
	struct qd_slots none = { 0 };
	struct qd_sizes sizes;
	enum qd_status st;

	QD_TRY(st, qd_opened_open(&b->opened, b->path, &b->adapter, simulate));
	sizes = qd_model_native_sizes(&b->opened.model);
	if (simulate)
		QD_TRY(st, qd_profile_read(&b->profile, b->profile_path));
	QD_TRY(st, qd_net_build(&b->net, &b->opened.model, &sizes, simulate ? &b->profile.slots : &none));
	if (simulate)
		QD_TRY(st, qd_profile_apply(&b->profile, &b->net));
	b->trained = calloc(b->net.graph.n_values + 1, sizeof(*b->trained));
	b->gradient = calloc((size_t)qd_shape_elements(&b->net.graph.values[b->net.graph.outputs[0]].shape), sizeof(*b->gradient));
	if (b->trained == NULL || b->gradient == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t i = 0; distill && i < b->net.slots.n; i++) {
		const struct qd_slot *slot = &b->net.slots.items[i];
		b->trained[slot->down] = b->trained[slot->up] = b->trained[slot->gain] = true;
	}
	options.engine.trained = distill ? b->trained : NULL;
	options.engine.coarse = true;
	QD_TRY(st, qd_runner_open(&b->runner, &b->net.graph, &options));
	if (simulate) {
		QD_TRY(st, qd_fit_adapter(&b->fitted, b->opened.adapter_list[0], &b->profile, b->profile.options.align, true));
		QD_TRY(st, qd_runner_feed_fitted(&b->runner, &b->net.slots, &b->fitted));
	}
	QD_TRY(st, feed_random(&b->runner));
out:
	return st;
}

static void close_bench(struct bench *b)
{
	qd_runner_release(&b->runner);
	qd_net_release(&b->net);
	qd_fitted_release(&b->fitted);
	qd_profile_release(&b->profile);
	qd_opened_release(&b->opened);
	free(b->trained);
	free(b->gradient);
}

static enum qd_status run_timed(struct bench *b, double *seconds)
{
	double before = bench_now();
	enum qd_status st = qd_runner_run(&b->runner);

	b->gradient[0] = 1;
	if (st == QD_OK && strcmp(b->mode, "distill") == 0)
		st = qd_engine_backward(b->runner.engine, 0, b->gradient);
	*seconds = bench_now() - before;
	return st;
}

/* Seconds of a run by kind of step, there and back: "kind:product 0.7 1.2". */
static void print_kinds(const struct qd_engine *engine, int runs)
{
	const char *kind;
	size_t steps;
	double there, back = 0;

	for (size_t i = 0; engine != NULL && qd_engine_time(engine, i, &kind, &steps, &there); i++) {
		(void)qd_engine_backward_time(engine, i, &back);
		if (steps > 0)
			printf("kind:%s %.3f %.3f\n", kind, there / runs, back / runs);
	}
}

static enum qd_status measure(struct bench *b, int runs)
{
	int threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
	struct bench_rates rates = { 0 };
	struct qd_cost cost;
	double first, seconds[MOST_RUNS];
	enum qd_status st;

	QD_TRY(st, qt_set_threads(threads));
	QD_TRY(st, open_bench(b));
	QD_TRY(st, qd_graph_cost(&b->net.graph, &cost));
	QD_TRY(st, run_timed(b, &first));
	for (int i = 0; i < runs; i++) {
		QD_TRY(st, bench_rates_measure(&rates, threads));
		QD_TRY(st, run_timed(b, &seconds[i]));
	}
	QD_TRY(st, bench_rates_measure(&rates, threads));
	qsort(seconds, (size_t)runs, sizeof(*seconds), by_value);
	printf("threads %d\nweights %.0f\nproducts %.1f\nattention %.1f\n", threads, (double)cost.weights * 4 / (1 << 20),
		(cost.conv + cost.linear) * 1e-9, cost.attention * 1e-9);
	printf("openblas %.1f\nonednn %.1f\nbfloat16 %.1f\nbest %.1f\ninteger %.1f\ncopy %.2f\n", rates.openblas * 1e-9,
		rates.onednn * 1e-9, rates.bfloat16 * 1e-9, bench_rates_best(&rates) * 1e-9, rates.integer * 1e-9,
		rates.copy * 1e-9);
	if (b->runner.engine != NULL) {
		struct qd_engine_memory m = qd_engine_memory(b->runner.engine);
		printf("packed %zu\nunshared %zu\n", m.weights >> 20, m.unshared >> 20);
	}
	print_kinds(b->runner.engine, runs + 1);
	printf("first %.3f\nfastest %.3f\nmedian %.3f\npeak %ld\n", first, seconds[0], seconds[runs / 2], peak_memory());
out:
	return st;
}

static enum qd_status write_noise(const char *file, const char *path)
{
	struct qd_model model = { 0 };
	struct qd_graph g = { 0 };
	struct qd_sizes sizes;
	struct qd_tensor tensors[8] = { { 0 } };
	struct qd_random random;
	size_t n = 0;
	enum qd_status st;

	qd_random_init(&random, 0, 0);
	QD_TRY(st, qd_model_open(&model, path));
	sizes = qd_model_native_sizes(&model);
	sizes.height = sizes.width = 32;
	QD_TRY(st, qd_model_graph(&g, &model, &sizes));
	for (; n < g.n_inputs && n < QD_COUNT(tensors); n++) {
		const struct qd_value *v = &g.values[g.inputs[n]];
		QD_TRY(st, qd_tensor_new(&tensors[n], v->name, QD_F32, &v->shape));
		for (int64_t k = 0; k < qd_shape_elements(&v->shape); k++)
			((float *)tensors[n].data)[k] = v->shape.rank == 1 ? 500 : (float)qd_random_normal(&random);
	}
	st = qd_safetensors_write(file, tensors, n, NULL, 0, true, NULL, NULL);
out:
	for (size_t i = 0; i < n; i++)
		qd_tensor_release(&tensors[i]);
	qd_graph_release(&g);
	qd_model_release(&model);
	return st;
}

int main(int argc, char **argv)
{
	int runs = argc > 2 ? atoi(argv[2]) : 0;
	struct bench b = { 0 };
	enum qd_status st;

	if (argc == 4 && strcmp(argv[1], "noise") == 0) {
		st = write_noise(argv[2], argv[3]);
		if (st != QD_OK)
			fprintf(stderr, "bench-engine: %s\n", qd_message());
		return st == QD_OK ? 0 : 3;
	}
	if ((argc != 5 && argc != 7) || runs < 1 || runs > MOST_RUNS || (argc == 5) != (strcmp(argv[1], "forward") == 0)) {
		fprintf(stderr, "usage: bench-engine forward|simulate|distill RUNS builtin|torch MODEL [PROFILE ADAPTER]\n");
		return 2;
	}
	b = (struct bench){ .mode = argv[1], .libtorch = strcmp(argv[3], "torch") == 0, .path = argv[4] };
	if (argc == 7) {
		b.profile_path = argv[5];
		b.adapter = argv[6];
	}
	/* as the program itself does: freed tensors are taken again */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	mallopt(M_TOP_PAD, 64 << 20);
	st = measure(&b, runs);
	if (st != QD_OK)
		fprintf(stderr, "bench-engine: %s\n", qd_message());
	close_bench(&b);
	return st == QD_OK ? 0 : 3;
}
