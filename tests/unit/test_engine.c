/* The engine against lib/ir's evaluator: what graphs can be made of, in float; random graphs with random encodings, simulated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/engine_check.h"
#include "tests/unit/engine_help.h"
#include "tests/unit/random_help.h"
#include "tests/unit/scratch.h"

static void check(const char *text)
{
	struct qd_graph g;

	engine_parse(&g, text, 1, &random_state);
	engine_check(&g, false, &random_state);
	qd_graph_release(&g);
}

/* ---- float: steps and operators one by one ---- */

static void elementwise(void **state)
{
	(void)state;
	static const char *const texts[] = {
		/* both operands, either order, numbers on either side */
		"graph g\ninput %a f32[2,3,4,5]\ninput %b f32[2,3,4,5]\nweight %two f32[] {2}\n%c = Add(%a, %b)\n%d = Sub(%b, %c)\n"
		"%e = Mul(%d, %a)\n%f = Div(%e, %two)\n%h = Div(%two, %a)\n%i = Sub(%two, %f)\n%j = Sub(%h, %two)\n%k = Mul(%two, "
		"%i)\n"
		"%l = Add(%k, %j)\n%m = Neg(%l)\n%n = Relu(%m)\n%o = Sigmoid(%n)\n%p = Gelu(%o)\n%q = Mul(%p, %p)\noutput %q\n",
		/* per channel, per row, per column, a tensor of one element, larger than the other operand */
		"graph g\ninput %a f32[2,3,4,5]\nweight %c f32[3,1,1] ...\nweight %n f32[2,1,1,1] ...\nweight %h f32[1,1,4,1] ...\n"
		"weight %w f32[5] ...\nweight %one f32[1,1,1,1] {0.5}\nweight %wide f32[2,3,4,5] ...\n%p = Add(%a, %c)\n%q = "
		"Mul(%n, %p)\n"
		"%r = Sub(%q, %h)\n%s = Div(%w, %r)\n%t = Add(%s, %one)\n%u = Mul(%t, %wide)\noutput %u\n",
		"graph g\ninput %a f32[3]\ninput %b f32[4,1]\nweight %one f32[1,1,1] {3}\n%c = Add(%a, %b)\n%d = Add(%c, %one)\n"
		"%e = Mul(%one, %a)\n%f = Sub(%b, %a)\noutput %d\noutput %e\noutput %f\n",
		/* an operand that is broadcast from within the step */
		"graph g\ninput %a f32[4,4]\n%b = Relu(%a)\nweight %s i64[2] {1,16}\n%r = Reshape(%b, %s)\n%c = Add(%b, %a)\n"
		"%t = Transpose(%b) {perm=[1,0]}\n%d = Mul(%c, %t)\nweight %z i64[1] {0}\nweight %o i64[1] {1}\n"
		"%row = Slice(%d, %z, %o, %z)\n%e = Sub(%d, %row)\noutput %e\noutput %r\n",
		/* scalars all the way */
		"graph g\ninput %a f32[]\ninput %b f32[1]\n%c = Add(%a, %b)\n%d = Mul(%c, %a)\n%e = Sigmoid(%d)\noutput %e\n",
		/* one input twice, and views of one another */
		"graph g\ninput %a f32[3,3]\n%t = Transpose(%a)\n%b = Add(%a, %t)\n%c = Add(%b, %b)\n%u = Transpose(%c)\n%d = "
		"Sub(%u, %c)\n"
		"%e = Mul(%d, %u)\noutput %e\n",
	};

	for (size_t i = 0; i < QD_COUNT(texts); i++)
		check(texts[i]);
}

/* Chunks are of QD_PROGRAM_CHUNK numbers, vectors of a few. */
static void sizes_around_a_chunk(void **state)
{
	(void)state;
	static const int sizes[] = { 1, 2, 7, 15, 16, 17, 31, 2047, 2048, 2049, 4095, 4097, 8 * 2048 + 1, 10 * 2048 };

	for (size_t i = 0; i < QD_COUNT(sizes); i++) {
		char text[1024];

		snprintf(text, sizeof(text),
			"graph g\ninput %%a f32[%d]\ninput %%b f32[3,1]\n%%s = Sigmoid(%%a)\n%%c = Mul(%%s, %%a)\n%%d = "
			"Gelu(%%c)\n%%e = "
			"Add(%%d, %%b)\n%%f = Relu(%%e)\n%%g = Sub(%%f, %%a)\noutput %%g\n",
			sizes[i]);
		check(text);
	}
}

/* More values than a few registers, all wanted at the end; and one long chain. */
static void long_chains(void **state)
{
	(void)state;
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	fprintf(f, "graph g\ninput %%v0 f32[70,3]\ninput %%b f32[3]\n");
	for (int i = 1; i <= 40; i++)
		fprintf(f, "%%v%d = %s(%%v%d, %%b)\n", i, i % 3 ? "Add" : "Sub", i - 1);
	fprintf(f, "%%s39 = Mul(%%v40, %%v39)\n");
	for (int i = 38; i >= 0; i--)
		fprintf(f, "%%s%d = Add(%%s%d, %%v%d)\n", i, i + 1, i);
	for (int i = 1; i <= 100; i++)
		fprintf(f, "%%n%d = Neg(%%%s%d)\n", i, i > 1 ? "n" : "s", i > 1 ? i - 1 : 0);
	fprintf(f, "output %%n100\n");
	fclose(f);
	check(text);
	free(text);
}

