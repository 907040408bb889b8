/*
 * lib/ir: the one graph that everything else reads and writes. A graph is a list of nodes in topological order over values; a value
 * is a graph input, a weight (bytes that stay in their mapped file) or the result of a node. What an operator is stands in ops.def,
 * one row each; its semantics are ONNX's. Shapes are static: a graph is built for given input shapes.
 *
 * Linear layers are Gemm with transB=1 over two-dimensional tokens [rows, in], so that a weight keeps its file's [out, in] layout
 * and its bytes; convolutions are Conv. Dimension letters: N batch, C channels, H W pixels, L tokens, D features, R rank.
 *
 * Encodings hang on values. What one means, everywhere:
 *
 *   real = (q - zero_point) * scale        q = clamp(round_half_even(real / scale) + zero_point, low, high)
 *
 * in float32 with a true division. Ranges always contain 0.
 *
 * Everything of a graph lives in its arena; ids stay valid for the graph's life (removed nodes and values keep their id, marked
 * dead).
 *
 * An operator more: its row in ops.def, which text form, verifier and ONNX reader and writer follow; its arithmetic in one of
 * eval_*.c and its line in eval.c; its lowering in lib/torch/lower.c or lower_move.c (and in shim.h and shim_ops.cc where the shim
 * does not have libtorch's yet); a case in tests/unit/test_ir_eval.c and one in test_torch_ops.c. What is forgotten does not
 * compile, does not link or fails a test. (A shape rule that no other operator has is a function more, in one of shapes*.c.)
 *
 * A pass over any graph more: its file, its declaration below, and its place in recognize.c or whoever runs it; before and after as
 * text in tests/ir.
 */
#ifndef QUAD_LIB_IR_IR_H
#define QUAD_LIB_IR_IR_H

#include "lib/io/io.h"

typedef uint32_t qd_id; /* of a value or a node; QD_NONE is "none" (an absent optional input) */

/*
 * ---- LoRA tensors: graph inputs by name (lora_input.c) ----
 * A layer's LoRA branch takes its tensors as inputs called "<module path><suffix>". X(id, suffix): the one place that says so.
 */
#define QD_LORA_TENSOR_LIST(X)                                                                                                     \
	X(DOWN, ".lora_down") /* [R,I] or [R,I,kh,kw] */                                                                           \
	X(UP, ".lora_up")     /* [O,R] or [O,R,1,1] */                                                                             \
	X(GAIN, ".lora_gain") /* [R] */                                                                                            \
	X(BIAS, ".lora_bias") /* [O]; of layers where some adapter has one */
enum qd_lora_tensor {
#define QD_LORA_TENSOR_ENUM(id, suffix) QD_LORA_##id,
	QD_LORA_TENSOR_LIST(QD_LORA_TENSOR_ENUM)
#undef QD_LORA_TENSOR_ENUM
		QD_LORA_NONE
};
/* ".lora_down" and so on; `tensor` is not QD_LORA_NONE. */
const char *qd_lora_suffix(enum qd_lora_tensor tensor);
/* Which of them a name is; QD_LORA_NONE for every other name. */
enum qd_lora_tensor qd_lora_tensor_of(const char *name);

/* ---- operators ---- */
enum qd_op {
#define OP(id, ...) QD_OP_##id,
#include "lib/ir/ops.def"
#undef OP
	QD_OP_COUNT
};

/* Flags of a row of ops.def. */
enum {
	QD_OPF_ELEMENTWISE = 1, /* same shape out as (broadcast) in, element by element */
	QD_OPF_VIEW = 2,        /* moves data without computing: the output's encoding is its input's */
	QD_OPF_WEIGHT = 4,      /* input 1 is a weight matrix or kernel */
	QD_OPF_FOLD = 8,        /* foldable when every input is constant */
};

enum qd_attr_type { QD_ATTR_INT, QD_ATTR_FLOAT, QD_ATTR_INTS, QD_ATTR_STRING };

