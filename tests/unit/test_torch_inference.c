/*
 * Inference on lib/kernel against the same graph on libtorch's operators, and what the two plans of an executor share: inputs,
 * replaced weights, hooks, gradients.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "lib/model/model.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct qd_random random_state;

/*
 * A small UNet with everything that has a step of its own: a residual block with an embedding per channel, a transformer with
 * attention, a LoRA branch and a gated feed-forward, downsampling, upsampling, a skip connection.
 */
static const char *const net =
	"graph net\ninput %x f32[2,5,8,6]\ninput %t f32[2,7]\ninput %context f32[10,9]\ninput %down f32[3,24]\ninput %up "
	"f32[24,3]\n"
	"weight %w0 f32[16,5,3,3] ...\nweight %b0 f32[16] ...\n%h0 = Conv(%x, %w0, %b0) {pads=[1,1,1,1]}\n"
	/* residual block */
	"weight %s1 f32[16] ...\nweight %o1 f32[16] ...\n%n1 = GroupNormalization(%h0, %s1, %o1) {num_groups=4}\n"
	"%g1 = Sigmoid(%n1)\n%a1 = Mul(%n1, %g1)\nweight %w1 f32[24,16,3,3] ...\nweight %b1 f32[24] ...\n"
	"%c1 = Conv(%a1, %w1, %b1) {pads=[1,1,1,1]}\nweight %wt f32[24,7] ...\nweight %bt f32[24] ...\n%e = Gemm(%t, %wt, %bt) "
	"{transB=1}\nweight %pixels i64[4] {2,24,1,1}\n%e4 = Reshape(%e, %pixels)\n%m1 = Add(%c1, %e4)\n"
	"weight %s2 f32[24] ...\nweight %o2 f32[24] ...\n%n2 = GroupNormalization(%m1, %s2, %o2) {num_groups=3}\n"
	"%g2 = Sigmoid(%n2)\n%a2 = Mul(%g2, %n2)\nweight %w2 f32[24,24,3,3] ...\nweight %b2 f32[24] ...\n"
	"%c2 = Conv(%a2, %w2, %b2) {pads=[1,1,1,1]}\nweight %ws f32[24,16,1,1] ...\n%short = Conv(%h0, %ws)\n%r = Add(%short, "
	"%c2)\n"
	/* transformer */
	"%last = Transpose(%r) {perm=[0,2,3,1]}\nweight %flat i64[2] {96,24}\n%tokens = Reshape(%last, %flat)\n"
	"weight %s3 f32[24] ...\nweight %o3 f32[24] ...\n%n3 = LayerNormalization(%tokens, %s3, %o3) {axis=-1}\n"
	"weight %wq f32[24,24] ...\nweight %wk f32[24,9] ...\nweight %wv f32[24,9] ...\n%q = Gemm(%n3, %wq) {transB=1}\n"
	"%k = Gemm(%context, %wk) {transB=1}\n%v = Gemm(%context, %wv) {transB=1}\nweight %heads i64[4] {2,-1,3,8}\n"
	"%q4 = Reshape(%q, %heads)\n%k4 = Reshape(%k, %heads)\n%v4 = Reshape(%v, %heads)\n%qh = Transpose(%q4) {perm=[0,2,1,3]}\n"
	"%kh = Transpose(%k4) {perm=[0,2,3,1]}\n%vh = Transpose(%v4) {perm=[0,2,1,3]}\n%scores = MatMul(%qh, %kh)\n"
	"weight %factor f32[] {0.35}\n%scaled = Mul(%scores, %factor)\n%soft = Softmax(%scaled) {axis=-1}\n%att = MatMul(%soft, "
	"%vh)\n"
	"%atth = Transpose(%att) {perm=[0,2,1,3]}\n%attt = Reshape(%atth, %flat)\nweight %wo f32[24,24] ...\nweight %bo f32[24] "
	"...\n"
	"%o = Gemm(%attt, %wo, %bo) {transB=1}\n%lower = Gemm(%attt, %down) {transB=1}\n%branch = Gemm(%lower, %up) {transB=1}\n"
	"%lora = Add(%o, %branch)\n%t1 = Add(%tokens, %lora)\nweight %wf f32[64,24] ...\nweight %bf f32[64] ...\n"
	"%wide = Gemm(%t1, %wf, %bf) {transB=1}\nweight %zero i64[1] {0}\nweight %half i64[1] {32}\nweight %full i64[1] {64}\n"
	"weight %one i64[1] {1}\n%value = Slice(%wide, %zero, %half, %one)\n%gate = Slice(%wide, %half, %full, %one)\n"
	"%gelu = Gelu(%gate)\n%gated = Mul(%value, %gelu)\nweight %wb f32[24,32] ...\n%back = Gemm(%gated, %wb) {transB=1}\n"
	"%t2 = Add(%back, %t1)\nweight %image i64[4] {2,8,6,24}\n%i4 = Reshape(%t2, %image)\n%i = Transpose(%i4) {perm=[0,3,1,2]}\n"
	/* down, up, skip */
	"weight %wd f32[24,24,3,3] as f16 ...\n%d = Conv(%i, %wd) {pads=[1,1,1,1], strides=[2,2]}\nweight %sizes i64[4] "
	"{2,24,8,6}\n"
	"%u = Resize(%d, _, _, %sizes) {coordinate_transformation_mode=\"asymmetric\", mode=\"nearest\", nearest_mode=\"floor\"}\n"
	"%joined = Concat(%u, %h0) {axis=1}\nweight %wj f32[4,40,3,3] as bf16 ...\nweight %bj f32[4] ...\n"
	"%out = Conv(%joined, %wj, %bj) {pads=[1,1,1,1]}\noutput %out\n";

