/* The engine's way back against differences of its way forward, in float; which graphs have one; where gradients lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/engine_check.h"
#include "tests/unit/engine_help.h"
#include "tests/unit/random_help.h"
#include "tests/unit/scratch.h"

static size_t elements(const struct qd_graph *g, qd_id id)
{
	return (size_t)qd_shape_elements(&g->values[id].shape);
}

static float *normal(size_t n)
{
	float *x = malloc((n + 1) * sizeof(*x));

	for (size_t i = 0; i < n; i++)
		x[i] = (float)qd_random_normal(&random_state);
	return x;
}

/* ---- where gradients lie ---- */

/* The steps between which a gradient is needed. */
struct life {
	int first, last;
};

static void needed(struct life *lives, const struct qd_place *place, int step)
{
	struct life *l = &lives[place->buffer];

	if (place->buffer == QD_NONE)
		return;
	l->first = step < l->first ? step : l->first;
	l->last = step > l->last ? step : l->last;
}

/* From the step that computes a value to the last one that takes it: no two gradients overlap that are needed at one time. */
static void check_places(const struct qd_engine *e)
{
	struct life *lives = malloc((e->n_buffers + 1) * sizeof(*lives));

	for (size_t i = 0; i < e->n_buffers; i++)
		lives[i] = (struct life){ (int)e->n_steps, -1 };
	for (size_t s = 0; s < e->n_steps; s++) {
		for (size_t i = 0; i < e->steps[s].n_in; i++)
			needed(lives, &e->steps[s].in[i], (int)s);
		needed(lives, &e->steps[s].result, (int)s);
	}
	for (size_t l = 0; l < e->n_links; l++) {
		for (int i = 0; i < e->links[l].n_in; i++)
			needed(lives, &e->links[l].in[i], (int)e->links[l].step);
		needed(lives, &e->links[l].out, (int)e->links[l].step);
	}
	for (size_t i = 0; i < e->g->n_outputs; i++)
		needed(lives, &e->outputs[i], (int)e->n_steps);
	for (size_t i = 0; i < e->n_buffers; i++) {
		const char *at = (const char *)e->gradients[i].at;
		size_t bytes = e->buffers[i].elements * sizeof(float);
		if (!e->gradients[i].wanted || e->buffers[i].own)
			continue;
		assert_true(at >= e->gradient_block && at + bytes <= e->gradient_block + e->gradient_bytes);
		for (size_t k = 0; k < e->n_buffers; k++) {
			const char *other = (const char *)e->gradients[k].at;
			if (k == i || !e->gradients[k].wanted || lives[i].first > lives[k].last || lives[k].first > lives[i].last)
				continue;
			if (at < other + e->buffers[k].elements * sizeof(float) && other < at + bytes)
				fail_msg("gradients of steps %d to %d and %d to %d overlap", lives[i].first, lives[i].last,
					lives[k].first, lives[k].last);
		}
	}
	free(lives);
}

/* ---- gradients and differences ---- */

/* Random numbers that stay away from 0, where Relu has a corner and Div none. */
static void inputs_of(struct engine_values *inputs, const struct qd_graph *g)
{
	engine_inputs(inputs, g, &random_state);
	for (size_t i = 0; i < g->n_inputs; i++) {
		float *x = inputs->at[g->inputs[i]].data;
		for (size_t k = 0; inputs->at[g->inputs[i]].dtype == QD_F32 && k < elements(g, g->inputs[i]); k++)
			x[k] += x[k] > 0 ? 0.8f : -0.8f;
	}
}

static bool *floats_trained(const struct qd_graph *g)
{
	bool *trained = calloc(g->n_values + 1, sizeof(*trained));

	for (size_t i = 0; i < g->n_inputs; i++)
		trained[g->inputs[i]] = g->values[g->inputs[i]].dtype == QD_F32;
	return trained;
}

static double weighted_output(struct qd_engine *e, size_t output, const float *gradient)
{
	size_t n = elements(e->g, e->g->outputs[output]);
	float *y = malloc((n + 1) * sizeof(*y));
	double sum = 0;

	OK(qd_engine_run(e));
	OK(qd_engine_read(e, output, y));
	for (size_t i = 0; i < n; i++)
		sum += (double)gradient[i] * (double)y[i];
	free(y);
	return sum;
}

