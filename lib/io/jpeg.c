/*
 * JPEG in, through libjpeg-turbo, which is called nowhere else. A failed call leaves by longjmp: the functions that set the jump
 * own nothing and change no local variable after setting it.
 *
 * Grey is expanded to RGB; four channels (CMYK, YCCK) are refused, because what they mean depends on a profile. The picture is
 * turned as its Exif orientation says, as viewers and dataset loaders do:
 *
 *   APP1 "Exif\0\0", then TIFF: "II*\0" little-endian or "MM\0*" big-endian, u32 offset of a directory: u16 entries of 12 bytes,
 *   tag u16 0x0112, type u16 3, count u32 1, value u16: 1 as it is, 2 mirrored, 3 turned by 180 degrees, 4 mirrored upside down,
 *   5 transposed, 6 to be turned right, 7 transposed about the other diagonal, 8 to be turned left
 */
#include "lib/io/picture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

enum { EXIF = JPEG_APP0 + 1, MAX_MARKER = 0xffff, ORIENTATION_TAG = 0x0112 };

struct failure {
	struct jpeg_error_mgr base;
	jmp_buf back;
	char text[JMSG_LENGTH_MAX];
};

static void on_error(j_common_ptr jpeg)
{
	struct failure *failure = (struct failure *)jpeg->err;
	jpeg->err->format_message(jpeg, failure->text);
	longjmp(failure->back, 1);
}

/*
 * Warnings are of bytes that the picture can do without: cameras write trailers, wrong scan parameters and odd markers, and every
 * viewer shows their files. A file that ends early is another matter: the library fills what is missing with grey.
 */
static void on_message(j_common_ptr jpeg, int level)
{
	struct failure *failure = (struct failure *)jpeg->err;

	if (level >= 0)
		return;
	if (jpeg->err->msg_code == JWRN_JPEG_EOF)
		on_error(jpeg);
	jpeg->err->format_message(jpeg, failure->text);
	if (jpeg->err->num_warnings++ == 0)
		qd_log(QD_LOG_DEBUG, "jpeg: %s", failure->text);
}

static void on_output(j_common_ptr jpeg)
{
	(void)jpeg;
}

struct reader {
	struct jpeg_decompress_struct jpeg;
	struct failure failure;
	struct qd_image *image;
};

static bool read_header(struct reader *r, const unsigned char *data, size_t bytes)
{
	if (setjmp(r->failure.back))
		return false;
	jpeg_create_decompress(&r->jpeg);
	jpeg_save_markers(&r->jpeg, EXIF, MAX_MARKER);
	jpeg_mem_src(&r->jpeg, data, bytes);
	jpeg_read_header(&r->jpeg, TRUE);
	return true;
}

static bool read_pixels(struct reader *r)
{
	if (setjmp(r->failure.back))
		return false;
	r->jpeg.out_color_space = JCS_RGB;
	jpeg_start_decompress(&r->jpeg);
	while (r->jpeg.output_scanline < r->jpeg.output_height) {
		JSAMPROW row = r->image->rgb + (size_t)r->jpeg.output_scanline * r->jpeg.output_width * 3;
		jpeg_read_scanlines(&r->jpeg, &row, 1);
	}
	jpeg_finish_decompress(&r->jpeg);
	return true;
}

/* ---- orientation ---- */

static unsigned number(const unsigned char *at, int bytes, bool big)
{
	unsigned value = 0;
	for (int i = 0; i < bytes; i++)
		value |= (unsigned)at[i] << 8 * (big ? bytes - 1 - i : i);
	return value;
}

/* 1 to 8; 1 where the file does not say. */
static int orientation(const struct jpeg_marker_struct *marker)
{
	const unsigned char *tiff;
	size_t bytes, at, entries;
	bool big;

	while (marker && (marker->marker != EXIF || marker->data_length < 14 || memcmp(marker->data, "Exif\0", 6) != 0))
		marker = marker->next;
	if (!marker)
		return 1;
	tiff = marker->data + 6;
	bytes = marker->data_length - 6;
	big = tiff[0] == 'M';
	at = number(tiff + 4, 4, big);
	if (at > bytes || bytes - at < 2)
		return 1;
	entries = number(tiff + at, 2, big);
	for (at += 2; entries > 0 && at + 12 <= bytes; at += 12, entries--)
		if (number(tiff + at, 2, big) == ORIENTATION_TAG) {
			unsigned value = number(tiff + at + 8, 2, big);
			return value >= 1 && value <= 8 ? (int)value : 1;
		}
	return 1;
}

static enum qd_status turn(struct qd_image *image, int how)
{
	bool swapped = how >= 5, mirror = how == 2 || how == 3 || how == 7 || how == 8,
	     flip = how == 3 || how == 4 || how == 6 || how == 7;
	int w = image->width, h = image->height;
	struct qd_image out;
	enum qd_status st;

	if (how == 1)
		return QD_OK;
	st = qd_image_new(&out, swapped ? h : w, swapped ? w : h);
	if (st != QD_OK)
		return st;
	for (int y = 0; y < out.height; y++)
		for (int x = 0; x < out.width; x++) {
			int from_x = swapped ? y : x, from_y = swapped ? x : y;
			from_x = mirror ? w - 1 - from_x : from_x;
			from_y = flip ? h - 1 - from_y : from_y;
			memcpy(out.rgb + ((size_t)y * (size_t)out.width + (size_t)x) * 3,
				image->rgb + ((size_t)from_y * (size_t)w + (size_t)from_x) * 3, 3);
		}
	qd_image_release(image);
	*image = out;
	return QD_OK;
}

/* ---- all of it ---- */

static enum qd_status read(struct reader *r, const void *data, size_t bytes)
{
	int how;
	enum qd_status st;

	errno = 0;
	if (!read_header(r, data, bytes))
		return qd_fail(errno == ENOMEM ? QD_ENOMEM : QD_EINPUT, "%s", r->failure.text);
	how = orientation(r->jpeg.marker_list); /* the list ends with the decompression */
	if (r->jpeg.num_components != 1 && r->jpeg.num_components != 3)
		return qd_fail(QD_EUNSUPPORTED, "has %d channels, needs 1 or 3", r->jpeg.num_components);
	QD_TRY(st, qd_image_new(r->image, (int)r->jpeg.image_width, (int)r->jpeg.image_height));
	if (!read_pixels(r))
		QD_TRY(st, qd_fail(errno == ENOMEM ? QD_ENOMEM : QD_EINPUT, "%s", r->failure.text));
	st = turn(r->image, how);
out:
	return st;
}

enum qd_status qd_jpeg_parse(const void *data, size_t bytes, struct qd_image *image)
{
	struct reader r = { .image = image };
	enum qd_status st;

	r.jpeg.err = jpeg_std_error(&r.failure.base);
	r.failure.base.error_exit = on_error;
	r.failure.base.emit_message = on_message;
	r.failure.base.output_message = on_output;
	st = read(&r, data, bytes);
	jpeg_destroy_decompress(&r.jpeg);
	return st;
}
