/*
 * Products of codes. A sum of (q_x - zero) q_w is made of sums of bytes, which oneDNN multiplies exactly: with codes cut into
 * planes, each of bytes and worth a power of two,
 *
 *   q_x = 256 x_1 + x_0                   u8; 16384 x_2 + 128 x_1 + x_0 where bytes are not summed exactly (qd_dnnl_sums_bytes)
 *   q_w = 256 w_1 + w_0 + offset          s8; offset 128 for codes of 16 bits: two such planes hold -32896 to 32639
 *   sum = unit_x unit_w (x_i w_j) + ... + offset (sum of q_x) - zero (sum of q_w)
 *
 * A double holds each of these sums: they stay below 2^53. All products are matrix products over rows: the pixels below a kernel
 * are gathered into a row first, those around the image as zero points, so that every row is made of the same weights.
 *
 * Rows are taken in blocks by threads, so that what lies between codes and the caller's rows stays in a thread's cache. Few rows are
 * one block, whose columns the threads share. Short sums (short_sums.c) need neither planes nor blocks.
 */
#include "lib/kernel/dnnl.h"
#include "lib/kernel/kernel_internal.h"
#include "lib/kernel/short_sums.h"

#include <stdlib.h>
#include <string.h>

enum {
	X_PLANES = 3,
	W_PLANES = 2,
	SUMS = X_PLANES * W_PLANES,
	MOST_TERMS = INT32_MAX / (255 * 128),
	LEAST_ROWS = 128, /* of a block: so often at least a weight is used once it has been read */
	MOST_ROWS = 256,
	SHORT = 6,      /* terms, for each pair of planes, that doubles add up sooner */
	WIDE_ROWS = 64, /* for each thread: with fewer, weights are what takes time to read */
	BLOCK_BYTES = 2 << 20,
	SINK_FLOATS = 4096,
	LEAST_WORK = 16 << 20, /* multiplications that are worth a second thread */
};

/* Some rows or columns at a time, the last time what is left: `each` of `all`, `times` times. */
struct cut {
	size_t all, each, times;
};

static struct cut cut_into(size_t all, size_t each)
{
	return (struct cut){ all, each, (all + each - 1) / each };
}

static size_t cut_size(const struct cut *c, size_t i)
{
	return i + 1 < c->times ? c->each : c->all - i * c->each;
}

struct qd_integer_product {
	struct qd_integer_spec spec;
	size_t terms;       /* of a sum */
	bool gather, split; /* rows; into planes of 7 bits */
	size_t planes_x;    /* that are multiplied */
	size_t planes_w;
	int offset;
	size_t groups; /* of columns, of short sums; 0: others */
	struct cut rows, columns;
	size_t threads;
	struct qd_dnnl *kernels[2][2]; /* for rows.each or what is left, columns.each or what is left */
	void *packed;                  /* [planes_w][columns.times], or f64 for short sums */
	size_t packed_bytes;
	double *weight_sums; /* [out]; not of short sums */
};

static bool is_wide(const struct qd_integer_product *p)
{
	return p->columns.times > 1;
}

static struct qd_dnnl **kernel_at(struct qd_integer_product *p, size_t block, size_t chunk)
{
	return &p->kernels[cut_size(&p->rows, block) != p->rows.each][cut_size(&p->columns, chunk) != p->columns.each];
}

/* ---- sizes ---- */

/* Rows that the sink takes at once. */
static size_t sink_rows(const struct qd_integer_product *p)
{
	size_t out = (size_t)p->spec.shape.out;

	return out < SINK_FLOATS ? SINK_FLOATS / out : 1;
}

