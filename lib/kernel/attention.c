/*
 * Attention in tiles that stay in cache (Dao et al. 2022, "FlashAttention", algorithms 1 and 4; written here for CPU vectors):
 *
 *   forward, per block of query rows:      m = -inf, l = 0, o = 0
 *     per block of keys:  s = scale q k^T;  m' = max(m, rowmax s);  p = exp(s - m');  f = exp(m - m')
 *                         l = f l + rowsum p;  o = f o + p v;  m = m'
 *     out = o / l,  logsum = m + log l
 *   with grids, per block of query rows:   s = q k^T for all keys;  s = round(s);  s = round(scale s);  m = rowmax s
 *                         p = exp(s - m);  p = round(p / rowsum p);  out = p v
 *   backward, per block of keys and of query rows:   p = exp(scale q k^T - logsum),  D = rowsum(dout out)
 *     dv += p^T dout;   ds = scale p (dout v^T - D);   dq += ds k;   dk += ds^T q
 *
 * Every product is the same loop, multiply_tile: some rows of the left operand against panels of 16 columns of the right one, sums
 * held in registers: 8 rows and up to 3 panels where there are 32 registers of a panel's width, else 6 rows and one. Right operands
 * are packed into panels [k][16], zero beyond the last column, so that buffers of ours have a multiple of 16 columns and no product
 * has a remainder. Keys and values are packed once per head and thread.
 *
 * Letters: D head size of q and k, E of v; rows are queries, columns are keys.
 */
#include "lib/kernel/vector.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PANEL = QD_LANES, QUERY_BLOCK = 96, KEY_BLOCK = 512 };
/* Bytes of whole rows of scores: of one thread, so that they stay in its second cache, and the most of all threads together. */
enum { CACHED_SCORES = 1 << 20, MOST_SCORES = 64 << 20 };
/* Rows and panels of a tile: most, and where registers are half as wide and half as many. */
enum { ROWS = 8, PANELS = 3, NARROW_ROWS = 6 };

/* Whether a vector is one of 32 registers. */
static bool has_wide_registers(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
	return __builtin_cpu_supports("avx512f");
#else
	return false;
#endif
}

static size_t panels(int64_t columns)
{
	return ((size_t)columns + PANEL - 1) / PANEL;
}

static size_t padded(int64_t columns)
{
	return panels(columns) * PANEL;
}

/* A left operand: element (i, j) is at[i * row + j * column], so that a transpose is a swap of two numbers. */
struct left {
	const float *at;
	int64_t row, column;
};

/* c[rows, 16 n_panels] (row length ldc) = or += a[rows, k] b; rows <= most_rows. The last two numbers are constants where this is
 * called, so that loops over them unroll and sums stay in registers. */
INLINE void multiply_tile(
	struct left a, size_t rows, size_t k, const float *b, float *c, size_t ldc, bool add, size_t most_rows, size_t n_panels)
{
	const float *row[ROWS];
	vec sum[ROWS][PANELS];

	for (size_t i = 0; i < most_rows; i++) {
		/* A short tile computes its last row again rather than branch. */
		row[i] = a.at + (int64_t)qd_min_size(i, rows - 1) * a.row;
		for (size_t p = 0; p < n_panels; p++)
			sum[i][p] = (vec){ 0 };
	}
	for (size_t j = 0; j < k; j++) {
		vec right[PANELS];
		for (size_t p = 0; p < n_panels; p++)
			right[p] = load(b + (p * k + j) * PANEL);
		for (size_t i = 0; i < most_rows; i++)
			for (size_t p = 0; p < n_panels; p++)
				sum[i][p] += row[i][(int64_t)j * a.column] * right[p];
	}
	for (size_t i = 0; i < rows; i++)
		for (size_t p = 0; p < n_panels; p++) {
			float *to = c + i * ldc + p * PANEL;
			store(to, add ? load(to) + sum[i][p] : sum[i][p]);
		}
}

/* All rows against some panels. */
INLINE void multiply_panels(
	struct left a, size_t rows, size_t k, const float *b, float *c, size_t ldc, bool add, size_t most_rows, size_t n_panels)
{
	for (size_t i = 0; i < rows; i += most_rows) {
		struct left part = { a.at + (int64_t)i * a.row, a.row, a.column };
		multiply_tile(part, qd_min_size(most_rows, rows - i), k, b, c + i * ldc, ldc, add, most_rows, n_panels);
	}
}

