/*
 * The families of Stable Diffusion. Contexts of SD1.x are CLIP ViT-L's, of SD2.x OpenCLIP ViT-H's, of SDXL ViT-L's and OpenCLIP
 * ViT-bigG's side by side, of its refiner bigG's alone. time_ids: original size, crop and target size; in the refiner an aesthetic
 * score stands for the target size.
 */
#include "lib/weights/weights.h"

const struct qd_family qd_families[QD_FAMILIES] = {
	[QD_FAMILY_SD1] = { .name = "SD1.x",
		.full_name = "Stable Diffusion 1.x",
		.arch = "sd15",
		.config = "{\"sample_size\": 64, \"cross_attention_dim\": 768}",
		.context = 768,
		.channels = 320,
		.heads = 8,
		.sample_size = 64,
		.pipeline = "StableDiffusion",
		.scheduler = "DDIMScheduler" },
	[QD_FAMILY_SD2] = { .name = "SD2.x",
		.full_name = "Stable Diffusion 2.x",
		.config = "{\"sample_size\": 64, \"cross_attention_dim\": 1024, \"attention_head_dim\": [5, 10, 20, 20],"
			  " \"use_linear_projection\": true}",
		.context = 1024,
		.channels = 320,
		.linear = true,
		.sample_size = 64,
		.pipeline = "StableDiffusion",
		.scheduler = "DDIMScheduler" },
	[QD_FAMILY_SDXL] = { .name = "SDXL",
		.full_name = "SDXL",
		.arch = "sdxl",
		.config = "{\"sample_size\": 128, \"block_out_channels\": [320, 640, 1280],"
			  " \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"
			  " \"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"],"
			  " \"attention_head_dim\": [5, 10, 20], \"transformer_layers_per_block\": [1, 2, 10],"
			  " \"cross_attention_dim\": 2048, \"use_linear_projection\": true,"
			  " \"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 256,"
			  " \"projection_class_embeddings_input_dim\": 2816}",
		.context = 2048,
		.channels = 320,
		.linear = true,
		.time_ids = 6,
		.sample_size = 128,
		.pipeline = "StableDiffusionXL",
		.scheduler = "EulerDiscreteScheduler" },
	[QD_FAMILY_SDXL_REFINER] = { .name = "SDXL refiner",
		.full_name = "SDXL's refiner",
		.context = 1280,
		.channels = 384,
		.linear = true,
		.time_ids = 5,
		.sample_size = 128,
		.pipeline = "StableDiffusionXL",
		.scheduler = "EulerDiscreteScheduler" },
};

const struct qd_family *qd_family_of(int64_t context, int64_t channels, int64_t time_ids)
{
	for (size_t i = 0; i < QD_FAMILIES; i++) {
		const struct qd_family *f = &qd_families[i];
		bool alike = f->context == context && f->channels == channels;
		if (f->time_ids == time_ids && (alike || i == QD_FAMILY_SDXL_REFINER))
			return f;
	}
	return NULL;
}

const struct qd_family *qd_family_of_context(int64_t features)
{
	for (size_t i = 0; i < QD_FAMILIES; i++)
		if (qd_families[i].context == features)
			return &qd_families[i];
	return NULL;
}
