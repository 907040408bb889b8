#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/scratch.h"
#include "tests/unit/small_pipeline.h"

const char small_unet[] =
	"{\"_class_name\": \"UNet2DConditionModel\", \"sample_size\": 4, \"block_out_channels\": [4, 8], \"layers_per_block\": 1,"
	" \"down_block_types\": [\"CrossAttnDownBlock2D\", \"DownBlock2D\"],"
	" \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"],"
	" \"cross_attention_dim\": 6, \"attention_head_dim\": 2, \"norm_num_groups\": 2}";
static const char vae[] =
	"{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [4, 8], \"norm_num_groups\": 2, \"layers_per_block\": 1,"
	" \"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"],"
	" \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}";
static const char tiny_vae[] =
	"{\"_class_name\": \"AutoencoderTiny\", \"encoder_block_out_channels\": [4, 4], \"decoder_block_out_channels\": [4, 4],"
	" \"num_encoder_blocks\": [1, 1], \"num_decoder_blocks\": [1, 1]}";
static const char text_encoder[] =
	"{\"architectures\": [\"CLIPTextModelWithProjection\"], \"hidden_size\": 4, \"intermediate_size\": 8,"
	" \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"max_position_embeddings\": 5, \"vocab_size\": 9,"
	" \"projection_dim\": 3}";
static const char schedule[] =
	"{\"_class_name\": \"EulerDiscreteScheduler\", \"num_train_timesteps\": 100, \"beta_start\": 0.00085, \"beta_end\": 0.012,"
	" \"beta_schedule\": \"scaled_linear\", \"prediction_type\": \"v_prediction\", \"timestep_spacing\": \"trailing\"}";
static const char index_of_parts[] = "{\"_class_name\": \"StableDiffusionPipeline\"}";

void small_component(const char *folder, const char *config)
{
	struct qd_component c;
	char path[256];

	mkdir(scratch_path(folder), 0777);
	snprintf(path, sizeof(path), "%s/config.json", folder);
	OK(qd_component_config_read(&c, scratch_file(path, config, strlen(config))));
	snprintf(path, sizeof(path), "%s/%s.safetensors", folder, qd_component_stem(c.kind));
	OK(qd_component_init(&c, 1, QD_F32, scratch_path(path), true));
	qd_component_release(&c);
}

static void part(const char *name, const char *folder, const char *config)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", name, folder);
	small_component(path, config);
}

void small_pipeline_open(struct small_pipeline *p, const char *name)
{
	const struct qd_sizes least = { 1, SMALL_SIDE, SMALL_SIDE, 1 };
	char path[128];

	memset(p, 0, sizeof(*p));
	snprintf(p->folder, sizeof(p->folder), "%s", scratch_path(name));
	mkdir(p->folder, 0777);
	part(name, "unet", small_unet);
	part(name, "vae", vae);
	part(name, "tiny", tiny_vae);
	part(name, "text_encoder", text_encoder);
	snprintf(path, sizeof(path), "%s/scheduler", name);
	mkdir(scratch_path(path), 0777);
	snprintf(path, sizeof(path), "%s/scheduler/scheduler_config.json", name);
	scratch_file(path, schedule, strlen(schedule));
	snprintf(path, sizeof(path), "%s/model_index.json", name);
	scratch_file(path, index_of_parts, strlen(index_of_parts));
	OK(qd_model_open(&p->model, p->folder));
	OK(qd_unet_graph(&p->shape, &p->model.config, NULL, &least));
	OK(qd_modules_of(&p->modules, &p->shape));
}

void small_pipeline_close(struct small_pipeline *p)
{
	qd_modules_release(&p->modules);
	qd_graph_release(&p->shape);
	qd_model_release(&p->model);
}
