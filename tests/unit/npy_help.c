#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/npy_help.h"

unsigned char *npy_bytes(const struct qd_tensor *tensor, size_t *bytes)
{
	static const char *const spellings[] = { [QD_F32] = "<f4",
		[QD_F16] = "<f2",
		[QD_F64] = "<f8",
		[QD_I8] = "|i1",
		[QD_U8] = "|u1",
		[QD_I16] = "<i2",
		[QD_U16] = "<u2",
		[QD_I32] = "<i4",
		[QD_U32] = "<u4",
		[QD_I64] = "<i8",
		[QD_U64] = "<u8",
		[QD_BOOL] = "|b1",
		[QD_C64] = "<c8" };
	char dims[200] = "", text[300];
	size_t used = 0, length;
	unsigned char *file;

	assert_true((size_t)tensor->dtype < QD_COUNT(spellings) && spellings[tensor->dtype] != NULL);
	for (int i = 0; i < tensor->shape.rank; i++)
		used += (size_t)snprintf(
			dims + used, sizeof(dims) - used, i > 0 ? ", %lld" : "%lld", (long long)tensor->shape.dim[i]);
	length = (size_t)snprintf(text, sizeof(text), "{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }",
		spellings[tensor->dtype], dims, tensor->shape.rank == 1 ? "," : "");
	used = (10 + length + 1 + 63) / 64 * 64;
	*bytes = used + tensor->bytes;
	file = malloc(*bytes);
	assert_non_null(file);
	memset(file, ' ', used);
	memcpy(file, "\x93NUMPY\x01\x00", 8);
	file[8] = (unsigned char)(used - 10);
	file[9] = (unsigned char)((used - 10) >> 8);
	memcpy(file + 10, text, length);
	file[used - 1] = '\n';
	if (tensor->bytes > 0)
		memcpy(file + used, tensor->data, tensor->bytes);
	return file;
}

void npy_write(const char *path, const struct qd_tensor *tensor)
{
	size_t bytes;
	unsigned char *file = npy_bytes(tensor, &bytes);

	assert_int_equal(qd_write_file(path, file, bytes, true), QD_OK);
	free(file);
}
