/*
 * Training data: safetensors files whose tensors are named as in QD_FIELD_LIST, each [N, ...]. Files stay mapped; a batch is
 * gathered row by row and converted to float32. Shuffling is Fisher and Yates' by a generator that is seeded with the pass's
 * number, so that any position can be found again without playing back what came before it.
 */
#include "distill/distill.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *qd_field_name(enum qd_field field)
{
	static const char *const names[] = {
#define QD_FIELD_NAME(id, name) name,
		QD_FIELD_LIST(QD_FIELD_NAME)
#undef QD_FIELD_NAME
	};
	return names[field];
}

int64_t qd_dataset_row(const struct qd_dataset *data, enum qd_field field)
{
	return data->has[field] ? qd_shape_elements(&data->shape[field]) : 0;
}

struct qd_sizes qd_dataset_sizes(const struct qd_dataset *data, int64_t batch)
{
	enum qd_field image = data->has[QD_FIELD_LATENTS] ? QD_FIELD_LATENTS : QD_FIELD_SAMPLE;
	return (struct qd_sizes){ .batch = batch,
		.height = data->shape[image].dim[1],
		.width = data->shape[image].dim[2],
		.tokens = data->has[QD_FIELD_CONTEXT] ? data->shape[QD_FIELD_CONTEXT].dim[0] : 1 };
}

/* ---- opening ---- */

static struct qd_shape row_shape(const struct qd_tensor *tensor)
{
	struct qd_shape row = { .rank = tensor->shape.rank - 1 };
	memcpy(row.dim, tensor->shape.dim + 1, (size_t)row.rank * sizeof(*row.dim));
	return row;
}

/* Dimensions that a field has, the sample's included. */
static int field_rank(enum qd_field field)
{
	switch (field) {
	case QD_FIELD_TIMESTEP:
		return 1;
	case QD_FIELD_TEXT_EMBEDS:
	case QD_FIELD_TIME_IDS:
		return 2;
	case QD_FIELD_CONTEXT:
		return 3;
	default:
		return 4;
	}
}

static enum qd_status check_tensor(const struct qd_tensor *tensor, enum qd_field field, int64_t n)
{
	const char *name = qd_field_name(field);
	bool is_float = tensor->dtype == QD_F32 || tensor->dtype == QD_F16 || tensor->dtype == QD_BF16;

	if (tensor->shape.rank != field_rank(field))
		return qd_fail(QD_EINPUT, "tensor '%s' has %d dimensions, needs %d", name, tensor->shape.rank, field_rank(field));
	if (!is_float && field != QD_FIELD_TIMESTEP)
		return qd_fail(QD_EINPUT, "tensor '%s' is %s, needs F32, F16 or BF16", name, qd_dtype_name(tensor->dtype));
	if (tensor->shape.dim[0] != n)
		return qd_fail(QD_EINPUT, "tensor '%s' has %lld samples, the file's others have %lld", name,
			(long long)tensor->shape.dim[0], (long long)n);
	if (qd_shape_elements(&tensor->shape) == 0)
		return qd_fail(QD_EINPUT, "tensor '%s' is empty", name);
	return QD_OK;
}

/* One file's field against what the files before it have. */
static enum qd_status check_like_first(struct qd_dataset *data, size_t file, enum qd_field field, const struct qd_tensor *tensor)
{
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	struct qd_shape row;

	if (file > 0 && data->has[field] != (tensor != NULL))
		return qd_fail(QD_EINPUT, "tensor '%s' is in some of the data files only", qd_field_name(field));
	if (tensor == NULL)
		return QD_OK;
	row = row_shape(tensor);
	if (file > 0 && !qd_shape_equal(&row, &data->shape[field]))
		return qd_fail(QD_EINPUT, "tensor '%s' has samples of %s, needs %s as in '%s'", qd_field_name(field),
			qd_shape_text(&row, found), qd_shape_text(&data->shape[field], needed), data->files[0].path);
	data->has[field] = true;
	data->shape[field] = row;
	return QD_OK;
}

