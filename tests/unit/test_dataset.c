/* Training data and the objective: gathering, shuffling, noising, weights, and every refusal by its message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "distill/distill.h"
#include "tests/unit/npy_help.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A data file in the making; elements are uniform in [-2, 2). */
struct file {
	struct qd_tensor tensors[QD_FIELD_COUNT];
	size_t n;
};

static struct qd_tensor *add(
	struct file *file, struct qd_random *random, enum qd_data_field field, enum qd_dtype dtype, struct qd_shape shape)
{
	struct qd_tensor *t = &file->tensors[file->n++];
	float *values;

	OK(qd_tensor_new(t, qd_data_field_name(field), dtype, &shape));
	values = malloc((size_t)qd_shape_elements(&shape) * sizeof(*values));
	assert_non_null(values);
	for (int64_t i = 0; i < qd_shape_elements(&shape); i++)
		values[i] = (float)(4 * qd_random_uniform(random) - 2);
	OK(qd_tensor_from_f32(t, values));
	free(values);
	return t;
}

static const char *save(struct file *file, const char *name)
{
	const char *path = scratch_path(name);

	OK(qd_safetensors_write(path, file->tensors, file->n, NULL, 0, true, NULL, NULL));
	return path;
}

static void drop(struct file *file)
{
	for (size_t i = 0; i < file->n; i++)
		qd_tensor_release(&file->tensors[i]);
	file->n = 0;
}

static float element(const struct qd_tensor *t, int64_t i)
{
	return t->dtype == QD_F16 ? qd_f16_to_f32(((const uint16_t *)t->data)[i]) : ((const float *)t->data)[i];
}

/* ---- gathering and shuffling ---- */

static void test_gather(void **state)
{
	struct qd_random random;
	struct file files[3] = { { .n = 0 } };
	const char *paths[3];
	int64_t counts[3], first[3], total = 0;
	struct qd_dataset data;
	(void)state;
	qd_random_init(&random, test_seed(), 0);
	int64_t C = 1 + (int64_t)qd_random_below(&random, 4), H = 1 + (int64_t)qd_random_below(&random, 6),
		W = 1 + (int64_t)qd_random_below(&random, 6);
	int64_t L = 1 + (int64_t)qd_random_below(&random, 5), D = 1 + (int64_t)qd_random_below(&random, 9), row = C * H * W;
	struct qd_unet_config config = { .in_channels = C, .out_channels = C, .cross_dim = { D } };

	for (int f = 0; f < 3; f++) {
		char name[32];
		counts[f] = 1 + (int64_t)qd_random_below(&random, 7);
		first[f] = total;
		total += counts[f];
		add(&files[f], &random, QD_FIELD_LATENTS, f == 1 ? QD_F16 : QD_F32, QD_SHAPE(counts[f], C, H, W));
		add(&files[f], &random, QD_FIELD_CONTEXT, QD_F16, QD_SHAPE(counts[f], L, D));
		snprintf(name, sizeof(name), "gather%d", f);
		paths[f] = save(&files[f], name);
	}
	OK(qd_dataset_open(&data, paths, 3, &config, QD_DATA_TRAIN));
	assert_int_equal(data.n, total);
	assert_int_equal(qd_dataset_row(&data, QD_FIELD_LATENTS), row);
	assert_int_equal(qd_dataset_row(&data, QD_FIELD_CONDITION), 0);
	assert_int_equal(qd_dataset_sizes(&data, 5).tokens, L);
	assert_int_equal(qd_dataset_sizes(&data, 5).height, H);
	int64_t *index = calloc((size_t)total, sizeof(*index));
	float *out = calloc((size_t)(total * row), sizeof(*out));
	assert_non_null(index);
	assert_non_null(out);
	for (int64_t i = 0; i < total; i++)
		index[i] = (int64_t)qd_random_below(&random, (uint64_t)total);
	OK(qd_dataset_gather(&data, QD_FIELD_LATENTS, index, total, out));
	for (int64_t i = 0; i < total; i++) {
		int f = index[i] >= first[2] ? 2 : index[i] >= first[1] ? 1 : 0;
		for (int64_t k = 0; k < row; k++)
			assert_float_equal(out[i * row + k], element(&files[f].tensors[0], (index[i] - first[f]) * row + k), 0);
	}
	free(index);
	free(out);
	qd_dataset_release(&data);
	for (int f = 0; f < 3; f++)
		drop(&files[f]);
}

