/*
 * export/file, .onnx_adapter: what is written is read back by a walker over FlatBuffers that follows every offset, and that also
 * reads files which ONNX Runtime's own tools wrote.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export/file/file.h"
#include "tests/unit/scratch.h"

/* ---- the walker ---- */

struct buffer {
	const unsigned char *data;
	size_t n;
};

static uint32_t u32(struct buffer b, size_t at)
{
	uint32_t v;
	assert_true(at % 4 == 0 && at + 4 <= b.n);
	memcpy(&v, b.data + at, 4);
	return v;
}

/* Place of a table's field, or 0 when it is absent. */
static size_t field(struct buffer b, size_t table, int index)
{
	uint16_t size, at;
	size_t vtable = table - (size_t)(int32_t)u32(b, table);
	assert_true(vtable % 2 == 0 && vtable + 4 <= b.n);
	memcpy(&size, b.data + vtable, 2);
	assert_true(vtable + size <= b.n);
	if (4 + 2 * index >= size)
		return 0;
	memcpy(&at, b.data + vtable + 4 + 2 * index, 2);
	return at == 0 ? 0 : table + at;
}

static size_t follow(struct buffer b, size_t at)
{
	return at + u32(b, at);
}

/* One parameter as the file holds it. */
struct parameter {
	const char *name;
	int32_t type;
	struct qd_shape shape;
	const unsigned char *data;
	size_t bytes;
	bool aligned; /* dims and data, to 8 */
};

static void read_parameter(struct buffer b, size_t table, struct parameter *p)
{
	size_t name = follow(b, field(b, table, 0)), dims = follow(b, field(b, table, 1)), data = follow(b, field(b, table, 3));
	assert_int_equal(b.data[name + 4 + u32(b, name)], 0);
	p->name = (const char *)b.data + name + 4;
	p->type = (int32_t)u32(b, field(b, table, 2));
	p->shape.rank = (int)u32(b, dims);
	assert_true(p->shape.rank <= QD_MAX_RANK && dims + 4 + 8 * (size_t)p->shape.rank <= b.n);
	memcpy(p->shape.dim, b.data + dims + 4, 8 * (size_t)p->shape.rank);
	p->bytes = u32(b, data);
	p->data = b.data + data + 4;
	p->aligned = (dims + 4) % 8 == 0 && (data + 4) % 8 == 0;
	assert_true(data + 4 + p->bytes <= b.n);
}

static size_t read_adapter(struct buffer b, struct parameter *out, size_t room)
{
	size_t root = follow(b, 0), list = follow(b, field(b, root, 3)), n = u32(b, list);
	assert_memory_equal(b.data + 4, "TORT", 4);
	assert_int_equal(u32(b, field(b, root, 0)), 1);
	assert_true(n <= room);
	for (size_t i = 0; i < n; i++)
		read_parameter(b, follow(b, list + 4 + 4 * i), &out[i]);
	return n;
}

/* Every parameter equals the tensor of its name; ours are aligned, foreign ones need not be where they are empty. */
static void expect_tensors(const char *path, const struct qd_tensor *tensors, size_t n, bool ours)
{
	struct qd_mapping mapping;
	struct parameter p[64];
	assert_int_equal(qd_mapping_open(&mapping, path), QD_OK);
	assert_int_equal(read_adapter((struct buffer){ mapping.data, mapping.size }, p, QD_COUNT(p)), n);
	for (size_t i = 0; i < n; i++) {
		size_t k = 0;
		while (k < n && strcmp(tensors[k].name, p[i].name) != 0)
			k++;
		assert_true(k < n);
		assert_true(p[i].aligned || !ours);
		assert_int_equal(p[i].type, qd_dtype_onnx(tensors[k].dtype));
		assert_true(qd_shape_equal(&p[i].shape, &tensors[k].shape));
		assert_int_equal(p[i].bytes, tensors[k].bytes);
		if (p[i].bytes > 0)
			assert_memory_equal(p[i].data, tensors[k].data, p[i].bytes);
	}
	/* the program's own reader finds the same */
	struct qd_adapter_tensors read;
	assert_int_equal(qd_onnx_adapter_parse(&read, mapping.data, mapping.size), QD_OK);
	assert_int_equal(read.n, n);
	for (size_t i = 0; i < n; i++) {
		assert_string_equal(read.items[i].name, p[i].name);
		assert_int_equal(qd_dtype_onnx(read.items[i].dtype), p[i].type);
		assert_true(qd_shape_equal(&read.items[i].shape, &p[i].shape));
		assert_ptr_equal(read.items[i].data, p[i].data);
		assert_int_equal(read.items[i].bytes, p[i].bytes);
	}
	qd_adapter_tensors_release(&read);
	qd_mapping_release(&mapping);
}

