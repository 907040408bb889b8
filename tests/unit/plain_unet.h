/*
 * UNet2DConditionModel again, as plain loops: what the graphs of every form of a model are compared with. Of the configuration it
 * takes sizes, depths, heads, eps, the sinusoid's two fields, the two kinds of projection and SDXL's added embeddings; anything
 * else has to have its usual value.
 */
#ifndef QUAD_TESTS_UNIT_PLAIN_UNET_H
#define QUAD_TESTS_UNIT_PLAIN_UNET_H

#include "tests/unit/plain_layers.h"

struct plain_unet_inputs {
	int height, width, tokens;
	const float *sample; /* [C][H][W] */
	float timestep;
	const float *context;                /* [L][D] */
	const float *text_embeds, *time_ids; /* [P], [6]; NULL where the model takes none */
};
/* The output [O][H][W] for one sample under an adapter (NULL: none), whose updates are added to the weights; the caller frees it.
 */
struct plain_image plain_unet(
	const struct qd_model *model, const struct qd_adapter *adapter, const struct plain_unet_inputs *inputs);

#endif
