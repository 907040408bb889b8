/*
 * lib/adapter: LoRA. Files of every trainer become lists of low-rank pairs under diffusers' module paths, adapters are written for
 * others to read, and low-rank branches with inputs in place of weights are attached to a graph.
 *
 * Dimension letters: R rank, O I output and input features, kh kw kernel.
 *
 * A dialect more: its file with its struct qd_dialect (internal.h), its row in QD_DIALECT_LIST, its cases in
 * tests/unit/test_adapter_formats.c.
 */
#ifndef QUAD_LIB_ADAPTER_ADAPTER_H
#define QUAD_LIB_ADAPTER_ADAPTER_H

#include "lib/ir/ir.h"

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

/* ---- adapters (adapter.c and one file per dialect) ---- */
/* X(NAME, name): the dialects, in the order in which a file is asked whether it is one. */
#define QD_DIALECT_LIST(X)                                                                                                         \
	X(PEFT, peft)                                                                                                              \
	X(CLONEOFSIMO, cloneofsimo)                                                                                                \
	X(KOHYA, kohya)                                                                                                            \
	X(DIFFUSERS, diffusers)

enum qd_adapter_format {
#define QD_DIALECT_ENUM(NAME, name) QD_ADAPTER_##NAME,
	QD_DIALECT_LIST(QD_DIALECT_ENUM)
#undef QD_DIALECT_ENUM
};
/* "peft" and so on. */
const char *qd_adapter_format_name(enum qd_adapter_format format);
/* Whether the keys of a file are those of a dialect, or of an algorithm that is refused by name. */
bool qd_adapter_detect(const struct qd_safetensors *file);

/* One adapted layer: delta W = up diag(gain) down. All float32, row-major, in the adapter's arena. */
struct qd_lora {
	const char *path; /* module path, diffusers spelling */
	int64_t rank, out, in, kh, kw;
	bool conv;   /* of a convolution: written with four dimensions */
	float *down; /* [R, I*kh*kw]: as the file holds it (Tucker's middle collapsed in) */
	float *up;   /* [O, R] */
	float *gain; /* [R]: multiplier * the format's scale (alpha/rank, ...); a stored .lora_gain is multiplied in */
	float *bias; /* [O], NULL: none. What is added to the output (PEFT's lora_bias), with the same factors in it */
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
	const char *encodings_id;
	char hash[QD_HASH_TEXT];
	struct qd_adapter_source *source; /* NULL, or the mapped file that down and up are still in */
	struct qd_arena arena;
};
/*
 * Reads an adapter file or PEFT folder for the model whose modules are given; `multiplier` is the user's strength. Every key of the
 * file is used, ignored by a stated rule (notes), or an error. A strength by which a layer changes weights by more than 1e6 is
 * refused, naming the layer. QD_EUNSUPPORTED names the algorithm and first key (LoHa, LoKr, IA3, DoRA, OFT, full models, pickles); QD_EINPUT names file, tensor, found and needed (unknown module, wrong shape, rank mismatch,
 * NaN, up without down), and for a wrong base how many modules fit and which family the adapter looks like.
 */
QD_CHECK enum qd_status qd_adapter_open(
	struct qd_adapter *adapter, const char *name, const char *path, double multiplier, const struct qd_modules *modules);
/* "NAME=PATH[@SCALE][+PATH[@SCALE]]...": several files join their ranks (exact in float). "PATH" alone takes the file's stem as
 * name. */
QD_CHECK enum qd_status qd_adapter_open_spec(struct qd_adapter *adapter, const char *spec, const struct qd_modules *modules);
/* What follows "NAME=" in a spec; one without a name, or that is itself the path of something, whole. */
const char *qd_adapter_spec_path(const char *spec);
/*
 * The same two, but matrices stay in the mapped file: `down` and `up` of the layers are NULL until qd_adapter_load, everything else
 * is there and all is checked. Enough for attaching adapters to a graph. (Several files of one spec are joined, and thus read.)
 */
QD_CHECK enum qd_status qd_adapter_map(
	struct qd_adapter *adapter, const char *name, const char *path, double multiplier, const struct qd_modules *modules);
QD_CHECK enum qd_status qd_adapter_map_spec(struct qd_adapter *adapter, const char *spec, const struct qd_modules *modules);
/* Calls `each` for every path of a spec, until it fails. */
QD_CHECK enum qd_status qd_adapter_spec_each(
	const char *spec, enum qd_status (*each)(void *context, const char *path), void *context);
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
/* The most that a layer can change a weight by: the sum over its components k of |gain_k| max |up[:,k]| max |down[k,:]|. 0 is no
 * change at all. Of a loaded adapter. */
double qd_lora_bound(const struct qd_lora *lora);
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
	bool conv, biased;
	qd_id down, up, gain; /* graph inputs "<path>.lora_down" [R,I(,kh,kw)], ".lora_up" [O,R(,1,1)], ".lora_gain" [R]; QD_NONE
				 before attaching */
	qd_id bias;           /* ".lora_bias" [O]; QD_NONE where it is not `biased` */
	qd_id weight;         /* the base weight's value */
	qd_id base, sum;      /* W x (+ b), and W x + b + up(gain * down x) (+ bias): values "<path>" and "<path>.lora_sum" */
};
struct qd_slots {
	struct qd_slot *items;
	size_t n;
	struct qd_strmap by_path;
	struct qd_arena arena;
};
/* QD_EINPUT when a layer of the adapter has no slot, or a higher rank than its slot: how many, the first, and what helps, but not whose they are. */
QD_CHECK enum qd_status qd_slots_check(const struct qd_slots *slots, const struct qd_adapter *adapter);
/*
 * Chooses the slots: `policy` NULL or "union" (of the adapters), "attention", "transformer", "all", or a file of module paths, one
 * per line. Rank of a slot: the largest over adapters, or `rank` when > 0 (QD_EINPUT when an adapter needs more). A slot is biased
 * when an adapter has a bias there.
 */
QD_CHECK enum qd_status qd_slots_choose(struct qd_slots *slots, const struct qd_modules *modules,
	const struct qd_adapter *const *adapters, size_t n, const char *policy, int64_t rank);
/* The policies that have a name, "union" first; NULL behind the last. */
const char *qd_slots_policy_name(size_t i);
/* Modules counted by those that choose by module; zero it to begin. */
struct qd_module_sets {
	size_t attention, transformer, all;
};
void qd_module_sets_add(struct qd_module_sets *sets, const struct qd_module *module);
/* Adds the branches to `g`: values "<path>.lora_down_out", ".lora_gain_out", ".lora_up_out", ".lora_sum". y = W x + up(gain * down
 * x). The ids in `slots` are filled in. Uses of the layer's output become uses of the sum. */
QD_CHECK enum qd_status qd_slots_attach(struct qd_slots *slots, struct qd_graph *g);
/* `lora` (NULL: none, gives zeros) padded with zeros to the slot's rank; buffers of R*I*kh*kw, O*R, R and, of a biased slot, O
 * floats. QD_EINPUT: another layer's, a larger rank, a bias that the slot has no input for. */
QD_CHECK enum qd_status qd_slot_fill(
	const struct qd_slot *slot, const struct qd_lora *lora, float *down, float *up, float *gain, float *bias);
void qd_slots_release(struct qd_slots *slots);

#endif
