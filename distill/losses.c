/*
 * The training noising, over the noising and the targets of lib/sampler/sampler.h:
 *
 *   loss = mean_b w(t_b) mean((network(x_t, t) - target)^2)
 *
 * Min-SNR weighting (Hang et al. 2023) bounds the weight of a step on x0 by gamma: w = min(snr, gamma) in units of the x0 loss,
 * which is min(snr, gamma)/snr on epsilon and min(snr, gamma)/(snr + 1) on v, snr = a/(1 - a).
 *
 * Timesteps are stratified: sample i of B draws from [i T/B, (i+1) T/B), which keeps every batch's mix of noise levels alike. The
 * weights' square roots scale prediction and target before one mean squared difference.
 */
#include "distill/distill.h"
#include "lib/sampler/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum qd_status new_rows(
	struct qd_tensor *tensor, const char *name, const struct qd_dataset *data, enum qd_data_field field, int64_t n)
{
	const struct qd_shape *row = &data->shape[field];
	struct qd_shape shape = { .rank = row->rank + 1, .dim = { n } };

	if (!data->has[field])
		return QD_OK;
	memcpy(shape.dim + 1, row->dim, (size_t)row->rank * sizeof(*row->dim));
	return qd_tensor_new(tensor, name, QD_F32, &shape);
}

/* What the set's clean latents ask for: the network's input with the condition's channels, target, weights and scratch. */
static enum qd_status init_noising(struct qd_batch *batch, const struct qd_dataset *data, int64_t n)
{
	const struct qd_shape *latents = &data->shape[QD_FIELD_LATENTS];
	int64_t condition = data->has[QD_FIELD_CONDITION] ? data->shape[QD_FIELD_CONDITION].dim[0] : 0;
	struct qd_shape sample = QD_SHAPE(n, latents->dim[0] + condition, latents->dim[1], latents->dim[2]),
			scalar = QD_SHAPE(n, 1, 1, 1);
	size_t floats = (size_t)(n * qd_shape_elements(latents));
	enum qd_status st = qd_tensor_new(&batch->sample, "sample", QD_F32, &sample);

	if (st == QD_OK)
		st = new_rows(&batch->target, "target", data, QD_FIELD_LATENTS, n);
	if (st == QD_OK)
		st = qd_tensor_new(&batch->root_weight, "weight", QD_F32, &scalar);
	if (st != QD_OK)
		return st;
	batch->clean = malloc(floats * sizeof(*batch->clean));
	batch->noise = malloc(floats * sizeof(*batch->noise));
	if (batch->clean == NULL || batch->noise == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a batch of %lld samples", (long long)n);
	return QD_OK;
}

enum qd_status qd_batch_init(struct qd_batch *batch, const struct qd_dataset *data, int64_t n)
{
	enum qd_status st;

	*batch = (struct qd_batch){ .n = n };
	batch->index = malloc((size_t)n * sizeof(*batch->index));
	if (batch->index == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a batch of %lld samples", (long long)n));
	QD_TRY(st, qd_tensor_new(&batch->timestep, "timestep", QD_F32, &QD_SHAPE(n)));
	QD_TRY(st, new_rows(&batch->context, "encoder_hidden_states", data, QD_FIELD_CONTEXT, n));
	QD_TRY(st, new_rows(&batch->text_embeds, "text_embeds", data, QD_FIELD_TEXT_EMBEDS, n));
	QD_TRY(st, new_rows(&batch->time_ids, "time_ids", data, QD_FIELD_TIME_IDS, n));
	QD_TRY(st, new_rows(&batch->time_cond, "timestep_cond", data, QD_FIELD_TIME_COND, n));
	if (data->has[QD_FIELD_LATENTS])
		QD_TRY(st, init_noising(batch, data, n));
	else
		QD_TRY(st, new_rows(&batch->sample, "sample", data, QD_FIELD_SAMPLE, n));
out:
	if (st != QD_OK)
		qd_batch_release(batch);
	return st;
}

void qd_batch_release(struct qd_batch *batch)
{
	qd_tensor_release(&batch->sample);
	qd_tensor_release(&batch->timestep);
	qd_tensor_release(&batch->context);
	qd_tensor_release(&batch->text_embeds);
	qd_tensor_release(&batch->time_ids);
	qd_tensor_release(&batch->time_cond);
	qd_tensor_release(&batch->target);
	qd_tensor_release(&batch->root_weight);
	free(batch->index);
	free(batch->clean);
	free(batch->noise);
	*batch = (struct qd_batch){ 0 };
}

double qd_loss_weight(const struct qd_noising *noising, int64_t t)
{
	double a = noising->schedule->alphas_cumprod[t], snr = a < 1 ? a / (1 - a) : INFINITY,
	       bounded = fmin(snr, noising->snr_gamma);

	if (noising->snr_gamma <= 0)
		return 1;
	switch (noising->schedule->prediction) {
	case QD_PREDICT_EPSILON:
		return snr > noising->snr_gamma ? bounded / snr : 1;
	case QD_PREDICT_V:
		return bounded / (snr + 1);
	default:
		return bounded;
	}
}

/* Row b of the batch at timestep t: noisy latents into the first channels of the sample, target, weight. */
static void noise_row(struct qd_batch *batch, const struct qd_noising *noising, int64_t b, int64_t t)
{
	int64_t n = qd_shape_elements(&batch->target.shape) / batch->n, row = qd_shape_elements(&batch->sample.shape) / batch->n;
	const float *clean = batch->clean + b * n, *noise = batch->noise + b * n;
	float *sample = (float *)batch->sample.data + b * row, *target = (float *)batch->target.data + b * n;
	struct qd_noise_level level = qd_noise_level_of(noising->schedule->alphas_cumprod[t]);
	float root = (float)sqrt(qd_loss_weight(noising, t));

	qd_noised_f32(level, (size_t)n, clean, noise, sample);
	qd_target_f32(noising->schedule->prediction, level, (size_t)n, clean, noise, target);
	if (root != 1.0f)
		for (int64_t i = 0; i < n; i++)
			target[i] *= root;
	((float *)batch->root_weight.data)[b] = root;
	((float *)batch->timestep.data)[b] = (float)t;
}

/* The condition's channels go behind the latents of every row. */
static enum qd_status fill_condition(struct qd_batch *batch, const struct qd_dataset *data)
{
	int64_t condition = qd_dataset_row(data, QD_FIELD_CONDITION), latents = qd_dataset_row(data, QD_FIELD_LATENTS);
	enum qd_status st = QD_OK;