/* Parsed weights are zeros: random ones take their place, about as large as a trained layer's. */
static void parse(struct qd_graph *g, const char *text)
{
	qd_graph_init(g, "net");
	OK(qd_graph_parse(g, "case", text));
	OK(qd_graph_verify(g));
	for (size_t i = 0; i < g->n_values; i++) {
		struct qd_value *v = &g->values[i];
		int64_t n = qd_shape_elements(&v->shape);
		if (v->kind != QD_WEIGHT || v->dtype != QD_F32 || n == 1)
			continue;
		float *x = calloc((size_t)n, sizeof(*x));
		for (int64_t k = 0; k < n; k++)
			x[k] = (float)qd_random_normal(&random_state) / sqrtf((float)n / (float)v->shape.dim[0]);
		OK(qd_tensor_from_f32(&v->data, x));
		free(x);
	}
}

static qt_tensor random_tensor(const struct qd_shape *shape)
{
	struct qd_tensor t;
	qt_tensor out = NULL;

	OK(qd_tensor_new(&t, NULL, QD_F32, shape));
	for (int64_t i = 0; i < qd_shape_elements(shape); i++)
		((float *)t.data)[i] = (float)qd_random_normal(&random_state);
	OK(qt_from_tensor(&t, &out));
	qd_tensor_release(&t);
	return out;
}

/* Two executors of one graph with the same inputs. */
struct pair {
	struct qd_graph g;
	struct qd_exec *fast, *plain;
	qt_tensor inputs[8];
};

static void bind(struct pair *p, struct qd_exec *exec)
{
	for (size_t i = 0; i < p->g.n_inputs; i++)
		OK(qd_exec_bind(exec, p->g.inputs[i], p->inputs[i]));
}

static void start_pair(struct pair *p, const char *text, qd_value_hook hook, void *context)
{
	parse(&p->g, text);
	for (size_t i = 0; i < p->g.n_inputs; i++)
		p->inputs[i] = random_tensor(&p->g.values[p->g.inputs[i]].shape);
	OK(qd_exec_new(&p->fast, &p->g, &(struct qd_exec_options){ .hook = hook, .hook_context = context }));
	OK(qd_exec_new(&p->plain, &p->g, &(struct qd_exec_options){ .hook = hook, .hook_context = context, .libtorch = true }));
	bind(p, p->fast);
	bind(p, p->plain);
}

