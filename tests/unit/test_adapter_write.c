/*
 * lib/adapter: writing, reading back, specs that join several files, and adapters made in memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/adapter_help.h"
#include "tests/unit/scratch.h"

#define Q "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
#define K "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
#define IN "mid_block.attentions.0.proj_in"

/* Three layers (linear, 3x3, 1x1 convolution) of the given ranks with random matrices; gain 1. */
static void make(struct qd_adapter *adapter, int64_t rank)
{
	const struct qd_module *modules[] = { qd_modules_find(&help_tiny15.modules, "conv_in"),
		qd_modules_find(&help_tiny15.modules, Q), qd_modules_find(&help_tiny15.modules, IN) };
	uint32_t seed = (uint32_t)test_seed();

	assert_int_equal(qd_adapter_new(adapter, "made", modules, 3, rank, 1), QD_OK);
	for (size_t i = 0; i < 3; i++) {
		struct qd_lora *lora = &adapter->loras[i];
		float *parts[] = { lora->down, lora->up };
		int64_t n[] = { lora->rank * lora->in * lora->kh * lora->kw, lora->out * lora->rank };
		for (int p = 0; p < 2; p++)
			for (int64_t k = 0; k < n[p]; k++) {
				seed = seed * 1664525u + 1013904223u;
				parts[p][k] = (float)(seed >> 8) / 8388608.0f - 1.0f;
			}
	}
}

static void read_back(struct qd_adapter *adapter, const char *path)
{
	if (qd_adapter_open(adapter, "back", path, 1, &help_tiny15.modules) != QD_OK)
		fail_msg("%s", qd_message());
	assert_int_equal(adapter->format, QD_ADAPTER_DIFFUSERS);
}

static void assert_function(const struct qd_adapter *a, const struct qd_adapter *b, double tolerance)
{
	assert_int_equal(a->n, b->n);
	for (size_t i = 0; i < a->n; i++) {
		const struct qd_lora *x = &a->loras[i], *y = qd_adapter_find(b, x->path);
		assert_non_null(y);
		for (int64_t o = 0; o < x->out; o++)
			for (int64_t k = 0; k < x->in * x->kh * x->kw; k += 3)
				assert_true(fabs(help_delta(x, o, k) - help_delta(y, o, k)) <= tolerance);
	}
}

/* Zeros, the gain asked for, and the layers' sizes. */
static void makes_an_adapter(void **state)
{
	const struct qd_module *modules[] = { qd_modules_find(&help_tiny15.modules, "conv_in") };
	struct qd_adapter adapter;
	const struct qd_lora *lora;

	(void)state;
	assert_int_equal(qd_adapter_new(&adapter, "new", modules, 1, 3, 0.25f), QD_OK);
	lora = qd_adapter_find(&adapter, "conv_in");
	assert_true(lora->conv && lora->rank == 3 && lora->in == 4 && lora->out == 32 && lora->kh == 3 && lora->kw == 3);
	for (int i = 0; i < 3 * 36; i++)
		assert_true(lora->down[i] == 0);
	assert_true(lora->up[0] == 0 && lora->gain[2] == 0.25f);
	assert_null(qd_adapter_find(&adapter, "conv_out"));
	qd_adapter_release(&adapter);
	assert_int_equal(qd_adapter_new(&adapter, "new", modules, 1, 0, 1), QD_EINPUT);
	assert_string_equal(qd_message(), "adapter 'new': rank 0, needs at least 1");
}

/* A gain that is one number becomes alpha: matrices and function are the same bytes. */
static void keeps_matrices_under_a_common_gain(void **state)
{
	static const float gains[] = { 0.3f, 1, 2.5f };
	struct qd_adapter adapter, back;

	(void)state;
	make(&adapter, 3);
	for (size_t i = 0; i < 3; i++)
		for (int k = 0; k < 3; k++)
			adapter.loras[i].gain[k] = gains[i];
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("a.safetensors"), QD_F32, false, false), QD_OK);
	read_back(&back, scratch_path("a.safetensors"));
	for (size_t i = 0; i < 3; i++) {
		const struct qd_lora *a = &adapter.loras[i], *b = qd_adapter_find(&back, a->path);
		assert_memory_equal(a->gain, b->gain, 3 * sizeof(float));
		assert_memory_equal(a->down, b->down, (size_t)(3 * a->in * a->kh * a->kw) * sizeof(float));
	}
	qd_adapter_release(&back);
	/* again: not without force, and the same bytes with it */
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("a.safetensors"), QD_F32, false, false), QD_EEXIST);
	qd_adapter_release(&adapter);
}

