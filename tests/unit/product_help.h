/*
 * For tests of products: convolutions to try.
 */
#ifndef QUAD_TESTS_UNIT_PRODUCT_HELP_H
#define QUAD_TESTS_UNIT_PRODUCT_HELP_H

#include "lib/kernel/kernel.h"
#include "lib/math/math.h"

/* Any sizes, kernel, strides, dilations and padding, windows that see nothing but padding included; in every third round of a
 * number of channels that fills whole vectors. */
struct qd_product_spec random_convolution(struct qd_random *random, int round);
/* What networks are made of: 3 x 3, padding 1, stride 1. */
struct qd_product_spec square_convolution(int64_t n, int64_t height, int64_t width, int64_t in, int64_t out);

#endif
