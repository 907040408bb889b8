/*
 * export/file, encodings JSON 1.0.0: every rule that its readers check (AIMET's loader, QAIRT), on a graph with each kind of
 * tensor.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "export/file/file.h"
#include "export/pass/pass.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"

static const char layer[] = "graph layer\n"
			    "input %x f32[1,4,8,8]\n"
			    "input %conv.lora_down f32[2,4,3,3]\n"
			    "input %conv.lora_gain f32[2,1,1]\n"
			    "weight %conv.weight f32[4,4,3,3] ...\n"
			    "weight %conv.bias f32[4] {0, 0.25, -0.5, 1}\n"
			    "weight %shape i64[2] {1, -1}\n"
			    "weight %limit f32[] {3}\n"
			    "%conv = Conv(%x, %conv.weight, %conv.bias) {pads=[1,1,1,1]}\n"
			    "%down = Conv(%x, %conv.lora_down) {pads=[1,1,1,1]}\n"
			    "%gained = Mul(%down, %conv.lora_gain)\n"
			    "%flat = Reshape(%conv, %shape)\n"
			    "%low = Min(%flat, %limit)\n"
			    "output %low\n"
			    "output %gained\n";

static struct qd_encoding *encode(struct qd_graph *g, const char *name, int bits, bool is_signed, int axis, size_t n, float zero)
{
	struct qd_encoding *e = qd_arena_alloc(&g->arena, sizeof(*e));
	qd_id value = qd_graph_find(g, name);
	assert_non_null(e);
	assert_int_not_equal(value, QD_NONE);
	*e = (struct qd_encoding){ .bits = bits, .is_signed = is_signed, .symmetric = is_signed, .axis = axis, .n = n };
	e->scale = qd_arena_array(&g->arena, n, sizeof(float));
	e->zero_point = qd_arena_array(&g->arena, n, sizeof(float));
	for (size_t i = 0; i < n; i++) {
		e->scale[i] = 0.1f * (float)(i + 1);
		e->zero_point[i] = zero;
	}
	g->values[value].encoding = e;
	return e;
}

static json_t *document_of(struct qd_graph *g)
{
	struct qd_quant_options options = qd_quant_options_default();
	json_t *document;
	ir_parse(g, layer);
	encode(g, "x", 16, false, -1, 1, 21845);
	encode(g, "conv.lora_down", 8, true, -1, 1, 0);
	encode(g, "conv.weight", 8, true, 0, 4, 0);
	encode(g, "conv", 8, false, -1, 1, 0);
	encode(g, "down", 16, true, -1, 1, 0);
	encode(g, "limit", 8, false, -1, 1, 3);
	assert_int_equal(qd_encodings_json(g, &options, &document), QD_OK);
	return document;
}

static const json_t *find(const json_t *document, const char *list, const char *name)
{
	size_t i;
	const json_t *entry;
	json_array_foreach(json_object_get(document, list), i,
		entry) if (!strcmp(json_string_value(json_object_get(entry, "name")), name)) return entry;
	return NULL;
}

static json_int_t offset_of(const json_t *entry, size_t i)
{
	const json_t *offset = json_array_get(json_object_get(entry, "offset"), i);
	assert_true(json_is_integer(offset)); /* -128, not -128.0 */
	return json_integer_value(offset);
}

static void has_the_top_level_of_its_version(void **state)
{
	struct qd_graph g;
	json_t *d = document_of(&g);
	const json_t *args = json_object_get(d, "quantizer_args");
	(void)state;
	assert_string_equal(json_string_value(json_object_get(d, "version")), "1.0.0");
	assert_true(json_is_array(json_object_get(d, "activation_encodings")));
	assert_true(json_is_array(json_object_get(d, "param_encodings")));
	assert_int_equal(json_array_size(json_object_get(d, "excluded_layers")), 0);
	assert_int_equal(json_integer_value(json_object_get(args, "activation_bitwidth")), 16);
	assert_int_equal(json_integer_value(json_object_get(args, "param_bitwidth")), 8);
	assert_true(json_is_true(json_object_get(args, "per_channel_quantization")));
	json_decref(d);
	qd_graph_release(&g);
}

