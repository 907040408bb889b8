#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/engine_help.h"
#include "tests/unit/scratch.h"

const char *const engine_net =
	"graph net\ninput %x f32[$1,5,8,6]\ninput %t f32[$1,7]\ninput %context f32[$5,9]\ninput %down f32[3,24]\ninput %up "
	"f32[24,3]\n"
	"weight %w0 f32[16,5,3,3] ...\nweight %b0 f32[16] ...\n%h0 = Conv(%x, %w0, %b0) {pads=[1,1,1,1]}\n"
	/* residual block */
	"weight %s1 f32[16] ...\nweight %o1 f32[16] ...\n%n1 = GroupNormalization(%h0, %s1, %o1) {num_groups=4}\n"
	"%g1 = Sigmoid(%n1)\n%a1 = Mul(%n1, %g1)\nweight %w1 f32[24,16,3,3] ...\nweight %b1 f32[24] ...\n"
	"%c1 = Conv(%a1, %w1, %b1) {pads=[1,1,1,1]}\nweight %wt f32[24,7] ...\nweight %bt f32[24] ...\n%e = Gemm(%t, %wt, %bt) "
	"{transB=1}\nweight %pixels i64[4] {$1,24,1,1}\n%e4 = Reshape(%e, %pixels)\n%m1 = Add(%c1, %e4)\n"
	"weight %s2 f32[24] ...\nweight %o2 f32[24] ...\n%n2 = GroupNormalization(%m1, %s2, %o2) {num_groups=3}\n"
	"%g2 = Sigmoid(%n2)\n%a2 = Mul(%g2, %n2)\nweight %w2 f32[24,24,3,3] ...\nweight %b2 f32[24] ...\n"
	"%c2 = Conv(%a2, %w2, %b2) {pads=[1,1,1,1]}\nweight %ws f32[24,16,1,1] ...\n%short = Conv(%h0, %ws)\n%r = Add(%short, "
	"%c2)\n"
	/* transformer */
	"%last = Transpose(%r) {perm=[0,2,3,1]}\nweight %flat i64[2] {$48,24}\n%tokens = Reshape(%last, %flat)\n"
	"weight %s3 f32[24] ...\nweight %o3 f32[24] ...\n%n3 = LayerNormalization(%tokens, %s3, %o3) {axis=-1}\n"
	"weight %wq f32[24,24] ...\nweight %wk f32[24,9] ...\nweight %wv f32[24,9] ...\n%q = Gemm(%n3, %wq) {transB=1}\n"
	"%k = Gemm(%context, %wk) {transB=1}\n%v = Gemm(%context, %wv) {transB=1}\nweight %heads i64[4] {$1,-1,3,8}\n"
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
	"%t2 = Add(%back, %t1)\nweight %image i64[4] {$1,8,6,24}\n%i4 = Reshape(%t2, %image)\n%i = Transpose(%i4) "
	"{perm=[0,3,1,2]}\n"
	/* down, up, skip */
	"weight %wd f32[24,24,3,3] as f16 ...\n%d = Conv(%i, %wd) {pads=[1,1,1,1], strides=[2,2]}\nweight %sizes i64[4] "
	"{$1,24,8,6}\n"
	"%u = Resize(%d, _, _, %sizes) {coordinate_transformation_mode=\"asymmetric\", mode=\"nearest\", nearest_mode=\"floor\"}\n"
	"%joined = Concat(%u, %h0) {axis=1}\nweight %wj f32[4,40,3,3] as bf16 ...\nweight %bj f32[4] ...\n"
	"%out = Conv(%joined, %wj, %bj) {pads=[1,1,1,1]}\noutput %out\n";

/* The text with its $<factor> written out for n images. */
static char *of_images(const char *text, int n)
{
	char *out = NULL, *end;
	size_t size = 0;
	FILE *f = open_memstream(&out, &size);

	assert_non_null(f);
	for (const char *at = text; *at != '\0';) {
		if (*at != '$') {
			fputc(*at++, f);
			continue;
		}
		fprintf(f, "%ld", n * strtol(at + 1, &end, 10));
		at = end;
	}
	fclose(f);
	return out;
}

/* What a text leaves out (...) are zeros: random weights take their place, about as large as a trained layer's. */
void engine_parse(struct qd_graph *g, const char *text, int images, struct qd_random *random)
{
	char *written = of_images(text, images);

	OK(qd_graph_parse(g, "case", written));
	free(written);
	OK(qd_graph_verify(g));
	for (size_t i = 0; i < g->n_values; i++) {
		struct qd_value *v = &g->values[i];
		int64_t n = qd_shape_elements(&v->shape);
		if (v->kind != QD_WEIGHT || v->dtype != QD_F32)
			continue;
		float *x = calloc((size_t)n, sizeof(*x));
		OK(qd_tensor_to_f32(&v->data, x));
		for (int64_t k = 0; k < n && x[0] == 0; k++)
			x[n - 1 - k] = (float)qd_random_normal(random) / sqrtf((float)n / (float)v->shape.dim[0]);
		OK(qd_tensor_from_f32(&v->data, x));
		free(x);
	}
}
