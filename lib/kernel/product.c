/*
 * Products with packed weights. A product is one oneDNN primitive, a Winograd convolution (winograd.c), or three primitives where
 * bfloat16 matrix units are faster: with x = hi + lo and w = hi + lo, each half a bfloat16 (16 bits of a float32's 24 together),
 *
 *   x w = x_hi w_hi + x_hi w_lo + x_lo w_hi          what is left out, x_lo w_lo, is below 2^-16 of the terms
 *
 * summed in float32. Weights are packed once, into huge pages where the system has them: a network walks through gigabytes of
 * them.
 */
#include "lib/kernel/dnnl.h"
#include "lib/kernel/kernel_internal.h"
#include "lib/kernel/winograd.h"

#include <stdlib.h>
#include <string.h>

struct qd_product {
	struct qd_product_spec spec;
	bool bfloat16; /* in halves */
	bool coarse;   /* once, without the lower halves */
	struct qd_winograd *winograd;
	struct qd_dnnl *steps[3]; /* without winograd. float32: one; bfloat16: x_hi w_hi, x_hi w_lo, x_lo w_hi */
	void *high, *low;         /* packed weights; low for bfloat16 only */
};

struct qd_product_spec qd_linear_spec(int64_t rows, int64_t in, int64_t out)
{
	return (struct qd_product_spec){ .n = rows,
		.height = 1,
		.width = 1,
		.in = in,
		.out = out,
		.kernel_h = 1,
		.kernel_w = 1,
		.out_height = 1,
		.out_width = 1,
		.stride_h = 1,
		.stride_w = 1,
		.dilation_h = 1,
		.dilation_w = 1 };
}

/* Only oneDNN's matrix products take another operand after their own sum; what its convolutions can do is begin with one, which
 * rounds in another order than the definition of qd_product_spec. */
static bool adds_after(const struct qd_product_spec *spec)
{
	return spec->add && !qd_product_is_linear(spec);
}

static enum qd_status make_float(struct qd_product *p)
{
	const struct qd_dnnl_options options = { .bias = p->spec.bias, .add = p->spec.add && !adds_after(&p->spec) };

	return qd_dnnl_new(&p->steps[0], &p->spec, &options);
}

static enum qd_status make_bfloat16(struct qd_product *p)
{
	struct qd_dnnl_options options = { .bfloat16 = true, .bias = p->spec.bias };
	enum qd_status st;

	QD_TRY(st, qd_dnnl_new(&p->steps[0], &p->spec, &options));
	options = (struct qd_dnnl_options){ .bfloat16 = true, .sum = true, .like = p->steps[0] };
	QD_TRY(st, qd_dnnl_new(&p->steps[1], &p->spec, &options));
	options.add = p->spec.add && !adds_after(&p->spec);
	QD_TRY(st, qd_dnnl_new(&p->steps[2], &p->spec, &options));
out:
	return st;
}

/* Some windows see nothing but padding: there oneDNN 2.6 forgets what it should add to. */
static bool sees_only_padding(const struct qd_product_spec *s)
{
	int64_t high = (s->kernel_h - 1) * s->dilation_h, wide = (s->kernel_w - 1) * s->dilation_w;

	return s->top > high || s->bottom > high || s->left > wide || s->right > wide;
}

/*
 * Two bfloat16 halves hold 16 bits of a float32: a network of such products is right to some 1e-5 of its range, one in float32 to
 * 1e-6. That is paid only where there is time to win: below a billion operations products stay in float32.
 */
static bool is_large(const struct qd_product_spec *s)
{
	double sums = (double)s->n * (double)s->out_height * (double)s->out_width * (double)s->out;

	return 2 * sums * (double)s->in * (double)s->kernel_h * (double)s->kernel_w >= 1e9;
}

static bool wants_bfloat16(const struct qd_product_spec *spec)
{
	bool best = spec->way == QD_WAY_BEST && qd_dnnl_has_matrix_units() && is_large(spec);

	return (best || spec->way == QD_WAY_BFLOAT16) && !sees_only_padding(spec);
}

enum qd_status qd_product_new(struct qd_product **out, const struct qd_product_spec *spec)
{
	struct qd_product *p = calloc(1, sizeof(*p));
	enum qd_status st;

