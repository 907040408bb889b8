/*
 * lib/io, JPEG and WebP: pictures written here by their libraries come back as they were, a JPEG turned as Exif says; what is
 * neither is called by its name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <webp/encode.h>

#include "lib/io/io.h"
#include "lib/math/math.h"
#include "tests/unit/scratch.h"

/* ---- JPEG ---- */

struct written {
	unsigned char *data;
	unsigned long n;
};

/* Three by two blocks of 8 x 8 pixels, each of one colour: nothing is lost at quality 100 but rounding. */
enum { BLOCKS_X = 3, BLOCKS_Y = 2, WIDTH = 8 * BLOCKS_X, HEIGHT = 8 * BLOCKS_Y };

static void colour(int channels, int block, unsigned char *out)
{
	static const unsigned char colours[BLOCKS_X * BLOCKS_Y][4] = { { 255, 0, 0, 9 }, { 0, 255, 0, 9 }, { 0, 0, 255, 9 },
		{ 250, 250, 10, 9 }, { 10, 10, 10, 9 }, { 128, 90, 200, 9 } };
	memcpy(out, colours[block], (size_t)channels);
}

static void write_jpeg(struct written *out, int channels, J_COLOR_SPACE space, const unsigned char *exif, unsigned exif_bytes)
{
	struct jpeg_compress_struct jpeg;
	struct jpeg_error_mgr errors;
	unsigned char row[WIDTH * 4], *rows[] = { row };

	*out = (struct written){ 0 };
	jpeg.err = jpeg_std_error(&errors);
	jpeg_create_compress(&jpeg);
	jpeg_mem_dest(&jpeg, &out->data, &out->n);
	jpeg.image_width = WIDTH;
	jpeg.image_height = HEIGHT;
	jpeg.input_components = channels;
	jpeg.in_color_space = space;
	jpeg_set_defaults(&jpeg);
	jpeg_set_quality(&jpeg, 100, TRUE);
	for (int c = 0; c < jpeg.num_components; c++)
		jpeg.comp_info[c].h_samp_factor = jpeg.comp_info[c].v_samp_factor = 1;
	jpeg_start_compress(&jpeg, TRUE);
	if (exif != NULL)
		jpeg_write_marker(&jpeg, JPEG_APP0 + 1, exif, exif_bytes);
	for (int y = 0; y < HEIGHT; y++) {
		for (int x = 0; x < WIDTH; x++)
			colour(channels, y / 8 * BLOCKS_X + x / 8, row + x * channels);
		jpeg_write_scanlines(&jpeg, rows, 1);
	}
	jpeg_finish_compress(&jpeg);
	jpeg_destroy_compress(&jpeg);
}

/* YCbCr in 8 bits rounds each colour by at most 2. */
static void expect_block(const struct qd_image *image, int x, int y, int block)
{
	unsigned char want[3];
	const uint8_t *at = image->rgb + 3 * ((8 * y + 4) * image->width + 8 * x + 4);

	colour(3, block, want);
	for (int c = 0; c < 3; c++)
		if (abs((int)at[c] - (int)want[c]) > 2)
			fail_msg("block %d,%d has %d,%d,%d instead of colour %d", x, y, at[0], at[1], at[2], block);
}

static void reads_colours_and_grey(void **state)
{
	struct written file;
	struct qd_image image;

	(void)state;
	write_jpeg(&file, 3, JCS_RGB, NULL, 0);
	OK(qd_image_read(scratch_file("a.png", file.data, file.n), &image)); /* whatever it is called */
	assert_true(image.width == WIDTH && image.height == HEIGHT);
	for (int b = 0; b < BLOCKS_X * BLOCKS_Y; b++)
		expect_block(&image, b % BLOCKS_X, b / BLOCKS_X, b);
	qd_image_release(&image);
	free(file.data);
	write_jpeg(&file, 1, JCS_GRAYSCALE, NULL, 0);
	OK(qd_image_parse("grey", file.data, file.n, &image));
	assert_true(abs(image.rgb[3 * 4] - 255) <= 2 && image.rgb[3 * 4] == image.rgb[3 * 4 + 2]);
	qd_image_release(&image);
	free(file.data);
}

