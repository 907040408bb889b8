/*
 * Alignment: an adapter laid under shared symmetric encodings without clipping and without training.
 *
 * The update of a layer is  U diag(g) D,  with rows d_k of D [R, I] and columns u_k of U [O, R]. It does not change under
 *
 *   u_k -> a_k u_k      d_k -> b_k d_k      g_k -> g_k / (a_k b_k)
 *
 * QD_ALIGN_GAIN   With the shared grid [low, high] * scale, a_k is the factor of largest magnitude that keeps a_k u_k on the grid:
 *                 for a component over [m, M] (0 included), the larger of
 *                     a = +min(high / M, low / m) * scale      a = -min(high / -m, -low / M) * scale
 *                 so its sign puts the further end onto the longer, negative side. Likewise b_k. Every component then uses the
 *                 whole grid. The gain, which is float32 and costs nothing, takes 1 / (a_k b_k), and then repairs part of the
 *                 rounding: with rounded ~u_k, ~d_k, the gain h of least squares,
 *                     min_h | U diag(g) D - ~U diag(h) ~D |^2 :   A h = c,
 *                     A_kl = (~u_k . ~u_l)(~d_k . ~d_l),   c_k = sum_l (~u_k . u_l)(~d_k . d_l) g_l,
 *                 an R x R positive semidefinite system, is taken where it lowers the error.
 * QD_ALIGN_GAUGE  g is kept, so a_k b_k = 1: with A, B the factors above (one common sign, the one with the larger A B),
 *                 a = sqrt(A / B), b = sqrt(B / A): both ends have the same headroom, or, where A B < 1, clip in the same ratio.
 * QD_ALIGN_NONE   a_k = b_k = 1.
 *
 * Errors are computed through the same dot products:  |U diag(g) D - ~U diag(h) ~D|^2 = g' S g - 2 c' h + h' A h,  S as A of the
 * unrounded vectors; in double, of which 1e-16 of the update's energy is lost: 90 dB and more are measured exactly enough.
 *
 * Letters: O outputs, I inputs (times kernel), R rank of the slot, r rank of the adapter there.
 */
#include "quant/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- factors ---- */

/* The two factors of largest magnitude, by sign, that keep x's range on e's grid; both 1 for a component of zeros. */
struct factors {
	double positive, negative;
};

static struct factors factors_of(const struct qd_encoding *e, size_t n, const float *x, size_t stride)
{
	double m = 0, M = 0, low = (double)qd_encoding_low(e) * e->scale[0], high = (double)qd_encoding_high(e) * e->scale[0];
	struct factors f;

	for (size_t i = 0; i < n; i++) {
		m = fmin(m, x[i * stride]);
		M = fmax(M, x[i * stride]);
	}
	if (M == m)
		return (struct factors){ 1, -1 };
	f.positive = fmin(M > 0 ? high / M : INFINITY, m < 0 ? low / m : INFINITY);
	f.negative = -fmin(m < 0 ? high / -m : INFINITY, M > 0 ? -low / M : INFINITY);
	return f;
}

static double larger(struct factors f)
{
	return f.positive >= -f.negative ? f.positive : f.negative;
}

/* Component k of up and down times a and b. */
static void scale_component(struct qd_fitted_slot *f, const struct qd_slot *slot, int64_t k, double a, double b)
{
	int64_t in = slot->in * slot->kh * slot->kw;

	for (int64_t o = 0; o < slot->out; o++)
		f->up[o * slot->rank + k] = (float)(f->up[o * slot->rank + k] * a);
	for (int64_t i = 0; i < in; i++)
		f->down[k * in + i] = (float)(f->down[k * in + i] * b);
}

/* ---- dot products ---- */

QD_CLONES static double dot(size_t n, const float *a, const float *b)
{
	double sum = 0;

#pragma omp simd reduction(+ : sum)
	for (size_t i = 0; i < n; i++)
		sum += (double)a[i] * (double)b[i];
	return sum;
}

