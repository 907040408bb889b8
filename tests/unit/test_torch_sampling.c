/*
 * export/runtime, engines and sampling from files: an export made by hand (a small denoiser with one LoRA slot) is sampled in
 * batches, traced and compared; every input that does not fit is refused by name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "export/runtime/runtime.h"
#include "lib/onnx/onnx.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"

enum { B = 2, CL = 2, CC = 1, H = 3, W = 4, L = 2, D = 3, N = 3, PLANE = H * W };

/* out = tanh(conv(sample) + up(gain down(sample)) + mean of the context + a little of the timestep) */
static const char denoiser[] = "graph denoiser\n"
			       "input %sample f32[2,3,3,4]\n"
			       "input %timestep f32[2]\n"
			       "input %encoder_hidden_states f32[2,2,3]\n"
			       "input %c.lora_down i8[1,3,1,1]\n"
			       "input %c.lora_up i8[2,1,1,1]\n"
			       "input %c.lora_gain f32[1]\n"
			       "weight %c.weight f32[2,3,1,1] {0.5, -0.25, 0.125, 0.25, 0.5, -0.5}\n"
			       "weight %step f32[] {0.25}\n"
			       "weight %gain.shape i64[4] {1, 1, 1, 1}\n"
			       "weight %time.shape i64[4] {2, 1, 1, 1}\n"
			       "weight %axes i64[2] {1, 2}\n"
			       "weight %milli f32[] {0.001}\n"
			       "%down = DequantizeLinear(%c.lora_down, %step)\n"
			       "%up = DequantizeLinear(%c.lora_up, %step)\n"
			       "%c = Conv(%sample, %c.weight)\n"
			       "%low = Conv(%sample, %down)\n"
			       "%gain = Reshape(%c.lora_gain, %gain.shape)\n"
			       "%gained = Mul(%low, %gain)\n"
			       "%raised = Conv(%gained, %up)\n"
			       "%sum = Add(%c, %raised)\n"
			       "%context = ReduceMean(%encoder_hidden_states, %axes) {keepdims=0}\n"
			       "%shifted = Reshape(%context, %time.shape)\n"
			       "%told = Add(%sum, %shifted)\n"
			       "%clock = Mul(%timestep, %milli)\n"
			       "%ticks = Reshape(%clock, %time.shape)\n"
			       "%late = Add(%told, %ticks)\n"
			       "%out = Tanh(%late)\n"
			       "output %out\n";

static char folder[4096];

