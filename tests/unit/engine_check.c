/* See engine_check.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/engine_check.h"
#include "tests/unit/scratch.h"

/* ---- values ---- */

static void values_new(struct engine_values *values, const struct qd_graph *g)
{
	values->n = g->n_values;
	values->at = calloc(g->n_values + 1, sizeof(*values->at));
}

void engine_values_release(struct engine_values *values)
{
	for (size_t i = 0; i < values->n; i++)
		qd_tensor_release(&values->at[i]);
	free(values->at);
	*values = (struct engine_values){ 0 };
}

static void tensor_of(const struct qd_graph *g, qd_id id, struct qd_tensor *out)
{
	const struct qd_value *v = &g->values[id];

	OK(qd_tensor_new(out, v->name, qd_dtype_is_float(v->dtype) ? QD_F32 : QD_I64, &v->shape));
}

static size_t elements(const struct qd_graph *g, qd_id id)
{
	return (size_t)qd_shape_elements(&g->values[id].shape);
}

void engine_inputs(struct engine_values *values, const struct qd_graph *g, struct qd_random *random)
{
	values_new(values, g);
	for (size_t i = 0; i < g->n_inputs; i++) {
		struct qd_tensor *t = &values->at[g->inputs[i]];

		tensor_of(g, g->inputs[i], t);
		for (size_t k = 0; k < elements(g, g->inputs[i]); k++)
			if (t->dtype == QD_F32)
				((float *)t->data)[k] = (float)qd_random_normal(random);
			else
				((int64_t *)t->data)[k] = (int64_t)qd_random_below(random, 3);
	}
}

/* ---- the evaluator ---- */

/* The grid on whose codes a value exists: its own, or that of what it is a view of. */
static const struct qd_encoding *codes_of(const struct qd_graph *g, qd_id id)
{
	const struct qd_value *v = &g->values[id];

	if (v->kind == QD_WEIGHT)
		return NULL;
	if (v->encoding != NULL || v->kind == QD_INPUT || (qd_op(g->nodes[v->producer].op)->flags & QD_OPF_VIEW) == 0)
		return v->encoding;
	return codes_of(g, g->nodes[v->producer].in[0]);
}

static bool multiplies_codes(const struct qd_graph *g, const struct qd_node *node)
{
	const struct qd_encoding *w;

	if (node->op != QD_OP_CONV && node->op != QD_OP_GEMM)
		return false;
	w = g->values[node->in[1]].encoding;
	return codes_of(g, node->in[0]) != NULL && w != NULL && g->values[node->in[1]].kind != QD_RESULT && w->is_signed &&
	       (w->n == 1 || w->axis == 0);
}

/* Multiples of a grid's scales as floats. */
static void to_multiples(const struct qd_encoding *e, const struct qd_tensor *x, struct qd_tensor *out)
{
	size_t n = (size_t)qd_shape_elements(&x->shape), row = n / (e->n == 1 ? 1 : e->n);

	OK(qd_tensor_new(out, NULL, QD_F32, &x->shape));
	for (size_t i = 0; i < n; i++)
		((float *)out->data)[i] = rintf(((const float *)x->data)[i] / e->scale[e->n == 1 ? 0 : i / row]);
}

/*
 * As the engine promises: the sum of products of codes, which the evaluator computes exactly in double, is rounded to float32 once;
 * its scale and the bias come to it in float32. So codes of the result are equal, not just close.
 */
static void multiply_codes(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, struct qd_tensor *out)
{
	const struct qd_encoding *x = codes_of(g, node->in[0]), *w = g->values[node->in[1]].encoding;
	const struct qd_shape *shape = &g->values[node->out[0]].shape;
	size_t n = elements(g, node->out[0]), channels = (size_t)shape->dim[1], inner = n / channels / (size_t)shape->dim[0];
	const float *bias = node->n_in > 2 && in[2] != NULL ? in[2]->data : NULL;
	struct qd_node bare = *node;
	struct qd_tensor codes[2];
	const struct qd_tensor *refs[2] = { &codes[0], &codes[1] };
	float *y;

	bare.n_in = 2;
	to_multiples(x, in[0], &codes[0]);
	to_multiples(w, in[1], &codes[1]);
	OK(qd_eval_node(g, &bare, refs, out));
	y = out->data;
	for (size_t i = 0; i < n; i++) {
		size_t c = i / inner % channels;
		y[i] = y[i] * (x->scale[0] * w->scale[w->n == 1 ? 0 : c]);
		if (bias != NULL)
			y[i] += bias[c];
	}
	qd_tensor_release(&codes[0]);
	qd_tensor_release(&codes[1]);
}

