/*
 * States that a model passes when it samples. A trajectory starts from its own noise, is told what its row of the data says, and
 * runs with its adapter as far as the last step that is wanted of it; a step that is wanted gives a sample: the scaled latents with
 * the condition, as the UNet was given them, and the timestep.
 */
#include "lib/data/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct walker {
	const struct qd_prepare_walks *walks;
	struct qd_slots slots;
	struct qd_net net;
	struct qd_runner runner; /* zeroed until it is needed */
	size_t latent, sample;   /* elements */
	float *condition, *context, *negative;
	struct qd_tensor samples, timesteps; /* of the longest: [n,C,h,w], [n] */
};

/* ---- inputs ---- */

/* What a row tells: the first two by hand, the others as inputs of their names. */
static const enum qd_data_field told[] = { QD_FIELD_CONTEXT, QD_FIELD_CONDITION, QD_FIELD_TEXT_EMBEDS, QD_FIELD_TIME_IDS,
	QD_FIELD_TIME_COND };

static enum qd_status feed_data(struct walker *w, const char *name, struct qd_shape shape, const float *data)
{
	struct qd_tensor view = qd_tensor_view(name, QD_F32, shape, data);
	return qd_runner_feed(&w->runner, &view);
}

/* A field of a row with a first dimension of 1. */
static enum qd_status feed_row(struct walker *w, enum qd_data_field field, int64_t row)
{
	const struct qd_prepare_source *source = w->walks->source;
	const struct qd_shape *shape = &source->shape[field];
	struct qd_shape one = { .rank = shape->rank + 1, .dim = { 1 } };
	float *values = malloc((size_t)qd_shape_elements(shape) * sizeof(*values));
	enum qd_status st = QD_OK;

	if (values == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	memcpy(one.dim + 1, shape->dim, (size_t)shape->rank * sizeof(*shape->dim));
	QD_TRY(st, qd_prepare_row(source, field, row, values));
	st = feed_data(w, qd_data_field_name(field), one, values);
out:
	free(values);
	return st;
}

static enum qd_status begin_row(struct walker *w, int64_t row)
{
	const struct qd_prepare_source *source = w->walks->source;
	enum qd_status st;

	QD_TRY(st, qd_prepare_row(source, QD_FIELD_CONTEXT, row, w->context));
	if (w->condition != NULL)
		QD_TRY(st, qd_prepare_row(source, QD_FIELD_CONDITION, row, w->condition));
	for (size_t i = 2; i < QD_COUNT(told); i++)
		if (source->has[told[i]] && qd_data_field_needed(&w->walks->model->config, told[i]).rank >= 0)
			QD_TRY(st, feed_row(w, told[i], row));
out:
	return st;
}

/* The pooled vector of one pass: the row's, or that of no text. */
static enum qd_status feed_pooled(struct walker *w, int64_t row, bool conditional)
{
	const struct qd_prepare_source *source = w->walks->source;
	struct qd_shape shape = source->shape[QD_FIELD_TEXT_EMBEDS];
	size_t n = (size_t)qd_shape_elements(&shape);
	float *values;
	enum qd_status st = QD_OK;

