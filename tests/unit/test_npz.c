/*
 * lib/io, sets of tensors: NumPy archives written here byte by byte (stored, deflated, with 64-bit records), folders of arrays,
 * safetensors; and what is damaged.
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
#include <zlib.h>

#include "lib/io/io.h"
#include "tests/unit/npy_help.h"
#include "tests/unit/scratch.h"

/* ---- an archive in the making ---- */

struct bytes {
	unsigned char *data;
	size_t n;
};

static void put(struct bytes *b, const void *data, size_t n)
{
	b->data = realloc(b->data, b->n + n + 1);
	assert_non_null(b->data);
	memcpy(b->data + b->n, data, n);
	b->n += n;
}

static void put_number(struct bytes *b, uint64_t value, int n)
{
	unsigned char out[8];
	for (int i = 0; i < n; i++)
		out[i] = (unsigned char)(value >> 8 * i);
	put(b, out, (size_t)n);
}

/* The file of an array f32 [n] with value i + first. */
static void array(struct bytes *b, int n, float first)
{
	struct qd_tensor t;
	unsigned char *file;
	size_t bytes;

	OK(qd_tensor_new(&t, NULL, QD_F32, &QD_SHAPE(n)));
	for (int i = 0; i < n; i++)
		((float *)t.data)[i] = first + (float)i;
	file = npy_bytes(&t, &bytes);
	put(b, file, bytes);
	free(file);
	qd_tensor_release(&t);
}

struct zip {
	struct bytes file, directory;
	int members;
	bool wide; /* 64-bit records, as NumPy writes for every member */
};

static void deflate_into(const struct bytes *plain, struct bytes *packed)
{
	z_stream stream = { 0 };
	packed->data = malloc(plain->n + 1000);
	assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
	stream.next_in = plain->data;
	stream.avail_in = (uInt)plain->n;
	stream.next_out = packed->data;
	stream.avail_out = (uInt)(plain->n + 1000);
	assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
	packed->n = stream.total_out;
	deflateEnd(&stream);
}

static void add_member(struct zip *z, const char *name, const struct bytes *plain, bool deflated)
{
	struct bytes packed = { 0 };
	size_t offset = z->file.n, length = strlen(name);
	uint32_t crc = (uint32_t)crc32(0, plain->data, (uInt)plain->n);

	if (deflated)
		deflate_into(plain, &packed);
	else
		put(&packed, plain->data, plain->n);
	put(&z->file, "PK\3\4\24\0\0\0", 8);
	put_number(&z->file, deflated ? 8 : 0, 2);
	put_number(&z->file, 0, 4);
	put_number(&z->file, crc, 4);
	put_number(&z->file, z->wide ? UINT32_MAX : packed.n, 4);
	put_number(&z->file, z->wide ? UINT32_MAX : plain->n, 4);
	put_number(&z->file, length, 2);
	put_number(&z->file, z->wide ? 20 : 0, 2);
	put(&z->file, name, length);
	if (z->wide) {
		put(&z->file, "\1\0\20\0", 4);
		put_number(&z->file, plain->n, 8);
		put_number(&z->file, packed.n, 8);
	}
	put(&z->file, packed.data, packed.n);
	put(&z->directory, "PK\1\2\24\3\24\0\0\0", 10);
	put_number(&z->directory, deflated ? 8 : 0, 2);
	put_number(&z->directory, 0, 4);
	put_number(&z->directory, crc, 4);
	put_number(&z->directory, z->wide ? UINT32_MAX : packed.n, 4);
	put_number(&z->directory, z->wide ? UINT32_MAX : plain->n, 4);
	put_number(&z->directory, length, 2);
	put_number(&z->directory, z->wide ? 28 : 0, 2);
	put(&z->directory, "\0\0\0\0\0\0\0\0\0\0", 10);
	put_number(&z->directory, z->wide ? UINT32_MAX : offset, 4);
	put(&z->directory, name, length);
	if (z->wide) {
		put(&z->directory, "\1\0\30\0", 4);
		put_number(&z->directory, plain->n, 8);
		put_number(&z->directory, packed.n, 8);
		put_number(&z->directory, offset, 8);
	}
	free(packed.data);
	z->members++;
}

