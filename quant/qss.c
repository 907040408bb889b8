/*
 * The Quantization Sensitivity Score (equation 8 of the QUAD paper) of adapter i:
 *
 *   QSS_i = mean over samples x of D( f(x; w_i) || f(x; ~w_i) )
 *
 * f is the network's output with the adapter, flattened per sample; ~w its LoRA tensors rounded to their own min-max encodings,
 * unaligned, as the file holds them (scope adapter), or with everything else rounded too under ranges of this adapter alone (scope
 * model). float32 networks, double statistics. From scores and tensors follow the shared encodings and what they cost each adapter.
 */
#include "lib/math/math.h"
#include "quant/internal.h"

#include <stdlib.h>
#include <string.h>

struct scoring {
	struct qd_profile *profile;
	const struct qd_model *model;
	const struct qd_adapter *const *adapters;
	size_t n;
	const struct qd_dataset *data;
	struct qd_net net;
	struct qd_runner runner;
	enum qd_entry_kind *kinds;
	struct qd_observers observers;
	struct qd_arena arena;
	struct qd_slot_encodings **own;          /* [n][slots] */
	const struct qd_encoding **weights;      /* [n_values]: scope model */
	const struct qd_encoding ***activations; /* [n][n_values]: scope model */
	size_t outputs;                          /* floats of one sample's output */
	float **y, *rounded;                     /* float outputs per adapter [samples, outputs]; rounded ones of one adapter */
};

/* ---- what it stands on ---- */

static enum qd_status choose_slots(struct scoring *s, const struct qd_sizes *sizes)
{
	const struct qd_quant_options *o = &s->profile->options;
	struct qd_graph shape = { 0 };
	struct qd_modules modules = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_model_graph(&shape, s->model, sizes));
	QD_TRY(st, qd_modules_of(&modules, &shape));
	QD_TRY(st, qd_slots_choose(&s->profile->slots, &modules, s->adapters, s->n, o->slots, o->rank));
out:
	qd_modules_release(&modules);
	qd_graph_release(&shape);
	return st;
}

static enum qd_status allocate_scoring(struct scoring *s)
{
	size_t values = s->net.graph.n_values + 1, samples = (size_t)s->data->n;

	s->outputs = (size_t)(qd_shape_elements(&s->net.graph.values[s->net.graph.outputs[0]].shape) / s->net.sizes.batch);
	s->kinds = qd_arena_array(&s->arena, values, sizeof(*s->kinds));
	s->own = qd_arena_array(&s->arena, s->n, sizeof(*s->own));
	s->weights = qd_arena_array(&s->arena, values, sizeof(*s->weights));
	s->activations = qd_arena_array(&s->arena, s->n, sizeof(*s->activations));
	s->y = qd_arena_array(&s->arena, s->n, sizeof(*s->y));
	s->rounded = qd_arena_array(&s->arena, samples * s->outputs, sizeof(float));
	if (s->kinds == NULL || s->own == NULL || s->weights == NULL || s->activations == NULL || s->y == NULL ||
		s->rounded == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < s->n; i++) {
		s->own[i] = qd_arena_array(&s->arena, s->net.slots.n, sizeof(**s->own));
		s->activations[i] = qd_arena_array(&s->arena, values, sizeof(**s->activations));
		s->y[i] = qd_arena_array(&s->arena, samples * s->outputs, sizeof(float));
		if (s->own[i] == NULL || s->activations[i] == NULL || s->y[i] == NULL)
			return QD_ENOMEM;
	}
	return QD_OK;
}

static enum qd_status check_request(const struct scoring *s)
{
	const struct qd_quant_options *o = &s->profile->options;