/* Which block of the stored picture is at the top left, top right and bottom left of the shown one, by orientation. */
static void turns_as_exif_says(void **state)
{
	static const int corners[9][3] = { { 0 }, { 0, 2, 3 }, { 2, 0, 5 }, { 5, 3, 2 }, { 3, 5, 0 }, { 0, 3, 2 }, { 3, 0, 5 },
		{ 5, 2, 3 }, { 2, 5, 0 } };

	(void)state;
	for (int big = 0; big < 2; big++)
		for (int how = 1; how <= 8; how++) {
			unsigned char little_exif[] = "Exif\0\0II*\0\10\0\0\0\1\0\x12\1\3\0\1\0\0\0\1\0\0\0";
			unsigned char big_exif[] = "Exif\0\0MM\0*\0\0\0\10\0\1\1\x12\0\3\0\0\0\1\0\1\0\0";
			unsigned char *exif = big ? big_exif : little_exif;
			struct written file;
			struct qd_image image;

			exif[big ? 25 : 24] = (unsigned char)how;
			write_jpeg(&file, 3, JCS_RGB, exif, sizeof(little_exif) - 1);
			OK(qd_image_parse("turned", file.data, file.n, &image));
			assert_int_equal(image.width, how >= 5 ? HEIGHT : WIDTH);
			assert_int_equal(image.height, how >= 5 ? WIDTH : HEIGHT);
			expect_block(&image, 0, 0, corners[how][0]);
			expect_block(&image, image.width / 8 - 1, 0, corners[how][1]);
			expect_block(&image, 0, image.height / 8 - 1, corners[how][2]);
			qd_image_release(&image);
			free(file.data);
		}
}

static void refuses_bad_jpegs(void **state)
{
	struct written file;
	struct qd_image image;

	(void)state;
	write_jpeg(&file, 4, JCS_CMYK, NULL, 0);
	assert_int_equal(qd_image_parse("x.jpg", file.data, file.n, &image), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "'x.jpg' is not a readable JPEG: has 4 channels, needs 1 or 3");
	free(file.data);
	write_jpeg(&file, 3, JCS_RGB, NULL, 0);
	/* every cut, in memory of its own, so that the sanitizer sees reads past the end */
	for (unsigned long n = 3; n + 2 < file.n; n++) {
		unsigned char *copy = malloc(n);
		memcpy(copy, file.data, n);
		assert_int_equal(qd_image_parse("x.jpg", copy, n, &image), QD_EINPUT);
		assert_true(qd_starts_with(qd_message(), "'x.jpg' is not a readable JPEG: "));
		assert_null(image.rgb);
		free(copy);
	}
	free(file.data);
}

/* Exif that lies about its own sizes is no orientation. */
static void ignores_damaged_exif(void **state)
{
	static const char *const texts[] = { "Exif\0\0II*\0\377\377\377\377\1\0\x12\1\3\0\1\0\0\0\6\0\0\0",
		"Exif\0\0II*\0\10\0\0\0\377\377\x13\1\3\0\1\0\0\0\6\0\0\0",
		"Exif\0\0II*\0\10\0\0\0\1\0\x12\1\3\0\1\0\0\0\11\0\0\0" };

	(void)state;
	for (size_t i = 0; i < QD_COUNT(texts); i++)
		for (unsigned n = 1; n <= 32; n += i == 0 ? 1 : 31) {
			struct written file;
			struct qd_image image;
			write_jpeg(&file, 3, JCS_RGB, (const unsigned char *)texts[i], n <= 31 ? n : 31);
			OK(qd_image_parse("x", file.data, file.n, &image));
			assert_int_equal(image.width, WIDTH);
			qd_image_release(&image);
			free(file.data);
		}
}

/* ---- bytes that libjpeg only warns about ---- */

/* A scan header whose spectral selection no sequential file has, as some cameras write it: the picture is whole. */
static void reads_what_is_only_warned_of(void **state)
{
	struct written file;
	struct qd_image image, whole;

	(void)state;
	write_jpeg(&file, 3, JCS_RGB, NULL, 0);
	OK(qd_image_parse("x", file.data, file.n, &whole));
	for (unsigned long at = 0; at + 14 < file.n; at++)
		if (file.data[at] == 0xff &&
			file.data[at + 1] == 0xda) { /* ff da, u16 length, count, 2 bytes each, then Ss Se AhAl */
			file.data[at + 5 + 2 * file.data[at + 4]] = 0;
			file.data[at + 6 + 2 * file.data[at + 4]] = 1;
			break;
		}
	OK(qd_image_parse("x", file.data, file.n, &image));
	assert_memory_equal(image.rgb, whole.rgb, (size_t)WIDTH * HEIGHT * 3);
	qd_image_release(&image);
	qd_image_release(&whole);
	free(file.data);
}