/* c[rows, columns] = or += a[rows, k] b[k, columns]; b packed, c with padded(columns) columns. */
INLINE void multiply(bool wide, struct left a, size_t rows, size_t k, const float *b, size_t columns, float *c, bool add)
{
	size_t ldc = padded((int64_t)columns), left = panels((int64_t)columns), at = 0;

	for (; !wide && left > 0; left--, at += PANEL)
		multiply_panels(a, rows, k, b + at * k, c + at, ldc, add, NARROW_ROWS, 1);
	for (; left >= 3 && left != 4; left -= 3, at += 3 * PANEL)
		multiply_panels(a, rows, k, b + at * k, c + at, ldc, add, ROWS, 3);
	for (; left >= 2; left -= 2, at += 2 * PANEL)
		multiply_panels(a, rows, k, b + at * k, c + at, ldc, add, ROWS, 2);
	if (left > 0)
		multiply_panels(a, rows, k, b + at * k, c + at, ldc, add, ROWS, 1);
}

/* One panel of b[k, columns]: its `columns` <= PANEL first columns, zeros behind them. */
static void pack_panel(struct left b, size_t k, size_t columns, float *to)
{
	if (columns == PANEL && b.column == 1) {
		for (size_t i = 0; i < k; i++)
			memcpy(to + i * PANEL, b.at + (int64_t)i * b.row, PANEL * sizeof(*to));
		return;
	}
	if (columns < PANEL)
		memset(to, 0, k * PANEL * sizeof(*to));
	for (size_t j = 0; j < columns; j++)
		for (size_t i = 0; i < k; i++)
			to[i * PANEL + j] = b.at[(int64_t)i * b.row + (int64_t)j * b.column];
}

/* b[k, columns] -> panels; element (i, j) is at[i * row + j * column]. */
static void pack(struct left b, size_t k, size_t columns, float *to)
{
	for (size_t first = 0; first < columns; first += PANEL) {
		struct left part = { b.at + (int64_t)first * b.column, b.row, b.column };
		pack_panel(part, k, qd_min_size(PANEL, columns - first), to + first * k);
	}
}

/* Row of scores s[n] -> exp(scale s - shift), zero beyond n up to the padding; returns the sum. */
INLINE float exponentials(float *s, size_t n, float scale, float shift)
{
	const float log2_e = 1.44269504089f, by = scale * log2_e, less = shift * log2_e;
	size_t j = 0;
	vec sum = { 0 }, e;

	for (; j + PANEL <= n; j += PANEL) {
		e = exponential(load(s + j) * by - less);
		store(s + j, e);
		sum += e;
	}
	if (j < n) {
		e = exponential(load(s + j) * by - less);
		for (size_t i = n - j; i < PANEL; i++)
			e[i] = 0.0f;
		store(s + j, e);
		sum += e;
	}
	return sum_of(sum);
}

INLINE float largest(const float *s, size_t n)
{
	vec best[4]; /* so that no comparison waits for the one before */
	float most = s[0];
	size_t j = 0;

	for (size_t i = 0; i < QD_COUNT(best); i++)
		best[i] = all(most);
	for (; j + QD_COUNT(best) * PANEL <= n; j += QD_COUNT(best) * PANEL)
		for (size_t i = 0; i < QD_COUNT(best); i++) {
			vec x = load(s + j + i * PANEL);
			best[i] = choose(x > best[i], x, best[i]);
		}
	for (size_t i = 1; i < QD_COUNT(best); i++)
		best[0] = choose(best[i] > best[0], best[i], best[0]);
	for (size_t i = 0; i < PANEL; i++)
		most = best[0][i] > most ? best[0][i] : most;
	for (; j < n; j++)
		most = s[j] > most ? s[j] : most;
	return most;
}

INLINE void scale_row(float *o, size_t n, float by)
{
	for (size_t j = 0; j < n; j += PANEL)
		store(o + j, load(o + j) * by);
}

/* ---- rounding to a grid ---- */

