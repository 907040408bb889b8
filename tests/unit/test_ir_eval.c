/*
 * lib/ir: the reference evaluator. A table of one-line graphs with the numbers that come out, worked out by hand or taken from the
 * examples of the ONNX specification; products and normalizations are also compared with loops on random shapes. A last test says
 * that no operator is without a case.
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

#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"

/* Constants that cases share. */
#define PRELUDE                                                                                                                    \
	"graph test\n"                                                                                                             \
	"weight %v f32[4] {-2, -0.5, 0.5, 3}\n"                                                                                    \
	"weight %half f32[6] {-2.5, -1.5, -0.5, 0.5, 1.5, 2.5}\n"                                                                  \
	"weight %m f32[2,3] {1, 2, 3, 4, 5, 6}\n"                                                                                  \
	"weight %row f32[3] {10, 20, 30}\n"                                                                                        \
	"weight %col f32[2,1] {1, -1}\n"                                                                                           \
	"weight %pixels f32[1,4,1,2] {1, 2, 3, 4, 5, 6, 7, 8}\n"                                                                   \
	"weight %image f32[1,1,3,3] {1, 2, 3, 4, 5, 6, 7, 8, 9}\n"                                                                 \
	"weight %one f32[] {1}\n"                                                                                                  \
	"weight %two f32[] {2}\n"                                                                                                  \
	"weight %i i64[3] {7, -7, 2}\n"                                                                                            \
	"weight %j i64[3] {2, 2, -3}\n"                                                                                            \
	"weight %n0 i64[] {0}\n"                                                                                                   \
	"weight %a0 i64[1] {0}\n"                                                                                                  \
	"weight %a1 i64[1] {1}\n"                                                                                                  \
	"weight %am1 i64[1] {-1}\n"                                                                                                \
	"weight %s23 i64[2] {2, 3}\n"                                                                                              \
	"weight %s32 i64[2] {3, 2}\n"                                                                                              \
	"weight %none i64[0] {}\n"                                                                                                 \
	"weight %yes bool[3] {1, 0, 1}\n"                                                                                          \
	"weight %no bool[3] {0, 0, 1}\n"                                                                                           \
	"weight %empty f32[0,3] {}\n"

