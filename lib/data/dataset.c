/* Sets of samples in files: opening, checking against each other and the model, and reading rows. See data.h. */
#include "lib/data/data.h"
#include "lib/math/math.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *qd_data_field_name(enum qd_data_field field)
{
	static const char *const names[] = {
#define QD_FIELD_NAME(id, name) name,
		QD_FIELD_LIST(QD_FIELD_NAME)
#undef QD_FIELD_NAME
	};
	return names[field];
}

int64_t qd_dataset_row(const struct qd_dataset *data, enum qd_data_field field)
{
	return data->has[field] ? qd_shape_elements(&data->shape[field]) : 0;
}

struct qd_sizes qd_dataset_sizes(const struct qd_dataset *data, int64_t batch)
{
	enum qd_data_field image = data->has[QD_FIELD_LATENTS] ? QD_FIELD_LATENTS : QD_FIELD_SAMPLE;
	return (struct qd_sizes){ .batch = batch,
		.height = data->shape[image].dim[1],
		.width = data->shape[image].dim[2],
		.tokens = data->has[QD_FIELD_CONTEXT] ? data->shape[QD_FIELD_CONTEXT].dim[0] : 1 };
}

struct qd_shape qd_data_field_needed(const struct qd_unet_config *c, enum qd_data_field field)
{
	static const struct qd_shape none = { .rank = -1 };
	int64_t condition = c->in_channels - c->out_channels;

	switch (field) {
	case QD_FIELD_LATENTS:
	case QD_FIELD_NOISE:
		return QD_SHAPE(c->out_channels, -1, -1);
	case QD_FIELD_CONDITION:
		return condition > 0 ? QD_SHAPE(condition, -1, -1) : none;
	case QD_FIELD_SAMPLE:
		return QD_SHAPE(c->in_channels, -1, -1);
	case QD_FIELD_TIMESTEP:
		return (struct qd_shape){ .rank = 0 };
	case QD_FIELD_CONTEXT:
		return QD_SHAPE(-1, c->text_proj ? c->encoder_hid_dim : c->cross_dim[0]);
	case QD_FIELD_TEXT_EMBEDS:
		return c->text_time ? QD_SHAPE(c->addition_in_dim - c->time_ids * c->addition_time_dim) : none;
	case QD_FIELD_TIME_IDS:
		return c->text_time ? QD_SHAPE(c->time_ids) : none;
	case QD_FIELD_TIME_COND:
		return c->time_cond_dim > 0 ? QD_SHAPE(c->time_cond_dim) : none;
	case QD_FIELD_COUNT:
		break;
	}
	return none;
}

/* ---- one file ---- */

static struct qd_shape row_shape(const struct qd_tensor *tensor)
{
	struct qd_shape row = { .rank = tensor->shape.rank - 1 };
	memcpy(row.dim, tensor->shape.dim + 1, (size_t)row.rank * sizeof(*row.dim));
	return row;
}

/* Dimensions that a field has, the sample's included. */
static int field_rank(enum qd_data_field field)
{
	switch (field) {
	case QD_FIELD_TIMESTEP:
		return 1;
	case QD_FIELD_TEXT_EMBEDS:
	case QD_FIELD_TIME_IDS:
	case QD_FIELD_TIME_COND:
		return 2;
	case QD_FIELD_CONTEXT:
		return 3;
	default:
		return 4;
	}
}

static bool is_float(const struct qd_tensor *tensor)
{
	return tensor->dtype == QD_F32 || tensor->dtype == QD_F16 || tensor->dtype == QD_BF16 || tensor->dtype == QD_F64;
}

static enum qd_status check_tensor(const struct qd_tensor *tensor, enum qd_data_field field, int64_t n)
{
	const char *name = qd_data_field_name(field);
	bool whole = tensor->dtype == QD_I64 || tensor->dtype == QD_I32;

	if (tensor->shape.rank != field_rank(field))
		return qd_fail(QD_EINPUT, "tensor '%s' has %d dimensions, needs %d", name, tensor->shape.rank, field_rank(field));
	if (!is_float(tensor) && !(whole && field == QD_FIELD_TIMESTEP))
		return qd_fail(QD_EINPUT, "tensor '%s' is %s, needs F32, F16, BF16 or F64", name, qd_dtype_name(tensor->dtype));
	if (tensor->shape.dim[0] != n)
		return qd_fail(QD_EINPUT, "tensor '%s' has %lld samples, the file's others have %lld", name,
			(long long)tensor->shape.dim[0], (long long)n);
	if (qd_shape_elements(&tensor->shape) == 0)
		return qd_fail(QD_EINPUT, "tensor '%s' is empty", name);
	return QD_OK;
}

/* One file's field against what the files before it have. */
static enum qd_status check_like_first(
	struct qd_dataset *data, size_t file, enum qd_data_field field, const struct qd_tensor *tensor)
{
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	struct qd_shape row;

