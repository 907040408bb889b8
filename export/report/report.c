/*
 * Comparing samples. Latents become images, by a decoder or as packed pixels, and two images, their values clamped to [0,1], one number:
 *
 *   image[c, pack y + dy, pack x + dx] = (1 + latent[(c pack + dy) pack + dx, y, x]) / 2
 *   PSNR = 10 log10(1 / mean (a - b)^2)
 *
 * per sample, then mean and standard error over the samples. Latents that are no pixels and are not decoded have no peak:
 *
 *   SQNR = 10 log10(sum a^2 / sum (a - b)^2), a the reference or the truth
 */
#include "export/report/report.h"
#include "lib/math/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- latents to images ---- */

/* One sample: latents [channels * pack^2, h, w] to pixels [channels, h pack, w pack]. */
static void unpack(const float *latents, int channels, int h, int w, int pack, float *pixels)
{
	for (int c = 0; c < channels; c++)
		for (int y = 0; y < h * pack; y++)
			for (int x = 0; x < w * pack; x++) {
				int plane = (c * pack + y % pack) * pack + x % pack;
				float v =
					latents[((size_t)plane * (size_t)h + (size_t)(y / pack)) * (size_t)w + (size_t)(x / pack)];
				*pixels++ = fminf(fmaxf(0.5f + 0.5f * v, 0), 1);
			}
}

static enum qd_status check_shape(const char *path, const char *name, const struct qd_shape *s, int64_t channels, int pack)
{
	char found[QD_SHAPE_TEXT];
	if (s->rank != 4 || s->dim[0] < 1 || s->dim[1] < channels || s->dim[2] < 1 || s->dim[3] < 1 || s->dim[2] * pack > 8192 ||
		s->dim[3] * pack > 8192)
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs [N,C,H,W] with C at least %lld", path, name,
			qd_shape_text(s, found), (long long)channels);
	if (channels % ((int64_t)pack * pack) != 0)
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' has %lld image channels, needs a multiple of %d (pack %d)", path, name,
			(long long)channels, pack * pack, pack);
	return QD_OK;
}

/* The last `channels` of every sample, as float32; owned by the caller. */
static enum qd_status read_latents(const struct qd_tensor *stored, int64_t channels, struct qd_tensor *out)
{
	const int64_t *dim = stored->shape.dim;
	size_t plane = (size_t)(dim[2] * dim[3]), row = (size_t)dim[1] * plane, kept = (size_t)channels * plane;
	float *all = malloc((size_t)dim[0] * row * sizeof(*all));
	enum qd_status st = QD_OK;

	if (all == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "cannot hold %lld samples", (long long)dim[0]));
	QD_TRY(st, qd_tensor_to_f32(stored, all));
	QD_TRY(st, qd_tensor_new(out, "latents", QD_F32, &QD_SHAPE(dim[0], channels, dim[2], dim[3])));
	for (int64_t i = 0; i < dim[0]; i++)
		memcpy((float *)out->data + (size_t)i * kept, all + (size_t)i * row + (row - kept), kept * sizeof(float));
out:
	free(all);
	return st;
}

static enum qd_status decode(const struct qd_report *r, const struct qd_tensor *latents, struct qd_tensor *out)
{
	enum qd_status st = r->decode(r->decode_context, latents, out);
	float *x = out->data;

	for (size_t i = 0; st == QD_OK && i < out->bytes / sizeof(float); i++)
		x[i] = fminf(fmaxf(0.5f + 0.5f * x[i], 0), 1);
	return st;
}

static enum qd_status unpack_all(const struct qd_tensor *latents, int pack, struct qd_tensor *out)
{
	const int64_t *dim = latents->shape.dim;
	size_t each = latents->bytes / sizeof(float) / (size_t)dim[0];
	enum qd_status st = qd_tensor_new(
		out, "images", QD_F32, &QD_SHAPE(dim[0], dim[1] / ((int64_t)pack * pack), dim[2] * pack, dim[3] * pack));