static const struct {
	const char *line, *wants;
} cases[] = {
	/* arithmetic with broadcasting; integers truncate, wrap and stay exact */
	{ "%y = Add(%m, %row)", "F32 [2,3] {11, 22, 33, 14, 25, 36}" },
	{ "%y = Sub(%col, %row)", "F32 [2,3] {-9, -19, -29, -11, -21, -31}" },
	{ "%y = Mul(%m, %col)", "F32 [2,3] {1, 2, 3, -4, -5, -6}" },
	{ "%y = Div(%row, %m)", "F32 [2,3] {10, 10, 10, 2.5, 4, 5}" },
	{ "%y = Div(%i, %j)", "I64 [3] {3, -3, 0}" },
	{ "%y = Add(%i, %j)", "I64 [3] {9, -5, -1}" },
	{ "%y = Mul(%i, %n0)", "I64 [3] {0, 0, 0}" },
	{ "%y = Sub(%i, %j)", "I64 [3] {5, -9, 5}" },
	{ "%y = Add(%empty, %row)", "F32 [0,3] {}" },
	{ "%y = Pow(%row, %two)", "F32 [3] {100, 400, 900}" },
	{ "%y = Pow(%i, %j)", "I64 [3] {49, 49, 0}" },
	{ "%y = Pow(%i, %two)", "I64 [3] {49, 49, 4}" },
	{ "%y = Min(%m, %row, %two)", "F32 [2,3] {1, 2, 2, 2, 2, 2}" },
	{ "%y = Max(%i, %j)", "I64 [3] {7, 2, 2}" },
	{ "%y = Max(%row)", "F32 [3] {10, 20, 30}" },
	/* logic */
	{ "%y = Equal(%i, %j)", "I64 [3] {0, 0, 0}" },
	{ "%y = Equal(%yes, %no)", "I64 [3] {0, 1, 1}" },
	{ "%y = Greater(%i, %j)", "I64 [3] {1, 0, 1}" },
	{ "%y = Less(%m, %two)", "I64 [2,3] {1, 0, 0, 0, 0, 0}" },
	{ "%y = And(%yes, %no)", "I64 [3] {0, 0, 1}" },
	{ "%y = Or(%yes, %no)", "I64 [3] {1, 0, 1}" },
	{ "%y = Not(%yes)", "I64 [3] {0, 1, 0}" },
	{ "%y = Where(%yes, %m, %row)", "F32 [2,3] {1, 20, 3, 4, 20, 6}" },
	/* functions of one number */
	{ "%y = Sigmoid(%v)", "F32 [4] {0.119203, 0.377541, 0.622459, 0.952574}" },
	{ "%y = Tanh(%v)", "F32 [4] {-0.964028, -0.462117, 0.462117, 0.995055}" },
	{ "%y = Relu(%v)", "F32 [4] {0, 0, 0.5, 3}" },
	{ "%y = Relu(%i)", "I64 [3] {7, 0, 2}" },
	{ "%y = Gelu(%v)", "F32 [4] {-0.0455003, -0.154269, 0.345731, 2.99595}" },
	{ "%y = Gelu(%v) {approximate=\"tanh\"}", "F32 [4] {-0.0454023, -0.154286, 0.345714, 2.99636}" },
	{ "%y = Erf(%v)", "F32 [4] {-0.995322, -0.5205, 0.5205, 0.999978}" },
	{ "%y = Exp(%v)", "F32 [4] {0.135335, 0.606531, 1.64872, 20.0855}" },
	{ "%y = Log(%row)", "F32 [3] {2.30259, 2.99573, 3.4012}" },
	{ "%y = Sqrt(%row)", "F32 [3] {3.16228, 4.47214, 5.47723}" },
	{ "%y = Neg(%i)", "I64 [3] {-7, 7, -2}" },
	{ "%y = Abs(%v)", "F32 [4] {2, 0.5, 0.5, 3}" },
	{ "%y = Sin(%v)", "F32 [4] {-0.909297, -0.479426, 0.479426, 0.14112}" },
	{ "%y = Cos(%v)", "F32 [4] {-0.416147, 0.877583, 0.877583, -0.989992}" },
	{ "%y = Softplus(%v)", "F32 [4] {0.126928, 0.474077, 0.974077, 3.04859}" },
	{ "%y = Mish(%v)", "F32 [4] {-0.252501, -0.220744, 0.375245, 2.98654}" },
	{ "%y = Reciprocal(%row)", "F32 [3] {0.1, 0.05, 0.0333333}" },
	{ "%y = Floor(%half)", "F32 [6] {-3, -2, -1, 0, 1, 2}" },
	{ "%y = Round(%half)", "F32 [6] {-2, -2, -0, 0, 2, 2}" },
	{ "%y = Clip(%m, %two, _)", "F32 [2,3] {2, 2, 3, 4, 5, 6}" },
	{ "%y = Clip(%m, _, %two)", "F32 [2,3] {1, 2, 2, 2, 2, 2}" },
	{ "%y = Clip(%m, %two, %one)", "F32 [2,3] {1, 1, 1, 1, 1, 1}" },
	{ "%y = Cast(%half) {to=7}", "I64 [6] {-2, -1, 0, 0, 1, 2}" },
	{ "%y = Cast(%i) {to=1}", "F32 [3] {7, -7, 2}" },
	{ "%y = Cast(%i) {to=2}", "I64 [3] {7, 249, 2}" },
	{ "%y = Cast(%half) {to=9}", "I64 [6] {1, 1, 1, 1, 1, 1}" },
	/* products */
	{ "%y = MatMul(%m, %row)", "F32 [2] {140, 320}" },
	{ "%y = MatMul(%i, %j)", "I64 [] {-6}" },
	{ "%y = Gemm(%m, %m, %col) {transB=1, alpha=2, beta=10}", "F32 [2,2] {38, 74, 54, 144}" },
	{ "%y = Gemm(%m, %m) {transA=1}", "F32 [3,3] {17, 22, 27, 22, 29, 36, 27, 36, 45}" },
	{ "%y = Conv(%image, %image) {pads=[1,1,1,1]}", "F32 [1,1,3,3] {94, 154, 106, 186, 285, 186, 106, 154, 94}" },
	{ "%y = Conv(%image, %image) {pads=[0,1,1,0], strides=[2,1]}", "F32 [1,1,1,2] {186, 285}" },
	/* along axes */
	{ "%y = Softmax(%m)", "F32 [2,3] {0.0900306, 0.244728, 0.665241, 0.0900306, 0.244728, 0.665241}" },
	{ "%y = Softmax(%m) {axis=0}", "F32 [2,3] {0.0474259, 0.0474259, 0.0474259, 0.952574, 0.952574, 0.952574}" },
	{ "%y = ReduceMean(%m, %am1)", "F32 [2,1] {2, 5}" },
	{ "%y = ReduceMean(%m) {keepdims=0}", "F32 [] {3.5}" },
	{ "%y = ReduceSum(%m, %a0) {keepdims=0}", "F32 [3] {5, 7, 9}" },
	{ "%y = ReduceSum(%i, %none)", "I64 [1] {2}" },
	{ "%y = ReduceSum(%m, %none) {noop_with_empty_axes=1}", "F32 [2,3] {1, 2, 3, 4, 5, 6}" },
	{ "%y = ReduceSum(%empty, %a0)", "F32 [1,3] {0, 0, 0}" },
	{ "%y = ArgMax(%m) {axis=1}", "I64 [2,1] {2, 2}" },
	{ "%y = ArgMax(%yi) {keepdims=0}", "I64 [] {1}" },
	{ "%y = ArgMax(%yi) {keepdims=0, select_last_index=1}", "I64 [] {2}" },
	/* moving data */
	{ "%y = Reshape(%m, %s32)", "F32 [3,2] {1, 2, 3, 4, 5, 6}" },
	{ "%y = Reshape(%m, %am1)", "F32 [6] {1, 2, 3, 4, 5, 6}" },
	{ "%y = Reshape(%one, %none)", "F32 [] {1}" },
	{ "%y = Transpose(%m)", "F32 [3,2] {1, 4, 2, 5, 3, 6}" },
	{ "%y = Transpose(%pixels) {perm=[0,2,3,1]}", "F32 [1,1,2,4] {1, 3, 5, 7, 2, 4, 6, 8}" },
	{ "%y = Unsqueeze(%row, %am1)", "F32 [3,1] {10, 20, 30}" },
	{ "%y = Squeeze(%col, %a1)", "F32 [2] {1, -1}" },
	{ "%y = Squeeze(%pixels)", "F32 [4,2] {1, 2, 3, 4, 5, 6, 7, 8}" },
	{ "%y = Flatten(%pixels) {axis=2}", "F32 [4,2] {1, 2, 3, 4, 5, 6, 7, 8}" },
	{ "%y = Identity(%i)", "I64 [3] {7, -7, 2}" },
	{ "%y = Slice(%m, %a1, %big, %a1)", "F32 [2,2] {2, 3, 5, 6}" },
	{ "%y = Slice(%row, %am1, %far, %a0, %am1)", "F32 [3] {30, 20, 10}" },
	{ "%y = Slice(%row, %a1, %am1)", "F32 [1] {20}" },
	{ "%y = Slice(%row, %am1, %a0)", "F32 [0] {}" },
	{ "%x, %y = Split(%m) {axis=1, num_outputs=2}", "F32 [2,1] {3, 6}" },
	{ "%x, %y = Split(%row, %s12)", "F32 [2] {20, 30}" },
	{ "%y = Gather(%m, %am1) {axis=1}", "F32 [2,1] {3, 6}" },
	{ "%y = Gather(%m, %n0)", "F32 [3] {1, 2, 3}" },
	{ "%y = Expand(%col, %s13)", "F32 [2,3] {1, 1, 1, -1, -1, -1}" },
	{ "%y = Tile(%col, %s23)", "F32 [4,3] {1, 1, 1, -1, -1, -1, 1, 1, 1, -1, -1, -1}" },
	{ "%y = DepthToSpace(%pixels) {blocksize=2}", "F32 [1,1,2,4] {1, 3, 2, 4, 5, 7, 6, 8}" },
	{ "%y = SpaceToDepth(%wide) {blocksize=2}", "F32 [1,4,1,2] {1, 2, 3, 4, 5, 6, 7, 8}" },
	{ "%y = Resize(%image, _, _, %s1122) {mode=\"nearest\", nearest_mode=\"floor\", "
	  "coordinate_transformation_mode=\"asymmetric\"}",
		"F32 [1,1,2,2] {1, 2, 4, 5}" },
	{ "%y = Resize(%pixels, _, %x1112) {mode=\"nearest\", nearest_mode=\"floor\", "
	  "coordinate_transformation_mode=\"asymmetric\"}",
		"F32 [1,4,1,4] {1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8}" },
	{ "%y = Concat(%m, %col) {axis=-1}", "F32 [2,4] {1, 2, 3, 1, 4, 5, 6, -1}" },
	{ "%y = Pad(%row, %s23, %one)", "F32 [8] {1, 1, 10, 20, 30, 1, 1, 1}" },
	{ "%y = Pad(%row, %crop)", "F32 [3] {20, 30, 0}" },
	{ "%y = Pad(%m, %s12, _, %a1)", "F32 [2,6] {0, 1, 2, 3, 0, 0, 0, 4, 5, 6, 0, 0}" },
	{ "%y = Trilu(%m)", "F32 [2,3] {1, 2, 3, 0, 5, 6}" },
	{ "%y = Trilu(%m, %n0) {upper=0}", "F32 [2,3] {1, 0, 0, 4, 5, 0}" },
	/* from shapes to numbers */
	{ "%y = Shape(%pixels)", "I64 [4] {1, 4, 1, 2}" },
	{ "%y = Shape(%pixels) {start=-3, end=-1}", "I64 [2] {4, 1}" },
	{ "%y = ConstantOfShape(%s23) {value=1.5}", "F32 [2,3] {1.5, 1.5, 1.5, 1.5, 1.5, 1.5}" },
	{ "%y = ConstantOfShape(%a1) {dtype=7, value=-3}", "I64 [1] {-3}" },
	{ "%y = Range(%n0, %eight, %three)", "I64 [3] {0, 3, 6}" },
	{ "%y = Range(%two, %one, %minus)", "F32 [3] {2, 1.6, 1.2}" },
	/* codes: ties to even, saturation, one scale or one per index */
	{ "%y = QuantizeLinear(%half, %one)", "I64 [6] {0, 0, 0, 0, 2, 2}" },
	{ "%y = QuantizeLinear(%half, %one, %z8)", "I64 [6] {-2, -2, 0, 0, 2, 2}" },
	{ "%y = QuantizeLinear(%m, %scales, %zeros) {axis=0}", "I64 [2,3] {2, 4, 6, 104, 105, 106}" },
	{ "%y = QuantizeLinear(%row, %small) {output_dtype=3}", "I64 [3] {100, 127, 127}" },
	{ "%y = DequantizeLinear(%codes, %scales, %zeros) {axis=0}", "F32 [2,3] {0, 63.5, 127.5, -100, 27, 155}" },
	{ "%y = DequantizeLinear(%bias, %small)", "F32 [2] {-100, 0.1}" },
};

