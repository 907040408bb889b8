/*
 * For tests: calls that must succeed, a folder that vanishes when the program ends, files in it, and the golden data's place.
 * Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_SCRATCH_H
#define QUAD_TESTS_UNIT_SCRATCH_H

#include <stddef.h>

/* Fails the test with the message of a failure. */
#define OK(call)                                                                                                                   \
	do {                                                                                                                       \
		if ((call) != QD_OK)                                                                                               \
			fail_msg("%s", qd_message());                                                                              \
	} while (0)

/* The folder's path, made at the first call; removed at exit. */
const char *scratch_dir(void);

/* "<scratch folder>/<name>"; the last eight answers stay valid. */
const char *scratch_path(const char *name);

/* Writes a file there and returns its path as scratch_path does. */
const char *scratch_file(const char *name, const void *data, size_t bytes);

/* A path in the golden data (QUAD_GOLDEN, else ../shared/golden), or NULL where it is not there: say so with skip(). As
 * scratch_path. */
const char *golden_path(const char *name);

/* A seed: from the environment variable SEED, else 1; printed, so that a failing run can be repeated. */
unsigned long long test_seed(void);

#endif
