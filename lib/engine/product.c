/*
 * Products with weights: exact ones of codes where x and the weight are codes, float ones otherwise.
 */
#include "lib/engine/internal.h"

#include <stdlib.h>
#include <string.h>

struct qd_product_step {
	struct qd_product_spec spec;
	struct qd_product *floats;
	struct qd_integer_product *integers;
	float *weight_scale; /* integers: f32 [out] */
	bool packed;
	struct qd_product_spec back_spec;
	struct qd_product *back; /* training: dx of dy */
};

static const struct qd_value *weight_of(const struct qd_engine *e, const struct qd_step *step)
{
	return &e->g->values[step->node->in[1]];
}

static struct qd_product_spec conv_spec(const struct qd_graph *g, const struct qd_node *node)
{
	static const int64_t ones[] = { 1, 1 }, zeros[] = { 0, 0, 0, 0 };
	const int64_t *x = g->values[node->in[0]].shape.dim, *w = g->values[node->in[1]].shape.dim,
		      *y = g->values[node->out[0]].shape.dim;
	const struct qd_attr *strides = qd_node_attr(node, "strides"), *pads = qd_node_attr(node, "pads"),
			     *dilations = qd_node_attr(node, "dilations");
	const int64_t *stride = strides != NULL ? strides->ints : ones, *pad = pads != NULL ? pads->ints : zeros,
		      *dilation = dilations != NULL ? dilations->ints : ones;

	return (struct qd_product_spec){ .n = x[0],
		.height = x[2],
		.width = x[3],
		.in = x[1],
		.out = w[0],
		.kernel_h = w[2],
		.kernel_w = w[3],
		.out_height = y[2],
		.out_width = y[3],
		.stride_h = stride[0],
		.stride_w = stride[1],
		.dilation_h = dilation[0],
		.dilation_w = dilation[1],
		.top = pad[0],
		.left = pad[1],
		.bottom = pad[2],
		.right = pad[3] };
}

bool qd_product_step_is_float(const struct qd_engine *e, const struct qd_step *step)
{
	const struct qd_value *w = weight_of(e, step);
	const struct qd_encoding *c = qd_engine_encoding(e, step->node->in[1]);

	return w->kind == QD_RESULT || c == NULL || e->buffers[step->in[0].buffer].numbers.form == QD_FORM_F32 || !c->is_signed ||
	       c->bits > 16 || !qd_encoding_is_centred(c) || (c->n != 1 && c->axis != 0);
}

static size_t rows_of(const struct qd_product_spec *s)
{
	return (size_t)(s->n * s->out_height * s->out_width);
}

static size_t elements_of_x(const struct qd_product_spec *s)
{
	return (size_t)(s->n * s->height * s->width * s->in);
}