/* Every name is a tensor of the graph and comes once; scales are positive; as many offsets as scales, on the unsigned grid. */
static void entries_are_well_formed(void **state)
{
	static const char *const lists[] = { "activation_encodings", "param_encodings" };
	struct qd_graph g;
	json_t *d = document_of(&g);
	struct qd_strmap seen = { 0 };
	(void)state;
	for (size_t l = 0; l < 2; l++) {
		size_t i;
		const json_t *e;
		json_array_foreach(json_object_get(d, lists[l]), i, e)
		{
			const char *name = json_string_value(json_object_get(e, "name"));
			assert_int_not_equal(qd_graph_find(&g, name), QD_NONE);
			assert_int_equal(qd_strmap_get(&seen, name), QD_NONE);
			assert_int_equal(qd_strmap_put(&seen, name, 1), QD_OK);
			if (!strcmp(json_string_value(json_object_get(e, "dtype")), "FLOAT"))
				continue;
			json_int_t bits = json_integer_value(json_object_get(e, "bw"));
			const json_t *scale = json_object_get(e, "scale");
			assert_true(json_is_boolean(json_object_get(e, "is_sym")));
			assert_int_equal(json_array_size(scale), json_array_size(json_object_get(e, "offset")));
			for (size_t k = 0; k < json_array_size(scale); k++) {
				assert_true(json_real_value(json_array_get(scale, k)) > 0);
				assert_in_range(-offset_of(e, k), 0, ((uint64_t)1 << bits) - 1);
			}
		}
	}
	qd_strmap_release(&seen);
	json_decref(d);
	qd_graph_release(&g);
}

/* Signed: min = offset * scale = -2^(b-1) * scale. Unsigned: offset = -zero point. */
static void offsets_are_on_the_unsigned_grid(void **state)
{
	static const struct {
		const char *list, *name;
		json_int_t bits, offset;
		bool symmetric;
	} cases[] = {
		{ "activation_encodings", "x", 16, -21845, false },
		{ "activation_encodings", "conv", 8, 0, false },
		{ "activation_encodings", "down", 16, -32768, true },
		{ "activation_encodings", "conv.lora_down", 8, -128, true },
		{ "param_encodings", "conv.weight", 8, -128, true },
	};
	struct qd_graph g;
	json_t *d = document_of(&g);
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		const json_t *e = find(d, cases[i].list, cases[i].name);
		assert_non_null(e);
		assert_int_equal(json_integer_value(json_object_get(e, "bw")), cases[i].bits);
		assert_int_equal(offset_of(e, 0), cases[i].offset);
		assert_int_equal(json_is_true(json_object_get(e, "is_sym")), cases[i].symmetric);
	}
	json_decref(d);
	qd_graph_release(&g);
}

static void weights_are_per_channel_without_an_axis(void **state)
{
	struct qd_graph g;
	json_t *d = document_of(&g);
	const json_t *e = find(d, "param_encodings", "conv.weight");
	(void)state;
	assert_string_equal(json_string_value(json_object_get(e, "enc_type")), "PER_CHANNEL");
	assert_null(json_object_get(e, "axis"));
	assert_int_equal(json_array_size(json_object_get(e, "scale")), 4);
	for (size_t k = 0; k < 4; k++) {
		/* the decimal text gives the float32 back */
		float scale = 0.1f * (float)(k + 1);
		assert_true((float)json_real_value(json_array_get(json_object_get(e, "scale"), k)) == scale);
	}
	assert_string_equal(json_string_value(json_object_get(find(d, "activation_encodings", "x"), "enc_type")), "PER_TENSOR");
	json_decref(d);
	qd_graph_release(&g);
}

/* As short as can be, and the same float32 for a reader in float and one in double. */
static void scales_are_written_as_short_as_they_are(void **state)
{
	static const float scales[] = { 0.1f, 1, 1.0f / 3, 0x1p-23f, 3e-5f, 123456.789f };
	static const char want[] = "\"scale\": [\n        0.1,\n        1.0,\n        0.33333334,\n        1.1920929e-7,\n"
				   "        3e-5,\n        123456.79\n      ]";
	struct qd_quant_options options = qd_quant_options_default();
	const char *path = scratch_path("model.encodings.json");
	struct qd_graph g;
	struct qd_encoding *e;
	struct qd_mapping file;
	json_t *d, *back;

	(void)state;
	ir_parse(&g, layer);
	e = encode(&g, "conv.weight", 8, true, 0, QD_COUNT(scales), 0);
	memcpy(e->scale, scales, sizeof(scales));
	assert_int_equal(qd_encodings_json(&g, &options, &d), QD_OK);
	assert_int_equal(qd_json_write_floats(path, d, true), QD_OK);
	assert_int_equal(qd_mapping_open(&file, path), QD_OK);
	assert_non_null(memmem(file.data, file.size, want, strlen(want)));
	assert_int_equal(qd_json_read(path, &back), QD_OK);
	assert_true(json_equal(d, back));
	for (size_t k = 0; k < QD_COUNT(scales); k++)
		assert_true((float)json_real_value(json_array_get(
				    json_object_get(find(back, "param_encodings", "conv.weight"), "scale"), k)) == scales[k]);
	json_decref(back);
	json_decref(d);
	qd_mapping_release(&file);
	qd_graph_release(&g);
}