/* The vectors of one layer as rows: up transposed [r, O], down [r, I], before (of the adapter) and after rounding; and the
 * products. */
struct layer {
	size_t r, out, in;
	float *up, *up_rounded, *down_rounded;
	const float *down;
	double *S, *C, *A; /* [r, r]: before x before, after x before, after x after */
};

static void layer_release(struct layer *l)
{
	free(l->up);
	free(l->S);
	memset(l, 0, sizeof(*l));
}

/* up [O, rank] -> [r, O] */
static void transpose(size_t out, size_t rank, size_t r, const float *up, float *rows)
{
	for (size_t o = 0; o < out; o++)
		for (size_t k = 0; k < r; k++)
			rows[k * out + o] = up[o * rank + k];
}

static void products(struct layer *l)
{
	size_t r = l->r, o = l->out, i = l->in;

	for (size_t k = 0; k < r; k++)
		for (size_t m = 0; m < r; m++) {
			const float *up = l->up + m * o, *down = l->down + m * i;
			const float *up_k = l->up_rounded + k * o, *down_k = l->down_rounded + k * i;

			l->C[k * r + m] = dot(o, up_k, up) * dot(i, down_k, down);
			if (m < k)
				continue;
			l->S[k * r + m] = l->S[m * r + k] = dot(o, l->up + k * o, up) * dot(i, l->down + k * i, down);
			l->A[k * r + m] = l->A[m * r + k] =
				dot(o, up_k, l->up_rounded + m * o) * dot(i, down_k, l->down_rounded + m * i);
		}
}

/* An adapter's layer beside its fitted tensors, rounded under `e`. */
static enum qd_status layer_of(struct layer *l, const struct qd_lora *lora, const struct qd_fitted_slot *f,
	const struct qd_slot *slot, const struct qd_slot_encodings *e)
{
	size_t r = (size_t)lora->rank, out = (size_t)lora->out, in = (size_t)(lora->in * lora->kh * lora->kw);
	struct qd_shape shape = QD_SHAPE((int64_t)(r * (in > out ? in : out)));

	*l = (struct layer){ .r = r, .out = out, .in = in, .down = lora->down };
	l->up = calloc(2 * r * out + r * in + 1, sizeof(float));
	l->S = calloc(3 * r * r + 1, sizeof(double));
	if (l->up == NULL || l->S == NULL) {
		layer_release(l);
		return qd_fail(QD_ENOMEM, "out of memory");
	}
	l->up_rounded = l->up + r * out;
	l->down_rounded = l->up_rounded + r * out;
	l->C = l->S + r * r;
	l->A = l->C + r * r;
	transpose(out, r, r, lora->up, l->up);
	transpose(out, (size_t)slot->rank, r, f->up, l->up_rounded);
	shape.dim[0] = (int64_t)(r * out);
	qd_quantize(e->up, &shape, l->up_rounded, NULL, l->up_rounded);
	shape.dim[0] = (int64_t)(r * in);
	qd_quantize(e->down, &shape, f->down, NULL, l->down_rounded);
	products(l);
	return QD_OK;
}

/* x' M y */
static double form(size_t r, const double *m, const float *x, const float *y)
{
	double sum = 0;

	for (size_t k = 0; k < r; k++)
		for (size_t j = 0; j < r; j++)
			sum += m[k * r + j] * x[k] * y[j];
	return sum;
}

/* The update's energy under the adapter's gain g, and of its difference to the rounded update under h. */
static double signal_of(const struct layer *l, const float *g)
{
	return form(l->r, l->S, g, g);
}

static double error_of(const struct layer *l, const float *g, const float *h)
{
	return fmax(0, signal_of(l, g) - 2 * form(l->r, l->C, h, g) + form(l->r, l->A, h, h));
}

/* ---- the gain of least squares ---- */

/*
 * Solves A h = c in place by Cholesky, A symmetric positive semidefinite. A component that is (numerically) a combination of
 * earlier ones is left out: its h stays 0.
 */
