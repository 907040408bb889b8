/*
 * ONNX files as graphs. The reader takes every operator that has a row in ops.def with the attributes listed there, constants in
 * any of TensorProto's spellings, and external data; shapes must be static. Whatever else a file holds is refused by name.
 */
#ifndef QUAD_LIB_MODEL_ONNX_H
#define QUAD_LIB_MODEL_ONNX_H

#include "lib/ir/ir.h"

struct qd_onnx_data;
struct qd_onnx {
	struct qd_graph graph;     /* its weights point into `data` */
	struct qd_onnx_data *data; /* the parsed file and the mapped files beside it */
};
/*
 * Opens `path` (external data is looked for beside it). QD_EIO; QD_EINPUT names file, node or tensor, found and needed: not a
 * model, a name used before it is defined or defined twice, data of the wrong length, an external file that is missing, short, or
 * not a plain name in the same folder; QD_EUNSUPPORTED: an operator or attribute without a row, an operator set outside 13 to 25,
 * dynamic dimensions, subgraphs, local functions.
 */
QD_CHECK enum qd_status qd_onnx_open(struct qd_onnx *onnx, const char *path);
/* The same from memory; `name` is used in messages, `folder` (may be NULL: refused) is where external data lies. The bytes are not
 * kept. */
QD_CHECK enum qd_status qd_onnx_parse(struct qd_onnx *onnx, const char *name, const char *folder, const void *bytes, size_t size);
void qd_onnx_release(struct qd_onnx *onnx);
/* A value of the file's metadata_props, or NULL. */
const char *qd_onnx_metadata(const struct qd_onnx *onnx, const char *key);

#endif
