/*
 * For tests on random numbers: one state for all tests of a program, from the run's seed.
 */
#ifndef QUAD_TESTS_UNIT_RANDOM_HELP_H
#define QUAD_TESTS_UNIT_RANDOM_HELP_H

#include "lib/math/math.h"

extern struct qd_random random_state;
/* A group's set-up: begins at the run's seed. */
int start_random(void **state);
/* An integer in [0, n). */
int64_t below(int64_t n);

#endif
