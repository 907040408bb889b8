/*
 * Images to latents. An image is resized by Lanczos' filter until it just covers the wanted size, the middle is cut out, bytes
 * become x / 127.5 - 1, and the VAE's encoder gives the latent: a draw from its distribution (its mean with `mode`), scaled. Beside
 * it, by how many channels the UNet takes more than it gives:
 *
 *   Z + 1   inpainting: the mask (1: to be made; the mask image's brightness, above a half), resized to the latent's size by taking
 *           the nearest pixel, then the latent of the image with what the mask covers set to 0
 *   Z       editing (InstructPix2Pix): the mean of the condition image's latent, not scaled
 *
 * and for SDXL the numbers height, width, crop top, crop left, target height, target width; its refiner takes height, width, top,
 * left and the aesthetic score 6.
 */
#include "lib/data/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLOURS = 3 };
static const double aesthetic_score = 6;

/* ---- one picture ---- */

/* Where the wanted size lies in a picture: it is resized to `height` x `width`, and cut from `top`, `left` on. */
struct crop {
	int height, width, top, left;
};

static struct crop crop_of(const struct qd_image *image, int64_t height, int64_t width)
{
	double scale = fmax((double)height / image->height, (double)width / image->width);
	struct crop c = { (int)fmax(rint(image->height * scale), (double)height),
		(int)fmax(rint(image->width * scale), (double)width), 0, 0 };

	c.top = (c.height - (int)height) / 2;
	c.left = (c.width - (int)width) / 2;
	return c;
}

static void to_planes(const struct qd_image *image, float *planes)
{
	size_t pixels = (size_t)image->height * (size_t)image->width;

	for (size_t i = 0; i < pixels; i++)
		for (size_t c = 0; c < COLOURS; c++)
			planes[c * pixels + i] = (float)image->rgb[i * COLOURS + c];
}

/* The picture at the wanted size, f32 [3,H,W] from 0 to 255. */
static enum qd_status fit(const struct qd_prepare_images *m, const struct qd_image *image, bool smooth, float *out)
{
	struct crop c = crop_of(image, m->height, m->width);
	size_t from = (size_t)image->height * (size_t)image->width, to = (size_t)c.height * (size_t)c.width;
	float *planes = malloc(COLOURS * from * sizeof(float)), *resized = malloc(COLOURS * to * sizeof(float));
	enum qd_status st = QD_OK;

	if (planes == NULL || resized == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory (image of %d x %d pixels)", image->width, image->height));
	to_planes(image, planes);
	if (smooth)
		QD_TRY(st, qd_resize_lanczos(planes, COLOURS, image->height, image->width, c.height, c.width, resized));
	else
		qd_resize_nearest(planes, COLOURS, image->height, image->width, c.height, c.width, resized);
	for (size_t p = 0; p < COLOURS; p++)
		for (size_t y = 0; y < (size_t)m->height; y++)
			memcpy(out + (p * (size_t)m->height + y) * (size_t)m->width,
				resized + p * to + (y + (size_t)c.top) * (size_t)c.width + (size_t)c.left,
				(size_t)m->width * sizeof(float));
out:
	free(planes);
	free(resized);
	return st;
}

/* Bytes to [-1, 1]; the filter's overshoots are cut off, as they are in files. */
static void to_signed(float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		x[i] = fminf(fmaxf(x[i], 0), 255) / 127.5f - 1;
}

static enum qd_status read_picture(
	const struct qd_prepare_images *m, const char *path, bool smooth, struct qd_image *image, float *pixels)
{
	enum qd_status st;

	QD_TRY(st, qd_image_read(path, image));
	QD_TRY(st, qd_prefix(fit(m, image, smooth, pixels), "'%s'", path));
	if (smooth)
		to_signed(pixels, COLOURS * (size_t)(m->height * m->width));
out:
	return st;
}

/* ---- the encoder ---- */

/* pixels f32 [3,H,W] -> latent f32 [Z,h,w]; `noise` NULL: the mean; `scaled`: as the UNet takes it. */
static enum qd_status encode(struct qd_prepare_images *m, const float *pixels, const float *noise, bool scaled, float *latent)
{
	struct qd_vae_config config = m->vae.component.vae;
	struct qd_tensor x = qd_tensor_view("x", QD_F32, QD_SHAPE(1, COLOURS, m->height, m->width), pixels);
	size_t plane = (size_t)(m->latent_height * m->latent_width), n = (size_t)m->channels * plane;
	float *params = malloc(2 * n * sizeof(*params));
	enum qd_status st = QD_OK;

