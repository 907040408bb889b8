/*
 * UNet2DConditionModel's config.json.
 *
 * How diffusers reads it: an absent key means the default of the class, which is not what SD1.5's file says (cross_attention_dim is
 * 1280); a key that is there with null passes null; names in `_use_default_values` are dropped in favour of the defaults; keys that
 * start with an underscore and unknown keys are ignored. Values that this program does not implement are refused by name, never
 * ignored.
 *
 * Two spellings mislead: attention_head_dim is the number of heads, and transformer_layers_per_block may hold one list per block
 * when layers differ, in which case reverse_transformer_layers_per_block spells out the up blocks.
 */
#include "lib/base/base.h"
#include "lib/network/component_internal.h"

#include <math.h>
#include <string.h>

enum { MAX_CHANNELS = QD_FIELD_MAX_CHANNELS, MAX_DEPTH = 256, MAX_KERNEL = 15 };

/* ---- lists: one value for every block, or one per block ---- */

static void bool_list(struct qd_fields *r, const char *name, int blocks, bool *out)
{
	const json_t *value = qd_field(r, name);

	for (int i = 0; i < blocks; i++) {
		const json_t *one = qd_field_item(r, name, value, blocks, i);
		out[i] = json_is_true(one);
		if (value != NULL && !json_is_null(value) && !json_is_boolean(one))
			qd_field_refuse(r, QD_EINPUT, name, value, "true or false, or a list of them");
	}
}

/* ---- what is refused ---- */

/* Fields of which this program implements one value. */
static const struct {
	const char *name, *names[2];
} only[] = {
	{ "attention_type", { "default" } },
	{ "time_embedding_type", { "positional" } },
	{ "encoder_hid_dim_type", { "text_proj" } },
};

/* Fields that only work switched off. */
static const char *const must_be_off[] = {
	"num_attention_heads",
	"dual_cross_attention",
	"time_embedding_act_fn",
	"timestep_post_act",
	"class_embed_type",
	"num_class_embeds",
};

static void check_supported(struct qd_fields *r)
{
	const json_t *class_name = json_object_get(r->json, "_class_name");

	if (json_is_string(class_name) && strstr(json_string_value(class_name), "UNet2DConditionModel") == NULL)
		qd_field_refuse(r, QD_EUNSUPPORTED, "_class_name", class_name, "\"UNet2DConditionModel\"");
	for (size_t i = 0; i < QD_COUNT(must_be_off); i++) {
		const json_t *value = qd_field(r, must_be_off[i]);
		if (value != NULL && !json_is_null(value) && !json_is_false(value))
			qd_field_refuse(r, QD_EUNSUPPORTED, must_be_off[i], value, "null");
	}
	for (size_t i = 0; i < QD_COUNT(only); i++)
		qd_field_choice(r, only[i].name, only[i].names, 0);
}

/* ---- blocks ---- */

/* The number of blocks and their channels. */
static void read_channels(struct qd_fields *r, struct qd_unet_config *c)
{
	static const int64_t absent[] = { 320, 640, 1280, 1280 };
	const json_t *value = qd_field(r, "block_out_channels");

	c->blocks = (int)QD_COUNT(absent);
	memcpy(c->channels, absent, sizeof(absent));
	if (value == NULL)
		return;
	if (!json_is_array(value) || json_array_size(value) < 1 || json_array_size(value) > QD_MAX_BLOCKS) {
		qd_field_refuse(r, QD_EINPUT, "block_out_channels", value, "a list of 1 to 8 channel counts");
		return;
	}
	c->blocks = (int)json_array_size(value);
	qd_field_ints(r, "block_out_channels", c->blocks, MAX_CHANNELS, 0, c->channels);
}

/* Block types: "<stem>", or "CrossAttn<stem>" with attention; a leading UNetRes is an old spelling. `plain` is the one without
 * attention when the file has no list. */