static float *gradient_of(struct qd_engine *e, qd_id input)
{
	float *dx = normal(elements(e->g, input));

	OK(qd_engine_gradient(e, input, dx));
	return dx;
}

/* By steps of 1/32 to both sides, two each: what is left are powers of it from the fourth on, and roundings times 32. */
static void check_differences(
	struct qd_engine *e, struct engine_values *inputs, qd_id input, size_t output, const float *gradient, const float *got)
{
	static const double at[] = { -2, -1, 1, 2 }, times[] = { 1, -8, 8, -1 };
	const struct qd_tensor *t = &inputs->at[input];
	float *x = t->data, range = 0;
	size_t n = elements(e->g, input);

	for (size_t i = 0; i < n; i++)
		range = fmaxf(range, fabsf(got[i]));
	for (size_t i = 0; i < n; i++) {
		float before = x[i];
		double sum = 0, allowed = 2e-3 * (double)range + 3e-4;
		for (int k = 0; k < 4; k++) {
			x[i] = before + (float)at[k] / 32;
			OK(qd_engine_feed(e, input, t));
			sum += times[k] * weighted_output(e, output, gradient) * 32 / 12;
		}
		x[i] = before;
		if (!(fabs((double)got[i] - sum) <= allowed))
			fail_msg("gradient of output %zu at element %zu of '%s': %.7g, differences say %.7g", output, i,
				e->g->values[input].name, (double)got[i], sum);
	}
	OK(qd_engine_feed(e, input, t));
}

/* Once more, and with two threads, the same bytes come out. */
static void check_repeats(struct qd_engine *e, qd_id input, size_t output, const float *gradient, const float *got)
{
	size_t n = elements(e->g, input);
	int threads = omp_get_max_threads();

	for (int round = 0; round < 3; round++) {
		omp_set_num_threads(1 + round / 2);
		if (round > 0)
			OK(qd_engine_run(e));
		OK(qd_engine_backward(e, output, gradient));
		float *again = gradient_of(e, input);
		assert_memory_equal(again, got, n * sizeof(*got));
		free(again);
	}
	omp_set_num_threads(threads);
}

/* One input alone is trained: its gradient is near what it is beside others, whose places it then may have. */
static void check_alone(const struct qd_graph *g, const struct engine_values *inputs, qd_id input, size_t output,
	const float *gradient, const float *got)
{
	bool *trained = calloc(g->n_values + 1, sizeof(*trained));
	const struct qd_engine_options options = { .trained = trained };
	struct qd_engine *e;
	float range = 0;

	trained[input] = true;
	e = engine_fed(g, &options, inputs);
	check_places(e);
	OK(qd_engine_run(e));
	OK(qd_engine_backward(e, output, gradient));
	float *alone = gradient_of(e, input);
	for (size_t i = 0; i < elements(g, input); i++)
		range = fmaxf(range, fabsf(got[i]));
	for (size_t i = 0; i < elements(g, input); i++)
		assert_true(fabsf(alone[i] - got[i]) <= 1e-6f * range);
	free(alone);
	free(trained);
	qd_engine_free(e);
}

/* Gradients of all outputs at all inputs, and (`differences`) whether they are right. */
static void check_by(const char *text, bool differences)
{
	struct qd_graph g;
	struct engine_values inputs;
	bool *trained;

	engine_parse(&g, text, 1, &random_state);
	inputs_of(&inputs, &g);
	trained = floats_trained(&g);
	const struct qd_engine_options options = { .trained = trained };
	struct qd_engine *e = engine_fed(&g, &options, &inputs);
	engine_check_plan(e);
	check_places(e);
	for (size_t o = 0; o < g.n_outputs; o++) {
		float *gradient = normal(elements(&g, g.outputs[o]));
		for (size_t i = 0; i < g.n_inputs; i++) {
			if (!trained[g.inputs[i]])
				continue;
			OK(qd_engine_run(e));
			OK(qd_engine_backward(e, o, gradient));
			float *got = gradient_of(e, g.inputs[i]);
			check_repeats(e, g.inputs[i], o, gradient, got);
			check_alone(&g, &inputs, g.inputs[i], o, gradient, got);
			if (differences)
				check_differences(e, &inputs, g.inputs[i], o, gradient, got);
			free(got);
		}
		free(gradient);
	}
	qd_engine_free(e);
	free(trained);
	engine_values_release(&inputs);
	qd_graph_release(&g);
}

