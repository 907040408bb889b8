/*
 * Opening an ONNX file of a UNet and building its graph: see internal.h.
 */
#include "lib/model/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_INPUTS = 16, OPEN_SIDE = 64, OPEN_TOKENS = 77 };

struct qd_onnx_unet {
	struct qd_onnx_file *file;
	struct qd_onnx_input inputs[MOST_INPUTS];
	size_t n_inputs;
	struct qd_transposed transposed;
	struct qd_graph first; /* the graph it was opened with: the model's weights point into it */
	bool told;             /* that the graph is not the one of its configuration */
};

/* ---- inputs and sizes ---- */

static const struct qd_onnx_input *find_input(const struct qd_onnx_input *inputs, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(inputs[i].name, name))
			return &inputs[i];
	return NULL;
}

static bool has_lora(const struct qd_onnx_input *inputs, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (qd_lora_tensor_of(inputs[i].name) != QD_LORA_NONE)
			return true;
	return false;
}

bool qd_onnx_is_unet(const struct qd_onnx_file *file)
{
	struct qd_onnx_input inputs[MOST_INPUTS];
	size_t n;
	if (qd_onnx_inputs(file, inputs, MOST_INPUTS, &n) != QD_OK || has_lora(inputs, n))
		return false;
	return find_input(inputs, n, "sample") && find_input(inputs, n, "timestep") &&
	       find_input(inputs, n, "encoder_hidden_states") && qd_onnx_has_constant(file, "conv_in.weight");
}

static enum qd_status check_inputs(const struct qd_onnx_unet *u)
{
	static const struct {
		const char *name;
		int rank;
	} needed[] = { { "sample", 4 }, { "timestep", -1 }, { "encoder_hidden_states", 3 } };
	if (has_lora(u->inputs, u->n_inputs))
		return qd_fail(QD_EINPUT, "has LoRA inputs: it is an export, not a base model");
	for (size_t i = 0; i < QD_COUNT(needed); i++) {
		const struct qd_onnx_input *input = find_input(u->inputs, u->n_inputs, needed[i].name);
		if (input == NULL)
			return qd_fail(QD_EINPUT,
				"has no input '%s', needs those of a UNet: sample, timestep, encoder_hidden_states",
				needed[i].name);
		if (needed[i].rank >= 0 && input->shape.rank != needed[i].rank)
			return qd_fail(QD_EINPUT, "input '%s' has %d dimensions, needs %d", input->name, input->shape.rank,
				needed[i].rank);
	}
	return QD_OK;
}

struct qd_sizes qd_onnx_unet_sizes(const struct qd_onnx_unet *u)
{
	const struct qd_shape *sample = &find_input(u->inputs, u->n_inputs, "sample")->shape;
	const struct qd_shape *text = &find_input(u->inputs, u->n_inputs, "encoder_hidden_states")->shape;
	return (struct qd_sizes){ sample->dim[0], sample->dim[2], sample->dim[3], text->dim[1] };
}

/* The shape of an input for given sizes, -1 where they do not tell. Every input counts samples first, but one single timestep. */
static struct qd_shape shape_for(const struct qd_onnx_input *input, const struct qd_sizes *sizes)
{
	struct qd_shape shape = { .rank = input->shape.rank };
	for (int i = 0; i < shape.rank; i++)
		shape.dim[i] = -1;
	if (shape.rank > 0 && (strcmp(input->name, "timestep") != 0 || input->shape.dim[0] != 1))
		shape.dim[0] = sizes->batch;
	if (!strcmp(input->name, "sample")) {
		shape.dim[2] = sizes->height;
		shape.dim[3] = sizes->width;
	} else if (!strcmp(input->name, "encoder_hidden_states")) {
		shape.dim[1] = sizes->tokens;
	}
	return shape;
}

/* ---- graphs ---- */

/* The file's own graph for `sizes`, recognized, with its ends and its names. */
static enum qd_status own_graph(struct qd_graph *g, struct qd_onnx_unet *u, const struct qd_sizes *sizes)
{
	enum qd_status st;
	size_t changes = 0, n = 0;
	struct qd_tensor given[MOST_INPUTS];
	for (size_t i = 0; i < u->n_inputs; i++)
		if (u->inputs[i].shape.rank >= 0)
			given[n++] = (struct qd_tensor){ .name = u->inputs[i].name, .shape = shape_for(&u->inputs[i], sizes) };
	QD_TRY(st, qd_onnx_graph(g, u->file, given, n));
	QD_TRY(st, qd_graph_recognize(g, &u->transposed, NULL));
	QD_TRY(st, qd_onnx_unet_ends(g, sizes->batch));
	QD_TRY(st, qd_pass_no_ops.run(g, NULL, &changes));
	QD_TRY(st, qd_pass_dead_code.run(g, NULL, &changes));
	QD_TRY(st, qd_onnx_name_weights(g));
	QD_TRY(st, qd_graph_verify(g));
out:
	return st;
}

