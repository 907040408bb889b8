/*
 * What the files of this folder share: how each kind of file is opened.
 */
#ifndef QUAD_LIB_MODEL_INTERNAL_H
#define QUAD_LIB_MODEL_INTERNAL_H

#include "lib/model/model.h"

/* ---- checkpoint_config.c ---- */
/* The configuration of the UNet whose tensors in `file` begin with `prefix`. */
QD_CHECK enum qd_status qd_checkpoint_infer(struct qd_unet_config *config, const struct qd_safetensors *file, const char *prefix);

/* ---- checkpoint.c ---- */
/* Whether a tensor of the file says that its network predicts v. QD_EUNSUPPORTED: one says what no schedule here has. */
QD_CHECK enum qd_status qd_checkpoint_marked_v(const struct qd_safetensors *file, bool *v);

/*
 * ---- onnx_unet.c ----
 * An ONNX file of a UNet2DConditionModel as a model. Its graph is brought into the form that folders give (qd_graph_recognize), its
 * weights get diffusers' names, and a configuration is read off it. Where the network of that configuration matches the graph node
 * by node (qd_graph_match), that network is the model's graph, names included: nothing after it can tell the file from the folder.
 * Where it does not match, the file's own graph is used; its layers still have their paths, so that adapters fit.
 *
 * onnx_unet.c opens and builds, onnx_ends.c gives inputs and output their form, onnx_paths.c finds names, onnx_config.c reads
 * the configuration.
 */
struct qd_onnx_unet;
/*
 * Opens `path`. `config` is read off the graph, `weights` lists its weights under diffusers' names; both are the caller's
 * (qd_weights_release), and point into `*out`. QD_EINPUT: not a UNet, a graph with LoRA inputs, a layer whose module neither its
 * weight's nor its node's name tells. Else as qd_onnx_load and qd_onnx_graph.
 */
QD_CHECK enum qd_status qd_onnx_unet_open(
	struct qd_onnx_unet **out, struct qd_unet_config *config, struct qd_weights *weights, const char *path);
void qd_onnx_unet_free(struct qd_onnx_unet *unet);
/* The graph for `sizes`; QD_EINPUT names found and needed when the file was exported for others. */
QD_CHECK enum qd_status qd_onnx_unet_graph(struct qd_graph *g, struct qd_onnx_unet *unet, const struct qd_unet_config *config,
	const struct qd_weights *weights, const struct qd_sizes *sizes);
/* The sizes that the file was exported for; -1 for those that are open. */
struct qd_sizes qd_onnx_unet_sizes(const struct qd_onnx_unet *unet);

/* ---- between the files ---- */
/* timestep becomes f32 [N], one number per sample, whatever type and shape it has in the file; the output becomes "out". */
QD_CHECK enum qd_status qd_onnx_unet_ends(struct qd_graph *g, int64_t batch);
/* Weights of layers get diffusers' names: "<module path>.weight" and ".bias". */
QD_CHECK enum qd_status qd_onnx_name_weights(struct qd_graph *g);
/* What the graph says of its configuration; what no graph says has its usual value. QD_EINPUT: no UNet. */
QD_CHECK enum qd_status qd_onnx_unet_config(struct qd_unet_config *config, const struct qd_graph *g);

#endif
