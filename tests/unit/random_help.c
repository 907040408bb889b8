#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/random_help.h"
#include "tests/unit/scratch.h"

struct qd_random random_state;

int start_random(void **state)
{
	(void)state;
	qd_random_init(&random_state, test_seed(), 0);
	return 0;
}

int64_t below(int64_t n)
{
	return (int64_t)qd_random_below(&random_state, (uint64_t)n);
}