static void check(const char *text)
{
	check_by(text, true);
}

static void check_all(const char *const *texts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		check(texts[i]);
}

/* ---- steps and operators one by one ---- */

static void elementwise(void **state)
{
	(void)state;
	static const char *const texts[] = {
		/* each operator, numbers on either side */
		"graph g\ninput %a f32[2,3,2,2]\ninput %b f32[2,3,2,2]\nweight %two f32[] {2}\n%c = Add(%a, %b)\n%d = Sub(%b, %c)\n"
		"%e = Mul(%d, %a)\n%f = Div(%e, %b)\n%g = Div(%f, %two)\n%h = Sub(%two, %g)\n%i = Mul(%two, %h)\n%j = Neg(%i)\n"
		"%k = Sub(%j, %two)\n%l = Sigmoid(%k)\n%m = Gelu(%l)\noutput %m\noutput %d\n",
		"graph g\ninput %a f32[5]\nweight %two f32[] {2}\n%h = Div(%two, %a)\n%r = Relu(%a)\n%s = Add(%h, %r)\noutput %s\n",
		/* per channel, per row, per column, a tensor of one element, larger than the other operand */
		"graph g\ninput %a f32[2,3,2,2]\nweight %c f32[3,1,1] ...\nweight %n f32[2,1,1,1] ...\nweight %h f32[1,1,2,1] ...\n"
		"weight %w f32[2] ...\nweight %one f32[1,1,1,1] {0.5}\nweight %wide f32[2,3,2,2] ...\n%p = Add(%a, %c)\n%q = "
		"Mul(%n, %p)\n%r = Sub(%q, %h)\n%s = Mul(%w, %r)\n%t = Add(%s, %one)\n%u = Mul(%t, %wide)\noutput %u\n",
		/* inputs that are broadcast, both at once */
		"graph g\ninput %a f32[2,3,2,2]\ninput %c f32[3,1,1]\ninput %h f32[2,1]\ninput %s f32[]\ninput %n f32[2,1,1,1]\n"
		"%b = Sigmoid(%a)\n%p = Mul(%b, %c)\n%q = Sub(%h, %p)\n%r = Div(%q, %n)\n%t = Mul(%r, %s)\noutput %t\n",
		"graph g\ninput %a f32[3]\ninput %b f32[4,1]\n%c = Mul(%a, %b)\n%d = Div(%b, %a)\n%e = Sub(%c, %d)\noutput "
		"%e\noutput "
		"%c\n",
		/* a value several times */
		"graph g\ninput %a f32[3,3]\n%s = Sigmoid(%a)\n%t = Transpose(%s)\n%b = Add(%s, %t)\n%c = Mul(%b, %b)\n%u = "
		"Transpose(%c)\n%d = Sub(%u, %s)\n%e = Mul(%d, %u)\n%f = Add(%e, %e)\noutput %f\noutput %c\n",
		/* an input that is an output, and outputs that do not depend on it */
		"graph g\ninput %a f32[3]\ninput %b f32[3]\n%c = Neg(%b)\noutput %a\noutput %c\n",
	};

	check_all(texts, QD_COUNT(texts));
}

/* Chunks are of QD_PROGRAM_CHUNK numbers, each thread has some. */
static void many_chunks(void **state)
{
	(void)state;
	check("graph g\ninput %a f32[4]\nweight %x f32[4099,4] ...\ninput %s f32[1,1]\n%c = Mul(%x, %a)\n%d = Sigmoid(%c)\n%e = "
	      "Mul(%d, %s)\nweight %o f32[3,4] ...\n%f = Gemm(%e, %o) {transB=1}\n%g = Mul(%f, %f)\noutput %g\n");
}

