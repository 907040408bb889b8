/*
 * OpenMP's threads, for whoever keeps something for each of them. Built without OpenMP, as for fuzzing, there is one.
 */
#include "lib/kernel/kernel.h"

#ifdef _OPENMP
#include <omp.h>

int qd_thread(void)
{
	return omp_get_thread_num();
}

int qd_threads(void)
{
	return omp_get_max_threads();
}

void qd_use_threads(int n)
{
	omp_set_num_threads(n);
}
#else
int qd_thread(void)
{
	return 0;
}

int qd_threads(void)
{
	return 1;
}

void qd_use_threads(int n)
{
	(void)n;
}
#endif
