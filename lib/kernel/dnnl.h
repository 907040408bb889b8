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
	bool codes;    /* x is u8, w is s8, y their exact sums, s32; no bias, nothing added; for qd_dnnl_run_codes */
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
/*
 * n products of codes, one after the other, each of its own operands, by the calling thread alone: any number of threads may do so
 * at once with scratch of their own. QD_ENOMEM.
 */
struct qd_dnnl_codes {
	const uint8_t *x;
	const void *packed;
	int32_t *y;
};
QD_CHECK enum qd_status qd_dnnl_run_codes(const struct qd_dnnl *d, size_t n, const struct qd_dnnl_codes *products, void *scratch);
/* Whether this processor multiplies bfloat16 matrices so fast that three such products take less time than a float32 one. */
bool qd_dnnl_has_matrix_units(void);
/* Whether it multiplies bfloat16 at all, rather than pretend to. */
bool qd_dnnl_has_bfloat16(void);
/*
 * Whether sums of u8 x s8 are exact on this processor. Where it has no instructions for them, two products are added in 16 bits
 * and cut off there; with x below 128 such a sum fits.
 */
bool qd_dnnl_sums_bytes(void);

/* A convolution that is a linear layer over pixels. */
bool qd_product_is_linear(const struct qd_product_spec *spec);

#endif