/*
 * Inputs, LoRA inputs and results are activations; weights of operators are parameters; another constant is an activation. Views
 * and biases have no entry. What has no encoding is FLOAT with exactly four keys.
 */
static void the_list_is_complete(void **state)
{
	static const char *const activations[] = { "x", "conv.lora_down", "conv.lora_gain", "conv", "down", "gained", "low",
		"limit" };
	static const char *const floats[] = { "conv.lora_gain", "gained", "low" };
	static const char *const absent[] = { "flat", "shape", "conv.bias" };
	struct qd_graph g;
	json_t *d = document_of(&g);
	(void)state;
	assert_int_equal(json_array_size(json_object_get(d, "activation_encodings")), QD_COUNT(activations));
	assert_int_equal(json_array_size(json_object_get(d, "param_encodings")), 1);
	for (size_t i = 0; i < QD_COUNT(activations); i++)
		assert_non_null(find(d, "activation_encodings", activations[i]));
	for (size_t i = 0; i < QD_COUNT(floats); i++) {
		const json_t *e = find(d, "activation_encodings", floats[i]);
		assert_int_equal(json_object_size(e), 4);
		assert_string_equal(json_string_value(json_object_get(e, "enc_type")), "PER_TENSOR");
		assert_string_equal(json_string_value(json_object_get(e, "dtype")), "FLOAT");
		assert_int_equal(json_integer_value(json_object_get(e, "bw")), 16);
	}
	for (size_t i = 0; i < QD_COUNT(absent); i++)
		assert_null(find(d, "activation_encodings", absent[i]));
	json_decref(d);
	qd_graph_release(&g);
}

/*
 * Weights of norms and constants to compute with: what the simulator keeps exact and readers quantize, by its range. Of what stays
 * float the entry is a float one; a bias has none; Resize's output repeats its source's.
 */
static void constants_that_readers_quantize_have_entries(void **state)
{
	static const char norms[] = "graph norms\n"
				    "input %x f32[1,4,2,2]\n"
				    "input %t f32[1]\n"
				    "weight %group.weight f32[4] {0.5, -0.25, 1, 2}\n"
				    "weight %layer.weight f32[2] {0.5, 3}\n"
				    "weight %instance.weight f32[4] {1, 1, 1, 1.5}\n"
				    "weight %plain.weight f32[2] {1, 2}\n"
				    "weight %bias f32[4] {1, 2, 3, 4}\n"
				    "weight %scale f32[] {0.125}\n"
				    "weight %freqs f32[1] {3}\n"
				    "weight %scales f32[4] {1, 1, 2, 2}\n"
				    "%angle = Mul(%t, %freqs)\n"
				    "%group = GroupNormalization(%x, %group.weight, %bias) {num_groups=2}\n"
				    "%instance = InstanceNormalization(%group, %instance.weight, %bias)\n"
				    "%scaled = Mul(%instance, %scale)\n"
				    "%layer = LayerNormalization(%scaled, %layer.weight)\n"
				    "%plain = LayerNormalization(%layer, %plain.weight)\n"
				    "%up = Resize(%layer, _, %scales) "
				    "{mode=\"nearest\",coordinate_transformation_mode=\"asymmetric\",nearest_mode=\"floor\"}\n"
				    "output %plain\n"
				    "output %up\n"
				    "output %angle\n";
	static const struct {
		const char *list, *name;
		int bits; /* 0: float */
		double low, high;
	} cases[] = {
		{ "param_encodings", "group.weight", 16, -0.25, 2 },
		{ "param_encodings", "instance.weight", 16, 0, 1.5 },
		{ "param_encodings", "layer.weight", 8, 0, 3 },
		{ "param_encodings", "plain.weight", 0, 0, 0 },
		{ "activation_encodings", "scale", 16, 0, 0.125 },
		{ "activation_encodings", "freqs", 0, 0, 0 },
		{ "activation_encodings", "angle", 0, 0, 0 },
		{ "activation_encodings", "layer", 16, -0.0, 0.1 * 65535 },
		{ "activation_encodings", "up", 16, -0.0, 0.1 * 65535 },
	};
	static const char *const encoded[] = { "x", "group", "instance", "scaled", "layer" };
	struct qd_quant_options options = qd_quant_options_default();
	struct qd_graph g;
	json_t *d;

	(void)state;
	ir_parse(&g, norms);
	for (size_t i = 0; i < QD_COUNT(encoded); i++)
		encode(&g, encoded[i], 16, false, -1, 1, 0);
	assert_int_equal(qd_encodings_json(&g, &options, &d), QD_OK);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		const json_t *e = find(d, cases[i].list, cases[i].name);
		double scale, steps = (double)(1 << cases[i].bits) - 1;
		assert_non_null(e);
		assert_string_equal(json_string_value(json_object_get(e, "enc_type")), "PER_TENSOR");
		assert_string_equal(json_string_value(json_object_get(e, "dtype")), cases[i].bits > 0 ? "INT" : "FLOAT");
		if (cases[i].bits == 0)
			continue;
		scale = json_real_value(json_array_get(json_object_get(e, "scale"), 0));
		assert_int_equal(json_integer_value(json_object_get(e, "bw")), cases[i].bits);
		assert_true(json_is_false(json_object_get(e, "is_sym")));
		assert_float_equal(scale, (cases[i].high - cases[i].low) / steps, 1e-7 * scale);
		assert_int_equal(offset_of(e, 0), lrint(cases[i].low / scale));
	}
	assert_null(find(d, "param_encodings", "bias"));
	assert_null(find(d, "activation_encodings", "bias"));
	json_decref(d);

	/* float activations leave norms of channels float */
	options.act_bits = 0;
	assert_int_equal(qd_encodings_json(&g, &options, &d), QD_OK);
	assert_string_equal(json_string_value(json_object_get(find(d, "param_encodings", "group.weight"), "dtype")), "FLOAT");
	json_decref(d);

	options = qd_quant_options_default();
	((float *)g.values[qd_graph_find(&g, "group.weight")].data.data)[1] = NAN;
	assert_int_equal(qd_encodings_json(&g, &options, &d), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'group.weight' holds a value that is not finite");
	assert_null(d);
	qd_graph_release(&g);
}