static void test_shuffle(void **state)
{
	enum { N = 37, PASSES = 4 };
	struct qd_shuffle a, b;
	int64_t all[N * PASSES], part[5];
	int same = 0;
	(void)state;

	OK(qd_shuffle_init(&a, N, 7));
	qd_shuffle_take(&a, 0, N * PASSES, all);
	for (int pass = 0; pass < PASSES; pass++) {
		bool seen[N] = { false };
		for (int i = 0; i < N; i++) {
			int64_t at = all[pass * N + i];
			assert_in_range(at, 0, N - 1);
			assert_false(seen[at]);
			seen[at] = true;
			same += pass > 0 && at == all[i];
		}
	}
	assert_true(same < N); /* three orders, each with one match expected */
	/* any place without what came before it, over the edge of a pass */
	OK(qd_shuffle_init(&b, N, 7));
	qd_shuffle_take(&b, 2 * N - 2, 5, part);
	assert_memory_equal(part, all + 2 * N - 2, sizeof(part));
	qd_shuffle_release(&a);
	qd_shuffle_release(&b);
}

/* ---- noising ---- */

struct noising {
	struct file file;
	struct qd_dataset data;
	struct qd_schedule schedule;
	struct qd_batch batch;
};

enum { STEPS = 50, SAMPLES = 6, CL = 2, CC = 3, SIDE = 4, PIXELS = SIDE * SIDE, TOKENS = 2, FEATURES = 5 };

static void open_noising(struct noising *n, bool stored_noise)
{
	const struct qd_unet_config config = { .in_channels = CL + CC, .out_channels = CL, .cross_dim = { FEATURES } };
	struct qd_random random;
	const char *path;

	*n = (struct noising){ .schedule.train_steps = STEPS };
	qd_random_init(&random, test_seed(), 1);
	add(&n->file, &random, QD_FIELD_LATENTS, QD_F32, QD_SHAPE(SAMPLES, CL, SIDE, SIDE));
	add(&n->file, &random, QD_FIELD_CONDITION, QD_F32, QD_SHAPE(SAMPLES, CC, SIDE, SIDE));
	add(&n->file, &random, QD_FIELD_CONTEXT, QD_F32, QD_SHAPE(SAMPLES, TOKENS, FEATURES));
	if (stored_noise)
		add(&n->file, &random, QD_FIELD_NOISE, QD_F32, QD_SHAPE(SAMPLES, CL, SIDE, SIDE));
	path = save(&n->file, "noising");
	OK(qd_dataset_open(&n->data, &path, 1, &config, QD_DATA_TRAIN));
	OK(qd_batch_init(&n->batch, &n->data, SAMPLES));
	n->schedule.alphas_cumprod = calloc(STEPS, sizeof(double));
	assert_non_null(n->schedule.alphas_cumprod);
	for (int t = 0; t < STEPS; t++)
		n->schedule.alphas_cumprod[t] = 0.999 - 0.99 * t / STEPS;
	for (int64_t b = 0; b < SAMPLES; b++)
		n->batch.index[b] = (b * 5 + 2) % SAMPLES;
}

static void close_noising(struct noising *n)
{
	qd_batch_release(&n->batch);
	qd_dataset_release(&n->data);
	free(n->schedule.alphas_cumprod);
	drop(&n->file);
}

