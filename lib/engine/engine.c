/*
 * The engine from the outside: what is fed, runs, what is read.
 */
#include "lib/engine/internal.h"

#include <stdlib.h>
#include <string.h>

struct qd_numbers qd_numbers_from(const struct qd_numbers *numbers, int64_t offset)
{
	struct qd_numbers x = *numbers;

	x.at = (char *)x.at + offset * (x.form == QD_FORM_F32 ? (int64_t)sizeof(float) : 1);
	return x;
}

const struct qd_encoding *qd_engine_encoding(const struct qd_engine *e, qd_id value)
{
	return e->options.simulate ? e->g->values[value].encoding : NULL;
}

bool qd_engine_sees(const struct qd_engine *e, qd_id value)
{
	return e->options.see != NULL && value != QD_NONE && e->options.seen[value];
}

/* ---- memory ---- */

float *qd_engine_registers(const struct qd_engine *e)
{
	return (float *)(e->registers + (size_t)qd_thread() * e->thread_bytes);
}

float *qd_engine_row(const struct qd_engine *e)
{
	return (float *)(e->registers + (size_t)qd_thread() * e->thread_bytes + e->row_offset);
}

/* The smallest that is free and large enough; a new one where there is none. */
void *qd_engine_borrow(struct qd_engine *e, size_t bytes)
{
	struct qd_loan *best = NULL, loan = { .bytes = bytes + 64, .out = true };

	for (size_t i = 0; i < e->n_loans; i++) {
		struct qd_loan *l = &e->loans[i];
		if (!l->out && l->bytes >= bytes && (best == NULL || l->bytes < best->bytes))
			best = l;
	}
	if (best != NULL) {
		best->out = true;
		return best->memory;
	}
	if (qd_grow(&e->loans, &e->cap_loans, e->n_loans + 1, sizeof(*e->loans)) != QD_OK)
		return NULL;
	loan.memory = qd_large_alloc(loan.bytes);
	if (loan.memory != NULL)
		e->loans[e->n_loans++] = loan;
	return loan.memory;
}

void qd_engine_return(struct qd_engine *e, void *memory)
{
	for (size_t i = 0; memory != NULL && i < e->n_loans; i++)
		if (e->loans[i].memory == memory)
			e->loans[i].out = false;
}

enum qd_status qd_engine_make_room(struct qd_engine *e)
{
	size_t registers = 3, row = 0; /* three: the way back's */
	int threads = qd_threads();

	for (size_t i = 0; i < e->n_steps; i++) {
		const struct qd_step *s = &e->steps[i];
		size_t n = (size_t)s->tail.registers + 1;
		registers = registers > n ? registers : n;
		e->scratch_bytes = e->scratch_bytes > s->scratch ? e->scratch_bytes : s->scratch;
		if (s->kind == QD_STEP_SOFTMAX) {
			size_t width = (size_t)s->in[0].view.shape.dim[s->in[0].view.shape.rank - 1];
			row = row > width ? row : width;
		}
	}
	e->row_offset = registers * QD_PROGRAM_CHUNK * sizeof(float);
	e->thread_bytes = (e->row_offset + row * sizeof(float) + 4096 + 63) / 64 * 64;
	if (threads > e->threads) {
		free(e->registers);
		e->registers = aligned_alloc(64, (size_t)threads * e->thread_bytes);
		e->threads = e->registers != NULL ? threads : 0;
	}
	if (e->scratch == NULL)
		e->scratch = qd_large_alloc(e->scratch_bytes + 64);
	if (e->registers == NULL || e->scratch == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %zu bytes to work in", e->scratch_bytes);
	return QD_OK;
}

enum qd_status qd_engine_new(struct qd_engine **out, const struct qd_graph *g, const struct qd_engine_options *options)
{
	struct qd_engine *e = calloc(1, sizeof(*e));
	enum qd_status st = QD_OK;

