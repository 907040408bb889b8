/*
 * lib/io, images: every kind of PNG becomes 8-bit RGB over white; what is written is read back; damaged files are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/io/io.h"
#include "lib/math/math.h"
#include "tests/unit/scratch.h"

static void what_is_written_is_read_back(void **state)
{
	(void)state;
	struct qd_random random;
	qd_random_init(&random, test_seed(), 0);
	for (int round = 0; round < 10; round++) {
		struct qd_image image, back;
		int width = 1 + (int)qd_random_below(&random, 70), height = 1 + (int)qd_random_below(&random, 70);
		assert_int_equal(qd_image_new(&image, width, height), QD_OK);
		size_t bytes = (size_t)width * (size_t)height * 3;
		for (size_t i = 0; i < bytes; i++)
			image.rgb[i] = (uint8_t)qd_random_u64(&random);
		const char *path = scratch_path("image.png");
		assert_int_equal(qd_image_write(path, &image, round > 0), QD_OK);
		assert_int_equal(qd_image_read(path, &back), QD_OK);
		assert_int_equal(back.width, width);
		assert_int_equal(back.height, height);
		assert_memory_equal(back.rgb, image.rgb, bytes);
		qd_image_release(&image);
		qd_image_release(&back);
		qd_image_release(&back);
	}
}

static void sizes_are_bounded(void **state)
{
	(void)state;
	struct qd_image image;
	assert_int_equal(qd_image_new(&image, 0, 5), QD_EINPUT);
	assert_string_equal(qd_message(), "image of 0 x 5 pixels, needs 1 to 16384");
	assert_int_equal(qd_image_new(&image, 1, 16385), QD_EINPUT);
	assert_int_equal(qd_image_new(&image, -1, 1), QD_EINPUT);
}

/* ---- other kinds of PNG, made with libpng ---- */

struct memory {
	unsigned char bytes[1 << 16];
	size_t n;
};

static void put(png_structp png, png_bytep data, size_t n)
{
	struct memory *memory = png_get_io_ptr(png);
	assert_true(memory->n + n <= sizeof(memory->bytes));
	memcpy(memory->bytes + memory->n, data, n);
	memory->n += n;
}

static void flush(png_structp png)
{
	(void)png;
}

/* A 4 x 2 image of `color` and `depth` from packed rows; palette of four entries, the second transparent, where the colour type has
 * one. */
