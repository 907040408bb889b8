/*
 * Memory that runs out, lib/base, lib/io, lib/ir and lib/kernel: readers and writers of files, and what works on codes, with
 * each allocation failing in turn.
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
#include "lib/kernel/kernel.h"
#include "tests/unit/failing_malloc.h"
#include "tests/unit/npy_help.h"
#include "tests/unit/scratch.h"

/* A file of the fuzz targets. */
static const char *corpus(const char *name)
{
	static char path[4096];
	const char *root = getenv("QUAD_ROOT");

	snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", root != NULL ? root : ".", name);
	return path;
}

static void see_tensor(const struct qd_tensor *t)
{
	failing_see_text(t->name);
	failing_see(&t->shape, sizeof(t->shape));
	failing_see(&t->dtype, sizeof(t->dtype));
	failing_see(t->data, t->bytes);
}

/* ---- JSON ---- */

static enum qd_status read_json(const void *path)
{
	json_t *json = NULL;
	char *text = NULL;
	enum qd_status st = qd_json_read(path, &json);

	if (st == QD_OK)
		st = qd_json_text(json, JSON_COMPACT, &text);
	failing_see_text(text);
	free(text);
	json_decref(json);
	return st;
}

static enum qd_status write_json(const void *json)
{
	const char *path = scratch_path("written.json");
	enum qd_status st = qd_json_write(path, json, true);

	if (st == QD_OK)
		failing_see_file(path);
	return st;
}

static void json(void **state)
{
	static const char text[] =
		"{\"a\": [1, 2.5, \"t\\u00e9xt\", {\"b\": null, \"c\": true}], \"a key of some length\": -1e300}";
	const char *path = scratch_file("a.json", text, strlen(text));
	json_t *value;

	(void)state;
	failing_each_on("reading JSON", read_json, path);
	OK(qd_json_read(scratch_path("a.json"), &value));
	failing_each("writing JSON", write_json, value);
	json_decref(value);
}

/* ---- files and folders out ---- */

static enum qd_status write_folder(const void *context)
{
	const char *path = scratch_path("folder");
	struct qd_output_folder folder = { 0 };
	char file[4096];
	enum qd_status st;

	(void)context;
	QD_TRY(st, qd_output_folder_open(&folder, path, true));
	snprintf(file, sizeof(file), "%s/file", folder.temporary);
	QD_TRY(st, qd_write_file(file, "text", 4, false));
	QD_TRY(st, qd_output_folder_commit(&folder));
	snprintf(file, sizeof(file), "%s/file", path);
	failing_see_file(file);
out:
	qd_output_folder_release(&folder);
	return st;
}

static void folders(void **state)
{
	(void)state;
	failing_each("writing a folder", write_folder, NULL);
}

/* ---- tensors ---- */

static const float numbers[] = { 1, -2, 3.5f, 0, 1e-3f, 7 };

/* Two tensors and metadata, or the bytes of one asked for from a function. */
static enum qd_status fill(void *context, size_t i, void *buffer)
{
	(void)context, (void)i;
	memcpy(buffer, numbers, sizeof(numbers));
	return QD_OK;
}

static enum qd_status write_safetensors(const void *context)
{
	const char *path = scratch_path("written.safetensors");
	static const char *const metadata[] = { "key", "value", "other", "text" };
	struct qd_tensor tensors[] = { qd_tensor_view("a.weight", QD_F32, QD_SHAPE(2, 3), numbers),
		qd_tensor_view("a.bias", QD_F32, QD_SHAPE(6), context) };
	enum qd_status st;

	tensors[1].bytes = sizeof(numbers);
	st = qd_safetensors_write(path, tensors, 2, metadata, 2, true, fill, NULL);
	if (st == QD_OK)
		failing_see_file(path);
	return st;
}

static enum qd_status read_safetensors(const void *path)
{
	struct qd_safetensors file = { 0 };
	enum qd_status st = qd_safetensors_open(&file, path);

	for (size_t i = 0; i < file.n; i++)
		see_tensor(&file.tensors[i]);
	if (st == QD_OK) {
		failing_see_text(qd_safetensors_metadata(&file, "other"));
		if (qd_safetensors_find(&file, "a.bias") == NULL)
			failing_see_text("lost");
	}
	qd_safetensors_release(&file);
	return st;
}

static void safetensors(void **state)
{
	(void)state;
	failing_each("writing safetensors", write_safetensors, numbers);
	failing_each("streaming safetensors", write_safetensors, NULL);
	failing_each_on("reading safetensors", read_safetensors, scratch_path("written.safetensors"));
}

static enum qd_status open_set(const void *path)
{
	struct qd_tensor_set set = { 0 };
	enum qd_status st = qd_tensor_set_open(&set, path);

