/*
 * For tests: ONNX files with their graphs. Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_ONNX_HELP_H
#define QUAD_TESTS_UNIT_ONNX_HELP_H

#include "lib/onnx/onnx.h"

/* A file and its graph for the sizes in the file; empty after a failure. */
enum qd_status onnx_open(struct qd_onnx *onnx, const char *path);

#endif