static void choose_cuts(struct qd_integer_product *p)
{
	const struct qd_product_spec *s = &p->spec.shape;
	size_t rows = (size_t)(s->n * s->out_height * s->out_width), out = (size_t)s->out, sums = p->planes_x * p->planes_w,
	       row_bytes = (p->gather || p->split ? p->planes_x * p->terms : 0) + sums * out * sizeof(int32_t),
	       threads = (size_t)qd_threads();

	p->threads = (double)rows * (double)out * (double)p->terms * (double)sums < (double)LEAST_WORK ? 1 : threads;
	p->columns = cut_into(out, out);
	if (p->groups > 0) {
		p->rows = cut_into(rows, (sink_rows(p) + QD_SUM_ROWS - 1) / QD_SUM_ROWS * QD_SUM_ROWS);
		return;
	}
	if (rows < WIDE_ROWS * p->threads) {
		p->rows = cut_into(rows, rows);
		p->columns = cut_into(out, ((out + p->threads - 1) / p->threads + 31) / 32 * 32);
		return;
	}
	size_t fit = BLOCK_BYTES / row_bytes, most = fit < LEAST_ROWS ? LEAST_ROWS : qd_min_size(fit, MOST_ROWS),
	       times = (rows + most - 1) / most;
	/* Each thread gets as many. */
	times = (times + p->threads - 1) / p->threads * p->threads;
	p->rows = cut_into(rows, (rows + times - 1) / times);
}

static enum qd_status make_kernels(struct qd_integer_product *p)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < 4; i++) {
		size_t block = i / 2 ? p->rows.times - 1 : 0, chunk = i % 2 ? p->columns.times - 1 : 0;
		struct qd_dnnl **to = kernel_at(p, block, chunk);
		const struct qd_dnnl_options options = { .codes = true, .like = *kernel_at(p, 0, chunk) };
		const struct qd_product_spec spec = qd_linear_spec(
			(int64_t)cut_size(&p->rows, block), (int64_t)p->terms, (int64_t)cut_size(&p->columns, chunk));
		if (*to == NULL)
			QD_TRY(st, qd_dnnl_new(to, &spec, &options));
	}
out:
	return st;
}

enum qd_status qd_integer_product_new(struct qd_integer_product **out, const struct qd_integer_spec *spec)
{
	const struct qd_product_spec *s = &spec->shape;
	struct qd_integer_product *p = calloc(1, sizeof(*p));
	enum qd_status st;