static char *in_folder(const char *name)
{
	static char paths[16][4200];
	static int next;
	char *path = paths[next++ % 16];
	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static void write_all(const char *path, struct qd_tensor *tensors, size_t n)
{
	if (qd_safetensors_write(path, tensors, n, NULL, 0, true, NULL, NULL) != QD_OK)
		fail_msg("%s", qd_message());
}

static void write_adapter(const char *name, enum qd_dtype dtype, int64_t inputs)
{
	static const int8_t down[] = { 4, -2, 1, 0 }, up[] = { 3, -1 };
	static const float gain[] = { 0.5f };
	struct qd_tensor t[] = { qd_tensor_view("c.lora_down", dtype, QD_SHAPE(1, inputs, 1, 1), down),
		qd_tensor_view("c.lora_up", QD_I8, QD_SHAPE(2, 1, 1, 1), up),
		qd_tensor_view("c.lora_gain", QD_F32, QD_SHAPE(1), gain) };
	write_all(in_folder(name), t, 3);
}

static int make_export(void **state)
{
	struct qd_graph g;
	struct qd_onnx_write_options options = { 0 };
	(void)state;
	snprintf(folder, sizeof(folder), "%s", scratch_path("export"));
	mkdir(folder, 0777);
	mkdir(in_folder("adapters"), 0777);
	ir_parse(&g, denoiser);
	if (qd_onnx_write(&g, in_folder("model.onnx"), &options, NULL) != QD_OK)
		return -1;
	qd_graph_release(&g);
	write_adapter("adapters/one.safetensors", QD_I8, 3);
	return 0;
}

/* Inputs with n rows, whose row r is row `first + r` of one long list; `wide` channels of condition. */
static char *write_inputs(const char *name, int64_t n, int64_t first, int64_t condition_rows, int64_t channels)
{
	enum { ROOM = 8 * 4 * PLANE };
	static float condition[ROOM], context[ROOM], noise[ROOM], negative[L * D];
	uint64_t seed = 77;
	for (int i = 0; i < ROOM; i++) {
		condition[i] = (float)ir_uniform(&seed) - 0.5f;
		context[i] = (float)ir_uniform(&seed) - 0.5f;
		noise[i] = (float)ir_uniform(&seed) * 4 - 2;
	}
	struct qd_tensor t[] = {
		qd_tensor_view("condition", QD_F32, QD_SHAPE(condition_rows, channels, H, W),
			condition + (condition_rows == 1 ? 0 : first * CC * PLANE)),
		qd_tensor_view("encoder_hidden_states", QD_F32, QD_SHAPE(n, L, D), context + first * L * D),
		qd_tensor_view("noise", QD_F32, QD_SHAPE(n, CL, H, W), noise + first * CL * PLANE),
		qd_tensor_view("negative_hidden_states", QD_F32, QD_SHAPE(1, L, D), negative),
	};
	char *path = in_folder(name);
	write_all(path, t, QD_COUNT(t));
	return path;
}

static struct qd_sampling_options options_for(const char *inputs, const char *adapter)
{
	return (struct qd_sampling_options){
		.engine = { .base = folder, .adapter = adapter }, .inputs = inputs, .scheduler = "ddim", .steps = 4, .guidance = 1
	};
}

static void sample_or_fail(const struct qd_sampling_options *o, struct qd_tensor *latents)
{
	if (qd_sample_file(o, latents) != QD_OK)
		fail_msg("%s", qd_message());
}

/* Three samples in batches of two are the same three, each alone: the batch is filled up and cut again. */
static void batches_do_not_mix_samples(void **state)
{
	struct qd_tensor all, one;
	struct qd_sampling_options o = options_for(write_inputs("all", N, 0, N, CC), "one");
	(void)state;
	sample_or_fail(&o, &all);
	assert_int_equal(all.shape.dim[0], N);
	assert_int_equal(all.shape.dim[1], CL);
	for (int i = 0; i < N; i++) {
		o = options_for(write_inputs("single", 1, i, N, CC), "one");
		o.limit = 1;
		sample_or_fail(&o, &one);
		assert_memory_equal((float *)all.data + i * CL * PLANE, one.data, CL * PLANE * sizeof(float));
		qd_tensor_release(&one);
	}
	qd_tensor_release(&all);
	assert_int_equal(qt_live(), 0);
}

/* A tensor with one row serves every sample; the adapter, the guidance and the limit make a difference. */
static void options_take_effect(void **state)
{
	struct qd_tensor base, other;
	(void)state;
	struct qd_sampling_options o = options_for(write_inputs("one-row", N, 0, 1, CC), NULL);
	sample_or_fail(&o, &base);
	o.engine.adapter = "one";
	sample_or_fail(&o, &other);
	assert_memory_not_equal(base.data, other.data, base.bytes);
	qd_tensor_release(&other);
	o.engine.adapter = NULL;
	o.guidance = 2;
	sample_or_fail(&o, &other);
	assert_memory_not_equal(base.data, other.data, base.bytes);
	qd_tensor_release(&other);
	o.guidance = 1;
	o.limit = 2;
	sample_or_fail(&o, &other);
	assert_int_equal(other.shape.dim[0], 2);
	assert_memory_equal(base.data, other.data, other.bytes);
	qd_tensor_release(&other);
	qd_tensor_release(&base);
}

static void a_trace_is_compared_step_by_step(void **state)
{
	struct qd_tensor latents;
	struct qd_trace_step *steps;
	size_t n;
	(void)state;
	struct qd_sampling_options o = options_for(write_inputs("traced", N, 0, N, CC), "one");
	struct qd_provenance made = { .program = "quad", .command = "run" };
	o.trace = in_folder("trace");
	o.provenance = &made;
	sample_or_fail(&o, &latents);
	qd_tensor_release(&latents);
	assert_string_equal(made.inputs[0].role, "inputs");
	qd_provenance_release(&made);
	char *trace = strdup(o.trace);
	o.trace = NULL;
	assert_int_equal(qd_trace_check(&o, trace, &steps, &n), QD_OK);
	assert_int_equal(n, 4);
	for (size_t i = 0; i < n; i++) {
		assert_true(steps[i].difference == 0);
		assert_true(steps[i].range > 0);
		assert_true(i == 0 || steps[i].timestep < steps[i - 1].timestep);
	}
	free(steps);
	o.engine.adapter = NULL;
	assert_int_equal(qd_trace_check(&o, trace, &steps, &n), QD_OK);
	assert_true(steps[0].difference > 1e-3);
	assert_int_equal(qd_trace_verdict(steps, n, 1e9), QD_OK);
	assert_int_equal(qd_trace_verdict(steps, n, steps[qd_trace_worst(steps, n)].difference * 0.999), QD_ECHECK);
	free(steps);
	o.limit = 2;
	assert_int_equal(qd_trace_check(&o, trace, &steps, &n), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "tensor 'step.000.sample' is [3,3,3,4], needs [2,3,3,4] (2 samples of"));
	free(steps);
	free(trace);
}

