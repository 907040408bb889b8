/*
 * Inner products and symmetric eigenvalues: the one file that calls OpenBLAS.
 */
#include "lib/math/math.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

/* LAPACK as OpenBLAS exports it; its C header is a package of its own. Fortran passes the lengths of strings behind the arguments.
 */
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work, const int *lwork,
	int *iwork, const int *liwork, int *info, size_t jobz_length, size_t uplo_length);

void qd_set_blas_threads(int threads)
{
	openblas_set_num_threads(threads < 1 ? 1 : threads);
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
