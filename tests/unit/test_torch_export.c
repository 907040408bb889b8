/*
 * export, end to end: the simulator on the graph with encodings and the executor on the exported file read back compute the same
 * numbers, bit for bit; and so does a folder written by qd_export, with adapters added later, under ONNX Runtime to within a part
 * of the output's range.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export/file/file.h"
#include "export/pass/pass.h"
#include "lib/ort/ort.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/onnx_help.h"
#include "tests/unit/scratch.h"

/* A layer of each kind that carries encodings: convolution and linear with a LoRA branch, normalization, attention, concatenation,
 * views. */
static const char block[] = "graph block\n"
			    "input %x f32[2,4,6,6]\n"
			    "input %c.lora_down f32[2,4,3,3]\n"
			    "input %c.lora_up f32[4,2,1,1]\n"
			    "input %c.lora_gain f32[1,2,1,1]\n"
			    "input %l.lora_down f32[3,8]\n"
			    "weight %c.weight f32[4,4,3,3] ...\n"
			    "weight %c.bias f32[4] {0, 0.25, -0.5, 1}\n"
			    "weight %l.weight f32[5,8] ...\n"
			    "weight %two f32[] {2}\n"
			    "weight %rows i64[3] {2, 4, 36}\n"
			    "weight %flat i64[2] {-1, 8}\n"
			    "%c = Conv(%x, %c.weight, %c.bias) {pads=[1,1,1,1]}\n"
			    "%down = Conv(%x, %c.lora_down) {pads=[1,1,1,1]}\n"
			    "%gained = Mul(%down, %c.lora_gain)\n"
			    "%up = Conv(%gained, %c.lora_up)\n"
			    "%sum = Add(%c, %up)\n"
			    "%norm = GroupNormalization(%sum, %c.bias, %c.bias) {epsilon=1e-05, num_groups=2}\n"
			    "%act = Sigmoid(%norm)\n"
			    "%cat = Concat(%act, %x) {axis=1}\n"
			    "%turned = Transpose(%cat) {perm=[0,2,3,1]}\n"
			    "%tokens = Reshape(%turned, %flat)\n"
			    "%l = Gemm(%tokens, %l.weight) {transB=1}\n"
			    "%l.low = Gemm(%tokens, %l.lora_down) {transB=1}\n"
			    "%joined = Concat(%l, %l.low) {axis=1}\n"
			    "%scaled = Mul(%joined, %two)\n"
			    "%soft = Softmax(%scaled) {axis=-1}\n"
			    "output %soft\n"
			    "output %sum\n";

static float random_in(uint64_t *state, float low, float high)
{
	return low + (high - low) * (float)ir_uniform(state);
}

static void fill_weight(struct qd_graph *g, const char *name, uint64_t seed)
{
	struct qd_tensor *t = &g->values[qd_graph_find(g, name)].data;
	for (size_t i = 0; i < t->bytes / sizeof(float); i++)
		((float *)t->data)[i] = random_in(&seed, -0.5f, 0.5f);
}

/* Encodings of every value by the project's rule of what carries one, over ranges drawn at random: they need not fit, only be the
 * same. */
static void encode(struct qd_graph *g, uint64_t seed, int act_bits, int lora_bits)
{
	enum qd_entry_kind *kinds = calloc(g->n_values, sizeof(*kinds));
	size_t n = g->n_values;
	assert_non_null(kinds);
	assert_int_equal(qd_assign(g, kinds), QD_OK);
	for (qd_id v = 0; v < n; v++) {
		struct qd_encoding *e = NULL;
		enum qd_status st = QD_OK;
		double low = random_in(&seed, -3, -0.1f), high = random_in(&seed, 0.1f, 3);
		if (kinds[v] == QD_ENTRY_WEIGHT)
			st = qd_encoding_per_channel(&g->arena, &g->values[v].data, 8, &e);
		else if (kinds[v] == QD_ENTRY_LORA)
			st = qd_encoding_from_range(&g->arena, low, high, lora_bits, true, &e);
		else if (kinds[v] == QD_ENTRY_ACTIVATION)
			st = qd_encoding_from_range(&g->arena, low, high, act_bits, v % 5 == 0, &e);
		assert_int_equal(st, QD_OK);
		g->values[v].encoding = e;
	}
	free(kinds);
}

