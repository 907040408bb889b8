/*
 * For this folder only: oneDNN, which enters the program through dnnl.c. A `qd_dnnl` is one convolution or linear layer, compiled
 * for its sizes, with the order in which it wants its weights.
 */
#ifndef QUAD_LIB_KERNEL_DNNL_H
#define QUAD_LIB_KERNEL_DNNL_H

#include "lib/kernel/kernel.h"

struct qd_dnnl;
struct qd_dnnl_options {
	bool bfloat16; /* x and w are bfloat16; y, bias and other stay float32 */
	bool sum;      /* added to what y holds */
	bool bias;
	bool add;                   /* of other; not by a convolution */
	const struct qd_dnnl *like; /* NULL, or whose order of weights to take */
};
/* QD_EUNSUPPORTED when the library cannot compute it. */
QD_CHECK enum qd_status qd_dnnl_new(
	struct qd_dnnl **out, const struct qd_product_spec *spec, const struct qd_dnnl_options *options);
void qd_dnnl_free(struct qd_dnnl *d);
/* Bytes of the weights in its order, and of the memory that a run works in. */
size_t qd_dnnl_weight_bytes(const struct qd_dnnl *d);
size_t qd_dnnl_scratch_bytes(const struct qd_dnnl *d);
/* w [out, in, kernel_h, kernel_w] row-major, aligned for its type -> packed. */
QD_CHECK enum qd_status qd_dnnl_pack(struct qd_dnnl *d, const void *w, void *packed);
QD_CHECK enum qd_status qd_dnnl_run(
	struct qd_dnnl *d, const void *x, const void *packed, const float *bias, const float *other, float *y, void *scratch);
/* Whether this processor multiplies bfloat16 matrices so fast that three such products take less time than a float32 one. */
bool qd_dnnl_has_matrix_units(void);

/* A convolution that is a linear layer over pixels. */
bool qd_product_is_linear(const struct qd_product_spec *spec);

#endif
