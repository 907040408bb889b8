/*
 * Attention: the kernel's tiles, or, where somebody sees the scores, head by head with the scores of one head in memory.
 */
#include "lib/engine/internal.h"

#include <math.h>
#include <stdlib.h>

/* The strides of [N,H,rows,columns] or [N,rows,columns]. */
static struct qd_strides strides_of(const struct qd_view *v)
{
	bool heads = v->shape.rank == 4;

	return (struct qd_strides){ .batch = v->stride[0], .head = heads ? v->stride[1] : 0, .row = v->stride[v->shape.rank - 2] };
}

struct qd_attention qd_attention_of(const struct qd_step *step)
{
	const struct qd_view *q = &step->in[0].view, *k = &step->in[1].view, *v = &step->in[2].view;
	int rank = q->shape.rank;

	return (struct qd_attention){ .batch = q->shape.dim[0],
		.heads = rank == 4 ? q->shape.dim[1] : 1,
		.queries = q->shape.dim[rank - 2],
		.keys = k->shape.dim[rank - 2],
		.d = q->shape.dim[rank - 1],
		.dv = v->shape.dim[rank - 1],
		.scale = step->factor,
		.q = strides_of(q),
		.k = strides_of(k),
		.v = strides_of(v),
		.out = strides_of(&step->out.view) };
}

static struct qd_numbers operand(const struct qd_engine *e, const struct qd_step *step, size_t i)
{
	return qd_numbers_from(&e->buffers[step->in[i].buffer].numbers, step->in[i].view.offset);
}

/* ---- in sight ---- */

/* What one head is computed in, floats. */
struct head {
	float *q, *k, *v, *turned; /* rows; values with their columns as rows */
	float *scores, *out;
	void *scratch;
};

static void head_release(struct head *h)
{
	free(h->q);
	free(h->k);
	free(h->v);
	free(h->turned);
	free(h->scores);
	free(h->out);
	free(h->scratch);
}

static float *floats(int64_t n)
{
	return aligned_alloc(64, ((size_t)n * sizeof(float) + 127) / 64 * 64);
}

static enum qd_status head_new(struct head *h, const struct qd_attention *a, struct qd_product *const products[2])
{
	size_t scratch = qd_product_scratch_bytes(products[0]), other = qd_product_scratch_bytes(products[1]);

	*h = (struct head){ .q = floats(a->queries * a->d),
		.k = floats(a->keys * a->d),
		.v = floats(a->keys * a->dv),
		.turned = floats(a->keys * a->dv),
		.scores = floats(a->queries * a->keys),
		.out = floats(a->queries * a->dv),
		.scratch = aligned_alloc(64, ((scratch > other ? scratch : other) + 127) / 64 * 64) };
	if (h->q == NULL || h->k == NULL || h->v == NULL || h->turned == NULL || h->scores == NULL || h->out == NULL ||
		h->scratch == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for the scores of a head");
	return QD_OK;
}

static void load_rows(
	const struct qd_numbers *x, struct qd_strides s, int64_t batch, int64_t head, int64_t rows, int64_t d, float *to)
{
	for (int64_t r = 0; r < rows; r++)
		qd_numbers_load(x, (size_t)(batch * s.batch + head * s.head + r * s.row), (size_t)d, to + r * d);
}

/* Shows the rows of one head, then rounds them. */
static enum qd_status show_inner(struct qd_engine *e, const struct qd_step *step, int which, const struct qd_attention *a, float *x)
{
	size_t n = (size_t)(a->queries * a->keys);
	enum qd_status st = QD_OK;

