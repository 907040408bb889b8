/*
 * lib/ir: shape rules. What fits is a line and the shape it gives; what does not fit is a line and the message it earns.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/ir_help.h"

#define PRELUDE                                                                                                                    \
	"graph t\n"                                                                                                                \
	"input %x f32[2,4,8,6]\n"                                                                                                  \
	"input %t f32[2,77,320]\n"                                                                                                 \
	"input %i i64[5]\n"                                                                                                        \
	"input %p bool[8,6]\n"                                                                                                     \
	"input %none f32[0,4,8,6]\n"                                                                                               \
	"input %s f32[]\n"                                                                                                         \
	"input %codes u8[4,3]\n"                                                                                                   \
	"input %dynamic i64[2]\n"                                                                                                  \
	"weight %w f32[32,4,3,3] ...\n"                                                                                            \
	"weight %w2 f32[32,2,3,3] ...\n"                                                                                           \
	"weight %b32 f32[32] ...\n"                                                                                                \
	"weight %b4 f32[4] ...\n"                                                                                                  \
	"weight %b3 f32[3] ...\n"                                                                                                  \
	"weight %l f32[64,320] ...\n"                                                                                              \
	"weight %rows f32[10,320] ...\n"                                                                                           \
	"weight %n0 i64[1] {0}\n"                                                                                                  \
	"weight %n1 i64[1] {1}\n"                                                                                                  \
	"weight %n9 i64[1] {9}\n"                                                                                                  \
	"weight %rest i64[3] {0, -1, 6}\n"                                                                                         \
	"weight %two i64[2] {-1, -1}\n"                                                                                            \
	"weight %odd i64[2] {-1, 7}\n"                                                                                             \
	"weight %same i64[2] {1, 1}\n"                                                                                             \
	"weight %pads i64[4] {1, 2, 3, 4}\n"                                                                                       \
	"weight %zero u8[] {0}\n"                                                                                                  \
	"weight %zero8 i8[] {0}\n"

static const struct {
	const char *line, *shape;
} fits[] = {
	{ "%y = Conv(%x, %w, %b32) {pads=[1,1,1,1]}", "F32 [2,32,8,6]" },
	{ "%y = Conv(%x, %w) {pads=[0,0,1,1], strides=[2,2]}", "F32 [2,32,4,3]" },
	{ "%y = Conv(%none, %w)", "F32 [0,32,6,4]" },
	{ "%y = Conv(%x, %w2) {group=2, dilations=[2,2]}", "F32 [2,32,4,2]" },
	{ "%y = Gemm(%rows, %l) {transB=1}", "F32 [10,64]" },
	{ "%y = MatMul(%t, %t2)", "F32 [2,77,77]" },
	{ "%y = Add(%x, %s)", "F32 [2,4,8,6]" },
	{ "%y = Add(%none, %x1)", "F32 [0,4,8,6]" },
	{ "%y = Where(%p, %x, %s)", "F32 [2,4,8,6]" },
	{ "%y = Cast(%x) {to=10}", "F32 [2,4,8,6]" },
	{ "%y = Cast(%x) {to=6}", "I32 [2,4,8,6]" },
	{ "%y = Reshape(%x, %rest)", "F32 [2,32,6]" },
	{ "%y = Reshape(%none, %back)", "F32 [0,24,8]" },
	{ "%y = Transpose(%x) {perm=[0,2,3,1]}", "F32 [2,8,6,4]" },
	{ "%y = Flatten(%x) {axis=-2}", "F32 [8,48]" },
	{ "%y = Flatten(%s) {axis=0}", "F32 [1,1]" },
	{ "%y = Slice(%x, %n1, %n9, %n1)", "F32 [2,3,8,6]" },
	{ "%y = Slice(%none, %n0, %n9, %n0, %n1)", "F32 [0,4,8,6]" },
	{ "%a, %y = Split(%x) {axis=2}", "F32 [2,4,4,6]" },
	{ "%y = Gather(%t, %i) {axis=1}", "F32 [2,5,320]" },
	{ "%y = Concat(%x, %none) {axis=0}", "F32 [2,4,8,6]" },
	{ "%y = Pad(%codes, %pads)", "U8 [8,9]" },
	{ "%y = Shape(%x) {start=-2}", "I64 [2]" },
	{ "%y = GroupNormalization(%x, %b4, %b4) {num_groups=2}", "F32 [2,4,8,6]" },
	{ "%y = QuantizeLinear(%x, %s)", "U8 [2,4,8,6]" },
	{ "%y = QuantizeLinear(%x, %s) {output_dtype=4}", "U16 [2,4,8,6]" },
	{ "%y = DequantizeLinear(%codes, %b3) {axis=-1}", "F32 [4,3]" },
};

static const char *const more = "input %t2 f32[320,77]\n"
				"input %x1 f32[1,4,1,6]\n"
				"weight %back i64[3] {0, 24, 8}\n";

static void shapes_follow_the_rules(void **state)
{
	char found[QD_SHAPE_TEXT + 32], shape[QD_SHAPE_TEXT];
	(void)state;
	for (size_t i = 0; i < QD_COUNT(fits); i++) {
		struct qd_graph g;
		char *text = NULL;
		assert_true(asprintf(&text, "%s%s%s\n", PRELUDE, more, fits[i].line) > 0);
		ir_parse(&g, text);
		const struct qd_value *y = &g.values[qd_graph_find(&g, "y")];
		snprintf(found, sizeof(found), "%s %s", qd_dtype_name(y->dtype), qd_shape_text(&y->shape, shape));
		if (strcmp(found, fits[i].shape) != 0)
			fail_msg("%s gives %s, wants %s", fits[i].line, found, fits[i].shape);
		free(text);
		qd_graph_release(&g);
	}
}

/* The message without "test:LINE: node 'y': ", which all of them carry. */
static void refuses(const char *line, const char *message)
{
	static const char node[] = "node 'y': ";
	struct qd_graph g;
	char *text = NULL;
	const char *found;

	assert_true(asprintf(&text, "%s%s%s\n", PRELUDE, more, line) > 0);
	assert_int_not_equal(qd_graph_parse(&g, "test", text), QD_OK);
	found = strstr(qd_message(), node);
	if (found == NULL || strcmp(found + sizeof(node) - 1, message) != 0)
		fail_msg("%s\n  says  %s\n  wants %s", line, qd_message(), message);
	free(text);
	qd_graph_release(&g);
}

