/*
 * Short builders for what networks are made of: each writes the ONNX nodes of one layer, with the layer's path as name. Constant
 * operands that ONNX wants as inputs (shapes, axes, sizes) become values "<name>.shape" and so on.
 */
#include "lib/ir/ir.h"

/* "<name><suffix>" in the arena; NULL, with the graph stopped, when there is no memory. */
static const char *join(struct qd_graph *g, const char *name, const char *suffix)
{
	const char *joined = g->status == QD_OK ? qd_arena_strf(&g->arena, "%s%s", name, suffix) : NULL;
	if (joined == NULL)
		qd_graph_stop(g, QD_ENOMEM);
	return joined;
}

/* A list of integers as constant "<name><suffix>". */
static qd_id ints(struct qd_graph *g, const char *name, const char *suffix, size_t n, const int64_t *values)
{
	return qd_graph_const_i64(g, join(g, name, suffix), n, values);
}

qd_id qd_build_conv(struct qd_graph *g, const char *name, qd_id x, qd_id w, qd_id b, int64_t stride, const int64_t pads[4])
{
	struct qd_attr attrs[] = { { .name = "pads", .type = QD_ATTR_INTS, .ints = pads, .n_ints = 4 },
		QD_AIS("strides", stride, stride) };
	return qd_graph_node(g, QD_OP_CONV, name, b == QD_NONE ? 2 : 3, (qd_id[]){ x, w, b }, QD_COUNT(attrs), attrs);
}

qd_id qd_build_linear(struct qd_graph *g, const char *name, qd_id x, qd_id w, qd_id b)
{
	return qd_graph_node(
		g, QD_OP_GEMM, name, b == QD_NONE ? 2 : 3, (qd_id[]){ x, w, b }, 1, (struct qd_attr[]){ QD_AI("transB", 1) });
}

qd_id qd_build_group_norm(struct qd_graph *g, const char *name, qd_id x, qd_id scale, qd_id bias, int64_t groups, float eps)
{
	struct qd_attr attrs[] = { QD_AF("epsilon", eps), QD_AI("num_groups", groups) };
	return qd_graph_node(g, QD_OP_GROUP_NORM, name, 3, (qd_id[]){ x, scale, bias }, QD_COUNT(attrs), attrs);
}

qd_id qd_build_layer_norm(struct qd_graph *g, const char *name, qd_id x, qd_id scale, qd_id bias, float eps)
{
	struct qd_attr attrs[] = { QD_AI("axis", -1), QD_AF("epsilon", eps) };
	return qd_graph_node(
		g, QD_OP_LAYER_NORM, name, bias == QD_NONE ? 2 : 3, (qd_id[]){ x, scale, bias }, QD_COUNT(attrs), attrs);
}

qd_id qd_build_unary(struct qd_graph *g, enum qd_op op, const char *name, qd_id x)
{
	return qd_graph_node(g, op, name, 1, &x, 0, NULL);
}

qd_id qd_build_binary(struct qd_graph *g, enum qd_op op, const char *name, qd_id a, qd_id b)
{
	return qd_graph_node(g, op, name, 2, (qd_id[]){ a, b }, 0, NULL);
}

qd_id qd_build_silu(struct qd_graph *g, const char *name, qd_id x)
{
	return qd_build_binary(g, QD_OP_MUL, name, x, qd_build_unary(g, QD_OP_SIGMOID, join(g, name, ".sigmoid"), x));
}

qd_id qd_build_reshape(struct qd_graph *g, const char *name, qd_id x, size_t n, const int64_t *dims)
{
	return qd_build_binary(g, QD_OP_RESHAPE, name, x, ints(g, name, ".shape", n, dims));
}

qd_id qd_build_transpose(struct qd_graph *g, const char *name, qd_id x, size_t n, const int64_t *perm)
{
	struct qd_attr attr = { .name = "perm", .type = QD_ATTR_INTS, .ints = perm, .n_ints = n };
	return qd_graph_node(g, QD_OP_TRANSPOSE, name, 1, &x, 1, &attr);
}

qd_id qd_build_concat(struct qd_graph *g, const char *name, size_t n, const qd_id *parts, int64_t axis)
{
	return qd_graph_node(g, QD_OP_CONCAT, name, n, parts, 1, (struct qd_attr[]){ QD_AI("axis", axis) });
}

qd_id qd_build_slice(struct qd_graph *g, const char *name, qd_id x, int64_t axis, int64_t begin, int64_t end)
{
	qd_id in[4] = { x, ints(g, name, ".starts", 1, &begin), ints(g, name, ".ends", 1, &end), ints(g, name, ".axes", 1, &axis) };
	return qd_graph_node(g, QD_OP_SLICE, name, 4, in, 0, NULL);
}

qd_id qd_build_attention(struct qd_graph *g, const char *name, qd_id q, qd_id k, qd_id v, qd_id mask, float scale)
{
	qd_id keys = qd_build_transpose(g, join(g, name, ".keys"), k, 4, (int64_t[]){ 0, 1, 3, 2 });
	qd_id scores = qd_build_binary(g, QD_OP_MATMUL, join(g, name, ".scores"), q, keys);
	qd_id factor = qd_graph_const_f32(g, join(g, name, ".scale"), (struct qd_shape){ 0 }, &scale);
	qd_id scaled = qd_build_binary(g, QD_OP_MUL, join(g, name, ".scaled"), scores, factor);

	if (mask != QD_NONE)
		scaled = qd_build_binary(g, QD_OP_ADD, join(g, name, ".masked"), scaled, mask);
	qd_id weights =
		qd_graph_node(g, QD_OP_SOFTMAX, join(g, name, ".softmax"), 1, &scaled, 1, (struct qd_attr[]){ QD_AI("axis", -1) });
	return qd_build_binary(g, QD_OP_MATMUL, name, weights, v);
}

qd_id qd_build_upsample2(struct qd_graph *g, const char *name, qd_id x, int64_t height, int64_t width)
{
	struct qd_attr attrs[] = { QD_AS("coordinate_transformation_mode", "asymmetric"), QD_AS("mode", "nearest"),
		QD_AS("nearest_mode", "floor") };
	if (g->status != QD_OK)
		return QD_NONE;
	const int64_t *dim = g->values[x].shape.dim;
	qd_id sizes = ints(g, name, ".sizes", 4, (int64_t[]){ dim[0], dim[1], height, width });
	return qd_graph_node(g, QD_OP_RESIZE, name, 4, (qd_id[]){ x, QD_NONE, QD_NONE, sizes }, QD_COUNT(attrs), attrs);
}
