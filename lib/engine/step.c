/*
 * What each kind of step does; products are in product.c. A step reads its operands where they lie, whatever their form, and writes
 * its result to its place or, chunk by chunk, through its tail.
 */
#include "lib/engine/internal.h"

#include <stdlib.h>
#include <string.h>

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static struct qd_numbers operand(const struct qd_engine *e, const struct qd_step *step, size_t i)
{
	return qd_numbers_from(&e->buffers[step->in[i].buffer].numbers, step->in[i].view.offset);
}

/* ---- elementwise ---- */

static enum qd_status run_map(struct qd_engine *e, struct qd_step *step)
{
	size_t n = (size_t)qd_shape_elements(&e->g->values[step->node->out[0]].shape),
	       chunks = (n + QD_PROGRAM_CHUNK - 1) / QD_PROGRAM_CHUNK;

#pragma omp parallel for schedule(static) if (chunks > 8)
	for (size_t i = 0; i < chunks; i++) {
		size_t at = i * QD_PROGRAM_CHUNK;
		float *registers = qd_engine_registers(e);
		qd_program_run(
			&step->tail, e->buffers, at, smaller(QD_PROGRAM_CHUNK, n - at), registers, registers + QD_PROGRAM_CHUNK);
	}
	return QD_OK;
}

void qd_to_tail(void *context, size_t first, size_t n, float *rows)
{
	const struct qd_tail_sink *sink = context;

	qd_program_run(&sink->step->tail, sink->engine->buffers, first * sink->width, n * sink->width, rows,
		qd_engine_registers(sink->engine));
}

/* ---- normalization ---- */

struct qd_group_norm qd_group_norm_of(const struct qd_step *step)
{
	const int64_t *dim = step->in[0].view.shape.dim;

	return (struct qd_group_norm){ .n = dim[0],
		.pixels = dim[2] * dim[3],
		.channels = dim[1],
		.groups = qd_node_int(step->node, "num_groups", 1),
		.eps = qd_node_float(step->node, "epsilon", 1e-5f) };
}

static enum qd_status run_group_norm(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_group_norm norm = qd_group_norm_of(step);
	const struct qd_numbers x = operand(e, step, 0);
	struct qd_tail_sink sink = { e, step, (size_t)norm.channels };

	return qd_group_norm_numbers(&norm, &x, step->scale, step->bias, NULL, qd_to_tail, &sink);
}

static enum qd_status run_layer_norm(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_shape *shape = &step->in[0].view.shape;
	int64_t channels = shape->dim[shape->rank - 1], rows = qd_shape_elements(shape) / channels;
	const struct qd_numbers x = operand(e, step, 0);
	struct qd_tail_sink sink = { e, step, (size_t)channels };

	return qd_layer_norm_numbers(
		rows, channels, qd_node_float(step->node, "epsilon", 1e-5f), &x, step->scale, step->bias, qd_to_tail, &sink);
}

/* Rows are of any length; a thread's row lies in the scratch. */
static enum qd_status run_softmax(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_shape *shape = &step->in[0].view.shape;
	size_t width = (size_t)shape->dim[shape->rank - 1], rows = (size_t)qd_shape_elements(shape) / width;
	const struct qd_numbers x = operand(e, step, 0);
	struct qd_tail_sink sink = { e, step, width };

#pragma omp parallel for schedule(static) if (rows * width > 16384)
	for (size_t r = 0; r < rows; r++) {
		float *row = qd_engine_row(e);
		qd_numbers_load(&x, r * width, width, row);
		qd_softmax_row_f32(width, row);
		qd_to_tail(&sink, r, 1, row);
	}
	return QD_OK;
}

/* ---- moving ---- */

static bool same_grid(const struct qd_numbers *a, const struct qd_numbers *b)
{
	return a->form == b->form && (a->form == QD_FORM_F32 || (a->scale == b->scale && a->zero == b->zero && a->high == b->high));
}

/* Elements [from, from + n) of one to [to, to + n) of the other, as they are where both lie on one grid. */
static void move_run(const struct qd_buffer *from, size_t at, const struct qd_buffer *to, size_t where, size_t n)
{
	const struct qd_numbers *x = &from->numbers, *y = &to->numbers;
	float chunk[512];

	if (from->integers) {
		memcpy((int64_t *)y->at + where, (const int64_t *)x->at + at, n * sizeof(int64_t));
	} else if (same_grid(x, y)) {
		size_t size = x->form == QD_FORM_F32 ? sizeof(float) : 1;
		memcpy((char *)y->at + where * size, (const char *)x->at + at * size, n * size);
		if (x->form == QD_FORM_U16)
			memcpy((char *)y->at + y->plane + where, (const char *)x->at + x->plane + at, n);
	} else {
		for (size_t i = 0; i < n; i += QD_COUNT(chunk)) {
			size_t part = smaller(QD_COUNT(chunk), n - i);
			qd_numbers_load(x, at + i, part, chunk);
			qd_numbers_store(y, where + i, part, chunk);
		}
	}
}