	if (file > 0 && data->has[field] != (tensor != NULL))
		return qd_fail(QD_EINPUT, "tensor '%s' is in some of the data files only", qd_data_field_name(field));
	if (tensor == NULL)
		return QD_OK;
	row = row_shape(tensor);
	if (file > 0 && !qd_shape_equal(&row, &data->shape[field]))
		return qd_fail(QD_EINPUT, "tensor '%s' has samples of %s, needs %s as in '%s'", qd_data_field_name(field),
			qd_shape_text(&row, found), qd_shape_text(&data->shape[field], needed), data->files[0].path);
	data->has[field] = true;
	data->shape[field] = row;
	return QD_OK;
}

static bool is_wanted(const struct qd_unet_config *config, enum qd_data_field field, enum qd_data_use use)
{
	if (use == QD_DATA_TRAIN)
		return true;
	return field != QD_FIELD_LATENTS && field != QD_FIELD_CONDITION && field != QD_FIELD_NOISE &&
	       qd_data_field_needed(config, field).rank >= 0;
}

static enum qd_status add_field(struct qd_dataset *data, size_t i, enum qd_data_field field, int64_t n, enum qd_data_use use)
{
	const struct qd_tensor *tensor = qd_tensor_set_find(&data->files[i], qd_data_field_name(field));
	enum qd_status st = tensor == NULL ? QD_OK : check_tensor(tensor, field, n);

	if (st == QD_OK)
		st = check_like_first(data, i, field, tensor);
	if (st == QD_OK && tensor != NULL && use == QD_DATA_CALIBRATE && is_float(tensor))
		st = qd_tensor_check_finite(tensor, NULL);
	return st;
}

static enum qd_status add_file(struct qd_dataset *data, size_t i, const struct qd_unet_config *config, enum qd_data_use use)
{
	const struct qd_tensor_set *file = &data->files[i];
	const struct qd_tensor *lead = use == QD_DATA_TRAIN ? qd_tensor_set_find(file, "latents") : NULL;
	int64_t n;

	if (lead == NULL)
		lead = qd_tensor_set_find(file, "sample");
	if (lead == NULL && use == QD_DATA_CALIBRATE)
		return qd_fail(QD_EINPUT, "has no tensor 'sample'");
	if (lead == NULL)
		return qd_fail(QD_EINPUT, "has neither tensor 'latents' nor 'sample'");
	n = lead->shape.rank > 0 ? lead->shape.dim[0] : 0;
	for (int f = 0; f < QD_FIELD_COUNT; f++) {
		enum qd_status st =
			is_wanted(config, (enum qd_data_field)f, use) ? add_field(data, i, (enum qd_data_field)f, n, use) : QD_OK;
		if (st != QD_OK)
			return st;
	}
	data->first[i] = data->n;
	data->n += n;
	data->first[i + 1] = data->n;
	return QD_OK;
}

/* ---- against the model ---- */

/* "[4,?,?]" */
static const char *needed_text(const struct qd_shape *shape, char *buffer, size_t size)
{
	size_t at = (size_t)snprintf(buffer, size, "[");

	for (int i = 0; i < shape->rank; i++)
		at += (size_t)snprintf(
			buffer + at, size - at, shape->dim[i] < 0 ? "%s?" : "%s%lld", i > 0 ? "," : "", (long long)shape->dim[i]);
	snprintf(buffer + at, size - at, "]");
	return buffer;
}

static enum qd_status check_field(const struct qd_dataset *data, const struct qd_unet_config *config, enum qd_data_field field)
{
	char found[QD_SHAPE_TEXT], text[QD_SHAPE_TEXT];
	struct qd_shape needed = qd_data_field_needed(config, field);
	const struct qd_shape *row = &data->shape[field];

	for (int i = 0; i < needed.rank; i++)
		if (needed.dim[i] >= 0 && row->dim[i] != needed.dim[i])
			return qd_fail(QD_EINPUT, "tensor '%s' has samples of %s, the model takes %s", qd_data_field_name(field),
				qd_shape_text(row, found), needed_text(&needed, text, sizeof(text)));
	return QD_OK;
}

static enum qd_status check_same_image(const struct qd_dataset *data, enum qd_data_field field, enum qd_data_field image)
{
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	const struct qd_shape *a = &data->shape[field], *b = &data->shape[image];

	if (!data->has[field] || (a->dim[1] == b->dim[1] && a->dim[2] == b->dim[2]))
		return QD_OK;
	return qd_fail(QD_EINPUT, "tensor '%s' has samples of %s, needs the size of '%s' %s", qd_data_field_name(field),
		qd_shape_text(a, found), qd_data_field_name(image), qd_shape_text(b, needed));
}

/* Whether a model of this kind cannot do without the field. */
static bool is_needed(const struct qd_dataset *data, const struct qd_unet_config *config, enum qd_data_field field)
{
	bool noisy = !data->has[QD_FIELD_LATENTS];

	switch (field) {
	case QD_FIELD_LATENTS:
	case QD_FIELD_NOISE:
		return false;
	case QD_FIELD_CONDITION:
		return !noisy && config->in_channels > config->out_channels;
	case QD_FIELD_SAMPLE:
	case QD_FIELD_TIMESTEP:
		return noisy;
	default:
		return qd_data_field_needed(config, field).rank >= 0;
	}
}