	*out = NULL;
	if (e == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for an engine");
	e->g = g;
	if (options != NULL)
		e->options = *options;
	e->inputs = calloc(g->n_values + 1, sizeof(*e->inputs));
	e->outputs = calloc(g->n_outputs + 1, sizeof(*e->outputs));
	e->fed = calloc(g->n_values + 1, sizeof(*e->fed));
	if (e->inputs == NULL || e->outputs == NULL || e->fed == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for an engine"));
	QD_TRY(st, qd_engine_plan(e));
	QD_TRY(st, qd_engine_place(e));
	if (e->options.trained != NULL)
		QD_TRY(st, qd_engine_plan_backward(e));
	QD_TRY(st, qd_engine_make_room(e));
	e->options.seen = e->options.trained = NULL;
	*out = e;
	e = NULL;
out:
	qd_engine_free(e);
	return st;
}

void qd_engine_free(struct qd_engine *e)
{
	if (e == NULL)
		return;
	for (size_t i = 0; i < e->n_steps; i++) {
		qd_product_step_free(e->steps[i].product);
		qd_product_free(e->steps[i].products[0]);
		qd_product_free(e->steps[i].products[1]);
		free(e->steps[i].tail.code);
		free(e->steps[i].trained);
	}
	for (size_t i = 0; i < e->n_buffers; i++)
		if (e->buffers[i].own)
			free(e->buffers[i].numbers.at);
	for (size_t i = 0; e->gradients != NULL && i < e->n_buffers; i++)
		free(e->gradients[i].own);
	free(e->gradients);
	free(e->links);
	for (size_t i = 0; i < e->n_loans; i++)
		qd_large_free(e->loans[i].memory, e->loans[i].bytes);
	free(e->loans);
	qd_large_free(e->gradient_block, e->gradient_bytes + 64);
	qd_large_free(e->block, e->block_bytes + 64);
	qd_large_free(e->scratch, e->scratch_bytes + 64);
	free(e->registers);
	free(e->steps);
	free(e->buffers);
	free(e->feedings);
	free(e->sights);
	free(e->inputs);
	free(e->outputs);
	free(e->fed);
	qd_arena_release(&e->arena);
	free(e);
}

/* ---- in and out ---- */

/* Visits the elements of a place in row-major order, in runs of the last dimensions: `at` is the element of the buffer. */
static void each_run(const struct qd_buffer *b, const struct qd_view *view, char *memory, bool write)
{
	const struct qd_view plain = qd_view_row_major(&view->shape);
	const struct qd_walk w = qd_walk_by(&plain, view);
	int last = w.rank - 1;
	size_t inner = (size_t)w.dim[last], outer = qd_walk_runs(&w), size = b->integers ? sizeof(int64_t) : sizeof(float);

	for (size_t o = 0; o < outer; o++) {
		int64_t at, lead;
		qd_walk_run(&w, o, &at, &lead);
		for (size_t i = 0; i < inner;) {
			size_t n = w.stride[last] == 1 ? inner : 1, from = (size_t)(at + (int64_t)i * w.stride[last]);
			char *to = memory + (o * inner + i) * size;
			if (b->integers && write)
				memcpy((int64_t *)b->numbers.at + from, to, n * size);
			else if (b->integers)
				memcpy(to, (const int64_t *)b->numbers.at + from, n * size);
			else if (write)
				qd_numbers_store(&b->numbers, from, n, (const float *)(const void *)to);
			else
				qd_numbers_load(&b->numbers, from, n, (float *)(void *)to);
			i += n;
		}
	}
}

void qd_buffer_read(const struct qd_buffer *buffer, const struct qd_view *view, void *out)
{
	each_run(buffer, view, out, false);
}

void qd_buffer_write(const struct qd_buffer *buffer, const struct qd_view *view, const void *in)
{
	each_run(buffer, view, (char *)(uintptr_t)in, true);
}

void qd_place_read(const struct qd_engine *e, const struct qd_place *place, void *out)
{
	qd_buffer_read(&e->buffers[place->buffer], &place->view, out);
}

void qd_place_write(struct qd_engine *e, const struct qd_place *place, const void *in)
{
	qd_buffer_write(&e->buffers[place->buffer], &place->view, in);
}

/* The values of any tensor as I64. */
static enum qd_status to_integers(const struct qd_tensor *t, int64_t *out)
{
	size_t n = (size_t)qd_shape_elements(&t->shape);
	float *x;
	enum qd_status st;

	if (t->dtype == QD_I64) {
		memcpy(out, t->data, n * sizeof(*out));
		return QD_OK;
	}
	x = malloc((n + 1) * sizeof(*x));
	if (x == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	st = qd_tensor_to_f32(t, x);
	for (size_t i = 0; st == QD_OK && i < n; i++)
		out[i] = (int64_t)x[i];
	free(x);
	return st;
}

enum qd_status qd_engine_feed(struct qd_engine *e, qd_id input, const struct qd_tensor *tensor)
{
	const struct qd_value *v = &e->g->values[input];
	const struct qd_place *place = &e->inputs[input];
	size_t n = (size_t)qd_shape_elements(&v->shape);
	void *values = malloc((n + 1) * sizeof(int64_t));
	enum qd_status st = QD_OK;

	if (values == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for input '%s'", v->name);
	QD_TRY(st, qd_dtype_is_float(v->dtype) ? qd_tensor_to_f32(tensor, values) : to_integers(tensor, values));
	if (place->buffer != QD_NONE)
		qd_place_write(e, place, values);
	for (size_t i = 0; i < e->n_feedings; i++)
		if (e->feedings[i].input == input)
			QD_TRY(st, qd_product_step_pack(e, &e->steps[e->feedings[i].step], values));
	e->fed[input] = true;
out:
	free(values);
	return qd_prefix(st, "input '%s'", v->name);
}

/* Shows what is seen after a step, from *next on. */
static enum qd_status show(struct qd_engine *e, int step, size_t *next)
{
	enum qd_status st = QD_OK;

	for (; st == QD_OK && *next < e->n_sights && e->sights[*next].step == step; ++*next) {
		const struct qd_sight *sight = &e->sights[*next];
		const struct qd_numbers *x = &e->buffers[sight->place.buffer].numbers;
		size_t n = e->buffers[sight->place.buffer].elements;
		float *copy = NULL;
		if (e->buffers[sight->place.buffer].integers)
			continue;
		if (x->form != QD_FORM_F32) {
			copy = malloc(n * sizeof(*copy));
			if (copy == NULL)
				return qd_fail(QD_ENOMEM, "out of memory");
			qd_numbers_load(x, 0, n, copy);
		}
		st = e->options.see(e->options.context, sight->value, n, copy != NULL ? copy : x->at);
		free(copy);
		st = qd_prefix(st, "value '%s'", e->g->values[sight->value].name);
	}
	return st;
}

enum qd_status qd_engine_run(struct qd_engine *e)
{
	size_t next = 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < e->g->n_inputs; i++)
		if (!e->fed[e->g->inputs[i]])
			return qd_fail(QD_EINPUT, "input '%s' is not bound", e->g->values[e->g->inputs[i]].name);
	QD_TRY(st, qd_engine_make_room(e));
	QD_TRY(st, show(e, -1, &next));
	for (size_t i = 0; i < e->n_steps; i++) {
		struct qd_step *s = &e->steps[i];
		double begin = qd_now();
		st = qd_step_rows[s->kind].run(e, s);
		e->seconds[s->kind] += qd_now() - begin;
		if (st != QD_OK)
			return s->node == NULL ? st : qd_prefix(st, "node '%s' (%s)", s->node->name, qd_op(s->node->op)->name);
		QD_TRY(st, show(e, (int)i, &next));
	}
out:
	return st;
}

enum qd_status qd_engine_read(struct qd_engine *e, size_t output, float *out)
{
	qd_place_read(e, &e->outputs[output], out);
	return QD_OK;
}

struct qd_engine_memory qd_engine_memory(const struct qd_engine *e)
{
	struct qd_engine_memory m = { .activations = e->block_bytes,
		.scratch = e->scratch_bytes + (size_t)e->threads * e->thread_bytes,
		.steps = e->n_steps };

	for (size_t i = 0; i < e->n_steps; i++)
		m.weights += qd_product_step_weight_bytes(e->steps[i].product);
	for (size_t i = 0; i < e->n_buffers; i++)
		m.unshared += e->buffers[i].own ? 0 : e->buffers[i].bytes;
	return m;
}

bool qd_engine_time(const struct qd_engine *e, size_t i, const char **kind, size_t *steps, double *seconds)
{
	if (i >= QD_STEP_KINDS)
		return false;
	*kind = qd_step_rows[i].name;
	*seconds = e->seconds[i];
	*steps = 0;
	for (size_t s = 0; s < e->n_steps; s++)
		*steps += (size_t)e->steps[s].kind == i;
	return true;
}

bool qd_engine_backward_time(const struct qd_engine *e, size_t i, double *seconds)
{
	if (i >= QD_STEP_KINDS)
		return false;
	*seconds = e->backward_seconds[i];
	return true;
}