static void build(struct qd_graph *g, uint64_t seed, int act_bits, int lora_bits)
{
	ir_parse(g, block);
	fill_weight(g, "c.weight", seed);
	fill_weight(g, "l.weight", seed + 1);
	encode(g, seed + 2, act_bits, lora_bits);
}

/* The tensor of input i: random floats, or, where the graph takes codes, those that the other graph's encoding makes of them. */
static void bind_inputs(struct qd_exec *exec, const struct qd_graph *g, const struct qd_graph *encoded, uint64_t seed)
{
	for (size_t i = 0; i < g->n_inputs; i++) {
		const struct qd_value *v = &g->values[g->inputs[i]];
		size_t n = (size_t)qd_shape_elements(&v->shape);
		struct qd_tensor t;
		float *real = malloc(n * sizeof(*real));
		int32_t *q = malloc(n * sizeof(*q));
		assert_non_null(real);
		assert_non_null(q);
		for (size_t k = 0; k < n; k++)
			real[k] = random_in(&seed, -4, 4);
		assert_int_equal(qd_tensor_new(&t, v->name, v->dtype, &v->shape), QD_OK);
		if (v->dtype == QD_F32) {
			memcpy(t.data, real, t.bytes);
		} else {
			qd_quantize(encoded->values[qd_graph_find(encoded, v->name)].encoding, &v->shape, real, q, NULL);
			for (size_t k = 0; k < n; k++)
				if (v->dtype == QD_I8)
					((int8_t *)t.data)[k] = (int8_t)q[k];
				else
					((int16_t *)t.data)[k] = (int16_t)q[k];
		}
		if (qd_exec_bind_tensor(exec, v->name, &t) != QD_OK)
			fail_msg("%s", qd_message());
		qd_tensor_release(&t);
		free(real);
		free(q);
	}
}

/* Runs and returns output `index` as heap floats. */
static float *run(const struct qd_graph *g, const struct qd_graph *encoded, bool simulate, uint64_t seed, size_t index, size_t *n)
{
	struct qd_exec *exec;
	struct qd_exec_options options = { .hook = simulate ? qd_sim_hook : NULL, .see_all = simulate };
	qt_tensor outputs[2] = { 0 };
	if (qd_exec_new(&exec, g, &options) != QD_OK)
		fail_msg("%s", qd_message());
	bind_inputs(exec, g, encoded, seed);
	if (qd_exec_run(exec, outputs) != QD_OK)
		fail_msg("%s", qd_message());
	*n = (size_t)qd_shape_elements(&g->values[g->outputs[index]].shape);
	float *values = malloc(*n * sizeof(*values));
	assert_non_null(values);
	assert_int_equal(qt_read(outputs[index], values, *n * sizeof(*values)), QD_OK);
	qt_free(outputs[0]);
	qt_free(outputs[1]);
	qd_exec_free(exec);
	return values;
}

static void export_graph(struct qd_graph *g, const char *path)
{
	struct qd_stored_weights stored = { 0 };
	struct qd_pass passes[] = { qd_pass_dead_code, qd_pass_share_constants, qd_pass_qdq, qd_pass_dead_code };
	struct qd_pass_options checked = { .verify = true };
	struct qd_onnx_write_options options = { .stored = &stored };
	if (qd_passes_run(g, passes, QD_COUNT(passes), &stored, &checked) != QD_OK ||
		qd_onnx_write(g, path, &options, NULL) != QD_OK)
		fail_msg("%s", qd_message());
	qd_stored_weights_release(&stored);
}