	if (s->n == 0)
		return qd_fail(QD_EINPUT, "there are no adapters, needs at least one");
	for (size_t i = 0; i < s->n; i++)
		for (size_t j = 0; j < i; j++)
			if (strcmp(s->adapters[i]->name, s->adapters[j]->name) == 0)
				return qd_fail(QD_EINPUT, "two adapters are called '%s': NAME=PATH gives one another name",
					s->adapters[i]->name);
	if (o->anchor != NULL && o->method == QD_METHOD_UNIFIED)
		return qd_fail(QD_EINPUT, "anchor '%s' and the method 'unified' exclude each other", o->anchor);
	if (o->share == QD_SHARE_LAYER && o->lora_bits != o->weight_bits)
		return qd_fail(QD_EINPUT, "a layer's one encoding cannot have %d bits for its weight and %d for its LoRA tensors",
			o->weight_bits, o->lora_bits);
	return QD_OK;
}

static enum qd_status prepare_scoring(struct scoring *s)
{
	struct qd_sizes sizes;
	int64_t batch;
	enum qd_status st;

	QD_TRY(st, qd_data_batch(s->data, &s->profile->options, &batch));
	sizes = qd_dataset_sizes(s->data, batch);
	QD_TRY(st, choose_slots(s, &sizes));
	QD_TRY(st, qd_net_build(&s->net, s->model, &sizes, &s->profile->slots));
	QD_TRY(st, allocate_scoring(s));
	QD_TRY(st, qd_assign(&s->net.graph, s->kinds));
	for (size_t i = 0; i < s->n; i++)
		QD_TRY(st, qd_own_encodings(&s->arena, &s->net.slots, s->adapters[i], s->profile->options.lora_bits, s->own[i]));
out:
	return st;
}

/* ---- running ---- */

/* Hangs an adapter's own encodings on the net (those of scope model too, where there are any), or takes all down with `i` = n. */
static void hang_encodings(struct scoring *s, size_t i)
{
	struct qd_graph *g = &s->net.graph;

	for (size_t v = 0; v < g->n_values; v++)
		g->values[v].encoding = i == s->n ? NULL : s->weights[v] != NULL ? s->weights[v] : s->activations[i][v];
	for (size_t k = 0; k < s->net.slots.n && i < s->n; k++) {
		g->values[s->net.slots.items[k].down].encoding = s->own[i][k].down;
		g->values[s->net.slots.items[k].up].encoding = s->own[i][k].up;
	}
}

static enum qd_status run_adapter(struct scoring *s, size_t i, bool rounded)
{
	enum qd_status st;

	hang_encodings(s, rounded ? i : s->n);
	QD_TRY(st, qd_runner_feed_adapter(&s->runner, &s->net.slots, s->adapters[i]));
	st = qd_run_samples(&s->runner, &s->net, s->data, s->adapters[i]->name, rounded ? s->rounded : s->y[i]);
out:
	return qd_prefix(st, "adapter '%s'", s->adapters[i]->name);
}

static enum qd_status score_adapter(struct scoring *s, size_t i)
{
	struct qd_adapter_score *a = &s->profile->adapters[i];
	enum qd_status st = run_adapter(s, i, true);

	if (st != QD_OK)
		return st;
	for (size_t x = 0; x < a->n_samples; x++)
		a->per_sample[x] = qd_divergence(
			s->profile->options.divergence, s->outputs, s->y[i] + x * s->outputs, s->rounded + x * s->outputs);
	a->qss = qd_mean(a->per_sample, a->n_samples);
	a->standard_error = qd_standard_error(a->per_sample, a->n_samples);
	a->output_sqnr_db = qd_sqnr_db(s->y[i], s->rounded, a->n_samples * s->outputs);
	return QD_OK;
}

/* Only LoRA tensors are rounded, and their encodings count when they are fed: one runner does both. */
static enum qd_status score_adapters(struct scoring *s)
{
	const struct qd_run_options options = { .engine.simulate = true };
	enum qd_status st;

	QD_TRY(st, qd_runner_open(&s->runner, &s->net.graph, &options));
	for (size_t i = 0; i < s->n; i++) {
		QD_TRY(st, run_adapter(s, i, false));
		QD_TRY(st, score_adapter(s, i));
	}
out:
	return st;
}

