/*
 * For this folder only: 3 x 3 convolutions with 16 products where 36 would be (winograd.c).
 */
#ifndef QUAD_LIB_KERNEL_WINOGRAD_H
#define QUAD_LIB_KERNEL_WINOGRAD_H

#include "lib/kernel/kernel.h"

struct qd_winograd;

/* Whether a convolution has the form, and is large enough to gain from it. */
bool qd_winograd_fits(const struct qd_product_spec *spec);
QD_CHECK enum qd_status qd_winograd_new(struct qd_winograd **out, const struct qd_product_spec *spec);
void qd_winograd_free(struct qd_winograd *winograd);
/* Bytes of the transformed weights (16/9 of the plain ones), and of the memory that a run works in. */
size_t qd_winograd_weight_bytes(const struct qd_winograd *winograd);
size_t qd_winograd_scratch_bytes(const struct qd_winograd *winograd);
/* w f32 [out, in, 3, 3] -> packed. QD_ENOMEM. */
QD_CHECK enum qd_status qd_winograd_pack(struct qd_winograd *winograd, const float *w, void *packed);
QD_CHECK enum qd_status qd_winograd_run(struct qd_winograd *winograd, const float *x, const void *packed, const float *bias,
	const float *other, float *y, void *scratch);

#endif
