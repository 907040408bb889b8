/*
 * Steps of an inference plan: which product a convolution or linear layer is, packing its weights, and calls into the kernels.
 * Where the library has no such product, the step's nodes are computed one after the other by libtorch.
 */
#include "lib/torch/inference.h"
#include "lib/kernel/kernel.h"

#include <stdlib.h>

struct packed {
	struct qd_product *product; /* NULL: the step is none, or the library does not have it */
	bool ready;
};

struct qd_inference {
	const struct qd_graph *g;
	const struct qd_plan *plan;
	struct packed *steps;
	void *scratch; /* for any of them */
};

static struct qd_product_spec conv_spec(const struct qd_graph *g, const struct qd_node *node)
{
	static const int64_t ones[] = { 1, 1 }, zeros[] = { 0, 0, 0, 0 };
	const int64_t *x = g->values[node->in[0]].shape.dim, *w = g->values[node->in[1]].shape.dim,
		      *y = g->values[node->out[0]].shape.dim;
	const struct qd_attr *strides = qd_node_attr(node, "strides"), *pads = qd_node_attr(node, "pads"),
			     *dilations = qd_node_attr(node, "dilations");
	const int64_t *stride = strides ? strides->ints : ones, *pad = pads ? pads->ints : zeros,
		      *dilation = dilations ? dilations->ints : ones;

	return (struct qd_product_spec){ .n = x[0],
		.height = x[2],
		.width = x[3],
		.in = x[1],
		.out = w[0],
		.kernel_h = w[2],
		.kernel_w = w[3],
		.out_height = y[2],
		.out_width = y[3],
		.stride_h = stride[0],
		.stride_w = stride[1],
		.dilation_h = dilation[0],
		.dilation_w = dilation[1],
		.top = pad[0],
		.left = pad[1],
		.bottom = pad[2],
		.right = pad[3] };
}

static struct qd_product_spec spec_of(const struct qd_graph *g, const struct qd_step *step)
{
	const struct qd_node *node = &g->nodes[step->inner];
	const int64_t *x = g->values[node->in[0]].shape.dim, *w = g->values[node->in[1]].shape.dim;
	struct qd_product_spec spec = node->op == QD_OP_CONV ? conv_spec(g, node) : qd_linear_spec(x[0], x[1], w[0]);

	spec.bias = step->in[2] != QD_NONE;
	spec.add = step->in[3] != QD_NONE;
	return spec;
}

static enum qd_status make_product(const struct qd_graph *g, const struct qd_step *step, struct packed *packed)
{
	if (step->kind != QD_STEP_PRODUCT)
		return QD_OK;
	struct qd_product_spec spec = spec_of(g, step);
	enum qd_status st = qd_product_new(&packed->product, &spec);
	return st == QD_EUNSUPPORTED ? QD_OK : st;
}

static enum qd_status make_scratch(struct qd_inference *inference)
{
	size_t most = 0;

	for (size_t s = 0; s < inference->plan->n; s++) {
		const struct qd_product *product = inference->steps[s].product;
		size_t bytes = product ? qd_product_scratch_bytes(product) : 0;
		most = bytes > most ? bytes : most;
	}
	inference->scratch = aligned_alloc(64, (most + 64) / 64 * 64);
	return inference->scratch ? QD_OK : qd_fail(QD_ENOMEM, "out of memory for %zu bytes to work in", most);
}

enum qd_status qd_inference_new(struct qd_inference **out, const struct qd_graph *g, const struct qd_plan *plan)
{
	struct qd_inference *inference = calloc(1, sizeof(*inference));
	enum qd_status st = QD_OK;

	*out = NULL;
	if (inference)
		inference->steps = calloc(plan->n + 1, sizeof(*inference->steps));
	if (!inference || !inference->steps)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu steps", plan->n));
	inference->g = g;
	inference->plan = plan;
	for (size_t s = 0; s < plan->n; s++)
		QD_TRY(st, make_product(g, &plan->steps[s], &inference->steps[s]));
	QD_TRY(st, make_scratch(inference));
	*out = inference;
	inference = NULL;
out:
	qd_inference_free(inference);
	return st;
}

void qd_inference_free(struct qd_inference *inference)
{
	if (!inference)
		return;
	for (size_t s = 0; inference->plan && s < inference->plan->n; s++)
		qd_product_free(inference->steps[s].product);
	free(inference->scratch);
	free(inference->steps);
	free(inference);
}

/* ---- weights ---- */

bool qd_inference_packs(const struct qd_inference *inference, size_t step)
{
	return inference->steps[step].product != NULL;
}

bool qd_inference_is_packed(const struct qd_inference *inference, size_t step)
{
	return inference->steps[step].ready;
}

enum qd_status qd_inference_pack(struct qd_inference *inference, size_t step, const struct qd_tensor *w)
{
	struct packed *packed = &inference->steps[step];
	enum qd_status st = qd_product_pack(packed->product, w);

	packed->ready = st == QD_OK;
	return st;
}

/* ---- steps ---- */

/* The group's product by libtorch. */
static enum qd_status plain_product(
	const struct qd_inference *inference, const struct qd_step *step, const qt_tensor *in, qt_tensor *out)
{
	const struct qd_node *node = &inference->g->nodes[step->inner];
	const struct qd_lower lower = { inference->g, node, in, out };

	return qd_lowerings[node->op](&lower);
}

static enum qd_status product(struct qd_inference *inference, size_t s, const qt_tensor *in, qt_tensor *out)
{
	const struct qd_step *step = &inference->plan->steps[s];
	const struct qd_node *node = &inference->g->nodes[step->node];
	qt_tensor alone = NULL;
	enum qd_status st;

	if (qd_inference_packs(inference, s))
		return qt_product(inference->steps[s].product, &inference->g->values[node->out[0]].shape, in[0], in[2], in[3],
			inference->scratch, out);
	QD_TRY(st, plain_product(inference, step, in, in[3] ? &alone : out));
	if (in[3])
		QD_TRY(st, qt_binary(QT_ADD, alone, in[3], out));
out:
	qt_free(alone);
	return st;
}

enum qd_status qd_inference_run(struct qd_inference *inference, size_t s, const qt_tensor *in, qt_tensor *out)
{
	const struct qd_step *step = &inference->plan->steps[s];
	const struct qd_node *node = &inference->g->nodes[step->inner];
	double eps = (double)qd_node_float(node, "epsilon", 1e-5f);

	switch (step->kind) {
	case QD_STEP_PRODUCT:
		return product(inference, s, in, out);
	case QD_STEP_GATED_GELU:
		return qt_gated_gelu(in[0], out);
	case QD_STEP_GROUP_NORM:
		return qt_image_norm(in[0], qd_node_int(node, "num_groups", 0), in[1], in[2], in[3], eps, step->silu, out);
	case QD_STEP_LAYER_NORM:
		return qt_row_norm(in[0], in[1], in[2], eps, out);
	default:
		return qt_image_concat(step->n_in, in, out);
	}
}
