/*
 * What the files of this folder share and nobody else sees: per-slot encodings, observers, and the parts of scoring that do
 * not execute a graph.
 */
#ifndef QUAD_QUANT_INTERNAL_H
#define QUAD_QUANT_INTERNAL_H

#include "quant/members.h"
#include "quant/quant.h"

/* ---- options (options.c) ---- */
/* The rows of struct qd_quant_options, marked with QD_IN_*. */
extern const struct qd_member qd_quant_members[];
/* A copy whose texts are in `arena`. */
QD_CHECK enum qd_status qd_quant_options_copy(
	struct qd_arena *arena, const struct qd_quant_options *options, struct qd_quant_options *out);

/* ---- observers (observer.c) ---- */
#define QD_OBSERVER_BINS 2048
/* What is kept of all values of one tensor: the range, and for kinds that need it a histogram over [from, from + bins * width]. */
struct qd_observer {
	enum qd_observer_kind kind;
	double percentile;
	struct qd_range range;
	bool seen;
	double from, width;
	uint64_t *bins; /* owned; NULL until the first values and where none is needed */
};
/* Whether its kind keeps more than the range, and thus has to see all values. */
bool qd_observer_sees_values(const struct qd_observer *o);
/* Widens the range alone. */
void qd_observer_add_range(struct qd_observer *o, float low, float high);
/* QD_EINPUT when a value is not finite. */
QD_CHECK enum qd_status qd_observer_add(struct qd_observer *o, size_t n, const float *x);
/* The range to encode on a grid of `bits`. */
struct qd_range qd_observer_range(const struct qd_observer *o, int bits);
void qd_observer_release(struct qd_observer *o);

/* ---- encodings of slots (unified.c): arrays of slots->n ---- */
/* An adapter's own: min-max over its tensors as the file holds them. */
QD_CHECK enum qd_status qd_own_encodings(struct qd_arena *arena, const struct qd_slots *slots, const struct qd_adapter *adapter,
	int bits, struct qd_slot_encodings *out);
/*
 * The shared ones, a value for every slot: those of adapters[anchor], or unified ones when `anchor` is n. `weights` are the base
 * model's, read only with QD_SHARE_LAYER; may be NULL without.
 */
QD_CHECK enum qd_status qd_shared_encodings(struct qd_arena *arena, const struct qd_slots *slots,
	const struct qd_adapter *const *adapters, size_t n, size_t anchor, const struct qd_quant_options *options,
	const struct qd_weights *weights, struct qd_slot_encodings *out);

/* ---- alignment over slots and encodings (align.c); as the functions over a profile ---- */
/* Whether an adapter may be clipped under it: values that are lost on the grid. */
bool qd_align_may_clip(enum qd_align align);
QD_CHECK enum qd_status qd_fit_slots(struct qd_fitted *fitted, const struct qd_adapter *adapter, const struct qd_slots *slots,
	const struct qd_slot_encodings *encodings, enum qd_align align);
QD_CHECK enum qd_status qd_slots_update_sqnr(const struct qd_adapter *adapter, const struct qd_fitted *fitted,
	const struct qd_slots *slots, const struct qd_slot_encodings *encodings, double *db);

/* ---- scoring (qss.c) ---- */
/* As qd_profile_score, with the scores of another profile over the same samples, which has all these adapters; NULL: runs. */
QD_CHECK enum qd_status qd_profile_score_as(struct qd_profile *profile, const struct qd_profile *scored,
	const struct qd_model *model, const struct qd_adapter *const *adapters, size_t n, const struct qd_dataset *calibration,
	const struct qd_quant_options *options);

/* ---- choice (choice.c) ---- */
/* The index of options.anchor, which is not NULL, among profile->adapters. QD_EINPUT when it is none. */
QD_CHECK enum qd_status qd_anchor_asked_for(const struct qd_profile *profile, size_t *index);
/* From profile->adapters and options: sets method, anchor and reason; the anchor's index, or n_adapters for unified encodings.
 * QD_EINPUT names an anchor that is none of the adapters. */
QD_CHECK enum qd_status qd_choose(struct qd_profile *profile, size_t *anchor);

/* ---- the profile (profile.c) ---- */
QD_CHECK enum qd_status qd_profile_add(
	struct qd_profile *profile, enum qd_entry_kind kind, const char *name, const struct qd_encoding *encoding);
/* Makes entry i findable, by its name and as its slot's; slots come before entries. QD_EINPUT when it is the second of its name. */
QD_CHECK enum qd_status qd_profile_entry_added(void *profile, size_t i);
/* QD_EINPUT names a slot's tensor that has no encoding of one scale. */
QD_CHECK enum qd_status qd_profile_check_slots(const struct qd_profile *profile);

/* ---- weights (weights.c) ---- */
/* encodings [n_values]: those of the weights among `kinds`, per output channel (Conv, Gemm) or per tensor. */
QD_CHECK enum qd_status qd_weight_encodings(struct qd_arena *arena, const struct qd_graph *g, const enum qd_entry_kind *kinds,
	const struct qd_quant_options *options, const struct qd_encoding **encodings);

/* ---- running over the calibration data (calibrate.c) ---- */
/* Samples per run: a divisor of the number of samples. QD_EINPUT when options->batch does not divide it. */
QD_CHECK enum qd_status qd_data_batch(const struct qd_dataset *data, const struct qd_quant_options *options, int64_t *batch);
/* One observer per activation: the context of qd_observe. */
struct qd_observers {
	const enum qd_entry_kind *kinds; /* [n], borrowed */
	struct qd_observer *of;          /* [n] */
	size_t n;
	bool *seen; /* [n]: which are observed */
};
QD_CHECK enum qd_status qd_observers_new(
	struct qd_observers *observers, const enum qd_entry_kind *kinds, size_t n, const struct qd_quant_options *options);
/* Forgets what was seen. */
void qd_observers_reset(struct qd_observers *observers);
void qd_observers_release(struct qd_observers *observers);
/* A qd_engine_see. */
enum qd_status qd_observe(void *context, qd_id value, size_t n, const float *x);
/* encodings [n_values]: those of the activations from what was observed. */
QD_CHECK enum qd_status qd_activation_encodings(
	struct qd_arena *arena, const struct qd_observers *observers, int bits, const struct qd_encoding **encodings);
/* Runs all samples in batches. `out` f32 [n, elements of one sample's output] receives the graph's output, QD_EINPUT when that is
 * not finite; NULL drops it. */
QD_CHECK enum qd_status qd_run_samples(
	struct qd_runner *runner, const struct qd_net *net, const struct qd_dataset *data, const char *note, float *out);

#endif
