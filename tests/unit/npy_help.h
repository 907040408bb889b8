/*
 * For tests: NumPy's array files. Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_NPY_HELP_H
#define QUAD_TESTS_UNIT_NPY_HELP_H

#include "lib/io/io.h"

/* What numpy.save writes for an array: version 1.0, data at a multiple of 64. The caller's to free; `*bytes` is its length. */
unsigned char *npy_bytes(const struct qd_tensor *tensor, size_t *bytes);
/* The same as a file. */
void npy_write(const char *path, const struct qd_tensor *tensor);

#endif