/*
 * What qd_numbers_round does, as a loop that costs less than the products everywhere: some processors divide slowly. x is clamped
 * first, to the grid's ends as floats: x / scale rounds to an end there, and what lies between is small enough for `rounder`. The
 * quotient is made of products: q = x hi + x lo, where hi + lo is 1 / scale, is wrong by less than its last place, and q + (x - q
 * scale) hi is then the quotient rounded correctly (Markstein 1990), as long as no remainder that matters is a denormal.
 */
struct rounding {
	enum { KEPT, DIVIDED, MULTIPLIED } way;
	float scale, low, high, inverse_hi, inverse_lo;
};

/* Whether a fused multiply-add is one instruction in the functions that are compiled several times. */
static bool has_fused(void)
{
#if defined(FP_FAST_FMAF)
	return true;
#elif defined(__x86_64__) && defined(__GNUC__)
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
	return false;
#endif
}

static struct rounding rounding_to(const struct qd_numbers *grid)
{
	struct rounding r = { .way = KEPT };

	if (grid == NULL)
		return r;
	r.way = has_fused() && grid->scale > 0x1p-60f && grid->scale < 0x1p+60f ? MULTIPLIED : DIVIDED;
	r.scale = grid->scale;
	r.inverse_hi = 1.0f / grid->scale;
	r.inverse_lo = (float)(1 / (double)grid->scale - (double)r.inverse_hi);
	r.low = (0.0f - grid->zero) * grid->scale;
	r.high = (grid->high - grid->zero) * grid->scale;
	return r;
}

/* s[n] = s * by, rounded. */
INLINE void round_row(const struct rounding *to, size_t n, float by, float *s)
{
	const float rounder = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
	const float scale = to->scale, low = to->low, high = to->high, hi = to->inverse_hi, lo = to->inverse_lo;

	switch (to->way) {
	case KEPT:
		for (size_t j = 0; j < n; j++)
			s[j] *= by;
		break;
	case DIVIDED:
		for (size_t j = 0; j < n; j++) {
			float x = s[j] * by;
			x = x > low ? x : low;
			x = x < high ? x : high;
			s[j] = (x / scale + rounder - rounder) * scale;
		}
		break;
	case MULTIPLIED:
		for (size_t j = 0; j < n; j++) {
			float x = s[j] * by, q;
			x = x > low ? x : low;
			x = x < high ? x : high;
			q = fmaf(x, hi, x * lo);
			q = fmaf(fmaf(-q, scale, x), hi, q);
			s[j] = (q + rounder - rounder) * scale;
		}
		break;
	}
}

/* ---- forward ---- */

struct forward_call {
	const struct qd_attention *a;
	const struct qd_numbers *q, *k, *v, *out;
	struct rounding scores, scaled, weights;
	bool whole;        /* rows of scores exist whole, because of the above */
	size_t block_rows; /* of queries */
	float *logsum;
};

/*
 * One thread's buffers: a head's keys and values, packed in blocks of KEY_BLOCK; scores of the rows and one block of keys, or, block
 * behind block, of all keys; the rows' queries and results; and what is decoded of keys and values before it is packed.
 */
struct forward {
	float *memory, *keys, *values, *scores, *q, *o, *decoded;
	float m[QUERY_BLOCK], l[QUERY_BLOCK];
	int64_t head; /* the one whose keys and values are packed; -1: none */
	bool wide;
};

static bool forward_init(struct forward *f, const struct forward_call *c)
{
	size_t d = (size_t)c->a->d, keys = padded(c->a->keys), block = qd_min_size(KEY_BLOCK, keys), e = padded(c->a->dv);
	size_t decoded = block * padded(c->a->d > c->a->dv ? c->a->d : c->a->dv);
	size_t scores = c->block_rows * (c->whole ? keys : block);
	size_t need = keys * (d + e) + scores + c->block_rows * (padded(c->a->d) + e) + decoded;

	f->head = -1;
	f->wide = has_wide_registers();
	f->memory = aligned_alloc(64, qd_whole_lines(need * sizeof(float)));
	if (f->memory == NULL)
		return false;
	f->keys = f->memory;
	f->values = f->keys + keys * d;
	f->scores = f->values + keys * e;
	f->o = f->scores + scores;
	f->q = f->o + c->block_rows * e;
	f->decoded = f->q + c->block_rows * padded(c->a->d);
	return true;
}

