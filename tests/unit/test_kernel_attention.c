/*
 * Attention over numbers of any form: without grids against qd_attention_f32, which has to be equal exactly, and with grids against
 * plain loops in double.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/kernel/kernel.h"
#include "lib/math/math.h"
#include "tests/unit/random_help.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const float highest[] = { [QD_FORM_U8] = 255, [QD_FORM_U16] = 65535 };

/* ---- operands ---- */

/* Numbers in memory and, for the plain loops, the same as floats. */
struct operand {
	struct qd_numbers numbers;
	struct qd_strides strides;
	size_t n;
	float *floats;
};

/* [batch, tokens, heads, d]: heads lie inside a token's row. Codes have a step of 2^-5 where `exact`. */
static struct operand operand(enum qd_form form, const int64_t size[4], bool exact)
{
	int64_t tokens = size[1], heads = size[2], d = size[3];
	struct operand x = { .strides = { tokens * heads * d, d, heads * d }, .n = (size_t)(size[0] * tokens * heads * d) };
	size_t apart = x.n + (size_t)below(9); /* of the planes: not where the first ends */

	x.numbers = (struct qd_numbers){ .form = form, .at = malloc(x.n * sizeof(float) + apart), .plane = apart };
	x.floats = malloc(x.n * sizeof(*x.floats));
	assert_true(x.numbers.at != NULL && x.floats != NULL);
	if (form != QD_FORM_F32) {
		x.numbers.high = highest[form];
		x.numbers.scale = exact ? 0x1p-5f : 8 / highest[form];
		x.numbers.zero = (float)((int64_t)highest[form] / 2 + below(3));
	}
	for (size_t i = 0; i < x.n; i++)
		x.floats[i] = (float)qd_random_normal(&random_state);
	if (exact && form == QD_FORM_F32)
		for (size_t i = 0; i < x.n; i++)
			x.floats[i] = rintf(x.floats[i] * 32) / 32;
	qd_numbers_store(&x.numbers, 0, x.n, x.floats);
	qd_numbers_load(&x.numbers, 0, x.n, x.floats);
	return x;
}

static void release(struct operand *x)
{
	free(x->numbers.at);
	free(x->floats);
}

struct call {
	struct operand q, k, v, out;
	struct qd_attention a;
};

/* sizes: batch, heads, queries, keys, d, dv; forms of q, k, v and out. */
static struct call make_call(const int64_t sizes[6], const enum qd_form forms[4], bool exact)
{
	int64_t n = sizes[0], h = sizes[1], queries = sizes[2], keys = sizes[3], d = sizes[4], dv = sizes[5];
	struct call c = {
		.q = operand(forms[0], (const int64_t[]){ n, queries, h, d }, exact),
		.k = operand(forms[1], (const int64_t[]){ n, keys, h, d }, exact),
		.v = operand(forms[2], (const int64_t[]){ n, keys, h, dv }, false),
		.out = operand(forms[3], (const int64_t[]){ n, queries, h, dv }, false),
		.a = { n, h, queries, keys, d, dv, exact ? 0.25f : (float)(1 / sqrt((double)d)), { 0 }, { 0 }, { 0 }, { 0 } },
	};

	c.a.q = c.q.strides;
	c.a.k = c.k.strides;
	c.a.v = c.v.strides;
	c.a.out = c.out.strides;
	return c;
}

static void release_call(struct call *c)
{
	release(&c->q);
	release(&c->k);
	release(&c->v);
	release(&c->out);
}

static void attend(struct call *c, const struct qd_attention_grids *grids)
{
	assert_int_equal(qd_attention_numbers(&c->a, &c->q.numbers, &c->k.numbers, &c->v.numbers, grids, &c->out.numbers), QD_OK);
	qd_numbers_load(&c->out.numbers, 0, c->out.n, c->out.floats);
}

static void random_forms(enum qd_form forms[4])
{
	for (int i = 0; i < 4; i++)
		forms[i] = (enum qd_form)below(3);
}

/* batch, heads, queries, keys, d, dv; around the tiles' sizes (8 and 6 rows, 16 columns, 96 queries, 512 keys), and none. */
static const int64_t sizes_tried[][6] = { { 1, 1, 1, 1, 1, 1 }, { 2, 3, 1, 5, 3, 17 }, { 1, 2, 7, 1, 5, 16 },
	{ 1, 1, 97, 512, 16, 9 }, { 1, 2, 33, 529, 40, 40 }, { 2, 1, 96, 77, 31, 24 }, { 1, 1, 8, 1030, 4, 33 } };

