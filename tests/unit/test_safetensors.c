/*
 * lib/io, safetensors: what is accepted and how it is read, every refusal with its message, and what is written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/io/io.h"
#include "lib/math/math.h"
#include "tests/unit/scratch.h"

enum { FILE_BYTES = 4096 };

/* A file of the given header and `data_bytes` zero bytes, in one exact allocation so that a read past its end is seen. */
static unsigned char *build(const char *header, size_t header_bytes, size_t data_bytes, size_t *bytes)
{
	*bytes = 8 + header_bytes + data_bytes;
	unsigned char *file = calloc(1, *bytes);
	assert_non_null(file);
	for (int i = 0; i < 8; i++)
		file[i] = (unsigned char)((uint64_t)header_bytes >> (8 * i));
	memcpy(file + 8, header, header_bytes);
	return file;
}

static enum qd_status parse_text(const char *header, size_t data_bytes, size_t *n)
{
	size_t bytes;
	unsigned char *data = build(header, strlen(header), data_bytes, &bytes);
	struct qd_safetensors file;
	enum qd_status st = qd_safetensors_parse(&file, "f", data, bytes);
	if (st == QD_OK)
		*n = file.n;
	qd_safetensors_release(&file);
	free(data);
	return st;
}

/* ---- accepted ---- */

static void reads_tensors_and_metadata(void **state)
{
	(void)state;
	static const char header[] = "{\"__metadata__\":{\"format\":\"pt\",\"rank\":\"4\"},"
				     "\"b\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[16,22]},"
				     "\"a.\\u0077\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}";
	size_t bytes;
	unsigned char *data = build(header, sizeof(header) - 1, 22, &bytes);
	struct qd_safetensors file;
	assert_int_equal(qd_safetensors_parse(&file, "f", data, bytes), QD_OK);
	assert_int_equal(file.n, 2);
	assert_string_equal(file.tensors[0].name, "a.w");
	assert_string_equal(file.tensors[1].name, "b");
	const struct qd_tensor *b;
	assert_int_equal(qd_safetensors_get(&file, "b", &b), QD_OK);
	assert_int_equal(b->dtype, QD_F16);
	assert_int_equal(b->shape.rank, 1);
	assert_int_equal(b->shape.dim[0], 3);
	assert_int_equal(b->bytes, 6);
	assert_ptr_equal(b->data, data + bytes - 6);
	assert_int_equal(qd_safetensors_get(&file, "c", &b), QD_EINPUT);
	assert_string_equal(qd_message(), "'f' has no tensor 'c'");
	assert_null(qd_safetensors_find(&file, "c"));
	assert_int_equal(file.n_metadata, 2);
	assert_string_equal(qd_safetensors_metadata(&file, "rank"), "4");
	assert_null(qd_safetensors_metadata(&file, "alpha"));
	qd_safetensors_release(&file);
	qd_safetensors_release(&file);
	free(data);
}

static void accepts_unusual_but_legal_files(void **state)
{
	(void)state;
	static const struct {
		const char *header;
		size_t data_bytes, n;
	} cases[] = {
		{ "{}", 0, 0 },
		{ " \t\r\n{} \n\t", 0, 0 },
		{ "{\"__metadata__\":null}", 0, 0 },
		{ "{\"__metadata__\":{}}", 0, 0 },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1 },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]}}", 0, 1 },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
		  "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}",
			5, 2 },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
		  "\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
			4, 2 },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"note\":[-0.5,{\"x\":1e3}]}}", 1, 1 },
		{ "{\"-0\":{\"dtype\":\"F4\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[0,1]}}", 1, 1 },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[0,9223372036854775807,9223372036854775807],\"data_offsets\":[0,0]}}", 0, 1 },
		{ "{\"__metadata__x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 1 },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		size_t n = 99;
		if (parse_text(cases[i].header, cases[i].data_bytes, &n) != QD_OK)
			fail_msg("%s: %s", cases[i].header, qd_message());
		assert_int_equal(n, cases[i].n);
	}
}

static void accepts_every_type(void **state)
{
	(void)state;
	for (unsigned i = 0; i < QD_DTYPE_COUNT; i++) {
		char header[256];
		unsigned bytes = qd_dtype_bits((enum qd_dtype)i);
		snprintf(header, sizeof(header), "{\"a\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,%u]}}",
			qd_dtype_name((enum qd_dtype)i), bytes);
		size_t n;
		assert_int_equal(parse_text(header, bytes, &n), QD_OK);
	}
}