static size_t line(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

/* The step's scratch: the product's own, then x as floats where it is codes, then the result where it has no place of its own. */
static size_t product_scratch(const struct qd_product_step *p)
{
	return line(p->floats != NULL ? qd_product_scratch_bytes(p->floats) : qd_integer_product_scratch_bytes(p->integers));
}

static size_t x_scratch(const struct qd_engine *e, const struct qd_step *step)
{
	bool decodes = step->product->floats != NULL && e->buffers[step->in[0].buffer].numbers.form != QD_FORM_F32;

	return decodes ? line(elements_of_x(&step->product->spec) * sizeof(float)) : 0;
}

/* A constant weight: its bytes go from the file into the packed copy, and the file's pages are let go. */
static enum qd_status pack_constant(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_value *w = weight_of(e, step);
	struct qd_product_step *p = step->product;
	float *values = NULL;
	enum qd_status st;

	if (p->floats != NULL && qd_engine_encoding(e, step->node->in[1]) == NULL) {
		QD_TRY(st, qd_product_pack(p->floats, &w->data));
		p->packed = true;
	} else {
		size_t n = (size_t)qd_shape_elements(&w->shape);
		values = malloc(n * sizeof(*values));
		if (values == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for packing weights"));
		QD_TRY(st, qd_tensor_to_f32(&w->data, values));
		QD_TRY(st, qd_product_step_pack(e, step, values));
	}
	qd_mapping_forget(w->data.data, w->data.bytes);
out:
	free(values);
	return qd_prefix(st, "weight '%s'", w->name);
}

enum qd_status qd_product_step_new(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_graph *g = e->g;
	const struct qd_node *node = step->node;
	const int64_t *x = g->values[node->in[0]].shape.dim, *w = weight_of(e, step)->shape.dim;
	const struct qd_encoding *grid = qd_engine_encoding(e, node->in[1]);
	struct qd_product_step *p = calloc(1, sizeof(*p));
	enum qd_status st = QD_OK;

	if (p == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a product");
	step->product = p;
	p->spec = node->op == QD_OP_CONV ? conv_spec(g, node) : qd_linear_spec(x[0], x[1], w[0]);
	p->spec.bias = step->bias != NULL;
	p->spec.add = step->n_in > 2;
	if (qd_product_step_is_float(e, step)) {
		QD_TRY(st, qd_product_new(&p->floats, &p->spec));
	} else {
		const struct qd_integer_spec spec = {
			.shape = p->spec, .x = e->buffers[step->in[0].buffer].numbers.form, .w_bits = grid->bits
		};
		QD_TRY(st, qd_integer_product_new(&p->integers, &spec));
		p->weight_scale = malloc((size_t)p->spec.out * sizeof(*p->weight_scale));
		if (p->weight_scale == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a product"));
		for (int64_t c = 0; c < p->spec.out; c++)
			p->weight_scale[c] = grid->scale[grid->n == 1 ? 0 : c];
	}
	if (weight_of(e, step)->kind == QD_WEIGHT)
		QD_TRY(st, pack_constant(e, step));
	step->scratch =
		product_scratch(p) + x_scratch(e, step) +
		(p->floats != NULL && step->out.buffer == QD_NONE ? line(rows_of(&p->spec) * (size_t)p->spec.out * sizeof(float))
								  : 0);
out:
	return st;
}

void qd_product_step_free(struct qd_product_step *p)
{
	if (p == NULL)
		return;
	qd_product_free(p->floats);
	qd_integer_product_free(p->integers);
	qd_product_free(p->back);
	free(p->weight_scale);
	free(p);
}

size_t qd_product_step_weight_bytes(const struct qd_product_step *p)
{
	if (p == NULL)
		return 0;
	return p->floats != NULL ? qd_product_weight_bytes(p->floats) : qd_integer_product_weight_bytes(p->integers);
}

/* ---- the way back ---- */

const struct qd_product_spec *qd_product_step_spec(const struct qd_product_step *p)
{
	return &p->spec;
}

/* The weight as it computes forward, turned round. */
static enum qd_status pack_back(struct qd_engine *e, struct qd_step *step, const float *w)
{
	struct qd_product_step *p = step->product;
	const struct qd_product_spec *s = &p->spec;
	const struct qd_encoding *grid = qd_engine_encoding(e, step->node->in[1]);
	size_t n = (size_t)(s->out * s->in * s->kernel_h * s->kernel_w);
	float *rounded = malloc((2 * n + 1) * sizeof(*rounded)), *turned = rounded + n;
	const struct qd_tensor t = qd_tensor_view(NULL, QD_F32, QD_SHAPE(s->in, s->out, s->kernel_h, s->kernel_w), turned);
	enum qd_status st = QD_OK;

	if (rounded == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for packing weights");
	if (grid != NULL)
		qd_quantize(grid, &weight_of(e, step)->shape, w, NULL, rounded);
	qd_product_turn_weights(s, grid != NULL ? rounded : w, turned);
	st = qd_product_pack(p->back, &t);
	free(rounded);
	return st;
}

enum qd_status qd_product_step_train(struct qd_engine *e, struct qd_step *step)
{
	struct qd_product_step *p = step->product;
	const struct qd_value *w = weight_of(e, step);
	float *values = NULL;
	enum qd_status st;

	QD_TRY(st, qd_product_back_spec(&p->spec, &p->back_spec));
	p->back_spec.way = e->options.coarse ? QD_WAY_COARSE : QD_WAY_BEST;
	QD_TRY(st, qd_product_new(&p->back, &p->back_spec));
	if (w->kind != QD_WEIGHT)
		goto out;
	values = malloc(((size_t)qd_shape_elements(&w->shape) + 1) * sizeof(*values));
	if (values == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for packing weights"));
	QD_TRY(st, qd_tensor_to_f32(&w->data, values));
	QD_TRY(st, pack_back(e, step, values));
	qd_mapping_forget(w->data.data, w->data.bytes);
out:
	free(values);
	return st;
}

enum qd_status qd_product_step_back(struct qd_engine *e, struct qd_product_step *p, const float *dy, float *dx)
{
	const struct qd_product_spec *s = &p->spec, *b = &p->back_spec;
	size_t bytes = qd_product_scratch_bytes(p->back) + 64, n = (size_t)(b->n * b->height * b->width * b->in);
	bool apart = s->stride_h > 1 || s->stride_w > 1;
	void *scratch = qd_engine_borrow(e, bytes);
	float *spread = apart ? qd_engine_borrow(e, n * sizeof(*spread)) : NULL;
	enum qd_status st = QD_OK;

	if (scratch == NULL || (apart && spread == NULL))
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a gradient"));
	if (apart)
		memset(spread, 0, n * sizeof(*spread));
	for (int64_t i = 0; apart && i < s->n * s->out_height; i++)
		for (int64_t x = 0; x < s->out_width; x++) {
			int64_t row = (i / s->out_height) * b->height + i % s->out_height * s->stride_h;
			memcpy(spread + (row * b->width + x * s->stride_w) * s->out, dy + (i * s->out_width + x) * s->out,
				(size_t)s->out * sizeof(*dy));
		}
	st = qd_product_run(p->back, apart ? spread : dy, NULL, NULL, dx, scratch);
out:
	qd_engine_return(e, spread);
	qd_engine_return(e, scratch);
	return st;
}

enum qd_status qd_product_step_pack(struct qd_engine *e, struct qd_step *step, const float *w)
{
	struct qd_product_step *p = step->product;
	const struct qd_shape *shape = &weight_of(e, step)->shape;
	const struct qd_encoding *grid = qd_engine_encoding(e, step->node->in[1]);
	size_t n = (size_t)qd_shape_elements(shape);
	int16_t *codes = NULL;
	int32_t *q = NULL;
	float *rounded = NULL;
	enum qd_status st;

	if (p->floats != NULL) {
		if (grid != NULL) {
			rounded = malloc(n * sizeof(*rounded));
			if (rounded == NULL)
				QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for packing weights"));
			qd_quantize(grid, shape, w, NULL, rounded);
		}
		const struct qd_tensor t = qd_tensor_view(NULL, QD_F32, *shape, rounded != NULL ? rounded : w);
		QD_TRY(st, qd_product_pack(p->floats, &t));
	} else {
		codes = malloc(n * sizeof(*codes));
		q = malloc(n * sizeof(*q));
		if (codes == NULL || q == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for packing weights"));
		qd_quantize(grid, shape, w, q, NULL);
		for (size_t i = 0; i < n; i++)
			codes[i] = (int16_t)q[i];
		QD_TRY(st, qd_integer_product_pack(p->integers, codes));
	}
	if (p->back != NULL)
		QD_TRY(st, pack_back(e, step, w));
	p->packed = true;
out:
	free(rounded);
	free(codes);
	free(q);
	return st;
}

/* ---- a run ---- */

/* The tail over a whole result that lies in memory, and stays as it is. */
static void run_tail(struct qd_engine *e, const struct qd_step *step, const float *y, size_t n)
{
	size_t chunks = (n + QD_PROGRAM_CHUNK - 1) / QD_PROGRAM_CHUNK;

	if (step->tail.n == 0)
		return;
#pragma omp parallel for schedule(static) if (chunks > 8)
	for (size_t i = 0; i < chunks; i++) {
		size_t at = i * QD_PROGRAM_CHUNK, part = n - at < QD_PROGRAM_CHUNK ? n - at : QD_PROGRAM_CHUNK;
		float *registers = qd_engine_registers(e);
		/* The first is x, which the tail overwrites. */
		memcpy(registers, y + at, part * sizeof(*y));
		qd_program_run(&step->tail, e->buffers, at, part, registers, registers + QD_PROGRAM_CHUNK);
	}
}

static enum qd_status run_floats(struct qd_engine *e, struct qd_step *step)
{
	struct qd_product_step *p = step->product;
	const struct qd_numbers x = qd_numbers_from(&e->buffers[step->in[0].buffer].numbers, step->in[0].view.offset);
	char *scratch = e->scratch;
	const float *floats = x.at, *other = NULL;
	size_t n = rows_of(&p->spec) * (size_t)p->spec.out;
	float *y;
	enum qd_status st;

	scratch += product_scratch(p);
	if (x.form != QD_FORM_F32) {
		float *to = (float *)scratch;
		size_t elements = elements_of_x(&p->spec), chunks = (elements + QD_PROGRAM_CHUNK - 1) / QD_PROGRAM_CHUNK;
#pragma omp parallel for schedule(static) if (chunks > 8)
		for (size_t i = 0; i < chunks; i++) {
			size_t at = i * QD_PROGRAM_CHUNK,
			       part = elements - at < QD_PROGRAM_CHUNK ? elements - at : QD_PROGRAM_CHUNK;
			qd_numbers_load(&x, at, part, to + at);
		}
		floats = to;
		scratch += x_scratch(e, step);
	}
	if (step->n_in > 2)
		other = qd_numbers_from(&e->buffers[step->in[2].buffer].numbers, step->in[2].view.offset).at;
	y = step->out.buffer != QD_NONE ? e->buffers[step->out.buffer].numbers.at : (void *)scratch;
	QD_TRY(st, qd_product_run(p->floats, floats, step->bias, other, y, e->scratch));
	run_tail(e, step, y, n);
out:
	return st;
}

/* A weight that is computed: numbers of any form, somewhere in their buffer. */
static enum qd_status pack_computed(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_numbers w = qd_numbers_from(&e->buffers[step->in[1].buffer].numbers, step->in[1].view.offset);
	size_t n = (size_t)qd_shape_elements(&weight_of(e, step)->shape);
	float *values = NULL;
	enum qd_status st;

	if (w.form != QD_FORM_F32) {
		values = malloc(n * sizeof(*values));
		if (values == NULL)
			return qd_fail(QD_ENOMEM, "out of memory for packing weights");
		qd_numbers_load(&w, 0, n, values);
	}
	st = qd_product_step_pack(e, step, values != NULL ? values : w.at);
	free(values);
	return st;
}

enum qd_status qd_product_step_run(struct qd_engine *e, struct qd_step *step)
{
	struct qd_product_step *p = step->product;
	const struct qd_numbers x = qd_numbers_from(&e->buffers[step->in[0].buffer].numbers, step->in[0].view.offset);
	struct qd_tail_sink sink = { e, step, (size_t)p->spec.out };
	enum qd_status st = QD_OK;

	if (step->in[1].buffer != QD_NONE)
		QD_TRY(st, pack_computed(e, step));
	if (p->floats != NULL)
		return run_floats(e, step);
	st = qd_integer_product_run(p->integers, &x, p->weight_scale, step->bias, qd_to_tail, &sink, e->scratch);
out:
	return st;
}