static void read_types(struct qd_fields *r, const char *name, const char *stem, int blocks, int plain, bool *attention)
{
	char cross[32], need[96];
	const json_t *list = qd_field(r, name);

	snprintf(cross, sizeof(cross), "CrossAttn%s", stem);
	snprintf(need, sizeof(need), "a list of %d of \"%s\" and \"%s\"", blocks, stem, cross);
	if (list != NULL && (!json_is_array(list) || json_array_size(list) != (size_t)blocks))
		qd_field_refuse(r, QD_EINPUT, name, list, need);
	if (list == NULL && blocks != 4)
		qd_fields_fail(r, QD_EINPUT, "'%s' has no field '%s', needs %s", r->what, name, need);
	for (int i = 0; i < blocks; i++) {
		const char *type = json_string_value(json_array_get(list, (size_t)i));
		if (type != NULL && qd_starts_with(type, "UNetRes"))
			type += strlen("UNetRes");
		attention[i] = list != NULL ? type != NULL && strcmp(type, cross) == 0 : i != plain;
		if (list != NULL && !attention[i] && (type == NULL || strcmp(type, stem) != 0))
			qd_field_refuse(r, type != NULL ? QD_EUNSUPPORTED : QD_EINPUT, name, list, need);
	}
}

static void read_mid(struct qd_fields *r, struct qd_unet_config *c)
{
	static const char *const types[] = { "UNetMidBlock2DCrossAttn", "UNetMidBlock2D", NULL };

	c->has_mid = !json_is_null(qd_field(r, "mid_block_type"));
	c->mid_attention = c->has_mid && qd_field_choice(r, "mid_block_type", types, 0) == 0;
}

/* Depths of the layers of one block: a number for all, or a list of `layers`; NULL: 1. */
static void read_depths(struct qd_fields *r, const char *name, const json_t *value, int64_t layers, int64_t *out)
{
	char need[64];

	snprintf(need, sizeof(need), "%lld numbers in a block's list", (long long)layers);
	if (json_is_array(value) && json_array_size(value) != (size_t)layers)
		qd_field_refuse(r, QD_EINPUT, name, value, need);
	for (int64_t j = 0; j < layers; j++) {
		const json_t *one = json_is_array(value) ? json_array_get(value, (size_t)j) : value;
		out[j] = value != NULL ? qd_field_as_int(r, name, one, 0, MAX_DEPTH) : 1;
	}
}

static bool is_nested(const json_t *list)
{
	size_t i;
	const json_t *one;
	json_array_foreach((json_t *)list, i, one)
	{
		if (json_is_array(one))
			return true;
	}
	return false;
}

/* transformer_layers_per_block: of the down blocks, of the mid block (the last one's), and of the up blocks (reversed, or spelled
 * out). */
static void read_transformer_layers(struct qd_fields *r, struct qd_unet_config *c)
{
	static const char *const name = "transformer_layers_per_block", *const up_name = "reverse_transformer_layers_per_block";
	const json_t *down = qd_field(r, name), *up = qd_field(r, up_name);
	bool mirrored = up == NULL || json_is_null(up);

	if (mirrored && is_nested(down))
		qd_fields_fail(r, QD_EINPUT, "'%s': field '%s' has a list per block, needs '%s' beside it", r->what, name, up_name);
	for (int i = 0; i < c->blocks; i++) {
		int opposite = c->blocks - 1 - i;
		read_depths(r, name, qd_field_item(r, name, down, c->blocks, i), c->layers[i], c->depth[i]);
		if (mirrored)
			read_depths(r, name, qd_field_item(r, name, down, c->blocks, opposite), c->layers[opposite] + 1,
				c->up_depth[i]);
		else
			read_depths(
				r, up_name, qd_field_item(r, up_name, up, c->blocks, i), c->layers[opposite] + 1, c->up_depth[i]);
	}
	c->mid_depth = c->depth[c->blocks - 1][0];
}

