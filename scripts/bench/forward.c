/*
 * bench-forward MODEL RUNS [libtorch]: how long a model's float32 forward takes at its native size on random inputs, next to how
 * fast this machine multiplies matrices meanwhile, and the most memory the process had. With a third argument on libtorch's own
 * operators. Prints lines "name value"; scripts/bench/forward.sh makes the picture.
 */
#include "lib/math/math.h"
#include "lib/model/model.h"
#include "scripts/bench/bench.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MOST_RUNS = 1000 };

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

static enum qd_status feed_random(struct qd_runner *runner)
{
	const struct qd_graph *g = runner->graph;
	struct qd_random random;
	struct qd_tensor data = { 0 };
	enum qd_status st = QD_OK;
	qd_random_init(&random, 0, 0);
	for (size_t i = 0; i < g->n_inputs; i++) {
		const struct qd_value *v = &g->values[g->inputs[i]];
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

static enum qd_status run_timed(struct qd_runner *runner, double *seconds)
{
	double before = bench_now();
	enum qd_status st = qd_runner_run(runner);

	*seconds = bench_now() - before;
	return st;
}

static enum qd_status measure_forward(const char *path, int runs, bool libtorch)
{
	const struct qd_exec_options options = { .libtorch = libtorch };
	int threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
	struct bench_rates rates = { 0 };
	struct qd_model model = { 0 };
	struct qd_graph g = { 0 };
	struct qd_runner runner = { 0 };
	struct qd_cost cost;
	double first, seconds[MOST_RUNS];
	enum qd_status st;
	QD_TRY(st, qt_set_threads(threads));
	QD_TRY(st, qd_model_open(&model, path));
	struct qd_sizes sizes = qd_model_native_sizes(&model);
	QD_TRY(st, qd_model_graph(&g, &model, &sizes));
	QD_TRY(st, qd_graph_cost(&g, &cost));
	QD_TRY(st, qd_runner_open(&runner, &g, &options));
	QD_TRY(st, feed_random(&runner));
	QD_TRY(st, run_timed(&runner, &first));
	for (int i = 0; i < runs; i++) {
		QD_TRY(st, bench_rates_measure(&rates, threads));
		QD_TRY(st, run_timed(&runner, &seconds[i]));
	}
	QD_TRY(st, bench_rates_measure(&rates, threads));
	qsort(seconds, (size_t)runs, sizeof(*seconds), by_value);
	printf("threads %d\nweights %.0f\ngflop %.1f\n", threads, (double)cost.weights * 4 / (1 << 20),
		(cost.conv + cost.linear + cost.attention) * 1e-9);
	printf("openblas %.1f\nonednn %.1f\nbfloat16 %.1f\nbest %.1f\n", rates.openblas * 1e-9, rates.onednn * 1e-9,
		rates.bfloat16 * 1e-9, bench_rates_best(&rates) * 1e-9);
	printf("first %.3f\nfastest %.3f\nmedian %.3f\npeak %ld\n", first, seconds[0], seconds[runs / 2], peak_memory());
out:
	qd_runner_release(&runner);
	qd_graph_release(&g);
	qd_model_release(&model);
	return st;
}

int main(int argc, char **argv)
{
	int runs = argc > 2 ? atoi(argv[2]) : 0;
	if (argc < 3 || argc > 4 || runs < 1 || runs > MOST_RUNS) {
		fprintf(stderr, "usage: bench-forward MODEL RUNS [libtorch]\n");
		return 2;
	}
	/* as the program itself does: freed tensors are taken again */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	mallopt(M_TOP_PAD, 64 << 20);
	if (measure_forward(argv[1], runs, argc == 4) != QD_OK) {
		fprintf(stderr, "bench-forward: %s\n", qd_message());
		return 3;
	}
	return 0;
}