/* Mixed gains are split between up and down; each product of two roots of 1e-7 relative error, three summed, below 3. */
static void folds_mixed_gains(void **state)
{
	struct qd_adapter adapter, back;

	(void)state;
	make(&adapter, 3);
	for (size_t i = 0; i < 3; i++)
		memcpy(adapter.loras[i].gain, (float[]){ 2, -0.5f, 0 }, 3 * sizeof(float));
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("b.safetensors"), QD_F32, false, true), QD_OK);
	read_back(&back, scratch_path("b.safetensors"));
	assert_true(back.loras[0].gain[0] == 1 && back.loras[0].gain[1] == 1 && back.loras[0].gain[2] == 1);
	assert_function(&adapter, &back, 2e-6);
	/* evenly: the range of down grows by the root of the gain */
	assert_true(fabsf(back.loras[0].down[0] - adapter.loras[0].down[0] * sqrtf(2)) < 1e-6f);
	qd_adapter_release(&back);
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("b.safetensors"), QD_F32, true, true), QD_OK);
	read_back(&back, scratch_path("b.safetensors"));
	assert_memory_equal(back.loras[1].gain, adapter.loras[1].gain, 3 * sizeof(float));
	assert_function(&adapter, &back, 0);
	qd_adapter_release(&back);
	qd_adapter_release(&adapter);
}

/*
 * Biases, which the scale of the file multiplies, come back whatever became of the gain; layers without one have zeros, as PEFT has
 * biases everywhere or nowhere. An adapter without any is written as before.
 */
static void keeps_biases(void **state)
{
	static const float gains[][3] = { { 0.3f, 0.3f, 0.3f }, { 2, -0.5f, 0 } };
	struct qd_adapter adapter, back;
	struct qd_safetensors file;

	(void)state;
	for (int i = 0; i < 4; i++) {
		const bool keep = i % 2 == 1;
		struct qd_lora *lora;
		make(&adapter, 3);
		lora = &adapter.loras[1];
		lora->bias = qd_arena_array(&adapter.arena, (size_t)lora->out, sizeof(float));
		for (int64_t o = 0; o < lora->out; o++)
			lora->bias[o] = (float)o / 7 - 1;
		for (size_t k = 0; k < 3; k++)
			memcpy(adapter.loras[k].gain, gains[i / 2], sizeof(gains[0]));
		assert_int_equal(qd_adapter_write(&adapter, scratch_path("bias.safetensors"), QD_F16, keep, true), QD_OK);
		assert_int_equal(qd_safetensors_open(&file, scratch_path("bias.safetensors")), QD_OK);
		assert_non_null(strstr(qd_safetensors_metadata(&file, "lora_adapter_metadata"), "\"unet.lora_bias\": true"));
		assert_non_null(qd_safetensors_find(&file, "unet.conv_in.lora_B.bias"));
		qd_safetensors_release(&file);
		read_back(&back, scratch_path("bias.safetensors"));
		for (size_t k = 0; k < 3; k++) {
			const struct qd_lora *found = qd_adapter_find(&back, adapter.loras[k].path);
			for (int64_t o = 0; o < found->out; o++) {
				double want = k == 1 ? (double)lora->bias[o] : 0;
				/* divided by the scale and multiplied again */
				assert_true(fabs((double)found->bias[o] - want) <= 1.3e-7 * fabs(want));
			}
		}
		qd_adapter_release(&back);
		qd_adapter_release(&adapter);
	}
	make(&adapter, 3);
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("bias.safetensors"), QD_F16, false, true), QD_OK);
	assert_int_equal(qd_safetensors_open(&file, scratch_path("bias.safetensors")), QD_OK);
	assert_int_equal(file.n, 6);
	assert_non_null(strstr(qd_safetensors_metadata(&file, "lora_adapter_metadata"), "\"unet.lora_bias\": false"));
	qd_safetensors_release(&file);
	qd_adapter_release(&adapter);
}