	*out = NULL;
	if (p == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a product");
	p->spec = *spec;
	p->bfloat16 = wants_bfloat16(spec);
	if (spec->way == QD_WAY_COARSE && qd_dnnl_has_bfloat16() && !spec->add && !sees_only_padding(spec)) {
		const struct qd_dnnl_options options = { .bfloat16 = true, .bias = spec->bias };
		p->coarse = true;
		QD_TRY(st, qd_dnnl_new(&p->steps[0], &p->spec, &options));
	} else if (!p->bfloat16 && qd_winograd_fits(spec))
		QD_TRY(st, qd_winograd_new(&p->winograd, spec));
	else
		QD_TRY(st, p->bfloat16 ? make_bfloat16(p) : make_float(p));
	*out = p;
	p = NULL;
out:
	qd_product_free(p);
	return st;
}

/* ---- weights ---- */

/* Of each half. */
static size_t weight_bytes(const struct qd_product *p)
{
	return p->winograd != NULL ? qd_winograd_weight_bytes(p->winograd) : qd_dnnl_weight_bytes(p->steps[0]);
}

void qd_product_free(struct qd_product *p)
{
	if (p == NULL)
		return;
	if (p->high != NULL)
		qd_large_free(p->high, weight_bytes(p));
	if (p->low != NULL)
		qd_large_free(p->low, weight_bytes(p));
	for (size_t i = 0; i < QD_COUNT(p->steps); i++)
		qd_dnnl_free(p->steps[i]);
	qd_winograd_free(p->winograd);
	free(p);
}

/* All elements as float32, pieces on all threads. */
static enum qd_status to_float(const struct qd_tensor *w, float *to)
{
	size_t n = (size_t)qd_shape_elements(&w->shape), n_chunks = qd_chunks(n), size = qd_dtype_bits(w->dtype) / 8;
	enum qd_status st = QD_OK;

#pragma omp parallel for schedule(static) if (n >= QD_PARALLEL_MIN)
	for (size_t chunk = 0; chunk < n_chunks; chunk++) {
		size_t at = chunk * QD_CHUNK, count = qd_min_size(QD_CHUNK, n - at);
		struct qd_tensor part =
			qd_tensor_view(w->name, w->dtype, QD_SHAPE((int64_t)count), (const char *)w->data + at * size);
		enum qd_status one = qd_tensor_to_f32(&part, to + at);
		if (one != QD_OK)
#pragma omp critical
			st = one;
	}
	return st;
}

static uint16_t to_bfloat16(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	bits += 0x7fff + (bits >> 16 & 1);
	return (uint16_t)(bits >> 16);
}

static float from_bfloat16(uint16_t x)
{
	uint32_t bits = (uint32_t)x << 16;
	float y;

	memcpy(&y, &bits, sizeof(y));
	return y;
}

/* x = high + low + less than 2^-16 of x. */
QD_VECTOR static void split_chunk(size_t n, const float *x, uint16_t *high, uint16_t *low)
{
	for (size_t i = 0; i < n; i++) {
		high[i] = to_bfloat16(x[i]);
		low[i] = to_bfloat16(x[i] - from_bfloat16(high[i]));
	}
}

static void split(size_t n, const float *x, uint16_t *high, uint16_t *low)
{
	size_t n_chunks = qd_chunks(n);

#pragma omp parallel for schedule(static) if (n >= QD_PARALLEL_MIN)
	for (size_t chunk = 0; chunk < n_chunks; chunk++) {
		size_t at = chunk * QD_CHUNK;
		split_chunk(qd_min_size(QD_CHUNK, n - at), x + at, high + at, low + at);
	}
}

static enum qd_status pack_halves(struct qd_product *p, const float *w, size_t n)
{
	uint16_t *high = qd_large_alloc(2 * n * sizeof(*high)), *low = high + n;
	enum qd_status st;

	if (high == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for packing weights");
	split(n, w, high, low);
	QD_TRY(st, qd_dnnl_pack(p->steps[0], high, p->high));
	if (p->low != NULL)
		QD_TRY(st, qd_dnnl_pack(p->steps[0], low, p->low));
out:
	qd_large_free(high, 2 * n * sizeof(*high));
	return st;
}

enum qd_status qd_product_pack(struct qd_product *p, const struct qd_tensor *w)
{
	size_t n = (size_t)qd_shape_elements(&w->shape), bytes = weight_bytes(p);