/* ---- without grids ---- */

/* The floats that the codes stand for give the floats that are stored as codes. */
static void check_without_grids(const int64_t sizes[6], const enum qd_form forms[4])
{
	struct call c = make_call(sizes, forms, false);
	const struct qd_attention_grids none = { 0 };
	float *want = malloc(c.out.n * sizeof(*want));

	assert_non_null(want);
	assert_int_equal(qd_attention_f32(&c.a, c.q.floats, c.k.floats, c.v.floats, want, NULL), QD_OK);
	if (forms[3] != QD_FORM_F32)
		qd_numbers_round(&c.out.numbers, c.out.n, want, want);
	attend(&c, NULL);
	assert_memory_equal(c.out.floats, want, c.out.n * sizeof(*want));
	attend(&c, &none);
	assert_memory_equal(c.out.floats, want, c.out.n * sizeof(*want));
	release_call(&c);
	free(want);
}

static void test_without_grids(void **state)
{
	enum qd_form forms[4] = { QD_FORM_F32, QD_FORM_F32, QD_FORM_F32, QD_FORM_F32 };

	(void)state;
	for (size_t i = 0; i < QD_COUNT(sizes_tried); i++)
		for (int round = 0; round < 4; round++) {
			check_without_grids(sizes_tried[i], forms);
			random_forms(forms);
		}
}

/* ---- with grids ---- */

/*
 * How far from a tie, in steps, a value of double precision has to be for its code to be certain. The kernel's float32 values are
 * below 2^16 steps and a few roundings of 2^-24 of that away from it: some thousandths of a step, at most.
 */
static const double sure = 0.02;

static bool near_tie(const struct qd_numbers *grid, double x, double slack)
{
	double at = x / (double)grid->scale, from_zero = at + (double)grid->zero;

	/* beyond the grid's ends all is the end */
	return from_zero > -1 && from_zero < (double)grid->high + 1 && fabs(fabs(at - floor(at)) - 0.5) <= sure + slack;
}

static double rounded(const struct qd_numbers *grid, double x)
{
	double at = rint(x / (double)grid->scale) + (double)grid->zero;

	return (fmin(fmax(at, 0), (double)grid->high) - (double)grid->zero) * (double)grid->scale;
}

/*
 * One row's result out [dv], and how far off the kernel's may be for codes of weights that are not certain, slack [dv]. False where a
 * score's code is not certain: all weights hang on it. `exact`: scores are exact in float32, ties too.
 */
static bool reference_row(const struct call *c, const struct qd_attention_grids *grids, bool exact, const float *q, const float *k,
	const float *v, double *weights, double *out, double *slack)
{
	const struct qd_attention *a = &c->a;
	double most = -INFINITY, sum = 0;

	for (int64_t j = 0; j < a->keys; j++) {
		double s = 0;
		for (int64_t i = 0; i < a->d; i++)
			s += (double)q[i] * (double)k[j * a->k.row + i];
		if (grids->scores != NULL) {
			if (!exact && near_tie(grids->scores, s, 0))
				return false;
			s = rounded(grids->scores, s);
		}
		s *= (double)a->scale;
		if (grids->scaled != NULL) {
			if (!exact && near_tie(grids->scaled, s, 0))
				return false;
			s = rounded(grids->scaled, s);
		}
		weights[j] = s;
		most = fmax(most, s);
	}
	for (int64_t j = 0; j < a->keys; j++)
		sum += weights[j] = exp(weights[j] - most);
	for (int64_t i = 0; i < a->dv; i++)
		out[i] = slack[i] = 0;
	for (int64_t j = 0; j < a->keys; j++) {
		double w = weights[j] / sum;
		bool unsure = grids->weights != NULL && near_tie(grids->weights, w, 0);
		w = grids->weights != NULL ? rounded(grids->weights, w) : w;
		for (int64_t i = 0; i < a->dv; i++) {
			out[i] += w * (double)v[j * a->v.row + i];
			slack[i] += unsure ? (double)grids->weights->scale * fabs((double)v[j * a->v.row + i]) : 0;
		}
	}
	return true;
}

