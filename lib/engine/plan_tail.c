/*
 * Writing the programs of steps, when all are planned: which registers hold what, what is stored and what only rounded; and in training
 * the links that the way back takes.
 */
#include "lib/engine/plan.h"

#include <string.h>

struct writing {
	struct qd_planner *p;
	struct qd_step *step;
	const struct qd_tail *tail;
	bool busy[64]; /* registers */
};

static enum qd_status emit(struct writing *w, const struct qd_instruction *instruction)
{
	struct qd_program *program = &w->step->tail;
	enum qd_status st;

	QD_PUSH(st, program->code, program->n, program->cap, *instruction);
out:
	return st;
}

static enum qd_status take_register(struct writing *w, int *out)
{
	for (int r = 0; r < (int)QD_COUNT(w->busy); r++) {
		if (w->busy[r])
			continue;
		w->busy[r] = true;
		w->step->tail.registers = w->step->tail.registers > r + 1 ? w->step->tail.registers : r + 1;
		*out = r;
		return QD_OK;
	}
	return qd_fail(QD_EUNSUPPORTED, "a chain of elementwise operators keeps more than %zu values", QD_COUNT(w->busy));
}

/* How often a value is an operand in the rest of the tail, from node `from` on. */
static size_t uses_in_tail(const struct writing *w, qd_id v, size_t from)
{
	size_t n = 0;

	for (size_t i = from; i < w->tail->n; i++)
		for (size_t j = 0; j < w->tail->nodes[i]->n_in; j++)
			n += w->p->at[w->tail->nodes[i]->in[j]].root == v;
	return n;
}

/* A result in its register: to its place where it has one, and onto its grid where somebody goes on with it. */
static enum qd_status emit_result(struct writing *w, qd_id v, int r, size_t next, bool placed)
{
	struct qd_value_plan *plan = &w->p->at[v];
	const struct qd_encoding *encoding = qd_plan_grid(w->p, v);
	bool wanted = uses_in_tail(w, v, next) > 0;
	enum qd_status st = QD_OK;

	plan->in_register = r;
	if (plan->place.buffer != QD_NONE && !placed) {
		QD_TRY(st, emit(w, &(struct qd_instruction){ .code = QD_CODE_STORE, .a = r, .buffer = plan->place.buffer }));
		if (encoding != NULL && wanted) {
			struct qd_instruction back = { .code = QD_CODE_LOAD, .to = r, .buffer = plan->place.buffer };
			back.walk = qd_walk_by(&plan->place.view, &plan->place.view);
			QD_TRY(st, emit(w, &back));
		}
	} else if (encoding != NULL && wanted) {
		QD_TRY(st, emit(w, &(struct qd_instruction){ .code = QD_CODE_ROUND, .to = r, .grid = qd_numbers_under(encoding) }));
	}
	w->busy[r] = wanted;
out:
	return st;
}

/* Register of operand v of tail node `at`, loaded when it is not there. */
static enum qd_status operand(struct writing *w, size_t at, qd_id v, const struct qd_view *order, int *out)
{
	struct qd_planner *p = w->p;
	qd_id root = p->at[v].root;
	struct qd_instruction load = { .code = QD_CODE_LOAD, .buffer = p->at[root].place.buffer };
	struct qd_view view = qd_view_broadcast(&p->at[v].place.view, &order->shape);
	enum qd_status st;

	if (p->at[root].step == (int)(w->step - p->engine->steps) && p->at[root].in_register >= 0 &&
		qd_plan_is_register(p, p->at[root].step, v, &order->shape)) {
		*out = p->at[root].in_register;
		w->busy[*out] = uses_in_tail(w, root, at + 1) > 0;
		return QD_OK;
	}
	QD_TRY(st, take_register(w, out));
	load.to = *out;
	load.walk = qd_walk_by(order, &view);
	QD_TRY(st, emit(w, &load));
	w->busy[*out] = false;
out:
	return st;
}

static enum qd_status emit_node(struct writing *w, size_t at)
{
	struct qd_planner *p = w->p;
	const struct qd_node *node = w->tail->nodes[at];
	const struct qd_view *order = &p->at[node->out[0]].place.view;
	struct qd_instruction op = { .code = QD_CODE_OP, .op = node->op, .b = -1 };
	int registers[2] = { -1, -1 };
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < node->n_in; i++) {
		if (qd_plan_number(p, node->in[i], &op.number)) {
			op.swapped = i == 0;
			continue;
		}
		QD_TRY(st, operand(w, at, node->in[i], order, &registers[i]));
		/* The second operand may not take the first one's register while that waits. */
		w->busy[registers[i]] = true;
	}
	op.a = registers[0] >= 0 ? registers[0] : registers[1];
	op.b = registers[0] >= 0 ? registers[1] : -1;
	for (int i = 0; i < 2; i++)
		if (registers[i] >= 0)
			w->busy[registers[i]] = false;
	for (size_t i = 0; i < node->n_in; i++) {
		qd_id root = p->at[node->in[i]].root;
		if (registers[i] >= 0 && p->at[root].in_register == registers[i] && p->at[root].step == p->at[node->out[0]].step &&
			uses_in_tail(w, root, at + 1) > 0)
			w->busy[registers[i]] = true;
	}
	QD_TRY(st, take_register(w, &op.to));
	QD_TRY(st, emit(w, &op));
	QD_TRY(st, emit_result(w, node->out[0], op.to, at + 1, false));
