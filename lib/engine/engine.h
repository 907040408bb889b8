/*
 * lib/engine: executes a graph on CPUs, without libtorch. The graph becomes a plan of fused steps once (plan.c); every activation
 * has its place in one block of memory from then on (arena.c), and a run walks the steps (engine.c).
 *
 * Encodings decide how a value exists. One without is float32. One with an encoding exists as codes only, as it does on an integer
 * processor: products of codes are exact sums of integers, and whatever lies between two products decodes, computes in float32 and
 * encodes in one pass over memory. A graph without encodings is the float network, with them its simulation; what the engine knows
 * of an encoding is scale, zero point and grid.
 *
 * What is fused: an elementwise chain becomes the tail of the step that computes its first operand (program.c); scores, softmax and
 * values become attention. A value that a fused step alone sees is rounded to its grid on the way, as if it had been stored. Images
 * are channels-last in memory, and a view (a transpose, a slice, a reshape) is other strides over the same bytes (view.c).
 * Operators without a step of their own are computed by lib/ir's plain evaluator, which is slow and right.
 *
 * A kind of step more: its row in step.c and its file, its fusion in plan.c if it has one, and its case in test_engine.c.
 */
#ifndef QUAD_LIB_ENGINE_ENGINE_H
#define QUAD_LIB_ENGINE_ENGINE_H

#include "lib/ir/ir.h"

struct qd_engine;

/*
 * Sees a value when it has been computed: all n elements in some order that depends on the graph alone, as float32; the scores and
 * the softmax of an attention head by head and before they are rounded, others as they lie: on their grid, where they have one.
 */
typedef enum qd_status (*qd_engine_see)(void *context, qd_id value, size_t n, const float *x);

struct qd_engine_options {
	bool simulate;     /* false: as if no value had an encoding */
	qd_engine_see see; /* NULL: nobody does */
	void *context;
	const bool *seen;    /* per value: whether `see` is called for it; read while planning only */
	const bool *trained; /* per value: inputs whose gradients are wanted; read while planning only. NULL: none, no way back */
	bool coarse;         /* gradients of activations by products of bfloat16, where the processor has them */
};

/*
 * Plans `g` (kept; must stay as it is) and packs its weights, whose mapped pages are let go. `options` NULL: float. Encodings of
 * inputs that are weights of products with float operands may change, and count when the input is fed. QD_ENOMEM; QD_EUNSUPPORTED
 * where a graph has what only libtorch can; QD_EINPUT names a node that the evaluator refuses.
 */
QD_CHECK enum qd_status qd_engine_new(struct qd_engine **engine, const struct qd_graph *g, const struct qd_engine_options *options);
void qd_engine_free(struct qd_engine *engine);
/* Sets input `input` for the runs that follow: a tensor of its shape, of any type that converts to the input's. */
QD_CHECK enum qd_status qd_engine_feed(struct qd_engine *engine, qd_id input, const struct qd_tensor *tensor);
/* Runs on what was fed. QD_EINPUT names an input that was not. */
QD_CHECK enum qd_status qd_engine_run(struct qd_engine *engine);
/* The last run's graph->outputs[output] as float32 in row-major order. */
QD_CHECK enum qd_status qd_engine_read(struct qd_engine *engine, size_t output, float *out);

/*
 * The gradients of trained inputs, from `gradient` f32, that of the last run's graph->outputs[output] in row-major order. Rounding is
 * passed straight through where nothing was clipped. QD_ENOMEM; QD_EUNSUPPORTED comes from qd_engine_new already.
 */
QD_CHECK enum qd_status qd_engine_backward(struct qd_engine *engine, size_t output, const float *gradient);
/* What that found for an input, f32 in row-major order. */
QD_CHECK enum qd_status qd_engine_gradient(struct qd_engine *engine, qd_id input, float *out);

/* What a plan takes, in bytes. */
struct qd_engine_memory {
	size_t weights;     /* packed */
	size_t activations; /* the block that they share */
	size_t unshared;    /* what they would take each for itself */
	size_t scratch;     /* what steps work in */
	size_t steps;       /* (a number) */
};
struct qd_engine_memory qd_engine_memory(const struct qd_engine *engine);
/* Where the time of all runs so far went: for i from 0 the name of a kind of step, its number and its seconds; false after the last.
 */
bool qd_engine_time(const struct qd_engine *engine, size_t i, const char **kind, size_t *steps, double *seconds);
/* The same of the way back. */
bool qd_engine_backward_time(const struct qd_engine *engine, size_t i, double *seconds);

#endif
