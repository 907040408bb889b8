/*
 * The way back: gradients of the trained inputs, from the gradient of an output. Steps are taken from the last to the first; in a
 * step its tail's operators from the last to the first, then what it computes itself. Every value that a gradient passes has one of
 * its own, float32 in the order of the value's buffer, from its last reader to its writer.
 *
 * Rounding is passed straight through, except where a value was clipped: its code is the grid's lowest or highest one and stands for
 * what lay beyond. (A grid that begins or ends at 0 clips nothing there.) A trained input passes all: who trains it keeps it within its
 * grid, ends included. What backward needs of the forward run are the codes themselves, so in training every value keeps its buffer to
 * the end.
 *
 *   product      dx = g W, for a trained weight dW = g^T x
 *   attention    recomputed from q, k and v, as if scores and softmax had not been rounded
 *   norms        with h = g scale, x^ = (x - mean) r:   dx = r (h - mean(h) - x^ mean(h x^)), means over the group or the row
 */
#include "lib/engine/internal.h"

#include <stdlib.h>
#include <string.h>

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static bool wanted(const struct qd_engine *e, const struct qd_place *place)
{
	return place->buffer != QD_NONE && e->gradients[place->buffer].wanted;
}

/* ---- gradients of buffers ---- */

/* The gradient of a buffer to add to. */
static float *gradient_of(struct qd_engine *e, uint32_t buffer)
{
	struct qd_gradient *g = &e->gradients[buffer];

	if (!g->begun)
		memset(g->at, 0, e->buffers[buffer].elements * sizeof(float));
	g->begun = true;
	return g->at;
}

/* Elements [first, first + n) of a value's gradient, as it comes to what computes the value. */
static void load_gradient(const struct qd_engine *e, uint32_t buffer, size_t first, size_t n, float *g)
{
	memcpy(g, e->gradients[buffer].at + first, n * sizeof(*g));
	qd_numbers_mask(&e->buffers[buffer].numbers, first, n, g);
}

/* ---- elementwise operators ---- */

/* g [n] at a link's result -> at its operand `which`; `other` is the other one, x this one. */
static void through(const struct qd_link *link, int which, size_t n, const float *x, const float *other, float *g)
{
	switch (link->op) {
	case QD_OP_ADD:
		break;
	case QD_OP_SUB:
		for (size_t i = 0; which == 1 && i < n; i++)
			g[i] = -g[i];
		break;
	case QD_OP_MUL:
		for (size_t i = 0; i < n; i++)
			g[i] *= other[i];
		break;
	case QD_OP_DIV:
		for (size_t i = 0; i < n; i++)
			g[i] = which == 0 ? g[i] / other[i] : -g[i] * other[i] / (x[i] * x[i]);
		break;
	default:
		(void)qd_program_slope(link->op, n, x, g);
	}
}

/* Whether several elements of the walk are one of the follower's. */
static bool gathers(const struct qd_walk *w)
{
	for (int i = 0; i < w->rank; i++)
		if (w->stride[i] == 0 && w->dim[i] > 1)
			return true;
	return false;
}

static void scatter_run(float *to, int64_t stride, size_t n, const float *g)
{
	if (stride == 1) {
		for (size_t i = 0; i < n; i++)
			to[i] += g[i];
	} else {
		for (size_t i = 0; i < n; i++)
			to[(int64_t)i * stride] += g[i];
	}
}

/* Adds g, elements [first, first + n) of the walk, to what the follower's elements have. */
static void scatter(const struct qd_walk *w, size_t first, size_t n, const float *g, float *to)
{
	size_t inner = (size_t)w->dim[w->rank - 1];

	while (n > 0) {
		size_t column = first % inner, count = smaller(inner - column, n);
		int64_t at, lead;
		qd_walk_run(w, first / inner, &at, &lead);
		scatter_run(to + at + (int64_t)column * w->stride[w->rank - 1], w->stride[w->rank - 1], count, g);
		first += count;
		g += count;
		n -= count;
	}
}