static void check_noised(struct noising *n, enum qd_prediction prediction, double gamma)
{
	struct qd_noising objective = { &n->schedule, gamma, 0 };
	const float *sample = n->batch.sample.data, *target = n->batch.target.data, *root = n->batch.root_weight.data;
	struct qd_random random;

	n->schedule.prediction = prediction;
	qd_random_init(&random, 3, 4);
	OK(qd_batch_fill(&n->batch, &n->data, &objective, &random));
	for (int64_t b = 0; b < SAMPLES; b++) {
		float t = ((const float *)n->batch.timestep.data)[b];
		/* one timestep in each sixth of the schedule */
		assert_true(t >= (float)floor((double)b * STEPS / SAMPLES) && t < (float)((double)(b + 1) * STEPS / SAMPLES));
		double a = n->schedule.alphas_cumprod[(int)t], w = qd_loss_weight(&objective, (int64_t)t);
		assert_true(fabs((double)root[b] - sqrt(w)) < 1e-6);
		for (int64_t k = 0; k < CL * PIXELS; k++) {
			int64_t from = n->batch.index[b] * CL * PIXELS + k;
			double x0 = (double)element(&n->file.tensors[0], from), e = (double)element(&n->file.tensors[3], from);
			double want = prediction == QD_PREDICT_EPSILON  ? e
				      : prediction == QD_PREDICT_SAMPLE ? x0
									: sqrt(a) * e - sqrt(1 - a) * x0;
			/* three float32 roundings of numbers below 4: 3 * 4 * 2^-24 */
			assert_true(fabs((double)sample[b * (CL + CC) * PIXELS + k] - (sqrt(a) * x0 + sqrt(1 - a) * e)) < 1e-6);
			assert_true(fabs((double)target[b * CL * PIXELS + k] - sqrt(w) * want) < 2e-6 * fmax(1, sqrt(w)));
		}
		for (int64_t k = 0; k < CC * PIXELS; k++)
			assert_float_equal(sample[(b * (CL + CC) + CL) * PIXELS + k],
				element(&n->file.tensors[1], n->batch.index[b] * CC * PIXELS + k), 0);
		for (int64_t k = 0; k < TOKENS * FEATURES; k++)
			assert_float_equal(((const float *)n->batch.context.data)[b * TOKENS * FEATURES + k],
				element(&n->file.tensors[2], n->batch.index[b] * TOKENS * FEATURES + k), 0);
	}
}

static void test_noising(void **state)
{
	static const enum qd_prediction kinds[] = { QD_PREDICT_EPSILON, QD_PREDICT_V, QD_PREDICT_SAMPLE };
	struct noising n;
	(void)state;

	open_noising(&n, true);
	for (size_t i = 0; i < QD_COUNT(kinds); i++) {
		check_noised(&n, kinds[i], 0);
		check_noised(&n, kinds[i], 5);
	}
	close_noising(&n);
}

/* Drawn noise is standard normal: of 192 numbers the mean is within 5/sqrt(192) of 0, the variance within 5 sqrt(2/192) of 1. */
static void test_drawn_noise(void **state)
{
	struct noising n;
	struct qd_noising objective;
	struct qd_random random;
	double sum = 0, squares = 0, count = SAMPLES * CL * PIXELS;
	(void)state;

	open_noising(&n, false);
	objective = (struct qd_noising){ .schedule = &n.schedule };
	qd_random_init(&random, 5, 6);
	OK(qd_batch_fill(&n.batch, &n.data, &objective, &random));
	for (int i = 0; i < (int)count; i++) {
		sum += (double)n.batch.noise[i];
		squares += (double)n.batch.noise[i] * (double)n.batch.noise[i];
	}
	assert_true(fabs(sum / count) < 5 / sqrt(count));
	assert_true(fabs(squares / count - 1) < 5 * sqrt(2 / count));
	close_noising(&n);
}

static void test_prompt_dropout(void **state)
{
	struct noising n;
	struct qd_noising objective;
	struct qd_random random;
	(void)state;

	open_noising(&n, false);
	objective = (struct qd_noising){ .schedule = &n.schedule, .prompt_dropout = 1 };
	qd_random_init(&random, 5, 6);
	OK(qd_batch_fill(&n.batch, &n.data, &objective, &random));
	for (int i = 0; i < SAMPLES * TOKENS * FEATURES; i++)
		assert_float_equal(((const float *)n.batch.context.data)[i], 0, 0);
	close_noising(&n);
}

