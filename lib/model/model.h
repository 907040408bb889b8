/*
 * lib/model: what makes a path a model. A diffusers folder, a single-file checkpoint and an ONNX file all open as one thing, a UNet
 * whose layers have diffusers' names, from which the graph is built.
 */
#ifndef QUAD_LIB_MODEL_MODEL_H
#define QUAD_LIB_MODEL_MODEL_H

#include "lib/adapter/adapter.h"
#include "lib/network/network.h"
#include "lib/onnx/onnx.h"
#include "lib/engine/engine.h"
#include "lib/sampler/sampler.h"
#include "lib/torch/torch.h"

/* ---- a pipeline's index, model_index.json ---- */
struct qd_pipeline {
	char class_name[64];         /* "StableDiffusionXLPipeline"; "" where it does not say */
	bool zeros_for_empty_prompt; /* of pipelines with two text encoders: no text is zeros, not what they make of "" */
};
/* Of the folder `root`; without an index nothing is said. QD_EIO, QD_EINPUT when it cannot be read. */
QD_CHECK enum qd_status qd_pipeline_read(struct qd_pipeline *pipeline, const char *root);

/* ---- a model: an opened UNet, in whatever form it came ---- */
enum qd_model_kind { QD_MODEL_FOLDER, QD_MODEL_CHECKPOINT, QD_MODEL_ONNX };
struct qd_model {
	enum qd_model_kind kind;
	char *folder;                /* the component folder itself, ".../unet"; of a single file its path */
	char *root;                  /* the pipeline folder, or equal to `folder`; of a single file the folder it lies in */
	struct qd_pipeline pipeline; /* of the root */
	struct qd_unet_config config;
	struct qd_weights weights;
	struct qd_onnx_unet *onnx; /* of an ONNX file, else NULL */
};
/*
 * `path`: a pipeline folder (with unet/), the component folder, a single-file checkpoint (below), or an ONNX file of the UNet
 * (onnx_unet.c). A component folder without weights but with a model.onnx is that file.
 */
QD_CHECK enum qd_status qd_model_open(struct qd_model *model, const char *path);
void qd_model_release(struct qd_model *model);
/* Hash over the names, shapes, dtypes and bytes of all weights, under diffusers' names, and what of the configuration changes
 * results (profile, manifest): equal for a folder and a single file of the same weights. `out`: QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_model_hash(const struct qd_model *model, char *out);

/*
 * The graph of an opened model, whatever its kind: inputs, output and names are those of qd_unet_graph. QD_EINPUT for sizes that
 * the model cannot take. Weights point into the model, which must outlive the graph.
 */
QD_CHECK enum qd_status qd_model_graph(struct qd_graph *g, const struct qd_model *model, const struct qd_sizes *sizes);
/* The smallest sizes it can be built for: enough to ask which layers and shapes of weights it has. */
struct qd_sizes qd_model_least_sizes(const struct qd_model *model);
/* The sizes it is meant for: one sample at its native height and width (64 where it does not say), 77 tokens. */
struct qd_sizes qd_model_native_sizes(const struct qd_model *model);

/*
 * The noise schedule it was trained with: the pipeline's (qd_schedule_read), for a checkpoint whose tensor 'v_pred' says so one of
 * v-prediction. QD_EINPUT where the two say different things; QD_EUNSUPPORTED for tensors like 'ztsnr', which ask for other betas.
 */
QD_CHECK enum qd_status qd_model_schedule(struct qd_schedule *schedule, const struct qd_model *model);

/*
 * ---- single-file checkpoints (checkpoint.c) ----
 * Single-file checkpoints: one safetensors file with the UNet under the names of the original latent-diffusion implementation, the
 * VAE and the text encoders beside it. (The UNet's tensors alone, with or without their prefix, are one too.)
 *
 *   model.diffusion_model.*       UNet                 first_stage_model.*                VAE
 *   model_ema.*                   averaged copies      cond_stage_model.*, conditioner.*  text encoders
 *
 * Such a file carries no configuration. It is inferred from the tensors' names and shapes, with what shapes do not tell taken from
 * the published family it is of (lib/weights/families.c). For any other network, NAME.config.json beside NAME.safetensors,
 * UNet2DConditionModel's config.json, says it all and the tensors must fit it.
 */

/* Whether the file holds a UNet under the original names. */
bool qd_checkpoint_detect(const struct qd_safetensors *file);

/*
 * Opens the UNet of the file at `path`: its configuration, and its weights under diffusers' names (the bytes stay where they are
 * mapped). Every tensor of the UNet is used. QD_EINPUT or QD_EUNSUPPORTED, naming file and tensor, for a tensor that is missing,
 * left over, of another shape or no float, for a network that no configuration describes, and for files that are something else;
 * pickles are refused by their names. `config` and `weights` are the caller's to release (qd_weights_release), empty after a
 * failure.
 */
QD_CHECK enum qd_status qd_checkpoint_open(struct qd_unet_config *config, struct qd_weights *weights, const char *path);

/* What lies in such a file, by component. */
enum qd_checkpoint_section {
	QD_CHECKPOINT_UNET,
	QD_CHECKPOINT_EMA,      /* averaged copies of the UNet's weights */
	QD_CHECKPOINT_VAE,      /* first_stage_model. */
	QD_CHECKPOINT_TEXT,     /* the first text encoder */
	QD_CHECKPOINT_TEXT_2,   /* SDXL's second */
	QD_CHECKPOINT_SCHEDULE, /* 'v_pred' and its kin (qd_model_schedule) */
	QD_CHECKPOINT_OTHER,    /* whatever else training left */
	QD_CHECKPOINT_SECTIONS
};
struct qd_checkpoint_content {
	size_t tensors, bytes;
	uint64_t parameters;
	const char *first; /* name of the first tensor; NULL: none */
};
const char *qd_checkpoint_section_name(enum qd_checkpoint_section section);
void qd_checkpoint_contents(const struct qd_safetensors *file, struct qd_checkpoint_content contents[QD_CHECKPOINT_SECTIONS]);