/* Rows of `columns` numbers, `row` elements apart, as floats: where they are, or decoded into `to`. */
static struct left decode(const struct qd_numbers *x, int64_t first, int64_t row, size_t rows, size_t columns, float *to)
{
	if (x->form == QD_FORM_F32)
		return (struct left){ (const float *)x->at + first, row, 1 };
	for (size_t i = 0; i < rows; i++)
		qd_numbers_load(x, (size_t)(first + (int64_t)i * row), columns, to + i * columns);
	return (struct left){ to, (int64_t)columns, 1 };
}

/* Blocks lie one behind the other; only the last one's columns of keys are padded. The head begins at elements k and v. */
static void pack_head(struct forward *f, const struct forward_call *c, int64_t k, int64_t v)
{
	const struct qd_attention *a = c->a;
	size_t d = (size_t)a->d, dv = (size_t)a->dv;

	for (size_t at = 0; at < (size_t)a->keys; at += KEY_BLOCK) {
		size_t n = qd_min_size(KEY_BLOCK, (size_t)a->keys - at);
		struct left rows = decode(c->k, k + (int64_t)at * a->k.row, a->k.row, n, d, f->decoded);
		pack((struct left){ rows.at, 1, rows.row }, d, n, f->keys + at * d);
		pack(decode(c->v, v + (int64_t)at * a->v.row, a->v.row, n, dv, f->decoded), n, dv, f->values + at * padded(a->dv));
	}
}

/* Adds a block of n packed keys and values to the rows' running maximum, sum and output. */
INLINE void absorb(struct forward *f, const struct qd_attention *a, struct left q, size_t rows, size_t at, size_t n)
{
	size_t lds = padded((int64_t)n), ldo = padded(a->dv);

	multiply(f->wide, q, rows, (size_t)a->d, f->keys + at * (size_t)a->d, n, f->scores, false);
	for (size_t i = 0; i < rows; i++) {
		float *s = f->scores + i * lds, m = fmaxf(f->m[i], largest(s, n) * a->scale), fade = expf(f->m[i] - m);
		f->l[i] = f->l[i] * fade + exponentials(s, n, a->scale, m);
		f->m[i] = m;
		if (fade != 1.0f)
			scale_row(f->o + i * ldo, ldo, fade);
	}
	multiply(f->wide, (struct left){ f->scores, (int64_t)lds, 1 }, rows, n, f->values + at * ldo, (size_t)a->dv, f->o, true);
}

/* The rows' results a block of keys at a time. */
QD_VECTOR static void running_rows(struct forward *f, const struct forward_call *c, struct left q, size_t rows)
{
	const struct qd_attention *a = c->a;
	size_t ldo = padded(a->dv);

	memset(f->o, 0, rows * ldo * sizeof(float));
	for (size_t at = 0; at < (size_t)a->keys; at += KEY_BLOCK)
		absorb(f, a, q, rows, at, qd_min_size(KEY_BLOCK, (size_t)a->keys - at));
	for (size_t i = 0; i < rows; i++)
		scale_row(f->o + i * ldo, ldo, 1.0f / f->l[i]);
}

/* The rows' results by way of whole rows of scores, which are rounded on the way. */
QD_VECTOR static void whole_rows(struct forward *f, const struct forward_call *c, struct left q, size_t rows)
{
	const struct qd_attention *a = c->a;
	size_t d = (size_t)a->d, keys = (size_t)a->keys, n, lds;

	for (size_t at = 0; at < keys; at += KEY_BLOCK) {
		n = qd_min_size(KEY_BLOCK, keys - at);
		lds = padded((int64_t)n);
		multiply(f->wide, q, rows, d, f->keys + at * d, n, f->scores + rows * at, false);
		for (size_t i = 0; i < rows; i++) {
			float *s = f->scores + rows * at + i * lds;
			if (c->scores.way != KEPT)
				round_row(&c->scores, lds, 1.0f, s);
			round_row(&c->scaled, lds, a->scale, s);
			f->m[i] = fmaxf(f->m[i], largest(s, n));
		}
	}
	for (size_t i = 0; i < rows; i++) {
		for (size_t at = 0; at < keys; at += KEY_BLOCK) {
			n = qd_min_size(KEY_BLOCK, keys - at);
			f->l[i] += exponentials(f->scores + rows * at + i * padded((int64_t)n), n, 1.0f, f->m[i]);
		}
		for (size_t at = 0; at < keys; at += KEY_BLOCK) {
			lds = padded((int64_t)qd_min_size(KEY_BLOCK, keys - at));
			round_row(&c->weights, lds, 1.0f / f->l[i], f->scores + rows * at + i * lds);
		}
	}
	for (size_t at = 0; at < keys; at += KEY_BLOCK) {
		n = qd_min_size(KEY_BLOCK, keys - at);
		struct left weights = { f->scores + rows * at, (int64_t)padded((int64_t)n), 1 };
		multiply(f->wide, weights, rows, n, f->values + at * padded(a->dv), (size_t)a->dv, f->o, at > 0);
	}
}

