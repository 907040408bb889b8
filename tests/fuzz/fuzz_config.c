/*
 * Any bytes as a config.json of each class. What is accepted must be a configuration that a network can be built from: the shape of
 * it, as long as it is a small one, is a graph that holds together.
 */
#include <assert.h>
#include <stdint.h>

#include "lib/network/component_internal.h"

/* Larger ones only take time. */
enum { MOST_LAYERS = 64, MOST_CHANNELS = 4096 };

static bool small_vae(const struct qd_vae_config *c)
{
	int64_t layers = 0;
	for (int i = 0; i < c->blocks; i++) {
		assert(c->channels[i] > 0 && c->layers[i] > 0 && c->decoder_layers[i] > 0);
		layers += c->layers[i] + c->decoder_layers[i];
	}
	assert(c->blocks > 0 && c->latent_channels > 0 && c->scaling_factor > 0);
	return layers <= MOST_LAYERS;
}

static bool small_unet(const struct qd_unet_config *c)
{
	int64_t layers = 0;
	for (int i = 0; i < c->blocks; i++) {
		assert(c->channels[i] > 0 && c->channels[i] % c->groups == 0);
		for (int64_t k = 0; k < c->layers[i]; k++)
			layers += 1 + c->depth[i][k];
		for (int64_t k = 0; k <= c->layers[c->blocks - 1 - i]; k++)
			layers += 1 + c->up_depth[i][k];
	}
	return layers + c->mid_depth <= MOST_LAYERS;
}

static void finish(struct qd_graph *g, enum qd_status st)
{
	if (st == QD_OK)
		st = qd_graph_verify(g);
	assert(st == QD_OK || st == QD_EINPUT || st == QD_EUNSUPPORTED);
	assert(st == QD_OK || *qd_message());
	qd_graph_release(g);
}

static void build(const struct qd_component *c)
{
	struct qd_component_sizes sizes = { .batch = 1, .height = 256, .width = 256, .tokens = 1, .clip_skip = 1 };
	const struct qd_sizes unet = { 1, 128, 128, 1 };
	struct qd_graph g = { 0 };
	if (c->kind == QD_COMPONENT_UNET) {
		if (small_unet(&c->unet))
			finish(&g, qd_unet_graph(&g, &c->unet, NULL, &unet));
		return;
	}
	if (c->kind == QD_COMPONENT_TEXT) {
		if (c->text.layers <= MOST_LAYERS && c->text.hidden <= MOST_CHANNELS)
			finish(&g, qd_text_graph(&g, &c->text, NULL, &sizes));
		return;
	}
	if (!small_vae(&c->vae))
		return;
	finish(&g, qd_vae_graph(&g, &c->vae, NULL, &sizes));
	sizes.part = QD_VAE_ENCODER;
	g = (struct qd_graph){ 0 };
	finish(&g, qd_vae_graph(&g, &c->vae, NULL, &sizes));
}

/* By its own word, and as each of the classes. */
static void read_as(const json_t *json, struct qd_component *c, int as)
{
	static const enum qd_component_kind kinds[] = { QD_COMPONENT_UNET, QD_COMPONENT_VAE, QD_COMPONENT_TINY_VAE,
		QD_COMPONENT_TEXT };
	enum qd_status st = QD_OK;
	*c = (struct qd_component){ 0 };
	if (as == 0)
		st = qd_component_config_parse(c, "input", json);
	else
		c->kind = kinds[as - 1];
	if (as == 1)
		st = qd_unet_config_parse(&c->unet, "input", json);
	else if (as == 2)
		st = qd_vae_config_parse(&c->vae, "input", json);
	else if (as == 3)
		st = qd_tiny_vae_config_parse(&c->vae, "input", json);
	else if (as == 4)
		st = qd_text_config_parse(&c->text, "input", json);
	if (st == QD_OK)
		build(c);
	else
		assert(*qd_message());
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct qd_component component;
	json_t *json = NULL;
	if (qd_json_parse("input", (const char *)data, size, &json) != QD_OK)
		return 0;
	for (int as = 0; as <= 4; as++)
		read_as(json, &component, as);
	json_decref(json);
	return 0;
}
