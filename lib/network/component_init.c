/*
 * Random weights for components: the parameters of their graphs.
 */
#include "lib/network/component_internal.h"

/* The shapes of both directions of a VAE, or of the one graph: every parameter is in exactly one of them. */
static enum qd_status build_shapes(const struct qd_component *c, struct qd_graph *graphs, size_t *n)
{
	bool vae = c->kind == QD_COMPONENT_VAE || c->kind == QD_COMPONENT_TINY_VAE;
	int64_t side = (int64_t)1 << (vae ? c->vae.blocks - 1 : c->kind == QD_COMPONENT_UNET ? c->unet.blocks - 1 : 0);
	struct qd_component_sizes sizes = { .batch = 1, .height = side, .width = side, .tokens = 1 };
	const struct qd_sizes unet = { 1, side, side, 1 };
	*n = vae ? 2 : 1;
	if (c->kind == QD_COMPONENT_UNET)
		return qd_unet_graph(&graphs[0], &c->unet, NULL, &unet);
	if (c->kind == QD_COMPONENT_TEXT)
		return qd_text_graph(&graphs[0], &c->text, NULL, &sizes);
	sizes.part = QD_VAE_DECODER;
	enum qd_status st = qd_vae_graph(&graphs[0], &c->vae, NULL, &sizes);
	sizes.part = QD_VAE_ENCODER;
	return st == QD_OK ? qd_vae_graph(&graphs[1], &c->vae, NULL, &sizes) : st;
}

enum qd_status qd_component_parameters(const struct qd_component *component, uint64_t *parameters, uint64_t *tensors)
{
	struct qd_graph graphs[2] = { 0 };
	size_t n = 0;
	enum qd_status st = build_shapes(component, graphs, &n);
	*parameters = *tensors = 0;
	for (size_t i = 0; i < n; i++) {
		qd_count_parameters(&graphs[i], parameters, tensors);
		qd_graph_release(&graphs[i]);
	}
	return st;
}

enum qd_status qd_component_init(
	const struct qd_component *component, uint64_t seed, enum qd_dtype dtype, const char *path, bool force)
{
	struct qd_graph graphs[2] = { 0 };
	const struct qd_graph *const list[] = { &graphs[0], &graphs[1] };
	size_t n = 0;
	enum qd_status st = build_shapes(component, graphs, &n);
	if (st == QD_OK)
		st = qd_init_weights(list, n, seed, dtype, path, force);
	for (size_t i = 0; i < n; i++)
		qd_graph_release(&graphs[i]);
	return st;
}
