/*
 * lib/model: models and adapters as people have them. Diffusers directories (config.json and safetensors) become graphs (lib/ir),
 * adapter files of every trainer become lists of low-rank pairs under diffusers' module paths, and low-rank branches with inputs in
 * place of weights are attached to a graph.
 *
 * Dimension letters: N batch, C channels, H W latent pixels, L tokens, D context features, R rank, O I output and input features,
 * kh kw kernel.
 */
#ifndef QUAD_LIB_MODEL_MODEL_H
#define QUAD_LIB_MODEL_MODEL_H

#include "lib/ir/ir.h"

/* ---- weights of one component folder (weights.c) ---- */
/* All tensors of a folder, by name, mapped: one file, or shards with an index. */
struct qd_weights {
	const char *path; /* the file, or the index of the shards: for messages */
	struct qd_safetensors *files;
	size_t n_files;
	const struct qd_tensor **tensors; /* of all files, in the files' order */
	size_t n, cap;
	struct qd_strmap by_name; /* index into `tensors` */
	struct qd_arena arena;
};
/*
 * `stem` is "diffusion_pytorch_model" or "model". Tries the index, the plain file, then the fp16 and bf16 variants of both.
 * QD_EINPUT names the folder and what it needs; a pickle alone is QD_EUNSUPPORTED.
 */
QD_CHECK enum qd_status qd_weights_open(struct qd_weights *weights, const char *folder, const char *stem);
/* NULL when there is none. */
const struct qd_tensor *qd_weights_find(const struct qd_weights *weights, const char *name);
/* Warns through the log hook of tensors that the network built from them does not have; returns their number. */
size_t qd_weights_note_unused(const struct qd_weights *weights, const struct qd_graph *g);
void qd_weights_release(struct qd_weights *weights);

/* ---- UNet2DConditionModel (unet_config.c, unet.c) ---- */
#define QD_MAX_BLOCKS 8
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

/* All fields in the file's spelling: reading it back gives the same configuration. A new reference; NULL when memory is out. */
json_t *qd_unet_config_json(const struct qd_unet_config *config);
/* The same with every field at one value that changes no result (the native size, heads of blocks without attention, ...): equal
 * for configurations that describe one function. */
json_t *qd_unet_config_identity(const struct qd_unet_config *config);

/* ---- a model: an opened UNet, in whatever form it came ---- */
enum qd_model_kind { QD_MODEL_FOLDER, QD_MODEL_CHECKPOINT, QD_MODEL_ONNX };
struct qd_model {
	enum qd_model_kind kind;
	char *folder; /* the component folder itself, ".../unet"; of a single file its path */
	char *root;   /* the pipeline folder, or equal to `folder`; of a single file the folder it lies in */
	struct qd_unet_config config;
	struct qd_weights weights;
	struct qd_onnx_unet *onnx; /* of an ONNX file, else NULL */
};
/*
 * `path`: a pipeline folder (with unet/), the component folder, a single-file checkpoint (checkpoint.h), or an ONNX file
 * (onnx_unet.h). A component folder without weights but with a model.onnx is that file.
 */
QD_CHECK enum qd_status qd_model_open(struct qd_model *model, const char *path);
void qd_model_release(struct qd_model *model);
/* Hash over the names, shapes, dtypes and bytes of all weights, under diffusers' names, and what of the configuration changes
 * results (profile, manifest): equal for a folder and a single file of the same weights. `out`: QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_model_hash(const struct qd_model *model, char *out);

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

/*
 * The graph of an opened model, whatever its kind: inputs, output and names are those of qd_unet_graph. QD_EINPUT for sizes that
 * the model cannot take. Weights point into the model, which must outlive the graph.
 */
QD_CHECK enum qd_status qd_model_graph(struct qd_graph *g, const struct qd_model *model, const struct qd_sizes *sizes);
/* The smallest sizes it can be built for: enough to ask which layers and shapes of weights it has. */
struct qd_sizes qd_model_least_sizes(const struct qd_model *model);
/* The sizes it is meant for: one sample at its native height and width (64 where it does not say), 77 tokens. */
struct qd_sizes qd_model_native_sizes(const struct qd_model *model);

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