static void products(void **state)
{
	(void)state;
	static const char *const texts[] = {
		/* trained weights and fixed ones, one behind the other */
		"graph g\ninput %x f32[3,5]\ninput %w f32[4,5]\nweight %k f32[2,4] ...\nweight %b f32[4] ...\ninput %v f32[3,2]\n"
		"%p = Gemm(%x, %w, %b) {transB=1}\n%s = Sigmoid(%p)\n%q = Gemm(%s, %k) {transB=1}\n%r = Gemm(%q, %v) {transB=1}\n"
		"%t = Mul(%r, %r)\noutput %t\noutput %q\n",
		/* convolutions: padded, strided, dilated; of one pixel; weights that are inputs */
		"graph g\ninput %x f32[2,2,5,4]\nweight %w f32[3,2,3,3] ...\nweight %b f32[3] ...\n%c = Conv(%x, %w, %b) "
		"{pads=[1,1,1,1]}\n%s = Sigmoid(%c)\nweight %w2 f32[4,3,3,2] ...\n%d = Conv(%s, %w2) {strides=[2,1], "
		"dilations=[1,2], pads=[0,1,2,2]}\ninput %w3 f32[2,4,1,1]\n%e = Conv(%d, %w3)\noutput %e\n",
		"graph g\ninput %x f32[1,3,5,5]\ninput %w f32[2,3,3,3]\n%c = Conv(%x, %w) {strides=[2,2], pads=[0,0,1,1]}\n%s = "
		"Sigmoid(%c)\noutput %s\n",
		/* the weight of two products, an input that is more than a weight, what products add */
		"graph g\ninput %x f32[3,5]\ninput %w f32[4,5]\n%a = Gemm(%x, %w) {transB=1}\n%n = Sigmoid(%x)\n%b = Gemm(%n, %w) "
		"{transB=1}\n%c = Mul(%a, %b)\n%r = Sigmoid(%w)\n%d = Add(%b, %a)\noutput %c\noutput %r\noutput %d\n",
		/* operands that are parts of other values, and in another order */
		"graph g\ninput %x f32[6,5]\nweight %w f32[4,5] ...\n%s = Sigmoid(%x)\nweight %z i64[1] {0}\nweight %two i64[1] "
		"{2}\n"
		"weight %five i64[1] {5}\n%m = Slice(%s, %two, %five, %z)\n%a = Gemm(%m, %w) {transB=1}\n%t = Transpose(%a)\n"
		"weight %v f32[2,3] ...\n%b = Gemm(%t, %v) {transB=1}\n%c = Gemm(%s, %w) {transB=1}\noutput %b\noutput %c\n",
	};

	check_all(texts, QD_COUNT(texts));
}

static void along_axes(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"graph g\nweight %s2 f32[2] ...\nweight %b2 f32[2] ...\ninput %x f32[2,6,3,2]\nweight %s f32[6] ...\nweight %b "
		"f32[6] ...\n%n = GroupNormalization(%x, %s, %b) {num_groups=3}\n%g = Sigmoid(%n)\n%a = Mul(%g, %n)\n%t = "
		"Transpose(%a) {perm=[0,3,2,1]}\n%m = GroupNormalization(%t, %s2, %b2) {num_groups=1, epsilon=0.1}\noutput "
		"%m\noutput %a\n",
		"graph g\ninput %x f32[2,3,5]\nweight %s f32[5] ...\nweight %b f32[5] ...\n%n = LayerNormalization(%x, %s, %b) "
		"{axis=-1}\n%r = Sigmoid(%n)\n%m = LayerNormalization(%r, %s) {axis=2, epsilon=0.1}\n%t = Transpose(%m) "
		"{perm=[1,0,2]}\n%o = LayerNormalization(%t, %s, %b) {axis=-1, epsilon=0.2}\noutput %o\noutput %r\n",
	};

	check_all(texts, QD_COUNT(texts));
}

