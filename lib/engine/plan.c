/*
 * From nodes to steps. Nodes are taken in their order; each becomes a view (no step at all), a part of the tail of the last step
 * that computes one of its operands, or a step of its own. Programs are written at the end, when it is known which values somebody
 * outside of their step wants, and therefore need a place.
 */
#include "lib/engine/plan.h"

#include <stdlib.h>
#include <string.h>

struct qd_numbers qd_numbers_under(const struct qd_encoding *e)
{
	struct qd_numbers x = { .form = QD_FORM_F32 };

	if (e != NULL)
		x = (struct qd_numbers){ .form = e->bits > 8 ? QD_FORM_U16 : QD_FORM_U8,
			.scale = e->scale[0],
			.zero = e->zero_point[0] - qd_encoding_low(e),
			.high = qd_encoding_high(e) - qd_encoding_low(e) };
	return x;
}

/* ---- looking ---- */

/* Keeps a constant's number, if it is one. */
static void keep_number(struct qd_planner *p, qd_id v, const struct qd_tensor *data)
{
	const struct qd_value *value = qd_plan_value(p, v);
	struct qd_value_plan *plan = &p->at[v];

	plan->is_number =
		value->dtype == QD_F32 && qd_shape_elements(&value->shape) == 1 && qd_tensor_to_f32(data, &plan->number) == QD_OK;
	if (plan->is_number && qd_plan_grid(p, v) != NULL)
		qd_quantize(qd_plan_grid(p, v), &value->shape, &plan->number, NULL, &plan->number);
}

/* ---- buffers ---- */

static enum qd_status add_buffer(
	struct qd_planner *p, const struct qd_numbers *numbers, size_t elements, bool integers, uint32_t *out)
{
	struct qd_engine *e = p->engine;
	struct qd_buffer buffer = { .numbers = *numbers,
		.elements = elements,
		.bytes = integers ? elements * sizeof(int64_t) : qd_numbers_bytes(numbers->form, elements),
		.integers = integers,
		.first = (int)e->n_steps,
		.last = (int)e->n_steps };
	enum qd_status st;

	buffer.numbers.plane = elements;
	*out = (uint32_t)e->n_buffers;
	QD_PUSH(st, e->buffers, e->n_buffers, e->cap_buffers, buffer);
out:
	return st;
}

/* Memory of its own, from the start. */
static enum qd_status give_memory(struct qd_planner *p, uint32_t buffer)
{
	struct qd_buffer *b = &p->engine->buffers[buffer];

	b->own = true;
	b->numbers.at = aligned_alloc(64, (b->bytes + 127) / 64 * 64);
	return b->numbers.at != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory for %zu bytes of a constant", b->bytes);
}

/* A weight's values on its grid, as a constant. */
static enum qd_status add_constant(struct qd_planner *p, qd_id v)
{
	const struct qd_value *value = qd_plan_value(p, v);
	bool integers = !qd_dtype_is_float(value->dtype);
	const struct qd_numbers floats = { .form = QD_FORM_F32 };
	size_t n = (size_t)qd_shape_elements(&value->shape);
	struct qd_tensor t = { 0 };
	uint32_t buffer;
	enum qd_status st;

	QD_TRY(st, add_buffer(p, &floats, n, integers, &buffer));
	QD_TRY(st, give_memory(p, buffer));
	p->at[v].place.buffer = buffer;
	if (integers) {
		QD_TRY(st, qd_graph_constant(p->g, v, &t));
		memcpy(p->engine->buffers[buffer].numbers.at, t.data, t.bytes);
		goto out;
	}
	float *x = p->engine->buffers[buffer].numbers.at;
	QD_TRY(st, qd_tensor_to_f32(&value->data, x));
	if (qd_plan_grid(p, v) != NULL)
		qd_quantize(qd_plan_grid(p, v), &value->shape, x, NULL, x);
out:
	qd_tensor_release(&t);
	return qd_prefix(st, "weight '%s'", value->name);
}

/* The place of a value for the step that is planned next: from here on it needs one. */
static enum qd_status use(struct qd_planner *p, qd_id v, struct qd_place *out)
{
	qd_id root = p->at[v].root;
	struct qd_value_plan *r = &p->at[root];
	const struct qd_value *value = qd_plan_value(p, root);
	enum qd_status st = QD_OK;

	if (r->place.buffer == QD_NONE && value->kind == QD_WEIGHT) {
		QD_TRY(st, add_constant(p, root));
	} else if (r->place.buffer == QD_NONE) {
		struct qd_numbers numbers = qd_numbers_under(qd_plan_grid(p, root));
		QD_TRY(st, add_buffer(p, &numbers, (size_t)qd_shape_elements(&value->shape), !qd_dtype_is_float(value->dtype),
				   &r->place.buffer));
		if (value->kind == QD_INPUT)
			QD_TRY(st, give_memory(p, r->place.buffer));
		p->engine->buffers[r->place.buffer].first = r->step;
	}
	p->engine->buffers[r->place.buffer].last = (int)p->engine->n_steps;
	*out = (struct qd_place){ r->place.buffer, p->at[v].place.view };
out:
	return st;
}

