/*
 * How fast this machine multiplies matrices, with the libraries that the program uses: what any executor of a network is measured
 * against. Matrices of 1024 rows and columns: large enough for the libraries' best, small enough for the caches.
 */
#include "lib/kernel/dnnl.h"
#include "lib/math/math.h"
#include "scripts/bench/bench.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SIZE = 1024, COPIED = 64 << 20 };

double bench_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct matrices {
	float *a, *b, *c;
	void *packed, *scratch;
	struct qd_dnnl *dnnl;
	struct qd_integer_product *integers;
};

static enum qd_status by_openblas(struct matrices *m)
{
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, SIZE, SIZE, SIZE, 1, m->a, SIZE, m->b, SIZE, 0, m->c, SIZE);
	return QD_OK;
}

static enum qd_status by_onednn(struct matrices *m)
{
	return qd_dnnl_run(m->dnnl, m->a, m->packed, NULL, NULL, m->c, m->scratch);
}

/* Sums of codes are made and dropped: what is done with them is no part of a product. */
static void drop(void *context, size_t first, size_t n, float *rows)
{
	(void)context;
	(void)first;
	(void)n;
	(void)rows;
}

static enum qd_status by_codes(struct matrices *m)
{
	const struct qd_numbers x = { .form = QD_FORM_U8, .at = m->a, .scale = 1, .high = 255 };

	return qd_integer_product_run(m->integers, &x, m->b, NULL, drop, NULL, m->scratch);
}

/* The best rate of a tenth of a second of runs. */
static enum qd_status measure(struct matrices *m, enum qd_status (*multiply)(struct matrices *m), double *best)
{
	enum qd_status st = multiply(m);
	for (double start = bench_now(), before = start; st == QD_OK && before < start + 0.1;) {
		before = bench_now();
		st = multiply(m);
		double rate = 2.0 * SIZE * SIZE * SIZE / (bench_now() - before);
		if (rate > *best)
			*best = rate;
	}
	return st;
}

static enum qd_status measure_onednn(struct matrices *m, bool bfloat16, double *best)
{
	struct qd_product_spec spec = qd_linear_spec(SIZE, SIZE, SIZE);
	enum qd_status st = qd_dnnl_new(&m->dnnl, &spec, &(struct qd_dnnl_options){ .bfloat16 = bfloat16 });
	if (st == QD_EUNSUPPORTED && bfloat16)
		return QD_OK;
	if (st == QD_OK) {
		m->packed = aligned_alloc(64, (qd_dnnl_weight_bytes(m->dnnl) + 64) / 64 * 64);
		m->scratch = aligned_alloc(64, (qd_dnnl_scratch_bytes(m->dnnl) + 64) / 64 * 64);
		st = m->packed != NULL && m->scratch != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
	}
	if (st == QD_OK)
		st = qd_dnnl_pack(m->dnnl, m->b, m->packed);
	if (st == QD_OK)
		st = measure(m, by_onednn, best);
	free(m->packed);
	free(m->scratch);
	qd_dnnl_free(m->dnnl);
	m->dnnl = NULL;
	return st;
}

static enum qd_status measure_codes(struct matrices *m, double *best)
{
	const struct qd_integer_spec spec = { .shape = qd_linear_spec(SIZE, SIZE, SIZE), .x = QD_FORM_U8, .w_bits = 8 };
	int16_t *w = calloc((size_t)SIZE * SIZE, sizeof(*w));
	enum qd_status st;

	if (w == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, qd_integer_product_new(&m->integers, &spec));
	QD_TRY(st, qd_integer_product_pack(m->integers, w));
	m->scratch = aligned_alloc(64, (qd_integer_product_scratch_bytes(m->integers) + 64) / 64 * 64);
	if (m->scratch == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	st = measure(m, by_codes, best);
out:
	free(m->scratch);
	free(w);
	qd_integer_product_free(m->integers);
	m->integers = NULL;
	return st;
}

/* Half to and half from memory that is in no cache, by as many threads as products have. */
static enum qd_status measure_copy(int threads, double *best)
{
	char *from = malloc(COPIED), *to = malloc(COPIED);

	if (from == NULL || to == NULL) {
		free(from);
		free(to);
		return qd_fail(QD_ENOMEM, "out of memory");
	}
	memset(from, 1, COPIED);
	for (int run = 0; run < 8; run++) {
		double before = bench_now(), rate;
#pragma omp parallel for schedule(static) num_threads(threads)
		for (int i = 0; i < threads; i++)
			memcpy(to + (size_t)i * (COPIED / (size_t)threads), from + (size_t)i * (COPIED / (size_t)threads),
				COPIED / (size_t)threads);
		rate = 2.0 * COPIED / (bench_now() - before);
		*best = run > 0 && rate > *best ? rate : *best;
	}
	free(from);
	free(to);
	return QD_OK;
}

enum qd_status bench_rates_measure(struct bench_rates *rates, int threads)
{
	struct matrices m = { 0 };
	size_t bytes = (size_t)SIZE * SIZE * sizeof(float);
	enum qd_status st = QD_OK;
	m.a = calloc(1, bytes);
	m.b = calloc(1, bytes);
	m.c = calloc(1, bytes);
	if (m.a == NULL || m.b == NULL || m.c == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	openblas_set_num_threads(threads);
	QD_TRY(st, measure(&m, by_openblas, &rates->openblas));
	openblas_set_num_threads(1);
	QD_TRY(st, measure_onednn(&m, false, &rates->onednn));
	QD_TRY(st, measure_onednn(&m, true, &rates->bfloat16));
	QD_TRY(st, measure_codes(&m, &rates->integer));
	QD_TRY(st, measure_copy(threads, &rates->copy));
out:
	free(m.a);
	free(m.b);
	free(m.c);
	return st;
}

double bench_rates_best(const struct bench_rates *rates)
{
	double best = rates->openblas > rates->onednn ? rates->openblas : rates->onednn;
	return rates->bfloat16 / 3 > best ? rates->bfloat16 / 3 : best;
}
