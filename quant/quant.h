/*
 * quant: everything about quantization. Encodings (scale, zero point, grid) and their rules, observers and calibration, simulation,
 * the sensitivity score QSS and the choice of the shared encodings (anchor or Unified-LoRA), alignment of adapters to them, and the
 * profile file that records the result.
 *
 * Encodings hang on graph values (struct qd_value.encoding, lib/ir/ir.h, with the one convention of what they mean), never as
 * nodes: what is simulated, trained and shipped is one thing.
 *
 *   an observer more     its row in QD_OBSERVER_LIST; how it sees values and what range it gives, in observer.c
 *   an alignment more    its row in QD_ALIGN_LIST; what it does to a layer, in align.c
 *   a divergence more    its row in QD_DIVERGENCE_LIST; the distance, in choice.c
 *   a scope more         its row in QD_SCOPE_LIST; how an adapter is scored, in qss.c
 *   an option more       its row in options.def, and whoever obeys it. Where profile.json has it, QD_PROFILE_SCHEMA grows by one
 *                        and the row says since when: an older file then means the default
 */
#ifndef QUAD_QUANT_QUANT_H
#define QUAD_QUANT_QUANT_H

#include "lib/data/data.h"

/* ---- what a quantized model is (options.c) ---- */
/*
 * What there is to choose from: X(id, how it is spelled, what does it), one list each, from which the enum, the names and the table
 * of functions in the file that is named expand.
 */
#define QD_WEIGHT_SCHEME_LIST(X)                                                                                                   \
	X(WEIGHT_PER_TENSOR, "per-tensor")                                                                                         \
	X(WEIGHT_PER_CHANNEL, "per-channel")
#define QD_SHARE_LIST(X)                                                                                                           \
	X(SHARE_SLOT, "slot")   /* an encoding per tensor position */                                                              \
	X(SHARE_LAYER, "layer") /* one for base weight, up and down of a layer, as in the paper */
/* align.c: whether adapters may be clipped under it; what moves a layer. */
#define QD_ALIGN_LIST(X)                                                                                                           \
	X(ALIGN_NONE, "none", true, NULL)                                                                                          \
	X(ALIGN_GAUGE, "gauge", true, align_gauge)                                                                                 \
	X(ALIGN_GAIN, "gain", false, align_gain)
#define QD_METHOD_LIST(X)                                                                                                          \
	X(METHOD_AUTO, "auto")     /* as a paired test over the samples decides */                                                 \
	X(METHOD_ANCHOR, "anchor") /* those of the most sensitive adapter */                                                       \
	X(METHOD_UNIFIED, "unified")
/* observer.c: what is kept beside the range (NULL: nothing); the range to encode. */
#define QD_OBSERVER_LIST(X)                                                                                                        \
	X(OBSERVE_MINMAX, "minmax", NULL, range_seen)                                                                              \
	X(OBSERVE_PERCENTILE, "percentile", count_values, range_of_percentile)                                                     \
	X(OBSERVE_MSE, "mse", count_values, range_of_least_error)
/* choice.c: the distance of an output from the float one. */
#define QD_DIVERGENCE_LIST(X)                                                                                                      \
	X(DIVERGENCE_JS, "js", qd_softmax_js)                                                                                      \
	X(DIVERGENCE_KL, "kl", qd_softmax_kl)                                                                                      \
	X(DIVERGENCE_MSE, "mse", mean_squared_error)                                                                               \
	X(DIVERGENCE_COSINE, "cosine", cosine_distance)
/* qss.c: what is rounded when an adapter is scored. */
#define QD_SCOPE_LIST(X)                                                                                                           \
	X(SCOPE_ADAPTER, "adapter", score_adapters)                                                                                \
	X(SCOPE_MODEL, "model", score_models)
#define QD_CHOICE_ID(id, ...) QD_##id,
enum qd_weight_scheme { QD_WEIGHT_SCHEME_LIST(QD_CHOICE_ID) };
enum qd_share { QD_SHARE_LIST(QD_CHOICE_ID) };
enum qd_align { QD_ALIGN_LIST(QD_CHOICE_ID) };
enum qd_method { QD_METHOD_LIST(QD_CHOICE_ID) };
enum qd_observer_kind { QD_OBSERVER_LIST(QD_CHOICE_ID) };
enum qd_divergence { QD_DIVERGENCE_LIST(QD_CHOICE_ID) };
enum qd_scope { QD_SCOPE_LIST(QD_CHOICE_ID) };
/* How the values are spelled, in the order of their enum, NULL at the end. */
extern const char *const qd_weight_scheme_names[];
extern const char *const qd_share_names[];
extern const char *const qd_align_names[];
extern const char *const qd_method_names[];
extern const char *const qd_observer_names[];
extern const char *const qd_divergence_names[];
extern const char *const qd_scope_names[];
extern const char *const qd_entry_names[];

/* The options and what each means: options.def. Where they are written, as bits; a profile.json since a schema. */
enum { QD_PROFILE_SCHEMA = 2 };
#define QD_IN_RUN 1u
#define QD_IN_MANIFEST 2u
#define QD_IN_SCHEMA(n) (4u << (n))
#define QD_SINCE(n) (-QD_IN_SCHEMA(n)) /* QD_IN_SCHEMA of n and all that come */
struct qd_quant_options {
#define QD_TYPE_BITS(...) int
#define QD_TYPE_CHOICE(type, names) type
#define QD_TYPE_NUMBER(low, high) double
#define QD_TYPE_WHOLE(low, high) int64_t
#define QD_TYPE_TEXT const char *
#define QD_TYPE_TEXT_OR(name_at) const char *
#define OPTION(kind, field, ...) QD_TYPE_##kind field;
#include "quant/options.def"
#undef OPTION
};
struct qd_quant_options qd_quant_options_default(void);