/* ---- steps ---- */

/* A step that computes `result` in the order of `view`. */
static enum qd_status push(struct qd_planner *p, const struct qd_step *step, qd_id result, const struct qd_view *view)
{
	struct qd_engine *e = p->engine;
	const struct qd_tail none = { 0 };
	enum qd_status st;

	p->at[result] = (struct qd_value_plan){ .root = result, .step = (int)e->n_steps, .place = { QD_NONE, *view } };
	/* Where a copy of an operand came between, the places of the others are needed until here. */
	for (size_t i = 0; i < step->n_in; i++)
		if (step->in[i].buffer != QD_NONE)
			e->buffers[step->in[i].buffer].last = (int)e->n_steps;
	QD_PUSH(st, p->tails, p->n_tails, p->cap_tails, none);
	p->tails[p->n_tails - 1].result = result;
	QD_PUSH(st, e->steps, e->n_steps, e->cap_steps, *step);
out:
	return st;
}

static enum qd_status new_operands(struct qd_planner *p, struct qd_step *step, size_t n)
{
	step->in = qd_arena_array(&p->engine->arena, n + 1, sizeof(*step->in));
	step->n_in = n;
	return step->in != NULL ? QD_OK : QD_ENOMEM;
}

/* A copy of a place in another order, by a step before the one that is planned next. */
static enum qd_status copy(struct qd_planner *p, qd_id v, const struct qd_view *view, struct qd_place *out)
{
	struct qd_step step = { .kind = QD_STEP_MOVE };
	const struct qd_buffer *from;
	enum qd_status st;

	QD_TRY(st, new_operands(p, &step, 1));
	QD_TRY(st, use(p, v, &step.in[0]));
	from = &p->engine->buffers[step.in[0].buffer];
	const struct qd_numbers numbers = from->numbers;
	QD_TRY(st, add_buffer(p, &numbers, (size_t)qd_shape_elements(&view->shape), from->integers, &step.out.buffer));
	step.out.view = *view;
	QD_PUSH(st, p->tails, p->n_tails, p->cap_tails, ((struct qd_tail){ .result = QD_NONE }));
	QD_PUSH(st, p->engine->steps, p->engine->n_steps, p->engine->cap_steps, step);
	p->engine->buffers[step.out.buffer].last = (int)p->engine->n_steps;
	*out = step.out;
out:
	return st;
}

/* The place of a value whose elements lie in this order, one after the other. */
static enum qd_status use_ordered(struct qd_planner *p, qd_id v, const struct qd_view *view, struct qd_place *out)
{
	return qd_view_equal(&p->at[v].place.view, view) ? use(p, v, out) : copy(p, v, view, out);
}

/* The place of a value whose last dimension's elements lie side by side, rows in any order but dense. */
static enum qd_status use_rows(struct qd_planner *p, qd_id v, struct qd_place *out)
{
	const struct qd_view *view = &p->at[v].place.view;
	const struct qd_view plain = qd_view_row_major(&view->shape);
	int last = view->shape.rank - 1;

	if (qd_view_is_dense(view) && last >= 0 && (view->stride[last] == 1 || view->shape.dim[last] == 1))
		return use(p, v, out);
	return copy(p, v, &plain, out);
}

/* ---- elementwise operators ---- */

/* The view of one of its operands, by which the node can be computed in the tail of `step`; NULL: it cannot. */
static const struct qd_view *tail_view(const struct qd_planner *p, int step, const struct qd_node *node)
{
	const struct qd_shape *shape = &qd_plan_value(p, node->out[0])->shape;
	const struct qd_view *view = NULL;

	if (step < 0 || !qd_step_rows[p->engine->steps[step].kind].has_tail)
		return NULL;
	for (size_t i = 0; i < node->n_in; i++) {
		qd_id root = p->at[node->in[i]].root;
		if (!qd_plan_is_register(p, step, node->in[i], shape)) {
			if (p->at[root].step >= step)
				return NULL;
			continue;
		}
		/* Two of the chunks have to agree on the order. */
		if (view != NULL && !qd_view_equal(view, &p->at[node->in[i]].place.view))
			return NULL;
		view = &p->at[node->in[i]].place.view;
	}
	return view;
}