static enum qd_status add_file(struct qd_dataset *data, size_t i)
{
	const struct qd_safetensors *file = &data->files[i];
	const struct qd_tensor *lead = qd_safetensors_find(file, "latents");
	int64_t n;

	if (lead == NULL)
		lead = qd_safetensors_find(file, "sample");
	if (lead == NULL)
		return qd_fail(QD_EINPUT, "has neither tensor 'latents' nor 'sample'");
	n = lead->shape.rank > 0 ? lead->shape.dim[0] : 0;
	for (int f = 0; f < QD_FIELD_COUNT; f++) {
		const struct qd_tensor *tensor = qd_safetensors_find(file, qd_field_name((enum qd_field)f));
		enum qd_status st = tensor == NULL ? QD_OK : check_tensor(tensor, (enum qd_field)f, n);
		if (st == QD_OK)
			st = check_like_first(data, i, (enum qd_field)f, tensor);
		if (st != QD_OK)
			return st;
	}
	data->first[i] = data->n;
	data->n += n;
	data->first[i + 1] = data->n;
	return QD_OK;
}

/* ---- against the model ---- */

static enum qd_status check_same_image(const struct qd_dataset *data, enum qd_field field, enum qd_field image, bool channels)
{
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	const struct qd_shape *a = &data->shape[field], *b = &data->shape[image];

	if (!data->has[field] || (a->dim[1] == b->dim[1] && a->dim[2] == b->dim[2] && (!channels || a->dim[0] == b->dim[0])))
		return QD_OK;
	return qd_fail(QD_EINPUT, "tensor '%s' has samples of %s, needs the size of '%s' %s", qd_field_name(field),
		qd_shape_text(a, found), qd_field_name(image), qd_shape_text(b, needed));
}

/* Channels of the model's input and output. */
static enum qd_status check_channels(const struct qd_dataset *data, const struct qd_unet_config *config)
{
	int64_t latents = data->has[QD_FIELD_LATENTS] ? data->shape[QD_FIELD_LATENTS].dim[0] : 0;
	int64_t condition = data->has[QD_FIELD_CONDITION] ? data->shape[QD_FIELD_CONDITION].dim[0] : 0;

	if (!data->has[QD_FIELD_LATENTS]) {
		if (!data->has[QD_FIELD_TIMESTEP])
			return qd_fail(QD_EINPUT, "tensor 'timestep' is missing beside 'sample'");
		if (data->shape[QD_FIELD_SAMPLE].dim[0] != config->in_channels)
			return qd_fail(QD_EINPUT, "tensor 'sample' has %lld channels, the model takes %lld",
				(long long)data->shape[QD_FIELD_SAMPLE].dim[0], (long long)config->in_channels);
		return QD_OK;
	}
	if (latents != config->out_channels)
		return qd_fail(QD_EINPUT, "tensor 'latents' has %lld channels, the model gives %lld", (long long)latents,
			(long long)config->out_channels);
	if (latents + condition != config->in_channels)
		return qd_fail(QD_EINPUT, "tensors 'latents' and 'condition' have %lld + %lld channels, the model takes %lld",
			(long long)latents, (long long)condition, (long long)config->in_channels);
	return QD_OK;
}

static enum qd_status check_model(const struct qd_dataset *data, const struct qd_unet_config *config)
{
	static const enum qd_field extra[] = { QD_FIELD_TEXT_EMBEDS, QD_FIELD_TIME_IDS };
	int64_t features = config->encoder_hid_dim > 0 ? config->encoder_hid_dim : config->cross_dim[0];
	enum qd_status st = check_channels(data, config);

	if (st == QD_OK && data->has[QD_FIELD_LATENTS])
		st = check_same_image(data, QD_FIELD_CONDITION, QD_FIELD_LATENTS, false);
	if (st == QD_OK && data->has[QD_FIELD_LATENTS])
		st = check_same_image(data, QD_FIELD_NOISE, QD_FIELD_LATENTS, true);
	if (st != QD_OK)
		return st;
	if (!data->has[QD_FIELD_CONTEXT])
		return qd_fail(QD_EINPUT, "tensor 'encoder_hidden_states' is missing");
	if (data->shape[QD_FIELD_CONTEXT].dim[1] != features)
		return qd_fail(QD_EINPUT, "tensor 'encoder_hidden_states' has %lld features, the model takes %lld",
			(long long)data->shape[QD_FIELD_CONTEXT].dim[1], (long long)features);
	for (size_t i = 0; config->text_time && i < QD_COUNT(extra); i++)
		if (!data->has[extra[i]])
			return qd_fail(QD_EINPUT, "tensor '%s' is missing", qd_field_name(extra[i]));
	return QD_OK;
}

