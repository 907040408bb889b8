/*
 * lib/onnx and export/pass, writer and passes: what is written reads back to the same graph; weights inside, beside and as codes;
 * the passes' results as text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "export/pass/pass.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"
#include "onnx.pb-c.h"

/* One of everything the format spells differently: attributes of each type, absent inputs, several outputs, integer and scalar
 * constants. */
static const char everything[] = "graph everything\n"
				 "input %x f32[1,4,8,8]\n"
				 "input %flags bool[1,4,8,8]\n"
				 "weight %conv.weight f32[4,4,3,3] ...\n"
				 "weight %conv.bias f32[4] {0, 0.25, -0.5, 1}\n"
				 "weight %half f32[2] as f16 {0.5, -2}\n"
				 "weight %sizes i64[4] {1, 4, 16, 16}\n"
				 "weight %shape i64[2] {1, 256}\n"
				 "weight %two f32[] {2}\n"
				 "%conv = Conv(%x, %conv.weight, %conv.bias) {pads=[1,1,1,1], strides=[1,1]}\n"
				 "%chosen = Where(%flags, %conv, %two)\n"
				 "%norm = GroupNormalization(%chosen, %conv.bias, %conv.bias) {epsilon=1e-05, num_groups=2}\n"
				 "%gelu = Gelu(%norm) {approximate=\"tanh\"}\n"
				 "%up = Resize(%gelu, _, _, %sizes) {coordinate_transformation_mode=\"asymmetric\", "
				 "mode=\"nearest\", nearest_mode=\"floor\"}\n"
				 "%first, %second = halves: Split(%gelu) {axis=1, num_outputs=2}\n"
				 "%flat = Reshape(%gelu, %shape)\n"
				 "%zeros = ConstantOfShape(%shape) {dtype=1, value=0.5}\n"
				 "%sum = Add(%flat, %zeros)\n"
				 "%scaled = Mul(%second, %two)\n"
				 "output %up\n"
				 "output %scaled\n"
				 "output %sum\n"
				 "output %half.out\n";

static void parse_everything(struct qd_graph *g)
{
	char text[4096];
	const char *at = strstr(everything, "%sum = ");
	snprintf(text, sizeof(text), "%.*s%%half.out = Mul(%%half, %%two)\n%s", (int)(at - everything), everything, at);
	ir_parse(g, text);
}

/* The text without its first line, which names the graph. */
static char *text_of(const struct qd_graph *g)
{
	char *text;
	assert_int_equal(qd_graph_print(g, &text), QD_OK);
	memmove(text, strchr(text, '\n') + 1, strlen(strchr(text, '\n')));
	return text;
}

static void write_or_fail(const struct qd_graph *g, const char *path, const struct qd_onnx_write_options *options, bool *external)
{
	if (qd_onnx_write(g, path, options, external) != QD_OK)
		fail_msg("%s", qd_message());
}

static void open_or_fail(struct qd_onnx *onnx, const char *path)
{
	if (qd_onnx_open(onnx, path, NULL, 0) != QD_OK)
		fail_msg("%s", qd_message());
}

static void expect_same_numbers(const struct qd_graph *a, const struct qd_graph *b)
{
	struct ir_run x, y;
	assert_int_equal(ir_run(a, 7, &x), QD_OK);
	assert_int_equal(ir_run(b, 7, &y), QD_OK);
	for (size_t i = 0; i < a->n_outputs; i++) {
		const struct qd_tensor *p = &x.value[a->outputs[i]], *q = &y.value[b->outputs[i]];
		assert_int_equal(p->bytes, q->bytes);
		assert_memory_equal(p->data, q->data, p->bytes);
	}
	ir_run_release(&x);
	ir_run_release(&y);
}