	if (!scaled) {
		config.scaling_factor = 1;
		config.normalized = false;
	}
	if (params == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_runner_feed(&m->vae.runner, &x));
	QD_TRY(st, qd_runner_run(&m->vae.runner));
	QD_TRY(st, qd_runner_read(&m->vae.runner, "out", config.tiny ? n : 2 * n, params));
	if (config.tiny)
		memcpy(latent, params, n * sizeof(*latent));
	else
		qd_vae_sample(&config, 1, plane, params, noise, latent);
	for (size_t i = 0; i < n; i++)
		if (!isfinite(latent[i]))
			QD_TRY(st, qd_fail(QD_EINPUT, "the VAE's latent is not finite"));
out:
	free(params);
	return st;
}

/* ---- what goes beside the latent ---- */

/* The mask at the image's size, 0 or 1, f32 [H,W], and at the latent's, f32 [h,w]. */
static enum qd_status read_mask(const struct qd_prepare_images *m, const char *path, float *pixels, float *mask, float *small)
{
	size_t plane = (size_t)(m->height * m->width);
	struct qd_image image = { 0 };
	enum qd_status st = read_picture(m, path, false, &image, pixels);

	for (size_t i = 0; st == QD_OK && i < plane; i++)
		mask[i] = pixels[i] + pixels[plane + i] + pixels[2 * plane + i] > 1.5f * 255 ? 1 : 0;
	if (st == QD_OK)
		qd_resize_nearest(mask, 1, (int)m->height, (int)m->width, (int)m->latent_height, (int)m->latent_width, small);
	qd_image_release(&image);
	return st;
}

static enum qd_status inpainting(
	struct qd_prepare_images *m, const struct qd_image_row *row, const float *pixels, const float *noise, float *condition)
{
	size_t plane = (size_t)(m->height * m->width);
	float *room = malloc((COLOURS + 1) * plane * sizeof(float)), *mask = room + COLOURS * plane;
	enum qd_status st = QD_OK;

	if (room == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, read_mask(m, row->mask, room, mask, condition));
	for (size_t i = 0; i < COLOURS * plane; i++)
		room[i] = mask[i % plane] > 0 ? 0 : pixels[i];
	st = encode(m, room, noise, true, condition + m->latent_height * m->latent_width);
out:
	free(room);
	return st;
}

static enum qd_status editing(struct qd_prepare_images *m, const struct qd_image_row *row, float *condition)
{
	float *pixels = malloc(COLOURS * (size_t)(m->height * m->width) * sizeof(float));
	struct qd_image image = { 0 };
	enum qd_status st = QD_OK;

	if (pixels == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, read_picture(m, row->condition, true, &image, pixels));
	st = encode(m, pixels, NULL, false, condition);
out:
	qd_image_release(&image);
	free(pixels);
	return st;
}

static void write_time_ids(const struct qd_prepare_images *m, const struct qd_image *image, float *ids)
{
	struct crop c = crop_of(image, m->height, m->width);
	bool refiner = m->unet->time_ids == qd_families[QD_FAMILY_SDXL_REFINER].time_ids;
	double all[] = { image->height, image->width, c.top, c.left, refiner ? aesthetic_score : (double)m->height,
		(double)m->width };

	for (int64_t i = 0; i < m->unet->time_ids && i < (int64_t)QD_COUNT(all); i++)
		ids[i] = (float)all[i];
}

/* ---- one row ---- */

/* Latents, condition and time_ids, those that are wanted; data NULL for the others. */
struct row_tensors {
	struct qd_tensor latents, condition, time_ids;
};

static enum qd_status row_tensors_new(const struct qd_prepare_images *m, struct row_tensors *p)
{
	struct qd_shape latents = QD_SHAPE(m->channels, m->latent_height, m->latent_width), condition = latents;
	enum qd_status st = QD_OK;

