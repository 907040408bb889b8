/* What the files of the ONNX reader share. */
#ifndef QUAD_LIB_MODEL_ONNX_INTERNAL_H
#define QUAD_LIB_MODEL_ONNX_INTERNAL_H

#include "lib/model/onnx.h"
#include "onnx.pb-c.h"

struct qd_onnx_file {
	const char *location;
	struct qd_mapping mapping;
};

struct qd_onnx_data {
	Onnx__ModelProto *model; /* weights point into it */
	const char *folder;      /* of external data; NULL: none is read */
	struct qd_onnx_file *files;
	size_t n_files, cap_files;
};

/* Refuses, before anything is unpacked, what would nest without bound or is not read: subgraphs, sequence types, functions
 * (onnx_scan.c). */
QD_CHECK enum qd_status qd_onnx_scan(const void *bytes, size_t size);

/* A TensorProto's elements as a tensor whose bytes lie in the message, in a mapped file, or in the graph's arena (onnx_tensor.c).
 */
QD_CHECK enum qd_status qd_onnx_tensor(
	struct qd_onnx *onnx, const char *name, const Onnx__TensorProto *proto, struct qd_tensor *out);

#endif