	for (size_t i = 0; st == QD_OK && i < set.n; i++) {
		see_tensor(&set.tensors[i]);
		if (qd_tensor_set_find(&set, set.tensors[i].name) != &set.tensors[i])
			failing_see_text("lost");
	}
	qd_tensor_set_release(&set);
	return st;
}

static void arrays(void **state)
{
	struct qd_tensor array = qd_tensor_view("t", QD_F32, QD_SHAPE(2, 3), numbers);

	(void)state;
	mkdir(scratch_path("set"), 0777);
	npy_write(scratch_path("set/b.npy"), &array);
	npy_write(scratch_path("set/a.npy"), &array);
	failing_each_on("a set of one array", open_set, scratch_path("set/a.npy"));
	failing_each_on("a set of a folder of arrays", open_set, scratch_path("set"));
	failing_each_on("a set of an archive, stored", open_set, corpus("zip/stored"));
	failing_each_on("a set of an archive, deflated", open_set, corpus("zip/deflated"));
	failing_each_on("a set of a safetensors file", open_set, scratch_path("written.safetensors"));
}

static enum qd_status convert(const void *context)
{
	struct qd_tensor t = { 0 };
	enum qd_status st;

	(void)context;
	QD_TRY(st, qd_tensor_new(&t, "t", QD_F16, &QD_SHAPE(2, 3)));
	QD_TRY(st, qd_tensor_from_f32(&t, numbers));
	see_tensor(&t);
out:
	qd_tensor_release(&t);
	return st;
}

static void tensors(void **state)
{
	(void)state;
	failing_each("a tensor", convert, NULL);
}

/* ---- pictures ---- */

static enum qd_status write_image(const void *path)
{
	struct qd_image image = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_image_new(&image, 5, 3));
	for (int i = 0; i < 5 * 3 * 3; i++)
		image.rgb[i] = (uint8_t)(i * 5);
	QD_TRY(st, qd_image_write(path, &image, true));
	failing_see_file(path);
out:
	qd_image_release(&image);
	return st;
}

static enum qd_status read_image(const void *path)
{
	struct qd_image image = { 0 };
	enum qd_status st = qd_image_read(path, &image);

	if (st == QD_OK)
		failing_see(image.rgb, 3 * (size_t)image.width * (size_t)image.height);
	qd_image_release(&image);
	return st;
}

static void pictures(void **state)
{
	static const char *const kinds[] = { "rgb", "rgba", "palette", "grey16_alpha", "interlaced", "jpeg", "jpeg_turned" };

	(void)state;
	failing_each_on("writing a PNG", write_image, scratch_path("written.png"));
	for (size_t i = 0; i < QD_COUNT(kinds); i++) {
		char name[64];

		snprintf(name, sizeof(name), "png/%s", kinds[i]);
		failing_each_on(kinds[i], read_image, corpus(name));
	}
}

static enum qd_status open_images(const void *path)
{
	struct qd_image_folder folder = { 0 };
	enum qd_status st = qd_image_folder_open(&folder, path, "text");

	for (size_t i = 0; st == QD_OK && i < folder.n; i++) {
		failing_see_text(folder.rows[i].image);
		failing_see_text(folder.rows[i].text);
		failing_see_text(folder.rows[i].mask);
	}
	qd_image_folder_release(&folder);
	return st;
}

static void image_folders(void **state)
{
	static const char lines[] = "{\"file_name\": \"a.png\", \"text\": \"a cat\", \"mask_file_name\": \"b.png\"}\n"
				    "{\"file_name\": \"b.png\", \"text\": \"a dog\"}\n";

	(void)state;
	mkdir(scratch_path("images"), 0777);
	OK(write_image(scratch_path("images/a.png")));
	OK(write_image(scratch_path("images/b.png")));
	failing_each_on("a folder of images", open_images, scratch_path("images"));
	scratch_file("images/metadata.jsonl", lines, strlen(lines));
	failing_each_on("a folder of images with captions", open_images, scratch_path("images"));
}

/* ---- graphs ---- */

static enum qd_status parse_graph(const void *text)
{
	struct qd_graph g = { 0 };
	char *printed = NULL;
	enum qd_status st;

	QD_TRY(st, qd_graph_parse(&g, "text", text));
	QD_TRY(st, qd_graph_recognize(&g, NULL, NULL));
	QD_TRY(st, qd_graph_verify(&g));
	QD_TRY(st, qd_graph_print(&g, &printed));
	failing_see_text(printed);
out:
	free(printed);
	qd_graph_release(&g);
	return st;
}

