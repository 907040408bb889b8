/*
 * config.json of CLIPTextModel and CLIPTextModelWithProjection (transformers). The defaults are those of the class. bos, eos and
 * pad ids of published files are 0, 2 and 1, which no tokenizer uses: eos decides the pooling rule alone, the others nothing.
 */
#include "lib/base/base.h"
#include "lib/network/component_internal.h"

#include <string.h>

enum { MAX_CHANNELS = QD_FIELD_MAX_CHANNELS, MAX_TEXT_LAYERS = 256, MAX_VOCABULARY = 1 << 24 };

static enum qd_status read_sizes(const struct qd_fields *r, struct qd_text_config *c)
{
	enum qd_status st;
	QD_TRY(st, qd_field_needed_int(r, "hidden_size", 1, MAX_CHANNELS, 512, &c->hidden));
	QD_TRY(st, qd_field_needed_int(r, "intermediate_size", 1, 4 * MAX_CHANNELS, 2048, &c->intermediate));
	QD_TRY(st, qd_field_needed_int(r, "num_hidden_layers", 1, MAX_TEXT_LAYERS, 12, &c->layers));
	QD_TRY(st, qd_field_needed_int(r, "num_attention_heads", 1, MAX_CHANNELS, 8, &c->heads));
	QD_TRY(st, qd_field_needed_int(r, "max_position_embeddings", 1, MAX_CHANNELS, 77, &c->positions));
	QD_TRY(st, qd_field_needed_int(r, "vocab_size", 1, MAX_VOCABULARY, 49408, &c->vocabulary));
	QD_TRY(st, qd_field_needed_int(r, "eos_token_id", 0, MAX_VOCABULARY, 49407, &c->eos));
	if (c->hidden % c->heads)
		st = qd_fail(QD_EINPUT, "'%s': field 'hidden_size' is %lld, needs a multiple of the %lld attention heads", r->what,
			(long long)c->hidden, (long long)c->heads);
out:
	return st;
}

static enum qd_status read_act(const struct qd_fields *r, struct qd_text_config *c)
{
	static const struct qd_field_choice choice = { "hidden_act", "quick_gelu", "gelu", false };
	c->act = qd_field_is(qd_field(r, "hidden_act"), "gelu") ? QD_OP_GELU : QD_OP_SIGMOID;
	return qd_field_check_choice(r, &choice);
}

/* projection_dim is in every file, the projection only in models of the class that has it. */
static enum qd_status read_projection(const struct qd_fields *r, struct qd_text_config *c)
{
	size_t i;
	const json_t *name;
	int64_t features;
	bool projects = false;
	enum qd_status st = qd_field_needed_int(r, "projection_dim", 1, MAX_CHANNELS, 512, &features);
	json_array_foreach(json_object_get(r->json, "architectures"), i, name) projects =
		projects || qd_field_is(name, "CLIPTextModelWithProjection");
	c->projection = projects ? features : 0;
	return st;
}

enum qd_status qd_text_config_parse(struct qd_text_config *config, const char *what, const json_t *json)
{
	struct qd_fields r = { what, json };
	enum qd_status st;
	*config = (struct qd_text_config){ 0 };
	if (!json_is_object(json))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with the fields of CLIPTextModel", what));
	QD_TRY(st, read_sizes(&r, config));
	QD_TRY(st, read_act(&r, config));
	QD_TRY(st, qd_field_number(&r, "layer_norm_eps", 1e-5, &config->eps));
	if (!(config->eps > 0) || json_is_null(qd_field(&r, "layer_norm_eps")))
		QD_TRY(st, qd_field_refuse(&r, QD_EINPUT, "layer_norm_eps", qd_field(&r, "layer_norm_eps"), "a number above 0"));
	QD_TRY(st, qd_field_bool(&r, "use_attention_mask", false, &config->uses_attention_mask));
	QD_TRY(st, read_projection(&r, config));
out:
	return st;
}