static void attention(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"graph g\ninput %q f32[2,2,3,4]\ninput %k f32[2,2,5,4]\ninput %v f32[2,2,5,3]\n%kt = Transpose(%k) "
		"{perm=[0,1,3,2]}\n%scores = MatMul(%q, %kt)\nweight %f f32[] {0.5}\n%scaled = Mul(%scores, %f)\n%soft = "
		"Softmax(%scaled) {axis=-1}\n%att = MatMul(%soft, %v)\n%n = Sigmoid(%att)\noutput %n\noutput %att\n",
		/* heads inside of rows; keys and values are one, whole */
		"graph g\ninput %x f32[6,6]\ninput %c f32[4,6]\nweight %s i64[4] {2,-1,2,3}\n%q4 = Reshape(%x, %s)\n%k4 = "
		"Reshape(%c, %s)\n%qh = Transpose(%q4) {perm=[0,2,1,3]}\n%kh = Transpose(%k4) {perm=[0,2,3,1]}\n%vh = "
		"Transpose(%k4) {perm=[0,2,1,3]}\n%scores = MatMul(%qh, %kh)\n%soft = Softmax(%scores) {axis=3}\n%att = "
		"MatMul(%soft, %vh)\n%o4 = Transpose(%att) {perm=[0,2,1,3]}\nweight %rows i64[2] {6,6}\n%o = Reshape(%o4, "
		"%rows)\noutput %o\n",
		/* all three are one, and wanted beside; all three are parts of one */
		"graph g\ninput %x f32[2,5,4]\n%s = Sigmoid(%x)\n%t = Transpose(%s) {perm=[0,2,1]}\n%scores = MatMul(%s, "
		"%t)\n%soft = "
		"Softmax(%scores)\n%att = MatMul(%soft, %s)\n%m = Mul(%att, %s)\noutput %m\noutput %att\n",
		"graph g\ninput %x f32[4,3]\nweight %w f32[12,3] ...\n%p = Gemm(%x, %w) {transB=1}\nweight %parts i64[3] "
		"{4,4,4}\n%q, "
		"%k, %v = Split(%p, %parts) {axis=1}\nweight %s i64[4] {1,4,2,2}\n%q4 = Reshape(%q, %s)\n%k4 = Reshape(%k, "
		"%s)\n%v4 "
		"= Reshape(%v, %s)\n%qh = Transpose(%q4) {perm=[0,2,1,3]}\n%kh = Transpose(%k4) {perm=[0,2,3,1]}\n%vh = "
		"Transpose(%v4) {perm=[0,2,1,3]}\n%scores = MatMul(%qh, %kh)\n%soft = Softmax(%scores)\n%att = MatMul(%soft, "
		"%vh)\noutput %att\n",
		/* keys and values that are fixed */
		"graph g\ninput %q f32[2,3,4]\nweight %k f32[2,4,5] ...\nweight %v f32[2,5,4] ...\n%scores = MatMul(%q, %k)\n%soft "
		"= "
		"Softmax(%scores)\n%att = MatMul(%soft, %v)\noutput %att\n",
	};

	check_all(texts, QD_COUNT(texts));
}