/* Writes the archive and returns its path; the bytes stay in z->file. */
static const char *finish(struct zip *z, const char *name, const char *comment)
{
	size_t start = z->file.n, end64;

	put(&z->file, z->directory.data, z->directory.n);
	end64 = z->file.n;
	if (z->wide) {
		put(&z->file, "PK\6\6\54\0\0\0\0\0\0\0\55\0\55\0\0\0\0\0\0\0\0\0", 24);
		put_number(&z->file, (uint64_t)z->members, 8);
		put_number(&z->file, (uint64_t)z->members, 8);
		put_number(&z->file, z->directory.n, 8);
		put_number(&z->file, start, 8);
		put(&z->file, "PK\6\7\0\0\0\0", 8);
		put_number(&z->file, end64, 8);
		put_number(&z->file, 1, 4);
	}
	put(&z->file, "PK\5\6\0\0\0\0", 8);
	put_number(&z->file, z->wide ? UINT16_MAX : (uint64_t)z->members, 2);
	put_number(&z->file, z->wide ? UINT16_MAX : (uint64_t)z->members, 2);
	put_number(&z->file, z->wide ? UINT32_MAX : z->directory.n, 4);
	put_number(&z->file, z->wide ? UINT32_MAX : start, 4);
	put_number(&z->file, strlen(comment), 2);
	put(&z->file, comment, strlen(comment));
	return scratch_file(name, z->file.data, z->file.n);
}

static void drop(struct zip *z)
{
	free(z->file.data);
	free(z->directory.data);
}

static void expect_array(const struct qd_tensor_set *set, const char *name, int n, float first)
{
	const struct qd_tensor *t;
	float values[64];

	OK(qd_tensor_set_get(set, name, &t));
	assert_string_equal(t->name, name);
	assert_true(t->dtype == QD_F32 && t->shape.rank == 1 && t->shape.dim[0] == n);
	OK(qd_tensor_to_f32(t, values));
	for (int i = 0; i < n; i++)
		assert_true(values[i] == first + (float)i);
}

/* ---- what is read ---- */

static void reads_archives(void **state)
{
	(void)state;
	for (int kind = 0; kind < 4; kind++) {
		struct zip z = { .wide = kind & 1 };
		struct bytes a = { 0 }, b = { 0 };
		struct qd_tensor_set set;

		array(&a, 7, 3);
		array(&b, 40, -5);
		add_member(&z, "sample.npy", &a, kind & 2);
		add_member(&z, "read me.txt", &b, false);
		add_member(&z, "latents.npy", &b, !(kind & 2));
		OK(qd_tensor_set_open(&set, finish(&z, "a.npz", kind == 0 ? "PK\5\6 is what an end looks like" : "")));
		assert_int_equal(set.n, 2);
		assert_string_equal(set.tensors[0].name, "latents");
		expect_array(&set, "sample", 7, 3);
		expect_array(&set, "latents", 40, -5);
		assert_null(qd_tensor_set_find(&set, "read me.txt"));
		assert_int_equal(set.n_unpacked, 1);
		qd_tensor_set_release(&set);
		drop(&z);
		free(a.data);
		free(b.data);
	}
}

