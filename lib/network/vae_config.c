/*
 * config.json of AutoencoderKL and AutoencoderTiny. The defaults are those of the classes, not of published models: an
 * AutoencoderKL without block_out_channels has one block of 64 channels. scaling_factor is absent in SD1.x's files and 0.18215
 * then.
 */
#include "lib/base/base.h"
#include "lib/network/component_internal.h"

#include <math.h>
#include <string.h>

enum { MAX_CHANNELS = QD_FIELD_MAX_CHANNELS };

/* ---- what both have ---- */

/* A per-block list: its items into `out`, their number into `*blocks`. Absent gives the class's own. */
static void block_list(struct qd_fields *r, const char *name, int n_absent, const int64_t *absent, int *blocks, int64_t *out)
{
	const json_t *value = qd_field(r, name);

	*blocks = n_absent;
	memcpy(out, absent, (size_t)n_absent * sizeof(*out));
	if (value == NULL)
		return;
	if (!json_is_array(value) || json_array_size(value) < 1 || json_array_size(value) > QD_MAX_BLOCKS) {
		qd_field_refuse(r, QD_EINPUT, name, value, "a list of 1 to 8 numbers");
		return;
	}
	*blocks = (int)json_array_size(value);
	qd_field_ints(r, name, *blocks, MAX_CHANNELS, 0, out);
}

/* The same for a list that belongs to one read before. */
static void block_list_as_long(struct qd_fields *r, const char *name, int n_absent, const int64_t *absent, int needed, int64_t *out)
{
	int found;

	block_list(r, name, n_absent, absent, &found, out);
	if (found != needed)
		qd_fields_fail(r, QD_EINPUT, "'%s': field '%s' has %d items, needs %d", r->what, name, found, needed);
}

static void read_channels(struct qd_fields *r, struct qd_vae_config *c, double scaling)
{
	const json_t *value = qd_field(r, "scaling_factor");

	c->in_channels = qd_field_needed_int(r, "in_channels", 1, MAX_CHANNELS, 3);
	c->out_channels = qd_field_needed_int(r, "out_channels", 1, MAX_CHANNELS, 3);
	c->latent_channels = qd_field_needed_int(r, "latent_channels", 1, QD_MAX_LATENTS, 4);
	c->scaling_factor = qd_field_number(r, "scaling_factor", -INFINITY, INFINITY, scaling);
	c->shift_factor = qd_field_number(r, "shift_factor", -INFINITY, INFINITY, 0);
	if (json_is_null(value) || !(c->scaling_factor > 0))
		qd_field_refuse(r, QD_EINPUT, "scaling_factor", value, "a number above 0");
}

/* ---- AutoencoderKL ---- */

/* All blocks must be of the one type. */
static void check_types(struct qd_fields *r, const char *name, const char *type, int blocks)
{
	const json_t *list = qd_field(r, name);
	char need[96];

	snprintf(need, sizeof(need), "a list of %d \"%s\"", blocks, type);
	if (list == NULL) {
		if (blocks != 1)
			qd_fields_fail(r, QD_EINPUT, "'%s' has no field '%s', needs %s", r->what, name, need);
		return;
	}
	if (!json_is_array(list) || json_array_size(list) != (size_t)blocks)
		qd_field_refuse(r, QD_EINPUT, name, list, need);
	for (int i = 0; i < blocks; i++)
		if (!qd_field_is(json_array_get(list, (size_t)i), type))
			qd_field_refuse(r, QD_EUNSUPPORTED, name, list, need);
}

static void read_blocks(struct qd_fields *r, struct qd_vae_config *c)
{
	static const int64_t absent[] = { 64 };
	int64_t layers;

	block_list(r, "block_out_channels", 1, absent, &c->blocks, c->channels);
	check_types(r, "down_block_types", "DownEncoderBlock2D", c->blocks);
	check_types(r, "up_block_types", "UpDecoderBlock2D", c->blocks);
	layers = qd_field_needed_int(r, "layers_per_block", 1, QD_MAX_LAYERS - 1, 1);
	for (int i = 0; i < c->blocks; i++) {
		c->layers[i] = layers;
		c->decoder_layers[i] = layers + 1;
	}
	c->groups = qd_config_groups(r, "norm_num_groups");
	for (int i = 0; i < c->blocks; i++)
		if (c->channels[i] % c->groups != 0)
			qd_fields_fail(r, QD_EINPUT,
				"'%s': block %d has %lld channels, needs a multiple of the %lld groups of its norms", r->what, i,
				(long long)c->channels[i], (long long)c->groups);
}