/* ---- modules: the layers that a LoRA can adapt (modules.c) ---- */
struct qd_module {
	const char *path; /* diffusers spelling, "mid_block.attentions.0.proj_in" */
	qd_id node, weight;
	bool conv;
	int64_t out, in, kh, kw; /* kh = kw = 1 for linear */
};
struct qd_modules {
	struct qd_module *items;
	size_t n;
	struct qd_strmap by_path;
	struct qd_arena arena;
};
/* Every Conv and Gemm of `g` whose weight is a QD_WEIGHT called "<path>.weight", in graph order. */
QD_CHECK enum qd_status qd_modules_of(struct qd_modules *modules, const struct qd_graph *g);
const struct qd_module *qd_modules_find(const struct qd_modules *modules, const char *path);
void qd_modules_release(struct qd_modules *modules);

/* ---- adapters (adapter.c and one file per format) ---- */
enum qd_adapter_format { QD_ADAPTER_PEFT, QD_ADAPTER_DIFFUSERS, QD_ADAPTER_KOHYA, QD_ADAPTER_CLONEOFSIMO };
const char *qd_adapter_format_name(enum qd_adapter_format format);

/* One adapted layer: delta W = up diag(gain) down. All float32, row-major, in the adapter's arena. */
struct qd_lora {
	const char *path; /* module path, diffusers spelling */
	int64_t rank, out, in, kh, kw;
	bool conv;   /* of a convolution: written with four dimensions */
	float *down; /* [R, I*kh*kw]: as the file holds it (Tucker's middle collapsed in) */
	float *up;   /* [O, R] */
	float *gain; /* [R]: multiplier * the format's scale (alpha/rank, ...); a stored .lora_gain is multiplied in */
};
struct qd_adapter {
	const char *name, *path;
	enum qd_adapter_format format;
	struct qd_lora *loras; /* in the order of the modules they belong to */
	size_t n;
	struct qd_strmap by_path;
	size_t text_tensors; /* tensors of text encoders: recognized, reported, not used here */
	size_t embeddings;   /* textual-inversion vectors, likewise */
	const char **notes;  /* one line each: what a user should know (ignored keys and the rule they fall under) */
	size_t n_notes, cap_notes;
	/* NULL, or what identifies the shared encodings on whose grid down and up lie exactly: they are to be taken as they are
	 * (metadata "quad.grid" of the file; opaque to this folder) */
	const char *grid;
	char hash[QD_HASH_TEXT];
	struct qd_adapter_source *source; /* NULL, or the mapped file that down and up are still in */
	struct qd_arena arena;
};
/*
 * Reads an adapter file or PEFT folder for the model whose modules are given; `multiplier` is the user's strength. Every key of the
 * file is used, ignored by a stated rule (notes), or an error. QD_EUNSUPPORTED names the algorithm and first key (LoHa, LoKr, IA3,
 * DoRA, OFT, full models, pickles); QD_EINPUT names file, tensor, found and needed (unknown module, wrong shape, rank mismatch,
 * NaN, up without down), and for a wrong base how many modules fit and which family the adapter looks like.
 */
QD_CHECK enum qd_status qd_adapter_open(
	struct qd_adapter *adapter, const char *name, const char *path, double multiplier, const struct qd_modules *modules);
/* "NAME=PATH[@SCALE][+PATH[@SCALE]]...": several files join their ranks (exact in float). "PATH" alone takes the file's stem as
 * name. */
QD_CHECK enum qd_status qd_adapter_open_spec(struct qd_adapter *adapter, const char *spec, const struct qd_modules *modules);
/*
 * The same two, but matrices stay in the mapped file: `down` and `up` of the layers are NULL until qd_adapter_load, everything else
 * is there and all is checked. Enough for attaching adapters to a graph. (Several files of one spec are joined, and thus read.)
 */
QD_CHECK enum qd_status qd_adapter_map(
	struct qd_adapter *adapter, const char *name, const char *path, double multiplier, const struct qd_modules *modules);