/* The biases of several files add up, each with its strength; a file without one adds nothing. */
static void joins_biases(void **state)
{
	struct qd_adapter adapter, joined;
	const struct qd_lora *in, *q;
	char spec[3 * 4096];

	(void)state;
	make(&adapter, 1);
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("plain.safetensors"), QD_F32, false, true), QD_OK);
	for (size_t i = 0; i < 2; i++) {
		adapter.loras[i].gain[0] = 0.5f;
		adapter.loras[i].bias = qd_arena_array(&adapter.arena, (size_t)adapter.loras[i].out, sizeof(float));
		for (int64_t o = 0; o < adapter.loras[i].out; o++)
			adapter.loras[i].bias[o] = (float)(o + 1);
	}
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("biased.safetensors"), QD_F32, false, true), QD_OK);
	snprintf(spec, sizeof(spec), "j=%s@0.5+%s+%s@-2", scratch_path("biased.safetensors"), scratch_path("plain.safetensors"),
		scratch_path("biased.safetensors"));
	assert_int_equal(qd_adapter_open_spec(&joined, spec, &help_tiny15.modules), QD_OK);
	in = qd_adapter_find(&joined, "conv_in");
	q = qd_adapter_find(&joined, Q);
	assert_int_equal(in->rank, 3);
	for (int64_t o = 0; o < in->out; o++)
		assert_true(in->bias[o] == -1.5f * (float)(o + 1));
	for (int64_t o = 0; o < q->out; o++)
		assert_true(q->bias[o] == -1.5f * (float)(o + 1));
	qd_adapter_release(&joined);
	qd_adapter_release(&adapter);
}

/* What other programs read of a file with the gain kept, down and up alone, is the same function: one product is rounded more. */
static void up_carries_a_gain_that_is_kept(void **state)
{
	struct qd_adapter adapter;
	struct qd_safetensors file;

	(void)state;
	make(&adapter, 3);
	for (size_t i = 0; i < 3; i++)
		memcpy(adapter.loras[i].gain, (float[]){ 2, -0.3f, 0 }, 3 * sizeof(float));
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("k.safetensors"), QD_F32, true, true), QD_OK);
	assert_int_equal(qd_safetensors_open(&file, scratch_path("k.safetensors")), QD_OK);
	for (size_t i = 0; i < 3; i++) {
		const struct qd_lora *lora = &adapter.loras[i];
		char name[200];
		snprintf(name, sizeof(name), "unet.%s.lora_A.weight", lora->path);
		const struct qd_tensor *down = qd_safetensors_find(&file, name);
		snprintf(name, sizeof(name), "unet.%s.lora_B.weight", lora->path);
		const struct qd_tensor *up = qd_safetensors_find(&file, name);
		assert_true(down != NULL && up != NULL);
		assert_memory_equal(down->data, lora->down, (size_t)(3 * lora->in * lora->kh * lora->kw) * sizeof(float));
		for (int64_t k = 0; k < lora->out * 3; k++)
			assert_true(((const float *)up->data)[k] == lora->up[k] * lora->gain[k % 3]);
	}
	qd_safetensors_release(&file);
	qd_adapter_release(&adapter);
}

/* float16 has 11 bits: each factor is within 2^-11, their product within 2^-10, three of them summed. */
static void writes_half_precision(void **state)
{
	struct qd_adapter adapter, back;

	(void)state;
	make(&adapter, 3);
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("h.safetensors"), QD_F16, false, true), QD_OK);
	read_back(&back, scratch_path("h.safetensors"));
	assert_function(&adapter, &back, 3.0 / 1024);
	qd_adapter_release(&back);
	adapter.loras[0].down[5] = 1e6f;
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("h2.safetensors"), QD_F16, false, true), QD_EINPUT);
	assert_string_equal(
		qd_message(), "adapter 'made': F16: tensor 'unet.conv_in.lora_A.weight' is infinite or not a number at element 5");
	assert_false(qd_is_file(scratch_path("h2.safetensors")));
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("h2.safetensors"), QD_I8, false, true), QD_EINPUT);
	assert_string_equal(qd_message(), "cannot write an adapter as I8, needs F32, F16 or BF16");
	qd_adapter_release(&adapter);
}