static enum qd_status check_model(const struct qd_dataset *data, const struct qd_unet_config *config)
{
	enum qd_status st = QD_OK;

	for (int f = 0; f < QD_FIELD_COUNT; f++)
		if (!data->has[f] && is_needed(data, config, (enum qd_data_field)f))
			return qd_fail(QD_EINPUT, "has no tensor '%s'", qd_data_field_name((enum qd_data_field)f));
	for (int f = 0; st == QD_OK && f < QD_FIELD_COUNT; f++) {
		enum qd_data_field field = (enum qd_data_field)f;
		/* stored noisy samples do not matter where there are clean latents */
		if (data->has[f] && (is_needed(data, config, field) || field == QD_FIELD_LATENTS || field == QD_FIELD_NOISE))
			st = check_field(data, config, field);
	}
	if (st == QD_OK && data->has[QD_FIELD_LATENTS]) {
		if (data->has[QD_FIELD_CONDITION] && !is_needed(data, config, QD_FIELD_CONDITION))
			return qd_fail(QD_EINPUT, "has tensor 'condition', the model takes none");
		st = check_same_image(data, QD_FIELD_CONDITION, QD_FIELD_LATENTS);
		if (st == QD_OK)
			st = check_same_image(data, QD_FIELD_NOISE, QD_FIELD_LATENTS);
	}
	return st;
}

enum qd_status qd_dataset_open(
	struct qd_dataset *data, const char *const *paths, size_t n, const struct qd_unet_config *config, enum qd_data_use use)
{
	enum qd_status st = QD_OK;

	*data = (struct qd_dataset){ .files = calloc(n + 1, sizeof(*data->files)), .first = calloc(n + 1, sizeof(*data->first)) };
	if (data->files == NULL || data->first == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu data files", n));
	if (n == 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "there is no data file"));
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, qd_tensor_set_open(&data->files[i], paths[i]));
		data->n_files = i + 1;
		QD_TRY(st, qd_prefix(add_file(data, i, config, use), "cannot use '%s'", paths[i]));
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
		qd_tensor_set_release(&data->files[i]);
	free(data->files);
	free(data->first);
	*data = (struct qd_dataset){ 0 };
}

/* ---- identity ---- */

enum qd_status qd_dataset_hash(const struct qd_dataset *data, char *out)
{
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	for (size_t i = 0; i < data->n_files; i++)
		qd_tensor_set_print(&data->files[i], text.stream);
	QD_TRY(st, qd_text_end(&text));
	qd_hash_bytes(text.bytes, text.n, out);
out:
	qd_text_release(&text);
	return st;
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

static enum qd_status gather_row(const struct qd_dataset *data, enum qd_data_field field, int64_t sample, int64_t row, float *out)
{
	size_t at = file_of(data, sample);
	const struct qd_tensor *tensor = qd_tensor_set_find(&data->files[at], qd_data_field_name(field));
	size_t bytes = (size_t)row * (qd_dtype_bits(tensor->dtype) / 8);
	const unsigned char *base = tensor->data;
	struct qd_tensor view =
		qd_tensor_view(tensor->name, tensor->dtype, QD_SHAPE(row), base + (size_t)(sample - data->first[at]) * bytes);
	enum qd_status st = qd_tensor_to_f32(&view, out);

	if (st == QD_OK && !qd_all_finite(out, (size_t)row))
		st = qd_fail(QD_EINPUT, "'%s': tensor '%s' is not finite in sample %lld", data->files[at].path,
			qd_data_field_name(field), (long long)(sample - data->first[at]));
	return st;
}

enum qd_status qd_dataset_check_timesteps(const struct qd_dataset *data, int train_steps)
{
	bool used = data->has[QD_FIELD_TIMESTEP] && !data->has[QD_FIELD_LATENTS];

	for (int64_t i = 0; used && i < data->n; i++) {
		size_t at = file_of(data, i);
		float t;
		enum qd_status st = gather_row(data, QD_FIELD_TIMESTEP, i, 1, &t);
		if (st != QD_OK)
			return st;
		if (t >= 0 && train_steps == 0)
			continue;
		if (t >= 0 && t < (float)train_steps)
			continue;
		if (train_steps == 0)
			return qd_fail(QD_EINPUT, "'%s': the timestep of sample %lld is %.9g, needs 0 or more",
				data->files[at].path, (long long)(i - data->first[at]), (double)t);
		return qd_fail(QD_EINPUT, "'%s': the timestep of sample %lld is %.9g, the model's schedule goes from 0 to below %d",
			data->files[at].path, (long long)(i - data->first[at]), (double)t, train_steps);
	}
	return QD_OK;
}

enum qd_status qd_dataset_gather(
	const struct qd_dataset *data, enum qd_data_field field, const int64_t *index, int64_t batch, float *out)
{
	int64_t row = qd_dataset_row(data, field);
	enum qd_status st = QD_OK;

	for (int64_t b = 0; st == QD_OK && b < batch; b++)
		st = gather_row(data, field, index[b], row, out + b * row);
	return st;
}