static void fill_weight(struct qd_graph *g, const char *name, uint64_t seed)
{
	struct qd_tensor *t = &g->values[qd_graph_find(g, name)].data;
	for (size_t i = 0; i < t->bytes / sizeof(float); i++)
		((float *)t->data)[i] = (float)ir_uniform(&seed) - 0.5f;
}

/* Half weights come back as float32; everything else is equal, text and numbers. */
static void what_is_written_reads_back(void **state)
{
	struct qd_graph g;
	struct qd_onnx onnx;
	struct qd_onnx_write_options options = { 0 };
	const char *path = scratch_path("everything.onnx");
	(void)state;
	parse_everything(&g);
	write_or_fail(&g, path, &options, NULL);
	open_or_fail(&onnx, path);
	char *before = text_of(&g), *after = text_of(&onnx.graph), *half = strstr(before, " as f16");
	assert_non_null(half);
	memmove(half, half + 7, strlen(half + 7) + 1);
	assert_string_equal(before, after);
	free(before);
	free(after);
	qd_onnx_release(&onnx);
	qd_graph_release(&g);
}

static void numbers_are_the_same(void **state)
{
	struct qd_graph g;
	struct qd_onnx onnx;
	struct qd_onnx_write_options options = { 0 };
	(void)state;
	ir_parse(&g, "graph numbers\n"
		     "input %x f32[3,5]\n"
		     "weight %w f32[5,7] ...\n"
		     "%y = MatMul(%x, %w)\n"
		     "%z = Tanh(%y)\n"
		     "output %z\n");
	fill_weight(&g, "w", 11);
	for (int external = 0; external < 2; external++) {
		options.external = external != 0;
		write_or_fail(&g, scratch_path("numbers.onnx"), &options, NULL);
		open_or_fail(&onnx, scratch_path("numbers.onnx"));
		expect_same_numbers(&g, &onnx.graph);
		qd_onnx_release(&onnx);
	}
	qd_graph_release(&g);
}

static size_t read_all(const char *path, unsigned char **bytes)
{
	struct qd_mapping mapping;
	assert_int_equal(qd_mapping_open(&mapping, path), QD_OK);
	*bytes = malloc(mapping.size + 1);
	assert_non_null(*bytes);
	memcpy(*bytes, mapping.data, mapping.size);
	size_t n = mapping.size;
	qd_mapping_release(&mapping);
	return n;
}

static void same_graph_same_bytes(void **state)
{
	struct qd_graph g;
	struct qd_onnx_write_options options = { 0 };
	unsigned char *a, *b;
	(void)state;
	parse_everything(&g);
	write_or_fail(&g, scratch_path("a.onnx"), &options, NULL);
	write_or_fail(&g, scratch_path("b.onnx"), &options, NULL);
	size_t n = read_all(scratch_path("a.onnx"), &a);
	assert_int_equal(read_all(scratch_path("b.onnx"), &b), n);
	assert_memory_equal(a, b, n);
	free(a);
	free(b);
	qd_graph_release(&g);
}

static const char *entry_of(const Onnx__TensorProto *t, const char *key)
{
	for (size_t i = 0; i < t->n_external_data; i++)
		if (!strcmp(t->external_data[i]->key, key))
			return t->external_data[i]->value;
	return NULL;
}

