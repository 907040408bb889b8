/*
 * lib/io, JPEG and image folders: pictures written here by libjpeg come back as they were, turned as Exif says; every line of
 * metadata.jsonl that is wrong is named.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jpeglib.h>

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

/* ---- image folders ---- */

static const char *folder(const char *name, const char *metadata)
{
	static char path[512];
	char file[600];

	snprintf(path, sizeof(path), "%s", scratch_path(name));
	mkdir(path, 0700);
	snprintf(file, sizeof(file), "%s/sub", name);
	mkdir(scratch_path(file), 0700);
	for (const char *const *image = (const char *const[]){ "b.png", "a.JPG", "sub/c.jpeg", "note.txt", NULL }; *image;
		image++) {
		snprintf(file, sizeof(file), "%s/%s", name, *image);
		scratch_file(file, "x", 1);
	}
	snprintf(file, sizeof(file), "%s/metadata.jsonl", name);
	if (metadata != NULL)
		scratch_file(file, metadata, strlen(metadata));
	return path;
}

static void reads_metadata(void **state)
{
	struct qd_image_folder f;
	char expected[600];
	const char *path = folder("meta", "{\"file_name\": \"b.png\", \"text\": \"a \\u00e9 cat\", \"mask_file_name\": \"a.JPG\", "
					  "\"other\": [1]}\r\n\n"
					  "{\"file_name\": \"sub/c.jpeg\", \"text\": null, \"mask_file_name\": null, "
					  "\"conditioning_image_file_name\": \"b.png\", \"caption\": \"dog\"}");

	(void)state;
	OK(qd_image_folder_open(&f, path, "text"));
	assert_int_equal(f.n, 2);
	snprintf(expected, sizeof(expected), "%s/b.png", path);
	assert_string_equal(f.rows[0].image, expected);
	assert_string_equal(f.rows[0].text, "a \xc3\xa9 cat");
	assert_true(qd_ends_with(f.rows[0].mask, "/a.JPG"));
	assert_null(f.rows[0].condition);
	assert_string_equal(f.rows[1].text, "");
	assert_null(f.rows[1].mask);
	assert_true(qd_ends_with(f.rows[1].condition, "/b.png"));
	qd_image_folder_release(&f);
	OK(qd_image_folder_open(&f, path, "caption"));
	assert_string_equal(f.rows[1].text, "dog");
	qd_image_folder_release(&f);
	OK(qd_image_folder_open(&f, folder("plain", NULL), "text"));
	assert_int_equal(f.n, 2);
	assert_true(qd_ends_with(f.rows[0].image, "plain/a.JPG") && qd_ends_with(f.rows[1].image, "plain/b.png"));
	assert_string_equal(f.rows[0].text, "");
	qd_image_folder_release(&f);
}

static void refuses_metadata(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{ "{\"file_name\": \"b.png\"}\n{\"file_name\": \"a.JPG\",}", "metadata.jsonl' line 2: " },
		{ "[1]", "metadata.jsonl' line 1: needs a JSON object" },
		{ "\n{\"text\": \"x\"}", "metadata.jsonl' line 2: has no 'file_name'" },
		{ "{\"file_name\": 3}", "line 1: 'file_name' is no text" },
		{ "{\"file_name\": \"\"}", "line 1: 'file_name' is no text" },
		{ "{\"file_name\": \"b.png\", \"text\": 3}", "line 1: 'text' is no text" },
		{ "{\"file_name\": \"z.png\"}", "line 1: 'file_name' is 'z.png', and there is no such file" },
		{ "{\"file_name\": \"sub\"}", "line 1: 'file_name' is 'sub', and there is no such file" },
		{ "{\"file_name\": \"b.png\", \"mask_file_name\": \"m.png\"}",
			"line 1: 'mask_file_name' is 'm.png', and there is no such file" },
		{ "{\"file_name\": \"../bad/b.png\"}", "line 1: 'file_name' is '../bad/b.png', which is not below the folder" },
		{ "{\"file_name\": \"sub/../b.png\"}", "which is not below the folder" },
		{ "{\"file_name\": \"/etc/passwd\"}", "which is not below the folder" },
		{ "{\"file_name\": \"b.png\"}\n{\"file_name\": \"a.JPG\"}\n{\"file_name\": \"b.png\"}",
			"line 3: 'file_name' is 'b.png', as in line 1" },
		{ "\n \n", "metadata.jsonl' names no image" },
	};
	struct qd_image_folder f;

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		assert_int_equal(qd_image_folder_open(&f, folder("bad", cases[i].text), "text"), QD_EINPUT);
		if (strstr(qd_message(), cases[i].message) == NULL)
			fail_msg("says \"%s\" instead of \"%s\"", qd_message(), cases[i].message);
		assert_int_equal(f.n, 0);
	}
	assert_int_equal(qd_image_folder_open(&f, "/nowhere", "text"), QD_EIO);
	assert_string_equal(qd_message(), "cannot read the folder '/nowhere'");
	mkdir(scratch_path("hollow"), 0700);
	assert_int_equal(qd_image_folder_open(&f, scratch_path("hollow"), "text"), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "hollow' holds neither metadata.jsonl nor images"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_colours_and_grey),
		cmocka_unit_test(turns_as_exif_says),
		cmocka_unit_test(refuses_bad_jpegs),
		cmocka_unit_test(ignores_damaged_exif),
		cmocka_unit_test(reads_metadata),
		cmocka_unit_test(refuses_metadata),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
