/*
 * Latents to images, through the decoder of a pipeline's VAE. A batch at a time: what a decoder holds between its layers is many
 * times its image.
 */
#include "export/runtime/runtime.h"

#include <math.h>
#include <string.h>

bool qd_has_decoder(const char *base)
{
	enum qd_component_kind kind;

	return qd_is_directory(base) && qd_component_peek(base, "vae", &kind) == QD_OK &&
	       (kind == QD_COMPONENT_VAE || kind == QD_COMPONENT_TINY_VAE);
}

enum qd_status qd_decoder_open(struct qd_decoder *d, const char *base)
{
	enum qd_status st;

	*d = (struct qd_decoder){ .path = base };
	QD_TRY(st, qd_component_open(&d->component, base, "vae"));
	if (d->component.kind != QD_COMPONENT_VAE && d->component.kind != QD_COMPONENT_TINY_VAE)
		st = qd_fail(QD_EINPUT, "'%s' is %s, needs a pipeline with a VAE, or a VAE", d->component.folder,
			qd_component_kind_name(d->component.kind));
out:
	if (st != QD_OK)
		qd_decoder_release(d);
	return st;
}

void qd_decoder_release(struct qd_decoder *d)
{
	qd_runner_release(&d->runner);
	qd_graph_release(&d->graph);
	qd_component_release(&d->component);
	*d = (struct qd_decoder){ 0 };
}

/* The graph for these sizes; the one that is there, where it has them. */
static enum qd_status build(struct qd_decoder *d, const struct qd_component_sizes *sizes)
{
	enum qd_status st;

	if (memcmp(&d->sizes, sizes, sizeof(*sizes)) == 0)
		return QD_OK;
	qd_runner_release(&d->runner);
	qd_graph_release(&d->graph);
	d->sizes = (struct qd_component_sizes){ 0 };
	QD_TRY(st, qd_component_graph(&d->graph, &d->component, sizes));
	QD_TRY(st, qd_runner_open(&d->runner, &d->graph, NULL));
	d->sizes = *sizes;
out:
	return st;
}

enum qd_status qd_decode(struct qd_decoder *d, const struct qd_tensor *latents, struct qd_tensor *images)
{
	const struct qd_vae_config *config = &d->component.vae;
	const int64_t *dim = latents->shape.dim;
	struct qd_component_sizes sizes;
	struct qd_tensor z = { 0 };
	size_t each, made;
	enum qd_status st;

	memset(images, 0, sizeof(*images));
	if (dim[1] != config->latent_channels)
		return qd_fail(QD_EINPUT, "latents of %lld channels, the decoder of '%s' takes %lld", (long long)dim[1], d->path,
			(long long)config->latent_channels);
	memset(&sizes, 0, sizeof(sizes));
	sizes.part = QD_VAE_DECODER;
	sizes.batch = 1;
	sizes.height = dim[2];
	sizes.width = dim[3];
	QD_TRY(st, build(d, &sizes));
	QD_TRY(st, qd_tensor_new(&z, "z", QD_F32, &QD_SHAPE(1, dim[1], dim[2], dim[3])));
	const struct qd_shape *out = &d->graph.values[d->graph.outputs[0]].shape;
	QD_TRY(st, qd_tensor_new(images, "images", QD_F32, &QD_SHAPE(dim[0], out->dim[1], out->dim[2], out->dim[3])));
	each = (size_t)(dim[1] * dim[2] * dim[3]);
	made = (size_t)qd_shape_elements(out);
	for (int64_t i = 0; i < dim[0]; i++) {
		qd_progress("decoding", (uint64_t)i, (uint64_t)dim[0], NULL);
		qd_vae_unscale(config, 1, (size_t)(dim[2] * dim[3]), (const float *)latents->data + (size_t)i * each, z.data);
		QD_TRY(st, qd_runner_feed(&d->runner, &z));
		QD_TRY(st, qd_runner_run(&d->runner));
		QD_TRY(st, qd_runner_read(&d->runner, "out", made, (float *)images->data + (size_t)i * made));
	}
	qd_progress("decoding", (uint64_t)dim[0], (uint64_t)dim[0], NULL);
out:
	qd_tensor_release(&z);
	if (st != QD_OK)
		qd_tensor_release(images);
	return st;
}

/* One image [C,H,W] in [-1,1] as 8-bit RGB. */
static void fill_image(const float *x, int64_t channels, struct qd_image *image)
{
	size_t plane = (size_t)image->width * (size_t)image->height;

	for (size_t i = 0; i < plane; i++)
		for (int c = 0; c < 3; c++) {
			float v = x[(c < channels ? (size_t)c : 0) * plane + i];
			image->rgb[3 * i + (size_t)c] = (uint8_t)(255 * fminf(fmaxf(0.5F + 0.5F * v, 0), 1) + 0.5F);
		}
}

enum qd_status qd_write_images(const char *path, const struct qd_tensor *images, bool force)
{
	const int64_t *dim = images->shape.dim;
	struct qd_output_folder folder = { 0 };
	struct qd_image image = { 0 };
	char name[QD_PATH_BYTES];
	enum qd_status st;

	QD_TRY(st, qd_output_folder_open(&folder, path, force));
	QD_TRY(st, qd_image_new(&image, (int)dim[3], (int)dim[2]));
	for (int64_t i = 0; i < dim[0]; i++) {
		fill_image((const float *)images->data + i * dim[1] * dim[2] * dim[3], dim[1], &image);
		QD_TRY(st, qd_path_join(name, folder.temporary, "%06lld.png", (long long)i));
		QD_TRY(st, qd_image_write(name, &image, false));
	}
	st = qd_output_folder_commit(&folder);
out:
	qd_image_release(&image);
	qd_output_folder_release(&folder);
	return st;
}