static enum qd_status plan_elementwise(struct qd_planner *p, const struct qd_node *node)
{
	const struct qd_shape *shape = &qd_plan_value(p, node->out[0])->shape;
	struct qd_step step = { .kind = QD_STEP_MAP, .node = node };
	struct qd_view order = qd_view_default(shape);
	const struct qd_view *view;
	int latest = -1;
	float number;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < node->n_in; i++)
		if (p->at[p->at[node->in[i]].root].step > latest)
			latest = p->at[p->at[node->in[i]].root].step;
	view = tail_view(p, latest, node);
	if (view != NULL) {
		order = *view;
		p->at[node->out[0]] = (struct qd_value_plan){ .root = node->out[0], .step = latest, .place = { QD_NONE, order } };
	} else {
		for (size_t i = node->n_in; i-- > 0;) {
			const struct qd_view *own = &p->at[node->in[i]].place.view;
			if (qd_shape_equal(&own->shape, shape) && qd_view_is_dense(own) && !qd_plan_number(p, node->in[i], &number))
				order = *own;
		}
		order.offset = 0;
		latest = (int)p->engine->n_steps;
		QD_TRY(st, push(p, &step, node->out[0], &order));
		p->tails[latest].result = QD_NONE;
	}
	/* Operands that are not in the registers need a place; they have been computed by then. */
	for (size_t i = 0; i < node->n_in; i++) {
		struct qd_place place;
		if (qd_plan_number(p, node->in[i], &number) || (view != NULL && qd_plan_is_register(p, latest, node->in[i], shape)))
			continue;
		QD_TRY(st, use(p, node->in[i], &place));
		struct qd_buffer *buffer = &p->engine->buffers[place.buffer];
		buffer->last = buffer->last < latest ? latest : buffer->last;
	}
	struct qd_tail *tail = &p->tails[latest];
	QD_PUSH(st, tail->nodes, tail->n, tail->cap, node);
out:
	return st;
}

/* ---- products ---- */

static qd_id optional(const struct qd_node *node, size_t i)
{
	return i < node->n_in ? node->in[i] : QD_NONE;
}

static bool plain_gemm(const struct qd_node *node)
{
	return qd_node_int(node, "transA", 0) == 0 && qd_node_int(node, "transB", 0) != 0 && qd_node_float(node, "alpha", 1) == 1 &&
	       qd_node_float(node, "beta", 1) == 1;
}

static bool plain_conv(const struct qd_planner *p, const struct qd_node *node)
{
	const struct qd_attr *pads = qd_node_attr(node, "pads");

	for (size_t i = 0; pads != NULL && i < pads->n_ints; i++)
		if (pads->ints[i] < 0)
			return false;
	return qd_plan_value(p, node->in[0])->shape.rank == 4 && qd_node_int(node, "group", 1) == 1 &&
	       strcmp(qd_node_string(node, "auto_pad", "NOTSET"), "NOTSET") == 0;
}

static bool is_product(const struct qd_planner *p, const struct qd_node *node)
{
	qd_id bias = optional(node, 2);
	const struct qd_shape *b = bias != QD_NONE ? &qd_plan_value(p, bias)->shape : NULL;

	if (b != NULL && (!p->at[bias].constant || b->rank != 1 || b->dim[0] != qd_plan_value(p, node->in[1])->shape.dim[0]))
		return false;
	if (qd_plan_value(p, node->in[0])->dtype != QD_F32 || qd_plan_value(p, node->in[1])->dtype != QD_F32)
		return false;
	return node->op == QD_OP_CONV ? plain_conv(p, node) : node->op == QD_OP_GEMM && plain_gemm(node);
}

static enum qd_status constant_floats(struct qd_planner *p, qd_id v, const float **out)
{
	struct qd_place place;
	enum qd_status st = QD_OK;

	*out = NULL;
	if (v == QD_NONE)
		return QD_OK;
	QD_TRY(st, use(p, v, &place));
	*out = p->engine->buffers[place.buffer].numbers.at;
out:
	return st;
}

static enum qd_status plan_product(struct qd_planner *p, const struct qd_node *node)
{
	struct qd_step step = { .kind = QD_STEP_PRODUCT, .node = node };
	qd_id weight = node->in[1], y = node->out[0];
	const struct qd_view x = qd_view_default(&qd_plan_value(p, node->in[0])->shape),
			     order = qd_view_default(&qd_plan_value(p, y)->shape);
	bool fixed = qd_plan_value(p, weight)->kind != QD_RESULT;
	enum qd_status st;

	QD_TRY(st, new_operands(p, &step, 2));
	QD_TRY(st, use_ordered(p, node->in[0], &x, &step.in[0]));
	step.in[1].buffer = QD_NONE;
	if (!fixed) {
		const struct qd_view w = qd_view_row_major(&qd_plan_value(p, weight)->shape);
		QD_TRY(st, use_ordered(p, weight, &w, &step.in[1]));
	}
	QD_TRY(st, constant_floats(p, optional(node, 2), &step.bias));
	QD_TRY(st, push(p, &step, y, &order));
	if (qd_plan_value(p, weight)->kind == QD_INPUT) {
		const struct qd_feeding feeding = { weight, (uint32_t)p->engine->n_steps - 1 };
		QD_PUSH(st, p->engine->feedings, p->engine->n_feedings, p->engine->cap_feedings, feeding);
	}
out:
	return st;
}

