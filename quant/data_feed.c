/* Calibration samples as inputs of a runner. */
#include "quant/quant.h"

#include <stdlib.h>
#include <string.h>

static enum qd_status feed_field(
	const struct qd_dataset *data, struct qd_runner *runner, enum qd_data_field field, const int64_t *index, int64_t batch)
{
	const struct qd_shape *row = &data->shape[field];
	struct qd_shape shape = { .rank = row->rank + 1, .dim = { batch } };
	struct qd_tensor values = { 0 };
	enum qd_status st;

	memcpy(shape.dim + 1, row->dim, (size_t)row->rank * sizeof(*row->dim));
	QD_TRY(st, qd_tensor_new(&values, qd_data_field_name(field), QD_F32, &shape));
	QD_TRY(st, qd_dataset_gather(data, field, index, batch, values.data));
	QD_TRY(st, qd_runner_feed(runner, &values));
out:
	qd_tensor_release(&values);
	return st;
}

enum qd_status qd_data_feed(const struct qd_dataset *data, struct qd_runner *runner, int64_t first, int64_t batch)
{
	enum qd_status st = QD_OK;
	int64_t *index = NULL;

	if (first < 0 || batch < 1 || first + batch > data->n)
		return qd_fail(QD_EINPUT, "samples %lld to %lld were asked for, there are %lld", (long long)first,
			(long long)(first + batch), (long long)data->n);
	index = malloc((size_t)batch * sizeof(*index));
	if (index == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (int64_t b = 0; b < batch; b++)
		index[b] = first + b;
	for (int f = 0; st == QD_OK && f < QD_FIELD_COUNT; f++)
		if (data->has[f])
			st = feed_field(data, runner, (enum qd_data_field)f, index, batch);
	free(index);
	return st;
}
