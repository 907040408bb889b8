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
#include "lib/model/fields.h"

#include <string.h>

enum { MAX_CHANNELS = QD_FIELD_MAX_CHANNELS, MAX_DEPTH = 256, MAX_KERNEL = 15 };

/* ---- lists: one value for every block, or one per block ---- */

static enum qd_status bool_list(const struct qd_fields *r, const char *name, int blocks, bool *out)
{
	const json_t *value = qd_field(r, name);
	for (int i = 0; i < blocks; i++) {
		const json_t *one = NULL;
		out[i] = false;
		if (!value || json_is_null(value))
			continue;
		enum qd_status st = qd_field_item(r, name, value, blocks, i, &one);
		if (st == QD_OK && !json_is_boolean(one))
			st = qd_field_refuse(r, QD_EINPUT, name, value, "true or false, or a list of them");
		if (st != QD_OK)
			return st;
		out[i] = json_is_true(one);
	}
	return QD_OK;
}

/* ---- what is refused ---- */

/* Fields of which this program implements one or two values. */
static const struct qd_field_choice choices[] = {
	{ "attention_type", "default", NULL, true },
	{ "time_embedding_type", "positional", NULL, true },
	{ "resnet_time_scale_shift", "default", "scale_shift", true },
	{ "addition_embed_type", "text_time", NULL, true },
	{ "encoder_hid_dim_type", "text_proj", NULL, true },
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

static enum qd_status check_supported(const struct qd_fields *r)
{
	const json_t *class_name = json_object_get(r->json, "_class_name");
	if (json_is_string(class_name) && !strstr(json_string_value(class_name), "UNet2DConditionModel"))
		return qd_field_refuse(r, QD_EUNSUPPORTED, "_class_name", class_name, "\"UNet2DConditionModel\"");
	for (size_t i = 0; i < QD_COUNT(must_be_off); i++) {
		const json_t *value = qd_field(r, must_be_off[i]);
		if (value && !json_is_null(value) && !json_is_false(value))
			return qd_field_refuse(r, QD_EUNSUPPORTED, must_be_off[i], value, "null");
	}
	for (size_t i = 0; i < QD_COUNT(choices); i++) {
		enum qd_status st = qd_field_check_choice(r, &choices[i]);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

/* ---- blocks ---- */

/* The number of blocks and their channels. */
static enum qd_status read_channels(const struct qd_fields *r, struct qd_unet_config *c)
{
	static const int64_t absent[] = { 320, 640, 1280, 1280 };
	const json_t *value = qd_field(r, "block_out_channels");
	c->blocks = (int)QD_COUNT(absent);
	memcpy(c->channels, absent, sizeof(absent));
	if (!value)
		return QD_OK;
	if (!json_is_array(value) || json_array_size(value) < 1 || json_array_size(value) > QD_MAX_BLOCKS)
		return qd_field_refuse(r, QD_EINPUT, "block_out_channels", value, "a list of 1 to 8 channel counts");
	c->blocks = (int)json_array_size(value);
	return qd_field_ints(r, "block_out_channels", c->blocks, MAX_CHANNELS, 0, c->channels);
}

/* Block types: "<stem>", or "CrossAttn<stem>" with attention; a leading UNetRes is an old spelling. `plain` is the one without
 * attention when the file has no list. */
static enum qd_status read_types(
	const struct qd_fields *r, const char *name, const char *stem, int blocks, int plain, bool *attention)
{
	char cross[32], need[96];
	const json_t *list = qd_field(r, name);
	snprintf(cross, sizeof(cross), "CrossAttn%s", stem);
	snprintf(need, sizeof(need), "a list of %d of \"%s\" and \"%s\"", blocks, stem, cross);
	if (list && (!json_is_array(list) || json_array_size(list) != (size_t)blocks))
		return qd_field_refuse(r, QD_EINPUT, name, list, need);
	if (!list && blocks != 4)
		return qd_fail(QD_EINPUT, "'%s' has no field '%s', needs %s", r->what, name, need);
	for (int i = 0; i < blocks; i++) {
		const char *type = json_string_value(json_array_get(list, (size_t)i));
		if (type && qd_starts_with(type, "UNetRes"))
			type += strlen("UNetRes");
		attention[i] = list ? type && strcmp(type, cross) == 0 : i != plain;
		if (list && !attention[i] && !(type && strcmp(type, stem) == 0))
			return qd_field_refuse(r, type ? QD_EUNSUPPORTED : QD_EINPUT, name, list, need);
	}
	return QD_OK;
}

static enum qd_status read_mid(const struct qd_fields *r, struct qd_unet_config *c)
{
	const json_t *value = qd_field(r, "mid_block_type");
	c->mid_attention = !value || qd_field_is(value, "UNetMidBlock2DCrossAttn");
	c->has_mid = !value || !json_is_null(value);
	if (c->mid_attention || !c->has_mid || qd_field_is(value, "UNetMidBlock2D"))
		return QD_OK;
	return qd_field_refuse(
		r, QD_EUNSUPPORTED, "mid_block_type", value, "\"UNetMidBlock2DCrossAttn\", \"UNetMidBlock2D\" or null");
}

/* Depths of the layers of one block: a number for all, or a list of `layers`. */
static enum qd_status read_depths(const struct qd_fields *r, const char *name, const json_t *value, int64_t layers, int64_t *out)
{
	char need[64];
	snprintf(need, sizeof(need), "%lld numbers in a block's list", (long long)layers);
	if (json_is_array(value) && json_array_size(value) != (size_t)layers)
		return qd_field_refuse(r, QD_EINPUT, name, value, need);
	for (int64_t j = 0; j < layers; j++) {
		const json_t *one = json_is_array(value) ? json_array_get(value, (size_t)j) : value;
		enum qd_status st = qd_field_read_int(r, name, one, 0, MAX_DEPTH, &out[j]);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
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
static enum qd_status read_transformer_layers(const struct qd_fields *r, struct qd_unet_config *c)
{
	static const char *const name = "transformer_layers_per_block", *const up_name = "reverse_transformer_layers_per_block";
	json_t *one = json_integer(1);
	const json_t *down = qd_field(r, name), *up = qd_field(r, up_name), *value = NULL;
	enum qd_status st;
	if (qd_json_starved())
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	if (!down)
		down = one;
	if (json_is_null(up))
		up = NULL;
	if (!up && is_nested(down))
		QD_TRY(st,
			qd_fail(QD_EINPUT, "'%s': field '%s' has a list per block, needs '%s' beside it", r->what, name, up_name));
	for (int i = 0; i < c->blocks; i++) {
		QD_TRY(st, qd_field_item(r, name, down, c->blocks, i, &value));
		QD_TRY(st, read_depths(r, name, value, c->layers[i], c->depth[i]));
		int opposite = c->blocks - 1 - i;
		QD_TRY(st, qd_field_item(r, up ? up_name : name, up ? up : down, c->blocks, up ? i : opposite, &value));
		QD_TRY(st, read_depths(r, up ? up_name : name, value, c->layers[opposite] + 1, c->up_depth[i]));
	}
	c->mid_depth = c->depth[c->blocks - 1][0];
	st = QD_OK;
out:
	json_decref(one);
	return st;
}

static enum qd_status read_blocks(const struct qd_fields *r, struct qd_unet_config *c)
{
	enum qd_status st;
	QD_TRY(st, read_channels(r, c));
	QD_TRY(st, read_types(r, "down_block_types", "DownBlock2D", c->blocks, 3, c->down_attention));
	QD_TRY(st, read_types(r, "up_block_types", "UpBlock2D", c->blocks, 0, c->up_attention));
	QD_TRY(st, read_mid(r, c));
	QD_TRY(st, qd_field_ints(r, "layers_per_block", c->blocks, QD_MAX_LAYERS - 1, 2, c->layers));
	QD_TRY(st, qd_field_ints(r, "attention_head_dim", c->blocks, MAX_CHANNELS, 8, c->heads));
	QD_TRY(st, qd_field_ints(r, "cross_attention_dim", c->blocks, MAX_CHANNELS, 1280, c->cross_dim));
	QD_TRY(st, bool_list(r, "only_cross_attention", c->blocks, c->only_cross));
	QD_TRY(st, read_transformer_layers(r, c));
out:
	return st;
}

/* ---- the rest ---- */

/* sample_size is a number or [height, width]; only the native size of inspect and of defaults depends on it. */
static enum qd_status read_sample_size(const struct qd_fields *r, struct qd_unet_config *c)
{
	const json_t *value = qd_field(r, "sample_size");
	if (json_is_array(value))
		value = json_array_get(value, 0);
	c->sample_size = 0;
	return !value || json_is_null(value) ? QD_OK : qd_field_read_int(r, "sample_size", value, 1, MAX_CHANNELS, &c->sample_size);
}

/* A null here means "no final norm" to diffusers, which no published model uses. */
static enum qd_status read_groups(const struct qd_fields *r, struct qd_unet_config *c)
{
	const json_t *value = qd_field(r, "norm_num_groups");
	c->groups = 32;
	if (json_is_null(value))
		return qd_field_refuse(r, QD_EUNSUPPORTED, "norm_num_groups", value, "a number");
	return value ? qd_field_read_int(r, "norm_num_groups", value, 1, MAX_CHANNELS, &c->groups) : QD_OK;
}

/*
 * How many numbers time_ids holds is nowhere said: six (original size, crop, target size) but in SDXL's refiner, where an aesthetic
 * score stands for the target size. It is the one whose width leaves the 1280 features of its text encoder for five.
 */
static int64_t count_time_ids(const struct qd_unet_config *c)
{
	return !c->text_time ? 0 : c->addition_in_dim == 1280 + 5 * c->addition_time_dim ? 5 : 6;
}

static enum qd_status read_embeddings(const struct qd_fields *r, struct qd_unet_config *c)
{
	enum qd_status st;
	QD_TRY(st, qd_field_bool(r, "flip_sin_to_cos", true, &c->flip_sin_to_cos));
	QD_TRY(st, qd_field_number(r, "freq_shift", 0, &c->freq_shift));
	QD_TRY(st, qd_field_int(r, "time_embedding_dim", 1, 4 * MAX_CHANNELS, 4 * c->channels[0], &c->time_dim));
	QD_TRY(st, qd_field_int(r, "time_cond_proj_dim", 1, MAX_CHANNELS, 0, &c->time_cond_dim));
	QD_TRY(st, qd_field_int(r, "encoder_hid_dim", 1, MAX_CHANNELS, 0, &c->encoder_hid_dim));
	c->scale_shift = qd_field_is(qd_field(r, "resnet_time_scale_shift"), "scale_shift");
	c->text_time = qd_field_is(qd_field(r, "addition_embed_type"), "text_time");
	c->text_proj = c->encoder_hid_dim > 0; /* the type may be left out beside the size */
	QD_TRY(st, qd_field_int(r, "addition_time_embed_dim", 2, MAX_CHANNELS, 0, &c->addition_time_dim));
	QD_TRY(st, qd_field_int(r, "projection_class_embeddings_input_dim", 1, MAX_CHANNELS, 0, &c->addition_in_dim));
	c->time_ids = count_time_ids(c);
out:
	return st;
}

static enum qd_status read_scalars(const struct qd_fields *r, struct qd_unet_config *c)
{
	enum qd_status st;
	QD_TRY(st, qd_field_int(r, "in_channels", 1, MAX_CHANNELS, 4, &c->in_channels));
	QD_TRY(st, qd_field_int(r, "out_channels", 1, MAX_CHANNELS, 4, &c->out_channels));
	QD_TRY(st, read_sample_size(r, c));
	QD_TRY(st, qd_field_bool(r, "use_linear_projection", false, &c->linear_projection));
	QD_TRY(st, qd_field_bool(r, "center_input_sample", false, &c->center_input));
	QD_TRY(st, qd_field_number(r, "norm_eps", 1e-5, &c->norm_eps));
	QD_TRY(st, qd_field_number(r, "mid_block_scale_factor", 1, &c->mid_scale));
	QD_TRY(st, qd_field_int(r, "downsample_padding", 0, 1, 1, &c->downsample_padding));
	QD_TRY(st, qd_field_int(r, "conv_in_kernel", 1, MAX_KERNEL, 3, &c->conv_in_kernel));
	QD_TRY(st, qd_field_int(r, "conv_out_kernel", 1, MAX_KERNEL, 3, &c->conv_out_kernel));
	QD_TRY(st, read_groups(r, c));
	QD_TRY(st, qd_field_act(r, "act_fn", QD_OP_SIGMOID, &c->act));
	QD_TRY(st, read_embeddings(r, c));
out:
	return st;
}

/* ---- values that must agree ---- */

static enum qd_status check_block(const struct qd_fields *r, const struct qd_unet_config *c, int i, bool attention)
{
	long long channels = (long long)c->channels[i];
	if (c->channels[i] % c->groups)
		return qd_fail(QD_EINPUT, "'%s': block %d has %lld channels, needs a multiple of the %lld groups of its norms",
			r->what, i, channels, (long long)c->groups);
	if (attention && c->channels[i] % c->heads[i])
		return qd_fail(QD_EINPUT, "'%s': block %d has %lld channels, needs a multiple of its %lld attention heads", r->what,
			i, channels, (long long)c->heads[i]);
	if (c->cross_dim[i] != c->cross_dim[0])
		return qd_fail(QD_EUNSUPPORTED,
			"'%s': block %d takes %lld context features and block 0 %lld, needs one size for all", r->what, i,
			(long long)c->cross_dim[i], (long long)c->cross_dim[0]);
	return QD_OK;
}

static enum qd_status check_consistent(const struct qd_fields *r, const struct qd_unet_config *c)
{
	for (int i = 0; i < c->blocks; i++) {
		bool last = i == c->blocks - 1;
		bool attention = c->down_attention[i] || c->up_attention[c->blocks - 1 - i] || (last && c->mid_attention);
		enum qd_status st = check_block(r, c, i, attention);
		if (st != QD_OK)
			return st;
	}
	if (c->channels[0] % 2)
		return qd_fail(
			QD_EINPUT, "'%s': block 0 has %lld channels, needs an even number", r->what, (long long)c->channels[0]);
	if (c->conv_in_kernel % 2 == 0 || c->conv_out_kernel % 2 == 0)
		return qd_fail(QD_EUNSUPPORTED,
			"'%s': fields 'conv_in_kernel' and 'conv_out_kernel' are %lld and %lld, need odd numbers", r->what,
			(long long)c->conv_in_kernel, (long long)c->conv_out_kernel);
	if (!(c->mid_scale > 0) || !(c->norm_eps > 0))
		return qd_fail(QD_EINPUT, "'%s': fields 'mid_block_scale_factor' and 'norm_eps' are %g and %g, need more than 0",
			r->what, c->mid_scale, c->norm_eps);
	if (c->text_time &&
		(c->addition_time_dim % 2 || c->addition_time_dim == 0 || c->addition_in_dim <= c->time_ids * c->addition_time_dim))
		return qd_fail(QD_EINPUT,
			"'%s': fields 'addition_time_embed_dim' and 'projection_class_embeddings_input_dim' are %lld and %lld, "
			"need an even "
			"number and more than six times that",
			r->what, (long long)c->addition_time_dim, (long long)c->addition_in_dim);
	double half = (double)(c->text_time && c->addition_time_dim < c->channels[0] ? c->addition_time_dim : c->channels[0]) / 2;
	if (!(c->freq_shift < half))
		return qd_fail(QD_EINPUT, "'%s': field 'freq_shift' is %g, needs less than the %g frequencies of an embedding",
			r->what, c->freq_shift, half);
	return QD_OK;
}

enum qd_status qd_unet_config_parse(struct qd_unet_config *config, const char *what, const json_t *json)
{
	struct qd_fields r = { what, json };
	enum qd_status st;
	*config = (struct qd_unet_config){ 0 };
	if (!json_is_object(json))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with the fields of UNet2DConditionModel", what));
	QD_TRY(st, check_supported(&r));
	QD_TRY(st, read_blocks(&r, config));
	QD_TRY(st, read_scalars(&r, config));
	QD_TRY(st, check_consistent(&r, config));
out:
	return st;
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
