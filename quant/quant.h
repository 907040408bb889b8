/*
 * quant: everything about quantization. Encodings (scale, zero point, grid) and their rules, observers and calibration, simulation,
 * the sensitivity score QSS and the choice of the shared encodings (anchor or Unified-LoRA), alignment of adapters to them, and the
 * profile file that records the result.
 *
 * Encodings hang on graph values (struct qd_value.encoding, lib/ir/ir.h, with the one convention of what they mean), never as
 * nodes: what is simulated, trained and shipped is one thing.
 */
#ifndef QUAD_QUANT_QUANT_H
#define QUAD_QUANT_QUANT_H

#include "lib/data/data.h"

/* ---- what a quantized model is (options shared by every command) ---- */
enum qd_share { QD_SHARE_SLOT, QD_SHARE_LAYER };
enum qd_align { QD_ALIGN_NONE, QD_ALIGN_GAUGE, QD_ALIGN_GAIN };
enum qd_method { QD_METHOD_AUTO, QD_METHOD_ANCHOR, QD_METHOD_UNIFIED };
enum qd_observer_kind { QD_OBSERVE_MINMAX, QD_OBSERVE_PERCENTILE, QD_OBSERVE_MSE };
enum qd_divergence { QD_DIVERGENCE_JS, QD_DIVERGENCE_KL, QD_DIVERGENCE_MSE, QD_DIVERGENCE_COSINE };
enum qd_scope { QD_SCOPE_ADAPTER, QD_SCOPE_MODEL };

struct qd_quant_options {
	int weight_bits, lora_bits, act_bits; /* 8, 8, 16; act_bits 0 leaves activations float */
	bool weight_per_channel;
	enum qd_share share;
	enum qd_align align;
	enum qd_method method;
	const char *anchor; /* NULL: the highest QSS */
	double equal_level; /* 0.05: significance level of "differs from the highest QSS" */
	enum qd_observer_kind observer;
	double percentile; /* 99.99 for QD_OBSERVE_PERCENTILE */
	enum qd_divergence divergence;
	enum qd_scope scope;
	const char *slots; /* policy of qd_slots_choose */
	int64_t rank;      /* 0: largest */
	int64_t batch;     /* samples per run, 0: as many as make one 64 x 64 latent; moves results by float32 rounding only */
};
struct qd_quant_options qd_quant_options_default(void);
/* How the values are spelled, in the order of their enum, NULL at the end. */
extern const char *const qd_share_names[];
extern const char *const qd_align_names[];
extern const char *const qd_method_names[];
extern const char *const qd_observer_names[];
extern const char *const qd_divergence_names[];
extern const char *const qd_scope_names[];
extern const char *const qd_weight_scheme_names[]; /* by weight_per_channel */

/* ---- which values carry which encodings (assign.c) ---- */
enum qd_entry_kind {
	QD_ENTRY_NONE,       /* stays float */
	QD_ENTRY_ACTIVATION, /* act_bits, asymmetric, per tensor, from calibration */
	QD_ENTRY_WEIGHT,     /* weight_bits, symmetric */
	QD_ENTRY_LORA, /* the inputs "<path>.lora_down" and ".lora_up": lora_bits, symmetric, per tensor, common to all adapters */
};
/*
 * kinds [g->n_values]: what each value carries. Activations are float graph inputs and results, except results of view operators
 * (they share their source's), LoRA gains, and everything between the timestep and its sinusoid: an 8-bit timestep of 0 to 1000
 * would be off by whole steps. Weights are the float second operands of Conv, Gemm and MatMul. Biases, norm parameters and
 * constants stay float. QD_ENOMEM.
 */
QD_CHECK enum qd_status qd_assign(const struct qd_graph *g, enum qd_entry_kind *kinds);
/* The value whose encoding a view shares (itself when it is not a view's result). */
qd_id qd_value_source(const struct qd_graph *g, qd_id value);

/* ---- the profile (profile.c) ---- */
struct qd_profile_entry {
	const char *name; /* tensor name */
	enum qd_entry_kind kind;
	struct qd_encoding *encoding;
};
struct qd_adapter_score {
	const char *name;
	char hash[QD_HASH_TEXT];
	int64_t rank;   /* the largest of its layers */
	size_t n_slots; /* layers it adapts */
	bool idle;      /* changes nothing: no anchor. Not kept in the file */
	double qss, standard_error;
	double output_sqnr_db; /* float output against own encodings, in dB; INFINITY where nothing is lost */
	/* SQNR of the update up diag(gain) down in dB: under own encodings, under the profile's as it is, under the profile's after
	 * alignment. */
	double update_own_db, update_shared_db, update_aligned_db;
	double *per_sample; /* QSS per calibration sample */
	size_t n_samples;
};
struct qd_profile {
	struct qd_arena arena;
	struct qd_quant_options options;
	const char *method; /* "anchor" or "unified": what was chosen */
	const char *anchor; /* NULL for unified */
	const char *reason; /* why, one line */
	char base_hash[QD_HASH_TEXT];
	struct qd_adapter_score *adapters;
	size_t n_adapters;
	struct qd_slots slots; /* paths and ranks; ids QD_NONE */
	struct qd_profile_entry *entries;
	size_t n_entries, cap_entries;
	struct qd_strmap by_name;
};
/* QD_EIO; QD_EINPUT naming the file, the entry, what was found and what is needed. */
QD_CHECK enum qd_status qd_profile_read(struct qd_profile *profile, const char *path);
/* The layout stands in profile_json.c. Equal profiles give equal bytes. QD_EEXIST, QD_EIO. */
QD_CHECK enum qd_status qd_profile_write(const struct qd_profile *profile, const char *path, bool force);
void qd_profile_release(struct qd_profile *profile);
/* The encoding of a tensor, or NULL. */
const struct qd_encoding *qd_profile_find(const struct qd_profile *profile, const char *tensor);
/* Hangs the profile's encodings on the net's values. QD_EINPUT when a tensor of the profile is not in the graph or the other way
 * round. */
