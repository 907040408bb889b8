/*
 * Any bytes as a PNG or a JPEG: refused with a message, or read with a pixel at every place.
 */
#include <stdlib.h>

#include "lib/io/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qd_image image;
	unsigned sum = 0;
	if (qd_image_parse("fuzz", data, size, &image) == QD_OK)
		for (size_t i = 0; i < (size_t)image.width * (size_t)image.height * 3; i++)
			sum += image.rgb[i];
	else if (!*qd_message())
		abort();
	qd_image_release(&image);
	return sum == 1u << 31 ? -1 : 0;
}