static void test_stored_samples(void **state)
{
	const struct qd_unet_config config = { .in_channels = 3, .out_channels = 3, .cross_dim = { FEATURES } };
	struct file file = { .n = 0 };
	struct qd_random random;
	struct qd_dataset data;
	struct qd_batch batch;
	struct qd_schedule schedule = { .train_steps = STEPS };
	struct qd_noising objective = { .schedule = &schedule };
	const char *path;
	(void)state;

	qd_random_init(&random, test_seed(), 2);
	add(&file, &random, QD_FIELD_SAMPLE, QD_F32, QD_SHAPE(4, 3, 2, 2));
	add(&file, &random, QD_FIELD_TIMESTEP, QD_F32, QD_SHAPE(4));
	add(&file, &random, QD_FIELD_CONTEXT, QD_F32, QD_SHAPE(4, 1, FEATURES));
	path = save(&file, "stored");
	OK(qd_dataset_open(&data, &path, 1, &config, QD_DATA_TRAIN));
	OK(qd_batch_init(&batch, &data, 2));
	batch.index[0] = 3;
	batch.index[1] = 1;
	OK(qd_batch_fill(&batch, &data, &objective, &random));
	assert_null(batch.target.data);
	for (int b = 0; b < 2; b++) {
		assert_float_equal(((const float *)batch.timestep.data)[b], element(&file.tensors[1], batch.index[b]), 0);
		for (int k = 0; k < 12; k++)
			assert_float_equal(((const float *)batch.sample.data)[b * 12 + k],
				element(&file.tensors[0], batch.index[b] * 12 + k), 0);
	}
	qd_batch_release(&batch);
	qd_dataset_release(&data);
	drop(&file);
}

/* ---- weights and learning rates ---- */

static void test_loss_weights(void **state)
{
	double alphas[] = { 0.9, 0.5 }; /* snr 9 and 1 */
	struct qd_schedule schedule = { .train_steps = 2, .alphas_cumprod = alphas };
	struct qd_noising objective = { .schedule = &schedule, .snr_gamma = 5 };
	static const double want[3][2] = { { 5.0 / 9, 1 }, { 0.5, 0.5 }, { 5, 1 } };
	static const enum qd_prediction kinds[] = { QD_PREDICT_EPSILON, QD_PREDICT_V, QD_PREDICT_SAMPLE };
	(void)state;

	for (size_t kind = 0; kind < 3; kind++)
		for (int t = 0; t < 2; t++) {
			schedule.prediction = kinds[kind];
			assert_true(fabs(qd_loss_weight(&objective, t) - want[kind][t]) < 1e-12);
		}
	objective.snr_gamma = 0;
	assert_true(qd_loss_weight(&objective, 0) == 1);
}

static void test_learning_rates(void **state)
{
	(void)state;
	assert_true(qd_lr_factor(QD_LR_COSINE, 0, 100, 4) == 0.25);
	assert_true(qd_lr_factor(QD_LR_COSINE, 3, 100, 4) == 1);
	assert_true(qd_lr_factor(QD_LR_COSINE, 4, 100, 4) == 1);
	assert_true(fabs(qd_lr_factor(QD_LR_COSINE, 52, 100, 4) - 0.5) < 1e-12);
	assert_true(fabs(qd_lr_factor(QD_LR_LINEAR, 76, 100, 4) - 0.25) < 1e-12);
	assert_true(qd_lr_factor(QD_LR_CONSTANT, 99, 100, 0) == 1);
	assert_true(qd_lr_factor(QD_LR_COSINE, 0, 0, 0) == 1);
}

/* ---- refusals ---- */

/* A correct file with one tensor replaced, left out (dim[0] 0) or added, and what is said about it. */
struct refusal {
	const char *message;
	enum qd_data_field field;
	enum qd_dtype dtype;
	struct qd_shape shape;
};

