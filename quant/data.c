/*
 * Calibration files: safetensors whose tensors are named and shaped as the model's inputs, the first dimension counting samples.
 *
 *   sample [N,C,H,W]   timestep [N]   encoder_hidden_states [N,L,D]
 *   text_time models: text_embeds [N,P]   time_ids [N,6]        models with timestep conditioning: timestep_cond [N,K]
 *
 * in float32 or float16 (bfloat16 too; timestep also as an integer). Other tensors are left alone: training files hold more.
 */
#include "quant/internal.h"

#include <stdio.h>
#include <string.h>

/* What a tensor must be: dimensions, -1 where any size will do (the first is checked against the number of samples). */
struct needed {
	const char *name;
	struct qd_shape shape;
	bool integer; /* may be an integer */
};

/* "[N,4,?,?]" */
static const char *needed_text(const struct needed *need, char *buffer, size_t size)
{
	size_t at = (size_t)snprintf(buffer, size, "[N");

	for (int i = 1; i < need->shape.rank; i++)
		at += (size_t)(need->shape.dim[i] < 0 ? snprintf(buffer + at, size - at, ",?")
						      : snprintf(buffer + at, size - at, ",%lld", (long long)need->shape.dim[i]));
	snprintf(buffer + at, size - at, "]");
	return buffer;
}

static bool fits(const struct needed *need, const struct qd_shape *shape)
{
	if (shape->rank != need->shape.rank)
		return false;
	for (int i = 0; i < shape->rank; i++)
		if (shape->dim[i] < 1 || (need->shape.dim[i] >= 0 && shape->dim[i] != need->shape.dim[i]))
			return false;
	return true;
}

static enum qd_status check_tensor(const struct qd_data *data, const struct needed *need, int64_t *n)
{
	char found[QD_SHAPE_TEXT], needs[QD_SHAPE_TEXT];
	const struct qd_tensor *t;
	enum qd_status st = qd_safetensors_get(&data->file, need->name, &t);
	bool is_float;

	if (st != QD_OK)
		return st;
	is_float = t->dtype == QD_F32 || t->dtype == QD_F16 || t->dtype == QD_BF16;
	if (!is_float && !(need->integer && (t->dtype == QD_I64 || t->dtype == QD_I32)))
		return qd_fail(QD_EINPUT, "cannot use '%s': tensor '%s' is %s, needs F32 or F16", data->file.path, need->name,
			qd_dtype_name(t->dtype));
	if (!fits(need, &t->shape))
		return qd_fail(QD_EINPUT, "cannot use '%s': tensor '%s' is %s, needs %s", data->file.path, need->name,
			qd_shape_text(&t->shape, found), needed_text(need, needs, sizeof(needs)));
	if (*n > 0 && t->shape.dim[0] != *n)
		return qd_fail(QD_EINPUT, "cannot use '%s': tensor '%s' has %lld samples, 'sample' has %lld", data->file.path,
			need->name, (long long)t->shape.dim[0], (long long)*n);
	*n = t->shape.dim[0];
	return is_float ? qd_tensor_check_finite(t, data->file.path) : QD_OK;
}

/* The inputs of a model's graph. */
static size_t needs_of(const struct qd_unet_config *c, struct needed *needs)
{
	int64_t context = c->text_proj ? c->encoder_hid_dim : c->cross_dim[0];
	size_t n = 0;

	needs[n++] = (struct needed){ "sample", QD_SHAPE(-1, c->in_channels, -1, -1), false };
	needs[n++] = (struct needed){ "timestep", QD_SHAPE(-1), true };
	needs[n++] = (struct needed){ "encoder_hidden_states", QD_SHAPE(-1, -1, context), false };
	if (c->text_time) {
		int64_t embeds = c->addition_in_dim - c->time_ids * c->addition_time_dim;

		needs[n++] = (struct needed){ "text_embeds", QD_SHAPE(-1, embeds), false };
		needs[n++] = (struct needed){ "time_ids", QD_SHAPE(-1, c->time_ids), false };
	}
	if (c->time_cond_dim > 0)
		needs[n++] = (struct needed){ "timestep_cond", QD_SHAPE(-1, c->time_cond_dim), false };
	return n;
}

enum qd_status qd_data_open(struct qd_data *data, const char *path, const struct qd_model *model)
{
	struct needed needs[6];
	size_t n = needs_of(&model->config, needs);
	enum qd_status st;

	*data = (struct qd_data){ 0 };
	QD_TRY(st, qd_safetensors_open(&data->file, path));
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, check_tensor(data, &needs[i], &data->n));
		data->inputs[data->n_inputs++] = needs[i].name;
	}
out:
	if (st != QD_OK)
		qd_data_release(data);
	return st;
}

void qd_data_release(struct qd_data *data)
{
	qd_safetensors_release(&data->file);
	*data = (struct qd_data){ 0 };
}

enum qd_status qd_data_sizes(const struct qd_data *data, int64_t batch, struct qd_sizes *sizes)
{
	const struct qd_tensor *sample, *context;
	enum qd_status st = qd_safetensors_get(&data->file, "sample", &sample);

	if (st == QD_OK)
		st = qd_safetensors_get(&data->file, "encoder_hidden_states", &context);
	if (st == QD_OK)
		*sizes = (struct qd_sizes){ batch, sample->shape.dim[2], sample->shape.dim[3], context->shape.dim[1] };
	return st;
}

enum qd_status qd_data_batch(const struct qd_data *data, const struct qd_quant_options *options, int64_t *batch)
{
	struct qd_sizes sizes;
	enum qd_status st = qd_data_sizes(data, 1, &sizes);

	if (st != QD_OK)
		return st;
	if (options->batch > 0 && data->n % options->batch != 0)
		return qd_fail(QD_EINPUT, "a batch of %lld does not divide the %lld samples of '%s'", (long long)options->batch,
			(long long)data->n, data->file.path);
	*batch = options->batch;
	if (options->batch > 0)
		return QD_OK;
	for (*batch = data->n < 16 ? data->n : 16; *batch > 1; (*batch)--)
		if (data->n % *batch == 0 && *batch * sizes.height * sizes.width <= 64 * 64)
			break;
	return QD_OK;
}