enum qd_status qd_dataset_open(struct qd_dataset *data, const char *const *paths, size_t n, const struct qd_unet_config *config)
{
	enum qd_status st = QD_OK;

	*data = (struct qd_dataset){ .files = calloc(n + 1, sizeof(*data->files)), .first = calloc(n + 1, sizeof(*data->first)) };
	if (data->files == NULL || data->first == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu data files", n));
	if (n == 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "there is no data file"));
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, qd_safetensors_open(&data->files[i], paths[i]));
		data->n_files = i + 1;
		QD_TRY(st, qd_prefix(add_file(data, i), "cannot use '%s'", paths[i]));
	}
	QD_TRY(st, qd_prefix(check_model(data, config), "cannot use '%s'", paths[0]));
out:
	if (st != QD_OK)
		qd_dataset_release(data);
	return st;
}

void qd_dataset_release(struct qd_dataset *data)
{
	for (size_t i = 0; i < data->n_files; i++)
		qd_safetensors_release(&data->files[i]);
	free(data->files);
	free(data->first);
	*data = (struct qd_dataset){ 0 };
}

/* ---- reading ---- */

static size_t file_of(const struct qd_dataset *data, int64_t sample)
{
	size_t low = 0, high = data->n_files - 1;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (sample < data->first[middle + 1])
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static bool all_finite(const float *x, int64_t n)
{
	float sum = 0; /* 0 * x is NaN exactly where x is not finite; one pass without branches */
	for (int64_t i = 0; i < n; i++)
		sum += 0.0f * x[i];
	return sum == 0.0f;
}

static enum qd_status gather_row(const struct qd_dataset *data, enum qd_field field, int64_t sample, int64_t row, float *out)
{
	size_t at = file_of(data, sample);
	const struct qd_tensor *tensor = qd_safetensors_find(&data->files[at], qd_field_name(field));
	size_t bytes = (size_t)row * (qd_dtype_bits(tensor->dtype) / 8);
	const unsigned char *base = tensor->data;
	struct qd_tensor view =
		qd_tensor_view(tensor->name, tensor->dtype, QD_SHAPE(row), base + (size_t)(sample - data->first[at]) * bytes);
	enum qd_status st = qd_tensor_to_f32(&view, out);

	if (st == QD_OK && !all_finite(out, row))
		st = qd_fail(QD_EINPUT, "'%s': tensor '%s' is not finite in sample %lld", data->files[at].path,
			qd_field_name(field), (long long)(sample - data->first[at]));
	return st;
}

enum qd_status qd_dataset_gather(
	const struct qd_dataset *data, enum qd_field field, const int64_t *index, int64_t batch, float *out)
{
	int64_t row = qd_dataset_row(data, field);
	enum qd_status st = QD_OK;

	for (int64_t b = 0; st == QD_OK && b < batch; b++)
		st = gather_row(data, field, index[b], row, out + b * row);
	return st;
}

/* ---- shuffled passes ---- */

enum qd_status qd_shuffle_init(struct qd_shuffle *shuffle, int64_t n, uint64_t seed)
{
	*shuffle = (struct qd_shuffle){ .n = n, .seed = seed, .pass = -1, .order = malloc((size_t)n * sizeof(*shuffle->order)) };
	if (shuffle->order == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for the order of %lld samples", (long long)n);
	return QD_OK;
}

/* Streams of the generator below 2^62 are passes; the loops above use others. */
static void shuffle_pass(struct qd_shuffle *shuffle, int64_t pass)
{
	struct qd_random random;

	qd_random_init(&random, shuffle->seed, (uint64_t)pass);
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