static void solve(size_t r, double *a, double *c)
{
	for (size_t k = 0; k < r; k++) {
		double pivot = a[k * r + k], before = pivot;

		for (size_t j = 0; j < k; j++)
			pivot -= a[k * r + j] * a[k * r + j];
		a[k * r + k] = pivot > 1e-10 * before ? sqrt(pivot) : 0;
		for (size_t i = k + 1; i < r; i++) {
			double sum = a[i * r + k];

			for (size_t j = 0; j < k; j++)
				sum -= a[i * r + j] * a[k * r + j];
			a[i * r + k] = a[k * r + k] > 0 ? sum / a[k * r + k] : 0;
		}
	}
	for (size_t k = 0; k < r; k++) {
		for (size_t j = 0; j < k; j++)
			c[k] -= a[k * r + j] * c[j];
		c[k] = a[k * r + k] > 0 ? c[k] / a[k * r + k] : 0;
	}
	for (size_t k = r; k-- > 0;) {
		for (size_t j = k + 1; j < r; j++)
			c[k] -= a[j * r + k] * c[j];
		c[k] = a[k * r + k] > 0 ? c[k] / a[k * r + k] : 0;
	}
}

static enum qd_status correct_gain(
	const struct qd_lora *lora, struct qd_fitted_slot *f, const struct qd_slot *slot, const struct qd_slot_encodings *e)
{
	size_t r = (size_t)lora->rank;
	struct layer l = { 0 };
	double *work = NULL;
	float *gain = NULL;
	enum qd_status st;

	QD_TRY(st, layer_of(&l, lora, f, slot, e));
	work = calloc(r * r + r + 1, sizeof(*work));
	gain = calloc(r + 1, sizeof(*gain));
	if (work == NULL || gain == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	memcpy(work, l.A, r * r * sizeof(*work));
	for (size_t k = 0; k < r; k++)
		for (size_t j = 0; j < r; j++)
			work[r * r + k] += l.C[k * r + j] * lora->gain[j];
	solve(r, work, work + r * r);
	/* A component of zeros may have any gain: keep what training could start from. */
	for (size_t k = 0; k < r; k++)
		gain[k] = l.A[k * r + k] > 0 ? (float)work[r * r + k] : f->gain[k];
	if (error_of(&l, lora->gain, gain) < error_of(&l, lora->gain, f->gain))
		memcpy(f->gain, gain, r * sizeof(*gain));
out:
	free(gain);
	free(work);
	layer_release(&l);
	return st;
}

/* ---- the alignments: what becomes of a layer that an adapter changes ---- */

/* The factors of component k of up and down. */
static void component_factors(const struct qd_fitted_slot *f, const struct qd_slot *slot, const struct qd_slot_encodings *e,
	int64_t k, struct factors *up, struct factors *down)
{
	size_t in = (size_t)(slot->in * slot->kh * slot->kw);

	*up = factors_of(e->up, (size_t)slot->out, f->up + k, (size_t)slot->rank);
	*down = factors_of(e->down, in, f->down + (size_t)k * in, 1);
}

static enum qd_status align_gauge(
	const struct qd_lora *lora, struct qd_fitted_slot *f, const struct qd_slot *slot, const struct qd_slot_encodings *e)
{
	for (int64_t k = 0; k < lora->rank; k++) {
		struct factors u, d;
		bool negative;
		double A, B;

		component_factors(f, slot, e, k, &u, &d);
		negative = u.negative * d.negative > u.positive * d.positive;
		A = negative ? -u.negative : u.positive;
		B = negative ? -d.negative : d.positive;
		scale_component(f, slot, k, (negative ? -1 : 1) * sqrt(A / B), (negative ? -1 : 1) * sqrt(B / A));
	}
	return QD_OK;
}

static enum qd_status align_gain(
	const struct qd_lora *lora, struct qd_fitted_slot *f, const struct qd_slot *slot, const struct qd_slot_encodings *e)
{
	for (int64_t k = 0; k < lora->rank; k++) {
		struct factors u, d;
		double a, b;

		component_factors(f, slot, e, k, &u, &d);
		a = larger(u);
		b = larger(d);
		f->gain[k] = (float)(f->gain[k] / (a * b));
		scale_component(f, slot, k, a, b);
	}
	return correct_gain(lora, f, slot, e);
}

static const struct {
	bool may_clip;
	enum qd_status (*align)(const struct qd_lora *lora, struct qd_fitted_slot *f, const struct qd_slot *slot,
		const struct qd_slot_encodings *e);
} alignments[] = {
#define ROW(id, name, may_clip, align) [QD_##id] = { may_clip, align },
	QD_ALIGN_LIST(ROW)
#undef ROW
};

bool qd_align_may_clip(enum qd_align align)
{
	return alignments[align].may_clip;
}

/* ---- whole adapters ---- */

static enum qd_status fit_slot(struct qd_arena *arena, struct qd_fitted_slot *f, const struct qd_lora *lora,
	const struct qd_slot *slot, const struct qd_slot_encodings *e, enum qd_align align)
{
	size_t in = (size_t)(slot->in * slot->kh * slot->kw), rank = (size_t)slot->rank;
	enum qd_status st;

	f->down = qd_arena_array(arena, rank * in, sizeof(float));
	f->up = qd_arena_array(arena, (size_t)slot->out * rank, sizeof(float));
	f->gain = qd_arena_array(arena, rank, sizeof(float));
	f->bias = slot->biased ? qd_arena_array(arena, (size_t)slot->out, sizeof(float)) : NULL;
	if (f->down == NULL || f->up == NULL || f->gain == NULL || (slot->biased && f->bias == NULL))
		return QD_ENOMEM;
	f->rank = lora != NULL ? lora->rank : 0;
	st = qd_slot_fill(slot, lora, f->down, f->up, f->gain, f->bias);
	if (st == QD_OK && lora != NULL && alignments[align].align != NULL)
		st = alignments[align].align(lora, f, slot, e);
	return st;
}

enum qd_status qd_fit_slots(struct qd_fitted *fitted, const struct qd_adapter *adapter, const struct qd_slots *slots,
	const struct qd_slot_encodings *encodings, enum qd_align align)
{
	enum qd_status st;

	*fitted = (struct qd_fitted){ .n = slots->n };
	QD_TRY(st, qd_slots_check(slots, adapter));
	fitted->slots = qd_arena_array(&fitted->arena, slots->n, sizeof(*fitted->slots));
	st = fitted->slots == NULL ? QD_ENOMEM : QD_OK;
	for (size_t i = 0; st == QD_OK && i < slots->n; i++)
		st = fit_slot(&fitted->arena, &fitted->slots[i], qd_adapter_find(adapter, slots->items[i].path), &slots->items[i],
			&encodings[i], align);
out:
	if (st != QD_OK)
		qd_fitted_release(fitted);
	return st;
}

enum qd_status qd_slots_update_sqnr(const struct qd_adapter *adapter, const struct qd_fitted *fitted, const struct qd_slots *slots,
	const struct qd_slot_encodings *encodings, double *db)
{
	double signal = 0, error = 0;

	for (size_t i = 0; i < slots->n; i++) {
		const struct qd_lora *lora = qd_adapter_find(adapter, slots->items[i].path);
		struct layer l;
		enum qd_status st;

		if (lora == NULL)
			continue;
		st = layer_of(&l, lora, &fitted->slots[i], &slots->items[i], &encodings[i]);
		if (st != QD_OK)
			return st;
		signal += signal_of(&l, lora->gain);
		error += error_of(&l, lora->gain, fitted->slots[i].gain);
		layer_release(&l);
	}
	*db = error > 0 ? 10 * log10(signal / error) : INFINITY;
	return QD_OK;
}

void qd_fitted_release(struct qd_fitted *fitted)
{
	qd_arena_release(&fitted->arena);
	memset(fitted, 0, sizeof(*fitted));
}