struct qd_attr {
	const char *name;
	enum qd_attr_type type;
	int64_t i;
	float f;
	const int64_t *ints;
	size_t n_ints;
	const char *s;
};
/* For building: qd_graph_node(g, QD_OP_CONCAT, "name", 2, (qd_id[]){a, b}, 1, (struct qd_attr[]){QD_AI("axis", 1)}). */
#define QD_AI(n, v) ((struct qd_attr){ .name = (n), .type = QD_ATTR_INT, .i = (v) })
#define QD_AF(n, v) ((struct qd_attr){ .name = (n), .type = QD_ATTR_FLOAT, .f = (v) })
#define QD_AS(n, v) ((struct qd_attr){ .name = (n), .type = QD_ATTR_STRING, .s = (v) })
#define QD_AIS(n, ...)                                                                                                             \
	((struct qd_attr){ .name = (n),                                                                                            \
		.type = QD_ATTR_INTS,                                                                                              \
		.ints = (int64_t[]){ __VA_ARGS__ },                                                                                \
		.n_ints = sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t) })

struct qd_attr_spec {
	const char *name;
	enum qd_attr_type type;
};

struct qd_graph;
struct qd_node;
typedef enum qd_status (*qd_shape_rule)(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype);

struct qd_op_info {
	const char *id;                      /* "CONV" */
	const char *name;                    /* ONNX name, "Conv" */
	int opset;                           /* the opset whose semantics are meant */
	int min_inputs, max_inputs, outputs; /* max_inputs, outputs -1: any number */
	unsigned flags;
	qd_shape_rule shape;
	const struct qd_attr_spec *attrs;
	size_t n_attrs;
};
const struct qd_op_info *qd_op(enum qd_op op);
/* QD_OP_COUNT when there is no such operator. */
enum qd_op qd_op_by_name(const char *onnx_name);

/* ---- encodings (encoding.c) ---- */
struct qd_encoding {
	int bits;          /* 4, 8, 16 or 32 */
	bool is_signed;    /* grid [-2^(b-1), 2^(b-1)-1] or [0, 2^b-1] */
	bool symmetric;    /* zero points all 0 on a signed grid */
	int axis;          /* -1 per tensor, else the channel axis */
	size_t n;          /* scales: 1, or the length of the axis */
	float *scale;      /* [n] > 0 */
	float *zero_point; /* [n], integral */
};
/* Zeroed encoding of n scales in `arena`; signed exactly when symmetric. QD_ENOMEM. */
QD_CHECK enum qd_status qd_encoding_new(
	struct qd_arena *arena, int bits, bool symmetric, int axis, size_t n, struct qd_encoding **out);
float qd_encoding_low(const struct qd_encoding *e);
float qd_encoding_high(const struct qd_encoding *e);
/*
 * AIMET's min-max rules, stated in encoding_range.c: symmetric on the signed grid, or asymmetric on the unsigned one; the range is
 * widened to contain 0. `arena` holds the result. QD_EINPUT when the range is not finite or empty.
 */
QD_CHECK enum qd_status qd_encoding_from_range(
	struct qd_arena *arena, double min, double max, int bits, bool symmetric, struct qd_encoding **out);
/* Symmetric, one scale per index of axis 0, from a weight's rows (any float dtype, mapped). QD_EINPUT names a tensor that holds NaN
 * or infinity. */
QD_CHECK enum qd_status qd_encoding_per_channel(
	struct qd_arena *arena, const struct qd_tensor *weight, int bits, struct qd_encoding **out);
/* Whether all zero points are 0. */
bool qd_encoding_is_centred(const struct qd_encoding *e);
/* x f32 of `shape` -> q i32 (bits 4 to 32) and dequantized y f32 (bits 4 to 16); either output may be NULL, y may be x. */
void qd_quantize(const struct qd_encoding *e, const struct qd_shape *shape, const float *x, int32_t *q, float *y);
/* The element type that codes are stored in: 8 bits for up to 8, 16 for up to 16, signed as the grid; QD_DTYPE_COUNT for more. */
enum qd_dtype qd_encoding_dtype(const struct qd_encoding *e);
/* Element `i` of codes of such a type. */
void qd_code_store(enum qd_dtype dtype, void *codes, size_t i, int32_t q);
/* x f32 of `shape` as codes in qd_encoding_dtype(e), which is one. QD_ENOMEM. */
QD_CHECK enum qd_status qd_encode(const struct qd_encoding *e, const struct qd_shape *shape, const float *x, void *codes);