/* All elements of a view to those of another of the same shape, in the order of the second. */
static void move(const struct qd_engine *e, const struct qd_place *from, const struct qd_place *to)
{
	const struct qd_buffer *x = &e->buffers[from->buffer], *y = &e->buffers[to->buffer];
	const struct qd_walk w = qd_walk_by(&to->view, &from->view);
	int last = w.rank - 1;
	bool runs = w.stride[last] == 1 && w.lead[last] == 1;
	size_t inner = (size_t)w.dim[last], outer = qd_walk_runs(&w);

#pragma omp parallel for schedule(static) if (outer * inner > 65536)
	for (size_t o = 0; o < outer; o++) {
		int64_t at, where;
		qd_walk_run(&w, o, &at, &where);
		if (runs)
			move_run(x, (size_t)at, y, (size_t)where, inner);
		for (size_t i = 0; !runs && i < inner; i++)
			move_run(x, (size_t)(at + (int64_t)i * w.stride[last]), y, (size_t)(where + (int64_t)i * w.lead[last]), 1);
	}
}

/* The operands one after the other along an axis; a single one for a copy. */
static enum qd_status run_move(struct qd_engine *e, struct qd_step *step)
{
	int64_t axis = step->node != NULL && step->node->op == QD_OP_CONCAT ? qd_node_int(step->node, "axis", 0) : 0;
	struct qd_place part = step->out;

	axis += axis < 0 ? step->out.view.shape.rank : 0;
	for (size_t i = 0; i < step->n_in; i++) {
		part.view.shape = step->in[i].view.shape;
		move(e, &step->in[i], &part);
		part.view.offset += step->in[i].view.shape.rank > 0 ? step->in[i].view.shape.dim[axis] * part.view.stride[axis] : 0;
	}
	return QD_OK;
}

/* Pixel (y, x) of the result is pixel (y / factor, x / factor); a pixel's channels lie side by side. */
static enum qd_status run_resize(struct qd_engine *e, struct qd_step *step)
{
	const int64_t *from = step->in[0].view.shape.dim, *to = step->out.view.shape.dim;
	const struct qd_buffer *x = &e->buffers[step->in[0].buffer], *y = &e->buffers[step->out.buffer];
	int64_t tall = to[2] / from[2], wide = to[3] / from[3];
	size_t channels = (size_t)to[1], lines = (size_t)(to[0] * to[2]);

#pragma omp parallel for schedule(static) if (lines * channels * (size_t)to[3] > 65536)
	for (size_t l = 0; l < lines; l++) {
		int64_t n = (int64_t)l / to[2], row = (int64_t)l % to[2] / tall;
		for (int64_t c = 0; c < to[3]; c++)
			move_run(x, (size_t)step->in[0].view.offset + (size_t)((n * from[2] + row) * from[3] + c / wide) * channels,
				y, (l * (size_t)to[3] + (size_t)c) * channels, channels);
	}
	return QD_OK;
}

/* ---- the evaluator ---- */

bool qd_is_readable(const struct qd_value *v)
{
	return v->kind == QD_WEIGHT && v->encoding == NULL && v->data.dtype == QD_F32 &&
	       (uintptr_t)v->data.data % sizeof(float) == 0;
}

static enum qd_status run_node(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_node *node = step->node;
	struct qd_tensor *t = calloc(node->n_in + node->n_out + 1, sizeof(*t)), *out = t + node->n_in;
	const struct qd_tensor **in = calloc(node->n_in + 1, sizeof(*in));
	enum qd_status st = QD_OK;

	if (t == NULL || in == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t i = 0; i < node->n_in; i++) {
		const struct qd_value *v = node->in[i] == QD_NONE ? NULL : &e->g->values[node->in[i]];
		if (v == NULL)
			continue;
		in[i] = step->in[i].buffer == QD_NONE ? &v->data : &t[i];
		if (in[i] != &t[i])
			continue;
		QD_TRY(st, qd_tensor_new(&t[i], v->name, qd_dtype_is_float(v->dtype) ? QD_F32 : QD_I64, &v->shape));
		qd_place_read(e, &step->in[i], t[i].data);
	}
	QD_TRY(st, qd_eval_node(e->g, node, in, out));
	for (size_t i = 0; i < node->n_out; i++)
		qd_place_write(e, &step->outs[i], out[i].data);
out:
	for (size_t i = 0; t != NULL && i < node->n_in + node->n_out; i++)
		qd_tensor_release(&t[i]);
	free(t);
	free(in);
	return st;
}

/* ---- the table ---- */

const struct qd_step_row qd_step_rows[QD_STEP_KINDS] = {
	[QD_STEP_MAP] = { "map", run_map, true },
	[QD_STEP_PRODUCT] = { "product", qd_product_step_run, true },
	[QD_STEP_ATTENTION] = { "attention", qd_attention_step_run, false },
	[QD_STEP_GROUP_NORM] = { "group norm", run_group_norm, true },
	[QD_STEP_LAYER_NORM] = { "layer norm", run_layer_norm, true },
	[QD_STEP_SOFTMAX] = { "softmax", run_softmax, true },
	[QD_STEP_MOVE] = { "move", run_move, false },
	[QD_STEP_RESIZE] = { "resize", run_resize, false },
	[QD_STEP_NODE] = { "node", run_node, false },
};