/* A file that is cut anywhere, or has any byte changed, is read or refused, but never read past. */
static void damaged_files_are_refused(void **state)
{
	static const float values[6];
	struct qd_tensor tensors[] = { qd_tensor_view("a.lora_down", QD_F32, QD_SHAPE(2, 3), values),
		qd_tensor_view("b", QD_I8, QD_SHAPE(5), values) };
	struct qd_adapter_tensors read;
	struct qd_mapping mapping;

	(void)state;
	assert_int_equal(qd_onnx_adapter_write(scratch_path("whole"), tensors, 2, 1, 1, false), QD_OK);
	assert_int_equal(qd_mapping_open(&mapping, scratch_path("whole")), QD_OK);
	for (size_t n = 0; n < mapping.size; n++) {
		unsigned char *copy = malloc(mapping.size);
		memcpy(copy, mapping.data, mapping.size);
		unsigned char *cut = malloc(n + 1);
		memcpy(cut, mapping.data, n);
		cut = realloc(cut, n > 0 ? n : 1);
		assert_int_equal(qd_onnx_adapter_parse(&read, cut, n), QD_EINPUT);
		for (unsigned value = 0; value < 256; value += 5) {
			copy[n] = (unsigned char)value;
			if (qd_onnx_adapter_parse(&read, copy, mapping.size) == QD_OK)
				qd_adapter_tensors_release(&read);
		}
		free(cut);
		free(copy);
	}
	qd_mapping_release(&mapping);
}

/* ---- tests ---- */

/* Names of every length modulo 8, data of every length modulo 8: all the paddings there are. */
static void what_is_written_reads_back(void **state)
{
	static char names[24][40];
	static unsigned char bytes[24][64];
	struct qd_tensor tensors[24];
	const char *path = scratch_path("all.onnx_adapter");
	(void)state;
	for (size_t i = 0; i < QD_COUNT(tensors); i++) {
		snprintf(names[i], sizeof(names[i]), "%.*s%zu", (int)(i % 9), "layer.x.y", i);
		for (size_t k = 0; k < sizeof(bytes[i]); k++)
			bytes[i][k] = (unsigned char)(7 * i + k);
		struct qd_shape shape = i % 3 == 0   ? QD_SHAPE((int64_t)i)
					: i % 3 == 1 ? QD_SHAPE(1, (int64_t)i)
						     : QD_SHAPE(1, 1, 2, (int64_t)i);
		tensors[i] = qd_tensor_view(names[i], i % 2 == 0 ? QD_I8 : QD_U8, shape, bytes[i]);
	}
	assert_int_equal(qd_onnx_adapter_write(path, tensors, QD_COUNT(tensors), 3, 4, false), QD_OK);
	expect_tensors(path, tensors, QD_COUNT(tensors), true);
}

static void versions_are_stored(void **state)
{
	struct qd_mapping mapping;
	const char *path = scratch_path("versions.onnx_adapter");
	(void)state;
	assert_int_equal(qd_onnx_adapter_write(path, NULL, 0, 3, 4, false), QD_OK);
	assert_int_equal(qd_mapping_open(&mapping, path), QD_OK);
	struct buffer b = { mapping.data, mapping.size };
	size_t root = follow(b, 0);
	assert_int_equal(u32(b, field(b, root, 0)), 1);
	assert_int_equal(u32(b, field(b, root, 1)), 3);
	assert_int_equal(u32(b, field(b, root, 2)), 4);
	assert_int_equal(u32(b, follow(b, field(b, root, 3))), 0);
	qd_mapping_release(&mapping);
}

static void refuses_what_the_format_has_not(void **state)
{
	float one = 1;
	struct qd_tensor scalar = qd_tensor_view("s", QD_F32, (struct qd_shape){ 0 }, &one);
	struct qd_tensor narrow = qd_tensor_view("n", QD_F8_E8M0, QD_SHAPE(4), &one);
	(void)state;
	assert_int_equal(qd_onnx_adapter_write(scratch_path("no"), &scalar, 1, 1, 1, false), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "tensor 's' is a scalar, which adapter files do not hold");
	assert_int_equal(qd_onnx_adapter_write(scratch_path("no"), &narrow, 1, 1, 1, false), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "tensor 'n' is F8_E8M0, which ONNX does not have");
	assert_false(qd_is_file(scratch_path("no")));
}

static void keeps_an_existing_file(void **state)
{
	const char *path = scratch_file("there", "x", 1);
	(void)state;
	assert_int_equal(qd_onnx_adapter_write(path, NULL, 0, 1, 1, false), QD_EEXIST);
	assert_int_equal(qd_onnx_adapter_write(path, NULL, 0, 1, 1, true), QD_OK);
}

/* Files by ONNX Runtime's writer hold what their safetensors say, and so does ours made of the same tensors. */
static void equals_golden_files(void **state)
{
	static const char *const names[] = { "conv", "empty_tensor", "lora_a", "lora_b", "types" };
	(void)state;
	if (golden_path("onnx_adapter") == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(names); i++) {
		char name[64];
		struct qd_safetensors file;
		snprintf(name, sizeof(name), "onnx_adapter/%s.safetensors", names[i]);
		assert_int_equal(qd_safetensors_open(&file, golden_path(name)), QD_OK);
		snprintf(name, sizeof(name), "onnx_adapter/%s.onnx_adapter", names[i]);
		expect_tensors(golden_path(name), file.tensors, file.n, false);
		const char *ours = scratch_path(names[i]);
		assert_int_equal(qd_onnx_adapter_write(ours, file.tensors, file.n, 1, 1, false), QD_OK);
		expect_tensors(ours, file.tensors, file.n, true);
		qd_safetensors_release(&file);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_reads_back),
		cmocka_unit_test(versions_are_stored),
		cmocka_unit_test(refuses_what_the_format_has_not),
		cmocka_unit_test(keeps_an_existing_file),
		cmocka_unit_test(equals_golden_files),
		cmocka_unit_test(damaged_files_are_refused),
	};
	return cmocka_run_group_tests_name("onnx_adapter", tests, NULL, NULL);
}
