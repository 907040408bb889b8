/*
 * Names of UNet layers in the original latent-diffusion implementation, which single-file checkpoints have and kohya's trainers use
 * for SDXL. With L layers in every block (where blocks differ, the numbers count on through them all the same):
 *
 *   diffusers                              original
 *   conv_in, conv_norm_out, conv_out       input_blocks.0.0, out.0, out.2
 *   time_embedding.linear_1, .linear_2     time_embed.0, time_embed.2
 *   add_embedding.linear_1, .linear_2      label_emb.0.0, label_emb.0.2
 *   down_blocks.i.resnets.j, attentions.j  input_blocks.((L+1)i+j+1).0, .1
 *   down_blocks.i.downsamplers.0.conv      input_blocks.((L+1)(i+1)).0.op
 *   mid_block.resnets.0, attentions.0, resnets.1    middle_block.0, .1, .2
 *   up_blocks.i.resnets.j, attentions.j    output_blocks.((L+1)i+j).0, .1
 *   up_blocks.i.upsamplers.0.conv          output_blocks.((L+1)i+L).2.conv where the block has attention, else .1.conv
 *   in a resnet: norm1, conv1              in_layers.0, .2
 *     time_emb_proj                        emb_layers.1
 *     norm2, conv2                         out_layers.0, .3
 *     conv_shortcut                        skip_connection
 *
 * Inside attentions both spell alike.
 */
#include "lib/weights/weights.h"

#include <stdio.h>
#include <string.h>

static const char *const whole[][2] = {
	{ "conv_in", "input_blocks.0.0" },
	{ "conv_norm_out", "out.0" },
	{ "conv_out", "out.2" },
	{ "time_embedding.linear_1", "time_embed.0" },
	{ "time_embedding.linear_2", "time_embed.2" },
	{ "add_embedding.linear_1", "label_emb.0.0" },
	{ "add_embedding.linear_2", "label_emb.0.2" },
};

static const char *const in_resnet[][2] = {
	{ "norm1", "in_layers.0" },
	{ "conv1", "in_layers.2" },
	{ "time_emb_proj", "emb_layers.1" },
	{ "norm2", "out_layers.0" },
	{ "conv2", "out_layers.3" },
	{ "conv_shortcut", "skip_connection" },
};

static const char *lookup(const char *const table[][2], size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(table[i][0], name) == 0)
			return table[i][1];
	return NULL;
}

/* Resnets of a block; an up block has one more than the down block of its resolution. */
static int resnets_of(const struct qd_ldm_layout *layout, bool up, int block)
{
	return up ? layout->layers[layout->blocks - 1 - block] + 1 : layout->layers[block];
}

/* Number of a block's first layer: every layer before it counts, downsamplers too, and conv_in. */
static int first_of(const struct qd_ldm_layout *layout, bool up, int block)
{
	int at = up ? 0 : 1;
	for (int i = 0; i < block; i++)
		at += resnets_of(layout, up, i) + (up ? 0 : 1);
	return at;
}

/* "block.<slot>.<inside the resnet or attention>". */
static bool in_layer(const char *block, int at, int slot, bool resnet, const char *rest, char *out)
{
	if (resnet)
		rest = lookup(in_resnet, QD_COUNT(in_resnet), rest);
	return rest != NULL && snprintf(out, QD_PATH_TEXT, "%s.%d.%d.%s", block, at, slot, rest) < QD_PATH_TEXT;
}

static bool in_block(
	const struct qd_ldm_layout *layout, bool up, int block, const char *kind, int layer, const char *rest, char *out)
{
	const char *name = up ? "output_blocks" : "input_blocks";

	if (block < 0 || block >= layout->blocks || layer < 0 || layer >= resnets_of(layout, up, block))
		return false;
	int first = first_of(layout, up, block), resnets = resnets_of(layout, up, block);
	if (strcmp(kind, "resnets") == 0)
		return in_layer(name, first + layer, 0, true, rest, out);
	if (strcmp(kind, "attentions") == 0)
		return in_layer(name, first + layer, 1, false, rest, out);
	if (strcmp(kind, "downsamplers") == 0 && !up && strcmp(rest, "conv") == 0)
		return snprintf(out, QD_PATH_TEXT, "input_blocks.%d.0.op", first + resnets) > 0;
	if (strcmp(kind, "upsamplers") == 0 && up && strcmp(rest, "conv") == 0)
		return snprintf(out, QD_PATH_TEXT, "output_blocks.%d.%d.conv", first + resnets - 1,
			       layout->up_attention[block] ? 2 : 1) > 0;
	return false;
}

bool qd_ldm_path(const struct qd_ldm_layout *layout, const char *path, char *out)
{
	const char *same = lookup(whole, QD_COUNT(whole), path);
	char kind[16];
	int block, layer, used = 0;

	if (same != NULL)
		return snprintf(out, QD_PATH_TEXT, "%s", same) > 0;
	if (sscanf(path, "down_blocks.%d.%15[a-z].%d.%n", &block, kind, &layer, &used) == 3 && used > 0)
		return in_block(layout, false, block, kind, layer, path + used, out);
	if (sscanf(path, "up_blocks.%d.%15[a-z].%d.%n", &block, kind, &layer, &used) == 3 && used > 0)
		return in_block(layout, true, block, kind, layer, path + used, out);
	if (sscanf(path, "mid_block.%15[a-z].%d.%n", kind, &layer, &used) != 2 || used == 0)
		return false;
	if (strcmp(kind, "attentions") == 0 && layer == 0)
		return snprintf(out, QD_PATH_TEXT, "middle_block.1.%s", path + used) < QD_PATH_TEXT;
	path = strcmp(kind, "resnets") == 0 && (layer == 0 || layer == 1) ? lookup(in_resnet, QD_COUNT(in_resnet), path + used)
									  : NULL;
	return path != NULL && snprintf(out, QD_PATH_TEXT, "middle_block.%d.%s", 2 * layer, path) < QD_PATH_TEXT;
}