/* The results of a node, not rounded. */
static void compute(const struct qd_graph *g, const struct qd_node *node, const struct engine_values *values, bool simulate,
	struct qd_tensor *out)
{
	const struct qd_tensor **in = calloc(node->n_in + 1, sizeof(*in));

	for (size_t i = 0; i < node->n_in; i++)
		in[i] = node->in[i] != QD_NONE ? &values->at[node->in[i]] : NULL;
	if (simulate && multiplies_codes(g, node))
		multiply_codes(g, node, in, out);
	else
		OK(qd_eval_node(g, node, in, out));
	free(in);
}

static void onto_grid(const struct qd_graph *g, qd_id id, struct qd_tensor *t)
{
	if (g->values[id].encoding != NULL)
		qd_quantize(g->values[id].encoding, &g->values[id].shape, t->data, NULL, t->data);
}

/* Inputs and weights. */
static void begin(struct engine_values *values, const struct qd_graph *g, const struct engine_values *inputs, bool simulate)
{
	values_new(values, g);
	for (qd_id id = 0; id < g->n_values; id++) {
		const struct qd_value *v = &g->values[id];
		struct qd_tensor *t = &values->at[id];

		if (v->dead || v->kind == QD_RESULT)
			continue;
		if (v->kind == QD_WEIGHT && !qd_dtype_is_float(v->dtype)) {
			OK(qd_graph_constant(g, id, t));
			continue;
		}
		tensor_of(g, id, t);
		if (v->kind == QD_INPUT)
			memcpy(t->data, inputs->at[id].data, t->bytes);
		else
			OK(qd_tensor_to_f32(&v->data, t->data));
		if (simulate)
			onto_grid(g, id, t);
	}
}

void engine_reference(struct engine_values *values, const struct qd_graph *g, const struct engine_values *inputs, bool simulate)
{
	begin(values, g, inputs, simulate);
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		struct qd_tensor *out = calloc(node->n_out, sizeof(*out));

		compute(g, node, values, simulate, out);
		for (size_t k = 0; k < node->n_out; k++) {
			values->at[node->out[k]] = out[k];
			if (simulate)
				onto_grid(g, node->out[k], &values->at[node->out[k]]);
		}
		free(out);
	}
}

/* ---- comparing ---- */

/* A number within the range of a grid, in steps from 0. */
static double clipped(const struct qd_encoding *e, float x)
{
	double low = (double)qd_encoding_low(e) - (double)e->zero_point[0],
	       high = (double)qd_encoding_high(e) - (double)e->zero_point[0], steps = (double)(x / e->scale[0]);

	return steps < low ? low : steps > high ? high : steps;
}

/* Scores, scaled scores or weights of an attention. */
static bool is_inside_attention(const struct qd_graph *g, qd_id id)
{
	const struct qd_node *softmax = qd_made_by(g, id, QD_OP_SOFTMAX),
			     *mul = qd_made_by(g, softmax != NULL ? softmax->in[0] : id, QD_OP_MUL);
	qd_id scores = mul != NULL ? mul->in[0] : softmax != NULL ? softmax->in[0] : id;

	if (qd_graph_is_output(g, id) || g->values[id].shape.rank < 3 || qd_made_by(g, scores, QD_OP_MATMUL) == NULL)
		return false;
	if (softmax != NULL || mul != NULL)
		return true;
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		if ((node->op == QD_OP_MUL || node->op == QD_OP_SOFTMAX) && node->in[0] == id)
			return true;
	}
	return false;
}