static const struct refusal refusals[] = {
	{ "has neither tensor 'latents' nor 'sample'", QD_FIELD_LATENTS, QD_F32, { 4, { 0 } } },
	{ "tensor 'latents' has 3 dimensions, needs 4", QD_FIELD_LATENTS, QD_F32, { 3, { 2, 2, 16 } } },
	{ "tensor 'latents' is I32, needs F32, F16, BF16 or F64", QD_FIELD_LATENTS, QD_I32, { 4, { 2, 2, 4, 4 } } },
	{ "tensor 'latents' has samples of [3,4,4], the model takes [2,?,?]", QD_FIELD_LATENTS, QD_F32, { 4, { 2, 3, 4, 4 } } },
	{ "tensor 'condition' has samples of [1,4,4], the model takes [3,?,?]", QD_FIELD_CONDITION, QD_F32, { 4, { 2, 1, 4, 4 } } },
	{ "has no tensor 'condition'", QD_FIELD_CONDITION, QD_F32, { 4, { 0 } } },
	{ "tensor 'condition' has samples of [3,4,5], needs the size of 'latents' [2,4,4]", QD_FIELD_CONDITION, QD_F32,
		{ 4, { 2, 3, 4, 5 } } },
	{ "tensor 'noise' has samples of [3,4,4], the model takes [2,?,?]", QD_FIELD_NOISE, QD_F32, { 4, { 2, 3, 4, 4 } } },
	{ "has no tensor 'encoder_hidden_states'", QD_FIELD_CONTEXT, QD_F32, { 3, { 0 } } },
	{ "tensor 'encoder_hidden_states' has samples of [1,4], the model takes [?,5]", QD_FIELD_CONTEXT, QD_F32,
		{ 3, { 2, 1, 4 } } },
	{ "tensor 'encoder_hidden_states' has 3 samples, the file's others have 2", QD_FIELD_CONTEXT, QD_F32, { 3, { 3, 1, 5 } } },
	{ "tensor 'encoder_hidden_states' is empty", QD_FIELD_CONTEXT, QD_F32, { 3, { 2, 0, 5 } } },
};

static void put(
	struct file *file, struct qd_random *random, enum qd_data_field field, const struct refusal *r, struct qd_shape shape)
{
	enum qd_dtype dtype = QD_F32;

	if (r != NULL && r->field == field) {
		shape = r->shape;
		dtype = r->dtype;
	}
	if (shape.dim[0] == 0)
		return;
	if (dtype == QD_F32)
		add(file, random, field, dtype, shape);
	else
		OK(qd_tensor_new(&file->tensors[file->n++], qd_data_field_name(field), dtype, &shape));
}

static const char *correct_but(struct file *file, const struct refusal *r, const char *name)
{
	struct qd_random random;

	qd_random_init(&random, 1, 1);
	put(file, &random, QD_FIELD_LATENTS, r, QD_SHAPE(2, 2, 4, 4));
	put(file, &random, QD_FIELD_CONDITION, r, QD_SHAPE(2, 3, 4, 4));
	put(file, &random, QD_FIELD_CONTEXT, r, QD_SHAPE(2, 1, 5));
	put(file, &random, QD_FIELD_NOISE, r, QD_SHAPE(0, 0, 0, 0));
	return save(file, name);
}

static const struct qd_unet_config needs = { .in_channels = 5, .out_channels = 2, .cross_dim = { 5 } };

static void expect_refused(const char *const *paths, size_t n, const struct qd_unet_config *config, const char *message)
{
	struct qd_dataset data;

	assert_int_equal(qd_dataset_open(&data, paths, n, config, QD_DATA_TRAIN), QD_EINPUT);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says \"%s\" instead of \"%s\"", qd_message(), message);
}

static void test_refuses_files(void **state)
{
	(void)state;
	for (size_t i = 0; i < QD_COUNT(refusals); i++) {
		struct file file = { .n = 0 };
		const char *path = correct_but(&file, &refusals[i], "refused");

		expect_refused(&path, 1, &needs, refusals[i].message);
		assert_non_null(strstr(qd_message(), "cannot use '"));
		drop(&file);
	}
	expect_refused(NULL, 0, &needs, "there is no data file");
}

static void test_refuses_second_file(void **state)
{
	static const struct refusal larger = { "", QD_FIELD_CONTEXT, QD_F32, { 3, { 2, 2, 5 } } };
	static const struct refusal noise = { "", QD_FIELD_NOISE, QD_F32, { 4, { 2, 2, 4, 4 } } };
	struct file files[3] = { { .n = 0 } };
	const char *paths[2];
	(void)state;

	paths[0] = correct_but(&files[0], NULL, "one");
	paths[1] = correct_but(&files[1], &larger, "two");
	expect_refused(paths, 2, &needs, "tensor 'encoder_hidden_states' has samples of [2,5], needs [1,5] as in '");
	paths[1] = correct_but(&files[2], &noise, "three");
	expect_refused(paths, 2, &needs, "tensor 'noise' is in some of the data files only");
	for (int i = 0; i < 3; i++)
		drop(&files[i]);
}