static int64_t head_at(const struct qd_strides *strides, int64_t batch, int64_t head)
{
	return batch * strides->batch + head * strides->head;
}

/* The rows [first, first + rows) of a head, counted through the batch. */
static void forward_block(struct forward *f, const struct forward_call *c, int64_t head, size_t first, size_t rows)
{
	const struct qd_attention *a = c->a;
	int64_t n = head / a->heads, h = head % a->heads;
	int64_t at_q = head_at(&a->q, n, h) + (int64_t)first * a->q.row,
		at_o = head_at(&a->out, n, h) + (int64_t)first * a->out.row;
	struct left q = decode(c->q, at_q, a->q.row, rows, (size_t)a->d, f->q);

	if (f->head != head)
		pack_head(f, c, head_at(&a->k, n, h), head_at(&a->v, n, h));
	f->head = head;
	for (size_t i = 0; i < rows; i++) {
		f->m[i] = -INFINITY;
		f->l[i] = 0.0f;
	}
	(c->whole ? whole_rows : running_rows)(f, c, q, rows);
	for (size_t i = 0; i < rows; i++) {
		qd_numbers_store(c->out, (size_t)(at_o + (int64_t)i * a->out.row), (size_t)a->dv, f->o + i * padded(a->dv));
		if (c->logsum != NULL)
			c->logsum[(size_t)(head * a->queries) + first + i] = f->m[i] + logf(f->l[i]);
	}
}

static enum qd_status forward(const struct forward_call *c)
{
	const struct qd_attention *a = c->a;
	int64_t blocks = (a->queries + (int64_t)c->block_rows - 1) / (int64_t)c->block_rows, work = a->batch * a->heads * blocks;
	bool failed = false;

#pragma omp parallel reduction(|| : failed) if (work > 1 && a->batch * a->heads * a->queries * a->keys > QD_CHUNK)
	{
		struct forward f;
		bool ready = forward_init(&f, c);
#pragma omp for schedule(static)
		for (int64_t i = 0; i < work; i++) {
			size_t first = (size_t)(i % blocks) * c->block_rows;
			if (ready)
				forward_block(&f, c, i / blocks, first, qd_min_size(c->block_rows, (size_t)a->queries - first));
		}
		failed = !ready;
		free(f.memory);
	}
	return failed ? qd_fail(QD_ENOMEM, "out of memory for attention tiles") : QD_OK;
}

enum qd_status qd_attention_f32(
	const struct qd_attention *a, const float *q, const float *k, const float *v, float *out, float *logsum)
{
	const struct qd_numbers nq = { .at = (void *)q }, nk = { .at = (void *)k }, nv = { .at = (void *)v }, no = { .at = out };

	return forward(&(struct forward_call){
		.a = a, .q = &nq, .k = &nk, .v = &nv, .out = &no, .block_rows = QUERY_BLOCK, .logsum = logsum });
}

/*
 * Rows of scores that exist at a time: whole tiles that stay in a thread's cache. Keys and values are read once per block: with fewer
 * rows than an eighth of their columns that would be more than is gained. One at least, within what all threads may take.
 */