static void views(void **state)
{
	(void)state;
	static const char *const texts[] = {
		/* transposes and reshapes that strides express, and that they cannot */
		"graph g\ninput %x f32[2,6,4,5]\n%r = Relu(%x)\n%t = Transpose(%r) {perm=[0,2,3,1]}\nweight %rows i64[2] {40,6}\n"
		"%k = Reshape(%t, %rows)\n%n = Neg(%k)\nweight %odd i64[3] {3,2,40}\n%o = Reshape(%n, %odd)\n%p = Relu(%o)\n"
		"weight %flat i64[2] {6,40}\n%q = Reshape(%r, %flat)\n%s = Sigmoid(%q)\n%u = Transpose(%s) {perm=[1,0]}\n%v = "
		"Reshape(%u, "
		"%flat)\n%w = Neg(%v)\noutput %p\noutput %w\n",
		/* slices with any step, splits, squeezes, flattened */
		"graph g\ninput %x f32[3,7,2,4]\nweight %b i64[2] {6,3}\nweight %e i64[2] {0,-5}\nweight %ax i64[2] {1,3}\n"
		"weight %st i64[2] {-2,-1}\n%s = Slice(%x, %b, %e, %ax, %st)\n%r = Neg(%s)\nweight %z i64[1] {1}\nweight %two "
		"i64[1] {2}\n"
		"%m = Slice(%x, %z, %two, %z)\n%q = Squeeze(%m, %z)\n%f = Flatten(%q) {axis=2}\n%g = Relu(%f)\n"
		"%u = Unsqueeze(%g, %z)\n%v = Sigmoid(%u)\nweight %parts i64[3] {1,4,2}\n%s1, %s2, %s3 = Split(%x, %parts) "
		"{axis=1}\n"
		"%n1 = Neg(%s1)\n%n2 = Add(%s2, %n1)\n%n3 = Mul(%s3, %n1)\noutput %r\noutput %v\noutput %n2\noutput %n3\n",
		/* expanded, tiled */
		"graph g\ninput %x f32[3,1,2]\nweight %s i64[4] {2,3,4,2}\n%e = Expand(%x, %s)\n%r = Relu(%e)\nweight %k i64[3] "
		"{24,1,2}\n"
		"%f = Reshape(%e, %k)\n%n = Neg(%f)\nweight %times i64[3] {2,2,1}\n%t = Tile(%x, %times)\n%m = Neg(%t)\n%i = "
		"Identity(%m)\n"
		"output %r\noutput %n\noutput %i\n",
		/* outputs that are views, inputs that are outputs, weights that are, one value twice */
		"graph g\ninput %x f32[2,3,2,2]\nweight %w f32[4] ...\n%n = Neg(%x)\n%t = Transpose(%n) {perm=[1,0,3,2]}\n"
		"weight %s i64[1] {24}\n%f = Reshape(%n, %s)\n%g = Transpose(%x) {perm=[3,2,1,0]}\noutput %t\noutput %f\noutput "
		"%x\noutput %g\n"
		"output %w\noutput %n\n",
		/* sizes of one in a channels-last image */
		"graph g\ninput %x f32[2,6,1,1]\n%n = Neg(%x)\nweight %s i64[2] {2,6}\n%r = Reshape(%n, %s)\n%e = Relu(%r)\nweight "
		"%i i64[4] "
		"{2,6,1,1}\n%j = Reshape(%e, %i)\n%k = Sigmoid(%j)\n%l = Add(%k, %n)\noutput %l\n",
	};

	for (size_t i = 0; i < QD_COUNT(texts); i++)
		check(texts[i]);
}

static void moved(void **state)
{
	(void)state;
	char text[1024];

	for (int axis = -4; axis < 4; axis++) {
		snprintf(text, sizeof(text),
			"graph g\ninput %%x f32[2,3,4,5]\n%%n = Neg(%%x)\n%%t = Transpose(%%x) {perm=[0,1,2,3]}\n%%c = Concat(%%x, "
			"%%n, "
			"%%t) {axis=%d}\n%%r = Relu(%%c)\noutput %%r\n",
			axis);
		check(text);
		snprintf(text, sizeof(text),
			"graph g\ninput %%x f32[4,6]\n%%t = Transpose(%%x)\nweight %%s i64[2] {4,6}\n%%r = Reshape(%%t, "
			"%%s)\nweight %%w "
			"f32[4,6] ...\n%%c = Concat(%%w, %%r, %%x) {axis=%d}\n%%d = Concat(%%c) {axis=0}\noutput %%d\n",
			axis / 2);
		check(text);
	}
	/* one dimension */
	check("graph g\ninput %x f32[3]\ninput %y f32[2]\n%c = Concat(%x, %y, %x) {axis=0}\noutput %c\n");
	/* larger by different factors, by scales, and smaller, which only the evaluator does */
	check("graph g\ninput %x f32[2,3,4,2]\n%n = Neg(%x)\nweight %s i64[4] {2,3,8,6}\n%u = Resize(%n, _, _, %s) "
	      "{coordinate_transformation_mode=\"asymmetric\", mode=\"nearest\", nearest_mode=\"floor\"}\n%r = Relu(%u)\n"
	      "weight %d i64[4] {2,3,2,1}\n%v = Resize(%x, _, _, %d) {coordinate_transformation_mode=\"asymmetric\", "
	      "mode=\"nearest\", "
	      "nearest_mode=\"floor\"}\nweight %f f32[4] {1,1,2,2}\n%w = Resize(%x, _, %f) "
	      "{coordinate_transformation_mode=\"asymmetric\", "
	      "mode=\"nearest\", nearest_mode=\"floor\"}\noutput %r\noutput %v\noutput %w\n");
}

