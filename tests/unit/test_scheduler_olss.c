/*
 * lib/sampler, OLSS: the fit against the published algorithm written out in long double over the recorded vectors themselves (the
 * library sees only their inner products), the sampler against its formula, its file, and what it wins on a model that is not
 * linear.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/io/io.h"
#include "lib/math/math.h"
#include "lib/sampler/sampler.h"
#include "tests/unit/scratch.h"

enum { T = 24, N = 240, ROWS = 2 * T + 1, MOST = 12 };

/* A small nonlinear network: neighbours mix, the output bends with the timestep. */
static void toy(int64_t n, double t, const float *x, float *out)
{
	for (int64_t i = 0; i < n; i++) {
		double near = 0.8 * (double)x[i] + 0.3 * (double)x[(i + 1) % n];
		out[i] = (float)(tanh(near) * (0.4 + 0.6 * t / 1000) + 0.1 * sin(2 * (double)x[i] + t / 200));
	}
}

static enum qd_status denoise(void *context, const struct qd_denoise_call *call)
{
	toy(*(const int64_t *)context, call->timestep, call->sample, call->out);
	return QD_OK;
}

struct record {
	float *rows; /* [2 steps + 1, n] */
	int steps;
	size_t n;
};

static void observe(void *context, int step, const float *latents, const float *out)
{
	struct record *r = context;
	memcpy(r->rows + (size_t)step * r->n, latents, r->n * sizeof(float));
	memcpy(r->rows + (size_t)(r->steps + 1 + step) * r->n, out, r->n * sizeof(float));
}

/* Samples n latents from `seed`; with `record` notes the run. `x` [n] ends as the sample. */
static void sample(const struct qd_scheduler *scheduler, uint64_t seed, int64_t n, struct record *record, float *x)
{
	struct qd_sampling sampling = { .scheduler = scheduler,
		.n = 1,
		.latent_channels = 1,
		.height = 1,
		.width = n,
		.guidance = 1,
		.observe = record != NULL ? observe : NULL,
		.observe_context = record };
	qd_sample_noise(seed, 0, 1, n, x);
	OK(qd_sample(&sampling, denoise, &n, x));
	if (record != NULL)
		memcpy(record->rows + (size_t)record->steps * record->n, x, (size_t)n * sizeof(float));
}

struct bench {
	struct qd_schedule schedule;
	struct qd_scheduler reference;
	struct qd_olss_gram gram;
	float *recorded; /* [ROWS,N] */
};

static void bench_open(struct bench *b)
{
	struct record record = { .steps = T, .n = N };
	float x[N];

	memset(b, 0, sizeof(*b));
	OK(qd_schedule_read(&b->schedule, "/nowhere", ""));
	OK(qd_scheduler_new(&b->reference, &b->schedule, "ddim", T));
	OK(qd_olss_gram_init(&b->gram, T));
	b->recorded = record.rows = calloc((size_t)ROWS * N, sizeof(float));
	assert_non_null(record.rows);
	sample(&b->reference, test_seed(), N, &record, x);
	OK(qd_olss_gram_add(&b->gram, N, record.rows));
}

static void bench_close(struct bench *b)
{
	free(b->recorded);
	qd_olss_gram_release(&b->gram);
	qd_scheduler_release(&b->reference);
	qd_schedule_release(&b->schedule);
}

/* ---- the published algorithm ---- */