/*
 * A trace of two steps: in the second something stored is no number, or what was asked overflows: the second channel's convolution
 * is 0.25 a + 0.5 b - 0.5 c, here minus infinity, and the context's mean infinite.
 */
static void no_tolerance_allows_what_is_not_finite(void **state)
{
	enum { IN = N * (CL + CC) * PLANE, OUT = N * CL * PLANE };
	static const struct {
		int spoiled; /* tensor of the second step */
		float value;
		const char *message;
	} cases[] = {
		{ 3, FLT_MAX, "step 1: the output has values that are not finite" },
		{ 3, NAN, "step 1: the stored input has values that are not finite" },
		{ 4, INFINITY, "step 1: the stored input has values that are not finite" },
		{ 5, NAN, "step 1: the stored output has values that are not finite" },
		{ 5, -INFINITY, "step 1: the stored output has values that are not finite" },
	};
	float condition[CC * PLANE] = { 0 }, context[N * L * D];
	struct qd_tensor inputs[] = { qd_tensor_view("condition", QD_F32, QD_SHAPE(1, CC, H, W), condition),
		qd_tensor_view("encoder_hidden_states", QD_F32, QD_SHAPE(N, L, D), context) };
	struct qd_sampling_options o = options_for(in_folder("huge"), "one");

	(void)state;
	for (size_t k = 0; k < QD_COUNT(context); k++)
		context[k] = FLT_MAX;
	write_all(o.inputs, inputs, 2);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		float sample[2][IN] = { 0 }, timestep[2] = { 9, 8 }, out[2][OUT] = { 0 };
		struct qd_tensor t[] = { qd_tensor_view("step.000.sample", QD_F32, QD_SHAPE(N, CL + CC, H, W), sample[0]),
			qd_tensor_view("step.000.timestep", QD_F32, QD_SHAPE(1), &timestep[0]),
			qd_tensor_view("step.000.out", QD_F32, QD_SHAPE(N, CL, H, W), out[0]),
			qd_tensor_view("step.001.sample", QD_F32, QD_SHAPE(N, CL + CC, H, W), sample[1]),
			qd_tensor_view("step.001.timestep", QD_F32, QD_SHAPE(1), &timestep[1]),
			qd_tensor_view("step.001.out", QD_F32, QD_SHAPE(N, CL, H, W), out[1]) };
		struct qd_tensor *spoiled = &t[cases[i].spoiled];
		struct qd_trace_step *steps;
		size_t n;
		((float *)spoiled->data)[0] = cases[i].value;
		for (size_t k = 0; k < IN && cases[i].value == FLT_MAX; k++)
			sample[1][k] = k / PLANE % (CL + CC) < CL ? -FLT_MAX : FLT_MAX;
		write_all(in_folder("spoiled-trace"), t, QD_COUNT(t));
		assert_int_equal(qd_trace_check(&o, in_folder("spoiled-trace"), &steps, &n), QD_OK);
		assert_int_equal(n, 2);
		assert_int_equal(qd_trace_worst(steps, n), 1);
		assert_true(isinf(steps[1].difference) && isfinite(steps[0].difference) && steps[0].not_finite == NULL);
		assert_int_equal(qd_trace_verdict(steps, n, HUGE_VAL), QD_ECHECK);
		assert_string_equal(qd_message(), cases[i].message);
		free(steps);
	}
}

/* ---- refusals ---- */

static void expect_refusal(const struct qd_sampling_options *o, enum qd_status code, const char *part)
{
	struct qd_tensor latents;
	assert_int_equal(qd_sample_file(o, &latents), code);
	if (strstr(qd_message(), part) == NULL)
		fail_msg("'%s' is not in: %s", part, qd_message());
	assert_int_equal(qt_live(), 0);
}