static void products(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"graph g\ninput %x f32[2,3,7,6]\nweight %w f32[4,3,3,3] ...\nweight %b f32[4] ...\n%c = Conv(%x, %w, %b) "
		"{pads=[1,1,1,1]}\nweight %w2 f32[5,4,3,2] ...\n%d = Conv(%c, %w2) {strides=[2,1], dilations=[1,2], "
		"pads=[0,1,2,3]}\n%e = "
		"Relu(%d)\noutput %e\n",
		/* groups and one dimension: the evaluator */
		"graph g\ninput %x f32[1,4,5,5]\nweight %w f32[4,2,3,3] ...\n%c = Conv(%x, %w) {group=2}\n%r = Relu(%c)\ninput %y "
		"f32[1,3,8]\n"
		"weight %v f32[2,3,3] ...\n%d = Conv(%y, %v)\noutput %r\noutput %d\n",
		/* what a product adds itself: before, after, not when its sums are wanted, not what is broadcast, not itself */
		"graph g\ninput %x f32[6,5]\ninput %y f32[6,4]\ninput %r f32[4]\nweight %w f32[4,5] ...\nweight %b f32[4] ...\n"
		"%p = Gemm(%x, %w, %b) {transB=1}\n%s = Add(%y, %p)\n%t = Relu(%s)\n%p2 = Gemm(%x, %w) {transB=1}\n%s2 = Add(%p2, "
		"%y)\n"
		"%u = Mul(%s2, %p2)\n%p3 = Gemm(%x, %w) {transB=1}\n%s3 = Add(%p3, %r)\n%p4 = Gemm(%x, %w) {transB=1}\n%s4 = "
		"Add(%p4, %p4)\n"
		"%p5 = Gemm(%x, %w) {transB=1}\n%s5 = Add(%p5, %s4)\noutput %t\noutput %u\noutput %s3\noutput %s5\n",
		/* weights that are inputs, computed, slices of inputs, transposed inputs; other forms of Gemm; a bias that is an input */
		"graph g\ninput %x f32[3,5]\ninput %w f32[4,5]\ninput %v f32[5,4]\ninput %b f32[4]\nweight %k f32[6,5] ...\n"
		"weight %two i64[1] {2}\nweight %six i64[1] {6}\nweight %z i64[1] {0}\n%a = Gemm(%x, %w) {transB=1}\n%n = Neg(%w)\n"
		"%c = Gemm(%x, %n) {transB=1}\n%t = Transpose(%v)\n%d = Gemm(%x, %t) {transB=1}\n%s = Slice(%k, %two, %six, %z)\n"
		"%e = Gemm(%x, %s) {transB=1}\n%f = Gemm(%x, %v) {alpha=0.5}\n%h = Gemm(%x, %w, %b) {transB=1}\ninput %l f32[7,5]\n"
		"weight %three i64[1] {3}\nweight %seven i64[1] {7}\n%m = Slice(%l, %three, %seven, %z)\n%i = Gemm(%x, %m) "
		"{transB=1}\n"
		"%o = MatMul(%x, %v)\noutput %a\noutput %c\noutput %d\noutput %e\noutput %f\noutput %h\noutput %i\noutput %o\n",
		/* one input that is a weight and more than that, and the weight of two products */
		"graph g\ninput %x f32[3,5]\ninput %w f32[4,5]\n%a = Gemm(%x, %w) {transB=1}\n%n = Neg(%x)\n%b = Gemm(%n, %w) "
		"{transB=1}\n"
		"%r = Relu(%w)\n%c = Gemm(%w, %w) {transB=1}\noutput %a\noutput %b\noutput %r\noutput %c\n",
		/* results nobody wants */
		"graph g\ninput %x f32[3,5]\nweight %w f32[4,5] ...\n%a = Gemm(%x, %w) {transB=1}\n%r = Relu(%a)\n%n = Neg(%x)\n%s "
		"= "
		"Softmax(%x) {axis=-1}\n%m = Neg(%s)\noutput %n\n",
	};

	for (size_t i = 0; i < QD_COUNT(texts); i++)
		check(texts[i]);
}

static void along_axes(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"graph g\nweight %s5 f32[5] ...\nweight %b5 f32[5] ...\ninput %x f32[2,6,3,5]\nweight %s f32[6] ...\nweight %b "
		"f32[6] ...\n%n = GroupNormalization(%x, %s, %b) "
		"{num_groups=3}\n%g = Sigmoid(%n)\n%a = Mul(%g, %n)\n%t = Transpose(%a) {perm=[0,3,2,1]}\n%m = "
		"GroupNormalization(%t, %s5, "
		"%b5) {num_groups=1, epsilon=0.01}\noutput %m\n",
		"graph g\ninput %x f32[4,3,8]\nweight %s f32[8] ...\nweight %b f32[8] ...\n%n = LayerNormalization(%x, %s, %b) "
		"{axis=-1}\n"
		"%r = Relu(%n)\n%m = LayerNormalization(%r, %s) {axis=2, epsilon=0.1}\n%t = Transpose(%m) {perm=[1,0,2]}\n%o = "
		"LayerNormalization(%t, %s, %b) {axis=-1}\nweight %s4 f32[3,8] ...\n%p = LayerNormalization(%x, %s4) "
		"{axis=1}\noutput %o\n"
		"output %p\n",
		"graph g\ninput %x f32[3,4,5]\n%s = Softmax(%x) {axis=-1}\n%n = Neg(%s)\n%t = Transpose(%n) {perm=[2,0,1]}\n%u = "
		"Softmax(%t) "
		"{axis=2}\n%v = Softmax(%u) {axis=0}\n%w = Softmax(%v) {axis=1}\noutput %w\n",
	};

	for (size_t i = 0; i < QD_COUNT(texts); i++)
		check(texts[i]);
}

#define HEADS                                                                                                                      \
	"graph g\ninput %q f32[2,3,5,4]\ninput %k f32[2,3,7,4]\ninput %v f32[2,3,7,6]\n%kt = Transpose(%k) {perm=[0,1,3,2]}\n"     \
	"%scores = MatMul(%q, %kt)\nweight %f f32[] {0.5}\n%scaled = Mul(%scores, %f)\n%soft = Softmax(%scaled) {axis=-1}\n"       \
	"%att = MatMul(%soft, %v)\n"

