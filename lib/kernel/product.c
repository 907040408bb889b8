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
#include <sys/mman.h>

struct qd_product {
	struct qd_product_spec spec;
	bool bfloat16;
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

/* oneDNN's convolutions sum onto what y holds; its matrix products take another operand. */
static bool adds_in_place(const struct qd_product_spec *spec)
{
	return spec->after == QD_AFTER_ADD && !qd_product_is_linear(spec);
}

static enum qd_status make_float(struct qd_product *p)
{
	const struct qd_dnnl_options options = { .bias = p->spec.bias,
		.sum = adds_in_place(&p->spec),
		.after = adds_in_place(&p->spec) ? QD_AFTER_NOTHING : p->spec.after };

	return qd_dnnl_new(&p->steps[0], &p->spec, &options);
}

static enum qd_status make_bfloat16(struct qd_product *p)
{
	bool in_place = adds_in_place(&p->spec);
	struct qd_dnnl_options options = { .bfloat16 = true, .sum = in_place, .bias = p->spec.bias };
	enum qd_status st;

	QD_TRY(st, qd_dnnl_new(&p->steps[0], &p->spec, &options));
	options = (struct qd_dnnl_options){ .bfloat16 = true, .sum = true, .like = p->steps[0] };
	QD_TRY(st, qd_dnnl_new(&p->steps[1], &p->spec, &options));
	options.after = in_place ? QD_AFTER_NOTHING : p->spec.after;
	QD_TRY(st, qd_dnnl_new(&p->steps[2], &p->spec, &options));
out:
	return st;
}

/* Some windows see nothing but padding: there oneDNN 2.6 forgets what it should add to. No network has such layers. */
static bool sees_only_padding(const struct qd_product_spec *s)
{
	int64_t high = (s->kernel_h - 1) * s->dilation_h, wide = (s->kernel_w - 1) * s->dilation_w;

	return s->top > high || s->bottom > high || s->left > wide || s->right > wide;
}

static bool wants_bfloat16(const struct qd_product_spec *spec)
{
	bool wanted = spec->way == QD_WAY_BFLOAT16 || (spec->way == QD_WAY_BEST && qd_dnnl_has_matrix_units());

	return wanted && !sees_only_padding(spec);
}

enum qd_status qd_product_new(struct qd_product **out, const struct qd_product_spec *spec)
{
	struct qd_product *p = calloc(1, sizeof(*p));
	enum qd_status st;