/* ---- attention ---- */

/* Rows of d elements side by side, whatever lies between rows and heads. */
static enum qd_status use_heads(struct qd_planner *p, qd_id v, bool transposed, struct qd_place *out)
{
	struct qd_view view = p->at[v].place.view;
	int rank = view.shape.rank, last = transposed ? rank - 2 : rank - 1;
	enum qd_status st;

	if (view.stride[last] == 1 || view.shape.dim[last] == 1) {
		QD_TRY(st, use(p, v, out));
	} else {
		static const int orders[2][2][4] = { { { 0, 1, 2, 0 }, { 0, 2, 1, 0 } }, { { 0, 1, 2, 3 }, { 0, 1, 3, 2 } } };
		const struct qd_view plain = qd_view_ordered(&view.shape, orders[rank - 3][transposed]);
		QD_TRY(st, copy(p, v, &plain, out));
	}
	if (transposed) {
		struct qd_view *k = &out->view;
		int64_t dim = k->shape.dim[rank - 1], stride = k->stride[rank - 1];
		k->shape.dim[rank - 1] = k->shape.dim[rank - 2];
		k->stride[rank - 1] = k->stride[rank - 2];
		k->shape.dim[rank - 2] = dim;
		k->stride[rank - 2] = stride;
	}
out:
	return st;
}

static enum qd_status plan_attention(struct qd_planner *p, const struct qd_node *node, const struct qd_attention_plan *a)
{
	/* Heads side by side in a row, as the layer that follows wants them. */
	static const int heads_last[] = { 0, 2, 1, 3 };
	struct qd_step step = { .kind = QD_STEP_ATTENTION, .node = node, .factor = a->scale };
	const struct qd_shape *shape = &qd_plan_value(p, node->out[0])->shape;
	const struct qd_view order = shape->rank == 4 ? qd_view_ordered(shape, heads_last) : qd_view_row_major(shape);
	enum qd_status st;

	for (int i = 0; i < 3; i++) {
		step.has_grid[i] = a->grids[i] != NULL;
		step.grids[i] = qd_numbers_under(a->grids[i]);
		step.inner[i] = qd_engine_sees(p->engine, a->values[i]) ? a->values[i] : QD_NONE;
	}
	QD_TRY(st, new_operands(p, &step, 3));
	QD_TRY(st, use_heads(p, a->q, false, &step.in[0]));
	QD_TRY(st, use_heads(p, a->keys, true, &step.in[1]));
	QD_TRY(st, use_heads(p, node->in[1], false, &step.in[2]));
	QD_TRY(st, push(p, &step, node->out[0], &order));
out:
	return st;
}

/* ---- the others ---- */

static bool constant_or_none(const struct qd_planner *p, qd_id v)
{
	return v == QD_NONE || p->at[v].constant;
}

static bool is_norm(const struct qd_planner *p, const struct qd_node *node)
{
	const struct qd_shape *x = &qd_plan_value(p, node->in[0])->shape;
	int64_t axis = qd_node_int(node, "axis", -1), channels = x->rank > 0 ? x->dim[x->rank - 1] : 0;
	qd_id scale = node->in[1], bias = optional(node, 2);

	if (qd_plan_value(p, node->in[0])->dtype != QD_F32 || !constant_or_none(p, scale) || !constant_or_none(p, bias))
		return false;
	if (node->op == QD_OP_GROUP_NORM)
		return x->rank == 4;
	return (axis == -1 || axis == x->rank - 1) && node->n_out == 1 &&
	       qd_shape_elements(&qd_plan_value(p, scale)->shape) == channels &&
	       (bias == QD_NONE || qd_shape_elements(&qd_plan_value(p, bias)->shape) == channels);
}

static enum qd_status plan_norm(struct qd_planner *p, const struct qd_node *node)
{
	struct qd_step step = { .kind = node->op == QD_OP_GROUP_NORM ? QD_STEP_GROUP_NORM : QD_STEP_LAYER_NORM, .node = node };
	const struct qd_view images = qd_view_default(&qd_plan_value(p, node->in[0])->shape);
	enum qd_status st;