/* latents_mean, latents_std: null, or one number per latent channel. */
static void read_normalization(struct qd_fields *r, struct qd_vae_config *c)
{
	size_t n = (size_t)c->latent_channels;
	bool has_mean = qd_field_numbers(r, "latents_mean", n, c->mean), has_std = qd_field_numbers(r, "latents_std", n, c->std);

	c->normalized = has_mean;
	if (has_mean != has_std)
		qd_fields_fail(r, QD_EINPUT, "'%s' has field '%s' without '%s', needs both or none", r->what,
			has_mean ? "latents_mean" : "latents_std", has_mean ? "latents_std" : "latents_mean");
	for (size_t i = 0; i < n; i++) {
		if (!has_std)
			c->std[i] = 1;
		if (!(c->std[i] > 0))
			qd_field_refuse(r, QD_EINPUT, "latents_std", qd_field(r, "latents_std"), "numbers above 0");
	}
}

enum qd_status qd_vae_config_parse(struct qd_vae_config *config, const char *what, const json_t *json)
{
	struct qd_fields r = { .what = what, .json = json };

	*config = (struct qd_vae_config){ 0 };
	if (!json_is_object(json))
		return qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with the fields of AutoencoderKL", what);
	read_channels(&r, config, 0.18215);
	config->sample_size = qd_config_size(&r, "sample_size");
	read_blocks(&r, config);
	config->act = qd_config_act(&r, "act_fn", QD_OP_SIGMOID);
	config->quant_conv = qd_field_bool(&r, "use_quant_conv", true);
	config->post_quant_conv = qd_field_bool(&r, "use_post_quant_conv", true);
	config->mid_attention = qd_field_bool(&r, "mid_block_add_attention", true);
	read_normalization(&r, config);
	return r.status;
}

/* ---- AutoencoderTiny ---- */

/* The class has one width: between its blocks there is nothing that would change it. */
static void read_width(struct qd_fields *r, const char *name, int *blocks, int64_t *channels)
{
	static const int64_t absent[] = { 64, 64, 64, 64 };

	block_list(r, name, (int)QD_COUNT(absent), absent, blocks, channels);
	for (int i = 1; i < *blocks; i++)
		if (channels[i] != channels[0])
			qd_field_refuse(r, QD_EUNSUPPORTED, name, qd_field(r, name), "one number for all blocks");
}

static void read_tiny_blocks(struct qd_fields *r, struct qd_vae_config *c)
{
	static const int64_t absent[] = { 1, 3, 3, 3 }, absent_decoder[] = { 3, 3, 3, 1 };
	static const char decoder[] = "decoder_block_out_channels";
	int64_t decoder_channels[QD_MAX_BLOCKS];
	int n;

	read_width(r, "encoder_block_out_channels", &c->blocks, c->channels);
	read_width(r, decoder, &n, decoder_channels);
	if (n != c->blocks)
		qd_fields_fail(r, QD_EINPUT, "'%s': field '%s' has %d items, needs %d", r->what, decoder, n, c->blocks);
	if (decoder_channels[0] != c->channels[0])
		qd_field_refuse(r, QD_EUNSUPPORTED, decoder, qd_field(r, decoder), "the encoder's number of channels");
	block_list_as_long(r, "num_encoder_blocks", 4, absent, c->blocks, c->layers);
	block_list_as_long(r, "num_decoder_blocks", 4, absent_decoder, c->blocks, c->decoder_layers);
}

enum qd_status qd_tiny_vae_config_parse(struct qd_vae_config *config, const char *what, const json_t *json)
{
	static const char *const upsampling[] = { "nearest", NULL };
	static const char factor[] = "upsampling_scaling_factor";
	struct qd_fields r = { .what = what, .json = json };

	*config = (struct qd_vae_config){ .tiny = true };
	if (!json_is_object(json))
		return qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with the fields of AutoencoderTiny", what);
	read_channels(&r, config, 1);
	read_tiny_blocks(&r, config);
	config->act = qd_config_act(&r, "act_fn", QD_OP_RELU);
	qd_field_needed_choice(&r, "upsample_fn", upsampling, 0);
	if (qd_field_needed_int(&r, factor, 1, MAX_CHANNELS, 2) != 2)
		qd_field_refuse(&r, QD_EUNSUPPORTED, factor, qd_field(&r, factor), "2");
	for (int64_t i = 0; i < config->latent_channels; i++)
		config->std[i] = 1;
	return r.status;
}