/* ---- which values carry which encodings (assign.c) ---- */
#define QD_ENTRY_LIST(X)                                                                                                           \
	X(ENTRY_NONE, "")                 /* stays float */                                                                        \
	X(ENTRY_ACTIVATION, "activation") /* act_bits, asymmetric, per tensor, from calibration */                                 \
	X(ENTRY_WEIGHT, "weight")         /* weight_bits, symmetric */                                                             \
	X(ENTRY_LORA, "lora") /* inputs "<path>.lora_down", ".lora_up": lora_bits, symmetric, per tensor, for all adapters */
enum qd_entry_kind { QD_ENTRY_LIST(QD_CHOICE_ID) };
/*
 * kinds [g->n_values]: what each value carries. Activations are float graph inputs and results, except results of view operators
 * (they share their source's), LoRA gains and biases, and everything between the timestep and its sinusoid: an 8-bit timestep of 0 to 1000
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
	const struct qd_encoding *encoding;
};
/* The encodings of a slot's tensors: NULL where a tensor has none. */
struct qd_slot_encodings {
	const struct qd_encoding *down, *up, *gain;
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
	struct qd_provenance provenance; /* zeros: none is known */
	struct qd_adapter_score *adapters;
	size_t n_adapters;
	struct qd_slots slots; /* paths and ranks; ids QD_NONE */
	struct qd_profile_entry *entries;
	size_t n_entries, cap_entries;
	struct qd_strmap by_name;
	struct qd_slot_encodings *slot_encodings; /* as slots.items: those of the entries so far */
};
/* QD_EIO; QD_EINPUT naming the file, the entry, what was found and what is needed. */
QD_CHECK enum qd_status qd_profile_read(struct qd_profile *profile, const char *path);
/* The layout stands in profile_json.c. Equal profiles give equal bytes. QD_EEXIST, QD_EIO. */
QD_CHECK enum qd_status qd_profile_write(const struct qd_profile *profile, const char *path, bool force);
void qd_profile_release(struct qd_profile *profile);
/* What of a profile training depends on, as a hash: the base model, slots, encodings, and the options that say so. `out`:
 * QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_profile_run_hash(const struct qd_profile *profile, char *out);
/* What an export's manifest says of a profile: how it was chosen, and the options that say so. Adds to `object`. */
QD_CHECK enum qd_status qd_profile_describe(const struct qd_profile *profile, json_t *object);
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
	float *bias;             /* [O] of a biased slot, else NULL: the adapter's as it is */
};
struct qd_fitted {
	struct qd_fitted_slot *slots; /* as profile->slots */
	size_t n;
	struct qd_arena arena;
};
/*
 * Fits an adapter to the profile's encodings, as `align` says. A distilled one lies on the grid of a profile (adapter->encodings_id).
 * On this one's it is taken as it is; on another's too, with a warning, unless `refit`: what was learned for that grid is lost on
 * this, so that somebody has to ask for it.
 */
QD_CHECK enum qd_status qd_fit_adapter(struct qd_fitted *fitted, const struct qd_adapter *adapter, const struct qd_profile *profile,
	enum qd_align align, bool refit);
void qd_fitted_release(struct qd_fitted *fitted);
/* What identifies the encodings of all LoRA inputs (struct qd_adapter.encodings_id). `out`: QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_profile_encodings_id(const struct qd_profile *profile, char *out);
/* Back to an adapter (rank padding dropped): what distill saves. */
QD_CHECK enum qd_status qd_fitted_to_adapter(
	const struct qd_fitted *fitted, const struct qd_profile *profile, const char *name, struct qd_adapter *out);
/* 10 log10( sum |up diag(gain) down|^2 / sum |that - the rounded one|^2 ) over all layers of the adapter; INFINITY without error.
 */
QD_CHECK enum qd_status qd_update_sqnr(
	const struct qd_adapter *adapter, const struct qd_fitted *fitted, const struct qd_profile *profile, double *db);
/* ---- simulation (sim.c) ---- */
/*
 * Opens a simulated runner: hangs the profile's encodings on the net (both must stay), fits the adapter (`refit` as
 * qd_fit_adapter has it) and feeds it (NULL: none). `libtorch`: on its operators instead of the engine, to compare with.
 */
QD_CHECK enum qd_status qd_runner_open_simulated(struct qd_runner *runner, struct qd_net *net, const struct qd_profile *profile,
	const struct qd_adapter *adapter, bool refit, bool libtorch);
/* Feeds fitted tensors to the LoRA inputs of a net (float: their encodings round them). */
QD_CHECK enum qd_status qd_runner_feed_fitted(
	struct qd_runner *runner, const struct qd_slots *slots, const struct qd_fitted *fitted);

/* ---- calibration data (data_feed.c) ---- */
/* Feeds samples [first, first + batch) of a set opened for calibration. */
QD_CHECK enum qd_status qd_data_feed(const struct qd_dataset *data, struct qd_runner *runner, int64_t first, int64_t batch);

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
/*
 * What each way to quantize costs an adapter: SQNR in dB of the simulated model's output, over all samples, against the float
 * model's (compare.c). INFINITY: nothing; NAN: an adapter that changes nothing has no encodings of its own.
 */
struct qd_comparison {
	double own;     /* a graph for this adapter alone, under its own encodings */
	double shared;  /* one graph for all, under the profile's choice, adapters as they are */
	double aligned; /* the same, as the profile aligns adapters */
};
/* `profile` was scored and calibrated with the same arguments; `out` [n]. */
QD_CHECK enum qd_status qd_profile_compare(const struct qd_profile *profile, const struct qd_model *model,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_dataset *calibration, struct qd_comparison *out);

#endif