/* Float outputs and each adapter's activation ranges. */
static enum qd_status observe_float(struct scoring *s)
{
	const struct qd_quant_options *o = &s->profile->options;
	struct qd_run_options options = { .engine = { .simulate = true, .see = qd_observe, .context = &s->observers } };
	enum qd_status st;

	QD_TRY(st, qd_observers_new(&s->observers, s->kinds, s->net.graph.n_values, o));
	options.engine.seen = s->observers.seen;
	QD_TRY(st, qd_runner_open(&s->runner, &s->net.graph, &options));
	for (size_t i = 0; i < s->n; i++) {
		qd_observers_reset(&s->observers);
		QD_TRY(st, run_adapter(s, i, false));
		if (o->act_bits > 0)
			QD_TRY(st, qd_activation_encodings(&s->arena, &s->observers, o->act_bits, s->activations[i]));
	}
out:
	qd_runner_release(&s->runner);
	return st;
}

/* Everything is rounded, each adapter's run to encodings of its own. */
static enum qd_status score_models(struct scoring *s)
{
	const struct qd_run_options simulated = { .engine.simulate = true };
	enum qd_status st;

	QD_TRY(st, observe_float(s));
	QD_TRY(st, qd_weight_encodings(&s->arena, &s->net.graph, s->kinds, &s->profile->options, s->weights));
	for (size_t i = 0; i < s->n; i++) {
		hang_encodings(s, i);
		QD_TRY(st, qd_runner_open(&s->runner, &s->net.graph, &simulated));
		QD_TRY(st, score_adapter(s, i));
		qd_runner_release(&s->runner);
	}
out:
	return st;
}

/* The scores of a profile over the same samples, by name. */
static enum qd_status take_scores(struct scoring *s, const struct qd_profile *scored)
{
	struct qd_profile *p = s->profile;

	for (size_t i = 0; i < p->n_adapters; i++)
		for (size_t k = 0; k < scored->n_adapters; k++) {
			const struct qd_adapter_score *a = &scored->adapters[k];

			if (strcmp(a->name, p->adapters[i].name) != 0)
				continue;
			p->adapters[i].qss = a->qss;
			p->adapters[i].standard_error = a->standard_error;
			p->adapters[i].output_sqnr_db = a->output_sqnr_db;
			memcpy(p->adapters[i].per_sample, a->per_sample, a->n_samples * sizeof(*a->per_sample));
		}
	return QD_OK;
}

/* ---- the rows of the table ---- */

static enum qd_status start_rows(struct scoring *s)
{
	struct qd_profile *p = s->profile;

	p->n_adapters = s->n;
	p->adapters = qd_arena_array(&p->arena, s->n, sizeof(*p->adapters));
	if (p->adapters == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < s->n; i++) {
		const struct qd_adapter *adapter = s->adapters[i];
		struct qd_adapter_score *a = &p->adapters[i];

		a->name = qd_arena_strdup(&p->arena, adapter->name);
		a->n_samples = (size_t)s->data->n;
		a->per_sample = qd_arena_array(&p->arena, a->n_samples, sizeof(*a->per_sample));
		if (a->name == NULL || a->per_sample == NULL)
			return QD_ENOMEM;
		memcpy(a->hash, adapter->hash, sizeof(a->hash));
		a->n_slots = adapter->n;
		a->idle = true;
		for (size_t k = 0; a->idle && k < adapter->n; k++)
			a->idle = !(qd_lora_bound(&adapter->loras[k]) > 0);
		if (a->idle)
			qd_log(QD_LOG_WARNING,
				"adapter '%s' changes nothing (strength 0, or all of it is zero): it is never the anchor", a->name);
		for (size_t k = 0; k < adapter->n; k++)
			a->rank = adapter->loras[k].rank > a->rank ? adapter->loras[k].rank : a->rank;
	}
	return QD_OK;
}