/* ---- ONNX files (onnx_unet.c) ---- */
/* True for the inputs of a UNet (sample, timestep, encoder_hidden_states), none of them a LoRA tensor's, and a 'conv_in.weight'. */
bool qd_onnx_is_unet(const struct qd_onnx_file *file);

/* ---- a model with adapters (opened.c) ---- */
struct qd_opened {
	struct qd_model model;
	struct qd_graph shape_graph; /* for the smallest sizes: what modules belong to */
	struct qd_modules modules;
	struct qd_adapter *adapters;
	const struct qd_adapter **adapter_list;
	size_t n_adapters;
};
/*
 * Opens the model at `base`, and n adapters by their specs (qd_adapter_open_spec). Warns of weights that the network does not use.
 */
QD_CHECK enum qd_status qd_opened_open(struct qd_opened *opened, const char *base, const char *const *specs, size_t n);
/* The same, the adapters' matrices left in their mapped files (qd_adapter_map). */
QD_CHECK enum qd_status qd_opened_map(struct qd_opened *opened, const char *base, const char *const *specs, size_t n);
void qd_opened_release(struct qd_opened *opened);

/* ---- a net: one graph for given sizes with its slots (net.c): what everything that uses adapters starts from ---- */
struct qd_net {
	struct qd_graph graph;
	struct qd_slots slots;
	struct qd_sizes sizes;
};
/* Builds the UNet for `sizes`, attaches `slots_from` (paths and ranks; ids of the copy are the net's). */
QD_CHECK enum qd_status qd_net_build(
	struct qd_net *net, const struct qd_model *model, const struct qd_sizes *sizes, const struct qd_slots *slots_from);
void qd_net_release(struct qd_net *net);

/*
 * ---- a runner: a graph that runs (runner.c) ----
 * Inputs are fed by name and stay until they are fed again, an adapter's tensors among them; outputs are read by name. Runs record
 * no gradients; what trains reaches the executor itself.
 */
struct qd_runner;
/* What executes: the engine and libtorch here, others where they are known. */
struct qd_runner_kind {
	/* Takes the tensor's values (not the tensor): its shape is the input's and all are finite. */
	enum qd_status (*feed)(struct qd_runner *runner, qd_id input, const struct qd_tensor *tensor);
	enum qd_status (*run)(struct qd_runner *runner);
	/* The last run's graph->outputs[output], which is F32. */
	enum qd_status (*read)(struct qd_runner *runner, size_t output, float *out);
	void (*release)(struct qd_runner *runner);
};
struct qd_run_options {
	struct qd_engine_options engine; /* what is simulated and seen */
	bool libtorch;                   /* its operators one by one, each value rounded after: the reference */
};
struct qd_runner {
	const struct qd_graph *graph;
	const struct qd_runner_kind *kind;
	struct qd_engine *engine;      /* of one that the engine executes */
	struct qd_exec *exec;          /* of one that libtorch executes */
	qt_tensor *outputs;            /* of its last run, as graph->outputs */
	void *other;                   /* what another kind keeps */
	struct qd_run_options options; /* libtorch: what its hook does */
	bool *seen;
};
/*
 * Prepares `g` (kept; must stay unchanged) for the engine, or for libtorch where it is asked for, where it computes on another
 * device, or where the graph has what only libtorch can. `options` NULL: float. The runner stays where it is until it is released.
 */
QD_CHECK enum qd_status qd_runner_open(struct qd_runner *runner, const struct qd_graph *g, const struct qd_run_options *options);
/* A qd_value_hook: rounds every value that carries an encoding to its grid, gradients straight through; weights once. `context` is not
 * looked at. */
enum qd_status qd_sim_hook(void *context, const struct qd_graph *g, qd_id value, qt_tensor *tensor);
/* For libtorch, with a hook of one's own: what trains. */
QD_CHECK enum qd_status qd_runner_open_libtorch(
	struct qd_runner *runner, const struct qd_graph *g, const struct qd_exec_options *options);
void qd_runner_release(struct qd_runner *runner);
/* Feeds the input that is called like the tensor, converted to the input's type. QD_EINPUT: there is none, it has another shape, or
 * a value is NaN or infinite. */
QD_CHECK enum qd_status qd_runner_feed(struct qd_runner *runner, const struct qd_tensor *tensor);
/* Feeds a slot's tensors in the slot's own rank: [R,I*kh*kw], [O,R], [R] and, of a biased slot, [O]. */
QD_CHECK enum qd_status qd_runner_feed_slot(struct qd_runner *runner, const struct qd_slot *slot, const float *down,
	const float *up, const float *gain, const float *bias);
/*
 * Feeds an adapter's tensors, padded and unaligned (NULL: zeros, which is the base model). `slots` are those of the graph.
 * QD_EINPUT when it changes a layer without a slot.
 */
QD_CHECK enum qd_status qd_runner_feed_adapter(
	struct qd_runner *runner, const struct qd_slots *slots, const struct qd_adapter *adapter);
/* Runs the graph on what was fed. QD_EINPUT names an input that was not. */
QD_CHECK enum qd_status qd_runner_run(struct qd_runner *runner);
/* The last run's output of that name, float32, n values. QD_EINPUT: there is none, or it has another number of values;
 * QD_EUNSUPPORTED: it is not F32. */
QD_CHECK enum qd_status qd_runner_read(struct qd_runner *runner, const char *output, size_t n, float *out);

#endif
