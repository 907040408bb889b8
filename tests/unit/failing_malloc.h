/*
 * For one test program: memory that runs out on request. The program that this file is linked into has malloc, calloc, realloc,
 * strdup and their kin here, in front of the sanitizer's, so that what the libraries under it allocate (jansson, libpng, zlib,
 * protobuf-c, the C library) fails like the project's own. Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_FAILING_MALLOC_H
#define QUAD_TESTS_UNIT_FAILING_MALLOC_H

#include "lib/base/base.h"

/* Makes something; what came out is told by failing_see, what was made is released again. */
typedef enum qd_status (*failing_call)(const void *context);
/* Adds to what the running call has come to: equal calls must come to equal bytes. */
void failing_see(const void *data, size_t bytes);
void failing_see_text(const char *text);
/* The last thing that a call does: nothing fails any more after it. */
void failing_see_file(const char *path);

/*
 * Makes the call without failures, then once for each allocation that it makes, with that one failing alone, until none failed. A
 * call that fails has QD_ENOMEM and a message; one that succeeds nevertheless has come to what it came to without failure. Neither
 * leaves memory, files open or mapped, or anything in the scratch folder that it did not leave without failure. Returns how many
 * allocations there were.
 */
size_t failing_each(const char *what, failing_call call, const void *context);
/* The same for a call whose context is a path, or another text. */
void failing_each_on(const char *what, failing_call call, const char *path);

#endif
