/*
 * For the measuring programs in this folder: time, and the rates of the machine's matrix products.
 */
#ifndef QUAD_SCRIPTS_BENCH_BENCH_H
#define QUAD_SCRIPTS_BENCH_BENCH_H

#include "lib/base/base.h"

/* Seconds since some moment. */
double bench_now(void);

/*
 * Operations a second, a multiplication and an addition counting as two, of square products of float32 by OpenBLAS, of float32 by
 * oneDNN, of bfloat16 (summed in float32) by oneDNN, 0 where the processor has no such instructions, and of codes of 8 bits; and bytes
 * copied a second, from memory to memory.
 */
struct bench_rates {
	double openblas, onednn, bfloat16, integer, copy;
};
/* Measures each for a tenth of a second with `threads` threads and keeps the best so far: start from zeros. */
QD_CHECK enum qd_status bench_rates_measure(struct bench_rates *rates, int threads);
/* At how many operations a second float32-accurate products can be made: a third of bfloat16's where that is more. */
double bench_rates_best(const struct bench_rates *rates);

#endif