static void attention(void **state)
{
	(void)state;
	static const char *const texts[] = {
		HEADS "%n = Neg(%att)\noutput %n\n",
		/* somebody wants what is inside */
		HEADS "output %scores\noutput %att\n",
		HEADS "output %scaled\noutput %att\n",
		HEADS "output %soft\noutput %att\n",
		HEADS "%n = Neg(%scaled)\noutput %n\noutput %att\n",
		/* heads inside of rows; one head; no factor; queries and values of one */
		"graph g\ninput %x f32[10,12]\ninput %c f32[6,12]\nweight %s i64[4] {2,-1,3,4}\n%q4 = Reshape(%x, %s)\n%k4 = "
		"Reshape(%c, %s)\n"
		"%qh = Transpose(%q4) {perm=[0,2,1,3]}\n%kh = Transpose(%k4) {perm=[0,2,3,1]}\n%vh = Transpose(%k4) "
		"{perm=[0,2,1,3]}\n"
		"%scores = MatMul(%qh, %kh)\n%soft = Softmax(%scores) {axis=3}\n%att = MatMul(%soft, %vh)\n%o4 = Transpose(%att) "
		"{perm=[0,2,1,3]}\nweight %rows i64[2] {10,12}\n%o = Reshape(%o4, %rows)\n%r = Relu(%o)\noutput %r\n",
		"graph g\ninput %q f32[2,5,4]\ninput %k f32[2,4,7]\ninput %v f32[2,7,6]\nweight %f f32[1] {2}\n%scores = "
		"MatMul(%q, %k)\n"
		"%scaled = Mul(%scores, %f)\n%soft = Softmax(%scaled)\n%att = MatMul(%soft, %v)\n%t = Transpose(%v) "
		"{perm=[0,2,1]}\n"
		"%u = MatMul(%att, %t)\noutput %u\n",
		"graph g\ninput %q f32[1,2,1,4]\ninput %k f32[1,2,4,1]\ninput %v f32[1,2,1,1]\n%scores = MatMul(%q, %k)\n%soft = "
		"Softmax(%scores)\n%att = MatMul(%soft, %v)\noutput %att\n",
	};

	for (size_t i = 0; i < QD_COUNT(texts); i++)
		check(texts[i]);
}

/* Constants are folded, integers and what has no step of its own computed by the evaluator, between steps. */
static void the_evaluators(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"graph g\nweight %ax i64[2] {2,3}\ninput %x f32[2,3,4,4]\nweight %two f32[] {2}\n%s = Sin(%x)\n%p = Pow(%s, "
		"%two)\n%r = Relu(%p)\n%m = "
		"ReduceMean(%r, "
		"%ax)\n%d = Sub(%r, %m)\n%g = Gelu(%d) {approximate=\"tanh\"}\n%t = Tanh(%g)\n%n = "
		"Neg(%t)\n%mx = "
		"Max(%n, %x, %d)\noutput %mx\n",
		"graph g\ninput %ids i64[3]\ninput %x f32[3,4]\nweight %table f32[5,4] ...\n%e = Gather(%table, %ids) {axis=0}\n"
		"%a = Add(%e, %x)\n%o = Gather(%a, %ids) {axis=0}\n%r = Relu(%o)\nweight %one i64[] {1}\n%more = Add(%ids, %one)\n"
		"weight %cut i64[3] {0,1,2}\n%big = Greater(%more, %cut)\nweight %col i64[2] {3,1}\n%mask = Reshape(%big, "
		"%col)\n%w = Where(%mask, "
		"%r, %x)\n%back = Cast(%more) {to=1}\n%bc = Reshape(%back, %col)\n%y = Mul(%w, %bc)\noutput %y\n",
		"graph g\nweight %k f32[] {4}\ninput %x f32[4,6]\nweight %w f32[6,6] as f16 ...\nweight %b f32[6] ...\n%wt = "
		"Transpose(%w)\n%h = "
		"Neg(%b)\n%d = "
		"Mul(%h, %b)\n%c = Gemm(%x, %wt, %d) {transB=1}\n%n = Sin(%w)\n%e = Add(%c, %d)\n%sq = Sqrt(%k)\n"
		"%f = Mul(%e, %sq)\n%g = MatMul(%f, %n)\noutput %g\noutput %wt\n",
		"graph g\nweight %lo f32[] {-0.5}\ninput %x f32[2,4,3,3]\n%d = DepthToSpace(%x) {blocksize=2}\n%r = Relu(%d)\n%s = "
		"SpaceToDepth(%r) "
		"{blocksize=2}\n"
		"weight %pads i64[8] {0,0,1,0,0,0,0,2}\n%p = Pad(%s, %pads)\n%n = Neg(%p)\n%c = Clip(%n, %lo)\n"
		"output %c\n",
	};

	for (size_t i = 0; i < QD_COUNT(texts); i++)
		check(texts[i]);
}

static void networks(void **state)
{
	(void)state;
	for (int images = 1; images <= 2; images++) {
		struct qd_graph g;

		engine_parse(&g, engine_net, images, &random_state);
		engine_check(&g, false, &random_state);
		qd_graph_release(&g);
	}
}

/* ---- random graphs ---- */

struct maker {
	struct qd_graph *g;
	qd_id values[64]; /* floats: images and rows */
	size_t n;
	int serial;
};

static uint64_t upto(uint64_t n)
{
	return qd_random_below(&random_state, n);
}

static const char *name(struct maker *m, const char *stem)
{
	char text[64];

	snprintf(text, sizeof(text), "%s%d", stem, m->serial++);
	return qd_graph_unique(m->g, text);
}

static const int64_t *dims(const struct maker *m, qd_id x)
{
	return m->g->values[x].shape.dim;
}

static qd_id numbers(struct maker *m, struct qd_shape shape, float size)
{
	int64_t n = qd_shape_elements(&shape);
	float *x = malloc((size_t)n * sizeof(*x));
	qd_id out;

	for (int64_t i = 0; i < n; i++)
		x[i] = size * (float)qd_random_normal(&random_state);
	out = qd_graph_const_f32(m->g, name(m, "w"), shape, x);
	free(x);
	return out;
}

