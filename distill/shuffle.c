/*
 * Shuffled passes over the samples, by Fisher and Yates' way with a generator that is seeded with the pass's number, so that any
 * position can be found again without playing back what came before it.
 */
#include "distill/distill.h"

#include <stdlib.h>

enum qd_status qd_shuffle_init(struct qd_shuffle *shuffle, int64_t n, uint64_t seed)
{
	*shuffle = (struct qd_shuffle){ .n = n, .seed = seed, .pass = -1, .order = malloc((size_t)n * sizeof(*shuffle->order)) };
	if (shuffle->order == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for the order of %lld samples", (long long)n);
	return QD_OK;
}

static void shuffle_pass(struct qd_shuffle *shuffle, int64_t pass)
{
	struct qd_random random;

	qd_random_init(&random, shuffle->seed, qd_stream(QD_STREAM_PASS, (uint64_t)pass));
	for (int64_t i = 0; i < shuffle->n; i++)
		shuffle->order[i] = i;
	for (int64_t i = shuffle->n - 1; i > 0; i--) {
		int64_t j = (int64_t)qd_random_below(&random, (uint64_t)i + 1), kept = shuffle->order[i];
		shuffle->order[i] = shuffle->order[j];
		shuffle->order[j] = kept;
	}
	shuffle->pass = pass;
}

void qd_shuffle_take(struct qd_shuffle *shuffle, int64_t first, int64_t batch, int64_t *index)
{
	for (int64_t b = 0; b < batch; b++) {
		int64_t position = first + b;
		if (position / shuffle->n != shuffle->pass)
			shuffle_pass(shuffle, position / shuffle->n);
		index[b] = shuffle->order[position % shuffle->n];
	}
}

void qd_shuffle_release(struct qd_shuffle *shuffle)
{
	free(shuffle->order);
	*shuffle = (struct qd_shuffle){ 0 };
}