static const char *const more = "weight %yi i64[4] {1, 5, 5, 2}\n"
				"weight %big i64[1] {9223372036854775807}\n"
				"weight %far i64[1] {-9223372036854775807}\n"
				"weight %s12 i64[2] {1, 2}\n"
				"weight %s13 i64[2] {1, 3}\n"
				"weight %s1122 i64[4] {1, 1, 2, 2}\n"
				"weight %x1112 f32[4] {1, 1, 1, 2}\n"
				"weight %wide f32[1,1,2,4] {1, 3, 2, 4, 5, 7, 6, 8}\n"
				"weight %crop i64[2] {-1, 1}\n"
				"weight %eight i64[] {8}\n"
				"weight %three i64[] {3}\n"
				"weight %minus f32[] {-0.4}\n"
				"weight %z8 i8[] {0}\n"
				"weight %small f32[1] {0.1}\n"
				"weight %scales f32[2] {0.5, 1}\n"
				"weight %zeros u8[2] {0, 100}\n"
				"weight %codes u8[2,3] {0, 127, 255, 0, 127, 255}\n"
				"weight %bias i32[2] {-1000, 1}\n";

static int case_fails(const char *line, const char *wants)
{
	struct qd_graph g;
	struct ir_run run = { 0 };
	char *text = NULL, *found;

	assert_true(asprintf(&text, "%s%s%s\noutput %%y\n", PRELUDE, more, line) > 0);
	ir_parse(&g, text);
	if (qd_graph_verify(&g) != QD_OK || ir_run(&g, 1, &run) != QD_OK)
		fail_msg("%s: %s", line, qd_message());
	found = ir_text(&run.value[qd_graph_find(&g, "y")]);
	bool fails = strcmp(found, wants) != 0;
	if (fails)
		print_error("%s\n  gives %s\n  wants %s\n", line, found, wants);
	free(found);
	free(text);
	ir_run_release(&run);
	qd_graph_release(&g);
	return fails;
}

