/*
 * What a model is told, from a file: one row per sample of `condition`, `encoder_hidden_states` and whatever other input the graph
 * has; a tensor with one row serves all samples.
 *
 * A graph has a fixed batch B. Samples go through it B at a time, the last batch filled up by repeating the last sample.
 *
 * A trace holds, for each step s, step.SSS.sample f32 [N,C,H,W] and step.SSS.timestep f32 [1] as the model was given them, and
 * step.SSS.out f32 [N,Cl,H,W] as it answered (the conditional pass): whatever else runs can then be asked the same questions, so that
 * differences do not add up. Metadata "range", where the model was simulated: what the output's encoding covers.
 */
#include "export/runtime/session.h"

#include <stdlib.h>
#include <string.h>

void qd_session_release(struct qd_session *s)
{
	for (size_t i = 0; s->feeds != NULL && i < s->n_columns + 2; i++)
		qd_tensor_release(&s->feeds[i]);
	for (size_t i = 0; i < s->n_columns; i++)
		qd_tensor_release(&s->columns[i].tensor);
	qd_tensor_release(&s->negative.tensor);
	qd_tensor_release(&s->condition.tensor);
	free(s->feeds);
	free(s->columns);
	free(s->out);
	free(s->traced);
	qd_runtime_release(&s->runtime);
	qd_tensor_set_release(&s->file);
	qd_arena_release(&s->arena);
}

/* ---- the inputs file ---- */

/* How many samples, and the sizes a model folder's graph is built for. */
static enum qd_status measure_inputs(struct qd_session *s, struct qd_sizes *sizes)
{
	static const char *const images[] = { "condition", "noise" };
	const struct qd_sampling_options *o = s->options;
	const struct qd_tensor *text;
	enum qd_status st;
	QD_TRY(st, qd_tensor_set_get(&s->file, "encoder_hidden_states", &text));
	if (text->shape.rank != 3)
		return qd_fail(
			QD_EINPUT, "'%s': tensor 'encoder_hidden_states' has %d dimensions, needs 3", o->inputs, text->shape.rank);
	s->n = text->shape.dim[0];
	*sizes = (struct qd_sizes){ .height = o->height, .width = o->width, .tokens = text->shape.dim[1] };
	for (size_t i = 0; i < QD_COUNT(images); i++) {
		const struct qd_tensor *image = qd_tensor_set_find(&s->file, images[i]);
		if (image == NULL)
			continue;
		if (image->shape.rank != 4)
			return qd_fail(
				QD_EINPUT, "'%s': tensor '%s' has %d dimensions, needs 4", o->inputs, images[i], image->shape.rank);
		s->n = image->shape.dim[0] > s->n ? image->shape.dim[0] : s->n;
		sizes->height = image->shape.dim[2];
		sizes->width = image->shape.dim[3];
	}
	if (sizes->height <= 0 || sizes->width <= 0)
		return qd_fail(
			QD_EINPUT, "'%s' has no 'condition' and no 'noise': give --height and --width of the latents", o->inputs);
	s->n = o->limit > 0 && o->limit < s->n ? o->limit : s->n;
	if (s->n <= 0)
		return qd_fail(QD_EINPUT, "'%s' holds no samples", o->inputs);
	sizes->batch = o->batch > 0 ? o->batch : (s->n < 8 ? s->n : 8);
out:
	return st;
}

/* Reads a tensor of rows [N or 1, shape of `like` without its first dimension] as float32. */
enum qd_status qd_session_rows(const struct qd_session *s, const char *name, const struct qd_shape *like, struct qd_tensor *out)
{
	enum qd_status st;
	const struct qd_tensor *stored;
	struct qd_shape needed = *like;
	char a[QD_SHAPE_TEXT], b[QD_SHAPE_TEXT];
	QD_TRY(st, qd_tensor_set_get(&s->file, name, &stored));
	needed.dim[0] = stored->shape.rank > 0 ? stored->shape.dim[0] : 0;
	if (!qd_shape_equal(&stored->shape, &needed) || (needed.dim[0] != 1 && needed.dim[0] < s->n)) {
		needed.dim[0] = s->n;
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs %s", s->options->inputs, name,
			qd_shape_text(&stored->shape, a), qd_shape_text(&needed, b));
	}
	QD_TRY(st, qd_tensor_check_finite(stored, s->options->inputs));
	QD_TRY(st, qd_tensor_new(out, name, QD_F32, &stored->shape));
	QD_TRY(st, qd_tensor_to_f32(stored, out->data));