static void views(void **state)
{
	(void)state;
	static const char *const texts[] = {
		/* transposes and reshapes that strides express, and that they cannot */
		"graph g\ninput %x f32[2,3,2,2]\n%r = Sigmoid(%x)\n%t = Transpose(%r) {perm=[0,2,3,1]}\nweight %rows i64[2] {8,3}\n"
		"%k = Reshape(%t, %rows)\n%n = Neg(%k)\nweight %odd i64[3] {3,2,4}\n%o = Reshape(%n, %odd)\n%p = Sigmoid(%o)\n"
		"weight %flat i64[2] {3,8}\n%q = Reshape(%r, %flat)\n%u = Transpose(%q) {perm=[1,0]}\n%v = Reshape(%u, %flat)\n%w "
		"= Sigmoid(%v)\noutput %p\noutput %w\n",
		/* slices with any step, splits, squeezes, flattened */
		"graph g\ninput %x f32[2,7,2,4]\nweight %b i64[2] {6,3}\nweight %e i64[2] {0,-5}\nweight %ax i64[2] {1,3}\n"
		"weight %st i64[2] {-2,-1}\n%s = Slice(%x, %b, %e, %ax, %st)\n%r = Neg(%s)\nweight %z i64[1] {1}\nweight %two "
		"i64[1] {2}\n%m = Slice(%x, %z, %two, %z)\n%q = Squeeze(%m, %z)\n%f = Flatten(%q) {axis=2}\n%g = Sigmoid(%f)\n"
		"%u = Unsqueeze(%g, %z)\n%v = Sigmoid(%u)\nweight %parts i64[3] {1,4,2}\n%s1, %s2, %s3 = Split(%x, %parts) "
		"{axis=1}\n%n1 = Neg(%s1)\n%n2 = Add(%s2, %n1)\n%n3 = Mul(%s3, %n1)\noutput %r\noutput %v\noutput %n2\noutput "
		"%n3\n",
		/* expanded, tiled */
		"graph g\ninput %x f32[3,1,2]\nweight %s i64[4] {2,3,4,2}\n%e = Expand(%x, %s)\n%r = Sigmoid(%e)\nweight %k i64[3] "
		"{24,1,2}\n%f = Reshape(%e, %k)\n%n = Sigmoid(%f)\n%i = Identity(%n)\noutput %r\noutput %i\noutput %e\n",
		/* outputs that are views */
		"graph g\ninput %x f32[2,3,2,2]\n%n = Sigmoid(%x)\n%t = Transpose(%n) {perm=[1,0,3,2]}\nweight %s i64[1] {24}\n%f "
		"= "
		"Reshape(%n, %s)\n%g = Transpose(%x) {perm=[3,2,1,0]}\nweight %z i64[1] {1}\nweight %two i64[1] {3}\n%m = "
		"Slice(%n, %z, %two, %z)\noutput %t\noutput %f\noutput %g\noutput %m\noutput %n\n",
	};

	check_all(texts, QD_COUNT(texts));
}

static void moved(void **state)
{
	(void)state;
	char text[1024];

	for (int axis = -4; axis < 4; axis++) {
		snprintf(text, sizeof(text),
			"graph g\ninput %%x f32[2,3,2,2]\n%%n = Sigmoid(%%x)\n%%t = Transpose(%%n) {perm=[0,1,3,2]}\n%%c = "
			"Concat(%%x, %%n, %%t, %%n) {axis=%d}\n%%r = Sigmoid(%%c)\noutput %%r\noutput %%c\n",
			axis);
		check(text);
		snprintf(text, sizeof(text),
			"graph g\ninput %%x f32[2,3]\n%%t = Transpose(%%x)\nweight %%s i64[2] {2,3}\n%%r = Reshape(%%t, "
			"%%s)\nweight %%w f32[2,3] ...\n%%c = Concat(%%w, %%r, %%x) {axis=%d}\n%%d = Concat(%%c) "
			"{axis=0}\noutput %%d\n",
			axis / 2);
		check(text);
	}
	check("graph g\ninput %x f32[3]\ninput %y f32[2]\n%c = Concat(%x, %y, %x) {axis=0}\noutput %c\n");
	/* larger by different factors */
	check("graph g\ninput %x f32[2,3,2,2]\n%n = Sigmoid(%x)\nweight %s i64[4] {2,3,4,6}\n%u = Resize(%n, _, _, %s) "
	      "{coordinate_transformation_mode=\"asymmetric\", mode=\"nearest\", nearest_mode=\"floor\"}\n%r = Sigmoid(%u)\noutput "
	      "%r\noutput %u\noutput %n\n");
}

/* Its gradients are far from straight, and are compared with libtorch's in test_torch_engine.c. */
static void a_network(void **state)
{
	(void)state;
	check_by(engine_net, false);
}

/* ---- clipping ---- */