static void refuses_adapters_that_do_not_fit(void **state)
{
	struct qd_sampling_options o = options_for(write_inputs("fit", N, 0, N, CC), NULL);
	char spec[4300];
	(void)state;
	write_adapter("wide", QD_I8, 4);
	snprintf(spec, sizeof(spec), "x=%s", in_folder("wide"));
	o.engine.adapter = spec;
	expect_refusal(&o, QD_EINPUT, "'c.lora_down' is I8 [1,4,1,1], the graph needs I8 [1,3,1,1]");
	write_adapter("unsigned", QD_U8, 3);
	snprintf(spec, sizeof(spec), "x=%s", in_folder("unsigned"));
	expect_refusal(&o, QD_EINPUT, "'c.lora_down' is U8 [1,3,1,1], the graph needs I8 [1,3,1,1]");
	o.engine.adapter = "two";
	expect_refusal(&o, QD_EINPUT, "which has one");
	float gain = 1;
	struct qd_tensor t = qd_tensor_view("c.lora_gain", QD_F32, QD_SHAPE(1), &gain);
	write_all(in_folder("part"), &t, 1);
	o.engine.adapter = in_folder("part");
	expect_refusal(&o, QD_EINPUT, "part' has no tensor 'c.lora_down'");
	t.name = "d.lora_gain";
	write_all(in_folder("part"), &t, 1);
	expect_refusal(&o, QD_EINPUT, "part': tensor 'd.lora_gain' is no LoRA input of");
	o.engine.adapter = NULL;
	o.engine.profile = "p.json";
	expect_refusal(&o, QD_EINPUT, "carries its encodings, --profile does not apply");
}

static void refuses_inputs_of_another_shape(void **state)
{
	struct qd_sampling_options o = options_for(write_inputs("shape", N, 0, N, 2), NULL);
	(void)state;
	expect_refusal(&o, QD_EINPUT, "tensor 'condition' is [3,2,3,4], needs [3,1,3,4]");
	o = options_for(write_inputs("rows", N, 0, 2, CC), NULL);
	expect_refusal(&o, QD_EINPUT, "tensor 'condition' is [2,1,3,4], needs [3,1,3,4]");
	float x[4 * L * D] = { 0 };
	struct qd_tensor t = qd_tensor_view("encoder_hidden_states", QD_F32, QD_SHAPE(4, L, D), x);
	write_all(in_folder("text"), &t, 1);
	o = options_for(in_folder("text"), NULL);
	expect_refusal(&o, QD_EINPUT, "has no 'condition' and no 'noise': give --height and --width of the latents");
	o.height = 8;
	o.width = 8;
	expect_refusal(&o, QD_EINPUT, "is for latents of 3x4, ");
	o.height = H;
	o.width = W;
	expect_refusal(&o, QD_EINPUT, "has no tensor 'condition'");
	t.shape = QD_SHAPE(4, L * D);
	write_all(in_folder("flat"), &t, 1);
	o.inputs = in_folder("flat");
	expect_refusal(&o, QD_EINPUT, "tensor 'encoder_hidden_states' has 2 dimensions, needs 3");
}

static void refuses_inputs_that_are_not_finite(void **state)
{
	float x[CL * PLANE] = { 0 };
	(void)state;
	x[5] = INFINITY;
	struct qd_tensor t[] = { qd_tensor_view("condition", QD_F32, QD_SHAPE(1, CC, H, W), x),
		qd_tensor_view("encoder_hidden_states", QD_F32, QD_SHAPE(1, L, D), x + 6) };
	write_all(in_folder("infinite"), t, 2);
	struct qd_sampling_options o = options_for(in_folder("infinite"), NULL);
	expect_refusal(&o, QD_EINPUT, "condition");
}

static void refuses_a_graph_that_is_no_denoiser(void **state)
{
	struct qd_graph g;
	struct qd_onnx_write_options options = { 0 };
	char other[4096];
	(void)state;
	struct qd_sampling_options o = options_for(write_inputs("any", N, 0, N, CC), NULL);
	snprintf(other, sizeof(other), "%s", scratch_path("other"));
	mkdir(other, 0777);
	ir_parse(&g, "graph g\ninput %x f32[2]\n%y = Relu(%x)\noutput %y\n");
	char path[4200];
	snprintf(path, sizeof(path), "%s/model.onnx", other);
	assert_int_equal(qd_onnx_write(&g, path, &options, NULL), QD_OK);
	qd_graph_release(&g);
	o.engine.base = other;
	expect_refusal(&o, QD_EINPUT, "is no denoiser: it has no inputs 'sample' [N,C,H,W] and 'timestep' [N]");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(batches_do_not_mix_samples),
		cmocka_unit_test(options_take_effect),
		cmocka_unit_test(a_trace_is_compared_step_by_step),
		cmocka_unit_test(no_tolerance_allows_what_is_not_finite),
		cmocka_unit_test(refuses_adapters_that_do_not_fit),
		cmocka_unit_test(refuses_inputs_of_another_shape),
		cmocka_unit_test(refuses_inputs_that_are_not_finite),
		cmocka_unit_test(refuses_a_graph_that_is_no_denoiser),
	};
	return cmocka_run_group_tests_name("torch_sampling", tests, make_export, NULL);
}