/* Every name of the document is a tensor of the file that the quantizing pass makes of the same graph. */
static void names_survive_quantization(void **state)
{
	static const char *const lists[] = { "activation_encodings", "param_encodings" };
	struct qd_graph g;
	struct qd_stored_weights stored = { 0 };
	json_t *d = document_of(&g);
	struct qd_pass pass = qd_pass_qdq;
	struct qd_pass_options options = { .verify = true };
	(void)state;
	assert_int_equal(qd_passes_run(&g, &pass, 1, &stored, &options), QD_OK);
	for (size_t l = 0; l < 2; l++) {
		size_t i;
		const json_t *e;
		json_array_foreach(json_object_get(d, lists[l]), i, e)
			assert_int_not_equal(qd_graph_find(&g, json_string_value(json_object_get(e, "name"))), QD_NONE);
	}
	qd_stored_weights_release(&stored);
	json_decref(d);
	qd_graph_release(&g);
}

/* Keys and types of entries are those of a file that AIMET wrote, key by key. */
static void entries_look_like_golden_ones(void **state)
{
	struct qd_graph g;
	const char *path = golden_path("encodings/toya.w8a16.1.0.0.encodings");
	json_t *golden, *ours;
	const json_t *value;
	const char *key;
	(void)state;
	if (path == NULL)
		skip();
	assert_int_equal(qd_json_read(path, &golden), QD_OK);
	ours = document_of(&g);
	const json_t *theirs = json_array_get(json_object_get(golden, "param_encodings"), 0),
		     *e = find(ours, "param_encodings", "conv.weight");
	assert_int_equal(json_object_size(theirs), json_object_size(e));
	json_object_foreach((json_t *)(uintptr_t)theirs, key, value)
	{
		assert_non_null(json_object_get(e, key));
		assert_int_equal(json_typeof(json_object_get(e, key)), json_typeof(value));
	}
	json_decref(golden);
	json_decref(ours);
	qd_graph_release(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(has_the_top_level_of_its_version),
		cmocka_unit_test(entries_are_well_formed),
		cmocka_unit_test(offsets_are_on_the_unsigned_grid),
		cmocka_unit_test(weights_are_per_channel_without_an_axis),
		cmocka_unit_test(scales_are_written_as_short_as_they_are),
		cmocka_unit_test(the_list_is_complete),
		cmocka_unit_test(constants_that_readers_quantize_have_entries),
		cmocka_unit_test(names_survive_quantization),
		cmocka_unit_test(entries_look_like_golden_ones),
	};
	return cmocka_run_group_tests_name("encodings_json", tests, NULL, NULL);
}