/* Least squares of `goal` by the n rows in `columns`, by Householder-free Gram-Schmidt (done twice) on the vectors themselves. */
static double published_fit(const float *rows, const int *columns, int n, int goal, double *w)
{
	static long double q[MOST + 1][N], r[MOST + 1][MOST + 1], rest[N], along[MOST + 1];
	double error = 0;

	for (int k = 0; k < N; k++)
		rest[k] = rows[goal * N + k];
	memset(r, 0, sizeof(r));
	memset(along, 0, sizeof(along));
	for (int c = 0; c < n; c++) {
		long double square = 0;
		for (int k = 0; k < N; k++)
			q[c][k] = rows[columns[c] * N + k];
		for (int pass = 0; pass < 2; pass++)
			for (int b = 0; b < c; b++) {
				long double dot = 0;
				for (int k = 0; k < N; k++)
					dot += q[b][k] * q[c][k];
				r[b][c] += dot;
				for (int k = 0; k < N; k++)
					q[c][k] -= dot * q[b][k];
			}
		for (int k = 0; k < N; k++)
			square += q[c][k] * q[c][k];
		r[c][c] = sqrtl(square);
		for (int k = 0; k < N; k++)
			q[c][k] /= r[c][c];
		for (int k = 0; k < N; k++)
			along[c] += q[c][k] * rest[k];
		for (int k = 0; k < N; k++)
			rest[k] -= along[c] * q[c][k];
	}
	for (int c = n - 1; c >= 0; c--) {
		long double sum = along[c];
		for (int b = c + 1; b < n; b++)
			sum -= r[c][b] * (long double)w[b];
		w[c] = (double)(sum / r[c][c]);
	}
	for (int k = 0; k < N; k++)
		error += (double)(rest[k] * rest[k]) / N;
	return error;
}

/* The path within `allowed`, its length, or 0. */
static int published_path(const float *rows, int most, double allowed, int *path)
{
	int n = 1;

	path[0] = 0;
	for (int turn = 0; turn < most; turn++) {
		int columns[MOST + 1] = { path[n - 1] }, left = path[n - 1] + 1, right = T + 1;
		double w[MOST + 1];
		for (int i = 0; i < n; i++)
			columns[i + 1] = T + 1 + path[i];
		while (right - left > 1) {
			int middle = (left + right) / 2;
			if (published_fit(rows, columns, n + 1, middle, w) <= allowed)
				left = middle;
			else
				right = middle;
		}
		if (left == T)
			return n;
		path[n++] = left;
	}
	return 0;
}

static int published_search(const float *rows, int most, int *path)
{
	double low = 0, high = 10;

	for (int i = 0; i < 30; i++) {
		double middle = (low + high) / 2;
		if (published_path(rows, most, middle, path) == 0)
			low = middle;
		else
			high = middle;
	}
	return published_path(rows, most, high, path);
}

/*
 * The same path; coefficients agree as far as the inner products carry: they square the condition number of the columns, which is
 * below 1e5 here (N is ten times their count, and the toy bends), and hold 16 digits: 1e-16 * 1e10 = 1e-6 of the largest.
 */
static void fits_as_published(void **state)
{
	struct bench b;

	(void)state;
	bench_open(&b);
	for (int k = 1; k <= 6; k++) {
		struct qd_olss olss;
		int path[MOST + 1], n = published_search(b.recorded, k, path);

		OK(qd_olss_fit(&olss, &b.gram, b.reference.timesteps, k));
		assert_int_equal(olss.steps, n);
		assert_int_equal(olss.reference_steps, T);
		for (int i = 0; i < n; i++) {
			int columns[MOST + 1] = { 0 };
			double w[MOST + 1], largest = 0, error;
			for (int j = 0; j <= i; j++)
				columns[j + 1] = T + 1 + path[j];
			error = published_fit(b.recorded, columns, i + 2, i + 1 < n ? path[i + 1] : T, w);
			for (int j = 0; j < i + 2; j++)
				largest = fmax(largest, fabs(w[j]));
			assert_true(olss.timesteps[i] == b.reference.timesteps[path[i]]);
			assert_true(fabs(olss.wx[i] - w[0]) <= 1e-6 * largest);
			for (int j = 0; j <= i; j++)
				assert_true(fabs(olss.we[i * n + j] - w[j + 1]) <= 1e-6 * largest);
			for (int j = i + 1; j < n; j++)
				assert_true(olss.we[i * n + j] == 0);
			/* the mean square of x is of order 1, its inner products are exact to 1e-15 */
			if (i + 1 == n)
				assert_true(fabs(olss.error - error) <= 1e-12 + 1e-6 * error);
		}
		qd_olss_release(&olss);
	}
	bench_close(&b);
}