static void operators_compute_what_onnx_says(void **state)
{
	int failures = 0;
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++)
		failures += case_fails(cases[i].line, cases[i].wants);
	assert_int_equal(failures, 0);
}

/* Every operator of the table has a case here; normalizations have theirs below. */
static void no_operator_is_without_a_case(void **state)
{
	static const char *const elsewhere[] = { "GroupNormalization", "LayerNormalization", "InstanceNormalization" };
	(void)state;
	for (int op = 0; op < QD_OP_COUNT; op++) {
		char call[64];
		bool found = false;
		snprintf(call, sizeof(call), "= %s(", qd_op((enum qd_op)op)->name);
		for (size_t i = 0; i < QD_COUNT(cases) && !found; i++)
			found = strstr(cases[i].line, call) != NULL;
		for (size_t i = 0; i < QD_COUNT(elsewhere) && !found; i++)
			found = strcmp(elsewhere[i], qd_op((enum qd_op)op)->name) == 0;
		if (!found)
			fail_msg("%s has no case", qd_op((enum qd_op)op)->name);
	}
}

/* ---- against loops, on random shapes ---- */

static int64_t pick(uint64_t *state, int64_t low, int64_t high)
{
	return low + (int64_t)(ir_uniform(state) * (double)(high - low + 1));
}

