/*
 * lib/weights, weights of a folder: which file is taken, shards, and every refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/weights/weights.h"
#include "tests/unit/scratch.h"

static const char stem[] = "diffusion_pytorch_model";

/* A fresh folder below the scratch folder. */
static const char *folder(void)
{
	static int n;
	char name[32];
	snprintf(name, sizeof(name), "weights%d", n++);
	const char *path = scratch_path(name);
	assert_int_equal(mkdir(path, 0777), 0);
	return path;
}

static void put(const char *dir, const char *name, const char *text)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(qd_write_file(path, text, strlen(text), true), QD_OK);
}

/* A file of one-element tensors, the names in a list that ends with NULL; `value` is every element. */
static void put_tensors(const char *dir, const char *file, float value, const char *const *names)
{
	char path[4096];
	struct qd_tensor tensors[8];
	size_t n = 0;
	for (; names[n]; n++)
		tensors[n] = qd_tensor_view(names[n], QD_F32, QD_SHAPE(1), &value);
	snprintf(path, sizeof(path), "%s/%s", dir, file);
	assert_int_equal(qd_safetensors_write(path, tensors, n, NULL, 0, true, NULL, NULL), QD_OK);
}

#define NAMES(...) ((const char *const[]){ __VA_ARGS__, NULL })

static float value_of(const struct qd_weights *weights, const char *name)
{
	float value = 0;
	const struct qd_tensor *tensor = qd_weights_find(weights, name);
	assert_non_null(tensor);
	assert_int_equal(qd_tensor_to_f32(tensor, &value), QD_OK);
	return value;
}

static void opens(struct qd_weights *weights, const char *dir)
{
	if (qd_weights_open(weights, dir, stem) != QD_OK)
		fail_msg("%s", qd_message());
}

static void refuses(const char *dir, enum qd_status status, const char *message)
{
	struct qd_weights weights;
	assert_int_equal(qd_weights_open(&weights, dir, stem), status);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says '%s', not '%s'", qd_message(), message);
	assert_null(weights.tensors);
}

static void reads_one_file(void **state)
{
	struct qd_weights weights;
	const char *dir = folder();
	(void)state;
	put_tensors(dir, "diffusion_pytorch_model.safetensors", 3, NAMES("a", "b"));
	opens(&weights, dir);
	assert_int_equal(weights.n, 2);
	assert_true(value_of(&weights, "b") == 3);
	assert_null(qd_weights_find(&weights, "c"));
	qd_weights_release(&weights);
}

static void reads_shards(void **state)
{
	struct qd_weights weights;
	const char *dir = folder();
	(void)state;
	put_tensors(dir, "x-1.safetensors", 1, NAMES("a", "b"));
	put_tensors(dir, "x-2.safetensors", 2, NAMES("c"));
	put(dir, "diffusion_pytorch_model.safetensors.index.json",
		"{\"metadata\": {\"total_size\": 12}, \"weight_map\": {\"a\": \"x-1.safetensors\", \"c\": \"x-2.safetensors\", "
		"\"b\": \"x-1.safetensors\"}}");
	opens(&weights, dir);
	assert_int_equal(weights.n, 3);
	assert_int_equal(weights.n_files, 2);
	assert_true(value_of(&weights, "a") == 1 && value_of(&weights, "c") == 2);
	qd_weights_release(&weights);
}

/* Index before plain file before fp16 before bf16; within a variant the index first, in both spellings. */
static void prefers_in_order(void **state)
{
	struct qd_weights weights;
	const char *dir = folder();
	(void)state;
	put_tensors(dir, "s.safetensors", 1, NAMES("a"));
	put_tensors(dir, "diffusion_pytorch_model.bf16.safetensors", 2, NAMES("a"));
	opens(&weights, dir);
	assert_true(value_of(&weights, "a") == 2);
	qd_weights_release(&weights);
	put_tensors(dir, "diffusion_pytorch_model.fp16.safetensors", 3, NAMES("a"));
	opens(&weights, dir);
	assert_true(value_of(&weights, "a") == 3);
	qd_weights_release(&weights);
	put(dir, "diffusion_pytorch_model.safetensors.fp16.index.json", "{\"weight_map\": {\"a\": \"s.safetensors\"}}");
	opens(&weights, dir);
	assert_true(value_of(&weights, "a") == 1);
	qd_weights_release(&weights);
	put_tensors(dir, "diffusion_pytorch_model.safetensors", 4, NAMES("a"));
	opens(&weights, dir);
	assert_true(value_of(&weights, "a") == 4);
	qd_weights_release(&weights);
	put(dir, "diffusion_pytorch_model.safetensors.index.json", "{\"weight_map\": {\"a\": \"s.safetensors\"}}");
	opens(&weights, dir);
	assert_true(value_of(&weights, "a") == 1);
	qd_weights_release(&weights);
}

