/*
 * lib/network: configurations to graphs. The networks of Stable Diffusion, as diffusers and transformers describe them in
 * config.json: UNet2DConditionModel, AutoencoderKL and AutoencoderTiny (between pixels and latents), CLIPTextModel and
 * CLIPTextModelWithProjection (from token ids to the UNet's context); what they cost to run, and random weights for them.
 *
 * A component more: its graph and its configuration in files of their own; its kind, its configuration's struct and its place in
 * struct qd_component below; rows and cases in component.c (kind and fields that give it away, reading, building), its sizes in
 * component_init.c, and what cmd/inspect_component.c tells of it.
 *
 * Dimension letters: N batch, C channels, H W pixels, h w latent pixels, Z latent channels, L tokens, D features of the encoder
 * (context features), P features of its projection, R rank, O I output and input features, kh kw kernel.
 */
#ifndef QUAD_LIB_NETWORK_NETWORK_H
#define QUAD_LIB_NETWORK_NETWORK_H

#include "lib/weights/weights.h"

/* ---- UNet2DConditionModel (unet_config.c, unet.c) ---- */
#define QD_MAX_LAYERS 16
/*
 * What config.json says, with every per-block value spelled out. Block 0 of down_, channels, layers, heads and cross_dim is the one
 * with the highest resolution; up_ lists are in the order the up blocks run, so that block 0 has the lowest.
 */
struct qd_unet_config {
	int64_t in_channels, out_channels;
	int64_t sample_size; /* native latent height and width; 0 when the file does not say */
	int blocks;
	int64_t channels[QD_MAX_BLOCKS];
	int64_t layers[QD_MAX_BLOCKS];               /* resnets per down block; up blocks have one more */
	int64_t heads[QD_MAX_BLOCKS];                /* number of attention heads, although the file calls it attention_head_dim */
	int64_t cross_dim[QD_MAX_BLOCKS];            /* features of the context */
	int64_t depth[QD_MAX_BLOCKS][QD_MAX_LAYERS]; /* transformer blocks per attention, by down block and layer */
	int64_t up_depth[QD_MAX_BLOCKS][QD_MAX_LAYERS]; /* the same by up block and layer */
	int64_t mid_depth;
	bool down_attention[QD_MAX_BLOCKS], up_attention[QD_MAX_BLOCKS];
	bool only_cross[QD_MAX_BLOCKS]; /* by down block: attn1 attends to the context too */
	bool has_mid, mid_attention;
	bool linear_projection, flip_sin_to_cos, center_input, scale_shift, text_time, text_proj;
	double freq_shift, norm_eps, mid_scale;
	int64_t groups, downsample_padding, conv_in_kernel, conv_out_kernel;
	int64_t time_dim;          /* features of the time embedding, 4 * channels[0] unless stated */
	int64_t time_cond_dim;     /* of timestep_cond; 0: no such input */
	int64_t addition_time_dim; /* text_time: sinusoid features of each of the time_ids */
	int64_t addition_in_dim;   /* text_time: features into add_embedding; time_ids * addition_time_dim of them are time_ids */
	int64_t time_ids;          /* text_time: numbers about the image's size, 6; 5 in SDXL's refiner */
	int64_t encoder_hid_dim;   /* text_proj: features of encoder_hidden_states before encoder_hid_proj */
	enum qd_op act;            /* QD_OP_SIGMOID stands for silu; QD_OP_MISH, QD_OP_GELU, QD_OP_RELU */
};
/* QD_EINPUT or QD_EUNSUPPORTED naming file, field, found and needed. Unknown fields are ignored. */
QD_CHECK enum qd_status qd_unet_config_read(struct qd_unet_config *config, const char *path);
QD_CHECK enum qd_status qd_unet_config_parse(struct qd_unet_config *config, const char *what, const json_t *json);
/* Of the UNets of a family that has one. */
QD_CHECK enum qd_status qd_unet_config_family(struct qd_unet_config *config, const struct qd_family *family);