	for (size_t i = 0; st == QD_OK && i < (size_t)dim[0]; i++)
		unpack((const float *)latents->data + i * each, (int)out->shape.dim[1], (int)dim[2], (int)dim[3], pack,
			(float *)out->data + i * each);
	return st;
}

bool qd_report_has_images(const struct qd_report *r)
{
	return r->decode != NULL || r->pack > 0;
}

enum qd_status qd_images_read(
	struct qd_images *images, const struct qd_report *r, const char *path, const char *name, int64_t channels)
{
	enum qd_status st;
	struct qd_safetensors file = { 0 };
	struct qd_tensor latents = { 0 }, made = { 0 }, *result = &made;
	const struct qd_tensor *tensor;

	memset(images, 0, sizeof(*images));
	QD_TRY(st, qd_safetensors_open(&file, path));
	QD_TRY(st, qd_safetensors_get(&file, name, &tensor));
	channels = channels > 0 ? channels : (tensor->shape.rank == 4 ? tensor->shape.dim[1] : 0);
	QD_TRY(st, check_shape(path, name, &tensor->shape, channels, r->decode == NULL && r->pack > 0 ? r->pack : 1));
	QD_TRY(st, qd_tensor_check_finite(tensor, path));
	QD_TRY(st, read_latents(tensor, channels, &latents));
	if (r->decode != NULL)
		QD_TRY(st, qd_prefix(decode(r, &latents, &made), "'%s'", path));
	else if (r->pack > 0)
		QD_TRY(st, unpack_all(&latents, r->pack, &made));
	else
		result = &latents;
	*images = (struct qd_images){ result->data, (size_t)result->shape.dim[0], (int)result->shape.dim[1],
		(int)result->shape.dim[2], (int)result->shape.dim[3], channels };
	result->data = NULL;
	result->owned = false;
out:
	qd_tensor_release(&made);
	qd_tensor_release(&latents);
	qd_safetensors_release(&file);
	return st;
}

void qd_images_release(struct qd_images *images)
{
	free(images->pixels);
	memset(images, 0, sizeof(*images));
}

/* ---- measuring ---- */

static double compare(const struct qd_report *r, const float *a, const float *b, size_t n)
{
	return qd_report_has_images(r) ? qd_psnr(qd_mse(a, b, n), 1) : qd_sqnr_db(a, b, n);
}

static size_t column_index(const struct qd_report *r, const char *name)
{
	size_t at = 0;
	while (at < r->n_columns && strcmp(r->columns[at], name) != 0)
		at++;
	return at;
}

/* The columns of all tasks, each once; one that only a later task has comes behind the column that it follows there. */
static enum qd_status name_columns(struct qd_report *r)
{
	size_t total = 0;
	for (size_t t = 0; t < r->n; t++)
		total += r->tasks[t].n;
	r->n_columns = 0;
	r->columns = qd_arena_array(&r->arena, total + 1, sizeof(*r->columns));
	if (r->columns == NULL)
		return QD_ENOMEM;
	for (size_t t = 0; t < r->n; t++) {
		size_t place = 0;
		for (size_t c = 0; c < r->tasks[t].n; c++) {
			const char *name = r->tasks[t].columns[c].name;
			size_t at = column_index(r, name);
			if (at == r->n_columns) {
				memmove(r->columns + place + 1, r->columns + place, (r->n_columns - place) * sizeof(*r->columns));
				r->columns[place] = name;
				r->n_columns++;
				at = place;
			}
			place = at + 1;
		}
	}
	return QD_OK;
}

static enum qd_status check_same(
	const char *path, const struct qd_images *a, const char *needed_path, const struct qd_images *needed)
{
	if (a->n >= needed->n && a->channels == needed->channels && a->height == needed->height && a->width == needed->width)
		return QD_OK;
	return qd_fail(QD_EINPUT, "'%s' holds %zu images of %dx%dx%d, needs %zu of %dx%dx%d as in '%s'", path, a->n, a->channels,
		a->height, a->width, needed->n, needed->channels, needed->height, needed->width, needed_path);
}