static void refuses_an_empty_folder(void **state)
{
	(void)state;
	refuses(folder(), QD_EINPUT,
		"has no weights, needs 'diffusion_pytorch_model.safetensors', its index or its fp16 or bf16 variant");
}

static void refuses_a_pickle(void **state)
{
	const char *dir = folder();
	(void)state;
	put(dir, "diffusion_pytorch_model.bin", "x");
	refuses(dir, QD_EUNSUPPORTED, "diffusion_pytorch_model.bin' is a Python pickle, which runs code when it is read; needs");
	dir = folder();
	put(dir, "diffusion_pytorch_model.fp16.bin", "x");
	refuses(dir, QD_EUNSUPPORTED, "diffusion_pytorch_model.fp16.bin' is a Python pickle");
	dir = folder();
	put(dir, "diffusion_pytorch_model.bin.index.json", "{}");
	refuses(dir, QD_EUNSUPPORTED, "diffusion_pytorch_model.bin.index.json' is a Python pickle");
}

static void refuses_a_lfs_pointer(void **state)
{
	const char *dir = folder();
	(void)state;
	static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
	put(dir, "diffusion_pytorch_model.safetensors", pointer);
	refuses(dir, QD_EINPUT, "diffusion_pytorch_model.safetensors': this is a Git-LFS pointer, not the file itself");
	put(dir, "diffusion_pytorch_model.safetensors.index.json", pointer);
	refuses(dir, QD_EINPUT, "index.json' is a Git-LFS pointer, not the file itself");
	put(dir, "diffusion_pytorch_model.safetensors.index.json", "{\"weight_map\": {\"a\": \"s.safetensors\"}}");
	put(dir, "s.safetensors", pointer);
	refuses(dir, QD_EINPUT, "s.safetensors': this is a Git-LFS pointer");
}

static void refuses_bad_indices(void **state)
{
	static const struct {
		const char *index, *message;
	} cases[] = {
		{ "{\"weight_map\": {}}", "has no 'weight_map', needs an object of tensor and shard names" },
		{ "{\"weight_map\": [\"a\"]}", "has no 'weight_map', needs an object of tensor and shard names" },
		{ "{\"weight_map\": {\"a\": 1}}", "the shard of 'a' is no string" },
		{ "{\"weight_map\": {\"a\": \"../s.safetensors\"}}",
			"shard '../s.safetensors' of 'a', needs the bare name of a .safetensors file" },
		{ "{\"weight_map\": {\"a\": \"s.bin\"}}", "shard 's.bin' of 'a', needs the bare name of a .safetensors file" },
		{ "{\"weight_map\": {\"b\": \"s.safetensors\"}}", "shard 's.safetensors' has no tensor 'b'" },
		{ "{\"weight_map\": {\"a\": \"s.safetensors\", \"c\": \"t.safetensors\"}}", "tensor 'a' is in another shard too" },
		{ "{\"weight_map\": {\"a\": \"missing.safetensors\"}}", "missing.safetensors': No such file or directory" },
	};
	const char *dir = folder();
	(void)state;
	put_tensors(dir, "s.safetensors", 1, NAMES("a"));
	put_tensors(dir, "t.safetensors", 1, NAMES("a", "c"));
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_weights weights;
		put(dir, "diffusion_pytorch_model.safetensors.index.json", cases[i].index);
		assert_int_not_equal(qd_weights_open(&weights, dir, stem), QD_OK);
		if (strstr(qd_message(), cases[i].message) == NULL)
			fail_msg("%s\n  says '%s'\n  not  '%s'", cases[i].index, qd_message(), cases[i].message);
		assert_non_null(strstr(qd_message(), "index.json'"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_one_file),
		cmocka_unit_test(reads_shards),
		cmocka_unit_test(prefers_in_order),
		cmocka_unit_test(refuses_an_empty_folder),
		cmocka_unit_test(refuses_a_pickle),
		cmocka_unit_test(refuses_a_lfs_pointer),
		cmocka_unit_test(refuses_bad_indices),
	};
	return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
