/*
 * Any bytes as a single-file checkpoint: its header, of which the tensors' bytes are a hole in the file, and before it, up to a byte
 * 0x1e, the configuration that may lie beside. Refused with a message, or a UNet whose graph is built from the file's weights.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/model/model.h"
#include "tests/unit/scratch.h"

/* Larger ones only take time. */
#define MOST_BYTES ((size_t)1 << 33)
enum { MOST_LAYERS = 64 };

/* Where the last tensor ends, as far as the header says so. */
static size_t hole_of(const uint8_t *header, size_t size)
{
	json_t *json = NULL, *tensor;
	const char *name;
	size_t end = 0;

	if (qd_json_parse("fuzz", (const char *)header, size, &json) != QD_OK)
		return 0;
	json_object_foreach(json, name, tensor)
	{
		json_int_t at = json_integer_value(json_array_get(json_object_get(tensor, "data_offsets"), 1));
		if (at > 0 && (uint64_t)at < MOST_BYTES && (size_t)at > end)
			end = (size_t)at;
	}
	json_decref(json);
	return end;
}

static const char *write_file(const uint8_t *header, size_t size)
{
	uint64_t length = size; /* little-endian, as the format is */
	char *bytes = malloc(8 + size);
	const char *path;

	if (bytes == NULL)
		abort();
	memcpy(bytes, &length, 8);
	memcpy(bytes + 8, header, size);
	path = scratch_file("x.safetensors", bytes, 8 + size);
	free(bytes);
	if (truncate(path, (off_t)(8 + size + hole_of(header, size))) != 0)
		abort();
	return path;
}

static void check(const struct qd_model *model)
{
	const struct qd_sizes sizes = qd_model_least_sizes(model);
	struct qd_checkpoint_content contents[QD_CHECKPOINT_SECTIONS];
	struct qd_schedule schedule;
	struct qd_graph g = { 0 };
	int64_t layers = 0;
	enum qd_status st;

	qd_checkpoint_contents(&model->weights.files[0], contents);
	assert(contents[QD_CHECKPOINT_UNET].tensors >= model->weights.n);
	st = qd_model_schedule(&schedule, model);
	assert(st == QD_OK || *qd_message() != '\0');
	qd_schedule_release(&schedule);
	for (int i = 0; i < model->config.blocks; i++)
		layers += model->config.layers[i];
	if (layers > MOST_LAYERS)
		return;
	st = qd_model_graph(&g, model, &sizes);
	assert(st == QD_OK ? qd_graph_verify(&g) == QD_OK : *qd_message() != '\0');
	qd_graph_release(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *mark = memchr(data, 0x1e, size), *header = mark != NULL ? mark + 1 : data;
	struct qd_model model;

	if (mark != NULL)
		scratch_file("x.config.json", data, (size_t)(mark - data));
	else
		unlink(scratch_path("x.config.json"));
	if (qd_model_open(&model, write_file(header, size - (size_t)(header - data))) == QD_OK)
		check(&model);
	else
		assert(*qd_message() != '\0');
	qd_model_release(&model);
	return 0;
}
