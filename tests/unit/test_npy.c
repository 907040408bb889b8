/*
 * lib/io, NumPy arrays: what is read, every refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/io/io.h"
#include "lib/math/math.h"
#include "tests/unit/npy_help.h"
#include "tests/unit/scratch.h"

/* What numpy.save writes for a float32 array of shape (2,3). */
static void reads_what_numpy_writes(void **state)
{
	(void)state;
	float data[6] = { 0, 1, 2, 3, 4, 5 };
	unsigned char file[128 + sizeof(data)];
	struct qd_tensor back;
	bool column_major;
	memset(file, ' ', 128);
	memcpy(file, "\x93NUMPY\x01\x00\x76\x00", 10);
	static const char text[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
	memcpy(file + 10, text, sizeof(text) - 1);
	file[127] = '\n';
	memcpy(file + 128, data, sizeof(data));
	assert_int_equal(qd_npy_view("f", file, sizeof(file), &back, &column_major), QD_OK);
	assert_true(back.dtype == QD_F32 && qd_shape_equal(&back.shape, &QD_SHAPE(2, 3)));
	assert_ptr_equal(back.data, file + 128);
	assert_false(column_major);
}

static void all_types_and_ranks_come_back(void **state)
{
	(void)state;
	static const enum qd_dtype types[] = { QD_F32, QD_F16, QD_F64, QD_I8, QD_U8, QD_I16, QD_U16, QD_I32, QD_U32, QD_I64, QD_U64,
		QD_BOOL, QD_C64 };
	struct qd_random random;
	qd_random_init(&random, test_seed(), 0);
	for (size_t i = 0; i < QD_COUNT(types) * 3; i++) {
		struct qd_shape shape = { .rank = (int)(i % (QD_MAX_RANK + 1)) };
		for (int d = 0; d < shape.rank; d++)
			shape.dim[d] = (int64_t)qd_random_below(&random, 4);
		struct qd_tensor tensor, back;
		bool column_major;
		assert_int_equal(qd_tensor_new(&tensor, "t", types[i % QD_COUNT(types)], &shape), QD_OK);
		for (size_t k = 0; k < tensor.bytes; k++)
			((unsigned char *)tensor.data)[k] = (unsigned char)qd_random_u64(&random);
		size_t bytes;
		unsigned char *file = npy_bytes(&tensor, &bytes);
		assert_int_equal(qd_npy_view("f", file, bytes, &back, &column_major), QD_OK);
		assert_int_equal(back.dtype, tensor.dtype);
		assert_true(qd_shape_equal(&back.shape, &tensor.shape));
		assert_int_equal(back.bytes, tensor.bytes);
		assert_memory_equal(back.data, tensor.data, tensor.bytes);
		free(file);
		qd_tensor_release(&tensor);
	}
}

/* A file of version `major` with this header text and so many bytes of data, looked at in an exact allocation, which is gone. */
static enum qd_status parse_text(int major, const char *text, size_t data_bytes, struct qd_tensor *out)
{
	size_t length = strlen(text), start = major == 1 ? 10 : 12;
	unsigned char *file = calloc(1, start + length + data_bytes);
	memcpy(file, "\x93NUMPY", 6);
	file[6] = (unsigned char)major;
	file[8] = (unsigned char)length;
	file[9] = (unsigned char)(length >> 8);
	memcpy(file + start, text, length);
	bool column_major;
	enum qd_status st = qd_npy_view("f", file, start + length + data_bytes, out, &column_major);
	free(file);
	return st;
}

static void other_spellings_are_read(void **state)
{
	(void)state;
	static const struct {
		int major;
		const char *text;
		size_t bytes;
		int rank;
	} cases[] = {
		{ 2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", 8, 1 },
		{ 3, "{\"shape\":(2,1L),\"fortran_order\":False,\"descr\":\"=i2\"}", 4, 2 },
		{ 1, "{'descr': '<f8', 'fortran_order': True, 'shape': (2,), }", 16, 1 },
		{ 1, " {'descr':'|b1','fortran_order':False,'shape':()} ", 1, 0 },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_tensor tensor;
		if (parse_text(cases[i].major, cases[i].text, cases[i].bytes, &tensor) != QD_OK)
			fail_msg("%s: %s", cases[i].text, qd_message());
		assert_int_equal(tensor.shape.rank, cases[i].rank);
	}
}

/* Element (i, j, k) of a [2,3,4] array is 100 i + 10 j + k; the file has the first index running fastest. */
static void column_major_arrays_are_turned(void **state)
{
	static const char text[] = "{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3, 4), }";
	unsigned char file[10 + sizeof(text) - 1 + 48] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, sizeof(text) - 1, 0 };
	int16_t turned[24];
	struct qd_tensor tensor;
	bool column_major;
	size_t at = 10 + sizeof(text) - 1;

	(void)state;
	memcpy(file + 10, text, sizeof(text) - 1);
	for (int k = 0; k < 4; k++)
		for (int j = 0; j < 3; j++)
			for (int i = 0; i < 2; i++, at += 2)
				file[at] = (unsigned char)((100 * i + 10 * j + k) & 0xff);
	assert_int_equal(qd_npy_view("f", file, sizeof(file), &tensor, &column_major), QD_OK);
	assert_true(column_major);
	qd_npy_transpose(&tensor, turned);
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 3; j++)
			for (int k = 0; k < 4; k++)
				assert_int_equal(turned[(i * 3 + j) * 4 + k], 100 * i + 10 * j + k);
}