	const float *plain = w->data;
	float *copy = NULL;
	enum qd_status st = QD_OK;

	if (p->high == NULL)
		p->high = qd_large_alloc(bytes);
	if (p->low == NULL && p->bfloat16)
		p->low = qd_large_alloc(bytes);
	if (p->high == NULL || (p->bfloat16 && p->low == NULL))
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu bytes of weights", bytes));
	if (w->dtype != QD_F32 || (uintptr_t)w->data % sizeof(float) != 0) {
		plain = copy = qd_large_alloc(n * sizeof(*copy));
		if (copy == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for packing weights"));
		QD_TRY(st, to_float(w, copy));
	}
	if (p->winograd != NULL)
		QD_TRY(st, qd_winograd_pack(p->winograd, plain, p->high));
	else
		QD_TRY(st, p->bfloat16 || p->coarse ? pack_halves(p, plain, n) : qd_dnnl_pack(p->steps[0], plain, p->high));
out:
	qd_large_free(copy, n * sizeof(*copy));
	return st;
}

size_t qd_product_weight_bytes(const struct qd_product *p)
{
	return weight_bytes(p) * (p->bfloat16 ? 2 : 1);
}

/* ---- a run ---- */

QD_VECTOR static void add_chunk(size_t n, const float *other, float *y)
{
	for (size_t i = 0; i < n; i++)
		y[i] += other[i];
}

static void add_all(size_t n, const float *other, float *y)
{
	size_t n_chunks = qd_chunks(n);

#pragma omp parallel for schedule(static) if (n >= QD_PARALLEL_MIN)
	for (size_t chunk = 0; chunk < n_chunks; chunk++) {
		size_t at = chunk * QD_CHUNK;
		add_chunk(qd_min_size(QD_CHUNK, n - at), other + at, y + at);
	}
}

/* oneDNN's scratch, the largest of the steps'; the halves of x lie behind it. */
static size_t own_scratch_bytes(const struct qd_product *p)
{
	size_t most = 0;

	for (size_t i = 0; i < QD_COUNT(p->steps) && p->steps[i] != NULL; i++)
		if (most < qd_dnnl_scratch_bytes(p->steps[i]))
			most = qd_dnnl_scratch_bytes(p->steps[i]);
	return qd_whole_lines(most);
}

static size_t x_elements(const struct qd_product_spec *s)
{
	return (size_t)(s->n * s->height * s->width * s->in);
}

size_t qd_product_scratch_bytes(const struct qd_product *p)
{
	size_t half = qd_whole_lines(x_elements(&p->spec) * sizeof(uint16_t));

	return p->winograd != NULL ? qd_winograd_scratch_bytes(p->winograd)
				   : own_scratch_bytes(p) + (p->bfloat16 || p->coarse ? 2 * half : 0);
}

static enum qd_status run_halves(
	struct qd_product *p, const float *x, const float *bias, const float *other, float *y, char *scratch)
{
	size_t n = x_elements(&p->spec);
	uint16_t *high = (uint16_t *)(scratch + own_scratch_bytes(p)),
		 *low = high + qd_whole_lines(n * sizeof(*high)) / sizeof(*high);
	enum qd_status st;

	split(n, x, high, low);
	QD_TRY(st, qd_dnnl_run(p->steps[0], high, p->high, bias, NULL, y, scratch));
	if (p->coarse)
		return QD_OK;
	QD_TRY(st, qd_dnnl_run(p->steps[1], high, p->low, NULL, NULL, y, scratch));
	QD_TRY(st, qd_dnnl_run(p->steps[2], low, p->high, NULL, other, y, scratch));
out:
	return st;
}

enum qd_status qd_product_run(struct qd_product *p, const float *x, const float *bias, const float *other, float *y, void *scratch)
{
	const struct qd_product_spec *s = &p->spec;

	enum qd_status st;

	if (p->winograd != NULL)
		return qd_winograd_run(p->winograd, x, p->high, bias, other, y, scratch);
	QD_TRY(st, p->bfloat16 || p->coarse ? run_halves(p, x, bias, other, y, scratch)
					    : qd_dnnl_run(p->steps[0], x, p->high, bias, other, y, scratch));
	if (adds_after(s))
		add_all((size_t)(s->n * s->out_height * s->out_width * s->out), other, y);
out:
	return st;
}