/* What diffusers and PEFT look for. */
static void states_peft_configuration(void **state)
{
	struct qd_adapter adapter;
	struct qd_safetensors file;
	json_t *json;
	const char *text;

	(void)state;
	make(&adapter, 4);
	for (int k = 0; k < 4; k++)
		adapter.loras[1].gain[k] = 0.5f;
	assert_int_equal(qd_adapter_write(&adapter, scratch_path("m.safetensors"), QD_F32, false, true), QD_OK);
	assert_int_equal(qd_safetensors_open(&file, scratch_path("m.safetensors")), QD_OK);
	assert_string_equal(qd_safetensors_metadata(&file, "format"), "pt");
	text = qd_safetensors_metadata(&file, "lora_adapter_metadata");
	assert_non_null(text);
	assert_int_equal(qd_json_parse("m", text, strlen(text), &json), QD_OK);
	assert_int_equal(json_integer_value(json_object_get(json, "unet.r")), 4);
	assert_int_equal(json_integer_value(json_object_get(json, "unet.lora_alpha")), 4);
	assert_int_equal(json_object_size(json_object_get(json, "unet.rank_pattern")), 0);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "unet.alpha_pattern"), Q)), 2);
	assert_int_equal(json_array_size(json_object_get(json, "unet.target_modules")), 3);
	assert_true(json_is_false(json_object_get(json, "unet.use_rslora")));
	assert_true(json_is_false(json_object_get(json, "unet.use_dora")));
	assert_true(qd_shape_equal(&qd_safetensors_find(&file, "unet." IN ".lora_B.weight")->shape, &QD_SHAPE(96, 4, 1, 1)));
	assert_true(qd_shape_equal(&qd_safetensors_find(&file, "unet." Q ".lora_A.weight")->shape, &QD_SHAPE(4, 32)));
	assert_true(qd_shape_equal(&qd_safetensors_find(&file, "unet.conv_in.lora_A.weight")->shape, &QD_SHAPE(4, 4, 3, 3)));
	json_decref(json);
	qd_safetensors_release(&file);
	qd_adapter_release(&adapter);
}

/* Every golden adapter, written and read back, is the same function. */
static void rewrites_golden_files(void **state)
{
	static const char *const names[] = { "kohya.safetensors", "kohya_locon.safetensors", "diffusers_saved.safetensors", "peft",
		"peft_saved", "cloneofsimo.safetensors" };

	(void)state;
	if (golden_path("adapters") == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(names); i++) {
		struct qd_adapter adapter, back;
		char path[256];
		snprintf(path, sizeof(path), "adapters/%s", names[i]);
		assert_int_equal(qd_adapter_open(&adapter, "a", golden_path(path), 0.7, &help_tiny15.modules), QD_OK);
		assert_int_equal(qd_adapter_write(&adapter, scratch_path("g.safetensors"), QD_F32, false, true), QD_OK);
		read_back(&back, scratch_path("g.safetensors"));
		assert_function(&adapter, &back, 0);
		qd_adapter_release(&adapter);
		qd_adapter_release(&back);
	}
}

/* ---- specs ---- */

static const char *write_pair(const char *name, const char *first, int first_rank, const char *second, int second_rank)
{
	static struct help_file file;
	char key[200];

	snprintf(key, sizeof(key), "%s.lora_A.weight", first);
	help_add(&file, key, 2, first_rank, 32);
	snprintf(key, sizeof(key), "%s.lora_B.weight", first);
	help_add(&file, key, 2, 32, first_rank);
	snprintf(key, sizeof(key), "%s.lora_A.weight", second);
	help_add(&file, key, 2, second_rank, 32);
	snprintf(key, sizeof(key), "%s.lora_B.weight", second);
	help_add(&file, key, 2, 32, second_rank);
	return help_write(&file, name);
}