/* Inner products may come in any pieces. */
static void adds_up_runs(void **state)
{
	struct bench b;
	struct qd_olss_gram pieces;
	float *part = calloc((size_t)ROWS * N, sizeof(float));

	(void)state;
	bench_open(&b);
	OK(qd_olss_gram_init(&pieces, T));
	for (size_t first = 0; first < N; first += N / 3) {
		for (size_t r = 0; r < ROWS; r++)
			memcpy(part + r * (N / 3), b.recorded + r * N + first, N / 3 * sizeof(float));
		OK(qd_olss_gram_add(&pieces, N / 3, part));
	}
	assert_int_equal(pieces.elements, N);
	for (size_t i = 0; i < (size_t)ROWS * ROWS; i++) {
		double expected = 0;
		for (size_t k = 0; k < N; k++)
			expected += (double)b.recorded[i / ROWS * N + k] * (double)b.recorded[i % ROWS * N + k];
		/* sums of N products of numbers up to 4 */
		assert_true(fabs(pieces.products[i] - expected) <= 1e-16 * N * N * 16);
		assert_true(pieces.products[i] == pieces.products[i % ROWS * ROWS + i / ROWS]);
	}
	free(part);
	qd_olss_gram_release(&pieces);
	bench_close(&b);
}

/* Where one step explains everything (the model says 0, DDIM only rescales), one step is what comes out. */
static void takes_no_more_than_it_needs(void **state)
{
	static float rows[ROWS * N];
	double timesteps[T];
	struct qd_olss_gram gram;
	struct qd_olss olss;

	(void)state;
	for (int i = 0; i <= T; i++)
		for (int k = 0; k < N; k++)
			rows[i * N + k] = (float)sin(k + 1.0) * (float)(1 << (i / 8));
	for (int i = 0; i < T; i++)
		timesteps[i] = T - i;
	OK(qd_olss_gram_init(&gram, T));
	OK(qd_olss_gram_add(&gram, N, rows));
	OK(qd_olss_fit(&olss, &gram, timesteps, 4));
	assert_int_equal(olss.steps, 1);
	assert_true(olss.timesteps[0] == T && fabs(olss.wx[0] - 8) < 1e-12 && fabs(olss.we[0]) < 1e-12);
	qd_olss_release(&olss);
	qd_olss_gram_release(&gram);
}

/* Latents far larger than the published search's bound on the error. */
static void searches_beyond_its_first_bound(void **state)
{
	struct bench b;
	struct qd_olss_gram gram;
	struct qd_olss plain, scaled;

	(void)state;
	bench_open(&b);
	for (size_t i = 0; i < (size_t)ROWS * N; i++)
		b.recorded[i] *= 4096;
	OK(qd_olss_gram_init(&gram, T));
	OK(qd_olss_gram_add(&gram, N, b.recorded));
	OK(qd_olss_fit(&plain, &b.gram, b.reference.timesteps, 2));
	OK(qd_olss_fit(&scaled, &gram, b.reference.timesteps, 2));
	assert_int_equal(scaled.steps, plain.steps);
	assert_true(fabs(scaled.wx[0] - plain.wx[0]) < 1e-9);
	qd_olss_release(&plain);
	qd_olss_release(&scaled);
	qd_olss_gram_release(&gram);
	bench_close(&b);
}

/* ---- sampling ---- */

