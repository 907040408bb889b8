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
static enum qd_status block_list(
	const struct qd_fields *r, const char *name, int n_absent, const int64_t *absent, int *blocks, int64_t *out)
{
	const json_t *value = qd_field(r, name);
	*blocks = n_absent;
	memcpy(out, absent, (size_t)n_absent * sizeof(*out));
	if (!value)
		return QD_OK;
	if (!json_is_array(value) || json_array_size(value) < 1 || json_array_size(value) > QD_MAX_BLOCKS)
		return qd_field_refuse(r, QD_EINPUT, name, value, "a list of 1 to 8 numbers");
	*blocks = (int)json_array_size(value);
	return qd_field_ints(r, name, *blocks, MAX_CHANNELS, 0, out);
}

static enum qd_status same_length(const struct qd_fields *r, const char *name, int found, int needed)
{
	if (found == needed)
		return QD_OK;
	return qd_fail(QD_EINPUT, "'%s': field '%s' has %d items, needs %d", r->what, name, found, needed);
}

static enum qd_status read_channels(const struct qd_fields *r, struct qd_vae_config *c, double scaling)
{
	enum qd_status st;
	QD_TRY(st, qd_field_needed_int(r, "in_channels", 1, MAX_CHANNELS, 3, &c->in_channels));
	QD_TRY(st, qd_field_needed_int(r, "out_channels", 1, MAX_CHANNELS, 3, &c->out_channels));
	QD_TRY(st, qd_field_needed_int(r, "latent_channels", 1, QD_MAX_LATENTS, 4, &c->latent_channels));
	QD_TRY(st, qd_field_number(r, "scaling_factor", scaling, &c->scaling_factor));
	QD_TRY(st, qd_field_number(r, "shift_factor", 0, &c->shift_factor));
	bool none = json_is_null(qd_field(r, "scaling_factor"));
	if (none || !(c->scaling_factor > 0) || !isfinite(c->scaling_factor))
		st = qd_field_refuse(r, QD_EINPUT, "scaling_factor", qd_field(r, "scaling_factor"), "a number above 0");
out:
	return st;
}

/* sample_size is a number or [height, width]; only the native size of inspect depends on it. */
static enum qd_status read_sample_size(const struct qd_fields *r, int64_t *out)
{
	const json_t *value = qd_field(r, "sample_size");
	if (json_is_array(value))
		value = json_array_get(value, 0);
	*out = 0;
	return !value || json_is_null(value) ? QD_OK : qd_field_read_int(r, "sample_size", value, 1, MAX_CHANNELS, out);
}

/* ---- AutoencoderKL ---- */

/* All blocks must be of the one type. */
static enum qd_status check_types(const struct qd_fields *r, const char *name, const char *type, int blocks)
{
	char need[96];
	const json_t *list = qd_field(r, name);
	snprintf(need, sizeof(need), "a list of %d \"%s\"", blocks, type);
	if (!list && blocks == 1)
		return QD_OK;
	if (!list)
		return qd_fail(QD_EINPUT, "'%s' has no field '%s', needs %s", r->what, name, need);
	if (!json_is_array(list) || json_array_size(list) != (size_t)blocks)
		return qd_field_refuse(r, QD_EINPUT, name, list, need);
	for (int i = 0; i < blocks; i++) {
		if (!qd_field_is(json_array_get(list, (size_t)i), type))
			return qd_field_refuse(r, QD_EUNSUPPORTED, name, list, need);
	}
	return QD_OK;
}

static enum qd_status read_blocks(const struct qd_fields *r, struct qd_vae_config *c)
{
	static const int64_t absent[] = { 64 };
	int64_t layers;
	enum qd_status st;
	QD_TRY(st, block_list(r, "block_out_channels", 1, absent, &c->blocks, c->channels));
	QD_TRY(st, check_types(r, "down_block_types", "DownEncoderBlock2D", c->blocks));
	QD_TRY(st, check_types(r, "up_block_types", "UpDecoderBlock2D", c->blocks));
	QD_TRY(st, qd_field_needed_int(r, "layers_per_block", 1, QD_MAX_LAYERS - 1, 1, &layers));
	for (int i = 0; i < c->blocks; i++) {
		c->layers[i] = layers;
		c->decoder_layers[i] = layers + 1;
	}
out:
	return st;
}

/* A null here means "no final norm" to diffusers, which no published model uses. */
static enum qd_status read_groups(const struct qd_fields *r, struct qd_vae_config *c)
{
	const json_t *value = qd_field(r, "norm_num_groups");
	if (json_is_null(value))
		return qd_field_refuse(r, QD_EUNSUPPORTED, "norm_num_groups", value, "a number");
	enum qd_status st = qd_field_needed_int(r, "norm_num_groups", 1, MAX_CHANNELS, 32, &c->groups);
	for (int i = 0; st == QD_OK && i < c->blocks; i++) {
		if (c->channels[i] % c->groups)
			st = qd_fail(QD_EINPUT,
				"'%s': block %d has %lld channels, needs a multiple of the %lld groups of its norms", r->what, i,
				(long long)c->channels[i], (long long)c->groups);
	}
	return st;
}

/* latents_mean, latents_std: null, or one number per latent channel. */
static enum qd_status read_statistics(
	const struct qd_fields *r, const char *name, int64_t channels, double absent, bool *present, double *out)
{
	char need[64];
	const json_t *list = qd_field(r, name);
	snprintf(need, sizeof(need), "a list of %lld numbers or null", (long long)channels);
	*present = list && !json_is_null(list);
	if (*present && json_array_size(list) != (size_t)channels)
		return qd_field_refuse(r, QD_EINPUT, name, list, need);
	for (int64_t i = 0; i < channels; i++) {
		const json_t *value = json_array_get(list, (size_t)i);
		out[i] = *present ? json_number_value(value) : absent;
		if (*present && !json_is_number(value))
			return qd_field_refuse(r, QD_EINPUT, name, list, need);
	}
	return QD_OK;
}

