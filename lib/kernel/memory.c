/*
 * Memory for packed weights and for what packing them needs for a moment. Large pieces are mapped on their own: in the C library's
 * heap the ones that stay would lie between holes that the others leave, and a network's weights are gigabytes.
 */
#include "lib/kernel/kernel_internal.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };

static size_t pages(size_t bytes)
{
	return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* They begin with a huge page and end where their last ordinary page does: the rest of a last huge page would be filled in vain. */
void *qd_large_alloc(size_t bytes)
{
	if (bytes < 2 * HUGE_PAGE)
		return aligned_alloc(64, qd_whole_lines(bytes));
	char *memory = mmap(NULL, pages(bytes) + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	size_t before = (HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE) % HUGE_PAGE;
	if (before > 0)
		(void)munmap(memory, before);
	(void)munmap(memory + before + pages(bytes), HUGE_PAGE - before);
	(void)madvise(memory + before, pages(bytes), MADV_HUGEPAGE);
	return memory + before;
}

void qd_large_free(void *memory, size_t bytes)
{
	if (memory != NULL && bytes >= 2 * HUGE_PAGE)
		(void)munmap(memory, pages(bytes));
	else
		free(memory);
}
