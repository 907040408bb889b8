/*
 * Inner products and symmetric eigenvalues: the one file that calls OpenBLAS, which is loaded at the first call. Loading it starts
 * its threads and takes memory for each; where that fails, its end joins threads that never ran. A command that decomposes nothing
 * must neither wait nor fail for it.
 */
#include "lib/math/math.h"

#include <cblas.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* LAPACK as OpenBLAS exports it; its C header is a package of its own. Fortran passes the lengths of strings behind the arguments.
 */
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work, const int *lwork,
	int *iwork, const int *liwork, int *info, size_t jobz_length, size_t uplo_length);

/* X(function): what is taken of the library. */
#define FUNCTIONS(X) X(cblas_dsyrk) X(dsyevd_)

static const char library[] = "libopenblas.so.0";
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char failure[512];
static struct {
#define MEMBER(function) __typeof__(&(function)) function;
	FUNCTIONS(MEMBER)
#undef MEMBER
} blas;

/* POSIX promises that dlsym's pointers hold functions; C does not convert them, so their bytes are copied. */
static void load(void)
{
	void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL), *address;

	if (handle == NULL) {
		snprintf(failure, sizeof(failure), "cannot load the library of linear algebra: %s", dlerror());
		return;
	}
#define FIND(function)                                                                                                             \
	address = dlsym(handle, #function);                                                                                        \
	if (address == NULL)                                                                                                       \
		snprintf(failure, sizeof(failure), "'%s' has no function '%s'", library, #function);                               \
	memcpy(&blas.function, &address, sizeof(address));
	FUNCTIONS(FIND)
#undef FIND
}

static enum qd_status ready(void)
{
	pthread_once(&once, load);
	return failure[0] != '\0' ? qd_fail(QD_EUNSUPPORTED, "%s", failure) : QD_OK;
}

enum { GRAM_BLOCK = 1 << 12 };

enum qd_status qd_gram_add(const float *x, size_t m, size_t n, double *g)
{
	enum qd_status st = ready();
	double *block;

	if (st != QD_OK)
		return st;
	block = malloc(m * GRAM_BLOCK * sizeof(*block));
	if (block == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for products of %zu vectors", m);
	for (size_t first = 0; first < n; first += GRAM_BLOCK) {
		size_t width = n - first < GRAM_BLOCK ? n - first : GRAM_BLOCK;
		for (size_t i = 0; i < m; i++)
			for (size_t j = 0; j < width; j++)
				block[i * width + j] = (double)x[i * n + first + j];
		blas.cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, (blasint)m, (blasint)width, 1, block, (blasint)width, 1,
			g, (blasint)m);
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
	if (work == NULL || iwork == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, ready());
	blas.dsyevd_("V", "U", &size, a, &size, w, work, &room, iwork, &integers, &info, 1, 1);
	if (info != 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "the eigenvalues of a %zu x %zu matrix do not converge", n, n));
out:
	free(work);
	free(iwork);
	return st;
}