/* Random coefficients, against the formula. */
static void samples_by_its_formula(void **state)
{
	enum { K = 4, WIDTH = 50 };
	double timesteps[K] = { 900, 600, 250.5, 3 }, wx[K], we[K * K] = { 0 }, expected[WIDTH];
	struct qd_olss olss = {
		.steps = K, .timesteps = timesteps, .wx = wx, .we = we, .reference_steps = 100, .guidance = 7.5, .error = 0.25
	};
	const char *path = scratch_path("formula.safetensors");
	struct qd_schedule schedule;
	struct qd_scheduler s;
	struct qd_random random;
	char kind[512];
	float x[WIDTH], start[WIDTH], out[K][WIDTH];

	(void)state;
	qd_random_init(&random, test_seed(), 7);
	for (int i = 0; i < K; i++) {
		wx[i] = qd_random_normal(&random);
		for (int j = 0; j <= i; j++)
			we[i * K + j] = qd_random_normal(&random);
	}
	OK(qd_olss_write(&olss, path, false));
	OK(qd_schedule_read(&schedule, "/nowhere", ""));
	snprintf(kind, sizeof(kind), "olss:%s", path);
	OK(qd_scheduler_new(&s, &schedule, kind, 0));
	assert_int_equal(s.steps, K);
	assert_true(s.init_sigma == 1);
	/* twice: a run begins anew, also with another number of values */
	for (size_t n = WIDTH; n >= WIDTH / 2; n /= 2) {
		for (size_t k = 0; k < n; k++)
			x[k] = start[k] = (float)qd_random_normal(&random);
		for (int i = 0; i < K; i++) {
			float input[WIDTH];
			qd_scheduler_scale_input(&s, i, n, x, input);
			assert_memory_equal(input, x, n * sizeof(float));
			assert_true(s.timesteps[i] == timesteps[i]);
			for (size_t k = 0; k < n; k++) {
				out[i][k] = (float)qd_random_normal(&random);
				expected[k] = wx[i] * (double)start[k];
				for (int j = 0; j <= i; j++)
					expected[k] += we[i * K + j] * (double)out[j][k];
			}
			OK(qd_scheduler_step(&s, i, n, x, out[i], NULL));
			for (size_t k = 0; k < n; k++)
				assert_true(fabs((double)x[k] - expected[k]) <= 1e-7 * (1 + fabs(expected[k]))); /* float32 */
		}
	}
	assert_int_equal(qd_scheduler_step(&s, 1, WIDTH, x, out[0], NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "step 1 has 50 values, step 0 had 25");
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
}

static void reads_what_it_writes(void **state)
{
	struct bench b;
	struct qd_olss olss, back;
	const char *path = scratch_path("kept.safetensors");

	(void)state;
	bench_open(&b);
	OK(qd_olss_fit(&olss, &b.gram, b.reference.timesteps, 5));
	olss.guidance = 7.5;
	snprintf(olss.base_hash, sizeof(olss.base_hash), "xxh3-128:0123");
	olss.notes = strdup("nine prompts");
	OK(qd_olss_write(&olss, path, false));
	OK(qd_olss_read(&back, path));
	assert_int_equal(back.steps, olss.steps);
	assert_int_equal(back.reference_steps, T);
	assert_true(back.guidance == 7.5 && back.error == olss.error);
	assert_string_equal(back.base_hash, "xxh3-128:0123");
	assert_string_equal(back.notes, "nine prompts");
	assert_memory_equal(back.timesteps, olss.timesteps, (size_t)olss.steps * sizeof(double));
	assert_memory_equal(back.wx, olss.wx, (size_t)olss.steps * sizeof(double));
	assert_memory_equal(back.we, olss.we, (size_t)(olss.steps * olss.steps) * sizeof(double));
	assert_int_equal(qd_olss_write(&olss, path, false), QD_EEXIST);
	qd_olss_release(&olss);
	qd_olss_release(&back);
	bench_close(&b);
}

/* What a few steps miss of the reference's result, on noise that the fit has not seen. */
static void beats_as_many_plain_steps(void **state)
{
	struct bench b;
	float exact[N], x[N];

	(void)state;
	bench_open(&b);
	for (int k = 3; k <= 6; k++) {
		double mse[2] = { 0 };
		struct qd_olss olss;
		char kind[512];
		const char *path = scratch_path("beats.safetensors");

		OK(qd_olss_fit(&olss, &b.gram, b.reference.timesteps, k));
		OK(qd_olss_write(&olss, path, true));
		snprintf(kind, sizeof(kind), "olss:%s", path);
		for (int which = 0; which < 2; which++) {
			struct qd_scheduler s;
			OK(qd_scheduler_new(&s, &b.schedule, which == 0 ? kind : "ddim", olss.steps));
			for (uint64_t seed = 100; seed < 108; seed++) {
				sample(&b.reference, seed, N, NULL, exact);
				sample(&s, seed, N, NULL, x);
				mse[which] += qd_mse(exact, x, N) / 8;
			}
			qd_scheduler_release(&s);
		}
		print_message("# %d steps: mean squared error %.3g, DDIM %.3g\n", olss.steps, mse[0], mse[1]);
		assert_true(mse[0] < 0.5 * mse[1]);
		qd_olss_release(&olss);
	}
	bench_close(&b);
}

/* ---- refusals ---- */

static void refuses_to_fit(void **state)
{
	struct bench b;
	struct qd_olss_gram empty;
	struct qd_olss olss;

	(void)state;
	bench_open(&b);
	OK(qd_olss_gram_init(&empty, T));
	assert_int_equal(qd_olss_fit(&olss, &empty, b.reference.timesteps, 3), QD_EINPUT);
	assert_string_equal(qd_message(), "no run was recorded");
	assert_int_equal(qd_olss_fit(&olss, &b.gram, b.reference.timesteps, T + 1), QD_EINPUT);
	assert_string_equal(qd_message(), "25 steps of a recorded run of 24, needs 1 to 24");
	assert_int_equal(qd_olss_fit(&olss, &b.gram, b.reference.timesteps, 0), QD_EINPUT);
	b.recorded[(T + 3) * N + 5] = NAN;
	assert_int_equal(qd_olss_gram_add(&empty, N, b.recorded), QD_EINPUT);
	assert_string_equal(qd_message(), "a recorded run is not finite at output 2");
	b.recorded[2 * N] = INFINITY;
	assert_int_equal(qd_olss_gram_add(&empty, N, b.recorded), QD_EINPUT);
	assert_string_equal(qd_message(), "a recorded run is not finite at latent 2");
	qd_olss_gram_release(&empty);
	bench_close(&b);
}

/* A file of two steps with one thing wrong. */
struct wrong {
	const char *key, *value; /* of the metadata; NULL: as it should be */
	const char *tensor;      /* the one to change; NULL: none */
	enum qd_dtype dtype;
	struct qd_shape shape;
	double at[4];
	const char *message;
};

static const char *write_wrong(const struct wrong *wrong)
{
	double timesteps[] = { 700, 300 }, wx[] = { 1, 2 }, we[] = { 1, 0, 2, 3 };
	const char *metadata[] = { "format", "quad.olss", "version", "1", "guidance", "1", "reference_steps", "100", "error", "0" };
	struct qd_tensor tensors[] = {
		qd_tensor_view("timesteps", QD_F64, QD_SHAPE(2), timesteps),
		qd_tensor_view("wx", QD_F64, QD_SHAPE(2), wx),
		qd_tensor_view("we", QD_F64, QD_SHAPE(2, 2), we),
	};
	const char *path = scratch_path("wrong.safetensors");

	for (size_t i = 0; i < 3; i++)
		if (wrong->tensor != NULL && strcmp(tensors[i].name, wrong->tensor) == 0)
			tensors[i] = qd_tensor_view(wrong->tensor, wrong->dtype, wrong->shape, wrong->at);
	for (size_t i = 0; i < QD_COUNT(metadata); i += 2)
		if (wrong->key != NULL && strcmp(metadata[i], wrong->key) == 0)
			metadata[i + 1] = wrong->value;
	OK(qd_safetensors_write(path, tensors, 3, metadata, QD_COUNT(metadata) / 2, true, NULL, NULL));
	return path;
}

static void refuses_files(void **state)
{
	static const struct wrong cases[] = {
		{ "format", "pt", NULL, QD_F64, { 0, { 0 } }, { 0 }, "metadata 'format' is 'pt', needs 'quad.olss'" },
		{ "version", "2", NULL, QD_F64, { 0, { 0 } }, { 0 }, "metadata 'version' is '2', needs a number from 1 to 1" },
		{ "guidance", "x", NULL, QD_F64, { 0, { 0 } }, { 0 },
			"metadata 'guidance' is 'x', needs a number from 0 to 1e+06" },
		{ NULL, NULL, "wx", QD_F32, { 1, { 2 } }, { 0 }, "tensor 'wx' is F32 [2], needs F64 [k] of 2 steps" },
		{ NULL, NULL, "we", QD_F64, { 2, { 2, 1 } }, { 0 }, "tensor 'we' is F64 [2,1], needs F64 [k,k] of 2 steps" },
		{ NULL, NULL, "timesteps", QD_F64, { 1, { 2 } }, { 300, 300 },
			"tensor 'timesteps' has 300 at 1, needs decreasing numbers from 0 up" },
		{ NULL, NULL, "we", QD_F64, { 2, { 2, 2 } }, { 1, 1, 1, 1 },
			"tensor 'we' uses output 1 at step 0, before it is known" },
		{ NULL, NULL, "wx", QD_F64, { 1, { 2 } }, { 1, NAN }, "tensor 'wx'" },
	};
	struct qd_olss olss;
	char prefix[600];

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		const char *path = write_wrong(&cases[i]);
		snprintf(prefix, sizeof(prefix), "'%s' is no fitted sampler: ", path);
		assert_int_equal(qd_olss_read(&olss, path), QD_EINPUT);
		assert_true(qd_starts_with(qd_message(), prefix));
		if (strstr(qd_message(), cases[i].message) == NULL)
			fail_msg("says \"%s\" instead of \"%s\"", qd_message(), cases[i].message);
	}
}