static void read_blocks(struct qd_fields *r, struct qd_unet_config *c)
{
	read_channels(r, c);
	read_types(r, "down_block_types", "DownBlock2D", c->blocks, 3, c->down_attention);
	read_types(r, "up_block_types", "UpBlock2D", c->blocks, 0, c->up_attention);
	read_mid(r, c);
	qd_field_ints(r, "layers_per_block", c->blocks, QD_MAX_LAYERS - 1, 2, c->layers);
	qd_field_ints(r, "attention_head_dim", c->blocks, MAX_CHANNELS, 8, c->heads);
	qd_field_ints(r, "cross_attention_dim", c->blocks, MAX_CHANNELS, 1280, c->cross_dim);
	bool_list(r, "only_cross_attention", c->blocks, c->only_cross);
	read_transformer_layers(r, c);
}

/* ---- the rest ---- */

/*
 * How many numbers time_ids holds is nowhere said: SDXL's, unless the width is that of its refiner, whose pooled text has
 * QD_FAMILY_POOLED features.
 */
static int64_t count_time_ids(const struct qd_unet_config *c)
{
	int64_t few = qd_families[QD_FAMILY_SDXL_REFINER].time_ids, many = qd_families[QD_FAMILY_SDXL].time_ids;

	return !c->text_time ? 0 : c->addition_in_dim == QD_FAMILY_POOLED + few * c->addition_time_dim ? few : many;
}

static void read_embeddings(struct qd_fields *r, struct qd_unet_config *c)
{
	static const char *const shifts[] = { "default", "scale_shift", NULL }, *const additions[] = { "text_time", NULL };

	c->flip_sin_to_cos = qd_field_bool(r, "flip_sin_to_cos", true);
	c->freq_shift = qd_field_number(r, "freq_shift", -INFINITY, INFINITY, 0);
	c->time_dim = qd_field_int(r, "time_embedding_dim", 1, 4 * MAX_CHANNELS, 4 * c->channels[0]);
	c->time_cond_dim = qd_field_int(r, "time_cond_proj_dim", 1, MAX_CHANNELS, 0);
	c->encoder_hid_dim = qd_field_int(r, "encoder_hid_dim", 1, MAX_CHANNELS, 0);
	c->scale_shift = qd_field_choice(r, "resnet_time_scale_shift", shifts, 0) == 1;
	c->text_time = qd_field_choice(r, "addition_embed_type", additions, 1) == 0;
	c->text_proj = c->encoder_hid_dim > 0; /* the type may be left out beside the size */
	c->addition_time_dim = qd_field_int(r, "addition_time_embed_dim", 2, MAX_CHANNELS, 0);
	c->addition_in_dim = qd_field_int(r, "projection_class_embeddings_input_dim", 1, MAX_CHANNELS, 0);
	c->time_ids = count_time_ids(c);
}

static void read_scalars(struct qd_fields *r, struct qd_unet_config *c)
{
	c->in_channels = qd_field_int(r, "in_channels", 1, MAX_CHANNELS, 4);
	c->out_channels = qd_field_int(r, "out_channels", 1, MAX_CHANNELS, 4);
	c->sample_size = qd_config_size(r, "sample_size");
	c->linear_projection = qd_field_bool(r, "use_linear_projection", false);
	c->center_input = qd_field_bool(r, "center_input_sample", false);
	c->norm_eps = qd_field_number(r, "norm_eps", -INFINITY, INFINITY, 1e-5);
	c->mid_scale = qd_field_number(r, "mid_block_scale_factor", -INFINITY, INFINITY, 1);
	c->downsample_padding = qd_field_int(r, "downsample_padding", 0, 1, 1);
	c->conv_in_kernel = qd_field_int(r, "conv_in_kernel", 1, MAX_KERNEL, 3);
	c->conv_out_kernel = qd_field_int(r, "conv_out_kernel", 1, MAX_KERNEL, 3);
	c->groups = qd_config_groups(r, "norm_num_groups");
	c->act = qd_config_act(r, "act_fn", QD_OP_SIGMOID);
	read_embeddings(r, c);
}

/* ---- values that must agree ---- */