static void reads_folders_and_files(void **state)
{
	struct bytes a = { 0 };
	struct qd_tensor_set set;
	struct qd_tensor t;
	float values[3] = { 1, 2, 3 };
	char path[512];

	(void)state;
	array(&a, 3, 1);
	snprintf(path, sizeof(path), "%s", scratch_path("arrays"));
	mkdir(path, 0700);
	scratch_file("arrays/x.npy", a.data, a.n);
	scratch_file("arrays/note.txt", "x", 1);
	OK(qd_tensor_set_open(&set, path));
	assert_int_equal(set.n, 1);
	expect_array(&set, "x", 3, 1);
	assert_int_equal(qd_tensor_set_get(&set, "y", (const struct qd_tensor *[]){ NULL }), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "arrays' has no tensor 'y'"));
	qd_tensor_set_release(&set);
	OK(qd_tensor_set_open(&set, scratch_path("arrays/x.npy")));
	expect_array(&set, "x", 3, 1);
	qd_tensor_set_release(&set);
	t = qd_tensor_view("x", QD_F32, QD_SHAPE(3), values);
	OK(qd_safetensors_write(scratch_path("s.safetensors"), &t, 1, NULL, 0, false, NULL, NULL));
	OK(qd_tensor_set_open(&set, scratch_path("s.safetensors")));
	expect_array(&set, "x", 3, 1);
	qd_tensor_set_release(&set);
	free(a.data);
}

/* ---- what is refused ---- */

static void expect_refused(const char *path, enum qd_status status, const char *message)
{
	struct qd_tensor_set set;

	assert_int_equal(qd_tensor_set_open(&set, path), status);
	if (strstr(qd_message(), message) == NULL || strstr(qd_message(), path) == NULL)
		fail_msg("says \"%s\" instead of \"%s\"", qd_message(), message);
}

/* An archive of one array with the byte `at` of the file (counted from the end where negative) set to `value`. */
struct spoiled {
	bool deflated;
	long at;
	unsigned char value;
	enum qd_status status;
	const char *message;
};

static void refuses_damage(void **state)
{
	/* the directory entry of "a.npy" is 51 bytes, the end record 22 */
	static const struct spoiled cases[] = {
		{ false, -22, 'Q', QD_EINPUT, "the archive has no end record: it is cut short or no zip file" },
		{ false, -22 + 10, 9, QD_EINPUT, "the archive's directory of 9 members does not lie in the file" },
		{ false, -22 + 19, 0x40, QD_EINPUT, "the archive's directory of 1 members does not lie in the file" },
		{ false, -73, 'Q', QD_EINPUT, "the archive's directory is damaged" },
		{ false, -73 + 30, 9, QD_EINPUT, "the archive's directory is cut short" },
		{ false, -73 + 8, 1, QD_EUNSUPPORTED, "member 'a.npy' is encrypted" },
		{ false, -73 + 10, 12, QD_EUNSUPPORTED, "member 'a.npy' is packed by method 12, needs stored or deflated" },
		{ false, -73 + 26, 1, QD_EINPUT, "member 'a.npy' cannot have" },
		{ false, -73 + 42, 3, QD_EINPUT, "member 'a.npy' is not where the directory says" },
		{ false, 27, 0xff, QD_EINPUT, "more than the file" },
		{ true, 40, 0x55, QD_EINPUT, "member 'a.npy' is damaged" },
		{ true, -73 + 16, 0x55, QD_EINPUT, "member 'a.npy' is damaged" },
		{ true, -73 + 25, 0x01, QD_EINPUT, "member 'a.npy' is damaged" },
		{ true, -73 + 27, 0x01, QD_EINPUT, "member 'a.npy' cannot have" },
		{ false, 35, 'x', QD_EINPUT, "'a.npy': not a NumPy array file" },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct zip z = { 0 };
		struct bytes a = { 0 };

		array(&a, 100, 0);
		add_member(&z, "a.npy", &a, cases[i].deflated);
		finish(&z, "spoiled.npz", "");
		z.file.data[cases[i].at < 0 ? (long)z.file.n + cases[i].at : cases[i].at] = cases[i].value;
		expect_refused(scratch_file("spoiled.npz", z.file.data, z.file.n), cases[i].status, cases[i].message);
		drop(&z);
		free(a.data);
	}
}