	*out = NULL;
	if (p == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a product");
	p->spec = *spec;
	p->terms = (size_t)(s->in * s->kernel_h * s->kernel_w);
	if (p->terms > MOST_TERMS)
		QD_TRY(st, qd_fail(QD_EUNSUPPORTED, "sums of %zu products of codes are too long, %d are possible", p->terms,
				   MOST_TERMS));
	p->gather = !qd_product_is_linear(s);
	p->split = !qd_dnnl_sums_bytes();
	p->planes_x = (spec->x == QD_FORM_U16 ? 2 : 1) + p->split;
	p->planes_w = spec->w_bits > 8 ? 2 : 1;
	p->offset = spec->w_bits == 16 ? 128 : 0;
	if (!p->gather && p->terms <= SHORT * p->planes_x * p->planes_w)
		p->groups = ((size_t)s->out + QD_SUM_GROUP - 1) / QD_SUM_GROUP;
	choose_cuts(p);
	if (p->groups == 0) {
		p->weight_sums = qd_large_alloc((size_t)s->out * sizeof(*p->weight_sums));
		if (p->weight_sums == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a product"));
		QD_TRY(st, make_kernels(p));
	}
	*out = p;
	p = NULL;
out:
	qd_integer_product_free(p);
	return st;
}

void qd_integer_product_free(struct qd_integer_product *p)
{
	if (p == NULL)
		return;
	for (size_t i = 0; i < 4; i++)
		qd_dnnl_free(p->kernels[i / 2][i % 2]);
	qd_large_free(p->packed, p->packed_bytes);
	qd_large_free(p->weight_sums, (size_t)p->spec.shape.out * sizeof(*p->weight_sums));
	free(p);
}

/* ---- weights ---- */

/* Bytes of one plane of the weights of all chunks but the last, which are equal, of one of them. */
static size_t chunk_bytes(struct qd_integer_product *p)
{
	return qd_whole_lines(qd_dnnl_weight_bytes(*kernel_at(p, 0, 0)));
}

size_t qd_integer_product_weight_bytes(const struct qd_integer_product *p)
{
	return p->packed_bytes;
}

/* One plane of n codes less their offset, each `step` from the last. */
QD_VECTOR static void weight_plane(size_t n, const int16_t *restrict w, size_t step, int offset, size_t plane, int8_t *restrict to)
{
	for (size_t i = 0; i < n; i++) {
		int code = w[i * step] - offset, low = (int8_t)(code & 255);
		to[i] = (int8_t)(plane == 0 ? low : (code - low) >> 8);
	}
}

/* One plane of the weights, [out, in, pixels] -> [out, pixels, in], the order of a gathered row. */
static void order_weights(const struct qd_integer_product *p, const int16_t *w, size_t plane, int8_t *to)
{
	size_t out = (size_t)p->spec.shape.out, in = (size_t)p->spec.shape.in, pixels = p->terms / in;

#pragma omp parallel for schedule(static) if (out * p->terms >= QD_PARALLEL_MIN)
	for (size_t o = 0; o < out; o++)
		for (size_t k = 0; k < pixels; k++)
			weight_plane(in, w + o * p->terms + k, pixels, p->offset, plane, to + o * p->terms + k * in);
}

QD_VECTOR static int64_t sum_codes(size_t n, const int16_t *w)
{
	int64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += w[i];
	return sum;
}

static void sum_weights(const struct qd_integer_product *p, const int16_t *w)
{
	size_t out = (size_t)p->spec.shape.out;

#pragma omp parallel for schedule(static) if (out * p->terms >= QD_PARALLEL_MIN)
	for (size_t o = 0; o < out; o++)
		p->weight_sums[o] = (double)sum_codes(p->terms, w + o * p->terms);
}

/* [out, terms] -> [groups, terms, columns of a group]; columns past the last are zeros. */
static void order_short(const struct qd_integer_product *p, const int16_t *w, double *to)
{
	for (size_t column = 0; column < p->groups * QD_SUM_GROUP; column++)
		for (size_t k = 0; k < p->terms; k++)
			to[(column / QD_SUM_GROUP * p->terms + k) * QD_SUM_GROUP + column % QD_SUM_GROUP] =
				column < (size_t)p->spec.shape.out ? w[column * p->terms + k] : 0;
}

static enum qd_status pack_short(struct qd_integer_product *p, const int16_t *w)
{
	size_t bytes = p->groups * p->terms * QD_SUM_GROUP * sizeof(double);

	if (p->packed == NULL)
		p->packed = qd_large_alloc(bytes);
	if (p->packed == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %zu bytes of weights", bytes);
	p->packed_bytes = bytes;
	order_short(p, w, p->packed);
	return QD_OK;
}

enum qd_status qd_integer_product_pack(struct qd_integer_product *p, const int16_t *w)
{
	if (p->groups > 0)
		return pack_short(p, w);

	size_t n = p->terms * (size_t)p->spec.shape.out, bytes = p->planes_w * p->columns.times * chunk_bytes(p);
	int8_t *plain = qd_large_alloc(n);
	enum qd_status st = QD_OK;

	if (p->packed == NULL)
		p->packed = qd_large_alloc(bytes);
	if (plain == NULL || p->packed == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu bytes of weights", bytes));
	p->packed_bytes = bytes;
	for (size_t plane = 0; plane < p->planes_w; plane++) {
		order_weights(p, w, plane, plain);
		for (size_t chunk = 0; chunk < p->columns.times; chunk++)
			QD_TRY(st, qd_dnnl_pack(*kernel_at(p, 0, chunk), plain + chunk * p->columns.each * p->terms,
					   (char *)p->packed + (plane * p->columns.times + chunk) * chunk_bytes(p)));
	}
	sum_weights(p, w);
out:
	qd_large_free(plain, n);
	return st;
}

/* ---- memory of a run: for each thread oneDNN's and some rows; a block's planes and sums for each thread, or for all ---- */

static size_t own_bytes(const struct qd_integer_product *p)
{
	size_t most = 0;

	for (size_t i = 0; i < 4; i++) {
		const struct qd_dnnl *kernel = p->kernels[i / 2][i % 2];
		if (kernel != NULL && most < qd_dnnl_scratch_bytes(kernel))
			most = qd_dnnl_scratch_bytes(kernel);
	}
	return qd_whole_lines(most);
}

static size_t rows_bytes(const struct qd_integer_product *p)
{
	return qd_whole_lines(sink_rows(p) * (size_t)p->spec.shape.out * sizeof(float));
}

static size_t thread_bytes(const struct qd_integer_product *p)
{
	return own_bytes(p) + rows_bytes(p) + (p->offset != 0 ? qd_whole_lines(sink_rows(p) * sizeof(double)) : 0);
}

static size_t plane_bytes(const struct qd_integer_product *p)
{
	return p->gather || p->split ? qd_whole_lines(p->rows.each * p->terms) : 0;
}

static size_t block_bytes(const struct qd_integer_product *p)
{
	return p->planes_x * plane_bytes(p) +
	       qd_whole_lines(p->planes_x * p->planes_w * p->rows.each * (size_t)p->spec.shape.out * sizeof(int32_t));
}

/* Of a thread: codes and sums as doubles, and rows. */
static size_t short_bytes(const struct qd_integer_product *p)
{
	return qd_whole_lines(p->rows.each * p->terms * sizeof(double)) + QD_SUM_ROWS * p->groups * QD_SUM_GROUP * sizeof(double) +
	       qd_whole_lines(p->rows.each * (size_t)p->spec.shape.out * sizeof(float));
}

size_t qd_integer_product_scratch_bytes(const struct qd_integer_product *p)
{
	if (p->groups > 0)
		return p->threads * short_bytes(p);
	return p->threads * thread_bytes(p) + (is_wide(p) ? 1 : p->threads) * block_bytes(p);
}

/* ---- a run ---- */

struct run {
	struct qd_integer_product *p;
	const struct qd_numbers *x;
	const float *w_scale, *bias;
	qd_rows_sink sink;
	void *context;
	char *scratch;
};

/* Rows being multiplied: their planes, as rows of `terms` bytes, and sums. */
struct block {
	size_t first, n;
	const uint8_t *x[X_PLANES];
	uint8_t *planes;
	int32_t *sums; /* of each chunk of columns [planes_x][planes_w][n][columns] */
};

/* The block's memory is a thread's, or, of the one that all threads work on, behind that of all threads. */
static struct block block_at(const struct run *r, size_t thread, size_t i)
{
	const struct qd_integer_product *p = r->p;
	char *at = r->scratch + p->threads * thread_bytes(p) + (is_wide(p) ? 0 : thread) * block_bytes(p);
	struct block b = { .first = i * p->rows.each,
		.n = cut_size(&p->rows, i),
		.planes = (uint8_t *)at,
		.sums = (int32_t *)(at + p->planes_x * plane_bytes(p)) };
	bool as_it_is = !p->gather && !p->split;

	for (size_t k = 0; k < p->planes_x; k++)
		b.x[k] =
			as_it_is ? (const uint8_t *)r->x->at + k * r->x->plane + b.first * p->terms : b.planes + k * plane_bytes(p);
	return b;
}

/* The pixels below the kernel of a row of the result, [kernel_h, kernel_w, in]; `around`: the bytes of those around the image. */
static void gather_row(const struct qd_product_spec *s, const uint8_t *image, int64_t h, int64_t v, uint8_t around, uint8_t *to)
{
	size_t in = (size_t)s->in;

	for (int64_t i = 0; i < s->kernel_h; i++) {
		int64_t y = h * s->stride_h + i * s->dilation_h - s->top, left = v * s->stride_w - s->left;
		const uint8_t *line = image + y * s->width * s->in;
		if (y < 0 || y >= s->height) {
			memset(to, around, (size_t)s->kernel_w * in);
		} else if (s->dilation_w == 1 && left >= 0 && left + s->kernel_w <= s->width) {
			memcpy(to, line + left * s->in, (size_t)s->kernel_w * in);
		} else {
			for (int64_t j = 0; j < s->kernel_w; j++) {
				int64_t x = left + j * s->dilation_w;
				if (x < 0 || x >= s->width)
					memset(to + (size_t)j * in, around, in);
				else
					memcpy(to + (size_t)j * in, line + x * s->in, in);
			}
		}
		to += (size_t)s->kernel_w * in;
	}
}

/* 16 or 8 bits into planes of 7; each plane may be where hi or lo is. */
QD_VECTOR static void split_u16(size_t n, const uint8_t *hi, const uint8_t *lo, uint8_t *p0, uint8_t *p1, uint8_t *p2)
{
#pragma omp simd
	for (size_t i = 0; i < n; i++) {
		uint8_t h = hi[i], l = lo[i];
		p0[i] = l & 127;
		p1[i] = (uint8_t)((h << 1 | l >> 7) & 127);
		p2[i] = h >> 6;
	}
}

QD_VECTOR static void split_u8(size_t n, const uint8_t *q, uint8_t *p0, uint8_t *p1)
{
#pragma omp simd
	for (size_t i = 0; i < n; i++) {
		uint8_t l = q[i];
		p0[i] = l & 127;
		p1[i] = l >> 7;
	}
}

/* Rows [from, to) of a block as the kernels take them. */
static void prepare(const struct run *r, const struct block *b, size_t from, size_t to)
{
	const struct qd_integer_product *p = r->p;
	const struct qd_product_spec *s = &p->spec.shape;
	size_t n_bytes = p->spec.x == QD_FORM_U16 ? 2 : 1, pixels = (size_t)(s->out_height * s->out_width), at = from * p->terms;
	const uint8_t *bytes[2];
	uint8_t *planes[X_PLANES] = { NULL };

	if (!p->gather && !p->split)
		return;
	for (size_t k = 0; k < p->planes_x; k++)
		planes[k] = b->planes + k * plane_bytes(p) + at;
	for (size_t k = 0; k < n_bytes; k++) {
		const uint8_t *image = (const uint8_t *)r->x->at + k * r->x->plane;
		uint8_t around = (uint8_t)((uint32_t)r->x->zero >> 8 * (n_bytes - 1 - k));
		bytes[k] = p->gather ? planes[k] : image + b->first * p->terms + at;
		for (size_t i = from; p->gather && i < to; i++) {
			size_t row = b->first + i, in_image = row % pixels;
			gather_row(s, image + row / pixels * (size_t)(s->height * s->width * s->in),
				(int64_t)in_image / s->out_width, (int64_t)in_image % s->out_width, around,
				planes[k] + (i - from) * p->terms);
		}
	}
	if (p->split && n_bytes == 2)
		split_u16((to - from) * p->terms, bytes[0], bytes[1], planes[0], planes[1], planes[2]);
	else if (p->split)
		split_u8((to - from) * p->terms, bytes[0], planes[0], planes[1]);
}

static int32_t *sums_at(const struct qd_integer_product *p, const struct block *b, size_t chunk)
{
	return b->sums + chunk * p->columns.each * b->n * p->planes_x * p->planes_w;
}

static enum qd_status multiply(const struct run *r, const struct block *b, size_t thread, size_t chunk)
{
	struct qd_integer_product *p = r->p;
	struct qd_dnnl_codes products[SUMS];
	int32_t *to = sums_at(p, b, chunk);
	size_t n = 0;

	for (size_t i = 0; i < p->planes_x; i++)
		for (size_t j = 0; j < p->planes_w; j++, n++)
			products[n] = (struct qd_dnnl_codes){ b->x[i],
				(const char *)p->packed + (j * p->columns.times + chunk) * chunk_bytes(p),
				to + n * b->n * cut_size(&p->columns, chunk) };
	return qd_dnnl_run_codes(*kernel_at(p, b->first / p->rows.each, chunk), n, products, r->scratch + thread * thread_bytes(p));
}

/* What the planes' sums are worth in the whole. */
static size_t sum_units(const struct qd_integer_product *p, double unit[SUMS])
{
	static const double bytes[] = { 256, 1 }, split[] = { 1, 128, 16384 }, w[] = { 1, 256 };
	const double *x = p->split ? split : p->spec.x == QD_FORM_U16 ? bytes : bytes + 1;

	for (size_t i = 0; i < p->planes_x; i++)
		for (size_t j = 0; j < p->planes_w; j++)
			unit[i * p->planes_w + j] = x[i] * w[j];
	return p->planes_x * p->planes_w;
}

/* Sums of some rows in n columns of one chunk, each plane's `apart` from the last. */
struct sums {
	size_t rows, n, planes, apart;
	const int32_t *at;
	const double *unit, *starts, *weight_sums; /* starts [rows] or NULL for zeros */
	double zero;
	float x_scale;
	const float *w_scale, *bias;
	float *y; /* rows `width` apart */
	size_t width;
};

static inline __attribute__((always_inline)) void add_up_planes(const struct sums *s, size_t planes)
{
	const double *restrict weight_sums = s->weight_sums;
	const float *restrict w_scale = s->w_scale, *restrict bias = s->bias;
	double unit[SUMS], zero = s->zero;
	float x_scale = s->x_scale;
	size_t apart = s->apart, n = s->n;

	for (size_t k = 0; k < planes; k++)
		unit[k] = s->unit[k];
	for (size_t r = 0; r < s->rows; r++) {
		const int32_t *restrict at = s->at + r * n;
		float *restrict y = s->y + r * s->width;
		double start = s->starts != NULL ? s->starts[r] : 0;
		for (size_t i = 0; i < n; i++) {
			double sum = start - zero * weight_sums[i];
			for (size_t k = 0; k < planes; k++)
				sum += unit[k] * (double)at[k * apart + i];
			y[i] = (float)sum * (x_scale * w_scale[i]);
		}
		if (bias != NULL)
			for (size_t i = 0; i < n; i++)
				y[i] += bias[i];
	}
}

/* A loop for each number of planes, so that it is known where vectors are made of it. */
QD_VECTOR static void add_up(const struct sums *s)
{
	switch (s->planes) {
	case 1:
		add_up_planes(s, 1);
		break;
	case 2:
		add_up_planes(s, 2);
		break;
	case 3:
		add_up_planes(s, 3);
		break;
	case 4:
		add_up_planes(s, 4);
		break;
	default:
		add_up_planes(s, SUMS);
		break;
	}
}

QD_VECTOR static uint32_t sum_bytes(size_t n, const uint8_t *x)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += x[i];
	return sum;
}

/* Rows [from, to) of a block to the sink. */
static void finish(const struct run *r, const struct block *b, size_t thread, size_t from, size_t to)
{
	const struct qd_integer_product *p = r->p;
	size_t out = (size_t)p->spec.shape.out, at_once = sink_rows(p);
	float *rows = (float *)(r->scratch + thread * thread_bytes(p) + own_bytes(p));
	double *starts = (double *)((char *)rows + rows_bytes(p)), unit[SUMS];
	struct sums s = { .planes = sum_units(p, unit),
		.unit = unit,
		.starts = p->offset != 0 ? starts : NULL,
		.zero = (double)r->x->zero,
		.x_scale = r->x->scale,
		.width = out };

	for (size_t i = from; i < to; i += s.rows) {
		s.rows = qd_min_size(at_once, to - i);
		for (size_t row = 0; p->offset != 0 && row < s.rows; row++) {
			starts[row] = 0;
			for (size_t k = 0; k < p->planes_x; k++)
				starts[row] += (double)p->offset * unit[k * p->planes_w] *
					       (double)sum_bytes(p->terms, b->x[k] + (i + row) * p->terms);
		}
		for (size_t chunk = 0; chunk < p->columns.times; chunk++) {
			size_t column = chunk * p->columns.each;
			s.n = cut_size(&p->columns, chunk);
			s.apart = b->n * s.n;
			s.at = sums_at(p, b, chunk) + i * s.n;
			s.weight_sums = p->weight_sums + column;
			s.w_scale = r->w_scale + column;
			s.bias = r->bias != NULL ? r->bias + column : NULL;
			s.y = rows + column;
			add_up(&s);
		}
		r->sink(r->context, b->first + i, s.rows, rows);
	}
}

/* All rows in blocks, each a thread's from codes to rows. */
static enum qd_status run_blocks(const struct run *r, size_t thread)
{
	const struct qd_integer_product *p = r->p;
	enum qd_status st = QD_OK;

#pragma omp for schedule(dynamic)
	for (size_t i = 0; i < p->rows.times; i++) {
		struct block b = block_at(r, thread, i);

		if (st != QD_OK)
			continue;
		prepare(r, &b, 0, b.n);
		st = multiply(r, &b, thread, 0);
		if (st == QD_OK)
			finish(r, &b, thread, 0, b.n);
	}
	return st;
}

/* The one block, in three steps that all threads share. */
static enum qd_status run_wide(const struct run *r, size_t thread, bool *failed)
{
	const struct qd_integer_product *p = r->p;
	struct block b = block_at(r, thread, 0);
	struct cut rows = cut_into(b.n, sink_rows(p));
	enum qd_status st = QD_OK;

#pragma omp for schedule(static)
	for (size_t i = 0; i < rows.times; i++)
		prepare(r, &b, i * rows.each, i * rows.each + cut_size(&rows, i));
#pragma omp for schedule(static)
	for (size_t i = 0; i < p->columns.times; i++) {
		enum qd_status one = multiply(r, &b, thread, i);

		if (one != QD_OK) {
			st = one;
#pragma omp atomic write
			*failed = true;
		}
	}
	if (!*failed) {
#pragma omp for schedule(static)
		for (size_t i = 0; i < rows.times; i++)
			finish(r, &b, thread, i * rows.each, i * rows.each + cut_size(&rows, i));
	}
	return st;
}

/* ---- a run of short sums ---- */

QD_VECTOR static void codes_u8(size_t n, const uint8_t *restrict q, double zero, double *restrict x)
{
	for (size_t i = 0; i < n; i++)
		x[i] = (double)q[i] - zero;
}

QD_VECTOR static void codes_u16(size_t n, const uint8_t *restrict hi, const uint8_t *restrict lo, double zero, double *restrict x)
{
	for (size_t i = 0; i < n; i++)
		x[i] = (double)((int32_t)hi[i] << 8 | lo[i]) - zero;
}

QD_VECTOR static void scale_sums(size_t n, const double *restrict sums, float x_scale, const float *restrict w_scale,
	const float *restrict bias, float *restrict y)
{
	for (size_t i = 0; i < n; i++)
		y[i] = (float)sums[i] * (x_scale * w_scale[i]);
	if (bias != NULL)
		for (size_t i = 0; i < n; i++)
			y[i] += bias[i];
}

static void run_short(const struct run *r, size_t thread)
{
	const struct qd_integer_product *p = r->p;
	size_t out = (size_t)p->spec.shape.out, width = p->groups * QD_SUM_GROUP;
	double *x = (double *)(r->scratch + thread * short_bytes(p)),
	       *sums = x + qd_whole_lines(p->rows.each * p->terms * sizeof(*x)) / sizeof(*x);
	float *rows = (float *)(sums + QD_SUM_ROWS * width);

#pragma omp for schedule(static)
	for (size_t i = 0; i < p->rows.times; i++) {
		size_t first = i * p->rows.each, n = cut_size(&p->rows, i);
		const uint8_t *q = (const uint8_t *)r->x->at + first * p->terms;
		if (p->spec.x == QD_FORM_U16)
			codes_u16(n * p->terms, q, q + r->x->plane, (double)r->x->zero, x);
		else
			codes_u8(n * p->terms, q, (double)r->x->zero, x);
		for (size_t k = 0; k < n; k++) {
			if (k % QD_SUM_ROWS == 0)
				qd_short_sums(
					qd_min_size(QD_SUM_ROWS, n - k), p->terms, p->groups, x + k * p->terms, p->packed, sums);
			scale_sums(out, sums + k % QD_SUM_ROWS * width, r->x->scale, r->w_scale, r->bias, rows + k * out);
		}
		r->sink(r->context, first, n, rows);
	}
}

enum qd_status qd_integer_product_run(struct qd_integer_product *p, const struct qd_numbers *x, const float *w_scale,
	const float *bias, qd_rows_sink sink, void *context, void *scratch)
{
	const struct run r = { p, x, w_scale, bias, sink, context, scratch };
	size_t threads = qd_min_size(p->threads, (size_t)qd_threads());
	enum qd_status st = QD_OK;
	bool failed = false;

#pragma omp parallel num_threads((int)threads)
	{
		size_t thread = (size_t)qd_thread();

		/* The library's own parallel regions have one thread each; this holds within this region only. */
		qd_use_threads(1);
		enum qd_status one = QD_OK;
		if (p->groups > 0)
			run_short(&r, thread);
		else
			one = is_wide(p) ? run_wide(&r, thread, &failed) : run_blocks(&r, thread);
		if (one != QD_OK)
#pragma omp critical
			st = one;
	}
	/* The message is another thread's. */
	return st == QD_OK ? QD_OK : qd_fail(st, "oneDNN cannot multiply codes (status %d)", (int)st);
}