static void test_refuses_for_the_model(void **state)
{
	struct qd_unet_config xl = needs, stored = { .in_channels = 4, .out_channels = 3, .cross_dim = { 5 } };
	struct file file = { .n = 0 }, sample = { .n = 0 };
	const char *path = correct_but(&file, NULL, "xl");
	struct qd_random random;
	(void)state;

	xl.text_time = true;
	expect_refused(&path, 1, &xl, "has no tensor 'text_embeds'");
	qd_random_init(&random, 1, 1);
	add(&sample, &random, QD_FIELD_SAMPLE, QD_F32, QD_SHAPE(2, 3, 4, 4));
	path = save(&sample, "sample");
	expect_refused(&path, 1, &stored, "has no tensor 'timestep'");
	add(&sample, &random, QD_FIELD_TIMESTEP, QD_F32, QD_SHAPE(2));
	add(&sample, &random, QD_FIELD_CONTEXT, QD_F32, QD_SHAPE(2, 1, 5));
	path = save(&sample, "sample");
	expect_refused(&path, 1, &stored, "tensor 'sample' has samples of [3,4,4], the model takes [4,?,?]");
	drop(&file);
	drop(&sample);
}

/* The same samples from an archive's folder and from safetensors, joined, in both uses; calibration looks at inputs alone. */
static void test_joins_kinds_of_files(void **state)
{
	struct file file = { .n = 0 };
	struct qd_unet_config config = { .in_channels = 2, .out_channels = 2, .cross_dim = { 5 } };
	const char *paths[2];
	char folder[512], whole[QD_HASH_TEXT], again[QD_HASH_TEXT];
	struct qd_random random;
	struct qd_dataset data;
	float rows[4 * 32];
	(void)state;

	qd_random_init(&random, test_seed(), 3);
	add(&file, &random, QD_FIELD_SAMPLE, QD_F32, QD_SHAPE(2, 2, 4, 4));
	add(&file, &random, QD_FIELD_TIMESTEP, QD_F32, QD_SHAPE(2));
	add(&file, &random, QD_FIELD_CONTEXT, QD_F32, QD_SHAPE(2, 1, 5));
	add(&file, &random, QD_FIELD_LATENTS, QD_F32, QD_SHAPE(2, 9, 4, 4));
	((float *)file.tensors[3].data)[0] = NAN;
	paths[0] = save(&file, "joined");
	snprintf(folder, sizeof(folder), "%s", scratch_path("joined.d"));
	assert_int_equal(mkdir(folder, 0700), 0);
	for (size_t i = 0; i < file.n; i++) {
		char path[600];
		snprintf(path, sizeof(path), "%s/%s.npy", folder, file.tensors[i].name);
		npy_write(path, &file.tensors[i]);
	}
	paths[1] = folder;
	OK(qd_dataset_open(&data, paths, 2, &config, QD_DATA_CALIBRATE));
	assert_int_equal(data.n, 4);
	assert_false(data.has[QD_FIELD_LATENTS]);
	assert_int_equal(qd_dataset_sizes(&data, 3).height, 4);
	OK(qd_dataset_gather(&data, QD_FIELD_SAMPLE, (int64_t[]){ 2, 3, 0, 1 }, 4, rows));
	assert_memory_equal(rows, rows + 2 * 32, 2 * 32 * sizeof(float));
	assert_memory_equal(rows, file.tensors[0].data, 2 * 32 * sizeof(float));
	OK(qd_dataset_hash(&data, whole));
	qd_dataset_release(&data);
	OK(qd_dataset_open(&data, paths, 1, &config, QD_DATA_CALIBRATE));
	OK(qd_dataset_hash(&data, again));
	assert_string_not_equal(whole, again);
	qd_dataset_release(&data);
	expect_refused(paths, 2, &config, "tensor 'latents' has samples of [9,4,4], the model takes [2,?,?]");
	config.time_cond_dim = 7;
	assert_int_equal(qd_dataset_open(&data, paths, 2, &config, QD_DATA_CALIBRATE), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "has no tensor 'timestep_cond'"));
	drop(&file);
}