static void end_pair(struct pair *p)
{
	qd_exec_free(p->fast);
	qd_exec_free(p->plain);
	for (size_t i = 0; i < p->g.n_inputs; i++)
		qt_free(p->inputs[i]);
	qd_graph_release(&p->g);
	assert_int_equal(qt_live(), 0);
}

/* The first output in memory, to be freed. */
static float *run(struct qd_exec *exec, const struct qd_graph *g, size_t *n)
{
	qt_tensor out = NULL;

	OK(qd_exec_run(exec, &out));
	*n = (size_t)qd_shape_elements(&g->values[g->outputs[0]].shape);
	float *y = calloc(*n, sizeof(*y));
	OK(qt_read(out, y, *n * sizeof(*y)));
	qt_free(out);
	return y;
}

/*
 * Both sum up to 360 products of normal numbers in another order, some ten layers deep, each of which keeps their size: the
 * difference is a small multiple of 2^-24 of the range, allowed is 2e-5 of it.
 */
static void assert_same_result(struct pair *p)
{
	size_t n;
	float *a = run(p->fast, &p->g, &n), *b = run(p->plain, &p->g, &n), range = 0;

	for (size_t i = 0; i < n; i++)
		range = fmaxf(range, fabsf(b[i]));
	assert_true(range > 0.1f);
	for (size_t i = 0; i < n; i++)
		if (!(fabsf(a[i] - b[i]) <= 2e-5f * range))
			fail_msg("element %zu: %.9g and %.9g, range %g", i, (double)a[i], (double)b[i], (double)range);
	free(a);
	free(b);
}

static void test_equals_libtorch(void **state)
{
	(void)state;
	struct pair p = { 0 };

	start_pair(&p, net, NULL, NULL);
	assert_same_result(&p);
	assert_same_result(&p);
	end_pair(&p);
}

static void test_same_inputs_same_bytes(void **state)
{
	(void)state;
	struct pair p = { 0 };
	size_t n;

	start_pair(&p, net, NULL, NULL);
	float *a = run(p.fast, &p.g, &n), *b = run(p.fast, &p.g, &n);
	assert_memory_equal(a, b, n * sizeof(*a));
	free(a);
	free(b);
	end_pair(&p);
}

/* New inputs, weights of the LoRA branch among them, and replaced weights count from the next run on. */
static void test_follows_inputs_and_weights(void **state)
{
	(void)state;
	static const char *const replaced[] = { "w1", "wf", "o2", "wd" };
	struct pair p = { 0 };

	start_pair(&p, net, NULL, NULL);
	assert_same_result(&p);
	for (size_t i = 0; i < p.g.n_inputs; i++) {
		qt_free(p.inputs[i]);
		p.inputs[i] = random_tensor(&p.g.values[p.g.inputs[i]].shape);
	}
	bind(&p, p.fast);
	bind(&p, p.plain);
	assert_same_result(&p);
	for (size_t i = 0; i < QD_COUNT(replaced); i++) {
		qd_id id = qd_graph_find(&p.g, replaced[i]);
		for (int twice = 0; twice < 2; twice++) {
			qt_tensor w = random_tensor(&p.g.values[id].shape);
			OK(qd_exec_set_weight(p.fast, id, w));
			OK(qd_exec_set_weight(p.plain, id, w));
			qt_free(w);
			assert_same_result(&p);
		}
	}
	end_pair(&p);
}