static bool ends_attention(const struct qd_graph *g, const struct qd_node *node)
{
	return node->op == QD_OP_MATMUL && is_inside_attention(g, node->in[0]);
}

/* Whether the engine has arithmetic of its own for a node: sums in another order, exponentials; all else gives the same bits. */
static bool is_approximate(const struct qd_graph *g, const struct qd_node *node, bool simulate)
{
	switch (node->op) {
	case QD_OP_CONV:
	case QD_OP_GEMM:
		return !simulate || !multiplies_codes(g, node);
	case QD_OP_SIGMOID:
	case QD_OP_GELU:
	case QD_OP_SOFTMAX:
	case QD_OP_GROUP_NORM:
	case QD_OP_LAYER_NORM:
		return true;
	default:
		return ends_attention(g, node);
	}
}

static float range_of(const float *x, size_t n)
{
	float range = 0;

	for (size_t i = 0; i < n; i++)
		range = fmaxf(range, fabsf(x[i]));
	return range;
}

/*
 * What is more than the result's own roundings: a product's sum of K terms may be much smaller than they are; a normalization makes
 * the mean's rounding as large as the numbers, a row or a group at a time, are near one another. 0 for other nodes.
 */
static float of_operands(const struct qd_graph *g, const struct qd_node *node, const struct engine_values *values)
{
	const struct qd_tensor *x = &values->at[node->in[0]];
	const float *at = x->data;
	size_t n = elements(g, node->in[0]), block = (size_t)x->shape.dim[x->shape.rank > 0 ? x->shape.rank - 1 : 0];
	double most = 0;

	if (node->op == QD_OP_CONV || node->op == QD_OP_GEMM) {
		double terms = (double)elements(g, node->in[1]) / (double)g->values[node->in[1]].shape.dim[0];
		return 0x1p-23f * (float)sqrt(terms) * range_of(at, n) *
		       range_of(values->at[node->in[1]].data, elements(g, node->in[1]));
	}
	if (node->op != QD_OP_GROUP_NORM && node->op != QD_OP_LAYER_NORM)
		return 0;
	if (node->op == QD_OP_GROUP_NORM)
		block = n / (size_t)(x->shape.dim[0] * qd_node_int(node, "num_groups", 1));
	for (; n >= block; n -= block, at += block) {
		double mean = 0, variance = qd_node_float(node, "epsilon", 1e-5f);
		for (size_t i = 0; i < block; i++)
			mean += (double)at[i] / (double)block;
		for (size_t i = 0; i < block; i++)
			variance += ((double)at[i] - mean) * ((double)at[i] - mean) / (double)block;
		most = fmax(most, fabs(mean) / sqrt(variance));
	}
	return 0x1p-22f * (float)most * range_of(values->at[node->in[1]].data, elements(g, node->in[1]));
}

/*
 * Floats: a few roundings of the largest number apart. Codes: equal, but where the evaluator's number, in steps of the grid, lies so
 * near the middle between two codes that such a difference decides; float32 knows a number of 16 bits to 2^-8 of a step.
 */
static void assert_near(const struct qd_graph *g, qd_id id, bool simulate, const float *got, const float *want, float more)
{
	const struct qd_encoding *e = simulate ? g->values[id].encoding : NULL;
	size_t n = elements(g, id);
	float range = range_of(want, n);

	for (size_t i = 0; i < n; i++) {
		if (e == NULL) {
			if (!(fabsf(got[i] - want[i]) <= 4e-6f * range + more))
				fail_msg("value '%s', element %zu of %zu: %.9g, needs %.9g; range %g", g->values[id].name, i, n,
					(double)got[i], (double)want[i], (double)range);
			continue;
		}
		double code = rint((double)(got[i] / e->scale[0])), exact = clipped(e, want[i]);
		if (!(fabs(code - exact) <= 0.5 + 0.02 + (double)(more / e->scale[0])))
			fail_msg("value '%s' of %d bits, element %zu of %zu: code %.0f, needs %.9g", g->values[id].name, e->bits, i,
				n, code, exact);
	}
}

