/*
 * Any bytes as a safetensors file: refused with a message, or read so that every tensor lies inside the bytes and reads as numbers.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/io/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct qd_tensor *tensor, const uint8_t *data, size_t size)
{
	const uint8_t *at = tensor->data;
	if (at < data || tensor->bytes > size || (size_t)(at - data) > size - tensor->bytes)
		abort();
	if (qd_tensor_check_finite(tensor, NULL) != QD_OK && !*qd_message())
		abort();
	size_t n = (size_t)qd_shape_elements(&tensor->shape);
	float *values = malloc((n ? n : 1) * sizeof(*values));
	if (values != NULL && qd_tensor_to_f32(tensor, values) != QD_OK && !*qd_message())
		abort();
	free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qd_safetensors file;
	if (qd_safetensors_parse(&file, "fuzz", data, size) == QD_OK)
		for (size_t i = 0; i < file.n; i++)
			use(&file.tensors[i], data, size);
	else if (!*qd_message())
		abort();
	qd_safetensors_release(&file);
	return 0;
}