/* One chunk: the gradient at the result, the operands, and on to operand `which`. */
static void link_chunk(struct qd_engine *e, const struct qd_link *link, int which, const struct qd_walk walks[2], size_t first,
	size_t n, float *to)
{
	float *g = qd_engine_registers(e), *operands[2] = { g + QD_PROGRAM_CHUNK, g + 2 * (size_t)QD_PROGRAM_CHUNK };
	bool needs_other = link->op == QD_OP_MUL || link->op == QD_OP_DIV,
	     needs_x = link->op != QD_OP_ADD && link->op != QD_OP_SUB && link->op != QD_OP_MUL && link->op != QD_OP_NEG;

	load_gradient(e, link->out.buffer, first, n, g);
	for (int i = 0; i < link->n_in; i++) {
		if (!(i == which ? needs_x : needs_other))
			continue;
		if (link->in[i].buffer != QD_NONE)
			qd_walk_load(&walks[i], &e->buffers[link->in[i].buffer].numbers, first, n, operands[i]);
		for (size_t k = 0; link->in[i].buffer == QD_NONE && k < n; k++)
			operands[i][k] = link->number;
	}
	through(link, which, n, operands[which], operands[1 - which], g);
	scatter(&walks[which], first, n, g, to);
}

/* Operands that are broadcast sum up many elements in one: by one thread, in order. */
static void back_through_link(struct qd_engine *e, const struct qd_link *link)
{
	size_t n = e->buffers[link->out.buffer].elements, chunks = (n + QD_PROGRAM_CHUNK - 1) / QD_PROGRAM_CHUNK;
	struct qd_walk walks[2] = { 0 };

	if (!wanted(e, &link->out) || !e->gradients[link->out.buffer].begun)
		return;
	for (int i = 0; i < link->n_in; i++)
		if (link->in[i].buffer != QD_NONE)
			walks[i] = qd_walk_by(&link->out.view, &link->in[i].view);
	for (int which = 0; which < link->n_in; which++) {
		if (!wanted(e, &link->in[which]))
			continue;
		float *to = gradient_of(e, link->in[which].buffer);
		bool alone = gathers(&walks[which]);
#pragma omp parallel for schedule(static) if (chunks > 8 && !alone)
		for (size_t i = 0; i < chunks; i++)
			link_chunk(e, link, which, walks, i * QD_PROGRAM_CHUNK, smaller(QD_PROGRAM_CHUNK, n - i * QD_PROGRAM_CHUNK),
				to);
	}
}

/* ---- whole arrays ---- */

/* For the time of a step, from the engine's loans. */
static float *floats(struct qd_engine *e, size_t n)
{
	return qd_engine_borrow(e, n * sizeof(float));
}

/* All of a buffer as floats, or of a gradient where the value was not clipped. */
static void load_all(const struct qd_numbers *x, size_t n, float *to)
{
#pragma omp parallel for schedule(static)
	for (size_t i = 0; i < n; i += 16384)
		qd_numbers_load(x, i, smaller(16384, n - i), to + i);
}

static void load_all_gradient(const struct qd_engine *e, uint32_t buffer, float *to)
{
	size_t n = e->buffers[buffer].elements;

#pragma omp parallel for schedule(static)
	for (size_t i = 0; i < n; i += 16384)
		load_gradient(e, buffer, i, smaller(16384, n - i), to + i);
}

/* ---- products ---- */

