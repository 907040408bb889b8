/*
 * Any bytes as a NumPy array: refused with a message, or a tensor of the size its shape says.
 */
#include <stdlib.h>

#include "lib/io/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qd_tensor tensor;
	size_t bytes;
	bool column_major;
	if (qd_npy_view("fuzz", data, size, &tensor, &column_major) == QD_OK) {
		if (qd_shape_bytes(&tensor.shape, tensor.dtype, &bytes) != QD_OK || bytes != tensor.bytes || bytes > size)
			abort();
	} else if (!*qd_message()) {
		abort();
	}
	return 0;
}