/* Runs a one-node text and hands out inputs x, w, b and output y. */
struct loop_case {
	struct qd_graph g;
	struct ir_run run;
	const float *x, *w, *b, *y;
	const struct qd_shape *shape;
};

static const float *data_of(struct loop_case *c, const char *name)
{
	qd_id id = qd_graph_find(&c->g, name);
	return id != QD_NONE ? c->run.value[id].data : NULL;
}

static void loop_run(struct loop_case *c, const char *text, uint64_t seed)
{
	*c = (struct loop_case){ 0 };
	ir_parse(&c->g, text);
	if (ir_run(&c->g, seed, &c->run) != QD_OK)
		fail_msg("%s: %s", text, qd_message());
	c->x = data_of(c, "x");
	c->w = data_of(c, "w");
	c->b = data_of(c, "b");
	c->y = data_of(c, "y");
	c->shape = &c->g.values[qd_graph_find(&c->g, "y")].shape;
}

static void loop_release(struct loop_case *c)
{
	ir_run_release(&c->run);
	qd_graph_release(&c->g);
}

/*
 * Both sides sum the same products in double and round once to float32; orders of summation differ by at most n ulps of double, far
 * below half an ulp of float32, which is then the only difference: 2^-24 relative, doubled for the rounding at a boundary.
 */
static void assert_close(double found, double wanted)
{
	if (!(fabs(found - wanted) <= 0x1p-23 * fabs(wanted) + 1e-12))
		fail_msg("found %.9g, wanted %.9g", found, wanted);
}

