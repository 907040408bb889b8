/*
 * What the adapter readers share and nobody else sees. Reading goes in four steps: a file's keys become tensors of pieces (collect,
 * one function per dialect), the pieces are checked against each other and against the model (check.c), the dialect says each
 * piece's scale, and the layers are described. Their matrices stay in the mapped file until somebody wants them as float32.
 *
 * Dimension letters: R rank, O outputs, I inputs, kh kw kernel.
 */
#ifndef QUAD_LIB_ADAPTER_INTERNAL_H
#define QUAD_LIB_ADAPTER_INTERNAL_H

#include "lib/adapter/adapter.h"

enum qd_lora_role {
	QD_ROLE_DOWN,     /* [R,I] or [R,I,kh,kw] */
	QD_ROLE_UP,       /* [O,R] or [O,R,1,1] */
	QD_ROLE_MID,      /* [R,R,kh,kw], Tucker's middle */
	QD_ROLE_ALPHA,    /* one element */
	QD_ROLE_GAIN,     /* [R] */
	QD_ROLE_PLAIN_UP, /* as up, in its place: up carries the gain then */
	QD_ROLE_BIAS,     /* [O] */
	QD_ROLES
};

/* One adapted layer as the file has it. */
struct qd_piece {
	const char *name; /* the layer as the file calls it */
	uint32_t module;  /* index into the model's modules, QD_NONE: the model has no such layer */
	const struct qd_tensor *tensor[QD_ROLES];
	double scale; /* the dialect's: alpha / R, ... */
};

struct qd_reading {
	struct qd_adapter *adapter;
	const struct qd_modules *modules;
	struct qd_safetensors file;
	struct qd_piece *pieces;
	size_t n, cap;
	struct qd_strmap by_name;
	struct qd_fields config; /* PEFT's: of adapter_config.json, or of the text in a diffusers file's header; json NULL: none */
	json_t *config_json;     /* what they are fields of */
	struct qd_strmap ldm;    /* layers by the original implementation's names; filled when one is first looked for */
	struct qd_arena arena;   /* what is gone when the adapter is read */
};

/* What is left of a reading while an adapter's matrices are in its file. */
struct qd_adapter_source {
	struct qd_safetensors file;
	struct qd_piece *pieces;
	struct qd_arena arena;
};

/* Files one tensor under the layer `name`, whose module index (or QD_NONE) is `module`. QD_EINPUT when its role is taken already.
 */
QD_CHECK enum qd_status qd_reading_put(
	struct qd_reading *r, const char *name, uint32_t module, enum qd_lora_role role, const struct qd_tensor *tensor);
/* The index of the module at `path` (diffusers spelling), or QD_NONE. */
uint32_t qd_reading_module(const struct qd_reading *r, const char *path);
/* The same for a path in diffusers' or the original implementation's spelling, behind "diffusion_model." or nothing; `*module` is
 * QD_NONE when the model has no such layer. */
QD_CHECK enum qd_status qd_reading_any_module(struct qd_reading *r, const char *path, uint32_t *module);
/* What the original names depend on, from the paths of a model's layers. */
struct qd_ldm_layout;
void qd_modules_ldm_layout(struct qd_ldm_layout *layout, const struct qd_modules *modules);
/*
 * True for keys that trainers put beside an adapter in any dialect: embeddings learned with it ("bundle_emb."), which are counted.
 */
bool qd_reading_skips(struct qd_reading *r, const char *key);
/* Adds a line to the adapter's notes. */
QD_CHECK enum qd_status qd_adapter_note(struct qd_adapter *adapter, const char *fmt, ...) QD_PRINTF(2, 3);
/* The value of a tensor of one element. QD_EINPUT. */
QD_CHECK enum qd_status qd_reading_scalar(const struct qd_tensor *tensor, double *out);
/* Reads an opened file: detection, the four steps, all but the matrices. r->config is that of a PEFT folder, if it is one. */
QD_CHECK enum qd_status qd_reading_run(struct qd_reading *r, double multiplier);
void qd_reading_release(struct qd_reading *r);

/* Opens the file or folder at `path` and collects its pieces, unchecked: for looking at what does not fit. */
QD_CHECK enum qd_status qd_reading_open(struct qd_reading *r, const char *path);

/* ---- diff.c ---- */
/* QD_EINPUT telling the difference when a layer is not in the model or of another shape. */
QD_CHECK enum qd_status qd_pieces_fit(const struct qd_reading *r);

/* ---- check.c ---- */
/* Every piece has up and down. */
QD_CHECK enum qd_status qd_pieces_whole(const struct qd_reading *r);
/* Every piece has up and down, of one rank, and its layer in the model; sorts the pieces into the modules' order. */
QD_CHECK enum qd_status qd_pieces_check(struct qd_reading *r);
/* Pieces to layers of the adapter, without their matrices, whose numbers are checked where they lie. */
QD_CHECK enum qd_status qd_pieces_describe(struct qd_reading *r, double multiplier);
/* The matrices of the adapter's layers, from as many pieces in the same order, to float32 in the adapter. */
QD_CHECK enum qd_status qd_pieces_load(struct qd_adapter *adapter, const struct qd_piece *pieces);
/* An adapter's arrays and the map of its paths from filled loras. */
QD_CHECK enum qd_status qd_adapter_index(struct qd_adapter *adapter);

/* ---- dialects (the list is in adapter.h) ---- */
struct qd_dialect {
	const char *told_by; /* for messages: "keys that begin with lora_unet_" */
	bool any_keys;       /* its keys may be any text, so that none of them gives another algorithm away */
	bool (*detect)(const struct qd_reading *r);
	enum qd_status (*collect)(struct qd_reading *r);
	enum qd_status (*scale)(struct qd_reading *r); /* fills in the pieces' scales; NULL: they stay 1 */
};
#define QD_DIALECT_DECLARE(NAME, name) extern const struct qd_dialect qd_dialect_##name;
QD_DIALECT_LIST(QD_DIALECT_DECLARE)
#undef QD_DIALECT_DECLARE

/*
 * Splits "PATH.lora_A.weight" and its spellings into path (into `path`, QD_PATH_TEXT bytes) and role. QD_EUNSUPPORTED for biases
 * of other layers, QD_EINPUT for a key that is none of them. Used for diffusers and PEFT.
 */
QD_CHECK enum qd_status qd_diffusers_key(const char *key, char *path, enum qd_lora_role *role);

/* Whether a path is a layer of a text encoder. */
bool qd_diffusers_is_text(const char *path);

/* PEFT's configuration fields: refuses values that mean something else than plain LoRA. */
QD_CHECK enum qd_status qd_peft_config_check(const struct qd_reading *r);
/* alpha_m / r_m or alpha_m / sqrt(r_m) of one layer; QD_EINPUT when the configured rank is not `rank`. */
QD_CHECK enum qd_status qd_peft_config_scale(const struct qd_reading *r, const char *path, int64_t rank, double *scale);

#endif
