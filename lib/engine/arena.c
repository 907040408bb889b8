/*
 * Places of activations in one block of memory. A buffer is needed from the step that writes it to the last one that reads it; two
 * that are needed at one time do not overlap. The largest are placed first, each at the lowest offset where it fits: within a few
 * percent of what is needed at the worst moment, for networks.
 */
#include "lib/engine/internal.h"

#include <stdlib.h>

static int by_size(const void *a, const void *b)
{
	const struct qd_buffer *const *x = a, *const *y = b;

	if ((*x)->bytes != (*y)->bytes)
		return (*x)->bytes < (*y)->bytes ? 1 : -1;
	return *x < *y ? -1 : *x > *y;
}

static int by_offset(const void *a, const void *b)
{
	const struct qd_buffer *const *x = a, *const *y = b;

	return (*x)->offset < (*y)->offset ? -1 : (*x)->offset > (*y)->offset;
}

static size_t line(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

/* The lowest offset at which a buffer meets none of those that have one and are needed while it is. */
static size_t lowest(const struct qd_buffer *b, struct qd_buffer **placed, size_t n, struct qd_buffer **met)
{
	size_t n_met = 0, at = 0;

	for (size_t i = 0; i < n; i++)
		if (placed[i]->first <= b->last && b->first <= placed[i]->last)
			met[n_met++] = placed[i];
	qsort(met, n_met, sizeof(*met), by_offset);
	for (size_t i = 0; i < n_met; i++) {
		if (met[i]->offset >= at + line(b->bytes))
			break;
		if (met[i]->offset + line(met[i]->bytes) > at)
			at = met[i]->offset + line(met[i]->bytes);
	}
	return at;
}

enum qd_status qd_place_buffers(struct qd_buffer *buffers, size_t n_buffers, size_t *bytes)
{
	struct qd_buffer **order = calloc(2 * n_buffers + 1, sizeof(*order)), **met = order + n_buffers;
	size_t n = 0;

	if (order == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < n_buffers; i++)
		if (!buffers[i].own)
			order[n++] = &buffers[i];
	qsort(order, n, sizeof(*order), by_size);
	for (size_t i = 0; i < n; i++) {
		order[i]->offset = lowest(order[i], order, i, met);
		if (order[i]->offset + line(order[i]->bytes) > *bytes)
			*bytes = order[i]->offset + line(order[i]->bytes);
	}
	free(order);
	return QD_OK;
}

enum qd_status qd_engine_place(struct qd_engine *e)
{
	enum qd_status st = QD_OK;

	/* The way back needs everything once more. */
	for (size_t i = 0; e->options.trained != NULL && i < e->n_buffers; i++) {
		e->buffers[i].first = -1;
		e->buffers[i].last = (int)e->n_steps;
	}
	QD_TRY(st, qd_place_buffers(e->buffers, e->n_buffers, &e->block_bytes));
	e->block = qd_large_alloc(e->block_bytes + 64);
	if (e->block == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu bytes of activations", e->block_bytes));
	for (size_t i = 0; i < e->n_buffers; i++)
		if (!e->buffers[i].own)
			e->buffers[i].numbers.at = e->block + e->buffers[i].offset;
out:
	return st;
}