/* A named test per refusal. */
#define REFUSES(name, line, message)                                                                                               \
	static void name(void **state)                                                                                             \
	{                                                                                                                          \
		(void)state;                                                                                                       \
		refuses(line, message);                                                                                            \
	}
#define REFUSALS(X)                                                                                                                \
	X(conv_channels, "%y = Conv(%x, %w2)", "conv input has 4 channels, weight needs 2")                                        \
	X(conv_bias, "%y = Conv(%x, %w, %b4)", "conv bias 'b4' is [4], needs [32]")                                                \
	X(conv_rank, "%y = Conv(%t, %w)", "conv weight 'w' has 4 dimensions, needs 3")                                             \
	X(conv_dtype, "%y = Conv(%codes, %w)", "conv input 'codes' is U8, needs F32")                                              \
	X(conv_size, "%y = Conv(%x, %w) {dilations=[4,4]}", "conv kernel of 3 with dilation 4 does not fit the padded input of 8") \
	X(conv_group, "%y = Conv(%x, %w) {group=3}", "group 3 does not divide 4 input and 32 output channels")                     \
	X(conv_pads, "%y = Conv(%x, %w) {pads=[1,1]}", "attribute 'pads' has 2 values, needs 4")                                   \
	X(conv_negative_pads, "%y = Conv(%x, %w) {pads=[0,0,0,-1]}", "attribute 'pads' holds -1, must be at least 0")              \
	X(conv_auto_pad, "%y = Conv(%x, %w) {auto_pad=\"VALID\"}", "auto_pad is 'VALID', needs 'NOTSET'")                          \
	X(conv_kernel_shape, "%y = Conv(%x, %w) {kernel_shape=[3,1]}", "kernel_shape says 1, weight has 3")                        \
	X(gemm_features, "%y = Gemm(%rows, %l)", "gemm input has 320 features, weight needs 64")                                   \
	X(gemm_bias, "%y = Gemm(%rows, %l, %b32) {transB=1}", "gemm bias 'b32' is [32], needs a shape that broadcasts to [10,64]") \
	X(matmul_inner, "%y = MatMul(%t, %t)", "matmul of 't' with 320 columns needs as many rows, 't' has 77")                    \
	X(matmul_scalar, "%y = MatMul(%t, %s)", "matmul operand 's' is a scalar, needs a dimension")                               \
	X(broadcast, "%y = Add(%x, %t)", "shapes [2,4,8,6] and [2,77,320] do not broadcast")                                       \
	X(mixed_dtypes, "%y = Add(%x, %i)", "input 'i' is I64, needs F32 as 'x' is")                                               \
	X(where_condition, "%y = Where(%i, %x, %x)", "input 'i' is I64, needs BOOL")                                               \
	X(sigmoid_of_integers, "%y = Sigmoid(%i)", "input 'i' is I64, needs F32")                                                  \
	X(gelu_approximate, "%y = Gelu(%x) {approximate=\"erf\"}", "approximate is 'erf', needs 'none' or 'tanh'")                 \
	X(clip_bound, "%y = Clip(%x, %b4)", "bound 'b4' has 4 elements, needs 1")                                                  \
	X(cast_to, "%y = Cast(%x)", "Cast has no attribute 'to'")                                                                  \
	X(cast_text, "%y = Cast(%x) {to=8}", "data type 8 is no integer, boolean or float up to 64 bits")                          \
	X(softmax_axis, "%y = Softmax(%x) {axis=4}", "axis is 4, must be within the 4 dimensions")                                 \
	X(norm_groups, "%y = GroupNormalization(%x, %b4, %b4) {num_groups=3}", "4 channels do not divide into 3 groups")           \
	X(norm_scale, "%y = GroupNormalization(%x, %b3, %b4) {num_groups=2}", "norm scale 'b3' is [3], needs [4]")                 \
	X(norm_stash, "%y = LayerNormalization(%t, %s) {stash_type=10}", "stash_type is 10, must be 1")                            \
	X(layer_norm_scale, "%y = LayerNormalization(%t, %b4)", "norm scale 'b4' is [4], needs a shape that broadcasts to [320]")  \
	X(reduce_axis_twice, "%y = ReduceMean(%x, %same)", "axis 1 is given twice")                                                \
	X(arg_max_of_nothing, "%y = ArgMax(%none)", "axis 0 of 'none' is empty, has no largest element")                           \
	X(reshape_size, "%y = Reshape(%x, %pads)", "'x' is [2,4,8,6], cannot become [1,2,3,4]")                                    \
	X(reshape_two_rests, "%y = Reshape(%x, %two)", "the asked shape has two dimensions of -1, may have one")                   \
	X(reshape_odd, "%y = Reshape(%x, %odd)", "384 elements do not divide by 7, needed to find dimension 0")                    \
	X(reshape_dynamic, "%y = Reshape(%x, %dynamic)", "value 'dynamic' is not a constant")                                      \
	X(transpose_perm, "%y = Transpose(%t) {perm=[0,1,1]}", "perm holds 1, must name each of 3 axes once")                      \
	X(squeeze_size, "%y = Squeeze(%x, %n1)", "axis 1 of 'x' has size 4, squeezing needs 1")                                    \
	X(unsqueeze_axis, "%y = Unsqueeze(%x, %n9)", "axis is 9, must be within the 5 dimensions")                                 \
	X(slice_step, "%y = Slice(%x, %n0, %n9, %n1, %n0)", "slice step is 0, must be another number")                             \
	X(slice_counts, "%y = Slice(%x, %n0, %two)", "slice has 1 starts and 2 values in input 2, needs as many")                  \
	X(split_sizes, "%y, %z = Split(%x, %same) {axis=1}", "split sizes do not add up to the 4 of axis 1")                       \
	X(gather_indices, "%y = Gather(%x, %x)", "indices 'x' are F32, need I64 or I32")                                           \
	X(tile_repeats, "%y = Tile(%x, %n1)", "tile has 1 repeats, 'x' has 4 dimensions")                                          \
	X(depth_channels, "%y = DepthToSpace(%x) {blocksize=3}", "4 channels do not divide into blocks of 9 pixels")               \
	X(depth_pixels, "%y = SpaceToDepth(%x) {blocksize=4}", "8 x 6 pixels do not divide by blocks of 4")                        \
	X(resize_mode, "%y = Resize(%x, _, _, %pads) {mode=\"linear\"}", "mode is 'linear', must be 'nearest'")                    \
	X(resize_neither,                                                                                                          \
		"%y = Resize(%x) {mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\"}",       \
		"resize has neither scales and sizes, needs one of them")                                                          \
	X(concat_shapes, "%y = Concat(%x, %t) {axis=1}", "cannot join 'x' [2,4,8,6] and 't' [2,77,320] along axis 1")              \
	X(pad_count, "%y = Pad(%x, %pads)", "pads has 4 values, needs 8 for 4 axes")                                               \
	X(pad_mode, "%y = Pad(%codes, %pads) {mode=\"reflect\"}", "mode is 'reflect', must be 'constant'")                         \
	X(range_dynamic, "%y = Range(%s, %s, %s)", "value 's' is not a constant")                                                  \
	X(quantize_type, "%y = QuantizeLinear(%x, %s) {output_dtype=1}", "codes are F32, must be I8, U8, I16 or U16")              \
	X(quantize_scale, "%y = QuantizeLinear(%x, %b3)", "scale 'b3' is [3], needs [4]")                                          \
	X(quantize_blocks, "%y = QuantizeLinear(%x, %s) {block_size=32}", "block_size is 32, must be 0")                           \
	X(dequantize_zero, "%y = DequantizeLinear(%codes, %s, %zero8)", "zero point 'zero8' is I8, needs U8 as 'codes' is")        \
	X(too_few_inputs, "%y = Add(%x)", "Add has 1 inputs, needs at least 2")                                                    \
	X(too_many_inputs, "%y = Relu(%x, %x)", "Relu has 2 inputs, takes at most 1")                                              \
	X(too_many_outputs, "%y, %z = Relu(%x)", "Relu has 2 outputs, needs 1")                                                    \
	X(absent_input, "%y = Add(%x, _)", "input 1 of Add is absent, which only optional inputs may be")                          \
	X(attribute_twice, "%y = Softmax(%x) {axis=1, axis=2}", "attribute 'axis' is given twice")
REFUSALS(REFUSES)

int main(void)
{
#define TEST(name, line, message) cmocka_unit_test(name),
	const struct CMUnitTest tests[] = { cmocka_unit_test(shapes_follow_the_rules), REFUSALS(TEST) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