static void keep(struct maker *m, qd_id x)
{
	if (m->n < QD_COUNT(m->values))
		m->values[m->n++] = x;
	else
		m->values[upto(m->n)] = x;
}

static qd_id maybe_bias(struct maker *m, int64_t n)
{
	return upto(2) ? QD_NONE : numbers(m, QD_SHAPE(n), 0.3f);
}

static qd_id linear(struct maker *m, qd_id x, int64_t out)
{
	int64_t in = dims(m, x)[1];

	return qd_build_linear(m->g, name(m, "gemm"), x, numbers(m, QD_SHAPE(out, in), 1 / sqrtf((float)in)), maybe_bias(m, out));
}

/* down, gain, up, added to a layer of the base */
static qd_id adapted(struct maker *m, qd_id x)
{
	int64_t in = dims(m, x)[1], rank = 1 + (int64_t)upto(3), out = 4 + 4 * (int64_t)upto(3);
	qd_id base = linear(m, x, out), down = qd_graph_input(m->g, name(m, "down"), QD_F32, QD_SHAPE(rank, in)),
	      up = qd_graph_input(m->g, name(m, "up"), QD_F32, QD_SHAPE(out, rank)),
	      gain = qd_graph_input(m->g, name(m, "gain"), QD_F32, QD_SHAPE(rank)), y;

	y = qd_build_linear(m->g, name(m, "lower"), x, down, QD_NONE);
	y = qd_build_binary(m->g, QD_OP_MUL, name(m, "gained"), y, gain);
	y = qd_build_linear(m->g, name(m, "upper"), y, up, QD_NONE);
	return upto(2) ? qd_build_binary(m->g, QD_OP_ADD, name(m, "sum"), base, y)
		       : qd_build_binary(m->g, QD_OP_ADD, name(m, "sum"), y, base);
}

static qd_id normalized(struct maker *m, qd_id x)
{
	bool image = m->g->values[x].shape.rank == 4;
	int64_t channels = dims(m, x)[1];
	qd_id scale = numbers(m, QD_SHAPE(channels), 1), bias = numbers(m, QD_SHAPE(channels), 0.2f);

	if (image)
		return qd_build_group_norm(m->g, name(m, "norm"), x, scale, bias, channels % 2 ? 1 : 2, 1e-5f);
	return qd_build_layer_norm(m->g, name(m, "norm"), x, scale, upto(2) ? bias : QD_NONE, 1e-5f);
}

static qd_id unary(struct maker *m, qd_id x)
{
	static const enum qd_op ops[] = { QD_OP_RELU, QD_OP_NEG, QD_OP_GELU, QD_OP_SIGMOID, QD_OP_TANH };

	return upto(3) ? qd_build_silu(m->g, name(m, "silu"), x) : qd_build_unary(m->g, ops[upto(QD_COUNT(ops))], name(m, "u"), x);
}

/* With another value of the shape if there is one, or a constant that is broadcast. */
static qd_id binary(struct maker *m, qd_id x)
{
	static const enum qd_op ops[] = { QD_OP_ADD, QD_OP_ADD, QD_OP_MUL, QD_OP_SUB };
	struct qd_shape shape = m->g->values[x].shape;
	qd_id other = QD_NONE;

	for (size_t i = m->n; i-- > 0 && other == QD_NONE;)
		if (m->values[i] != x && qd_shape_equal(&m->g->values[m->values[i]].shape, &shape) && upto(3))
			other = m->values[i];
	if (other == QD_NONE) {
		for (int i = 0; i < shape.rank; i++)
			if (upto(2))
				shape.dim[i] = 1;
		other = numbers(m, shape, 1);
	}
	return upto(2) ? qd_build_binary(m->g, ops[upto(QD_COUNT(ops))], name(m, "b"), x, other)
		       : qd_build_binary(m->g, ops[upto(QD_COUNT(ops))], name(m, "b"), other, x);
}

static qd_id convolved(struct maker *m, qd_id x)
{
	int64_t in = dims(m, x)[1], out = 2 + 2 * (int64_t)upto(5), kernel = upto(2) ? 3 : 1, pad = kernel / 2,
		stride = dims(m, x)[2] > 3 && upto(4) == 0 ? 2 : 1;
	int64_t pads[] = { pad, pad, pad, pad };

	return qd_build_conv(m->g, name(m, "conv"), x,
		numbers(m, QD_SHAPE(out, in, kernel, kernel), 1 / sqrtf((float)(in * kernel * kernel))), maybe_bias(m, out), stride,
		pads);
}

static qd_id attended(struct maker *m, qd_id x)
{
	static const int64_t heads_first[] = { 0, 2, 1, 3 };
	int64_t heads = 1 + (int64_t)upto(2), d = 4, width = heads * d, rows = dims(m, x)[0];
	const int64_t split[] = { 1, rows, heads, d }, joined[] = { rows, width };
	qd_id qkv[3];

	for (int i = 0; i < 3; i++) {
		qkv[i] = qd_build_reshape(m->g, name(m, "split"), linear(m, x, width), 4, split);
		qkv[i] = qd_build_transpose(m->g, name(m, "heads"), qkv[i], 4, heads_first);
	}
	x = qd_build_attention(m->g, name(m, "attention"), qkv[0], qkv[1], qkv[2], QD_NONE, 0.5f);
	return qd_build_reshape(m->g, name(m, "joined"), qd_build_transpose(m->g, name(m, "back"), x, 4, heads_first), 2, joined);
}

static qd_id gated(struct maker *m, qd_id x)
{
	qd_id wide = linear(m, x, 12), gate = qd_build_slice(m->g, name(m, "gate"), wide, 1, 6, 12);

	gate = qd_build_unary(m->g, QD_OP_GELU, name(m, "gelu"), gate);
	return qd_build_binary(m->g, QD_OP_MUL, name(m, "gated"), qd_build_slice(m->g, name(m, "value"), wide, 1, 0, 6), gate);
}

