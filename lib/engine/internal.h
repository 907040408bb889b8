/*
 * For the files of this folder only: how values lie in memory, steps, and the programs of elementwise operators.
 */
#ifndef QUAD_LIB_ENGINE_INTERNAL_H
#define QUAD_LIB_ENGINE_INTERNAL_H

#include "lib/engine/engine.h"
#include "lib/kernel/kernel.h"

/* ---- views (view.c) ---- */

/* Element i0, i1, ... of a value lies at offset + i0 stride[0] + i1 stride[1] + ... of the elements of its buffer. */
struct qd_view {
	struct qd_shape shape;
	int64_t offset, stride[QD_MAX_RANK];
};
/* Memory order of a whole buffer: perm[0] is the slowest dimension. */
struct qd_view qd_view_ordered(const struct qd_shape *shape, const int *perm);
struct qd_view qd_view_row_major(const struct qd_shape *shape);
/* Channels-last for images, row-major for all others. */
struct qd_view qd_view_default(const struct qd_shape *shape);
/* Elements at the same places, sizes of 1 aside. */
bool qd_view_equal(const struct qd_view *a, const struct qd_view *b);
/* Whether its elements are all those of a block of memory that begins at its offset, in some order. */
bool qd_view_is_dense(const struct qd_view *v);
/* The view that a node gives of its input 0, where there is one. QD_ENOMEM. */
QD_CHECK enum qd_status qd_view_of_node(const struct qd_graph *g, const struct qd_node *node, size_t output,
	const struct qd_view *in, struct qd_view *out, bool *found);
/* `v` as an operand that is broadcast to `shape`: strides 0 where it has one element. */
struct qd_view qd_view_broadcast(const struct qd_view *v, const struct qd_shape *shape);

/*
 * A walk over the elements of two views of one shape in the memory order of the first, the leader: dimensions that both walk alike
 * are one.
 */
struct qd_walk {
	int rank;                                                                              /* at least 1 */
	int64_t dim[QD_MAX_RANK], lead[QD_MAX_RANK], stride[QD_MAX_RANK], lead_offset, offset; /* strides of both */
};
struct qd_walk qd_walk_by(const struct qd_view *leader, const struct qd_view *follower);
/* Whether the elements are the same of both buffers, one after the other. */
bool qd_walk_is_straight(const struct qd_walk *w);
/* A walk is so many runs along its last dimension; where run `run` begins in the buffers of the follower and of the leader. */
size_t qd_walk_runs(const struct qd_walk *w);
void qd_walk_run(const struct qd_walk *w, size_t run, int64_t *at, int64_t *lead);

/* ---- buffers and places ---- */

/* A block of memory that holds a value; views of it share it. */
struct qd_buffer {
	struct qd_numbers numbers; /* its `at` is set when all buffers have their place */
	size_t elements, bytes;
	bool integers;   /* I64, which only the evaluator computes with */
	bool own;        /* a constant or an input: memory that no other shares */
	int first, last; /* the steps between which the others are needed */
	size_t offset;   /* and their place in the block of activations */
};
/* Where a value is. */
struct qd_place {
	uint32_t buffer; /* QD_NONE: nowhere */
	struct qd_view view;
};
/* The form and grid of numbers under an encoding; float32 for NULL. */
struct qd_numbers qd_numbers_under(const struct qd_encoding *encoding);
/* Element `offset` of a buffer as the first one. */
struct qd_numbers qd_numbers_from(const struct qd_numbers *numbers, int64_t offset);

/* ---- programs: elementwise operators over a chunk of numbers that stays in cache (program.c) ---- */

enum qd_code {
	QD_CODE_LOAD,  /* to <- operand */
	QD_CODE_OP,    /* to <- op(a, b) */
	QD_CODE_ROUND, /* to <- to on a grid */
	QD_CODE_STORE, /* a -> place of a value, in the leader's order */
};
struct qd_instruction {
	enum qd_code code;
	enum qd_op op;
	int to, a, b; /* registers; b -1: `number` */
	float number; /* of OP: its second operand, or its first one when `swapped` */
	bool swapped;
	uint32_t buffer;        /* LOAD, STORE */
	struct qd_walk walk;    /* LOAD */
	struct qd_numbers grid; /* ROUND */
};
struct qd_program {
	struct qd_instruction *code;
	size_t n, cap;
	int registers;
};
/* Elements [first, first + n) of a walk, in the leader's order. */
void qd_walk_load(const struct qd_walk *walk, const struct qd_numbers *x, size_t first, size_t n, float *to);
/* Whether a node has a vector loop. */
bool qd_program_has(const struct qd_graph *g, const struct qd_node *node);
/* g [n] times the slope of an operator of one operand at x; false where it has another number of them. */
bool qd_program_slope(enum qd_op op, size_t n, const float *x, float *g);
enum { QD_PROGRAM_CHUNK = 2048 };
/*
 * Runs it over elements [first, first + n) of the leader's order. Register 0 is x [n], what came in and may be overwritten; the
 * others lie in `registers`, QD_PROGRAM_CHUNK floats each.
 */
