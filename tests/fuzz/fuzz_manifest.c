/*
 * Any bytes as an export's manifest.json: its files are checked, it is refused, or an adapter is added to it, which is in it then.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "export/file/internal.h"
#include "tests/unit/scratch.h"

static bool lists(const json_t *manifest, const char *list, const char *key, const char *value)
{
	const json_t *array = json_object_get(manifest, list);

	for (size_t i = 0; i < json_array_size(array); i++) {
		const char *text = json_string_value(json_object_get(json_array_get(array, i), key));
		if (text != NULL && strcmp(text, value) == 0)
			return true;
	}
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct qd_slot slot = { .path = "a", .rank = 1, .in = 2, .out = 3, .kh = 1, .kw = 1 };
	static struct qd_profile profile = { .slots = { .items = &slot, .n = 1 }, .base_hash = "xxh3-128:00" };
	static const struct qd_exported_adapter added = { .name = "b", .hash = "xxh3-128:01", .slots = 1, .sqnr_db = 40 };
	static char folder[64], options[64];
	const char *path;
	json_t *manifest = NULL;
	size_t n;
	enum qd_status st;

	if (folder[0] == '\0') {
		snprintf(options, sizeof(options), "%s", scratch_file("profile", "{}", 2));
		snprintf(folder, sizeof(folder), "%s", scratch_path("export"));
		mkdir(folder, 0777);
		scratch_file("export/b.safetensors", "", 0);
	}
	path = scratch_file("export/manifest.json", data, size);
	st = qd_export_verify(folder, &n);
	assert(st == QD_OK || *qd_message() != '\0');
	if (qd_json_read(path, &manifest) == QD_OK) {
		st = qd_manifest_check(manifest, path, &profile, options);
		assert(st == QD_OK || *qd_message() != '\0');
		/* also of those that do not fit: nobody else looks at the rest */
		st = qd_manifest_add_adapters(manifest, folder, &added, 1);
		assert(st == QD_OK || *qd_message() != '\0');
		assert(st != QD_OK || lists(manifest, "adapters", "name", "b"));
		assert(st != QD_OK || lists(manifest, "files", "path", "b.safetensors"));
	}
	json_decref(manifest);
	return 0;
}