static void refuses_as_a_scheduler(void **state)
{
	static const struct wrong fine = { .key = NULL }, late = { NULL, NULL, "timesteps", QD_F64, { 1, { 2 } }, { 1200, 5 }, "" };
	struct qd_schedule schedule;
	struct qd_scheduler s;
	char kind[512];

	(void)state;
	OK(qd_schedule_read(&schedule, "/nowhere", ""));
	snprintf(kind, sizeof(kind), "olss:%s", write_wrong(&fine));
	assert_int_equal(qd_scheduler_new(&s, &schedule, kind, 3), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "was fitted for 2"));
	assert_true(qd_starts_with(qd_message(), "scheduler 'olss': 3 steps, '"));
	write_wrong(&late);
	assert_int_equal(qd_scheduler_new(&s, &schedule, kind, 0), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "begins at timestep 1200, the schedule ends at 999"));
	assert_int_equal(qd_scheduler_new(&s, &schedule, "olss:/nowhere/x.safetensors", 0), QD_EIO);
	assert_non_null(strstr(qd_message(), "/nowhere/x.safetensors"));
	qd_schedule_release(&schedule);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fits_as_published),
		cmocka_unit_test(adds_up_runs),
		cmocka_unit_test(takes_no_more_than_it_needs),
		cmocka_unit_test(searches_beyond_its_first_bound),
		cmocka_unit_test(samples_by_its_formula),
		cmocka_unit_test(reads_what_it_writes),
		cmocka_unit_test(beats_as_many_plain_steps),
		cmocka_unit_test(refuses_to_fit),
		cmocka_unit_test(refuses_files),
		cmocka_unit_test(refuses_as_a_scheduler),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