void qd_program_run(
	const struct qd_program *program, const struct qd_buffer *buffers, size_t first, size_t n, float *x, float *registers);

/* ---- steps ---- */

enum qd_step_kind {
	QD_STEP_MAP,        /* a program alone */
	QD_STEP_PRODUCT,    /* Conv or Gemm */
	QD_STEP_ATTENTION,  /* of q, k, v */
	QD_STEP_GROUP_NORM, /* of images */
	QD_STEP_LAYER_NORM, /* of rows */
	QD_STEP_SOFTMAX,    /* of rows */
	QD_STEP_MOVE,       /* parts of a buffer from other places: Concat, a copy in another order */
	QD_STEP_RESIZE,     /* of images, to the nearest */
	QD_STEP_NODE,       /* by lib/ir's evaluator */
	QD_STEP_KINDS
};

struct qd_product_step;
struct qd_step {
	enum qd_step_kind kind;
	const struct qd_node *node; /* whose attributes count; NULL for a copy */
	struct qd_place *in;        /* [n_in] */
	size_t n_in;
	struct qd_place out;    /* of the result; its buffer QD_NONE where only the tail sees it */
	struct qd_place *outs;  /* NODE: of all its results */
	struct qd_program tail; /* what is done to the result, chunk by chunk in its order in memory */
	/* PRODUCT, norms */
	const float *scale, *bias; /* constants, bias may be NULL */
	struct qd_place result;    /* training: of what it computes before its tail */
	float *trained;            /* training: the gradient of its weight, an input's */
	size_t n_trained;
	struct qd_product_step *product;
	/* ATTENTION */
	float factor;
	struct qd_numbers grids[3];
	bool has_grid[3];               /* scores, scaled, weights */
	qd_id inner[3];                 /* those of them that are seen */
	struct qd_product *products[2]; /* where some are: queries by keys, weights by values */
	size_t scratch;                 /* bytes it works in */
};

/* What a kind does: the table is in step.c. */
struct qd_step_row {
	const char *name;
	enum qd_status (*run)(struct qd_engine *engine, struct qd_step *step);
	bool has_tail; /* gives its result in chunks */
};
extern const struct qd_step_row qd_step_rows[QD_STEP_KINDS];

/* Rows of a result of `width` columns on their way into the tail of their step: the context of qd_to_tail, a qd_rows_sink. */
struct qd_tail_sink {
	const struct qd_engine *engine;
	const struct qd_step *step;
	size_t width;
};
void qd_to_tail(void *context, size_t first, size_t n, float *rows);

/* ---- products (product.c) ---- */
/* Makes the product of the step's operands: x, a weight that changes from run to run (or nothing), what is added to the sums. A
 * constant weight is packed at once. */
QD_CHECK enum qd_status qd_product_step_new(struct qd_engine *engine, struct qd_step *step);
/* Whether it is computed in float32: x or the weight is, or the weight's grid has zero points. */
bool qd_product_step_is_float(const struct qd_engine *engine, const struct qd_step *step);
void qd_product_step_free(struct qd_product_step *p);
/* A weight's values, f32 in row-major order, before they are on its grid. */
QD_CHECK enum qd_status qd_product_step_pack(struct qd_engine *engine, struct qd_step *step, const float *w);
/* Bytes of the packed weight, once it is; NULL: 0. */
size_t qd_product_step_weight_bytes(const struct qd_product_step *p);
enum qd_status qd_product_step_run(struct qd_engine *engine, struct qd_step *step);
const struct qd_product_spec *qd_product_step_spec(const struct qd_product_step *p);
/* Training: makes and packs the product that dx of the step is computed with, and computes it: dy f32 -> dx f32, as x. */
QD_CHECK enum qd_status qd_product_step_train(struct qd_engine *engine, struct qd_step *step);
QD_CHECK enum qd_status qd_product_step_back(struct qd_engine *engine, struct qd_product_step *p, const float *dy, float *dx);