	if (step->inner[which] != QD_NONE)
		st = e->options.see(e->options.context, step->inner[which], n, x);
	if (st == QD_OK && step->has_grid[which])
		qd_numbers_round(&step->grids[which], n, x, x);
	return st;
}

static void scale_rows(const struct qd_attention *a, float *x)
{
#pragma omp parallel for schedule(static)
	for (int64_t i = 0; i < a->queries; i++)
		for (int64_t j = 0; j < a->keys; j++)
			x[i * a->keys + j] *= a->scale;
}

static void softmax_rows(const struct qd_attention *a, float *x)
{
#pragma omp parallel for schedule(static)
	for (int64_t i = 0; i < a->queries; i++)
		qd_softmax_row_f32((size_t)a->keys, x + i * a->keys);
}

static enum qd_status run_head(struct qd_engine *e, struct qd_step *step, const struct qd_attention *a, const struct qd_numbers *in,
	struct head *h, int64_t batch, int64_t head)
{
	const struct qd_numbers *out = &e->buffers[step->out.buffer].numbers;
	enum qd_status st;

	load_rows(&in[0], a->q, batch, head, a->queries, a->d, h->q);
	load_rows(&in[1], a->k, batch, head, a->keys, a->d, h->k);
	load_rows(&in[2], a->v, batch, head, a->keys, a->dv, h->v);
	for (int64_t i = 0; i < a->keys; i++)
		for (int64_t j = 0; j < a->dv; j++)
			h->turned[j * a->keys + i] = h->v[i * a->dv + j];
	const struct qd_tensor keys = qd_tensor_view(NULL, QD_F32, QD_SHAPE(a->keys, a->d), h->k),
			       values = qd_tensor_view(NULL, QD_F32, QD_SHAPE(a->dv, a->keys), h->turned);
	QD_TRY(st, qd_product_pack(step->products[0], &keys));
	QD_TRY(st, qd_product_run(step->products[0], h->q, NULL, NULL, h->scores, h->scratch));
	QD_TRY(st, show_inner(e, step, 0, a, h->scores));
	scale_rows(a, h->scores);
	QD_TRY(st, show_inner(e, step, 1, a, h->scores));
	softmax_rows(a, h->scores);
	QD_TRY(st, show_inner(e, step, 2, a, h->scores));
	QD_TRY(st, qd_product_pack(step->products[1], &values));
	QD_TRY(st, qd_product_run(step->products[1], h->scores, NULL, NULL, h->out, h->scratch));
	for (int64_t r = 0; step->out.buffer != QD_NONE && r < a->queries; r++)
		qd_numbers_store(out, (size_t)(batch * a->out.batch + head * a->out.head + r * a->out.row), (size_t)a->dv,
			h->out + r * a->dv);
out:
	return st;
}

static enum qd_status run_in_sight(
	struct qd_engine *e, struct qd_step *step, const struct qd_attention *a, const struct qd_numbers *in)
{
	const struct qd_product_spec specs[2] = { qd_linear_spec(a->queries, a->d, a->keys),
		qd_linear_spec(a->queries, a->keys, a->dv) };
	struct head h = { 0 };
	enum qd_status st = QD_OK;

	for (int i = 0; i < 2; i++)
		if (step->products[i] == NULL)
			QD_TRY(st, qd_product_new(&step->products[i], &specs[i]));
	QD_TRY(st, head_new(&h, a, step->products));
	for (int64_t batch = 0; batch < a->batch; batch++)
		for (int64_t head = 0; head < a->heads; head++)
			QD_TRY(st, run_head(e, step, a, in, &h, batch, head));
out:
	head_release(&h);
	return st;
}

enum qd_status qd_attention_step_run(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_attention a = qd_attention_of(step);
	const struct qd_attention_grids grids = { step->has_grid[0] ? &step->grids[0] : NULL,
		step->has_grid[1] ? &step->grids[1] : NULL, step->has_grid[2] ? &step->grids[2] : NULL };
	const struct qd_numbers in[3] = { operand(e, step, 0), operand(e, step, 1), operand(e, step, 2) };

	if (step->inner[0] != QD_NONE || step->inner[1] != QD_NONE || step->inner[2] != QD_NONE)
		return run_in_sight(e, step, &a, in);
	if (step->out.buffer == QD_NONE)
		return QD_OK;
	return qd_attention_numbers(&a, &in[0], &in[1], &in[2], &grids, &e->buffers[step->out.buffer].numbers);
}