/* Tensors of 1 KiB and more lie in "<file>.data" at multiples of 4096, in order, under the file's bare name. */
static void external_data_is_aligned(void **state)
{
	struct qd_graph g;
	struct qd_onnx_write_options options = { .external = true };
	const char *path = scratch_path("external.onnx");
	unsigned char *bytes;
	bool external = false;
	(void)state;
	ir_parse(&g, "graph g\ninput %x f32[2,300]\nweight %a f32[300,300] ...\nweight %b f32[300,2] ...\nweight %c f32[2] {1, 2}\n"
		     "%p = MatMul(%x, %a)\n%q = MatMul(%p, %b)\n%r = Add(%q, %c)\noutput %r\n");
	write_or_fail(&g, path, &options, &external);
	assert_true(external);
	size_t n = read_all(path, &bytes);
	Onnx__ModelProto *model = onnx__model_proto__unpack(NULL, n, bytes);
	assert_non_null(model);
	assert_int_equal(model->ir_version, 10);
	assert_int_equal(model->opset_import[0]->version, 21);
	assert_int_equal(model->graph->n_initializer, 3);
	const Onnx__TensorProto *a = model->graph->initializer[0], *b = model->graph->initializer[1],
				*c = model->graph->initializer[2];
	assert_string_equal(entry_of(a, "location"), "external.onnx.data");
	assert_string_equal(entry_of(a, "offset"), "0");
	assert_string_equal(entry_of(a, "length"), "360000");
	/* 360,000 rounded up to a multiple of 4096 */
	assert_string_equal(entry_of(b, "offset"), "360448");
	assert_int_equal(c->n_external_data, 0);
	assert_int_equal(c->raw_data.len, 8);
	onnx__model_proto__free_unpacked(model, NULL);
	free(bytes);
	qd_graph_release(&g);
}

static void metadata_is_written(void **state)
{
	struct qd_graph g;
	unsigned char *bytes;
	static const char *const metadata[] = { "key", "value", "other", "" };
	struct qd_onnx_write_options options = { .metadata = metadata, .n_metadata = 2 };
	(void)state;
	ir_parse(&g, "graph g\ninput %x f32[2]\n%y = Relu(%x)\noutput %y\n");
	write_or_fail(&g, scratch_path("m.onnx"), &options, NULL);
	size_t n = read_all(scratch_path("m.onnx"), &bytes);
	Onnx__ModelProto *model = onnx__model_proto__unpack(NULL, n, bytes);
	assert_non_null(model);
	assert_int_equal(model->n_metadata_props, 2);
	for (int i = 0; i < 2; i++) {
		assert_string_equal(model->metadata_props[i]->key, metadata[2 * i]);
		assert_string_equal(model->metadata_props[i]->value, metadata[2 * i + 1]);
	}
	onnx__model_proto__free_unpacked(model, NULL);
	free(bytes);
	qd_graph_release(&g);
}