static size_t whole_block(const struct qd_attention *a)
{
	size_t row = padded(a->keys) * sizeof(float), rows = CACHED_SCORES / row, worth = (size_t)(a->d + a->dv) / 8;
	size_t most = MOST_SCORES / (size_t)qd_threads() / row;

	rows = qd_min_size((rows > worth ? rows : worth) / ROWS * ROWS, QUERY_BLOCK);
	rows = qd_min_size(rows > ROWS ? rows : ROWS, most);
	return rows > 0 ? rows : 1;
}

enum qd_status qd_attention_numbers(const struct qd_attention *a, const struct qd_numbers *q, const struct qd_numbers *k,
	const struct qd_numbers *v, const struct qd_attention_grids *grids, const struct qd_numbers *out)
{
	struct forward_call c = { .a = a, .q = q, .k = k, .v = v, .out = out, .block_rows = QUERY_BLOCK };

	if (grids != NULL) {
		c.scores = rounding_to(grids->scores);
		c.scaled = rounding_to(grids->scaled);
		c.weights = rounding_to(grids->weights);
		c.whole = grids->scores != NULL || grids->scaled != NULL || grids->weights != NULL;
	}
	if (c.whole)
		c.block_rows = whole_block(a);
	return forward(&c);
}

/* ---- backward ---- */

/* One thread's buffers: packed operands of a block of keys (k^T, v^T, k) and of a block of rows (q, dout), tiles, sums. */
struct backward {
	float *memory, *keys, *values, *key_rows, *queries, *douts, *p, *ds, *dk, *dv, *dq;
	bool wide;
};

static bool backward_init(struct backward *b, const struct qd_attention *a)
{
	size_t keys = padded(qd_min_size(KEY_BLOCK, (size_t)a->keys)), d = padded(a->d), e = padded(a->dv);
	const size_t sizes[] = { keys * d, keys * e, keys * d, QUERY_BLOCK * d, QUERY_BLOCK * e, QUERY_BLOCK * keys,
		QUERY_BLOCK * keys, keys * d, keys * e, QUERY_BLOCK * d };
	float **const to[] = { &b->keys, &b->values, &b->key_rows, &b->queries, &b->douts, &b->p, &b->ds, &b->dk, &b->dv, &b->dq };
	size_t need = 0;

	b->wide = has_wide_registers();
	for (size_t i = 0; i < QD_COUNT(sizes); i++)
		need += sizes[i];
	b->memory = aligned_alloc(64, (need * sizeof(float) + 63) / 64 * 64);
	if (b->memory == NULL)
		return false;
	need = 0;
	for (size_t i = 0; i < QD_COUNT(sizes); i++) {
		*to[i] = b->memory + need;
		need += sizes[i];
	}
	return true;
}

/* One head: everything the block functions below need, pointers at that head. */
struct head {
	const float *q, *k, *v, *out, *logsum, *dout;
	float *dq, *dk, *dv;
};

static void copy_rows(float *to, int64_t to_row, const float *from, size_t from_row, size_t rows, int64_t columns)
{
	for (size_t i = 0; i < rows; i++)
		memcpy(to + (int64_t)i * to_row, from + i * from_row, (size_t)columns * sizeof(float));
}

/* p and ds of `rows` queries at h (already advanced to the block) against the n packed keys. */
INLINE void probabilities(struct backward *b, const struct qd_attention *a, const struct head *h, size_t rows, size_t n)
{
	size_t lds = padded((int64_t)n);

	multiply(b->wide, (struct left){ h->q, a->q.row, 1 }, rows, (size_t)a->d, b->keys, n, b->p, false);
	multiply(b->wide, (struct left){ h->dout, a->out.row, 1 }, rows, (size_t)a->dv, b->values, n, b->ds, false);
	for (size_t i = 0; i < rows; i++) {
		float dot = 0.0f, *p = b->p + i * lds, *ds = b->ds + i * lds;
		for (int64_t j = 0; j < a->dv; j++)
			dot += h->dout[(int64_t)i * a->out.row + j] * h->out[(int64_t)i * a->out.row + j];
		exponentials(p, n, a->scale, h->logsum[i]);
		for (size_t j = 0; j < lds; j += PANEL)
			store(ds + j, load(p + j) * (load(ds + j) - dot) * a->scale);
	}
}