/* Part of it, twice of it, or its numbers in another order. */
static qd_id displaced(struct maker *m, qd_id x)
{
	int rank = m->g->values[x].shape.rank;
	int64_t axis = (int64_t)upto((uint64_t)rank), size = dims(m, x)[axis];
	static const int64_t swapped[2][4] = { { 1, 0 }, { 0, 1, 3, 2 } };
	const int64_t halves[] = { 2, -1 };

	switch (upto(5)) {
	case 0:
		return size > 2 ? qd_build_slice(m->g, name(m, "slice"), x, axis, 1, size) : x;
	case 1:
		return qd_build_concat(m->g, name(m, "cat"), 2, (qd_id[]){ x, unary(m, x) }, axis);
	case 2:
		return qd_build_transpose(m->g, name(m, "t"), x, (size_t)rank, swapped[rank == 4]);
	case 3:
		return rank == 4 && dims(m, x)[2] < 5
			       ? qd_build_upsample2(m->g, name(m, "up"), x, 2 * dims(m, x)[2], 2 * dims(m, x)[3])
			       : x;
	default:
		return rank == 2 && dims(m, x)[0] % 2 == 0 ? qd_build_reshape(m->g, name(m, "r"), x, 2, halves) : x;
	}
}

static qd_id to_rows(struct maker *m, qd_id x)
{
	static const int64_t last[] = { 0, 2, 3, 1 };
	const int64_t *d = dims(m, x), rows[] = { d[0] * d[2] * d[3], d[1] };

	return qd_build_reshape(m->g, name(m, "rows"), qd_build_transpose(m->g, name(m, "last"), x, 4, last), 2, rows);
}

/* A product of two values that are both computed. */
static qd_id by_another(struct maker *m, qd_id x)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->g->values[m->values[i]].shape.rank == 2 && dims(m, m->values[i])[1] == dims(m, x)[1] && m->values[i] != x)
			return qd_build_linear(m->g, name(m, "by"), x, m->values[i], QD_NONE);
	return x;
}

static qd_id grown(struct maker *m, qd_id x)
{
	bool image = m->g->values[x].shape.rank == 4;

	switch (upto(image ? 8 : 11)) {
	case 0:
	case 1:
		return image ? convolved(m, x) : linear(m, x, 4 + 2 * (int64_t)upto(4));
	case 2:
		return normalized(m, x);
	case 3:
		return unary(m, x);
	case 4:
	case 5:
		return binary(m, x);
	case 6:
		return displaced(m, x);
	case 7:
		return image ? to_rows(m, x) : adapted(m, x);
	case 8:
		return dims(m, x)[0] <= 40 ? attended(m, x) : gated(m, x);
	case 9:
		return upto(2) ? by_another(m, x)
			       : qd_graph_node(
					 m->g, QD_OP_SOFTMAX, name(m, "soft"), 1, &x, 1, (struct qd_attr[]){ QD_AI("axis", -1) });
	default:
		return gated(m, x);
	}
}

static void random_graph(struct qd_graph *g)
{
	struct maker m = { .g = g };

	qd_graph_init(g, "random");
	keep(&m, qd_graph_input(g, "x", QD_F32, QD_SHAPE(1 + (int64_t)upto(2), 4, 2 + (int64_t)upto(4), 2 + (int64_t)upto(4))));
	keep(&m, qd_graph_input(g, "y", QD_F32, QD_SHAPE(2 + (int64_t)upto(8), 6)));
	for (int i = 0; i < 12; i++) {
		/* Mostly what came last: graphs are more long than wide. */
		qd_id x = m.values[upto(3) ? m.n - 1 : upto(m.n)], grew = grown(&m, x);
		OK(qd_graph_status(g));
		if (grew != x && qd_shape_elements(&g->values[grew].shape) < 4000)
			keep(&m, grew);
	}
	qd_graph_output(g, m.values[m.n - 1]);
	qd_graph_output(g, m.values[m.n / 2]);
	OK(qd_graph_status(g));
	OK(qd_graph_verify(g));
}

static void random_floats(void **state)
{
	(void)state;
	for (int round = 0; round < 60; round++) {
		struct qd_graph g;

		random_graph(&g);
		engine_check(&g, false, &random_state);
		qd_graph_release(&g);
	}
}

/* ---- simulation ---- */

static bool is_weight_of_product(const struct qd_graph *g, qd_id id)
{
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		if ((node->op == QD_OP_CONV || node->op == QD_OP_GEMM) && node->in[1] == id)
			return true;
	}
	return false;
}

static const struct qd_encoding *encoding_for(struct qd_graph *g, qd_id id, const struct qd_tensor *floats)
{
	static const int weight_bits[] = { 4, 8, 16 }, bits[] = { 8, 16 };
	const struct qd_value *v = &g->values[id];
	struct qd_range range = { 0 };
	struct qd_encoding *e;

	if (v->kind == QD_WEIGHT && is_weight_of_product(g, id) && upto(2)) {
		OK(qd_encoding_per_channel(&g->arena, &v->data, weight_bits[upto(3)], &e));
		return e;
	}
	qd_range_add(&range, (size_t)qd_shape_elements(&v->shape), floats->data);
	/* A little is clipped. */
	OK(qd_encoding_from_range(&g->arena, 0.9 * range.low, 0.9 * range.high,
		v->kind == QD_WEIGHT ? weight_bits[upto(3)] : bits[upto(2)], v->kind == QD_WEIGHT ? upto(8) > 0 : upto(2) > 0, &e));
	return e;
}

