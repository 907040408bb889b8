/*
 * Where a sum has few terms, as in products with an adapter's `up`, storing sums of planes of bytes and adding them up takes longer
 * than multiplying the whole codes: a double holds all of it. Four rows share each load of weights.
 */
#include "lib/kernel/short_sums.h"
#include "lib/kernel/kernel_internal.h"

#include <string.h>

enum { LANES = 8 };
typedef double vec8 __attribute__((vector_size(LANES * sizeof(double))));

static inline __attribute__((always_inline)) void some_rows(
	size_t rows, size_t terms, size_t groups, const double *x, const double *w, double *sums)
{
	for (size_t group = 0; group < groups; group++) {
		const double *at = w + group * terms * QD_SUM_GROUP;
		vec8 sum[QD_SUM_ROWS][2];
#pragma GCC unroll 4
		for (size_t r = 0; r < rows; r++)
			sum[r][0] = sum[r][1] = (vec8){ 0 };
		for (size_t k = 0; k < terms; k++) {
			vec8 w0, w1;
			memcpy(&w0, at + k * QD_SUM_GROUP, sizeof(w0));
			memcpy(&w1, at + k * QD_SUM_GROUP + LANES, sizeof(w1));
#pragma GCC unroll 4
			for (size_t r = 0; r < rows; r++) {
				sum[r][0] += w0 * x[r * terms + k];
				sum[r][1] += w1 * x[r * terms + k];
			}
		}
#pragma GCC unroll 4
		for (size_t r = 0; r < rows; r++) {
			memcpy(sums + (r * groups + group) * QD_SUM_GROUP, &sum[r][0], sizeof(vec8));
			memcpy(sums + (r * groups + group) * QD_SUM_GROUP + LANES, &sum[r][1], sizeof(vec8));
		}
	}
}

QD_VECTOR void qd_short_sums(size_t rows, size_t terms, size_t groups, const double *x, const double *w, double *sums)
{
	size_t i = 0;

	for (; i + QD_SUM_ROWS <= rows; i += QD_SUM_ROWS)
		some_rows(QD_SUM_ROWS, terms, groups, x + i * terms, w, sums + i * groups * QD_SUM_GROUP);
	for (; i < rows; i++)
		some_rows(1, terms, groups, x + i * terms, w, sums + i * groups * QD_SUM_GROUP);
}