/* ---- refused ---- */

#define ONE(dtype, shape, offsets) "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second)                                                                                                         \
	"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" first "},"                                                     \
	"\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" second "}}"

static const struct refusal {
	const char *header;
	size_t data_bytes;
	const char *message;
} refusals[] = {
	/* The text. */
	{ "", 0, "'header': line 1, column 0: '[' or '{' expected near end of file" },
	{ "[]", 0, "the header is not a JSON object" },
	{ "\xef\xbb\xbf{}", 0, "'header': line 1, column 1: '[' or '{' expected near '\xef\xbb\xbf'" },
	{ "{\"a\":1}", 0, "tensor 'a' is not described by an object" },
	{ "{\"a\":null}", 0, "tensor 'a' is not described by an object" },
	{ "{\"a\":[\"F32\",[1],[0,4]]}", 4, "tensor 'a' is not described by an object" },
	{ "{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "a tensor has an empty name" },
	{ "{\"a\\u0000b\":{}}", 0, "'header': line 1, column 11: NUL byte in object key not supported near '\"a\\u0000b\"'" },
	{ "{\"a\":{},\"\\u0061\":{}}", 0, "'header': line 1, column 16: duplicate object key near '\"\\u0061\"'" },
	{ "{\"\xff\":{}}", 0, "'header': line 1, column 2: unable to decode byte 0xff near '\"'" },
	{ "{\"\\ud800\":{}}", 0, "'header': line 1, column 9: invalid Unicode '\\uD800' near '\"\\ud800\"'" },
	/* Metadata. */
	{ "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "'header': line 1, column 28: duplicate object key near '\"a\"'" },
	{ "{\"__metadata__\":{\"a\":1}}", 0, "metadata 'a' is not a string" },
	{ "{\"__metadata__\":[]}", 0, "'__metadata__' is not an object" },
	{ "{\"__metadata__\":\"x\"}", 0, "'__metadata__' is not an object" },
	/* Fields. */
	{ "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor 'a': 'dtype' is missing or not a string" },
	{ ONE("5", "[1]", "[0,4]"), 4, "tensor 'a': 'dtype' is missing or not a string" },
	{ ONE("\"f32\"", "[1]", "[0,4]"), 4, "tensor 'a': unknown dtype 'f32'" },
	{ "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor 'a': 'shape' is missing or not an array" },
	{ ONE("\"F32\"", "1", "[0,4]"), 4, "tensor 'a': 'shape' is missing or not an array" },
	{ ONE("\"F32\"", "[-1]", "[0,4]"), 4, "tensor 'a': dimension 0 of 'shape' is not an unsigned integer" },
	{ ONE("\"F32\"", "[1,1.0]", "[0,4]"), 4, "tensor 'a': dimension 1 of 'shape' is not an unsigned integer" },
	{ ONE("\"F32\"", "[4e0]", "[0,16]"), 16, "tensor 'a': dimension 0 of 'shape' is not an unsigned integer" },
	{ ONE("\"F32\"", "[\"1\"]", "[0,4]"), 4, "tensor 'a': dimension 0 of 'shape' is not an unsigned integer" },
	{ ONE("\"F32\"", "[true]", "[0,4]"), 4, "tensor 'a': dimension 0 of 'shape' is not an unsigned integer" },
	{ ONE("\"F32\"", "[null]", "[0,4]"), 4, "tensor 'a': dimension 0 of 'shape' is not an unsigned integer" },
	{ ONE("\"F32\"", "[-0]", "[0,0]"), 0, "header has '-0' at byte 29, needs plain integers" },
	{ ONE("\"F32\"", "[1]", "[-0,4]"), 4, "header has '-0' at byte 48, needs plain integers" },
	{ ONE("\"F32\"", "[04]", "[0,16]"), 16, "'header': line 1, column 30: invalid token near '0'" },
	{ ONE("\"F32\"", "[18446744073709551616]", "[0,4]"), 4,
		"'header': line 1, column 49: too big integer near '18446744073709551616'" },
	{ ONE("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, "tensor 'a': has 9 dimensions, needs at most 8" },
	{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor 'a': 'data_offsets' is missing or not an array of two" },
	{ ONE("\"F32\"", "[1]", "[0]"), 4, "tensor 'a': 'data_offsets' is missing or not an array of two" },
	{ ONE("\"F32\"", "[1]", "[0,4,8]"), 4, "tensor 'a': 'data_offsets' is missing or not an array of two" },
	{ ONE("\"F32\"", "[1]", "[0,4.0]"), 4, "tensor 'a': 'data_offsets' holds something that is not an unsigned integer" },
	/* Sizes. */
	{ ONE("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0, "tensor 'a': shape [4294967296,4294967296] overflows 64 bits" },
	{ ONE("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), 0, "tensor 'a': shape [4294967296,4294967296,0] overflows 64 bits" },
	{ ONE("\"F32\"", "[1152921504606846976]", "[0,0]"), 0, "tensor 'a': F32 of shape [1152921504606846976] overflows 64 bits" },
	{ ONE("\"F4\"", "[3]", "[0,1]"), 1, "tensor 'a': F4 of shape [3] does not fill whole bytes" },
	{ ONE("\"F6_E2M3\"", "[3]", "[0,2]"), 2, "tensor 'a': F6_E2M3 of shape [3] does not fill whole bytes" },
	{ ONE("\"F32\"", "[1]", "[0,5]"), 5, "tensor 'a' has 5 bytes, its shape and type need 4" },
	{ ONE("\"F32\"", "[2]", "[0,4]"), 4, "tensor 'a' has 4 bytes, its shape and type need 8" },
	/* Layout. */
	{ ONE("\"F32\"", "[1]", "[4,0]"), 4, "tensor 'a' ends at 0 before it begins at 4" },
	{ ONE("\"F32\"", "[1]", "[0,4]"), 3, "tensor 'a' ends at 4, but the file has 3 bytes of data: it is cut short" },
	{ ONE("\"F32\"", "[1]", "[0,4]"), 5, "1 bytes after the last tensor" },
	{ ONE("\"F32\"", "[1]", "[4,8]"), 8, "tensor 'a' begins at 4, needs 0 (there is a gap before it)" },
	{ ONE("\"F32\"", "[1]", "[0,9223372036854775807]"), 4,
		"tensor 'a' ends at 9223372036854775807, but the file has 4 bytes of data: it is cut short" },
	{ TWO("[0,4]", "[6,10]"), 10, "tensor 'b' begins at 6, needs 4 (there is a gap before it)" },
	{ TWO("[0,4]", "[2,6]"), 6, "tensor 'b' begins at 2, needs 4 (it overlaps the one before)" },
	{ TWO("[0,4]", "[0,4]"), 4, "tensor 'b' begins at 0, needs 4 (it overlaps the one before)" },
	{ "{}", 1, "1 bytes after the last tensor" },
};

static void every_refusal_says_why(void **state)
{
	(void)state;
	for (size_t i = 0; i < QD_COUNT(refusals); i++) {
		size_t n;
		char want[512];
		if (parse_text(refusals[i].header, refusals[i].data_bytes, &n) != QD_EINPUT)
			fail_msg("accepted: %s", refusals[i].header);
		snprintf(want, sizeof(want), "'f': %s", refusals[i].message);
		assert_string_equal(qd_message(), want);
	}
}

static void deep_headers_are_refused(void **state)
{
	(void)state;
	char header[400] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":";
	size_t start = strlen(header), n;
	memset(header + start, '[', 30);
	memset(header + start + 30, ']', 30);
	memcpy(header + start + 60, "}}", 3);
	assert_int_equal(parse_text(header, 1, &n), QD_OK);
	memset(header + start, '[', 31);
	memset(header + start + 31, ']', 31);
	memcpy(header + start + 62, "}}", 3);
	assert_int_equal(parse_text(header, 1, &n), QD_EINPUT);
	assert_string_equal(qd_message(), "'f': header is nested more than 32 levels deep at byte 86");
}

static enum qd_status parse_exact(const char *bytes, size_t n)
{
	unsigned char *copy = malloc(n ? n : 1);
	memcpy(copy, bytes, n);
	struct qd_safetensors file;
	enum qd_status st = qd_safetensors_parse(&file, "f", copy, n);
	qd_safetensors_release(&file);
	free(copy);
	return st;
}

static void bad_lengths_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t n;
		const char *message;
	} cases[] = {
		{ "", 0, "'f': has 0 bytes, needs at least 8" },
		{ "\2\0\0\0\0\0\0", 7, "'f': has 7 bytes, needs at least 8" },
		{ "\3\0\0\0\0\0\0\0{}", 10, "'f': header of 3 bytes, but the file has 10: it is cut short" },
		{ "\x01\xe1\xf5\x05\0\0\0\0{}", 10,
			"'f': not a safetensors file: header of 100000001 bytes, needs at most 100000000" },
		{ "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10,
			"'f': not a safetensors file: header of 18446744073709551615 bytes, needs at most 100000000" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		assert_int_equal(parse_exact(cases[i].bytes, cases[i].n), QD_EINPUT);
		assert_string_equal(qd_message(), cases[i].message);
	}
}

static void lfs_pointers_are_called_that(void **state)
{
	(void)state;
	static const char text[] = "version https://git-lfs.github.com/spec/v1\n"
				   "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
	const char *path = scratch_file("pointer.safetensors", text, sizeof(text) - 1);
	struct qd_safetensors file;
	assert_int_equal(qd_safetensors_open(&file, path), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(),
		"pointer.safetensors': this is a Git-LFS pointer, not the file itself; fetch it with 'git lfs pull'"));
}

/* Every single-bit change of a small file is read or refused, never a crash; which is for the sanitizer to see. */
/* What a download or another program left under the name. */
static void other_files_are_called_what_they_are(void **state)
{
	static const struct {
		const char *bytes, *message;
	} cases[] = {
		{ "<!DOCTYPE html><html><body>Access denied</body></html>", "it is a web page (HTML)" },
		{ "{\"error\": \"Repository not found\"}", "it is JSON text" },
	};
	struct qd_safetensors file;

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		assert_int_equal(
			qd_safetensors_parse(&file, "f", (const unsigned char *)cases[i].bytes, strlen(cases[i].bytes)), QD_EINPUT);
		if (strstr(qd_message(), cases[i].message) == NULL)
			fail_msg("'%s' does not say '%s'", qd_message(), cases[i].message);
		qd_safetensors_release(&file);
	}
}

static void damaged_files_do_no_harm(void **state)
{
	(void)state;
	static const char header[] = ONE("\"F32\"", "[2,3]", "[0,24]");
	size_t bytes;
	unsigned char *data = build(header, sizeof(header) - 1, 24, &bytes);
	for (size_t i = 0; i < (8 + sizeof(header)) * 8; i++) {
		data[i / 8] ^= (unsigned char)(1u << i % 8);
		struct qd_safetensors file;
		if (qd_safetensors_parse(&file, "f", data, bytes) == QD_OK)
			for (size_t k = 0; k < file.n; k++)
				assert_int_equal(qd_tensor_check_finite(&file.tensors[k], NULL), QD_OK);
		qd_safetensors_release(&file);
		data[i / 8] ^= (unsigned char)(1u << i % 8);
	}
	free(data);
}

/* ---- files with the reference reader's verdicts ---- */

/*
 * Nothing in the folder of accepted files is refused. In the other one the reference reader would take two, which this one refuses
 * on purpose: i46_metadata_dup_inner (a metadata key given twice) and i30d_nest_120_in_unknown_field (nested 120 deep where nobody
 * reads).
 */
static void check_folder(const char *name, enum qd_status want)
{
	const char *folder = golden_path(name);
	DIR *dir = opendir(folder);
	assert_non_null(dir);
	int n = 0;
	for (const struct dirent *entry; (entry = readdir(dir));) {
		if (!qd_ends_with(entry->d_name, ".safetensors"))
			continue;
		char path[FILE_BYTES + 512];
		struct qd_safetensors file;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		enum qd_status st = qd_safetensors_open(&file, path);
		if (st != want)
			fail_msg("%s: %d %s", path, st, qd_message());
		qd_safetensors_release(&file);
		n++;
	}
	closedir(dir);
	assert_true(n > 0);
}

static void agrees_with_the_reference_verdicts(void **state)
{
	(void)state;
	if (golden_path("safetensors/accept") == NULL || golden_path("safetensors/reject") == NULL)
		skip();
	check_folder("safetensors/accept", QD_OK);
	check_folder("safetensors/reject", QD_EINPUT);
}

/* ---- writing ---- */

static void assert_file(const char *path, const void *want, size_t bytes)
{
	struct qd_mapping mapping;
	assert_int_equal(qd_mapping_open(&mapping, path), QD_OK);
	assert_int_equal(mapping.size, bytes);
	assert_memory_equal(mapping.data, want, bytes);
	qd_mapping_release(&mapping);
}

/* The bytes by hand: widest type first, then names; header of 167 characters padded to 168. */
static void writes_the_reference_order(void **state)
{
	(void)state;
	float wide[2] = { 1, 2 };
	uint16_t half[3] = { 1, 2, 3 };
	uint8_t byte[1] = { 7 };
	struct qd_tensor tensors[] = {
		qd_tensor_view("u", QD_U8, QD_SHAPE(1), byte),
		qd_tensor_view("b", QD_F16, QD_SHAPE(3, 1), half),
		qd_tensor_view("a", QD_F16, QD_SHAPE(3), half),
		qd_tensor_view("z", QD_F32, QD_SHAPE(2), wide),
	};
	static const char *const metadata[] = { "k", "v\"\n" };
	static const char header[] = "{\"__metadata__\":{\"k\":\"v\\\"\\n\"},"
				     "\"z\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
				     "\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[8,14]},"
				     "\"b\":{\"dtype\":\"F16\",\"shape\":[3,1],\"data_offsets\":[14,20]},"
				     "\"u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[20,21]}}";
	size_t length = sizeof(header) - 1, padded = (length + 7) / 8 * 8;
	unsigned char want[1024] = { 0 };
	want[0] = (unsigned char)padded;
	want[1] = (unsigned char)(padded >> 8);
	memset(want + 8, ' ', padded);
	memcpy(want + 8, header, length);
	memcpy(want + 8 + padded, wide, 8);
	memcpy(want + 8 + padded + 8, half, 6);
	memcpy(want + 8 + padded + 14, half, 6);
	want[8 + padded + 20] = 7;
	const char *path = scratch_path("order.safetensors");
	assert_int_equal(qd_safetensors_write(path, tensors, 4, metadata, 1, false, NULL, NULL), QD_OK);
	assert_file(path, want, 8 + padded + 21);
}

static enum qd_status fill_with_index(void *context, size_t i, void *buffer)
{
	size_t *calls = context;
	if (*calls == 99)
		return qd_fail(QD_ECHECK, "cannot make tensor %zu", i);
	++*calls;
	memset(buffer, (int)i + 1, 4);
	return QD_OK;
}

static void streams_tensors_without_data(void **state)
{
	(void)state;
	struct qd_tensor tensors[] = {
		qd_tensor_view("b", QD_F32, QD_SHAPE(1), NULL),
		qd_tensor_view("a", QD_F32, QD_SHAPE(1), NULL),
		qd_tensor_view("none", QD_F32, QD_SHAPE(0), NULL),
	};
	const char *path = scratch_path("streamed.safetensors");
	size_t calls = 0;
	assert_int_equal(qd_safetensors_write(path, tensors, 3, NULL, 0, false, fill_with_index, &calls), QD_OK);
	assert_int_equal(calls, 2);
	struct qd_safetensors file;
	assert_int_equal(qd_safetensors_open(&file, path), QD_OK);
	assert_string_equal(file.tensors[0].name, "a");
	assert_int_equal(*(const unsigned char *)file.tensors[0].data, 2);
	assert_int_equal(*(const unsigned char *)file.tensors[1].data, 1);
	qd_safetensors_release(&file);
	calls = 99;
	assert_int_equal(qd_safetensors_write(path, tensors, 3, NULL, 0, true, fill_with_index, &calls), QD_ECHECK);
	assert_string_equal(qd_message(), "cannot make tensor 1");
	assert_int_equal(qd_safetensors_open(&file, path), QD_OK);
	qd_safetensors_release(&file);
}

/* Random tensors of random types and shapes come back as they were, and writing what was read gives the same bytes. */
static void what_is_written_is_read_back(void **state)
{
	(void)state;
	struct qd_random random;
	qd_random_init(&random, test_seed(), 3);
	enum { N = 40 };
	struct qd_tensor tensors[N];
	struct qd_arena arena = { 0 };
	for (size_t i = 0; i < N; i++) {
		struct qd_shape shape = { .rank = (int)qd_random_below(&random, 4) };
		for (int d = 0; d < shape.rank; d++)
			shape.dim[d] = 4 * (int64_t)qd_random_below(&random, 4);
		const char *name = qd_arena_strf(&arena, "tensor.%llu.%zu", (unsigned long long)qd_random_below(&random, 1000), i);
		enum qd_dtype dtype = (enum qd_dtype)qd_random_below(&random, shape.rank ? QD_DTYPE_COUNT : QD_F8_E8M0);
		assert_int_equal(qd_tensor_new(&tensors[i], name, dtype, &shape), QD_OK);
		for (size_t k = 0; k < tensors[i].bytes; k++)
			((unsigned char *)tensors[i].data)[k] = (unsigned char)qd_random_u64(&random);
	}
	const char *first = scratch_path("first.safetensors"), *second = scratch_path("second.safetensors");
	assert_int_equal(qd_safetensors_write(first, tensors, N, NULL, 0, false, NULL, NULL), QD_OK);
	struct qd_safetensors file;
	assert_int_equal(qd_safetensors_open(&file, first), QD_OK);
	assert_int_equal(file.n, N);
	for (size_t i = 0; i < N; i++) {
		const struct qd_tensor *back = qd_safetensors_find(&file, tensors[i].name);
		assert_non_null(back);
		assert_int_equal(back->dtype, tensors[i].dtype);
		assert_true(qd_shape_equal(&back->shape, &tensors[i].shape));
		assert_memory_equal(back->data, tensors[i].data, tensors[i].bytes);
	}
	assert_int_equal(qd_safetensors_write(second, file.tensors, file.n, NULL, 0, false, NULL, NULL), QD_OK);
	assert_file(second, file.mapping.data, file.mapping.size);
	qd_safetensors_release(&file);
	for (size_t i = 0; i < N; i++)
		qd_tensor_release(&tensors[i]);
	qd_arena_release(&arena);
}

static void refuses_what_cannot_be_written(void **state)
{
	(void)state;
	float data[2] = { 0 };
	struct qd_tensor good = qd_tensor_view("a", QD_F32, QD_SHAPE(2), data), bad[2];
	static const char *const twice[] = { "k", "1", "k", "2" };
	static const char *const broken[] = { "k", "\xff" };
	const char *path = "unwritten";
	bad[0] = good;
	bad[0].name = "";
	assert_int_equal(qd_safetensors_write(path, bad, 1, NULL, 0, false, NULL, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "cannot write 'unwritten': a tensor is named '', needs a name of its own");
	bad[0].name = "__metadata__";
	assert_int_equal(qd_safetensors_write(path, bad, 1, NULL, 0, false, NULL, NULL), QD_EINPUT);
	bad[0] = bad[1] = good;
	assert_int_equal(qd_safetensors_write(path, bad, 2, NULL, 0, false, NULL, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "cannot write 'unwritten': tensor 'a' is given twice");
	bad[0].bytes = 4;
	assert_int_equal(qd_safetensors_write(path, bad, 1, NULL, 0, false, NULL, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "cannot write 'unwritten': tensor 'a' has 4 bytes, its shape and type need 8");
	bad[0] = good;
	bad[0].data = NULL;
	assert_int_equal(qd_safetensors_write(path, bad, 1, NULL, 0, false, NULL, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "cannot write 'unwritten': tensor 'a' has no data");
	bad[0] = good;
	bad[0].name = "\xff";
	assert_int_equal(qd_safetensors_write(path, bad, 1, NULL, 0, false, NULL, NULL), QD_EINPUT);
	assert_int_equal(qd_safetensors_write(path, &good, 1, twice, 2, false, NULL, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "cannot write 'unwritten': metadata 'k' is given twice");
	assert_int_equal(qd_safetensors_write(path, &good, 1, broken, 1, false, NULL, NULL), QD_EINPUT);
	assert_false(qd_is_file(path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_tensors_and_metadata),
		cmocka_unit_test(accepts_unusual_but_legal_files),
		cmocka_unit_test(accepts_every_type),
		cmocka_unit_test(every_refusal_says_why),
		cmocka_unit_test(deep_headers_are_refused),
		cmocka_unit_test(bad_lengths_are_refused),
		cmocka_unit_test(lfs_pointers_are_called_that),
		cmocka_unit_test(other_files_are_called_what_they_are),
		cmocka_unit_test(damaged_files_do_no_harm),
		cmocka_unit_test(agrees_with_the_reference_verdicts),
		cmocka_unit_test(writes_the_reference_order),
		cmocka_unit_test(streams_tensors_without_data),
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(refuses_what_cannot_be_written),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
