/*
 * For this folder only: exact sums of few products of codes, in doubles (short_sums.c).
 */
#ifndef QUAD_LIB_KERNEL_SHORT_SUMS_H
#define QUAD_LIB_KERNEL_SHORT_SUMS_H

#include <stddef.h>

/* Columns are computed in groups of so many, the last one filled up; rows are best given so many at a time. */
enum { QD_SUM_GROUP = 16, QD_SUM_ROWS = 4 };
/* sums [rows, groups * QD_SUM_GROUP] = x [rows, terms] times w [groups, terms, QD_SUM_GROUP]: integers below 2^53. */
void qd_short_sums(size_t rows, size_t terms, size_t groups, const double *x, const double *w, double *sums);

#endif