static void make(struct memory *memory, int color, int depth, int interlace, const unsigned char *pixels, size_t row_bytes)
{
	static const png_color palette[4] = { { 10, 20, 30 }, { 40, 50, 60 }, { 70, 80, 90 }, { 255, 0, 128 } };
	static const png_byte alpha[2] = { 255, 0 };
	unsigned char rows[2][64];
	png_bytep pointers[2] = { rows[0], rows[1] };
	memory->n = 0;
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
	png_infop info = png_create_info_struct(png);
	png_set_write_fn(png, memory, put, flush);
	png_set_IHDR(png, info, 4, 2, depth, color, interlace, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	if (color == PNG_COLOR_TYPE_PALETTE) {
		png_set_PLTE(png, info, palette, 4);
		png_set_tRNS(png, info, alpha, 2, NULL);
	}
	memcpy(rows[0], pixels, row_bytes);
	memcpy(rows[1], pixels + row_bytes, row_bytes);
	png_set_rows(png, info, pointers);
	png_write_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
	png_destroy_write_struct(&png, &info);
}

static void assert_image(const struct memory *memory, const uint8_t want[24])
{
	struct qd_image image;
	if (qd_image_parse("f", memory->bytes, memory->n, &image) != QD_OK)
		fail_msg("%s", qd_message());
	assert_int_equal(image.width, 4);
	assert_int_equal(image.height, 2);
	assert_memory_equal(image.rgb, want, 24);
	qd_image_release(&image);
}

static struct memory memory;

static void grey_becomes_rgb(void **state)
{
	(void)state;
	static const unsigned char grey[8] = { 0, 1, 2, 3, 252, 253, 254, 255 };
	static const unsigned char bits[2] = { 0xa0, 0x50 };
	uint8_t want[24], checks[24];
	for (int i = 0; i < 24; i++) {
		want[i] = grey[i / 3];
		checks[i] = (i / 3) % 2 == i / 12 ? 255 : 0;
	}
	make(&memory, PNG_COLOR_TYPE_GRAY, 8, PNG_INTERLACE_NONE, grey, 4);
	assert_image(&memory, want);
	make(&memory, PNG_COLOR_TYPE_GRAY, 1, PNG_INTERLACE_NONE, bits, 1);
	assert_image(&memory, checks);
}

/* Two-bit indices 0 1 2 3 / 3 2 1 0; entry 1 is transparent and becomes white. */
static void palettes_are_expanded_over_white(void **state)
{
	(void)state;
	static const unsigned char indices[2] = { 0x1b, 0xe4 };
	static const uint8_t want[24] = { 10, 20, 30, 255, 255, 255, 70, 80, 90, 255, 0, 128, 255, 0, 128, 70, 80, 90, 255, 255,
		255, 10, 20, 30 };
	make(&memory, PNG_COLOR_TYPE_PALETTE, 2, PNG_INTERLACE_NONE, indices, 1);
	assert_image(&memory, want);
}

static void transparency_is_laid_over_white(void **state)
{
	(void)state;
	unsigned char rgba[32];
	uint8_t want[24];
	for (unsigned i = 0; i < 32; i++)
		rgba[i] = (unsigned char)(i * 41 + 7);
	for (int i = 0; i < 24; i++) {
		double alpha = rgba[i / 3 * 4 + 3] / 255.0;
		want[i] = (uint8_t)(alpha * rgba[i / 3 * 4 + i % 3] + (1 - alpha) * 255 + 0.5);
	}
	make(&memory, PNG_COLOR_TYPE_RGB_ALPHA, 8, PNG_INTERLACE_ADAM7, rgba, 16);
	assert_image(&memory, want);
}

/* 16 bits to 8: the nearest of 255 v / 65535. */
static void sixteen_bits_are_scaled(void **state)
{
	(void)state;
	unsigned char rgb[48];
	uint8_t want[24];
	for (unsigned i = 0; i < 24; i++) {
		unsigned value = (i * 2749 + 128) & 0xffff;
		rgb[2 * i] = (unsigned char)(value >> 8);
		rgb[2 * i + 1] = (unsigned char)value;
		want[i] = (uint8_t)((value * 255 + 32767) / 65535);
	}
	make(&memory, PNG_COLOR_TYPE_RGB, 16, PNG_INTERLACE_NONE, rgb, 24);
	assert_image(&memory, want);
}

/* ---- refusals ---- */

static enum qd_status parse_exact(const unsigned char *bytes, size_t n)
{
	unsigned char *copy = malloc(n + 1);
	memcpy(copy, bytes, n);
	struct qd_image image;
	enum qd_status st = qd_image_parse("f", copy, n, &image);
	qd_image_release(&image);
	free(copy);
	return st;
}

static void cut_and_damaged_files_are_refused(void **state)
{
	(void)state;
	static const unsigned char pixels[24] = { 1, 2, 3 };
	make(&memory, PNG_COLOR_TYPE_RGB, 8, PNG_INTERLACE_NONE, pixels, 12);
	for (size_t n = 0; n < memory.n; n++)
		assert_int_equal(parse_exact(memory.bytes, n), QD_EINPUT);
	assert_int_equal(parse_exact(memory.bytes, 20), QD_EINPUT);
	assert_string_equal(qd_message(), "'f' is not a readable PNG: the file is cut short");
	memory.bytes[20] ^= 1;
	assert_int_equal(parse_exact(memory.bytes, memory.n), QD_EINPUT);
	assert_string_equal(qd_message(), "'f' is not a readable PNG: IHDR: CRC error");
	assert_int_equal(parse_exact((const unsigned char *)"{\"a\": 1, \"b\": 2}", 16), QD_EINPUT);
	assert_string_equal(qd_message(), "'f' is JSON text, needs a PNG, JPEG or WebP image");
}

static void put_u32(unsigned char *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (unsigned char)(value >> (24 - 8 * i));
}

static uint32_t crc32_of(const unsigned char *data, size_t n)
{
	uint32_t crc = 0xffffffffu;
	for (size_t i = 0; i < n; i++) {
		crc ^= data[i];
		for (int k = 0; k < 8; k++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
	}
	return ~crc;
}

/* A small file that claims to be large must not cost the memory of a large one. */
static void claims_are_checked_against_the_file(void **state)
{
	(void)state;
	static const unsigned char pixels[24] = { 1, 2, 3 };
	make(&memory, PNG_COLOR_TYPE_RGB, 8, PNG_INTERLACE_NONE, pixels, 12);
	put_u32(memory.bytes + 16, 16384);
	put_u32(memory.bytes + 20, 16384);
	put_u32(memory.bytes + 29, crc32_of(memory.bytes + 12, 17));
	assert_int_equal(parse_exact(memory.bytes, memory.n), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "16384 x 16384 pixels, but only"));
	put_u32(memory.bytes + 16, 16385);
	put_u32(memory.bytes + 29, crc32_of(memory.bytes + 12, 17));
	assert_int_equal(parse_exact(memory.bytes, memory.n), QD_EINPUT);
	assert_string_equal(qd_message(), "'f' is not a readable PNG: Invalid IHDR data");
}

static void outputs_follow_the_common_rules(void **state)
{
	(void)state;
	struct qd_image image;
	assert_int_equal(qd_image_new(&image, 2, 2), QD_OK);
	const char *path = scratch_file("there.png", "x", 1);
	assert_int_equal(qd_image_write(path, &image, false), QD_EEXIST);
	assert_int_equal(qd_image_write(scratch_path("no/such/folder.png"), &image, false), QD_EIO);
	qd_image_release(&image);
	assert_int_equal(qd_image_read(scratch_path("absent.png"), &image), QD_EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(sizes_are_bounded),
		cmocka_unit_test(grey_becomes_rgb),
		cmocka_unit_test(palettes_are_expanded_over_white),
		cmocka_unit_test(transparency_is_laid_over_white),
		cmocka_unit_test(sixteen_bits_are_scaled),
		cmocka_unit_test(cut_and_damaged_files_are_refused),
		cmocka_unit_test(claims_are_checked_against_the_file),
		cmocka_unit_test(outputs_follow_the_common_rules),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
