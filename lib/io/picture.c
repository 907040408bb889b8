/*
 * Pictures in. What a file is, its first bytes say; its name is not asked: downloads and converters give names as they like.
 */
#include "lib/io/picture.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct format {
	const char *name;
	enum qd_file_kind kind;
	enum qd_status (*parse)(const void *data, size_t bytes, struct qd_image *image);
} formats[] = {
	{ "PNG", QD_FILE_PNG, qd_png_parse },
	{ "JPEG", QD_FILE_JPEG, qd_jpeg_parse },
	{ "WebP", QD_FILE_WEBP, qd_webp_parse },
};

enum qd_status qd_image_new(struct qd_image *image, int width, int height)
{
	*image = (struct qd_image){ 0 };
	if (width < 1 || height < 1 || width > QD_MAX_IMAGE_SIDE || height > QD_MAX_IMAGE_SIDE)
		return qd_fail(QD_EINPUT, "image of %d x %d pixels, needs 1 to %d", width, height, QD_MAX_IMAGE_SIDE);
	image->rgb = calloc((size_t)width * (size_t)height, 3);
	if (!image->rgb)
		return qd_fail(QD_ENOMEM, "out of memory (image of %d x %d pixels)", width, height);
	image->width = width;
	image->height = height;
	return QD_OK;
}

void qd_image_release(struct qd_image *image)
{
	free(image->rgb);
	*image = (struct qd_image){ 0 };
}

void qd_lay_over_white(const uint8_t *rgba, size_t n, uint8_t *rgb)
{
	for (size_t i = 0; i < n; i++) {
		unsigned alpha = rgba[4 * i + 3];
		for (size_t c = 0; c < 3; c++)
			rgb[3 * i + c] = (uint8_t)((alpha * rgba[4 * i + c] + (255 - alpha) * 255 + 127) / 255);
	}
}

enum qd_status qd_image_parse(const char *name, const void *data, size_t bytes, struct qd_image *image)
{
	enum qd_file_kind kind = qd_file_kind(data, bytes);

	*image = (struct qd_image){ 0 };
	for (size_t i = 0; i < QD_COUNT(formats); i++) {
		enum qd_status st;
		if (formats[i].kind != kind)
			continue;
		st = formats[i].parse(data, bytes, image);
		if (st != QD_OK)
			qd_image_release(image);
		return qd_prefix(st, "'%s' is not a readable %s", name, formats[i].name);
	}
	return qd_fail(QD_EINPUT, "'%s' is %s, needs a PNG, JPEG or WebP image", name, qd_file_kind_text(kind));
}

enum qd_status qd_image_read(const char *path, struct qd_image *image)
{
	struct qd_mapping mapping = { 0 };
	enum qd_status st;

	*image = (struct qd_image){ 0 };
	st = qd_mapping_open(&mapping, path);
	if (st == QD_OK)
		st = qd_image_parse(path, mapping.data, mapping.size, image);
	qd_mapping_release(&mapping);
	return st;
}
