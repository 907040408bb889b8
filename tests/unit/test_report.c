/*
 * export/report: latents as images, PSNR with mean and standard error against plain loops, the table, JSON, the contact sheet, and
 * refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "export/report/report.h"
#include "lib/draw/draw.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"

enum { N = 4, PACK = 2, CHANNELS = 3, H = 5, W = 4, LATENTS = CHANNELS * PACK * PACK, EACH = LATENTS * H * W };

static void write_tensor(const char *path, const char *name, struct qd_shape shape, const float *data)
{
	struct qd_tensor t = qd_tensor_view(name, QD_F32, shape, data);
	if (qd_safetensors_write(path, &t, 1, NULL, 0, true, NULL, NULL) != QD_OK)
		fail_msg("%s", qd_message());
}

static void fill(float *x, size_t n, uint64_t seed, const float *near, float amount)
{
	for (size_t i = 0; i < n; i++)
		x[i] = (near != NULL ? near[i] : 0) + amount * (float)(2 * ir_uniform(&seed) - 1);
}

static float clamp01(float v)
{
	return v < 0 ? 0 : v > 1 ? 1 : v;
}

/* PSNR per sample as a loop over latents: packing only moves pixels. */
static double plain_psnr(const float *a, const float *b)
{
	double sum = 0;
	for (int i = 0; i < EACH; i++) {
		double d = (double)clamp01(0.5f + 0.5f * a[i]) - (double)clamp01(0.5f + 0.5f * b[i]);
		sum += d * d;
	}
	return -10 * log10(sum / EACH);
}

struct files {
	float reference[N * EACH], near[N * EACH], far[N * EACH], truth[N * EACH], condition[N * (LATENTS + 4) * H * W];
	struct qd_report report;
	struct qd_report_task tasks[2];
	struct qd_report_column columns[2][2];
};

/* Two tasks; the second lacks the column "far" and the truth. */
static void make(struct files *f)
{
	static char path[6][4096];
	static const char *const names[] = { "reference", "near", "far", "truth", "in", "same" };
	struct qd_shape shape = QD_SHAPE(N, LATENTS, H, W);
	uint64_t seed = test_seed();
	memset(f, 0, sizeof(*f));
	for (int i = 0; i < 6; i++)
		snprintf(path[i], sizeof(path[i]), "%s", scratch_path(names[i]));
	fill(f->reference, N * EACH, seed, NULL, 1.2f);
	fill(f->near, N * EACH, seed + 1, f->reference, 0.01f);
	fill(f->far, N * EACH, seed + 2, f->reference, 0.5f);
	fill(f->truth, N * EACH, seed + 3, f->reference, 0.1f);
	fill(f->condition, N * (LATENTS + 4) * H * W, seed + 4, NULL, 1);
	write_tensor(path[0], "latents", shape, f->reference);
	write_tensor(path[1], "latents", shape, f->near);
	write_tensor(path[2], "latents", shape, f->far);
	write_tensor(path[3], "latents", shape, f->truth);
	write_tensor(path[4], "condition", QD_SHAPE(N, LATENTS + 4, H, W), f->condition);
	f->columns[0][0] = (struct qd_report_column){ "near", path[1] };
	f->columns[0][1] = (struct qd_report_column){ "far", path[2] };
	f->columns[1][0] = (struct qd_report_column){ "near", path[0] };
	f->tasks[0] = (struct qd_report_task){
		.name = "removal", .reference = path[0], .input = path[4], .truth = path[3], .columns = f->columns[0], .n = 2
	};
	f->tasks[1] = (struct qd_report_task){ .name = "sketch", .reference = path[0], .columns = f->columns[1], .n = 1 };
	f->report = (struct qd_report){ .tasks = f->tasks, .n = 2, .pack = PACK, .show = 2, .zoom = 3 };
	if (qd_report_measure(&f->report) != QD_OK)
		fail_msg("%s", qd_message());
}

static void done(struct files *f)
{
	qd_arena_release(&f->report.arena);
}

/* ---- images ---- */