/* One block of queries against one block of keys; `first` says whether dq starts here. */
INLINE void backward_tile(struct backward *b, const struct qd_attention *a, const struct qd_attention_gradients *to,
	const struct head *h, size_t rows, size_t n, bool first)
{
	size_t lds = padded((int64_t)n), ldq = padded(a->d);

	probabilities(b, a, h, rows, n);
	pack((struct left){ h->q, a->q.row, 1 }, rows, (size_t)a->d, b->queries);
	pack((struct left){ h->dout, a->out.row, 1 }, rows, (size_t)a->dv, b->douts);
	multiply(b->wide, (struct left){ b->p, 1, (int64_t)lds }, n, rows, b->douts, (size_t)a->dv, b->dv, true);
	multiply(b->wide, (struct left){ b->ds, 1, (int64_t)lds }, n, rows, b->queries, (size_t)a->d, b->dk, true);
	multiply(b->wide, (struct left){ b->ds, (int64_t)lds, 1 }, rows, n, b->key_rows, (size_t)a->d, b->dq, false);
	for (size_t i = 0; i < rows; i++)
		for (int64_t j = 0; j < a->d; j++) {
			float *at = h->dq + (int64_t)i * to->dq_strides.row + j, more = b->dq[i * ldq + (size_t)j];
			*at = first ? more : *at + more;
		}
}

QD_VECTOR static void backward_head(
	struct backward *b, const struct qd_attention *a, const struct qd_attention_gradients *to, const struct head *h)
{
	size_t d = padded(a->d), e = padded(a->dv);

	for (size_t at = 0; at < (size_t)a->keys; at += KEY_BLOCK) {
		size_t n = qd_min_size(KEY_BLOCK, (size_t)a->keys - at);
		const float *k = h->k + (int64_t)at * a->k.row, *v = h->v + (int64_t)at * a->v.row;

		pack((struct left){ k, 1, a->k.row }, (size_t)a->d, n, b->keys);
		pack((struct left){ v, 1, a->v.row }, (size_t)a->dv, n, b->values);
		pack((struct left){ k, a->k.row, 1 }, n, (size_t)a->d, b->key_rows);
		memset(b->dk, 0, n * d * sizeof(float));
		memset(b->dv, 0, n * e * sizeof(float));
		for (size_t first = 0; first < (size_t)a->queries; first += QUERY_BLOCK) {
			int64_t row = (int64_t)first;
			struct head block = { h->q + row * a->q.row, k, v, h->out + row * a->out.row, h->logsum + row,
				h->dout + row * a->out.row, h->dq + row * to->dq_strides.row, NULL, NULL };
			backward_tile(b, a, to, &block, qd_min_size(QUERY_BLOCK, (size_t)a->queries - first), n, at == 0);
		}
		copy_rows(h->dk + (int64_t)at * to->dk_strides.row, to->dk_strides.row, b->dk, d, n, a->d);
		copy_rows(h->dv + (int64_t)at * to->dv_strides.row, to->dv_strides.row, b->dv, e, n, a->dv);
	}
}

enum qd_status qd_attention_backward_f32(const struct qd_attention *a, const float *q, const float *k, const float *v,
	const float *out, const float *logsum, const float *dout, const struct qd_attention_gradients *to)
{
	int64_t work = a->batch * a->heads;
	bool failed = false;

#pragma omp parallel reduction(|| : failed) if (work > 1 && work * a->queries * a->keys > QD_CHUNK)
	{
		struct backward b;
		bool ready = backward_init(&b, a);
#pragma omp for schedule(static)
		for (int64_t i = 0; i < work; i++) {
			int64_t n = i / a->heads, h = i % a->heads;
			const struct head head = { q + head_at(&a->q, n, h), k + head_at(&a->k, n, h), v + head_at(&a->v, n, h),
				out + head_at(&a->out, n, h), logsum + i * a->queries, dout + head_at(&a->out, n, h),
				to->dq + head_at(&to->dq_strides, n, h), to->dk + head_at(&to->dk_strides, n, h),
				to->dv + head_at(&to->dv_strides, n, h) };
			if (ready)
				backward_head(&b, a, to, &head);
		}
		failed = !ready;
		free(b.memory);
	}
	return failed ? qd_fail(QD_ENOMEM, "out of memory for attention tiles") : QD_OK;
}
