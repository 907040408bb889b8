/*
 * For this folder only: the steps that exist for inference alone, on lib/kernel, and the packed weights they keep.
 */
#ifndef QUAD_LIB_TORCH_INFERENCE_H
#define QUAD_LIB_TORCH_INFERENCE_H

#include "lib/torch/lower.h"
#include "lib/torch/plan.h"

struct qd_inference;

/* Makes the kernels of all products of `plan` (kept, like `g`). */
QD_CHECK enum qd_status qd_inference_new(struct qd_inference **out, const struct qd_graph *g, const struct qd_plan *plan);
void qd_inference_free(struct qd_inference *inference);

/* Whether a step computes with packed weights (its input 1), and whether it has them. */
bool qd_inference_packs(const struct qd_inference *inference, size_t step);
bool qd_inference_is_packed(const struct qd_inference *inference, size_t step);
/* Packs a step's weight, F32, F16 or BF16. */
QD_CHECK enum qd_status qd_inference_pack(struct qd_inference *inference, size_t step, const struct qd_tensor *w);

/* Computes a step of the kinds for inference; in[1] of a packed step is not looked at. One result, channels-last where it has four
 * dimensions. */
QD_CHECK enum qd_status qd_inference_run(struct qd_inference *inference, size_t step, const qt_tensor *in, qt_tensor *out);

#endif