/* All fields in the file's spelling: reading it back gives the same configuration. A new reference; NULL when memory is out. */
json_t *qd_unet_config_json(const struct qd_unet_config *config);
/* The same with every field at one value that changes no result (the native size, heads of blocks without attention, ...): equal
 * for configurations that describe one function. */
json_t *qd_unet_config_identity(const struct qd_unet_config *config);

/* Sizes that a graph is built for. */
struct qd_sizes {
	int64_t batch, height, width, tokens;
};
/*
 * Inputs, named and shaped as diffusers' forward takes them: sample f32 [N,C,H,W], timestep f32 [N], encoder_hidden_states f32
 * [N,L,D]; for text_time models text_embeds f32 [N,P] and time_ids f32 [N,6] (SDXL's refiner: [N,5]); with time_cond_dim
 * timestep_cond f32 [N,256]. Output: "out" f32 [N,O,H,W]. Node and value names are module paths. Weights that are missing or of
 * another shape: QD_EINPUT naming tensor, found and needed. `weights` NULL builds the shape of the model without bytes (weights
 * whose data is NULL): for quad init and for name tables.
 */
QD_CHECK enum qd_status qd_unet_graph(
	struct qd_graph *g, const struct qd_unet_config *config, const struct qd_weights *weights, const struct qd_sizes *sizes);

/* ---- what a graph costs to run (cost.c) ---- */
struct qd_cost {
	double conv, linear, attention; /* floating-point operations of a run, a multiplication and an addition counting as two */
	uint64_t weights;               /* elements of all weights */
	uint64_t activations; /* most elements alive at once, the inside of attention not counted (it is computed in tiles) */
};
QD_CHECK enum qd_status qd_graph_cost(const struct qd_graph *g, struct qd_cost *cost);

/* ---- random weights (init.c) ---- */
/* Builds the shape of the model in `g` (released by the caller) and counts its parameters and tensors. */
QD_CHECK enum qd_status qd_unet_parameters(
	const struct qd_unet_config *config, struct qd_graph *g, uint64_t *parameters, uint64_t *tensors);
/*
 * Writes weights drawn as PyTorch draws them (uniform in +-1/sqrt(fan in), norms 1 and 0) as one safetensors file of F32, F16 or
 * BF16, tensor by tensor. Equal configuration, seed and dtype give equal bytes.
 */
QD_CHECK enum qd_status qd_unet_init(
	const struct qd_unet_config *config, uint64_t seed, enum qd_dtype dtype, const char *path, bool force);

/*
 * Writes a random adapter of `rank` for every layer inside the model's transformers, in diffusers format: down as PyTorch draws a
 * linear layer, up the same (a trained one starts at zero, and would change nothing). Equal arguments give equal bytes.
 */
QD_CHECK enum qd_status qd_lora_init(
	const struct qd_unet_config *config, int64_t rank, uint64_t seed, enum qd_dtype dtype, const char *path, bool force);

/*
 * ---- components: folders of a pipeline (component.c) ----
 * A folder of diffusers or transformers (config.json and weights beside it) becomes a graph like a UNet does. A UNet's folder opens
 * through the same calls.
 */

enum qd_component_kind { QD_COMPONENT_UNET, QD_COMPONENT_VAE, QD_COMPONENT_TINY_VAE, QD_COMPONENT_TEXT };
/* "UNet2DConditionModel", "AutoencoderKL", "AutoencoderTiny", "CLIPTextModel". */
const char *qd_component_kind_name(enum qd_component_kind kind);

