/*
 * lib/onnx: ONNX files as graphs, and graphs as ONNX files; the one home of protocol buffers. The reader takes every operator that
 * has a row in ops.def with the attributes listed there, the few that others express (spell.c), constants in any of TensorProto's
 * spellings, and external data. A graph has fixed shapes: the sizes of dimensions that a file leaves open are given by the caller.
 * Whatever else a file holds is refused by name.
 *
 * An operator more: its row in lib/ir/ops.def serves reader and writer; one that others express, a row in spell.c.
 */
#ifndef QUAD_LIB_ONNX_ONNX_H
#define QUAD_LIB_ONNX_ONNX_H

#include "lib/ir/ir.h"

/* An opened file: parsed, with the files beside it mapped as tensors in them are asked for. */
struct qd_onnx_file;
/*
 * Opens `path` (external data is looked for beside it). QD_EIO; QD_EINPUT: not a model; QD_EUNSUPPORTED: an operator set outside 13
 * to 25, subgraphs, local functions.
 */
QD_CHECK enum qd_status qd_onnx_load(struct qd_onnx_file **out, const char *path);
/* The same from memory; `name` is used in messages, `folder` (may be NULL: refused) is where external data lies. The bytes are not
 * kept. */
QD_CHECK enum qd_status qd_onnx_load_bytes(
	struct qd_onnx_file **out, const char *name, const char *folder, const void *bytes, size_t size);
void qd_onnx_free(struct qd_onnx_file *file);
/*
 * Builds the graph of a file. `given` (n tensors, of which name and shape count) tells the shapes of inputs, by name; a dimension
 * of -1 is not told. What the file leaves open takes the size given, or that of a dimension of the same name. Nodes are called as
 * in the file, behind the module path that its metadata has for them ("mid_block.attentions.0.to_q/node_linear_3"); values keep
 * their names. `g` is initialized here and its weights point into `file`; release it after failures too.
 *
 * QD_EINPUT names file, node or tensor, found and needed: a given size that is not the file's, an open dimension that nothing was
 * given for, a name used before it is defined or defined twice, data of the wrong length, an external file that is missing, short,
 * or not a plain name in the same folder; QD_EUNSUPPORTED: an operator or attribute without a row.
 */
QD_CHECK enum qd_status qd_onnx_graph(struct qd_graph *g, struct qd_onnx_file *file, const struct qd_tensor *given, size_t n);

/* A declared input that is no constant: open dimensions are -1, without any shape the rank is. */
struct qd_onnx_input {
	const char *name;
	enum qd_dtype dtype;
	struct qd_shape shape;
};
/* The first `max` of them. */
QD_CHECK enum qd_status qd_onnx_inputs(const struct qd_onnx_file *file, struct qd_onnx_input *out, size_t max, size_t *n);

/* The name of the first output; "" when there is none. */
const char *qd_onnx_output(const struct qd_onnx_file *file);
/* Whether there is an initializer whose name ends so. */
bool qd_onnx_has_constant(const struct qd_onnx_file *file, const char *suffix);

/* A file and its graph for the sizes in the file and in `given`. */
struct qd_onnx {
	struct qd_graph graph; /* its weights point into `file` */
	struct qd_onnx_file *file;
};
QD_CHECK enum qd_status qd_onnx_open(struct qd_onnx *onnx, const char *path, const struct qd_tensor *given, size_t n);
void qd_onnx_release(struct qd_onnx *onnx);

/* ---- writing (write.c) ---- */
/* A weight that is stored as codes: made from `source` (any float dtype, mapped) when it is written, so that memory holds one at a
 * time. */
struct qd_stored_weight {
	qd_id value;
	struct qd_tensor source;
	const struct qd_encoding *encoding;
};
struct qd_stored_weights {
	struct qd_stored_weight *items;
	size_t n, cap;
};
void qd_stored_weights_release(struct qd_stored_weights *weights);
struct qd_onnx_write_options {
	bool external;                          /* weights in "<path>.data"; always so when the file would pass 2 GiB */
	const struct qd_stored_weights *stored; /* weights to be made from float; NULL: none */
	const char *const *metadata;            /* key, value pairs */
	size_t n_metadata;
};
/*
 * Writes `g` as an ONNX model: IR version 10, operator set 21. One weight is in memory at a time. Float weights are written as
 * float32. The files are left inside their folder under their own names through qd_output. `external` (may be NULL) tells whether
 * data was put aside.
 */
QD_CHECK enum qd_status qd_onnx_write(
	const struct qd_graph *g, const char *path, const struct qd_onnx_write_options *options, bool *external);

#endif