enum qd_status qd_attention_step_run(struct qd_engine *engine, struct qd_step *step);
/* Sizes and strides of a step. */
struct qd_attention qd_attention_of(const struct qd_step *step);
struct qd_group_norm qd_group_norm_of(const struct qd_step *step);

/* ---- the engine ---- */
/* A step that packs what is fed to an input. */
struct qd_feeding {
	qd_id input;
	uint32_t step;
};
/* Training: an elementwise node of a step's tail. */
struct qd_link {
	uint32_t step;
	enum qd_op op;
	int n_in;
	struct qd_place out, in[2]; /* as broadcast to the result; buffer QD_NONE: `number` */
	float number;
};
/* The gradient of a buffer's numbers. */
struct qd_gradient {
	float *at, *own; /* own: of an input, kept after the run */
	bool wanted;     /* it depends on a trained input */
	bool begun;      /* in this run somebody has added to it */
};
/* A value that is seen after a step; -1: before the first. */
struct qd_sight {
	int step;
	qd_id value;
	struct qd_place place;
};
/* Memory that steps of the way back borrow: kept from one to the next, whose pages would else be cleared each time. */
struct qd_loan {
	void *memory;
	size_t bytes;
	bool out;
};
struct qd_engine {
	const struct qd_graph *g;
	struct qd_engine_options options;
	struct qd_sight *sights; /* in the order of steps */
	size_t n_sights, cap_sights;
	struct qd_arena arena;
	struct qd_buffer *buffers;
	size_t n_buffers, cap_buffers;
	struct qd_step *steps;
	size_t n_steps, cap_steps;
	struct qd_feeding *feedings;
	size_t n_feedings, cap_feedings;
	struct qd_place *inputs, *outputs; /* per value that is an input; per output of the graph */
	bool *fed;                         /* per value */
	char *block, *scratch, *registers;
	size_t block_bytes, scratch_bytes;
	size_t thread_bytes, row_offset; /* a thread's registers, then its row */
	int threads;
	double seconds[QD_STEP_KINDS], backward_seconds[QD_STEP_KINDS];
	/* training */
	bool trains;
	struct qd_link *links; /* in the order of steps */
	size_t n_links, cap_links;
	struct qd_gradient *gradients; /* per buffer */
	char *gradient_block;
	struct qd_loan *loans;
	size_t n_loans, cap_loans;
	size_t gradient_bytes;
};
/* The encoding of a value where it counts, else NULL. */
const struct qd_encoding *qd_engine_encoding(const struct qd_engine *engine, qd_id value);
bool qd_engine_sees(const struct qd_engine *engine, qd_id value);
/* Memory that steps work in, and a row and the registers of each thread that there may be now. */
QD_CHECK enum qd_status qd_engine_make_room(struct qd_engine *engine);
/* NULL without memory; returning NULL is fine. By one thread. */
void *qd_engine_borrow(struct qd_engine *engine, size_t bytes);
void qd_engine_return(struct qd_engine *engine, void *memory);
/* A thread's registers. */
float *qd_engine_registers(const struct qd_engine *engine);
/* Its room for one row, of the longest that any step has. */
float *qd_engine_row(const struct qd_engine *engine);
/* The plan of engine->g (plan.c), and the places of its buffers in one block (arena.c). */
QD_CHECK enum qd_status qd_engine_plan(struct qd_engine *engine);
QD_CHECK enum qd_status qd_engine_place(struct qd_engine *engine);
/* Sets the offsets of those that have no memory of their own; `bytes` grows to hold them. */
QD_CHECK enum qd_status qd_place_buffers(struct qd_buffer *buffers, size_t n, size_t *bytes);
/* Training: which values have gradients, and where (backward.c). */
QD_CHECK enum qd_status qd_engine_plan_backward(struct qd_engine *engine);
/* Copies between a place and memory of the caller: float32, or I64 of a buffer of integers, row-major. */
void qd_buffer_read(const struct qd_buffer *buffer, const struct qd_view *view, void *out);
void qd_buffer_write(const struct qd_buffer *buffer, const struct qd_view *view, const void *in);
void qd_place_read(const struct qd_engine *engine, const struct qd_place *place, void *out);
void qd_place_write(struct qd_engine *engine, const struct qd_place *place, const void *in);
/* A weight whose bytes the evaluator takes as they are. */
bool qd_is_readable(const struct qd_value *value);

#endif