/* ---- configurations of the other components (vae_config.c, text_config.c) ---- */
#define QD_MAX_LATENTS 64
/* AutoencoderKL and AutoencoderTiny: what config.json says, defaults filled in. Block 0 has the highest resolution. */
struct qd_vae_config {
	bool tiny; /* AutoencoderTiny */
	int64_t in_channels, out_channels, latent_channels;
	int64_t sample_size; /* native image height and width; 0 when the file does not say */
	int blocks;          /* of the encoder and of the decoder; latents have 2^(blocks-1) times less pixels each way */
	int64_t channels[QD_MAX_BLOCKS];
	int64_t layers[QD_MAX_BLOCKS];         /* of the encoder: resnets, or AutoencoderTiny's blocks */
	int64_t decoder_layers[QD_MAX_BLOCKS]; /* in the order the decoder runs, from the lowest resolution */
	int64_t groups;
	enum qd_op act; /* QD_OP_SIGMOID stands for silu */
	bool quant_conv, post_quant_conv, mid_attention;
	/* latent of the UNet = (z - mean) / std * scaling, means and stds 0 and 1 unless the file has them */
	double scaling_factor;
	bool normalized; /* the file has means and stds */
	double mean[QD_MAX_LATENTS], std[QD_MAX_LATENTS];
};
/* QD_EINPUT or QD_EUNSUPPORTED naming file, field, found and needed. Unknown fields are ignored. */
QD_CHECK enum qd_status qd_vae_config_parse(struct qd_vae_config *config, const char *what, const json_t *json);
QD_CHECK enum qd_status qd_tiny_vae_config_parse(struct qd_vae_config *config, const char *what, const json_t *json);

/* CLIPTextModel and CLIPTextModelWithProjection. */
struct qd_text_config {
	int64_t hidden, layers, heads, intermediate, positions, vocabulary;
	int64_t projection; /* features of text_embeds; 0: a model without projection */
	double eps;
	enum qd_op act;           /* QD_OP_SIGMOID stands for quick_gelu, x * sigmoid(1.702 x); QD_OP_GELU */
	int64_t eos;              /* of the pooling rule: 2 is the legacy one, "the largest id", whatever the real end token is */
	bool uses_attention_mask; /* pipelines give the encoder the tokenizer's mask */
};
QD_CHECK enum qd_status qd_text_config_parse(struct qd_text_config *config, const char *what, const json_t *json);

/* ---- an opened component ---- */
struct qd_component {
	enum qd_component_kind kind;
	char *folder;
	struct qd_unet_config unet; /* of its kind alone */
	struct qd_vae_config vae;   /* both kinds of VAE */
	struct qd_text_config text;
	struct qd_weights weights; /* mapped */
};
/*
 * Opens a component folder. `path` may be a pipeline folder (with subfolders unet/, vae/, text_encoder/, ...): then `name` is the
 * subfolder that is meant, NULL for "unet". For a component's own folder `name` is ignored. The kind is config.json's _class_name,
 * else its architectures, else its model_type, else told from the fields. A folder of the two original TAESD files
 * (taesd_encoder.safetensors, taesd_decoder.safetensors) without config.json is an AutoencoderTiny. QD_EINPUT names what is
 * missing; QD_EUNSUPPORTED the class, the field or the pickle.
 */
QD_CHECK enum qd_status qd_component_open(struct qd_component *component, const char *path, const char *name);
/* A component without weights, for its shape and for qd_component_init: kind and configuration of a config.json. */
QD_CHECK enum qd_status qd_component_config_read(struct qd_component *component, const char *path);
void qd_component_release(struct qd_component *component);
/* The name of its weight file without ".safetensors": "model" for text encoders, "diffusion_pytorch_model" for the others. */
const char *qd_component_stem(enum qd_component_kind kind);
/* Whether `folder` is a component's own: it has a config.json, or TAESD's original files. */
bool qd_is_component(const char *folder);
/* The kind of what qd_component_open would open, read from its config.json alone. Fails as it does. */
QD_CHECK enum qd_status qd_component_peek(const char *path, const char *name, enum qd_component_kind *kind);