static enum qd_status read_normalization(const struct qd_fields *r, struct qd_vae_config *c)
{
	bool has_mean, has_std;
	enum qd_status st;
	QD_TRY(st, read_statistics(r, "latents_mean", c->latent_channels, 0, &has_mean, c->mean));
	QD_TRY(st, read_statistics(r, "latents_std", c->latent_channels, 1, &has_std, c->std));
	c->normalized = has_mean;
	if (has_mean != has_std)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' has field '%s' without '%s', needs both or none", r->what,
				   has_mean ? "latents_mean" : "latents_std", has_mean ? "latents_std" : "latents_mean"));
	for (int64_t i = 0; i < c->latent_channels; i++) {
		if (!(c->std[i] > 0))
			QD_TRY(st, qd_field_refuse(r, QD_EINPUT, "latents_std", qd_field(r, "latents_std"), "numbers above 0"));
	}
out:
	return st;
}

enum qd_status qd_vae_config_parse(struct qd_vae_config *config, const char *what, const json_t *json)
{
	struct qd_fields r = { what, json };
	enum qd_status st;
	*config = (struct qd_vae_config){ 0 };
	if (!json_is_object(json))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with the fields of AutoencoderKL", what));
	QD_TRY(st, read_channels(&r, config, 0.18215));
	QD_TRY(st, read_sample_size(&r, &config->sample_size));
	QD_TRY(st, read_blocks(&r, config));
	QD_TRY(st, read_groups(&r, config));
	QD_TRY(st, qd_config_act(&r, "act_fn", QD_OP_SIGMOID, &config->act));
	QD_TRY(st, qd_field_bool(&r, "use_quant_conv", true, &config->quant_conv));
	QD_TRY(st, qd_field_bool(&r, "use_post_quant_conv", true, &config->post_quant_conv));
	QD_TRY(st, qd_field_bool(&r, "mid_block_add_attention", true, &config->mid_attention));
	QD_TRY(st, read_normalization(&r, config));
out:
	return st;
}

/* ---- AutoencoderTiny ---- */

/* The class has one width: between its blocks there is nothing that would change it. */
static enum qd_status read_width(const struct qd_fields *r, const char *name, int *blocks, int64_t *channels)
{
	static const int64_t absent[] = { 64, 64, 64, 64 };
	enum qd_status st = block_list(r, name, (int)QD_COUNT(absent), absent, blocks, channels);
	for (int i = 1; st == QD_OK && i < *blocks; i++) {
		if (channels[i] != channels[0])
			st = qd_field_refuse(r, QD_EUNSUPPORTED, name, qd_field(r, name), "one number for all blocks");
	}
	return st;
}

static enum qd_status read_tiny_blocks(const struct qd_fields *r, struct qd_vae_config *c)
{
	static const int64_t absent[] = { 1, 3, 3, 3 }, absent_decoder[] = { 3, 3, 3, 1 };
	int64_t decoder_channels[QD_MAX_BLOCKS];
	int n;
	enum qd_status st;
	QD_TRY(st, read_width(r, "encoder_block_out_channels", &c->blocks, c->channels));
	QD_TRY(st, read_width(r, "decoder_block_out_channels", &n, decoder_channels));
	QD_TRY(st, same_length(r, "decoder_block_out_channels", n, c->blocks));
	if (decoder_channels[0] != c->channels[0])
		QD_TRY(st, qd_field_refuse(r, QD_EUNSUPPORTED, "decoder_block_out_channels",
				   qd_field(r, "decoder_block_out_channels"), "the encoder's number of channels"));
	QD_TRY(st, block_list(r, "num_encoder_blocks", 4, absent, &n, c->layers));
	QD_TRY(st, same_length(r, "num_encoder_blocks", n, c->blocks));
	QD_TRY(st, block_list(r, "num_decoder_blocks", 4, absent_decoder, &n, c->decoder_layers));
	QD_TRY(st, same_length(r, "num_decoder_blocks", n, c->blocks));
out:
	return st;
}

enum qd_status qd_tiny_vae_config_parse(struct qd_vae_config *config, const char *what, const json_t *json)
{
	static const struct qd_field_choice nearest = { "upsample_fn", "nearest", NULL, false };
	struct qd_fields r = { what, json };
	int64_t factor;
	enum qd_status st;
	*config = (struct qd_vae_config){ .tiny = true };
	if (!json_is_object(json))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with the fields of AutoencoderTiny", what));
	QD_TRY(st, read_channels(&r, config, 1));
	QD_TRY(st, read_tiny_blocks(&r, config));
	QD_TRY(st, qd_config_act(&r, "act_fn", QD_OP_RELU, &config->act));
	QD_TRY(st, qd_field_check_choice(&r, &nearest));
	QD_TRY(st, qd_field_needed_int(&r, "upsampling_scaling_factor", 1, MAX_CHANNELS, 2, &factor));
	if (factor != 2)
		QD_TRY(st, qd_field_refuse(&r, QD_EUNSUPPORTED, "upsampling_scaling_factor",
				   qd_field(&r, "upsampling_scaling_factor"), "2"));
	for (int64_t i = 0; i < config->latent_channels; i++)
		config->std[i] = 1;
out:
	return st;
}