/* Pixel (c, y, x) comes from latent channel (c * 2 + y % 2) * 2 + x % 2 at (y / 2, x / 2), as (1 + v) / 2 clamped. */
static void latents_unpack_to_pixels(void **state)
{
	struct files *f = malloc(sizeof(*f));
	struct qd_images images;
	(void)state;
	make(f);
	assert_int_equal(qd_images_read(&images, &f->report, f->tasks[0].reference, "latents", 0), QD_OK);
	assert_int_equal(images.n, N);
	assert_int_equal(images.channels, CHANNELS);
	assert_int_equal(images.height, H * PACK);
	assert_int_equal(images.width, W * PACK);
	for (int i = 0; i < N; i++)
		for (int c = 0; c < CHANNELS; c++)
			for (int y = 0; y < H * PACK; y++)
				for (int x = 0; x < W * PACK; x++) {
					float v = f->reference[i * EACH + ((c * 4 + (y % 2) * 2 + x % 2) * H + y / 2) * W + x / 2];
					float p = images.pixels[((i * CHANNELS + c) * H * PACK + y) * W * PACK + x];
					assert_true(p == clamp01(0.5f + 0.5f * v));
				}
	qd_images_release(&images);
	done(f);
	free(f);
}

/* The image of a condition is its last channels. */
static void a_condition_ends_in_an_image(void **state)
{
	struct files *f = malloc(sizeof(*f));
	struct qd_images images;
	(void)state;
	make(f);
	assert_int_equal(qd_images_read(&images, &f->report, f->tasks[0].input, "condition", LATENTS), QD_OK);
	float v = f->condition[(1 * (LATENTS + 4) + 4) * H * W];
	assert_true(images.pixels[CHANNELS * H * W * PACK * PACK] == clamp01(0.5f + 0.5f * v));
	qd_images_release(&images);
	done(f);
	free(f);
}

static void refuses_other_shapes(void **state)
{
	struct qd_images images;
	struct qd_report plain = { .pack = 1 }, packed = { .pack = 2 };
	float x[12] = { 0 };
	const char *path = scratch_path("bad");
	char wanted[4200];
	(void)state;
	write_tensor(path, "latents", QD_SHAPE(3, 4), x);
	assert_int_equal(qd_images_read(&images, &plain, path, "latents", 0), QD_EINPUT);
	snprintf(wanted, sizeof(wanted), "'%s': tensor 'latents' is [3,4], needs [N,C,H,W] with C at least 0", path);
	assert_string_equal(qd_message(), wanted);
	write_tensor(path, "latents", QD_SHAPE(1, 3, 2, 2), x);
	assert_int_equal(qd_images_read(&images, &packed, path, "latents", 0), QD_EINPUT);
	snprintf(wanted, sizeof(wanted), "'%s': tensor 'latents' has 3 image channels, needs a multiple of 4 (pack 2)", path);
	assert_string_equal(qd_message(), wanted);
	x[5] = NAN;
	write_tensor(path, "latents", QD_SHAPE(1, 3, 2, 2), x);
	assert_int_equal(qd_images_read(&images, &plain, path, "latents", 0), QD_EINPUT);
}

/* ---- numbers ---- */

static void expect_close(double found, double wanted)
{
	/* a clamped float32 difference of 1e-2 is exact to 6e-8, 1e-5 of it: 1e-4 dB */
	assert_true(fabs(found - wanted) < 1e-3);
}

static void measures_mean_and_standard_error(void **state)
{
	struct files *f = malloc(sizeof(*f));
	double each[N], mean = 0, variance = 0;
	(void)state;
	make(f);
	for (int i = 0; i < N; i++) {
		each[i] = plain_psnr(f->reference + i * EACH, f->far + i * EACH);
		mean += each[i] / N;
	}
	for (int i = 0; i < N; i++)
		variance += (each[i] - mean) * (each[i] - mean) / (N - 1);
	assert_int_equal(f->report.n_columns, 2);
	const struct qd_report_cell *far = &f->report.cells[1];
	assert_int_equal(far->n, N);
	for (int i = 0; i < N; i++)
		expect_close(far->each[i], each[i]);
	expect_close(far->mean, mean);
	expect_close(far->standard_error, sqrt(variance / N));
	expect_close(f->report.reference[0].truth_mean,
		(plain_psnr(f->reference, f->truth) + plain_psnr(f->reference + EACH, f->truth + EACH) +
			plain_psnr(f->reference + 2 * EACH, f->truth + 2 * EACH) +
			plain_psnr(f->reference + 3 * EACH, f->truth + 3 * EACH)) /
			N);
	assert_true(isnan(f->report.reference[1].truth_mean));
	assert_true(isinf(f->report.cells[2].mean)); /* a column that is the reference itself */
	assert_null(f->report.cells[3].each);
	done(f);
	free(f);
}

