/*
 * A configuration as UNet2DConditionModel's config.json, every field written out: reading it back gives the same configuration. A
 * value that is the same for all blocks is written once, as published files do.
 */
#include "lib/network/network.h"

/* One number, or one per block. */
static json_t *per_block(const int64_t *values, int n)
{
	json_t *list = json_array();
	bool same = true;
	for (int i = 0; i < n; i++) {
		same = same && values[i] == values[0];
		json_array_append_new(list, json_integer(values[i]));
	}
	if (!same)
		return list;
	json_decref(list);
	return json_integer(values[0]);
}

static json_t *channel_list(const struct qd_unet_config *c)
{
	json_t *list = json_array();
	for (int i = 0; i < c->blocks; i++)
		json_array_append_new(list, json_integer(c->channels[i]));
	return list;
}

static json_t *block_types(const struct qd_unet_config *c, const char *stem, const bool *attention)
{
	json_t *list = json_array();
	for (int i = 0; i < c->blocks; i++)
		json_array_append_new(list, json_sprintf("%s%s", attention[i] ? "CrossAttn" : "", stem));
	return list;
}

static json_t *cross_only(const struct qd_unet_config *c)
{
	json_t *list = json_array();
	bool any = false;
	for (int i = 0; i < c->blocks; i++) {
		any = any || c->only_cross[i];
		json_array_append_new(list, json_boolean(c->only_cross[i]));
	}
	if (any)
		return list;
	json_decref(list);
	return json_false();
}

/* True when all layers of a block are equally deep and the up blocks mirror the down blocks: then one number per block says it all.
 */
static bool depths_are_plain(const struct qd_unet_config *c)
{
	for (int i = 0; i < c->blocks; i++) {
		for (int j = 0; j < (int)c->layers[i] + 1; j++) {
			if (j < (int)c->layers[i] && c->depth[i][j] != c->depth[i][0])
				return false;
			if (c->up_depth[c->blocks - 1 - i][j] != c->depth[i][0])
				return false;
		}
	}
	return true;
}

/* One list per block; `more` layers beyond those of the down block (1 for up blocks, whose order is reversed). */
static json_t *nested_depths(const struct qd_unet_config *c, const int64_t (*depth)[QD_MAX_LAYERS], bool up)
{
	json_t *blocks = json_array();
	for (int i = 0; i < c->blocks; i++) {
		json_t *list = json_array();
		int64_t layers = up ? c->layers[c->blocks - 1 - i] + 1 : c->layers[i];
		for (int64_t j = 0; j < layers; j++)
			json_array_append_new(list, json_integer(depth[i][j]));
		json_array_append_new(blocks, list);
	}
	return blocks;
}

static void put_depths(json_t *o, const struct qd_unet_config *c)
{
	int64_t first[QD_MAX_BLOCKS];
	bool plain = depths_are_plain(c);
	for (int i = 0; i < c->blocks; i++)
		first[i] = c->depth[i][0];
	json_object_set_new(
		o, "transformer_layers_per_block", plain ? per_block(first, c->blocks) : nested_depths(c, c->depth, false));
	json_object_set_new(o, "reverse_transformer_layers_per_block", plain ? json_null() : nested_depths(c, c->up_depth, true));
}

static json_t *int_or_null(int64_t value)
{
	return value ? json_integer(value) : json_null();
}

static const char *act_name(enum qd_op act)
{
	switch (act) {
	case QD_OP_MISH:
		return "mish";
	case QD_OP_GELU:
		return "gelu";
	case QD_OP_RELU:
		return "relu";
	default:
		return "silu";
	}
}

static void put_blocks(json_t *o, const struct qd_unet_config *c)
{
	const char *mid = c->mid_attention ? "UNetMidBlock2DCrossAttn" : "UNetMidBlock2D";
	json_object_set_new(o, "block_out_channels", channel_list(c));
	json_object_set_new(o, "down_block_types", block_types(c, "DownBlock2D", c->down_attention));
	json_object_set_new(o, "mid_block_type", c->has_mid ? json_string(mid) : json_null());
	json_object_set_new(o, "up_block_types", block_types(c, "UpBlock2D", c->up_attention));
	json_object_set_new(o, "layers_per_block", per_block(c->layers, c->blocks));
	json_object_set_new(o, "attention_head_dim", per_block(c->heads, c->blocks));
	json_object_set_new(o, "num_attention_heads", json_null());
	json_object_set_new(o, "cross_attention_dim", per_block(c->cross_dim, c->blocks));
	json_object_set_new(o, "only_cross_attention", cross_only(c));
	put_depths(o, c);
	json_object_set_new(o, "use_linear_projection", json_boolean(c->linear_projection));
	json_object_set_new(o, "dual_cross_attention", json_false());
	json_object_set_new(o, "attention_type", json_string("default"));
	json_object_set_new(o, "upcast_attention", json_false());
	json_object_set_new(o, "downsample_padding", json_integer(c->downsample_padding));
	json_object_set_new(o, "mid_block_scale_factor", json_real(c->mid_scale));
	json_object_set_new(o, "resnet_time_scale_shift", json_string(c->scale_shift ? "scale_shift" : "default"));
}