static void assert_equal(const struct qd_graph *g, qd_id id, const float *got, const float *want)
{
	size_t n = elements(g, id);

	for (size_t i = 0; i < n; i++)
		if (!(got[i] == want[i]))
			fail_msg("value '%s', element %zu of %zu: %.9g, needs %.9g", g->values[id].name, i, n, (double)got[i],
				(double)want[i]);
}

/*
 * Attention whose scores or weights have grids: one of these that falls to the other side of a middle moves the result by about a
 * step of its grid, which is far more than a rounding. It happens to few.
 */
static void assert_attention(const struct qd_graph *g, qd_id id, bool simulate, const float *got, const float *want)
{
	const struct qd_encoding *e = simulate ? g->values[id].encoding : NULL;
	size_t n = elements(g, id), far = 0;
	float range = range_of(want, n), step = e != NULL ? e->scale[0] : 0;

	for (size_t i = 0; i < n; i++) {
		float exact = e != NULL ? (float)clipped(e, want[i]) * step : want[i], difference = fabsf(got[i] - exact);

		far += !(difference <= 0.51f * step + 4e-6f * range);
		if (!(difference <= (simulate ? 1.01f * step + 0.02f * range : 4e-6f * range)))
			fail_msg("value '%s', element %zu of %zu: %.9g, needs %.9g; range %g", g->values[id].name, i, n,
				(double)got[i], (double)want[i], (double)range);
	}
	/* a row of them at a time */
	if (far > n / 20 + (size_t)g->values[id].shape.dim[g->values[id].shape.rank - 1])
		fail_msg("value '%s': %zu of %zu elements are apart", g->values[id].name, far, n);
}

/* ---- engines ---- */

struct qd_engine *engine_fed(const struct qd_graph *g, const struct qd_engine_options *options, const struct engine_values *inputs)
{
	struct qd_engine *engine;

	OK(qd_engine_new(&engine, g, options));
	for (size_t i = 0; i < g->n_inputs; i++)
		OK(qd_engine_feed(engine, g->inputs[i], &inputs->at[g->inputs[i]]));
	return engine;
}

/* Runs and reads all outputs, which are float. */
static void run(struct qd_engine *engine, const struct qd_graph *g, struct engine_values *out)
{
	values_new(out, g);
	OK(qd_engine_run(engine));
	for (size_t i = 0; i < g->n_outputs; i++) {
		struct qd_tensor *t = &out->at[g->outputs[i]];

		if (t->data == NULL)
			tensor_of(g, g->outputs[i], t);
		OK(qd_engine_read(engine, i, t->data));
	}
}

static void assert_same_bytes(const struct qd_graph *g, const struct engine_values *got, const struct engine_values *want)
{
	for (qd_id id = 0; id < want->n; id++)
		if (want->at[id].data != NULL && memcmp(got->at[id].data, want->at[id].data, want->at[id].bytes) != 0)
			assert_equal(g, id, got->at[id].data, want->at[id].data);
}

/* ---- the plan ---- */

static bool meet(const struct qd_buffer *a, const struct qd_buffer *b)
{
	return a->first <= b->last && b->first <= a->last;
}

static void assert_there(const struct qd_engine *e, uint32_t buffer, size_t step)
{
	if (buffer == QD_NONE || e->buffers[buffer].own)
		return;
	if (e->buffers[buffer].first > (int)step || e->buffers[buffer].last < (int)step)
		fail_msg("step %zu (%s) needs a buffer of steps %d to %d", step, qd_step_rows[e->steps[step].kind].name,
			e->buffers[buffer].first, e->buffers[buffer].last);
}