/* Keeps what does not match as a note: the file's own graph is as good, but its values have other names. */
static void tell(struct qd_onnx_unet *u, const struct qd_graph *g)
{
	if (!u->told)
		qd_log(QD_LOG_INFO, "'%s' is not the UNet that its weights' names tell of (%s): its own graph is used", g->name,
			qd_message());
	u->told = true;
}

enum qd_status qd_onnx_unet_graph(struct qd_graph *g, struct qd_onnx_unet *u, const struct qd_unet_config *config,
	const struct qd_weights *weights, const struct qd_sizes *sizes)
{
	enum qd_status st;
	struct qd_graph own = { 0 };
	*g = (struct qd_graph){ 0 };
	QD_TRY(st, own_graph(&own, u, sizes));
	st = qd_unet_graph(g, config, weights, sizes);
	if (st == QD_OK)
		st = qd_graph_match(&own, g);
	if (st == QD_ENOMEM)
		goto out;
	if (st != QD_OK) {
		st = QD_OK;
		tell(u, &own);
		qd_graph_release(g);
		*g = own;
		own = (struct qd_graph){ 0 };
	}
out:
	qd_graph_release(&own);
	return st;
}

/* ---- opening ---- */

/* Every weight of a layer under its name: the value's data. */
static enum qd_status list_weights(struct qd_weights *weights, const struct qd_graph *g)
{
	enum qd_status st = QD_OK;
	struct qd_tensor *tensors = qd_arena_array(&weights->arena, g->n_values, sizeof(*tensors));
	if (tensors == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < g->n_values; i++) {
		const struct qd_value *v = &g->values[i];
		if (v->dead || v->kind != QD_WEIGHT || !(qd_ends_with(v->name, ".weight") || qd_ends_with(v->name, ".bias")))
			continue;
		struct qd_tensor *tensor = &tensors[weights->n];
		*tensor = v->data;
		tensor->name = qd_arena_strdup(&weights->arena, v->name);
		if (tensor->name == NULL)
			QD_TRY(st, QD_ENOMEM);
		QD_TRY(st, qd_strmap_put(&weights->by_name, tensor->name, (uint32_t)weights->n));
		QD_PUSH(st, weights->tensors, weights->n, weights->cap, tensor);
	}
out:
	return st;
}

static enum qd_status open_unet(struct qd_onnx_unet *u, struct qd_unet_config *config, struct qd_weights *weights, const char *path)
{
	enum qd_status st;
	QD_TRY(st, qd_onnx_inputs(u->file, u->inputs, MOST_INPUTS, &u->n_inputs));
	QD_TRY(st, check_inputs(u));
	struct qd_sizes sizes = qd_onnx_unet_sizes(u);
	int64_t height = sizes.height, width = sizes.width;
	sizes.batch = sizes.batch < 0 ? 1 : sizes.batch;
	sizes.height = height < 0 ? OPEN_SIDE : height;
	sizes.width = width < 0 ? OPEN_SIDE : width;
	sizes.tokens = sizes.tokens < 0 ? OPEN_TOKENS : sizes.tokens;
	QD_TRY(st, own_graph(&u->first, u, &sizes));
	QD_TRY(st, qd_onnx_unet_config(config, &u->first));
	config->sample_size = height > 0 && height == width ? height : 0;
	weights->path = qd_arena_strdup(&weights->arena, path);
	if (weights->path == NULL)
		QD_TRY(st, QD_ENOMEM);
	QD_TRY(st, list_weights(weights, &u->first));
out:
	return qd_prefix(st, "'%s'", path);
}

enum qd_status qd_onnx_unet_open(
	struct qd_onnx_unet **out, struct qd_unet_config *config, struct qd_weights *weights, const char *path)
{
	enum qd_status st;
	struct qd_onnx_unet *u = calloc(1, sizeof(*u));
	*out = NULL;
	*weights = (struct qd_weights){ 0 };
	if (u == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, qd_onnx_load(&u->file, path));
	QD_TRY(st, open_unet(u, config, weights, path));
	*out = u;
	u = NULL;
out:
	qd_onnx_unet_free(u);
	if (st != QD_OK)
		qd_weights_release(weights);
	return st;
}

void qd_onnx_unet_free(struct qd_onnx_unet *u)
{
	if (u == NULL)
		return;
	qd_graph_release(&u->first);
	qd_transposed_release(&u->transposed);
	qd_onnx_free(u->file);
	free(u);
}