/* The range of the numbers seen so far and 0 (encoding_range.c): start from { 0 }. */
struct qd_range {
	float low, high;
	bool bad; /* a NaN or an infinity was seen */
};
void qd_range_add(struct qd_range *range, size_t n, const float *x);
void qd_range_join(struct qd_range *range, const struct qd_range *other);
/* The range of a float tensor of any dtype. QD_EINPUT names a tensor that holds NaN or infinity. */
QD_CHECK enum qd_status qd_tensor_range(const struct qd_tensor *tensor, struct qd_range *out);

/* ---- the graph ---- */
enum qd_value_kind { QD_INPUT, QD_WEIGHT, QD_RESULT };

struct qd_value {
	const char *name; /* unique in the graph; the ONNX tensor name */
	enum qd_value_kind kind;
	enum qd_dtype
		dtype; /* of the mathematics: F32 for every float weight whatever its file holds, I64 for shapes and indices */
	struct qd_shape shape;
	struct qd_tensor data; /* QD_WEIGHT: the stored bytes (F32, F16, BF16, I64, I8, ...), borrowed or in the arena */
	qd_id producer;        /* QD_RESULT: node */
	uint32_t output_index; /* which of the producer's outputs */
	bool dead;
	const struct qd_encoding *encoding; /* NULL: the value stays float; passes carry it along */
};

struct qd_node {
	enum qd_op op;
	const char *name; /* unique; module path where there is one: "down_blocks.0.resnets.0.conv1" */
	qd_id *in;        /* QD_NONE for an absent optional input */
	size_t n_in;
	qd_id *out;
	size_t n_out;
	struct qd_attr *attrs;
	size_t n_attrs;
	bool dead;
};

struct qd_graph {
	struct qd_arena arena;
	const char *name;
	struct qd_value *values;
	size_t n_values, cap_values;
	struct qd_node *nodes;
	size_t n_nodes, cap_nodes;
	qd_id *order; /* live nodes in topological order */
	size_t n_order, cap_order;
	qd_id *inputs; /* values, in declaration order */
	size_t n_inputs, cap_inputs;
	qd_id *outputs;
	size_t n_outputs, cap_outputs;
	struct qd_strmap value_names, node_names;
	struct qd_strmap suffixes; /* stem -> last number qd_graph_unique gave it */
	enum qd_status status;     /* first failure while building: see qd_graph_status */
	const char *failure;       /* its message */
};

void qd_graph_init(struct qd_graph *g, const char *name);
void qd_graph_release(struct qd_graph *g);

/*
 * Building. Each returns the new value's id. A failure (bad shapes, duplicate name, memory) is remembered with its message and
 * makes this and every later call return QD_NONE, so that a builder checks once, with qd_graph_status, at its end.
 */
qd_id qd_graph_input(struct qd_graph *g, const char *name, enum qd_dtype dtype, struct qd_shape shape);
/* `data` is copied as a view: its bytes must outlive the graph (a mapped file) or lie in g->arena. dtype of the value: F32 for any
 * float data. */
qd_id qd_graph_weight(struct qd_graph *g, const char *name, const struct qd_tensor *data);
/* Constants made on the spot, bytes in the arena; name NULL makes a unique one. */
qd_id qd_graph_const_i64(struct qd_graph *g, const char *name, size_t n, const int64_t *values);
qd_id qd_graph_const_f32(struct qd_graph *g, const char *name, struct qd_shape shape, const float *values);
/*
 * Appends a node with one output, whose name is the node's name; n_in inputs (QD_NONE for an absent one), n_attrs attributes (deep
 * copied). Attributes not in the operator's row, wrong counts and impossible shapes fail. The output's shape and dtype come from
 * the operator's rule.
 */
