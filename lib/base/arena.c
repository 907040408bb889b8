/*
 * Memory: checked arithmetic, arenas (blocks that grow from 4 KiB to 1 MiB, larger requests get a block of their own), growable
 * arrays, and the two string predicates everybody writes.
 */
#include "lib/base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, FIRST_BLOCK = 4096, LARGEST_BLOCK = 1 << 20 };

/* Its data follows the struct, which is itself ALIGNMENT bytes long. */
struct qd_arena_block {
	_Alignas(64) struct qd_arena_block *next;
	size_t used, size;
};

bool qd_mul_overflow(size_t a, size_t b, size_t *out)
{
	size_t product;
	if (__builtin_mul_overflow(a, b, &product))
		return true;
	*out = product;
	return false;
}

bool qd_add_overflow(size_t a, size_t b, size_t *out)
{
	size_t sum;
	if (__builtin_add_overflow(a, b, &sum))
		return true;
	*out = sum;
	return false;
}

/* Nothing to return a status through: the caller sees NULL and reads the code it documents, QD_ENOMEM. */
static void *no_memory(size_t bytes)
{
	enum qd_status st = qd_fail(QD_ENOMEM, "out of memory (%zu bytes)", bytes);
	(void)st;
	return NULL;
}

static struct qd_arena_block *new_block(struct qd_arena *arena, size_t bytes)
{
	size_t size = arena->head != NULL ? arena->head->size * 2 : FIRST_BLOCK;
	if (size > LARGEST_BLOCK)
		size = LARGEST_BLOCK;
	if (size < bytes)
		size = bytes;
	size_t total;
	if (qd_add_overflow(size, sizeof(struct qd_arena_block) + ALIGNMENT, &total))
		return no_memory(bytes);
	total &= ~(size_t)(ALIGNMENT - 1);
	struct qd_arena_block *block = aligned_alloc(ALIGNMENT, total);
	if (block == NULL)
		return no_memory(bytes);
	*block = (struct qd_arena_block){ .next = arena->head, .size = total - sizeof(*block) };
	arena->head = block;
	return block;
}

static void *take(struct qd_arena *arena, size_t bytes, size_t alignment)
{
	struct qd_arena_block *block = arena->head;
	size_t start = block != NULL ? (block->used + alignment - 1) & ~(alignment - 1) : 0;
	if (block == NULL || start > block->size || bytes > block->size - start) {
		block = new_block(arena, bytes);
		start = 0;
	}
	if (block == NULL)
		return NULL;
	block->used = start + bytes;
	return (unsigned char *)(block + 1) + start;
}

void *qd_arena_alloc(struct qd_arena *arena, size_t bytes)
{
	void *data = take(arena, bytes, ALIGNMENT);
	return data != NULL ? memset(data, 0, bytes) : NULL;
}

void *qd_arena_array(struct qd_arena *arena, size_t n, size_t size)
{
	size_t bytes;
	if (qd_mul_overflow(n, size, &bytes))
		return no_memory(SIZE_MAX);
	return qd_arena_alloc(arena, bytes);
}

char *qd_arena_strdup(struct qd_arena *arena, const char *text)
{
	size_t bytes = strlen(text) + 1;
	char *copy = take(arena, bytes, 1);
	return copy != NULL ? memcpy(copy, text, bytes) : NULL;
}

char *qd_arena_strf(struct qd_arena *arena, const char *fmt, ...)
{
	va_list args, again;
	va_start(args, fmt);
	va_copy(again, args);
	int n = vsnprintf(NULL, 0, fmt, args);
	char *text = n < 0 ? no_memory(0) : take(arena, (size_t)n + 1, 1);
	if (text != NULL)
		vsnprintf(text, (size_t)n + 1, fmt, again);
	va_end(again);
	va_end(args);
	return text;
}

void qd_arena_release(struct qd_arena *arena)
{
	while (arena->head != NULL) {
		struct qd_arena_block *next = arena->head->next;
		free(arena->head);
		arena->head = next;
	}
}

enum qd_status qd_grow(void *items_address, size_t *cap, size_t need, size_t element_size)
{
	if (need <= *cap)
		return QD_OK;
	size_t wanted = *cap > SIZE_MAX / 2 ? need : *cap * 2;
	if (wanted < need)
		wanted = need;
	if (wanted < 8)
		wanted = 8;
	size_t bytes;
	if (qd_mul_overflow(wanted, element_size, &bytes))
		return qd_fail(QD_ENOMEM, "out of memory (%zu elements)", wanted);
	void *items; /* the caller's pointer has a type of its own: it is read and written as bytes */
	memcpy(&items, items_address, sizeof(items));
	items = realloc(items, bytes);
	if (items == NULL)
		return qd_fail(QD_ENOMEM, "out of memory (%zu bytes)", bytes);
	memcpy(items_address, &items, sizeof(items));
	*cap = wanted;
	return QD_OK;
}

bool qd_starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool qd_ends_with(const char *text, const char *suffix)
{
	size_t n = strlen(text), m = strlen(suffix);
	return n >= m && memcmp(text + n - m, suffix, m) == 0;
}