	QD_TRY(st, new_operands(p, &step, 1));
	QD_TRY(st, constant_floats(p, node->in[1], &step.scale));
	QD_TRY(st, constant_floats(p, optional(node, 2), &step.bias));
	if (step.kind == QD_STEP_GROUP_NORM)
		QD_TRY(st, use_ordered(p, node->in[0], &images, &step.in[0]));
	else
		QD_TRY(st, use_rows(p, node->in[0], &step.in[0]));
	struct qd_view order = step.in[0].view;
	order.offset = 0;
	QD_TRY(st, push(p, &step, node->out[0], &order));
out:
	return st;
}

static bool is_row_softmax(const struct qd_planner *p, const struct qd_node *node)
{
	int64_t axis = qd_node_int(node, "axis", -1), rank = qd_plan_value(p, node->in[0])->shape.rank;

	return qd_plan_value(p, node->in[0])->dtype == QD_F32 && (axis == -1 || axis == rank - 1);
}

static enum qd_status plan_softmax(struct qd_planner *p, const struct qd_node *node)
{
	struct qd_step step = { .kind = QD_STEP_SOFTMAX, .node = node };
	enum qd_status st;

	QD_TRY(st, new_operands(p, &step, 1));
	QD_TRY(st, use_rows(p, node->in[0], &step.in[0]));
	struct qd_view order = step.in[0].view;
	order.offset = 0;
	QD_TRY(st, push(p, &step, node->out[0], &order));
out:
	return st;
}

/* Sets the place of a result that its step writes by itself. */
static enum qd_status place_result(struct qd_planner *p, qd_id v, struct qd_place *out)
{
	int step = (int)p->engine->n_steps - 1;
	enum qd_status st = use(p, v, out);

	if (st == QD_OK)
		p->engine->buffers[out->buffer].last = step;
	return st;
}

static enum qd_status plan_concat(struct qd_planner *p, const struct qd_node *node)
{
	struct qd_step step = { .kind = QD_STEP_MOVE, .node = node };
	const struct qd_view order = qd_view_default(&qd_plan_value(p, node->out[0])->shape);
	enum qd_status st;

	QD_TRY(st, new_operands(p, &step, node->n_in));
	for (size_t i = 0; i < node->n_in; i++)
		QD_TRY(st, use(p, node->in[i], &step.in[i]));
	QD_TRY(st, push(p, &step, node->out[0], &order));
	QD_TRY(st, place_result(p, node->out[0], &p->engine->steps[p->engine->n_steps - 1].out));
out:
	return st;
}

/* To the nearest pixel at or before, images larger or smaller. */
static bool is_nearest(const struct qd_planner *p, const struct qd_node *node)
{
	const struct qd_shape *x = &qd_plan_value(p, node->in[0])->shape, *y = &qd_plan_value(p, node->out[0])->shape;

	return x->rank == 4 && y->dim[0] == x->dim[0] && y->dim[1] == x->dim[1] && qd_plan_value(p, node->in[0])->dtype == QD_F32 &&
	       y->dim[2] % x->dim[2] == 0 && y->dim[3] % x->dim[3] == 0 &&
	       strcmp(qd_node_string(node, "mode", "nearest"), "nearest") == 0 &&
	       strcmp(qd_node_string(node, "nearest_mode", "round_prefer_floor"), "floor") == 0 &&
	       strcmp(qd_node_string(node, "coordinate_transformation_mode", "half_pixel"), "asymmetric") == 0;
}

/* What a node that only moves numbers gives lies on the grid of what it takes, unless it says its own. */
static enum qd_status place_moved(struct qd_planner *p, qd_id v, const struct qd_place *from, struct qd_place *out)
{
	const struct qd_buffer *b = &p->engine->buffers[from->buffer];
	const struct qd_numbers numbers = b->numbers;
	int step = (int)p->engine->n_steps - 1;
	enum qd_status st;

	if (qd_plan_grid(p, v) != NULL)
		return place_result(p, v, out);
	st = add_buffer(p, &numbers, (size_t)qd_shape_elements(&qd_plan_value(p, v)->shape), b->integers, &p->at[v].place.buffer);
	if (st == QD_OK) {
		p->engine->buffers[p->at[v].place.buffer].first = p->engine->buffers[p->at[v].place.buffer].last = step;
		*out = p->at[v].place;
	}
	return st;
}

/* A reshape that strides cannot express: a copy in row-major order, which any shape is a view of. */
static enum qd_status plan_reshaping_copy(struct qd_planner *p, const struct qd_node *node)
{
	struct qd_step step = { .kind = QD_STEP_MOVE };
	const struct qd_view order = qd_view_row_major(&qd_plan_value(p, node->out[0])->shape),
			     from = qd_view_row_major(&qd_plan_value(p, node->in[0])->shape);
	struct qd_place *out;
	enum qd_status st;

	QD_TRY(st, new_operands(p, &step, 1));
	QD_TRY(st, use(p, node->in[0], &step.in[0]));
	QD_TRY(st, push(p, &step, node->out[0], &order));
	out = &p->engine->steps[p->engine->n_steps - 1].out;
	QD_TRY(st, place_moved(p, node->out[0], &step.in[0], out));
	out->view = from;
out:
	return st;
}