/* What torch.save writes is called .npz too. */
static void says_what_a_pickle_is(void **state)
{
	struct zip z = { 0 };
	struct bytes a = { 0 };

	(void)state;
	array(&a, 9, 0);
	add_member(&z, "calib/data.pkl", &a, false);
	finish(&z, "torch.npz", "");
	expect_refused(scratch_file("torch.npz", z.file.data, z.file.n), QD_EUNSUPPORTED,
		"it is a pickle (torch.save), which can run code");
	drop(&z);
	free(a.data);
}

/* No cut of a file is read as something else, and none is read past its end (the sanitizer watches). */
static void refuses_cuts(void **state)
{
	struct zip z = { .wide = true };
	struct bytes a = { 0 };

	(void)state;
	array(&a, 9, 0);
	add_member(&z, "a.npy", &a, true);
	finish(&z, "whole.npz", "");
	for (size_t n = 4; n < z.file.n; n++) {
		char *copy = malloc(n);
		struct qd_tensor_set set;
		memcpy(copy, z.file.data, n);
		assert_int_equal(qd_tensor_set_open(&set, scratch_file("cut.npz", copy, n)), QD_EINPUT);
		free(copy);
	}
	drop(&z);
	free(a.data);
}

static void refuses_doubles_and_nothing(void **state)
{
	struct zip z = { 0 };
	struct bytes a = { 0 };
	char path[512];

	(void)state;
	array(&a, 3, 0);
	add_member(&z, "a.npy", &a, false);
	add_member(&z, "a.npy", &a, false);
	expect_refused(finish(&z, "twice.npz", ""), QD_EINPUT, "tensor 'a' is there twice");
	snprintf(path, sizeof(path), "%s", scratch_path("empty"));
	mkdir(path, 0700);
	expect_refused(path, QD_EINPUT, "the folder holds no .npy file");
	expect_refused("/nowhere/x.npz", QD_EIO, "/nowhere/x.npz");
	drop(&z);
	free(a.data);
}

static void patch(struct zip *z, int member, size_t at, uint64_t value, int n)
{
	unsigned char *entry = z->directory.data + (size_t)member * (46 + strlen("a.npy"));
	for (int i = 0; i < n; i++)
		entry[at + (size_t)i] = (unsigned char)(value >> 8 * i);
}

/* The same bytes named twice, and a file of 20 MB that says it unpacks to 20 GB. */
static void refuses_bombs(void **state)
{
	enum { MEMBERS = 5, PACKED = 4 << 20 };
	struct zip overlap = { 0 }, large = { 0 };
	struct bytes a = { 0 }, zeros = { calloc(PACKED, 1), PACKED };

	(void)state;
	array(&a, 100, 0);
	add_member(&overlap, "a.npy", &a, true);
	add_member(&overlap, "b.npy", &a, true);
	patch(&overlap, 1, 42, 0, 4);
	expect_refused(finish(&overlap, "overlap.npz", ""), QD_EINPUT, ".npy' overlap");
	for (int i = 0; i < MEMBERS; i++) {
		add_member(&large, (const char[]){ (char)('a' + i), '.', 'n', 'p', 'y', 0 }, &zeros, false);
		patch(&large, i, 10, 8, 2);
		patch(&large, i, 24, 0xf0000000, 4);
	}
	expect_refused(finish(&large, "large.npz", ""), QD_EINPUT, "with member 'e.npy' the archive unpacks to more than 16 GiB");
	drop(&overlap);
	drop(&large);
	free(a.data);
	free(zeros.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_archives),
		cmocka_unit_test(reads_folders_and_files),
		cmocka_unit_test(refuses_damage),
		cmocka_unit_test(says_what_a_pickle_is),
		cmocka_unit_test(refuses_cuts),
		cmocka_unit_test(refuses_doubles_and_nothing),
		cmocka_unit_test(refuses_bombs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