/*
 * No tolerance: both sides compute (clamp(rint(x / s) + z) - z) s in float32 and call the same products on the same numbers in the
 * same order.
 */
static void exported_file_equals_simulator(void **state)
{
	static const int bits[][2] = { { 16, 8 }, { 8, 8 }, { 16, 16 }, { 8, 16 } };
	uint64_t seed = test_seed();
	(void)state;
	for (size_t i = 0; i < QD_COUNT(bits); i++) {
		struct qd_graph simulated, exported;
		struct qd_onnx onnx;
		const char *path = scratch_path("block.onnx");
		build(&simulated, seed, bits[i][0], bits[i][1]);
		build(&exported, seed, bits[i][0], bits[i][1]);
		export_graph(&exported, path);
		if (onnx_open(&onnx, path) != QD_OK)
			fail_msg("%s", qd_message());
		for (size_t o = 0; o < 2; o++) {
			size_t n, m;
			float *a = run(&simulated, &simulated, true, seed + 9, o, &n);
			float *b = run(&onnx.graph, &simulated, false, seed + 9, o, &m);
			assert_int_equal(n, m);
			assert_memory_equal(a, b, n * sizeof(*a));
			free(a);
			free(b);
		}
		qd_onnx_release(&onnx);
		qd_graph_release(&exported);
		qd_graph_release(&simulated);
	}
	assert_int_equal(qt_live(), 0);
}

/* Without encodings the file is the float graph. */
static void float_file_equals_float_graph(void **state)
{
	uint64_t seed = test_seed();
	struct qd_graph a, b;
	struct qd_onnx onnx;
	struct qd_onnx_write_options options = { 0 };
	size_t n, m;
	(void)state;
	build(&a, seed, 16, 8);
	build(&b, seed, 16, 8);
	assert_int_equal(qd_onnx_write(&b, scratch_path("float.onnx"), &options, NULL), QD_OK);
	if (onnx_open(&onnx, scratch_path("float.onnx")) != QD_OK)
		fail_msg("%s", qd_message());
	float *x = run(&a, &a, false, seed, 0, &n), *y = run(&onnx.graph, &a, false, seed, 0, &m);
	assert_memory_equal(x, y, n * sizeof(*x));
	free(x);
	free(y);
	qd_onnx_release(&onnx);
	qd_graph_release(&a);
	qd_graph_release(&b);
	assert_int_equal(qt_live(), 0);
}

/* ---- golden ---- */

/* Files of other exporters: outputs of ONNX Runtime or PyTorch. 1e-6 for the small ones, 2e-5 for the UNet: float32 rounding in
 * another order. */