/* A gradient after inference, inference after a gradient: each takes its own plan. */
static void test_gradients_between_inferences(void **state)
{
	(void)state;
	struct pair p = { 0 };
	qt_tensor out, target, loss, gradient;

	start_pair(&p, net, NULL, NULL);
	target = random_tensor(&p.g.values[p.g.outputs[0]].shape);
	OK(qt_requires_grad(p.inputs[0], true));
	for (int i = 0; i < 2; i++) {
		assert_same_result(&p);
		qt_set_grad(true);
		OK(qd_exec_run(p.fast, &out));
		OK(qt_mse(out, target, &loss));
		OK(qt_backward(loss));
		qt_set_grad(false);
		OK(qt_grad(p.inputs[0], &gradient));
		assert_non_null(gradient);
		qt_free(out);
		qt_free(loss);
		qt_free(gradient);
	}
	qt_free(target);
	end_pair(&p);
}

/* ---- hooks ---- */

/* Cuts every value that carries an encoding and counts what it is shown. */
struct cutter {
	unsigned seen[256];
};
static const struct qd_encoding mark = { .axis = -1 };

static enum qd_status cut(void *context, const struct qd_graph *g, qd_id value, qt_tensor *tensor)
{
	struct cutter *c = context;
	qt_tensor less = NULL;
	enum qd_status st;

	c->seen[value]++;
	if (!g->values[value].encoding)
		return QD_OK;
	QD_TRY(st, qt_clamp(*tensor, -0.05, 0.05, &less));
	qt_free(*tensor);
	*tensor = less;
out:
	return st;
}

/* Whatever carries an encoding, weight, inner value or input, is changed as with libtorch. */
static void test_encoded_values_pass_the_hook(void **state)
{
	(void)state;
	static const char *const encoded[] = { "w1", "wf", "wd", "down", "c1", "m1", "n2", "a2", "c2", "scaled", "o", "wide",
		"gelu", "back" };

	for (size_t i = 0; i < QD_COUNT(encoded); i++) {
		struct cutter fast = { .seen = { 0 } };
		struct pair p = { 0 };
		start_pair(&p, net, cut, &fast);
		size_t n;
		float *before = run(p.plain, &p.g, &n);
		qd_exec_free(p.fast);
		qd_exec_free(p.plain);
		qd_id id = qd_graph_find(&p.g, encoded[i]);
		p.g.values[id].encoding = &mark;
		OK(qd_exec_new(&p.fast, &p.g, &(struct qd_exec_options){ .hook = cut, .hook_context = &fast }));
		OK(qd_exec_new(&p.plain, &p.g, &(struct qd_exec_options){ .hook = cut, .hook_context = &fast, .libtorch = true }));
		bind(&p, p.fast);
		bind(&p, p.plain);
		assert_same_result(&p);
		float *after = run(p.fast, &p.g, &n);
		float change = 0;
		for (size_t k = 0; k < n; k++)
			change = fmaxf(change, fabsf(after[k] - before[k]));
		if (!(change > 1e-3f))
			fail_msg("'%s' did not pass the hook", encoded[i]);
		free(before);
		free(after);
		end_pair(&p);
	}
}

/* A weight with an encoding is shown once, a packed one never. */
static void test_weights_are_shown_once(void **state)
{
	(void)state;
	struct cutter h = { .seen = { 0 } };
	struct pair p = { 0 };
	size_t n;

	start_pair(&p, net, cut, &h);
	qd_id w1 = qd_graph_find(&p.g, "w1"), w2 = qd_graph_find(&p.g, "w2");
	p.g.values[w1].encoding = &mark;
	free(run(p.fast, &p.g, &n));
	free(run(p.fast, &p.g, &n));
	assert_int_equal(h.seen[w1], 1);
	assert_int_equal(h.seen[w2], 0);
	end_pair(&p);
}

static int start(void **state)
{
	(void)state;
	qd_random_init(&random_state, test_seed(), 0);
	qt_set_grad(false);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equals_libtorch),
		cmocka_unit_test(test_same_inputs_same_bytes),
		cmocka_unit_test(test_follows_inputs_and_weights),
		cmocka_unit_test(test_gradients_between_inferences),
		cmocka_unit_test(test_encoded_values_pass_the_hook),
		cmocka_unit_test(test_weights_are_shown_once),
	};
	return cmocka_run_group_tests(tests, start, NULL);
}
