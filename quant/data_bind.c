/* Samples of a calibration file as inputs of an executor. */
#include "lib/torch/torch.h"
#include "quant/quant.h"

/* Rows [first, first + batch) of a tensor, converted to float32. */
static enum qd_status bind_rows(const struct qd_tensor *t, struct qd_exec *exec, const char *name, int64_t first, int64_t batch)
{
	struct qd_tensor rows = *t, values = { 0 };
	size_t bytes = t->bytes / (size_t)t->shape.dim[0];
	enum qd_status st;

	rows.shape.dim[0] = batch;
	rows.data = (char *)t->data + (size_t)first * bytes;
	rows.bytes = (size_t)batch * bytes;
	QD_TRY(st, qd_tensor_new(&values, name, QD_F32, &rows.shape));
	QD_TRY(st, qd_tensor_to_f32(&rows, values.data));
	QD_TRY(st, qd_exec_bind_tensor(exec, name, &values));
out:
	qd_tensor_release(&values);
	return st;
}

enum qd_status qd_data_bind(const struct qd_data *data, struct qd_exec *exec, int64_t first, int64_t batch)
{
	enum qd_status st = QD_OK;

	if (first < 0 || batch < 1 || first + batch > data->n)
		return qd_fail(QD_EINPUT, "samples %lld to %lld of '%s' were asked for, it has %lld", (long long)first,
			(long long)(first + batch), data->file.path, (long long)data->n);
	for (size_t i = 0; st == QD_OK && i < data->n_inputs; i++) {
		const struct qd_tensor *t;

		st = qd_safetensors_get(&data->file, data->inputs[i], &t);
		if (st == QD_OK)
			st = bind_rows(t, exec, data->inputs[i], first, batch);
	}
	return st;
}