/* A code one or more steps away needs a value that near to a tie. */
static void check_row(const struct call *c, const float *got, const double *want, const double *slack)
{
	const struct qd_numbers *to = &c->out.numbers;
	/* Floats: sums of up to 1100 products of at most 6 with weights that add up to 1, or, where weights are rounded, to 2. */
	double tolerance = 12 * sqrt(1100) * 0x1p-24;

	for (int64_t i = 0; i < c->a.dv; i++) {
		double error = fabs((double)got[i] - want[i]), allowed = slack[i] + tolerance;
		if (to->form != QD_FORM_F32) {
			error = fabs((double)got[i] - rounded(to, want[i]));
			allowed = near_tie(to, want[i], slack[i] / (double)to->scale) ? (double)to->scale * 1.01 + slack[i]
										      : (double)to->scale * 0.01;
		}
		if (error > allowed)
			fail_msg("column %lld: %.9g, expected %.9g, off by at most %g", (long long)i, (double)got[i], want[i],
				allowed);
	}
}

/* The rows that could be compared. */
static int64_t check_with_grids(
	const int64_t sizes[6], const enum qd_form forms[4], const struct qd_attention_grids *grids, bool exact)
{
	struct call c = make_call(sizes, forms, exact);
	int64_t compared = 0;
	double *weights = malloc((size_t)c.a.keys * sizeof(*weights)), *want = malloc((size_t)c.a.dv * sizeof(*want)),
	       *slack = malloc((size_t)c.a.dv * sizeof(*slack));

	assert_true(weights != NULL && want != NULL && slack != NULL);
	attend(&c, grids);
	for (int64_t i = 0; i < c.a.batch * c.a.heads * c.a.queries; i++) {
		int64_t n = i / c.a.queries / c.a.heads, h = i / c.a.queries % c.a.heads, row = i % c.a.queries;
		const float *q = c.q.floats + n * c.a.q.batch + h * c.a.q.head + row * c.a.q.row,
			    *k = c.k.floats + n * c.a.k.batch + h * c.a.k.head, *v = c.v.floats + n * c.a.v.batch + h * c.a.v.head,
			    *got = c.out.floats + n * c.a.out.batch + h * c.a.out.head + row * c.a.out.row;
		if (!reference_row(&c, grids, exact, q, k, v, weights, want, slack))
			continue;
		check_row(&c, got, want, slack);
		compared++;
	}
	release_call(&c);
	free(weights);
	free(want);
	free(slack);
	return compared;
}

/* A grid over [-reach, reach], or over [0, reach]; with a step that is a power of two when `exact`. */
static struct qd_numbers grid(bool wide, double reach, bool both_signs, bool exact)
{
	float high = highest[wide ? QD_FORM_U16 : QD_FORM_U8], zero = both_signs ? floorf(high / 2) : 0;
	float step = (float)(reach / (double)(high - zero));

	return (struct qd_numbers){ .scale = exact ? exp2f(rintf(log2f(step))) : step, .zero = zero, .high = high };
}

/* `most`: which of the grids at most. */
static int64_t try_grids(const int64_t sizes[6], bool exact)
{
	int64_t compared = 0;

	for (unsigned given = 1; given < 8; given++) {
		/* Some scores lie outside. */
		struct qd_numbers scores = grid(below(2), 2 * sqrt((double)sizes[4]), true, exact),
				  scaled = grid(below(2), exact ? 0.6 * sqrt((double)sizes[4]) : 2, true, exact),
				  weights = grid(below(2), below(2) ? 1 : 2 / (double)sizes[3], false, false);
		struct qd_attention_grids grids = { given & 1 ? &scores : NULL, given & 2 ? &scaled : NULL,
			given & 4 ? &weights : NULL };
		enum qd_form forms[4];
		random_forms(forms);
		compared += check_with_grids(sizes, forms, &grids, exact);
	}
	return compared;
}

static void test_with_grids(void **state)
{
	(void)state;
	for (size_t i = 0; i < QD_COUNT(sizes_tried); i++) {
		const int64_t *s = sizes_tried[i];
		/* With exact scores every row is compared. */
		assert_int_equal(try_grids(s, true), 7 * s[0] * s[1] * s[2]);
		try_grids(s, false);
	}
	/* Where there are few keys, most rows have none whose code is uncertain. */
	for (int round = 0; round < 8; round++) {
		const int64_t s[] = { 1 + below(2), 1 + below(3), 1 + below(130), 1 + below(6), 1 + below(48), 1 + below(48) };
		int64_t rows = s[0] * s[1] * s[2];
		assert_true(rows < 20 || try_grids(s, false) >= 7 * rows / 2);
	}
}

/*
 * Rounding is that of qd_numbers_round to the last bit, near ties too: where values are the identity the results are the weights, and
 * those that are not rounded are what a grid of scores alone, of which no score is beyond the ends, gives with the same scores.
 */
