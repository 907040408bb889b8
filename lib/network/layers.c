/*
 * Layers with their weights: see layers.h.
 */
#include "lib/network/layers.h"

#include <math.h>

/* ---- names, sizes, weights ---- */

const char *qd_layers_path(struct qd_layers *l, const char *fmt, ...)
{
	char text[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	const char *kept = qd_arena_strdup(&l->g->arena, text);
	if (kept == NULL)
		qd_graph_stop(l->g, QD_ENOMEM);
	return kept != NULL ? kept : "";
}

int64_t qd_layers_dim(const struct qd_layers *l, qd_id value, int axis)
{
	return value == QD_NONE ? 1 : l->g->values[value].shape.dim[axis];
}

qd_id qd_layers_scalar(struct qd_layers *l, const char *name, double value)
{
	float f = (float)value;
	return qd_graph_const_f32(l->g, name, (struct qd_shape){ 0 }, &f);
}

/* [O,I] and [O,I,1,1] hold the same bytes. */
static bool same_layout(const struct qd_shape *a, const struct qd_shape *b)
{
	if (qd_shape_equal(a, b))
		return true;
	const struct qd_shape *matrix = a->rank == 2 ? a : b, *kernel = a->rank == 2 ? b : a;
	return matrix->rank == 2 && kernel->rank == 4 && kernel->dim[2] == 1 && kernel->dim[3] == 1 &&
	       matrix->dim[0] == kernel->dim[0] && matrix->dim[1] == kernel->dim[1];
}

/* The stored tensor as `shape`, checked. */
static enum qd_status stored_weight(
	const struct qd_layers *l, const char *name, const struct qd_shape *shape, struct qd_tensor *out)
{
	char found[QD_SHAPE_TEXT], need[QD_SHAPE_TEXT];
	const struct qd_tensor *tensor = l->find != NULL ? l->find(l->weights, name) : qd_weights_find(l->weights, name);
	if (tensor == NULL)
		return qd_fail(
			QD_EINPUT, "'%s' has no tensor '%s', needs one of %s", l->weights->path, name, qd_shape_text(shape, need));
	if (!same_layout(&tensor->shape, shape))
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs %s", l->weights->path, tensor->name,
			qd_shape_text(&tensor->shape, found), qd_shape_text(shape, need));
	if (tensor->dtype != QD_F32 && tensor->dtype != QD_F16 && tensor->dtype != QD_BF16 && tensor->dtype != QD_F64)
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs F32, F16, BF16 or F64", l->weights->path, tensor->name,
			qd_dtype_name(tensor->dtype));
	*out = qd_tensor_view(name, tensor->dtype, *shape, tensor->data);
	return QD_OK;
}

qd_id qd_layers_weight(struct qd_layers *l, const char *path, const char *leaf, struct qd_shape shape)
{
	struct qd_tensor tensor = { .dtype = QD_F32, .shape = shape };
	if (l->g->status != QD_OK)
		return QD_NONE;
	const char *name = qd_layers_path(l, "%s.%s", path, leaf);
	if (l->weights != NULL) {
		enum qd_status st = stored_weight(l, name, &shape, &tensor);
		if (st != QD_OK)
			return qd_graph_stop(l->g, st);
	}
	return qd_graph_weight(l->g, name, &tensor);
}

/* ---- layers ---- */

qd_id qd_layers_conv_padded(struct qd_layers *l, const char *path, qd_id x, int64_t out, int64_t kernel, int64_t stride,
	const int64_t pads[4], bool bias)
{
	qd_id w = qd_layers_weight(l, path, "weight", QD_SHAPE(out, qd_layers_dim(l, x, 1), kernel, kernel));
	qd_id b = bias ? qd_layers_weight(l, path, "bias", QD_SHAPE(out)) : QD_NONE;
	return qd_build_conv(l->g, path, x, w, b, stride, pads);
}

qd_id qd_layers_conv(struct qd_layers *l, const char *path, qd_id x, int64_t out, int64_t kernel, int64_t stride)
{
	int64_t pad = (kernel - 1) / 2;
	return qd_layers_conv_padded(l, path, x, out, kernel, stride, (int64_t[]){ pad, pad, pad, pad }, true);
}