static void refuses_a_weight_without_bytes(void **state)
{
	struct qd_graph g;
	struct qd_onnx_write_options options = { 0 };
	(void)state;
	ir_parse(&g, "graph g\ninput %x f32[2]\nweight %w f32[2] {1, 2}\n%y = Add(%x, %w)\noutput %y\n");
	g.values[qd_graph_find(&g, "w")].data.data = NULL;
	assert_int_equal(qd_onnx_write(&g, scratch_path("none.onnx"), &options, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "weight 'w' has no bytes");
	assert_false(qd_is_file(scratch_path("none.onnx")));
	qd_graph_release(&g);
}

/* ---- encodings to nodes ---- */

static struct qd_encoding *encoding(struct qd_graph *g, int bits, bool is_signed, int axis, size_t n, float scale, float zero)
{
	struct qd_encoding *e = qd_arena_alloc(&g->arena, sizeof(*e));
	assert_non_null(e);
	*e = (struct qd_encoding){ .bits = bits, .is_signed = is_signed, .symmetric = is_signed, .axis = axis, .n = n };
	e->scale = qd_arena_array(&g->arena, n, sizeof(float));
	e->zero_point = qd_arena_array(&g->arena, n, sizeof(float));
	for (size_t i = 0; i < n; i++) {
		e->scale[i] = scale * (float)(i + 1);
		e->zero_point[i] = zero;
	}
	return e;
}

static void hang(struct qd_graph *g, const char *name, const struct qd_encoding *e)
{
	qd_id value = qd_graph_find(g, name);
	assert_int_not_equal(value, QD_NONE);
	g->values[value].encoding = e;
}

static const char layer[] = "graph layer\n"
			    "input %x f32[2,3]\n"
			    "input %fc.lora_down f32[1,3]\n"
			    "input %fc.lora_gain f32[1]\n"
			    "weight %fc.weight f32[2,3] {1, -1, 0.5, 0.25, 0.75, -2}\n"
			    "%fc = Gemm(%x, %fc.weight) {transB=1}\n"
			    "%down = Gemm(%x, %fc.lora_down) {transB=1}\n"
			    "%gained = Mul(%down, %fc.lora_gain)\n"
			    "%y = Add(%fc, %gained)\n"
			    "output %y\n";

static void encode_layer(struct qd_graph *g)
{
	ir_parse(g, layer);
	hang(g, "x", encoding(g, 16, false, -1, 1, 0.0009765625f, 300));
	hang(g, "fc.lora_down", encoding(g, 8, true, -1, 1, 0.5f, 0));
	hang(g, "fc.weight", encoding(g, 8, true, 0, 2, 0.25f, 0));
	hang(g, "fc", encoding(g, 8, false, -1, 1, 0.125f, 0));
	hang(g, "y", encoding(g, 16, false, -1, 1, 0.25f, 7));
}

static void run_qdq(struct qd_graph *g, struct qd_stored_weights *stored)
{
	struct qd_pass pass = qd_pass_qdq;
	struct qd_pass_options options = { .verify = true };
	if (qd_passes_run(g, &pass, 1, stored, &options) != QD_OK)
		fail_msg("%s", qd_message());
}

/*
 * The pass's result, spelled out. Zero points of 0 are left out, and then the type stands in output_dtype (2 is UINT8); the output
 * keeps its name; the LoRA input is codes; gain, without an encoding, is untouched.
 */
static void encodings_become_nodes(void **state)
{
	static const char *const lines[] = {
		"input %x f32[2,3]",
		"input %fc.lora_down i8[1,3]",
		"input %fc.lora_gain f32[1]",
		"weight %x.q_scale f32[] {0.0009765625}",
		"weight %x.q_zero_point u16[] {300}",
		"weight %fc.weight.q_scale f32[2] {0.25, 0.5}",
		"weight %fc.q_scale f32[] {0.125}",
		"%x.q = QuantizeLinear(%x, %x.q_scale, %x.q_zero_point)",
		"%x.dq = DequantizeLinear(%x.q, %x.q_scale, %x.q_zero_point)",
		"%fc.lora_down.dq = DequantizeLinear(%fc.lora_down, %fc.lora_down.q_scale)",
		"%fc.weight.dq = DequantizeLinear(%fc.weight, %fc.weight.q_scale) {axis=0}",
		"%fc = Gemm(%x.dq, %fc.weight.dq) {transB=1}",
		"%fc.q = QuantizeLinear(%fc, %fc.q_scale) {output_dtype=2}",
		"%down = Gemm(%x.dq, %fc.lora_down.dq) {transB=1}",
		"%gained = Mul(%down, %fc.lora_gain)",
		"Add(%fc.dq, %gained)",
		"QuantizeLinear(%y.float, %y.q_scale, %y.q_zero_point)",
		"%y = y.dq: DequantizeLinear(",
		"output %y",
	};
	struct qd_graph g;
	struct qd_stored_weights stored = { 0 };
	(void)state;
	encode_layer(&g);
	run_qdq(&g, &stored);
	char *text = text_of(&g);
	for (size_t i = 0; i < QD_COUNT(lines); i++)
		if (strstr(text, lines[i]) == NULL)
			fail_msg("no '%s' in\n%s", lines[i], text);
	assert_null(strstr(text, "fc.weight.q_zero_point"));
	free(text);
	assert_int_equal(stored.n, 1);
	qd_stored_weights_release(&stored);
	qd_graph_release(&g);
}

/* Codes in the file: round(w / scale of the row); 0.25 / 0.5 and 0.75 / 0.5 are ties, which go to even. */
static void weights_are_stored_as_codes(void **state)
{
	static const int8_t codes[] = { 4, -4, 2, 0, 2, -4 };
	struct qd_graph g;
	struct qd_onnx onnx;
	struct qd_stored_weights stored = { 0 };
	struct qd_onnx_write_options options = { .stored = &stored };
	(void)state;
	encode_layer(&g);
	run_qdq(&g, &stored);
	write_or_fail(&g, scratch_path("codes.onnx"), &options, NULL);
	open_or_fail(&onnx, scratch_path("codes.onnx"));
	const struct qd_value *w = &onnx.graph.values[qd_graph_find(&onnx.graph, "fc.weight")];
	assert_int_equal(w->data.dtype, QD_I8);
	assert_memory_equal(w->data.data, codes, sizeof(codes));
	assert_int_equal(onnx.graph.values[qd_graph_find(&onnx.graph, "fc.lora_down")].dtype, QD_I8);
	qd_onnx_release(&onnx);
	qd_stored_weights_release(&stored);
	qd_graph_release(&g);
}

static void expect_qdq_refusal(const char *name, int bits, const char *message)
{
	struct qd_graph g;
	struct qd_stored_weights stored = { 0 };
	struct qd_pass pass = qd_pass_qdq;
	struct qd_pass_options options = { .verify = true };
	encode_layer(&g);
	hang(&g, name, encoding(&g, bits, true, -1, 1, 1, 0));
	assert_int_equal(qd_passes_run(&g, &pass, 1, &stored, &options), QD_EUNSUPPORTED);
	if (!qd_ends_with(qd_message(), message))
		fail_msg("%s", qd_message());
	qd_stored_weights_release(&stored);
	qd_graph_release(&g);
}

static void refuses_codes_of_32_bits(void **state)
{
	(void)state;
	expect_qdq_refusal("fc.weight", 32, "tensor 'fc.weight' has 32 bits: codes have at most 16");
}

static void refuses_activations_of_4_bits(void **state)
{
	(void)state;
	expect_qdq_refusal("fc", 4, "tensor 'fc' has 4 bits: activations are exported with 8 or 16");
}

/* ---- sharing constants ---- */

static void equal_constants_become_one(void **state)
{
	struct qd_graph g, before;
	size_t changes = 0;
	static const char text[] = "graph g\n"
				   "input %x f32[2]\n"
				   "weight %a f32[] {2}\n"
				   "weight %b f32[] {2}\n"
				   "weight %c f32[1] {2}\n"
				   "weight %d i64[1] {2}\n"
				   "%p = Mul(%x, %a)\n%q = Mul(%p, %b)\n%r = Mul(%q, %c)\n%s = Reshape(%r, %d)\noutput %s\n";
	(void)state;
	ir_parse(&g, text);
	ir_parse(&before, text);
	assert_int_equal(qd_pass_share_constants.run(&g, NULL, &changes), QD_OK);
	assert_int_equal(changes, 1); /* another shape and another type are other constants */
	assert_int_equal(qd_graph_uses(&g, qd_graph_find(&g, "b")), 0);
	expect_same_numbers(&before, &g);
	qd_graph_release(&g);
	qd_graph_release(&before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_reads_back),
		cmocka_unit_test(numbers_are_the_same),
		cmocka_unit_test(same_graph_same_bytes),
		cmocka_unit_test(external_data_is_aligned),
		cmocka_unit_test(metadata_is_written),
		cmocka_unit_test(refuses_a_weight_without_bytes),
		cmocka_unit_test(encodings_become_nodes),
		cmocka_unit_test(weights_are_stored_as_codes),
		cmocka_unit_test(refuses_codes_of_32_bits),
		cmocka_unit_test(refuses_activations_of_4_bits),
		cmocka_unit_test(equal_constants_become_one),
	};
	return cmocka_run_group_tests_name("onnx_write", tests, NULL, NULL);
}