static void put_embeddings(json_t *o, const struct qd_unet_config *c)
{
	json_object_set_new(o, "time_embedding_type", json_string("positional"));
	json_object_set_new(o, "time_embedding_dim", int_or_null(c->time_dim == 4 * c->channels[0] ? 0 : c->time_dim));
	json_object_set_new(o, "time_embedding_act_fn", json_null());
	json_object_set_new(o, "timestep_post_act", json_null());
	json_object_set_new(o, "time_cond_proj_dim", int_or_null(c->time_cond_dim));
	json_object_set_new(o, "flip_sin_to_cos", json_boolean(c->flip_sin_to_cos));
	json_object_set_new(o, "freq_shift", json_real(c->freq_shift));
	json_object_set_new(o, "class_embed_type", json_null());
	json_object_set_new(o, "num_class_embeds", json_null());
	json_object_set_new(o, "addition_embed_type", c->text_time ? json_string("text_time") : json_null());
	json_object_set_new(o, "addition_time_embed_dim", int_or_null(c->addition_time_dim));
	json_object_set_new(o, "projection_class_embeddings_input_dim", int_or_null(c->addition_in_dim));
	json_object_set_new(o, "encoder_hid_dim", int_or_null(c->encoder_hid_dim));
	json_object_set_new(o, "encoder_hid_dim_type", c->text_proj ? json_string("text_proj") : json_null());
}

json_t *qd_unet_config_json(const struct qd_unet_config *c)
{
	json_t *o = json_object();
	json_object_set_new(o, "_class_name", json_string("UNet2DConditionModel"));
	json_object_set_new(o, "sample_size", int_or_null(c->sample_size));
	json_object_set_new(o, "in_channels", json_integer(c->in_channels));
	json_object_set_new(o, "out_channels", json_integer(c->out_channels));
	json_object_set_new(o, "center_input_sample", json_boolean(c->center_input));
	json_object_set_new(o, "conv_in_kernel", json_integer(c->conv_in_kernel));
	json_object_set_new(o, "conv_out_kernel", json_integer(c->conv_out_kernel));
	put_blocks(o, c);
	json_object_set_new(o, "norm_num_groups", json_integer(c->groups));
	json_object_set_new(o, "norm_eps", json_real(c->norm_eps));
	json_object_set_new(o, "act_fn", json_string(act_name(c->act)));
	put_embeddings(o, c);
	return o;
}

/* Whether any layer of the level, on the way down, in the middle or up, has a transformer. */
static bool has_attention(const struct qd_unet_config *c, int level)
{
	return c->down_attention[level] || c->up_attention[c->blocks - 1 - level] ||
	       (level == c->blocks - 1 && c->has_mid && c->mid_attention);
}

json_t *qd_unet_config_identity(const struct qd_unet_config *config)
{
	struct qd_unet_config c = *config;
	bool any = false;
	c.sample_size = 0;
	if (!c.text_time)
		c.addition_time_dim = c.addition_in_dim = 0;
	for (int i = 0; i < c.blocks; i++) {
		int up = c.blocks - 1 - i;
		any = any || has_attention(&c, i);
		if (!has_attention(&c, i))
			c.heads[i] = 1;
		if (!c.down_attention[i] && !c.up_attention[up])
			c.only_cross[i] = false;
		for (int j = 0; j < QD_MAX_LAYERS; j++) {
			c.depth[i][j] = c.down_attention[i] ? c.depth[i][j] : 1;
			c.up_depth[i][j] = c.up_attention[i] ? c.up_depth[i][j] : 1;
		}
	}
	for (int i = 0; i < c.blocks && !any; i++)
		c.cross_dim[i] = 1;
	json_t *json = qd_unet_config_json(&c);
	/* the down blocks' last depth, which the field for all blocks gives, is not always the middle's */
	json_object_set_new(json, "mid_depth", json_integer(c.mid_attention ? c.mid_depth : 0));
	return json;
}
