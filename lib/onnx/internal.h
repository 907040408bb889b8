/* What the files of the ONNX reader share. */
#ifndef QUAD_LIB_ONNX_INTERNAL_H
#define QUAD_LIB_ONNX_INTERNAL_H

#include "lib/onnx/onnx.h"
#include "onnx.pb-c.h"

struct qd_onnx_beside {
	const char *location;
	struct qd_mapping mapping;
};

/* A stretch of bytes in the wire format. */
struct qd_onnx_cursor {
	const unsigned char *at, *end;
};
/* Steps over one field; a length-delimited one is left in `body`. False at the end and for malformed bytes, which unpacking
 * reports. (scan.c) */
bool qd_onnx_field(struct qd_onnx_cursor *c, unsigned *field, struct qd_onnx_cursor *body);

/* The bytes of initializer `index`, in the mapped file. */
struct qd_onnx_raw {
	size_t index;
	struct qd_onnx_cursor bytes;
};

struct qd_onnx_file {
	struct qd_mapping mapping; /* of the file itself; empty when it came from memory */
	Onnx__ModelProto *model;   /* weights point into it */
	struct qd_onnx_raw *raw;   /* of large initializers, not in the message */
	size_t n_raw, cap_raw;
	const char *name;   /* in messages */
	const char *folder; /* of external data; NULL: none is read */
	int64_t opset;
	struct qd_onnx_beside *beside;
	size_t n_beside, cap_beside;
	struct qd_arena arena;
};

/* A graph being built from a file. */
struct qd_onnx_build {
	struct qd_graph *g;
	struct qd_onnx_file *file;
	const struct qd_tensor *given; /* shapes of inputs */
	size_t n_given;
	struct qd_onnx_symbol *symbols; /* sizes of named dimensions */
	size_t n_symbols, cap_symbols;
};

/* Refuses, before anything is unpacked, what would nest without bound or is not read: subgraphs, sequence types, functions
 * (scan.c). */
QD_CHECK enum qd_status qd_onnx_scan(const void *bytes, size_t size);

/* Unpacks file->model; with `kept` bytes, which stay, large initializers point into them (split.c). */
QD_CHECK enum qd_status qd_onnx_unpack(struct qd_onnx_file *file, const void *bytes, size_t size, bool kept);
void qd_onnx_unpacked_free(struct qd_onnx_file *file);

/* A TensorProto's elements as a tensor whose bytes lie in the message, in a mapped file, or in the graph's arena (tensor.c).
 */
QD_CHECK enum qd_status qd_onnx_tensor(
	struct qd_onnx_build *b, const char *name, const Onnx__TensorProto *proto, struct qd_tensor *out);

/* The graph's inputs, after its constants (inputs.c). */
QD_CHECK enum qd_status qd_onnx_read_inputs(struct qd_onnx_build *b);
QD_CHECK enum qd_status qd_onnx_read_outputs(struct qd_onnx_build *b);

/* The type that is computed in: every float is float32. */
enum qd_dtype qd_onnx_dtype(enum qd_dtype dtype);

/* Operators that are written with others (spell.c): whether `op_type` is one, and the nodes of one. `in`
 * [QD_ONNX_SPELLED_INPUTS] has its inputs, QD_NONE for those that are left out. */
enum { QD_ONNX_SPELLED_INPUTS = 7 };
bool qd_onnx_is_spelled(const char *op_type);
QD_CHECK enum qd_status qd_onnx_spell(struct qd_graph *g, const Onnx__NodeProto *node, const qd_id *in);

/* What a node is called in the graph: its name in the file, or its first output's, behind the module path that its metadata has;
 * unique, in the graph's arena (names.c). NULL when memory is out. */
const char *qd_onnx_node_name(struct qd_graph *g, const Onnx__NodeProto *node);

#endif