static void conv_equals_a_loop(void **state)
{
	uint64_t seed = test_seed();
	(void)state;
	for (int round = 0; round < 20; round++) {
		int64_t group = pick(&seed, 1, 2), ci = pick(&seed, 1, 3), co = group * pick(&seed, 1, 2), h = pick(&seed, 5, 8),
			w = pick(&seed, 5, 8), k = pick(&seed, 1, 3), s = pick(&seed, 1, 2), d = pick(&seed, 1, 2),
			top = pick(&seed, 0, 2), left = pick(&seed, 0, 2), bottom = pick(&seed, 0, 2), right = pick(&seed, 0, 2),
			n = pick(&seed, 0, 2);
		char text[512];
		struct loop_case c;
		snprintf(text, sizeof(text),
			"graph t\ninput %%x f32[%d,%d,%d,%d]\ninput %%w f32[%d,%d,%d,%d]\ninput %%b f32[%d]\n"
			"%%y = Conv(%%x, %%w, %%b) {group=%d, pads=[%d,%d,%d,%d], strides=[%d,%d], dilations=[%d,%d]}\noutput "
			"%%y\n",
			(int)n, (int)(ci * group), (int)h, (int)w, (int)co, (int)ci, (int)k, (int)k, (int)co, (int)group, (int)top,
			(int)left, (int)bottom, (int)right, (int)s, (int)s, (int)d, (int)d);
		loop_run(&c, text, (uint64_t)round + 1);
		int64_t oh = (h + top + bottom - d * (k - 1) - 1) / s + 1, ow = (w + left + right - d * (k - 1) - 1) / s + 1;
		assert_true(qd_shape_equal(c.shape, &QD_SHAPE(n, co, oh, ow)));
		for (int64_t i = 0; i < n * co * oh * ow; i++) {
			int64_t x0 = i % ow * s - left, y0 = i / ow % oh * s - top, o = i / ow / oh % co, b = i / ow / oh / co;
			double sum = c.b[o];
			for (int64_t q = 0; q < ci * k * k; q++) {
				int64_t xx = x0 + q % k * d, yy = y0 + q / k % k * d, in = q / k / k;
				if (xx >= 0 && xx < w && yy >= 0 && yy < h)
					sum += (double)c.x[((b * ci * group + o / (co / group) * ci + in) * h + yy) * w + xx] *
					       c.w[o * ci * k * k + q];
			}
			assert_close(c.y[i], sum);
		}
		loop_release(&c);
	}
}

static void matmul_broadcasts_batches(void **state)
{
	struct loop_case c;
	(void)state;
	loop_run(&c, "graph t\ninput %x f32[2,1,3,4]\ninput %w f32[5,4,2]\n%y = MatMul(%x, %w)\noutput %y\n", 7);
	assert_true(qd_shape_equal(c.shape, &QD_SHAPE(2, 5, 3, 2)));
	for (int i = 0; i < 60; i++) {
		int col = i % 2, row = i / 2 % 3, inner = i / 6 % 5, outer = i / 30;
		double sum = 0;
		for (int k = 0; k < 4; k++)
			sum += (double)c.x[(outer * 3 + row) * 4 + k] * c.w[(inner * 4 + k) * 2 + col];
		assert_close(c.y[i], sum);
	}
	loop_release(&c);
}

/* Mean and 1 / standard deviation of n adjacent numbers. */
static void moments(const float *x, int64_t n, double eps, double *mean, double *scale)
{
	double sum = 0, squares = 0;
	for (int64_t i = 0; i < n; i++)
		sum += x[i];
	*mean = sum / (double)n;
	for (int64_t i = 0; i < n; i++)
		squares += (x[i] - *mean) * (x[i] - *mean);
	*scale = 1 / sqrt(squares / (double)n + eps);
}

/* The normalized value is rounded to float32, then its product and its sum: three roundings of numbers below 8. */
static void assert_norm(double found, double wanted)
{
	if (!(fabs(found - wanted) <= 3 * 8 * 0x1p-24))
		fail_msg("found %.9g, wanted %.9g", found, wanted);
}