out:
	return st;
}

/* Every input of the graph that is neither the sample, the timestep nor a LoRA tensor is a column of the file. */
static enum qd_status read_columns(struct qd_session *s)
{
	const struct qd_graph *g = s->runtime.runner.graph;
	enum qd_status st = QD_OK;
	s->columns = calloc(g->n_inputs + 1, sizeof(*s->columns));
	if (s->columns == NULL)
		return qd_fail(QD_ENOMEM, "cannot hold %zu inputs", g->n_inputs);
	for (size_t i = 0; i < g->n_inputs; i++) {
		const struct qd_value *v = &g->values[g->inputs[i]];
		if (!strcmp(v->name, "sample") || !strcmp(v->name, "timestep") || qd_lora_tensor_of(v->name) != QD_LORA_NONE)
			continue;
		s->columns[s->n_columns].name = v->name;
		QD_TRY(st, qd_session_rows(s, v->name, &v->shape, &s->columns[s->n_columns++].tensor));
		if (!strcmp(v->name, "encoder_hidden_states") && s->options->guidance != 1.0)
			QD_TRY(st, qd_session_rows(s, "negative_hidden_states", &v->shape, &s->negative.tensor));
	}
	if (s->channels > s->latent_channels) {
		struct qd_shape like = QD_SHAPE(s->n, s->channels - s->latent_channels, s->sizes.height, s->sizes.width);
		QD_TRY(st, qd_session_rows(s, "condition", &like, &s->condition.tensor));
	}
out:
	return st;
}

/* The graph's own sizes; they must be those of the file. */
static enum qd_status measure_graph(struct qd_session *s, const struct qd_sizes *wanted)
{
	const struct qd_graph *g = s->runtime.runner.graph;
	qd_id sample = qd_graph_find(g, "sample"), timestep = qd_graph_find(g, "timestep");
	if (sample == QD_NONE || timestep == QD_NONE || g->values[sample].shape.rank != 4)
		return qd_fail(QD_EINPUT, "'%s' is no denoiser: it has no inputs 'sample' [N,C,H,W] and 'timestep' [N]",
			s->options->engine.base);
	const struct qd_shape *x = &g->values[sample].shape, *y = &g->values[g->outputs[0]].shape;
	if (x->dim[2] != wanted->height || x->dim[3] != wanted->width)
		return qd_fail(QD_EINPUT, "'%s' is for latents of %lldx%lld, '%s' has %lldx%lld", s->options->engine.base,
			(long long)x->dim[2], (long long)x->dim[3], s->options->inputs, (long long)wanted->height,
			(long long)wanted->width);
	s->sizes = (struct qd_sizes){ x->dim[0], x->dim[2], x->dim[3], wanted->tokens };
	s->channels = x->dim[1];
	s->latent_channels = y->dim[1];
	if (s->channels < s->latent_channels)
		return qd_fail(QD_EINPUT, "'%s' gives %lld channels from %lld: not a model of latents and a condition",
			s->options->engine.base, (long long)y->dim[1], (long long)x->dim[1]);
	return QD_OK;
}

