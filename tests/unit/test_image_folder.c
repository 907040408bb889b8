/*
 * lib/data, image folders: what metadata.jsonl and metadata.csv say of images is read, and every line that is wrong is named; a
 * caption that is not there is told.
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

#include "lib/data/data.h"
#include "tests/unit/scratch.h"

#define OK(call)                                                                                                                   \
	do {                                                                                                                       \
		if ((call) != QD_OK)                                                                                               \
			fail_msg("%s", qd_message());                                                                              \
	} while (0)

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

/* The same with metadata.csv, `bytes` of it. */
static const char *csv_folder(const char *name, const char *metadata, size_t bytes)
{
	const char *path = folder(name, NULL);
	char file[600];

	snprintf(file, sizeof(file), "%s/metadata.csv", name);
	scratch_file(file, metadata, bytes);
	return path;
}

/* The last warning. */
static char warning[512];

static void keep_warning(void *context, enum qd_log_level level, const char *text)
{
	(void)context;
	if (level == QD_LOG_WARNING)
		snprintf(warning, sizeof(warning), "%s", text);
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
	assert_true(qd_ends_with(qd_message(), "hollow' holds neither metadata.jsonl, metadata.csv nor images"));
}

/* Quotes, commas, line ends and a byte order mark inside and around cells, as spreadsheets write them. */
static void reads_csv(void **state)
{
	static const char text[] = "\xef\xbb\xbf"
				   "text,file_name,mask_file_name,n\r\n"
				   "\"a red, \"\"big\"\" cat\nsitting\",b.png,,1\r\n"
				   "\r\n"
				   "plain,sub/c.jpeg,a.JPG,2";
	struct qd_image_folder f;

	(void)state;
	OK(qd_image_folder_open(&f, csv_folder("csv", text, sizeof(text) - 1), "text"));
	assert_int_equal(f.n, 2);
	assert_string_equal(f.rows[0].text, "a red, \"big\" cat\nsitting");
	assert_true(qd_ends_with(f.rows[0].image, "/b.png"));
	assert_null(f.rows[0].mask);
	assert_string_equal(f.rows[1].text, "plain");
	assert_true(qd_ends_with(f.rows[1].mask, "/a.JPG"));
	qd_image_folder_release(&f);
}

static void refuses_csv(void **state)
{
	static const struct {
		const char *text;
		size_t bytes;
		const char *message;
	} cases[] = {
		{ "file_name,text\nb.png,x,y\n", 26, "metadata.csv' line 2: has more cells than the first line, which has 2" },
		{ "file_name,text\nb.png,\"x\n", 24, "metadata.csv' line 2: a quoted cell does not end" },
		{ "file_name,text\na.JPG,u\nz.png,x\n", 32,
			"metadata.csv' line 3: 'file_name' is 'z.png', and there is no such file" },
		{ "file_name,text\nb.png,\xff\n", 23, "metadata.csv' line 2: a cell is not UTF-8" },
		{ "file_name,text\nb.png,a\0b\n", 25, "metadata.csv' line 2: holds a zero byte" },
		{ "text\nx\n", 7, "metadata.csv' line 2: has no 'file_name'" },
		{ "file_name,text\n", 15, "metadata.csv' names no image" },
		{ "", 0, "metadata.csv' names no image" },
	};
	struct qd_image_folder f;

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		assert_int_equal(qd_image_folder_open(&f, csv_folder("badcsv", cases[i].text, cases[i].bytes), "text"), QD_EINPUT);
		if (strstr(qd_message(), cases[i].message) == NULL)
			fail_msg("says \"%s\" instead of \"%s\"", qd_message(), cases[i].message);
	}
	scratch_file("badcsv/metadata.jsonl", "{}", 2);
	assert_int_equal(qd_image_folder_open(&f, scratch_path("badcsv"), "text"), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "badcsv' has both metadata.jsonl and metadata.csv, needs one"));
}

/* A line with a zero byte is JSON with one: refused, and nothing behind it is read. */
static void a_zero_byte_is_refused(void **state)
{
	static const char text[] = "{\"file_name\": \"b.png\"}\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\n";
	struct qd_image_folder f;

	(void)state;
	folder("zero", NULL);
	scratch_file("zero/metadata.jsonl", text, sizeof(text) - 1);
	assert_int_equal(qd_image_folder_open(&f, scratch_path("zero"), "text"), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "zero/metadata.jsonl' line 1: "));
}

/* Captions in another column are asked for; captions that are missing are counted. */
static void a_missing_caption_is_told(void **state)
{
	struct qd_image_folder f;

	(void)state;
	qd_set_log_hook(keep_warning, NULL);
	assert_int_equal(
		qd_image_folder_open(&f, folder("column", "{\"file_name\": \"b.png\", \"prompt\": \"a cat\"}"), "text"), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "has no caption 'text', but text in 'prompt': tell which column has the captions"));
	warning[0] = '\0';
	OK(qd_image_folder_open(&f, scratch_path("column"), "prompt"));
	assert_string_equal(f.rows[0].text, "a cat");
	assert_string_equal(warning, "");
	qd_image_folder_release(&f);
	OK(qd_image_folder_open(
		&f, folder("some", "{\"file_name\": \"b.png\", \"text\": \"x\"}\n{\"file_name\": \"a.JPG\"}"), "text"));
	assert_true(qd_ends_with(warning, "1 of 2 images have no 'text': their captions are empty"));
	qd_image_folder_release(&f);
	OK(qd_image_folder_open(&f, folder("none", "{\"file_name\": \"b.png\"}"), "text"));
	assert_true(qd_ends_with(warning, "1 of 1 images have no 'text': their captions are empty"));
	qd_image_folder_release(&f);
	qd_set_log_hook(NULL, NULL);
}

/* Without metadata every picture of the folder counts, and those that cannot be read are told. */
static void pictures_that_are_left_out_are_told(void **state)
{
	struct qd_image_folder f;
	const char *path = folder("mixed", NULL);

	(void)state;
	scratch_file("mixed/c.bmp", "x", 1);
	scratch_file("mixed/d.GIF", "x", 1);
	scratch_file("mixed/e.webp", "x", 1);
	qd_set_log_hook(keep_warning, NULL);
	OK(qd_image_folder_open(&f, path, "text"));
	assert_int_equal(f.n, 3);
	assert_true(qd_ends_with(f.rows[2].image, "mixed/e.webp"));
	qd_image_folder_release(&f);
	qd_set_log_hook(NULL, NULL);
	assert_true(qd_ends_with(warning,
		"has no metadata.jsonl or metadata.csv: all captions are empty; 2 images that are no PNG, JPEG "
		"or WebP are left out, the first is 'c.bmp'"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_metadata),
		cmocka_unit_test(refuses_metadata),
		cmocka_unit_test(reads_csv),
		cmocka_unit_test(refuses_csv),
		cmocka_unit_test(a_zero_byte_is_refused),
		cmocka_unit_test(a_missing_caption_is_told),
		cmocka_unit_test(pictures_that_are_left_out_are_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
