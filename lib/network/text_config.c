/*
 * config.json of CLIPTextModel and CLIPTextModelWithProjection (transformers). The defaults are those of the class. bos, eos and
 * pad ids of published files are 0, 2 and 1, which no tokenizer uses: eos decides the pooling rule alone, the others nothing.
 */
#include "lib/base/base.h"
#include "lib/network/component_internal.h"

#include <math.h>

enum { MAX_CHANNELS = QD_FIELD_MAX_CHANNELS, MAX_TEXT_LAYERS = 256, MAX_VOCABULARY = 1 << 24 };

static void read_sizes(struct qd_fields *r, struct qd_text_config *c)
{
	c->hidden = qd_field_needed_int(r, "hidden_size", 1, MAX_CHANNELS, 512);
	c->intermediate = qd_field_needed_int(r, "intermediate_size", 1, 4 * MAX_CHANNELS, 2048);
	c->layers = qd_field_needed_int(r, "num_hidden_layers", 1, MAX_TEXT_LAYERS, 12);
	c->heads = qd_field_needed_int(r, "num_attention_heads", 1, MAX_CHANNELS, 8);
	c->positions = qd_field_needed_int(r, "max_position_embeddings", 1, MAX_CHANNELS, 77);
	c->vocabulary = qd_field_needed_int(r, "vocab_size", 1, MAX_VOCABULARY, 49408);
	c->eos = qd_field_needed_int(r, "eos_token_id", 0, MAX_VOCABULARY, 49407);
	if (c->hidden % c->heads != 0)
		qd_fields_fail(r, QD_EINPUT, "'%s': field 'hidden_size' is %lld, needs a multiple of the %lld attention heads",
			r->what, (long long)c->hidden, (long long)c->heads);
}

static void read_eps(struct qd_fields *r, struct qd_text_config *c)
{
	const json_t *value = qd_field(r, "layer_norm_eps");

	c->eps = qd_field_number(r, "layer_norm_eps", -INFINITY, INFINITY, 1e-5);
	if (!(c->eps > 0) || json_is_null(value))
		qd_field_refuse(r, QD_EINPUT, "layer_norm_eps", value, "a number above 0");
}

/* projection_dim is in every file, the projection only in models of the class that has it. */
static void read_projection(struct qd_fields *r, struct qd_text_config *c)
{
	int64_t features = qd_field_needed_int(r, "projection_dim", 1, MAX_CHANNELS, 512);
	const json_t *name;
	size_t i;

	c->projection = 0;
	json_array_foreach(json_object_get(r->json, "architectures"), i, name)
	{
		if (qd_field_is(name, "CLIPTextModelWithProjection"))
			c->projection = features;
	}
}

enum qd_status qd_text_config_parse(struct qd_text_config *config, const char *what, const json_t *json)
{
	static const char *const acts[] = { "quick_gelu", "gelu", NULL };
	struct qd_fields r = { .what = what, .json = json };

	*config = (struct qd_text_config){ 0 };
	if (!json_is_object(json))
		return qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with the fields of CLIPTextModel", what);
	read_sizes(&r, config);
	config->act = qd_field_needed_choice(&r, "hidden_act", acts, 0) == 1 ? QD_OP_GELU : QD_OP_SIGMOID;
	read_eps(&r, config);
	config->uses_attention_mask = qd_field_bool(&r, "use_attention_mask", false);
	read_projection(&r, config);
	return r.status;
}