static enum qd_status allocate_feeds(struct qd_session *s)
{
	const struct qd_graph *g = s->runtime.runner.graph;
	const struct qd_value *sample = &g->values[qd_graph_find(g, "sample")],
			      *timestep = &g->values[qd_graph_find(g, "timestep")];
	enum qd_status st;
	s->feeds = calloc(s->n_columns + 2, sizeof(*s->feeds));
	s->out = malloc((size_t)qd_shape_elements(&g->values[g->outputs[0]].shape) * sizeof(float));
	if (s->feeds == NULL || s->out == NULL)
		return qd_fail(QD_ENOMEM, "cannot hold a batch");
	QD_TRY(st, qd_tensor_new(&s->feeds[0], "sample", QD_F32, &sample->shape));
	QD_TRY(st, qd_tensor_new(&s->feeds[1], "timestep", QD_F32, &timestep->shape));
	for (size_t i = 0; i < s->n_columns; i++) {
		struct qd_shape shape = s->columns[i].tensor.shape;
		shape.dim[0] = s->sizes.batch;
		QD_TRY(st, qd_tensor_new(&s->feeds[i + 2], s->columns[i].name, QD_F32, &shape));
	}
out:
	return st;
}

enum qd_status qd_session_open(struct qd_session *s, const struct qd_sampling_options *options)
{
	enum qd_status st;
	struct qd_runtime_options engine = options->engine;
	s->options = options;
	QD_TRY(st, qd_tensor_set_open(&s->file, options->inputs));
	QD_TRY(st, measure_inputs(s, &engine.sizes));
	QD_TRY(st, qd_runtime_open(&s->runtime, &engine));
	QD_TRY(st, measure_graph(s, &engine.sizes));
	QD_TRY(st, read_columns(s));
	QD_TRY(st, allocate_feeds(s));
	s->count = s->n;
	qd_log(QD_LOG_INFO, "%s: %lld samples, %lld at a time", s->runtime.name, (long long)s->n, (long long)s->sizes.batch);
out:
	return st;
}

/* ---- calls ---- */

/* Rows [first, first + B) of `from` into a feed; rows past the end repeat the last one. */
static void fill_rows(struct qd_tensor *feed, const float *from, int64_t rows, int64_t first)
{
	int64_t batch = feed->shape.dim[0], each = qd_shape_elements(&feed->shape) / batch;
	for (int64_t b = 0; b < batch; b++) {
		int64_t row = first + b < rows ? first + b : rows - 1;
		memcpy((float *)feed->data + b * each, from + row * each, (size_t)each * sizeof(float));
	}
}

static void fill_feeds(struct qd_session *s, const struct qd_denoise_call *call, int64_t first)
{
	float *timestep = s->feeds[1].data;
	fill_rows(&s->feeds[0], call->sample, s->count, first);
	for (int64_t b = 0; b < qd_shape_elements(&s->feeds[1].shape); b++)
		timestep[b] = (float)call->timestep;
	for (size_t i = 0; i < s->n_columns; i++) {
		const struct qd_tensor *from = &s->columns[i].tensor;
		if (!call->conditional && !strcmp(s->columns[i].name, "encoder_hidden_states"))
			from = &s->negative.tensor;
		fill_rows(&s->feeds[i + 2], from->data, from->shape.dim[0] == 1 ? 1 : s->first + s->count, s->first + first);
	}
}

/* One batch: feeds, and the answer to s->out. */
static enum qd_status answer(struct qd_session *s)
{
	struct qd_runner *runner = &s->runtime.runner;
	const struct qd_value *out = &runner->graph->values[runner->graph->outputs[0]];
	enum qd_status st;

	for (size_t i = 0; i < s->n_columns + 2; i++)
		QD_TRY(st, qd_runner_feed(runner, &s->feeds[i]));
	QD_TRY(st, qd_runner_run(runner));
	QD_TRY(st, qd_runner_read(runner, out->name, (size_t)qd_shape_elements(&out->shape), s->out));
out:
	return st;
}

static enum qd_status keep(struct qd_session *s, int step, const char *what, struct qd_shape shape, const float *data)
{
	enum qd_status st = QD_OK;
	size_t bytes = (size_t)qd_shape_elements(&shape) * sizeof(float);
	char *name = qd_arena_strf(&s->arena, "step.%03d.%s", step, what);
	void *copy = qd_arena_alloc(&s->arena, bytes);
	if (name == NULL || copy == NULL)
		return QD_ENOMEM;
	memcpy(copy, data, bytes);
	QD_PUSH(st, s->traced, s->n_traced, s->cap_traced, qd_tensor_view(name, QD_F32, shape, copy));
out:
	return st;
}