out:
	return st;
}

/* What a float product can add to its sums itself: the other operand of an Add that its tail begins with. */
static qd_id addend(const struct writing *w)
{
	struct qd_planner *p = w->p;
	const struct qd_node *sum = w->tail->n > 0 ? w->tail->nodes[0] : NULL;
	qd_id result = w->tail->result, other;
	size_t own;

	if (sum == NULL || sum->op != QD_OP_ADD || p->at[result].place.buffer != QD_NONE || qd_plan_grid(p, result) != NULL ||
		uses_in_tail(w, result, 0) != 1)
		return QD_NONE;
	own = p->at[sum->in[0]].root == result ? 0 : 1;
	other = sum->in[1 - own];
	const struct qd_place *place = &p->at[p->at[other].root].place;
	return place->buffer != QD_NONE && p->engine->buffers[place->buffer].numbers.form == QD_FORM_F32 &&
			       !p->engine->buffers[place->buffer].integers &&
			       qd_view_equal(&p->at[other].place.view, &p->at[sum->in[own]].place.view)
		       ? other
		       : QD_NONE;
}

/*
 * The product of a step. One of floats adds what its tail would add first, and writes its result to the result's place by itself.
 * `done`: nodes of the tail that are no longer needed; `result` is what is computed with them.
 */
static enum qd_status write_product(struct writing *w, size_t *done, qd_id *result, bool *placed)
{
	struct qd_planner *p = w->p;
	struct qd_step *step = w->step;
	bool floats = qd_product_step_is_float(p->engine, step);
	qd_id other = floats ? addend(w) : QD_NONE;

	if (other != QD_NONE) {
		struct qd_place *in = qd_arena_array(&p->engine->arena, 3, sizeof(*in));
		if (in == NULL)
			return QD_ENOMEM;
		memcpy(in, step->in, step->n_in * sizeof(*in));
		in[2] = (struct qd_place){ p->at[p->at[other].root].place.buffer, p->at[other].place.view };
		step->in = in;
		step->n_in = 3;
		*done = 1;
		*result = w->tail->nodes[0]->out[0];
	}
	if (floats && p->at[*result].place.buffer != QD_NONE && qd_plan_grid(p, *result) == NULL) {
		step->out = p->at[*result].place;
		*placed = true;
	}
	return qd_product_step_new(p->engine, step);
}

static enum qd_status add_link(struct qd_planner *p, size_t s, const struct qd_node *node)
{
	struct qd_engine *e = p->engine;
	const struct qd_place *out = &p->at[node->out[0]].place;
	struct qd_link link = { .step = (uint32_t)s, .op = node->op, .n_in = (int)node->n_in, .out = *out };
	enum qd_status st;

	for (size_t i = 0; i < node->n_in; i++) {
		bool number = qd_plan_number(p, node->in[i], &link.number);
		link.in[i].buffer = number ? QD_NONE : p->at[p->at[node->in[i]].root].place.buffer;
		link.in[i].view = qd_view_broadcast(&p->at[node->in[i]].place.view, &out->view.shape);
	}
	QD_PUSH(st, e->links, e->n_links, e->cap_links, link);
out:
	return st;
}

enum qd_status qd_plan_write_tail(struct qd_planner *p, size_t s)
{
	struct writing w = { .p = p, .step = &p->engine->steps[s], .tail = &p->tails[s] };
	size_t done = 0;
	bool placed = false;
	qd_id result = w.tail->result;
	enum qd_status st = QD_OK;

	if (w.step->kind == QD_STEP_ATTENTION)
		w.step->out = p->at[result].place;
	w.step->result.buffer = QD_NONE;
	if (w.step->kind == QD_STEP_MOVE || w.step->kind == QD_STEP_RESIZE)
		w.step->result = w.step->out;
	else if (result != QD_NONE)
		w.step->result = p->at[result].place;
	for (size_t i = 0; p->engine->options.trained != NULL && i < w.tail->n; i++)
		QD_TRY(st, add_link(p, s, w.tail->nodes[i]));
	if (!qd_step_rows[w.step->kind].has_tail)
		return QD_OK;
	w.step->out.buffer = QD_NONE;
	w.step->tail.registers = 1;
	if (w.step->kind == QD_STEP_PRODUCT)
		QD_TRY(st, write_product(&w, &done, &result, &placed));
	w.busy[0] = result != QD_NONE;
	if (result != QD_NONE)
		QD_TRY(st, emit_result(&w, result, 0, done, placed));
	for (size_t i = done; i < w.tail->n; i++)
		QD_TRY(st, emit_node(&w, i));
out:
	return st;
}