	if (conditional)
		return feed_row(w, QD_FIELD_TEXT_EMBEDS, row);
	values = calloc(n, sizeof(*values));
	if (values == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	if (w->walks->negative >= 0)
		QD_TRY(st, qd_prepare_store_get(source->store, "text", w->walks->negative, "text_embeds", n, values));
	st = feed_data(w, "text_embeds", QD_SHAPE(1, (int64_t)n), values);
out:
	free(values);
	return st;
}

/* What a trajectory is told and which of its states are kept, as a hash; what shapes all of them is the run's. */
static enum qd_status hash_walk(struct walker *w, int64_t j, char *of)
{
	const struct qd_prepare_walks *walks = w->walks;
	const struct qd_prepare_trajectory *t = &walks->spread->trajectories[j];
	const struct qd_prepare_source *source = walks->source;
	char hash[QD_HASH_TEXT];
	float *values = NULL;
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	qd_hash_bytes(walks->spread->step + t->first, (size_t)t->n * sizeof(*walks->spread->step), hash);
	fprintf(text.stream, "adapter %zu steps %s", t->adapter, hash);
	for (size_t i = 0; i < QD_COUNT(told); i++) {
		if (!source->has[told[i]])
			continue;
		size_t n = (size_t)qd_shape_elements(&source->shape[told[i]]);
		free(values);
		values = malloc(n * sizeof(*values));
		if (values == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
		QD_TRY(st, qd_prepare_row(source, told[i], t->row, values));
		qd_hash_bytes(values, n * sizeof(*values), hash);
		fprintf(text.stream, " %s", hash);
	}
	QD_TRY(st, qd_text_end(&text));
	qd_hash_bytes(text.bytes, text.n, of);
out:
	qd_text_release(&text);
	free(values);
	return st;
}

/* ---- the model ---- */

struct pass {
	struct walker *walker;
	const struct qd_prepare_trajectory *trajectory;
	int64_t kept; /* samples so far */
};

static enum qd_status denoise(void *context, const struct qd_denoise_call *call)
{
	struct pass *pass = context;
	struct walker *w = pass->walker;
	const struct qd_prepare_trajectory *t = pass->trajectory;
	const struct qd_shape *text = &w->walks->source->shape[QD_FIELD_CONTEXT];
	struct qd_shape sample = w->samples.shape;
	float timestep = (float)call->timestep;
	enum qd_status st;

	sample.dim[0] = 1;
	if (call->conditional && w->walks->spread->step[t->first + pass->kept] == call->step) {
		memcpy((float *)w->samples.data + (size_t)pass->kept * w->sample, call->sample, w->sample * sizeof(float));
		((float *)w->timesteps.data)[pass->kept++] = timestep;
	}
	QD_TRY(st, feed_data(w, "sample", sample, call->sample));
	QD_TRY(st, feed_data(w, "timestep", QD_SHAPE(1), &timestep));
	QD_TRY(st, feed_data(w, "encoder_hidden_states", QD_SHAPE(1, text->dim[0], text->dim[1]),
			   call->conditional ? w->context : w->negative));
	if (w->walks->options->guidance != 1 && w->walks->source->has[QD_FIELD_TEXT_EMBEDS])
		QD_TRY(st, feed_pooled(w, t->row, call->conditional));
	QD_TRY(st, qd_runner_run(&w->runner));
	st = qd_runner_read(&w->runner, "out", w->latent, call->out);
out:
	return st;
}

static enum qd_status walk_one(struct walker *w, int64_t j, const char *of, const struct qd_prepare_store *store)
{
	const struct qd_prepare_walks *walks = w->walks;
	const struct qd_prepare_trajectory *t = &walks->spread->trajectories[j];
	struct qd_shape shape = w->samples.shape;
	struct pass pass = { .walker = w, .trajectory = t };
	int64_t latents = walks->model->config.out_channels;
	struct qd_sampling sampling = { .scheduler = walks->scheduler,
		.steps = walks->spread->step[t->first + t->n - 1] + 1,
		.n = 1,
		.latent_channels = latents,
		.condition_channels = shape.dim[1] - latents,
		.height = shape.dim[2],
		.width = shape.dim[3],
		.condition = w->condition,
		.quiet = true,
		.guidance = walks->options->guidance,
		.seed = walks->options->seed + (uint64_t)j };
	struct qd_tensor parts[2];
	float *x = malloc(w->latent * sizeof(*x));
	enum qd_status st = QD_OK;