static void check_block(struct qd_fields *r, const struct qd_unet_config *c, int i, bool attention)
{
	long long channels = (long long)c->channels[i];
	if (c->channels[i] % c->groups)
		qd_fields_fail(r, QD_EINPUT, "'%s': block %d has %lld channels, needs a multiple of the %lld groups of its norms",
			r->what, i, channels, (long long)c->groups);
	if (attention && c->channels[i] % c->heads[i])
		qd_fields_fail(r, QD_EINPUT, "'%s': block %d has %lld channels, needs a multiple of its %lld attention heads",
			r->what, i, channels, (long long)c->heads[i]);
	if (c->cross_dim[i] != c->cross_dim[0])
		qd_fields_fail(r, QD_EUNSUPPORTED,
			"'%s': block %d takes %lld context features and block 0 %lld, needs one size for all", r->what, i,
			(long long)c->cross_dim[i], (long long)c->cross_dim[0]);
}

static void check_consistent(struct qd_fields *r, const struct qd_unet_config *c)
{
	for (int i = 0; i < c->blocks; i++) {
		bool last = i == c->blocks - 1;
		bool attention = c->down_attention[i] || c->up_attention[c->blocks - 1 - i] || (last && c->mid_attention);
		check_block(r, c, i, attention);
	}
	if (c->channels[0] % 2)
		qd_fields_fail(
			r, QD_EINPUT, "'%s': block 0 has %lld channels, needs an even number", r->what, (long long)c->channels[0]);
	if (c->conv_in_kernel % 2 == 0 || c->conv_out_kernel % 2 == 0)
		qd_fields_fail(r, QD_EUNSUPPORTED,
			"'%s': fields 'conv_in_kernel' and 'conv_out_kernel' are %lld and %lld, need odd numbers", r->what,
			(long long)c->conv_in_kernel, (long long)c->conv_out_kernel);
	if (!(c->mid_scale > 0) || !(c->norm_eps > 0))
		qd_fields_fail(r, QD_EINPUT, "'%s': fields 'mid_block_scale_factor' and 'norm_eps' are %g and %g, need more than 0",
			r->what, c->mid_scale, c->norm_eps);
	if (c->text_time &&
		(c->addition_time_dim % 2 || c->addition_time_dim == 0 || c->addition_in_dim <= c->time_ids * c->addition_time_dim))
		qd_fields_fail(r, QD_EINPUT,
			"'%s': fields 'addition_time_embed_dim' and 'projection_class_embeddings_input_dim' are %lld and %lld, "
			"need an even "
			"number and more than six times that",
			r->what, (long long)c->addition_time_dim, (long long)c->addition_in_dim);
	double half = (double)(c->text_time && c->addition_time_dim < c->channels[0] ? c->addition_time_dim : c->channels[0]) / 2;
	if (!(c->freq_shift < half))
		qd_fields_fail(r, QD_EINPUT, "'%s': field 'freq_shift' is %g, needs less than the %g frequencies of an embedding",
			r->what, c->freq_shift, half);
}

enum qd_status qd_unet_config_parse(struct qd_unet_config *config, const char *what, const json_t *json)
{
	struct qd_fields r = { .what = what, .json = json };

	*config = (struct qd_unet_config){ 0 };
	if (!json_is_object(json))
		return qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with the fields of UNet2DConditionModel", what);
	check_supported(&r);
	read_blocks(&r, config);
	read_scalars(&r, config);
	check_consistent(&r, config);
	return r.status;
}

enum qd_status qd_unet_config_read(struct qd_unet_config *config, const char *path)
{
	json_t *json = NULL;
	enum qd_status st;
	QD_TRY(st, qd_json_read(path, &json));
	QD_TRY(st, qd_unet_config_parse(config, path, json));
out:
	json_decref(json);
	return st;
}

enum qd_status qd_unet_config_family(struct qd_unet_config *config, const struct qd_family *family)
{
	json_t *json = NULL;
	enum qd_status st;

	QD_TRY(st, qd_json_parse(family->name, family->config, strlen(family->config), &json));
	QD_TRY(st, qd_unet_config_parse(config, family->name, json));
out:
	json_decref(json);
	return st;
}