static enum qd_status trace_call(struct qd_session *s, const struct qd_denoise_call *call)
{
	enum qd_status st;
	float timestep = (float)call->timestep;
	QD_TRY(st, keep(s, call->step, "sample", QD_SHAPE(s->n, s->channels, s->sizes.height, s->sizes.width), call->sample));
	QD_TRY(st, keep(s, call->step, "timestep", QD_SHAPE(1), &timestep));
	QD_TRY(st, keep(s, call->step, "out", QD_SHAPE(s->n, s->latent_channels, s->sizes.height, s->sizes.width), call->out));
out:
	return st;
}

enum qd_status qd_session_denoise(void *context, const struct qd_denoise_call *call)
{
	struct qd_session *s = context;
	enum qd_status st = QD_OK;
	int64_t each = s->latent_channels * s->sizes.height * s->sizes.width;
	for (int64_t first = 0; first < s->count; first += s->sizes.batch) {
		int64_t rows = s->count - first < s->sizes.batch ? s->count - first : s->sizes.batch;
		fill_feeds(s, call, first);
		QD_TRY(st, answer(s));
		memcpy(call->out + first * each, s->out, (size_t)(rows * each) * sizeof(float));
	}
	if (s->options->trace != NULL && call->conditional)
		QD_TRY(st, trace_call(s, call));
out:
	return st;
}

/* The condition as [N,Cc,H,W]: one row serves all samples. */
enum qd_status qd_session_spread_condition(struct qd_session *s)
{
	enum qd_status st;
	struct qd_tensor *c = &s->condition.tensor, all = { 0 };
	if (c->data == NULL || c->shape.dim[0] >= s->n)
		return QD_OK;
	struct qd_shape shape = c->shape;
	shape.dim[0] = s->n;
	QD_TRY(st, qd_tensor_new(&all, "condition", QD_F32, &shape));
	fill_rows(&all, c->data, 1, 0);
	qd_tensor_release(c);
	*c = all;
out:
	return st;
}

enum qd_status qd_session_noise(const struct qd_session *s, struct qd_tensor *latents)
{
	enum qd_status st;
	struct qd_shape shape = QD_SHAPE(s->n, s->latent_channels, s->sizes.height, s->sizes.width);
	struct qd_tensor noise = { 0 };
	int64_t each = qd_shape_elements(&shape) / s->n;
	QD_TRY(st, qd_tensor_new(latents, "latents", QD_F32, &shape));
	if (qd_tensor_set_find(&s->file, "noise") == NULL) {
		qd_sample_noise(s->options->seed, 0, s->n, each, latents->data);
		return QD_OK;
	}
	QD_TRY(st, qd_session_rows(s, "noise", &shape, &noise));
	for (int64_t i = 0; i < s->n; i++)
		memcpy((float *)latents->data + i * each, (float *)noise.data + (noise.shape.dim[0] == 1 ? 0 : i * each),
			(size_t)each * sizeof(float));
out:
	qd_tensor_release(&noise);
	return st;
}

struct qd_sampling qd_session_sampling(const struct qd_session *s, const struct qd_scheduler *scheduler)
{
	int64_t channels = s->channels - s->latent_channels, row = channels * s->sizes.height * s->sizes.width;
	const float *condition = s->condition.tensor.data;

	return (struct qd_sampling){ .scheduler = scheduler,
		.n = s->count,
		.latent_channels = s->latent_channels,
		.condition_channels = channels,
		.height = s->sizes.height,
		.width = s->sizes.width,
		.condition = condition != NULL ? condition + s->first * row : NULL,
		.guidance = s->options->guidance,
		.seed = s->options->seed };
}