static void the_table_is_aligned(void **state)
{
	struct files *f = malloc(sizeof(*f));
	char *text;
	(void)state;
	make(f);
	f->report.cells[0].mean = 51.24;
	f->report.cells[0].standard_error = 0.26;
	f->report.cells[1].mean = 9.9;
	f->report.cells[1].standard_error = 0.04;
	f->report.reference[0].truth_mean = f->report.cells[0].truth_mean = f->report.cells[1].truth_mean = 20;
	f->report.reference[0].truth_standard_error = f->report.cells[0].truth_standard_error =
		f->report.cells[1].truth_standard_error = 1;
	assert_int_equal(qd_report_text(&f->report, &text), QD_OK);
	assert_string_equal(text, "| PSNR against float, dB |       near |       far |\n"
				  "|:-----------------------|-----------:|----------:|\n"
				  "| removal                | 51.2 \xC2\xB1 0.3 | 9.9 \xC2\xB1 0.0 |\n"
				  "| sketch                 |      equal |         - |\n"
				  "\n"
				  "| PSNR against the truth, dB |      float |       near |        far |\n"
				  "|:---------------------------|-----------:|-----------:|-----------:|\n"
				  "| removal                    | 20.0 \xC2\xB1 1.0 | 20.0 \xC2\xB1 1.0 | 20.0 \xC2\xB1 1.0 |\n"
				  "| sketch                     |          - |          - |          - |\n");
	free(text);
	done(f);
	free(f);
}

static void json_holds_every_sample(void **state)
{
	struct files *f = malloc(sizeof(*f));
	json_t *d;
	(void)state;
	make(f);
	assert_int_equal(qd_report_json(&f->report, &d), QD_OK);
	assert_int_equal(json_integer_value(json_object_get(d, "schema")), 1);
	const json_t *task = json_array_get(json_object_get(d, "tasks"), 0),
		     *column = json_array_get(json_object_get(task, "columns"), 1);
	assert_string_equal(json_string_value(json_object_get(column, "name")), "far");
	assert_int_equal(json_array_size(json_object_get(column, "samples")), N);
	assert_true(json_real_value(json_object_get(column, "psnr_db")) == f->report.cells[1].mean);
	const json_t *equal = json_array_get(json_object_get(json_array_get(json_object_get(d, "tasks"), 1), "columns"), 0);
	assert_true(json_is_null(json_object_get(equal, "psnr_db"))); /* infinite */
	/* what was not measured is not there */
	assert_null(json_object_get(equal, "truth_psnr_db"));
	assert_null(json_object_get(json_array_get(json_object_get(d, "tasks"), 1), "float_truth_psnr_db"));
	assert_true(json_is_real(json_object_get(task, "float_truth_psnr_db")));
	json_decref(d);
	done(f);
	free(f);
}

/* Latents that are no pixels are not clamped, and what is measured says its name. */
static void latents_are_compared_as_they_are(void **state)
{
	struct files *f = malloc(sizeof(*f));
	struct qd_image sheet;
	double signal = 0, noise = 0;
	char *text;
	json_t *d;

	(void)state;
	make(f);
	qd_arena_release(&f->report.arena);
	f->report.n_columns = 0;
	f->report.pack = 0;
	assert_int_equal(qd_report_measure(&f->report), QD_OK);
	for (int i = 0; i < EACH; i++) {
		double a = (double)f->reference[i], b = (double)f->far[i];

		signal += a * a;
		noise += (a - b) * (a - b);
	}
	expect_close(f->report.cells[1].each[0], 10 * log10(signal / noise));
	assert_int_equal(qd_report_text(&f->report, &text), QD_OK);
	assert_non_null(strstr(text, "| SQNR of latents against float, dB |"));
	assert_null(strstr(text, "PSNR"));
	free(text);
	assert_int_equal(qd_report_json(&f->report, &d), QD_OK);
	const json_t *column = json_array_get(json_object_get(json_array_get(json_object_get(d, "tasks"), 0), "columns"), 1);
	assert_true(json_real_value(json_object_get(column, "sqnr_db")) == f->report.cells[1].mean);
	assert_null(json_object_get(column, "psnr_db"));
	json_decref(d);
	assert_int_equal(qd_report_sheet(&f->report, &sheet), QD_EINPUT);
	assert_string_equal(
		qd_message(), "latents are no images, which a sheet shows: give --decode, or --pack where they are pixels");
	done(f);
	free(f);
}

/* "near" and "far", then "near", "middle": a column of a later task comes behind the one that it follows there. */
static void columns_keep_their_order(void **state)
{
	struct files *f = malloc(sizeof(*f));
	(void)state;
	make(f);
	f->columns[1][1] = (struct qd_report_column){ "middle", f->columns[0][0].path };
	f->tasks[1].n = 2;
	qd_arena_release(&f->report.arena);
	f->report.n_columns = 0;
	assert_int_equal(qd_report_measure(&f->report), QD_OK);
	assert_int_equal(f->report.n_columns, 3);
	assert_string_equal(f->report.columns[0], "near");
	assert_string_equal(f->report.columns[1], "middle");
	assert_string_equal(f->report.columns[2], "far");
	assert_null(f->report.cells[1].each);
	assert_non_null(f->report.cells[4].each);
	done(f);
	free(f);
}