	condition.dim[0] = m->condition;
	if (m->latents)
		QD_TRY(st, qd_tensor_new(&p->latents, "latents", QD_F32, &latents));
	if (m->condition > 0)
		QD_TRY(st, qd_tensor_new(&p->condition, "condition", QD_F32, &condition));
	if (m->unet->text_time)
		QD_TRY(st, qd_tensor_new(&p->time_ids, "time_ids", QD_F32, &QD_SHAPE(m->unet->time_ids)));
out:
	return st;
}

static enum qd_status fill_row(struct qd_prepare_images *m, int64_t i, struct row_tensors *p)
{
	const struct qd_image_row *row = &m->rows[i];
	size_t n = (size_t)(m->channels * m->latent_height * m->latent_width);
	struct qd_image image = { 0 };
	float *pixels = malloc(COLOURS * (size_t)(m->height * m->width) * sizeof(float)), *noise = malloc(2 * n * sizeof(float));
	bool mode = m->options->mode;
	enum qd_status st = QD_OK;

	if (pixels == NULL || noise == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	qd_random_normals(m->options->seed, qd_stream(QD_STREAM_LATENT, (uint64_t)i), 2 * n, noise);
	QD_TRY(st, read_picture(m, row->image, true, &image, pixels));
	if (p->latents.data != NULL)
		QD_TRY(st, qd_prefix(encode(m, pixels, mode ? NULL : noise, true, p->latents.data), "image '%s'", row->image));
	if (m->condition == m->channels + 1)
		QD_TRY(st, inpainting(m, row, pixels, mode ? NULL : noise + n, p->condition.data));
	else if (m->condition > 0)
		QD_TRY(st, editing(m, row, p->condition.data));
	if (p->time_ids.data != NULL)
		write_time_ids(m, &image, p->time_ids.data);
out:
	qd_image_release(&image);
	free(pixels);
	free(noise);
	return st;
}

/* What a part is made from: the hashes of the row's pictures. */
static enum qd_status hash_row(const struct qd_prepare_images *m, int64_t i, char of[3 * QD_HASH_TEXT])
{
	const struct qd_image_row *row = &m->rows[i];
	bool mask = m->condition == m->channels + 1;
	enum qd_status st;

	of[0] = '\0';
	QD_TRY(st, qd_hash_file(row->image, of));
	if (m->condition > 0) {
		strcat(of, " ");
		st = qd_hash_file(mask ? row->mask : row->condition, of + strlen(of));
	}
out:
	return st;
}

enum qd_status qd_prepare_images_hash(const struct qd_prepare_images *m, char *out)
{
	char of[3 * QD_HASH_TEXT];
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	for (int64_t i = 0; i < m->n; i++) {
		QD_TRY(st, hash_row(m, i, of));
		fprintf(text.stream, "%s %s\n", of, m->rows[i].text);
	}
	QD_TRY(st, qd_text_end(&text));
	qd_hash_bytes(text.bytes, text.n, out);
out:
	qd_text_release(&text);
	return st;
}

static enum qd_status encode_row(struct qd_prepare_images *m, int64_t i, const char *of, const struct qd_prepare_store *store)
{
	struct row_tensors p = { 0 };
	struct qd_tensor tensors[3];
	size_t n = 0;
	enum qd_status st;

	QD_TRY(st, row_tensors_new(m, &p));
	QD_TRY(st, fill_row(m, i, &p));
	if (p.latents.data != NULL)
		tensors[n++] = p.latents;
	if (p.condition.data != NULL)
		tensors[n++] = p.condition;
	if (p.time_ids.data != NULL)
		tensors[n++] = p.time_ids;
	st = qd_prefix(qd_prepare_store_put(store, "image", i, of, tensors, n), "image '%s'", m->rows[i].image);
out:
	qd_tensor_release(&p.latents);
	qd_tensor_release(&p.condition);
	qd_tensor_release(&p.time_ids);
	return st;
}

enum qd_status qd_prepare_images_encode(struct qd_prepare_images *m, struct qd_prepare_store *store)
{
	struct qd_component_sizes sizes = { .part = QD_VAE_ENCODER, .batch = 1, .height = m->height, .width = m->width };
	char of[3 * QD_HASH_TEXT];
	enum qd_status st = QD_OK;