qd_id qd_layers_linear(struct qd_layers *l, const char *path, qd_id x, int64_t out, bool bias)
{
	qd_id w = qd_layers_weight(l, path, "weight", QD_SHAPE(out, qd_layers_dim(l, x, 1)));
	qd_id b = bias ? qd_layers_weight(l, path, "bias", QD_SHAPE(out)) : QD_NONE;
	return qd_build_linear(l->g, path, x, w, b);
}

qd_id qd_layers_group_norm(struct qd_layers *l, const char *path, qd_id x, double eps)
{
	struct qd_shape shape = QD_SHAPE(qd_layers_dim(l, x, 1));
	qd_id scale = qd_layers_weight(l, path, "weight", shape), bias = qd_layers_weight(l, path, "bias", shape);
	return qd_build_group_norm(l->g, path, x, scale, bias, l->groups, (float)eps);
}

qd_id qd_layers_layer_norm(struct qd_layers *l, const char *path, qd_id x, double eps)
{
	struct qd_shape shape = QD_SHAPE(qd_layers_dim(l, x, 1));
	qd_id scale = qd_layers_weight(l, path, "weight", shape), bias = qd_layers_weight(l, path, "bias", shape);
	return qd_build_layer_norm(l->g, path, x, scale, bias, (float)eps);
}

qd_id qd_layers_act(struct qd_layers *l, const char *name, qd_id x)
{
	return l->act == QD_OP_SIGMOID ? qd_build_silu(l->g, name, x) : qd_build_unary(l->g, l->act, name, x);
}

/* ---- tokens and attention ---- */

qd_id qd_layers_tokens(struct qd_layers *l, const char *path, qd_id x)
{
	int64_t channels = qd_layers_dim(l, x, 1), rows = l->batch * qd_layers_dim(l, x, 2) * qd_layers_dim(l, x, 3);
	x = qd_build_transpose(l->g, qd_layers_path(l, "%s.channels_last", path), x, 4, (int64_t[]){ 0, 2, 3, 1 });
	return qd_build_reshape(l->g, qd_layers_path(l, "%s.tokens", path), x, 2, (int64_t[]){ rows, channels });
}

qd_id qd_layers_pixels(struct qd_layers *l, const char *path, qd_id tokens, int64_t height, int64_t width)
{
	int64_t dims[] = { l->batch, height, width, qd_layers_dim(l, tokens, 1) };
	qd_id x = qd_build_reshape(l->g, qd_layers_path(l, "%s.pixels", path), tokens, 4, dims);
	return qd_build_transpose(l->g, qd_layers_path(l, "%s.channels_first", path), x, 4, (int64_t[]){ 0, 3, 1, 2 });
}

/* [N*L, C] -> [N, heads, L, C/heads]. */
static qd_id split_heads(struct qd_layers *l, qd_id x, int64_t heads)
{
	const char *name = x == QD_NONE ? "" : l->g->values[x].name;
	int64_t length = qd_layers_dim(l, x, 0) / l->batch, size = qd_layers_dim(l, x, 1) / heads;
	x = qd_build_reshape(l->g, qd_layers_path(l, "%s.split", name), x, 4, (int64_t[]){ l->batch, length, heads, size });
	return qd_build_transpose(l->g, qd_layers_path(l, "%s.heads", name), x, 4, (int64_t[]){ 0, 2, 1, 3 });
}

qd_id qd_layers_attention(struct qd_layers *l, const char *path, qd_id q, qd_id k, qd_id v, qd_id mask, int64_t heads)
{
	int64_t rows = qd_layers_dim(l, q, 0), channels = qd_layers_dim(l, q, 1);
	float scale = (float)(1 / sqrt((double)channels / (double)heads));
	q = split_heads(l, q, heads);
	k = split_heads(l, k, heads);
	v = split_heads(l, v, heads);
	qd_id y = qd_build_attention(l->g, qd_layers_path(l, "%s.attention", path), q, k, v, mask, scale);
	y = qd_build_transpose(l->g, qd_layers_path(l, "%s.attention.pixels", path), y, 4, (int64_t[]){ 0, 2, 1, 3 });
	return qd_build_reshape(l->g, qd_layers_path(l, "%s.attention.tokens", path), y, 2, (int64_t[]){ rows, channels });
}