/* ---- WebP ---- */

static void reads_webp(void **state)
{
	uint8_t rgba[4 * 6], *data = NULL;
	struct qd_image image;
	size_t n;

	(void)state;
	for (int i = 0; i < 6; i++) {
		colour(3, i, rgba + 4 * i);
		rgba[4 * i + 3] = i == 5 ? 51 : 255;
	}
	n = WebPEncodeLosslessRGBA(rgba, 3, 2, 12, &data);
	assert_true(n > 0);
	OK(qd_image_parse("x.png", data, n, &image));
	assert_int_equal(image.width, 3);
	assert_int_equal(image.height, 2);
	for (int i = 0; i < 5; i++)
		assert_memory_equal(image.rgb + 3 * i, rgba + 4 * i, 3);
	for (int c = 0; c < 3; c++) /* a fifth of it over white */
		assert_int_equal(image.rgb[15 + c], (51 * rgba[20 + c] + 204 * 255 + 127) / 255);
	qd_image_release(&image);
	for (size_t cut = 12; cut < n; cut += 3) {
		assert_int_equal(qd_image_parse("x.webp", data, cut, &image), QD_EINPUT);
		assert_true(qd_starts_with(qd_message(), "'x.webp' is not a readable WebP: "));
		assert_null(image.rgb);
	}
	WebPFree(data);
}

/* ---- what is no picture ---- */

static void says_what_it_is_instead(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		const char *message;
	} cases[] = {
		{ "BM\1\2\3\4", 6, "'f.png' is a BMP image, needs a PNG, JPEG or WebP image" },
		{ "GIF89a", 6, "'f.png' is a GIF image, needs a PNG, JPEG or WebP image" },
		{ "", 0, "'f.png' is empty, needs a PNG, JPEG or WebP image" },
		{ " \n<!DOCTYPE html>", 17,
			"'f.png' is a web page (HTML): the download did not give the file, it may need a login, "
			"needs a PNG, JPEG or WebP image" },
		{ "{\"error\": 1}", 12, "'f.png' is JSON text, needs a PNG, JPEG or WebP image" },
		{ "hello", 5, "'f.png' is of no known format, needs a PNG, JPEG or WebP image" },
	};
	struct qd_image image;

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		assert_int_equal(qd_image_parse("f.png", cases[i].bytes, cases[i].n, &image), QD_EINPUT);
		assert_string_equal(qd_message(), cases[i].message);
	}
}

/* Pickles as torch.save writes them now (a zip whose first member is a pickle) and before. */
static void knows_a_pickle(void **state)
{
	static const char zip[] = "PK\3\4\0\0\10\10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\16\0\0\0calib/data.pkl";
	static const char other[] = "PK\3\4\0\0\10\10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\12\0\0\0sample.npy";

	(void)state;
	assert_int_equal(qd_file_kind(zip, sizeof(zip) - 1), QD_FILE_PICKLE);
	assert_int_equal(qd_file_kind(zip, sizeof(zip) - 2), QD_FILE_ZIP);
	assert_int_equal(qd_file_kind(other, sizeof(other) - 1), QD_FILE_ZIP);
	assert_int_equal(qd_file_kind("\x80\2}q", 4), QD_FILE_PICKLE);
	assert_int_equal(qd_file_kind("\x80\1}q", 4), QD_FILE_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_colours_and_grey),
		cmocka_unit_test(turns_as_exif_says),
		cmocka_unit_test(refuses_bad_jpegs),
		cmocka_unit_test(ignores_damaged_exif),
		cmocka_unit_test(reads_what_is_only_warned_of),
		cmocka_unit_test(reads_webp),
		cmocka_unit_test(says_what_it_is_instead),
		cmocka_unit_test(knows_a_pickle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