	if (!m->latents && m->condition == 0 && !m->unet->text_time)
		return QD_OK;
	for (int64_t i = 0; i < m->n; i++) {
		qd_progress("images", (uint64_t)i, (uint64_t)m->n, NULL);
		QD_TRY(st, hash_row(m, i, of));
		if (qd_prepare_store_has(store, "image", i, of))
			continue;
		if (m->vae.runner.graph == NULL)
			QD_TRY(st, qd_prepare_network_build(&m->vae, &sizes));
		QD_TRY(st, encode_row(m, i, of, store));
	}
	qd_progress("images", (uint64_t)m->n, (uint64_t)m->n, NULL);
out:
	return st;
}

/* ---- opening ---- */

/* Every row has what the UNet's further channels are made of. */
static enum qd_status check_rows(const struct qd_prepare_images *m)
{
	bool mask = m->condition == m->channels + 1;

	if (m->condition != 0 && m->condition != m->channels && !mask)
		return qd_fail(QD_EUNSUPPORTED,
			"the UNet takes %lld channels beside %lld latent ones: neither a mask with a picture nor a picture",
			(long long)m->condition, (long long)m->channels);
	for (int64_t i = 0; m->condition > 0 && i < m->n; i++)
		if ((mask ? m->rows[i].mask : m->rows[i].condition) == NULL)
			return qd_fail(QD_EINPUT, "image '%s' has no '%s', which the model's %lld further channels are made of",
				m->rows[i].image, mask ? "mask_file_name" : "condition_file_name", (long long)m->condition);
	return QD_OK;
}

static enum qd_status choose_size(struct qd_prepare_images *m)
{
	int64_t factor = (int64_t)1 << (m->vae.component.vae.blocks - 1), native = m->unet->sample_size * factor;

	m->height = m->options->height > 0 ? m->options->height : native;
	m->width = m->options->width > 0 ? m->options->width : native;
	if (m->height <= 0 || m->width <= 0)
		return qd_fail(QD_EINPUT, "the UNet's configuration has no sample_size: give --size");
	if (m->height % factor != 0 || m->width % factor != 0)
		return qd_fail(QD_EINPUT, "images of %lldx%lld pixels, the VAE needs multiples of %lld", (long long)m->width,
			(long long)m->height, (long long)factor);
	m->latent_height = m->height / factor;
	m->latent_width = m->width / factor;
	return QD_OK;
}

enum qd_status qd_prepare_images_open(struct qd_prepare_images *m, const struct qd_model *model,
	const struct qd_image_folder *folder, const struct qd_prepare_options *options)
{
	const struct qd_vae_config *vae;
	enum qd_status st;

	*m = (struct qd_prepare_images){ .rows = folder->rows,
		.n = (int64_t)folder->n,
		.unet = &model->config,
		.options = options,
		.latents = options->trajectory == NULL };
	QD_TRY(st, qd_prepare_network_open(&m->vae, model->root, "vae", QD_COMPONENT_VAE));
	vae = &m->vae.component.vae;
	m->channels = vae->latent_channels;
	m->condition = model->config.in_channels - model->config.out_channels;
	if (vae->in_channels != COLOURS)
		QD_TRY(st, qd_fail(QD_EINPUT, "the VAE takes %lld channels, images have 3", (long long)vae->in_channels));
	if (m->channels != model->config.out_channels)
		QD_TRY(st, qd_fail(QD_EINPUT, "the VAE gives %lld latent channels, the UNet makes %lld", (long long)m->channels,
				   (long long)model->config.out_channels));
	QD_TRY(st, choose_size(m));
	st = check_rows(m);
out:
	return st;
}

enum qd_status qd_prepare_images_check(const struct qd_prepare_images *m)
{
	bool used = m->latents || m->condition > 0 || m->unet->text_time;
	enum qd_status st = QD_OK;

	for (int64_t i = 0; used && i < m->n; i++) {
		const char *const pictures[] = { m->rows[i].image, m->condition == 0                 ? NULL
								   : m->condition == m->channels + 1 ? m->rows[i].mask
												     : m->rows[i].condition };
		qd_progress("pictures", (uint64_t)i, (uint64_t)m->n, NULL);
		for (size_t k = 0; k < QD_COUNT(pictures); k++) {
			struct qd_image image = { 0 };
			if (pictures[k] != NULL)
				QD_TRY(st, qd_image_read(pictures[k], &image));
			qd_image_release(&image);
		}
	}
out:
	return st;
}

void qd_prepare_images_release(struct qd_prepare_images *m)
{
	qd_prepare_network_release(&m->vae);
	*m = (struct qd_prepare_images){ 0 };
}
