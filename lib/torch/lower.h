/*
 * For this folder only: how an operator of the graph becomes calls of the shim. One function per row of ops.def, qd_lower_<ID>; the
 * table expands from the same rows, so an operator without one does not link.
 */
#ifndef QUAD_LIB_TORCH_LOWER_H
#define QUAD_LIB_TORCH_LOWER_H

#include "lib/torch/torch.h"

/* in[i] is borrowed, NULL where the input is absent; out[i] receives a new reference with the value's shape. */
struct qd_lower {
	const struct qd_graph *g;
	const struct qd_node *node;
	const qt_tensor *in;
	qt_tensor *out;
};
typedef enum qd_status (*qd_lowering)(const struct qd_lower *l);
extern const qd_lowering qd_lowerings[QD_OP_COUNT];

#define OP(id, ...) QD_CHECK enum qd_status qd_lower_##id(const struct qd_lower *l);
#include "lib/ir/ops.def"
#undef OP

/* QuantizeLinear and DequantizeLinear one after the other: x, scale and zero (may be NULL) as QuantizeLinear's, codes of `dtype`.
 */
QD_CHECK enum qd_status qd_lower_fake_quantize(
	qt_tensor x, qt_tensor scale, qt_tensor zero, int64_t axis, enum qd_dtype dtype, qt_tensor *out);

#endif