#define F4(shape) "{'descr': '<f4', 'fortran_order': False, 'shape': " shape ", }"

static void every_refusal_says_why(void **state)
{
	(void)state;
	static const struct {
		int major;
		const char *text;
		size_t bytes;
		enum qd_status status;
		const char *message;
	} cases[] = {
		{ 4, F4("(1,)"), 4, QD_EUNSUPPORTED, "format version 4.0, needs 1.0 to 3.0" },
		{ 1, "", 0, QD_EINPUT, "the header is not a dictionary" },
		{ 1, "{'descr' '<f4'}", 0, QD_EINPUT, "the header is not a dictionary" },
		{ 1, "{", 0, QD_EINPUT, "the header is not a dictionary" },
		{ 1, F4("(1,)") "x", 4, QD_EINPUT, "the header goes on after its dictionary" },
		{ 1, "{'descr': '<f4', 'shape': (1,)}", 4, QD_EINPUT, "the header needs 'descr', 'fortran_order' and 'shape'" },
		{ 1, "{'what': 1}", 4, QD_EINPUT, "unknown header field 'what'" },
		{ 1, "{'descr': [('a', '<f4')]}", 4, QD_EUNSUPPORTED, "'descr' is not one plain element type" },
		{ 1, "{'descr': '>f4'}", 4, QD_EUNSUPPORTED, "element type '>f4' is big-endian, needs little-endian" },
		{ 1, "{'descr': '|O'}", 4, QD_EUNSUPPORTED, "element type '|O' is not supported" },
		{ 1, "{'fortran_order': 1}", 4, QD_EINPUT, "'fortran_order' is not True or False" },
		{ 1, F4("[1]"), 4, QD_EINPUT, "'shape' is not a tuple" },
		{ 1, F4("(1 2)"), 8, QD_EINPUT, "'shape' is not a tuple" },
		{ 1, F4("(-1,)"), 4, QD_EINPUT, "'shape' holds something that is not an unsigned integer" },
		{ 1, F4("(99999999999999999999,)"), 4, QD_EINPUT, "'shape' holds something that is not an unsigned integer" },
		{ 1, F4("(1,1,1,1,1,1,1,1,1)"), 4, QD_EINPUT, "has more than 8 dimensions" },
		{ 1, F4("(4611686018427387904,4)"), 4, QD_EINPUT, "shape [4611686018427387904,4] overflows 64 bits" },
		{ 1, F4("(2,)"), 4, QD_EINPUT, "has 4 bytes of data, its shape and type need 8" },
		{ 1, F4("(2,)"), 9, QD_EINPUT, "has 9 bytes of data, its shape and type need 8" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_tensor tensor;
		char want[256];
		assert_int_equal(parse_text(cases[i].major, cases[i].text, cases[i].bytes, &tensor), cases[i].status);
		snprintf(want, sizeof(want), "'f': %s", cases[i].message);
		assert_string_equal(qd_message(), want);
	}
}

static void cut_files_are_refused(void **state)
{
	(void)state;
	float data[6] = { 0 };
	struct qd_tensor tensor = qd_tensor_view(NULL, QD_F32, QD_SHAPE(2, 3), data), back;
	size_t bytes;
	bool column_major;
	unsigned char *file = npy_bytes(&tensor, &bytes);
	for (size_t n = 0; n < bytes; n++) {
		unsigned char *copy = malloc(n + 1);
		memcpy(copy, file, n);
		assert_int_equal(qd_npy_view("f", copy, n, &back, &column_major), QD_EINPUT);
		free(copy);
	}
	free(file);
	assert_int_equal(qd_npy_view("f", "not an array", 12, &back, &column_major), QD_EINPUT);
	assert_string_equal(qd_message(), "'f': not a NumPy array file");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_numpy_writes),
		cmocka_unit_test(all_types_and_ranks_come_back),
		cmocka_unit_test(other_spellings_are_read),
		cmocka_unit_test(column_major_arrays_are_turned),
		cmocka_unit_test(every_refusal_says_why),
		cmocka_unit_test(cut_files_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