static enum qd_status back_through_product(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_product_spec *s = qd_product_step_spec(step->product);
	size_t n = (size_t)(s->n * s->out_height * s->out_width * s->out), n_x = (size_t)(s->n * s->height * s->width * s->in);
	bool to_x = wanted(e, &step->in[0]);
	float *g = floats(e, n), *x = NULL, *dx = NULL;
	enum qd_status st = QD_OK;

	if (g == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a gradient"));
	load_all_gradient(e, step->result.buffer, g);
	if (step->trained != NULL) {
		const struct qd_numbers numbers = qd_numbers_from(&e->buffers[step->in[0].buffer].numbers, step->in[0].view.offset);
		x = floats(e, n_x);
		if (x == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a gradient"));
		load_all(&numbers, n_x, x);
		QD_TRY(st, qd_product_weight_gradient_f32(s, x, g, step->trained));
	}
	if (to_x) {
		struct qd_gradient *into = &e->gradients[step->in[0].buffer];
		bool whole = !into->begun && e->buffers[step->in[0].buffer].elements == n_x;
		dx = whole ? NULL : floats(e, n_x);
		if (!whole && dx == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a gradient"));
		QD_TRY(st, qd_product_step_back(e, step->product, g, whole ? into->at : dx));
		if (whole) {
			into->begun = true;
		} else {
			float *to = gradient_of(e, step->in[0].buffer) + step->in[0].view.offset;
#pragma omp parallel for schedule(static)
			for (size_t i = 0; i < n_x; i++)
				to[i] += dx[i];
		}
	}
out:
	qd_engine_return(e, g);
	qd_engine_return(e, x);
	qd_engine_return(e, dx);
	return st;
}

/* ---- attention ---- */

/* Where an operand's gradient goes: straight to its buffer's when it is the first and fills it, else beside it. Operands may share a
 * buffer: from here on the straight one has begun. */
struct target {
	float *values, *gradient, *beside;
	size_t n;
	bool wanted;
};

static enum qd_status open_target(struct qd_engine *e, const struct qd_place *place, struct target *t)
{
	const struct qd_buffer *b = &e->buffers[place->buffer];
	size_t covered = (size_t)qd_shape_elements(&place->view.shape);

	*t = (struct target){ .n = b->elements, .wanted = wanted(e, place), .values = floats(e, b->elements) };
	if (t->values == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a gradient");
	load_all(&b->numbers, b->elements, t->values);
	if (!t->wanted || e->gradients[place->buffer].begun || covered != b->elements) {
		t->beside = floats(e, b->elements);
		if (t->beside == NULL)
			return qd_fail(QD_ENOMEM, "out of memory for a gradient");
		memset(t->beside, 0, b->elements * sizeof(float));
	}
	t->gradient = t->beside != NULL ? t->beside : e->gradients[place->buffer].at;
	e->gradients[place->buffer].begun = e->gradients[place->buffer].begun || t->beside == NULL;
	return QD_OK;
}

static void close_target(struct qd_engine *e, const struct qd_place *place, struct target *t, bool good)
{
	if (good && t->wanted && t->beside != NULL) {
		float *to = gradient_of(e, place->buffer);
		for (size_t i = 0; i < t->n; i++)
			to[i] += t->beside[i];
	}
	qd_engine_return(e, t->values);
	qd_engine_return(e, t->beside);
}

static enum qd_status back_through_attention(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_attention a = qd_attention_of(step);
	size_t n = e->buffers[step->out.buffer].elements, rows = (size_t)(a.batch * a.heads * a.queries);
	struct target t[3] = { { 0 } };
	float *out = floats(e, n), *g = floats(e, n), *logsum = floats(e, rows);
	enum qd_status st = QD_OK;

	if (out == NULL || g == NULL || logsum == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a gradient"));
	for (int i = 0; i < 3; i++)
		QD_TRY(st, open_target(e, &step->in[i], &t[i]));
	load_all_gradient(e, step->out.buffer, g);
	const float *q = t[0].values + step->in[0].view.offset, *k = t[1].values + step->in[1].view.offset,
		    *v = t[2].values + step->in[2].view.offset;
	QD_TRY(st, qd_attention_f32(&a, q, k, v, out, logsum));
	const struct qd_attention_gradients to = { .dq_strides = a.q,
		.dk_strides = a.k,
		.dv_strides = a.v,
		.dq = t[0].gradient + step->in[0].view.offset,
		.dk = t[1].gradient + step->in[1].view.offset,
		.dv = t[2].gradient + step->in[2].view.offset };
	QD_TRY(st, qd_attention_backward_f32(&a, q, k, v, out, logsum, g, &to));
out:
	for (int i = 0; i < 3; i++)
		close_target(e, &step->in[i], &t[i], st == QD_OK);
	qd_engine_return(e, out);
	qd_engine_return(e, g);
	qd_engine_return(e, logsum);
	return st;
}

/* ---- normalization ---- */

static enum qd_status back_through_norm(struct qd_engine *e, struct qd_step *step)
{
	const struct qd_shape *shape = &step->in[0].view.shape;
	const struct qd_numbers x = qd_numbers_from(&e->buffers[step->in[0].buffer].numbers, step->in[0].view.offset);
	size_t n = e->buffers[step->result.buffer].elements;
	float *dx = gradient_of(e, step->in[0].buffer) + step->in[0].view.offset, *g = floats(e, n);
	enum qd_status st;

	if (g == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a gradient");
	load_all_gradient(e, step->result.buffer, g);
	if (step->kind == QD_STEP_GROUP_NORM) {
		const struct qd_group_norm norm = qd_group_norm_of(step);
		st = qd_group_norm_backward(&norm, &x, step->scale, g, dx);
	} else {
		int64_t channels = shape->dim[shape->rank - 1];
		st = qd_layer_norm_backward(qd_shape_elements(shape) / channels, channels,
			qd_node_float(step->node, "epsilon", 1e-5f), &x, step->scale, g, dx);
	}
	qd_engine_return(e, g);
	return st;
}

/* ---- moving ---- */

/* Elements of one view's gradient to another's of the same shape. */
static void add_moved(struct qd_engine *e, const struct qd_place *from, const struct qd_place *to, float *dx)
{
	const struct qd_walk w = qd_walk_by(&from->view, &to->view);
	int last = w.rank - 1;
	size_t inner = (size_t)w.dim[last], outer = qd_walk_runs(&w);

	for (size_t o = 0; o < outer; o++) {
		int64_t at, where;
		qd_walk_run(&w, o, &at, &where);
		for (size_t i = 0; i < inner; i++) {
			size_t element = (size_t)(where + (int64_t)i * w.lead[last]);
			float g = e->gradients[from->buffer].at[element];
			qd_numbers_mask(&e->buffers[from->buffer].numbers, element, 1, &g);
			dx[at + (int64_t)i * w.stride[last]] += g;
		}
	}
}

static enum qd_status back_through_move(struct qd_engine *e, struct qd_step *step)
{
	int64_t axis = step->node != NULL && step->node->op == QD_OP_CONCAT ? qd_node_int(step->node, "axis", 0) : 0;
	struct qd_place part = step->out;

	axis += axis < 0 ? step->out.view.shape.rank : 0;
	for (size_t i = 0; i < step->n_in; i++) {
		part.view.shape = step->in[i].view.shape;
		if (wanted(e, &step->in[i]))
			add_moved(e, &part, &step->in[i], gradient_of(e, step->in[i].buffer));
		part.view.offset += step->in[i].view.shape.rank > 0 ? step->in[i].view.shape.dim[axis] * part.view.stride[axis] : 0;
	}
	return QD_OK;
}

static enum qd_status back_through_resize(struct qd_engine *e, struct qd_step *step)
{
	const int64_t *from = step->in[0].view.shape.dim, *to = step->out.view.shape.dim;
	int64_t tall = to[2] / from[2], wide = to[3] / from[3];
	size_t channels = (size_t)to[1];
	float *dx = gradient_of(e, step->in[0].buffer) + step->in[0].view.offset, *line = malloc(channels * sizeof(*line));

	if (line == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a gradient");
	for (int64_t l = 0; l < to[0] * to[2]; l++)
		for (int64_t c = 0; c < to[3]; c++) {
			float *x = dx + (((l / to[2]) * from[2] + l % to[2] / tall) * from[3] + c / wide) * (int64_t)channels;
			load_gradient(e, step->out.buffer, (size_t)(l * to[3] + c) * channels, channels, line);
			for (size_t i = 0; i < channels; i++)
				x[i] += line[i];
		}
	free(line);
	return QD_OK;
}

/* ---- the whole ---- */

static enum qd_status back_through_step(struct qd_engine *e, struct qd_step *step)
{
	bool to_x = step->n_in > 0 && wanted(e, &step->in[0]);

	if (step->result.buffer == QD_NONE || !wanted(e, &step->result) || !e->gradients[step->result.buffer].begun)
		return QD_OK;
	switch (step->kind) {
	case QD_STEP_PRODUCT:
		return back_through_product(e, step);
	case QD_STEP_ATTENTION:
		return back_through_attention(e, step);
	case QD_STEP_GROUP_NORM:
	case QD_STEP_LAYER_NORM:
		return to_x ? back_through_norm(e, step) : QD_OK;
	case QD_STEP_MOVE:
		return back_through_move(e, step);
	case QD_STEP_RESIZE:
		return to_x ? back_through_resize(e, step) : QD_OK;
	default:
		return QD_OK;
	}
}

enum qd_status qd_engine_backward(struct qd_engine *e, size_t output, const float *gradient)
{
	const struct qd_place *place = &e->outputs[output];
	size_t link = e->n_links;
	enum qd_status st = QD_OK;

	if (!e->trains)
		return qd_fail(QD_EINPUT, "this engine was not made for training");
	for (size_t i = 0; i < e->n_buffers; i++)
		e->gradients[i].begun = false;
	for (size_t i = 0; i < e->n_steps; i++)
		if (e->steps[i].trained != NULL)
			memset(e->steps[i].trained, 0, e->steps[i].n_trained * sizeof(float));
	if (!wanted(e, place))
		return QD_OK;
	/* There may be more threads now than there were in the run. */
	QD_TRY(st, qd_engine_make_room(e));
	const struct qd_view rows = qd_view_row_major(&place->view.shape);
	const struct qd_walk walk = qd_walk_by(&rows, &place->view);
	scatter(&walk, 0, (size_t)qd_shape_elements(&rows.shape), gradient, gradient_of(e, place->buffer));
	for (size_t s = e->n_steps; s-- > 0;) {
		double begin = qd_now();
		for (; link > 0 && e->links[link - 1].step == s; link--)
			back_through_link(e, &e->links[link - 1]);
		st = back_through_step(e, &e->steps[s]);
		e->backward_seconds[e->steps[s].kind] += qd_now() - begin;
		if (st != QD_OK)
			return e->steps[s].node == NULL ? st : qd_prefix(st, "gradient of node '%s'", e->steps[s].node->name);
	}
out:
	return st;
}

enum qd_status qd_engine_gradient(struct qd_engine *e, qd_id input, float *out)
{
	const struct qd_value *v = &e->g->values[input];
	const struct qd_place *place = &e->inputs[input];
	size_t n = (size_t)qd_shape_elements(&v->shape);

	memset(out, 0, n * sizeof(*out));
	for (size_t i = 0; i < e->n_feedings; i++) {
		const struct qd_step *step = &e->steps[e->feedings[i].step];
		for (size_t k = 0; e->feedings[i].input == input && step->trained != NULL && k < n; k++)
			out[k] += step->trained[k];
	}
	if (place->buffer == QD_NONE || !wanted(e, place) || !e->gradients[place->buffer].begun)
		return QD_OK;
	struct qd_buffer floats = { .numbers = { .form = QD_FORM_F32, .at = e->gradients[place->buffer].at } };
	float *more = malloc((n + 1) * sizeof(*more));
	if (more == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for the gradient of '%s'", v->name);
	qd_buffer_read(&floats, &place->view, more);
	for (size_t i = 0; i < n; i++)
		out[i] += more[i];
	free(more);
	return QD_OK;
}

/* ---- planning ---- */

/* Which buffers a gradient passes: those that depend on a trained input. */
static enum qd_status find_wanted(struct qd_engine *e)
{
	size_t link = 0;

	for (qd_id v = 0; v < e->g->n_values; v++)
		if (e->options.trained[v] && e->inputs[v].buffer != QD_NONE)
			e->gradients[e->inputs[v].buffer].wanted = true;
	for (size_t s = 0; s < e->n_steps; s++) {
		struct qd_step *step = &e->steps[s];
		bool depends = step->trained != NULL;
		for (size_t i = 0; i < step->n_in; i++)
			depends = depends || wanted(e, &step->in[i]);
		if (depends && (step->kind == QD_STEP_NODE || step->kind == QD_STEP_SOFTMAX ||
				       (step->kind == QD_STEP_PRODUCT && step->in[1].buffer != QD_NONE)))
			return qd_fail(
				QD_EUNSUPPORTED, "node '%s' (%s) has no gradient", step->node->name, qd_op(step->node->op)->name);
		if (depends && step->result.buffer != QD_NONE)
			e->gradients[step->result.buffer].wanted = true;
		for (; link < e->n_links && e->links[link].step == s; link++)
			for (int i = 0; i < e->links[link].n_in; i++)
				if (wanted(e, &e->links[link].in[i]))
					e->gradients[e->links[link].out.buffer].wanted = true;
	}
	return QD_OK;
}

/* A gradient is needed from the last step that reads its value, counted from the end, to the one that writes it. */
static void find_lives(struct qd_engine *e, struct qd_buffer *lives)
{
	int end = (int)e->n_steps;

	for (size_t i = 0; i < e->n_buffers; i++)
		lives[i] = (struct qd_buffer){ .bytes = e->buffers[i].elements * sizeof(float),
			.own = !e->gradients[i].wanted || e->buffers[i].own,
			.first = end,
			.last = end };
#define READS(place, s)                                                                                                            \
	if ((place)->buffer != QD_NONE && lives[(place)->buffer].first > end - 1 - (int)(s))                                       \
	lives[(place)->buffer].first = end - 1 - (int)(s)
#define WRITES(place, s)                                                                                                           \
	if ((place)->buffer != QD_NONE)                                                                                            \
	lives[(place)->buffer].last = end - 1 - (int)(s)
	for (size_t s = 0; s < e->n_steps; s++) {
		for (size_t i = 0; i < e->steps[s].n_in; i++)
			READS(&e->steps[s].in[i], s);
		WRITES(&e->steps[s].result, s);
	}
	for (size_t l = 0; l < e->n_links; l++) {
		for (int i = 0; i < e->links[l].n_in; i++)
			READS(&e->links[l].in[i], e->links[l].step);
		WRITES(&e->links[l].out, e->links[l].step);
	}
	for (size_t i = 0; i < e->g->n_outputs; i++)
		lives[e->outputs[i].buffer].first = -1;
	/* Within a step its writer may come first. */
	for (size_t i = 0; i < e->n_buffers; i++)
		lives[i].last = lives[i].last < lives[i].first ? lives[i].first : lives[i].last;
#undef READS
#undef WRITES
}

enum qd_status qd_engine_plan_backward(struct qd_engine *e)
{
	struct qd_buffer *lives = NULL;
	enum qd_status st = QD_OK;

	e->gradients = calloc(e->n_buffers + 1, sizeof(*e->gradients));
	lives = calloc(e->n_buffers + 1, sizeof(*lives));
	if (e->gradients == NULL || lives == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for gradients"));
	for (size_t i = 0; i < e->n_feedings; i++) {
		struct qd_step *step = &e->steps[e->feedings[i].step];
		if (!e->options.trained[e->feedings[i].input])
			continue;
		step->n_trained = (size_t)qd_shape_elements(&e->g->values[e->feedings[i].input].shape);
		step->trained = calloc(step->n_trained + 1, sizeof(float));
		if (step->trained == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for gradients"));
	}
	QD_TRY(st, find_wanted(e));
	for (size_t i = 0; i < e->n_steps; i++)
		if (e->steps[i].kind == QD_STEP_PRODUCT && wanted(e, &e->steps[i].in[0]))
			QD_TRY(st, qd_product_step_train(e, &e->steps[i]));
	find_lives(e, lives);
	QD_TRY(st, qd_place_buffers(lives, e->n_buffers, &e->gradient_bytes));
	e->gradient_block = qd_large_alloc(e->gradient_bytes + 64);
	if (e->gradient_block == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu bytes of gradients", e->gradient_bytes));
	for (size_t i = 0; i < e->n_buffers; i++) {
		struct qd_gradient *g = &e->gradients[i];
		if (g->wanted && e->buffers[i].own) {
			g->own = calloc(e->buffers[i].elements + 1, sizeof(float));
			if (g->own == NULL)
				QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for gradients"));
			g->at = g->own;
		} else if (g->wanted) {
			g->at = (float *)(void *)(e->gradient_block + lives[i].offset);
		}
	}
	e->trains = true;
out:
	free(lives);
	return st;
}
