/*
 * PNG in and out through libpng, which is called nowhere else. libpng leaves a failed call by longjmp: the two functions that set
 * the jump own nothing and change no local variable after setting it, so nothing is lost or undefined when it comes back.
 *
 * Reading gives 8-bit RGB whatever the file holds: palettes and grey are expanded, 16 bits are scaled to 8, and transparency is
 * laid over white (qd_lay_over_white). Colour profiles and gamma are not applied.
 */
#include "lib/io/picture.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CHUNK_BYTES = 8 << 20 };

/* Deflate never makes more than 1032 bytes of one. */
enum { LARGEST_EXPANSION = 1032 };

/* ---- what libpng calls ---- */

struct failure {
	jmp_buf back;
	char text[128];
};

static PNG_NORETURN void on_error(png_structp png, png_const_charp text)
{
	struct failure *failure = png_get_error_ptr(png);
	snprintf(failure->text, sizeof(failure->text), "%s", text);
	longjmp(failure->back, 1);
}

/* errno was 0 before libpng was called. */
static enum qd_status failure_status(void)
{
	return errno == ENOMEM ? QD_ENOMEM : QD_EINPUT;
}

static void on_warning(png_structp png, png_const_charp text)
{
	(void)png;
	qd_log(QD_LOG_DEBUG, "png: %s", text);
}

struct source {
	const unsigned char *data;
	size_t left;
};

static void on_read(png_structp png, png_bytep out, size_t bytes)
{
	struct source *source = png_get_io_ptr(png);
	if (bytes > source->left)
		png_error(png, "the file is cut short");
	memcpy(out, source->data, bytes);
	source->data += bytes;
	source->left -= bytes;
}

struct sink {
	struct qd_output *output;
	enum qd_status st;
};

static void on_write(png_structp png, png_bytep data, size_t bytes)
{
	struct sink *sink = png_get_io_ptr(png);
	sink->st = qd_output_write(sink->output, data, bytes);
	if (sink->st != QD_OK)
		png_error(png, "write failed");
}

static void on_flush(png_structp png)
{
	(void)png;
}

/* ---- reading ---- */

struct reader {
	struct failure failure;
	struct source source;
	png_structp png;
	png_infop info;
	uint32_t width, height;
	size_t row_bytes;
	png_bytep pixels; /* RGBA, owned */
	png_bytepp rows;  /* owned */
};

static bool read_header(struct reader *r)
{
	if (setjmp(r->failure.back))
		return false;
	png_set_read_fn(r->png, &r->source, on_read);
	png_set_user_limits(r->png, QD_MAX_IMAGE_SIDE, QD_MAX_IMAGE_SIDE);
	png_set_chunk_malloc_max(r->png, MAX_CHUNK_BYTES);
	png_read_info(r->png, r->info);
	png_set_expand(r->png);
	png_set_scale_16(r->png);
	png_set_gray_to_rgb(r->png);
	png_set_add_alpha(r->png, 255, PNG_FILLER_AFTER);
	png_set_interlace_handling(r->png);
	r->width = png_get_image_width(r->png, r->info);
	r->height = png_get_image_height(r->png, r->info);
	r->row_bytes = png_get_rowbytes(r->png, r->info); /* as stored, before the conversions */
	png_read_update_info(r->png, r->info);
	if (png_get_rowbytes(r->png, r->info) != (size_t)r->width * 4)
		png_error(r->png, "unexpected pixel layout");
	return true;
}

static bool read_pixels(struct reader *r)
{
	if (setjmp(r->failure.back))
		return false;
	png_read_image(r->png, r->rows);
	png_read_end(r->png, NULL);
	return true;
}

static enum qd_status prepare_rows(struct reader *r)
{
	/* Before memory for the pixels is taken: can the file hold that many at all? */
	if (r->row_bytes * r->height / LARGEST_EXPANSION > r->source.left)
		return qd_fail(QD_EINPUT, "%u x %u pixels, but only %zu bytes left: the file is cut short", r->width, r->height,
			r->source.left);
	r->pixels = malloc((size_t)r->width * r->height * 4);
	r->rows = malloc(r->height * sizeof(*r->rows));
	if (!r->pixels || !r->rows)
		return qd_fail(QD_ENOMEM, "out of memory (image of %u x %u pixels)", r->width, r->height);
	for (size_t y = 0; y < r->height; y++)
		r->rows[y] = r->pixels + y * r->width * 4;
	return QD_OK;
}

enum qd_status qd_png_parse(const void *data, size_t bytes, struct qd_image *image)
{
	struct reader r = { .source = { data, bytes } };
	enum qd_status st;

	errno = 0;
	r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r.failure, on_error, on_warning);
	r.info = r.png ? png_create_info_struct(r.png) : NULL;
	if (!r.info)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	if (!read_header(&r))
		QD_TRY(st, qd_fail(failure_status(), "%s", r.failure.text));
	QD_TRY(st, prepare_rows(&r));
	if (!read_pixels(&r))
		QD_TRY(st, qd_fail(failure_status(), "%s", r.failure.text));
	QD_TRY(st, qd_image_new(image, (int)r.width, (int)r.height));
	qd_lay_over_white(r.pixels, (size_t)r.width * r.height, image->rgb);
out:
	png_destroy_read_struct(&r.png, &r.info, NULL);
	free(r.pixels);
	free(r.rows);
	return st;
}

/* ---- writing ---- */

static bool write_image(png_structp png, png_infop info, struct sink *sink, struct failure *failure, const struct qd_image *image)
{
	if (setjmp(failure->back))
		return false;
	png_set_write_fn(png, sink, on_write, on_flush);
	png_set_IHDR(png, info, (png_uint_32)image->width, (png_uint_32)image->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
		PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_write_info(png, info);
	for (size_t y = 0; y < (size_t)image->height; y++)
		png_write_row(png, image->rgb + y * (size_t)image->width * 3);
	png_write_end(png, info);
	return true;
}

enum qd_status qd_image_write(const char *path, const struct qd_image *image, bool force)
{
	struct qd_output output = { 0 };
	struct sink sink = { .output = &output };
	struct failure failure = { .text = "" };
	png_infop info = NULL;
	enum qd_status st;
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &failure, on_error, on_warning);
	info = png ? png_create_info_struct(png) : NULL;
	if (!info)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_output_open(&output, path, force));
	errno = 0;
	if (!write_image(png, info, &sink, &failure, image)) {
		QD_TRY(st, sink.st);
		QD_TRY(st, qd_fail(failure_status(), "cannot write '%s': %s", path, failure.text));
	}
	QD_TRY(st, qd_output_commit(&output));
out:
	png_destroy_write_struct(&png, &info);
	qd_output_release(&output);
	return st;
}