/* Encodings for some of the values, from what they are in float. Moved numbers mostly keep the grid that they are on. */
static void encode(struct qd_graph *g, unsigned percent)
{
	struct engine_values inputs, floats;

	engine_inputs(&inputs, g, &random_state);
	engine_reference(&floats, g, &inputs, false);
	for (qd_id id = 0; id < g->n_values; id++) {
		struct qd_value *v = &g->values[id];
		bool view = v->kind == QD_RESULT && (qd_op(g->nodes[v->producer].op)->flags & QD_OPF_VIEW) != 0;

		if (!v->dead && v->dtype == QD_F32 && upto(100) < (view ? percent / 10 : percent))
			v->encoding = encoding_for(g, id, &floats.at[id]);
	}
	engine_values_release(&inputs);
	engine_values_release(&floats);
}

static void random_codes(void **state)
{
	(void)state;
	for (int round = 0; round < 80; round++) {
		struct qd_graph g;

		random_graph(&g);
		encode(&g, (unsigned)(40 + 15 * (round % 5)));
		engine_check(&g, true, &random_state);
		qd_graph_release(&g);
	}
}

static void simulated_networks(void **state)
{
	(void)state;
	for (int round = 0; round < 6; round++) {
		struct qd_graph g;

		engine_parse(&g, engine_net, 1 + round % 2, &random_state);
		encode(&g, (unsigned)(50 + 10 * round));
		engine_check(&g, true, &random_state);
		qd_graph_release(&g);
	}
}

/* Each combination of codes and floats, with sums that leave the middle of nowhere: all of the grids used. */
static void products_of_each_kind(void **state)
{
	(void)state;
	static const int bits[] = { 0, 4, 8, 16 };

	for (int conv = 0; conv < 2; conv++)
		for (int round = 0; round < 2 * 4 * 3 * 3; round++) {
			int w = round % 4, x = round / 4 % 3, y = round / 12 % 3;
			struct qd_graph g;
			struct engine_values inputs, floats;
			qd_id ids[3];

			engine_parse(&g,
				conv ? "graph g\ninput %x f32[1,5,6,4]\nweight %w f32[7,5,3,3] ...\nweight %b f32[7] ...\n%p = "
				       "Conv(%x, %w, %b) "
				       "{pads=[1,1,1,1]}\n%r = Relu(%p)\noutput %r\n"
				     : "graph g\ninput %x f32[9,40]\nweight %w f32[7,40] ...\nweight %b f32[7] ...\n%p = Gemm(%x, "
				       "%w, %b) "
				       "{transB=1}\n%r = Relu(%p)\noutput %r\n",
				1, &random_state);
			ids[0] = qd_graph_find(&g, "x");
			ids[1] = qd_graph_find(&g, "w");
			ids[2] = qd_graph_find(&g, "p");
			engine_inputs(&inputs, &g, &random_state);
			engine_reference(&floats, &g, &inputs, false);
			for (int i = 0; i < 3; i++) {
				int b = bits[i == 0 ? (x > 0 ? x + 1 : 0) : i == 1 ? w : (y > 0 ? y + 1 : 0)];
				struct qd_range range = { 0 };
				struct qd_encoding *e;
				if (b == 0)
					continue;
				qd_range_add(&range, (size_t)qd_shape_elements(&g.values[ids[i]].shape), floats.at[ids[i]].data);
				if (i == 1 && round >= 36)
					OK(qd_encoding_per_channel(&g.arena, &g.values[ids[i]].data, b, &e));
				else
					OK(qd_encoding_from_range(&g.arena, range.low, range.high, b, i == 1 || upto(2), &e));
				g.values[ids[i]].encoding = e;
			}
			engine_check(&g, true, &random_state);
			engine_values_release(&inputs);
			engine_values_release(&floats);
			qd_graph_release(&g);
		}
}

/* ---- attention that is seen ---- */

struct sight {
	const struct qd_graph *g;
	bool simulate;
	double sum[3], count[3]; /* of squares of what is shown, rounded to its grid */
};

static enum qd_status see_inside(void *context, qd_id value, size_t n, const float *x)
{
	static const char *const names[] = { "scores", "scaled", "soft" };
	struct sight *s = context;

	for (int i = 0; i < 3; i++)
		for (size_t k = 0; strcmp(s->g->values[value].name, names[i]) == 0 && k < n; k++) {
			const struct qd_encoding *e = s->simulate ? s->g->values[value].encoding : NULL;
			const struct qd_shape one = QD_SHAPE(1);
			float y = x[k];
			if (e != NULL)
				qd_quantize(e, &one, &y, NULL, &y);
			s->sum[i] += (double)y * (double)y;
			s->count[i]++;
		}
	return QD_OK;
}

/* Scores, scaled scores and weights are shown head by head, before they are rounded, and the result stays. */
static void attention_in_sight(void **state)
{
	(void)state;
	for (int simulate = 0; simulate < 2; simulate++)
		for (int which = 1; which < 8; which++) {
			static const char *const names[] = { "scores", "scaled", "soft" };
			struct qd_graph g;
			struct sight s = { .g = &g, .simulate = simulate };
			bool seen[64] = { false };
			const struct qd_engine_options options = { .simulate = simulate,
				.see = see_inside,
				.context = &s,
				.seen = seen },
						       unseen = { .simulate = simulate };
			struct engine_values inputs, values;
			float a[2 * 3 * 5 * 6], b[2 * 3 * 5 * 6];
			struct qd_engine *engine;

			engine_parse(&g, HEADS "output %att\n", 1, &random_state);
			if (simulate)
				encode(&g, 70);
			g.values[qd_graph_find(&g, "att")].encoding = NULL;
			engine_inputs(&inputs, &g, &random_state);
			engine_reference(&values, &g, &inputs, simulate);
			for (int i = 0; i < 3; i++)
				seen[qd_graph_find(&g, names[i])] = which >> i & 1;
			engine = engine_fed(&g, &options, &inputs);
			OK(qd_engine_run(engine));
			OK(qd_engine_read(engine, 0, a));
			qd_engine_free(engine);
			engine = engine_fed(&g, &unseen, &inputs);
			OK(qd_engine_run(engine));
			OK(qd_engine_read(engine, 0, b));
			qd_engine_free(engine);
			for (int i = 0; i < 3; i++) {
				qd_id id = qd_graph_find(&g, names[i]);
				const float *x = values.at[id].data;
				double want = 0;
				assert_true(s.count[i] == (which >> i & 1 ? 2 * 3 * 5 * 7 : 0));
				for (size_t k = 0; k < 2 * 3 * 5 * 7; k++)
					want += (double)x[k] * (double)x[k];
				if (s.count[i] > 0 && !(fabs(s.sum[i] - want) <= (simulate ? 0.01 : 1e-5) * want))
					fail_msg("'%s': the squares sum up to %g, need %g", names[i], s.sum[i], want);
			}
			/* A score may fall on the other side of a middle; 8 bits are coarse. */
			for (size_t i = 0; i < QD_COUNT(a); i++)
				assert_true(fabsf(a[i] - b[i]) <= (simulate ? 0.05f : 2e-6f));
			engine_values_release(&inputs);
			engine_values_release(&values);
			qd_graph_release(&g);
		}
}