static void norms_equal_their_formulas(void **state)
{
	static const struct {
		const char *node;
		int64_t run, channels, plane; /* adjacent elements with one mean; element i has scale i / plane % channels */
	} norms[] = {
		{ "GroupNormalization(%x, %w, %b) {num_groups=3, epsilon=0.001}", 10, 6, 5 },
		{ "InstanceNormalization(%x, %w, %b) {epsilon=0.001}", 5, 6, 5 },
		{ "LayerNormalization(%x, %w, %b) {axis=1, epsilon=0.001}", 30, 6, 5 },
	};
	(void)state;
	for (size_t k = 0; k < QD_COUNT(norms); k++) {
		char text[256];
		struct loop_case c;
		const char *vector = k == 2 ? "6,1" : "6";
		snprintf(text, sizeof(text),
			"graph t\ninput %%x f32[2,6,5]\ninput %%w f32[%s]\ninput %%b f32[%s]\n%%y = %s\noutput %%y\n", vector,
			vector, norms[k].node);
		loop_run(&c, text, 3);
		for (int64_t i = 0; i < 60; i++) {
			int64_t channel = i / norms[k].plane % norms[k].channels;
			double mean, scale;
			moments(c.x + i / norms[k].run * norms[k].run, norms[k].run, (double)0.001f, &mean, &scale);
			assert_norm(c.y[i], (c.x[i] - mean) * scale * c.w[channel] + c.b[channel]);
		}
		loop_release(&c);
	}
}

static void a_vector_layer_norm_scales_the_last_axis(void **state)
{
	struct loop_case c;
	(void)state;
	loop_run(&c, "graph t\ninput %x f32[4,5]\ninput %w f32[5]\n%y = LayerNormalization(%x, %w)\noutput %y\n", 3);
	for (int64_t i = 0; i < 20; i++) {
		double mean, scale;
		moments(c.x + i / 5 * 5, 5, (double)1e-5f, &mean, &scale);
		assert_norm(c.y[i], (c.x[i] - mean) * scale * c.w[i % 5]);
	}
	loop_release(&c);
}

/* ---- refusals ---- */

static void refuses(const char *line, const char *message)
{
	struct qd_graph g;
	struct ir_run run = { 0 };
	char *text = NULL;

	assert_true(asprintf(&text, "%s%s%s\n", PRELUDE, more, line) > 0);
	ir_parse(&g, text);
	assert_int_equal(ir_run(&g, 1, &run), QD_EINPUT);
	assert_string_equal(qd_message(), message);
	free(text);
	ir_run_release(&run);
	qd_graph_release(&g);
}

static void integer_division_by_zero_is_refused(void **state)
{
	(void)state;
	refuses("%y = Div(%i, %n0)", "node 'y': integer division by zero");
}

static void an_index_outside_of_its_axis_is_refused(void **state)
{
	(void)state;
	refuses("%y = Gather(%row, %i)", "node 'y': index 7 is outside of the 3 of axis 0");
}

static void inputs_that_do_not_fit_are_refused(void **state)
{
	struct qd_graph g;
	struct qd_tensor two, out = { 0 };
	const struct qd_tensor *in[] = { &two };
	(void)state;
	ir_parse(&g, "graph t\ninput %x f32[3]\n%y = Relu(%x)\n");
	two = qd_tensor_view("x", QD_F32, QD_SHAPE(2), (float[]){ 1, 2 });
	assert_int_equal(qd_eval_node(&g, &g.nodes[0], in, &out), QD_EINPUT);
	assert_string_equal(qd_message(), "node 'y': input 'x' comes as [2], needs [3]");
	two = qd_tensor_view("x", QD_I64, QD_SHAPE(3), (int64_t[]){ 1, 2, 3 });
	assert_int_equal(qd_eval_node(&g, &g.nodes[0], in, &out), QD_EINPUT);
	assert_string_equal(qd_message(), "node 'y': input 'x' comes as I64, needs F32");
	in[0] = NULL;
	assert_int_equal(qd_eval_node(&g, &g.nodes[0], in, &out), QD_EINPUT);
	assert_string_equal(qd_message(), "node 'y': input 0 is absent, must be given");
	qd_graph_release(&g);
}