static void reads_golden_models(void **state)
{
	static const struct {
		const char *model, *data, *output;
		float tolerance;
	} cases[] = {
		{ "onnx/small_external.onnx", "onnx/small_external.safetensors", "y", 1e-6f },
		{ "onnx/small_f16_storage.onnx", "onnx/small_f16_storage.safetensors", "y", 1e-6f },
		{ "onnx/small_typed.onnx", "onnx/small_typed.safetensors", "y", 1e-6f },
		{ "onnx/nano15_legacy.onnx", "onnx/nano15_8x8.safetensors", "out", 2e-5f },
	};
	(void)state;
	if (golden_path("onnx") == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_onnx onnx;
		struct qd_safetensors data;
		struct qd_exec *exec;
		struct qd_exec_options options = { 0 };
		const struct qd_tensor *wanted, *input;
		qt_tensor out;
		if (onnx_open(&onnx, golden_path(cases[i].model)) != QD_OK)
			fail_msg("%s", qd_message());
		assert_int_equal(qd_safetensors_open(&data, golden_path(cases[i].data)), QD_OK);
		assert_int_equal(qd_exec_new(&exec, &onnx.graph, &options), QD_OK);
		for (size_t k = 0; k < onnx.graph.n_inputs; k++) {
			const char *name = onnx.graph.values[onnx.graph.inputs[k]].name;
			assert_int_equal(qd_safetensors_get(&data, name, &input), QD_OK);
			assert_int_equal(qd_exec_bind_tensor(exec, name, input), QD_OK);
		}
		if (qd_exec_run(exec, &out) != QD_OK)
			fail_msg("%s", qd_message());
		assert_int_equal(qd_safetensors_get(&data, cases[i].output, &wanted), QD_OK);
		size_t n = (size_t)qd_shape_elements(&wanted->shape);
		float *found = malloc(n * sizeof(*found)), *needed = malloc(n * sizeof(*needed));
		assert_int_equal(qt_read(out, found, n * sizeof(*found)), QD_OK);
		assert_int_equal(qd_tensor_to_f32(wanted, needed), QD_OK);
		for (size_t k = 0; k < n; k++)
			if (!(fabsf(found[k] - needed[k]) <= cases[i].tolerance))
				fail_msg("%s: element %zu is %g, not %g", cases[i].model, k, (double)found[k], (double)needed[k]);
		free(found);
		free(needed);
		qt_free(out);
		qd_exec_free(exec);
		qd_safetensors_release(&data);
		qd_onnx_release(&onnx);
	}
	assert_int_equal(qt_live(), 0);
}

/* ---- ONNX Runtime, where there is one ---- */

static struct qd_ort *open_ort(void)
{
	struct qd_ort *ort;
	if (qd_ort_open(&ort, NULL) == QD_OK)
		return ort;
	print_message("%s\n", qd_message());
	return NULL;
}

/* The same file under ONNX Runtime: it keeps Q/DQ pairs in float, so what differs is float32 rounding, and a step of a grid where
 * that crosses a tie. */
static void exported_file_runs_under_onnx_runtime(void **state)
{
	uint64_t seed = test_seed();
	struct qd_graph simulated, exported;
	struct qd_ort_session *session;
	struct qd_ort_options options = { .threads = 1 };
	struct qd_tensor feeds[5], out[2];
	const char *path = scratch_path("ort.onnx");
	struct qd_ort *ort = open_ort();
	(void)state;
	if (ort == NULL)
		skip();
	build(&simulated, seed, 16, 8);
	build(&exported, seed, 16, 8);
	export_graph(&exported, path);
	if (qd_ort_session_new(&session, ort, path, &options) != QD_OK)
		fail_msg("%s", qd_message());
	uint64_t draw = seed + 9;
	for (size_t i = 0; i < exported.n_inputs; i++) {
		const struct qd_value *v = &exported.values[exported.inputs[i]];
		assert_int_equal(qd_tensor_new(&feeds[i], v->name, v->dtype, &v->shape), QD_OK);
		for (int64_t k = 0; k < qd_shape_elements(&v->shape); k++) {
			float real = random_in(&draw, -4, 4);
			int32_t q;
			if (v->dtype == QD_F32) {
				((float *)feeds[i].data)[k] = real;
			} else {
				struct qd_shape one = QD_SHAPE(1);
				qd_quantize(simulated.values[qd_graph_find(&simulated, v->name)].encoding, &one, &real, &q, NULL);
				((int8_t *)feeds[i].data)[k] = (int8_t)q;
			}
		}
	}
	for (size_t o = 0; o < 2; o++) {
		const struct qd_value *v = &exported.values[exported.outputs[o]];
		assert_int_equal(qd_tensor_new(&out[o], v->name, v->dtype, &v->shape), QD_OK);
	}
	if (qd_ort_run(session, feeds, exported.n_inputs, NULL, out, 2) != QD_OK)
		fail_msg("%s", qd_message());
	for (size_t o = 0; o < 2; o++) {
		size_t n;
		float *wanted = run(&simulated, &simulated, true, seed + 9, o, &n), low = wanted[0], high = wanted[0];
		for (size_t k = 0; k < n; k++) {
			low = fminf(low, wanted[k]);
			high = fmaxf(high, wanted[k]);
		}
		for (size_t k = 0; k < n; k++)
			assert_true(fabsf(((float *)out[o].data)[k] - wanted[k]) <= 1e-3f * (high - low));
		free(wanted);
		qd_tensor_release(&out[o]);
	}
	for (size_t i = 0; i < exported.n_inputs; i++)
		qd_tensor_release(&feeds[i]);
	qd_ort_session_free(session);
	qd_ort_close(ort);
	qd_graph_release(&simulated);
	qd_graph_release(&exported);
}