/* ---- memory ---- */

static void memory_of_a_network(void **state)
{
	(void)state;
	struct qd_graph g;
	struct qd_engine *engine;
	struct qd_engine_memory memory;
	size_t most;

	engine_parse(&g, engine_net, 2, &random_state);
	for (int simulate = 0; simulate < 2; simulate++) {
		const struct qd_engine_options options = { .simulate = simulate };

		if (simulate)
			encode(&g, 100);
		OK(qd_engine_new(&engine, &g, &options));
		most = engine_check_plan(engine);
		memory = qd_engine_memory(engine);
		assert_true(memory.activations >= most);
		if (!(memory.activations <= 1.1 * (double)most))
			fail_msg("%zu bytes of activations, %zu at one time", memory.activations, most);
		assert_true(memory.unshared > memory.activations);
		assert_true(memory.steps > 10 && memory.steps < g.n_order);
		/* 20,000 weights, most of 3 x 3 convolutions, of which there may be several copies in another form. */
		assert_true(memory.weights >= 20000 && memory.weights < 8 * 20000 * sizeof(float));
		assert_true(memory.scratch > 0);
		qd_engine_free(engine);
	}
	qd_graph_release(&g);
}

/* ---- refusals ---- */

static void refusals(void **state)
{
	(void)state;
	float scale[3] = { 1, 1, 1 }, zero[3] = { 0 }, y[6];
	struct qd_encoding e = {
		.bits = 8, .is_signed = true, .symmetric = true, .axis = 1, .n = 3, .scale = scale, .zero_point = zero
	};
	const struct qd_engine_options options = { .simulate = true };
	struct engine_values inputs;
	struct qd_engine *engine;
	struct qd_graph g;

	engine_parse(&g, "graph g\ninput %a f32[2,3]\ninput %b f32[3]\n%c = Add(%a, %b)\noutput %c\n", 1, &random_state);
	engine_inputs(&inputs, &g, &random_state);
	OK(qd_engine_new(&engine, &g, NULL));
	assert_int_equal(qd_engine_run(engine), QD_EINPUT);
	assert_string_equal(qd_message(), "input 'a' is not bound");
	OK(qd_engine_feed(engine, g.inputs[0], &inputs.at[g.inputs[0]]));
	assert_int_equal(qd_engine_run(engine), QD_EINPUT);
	assert_string_equal(qd_message(), "input 'b' is not bound");
	OK(qd_engine_feed(engine, g.inputs[1], &inputs.at[g.inputs[1]]));
	OK(qd_engine_run(engine));
	OK(qd_engine_read(engine, 0, y));
	qd_engine_free(engine);
	g.values[qd_graph_find(&g, "c")].encoding = &e;
	assert_int_equal(qd_engine_new(&engine, &g, &options), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "value 'c' has an encoding of 3 scales and 8 bits");
	assert_null(engine);
	/* which counts for nothing where it is not simulated */
	OK(qd_engine_new(&engine, &g, NULL));
	qd_engine_free(engine);
	e.n = 1;
	e.bits = 32;
	assert_int_equal(qd_engine_new(&engine, &g, &options), QD_EUNSUPPORTED);
	engine_values_release(&inputs);
	qd_graph_release(&g);
	/* What the evaluator refuses is told when it runs, with the node. */
	engine_parse(&g, "graph g\ninput %i i64[2]\nweight %t f32[2,3] ...\n%o = Gather(%t, %i) {axis=0}\noutput %o\n", 1,
		&random_state);
	const int64_t far[] = { 0, 7 };
	const struct qd_tensor indices = qd_tensor_view("i", QD_I64, QD_SHAPE(2), far);
	OK(qd_engine_new(&engine, &g, NULL));
	OK(qd_engine_feed(engine, g.inputs[0], &indices));
	assert_int_equal(qd_engine_run(engine), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "node 'o' (Gather)"));
	qd_engine_free(engine);
	qd_graph_release(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(elementwise),
		cmocka_unit_test(sizes_around_a_chunk),
		cmocka_unit_test(long_chains),
		cmocka_unit_test(views),
		cmocka_unit_test(moved),
		cmocka_unit_test(products),
		cmocka_unit_test(along_axes),
		cmocka_unit_test(attention),
		cmocka_unit_test(the_evaluators),
		cmocka_unit_test(networks),
		cmocka_unit_test(random_floats),
		cmocka_unit_test(products_of_each_kind),
		cmocka_unit_test(random_codes),
		cmocka_unit_test(simulated_networks),
		cmocka_unit_test(attention_in_sight),
		cmocka_unit_test(memory_of_a_network),
		cmocka_unit_test(refusals),
	};
	return cmocka_run_group_tests_name("engine", tests, start_random, NULL);
}
