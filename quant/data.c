/* How many calibration samples run at once. */
#include "quant/internal.h"

enum qd_status qd_data_batch(const struct qd_dataset *data, const struct qd_quant_options *options, int64_t *batch)
{
	struct qd_sizes sizes = qd_dataset_sizes(data, 1);

	if (options->batch > 0 && data->n % options->batch != 0)
		return qd_fail(QD_EINPUT, "a batch of %lld does not divide the %lld samples of '%s'%s", (long long)options->batch,
			(long long)data->n, data->files[0].path, data->n_files > 1 ? " and the others" : "");
	*batch = options->batch;
	if (options->batch > 0)
		return QD_OK;
	for (*batch = data->n < 16 ? data->n : 16; *batch > 1; (*batch)--)
		if (data->n % *batch == 0 && *batch * sizes.height * sizes.width <= 64 * 64)
			break;
	return QD_OK;
}
