/*
 * Any bytes as an ONNX file: refused with a message, or a graph that the verifier accepts; then the same after it was recognized
 * and taken for a UNet's.
 */
#include <stdlib.h>

#include "lib/model/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* True when the graph can be used further. */
static bool good(enum qd_status st, const struct qd_graph *g)
{
	if (st != QD_OK && !*qd_message())
		abort();
	if (st == QD_OK && qd_graph_verify(g) != QD_OK)
		abort();
	return st == QD_OK;
}

static void as_unet(struct qd_graph *g)
{
	struct qd_unet_config config;
	qd_id timestep = qd_graph_find(g, "timestep");
	if (!good(qd_graph_recognize(g, NULL, NULL), g))
		return;
	if (timestep != QD_NONE && g->values[timestep].kind == QD_INPUT && !good(qd_onnx_unet_ends(g, 2), g))
		return;
	if (good(qd_onnx_name_weights(g), g) && qd_onnx_unet_config(&config, g) != QD_OK && !*qd_message())
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qd_onnx onnx = { 0 };
	enum qd_status st = qd_onnx_load_bytes(&onnx.file, "fuzz", NULL, data, size);
	if (st == QD_OK)
		st = qd_onnx_graph(&onnx.graph, onnx.file, NULL, 0);
	if (good(st, &onnx.graph))
		as_unet(&onnx.graph);
	qd_onnx_release(&onnx);
	return 0;
}