	*out = NULL;
	if (!p)
		return qd_fail(QD_ENOMEM, "out of memory for a product");
	p->spec = *spec;
	if (adds_in_place(spec) && sees_only_padding(spec))
		QD_TRY(st, qd_fail(QD_EUNSUPPORTED, "no sum onto a convolution with more padding than its kernel covers"));
	p->bfloat16 = wants_bfloat16(spec);
	if (!p->bfloat16 && qd_winograd_fits(spec))
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

enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };

static size_t pages(size_t bytes)
{
	return (bytes + PAGE - 1) / PAGE * PAGE;
}

/*
 * Memory for packed weights. Large ones begin with a huge page and end where their last ordinary page does: beside others in one
 * heap the system would fill the rest of the last huge page too.
 */
static void *weight_memory(size_t bytes)
{
	if (bytes < 2 * HUGE_PAGE)
		return aligned_alloc(64, qd_whole_lines(bytes));
	char *memory = mmap(NULL, pages(bytes) + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	size_t before = (HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE) % HUGE_PAGE;
	if (before > 0)
		(void)munmap(memory, before);
	(void)munmap(memory + before + pages(bytes), HUGE_PAGE - before);
	(void)madvise(memory + before, pages(bytes), MADV_HUGEPAGE);
	return memory + before;
}

static void weight_free(void *memory, size_t bytes)
{
	if (memory && bytes >= 2 * HUGE_PAGE)
		(void)munmap(memory, pages(bytes));
	else
		free(memory);
}

static size_t weight_bytes(const struct qd_product *p)
{
	return p->winograd ? qd_winograd_weight_bytes(p->winograd) : qd_dnnl_weight_bytes(p->steps[0]);
}

void qd_product_free(struct qd_product *p)
{
	if (!p)
		return;
	if (p->high)
		weight_free(p->high, weight_bytes(p));
	if (p->low)
		weight_free(p->low, weight_bytes(p));
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
	uint16_t *high = malloc(2 * n * sizeof(*high) + 1), *low = high + n;
	enum qd_status st;

	if (!high)
		return qd_fail(QD_ENOMEM, "out of memory for packing weights");
	split(n, w, high, low);
	QD_TRY(st, qd_dnnl_pack(p->steps[0], high, p->high));
	QD_TRY(st, qd_dnnl_pack(p->steps[0], low, p->low));
out:
	free(high);
	return st;
}

enum qd_status qd_product_pack(struct qd_product *p, const struct qd_tensor *w)
{
	size_t n = (size_t)qd_shape_elements(&w->shape), bytes = weight_bytes(p);

	const float *plain = w->data;
	float *copy = NULL;
	enum qd_status st = QD_OK;

	if (!p->high)
		p->high = weight_memory(bytes);
	if (!p->low && p->bfloat16)
		p->low = weight_memory(bytes);
	if (!p->high || (p->bfloat16 && !p->low))
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu bytes of weights", bytes));
	if (w->dtype != QD_F32 || (uintptr_t)w->data % sizeof(float) != 0) {
		plain = copy = malloc(n * sizeof(*copy) + 1);
		if (!copy)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for packing weights"));
		QD_TRY(st, to_float(w, copy));
	}
	if (p->winograd)
		QD_TRY(st, qd_winograd_pack(p->winograd, plain, p->high));
	else
		QD_TRY(st, p->bfloat16 ? pack_halves(p, plain, n) : qd_dnnl_pack(p->steps[0], plain, p->high));
out:
	free(copy);
	return st;
}

/* ---- a run ---- */

static void copy_all(size_t n, const float *from, float *to)
{
	size_t n_chunks = qd_chunks(n);

#pragma omp parallel for schedule(static) if (n >= QD_PARALLEL_MIN)
	for (size_t chunk = 0; chunk < n_chunks; chunk++) {
		size_t at = chunk * QD_CHUNK;
		memcpy(to + at, from + at, qd_min_size(QD_CHUNK, n - at) * sizeof(*to));
	}
}

enum qd_status qd_product_run(struct qd_product *p, const float *x, const float *bias, const float *other, float *y)
{
	const struct qd_product_spec *s = &p->spec;
	size_t n_x = (size_t)(s->n * s->height * s->width * s->in), n_y = (size_t)(s->n * s->out_height * s->out_width * s->out),
	       half = qd_whole_lines(n_x * sizeof(uint16_t)),
	       scratch = p->winograd ? qd_whole_lines(qd_winograd_scratch_bytes(p->winograd)) : 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < QD_COUNT(p->steps) && p->steps[i]; i++)
		if (scratch < qd_whole_lines(qd_dnnl_scratch_bytes(p->steps[i])))
			scratch = qd_whole_lines(qd_dnnl_scratch_bytes(p->steps[i]));
	char *memory = aligned_alloc(64, scratch + (p->bfloat16 ? 2 * half : 0) + 64);
	if (!memory)
		return qd_fail(QD_ENOMEM, "out of memory for a product's scratch");
	if (p->winograd) {
		QD_TRY(st, qd_winograd_run(p->winograd, x, p->high, bias, other, y, memory));
		goto out;
	}
	if (adds_in_place(s))
		copy_all(n_y, other, y);
	if (!p->bfloat16) {
		QD_TRY(st, qd_dnnl_run(p->steps[0], x, p->high, bias, other, y, memory));
		goto out;
	}
	uint16_t *high = (uint16_t *)(memory + scratch), *low = (uint16_t *)(memory + scratch + half);
	split(n_x, x, high, low);
	QD_TRY(st, qd_dnnl_run(p->steps[0], high, p->high, bias, NULL, y, memory));
	QD_TRY(st, qd_dnnl_run(p->steps[1], high, p->low, NULL, NULL, y, memory));
	QD_TRY(st, qd_dnnl_run(p->steps[2], low, p->high, NULL, other, y, memory));
out:
	free(memory);
	return st;
}
