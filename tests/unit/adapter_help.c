#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "lib/network/network.h"
#include "tests/unit/adapter_help.h"
#include "tests/unit/scratch.h"

static const struct {
	const char *name, *config;
} models[] = {
	{ "tiny15", "{\"_class_name\": \"UNet2DConditionModel\", \"sample_size\": 16, \"block_out_channels\": [32, 64, 96, 96],"
		    "\"cross_attention_dim\": 48, \"attention_head_dim\": 4}" },
	{ "tinyxl", "{\"_class_name\": \"UNet2DConditionModel\", \"sample_size\": 16, \"block_out_channels\": [32, 64, 96],"
		    "\"cross_attention_dim\": 40, \"attention_head_dim\": [2, 4, 6],"
		    "\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"
		    "\"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"],"
		    "\"transformer_layers_per_block\": [1, 2, 3], \"use_linear_projection\": true,"
		    "\"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 16,"
		    "\"projection_class_embeddings_input_dim\": 120}" },
	{ "sd15", "{\"_class_name\": \"UNet2DConditionModel\", \"sample_size\": 64, \"block_out_channels\": [320, 640, 1280, 1280],"
		  "\"cross_attention_dim\": 768, \"attention_head_dim\": 8}" },
	{ "sdxl", "{\"_class_name\": \"UNet2DConditionModel\", \"sample_size\": 128, \"block_out_channels\": [320, 640, 1280],"
		  "\"cross_attention_dim\": 2048, \"attention_head_dim\": [5, 10, 20],"
		  "\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"
		  "\"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"],"
		  "\"transformer_layers_per_block\": [1, 2, 10], \"use_linear_projection\": true,"
		  "\"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 256,"
		  "\"projection_class_embeddings_input_dim\": 2816}" },
};

void help_model_open(struct help_model *model, const char *name)
{
	const struct qd_sizes sizes = { 1, 16, 16, 77 };
	struct qd_unet_config config;
	json_t *json = NULL;
	size_t i = 0;

	while (strcmp(models[i].name, name) != 0)
		i++;
	assert_int_equal(qd_json_parse(name, models[i].config, strlen(models[i].config), &json), QD_OK);
	assert_int_equal(qd_unet_config_parse(&config, name, json), QD_OK);
	json_decref(json);
	if (qd_unet_graph(&model->g, &config, NULL, &sizes) != QD_OK)
		fail_msg("%s", qd_message());
	assert_int_equal(qd_modules_of(&model->modules, &model->g), QD_OK);
}

void help_model_close(struct help_model *model)
{
	qd_modules_release(&model->modules);
	qd_graph_release(&model->g);
}

struct help_model help_tiny15;

int help_tiny15_open(void **state)
{
	(void)state;
	help_model_open(&help_tiny15, "tiny15");
	return 0;
}

int help_tiny15_close(void **state)
{
	(void)state;
	help_model_close(&help_tiny15);
	return 0;
}

float *help_add(struct help_file *file, const char *name, int rank, ...)
{
	struct qd_tensor *tensor = &file->tensors[file->n];
	struct qd_shape shape = { .rank = rank };
	va_list dims;
	float *data;

	assert_true(file->n < HELP_TENSORS);
	va_start(dims, rank);
	for (int i = 0; i < rank; i++)
		shape.dim[i] = va_arg(dims, int);
	va_end(dims);
	snprintf(file->names[file->n], sizeof(file->names[file->n]), "%s", name);
	assert_int_equal(qd_tensor_new(tensor, file->names[file->n], QD_F32, &shape), QD_OK);
	data = tensor->data;
	for (int64_t i = 0; i < qd_shape_elements(&shape); i++) {
		file->state = file->state * 1664525u + 1013904223u;
		data[i] = (float)(file->state >> 8) / 8388608.0f - 1.0f;
	}
	file->n++;
	return data;
}

const char *help_write(struct help_file *file, const char *name)
{
	const char *path = scratch_path(name);

	if (qd_safetensors_write(path, file->tensors, file->n, file->metadata, file->n_metadata / 2, true, NULL, NULL) != QD_OK)
		fail_msg("%s", qd_message());
	for (size_t i = 0; i < file->n; i++)
		qd_tensor_release(&file->tensors[i]);
	file->n = 0;
	file->n_metadata = 0;
	return path;
}

double help_delta(const struct qd_lora *lora, int64_t o, int64_t i)
{
	int64_t columns = lora->in * lora->kh * lora->kw;
	double sum = 0;

	for (int64_t k = 0; k < lora->rank; k++)
		sum += (double)lora->up[o * lora->rank + k] * (double)lora->gain[k] * (double)lora->down[k * columns + i];
	return sum;
}
