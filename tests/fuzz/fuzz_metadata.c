/*
 * Any bytes as what is known of the images of a folder: metadata.jsonl, or, behind a first byte 0x1e, metadata.csv. Refused with a
 * message, or rows of pictures that are there.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/data/data.h"
#include "tests/unit/scratch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char path[256];
	bool csv = size > 0 && data[0] == 0x1e;
	struct qd_image_folder folder;

	if (path[0] == '\0') {
		snprintf(path, sizeof(path), "%s", scratch_path("images"));
		mkdir(path, 0777);
		scratch_file("images/1.png", "", 0);
		scratch_file("images/two, 2.png", "", 0);
		scratch_file("images/mask.png", "", 0);
	}
	scratch_file(csv ? "images/metadata.csv" : "images/metadata.jsonl", data + csv, size - csv);
	if (qd_image_folder_open(&folder, path, "text") == QD_OK) {
		assert(folder.n > 0);
		for (size_t i = 0; i < folder.n; i++) {
			const struct qd_image_row *row = &folder.rows[i];
			assert(qd_is_file(row->image) && (row->mask == NULL || qd_is_file(row->mask)));
			assert(row->condition == NULL || qd_is_file(row->condition));
			assert(row->text == NULL || strlen(row->text) <= size);
		}
	} else {
		assert(*qd_message() != '\0');
	}
	qd_image_folder_release(&folder);
	unlink(scratch_path(csv ? "images/metadata.csv" : "images/metadata.jsonl"));
	return 0;
}
