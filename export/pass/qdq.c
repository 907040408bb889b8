/*
 * Encodings become nodes. For a value x that carries one (scale s, zero point z, b bits):
 *
 *   a result or a float input x:   x -> QuantizeLinear(s, z) -> x.q -> DequantizeLinear(s, z) -> x.dq, which every user of x reads
 *   a weight w:                    w becomes its codes, DequantizeLinear(s, z) -> w.dq
 *   a LoRA input p:                p becomes an input of codes, DequantizeLinear(s, z) -> p.dq
 *
 * A graph output keeps its name: there x is called x.float, and the dequantized value x. s and z are constants x.scale and
 * x.zero_point, scalars or one per index of the axis. A zero point of 0 is left out (QuantizeLinear then names its type in
 * output_dtype). Codes have 8 bits for up to 8, 16 for up to 16; only weights and LoRA tensors, whose codes are made here and not
 * by a runtime, may use fewer bits than their codes have. Results of view operators carry no encoding of their own: their source's
 * codes pass through.
 */
#include "export/pass/pass.h"

#include <stdlib.h>
#include <string.h>

struct grid {
	qd_id scale, zero_point;
	enum qd_dtype type;
	const char *name; /* of the value */
};

static qd_id zero_point_constant(
	struct qd_graph *g, const struct qd_encoding *e, const struct grid *grid, const struct qd_shape *shape)
{
	struct qd_tensor zero = { .dtype = grid->type, .shape = *shape };
	zero.bytes = e->n * qd_dtype_bits(grid->type) / 8;
	zero.data = qd_arena_alloc(&g->arena, zero.bytes);
	if (zero.data == NULL)
		return qd_graph_stop(g, QD_ENOMEM);
	for (size_t i = 0; i < e->n; i++)
		qd_code_store(grid->type, zero.data, i, (int32_t)e->zero_point[i]);
	return qd_graph_weight(g, qd_arena_strf(&g->arena, "%s.q_zero_point", grid->name), &zero);
}

/* The constants of an encoding. */
static struct grid make_grid(struct qd_graph *g, const struct qd_encoding *e, const char *name)
{
	struct grid grid = { .zero_point = QD_NONE, .type = qd_encoding_dtype(e), .name = name };
	struct qd_shape shape = { .rank = e->axis >= 0 ? 1 : 0, .dim = { (int64_t)e->n } };
	grid.scale = qd_graph_const_f32(g, qd_arena_strf(&g->arena, "%s.q_scale", name), shape, e->scale);
	if (!qd_encoding_is_centred(e))
		grid.zero_point = zero_point_constant(g, e, &grid, &shape);
	return grid;
}

/* How many inputs a node has: without a zero point, two. */
static size_t operands(const struct grid *grid)
{
	return grid->zero_point == QD_NONE ? 2 : 3;
}

static qd_id dequantize(struct qd_graph *g, const struct qd_encoding *e, const struct grid *grid, qd_id codes)
{
	struct qd_attr axis = QD_AI("axis", e->axis);
	return qd_graph_node(g, QD_OP_DEQUANTIZE, qd_arena_strf(&g->arena, "%s.dq", grid->name), operands(grid),
		(qd_id[]){ codes, grid->scale, grid->zero_point }, e->axis >= 0 ? 1 : 0, &axis);
}

static qd_id quantize(struct qd_graph *g, const struct qd_encoding *e, const struct grid *grid, qd_id x)
{
	struct qd_attr attrs[2];
	size_t n = 0;
	if (e->axis >= 0)
		attrs[n++] = QD_AI("axis", e->axis);
	if (grid->zero_point == QD_NONE)
		attrs[n++] = QD_AI("output_dtype", qd_dtype_onnx(grid->type));
	return qd_graph_node(g, QD_OP_QUANTIZE, qd_arena_strf(&g->arena, "%s.q", grid->name), operands(grid),
		(qd_id[]){ x, grid->scale, grid->zero_point }, n, attrs);
}

/* Weights and LoRA inputs: the value itself becomes codes. */
static enum qd_status lower_codes(struct qd_graph *g, struct qd_stored_weights *stored, qd_id value, const struct qd_encoding *e)
{
	enum qd_status st = QD_OK;
	struct qd_value *v = &g->values[value];
	struct grid grid = make_grid(g, e, v->name);
	v = &g->values[value];
	v->dtype = grid.type;
	if (v->kind == QD_WEIGHT) {
		struct qd_stored_weight weight = { .value = value, .source = v->data, .encoding = e };
		weight.source.name = v->name;
		QD_PUSH(st, stored->items, stored->n, stored->cap, weight);
		v->data = (struct qd_tensor){ .name = v->name, .dtype = grid.type, .shape = v->shape };
	}
	qd_id dq = dequantize(g, e, &grid, value);
	if (dq != QD_NONE)
		qd_graph_replace(g, value, dq, g->values[dq].producer);
	QD_TRY(st, qd_graph_status(g));
	g->values[value].encoding = NULL;
out:
	return st;
}

/* Results and float inputs: quantized and dequantized where they come into being. */
static enum qd_status lower_signal(struct qd_graph *g, qd_id value, const struct qd_encoding *e)
{
	enum qd_status st;
	const char *name = g->values[value].name;
	bool output = qd_graph_is_output(g, value);
	struct grid grid = make_grid(g, e, name);
	if (e->bits != 8 && e->bits != 16)
		return qd_fail(QD_EUNSUPPORTED, "tensor '%s' has %d bits: activations are exported with 8 or 16", name, e->bits);
	qd_id q = quantize(g, e, &grid, value);
	qd_id dq = q != QD_NONE ? dequantize(g, e, &grid, q) : QD_NONE;
	QD_TRY(st, qd_graph_status(g));
	qd_graph_replace(g, value, dq, g->values[q].producer);
	if (output) {
		QD_TRY(st, qd_graph_rename(g, value, qd_arena_strf(&g->arena, "%s.float", name)));
		QD_TRY(st, qd_graph_rename(g, dq, name));
	}
	g->values[value].encoding = NULL;
out:
	return st;
}

static enum qd_status run(struct qd_graph *g, void *context, size_t *changes)
{
	enum qd_status st = QD_OK;
	/* new values carry no encodings */
	size_t n = g->n_values;
	for (qd_id v = 0; v < n; v++) {
		const struct qd_encoding *e = g->values[v].encoding;
		if (e == NULL || g->values[v].dead)
			continue;
		if (qd_encoding_dtype(e) == QD_DTYPE_COUNT)
			return qd_fail(
				QD_EUNSUPPORTED, "tensor '%s' has %d bits: codes have at most 16", g->values[v].name, e->bits);
		if (g->values[v].kind == QD_WEIGHT ||
			(g->values[v].kind == QD_INPUT && qd_lora_tensor_of(g->values[v].name) != QD_LORA_NONE))
			QD_TRY(st, lower_codes(g, context, v, e));
		else
			QD_TRY(st, lower_signal(g, v, e));
		(*changes)++;
	}
	QD_TRY(st, qd_graph_sort(g));
out:
	return st;
}

const struct qd_pass qd_pass_qdq = { "qdq", "encodings become QuantizeLinear and DequantizeLinear nodes", run };