QD_CHECK enum qd_status qd_profile_apply(const struct qd_profile *profile, struct qd_net *net);
/* QD_EINPUT when the base model's hash differs. */
QD_CHECK enum qd_status qd_profile_check_base(const struct qd_profile *profile, const struct qd_model *model);

/* ---- alignment (align.c; the formulas are at the top of that file) ---- */
/*
 * An adapter as it lies under the profile: per slot its float tensors, padded with zeros to the slot's rank R, after
 *
 *   up[:,k] * a_k    down[k,:] * b_k    gain_k / (a_k b_k)
 *
 * which leaves the function as it was and fills the shared ranges; the gain may then repair part of the rounding.
 */
struct qd_fitted_slot {
	int64_t rank;            /* the adapter's own, without padding; 0: it does not adapt this layer */
	float *down, *up, *gain; /* [R,I*kh*kw], [O,R], [R]; up and down real-valued, not yet rounded */
};
struct qd_fitted {
	struct qd_fitted_slot *slots; /* as profile->slots */
	size_t n;
	struct qd_arena arena;
};
/*
 * Fits an adapter to the profile's encodings. One that says it lies on exactly their grid (adapter->grid, a distilled one) is
 * taken as it is, whatever `align` says.
 */
QD_CHECK enum qd_status qd_fit_adapter(
	struct qd_fitted *fitted, const struct qd_adapter *adapter, const struct qd_profile *profile, enum qd_align align);
void qd_fitted_release(struct qd_fitted *fitted);
/* What identifies the encodings of all LoRA inputs (struct qd_adapter.grid). `out`: QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_profile_grid(const struct qd_profile *profile, char *out);
/* Back to an adapter (rank padding dropped): what distill saves. */
QD_CHECK enum qd_status qd_fitted_to_adapter(
	const struct qd_fitted *fitted, const struct qd_profile *profile, const char *name, struct qd_adapter *out);
/* 10 log10( sum |up diag(gain) down|^2 / sum |that - the rounded one|^2 ) over all layers of the adapter; INFINITY without error.
 */
QD_CHECK enum qd_status qd_update_sqnr(
	const struct qd_adapter *adapter, const struct qd_fitted *fitted, const struct qd_profile *profile, double *db);
/* Binds fitted tensors to the LoRA inputs of an executor (float; the simulator quantizes them through their encodings). */
QD_CHECK enum qd_status qd_net_bind_fitted(const struct qd_net *net, struct qd_exec *exec, const struct qd_fitted *fitted);

/* ---- simulation (sim.c) ---- */
/* A qd_value_hook: fake-quantizes every value that carries an encoding; weights once. `context` is NULL. Set see_all in the
 * executor's options. */
enum qd_status qd_sim_hook(void *context, const struct qd_graph *g, qd_id value, qt_tensor *tensor);

/* ---- calibration data (data_bind.c) ---- */
/* Binds samples [first, first + batch) of a set opened for calibration to an executor's inputs. */
QD_CHECK enum qd_status qd_data_bind(const struct qd_dataset *data, struct qd_exec *exec, int64_t first, int64_t batch);

/* ---- QSS and the whole of `quad qss` (qss.c, choice.c, calibrate.c) ---- */
/* D(y || z) between two outputs of n elements: softmax(y / t), softmax(z / t), t the population standard deviation of y, natural
 * logarithm. */
double qd_divergence(enum qd_divergence kind, size_t n, const float *y, const float *z);
/*
 * Scores every adapter (equation 8), chooses anchor or unified encodings, fits the adapters and measures their update SQNR. Fills
 * `profile` (zeroed by the caller) with all but the base model's and the activations' encodings.
 */
QD_CHECK enum qd_status qd_profile_score(struct qd_profile *profile, const struct qd_model *model,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_dataset *calibration,
	const struct qd_quant_options *options);
/* Adds what is missing to a scored profile: encodings of weights, encodings of activations over all adapters and samples, the
 * model's hash. */
QD_CHECK enum qd_status qd_profile_calibrate(struct qd_profile *profile, const struct qd_model *model,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_dataset *calibration);
/* Both. */
QD_CHECK enum qd_status qd_profile_build(struct qd_profile *profile, const struct qd_model *model,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_dataset *calibration,
	const struct qd_quant_options *options);

#endif