/* Of codes, the grid's first and last one pass nothing; others what rounding was passed straight through. */
static void clipped(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"graph g\ninput %x f32[1,4,2,2]\nweight %two f32[] {2}\n%a = Mul(%x, %two)\nweight %s i64[4] {1,4,4,4}\n%b = "
		"Resize(%a, _, _, %s) {coordinate_transformation_mode=\"asymmetric\", mode=\"nearest\", "
		"nearest_mode=\"floor\"}\n%c = Neg(%b)\noutput %c\n",
		"graph g\ninput %x f32[1,4,2,2]\nweight %two f32[] {2}\n%a = Mul(%x, %two)\n%b = Concat(%a, %a) {axis=1}\n%c = "
		"Neg(%b)\noutput %c\n",
		"graph g\ninput %x f32[1,4,2,2]\nweight %two f32[] {2}\n%a = Mul(%x, %two)\nweight %w f32[4,4,1,1] ...\n%b = "
		"Conv(%a, "
		"%w)\n%c = Neg(%b)\noutput %c\n",
	};

	for (size_t i = 0; i < QD_COUNT(texts); i++)
		for (int bits = 8; bits <= 16; bits += 8) {
			struct qd_graph g;
			struct engine_values inputs;
			struct qd_encoding *e;
			engine_parse(&g, texts[i], 1, &random_state);
			inputs_of(&inputs, &g);
			bool *trained = floats_trained(&g);
			const struct qd_engine_options options = { .simulate = true, .trained = trained };
			size_t n = elements(&g, g.outputs[0]);
			float *ones = normal(n), *x = inputs.at[g.inputs[0]].data;
			qd_id b = qd_graph_find(&g, "b");

			for (size_t k = 0; k < n; k++)
				ones[k] = 1;
			OK(qd_encoding_from_range(&g.arena, -0.5, 0.5, bits, true, &e));
			g.values[b].encoding = e;
			/* Small ones and ones far out: every b is clipped, or none. */
			for (int far = 0; far < 2; far++) {
				for (size_t k = 0; k < 16; k++)
					x[k] = far == 1 ? 100 * (float)(1 + k % 4) : 0.001f * (float)k;
				struct qd_engine *engine = engine_fed(&g, &options, &inputs);
				OK(qd_engine_run(engine));
				OK(qd_engine_backward(engine, 0, ones));
				float *dx = gradient_of(engine, g.inputs[0]);
				for (size_t k = 0; k < 16; k++)
					assert_true(far == 1 ? dx[k] == 0 : i == 2 ? dx[k] != 0 : dx[k] == (i == 0 ? -8 : -4));
				free(dx);
				qd_engine_free(engine);
			}
			free(ones);
			free(trained);
			engine_values_release(&inputs);
			qd_graph_release(&g);
		}
}

/* Trained inputs are kept within their grids by who trains them: at the ends of it they still have a gradient. */
static void inputs_at_an_end(void **state)
{
	(void)state;
	float x[] = { 0.5f, 0.25f, -0.5f, 0 }, w[] = { -0.5f, 0.5f, 0.25f, 0.5f }, one = 1, dx[4], dw[4];
	const struct qd_tensor tensors[] = { qd_tensor_view("x", QD_F32, QD_SHAPE(1, 4), x),
		qd_tensor_view("w", QD_F32, QD_SHAPE(1, 4), w) };
	bool trained[8] = { false };
	const struct qd_engine_options options = { .simulate = true, .trained = trained };
	struct qd_encoding *e;
	struct qd_engine *engine;
	struct qd_graph g;

	engine_parse(
		&g, "graph g\ninput %x f32[1,4]\ninput %w f32[1,4]\n%y = Gemm(%x, %w) {transB=1}\noutput %y\n", 1, &random_state);
	for (int i = 0; i < 2; i++) {
		OK(qd_encoding_from_range(&g.arena, -0.5, 0.5, i == 0 ? 16 : 8, true, &e));
		g.values[g.inputs[i]].encoding = e;
		trained[g.inputs[i]] = true;
	}
	OK(qd_engine_new(&engine, &g, &options));
	for (int i = 0; i < 2; i++)
		OK(qd_engine_feed(engine, g.inputs[i], &tensors[i]));
	OK(qd_engine_run(engine));
	OK(qd_engine_backward(engine, 0, &one));
	OK(qd_engine_gradient(engine, g.inputs[0], dx));
	OK(qd_engine_gradient(engine, g.inputs[1], dw));
	for (int i = 0; i < 4; i++) {
		assert_true(fabsf(dx[i] - w[i]) < 0.005f);
		assert_true(fabsf(dw[i] - x[i]) < 0.005f);
	}
	qd_engine_free(engine);
	qd_graph_release(&g);
}