static void test_rounds_exactly(void **state)
{
	enum { KEYS = 80 };
	const int64_t sizes[] = { 1, 1, 200, KEYS, 3, KEYS };
	const enum qd_form forms[4] = { QD_FORM_F32, QD_FORM_F32, QD_FORM_F32, QD_FORM_F32 };
	struct call c = make_call(sizes, forms, false);
	struct qd_numbers scores = grid(true, 40, true, false);
	struct qd_attention_grids grids = { .scores = &scores };
	float *plain = malloc(c.out.n * sizeof(*plain)), *want = malloc(c.out.n * sizeof(*want)), *v = c.v.numbers.at;

	(void)state;
	assert_true(plain != NULL && want != NULL);
	for (size_t i = 0; i < c.v.n; i++)
		v[i] = i % KEYS == i / KEYS;
	attend(&c, &grids);
	memcpy(plain, c.out.floats, c.out.n * sizeof(*plain));
	for (int round = 0; round < 40; round++) {
		/* From one where most weights are beyond the end to one where all are below a step; a few far from all use. */
		static const double far[] = { 1e-36, 1e-25, 1e25, 1e36 };
		double step = round < 4 ? far[round] : exp2(-25 + 25 * qd_random_uniform(&random_state));
		struct qd_numbers weights = { .scale = (float)step, .high = round % 2 ? 65535 : 255 };
		weights.zero = (float)below((int64_t)weights.high + 1);
		grids.weights = &weights;
		attend(&c, &grids);
		qd_numbers_round(&weights, c.out.n, plain, want);
		assert_memory_equal(c.out.floats, want, c.out.n * sizeof(*want));
	}
	release_call(&c);
	free(plain);
	free(want);
}

/* Scores that differ by hundreds, and beyond what their grid can say. */
static void test_saturates(void **state)
{
	enum { KEYS = 600 };
	const int64_t sizes[] = { 1, 1, 1, KEYS, 1, 1 };
	const enum qd_form forms[4] = { QD_FORM_F32, QD_FORM_F32, QD_FORM_F32, QD_FORM_F32 };
	struct call c = make_call(sizes, forms, false);
	struct qd_numbers scores = grid(true, 500, true, false), weights = grid(true, 1, false, false);
	struct qd_attention_grids grids = { &scores, NULL, &weights };
	float *q = c.q.numbers.at, *k = c.k.numbers.at, *v = c.v.numbers.at;

	(void)state;
	q[0] = 1e30f;
	for (int i = 0; i < KEYS; i++) {
		k[i] = i == 570 ? 1e30f : i == 3 ? -1e30f : 0;
		v[i] = (float)i;
	}
	attend(&c, &grids);
	assert_true(c.out.floats[0] == 570);
	release_call(&c);
}

/* Rows are cut into blocks and shared among threads, and none of that shows. */
static void test_threads_change_nothing(void **state)
{
	const int64_t sizes[] = { 2, 3, 200, 600, 17, 24 };
	const enum qd_form forms[4] = { QD_FORM_U16, QD_FORM_U8, QD_FORM_U16, QD_FORM_U16 };
	struct qd_numbers scores = grid(true, 10, true, false), weights = grid(true, 1, false, false);
	const struct qd_attention_grids grids[] = { { NULL, NULL, NULL }, { &scores, &scores, &weights } };
	struct call c = make_call(sizes, forms, false);
	float *one = malloc(c.out.n * sizeof(*one));
	int threads = omp_get_max_threads();

	(void)state;
	assert_non_null(one);
	for (size_t i = 0; i < QD_COUNT(grids); i++) {
		omp_set_num_threads(1);
		attend(&c, &grids[i]);
		memcpy(one, c.out.floats, c.out.n * sizeof(*one));
		omp_set_num_threads(2);
		attend(&c, &grids[i]);
		assert_memory_equal(c.out.floats, one, c.out.n * sizeof(*one));
		/* so many that the least rows are taken at a time */
		omp_set_num_threads(16);
		attend(&c, &grids[i]);
		assert_memory_equal(c.out.floats, one, c.out.n * sizeof(*one));
	}
	omp_set_num_threads(threads);
	release_call(&c);
	free(one);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_without_grids),
		cmocka_unit_test(test_with_grids),
		cmocka_unit_test(test_rounds_exactly),
		cmocka_unit_test(test_saturates),
		cmocka_unit_test(test_threads_change_nothing),
	};
	return cmocka_run_group_tests(tests, start_random, NULL);
}