/* Fills mean and standard error of one comparison; `each` [n] receives the samples' PSNR. */
static void summarize(const struct qd_report *r, const struct qd_images *a, const struct qd_images *b, size_t n, double *each,
	double *mean, double *error)
{
	size_t size = (size_t)a->channels * (size_t)a->height * (size_t)a->width;
	for (size_t i = 0; i < n; i++)
		each[i] = compare(r, a->pixels + i * size, b->pixels + i * size, size);
	*mean = qd_mean(each, n);
	*error = isfinite(*mean) ? qd_standard_error(each, n) : 0;
}

static enum qd_status measure_truth(
	struct qd_report *r, const struct qd_images *images, const struct qd_images *truth, size_t n, struct qd_report_cell *cell)
{
	if (truth->pixels == NULL) {
		cell->truth_mean = cell->truth_standard_error = NAN;
		return QD_OK;
	}
	double *each = qd_arena_array(&r->arena, n + 1, sizeof(*each));
	if (each == NULL)
		return QD_ENOMEM;
	summarize(r, truth, images, n, each, &cell->truth_mean, &cell->truth_standard_error);
	return QD_OK;
}

static enum qd_status measure_column(struct qd_report *r, const struct qd_report_task *task, const struct qd_report_column *column,
	const struct qd_images *reference, const struct qd_images *truth, struct qd_report_cell *cell)
{
	enum qd_status st;
	struct qd_images images = { 0 };
	if (cell->each != NULL)
		return qd_fail(QD_EINPUT, "task '%s' gives column '%s' twice", task->name, column->name);
	QD_TRY(st, qd_images_read(&images, r, column->path, "latents", 0));
	QD_TRY(st, check_same(column->path, &images, task->reference, reference));
	cell->n = reference->n;
	cell->each = qd_arena_array(&r->arena, reference->n + 1, sizeof(*cell->each));
	if (cell->each == NULL) {
		st = QD_ENOMEM;
		goto out;
	}
	summarize(r, reference, &images, reference->n, cell->each, &cell->mean, &cell->standard_error);
	QD_TRY(st, measure_truth(r, &images, truth, reference->n, cell));
out:
	qd_images_release(&images);
	return st;
}

static enum qd_status measure_task(struct qd_report *r, size_t t)
{
	enum qd_status st;
	const struct qd_report_task *task = &r->tasks[t];
	struct qd_images reference = { 0 }, truth = { 0 };
	QD_TRY(st, qd_images_read(&reference, r, task->reference, "latents", 0));
	if (task->truth != NULL) {
		QD_TRY(st, qd_images_read(&truth, r, task->truth, "latents", 0));
		QD_TRY(st, check_same(task->truth, &truth, task->reference, &reference));
	}
	QD_TRY(st, measure_truth(r, &reference, &truth, reference.n, &r->reference[t]));
	for (size_t c = 0; c < task->n; c++) {
		struct qd_report_cell *cell = &r->cells[t * r->n_columns + column_index(r, task->columns[c].name)];
		QD_TRY(st, measure_column(r, task, &task->columns[c], &reference, &truth, cell));
	}
out:
	qd_images_release(&reference);
	qd_images_release(&truth);
	return st;
}

enum qd_status qd_report_measure(struct qd_report *r)
{
	enum qd_status st;
	QD_TRY(st, name_columns(r));
	r->cells = qd_arena_array(&r->arena, r->n * r->n_columns + 1, sizeof(*r->cells));
	r->reference = qd_arena_array(&r->arena, r->n + 1, sizeof(*r->reference));
	if (r->cells == NULL || r->reference == NULL)
		return QD_ENOMEM;
	for (size_t t = 0; t < r->n; t++)
		QD_TRY(st, qd_prefix(measure_task(r, t), "task '%s'", r->tasks[t].name));
out:
	return st;
}

void qd_report_release(struct qd_report *r)
{
	for (size_t t = 0; t < r->n; t++)
		free(r->tasks[t].columns);
	free(r->tasks);
	qd_arena_release(&r->arena);
	memset(r, 0, sizeof(*r));
}