/* Update SQNR of adapter i fitted to some encodings. */
static enum qd_status measure_update(
	struct scoring *s, size_t i, const struct qd_slot_encodings *encodings, enum qd_align align, double *db)
{
	struct qd_fitted fitted = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_fit_slots(&fitted, s->adapters[i], &s->net.slots, encodings, align));
	QD_TRY(st, qd_slots_update_sqnr(s->adapters[i], &fitted, &s->net.slots, encodings, db));
out:
	qd_fitted_release(&fitted);
	return st;
}

static enum qd_status measure_all(struct scoring *s, const struct qd_slot_encodings *shared)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < s->n; i++) {
		struct qd_adapter_score *a = &s->profile->adapters[i];

		QD_TRY(st, measure_update(s, i, s->own[i], QD_ALIGN_NONE, &a->update_own_db));
		QD_TRY(st, measure_update(s, i, shared, QD_ALIGN_NONE, &a->update_shared_db));
		QD_TRY(st, measure_update(s, i, shared, s->profile->options.align, &a->update_aligned_db));
	}
out:
	return st;
}

/* The shared encodings become entries; those of whole layers are the base weights' too. */
static enum qd_status add_shared(struct scoring *s, const struct qd_slot_encodings *shared)
{
	struct qd_profile *p = s->profile;
	const struct qd_value *values = s->net.graph.values;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < p->slots.n; i++) {
		const struct qd_slot *slot = &s->net.slots.items[i];

		QD_TRY(st, qd_profile_add(p, QD_ENTRY_LORA, values[slot->down].name, shared[i].down));
		QD_TRY(st, qd_profile_add(p, QD_ENTRY_LORA, values[slot->up].name, shared[i].up));
		if (p->options.share == QD_SHARE_LAYER)
			QD_TRY(st, qd_profile_add(p, QD_ENTRY_WEIGHT, values[slot->weight].name, shared[i].down));
	}
out:
	return st;
}

static enum qd_status share_encodings(struct scoring *s)
{
	struct qd_profile *p = s->profile;
	struct qd_slot_encodings *shared = qd_arena_array(&p->arena, p->slots.n, sizeof(*shared));
	size_t anchor;
	enum qd_status st;

	if (shared == NULL)
		return QD_ENOMEM;
	QD_TRY(st, qd_choose(p, &anchor));
	QD_TRY(st, qd_shared_encodings(&p->arena, &p->slots, s->adapters, s->n, anchor, &p->options, &s->model->weights, shared));
	QD_TRY(st, measure_all(s, shared));
	QD_TRY(st, add_shared(s, shared));
out:
	return st;
}

enum qd_status qd_profile_score_as(struct qd_profile *profile, const struct qd_profile *scored, const struct qd_model *model,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_dataset *calibration,
	const struct qd_quant_options *options)
{
#define ROW(id, name, score) [QD_##id] = score,
	static enum qd_status (*const scopes[])(struct scoring * s) = { QD_SCOPE_LIST(ROW) };
#undef ROW
	struct scoring s = { .profile = profile, .model = model, .adapters = adapters, .n = n, .data = calibration };
	size_t anchor;
	enum qd_status st;

	QD_TRY(st, qd_quant_options_copy(&profile->arena, options, &profile->options));
	QD_TRY(st, check_request(&s));
	QD_TRY(st, start_rows(&s));
	if (options->anchor != NULL)
		QD_TRY(st, qd_anchor_asked_for(profile, &anchor));
	QD_TRY(st, prepare_scoring(&s));
	QD_TRY(st, scored != NULL ? take_scores(&s, scored) : scopes[options->scope](&s));
	QD_TRY(st, share_encodings(&s));
out:
	qd_runner_release(&s.runner);
	qd_observers_release(&s.observers);
	qd_net_release(&s.net);
	qd_arena_release(&s.arena);
	if (st != QD_OK)
		qd_profile_release(profile);
	return st;
}

enum qd_status qd_profile_score(struct qd_profile *profile, const struct qd_model *model, const struct qd_adapter *const *adapters,
	size_t n, const struct qd_dataset *calibration, const struct qd_quant_options *options)
{
	return qd_profile_score_as(profile, NULL, model, adapters, n, calibration, options);
}