static void names_the_file_that_does_not_fit(void **state)
{
	struct files *f = malloc(sizeof(*f));
	char wanted[8400];
	const char *path = scratch_path("few");
	(void)state;
	make(f);
	write_tensor(path, "latents", QD_SHAPE(2, LATENTS, H, W), f->near);
	f->columns[0][1].path = path;
	qd_arena_release(&f->report.arena);
	f->report.n_columns = 0;
	assert_int_equal(qd_report_measure(&f->report), QD_EINPUT);
	snprintf(wanted, sizeof(wanted), "task 'removal': '%s' holds 2 images of 3x10x8, needs 4 of 3x10x8 as in '%s'", path,
		f->tasks[0].reference);
	assert_string_equal(qd_message(), wanted);
	done(f);
	free(f);
}

/* ---- the sheet ---- */

static const uint8_t *pixel(const struct qd_image *image, int x, int y)
{
	return image->rgb + 3 * ((size_t)y * (size_t)image->width + (size_t)x);
}

/* White paper, something drawn, and nowhere outside the image (the sanitizer watches). */
static void draws_a_sheet(void **state)
{
	struct files *f = malloc(sizeof(*f));
	struct qd_image sheet;
	size_t inked = 0;
	(void)state;
	make(f);
	assert_int_equal(qd_report_sheet(&f->report, &sheet), QD_OK);
	assert_true(sheet.width > 4 * 2 * W * PACK * 3 && sheet.height > 2 * H * PACK * 3);
	assert_int_equal(pixel(&sheet, 0, 0)[0], 255);
	assert_int_equal(pixel(&sheet, sheet.width - 1, sheet.height - 1)[2], 255);
	for (int y = 0; y < sheet.height; y++)
		for (int x = 0; x < sheet.width; x++)
			inked += pixel(&sheet, x, y)[0] != 255;
	/* at least the images: two cells of two samples and more, each 24 x 30 pixels, of which few are white */
	assert_true(inked > 4 * 24 * 30 / 2);
	qd_image_release(&sheet);
	done(f);
	free(f);
}

/* A constant image stays constant when enlarged: the weights of the interpolation sum to 1. */
static void enlarging_keeps_a_constant(void **state)
{
	struct qd_image image;
	float grey[3 * 4 * 5];
	(void)state;
	for (size_t i = 0; i < QD_COUNT(grey); i++)
		grey[i] = 0.4f;
	assert_int_equal(qd_image_new(&image, 20, 20), QD_OK);
	qd_draw_pixels(&image, 3, -2, grey, 4, 5, 3);
	for (int y = 0; y < 10; y++)
		for (int x = 3; x < 18; x++)
			assert_int_equal(pixel(&image, x, y)[1], 102);
	assert_int_equal(pixel(&image, 2, 0)[1], pixel(&image, 19, 19)[1]);
	qd_image_release(&image);
}

static void text_is_clipped_and_measured(void **state)
{
	struct qd_image image;
	(void)state;
	assert_int_equal(qd_image_new(&image, 30, 12), QD_OK);
	qd_draw_box(&image, -5, -5, 100, 100, 0xFFFFFF);
	double end = qd_draw_text(&image, -8, 9, 10, 0x000000, "quad \xC2\xB1 \xE2\x88\x9E \x01 and on, and on");
	assert_true(end > 30);
	assert_true(qd_draw_text_width(10, "") == 0);
	assert_true(qd_draw_text_width(10, "mm") > 2 * qd_draw_text_width(10, "i"));
	assert_true(fabs(qd_draw_text_width(20, "quad") - 2 * qd_draw_text_width(10, "quad")) < 1e-9);
	qd_image_release(&image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(latents_unpack_to_pixels),
		cmocka_unit_test(a_condition_ends_in_an_image),
		cmocka_unit_test(refuses_other_shapes),
		cmocka_unit_test(measures_mean_and_standard_error),
		cmocka_unit_test(the_table_is_aligned),
		cmocka_unit_test(json_holds_every_sample),
		cmocka_unit_test(latents_are_compared_as_they_are),
		cmocka_unit_test(columns_keep_their_order),
		cmocka_unit_test(names_the_file_that_does_not_fit),
		cmocka_unit_test(draws_a_sheet),
		cmocka_unit_test(enlarging_keeps_a_constant),
		cmocka_unit_test(text_is_clipped_and_measured),
	};
	return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