	for (int64_t b = 0; condition > 0 && st == QD_OK && b < batch->n; b++)
		st = qd_dataset_gather(data, QD_FIELD_CONDITION, &batch->index[b], 1,
			(float *)batch->sample.data + b * (latents + condition) + latents);
	return st;
}

static enum qd_status fill_noisy(
	struct qd_batch *batch, const struct qd_dataset *data, const struct qd_noising *noising, struct qd_random *random)
{
	int64_t T = noising->schedule->train_steps, floats = batch->n * qd_dataset_row(data, QD_FIELD_LATENTS);
	float *timestep = batch->timestep.data;
	enum qd_status st = qd_dataset_gather(data, QD_FIELD_LATENTS, batch->index, batch->n, batch->clean);

	for (int64_t b = 0; b < batch->n; b++)
		timestep[b] = (float)floor(((double)b + qd_random_uniform(random)) * (double)T / (double)batch->n);
	if (st == QD_OK && data->has[QD_FIELD_NOISE])
		st = qd_dataset_gather(data, QD_FIELD_NOISE, batch->index, batch->n, batch->noise);
	else
		for (int64_t i = 0; i < floats; i++)
			batch->noise[i] = (float)qd_random_normal(random);
	for (int64_t b = 0; st == QD_OK && b < batch->n; b++)
		noise_row(batch, noising, b, timestep[b] < (float)T ? (int64_t)timestep[b] : T - 1);
	return st == QD_OK ? fill_condition(batch, data) : st;
}

static enum qd_status fill_stored(struct qd_batch *batch, const struct qd_dataset *data)
{
	enum qd_status st = qd_dataset_gather(data, QD_FIELD_SAMPLE, batch->index, batch->n, batch->sample.data);
	if (st == QD_OK)
		st = qd_dataset_gather(data, QD_FIELD_TIMESTEP, batch->index, batch->n, batch->timestep.data);
	return st;
}

enum qd_status qd_batch_fill_extra(struct qd_batch *batch, const struct qd_dataset *data)
{
	enum qd_status st = QD_OK;

	if (batch->context.data != NULL)
		st = qd_dataset_gather(data, QD_FIELD_CONTEXT, batch->index, batch->n, batch->context.data);
	if (st == QD_OK && batch->text_embeds.data != NULL)
		st = qd_dataset_gather(data, QD_FIELD_TEXT_EMBEDS, batch->index, batch->n, batch->text_embeds.data);
	if (st == QD_OK && batch->time_ids.data != NULL)
		st = qd_dataset_gather(data, QD_FIELD_TIME_IDS, batch->index, batch->n, batch->time_ids.data);
	if (st == QD_OK && batch->time_cond.data != NULL)
		st = qd_dataset_gather(data, QD_FIELD_TIME_COND, batch->index, batch->n, batch->time_cond.data);
	return st;
}

static void drop_prompts(struct qd_batch *batch, double probability, struct qd_random *random)
{
	size_t row = batch->context.bytes / (size_t)batch->n;

	for (int64_t b = 0; b < batch->n; b++)
		if (qd_random_uniform(random) < probability)
			memset((char *)batch->context.data + (size_t)b * row, 0, row);
}

enum qd_status qd_batch_fill(
	struct qd_batch *batch, const struct qd_dataset *data, const struct qd_noising *noising, struct qd_random *random)
{
	enum qd_status st = data->has[QD_FIELD_LATENTS] ? fill_noisy(batch, data, noising, random) : fill_stored(batch, data);

	if (st == QD_OK)
		st = qd_batch_fill_extra(batch, data);
	if (st == QD_OK && batch->context.data != NULL && noising->prompt_dropout > 0)
		drop_prompts(batch, noising->prompt_dropout, random);
	return st;
}

/* ---- learning rates ---- */

const char *const qd_lr_schedule_names[] = { "cosine", "constant", "linear", NULL };

double qd_lr_factor(enum qd_lr_schedule schedule, int64_t step, int64_t steps, int64_t warmup)
{
	double along = steps > warmup ? (double)(step - warmup) / (double)(steps - warmup) : 0;

	if (step < warmup)
		return (double)(step + 1) / (double)warmup;
	switch (schedule) {
	case QD_LR_COSINE:
		return 0.5 * (1 + cos(acos(-1.0) * along));
	case QD_LR_LINEAR:
		return 1 - along;
	default:
		return 1;
	}
}