qd_id qd_graph_node(struct qd_graph *g, enum qd_op op, const char *name, size_t n_in, const qd_id *in, size_t n_attrs,
	const struct qd_attr *attrs);
/* The general form, from the fields op, name, in, n_in, attrs, n_attrs and n_out of `node`: outputs are called out_names[0..n_out),
 * their ids go to `out`. */
void qd_graph_add_node(struct qd_graph *g, const struct qd_node *node, const char *const *out_names, qd_id *out);
void qd_graph_output(struct qd_graph *g, qd_id value);
/* QD_OK, or the first failure of building with its message restored. */
QD_CHECK enum qd_status qd_graph_status(const struct qd_graph *g);
/* For builders above this folder: records a failure as the graph's (if it is the first) and returns QD_NONE. Pass the result of
 * qd_fail. */
qd_id qd_graph_stop(struct qd_graph *g, enum qd_status status);

/*
 * Editing, for passes and branches. While `insert_before` style edits are made the order stays topological: a new node made with
 * qd_graph_node goes at the end of `order`; qd_graph_sort re-sorts (stable) and fails on a cycle.
 */
/* Every use of `from` (node inputs and graph outputs), except by node `keep` (QD_NONE: none), becomes `to`. Returns the number of
 * uses. */
size_t qd_graph_replace(struct qd_graph *g, qd_id from, qd_id to, qd_id keep);
void qd_graph_remove_node(struct qd_graph *g, qd_id node);
QD_CHECK enum qd_status qd_graph_sort(struct qd_graph *g);
/* Gives a value (and its map entry) another name. QD_EINPUT when taken. */
QD_CHECK enum qd_status qd_graph_rename(struct qd_graph *g, qd_id value, const char *name);
/* A new Reshape of `x` to `shape`, called after `node` with a suffix, unique; returns its value. */
qd_id qd_graph_reshaped(struct qd_graph *g, qd_id node, const char *suffix, qd_id x, const struct qd_shape *shape);

/* Looking. */
/* F32, F16, BF16, F64: computed in float32. */
bool qd_dtype_is_float(enum qd_dtype dtype);
qd_id qd_graph_find(const struct qd_graph *g, const char *value_name);
qd_id qd_graph_find_node(const struct qd_graph *g, const char *node_name);
/* The node that computes `value` if its operator is `op` (QD_OP_COUNT: any), else NULL. */
const struct qd_node *qd_made_by(const struct qd_graph *g, qd_id value, enum qd_op op);
const struct qd_attr *qd_node_attr(const struct qd_node *node, const char *name);
int64_t qd_node_int(const struct qd_node *node, const char *name, int64_t absent);
float qd_node_float(const struct qd_node *node, const char *name, float absent);
const char *qd_node_string(const struct qd_node *node, const char *name, const char *absent);
/* Whether it has inputs that carry an adapter. */
bool qd_graph_has_lora_inputs(const struct qd_graph *g);
bool qd_graph_is_output(const struct qd_graph *g, qd_id value);
/* Number of uses of a value by live nodes and graph outputs. */
size_t qd_graph_uses(const struct qd_graph *g, qd_id value);
/* A constant integer operand (Reshape's shape, Slice's starts): at most `max` values into `out`. QD_EINPUT when it is not a
 * constant I64/I32. */
QD_CHECK enum qd_status qd_graph_ints(const struct qd_graph *g, qd_id value, size_t max, int64_t *out, size_t *n);

/* Parameters of operators, worked out from attributes and constant inputs: for whoever executes or writes a node. */
/* The axes that ReduceMean and ReduceSum reduce, as bits. */
QD_CHECK enum qd_status qd_reduced_axes(const struct qd_graph *g, const struct qd_node *node, unsigned *out);
/* Slice per axis of input 0: first index, step and number of elements. */
struct qd_slice_axis {
	int64_t begin, step, count;
};
QD_CHECK enum qd_status qd_slice_axes(const struct qd_graph *g, const struct qd_node *node, struct qd_slice_axis *axes);
/* Pad per axis of input 0: elements before and after, negative to crop. */
QD_CHECK enum qd_status qd_pad_axes(const struct qd_graph *g, const struct qd_node *node, int64_t *before, int64_t *after);
/*
 * The elements of a value that depends on constants and shapes only, as an owned tensor: F32 for floats, I64 for integers and
 * booleans. Computes through foldable nodes, within a budget of nodes; values have at most QD_CONSTANT_ELEMENTS elements. QD_EINPUT
 * "value 'x' is not a constant".
 */
