/*
 * For the files of this folder only: compiling one loop for several instruction sets, and cutting long arrays into pieces for
 * threads.
 */
#ifndef QUAD_LIB_KERNEL_KERNEL_INTERNAL_H
#define QUAD_LIB_KERNEL_KERNEL_INTERNAL_H

#include "lib/kernel/kernel.h"

/*
 * AVX-512, AVX2 and the baseline, chosen when the program starts. The choice runs before the sanitizers are ready, so their builds
 * take the baseline only.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define QD_VECTOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QD_VECTOR
#endif

/* Elements one thread takes at a time; arrays below QD_PARALLEL_MIN are not worth waking another thread for. */
enum { QD_CHUNK = 16384, QD_PARALLEL_MIN = 65536 };

static inline size_t qd_chunks(size_t n)
{
	return (n + QD_CHUNK - 1) / QD_CHUNK;
}

/* Up to whole cache lines, and vectors. */
static inline size_t qd_whole_lines(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

static inline size_t qd_min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

#endif