	if (x == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	if (walks->n_adapters > 0)
		QD_TRY(st, qd_runner_feed_adapter(&w->runner, &w->net.slots, walks->adapters[t->adapter]));
	QD_TRY(st, begin_row(w, t->row));
	qd_random_normals(walks->options->seed, qd_stream(QD_STREAM_WALK, (uint64_t)j), w->latent, x);
	QD_TRY(st, qd_sample(&sampling, denoise, &pass, x));
	shape.dim[0] = t->n;
	parts[0] = qd_tensor_view("sample", QD_F32, shape, w->samples.data);
	parts[1] = qd_tensor_view("timestep", QD_F32, QD_SHAPE(t->n), w->timesteps.data);
	st = qd_prepare_store_put(store, "walk", j, of, parts, 2);
out:
	free(x);
	return qd_prefix(st, "trajectory %lld", (long long)j);
}

/* ---- preparing ---- */

static enum qd_status build_walker(struct walker *w)
{
	const struct qd_prepare_walks *walks = w->walks;
	const struct qd_shape *sample = &walks->source->shape[QD_FIELD_SAMPLE], *text = &walks->source->shape[QD_FIELD_CONTEXT];
	struct qd_sizes sizes = { .batch = 1, .height = sample->dim[1], .width = sample->dim[2], .tokens = text->dim[0] };
	enum qd_status st = QD_OK;

	if (walks->n_adapters > 0)
		QD_TRY(st, qd_slots_choose(&w->slots, walks->modules, walks->adapters, walks->n_adapters, NULL, 0));
	QD_TRY(st, qd_net_build(&w->net, walks->model, &sizes, &w->slots));
	st = qd_runner_open(&w->runner, &w->net.graph, NULL);
out:
	return st;
}

static enum qd_status allocate_walker(struct walker *w)
{
	const struct qd_prepare_walks *walks = w->walks;
	struct qd_shape shape = walks->source->shape[QD_FIELD_SAMPLE];
	int64_t latents = walks->model->config.out_channels, longest = walks->spread->trajectories[0].n;
	size_t plane = (size_t)(shape.dim[1] * shape.dim[2]),
	       text = (size_t)qd_shape_elements(&walks->source->shape[QD_FIELD_CONTEXT]);
	enum qd_status st = QD_OK;

	w->latent = (size_t)latents * plane;
	w->sample = (size_t)shape.dim[0] * plane;
	w->context = malloc(text * sizeof(float));
	w->negative = calloc(text, sizeof(float));
	if (w->sample > w->latent)
		w->condition = malloc((w->sample - w->latent) * sizeof(float));
	if (w->context == NULL || w->negative == NULL || (w->sample > w->latent && w->condition == NULL))
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	if (walks->negative >= 0)
		QD_TRY(st, qd_prepare_store_get(
				   walks->source->store, "text", walks->negative, "encoder_hidden_states", text, w->negative));
	QD_TRY(st, qd_tensor_new(&w->samples, "sample", QD_F32, &QD_SHAPE(longest, shape.dim[0], shape.dim[1], shape.dim[2])));
	st = qd_tensor_new(&w->timesteps, "timestep", QD_F32, &QD_SHAPE(longest));
out:
	return st;
}

static void walker_release(struct walker *w)
{
	qd_runner_release(&w->runner);
	qd_net_release(&w->net);
	qd_slots_release(&w->slots);
	qd_tensor_release(&w->samples);
	qd_tensor_release(&w->timesteps);
	free(w->condition);
	free(w->context);
	free(w->negative);
}

enum qd_status qd_prepare_walk(const struct qd_prepare_walks *walks, struct qd_prepare_store *store)
{
	struct walker w = { .walks = walks };
	int64_t n = walks->spread->n_trajectories;
	char of[QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, allocate_walker(&w));
	for (int64_t j = 0; j < n; j++) {
		qd_progress("trajectories", (uint64_t)j, (uint64_t)n, NULL);
		QD_TRY(st, hash_walk(&w, j, of));
		if (qd_prepare_store_has(store, "walk", j, of))
			continue;
		if (w.runner.graph == NULL)
			QD_TRY(st, build_walker(&w));
		QD_TRY(st, walk_one(&w, j, of, store));
	}
	qd_progress("trajectories", (uint64_t)n, (uint64_t)n, NULL);
out:
	walker_release(&w);
	return st;
}