/* Our adapter files, made of the tensors of files that ONNX Runtime wrote, give its outputs. */
static void adapter_files_are_accepted(void **state)
{
	static const char *const names[] = { "lora_a", "lora_b" };
	struct qd_safetensors results;
	struct qd_ort_session *session;
	struct qd_ort_options options = { .threads = 1 };
	struct qd_ort *ort = golden_path("onnx_adapter") != NULL ? open_ort() : NULL;
	(void)state;
	if (ort == NULL)
		skip();
	assert_int_equal(qd_safetensors_open(&results, golden_path("onnx_adapter/lora_out.safetensors")), QD_OK);
	if (qd_ort_session_new(&session, ort, golden_path("onnx_adapter/lora.onnx"), &options) != QD_OK)
		fail_msg("%s", qd_message());
	for (size_t i = 0; i < 2; i++) {
		char name[64];
		struct qd_safetensors file;
		struct qd_tensor out;
		const struct qd_tensor *x, *wanted;
		snprintf(name, sizeof(name), "onnx_adapter/%s.safetensors", names[i]);
		assert_int_equal(qd_safetensors_open(&file, golden_path(name)), QD_OK);
		const char *ours = scratch_path(names[i]);
		assert_int_equal(qd_onnx_adapter_write(ours, file.tensors, file.n, 1, 1, true), QD_OK);
		snprintf(name, sizeof(name), "y_%s", names[i]);
		assert_int_equal(qd_safetensors_get(&results, "x", &x), QD_OK);
		assert_int_equal(qd_safetensors_get(&results, name, &wanted), QD_OK);
		assert_int_equal(qd_tensor_new(&out, "y", QD_F32, &wanted->shape), QD_OK);
		if (qd_ort_run(session, x, 1, ours, &out, 1) != QD_OK)
			fail_msg("%s", qd_message());
		for (int64_t k = 0; k < qd_shape_elements(&wanted->shape); k++)
			assert_true(fabsf(((float *)out.data)[k] - ((const float *)wanted->data)[k]) <= 1e-6f);
		qd_tensor_release(&out);
		qd_safetensors_release(&file);
	}
	qd_ort_session_free(session);
	qd_safetensors_release(&results);
	qd_ort_close(ort);
}

static void says_why_there_is_no_runtime(void **state)
{
	struct qd_ort *ort;
	(void)state;
	assert_int_equal(qd_ort_open(&ort, "/nonexistent/libonnxruntime.so"), QD_EUNSUPPORTED);
	assert_non_null(strstr(qd_message(), "cannot load ONNX Runtime: /nonexistent/libonnxruntime.so"));
	assert_null(ort);
	assert_int_equal(qd_ort_open(&ort, "libm.so.6"), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "the library loaded as ONNX Runtime has no OrtGetApiBase");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exported_file_equals_simulator),
		cmocka_unit_test(float_file_equals_float_graph),
		cmocka_unit_test(reads_golden_models),
		cmocka_unit_test(exported_file_runs_under_onnx_runtime),
		cmocka_unit_test(adapter_files_are_accepted),
		cmocka_unit_test(says_why_there_is_no_runtime),
	};
	return cmocka_run_group_tests_name("torch_export", tests, NULL, NULL);
}