#define QD_CONSTANT_ELEMENTS 4096
QD_CHECK enum qd_status qd_graph_constant(const struct qd_graph *g, qd_id value, struct qd_tensor *out);

/* Everything a graph must satisfy: ids in range, arity, attributes known, order topological, one producer each, names unique,
 * shapes and dtypes equal to what the rules give. QD_EINPUT names node and rule. */
QD_CHECK enum qd_status qd_graph_verify(const struct qd_graph *g);

/* ---- short builders for what networks are made of (build.c) ---- */
/* `name` is the module path, also the node's and the output's name. */
/* y = conv(x, w) + b; x [N,C,H,W], w [O,C,kh,kw], b [O] or QD_NONE; pads top, left, bottom, right. */
qd_id qd_build_conv(struct qd_graph *g, const char *name, qd_id x, qd_id w, qd_id b, int64_t stride, const int64_t pads[4]);
/* y = x w^T + b; x [rows,in], w [out,in], b [out] or QD_NONE. */
qd_id qd_build_linear(struct qd_graph *g, const char *name, qd_id x, qd_id w, qd_id b);
/* ONNX GroupNormalization (opset 21): scale and bias per channel [C]. */
qd_id qd_build_group_norm(struct qd_graph *g, const char *name, qd_id x, qd_id scale, qd_id bias, int64_t groups, float eps);
qd_id qd_build_layer_norm(struct qd_graph *g, const char *name, qd_id x, qd_id scale, qd_id bias, float eps);
/* x * sigmoid(x): nodes "<name>.sigmoid" and "<name>". */
qd_id qd_build_silu(struct qd_graph *g, const char *name, qd_id x);
qd_id qd_build_binary(struct qd_graph *g, enum qd_op op, const char *name, qd_id a, qd_id b);
qd_id qd_build_unary(struct qd_graph *g, enum qd_op op, const char *name, qd_id x);
/* dims may hold one -1 and 0 (copy). */
qd_id qd_build_reshape(struct qd_graph *g, const char *name, qd_id x, size_t n, const int64_t *dims);
qd_id qd_build_transpose(struct qd_graph *g, const char *name, qd_id x, size_t n, const int64_t *perm);
qd_id qd_build_concat(struct qd_graph *g, const char *name, size_t n, const qd_id *parts, int64_t axis);
/* One axis, step 1: x[begin:end]. */
qd_id qd_build_slice(struct qd_graph *g, const char *name, qd_id x, int64_t axis, int64_t begin, int64_t end);
/*
 * softmax(q k^T * scale + mask) v as Transpose, MatMul, Mul, (Add,) Softmax, MatMul: nodes "<name>.keys", ".scores", ".scaled",
 * ".masked", ".softmax" and "<name>". q [N,heads,Lq,d], k and v [N,heads,Lk,d], mask or QD_NONE -> [N,heads,Lq,d].
 */
qd_id qd_build_attention(struct qd_graph *g, const char *name, qd_id q, qd_id k, qd_id v, qd_id mask, float scale);
/* Nearest upsampling by integer index k>>1 to [H2,W2] (Resize, asymmetric, floor). */
qd_id qd_build_upsample2(struct qd_graph *g, const char *name, qd_id x, int64_t height, int64_t width);
/* Unique "<stem>" or "<stem>_1", ... in the arena. */
const char *qd_graph_unique(struct qd_graph *g, const char *stem);

/* ---- text form (text.c states the grammar): what passes are tested in and --dump-after prints ---- */
/* The whole graph as a heap string (caller frees; NULL on failure). Parses back to an equal graph; weights above 16 elements print
 * as their shape and dtype with `...` and parse to zeros. */