static void test_refuses_infinities(void **state)
{
	struct file file = { .n = 0 };
	struct qd_dataset data;
	float out[2 * 16];
	int64_t index = 1;
	const char *path;
	(void)state;

	correct_but(&file, NULL, "infinite");
	((float *)file.tensors[0].data)[2 * 16 + 3] = INFINITY;
	path = save(&file, "infinite");
	OK(qd_dataset_open(&data, &path, 1, &needs, QD_DATA_TRAIN));
	assert_int_equal(qd_dataset_gather(&data, QD_FIELD_LATENTS, &index, 1, out), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "tensor 'latents' is not finite in sample 1"));
	qd_dataset_release(&data);
	drop(&file);
}

/* Beyond the schedule there is no noise level; latents make stored timesteps meaningless. */
static void test_refuses_timesteps(void **state)
{
	static const struct {
		float value;
		int steps; /* of the schedule; 0: unknown */
		const char *message;
	} cases[] = {
		{ 0, 1000, NULL },
		{ 999.5F, 1000, NULL },
		{ 1000, 1000, "the timestep of sample 1 is 1000, the model's schedule goes from 0 to below 1000" },
		{ 1e9F, 1000, "the timestep of sample 1 is 1e+09, the model's schedule goes from 0 to below 1000" },
		{ -5, 1000, "the timestep of sample 1 is -5, the model's schedule goes from 0 to below 1000" },
		{ -5, 0, "the timestep of sample 1 is -5, needs 0 or more" },
		{ 1e9F, 0, NULL },
		{ NAN, 0, "tensor 'timestep' is not finite in sample 1" },
	};
	struct qd_unet_config config = needs;
	(void)state;

	config.in_channels = config.out_channels;
	for (size_t i = 0; i < 2 * QD_COUNT(cases); i++) {
		struct file file = { .n = 0 };
		struct qd_random random;
		struct qd_dataset data;
		char name[32];
		const char *path, *wanted = i % 2 == 0 ? cases[i / 2].message : NULL;
		enum qd_status st;
		qd_random_init(&random, test_seed(), 4);
		add(&file, &random, QD_FIELD_SAMPLE, QD_F32, QD_SHAPE(2, config.in_channels, 4, 4));
		add(&file, &random, QD_FIELD_TIMESTEP, QD_F32, QD_SHAPE(2));
		add(&file, &random, QD_FIELD_CONTEXT, QD_F32, QD_SHAPE(2, 1, 5));
		if (i % 2 == 1)
			add(&file, &random, QD_FIELD_LATENTS, QD_F32, QD_SHAPE(2, config.out_channels, 4, 4));
		snprintf(name, sizeof(name), "timesteps%zu", i);
		((float *)file.tensors[1].data)[0] = 1;
		((float *)file.tensors[1].data)[1] = cases[i / 2].value;
		path = save(&file, name);
		OK(qd_dataset_open(&data, &path, 1, &config, QD_DATA_TRAIN));
		st = qd_dataset_check_timesteps(&data, cases[i / 2].steps);
		assert_int_equal(st, wanted != NULL ? QD_EINPUT : QD_OK);
		if (wanted != NULL && (strstr(qd_message(), wanted) == NULL || strstr(qd_message(), name) == NULL))
			fail_msg("says \"%s\" instead of \"%s\"", qd_message(), wanted);
		qd_dataset_release(&data);
		drop(&file);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gather),
		cmocka_unit_test(test_shuffle),
		cmocka_unit_test(test_noising),
		cmocka_unit_test(test_drawn_noise),
		cmocka_unit_test(test_prompt_dropout),
		cmocka_unit_test(test_stored_samples),
		cmocka_unit_test(test_loss_weights),
		cmocka_unit_test(test_learning_rates),
		cmocka_unit_test(test_refuses_files),
		cmocka_unit_test(test_refuses_second_file),
		cmocka_unit_test(test_refuses_for_the_model),
		cmocka_unit_test(test_joins_kinds_of_files),
		cmocka_unit_test(test_refuses_infinities),
		cmocka_unit_test(test_refuses_timesteps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