size_t engine_check_plan(const struct qd_engine *e)
{
	size_t most = 0;

	for (size_t s = 0; s < e->n_steps; s++) {
		const struct qd_step *step = &e->steps[s];
		size_t bytes = 0;

		for (size_t i = 0; i < step->n_in; i++)
			assert_there(e, step->in[i].buffer, s);
		assert_there(e, step->out.buffer, s);
		for (size_t i = 0; step->outs != NULL && i < step->node->n_out; i++)
			assert_there(e, step->outs[i].buffer, s);
		for (size_t i = 0; i < step->tail.n; i++)
			if (step->tail.code[i].code == QD_CODE_LOAD || step->tail.code[i].code == QD_CODE_STORE)
				assert_there(e, step->tail.code[i].buffer, s);
		for (size_t b = 0; b < e->n_buffers; b++)
			if (!e->buffers[b].own && e->buffers[b].first <= (int)s && e->buffers[b].last >= (int)s)
				bytes += (e->buffers[b].bytes + 63) / 64 * 64;
		most = most > bytes ? most : bytes;
	}
	for (size_t i = 0; i < e->n_buffers; i++) {
		const struct qd_buffer *a = &e->buffers[i];

		if (a->own)
			continue;
		assert_true(a->offset + a->bytes <= e->block_bytes);
		for (size_t j = 0; j < i; j++) {
			const struct qd_buffer *b = &e->buffers[j];
			if (!b->own && meet(a, b) && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes)
				fail_msg("buffers of steps %d to %d and %d to %d overlap", a->first, a->last, b->first, b->last);
		}
	}
	/* Outputs are read after the last step. */
	for (size_t i = 0; i < e->g->n_outputs; i++) {
		const struct qd_buffer *b = &e->buffers[e->outputs[i].buffer];
		assert_true(b->own || b->last >= (int)e->n_steps);
	}
	return most;
}

/* ---- who sees all ---- */

struct witness {
	const struct qd_graph *g;
	struct engine_values values; /* in the order that they were shown in */
	size_t *seen;                /* elements */
};

static enum qd_status see(void *context, qd_id value, size_t n, const float *x)
{
	struct witness *w = context;

	if (w->values.at[value].data == NULL)
		tensor_of(w->g, value, &w->values.at[value]);
	assert_true(w->seen[value] + n <= elements(w->g, value));
	memcpy((float *)w->values.at[value].data + w->seen[value], x, n * sizeof(*x));
	w->seen[value] += n;
	return QD_OK;
}