QD_CHECK enum qd_status qd_adapter_map_spec(struct qd_adapter *adapter, const char *spec, const struct qd_modules *modules);
/* Converts the matrices and closes the file; a no-op when that was done. QD_ENOMEM, QD_EINPUT (a number too large for float32). */
QD_CHECK enum qd_status qd_adapter_load(struct qd_adapter *adapter);
/* One layer of an adapter against a model. */
struct qd_layer_fit {
	const char *name; /* as the adapter calls it */
	const char *path; /* the model's layer; NULL: it has none of that name */
	bool fits;
	const char *tensor; /* NULL, or the tensor of the adapter that has another shape than the layer takes */
	struct qd_shape found;
	char needed[96]; /* "[R,768]" */
};
struct qd_adapter_diff {
	struct qd_layer_fit *layers; /* in the file's order */
	size_t n, fits;
	const char *family; /* models with such layers, "SDXL"; NULL: unknown */
	struct qd_arena arena;
};
/* Which layers of the adapter at `path` fit, and which do not: QD_OK whatever comes out. Fails as qd_adapter_open for files that
 * are no adapters, or whose layers are not whole. `modules` must outlive `diff`. */
QD_CHECK enum qd_status qd_adapter_compare(struct qd_adapter_diff *diff, const char *path, const struct qd_modules *modules);
void qd_adapter_diff_release(struct qd_adapter_diff *diff);
const struct qd_lora *qd_adapter_find(const struct qd_adapter *adapter, const char *path);
void qd_adapter_release(struct qd_adapter *adapter);
/* Builds an adapter in memory (training): loras with zeroed buffers for `n` modules at `rank`, gain = `gain`. */
QD_CHECK enum qd_status qd_adapter_new(
	struct qd_adapter *adapter, const char *name, const struct qd_module *const *modules, size_t n, int64_t rank, float gain);
/*
 * Writes diffusers format: "unet.<path>.lora_A.weight" (down) and ".lora_B.weight" (up), conv shapes for convs, F32 or F16,
 * metadata lora_adapter_metadata with r, lora_alpha and patterns so that any reader applies the right scale. The gain is folded:
 * its common positive part into alpha when all components share it, else into up and down evenly (square roots, sign in up); with
 * `keep_gain` the file holds down and up as they are for this program, with ".lora_gain" [R], and an up with the gain folded in
 * for others.
 */
QD_CHECK enum qd_status qd_adapter_write(
	const struct qd_adapter *adapter, const char *path, enum qd_dtype dtype, bool keep_gain, bool force);

/* ---- slots: LoRA tensors as graph inputs (slots.c) ---- */
struct qd_slot {
	const char *path;
	int64_t rank, out, in, kh, kw;
	bool conv;
	qd_id down, up, gain; /* graph inputs "<path>.lora_down" [R,I(,kh,kw)], ".lora_up" [O,R(,1,1)], ".lora_gain" [R]; QD_NONE
				 before attaching */
	qd_id weight;         /* the base weight's value */
	qd_id base, sum;      /* W x (+ b), and W x + b + up(gain * down x): values "<path>" and "<path>.lora_sum" */
};
struct qd_slots {
	struct qd_slot *items;
	size_t n;
	struct qd_strmap by_path;
	struct qd_arena arena;
};
/*
 * Chooses the slots: `policy` NULL or "union" (of the adapters), "attention", "transformer", "all", or a file of module paths, one
 * per line. Rank of a slot: the largest over adapters, or `rank` when > 0 (QD_EINPUT when an adapter needs more).
 */
QD_CHECK enum qd_status qd_slots_choose(struct qd_slots *slots, const struct qd_modules *modules,
	const struct qd_adapter *const *adapters, size_t n, const char *policy, int64_t rank);
/* Adds the branches to `g`: values "<path>.lora_down_out", ".lora_gain_out", ".lora_up_out", ".lora_sum". y = W x + up(gain * down
 * x). The ids in `slots` are filled in. Uses of the layer's output become uses of the sum. */
QD_CHECK enum qd_status qd_slots_attach(struct qd_slots *slots, struct qd_graph *g);
/* Finds already attached slots by the names of the graph's inputs (an exported graph). */
QD_CHECK enum qd_status qd_slots_find(struct qd_slots *slots, const struct qd_graph *g);
/* `lora` (NULL: none, gives zeros) padded with zeros to the slot's rank; buffers of R*I*kh*kw, O*R and R floats. */
QD_CHECK enum qd_status qd_slot_fill(const struct qd_slot *slot, const struct qd_lora *lora, float *down, float *up, float *gain);
void qd_slots_release(struct qd_slots *slots);

#endif