/* Every golden text of tests/ir: each is the place of a pass. */
static void graphs(void **state)
{
	static const char *const names[] = { "attention", "attention_keys", "dead_code", "fold_mask", "fold_shapes", "forms",
		"gelu", "group_norm", "layer_norm", "merge", "no_ops", "tokens", "views" };
	const char *root = getenv("QUAD_ROOT");

	(void)state;
	for (size_t i = 0; i < QD_COUNT(names); i++) {
		struct qd_mapping file;
		char path[4096], *text;

		snprintf(path, sizeof(path), "%s/tests/ir/%s.ir", root != NULL ? root : ".", names[i]);
		OK(qd_mapping_open(&file, path));
		text = strndup((const char *)file.data, file.size);
		qd_mapping_release(&file);
		failing_each(names[i], parse_graph, text);
		free(text);
	}
}

/* ---- products of codes ---- */

enum { ROWS = 5, MOST = 64 };

static _Alignas(64) char scratch[1 << 20];

static void see_rows(void *context, size_t first, size_t n, float *rows)
{
	const struct qd_product_spec *shape = context;

	(void)first;
	failing_see(rows, n * (size_t)shape->out * sizeof(*rows));
}

static enum qd_status multiply(const void *context)
{
	const struct qd_integer_spec *spec = context;
	uint8_t codes[2 * ROWS * MOST];
	int16_t w[MOST * MOST];
	float scale[MOST];
	struct qd_numbers x = { .form = spec->x, .at = codes, .plane = ROWS * MOST, .scale = 0.5f, .zero = 7, .high = 65535 };
	struct qd_product_spec shape = spec->shape;
	struct qd_integer_product *product = NULL;
	enum qd_status st;

	for (size_t i = 0; i < QD_COUNT(codes); i++)
		codes[i] = (uint8_t)(i * i);
	for (size_t i = 0; i < QD_COUNT(w); i++)
		w[i] = (int16_t)(i * 77);
	for (size_t i = 0; i < MOST; i++)
		scale[i] = 1;
	QD_TRY(st, qd_integer_product_new(&product, spec));
	QD_TRY(st, qd_integer_product_pack(product, w));
	assert_true(qd_integer_product_scratch_bytes(product) <= sizeof(scratch));
	QD_TRY(st, qd_integer_product_run(product, &x, scale, NULL, see_rows, &shape, scratch));
out:
	qd_integer_product_free(product);
	return st;
}

static void products_of_codes(void **state)
{
	(void)state;
	struct qd_integer_spec spec = { qd_linear_spec(ROWS, 64, 48), QD_FORM_U16, 16 };

	failing_each("a product of codes", multiply, &spec);
	spec.shape.in = 12;
	failing_each("a product of codes with short sums", multiply, &spec);
}

/* ---- what lies between them ---- */

static enum qd_status attend(const void *context)
{
	/* on one thread: in others nothing fails */
	const struct qd_attention a = { 1, 1, 6, 7, 4, 5, 0.5f, { 0, 0, 4 }, { 0, 0, 4 }, { 0, 0, 5 }, { 0, 0, 5 } };
	uint8_t codes[2][7 * 5] = { { 1, 20, 3, 40, 5 }, { 200, 4, 99 } };
	const struct qd_numbers in = { QD_FORM_U8, codes[0], 0, 0.1f, 9, 255 }, out = { QD_FORM_U8, codes[1], 0, 0.1f, 9, 255 };
	enum qd_status st = qd_attention_numbers(&a, &in, &in, &in, context, &out);

	failing_see(codes[1], 6 * 5);
	return st;
}

static enum qd_status normalize(const void *context)
{
	const float ones[6] = { 1, 1, 1, 1, 1, 1 };
	uint8_t codes[4 * 6] = { 1, 20, 3, 40, 5 };
	const struct qd_numbers in = { QD_FORM_U8, codes, 0, 0.1f, 9, 255 };
	struct qd_product_spec shape = { .out = 6 };

	if (context == NULL)
		return qd_layer_norm_numbers(4, 6, 1e-5f, &in, ones, NULL, see_rows, &shape);
	return qd_group_norm_numbers(context, &in, ones, ones, NULL, see_rows, &shape);
}

static void between_products(void **state)
{
	const struct qd_numbers grid = { .scale = 0.01f, .high = 255 };
	const struct qd_attention_grids grids = { NULL, NULL, &grid };
	const struct qd_group_norm g = { .n = 1, .pixels = 4, .channels = 6, .groups = 2, .eps = 1e-5f };

	(void)state;
	failing_each("attention over codes", attend, NULL);
	failing_each("attention over codes with a grid", attend, &grids);
	failing_each("layer normalization of codes", normalize, NULL);
	failing_each("group normalization of codes", normalize, &g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json),
		cmocka_unit_test(folders),
		cmocka_unit_test(tensors),
		cmocka_unit_test(safetensors),
		cmocka_unit_test(arrays),
		cmocka_unit_test(pictures),
		cmocka_unit_test(image_folders),
		cmocka_unit_test(graphs),
		cmocka_unit_test(products_of_codes),
		cmocka_unit_test(between_products),
	};
	return cmocka_run_group_tests_name("out_of_memory", tests, NULL, NULL);
}