static int by_number(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static bool is_constant(const struct qd_graph *g, qd_id id)
{
	const struct qd_value *v = &g->values[id];
	const struct qd_node *node;

	if (v->kind != QD_RESULT)
		return v->kind == QD_WEIGHT;
	node = &g->nodes[v->producer];
	for (size_t i = 0; i < node->n_in; i++)
		if (node->in[i] != QD_NONE && !is_constant(g, node->in[i]))
			return false;
	return true;
}

/* Every float that is an input or computed is shown as a whole once; moved numbers may be. */
static void assert_shown(const struct witness *w, const struct engine_values *want)
{
	const struct qd_graph *g = w->g;

	for (qd_id id = 0; id < g->n_values; id++) {
		const struct qd_value *v = &g->values[id];
		bool view = v->kind == QD_RESULT && (qd_op(g->nodes[v->producer].op)->flags & QD_OPF_VIEW) != 0;
		size_t n = elements(g, id);

		if (v->dead || v->kind == QD_WEIGHT || v->dtype != QD_F32 || is_constant(g, id)) {
			assert_int_equal(w->seen[id], 0);
			continue;
		}
		if (view && v->encoding == NULL && w->seen[id] == 0)
			continue;
		if (w->seen[id] != n)
			fail_msg("of value '%s' %zu of %zu elements were shown", v->name, w->seen[id], n);
		if (want->at[id].data == NULL)
			continue;
		float *a = w->values.at[id].data, *b = malloc(n * sizeof(*b));
		memcpy(b, want->at[id].data, n * sizeof(*b));
		qsort(a, n, sizeof(*a), by_number);
		qsort(b, n, sizeof(*b), by_number);
		assert_equal(g, id, a, b);
		free(b);
	}
}

static void check_sight(
	const struct qd_graph *g, bool simulate, const struct engine_values *inputs, const struct engine_values *want)
{
	struct witness w = { .g = g, .seen = calloc(g->n_values + 1, sizeof(*w.seen)) };
	bool *seen = malloc(g->n_values + 1), attention = false;
	const struct qd_engine_options options = { .simulate = simulate, .see = see, .context = &w, .seen = seen };
	struct engine_values got;
	struct qd_engine *engine;

	values_new(&w.values, g);
	memset(seen, true, g->n_values + 1);
	for (size_t i = 0; i < g->n_order; i++)
		attention = attention || ends_attention(g, &g->nodes[g->order[i]]);
	engine = engine_fed(g, &options, inputs);
	run(engine, g, &got);
	engine_check_plan(engine);
	/* The scores that are seen are computed by another kernel than those that are not. */
	if (!attention) {
		assert_same_bytes(g, want, &got);
		assert_shown(&w, want);
	}
	qd_engine_free(engine);
	engine_values_release(&got);
	engine_values_release(&w.values);
	free(w.seen);
	free(seen);
}

/* ---- all of it ---- */

static void check_node(const struct qd_graph *g, const struct qd_node *node, bool simulate, const struct engine_values *got,
	struct engine_values *values)
{
	struct qd_tensor *out = calloc(node->n_out, sizeof(*out));

	compute(g, node, values, simulate, out);
	for (size_t k = 0; k < node->n_out; k++) {
		qd_id id = node->out[k];
		const struct qd_tensor *seen = &got->at[id];

		if (seen->data != NULL && ends_attention(g, node))
			assert_attention(g, id, simulate, seen->data, out[k].data);
		else if (seen->data != NULL && is_approximate(g, node, simulate))
			assert_near(g, id, simulate, seen->data, out[k].data, of_operands(g, node, values));
		if (simulate)
			onto_grid(g, id, &out[k]);
		if (seen->data != NULL && !is_approximate(g, node, simulate))
			assert_equal(g, id, seen->data, out[k].data);
		if (seen->data != NULL)
			memcpy(out[k].data, seen->data, out[k].bytes);
		values->at[id] = out[k];
	}
	free(out);
}

void engine_check(struct qd_graph *g, bool simulate, struct qd_random *random)
{
	const struct qd_engine_options options = { .simulate = simulate };
	struct engine_values inputs, own, again, all, values;
	struct qd_engine *engine;
	size_t n_outputs = g->n_outputs;
	int threads = omp_get_max_threads();

	engine_inputs(&inputs, g, random);
	engine = engine_fed(g, &options, &inputs);
	engine_check_plan(engine);
	run(engine, g, &own);
	run(engine, g, &again);
	assert_same_bytes(g, &again, &own);
	engine_values_release(&again);
	for (int n = 1; n <= 2; n++) {
		omp_set_num_threads(n);
		run(engine, g, &again);
		assert_same_bytes(g, &again, &own);
		engine_values_release(&again);
	}
	omp_set_num_threads(threads);
	qd_engine_free(engine);

	for (qd_id id = 0; id < g->n_values; id++)
		if (!g->values[id].dead && g->values[id].kind != QD_WEIGHT && g->values[id].dtype == QD_F32 &&
			!is_inside_attention(g, id) && !qd_graph_is_output(g, id))
			qd_graph_output(g, id);
	OK(qd_graph_status(g));
	engine = engine_fed(g, &options, &inputs);
	engine_check_plan(engine);
	run(engine, g, &all);
	qd_engine_free(engine);
	begin(&values, g, &inputs, simulate);
	for (size_t i = 0; i < g->n_inputs; i++)
		if (all.at[g->inputs[i]].data != NULL)
			assert_equal(g, g->inputs[i], all.at[g->inputs[i]].data, values.at[g->inputs[i]].data);
	for (size_t i = 0; i < g->n_order; i++)
		check_node(g, &g->nodes[g->order[i]], simulate, &all, &values);
	assert_same_bytes(g, &all, &own);
	g->n_outputs = n_outputs;
	check_sight(g, simulate, &inputs, &all);
	engine_values_release(&inputs);
	engine_values_release(&own);
	engine_values_release(&all);
	engine_values_release(&values);
}
