/*
 * Matrix products, singular values and symmetric eigenvalues: the one file that calls OpenBLAS.
 *
 * LAPACK is column-major. A row-major A [m,n] is the column-major transpose of itself, A^T = V S U^T, so asking LAPACK for the
 * decomposition of what it sees (n rows, m columns) returns V and U^T column-major, which are Vt [r,n] and U [m,r] row-major.
 */
#include "lib/math/math.h"

#include <cblas.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* LAPACK as OpenBLAS exports it; its C header is a package of its own. Fortran passes the lengths of strings behind the arguments.
 */
void sgesdd_(const char *jobz, const int *m, const int *n, float *a, const int *lda, float *s, float *u, const int *ldu, float *vt,
	const int *ldvt, float *work, const int *lwork, int *iwork, int *info, size_t jobz_length);
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work, const int *lwork,
	int *iwork, const int *liwork, int *info, size_t jobz_length, size_t uplo_length);

void qd_set_blas_threads(int threads)
{
	openblas_set_num_threads(threads < 1 ? 1 : threads);
}

void qd_gemm(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
	const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
	cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, (blasint)m,
		(blasint)n, (blasint)k, alpha, a, (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

enum { GRAM_BLOCK = 1 << 12 };

enum qd_status qd_gram_add(const float *x, size_t m, size_t n, double *g)
{
	double *block = malloc(m * GRAM_BLOCK * sizeof(*block));

	if (!block)
		return qd_fail(QD_ENOMEM, "out of memory for products of %zu vectors", m);
	for (size_t first = 0; first < n; first += GRAM_BLOCK) {
		size_t width = n - first < GRAM_BLOCK ? n - first : GRAM_BLOCK;
		for (size_t i = 0; i < m; i++)
			for (size_t j = 0; j < width; j++)
				block[i * width + j] = (double)x[i * n + first + j];
		cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, (blasint)m, (blasint)width, 1, block, (blasint)width, 1, g,
			(blasint)m);
	}
	for (size_t i = 0; i < m; i++)
		for (size_t j = 0; j < i; j++)
			g[i * m + j] = g[j * m + i];
	free(block);
	return QD_OK;
}

struct workspace {
	float *copy, *work;
	int *iwork;
};

static enum qd_status decompose(struct workspace *ws, int rows, int columns, float *u, float *s, float *vt)
{
	int rank = rows < columns ? rows : columns, ask = -1, info = 0;
	float wanted = 0;
	/* The first call only says how much room the second needs. */
	sgesdd_("S", &rows, &columns, ws->copy, &rows, s, vt, &rows, u, &rank, &wanted, &ask, ws->iwork, &info, 1);
	if (info != 0 || wanted > (float)(INT_MAX / 2))
		return qd_fail(QD_EINPUT, "matrix of %d x %d is too large to decompose", columns, rows);
	int room = (int)(wanted * 1.0001f) + 1; /* the answer is a float, which may have rounded it down */
	ws->work = malloc((size_t)room * sizeof(*ws->work));
	if (!ws->work)
		return qd_fail(QD_ENOMEM, "out of memory");
	sgesdd_("S", &rows, &columns, ws->copy, &rows, s, vt, &rows, u, &rank, ws->work, &room, ws->iwork, &info, 1);
	if (info != 0)
		return qd_fail(QD_EINPUT, "the singular values of a %d x %d matrix do not converge", columns, rows);
	return QD_OK;
}

enum qd_status qd_svd(const float *a, size_t m, size_t n, float *u, float *s, float *vt)
{
	struct workspace ws = { 0 };
	enum qd_status st = QD_OK;
	size_t elements = m * n, rank = m < n ? m : n;
	if (!elements)
		return QD_OK;
	if (m > INT_MAX || n > INT_MAX || elements > INT_MAX)
		return qd_fail(QD_EINPUT, "matrix of %zu x %zu is too large to decompose", m, n);
	for (size_t i = 0; i < elements; i++)
		if (!isfinite(a[i]))
			return qd_fail(QD_EINPUT, "matrix element %zu is infinite or not a number", i);
	ws.copy = malloc(elements * sizeof(*ws.copy));
	ws.iwork = malloc(8 * rank * sizeof(*ws.iwork));
	if (!ws.copy || !ws.iwork)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	memcpy(ws.copy, a, elements * sizeof(*a));
	QD_TRY(st, decompose(&ws, (int)n, (int)m, u, s, vt));
out:
	free(ws.copy);
	free(ws.work);
	free(ws.iwork);
	return st;
}

enum qd_status qd_eigen_symmetric(double *a, size_t n, double *w)
{
	if (n > 16384)
		return qd_fail(QD_EINPUT, "matrix of %zu x %zu is too large to decompose", n, n);
	for (size_t i = 0; i < n * n; i++)
		if (!isfinite(a[i]))
			return qd_fail(QD_EINPUT, "matrix element %zu is infinite or not a number", i);
	if (!n)
		return QD_OK;
	int size = (int)n, room = 1 + 6 * size + 2 * size * size, integers = 3 + 5 * size, info = 0;
	enum qd_status st = QD_OK;
	double *work = malloc((size_t)room * sizeof(*work));
	int *iwork = malloc((size_t)integers * sizeof(*iwork));
	if (!work || !iwork)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	dsyevd_("V", "U", &size, a, &size, w, work, &room, iwork, &integers, &info, 1, 1);
	if (info != 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "the eigenvalues of a %zu x %zu matrix do not converge", n, n));
out:
	free(work);
	free(iwork);
	return st;
}