static void names_after_the_file(void **state)
{
	struct qd_adapter adapter;
	char spec[2048];

	(void)state;
	write_pair("my+ada=pter@2.safetensors", Q, 1, K, 2);
	assert_int_equal(qd_adapter_open_spec(&adapter, scratch_path("my+ada=pter@2.safetensors"), &help_tiny15.modules), QD_OK);
	assert_string_equal(adapter.name, "my+ada=pter@2");
	assert_true(adapter.loras[0].gain[0] == 1);
	qd_adapter_release(&adapter);
	snprintf(spec, sizeof(spec), "style=%s@-0.5", scratch_path("my+ada=pter@2.safetensors"));
	assert_int_equal(qd_adapter_open_spec(&adapter, spec, &help_tiny15.modules), QD_OK);
	assert_string_equal(adapter.name, "style");
	assert_true(adapter.loras[0].gain[0] == -0.5f);
	qd_adapter_release(&adapter);
}

/* delta of the joined adapter = the sum of the parts' deltas, exactly: the same products in the same order. */
static void joins_ranks(void **state)
{
	struct qd_adapter joined, a, b;
	char spec[4096];
	const struct qd_lora *lora;

	(void)state;
	write_pair("a.safetensors", Q, 2, K, 1);
	write_pair("b.safetensors", Q, 3, "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q", 1);
	snprintf(spec, sizeof(spec), "both=%s@0.5+%s", scratch_path("a.safetensors"), scratch_path("b.safetensors"));
	assert_int_equal(qd_adapter_open_spec(&joined, spec, &help_tiny15.modules), QD_OK);
	assert_int_equal(qd_adapter_open(&a, "a", scratch_path("a.safetensors"), 0.5, &help_tiny15.modules), QD_OK);
	assert_int_equal(qd_adapter_open(&b, "b", scratch_path("b.safetensors"), 1, &help_tiny15.modules), QD_OK);
	assert_string_equal(joined.name, "both");
	assert_int_equal(joined.n, 3);
	lora = qd_adapter_find(&joined, Q);
	assert_int_equal(lora->rank, 5);
	assert_int_equal(qd_adapter_find(&joined, K)->rank, 1);
	for (int o = 0; o < 32; o++)
		for (int i = 0; i < 32; i++)
			assert_true(fabs(help_delta(lora, o, i) - help_delta(qd_adapter_find(&a, Q), o, i) -
					    help_delta(qd_adapter_find(&b, Q), o, i)) < 1e-12);
	assert_string_not_equal(joined.hash, a.hash);
	qd_adapter_release(&joined);
	qd_adapter_release(&a);
	qd_adapter_release(&b);
}

static void refuses_specs(void **state)
{
	static const struct {
		const char *spec, *message;
	} cases[] = {
		{ "=a", "adapter '=a' has an empty name before '='" },
		{ "a=", "adapter 'a=' has no path" },
		{ "", "adapter '' has no path" },
		{ "a=@2", "'@2' has no path before its strength" },
		{ "a=/none/x.safetensors", "cannot read '/none/x.safetensors': No such file or directory" },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_adapter adapter;
		assert_int_not_equal(qd_adapter_open_spec(&adapter, cases[i].spec, &help_tiny15.modules), QD_OK);
		assert_string_equal(qd_message(), cases[i].message);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(makes_an_adapter),
		cmocka_unit_test(keeps_matrices_under_a_common_gain),
		cmocka_unit_test(folds_mixed_gains),
		cmocka_unit_test(keeps_biases),
		cmocka_unit_test(joins_biases),
		cmocka_unit_test(up_carries_a_gain_that_is_kept),
		cmocka_unit_test(writes_half_precision),
		cmocka_unit_test(states_peft_configuration),
		cmocka_unit_test(rewrites_golden_files),
		cmocka_unit_test(names_after_the_file),
		cmocka_unit_test(joins_ranks),
		cmocka_unit_test(refuses_specs),
	};
	return cmocka_run_group_tests(tests, help_tiny15_open, help_tiny15_close);
}