/* ---- refusals ---- */

static void refused(const char *text, const char *message)
{
	struct qd_graph g;
	struct qd_engine *e;

	engine_parse(&g, text, 1, &random_state);
	bool *trained = floats_trained(&g);
	const struct qd_engine_options options = { .trained = trained };
	assert_int_equal(qd_engine_new(&e, &g, &options), QD_EUNSUPPORTED);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says \"%s\" instead of \"%s\"", qd_message(), message);
	assert_null(e);
	free(trained);
	qd_graph_release(&g);
}

static void without_gradient(void **state)
{
	(void)state;
	float y[6] = { 0 };
	struct qd_graph g;
	struct engine_values inputs;

	refused("graph g\ninput %x f32[2,3]\n%n = Neg(%x)\n%s = Sin(%n)\noutput %s\n", "node 's' (Sin) has no gradient");
	refused("graph g\ninput %x f32[2,3]\n%s = Softmax(%x)\noutput %s\n", "node 's' (Softmax) has no gradient");
	refused("graph g\ninput %x f32[2,3]\ninput %w f32[4,3]\n%n = Neg(%w)\n%s = Gemm(%x, %n) {transB=1}\noutput %s\n",
		"node 's' (Gemm) has no gradient");
	refused("graph g\ninput %x f32[1,2,5,5]\nweight %w f32[2,2,1,1] ...\n%c = Conv(%x, %w) {pads=[1,1,1,1]}\noutput %c\n",
		"more padding than its kernel reaches");

	/* What does not depend on a trained input may be anything. */
	engine_parse(&g, "graph g\ninput %x f32[2,3]\ninput %y f32[2,3]\n%s = Sin(%y)\n%z = Mul(%x, %s)\noutput %z\noutput %s\n", 1,
		&random_state);
	engine_inputs(&inputs, &g, &random_state);
	bool *trained = calloc(g.n_values + 1, 1);
	const struct qd_engine_options options = { .trained = trained };
	trained[g.inputs[0]] = true;
	struct qd_engine *e = engine_fed(&g, &options, &inputs);
	OK(qd_engine_run(e));
	for (int i = 0; i < 6; i++)
		y[i] = 1;
	OK(qd_engine_backward(e, 0, y));
	OK(qd_engine_gradient(e, g.inputs[0], y));
	for (int i = 0; i < 6; i++)
		assert_true(fabsf(y[i] - sinf(((const float *)inputs.at[g.inputs[1]].data)[i])) < 1e-6f);
	/* An output that depends on nothing trained: no gradient is left of before. */
	OK(qd_engine_backward(e, 1, y));
	OK(qd_engine_gradient(e, g.inputs[0], y));
	for (int i = 0; i < 6; i++)
		assert_true(y[i] == 0);
	qd_engine_free(e);
	e = engine_fed(&g, NULL, &inputs);
	OK(qd_engine_run(e));
	assert_int_equal(qd_engine_backward(e, 0, y), QD_EINPUT);
	assert_string_equal(qd_message(), "this engine was not made for training");
	qd_engine_free(e);
	free(trained);
	engine_values_release(&inputs);
	qd_graph_release(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(elementwise),
		cmocka_unit_test(many_chunks),
		cmocka_unit_test(products),
		cmocka_unit_test(along_axes),
		cmocka_unit_test(attention),
		cmocka_unit_test(views),
		cmocka_unit_test(moved),
		cmocka_unit_test(a_network),
		cmocka_unit_test(clipped),
		cmocka_unit_test(inputs_at_an_end),
		cmocka_unit_test(without_gradient),
	};
	return cmocka_run_group_tests_name("engine_backward", tests, start_random, NULL);
}
