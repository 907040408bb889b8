/* Zip archives from memory, as .npz files are read: every member is unpacked and looked at as an array. */
#include "lib/io/io.h"
#include "lib/io/zip.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 1 << 20 }; /* bytes of a member that is unpacked: a small file may claim much */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qd_arena arena = { 0 };
	struct qd_zip zip = { 0 };

	if (qd_zip_open(&zip, &arena, data, size) == QD_OK)
		for (size_t i = 0; i < zip.n; i++) {
			const struct qd_zip_member *m = &zip.members[i];
			struct qd_tensor tensor;
			void *unpacked = NULL;
			bool there = !m->deflated || (m->bytes <= MOST && qd_zip_inflate(m, &unpacked) == QD_OK);

			bool column_major;

			if (there &&
				qd_npy_view(m->name, m->deflated ? unpacked : m->data, m->bytes, &tensor, &column_major) == QD_OK) {
				void *turned = column_major ? malloc(tensor.bytes + 1) : NULL;
				if (tensor.bytes > m->bytes)
					abort();
				if (turned != NULL)
					qd_npy_transpose(&tensor, turned);
				free(turned);
			}
			free(unpacked);
		}
	qd_zip_release(&zip);
	qd_arena_release(&arena);
	return 0;
}