static enum qd_status plan_resize(struct qd_planner *p, const struct qd_node *node)
{
	struct qd_step step = { .kind = QD_STEP_RESIZE, .node = node };
	const struct qd_view images = qd_view_default(&qd_plan_value(p, node->in[0])->shape),
			     order = qd_view_default(&qd_plan_value(p, node->out[0])->shape);
	enum qd_status st;

	QD_TRY(st, new_operands(p, &step, 1));
	QD_TRY(st, use_ordered(p, node->in[0], &images, &step.in[0]));
	QD_TRY(st, push(p, &step, node->out[0], &order));
	QD_TRY(st, place_moved(p, node->out[0], &step.in[0], &p->engine->steps[p->engine->n_steps - 1].out));
out:
	return st;
}

static enum qd_status plan_node(struct qd_planner *p, const struct qd_node *node)
{
	struct qd_step step = { .kind = QD_STEP_NODE, .node = node };
	bool moves = (qd_op(node->op)->flags & QD_OPF_VIEW) != 0;
	enum qd_status st;

	qd_log(QD_LOG_DEBUG, "node '%s' (%s) has no step of its own: the evaluator computes it", node->name, qd_op(node->op)->name);
	QD_TRY(st, new_operands(p, &step, node->n_in));
	step.outs = qd_arena_array(&p->engine->arena, node->n_out, sizeof(*step.outs));
	if (step.outs == NULL)
		QD_TRY(st, QD_ENOMEM);
	for (size_t i = 0; i < node->n_in; i++) {
		qd_id v = node->in[i];
		step.in[i].buffer = QD_NONE;
		/* What the evaluator can read where it lies in its file is not copied. */
		if (v != QD_NONE && !(qd_plan_value(p, v)->kind == QD_WEIGHT && qd_is_readable(qd_plan_value(p, v))))
			QD_TRY(st, use(p, v, &step.in[i]));
	}
	for (size_t i = 0; i < node->n_out; i++) {
		const struct qd_view order = qd_view_row_major(&qd_plan_value(p, node->out[i])->shape);
		if (i == 0)
			QD_TRY(st, push(p, &step, node->out[0], &order));
		else
			p->at[node->out[i]] = (struct qd_value_plan){
				.root = node->out[i], .step = (int)p->engine->n_steps - 1, .place = { QD_NONE, order }
			};
		if (moves && step.in[0].buffer != QD_NONE && qd_plan_value(p, node->out[i])->dtype == QD_F32)
			QD_TRY(st, place_moved(p, node->out[i], &step.in[0], &step.outs[i]));
		else
			QD_TRY(st, place_result(p, node->out[i], &step.outs[i]));
	}
out:
	return st;
}

/* A node of constants is computed now. */
static enum qd_status plan_constant(struct qd_planner *p, const struct qd_node *node)
{
	struct qd_tensor *in = calloc(node->n_in + node->n_out + 1, sizeof(*in)), *out = in + node->n_in;
	const struct qd_tensor **refs = calloc(node->n_in + 1, sizeof(*refs));
	enum qd_status st = QD_OK;

	if (in == NULL || refs == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t i = 0; i < node->n_in; i++) {
		struct qd_place place;
		if (node->in[i] == QD_NONE)
			continue;
		QD_TRY(st, use(p, node->in[i], &place));
		const struct qd_value *v = qd_plan_value(p, node->in[i]);
		QD_TRY(st, qd_tensor_new(&in[i], v->name, qd_dtype_is_float(v->dtype) ? QD_F32 : QD_I64, &v->shape));
		qd_place_read(p->engine, &place, in[i].data);
		refs[i] = &in[i];
	}
	QD_TRY(st, qd_eval_node(p->g, node, refs, out));
	for (size_t i = 0; i < node->n_out; i++) {
		const struct qd_value *v = qd_plan_value(p, node->out[i]);
		const struct qd_numbers floats = { .form = QD_FORM_F32 };
		struct qd_place place = { .view = qd_view_row_major(&v->shape) };
		QD_TRY(st,
			add_buffer(p, &floats, (size_t)qd_shape_elements(&v->shape), !qd_dtype_is_float(v->dtype), &place.buffer));
		QD_TRY(st, give_memory(p, place.buffer));
		if (qd_plan_grid(p, node->out[i]) != NULL)
			qd_quantize(qd_plan_grid(p, node->out[i]), &v->shape, out[i].data, NULL, out[i].data);
		qd_place_write(p->engine, &place, out[i].data);
		p->at[node->out[i]] = (struct qd_value_plan){ .root = node->out[i], .step = -1, .constant = true, .place = place };
		keep_number(p, node->out[i], &out[i]);
	}
out:
	for (size_t i = 0; in != NULL && i < node->n_in + node->n_out; i++)
		qd_tensor_release(&in[i]);
	free(in);
	free(refs);
	return st;
}