QD_CHECK enum qd_status qd_graph_print(const struct qd_graph *g, char **text);
/* Initializes `g` and builds it from text; `what` names the text in messages ("FILE:LINE: ..."). Release `g` after failures too. */
QD_CHECK enum qd_status qd_graph_parse(struct qd_graph *g, const char *what, const char *text);

/* ---- passes ---- */
/* Returns QD_OK and the number of changes it made. `context` is the pipeline's. */
struct qd_pass {
	const char *name;
	const char *what; /* one line */
	enum qd_status (*run)(struct qd_graph *g, void *context, size_t *changes);
};
/* Runs passes in order; verifies after each when `verify`; `dump_after` (may be NULL) names a pass whose result is given to `dump`.
 */
struct qd_pass_options {
	bool verify;
	const char *dump_after;
	void (*dump)(void *context, const char *text);
	void *dump_context;
};
QD_CHECK enum qd_status qd_passes_run(
	struct qd_graph *g, const struct qd_pass *passes, size_t n, void *context, const struct qd_pass_options *options);

/* The passes that need nothing but the graph. */
extern const struct qd_pass qd_pass_dead_code; /* nodes, weights and constants that no output needs; inputs stay */
extern const struct qd_pass
	qd_pass_fold_constants; /* nodes whose inputs are all small integer or float constants become constants */

/*
 * The passes that bring an exporter's graph into the form that networks are built in here (one file each, which has the pattern).
 * qd_graph_recognize runs them, and the two above, in their order (recognize.c). All preserve the function up to rounding.
 */
extern const struct qd_pass qd_pass_no_ops;       /* nodes that give back what they got */
extern const struct qd_pass qd_pass_forms;        /* one spelling for what has several */
extern const struct qd_pass qd_pass_views;        /* chains of nodes that only move elements */
extern const struct qd_pass qd_pass_group_norm;   /* Reshape, InstanceNormalization, Reshape, Mul, Add */
extern const struct qd_pass qd_pass_layer_norm;   /* ReduceMean, Sub, Pow, ... */
extern const struct qd_pass qd_pass_gelu;         /* Div, Erf, Add, Mul, Mul */
extern const struct qd_pass qd_pass_tokens;       /* MatMul with constants over [N,L,D]: Gemm over rows */
extern const struct qd_pass qd_pass_bias;         /* Gemm and Add: Gemm */
extern const struct qd_pass qd_pass_output_major; /* weights [I,O]: [O,I]; context: struct qd_transposed or NULL */
extern const struct qd_pass qd_pass_attention;    /* scales on queries and keys: on the scores */
extern const struct qd_pass qd_pass_merge;        /* nodes that compute the same from the same */

/* Transposed copies of weights, kept from one graph of a file to the next. */
struct qd_transposed_copy {
	const void *from;
	void *to;
};
struct qd_transposed {
	struct qd_transposed_copy *copies;
	size_t n, cap;
	struct qd_arena arena;
};
void qd_transposed_release(struct qd_transposed *kept);
/* `kept` (may be NULL) must outlive the graph. */
QD_CHECK enum qd_status qd_graph_recognize(struct qd_graph *g, struct qd_transposed *kept, const struct qd_pass_options *options);

/*
 * Whether two graphs compute the same function in the same steps (match.c has the rules): QD_OK, or QD_EINPUT naming the first
 * values that differ. Names of results, order of nodes and operands' order in Add and Mul do not count.
 */
QD_CHECK enum qd_status qd_graph_match(const struct qd_graph *a, const struct qd_graph *b);

/* ---- a plain C evaluator of single operators on small tensors: the reference for tests and for constant folding ---- */
/*
 * Computes all outputs of any operator from its inputs: in[i] (NULL for an absent one) has the shape of the graph's value; floats
 * are F32, every integer type and BOOL are I64, aligned. Outputs likewise; allocated (owned). QD_EINPUT for inputs that do not fit,
 * an index outside of its axis, an integer division by zero.
 */
QD_CHECK enum qd_status qd_eval_node(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, struct qd_tensor *out);

#endif