/* ---- constants behind values ---- */

static void constants_are_followed_through_shape_arithmetic(void **state)
{
	struct qd_graph g;
	int64_t ints[4];
	size_t n;
	(void)state;
	ir_parse(&g, "graph t\ninput %x f32[2,77,768]\nweight %one i64[1] {1}\nweight %heads i64[1] {12}\n"
		     "%shape = Shape(%x)\n%length = Gather(%shape, %one)\n%all = Concat(%one, %length, %heads) {axis=0}\n");
	assert_int_equal(qd_graph_ints(&g, qd_graph_find(&g, "all"), 4, ints, &n), QD_OK);
	assert_int_equal(n, 3);
	assert_int_equal(ints[0], 1);
	assert_int_equal(ints[1], 77);
	assert_int_equal(ints[2], 12);
	assert_int_equal(qd_graph_ints(&g, qd_graph_find(&g, "all"), 2, ints, &n), QD_EINPUT);
	assert_string_equal(qd_message(), "value 'all' has 3 elements, needs at most 2");
	assert_int_equal(qd_graph_ints(&g, qd_graph_find(&g, "x"), 4, ints, &n), QD_EINPUT);
	assert_string_equal(qd_message(), "value 'x' is not a constant");
	qd_graph_release(&g);
}

/* Adding a value to itself 64 times over would be 2^64 evaluations without a budget. */
static void shared_constants_stay_within_a_budget(void **state)
{
	struct qd_graph g;
	int64_t one = 1, ints[1];
	size_t n;
	char name[16];
	qd_id id;
	(void)state;
	qd_graph_init(&g, "t");
	id = qd_graph_const_i64(&g, "one", 1, &one);
	for (int i = 0; i < 64; i++) {
		snprintf(name, sizeof(name), "a%d", i);
		id = qd_build_binary(&g, QD_OP_ADD, name, id, id);
	}
	assert_int_equal(qd_graph_status(&g), QD_OK);
	assert_int_equal(qd_graph_ints(&g, id, 1, ints, &n), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "value 'a0' takes too many nodes to compute");
	qd_graph_release(&g);
}

static void weights_of_all_types_are_read(void **state)
{
	struct qd_graph g;
	(void)state;
	ir_parse(&g, "graph t\nweight %a i8[2] {-128, 127}\nweight %b u16[1] {65535}\nweight %c f32[2] as f16 {0.5, -2}\n"
		     "weight %d i32[1] {-2147483648}\nweight %e f32[1] as bf16 {1}\n");
	const char *const wants[] = { "I64 [2] {-128, 127}", "I64 [1] {65535}", "F32 [2] {0.5, -2}", "I64 [1] {-2147483648}",
		"F32 [1] {1}" };
	for (qd_id id = 0; id < QD_COUNT(wants); id++) {
		struct qd_tensor t;
		assert_int_equal(qd_graph_constant(&g, id, &t), QD_OK);
		char *text = ir_text(&t);
		assert_string_equal(text, wants[id]);
		free(text);
		qd_tensor_release(&t);
	}
	qd_graph_release(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operators_compute_what_onnx_says),
		cmocka_unit_test(no_operator_is_without_a_case),
		cmocka_unit_test(conv_equals_a_loop),
		cmocka_unit_test(matmul_broadcasts_batches),
		cmocka_unit_test(norms_equal_their_formulas),
		cmocka_unit_test(a_vector_layer_norm_scales_the_last_axis),
		cmocka_unit_test(integer_division_by_zero_is_refused),
		cmocka_unit_test(an_index_outside_of_its_axis_is_refused),
		cmocka_unit_test(inputs_that_do_not_fit_are_refused),
		cmocka_unit_test(constants_are_followed_through_shape_arithmetic),
		cmocka_unit_test(shared_constants_stay_within_a_budget),
		cmocka_unit_test(weights_of_all_types_are_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