/* ---- nodes ---- */

static bool all_constant(const struct qd_planner *p, const struct qd_node *node)
{
	for (size_t i = 0; i < node->n_in; i++)
		if (!constant_or_none(p, node->in[i]))
			return false;
	return true;
}

/* Whether a node is nothing but other strides: all of its results then are. A value that says its own grid is computed. */
static enum qd_status plan_view(struct qd_planner *p, const struct qd_node *node, bool *is_view)
{
	const struct qd_value_plan from = p->at[node->in[0]];
	struct qd_view view;
	enum qd_status st = QD_OK;

	*is_view = true;
	for (size_t i = 0; i < node->n_out && *is_view; i++) {
		QD_TRY(st, qd_view_of_node(p->g, node, i, &from.place.view, &view, is_view));
		*is_view = *is_view && qd_plan_grid(p, node->out[i]) == NULL;
	}
	for (size_t i = 0; i < node->n_out && *is_view; i++) {
		QD_TRY(st, qd_view_of_node(p->g, node, i, &from.place.view, &view, is_view));
		p->at[node->out[i]] = (struct qd_value_plan){
			.root = from.root, .step = from.step, .constant = from.constant, .place = { QD_NONE, view }
		};
	}
out:
	return st;
}

static enum qd_status plan_one(struct qd_planner *p, qd_id id)
{
	const struct qd_node *node = &p->g->nodes[id];
	bool is_view = false;
	enum qd_status st = QD_OK;

	if (p->swallowed[id])
		return QD_OK;
	if (p->attention[id] != NULL)
		return plan_attention(p, node, p->attention[id]);
	if (all_constant(p, node))
		return plan_constant(p, node);
	if (node->n_in > 0 && node->in[0] != QD_NONE && (qd_op(node->op)->flags & QD_OPF_VIEW) != 0)
		st = plan_view(p, node, &is_view);
	if (st != QD_OK || is_view)
		return st;
	if (qd_program_has(p->g, node))
		return plan_elementwise(p, node);
	switch (node->op) {
	case QD_OP_RESHAPE:
	case QD_OP_UNSQUEEZE:
	case QD_OP_SQUEEZE:
	case QD_OP_FLATTEN:
		return qd_plan_grid(p, node->out[0]) == NULL ? plan_reshaping_copy(p, node) : plan_node(p, node);
	case QD_OP_CONV:
	case QD_OP_GEMM:
		return is_product(p, node) ? plan_product(p, node) : plan_node(p, node);
	case QD_OP_GROUP_NORM:
	case QD_OP_LAYER_NORM:
		return is_norm(p, node) ? plan_norm(p, node) : plan_node(p, node);
	case QD_OP_SOFTMAX:
		return is_row_softmax(p, node) ? plan_softmax(p, node) : plan_node(p, node);
	case QD_OP_CONCAT:
		return qd_plan_value(p, node->out[0])->dtype == QD_F32 ? plan_concat(p, node) : plan_node(p, node);
	case QD_OP_RESIZE:
		return is_nearest(p, node) ? plan_resize(p, node) : plan_node(p, node);
	default:
		return plan_node(p, node);
	}
}

/* ---- the whole ---- */

static enum qd_status check_encodings(const struct qd_engine *engine)
{
	const struct qd_graph *g = engine->g;

	for (size_t i = 0; i < g->n_values; i++) {
		const struct qd_value *v = &g->values[i];
		if (v->dead || v->kind == QD_WEIGHT)
			continue;
		const struct qd_encoding *encoding = qd_engine_encoding(engine, (qd_id)i);
		if (encoding != NULL && (encoding->n != 1 || encoding->bits > 16))
			return qd_fail(QD_EUNSUPPORTED, "value '%s' has an encoding of %zu scales and %d bits", v->name,
				encoding->n, encoding->bits);
		if (qd_shape_elements(&v->shape) == 0)
			return qd_fail(QD_EUNSUPPORTED, "value '%s' has no elements", v->name);
	}
	return QD_OK;
}

static enum qd_status new_planner(struct qd_planner *p, struct qd_engine *e)
{
	const struct qd_graph *g = e->g;