/* ---- graphs ---- */
enum qd_vae_part { QD_VAE_DECODER, QD_VAE_ENCODER };
struct qd_component_sizes {
	enum qd_vae_part part; /* VAEs only */
	int64_t batch;
	int64_t height, width; /* UNet and decoder: of the latents; encoder: of the image */
	int64_t tokens;        /* UNet and text encoders */
	int64_t clip_skip;     /* text encoders: > 0 adds the output clip_skip_<n> */
};
/*
 * Builds the component for given sizes; every graph's inputs and outputs:
 *
 *   UNet                  as qd_unet_graph
 *   VAE, decoder          z f32 [N,Z,h,w], the latent without scaling -> out f32 [N,C,H,W], an image in [-1,1] (not clamped)
 *   VAE, encoder          x f32 [N,C,H,W] -> out f32 [N,2Z,h,w], means and log variances of the latent: see qd_vae_sample
 *   tiny VAE, decoder     z f32 [N,Z,h,w], the UNet's latent -> out f32 [N,C,H,W]
 *   tiny VAE, encoder     x f32 [N,C,H,W] -> out f32 [N,Z,h,w], the UNet's latent itself
 *   text encoder          input_ids i64 [N,L]; attention_mask i64 [N,L] (1: token, 0: padding) where wanted ->
 *                         last_hidden_state f32 [N,L,D], final norm applied: the context of SD1.x and SD2.x
 *                         pooler_output f32 [N,D]: its row at the end token
 *                         hidden_states_m1, hidden_states_m2 f32 [N,L,D]: after the last layer and the one before, without norm;
 *                         the second is the context of SDXL
 *                         text_embeds f32 [N,P]: the pooled row projected (models with projection)
 *                         clip_skip_<n> f32 [N,L,D]: final norm of what is n layers before the last (sizes->clip_skip), SD1.x's
 *                         context then; with it hidden_states_m<n+2>, SDXL's, where there are so many layers
 *
 * Values bound to i64 inputs may be I32 in their file. Node and value names are module paths, decoder and encoder included
 * ("decoder.mid_block.resnets.0.conv1"); those of text encoders always begin with "text_model." (and "text_projection"), whichever
 * spelling the file has. Weights that are missing or of another shape: QD_EINPUT naming tensor, found and needed; so are sizes that
 * the component cannot take.
 */
QD_CHECK enum qd_status qd_component_graph(
	struct qd_graph *g, const struct qd_component *component, const struct qd_component_sizes *sizes);

/* The networks behind it. `weights` NULL builds the shape without bytes. (vae_graph.c, text.c) */
QD_CHECK enum qd_status qd_vae_graph(struct qd_graph *g, const struct qd_vae_config *config, const struct qd_weights *weights,
	const struct qd_component_sizes *sizes);
QD_CHECK enum qd_status qd_text_graph(struct qd_graph *g, const struct qd_text_config *config, const struct qd_weights *weights,
	const struct qd_component_sizes *sizes);

/* QD_EINPUT naming the tensor, `where` (the file; may be NULL) and the first id that is not from 0 to vocabulary - 1; or that it
 * holds no integers. */
QD_CHECK enum qd_status qd_text_check_ids(const struct qd_text_config *config, const struct qd_tensor *ids, const char *where);

/* How many parameters a component of this configuration has, and in how many tensors. */
QD_CHECK enum qd_status qd_component_parameters(const struct qd_component *component, uint64_t *parameters, uint64_t *tensors);
/* Writes random weights as qd_unet_init does, under the names of a component's folder. */
QD_CHECK enum qd_status qd_component_init(
	const struct qd_component *component, uint64_t seed, enum qd_dtype dtype, const char *path, bool force);

/* ---- between a VAE and a UNet ---- */
/*
 * The UNet's latents of an encoder's output `params` f32 [N,2Z,h,w] (first half means, second log variances, clamped to [-30,20]):
 * (mean + exp(logvar / 2) * noise, or the mean where `noise` f32 [N,Z,h,w] is NULL), normalized and scaled. `latents` f32
 * [N,Z,h,w]. `n` is the number of samples, `pixels` h*w. For a tiny VAE the encoder's output is the latent already.
 */
void qd_vae_sample(
	const struct qd_vae_config *config, size_t n, size_t pixels, const float *params, const float *noise, float *latents);
/* What the decoder takes, z f32 [N,Z,h,w], of the UNet's latents. */
void qd_vae_unscale(const struct qd_vae_config *config, size_t n, size_t pixels, const float *latents, float *z);

#endif