	*p = (struct qd_planner){ .engine = e, .g = g };
	p->at = calloc(g->n_values + 1, sizeof(*p->at));
	p->uses = calloc(g->n_values + 1, sizeof(*p->uses));
	p->swallowed = calloc(g->n_nodes + 1, sizeof(*p->swallowed));
	p->attention = calloc(g->n_nodes + 1, sizeof(*p->attention));
	if (p->at == NULL || p->uses == NULL || p->swallowed == NULL || p->attention == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a plan of %zu nodes", g->n_order);
	for (qd_id v = 0; v < g->n_values; v++)
		p->at[v] = (struct qd_value_plan){ .root = v,
			.step = -1,
			.constant = g->values[v].kind == QD_WEIGHT,
			.in_register = -1,
			.place = { QD_NONE, g->values[v].kind == QD_INPUT ? qd_view_default(&g->values[v].shape)
									  : qd_view_row_major(&g->values[v].shape) } };
	for (qd_id v = 0; v < g->n_values; v++)
		if (g->values[v].kind == QD_WEIGHT)
			keep_number(p, v, &g->values[v].data);
	for (size_t i = 0; i < g->n_order; i++)
		for (size_t j = 0; j < g->nodes[g->order[i]].n_in; j++)
			if (g->nodes[g->order[i]].in[j] != QD_NONE)
				p->uses[g->nodes[g->order[i]].in[j]]++;
	for (size_t i = 0; i < g->n_outputs; i++)
		p->uses[g->outputs[i]]++;
	for (size_t i = g->n_order; i-- > 0;)
		if (g->nodes[g->order[i]].op == QD_OP_MATMUL && !p->swallowed[g->order[i]])
			qd_plan_find_attention(p, g->order[i]);
	return p->starved ? QD_ENOMEM : QD_OK;
}

static int by_step(const void *a, const void *b)
{
	const struct qd_sight *x = a, *y = b;

	if (x->step != y->step)
		return x->step < y->step ? -1 : 1;
	return x->value < y->value ? -1 : x->value > y->value;
}

/* The way back reads every value again. */
static enum qd_status plan_training(struct qd_planner *p)
{
	struct qd_place place;
	enum qd_status st = QD_OK;

	for (size_t i = 0; p->engine->options.trained != NULL && i < p->g->n_values; i++)
		if (p->at[i].root == i && !qd_plan_value(p, (qd_id)i)->dead && p->at[i].step >= 0)
			QD_TRY(st, use(p, (qd_id)i, &place));
out:
	return st;
}

/* Values that are seen need a place, and are told of after their step. */
static enum qd_status plan_sights(struct qd_planner *p)
{
	struct qd_engine *e = p->engine;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < p->g->n_values; i++) {
		qd_id v = (qd_id)i;
		struct qd_sight sight = { .value = v };
		if (!qd_engine_sees(e, v) || p->at[v].root != v || qd_plan_value(p, v)->dead ||
			(p->at[v].step < 0 && qd_plan_value(p, v)->kind != QD_INPUT))
			continue;
		/* Seeing it right after its step does not keep it longer than others do. */
		uint32_t before = p->at[v].place.buffer;
		int last = before != QD_NONE ? e->buffers[before].last : p->at[v].step;
		QD_TRY(st, use(p, v, &sight.place));
		e->buffers[sight.place.buffer].last = last;
		sight.step = p->at[v].step;
		QD_PUSH(st, e->sights, e->n_sights, e->cap_sights, sight);
	}
	if (e->n_sights > 0)
		qsort(e->sights, e->n_sights, sizeof(*e->sights), by_step);
out:
	return st;
}

/* Where inputs are written and outputs read; both outlive the run. */
static enum qd_status plan_ends(struct qd_planner *p)
{
	struct qd_engine *e = p->engine;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < p->g->n_outputs; i++)
		QD_TRY(st, use(p, p->g->outputs[i], &e->outputs[i]));
	for (qd_id v = 0; v < p->g->n_values; v++)
		if (p->g->values[v].kind == QD_INPUT)
			e->inputs[v] = p->at[v].place;
out:
	return st;
}

enum qd_status qd_engine_plan(struct qd_engine *e)
{
	struct qd_planner p = { 0 };
	enum qd_status st;

	QD_TRY(st, check_encodings(e));
	QD_TRY(st, new_planner(&p, e));
	for (size_t i = 0; i < e->g->n_order; i++) {
		st = plan_one(&p, e->g->order[i]);
		QD_TRY(st, qd_prefix(st, "node '%s' (%s)", e->g->nodes[e->g->order[i]].name,
				   qd_op(e->g->nodes[e->g->order[i]].op)->name));
	}
	QD_TRY(st, plan_training(&p));
	QD_TRY(st, plan_sights(&p));
	QD_TRY(st, plan_ends(&p));
	for (size_t s = 0; s < e->n_steps; s++)
		QD_TRY(st, qd_plan_write_tail(&p, s));
out:
	for (size_t i = 0; i < p.n_tails; i++)
		free(p.tails[i].nodes);
	free(p.tails);
	free(p.at);
	free(p.uses);
	free(p.swallowed);
	free(p.attention);
	return st;
}
